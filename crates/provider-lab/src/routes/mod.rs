//! Every route of the lab on one page, and what the handlers share.

mod api;
mod authorize;
mod device;
mod entered;
mod lab;
mod oauth1;
mod pages;
pub(crate) mod play;
mod token;
mod visit;

use std::sync::Arc;

use axum::{
    Router,
    extract::{OriginalUri, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use serde_json::{Value, json};

use crate::{fault::At, records::Call, tokens::Refusal, world::World};

/// All routes.
pub(crate) fn router(world: Arc<World>) -> Router {
    let oauth = Router::new()
        .route("/", get(pages::home))
        .route("/authorize", get(authorize::ask).post(authorize::decide))
        .route("/token", post(token::token))
        .route("/revoke", post(token::revoke))
        .route("/introspect", post(token::introspect))
        .route("/exchange", get(token::exchange_by_get).post(token::exchange_by_post))
        .route("/device/authorize", post(device::authorize))
        .route("/device", get(device::ask).post(device::decide))
        .route("/register", post(device::register))
        .route("/pages", get(device::pages_of))
        .route("/userinfo", get(token::userinfo).post(token::userinfo))
        .route("/.well-known/oauth-authorization-server", get(token::metadata))
        .route("/resolve", get(entered::resolve))
        .route("/did/{did}", get(entered::document))
        .route("/session", get(entered::show).post(entered::create))
        .route("/session/refresh", post(entered::refresh))
        .route("/session/delete", post(entered::delete))
        .route("/login", post(entered::login))
        .route("/assertion", post(entered::assertion))
        .route("/installations/{id}/tokens", post(entered::installation));
    let oauth1 = Router::new()
        .route("/oauth1/request_token", post(oauth1::request_token))
        .route("/oauth1/authorize", get(oauth1::ask).post(oauth1::decide))
        .route("/oauth1/access_token", post(oauth1::access_token))
        .route("/oauth1/revoke", post(oauth1::revoke))
        .route("/oauth1/me", get(oauth1::me))
        .route("/oauth1/api/echo", any(oauth1::echo));
    let api = Router::new()
        .route("/api/me", get(api::me))
        .route("/api/echo", any(api::echo))
        .route("/api/echo/{*rest}", any(api::echo))
        .route("/api/posts", get(api::posts).post(api::create_post))
        .route("/api/stream", get(api::stream))
        .route("/api/bytes", get(api::bytes))
        .route("/api/status/{code}", any(api::status))
        .route("/api/redirect", any(api::redirect))
        .route("/api/set-cookie", get(api::set_cookie))
        .route("/api/html", get(api::html))
        .route("/api/echo-credential", any(api::echo_credential))
        .route("/api/trailers", get(api::trailers))
        .route("/api/key", any(api::key))
        .route_layer(middleware::from_fn_with_state(world.clone(), visit::api));
    let control = Router::new()
        .route("/lab/misbehave", post(lab::misbehave))
        .route("/lab/misbehave", delete(lab::behave))
        .route("/lab/release", post(lab::release))
        .route("/lab/counters", get(lab::counters))
        .route("/lab/log", get(lab::log))
        .route("/lab/families", get(lab::families))
        .route("/lab/spends/{sha256}", get(lab::spends))
        .route("/lab/revoked", get(lab::revoked))
        .route("/lab/reset", post(lab::reset))
        .route("/lab/reset-records", post(lab::reset_records))
        .route("/lab/clients", get(lab::clients).post(lab::register))
        .route("/lab/auto-approve", post(lab::auto_approve))
        .route("/lab/device", post(lab::device))
        .route("/lab/tokens", post(lab::issue))
        .route("/lab/withdraw", post(lab::withdraw))
        .route("/lab/expire-access-tokens", post(lab::expire_access))
        .route("/lab/expire-refresh-tokens", post(lab::expire_refresh))
        .route("/lab/advance", post(lab::advance))
        .route("/lab/definition", get(lab::definition))
        .route_layer(middleware::from_fn_with_state(world.clone(), lab::guard));
    oauth.merge(oauth1).merge(api).merge(control).fallback(unknown).with_state(world)
}

/// Whatever is not a route. It is logged too: a test wants to see a request that should never have come.
async fn unknown(State(world): State<Arc<World>>, method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let call =
        Call { at: At::Any, method: method.to_string(), path: uri.path().to_owned(), client_id: None, credential_sha256: None };
    visit::act(&world, call, |_, _| answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" }))).await
}

/// A JSON answer that nobody may keep (RFC 6749 section 5.1).
fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")];
    (status, headers, body.to_string()).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let challenge = match &*self.error {
            "invalid_client" => Some(r#"Basic realm="lab""#.to_owned()),
            "invalid_token" | "insufficient_scope" => {
                Some(format!(r#"Bearer realm="lab", error="{}", error_description="{}""#, self.error, self.description))
            }
            _ => None,
        };
        let mut response = answer(self.status, &json!({ "error": self.error, "error_description": self.description }));
        if let Some(challenge) = challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
