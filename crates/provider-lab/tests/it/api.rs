//! The API behind bearer tokens.

use std::time::{Duration, Instant};

use provider_lab::{API_KEY, fingerprint};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Caller, good, refused};

impl Caller {
    fn issued(&self, person: &str, scope: &str) -> String {
        self.lab.issue("lab-client", person, scope).unwrap().access_token
    }
}

fn headers_of(echo: &Value) -> Vec<(&str, &str)> {
    let pairs = echo["headers"].as_array().unwrap().iter();
    pairs.map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_missing_unknown_or_expired_token_gets_401_and_a_challenge() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let challenge = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        response.headers()["www-authenticate"].to_str().unwrap().to_owned()
    };
    assert_eq!(challenge(caller.get("/api/me")).await, r#"Bearer realm="lab""#);
    assert!(challenge(caller.get("/api/me").bearer_auth("lab_at_guess")).await.contains(r#"error="invalid_token""#));
    assert_eq!(good(caller.get("/api/me").bearer_auth(&token)).await["username"], "alice");
    caller.lab.expire_access_tokens(None);
    assert!(challenge(caller.get("/api/me").bearer_auth(&token)).await.contains(r#"error="invalid_token""#));
    assert!(challenge(caller.get("/userinfo").bearer_auth(&token)).await.contains(r#"error="invalid_token""#));
}

#[tokio::test]
async fn people_post_and_read_posts_within_their_scopes() {
    let caller = Caller::start().await;
    let (alice, bob) = (caller.issued("alice", "posts:read posts:write"), caller.issued("bob", "posts:read"));
    let post = |token: &str, text: &str| caller.post("/api/posts").bearer_auth(token).json(&json!({ "text": text }));
    let made = post(&alice, "hello <b>world</b>").send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(refused(post(&bob, "me too"), 403).await, "insufficient_scope");
    assert_eq!(refused(post(&alice, ""), 400).await, "invalid_request");
    assert_eq!(refused(post(&alice, &"x".repeat(1001)), 400).await, "invalid_request");

    let posts = good(caller.get("/api/posts").bearer_auth(&bob)).await;
    let [post] = posts["posts"].as_array().unwrap().as_slice() else { panic!("one post: {posts}") };
    assert_eq!((&post["author"], &post["text"]), (&json!("alice"), &json!("hello <b>world</b>")));
    let of_bob = good(caller.get("/api/posts?author=bob").bearer_auth(&bob)).await;
    assert_eq!(of_bob["posts"], json!([]));
    let front = caller.get("/").send().await.unwrap().text().await.unwrap();
    assert!(front.contains("hello &lt;b&gt;world&lt;/b&gt;"));
}

#[tokio::test]
async fn the_echo_shows_everything_but_credentials() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let request = caller.http.put(caller.url(&format!("/api/echo/a%20b?x=1&apikey=k&copy={token}&x=2")));
    let request = request.bearer_auth(&token).header("cookie", "a=b").header("x-one", "1").header("x-one", "2");
    let response = request.header("x-copy", format!("<{token}>")).body("hello").send().await.unwrap();
    let raw = response.text().await.unwrap();
    assert!(!raw.contains(&token), "the token is nowhere in the answer");
    let echo: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!((&echo["method"], &echo["path"]), (&json!("PUT"), &json!("/api/echo/a%20b")));
    let hidden = format!("x=1&apikey=[sha256:{}]&copy=[sha256:{}]&x=2", fingerprint("k"), fingerprint(&token));
    assert_eq!(echo["query"], hidden);
    assert_eq!(echo["authorization"], json!({ "present": true, "count": 1, "bearer": true, "live": true }));
    assert_eq!(echo["body"], json!({ "length": 5, "sha256": fingerprint("hello"), "complete": true, "trailers": [] }));
    let headers = headers_of(&echo);
    let values = |name: &str| headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect::<Vec<_>>();
    assert_eq!(values("x-one"), ["1", "2"]);
    assert_eq!(values("cookie"), [format!("[sha256:{}]", fingerprint("a=b"))]);
    assert_eq!(values("authorization"), [format!("[sha256:{}]", fingerprint(&format!("Bearer {token}")))]);
}

#[tokio::test]
async fn the_echo_says_when_there_is_no_token_or_a_dead_one() {
    let caller = Caller::start().await;
    let none = good(caller.get("/api/echo")).await;
    assert_eq!(none["authorization"], json!({ "present": false, "count": 0, "bearer": false, "live": false }));
    let dead = good(caller.get("/api/echo").bearer_auth("lab_at_dead")).await;
    assert_eq!(dead["authorization"], json!({ "present": true, "count": 1, "bearer": true, "live": false }));
    assert_eq!(none["body"]["sha256"], fingerprint(""));
}

#[tokio::test]
async fn a_stream_comes_line_by_line() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let begun = Instant::now();
    let mut response = caller.get("/api/stream?ms=2000&n=3").bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "line 1\n");
    assert!(begun.elapsed() < Duration::from_secs(2), "the first line does not wait for the others");
    let mut rest = Vec::new();
    while let Some(piece) = response.chunk().await.unwrap() {
        rest.extend_from_slice(&piece);
    }
    assert_eq!(rest, b"line 2\nline 3\n");
    assert!(begun.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn bytes_come_as_many_as_asked() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let response = caller.get("/api/bytes?n=1000003").bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.content_length(), Some(1_000_003));
    let body = response.bytes().await.unwrap();
    assert_eq!(body.len(), 1_000_003);
    assert!(body.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    assert_eq!(caller.get("/api/bytes?n=0").bearer_auth(&token).send().await.unwrap().bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn statuses_redirects_cookies_and_pages_come_as_asked() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let get = async |path: &str| caller.get(path).bearer_auth(&token).send().await.unwrap();
    for code in [200_u16, 204, 304, 403, 418, 429, 503] {
        assert_eq!(get(&format!("/api/status/{code}")).await.status().as_u16(), code);
    }
    assert_eq!(get("/api/status/101").await.status(), 400);
    let redirect = get("/api/redirect?to=http://elsewhere.example/x&status=307").await;
    assert_eq!(
        (redirect.status().as_u16(), redirect.headers()["location"].to_str().unwrap()),
        (307, "http://elsewhere.example/x")
    );
    let cookies = get("/api/set-cookie").await;
    assert_eq!(cookies.headers().get_all("set-cookie").iter().count(), 2);
    assert!(cookies.headers().contains_key("clear-site-data"));
    let page = get("/api/html").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(page.text().await.unwrap().contains("<script>"));
}

#[tokio::test]
async fn one_route_tells_the_caller_its_credential() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let response = caller.get("/api/echo-credential").bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.headers()["x-your-credential"], token);
    assert_eq!(response.json::<Value>().await.unwrap()["you_sent"], token);
}

#[tokio::test]
async fn a_static_key_opens_one_door() {
    let caller = Caller::start().await;
    assert_eq!(good(caller.get("/api/key").header("x-api-key", API_KEY)).await["key"], "header");
    assert_eq!(good(caller.get("/api/key").query(&[("apikey", API_KEY)])).await["key"], "query");
    assert_eq!(caller.get("/api/key?apikey=wrong").send().await.unwrap().status(), 401);
    assert_eq!(caller.get("/api/key").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn trailers_follow_the_body_for_who_wants_them() {
    let caller = Caller::start().await;
    let token = caller.issued("alice", "profile");
    let mut stream = TcpStream::connect(caller.lab.addr()).await.unwrap();
    let host = caller.lab.addr();
    let request = format!(
        "GET /api/trailers HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nte: trailers\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, after_body) = answer.split_once("body\n").unwrap();
    assert!(after_body.contains("x-lab-trailer: the end"), "{answer}");
    assert!(after_body.contains(&format!("x-your-credential: {token}")), "{answer}");
}

#[tokio::test]
async fn a_request_that_is_no_route_is_logged_too() {
    let caller = Caller::start().await;
    assert_eq!(caller.get("/api/no/such%2Fplace").send().await.unwrap().status(), 404);
    let log = caller.lab.log();
    assert_eq!((log[0].endpoint, log[0].path.as_str(), log[0].status), ("unknown", "/api/no/such%2Fplace", Some(404)));
}

#[tokio::test]
async fn http2_is_spoken_too() {
    let caller = Caller::start().await;
    let client = reqwest::ClientBuilder::new().no_proxy().http2_prior_knowledge().build().unwrap();
    let echo: Value = client.get(caller.url("/api/echo")).headers(HeaderMap::new()).send().await.unwrap().json().await.unwrap();
    assert_eq!(echo["version"], "HTTP/2.0");
}
