//! The endpoints that programs call.

use std::{future::Future, net::IpAddr, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use valetkey::{
    Error,
    id::SiteId,
    oauth::{Asker, Fault, Issued, Outcome, Params, Presented, Word},
    principal::CallerChain,
};

use super::fault::{Refusal, answer};
use crate::{edge::ClientIp, extract::MAX_BODY, signed_in::named_site, state::AppState};

/// How long a form may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A request to an endpoint.
pub(super) struct Asked {
    params: Params,
    authorization: Authorization,
    /// The agents that the call came through, as it claims; an error where the headers cannot be read.
    chain: Result<CallerChain, Error>,
    ip: Option<IpAddr>,
}

/// What came in the `Authorization` header.
enum Authorization {
    None,
    One(String),
    /// Several, or one that is no text: which one would count is not ours to choose.
    Odd,
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(odd("the parameters go into the body: an address is logged").into());
        }
        let form = content_type(&parts.headers).eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if !form {
            return Err(odd("the body is a form: application/x-www-form-urlencoded").into());
        }
        let params = Params::parse(&read(body).await?)?;
        let (authorization, chain) = (Authorization::of(&parts.headers), CallerChain::from_headers(&parts.headers));
        Ok(Self { params, authorization, chain, ip: ip(&parts.extensions) })
    }
}

impl Asked {
    /// What the caller says of itself.
    fn presented(&self) -> Outcome<Presented> {
        match &self.authorization {
            Authorization::None => Presented::read(None, &self.params),
            Authorization::One(header) => Presented::read(Some(header), &self.params),
            Authorization::Odd => Err(Fault::new(Word::InvalidClient, "the Authorization header cannot be read")),
        }
    }
}

impl Authorization {
    fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next().map(HeaderValue::to_str), values.next()) {
            (None, _) => Self::None,
            (Some(Ok(text)), None) => Self::One(text.to_owned()),
            _ => Self::Odd,
        }
    }
}

/// `POST /oauth/token`
pub(super) async fn token(State(state): State<AppState>, asked: Asked) -> Response {
    let work = async {
        let client = state.oauth().client(&asked.presented()?).await?;
        let chain = asked.chain.as_ref().map_err(Error::clone)?;
        state.oauth().token(&client, &asked.params, chain).await.map(issued)
    };
    attempt(&state, &asked, work).await
}

/// `POST /oauth/device_authorization`
pub(super) async fn begin_device(State(state): State<AppState>, asked: Asked) -> Response {
    let work = async {
        let client = state.oauth().client(&asked.presented()?).await?;
        // Each makes a row, and anybody can name a client without a secret: who begins many waits as who fails often does.
        let ip = asked.ip.filter(|_| !client.confidential);
        if let Some(wait) = ip.and_then(|ip| state.failures().devices.note(ip)) {
            return Ok(Told::TooMany(wait));
        }
        let begun = state.oauth().begin_device(&client, &asked.params).await?;
        Ok::<_, Fault>(Told::Json(json!({
            "device_code": begun.device_code.expose(),
            "user_code": begun.user_code,
            "verification_uri": begun.verification_uri,
            "verification_uri_complete": begun.verification_uri_complete,
            "expires_in": begun.expires_in,
            "interval": begun.interval,
        })))
    };
    attempt(&state, &asked, work).await
}

/// `POST /oauth/revoke`
pub(super) async fn revoke(State(state): State<AppState>, asked: Asked) -> Response {
    let work = async {
        let client = state.oauth().client(&asked.presented()?).await?;
        state.oauth().revoke(&client, &asked.params).await.map(|()| Value::Null)
    };
    match attempt(&state, &asked, work).await {
        // The body says nothing (RFC 7009 section 2.2).
        response if response.status() == StatusCode::OK => {
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(header::CONTENT_TYPE);
            Response::from_parts(parts, Body::empty())
        }
        refused => refused,
    }
}

/// `POST /oauth/introspect`
pub(super) async fn introspect(State(state): State<AppState>, asked: Asked) -> Response {
    let work = async {
        let asker = state.oauth().asker(&asked.presented()?).await?;
        let key = match &asker {
            Asker::Platform(key) => key.id.to_string(),
            Asker::Client(client) => client.id.to_string(),
        };
        let inspected = state.oauth().introspect(&asker, &asked.params).await?;
        // Whoever brings a resource server any number of false tokens must not have it refuse the right ones.
        if !inspected.is_active()
            && let Some(wait) = state.failures().unknown_tokens.note(&key)
        {
            return Ok(Told::TooMany(wait));
        }
        serde_json::to_value(inspected).map(Told::Json).map_err(|error| Fault::Failed(Error::internal(error)))
    };
    attempt(&state, &asked, work).await
}

/// `POST /oauth/register`
pub(super) async fn register(State(state): State<AppState>, request: Request) -> Response {
    let registered = async {
        let (parts, body) = request.into_parts();
        let site: Option<SiteId> = match parts.uri.query().filter(|query| !query.is_empty()) {
            None => None,
            query => Some(named_site(query).ok_or_else(|| odd("the query names a site, or nothing"))?),
        };
        // Each makes a row, so who registers many waits as who fails often does.
        if let Some(wait) = ip(&parts.extensions).and_then(|ip| state.failures().registrations.note(ip)) {
            return Err(Refusal::wait(wait));
        }
        if !content_type(&parts.headers).eq_ignore_ascii_case("application/json") {
            return Err(Fault::new(Word::InvalidClientMetadata, "the body is JSON: application/json").into());
        }
        let request = serde_json::from_slice(&read(body).await?)
            .map_err(|_| Fault::new(Word::InvalidClientMetadata, "the body is a JSON object, as RFC 7591 has it"))?;
        Ok::<_, Refusal>(state.oauth().register(site.as_ref(), request).await?)
    };
    match registered.await {
        Ok(client) => answer(StatusCode::CREATED, &client),
        Err(refusal) => refusal.into_response(),
    }
}

/// What an endpoint says.
enum Told {
    Json(Value),
    TooMany(Duration),
}

impl From<Value> for Told {
    fn from(value: Value) -> Self {
        Self::Json(value)
    }
}

/// Answers a caller, unless it failed too often: an address waits whatever it asks, a client where it fails again, so that nobody
/// can shut another one's client out.
async fn attempt<T: Into<Told>>(state: &AppState, asked: &Asked, work: impl Future<Output = Outcome<T>>) -> Response {
    let failures = state.failures();
    if let Some(wait) = asked.ip.and_then(|ip| failures.addresses.wait(ip)) {
        return Refusal::wait(wait).into_response();
    }
    let fault = match work.await.map(Into::into) {
        Ok(Told::Json(body)) => return answer(StatusCode::OK, &body),
        Ok(Told::TooMany(wait)) => return Refusal::wait(wait).into_response(),
        Err(fault) => fault,
    };
    if matches!(fault.word(), Some(Word::InvalidClient | Word::InvalidGrant)) {
        if let Some(ip) = asked.ip {
            failures.addresses.note(ip);
        }
        let client = asked.presented().ok().and_then(|presented| presented.claimed().map(|id| format!("{id:.64}")));
        if let Some(wait) = client.and_then(|id| failures.clients.note(&id)) {
            return Refusal::wait(wait).into_response();
        }
    }
    Refusal::from(fault).into_response()
}

/// The answer of RFC 6749 section 5.1.
fn issued(issued: Issued) -> Value {
    let mut body = json!({ "access_token": issued.access_token.expose(), "token_type": issued.token_type });
    if let Some(seconds) = issued.expires_in {
        body["expires_in"] = seconds.into();
    }
    if let Some(refresh) = &issued.refresh_token {
        body["refresh_token"] = refresh.expose().into();
    }
    if let Some(scope) = issued.scope {
        body["scope"] = scope.into();
    }
    if let Some(kind) = issued.issued_token_type {
        body["issued_token_type"] = kind.into();
    }
    body
}

async fn read(body: Body) -> Result<bytes::Bytes, Fault> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) => Err(odd("the body is larger than 64 KiB, or broke off")),
        Err(_) => Err(odd("the body did not arrive in time")),
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn ip(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<ClientIp>().and_then(|ClientIp(ip)| *ip)
}

fn odd(text: &'static str) -> Fault {
    Fault::new(Word::InvalidRequest, text)
}
