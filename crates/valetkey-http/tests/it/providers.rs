//! Providers and the site's apps there.

use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db};

on_each_db! {
    async fn the_list_says_what_can_be_connected_and_what_is_configured(app: App) {
        let key = app.key(&[Scope::Connect], Asserts::None).await;
        let find = async |name: &str| -> Value {
            let listed = app.get(&key, "/v1/providers").await.expect(200).json();
            listed["providers"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone()
        };
        let before = find("reddit").await;
        assert_eq!((&before["configured"], &before["waits_for"]), (&json!(false), &json!(null)));
        assert!(find("geonames").await["waits_for"].is_string());
        app.reddit().await;
        assert_eq!(find("reddit").await["configured"], true);
        let shown = app.get(&key, "/v1/providers/reddit").await.expect(200).json();
        assert_eq!(shown["callback_url"], "https://keys.example.test/callback/reddit");
        assert!(shown["fields"].as_array().unwrap().iter().any(|field| field["name"] == "client_secret"));
    }

    async fn a_secret_of_an_app_is_never_shown_and_kept_when_it_is_not_given(app: App) {
        let path = "/v1/providers/reddit/config";
        app.get(&As::Operator, path).await.refused(404, "not_found");
        app.reddit().await;
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let shown = app.get(&admin, path).await.expect(200).json();
        assert_eq!(shown["values"], json!({ "client_id": "id", "client_secret": null, "developer_username": "dev" }));
        let changed = json!({ "values": { "client_id": "id", "developer_username": "other" } });
        let changed = app.put(&admin, path, changed).await.expect(200).json();
        assert_eq!((&changed["configured"], &changed["id"]), (&json!(true), &shown["id"]));
        app.put(&admin, path, json!({ "values": { "colour": "red" } })).await.refused(400, "invalid_request");
        app.delete(&admin, path).await.expect(204);
        app.delete(&admin, path).await.expect(204);
        app.get(&admin, path).await.refused(404, "not_found");
    }

    async fn an_app_of_a_persons_own_is_apart_from_the_sites(app: App) {
        app.reddit().await;
        let path = "/v1/providers/reddit/config?owner=user:alice";
        app.get(&As::Operator, path).await.refused(404, "not_found");
        let values = json!({ "client_id": "hers", "client_secret": "s", "developer_username": "alice" });
        app.put(&As::Operator, path, json!({ "values": values })).await.expect(200);
        let sites = app.get(&As::Operator, "/v1/providers/reddit/config").await.expect(200).json();
        assert_eq!(sites["values"]["client_id"], "id");
        app.get(&As::Operator, "/v1/providers/reddit/config?owner=everybody").await.refused(400, "invalid_request");
    }
}
