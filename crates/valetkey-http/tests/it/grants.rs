//! Grants.

use serde_json::json;
use valetkey::{
    db::testing,
    platform::{Asserts, Scope},
};

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

    async fn a_grant_whose_terms_cannot_be_read_can_be_taken_back(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let id = app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended" })).await;
        let db = &app.broker.base().db;
        testing::execute(db, &format!("UPDATE grants SET operations = 'no list' WHERE id = '{id}'")).await;
        let key = app.key(&[Scope::Grants], alice()).await;
        let path = format!("/v1/grants/{id}");
        app.delete(&key, &path).await.expect(204);
        testing::execute(db, &format!("UPDATE grants SET operations = NULL WHERE id = '{id}'")).await;
        let revoked = app.get(&As::Operator, "/v1/grants").await.expect(200).json();
        assert!(revoked["grants"][0]["revoked_at"].is_string(), "{revoked}");
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

    async fn a_grant_says_what_it_is_and_a_name_stands_for_its_patterns(app: App) {
        let agent = app.agent("a", "alice").await;
        let account = json!({ "account": { "access_token": "t" } });
        let path = "/v1/providers/github/accounts/users/alice";
        let connection = text(&app.put(&As::Operator, path, account).await.expect(201).json(), "/connection");
        let new = json!({
            "agent": agent, "connection": connection, "effect": "ask", "operations": ["issue.create", "GET /user"], "rate": "5/90s",
            "session": "night", "task": "t-1",
        });
        let made = app.post(&As::Operator, "/v1/grants", new.clone()).await.expect(201).json();
        assert_eq!(made["operations"], json!(["POST /repos/*/*/issues", "GET /user"]));
        assert_eq!((&made["operation_names"], &made["effect"], &made["rate"]), (&json!(["issue.create"]), &json!("ask"), &json!("5/90s")));
        assert_eq!((&made["session"], &made["task"], &made["for_whom"]), (&json!("night"), &json!("t-1"), &json!("owner")));
        let listed = app.get(&As::Operator, "/v1/grants?agent=a").await.expect(200).json();
        assert_eq!(listed["grants"][0], made);
        for (member, value) in [
            ("effect", json!("maybe")),
            ("operations", json!(["issue.crate"])),
            ("operations", json!(["GET /a//b"])),
            ("rate", json!("often")),
            ("rate", json!("0/s")),
            ("session", json!("")),
            ("session", json!("a b")),
            ("task", json!(42)),
            ("for_whom", json!("anyone")),
        ] {
            let mut wrong = new.clone();
            wrong[member] = value;
            app.post(&As::Operator, "/v1/grants", wrong).await.refused(400, "invalid_request");
        }
    }

    /// To take away what holds others back is to give: it needs whoever may grant, and not only who may look.
    async fn a_denial_is_taken_back_by_whoever_may_grant(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let denial = app.grant(json!({ "agent": agent, "connection": connection, "effect": "deny" })).await;
        let read = app.get(&As::Operator, "/v1/grants?agent=a").await.expect(200).json();
        assert_eq!((&read["grants"][0]["for_whom"], &read["grants"][0]["delivery"]), (&json!("anyone"), &json!(["proxy", "reveal"])));
        let admin = app.key(&[Scope::Grants, Scope::Admin], Asserts::None).await;
        app.delete(&admin, &format!("/v1/grants/{denial}")).await.refused(403, "forbidden");
        let key = app.key(&[Scope::Grants], alice()).await;
        app.delete(&key, &format!("/v1/grants/{denial}")).await.expect(204);
        let allows = app.grant(json!({ "agent": agent, "connection": connection })).await;
        app.delete(&admin, &format!("/v1/grants/{allows}")).await.expect(204);
    }
}
