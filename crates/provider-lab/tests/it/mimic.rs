//! A provider played by a script, over real HTTP: it gives what the script says, to those who ask as the script says.

use provider_lab::{
    At, FORGED, Fault, Mimic, Rule,
    script::{
        Answer, Authorize, Call, Challenge, Param, Pattern, Piece, Place, Role, Said, Script, TokenLife, Tree, Value as Known,
    },
};
use reqwest::{Client, Response, redirect::Policy};
use serde_json::{Value, json};
use url::Url;

use crate::support::VERIFIER;

const CALLBACK: &str = "https://broker.example/callback";

fn param(place: Place, name: &str, value: Pattern) -> Param {
    Param { place, name: name.to_owned(), value, optional: false }
}

fn bearer() -> Param {
    param(Place::Header, "authorization", Pattern(vec![Piece::Text("Bearer ".into()), Piece::Value(Known::AccessToken)]))
}

fn tokens() -> Answer {
    let body = Tree::Object(vec![
        ("data".to_owned(), Tree::Object(vec![("token".to_owned(), Tree::Said(Said::AccessToken))])),
        ("refresh_token".to_owned(), Tree::Said(Said::RefreshToken)),
        ("expires_in".to_owned(), Tree::Said(Said::ExpiresIn)),
    ]);
    Answer { form: false, body: Some(body) }
}

fn call(role: Role, path: &str, params: Vec<Param>, answer: Answer) -> Call {
    let (method, host) = ("POST".to_owned(), "login.acme.example".to_owned());
    Call { role, method, host, path: Pattern::text(path), params, is_signed: false, answer }
}

fn script() -> Script {
    let text = |name: &str, text: &str| param(Place::Form, name, Pattern::text(text));
    let known = |name: &str, known: Known| param(Place::Form, name, Pattern::value(known));
    let code =
        vec![text("grant_type", "authorization_code"), known("code", Known::Code), known("code_verifier", Known::Verifier)];
    let refresh = vec![text("grant_type", "refresh_token"), known("refresh_token", Known::RefreshToken)];
    let me = Tree::Object(vec![("id".to_owned(), Tree::Plain("1001".into()))]);
    Script {
        hosts: vec!["login.acme.example".to_owned(), "api.acme.example".to_owned()],
        authorize: Some(Authorize {
            host: "login.acme.example".to_owned(),
            path: "/authorize".to_owned(),
            params: vec![param(Place::Query, "client_key", Pattern::text("ours"))],
            redirect_uri: CALLBACK.to_owned(),
            challenge: Some(Challenge::Hex),
            issuer: None,
            code_suffix: None,
            by_token: false,
        }),
        calls: vec![
            call(Role::First, "/token", code, tokens()),
            call(Role::Refresh, "/token", refresh, tokens()),
            Call {
                method: "GET".to_owned(),
                host: "api.acme.example".to_owned(),
                ..call(Role::Identity, "/me", vec![bearer()], Answer { form: false, body: Some(me) })
            },
            call(Role::Revoke, "/revoke", vec![known("token", Known::RefreshToken)], Answer::default()),
        ],
        credential: vec![bearer()],
        tokens: TokenLife { rotates: true, ..TokenLife::default() },
        signing: None,
    }
}

/// A mimic, and somebody who calls it under its hosts' names.
struct Stage {
    mimic: Mimic,
    http: Client,
}

impl Stage {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::ClientBuilder::new().redirect(Policy::none()).no_proxy().build().unwrap();
        Self { mimic: Mimic::start(script()).await.unwrap(), http }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.mimic.addr())
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.http.post(self.url(path)).header("host", "login.acme.example").form(form).send().await.unwrap()
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.http.get(self.url(path)).header("host", "api.acme.example").bearer_auth(token).send().await.unwrap()
    }

    async fn code(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
        let challenge: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let query = format!("client_key=ours&state=s&code_challenge_method=S256&code_challenge={challenge}");
        let request = self.http.get(self.url(&format!("/authorize?{query}"))).header("host", "login.acme.example");
        let response = request.send().await.unwrap();
        let location = response.headers()["location"].to_str().unwrap();
        assert!(location.starts_with(&format!("{CALLBACK}?")), "{location}");
        let location = Url::parse(location).unwrap();
        location.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned()
    }

    async fn connect(&self) -> (String, String) {
        let code = self.code().await;
        let form = [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", VERIFIER)];
        read(self.post("/token", &form).await).await
    }

    async fn refresh(&self, token: &str) -> Response {
        self.post("/token", &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }
}

async fn read(response: Response) -> (String, String) {
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    let text = |pointer: &str| body.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    (text("/data/token"), text("/refresh_token"))
}

#[tokio::test]
async fn a_script_is_played_from_the_code_to_the_revocation() {
    let stage = Stage::new().await;
    let (access, refresh) = stage.connect().await;
    let me: Value = stage.get("/me", &access).await.json().await.unwrap();
    assert_eq!(me, json!({ "id": "1001" }));
    assert_eq!(stage.get("/v1/anything", &access).await.status(), 200);
    assert_eq!(stage.get("/v1/anything", "another").await.status(), 401);

    let (second, newer) = read(stage.refresh(&refresh).await).await;
    assert_ne!(refresh, newer);
    // Replaced: it is spent.
    let body: Value = stage.refresh(&refresh).await.json().await.unwrap();
    assert_eq!(body["error"], "invalid_grant");
    assert!(stage.mimic.works(&second));
    assert_eq!(stage.post("/revoke", &[("token", &newer)]).await.status(), 200);
    assert!(!stage.mimic.works(&second) && !stage.mimic.works(&access));
    assert_eq!(stage.mimic.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_asks_in_another_way_is_refused_and_complained_of() {
    let stage = Stage::new().await;
    let code = stage.code().await;
    let wrong = [("grant_type", "authorization_code"), ("code", code.as_str()), ("code_verifier", "another")];
    assert_eq!(stage.post("/token", &wrong).await.status(), 400);
    let more = [("grant_type", "refresh_token"), ("refresh_token", "x"), ("scope", "y")];
    assert_eq!(stage.post("/token", &more).await.status(), 400);
    let request = stage.http.get(stage.url("/authorize?client_id=ours&state=s")).header("host", "login.acme.example");
    assert_eq!(request.send().await.unwrap().status(), 400);
    let (access, _) = stage.connect().await;
    assert_eq!(stage.get(&format!("/v1/x?key={FORGED}"), &access).await.status(), 400);
    let complaints = stage.mimic.complaints();
    assert_eq!(complaints.len(), 4, "{complaints:?}");
    assert!(complaints[0].contains("verifier") && complaints[1].contains("scope"), "{complaints:?}");
    assert!(complaints[2].contains("client_id") && complaints[3].contains("got through"), "{complaints:?}");
    assert!(complaints.iter().all(|complaint| !complaint.contains(VERIFIER)));
}

#[tokio::test]
async fn it_misbehaves_by_the_roles_of_its_script_and_leaves_out_what_it_is_told_to() {
    let stage = Stage::new().await;
    let (_, refresh) = stage.connect().await;
    stage.mimic.misbehave(Rule::once(At::Refresh, Fault::Reply { status: 200, body: json!({ "ok": false }) }));
    let body: Value = stage.refresh(&refresh).await.json().await.unwrap();
    assert_eq!(body, json!({ "ok": false }));
    stage.mimic.leave_out(&[Said::RefreshToken]);
    let body: Value = stage.refresh(&refresh).await.json().await.unwrap();
    assert!(body.get("refresh_token").is_none(), "{body}");
    stage.mimic.leave_out(&[]);
    // Nothing was said of another one, so the old one still counts.
    let (access, _) = read(stage.refresh(&refresh).await).await;
    stage.mimic.end_access_tokens();
    assert!(!stage.mimic.works(&access));
    assert_eq!(stage.mimic.refresh_requests(), 3);
}
