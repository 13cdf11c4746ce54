//! What an agent may use, and who may use a connection. Each answer is what `explain` says of that way.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    agent,
    id::{AgentId, ConnectionId},
    reach,
};

use super::connections::reached;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Json, Path, Query},
    state::AppState,
};

/// How many agents or connections a page has at most, and where nobody says how many: each is asked about many times.
const MOST: u32 = 100;

/// A way in which an agent may use a connection.
#[derive(Serialize, ToSchema)]
pub(crate) struct Way {
    /// The agent.
    agent: String,
    /// The person it would act for; absent means unattended.
    person: Option<String>,
    /// The session that its token must be for.
    session: Option<String>,
    /// The task that its token must be for.
    task: Option<String>,
    /// The connection.
    connection: String,
    /// At which provider.
    provider: String,
    /// Whose: `site`, `user:<id>` or `agent:<id>`.
    owner: String,
    /// Which of the owner's accounts there.
    name: String,
    /// What upstream calls the account.
    subject_name: Option<String>,
    /// What becomes of a proxied call, asked in general: `allow`, `ask` or `deny`. Single operations may be refused or asked
    /// about all the same.
    proxy: String,
    /// What becomes of a reveal: `allow`, `ask` or `deny`.
    reveal: String,
    /// The grants that allow or ask.
    grants: Vec<String>,
}

impl From<reach::Way> for Way {
    fn from(way: reach::Way) -> Self {
        let connection = way.connection;
        let mut grants: Vec<String> =
            [&way.proxy, &way.reveal].into_iter().flat_map(|decision| &decision.grant).map(ToString::to_string).collect();
        grants.dedup();
        Self {
            agent: way.who.agent.to_string(),
            person: way.who.person.map(|person| person.to_string()),
            session: way.who.session.map(|session| session.to_string()),
            task: way.who.task.map(|task| task.to_string()),
            connection: connection.id.to_string(),
            provider: connection.provider.to_string(),
            owner: connection.owner.to_string(),
            name: connection.name.to_string(),
            subject_name: connection.subject_name,
            proxy: way.proxy.effect.as_str().to_owned(),
            reveal: way.reveal.effect.as_str().to_owned(),
            grants,
        }
    }
}

/// A page of ways.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ways {
    /// The ways.
    ways: Vec<Way>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Which of an agent's connections.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AfterConnection {
    /// Only those after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ConnectionId>,
    /// On how many connections at most, up to 100.
    limit: Option<u32>,
}

/// What an agent may use, and for whom. A platform sees what is on connections that it reaches.
#[utoipa::path(get, path = "/v1/agents/{agent}/reach", tag = "decisions", params(("agent" = String, Path), AfterConnection),
    responses((status = 200, body = Ways)))]
pub(crate) async fn reach(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Query(which): Query<AfterConnection>,
) -> Answer<Json<Ways>> {
    let site = caller.site()?;
    let agent = agent::find(&state.base().db, site, &named).await?;
    let limit = which.limit.unwrap_or(MOST).clamp(1, MOST);
    let (ways, next) = reach::reach(state.outside(), site, &agent.id, which.after.as_ref(), limit).await?;
    let ways = ways.into_iter().filter(|way| caller.reaches(&way.connection.owner)).map(Way::from).collect();
    Ok(Json(Ways { ways, next: next.map(|id| id.to_string()) }))
}

/// Which of a connection's agents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AfterAgent {
    /// Only those after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<AgentId>,
    /// How many agents at most, up to 100.
    limit: Option<u32>,
}

/// Which agents may use a connection, and for whom.
#[utoipa::path(get, path = "/v1/connections/{id}/who-can", tag = "decisions", params(("id" = String, Path), AfterAgent),
    responses((status = 200, body = Ways)))]
pub(crate) async fn who_can(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    Query(which): Query<AfterAgent>,
) -> Answer<Json<Ways>> {
    let connection = reached(&state, &caller, &id).await?;
    let limit = which.limit.unwrap_or(MOST).clamp(1, MOST);
    let (ways, next) = reach::who_can(state.outside(), caller.site()?, &connection.id, which.after.as_ref(), limit).await?;
    Ok(Json(Ways { ways: ways.into_iter().map(Way::from).collect(), next: next.map(|id| id.to_string()) }))
}
