//! Reading connections.

use super::{
    Connection, Stored,
    row::{ConnectionRow, columns},
};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::Result,
    id::{AccountName, ConnectionId, ProviderName, SiteId},
    on,
    principal::Owner,
};

/// Which connections to list; absent parts do not narrow.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only at this provider.
    pub provider: Option<ProviderName>,
    /// Only this owner's.
    pub owner: Option<Owner>,
    /// The revoked ones too.
    pub revoked: bool,
}

/// The one connection that a condition fits, in the database or in a transaction.
macro_rules! one {
    ($target:expr, $which:literal, $($bound:expr),+) => {{
        let row: Option<ConnectionRow> =
            on!($target, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM connections WHERE ", $which))
                $(.bind($bound))+
                .fetch_optional(c)
                .await?);
        row.map(ConnectionRow::read).transpose()
    }};
}

/// The live one in an owner's slot.
macro_rules! in_slot {
    ($target:expr, $site:expr, $provider:expr, $owner:expr, $name:expr) => {
        one!(
            $target,
            "site = $1 AND provider = $2 AND owner = $3 AND name = $4 AND status <> 'revoked'",
            $site.as_str(),
            $provider.as_str(),
            $owner.to_string(),
            $name.as_stored()
        )
    };
}

/// One connection by id, the revoked ones among them; opens nothing.
pub async fn get(db: &Db, site: &SiteId, id: &ConnectionId) -> Result<Option<Connection>> {
    Ok(load(db, site, id).await?.map(|stored| stored.connection))
}

/// One connection by id with its sealed account and refresh state.
pub async fn load(db: &Db, site: &SiteId, id: &ConnectionId) -> Result<Option<Stored>> {
    one!(db, "site = $1 AND id = $2", site.as_str(), id.as_str())
}

/// The same inside a transaction.
pub async fn load_in(tx: &mut Tx, site: &SiteId, id: &ConnectionId) -> Result<Option<Stored>> {
    one!(tx, "site = $1 AND id = $2", site.as_str(), id.as_str())
}

/// The live connection in an owner's slot, if there is one.
pub async fn slot(
    db: &Db,
    site: &SiteId,
    provider: &ProviderName,
    owner: &Owner,
    name: &AccountName,
) -> Result<Option<Connection>> {
    Ok(stored_slot_now(db, site, provider, owner, name).await?.map(|stored| stored.connection))
}

/// The live connection in an owner's slot with its sealed account, inside a transaction.
pub async fn stored_slot(
    tx: &mut Tx,
    site: &SiteId,
    provider: &ProviderName,
    owner: &Owner,
    name: &AccountName,
) -> Result<Option<Stored>> {
    in_slot!(tx, site, provider, owner, name)
}

/// The same outside a transaction.
pub(super) async fn stored_slot_now(
    db: &Db,
    site: &SiteId,
    provider: &ProviderName,
    owner: &Owner,
    name: &AccountName,
) -> Result<Option<Stored>> {
    in_slot!(db, site, provider, owner, name)
}

/// Whether a site has a connection at a provider, or had one that is over.
pub async fn is_stored(db: &Db, site: &SiteId, provider: &ProviderName) -> Result<bool> {
    let row: Option<(String,)> =
        on!(db, |c| sqlx::query_as("SELECT id FROM connections WHERE site = $1 AND provider = $2 LIMIT 1")
            .bind(site.as_str())
            .bind(provider.as_str())
            .fetch_optional(c)
            .await?);
    Ok(row.is_some())
}

/// A site's connections, by provider, owner and name; opens nothing.
pub async fn list(db: &Db, site: &SiteId, filter: &Filter) -> Result<Vec<Connection>> {
    let rows: Vec<ConnectionRow> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM connections
         WHERE site = $1 AND ($2 = '' OR provider = $2) AND ($3 = '' OR owner = $3) AND ($4 = 1 OR status <> 'revoked')
         ORDER BY provider, owner, name, id"
    ))
    .bind(site.as_str())
    .bind(filter.provider.as_ref().map_or("", ProviderName::as_str))
    .bind(filter.owner.as_ref().map(ToString::to_string).unwrap_or_default())
    .bind(i64::from(filter.revoked))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(|row| Ok(row.read()?.connection)).collect()
}

/// A page of a site's connections, the oldest first: at most `limit`, after the one with id `after`. Opens nothing.
pub async fn page(db: &Db, site: &SiteId, filter: &Filter, after: Option<&ConnectionId>, limit: u32) -> Result<Vec<Connection>> {
    let rows: Vec<ConnectionRow> = on!(db, |c| {
        sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM connections
         WHERE site = $1 AND id > $5 AND ($2 = '' OR provider = $2) AND ($3 = '' OR owner = $3) AND ($4 = 1 OR status <> 'revoked')
         ORDER BY id LIMIT $6"
    ))
    .bind(site.as_str())
    .bind(filter.provider.as_ref().map_or("", ProviderName::as_str))
    .bind(filter.owner.as_ref().map(ToString::to_string).unwrap_or_default())
    .bind(i64::from(filter.revoked))
    .bind(after.map_or("", ConnectionId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?
    });
    rows.into_iter().map(|row| Ok(row.read()?.connection)).collect()
}

/// The active connections of all sites that will end of age and were warned of, the first to end first; opens nothing.
pub async fn ageing(db: &Db, now: Timestamp, limit: u32) -> Result<Vec<Connection>> {
    let rows: Vec<ConnectionRow> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM connections
         WHERE warned_end > $1 AND status = 'active' ORDER BY warned_end, site, id LIMIT $2"
    ))
    .bind(now.0)
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    let all: Vec<Connection> = rows.into_iter().map(|row| Ok(row.read()?.connection)).collect::<Result<_>>()?;
    // What was connected again or renewed since lives on.
    Ok(all.into_iter().filter(|connection| connection.ends_at().is_some()).collect())
}
