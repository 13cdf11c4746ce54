//! The authorization endpoint (RFC 6749 section 4.1.1): the consent page, and what the person decides.
//!
//! 1. A request whose client or redirect URI is wrong gets an error page, never a redirect.
//! 2. Any other fault goes back to the client, with `state` and `iss` (RFC 9207).
//! 3. A good request gets the page, or at once a code where somebody approves automatically: by the query parameter
//!    `auto_approve=alice`, by the client's settings, or for the whole lab.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use url::form_urlencoded;

use crate::{
    fault::{At, Edit, Effects},
    params::Params,
    records::Call,
    routes::{pages, visit},
    settings::{Client, Person},
    tokens::{Consent, Refusal},
    world::World,
};

/// The query parameter by which a test approves at once.
pub(super) const AUTO_APPROVE: &str = "auto_approve";

/// An authorization request that may be answered to its client.
struct Asked {
    client: Client,
    redirect_uri: String,
    state: Option<String>,
    /// What is asked, or what is wrong with it.
    wanted: Result<Wanted, Refusal>,
}

struct Wanted {
    scope: String,
    challenge: Option<String>,
}

/// `GET /authorize`.
pub(super) async fn ask(State(world): State<Arc<World>>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.unwrap_or_default().as_bytes()) {
        Ok(params) => params,
        Err(refusal) => return pages::error(&refusal.description),
    };
    let asked = match check(&world, &params) {
        Ok(asked) => asked,
        Err(message) => return pages::error(&message),
    };
    let automatic = params.find(AUTO_APPROVE).map(str::to_owned);
    let automatic = automatic
        .or_else(|| asked.client.settings.auto_approve.clone())
        .or_else(|| world.with(|state, _| state.auto_approve.clone()));
    match (&asked.wanted, automatic) {
        (Ok(wanted), None) => pages::consent(&asked.client, &wanted.scope, &asked.redirect_uri, &params),
        (Err(_), _) => answer(&world, asked, None).await,
        (Ok(_), Some(username)) => match Person::named(&username) {
            Some(person) => answer(&world, asked, Some(person)).await,
            None => pages::error("nobody of that name lives at the lab"),
        },
    }
}

/// `POST /authorize`: the consent page's form.
pub(super) async fn decide(State(world): State<Arc<World>>, form: Bytes) -> Response {
    let params = match Params::parse(&form) {
        Ok(params) => params,
        Err(refusal) => return pages::error(&refusal.description),
    };
    let asked = match check(&world, &params) {
        Ok(asked) => asked,
        Err(message) => return pages::error(&message),
    };
    let person = params.find("person").and_then(Person::named);
    match (params.find("decision"), person) {
        (Some("approve"), Some(person)) => answer(&world, asked, Some(person)).await,
        (Some("approve"), None) => pages::error("choose who signs in"),
        _ => {
            let denied = Refusal::new("access_denied", "the person said no");
            answer(&world, Asked { wanted: Err(denied), ..asked }, None).await
        }
    }
}

/// Whether the request may be answered to its client at all (RFC 6749 section 4.1.2.1), and what it wants.
fn check(world: &World, params: &Params) -> Result<Asked, String> {
    let client = params.find("client_id").and_then(|id| world.with(|state, _| state.clients.get(id).cloned()));
    let client = client.ok_or("the app is not registered at the lab")?;
    let redirect_uri = params.find("redirect_uri").ok_or("`redirect_uri` is missing")?;
    if !client.accepts_redirect(redirect_uri) {
        return Err("the app is not registered with this `redirect_uri`".to_owned());
    }
    let wanted = wanted(&client, params);
    Ok(Asked { client, redirect_uri: redirect_uri.to_owned(), state: params.find("state").map(str::to_owned), wanted })
}

fn wanted(client: &Client, params: &Params) -> Result<Wanted, Refusal> {
    if params.need("response_type")? != "code" {
        return Err(Refusal::new("unsupported_response_type", "the lab knows `code` only"));
    }
    let challenge = match (params.find("code_challenge"), params.find("code_challenge_method")) {
        (None, None) if client.settings.pkce_required => return Err(Refusal::request("`code_challenge` is missing")),
        (None, None) => None,
        (None, Some(_)) => return Err(Refusal::request("`code_challenge_method` came without a challenge")),
        // The default method is `plain` (RFC 7636 section 4.3), which the lab does not take.
        (Some(_), None) => return Err(Refusal::request("`code_challenge_method` must be `S256`")),
        (Some(challenge), Some("S256")) if challenge.len() == 43 => Some(challenge.to_owned()),
        (Some(_), Some("S256")) => return Err(Refusal::request("`code_challenge` is not an S256 challenge")),
        (Some(_), Some(_)) => return Err(Refusal::request("`code_challenge_method` must be `S256`")),
    };
    let scope = params.find("scope").unwrap_or("profile");
    let well_formed =
        scope.split(' ').all(|one| !one.is_empty() && one.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)));
    if !well_formed || scope.len() > 2000 {
        return Err(Refusal::new("invalid_scope", "`scope` is malformed"));
    }
    Ok(Wanted { scope: scope.to_owned(), challenge })
}

/// Sends the browser back to the client, with a code for the person or with an error.
async fn answer(world: &Arc<World>, asked: Asked, person: Option<&'static Person>) -> Response {
    let call = Call {
        at: At::Authorize,
        method: "GET".to_owned(),
        path: "/authorize".to_owned(),
        client_id: Some(asked.client.client_id.clone()),
        credential_sha256: None,
    };
    visit::act(world, call, move |world, effects| callback(world, asked, person, effects)).await
}

fn callback(world: &World, asked: Asked, person: Option<&'static Person>, effects: &Effects) -> Response {
    let Asked { client, redirect_uri, state, wanted } = asked;
    let denied = effects.deny.clone().map(|error| Refusal {
        status: StatusCode::BAD_REQUEST,
        error: error.into(),
        description: "the lab was told to answer so".into(),
    });
    let code = denied.map_or(Ok(()), Err).and(wanted).and_then(|wanted| {
        let person = effects.subject.or(person).ok_or_else(|| Refusal::new("server_error", "nobody signed in"))?;
        let consent = Consent {
            client_id: client.client_id.clone(),
            person,
            redirect_uri: redirect_uri.clone(),
            scope: effects.scope.clone().unwrap_or(wanted.scope),
            challenge: wanted.challenge,
        };
        world.with(|state, now| state.tokens.code(&client, consent, now))
    });
    let mut params = match code {
        Ok(code) => vec![("code".to_owned(), code)],
        Err(refusal) => vec![
            ("error".to_owned(), refusal.error.into_owned()),
            ("error_description".to_owned(), refusal.description.into_owned()),
        ],
    };
    params.extend(state.map(|state| ("state".to_owned(), state)));
    params.push(("iss".to_owned(), world.origin.clone()));
    edit(&mut params, &effects.edits);
    send_back(&redirect_uri, &params)
}

/// The redirect to a client's callback.
pub(super) fn send_back(redirect_uri: &str, params: &[(String, String)]) -> Response {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    let joint = if redirect_uri.contains('?') { '&' } else { '?' };
    let location = format!("{redirect_uri}{joint}{query}");
    // 303, so that no browser repeats the consent form's POST at the client (RFC 9700 section 4.12).
    let headers =
        [(header::LOCATION, location.as_str()), (header::CACHE_CONTROL, "no-store"), (header::REFERRER_POLICY, "no-referrer")];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Changes parameters as faults want it.
pub(super) fn edit(params: &mut Vec<(String, String)>, edits: &[Edit]) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for edit in edits {
        match edit {
            Edit::Set(name, value) => match params.iter_mut().find(|(known, _)| known == name) {
                Some(param) => param.1 = text(value),
                None => params.push((name.clone(), text(value))),
            },
            Edit::Omit(name) => params.retain(|(known, _)| known != name),
            Edit::Duplicate(name, value) => params.insert(0, (name.clone(), text(value))),
        }
    }
}
