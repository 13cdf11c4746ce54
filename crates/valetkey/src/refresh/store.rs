//! The columns of a connection that a refresh writes. Each write is one row and compares before it sets.
//!
//! Leases, journals and failures change nobody's authority and leave the epoch alone. What changes tokens or status
//! moves it, because the sealed account and the status are among the facts that a decision may have cached.

use crate::{
    clock::Timestamp,
    connection::{Connection, Tokens},
    db::{Db, Tx},
    error::Result,
    id::{ConnectionId, SiteId},
    on, row,
};

/// How a lease is taken.
pub(super) struct Take<'a> {
    /// The lease as it was read.
    pub(super) lease_as_read: i64,
    /// Who takes it.
    pub(super) holder: &'a str,
    /// Whether the one recovery attempt for this version is being made.
    pub(super) recovery: bool,
    /// When the provider's refusal of the token forced it, if it did.
    pub(super) forced_at: Option<Timestamp>,
}

/// Takes the lease and journals that this version is being spent under it: one statement, one commit.
///
/// False when anything moved since the row was read.
pub(super) async fn take_lease(db: &Db, connection: &Connection, take: &Take<'_>) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE connections SET lease_number = lease_number + 1, lease_holder = $5, spending_version = version,
            spending_lease = lease_number + 1, recovered_version = CASE WHEN $6 = 1 THEN version ELSE recovered_version END,
            forced_at = COALESCE($7, forced_at)
         WHERE site = $1 AND id = $2 AND version = $3 AND lease_number = $4 AND status = 'active'"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.version)
    .bind(take.lease_as_read)
    .bind(take.holder)
    .bind(i64::from(take.recovery))
    .bind(take.forced_at.map(|t| t.0))
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

/// How a lease ends without new tokens.
pub(super) struct Release<'a> {
    /// The lease that ends; another one is left alone.
    pub(super) lease: i64,
    /// Whether the journal stays: the version may have been spent.
    pub(super) keep_journal: bool,
    /// When to try again, and when the keeper should look again; absent leaves both and the count of failures alone.
    pub(super) failure: Option<Failed<'a>>,
}

/// A failure as it is noted.
pub(super) struct Failed<'a> {
    pub(super) retry_at: Timestamp,
    pub(super) refresh_at: Timestamp,
    pub(super) error: &'a str,
}

/// Ends a lease. False when it is not that lease any more, or the tokens changed meanwhile.
///
/// The recovery attempt counts as not made: what ends a lease without new tokens and without ending the connection is an
/// attempt of which we know that it spent nothing.
pub(super) async fn release(tx: &mut Tx, connection: &Connection, release: &Release<'_>) -> Result<bool> {
    let failure = release.failure.as_ref();
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connections SET lease_holder = NULL, spending_version = CASE WHEN $5 = 1 THEN version ELSE NULL END,
            spending_lease = CASE WHEN $5 = 1 THEN spending_lease ELSE NULL END, recovered_version = NULL,
            failures = failures + $6, retry_at = COALESCE($7, retry_at),
            refresh_at = CASE WHEN refresh_at IS NULL THEN NULL ELSE COALESCE($8, refresh_at) END,
            last_error = COALESCE($9, last_error)
         WHERE site = $1 AND id = $2 AND version = $3 AND lease_number = $4"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.version)
    .bind(release.lease)
    .bind(i64::from(release.keep_journal))
    .bind(i64::from(failure.is_some()))
    .bind(failure.map(|f| f.retry_at.0))
    .bind(failure.map(|f| f.refresh_at.0))
    .bind(failure.map(|f| f.error))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Ends a lease, and notes that the refresh token is over and a login is what is left. False when it is not that lease any
/// more, or the tokens changed meanwhile.
pub(super) async fn fall_back(tx: &mut Tx, connection: &Connection, lease: i64) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connections SET renewal = 'remint', lease_holder = NULL, spending_version = NULL, spending_lease = NULL,
            recovered_version = NULL, failures = 0, retry_at = NULL
         WHERE site = $1 AND id = $2 AND version = $3 AND lease_number = $4 AND status = 'active' AND renewal = 'refresh_token'"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.version)
    .bind(lease)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Notes that a refresh could not even be asked for. Only while nobody holds the lease, and of several at once only one. False
/// when nothing was noted.
pub(super) async fn note_failure(tx: &mut Tx, connection: &Connection, failed: &Failed<'_>) -> Result<bool> {
    let changed = on!(tx, |c| {
        sqlx::query(
        "UPDATE connections SET failures = failures + 1, retry_at = $4, refresh_at = CASE WHEN refresh_at IS NULL THEN NULL ELSE $5 END,
            last_error = $6
         WHERE site = $1 AND id = $2 AND version = $3 AND status = 'active' AND lease_holder IS NULL AND failures = $7"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.version)
    .bind(failed.retry_at.0)
    .bind(failed.refresh_at.0)
    .bind(failed.error)
    .bind(connection.failures)
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}

/// Tells the keeper to look again later, or never: nothing can be done about this version before.
pub(super) async fn park(db: &Db, connection: &Connection, now: Timestamp, refresh_at: Option<Timestamp>) -> Result<()> {
    let mut tx = db.begin_bookkeeping().await?;
    on!(&mut tx, |c| sqlx::query(
        "UPDATE connections SET refresh_at = $5
         WHERE site = $1 AND id = $2 AND version = $3 AND refresh_at <= $4"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .bind(connection.version)
    .bind(now.0)
    .bind(refresh_at.map(|t| t.0))
    .execute(c)
    .await
    .map(|_| ())?);
    tx.commit().await
}

/// Writes new tokens over the revision that was read, and moves the version. False when the row changed meanwhile.
///
/// The lease ends if it is still ours; another one is left to its holder, who will find the version moved.
pub(super) async fn write_tokens(
    tx: &mut Tx,
    old: &Connection,
    sealed: &[u8],
    tokens: &Tokens,
    lease: i64,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| {
        sqlx::query(
        "UPDATE connections SET status = 'active', status_reason = NULL, sealed = $5, version = version + 1, revision = revision + 1,
            scopes = COALESCE($6, scopes), renewal = $7, access_expires_at = $8, access_issued_at = $9,
            usual_life = COALESCE($10, usual_life), refresh_expires_at = COALESCE($11, refresh_expires_at), refresh_at = $12,
            last_refreshed_at = $13, updated_at = $13, failures = 0, retry_at = NULL, last_error = NULL,
            lease_holder = CASE WHEN lease_number = $14 THEN NULL ELSE lease_holder END,
            spending_version = CASE WHEN lease_number = $14 THEN NULL ELSE spending_version END,
            spending_lease = CASE WHEN lease_number = $14 THEN NULL ELSE spending_lease END
         WHERE site = $1 AND id = $2 AND version = $3 AND revision = $4 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.version)
    .bind(old.revision)
    .bind(sealed)
    .bind(tokens.scopes.as_ref().map(|scopes| serde_json::json!(scopes).to_string()))
    .bind(tokens.renewal.as_str())
    .bind(tokens.expires_at.map(|t| t.0))
    .bind(tokens.issued_at.map(|t| t.0))
    .bind(tokens.usual_life)
    .bind(tokens.refresh_expires_at.map(|t| t.0))
    .bind(tokens.refresh_at.map(|t| t.0))
    .bind(now.0)
    .bind(lease)
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}

/// Writes an account over the revision that was read, and leaves everything about the connection's own token as it is. With
/// `new_tokens` the version moves, and with it what is journaled of the version: that one was or was not spent is as true of the
/// next. False when the row changed meanwhile.
pub(super) async fn write_account(
    tx: &mut Tx,
    old: &Connection,
    sealed: &[u8],
    new_tokens: bool,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE connections SET sealed = $5, revision = revision + 1, version = version + $6,
            spending_version = CASE WHEN spending_version = version THEN version + $6 ELSE spending_version END,
            recovered_version = CASE WHEN recovered_version = version THEN version + $6 ELSE recovered_version END,
            updated_at = $7
         WHERE site = $1 AND id = $2 AND version = $3 AND revision = $4 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.version)
    .bind(old.revision)
    .bind(sealed)
    .bind(i64::from(new_tokens))
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

row! {
    /// A connection that the keeper should look at.
    #[derive(Clone, Debug)]
    pub(super) struct Due {
        pub(super) site: String,
        pub(super) id: String,
        pub(super) app_config_id: Option<String>,
        pub(super) refresh_at: i64,
    }
}

impl Due {
    /// Before every row.
    pub(super) fn start() -> Self {
        Self { site: String::new(), id: String::new(), app_config_id: None, refresh_at: i64::MIN }
    }

    pub(super) fn ids(&self) -> Result<(SiteId, ConnectionId)> {
        Ok((self.site.parse()?, self.id.parse()?))
    }
}

/// The providers of which a connection is due.
///
/// It goes from one provider to the next along the index, so that it costs the same however many connections each has.
pub(super) async fn providers_due(db: &Db, now: Timestamp) -> Result<Vec<String>> {
    let rows: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "WITH RECURSIVE known (provider) AS (
             SELECT MIN(provider) FROM connections WHERE refresh_at IS NOT NULL
             UNION ALL
             SELECT (SELECT MIN(c.provider) FROM connections c WHERE c.refresh_at IS NOT NULL AND c.provider > known.provider)
             FROM known WHERE known.provider IS NOT NULL
         )
         SELECT provider FROM known
         WHERE EXISTS (SELECT 1 FROM connections c
             WHERE c.provider = known.provider AND c.refresh_at IS NOT NULL AND c.refresh_at <= $1 AND c.status = 'active')"
    )
    .bind(now.0)
    .fetch_all(c)
    .await?);
    Ok(rows.into_iter().map(|(provider,)| provider).collect())
}

/// A provider's next connections that are due, after this one, in the order in which they became so; none of a site that is
/// disabled.
pub(super) async fn due(db: &Db, provider: &str, now: Timestamp, after: &Due, limit: i64) -> Result<Vec<Due>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, id, app_config_id, refresh_at FROM connections
         WHERE provider = $6 AND refresh_at IS NOT NULL AND refresh_at <= $1 AND refresh_at >= $2
           AND (refresh_at > $2 OR site > $3 OR (site = $3 AND id > $4)) AND status = 'active'
           AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = connections.site AND s.disabled_at IS NOT NULL)
         ORDER BY refresh_at, site, id LIMIT $5"
    )
    .bind(now.0)
    .bind(after.refresh_at)
    .bind(&after.site)
    .bind(&after.id)
    .bind(limit)
    .bind(provider)
    .fetch_all(c)
    .await?))
}

row! {
    /// A connection that may be near the end of its life.
    #[derive(Clone, Debug)]
    pub(super) struct Near {
        pub(super) site: String,
        pub(super) id: String,
    }
}

/// Active connections whose refresh token, or access token that no refresh token renews, ends between `now` and `before`, and
/// that were not warned of for this end, by site and id after `after`; none of a site that is disabled.
pub(super) async fn near_their_end(
    db: &Db,
    now: Timestamp,
    before: Timestamp,
    after: (&str, &str),
    limit: i64,
) -> Result<Vec<Near>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, id FROM connections
         WHERE status = 'active' AND (site > $3 OR (site = $3 AND id > $4))
           AND ((renewal = 'refresh_token' AND refresh_expires_at > $1 AND refresh_expires_at <= $2
                 AND (warned_end IS NULL OR warned_end < refresh_expires_at))
             OR (renewal IN ('none', 'extend') AND access_expires_at > $1 AND access_expires_at <= $2
                 AND (warned_end IS NULL OR warned_end < access_expires_at)))
           AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = connections.site AND s.disabled_at IS NOT NULL)
         ORDER BY site, id LIMIT $5"
    )
    .bind(now.0)
    .bind(before.0)
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await?))
}
