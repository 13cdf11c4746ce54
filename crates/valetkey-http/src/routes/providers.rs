//! Providers.

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use valetkey::{
    app_config::{self, AppConfig, callback},
    connect,
    id::ProviderName,
    principal::Owner,
    provider::Definition,
};

use crate::{
    caller::Caller,
    error::Answer,
    extract::{Json, Path},
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
    /// Whether accounts there need an app of the site's at all.
    needs_app: bool,
    /// Whether the site has told everything about its app there that is needed.
    configured: bool,
    /// Whether an account there is made of what somebody enters (a key, a login), rather than by signing in at the provider.
    entered: bool,
    /// Why accounts there cannot be connected by this build; absent where they can.
    waits_for: Option<String>,
}

impl Provider {
    fn new(definition: &Definition, config: Option<&AppConfig>) -> Self {
        Self {
            name: definition.name.to_string(),
            title: definition.title.clone(),
            kind: definition.kind.to_string(),
            needs_app: !app_config::is_configured(definition, None),
            configured: app_config::is_configured(definition, config),
            entered: definition.is_entered(),
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
    /// Whether that is an address of the site's own, in place of this broker's callback.
    callback_overridden: bool,
    /// The scopes that are asked for where a connect session names none.
    scopes: Vec<String>,
    /// The hosts that its credentials may be sent to.
    #[schema(value_type = Vec<String>)]
    hosts: Value,
    /// What a person or an operator enters.
    #[schema(value_type = Vec<Object>)]
    fields: Value,
    /// Where the definition came from.
    #[schema(value_type = Value)]
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
    let callback = callback::of(state.outside(), caller.site()?, &name).await?;
    let whole = definition.to_json()?;
    let part = |at: &str| whole.pointer(at).cloned().unwrap_or_default();
    Ok(Json(ProviderDetails {
        summary: Provider::new(&definition, config.as_ref()),
        setup_url: definition.setup_url.clone(),
        callback_overridden: callback.is_overridden(),
        callback_url: callback.url,
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
