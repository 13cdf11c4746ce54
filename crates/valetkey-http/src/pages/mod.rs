//! The pages: what a person sees while connecting an account, the callback that providers send browsers to, signing in, and
//! what is a signed-in person's own.
//!
//! | route | |
//! |---|---|
//! | `GET /` | what this is; a signed-in person's accounts and agents |
//! | `GET /signin` | where to sign in |
//! | `POST /signin` | the platform's assertion for this browser, from the platform's page |
//! | `POST /signout` | the end of the session, or of all of the person's |
//! | `POST /account/grants/{grant}/revoke` | the owner takes a permission back |
//! | `POST /account/programs/{consent}/end` | the person ends what they let a program do |
//! | `GET /account/connections/{connection}/disconnect` | the question whether to end an account |
//! | `POST /account/connections/{connection}/disconnect` | the owner ends it, with a fresh proof |
//! | `GET /account/connections/{connection}/reconnect` | the question whether to connect an account again |
//! | `POST /account/connections/{connection}/reconnect` | a link for that is made, and leads on |
//! | `GET /approvals` | what waits for the person's word |
//! | `GET /approvals/{id}` | a call that waits for it |
//! | `POST /approvals/{id}` | yes, with a fresh proof, or no |
//! | `GET /proposals/{id}` | what an agent asks the person for |
//! | `POST /proposals/{id}` | what the person made of it, with a fresh proof, or no |
//! | `GET /connect/{link}` | the page behind a link: who is linked to what, and the question |
//! | `POST /connect/{link}` | the platform's assertion for this browser, or the person's answer: yes, no, or what they entered |
//! | `GET /callback/{provider}` | the way back from the provider; always redirects, so that the code leaves the URL |
//! | `GET /connect/device/{site}/{session}` | the code for a sign-in on another device, until that is over |
//! | `GET /connect/choose/{site}/{session}` | the provider's lists, where the person has to choose |
//! | `POST /connect/choose/{site}/{session}` | the person's choice |
//! | `GET /connect/done` | the outcome, where a session has no `return_to` |
//!
//! Pages are made on the server and hold no script. They are not framed, not cached, and send no referrer. Nothing here
//! decides: each handler takes a request apart, asks one function of the library, and shows the answer.

mod account;
pub(crate) mod answer;
mod approvals;
mod choose;
pub(crate) mod cookies;
mod device;
mod enter;
pub(crate) mod form;
mod outcome;
pub(crate) mod signin;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRef, Path, RawQuery, Request, State},
    middleware::{Next, from_fn, map_response},
    response::Response,
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use tokio_util::task::TaskTracker;
use url::Url;
use valetkey::{
    Code, Error, Result,
    base::Outside,
    clock::Timestamp,
    connect::{self, Binding, session, session::Proof, session::View},
    id::ProviderName,
    principal::Owner,
    secret::{Secret, SecretMap},
};

use self::{
    answer::{Forms, page, redirect, secured, style},
    cookies::Cookies,
};
use crate::{
    error::{Logged, status},
    extract, signed_in,
};

/// The largest form, in bytes: a field is at most 32 KiB, and encoding may make a key file half as long again.
const MAX_FORM: usize = 64 * 1024;
/// How long a browser may choose from the provider's lists, in seconds.
const CHOICE_AGE: u64 = 30 * 60;

/// What the pages stand on.
#[derive(Clone)]
pub struct Deps {
    /// The broker's way outside.
    pub outside: Outside,
    /// Where flows that are being finished run. Shutdown closes it and waits, so that no issued token is lost.
    pub tasks: TaskTracker,
}

impl FromRef<Deps> for Outside {
    fn from_ref(deps: &Deps) -> Self {
        deps.outside.clone()
    }
}

/// The pages and the callback.
pub fn router(deps: Deps) -> Router {
    Router::new()
        .route("/", get(account::home))
        .route("/signin", get(signin::show).post(signin::sign_in))
        .route("/signout", post(signin::sign_out))
        .route("/account/grants/{grant}/revoke", post(account::take_back))
        .route("/account/programs/{consent}/end", post(account::end_program))
        .route("/account/connections/{connection}/disconnect", get(account::ask_disconnect).post(account::disconnect))
        .route("/account/connections/{connection}/reconnect", get(account::ask_reconnect).post(account::reconnect))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{id}", get(approvals::show).post(approvals::answer))
        .route("/proposals/{id}", get(approvals::show_proposal).post(approvals::answer_proposal))
        .route("/assets/page.css", get(style))
        .route("/connect/done", get(outcome::done))
        .route("/connect/device/{site}/{session}", get(device::show))
        .route("/connect/choose/{site}/{session}", get(choose::show).post(choose::take))
        .route("/connect/{link}", get(open).post(answer_form).head(head_refused))
        .route("/callback/{provider}", get(callback).head(head_refused))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(from_fn(timely))
        // What is refused before a handler sees it is no page, and is guarded like one.
        .layer(map_response(|response: Response| async { secured(response, &Forms::None) }))
        .with_state(deps)
}

/// Reads a form before anything is done with it, and not for ever: who sends slowly holds no connection open, of which there are so
/// many.
pub(crate) async fn timely(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match extract::whole(body, MAX_FORM).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(error) => failed(error),
    }
}

/// A look that asks for the head alone must not use up a flow.
async fn head_refused() -> Response {
    failed(Error::new(Code::MethodRefused, "this address does not take that method"))
}

#[derive(Template)]
#[template(path = "consent.html")]
struct Consent {
    view: View,
    csrf: Secret,
    action: String,
    is_site: bool,
    reach: String,
    returns_to: Option<String>,
    until: String,
}

#[derive(Template)]
#[template(path = "proof.html")]
struct NeedsProof {
    view: View,
    sign_in: Option<String>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct Failed<'a> {
    message: &'a str,
    code: &'static str,
}

/// `GET /connect/{link}`
async fn open(State(deps): State<Deps>, Path(link): Path<String>, headers: HeaderMap) -> Response {
    let link = Secret::new(link);
    let cookies = Cookies::new(&deps.outside, &headers);
    let known = cookies.visit(&session::visit_key(&link));
    let visited = async {
        match signed_in::current(&deps.outside, &headers).await? {
            Some(who) => session::visit_signed_in(&deps.outside, &link, known.as_ref(), &who.session).await,
            None => session::visit(&deps.outside, &link, known.as_ref()).await,
        }
    };
    match visited.await {
        Ok(visit) if visit.csrf.is_some() && visit.view.inputs.is_some() => {
            enter::show(&link, visit, &cookies).unwrap_or_else(|| failed(Error::internal("a form without fields")))
        }
        Ok(visit) => {
            let Some(csrf) = visit.csrf else { return needs_proof(&deps, &link, visit.view).await };
            let forms = forms_of(&visit.view);
            let consent = Consent {
                action: format!("/connect/{}", link.expose()),
                is_site: visit.view.owner == Owner::Site,
                reach: reach(&visit.view),
                returns_to: visit.view.return_to.as_deref().and_then(host_of),
                until: minute(visit.view.expires_at),
                view: visit.view,
                csrf,
            };
            let mut response = page(StatusCode::OK, &consent, &forms);
            if let Some(fresh) = visit.fresh {
                cookies.set_visit(&mut response, &fresh);
            }
            response
        }
        Err(error) => failed(error),
    }
}

/// The page of a link that asks who is looking: signing in answers that, too.
async fn needs_proof(deps: &Deps, link: &Secret, view: View) -> Response {
    let path = format!("/connect/{}", link.expose());
    match signed_in::link(&deps.outside, Some(&view.site), &path, false).await {
        Ok(sign_in) => page(StatusCode::OK, &NeedsProof { view, sign_in }, &Forms::None),
        Err(error) => failed(error),
    }
}

/// `POST /connect/{link}`: `assertion` from the platform's page, or `csrf` and `decision` from ours, perhaps with `field.NAME`s.
async fn answer_form(State(deps): State<Deps>, Path(link): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let link = Secret::new(link);
    let cookies = Cookies::new(&deps.outside, &headers);
    match take_answer(&deps, &link, &headers, &cookies, &body).await {
        Ok(response) => response,
        Err(error) => failed(error),
    }
}

async fn take_answer(deps: &Deps, link: &Secret, headers: &HeaderMap, cookies: &Cookies, body: &[u8]) -> Result<Response> {
    let form = Form::read(headers, body)?;
    if let Some(assertion) = form.assertion {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.next() {
            // What is no text, or comes twice, is nobody's.
            let origin = origin.to_str().ok().filter(|_| origins.next().is_none()).unwrap_or_default();
            session::check_origin(&deps.outside, link, origin).await?;
        }
        let fresh = session::prove(&deps.outside, link, &assertion).await?;
        let mut response = redirect(&format!("/connect/{}", link.expose()))?;
        cookies.set_visit(&mut response, &fresh);
        return Ok(response);
    }
    let incomplete = || Error::new(Code::InvalidRequest, "the form is not complete; open the link again");
    let (csrf, decision) = (form.csrf.ok_or_else(incomplete)?, form.decision.ok_or_else(incomplete)?);
    let key = session::visit_key(link);
    let visit = cookies.visit(&key);
    let mut response = match decision {
        Decision::Enter => return enter::answer(deps, link, cookies, &csrf, form.fields).await,
        Decision::Approve => {
            let started = session::approve(&deps.outside, link, visit.as_ref(), &csrf).await?;
            // The code's way back is bound to this browser only now, after the person's word (R4).
            let mut response = redirect(started.authorize_url.expose())?;
            cookies.set_flow(&mut response, &started.binding, started.max_age);
            response
        }
        Decision::Cancel => {
            let ended = session::cancel(&deps.outside, link, visit.as_ref(), &csrf).await?;
            redirect(&outcome::target(&ended))?
        }
    };
    cookies.clear_visit(&mut response, &key);
    Ok(response)
}

/// `GET /callback/{provider}`
async fn callback(
    State(deps): State<Deps>,
    Path(provider): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let cookies = Cookies::new(&deps.outside, &headers);
    let parsed = provider.parse::<ProviderName>().map_err(|_| Code::NotFound).and_then(|provider| {
        let answer = connect::Answer::parse(query.as_deref().unwrap_or_default()).map_err(|error| error.code())?;
        Ok((provider, answer))
    });
    // A refusal redirects too: whatever the browser brought along shall not stay in its address bar.
    let (location, key, kept) = match parsed {
        Ok((provider, answer)) => {
            let key = deps.outside.definition(&provider).ok().and_then(|definition| answer.binding_key(&definition));
            let binding = key.as_deref().and_then(|key| cookies.flow(key));
            let ended = connect::callback(&deps.outside, &deps.tasks, &provider, answer, binding.clone()).await;
            // The page on which the person chooses belongs to this browser, too.
            let kept = ended.choose.as_ref().zip(binding);
            let kept = kept.map(|((_, session), value)| Binding { key: connect::session_key(session), value });
            (outcome::target(&ended), key, kept)
        }
        Err(code) => (outcome::failure(code), None, None),
    };
    match redirect(&location) {
        Ok(mut response) => {
            if let Some(key) = key {
                cookies.clear_flow(&mut response, &key);
            }
            if let Some(binding) = kept {
                cookies.set_flow(&mut response, &binding, CHOICE_AGE);
            }
            response
        }
        Err(error) => failed(error),
    }
}

/// A fault as a page. What only the log may know goes there.
pub(crate) fn failed(error: Error) -> Response {
    let page_of = Failed { message: error.message(), code: error.code().as_str() };
    let mut response = page(status(error.code()), &page_of, &Forms::None);
    response.extensions_mut().insert(Logged(Arc::new(error)));
    response
}

/// What a person says in a form.
#[derive(Clone, Copy)]
enum Decision {
    Approve,
    Enter,
    Cancel,
}

#[derive(Default)]
struct Form {
    assertion: Option<Secret>,
    csrf: Option<Secret>,
    decision: Option<Decision>,
    fields: SecretMap,
}

impl Form {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self> {
        let odd = |why: &'static str| Error::new(Code::InvalidRequest, why);
        let mut form = Self::default();
        for (name, value) in form::pairs(headers, body)? {
            let twice = match &*name {
                "assertion" => form.assertion.replace(Secret::new(value.into_owned())).is_some(),
                "csrf" => form.csrf.replace(Secret::new(value.into_owned())).is_some(),
                "decision" => {
                    let decision = match &*value {
                        "approve" => Decision::Approve,
                        "enter" => Decision::Enter,
                        "cancel" => Decision::Cancel,
                        _ => return Err(odd("a decision is approve or cancel")),
                    };
                    form.decision.replace(decision).is_some()
                }
                name => match name.strip_prefix("field.") {
                    Some(field) => form.fields.expose_mut().insert(field.to_owned(), value.into_owned().into()).is_some(),
                    None => false,
                },
            };
            if twice {
                return Err(odd("the form names a field twice"));
            }
        }
        Ok(form)
    }
}

/// Who will be able to act as the account, where it will belong to no person.
fn reach(view: &View) -> String {
    match &view.owner {
        Owner::Site => format!(
            "The account will belong to the site itself: whoever {} lets use it will act as the account you sign in with.",
            view.site_title
        ),
        Owner::Agent(_) => format!(
            "The account will belong to the agent itself: {} will act as the account you sign in with, also while nobody watches.",
            view.owner_words
        ),
        Owner::User(_) => format!("{} will be able to use the account you sign in with.", view.owner_words),
    }
}

/// Where the page's form may lead, by way of redirects: to the provider, and from there back and on to `return_to`.
fn forms_of(view: &View) -> Forms {
    let mut origins = vec![view.authorize_origin.clone()];
    origins.extend(view.return_to.as_deref().and_then(origin_of));
    Forms::To(origins)
}

fn origin_of(url: &str) -> Option<String> {
    Some(Url::parse(url).ok()?.origin().ascii_serialization())
}

/// A moment to the minute, for people: `2026-05-03 14:06 UTC`.
fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} UTC", text.get(..16).unwrap_or(&text).replace('T', " "))
}

fn host_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_form_that_does_not_come_is_not_waited_for() {
        let router = Router::new().route("/", post(|body: Bytes| async move { body })).layer(from_fn(timely));
        let form = Request::post("/").body(Body::from("csrf=x")).unwrap();
        assert_eq!(router.clone().oneshot(form).await.unwrap().status(), StatusCode::OK);
        for (body, status) in [
            (Body::from_stream(stream::pending::<io::Result<Bytes>>()), StatusCode::BAD_REQUEST),
            (Body::from(vec![b'x'; MAX_FORM + 1]), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let answer = router.clone().oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
            assert_eq!(answer.status(), status);
        }
    }
}
