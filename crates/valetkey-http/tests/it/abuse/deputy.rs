//! The confused deputy: an agent, a platform or a token that would lend one person's rights to another. Each is a sentence of
//! "for whom a grant is", turned into an attack.

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use super::{ACCESS_TOKEN, reveal};
use crate::{
    oauth::{Front, redeeming, refused},
    pages::HTTPS,
    support::{App, As, basic, on_each_db, text},
};

/// Alice's agent, which bob and carol may operate; alice and bob let it use their own accounts, each for themselves.
struct Shared {
    agent: String,
    alices: String,
    bobs: String,
}

impl Shared {
    async fn new(app: &App) -> Self {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "bob", "operator").await;
        app.role(&agent, "carol", "operator").await;
        let (alices, bobs) = (app.account("users/alice", "").await, app.account("users/bob", "").await);
        for connection in [&alices, &bobs] {
            app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        }
        Self { agent, alices, bobs }
    }

    async fn token_for(&self, app: &App, person: Option<&str>) -> As {
        app.token(&self.agent, json!({ "person": person })).await.1
    }
}

on_each_db! {
    async fn who_operates_an_agent_uses_nobody_elses_account(app: App) {
        let shared = Shared::new(&app).await;
        for (person, own) in [("alice", Some(&shared.alices)), ("bob", Some(&shared.bobs)), ("carol", None)] {
            let token = shared.token_for(&app, Some(person)).await;
            for connection in [&shared.alices, &shared.bobs] {
                let answer = reveal(&app, &token, connection, &[]).await;
                if own == Some(connection) {
                    answer.expect(200);
                } else {
                    answer.refused(403, "grant_denied");
                }
            }
            // Where only the provider is named, it is the caller's own or nothing, and no other is told of.
            let answer = reveal(&app, &token, "http_basic", &[]).await;
            match own {
                Some(own) => assert_eq!(answer.expect(200).json()["connection"], json!(own)),
                None => assert!(answer.status.is_client_error() && !answer.json().to_string().contains("con_"), "{answer:?}"),
            }
            let me = app.get(&token, "/v1/me").await.expect(200).json();
            let listed: Vec<_> = me["connections"].as_array().unwrap().iter().map(|one| text(one, "/id")).collect();
            assert_eq!(listed, own.into_iter().cloned().collect::<Vec<_>>(), "{person}");
        }
    }

    async fn a_token_for_nobody_opens_nothing_that_is_for_somebody(app: App) {
        let shared = Shared::new(&app).await;
        let connection = app.account("users/alice", "another").await;
        let (nobody, hers) = (shared.token_for(&app, None).await, shared.token_for(&app, Some("alice")).await);
        let given_up = [("valet-unattended", "true")];
        for whom in [json!("owner"), json!("operators"), json!(["alice"])] {
            let id = app.grant(json!({ "agent": shared.agent, "connection": connection, "for_whom": whom, "delivery": ["reveal"] })).await;
            reveal(&app, &nobody, &connection, &[]).await.refused(403, "grant_denied");
            reveal(&app, &nobody, &connection, &given_up).await.refused(403, "grant_denied");
            reveal(&app, &hers, &connection, &[]).await.expect(200);
            reveal(&app, &hers, &connection, &given_up).await.refused(403, "grant_denied");
            app.delete(&As::Operator, &format!("/v1/grants/{id}")).await.expect(204);
        }
        // And the other way: what is for nobody is no person's, unless they are given up.
        app.grant(json!({ "agent": shared.agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        reveal(&app, &nobody, &connection, &[]).await.expect(200);
        reveal(&app, &hers, &connection, &[]).await.refused(403, "grant_denied");
        reveal(&app, &hers, &connection, &given_up).await.expect(200);
        for odd in ["false", "1", "", "TRUE", "true, true", "alice"] {
            reveal(&app, &hers, &connection, &[("valet-unattended", odd)]).await.refused(400, "invalid_request");
        }
        let twice = [("valet-unattended", "true"), ("valet-unattended", "true")];
        reveal(&app, &hers, &connection, &twice).await.refused(400, "invalid_request");
    }

    async fn nothing_in_a_call_gains_a_person(app: App) {
        let shared = Shared::new(&app).await;
        let nobody = shared.token_for(&app, None).await;
        let connection = &shared.alices;
        reveal(&app, &nobody, connection, &[("valet-user", "alice")]).await.refused(400, "invalid_request");
        for name in [
            "valet-person",
            "valet-owner",
            "valet-on-behalf-of",
            "x-valet-user",
            "x-user",
            "x-user-id",
            "x-forwarded-user",
            "x-remote-user",
            "remote-user",
            "x-agents-api-user",
            "x-agents-api-owner",
            "from",
            "cookie",
        ] {
            for value in ["alice", "user:alice"] {
                reveal(&app, &nobody, connection, &[(name, value)]).await.refused(403, "grant_denied");
            }
        }
        let path = format!("/v1/connections/{connection}/token");
        for name in ["person", "user", "owner", "as", "valet-user", "acting_user", "site", "unattended"] {
            app.post(&nobody, &format!("{path}?{name}=alice"), json!({})).await.refused(400, "invalid_request");
            app.post(&nobody, &path, json!({ (name): "alice" })).await.refused(400, "invalid_request");
        }
        // Neither does a chain that claims a person whom there is here as well.
        let sevens = app.account("users/7", "").await;
        app.grant(json!({ "agent": shared.agent, "connection": sevens, "for_whom": ["7"], "delivery": ["reveal"] })).await;
        let chain = [
            ("x-agents-api-caller-agent", shared.agent.as_str()),
            ("x-agents-api-caller-user", "7"),
            ("x-agents-api-caller-host", "https://keys.example.test"),
            ("x-agents-api-chain-depth", "1"),
            ("x-agents-api-chain-root", "r"),
        ];
        reveal(&app, &nobody, &sevens, &chain).await.refused(403, "grant_denied");
    }

    async fn no_word_makes_a_grant_for_everybody(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let whoms = ["anyone", "any", "all", "self", "me", "*", "everyone", "agent", "Owner", "OPERATORS", "", "alice"];
        let odd = [json!([]), json!(["*"]), json!([""]), json!(["alice", 7]), json!({ "people": ["alice"] }), json!(7), json!(true)];
        for whom in whoms.iter().map(|whom| json!(whom)).chain(odd) {
            let new = json!({ "agent": agent, "connection": connection, "for_whom": whom, "delivery": ["reveal"] });
            app.post(&As::Operator, "/v1/grants", new).await.refused(400, "invalid_request");
        }
        let none = app.get(&As::Operator, &format!("/v1/grants?agent={agent}")).await.expect(200).json();
        assert_eq!(none["grants"], json!([]));
    }

    async fn who_lost_their_role_gains_nothing_by_giving_up_their_person(app: App) {
        let shared = Shared::new(&app).await;
        app.grant(json!({ "agent": shared.agent, "connection": shared.bobs, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let bobs = shared.token_for(&app, Some("bob")).await;
        // One that bob minted for nobody is worth as much as his role.
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let minted = app.post(&As::For(key, "bob"), &format!("/v1/agents/{}/tokens", shared.agent), json!({ "unattended": true })).await;
        let minted = As::Bearer(text(&minted.expect(201).json(), "/token"));
        let given_up = [("valet-unattended", "true")];
        for headers in [&[][..], &given_up] {
            reveal(&app, &bobs, &shared.bobs, headers).await.expect(200);
        }
        reveal(&app, &minted, &shared.bobs, &[]).await.expect(200);
        app.delete(&As::Operator, &format!("/v1/agents/{}/roles/bob", shared.agent)).await.expect(204);
        for headers in [&[][..], &given_up] {
            reveal(&app, &bobs, &shared.bobs, headers).await.refused(403, "grant_denied");
        }
        reveal(&app, &minted, &shared.bobs, &[]).await.refused(401, "unauthenticated");
    }

    /// A key that may speak for alice does nothing in bob's name, wherever he is named.
    async fn a_platform_acts_for_nobody_whom_its_key_may_not_assert(app: App) {
        let shared = Shared::new(&app).await;
        app.reddit().await;
        let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin).collect();
        let key = app.key_text(&scopes, Asserts::People(["alice".parse().unwrap()].into())).await;
        let (agent, bobs) = (&shared.agent, &shared.bobs);
        let held = {
            let connection = app.account("users/bob", "asked-about").await;
            app.grant(json!({ "agent": agent, "connection": connection, "effect": "ask", "for_whom": "unattended" })).await;
            let nobody = shared.token_for(&app, None).await;
            let path = format!("/v1/proxy/{connection}/x");
            text(&app.get(&nobody, &path).await.expect(202).json(), "/approval")
        };
        let calls: Vec<(Method, String, Option<Value>)> = vec![
            (Method::GET, "/v1/providers/http_basic/accounts/users/bob".to_owned(), None),
            (Method::GET, "/v1/providers/http_basic/accounts/users/bob?reveal=true".to_owned(), None),
            (Method::PUT, "/v1/providers/http_basic/accounts/users/bob".to_owned(), Some(basic("mine"))),
            (Method::DELETE, "/v1/providers/http_basic/accounts/users/bob".to_owned(), None),
            (Method::GET, format!("/v1/connections/{bobs}"), None),
            (Method::DELETE, format!("/v1/connections/{bobs}"), None),
            (Method::POST, format!("/v1/connections/{bobs}/confirm"), Some(json!({}))),
            (Method::POST, format!("/v1/connections/{bobs}/reconnect"), Some(json!({}))),
            (Method::POST, "/v1/connect-sessions".to_owned(), Some(json!({ "provider": "reddit", "owner": "user:bob" }))),
            (Method::POST, format!("/v1/agents/{agent}/tokens"), Some(json!({ "person": "bob" }))),
            (Method::POST, "/v1/grants".to_owned(), Some(json!({ "agent": agent, "connection": bobs, "for_whom": ["alice"] }))),
            (Method::POST, format!("/v1/approvals/{held}/approve"), Some(json!({}))),
            (Method::POST, format!("/v1/approvals/{held}/refuse"), Some(json!({}))),
            (Method::GET, "/v1/people/bob/sessions".to_owned(), None),
            (Method::DELETE, "/v1/people/bob/sessions".to_owned(), None),
        ];
        for (method, path, body) in &calls {
            // In the person's name, in alice's name, and in nobody's.
            for who in [As::For(key.clone(), "bob"), As::For(key.clone(), "alice"), As::Bearer(key.clone())] {
                let answer = app.call(&who, method.clone(), path, body.clone(), &[]).await;
                assert!([403, 404].contains(&answer.status.as_u16()), "{method} {path} as {who:?}: {answer:?}");
            }
        }
        for path in ["/v1/agents", "/v1/connections", "/v1/providers", "/v1/approvals", "/v1/proposals"] {
            app.get(&As::For(key.clone(), "bob"), path).await.refused(403, "forbidden");
        }
        let shown = app.get(&As::Operator, &format!("/v1/connections/{bobs}")).await.expect(200).json();
        assert_eq!(text(&shown, "/status"), "active");
        let waits = app.get(&As::Operator, &format!("/v1/approvals/{held}")).await.expect(200).json();
        assert_eq!(text(&waits, "/status"), "pending");
        let his = app.get(&As::Operator, "/v1/providers/http_basic/accounts/users/bob?reveal=true").await.expect(200);
        assert!(!String::from_utf8(his.bytes).unwrap().contains("mine"));
    }

    /// A call that names a person is that person's, also by a key with `admin`.
    async fn a_call_for_one_person_changes_nothing_of_anothers(app: App) {
        let shared = Shared::new(&app).await;
        let hers = shared.token_for(&app, Some("alice")).await;
        let key = app.key_text(&Scope::ALL, Asserts::Any).await;
        let bob = As::For(key.clone(), "bob");
        app.patch(&bob, "/v1/people/alice", json!({ "disabled": true })).await.refused(403, "forbidden");
        app.delete(&bob, "/v1/people/alice").await.refused(403, "forbidden");
        app.delete(&bob, "/v1/people/alice/sessions").await.refused(403, "forbidden");
        app.delete(&bob, "/v1/providers/http_basic/accounts/users/alice").await.refused(403, "forbidden");
        app.delete(&bob, &format!("/v1/connections/{}", shared.alices)).await.refused(404, "not_found");
        reveal(&app, &hers, &shared.alices, &[]).await.expect(200);
        app.patch(&As::Bearer(key), "/v1/people/alice", json!({ "disabled": true })).await.expect(200);
        reveal(&app, &hers, &shared.alices, &[]).await.refused(401, "unauthenticated");
    }

    /// RFC 8707 section 2: a token for the MCP server is nobody's at the API, and neither is what comes of it.
    async fn a_token_for_one_place_is_nobodys_at_another(front: Front) {
        let (client, mcp) = (front.public().await, format!("{HTTPS}/mcp"));
        let code = front.code(&client, &[("resource", mcp.as_str())]).await;
        let mut elsewhere = redeeming(&client, &code);
        elsewhere.push(("resource", HTTPS));
        refused(front.post("/oauth/token", &elsewhere).await, 400, "invalid_target");
        let issued = front.post("/oauth/token", &redeeming(&client, &code)).await.expect(200).json();
        let access = issued["access_token"].as_str().unwrap();
        front.get("/v1/me", Some(access)).await.refused(401, "unauthenticated");

        // The other way round.
        let here = front.tokens(&client).await;
        let bearer = format!("Bearer {}", here["access_token"].as_str().unwrap());
        front.get("/v1/me", here["access_token"].as_str()).await.expect(200);
        let request = Request::post("/mcp").header(header::AUTHORIZATION, bearer).header(header::CONTENT_TYPE, "application/json");
        front.send(request.body(Body::from("{}")).unwrap()).await.refused(401, "unauthenticated");

        let (exchanger, secret) = front.confidential().await;
        let exchange = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("client_id", exchanger.id.as_str()),
            ("client_secret", secret.as_str()),
            ("subject_token", access),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        for name in ["resource", "audience"] {
            let mut elsewhere = exchange.to_vec();
            elsewhere.push((name, HTTPS));
            refused(front.post("/oauth/token", &elsewhere).await, 400, "invalid_target");
        }
        let child = front.post("/oauth/token", &exchange).await.expect(200).json();
        front.get("/v1/me", child["access_token"].as_str()).await.refused(401, "unauthenticated");

        let again = [("grant_type", "refresh_token"), ("client_id", client.id.as_str()), ("refresh_token", issued["refresh_token"].as_str().unwrap())];
        let mut elsewhere = again.to_vec();
        elsewhere.push(("resource", HTTPS));
        refused(front.post("/oauth/token", &elsewhere).await, 400, "invalid_target");
        let next = front.post("/oauth/token", &again).await.expect(200).json();
        front.get("/v1/me", next["access_token"].as_str()).await.refused(401, "unauthenticated");
    }
}
