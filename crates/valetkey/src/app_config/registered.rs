//! Apps that were registered at an instance before its first connect, such as a server of a network of many (RFC 7591 and
//! the like).
//!
//! One row stands for one request: where it goes and what it says. So another callback or other scopes are another app, and
//! the same request is sent once. Whoever gets the turn sends it; the others wait for what comes. The configuration that is
//! stored never counts as the owner's own: it is found by the registration alone, and by the connections that it minted.

use serde_json::{Value, json};

use super::{AppConfig, get, store};
use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    error::{Error, Result},
    id::{AppConfigId, ProviderName, SiteId},
    on,
    principal::{Actor, Owner},
    seal::Place,
    secret::{Secret, SecretMap},
};

/// Which app is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The site whose app it is.
    pub site: &'a SiteId,
    /// The provider.
    pub provider: &'a ProviderName,
    /// SHA-256 of the request by which it is registered.
    pub digest: &'a str,
    /// Scheme, host and port of the instance.
    pub instance: &'a str,
}

/// What is to be done for an app.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Nothing: here it is.
    Registered(Box<AppConfig>),
    /// To register it: until the moment that was given nobody else does.
    Ours,
    /// To wait: somebody else registers it.
    Wait,
}

/// Looks for a registered app, or takes the turn to register it until `until`.
pub async fn turn(base: &Base, wanted: &Wanted<'_>, until: Timestamp) -> Result<Turn> {
    let row: Option<(Option<String>,)> = on!(&base.db, |c| sqlx::query_as(
        "SELECT app_config_id FROM registrations WHERE site = $1 AND provider = $2 AND digest = $3"
    )
    .bind(wanted.site.as_str())
    .bind(wanted.provider.as_str())
    .bind(wanted.digest)
    .fetch_optional(c)
    .await?);
    if let Some((Some(id),)) = row
        && let Some(config) = get(&base.db, wanted.site, &id.parse()?).await?
    {
        return Ok(Turn::Registered(Box::new(config)));
    }
    let now = base.clock.now();
    let mut tx = base.db.begin_bookkeeping().await?;
    let taken = on!(&mut tx, |c| sqlx::query(
        "INSERT INTO registrations (site, provider, digest, instance, busy_until, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (site, provider, digest) DO UPDATE SET busy_until = excluded.busy_until
         WHERE registrations.app_config_id IS NULL AND registrations.busy_until <= $6"
    )
    .bind(wanted.site.as_str())
    .bind(wanted.provider.as_str())
    .bind(wanted.digest)
    .bind(wanted.instance)
    .bind(until.0)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(if taken == 1 { Turn::Ours } else { Turn::Wait })
}

/// Stores what a registration brought. Where somebody else did so meanwhile, theirs counts and is returned.
pub async fn store(
    base: &Base,
    actor: &Actor,
    wanted: &Wanted<'_>,
    client_id: &str,
    client_secret: Option<&Secret>,
) -> Result<AppConfig> {
    let mut values = SecretMap::default();
    values.set_text("client_id", &Secret::new(client_id));
    let mut shown = serde_json::Map::from_iter([("client_id".to_owned(), Value::from(client_id))]);
    if let Some(secret) = client_secret {
        values.set_text("client_secret", secret);
        shown.insert("client_secret".to_owned(), Value::Null);
    }
    base.ring.ensure(&base.db, wanted.site.as_str(), wanted.provider.as_str()).await?;
    let (now, owner, id) = (base.clock.now(), Owner::Site, AppConfigId::new());
    let owner_text = owner.to_string();
    let place = Place::app_config(wanted.site, wanted.provider, &owner_text, &id);
    let config = AppConfig {
        sealed: base.ring.seal_now(&place, &values.to_json())?,
        id,
        provider: wanted.provider.clone(),
        owner,
        values: shown,
        client_id: Some(client_id.to_owned()),
        created_at: now,
        updated_at: now,
        site: wanted.site.clone(),
    };
    let mut tx = base.db.begin().await?;
    let ours = on!(&mut tx, |c| sqlx::query(
        "UPDATE registrations SET app_config_id = $4
         WHERE site = $1 AND provider = $2 AND digest = $3 AND app_config_id IS NULL"
    )
    .bind(wanted.site.as_str())
    .bind(wanted.provider.as_str())
    .bind(wanted.digest)
    .bind(config.id.as_str())
    .execute(c)
    .await?
    .rows_affected());
    if ours == 0 {
        drop(tx);
        if let Turn::Registered(theirs) = turn(base, wanted, now).await? {
            return Ok(*theirs);
        }
        return Err(Error::internal("a registration is gone"));
    }
    store::insert_registered(&mut tx, &config).await?;
    let facts = json!({ "provider": config.provider, "instance": wanted.instance, "config": config.id, "client_id": client_id });
    base.audit.record(&mut tx, Event::new(wanted.site, actor, "app_config.register").facts(facts)).await?;
    tx.commit().await?;
    Ok(config)
}

/// Gives the turn back, so that the next one need not wait for its end.
pub async fn give_up(base: &Base, wanted: &Wanted<'_>) -> Result<()> {
    let mut tx = base.db.begin_bookkeeping().await?;
    on!(&mut tx, |c| sqlx::query(
        "UPDATE registrations SET busy_until = 0 WHERE site = $1 AND provider = $2 AND digest = $3 AND app_config_id IS NULL"
    )
    .bind(wanted.site.as_str())
    .bind(wanted.provider.as_str())
    .bind(wanted.digest)
    .execute(c)
    .await
    .map(|_| ())?);
    tx.commit().await
}
