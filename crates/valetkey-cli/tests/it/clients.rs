//! `valetkey client`.

use serde_json::json;

use crate::support::Home;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_made_shown_and_revoked() {
    let home = Home::sqlite();
    let _server = home.serve().await;
    let made =
        home.json(&["client", "create", "App", "--redirect-uri", "http://127.0.0.1/cb", "--scope", "proxy", "--scope", "reveal"]);
    assert_eq!((&made["scope"], &made["grant_types"]), (&json!("proxy reveal"), &json!(["authorization_code", "refresh_token"])));
    let id = made["id"].as_str().unwrap();
    let text = home.cli(&["client", "create", "Backend", "--confidential", "--grant", "exchange,device"]).ok();
    assert!(text.contains("client secret  vkcs_") && text.contains("shown this once"), "{text}");
    assert_eq!(home.json(&["client", "list"])["clients"].as_array().unwrap().len(), 2);
    assert!(home.cli(&["client", "show", id]).ok().contains("http://127.0.0.1/cb"));
    assert_eq!(home.cli(&["client", "revoke", id]).ok().trim(), format!("{id} is revoked, with 0 tokens"));
    assert!(home.json(&["client", "show", id])["revoked_at"].is_string());
    assert!(home.cli(&["client", "list"]).ok().contains(id));
    home.cli(&["client", "show", "vkc_00000000000000000000000000000000"]).failed(3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_is_closed_until_it_is_opened() {
    let home = Home::sqlite();
    let _server = home.serve().await;
    assert_eq!(home.cli(&["client", "registration"]).ok().trim(), "clients cannot register themselves");
    assert_eq!(home.cli(&["client", "registration", "on"]).ok().trim(), "clients may register themselves");
    assert_eq!(home.json(&["client", "registration"]), json!({ "open": true }));
    assert_eq!(home.cli(&["client", "registration", "off"]).ok().trim(), "clients cannot register themselves");
    assert_eq!(home.cli(&["client", "consents"]).ok().trim(), "nobody consented to anything that is not over");
}
