//! Revocations that are owed to providers, and what became of them.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{id::ConnectionId, revoke};

use super::{maybe, moment};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Json, Query},
    state::AppState,
};

/// How many revocations an answer has at most.
const MOST: u32 = 1000;

/// Which revocations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those of this connection.
    #[param(value_type = Option<String>)]
    connection: Option<ConnectionId>,
    /// How many at most, up to 1000; 100 when absent.
    limit: Option<u32>,
}

/// A revocation that is or was owed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revocation {
    /// Its id.
    id: String,
    /// At which provider.
    provider: String,
    /// The connection that ended.
    connection: String,
    /// `pending`, `revoked`, `unsupported`, `skipped` or `failed`.
    status: String,
    /// Why the connection ended.
    reason: String,
    /// How often the provider was asked.
    attempts: i64,
    /// When it is asked again.
    next_at: Option<String>,
    /// The stable word of the last failure.
    last_error: Option<String>,
    /// Since when.
    created_at: String,
    /// When it was over.
    done_at: Option<String>,
}

impl From<revoke::Revocation> for Revocation {
    fn from(revocation: revoke::Revocation) -> Self {
        Self {
            id: revocation.id.to_string(),
            provider: revocation.provider.to_string(),
            connection: revocation.connection.to_string(),
            status: revocation.status,
            reason: revocation.reason,
            attempts: revocation.attempts,
            next_at: maybe(revocation.next_at),
            last_error: revocation.last_error,
            created_at: moment(revocation.created_at),
            done_at: maybe(revocation.done_at),
        }
    }
}

/// A list of revocations.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revocations {
    /// The revocations, the newest first.
    revocations: Vec<Revocation>,
}

/// Lists revocations that are owed to providers, and what became of them.
#[utoipa::path(get, path = "/v1/revocations", tag = "connections", params(Which), responses((status = 200, body = Revocations)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Revocations>> {
    let (db, site) = (&state.base().db, caller.site()?);
    let limit = which.limit.unwrap_or(100).clamp(1, MOST);
    let revocations = match &which.connection {
        Some(connection) => revoke::list(db, site, connection).await?,
        None => revoke::newest(db, site, limit.into()).await?,
    };
    Ok(Json(Revocations { revocations: revocations.into_iter().map(Revocation::from).collect() }))
}
