//! The API: a small social network, and routes that show what a caller sent or that are hard to pass through.
//!
//! Every route wants a live bearer token, except `/api/echo`, which says whether there was one, and `/api/key`.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, OriginalUri, Path, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{
    ACCESS_PREFIX, API_KEY, CODE_PREFIX, REFRESH_PREFIX,
    routes::{answer, bearer},
    settings::Person,
    tokens::{Live, Refusal},
    world::{self, World, fingerprint, hex},
};

/// Headers whose value is a credential by its nature.
const SECRET_HEADERS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
/// Query parameters whose value is a credential by its nature.
const SECRET_PARAMS: [&str; 4] = ["access_token", "apikey", "api_key", "client_secret"];
/// The longest post, in bytes.
const LONGEST_POST: usize = 1000;
/// The longest body of a JSON request.
const LONGEST_JSON: usize = 64 << 10;
/// The most bytes that `/api/bytes` sends.
const MOST_BYTES: u64 = 4 << 30;

/// A caller with a live access token.
pub(super) struct Caller(Live);

impl FromRequestParts<Arc<World>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, world: &Arc<World>) -> Result<Self, Response> {
        let Some(token) = bearer(&parts.headers) else {
            // No credential, no error code (RFC 6750 section 3.1).
            let mut response = answer(StatusCode::UNAUTHORIZED, &json!({ "error": "no_token" }));
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="lab""#));
            return Err(response);
        };
        world
            .with(|state, now| state.tokens.live(token, now))
            .map(Caller)
            .ok_or_else(|| Refusal::new("invalid_token", "the access token is unknown, revoked or expired").into_response())
    }
}

impl Caller {
    fn needs(&self, scope: &str) -> Result<(), Refusal> {
        match self.0.scope.split(' ').any(|known| known == scope) {
            true => Ok(()),
            false => Err(Refusal::new("insufficient_scope", format!("the scope {scope} is needed"))),
        }
    }
}

/// `GET /api/me`.
pub(super) async fn me(Caller(live): Caller) -> Response {
    let Person { id, username, name, .. } = live.person;
    answer(StatusCode::OK, &json!({ "id": id, "username": username, "name": name, "scope": live.scope, "app": live.client_id }))
}

/// What the caller sent, without the credentials in it: of those it says only whether they were there.
pub(super) async fn echo(State(world): State<Arc<World>>, OriginalUri(uri): OriginalUri, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let token = bearer(&parts.headers);
    let live = token.is_some_and(|token| world.with(|state, now| state.tokens.live(token, now)).is_some());
    let authorization = json!({
        "present": parts.headers.contains_key(header::AUTHORIZATION),
        "count": parts.headers.get_all(header::AUTHORIZATION).iter().count(),
        "bearer": token.is_some(),
        "live": live,
    });
    let headers: Vec<Value> =
        parts.headers.iter().map(|(name, value)| json!([name.as_str(), shown_header(name, value)])).collect();
    let Measured { length, sha256, whole, trailers } = measure(body).await;
    let trailers: Vec<Value> = trailers.iter().map(|(name, value)| json!([name.as_str(), shown_header(name, value)])).collect();
    answer(
        StatusCode::OK,
        &json!({
            "method": parts.method.as_str(),
            "path": uri.path(),
            "query": uri.query().map(shown_query),
            "version": format!("{:?}", parts.version),
            "headers": headers,
            "authorization": authorization,
            "body": { "length": length, "sha256": sha256, "complete": whole, "trailers": trailers },
        }),
    )
}

/// What is known of a body that was not kept.
struct Measured {
    length: u64,
    sha256: String,
    /// Whether the end was reached.
    whole: bool,
    trailers: HeaderMap,
}

/// Reads a body to its end without keeping it.
async fn measure(mut body: Body) -> Measured {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let (mut length, mut whole, mut trailers) = (0, true, HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => {
                length += piece.len() as u64;
                context.update(&piece);
            }
            Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Measured { length, sha256: hex(context.finish().as_ref()), whole, trailers }
}

fn shown_header(name: &HeaderName, value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    shown(SECRET_HEADERS.contains(&name.as_str()), &text)
}

fn shown_query(query: &str) -> String {
    let parts: Vec<String> = query
        .split('&')
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let plain: String = form_urlencoded::parse(part.as_bytes()).map(|(_, value)| value.into_owned()).collect();
            match shown(SECRET_PARAMS.contains(&name), &plain) {
                same if same == plain => part.to_owned(),
                _ if value.is_empty() => name.to_owned(),
                hidden => format!("{name}={hidden}"),
            }
        })
        .collect();
    parts.join("&")
}

/// A value, or its fingerprint where it is or holds a credential of the lab.
fn shown(secret: bool, text: &str) -> String {
    let holds_one = [ACCESS_PREFIX, REFRESH_PREFIX, CODE_PREFIX, API_KEY].iter().any(|mark| text.contains(mark));
    if (secret && !text.is_empty()) || holds_one { format!("[sha256:{}]", fingerprint(text)) } else { text.to_owned() }
}

#[derive(Deserialize)]
pub(super) struct OfAuthor {
    author: Option<String>,
}

/// `GET /api/posts?author=`: newest first.
pub(super) async fn posts(
    State(world): State<Arc<World>>,
    caller: Caller,
    Query(of): Query<OfAuthor>,
) -> Result<Response, Refusal> {
    caller.needs("posts:read")?;
    let posts: Vec<Value> = world.with(|state, _| {
        state
            .posts()
            .filter(|post| of.author.as_deref().is_none_or(|author| author == post.author))
            .map(|post| json!(post))
            .collect()
    });
    Ok(answer(StatusCode::OK, &json!({ "posts": posts })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPost {
    text: String,
}

/// `POST /api/posts` with `{"text": "..."}`.
pub(super) async fn create_post(State(world): State<Arc<World>>, caller: Caller, request: Request) -> Result<Response, Refusal> {
    caller.needs("posts:write")?;
    let body = axum::body::to_bytes(request.into_body(), LONGEST_JSON).await.unwrap_or_default();
    let wrong = || Refusal::request("send JSON with `text` of 1 to 1000 bytes");
    let NewPost { text } = serde_json::from_slice(&body).map_err(|_| wrong())?;
    let text = text.trim();
    if !(1..=LONGEST_POST).contains(&text.len()) {
        return Err(wrong());
    }
    let post = world.with(|state, now| {
        let via = state.clients.get(&caller.0.client_id).map_or("", |client| client.title()).to_owned();
        state.post(caller.0.person.username, text.to_owned(), via, now)
    });
    Ok(answer(StatusCode::CREATED, &json!(post)))
}

#[derive(Deserialize)]
pub(super) struct Pace {
    #[serde(default = "some_ms")]
    ms: u64,
    #[serde(default = "some_pieces")]
    n: u32,
}

fn some_ms() -> u64 {
    100
}

fn some_pieces() -> u32 {
    10
}

/// `GET /api/stream?ms=&n=`: `n` numbered lines, one every `ms` milliseconds.
pub(super) async fn stream(State(world): State<Arc<World>>, _caller: Caller, Query(pace): Query<Pace>) -> Response {
    let (pause, last) = (Duration::from_millis(pace.ms.min(60_000)), pace.n.min(100_000));
    let lines = stream::unfold(0, move |number| {
        let world = world.clone();
        async move {
            if number == last {
                return None;
            }
            if number > 0 {
                world.pause(pause).await;
            }
            let number = number + 1;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(format!("line {number}\n"))), number))
        }
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(lines)).into_response()
}

#[derive(Deserialize)]
pub(super) struct Amount {
    n: u64,
}

/// `GET /api/bytes?n=`: so many bytes with a `Content-Length`, of which the one at `i` is `i % 251`.
pub(super) async fn bytes(_caller: Caller, Query(Amount { n }): Query<Amount>) -> Response {
    // A prime length, so that a piece lost or doubled anywhere changes what follows.
    const PERIOD: usize = 251;
    if n > MOST_BYTES {
        return Refusal::request("at most 4 GiB").into_response();
    }
    let pattern: Vec<u8> = (0..PERIOD * 256).map(|at| u8::try_from(at % PERIOD).unwrap_or(0)).collect();
    let pattern = Bytes::from(pattern);
    let pieces = stream::unfold(n, move |left| {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(pattern.len());
        let piece = pattern.slice(..length);
        async move { (left > 0).then(|| (Ok::<_, std::convert::Infallible>(piece), left - length as u64)) }
    });
    let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, n.to_string())];
    (headers, Body::from_stream(pieces)).into_response()
}

#[derive(Deserialize)]
pub(super) struct Challenge {
    challenge: Option<String>,
}

/// `ANY /api/status/{code}?challenge=`: that status; with a 401 that challenge, or the plainest.
pub(super) async fn status(_caller: Caller, Path(code): Path<u16>, Query(Challenge { challenge }): Query<Challenge>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(status) if matches!(code, 204 | 205 | 304) => status.into_response(),
        Ok(status) if code >= 200 => {
            let mut response = answer(status, &json!({ "status": code }));
            if status == StatusCode::UNAUTHORIZED {
                // RFC 9110 section 15.5.2.
                let challenge = challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok());
                let challenge = challenge.unwrap_or(HeaderValue::from_static("Bearer"));
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
        _ => Refusal::request("a status from 200 to 999").into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Target {
    to: String,
    #[serde(default = "found")]
    status: u16,
}

fn found() -> u16 {
    302
}

/// `ANY /api/redirect?to=&status=`.
pub(super) async fn redirect(_caller: Caller, Query(target): Query<Target>) -> Response {
    match (StatusCode::from_u16(target.status), HeaderValue::from_str(&target.to)) {
        (Ok(status), Ok(to)) if status.is_redirection() => (status, [(header::LOCATION, to)]).into_response(),
        _ => Refusal::request("`to` is a location, `status` is 3xx").into_response(),
    }
}

/// `GET /api/set-cookie`: headers that must not reach a browser on the broker's origin.
pub(super) async fn set_cookie(_caller: Caller) -> Response {
    let mut response = answer(StatusCode::OK, &json!({ "cookies": 2 }));
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, HeaderValue::from_static("lab_session=one; Path=/"));
    headers.append(header::SET_COOKIE, HeaderValue::from_static("lab_other=two; Path=/; HttpOnly"));
    headers.insert("clear-site-data", HeaderValue::from_static(r#""cookies", "storage""#));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src *"));
    response
}

/// `GET /api/html`: a page that would run a script.
pub(super) async fn html(_caller: Caller) -> Response {
    let page = "<!doctype html><title>Lab</title><script>document.title = 'the script ran'</script><p>Hello";
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// `ANY /api/echo-credential`: tells the caller its own credential, in headers and in the body. A broker must not let
/// an agent come here.
pub(super) async fn echo_credential(caller: Caller, headers: HeaderMap) -> Response {
    let token = bearer(&headers).unwrap_or_default();
    let mut response = answer(StatusCode::OK, &json!({ "you_sent": token, "person": caller.0.person.username }));
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert("x-your-credential", value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}; seen")) {
        response.headers_mut().insert("x-your-authorization", value);
    }
    response
}

/// `GET /api/trailers`: a chunked body with trailers, one of which tells the caller its own credential. HTTP/1.1 carries them
/// only to callers that send `TE: trailers`.
pub(super) async fn trailers(_caller: Caller, headers: HeaderMap) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-lab-trailer", HeaderValue::from_static("the end"));
    trailers.insert("set-cookie", HeaderValue::from_static("lab_trailer=1"));
    if let Ok(value) = HeaderValue::from_str(bearer(&headers).unwrap_or_default()) {
        trailers.insert("x-your-credential", value);
    }
    let frames = [Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"body\n"))), Ok(Frame::trailers(trailers))];
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    ([(header::CONTENT_TYPE, "text/plain"), (header::TRAILER, "x-lab-trailer, x-your-credential, set-cookie")], body)
        .into_response()
}

/// `ANY /api/key`: a static key in the header `x-api-key` or in the query parameter `apikey`.
pub(super) async fn key(OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    let in_header =
        headers.get("x-api-key").and_then(|value| value.to_str().ok()).is_some_and(|value| world::same(value, API_KEY));
    let mut params = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let in_query = params.any(|(name, value)| name == "apikey" && world::same(&value, API_KEY));
    match (in_header, in_query) {
        (false, false) => answer(StatusCode::UNAUTHORIZED, &json!({ "error": "the key is missing or wrong" })),
        (in_header, _) => answer(StatusCode::OK, &json!({ "key": if in_header { "header" } else { "query" } })),
    }
}
