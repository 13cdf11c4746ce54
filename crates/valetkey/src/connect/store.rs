//! The rows of connect sessions and flows.

use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    db::{Db, Tx, is_unique_violation},
    error::{Code, Error, Result},
    id::{AccountName, AgentId, AppConfigId, ConnectSessionId, ConnectionId, FlowId, ProviderName, SiteId, UserId},
    on,
    principal::{Actor, Owner, Slot},
    row,
};

/// A connect session as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) site: SiteId,
    pub(super) id: ConnectSessionId,
    pub(super) provider: ProviderName,
    pub(super) owner: Owner,
    pub(super) name: AccountName,
    pub(super) scopes: Vec<String>,
    pub(super) fields: Map<String, Value>,
    pub(super) agent: Option<AgentId>,
    pub(super) return_to: Option<String>,
    /// The sealed payload, if there is one.
    pub(super) sealed: Option<Vec<u8>>,
    pub(super) new_subject: bool,
    /// The person signs in on another device (RFC 8628).
    pub(super) device: bool,
    pub(super) browser_hash: Option<String>,
    pub(super) proven_user: Option<UserId>,
    pub(super) created_by: Actor,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) used_at: Option<Timestamp>,
    pub(super) outcome: Option<String>,
    pub(super) connection: Option<ConnectionId>,
}

row! {
    struct SessionRow {
        site: String,
        id: String,
        provider: String,
        owner: String,
        name: String,
        scopes: String,
        fields: String,
        agent: Option<String>,
        return_to: Option<String>,
        sealed: Option<Vec<u8>>,
        new_subject_at: Option<i64>,
        device_at: Option<i64>,
        browser_hash: Option<String>,
        proven_user: Option<String>,
        created_by: String,
        created_at: i64,
        expires_at: i64,
        used_at: Option<i64>,
        outcome: Option<String>,
        connection: Option<String>,
    }
}

impl TryFrom<SessionRow> for Session {
    type Error = Error;

    fn try_from(row: SessionRow) -> Result<Self> {
        Ok(Self {
            site: row.site.parse()?,
            id: row.id.parse()?,
            provider: row.provider.parse()?,
            owner: row.owner.parse()?,
            name: row.name.parse()?,
            scopes: serde_json::from_str(&row.scopes).map_err(Error::internal)?,
            fields: serde_json::from_str(&row.fields).map_err(Error::internal)?,
            agent: row.agent.map(|id| id.parse()).transpose()?,
            return_to: row.return_to,
            sealed: row.sealed,
            new_subject: row.new_subject_at.is_some(),
            device: row.device_at.is_some(),
            browser_hash: row.browser_hash,
            proven_user: row.proven_user.map(|id| id.parse()).transpose()?,
            created_by: row.created_by.parse()?,
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            used_at: row.used_at.map(Timestamp),
            outcome: row.outcome,
            connection: row.connection.map(|id| id.parse()).transpose()?,
        })
    }
}

pub(super) async fn insert_session(tx: &mut Tx, session: &Session, link_hash: &str) -> Result<()> {
    let scopes = serde_json::to_string(&session.scopes).map_err(Error::internal)?;
    let fields = serde_json::to_string(&session.fields).map_err(Error::internal)?;
    on!(tx, |c| sqlx::query(
        "INSERT INTO connect_sessions (site, id, link_hash, provider, owner, name, scopes, fields, agent, return_to, sealed,
            new_subject_at, created_by, created_at, expires_at, device_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(link_hash)
    .bind(session.provider.as_str())
    .bind(session.owner.to_string())
    .bind(session.name.as_stored())
    .bind(&scopes)
    .bind(&fields)
    .bind(session.agent.as_ref().map(AgentId::as_str))
    .bind(&session.return_to)
    .bind(&session.sealed)
    .bind(session.new_subject.then_some(session.created_at.0))
    .bind(session.created_by.to_string())
    .bind(session.created_at.0)
    .bind(session.expires_at.0)
    .bind(session.device.then_some(session.created_at.0))
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn session_by_link(db: &Db, link_hash: &str) -> Result<Option<Session>> {
    let row: Option<SessionRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT site, id, provider, owner, name, scopes, fields, agent, return_to, sealed, new_subject_at, device_at, browser_hash,
                proven_user, created_by, created_at, expires_at, used_at, outcome, connection
         FROM connect_sessions WHERE link_hash = $1"
    )
    .bind(link_hash)
    .fetch_optional(c)
    .await?
    });
    row.map(Session::try_from).transpose()
}

pub(super) async fn session_by_id(db: &Db, site: &SiteId, id: &ConnectSessionId) -> Result<Option<Session>> {
    let row: Option<SessionRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT site, id, provider, owner, name, scopes, fields, agent, return_to, sealed, new_subject_at, device_at, browser_hash,
                proven_user, created_by, created_at, expires_at, used_at, outcome, connection
         FROM connect_sessions WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?
    });
    row.map(Session::try_from).transpose()
}

/// Binds a session to a browser that was proven to be a person's. False when the session is over.
pub(super) async fn bind_proven(
    tx: &mut Tx,
    session: &Session,
    browser_hash: &str,
    user: &UserId,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connect_sessions SET browser_hash = $3, proven_user = $4
         WHERE site = $1 AND id = $2 AND used_at IS NULL AND expires_at > $5"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(browser_hash)
    .bind(user.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Uses a session up, for the browser it is bound to, or for this one where it is bound to none yet. Of two at once, one gets
/// true. From then on it is bound by `next`: what the browser is given for the flow, and by which it may see and settle what
/// became of it.
pub(super) async fn use_session(
    tx: &mut Tx,
    session: &Session,
    browser_hash: &str,
    next: Option<&str>,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connect_sessions SET used_at = $4, browser_hash = COALESCE($5, $3)
         WHERE site = $1 AND id = $2 AND (browser_hash IS NULL OR browser_hash = $3) AND used_at IS NULL AND expires_at > $4"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(browser_hash)
    .bind(now.0)
    .bind(next)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Uses a session up that no browser was bound to: somebody at a terminal began it. Of two at once, one gets true.
pub(super) async fn use_unbound(tx: &mut Tx, session: &Session, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connect_sessions SET used_at = $3
         WHERE site = $1 AND id = $2 AND browser_hash IS NULL AND used_at IS NULL AND expires_at > $3"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Notes what became of a session.
pub(super) async fn set_outcome(
    tx: &mut Tx,
    site: &SiteId,
    id: &ConnectSessionId,
    outcome: &str,
    connection: Option<&ConnectionId>,
) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE connect_sessions SET outcome = $3, connection = $4 WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(outcome)
        .bind(connection.map(ConnectionId::as_str))
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// A flow under way, as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) site: SiteId,
    pub(super) id: FlowId,
    pub(super) session: ConnectSessionId,
    pub(super) provider: ProviderName,
    pub(super) owner: Owner,
    pub(super) name: AccountName,
    pub(super) sealed: Vec<u8>,
    pub(super) issuer: Option<String>,
    pub(super) redirect_uri: String,
    /// Absent only of an account that is entered, where the provider wants no app.
    pub(super) app_config: Option<AppConfigId>,
    pub(super) scopes: Vec<String>,
    pub(super) browser_hash: String,
    pub(super) proven_user: Option<UserId>,
    pub(super) agent: Option<AgentId>,
    pub(super) return_to: Option<String>,
    pub(super) new_subject: bool,
    pub(super) created_by: Actor,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// When the provider is asked; absent where a browser brings the answer.
    pub(super) poll: Option<Poll>,
}

/// How a flow is asked after that no browser comes back from (RFC 8628 section 3.5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Poll {
    /// When to ask next.
    pub(super) at: Timestamp,
    /// Seconds between two questions.
    pub(super) interval: i64,
    /// The last question that somebody asked or is asking.
    pub(super) number: i64,
}

impl Flow {
    /// The account that it is for.
    pub(super) fn slot(&self) -> Slot {
        let Self { site, provider, owner, name, .. } = self;
        Slot { site: site.clone(), provider: provider.clone(), owner: owner.clone(), name: name.clone() }
    }
}

row! {
    struct FlowRow {
        site: String,
        id: String,
        session: String,
        provider: String,
        owner: String,
        name: String,
        sealed: Vec<u8>,
        issuer: Option<String>,
        redirect_uri: String,
        app_config_id: String,
        scopes: String,
        browser_hash: String,
        proven_user: Option<String>,
        agent: Option<String>,
        return_to: Option<String>,
        new_subject_at: Option<i64>,
        created_by: String,
        created_at: i64,
        expires_at: i64,
        poll_at: Option<i64>,
        poll_interval: Option<i64>,
        poll_number: Option<i64>,
    }
}

impl TryFrom<FlowRow> for Flow {
    type Error = Error;

    fn try_from(row: FlowRow) -> Result<Self> {
        Ok(Self {
            site: row.site.parse()?,
            id: row.id.parse()?,
            session: row.session.parse()?,
            provider: row.provider.parse()?,
            owner: row.owner.parse()?,
            name: row.name.parse()?,
            sealed: row.sealed,
            issuer: row.issuer,
            redirect_uri: row.redirect_uri,
            app_config: Some(row.app_config_id.parse()?),
            scopes: serde_json::from_str(&row.scopes).map_err(Error::internal)?,
            browser_hash: row.browser_hash,
            proven_user: row.proven_user.map(|id| id.parse()).transpose()?,
            agent: row.agent.map(|id| id.parse()).transpose()?,
            return_to: row.return_to,
            new_subject: row.new_subject_at.is_some(),
            created_by: row.created_by.parse()?,
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            poll: match (row.poll_at, row.poll_interval, row.poll_number) {
                (Some(at), Some(interval), Some(number)) => Some(Poll { at: Timestamp(at), interval, number }),
                _ => None,
            },
        })
    }
}

pub(super) async fn insert_flow(tx: &mut Tx, flow: &Flow, state_hash: &str) -> Result<()> {
    let scopes = serde_json::to_string(&flow.scopes).map_err(Error::internal)?;
    let written = on!(tx, |c| {
        sqlx::query(
        "INSERT INTO flows (site, id, session, state_hash, provider, owner, name, sealed, issuer, redirect_uri, app_config_id,
            scopes, browser_hash, proven_user, agent, return_to, new_subject_at, created_by, created_at, expires_at,
            poll_at, poll_interval, poll_number)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"
    )
    .bind(flow.site.as_str())
    .bind(flow.id.as_str())
    .bind(flow.session.as_str())
    .bind(state_hash)
    .bind(flow.provider.as_str())
    .bind(flow.owner.to_string())
    .bind(flow.name.as_stored())
    .bind(&flow.sealed)
    .bind(&flow.issuer)
    .bind(&flow.redirect_uri)
    .bind(flow.app_config.as_ref().map(AppConfigId::as_str))
    .bind(&scopes)
    .bind(&flow.browser_hash)
    .bind(flow.proven_user.as_ref().map(UserId::as_str))
    .bind(flow.agent.as_ref().map(AgentId::as_str))
    .bind(&flow.return_to)
    .bind(flow.new_subject.then_some(flow.created_at.0))
    .bind(flow.created_by.to_string())
    .bind(flow.created_at.0)
    .bind(flow.expires_at.0)
    .bind(flow.poll.map(|poll| poll.at.0))
    .bind(flow.poll.map(|poll| poll.interval))
    .bind(flow.poll.map(|poll| poll.number))
    .execute(c)
    .await
    .map(|_| ())
    });
    match written {
        // A state is never drawn twice; a temporary token is what the provider makes it.
        Err(error) if is_unique_violation(&error) => {
            Err(Error::new(Code::RequestTokenFailed, "the provider gave out one temporary token twice; go back and try again"))
        }
        other => Ok(other?),
    }
}

/// Takes a flow out, once. The browser is part of the condition, so that a wrong one cannot use up what the right
/// one still needs. Both values compared are hashes of 256 random bits: how long the comparison takes tells nothing.
pub(super) async fn take_flow(
    tx: &mut Tx,
    state_hash: &str,
    provider: &ProviderName,
    browser_hash: &str,
) -> Result<Option<Flow>> {
    let row: Option<FlowRow> = on!(tx, |c| sqlx::query_as(
        "DELETE FROM flows WHERE state_hash = $1 AND provider = $2 AND browser_hash = $3 AND poll_at IS NULL
         RETURNING site, id, session, provider, owner, name, sealed, issuer, redirect_uri, app_config_id, scopes, browser_hash,
                   proven_user, agent, return_to, new_subject_at, created_by, created_at, expires_at, poll_at,
                   poll_interval, poll_number"
    )
    .bind(state_hash)
    .bind(provider.as_str())
    .bind(browser_hash)
    .fetch_optional(c)
    .await?);
    row.map(Flow::try_from).transpose()
}

/// A flow by its state, without taking it: to record that somebody else tried.
pub(super) async fn peek_flow(db: &Db, state_hash: &str) -> Result<Option<Flow>> {
    let row: Option<FlowRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, session, provider, owner, name, sealed, issuer, redirect_uri, app_config_id, scopes, browser_hash,
                proven_user, agent, return_to, new_subject_at, created_by, created_at, expires_at, poll_at,
                poll_interval, poll_number
         FROM flows WHERE state_hash = $1"
    )
    .bind(state_hash)
    .fetch_optional(c)
    .await?);
    row.map(Flow::try_from).transpose()
}

/// The flow of a session, if it is still under way.
pub(super) async fn flow_of_session(db: &Db, site: &SiteId, session: &ConnectSessionId) -> Result<Option<Flow>> {
    let row: Option<FlowRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, session, provider, owner, name, sealed, issuer, redirect_uri, app_config_id, scopes, browser_hash,
                proven_user, agent, return_to, new_subject_at, created_by, created_at, expires_at, poll_at,
                poll_interval, poll_number
         FROM flows WHERE site = $1 AND session = $2"
    )
    .bind(site.as_str())
    .bind(session.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Flow::try_from).transpose()
}

/// Flows whose provider is to be asked now, the longest due first.
pub(super) async fn flows_due(db: &Db, now: Timestamp, limit: i64) -> Result<Vec<Flow>> {
    let rows: Vec<FlowRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, session, provider, owner, name, sealed, issuer, redirect_uri, app_config_id, scopes, browser_hash,
                proven_user, agent, return_to, new_subject_at, created_by, created_at, expires_at, poll_at,
                poll_interval, poll_number
         FROM flows WHERE poll_at IS NOT NULL AND poll_at <= $1 ORDER BY poll_at, id LIMIT $2"
    )
    .bind(now.0)
    .bind(limit)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Flow::try_from).collect()
}

/// Takes the next question of a flow, until `until`; its number. Nothing where somebody else has it.
pub(super) async fn take_poll(db: &Db, flow: &Flow, poll: Poll, until: Timestamp) -> Result<Option<i64>> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE flows SET poll_number = poll_number + 1, poll_at = $4 WHERE site = $1 AND id = $2 AND poll_number = $3"
    )
    .bind(flow.site.as_str())
    .bind(flow.id.as_str())
    .bind(poll.number)
    .bind(until.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok((changed == 1).then_some(poll.number + 1))
}

/// Says when the next question comes after this one. Where another one was taken meanwhile, that one says it.
pub(super) async fn set_poll(db: &Db, flow: &Flow, poll: Poll) -> Result<()> {
    let mut tx = db.begin_bookkeeping().await?;
    on!(&mut tx, |c| sqlx::query(
        "UPDATE flows SET poll_at = $4, poll_interval = $5 WHERE site = $1 AND id = $2 AND poll_number = $3"
    )
    .bind(flow.site.as_str())
    .bind(flow.id.as_str())
    .bind(poll.number)
    .bind(poll.at.0)
    .bind(poll.interval)
    .execute(c)
    .await
    .map(|_| ())?);
    tx.commit().await
}

/// Takes a flow out by its id. False when somebody else did, or it was given up.
pub(super) async fn end_flow(tx: &mut Tx, flow: &Flow) -> Result<bool> {
    let gone = on!(tx, |c| sqlx::query("DELETE FROM flows WHERE site = $1 AND id = $2")
        .bind(flow.site.as_str())
        .bind(flow.id.as_str())
        .execute(c)
        .await?
        .rows_affected());
    Ok(gone == 1)
}

/// Deletes flows that expired before `flows`, and sessions that expired before `sessions`; says how many of each. A flow
/// that is asked after is ended by whoever asks; what is left of one is deleted with its session.
pub(super) async fn sweep(tx: &mut Tx, flows: Timestamp, sessions: Timestamp) -> Result<(u64, u64)> {
    let flows = on!(&mut *tx, |c| {
        sqlx::query("DELETE FROM flows WHERE (poll_at IS NULL AND expires_at <= $1) OR expires_at <= $2")
            .bind(flows.0)
            .bind(sessions.0)
            .execute(c)
            .await?
            .rows_affected()
    });
    let sessions = on!(&mut *tx, |c| sqlx::query("DELETE FROM connect_sessions WHERE expires_at <= $1")
        .bind(sessions.0)
        .execute(c)
        .await?
        .rows_affected());
    Ok((flows, sessions))
}

/// Deletes an owner's flows and sessions.
pub(super) async fn forget(tx: &mut Tx, site: &SiteId, owner: &Owner) -> Result<()> {
    on!(&mut *tx, |c| sqlx::query("DELETE FROM flows WHERE site = $1 AND owner = $2")
        .bind(site.as_str())
        .bind(owner.to_string())
        .execute(c)
        .await
        .map(|_| ())?);
    on!(&mut *tx, |c| sqlx::query("DELETE FROM connect_sessions WHERE site = $1 AND owner = $2")
        .bind(site.as_str())
        .bind(owner.to_string())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}
