//! Approvals: calls that wait for a person's word. Agents look after their own; those who may dispose of the connection answer.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    approval::{self, Decided, Decider},
    audit::{Event, Outcome},
    clock::Timestamp,
    decision::{self, Facts},
    id::{AgentId, ApprovalId, ConnectionId, TokenId, UserId},
    platform::Scope,
    principal::{Actor, Owner},
    proposal::Asker,
};

use super::{agents, limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A call that waits, or waited, for a person's word.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approval {
    /// Its id, which is no secret. The agent names it in `Valet-Approval`.
    id: String,
    /// `pending`, `approved`, `refused`, `used` or `expired`.
    status: String,
    /// Who made the call.
    agent: String,
    /// What people call the agent.
    agent_title: String,
    /// The person it was made for; absent where nobody was calling.
    person: Option<String>,
    /// With which connection.
    connection: String,
    /// Whose that is.
    owner: String,
    /// At which provider.
    provider: String,
    /// What the provider calls the account.
    account: Option<String>,
    /// The grant that asks.
    grant: String,
    /// What is shown of the call.
    call: HeldCall,
    /// What the call is told by: a keyed digest of everything that was to go out.
    digest: String,
    /// Since when it waits.
    created_at: String,
    /// Until when it can be answered; once approved, until when it can be used.
    expires_at: String,
    /// When it was answered.
    decided_at: Option<String>,
    /// Who answered. An agent is not told.
    decided_by: Option<String>,
    /// Why it was refused.
    reason: Option<String>,
    /// When the call was made.
    used_at: Option<String>,
}

/// What is shown of a held call: no body, and no value of the query.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeldCall {
    /// `proxy`: a call; `reveal`: the credential itself is handed out.
    delivery: String,
    /// The method.
    method: String,
    /// Where it goes.
    host: String,
    /// The whole path.
    path: String,
    /// The names of the query's parameters.
    query: Vec<String>,
    /// Which of the connection's tokens; its own when absent.
    slot: Option<String>,
    /// What the body is said to be.
    content_type: Option<String>,
    /// How long the body is, in bytes.
    body_bytes: u64,
}

impl Approval {
    fn new(approval: approval::Approval, now: Timestamp) -> Self {
        let status = approval.status(now);
        let call = approval.summary;
        let (decided_at, decided_by, reason) = answered(approval.decided);
        Self {
            id: approval.id.to_string(),
            status: status.as_str().to_owned(),
            agent: approval.agent.to_string(),
            agent_title: approval.agent_title,
            person: approval.person.map(|person| person.to_string()),
            connection: approval.connection.to_string(),
            owner: approval.owner.to_string(),
            provider: approval.provider.to_string(),
            account: approval.account,
            grant: approval.grant.to_string(),
            call: HeldCall {
                delivery: call.delivery.to_string(),
                method: call.method,
                host: call.host,
                path: call.path,
                query: call.query,
                slot: call.slot,
                content_type: call.content_type,
                body_bytes: call.body,
            },
            digest: approval.digest.as_str().to_owned(),
            created_at: moment(approval.created_at),
            expires_at: moment(approval.expires_at),
            decided_at,
            decided_by,
            reason,
            used_at: maybe(approval.used_at),
        }
    }
}

/// When a question was answered, by whom, and why, where they said so.
pub(super) fn answered(decided: Option<Decided>) -> (Option<String>, Option<String>, Option<String>) {
    let Some(Decided { at, by, reason }) = decided else { return (None, None, None) };
    (Some(moment(at)), Some(by.to_string()), Some(reason).filter(|reason| !reason.is_empty()))
}

/// What an agent is told of a call that waits. It was not sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `error` makes of the library's word")]
pub(crate) struct Held {
    /// Always `approval_required`.
    code: String,
    /// What to do.
    detail: String,
    /// The approval's id, for `Valet-Approval`.
    approval: String,
    /// The grant that asks.
    grant: String,
    /// `pending`, or `approved` where somebody said yes already.
    status: String,
    /// Where to ask for the answer.
    poll: String,
    /// The page on which a person answers for what is theirs; null where the account is nobody's, which no page shows.
    page: Option<String>,
    /// What whoever administers the site types to answer, where there is no page.
    command: Option<String>,
    /// Until when it can be answered; once approved, until when it can be used.
    expires_at: String,
}

/// Which approvals.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only this agent's: its id or slug.
    agent: Option<String>,
    /// Only those for this connection.
    #[param(value_type = Option<String>)]
    connection: Option<ConnectionId>,
    /// `true`: only those that wait for an answer.
    waiting: Option<bool>,
    /// Only those that came after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ApprovalId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of approvals.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approvals {
    /// The approvals, the oldest first.
    approvals: Vec<Approval>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists calls that wait, or waited, for an answer. A platform sees those for connections it reaches.
#[utoipa::path(get, path = "/v1/approvals", tag = "approvals", params(Which), responses((status = 200, body = Approvals)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Approvals>> {
    let (base, site) = (state.base(), caller.site()?);
    let agent = agents::filtered(&base.db, site, which.agent.as_deref()).await?;
    let limit = limited(which.limit);
    let owner = caller.user().cloned().map(Owner::User);
    let filter = approval::Which {
        agent: agent.as_ref(),
        connection: which.connection.as_ref(),
        owner: owner.as_ref(),
        waiting: which.waiting == Some(true),
    };
    let mut found = approval::page(base, site, &filter, which.after.as_ref(), limit).await?;
    let next = next(&found, limit, |approval| approval.id.to_string());
    found.retain(|approval| caller.reaches(&approval.owner));
    let now = base.clock.now();
    Ok(Json(Approvals { approvals: found.into_iter().map(|approval| Approval::new(approval, now)).collect(), next }))
}

/// How long a question may be kept waiting.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Patience {
    /// Wait so many seconds for an answer, 30 at most, where there is none yet.
    wait: Option<u32>,
}

/// Where one held call stands. An agent sees its own calls.
#[utoipa::path(
    get, path = "/v1/approvals/{id}", tag = "approvals", params(("id" = String, Path), Patience),
    responses((status = 200, body = Approval))
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<ApprovalId>,
    Query(patience): Query<Patience>,
) -> Answer<Json<Approval>> {
    let base = state.base();
    let none = || Error::new(Code::NotFound, format!("there is no approval `{id}`"));
    let is_agent = matches!(caller, Caller::Agent { .. });
    let (site, found) = match &caller {
        Caller::Agent { .. } => {
            let asker = asker(&state, &caller, &headers).await?;
            let found = approval::of_agent(&base.db, &asker.site, &id, &asker.agent, asker.person.as_ref()).await?;
            (asker.site, found)
        }
        _ => {
            let site = caller.site()?.clone();
            let found = approval::get(&base.db, &site, &id).await?;
            (site, found.filter(|found| caller.reaches(&found.owner)))
        }
    };
    let mut found = found.ok_or_else(none)?;
    if let Some(seconds) = patience.wait.filter(|seconds| *seconds > 0) {
        let patience = Duration::from_secs(seconds.into());
        found = approval::wait(base, &site, &id, patience, state.stopping()).await?.ok_or_else(none)?;
        if is_agent {
            // A token that ended meanwhile is told nothing.
            asker(&state, &caller, &headers).await?;
        }
    }
    let mut shown = Approval::new(found, base.clock.now());
    shown.decided_by = shown.decided_by.filter(|_| !is_agent);
    Ok(Json(shown))
}

/// Says yes to a held call: the agent may make it, once, within the hour. On a person's connection it is that person's to say, so
/// `Valet-User` names them; they have the role of operator or more on the agent. On the site's or an agent's it needs `admin`, and
/// `Valet-User` names who answers: not the person who is behind the call, for whom it is made or by whom its token was minted.
#[utoipa::path(
    post, path = "/v1/approvals/{id}/approve", tag = "approvals", params(("id" = String, Path)),
    responses((status = 200, body = Approval))
)]
pub(crate) async fn approve(State(state): State<AppState>, caller: Caller, Path(id): Path<ApprovalId>) -> Answer<Json<Approval>> {
    let (base, site) = (state.base(), caller.site()?);
    let by = answering(&state, &caller, &id).await?;
    let approval = approval::approve(base, site, &by, &id).await?;
    Ok(Json(Approval::new(approval, base.clock.now())))
}

/// Why not.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Refusal {
    /// Why, for the agent to read.
    pub(super) reason: String,
}

/// Says no to a held call. Who may is as for a yes.
#[utoipa::path(
    post, path = "/v1/approvals/{id}/refuse", tag = "approvals", params(("id" = String, Path)), request_body = Refusal,
    responses((status = 200, body = Approval))
)]
pub(crate) async fn refuse(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ApprovalId>,
    Body(refusal): Body<Refusal>,
) -> Answer<Json<Approval>> {
    let (base, site) = (state.base(), caller.site()?);
    let by = answering(&state, &caller, &id).await?;
    let approval = approval::refuse(base, site, &by, &id, &refusal.reason).await?;
    Ok(Json(Approval::new(approval, base.clock.now())))
}

/// Who answers, where they may know that there is such a call.
async fn answering(state: &AppState, caller: &Caller, id: &ApprovalId) -> Result<Decider, Error> {
    let found = approval::get(&state.base().db, caller.site()?, id).await?;
    match found.filter(|found| caller.reaches(&found.owner)) {
        Some(_) => decider(caller),
        None => Err(Error::new(Code::NotFound, format!("there is no approval `{id}`"))),
    }
}

/// The caller as somebody who answers agents.
pub(super) fn decider(caller: &Caller) -> Result<Decider, Error> {
    Ok(Decider { actor: caller.actor()?, administers: caller.has(Scope::Admin) })
}

/// The calling agent as one that asks for something, or what became of it. That ends with the role of the person for whom its token
/// acts, as every use does.
pub(super) async fn asker(state: &AppState, caller: &Caller, headers: &HeaderMap) -> Result<Asker, Error> {
    let (asker, facts) = looked_up(state, caller, headers).await?;
    if let Err(error) = decision::require_role(&facts) {
        let code = error.code().as_str();
        let actor = Actor::Agent { agent: asker.agent.clone(), token: asker.token, user: asker.person };
        let event = Event::new(&asker.site, &actor, "api.call").agent(&asker.agent).outcome(Outcome::Denied);
        state.base().audit.record_use(event.facts(json!({ "code": code, "reasons": ["person_role"] }))).await?;
        metrics::counter!("valetkey_denials_total", "code" => code).increment(1);
        return Err(error);
    }
    Ok(asker)
}

/// The calling agent as one that gives something up.
pub(super) async fn holder(state: &AppState, caller: &Caller, headers: &HeaderMap) -> Result<Asker, Error> {
    Ok(looked_up(state, caller, headers).await?.0)
}

/// The calling agent, its token looked up.
async fn looked_up(state: &AppState, caller: &Caller, headers: &HeaderMap) -> Result<(Asker, Arc<Facts>), Error> {
    let (base, agent) = (state.base(), super::deliver::agent(caller, headers)?);
    let facts = state.authority().holder(&agent.token).await?.ok_or_else(decision::unauthenticated)?;
    let principal = decision::calling(&facts, agent.unattended, &agent.chain, base.clock.now())?;
    let (Some(id), Some(token)): (Option<AgentId>, Option<TokenId>) = (principal.agent, principal.token) else {
        return Err(decision::unauthenticated());
    };
    state.last_used().note(&principal.site, &token, base.clock.now());
    let person: Option<UserId> = principal.calling_user;
    Ok((Asker { site: principal.site, agent: id, token, person }, facts))
}
