//! The page that shows the code for a sign-in on another device (RFC 8628 section 3.3), until that is over.
//!
//! It holds no script: the browser looks again by itself, and is led on once something came of it.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use valetkey::{
    Error, Result,
    connect::{
        self,
        device::{self, Page, Shown},
    },
};

use super::{
    Deps,
    answer::{Forms, page, redirect},
    choose::session_of,
    cookies::Cookies,
    failed, minute, outcome,
};

/// After how many seconds the browser looks again.
const LOOK_AGAIN: HeaderValue = HeaderValue::from_static("4");
const SOON: HeaderValue = HeaderValue::from_static("1");

#[derive(Template)]
#[template(path = "device.html")]
struct Waiting {
    title: String,
    owner_words: String,
    until: String,
    shown: Option<Shown>,
}

/// `GET /connect/device/{site}/{session}`
pub(super) async fn show(
    State(deps): State<Deps>,
    Path((site, session)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    match answer(&deps, &site, &session, &headers).await {
        Ok(response) => response,
        Err(error) => failed(error),
    }
}

async fn answer(deps: &Deps, site: &str, session: &str, headers: &HeaderMap) -> Result<Response, Error> {
    let (site, session) = session_of(site, session)?;
    let binding = Cookies::new(&deps.outside, headers).flow(&connect::session_key(&session));
    let (waiting, again) = match device::page(&deps.outside, &site, &session, binding.as_ref()).await? {
        Page::Over(ended) => return redirect(&outcome::target(&ended)),
        Page::Waiting { title, owner_words, shown } => {
            let until = minute(shown.expires_at);
            (Waiting { title, owner_words, until, shown: Some(shown) }, LOOK_AGAIN)
        }
        Page::Finishing { title } => (Waiting { title, owner_words: String::new(), until: String::new(), shown: None }, SOON),
    };
    let mut response = page(StatusCode::OK, &waiting, &Forms::None);
    response.headers_mut().insert("refresh", again);
    Ok(response)
}
