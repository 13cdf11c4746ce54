//! The controls over HTTP, for tests in another process. See [`crate::control`] for the list.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    control::Control,
    definition::DefinitionOptions,
    fault::Rule,
    routes::answer,
    settings::{Client, Person},
    tokens::Refusal,
    world::World,
};

/// How many rules and clients there may be.
const MOST: usize = 1000;

/// Keeps web pages away: one in a developer's browser must not steer the lab. A browser names the page's origin on
/// every POST, and the host that it believes in (which defeats a name that was pointed at loopback).
pub(super) async fn guard(State(world): State<Arc<World>>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has no `Host` header, and no browser speaks it without TLS.
    let here = host.is_none_or(|host| host == world.addr.to_string() || host == format!("localhost:{}", world.addr.port()));
    if here && !headers.contains_key(header::ORIGIN) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "the controls are not for web pages\n").into_response()
    }
}

type Lab = State<Arc<World>>;

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Value>),
    One(Value),
}

/// One rule or a list of rules; all of them or none.
pub(super) async fn misbehave(State(world): Lab, body: Bytes) -> Response {
    let many = match parse::<OneOrMany>(&body) {
        Ok(OneOrMany::Many(many)) => many,
        Ok(OneOrMany::One(one)) => vec![one],
        Err(refused) => return refused,
    };
    let mut rules = Vec::new();
    for one in many {
        match serde_json::from_value::<Rule>(one)
            .map_err(|e| e.to_string())
            .and_then(|rule| rule.fault_in_rule().map_or(Ok(rule.clone()), |wrong| Err(wrong.to_owned())))
        {
            Ok(rule) => rules.push(rule),
            Err(wrong) => return Refusal::request(wrong).into_response(),
        }
    }
    world.with(|state, _| {
        if state.rules.len() + rules.len() > MOST {
            return Refusal::request("too many rules").into_response();
        }
        state.rules.extend(rules);
        answer(StatusCode::OK, &json!({ "rules": state.rules }))
    })
}

pub(super) async fn behave(State(world): Lab) -> StatusCode {
    Control::new(world).behave();
    StatusCode::NO_CONTENT
}

pub(super) async fn release(State(world): Lab) -> StatusCode {
    world.release();
    StatusCode::NO_CONTENT
}

pub(super) async fn counters(State(world): Lab) -> Response {
    shown(&world.counters())
}

pub(super) async fn log(State(world): Lab) -> Response {
    shown(&Control::new(world).log())
}

pub(super) async fn families(State(world): Lab) -> Response {
    shown(&Control::new(world).families())
}

pub(super) async fn revoked(State(world): Lab) -> Response {
    shown(&Control::new(world).revoked_tokens())
}

pub(super) async fn spends(State(world): Lab, Path(sha256): Path<String>) -> Response {
    let control = Control::new(world);
    let (presented, spent) = (control.presentations_of_refresh_token(&sha256), control.spends_of_refresh_token(&sha256));
    answer(StatusCode::OK, &json!({ "presented": presented, "spent": spent }))
}

pub(super) async fn reset(State(world): Lab) -> StatusCode {
    world.reset();
    StatusCode::NO_CONTENT
}

pub(super) async fn reset_records(State(world): Lab) -> StatusCode {
    Control::new(world).reset_records();
    StatusCode::NO_CONTENT
}

pub(super) async fn clients(State(world): Lab) -> Response {
    shown(&world.with(|state, _| state.clients.values().cloned().collect::<Vec<Client>>()))
}

pub(super) async fn register(State(world): Lab, body: Bytes) -> Response {
    let client = match parse::<Client>(&body) {
        Ok(client) => client,
        Err(refused) => return refused,
    };
    if client.client_id.is_empty() {
        return Refusal::request("`client_id` is empty").into_response();
    }
    if client.settings.auto_approve.as_deref().is_some_and(|person| Person::named(person).is_none()) {
        return Refusal::request("`auto_approve` is nobody at the lab").into_response();
    }
    world.with(|state, _| {
        if state.clients.len() >= MOST && !state.clients.contains_key(&client.client_id) {
            return Refusal::request("too many clients").into_response();
        }
        state.clients.insert(client.client_id.clone(), client);
        StatusCode::NO_CONTENT.into_response()
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whom {
    person: Option<String>,
}

pub(super) async fn auto_approve(State(world): Lab, body: Bytes) -> Response {
    match parse_or_default::<Whom>(&body) {
        Ok(whom) if Control::new(world).auto_approve(whom.person.as_deref()) => StatusCode::NO_CONTENT.into_response(),
        Ok(_) => Refusal::request("nobody of that name lives at the lab").into_response(),
        Err(refused) => refused,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorization {
    client_id: String,
    person: String,
    #[serde(default)]
    scope: Option<String>,
}

pub(super) async fn issue(State(world): Lab, body: Bytes) -> Response {
    let wanted = match parse::<Authorization>(&body) {
        Ok(wanted) => wanted,
        Err(refused) => return refused,
    };
    let scope = wanted.scope.as_deref().unwrap_or("profile");
    match Control::new(world).issue(&wanted.client_id, &wanted.person, scope) {
        Some(issued) => shown(&issued),
        None => Refusal::request("no such client, or nobody of that name").into_response(),
    }
}

pub(super) async fn withdraw(State(world): Lab, body: Bytes) -> Response {
    match parse::<Authorization>(&body) {
        Ok(of) => answer(StatusCode::OK, &json!({ "ended": Control::new(world).withdraw(&of.client_id, &of.person) })),
        Err(refused) => refused,
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OfClient {
    client_id: Option<String>,
}

pub(super) async fn expire_access(State(world): Lab, body: Bytes) -> Response {
    expire(world, &body, Control::expire_access_tokens)
}

pub(super) async fn expire_refresh(State(world): Lab, body: Bytes) -> Response {
    expire(world, &body, Control::expire_refresh_tokens)
}

fn expire(world: Arc<World>, body: &[u8], what: fn(&Control, Option<&str>)) -> Response {
    match parse_or_default::<OfClient>(body) {
        Ok(of) => {
            what(&Control::new(world), of.client_id.as_deref());
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refused) => refused,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct By {
    seconds: u64,
}

pub(super) async fn advance(State(world): Lab, body: Bytes) -> Response {
    match parse::<By>(&body) {
        Ok(by) => {
            Control::new(world).advance(Duration::from_secs(by.seconds));
            StatusCode::NO_CONTENT.into_response()
        }
        Err(refused) => refused,
    }
}

pub(super) async fn definition(State(world): Lab, Query(options): Query<DefinitionOptions>) -> Response {
    ([(header::CONTENT_TYPE, "application/toml")], Control::new(world).definition(&options)).into_response()
}

fn shown(what: &impl Serialize) -> Response {
    match serde_json::to_value(what) {
        Ok(value) => answer(StatusCode::OK, &value),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|wrong| Refusal::request(wrong.to_string()).into_response())
}

fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Response> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
