//! The rows of agent tokens.

use super::{Arriving, Hashed, Token, TokenHash};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, SessionName, SiteId, TaskName, TokenId, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct TokenRow {
        id: String,
        agent: String,
        prefix: String,
        label: String,
        person: Option<String>,
        session_name: Option<String>,
        task_name: Option<String>,
        ceiling: Option<String>,
        created_at: i64,
        expires_at: Option<i64>,
        last_used_at: Option<i64>,
        revoked_at: Option<i64>,
    }
}

impl TryFrom<TokenRow> for Token {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            prefix: row.prefix,
            label: row.label,
            person: row.person.map(|person| person.parse()).transpose()?,
            session: row.session_name.map(|name| name.parse()).transpose()?,
            task: row.task_name.map(|name| name.parse()).transpose()?,
            // For display only; the decision reads the row itself and denies what it cannot read.
            ceiling: row.ceiling.and_then(|text| serde_json::from_str(&text).ok()),
            created_at: Timestamp(row.created_at),
            expires_at: row.expires_at.map(Timestamp),
            last_used_at: row.last_used_at.map(Timestamp),
            revoked_at: row.revoked_at.map(Timestamp),
        })
    }
}

pub(super) async fn insert(
    tx: &mut Tx,
    site: &SiteId,
    token: &Token,
    hash: &TokenHash,
    minter: Option<&UserId>,
    actor: &Actor,
) -> Result<()> {
    let ceiling = token.ceiling.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    on!(tx, |c| {
        sqlx::query(
        "INSERT INTO agent_tokens (site, id, agent, token_hash, prefix, label, person, minter, ceiling, created_by, created_at,
                                   expires_at, session_name, task_name)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
    )
    .bind(site.as_str())
    .bind(token.id.as_str())
    .bind(token.agent.as_str())
    .bind(hash.as_str())
    .bind(&token.prefix)
    .bind(&token.label)
    .bind(token.person.as_ref().map(UserId::as_str))
    .bind(minter.map(UserId::as_str))
    .bind(&ceiling)
    .bind(actor.to_string())
    .bind(token.created_at.0)
    .bind(token.expires_at.map(|t| t.0))
    .bind(token.session.as_ref().map(SessionName::as_str))
    .bind(token.task.as_ref().map(TaskName::as_str))
    .execute(c)
    .await
    .map(|_| ())?
    });
    Ok(())
}

/// Inserts a token whose hash is free. False where it is not.
pub(super) async fn insert_free(tx: &mut Tx, site: &SiteId, token: &Arriving, actor: &Actor) -> Result<bool> {
    let inserted = on!(tx, |c| {
        sqlx::query(
            "INSERT INTO agent_tokens (site, id, agent, token_hash, prefix, label, person, ceiling, created_by, created_at, expires_at,
                                       last_used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (token_hash) DO NOTHING",
        )
        .bind(site.as_str())
        .bind(token.id.as_str())
        .bind(token.agent.as_str())
        .bind(token.hash.as_str())
        .bind(&token.prefix)
        .bind(&token.label)
        .bind(token.person.as_str())
        .bind(token.ceiling.as_ref().map(ToString::to_string))
        .bind(actor.to_string())
        .bind(token.created_at.0)
        .bind(token.expires_at.map(|at| at.0))
        .bind(token.last_used_at.map(|at| at.0))
        .execute(c)
        .await?
        .rows_affected()
    });
    Ok(inserted == 1)
}

/// Writes a token over the live one with the same hash. False where there is none in this site: revoked is for good.
pub(super) async fn update(tx: &mut Tx, site: &SiteId, token: &Arriving) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET agent = $3, label = $4, person = $5, ceiling = $6, expires_at = $7
         WHERE site = $1 AND token_hash = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(token.hash.as_str())
    .bind(token.agent.as_str())
    .bind(&token.label)
    .bind(token.person.as_str())
    .bind(token.ceiling.as_ref().map(ToString::to_string))
    .bind(token.expires_at.map(|at| at.0))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn of_agent(db: &Db, site: &SiteId, agent: &AgentId) -> Result<Vec<Token>> {
    let rows: Vec<TokenRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, prefix, label, person, session_name, task_name, ceiling, created_at, expires_at, last_used_at,
                revoked_at
         FROM agent_tokens WHERE site = $1 AND agent = $2 ORDER BY created_at DESC, id DESC"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Token::try_from).collect()
}

/// A page of [`of_agent`], after the token with id `after`.
pub(super) async fn page(db: &Db, site: &SiteId, agent: &AgentId, after: Option<&TokenId>, limit: u32) -> Result<Vec<Token>> {
    let rows: Vec<TokenRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, prefix, label, person, session_name, task_name, ceiling, created_at, expires_at, last_used_at,
                revoked_at
         FROM agent_tokens
         WHERE site = $1 AND agent = $2
           AND ($3 = '' OR (created_at, id) < (SELECT b.created_at, b.id FROM agent_tokens b WHERE b.site = $1 AND b.id = $3))
         ORDER BY created_at DESC, id DESC LIMIT $4"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(after.map_or("", TokenId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Token::try_from).collect()
}

pub(super) async fn agent_of(tx: &mut Tx, site: &SiteId, id: &TokenId) -> Result<Option<AgentId>> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as("SELECT agent FROM agent_tokens WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    row.map(|(agent,)| agent.parse()).transpose()
}

/// The same outside a transaction.
pub(super) async fn agent_of_now(db: &Db, site: &SiteId, id: &TokenId) -> Result<Option<AgentId>> {
    let row: Option<(String,)> = on!(db, |c| sqlx::query_as("SELECT agent FROM agent_tokens WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    row.map(|(agent,)| agent.parse()).transpose()
}

pub(super) async fn revoke(
    tx: &mut Tx,
    site: &SiteId,
    id: &TokenId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND id = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn revoke_all(
    tx: &mut Tx,
    site: &SiteId,
    agent: &AgentId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND agent = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected()))
}

pub(super) async fn revoke_of_person(
    tx: &mut Tx,
    site: &SiteId,
    user: &UserId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND (person = $2 OR minter = $2) AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected()))
}

pub(super) async fn touch(tx: &mut Tx, site: &SiteId, id: &TokenId, at: Timestamp) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET last_used_at = $3 WHERE site = $1 AND id = $2 AND (last_used_at IS NULL OR last_used_at < $3)"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

row! {
    struct HashedRow {
        token_hash: String,
        minter: Option<String>,
        ceiling: Option<String>,
    }
}

/// A token's row with its hash and its minter.
struct Both(TokenRow, HashedRow);

impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for Both
where
    TokenRow: sqlx::FromRow<'r, R>,
    HashedRow: sqlx::FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> std::result::Result<Self, sqlx::Error> {
        Ok(Self(TokenRow::from_row(row)?, HashedRow::from_row(row)?))
    }
}

pub(super) async fn hashed(db: &Db, site: &SiteId, agent: &AgentId) -> Result<Vec<Hashed>> {
    let rows: Vec<Both> = on!(db, |c| {
        sqlx::query_as(
            "SELECT id, agent, prefix, label, person, session_name, task_name, ceiling, created_at, expires_at, last_used_at,
                revoked_at, token_hash, minter
         FROM agent_tokens WHERE site = $1 AND agent = $2 AND client IS NULL ORDER BY created_at, id",
        )
        .bind(site.as_str())
        .bind(agent.as_str())
        .fetch_all(c)
        .await?
    });
    rows.into_iter()
        .map(|Both(token, hashed)| {
            let hash =
                TokenHash::stored(&hashed.token_hash).ok_or_else(|| Error::internal("a stored token hash cannot be read"))?;
            let minter = hashed.minter.map(|minter| minter.parse()).transpose()?;
            Ok(Hashed { token: token.try_into()?, hash, minter, ceiling: hashed.ceiling })
        })
        .collect()
}
