//! One site and another: a thing of another site is answered exactly like one that there is not, on every route that names
//! things, to platforms, to agents and to the operator who speaks of that other site; and nothing happens to it.

use http::Method;
use serde_json::{Value, json};
use valetkey::{
    id::SiteId,
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    session, site,
};
use valetkey_http::{ROUTES, Who};

use super::{NOBODY, told};
use crate::{
    access::body,
    clients,
    pages::{Pages, csrf},
    pages_approvals::Asking,
    sessions::OURS,
    support::{App, As, on_each_db, text},
};

/// The id of one thing of each kind.
struct Things {
    site: String,
    person: String,
    agent: String,
    connection: String,
    link: String,
    token: String,
    grant: String,
    client: String,
    consent: String,
    key: String,
    webhook: String,
    approval: String,
    proposal: String,
}

impl Things {
    /// One of each at the site `default`, and what its agent calls with.
    async fn made(app: &App) -> (Self, As) {
        let op = As::Operator;
        let new = async |path: &str, body: Value| text(&app.post(&op, path, body).await.expect(201).json(), "/id");
        app.reddit().await;
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let grant = app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask" })).await;
        let (token, bearer) = app.token(&agent, json!({ "person": "alice" })).await;
        let held = app.get(&bearer, &format!("/v1/proxy/{connection}/x")).await.expect(202).json();
        let wish = json!({ "provider": "http_basic", "reason": "to look" });
        let proposal = text(&app.post(&bearer, "/v1/proposals", wish).await.expect(201).json(), "/id");
        let things = Self {
            site: "default".to_owned(),
            person: "alice".to_owned(),
            link: new("/v1/connect-sessions", json!({ "provider": "reddit", "owner": "user:alice" })).await,
            client: new("/v1/clients", json!({ "name": "App", "redirect_uris": ["https://app.example/cb"] })).await,
            consent: clients::consent(app, &agent, "alice").await,
            key: new("/v1/keys", json!({ "label": "k", "scopes": ["admin"] })).await,
            webhook: new("/v1/webhooks", json!({ "url": "https://example.com/hook", "events": ["grant.created"] })).await,
            approval: text(&held, "/approval"),
            agent,
            connection,
            token,
            grant,
            proposal,
        };
        (things, bearer)
    }

    /// Ids of things that are nowhere.
    fn nowhere() -> Self {
        let id = |prefix: &str| format!("{prefix}{NOBODY}");
        Self {
            site: "nowhere".to_owned(),
            person: "zoe".to_owned(),
            agent: id("agt_"),
            connection: id("con_"),
            link: id("cse_"),
            token: id("tok_"),
            grant: id("gra_"),
            client: id("vkc_"),
            consent: id("fam_"),
            key: id("pkey_"),
            webhook: id("whk_"),
            approval: id("apr_"),
            proposal: id("pro_"),
        }
    }

    /// What stands for `{id}` in a pattern.
    fn id(&self, pattern: &str) -> &str {
        match pattern {
            p if p.starts_with("/v1/sites/") => &self.site,
            p if p.starts_with("/v1/people/") => &self.person,
            p if p.starts_with("/v1/connections/") => &self.connection,
            p if p.starts_with("/v1/connect-sessions/") => &self.link,
            p if p.starts_with("/v1/tokens/") => &self.token,
            p if p.starts_with("/v1/grants/") => &self.grant,
            p if p.starts_with("/v1/clients/") => &self.client,
            p if p.starts_with("/v1/consents/") => &self.consent,
            p if p.starts_with("/v1/keys/") => &self.key,
            p if p.starts_with("/v1/webhooks/") => &self.webhook,
            p if p.starts_with("/v1/approvals/") => &self.approval,
            p if p.starts_with("/v1/proposals/") => &self.proposal,
            p => panic!("{p} names a thing that this test does not know; add it"),
        }
    }

    /// A pattern's path, and the name in it.
    fn filled(&self, pattern: &str) -> (String, &str) {
        let (hole, name) = if pattern.contains("{id}") {
            ("{id}", self.id(pattern))
        } else if pattern.contains("{agent}") {
            ("{agent}", self.agent.as_str())
        } else {
            ("{connection}", self.connection.as_str())
        };
        let path = pattern.replace(hole, name).replace("{provider}", "http_basic").replace("{user}", "alice");
        (path.replace("{*path}", "x"), name)
    }

    /// Everything that the operator sees of them.
    async fn seen(&self, app: &App) -> Vec<Value> {
        let mut seen = Vec::new();
        for path in [
            format!("/v1/agents/{}", self.agent),
            format!("/v1/agents/{}/ceiling", self.agent),
            format!("/v1/agents/{}/tokens", self.agent),
            format!("/v1/agents/{}/reach", self.agent),
            format!("/v1/connections/{}", self.connection),
            format!("/v1/connect-sessions/{}", self.link),
            format!("/v1/grants?agent={}", self.agent),
            format!("/v1/clients/{}", self.client),
            "/v1/consents".to_owned(),
            "/v1/keys".to_owned(),
            format!("/v1/webhooks/{}", self.webhook),
            format!("/v1/approvals/{}", self.approval),
            format!("/v1/proposals/{}", self.proposal),
            format!("/v1/people/{}/sessions", self.person),
            "/v1/sites/default".to_owned(),
            "/v1/sites/default/policy".to_owned(),
        ] {
            seen.push(app.get(&As::Operator, &path).await.expect(200).json());
        }
        seen
    }
}

on_each_db! {
    async fn a_thing_of_another_site_is_answered_like_one_that_there_is_not(app: App) {
        let (things, bearer) = Things::made(&app).await;
        let nowhere = Things::nowhere();
        let other: SiteId = "other".parse().unwrap();
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let agent = app.post(&As::Operator, "/v1/agents?site=other", json!({ "slug": "a", "owner": "otto" })).await.expect(201);
        let tokens = format!("/v1/agents/{}/tokens?site=other", text(&agent.json(), "/id"));
        let minted = app.post(&As::Operator, &tokens, json!({ "person": "otto" })).await.expect(201).json();
        let callers = [
            ("a platform with every scope", As::Bearer(app.key_text_at(&other, &Scope::ALL, Asserts::Any).await), ""),
            ("an agent", As::Bearer(text(&minted, "/token")), ""),
            ("the operator, about the other site", As::Operator, "?site=other"),
        ];
        // What is written down later would look like a change.
        app.broker.last_used().flush(&app.broker.base().db, app.clock.now()).await.unwrap();
        let before = things.seen(&app).await;
        let mut compared = 0;
        for route in ROUTES.iter().filter(|route| ["{id}", "{agent}", "{connection}"].iter().any(|hole| route.path.contains(hole))) {
            let methods: &[Method] = match route.method {
                "any" => &[Method::GET, Method::POST],
                one => &[one.to_ascii_uppercase().parse().unwrap()],
            };
            let (real, real_name) = things.filled(route.path);
            let (unreal, unreal_name) = nowhere.filled(route.path);
            for method in methods {
                for (who, caller, query) in &callers {
                    // Every site is the operator's, and an agent's own routes are none of theirs.
                    if matches!(caller, As::Operator) && (route.path.starts_with("/v1/sites/") || route.who == Who::Agent) {
                        continue;
                    }
                    let ask = async |path: &str| {
                        app.call(caller, method.clone(), &format!("{path}{query}"), body(method, route.path), &[]).await
                    };
                    let (found, missing) = (ask(&real).await, ask(&unreal).await);
                    assert!(found.status.as_u16() < 500, "{who}: {method} {real}: {found:?}");
                    let (found, missing) = (told(&found, &[real_name]), told(&missing, &[unreal_name]));
                    assert_eq!(found, missing, "{who}: {method} {}", route.path);
                    compared += 1;
                }
            }
        }
        assert!(compared > 120, "{compared}");
        assert_eq!(things.seen(&app).await, before);
        app.get(&bearer, "/v1/me").await.expect(200);
    }

    /// Neither by a filter, an id in a body, or the place from which a list goes on.
    async fn lists_and_bodies_lead_to_nothing_of_another_site(app: App) {
        let (things, _) = Things::made(&app).await;
        let other: SiteId = "other".parse().unwrap();
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let key = As::Bearer(app.key_text_at(&other, &Scope::ALL, Asserts::Any).await);
        for path in [
            "/v1/agents",
            "/v1/agents?user=alice",
            "/v1/connections",
            "/v1/connections?owner=user:alice&revoked=true",
            "/v1/clients",
            "/v1/consents",
            "/v1/webhooks",
            "/v1/approvals",
            "/v1/proposals",
            "/v1/revocations",
            "/v1/audit?limit=1000",
            &format!("/v1/connections?after=con_{}", "0".repeat(32)),
            &format!("/v1/grants?connection={}", things.connection),
            &format!("/v1/approvals?connection={}", things.connection),
        ] {
            let shown = String::from_utf8(app.get(&key, path).await.expect(200).bytes).unwrap();
            for id in [&things.agent, &things.connection, &things.grant, &things.client, &things.webhook, &things.approval, &things.proposal] {
                assert!(!shown.contains(id.as_str()), "{path}: {shown}");
            }
        }
        app.get(&key, &format!("/v1/grants?agent={}", things.agent)).await.refused(404, "not_found");
        app.get(&key, "/v1/connections?site=default").await.refused(404, "not_found");
        let own = text(&app.post(&key, "/v1/agents", json!({ "slug": "own" })).await.expect(201).json(), "/id");
        for (path, body) in [
            ("/v1/grants", json!({ "agent": own, "connection": things.connection, "for_whom": "unattended" })),
            ("/v1/grants", json!({ "agent": things.agent, "connection": things.connection, "for_whom": "unattended" })),
            ("/v1/explain", json!({ "agent": things.agent, "connection": things.connection, "delivery": "proxy" })),
            ("/v1/explain", json!({ "agent": own, "connection": things.connection, "delivery": "proxy" })),
            ("/v1/connect-sessions", json!({ "provider": "reddit", "owner": format!("agent:{}", things.agent) })),
            ("/v1/clients", json!({ "name": "x", "confidential": true, "agent": things.agent })),
        ] {
            let answer = app.post(&key, path, body).await;
            assert!([400, 404, 409].contains(&answer.status.as_u16()), "{path}: {answer:?}");
        }
        let question = json!({
            "subject": { "type": "agent", "id": things.agent }, "action": { "name": "use" },
            "resource": { "type": "connection", "id": things.connection },
        });
        let told = app.post(&key, "/access/v1/evaluation", question).await.expect(200).json();
        assert_eq!((&told["decision"], &told["context"]["code"]), (&json!(false), &json!("not_found")));
    }

    /// The same person at another site is another person.
    async fn a_session_at_one_site_sees_and_answers_nothing_of_another(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let (call, wish) = (asking.hold(&pages).await, asking.propose(&pages, r#"{"provider":"lab","reason":"to look"}"#).await);
        let (base, other): (_, SiteId) = (pages.broker.base(), "other".parse().unwrap());
        site::create(base, &Actor::Operator, &other, "Other").await.unwrap();
        let new = NewKey { label: String::new(), scopes: [Scope::Signin].into(), asserts: Asserts::Any, expires_at: None };
        let key = platform::create(base, &other, &Actor::Operator, new).await.unwrap().key.id;
        let (secret, _) = session::open(base, &other, &"alice".parse().unwrap(), &key).await.unwrap();
        let mut browser = pages.browser();
        browser.jar.insert("__Host-vk_session".to_owned(), secret.expose().to_owned());
        let token = csrf(&browser.get("/").await.expect(200));
        let nothing = |prefix: &str| format!("{prefix}{NOBODY}");
        for (before, real, unreal, behind) in [
            ("/approvals/", call.as_str(), nothing("apr_"), ""),
            ("/proposals/", wish.as_str(), nothing("pro_"), ""),
            ("/account/connections/", asking.connection.as_str(), nothing("con_"), "/disconnect"),
            ("/account/connections/", asking.connection.as_str(), nothing("con_"), "/reconnect"),
        ] {
            let pages = [
                browser.get(&format!("{before}{real}{behind}")).await.expect(404),
                browser.get(&format!("{before}{unreal}{behind}")).await.expect(404),
            ];
            assert_eq!(told(&pages[0], &[real]), told(&pages[1], &[unreal.as_str()]), "{before}");
            for decision in ["yes", "no"] {
                let form = [("csrf", token.as_str()), ("decision", decision), ("delivery", "proxy")];
                let answers = [
                    browser.post_with(&format!("{before}{real}{behind}"), &form, OURS).await.expect(404),
                    browser.post_with(&format!("{before}{unreal}{behind}"), &form, OURS).await.expect(404),
                ];
                assert_eq!(told(&answers[0], &[real]), told(&answers[1], &[unreal.as_str()]), "{before} {decision}");
            }
        }
        assert_eq!(crate::pages_approvals::status(&pages, &call).await.as_str(), "pending");
        assert_eq!(pages.connections().await, 1);
    }
}
