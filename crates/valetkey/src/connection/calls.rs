//! Where our own calls take a connection's tokens and its client's secret once it is connected: renewals, revocations at the
//! provider, its lists. Like the hosts of proxied calls these are fixed when it is connected, and a definition that names
//! another one later is followed only after the operator accepted that (decisions 4).
//!
//! 1. Whoever connects an account writes them with it. Where that cannot be told yet, nothing is fixed.
//! 2. Before such a call its host is looked for among them ([`check`]). Where nothing is fixed, the definition as it is now
//!    counts, and is fixed by that.
//! 3. A start goes through the rows in which nothing is fixed, those of an older release ([`fix_open`]).
//! 4. What an ended connection owes takes them along.

use http::Uri;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Connection, accounts, load, open_account};
use crate::{
    app_config,
    base::Outside,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    on,
    provider::{Definition, Vars},
    secret::SecretMap,
};

/// How many rows are read at a time, and written in one transaction.
const PAGE: i64 = 64;

/// The hosts that are fixed; absent where nothing is, and where there is no such connection. Opens nothing.
pub async fn fixed(db: &Db, site: &SiteId, id: &ConnectionId) -> Result<Option<Vec<String>>> {
    let row: Option<(Option<String>,)> =
        on!(db, |c| sqlx::query_as("SELECT call_hosts FROM connections WHERE site = $1 AND id = $2")
            .bind(site.as_str())
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    read(row)
}

/// The same inside a transaction.
pub(super) async fn fixed_in(tx: &mut Tx, site: &SiteId, id: &ConnectionId) -> Result<Option<Vec<String>>> {
    let row: Option<(Option<String>,)> =
        on!(tx, |c| sqlx::query_as("SELECT call_hosts FROM connections WHERE site = $1 AND id = $2")
            .bind(site.as_str())
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    read(row)
}

fn read(row: Option<(Option<String>,)>) -> Result<Option<Vec<String>>> {
    row.and_then(|(hosts,)| hosts).map(|hosts| serde_json::from_str(&hosts).map_err(Error::internal)).transpose()
}

/// Fixes hosts where nothing is fixed yet.
async fn fix(tx: &mut Tx, site: &SiteId, id: &ConnectionId, hosts: &[String]) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE connections SET call_hosts = $3 WHERE site = $1 AND id = $2 AND call_hosts IS NULL")
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(json!(hosts).to_string())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Refuses a call of ours for a connection to a host that is not among those that are fixed. `vars` is what the call was filled
/// in with.
///
/// # Errors
/// `host_refused`.
pub async fn check(
    outside: &Outside,
    connection: &Connection,
    definition: &Definition,
    vars: &Vars<'_>,
    uri: &Uri,
) -> Result<()> {
    require(known(outside, connection, definition, vars).await?.as_deref(), connection, definition, uri)
}

/// The hosts that such a call may go to; fixed by this where nothing is yet. Absent where that cannot be told.
pub async fn known(
    outside: &Outside,
    connection: &Connection,
    definition: &Definition,
    vars: &Vars<'_>,
) -> Result<Option<Vec<String>>> {
    let (db, site, id) = (&outside.base.db, &connection.site, &connection.id);
    if let Some(known) = fixed(db, site, id).await? {
        return Ok(Some(known));
    }
    let Some(hosts) = definition.call_hosts(vars) else { return Ok(None) };
    let mut tx = db.begin_bookkeeping().await?;
    fix(&mut tx, site, id, &hosts).await?;
    tx.commit().await?;
    // Another process may have been first, with another definition.
    fixed(db, site, id).await
}

/// Refuses a call to a host that is not among those that are known.
///
/// # Errors
/// `host_refused`.
pub fn require(known: Option<&[String]>, connection: &Connection, definition: &Definition, uri: &Uri) -> Result<()> {
    match known {
        Some(known) if !is_among(known, uri) => Err(refused(definition, &connection.id, uri, known)),
        _ => Ok(()),
    }
}

/// Whether a call goes to one of these hosts.
pub fn is_among(hosts: &[String], uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| hosts.iter().any(|host| host.eq_ignore_ascii_case(authority.as_str())))
}

fn refused(definition: &Definition, id: &ConnectionId, uri: &Uri, known: &[String]) -> Error {
    let known = if known.is_empty() { "nowhere".to_owned() } else { format!("to {} only", known.join(", ")) };
    Error::new(
        Code::HostRefused,
        format!(
            "the definition of {} has this account's secrets go to {} by now, and they go {known}; if that is right, the operator says \
             `valetkey connection accept-hosts {id}`",
            definition.title,
            uri.authority().map_or("nowhere", |authority| authority.as_str()),
        ),
    )
}

/// The hosts that a definition names for a connection's calls by now, as far as that can be told.
pub(super) async fn defined(
    outside: &Outside,
    connection: &Connection,
    definition: &Definition,
    account: &SecretMap,
) -> Result<Option<Vec<String>>> {
    let base = &outside.base;
    let config = match &connection.app_config {
        Some(id) => app_config::get(&base.db, &connection.site, id).await?,
        None => None,
    };
    let app = match &config {
        Some(config) => Some(app_config::open(base, config).await?),
        None => None,
    };
    Ok(definition.call_hosts(&Vars { app: app.as_ref(), ..accounts::vars(account) }))
}

/// Goes through the connections in which nothing is fixed and fixes what the definitions name now. Those of which that cannot
/// be told are left: no definition, an account that cannot be opened. Says how many were fixed.
pub async fn fix_open(outside: &Outside, stop: &CancellationToken) -> Result<u64> {
    let db = &outside.base.db;
    let (mut after, mut count) = ((String::new(), String::new()), 0);
    while !stop.is_cancelled() {
        let page: Vec<(String, String)> = on!(db, |c| sqlx::query_as(
            "SELECT site, id FROM connections
             WHERE call_hosts IS NULL AND status <> 'revoked' AND (site, id) > ($1, $2) ORDER BY site, id LIMIT $3"
        )
        .bind(&after.0)
        .bind(&after.1)
        .bind(PAGE)
        .fetch_all(c)
        .await?);
        let Some(last) = page.last() else { break };
        after = last.clone();
        let mut told = Vec::new();
        for (site, id) in page {
            let (site, id): (SiteId, ConnectionId) = (site.parse()?, id.parse()?);
            match told_of(outside, &site, &id).await {
                Ok(Some(hosts)) => told.push((site, id, hosts)),
                Ok(None) => {}
                Err(error) if error.code() == Code::StorageFailed => return Err(error),
                Err(error) => {
                    tracing::warn!(connection.id = %id, error = ?error, "where a connection's secrets go could not be fixed; its next renewal does it");
                }
            }
        }
        let mut tx = db.begin_bookkeeping().await?;
        for (site, id, hosts) in &told {
            fix(&mut tx, site, id, hosts).await?;
        }
        tx.commit().await?;
        count += told.len() as u64;
    }
    if count > 0 {
        tracing::info!(connections = count, "where connections' secrets go was fixed by the definitions of now");
    }
    Ok(count)
}

async fn told_of(outside: &Outside, site: &SiteId, id: &ConnectionId) -> Result<Option<Vec<String>>> {
    let Some(stored) = load(&outside.base.db, site, id).await? else { return Ok(None) };
    let Some(definition) = outside.catalogue.get(&stored.connection.provider) else { return Ok(None) };
    let Some(sealed) = &stored.sealed else { return Ok(None) };
    let account = open_account(&outside.base, &stored.connection, sealed).await?;
    defined(outside, &stored.connection, definition, &account).await
}
