//! The endpoints that a client calls: token, revocation (RFC 7009), introspection (RFC 7662), the second-stage
//! exchange, userinfo and metadata (RFC 8414).

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::Engine as _;
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::{
    fault::At,
    params::Params,
    records::Call,
    routes::{answer, bearer, entered, visit},
    settings::{Client, ClientAuth},
    tokens::{Refusal, TokenSet},
    world::{self, World, fingerprint},
};

/// The grant type of RFC 8628 section 3.4.
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// `POST /token` (RFC 6749 section 3.2).
pub(super) async fn token(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = form(&headers, query.as_deref(), &body);
    let seen = params.clone().unwrap_or_default();
    let (at, credential) = match seen.find("grant_type") {
        Some("authorization_code") => (At::Code, seen.find("code")),
        Some("refresh_token") => (At::Refresh, seen.find("refresh_token")),
        Some(DEVICE) => (At::DeviceToken, seen.find("device_code")),
        _ => (At::Token, None),
    };
    let call = call(at, "/token", &headers, &seen, credential);
    visit::act(&world, call, move |world, effects| {
        let tokens = params.and_then(|params| {
            let client = authenticate(world, &headers, &params)?;
            match params.need("grant_type")? {
                "authorization_code" => {
                    let code = params.need("code")?;
                    let (redirect_uri, verifier) = (params.find("redirect_uri"), params.find("code_verifier"));
                    world.with(|state, now| state.tokens.redeem(&client, code, redirect_uri, verifier, effects, now))
                }
                "refresh_token" => {
                    let (token, scope) = (params.need("refresh_token")?, params.find("scope"));
                    world.with(|state, now| state.tokens.refresh(&client, token, scope, effects, &mut state.records, now))
                }
                "client_credentials" => entered::client_credentials(world, &client, params.find("scope")),
                DEVICE => {
                    let code = params.need("device_code")?;
                    world.with(|state, now| state.tokens.redeem_device(&client, code, effects, now))
                }
                _ => Err(Refusal::new(
                    "unsupported_grant_type",
                    "the lab knows `authorization_code`, `refresh_token`, `client_credentials` and the device grant",
                )),
            }
        });
        token_answer(tokens)
    })
    .await
}

/// `GET /exchange`: the secret and the token stand in the query, as some providers want it.
pub(super) async fn exchange_by_get(State(world): State<Arc<World>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    exchange(&world, Method::GET, &headers, Params::parse(query.unwrap_or_default().as_bytes())).await
}

/// `POST /exchange`.
pub(super) async fn exchange_by_post(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    exchange(&world, Method::POST, &headers, form(&headers, query.as_deref(), &body)).await
}

/// From short-lived to long-lived (`lab_exchange_token`), and on from there (`lab_extend_token`). The client is the
/// one whose token it is; the exchange wants its secret, the extension wants the token alone.
async fn exchange(world: &Arc<World>, method: Method, headers: &HeaderMap, params: Result<Params, Refusal>) -> Response {
    let seen = params.clone().unwrap_or_default();
    let token = seen.find("access_token");
    let mut call = call(At::Exchange, "/exchange", headers, &seen, token);
    call.method = method.to_string();
    call.client_id = token.and_then(|token| world.with(|state, _| state.tokens.client_of(token).map(str::to_owned)));
    visit::act(world, call, move |world, effects| {
        let tokens = params.and_then(|params| {
            let token = params.need("access_token")?;
            let extend = match params.need("grant_type")? {
                "lab_exchange_token" => false,
                "lab_extend_token" => true,
                _ => return Err(Refusal::new("unsupported_grant_type", "use `lab_exchange_token` or `lab_extend_token`")),
            };
            world.with(|state, now| {
                let live =
                    state.tokens.live(token, now).ok_or_else(|| Refusal::grant("the access token does not work any more"))?;
                let client = state.clients.get(&live.client_id).cloned();
                let client = client.ok_or_else(|| Refusal::new("invalid_client", "the client is gone"))?;
                if extend && !live.long_lived {
                    return Err(Refusal::grant("only a long-lived token can be extended"));
                }
                let secret = params.find("client_secret").unwrap_or_default();
                if !extend && !client.client_secret.as_deref().is_some_and(|known| world::same(known, secret)) {
                    return Err(Refusal::new("invalid_client", "`client_secret` is wrong"));
                }
                state.tokens.exchange(&client, &live, effects, now)
            })
        });
        token_answer(tokens)
    })
    .await
}

/// `POST /revoke` (RFC 7009).
pub(super) async fn revoke(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = form(&headers, query.as_deref(), &body);
    let seen = params.clone().unwrap_or_default();
    let call = call(At::Revoke, "/revoke", &headers, &seen, seen.find("token"));
    visit::act(&world, call, move |world, _| {
        let done = params.and_then(|params| {
            let client = authenticate(world, &headers, &params)?;
            let token = params.need("token")?;
            world.with(|state, _| match state.tokens.client_of(token) {
                // Unknown: that is what the caller wanted (section 2.2).
                None => Ok(()),
                Some(owner) if owner == client.client_id => {
                    state.tokens.revoke(&client, token, &mut state.records);
                    Ok(())
                }
                Some(_) => Err(Refusal::grant("the token belongs to another client")),
            })
        });
        match done {
            Ok(()) => StatusCode::OK.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /introspect` (RFC 7662).
pub(super) async fn introspect(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = form(&headers, query.as_deref(), &body);
    let seen = params.clone().unwrap_or_default();
    let call = call(At::Introspect, "/introspect", &headers, &seen, seen.find("token"));
    visit::act(&world, call, move |world, _| {
        let found = params.and_then(|params| {
            let client = authenticate(world, &headers, &params)?;
            let token = params.need("token")?;
            let live = world.with(|state, now| state.tokens.live(token, now).or_else(|| state.tokens.live_refresh(token, now)));
            Ok(live.filter(|live| live.client_id == client.client_id))
        });
        match found {
            Ok(Some(live)) => answer(
                StatusCode::OK,
                &json!({
                    "active": true, "sub": live.person.id, "username": live.person.username, "client_id": live.client_id,
                    "scope": live.scope, "exp": live.expires_at / 1000, "iss": world.origin,
                }),
            ),
            Ok(None) => answer(StatusCode::OK, &json!({ "active": false })),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `GET /userinfo`: whose token it is.
pub(super) async fn userinfo(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let token = bearer(&headers).map(str::to_owned);
    let client_id = token.as_deref().and_then(|token| world.with(|state, _| state.tokens.client_of(token).map(str::to_owned)));
    let call = Call { client_id, ..call(At::Userinfo, "/userinfo", &headers, &Params::default(), token.as_deref()) };
    let call = Call { method: "GET".to_owned(), ..call };
    visit::act(&world, call, move |world, effects| {
        let live = token.and_then(|token| world.with(|state, now| state.tokens.live(&token, now)));
        let Some(live) = live else {
            return Refusal::new("invalid_token", "the access token is missing, unknown or expired").into_response();
        };
        let person = effects.subject.unwrap_or(live.person);
        answer(
            StatusCode::OK,
            &json!({ "id": person.id, "username": person.username, "name": person.name, "email": person.email }),
        )
    })
    .await
}

/// `GET /.well-known/oauth-authorization-server` (RFC 8414).
pub(super) async fn metadata(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let call = call(At::Metadata, "/.well-known/oauth-authorization-server", &headers, &Params::default(), None);
    let call = Call { method: "GET".to_owned(), ..call };
    visit::act(&world, call, |world, _| {
        let origin = &world.origin;
        answer(
            StatusCode::OK,
            &json!({
                "issuer": origin,
                "authorization_endpoint": format!("{origin}/authorize"),
                "token_endpoint": format!("{origin}/token"),
                "revocation_endpoint": format!("{origin}/revoke"),
                "introspection_endpoint": format!("{origin}/introspect"),
                "userinfo_endpoint": format!("{origin}/userinfo"),
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", DEVICE],
                "device_authorization_endpoint": format!("{origin}/device/authorize"),
                "registration_endpoint": format!("{origin}/register"),
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "authorization_response_iss_parameter_supported": true,
                "scopes_supported": ["profile", "email", "posts:read", "posts:write"],
            }),
        )
    })
    .await
}

fn token_answer(tokens: Result<TokenSet, Refusal>) -> Response {
    match tokens {
        Ok(tokens) => {
            let mut body = json!({
                "access_token": tokens.access_token, "token_type": "Bearer",
                "expires_in": tokens.expires_in, "scope": tokens.scope,
            });
            if let Some(refresh_token) = tokens.refresh_token {
                body["refresh_token"] = refresh_token.into();
            }
            answer(StatusCode::OK, &body)
        }
        Err(refusal) => refusal.into_response(),
    }
}

pub(super) fn call(at: At, path: &str, headers: &HeaderMap, params: &Params, credential: Option<&str>) -> Call {
    Call {
        at,
        method: "POST".to_owned(),
        path: path.to_owned(),
        client_id: basic(headers).map(|(id, _)| id).or_else(|| params.find("client_id").map(str::to_owned)),
        credential_sha256: credential.map(fingerprint),
    }
}

/// The form of a POST; nothing may stand in the query, where it would be logged (RFC 6749 section 2.3.1).
pub(super) fn form(headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Result<Params, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::request("the body must be form-encoded"));
    }
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Refusal::request("parameters belong in the body, not in the URL"));
    }
    Params::parse(body)
}

/// Who calls (RFC 6749 section 2.3.1).
pub(super) fn authenticate(world: &World, headers: &HeaderMap, params: &Params) -> Result<Client, Refusal> {
    let wrong = || Refusal::new("invalid_client", "the client is unknown, or its secret is wrong");
    let in_header = headers.contains_key(header::AUTHORIZATION);
    let in_body = params.find("client_secret").is_some();
    if in_header && in_body {
        return Err(Refusal::request("the client proves itself twice"));
    }
    let (id, secret) = match in_header {
        true => basic(headers).map(|(id, secret)| (id, Some(secret))).ok_or_else(wrong)?,
        false => (params.need("client_id")?.to_owned(), params.find("client_secret").map(str::to_owned)),
    };
    if params.find("client_id").is_some_and(|named| named != id) {
        return Err(Refusal::request("`client_id` is not the client that proves itself"));
    }
    let client = world.with(|state, _| state.clients.get(&id).cloned()).ok_or_else(wrong)?;
    let fits = match (client.client_secret.as_deref(), secret.as_deref()) {
        (Some(known), Some(given)) => world::same(known, given),
        (None, None | Some("")) => true,
        _ => false,
    };
    let way = match client.settings.client_auth {
        _ if client.client_secret.is_none() => true,
        ClientAuth::Any => true,
        ClientAuth::Basic => in_header,
        ClientAuth::Body => !in_header,
    };
    if fits && way { Ok(client) } else { Err(wrong()) }
}

/// Id and secret of a Basic header. Each is form-encoded before Base64.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let plain = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(|text| text.into_owned());
    Some((plain(id)?, plain(secret)?))
}
