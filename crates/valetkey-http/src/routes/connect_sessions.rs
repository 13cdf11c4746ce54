//! Connect sessions: links by which somebody connects an account.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use valetkey::{
    Code, Error,
    connect::{
        device,
        session::{self, NewSession},
    },
    id::{AccountName, AgentId, ConnectSessionId, ProviderName},
    principal::Owner,
    secret::Secret,
};

use super::moment;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, members},
    state::AppState,
};

/// What is to be connected, and for whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewConnectSession {
    /// At which provider.
    #[schema(value_type = String)]
    provider: ProviderName,
    /// Whose the account will be: `site`, `user:<id>` or `agent:<id>`.
    #[schema(value_type = String)]
    owner: Owner,
    /// Which of the owner's accounts there; the default one when absent.
    name: Option<String>,
    /// The scopes to ask for; the definition's when absent.
    scopes: Option<Vec<String>>,
    /// Where the browser goes afterwards; exactly one of the site's places.
    return_to: Option<String>,
    /// Carried along until the flow is over; at most 4 KiB.
    #[schema(value_type = Option<String>)]
    payload: Option<Secret>,
    /// The agent on whose account this is asked, named on the page.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentId>,
    /// Whether another upstream account may take the place of the one connected before.
    #[serde(default)]
    new_subject: bool,
    /// The person signs in on another device, with a code (RFC 8628). Always so where the provider has no other way.
    #[serde(default)]
    device: bool,
    /// Values of the provider's connection fields, such as an instance. None of them is a secret.
    #[serde(default, deserialize_with = "members")]
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
}

/// A link, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeConnectSession {
    /// The session's id, which assertions name; no secret.
    id: String,
    /// The link. It works once.
    url: String,
    /// Until when.
    expires_at: String,
}

/// Makes a link. For a person's account the key must be allowed to speak for that person; for the site's or an agent's it
/// needs `admin` too.
#[utoipa::path(post, path = "/v1/connect-sessions", tag = "connect", request_body = NewConnectSession,
    responses((status = 201, body = MadeConnectSession)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewConnectSession>,
) -> Answer<(StatusCode, Json<MadeConnectSession>)> {
    caller.require_word_of(&new.owner)?;
    let name: AccountName = new.name.as_deref().unwrap_or_default().parse()?;
    let new = NewSession {
        provider: new.provider,
        owner: new.owner,
        name,
        scopes: new.scopes,
        return_to: new.return_to,
        payload: new.payload,
        agent: new.agent,
        new_subject: new.new_subject,
        device: new.device,
        fields: new.fields,
    };
    let made = session::create(state.outside(), caller.site()?, &caller.actor()?, new).await?;
    Ok((StatusCode::CREATED, Json(MadeConnectSession::new(&state, &made))))
}

impl MadeConnectSession {
    pub(super) fn new(state: &AppState, made: &session::Created) -> Self {
        Self { id: made.id.to_string(), url: made.url(state.outside()).expose().to_owned(), expires_at: moment(made.expires_at) }
    }
}

/// What a person needs to sign in on another device.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeviceCode {
    /// The code to type in. Whoever signs in with it links their account: it is for nobody else.
    user_code: String,
    /// Where to type it in.
    verification_uri: String,
    /// The same address with the code in it, where the provider gives one.
    verification_uri_complete: Option<String>,
    /// Until when.
    expires_at: String,
}

/// Begins a link's sign-in on another device without opening it, for whoever sits at a terminal of this machine. What comes of
/// it is told by the link's state.
#[utoipa::path(post, path = "/v1/connect-sessions/{id}/device", tag = "connect", params(("id" = String, Path)),
    responses((status = 200, body = DeviceCode)))]
pub(crate) async fn begin_device(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectSessionId>,
) -> Answer<Json<DeviceCode>> {
    let shown = device::begin(state.outside(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(Json(DeviceCode {
        user_code: shown.user_code.expose().to_owned(),
        verification_uri: shown.verification_uri,
        verification_uri_complete: shown.verification_uri_complete.map(|uri| uri.expose().to_owned()),
        expires_at: moment(shown.expires_at),
    }))
}

/// Where a link stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConnectSession {
    /// The session's id.
    id: String,
    /// At which provider.
    provider: String,
    /// Whose the account will be.
    owner: String,
    /// Which of the owner's accounts there.
    name: String,
    /// `waiting`, `started`, `expired`, `connected`, or the code of what went wrong.
    state: String,
    /// The connection, once there is one.
    connection: Option<String>,
    /// What was given to be carried along.
    payload: Option<String>,
    /// Since when.
    created_at: String,
    /// Until when the link works.
    expires_at: String,
}

/// Where a link stands, until a day after it expired.
#[utoipa::path(get, path = "/v1/connect-sessions/{id}", tag = "connect", params(("id" = String, Path)),
    responses((status = 200, body = ConnectSession)))]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectSessionId>,
) -> Answer<Json<ConnectSession>> {
    let found = session::status(state.base(), caller.site()?, &id).await?.filter(|session| caller.reaches(&session.owner));
    let found = found.ok_or_else(|| Error::new(Code::NotFound, format!("there is no connect session `{id}`")))?;
    Ok(Json(ConnectSession {
        id: found.id.to_string(),
        provider: found.provider.to_string(),
        owner: found.owner.to_string(),
        name: found.name.to_string(),
        state: found.state,
        connection: found.connection.map(|id| id.to_string()),
        payload: found.payload.map(|payload| payload.expose().to_owned()),
        created_at: moment(found.created_at),
        expires_at: moment(found.expires_at),
    }))
}
