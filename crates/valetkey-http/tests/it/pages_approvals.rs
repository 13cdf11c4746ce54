//! What waits for a signed-in person's word, as their browser meets it; and what another page would have it say.

use axum::body::Body;
use http::{Request, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use valetkey::{
    agent::{self, NewAgent},
    approval::{self, Status},
    grant::{self, Effect, ForWhom, Grant, NewGrant},
    id::{AgentId, ConnectionId, SiteId},
    principal::Actor,
    token::{self, NewToken},
};

use crate::{
    pages::{HTTPS, Pages, csrf, location, text},
    support::{Answer, on_each_db},
};

/// An agent of Alice's that must ask before it uses her account at the lab.
pub(crate) struct Asking {
    pub(crate) agent: AgentId,
    pub(crate) connection: ConnectionId,
    pub(crate) bearer: String,
}

impl Asking {
    pub(crate) async fn new(pages: &Pages) -> Self {
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let (connection, grant) = pages.connected("alice").await;
        let agent = grant::get(&base.db, &site, &grant).await.unwrap().unwrap().agent;
        let asks = NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&agent, &connection, ForWhom::Owner) };
        grant::create(base, &site, &Actor::Operator, asks).await.unwrap();
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, bearer) = token::mint(base, &site, &Actor::Operator, &agent, new).await.unwrap();
        Self { agent, connection, bearer: bearer.expose().to_owned() }
    }

    async fn send(&self, pages: &Pages, request: http::request::Builder, body: &'static str) -> Answer {
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.bearer));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).unwrap();
        let (parts, body) = pages.router.clone().oneshot(request).await.unwrap().into_parts();
        Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    async fn call(&self, pages: &Pages, approval: Option<&str>) -> Answer {
        let mut request = Request::post(format!("/v1/proxy/{}/echo?to=canary", self.connection));
        if let Some(id) = approval {
            request = request.header("valet-approval", id);
        }
        self.send(pages, request, r#"{"say":"canary"}"#).await
    }

    /// Makes the call, which is held.
    pub(crate) async fn hold(&self, pages: &Pages) -> String {
        self.call(pages, None).await.expect(202).json()["approval"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn propose(&self, pages: &Pages, wish: &'static str) -> String {
        self.send(pages, Request::post("/v1/proposals"), wish).await.expect(201).json()["id"].as_str().unwrap().to_owned()
    }

    async fn grants(&self, pages: &Pages) -> Vec<Grant> {
        let base = pages.broker.base();
        grant::list(&base.db, &SiteId::default_site(), Some(&self.agent), None).await.unwrap()
    }
}

pub(crate) async fn status(pages: &Pages, id: &str) -> Status {
    let base = pages.broker.base();
    let found = approval::get(&base.db, &SiteId::default_site(), &id.parse().unwrap()).await.unwrap().unwrap();
    found.status(base.clock.now())
}

on_each_db! {
    /// T-271.
    async fn a_person_sees_what_waits_says_yes_and_the_call_is_made_once(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let id = asking.hold(&pages).await;
        let mut browser = pages.browser();
        browser.enter("alice", "/approvals").await.expect(303);
        let list = text(&browser.get("/approvals").await.expect(200));
        assert!(list.contains(&format!("href=\"/approvals/{id}\"")) && list.contains("alices-helper"), "{list}");
        let path = format!("/approvals/{id}");
        let page = browser.get(&path).await.expect(200);
        let words = text(&page);
        for said in ["alices-helper", "POST", "/api/echo", "<code>to</code>", "16 bytes", "application/json", "Lab"] {
            assert!(words.contains(said), "{said:?} is not on: {words}");
        }
        assert!(!words.contains("canary") && !words.contains("<script"), "{words}");
        assert!(page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("form-action 'self';"));
        // Looking is no answer, whoever looks: a scanner of mail follows links.
        browser.get(&format!("{path}?decision=yes")).await.expect(200);
        assert_eq!(status(&pages, &id).await, Status::Pending);

        let answered = browser.submit(&path, &[("csrf", &csrf(&page)), ("decision", "yes")]).await.expect(303);
        assert_eq!(location(&answered), path);
        assert!(text(&browser.get(&path).await.expect(200)).contains("This call is approved"));
        let made = asking.call(&pages, Some(&id)).await.expect(200).json();
        assert_eq!((&made["body"]["length"], &made["authorization"]["live"]), (&json!(16), &json!(true)));
        assert_eq!(asking.call(&pages, Some(&id)).await.refused(409, "approval_used").json()["state"], "used");
        assert!(text(&browser.get("/approvals").await.expect(200)).contains("No call waits for your word"));
    }

    async fn a_yes_needs_a_fresh_proof_and_a_no_does_not(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let id = asking.hold(&pages).await;
        let path = format!("/approvals/{id}");
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let token = csrf(&browser.get(&path).await.expect(200));
        pages.advance(6);
        let refused = text(&browser.submit(&path, &[("csrf", &token), ("decision", "yes")]).await.expect(403));
        let back = format!("return_to=%2Fapprovals%2F{id}&#38;fresh=1");
        assert!(refused.contains(&back), "{refused}");
        assert_eq!(status(&pages, &id).await, Status::Pending);
        browser.submit(&path, &[("csrf", &token), ("decision", "no"), ("reason", "not today")]).await.expect(303);
        assert_eq!(status(&pages, &id).await, Status::Refused);
        let told = asking.call(&pages, Some(&id)).await.refused(403, "approval_refused").json();
        assert!(told["detail"].as_str().unwrap().contains("not today"));
    }

    /// T-263.
    async fn nobody_sees_or_answers_what_is_somebody_elses(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let (call, wish) = (asking.hold(&pages).await, asking.propose(&pages, r#"{"provider":"lab","reason":"to look"}"#).await);
        let stranger = text(&pages.browser().get(&format!("/approvals/{call}?site=default")).await.expect(403));
        assert!(stranger.contains("Sign in") && !stranger.contains("alices-helper"), "{stranger}");
        let mut browser = pages.browser();
        browser.enter("bob", "/").await.expect(303);
        let token = csrf(&browser.get("/").await.expect(200));
        for path in [format!("/approvals/{call}"), format!("/proposals/{wish}")] {
            assert!(!text(&browser.get(&path).await.expect(404)).contains("alices-helper"), "{path}");
            for decision in ["yes", "no"] {
                browser.submit(&path, &[("csrf", &token), ("decision", decision), ("delivery", "proxy")]).await.expect(404);
            }
        }
        assert!(!text(&browser.get("/approvals").await.expect(200)).contains("alices-helper"));
        assert_eq!(status(&pages, &call).await, Status::Pending);
    }

    /// T-256: The reader's browser is made to say yes by a page of somebody else's.
    async fn another_pages_form_says_nothing(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let id = asking.hold(&pages).await;
        let path = format!("/approvals/{id}");
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let token = csrf(&browser.get(&path).await.expect(200));
        let ours = &[("sec-fetch-site", "same-origin"), ("origin", HTTPS)];
        let theirs = &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        let csrf = token.as_str();
        for form in [&[("decision", "yes")][..], &[("csrf", "0"), ("decision", "yes")]] {
            browser.post_with(&path, form, ours).await.expect(403);
        }
        for headers in [&theirs[..], &theirs[1..]] {
            browser.post_with(&path, &[("csrf", csrf), ("decision", "yes")], headers).await.expect(403);
        }
        let twice = [("csrf", token.as_str()), ("decision", "no"), ("decision", "yes")];
        browser.submit(&path, &twice).await.expect(400);
        for other in ["perhaps", "approved", "accepted", "YES"] {
            browser.submit(&path, &[("csrf", &token), ("decision", other)]).await.expect(400);
        }
        assert_eq!(status(&pages, &id).await, Status::Pending);
    }

    async fn a_person_narrows_what_an_agent_asks_for(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let before = asking.grants(&pages).await.len();
        let wish = r#"{"provider":"lab","operations":["GET /api/me","POST /api/posts"],"delivery":["proxy","reveal"],
                       "for_whom":"operators","reason":"<b>to post</b>"}"#;
        let id = asking.propose(&pages, wish).await;
        let path = format!("/proposals/{id}");
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        assert!(text(&browser.get("/approvals").await.expect(200)).contains(&format!("href=\"{path}\"")));
        let page = browser.get(&path).await.expect(200);
        let words = text(&page);
        assert!(!words.contains("<b>") && words.contains("to post"), "{words}");
        assert!(words.contains(asking.connection.as_str()) && words.contains("POST /api/posts"), "{words}");

        let token = csrf(&page);
        let connection = asking.connection.as_str();
        let ticked = |more: &[(&'static str, &'static str)]| {
            let mut form = vec![("csrf", token.as_str()), ("decision", "yes"), ("connection", connection), ("operations", "some")];
            form.extend_from_slice(more);
            form
        };
        // Nothing ticked is not everything, and what was not asked for is not on offer.
        for wrong in [
            ticked(&[("delivery", "proxy")]),
            ticked(&[("operation", "GET /api/me")]),
            ticked(&[("delivery", "proxy"), ("operation", "DELETE /api/me")]),
            ticked(&[("delivery", "email"), ("operation", "GET /api/me")]),
            ticked(&[("delivery", "proxy"), ("operation", "GET /api/me"), ("days", "3650")]),
            ticked(&[("delivery", "proxy"), ("operation", "GET /api/me"), ("max_uses", "many")]),
        ] {
            browser.submit(&path, &wrong).await.expect(400);
        }
        assert_eq!(asking.grants(&pages).await.len(), before);
        let less = [("delivery", "proxy"), ("operation", "GET /api/me"), ("for_whom", "owner"), ("days", "7"), ("max_uses", "3"), ("ask", "1")];
        browser.submit(&path, &ticked(&less)).await.expect(303);
        let grants = asking.grants(&pages).await;
        assert_eq!(grants.len(), before + 1);
        let made = grants.last().unwrap();
        assert_eq!(serde_json::to_value(&made.operations.as_ref().unwrap().patterns).unwrap(), json!(["GET /api/me"]));
        assert_eq!((made.effect, &made.for_whom, made.max_uses), (Effect::Ask, &ForWhom::Owner, Some(3)));
        let week = pages.broker.base().clock.now().plus(std::time::Duration::from_secs(7 * 24 * 3600));
        assert_eq!((made.expires_at, made.delivery.len()), (Some(week), 1));
        assert!(text(&browser.get(&path).await.expect(200)).contains("This is accepted"));
        browser.submit(&path, &ticked(&less)).await.expect(409);
    }

    /// However wide the wish: the calls that are written down are granted, where they lie within it.
    async fn a_person_writes_down_which_calls(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        for (wish, ticked) in [
            (r#"{"provider":"lab","reason":"to look"}"#, &[][..]),
            (r#"{"provider":"lab","operations":["GET /api/**"],"reason":"to look"}"#, &[("operations", "some"), ("operation", "GET /api/**")]),
        ] {
            let path = format!("/proposals/{}", asking.propose(&pages, wish).await);
            let token = csrf(&browser.get(&path).await.expect(200));
            let connection = asking.connection.as_str();
            let yes = [("csrf", token.as_str()), ("decision", "yes"), ("connection", connection), ("delivery", "proxy")];
            let form = |written: &'static str| [&yes[..], ticked, &[("patterns", written)]].concat();
            browser.submit(&path, &form("every call")).await.expect(400);
            if !ticked.is_empty() {
                browser.submit(&path, &form("DELETE /api/me")).await.expect(400);
            }
            browser.submit(&path, &form("GET /api/me\r\n\r\n GET /api/posts ")).await.expect(303);
            let grants = asking.grants(&pages).await;
            let patterns = serde_json::to_value(&grants.last().unwrap().operations.as_ref().unwrap().patterns).unwrap();
            assert_eq!(patterns, json!(["GET /api/me", "GET /api/posts"]));
        }
    }

    /// The agent names a page, the person connects an account there, and only then, by another word, lets the agent use it.
    async fn a_person_connects_an_account_for_what_an_agent_asks(pages: Pages) {
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let bob = || Some("bob".parse().unwrap());
        let new = NewAgent { id: None, slug: "bobs-helper".into(), title: String::new(), owner: bob() };
        let agent = agent::create(base, &site, &Actor::Operator, new).await.unwrap().id;
        let new = NewToken { person: bob(), ..NewToken::default() };
        let (_, bearer) = token::mint(base, &site, &Actor::Operator, &agent, new).await.unwrap();
        let asking = Asking { agent, connection: ConnectionId::new(), bearer: bearer.expose().to_owned() };
        let path = format!("/proposals/{}", asking.propose(&pages, r#"{"provider":"lab","reason":"to look"}"#).await);
        let mut browser = pages.browser();
        browser.enter("bob", "/").await.expect(303);
        let page = browser.get(&path).await.expect(200);
        assert!(text(&page).contains("Connect an account") && !text(&page).contains("value=\"yes\""));
        // Nobody else's page can make such a link in his name.
        browser.post_with(&path, &[("decision", "connect")], &[("origin", "https://evil.example")]).await.expect(403);

        let made = browser.submit(&path, &[("csrf", &csrf(&page)), ("decision", "connect")]).await.expect(303);
        let link = location(&made).strip_prefix(HTTPS).unwrap().to_owned();
        let consent = browser.get(&link).await.expect(200);
        for said in ["bobs-helper", "Lab", "bob"] {
            assert!(text(&consent).contains(said), "{said:?} is not on: {}", text(&consent));
        }
        let approved = browser.post(&link, &[("csrf", &csrf(&consent)), ("decision", "approve")]).await.expect(303);
        let back = browser.sign_in(&approved, "bob").await;
        assert_eq!(location(&browser.get(&back).await.expect(303)), "/connect/done?outcome=connected&provider=lab");
        assert_eq!((pages.connections().await, asking.grants(&pages).await.len()), (1, 0));

        let page = browser.get(&path).await.expect(200);
        assert!(text(&page).contains("value=\"yes\"") && !text(&page).contains("Connect an account"), "{}", text(&page));
        browser.submit(&path, &[("csrf", &csrf(&page)), ("decision", "connect")]).await.expect(409);
        let connection = text(&page).split("name=\"connection\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let yes = [("csrf", csrf(&page)), ("decision", "yes".into()), ("connection", connection), ("delivery", "proxy".into())];
        let yes: Vec<_> = yes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.submit(&path, &yes).await.expect(303);
        assert_eq!(asking.grants(&pages).await.len(), 1);
        browser.submit(&path, &[("csrf", &csrf(&page)), ("decision", "connect")]).await.expect(409);
    }

    async fn a_person_without_an_account_there_is_told_to_connect_one(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let id = asking.propose(&pages, r#"{"provider":"signed","reason":"to look"}"#).await;
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let path = format!("/proposals/{id}");
        let page = browser.get(&path).await.expect(200);
        assert!(text(&page).contains("You have no connected account") && !text(&page).contains("value=\"yes\""));
        browser.submit(&path, &[("csrf", &csrf(&page)), ("decision", "no"), ("reason", "why")]).await.expect(303);
        let answer = asking.send(&pages, Request::get(format!("/v1/proposals/{id}")), "").await.expect(200).json();
        assert_eq!((&answer["status"], &answer["refusal"], &answer["grant"]), (&json!("refused"), &json!("why"), &Value::Null));
    }
}
