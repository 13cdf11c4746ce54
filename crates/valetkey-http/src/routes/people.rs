//! People: the platform knows them; here they can be stopped and erased.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey::{id::UserId, person, principal::Owner, session};

use super::moment;
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path},
    state::AppState,
};

/// What changes about a person.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersonChange {
    /// Whether they are disabled: their tokens, grants and accounts stop and start with them, and their sessions end.
    disabled: bool,
}

/// A person.
#[derive(Serialize, ToSchema)]
pub(crate) struct Person {
    /// Their id.
    id: String,
    /// Whether they are disabled.
    disabled: bool,
}

/// Disables a person, or lets them act again.
#[utoipa::path(patch, path = "/v1/people/{id}", tag = "people", params(("id" = String, Path)), request_body = PersonChange,
    responses((status = 200, body = Person)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<UserId>,
    Body(change): Body<PersonChange>,
) -> Answer<Json<Person>> {
    caller.require_reaches(&Owner::User(id.clone()))?;
    person::set_disabled(state.base(), caller.site()?, &caller.actor()?, &id, change.disabled).await?;
    Ok(Json(Person { id: id.to_string(), disabled: change.disabled }))
}

/// A person signed in, in one browser.
#[derive(Serialize, ToSchema)]
pub(crate) struct PersonSession {
    /// Its id, which is no secret.
    id: String,
    /// The platform key that vouched for the person. The session ends with it.
    key: Option<String>,
    /// Since when.
    opened_at: String,
    /// Until when.
    expires_at: String,
}

/// A person's sessions.
#[derive(Serialize, ToSchema)]
pub(crate) struct PersonSessions {
    /// The sessions whose time is not over, the newest first.
    sessions: Vec<PersonSession>,
}

/// Lists the browsers in which a person is signed in.
#[utoipa::path(get, path = "/v1/people/{id}/sessions", tag = "people", params(("id" = String, Path)),
    responses((status = 200, body = PersonSessions)))]
pub(crate) async fn sessions(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<UserId>,
) -> Answer<Json<PersonSessions>> {
    caller.require_reaches(&Owner::User(id.clone()))?;
    let sessions = session::of_person(state.base(), caller.site()?, &id).await?;
    let shown = sessions.into_iter().map(|session| PersonSession {
        id: session.id.to_string(),
        key: session.platform_key.map(|key| key.to_string()),
        opened_at: moment(session.opened_at),
        expires_at: moment(session.expires_at),
    });
    Ok(Json(PersonSessions { sessions: shown.collect() }))
}

/// How many sessions ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignedOut {
    /// The number.
    ended: u64,
}

/// Signs a person out everywhere, as a platform does when they sign out there. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/people/{id}/sessions", tag = "people", params(("id" = String, Path)),
    responses((status = 200, body = SignedOut)))]
pub(crate) async fn sign_out(State(state): State<AppState>, caller: Caller, Path(id): Path<UserId>) -> Answer<Json<SignedOut>> {
    caller.require_reaches(&Owner::User(id.clone()))?;
    let ended = session::close_all(state.base(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(Json(SignedOut { ended }))
}

/// What an erasing ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Erased {
    /// The person's id, which is all that the audit knows of them.
    id: String,
    /// Accounts that are over here; their providers are told as soon as they answer (`GET /v1/revocations`).
    connections: u64,
    /// Apps at providers.
    apps: u64,
    /// Tokens that lived.
    tokens: u64,
    /// Grants that lived.
    grants: u64,
    /// Roles on agents.
    roles: u64,
    /// Agents of theirs: disabled, and nobody's.
    agents: u64,
}

/// Erases a person for good: their accounts, apps, tokens, grants and roles. Doing it again ends what is still there.
#[utoipa::path(delete, path = "/v1/people/{id}", tag = "people", params(("id" = String, Path)),
    responses((status = 200, body = Erased)))]
pub(crate) async fn erase(State(state): State<AppState>, caller: Caller, Path(id): Path<UserId>) -> Answer<Json<Erased>> {
    caller.require_reaches(&Owner::User(id.clone()))?;
    let person::Erased { connections, apps, tokens, grants, roles, agents } =
        person::erase(state.outside(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(Json(Erased { id: id.to_string(), connections, apps, tokens, grants, roles, agents }))
}
