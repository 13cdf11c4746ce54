//! Links.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

fn alice() -> Asserts {
    Asserts::People(["alice".parse().unwrap()].into())
}

on_each_db! {
    async fn a_key_that_may_speak_for_alice_makes_no_link_for_bob(app: App) {
        app.reddit().await;
        let session = |owner: &str| json!({ "provider": "reddit", "owner": owner });
        let key = app.key_text(&[Scope::Connect], alice()).await;
        let plain = As::Bearer(key.clone());
        let made = app.post(&plain, "/v1/connect-sessions", session("user:alice")).await.expect(201).json();
        assert!(text(&made, "/url").starts_with("https://keys.example.test/connect/"));
        app.post(&plain, "/v1/connect-sessions", session("user:bob")).await.refused(403, "forbidden");
        // `admin` does not make it speak for him.
        let admin = app.key(&[Scope::Connect, Scope::Admin], alice()).await;
        app.post(&admin, "/v1/connect-sessions", session("user:bob")).await.refused(403, "forbidden");
        let any = app.key_text(&[Scope::Connect], Asserts::Any).await;
        app.post(&As::For(any, "alice"), "/v1/connect-sessions", session("user:bob")).await.refused(403, "forbidden");
    }

    /// T-247.
    ///
    async fn a_link_for_the_site_or_an_agent_needs_admin(app: App) {
        app.reddit().await;
        let agent = app.agent("a", "alice").await;
        for owner in ["site".to_owned(), format!("agent:{agent}")] {
            let session = json!({ "provider": "reddit", "owner": owner });
            let key = app.key(&[Scope::Connect], Asserts::Any).await;
            app.post(&key, "/v1/connect-sessions", session.clone()).await.refused(403, "missing_scope");
            let admin = app.key(&[Scope::Connect, Scope::Admin], Asserts::None).await;
            app.post(&admin, "/v1/connect-sessions", session.clone()).await.expect(201);
            app.post(&As::Operator, "/v1/connect-sessions", session).await.expect(201);
        }
    }

    async fn whoever_made_a_link_sees_where_it_stands_without_the_link(app: App) {
        app.reddit().await;
        let key = app.key(&[Scope::Connect], alice()).await;
        let new = json!({ "provider": "reddit", "owner": "user:alice", "payload": "p" });
        let made = app.post(&key, "/v1/connect-sessions", new).await.expect(201).json();
        let path = format!("/v1/connect-sessions/{}", text(&made, "/id"));
        let shown = app.get(&key, &path).await.expect(200);
        assert_eq!((&shown.json()["state"], &shown.json()["payload"]), (&json!("waiting"), &json!("p")));
        let link = text(&made, "/url").rsplit('/').next().unwrap().to_owned();
        assert!(!String::from_utf8(shown.bytes).unwrap().contains(&link));
        let bobs = app.key(&[Scope::Connect], Asserts::People(["bob".parse().unwrap()].into())).await;
        app.get(&bobs, &path).await.refused(404, "not_found");
    }

    async fn what_cannot_be_connected_says_why(app: App) {
        let session = |provider: &str| json!({ "provider": provider, "owner": "user:alice" });
        app.post(&As::Operator, "/v1/connect-sessions", session("reddit")).await.refused(409, "not_configured");
        let mut elsewhere = session("geonames");
        elsewhere["device"] = true.into();
        app.post(&As::Operator, "/v1/connect-sessions", elsewhere).await.refused(400, "invalid_request");
        app.post(&As::Operator, "/v1/connect-sessions", session("nowhere")).await.refused(404, "not_found");
        app.reddit().await;
        let mut away = session("reddit");
        away["return_to"] = "https://evil.example/".into();
        app.post(&As::Operator, "/v1/connect-sessions", away).await.refused(400, "invalid_request");
    }
}
