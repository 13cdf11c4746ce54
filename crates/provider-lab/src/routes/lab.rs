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
pub(super) async fn misbehave(State(world): Lab, body: Bytes) -> Result<Response, Refusal> {
    let many = match parse::<OneOrMany>(&body)? {
        OneOrMany::Many(many) => many,
        OneOrMany::One(one) => vec![one],
    };
    let rules = many.into_iter().map(rule).collect::<Result<Vec<Rule>, Refusal>>()?;
    world.with(|state, _| {
        if state.rules.len() + rules.len() > MOST {
            return Err(Refusal::request("too many rules"));
        }
        state.rules.extend(rules);
        Ok(answer(StatusCode::OK, &json!({ "rules": state.rules })))
    })
}

fn rule(value: Value) -> Result<Rule, Refusal> {
    let rule: Rule = serde_json::from_value(value).map_err(|wrong| Refusal::request(wrong.to_string()))?;
    rule.fault_in_rule().map_or(Ok(()), |wrong| Err(Refusal::request(wrong)))?;
    Ok(rule)
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
    let mut clients: Vec<Client> = world.with(|state, _| state.clients.values().cloned().collect());
    for secret in clients.iter_mut().filter_map(|client| client.client_secret.as_mut()) {
        "[set]".clone_into(secret);
    }
    shown(&clients)
}

pub(super) async fn register(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let client: Client = parse(&body)?;
    if client.client_id.is_empty() {
        return Err(Refusal::request("`client_id` is empty"));
    }
    if client.settings.auto_approve.as_deref().is_some_and(|person| Person::named(person).is_none()) {
        return Err(Refusal::request("`auto_approve` is nobody at the lab"));
    }
    world.with(|state, _| {
        if state.clients.len() >= MOST && !state.clients.contains_key(&client.client_id) {
            return Err(Refusal::request("too many clients"));
        }
        state.clients.insert(client.client_id.clone(), client);
        Ok(StatusCode::NO_CONTENT)
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whom {
    person: Option<String>,
}

pub(super) async fn auto_approve(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let whom: Whom = parse_or_default(&body)?;
    match Control::new(world).auto_approve(whom.person.as_deref()) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::request("nobody of that name lives at the lab")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AtDevice {
    user_code: String,
    #[serde(default)]
    person: Option<String>,
}

pub(super) async fn device(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let at: AtDevice = parse(&body)?;
    match Control::new(world).answer_device(&at.user_code, at.person.as_deref()) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::request("nobody waits with that code, or nobody of that name lives at the lab")),
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

pub(super) async fn issue(State(world): Lab, body: Bytes) -> Result<Response, Refusal> {
    let wanted: Authorization = parse(&body)?;
    let scope = wanted.scope.as_deref().unwrap_or("profile");
    let issued = Control::new(world).issue(&wanted.client_id, &wanted.person, scope);
    issued.map(|issued| shown(&issued)).ok_or_else(|| Refusal::request("no such client, or nobody of that name"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consenter {
    client_id: String,
    person: String,
}

pub(super) async fn withdraw(State(world): Lab, body: Bytes) -> Result<Response, Refusal> {
    let of: Consenter = parse(&body)?;
    Ok(answer(StatusCode::OK, &json!({ "ended": Control::new(world).withdraw(&of.client_id, &of.person) })))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OfClient {
    client_id: Option<String>,
}

pub(super) async fn expire_access(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let of: OfClient = parse_or_default(&body)?;
    Control::new(world).expire_access_tokens(of.client_id.as_deref());
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn expire_refresh(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let of: OfClient = parse_or_default(&body)?;
    Control::new(world).expire_refresh_tokens(of.client_id.as_deref());
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct By {
    seconds: u64,
}

pub(super) async fn advance(State(world): Lab, body: Bytes) -> Result<StatusCode, Refusal> {
    let by: By = parse(&body)?;
    Control::new(world).advance(Duration::from_secs(by.seconds));
    Ok(StatusCode::NO_CONTENT)
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

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|wrong| Refusal::request(wrong.to_string()))
}

fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refusal> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}
