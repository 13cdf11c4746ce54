//! The rows of app configurations.

use super::AppConfig;
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AppConfigId, ProviderName, SiteId},
    on,
    principal::Owner,
    row,
};

row! {
    struct ConfigRow {
        site: String,
        id: String,
        provider: String,
        owner: String,
        sealed: Vec<u8>,
        shown: String,
        client_id: Option<String>,
        created_at: i64,
        updated_at: i64,
    }
}

impl TryFrom<ConfigRow> for AppConfig {
    type Error = Error;

    fn try_from(row: ConfigRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            provider: row.provider.parse()?,
            owner: row.owner.parse()?,
            values: serde_json::from_str(&row.shown).map_err(Error::internal)?,
            client_id: row.client_id,
            created_at: Timestamp(row.created_at),
            updated_at: Timestamp(row.updated_at),
            sealed: row.sealed,
            site: row.site.parse()?,
        })
    }
}

pub(super) async fn insert(tx: &mut Tx, config: &AppConfig) -> Result<()> {
    match insert_free(tx, config).await? {
        true => Ok(()),
        false => Err(Error::new(Code::Conflict, "that configuration was set meanwhile; look again")),
    }
}

/// Inserts a configuration where none counts yet. False where one does.
pub(super) async fn insert_free(tx: &mut Tx, config: &AppConfig) -> Result<bool> {
    let shown = serde_json::to_string(&config.values).map_err(Error::internal)?;
    let inserted = on!(tx, |c| sqlx::query(
        "INSERT INTO app_configs (site, id, provider, owner, sealed, shown, client_id, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (site, provider, owner) WHERE replaced_at IS NULL DO NOTHING"
    )
    .bind(config.site.as_str())
    .bind(config.id.as_str())
    .bind(config.provider.as_str())
    .bind(config.owner.to_string())
    .bind(&config.sealed)
    .bind(&shown)
    .bind(&config.client_id)
    .bind(config.created_at.0)
    .bind(config.updated_at.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(inserted == 1)
}

/// Inserts an app that was registered at an instance: it counts for that alone, so it is never the present configuration of
/// its owner.
pub(super) async fn insert_registered(tx: &mut Tx, config: &AppConfig) -> Result<()> {
    let shown = serde_json::to_string(&config.values).map_err(Error::internal)?;
    on!(tx, |c| sqlx::query(
        "INSERT INTO app_configs (site, id, provider, owner, sealed, shown, client_id, created_at, updated_at, replaced_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)"
    )
    .bind(config.site.as_str())
    .bind(config.id.as_str())
    .bind(config.provider.as_str())
    .bind(config.owner.to_string())
    .bind(&config.sealed)
    .bind(&shown)
    .bind(&config.client_id)
    .bind(config.created_at.0)
    .bind(config.updated_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Notes that whatever configuration counts in this place counts no more.
pub(super) async fn replace_current(tx: &mut Tx, config: &AppConfig, now: Timestamp) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE app_configs SET replaced_at = $4 WHERE site = $1 AND provider = $2 AND owner = $3 AND replaced_at IS NULL"
    )
    .bind(config.site.as_str())
    .bind(config.provider.as_str())
    .bind(config.owner.to_string())
    .bind(now.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Writes a configuration over the one that was read. False when somebody else was faster: what it keeps of the old
/// secrets would be too old.
pub(super) async fn update(tx: &mut Tx, old: &AppConfig, config: &AppConfig) -> Result<bool> {
    let shown = serde_json::to_string(&config.values).map_err(Error::internal)?;
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE app_configs SET sealed = $3, shown = $4, updated_at = $5
         WHERE site = $1 AND id = $2 AND sealed = $6 AND replaced_at IS NULL"
    )
    .bind(config.site.as_str())
    .bind(config.id.as_str())
    .bind(&config.sealed)
    .bind(&shown)
    .bind(config.updated_at.0)
    .bind(&old.sealed)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Notes that a configuration counts no more. False when that was so already.
pub(super) async fn set_replaced(tx: &mut Tx, site: &SiteId, id: &AppConfigId, now: Timestamp) -> Result<bool> {
    let changed =
        on!(tx, |c| sqlx::query("UPDATE app_configs SET replaced_at = $3 WHERE site = $1 AND id = $2 AND replaced_at IS NULL")
            .bind(site.as_str())
            .bind(id.as_str())
            .bind(now.0)
            .execute(c)
            .await?
            .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn current(db: &Db, site: &SiteId, provider: &ProviderName, owner: &Owner) -> Result<Option<AppConfig>> {
    let row: Option<ConfigRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, provider, owner, sealed, shown, client_id, created_at, updated_at FROM app_configs
         WHERE site = $1 AND provider = $2 AND owner = $3 AND replaced_at IS NULL"
    )
    .bind(site.as_str())
    .bind(provider.as_str())
    .bind(owner.to_string())
    .fetch_optional(c)
    .await?);
    row.map(AppConfig::try_from).transpose()
}

pub(super) async fn is_stored(db: &Db, site: &SiteId, provider: &ProviderName) -> Result<bool> {
    let row: Option<(String,)> =
        on!(db, |c| sqlx::query_as("SELECT id FROM app_configs WHERE site = $1 AND provider = $2 LIMIT 1")
            .bind(site.as_str())
            .bind(provider.as_str())
            .fetch_optional(c)
            .await?);
    Ok(row.is_some())
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &AppConfigId) -> Result<Option<AppConfig>> {
    let row: Option<ConfigRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, provider, owner, sealed, shown, client_id, created_at, updated_at FROM app_configs
         WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(AppConfig::try_from).transpose()
}

pub(super) async fn list(db: &Db, site: &SiteId) -> Result<Vec<AppConfig>> {
    let rows: Vec<ConfigRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id, provider, owner, sealed, shown, client_id, created_at, updated_at FROM app_configs
         WHERE site = $1 AND replaced_at IS NULL ORDER BY provider, owner"
    )
    .bind(site.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter().map(AppConfig::try_from).collect()
}

pub(super) async fn forget(tx: &mut Tx, site: &SiteId, owner: &Owner) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "DELETE FROM app_configs WHERE site = $1 AND owner = $2 AND replaced_at IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM revocations r
                            WHERE r.site = $1 AND r.app_config_id = app_configs.id AND r.status = 'pending')
            AND NOT EXISTS (SELECT 1 FROM connections n
                            WHERE n.site = $1 AND n.app_config_id = app_configs.id AND n.status <> 'revoked')"
    )
    .bind(site.as_str())
    .bind(owner.to_string())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn is_left(db: &Db, site: &SiteId, owner: &Owner) -> Result<bool> {
    let row: Option<(String,)> = on!(db, |c| sqlx::query_as("SELECT id FROM app_configs WHERE site = $1 AND owner = $2 LIMIT 1")
        .bind(site.as_str())
        .bind(owner.to_string())
        .fetch_optional(c)
        .await?);
    Ok(row.is_some())
}
