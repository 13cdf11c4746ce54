//! Whether the process lives and is ready, what it counted, and the description of the API.

use std::sync::OnceLock;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use serde::Serialize;
use utoipa::ToSchema;
use valetkey::{Code, Error};

use crate::{error::Answer, extract::Json, openapi, state::AppState};

/// A short word about the process.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the process lives. It says nothing about what it needs.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether it can serve: the database answers, a root key is loaded, and it is not on its way out.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn ready(State(state): State<AppState>) -> Answer<Json<Health>> {
    if state.is_draining() {
        return Err(Error::new(Code::Unavailable, "this process is shutting down").into());
    }
    if state.base().ring.root_ids().is_empty() {
        return Err(Error::new(Code::KeyUnavailable, "no root key is loaded").into());
    }
    state.base().db.ping().await?;
    Ok(Json(Health { status: "ok" }))
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = Object)))]
pub(crate) async fn openapi() -> Answer<Response> {
    static TEXT: OnceLock<Result<String, String>> = OnceLock::new();
    match TEXT.get_or_init(|| openapi::document().to_json().map_err(|e| e.to_string())) {
        Ok(text) => Ok(([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()),
        Err(error) => Err(Error::internal(error).into()),
    }
}
