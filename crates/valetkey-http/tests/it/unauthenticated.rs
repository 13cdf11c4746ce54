//! One and the same 401, whatever is wrong with a credential.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use valetkey::{
    db::testing,
    platform::{Asserts, Scope},
};

use crate::support::{App, As, on_each_db};

/// What a stranger could tell answers apart by; the request's id aside.
async fn told(app: &App, who: &As, method: Method, path: &str) -> (StatusCode, Vec<(String, String)>, Vec<u8>) {
    let mut answer = app.call(who, method, path, None, &[]).await;
    answer.headers.remove("x-request-id");
    let mut headers: Vec<_> =
        answer.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort();
    (answer.status, headers, answer.bytes)
}

on_each_db! {
    async fn unknown_revoked_expired_gone_and_unreadable_are_byte_for_byte_the_same(app: App) {
        let connection = app.account("users/alice", "").await;
        let live_agent = app.agent("live", "alice").await;
        app.grant(json!({ "agent": live_agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;

        let (_, live) = app.token(&live_agent, json!({})).await;
        let (id, revoked) = app.token(&live_agent, json!({})).await;
        app.delete(&As::Operator, &format!("/v1/tokens/{id}")).await.expect(204);
        let (_, expired) = app.token(&live_agent, json!({ "expires_at": app.clock.now().plus(Duration::from_secs(1)) })).await;
        let gone = app.agent("gone", "alice").await;
        let (_, agent_gone) = app.token(&gone, json!({})).await;
        app.delete(&As::Operator, "/v1/agents/gone").await.expect(204);
        let off = app.agent("off", "alice").await;
        let (_, agent_off) = app.token(&off, json!({})).await;
        app.patch(&As::Operator, "/v1/agents/off", json!({ "disabled": true })).await.expect(200);
        let bobs = app.agent("bobs", "bob").await;
        let (_, owner_gone) = app.token(&bobs, json!({})).await;
        app.patch(&As::Operator, "/v1/people/bob", json!({ "disabled": true })).await.expect(200);
        app.role(&live_agent, "carol", "operator").await;
        let (_, person_gone) = app.token(&live_agent, json!({ "person": "carol" })).await;
        app.patch(&As::Operator, "/v1/people/carol", json!({ "disabled": true })).await.expect(200);
        let (id, unreadable) = app.token(&live_agent, json!({})).await;
        testing::execute(&app.broker.base().db, &format!("UPDATE agent_tokens SET ceiling = '{{\"budget\":3}}' WHERE id = '{id}'")).await;
        app.clock.advance(Duration::from_secs(2));

        let As::Bearer(text) = &live else { unreachable!() };
        let mut mistyped = text.clone();
        mistyped.replace_range(10..11, if &text[10..11] == "x" { "y" } else { "x" });
        let dead = [
            ("nothing", As::Stranger),
            ("nonsense", As::Bearer("nonsense".to_owned())),
            ("mistyped", As::Bearer(mistyped)),
            ("unknown, of the reference's form", As::Bearer(format!("datamachine_a_{}", "0".repeat(64)))),
            ("unknown platform key", As::Bearer(format!("vkp_{}", "A".repeat(43)))),
            ("revoked", revoked),
            ("expired", expired),
            ("agent gone", agent_gone),
            ("agent disabled", agent_off),
            ("agent's owner disabled", owner_gone),
            ("person disabled", person_gone),
            ("unreadable ceiling", unreadable),
        ];
        let routes = [
            (Method::GET, "/v1/me".to_owned()),
            (Method::POST, format!("/v1/connections/{connection}/token")),
            (Method::POST, "/v1/connections/http_basic/token".to_owned()),
            (Method::POST, format!("/v1/connections/con_{}/token", "0".repeat(32))),
            (Method::GET, format!("/v1/proxy/{connection}/x")),
            (Method::GET, "/v1/connections".to_owned()),
            (Method::GET, "/v1/sites".to_owned()),
        ];
        for (method, path) in &routes {
            let first = told(&app, &As::Stranger, method.clone(), path).await;
            assert_eq!(first.0, StatusCode::UNAUTHORIZED);
            assert!(first.1.contains(&("www-authenticate".to_owned(), "Bearer".to_owned())));
            for (why, who) in &dead {
                assert_eq!(told(&app, who, method.clone(), path).await, first, "{why}: {method} {path}");
            }
        }
        // And the live one, beside all these, lives.
        app.get(&live, "/v1/me").await.expect(200);
        app.post(&live, &format!("/v1/connections/{connection}/token"), json!({})).await.expect(200);
    }

    async fn a_platform_key_ends_when_it_is_revoked_or_expired(app: App) {
        let made = app.post(&As::Operator, "/v1/keys", json!({ "label": "k", "scopes": ["admin"] })).await.expect(201).json();
        let key = As::Bearer(made["key"].as_str().unwrap().to_owned());
        app.get(&key, "/v1/keys").await.expect(200);
        app.delete(&As::Operator, &format!("/v1/keys/{}", made["id"].as_str().unwrap())).await.expect(204);
        app.get(&key, "/v1/keys").await.refused(401, "unauthenticated");

        let soon = app.clock.now().plus(Duration::from_secs(60));
        let new = json!({ "label": "k", "scopes": ["admin"], "expires_at": soon });
        let made = app.post(&As::Operator, "/v1/keys", new).await.expect(201).json();
        let key = As::Bearer(made["key"].as_str().unwrap().to_owned());
        app.get(&key, "/v1/keys").await.expect(200);
        app.clock.advance(Duration::from_secs(60));
        app.get(&key, "/v1/keys").await.refused(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_key_of_a_disabled_site_is_no_key() {
    let app = App::sqlite().await;
    let key = app.key(&[Scope::Admin], Asserts::Any).await;
    app.get(&key, "/v1/keys").await.expect(200);
    app.patch(&As::Operator, "/v1/sites/default", json!({ "disabled": true })).await.expect(200);
    app.get(&key, "/v1/keys").await.refused(401, "unauthenticated");
    app.broker.stop().await;
}

#[tokio::test]
async fn several_credentials_are_none() {
    let app = App::sqlite().await;
    let key = app.key_text(&[Scope::Admin], Asserts::Any).await;
    let bearer = format!("Bearer {key}");
    let once = [("authorization", bearer.as_str())];
    app.call(&As::Stranger, Method::GET, "/v1/keys", None, &once).await.expect(200);
    let twice = [once[0], once[0]];
    app.call(&As::Stranger, Method::GET, "/v1/keys", None, &twice).await.refused(401, "unauthenticated");
    let with_basic = [once[0], ("authorization", "Basic YTpi")];
    app.call(&As::Stranger, Method::GET, "/v1/keys", None, &with_basic).await.refused(401, "unauthenticated");
    app.broker.stop().await;
}

#[tokio::test]
async fn a_credential_on_the_operators_socket_is_what_counts_there() {
    let app = App::sqlite().await;
    let key = app.key_text(&[Scope::Connect], Asserts::None).await;
    let shown = format!("Bearer {key}");
    app.call(&As::Operator, Method::GET, "/v1/keys", None, &[("authorization", &shown)]).await.refused(403, "missing_scope");
    app.call(&As::Operator, Method::GET, "/v1/keys", None, &[("authorization", "Bearer x")])
        .await
        .refused(401, "unauthenticated");
    app.broker.stop().await;
}
