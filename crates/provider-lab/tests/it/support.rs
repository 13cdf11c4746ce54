//! A small OAuth client, just enough to play a broker.

use base64::Engine as _;
use provider_lab::{CLIENT_ID, CLIENT_SECRET, Lab};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};
use serde_json::Value;
use url::Url;

/// A PKCE verifier; the tests need no secret one.
pub(crate) const VERIFIER: &str = "a-verifier-of-the-tests-that-is-43-chars-or-more";
/// Where the tests are called back. Nobody listens there.
pub(crate) const CALLBACK: &str = "http://127.0.0.1:9/callback?keep=%2Fthis";

pub(crate) struct Caller {
    pub(crate) lab: Lab,
    pub(crate) http: Client,
}

impl Caller {
    pub(crate) async fn start() -> Self {
        // reqwest asks for a TLS provider even where only plain http is spoken. Another test may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let http = reqwest::ClientBuilder::new().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { lab, http }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.lab.origin())
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.url(path))
    }

    /// The authorization request of a well-behaved client, with changes: an empty value leaves a parameter out.
    pub(crate) fn authorize_url(&self, changes: &[(&str, &str)]) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
        let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
        let mut params = vec![
            ("response_type", "code"),
            ("client_id", CLIENT_ID),
            ("redirect_uri", CALLBACK),
            ("scope", "profile posts:read posts:write"),
            ("state", "the-state"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in changes {
            params.retain(|(known, _)| known != name);
            params.push((name, value));
        }
        params.retain(|(_, value)| !value.is_empty());
        Url::parse_with_params(&self.url("/authorize"), params).unwrap().into()
    }

    /// Goes to the authorization endpoint and returns the parameters of the callback, in order.
    pub(crate) async fn authorize(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let response = self.http.get(self.authorize_url(changes)).send().await.unwrap();
        callback(&response)
    }

    /// A fresh code for a person.
    pub(crate) async fn code(&self, person: &str) -> String {
        value(&self.authorize(&[("auto_approve", person)]).await, "code").unwrap()
    }

    /// A request to the token endpoint as the default client.
    pub(crate) fn token(&self, form: &[(&str, &str)]) -> RequestBuilder {
        self.post("/token").basic_auth(CLIENT_ID, Some(CLIENT_SECRET)).form(form)
    }

    pub(crate) fn redeem(&self, code: &str) -> RequestBuilder {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ])
    }

    pub(crate) fn refresh(&self, token: &str) -> RequestBuilder {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    /// The whole flow: the token answer for a person.
    pub(crate) async fn connect(&self, person: &str) -> Value {
        let code = self.code(person).await;
        good(self.redeem(&code)).await
    }
}

/// The parameters of a redirect to [`CALLBACK`], without the one that was there before.
pub(crate) fn callback(response: &Response) -> Vec<(String, String)> {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let location = response.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(CALLBACK), "the callback keeps its bytes: {location}");
    Url::parse(location).unwrap().query_pairs().into_owned().filter(|(name, _)| name != "keep").collect()
}

pub(crate) fn value(params: &[(String, String)], name: &str) -> Option<String> {
    params.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// Sends and expects 200 with JSON.
pub(crate) async fn good(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

/// Sends and expects an OAuth error; returns its code.
pub(crate) async fn refused(request: RequestBuilder, status: u16) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status().as_u16(), status);
    let body: Value = response.json().await.unwrap();
    text(&body, "error")
}

pub(crate) fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {body}")).to_owned()
}
