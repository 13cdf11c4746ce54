//! The MCP server: an agent's tools, at `/mcp` (streamable HTTP, without sessions).
//!
//! 1. The bearer is read and looked up, for every request anew. What is no live token for this place (RFC 8707) gets the one 401,
//!    which says where the metadata are (RFC 9728).
//! 2. `Host` and `Origin` must be ours ([`valetkey_mcp::Place`]).
//! 3. A tool calls the API's own router, as the agent that was found in 1: the same gate, the same handlers, the same audit.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use http::{HeaderValue, header, request::Parts};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use valetkey::{
    Result, decision,
    deliver::Caller as Agent,
    principal::CallerChain,
    token::{Audience, TokenHash},
};
use valetkey_mcp::{Api, LARGEST_MESSAGE, Place, Unreachable};

use super::deliver::{self, UNATTENDED};
use crate::{
    caller::{Caller, Known, bearer, no_person},
    edge::{CallerName, ClientIp},
    error::Answer,
    extract::whole,
    state::AppState,
};

/// Where it is. The resource that tokens are for names it too ([`valetkey::oauth::Server::resource`]).
pub(crate) const PATH: &str = "/mcp";

/// What the handler stands on.
#[derive(Clone)]
struct Mcp {
    state: AppState,
    api: Router,
    place: Arc<Place>,
}

/// The server over the API's router.
pub(crate) fn router(state: AppState, api: Router) -> Router {
    let place = Arc::new(Place::new(&state.outside().public_url));
    Router::new().route(PATH, any(answer)).with_state(Mcp { state, api, place })
}

async fn answer(State(mcp): State<Mcp>, request: Request) -> Answer<Response> {
    let (mut parts, body) = request.into_parts();
    let agent = admit(&mcp.state, &parts).await?;
    let caller = Caller::Agent { hash: agent.token, chain: agent.chain };
    if let Some(CallerName(name)) = parts.extensions.get::<CallerName>() {
        let _ = name.set(caller.name());
    }
    let message = whole(body, LARGEST_MESSAGE).await?;
    let tools = Tools { api: mcp.api, caller, unattended: agent.unattended, ip: parts.extensions.get::<ClientIp>().copied() };
    // Who asks is known. Nothing behind this has a use for the bearer.
    parts.headers.remove(header::AUTHORIZATION);
    parts.extensions.clear();
    let request = http::Request::from_parts(parts, message);
    let answer = valetkey_mcp::answer(tools, &mcp.place, request, mcp.state.stopping()).await;
    Ok(answer.map(Body::new))
}

/// The agent whose token is shown, which lives and is taken here.
///
/// # Errors
/// The one 401; `invalid_request` for a chain of callers that cannot be read, or a person that is named.
async fn admit(state: &AppState, parts: &Parts) -> Result<Agent> {
    let text = bearer(&parts.headers)?.ok_or_else(decision::unauthenticated)?;
    let hash: TokenHash = state.oauth().presented_at(text, Audience::Mcp).await?;
    if parts.headers.contains_key("valet-user") {
        return Err(no_person());
    }
    let chain = CallerChain::from_headers(&parts.headers)?;
    let agent = deliver::agent(&Caller::Agent { hash, chain }, &parts.headers)?;
    let now = state.base().clock.now();
    let facts = state.authority().holder(&agent.token).await?.ok_or_else(decision::unauthenticated)?;
    let principal = decision::calling(&facts, agent.unattended, &agent.chain, now)?;
    if let Some(token) = &principal.token {
        state.last_used().note(&principal.site, token, now);
    }
    Ok(agent)
}

/// The API as one agent's tools call it, in this process.
struct Tools {
    api: Router,
    caller: Caller,
    /// Whether the whole request was made without the token's person.
    unattended: bool,
    ip: Option<ClientIp>,
}

impl Api for Tools {
    async fn send(&self, request: http::Request<Bytes>) -> std::result::Result<valetkey_mcp::Answer, Unreachable> {
        let mut request = request.map(Body::from);
        if self.unattended {
            request.headers_mut().insert(UNATTENDED, HeaderValue::from_static("true"));
        }
        request.extensions_mut().insert(Known(self.caller.clone()));
        if let Some(ip) = self.ip {
            request.extensions_mut().insert(ip);
        }
        let Ok(answer) = self.api.clone().oneshot(request).await;
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}
