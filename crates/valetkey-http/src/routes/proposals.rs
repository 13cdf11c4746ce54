//! Proposals: an agent asks for access; a person narrows that and decides.

use std::collections::BTreeSet;

use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    approval::Decider,
    clock::Timestamp,
    grant::{Effect, ForWhom, Rate},
    id::{ConnectionId, ProposalId, ProviderName, SiteId},
    principal::Delivery,
    proposal::{self, Terms, Wish},
};

use super::{
    agents,
    approvals::{Refusal, answered, asker, decider},
    connections::json_or_null,
    grants, limited, moment, next,
};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A wish of an agent.
#[derive(Serialize, ToSchema)]
pub(crate) struct Proposal {
    /// Its id, which is no secret.
    id: String,
    /// `pending`, `accepted`, `refused` or `expired`.
    status: String,
    /// Who asks.
    agent: String,
    /// What people call the agent.
    agent_title: String,
    /// The person the agent acts for; absent where it acts for nobody.
    person: Option<String>,
    /// The person who is asked; absent where whoever administers the site is.
    addressee: Option<String>,
    /// At which provider.
    provider: String,
    /// The connection that is asked for; absent where any account of the addressee's will do. Once accepted, the one granted.
    connection: Option<String>,
    /// How: `proxy`, `reveal`.
    delivery: Vec<String>,
    /// For whom: `owner`, `unattended`, `operators`, or a list of people.
    #[schema(value_type = Value)]
    for_whom: Value,
    /// Which operations, as patterns; absent for all that the definition allows.
    operations: Option<Vec<String>>,
    /// The provider's names of operations that some of the patterns came from.
    operation_names: BTreeSet<String>,
    /// Why, in the agent's words, which nobody has checked.
    reason: String,
    /// The page on which a person answers; null where whoever administers the site is asked, for whom there is none.
    page: Option<String>,
    /// What whoever administers the site types to answer, where there is no page.
    command: Option<String>,
    /// Since when it waits.
    created_at: String,
    /// Until when it can be answered.
    expires_at: String,
    /// When it was answered.
    decided_at: Option<String>,
    /// Who answered. An agent is not told.
    decided_by: Option<String>,
    /// Why it was refused.
    refusal: Option<String>,
    /// What was granted.
    grant: Option<String>,
}

impl Proposal {
    fn new(state: &AppState, site: &SiteId, proposal: proposal::Proposal) -> Self {
        let status = proposal.status(state.base().clock.now());
        let (decided_at, decided_by, refusal) = answered(proposal.decided);
        let (path, words) = (format!("/proposals/{}", proposal.id), format!("proposal accept {}", proposal.id));
        let (page, command) = state.outside().page_or_command(proposal.addressee.as_ref(), &path, &words, site);
        Self {
            page,
            command,
            id: proposal.id.to_string(),
            status: status.as_str().to_owned(),
            agent: proposal.agent.to_string(),
            agent_title: proposal.agent_title,
            person: proposal.person.map(|person| person.to_string()),
            addressee: proposal.addressee.map(|person| person.to_string()),
            provider: proposal.provider.to_string(),
            connection: proposal.connection.map(|connection| connection.to_string()),
            delivery: proposal.wanted.delivery.iter().map(ToString::to_string).collect(),
            for_whom: json_or_null(&proposal.wanted.for_whom),
            operations: proposal.wanted.operations.map(|list| list.iter().map(ToString::to_string).collect()),
            operation_names: proposal.wanted.operation_names,
            reason: proposal.reason,
            created_at: moment(proposal.created_at),
            expires_at: moment(proposal.expires_at),
            decided_at,
            decided_by,
            refusal,
            grant: proposal.grant.map(|grant| grant.to_string()),
        }
    }

    /// As the agent may see it.
    fn for_agent(mut self) -> Self {
        self.decided_by = None;
        self
    }
}

/// What an agent asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProposal {
    /// At which provider; may be left out where a connection is named.
    #[schema(value_type = Option<String>)]
    provider: Option<ProviderName>,
    /// Which connection: one that the agent has a grant on already.
    #[schema(value_type = Option<String>)]
    connection: Option<ConnectionId>,
    /// How: `proxy`, `reveal`. The proxy only, when absent.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    delivery: BTreeSet<Delivery>,
    /// For whom: `owner`, `unattended`, `operators`, or a list of people. `owner` when absent and the person asked is the one
    /// the agent acts for.
    #[schema(value_type = Option<Value>)]
    for_whom: Option<ForWhom>,
    /// Only these operations: patterns such as `POST /api/submit`, and names that the provider's definition has, such as
    /// `issue.create`.
    operations: Option<Vec<String>>,
    /// Why, for the person who decides.
    reason: String,
}

/// Asks for access. Nothing is granted by asking. The same wish again is the same proposal, and a no stands as long as the
/// question would have.
#[utoipa::path(
    post, path = "/v1/proposals", tag = "approvals", request_body = NewProposal,
    params(("Valet-Unattended" = Option<String>, Header, description = "`true`: without the token's person.")),
    responses((status = 201, body = Proposal))
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Body(new): Body<NewProposal>,
) -> Answer<(StatusCode, Json<Proposal>)> {
    let asker = asker(&state, &caller, &headers).await?;
    let wish = Wish {
        provider: new.provider,
        connection: new.connection,
        delivery: new.delivery,
        for_whom: new.for_whom,
        operations: new.operations,
        reason: new.reason,
    };
    let made = proposal::propose(state.outside(), &asker, wish).await?;
    Ok((StatusCode::CREATED, Json(Proposal::new(&state, &asker.site, made).for_agent())))
}

/// Which proposals.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only this agent's: its id or slug.
    agent: Option<String>,
    /// `true`: only those that wait for an answer.
    waiting: Option<bool>,
    /// Only those that came after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ProposalId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of proposals.
#[derive(Serialize, ToSchema)]
pub(crate) struct Proposals {
    /// The proposals, the oldest first.
    proposals: Vec<Proposal>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists what agents ask for. A platform sees what people whom it reaches are asked, and what the site is.
#[utoipa::path(get, path = "/v1/proposals", tag = "approvals", params(Which), responses((status = 200, body = Proposals)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Proposals>> {
    let (base, site) = (state.base(), caller.site()?);
    let agent = agents::filtered(&base.db, site, which.agent.as_deref()).await?;
    let limit = limited(which.limit);
    let filter = proposal::Which { agent: agent.as_ref(), addressee: caller.user(), waiting: which.waiting == Some(true) };
    let mut found = proposal::page(base, site, &filter, which.after.as_ref(), limit).await?;
    let next = next(&found, limit, |proposal| proposal.id.to_string());
    found.retain(|proposal| caller.reaches(&proposal.owner()));
    let proposals = found.into_iter().map(|proposal| Proposal::new(&state, site, proposal)).collect();
    Ok(Json(Proposals { proposals, next }))
}

/// What one agent asked for, and where that stands. An agent sees its own.
#[utoipa::path(
    get, path = "/v1/proposals/{id}", tag = "approvals", params(("id" = String, Path)), responses((status = 200, body = Proposal))
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<ProposalId>,
) -> Answer<Json<Proposal>> {
    let db = &state.base().db;
    if let Caller::Agent { .. } = &caller {
        let asker = asker(&state, &caller, &headers).await?;
        let found = proposal::of_agent(db, &asker.site, &id, &asker.agent, asker.person.as_ref()).await?;
        let found = found.ok_or_else(|| unknown(&id))?;
        return Ok(Json(Proposal::new(&state, &asker.site, found).for_agent()));
    }
    let site = caller.site()?;
    let found = proposal::get(db, site, &id).await?.filter(|found| caller.reaches(&found.owner()));
    Ok(Json(Proposal::new(&state, site, found.ok_or_else(|| unknown(&id))?)))
}

/// What a person makes of it. What is left out stays as it was asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Accepting {
    /// With which connection; needed where the agent names a provider only.
    #[schema(value_type = Option<String>)]
    connection: Option<ConnectionId>,
    /// `allow`, or `ask`: a person approves each use first.
    #[schema(value_type = Option<String>)]
    effect: Effect,
    /// How; not more than was asked for.
    #[schema(value_type = Option<Vec<String>>)]
    delivery: Option<BTreeSet<Delivery>>,
    /// For whom.
    #[schema(value_type = Option<Value>)]
    for_whom: Option<ForWhom>,
    /// Which operations, as patterns or names; not more than were asked for.
    operations: Option<Vec<String>>,
    /// The most scopes of the provider.
    scopes: Option<BTreeSet<String>>,
    /// How often at most in any stretch of time, such as `100/1h`.
    #[schema(value_type = Option<String>)]
    rate: Option<Rate>,
    /// How often in all.
    max_uses: Option<i64>,
    /// Until when.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// Why.
    note: String,
}

/// Grants what was asked for, or less. Who may is as for an approval.
#[utoipa::path(
    post, path = "/v1/proposals/{id}/accept", tag = "approvals", params(("id" = String, Path)), request_body = Accepting,
    responses((status = 200, body = grants::Grant))
)]
pub(crate) async fn accept(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ProposalId>,
    Body(accepting): Body<Accepting>,
) -> Answer<Json<grants::Grant>> {
    let by = answering(&state, &caller, &id).await?;
    let terms = Terms {
        connection: accepting.connection,
        effect: accepting.effect,
        delivery: accepting.delivery,
        for_whom: accepting.for_whom,
        operations: accepting.operations,
        scopes: accepting.scopes,
        rate: accepting.rate,
        max_uses: accepting.max_uses,
        expires_at: accepting.expires_at,
        note: accepting.note,
    };
    let (_, granted) = proposal::accept(state.outside(), caller.site()?, &by, &id, terms).await?;
    Ok(Json(granted.into()))
}

/// Grants nothing. Who may is as for an approval.
#[utoipa::path(
    post, path = "/v1/proposals/{id}/refuse", tag = "approvals", params(("id" = String, Path)), request_body = Refusal,
    responses((status = 200, body = Proposal))
)]
pub(crate) async fn refuse(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ProposalId>,
    Body(refusal): Body<Refusal>,
) -> Answer<Json<Proposal>> {
    let (by, site) = (answering(&state, &caller, &id).await?, caller.site()?);
    let refused = proposal::refuse(state.base(), site, &by, &id, &refusal.reason).await?;
    Ok(Json(Proposal::new(&state, site, refused)))
}

/// Who answers, where they may know that there is such a proposal.
async fn answering(state: &AppState, caller: &Caller, id: &ProposalId) -> Result<Decider, Error> {
    let found = proposal::get(&state.base().db, caller.site()?, id).await?;
    match found.filter(|found| caller.reaches(&found.owner())) {
        Some(_) => decider(caller),
        None => Err(unknown(id)),
    }
}

fn unknown(id: &ProposalId) -> Error {
    Error::new(Code::NotFound, format!("there is no proposal `{id}`"))
}
