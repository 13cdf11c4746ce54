//! App configurations: what a site knows of its own app at a provider.
//!
//! Values are sealed as one object. Beside it stands what may be shown: the values that are no secret, and null
//! for each secret that is set; listings and `is_configured` read only that. A configuration whose client id
//! changes becomes a new row, and the old one stays for the connections that its client minted (decisions 4).
//!
//! The owner is named: the site's app, a person's and an agent's are read, saved ([`set`]), merged into ([`update`]) and
//! deleted apart from one another, and nothing falls back. Where its flows return to is said in [`callback`]. An app that
//! we registered ourselves at an instance is kept by [`registered`].
//!
//! Two look-ups ask the provider's policy ([`crate::scope`]), each under its own name: [`for_context`] for a caller who leaves
//! open whose app it is, and [`applying`] for whose client a connection's tokens are asked with.

pub mod callback;
pub mod registered;
mod store;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    audit::Event,
    base::{Base, Outside},
    clock::Timestamp,
    context::{Context, Kind},
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AppConfigId, ProviderName, SiteId},
    principal::{Actor, Owner},
    provider::{Definition, FieldLevel, Role},
    scope::{self, Found},
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

/// What stands for a stored secret in every listing. Sent back, it keeps the stored one.
pub const MASK: &str = "****************";

/// How often a write that met another one is tried again. Each time somebody else's write went through.
const TRIES: usize = 16;

impl AppConfig {
    /// The values as they are shown: [`MASK`] for each secret that is set.
    pub fn masked(&self) -> Map<String, Value> {
        let mask = |value: &Value| if value.is_null() { Value::from(MASK) } else { value.clone() };
        self.values.iter().map(|(name, value)| (name.clone(), mask(value))).collect()
    }
}

/// What is meant by a field that is not among those given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    /// It is cleared.
    Cleared,
    /// It stays.
    Kept,
}

/// Stores a configuration whole: a field that is not given is cleared. A secret that is given as its mask stays.
///
/// # Errors
/// `invalid_request` for a field that the definition does not have, a value that is none, a field that is needed and
/// missing, a mask where nothing is stored, and for a server that changes while a secret stays; `conflict` where the
/// configuration changes faster than it can be written. No message repeats a value.
pub async fn set(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    definition: &Definition,
    owner: &Owner,
    given: &Map<String, Value>,
) -> Result<AppConfig> {
    write(base, site, actor, definition, owner, given, Absent::Cleared).await
}

/// Merges fields into a configuration, which need not be there yet: null or an empty text clears a field, a secret that
/// is given as its mask stays, and so does every field that is not given.
///
/// # Errors
/// As [`set`].
pub async fn update(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    definition: &Definition,
    owner: &Owner,
    given: &Map<String, Value>,
) -> Result<AppConfig> {
    write(base, site, actor, definition, owner, given, Absent::Kept).await
}

async fn write(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    definition: &Definition,
    owner: &Owner,
    given: &Map<String, Value>,
    absent: Absent,
) -> Result<AppConfig> {
    for _ in 0..TRIES {
        let old = current(&base.db, site, &definition.name, owner).await?;
        let stored = match &old {
            Some(config) => open(base, config).await?,
            None => SecretMap::default(),
        };
        let form = Form::fill(definition, old.as_ref(), &stored, given, absent)?;
        match old {
            // Nothing changes: nothing is written, and that is no failure.
            Some(old) if form.values == stored && form.shown == old.values => return Ok(old),
            old => match store_form(base, site, actor, definition, owner, old.as_ref(), form).await {
                Ok(Some(config)) => return Ok(config),
                // Somebody else was faster: what was kept of the old secrets would be too old.
                Ok(None) => {}
                Err(error) if error.code() == Code::Conflict => {}
                Err(error) => return Err(error),
            },
        }
    }
    Err(Error::new(Code::Conflict, "that configuration changes all the time; try again"))
}

/// A configuration as it would be.
struct Form {
    values: SecretMap,
    shown: Map<String, Value>,
}

impl Form {
    fn fill(
        definition: &Definition,
        old: Option<&AppConfig>,
        stored: &SecretMap,
        given: &Map<String, Value>,
        absent: Absent,
    ) -> Result<Self> {
        let mut form = Self { values: SecretMap::default(), shown: Map::new() };
        // First of all: a name that is no field's is told before what the fields lack.
        form.keep_others(definition, old, stored, given, absent)?;
        let mut kept_secret = None;
        for field in definition.fields_of(FieldLevel::App) {
            let before = stored.expose().get(&field.name);
            let entered = match given.get(&field.name) {
                None if absent == Absent::Kept => None,
                None | Some(Value::Null) => Some(String::new()),
                Some(value) if field.secret && is_mask(value) => match before {
                    Some(_) => None,
                    None => {
                        let why = "that is the mask of a secret, and none is stored; give the secret itself";
                        return Err(Error::new(Code::InvalidRequest, format!("{}: {why}", field.name)));
                    }
                },
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                Some(_) => return Err(Error::new(Code::InvalidRequest, format!("{}: it is a text", field.name))),
            };
            let value = match (entered, before) {
                // What is there is not held against a definition that became stricter.
                (None, Some(before)) => {
                    kept_secret = kept_secret.or(field.secret.then_some(field));
                    Some(before.clone())
                }
                (entered, _) => field.accept(&entered.unwrap_or_default())?.map(Value::String),
            };
            if let Some(value) = value {
                form.set(&field.name, value, field.secret);
            }
        }
        // A secret that was entered for one server is not sent to another (decisions 4).
        let moved = definition.fields_deciding_hosts(FieldLevel::App).find(|field| {
            let before = stored.expose().get(&field.name);
            before.is_some() && before != form.values.expose().get(&field.name)
        });
        if let (Some(server), Some(secret)) = (moved, kept_secret) {
            return Err(Error::new(
                Code::InvalidRequest,
                format!("{} decides where secrets are sent: give {} again with it", server.name, secret.name),
            ));
        }
        Ok(form)
    }

    /// Members that are no fields of this definition: an import or a former definition brought them. They can be kept, and
    /// not be set.
    fn keep_others(
        &mut self,
        definition: &Definition,
        old: Option<&AppConfig>,
        stored: &SecretMap,
        given: &Map<String, Value>,
        absent: Absent,
    ) -> Result<()> {
        let is_field = |name: &str| definition.fields_of(FieldLevel::App).any(|field| field.name == name);
        for (name, value) in stored.expose().iter().filter(|(name, _)| !is_field(name)) {
            let shown = old.and_then(|old| old.values.get(name)).cloned().unwrap_or_default();
            let kept = match given.get(name) {
                None => absent == Absent::Kept,
                Some(value) if shown.is_null() => is_mask(value),
                Some(value) => *value == shown,
            };
            match (kept, given.get(name)) {
                (true, _) => self.set(name, value.clone(), shown.is_null()),
                (false, None | Some(Value::Null)) => {}
                (false, Some(_)) => return Err(unknown(definition, name)),
            }
        }
        match given.keys().find(|name| !is_field(name) && !stored.expose().contains_key(*name)) {
            Some(name) => Err(unknown(definition, name)),
            None => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: Value, secret: bool) {
        self.shown.insert(name.to_owned(), if secret { Value::Null } else { value.clone() });
        self.values.expose_mut().insert(name.to_owned(), value);
    }
}

/// Whether something is what a listing shows for a secret. One of any length: others may show more stars, or fewer.
fn is_mask(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte == b'*'))
}

fn unknown(definition: &Definition, name: &str) -> Error {
    let known: Vec<_> = definition.fields_of(FieldLevel::App).map(|field| field.name.as_str()).collect();
    let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    // What is sent for a name may be a secret that slipped; it is repeated only as far as it looks like a name.
    let plain = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    let what = if plain { format!(" `{name}`") } else { " of that name".to_owned() };
    Error::new(Code::InvalidRequest, format!("{} has no app field{what}; it has {has}", definition.title))
        .with_extra(json!({ "allowed": known }))
}

/// Stores what was filled in; nothing where somebody else was faster.
async fn store_form(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    definition: &Definition,
    owner: &Owner,
    old: Option<&AppConfig>,
    form: Form,
) -> Result<Option<AppConfig>> {
    let client_id = definition.field_with_role(Role::ClientId).and_then(|field| form.values.text(&field.name));
    let client_id = client_id.map(|id| id.expose().to_owned());
    base.ring.ensure(&base.db, site.as_str(), definition.name.as_str()).await?;
    let now = base.clock.now();
    let keep = old.filter(|old| old.client_id == client_id);
    let id = keep.map_or_else(AppConfigId::new, |old| old.id.clone());
    let owner_text = owner.to_string();
    let place = Place::app_config(site, &definition.name, &owner_text, &id);
    let config = AppConfig {
        sealed: base.ring.seal_now(&place, &form.values.to_json())?,
        id,
        provider: definition.name.clone(),
        owner: owner.clone(),
        values: form.shown,
        client_id,
        created_at: keep.map_or(now, |old| old.created_at),
        updated_at: now,
        site: site.clone(),
    };
    let mut tx = base.db.begin().await?;
    let unmoved = match (keep, old) {
        (Some(old), _) => store::update(&mut tx, old, &config).await?,
        (None, Some(old)) => store::set_replaced(&mut tx, site, &old.id, now).await?,
        (None, None) => true,
    };
    if !unmoved {
        return Ok(None);
    }
    if keep.is_none() {
        store::insert(&mut tx, &config).await?;
    }
    let facts = json!({ "provider": config.provider, "owner": config.owner, "config": config.id, "client_id": config.client_id });
    base.audit.record(&mut tx, Event::new(site, actor, "app_config.set").facts(facts)).await?;
    tx.commit().await?;
    Ok(Some(config))
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

/// The configuration that the provider's policy for configurations gives a context, and where it came from. The site's stands
/// in only where the provider's setting says so. Opens nothing.
pub async fn for_context(
    outside: &Outside,
    site: &SiteId,
    provider: &ProviderName,
    context: &Context,
) -> Result<Found<AppConfig>> {
    let resolution = scope::resolve(outside, site, provider, Kind::Config, context).await?;
    let mut value = None;
    for owner in resolution.owners() {
        if let Some(config) = current(&outside.base.db, site, provider, owner).await? {
            value = Some((owner.clone(), config));
            break;
        }
    }
    Ok(resolution.found(value))
}

/// The configuration whose client asks for an owner's tokens: the owner's own where one is stored, complete or not; else the
/// one that the provider's policy gives that owner. Where the policy asks for a person's or an agent's own and nothing falls
/// back, there is none: the site's client is not lent by being there (decisions 5).
pub async fn applying(outside: &Outside, site: &SiteId, provider: &ProviderName, owner: &Owner) -> Result<Option<AppConfig>> {
    match current(&outside.base.db, site, provider, owner).await? {
        Some(own) => Ok(Some(own)),
        None => Ok(for_context(outside, site, provider, &Context::of(owner)).await?.value),
    }
}

/// The app with which an account's tokens are renewed, revoked and used for its lists, and its values: the one whose client minted
/// them. For tokens that came from outside before there was an app it is the one that a new connection would be made with.
pub async fn of_account(
    outside: &Outside,
    site: &SiteId,
    provider: &ProviderName,
    owner: &Owner,
    minted_with: Option<&AppConfigId>,
) -> Result<Option<(AppConfig, SecretMap)>> {
    let base = &outside.base;
    let config = match minted_with {
        Some(id) => get(&base.db, site, id).await?,
        None => applying(outside, site, provider, owner).await?,
    };
    match config {
        Some(config) => {
            let values = open(base, &config).await?;
            Ok(Some((config, values)))
        }
        None => Ok(None),
    }
}

/// One configuration by id, the replaced ones among them: the one a connection's tokens were minted with.
pub async fn get(db: &Db, site: &SiteId, id: &AppConfigId) -> Result<Option<AppConfig>> {
    store::by_id(db, site, id).await
}

/// A site's present configurations, by provider; opens nothing.
pub async fn list(db: &Db, site: &SiteId) -> Result<Vec<AppConfig>> {
    store::list(db, site).await
}

/// Whether a site has an app at a provider, or had one that counts no more.
pub async fn is_stored(db: &Db, site: &SiteId, provider: &ProviderName) -> Result<bool> {
    store::is_stored(db, site, provider).await
}

/// Whether everything the definition needs is there. Opens nothing.
pub fn is_configured(definition: &Definition, config: Option<&AppConfig>) -> bool {
    definition
        .fields_of(FieldLevel::App)
        .filter(|field| field.required)
        .all(|field| config.is_some_and(|config| config.values.contains_key(&field.name)))
}

/// Whether a configuration that is stored has everything that is needed. Of a provider without a definition nobody can say what
/// that is: there what an import brought counts as it is.
pub fn is_complete(definition: Option<&Definition>, config: &AppConfig) -> bool {
    definition.is_none_or(|definition| is_configured(definition, Some(config)))
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

/// Deletes the ended configurations of an owner who is no more, but those that a revocation or a live connection still needs.
pub async fn forget(tx: &mut Tx, site: &SiteId, owner: &Owner) -> Result<()> {
    store::forget(tx, site, owner).await
}

/// Whether an owner has a configuration, or had one that is still kept.
pub async fn is_left(db: &Db, site: &SiteId, owner: &Owner) -> Result<bool> {
    store::is_left(db, site, owner).await
}
