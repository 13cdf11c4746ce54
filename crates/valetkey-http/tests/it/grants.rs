//! Grants.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

fn alice() -> Asserts {
    Asserts::People(["alice".parse().unwrap()].into())
}

on_each_db! {
    async fn only_who_speaks_for_the_owner_grants_and_the_owner_is_the_grantor(app: App) {
        let agent = app.agent("a", "alice").await;
        let (alices, bobs) = (app.account("users/alice", "").await, app.account("users/bob", "").await);
        let key = app.key(&[Scope::Grants], alice()).await;
        let made = app.post(&key, "/v1/grants", json!({ "agent": "a", "connection": alices })).await.expect(201).json();
        assert_eq!(
            (&made["agent"], &made["grantor"], &made["for_whom"], &made["delivery"]),
            (&json!(agent), &json!("alice"), &json!("owner"), &json!(["proxy"]))
        );
        app.post(&key, "/v1/grants", json!({ "agent": agent, "connection": bobs })).await.refused(404, "not_found");
        let admin = app.key(&[Scope::Grants, Scope::Admin], alice()).await;
        app.post(&admin, "/v1/grants", json!({ "agent": agent, "connection": bobs })).await.refused(404, "not_found");
        let any = app.key_text(&[Scope::Grants], Asserts::Any).await;
        app.post(&As::For(any, "alice"), "/v1/grants", json!({ "agent": agent, "connection": bobs })).await.refused(404, "not_found");
    }

    async fn the_sites_and_the_agents_things_need_admin(app: App) {
        let agent = app.agent("a", "alice").await;
        let sites = app.account("site", "").await;
        let new = json!({ "agent": agent, "connection": sites, "for_whom": "unattended" });
        let key = app.key(&[Scope::Grants], Asserts::Any).await;
        app.post(&key, "/v1/grants", new.clone()).await.refused(404, "not_found");
        let admin = app.key(&[Scope::Grants, Scope::Admin], Asserts::None).await;
        let made = app.post(&admin, "/v1/grants", new).await.expect(201).json();
        assert_eq!(made["grantor"], json!(null));
        app.post(&admin, "/v1/grants", json!({ "agent": agent, "connection": sites })).await.refused(400, "invalid_request");
    }

    async fn a_platform_lists_and_revokes_what_it_reaches(app: App) {
        let agent = app.agent("a", "alice").await;
        let (alices, bobs) = (app.account("users/alice", "").await, app.account("users/bob", "").await);
        let hers = app.grant(json!({ "agent": agent, "connection": alices })).await;
        let his = app.grant(json!({ "agent": agent, "connection": bobs })).await;
        let key = app.key(&[Scope::Grants], alice()).await;
        app.get(&key, "/v1/grants").await.refused(400, "invalid_request");
        let listed = app.get(&key, "/v1/grants?agent=a").await.expect(200).json();
        assert_eq!((listed["grants"].as_array().unwrap().len(), text(&listed, "/grants/0/id")), (1, hers.clone()));
        assert_eq!(app.get(&As::Operator, "/v1/grants").await.expect(200).json()["grants"].as_array().unwrap().len(), 2);
        app.delete(&key, &format!("/v1/grants/{his}")).await.refused(404, "not_found");
        app.delete(&key, &format!("/v1/grants/{hers}?reason=enough")).await.expect(204);
        app.delete(&key, &format!("/v1/grants/{hers}")).await.expect(204);
        let listed = app.get(&key, "/v1/grants?agent=a").await.expect(200).json();
        assert!(listed["grants"][0]["revoked_at"].is_string());
    }

    async fn a_revoked_grant_yields_nothing_from_the_next_request_on(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] });
        let id = app.grant(grant).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let reveal = format!("/v1/connections/{connection}/token");
        app.post(&token, &reveal, json!({})).await.expect(200);
        app.delete(&As::Operator, &format!("/v1/grants/{id}")).await.expect(204);
        app.post(&token, &reveal, json!({})).await.refused(404, "not_found");
    }

    async fn what_makes_no_sense_is_not_granted(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        for wrong in [
            json!({ "for_whom": [] }),
            json!({ "for_whom": "everybody" }),
            json!({ "delivery": ["email"] }),
            json!({ "operations": ["GET no-slash"] }),
            json!({ "max_uses": 0 }),
            json!({ "expires_at": "2001-01-01T00:00:00Z" }),
            json!({ "expires_at": "soon" }),
        ] {
            let mut new = json!({ "agent": agent, "connection": connection });
            new.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
            app.post(&As::Operator, "/v1/grants", new).await.refused(400, "invalid_request");
        }
    }
}
