//! Tokens that the authorization server issues: short-lived, each of a consent or exchanged for another token.

use serde_json::json;

use super::{Audience, PREFIX, TokenHash};
use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, ClientId, FamilyId, SessionName, SiteId, TaskName, TokenId, UserId, sha256_hex},
    on,
    principal::{Actor, Ceiling},
    row,
    secret::Secret,
};

/// What an issued token is made of.
#[derive(Debug)]
pub struct Issue<'a> {
    /// Its text.
    pub text: &'a Secret,
    /// The agent that will hold it.
    pub agent: &'a AgentId,
    /// The person it acts for; absent means unattended.
    pub person: Option<&'a UserId>,
    /// Whose live role on the agent it needs, besides.
    pub minter: Option<&'a UserId>,
    /// The client that it is issued to.
    pub client: &'a ClientId,
    /// The consent that it comes of.
    pub family: Option<&'a FamilyId>,
    /// The token that it is exchanged for.
    pub parent: Option<&'a TokenId>,
    /// The session it is for: what is granted for that session is granted to it.
    pub session: Option<&'a SessionName>,
    /// The task it is for.
    pub task: Option<&'a TaskName>,
    /// What it is called in lists.
    pub label: &'a str,
    /// The most it may do.
    pub ceiling: &'a Ceiling,
    /// Where it is taken.
    pub audience: Audience,
    /// Until when.
    pub expires_at: Timestamp,
}

/// Issues a token in the caller's transaction, which holds what it comes of ([`super::family::hold`], [`hold`]). Its hash is returned
/// with its id.
pub async fn issue(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, new: Issue<'_>) -> Result<(TokenId, TokenHash)> {
    let id = TokenId::new();
    let hash = TokenHash(sha256_hex(new.text.expose().as_bytes())).at(new.audience);
    let ceiling = serde_json::to_string(new.ceiling).map_err(Error::internal)?;
    on!(&mut *tx, |c| {
        sqlx::query(
            "INSERT INTO agent_tokens (site, id, agent, token_hash, prefix, label, person, minter, ceiling, created_by, created_at,
                                       expires_at, client, family, parent, audience, session_name, task_name)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        )
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(new.agent.as_str())
        .bind(hash.as_str())
        .bind(&new.text.expose()[..PREFIX.len() + 6])
        .bind(new.label)
        .bind(new.person.map(UserId::as_str))
        .bind(new.minter.map(UserId::as_str))
        .bind(&ceiling)
        .bind(actor.to_string())
        .bind(base.clock.now().0)
        .bind(new.expires_at.0)
        .bind(new.client.as_str())
        .bind(new.family.map(FamilyId::as_str))
        .bind(new.parent.map(TokenId::as_str))
        .bind(new.audience.as_str())
        .bind(new.session.map(SessionName::as_str))
        .bind(new.task.map(TaskName::as_str))
        .execute(c)
        .await
        .map(|_| ())?
    });
    let facts = json!({
        "token": id, "client": new.client, "family": new.family, "parent": new.parent, "person": new.person,
        "session": new.session, "task": new.task, "audience": new.audience, "expires_at": new.expires_at,
    });
    base.audit.record(tx, Event::new(site, actor, "token.issue").agent(new.agent).facts(facts)).await?;
    Ok((id, hash))
}

/// Holds a live token until the transaction ends: nobody ends it meanwhile. False where it is over. What is exchanged for a
/// token is issued under this, as what comes of a consent is under [`super::family::hold`].
pub async fn hold(tx: &mut Tx, site: &SiteId, id: &TokenId, now: Timestamp) -> Result<bool> {
    let held = on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET last_used_at = $3
         WHERE site = $1 AND id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(held == 1)
}

row! {
    struct StandingRow {
        id: String,
        ceiling: Option<String>,
        expires_at: Option<i64>,
        revoked_at: Option<i64>,
    }
}

/// How an issued token stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its id.
    pub id: TokenId,
    /// The most it may do.
    pub ceiling: Ceiling,
    /// Until when.
    pub expires_at: Timestamp,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// How the token with a hash stands; nothing where there is none, or none that was issued.
pub async fn standing(db: &Db, hash: &TokenHash) -> Result<Option<Standing>> {
    let row: Option<StandingRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, ceiling, expires_at, revoked_at FROM agent_tokens WHERE token_hash = $1 AND client IS NOT NULL"
    )
    .bind(hash.as_str())
    .fetch_optional(c)
    .await?);
    let Some(row) = row else { return Ok(None) };
    let odd = || Error::internal("an issued token without a ceiling or an end");
    Ok(Some(Standing {
        id: row.id.parse()?,
        ceiling: serde_json::from_str(&row.ceiling.ok_or_else(odd)?).map_err(Error::internal)?,
        expires_at: Timestamp(row.expires_at.ok_or_else(odd)?),
        revoked: row.revoked_at.is_some(),
    }))
}

/// How many exchanges a token is away from one that was not exchanged; at most one more than `most`.
pub async fn depth(db: &Db, site: &SiteId, id: &TokenId, most: u32) -> Result<u32> {
    let (depth,): (i64,) = on!(db, |c| sqlx::query_as(
        "WITH RECURSIVE up (parent, depth) AS (
             SELECT t.parent, CAST(0 AS BIGINT) FROM agent_tokens t WHERE t.site = $1 AND t.id = $2
             UNION ALL
             SELECT t.parent, up.depth + 1 FROM up JOIN agent_tokens t ON t.site = $1 AND t.id = up.parent
             WHERE up.depth <= $3
         )
         SELECT COALESCE(MAX(depth), 0) FROM up"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(i64::from(most))
    .fetch_one(c)
    .await?);
    u32::try_from(depth).map_err(Error::internal)
}

/// Revokes whatever was exchanged for a token that is revoked, and for that in turn, until nothing is left. Says how many lived.
///
/// The ended tokens are written before: whoever exchanges holds the token first ([`hold`]), so each turn of the loop sees what
/// was issued before the turn that ended its parent.
pub(super) async fn revoke_exchanged(tx: &mut Tx, site: &SiteId, actor: &Actor, reason: &str, now: Timestamp) -> Result<u64> {
    let mut all = 0;
    loop {
        let ended = on!(&mut *tx, |c| sqlx::query(
            "UPDATE agent_tokens SET revoked_at = $2, revoked_by = $3, revoke_reason = $4
             WHERE site = $1 AND revoked_at IS NULL AND parent IS NOT NULL
               AND EXISTS (SELECT 1 FROM agent_tokens p
                           WHERE p.site = agent_tokens.site AND p.id = agent_tokens.parent AND p.revoked_at IS NOT NULL)"
        )
        .bind(site.as_str())
        .bind(now.0)
        .bind(actor.to_string())
        .bind(reason)
        .execute(c)
        .await?
        .rows_affected());
        if ended == 0 {
            return Ok(all);
        }
        all += ended;
    }
}

/// Counts, in the caller's transaction, that so many tokens of a site were revoked; nothing where none was. It is the last
/// statement of that transaction: whoever revokes beside it waits for its end, and so it must wait for nobody itself.
pub async fn count_revocations(tx: &mut Tx, site: &SiteId, ended: u64) -> Result<()> {
    if ended == 0 {
        return Ok(());
    }
    on!(tx, |c| sqlx::query(
        "INSERT INTO token_revocations (site, epoch) VALUES ($1, 1)
         ON CONFLICT (site) DO UPDATE SET epoch = token_revocations.epoch + 1"
    )
    .bind(site.as_str())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// A number that grows with every revocation of a token of the site, whatever the clocks say; zero where there was none.
pub async fn revocation_epoch(db: &Db, site: &SiteId) -> Result<i64> {
    let row: Option<(i64,)> = on!(db, |c| sqlx::query_as("SELECT epoch FROM token_revocations WHERE site = $1")
        .bind(site.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.map_or(0, |(epoch,)| epoch))
}

/// Removes issued tokens that ended before a moment: each of them lives for minutes, and the audit keeps what they were.
pub async fn sweep(tx: &mut Tx, before: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM agent_tokens WHERE client IS NOT NULL AND expires_at < $1")
        .bind(before.0)
        .execute(c)
        .await?
        .rows_affected()))
}
