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
        // Whose pages sign people in decides who anybody is.
        let page = json!({ "signin_url": "https://evil.example/" });
        app.patch(&admin, "/v1/sites/default", page).await.refused(403, "forbidden");
    }

    async fn the_operator_says_where_people_sign_in(app: App) {
        for odd in ["x", "http://platform.example/", "https://u:p@platform.example/", "https://platform.example/#x", "javascript:x"] {
            let page = json!({ "signin_url": odd });
            app.patch(&As::Operator, "/v1/sites/default", page).await.refused(400, "invalid_request");
        }
        let page = json!({ "signin_url": "https://platform.example/enter" });
        let site = app.patch(&As::Operator, "/v1/sites/default", page).await.expect(200).json();
        assert_eq!(site["signin_url"], "https://platform.example/enter");
        let site = app.patch(&As::Operator, "/v1/sites/default", json!({ "title": "x" })).await.expect(200).json();
        assert_eq!(site["signin_url"], "https://platform.example/enter", "what is not named stays");
        let site = app.patch(&As::Operator, "/v1/sites/default", json!({ "signin_url": "" })).await.expect(200).json();
        assert_eq!(site["signin_url"], json!(null));
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
