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
    Code, Error, Result, agent,
    connection::{
        self,
        accounts::{self, IfMatch, Precondition, Slot},
    },
    id::{AccountName, AgentId, ProviderName, UserId},
    platform::Scope,
    principal::Owner,
    secret::SecretMap,
};

use super::connections::{Connection, Ended, Ending, end};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
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
    /// The connection's id.
    connection: String,
    /// The connection. Its `id` is the same as `connection`.
    #[serde(flatten)]
    state: Connection,
    /// What was stored, unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    account: Option<Value>,
}

/// An account to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    /// The account: a JSON object. `access_token`, `refresh_token`, `expires_at` and `scope` mean what they do in OAuth; a
    /// static provider's own fields are checked; everything else is kept as it is.
    #[schema(value_type = Object)]
    account: Map<String, Value>,
}

/// Members to merge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountChange {
    /// The members to set; null takes one out. No tokens, no secrets, nothing that decides a host.
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
            #[utoipa::path(delete, summary = concat!("Deletes the ", $words, " account at a provider. Doing it again changes nothing."), path = $path, tag = "accounts", params(("provider" = String, Path), $(($param = String, Path),)? Deleting),
                responses((status = 200, body = Ended)))]
            pub(crate) async fn delete(
                State(state): State<AppState>,
                caller: Caller,
                Path(path): Path<$what>,
                Query(deleting): Query<Deleting>,
            ) -> Answer<Json<Ended>> {
                let (provider, owner) = ($owner)(path);
                super::delete(&state, &caller, provider, owner, deleting).await
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

async fn show(state: &AppState, caller: &Caller, provider: ProviderName, owner: Owner, reading: &Reading) -> Answer<Response> {
    let slot = slot(state, caller, provider, owner, reading.name.as_deref()).await?;
    if reading.reveal {
        caller.require(Scope::AccountsReveal)?;
        let found = accounts::reveal(state.base(), &caller.actor()?, &slot).await?;
        let (connection, account) = found.ok_or_else(|| slot.empty())?;
        return Ok(answer(state, StatusCode::OK, connection, Some(&account)));
    }
    caller.require(Scope::AccountsRead)?;
    let connection = accounts::status(state.base(), &slot).await?.ok_or_else(|| slot.empty())?;
    Ok(answer(state, StatusCode::OK, connection, None))
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
    let precondition = precondition(headers, writing.replace)?;
    let put = accounts::put(state.outside(), &caller.actor()?, &slot, account, &precondition).await?;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(state, status, put.connection, None))
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
    let connection = accounts::patch(state.outside(), &caller.actor()?, &slot, change, &precondition).await?;
    Ok(answer(state, StatusCode::OK, connection, None))
}

async fn delete(
    state: &AppState,
    caller: &Caller,
    provider: ProviderName,
    owner: Owner,
    deleting: Deleting,
) -> Answer<Json<Ended>> {
    caller.require_reaches(&owner)?;
    let name: AccountName = deleting.name.as_deref().unwrap_or_default().parse()?;
    let place = Slot { site: caller.site()?.clone(), provider, owner, name };
    let Some(connection) = accounts::status(state.base(), &place).await? else {
        // A typing mistake in a provider's or an agent's name is told; an account that is not there is no mistake.
        slot(state, caller, place.provider, place.owner, None).await?;
        return Ok(Json(Ended::nothing()));
    };
    let reason = deleting.reason.unwrap_or_else(|| "the account was deleted".to_owned());
    let ending = Ending { upstream: deleting.upstream, reason: Some(reason), wait: deleting.wait };
    Ok(Json(end(state, caller, &connection, &ending).await?))
}

/// The slot that a path names, if the caller reaches it.
async fn slot(state: &AppState, caller: &Caller, provider: ProviderName, owner: Owner, name: Option<&str>) -> Answer<Slot> {
    caller.require_reaches(&owner)?;
    let site = caller.site()?.clone();
    state.outside().definition(&provider)?;
    if let Owner::Agent(id) = &owner {
        agent::require(&state.base().db, &site, id).await?;
    }
    let name: AccountName = name.unwrap_or_default().parse()?;
    Ok(Slot { site, provider, owner, name })
}

fn answer(state: &AppState, status: StatusCode, connection: connection::Connection, account: Option<&SecretMap>) -> Response {
    let etag = format!("\"{}\"", accounts::etag(&connection));
    let account = Account {
        connection: connection.id.to_string(),
        state: Connection::new(connection, state.base().clock.now()),
        account: account.map(|account| Value::Object(account.expose().clone())),
    };
    let mut response = (status, Json(account)).into_response();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
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
