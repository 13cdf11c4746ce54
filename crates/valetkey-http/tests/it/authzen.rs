//! Access evaluation by AuthZEN, and the lists of who reaches what: faces on the one decision.

use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

const ONE: &str = "/access/v1/evaluation";
const MANY: &str = "/access/v1/evaluations";

fn about(agent: &str, action: &str, kind: &str, id: &str) -> Value {
    json!({ "subject": { "type": "agent", "id": agent }, "action": { "name": action }, "resource": { "type": kind, "id": id } })
}

on_each_db! {
    async fn an_evaluation_says_what_a_use_would_come_to(app: App) {
        let agent = app.agent("a", "alice").await;
        let (given, kept) = (app.account("users/alice", "given").await, app.account("users/alice", "kept").await);
        app.grant(json!({ "agent": agent, "connection": given, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        for (connection, action, expected) in [
            (&given, "reveal", true),
            (&given, "use", true),
            (&given, "proxy", false),
            (&kept, "reveal", false),
            (&kept, "use", false),
        ] {
            let question = about(&agent, action, "connection", connection);
            let used = app.post(&token, &format!("/v1/connections/{connection}/token"), json!({})).await.status.is_success();
            for who in [&token, &As::Operator] {
                let told = app.post(who, ONE, question.clone()).await.expect(200).json();
                assert_eq!(told["decision"], expected, "{who:?} {action} {connection}: {told}");
                assert_eq!(told["context"]["effect"], if expected { "allow" } else { "deny" });
                assert!(action != "reveal" || used == expected);
            }
        }
        // By its slug an agent is found as well.
        let told = app.post(&As::Operator, ONE, about("a", "use", "connection", &given)).await.expect(200).json();
        assert_eq!((&told["decision"], &told["context"]["connection"]), (&json!(true), &json!(given)));
    }

    async fn a_provider_is_asked_about_as_a_whole(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let ask = async |who: &As, person: Option<&str>, provider: &str| {
            let mut question = about(&agent, "use", "provider", provider);
            question["subject"]["properties"] = json!({ "person": person });
            app.post(who, ONE, question).await.expect(200).json()
        };
        for who in [&token, &As::Operator] {
            assert_eq!(ask(who, Some("alice"), "http_basic").await["context"]["code"], "not_found");
        }
        app.grant(json!({ "agent": agent, "connection": connection })).await;
        for who in [&token, &As::Operator] {
            let told = ask(who, Some("alice"), "http_basic").await;
            assert_eq!((&told["decision"], &told["context"]["connection"]), (&json!(true), &json!(connection)), "{told}");
            assert_eq!(ask(who, Some("bob"), "http_basic").await["decision"], false);
            assert_eq!(ask(who, Some("alice"), "reddit").await["decision"], false);
        }
        assert_eq!(ask(&As::Operator, None, "http_basic").await["decision"], false);
        // An agent that gives its person up asks without them.
        let question = about(&agent, "use", "provider", "http_basic");
        let told = app.call(&token, http::Method::POST, ONE, Some(question), &[("valet-unattended", "true")]).await.expect(200).json();
        assert_eq!(told["decision"], false);
    }

    /// More than are looked at, and none of those fits: that is told as an error, which a plain no would hide.
    async fn a_provider_with_too_many_connections_to_look_at_is_no_plain_no(app: App) {
        let agent = app.agent("a", "alice").await;
        for n in 0..101 {
            let connection = app.account("site", &format!("n{n}")).await;
            app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["proxy"] })).await;
        }
        let (_, token) = app.token(&agent, json!({})).await;
        let question = about(&agent, "reveal", "provider", "http_basic");
        for who in [&token, &As::Operator] {
            let told = app.post(who, ONE, question.clone()).await.expect(200).json();
            assert_eq!((&told["decision"], &told["context"]["code"]), (&json!(false), &Value::Null), "{told}");
            assert!(text(&told, "/context/error/message").contains("there are more"), "{told}");
        }
        let fits = about(&agent, "proxy", "provider", "http_basic");
        assert_eq!(app.post(&token, ONE, fits).await.expect(200).json()["decision"], true);
    }

    async fn what_needs_a_person_is_no_yes(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let grant = app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": "ask", "operations": ["POST /x"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let mut question = about(&agent, "proxy", "connection", &connection);
        question["action"]["properties"] = json!({ "method": "POST", "path": "/x" });
        let told = app.post(&As::Operator, ONE, question.clone()).await.expect(200).json();
        assert_eq!((&told["decision"], &told["context"]["effect"], &told["context"]["code"]), (&json!(false), &json!("ask"), &json!("approval_required")));
        assert_eq!((&told["context"]["grant"], &told["context"]["reasons"][0]["fact"]), (&json!(grant), &json!("asks")));
        let told = app.post(&token, ONE, question.clone()).await.expect(200).json();
        assert_eq!((&told["context"]["effect"], &told["context"]["reasons"]), (&json!("ask"), &Value::Null));
        question["action"]["properties"]["path"] = json!("/y");
        let told = app.post(&As::Operator, ONE, question).await.expect(200).json();
        assert_eq!(told["context"]["effect"], "deny");
        let me = app.get(&token, "/v1/me").await.expect(200).json();
        assert_eq!((&me["connections"][0]["delivery"], &me["connections"][0]["asks"]), (&json!(["proxy"]), &json!(["proxy"])));
        let held = app.call(&token, http::Method::POST, &format!("/v1/proxy/{connection}/x"), None, &[]).await.expect(202);
        assert_eq!(held.code(), "approval_required");
    }

    /// A grant of which every use is taken is a no with the reason, and asking takes nothing.
    async fn a_grant_without_a_use_left_is_a_no(app: App) {
        for (limit, fact, code) in [
            (json!({ "max_uses": 2 }), "used_up", "grant_denied"),
            (json!({ "rate": "2/1h" }), "rate", "rate_limited"),
        ] {
            let agent = app.agent(&fact.replace('_', "-"), "alice").await;
            let connection = app.account("users/alice", fact).await;
            let mut new = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] });
            new.as_object_mut().unwrap().extend(limit.as_object().unwrap().clone());
            app.grant(new).await;
            let (_, token) = app.token(&agent, json!({})).await;
            let asked = async |who: &As, kind: &str, id: &str| app.post(who, ONE, about(&agent, "use", kind, id)).await.expect(200).json();
            let both = [("connection", connection.as_str()), ("provider", "http_basic")];
            for _ in 0..2 {
                for (who, (kind, id)) in [(&token, both[0]), (&As::Operator, both[1]), (&token, both[1]), (&As::Operator, both[0])] {
                    assert_eq!(asked(who, kind, id).await["decision"], true);
                }
                app.post(&token, &format!("/v1/connections/{connection}/token"), json!({})).await.expect(200);
            }
            let refused = app.post(&token, &format!("/v1/connections/{connection}/token"), json!({})).await;
            assert_eq!(refused.code(), code);
            for (kind, id) in both {
                let told = asked(&As::Operator, kind, id).await;
                assert_eq!((&told["decision"], &told["context"]["effect"]), (&json!(false), &json!("deny")), "{told}");
                assert_eq!((&told["context"]["code"], &told["context"]["reasons"][0]["fact"]), (&json!(code), &json!(fact)), "{told}");
                let told = asked(&token, kind, id).await;
                assert_eq!((&told["context"]["code"], &told["context"]["reasons"]), (&json!(code), &Value::Null), "{told}");
                assert!(told["context"]["message"].as_str().unwrap().starts_with("grant gra_"), "{told}");
            }
            let question = json!({ "agent": agent, "connection": connection, "delivery": "reveal" });
            assert_eq!(app.post(&As::Operator, "/v1/explain", question).await.expect(200).json()["code"], code);
        }
    }

    /// T-248.
    /// An agent asks about itself. What it says of another one, it is not told.
    async fn an_agent_hears_nothing_of_others(app: App) {
        let (own, other) = (app.agent("own", "alice").await, app.agent("other", "alice").await);
        let connection = app.account("users/alice", "").await;
        for agent in [&own, &other] {
            app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        }
        app.grant(json!({ "agent": own, "connection": connection, "for_whom": "unattended", "session": "night", "delivery": ["reveal"] })).await;
        let (id, token) = app.token(&own, json!({})).await;
        let (_, night) = app.token(&own, json!({ "session": "night" })).await;
        let nothing = json!({ "effect": "deny", "code": "not_found", "message": "there is nothing that may be used" });
        for (kind, place) in [("connection", connection.as_str()), ("provider", "http_basic")] {
            assert_eq!(app.post(&token, ONE, about(&own, "use", kind, place)).await.expect(200).json()["decision"], true);
            let mut for_bob = about(&own, "use", kind, place);
            for_bob["subject"]["properties"] = json!({ "person": "bob" });
            let session = json!({ "type": "session", "id": "night" });
            let mut in_session = about(&own, "reveal", kind, place);
            in_session["subject"] = session;
            for question in [about(&other, "use", kind, place), about("nobody", "use", kind, place), for_bob, in_session.clone()] {
                let told = app.post(&token, ONE, question.clone()).await.expect(200).json();
                assert_eq!((&told["decision"], &told["context"]), (&json!(false), &nothing), "{question}");
            }
            assert_eq!(app.post(&night, ONE, in_session.clone()).await.expect(200).json()["decision"], true);
            // A platform names the session's agent.
            assert_eq!(app.post(&As::Operator, ONE, in_session.clone()).await.expect(200).json()["context"]["error"]["status"], 400);
            in_session["subject"]["properties"] = json!({ "agent": own });
            assert_eq!(app.post(&As::Operator, ONE, in_session).await.expect(200).json()["decision"], true);
        }
        app.delete(&As::Operator, &format!("/v1/tokens/{id}")).await.expect(204);
        for (kind, place) in [("connection", connection.as_str()), ("provider", "http_basic"), ("provider", "reddit")] {
            app.post(&token, ONE, about(&own, "use", kind, place)).await.refused(401, "unauthenticated");
        }
        for odd in [json!({}), about(&own, "fly", "connection", &connection), about(&own, "use", "planet", "mars")] {
            app.post(&token, ONE, odd.clone()).await.refused(401, "unauthenticated");
            app.post(&token, MANY, json!({ "evaluations": [odd] })).await.refused(401, "unauthenticated");
        }
    }

    async fn a_platform_hears_of_what_it_reaches(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/bob", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        let key = app.key(&[Scope::Grants], Asserts::People(["alice".parse().unwrap()].into())).await;
        for (kind, place) in [("connection", connection.as_str()), ("provider", "http_basic")] {
            assert_eq!(app.post(&As::Operator, ONE, about(&agent, "use", kind, place)).await.expect(200).json()["decision"], true);
            let told = app.post(&key, ONE, about(&agent, "use", kind, place)).await.expect(200).json();
            assert_eq!((&told["decision"], &told["context"]["code"]), (&json!(false), &json!("not_found")));
        }
        // What it does not reach is not told from what is not there.
        let ask = async |id: &str| app.post(&key, ONE, about(&agent, "use", "connection", id)).await.expect(200).bytes;
        assert_eq!(ask(&connection).await, ask(&format!("con_{}", "0".repeat(32))).await);
        assert_eq!(app.get(&key, &format!("/v1/agents/{agent}/reach")).await.expect(200).json()["ways"], json!([]));
        app.get(&key, &format!("/v1/connections/{connection}/who-can")).await.refused(404, "not_found");
        let all = app.get(&As::Operator, &format!("/v1/agents/{agent}/reach")).await.expect(200).json();
        let way = &all["ways"][0];
        assert_eq!((text(way, "/connection"), text(way, "/proxy"), text(way, "/reveal")), (connection.clone(), "allow".into(), "deny".into()));
        let all = app.get(&As::Operator, &format!("/v1/connections/{connection}/who-can")).await.expect(200).json();
        assert_eq!((&all["ways"][0]["agent"], &all["ways"][0]["person"]), (&json!(agent), &Value::Null));
    }

    async fn a_batch_is_answered_in_its_order_and_stops_where_it_is_told_to(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let yes = json!({ "resource": { "type": "connection", "id": connection } });
        let no = json!({ "resource": { "type": "provider", "id": "reddit" } });
        let odd = json!({ "resource": { "type": "planet", "id": "mars" } });
        let decisions = async |who: &As, semantic: Value, list: &[&Value]| {
            let mut batch = about(&agent, "proxy", "connection", "con_x");
            batch["evaluations"] = json!(list);
            if !semantic.is_null() {
                batch["options"] = json!({ "evaluations_semantic": semantic });
            }
            let told = app.post(who, MANY, batch).await.expect(200).json();
            told["evaluations"].as_array().unwrap().iter().map(|one| one["decision"].as_bool().unwrap()).collect::<Vec<_>>()
        };
        for who in [&token, &As::Operator] {
            let all = [&yes, &no, &yes, &odd];
            assert_eq!(decisions(who, Value::Null, &all).await, [true, false, true, false]);
            assert_eq!(decisions(who, json!("execute_all"), &all).await, [true, false, true, false]);
            assert_eq!(decisions(who, json!("deny_on_first_deny"), &all).await, [true, false]);
            assert_eq!(decisions(who, json!("permit_on_first_permit"), &[&no, &odd, &yes, &no]).await, [false, false, true]);
        }
        let mut batch = about(&agent, "proxy", "connection", &connection);
        batch["evaluations"] = json!([odd]);
        let told = app.post(&As::Operator, MANY, batch.clone()).await.expect(200).json();
        assert_eq!(told["evaluations"][0]["context"]["error"]["status"], 400);
        // Without questions of its own it is a single one.
        batch["evaluations"] = json!([]);
        assert_eq!(app.post(&As::Operator, MANY, batch.clone()).await.expect(200).json()["decision"], true);
        batch["evaluations"] = json!(vec![&yes; 101]);
        app.post(&As::Operator, MANY, batch.clone()).await.refused(400, "invalid_request");
        batch["evaluations"] = json!([yes]);
        batch["options"] = json!({ "evaluations_semantic": "sometimes" });
        app.post(&As::Operator, MANY, batch).await.refused(400, "invalid_request");
    }

    async fn a_question_that_cannot_be_understood_gets_no_yes(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let fine = about(&agent, "proxy", "connection", &connection);
        app.post(&As::Operator, ONE, fine.clone()).await.expect(200);
        for (at, value) in [
            ("/subject/type", json!("user")),
            ("/subject/id", json!("")),
            ("/action/name", json!("fly")),
            ("/resource/type", json!("planet")),
            ("/resource/id", json!("con_x")),
            ("/resource/id", json!("")),
            ("/subject", json!({ "type": "agent", "id": "a", "properties": { "person": 42 } })),
            ("/subject", json!({ "type": "agent", "id": "a", "properties": { "person": "-1" } })),
            ("/subject", json!({ "type": "session", "id": "night" })),
            ("/action", json!({ "name": "proxy", "properties": { "method": "GET" } })),
            ("/action", json!({ "name": "proxy", "properties": { "method": "G T", "path": "/" } })),
            ("/action", json!({ "name": "use", "properties": { "method": "GET", "path": "/" } })),
        ] {
            let mut question = fine.clone();
            *question.pointer_mut(at).unwrap() = value.clone();
            let told = app.post(&As::Operator, ONE, question).await.expect(200).json();
            assert_eq!((&told["decision"], &told["context"]["error"]["status"]), (&json!(false), &json!(400)), "{at} {value}: {told}");
        }
        for (at, value) in [("/subject", json!(null)), ("/action", json!({})), ("/resource/id", json!(7)), ("/subject/type", json!(null))] {
            let mut question = fine.clone();
            *question.pointer_mut(at).unwrap() = value;
            app.post(&As::Operator, ONE, question).await.refused(400, "invalid_request");
        }
        // Members that the standard leaves to others do no harm.
        let mut more = fine;
        more["context"] = json!({ "time": "2026-11-22T00:00:00Z" });
        more["resource"]["properties"] = json!({ "color": "red" });
        app.post(&As::Operator, ONE, more).await.expect(200);
    }

    async fn the_endpoints_are_where_the_metadata_says(app: App) {
        let told = app.get(&As::Stranger, "/.well-known/authzen-configuration").await.expect(200).json();
        assert_eq!(told["policy_decision_point"], "https://keys.example.test");
        assert_eq!(told["access_evaluation_endpoint"], format!("https://keys.example.test{ONE}"));
        assert_eq!(told["access_evaluations_endpoint"], format!("https://keys.example.test{MANY}"));
        for path in [ONE, MANY] {
            app.post(&As::Stranger, path, json!({})).await.refused(401, "unauthenticated");
            let key = app.key(&[Scope::Connect], Asserts::Any).await;
            app.post(&key, path, json!({})).await.refused(403, "missing_scope");
        }
        let asked = app.call(&As::Operator, http::Method::POST, ONE, Some(json!({})), &[("x-request-id", "pep-1")]).await;
        assert_eq!(asked.headers["x-request-id"], "pep-1");
    }
}
