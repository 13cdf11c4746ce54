//! Accounts by named scope: the site's, a person's, an agent's (decisions 5). For platforms only; agent tokens are never
//! accepted here. The scope in the path is the scope that is read: nothing falls back.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, Result,
    account::{self, Kept, Merge},
    agent,
    connection::{
        self, Filter,
        accounts::{self, IfMatch, Precondition},
    },
    context::{Context, Kind},
    id::{AccountName, AgentId, ProviderName, UserId},
    platform::Scope,
    principal::{Owner, Slot},
    scope,
    secret::SecretMap,
};

use super::connections::{Connection, Ended, Ending, end};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query, members},
    state::AppState,
};

/// Which account, and how much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Reading {
    /// Which of the owner's accounts there; the default one when absent.
    name: Option<String>,
    /// Whether the account itself is shown, secrets and all. Needs the scope `accounts:reveal`.
    #[serde(default)]
    reveal: bool,
}

/// Which account, and whether it is replaced.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Writing {
    /// Which of the owner's accounts there; the default one when absent.
    name: Option<String>,
    /// Whether whatever is there is replaced: tokens that may have been refreshed meanwhile, or somebody else's account,
    /// which then gets a new id without the old grants.
    #[serde(default)]
    replace: bool,
}

/// Which account, and how it ends.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Deleting {
    /// Which of the owner's accounts there; the default one when absent.
    name: Option<String>,
    /// `skip` or `force`, as for a connection.
    #[param(inline)]
    upstream: Option<super::connections::Upstream>,
    /// Why, in your words.
    reason: Option<String>,
    /// How many seconds to wait for what the provider says, as for a connection.
    wait: Option<u64>,
}

/// An account: its connection, and what it seals only where that was asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct Account {
    /// The connection's id; absent where the account is kept elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    /// The connection. Its `id` is the same as `connection`.
    #[serde(flatten)]
    state: Option<Connection>,
    /// Who keeps the account, where that is not this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_by: Option<String>,
    /// What was stored, unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    account: Option<Value>,
}

/// An account to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    /// The account: a JSON object. `access_token`, `refresh_token`, `expires_at` and `scope` mean what they do in OAuth. An
    /// account without tokens, at a provider where people enter a key or a login, is made of the provider's fields: they are
    /// checked and tried with the provider before anything is stored. Everything else is kept as it is.
    #[serde(deserialize_with = "members")]
    #[schema(value_type = Object)]
    account: Map<String, Value>,
}

/// Members to merge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountChange {
    /// The members to set; null takes one out. No tokens, no secrets, nothing that decides a host.
    #[serde(deserialize_with = "members")]
    #[schema(value_type = Object)]
    account: Map<String, Value>,
}

/// The four handlers of one named scope.
macro_rules! scope {
    ($module:ident, $path:literal, ($($param:literal)?), $what:ty, $owner:expr, $words:literal) => {
        #[doc = concat!("The ", $words, " account.")]
        pub(crate) mod $module {
            use super::*;

            #[doc = concat!("How the ", $words, " account at a provider stands, with the scope `accounts:read`; and with `accounts:reveal` all that is in it.")]
            #[utoipa::path(get, summary = concat!("How the ", $words, " account at a provider stands, with the scope `accounts:read`; and with `accounts:reveal` all that is in it."), path = $path, tag = "accounts", params(("provider" = String, Path), $(($param = String, Path),)? Reading),
                responses((status = 200, body = Account, headers(("ETag" = String)))))]
            pub(crate) async fn show(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Query(reading): Query<Reading>,
            ) -> Answer<Response> {
                let (provider, owner) = ($owner)(path);
                super::show(&state, &caller, provider, owner, &reading).await
            }

            #[doc = concat!("Stores the ", $words, " account at a provider, whole. Where one is there that can be refreshed, `If-Match` or `replace=true` is needed.")]
            #[utoipa::path(put, summary = concat!("Stores the ", $words, " account at a provider, whole. Where one is there that can be refreshed, `If-Match` or `replace=true` is needed."), path = $path, tag = "accounts", params(("provider" = String, Path), $(($param = String, Path),)? Writing,
                ("If-Match" = Option<String>, Header), ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none.")),
                request_body = NewAccount,
                responses((status = 200, body = Account, headers(("ETag" = String))), (status = 201, body = Account, headers(("ETag" = String)))))]
            pub(crate) async fn put(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Query(writing): Query<Writing>,
                headers: HeaderMap,
                Body(new): Body<NewAccount>,
            ) -> Answer<Response> {
                let (provider, owner) = ($owner)(path);
                super::put(&state, &caller, provider, owner, &writing, &headers, SecretMap::new(new.account)).await
            }

            #[doc = concat!("Merges members into the ", $words, " account at a provider.")]
            #[utoipa::path(patch, summary = concat!("Merges members into the ", $words, " account at a provider."), path = $path, tag = "accounts", params(("provider" = String, Path), $(($param = String, Path),)? Writing,
                ("If-Match" = Option<String>, Header)), request_body = AccountChange,
                responses((status = 200, body = Account, headers(("ETag" = String)))))]
            pub(crate) async fn patch(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Query(writing): Query<Writing>,
                headers: HeaderMap,
                Body(change): Body<AccountChange>,
            ) -> Answer<Response> {
                let (provider, owner) = ($owner)(path);
                super::patch(&state, &caller, provider, owner, &writing, &headers, &SecretMap::new(change.account)).await
            }

            #[doc = concat!("Deletes the ", $words, " account at a provider. Doing it again changes nothing.")]
            #[utoipa::path(delete, summary = concat!("Deletes the ", $words, " account at a provider. Doing it again changes nothing."), path = $path, tag = "accounts", params(("provider" = String, Path), $(($param = String, Path),)? Deleting,
                ("If-Match" = Option<String>, Header)), responses((status = 200, body = Ended)))]
            pub(crate) async fn delete(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Query(deleting): Query<Deleting>,
                headers: HeaderMap,
            ) -> Answer<Json<Ended>> {
                let (provider, owner) = ($owner)(path);
                super::delete(&state, &caller, provider, owner, deleting, &headers).await
            }
        }
    };
}

scope!(site, "/v1/providers/{provider}/accounts/site", (), ProviderName, |provider| (provider, Owner::Site), "site's own");
scope!(
    user,
    "/v1/providers/{provider}/accounts/users/{user}",
    ("user"),
    (ProviderName, UserId),
    |(provider, user)| (provider, Owner::User(user)),
    "person's"
);
scope!(
    agent_account,
    "/v1/providers/{provider}/accounts/agents/{agent}",
    ("agent"),
    (ProviderName, AgentId),
    |(provider, agent)| (provider, Owner::Agent(agent)),
    "agent's"
);

/// Which context an account is asked for.
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
    /// Which of the owner's accounts there; the default one when absent.
    name: Option<String>,
    /// Whether the account itself is shown, secrets and all. Needs the scope `accounts:reveal`.
    #[serde(default)]
    reveal: bool,
}

/// The account that a provider's policy gives a context.
#[derive(Serialize, ToSchema)]
pub(crate) struct ContextAccount {
    /// The policy that chose: `site`, `user`, `agent` or `principal`.
    policy: String,
    /// Whom it chose: `site`, `user:<id>` or `agent:<id>`.
    wanted: String,
    /// Whose account this is; null where there is none.
    resolved_from: Option<String>,
    /// Whether it is the site's because the one chosen has none.
    fell_back: bool,
    /// The account; null where there is none.
    found: Option<Account>,
}

/// Whose account at a provider applies to a person and an agent, as the provider's policy says. Here alone the site's may
/// stand in for one that is missing, and the answer says so.
#[utoipa::path(get, path = "/v1/providers/{provider}/accounts/context", tag = "accounts",
    params(("provider" = String, Path), Asking), responses((status = 200, body = ContextAccount)))]
pub(crate) async fn context(
    State(state): State<AppState>,
    caller: Caller,
    Path(provider): Path<ProviderName>,
    Query(asking): Query<Asking>,
) -> Answer<Json<ContextAccount>> {
    caller.require(if asking.reveal { Scope::AccountsReveal } else { Scope::AccountsRead })?;
    // Whoever is named must be there and in reach, also where the policy then chooses somebody else.
    let named = [asking.user.clone().map(Owner::User), asking.agent.clone().map(Owner::Agent)];
    for owner in named.into_iter().flatten() {
        slot(&state, &caller, provider.clone(), owner, asking.name.as_deref()).await?;
    }
    let acting_user = caller.user().cloned();
    let context = Context { agent: asking.agent, user: asking.user, acting_user, ..Context::default() };
    account::known(state.outside(), caller.site()?, &provider).await?;
    let resolution = scope::resolve(state.outside(), caller.site()?, &provider, Kind::Account, &context).await?;
    let mut found = None;
    for owner in resolution.owners() {
        let slot = slot(&state, &caller, provider.clone(), owner.clone(), asking.name.as_deref()).await?;
        if let Some((kept, account)) = look(&state, &caller, &slot, asking.reveal).await? {
            found = Some((owner.clone(), described(&state, kept, account.as_ref())));
            break;
        }
    }
    let found = resolution.found(found);
    Ok(Json(ContextAccount {
        policy: found.policy.to_string(),
        wanted: found.wanted.to_string(),
        resolved_from: found.resolved_from.map(|owner| owner.to_string()),
        fell_back: found.fell_back,
        found: found.value,
    }))
}

async fn show(state: &AppState, caller: &Caller, provider: ProviderName, owner: Owner, reading: &Reading) -> Answer<Response> {
    let slot = slot(state, caller, provider, owner, reading.name.as_deref()).await?;
    caller.require(if reading.reveal { Scope::AccountsReveal } else { Scope::AccountsRead })?;
    let (kept, account) = look(state, caller, &slot, reading.reveal).await?.ok_or_else(|| slot.empty())?;
    Ok(answer(state, StatusCode::OK, kept, account.as_ref()))
}

/// Where an account is kept, and what is in it where that is asked for.
async fn look(state: &AppState, caller: &Caller, slot: &Slot, reveal: bool) -> Result<Option<(Kept, Option<SecretMap>)>> {
    if reveal {
        let found = account::reveal(state.outside(), &caller.actor()?, slot).await?;
        return Ok(found.map(|found| (found.kept, Some(found.account))));
    }
    Ok(account::status(state.outside(), slot).await?.map(|kept| (kept, None)))
}

async fn put(
    state: &AppState,
    caller: &Caller,
    provider: ProviderName,
    owner: Owner,
    writing: &Writing,
    headers: &HeaderMap,
    account: SecretMap,
) -> Answer<Response> {
    let slot = slot(state, caller, provider, owner, writing.name.as_deref()).await?;
    // What is new would be nobody's.
    require_agent(state, &slot).await?;
    let precondition = precondition(headers, writing.replace)?;
    let saved = account::enter(state.outside(), &caller.actor()?, &slot, account, &precondition).await?;
    let status = if saved.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(state, status, saved.kept, None))
}

async fn patch(
    state: &AppState,
    caller: &Caller,
    provider: ProviderName,
    owner: Owner,
    writing: &Writing,
    headers: &HeaderMap,
    change: &SecretMap,
) -> Answer<Response> {
    let slot = slot(state, caller, provider, owner, writing.name.as_deref()).await?;
    let precondition = precondition(headers, writing.replace)?;
    let saved = account::merge(state.outside(), &caller.actor()?, &slot, change, Merge::Beside(&precondition)).await?;
    Ok(answer(state, StatusCode::OK, saved.kept, None))
}

async fn delete(
    state: &AppState,
    caller: &Caller,
    provider: ProviderName,
    owner: Owner,
    deleting: Deleting,
    headers: &HeaderMap,
) -> Answer<Json<Ended>> {
    caller.require_reaches(&owner)?;
    // An ending overwrites nothing, so nobody has to say what they read; whoever does is held to it.
    let precondition = precondition(headers, true)?;
    let name: AccountName = deleting.name.as_deref().unwrap_or_default().parse()?;
    let place = Slot { site: caller.site()?.clone(), provider, owner, name };
    let reason = deleting.reason.unwrap_or_else(|| "the account was deleted".to_owned());
    let ending = Ending { upstream: deleting.upstream, reason: Some(reason), wait: deleting.wait };
    let kept = account::status(state.outside(), &place).await?;
    if kept.is_some() {
        account::check(&precondition, kept.as_ref())?;
    }
    match kept {
        Some(Kept::Here(connection)) => Ok(Json(end(state, caller, &connection, &ending).await?)),
        Some(Kept::By(keeper)) => {
            account::delete(state.outside(), &caller.actor()?, &place, ending.wish()).await?;
            Ok(Json(Ended::elsewhere(keeper)))
        }
        None => {
            // A typing mistake in a provider's or an agent's name is told; an account that is not there is no mistake.
            slot(state, caller, place.provider, place.owner, None).await?;
            account::check(&precondition, None)?;
            Ok(Json(Ended::nothing()))
        }
    }
}

/// The slot that a path names, if the caller reaches it.
async fn slot(state: &AppState, caller: &Caller, provider: ProviderName, owner: Owner, name: Option<&str>) -> Answer<Slot> {
    caller.require_reaches(&owner)?;
    let site = caller.site()?.clone();
    account::known(state.outside(), &site, &provider).await?;
    let name: AccountName = name.unwrap_or_default().parse()?;
    let slot = Slot { site, provider, owner, name };
    // An import may have brought an agent's account and not the agent; a typing mistake in its name is told.
    if let Err(error) = require_agent(state, &slot).await
        && !was_stored(state, &slot).await?
    {
        return Err(error.into());
    }
    Ok(slot)
}

/// Whether an owner has an account at a provider, or had one that is over.
async fn was_stored(state: &AppState, slot: &Slot) -> Result<bool> {
    let (provider, owner) = (Some(slot.provider.clone()), Some(slot.owner.clone()));
    let one = connection::page(&state.base().db, &slot.site, &Filter { provider, owner, revoked: true }, None, 1).await?;
    Ok(!one.is_empty() || account::status(state.outside(), slot).await?.is_some())
}

/// Refuses the account of an agent that there is not.
async fn require_agent(state: &AppState, slot: &Slot) -> Result<()> {
    match &slot.owner {
        Owner::Agent(id) => agent::require(&state.base().db, &slot.site, id).await.map(|_| ()),
        Owner::Site | Owner::User(_) => Ok(()),
    }
}

fn answer(state: &AppState, status: StatusCode, kept: Kept, account: Option<&SecretMap>) -> Response {
    let etag = kept.connection().map(|connection| format!("\"{}\"", accounts::etag(connection)));
    let mut response = (status, Json(described(state, kept, account))).into_response();
    if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(&etag).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

fn described(state: &AppState, kept: Kept, account: Option<&SecretMap>) -> Account {
    let account = account.map(|account| Value::Object(account.expose().clone()));
    match kept {
        Kept::Here(connection) => Account {
            connection: Some(connection.id.to_string()),
            state: Some(Connection::new(state, *connection)),
            kept_by: None,
            account,
        },
        Kept::By(name) => Account { connection: None, state: None, kept_by: Some(name.to_owned()), account },
    }
}

/// What a writer says about what is there: `If-Match`, `If-None-Match: *` and `replace=true`.
pub(super) fn precondition(headers: &HeaderMap, replace: bool) -> Result<Precondition> {
    let invalid = |text: &'static str| Error::new(Code::InvalidRequest, text);
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    let if_match = if values.peek().is_none() {
        None
    } else {
        let mut tags = Vec::new();
        let mut any = false;
        for value in values {
            let text = value.to_str().map_err(|_| invalid("If-Match cannot be read"))?;
            for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                match tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) {
                    _ if tag == "*" => any = true,
                    Some(tag) => tags.push(tag.to_owned()),
                    // RFC 9110 section 13.1.1: compared strongly, so a weak tag matches nothing.
                    None if tag.starts_with("W/\"") => {}
                    None => return Err(invalid("If-Match holds an ETag in double quotes, as the account's answer gave it")),
                }
            }
        }
        Some(if any { IfMatch::Any } else { IfMatch::Tags(tags) })
    };
    let if_none = match headers.get(header::IF_NONE_MATCH) {
        None => false,
        Some(value) if value == "*" => true,
        Some(_) => return Err(invalid("If-None-Match is understood as `*` only")),
    };
    Ok(Precondition { if_match, if_none, replace })
}
