//! The two deliveries: reveal and proxy. Agents only, by their own token.

use std::{borrow::Cow, time::Duration};

use axum::{body::Body as AxumBody, extract::State, response::Response};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result, deliver,
    deliver::{proxy::Target, slot::Named},
    id::{ConnectionId, ProviderName},
    principal::Delivery,
    secret::SecretMap,
};

use super::approvals::Held;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{self, MAX_BODY, Path},
    state::AppState,
};

/// By which an agent gives up its token's person for one call. Nothing can name another one.
pub(super) const UNATTENDED: &str = "valet-unattended";

/// What a caller wishes of a revealed token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wish {
    /// Seconds of life the token should have left. Capped at half of what the provider usually gives.
    min_life: Option<u32>,
    /// Which of the connection's tokens, where it holds several: a slot (`user`), or one chosen entry of it (`page/1234`). The
    /// connection's own when absent.
    slot: Option<String>,
}

/// A credential that was handed out. Which secret members there are depends on the provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revealed {
    /// The connection.
    #[schema(value_type = String)]
    connection: ConnectionId,
    /// Its provider.
    #[schema(value_type = String)]
    provider: ProviderName,
    /// How an access token is used, such as `Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
    /// When the access token ends; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// The scopes granted upstream; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<String>>,
    /// `access_token`, the fields of a static credential, or the servers of a mailbox (`imap`, `smtp`), each with what logs in
    /// there. Never a refresh token.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    secrets: Map<String, Value>,
}

/// Hands out a fresh access token or what else opens the account, where a grant says `reveal`. The path takes a connection's id, or a provider's name
/// where exactly one connection can be used.
#[utoipa::path(
    post, path = "/v1/connections/{id}/token", tag = "delivery",
    params(
        ("id" = String, Path, description = "A connection's id, or a provider's name"),
        ("Valet-Approval" = Option<String>, Header, description = "The approval that carries this, where a grant asks.")
    ),
    request_body = inline(Option<Wish>),
    responses((status = 200, body = Revealed), (status = 202, description = "A person has to approve it first.", body = Held))
)]
pub(crate) async fn reveal(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: AxumBody,
) -> Answer<Response> {
    let agent = agent(&caller, &headers)?;
    let wish = wish(body).await?;
    let deliverer = state.deliverer();
    let connection = deliverer.resolve(&agent, &id, Delivery::Reveal).await?;
    let slot = wish.slot.as_deref().map(Named::parse).transpose()?;
    let min_life = wish.min_life.map(|s| Duration::from_secs(s.into()));
    let approval = deliver::approved::named(&headers)?;
    let mut revealed = deliverer.reveal_approved(&agent, &connection, min_life, slot.as_ref(), approval.as_ref()).await?;
    let answer = Revealed {
        connection: revealed.connection,
        provider: revealed.provider,
        token_type: revealed.token_type,
        expires_at: revealed.expires_at.map(|at| at.to_string()),
        scopes: revealed.scopes,
        secrets: std::mem::take(revealed.secrets.expose_mut()),
    };
    let text = serde_json::to_vec(&answer);
    // Wiped, as it would have been where it was taken from.
    drop(SecretMap::new(answer.secrets));
    let mut response = Response::new(AxumBody::from(text.map_err(Error::internal)?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // RFC 6749 section 5.1, as for every answer that holds a token.
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Makes a call with a connection's credential: `/v1/proxy/{connection}/{path}`, or `/v1/proxy/{connection}/~{host}/{path}`
/// for another of its hosts. The connection is an id, or a provider's name where exactly one can be used.
#[utoipa::path(
    get, path = "/v1/proxy/{connection}/{path}", tag = "delivery",
    params(
        ("connection" = String, Path, description = "A connection's id, or a provider's name"),
        ("path" = String, Path, description = "The provider's path, passed on as it is; `~host/path` for another of the connection's hosts"),
        ("Valet-Slot" = Option<String>, Header, description = "Which of the connection's tokens, where it holds several: `user`, or `page/1234` for one chosen entry."),
        ("Valet-Approval" = Option<String>, Header, description = "The approval that carries this call, where a grant asks. The answer has no such header then.")
    ),
    responses(
        (status = 200, description = "Whatever the provider answered"),
        (status = 202, description = "Not sent: a person has to approve it first. Its header `Valet-Approval` tells it from an answer of the provider's.", body = Held)
    )
)]
pub(crate) async fn proxy(State(state): State<AppState>, caller: Caller, request: axum::extract::Request) -> Answer<Response> {
    let agent = agent(&caller, request.headers())?;
    let (parts, body) = request.into_parts();
    // The raw path: what is matched and sent is what was written.
    let uri = parts.uri.clone();
    let rest = uri.path().strip_prefix("/v1/proxy/").ok_or_else(|| Error::internal("a proxied path without its prefix"))?;
    let (named, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix('~') {
        None => (None, rest),
        Some(other) => {
            let (host, path) = other.split_once('/').unwrap_or((other, ""));
            (Some(host), path)
        }
    };
    let deliverer = state.deliverer();
    let connection = deliverer.resolve(&agent, &decoded(named)?, Delivery::Proxy).await?;
    let path = format!("/{path}");
    let target = Target { host, path: &path, query: uri.query() };
    let answer = deliverer.proxy(&agent, &connection, target, parts, body).await?;
    Ok(answer.map(AxumBody::new))
}

/// Makes a call to the root of a provider's API, or of its part that the definition's base URL names.
#[utoipa::path(
    get, path = "/v1/proxy/{connection}/", tag = "delivery",
    params(("connection" = String, Path, description = "A connection's id, or a provider's name")),
    responses((status = 200, description = "Whatever the provider answered"))
)]
pub(crate) async fn proxy_root(state: State<AppState>, caller: Caller, request: axum::extract::Request) -> Answer<Response> {
    proxy(state, caller, request).await
}

/// The calling agent, whether it gives up its token's person for this call, and through whom it says it was called.
pub(super) fn agent(caller: &Caller, headers: &HeaderMap) -> Result<deliver::Caller> {
    let Caller::Agent { hash, chain } = caller else {
        return Err(Error::new(Code::Forbidden, "this is for agents, with their own token"));
    };
    let mut values = headers.get_all(UNATTENDED).iter();
    let unattended = match (values.next().map(HeaderValue::as_bytes), values.next()) {
        (None, _) => false,
        (Some(b"true"), None) => true,
        _ => return Err(Error::new(Code::InvalidRequest, "Valet-Unattended: it is `true`, or it is not sent")),
    };
    Ok(deliver::Caller { token: hash.clone(), unattended, chain: chain.clone() })
}

/// The wish in a body that may be missing.
async fn wish(body: AxumBody) -> Result<Wish> {
    let bytes = extract::whole(body, MAX_BODY).await?;
    if bytes.is_empty() {
        return Ok(Wish::default());
    }
    extract::parse(&bytes).map_err(|_| {
        Error::new(Code::InvalidRequest, "the body is nothing, or a JSON object with `min_life` in seconds and `slot`")
    })
}

fn decoded(named: &str) -> Result<Cow<'_, str>> {
    // Neither an id nor a provider's name holds anything that is ever escaped.
    if named.is_empty() || named.contains('%') {
        return Err(Error::new(
            Code::InvalidRequest,
            "the path names a connection or a provider first: /v1/proxy/{connection}/{path}",
        ));
    }
    Ok(Cow::Borrowed(named))
}
