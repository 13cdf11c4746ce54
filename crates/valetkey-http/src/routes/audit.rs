//! The audit: what happened.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use valetkey::{audit, clock::Timestamp, id::EventId};

use super::moment;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Json, Query},
    state::AppState,
};

/// How many events a page has at most.
const MOST: u32 = 1000;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that came before this event.
    #[param(value_type = Option<String>)]
    before: Option<EventId>,
    /// How many at most, up to 1000; 100 when absent.
    limit: Option<u32>,
}

/// An event.
#[derive(Serialize, ToSchema)]
pub(crate) struct Event {
    /// Its id.
    id: String,
    /// When.
    at: String,
    /// Who.
    actor: String,
    /// What, as `noun.verb`.
    action: String,
    /// `ok`, `denied` or `failed`.
    outcome: String,
    /// The agent concerned.
    agent: Option<String>,
    /// The connection concerned.
    connection: Option<String>,
    /// Further facts.
    #[schema(value_type = Object)]
    facts: Value,
    /// The chain it is a link of.
    writer: String,
    /// Its place in the chain, from 1.
    seq: i64,
}

impl From<audit::Row> for Event {
    fn from(row: audit::Row) -> Self {
        Self {
            id: row.id,
            at: moment(Timestamp(row.at)),
            actor: row.actor,
            action: row.action,
            outcome: row.outcome,
            agent: row.agent,
            connection: row.connection,
            facts: serde_json::from_str(&row.facts).unwrap_or_default(),
            writer: row.writer,
            seq: row.seq,
        }
    }
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(crate) struct Events {
    /// The events, the newest first.
    events: Vec<Event>,
}

/// Lists what happened at the site.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Which), responses((status = 200, body = Events)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Events>> {
    let limit = which.limit.unwrap_or(100).clamp(1, MOST);
    let rows = audit::page(&state.base().db, caller.site()?, which.before.as_ref(), limit.into()).await?;
    Ok(Json(Events { events: rows.into_iter().map(Event::from).collect() }))
}
