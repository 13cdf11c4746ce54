//! Moving in over HTTP, and what can be done with accounts of a provider that is not known here.

use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use valetkey_http::LocalOperator;

use crate::support::{Answer, App, As, on_each_db};

const OP: As = As::Operator;
const ACCOUNT: &str = "/v1/providers/acme/accounts/site";
const CONFIG: &str = "/v1/providers/acme/config/site";

/// The lines of an import of one account and one app at `acme`, of which nothing is known here.
fn lines() -> Vec<Value> {
    let account = json!({ "access_token": "canary", "n": 1 }).to_string();
    let values = json!({ "client_id": "acme-client", "client_secret": "canary" }).to_string();
    vec![
        json!({ "providers": ["acme"] }),
        json!({ "item": { "at": 0, "item": { "config": { "provider": "acme", "owner": "site", "values": values } } } }),
        json!({ "item": { "at": 1, "item": { "account": { "provider": "acme", "owner": "site", "name": "", "account": account } } } }),
        json!({ "end": { "items": 2, "unreadable": 0 } }),
    ]
}

async fn bring(app: &App, lines: &[Value]) -> Answer {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let request = Request::post("/v1/imports/data-machine").header(header::CONTENT_TYPE, "application/x-ndjson");
    let mut request = request.body(Body::from(body)).unwrap();
    request.extensions_mut().insert(LocalOperator);
    app.send(request).await
}

on_each_db! {
    async fn an_account_of_an_unknown_provider_is_read_and_deleted_by_its_name(app: App) {
        app.get(&OP, ACCOUNT).await.refused(404, "not_found");
        let report = bring(&app, &lines()).await.expect(200).json();
        assert_eq!(report["without_definition"]["acme"], 1);
        let shown = app.get(&OP, &format!("{ACCOUNT}?reveal=true")).await.expect(200).json();
        assert_eq!(shown["account"], json!({ "access_token": "canary", "n": 1 }));
        let found = app.get(&OP, "/v1/providers/acme/accounts/context").await.expect(200).json();
        assert_eq!(found["resolved_from"], "site");
        // It can be read and deleted, and no more.
        let account = json!({ "account": { "access_token": "x" } });
        app.put(&OP, &format!("{ACCOUNT}?replace=true"), account).await.refused(404, "not_found");
        assert_eq!(app.delete(&OP, ACCOUNT).await.expect(200).json()["ended"], true);
        assert_eq!(app.delete(&OP, ACCOUNT).await.expect(200).json()["ended"], false);
        app.get(&OP, ACCOUNT).await.refused(404, "no_credentials");
    }

    async fn an_app_at_an_unknown_provider_is_shown_and_deleted(app: App) {
        app.delete(&OP, CONFIG).await.refused(404, "not_found");
        bring(&app, &lines()).await.expect(200);
        let shown = app.get(&OP, CONFIG).await.expect(200);
        assert!(!String::from_utf8_lossy(&shown.bytes).contains("canary"));
        let shown = shown.json();
        assert_eq!((&shown["values"]["client_id"], &shown["configured"]), (&json!("acme-client"), &json!(false)));
        let found = app.get(&OP, "/v1/providers/acme/config/context?user=alice").await.expect(200).json();
        assert_eq!((&found["resolved_from"], &found["found"]["id"]), (&json!("site"), &shown["id"]));
        assert_eq!(app.get(&OP, "/v1/providers/acme/scope-policies").await.expect(200).json()["config"]["fallback"], true);
        app.patch(&OP, CONFIG, json!({ "values": { "client_id": "x" } })).await.refused(404, "not_found");
        app.delete(&OP, CONFIG).await.expect(204);
        app.delete(&OP, CONFIG).await.expect(204);
        app.get(&OP, CONFIG).await.refused(404, "not_found");
    }

    async fn an_import_without_its_end_brings_nothing(app: App) {
        let lines = lines();
        bring(&app, &lines[..3]).await.refused(400, "invalid_request");
        app.get(&OP, ACCOUNT).await.refused(404, "not_found");
        let mut wrong = lines.clone();
        wrong[3]["end"]["items"] = json!(3);
        bring(&app, &wrong).await.refused(400, "invalid_request");
        wrong[2] = json!({ "item": "canary" });
        let refused = bring(&app, &wrong).await.refused(400, "invalid_request");
        assert!(!String::from_utf8_lossy(&refused.bytes).contains("canary"));
        app.get(&OP, ACCOUNT).await.refused(404, "not_found");
        bring(&app, &lines).await.expect(200);
    }
}
