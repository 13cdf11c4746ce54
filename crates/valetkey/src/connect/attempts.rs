//! What a connect session remembers of the attempts to enter an account: how many there were, and whether one is under way.
//! Of two at once one is tried, and of two that succeed one is stored.

use super::store::{Flow, Session};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::Result,
    on,
};

/// Begins an attempt, for the browser that the session is bound to, or for this one where it is bound to none yet: from the
/// first attempt on it is bound. False where another one is under way until `until` of its own, or there were `most` already, or
/// the session is over.
pub(super) async fn begin(
    db: &Db,
    session: &Session,
    browser_hash: &str,
    most: i64,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE connect_sessions SET attempts = attempts + 1, trying_until = $6, browser_hash = $3
         WHERE site = $1 AND id = $2 AND (browser_hash IS NULL OR browser_hash = $3) AND used_at IS NULL AND expires_at > $5
           AND attempts < $4 AND (trying_until IS NULL OR trying_until <= $5)"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(browser_hash)
    .bind(most)
    .bind(now.0)
    .bind(until.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

/// How many attempts there were.
pub(super) async fn count(db: &Db, session: &Session) -> Result<i64> {
    let row: Option<(i64,)> = on!(db, |c| sqlx::query_as("SELECT attempts FROM connect_sessions WHERE site = $1 AND id = $2")
        .bind(session.site.as_str())
        .bind(session.id.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.map_or(0, |(attempts,)| attempts))
}

/// Ends an attempt that failed: the next one may begin.
pub(super) async fn end(tx: &mut Tx, session: &Session) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE connect_sessions SET trying_until = NULL WHERE site = $1 AND id = $2")
        .bind(session.site.as_str())
        .bind(session.id.as_str())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Uses a session up. False when that was done before: by another attempt, or because the person cancelled.
pub(super) async fn use_up(tx: &mut Tx, flow: &Flow, now: Timestamp) -> Result<bool> {
    let changed =
        on!(tx, |c| sqlx::query("UPDATE connect_sessions SET used_at = $3 WHERE site = $1 AND id = $2 AND used_at IS NULL")
            .bind(flow.site.as_str())
            .bind(flow.session.as_str())
            .bind(now.0)
            .execute(c)
            .await?
            .rows_affected());
    Ok(changed == 1)
}
