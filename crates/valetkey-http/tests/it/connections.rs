//! Connections.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, Parts, on_each_db, text};

on_each_db! {
    async fn a_platform_sees_the_people_it_may_speak_for_and_no_others(app: App) {
        let alices = app.account("users/alice", "").await;
        let bobs = app.account("users/bob", "").await;
        let sites = app.account("site", "").await;
        let key = app.key(&[Scope::AccountsRead, Scope::AccountsWrite], Asserts::People(["alice".parse().unwrap()].into())).await;
        let listed = app.get(&key, "/v1/connections").await.expect(200).json();
        let ids: Vec<_> = listed["connections"].as_array().unwrap().iter().map(|c| text(c, "/id")).collect();
        assert_eq!(ids, [alices, sites]);
        app.get(&key, &format!("/v1/connections/{bobs}")).await.refused(404, "not_found");
        app.delete(&key, &format!("/v1/connections/{bobs}")).await.refused(404, "not_found");
        app.post(&key, &format!("/v1/connections/{bobs}/refresh"), json!({})).await.refused(404, "not_found");
        app.get(&key, "/v1/connections?owner=user:bob").await.refused(403, "forbidden");
        app.get(&As::Operator, &format!("/v1/connections/{bobs}")).await.expect(200);
    }

    async fn connections_are_narrowed_and_paged(app: App) {
        for name in ["a", "b", "c"] {
            app.account("users/alice", name).await;
        }
        let first = app.get(&As::Operator, "/v1/connections?limit=2&owner=user:alice&provider=http_basic").await.expect(200).json();
        assert_eq!(first["connections"].as_array().unwrap().len(), 2);
        let next = text(&first, "/next");
        let rest = app.get(&As::Operator, &format!("/v1/connections?limit=2&after={next}")).await.expect(200).json();
        assert_eq!((rest["connections"].as_array().unwrap().len(), &rest["next"]), (1, &json!(null)));
        let none = app.get(&As::Operator, "/v1/connections?provider=reddit").await.expect(200).json();
        assert_eq!(none["connections"], json!([]));
        app.get(&As::Operator, "/v1/connections?colour=red").await.refused(400, "invalid_request");
        app.get(&As::Operator, "/v1/connections?limit=x").await.refused(400, "invalid_request");
    }

    async fn a_revoked_connection_is_over_and_says_so(app: App) {
        let id = app.account("users/alice", "").await;
        let path = format!("/v1/connections/{id}");
        let agent = app.agent("a", "alice").await;
        app.grant(json!({ "agent": agent, "connection": id, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        app.post(&token, &format!("{path}/token"), json!({})).await.expect(200);
        let ended = app.delete(&As::Operator, &format!("{path}?upstream=skip&reason=test")).await.expect(200).json();
        assert_eq!(ended["upstream"], "skipped");
        app.post(&token, &format!("{path}/token"), json!({})).await.refused(404, "not_found");
        let shown = app.get(&As::Operator, &path).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["authenticated"]), (&json!("revoked"), &json!(false)));
        app.delete(&As::Operator, &path).await.expect(200);
        assert_eq!(app.get(&As::Operator, "/v1/connections").await.expect(200).json()["connections"], json!([]));
        let all = app.get(&As::Operator, "/v1/connections?revoked=true").await.expect(200).json();
        assert_eq!(all["connections"].as_array().unwrap().len(), 1);
        let owed = app.get(&As::Operator, &format!("/v1/revocations?connection={id}")).await.expect(200).json();
        assert_eq!(owed["revocations"][0]["connection"], id);
        let newest = app.get(&As::Operator, "/v1/revocations?limit=1").await.expect(200).json();
        assert_eq!(newest["revocations"], owed["revocations"]);
    }

    async fn an_account_that_is_not_renewed_cannot_be_refreshed(app: App) {
        let id = app.account("users/alice", "").await;
        app.post(&As::Operator, &format!("/v1/connections/{id}/refresh"), json!({})).await.refused(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_listing_works_and_storing_says_what_is_missing() {
    let app = App::sqlite().await;
    app.account("users/alice", "").await;
    app.broker.stop().await;
    let Parts { broker, router, db, dir } = app.into_parts();
    drop((broker, router));

    let keyless = App::without_key(db, dir).await;
    let listed = keyless.get(&As::Operator, "/v1/connections").await.expect(200).json();
    assert_eq!(listed["connections"][0]["status"], "active");
    let path = "/v1/providers/http_basic/accounts/users/alice";
    assert_eq!(keyless.get(&As::Operator, path).await.expect(200).json()["authenticated"], true);
    keyless.get(&As::Operator, &format!("{path}?reveal=true")).await.refused(503, "key_unavailable");
    keyless.put(&As::Operator, path, crate::support::basic("x")).await.refused(503, "key_unavailable");
    keyless.get(&As::Stranger, "/readyz").await.refused(503, "key_unavailable");
    keyless.get(&As::Stranger, "/healthz").await.expect(200);
    keyless.broker.stop().await;
}
