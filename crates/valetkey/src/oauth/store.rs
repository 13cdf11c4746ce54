//! The rows of clients, codes, sign-ins on other devices and refresh tokens.

use std::time::Duration;

use super::client::Client;
use crate::{
    clock::Timestamp,
    db::{Db, Either, Target as _, Tx},
    error::{Error, Result},
    id::{AgentId, ClientId, FamilyId, SiteId, UserId},
    on,
    principal::{Actor, Ceiling},
    row,
    token::Audience,
};

/// How often it is written at most when a client was last used.
const USED_EVERY: Duration = Duration::from_secs(60);

row! {
    struct ClientRow {
        site: String,
        id: String,
        name: String,
        secret_hash: Option<String>,
        redirect_uris: String,
        grant_types: String,
        ceiling: Option<String>,
        agent: Option<String>,
        registered_at: Option<i64>,
        used_at: Option<i64>,
        created_at: i64,
        revoked_at: Option<i64>,
    }
}

impl TryFrom<ClientRow> for Client {
    type Error = Error;

    fn try_from(row: ClientRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            site: row.site.parse()?,
            name: row.name,
            confidential: row.secret_hash.is_some(),
            redirect_uris: serde_json::from_str(&row.redirect_uris).map_err(Error::internal)?,
            grant_types: serde_json::from_str(&row.grant_types).map_err(Error::internal)?,
            // One that cannot be read is an error, and so lets nothing through.
            ceiling: row.ceiling.as_deref().map(serde_json::from_str).transpose().map_err(Error::internal)?,
            agent: row.agent.map(|agent| agent.parse()).transpose()?,
            registered_at: row.registered_at.map(Timestamp),
            used_at: row.used_at.map(Timestamp),
            created_at: Timestamp(row.created_at),
            revoked_at: row.revoked_at.map(Timestamp),
            secret_hash: row.secret_hash,
        })
    }
}

pub(super) async fn insert_client(tx: &mut Tx, client: &Client, actor: &Actor) -> Result<()> {
    let redirects = serde_json::to_string(&client.redirect_uris).map_err(Error::internal)?;
    let grants = serde_json::to_string(&client.grant_types).map_err(Error::internal)?;
    let ceiling = client.ceiling.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO oauth_clients (site, id, name, secret_hash, redirect_uris, grant_types, ceiling, agent, registered_at,
                                        created_by, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(client.site.as_str())
        .bind(client.id.as_str())
        .bind(&client.name)
        .bind(&client.secret_hash)
        .bind(&redirects)
        .bind(&grants)
        .bind(&ceiling)
        .bind(client.agent.as_ref().map(AgentId::as_str))
        .bind(client.registered_at.map(|at| at.0))
        .bind(actor.to_string())
        .bind(client.created_at.0)
        .execute(c)
        .await
        .map(|_| ())?
    });
    Ok(())
}

pub(super) async fn client(db: &Db, id: &ClientId) -> Result<Option<Client>> {
    let row: Option<ClientRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, name, secret_hash, redirect_uris, grant_types, ceiling, agent, registered_at, used_at, created_at,
                revoked_at
         FROM oauth_clients WHERE id = $1"
    )
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Client::try_from).transpose()
}

/// A client that is not revoked, of a site that is not disabled.
pub(super) async fn live_client(db: &Db, id: &ClientId) -> Result<Option<Client>> {
    let row: Option<ClientRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, name, secret_hash, redirect_uris, grant_types, ceiling, agent, registered_at, used_at, created_at,
                revoked_at
         FROM oauth_clients o WHERE id = $1 AND revoked_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.id = o.site AND s.disabled_at IS NOT NULL)"
    )
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Client::try_from).transpose()
}

pub(super) async fn clients(db: &Db, site: &SiteId, after: Option<&ClientId>, limit: u32) -> Result<Vec<Client>> {
    let rows: Vec<ClientRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, name, secret_hash, redirect_uris, grant_types, ceiling, agent, registered_at, used_at, created_at,
                revoked_at
         FROM oauth_clients
         WHERE site = $1
           AND ($2 = '' OR (created_at, id) < (SELECT b.created_at, b.id FROM oauth_clients b WHERE b.site = $1 AND b.id = $2))
         ORDER BY created_at DESC, id DESC LIMIT $3"
    )
    .bind(site.as_str())
    .bind(after.map_or("", ClientId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Client::try_from).collect()
}

pub(super) async fn revoke_client(tx: &mut Tx, site: &SiteId, id: &ClientId, actor: &Actor, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE oauth_clients SET revoked_at = $3, revoked_by = $4 WHERE site = $1 AND id = $2 AND revoked_at IS NULL"
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

/// Holds a live client until the transaction ends: nobody revokes it meanwhile. False where it is revoked.
///
/// Any number of transactions hold it at once, so that tokens of one client do not wait for one another. When it was last used
/// is written by the first of a minute.
pub(super) async fn hold_client(tx: &mut Tx, client: &Client, now: Timestamp) -> Result<bool> {
    let long_ago = now.minus(USED_EVERY);
    if client.used_at.is_none_or(|at| at < long_ago) {
        // Before the lock that is shared: of two who had it neither could write.
        let written = on!(&mut *tx, |c| sqlx::query(
            "UPDATE oauth_clients SET used_at = $2
             WHERE id = $1 AND revoked_at IS NULL AND (used_at IS NULL OR used_at < $3)"
        )
        .bind(client.id.as_str())
        .bind(now.0)
        .bind(long_ago.0)
        .execute(c)
        .await?
        .rows_affected());
        if written == 1 {
            return Ok(true);
        }
    }
    let held: Option<(String,)> = match tx.split() {
        // A transaction there has the writer to itself.
        Either::Sqlite(c) => {
            sqlx::query_as("SELECT id FROM oauth_clients WHERE id = $1 AND revoked_at IS NULL")
                .bind(client.id.as_str())
                .fetch_optional(c)
                .await?
        }
        Either::Postgres(c) => {
            sqlx::query_as("SELECT id FROM oauth_clients WHERE id = $1 AND revoked_at IS NULL FOR SHARE")
                .bind(client.id.as_str())
                .fetch_optional(c)
                .await?
        }
    };
    Ok(held.is_some())
}

/// Whether clients may register themselves at a site.
pub(super) async fn is_open(db: &Db, site: &SiteId) -> Result<bool> {
    Ok(open_sites(db).await?.contains(site))
}

/// The sites at which clients may register themselves.
pub(super) async fn open_sites(db: &Db) -> Result<Vec<SiteId>> {
    let rows: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT r.site FROM oauth_registration r JOIN sites s ON s.id = r.site WHERE s.disabled_at IS NULL ORDER BY r.site"
    )
    .fetch_all(c)
    .await?);
    rows.into_iter().map(|(site,)| site.parse()).collect()
}

pub(super) async fn set_open(tx: &mut Tx, site: &SiteId, open: bool, now: Timestamp) -> Result<bool> {
    let changed = match open {
        true => on!(tx, |c| sqlx::query(
            "INSERT INTO oauth_registration (site, open_at) VALUES ($1, $2) ON CONFLICT (site) DO NOTHING"
        )
        .bind(site.as_str())
        .bind(now.0)
        .execute(c)
        .await?
        .rows_affected()),
        false => on!(tx, |c| sqlx::query("DELETE FROM oauth_registration WHERE site = $1")
            .bind(site.as_str())
            .execute(c)
            .await?
            .rows_affected()),
    };
    Ok(changed == 1)
}

/// An authorization code as it is stored.
#[derive(Clone, Debug)]
pub(super) struct AuthCode {
    pub(super) site: SiteId,
    pub(super) family: FamilyId,
    pub(super) redirect_uri: Option<String>,
    pub(super) challenge: String,
    pub(super) expires_at: Timestamp,
    pub(super) used_at: Option<Timestamp>,
}

row! {
    struct CodeRow {
        site: String,
        family: String,
        redirect_uri: Option<String>,
        challenge: String,
        expires_at: i64,
        used_at: Option<i64>,
    }
}

pub(super) async fn insert_code(tx: &mut Tx, hash: &str, code: &AuthCode) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "INSERT INTO oauth_codes (code_hash, site, family, redirect_uri, challenge, expires_at) VALUES ($1, $2, $3, $4, $5, $6)"
    )
    .bind(hash)
    .bind(code.site.as_str())
    .bind(code.family.as_str())
    .bind(&code.redirect_uri)
    .bind(&code.challenge)
    .bind(code.expires_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn code(db: &Db, hash: &str) -> Result<Option<AuthCode>> {
    let row: Option<CodeRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, family, redirect_uri, challenge, expires_at, used_at FROM oauth_codes WHERE code_hash = $1"
    )
    .bind(hash)
    .fetch_optional(c)
    .await?);
    let Some(row) = row else { return Ok(None) };
    Ok(Some(AuthCode {
        site: row.site.parse()?,
        family: row.family.parse()?,
        redirect_uri: row.redirect_uri,
        challenge: row.challenge,
        expires_at: Timestamp(row.expires_at),
        used_at: row.used_at.map(Timestamp),
    }))
}

/// Uses a code up. False where somebody did before.
pub(super) async fn use_code(tx: &mut Tx, hash: &str, now: Timestamp) -> Result<bool> {
    let used = on!(tx, |c| sqlx::query("UPDATE oauth_codes SET used_at = $2 WHERE code_hash = $1 AND used_at IS NULL")
        .bind(hash)
        .bind(now.0)
        .execute(c)
        .await?
        .rows_affected());
    Ok(used == 1)
}

/// A sign-in on another device as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) hash: String,
    pub(super) site: SiteId,
    pub(super) client: ClientId,
    pub(super) ceiling: Ceiling,
    pub(super) audience: Audience,
    /// Seconds between two questions.
    pub(super) interval: i64,
    /// When the next question may come.
    pub(super) poll_at: Timestamp,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// What the person consented to.
    pub(super) family: Option<FamilyId>,
    pub(super) refused_at: Option<Timestamp>,
    pub(super) used_at: Option<Timestamp>,
}

row! {
    struct DeviceRow {
        device_hash: String,
        site: String,
        client: String,
        ceiling: String,
        audience: String,
        poll_interval: i64,
        poll_at: i64,
        created_at: i64,
        expires_at: i64,
        family: Option<String>,
        refused_at: Option<i64>,
        used_at: Option<i64>,
    }
}

impl TryFrom<DeviceRow> for Device {
    type Error = Error;

    fn try_from(row: DeviceRow) -> Result<Self> {
        Ok(Self {
            hash: row.device_hash,
            site: row.site.parse()?,
            client: row.client.parse()?,
            ceiling: serde_json::from_str(&row.ceiling).map_err(Error::internal)?,
            audience: row.audience.parse()?,
            interval: row.poll_interval,
            poll_at: Timestamp(row.poll_at),
            created_at: Timestamp(row.created_at),
            expires_at: Timestamp(row.expires_at),
            family: row.family.map(|family| family.parse()).transpose()?,
            refused_at: row.refused_at.map(Timestamp),
            used_at: row.used_at.map(Timestamp),
        })
    }
}

/// Stores a sign-in. False where its user code is taken.
pub(super) async fn insert_device(tx: &mut Tx, device: &Device, user_code_hash: &str) -> Result<bool> {
    let ceiling = serde_json::to_string(&device.ceiling).map_err(Error::internal)?;
    let inserted = on!(tx, |c| {
        sqlx::query(
            "INSERT INTO oauth_devices (device_hash, user_code_hash, site, client, ceiling, audience, poll_interval, poll_at,
                                        created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (user_code_hash) DO NOTHING",
        )
        .bind(&device.hash)
        .bind(user_code_hash)
        .bind(device.site.as_str())
        .bind(device.client.as_str())
        .bind(&ceiling)
        .bind(device.audience.as_str())
        .bind(device.interval)
        .bind(device.poll_at.0)
        .bind(device.created_at.0)
        .bind(device.expires_at.0)
        .execute(c)
        .await?
        .rows_affected()
    });
    Ok(inserted == 1)
}

pub(super) async fn device(db: &Db, hash: &str) -> Result<Option<Device>> {
    let row: Option<DeviceRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT device_hash, site, client, ceiling, audience, poll_interval, poll_at, created_at, expires_at, family, refused_at, used_at
         FROM oauth_devices WHERE device_hash = $1"
    )
    .bind(hash)
    .fetch_optional(c)
    .await?
    });
    row.map(Device::try_from).transpose()
}

/// A sign-in that waits for a person, by what they type.
pub(super) async fn waiting_device(db: &Db, site: &SiteId, user_code_hash: &str, now: Timestamp) -> Result<Option<Device>> {
    let row: Option<DeviceRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT device_hash, site, client, ceiling, audience, poll_interval, poll_at, created_at, expires_at, family, refused_at, used_at
         FROM oauth_devices
         WHERE site = $1 AND user_code_hash = $2 AND expires_at > $3 AND family IS NULL AND refused_at IS NULL"
    )
    .bind(site.as_str())
    .bind(user_code_hash)
    .bind(now.0)
    .fetch_optional(c)
    .await?
    });
    row.map(Device::try_from).transpose()
}

/// Notes a question and when the next may come. False where another question came between.
pub(super) async fn asked_device(tx: &mut Tx, device: &Device, interval: i64, poll_at: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE oauth_devices SET poll_interval = $3, poll_at = $4 WHERE device_hash = $1 AND poll_at = $2"
    )
    .bind(&device.hash)
    .bind(device.poll_at.0)
    .bind(interval)
    .bind(poll_at.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Writes down what the person said: a consent, or no. False where they said something before, or too late.
pub(super) async fn answer_device(tx: &mut Tx, hash: &str, family: Option<&FamilyId>, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE oauth_devices SET family = $2, refused_at = $3
         WHERE device_hash = $1 AND family IS NULL AND refused_at IS NULL AND expires_at > $4"
    )
    .bind(hash)
    .bind(family.map(FamilyId::as_str))
    .bind(family.is_none().then_some(now.0))
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Uses a device code up. False where somebody did before.
pub(super) async fn use_device(tx: &mut Tx, hash: &str, now: Timestamp) -> Result<bool> {
    let used = on!(tx, |c| sqlx::query("UPDATE oauth_devices SET used_at = $2 WHERE device_hash = $1 AND used_at IS NULL")
        .bind(hash)
        .bind(now.0)
        .execute(c)
        .await?
        .rows_affected());
    Ok(used == 1)
}

/// A refresh token as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Refresh {
    pub(super) site: SiteId,
    pub(super) family: FamilyId,
    pub(super) expires_at: Timestamp,
    pub(super) used_at: Option<Timestamp>,
}

row! {
    struct RefreshRow {
        site: String,
        family: String,
        expires_at: i64,
        used_at: Option<i64>,
    }
}

pub(super) async fn insert_refresh(
    tx: &mut Tx,
    hash: &str,
    (site, family): (&SiteId, &FamilyId),
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "INSERT INTO oauth_refresh_tokens (token_hash, site, family, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)"
    )
    .bind(hash)
    .bind(site.as_str())
    .bind(family.as_str())
    .bind(now.0)
    .bind(expires_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn refresh(db: &Db, hash: &str) -> Result<Option<Refresh>> {
    let row: Option<RefreshRow> =
        on!(db, |c| sqlx::query_as("SELECT site, family, expires_at, used_at FROM oauth_refresh_tokens WHERE token_hash = $1")
            .bind(hash)
            .fetch_optional(c)
            .await?);
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Refresh {
        site: row.site.parse()?,
        family: row.family.parse()?,
        expires_at: Timestamp(row.expires_at),
        used_at: row.used_at.map(Timestamp),
    }))
}

/// Trades a refresh token for its successor. False where somebody did before.
pub(super) async fn use_refresh(tx: &mut Tx, hash: &str, now: Timestamp) -> Result<bool> {
    let used = on!(tx, |c| sqlx::query("UPDATE oauth_refresh_tokens SET used_at = $2 WHERE token_hash = $1 AND used_at IS NULL")
        .bind(hash)
        .bind(now.0)
        .execute(c)
        .await?
        .rows_affected());
    Ok(used == 1)
}

/// Removes what hangs on a person's consents.
pub(super) async fn erase_person(tx: &mut Tx, site: &SiteId, person: &UserId) -> Result<()> {
    on!(&mut *tx, |c| sqlx::query(
        "DELETE FROM oauth_codes
         WHERE site = $1 AND family IN (SELECT f.id FROM token_families f WHERE f.site = $1 AND f.person = $2)"
    )
    .bind(site.as_str())
    .bind(person.as_str())
    .execute(c)
    .await
    .map(|_| ())?);
    on!(tx, |c| sqlx::query(
        "DELETE FROM oauth_refresh_tokens
         WHERE site = $1 AND family IN (SELECT f.id FROM token_families f WHERE f.site = $1 AND f.person = $2)"
    )
    .bind(site.as_str())
    .bind(person.as_str())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Removes what ended before a moment, and clients that registered themselves before another and were never used.
pub(super) async fn sweep(tx: &mut Tx, ended: Timestamp, unused: Timestamp) -> Result<u64> {
    let mut swept = 0;
    swept += on!(&mut *tx, |c| sqlx::query("DELETE FROM oauth_devices WHERE expires_at < $1")
        .bind(ended.0)
        .execute(c)
        .await?
        .rows_affected());
    swept += on!(&mut *tx, |c| sqlx::query("DELETE FROM oauth_codes WHERE expires_at < $1")
        .bind(ended.0)
        .execute(c)
        .await?
        .rows_affected());
    // None outlives its consent, so nothing hangs on a consent that ended before the same moment.
    swept += on!(&mut *tx, |c| sqlx::query("DELETE FROM oauth_refresh_tokens WHERE expires_at < $1")
        .bind(ended.0)
        .execute(c)
        .await?
        .rows_affected());
    swept += on!(tx, |c| sqlx::query("DELETE FROM oauth_clients WHERE registered_at < $1 AND used_at IS NULL")
        .bind(unused.0)
        .execute(c)
        .await?
        .rows_affected());
    Ok(swept)
}
