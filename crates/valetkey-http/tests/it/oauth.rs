//! The endpoints of the authorization server and the page of consent, as clients, resource servers and browsers meet them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use url::{Url, form_urlencoded};
use valetkey::{
    Broker,
    agent::{self, NewAgent},
    id::{AgentId, SiteId},
    oauth::{Client, GrantType, NewClient, client, register},
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    secret::Secret,
    session,
    site::SiteChange,
    token::{self, NewToken},
};
use valetkey_http::{LocalOperator, Peer};

use crate::{
    pages::{Browser, HTTPS, Pages, csrf, location, text},
    sessions::{OURS, PAGE},
    support::{Answer, on_each_db},
};

pub(crate) const CALLBACK: &str = "https://app.example/cb";
/// The pair of RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A broker behind its router with an agent of alice's.
pub(crate) struct Front {
    pub(crate) pages: Pages,
    pub(crate) broker: Broker,
    pub(crate) agent: AgentId,
}

impl Front {
    pub(crate) async fn sqlite() -> Self {
        Self::before(Pages::new(HTTPS).await).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::before(Pages::on_postgres(HTTPS).await).await
    }

    async fn before(pages: Pages) -> Self {
        pages.change_site(SiteChange { signin_url: Some(PAGE.to_owned()), ..SiteChange::default() }).await;
        let broker = pages.broker.clone();
        let new = NewAgent { id: None, slug: "helper".into(), title: "Helper".into(), owner: Some("alice".parse().unwrap()) };
        let agent = agent::create(broker.base(), &site(), &Actor::Operator, new).await.unwrap().id;
        Self { pages, broker, agent }
    }

    pub(crate) async fn client(&self, new: NewClient) -> (Client, Option<Secret>) {
        client::create(self.broker.base(), &site(), &Actor::Operator, new).await.unwrap()
    }

    /// A client without a secret that lives in a browser or on a device.
    pub(crate) async fn public(&self) -> Client {
        self.client(NewClient {
            name: "Claude <Code>".to_owned(),
            redirect_uris: vec![CALLBACK.to_owned()],
            grant_types: [GrantType::AuthorizationCode, GrantType::RefreshToken, GrantType::DeviceCode].into(),
            ..NewClient::default()
        })
        .await
        .0
    }

    pub(crate) async fn confidential(&self) -> (Client, String) {
        let (client, secret) = self
            .client(NewClient {
                name: "Backend".to_owned(),
                confidential: true,
                grant_types: BTreeSet::from([GrantType::TokenExchange]),
                ..NewClient::default()
            })
            .await;
        (client, secret.unwrap().expose().to_owned())
    }

    /// A platform key's text.
    async fn key(&self) -> String {
        let new = NewKey { label: "k".to_owned(), scopes: [Scope::Agents].into(), asserts: Asserts::Any, expires_at: None };
        platform::create(self.broker.base(), &site(), &Actor::Operator, new).await.unwrap().text.expose().to_owned()
    }

    /// A browser in which somebody is signed in.
    pub(crate) async fn browser(&self, user: &str) -> Browser<'_> {
        let mut browser = self.pages.browser();
        let key = self.pages.platform_key();
        let (secret, _) = session::open(self.broker.base(), &site(), &user.parse().unwrap(), key).await.unwrap();
        browser.jar.insert("__Host-vk_session".to_owned(), secret.expose().to_owned());
        browser
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.pages.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.post_with(path, form, &[]).await
    }

    pub(crate) async fn post_with(&self, path: &str, form: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        self.send(posted(path, headers).body(Body::from(encoded(form))).unwrap()).await
    }

    /// A request of the operator's with a JSON body, which must succeed.
    pub(crate) async fn operator(&self, method: Method, path: &str, body: Value) -> Value {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(LocalOperator);
        let answer = self.send(request).await;
        assert!(answer.status.is_success(), "{path}: {}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }

    pub(crate) async fn get(&self, path: &str, bearer: Option<&str>) -> Answer {
        let mut request = Request::get(path);
        if let Some(bearer) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Alice consents on the page; the code that her browser brings back.
    pub(crate) async fn code(&self, client: &Client, more: &[(&str, &str)]) -> String {
        let path = authorize(client, more);
        let mut browser = self.browser("alice").await;
        let page = browser.get(&path).await.expect(200);
        let token = csrf(&page);
        let form = [
            ("csrf", token.as_str()),
            ("decision", "allow"),
            ("agent", self.agent.as_str()),
            ("scope", "proxy"),
            ("life", "30d"),
        ];
        let answer = browser.post_with(&path, &form, OURS).await.expect(303);
        in_query(&location(&answer).parse().unwrap(), "code").unwrap()
    }

    /// The tokens that come of it.
    pub(crate) async fn tokens(&self, client: &Client) -> Value {
        let code = self.code(client, &[]).await;
        self.post("/oauth/token", &redeeming(client, &code)).await.expect(200).json()
    }

    /// A form from an address that can be told.
    pub(crate) async fn post_from(&self, address: &str, path: &str, form: &[(&str, &str)]) -> Answer {
        let peer: SocketAddr = format!("{address}:5000").parse().unwrap();
        let request = posted(path, &[]).extension(Peer::Tcp(peer));
        self.send(request.body(Body::from(encoded(form))).unwrap()).await
    }
}

pub(crate) fn site() -> SiteId {
    SiteId::default_site()
}

pub(crate) fn posted(path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

pub(crate) fn encoded(form: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

/// The path of an authorization request: the usual one, with some parameters in place of its own.
pub(crate) fn authorize(client: &Client, more: &[(&str, &str)]) -> String {
    let mut all = vec![
        ("client_id", client.id.as_str()),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("state", "the state"),
        ("scope", "proxy reveal"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    all.extend(more);
    format!("/oauth/authorize?{}", encoded(&all))
}

pub(crate) fn redeeming<'a>(client: &'a Client, code: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("grant_type", "authorization_code"),
        ("client_id", client.id.as_str()),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ]
}

fn in_query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// A refusal in the form of RFC 6749 section 5.2.
#[track_caller]
pub(crate) fn refused(answer: Answer, status: u16, error: &str) {
    let answer = answer.expect(status);
    assert_eq!(answer.json()["error"], error);
    assert!(answer.json()["error_description"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[header::PRAGMA], "no-cache");
    assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
}

pub(crate) fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

on_each_db! {
    /// R67, R75, R106: from the page to the token, its use, its refresh and its end. After a form a browser is sent on by a 303.
    async fn an_agent_gets_a_token_by_a_persons_consent_and_loses_it(front: Front) {
        let client = front.public().await;
        let path = authorize(&client, &[]);
        let mut browser = front.browser("alice").await;
        let answer = browser.get(&path).await.expect(200);
        let page = text(&answer);
        for said in ["Claude &#60;Code&#62;", "Helper", "alice", "Default", "without seeing their keys", "be handed the access tokens", "granted for you", "while nobody is there", "30 days", "app.example"] {
            assert!(page.contains(said), "{said:?} is not on: {page}");
        }
        assert!(!page.contains("Nobody here vouches"), "{page}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self' https:;"), "{policy}");

        let token = csrf(&answer);
        let mut form = vec![("csrf", token.as_str()), ("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1d")];
        let answer = browser.post_with(&path, &form, OURS).await.expect(303);
        let back: Url = location(&answer).parse().unwrap();
        assert!(back.as_str().starts_with(CALLBACK));
        assert_eq!((in_query(&back, "state").as_deref(), in_query(&back, "iss").as_deref()), (Some("the state"), Some(HTTPS)));
        let code = in_query(&back, "code").unwrap();

        let answer = front.post("/oauth/token", &redeeming(&client, &code)).await.expect(200);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        assert_eq!((&answer.headers[header::CACHE_CONTROL], &answer.headers[header::PRAGMA]), (&HeaderValue::from_static("no-store"), &HeaderValue::from_static("no-cache")));
        let issued = answer.json();
        assert_eq!((&issued["token_type"], &issued["expires_in"], &issued["scope"]), (&json!("Bearer"), &json!(900), &json!("proxy")));
        let access = issued["access_token"].as_str().unwrap();
        front.get("/v1/me", Some(access)).await.expect(200);

        let again = [("grant_type", "refresh_token"), ("client_id", client.id.as_str()), ("refresh_token", issued["refresh_token"].as_str().unwrap())];
        let next = front.post("/oauth/token", &again).await.expect(200).json();
        let given_back = [("client_id", client.id.as_str()), ("token", next["refresh_token"].as_str().unwrap())];
        let answer = front.post("/oauth/revoke", &given_back).await.expect(200);
        assert!(answer.bytes.is_empty());
        for dead in [access, next["access_token"].as_str().unwrap()] {
            front.get("/v1/me", Some(dead)).await.refused(401, "unauthenticated");
        }

        form[1] = ("decision", "deny");
        let answer = browser.post_with(&path, &form, OURS).await.expect(303);
        assert_eq!(in_query(&location(&answer).parse().unwrap(), "error").as_deref(), Some("access_denied"));
    }

    /// R83: a token for the MCP server is taken there and nowhere else, and one for the API is not taken there.
    async fn a_token_for_the_mcp_server_is_taken_there_alone(front: Front) {
        let client = front.public().await;
        let mcp = format!("{HTTPS}/mcp");
        let greet = async |bearer: &str| {
            let request = Request::post("/mcp").header(header::HOST, "keys.example.test").header(header::CONTENT_TYPE, "application/json");
            let request = request.header(header::ACCEPT, "application/json, text/event-stream");
            let request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
            front.send(request.body(Body::from(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)).unwrap()).await
        };
        for (resource, at_api, at_mcp) in [(HTTPS, 200, 401), (mcp.as_str(), 401, 200)] {
            let path = authorize(&client, &[("resource", resource)]);
            let mut browser = front.browser("alice").await;
            let token = csrf(&browser.get(&path).await.expect(200));
            let form = [("csrf", token.as_str()), ("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1d")];
            let answer = browser.post_with(&path, &form, OURS).await.expect(303);
            let code = in_query(&location(&answer).parse().unwrap(), "code").unwrap();
            let mut form = redeeming(&client, &code);
            form.push(("resource", resource));
            let issued = front.post("/oauth/token", &form).await.expect(200).json();
            let access = issued["access_token"].as_str().unwrap();
            front.get("/v1/me", Some(access)).await.expect(at_api);
            greet(access).await.expect(at_mcp);
        }
    }

    /// R69: what is wrong is said in the words of the standard; whoever proves nothing is told how one proves oneself.
    async fn refusals_are_those_of_the_standard(front: Front) {
        let client = front.public().await;
        let (confidential, secret) = front.confidential().await;
        let id = client.id.as_str();
        refused(front.post("/oauth/token", &[]).await, 401, "invalid_client");
        refused(front.post("/oauth/token", &[("client_id", "nobody"), ("grant_type", "refresh_token")]).await, 401, "invalid_client");
        let wrong = basic(confidential.id.as_str(), "wrong");
        let wrong = [("authorization", wrong.as_str())];
        refused(front.post_with("/oauth/token", &[("grant_type", "refresh_token")], &wrong).await, 401, "invalid_client");
        for odd in ["Bearer x", "Basic !", "nonsense"] {
            refused(front.post_with("/oauth/token", &[], &[("authorization", odd)]).await, 401, "invalid_client");
        }
        refused(front.post("/oauth/token", &[("client_id", id)]).await, 400, "invalid_request");
        refused(front.post("/oauth/token", &[("client_id", id), ("grant_type", "password")]).await, 400, "unsupported_grant_type");
        let exchange = GrantType::TokenExchange.as_str();
        refused(front.post("/oauth/token", &[("client_id", id), ("grant_type", exchange)]).await, 400, "unauthorized_client");
        refused(front.post("/oauth/token", &redeeming(&client, "unknown")).await, 400, "invalid_grant");
        let right = basic(confidential.id.as_str(), &secret);
        let right = [("authorization", right.as_str())];
        // One way at a time.
        refused(front.post_with("/oauth/token", &[("client_secret", &secret)], &right).await, 400, "invalid_request");
        // The right ones are taken in either way.
        let form = [("client_id", confidential.id.as_str()), ("client_secret", secret.as_str()), ("grant_type", exchange)];
        refused(front.post("/oauth/token", &form).await, 400, "invalid_request");
        refused(front.post_with("/oauth/token", &[("grant_type", exchange)], &right).await, 400, "invalid_request");
    }

    /// T-050: an exchange is an act of the agent, and a chain of agents ends at it as at any other.
    async fn an_exhausted_chain_exchanges_nothing(front: Front) {
        let (client, secret) = front.confidential().await;
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, own) = token::mint(front.broker.base(), &site(), &Actor::Operator, &front.agent, new).await.unwrap();
        let form = [
            ("grant_type", GrantType::TokenExchange.as_str()),
            ("subject_token", own.expose()),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ];
        let proof = basic(client.id.as_str(), &secret);
        let through = |depth: &'static str| {
            [
                ("authorization", proof.as_str()),
                ("x-agents-api-caller-agent", "scout"),
                ("x-agents-api-caller-host", "https://other.example"),
                ("x-agents-api-chain-depth", depth),
                ("x-agents-api-chain-root", "root-1"),
            ]
        };
        let made = async || token::list(&front.broker.base().db, &site(), &front.agent).await.unwrap().len();
        refused(front.post_with("/oauth/token", &form, &through("3")).await, 429, "chain_too_deep");
        refused(front.post_with("/oauth/token", &form, &through("-1")).await, 400, "invalid_request");
        assert_eq!(made().await, 1);
        front.post_with("/oauth/token", &form, &through("2")).await.expect(200);
        // Whether the token is anybody's comes first.
        let mut unknown = form;
        unknown[1].1 = "nonsense";
        refused(front.post_with("/oauth/token", &unknown, &through("3")).await, 400, "invalid_request");
        assert_eq!(made().await, 2);
    }

    /// R68: at the token endpoint a parameter that comes twice is refused, an unknown one is ignored, an empty one is not there.
    async fn parameters_are_read_as_the_standard_has_it(front: Front) {
        let client = front.public().await;
        let mut form = vec![("what", "ever"), ("client_secret", "")];
        let code = front.code(&client, &[]).await;
        form.extend(redeeming(&client, &code));
        let mut twice = form.clone();
        twice.push(("code", code.as_str()));
        refused(front.post("/oauth/token", &twice).await, 400, "invalid_request");
        front.post("/oauth/token", &form).await.expect(200);
        // A secret in an address would be logged.
        let path = format!("/oauth/token?{}", encoded(&form));
        refused(front.post(&path, &[]).await, 400, "invalid_request");
        let request = Request::post("/oauth/token").header(header::CONTENT_TYPE, "application/json");
        refused(front.send(request.body(Body::from("{}")).unwrap()).await, 400, "invalid_request");
        let huge = "x".repeat(100_000);
        refused(front.post("/oauth/token", &[("client_id", &huge)]).await, 400, "invalid_request");
    }

    /// R71: while nobody knows whose request it is, what is wrong is told on a page of ours.
    async fn a_strange_client_or_redirect_uri_is_told_on_a_page(front: Front) {
        let client = front.public().await;
        let mut browser = front.browser("alice").await;
        for wrong in [("client_id", "nobody"), ("client_id", "vkc_00000000000000000000000000000000"), ("redirect_uri", "https://evil.example/cb")] {
            let answer = browser.get(&authorize(&client, &[wrong, ("response_type", "token")])).await.expect(400);
            assert!(!answer.headers.contains_key(header::LOCATION), "{wrong:?}");
            assert!(!text(&answer).contains("evil.example"), "{wrong:?}");
        }
        // Everything else is told to the client.
        let answer = browser.get(&authorize(&client, &[("response_type", "token")])).await.expect(303);
        let back: Url = location(&answer).parse().unwrap();
        assert_eq!(in_query(&back, "error").as_deref(), Some("unsupported_response_type"));
    }

    /// R76: nobody is sent on who is not signed in, neither with a consent nor with an error.
    async fn nobody_is_sent_on_who_is_not_signed_in(front: Front) {
        let client = front.public().await;
        for path in [authorize(&client, &[]), authorize(&client, &[("response_type", "token")])] {
            let answer = front.pages.browser().get(&path).await.expect(403);
            assert!(!answer.headers.contains_key(header::LOCATION));
            let page = text(&answer);
            assert!(page.contains(PAGE) && page.contains("return_to=%2Foauth%2Fauthorize"), "{page}");
        }
        let form = [("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1d")];
        front.pages.browser().post_with(&authorize(&client, &[]), &form, OURS).await.expect(403);
        // Neither is a client's where nobody vouches for it.
        register::set_open(front.broker.base(), &site(), &Actor::Operator, true).await.unwrap();
        let asked = json!({ "client_name": "Self-made", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none" });
        let request = Request::post("/oauth/register").header(header::CONTENT_TYPE, "application/json");
        let told = front.send(request.body(Body::from(asked.to_string())).unwrap()).await.expect(201).json();
        let id = told["client_id"].as_str().unwrap().parse().unwrap();
        let made = client::get(&front.broker.base().db, &site(), &id).await.unwrap().unwrap();
        let mut browser = front.browser("alice").await;
        browser.get(&authorize(&made, &[("response_type", "token")])).await.expect(400);
        let page = text(&browser.get(&authorize(&made, &[])).await.expect(200));
        assert!(page.contains("Nobody here vouches for this program") && page.contains("app.example"), "{page}");
    }

    async fn a_consent_needs_our_own_form_and_a_fresh_proof(front: Front) {
        let client = front.public().await;
        let path = authorize(&client, &[]);
        let mut browser = front.browser("alice").await;
        let token = csrf(&browser.get(&path).await.expect(200));
        let form = [("csrf", token.as_str()), ("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1d")];
        let elsewhere: &[(&str, &str)] = &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        browser.post_with(&path, &form, elsewhere).await.expect(403);
        browser.post_with(&path, &form[1..], OURS).await.expect(403);
        for (at, wrong) in [(1, ("decision", "")), (2, ("agent", "nobody")), (3, ("scope", "everything")), (4, ("life", "forever"))] {
            let mut form = form;
            form[at] = wrong;
            let answer = browser.post_with(&path, &form, OURS).await;
            assert!(answer.status.is_client_error(), "{wrong:?}: {}", answer.status);
        }
        front.broker.base().clock.advance(Duration::from_secs(301));
        let answer = browser.post_with(&path, &form, OURS).await.expect(403);
        assert!(text(&answer).contains("fresh=1"), "{}", text(&answer));
        browser.get(&path).await.expect(403);
    }

    /// R78: the metadata name the issuer exactly, and nothing that there is not.
    async fn the_metadata_are_what_there_is(front: Front) {
        let answer = front.get("/.well-known/oauth-authorization-server", None).await.expect(200);
        let metadata = answer.json();
        assert_eq!(metadata["issuer"], HTTPS);
        assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
        assert_eq!(metadata["authorization_response_iss_parameter_supported"], json!(true));
        for (name, endpoint) in metadata.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint")) {
            let path = endpoint.as_str().unwrap().strip_prefix(HTTPS).unwrap();
            let method = if name.starts_with("authorization") { Method::GET } else { Method::POST };
            let answer = front.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
            assert!(![404, 405, 500].contains(&answer.status.as_u16()), "{name}: {}", answer.status);
        }
        // Each grant that is named is one, and each way to prove oneself is taken.
        let (client, secret) = front.confidential().await;
        for grant in metadata["grant_types_supported"].as_array().unwrap() {
            let form =
                [("client_id", client.id.as_str()), ("client_secret", secret.as_str()), ("grant_type", grant.as_str().unwrap())];
            let answer = front.post("/oauth/token", &form).await;
            assert!(["invalid_request", "unauthorized_client"].contains(&answer.json()["error"].as_str().unwrap()), "{grant}");
        }
        assert_eq!(metadata["token_endpoint_auth_methods_supported"], json!(["none", "client_secret_basic", "client_secret_post"]));
        assert!(metadata.get("registration_endpoint").is_none());
    }

    /// R79: both resources describe themselves and name the authorization server.
    async fn the_resources_describe_themselves(front: Front) {
        for (path, resource) in [("", HTTPS.to_owned()), ("/mcp", format!("{HTTPS}/mcp"))] {
            let told = front.get(&format!("/.well-known/oauth-protected-resource{path}"), None).await.expect(200).json();
            assert_eq!((&told["resource"], &told["authorization_servers"]), (&json!(resource), &json!([HTTPS])));
            assert_eq!(told["bearer_methods_supported"], json!(["header"]));
        }
        let answer = front.get("/v1/me", None).await.expect(401);
        let challenge = answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert_eq!(challenge, format!("Bearer resource_metadata=\"{HTTPS}/.well-known/oauth-protected-resource\", scope=\"proxy\""));
    }

    /// R88: a page of any origin may call the token endpoint and read the metadata, and none the page of consent.
    async fn other_origins_may_call_the_token_endpoint_and_not_the_page(front: Front) {
        let client = front.public().await;
        for (method, path) in [
            (Method::POST, "/oauth/token"),
            (Method::OPTIONS, "/oauth/token"),
            (Method::POST, "/oauth/revoke"),
            (Method::GET, "/.well-known/oauth-authorization-server"),
            (Method::GET, "/.well-known/oauth-protected-resource"),
        ] {
            let request = Request::builder().method(method).uri(path).header("origin", "https://spa.example");
            let answer = front.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{path}");
            assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), "{path}");
        }
        for path in [authorize(&client, &[]), "/oauth/device".to_owned(), "/oauth/introspect".to_owned()] {
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                let request = Request::builder().method(method).uri(&path).header("origin", "https://spa.example");
                let answer = front.send(request.body(Body::empty()).unwrap()).await;
                assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
            }
        }
    }

    /// R89, R90, R92, R97: introspection is for whoever proves to be somebody, by a POSTed form; a malformed request is an error, and
    /// a token that is not active never is.
    async fn introspection_is_asked_by_form_and_by_somebody(front: Front) {
        let client = front.public().await;
        let issued = front.tokens(&client).await;
        let token = issued["access_token"].as_str().unwrap();
        let key = front.key().await;
        let bearer = format!("Bearer {key}");
        let by_key = [("authorization", bearer.as_str())];

        refused(front.post("/oauth/introspect", &[("token", token)]).await, 401, "invalid_client");
        refused(front.post("/oauth/introspect", &[("token", token), ("client_id", client.id.as_str())]).await, 401, "invalid_client");
        let as_agent = format!("Bearer {token}");
        refused(front.post_with("/oauth/introspect", &[("token", token)], &[("authorization", &as_agent)]).await, 401, "invalid_client");
        let answer = front.get(&format!("/oauth/introspect?token={token}"), Some(&key)).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        refused(front.post_with(&format!("/oauth/introspect?token={token}"), &[], &by_key).await, 400, "invalid_request");
        refused(front.post_with("/oauth/introspect", &[], &by_key).await, 400, "invalid_request");
        refused(front.post_with("/oauth/introspect", &[("token", token), ("token", token)], &by_key).await, 400, "invalid_request");

        let told = front.post_with("/oauth/introspect", &[("token", token)], &by_key).await.expect(200);
        assert_eq!(told.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!((&told.json()["active"], &told.json()["user"]), (&json!(true), &json!("alice")));
        let inactive = front.post_with("/oauth/introspect", &[("token", "nonsense")], &by_key).await.expect(200);
        assert_eq!(inactive.bytes, br#"{"active":false}"#);
        for dead in [issued["refresh_token"].as_str().unwrap(), "vk_x", key.as_str()] {
            let answer = front.post_with("/oauth/introspect", &[("token", dead)], &by_key).await.expect(200);
            assert_eq!(answer.bytes, inactive.bytes);
        }
        // A client with a secret may ask, too; about a token that is not its own it learns nothing.
        let (other, secret) = front.confidential().await;
        let by_client = basic(other.id.as_str(), &secret);
        let answer = front.post_with("/oauth/introspect", &[("token", token)], &[("authorization", &by_client)]).await.expect(200);
        assert_eq!(answer.bytes, inactive.bytes);
    }

    /// R98: where the database does not answer, that is what is said, and nothing of a token.
    async fn a_database_that_fails_is_no_answer_about_a_token(front: Front) {
        let issued = front.tokens(&front.public().await).await;
        let key = format!("Bearer {}", front.key().await);
        front.broker.base().db.close().await;
        let token = [("token", issued["access_token"].as_str().unwrap())];
        let answer = front.post_with("/oauth/introspect", &token, &[("authorization", key.as_str())]).await;
        refused(answer, 503, "temporarily_unavailable");
    }

    /// R89: who guesses waits, whatever they guess at; and does not shut anybody else out.
    async fn who_fails_often_waits(front: Front) {
        let (client, secret) = front.confidential().await;
        let id = client.id.as_str();
        let wrong = [("client_id", id), ("client_secret", "vkcs_wrong"), ("token", "x")];
        let right = [("client_id", id), ("client_secret", secret.as_str()), ("token", "x")];
        let mut told = None;
        for tried in 0..100 {
            let answer = front.post_from("203.0.113.9", "/oauth/introspect", &wrong).await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                assert!(answer.headers.contains_key(header::RETRY_AFTER));
                told = Some(tried);
                break;
            }
        }
        assert!(told.is_some_and(|tried| tried >= 30), "{told:?}");
        // The address waits, with whatever it has.
        front.post_from("203.0.113.9", "/oauth/introspect", &right).await.expect(429);
        // The client that it guessed at does not, from where it is.
        front.post_from("198.51.100.7", "/oauth/introspect", &right).await.expect(200);
        // Guessing from many addresses at one client is slowed down, too.
        for n in 0..40 {
            front.post_from(&format!("192.0.2.{n}"), "/oauth/introspect", &wrong).await;
        }
        front.post_from("192.0.2.200", "/oauth/introspect", &wrong).await.expect(429);
        front.post_from("192.0.2.201", "/oauth/introspect", &right).await.expect(200);
    }

    /// R89: also who may ask cannot ask about any number of unknown tokens. The right ones are told of all the same: otherwise
    /// whoever brings a resource server false tokens would shut the others out.
    async fn who_asks_about_unknown_tokens_without_end_waits(front: Front) {
        let issued = front.tokens(&front.public().await).await;
        let key = format!("Bearer {}", front.key().await);
        let by_key = [("authorization", key.as_str())];
        let mut last = StatusCode::OK;
        for _ in 0..1000 {
            last = front.post_with("/oauth/introspect", &[("token", "nonsense")], &by_key).await.status;
            if last != StatusCode::OK {
                break;
            }
        }
        assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
        let token = [("token", issued["access_token"].as_str().unwrap())];
        let told = front.post_with("/oauth/introspect", &token, &by_key).await.expect(200).json();
        assert_eq!(told["active"], true);
    }

    /// R101, R103: revocation answers 200 with nothing in it, whatever the token was.
    async fn revocation_says_nothing(front: Front) {
        let (client, other) = (front.public().await, front.public().await);
        let issued = front.tokens(&client).await;
        let access = issued["access_token"].as_str().unwrap();
        let mut seen = Vec::new();
        for (who, token) in [(&other, access), (&client, "nonsense"), (&client, access), (&client, access)] {
            let alive = front.get("/v1/me", Some(access)).await.status;
            let answer = front.post("/oauth/revoke", &[("client_id", who.id.as_str()), ("token", token)]).await.expect(200);
            assert!(answer.bytes.is_empty() && !answer.headers.contains_key(header::CONTENT_TYPE));
            seen.push(alive);
        }
        assert_eq!(seen, [200_u16, 200, 200, 401]);
        refused(front.post("/oauth/revoke", &[("token", access)]).await, 401, "invalid_client");
        refused(front.post("/oauth/revoke", &[("client_id", client.id.as_str())]).await, 400, "invalid_request");
    }

    /// An upstream token about which a grant asks: the answer has the form of RFC 6749 section 5.2, with the approval in it.
    async fn an_exchange_that_a_person_has_to_approve_says_which_approval(front: Front) {
        let (client, secret) = front.confidential().await;
        let agent = front.agent.as_str();
        let account = front.operator(Method::PUT, "/v1/providers/http_basic/accounts/users/alice", crate::support::basic("secret")).await;
        let asks = json!({ "agent": agent, "connection": account["connection"], "effect": "ask", "delivery": ["reveal"] });
        front.operator(Method::POST, "/v1/grants", asks).await;
        let minted = front.operator(Method::POST, &format!("/v1/agents/{agent}/tokens"), json!({ "person": "alice" })).await;
        let own = minted["token"].as_str().unwrap();
        let by = basic(client.id.as_str(), &secret);
        let trade = async |more: &[(&str, &str)]| {
            let usual = [
                ("grant_type", GrantType::TokenExchange.as_str()),
                ("subject_token", own),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                ("audience", "http_basic"),
            ];
            front.post_with("/oauth/token", &[&usual[..], more].concat(), &[("authorization", &by)]).await
        };
        let told = trade(&[]).await.expect(400).json();
        assert_eq!((&told["error"], &told["code"], &told["status"]), (&json!("authorization_pending"), &json!("approval_required"), &json!("pending")));
        assert!(told["error_description"].is_string());
        let id = told["approval"].as_str().unwrap();
        let poll = told["poll"].as_str().unwrap();
        assert_eq!(front.get(poll, Some(own)).await.expect(200).json()["status"], "pending");
        front.operator(Method::POST, &format!("/v1/approvals/{id}/refuse"), json!({ "reason": "no" })).await;
        refused(trade(&[("approval", id)]).await, 400, "access_denied");
        // What has not the form of a name or an id.
        refused(trade(&[("approval", "apr_1")]).await, 400, "invalid_request");
        refused(trade(&[("session", "a b")]).await, 400, "invalid_request");
    }

    async fn a_person_sees_what_they_let_in_and_ends_it(front: Front) {
        let issued = front.tokens(&front.public().await).await;
        let access = issued["access_token"].as_str();
        let (mut alices, mut bobs) = (front.browser("alice").await, front.browser("bob").await);
        assert!(!text(&bobs.get("/").await.expect(200)).contains("Programs that act for you"));
        let page = alices.get("/").await.expect(200);
        assert!(text(&page).contains("Claude &#60;Code&#62;</strong> through Helper"), "{}", text(&page));
        let path = text(&page).split("action=\"").find(|part| part.starts_with("/account/programs/")).unwrap().split('"').next().unwrap().to_owned();
        let token = csrf(&bobs.get("/").await.expect(200));
        bobs.post_with(&path, &[("csrf", &token)], OURS).await.expect(404);
        front.get("/v1/me", access).await.expect(200);
        let token = csrf(&page);
        alices.post_with(&path, &[], OURS).await.expect(403);
        alices.post_with(&path, &[("csrf", &token)], OURS).await.expect(303);
        front.get("/v1/me", access).await.expect(401);
    }

    async fn a_device_is_let_in_on_a_page(front: Front) {
        let client = front.public().await;
        let id = client.id.as_str();
        let begun = front.post("/oauth/device_authorization", &[("client_id", id), ("scope", "proxy")]).await.expect(200).json();
        assert_eq!(begun["verification_uri"], format!("{HTTPS}/oauth/device"));
        let user_code = begun["user_code"].as_str().unwrap();
        let complete = begun["verification_uri_complete"].as_str().unwrap().strip_prefix(HTTPS).unwrap();
        let poll = [("client_id", id), ("grant_type", GrantType::DeviceCode.as_str()), ("device_code", begun["device_code"].as_str().unwrap())];
        refused(front.post("/oauth/token", &poll).await, 400, "authorization_pending");
        refused(front.post("/oauth/token", &poll).await, 400, "slow_down");

        let mut browser = front.browser("alice").await;
        let page = browser.get("/oauth/device").await.expect(200);
        assert!(text(&page).contains("a device of your own"));
        let token = csrf(&page);
        browser.post_with("/oauth/device", &[("csrf", &token), ("user_code", "BBBB-BBBB")], OURS).await.expect(404);
        let page = browser.post_with("/oauth/device", &[("csrf", &token), ("user_code", user_code)], OURS).await.expect(200);
        assert!(text(&page).contains(user_code) && text(&page).contains("a device of your own"));
        assert_eq!(text(&page), text(&browser.get(complete).await.expect(200)));
        let form = [("csrf", token.as_str()), ("user_code", user_code), ("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1h")];
        assert!(text(&browser.post_with("/oauth/device", &form, OURS).await.expect(200)).contains("go back to your device"));
        let issued = front.post("/oauth/token", &poll).await.expect(200).json();
        front.get("/v1/me", issued["access_token"].as_str()).await.expect(200);
        browser.post_with("/oauth/device", &form, OURS).await.expect(404);

        let begun = front.post("/oauth/device_authorization", &[("client_id", id)]).await.expect(200).json();
        let poll = [("client_id", id), ("grant_type", GrantType::DeviceCode.as_str()), ("device_code", begun["device_code"].as_str().unwrap())];
        let form = [("csrf", token.as_str()), ("user_code", begun["user_code"].as_str().unwrap()), ("decision", "deny")];
        browser.post_with("/oauth/device", &form, OURS).await.expect(200);
        refused(front.post("/oauth/token", &poll).await, 400, "access_denied");
    }

    async fn who_tries_codes_of_devices_waits(front: Front) {
        let mut browser = front.browser("alice").await;
        let token = csrf(&browser.get("/oauth/device").await.expect(200));
        let mut last = StatusCode::NOT_FOUND;
        for _ in 0..40 {
            last = browser.post_with("/oauth/device", &[("csrf", &token), ("user_code", "BBBB-BBBB")], OURS).await.status;
        }
        assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
        let mut other = front.browser("bob").await;
        let token = csrf(&other.get("/oauth/device").await.expect(200));
        other.post_with("/oauth/device", &[("csrf", &token), ("user_code", "BBBB-BBBB")], OURS).await.expect(404);
    }
}
