//! People: the platform knows them; here they can be stopped.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey::{id::UserId, platform};

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
    /// Whether they are disabled: their tokens, grants and accounts stop and start with them.
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
    platform::set_person_disabled(state.base(), caller.site()?, &caller.actor()?, &id, change.disabled).await?;
    Ok(Json(Person { id: id.to_string(), disabled: change.disabled }))
}
