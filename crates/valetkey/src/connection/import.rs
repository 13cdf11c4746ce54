//! Connections that come from another system, many at once: described as the account routes would, inserted in batches.

use std::sync::Arc;

use serde_json::json;

use super::{
    Identity, Renewal, Stored, Tokens, accounts,
    row::{ConnectionRow, columns},
};
use crate::{
    base::{Base, Outside},
    clock::Timestamp,
    db::{Db, Tx, in_batches},
    error::{Code, Error, Result},
    id::{AccountName, AppConfigId, ConnectionId, ProviderName, SiteId},
    on,
    principal::{Actor, Owner},
    provider::{self, Definition},
    seal::Place,
    secret::{Secret, SecretBytes, SecretMap},
};

/// How many rows one statement inserts: SQLite takes 32,766 parameters, PostgreSQL 65,535.
pub const BATCH: usize = 128;

/// An account that comes in, with everything that is told from it.
pub struct Arrival {
    /// The id it will have.
    pub id: ConnectionId,
    /// The provider.
    pub provider: ProviderName,
    /// Whose.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// What is stored of it; the sealed account is empty in a dry run.
    sealed: Vec<u8>,
    tokens: Tokens,
    app_config: Option<AppConfigId>,
    client_id: Option<String>,
    subject: Option<String>,
    subject_name: Option<String>,
    identity: Identity,
    wanted_scopes: Vec<String>,
    hosts: Vec<String>,
    call_hosts: Option<Vec<String>>,
    needs_reauth: Option<&'static str>,
}

impl Arrival {
    /// Whether agents' grants on it wait until somebody confirms whose account it is.
    pub fn is_unverified(&self) -> bool {
        self.identity == Identity::Unverified
    }
}

/// What an account that comes in is made of.
pub struct Coming {
    /// The id it will have: that of a connection whose place it takes, or a fresh one.
    pub id: ConnectionId,
    /// The site.
    pub site: SiteId,
    /// The provider.
    pub provider: ProviderName,
    /// Its definition; there may be none, and then the account can be stored and read, and no more.
    pub definition: Option<Arc<Definition>>,
    /// Whose.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// The JSON object, in the order its members shall keep.
    pub account: Secret,
    /// The app whose client is taken to have minted its tokens.
    pub app: Option<(AppConfigId, Option<String>)>,
    /// Why it must be connected again, if it must.
    pub needs_reauth: Option<&'static str>,
    /// Whether somebody vouches that it is whose it is said to be.
    pub trusted: bool,
    /// Whether to seal it: in a dry run nothing is stored, and there may be no key to seal under.
    pub seal: bool,
}

/// Tells everything that is told from an account, and seals it. What cannot be told (an end that is no time, a server that
/// our guard refuses) leaves the account stored and readable, and unusable in that respect.
pub fn arrive(outside: &Outside, coming: Coming) -> Result<Arrival> {
    let base = &outside.base;
    let now = base.clock.now();
    let id = coming.id;
    let plain = SecretBytes::new(coming.account.expose().as_bytes().to_vec());
    let account = SecretMap::from_json(&plain)
        .map_err(|_| Error::new(Code::InvalidRequest, "an account is a JSON object").with_detail("it cannot be read"))?;
    let owner = coming.owner.to_string();
    let sealed = match coming.seal {
        true => base.ring.seal_now(&Place::connection(&coming.site, &coming.provider, &owner, &coming.name, &id), &plain)?,
        false => Vec::new(),
    };
    let definition = coming.definition.as_deref();
    let tokens = match definition {
        Some(definition) => accounts::tokens(definition, &account, now).unwrap_or_else(|_| ended()),
        None => unknown(),
    };
    let hosts = definition.and_then(|definition| accounts::hosts(outside, definition, &account).ok()).unwrap_or_default();
    let call_hosts = match definition {
        Some(definition) => definition.call_hosts(&accounts::vars(&account)),
        // Nobody can say where its secrets would go, so they go nowhere until the operator does.
        None => Some(Vec::new()),
    };
    let (subject, subject_name) = match definition.map(|definition| &definition.identity) {
        Some(provider::Identity::Static(members)) => accounts::stated_subject(members, &account),
        // What it was called there. That is to be read by people, and no word on whose it is: only the provider is asked that.
        _ => (None, account.text("username").map(|name| name.expose().to_owned())),
    };
    // What PostgreSQL cannot store in a column stays where it is, in the account.
    let storable = |text: Option<String>| text.filter(|text| !text.contains('\0'));
    let asked_upstream = definition.is_none_or(|definition| matches!(definition.identity, provider::Identity::Step(_)));
    let identity = if asked_upstream && !coming.trusted { Identity::Unverified } else { Identity::Owner };
    let (app_config, client_id) = coming.app.map_or((None, None), |(id, client)| (Some(id), client));
    Ok(Arrival {
        id,
        sealed,
        tokens,
        app_config,
        client_id,
        subject: storable(subject),
        subject_name: storable(subject_name),
        identity,
        wanted_scopes: definition.map(Definition::needed_scopes).unwrap_or_default(),
        hosts,
        call_hosts,
        needs_reauth: coming.needs_reauth,
        provider: coming.provider,
        owner: coming.owner,
        name: coming.name,
    })
}

/// An end that is not a time: Data Machine takes it for over.
fn ended() -> Tokens {
    Tokens { expires_at: Some(Timestamp(0)), ..unknown() }
}

fn unknown() -> Tokens {
    Tokens {
        renewal: Renewal::None,
        issued_at: None,
        expires_at: None,
        usual_life: None,
        refresh_expires_at: None,
        refresh_at: None,
        scopes: None,
    }
}

/// Inserts accounts whose slots are free. Returns those whose slot is not, which were not inserted.
pub async fn insert_free<'a>(
    base: &Base,
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    all: &'a [Arrival],
) -> Result<Vec<&'a Arrival>> {
    let (now, actor) = (base.clock.now(), actor.to_string());
    let mut taken = Vec::new();
    let inserted = insert_rows(tx, site, &actor, now, all).await?;
    for (rows, inserted) in all.chunks(BATCH).zip(inserted) {
        if inserted == rows.len() as u64 {
            continue;
        }
        for row in rows {
            if !is_there(tx, site, &row.id).await? {
                taken.push(row);
            }
        }
    }
    Ok(taken)
}

/// How many were inserted of each [`BATCH`].
async fn insert_rows(tx: &mut Tx, site: &SiteId, actor: &str, now: Timestamp, all: &[Arrival]) -> Result<Vec<u64>> {
    Ok(in_batches!(&mut *tx, all, BATCH, |rows| {
        let mut query = sqlx::QueryBuilder::new(
            "INSERT INTO connections (site, id, provider, owner, name, status, status_reason, sealed, version, revision, app_config_id,
                client_id, subject, subject_name, identity, scopes, wanted_scopes, hosts, renewal, access_expires_at, access_issued_at,
                usual_life, refresh_expires_at, refresh_at, connected_at, updated_at, created_by, lease_number, failures, call_hosts) ",
        );
        query.push_values(rows, |mut values, row| {
            values
                .push_bind(site.as_str())
                .push_bind(row.id.as_str())
                .push_bind(row.provider.as_str())
                .push_bind(row.owner.to_string())
                .push_bind(row.name.as_stored())
                .push_bind(if row.needs_reauth.is_some() { "needs_reauth" } else { "active" })
                .push_bind(row.needs_reauth)
                .push_bind(row.sealed.as_slice())
                .push("1")
                .push("1")
                .push_bind(row.app_config.as_ref().map(AppConfigId::as_str))
                .push_bind(row.client_id.as_deref())
                .push_bind(row.subject.as_deref())
                .push_bind(row.subject_name.as_deref())
                .push_bind(row.identity.as_str())
                .push_bind(row.tokens.scopes.as_ref().map(|scopes| json!(scopes).to_string()))
                .push_bind(json!(row.wanted_scopes).to_string())
                .push_bind(json!(row.hosts).to_string())
                .push_bind(row.tokens.renewal.as_str())
                .push_bind(row.tokens.expires_at.map(|at| at.0))
                .push_bind(row.tokens.issued_at.map(|at| at.0))
                .push_bind(row.tokens.usual_life)
                .push_bind(row.tokens.refresh_expires_at.map(|at| at.0))
                // One that must be connected again is not refreshed.
                .push_bind(row.tokens.refresh_at.filter(|_| row.needs_reauth.is_none()).map(|at| at.0))
                .push_bind(now.0)
                .push_bind(now.0)
                .push_bind(actor)
                .push("0")
                .push("0")
                .push_bind(row.call_hosts.as_ref().map(|hosts| json!(hosts).to_string()));
        });
        query.push(" ON CONFLICT (site, provider, owner, name) WHERE status <> 'revoked' DO NOTHING");
        query
    }))
}

/// Puts an account in the place of the one that a connection has, whose id and grants stay. False where the connection is
/// over, or the account is by its own words somebody else's: then it needs an id of its own.
pub async fn put_over(base: &Base, tx: &mut Tx, site: &SiteId, row: &Arrival) -> Result<bool> {
    let now = base.clock.now();
    let changed = on!(&mut *tx, |c| {
        sqlx::query(
            "UPDATE connections SET status = $3, status_reason = $4, sealed = $5, version = version + 1, revision = revision + 1,
                app_config_id = $6, client_id = $7, subject = COALESCE($8, subject), subject_name = COALESCE($9, subject_name),
                identity = $10, scopes = $11, wanted_scopes = $12, hosts = $13, renewal = $14, access_expires_at = $15,
                access_issued_at = $16, usual_life = $17, refresh_expires_at = $18, refresh_at = $19, updated_at = $20, failures = 0,
                retry_at = NULL, last_error = NULL, call_hosts = $21
             WHERE site = $1 AND id = $2 AND status <> 'revoked'
               AND (subject IS NULL OR CAST($8 AS TEXT) IS NULL OR subject = $8)",
        )
        .bind(site.as_str())
        .bind(row.id.as_str())
        .bind(if row.needs_reauth.is_some() { "needs_reauth" } else { "active" })
        .bind(row.needs_reauth)
        .bind(row.sealed.as_slice())
        .bind(row.app_config.as_ref().map(AppConfigId::as_str))
        .bind(row.client_id.as_deref())
        .bind(row.subject.as_deref())
        .bind(row.subject_name.as_deref())
        .bind(row.identity.as_str())
        .bind(row.tokens.scopes.as_ref().map(|scopes| json!(scopes).to_string()))
        .bind(json!(row.wanted_scopes).to_string())
        .bind(json!(row.hosts).to_string())
        .bind(row.tokens.renewal.as_str())
        .bind(row.tokens.expires_at.map(|at| at.0))
        .bind(row.tokens.issued_at.map(|at| at.0))
        .bind(row.tokens.usual_life)
        .bind(row.tokens.refresh_expires_at.map(|at| at.0))
        .bind(row.tokens.refresh_at.filter(|_| row.needs_reauth.is_none()).map(|at| at.0))
        .bind(now.0)
        .bind(row.call_hosts.as_ref().map(|hosts| json!(hosts).to_string()))
        .execute(c)
        .await?
        .rows_affected()
    });
    Ok(changed == 1)
}

async fn is_there(tx: &mut Tx, site: &SiteId, id: &ConnectionId) -> Result<bool> {
    let row: Option<(String,)> = on!(&mut *tx, |c| sqlx::query_as("SELECT id FROM connections WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.is_some())
}

/// A page of a site's connections that are not over, with what they seal, the oldest first; after the one with id `after`.
pub async fn page(db: &Db, site: &SiteId, after: Option<&ConnectionId>) -> Result<Vec<Stored>> {
    let rows: Vec<ConnectionRow> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM connections WHERE site = $1 AND id > $2 AND status <> 'revoked' ORDER BY id LIMIT 200"
    ))
    .bind(site.as_str())
    .bind(after.map_or("", ConnectionId::as_str))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(ConnectionRow::read).collect()
}
