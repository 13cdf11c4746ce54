//! Explaining and enforcing are the same (promise 6).

use serde_json::{Value, json};
use valetkey::{
    db::testing,
    platform::{Asserts, Scope},
};

use crate::support::{App, As, on_each_db, text};

on_each_db! {
    /// T-121, T-232.
    async fn explain_says_what_enforcement_does(app: App) {
        let people = [None, Some("alice"), Some("bob"), Some("carol")];
        let grants = [
            json!({ "for_whom": "owner", "delivery": ["reveal"] }),
            json!({ "for_whom": "unattended", "delivery": ["reveal", "proxy"] }),
            json!({ "for_whom": "operators", "delivery": ["reveal"] }),
            json!({ "for_whom": ["bob"], "delivery": ["reveal"] }),
            json!({ "for_whom": "operators", "delivery": ["proxy"] }),
            json!({ "for_whom": "operators", "delivery": ["reveal"], "operations": ["GET /x"] }),
            Value::Null,
        ];
        let mut allowed = 0;
        for (i, grant) in grants.iter().enumerate() {
            let agent = app.agent(&format!("agent{i}"), "alice").await;
            // Carol may operate it, bob too; then bob may not any more.
            app.role(&agent, "carol", "operator").await;
            app.role(&agent, "bob", "operator").await;
            let connection = app.account("users/alice", &format!("account{i}")).await;
            if let Value::Object(_) = grant {
                let mut new = grant.clone();
                new["agent"] = json!(agent);
                new["connection"] = json!(connection);
                app.grant(new).await;
            }
            for person in people {
                let (_, token) = app.token(&agent, json!({ "person": person })).await;
                if person == Some("bob") && i == 2 {
                    app.role(&agent, "bob", "viewer").await;
                }
                for (delivery, enforced) in [("reveal", true), ("proxy", false)] {
                    let question = json!({ "agent": agent, "connection": connection, "delivery": delivery, "person": person });
                    let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
                    let says_yes = told["effect"] == "allow";
                    assert!(!told["reasons"].as_array().unwrap().is_empty());
                    let me = app.get(&token, "/v1/me").await.expect(200).json();
                    let listed = me["connections"].as_array().unwrap().iter().find(|c| c["id"] == json!(connection));
                    let listed = listed.is_some_and(|c| c["delivery"].as_array().unwrap().contains(&json!(delivery)));
                    assert_eq!(listed, says_yes, "{grant} {person:?} {delivery}: {told}");
                    if enforced {
                        let done = app.post(&token, &format!("/v1/connections/{connection}/token"), json!({})).await;
                        assert_eq!(done.status.is_success(), says_yes, "{grant} {person:?} {delivery}: {told}");
                        if !says_yes {
                            assert_eq!(json!(done.code()), told["code"], "{grant} {person:?}: {told}");
                        }
                    }
                    allowed += usize::from(says_yes);
                }
            }
        }
        assert!(allowed > 5, "a test in which everything is refused shows little");
    }

    /// The same for grants that allow, ask and deny beside one another, in mixtures that nobody thought of.
    async fn explain_says_what_enforcement_does_for_any_mixture_of_grants(app: App) {
        let shapes = [
            json!({ "for_whom": "owner", "delivery": ["reveal", "proxy"] }),
            json!({ "for_whom": "unattended", "delivery": ["reveal", "proxy"] }),
            json!({ "for_whom": "operators" }),
            json!({ "for_whom": ["bob"], "operations": ["GET /ok/*"] }),
            json!({ "for_whom": "unattended", "operations": ["/ok/*"], "session": "night" }),
            json!({ "for_whom": "owner", "effect": "ask" }),
            json!({ "for_whom": "operators", "effect": "ask", "delivery": ["reveal"] }),
            json!({ "for_whom": "unattended", "effect": "ask", "operations": ["GET /ok/1"] }),
            json!({ "effect": "deny", "operations": ["GET /ok/1"] }),
            json!({ "effect": "deny", "for_whom": ["bob"] }),
            json!({ "effect": "deny", "delivery": ["reveal"], "session": "night" }),
        ];
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        let mut dice = 1u32;
        let mut roll = |sides: usize| {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(dice >> 16).unwrap() % sides
        };
        for number in 0..24 {
            let agent = app.agent(&format!("agent{number}"), "alice").await;
            app.role(&agent, "bob", "operator").await;
            let connection = app.account("users/alice", &format!("account{number}")).await;
            for _ in 0..3 {
                let mut new = shapes[roll(shapes.len())].clone();
                (new["agent"], new["connection"]) = (json!(agent), json!(connection));
                app.grant(new).await;
            }
            let person = [None, Some("alice"), Some("bob")][roll(3)];
            let session = [None, Some("night")][roll(2)];
            let (_, token) = app.token(&agent, json!({ "person": person, "session": session })).await;
            for path in ["/ok/1", "/ok/2", "/no"] {
                let operation = json!({ "method": "GET", "path": path });
                let question = json!({
                    "agent": agent, "connection": connection, "delivery": "proxy", "person": person, "session": session, "operation": operation,
                });
                let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
                let done = app.get(&token, &format!("/v1/proxy/{connection}{path}")).await.code();
                // Allowed, it goes out, and there is nobody in this test's outside.
                assert_eq!(told["code"].as_str().unwrap_or("upstream_unreachable"), done, "{person:?} {session:?} {path}: {told}");
                *seen.entry(text(&told, "/effect")).or_default() += 1;
            }
            let question = json!({ "agent": agent, "connection": connection, "delivery": "reveal", "person": person, "session": session });
            let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
            let done = app.post(&token, &format!("/v1/connections/{connection}/token"), json!({})).await;
            let code = if done.status == 200 { Value::Null } else { json!(done.code()) };
            assert_eq!(told["code"], code, "{person:?} {session:?}: {told}");
            *seen.entry(text(&told, "/effect")).or_default() += 1;
        }
        assert!(seen.len() == 3 && seen.values().all(|count| *count > 2), "{seen:?}");
    }

    /// Also what the token itself is only told a 401 of.
    async fn a_token_is_explained_by_its_id_with_what_is_wrong_with_it(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "carol", "operator").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "operators", "delivery": ["reveal"] })).await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let minter = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let path = format!("/v1/agents/{agent}/tokens");
        let minted = app.post(&As::For(minter, "carol"), &path, json!({ "unattended": true })).await.expect(201).json();
        let minted = (text(&minted, "/id"), As::Bearer(text(&minted, "/token")));
        let narrow = json!({ "person": "carol", "ceiling": { "providers": ["reddit"] } });
        let closed = app.token(&agent, narrow).await;
        let ended = app.token(&agent, json!({ "expires_at": app.clock.now().plus(std::time::Duration::from_secs(60)) })).await;
        let revoked = app.token(&agent, json!({})).await;
        let carols = app.token(&agent, json!({ "person": "carol" })).await;
        let ask = async |(id, _): &(String, As)| {
            let question = json!({ "token": id, "connection": connection, "delivery": "reveal" });
            let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
            (told["code"].clone(), text(&told, "/reasons/0/fact"), text(&told, "/effect"))
        };
        for token in [&minted, &ended, &revoked, &carols] {
            assert_eq!(ask(token).await, (Value::Null, "grant".to_owned(), "allow".to_owned()));
        }
        app.delete(&As::Operator, &format!("/v1/tokens/{}", revoked.0)).await.expect(204);
        app.clock.advance(std::time::Duration::from_secs(60));
        app.role(&agent, "carol", "viewer").await;
        for (token, fact) in [
            (&minted, "minter_role"),
            (&ended, "token_expired"),
            (&revoked, "token_revoked"),
            (&carols, "person_role"),
        ] {
            let told = ask(token).await;
            let done = app.post(&token.1, &format!("/v1/connections/{connection}/token"), json!({})).await;
            assert_eq!((&told.0, told.1.as_str(), told.2.as_str()), (&json!(done.code()), fact, "deny"));
        }
        app.role(&agent, "carol", "operator").await;
        assert_eq!(ask(&closed).await, (json!("grant_denied"), "ceiling".to_owned(), "deny".to_owned()));
        // Hers, in a call that gives her up: what is granted for nobody is for it.
        let question = json!({ "token": carols.0, "connection": connection, "delivery": "reveal", "unattended": true });
        let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
        assert_eq!((&told["effect"], &told["person"]), (&json!("allow"), &Value::Null));
        for (wrong, status, code) in [
            (json!({ "token": carols.0, "agent": agent }), 400, "invalid_request"),
            (json!({ "token": carols.0, "person": "carol" }), 400, "invalid_request"),
            (json!({}), 400, "invalid_request"),
            (json!({ "token": format!("tok_{}", "0".repeat(32)) }), 404, "not_found"),
        ] {
            let mut question = json!({ "connection": connection, "delivery": "reveal" });
            question.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
            app.post(&As::Operator, "/v1/explain", question).await.refused(status, code);
        }
    }

    async fn an_operation_is_explained_as_it_would_be_enforced(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "operations": ["GET /ok/*"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        for (method, path, effect) in [("GET", "/ok/1", "allow"), ("POST", "/ok/1", "deny"), ("GET", "/ok/1/2", "deny"), ("GET", "/", "deny")] {
            let operation = json!({ "method": method, "path": path });
            let question = json!({ "agent": "a", "connection": connection, "delivery": "proxy", "operation": operation });
            let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
            assert_eq!(told["effect"], effect, "{method} {path}: {told}");
            let done = app.call(&token, method.parse().unwrap(), &format!("/v1/proxy/{connection}{path}"), None, &[]).await;
            // Allowed, it goes out, and there is nobody in this test's outside.
            assert_eq!(done.code(), if effect == "allow" { "upstream_unreachable" } else { "grant_denied" });
        }
    }

    /// What is refused whatever is granted is refused here too, with the same code.
    async fn explain_knows_the_rules_of_the_proxy(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let path = format!("/v1/connections/{connection}");
        let host = text(&app.get(&As::Operator, &path).await.expect(200).json(), "/hosts/0");
        let (_, token) = app.token(&agent, json!({})).await;
        let ask = async |method: &str, host: Option<&str>, path: &str| {
            let operation = json!({ "method": method, "host": host, "path": path });
            let question = json!({ "agent": "a", "connection": connection, "delivery": "proxy", "operation": operation });
            app.post(&As::Operator, "/v1/explain", question).await.expect(200).json()
        };
        // Before anything is granted the rules are not what stands in the way.
        assert_eq!(ask("TRACE", None, "/x").await["code"], "not_found");
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        let mut refused = 0;
        for (method, other, path) in [
            ("GET", None, "/x"),
            ("GET", Some(host.as_str()), "/x/y"),
            ("GET", Some("EVIL.example"), "/x"),
            ("GET", Some(""), "/x"),
            ("TRACE", None, "/x"),
            ("GET", None, "/x/../y"),
            ("GET", None, "/x//y"),
            ("GET", None, "/x%2fy"),
            ("GET", None, "/%78"),
            ("POST", None, "/batch"),
            ("GET", None, "/batch"),
            ("POST", None, "/"),
        ] {
            let told = ask(method, other, path).await;
            let at = other.map(|other| format!("/~{other}")).unwrap_or_default();
            let uri = format!("/v1/proxy/{connection}{at}{path}");
            let done = app.call(&token, method.parse().unwrap(), &uri, None, &[]).await;
            // What passes goes out, and there is nobody in this test's outside.
            let passes = done.code() == "upstream_unreachable";
            assert_eq!(told["effect"] == "allow", passes, "{method} {other:?} {path}: {told} {}", done.code());
            if !passes {
                assert_eq!(told["code"], done.code(), "{method} {other:?} {path}: {told}");
                assert_eq!(told["reasons"][0]["fact"], done.code());
                refused += 1;
            }
        }
        assert_eq!(refused, 9);
    }

    async fn explain_knows_the_paths_that_deal_in_credentials(app: App) {
        let agent = app.agent("a", "alice").await;
        let account = json!({ "account": { "access_token": "t", "refresh_token": "r" } });
        let path = "/v1/providers/reddit/accounts/users/alice";
        let connection = text(&app.put(&As::Operator, path, account).await.expect(201).json(), "/connection");
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        // Written from outside, the account waits for its owner's word.
        let key = app.key(&[Scope::AccountsWrite], Asserts::Any).await;
        app.post(&key, &format!("/v1/connections/{connection}/confirm"), json!({})).await.expect(200);
        let (_, token) = app.token(&agent, json!({})).await;
        for (path, code) in [("/api/v1/access_token", "credential_path"), ("/prefs/apps/x", "credential_path"), ("/api/v1/me", "")] {
            let operation = json!({ "method": "GET", "path": path });
            let question = json!({ "agent": agent, "connection": connection, "delivery": "proxy", "operation": operation });
            let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
            assert_eq!(told["code"].as_str().unwrap_or_default(), code, "{path}: {told}");
            if !code.is_empty() {
                app.get(&token, &format!("/v1/proxy/{connection}{path}")).await.refused(403, code);
            }
        }
    }

    /// T-223.
    async fn a_caller_may_give_its_person_up_and_gain_none(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let me = async |headers: &[(&str, &str)]| app.call(&token, http::Method::GET, "/v1/me", None, headers).await;
        let with = me(&[]).await.expect(200).json();
        assert_eq!((&with["user"], &with["connections"]), (&json!("alice"), &json!([])));
        let without = me(&[("valet-unattended", "true")]).await.expect(200).json();
        assert_eq!((&without["user"], &without["connections"][0]["id"]), (&json!(null), &json!(connection)));
        me(&[("valet-unattended", "false")]).await.refused(400, "invalid_request");
        me(&[("valet-user", "bob")]).await.refused(400, "invalid_request");
    }

    /// The way in asks for no more than the decision does: nothing on SQLite, one statement on PostgreSQL. Beside it there is what
    /// the background asks meanwhile, the audit's batches among it.
    async fn a_warm_reveal_over_http_asks_the_database_as_little_as_can_be(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("site", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let path = format!("/v1/connections/{connection}/token");
        app.post(&token, &path, json!({})).await.expect(200);
        let db = &app.broker.base().db;
        let before = testing::asked(db);
        for _ in 0..400 {
            app.post(&token, &path, json!({})).await.expect(200);
        }
        let after = testing::asked(db);
        let (statements, transactions) = (after.statements - before.statements, after.transactions - before.transactions);
        let least = if db.is_sqlite() { 0 } else { 400 };
        assert!((least..least + 200).contains(&statements) && transactions < 100, "{statements} {transactions}");
    }

    async fn a_platform_asks_about_what_it_reaches(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/bob", "").await;
        let key = app.key(&[Scope::Grants], Asserts::People(["alice".parse().unwrap()].into())).await;
        let question = json!({ "agent": agent, "connection": connection, "delivery": "proxy" });
        app.post(&key, "/v1/explain", question.clone()).await.refused(404, "not_found");
        let told = app.post(&As::Operator, "/v1/explain", question).await.expect(200).json();
        assert_eq!((text(&told, "/effect"), text(&told, "/code"), text(&told, "/reasons/0/fact")), ("deny".into(), "not_found".into(), "no_grant".into()));
        let nobody = json!({ "agent": "nobody", "connection": connection, "delivery": "proxy" });
        app.post(&As::Operator, "/v1/explain", nobody).await.refused(404, "not_found");
    }
}
