//! Providers, and a site's own apps there.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    app_config::{self, AppConfig},
    connect,
    id::ProviderName,
    principal::Owner,
    provider::Definition,
    secret::SecretMap,
};

use super::moment;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A provider in a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Provider {
    /// Its name.
    name: String,
    /// Its name for people.
    title: String,
    /// How an account there comes to be: `oauth2`, `static`, ...
    kind: String,
    /// Whether the site has told everything about its app there that is needed.
    configured: bool,
    /// Why accounts there cannot be connected in a browser by this build; absent where they can.
    waits_for: Option<String>,
}

impl Provider {
    fn new(definition: &Definition, config: Option<&AppConfig>) -> Self {
        Self {
            name: definition.name.to_string(),
            title: definition.title.clone(),
            kind: definition.kind.to_string(),
            configured: app_config::is_configured(definition, config),
            waits_for: connect::is_connectable(definition).err().map(|why| why.message().to_owned()),
        }
    }
}

/// A list of providers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Providers {
    /// The providers, by name.
    providers: Vec<Provider>,
}

/// Lists the providers and whether they can be used.
#[utoipa::path(get, path = "/v1/providers", tag = "providers", responses((status = 200, body = Providers)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Answer<Json<Providers>> {
    let configs = app_config::list(&state.base().db, caller.site()?).await?;
    let config = |name: &ProviderName| configs.iter().find(|c| c.provider == *name && c.owner == Owner::Site);
    let providers = state.outside().catalogue.iter().map(|d| Provider::new(d, config(&d.name))).collect();
    Ok(Json(Providers { providers }))
}

/// A provider with its definition.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderDetails {
    /// What a list says of it.
    #[serde(flatten)]
    summary: Provider,
    /// Where an app is registered, or a key made.
    setup_url: Option<String>,
    /// The redirect URI to register there.
    callback_url: String,
    /// The scopes that are asked for where a connect session names none.
    scopes: Vec<String>,
    /// The hosts that its credentials may be sent to.
    #[schema(value_type = Vec<String>)]
    hosts: Value,
    /// What a person or an operator enters.
    #[schema(value_type = Vec<Object>)]
    fields: Value,
    /// Where the definition came from.
    #[schema(value_type = Object)]
    source: Value,
    /// The whole definition.
    #[schema(value_type = Object)]
    definition: Value,
}

/// One provider with its definition.
#[utoipa::path(get, path = "/v1/providers/{provider}", tag = "providers", params(("provider" = String, Path)),
    responses((status = 200, body = ProviderDetails)))]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
) -> Answer<Json<ProviderDetails>> {
    let definition = state.outside().definition(&name)?;
    let config = app_config::current(&state.base().db, caller.site()?, &name, &Owner::Site).await?;
    let whole = definition.to_json()?;
    let part = |at: &str| whole.pointer(at).cloned().unwrap_or_default();
    Ok(Json(ProviderDetails {
        summary: Provider::new(&definition, config.as_ref()),
        setup_url: definition.setup_url.clone(),
        callback_url: state.outside().callback_url(&name),
        scopes: definition.needed_scopes(),
        hosts: match part("/proxy/hosts") {
            Value::Null => Value::Array(Vec::new()),
            hosts => hosts,
        },
        fields: part("/fields"),
        source: part("/source"),
        definition: whole,
    }))
}

/// A site's own app at a provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct App {
    /// Its id.
    id: String,
    /// The provider.
    provider: String,
    /// Whose it is: `site`, `user:<id>` or `agent:<id>`.
    owner: String,
    /// The values that are no secret, and null for each secret that is stored.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    /// Whether everything the definition needs is there.
    configured: bool,
    /// Since when.
    created_at: String,
    /// When it last changed.
    updated_at: String,
}

impl App {
    fn new(definition: &Definition, config: AppConfig) -> Self {
        Self {
            configured: app_config::is_configured(definition, Some(&config)),
            id: config.id.to_string(),
            provider: config.provider.to_string(),
            owner: config.owner.to_string(),
            values: config.values,
            created_at: moment(config.created_at),
            updated_at: moment(config.updated_at),
        }
    }
}

/// Whose app is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhoseApp {
    /// `site` when absent, `user:<id>` or `agent:<id>`.
    #[param(value_type = Option<String>)]
    owner: Option<Owner>,
}

impl WhoseApp {
    fn owner(self) -> Owner {
        self.owner.unwrap_or(Owner::Site)
    }
}

/// The app at a provider; its secrets are null.
#[utoipa::path(get, path = "/v1/providers/{provider}/config", tag = "providers",
    params(("provider" = String, Path), WhoseApp), responses((status = 200, body = App)))]
pub(crate) async fn config(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
    Query(whose): Query<WhoseApp>,
) -> Answer<Json<App>> {
    let definition = state.outside().definition(&name)?;
    let owner = whose.owner();
    let config = app_config::current(&state.base().db, caller.site()?, &name, &owner).await?;
    let config = config
        .ok_or_else(|| Error::new(Code::NotFound, format!("{owner} has no app at {name}; store one with PUT to this address")))?;
    Ok(Json(App::new(&definition, config)))
}

/// What the app's form holds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApp {
    /// The values by field. A secret that is left out keeps its stored value; anything else that is left out is cleared.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
}

/// Stores the app at a provider.
#[utoipa::path(put, path = "/v1/providers/{provider}/config", tag = "providers",
    params(("provider" = String, Path), WhoseApp), request_body = NewApp, responses((status = 200, body = App)))]
pub(crate) async fn configure(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
    Query(whose): Query<WhoseApp>,
    Body(new): Body<NewApp>,
) -> Answer<Json<App>> {
    let definition = state.outside().definition(&name)?;
    let values = SecretMap::new(new.values);
    let (actor, owner) = (caller.actor()?, whose.owner());
    let config = app_config::set(state.base(), caller.site()?, &actor, &definition, &owner, values.expose()).await?;
    Ok(Json(App::new(&definition, config)))
}

/// Forgets the app at a provider; connections that its client made keep working.
#[utoipa::path(delete, path = "/v1/providers/{provider}/config", tag = "providers",
    params(("provider" = String, Path), WhoseApp), responses((status = 204)))]
pub(crate) async fn forget(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
    Query(whose): Query<WhoseApp>,
) -> Answer<StatusCode> {
    app_config::delete(state.base(), caller.site()?, &caller.actor()?, &name, &whose.owner()).await?;
    Ok(StatusCode::NO_CONTENT)
}
