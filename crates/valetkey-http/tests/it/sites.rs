//! Sites.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db};

on_each_db! {
    async fn the_first_start_makes_the_default_site(app: App) {
        let sites = app.get(&As::Operator, "/v1/sites").await.expect(200).json();
        assert_eq!(sites["sites"][0]["id"], "default");
    }

    async fn the_operator_makes_a_site_once(app: App) {
        let made = app.post(&As::Operator, "/v1/sites", json!({ "id": "acme" })).await.expect(201).json();
        assert_eq!((&made["id"], &made["title"]), (&json!("acme"), &json!("acme")));
        app.post(&As::Operator, "/v1/sites", json!({ "id": "acme" })).await.refused(409, "conflict");
    }

    async fn a_platform_changes_where_flows_return_to_and_nothing_else(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let changed = app.patch(&admin, "/v1/sites/default", json!({ "return_to": ["https://app.example/done"] })).await.expect(200);
        assert_eq!(changed.json()["return_to"], json!(["https://app.example/done"]));
        app.patch(&admin, "/v1/sites/default", json!({ "unproven_links": true })).await.refused(403, "forbidden");
        app.patch(&admin, "/v1/sites/default", json!({ "title": "x" })).await.refused(403, "forbidden");
    }

    /// At once, whoever is warm; and what was there before is there again afterwards.
    async fn a_site_that_is_disabled_takes_no_token_and_no_key(app: App) {
        let key = app.key(&[Scope::Admin], Asserts::Any).await;
        let agent = app.agent("scribe", "alice").await;
        let (_, token) = app.token(&agent, json!({ "label": "t" })).await;
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        for _ in 0..2 {
            app.get(&token, "/v1/me").await.expect(200);
        }
        let switch = async |site: &str, disabled: bool| {
            app.patch(&As::Operator, &format!("/v1/sites/{site}"), json!({ "disabled": disabled })).await.expect(200).json()
        };
        assert!(switch("other", true).await["disabled_at"].is_string());
        app.get(&token, "/v1/me").await.expect(200);
        assert!(switch("default", true).await["disabled_at"].is_string());
        app.get(&token, "/v1/me").await.refused(401, "unauthenticated");
        app.get(&key, "/v1/keys").await.refused(401, "unauthenticated");
        app.get(&As::Operator, "/v1/agents").await.expect(200);
        let listed = app.get(&As::Operator, "/v1/sites").await.expect(200).json();
        assert!(listed["sites"][0]["disabled_at"].is_string(), "{listed}");
        assert!(switch("default", false).await["disabled_at"].is_null());
        app.get(&token, "/v1/me").await.expect(200);
        app.get(&key, "/v1/keys").await.expect(200);
    }

    async fn only_the_operator_disables_a_site_and_does_nothing_else_with_it(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        app.patch(&admin, "/v1/sites/default", json!({ "disabled": true })).await.refused(403, "forbidden");
        let both = json!({ "disabled": true, "title": "x" });
        app.patch(&As::Operator, "/v1/sites/default", both).await.refused(400, "invalid_request");
        app.patch(&As::Operator, "/v1/sites/none", json!({ "disabled": true })).await.refused(404, "not_found");
        app.get(&admin, "/v1/sites/default").await.expect(200);
    }

    async fn a_platform_knows_of_no_other_site(app: App) {
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        app.get(&admin, "/v1/sites/other").await.refused(404, "not_found");
        app.get(&admin, "/v1/sites/none").await.refused(404, "not_found");
        app.get(&admin, "/v1/sites/default?site=other").await.refused(404, "not_found");
    }

    async fn a_site_that_is_named_and_not_there_is_no_empty_list(app: App) {
        app.get(&As::Operator, "/v1/sites/default?site=tpyo").await.refused(404, "not_found");
    }
}
