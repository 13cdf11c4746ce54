//! Calls that wait for a person's word, and what agents ask for, by the API.

use std::time::Duration;

use http::{Method, header};
use serde_json::{Value, json};
use valetkey::{
    base::Outside,
    id::SiteId,
    oauth::{GrantType, NewClient, Params, client},
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, CallerChain},
    session,
};

use crate::support::{Answer, App, As, on_each_db, text};

/// Alice's agent with a grant that asks about her account.
pub(crate) struct Asking {
    pub(crate) agent: String,
    pub(crate) connection: String,
    pub(crate) token: As,
}

impl Asking {
    pub(crate) async fn new(app: &App) -> Self {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask" })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        Self { agent, connection, token }
    }

    pub(crate) async fn call(&self, app: &App, who: &As, approval: Option<&str>) -> Answer {
        let path = format!("/v1/proxy/{}/submit?to=canary", self.connection);
        let headers: Vec<_> = approval.iter().map(|id| ("valet-approval", *id)).collect();
        app.call(who, Method::POST, &path, Some(json!({ "say": "canary" })), &headers).await
    }

    /// Makes the call, which is held.
    pub(crate) async fn hold(&self, app: &App) -> String {
        text(&self.call(app, &self.token, None).await.expect(202).json(), "/approval")
    }
}

fn alice() -> Asserts {
    Asserts::People(["alice".parse().unwrap()].into())
}

fn ids(answer: Answer, list: &str) -> Vec<String> {
    let json = answer.expect(200).json();
    json[list].as_array().unwrap().iter().map(|one| text(one, "/id")).collect()
}

on_each_db! {
    /// T-255, T-273.
    async fn a_held_call_is_no_error_and_says_where_to_ask(app: App) {
        let asking = Asking::new(&app).await;
        let answer = asking.call(&app, &asking.token, None).await.expect(202);
        let told = answer.json();
        let id = text(&told, "/approval");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers["valet-approval"], id.as_str());
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        let mut members: Vec<_> = told.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        // As the description says of it.
        let described = serde_json::to_value(valetkey_http::document()).unwrap();
        let described = described.pointer("/components/schemas/Held/properties").unwrap().as_object().unwrap();
        let mut known: Vec<_> = described.keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(members, known);
        assert_eq!((&told["code"], &told["status"]), (&json!("approval_required"), &json!("pending")));
        assert_eq!(text(&told, "/page"), format!("https://keys.example.test/approvals/{id}?site=default"));
        let shown = app.get(&asking.token, &text(&told, "/poll")).await.expect(200).json();
        assert_eq!((text(&shown, "/id"), text(&shown, "/call/path")), (id, "/submit".to_owned()));
        assert_eq!((&shown["call"]["query"], &shown["call"]["body_bytes"]), (&json!(["to"]), &json!(16)));
        assert!(!shown.to_string().contains("canary"));
    }

    /// T-263, T-250.
    async fn an_agent_sees_its_own_calls_and_answers_none(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let path = format!("/v1/approvals/{id}");
        let other = app.agent("b", "alice").await;
        let (_, stranger) = app.token(&other, json!({ "person": "alice" })).await;
        app.get(&stranger, &path).await.refused(404, "not_found");
        app.role(&asking.agent, "carol", "operator").await;
        let (_, carol) = app.token(&asking.agent, json!({ "person": "carol" })).await;
        app.get(&carol, &path).await.refused(404, "not_found");
        app.get(&As::Stranger, &path).await.refused(401, "unauthenticated");
        app.get(&asking.token, "/v1/approvals").await.refused(403, "forbidden");
        for verb in ["approve", "refuse"] {
            app.post(&asking.token, &format!("{path}/{verb}"), json!({})).await.refused(403, "forbidden");
        }
        assert_eq!(app.get(&asking.token, &path).await.expect(200).json()["status"], "pending");
    }

    /// T-266: Not by its token, not by one that it was exchanged for, and not by another agent's; nor by a session that calls.
    async fn no_token_and_no_session_answers_by_the_api(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let (base, site) = (app.broker.base(), SiteId::default_site());
        let new = NewClient { name: "B".into(), confidential: true, grant_types: [GrantType::TokenExchange].into(), ..NewClient::default() };
        let (client, _) = client::create(base, &site, &Actor::Operator, new).await.unwrap();
        let As::Bearer(own) = &asking.token else { panic!("no token") };
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", GrantType::TokenExchange.as_str()), ("subject_token", own.as_str())])
            .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
            .finish();
        let params = Params::parse(form.as_bytes()).unwrap();
        let exchanged = app.broker.oauth().token(&client, &params, &CallerChain::default()).await.unwrap().access_token;
        let exchanged = As::Bearer(exchanged.expose().to_owned());
        assert_eq!(app.get(&exchanged, &format!("/v1/approvals/{id}")).await.expect(200).json()["status"], "pending");
        let other = app.agent("other", "alice").await;
        let (_, others) = app.token(&other, json!({ "person": "alice" })).await;
        let key = platform::create(base, &site, &Actor::Operator, NewKey { scopes: [Scope::Signin].into(), ..NewKey::default() }).await;
        let (session, _) = session::open(base, &site, &"alice".parse().unwrap(), &key.unwrap().key.id).await.unwrap();
        let cookie = format!("__Host-vk_session={}", session.expose());
        for verb in ["approve", "refuse"] {
            let path = format!("/v1/approvals/{id}/{verb}");
            for token in [&asking.token, &exchanged, &others] {
                app.post(token, &path, json!({})).await.refused(403, "forbidden");
            }
            let by_session = app.call(&As::Stranger, Method::POST, &path, Some(json!({})), &[("cookie", cookie.as_str())]).await;
            by_session.refused(401, "unauthenticated");
        }
        // Nor does a session make a call, which it could answer then.
        let path = format!("/v1/proxy/{}/submit", asking.connection);
        app.call(&As::Stranger, Method::POST, &path, None, &[("cookie", cookie.as_str())]).await.refused(401, "unauthenticated");
        assert_eq!(app.get(&asking.token, &format!("/v1/approvals/{id}")).await.expect(200).json()["status"], "pending");
        // Whoever holds the machine answers anything, and Alice by her platform what is hers.
        app.post(&As::Operator, &format!("/v1/approvals/{id}/approve"), json!({})).await.expect(200);
    }

    /// T-258, T-265.
    async fn a_platform_answers_for_the_person_it_names_and_the_call_is_made_once(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let approve = format!("/v1/approvals/{id}/approve");
        // It may speak for Alice, and does not: then Alice did not answer.
        let any = app.key_text(&[Scope::Grants], Asserts::Any).await;
        app.post(&As::Bearer(any.clone()), &approve, json!({})).await.refused(403, "forbidden");
        app.post(&As::For(any.clone(), "bob"), &approve, json!({})).await.refused(404, "not_found");
        let bobs = app.key(&[Scope::Grants, Scope::Admin], Asserts::None).await;
        app.post(&bobs, &approve, json!({})).await.refused(403, "forbidden");
        let poor = app.key(&[Scope::Agents], Asserts::Any).await;
        app.post(&poor, &approve, json!({})).await.refused(403, "missing_scope");
        asking.call(&app, &asking.token, Some(&id)).await.expect(202);

        let answered = app.post(&As::For(any.clone(), "alice"), &approve, json!({})).await.expect(200).json();
        assert!(text(&answered, "/decided_by").ends_with("/user:alice"), "{answered}");
        app.post(&As::For(any, "alice"), &approve, json!({})).await.refused(409, "conflict");
        let seen = app.get(&asking.token, &format!("/v1/approvals/{id}")).await.expect(200).json();
        assert_eq!((&seen["status"], &seen["decided_by"]), (&json!("approved"), &Value::Null));
        // Nothing outside is spoken to here: it left, and did not arrive.
        let made = asking.call(&app, &asking.token, Some(&id)).await;
        assert!(made.status.is_server_error(), "{made:?}");
        let again = asking.call(&app, &asking.token, Some(&id)).await.refused(409, "approval_used");
        assert_eq!((&again.json()["approval"], &again.json()["state"]), (&json!(id), &json!("used")));
    }

    async fn a_refusal_is_told_with_its_reason(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let key = app.key_text(&[Scope::Grants], alice()).await;
        let refuse = format!("/v1/approvals/{id}/refuse");
        app.post(&As::For(key, "alice"), &refuse, json!({ "reason": "not today" })).await.expect(200);
        let seen = app.get(&asking.token, &format!("/v1/approvals/{id}?wait=30")).await.expect(200).json();
        assert_eq!((&seen["status"], &seen["reason"]), (&json!("refused"), &json!("not today")));
        for approval in [None, Some(id.as_str())] {
            let refused = asking.call(&app, &asking.token, approval).await.refused(403, "approval_refused").json();
            assert!(text(&refused, "/detail").contains("not today"));
        }
    }

    async fn whoever_waits_for_the_answer_gets_it_when_it_comes(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let (path, approve) = (format!("/v1/approvals/{id}?wait=30"), format!("/v1/approvals/{id}/approve"));
        let answer = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            app.post(&As::Operator, &approve, json!({})).await.expect(200)
        };
        let both = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(app.get(&asking.token, &path), answer) });
        let (seen, _) = both.await.expect("it waits on");
        assert_eq!(seen.expect(200).json()["status"], "approved");
    }

    async fn the_accounts_of_the_site_are_answered_by_who_administers_it_and_not_by_who_asks(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("site", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask", "for_whom": "operators" })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let asking = Asking { agent, connection, token };
        let id = asking.hold(&app).await;
        let approve = format!("/v1/approvals/{id}/approve");
        let grants = app.key_text(&[Scope::Grants], Asserts::Any).await;
        app.post(&As::Bearer(grants), &approve, json!({})).await.refused(403, "forbidden");
        let admin = app.key_text(&[Scope::Grants, Scope::Admin], Asserts::Any).await;
        app.post(&As::For(admin.clone(), "alice"), &approve, json!({})).await.refused(403, "forbidden");
        // In nobody's name a platform would answer a token that it may have minted itself, and call that a person's word.
        for verb in ["approve", "refuse"] {
            let path = format!("/v1/approvals/{id}/{verb}");
            app.post(&As::Bearer(admin.clone()), &path, json!({})).await.refused(403, "forbidden");
        }
        let answered = app.post(&As::For(admin, "dora"), &approve, json!({})).await.expect(200).json();
        assert!(text(&answered, "/decided_by").ends_with("/user:dora"), "{answered}");
    }

    /// T-266: The token of a platform that names nobody has nobody behind it, and no platform that names nobody answers it.
    async fn a_platform_does_not_answer_the_token_that_it_minted(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("site", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask", "for_whom": "unattended" })).await;
        let platform = app.key_text(&[Scope::Agents, Scope::Grants, Scope::Admin], Asserts::Any).await;
        let minted = app.post(&As::Bearer(platform.clone()), &format!("/v1/agents/{agent}/tokens"), json!({})).await;
        let token = As::Bearer(text(&minted.expect(201).json(), "/token"));
        let asking = Asking { agent, connection: connection.clone(), token };
        let id = asking.hold(&app).await;
        let wish = json!({ "connection": connection, "for_whom": "unattended", "reason": "why" });
        let wished = text(&app.post(&asking.token, "/v1/proposals", wish).await.expect(201).json(), "/id");
        for path in [format!("/v1/approvals/{id}/approve"), format!("/v1/proposals/{wished}/accept")] {
            app.post(&As::Bearer(platform.clone()), &path, json!({})).await.refused(403, "forbidden");
            app.post(&As::For(platform.clone(), "dora"), &path, json!({})).await.expect(200);
        }
    }

    /// No page shows what is the site's, so none is named: what answers is, with the site where it is not the usual one.
    async fn what_no_page_shows_names_the_command_that_answers(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("site", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask", "for_whom": "unattended" })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let asking = Asking { agent, connection: connection.clone(), token };
        let held = asking.call(&app, &asking.token, None).await.expect(202).json();
        let command = format!("valetkey approval approve {}", text(&held, "/approval"));
        assert_eq!((&held["page"], &held["command"]), (&Value::Null, &json!(command)));
        assert!(text(&held, "/detail").contains(&command), "{held}");
        let wish = json!({ "connection": connection, "for_whom": "unattended", "reason": "why" });
        let made = app.post(&asking.token, "/v1/proposals", wish).await.expect(201).json();
        let command = format!("valetkey proposal accept {}", text(&made, "/id"));
        assert_eq!((&made["page"], &made["command"]), (&Value::Null, &json!(command)));
        let elsewhere: SiteId = "elsewhere".parse().unwrap();
        assert_eq!(Outside::command("proposal accept pro_1", &elsewhere), "valetkey proposal accept pro_1 --site elsewhere");
    }

    /// T-259, T-263, T-274, T-275.
    async fn a_platform_lists_what_it_reaches(app: App) {
        let asking = Asking::new(&app).await;
        let hers = asking.hold(&app).await;
        let bobs = app.account("users/bob", "").await;
        app.grant(json!({ "agent": asking.agent, "connection": bobs, "effect": "ask", "for_whom": "unattended" })).await;
        let (_, unattended) = app.token(&asking.agent, json!({})).await;
        let his = Asking { agent: asking.agent.clone(), connection: bobs.clone(), token: unattended };
        let his = his.hold(&app).await;
        let key = app.key(&[Scope::Grants], alice()).await;
        assert_eq!(ids(app.get(&key, "/v1/approvals").await, "approvals"), std::slice::from_ref(&hers));
        app.get(&key, &format!("/v1/approvals/{his}")).await.refused(404, "not_found");
        assert_eq!(ids(app.get(&As::Operator, "/v1/approvals").await, "approvals"), [hers.clone(), his.clone()]);
        assert_eq!(ids(app.get(&As::Operator, "/v1/approvals?limit=1").await, "approvals"), std::slice::from_ref(&hers));
        let after = app.get(&As::Operator, &format!("/v1/approvals?after={hers}")).await;
        assert_eq!(ids(after, "approvals"), std::slice::from_ref(&his));
        assert_eq!(ids(app.get(&As::Operator, &format!("/v1/approvals?connection={bobs}")).await, "approvals"), std::slice::from_ref(&his));
        app.post(&As::Operator, &format!("/v1/approvals/{his}/refuse"), json!({})).await.expect(200);
        assert_eq!(ids(app.get(&As::Operator, "/v1/approvals?waiting=true&agent=a").await, "approvals"), [hers]);
    }

    async fn an_approval_that_is_named_twice_or_wrongly_is_refused(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let path = format!("/v1/proxy/{}/submit", asking.connection);
        for values in [&[id.as_str(), id.as_str()][..], &["apr_1"], &[""], &["*"]] {
            let headers: Vec<_> = values.iter().map(|value| ("valet-approval", *value)).collect();
            app.call(&asking.token, Method::POST, &path, None, &headers).await.refused(400, "invalid_request");
        }
    }

    async fn an_agent_asks_for_access_and_a_person_narrows_it(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let wish = json!({
            "provider": "http_basic", "operations": ["GET /report", "POST /report"], "delivery": ["proxy", "reveal"],
            "reason": "to file the report",
        });
        let made = app.post(&token, "/v1/proposals", wish.clone()).await.expect(201).json();
        let id = text(&made, "/id");
        assert_eq!((&made["addressee"], &made["status"]), (&json!("alice"), &json!("pending")));
        assert_eq!(text(&made, "/page"), format!("https://keys.example.test/proposals/{id}?site=default"));
        app.get(&token, &format!("/v1/proxy/{connection}/report")).await.refused(404, "not_found");

        let key = app.key_text(&[Scope::Grants], Asserts::Any).await;
        let (accept, alice) = (format!("/v1/proposals/{id}/accept"), As::For(key.clone(), "alice"));
        app.post(&token, &accept, json!({ "connection": connection })).await.refused(403, "forbidden");
        app.post(&As::Bearer(key.clone()), &accept, json!({ "connection": connection })).await.refused(403, "forbidden");
        app.post(&As::For(key, "bob"), &accept, json!({ "connection": connection })).await.refused(404, "not_found");
        let wider = json!({ "connection": connection, "operations": ["DELETE /report"] });
        app.post(&alice, &accept, wider).await.refused(400, "invalid_request");
        assert_eq!(ids(app.get(&alice, "/v1/proposals?waiting=true").await, "proposals"), std::slice::from_ref(&id));
        let less = json!({ "connection": connection, "operations": ["GET /report"], "delivery": ["proxy"], "effect": "ask" });
        let granted = app.post(&alice, &accept, less).await.expect(200).json();
        assert_eq!(
            (&granted["operations"], &granted["delivery"], &granted["effect"], &granted["grantor"], &granted["for_whom"]),
            (&json!(["GET /report"]), &json!(["proxy"]), &json!("ask"), &json!("alice"), &json!("owner"))
        );
        let seen = app.get(&token, &format!("/v1/proposals/{id}")).await.expect(200).json();
        assert_eq!((&seen["status"], &seen["grant"], &seen["decided_by"]), (&json!("accepted"), &granted["id"], &Value::Null));
        app.get(&token, &format!("/v1/proxy/{connection}/report")).await.expect(202);
        let reveal = format!("/v1/connections/{connection}/token");
        app.post(&token, &reveal, json!({})).await.refused(403, "grant_denied");
    }

    async fn an_agent_sees_its_own_proposals_and_a_dead_token_none(app: App) {
        let agent = app.agent("a", "alice").await;
        let (id_of_token, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let wish = json!({ "provider": "http_basic", "reason": "to look" });
        let id = text(&app.post(&token, "/v1/proposals", wish.clone()).await.expect(201).json(), "/id");
        let other = app.agent("b", "alice").await;
        let (_, stranger) = app.token(&other, json!({ "person": "alice" })).await;
        app.get(&stranger, &format!("/v1/proposals/{id}")).await.refused(404, "not_found");
        for wrong in [
            json!({ "provider": "http_basic" }),
            json!({ "reason": "why" }),
            json!({ "provider": "http_basic", "reason": "why", "operations": ["no pattern"] }),
            json!({ "provider": "http_basic", "reason": "why", "grantor": "alice" }),
        ] {
            app.post(&token, "/v1/proposals", wrong).await.refused(400, "invalid_request");
        }
        let admin = app.key(&[Scope::Grants, Scope::Admin], Asserts::Any).await;
        app.post(&admin, "/v1/proposals", wish.clone()).await.refused(403, "forbidden");
        app.delete(&As::Operator, &format!("/v1/tokens/{id_of_token}")).await.expect(204);
        app.get(&token, &format!("/v1/proposals/{id}")).await.refused(401, "unauthenticated");
        app.post(&token, "/v1/proposals", wish).await.refused(401, "unauthenticated");
    }
}
