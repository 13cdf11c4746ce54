//! The rows of approvals. Every step names the state that it leaves, so that of two who take it one does.

use super::{Approval, Decided, Digest, Hold, Status, Which};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, ApprovalId, ConnectionId, SiteId, UserId},
    on,
    principal::{Actor, Owner},
    row,
};

row! {
    struct ApprovalRow {
        id: String,
        agent: String,
        agent_title: String,
        person: Option<String>,
        behind: Option<String>,
        minter: Option<String>,
        connection: String,
        owner: String,
        provider: String,
        subject_name: Option<String>,
        grant_id: String,
        digest: String,
        summary: String,
        status: String,
        created_at: i64,
        expires_at: i64,
        decided_at: Option<i64>,
        decided_by: Option<String>,
        decide_reason: Option<String>,
        used_at: Option<i64>,
    }
}

impl TryFrom<ApprovalRow> for Approval {
    type Error = Error;

    fn try_from(row: ApprovalRow) -> Result<Self> {
        let decided = Decided::of_row(row.decided_at, row.decided_by, row.decide_reason)?;
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            agent_title: row.agent_title,
            person: row.person.map(|person| person.parse()).transpose()?,
            behind: row.behind.map(|person| person.parse()).transpose()?,
            minter: row.minter.map(|person| person.parse()).transpose()?,
            connection: row.connection.parse()?,
            owner: row.owner.parse()?,
            provider: row.provider.parse()?,
            account: row.subject_name,
            grant: row.grant_id.parse()?,
            digest: Digest::stored(row.digest),
            summary: serde_json::from_str(&row.summary).map_err(Error::internal)?,
            stored: row.status.parse()?,
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            decided,
            used_at: row.used_at.map(Timestamp),
        })
    }
}

/// The columns of [`ApprovalRow`], with whose account it is and what people call the agent.
macro_rules! approval_columns {
    () => {
        "SELECT p.id, p.agent, a.title AS agent_title, p.person, p.behind, p.minter, p.connection,
                c.owner, c.provider, c.subject_name, p.grant_id, p.digest, p.summary, p.status, p.created_at,
                p.expires_at, p.decided_at, p.decided_by, p.decide_reason, p.used_at
         FROM approvals p
         JOIN agents a ON a.site = p.site AND a.id = p.agent
         JOIN connections c ON c.site = p.site AND c.id = p.connection "
    };
}

/// Makes room for a call whose row stands no more because its time is over.
pub(super) async fn close_expired(tx: &mut Tx, hold: &Hold<'_>, now: Timestamp) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE approvals SET closed_at = $4
         WHERE site = $1 AND agent = $2 AND digest = $3 AND closed_at IS NULL AND expires_at <= $4"
    )
    .bind(hold.site.as_str())
    .bind(hold.agent.as_str())
    .bind(hold.digest.as_str())
    .bind(now.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Writes a held call down, and who is behind it: the token of which that is read is there for a shorter time than the call
/// waits. False where the same call has a row that stands.
pub(super) async fn insert(tx: &mut Tx, id: &ApprovalId, hold: &Hold<'_>, now: Timestamp, expires_at: Timestamp) -> Result<bool> {
    let summary = serde_json::to_string(&hold.summary).map_err(Error::internal)?;
    let inserted = on!(tx, |c| sqlx::query(
        "INSERT INTO approvals (site, id, agent, token, person, connection, grant_id, digest, summary, status, created_at,
                                expires_at, behind, minter)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', $10, $11,
                 COALESCE($5, (SELECT COALESCE(t.person, t.minter) FROM agent_tokens t WHERE t.site = $1 AND t.id = $4)),
                 (SELECT t.minter FROM agent_tokens t WHERE t.site = $1 AND t.id = $4))
         ON CONFLICT (site, agent, digest) WHERE closed_at IS NULL DO NOTHING"
    )
    .bind(hold.site.as_str())
    .bind(id.as_str())
    .bind(hold.agent.as_str())
    .bind(hold.token.as_str())
    .bind(hold.person.map(UserId::as_str))
    .bind(hold.connection.as_str())
    .bind(hold.grant.as_str())
    .bind(hold.digest.as_str())
    .bind(&summary)
    .bind(now.0)
    .bind(expires_at.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(inserted == 1)
}

/// The id of the row that stands for a call.
pub(super) async fn open(tx: &mut Tx, hold: &Hold<'_>) -> Result<Option<ApprovalId>> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as(
        "SELECT id FROM approvals WHERE site = $1 AND agent = $2 AND digest = $3 AND closed_at IS NULL"
    )
    .bind(hold.site.as_str())
    .bind(hold.agent.as_str())
    .bind(hold.digest.as_str())
    .fetch_optional(c)
    .await?);
    row.map(|(id,)| id.parse()).transpose()
}

/// How many calls of an agent wait.
pub(super) async fn waiting(tx: &mut Tx, site: &SiteId, agent: &AgentId, now: Timestamp) -> Result<i64> {
    let (count,): (i64,) = on!(tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM approvals
         WHERE site = $1 AND agent = $2 AND closed_at IS NULL AND status = 'pending' AND expires_at > $3"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(now.0)
    .fetch_one(c)
    .await?);
    Ok(count)
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &ApprovalId) -> Result<Option<Approval>> {
    let row: Option<ApprovalRow> = on!(db, |c| sqlx::query_as(concat!(approval_columns!(), "WHERE p.site = $1 AND p.id = $2"))
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    row.map(Approval::try_from).transpose()
}

pub(super) async fn page(
    db: &Db,
    site: &SiteId,
    which: &Which<'_>,
    now: Timestamp,
    after: Option<&ApprovalId>,
    limit: u32,
) -> Result<Vec<Approval>> {
    let rows: Vec<ApprovalRow> = on!(db, |c| sqlx::query_as(concat!(
        approval_columns!(),
        "WHERE p.site = $1 AND ($2 = '' OR p.agent = $2) AND ($3 = '' OR p.connection = $3) AND ($4 = '' OR c.owner = $4)
           AND ($5 = 0 OR (p.status = 'pending' AND p.expires_at > $6))
           AND ($7 = '' OR (p.created_at, p.id) > (SELECT b.created_at, b.id FROM approvals b WHERE b.site = $1 AND b.id = $7))
         ORDER BY p.created_at, p.id LIMIT $8"
    ))
    .bind(site.as_str())
    .bind(which.agent.map_or("", AgentId::as_str))
    .bind(which.connection.map_or("", ConnectionId::as_str))
    .bind(which.owner.map(Owner::to_string).unwrap_or_default())
    .bind(i64::from(which.waiting))
    .bind(now.0)
    .bind(after.map_or("", ApprovalId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Approval::try_from).collect()
}

/// A person's word on a call that waits. False where it waits no more.
pub(super) async fn decide(
    tx: &mut Tx,
    site: &SiteId,
    id: &ApprovalId,
    (status, reason): (Status, &str),
    actor: &Actor,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE approvals SET status = $3, decided_at = $4, decided_by = $5, decide_reason = $6, expires_at = $7
         WHERE site = $1 AND id = $2 AND status = 'pending' AND closed_at IS NULL AND expires_at > $4"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(status.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .bind(expires_at.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Takes an approval for the call that has its digest. False where it was not there to be taken.
pub(super) async fn take(tx: &mut Tx, site: &SiteId, approval: &Approval, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE approvals SET status = 'used', used_at = $5, closed_at = $5
         WHERE site = $1 AND id = $2 AND agent = $3 AND digest = $4 AND status = 'approved' AND closed_at IS NULL
           AND expires_at > $5"
    )
    .bind(site.as_str())
    .bind(approval.id.as_str())
    .bind(approval.agent.as_str())
    .bind(approval.digest.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

row! {
    /// A call whose time is over, and of which that was not told yet.
    pub(super) struct Over {
        pub(super) site: String,
        pub(super) id: String,
        pub(super) agent: String,
        pub(super) connection: String,
        pub(super) grant_id: String,
    }
}

/// Calls whose time is over and that are written down as waiting or approved: at most `limit`.
pub(super) async fn over(db: &Db, now: Timestamp, limit: i64) -> Result<Vec<Over>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, id, agent, connection, grant_id FROM approvals
         WHERE expires_at <= $1 AND status IN ('pending', 'approved') ORDER BY expires_at, site, id LIMIT $2"
    )
    .bind(now.0)
    .bind(limit)
    .fetch_all(c)
    .await?))
}

/// Writes down that the time of a call is over. False where another replica did, or it was taken at the last moment.
pub(super) async fn expire(tx: &mut Tx, over: &Over, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE approvals SET status = 'expired', closed_at = COALESCE(closed_at, $3)
         WHERE site = $1 AND id = $2 AND status IN ('pending', 'approved') AND expires_at <= $3"
    )
    .bind(&over.site)
    .bind(&over.id)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Removes what was done for a person or by their token, or with what is theirs.
pub(super) async fn forget(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "DELETE FROM approvals
         WHERE site = $1 AND (person = $2 OR behind = $2 OR minter = $2
                          OR connection IN (SELECT id FROM connections WHERE site = $1 AND owner = $3))"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(Owner::User(user.clone()).to_string())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Removes what ended before a moment. The audit keeps what happened.
pub(super) async fn sweep(tx: &mut Tx, before: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM approvals WHERE expires_at <= $1").bind(before.0).execute(c).await?.rows_affected()))
}
