//! The rows of the outbox.

use serde::Serialize;

use crate::{
    clock::Timestamp,
    connection::Connection,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AccountName, AppConfigId, ConnectionId, ProviderName, RevocationId, SiteId},
    on,
    principal::Owner,
    row,
};

/// An upstream revocation as it is shown. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Its id.
    pub id: RevocationId,
    /// At which provider.
    pub provider: ProviderName,
    /// The connection that ended.
    pub connection: ConnectionId,
    /// `pending`, `revoked`, `unsupported`, `skipped` or `failed`.
    pub status: String,
    /// Why the connection ended.
    pub reason: String,
    /// How often the provider was asked.
    pub attempts: i64,
    /// When it is asked again, while it is pending.
    pub next_at: Option<Timestamp>,
    /// The stable word of the last failure, or why it was skipped.
    pub last_error: Option<String>,
    /// Since when it is owed.
    pub created_at: Timestamp,
    /// Since when it is over.
    pub done_at: Option<Timestamp>,
}

row! {
    struct ShownRow {
        id: String,
        provider: String,
        connection: String,
        status: String,
        reason: String,
        attempts: i64,
        next_at: Option<i64>,
        last_error: Option<String>,
        created_at: i64,
        done_at: Option<i64>,
    }
}

impl TryFrom<ShownRow> for Revocation {
    type Error = Error;

    fn try_from(row: ShownRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            provider: row.provider.parse()?,
            connection: row.connection.parse()?,
            status: row.status,
            reason: row.reason,
            attempts: row.attempts,
            next_at: row.next_at.map(Timestamp),
            last_error: row.last_error,
            created_at: Timestamp(row.created_at),
            done_at: row.done_at.map(Timestamp),
        })
    }
}

/// What is or was owed for a connection, oldest first; opens nothing.
pub async fn list(db: &Db, site: &SiteId, connection: &ConnectionId) -> Result<Vec<Revocation>> {
    let rows: Vec<ShownRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, provider, connection, status, reason, attempts, next_at, last_error, created_at, done_at FROM revocations
         WHERE site = $1 AND connection = $2 ORDER BY created_at, id"
    )
    .bind(site.as_str())
    .bind(connection.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Revocation::try_from).collect()
}

/// A site's newest revocations, newest first; at most `limit`.
pub async fn newest(db: &Db, site: &SiteId, limit: i64) -> Result<Vec<Revocation>> {
    let rows: Vec<ShownRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, provider, connection, status, reason, attempts, next_at, last_error, created_at, done_at FROM revocations
         WHERE site = $1 ORDER BY created_at DESC, id DESC LIMIT $2"
    )
    .bind(site.as_str())
    .bind(limit)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Revocation::try_from).collect()
}

/// Locks a live connection's row until the transaction ends, if it still is as it was read.
pub(super) async fn lock_unchanged(tx: &mut Tx, connection: &Connection) -> Result<bool> {
    let locked = on!(tx, |c| sqlx::query(
        "UPDATE connections SET revision = revision WHERE site = $1 AND id = $2 AND revision = $3 AND status <> 'revoked'"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.revision)
    .execute(c)
    .await?
    .rows_affected());
    Ok(locked == 1)
}

row! {
    struct OwedRow {
        site: String,
        id: String,
        provider: String,
        owner: String,
        name: String,
        connection: String,
        app_config_id: Option<String>,
        sealed: Option<Vec<u8>>,
        attempts: i64,
        next_at: Option<i64>,
        last_error: Option<String>,
        call_hosts: Option<String>,
    }
}

/// A revocation that is due, with what it needs.
pub(super) struct OwedItem {
    pub(super) site: SiteId,
    pub(super) id: RevocationId,
    pub(super) provider: ProviderName,
    pub(super) owner: Owner,
    pub(super) name: AccountName,
    pub(super) connection: ConnectionId,
    pub(super) app_config: Option<AppConfigId>,
    pub(super) sealed: Option<Vec<u8>>,
    /// How often the provider was asked before.
    pub(super) attempts: i64,
    next_at: Option<i64>,
    /// The stable word of the last failure.
    pub(super) last_error: Option<String>,
    /// The hosts that may be asked; absent in a row of an older release.
    pub(super) call_hosts: Option<Vec<String>>,
}

impl TryFrom<OwedRow> for OwedItem {
    type Error = Error;

    fn try_from(row: OwedRow) -> Result<Self> {
        Ok(Self {
            site: row.site.parse()?,
            id: row.id.parse()?,
            provider: row.provider.parse()?,
            owner: row.owner.parse()?,
            name: row.name.parse()?,
            connection: row.connection.parse()?,
            app_config: row.app_config_id.map(|id| id.parse()).transpose()?,
            sealed: row.sealed,
            attempts: row.attempts,
            next_at: row.next_at,
            last_error: row.last_error,
            call_hosts: row.call_hosts.map(|hosts| serde_json::from_str(&hosts).map_err(Error::internal)).transpose()?,
        })
    }
}

/// What is due, longest first.
pub(super) async fn due(db: &Db, now: Timestamp, limit: i64) -> Result<Vec<OwedItem>> {
    let rows: Vec<OwedRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, provider, owner, name, connection, app_config_id, sealed, attempts, next_at, last_error, call_hosts
         FROM revocations
         WHERE next_at IS NOT NULL AND next_at <= $1 AND status = 'pending' ORDER BY next_at, id LIMIT $2"
    )
    .bind(now.0)
    .bind(limit)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(OwedItem::try_from).collect()
}

/// What a connection owes and is due.
pub(super) async fn due_of(db: &Db, site: &SiteId, connection: &ConnectionId, now: Timestamp) -> Result<Vec<OwedItem>> {
    let rows: Vec<OwedRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, provider, owner, name, connection, app_config_id, sealed, attempts, next_at, last_error, call_hosts
         FROM revocations
         WHERE site = $1 AND connection = $2 AND next_at IS NOT NULL AND next_at <= $3 AND status = 'pending'
         ORDER BY next_at, id"
    )
    .bind(site.as_str())
    .bind(connection.as_str())
    .bind(now.0)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(OwedItem::try_from).collect()
}

/// Claims one until `until`, by which time it is settled or its claimer is dead. False when another replica has it.
pub(super) async fn claim(db: &Db, item: &OwedItem, until: Timestamp) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE revocations SET attempts = attempts + 1, next_at = $5
         WHERE site = $1 AND id = $2 AND attempts = $3 AND next_at = $4 AND status = 'pending'"
    )
    .bind(item.site.as_str())
    .bind(item.id.as_str())
    .bind(item.attempts)
    .bind(item.next_at)
    .bind(until.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

/// How a claim is settled.
pub(super) enum Settlement<'a> {
    /// It is over, with this status; what was sealed is erased.
    Over { status: &'a str, error: Option<&'a str>, now: Timestamp },
    /// It is tried again.
    Again { at: Timestamp, error: &'a str },
}

/// Settles a claim. False when it was lost to another replica meanwhile.
pub(super) async fn settle(tx: &mut Tx, item: &OwedItem, settlement: &Settlement<'_>) -> Result<bool> {
    let claimed = item.attempts + 1;
    let changed = match settlement {
        Settlement::Over { status, error, now } => on!(tx, |c| sqlx::query(
            "UPDATE revocations SET status = $4, last_error = $5, done_at = $6, next_at = NULL, sealed = NULL
             WHERE site = $1 AND id = $2 AND attempts = $3 AND status = 'pending'"
        )
        .bind(item.site.as_str())
        .bind(item.id.as_str())
        .bind(claimed)
        .bind(status)
        .bind(error)
        .bind(now.0)
        .execute(c)
        .await?
        .rows_affected()),
        Settlement::Again { at, error } => on!(tx, |c| sqlx::query(
            "UPDATE revocations SET next_at = $4, last_error = $5
             WHERE site = $1 AND id = $2 AND attempts = $3 AND status = 'pending'"
        )
        .bind(item.site.as_str())
        .bind(item.id.as_str())
        .bind(claimed)
        .bind(at.0)
        .bind(error)
        .execute(c)
        .await?
        .rows_affected()),
    };
    Ok(changed == 1)
}
