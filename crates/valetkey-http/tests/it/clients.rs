//! OAuth clients and consents by the API.

use serde_json::{Value, json};
use valetkey::{
    id::SiteId,
    oauth::register,
    platform::{Asserts, Scope},
    principal::{Actor, Ceiling},
    token::{Audience, family, family::NewFamily},
};

use crate::support::{App, As, on_each_db, text};

const OP: As = As::Operator;

/// A consent as the page of it records one; its id.
pub(crate) async fn consent(app: &App, agent: &str, person: &str) -> String {
    let base = app.broker.base();
    let new = NewFamily {
        agent: agent.parse().unwrap(),
        person: person.parse().unwrap(),
        client: format!("vkc_{}", "0".repeat(32)).parse().unwrap(),
        ceiling: Ceiling::default(),
        audience: Audience::Api,
        expires_at: base.clock.now().plus(std::time::Duration::from_secs(3600)),
    };
    let mut tx = base.db.begin().await.unwrap();
    let family = family::open(base, &mut tx, &SiteId::default_site(), &Actor::User(person.parse().unwrap()), new).await.unwrap();
    tx.commit().await.unwrap();
    family.id.to_string()
}

on_each_db! {
    /// RFC 7591 section 3.2.1: some clients name a scheme of their own beside what can be taken.
    async fn a_client_registers_with_those_of_its_redirect_uris_that_can_be_taken(app: App) {
        register::set_open(app.broker.base(), &SiteId::default_site(), &Actor::Operator, true).await.unwrap();
        let (own, web, loopback) =
            ("editor://vendor.editor/oauth/callback", "https://editor.example/callback", "http://localhost:8787/callback");
        let asked = |uris: &[&str]| json!({ "client_name": "Editor", "redirect_uris": uris, "token_endpoint_auth_method": "none" });
        let made = app.post(&As::Stranger, "/oauth/register", asked(&[own, web, loopback])).await.expect(201).json();
        assert_eq!(made["redirect_uris"], json!([web, loopback]));
        let shown = app.get(&OP, &format!("/v1/clients/{}", text(&made, "/client_id"))).await.expect(200).json();
        assert_eq!(shown["redirect_uris"], json!([web, loopback]));
        for none in [&[own][..], &[own, "http://editor.example/callback"]] {
            let refused = app.post(&As::Stranger, "/oauth/register", asked(none)).await.expect(400).json();
            assert_eq!(refused["error"], "invalid_redirect_uri", "{refused}");
        }
    }

    async fn a_client_is_made_shown_and_revoked(app: App) {
        let new = json!({ "name": "App", "redirect_uris": ["http://127.0.0.1/cb"], "scope": "proxy provider:reddit" });
        let made = app.post(&OP, "/v1/clients", new).await.expect(201).json();
        assert_eq!(made["client_secret"], Value::Null);
        assert_eq!(made["grant_types"], json!(["authorization_code", "refresh_token"]));
        let id = text(&made, "/id");
        let path = format!("/v1/clients/{id}");
        let shown = app.get(&OP, &path).await.expect(200).json();
        assert_eq!((&shown["scope"], &shown["confidential"]), (&json!("proxy provider:reddit"), &json!(false)));
        assert_eq!(app.delete(&OP, &path).await.expect(200).json(), json!({ "revoked": 0 }));
        assert!(app.get(&OP, &path).await.expect(200).json()["revoked_at"].is_string());

        let new = json!({ "name": "Backend", "confidential": true });
        let made = app.post(&OP, "/v1/clients", new).await.expect(201).json();
        let secret = text(&made, "/client_secret");
        assert!(made["grant_types"].to_string().contains("device_code"));
        for answer in [app.get(&OP, "/v1/clients").await, app.get(&OP, &format!("/v1/clients/{}", text(&made, "/id"))).await] {
            assert!(!String::from_utf8_lossy(&answer.expect(200).bytes).contains(&secret), "shown once");
        }
        for wrong in [
            json!({ "name": "" }),
            json!({ "name": "x", "redirect_uris": ["http://app.example"] }),
            json!({ "name": "x", "scope": "everything" }),
            json!({ "name": "x", "grant_types": ["implicit"] }),
            json!({ "name": "x", "grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange"] }),
        ] {
            app.post(&OP, "/v1/clients", wrong.clone()).await.refused(400, "invalid_request");
        }
        app.get(&OP, "/v1/clients/vkc_00000000000000000000000000000000").await.refused(404, "not_found");
    }

    async fn the_pages_of_clients_are_the_list_of_clients(app: App) {
        let mut made = Vec::new();
        for n in 0..5 {
            made.push(text(&app.post(&OP, "/v1/clients", json!({ "name": format!("c{n}") })).await.expect(201).json(), "/id"));
        }
        made.reverse();
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = app.get(&OP, &format!("/v1/clients?limit=2{after}")).await.expect(200).json();
            seen.extend(page["clients"].as_array().unwrap().iter().map(|client| text(client, "/id")));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, made);
    }

    async fn a_site_opens_and_closes_its_registration(app: App) {
        let path = "/v1/client-registration";
        assert_eq!(app.get(&OP, path).await.expect(200).json(), json!({ "open": false }));
        for open in [true, true, false] {
            assert_eq!(app.put(&OP, path, json!({ "open": open })).await.expect(200).json(), json!({ "open": open }));
            assert_eq!(app.get(&OP, path).await.expect(200).json(), json!({ "open": open }));
        }
    }

    async fn a_consent_is_seen_and_ended_by_whose_it_is(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "bob", "operator").await;
        let (alices, bobs) = (consent(&app, &agent, "alice").await, consent(&app, &agent, "bob").await);
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let (alice, bob) = (As::For(key.clone(), "alice"), As::For(key.clone(), "bob"));
        let seen = async |who: &As, query: &str| {
            let answer = app.get(who, &format!("/v1/consents{query}")).await.expect(200).json();
            answer["consents"].as_array().unwrap().iter().map(|one| text(one, "/id")).collect::<Vec<_>>()
        };
        assert_eq!(seen(&OP, "").await.len(), 2);
        assert_eq!(seen(&bob, "").await, std::slice::from_ref(&bobs));
        // Who administers the agent sees what others let in.
        assert_eq!(seen(&alice, &format!("?agent={agent}")).await.len(), 2);
        app.get(&bob, &format!("/v1/consents?agent={agent}")).await.refused(403, "forbidden");
        app.get(&bob, "/v1/consents?person=alice").await.refused(403, "forbidden");

        app.delete(&bob, &format!("/v1/consents/{alices}")).await.refused(403, "forbidden");
        app.delete(&alice, &format!("/v1/consents/{bobs}?reason=over")).await.expect(204);
        app.delete(&alice, &format!("/v1/consents/{bobs}")).await.expect(204);
        assert_eq!(seen(&OP, "").await, std::slice::from_ref(&alices));
        app.delete(&alice, &format!("/v1/consents/{alices}")).await.expect(204);
        app.delete(&OP, "/v1/consents/fam_00000000000000000000000000000000").await.refused(404, "not_found");
    }
}
