//! Consents: what a person let a client have for an agent. All tokens that come of one consent are a family, and end with it.
//!
//! Whoever issues a token of a family first writes the family's row ([`hold`]), and so does whoever ends it. So the two take
//! turns, on both databases: no token is issued beside an end that was answered already.

use serde::Serialize;
use serde_json::json;

use super::{Audience, issue};
use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AgentId, ClientId, FamilyId, SiteId, TokenId, UserId},
    on,
    principal::{Actor, Ceiling},
    row,
};

/// A consent.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    /// Its id, which stands in introspection as `grant_id`.
    pub id: FamilyId,
    /// The agent that acts.
    pub agent: AgentId,
    /// The person who consented, and for whom the agent acts.
    pub person: UserId,
    /// The client that was let in.
    pub client: ClientId,
    /// The most that any token of it may do, besides what is granted.
    pub ceiling: Ceiling,
    /// Where its tokens are taken.
    pub audience: Audience,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when, however often it is used.
    pub expires_at: Timestamp,
    /// When a token of it was last issued.
    pub used_at: Option<Timestamp>,
    /// Since when it is over.
    pub revoked_at: Option<Timestamp>,
}

impl Family {
    /// Whether tokens may still come of it.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }
}

/// What a consent is made of.
#[derive(Clone, Debug)]
pub struct NewFamily {
    /// The agent that will act.
    pub agent: AgentId,
    /// The person who consents.
    pub person: UserId,
    /// The client that is let in.
    pub client: ClientId,
    /// The most that it may do.
    pub ceiling: Ceiling,
    /// Where its tokens are taken.
    pub audience: Audience,
    /// Until when.
    pub expires_at: Timestamp,
}

row! {
    struct FamilyRow {
        id: String,
        agent: String,
        person: String,
        client: String,
        ceiling: String,
        audience: String,
        created_at: i64,
        expires_at: i64,
        used_at: Option<i64>,
        revoked_at: Option<i64>,
    }
}

impl TryFrom<FamilyRow> for Family {
    type Error = Error;

    fn try_from(row: FamilyRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            person: row.person.parse()?,
            client: row.client.parse()?,
            // One that cannot be read is an error, and so issues nothing.
            ceiling: serde_json::from_str(&row.ceiling).map_err(Error::internal)?,
            audience: row.audience.parse()?,
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            used_at: row.used_at.map(Timestamp),
            revoked_at: row.revoked_at.map(Timestamp),
        })
    }
}

/// Records a consent in the caller's transaction.
pub async fn open(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, new: NewFamily) -> Result<Family> {
    let family = Family {
        id: FamilyId::new(),
        agent: new.agent,
        person: new.person,
        client: new.client,
        ceiling: new.ceiling,
        audience: new.audience,
        created_at: base.clock.now(),
        expires_at: new.expires_at,
        used_at: None,
        revoked_at: None,
    };
    let ceiling = serde_json::to_string(&family.ceiling).map_err(Error::internal)?;
    on!(&mut *tx, |c| sqlx::query(
        "INSERT INTO token_families (site, id, agent, person, client, ceiling, audience, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    )
    .bind(site.as_str())
    .bind(family.id.as_str())
    .bind(family.agent.as_str())
    .bind(family.person.as_str())
    .bind(family.client.as_str())
    .bind(&ceiling)
    .bind(family.audience.as_str())
    .bind(actor.to_string())
    .bind(family.created_at.0)
    .bind(family.expires_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    let facts = json!({
        "family": family.id, "client": family.client, "person": family.person, "ceiling": family.ceiling,
        "audience": family.audience, "expires_at": family.expires_at,
    });
    base.audit.record(tx, Event::new(site, actor, "consent.give").agent(&family.agent).facts(facts)).await?;
    Ok(family)
}

/// One consent, if there is one by that id.
pub async fn get(db: &Db, site: &SiteId, id: &FamilyId) -> Result<Option<Family>> {
    let row: Option<FamilyRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, person, client, ceiling, audience, created_at, expires_at, used_at, revoked_at
         FROM token_families WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Family::try_from).transpose()
}

/// Which consents.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of this person.
    pub person: Option<UserId>,
    /// Only those for this agent.
    pub agent: Option<AgentId>,
    /// Only those of this client.
    pub client: Option<ClientId>,
}

/// The consents that are not over, the newest first; at most a thousand.
pub async fn list(db: &Db, site: &SiteId, filter: &Filter, now: Timestamp) -> Result<Vec<Family>> {
    let rows: Vec<FamilyRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, person, client, ceiling, audience, created_at, expires_at, used_at, revoked_at
         FROM token_families
         WHERE site = $1 AND revoked_at IS NULL AND expires_at > $2
           AND ($3 = '' OR person = $3) AND ($4 = '' OR agent = $4) AND ($5 = '' OR client = $5)
         ORDER BY created_at DESC, id DESC LIMIT 1000"
    )
    .bind(site.as_str())
    .bind(now.0)
    .bind(filter.person.as_ref().map_or("", UserId::as_str))
    .bind(filter.agent.as_ref().map_or("", AgentId::as_str))
    .bind(filter.client.as_ref().map_or("", ClientId::as_str))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Family::try_from).collect()
}

/// Holds a live consent until the transaction ends: nobody ends it meanwhile. False where it is over.
pub async fn hold(tx: &mut Tx, site: &SiteId, id: &FamilyId, now: Timestamp) -> Result<bool> {
    let held = on!(tx, |c| sqlx::query(
        "UPDATE token_families SET used_at = $3 WHERE site = $1 AND id = $2 AND revoked_at IS NULL AND expires_at > $3"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(held == 1)
}

/// Holds all consents of a person until the transaction ends: nothing is issued under them meanwhile.
pub(crate) async fn hold_of_person(tx: &mut Tx, site: &SiteId, person: &UserId) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE token_families SET used_at = used_at WHERE site = $1 AND person = $2")
        .bind(site.as_str())
        .bind(person.as_str())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Ends a consent with every token that came of it: no request that arrives after this returned is served. Doing it again
/// changes nothing; false then.
pub async fn end(base: &Base, site: &SiteId, actor: &Actor, id: &FamilyId, reason: &str) -> Result<bool> {
    let now = base.clock.now();
    let Some(family) = get(&base.db, site, id).await? else {
        return Err(Error::new(Code::NotFound, format!("there is no consent `{id}`")));
    };
    let mut tx = base.db.begin().await?;
    let ended = close(&mut tx, site, id, actor, reason, now).await?;
    let tokens = revoke_tokens(&mut tx, site, id, actor, reason, now).await?;
    let tokens = tokens + issue::revoke_exchanged(&mut tx, site, actor, reason, now).await?;
    if ended {
        let facts = json!({ "family": id, "client": family.client, "person": family.person, "reason": reason, "tokens": tokens });
        base.audit.record(&mut tx, Event::new(site, actor, "consent.end").agent(&family.agent).facts(facts)).await?;
    }
    issue::count_revocations(&mut tx, site, tokens).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends everything that comes of a client, in the caller's transaction. Says how many tokens lived, which the caller counts
/// ([`super::count_revocations`]).
pub async fn end_of_client(tx: &mut Tx, site: &SiteId, client: &ClientId, actor: &Actor, now: Timestamp) -> Result<u64> {
    const REASON: &str = "the client was revoked";
    on!(&mut *tx, |c| sqlx::query(
        "UPDATE token_families SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND client = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(client.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(REASON)
    .execute(c)
    .await
    .map(|_| ())?);
    let tokens = on!(&mut *tx, |c| sqlx::query(
        "UPDATE agent_tokens SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND client = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(client.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(REASON)
    .execute(c)
    .await?
    .rows_affected());
    Ok(tokens + issue::revoke_exchanged(tx, site, actor, REASON, now).await?)
}

/// Removes a person's consents, in the caller's transaction; for erasing the person. What hangs on them goes first
/// (`oauth::erase_person`).
pub(crate) async fn erase(tx: &mut Tx, site: &SiteId, person: &UserId) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM token_families WHERE site = $1 AND person = $2")
        .bind(site.as_str())
        .bind(person.as_str())
        .execute(c)
        .await?
        .rows_affected()))
}

/// Removes consents that ended before a moment, in the caller's transaction. What hangs on them goes first (`oauth::sweep`).
pub(crate) async fn sweep(tx: &mut Tx, before: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM token_families WHERE expires_at < $1")
        .bind(before.0)
        .execute(c)
        .await?
        .rows_affected()))
}

/// The consent that a token comes of; nothing for one that was minted by hand, or exchanged: to end that one alone must not
/// end what it was exchanged for.
pub(super) async fn of_token(tx: &mut Tx, site: &SiteId, id: &TokenId) -> Result<Option<FamilyId>> {
    let row: Option<(Option<String>,)> =
        on!(tx, |c| sqlx::query_as("SELECT family FROM agent_tokens WHERE site = $1 AND id = $2 AND parent IS NULL")
            .bind(site.as_str())
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    row.and_then(|(family,)| family).map(|family| family.parse()).transpose()
}

/// Marks a consent as over. False where it was.
pub(super) async fn close(
    tx: &mut Tx,
    site: &SiteId,
    id: &FamilyId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE token_families SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
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

/// Marks every consent for an agent as over.
pub(super) async fn close_of_agent(
    tx: &mut Tx,
    site: &SiteId,
    agent: &AgentId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE token_families SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND agent = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Revokes the tokens of a consent that is over, and says how many lived.
pub(super) async fn revoke_tokens(
    tx: &mut Tx,
    site: &SiteId,
    id: &FamilyId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query(
        "UPDATE agent_tokens SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND family = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected()))
}
