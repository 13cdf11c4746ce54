//! Agents, and the roles that people have on them. An agent is named by its id, or by a slug that fits only one.
//!
//! A call for a person (`Valet-User`) does what that person may: change an agent as its admin, have it act as an operator.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, Result,
    agent::{self, NewAgent, Role},
    db::Db,
    id::{AgentId, SiteId, UserId},
    principal::Ceiling,
};

use super::{limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// An agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct Agent {
    /// Its id.
    id: String,
    /// What people type: a name, not an identity.
    slug: String,
    /// What people read.
    title: String,
    /// The person it belongs to, who is its admin.
    owner: Option<String>,
    /// Since when.
    created_at: String,
    /// Since when it is disabled.
    disabled_at: Option<String>,
}

impl From<agent::Agent> for Agent {
    fn from(agent: agent::Agent) -> Self {
        Self {
            id: agent.id.to_string(),
            slug: agent.slug,
            title: agent.title,
            owner: agent.owner.map(|owner| owner.to_string()),
            created_at: moment(agent.created_at),
            disabled_at: maybe(agent.disabled_at),
        }
    }
}

/// Which agents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that came after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<AgentId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
    /// Only those on which this person has a role, their own among them. In a call for a person it is that person.
    #[param(value_type = Option<String>)]
    user: Option<UserId>,
    /// Only those on which the person has at least this role: `viewer`, `operator` or `admin`; `viewer` when absent.
    #[param(value_type = Option<String>)]
    role: Option<Role>,
}

/// A page of agents.
#[derive(Serialize, ToSchema)]
pub(crate) struct Agents {
    /// The agents, the oldest first.
    agents: Vec<Agent>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists the site's agents; in a call for a person, or with `user`, those on which that person has a role.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", params(Which), responses((status = 200, body = Agents)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Agents>> {
    let (db, site, limit) = (&state.base().db, caller.site()?, limited(which.limit));
    let person = match (caller.user(), which.user.as_ref()) {
        (Some(user), Some(other)) if user != other => {
            return Err(Error::new(Code::Forbidden, format!("in a call for user {user} nobody else is asked about")).into());
        }
        (user, named) => user.or(named),
    };
    let agents = match (person, which.role) {
        (None, Some(_)) => return Err(Error::new(Code::InvalidRequest, "`role` needs `user`: whose role").into()),
        (None, None) => agent::page(db, site, None, which.after.as_ref(), limit).await?,
        (Some(user), least) => {
            let held = agent::held(db, site, user, least.unwrap_or(Role::Viewer), None, which.after.as_ref(), limit).await?;
            held.into_iter().map(|held| held.agent).collect()
        }
    };
    let next = next(&agents, limit, |agent| agent.id.to_string());
    Ok(Json(Agents { agents: agents.into_iter().map(Agent::from).collect(), next }))
}

/// A new agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAgentBody {
    /// Your id for it; a fresh one when absent.
    #[schema(value_type = Option<String>)]
    id: Option<AgentId>,
    /// What people type: 1 to 64 of `a-z0-9_-`.
    slug: String,
    /// What people read; the slug when absent.
    title: Option<String>,
    /// The person it belongs to; in a call for a person, that person.
    #[schema(value_type = Option<String>)]
    owner: Option<UserId>,
}

/// Makes an agent. It may do nothing until something is granted to it.
#[utoipa::path(post, path = "/v1/agents", tag = "agents", request_body = NewAgentBody, responses((status = 201, body = Agent)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewAgentBody>,
) -> Answer<(StatusCode, Json<Agent>)> {
    if let (Some(owner), Some(user)) = (&new.owner, caller.user())
        && owner != user
    {
        return Err(Error::new(Code::Forbidden, "in a call for a person the agent belongs to that person").into());
    }
    let owner = new.owner.or_else(|| caller.user().cloned());
    let new = NewAgent { id: new.id, slug: new.slug, title: new.title.unwrap_or_default(), owner };
    let agent = agent::create(state.base(), caller.site()?, &caller.actor()?, new).await?;
    Ok((StatusCode::CREATED, Json(agent.into())))
}

/// A person's role on an agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct Access {
    /// The person.
    user: String,
    /// `viewer`, `operator` or `admin`; each includes those before it.
    role: String,
    /// Since when.
    created_at: String,
}

impl From<agent::Access> for Access {
    fn from(access: agent::Access) -> Self {
        Self { user: access.user.to_string(), role: access.role.to_string(), created_at: moment(access.created_at) }
    }
}

/// An agent with the roles on it.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentWithRoles {
    /// The agent.
    #[serde(flatten)]
    agent: Agent,
    /// Who has which role, besides its owner.
    roles: Vec<Access>,
}

/// One agent and who has which role on it.
#[utoipa::path(get, path = "/v1/agents/{agent}", tag = "agents", params(("agent" = String, Path, description = "Its id or slug.")),
    responses((status = 200, body = AgentWithRoles)))]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
) -> Answer<Json<AgentWithRoles>> {
    let agent = named_agent(&state, &caller, &named, Role::Viewer).await?;
    let roles = agent::roles(&state.base().db, caller.site()?, &agent.id).await?;
    Ok(Json(AgentWithRoles { agent: agent.into(), roles: roles.into_iter().map(Access::from).collect() }))
}

/// What changes about an agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentChange {
    /// Whether it is disabled: its tokens stop and start with it.
    disabled: bool,
}

/// Disables an agent, or lets it act again.
#[utoipa::path(patch, path = "/v1/agents/{agent}", tag = "agents", params(("agent" = String, Path)), request_body = AgentChange,
    responses((status = 200, body = Agent)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Body(change): Body<AgentChange>,
) -> Answer<Json<Agent>> {
    let (base, site) = (state.base(), caller.site()?);
    let agent = named_agent(&state, &caller, &named, Role::Admin).await?;
    agent::set_disabled(base, site, &caller.actor()?, &agent.id, change.disabled).await?;
    Ok(Json(agent::require(&base.db, site, &agent.id).await?.into()))
}

/// Deletes an agent for good: its tokens and grants count no more. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/agents/{agent}", tag = "agents", params(("agent" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete(State(state): State<AppState>, caller: Caller, Path(named): Path<String>) -> Answer<StatusCode> {
    match named_agent(&state, &caller, &named, Role::Admin).await {
        Ok(agent) => agent::delete(state.base(), caller.site()?, &caller.actor()?, &agent.id).await?,
        Err(problem) if problem.0.code() == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A list of roles.
#[derive(Serialize, ToSchema)]
pub(crate) struct Roles {
    /// Who has which role, besides the agent's owner.
    roles: Vec<Access>,
}

/// Who has which role on an agent.
#[utoipa::path(get, path = "/v1/agents/{agent}/roles", tag = "agents", params(("agent" = String, Path)),
    responses((status = 200, body = Roles)))]
pub(crate) async fn roles(State(state): State<AppState>, caller: Caller, Path(named): Path<String>) -> Answer<Json<Roles>> {
    let agent = named_agent(&state, &caller, &named, Role::Viewer).await?;
    let roles = agent::roles(&state.base().db, caller.site()?, &agent.id).await?;
    Ok(Json(Roles { roles: roles.into_iter().map(Access::from).collect() }))
}

/// Which role is asked about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Least {
    /// `viewer`, `operator` or `admin`; `viewer` when absent.
    #[param(value_type = Option<String>)]
    role: Option<Role>,
}

/// What a person may do with an agent now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Standing {
    /// The agent.
    agent: String,
    /// The person.
    user: String,
    /// Their live role: `admin` for the agent's owner; absent where they have none, or are disabled.
    role: Option<String>,
    /// The role that was asked about.
    least: String,
    /// Whether they have at least that role.
    allowed: bool,
}

/// Whether a person has a role on an agent now. It is the answer that every use of the role gets.
#[utoipa::path(get, path = "/v1/agents/{agent}/roles/{user}", tag = "agents",
    params(("agent" = String, Path), ("user" = String, Path), Least), responses((status = 200, body = Standing)))]
pub(crate) async fn check_role(
    State(state): State<AppState>,
    caller: Caller,
    Path((named, user)): Path<(String, UserId)>,
    Query(asked): Query<Least>,
) -> Answer<Json<Standing>> {
    let agent = named_agent(&state, &caller, &named, Role::Viewer).await?;
    let least = asked.role.unwrap_or(Role::Viewer);
    let role = agent::role_of(&state.base().db, caller.site()?, &agent.id, &user).await?;
    Ok(Json(Standing {
        agent: agent.id.to_string(),
        user: user.to_string(),
        role: role.map(|role| role.to_string()),
        least: least.to_string(),
        allowed: role >= Some(least),
    }))
}

/// What narrows all tokens of an agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentCeiling {
    /// The most that any of its tokens may do, whatever is granted: `delivery`, `connections`, `providers`, `operations`; absent
    /// for no ceiling.
    #[schema(value_type = Option<Object>)]
    ceiling: Option<Ceiling>,
}

/// What narrows all tokens of an agent, beside the ceilings of the tokens.
#[utoipa::path(get, path = "/v1/agents/{agent}/ceiling", tag = "agents", params(("agent" = String, Path)),
    responses((status = 200, body = AgentCeiling)))]
pub(crate) async fn ceiling(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
) -> Answer<Json<AgentCeiling>> {
    let agent = named_agent(&state, &caller, &named, Role::Viewer).await?;
    Ok(Json(AgentCeiling { ceiling: agent::ceiling(&state.base().db, caller.site()?, &agent.id).await? }))
}

/// What shall narrow all tokens of an agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCeiling {
    /// Each part that is present narrows: `delivery`, `connections`, `providers`, `operations`. Absent or empty for no ceiling.
    #[schema(value_type = Option<Object>)]
    ceiling: Option<Ceiling>,
}

/// Narrows all tokens of an agent from the next request on, in place of what narrowed them before.
#[utoipa::path(put, path = "/v1/agents/{agent}/ceiling", tag = "agents", params(("agent" = String, Path)),
    request_body = NewCeiling, responses((status = 200, body = AgentCeiling)))]
pub(crate) async fn set_ceiling(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Body(new): Body<NewCeiling>,
) -> Answer<Json<AgentCeiling>> {
    let (base, site) = (state.base(), caller.site()?);
    let agent = named_agent(&state, &caller, &named, Role::Admin).await?;
    agent::set_ceiling(base, site, &caller.actor()?, &agent.id, new.ceiling.as_ref()).await?;
    Ok(Json(AgentCeiling { ceiling: agent::ceiling(&base.db, site, &agent.id).await? }))
}

/// A role to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRole {
    /// `viewer`, `operator` or `admin`.
    #[schema(value_type = String)]
    role: Role,
}

/// Gives a person a role on an agent, in place of the one they had.
#[utoipa::path(put, path = "/v1/agents/{agent}/roles/{user}", tag = "agents",
    params(("agent" = String, Path), ("user" = String, Path)), request_body = NewRole, responses((status = 204)))]
pub(crate) async fn set_role(
    State(state): State<AppState>,
    caller: Caller,
    Path((named, user)): Path<(String, UserId)>,
    Body(new): Body<NewRole>,
) -> Answer<StatusCode> {
    let agent = named_agent(&state, &caller, &named, Role::Admin).await?;
    agent::set_role(state.base(), caller.site()?, &caller.actor()?, &agent.id, &user, new.role).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a person's role on an agent away. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/agents/{agent}/roles/{user}", tag = "agents",
    params(("agent" = String, Path), ("user" = String, Path)), responses((status = 204)))]
pub(crate) async fn remove_role(
    State(state): State<AppState>,
    caller: Caller,
    Path((named, user)): Path<(String, UserId)>,
) -> Answer<StatusCode> {
    let agent = named_agent(&state, &caller, &named, Role::Admin).await?;
    agent::remove_role(state.base(), caller.site()?, &caller.actor()?, &agent.id, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The agent that a listing is narrowed to, where one is named.
pub(super) async fn filtered(db: &Db, site: &SiteId, named: Option<&str>) -> Result<Option<AgentId>> {
    match named {
        Some(named) => Ok(Some(agent::find(db, site, named).await?.id)),
        None => Ok(None),
    }
}

/// The agent that is named; in a call for a person it must be one on which they have this role.
pub(super) async fn named_agent(state: &AppState, caller: &Caller, named: &str, least: Role) -> Answer<agent::Agent> {
    let (db, site) = (&state.base().db, caller.site()?);
    let Some(user) = caller.user() else { return Ok(agent::find(db, site, named).await?) };
    let (agent, role) = agent::find_of(db, site, user, named).await?;
    if role < least {
        return Err(Error::new(Code::Forbidden, format!("user {user} needs the role {least} on this agent")).into());
    }
    Ok(agent)
}
