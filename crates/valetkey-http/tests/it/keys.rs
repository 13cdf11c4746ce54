//! Platform keys and the audit.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

on_each_db! {
    async fn only_the_operator_makes_and_ends_keys(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::Any).await;
        let new = json!({ "label": "backend", "scopes": ["connect", "agents"], "asserts": ["alice", "42"] });
        app.post(&admin, "/v1/keys", new.clone()).await.refused(403, "forbidden");
        let made = app.post(&As::Operator, "/v1/keys", new).await.expect(201).json();
        assert!(text(&made, "/key").starts_with("vkp_") && text(&made, "/assertion_secret").len() == 43);
        let id = text(&made, "/id");
        app.delete(&admin, &format!("/v1/keys/{id}")).await.refused(403, "forbidden");
        let listed = app.get(&admin, "/v1/keys").await.expect(200);
        let shown = String::from_utf8(listed.bytes.clone()).unwrap();
        assert!(!shown.contains(&text(&made, "/key")) && !shown.contains(&text(&made, "/assertion_secret")));
        let row = listed.json()["keys"].as_array().unwrap().iter().find(|key| key["id"] == json!(id)).unwrap().clone();
        assert_eq!(row["asserts"], json!(["42", "alice"]));
        app.delete(&As::Operator, &format!("/v1/keys/{id}")).await.expect(204);
        app.delete(&As::Operator, &format!("/v1/keys/{id}")).await.expect(204);
    }

    /// The addresses are looked at in the library's own tests; here nothing outside is spoken to.
    async fn only_the_operator_says_where_a_platform_publishes_its_keys(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::Any).await;
        let new = json!({ "label": "backend", "scopes": ["signin"] });
        let id = text(&app.post(&As::Operator, "/v1/keys", new).await.expect(201).json(), "/id");
        let path = format!("/v1/keys/{id}");
        let inward = json!({ "jwks_url": "https://169.254.169.254/keys" });
        app.patch(&admin, &path, inward.clone()).await.refused(403, "forbidden");
        app.patch(&As::Operator, &path, inward).await.refused(403, "address_refused");
        app.patch(&As::Operator, &path, json!({ "jwks_url": "keys" })).await.refused(400, "invalid_request");
        let key = app.patch(&As::Operator, &path, json!({ "jwks_url": "" })).await.expect(200).json();
        assert_eq!((&key["id"], &key["jwks_url"]), (&json!(id), &json!(null)));
        app.delete(&As::Operator, &path).await.expect(204);
        app.patch(&As::Operator, &path, json!({ "jwks_url": "" })).await.refused(404, "not_found");
    }

    async fn a_key_without_a_scope_or_with_an_unknown_one_is_not_made(app: App) {
        for scopes in [json!([]), json!(["everything"]), json!("admin")] {
            app.post(&As::Operator, "/v1/keys", json!({ "label": "x", "scopes": scopes })).await.refused(400, "invalid_request");
        }
    }

    async fn keys_of_one_site_are_none_of_another(app: App) {
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let new = json!({ "label": "o", "scopes": ["admin", "agents"] });
        let made = app.post(&As::Operator, "/v1/keys?site=other", new).await.expect(201).json();
        let others = As::Bearer(text(&made, "/key"));
        app.agent("a", "alice").await;
        assert_eq!(app.get(&others, "/v1/agents").await.expect(200).json()["agents"], json!([]));
        app.get(&others, "/v1/agents/a").await.refused(404, "not_found");
        assert_eq!(app.get(&others, "/v1/keys").await.expect(200).json()["keys"].as_array().unwrap().len(), 1);
        assert_eq!(app.get(&As::Operator, "/v1/keys").await.expect(200).json()["keys"], json!([]));
    }

    /// Who is known and refused leaves a row; who is not known leaves none.
    async fn a_refusal_to_somebody_known_is_recorded(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, by_token) = app.token(&agent, json!({})).await;
        let narrow = app.key_text(&[Scope::Agents], Asserts::People(["alice".parse().unwrap()].into())).await;
        let bearer = As::Bearer(narrow.clone());
        let rows = async || {
            let all = app.get(&As::Operator, "/v1/audit?limit=1000").await.expect(200).json();
            let denied = all["events"].as_array().unwrap().iter().filter(|event| event["outcome"] == "denied").cloned();
            denied.collect::<Vec<_>>()
        };
        // The gate's: a scope that is missing, a route of the operator's or of agents, a person who is not the key's.
        app.get(&bearer, "/v1/grants").await.refused(403, "missing_scope");
        app.get(&bearer, "/v1/sites").await.refused(403, "forbidden");
        app.get(&bearer, "/v1/me").await.refused(403, "forbidden");
        app.get(&As::For(narrow.clone(), "mallory"), "/v1/agents").await.refused(403, "forbidden");
        app.get(&by_token, "/v1/agents").await.refused(403, "forbidden");
        // A handler's: a token for a person whom the key may not speak for.
        let minted = app.post(&bearer, &format!("/v1/agents/{agent}/tokens"), json!({ "person": "mallory" })).await;
        assert_eq!(minted.status.as_u16(), 403, "{minted:?}");
        // Nobody's: no credential, none that is valid, and what is no refusal.
        app.get(&As::Stranger, "/v1/sites").await.refused(401, "unauthenticated");
        app.get(&As::Bearer(format!("vkp_{}", "A".repeat(43))), "/v1/sites").await.refused(401, "unauthenticated");
        app.get(&bearer, "/v1/agents/nobody").await.refused(404, "not_found");
        let mut seen = rows().await;
        for _ in 0..100 {
            if seen.len() >= 6 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            seen = rows().await;
        }
        let mut told: Vec<_> = seen.iter().map(|row| (text(row, "/facts/path"), text(row, "/facts/code"))).collect();
        told.sort_unstable();
        let expected = [
            ("/v1/agents", "forbidden"),
            ("/v1/agents", "forbidden"),
            ("/v1/agents/{agent}/tokens", "forbidden"),
            ("/v1/grants", "missing_scope"),
            ("/v1/me", "forbidden"),
            ("/v1/sites", "forbidden"),
        ];
        assert_eq!(told, expected.map(|(path, code)| (path.to_owned(), code.to_owned())));
        assert!(seen.iter().all(|row| row["action"] == "api.call"));
        let by = |prefix: &str| seen.iter().filter(|row| text(row, "/actor").starts_with(prefix)).count();
        assert_eq!((by("platform:pkey_"), by(&format!("agent:{agent}/"))), (5, 1));
        // Whom it was refused to speak for is no actor.
        assert!(seen.iter().all(|row| !text(row, "/actor").contains("mallory")));
        assert_eq!(seen.iter().filter(|row| row["facts"]["person"] == "mallory").count(), 1);
    }

    async fn the_audit_is_paged_from_the_newest_back(app: App) {
        for slug in ["a", "b", "c"] {
            app.agent(slug, "alice").await;
            app.clock.advance(std::time::Duration::from_secs(1));
        }
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let all = app.get(&admin, "/v1/audit").await.expect(200).json();
        let ids: Vec<_> = all["events"].as_array().unwrap().iter().map(|event| text(event, "/id")).collect();
        assert!(ids.len() >= 4);
        let mut paged = Vec::new();
        loop {
            let before = paged.last().map(|id| format!("&before={id}")).unwrap_or_default();
            let page = app.get(&admin, &format!("/v1/audit?limit=2{before}")).await.expect(200).json();
            let page: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| text(event, "/id")).collect();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, ids);
        let newest = &all["events"][0];
        assert_eq!((&newest["action"], &newest["outcome"]), (&json!("key.create"), &json!("ok")));
    }
}
