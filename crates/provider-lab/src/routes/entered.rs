//! What is called for accounts that are made of entered values: see [`crate::entered`].

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    CLIENT_ID,
    entered::{self, INSTALLATION},
    fault::At,
    params::Params,
    records::Call,
    routes::{answer, bearer, visit},
    settings::{Client, PEOPLE, Person},
    tokens::{Refusal, TokenSet},
    world::{World, fingerprint},
};

/// The scopes of what is not asked for scopes.
const SCOPES: &str = "posts:read posts:write profile";

/// `GET /resolve`: whose a handle is.
pub(super) async fn resolve(State(world): State<Arc<World>>, RawQuery(query): RawQuery) -> Response {
    let params = Params::parse(query.unwrap_or_default().as_bytes());
    visit::act(&world, call(At::Directory, "GET", "/resolve", None), move |_, _| {
        let person = params.ok().and_then(|params| params.find("handle").and_then(entered::person));
        match person {
            Some(person) => answer(StatusCode::OK, &json!({ "did": entered::did(person) })),
            None => answer(StatusCode::BAD_REQUEST, &json!({ "error": "HandleNotFound" })),
        }
    })
    .await
}

/// `GET /did/{did}`: which server holds the account.
pub(super) async fn document(State(world): State<Arc<World>>, Path(did): Path<String>) -> Response {
    visit::act(&world, call(At::Directory, "GET", "/did", None), move |world, _| match entered::person(&did) {
        Some(person) => answer(StatusCode::OK, &document_of(world, person)),
        None => answer(StatusCode::NOT_FOUND, &json!({ "message": "DID not registered" })),
    })
    .await
}

fn document_of(world: &World, person: &Person) -> Value {
    let server = world.with(|state, _| state.entered.server.clone()).unwrap_or_else(|| world.origin.clone());
    let service = json!({ "id": "#lab_pds", "type": "LabPersonalDataServer", "serviceEndpoint": server });
    json!({ "id": entered::did(person), "alsoKnownAs": [format!("at://{}", entered::handle(person))], "service": [service] })
}

/// `POST /session`: begins a session with an app password.
pub(super) async fn create(State(world): State<Arc<World>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = json_of(&headers, &body);
    visit::act(&world, call(At::Login, "POST", "/session", None), move |world, _| {
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let person = world.with(|state, _| state.entered.sign_in(text("identifier"), text("password")));
        let Some(person) = person else {
            let refusal = json!({ "error": "AuthenticationRequired", "message": "Invalid identifier or password" });
            return answer(StatusCode::UNAUTHORIZED, &refusal);
        };
        match issue(world, person, SCOPES) {
            Ok(tokens) => session_answer(world, person, &tokens),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /session/refresh`: the refresh token is the bearer.
pub(super) async fn refresh(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    visit::act(&world, call(At::Refresh, "POST", "/session/refresh", Some(&token)), move |world, effects| {
        let renewed = client(world).and_then(|client| {
            world.with(|state, now| {
                let tokens = state.tokens.refresh(&client, &token, None, effects, &mut state.records, now)?;
                let live = state.tokens.live(&tokens.access_token, now);
                let live = live.ok_or_else(|| Refusal::grant("the session is over"))?;
                Ok((tokens, live.person))
            })
        });
        match renewed {
            Ok((tokens, person)) => session_answer(world, person, &tokens),
            Err(_) => answer(StatusCode::BAD_REQUEST, &json!({ "error": "ExpiredToken", "message": "Token has expired" })),
        }
    })
    .await
}

/// `POST /session/delete`: the refresh token is the bearer.
pub(super) async fn delete(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    visit::act(&world, call(At::Revoke, "POST", "/session/delete", Some(&token)), move |world, _| {
        match client(world) {
            Ok(client) => world.with(|state, _| state.tokens.revoke(&client, &token, &mut state.records)),
            Err(refusal) => return refusal.into_response(),
        }
        StatusCode::OK.into_response()
    })
    .await
}

/// `GET /session`: whose it is.
pub(super) async fn show(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    visit::act(&world, call(At::Userinfo, "GET", "/session", Some(&token)), move |world, effects| {
        match world.with(|state, now| state.tokens.live(&token, now)) {
            Some(live) => {
                let person = effects.subject.unwrap_or(live.person);
                answer(StatusCode::OK, &json!({ "did": entered::did(person), "handle": entered::handle(person) }))
            }
            None => answer(StatusCode::BAD_REQUEST, &json!({ "error": "InvalidToken" })),
        }
    })
    .await
}

/// `POST /login`: refuses with status 200, as GraphQL servers do.
pub(super) async fn login(State(world): State<Arc<World>>, headers: HeaderMap, body: Bytes) -> Response {
    let body = json_of(&headers, &body);
    visit::act(&world, call(At::Login, "POST", "/login", None), move |world, _| {
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let person = world.with(|state, _| state.entered.sign_in(text("email"), text("password")));
        let Some(person) = person else {
            return answer(StatusCode::OK, &json!({ "errors": [{ "message": "wrong e-mail address or password" }] }));
        };
        match issue(world, person, SCOPES) {
            Ok(tokens) => {
                let data = json!({ "token": tokens.access_token, "expiresIn": tokens.expires_in, "userId": person.id });
                answer(StatusCode::OK, &json!({ "data": data }))
            }
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /assertion` (RFC 7523 section 2.1).
pub(super) async fn assertion(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let params = Params::parse(&body);
    visit::act(&world, call(At::Login, "POST", "/assertion", None), move |world, _| {
        let tokens = params.and_then(|params| {
            if params.need("grant_type")? != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
                return Err(Refusal::new("unsupported_grant_type", "this endpoint takes assertions"));
            }
            let audience = format!("{}/assertion", world.origin);
            let claims = world.with(|state, _| state.entered.verify(params.need("assertion")?, Some(&audience)))?;
            let scope = claims["scope"].as_str().filter(|scope| !scope.is_empty());
            let scope = scope.ok_or_else(|| Refusal::new("invalid_scope", "`scope` is missing among the claims"))?;
            issue(world, service(), scope)
        });
        match tokens {
            Ok(tokens) => answer(
                StatusCode::OK,
                &json!({ "access_token": tokens.access_token, "token_type": "Bearer", "expires_in": tokens.expires_in }),
            ),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /installations/{id}/tokens`: the app proves itself by an assertion as bearer.
pub(super) async fn installation(State(world): State<Arc<World>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let token = bearer(&headers).unwrap_or_default().to_owned();
    visit::act(&world, call(At::Login, "POST", "/installations", None), move |world, _| {
        if world.with(|state, _| state.entered.verify(&token, None)).is_err() {
            let refusal = json!({ "message": "A JSON web token could not be decoded" });
            return answer(StatusCode::UNAUTHORIZED, &refusal);
        }
        if id != INSTALLATION {
            return answer(StatusCode::NOT_FOUND, &json!({ "message": "Not Found" }));
        }
        match issue(world, service(), SCOPES) {
            Ok(tokens) => answer(StatusCode::CREATED, &json!({ "token": tokens.access_token, "expires_in": tokens.expires_in })),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// Tokens for a client that comes for itself (RFC 6749 section 4.4): no person agreed, and there is no refresh token.
pub(super) fn client_credentials(world: &World, client: &Client, scope: Option<&str>) -> Result<TokenSet, Refusal> {
    let tokens = world.with(|state, now| state.tokens.issue(client, service(), scope.unwrap_or(SCOPES), now))?;
    Ok(TokenSet { refresh_token: None, ..tokens })
}

/// Whoever acts where no person does.
fn service() -> &'static Person {
    let [first, ..] = &PEOPLE;
    first
}

fn client(world: &World) -> Result<Client, Refusal> {
    let found = world.with(|state, _| state.clients.get(CLIENT_ID).cloned());
    found.ok_or_else(|| Refusal::new("server_error", "the lab's own client is gone"))
}

fn issue(world: &World, person: &'static Person, scope: &str) -> Result<TokenSet, Refusal> {
    let client = client(world)?;
    world.with(|state, now| state.tokens.issue(&client, person, scope, now))
}

fn session_answer(world: &World, person: &Person, tokens: &TokenSet) -> Response {
    let body = json!({
        "accessJwt": tokens.access_token, "refreshJwt": tokens.refresh_token, "expiresIn": tokens.expires_in,
        "did": entered::did(person), "handle": entered::handle(person), "didDoc": document_of(world, person),
    });
    answer(StatusCode::OK, &body)
}

fn json_of(headers: &HeaderMap, body: &[u8]) -> Value {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if is_json { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null }
}

fn call(at: At, method: &str, path: &str, credential: Option<&str>) -> Call {
    Call { at, method: method.to_owned(), path: path.to_owned(), client_id: None, credential_sha256: credential.map(fingerprint) }
}
