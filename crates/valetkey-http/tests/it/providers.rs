//! Providers and the site's apps there.

use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, on_each_db};

on_each_db! {
    async fn the_list_says_what_can_be_connected_and_what_is_configured(app: App) {
        let key = app.key(&[Scope::Connect], Asserts::None).await;
        let find = async |name: &str| -> Value {
            let listed = app.get(&key, "/v1/providers").await.expect(200).json();
            listed["providers"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone()
        };
        let before = find("reddit").await;
        assert_eq!((&before["configured"], &before["waits_for"]), (&json!(false), &json!(null)));
        assert_eq!(before["entered"], false);
        let entered = find("geonames").await;
        assert_eq!((&entered["entered"], &entered["waits_for"]), (&json!(true), &json!(null)));
        app.reddit().await;
        assert_eq!(find("reddit").await["configured"], true);
        let shown = app.get(&key, "/v1/providers/reddit").await.expect(200).json();
        assert_eq!(shown["callback_url"], "https://keys.example.test/callback/reddit");
        assert!(shown["fields"].as_array().unwrap().iter().any(|field| field["name"] == "client_secret"));
    }
}
