//! OAuth clients: programs that ask for tokens of agents. And whether they may register themselves.

use std::collections::BTreeSet;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    id::{AgentId, ClientId},
    oauth::{self, GrantType, NewClient, Scopes, client, register},
};

use super::{limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A client as it is listed: never its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Client {
    /// Its id, which is no secret: the `client_id` of OAuth.
    id: String,
    /// What people read when they consent.
    name: String,
    /// Whether it has a secret.
    confidential: bool,
    /// Where browsers may be sent back to, compared as whole texts but for the port on loopback.
    redirect_uris: Vec<String>,
    /// What it may ask for tokens with.
    grant_types: Vec<String>,
    /// The most it may ask for; absent for anything.
    scope: Option<String>,
    /// The only agent it may act as; absent for whichever the person chooses.
    agent: Option<String>,
    /// Since when, where it registered itself: nobody here vouches for it then.
    registered_at: Option<String>,
    /// When a token was last issued to it.
    used_at: Option<String>,
    /// Since when.
    created_at: String,
    /// Since when it is revoked.
    revoked_at: Option<String>,
}

impl From<oauth::Client> for Client {
    fn from(client: oauth::Client) -> Self {
        Self {
            id: client.id.to_string(),
            name: client.name,
            confidential: client.confidential,
            redirect_uris: client.redirect_uris,
            grant_types: client.grant_types.iter().map(|grant| grant.as_str().to_owned()).collect(),
            scope: client.ceiling.as_ref().map(|ceiling| Scopes::of(ceiling).to_string()),
            agent: client.agent.map(|agent| agent.to_string()),
            registered_at: maybe(client.registered_at),
            used_at: maybe(client.used_at),
            created_at: moment(client.created_at),
            revoked_at: maybe(client.revoked_at),
        }
    }
}

/// Which clients.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that came before this one was made: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ClientId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of clients.
#[derive(Serialize, ToSchema)]
pub(crate) struct Clients {
    /// The clients, the newest first, the revoked ones among them.
    clients: Vec<Client>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists the site's OAuth clients.
#[utoipa::path(get, path = "/v1/clients", tag = "clients", params(Which), responses((status = 200, body = Clients)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Clients>> {
    let limit = limited(which.limit);
    let clients = client::page(&state.base().db, caller.site()?, which.after.as_ref(), limit).await?;
    let next = next(&clients, limit, |client| client.id.to_string());
    Ok(Json(Clients { clients: clients.into_iter().map(Client::from).collect(), next }))
}

/// A new client.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewClientBody {
    /// What people read when they consent.
    name: String,
    /// Whether it can keep a secret, and so gets one. A program on somebody's machine cannot.
    #[serde(default)]
    confidential: bool,
    /// Where browsers may be sent back to: whole https URLs, http on loopback only (where any port will do).
    #[serde(default)]
    redirect_uris: Vec<String>,
    /// What it may ask for tokens with, in the words of OAuth. When absent: `refresh_token`, and `authorization_code` where there
    /// is a redirect URI, else the device code.
    #[schema(value_type = Option<Vec<String>>)]
    grant_types: Option<BTreeSet<GrantType>>,
    /// The most it may ask for, with spaces: `proxy`, `reveal`, `provider:NAME`, `connection:ID`. Anything when absent.
    scope: Option<String>,
    /// The only agent it may act as; whichever the person chooses when absent.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentId>,
}

/// A fresh client. Its secret, where it has one, is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeClient {
    /// The client as it is listed.
    #[serde(flatten)]
    listed: Client,
    /// The `client_secret` of OAuth.
    client_secret: Option<String>,
}

/// Makes an OAuth client.
#[utoipa::path(post, path = "/v1/clients", tag = "clients", request_body = NewClientBody,
    responses((status = 201, body = MadeClient)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewClientBody>,
) -> Answer<(StatusCode, Json<MadeClient>)> {
    let odd = |_| Error::new(Code::InvalidRequest, "scope: proxy, reveal, provider:NAME and connection:ID, with spaces");
    let new = NewClient {
        name: new.name,
        confidential: new.confidential,
        grant_types: new.grant_types.unwrap_or_else(|| GrantType::usual(!new.redirect_uris.is_empty())),
        redirect_uris: new.redirect_uris,
        scopes: new.scope.map(|scope| scope.parse()).transpose().map_err(odd)?,
        agent: new.agent,
    };
    let (client, secret) = client::create(state.base(), caller.site()?, &caller.actor()?, new).await?;
    let made = MadeClient { listed: client.into(), client_secret: secret.map(|secret| secret.expose().to_owned()) };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Shows an OAuth client.
#[utoipa::path(get, path = "/v1/clients/{id}", tag = "clients", params(("id" = String, Path)),
    responses((status = 200, body = Client)))]
pub(crate) async fn show(State(state): State<AppState>, caller: Caller, Path(id): Path<ClientId>) -> Answer<Json<Client>> {
    let none = || Error::new(Code::NotFound, format!("there is no client `{id}`"));
    let client = client::get(&state.base().db, caller.site()?, &id).await?.ok_or_else(none)?;
    Ok(Json(client.into()))
}

/// What ended with a client.
#[derive(Serialize, ToSchema)]
pub(crate) struct RevokedClient {
    /// How many of its access tokens were alive.
    revoked: u64,
}

/// Revokes an OAuth client with everything that was issued to it. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/clients/{id}", tag = "clients", params(("id" = String, Path)),
    responses((status = 200, body = RevokedClient)))]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ClientId>,
) -> Answer<Json<RevokedClient>> {
    let revoked = client::revoke(state.base(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(Json(RevokedClient { revoked }))
}

/// Whether clients may register themselves at the site (RFC 7591).
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    /// Whether they may.
    open: bool,
}

/// Says whether clients may register themselves.
#[utoipa::path(get, path = "/v1/client-registration", tag = "clients", responses((status = 200, body = Registration)))]
pub(crate) async fn registration(State(state): State<AppState>, caller: Caller) -> Answer<Json<Registration>> {
    Ok(Json(Registration { open: register::is_open(state.base(), caller.site()?).await? }))
}

/// Lets clients register themselves, or no longer. Those that did stay.
#[utoipa::path(put, path = "/v1/client-registration", tag = "clients", request_body = Registration,
    responses((status = 200, body = Registration)))]
pub(crate) async fn set_registration(
    State(state): State<AppState>,
    caller: Caller,
    Body(wanted): Body<Registration>,
) -> Answer<Json<Registration>> {
    register::set_open(state.base(), caller.site()?, &caller.actor()?, wanted.open).await?;
    Ok(Json(wanted))
}
