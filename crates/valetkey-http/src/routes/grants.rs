//! Grants: permissions of agents to use connections.

use std::collections::{BTreeSet, HashMap};

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, agent,
    clock::Timestamp,
    connection::{self, Status},
    grant::{self, Effect, ForWhom, NewGrant, Operations, Rate},
    id::{ConnectionId, GrantId, SessionName, TaskName},
    platform::Scope,
    principal::{Delivery, Owner},
};

use super::{agents, connections::json_or_null, limited, maybe, moment, next, tokens::Why};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A permission of an agent to use a connection.
#[derive(Serialize, ToSchema)]
pub(crate) struct Grant {
    /// Its id.
    id: String,
    /// Who may use it.
    agent: String,
    /// What may be used.
    connection: String,
    /// `allow`, `ask` (a person approves each use first) or `deny`.
    effect: String,
    /// For whom: `owner`, `unattended`, `operators`, `anyone`, or a list of people.
    #[schema(value_type = Value)]
    for_whom: Value,
    /// Only for tokens of this session.
    session: Option<String>,
    /// Only for tokens of this task.
    task: Option<String>,
    /// How: `proxy`, `reveal`.
    delivery: Vec<String>,
    /// The most scopes of the provider; absent for no narrowing.
    scopes: Option<BTreeSet<String>>,
    /// The operations it is about, as patterns; absent for all that the definition allows.
    operations: Option<Vec<String>>,
    /// The provider's names of operations that some of the patterns came from.
    operation_names: BTreeSet<String>,
    /// How often in a stretch of time, such as `100/1h`.
    rate: Option<String>,
    /// How often in all.
    max_uses: Option<i64>,
    /// How often so far; counted only where there is a limit.
    uses: i64,
    /// Until when.
    expires_at: Option<String>,
    /// Why, in the grantor's words.
    note: String,
    /// The person who granted it; absent where the site itself did.
    grantor: Option<String>,
    /// Since when.
    created_at: String,
    /// Since when it is revoked.
    revoked_at: Option<String>,
}

impl From<grant::Grant> for Grant {
    fn from(grant: grant::Grant) -> Self {
        let (operations, operation_names) = match grant.operations {
            Some(Operations { patterns, names }) => (Some(patterns.iter().map(ToString::to_string).collect()), names),
            None => (None, BTreeSet::new()),
        };
        Self {
            id: grant.id.to_string(),
            agent: grant.agent.to_string(),
            connection: grant.connection.to_string(),
            effect: grant.effect.as_str().to_owned(),
            for_whom: json_or_null(&grant.for_whom),
            session: grant.session.map(|session| session.to_string()),
            task: grant.task.map(|task| task.to_string()),
            delivery: grant.delivery.iter().map(ToString::to_string).collect(),
            scopes: grant.scopes,
            operations,
            operation_names,
            rate: grant.rate.map(|rate| rate.to_string()),
            max_uses: grant.max_uses,
            uses: grant.uses,
            expires_at: maybe(grant.expires_at),
            note: grant.note,
            grantor: grant.grantor.map(|grantor| grantor.to_string()),
            created_at: moment(grant.created_at),
            revoked_at: maybe(grant.revoked_at),
        }
    }
}

/// A new grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGrantBody {
    /// Who may use it: the agent's id or slug.
    agent: String,
    /// What may be used.
    #[schema(value_type = String)]
    connection: ConnectionId,
    /// `allow` when absent; `ask`: a person approves each use first; `deny`. One that asks or denies also holds back what
    /// other grants allow.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    effect: Effect,
    /// For whom: `owner` (the calling person is the connection's owner), `unattended` (nobody is calling), `operators`
    /// (anybody with that role on the agent), a list of people, or, of a denial only, `anyone`. On a person's connection it
    /// is `owner` when absent, and of a denial `anyone`.
    #[schema(value_type = Option<Value>)]
    for_whom: Option<ForWhom>,
    /// Only for tokens that were minted for this session.
    #[schema(value_type = Option<String>)]
    session: Option<SessionName>,
    /// Only for tokens that were minted for this task.
    #[schema(value_type = Option<String>)]
    task: Option<TaskName>,
    /// How: `proxy`, `reveal`. The proxy only, when absent, and of a denial both.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    delivery: BTreeSet<Delivery>,
    /// The most scopes of the provider.
    scopes: Option<BTreeSet<String>>,
    /// Only these operations: patterns such as `GET /api/**`, and names that the provider's definition has, such as
    /// `issue.create`.
    operations: Option<Vec<String>>,
    /// How often at most in any stretch of time, such as `100/1h`.
    #[schema(value_type = Option<String>)]
    rate: Option<Rate>,
    /// How often in all.
    max_uses: Option<i64>,
    /// Until when.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// Why.
    #[serde(default)]
    note: String,
}

/// Grants. On a person's connection the key must be allowed to speak for that person, who is then the grantor; on the
/// site's or an agent's it needs `admin` too.
#[utoipa::path(post, path = "/v1/grants", tag = "grants", request_body = NewGrantBody, responses((status = 201, body = Grant)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewGrantBody>,
) -> Answer<(StatusCode, Json<Grant>)> {
    let (base, site) = (state.base(), caller.site()?);
    let connection = connection::get(&base.db, site, &new.connection).await?;
    let connection = connection.filter(|c| !matches!(c.status, Status::Revoked { .. }) && disposes(&caller, &c.owner));
    let none = || Error::new(Code::NotFound, format!("there is no connection `{}` that you may grant", new.connection));
    let connection = connection.ok_or_else(none)?;
    let agent = agent::find(&base.db, site, &new.agent).await?;
    let grantor = match (&connection.owner, &caller) {
        (Owner::User(person), Caller::Platform { .. }) => Some(person.clone()),
        _ => None,
    };
    let for_whom = match (new.for_whom, &connection.owner) {
        (Some(whom), _) => whom,
        (None, _) if new.effect == Effect::Deny => ForWhom::Anyone,
        (None, Owner::User(_)) => ForWhom::Owner,
        (None, _) => {
            let text = "for_whom: say `unattended`, `operators` or a list of people; nobody owns this connection";
            return Err(Error::new(Code::InvalidRequest, text).into());
        }
    };
    let operations = match &new.operations {
        Some(wanted) => Some(Operations::read(state.outside().definition(&connection.provider)?.as_ref(), wanted)?),
        None => None,
    };
    let new = NewGrant {
        agent: agent.id,
        connection: connection.id,
        effect: new.effect,
        for_whom,
        session: new.session,
        task: new.task,
        delivery: new.delivery,
        scopes: new.scopes,
        operations,
        rate: new.rate,
        max_uses: new.max_uses,
        expires_at: new.expires_at,
        note: new.note,
        grantor,
    };
    let grant = grant::create(base, site, &caller.actor()?, new).await?;
    Ok((StatusCode::CREATED, Json(grant.into())))
}

/// Which grants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only this agent's: its id or slug.
    agent: Option<String>,
    /// Only those on this connection.
    #[param(value_type = Option<String>)]
    connection: Option<ConnectionId>,
    /// Only those that came after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<GrantId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of grants.
#[derive(Serialize, ToSchema)]
pub(crate) struct Grants {
    /// The grants, the oldest first, the ended ones among them.
    grants: Vec<Grant>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists grants. A platform names an agent or a connection, and sees those on connections it reaches.
#[utoipa::path(get, path = "/v1/grants", tag = "grants", params(Which), responses((status = 200, body = Grants)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Grants>> {
    let (db, site) = (&state.base().db, caller.site()?);
    if which.agent.is_none() && which.connection.is_none() && matches!(caller, Caller::Platform { .. }) {
        return Err(Error::new(Code::InvalidRequest, "name an agent or a connection").into());
    }
    let agent = agents::filtered(db, site, which.agent.as_deref()).await?;
    let limit = limited(which.limit);
    let mut grants = grant::page(db, site, agent.as_ref(), which.connection.as_ref(), which.after.as_ref(), limit).await?;
    let next = next(&grants, limit, |grant| grant.id.to_string());
    if matches!(caller, Caller::Platform { .. }) {
        let mut reached: HashMap<ConnectionId, bool> = HashMap::new();
        for grant in &grants {
            if !reached.contains_key(&grant.connection) {
                let connection = connection::get(db, site, &grant.connection).await?;
                let reaches = connection.is_some_and(|connection| caller.reaches(&connection.owner));
                reached.insert(grant.connection.clone(), reaches);
            }
        }
        grants.retain(|grant| reached.get(&grant.connection) == Some(&true));
    }
    Ok(Json(Grants { grants: grants.into_iter().map(Grant::from).collect(), next }))
}

/// Takes a grant back: no request that comes after this is served by it. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/grants/{id}", tag = "grants", params(("id" = String, Path), Why), responses((status = 204)))]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<GrantId>,
    Query(why): Query<Why>,
) -> Answer<StatusCode> {
    let (base, site) = (state.base(), caller.site()?);
    let none = || Error::new(Code::NotFound, format!("there is no grant `{id}`"));
    let grant = grant::between(&base.db, site, &id).await?.ok_or_else(none)?;
    let connection = connection::get(&base.db, site, &grant.connection).await?;
    // Whoever may see a person's things may take a grant on them back; to give one needs the person.
    let connection = connection.filter(|connection| caller.reaches(&connection.owner)).ok_or_else(none)?;
    // One that asks or denies holds others back: to take it away is to give.
    if !grant.allows && !disposes(&caller, &connection.owner) {
        let text = "this grant holds others back, and only who may grant on this connection may take it away";
        return Err(Error::new(Code::Forbidden, text).into());
    }
    grant::revoke(base, site, &caller.actor()?, &id, why.reason()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether the caller may grant what belongs to an owner.
fn disposes(caller: &Caller, owner: &Owner) -> bool {
    match owner {
        Owner::User(person) => caller.speaks_for(person),
        Owner::Site | Owner::Agent(_) => caller.has(Scope::Admin),
    }
}
