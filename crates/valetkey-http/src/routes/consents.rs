//! Consents: what people let OAuth clients have for agents.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    agent::Role,
    id::{ClientId, FamilyId, UserId},
    oauth::Scopes,
    token::family::{self, Family, Filter},
};

use super::{agents::named_agent, maybe, moment, tokens::Why};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Json, Path, Query},
    state::AppState,
};

/// A consent, with which every token that came of it ends.
#[derive(Serialize, ToSchema)]
pub(crate) struct Consent {
    /// Its id: the `grant_id` of introspection.
    id: String,
    /// The agent that acts.
    agent: String,
    /// Who consented, and for whom the agent acts.
    person: String,
    /// The client that was let in.
    client: String,
    /// The most it may do, besides what is granted.
    scope: String,
    /// Where its tokens are taken: `api`, `mcp`.
    audience: String,
    /// Since when.
    created_at: String,
    /// Until when, however often it is used.
    expires_at: String,
    /// When a token of it was last issued.
    used_at: Option<String>,
}

impl From<Family> for Consent {
    fn from(family: Family) -> Self {
        Self {
            id: family.id.to_string(),
            agent: family.agent.to_string(),
            person: family.person.to_string(),
            client: family.client.to_string(),
            scope: Scopes::of(&family.ceiling).to_string(),
            audience: family.audience.as_str().to_owned(),
            created_at: moment(family.created_at),
            expires_at: moment(family.expires_at),
            used_at: maybe(family.used_at),
        }
    }
}

/// Which consents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those for this agent, by id or slug. In a call for a person: of an agent that they administer also those of others.
    agent: Option<String>,
    /// Only those of this person.
    #[param(value_type = Option<String>)]
    person: Option<UserId>,
    /// Only those of this client.
    #[param(value_type = Option<String>)]
    client: Option<ClientId>,
}

/// A list of consents.
#[derive(Serialize, ToSchema)]
pub(crate) struct Consents {
    /// Those that are not over, the newest first; at most a thousand.
    consents: Vec<Consent>,
}

/// Lists what people let OAuth clients have for agents. In a call for a person, what that person did.
#[utoipa::path(get, path = "/v1/consents", tag = "consents", params(Which), responses((status = 200, body = Consents)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Consents>> {
    let mut filter = Filter { person: which.person, agent: None, client: which.client };
    match (&which.agent, caller.user()) {
        (Some(named), _) => filter.agent = Some(named_agent(&state, &caller, named, Role::Admin).await?.id),
        (None, Some(user)) if filter.person.as_ref().is_none_or(|person| person == user) => filter.person = Some(user.clone()),
        (None, Some(_)) => return Err(Error::new(Code::Forbidden, "in a call for a person, `person` is that person").into()),
        (None, None) => {}
    }
    let families = family::list(&state.base().db, caller.site()?, &filter, state.base().clock.now()).await?;
    Ok(Json(Consents { consents: families.into_iter().map(Consent::from).collect() }))
}

/// Ends a consent with every token that came of it: no request that comes after this is served by them. Doing it again changes
/// nothing.
#[utoipa::path(delete, path = "/v1/consents/{id}", tag = "consents", params(("id" = String, Path), Why),
    responses((status = 204)))]
pub(crate) async fn end(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<FamilyId>,
    Query(why): Query<Why>,
) -> Answer<StatusCode> {
    let (base, site) = (state.base(), caller.site()?);
    if let Some(user) = caller.user() {
        let none = || Error::new(Code::NotFound, format!("there is no consent `{id}`"));
        let family = family::get(&base.db, site, &id).await?.ok_or_else(none)?;
        if family.person != *user {
            named_agent(&state, &caller, family.agent.as_str(), Role::Admin).await?;
        }
    }
    family::end(base, site, &caller.actor()?, &id, why.reason()).await?;
    Ok(StatusCode::NO_CONTENT)
}
