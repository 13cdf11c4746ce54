//! The rows of proposals.

use super::{Decided, Proposal, Status, Wanted, Which};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, ConnectionId, GrantId, ProposalId, SiteId, TokenId, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct ProposalRow {
        id: String,
        agent: String,
        agent_title: String,
        person: Option<String>,
        behind: Option<String>,
        minter: Option<String>,
        addressee: Option<String>,
        provider: String,
        connection: Option<String>,
        wanted: String,
        reason: String,
        status: String,
        created_at: i64,
        expires_at: i64,
        decided_at: Option<i64>,
        decided_by: Option<String>,
        decide_reason: Option<String>,
        grant_id: Option<String>,
    }
}

impl TryFrom<ProposalRow> for Proposal {
    type Error = Error;

    fn try_from(row: ProposalRow) -> Result<Self> {
        let decided = Decided::of_row(row.decided_at, row.decided_by, row.decide_reason)?;
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            agent_title: row.agent_title,
            person: row.person.map(|person| person.parse()).transpose()?,
            behind: row.behind.map(|person| person.parse()).transpose()?,
            minter: row.minter.map(|person| person.parse()).transpose()?,
            addressee: row.addressee.map(|person| person.parse()).transpose()?,
            provider: row.provider.parse()?,
            connection: row.connection.map(|connection| connection.parse()).transpose()?,
            wanted: serde_json::from_str(&row.wanted).map_err(Error::internal)?,
            reason: row.reason,
            stored: row.status.parse()?,
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            decided,
            grant: row.grant_id.map(|grant| grant.parse()).transpose()?,
        })
    }
}

/// The columns of [`ProposalRow`], with what people call the agent.
macro_rules! proposal_columns {
    () => {
        "SELECT p.id, p.agent, a.title AS agent_title, p.person, p.behind, p.minter, p.addressee,
                p.provider, p.connection, p.wanted, p.reason, p.status, p.created_at, p.expires_at, p.decided_at,
                p.decided_by, p.decide_reason, p.grant_id
         FROM proposals p
         JOIN agents a ON a.site = p.site AND a.id = p.agent "
    };
}

/// What a row is written of.
pub(super) struct New<'a> {
    pub(super) site: &'a SiteId,
    pub(super) id: &'a ProposalId,
    pub(super) agent: &'a AgentId,
    pub(super) token: &'a TokenId,
    pub(super) person: Option<&'a UserId>,
    pub(super) addressee: Option<&'a UserId>,
    pub(super) provider: &'a str,
    pub(super) connection: Option<&'a ConnectionId>,
    pub(super) digest: &'a str,
    pub(super) wanted: &'a str,
    pub(super) reason: &'a str,
    pub(super) now: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// Makes room for a wish whose row stands no more because its time is over.
pub(super) async fn close_expired(tx: &mut Tx, new: &New<'_>) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE proposals SET closed_at = $4
         WHERE site = $1 AND agent = $2 AND digest = $3 AND closed_at IS NULL AND expires_at <= $4"
    )
    .bind(new.site.as_str())
    .bind(new.agent.as_str())
    .bind(new.digest)
    .bind(new.now.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Writes a wish down, and who is behind it: the token of which that is read is there for a shorter time than the wish waits.
/// False where the same wish has a row that stands.
pub(super) async fn insert(tx: &mut Tx, new: &New<'_>) -> Result<bool> {
    let inserted = on!(tx, |c| {
        sqlx::query(
        "INSERT INTO proposals (site, id, agent, token, person, addressee, provider, connection, digest, wanted, reason, status,
                                created_at, expires_at, behind, minter)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pending', $12, $13,
                 COALESCE($5, (SELECT COALESCE(t.person, t.minter) FROM agent_tokens t WHERE t.site = $1 AND t.id = $4)),
                 (SELECT t.minter FROM agent_tokens t WHERE t.site = $1 AND t.id = $4))
         ON CONFLICT (site, agent, digest) WHERE closed_at IS NULL DO NOTHING"
    )
    .bind(new.site.as_str())
    .bind(new.id.as_str())
    .bind(new.agent.as_str())
    .bind(new.token.as_str())
    .bind(new.person.map(UserId::as_str))
    .bind(new.addressee.map(UserId::as_str))
    .bind(new.provider)
    .bind(new.connection.map(ConnectionId::as_str))
    .bind(new.digest)
    .bind(new.wanted)
    .bind(new.reason)
    .bind(new.now.0)
    .bind(new.expires_at.0)
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(inserted == 1)
}

/// The id of the row that stands for a wish.
pub(super) async fn open(tx: &mut Tx, new: &New<'_>) -> Result<Option<ProposalId>> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as(
        "SELECT id FROM proposals WHERE site = $1 AND agent = $2 AND digest = $3 AND closed_at IS NULL"
    )
    .bind(new.site.as_str())
    .bind(new.agent.as_str())
    .bind(new.digest)
    .fetch_optional(c)
    .await?);
    row.map(|(id,)| id.parse()).transpose()
}

/// How many wishes of an agent wait.
pub(super) async fn waiting(tx: &mut Tx, site: &SiteId, agent: &AgentId, now: Timestamp) -> Result<i64> {
    let (count,): (i64,) = on!(tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM proposals
         WHERE site = $1 AND agent = $2 AND closed_at IS NULL AND status = 'pending' AND expires_at > $3"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(now.0)
    .fetch_one(c)
    .await?);
    Ok(count)
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &ProposalId) -> Result<Option<Proposal>> {
    let row: Option<ProposalRow> = on!(db, |c| sqlx::query_as(concat!(proposal_columns!(), "WHERE p.site = $1 AND p.id = $2"))
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    row.map(Proposal::try_from).transpose()
}

pub(super) async fn page(
    db: &Db,
    site: &SiteId,
    which: &Which<'_>,
    now: Timestamp,
    after: Option<&ProposalId>,
    limit: u32,
) -> Result<Vec<Proposal>> {
    let rows: Vec<ProposalRow> = on!(db, |c| sqlx::query_as(concat!(
        proposal_columns!(),
        "WHERE p.site = $1 AND ($2 = '' OR p.agent = $2) AND ($3 = '' OR p.addressee = $3)
           AND ($4 = 0 OR (p.status = 'pending' AND p.expires_at > $5))
           AND ($6 = '' OR (p.created_at, p.id) > (SELECT b.created_at, b.id FROM proposals b WHERE b.site = $1 AND b.id = $6))
         ORDER BY p.created_at, p.id LIMIT $7"
    ))
    .bind(site.as_str())
    .bind(which.agent.map_or("", AgentId::as_str))
    .bind(which.addressee.map_or("", UserId::as_str))
    .bind(i64::from(which.waiting))
    .bind(now.0)
    .bind(after.map_or("", ProposalId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Proposal::try_from).collect()
}

/// A person's word on a wish that waits. False where it waits no more. A yes makes room for the next wish of its kind; a no
/// stands until its time is over.
pub(super) async fn decide(
    tx: &mut Tx,
    (site, id): (&SiteId, &ProposalId),
    (status, reason): (Status, &str),
    granted: Option<(&GrantId, &ConnectionId)>,
    actor: &Actor,
    now: Timestamp,
) -> Result<bool> {
    let (grant, connection) = granted.unzip();
    let closed_at = grant.map(|_| now.0);
    let changed = on!(tx, |c| {
        sqlx::query(
        "UPDATE proposals SET status = $3, decided_at = $4, decided_by = $5, decide_reason = $6, grant_id = $7, closed_at = $8,
            connection = COALESCE($9, connection)
         WHERE site = $1 AND id = $2 AND status = 'pending' AND closed_at IS NULL AND expires_at > $4"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(status.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .bind(grant.map(GrantId::as_str))
    .bind(closed_at)
    .bind(connection.map(ConnectionId::as_str))
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}

row! {
    /// A wish whose time is over, and of which that was not told yet.
    pub(super) struct Over {
        pub(super) site: String,
        pub(super) id: String,
        pub(super) agent: String,
        pub(super) addressee: Option<String>,
        pub(super) provider: String,
        pub(super) connection: Option<String>,
    }
}

/// Wishes whose time is over and that are written down as waiting: at most `limit`.
pub(super) async fn over(db: &Db, now: Timestamp, limit: i64) -> Result<Vec<Over>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, id, agent, addressee, provider, connection FROM proposals
         WHERE expires_at <= $1 AND status = 'pending' ORDER BY expires_at, site, id LIMIT $2"
    )
    .bind(now.0)
    .bind(limit)
    .fetch_all(c)
    .await?))
}

/// Writes down that the time of a wish is over. False where another replica did, or it was answered at the last moment.
pub(super) async fn expire(tx: &mut Tx, over: &Over, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE proposals SET status = 'expired', closed_at = COALESCE(closed_at, $3)
         WHERE site = $1 AND id = $2 AND status = 'pending' AND expires_at <= $3"
    )
    .bind(&over.site)
    .bind(&over.id)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// What else is asked for that might be for a person, as it is stored.
pub(super) async fn naming(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<Vec<(String, String)>> {
    Ok(on!(tx, |c| sqlx::query_as("SELECT id, wanted FROM proposals WHERE site = $1 AND REPLACE(wanted, $2, '') <> wanted")
        .bind(site.as_str())
        .bind(format!("\"{user}\""))
        .fetch_all(c)
        .await?))
}

pub(super) async fn set_wanted(tx: &mut Tx, site: &SiteId, id: &str, wanted: &Wanted) -> Result<()> {
    let wanted = serde_json::to_string(wanted).map_err(Error::internal)?;
    on!(tx, |c| sqlx::query("UPDATE proposals SET wanted = $3 WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id)
        .bind(&wanted)
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Removes what was asked of a person, for them or by their token.
pub(super) async fn forget(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "DELETE FROM proposals WHERE site = $1 AND (person = $2 OR behind = $2 OR minter = $2 OR addressee = $2)"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Removes what ended before a moment. The audit keeps what happened.
pub(super) async fn sweep(tx: &mut Tx, before: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM proposals WHERE expires_at <= $1").bind(before.0).execute(c).await?.rows_affected()))
}
