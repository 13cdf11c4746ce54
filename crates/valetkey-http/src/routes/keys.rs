//! Platform keys: how a site's own backend calls us.

use std::collections::BTreeSet;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use valetkey::{
    Code, Error,
    clock::Timestamp,
    id::PlatformKeyId,
    platform::{self, Asserts, NewKey, PlatformKey, Scope},
};

use super::{connections::json_or_null, maybe, moment};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path},
    state::AppState,
};

/// A platform key as it is listed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Key {
    /// Its id, which is no secret.
    id: String,
    /// The first characters of its text.
    prefix: String,
    /// What somebody called it.
    label: String,
    /// What it may do.
    scopes: Vec<String>,
    /// For whom it may speak: `none`, `any`, or a list of people.
    #[schema(value_type = Value)]
    asserts: Value,
    /// Where its platform publishes the keys by which it signs assertions; absent where it signs with the assertion secret.
    jwks_url: Option<String>,
    /// Since when.
    created_at: String,
    /// Until when.
    expires_at: Option<String>,
    /// Since when it is revoked.
    revoked_at: Option<String>,
}

impl From<PlatformKey> for Key {
    fn from(key: PlatformKey) -> Self {
        Self {
            id: key.id.to_string(),
            prefix: key.prefix,
            label: key.label,
            scopes: key.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            asserts: json_or_null(&key.asserts),
            jwks_url: key.jwks_url,
            created_at: moment(key.created_at),
            expires_at: maybe(key.expires_at),
            revoked_at: maybe(key.revoked_at),
        }
    }
}

/// A list of platform keys.
#[derive(Serialize, ToSchema)]
pub(crate) struct Keys {
    /// The keys, the newest first.
    keys: Vec<Key>,
}

/// Lists the site's keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = Keys)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Answer<Json<Keys>> {
    let keys = platform::list(&state.base().db, caller.site()?).await?;
    Ok(Json(Keys { keys: keys.into_iter().map(Key::from).collect() }))
}

/// A new key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKeyBody {
    /// What to call it.
    label: String,
    /// What it may do; none implies another.
    #[schema(value_type = Vec<String>)]
    scopes: BTreeSet<Scope>,
    /// For whom it may speak: `none` (when absent), `any`, or a list of people.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    asserts: Asserts,
    /// Until when.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// A fresh key. Its two secrets are shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeKey {
    /// The key as it is listed.
    #[serde(flatten)]
    listed: Key,
    /// Its text: the bearer.
    key: String,
    /// The secret by which its platform signs assertions (HS256).
    assertion_secret: String,
}

/// Makes a platform key.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = NewKeyBody, responses((status = 201, body = MadeKey)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewKeyBody>,
) -> Answer<(StatusCode, Json<MadeKey>)> {
    let new = NewKey { label: new.label, scopes: new.scopes, asserts: new.asserts, expires_at: new.expires_at };
    let minted = platform::create(state.base(), caller.site()?, &caller.actor()?, new).await?;
    let made = MadeKey {
        listed: minted.key.into(),
        key: minted.text.expose().to_owned(),
        assertion_secret: minted.assertion_secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// What changes about a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyChange {
    /// Where its platform publishes its public keys (a JWK set): from now on only what one of them signed is an assertion. An
    /// empty text goes back to the assertion secret.
    jwks_url: String,
}

/// Changes how assertions of a key are verified. The published keys are read at once.
#[utoipa::path(patch, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path)), request_body = KeyChange,
    responses((status = 200, body = Key)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<PlatformKeyId>,
    Body(change): Body<KeyChange>,
) -> Answer<Json<Key>> {
    let (site, url) = (caller.site()?, Some(change.jwks_url.as_str()).filter(|url| !url.is_empty()));
    platform::set_jwks_url(state.outside(), site, &caller.actor()?, &id, url).await?;
    let key = platform::get(&state.base().db, site, &id).await?;
    let key = key.ok_or_else(|| Error::new(Code::NotFound, format!("there is no platform key `{id}`")))?;
    Ok(Json(key.into()))
}

/// Revokes a key: no request that comes after this is served by it. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn revoke(State(state): State<AppState>, caller: Caller, Path(id): Path<PlatformKeyId>) -> Answer<StatusCode> {
    platform::revoke(state.base(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
