//! Webhooks by the API.

use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

on_each_db! {
    async fn an_endpoint_is_made_shown_changed_and_removed_and_its_secret_is_shown_once(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let new = json!({ "url": "https://example.com/hook", "title": "ours", "events": ["grant.revoked", "grant.created"] });
        let made = app.post(&admin, "/v1/webhooks", new).await.expect(201).json();
        let (id, secret) = (text(&made, "/id"), text(&made, "/secret"));
        assert!(secret.starts_with("whsec_") && id.starts_with("whk_"));
        assert_eq!(made["events"], json!(["grant.created", "grant.revoked"]));
        let at = format!("/v1/webhooks/{id}");
        for path in ["/v1/webhooks", &at, "/v1/audit?limit=1000"] {
            let shown = app.get(&admin, path).await.expect(200);
            assert!(!String::from_utf8(shown.bytes).unwrap().contains(&secret["whsec_".len()..]), "{path}");
        }
        let changed = app.patch(&admin, &at, json!({ "events": null, "title": "" })).await.expect(200).json();
        assert_eq!((&changed["events"], &changed["title"], &changed["enabled"]), (&Value::Null, &json!(""), &json!(true)));
        assert_eq!(changed["url"], "https://example.com/hook");
        let off = app.patch(&admin, &at, json!({ "enabled": false })).await.expect(200).json();
        assert_eq!((&off["enabled"], &off["disabled_why"], &off["events"]), (&json!(false), &json!("by_hand"), &Value::Null));
        app.post(&admin, &format!("{at}/replay"), json!({ "since": "2027-01-01T00:00:00Z" })).await.refused(409, "conflict");
        assert_eq!(app.patch(&admin, &at, json!({ "enabled": true })).await.expect(200).json()["disabled_at"], Value::Null);
        let rotated = app.post(&admin, &format!("{at}/rotate"), json!({})).await.expect(200).json();
        assert!(text(&rotated, "/secret") != secret && rotated["old_secret_until"].is_string());
        app.delete(&admin, &at).await.expect(204);
        app.delete(&admin, &at).await.expect(204);
        app.get(&admin, &at).await.refused(404, "not_found");
        assert_eq!(app.get(&admin, "/v1/webhooks").await.expect(200).json()["webhooks"], json!([]));
    }

    async fn an_endpoint_that_cannot_be_is_refused(app: App) {
        for (new, status, code) in [
            (json!({ "url": "https://10.0.0.1/" }), 403, "address_refused"),
            (json!({ "url": "http://example.com/" }), 403, "address_refused"),
            (json!({ "url": "example.com" }), 400, "invalid_request"),
            (json!({ "url": "https://example.com/", "events": [] }), 400, "invalid_request"),
            (json!({ "url": "https://example.com/", "events": ["everything"] }), 400, "invalid_request"),
            (json!({ "url": "https://example.com/", "secret": "mine" }), 400, "invalid_request"),
        ] {
            app.post(&As::Operator, "/v1/webhooks", new.clone()).await.refused(status, code);
        }
    }

    async fn deliveries_come_in_pages_and_are_replayed_by_name_or_span(app: App) {
        let made = app.post(&As::Operator, "/v1/webhooks", json!({ "url": "https://example.com/", "events": ["token.minted"] })).await;
        let at = format!("/v1/webhooks/{}", text(&made.expect(201).json(), "/id"));
        let agent = app.agent("a", "alice").await;
        for _ in 0..3 {
            app.token(&agent, json!({})).await;
        }
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let page = app.get(&As::Operator, &format!("{at}/deliveries?limit=2&after={after}")).await.expect(200).json();
            seen.extend(page["deliveries"].as_array().unwrap().iter().map(|delivery| text(delivery, "/message")));
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "the newest come first");
        app.get(&As::Operator, &format!("{at}/deliveries?status=lost")).await.refused(400, "invalid_request");
        let replay = format!("{at}/replay");
        for wrong in [json!({}), json!({ "message": seen[0], "since": "2027-01-01T00:00:00Z" }), json!({ "until": "2027-01-01T00:00:00Z" })] {
            app.post(&As::Operator, &replay, wrong).await.refused(400, "invalid_request");
        }
        // They wait already.
        let queued = app.post(&As::Operator, &replay, json!({ "since": "2027-01-01T00:00:00Z" })).await.expect(200).json();
        assert_eq!(queued["queued"], 0);
    }

    async fn the_endpoints_of_one_site_are_none_of_another(app: App) {
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let made = app.post(&As::Operator, "/v1/webhooks?site=other", json!({ "url": "https://example.com/" })).await.expect(201).json();
        let at = format!("/v1/webhooks/{}", text(&made, "/id"));
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        assert_eq!(app.get(&admin, "/v1/webhooks").await.expect(200).json()["webhooks"], json!([]));
        for (method, path) in [("GET", at.clone()), ("PATCH", at.clone()), ("POST", format!("{at}/rotate")), ("GET", format!("{at}/deliveries"))] {
            let body = (method != "GET").then(|| json!({}));
            app.call(&admin, method.parse().unwrap(), &path, body, &[]).await.refused(404, "not_found");
        }
        // What happens here is not told there.
        let agent = app.agent("a", "alice").await;
        app.token(&agent, json!({})).await;
        assert_eq!(app.get(&As::Operator, &format!("{at}/deliveries?site=other")).await.expect(200).json()["deliveries"], json!([]));
    }
}
