//! App configurations: what a site knows of its own app at a provider.
//!
//! Values are sealed as one object. Beside it stands what may be shown: the values that are no secret, and null
//! for each secret that is set; listings and `is_configured` read only that. A configuration whose client id
//! changes becomes a new row, and the old one stays for the connections that its client minted (decisions 4).

mod store;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AppConfigId, ProviderName, SiteId},
    principal::{Actor, Owner},
    provider::{Definition, FieldLevel, Role},
    seal::Place,
    secret::{SecretBytes, SecretMap},
};

/// An app configuration as it is listed: secrets are null.
#[derive(Clone, Debug, Serialize)]
pub struct AppConfig {
    /// Its id.
    pub id: AppConfigId,
    /// The provider.
    pub provider: ProviderName,
    /// Whose it is.
    pub owner: Owner,
    /// The values that are no secret, and null for each secret that is set.
    pub values: Map<String, Value>,
    /// The client id among them.
    pub client_id: Option<String>,
    /// Since when.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    #[serde(skip)]
    sealed: Vec<u8>,
    #[serde(skip)]
    site: SiteId,
}

/// Sets a configuration. Every value is checked against the definition's fields; a secret that is not given
/// keeps its stored value, so that a form need not show it.
pub async fn set(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    definition: &Definition,
    owner: &Owner,
    given: &Map<String, Value>,
) -> Result<AppConfig> {
    let old = current(&base.db, site, &definition.name, owner).await?;
    let old_values = match &old {
        Some(config) => open(base, config).await?,
        None => SecretMap::default(),
    };
    let mut values = SecretMap::default();
    let mut shown = Map::new();
    for key in given.keys() {
        if !definition.fields_of(FieldLevel::App).any(|field| &field.name == key) {
            let known: Vec<_> = definition.fields_of(FieldLevel::App).map(|f| f.name.as_str()).collect();
            return Err(Error::new(
                Code::InvalidRequest,
                format!("{} has no app field `{key}`; it has {}", definition.title, known.join(", ")),
            ));
        }
    }
    for field in definition.fields_of(FieldLevel::App) {
        let entered = match given.get(&field.name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            None | Some(Value::Null) if field.secret => {
                old_values.text(&field.name).map(|s| s.expose().to_owned()).unwrap_or_default()
            }
            None | Some(Value::Null) => String::new(),
            Some(_) => return Err(Error::new(Code::InvalidRequest, format!("{}: it is a text", field.name))),
        };
        if let Some(accepted) = field.accept(&entered)? {
            shown.insert(field.name.clone(), if field.secret { Value::Null } else { Value::String(accepted.clone()) });
            values.expose_mut().insert(field.name.clone(), Value::String(accepted));
        }
    }
    let client_id = definition.field_with_role(Role::ClientId).and_then(|f| values.text(&f.name)).map(|s| s.expose().to_owned());
    base.ring.ensure(&base.db, site.as_str(), definition.name.as_str()).await?;
    let now = base.clock.now();
    let keep = old.as_ref().filter(|old| old.client_id == client_id);
    let id = keep.map_or_else(AppConfigId::new, |old| old.id.clone());
    let owner_text = owner.to_string();
    let sealed = base.ring.seal_now(&Place::app_config(site, &definition.name, &owner_text, &id), &values.to_json())?;
    let config = AppConfig {
        id,
        provider: definition.name.clone(),
        owner: owner.clone(),
        values: shown,
        client_id,
        created_at: keep.map_or(now, |old| old.created_at),
        updated_at: now,
        sealed,
        site: site.clone(),
    };
    let mut tx = base.db.begin().await?;
    let unmoved = match (keep, &old) {
        (Some(old), _) => store::update(&mut tx, old, &config).await?,
        (None, Some(old)) => store::set_replaced(&mut tx, site, &old.id, now).await?,
        (None, None) => true,
    };
    if !unmoved {
        return Err(Error::new(Code::Conflict, "that configuration was set meanwhile; look again"));
    }
    if keep.is_none() {
        store::insert(&mut tx, &config).await?;
    }
    let facts = json!({ "provider": config.provider, "owner": config.owner, "config": config.id, "client_id": config.client_id });
    base.audit.record(&mut tx, Event::new(site, actor, "app_config.set").facts(facts)).await?;
    tx.commit().await?;
    Ok(config)
}

/// Takes a configuration over from elsewhere as it is: any members, of any kind. In listings only those are shown that the
/// definition says are no secret, and the client id. `over` replaces the present one. Nothing where one is here and stays.
///
/// The provider's data key must be there already, unless `seal` is false (a dry run).
pub async fn import(
    base: &Base,
    tx: &mut Tx,
    actor: &Actor,
    coming: &Coming<'_>,
    (over, seal): (bool, bool),
) -> Result<Option<(AppConfigId, Option<String>)>> {
    let plain = SecretBytes::new(coming.values.as_bytes().to_vec());
    let values = SecretMap::from_json(&plain)
        .map_err(|_| Error::new(Code::InvalidRequest, "a configuration is a JSON object").with_detail("it cannot be read"))?;
    let field = |name: &str| coming.definition.and_then(|definition| definition.field(name));
    let client =
        coming.definition.and_then(|definition| definition.field_with_role(Role::ClientId)).map_or("client_id", |f| &f.name);
    let shown = values.expose().iter().map(|(name, value)| {
        let public = name == client || field(name).is_some_and(|field| !field.secret);
        (name.clone(), if public { value.clone() } else { Value::Null })
    });
    let now = base.clock.now();
    let id = AppConfigId::new();
    let owner = coming.owner.to_string();
    let config = AppConfig {
        provider: coming.provider.clone(),
        owner: coming.owner.clone(),
        values: shown.collect(),
        client_id: values.text(client).map(|text| text.expose().to_owned()).filter(|text| !text.contains('\0')),
        created_at: now,
        updated_at: now,
        sealed: match seal {
            true => base.ring.seal_now(&Place::app_config(coming.site, coming.provider, &owner, &id), &plain)?,
            false => Vec::new(),
        },
        site: coming.site.clone(),
        id,
    };
    if over {
        store::replace_current(tx, &config, now).await?;
    }
    if !store::insert_free(tx, &config).await? {
        return Ok(None);
    }
    let facts = json!({ "provider": config.provider, "owner": config.owner, "config": config.id, "client_id": config.client_id, "imported": true });
    base.audit.record(tx, Event::new(coming.site, actor, "app_config.set").facts(facts)).await?;
    Ok(Some((config.id, config.client_id)))
}

/// A configuration that comes from elsewhere.
#[derive(Clone, Copy)]
pub struct Coming<'a> {
    /// The site.
    pub site: &'a SiteId,
    /// The provider.
    pub provider: &'a ProviderName,
    /// Its definition, if there is one.
    pub definition: Option<&'a Definition>,
    /// Whose.
    pub owner: &'a Owner,
    /// The JSON object, in the order its members shall keep.
    pub values: &'a str,
}

/// The JSON text of a configuration as it was sealed, whose members keep their order there.
pub async fn open_text(base: &Base, config: &AppConfig) -> Result<SecretBytes> {
    let owner = config.owner.to_string();
    base.ring.open(&base.db, &Place::app_config(&config.site, &config.provider, &owner, &config.id), &config.sealed).await
}

/// The configuration that counts now for an owner; nothing falls back to another owner.
pub async fn current(db: &Db, site: &SiteId, provider: &ProviderName, owner: &Owner) -> Result<Option<AppConfig>> {
    store::current(db, site, provider, owner).await
}

/// One configuration by id, the replaced ones among them: the one a connection's tokens were minted with.
pub async fn get(db: &Db, site: &SiteId, id: &AppConfigId) -> Result<Option<AppConfig>> {
    store::by_id(db, site, id).await
}

/// A site's present configurations, by provider; opens nothing.
pub async fn list(db: &Db, site: &SiteId) -> Result<Vec<AppConfig>> {
    store::list(db, site).await
}

/// Whether everything the definition needs is there. Opens nothing.
pub fn is_configured(definition: &Definition, config: Option<&AppConfig>) -> bool {
    definition
        .fields_of(FieldLevel::App)
        .filter(|field| field.required)
        .all(|field| config.is_some_and(|config| config.values.contains_key(&field.name)))
}

/// Opens a configuration's values.
pub async fn open(base: &Base, config: &AppConfig) -> Result<SecretMap> {
    let bytes = open_text(base, config).await?;
    SecretMap::from_json(&bytes).map_err(|_| {
        Error::new(Code::Unsealable, "a sealed app configuration cannot be read").with_detail("it is no JSON object")
    })
}

/// Deletes a configuration; it stays only as far as connections still need its client. Doing it again changes nothing.
pub async fn delete(base: &Base, site: &SiteId, actor: &Actor, provider: &ProviderName, owner: &Owner) -> Result<()> {
    let Some(config) = current(&base.db, site, provider, owner).await? else { return Ok(()) };
    let mut tx = base.db.begin().await?;
    if !store::set_replaced(&mut tx, site, &config.id, base.clock.now()).await? {
        return Ok(());
    }
    let facts = json!({ "provider": provider, "owner": owner, "config": config.id });
    base.audit.record(&mut tx, Event::new(site, actor, "app_config.delete").facts(facts)).await?;
    tx.commit().await
}
