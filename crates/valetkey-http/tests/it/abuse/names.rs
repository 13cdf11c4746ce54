//! Names: whatever looks like another name, or is one of another kind, gains nothing. Ids compare as bytes; a name is never an
//! identity.

use http::Method;
use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use super::{NOBODY, reveal};
use crate::support::{App, As, basic, on_each_db, text};

on_each_db! {
    /// What people type is looked up as an id first. Whoever could choose an id that is somebody's slug would be granted what was
    /// meant for that agent.
    async fn an_agents_id_is_no_other_agents_slug(app: App) {
        let helper = app.agent("helper", "alice").await;
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let mallory = As::For(key, "mallory");
        let shadow = json!({ "id": "helper", "slug": "harmless" });
        app.post(&mallory, "/v1/agents", shadow.clone()).await.refused(409, "conflict");
        // Nor is one's slug somebody else's id.
        app.post(&As::Operator, "/v1/agents", json!({ "id": "writer", "slug": "scribe", "owner": "alice" })).await.expect(201);
        app.post(&mallory, "/v1/agents", json!({ "slug": "writer" })).await.refused(409, "conflict");
        app.post(&mallory, "/v1/agents", json!({ "slug": helper })).await.refused(409, "conflict");
        assert_eq!(app.get(&mallory, "/v1/agents").await.expect(200).json()["agents"], json!([]));
        for (named, id) in [("helper", helper.as_str()), ("writer", "writer"), ("scribe", "writer")] {
            assert_eq!(app.get(&As::Operator, &format!("/v1/agents/{named}")).await.expect(200).json()["id"], id);
        }
        // One agent may have both, and what is gone is in nobody's way.
        app.post(&As::Operator, "/v1/agents", json!({ "id": "both", "slug": "both" })).await.expect(201);
        app.delete(&As::Operator, &format!("/v1/agents/{helper}")).await.expect(204);
        app.post(&mallory, "/v1/agents", shadow).await.expect(201);
    }

    async fn a_person_who_looks_like_another_is_another(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": ["alice"], "delivery": ["reveal"] })).await;
        for other in ["Alice", "ALICE", "alice.", "alice~", "user:alice", "alice:user", "agent:alice", "site", "operator", "system"] {
            app.put(&As::Operator, &format!("/v1/agents/{agent}/roles/{other}"), json!({ "role": "operator" })).await.expect(204);
            let (_, token) = app.token(&agent, json!({ "person": other })).await;
            reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
            let key = app.key_text(&[Scope::AccountsRead, Scope::AccountsReveal], Asserts::People([other.parse().unwrap()].into())).await;
            for path in ["/v1/providers/http_basic/accounts/users/alice?reveal=true", &format!("/v1/connections/{connection}")] {
                let answer = app.get(&As::Bearer(key.clone()), path).await;
                assert!([403, 404].contains(&answer.status.as_u16()), "{other} {path}: {answer:?}");
            }
            let listed = app.get(&As::Bearer(key), "/v1/connections").await.expect(200).json();
            assert_eq!(listed["connections"], json!([]), "{other}");
        }
        // What could only pass for another is no id at all: blanks, letters of other scripts, marks, numbers written otherwise.
        for odd in ["%20alice", "alice%20", "alice%09", "%D0%B0lice", "alice%E2%80%8B", "ali%CC%81ce", "alice%00", "007", "-7", "0", "al%2Fice"] {
            let path = format!("/v1/agents/{agent}/roles/{odd}");
            let answer = app.put(&As::Operator, &path, json!({ "role": "admin" })).await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{odd}: {answer:?}");
        }
        for odd in [" alice", "alice ", "\u{430}lice", "alice\u{200b}", "alice\u{202e}", "", "a b", "al/ice", "7\u{660}"] {
            app.post(&As::Operator, &format!("/v1/agents/{agent}/tokens"), json!({ "person": odd })).await.refused(400, "invalid_request");
        }
        let key = app.key_text(&[Scope::AccountsRead], Asserts::People(["alice".parse().unwrap()].into())).await;
        for odd in ["alice,bob", "alice bob", "user:bob", "bob", "Alice"] {
            let bearer = format!("Bearer {key}");
            let headers = [("authorization", bearer.as_str()), ("valet-user", odd)];
            let answer = app.call(&As::Stranger, Method::GET, "/v1/connections", None, &headers).await;
            assert!([400, 403].contains(&answer.status.as_u16()), "{odd}: {answer:?}");
        }
    }

    /// A list holds people, whatever they are called: no word of ours is in it.
    async fn a_person_who_is_called_like_one_of_our_words_is_a_person(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "carol", "operator").await;
        let connection = app.account("users/alice", "").await;
        let words = json!(["unattended", "owner", "operators", "anyone", "none", "null", "any"]);
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": words, "delivery": ["reveal"] })).await;
        for person in [Value::Null, json!("alice"), json!("carol")] {
            let (_, token) = app.token(&agent, json!({ "person": person })).await;
            reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
        }
        let key = app.key_text(&[Scope::AccountsRead], Asserts::People(["any".parse().unwrap()].into())).await;
        app.get(&As::For(key, "alice"), "/v1/connections").await.refused(403, "forbidden");
    }

    async fn an_account_of_a_name_like_another_is_another(app: App) {
        let agent = app.agent("a", "alice").await;
        let usual = app.account("users/alice", "").await;
        assert_eq!(text(&app.get(&As::Operator, "/v1/providers/http_basic/accounts/users/alice?name=default").await.expect(200).json(), "/connection"), usual);
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        app.grant(json!({ "agent": agent, "connection": usual, "delivery": ["reveal"] })).await;
        for name in ["Default", "DEFAULT", "d%C3%A9fault", "d%D0%B5fault", "default.", "user:alice", "con_0"] {
            let path = format!("/v1/providers/http_basic/accounts/users/alice?name={name}");
            let other = text(&app.put(&As::Operator, &path, basic("another")).await.expect(201).json(), "/connection");
            assert_ne!(other, usual);
            reveal(&app, &token, &other, &[]).await.refused(404, "not_found");
        }
        for odd in ["%20default", "default%20", "default%0A", "%00", "a%00b"] {
            let path = format!("/v1/providers/http_basic/accounts/users/alice?name={odd}");
            app.put(&As::Operator, &path, basic("another")).await.refused(400, "invalid_request");
        }
        let own = reveal(&app, &token, &usual, &[]).await.expect(200);
        assert!(!String::from_utf8(own.bytes).unwrap().contains("another"));
        // By the provider's name it is still the only one that the agent may use.
        assert_eq!(reveal(&app, &token, "http_basic", &[]).await.expect(200).json()["connection"], json!(usual));
    }

    async fn a_provider_is_named_in_one_way(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal", "proxy"] })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        for odd in ["HTTP_BASIC", "Http_Basic", "http_basic%20", "%20http_basic", "http_b%D0%B0sic", "http_basic%00", "_http_basic", ".."] {
            for path in [format!("/v1/connections/{odd}/token"), format!("/v1/providers/{odd}/accounts/users/alice")] {
                let who = if path.contains("/token") { &token } else { &As::Operator };
                let method = if path.contains("/token") { Method::POST } else { Method::GET };
                let body = path.contains("/token").then(|| json!({}));
                let answer = app.call(who, method, &path, body, &[]).await;
                assert!([400, 404].contains(&answer.status.as_u16()), "{path}: {answer:?}");
            }
            let answer = app.get(&token, &format!("/v1/proxy/{odd}/x")).await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{odd}: {answer:?}");
        }
        // In the proxy's path nothing is decoded: what is sent is what was written.
        app.get(&token, "/v1/proxy/http%5Fbasic/x").await.refused(400, "invalid_request");
        // A name that only begins or ends like one is another provider's.
        for unknown in ["http_basic2", "http_basi", "http-basic", "http.basic"] {
            app.get(&token, &format!("/v1/proxy/{unknown}/x")).await.refused(404, "not_found");
        }
    }

    /// The id of one thing is never read as that of another, nor in another spelling.
    async fn an_id_of_another_kind_is_no_id(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let grant = app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        let (token, bearer) = app.token(&agent, json!({ "person": "alice" })).await;
        let hex = connection.strip_prefix("con_").unwrap();
        let spelled = [
            format!("gra_{hex}"),
            hex.to_owned(),
            connection.to_uppercase(),
            format!("con_{}", hex.to_uppercase()),
            format!("{connection}%20"),
            format!("%20{connection}"),
            format!("CON_{hex}"),
            format!("con_{}", &hex[1..]),
            format!("con_0{hex}"),
            grant.clone(),
            token.clone(),
        ];
        for odd in &spelled {
            let answer = reveal(&app, &bearer, odd, &[]).await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{odd}: {answer:?}");
            app.get(&As::Operator, &format!("/v1/connections/{odd}")).await.refused(400, "invalid_request");
        }
        for path in [
            format!("/v1/grants/{connection}"),
            format!("/v1/tokens/{grant}"),
            format!("/v1/clients/{token}"),
            format!("/v1/consents/{grant}"),
            format!("/v1/keys/{connection}"),
        ] {
            app.delete(&As::Operator, &path).await.refused(400, "invalid_request");
        }
        for path in [format!("/v1/approvals/{grant}"), format!("/v1/proposals/apr_{NOBODY}"), format!("/v1/webhooks/{grant}")] {
            app.get(&As::Operator, &path).await.refused(400, "invalid_request");
        }
        reveal(&app, &bearer, &connection, &[]).await.expect(200);
    }

    /// What people read when they decide cannot be written backwards, and a session is named in plain letters.
    async fn names_that_people_read_hide_nothing(app: App) {
        for odd in ["", "   ", "App\u{202e}ppA", "App\u{2066}", "App\nBank", "App\0", "\u{1b}[31mApp", &"x".repeat(201)] {
            app.post(&As::Operator, "/v1/clients", json!({ "name": odd, "confidential": true })).await.refused(400, "invalid_request");
        }
        let agent = app.agent("a", "alice").await;
        for odd in ["", "night shift", "n\u{456}ght", "night\u{200b}", " night", "night\n", &"n".repeat(192)] {
            for name in ["session", "task"] {
                let new = json!({ (name): odd });
                app.post(&As::Operator, &format!("/v1/agents/{agent}/tokens"), new).await.refused(400, "invalid_request");
            }
        }
        for title in ["Helper\u{202e}knaB", "\u{2067}Helper", "Helper\nasks for nothing", "Helper\tx"] {
            app.post(&As::Operator, "/v1/agents", json!({ "slug": "b", "title": title })).await.refused(400, "invalid_request");
        }
        for slug in ["A", "a b", "\u{430}", "a/b", "..", "a.b", "", &"a".repeat(65)] {
            app.post(&As::Operator, "/v1/agents", json!({ "slug": slug })).await.refused(400, "invalid_request");
        }
        assert_eq!(app.get(&As::Operator, "/v1/clients").await.expect(200).json()["clients"], json!([]));
    }
}
