//! The proxy through its own router and listener, with a lab that really answers: where it leads, and what is on the wire.

use axum::body::Body;
use http::{Request, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use valetkey::{
    agent::{self, NewAgent},
    connection,
    grant::{self, ForWhom, NewGrant},
    id::{ConnectionId, SiteId},
    principal::Actor,
    token::{self, NewToken},
};
use valetkey_http::Lanes;

use crate::{
    pages::{LOOPBACK, Pages, of},
    support::Answer,
};

/// Alice's account at the lab, and her agent that may use it by the proxy.
struct Way {
    pages: Pages,
    connection: ConnectionId,
    bearer: String,
}

impl Way {
    async fn new() -> Self {
        Self::over(Pages::new(LOOPBACK).await).await
    }

    async fn over(pages: Pages) -> Self {
        let link = pages.link(of("user:alice")).await;
        pages.browser().connect(&link, "alice", "alice").await;
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let all = connection::list(&base.db, &site, &connection::Filter::default()).await.unwrap();
        let connection = all.first().unwrap().id.clone();
        let new = NewAgent { id: None, slug: "a".into(), title: String::new(), owner: Some("alice".parse().unwrap()) };
        let agent = agent::create(base, &site, &Actor::Operator, new).await.unwrap().id;
        let granted = NewGrant::proxy(&agent, &connection, ForWhom::Owner);
        grant::create(base, &site, &Actor::Operator, granted).await.unwrap();
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, text) = token::mint(base, &site, &Actor::Operator, &agent, new).await.unwrap();
        Self { connection, bearer: text.expose().to_owned(), pages }
    }

    /// Asks the router for something below the provider's base URL.
    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(format!("/v1/proxy/{}{path}", self.connection));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.bearer)).body(Body::empty()).unwrap();
        let (parts, body) = self.pages.router.clone().oneshot(request).await.unwrap().into_parts();
        Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    /// Sends a request over a connection of its own, byte for byte: what stands behind the request line, and the body. The
    /// answer as it comes, to its last byte.
    async fn raw(&self, line: &str, more: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving =
            tokio::spawn(valetkey_http::serve(listener, self.pages.router.clone(), Lanes::start().unwrap(), shutdown.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("{line} HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {}\r\nConnection: close\r\n{more}", self.bearer);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        shutdown.cancel();
        serving.await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

/// A 307 keeps the method and the body, and the client its token: what leads back to the broker is another call of this agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_does_not_lead_an_agent_into_another_of_its_connections() {
    let way = Way::new().await;
    for status in [301, 302, 303, 307, 308] {
        let answer = way.get(&format!("/redirect?to=/v1/proxy/other/x&status={status}")).await.expect(status);
        let whole = format!("{}/v1/proxy/other/x", way.pages.lab.origin());
        assert_eq!(answer.headers[header::LOCATION], whole.as_str(), "at the provider, where it was meant");
        for back in [format!("{LOOPBACK}/v1/proxy/other/x"), format!("{}/v1/proxy/other/x", &LOOPBACK["http:".len()..])] {
            let answer = way.get(&format!("/redirect?to={back}&status={status}")).await.expect(status);
            assert!(!answer.headers.contains_key(header::LOCATION), "{back}: {:?}", answer.headers);
        }
    }
    let answer = way.get("/redirect?to=https://cdn.example/x%3Fa=1&status=302").await.expect(302);
    assert_eq!(answer.headers[header::LOCATION], "https://cdn.example/x?a=1");
    way.pages.broker.stop().await;
}

/// A client that is told by a provider's 401 where our tokens come from would fetch another one of ours, for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_401_does_not_send_an_agent_to_us_for_another_token() {
    let mut way = Way::new().await;
    let answer = way.get("/status/401").await.expect(401);
    assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
    // Nor to whom the provider would have it go, as if we said so.
    let challenge = "Bearer%20realm=%22lab%22,%20resource_metadata=%22https://evil.example/m%22,%20error=%22invalid_token%22";
    let answer = way.get(&format!("/status/401?challenge={challenge}")).await.expect(401);
    assert_eq!(answer.headers[header::WWW_AUTHENTICATE], r#"Bearer realm="lab", error="invalid_token""#);
    way.bearer.push('x');
    let ours = way.get("/status/401").await.expect(401);
    assert!(ours.headers[header::WWW_AUTHENTICATE].to_str().unwrap().contains("resource_metadata="));
    way.pages.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_refused_as_they_stand_on_the_wire() {
    let way = Way::new().await;
    let connection = &way.connection;
    let own = way.pages.lab.addr();
    for (path, status, code) in [
        (format!("/v1/proxy/{connection}//me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/x//me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/x/../me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/../../v1/me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/x/%2e%2e/me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/x%2fme"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/~{own}/../api/me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/~{own}//api/me"), 400, "path_refused"),
        (format!("/v1/proxy/{connection}/~{own}%2f/api/me"), 403, "host_refused"),
        (format!("/v1/proxy/{connection}/~evil.example%2f/me"), 403, "host_refused"),
        (format!("/v1/proxy/{connection}/~evil.example/me"), 403, "host_refused"),
        (format!("/v1/proxy/{connection}/~/me"), 403, "host_refused"),
        (format!("/v1/proxy/%63{}/me", &connection.as_str()[1..]), 400, "invalid_request"),
    ] {
        let answer = way.raw(&format!("GET {path}"), "\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{path}: {answer}");
    }
    assert_eq!(way.pages.lab.requests("api"), 0);
    // Only `~` itself names a host. Encoded it is the first letter of a path, and stays one.
    let before = way.pages.lab.log().len();
    let answer = way.raw(&format!("GET /v1/proxy/{connection}/%7Eevil.example/me"), "\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("content-security-policy: sandbox"), "{answer}");
    let log = way.pages.lab.log();
    assert_eq!(log[before..].iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["/api/%7Eevil.example/me"]);
    way.pages.broker.stop().await;
}

/// Decisions 7: trailers obey the header rules, in both directions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_cleaned_in_both_directions() {
    let way = Way::new().await;
    let upload = "Transfer-Encoding: chunked\r\nTrailer: x-sum, authorization, x-forwarded-for, cookie\r\n\r\n\
                  5\r\nhello\r\n0\r\nx-sum: 42\r\nauthorization: Bearer evil\r\nx-forwarded-for: 1.2.3.4\r\ncookie: a=1\r\n\r\n";
    let answer = way.raw(&format!("POST /v1/proxy/{}/echo", way.connection), upload).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let json = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    let seen: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!((&seen["body"]["length"], &seen["body"]["trailers"]), (&json!(5), &json!([["x-sum", "42"]])));
    assert_eq!(seen["authorization"]["live"], true);

    let answer = way.raw(&format!("GET /v1/proxy/{}/trailers", way.connection), "TE: trailers\r\n\r\n").await;
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && rest.contains("body\n"), "{answer}");
    assert!(rest.contains("x-lab-trailer: the end"), "{answer}");
    for gone in ["set-cookie", "lab_trailer"] {
        assert!(!answer.to_ascii_lowercase().contains(gone), "{gone}: {answer}");
    }
    way.pages.broker.stop().await;
}

/// A provider that tells its caller's credential: whatever is in the head or in the trailers is taken out. A body passes, so
/// definitions keep agents away from such paths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_comes_back_in_headers_or_trailers_is_taken_out() {
    let open = |definition: String| {
        assert!(definition.contains("\"/api/echo-credential\", "));
        definition.replace("\"/api/echo-credential\", ", "")
    };
    let way = Way::over(Pages::with_definition(LOOPBACK, open).await).await;
    let answer = way.get("/echo-credential").await.expect(200);
    let secret = answer.json()["you_sent"].as_str().unwrap().to_owned();
    assert!(secret.len() > 20);
    for name in ["x-your-credential", "x-your-authorization"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    assert!(answer.headers.values().all(|value| !String::from_utf8_lossy(value.as_bytes()).contains(&secret)));

    let answer = way.raw(&format!("GET /v1/proxy/{}/trailers", way.connection), "TE: trailers\r\n\r\n").await;
    assert!(answer.contains("x-lab-trailer: the end") && !answer.contains(&secret), "{answer}");
    assert!(!answer.contains("x-your-credential: "), "{answer}");
    way.pages.broker.stop().await;
}
