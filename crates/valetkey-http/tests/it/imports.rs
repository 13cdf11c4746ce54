//! Moving in over HTTP, and what can be done with accounts of a provider that is not known here.

use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use valetkey_http::LocalOperator;

use crate::support::{Answer, App, As, basic, on_each_db};

const OP: As = As::Operator;
const ACCOUNT: &str = "/v1/providers/acme/accounts/site";
const CONFIG: &str = "/v1/providers/acme/config/site";

/// The lines of an import of one account and one app at `acme`, of which nothing is known here.
fn whole() -> Vec<Value> {
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
    bring_body(app, Body::from(lines.iter().map(text).collect::<String>())).await
}

fn text(line: &Value) -> String {
    format!("{line}\n")
}

async fn bring_body(app: &App, body: Body) -> Answer {
    let request = Request::post("/v1/imports/data-machine").header(header::CONTENT_TYPE, "application/x-ndjson");
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(LocalOperator);
    app.send(request).await
}

on_each_db! {
    async fn an_account_of_an_unknown_provider_is_read_and_deleted_by_its_name(app: App) {
        app.get(&OP, ACCOUNT).await.refused(404, "not_found");
        let report = bring(&app, &whole()).await.expect(200).json();
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
        bring(&app, &whole()).await.expect(200);
        let shown = app.get(&OP, CONFIG).await.expect(200);
        assert!(!String::from_utf8_lossy(&shown.bytes).contains("canary"));
        let shown = shown.json();
        assert_eq!((&shown["values"]["client_id"], &shown["configured"]), (&json!("acme-client"), &json!(true)));
        let found = app.get(&OP, "/v1/providers/acme/config/context?user=alice").await.expect(200).json();
        assert_eq!((&found["resolved_from"], &found["found"]["id"]), (&json!("site"), &shown["id"]));
        assert_eq!(app.get(&OP, "/v1/providers/acme/scope-policies").await.expect(200).json()["config"]["fallback"], true);
        app.patch(&OP, CONFIG, json!({ "values": { "client_id": "x" } })).await.refused(404, "not_found");
        app.delete(&OP, CONFIG).await.expect(204);
        app.delete(&OP, CONFIG).await.expect(204);
        app.get(&OP, CONFIG).await.refused(404, "not_found");
    }

    /// An option alone brings the accounts of agents, and not the agents.
    async fn an_account_of_an_agent_that_is_not_here_is_read_and_deleted_by_its_name(app: App) {
        let path = "/v1/providers/reddit/accounts/agents/987";
        app.get(&OP, path).await.refused(404, "not_found");
        let account = json!({ "access_token": "canary" }).to_string();
        let item = json!({ "account": { "provider": "reddit", "owner": "agent:987", "name": "", "account": account } });
        let lines = [
            json!({ "providers": ["reddit"] }),
            json!({ "item": { "at": 0, "item": item } }),
            json!({ "end": { "items": 1, "unreadable": 0 } }),
        ];
        let report = bring(&app, &lines).await.expect(200).json();
        assert_eq!(report["agents_missing"], json!(["987"]));
        let shown = app.get(&OP, &format!("{path}?reveal=true")).await.expect(200).json();
        assert_eq!(shown["account"]["access_token"], "canary");
        // Nothing new comes to an agent that there is not.
        let new = json!({ "account": { "access_token": "x" } });
        app.put(&OP, &format!("{path}?replace=true"), new).await.refused(404, "not_found");
        assert_eq!(app.delete(&OP, path).await.expect(200).json()["ended"], true);
        assert_eq!(app.delete(&OP, path).await.expect(200).json()["ended"], false);
        app.get(&OP, path).await.refused(404, "no_credentials");
        app.get(&OP, "/v1/providers/reddit/accounts/agents/986").await.refused(404, "not_found");
    }

    /// No transaction is open while somebody sends: a sender who takes their time keeps nobody from writing.
    async fn whoever_sends_an_import_slowly_keeps_nobody_from_writing(app: App) {
        let (lines, receiver) = tokio::sync::mpsc::channel::<String>(8);
        let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (Ok::<_, std::convert::Infallible>(line), receiver))
        });
        let sending = async {
            let mut first = whole();
            let end = first.pop().unwrap();
            for line in &first {
                lines.send(text(line)).await.unwrap();
            }
            // The import has what it needs to begin, and lacks its end.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let write = app.put(&OP, "/v1/providers/http_basic/accounts/site", basic("secret"));
            tokio::time::timeout(Duration::from_secs(10), write).await.expect("a write waits for the sender").expect(201);
            lines.send(text(&end)).await.unwrap();
            drop(lines);
        };
        let (answer, ()) = tokio::join!(bring_body(&app, Body::from_stream(body)), sending);
        answer.expect(200);
        app.get(&OP, ACCOUNT).await.expect(200);
    }

    async fn a_body_that_breaks_off_brings_nothing(app: App) {
        let sent: String = whole().iter().map(text).collect();
        let broken = futures_util::stream::iter([Ok(sent), Err(std::io::Error::other("the sender is gone"))]);
        bring_body(&app, Body::from_stream(broken)).await.refused(400, "invalid_request");
        app.get(&OP, ACCOUNT).await.refused(404, "not_found");
    }

    async fn an_import_without_its_end_brings_nothing(app: App) {
        let lines = whole();
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
