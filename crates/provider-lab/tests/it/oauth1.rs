//! The lab as an OAuth 1.0a provider: what it takes, and what it refuses.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, Fault, Rule};
use reqwest::{RequestBuilder, Response};
use url::Url;

use crate::support::{CALLBACK, Caller, value};

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request of a client that signs.
struct Sent<'a> {
    method: &'a str,
    url: String,
    protocol: Vec<(&'a str, String)>,
    client_secret: &'a str,
    token_secret: String,
}

impl<'a> Sent<'a> {
    fn new(caller: &Caller, method: &'a str, path: &str, nonce: &str) -> Self {
        let protocol = vec![
            ("oauth_consumer_key", CLIENT_ID.to_owned()),
            ("oauth_signature_method", "HMAC-SHA1".to_owned()),
            ("oauth_timestamp", "137131200".to_owned()),
            ("oauth_nonce", nonce.to_owned()),
        ];
        Self { method, url: caller.url(path), protocol, client_secret: CLIENT_SECRET, token_secret: String::new() }
    }

    fn with(mut self, name: &'a str, value: &str) -> Self {
        self.protocol.push((name, value.to_owned()));
        self
    }

    fn token(mut self, pair: &(String, String)) -> Self {
        self.token_secret.clone_from(&pair.1);
        self.with("oauth_token", &pair.0)
    }

    fn build(&self, caller: &Caller) -> RequestBuilder {
        let encode = |text: &str| utf8_percent_encode(text, PLAIN).to_string();
        let url = Url::parse(&self.url).unwrap();
        let mut pairs: Vec<(String, String)> = url.query_pairs().map(|(n, v)| (encode(&n), encode(&v))).collect();
        pairs.extend(self.protocol.iter().map(|(name, value)| (encode(name), encode(value))));
        pairs.sort();
        let joined = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let address = self.url.split('?').next().unwrap();
        let base = format!("{}&{}&{}", self.method, encode(address), encode(&joined));
        let key = format!("{}&{}", encode(self.client_secret), encode(&self.token_secret));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
        let signature = base64::engine::general_purpose::STANDARD.encode(hmac::sign(&key, base.as_bytes()));
        let mut header: Vec<String> = self.protocol.iter().map(|(name, value)| format!("{name}=\"{}\"", encode(value))).collect();
        header.push(format!("oauth_signature=\"{}\"", encode(&signature)));
        let request = caller.http.request(self.method.parse().unwrap(), &self.url);
        request.header("authorization", format!("OAuth {}", header.join(", ")))
    }

    async fn send(&self, caller: &Caller) -> Response {
        self.build(caller).send().await.unwrap()
    }
}

async fn form(response: Response) -> BTreeMap<String, String> {
    assert_eq!(response.status(), 200);
    url::form_urlencoded::parse(response.text().await.unwrap().as_bytes()).into_owned().collect()
}

fn pair(form: &BTreeMap<String, String>) -> (String, String) {
    (form["oauth_token"].clone(), form["oauth_token_secret"].clone())
}

async fn temporary(caller: &Caller, nonce: &str) -> (String, String) {
    let sent = Sent::new(caller, "POST", "/oauth1/request_token", nonce).with("oauth_callback", CALLBACK);
    let answer = form(sent.send(caller).await).await;
    assert_eq!(answer["oauth_callback_confirmed"], "true");
    pair(&answer)
}

async fn approve(caller: &Caller, temporary: &(String, String), person: &str) -> Vec<(String, String)> {
    let path = format!("/oauth1/authorize?oauth_token={}&auto_approve={person}", temporary.0);
    crate::support::callback(&caller.get(&path).send().await.unwrap())
}

#[tokio::test]
async fn three_legs_lead_to_a_token_that_signs() {
    let caller = Caller::start().await;
    let temporary = temporary(&caller, "n1").await;
    let page = caller.get(&format!("/oauth1/authorize?oauth_token={}", temporary.0)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Alice Archer") && page.contains("action=\"/oauth1/authorize\"") && !page.contains("It asks for"));
    let back = approve(&caller, &temporary, "bob").await;
    assert_eq!(value(&back, "oauth_token").as_ref(), Some(&temporary.0));
    let verifier = value(&back, "oauth_verifier").unwrap();
    let sent = Sent::new(&caller, "POST", "/oauth1/access_token", "n2").token(&temporary).with("oauth_verifier", &verifier);
    let answer = form(sent.send(&caller).await).await;
    assert_eq!((answer["user_id"].as_str(), answer["screen_name"].as_str()), ("1002", "bob"));
    let token = pair(&answer);
    let me: serde_json::Value =
        Sent::new(&caller, "GET", "/oauth1/me?x=a%20b", "n3").token(&token).send(&caller).await.json().await.unwrap();
    assert_eq!(me["id"], "1002");
    assert!(caller.lab.is_live_oauth1(&token.0));
    assert_eq!(Sent::new(&caller, "POST", "/oauth1/revoke", "n4").token(&token).send(&caller).await.status(), 200);
    assert!(!caller.lab.is_live_oauth1(&token.0));
    assert_eq!(Sent::new(&caller, "GET", "/oauth1/me", "n5").token(&token).send(&caller).await.status(), 401);
    // A verifier serves once.
    let again = Sent::new(&caller, "POST", "/oauth1/access_token", "n6").token(&temporary).with("oauth_verifier", &verifier);
    assert_eq!(again.send(&caller).await.status(), 401);
}

#[tokio::test]
async fn a_signature_that_is_not_right_is_refused() {
    let caller = Caller::start().await;
    let begin = |nonce: &str| Sent::new(&caller, "POST", "/oauth1/request_token", nonce).with("oauth_callback", CALLBACK);
    assert_eq!(Sent { client_secret: "wrong", ..begin("n1") }.send(&caller).await.status(), 401);
    assert_eq!(Sent { token_secret: "more".to_owned(), ..begin("n2") }.send(&caller).await.status(), 401);
    assert_eq!(begin("n3").send(&caller).await.status(), 200);
    assert_eq!(begin("n3").send(&caller).await.status(), 401, "a nonce that was used before");
    // What was signed is not what is sent.
    let moved = begin("n4").build(&caller).query(&[("more", "1")]).send().await.unwrap();
    assert_eq!(moved.status(), 401);
    assert_eq!(caller.post("/oauth1/request_token").send().await.unwrap().status(), 400);
    let twice = begin("n5").build(&caller).form(&[("oauth_token", "x")]).send().await.unwrap();
    assert_eq!(twice.status(), 400, "parameters of the protocol in two places");
}

#[tokio::test]
async fn what_a_person_refuses_what_is_late_and_what_is_guessed_yields_no_token() {
    let caller = Caller::start().await;
    caller.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "access_denied".into() }));
    let refused = temporary(&caller, "n1").await;
    assert_eq!(approve(&caller, &refused, "alice").await, [("denied".to_owned(), refused.0.clone())]);
    assert!(caller.lab.settings(CLIENT_ID, |settings| settings.temporary_ttl = 60));
    let (late, guessed) = (temporary(&caller, "n2").await, temporary(&caller, "n3").await);
    let verifier = value(&approve(&caller, &late, "alice").await, "oauth_verifier").unwrap();
    approve(&caller, &guessed, "alice").await;
    let redeem = async |nonce: &str, temporary: &(String, String)| {
        let sent = Sent::new(&caller, "POST", "/oauth1/access_token", nonce).token(temporary).with("oauth_verifier", &verifier);
        sent.send(&caller).await.status().as_u16()
    };
    assert_eq!(redeem("n4", &guessed).await, 401, "the verifier of another flow");
    caller.lab.advance(std::time::Duration::from_secs(61));
    assert_eq!(redeem("n5", &late).await, 401);
}
