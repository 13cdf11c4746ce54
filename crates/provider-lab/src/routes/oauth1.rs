//! OAuth 1.0a (RFC 5849): the three legs, revocation, and an API that takes signed requests only.
//!
//! The person decides on the page of `/oauth1/authorize`, or at once as at `/authorize`. A refusal comes back as
//! `denied=TOKEN`, as some providers have it.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{OriginalUri, RawQuery, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use url::form_urlencoded;

use crate::{
    fault::{At, Effects},
    oauth1::{Signer, Temporary},
    params::Params,
    records::Call,
    routes::{
        answer,
        authorize::{AUTO_APPROVE, edit},
        pages, visit,
    },
    settings::{Client, Person},
    signature::Signed,
    tokens::Refusal,
    world::{World, fingerprint},
};

/// A request, taken apart before anything is made of it.
struct Asked {
    signed: Result<Signed, Refusal>,
    call: Call,
}

impl Asked {
    fn new(world: &World, at: At, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Self {
        let signed = Signed::read(&world.origin, method, uri, headers, body).map_err(Refusal::request);
        let find = |name: &str| signed.as_ref().ok().and_then(|signed| signed.find(name));
        let call = Call {
            at,
            method: method.to_string(),
            path: uri.path().to_owned(),
            client_id: find("oauth_consumer_key").map(str::to_owned),
            credential_sha256: find("oauth_token").map(fingerprint),
        };
        Self { signed, call }
    }
}

fn client(world: &World, signed: &Signed) -> Result<Client, Refusal> {
    let unknown = || Refusal::new("invalid_client", "the app is not registered at the lab");
    let id = signed.find("oauth_consumer_key").ok_or_else(unknown)?;
    world.with(|state, _| state.clients.get(id).cloned()).ok_or_else(unknown)
}

/// `POST /oauth1/request_token` (section 2.1).
pub(super) async fn request_token(
    State(world): State<Arc<World>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Asked { signed, call } = Asked::new(&world, At::TemporaryToken, &Method::POST, &uri, &headers, &body);
    visit::act(&world, call, move |world, effects| {
        let begun = signed.and_then(|signed| {
            let client = client(world, &signed)?;
            world.with(|state, now| state.oauth1.begin(&client, &signed, now))
        });
        match begun {
            Ok(pair) => form(
                effects,
                [
                    ("oauth_token", pair.token),
                    ("oauth_token_secret", pair.secret),
                    ("oauth_callback_confirmed", "true".to_owned()),
                ],
            ),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `GET /oauth1/authorize` (section 2.2).
pub(super) async fn ask(State(world): State<Arc<World>>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::parse(query.unwrap_or_default().as_bytes()) {
        Ok(params) => params,
        Err(refusal) => return pages::error(&refusal.description),
    };
    let Some((token, waiting, client)) = waiting(&world, &params) else { return pages::error(UNKNOWN) };
    let automatic = params.find(AUTO_APPROVE).map(str::to_owned);
    let automatic =
        automatic.or_else(|| client.settings.auto_approve.clone()).or_else(|| world.with(|state, _| state.auto_approve.clone()));
    match automatic {
        None => pages::consent_at("/oauth1/authorize", &client, "", &waiting.callback, &params),
        Some(username) => match Person::named(&username) {
            Some(person) => go_back(&world, token, waiting, Some(person)).await,
            None => pages::error("nobody of that name lives at the lab"),
        },
    }
}

/// `POST /oauth1/authorize`: the page's form.
pub(super) async fn decide(State(world): State<Arc<World>>, form: Bytes) -> Response {
    let params = match Params::parse(&form) {
        Ok(params) => params,
        Err(refusal) => return pages::error(&refusal.description),
    };
    let Some((token, waiting, _)) = waiting(&world, &params) else { return pages::error(UNKNOWN) };
    match (params.find("decision"), params.find("person").and_then(Person::named)) {
        (Some("approve"), None) => pages::error("choose who signs in"),
        (Some("approve"), person) => go_back(&world, token, waiting, person).await,
        _ => go_back(&world, token, waiting, None).await,
    }
}

const UNKNOWN: &str = "the temporary token is unknown, used or expired";

fn waiting(world: &World, params: &Params) -> Option<(String, Temporary, Client)> {
    let token = params.find("oauth_token")?.to_owned();
    world.with(|state, now| {
        let waiting = state.oauth1.waiting(&token, now)?;
        let client = state.clients.get(&waiting.client_id).cloned()?;
        Some((token, waiting, client))
    })
}

/// Sends the browser back to the app: with a verifier for the person, or with the word that nobody approved.
async fn go_back(world: &Arc<World>, token: String, waiting: Temporary, person: Option<&'static Person>) -> Response {
    let call = Call {
        at: At::Authorize,
        method: "GET".to_owned(),
        path: "/oauth1/authorize".to_owned(),
        client_id: Some(waiting.client_id.clone()),
        credential_sha256: Some(fingerprint(&token)),
    };
    visit::act(world, call, move |world, effects| {
        let person = if effects.deny.is_some() { None } else { person.map(|person| effects.subject.unwrap_or(person)) };
        let verifier = match person {
            Some(person) => match world.with(|state, _| state.oauth1.approve(&token, person)) {
                Ok(verifier) => Some(verifier),
                Err(refusal) => return pages::error(&refusal.description),
            },
            None => {
                world.with(|state, _| state.oauth1.refuse(&token));
                None
            }
        };
        let mut params = match verifier {
            Some(verifier) => vec![("oauth_token".to_owned(), token), ("oauth_verifier".to_owned(), verifier)],
            None => vec![("denied".to_owned(), token)],
        };
        edit(&mut params, &effects.edits);
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
        let joint = if waiting.callback.contains('?') { '&' } else { '?' };
        let location = format!("{}{joint}{query}", waiting.callback);
        let headers = [
            (header::LOCATION, location.as_str()),
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        (StatusCode::SEE_OTHER, headers).into_response()
    })
    .await
}

/// `POST /oauth1/access_token` (section 2.3).
pub(super) async fn access_token(
    State(world): State<Arc<World>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Asked { signed, call } = Asked::new(&world, At::VerifiedToken, &Method::POST, &uri, &headers, &body);
    visit::act(&world, call, move |world, effects| {
        let redeemed = signed.and_then(|signed| {
            let client = client(world, &signed)?;
            world.with(|state, now| state.oauth1.redeem(&client, &signed, now))
        });
        match redeemed {
            Ok((pair, person)) => {
                let person = effects.subject.unwrap_or(person);
                form(
                    effects,
                    [
                        ("oauth_token", pair.token),
                        ("oauth_token_secret", pair.secret),
                        ("user_id", person.id.to_owned()),
                        ("screen_name", person.username.to_owned()),
                    ],
                )
            }
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /oauth1/revoke`: ends the token with which the request is signed.
pub(super) async fn revoke(
    State(world): State<Arc<World>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Asked { signed, call } = Asked::new(&world, At::Revoke, &Method::POST, &uri, &headers, &body);
    visit::act(&world, call, move |world, _| {
        let done = signed.and_then(|signed| {
            signer(world, &signed)?;
            let token = signed.find("oauth_token").unwrap_or_default().to_owned();
            world.with(|state, _| state.oauth1.revoke(&token, &mut state.records));
            Ok(())
        });
        match done {
            Ok(()) => answer(StatusCode::OK, &json!({ "revoked": true })),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `GET /oauth1/me`: whose token it is.
pub(super) async fn me(State(world): State<Arc<World>>, OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    let Asked { signed, call } = Asked::new(&world, At::Userinfo, &Method::GET, &uri, &headers, &[]);
    visit::act(&world, call, move |world, effects| match signed.and_then(|signed| signer(world, &signed)) {
        Ok(Signer { person, .. }) => {
            let person = effects.subject.unwrap_or(person);
            answer(StatusCode::OK, &json!({ "id": person.id, "username": person.username, "name": person.name }))
        }
        Err(refusal) => refusal.into_response(),
    })
    .await
}

/// Anything at `/oauth1/api/echo`: who signed the request, and what of it was signed.
pub(super) async fn echo(
    State(world): State<Arc<World>>,
    method: Method,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Asked { signed, call } = Asked::new(&world, At::Api, &method, &uri, &headers, &body);
    visit::act(&world, call, move |world, _| match signed.and_then(|signed| signer(world, &signed)) {
        Ok(Signer { client, person }) => answer(
            StatusCode::OK,
            &json!({
                "method": method.as_str(), "path": uri.path(), "query": uri.query(), "username": person.username,
                "app": client.client_id, "body": { "length": body.len(), "sha256": crate::world::hex(
                    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body).as_ref()) },
            }),
        ),
        Err(refusal) => refusal.into_response(),
    })
    .await
}

fn signer(world: &World, signed: &Signed) -> Result<Signer, Refusal> {
    let client = client(world, signed)?;
    world.with(|state, _| state.oauth1.signer(&client, signed))
}

/// A form answer, as sections 2.1 and 2.3 have them, with what a fault changes in it.
fn form<const N: usize>(effects: &Effects, members: [(&str, String); N]) -> Response {
    let mut members: Vec<(String, String)> = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    edit(&mut members, &effects.edits);
    let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&members).finish();
    let headers = [(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, text).into_response()
}
