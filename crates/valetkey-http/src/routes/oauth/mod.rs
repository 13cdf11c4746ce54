//! The endpoints of the authorization server. Their callers are OAuth clients and resource servers of anybody's making, so
//! everything here is as the standards have it, also the errors (RFC 6749 section 5.2).
//!
//! | path | |
//! |---|---|
//! | `GET, POST /oauth/authorize` | the page of consent (RFC 6749 section 4.1) |
//! | `POST /oauth/token` | tokens for codes, device codes, refresh tokens and other tokens |
//! | `POST /oauth/device_authorization` | the beginning of a sign-in on another device (RFC 8628) |
//! | `GET, POST /oauth/device` | the page where a person types its code |
//! | `POST /oauth/introspect` | what a token is (RFC 7662) |
//! | `POST /oauth/revoke` | the end of a token (RFC 7009) |
//! | `POST /oauth/register` | a client that registers itself (RFC 7591) |
//! | `GET /.well-known/oauth-authorization-server` | what there is (RFC 8414) |
//! | `GET /.well-known/oauth-protected-resource` | where tokens are taken (RFC 9728); `/mcp` behind it for the MCP server |
//!
//! 1. A form is read: at most 64 KiB, no parameter twice, nothing in the query (a secret in an address would be logged).
//! 2. The caller proves itself, and the library answers.
//! 3. Failures are counted by address and by client; who makes many waits.

mod authorize;
mod device;
mod endpoint;
mod fault;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::{HeaderValue, Method, StatusCode, header};
use valetkey::{oauth::metadata::path, token::Audience};

use crate::{
    error::Answer,
    extract::MAX_BODY,
    pages::{
        answer::{Forms, secured},
        timely,
    },
    state::AppState,
};

pub(crate) fn router(state: AppState) -> Router {
    let for_browsers_of_anybody = Router::new()
        .route(path::TOKEN, post(endpoint::token))
        .route(path::DEVICE_AUTHORIZATION, post(endpoint::begin_device))
        .route(path::REVOKE, post(endpoint::revoke))
        .route(path::REGISTER, post(endpoint::register))
        .route(path::SERVER, get(server))
        .route(path::RESOURCE, get(api))
        .route(&format!("{}/mcp", path::RESOURCE), get(mcp))
        .layer(from_fn(cors));
    // A resource server asks from its own machine; the pages are ours alone (RFC 9700 section 2.6).
    let pages = Router::new()
        .route(path::AUTHORIZE, get(authorize::show).post(authorize::answer))
        .route(path::DEVICE, get(device::show).post(device::answer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(timely))
        .layer(map_response(|response: Response| async { secured(response, &Forms::None) }));
    Router::new()
        .merge(for_browsers_of_anybody)
        .route(path::INTROSPECT, post(endpoint::introspect))
        .merge(pages)
        .with_state(state)
}

/// Lets a page of any origin call an endpoint: a client that lives in a browser has no other way. No cookie counts here, so
/// nothing is lent to such a page.
async fn cors(request: Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

async fn server(State(state): State<AppState>) -> Answer<Response> {
    let metadata = state.oauth().metadata().await?;
    Ok(document(metadata.to_string()))
}

async fn api(State(state): State<AppState>) -> Response {
    document(state.oauth().resource_metadata(Audience::Api).to_string())
}

async fn mcp(State(state): State<AppState>) -> Response {
    document(state.oauth().resource_metadata(Audience::Mcp).to_string())
}

/// Metadata, which hold for a while.
fn document(text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=300")];
    (headers, text).into_response()
}
