//! Signing in on another device (RFC 8628), the list of a person's pages, and the registering of apps.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    fault::At,
    params::Params,
    records::Call,
    routes::{
        answer, bearer, pages,
        token::{authenticate, call, form},
        visit,
    },
    settings::{Client, Person},
    tokens::Refusal,
    world::{World, fingerprint, random_text},
};

/// The pages of everybody: id and name.
static PAGES: [(&str, &str); 3] = [("p1", "Bakery"), ("p2", "Garden"), ("p3", "Workshop")];

/// `POST /device/authorize` (RFC 8628 section 3.1).
pub(super) async fn authorize(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = form(&headers, query.as_deref(), &body);
    let seen = params.clone().unwrap_or_default();
    let call = call(At::Device, "/device/authorize", &headers, &seen, None);
    visit::act(&world, call, move |world, _| {
        let codes = params.and_then(|params| {
            let client = authenticate(world, &headers, &params)?;
            let scope = params.find("scope").unwrap_or("profile");
            world.with(|state, now| state.tokens.device(&client, scope, now))
        });
        match codes {
            Ok(codes) => {
                let uri = format!("{}/device", world.origin);
                answer(
                    StatusCode::OK,
                    &json!({
                        "device_code": codes.device_code, "user_code": codes.user_code, "verification_uri": uri,
                        "verification_uri_complete": format!("{uri}?user_code={}", codes.user_code),
                        "expires_in": codes.expires_in, "interval": codes.interval,
                    }),
                )
            }
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `GET /device`: where a person types the code in.
pub(super) async fn ask(RawQuery(query): RawQuery) -> Response {
    match Params::parse(query.unwrap_or_default().as_bytes()) {
        Ok(params) => pages::device(params.find("user_code").unwrap_or_default()),
        Err(refusal) => pages::error(&refusal.description),
    }
}

/// `POST /device`: the page's form.
pub(super) async fn decide(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let params = match Params::parse(&body) {
        Ok(params) => params,
        Err(refusal) => return pages::error(&refusal.description),
    };
    let person = match params.find("decision") {
        Some("approve") => match params.find("person").and_then(Person::named) {
            Some(person) => Some(person),
            None => return pages::error("choose who signs in"),
        },
        _ => None,
    };
    let user_code = params.find("user_code").unwrap_or_default();
    match world.with(|state, now| state.tokens.answer_device(user_code, person, now)) {
        true => pages::told("The device knows. You may close this page."),
        false => pages::error("there is no such code, or its time is over"),
    }
}

/// `GET /pages`: the pages of the person whose token it is, each with a token of its own. With `limit` at most so many of them,
/// from behind the one that `after` names; the answer says behind which one the next begin.
pub(super) async fn pages_of(State(world): State<Arc<World>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let params = match Params::parse(query.unwrap_or_default().as_bytes()) {
        Ok(params) => params,
        Err(refusal) => return refusal.into_response(),
    };
    let limit = params.find("limit").and_then(|limit| limit.parse::<usize>().ok());
    let after = params.find("after").map(str::to_owned);
    let token = bearer(&headers).map(str::to_owned);
    let seen = Call {
        at: At::Pages,
        method: "GET".to_owned(),
        path: "/pages".to_owned(),
        client_id: None,
        credential_sha256: token.as_deref().map(fingerprint),
    };
    visit::act(&world, seen, move |world, _| {
        let pages = world.with(|state, now| {
            let live = token.and_then(|token| state.tokens.live(&token, now));
            let live = live.ok_or_else(|| Refusal::new("invalid_token", "the access token is missing, unknown or expired"))?;
            let gone = state.gone_pages.clone();
            let mut pages = Vec::new();
            let begin = after.and_then(|after| PAGES.iter().position(|(id, _)| *id == after)).map_or(0, |at| at + 1);
            let listed = PAGES[begin..].iter().filter(|(id, _)| !gone.iter().any(|gone| gone == id));
            for (id, name) in listed.take(limit.unwrap_or(PAGES.len())) {
                pages.push(json!({ "id": id, "name": name, "access_token": state.tokens.page(&live, id, now)? }));
            }
            Ok::<_, Refusal>(pages)
        });
        match pages {
            Ok(pages) => {
                let last = pages.last().filter(|_| limit.is_some()).map(|page| page["id"].clone());
                let paging = last.map(|after| json!({ "cursors": { "after": after } }));
                answer(StatusCode::OK, &json!({ "data": pages, "paging": paging }))
            }
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}

/// `POST /register`: makes an app for whoever asks, as servers of a network of many do (RFC 7591 and before).
pub(super) async fn register(
    State(world): State<Arc<World>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = form(&headers, query.as_deref(), &body);
    let call = call(At::Register, "/register", &headers, &Params::default(), None);
    visit::act(&world, call, move |world, _| {
        let made = params.and_then(|params| {
            let redirect_uri = params.need("redirect_uris")?.to_owned();
            let (id, secret) = (format!("lab-app-{}", random_text()?), random_text()?);
            let client = Client {
                name: params.need("client_name")?.to_owned(),
                redirect_uris: vec![redirect_uri],
                ..Client::new(&id, &secret)
            };
            world.with(|state, _| state.clients.insert(id.clone(), client));
            Ok((id, secret))
        });
        match made {
            Ok((id, secret)) => answer(StatusCode::CREATED, &json!({ "client_id": id, "client_secret": secret })),
            Err(refusal) => refusal.into_response(),
        }
    })
    .await
}
