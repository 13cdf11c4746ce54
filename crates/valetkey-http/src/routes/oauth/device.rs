//! The page where a person types the code that another device shows (RFC 8628 section 3.3).

use std::future::Future;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::StatusCode;
use url::form_urlencoded;
use valetkey::{Code, Error, Result, oauth::metadata::path, secret::Secret};

use super::authorize::{Page, choice, says_yes};
use crate::{
    csrf,
    pages::{answer::own_page, failed},
    signed_in::{self, SignedForm, SignedIn},
    state::AppState,
};

#[derive(Template)]
#[template(path = "oauth_device.html")]
struct Ask {
    action: &'static str,
    csrf: String,
}

#[derive(Template)]
#[template(path = "oauth_done.html")]
struct Done {
    allowed: bool,
}

/// `GET /oauth/device`, perhaps with `user_code`.
pub(super) async fn show(State(state): State<AppState>, RawQuery(query): RawQuery, who: SignedIn) -> Response {
    let mut pairs = form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let code = pairs.find(|(name, _)| name == "user_code").map(|(_, value)| Secret::new(value.into_owned()));
    let shown = async {
        who.session.require_fresh(state.base().clock.now())?;
        match code.filter(|code| !code.is_empty()) {
            Some(code) => counted(&state, &who, look(&state, &who, code.expose())).await,
            None => Ok(own_page(StatusCode::OK, &Ask { action: path::DEVICE, csrf: csrf::field(&who) })),
        }
    };
    finish(&state, &who, shown.await).await
}

/// `POST /oauth/device`: the code, and what the person says once they have seen what it is about.
pub(super) async fn answer(State(state): State<AppState>, form: SignedForm) -> Response {
    let SignedForm { signed_in: who, fields } = form;
    let answered = async {
        let session = &who.session;
        session.require_fresh(state.base().clock.now())?;
        let missing = || Error::new(Code::InvalidRequest, "type the code that your device shows");
        let code = fields.one("user_code")?.filter(|code| !code.is_empty()).ok_or_else(missing)?.expose();
        if fields.one("decision")?.is_none() {
            return counted(&state, &who, look(&state, &who, code)).await;
        }
        let allowed = says_yes(&fields)?;
        match allowed {
            true => {
                let chosen = choice(&fields)?;
                let approval = state.oauth().approve_device(&session.site, &session.user, code, &chosen);
                counted(&state, &who, approval).await?;
            }
            false => counted(&state, &who, state.oauth().refuse_device(&session.site, &session.user, code)).await?,
        }
        Ok(own_page(StatusCode::OK, &Done { allowed }))
    };
    finish(&state, &who, answered.await).await
}

/// Shows what a code is about.
async fn look(state: &AppState, who: &SignedIn, code: &str) -> Result<Response> {
    let session = &who.session;
    let consent = state.oauth().device_consent(&session.site, &session.user, code).await?;
    let unknown = || Error::new(Code::NotFound, "this code is unknown, used or expired; look at your device for the present one");
    let mut page = Page::new(state.outside(), consent.ok_or_else(unknown)?, who, path::DEVICE.to_owned()).await?;
    page.user_code = Some(code.to_owned());
    Ok(own_page(StatusCode::OK, &page))
}

/// Does something with a code that a person typed. Who types wrong ones waits, whatever they want of them, yes and no included:
/// there are few enough of them to be guessed at.
async fn counted<T>(state: &AppState, who: &SignedIn, work: impl Future<Output = Result<T>>) -> Result<T> {
    let session = &who.session;
    let key = format!("{} {}", session.site, session.user);
    if let Some(wait) = state.failures().people.wait(&key) {
        let text = "too many codes were wrong; wait, then try again";
        return Err(Error::new(Code::RateLimited, text).with_retry_after(wait));
    }
    let done = work.await;
    if done.as_ref().is_err_and(|error| error.code() == Code::NotFound) {
        state.failures().people.note(&key);
    }
    done
}

async fn finish(state: &AppState, who: &SignedIn, done: Result<Response>) -> Response {
    match done {
        Ok(response) => response,
        Err(error) if error.code() == Code::FreshProofNeeded => {
            signed_in::refused(state.outside(), who, error, path::DEVICE).await
        }
        Err(error) => failed(error),
    }
}
