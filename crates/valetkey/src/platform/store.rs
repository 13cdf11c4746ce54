//! The rows of platform keys, used assertions and people.

use sqlx::FromRow as _;

use super::{Asserts, PlatformKey};
use crate::{
    clock::Timestamp,
    db::{Db, Either, Line, Target as _, Tx, of_each},
    error::{Error, Result},
    id::{PlatformKeyId, SiteId, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct KeyRow {
        site: String,
        id: String,
        prefix: String,
        label: String,
        scopes: String,
        asserts: String,
        jwks_url: Option<String>,
        sealed: Vec<u8>,
        created_at: i64,
        expires_at: Option<i64>,
        revoked_at: Option<i64>,
    }
}

impl KeyRow {
    fn read(self) -> Result<(PlatformKey, Vec<u8>)> {
        let key = PlatformKey {
            id: self.id.parse()?,
            site: self.site.parse()?,
            prefix: self.prefix,
            label: self.label,
            scopes: serde_json::from_str(&self.scopes).map_err(Error::internal)?,
            asserts: serde_json::from_str(&self.asserts).map_err(Error::internal)?,
            jwks_url: self.jwks_url,
            created_at: Timestamp(self.created_at),
            expires_at: self.expires_at.map(Timestamp),
            revoked_at: self.revoked_at.map(Timestamp),
        };
        Ok((key, self.sealed))
    }
}

pub(super) async fn insert(tx: &mut Tx, key: &PlatformKey, hash: &str, sealed: &[u8], actor: &Actor) -> Result<()> {
    let scopes = serde_json::to_string(&key.scopes).map_err(Error::internal)?;
    let asserts = serde_json::to_string(&key.asserts).map_err(Error::internal)?;
    on!(tx, |c| {
        sqlx::query(
        "INSERT INTO platform_keys (site, id, key_hash, prefix, label, scopes, asserts, sealed, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
    )
    .bind(key.site.as_str())
    .bind(key.id.as_str())
    .bind(hash)
    .bind(&key.prefix)
    .bind(&key.label)
    .bind(&scopes)
    .bind(&asserts)
    .bind(sealed)
    .bind(actor.to_string())
    .bind(key.created_at.0)
    .bind(key.expires_at.map(|t| t.0))
    .execute(c)
    .await
    .map(|_| ())?
    });
    Ok(())
}

/// The keys of many hashes, with one statement. What comes of each stands at its place.
pub(super) async fn by_hashes(line: &mut Line, hashes: &[String]) -> Result<Vec<Result<Option<PlatformKey>>>> {
    // A hash is of one key at most.
    match line.split() {
        Either::Sqlite(c) => {
            let rows = sqlx::query(
                "SELECT asked.key + 1 AS number, k.site, k.id, k.prefix, k.label, k.scopes, k.asserts, k.jwks_url, k.sealed,
                        k.created_at, k.expires_at, k.revoked_at
                 FROM json_each($1) asked CROSS JOIN platform_keys k ON k.key_hash = asked.value
                 WHERE NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = k.site AND s.disabled_at IS NOT NULL)",
            );
            let rows = rows.bind(serde_json::to_string(hashes).map_err(Error::internal)?).fetch_all(c).await?;
            Ok(of_each(rows, hashes.len())?.iter().map(|rows| rows.first().map(read).transpose()).collect())
        }
        Either::Postgres(c) => {
            // As text and one at a time, for the reasons that stand at the facts of many pairs.
            let rows = sqlx::query(
                "SELECT asked.number, k.*
                 FROM STRING_TO_TABLE($1, ',') WITH ORDINALITY AS asked (hash, number)
                 CROSS JOIN LATERAL (
                   SELECT site, id, prefix, label, scopes, asserts, jwks_url, sealed, created_at, expires_at, revoked_at
                   FROM platform_keys k WHERE key_hash = asked.hash
                     AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = k.site AND s.disabled_at IS NOT NULL) OFFSET 0) k",
            );
            let rows = rows.bind(hashes.join(",")).fetch_all(c).await?;
            Ok(of_each(rows, hashes.len())?.iter().map(|rows| rows.first().map(read).transpose()).collect())
        }
    }
}

fn read<'r, R: sqlx::Row>(row: &'r R) -> Result<PlatformKey>
where
    KeyRow: sqlx::FromRow<'r, R>,
{
    Ok(KeyRow::from_row(row)?.read()?.0)
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &PlatformKeyId) -> Result<Option<(PlatformKey, Vec<u8>)>> {
    let row: Option<KeyRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, prefix, label, scopes, asserts, jwks_url, sealed, created_at, expires_at, revoked_at
         FROM platform_keys WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(KeyRow::read).transpose()
}

/// The key of this id, whatever its site: for an assertion that names nothing but the key. A disabled site has none.
pub(super) async fn anywhere(db: &Db, id: &PlatformKeyId) -> Result<Option<(PlatformKey, Vec<u8>)>> {
    let rows: Vec<KeyRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, prefix, label, scopes, asserts, jwks_url, sealed, created_at, expires_at, revoked_at
         FROM platform_keys k WHERE id = $1
            AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = k.site AND s.disabled_at IS NOT NULL) LIMIT 2"
    )
    .bind(id.as_str())
    .fetch_all(c)
    .await?);
    // Ids are random, and unique only within a site: two that are alike name nobody.
    match <[KeyRow; 1]>::try_from(rows) {
        Ok([row]) => row.read().map(Some),
        Err(_) => Ok(None),
    }
}

row! {
    /// What was read at a key's JWKS URL.
    pub(super) struct Jwks {
        /// The set.
        pub(super) jwks: String,
        /// When it was read.
        pub(super) jwks_at: i64,
        /// When somebody last set out to read it.
        pub(super) jwks_asked_at: i64,
    }
}

pub(super) async fn jwks(db: &Db, key: &PlatformKey) -> Result<Option<Jwks>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT jwks, jwks_at, jwks_asked_at FROM platform_keys WHERE site = $1 AND id = $2 AND jwks_url = $3"
    )
    .bind(key.site.as_str())
    .bind(key.id.as_str())
    .bind(&key.jwks_url)
    .fetch_optional(c)
    .await?))
}

/// Sets out to read a key's JWKS anew. False where somebody did since `before`; a moment that is still to come was written by
/// a clock that was wrong, and holds nobody up.
pub(super) async fn ask_jwks(db: &Db, key: &PlatformKey, before: Timestamp, now: Timestamp) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE platform_keys SET jwks_asked_at = $4
         WHERE site = $1 AND id = $2 AND jwks_url = $5
           AND (jwks_asked_at <= $3 OR jwks_asked_at > $4)"
    )
    .bind(key.site.as_str())
    .bind(key.id.as_str())
    .bind(before.0)
    .bind(now.0)
    .bind(&key.jwks_url)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

/// Keeps what was read at a key's JWKS URL, unless it has another URL by now.
pub(super) async fn keep_jwks(db: &Db, key: &PlatformKey, text: &str, now: Timestamp) -> Result<()> {
    let mut tx = db.begin_bookkeeping().await?;
    on!(&mut tx, |c| sqlx::query(
        "UPDATE platform_keys SET jwks = $3, jwks_at = $4 WHERE site = $1 AND id = $2 AND jwks_url = $5"
    )
    .bind(key.site.as_str())
    .bind(key.id.as_str())
    .bind(text)
    .bind(now.0)
    .bind(&key.jwks_url)
    .execute(c)
    .await
    .map(|_| ())?);
    tx.commit().await
}

/// Sets or clears a live key's JWKS URL, with what was read there. False where there is no such key.
pub(super) async fn set_jwks(
    tx: &mut Tx,
    site: &SiteId,
    id: &PlatformKeyId,
    kept: Option<(&str, &str)>,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE platform_keys SET jwks_url = $3, jwks = $4, jwks_at = $5, jwks_asked_at = $5
         WHERE site = $1 AND id = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(kept.map(|(url, _)| url))
    .bind(kept.map(|(_, text)| text))
    .bind(kept.map(|_| now.0))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn of_site(db: &Db, site: &SiteId) -> Result<Vec<PlatformKey>> {
    let rows: Vec<KeyRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, prefix, label, scopes, asserts, jwks_url, sealed, created_at, expires_at, revoked_at
         FROM platform_keys WHERE site = $1 ORDER BY created_at DESC, id DESC"
    )
    .bind(site.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter().map(|row| row.read().map(|(key, _)| key)).collect()
}

pub(super) async fn revoke(tx: &mut Tx, site: &SiteId, id: &PlatformKeyId, actor: &Actor, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE platform_keys SET revoked_at = $3, revoked_by = $4 WHERE site = $1 AND id = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Marks an assertion as used; false when it was used before. Expired marks are swept on the way, well after their time:
/// a replica whose clock is behind must still find them.
pub(super) async fn use_assertion(db: &Db, site: &SiteId, jti_hash: &str, until: Timestamp, now: Timestamp) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    on!(&mut tx, |c| sqlx::query("DELETE FROM assertions WHERE site = $1 AND expires_at < $2")
        .bind(site.as_str())
        .bind(now.minus(std::time::Duration::from_secs(600)).0)
        .execute(c)
        .await
        .map(|_| ())?);
    let inserted = on!(&mut tx, |c| sqlx::query(
        "INSERT INTO assertions (site, jti_hash, expires_at) VALUES ($1, $2, $3) ON CONFLICT (site, jti_hash) DO NOTHING"
    )
    .bind(site.as_str())
    .bind(jti_hash)
    .bind(until.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(inserted == 1)
}

pub(super) async fn person_is_disabled(db: &Db, site: &SiteId, user: &UserId) -> Result<bool> {
    let row: Option<(String,)> =
        on!(db, |c| sqlx::query_as("SELECT id FROM people WHERE site = $1 AND id = $2 AND disabled_at IS NOT NULL")
            .bind(site.as_str())
            .bind(user.as_str())
            .fetch_optional(c)
            .await?);
    Ok(row.is_some())
}

/// False where the person was erased: that stays.
pub(super) async fn set_person_disabled(
    tx: &mut Tx,
    site: &SiteId,
    user: &UserId,
    now: Timestamp,
    disabled: bool,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "INSERT INTO people (site, id, created_at, disabled_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (site, id) DO UPDATE SET disabled_at = excluded.disabled_at WHERE people.erased_at IS NULL"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .bind(disabled.then_some(now.0))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn mark_erased(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "INSERT INTO people (site, id, created_at, disabled_at, erased_at) VALUES ($1, $2, $3, $3, $3)
         ON CONFLICT (site, id) DO UPDATE SET disabled_at = COALESCE(people.disabled_at, excluded.disabled_at),
            erased_at = excluded.erased_at
         WHERE people.erased_at IS NULL"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// The keys whose people might hold a person, with those as they are stored; ended ones too.
pub(super) async fn naming(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<Vec<(String, String)>> {
    Ok(on!(tx, |c| sqlx::query_as(
        "SELECT id, asserts FROM platform_keys WHERE site = $1 AND REPLACE(asserts, $2, '') <> asserts"
    )
    .bind(site.as_str())
    .bind(format!("\"{user}\""))
    .fetch_all(c)
    .await?))
}

pub(super) async fn set_asserts(tx: &mut Tx, site: &SiteId, id: &str, asserts: &Asserts) -> Result<()> {
    let asserts = serde_json::to_string(asserts).map_err(Error::internal)?;
    on!(tx, |c| sqlx::query("UPDATE platform_keys SET asserts = $3 WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id)
        .bind(&asserts)
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

pub(super) async fn being_erased(db: &Db) -> Result<Vec<(SiteId, UserId, Timestamp)>> {
    let rows: Vec<(String, String, i64)> = on!(db, |c| {
        sqlx::query_as(
        "SELECT site, id, erased_at FROM people WHERE erased_at IS NOT NULL AND erase_done_at IS NULL ORDER BY erased_at LIMIT 100"
    )
    .fetch_all(c)
    .await?
    });
    rows.into_iter().map(|(site, user, since)| Ok((site.parse()?, user.parse()?, Timestamp(since)))).collect()
}

pub(super) async fn mark_erase_done(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE people SET erase_done_at = $3 WHERE site = $1 AND id = $2 AND erased_at IS NOT NULL")
        .bind(site.as_str())
        .bind(user.as_str())
        .bind(now.0)
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Adds a person who is disabled. False when there is one already.
pub(super) async fn add_disabled(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<bool> {
    let added = on!(tx, |c| sqlx::query(
        "INSERT INTO people (site, id, created_at, disabled_at) VALUES ($1, $2, $3, $3) ON CONFLICT (site, id) DO NOTHING"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(added == 1)
}
