//! Apps at providers by named scope: the site's, a person's, an agent's; and where a provider's flows return to. The scope in
//! the path is the scope that is read and written: nothing falls back. No answer holds a secret.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, account, agent,
    app_config::{self, AppConfig, callback},
    context::Context,
    id::{AgentId, ProviderName, UserId},
    principal::Owner,
    provider::Definition,
    secret::SecretMap,
};

use super::moment;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query, members},
    state::AppState,
};

/// An app at a provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct App {
    /// Its id.
    id: String,
    /// The provider.
    provider: String,
    /// Whose it is: `site`, `user:<id>` or `agent:<id>`.
    owner: String,
    /// The values by field. A secret that is stored is sixteen asterisks; sent back, they keep it.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    /// Whether everything the definition needs is there. Of a provider without a definition whatever is stored counts.
    configured: bool,
    /// Since when.
    created_at: String,
    /// When it last changed.
    updated_at: String,
}

impl App {
    fn new(definition: Option<&Definition>, config: &AppConfig) -> Self {
        Self {
            configured: app_config::is_complete(definition, config),
            id: config.id.to_string(),
            provider: config.provider.to_string(),
            owner: config.owner.to_string(),
            values: config.masked(),
            created_at: moment(config.created_at),
            updated_at: moment(config.updated_at),
        }
    }
}

/// What the app's form holds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApp {
    /// The values by field. A field that is left out is cleared; a secret that is sent as its mask stays.
    #[serde(deserialize_with = "members")]
    #[schema(value_type = Object)]
    values: Map<String, Value>,
}

/// What changes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppChange {
    /// The values by field. What is left out stays, and so does a secret that is sent as its mask; null or an empty text
    /// clears.
    #[serde(deserialize_with = "members")]
    #[schema(value_type = Object)]
    values: Map<String, Value>,
}

/// The four handlers of one named scope.
macro_rules! scope {
    ($module:ident, $path:literal, ($($param:literal)?), $what:ty, $owner:expr, $words:literal) => {
        #[doc = concat!("The ", $words, " app.")]
        pub(crate) mod $module {
            use super::*;

            #[doc = concat!("The ", $words, " app at a provider, its secrets masked.")]
            #[utoipa::path(get, summary = concat!("The ", $words, " app at a provider, its secrets masked."), path = $path, tag = "providers",
                params(("provider" = String, Path), $(($param = String, Path),)?), responses((status = 200, body = App)))]
            pub(crate) async fn show(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
            ) -> Answer<Json<App>> {
                let (provider, owner) = ($owner)(path);
                super::show(&state, &caller, &provider, &owner).await
            }

            #[doc = concat!("Stores the ", $words, " app at a provider, whole.")]
            #[utoipa::path(put, summary = concat!("Stores the ", $words, " app at a provider, whole."), path = $path, tag = "providers",
                params(("provider" = String, Path), $(($param = String, Path),)?), request_body = NewApp, responses((status = 200, body = App)))]
            pub(crate) async fn put(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Body(new): Body<NewApp>,
            ) -> Answer<Json<App>> {
                let (provider, owner) = ($owner)(path);
                super::put(&state, &caller, &provider, &owner, SecretMap::new(new.values)).await
            }

            #[doc = concat!("Merges fields into the ", $words, " app at a provider, which need not be there yet.")]
            #[utoipa::path(patch, summary = concat!("Merges fields into the ", $words, " app at a provider, which need not be there yet."), path = $path, tag = "providers",
                params(("provider" = String, Path), $(($param = String, Path),)?), request_body = AppChange, responses((status = 200, body = App)))]
            pub(crate) async fn patch(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Body(change): Body<AppChange>,
            ) -> Answer<Json<App>> {
                let (provider, owner) = ($owner)(path);
                super::patch(&state, &caller, &provider, &owner, SecretMap::new(change.values)).await
            }

            #[doc = concat!("Deletes the ", $words, " app at a provider; connections that its client made keep working. Doing it again changes nothing.")]
            #[utoipa::path(delete, summary = concat!("Deletes the ", $words, " app at a provider; connections that its client made keep working. Doing it again changes nothing."), path = $path, tag = "providers",
                params(("provider" = String, Path), $(($param = String, Path),)?), responses((status = 204)))]
            pub(crate) async fn delete(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
            ) -> Answer<StatusCode> {
                let (provider, owner) = ($owner)(path);
                super::delete(&state, &caller, &provider, &owner).await
            }
        }
    };
}

scope!(site, "/v1/providers/{provider}/config/site", (), ProviderName, |provider| (provider, Owner::Site), "site's own");
scope!(
    short,
    "/v1/providers/{provider}/config",
    (),
    ProviderName,
    |provider| (provider, Owner::Site),
    "site's own (the same as `/config/site`)"
);
scope!(
    user,
    "/v1/providers/{provider}/config/users/{user}",
    ("user"),
    (ProviderName, UserId),
    |(provider, user)| (provider, Owner::User(user)),
    "person's own"
);
scope!(
    agents,
    "/v1/providers/{provider}/config/agents/{agent}",
    ("agent"),
    (ProviderName, AgentId),
    |(provider, agent)| (provider, Owner::Agent(agent)),
    "agent's own"
);

async fn show(state: &AppState, caller: &Caller, provider: &ProviderName, owner: &Owner) -> Answer<Json<App>> {
    caller.require_reaches(owner)?;
    account::known(state.outside(), caller.site()?, provider).await?;
    let config = app_config::current(&state.base().db, caller.site()?, provider, owner).await?;
    let config = config.ok_or_else(|| {
        Error::new(Code::NotFound, format!("{owner} has no app at {provider}; store one with PUT to this address"))
    })?;
    Ok(Json(described(state, &config)))
}

async fn put(state: &AppState, caller: &Caller, provider: &ProviderName, owner: &Owner, values: SecretMap) -> Answer<Json<App>> {
    let definition = writable(state, caller, provider, owner).await?;
    let actor = caller.actor()?;
    let config = app_config::set(state.base(), caller.site()?, &actor, &definition, owner, values.expose()).await?;
    Ok(Json(App::new(Some(&definition), &config)))
}

async fn patch(
    state: &AppState,
    caller: &Caller,
    provider: &ProviderName,
    owner: &Owner,
    values: SecretMap,
) -> Answer<Json<App>> {
    let definition = writable(state, caller, provider, owner).await?;
    let actor = caller.actor()?;
    let config = app_config::update(state.base(), caller.site()?, &actor, &definition, owner, values.expose()).await?;
    Ok(Json(App::new(Some(&definition), &config)))
}

/// A provider's definition, where the caller reaches the owner and the owner is there.
async fn writable(
    state: &AppState,
    caller: &Caller,
    provider: &ProviderName,
    owner: &Owner,
) -> Answer<std::sync::Arc<Definition>> {
    caller.require_reaches(owner)?;
    if let Owner::Agent(id) = owner {
        agent::require(&state.base().db, caller.site()?, id).await?;
    }
    Ok(state.outside().definition(provider)?)
}

async fn delete(state: &AppState, caller: &Caller, provider: &ProviderName, owner: &Owner) -> Answer<StatusCode> {
    caller.require_reaches(owner)?;
    account::known(state.outside(), caller.site()?, provider).await?;
    app_config::delete(state.base(), caller.site()?, &caller.actor()?, provider, owner).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn described(state: &AppState, config: &AppConfig) -> App {
    App::new(state.outside().catalogue.get(&config.provider).map(AsRef::as_ref), config)
}

/// Which context an app is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asking {
    /// The person that is meant. The one a call names by `Valet-User` is merely acting, and comes after an agent that is meant.
    #[param(value_type = Option<String>)]
    user: Option<UserId>,
    /// The agent that is meant.
    #[param(value_type = Option<String>)]
    agent: Option<AgentId>,
}

/// The app that a provider's policy gives a context.
#[derive(Serialize, ToSchema)]
pub(crate) struct ContextApp {
    /// The policy that chose: `site`, `user`, `agent` or `principal`.
    policy: String,
    /// Whom it chose: `site`, `user:<id>` or `agent:<id>`.
    wanted: String,
    /// Whose app this is; null where there is none.
    resolved_from: Option<String>,
    /// Whether it is the site's because the one chosen has none.
    fell_back: bool,
    /// The app, its secrets masked; null where there is none.
    found: Option<App>,
}

/// Whose app at a provider applies to a person and an agent, as the provider's policy for configurations says. Here alone the
/// site's may stand in for one that is missing, and the answer says so.
#[utoipa::path(get, path = "/v1/providers/{provider}/config/context", tag = "providers",
    params(("provider" = String, Path), Asking), responses((status = 200, body = ContextApp)))]
pub(crate) async fn context(
    State(state): State<AppState>,
    caller: Caller,
    Path(provider): Path<ProviderName>,
    Query(asking): Query<Asking>,
) -> Answer<Json<ContextApp>> {
    let site = caller.site()?;
    account::known(state.outside(), site, &provider).await?;
    // Whoever is named must be there and in reach, also where the policy then chooses somebody else.
    if let Some(user) = &asking.user {
        caller.require_reaches(&Owner::User(user.clone()))?;
    }
    if let Some(agent) = &asking.agent {
        agent::require(&state.base().db, site, agent).await?;
    }
    let acting_user = caller.user().cloned();
    let context = Context { agent: asking.agent, user: asking.user, acting_user, ..Context::default() };
    let found = app_config::for_context(state.outside(), site, &provider, &context).await?;
    Ok(Json(ContextApp {
        policy: found.policy.to_string(),
        wanted: found.wanted.to_string(),
        resolved_from: found.resolved_from.map(|owner| owner.to_string()),
        fell_back: found.fell_back,
        found: found.value.map(|config| described(&state, &config)),
    }))
}

/// Where a provider's flows return to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Callback {
    /// The redirect URI that is sent, and must be registered at the provider.
    url: String,
    /// This broker's own callback. Where `url` is another, whoever answers there sends the browser on to this one with its
    /// whole query.
    own: String,
    /// Whether `url` is an address of the site's own.
    overridden: bool,
}

impl From<callback::Callback> for Callback {
    fn from(callback: callback::Callback) -> Self {
        Self { overridden: callback.is_overridden(), url: callback.url, own: callback.own }
    }
}

/// An address of the site's own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCallback {
    /// A full https URL (http only on loopback), without a fragment, and another one for each provider.
    url: String,
}

/// Where a provider's flows return to.
#[utoipa::path(get, path = "/v1/providers/{provider}/callback", tag = "providers", params(("provider" = String, Path)),
    responses((status = 200, body = Callback)))]
pub(crate) async fn callback(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
) -> Answer<Json<Callback>> {
    state.outside().definition(&name)?;
    Ok(Json(callback::of(state.outside(), caller.site()?, &name).await?.into()))
}

/// Has a provider's flows return to an address of the site's own, which sends the browser on to this broker's callback.
#[utoipa::path(put, path = "/v1/providers/{provider}/callback", tag = "providers", params(("provider" = String, Path)),
    request_body = NewCallback, responses((status = 200, body = Callback)))]
pub(crate) async fn set_callback(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
    Body(new): Body<NewCallback>,
) -> Answer<Json<Callback>> {
    let definition = state.outside().definition(&name)?;
    let set = callback::set(state.outside(), caller.site()?, &caller.actor()?, &definition, &new.url).await?;
    Ok(Json(set.into()))
}

/// Has a provider's flows return to this broker's callback again.
#[utoipa::path(delete, path = "/v1/providers/{provider}/callback", tag = "providers", params(("provider" = String, Path)),
    responses((status = 200, body = Callback)))]
pub(crate) async fn reset_callback(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<ProviderName>,
) -> Answer<Json<Callback>> {
    let definition = state.outside().definition(&name)?;
    Ok(Json(callback::reset(state.outside(), caller.site()?, &caller.actor()?, &definition).await?.into()))
}
