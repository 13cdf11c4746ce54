//! What an agent may do, and why: `explain` for those who manage it, `me` for the agent itself. Both ask the functions that
//! let every use pass or refuse it.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, agent,
    decision::{self, Facts, Parsed, Request, Who},
    deliver,
    id::{ConnectionId, SessionName, TaskName, TokenId, UserId},
    principal::{Claims, Delivery, Exported},
};

use super::{connections::reached, limited, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Query},
    state::AppState,
};

/// What is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// The agent's id or slug, as if it held a fresh token without a ceiling.
    agent: Option<String>,
    /// Instead, the id of a token: with its own person, session, task and ceiling, and whether it is alive.
    #[schema(value_type = Option<String>)]
    token: Option<TokenId>,
    /// The connection.
    #[schema(value_type = String)]
    connection: ConnectionId,
    /// `proxy` or `reveal`.
    #[schema(value_type = String)]
    delivery: Delivery,
    /// What would be called; the question is a general one without it.
    operation: Option<Operation>,
    /// The person who would be calling; nobody when absent. A token has its own.
    #[schema(value_type = Option<String>)]
    person: Option<UserId>,
    /// A call that gives the token's person up.
    #[serde(default)]
    unattended: bool,
    /// The session that the agent's token would be for. A token has its own.
    #[schema(value_type = Option<String>)]
    session: Option<SessionName>,
    /// The task that it would be for. A token has its own.
    #[schema(value_type = Option<String>)]
    task: Option<TaskName>,
}

/// A call as it would be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operation {
    /// The method.
    method: String,
    /// The host, with its port where that is not 443; the connection's first when absent.
    host: Option<String>,
    /// The whole path that is sent, without the query.
    path: String,
}

/// The answer, with the facts that made it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explained {
    /// `allow`, `ask` (a person must approve it first) or `deny`.
    effect: String,
    /// The code of the refusal.
    code: Option<String>,
    /// The grant that allows or asks.
    grant: Option<String>,
    /// For whom the agent would act; absent means unattended.
    person: Option<String>,
    /// The deciding facts.
    reasons: Vec<Reason>,
}

/// One fact that spoke for or against.
#[derive(Serialize, ToSchema)]
pub(crate) struct Reason {
    /// A stable word.
    fact: String,
    /// A sentence.
    text: String,
    /// What would change it.
    change: Option<String>,
}

impl From<decision::Decision> for Explained {
    fn from(decision: decision::Decision) -> Self {
        let reason = |reason: decision::Reason| Reason {
            fact: reason.fact.to_owned(),
            text: reason.text,
            change: reason.change.map(str::to_owned),
        };
        Self {
            effect: decision.effect.as_str().to_owned(),
            code: decision.code.map(|code| code.as_str().to_owned()),
            grant: decision.grant.map(|grant| grant.to_string()),
            person: decision.person.map(|person| person.to_string()),
            reasons: decision.reasons.into_iter().map(reason).collect(),
        }
    }
}

/// Whether an agent may use a connection with one of its tokens, or as if it held a fresh one without a ceiling: the answer that
/// enforcement gives, with its reasons, also where the agent is told no more than that the token is not valid.
#[utoipa::path(post, path = "/v1/explain", tag = "decisions", request_body = Question, responses((status = 200, body = Explained)))]
pub(crate) async fn explain(
    State(state): State<AppState>,
    caller: Caller,
    Body(question): Body<Question>,
) -> Answer<Json<Explained>> {
    let (base, site) = (state.base(), caller.site()?);
    let invalid = |text: &'static str| Err(Error::new(Code::InvalidRequest, text).into());
    let connection = reached(&state, &caller, &question.connection).await?;
    let unattended = question.unattended || (question.token.is_none() && question.person.is_none());
    let facts = match (&question.agent, &question.token) {
        (Some(named), None) => {
            let agent = agent::find(&base.db, site, named).await?.id;
            let who = Who { agent, person: question.person, session: question.session, task: question.task };
            let facts = decision::for_agent(&base.db, site, &who, &connection.id).await?;
            facts.ok_or_else(|| Error::new(Code::NotFound, format!("there is no agent `{named}`")))?
        }
        (None, Some(token)) => {
            if question.person.is_some() || question.session.is_some() || question.task.is_some() {
                return invalid("person, session, task: a token has its own; leave them out");
            }
            let facts = decision::for_token_id(&base.db, site, token, &connection.id).await?;
            facts.ok_or_else(|| Error::new(Code::NotFound, format!("there is no token `{token}`")))?
        }
        _ => return invalid("name an `agent` or a `token`, one of them"),
    };
    let operation = match &question.operation {
        None => None,
        Some(operation) => {
            let method = operation.method.parse::<http::Method>();
            let method = method.map_err(|_| Error::new(Code::InvalidRequest, "operation.method: it is a method such as GET"))?;
            let host = operation.host.as_deref().or_else(|| connection.hosts.first().map(String::as_str)).unwrap_or_default();
            Some((method, host.to_ascii_lowercase(), operation.path.as_bytes()))
        }
    };
    let operation = operation.as_ref().map(|(method, host, path)| (method, host.as_str(), *path));
    let request = Request { delivery: question.delivery, operation, unattended };
    let decision = deliver::evaluate(state.outside(), state.deliverer().limits(), &facts, &request, base.clock.now()).await?;
    Ok(Json(decision.into()))
}

/// Who is acting: what may be shown of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Principal {
    /// The number of this shape: 1.
    schema_version: u8,
    /// The site everything happens in.
    site: String,
    /// How we know: `agent_token`, for only agents ask this.
    source: String,
    /// The acting agent.
    agent: Option<String>,
    /// The person whose live rights bound what is done.
    acting_user: Option<String>,
    /// The proven person who is calling now; absent means unattended.
    calling_user: Option<String>,
    /// The program that calls.
    client: Option<String>,
    /// Whether a ceiling of the token, the agent or the site narrows it.
    has_ceiling: bool,
    /// The agents that the call says it came through: `agent`, `user`, `host`, `depth` and `root`, with `unverified`, which is
    /// always true. Absent where it says nothing.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Claims>,
}

impl From<Exported> for Principal {
    fn from(principal: Exported) -> Self {
        Self {
            schema_version: principal.schema_version,
            site: principal.site.to_string(),
            source: principal.source.as_str().to_owned(),
            agent: principal.agent.map(|agent| agent.to_string()),
            acting_user: principal.acting_user.map(|user| user.to_string()),
            calling_user: principal.calling_user.map(|user| user.to_string()),
            client: principal.client,
            has_ceiling: principal.has_ceiling,
            chain: principal.chain,
        }
    }
}

/// Who the token makes the caller, and what it may use.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// Who is acting.
    #[serde(flatten)]
    principal: Principal,
    /// The person it acts for; absent means unattended. The same as `calling_user`.
    user: Option<String>,
    /// The token's id.
    token: Option<String>,
    /// The connections that can be used, by id.
    connections: Vec<Usable>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Which of the connections.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that come after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ConnectionId>,
    /// How many of those that are granted are looked at, up to 1000. A page holds fewer where some of them cannot be used now.
    limit: Option<u32>,
}

/// A connection that can be used.
#[derive(Serialize, ToSchema)]
pub(crate) struct Usable {
    /// Its id.
    id: String,
    /// At which provider.
    provider: String,
    /// The provider's name for people.
    title: String,
    /// Which of the owner's accounts there.
    name: String,
    /// What upstream calls the account.
    subject_name: Option<String>,
    /// What is chosen from the provider's lists (pages, properties), by list. Where a list brings tokens, `Valet-Slot` names one.
    resources: BTreeMap<String, Vec<super::connections::Chosen>>,
    /// Where the proxy can go; the first is where a path leads without another host.
    hosts: Vec<String>,
    /// How: `proxy`, `reveal`. A grant may narrow the proxy to some operations, and ask before some.
    delivery: Vec<String>,
    /// The operations that the grants name which count for the proxy, as patterns; null where one of them leaves that open. A
    /// ceiling may narrow them further, and one that asks or denies some of them.
    operations: Option<BTreeSet<String>>,
    /// In which of these ways a person must approve each use first.
    asks: Vec<String>,
}

/// Who the caller is and which connections it can use now.
#[utoipa::path(get, path = "/v1/me", tag = "decisions",
    params(Which, ("Valet-Unattended" = Option<String>, Header, description = "`true`: without the token's person.")), responses((status = 200, body = Me)))]
pub(crate) async fn me(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Answer<Json<Me>> {
    let deliver::Caller { token: hash, unattended, chain } = super::deliver::agent(&caller, &headers)?;
    let (base, now) = (state.base(), state.base().clock.now());
    let facts = state.authority().holder(&hash).await?.ok_or_else(decision::unauthenticated)?;
    let principal = decision::calling(&facts, unattended, &chain, now)?;
    if let Some(token) = &principal.token {
        state.last_used().note(&principal.site, token, now);
    }
    let limit = limited(which.limit);
    let granted = decision::for_token_page(&base.db, &hash, which.after.as_ref(), limit).await?;
    let id = |facts: &Facts| facts.connection.as_ref().map(|connection| connection.stored.connection.id.to_string());
    let next = next(&granted, limit, |facts| id(facts).unwrap_or_default());
    let mut connections = Vec::new();
    for facts in granted {
        let (mut delivery, mut asks) = (Vec::new(), Vec::new());
        for way in [Delivery::Proxy, Delivery::Reveal] {
            let request = Request { delivery: way, operation: None, unattended };
            let decision = deliver::explain(state.outside(), &facts, &request, now);
            delivery.extend((!decision.denied()).then(|| way.to_string()));
            asks.extend((!decision.denied() && !decision.allowed()).then(|| way.to_string()));
        }
        if let (false, Some(connection)) = (delivery.is_empty(), &facts.connection) {
            let connection = &connection.stored.connection;
            let definition = state.outside().catalogue.get(&connection.provider);
            connections.push(Usable {
                id: connection.id.to_string(),
                provider: connection.provider.to_string(),
                title: definition.map_or_else(|| connection.provider.to_string(), |definition| definition.title.clone()),
                name: connection.name.to_string(),
                subject_name: connection.subject_name.clone(),
                resources: super::connections::chosen(connection),
                hosts: connection.hosts.clone(),
                operations: operations(&state, &facts, unattended),
                delivery,
                asks,
            });
        }
    }
    Ok(Json(Me {
        user: principal.calling_user.as_ref().map(ToString::to_string),
        token: principal.token.as_ref().map(ToString::to_string),
        principal: principal.export().into(),
        connections,
        next,
    }))
}

/// The operations that are named by those grants which permit a proxied call, each asked by itself.
fn operations(state: &AppState, facts: &Facts, unattended: bool) -> Option<BTreeSet<String>> {
    let request = Request { delivery: Delivery::Proxy, operation: None, unattended };
    let mut alone = Facts { grants: Vec::new(), ..facts.clone() };
    let mut named = BTreeSet::new();
    for grant in &facts.grants {
        alone.grants = vec![grant.clone()];
        if deliver::explain(state.outside(), &alone, &request, state.base().clock.now()).denied() {
            continue;
        }
        match &grant.operations {
            None => return None,
            Some(Parsed::Read(patterns)) => named.extend(patterns.iter().map(ToString::to_string)),
            Some(Parsed::Unreadable) => {}
        }
    }
    Some(named)
}
