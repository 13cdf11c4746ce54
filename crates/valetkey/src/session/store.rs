//! The rows of sessions.

use super::Session;
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{PlatformKeyId, SessionId, SiteId, UserId},
    on, row,
};

row! {
    struct SessionRow {
        site: String,
        id: String,
        person: String,
        platform_key: Option<String>,
        opened_at: i64,
        expires_at: i64,
    }
}

impl TryFrom<SessionRow> for Session {
    type Error = Error;

    fn try_from(row: SessionRow) -> Result<Self> {
        Ok(Self {
            site: row.site.parse()?,
            id: row.id.parse()?,
            user: row.person.parse()?,
            platform_key: row.platform_key.map(|key| key.parse()).transpose()?,
            opened_at: Timestamp(row.opened_at),
            expires_at: Timestamp(row.expires_at),
        })
    }
}

pub(super) async fn insert(tx: &mut Tx, session: &Session, secret_hash: &str) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "INSERT INTO sessions (site, id, secret_hash, person, platform_key, opened_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)"
    )
    .bind(session.site.as_str())
    .bind(session.id.as_str())
    .bind(secret_hash)
    .bind(session.user.as_str())
    .bind(session.platform_key.as_ref().map(PlatformKeyId::as_str))
    .bind(session.opened_at.0)
    .bind(session.expires_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Ends all but the newest sessions of a person.
pub(super) async fn make_room(tx: &mut Tx, site: &SiteId, user: &UserId, keep: i64) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "DELETE FROM sessions
         WHERE site = $1 AND person = $2
           AND id NOT IN (SELECT n.id FROM sessions n WHERE n.site = $1 AND n.person = $2
                          ORDER BY n.opened_at DESC, n.id DESC LIMIT $3)"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(keep)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// The session behind a secret, while its time, its person, its site and the key that vouched for it last.
pub(super) async fn by_secret(db: &Db, secret_hash: &str, now: Timestamp) -> Result<Option<Session>> {
    let row: Option<SessionRow> = on!(db, |c| sqlx::query_as(
        "SELECT s.site, s.id, s.person, s.platform_key, s.opened_at, s.expires_at
         FROM sessions s
         WHERE s.secret_hash = $1 AND s.expires_at > $2
           AND NOT EXISTS (SELECT 1 FROM sites t WHERE t.id = s.site AND t.disabled_at IS NOT NULL)
           AND NOT EXISTS (SELECT 1 FROM people p WHERE p.site = s.site AND p.id = s.person AND p.disabled_at IS NOT NULL)
           AND (s.platform_key IS NULL
                OR EXISTS (SELECT 1 FROM platform_keys k
                           WHERE k.site = s.site AND k.id = s.platform_key AND k.revoked_at IS NULL
                             AND (k.expires_at IS NULL OR k.expires_at > $2)))"
    )
    .bind(secret_hash)
    .bind(now.0)
    .fetch_optional(c)
    .await?);
    row.map(Session::try_from).transpose()
}

pub(super) async fn of_person(db: &Db, site: &SiteId, user: &UserId, now: Timestamp) -> Result<Vec<Session>> {
    let rows: Vec<SessionRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, person, platform_key, opened_at, expires_at
         FROM sessions WHERE site = $1 AND person = $2 AND expires_at > $3 ORDER BY opened_at DESC, id DESC"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Session::try_from).collect()
}

pub(super) async fn delete(tx: &mut Tx, site: &SiteId, id: &SessionId) -> Result<bool> {
    let gone = on!(tx, |c| sqlx::query("DELETE FROM sessions WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .execute(c)
        .await?
        .rows_affected());
    Ok(gone == 1)
}

pub(super) async fn delete_of(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM sessions WHERE site = $1 AND person = $2")
        .bind(site.as_str())
        .bind(user.as_str())
        .execute(c)
        .await?
        .rows_affected()))
}

pub(super) async fn sweep(tx: &mut Tx, now: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(now.0).execute(c).await?.rows_affected()))
}
