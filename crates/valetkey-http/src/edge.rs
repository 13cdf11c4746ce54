//! The edge: what happens to every request before and after its handler.
//!
//! 1. It gets an id, which the answer carries as `X-Request-Id` and every line of the log as `request.id`.
//! 2. `X-Forwarded-*` count only from a configured proxy (R87); from anybody else they are removed, so that nothing
//!    behind this can believe them.
//! 3. A panic becomes a 500 and a line in the log.
//! 4. One line of the log per request: method, the route's pattern, status, time, who called and from where. Never the path
//!    itself or the query, which hold ids and may hold more.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ipnet::IpNet;
use metrics::{Counter, Histogram, SharedString};
use valetkey::{Error, token::Audience};

use crate::{
    error::{Logged, Problem},
    router,
    routes::mcp,
    state::AppState,
};

/// Who is at the other end of the connection. Whoever accepts it puts this into the extensions of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP connection from this address.
    Tcp(SocketAddr),
    /// The local socket, whose other end belongs to this user of the machine.
    Local {
        /// The user's number.
        uid: u32,
    },
}

/// The mark that makes a request the operator's. Only two may put it into a request's extensions: the listener on the
/// local socket, after it saw whose process is at the other end, and the command line for its router in the same process.
/// No header does.
#[derive(Clone, Copy, Debug)]
pub struct LocalOperator;

/// The address that a request came from, as far as the proxies in front of us can be believed; absent on the local socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientIp(pub(crate) Option<IpAddr>);

/// Where whoever finds out who calls writes it down for the log.
#[derive(Clone, Default)]
pub(crate) struct CallerName(pub(crate) Arc<OnceLock<String>>);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a caller's own that is sent back, in bytes.
const LONGEST_ID: usize = 200;

pub(crate) async fn edge(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let asked_as = request.headers().get(REQUEST_ID).filter(|value| value.len() <= LONGEST_ID).cloned();
    // A call that a tool makes comes from wherever the tool was asked from. Its headers are the agent's, and as little believed.
    let asked_from = request.extensions().get::<ClientIp>().copied();
    let ip = client(&mut request, &state.http().trusted_proxies);
    let ip = asked_from.map_or(ip, |ClientIp(ip)| ip);
    let id = request_id(&request);
    request.headers_mut().remove(REQUEST_ID);
    let name = CallerName::default();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    request.extensions_mut().insert(name.clone());
    request.extensions_mut().insert(ClientIp(ip));

    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => Problem(Error::internal(format_args!("panic: {}", panic_text(panic.as_ref())))).into_response(),
    };

    // AuthZEN (its HTTPS binding, section 10) has the answer carry the id that the question came with. It goes nowhere else.
    let is_evaluation = route.starts_with("/access/v1/");
    if let Some(value) = asked_as.filter(|_| is_evaluation).or_else(|| HeaderValue::from_str(&id).ok()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    // What the proxy passes on keeps the provider's own word on it.
    let is_mcp = route == mcp::PATH;
    if (route.starts_with("/v1/") && !route.starts_with("/v1/proxy/")) || is_evaluation || is_mcp {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    let status = response.status();
    // Only where we say it: what a provider answers through the proxy asks for none of our tokens.
    if status == StatusCode::UNAUTHORIZED
        && response.extensions().get::<Logged>().is_some()
        && response.headers().get(header::WWW_AUTHENTICATE).is_some_and(|value| value == "Bearer")
    {
        let audience = if is_mcp { Audience::Mcp } else { Audience::Api };
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge(&state, audience));
    }
    if let Some(Logged(error)) = response.extensions_mut().remove::<Logged>() {
        let (code, detail) = (error.code().as_str(), error.detail().unwrap_or_default());
        if status.is_server_error() {
            tracing::error!(request.id = %id, code, detail, "{}", error.message());
        } else {
            tracing::debug!(request.id = %id, code, detail, "{}", error.message());
        }
    }
    let caller = name.0.get().map_or("nobody", String::as_str);
    let took = began.elapsed();
    tracing::info!(
        target: "valetkey_http::access",
        { request.id = %id, method = %method, route, status = status.as_u16(), micros = took.as_micros(), caller, ip = ip.map(tracing::field::display) },
        "request"
    );
    count(known(&method), route, status, took);
    response
}

/// How often there was an answer of a kind, and how long it took.
type Counted = (Counter, Histogram);

thread_local! {
    /// What this thread has counted on the API's page, by method, route and status. To find a metric by its labels again takes
    /// longer than to count.
    static COUNTED: RefCell<HashMap<(&'static str, &'static str, StatusCode), Counted>> = RefCell::default();
}

/// Counts an answer, and how long it took.
fn count(method: &'static str, route: &str, status: StatusCode, took: Duration) {
    let named = || {
        let (route, status) = (route_label(route), status_label(status));
        let requests =
            metrics::counter!("valetkey_http_requests_total", "method" => method, "route" => route.clone(), "status" => status);
        (requests, metrics::histogram!("valetkey_http_request_seconds", "route" => route))
    };
    let add = |(requests, seconds): &Counted| {
        requests.increment(1);
        seconds.record(took.as_secs_f64());
    };
    match router::path(route) {
        Some(path) => COUNTED.with_borrow_mut(|counted| add(counted.entry((method, path, status)).or_insert_with(named))),
        None => add(&named()),
    }
}

/// What a 401 says of where tokens come from (RFC 9728 section 5.1). The same for every reason.
fn challenge(state: &AppState, audience: Audience) -> HeaderValue {
    let metadata = state.oauth().resource_metadata_url(audience);
    HeaderValue::from_str(&format!("Bearer resource_metadata=\"{metadata}\", scope=\"proxy\""))
        .unwrap_or(HeaderValue::from_static("Bearer"))
}

/// The method as a label: a caller may invent any number of methods, and each label value costs memory for good.
fn known(method: &http::Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("other")
}

/// A route's pattern as a label. What is on the API's page is not copied, and that is every call of an agent.
fn route_label(route: &str) -> SharedString {
    match router::path(route) {
        Some(path) => path.into(),
        None => route.to_owned().into(),
    }
}

/// A status as a label, whatever number a provider made up.
fn status_label(status: StatusCode) -> &'static str {
    static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| (0..1000).map(|number| number.to_string()).collect());
    TEXTS.get(usize::from(status.as_u16())).map_or("other", String::as_str)
}

/// The id a trusted proxy gave, or a fresh one.
fn request_id(request: &Request) -> String {
    // What anybody else sent was removed before.
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => id.to_owned(),
        _ => uuid::Uuid::now_v7().simple().to_string(),
    }
}

/// The headers by which a proxy says for whom it speaks. As names that are read already: each is looked for in every request.
static FORWARDED: [HeaderName; 8] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
    REQUEST_ID,
];

/// The address the request came from, as far as the proxies in front of us can be believed; absent on the local socket. The
/// forwarded headers are gone afterwards, unless the peer is a trusted proxy.
fn client(request: &mut Request, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = match request.extensions().get::<Peer>() {
        Some(Peer::Tcp(address)) => Some(address.ip().to_canonical()),
        Some(Peer::Local { .. }) | None => None,
    };
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    if !peer.is_some_and(is_trusted) {
        for name in &FORWARDED {
            request.headers_mut().remove(name);
        }
        return peer;
    }
    forwarded_ip(request.headers(), is_trusted).or(peer)
}

/// The nearest address that is not one of our proxies: each of them appends whom it heard, so what stands further left
/// was written by somebody we do not trust.
fn forwarded_ip(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut nearest = None;
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        // Something unreadable hides whatever is left of it.
        let Ok(ip) = hop.trim().parse::<IpAddr>() else { break };
        nearest = Some(ip.to_canonical());
        if !is_trusted(ip.to_canonical()) {
            break;
        }
    }
    nearest
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(peer: &str, headers: &[(&'static str, &str)]) -> Request {
        let mut request = Request::new(axum::body::Body::empty());
        request.extensions_mut().insert(Peer::Tcp(format!("{peer}:5000").parse().unwrap()));
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    async fn state(dir: &std::path::Path) -> AppState {
        let db = valetkey::db::DbConfig::Sqlite { dir: dir.to_owned(), patience: Duration::ZERO };
        let broker = valetkey::Broker::without_key(&db).await.unwrap();
        AppState::new(broker, crate::HttpSettings::default()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_ours_that_tells_the_caller_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path()).await;
        let router = axum::Router::new()
            .route("/panic", axum::routing::get(async || -> &'static str { panic!("canary") }))
            .layer(axum::middleware::from_fn_with_state(state, edge));
        let asked = Request::get("/panic").body(axum::body::Body::empty()).unwrap();
        let answer = tower::ServiceExt::oneshot(router, asked).await.unwrap();
        assert_eq!(answer.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        assert!(answer.headers().contains_key("x-request-id"));
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "internal");
        assert!(!body.to_string().contains("canary"));
    }

    fn ours() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap()]
    }

    /// Every request has labels: those of an agent's call cost no copy.
    #[test]
    fn labels_say_what_they_stand_for_and_known_ones_are_not_copied() {
        use std::borrow::Cow;

        let route = |route: &str| -> Cow<'static, str> { route_label(route).into() };
        for own in ["/v1/me", "/v1/proxy/{connection}/{*path}", "/v1/connections/{id}/token"] {
            assert!(matches!(route(own), Cow::Borrowed(text) if text == own), "{own}");
        }
        for other in ["none", "/oauth/token", "/v1/nothing"] {
            assert_eq!(route(other), other);
        }
        for number in 100..1000 {
            assert_eq!(status_label(StatusCode::from_u16(number).unwrap()), number.to_string());
        }
        for (method, label) in [("GET", "GET"), ("DELETE", "DELETE"), ("BREW", "other"), ("get", "other")] {
            assert_eq!(known(&http::Method::from_bytes(method.as_bytes()).unwrap()), label);
        }
    }

    #[tokio::test]
    async fn answers_that_are_alike_are_counted_together_whichever_thread_gives_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path()).await;
        // Nothing else answers so.
        let count = || count("PATCH", "/v1/me", StatusCode::from_u16(599).unwrap(), Duration::from_millis(1));
        count();
        count();
        std::thread::scope(|threads| threads.spawn(count).join().unwrap());
        let text = state.metrics().render();
        let labels = ["method=\"PATCH\"", "route=\"/v1/me\"", "status=\"599\""];
        let is_it =
            |line: &&str| line.starts_with("valetkey_http_requests_total{") && labels.iter().all(|label| line.contains(label));
        assert!(text.lines().find(is_it).is_some_and(|line| line.ends_with(" 3")), "{text}");
    }

    /// R87: a stranger's forwarded headers are not believed, and nothing behind the edge sees them.
    #[test]
    fn forwarded_headers_of_a_stranger_are_removed() {
        let mut request = request(
            "203.0.113.9",
            &[
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("forwarded", "for=127.0.0.1"),
            ],
        );
        assert_eq!(client(&mut request, &ours()), Some("203.0.113.9".parse().unwrap()));
        assert!(request.headers().is_empty());
    }

    /// R87: behind a trusted proxy the nearest address that is not a proxy counts, whatever a client wrote before it.
    #[test]
    fn behind_a_trusted_proxy_the_nearest_stranger_is_the_client() {
        let mut request = request("10.0.0.1", &[("x-forwarded-for", "127.0.0.1, 198.51.100.7, 10.0.0.9")]);
        assert_eq!(client(&mut request, &ours()), Some("198.51.100.7".parse().unwrap()));
    }

    #[test]
    fn an_unreadable_hop_hides_what_is_left_of_it() {
        let mut request = request("10.0.0.1", &[("x-forwarded-for", "127.0.0.1, unknown, 10.0.0.9")]);
        assert_eq!(client(&mut request, &ours()), Some("10.0.0.9".parse().unwrap()));
    }
}
