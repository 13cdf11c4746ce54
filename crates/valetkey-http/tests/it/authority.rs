//! Ceilings, roles, caller chains and the erasing of people, as callers meet them.

use http::Method;
use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

const CHAIN: [(&str, &str); 5] = [
    ("x-agents-api-caller-agent", "scout"),
    ("x-agents-api-caller-user", "7"),
    ("x-agents-api-caller-host", "https://other.example"),
    ("x-agents-api-chain-depth", "1"),
    ("x-agents-api-chain-root", "root-1"),
];

/// The five headers with another depth.
fn deep(depth: &'static str) -> [(&'static str, &'static str); 5] {
    CHAIN.map(|(name, value)| (name, if name.ends_with("depth") { depth } else { value }))
}

/// An agent of alice's with a token for nobody, and a connection that it may reveal unattended.
async fn scene(app: &App) -> (String, As, String) {
    let agent = app.agent("a", "alice").await;
    let connection = app.account("site", "").await;
    app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
    let (_, token) = app.token(&agent, json!({})).await;
    (agent, token, connection)
}

async fn reveal(app: &App, token: &As, connection: &str, headers: &[(&str, &str)]) -> crate::support::Answer {
    app.call(token, Method::POST, &format!("/v1/connections/{connection}/token"), Some(json!({})), headers).await
}

/// The newest event of an action, as soon as the queue is written down.
async fn event(app: &App, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..100 {
        let all = app.get(&As::Operator, "/v1/audit?limit=100").await.expect(200).json();
        if let Some(found) = all["events"].as_array().unwrap().iter().find(|event| wanted(event)) {
            return found.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the event was not recorded");
}

on_each_db! {
    async fn the_operators_policy_holds_for_every_agent_of_the_site(app: App) {
        let (agent, token, connection) = scene(&app).await;
        let admin = app.key(&[Scope::Admin, Scope::Agents], Asserts::Any).await;
        let path = "/v1/sites/default/policy";
        assert_eq!(app.get(&admin, path).await.expect(200).json(), json!({ "ceiling": null, "chain_limit": null }));
        reveal(&app, &token, &connection, &[]).await.expect(200);
        app.put(&admin, path, json!({ "ceiling": null })).await.refused(403, "forbidden");
        let policy = json!({ "ceiling": { "delivery": ["proxy"] }, "chain_limit": 5 });
        assert_eq!(app.put(&As::Operator, path, policy.clone()).await.expect(200).json(), policy);
        assert_eq!(app.get(&admin, path).await.expect(200).json(), policy);
        let refused = reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
        assert!(text(&refused.json(), "/detail").contains("the site's ceiling"));
        // A platform sets what narrows its agents; that widens nothing beyond the site.
        app.put(&admin, &format!("/v1/agents/{agent}/ceiling"), json!({ "ceiling": { "delivery": ["proxy", "reveal"] } })).await.expect(200);
        reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
        for odd in [json!({ "chain_limit": 0 }), json!({ "chain_limit": 11 }), json!({ "ceiling": { "budget": 3 } }), json!({ "limit": 3 })] {
            app.put(&As::Operator, path, odd).await.refused(400, "invalid_request");
        }
        assert_eq!(app.get(&admin, path).await.expect(200).json(), policy, "what is refused changes nothing");
        app.put(&As::Operator, path, json!({})).await.expect(200);
        reveal(&app, &token, &connection, &[]).await.expect(200);
        let other = app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201).json();
        app.get(&admin, &format!("/v1/sites/{}/policy", text(&other, "/id"))).await.refused(404, "not_found");
    }

    async fn an_admin_of_an_agent_narrows_all_its_tokens_at_once(app: App) {
        let (agent, token, connection) = scene(&app).await;
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let (alice, bob) = (As::For(key.clone(), "alice"), As::For(key, "bob"));
        app.role(&agent, "bob", "operator").await;
        let path = format!("/v1/agents/{agent}/ceiling");
        let ceiling = json!({ "ceiling": { "providers": ["reddit"] } });
        app.put(&bob, &path, ceiling.clone()).await.refused(403, "forbidden");
        app.put(&alice, &path, ceiling.clone()).await.expect(200);
        assert_eq!(app.get(&bob, &path).await.expect(200).json(), ceiling);
        reveal(&app, &token, &connection, &[]).await.refused(403, "grant_denied");
        let me = app.get(&token, "/v1/me").await.expect(200).json();
        assert_eq!((&me["has_ceiling"], &me["connections"]), (&json!(true), &json!([])));
        assert!(!me.to_string().contains("reddit"), "what a ceiling holds is not told");
        app.put(&alice, &path, json!({ "ceiling": {} })).await.expect(200);
        assert_eq!(app.get(&alice, &path).await.expect(200).json(), json!({ "ceiling": null }));
        reveal(&app, &token, &connection, &[]).await.expect(200);
    }

    /// T-080, T-085, T-088, T-090, T-092, T-095, T-185, T-186, T-187: a list and a check cannot disagree.
    async fn a_role_is_checked_and_listed_by_one_word(app: App) {
        let first = app.agent("first", "alice").await;
        let second = app.agent("second", "bob").await;
        app.role(&first, "bob", "operator").await;
        app.role(&first, "carol", "viewer").await;
        for person in ["alice", "bob", "carol", "dora"] {
            for least in ["viewer", "operator", "admin"] {
                let path = format!("/v1/agents?user={person}&role={least}");
                let listed = app.get(&As::Operator, &path).await.expect(200).json();
                let listed: Vec<_> = listed["agents"].as_array().unwrap().iter().map(|agent| text(agent, "/id")).collect();
                for agent in [&first, &second] {
                    let path = format!("/v1/agents/{agent}/roles/{person}?role={least}");
                    let told = app.get(&As::Operator, &path).await.expect(200).json();
                    assert_eq!(told["allowed"], json!(listed.contains(agent)), "{person} {least}");
                }
            }
        }
        let told = app.get(&As::Operator, &format!("/v1/agents/{first}/roles/bob?role=admin")).await.expect(200).json();
        assert_eq!(told, json!({ "agent": first, "user": "bob", "role": "operator", "least": "admin", "allowed": false }));
        let told = app.get(&As::Operator, "/v1/agents/first/roles/dora").await.expect(200).json();
        assert_eq!((&told["role"], &told["least"]), (&json!(null), &json!("viewer")));
        app.get(&As::Operator, "/v1/agents/nobody/roles/bob").await.refused(404, "not_found");
        app.get(&As::Operator, "/v1/agents?role=admin").await.refused(400, "invalid_request");
        app.get(&As::Operator, "/v1/agents?user=bob&role=owner").await.refused(400, "invalid_request");
        // In a call for a person only that person is asked about, and only on agents on which they have a role.
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        app.get(&As::For(key.clone(), "carol"), "/v1/agents?user=bob").await.refused(403, "forbidden");
        app.get(&As::For(key.clone(), "carol"), &format!("/v1/agents/{second}/roles/bob")).await.refused(404, "not_found");
        assert_eq!(app.get(&As::For(key, "carol"), "/v1/agents?role=operator").await.expect(200).json()["agents"], json!([]));
    }

    /// T-171, T-233: of two agents with one name, a person means the one on which they have a role, and is not told of the other.
    async fn a_name_means_an_agent_on_which_the_person_has_a_role(app: App) {
        let first = app.agent("helper", "alice").await;
        let second = app.agent("helper", "bob").await;
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let told = async |person: &'static str| app.get(&As::For(key.clone(), person), "/v1/agents/helper").await;
        assert_eq!(told("alice").await.expect(200).json()["id"], first);
        assert_eq!(told("bob").await.expect(200).json()["id"], second);
        told("carol").await.refused(404, "not_found");
        app.role(&second, "alice", "viewer").await;
        assert_eq!(told("alice").await.refused(409, "ambiguous").json()["choices"].as_array().unwrap().len(), 2);
    }

    async fn a_role_that_is_taken_away_ends_with_the_next_request(app: App) {
        let agent = app.agent("a", "alice").await;
        let key = app.key_text(&[Scope::Agents], Asserts::Any).await;
        let (alice, bob, carol) = (As::For(key.clone(), "alice"), As::For(key.clone(), "bob"), As::For(key, "carol"));
        let roles = |user: &str| format!("/v1/agents/{agent}/roles/{user}");
        app.put(&bob, &roles("bob"), json!({ "role": "admin" })).await.refused(404, "not_found");
        app.put(&alice, &roles("bob"), json!({ "role": "admin" })).await.expect(204);
        app.put(&bob, &roles("carol"), json!({ "role": "operator" })).await.expect(204);
        app.put(&carol, &roles("carol"), json!({ "role": "admin" })).await.refused(403, "forbidden");
        app.delete(&alice, &roles("bob")).await.expect(204);
        app.put(&bob, &roles("carol"), json!({ "role": "admin" })).await.refused(404, "not_found");
        app.get(&carol, &roles("carol")).await.expect(200);
        app.delete(&carol, &roles("alice")).await.refused(403, "forbidden");
        app.delete(&alice, &roles("alice")).await.refused(409, "conflict");
    }

    /// T-015, T-052, T-053, T-055, T-056, T-059, T-135.
    ///
    /// What a chain claims is recorded, marked as unverified, and makes nobody of anybody.
    async fn a_chain_is_shown_and_recorded_as_unverified_and_widens_nothing(app: App) {
        let (agent, token, connection) = scene(&app).await;
        let claimed = json!({
            "unverified": true, "agent": "scout", "user": 7, "host": "https://other.example", "depth": 1, "root": "root-1",
        });
        let me = app.call(&token, Method::GET, "/v1/me", None, &CHAIN).await.expect(200).json();
        assert_eq!((&me["chain"], &me["calling_user"], &me["user"], &me["agent"]), (&claimed, &json!(null), &json!(null), &json!(agent)));
        assert!(app.get(&token, "/v1/me").await.expect(200).json().get("chain").is_none());
        reveal(&app, &token, &connection, &CHAIN).await.expect(200);
        let used = event(&app, |event| event["action"] == "connection.reveal").await;
        assert_eq!(used["facts"]["chain"], claimed);
        // The person that it claims owns an account here, which stays theirs.
        let theirs = app.account("users/7", "").await;
        app.grant(json!({ "agent": agent, "connection": theirs, "for_whom": ["7"], "delivery": ["reveal"] })).await;
        reveal(&app, &token, &theirs, &CHAIN).await.refused(403, "grant_denied");
        let refused = event(&app, |event| event["outcome"] == "denied" && event["connection"] == json!(theirs)).await;
        assert_eq!(refused["facts"]["chain"], claimed);
        assert!(!refused["actor"].as_str().unwrap().contains("user:"));
    }

    /// T-016, T-017: a chain that cannot be read ends the call before the token counts as used.
    async fn a_chain_that_cannot_be_read_is_refused_and_notes_no_use(app: App) {
        let (agent, token, connection) = scene(&app).await;
        for odd in [deep("bogus"), deep("-1"), deep("0")] {
            for path in ["/v1/me".to_owned(), format!("/v1/proxy/{connection}/x")] {
                app.call(&token, Method::GET, &path, None, &odd).await.refused(400, "invalid_request");
            }
            reveal(&app, &token, &connection, &odd).await.refused(400, "invalid_request");
        }
        reveal(&app, &token, &connection, &[CHAIN[3]]).await.refused(400, "invalid_request");
        reveal(&app, &token, &connection, &deep("3")).await.refused(429, "chain_too_deep");
        app.call(&token, Method::GET, "/v1/me", None, &deep("3")).await.refused(429, "chain_too_deep");
        app.broker.last_used().flush(&app.broker.base().db, app.clock.now()).await.unwrap();
        let tokens = app.get(&As::Operator, &format!("/v1/agents/{agent}/tokens")).await.expect(200).json();
        assert_eq!(tokens["tokens"][0]["last_used_at"], json!(null));
    }

    /// Somebody who lost their role and kept a token asks for nothing by it, so that they cannot take the agent's room for questions
    /// either; and they are told nothing of what waits. Giving it up they may.
    async fn who_lost_their_role_asks_for_nothing_any_more(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "bob", "operator").await;
        let connection = app.account("site", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "operators", "effect": "ask" })).await;
        let (id, token) = app.token(&agent, json!({ "person": "bob" })).await;
        let held = app.call(&token, Method::POST, &format!("/v1/proxy/{connection}/x"), None, &[]).await.expect(202).json();
        let wish = |whom: &str| json!({ "provider": "http_basic", "for_whom": whom, "reason": "to post the report" });
        let proposal = text(&app.post(&token, "/v1/proposals", wish("operators")).await.expect(201).json(), "/id");
        app.delete(&As::Operator, &format!("/v1/agents/{agent}/roles/bob")).await.expect(204);
        let (poll, asked) = (text(&held, "/poll"), format!("/v1/proposals/{proposal}"));
        for headers in [&[][..], &[("valet-unattended", "true")]] {
            for (method, path, body) in [
                (Method::POST, "/v1/proposals", Some(wish("unattended"))),
                (Method::GET, poll.as_str(), None),
                (Method::GET, asked.as_str(), None),
            ] {
                app.call(&token, method, path, body, headers).await.refused(403, "grant_denied");
            }
        }
        let waiting = app.get(&As::Operator, "/v1/proposals?waiting=true").await.expect(200).json();
        assert_eq!(waiting["proposals"].as_array().unwrap().len(), 1, "the one from before");
        let denied = event(&app, |event| event["action"] == "api.call" && event["agent"] == json!(agent)).await;
        assert_eq!((&denied["outcome"], &denied["facts"]["reasons"]), (&json!("denied"), &json!(["person_role"])));
        app.delete(&token, &format!("/v1/tokens/{id}")).await.expect(204);
        app.get(&token, "/v1/me").await.refused(401, "unauthenticated");
    }

    /// T-050, T-051.
    async fn a_chain_is_exhausted_where_the_site_says(app: App) {
        let (_, token, connection) = scene(&app).await;
        let reveal_at = async |depth: &'static str| reveal(&app, &token, &connection, &deep(depth)).await;
        reveal_at("2").await.expect(200);
        let exhausted = reveal_at("3").await.refused(429, "chain_too_deep").json();
        assert_eq!((&exhausted["limit"], &exhausted["chain"]["depth"], &exhausted["chain"]["unverified"]), (&json!(3), &json!(3), &json!(true)));
        let denied = event(&app, |event| event["facts"]["code"] == "chain_too_deep").await;
        assert_eq!((&denied["outcome"], &denied["facts"]["chain"]["depth"]), (&json!("denied"), &json!(3)));
        // By a provider's name, and where nothing is granted, too.
        reveal(&app, &token, "http_basic", &deep("3")).await.refused(429, "chain_too_deep");
        reveal(&app, &token, "reddit", &deep("3")).await.refused(429, "chain_too_deep");
        app.put(&As::Operator, "/v1/sites/default/policy", json!({ "chain_limit": 10 })).await.expect(200);
        reveal_at("9").await.expect(200);
        reveal_at("10").await.refused(429, "chain_too_deep");
        reveal_at("17").await.refused(429, "chain_too_deep");
        app.put(&As::Operator, "/v1/sites/default/policy", json!({ "chain_limit": 1 })).await.expect(200);
        reveal_at("1").await.refused(429, "chain_too_deep");
        reveal(&app, &token, &connection, &[]).await.expect(200);
        // Who is nobody learns nothing of a site's limit.
        let nobody = As::Bearer(format!("datamachine_x_{}", "0".repeat(64)));
        reveal(&app, &nobody, &connection, &deep("3")).await.refused(401, "unauthenticated");
    }

    /// T-050: whatever an agent calls, and whether it would be told anything there or not.
    async fn an_exhausted_chain_ends_at_whatever_an_agent_calls(app: App) {
        let (agent, token, connection) = scene(&app).await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": "ask" })).await;
        let wish = json!({ "provider": "http_basic", "for_whom": "unattended", "reason": "to post the report" });
        let proposal = text(&app.post(&token, "/v1/proposals", wish.clone()).await.expect(201).json(), "/id");
        let proxied = format!("/v1/proxy/{connection}/x");
        let held = app.call(&token, Method::POST, &proxied, None, &[]).await.expect(202).json();
        let about = |kind: &str, id: &str| {
            json!({ "subject": { "type": "agent", "id": agent }, "action": { "name": "use" }, "resource": { "type": kind, "id": id } })
        };
        let many = json!({ "evaluations": [about("connection", &connection), about("provider", "http_basic")] });
        let nothing = format!("con_{}", "0".repeat(32));
        let asked = [
            (Method::POST, "/access/v1/evaluation".to_owned(), Some(about("connection", &connection))),
            (Method::POST, "/access/v1/evaluation".to_owned(), Some(about("connection", &nothing))),
            (Method::POST, "/access/v1/evaluation".to_owned(), Some(about("provider", "http_basic"))),
            (Method::POST, "/access/v1/evaluation".to_owned(), Some(about("provider", "reddit"))),
            (Method::POST, "/access/v1/evaluation".to_owned(), Some(json!({}))),
            (Method::POST, "/access/v1/evaluations".to_owned(), Some(many)),
            (Method::GET, text(&held, "/poll"), None),
            (Method::POST, "/v1/proposals".to_owned(), Some(json!({ "provider": "http_basic", "for_whom": "operators", "reason": "more" }))),
            (Method::GET, format!("/v1/proposals/{proposal}"), None),
            (Method::GET, "/v1/me".to_owned(), None),
            (Method::POST, proxied, None),
            (Method::POST, format!("/v1/connections/{connection}/token"), Some(json!({}))),
        ];
        for (method, path, body) in asked {
            let answer = app.call(&token, method.clone(), &path, body.clone(), &deep("3")).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (429, "chain_too_deep"), "{method} {path} {body:?}");
            let short = app.call(&token, method.clone(), &path, body.clone(), &deep("2")).await;
            assert_ne!(short.status.as_u16(), 429, "{method} {path} {body:?}");
        }
        let waiting = app.get(&As::Operator, "/v1/proposals?waiting=true").await.expect(200).json();
        assert_eq!(waiting["proposals"].as_array().unwrap().len(), 2, "the one from before, and the one by the short chain");
    }

    async fn erasing_a_person_is_for_good_and_for_who_may_speak_for_them(app: App) {
        let agent = app.agent("a", "bob").await;
        app.role(&agent, "alice", "operator").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        reveal(&app, &token, &connection, &[]).await.expect(200);
        let path = "/v1/people/alice";
        let key = app.key_text(&[Scope::Admin], Asserts::Any).await;
        app.delete(&As::For(key.clone(), "bob"), path).await.refused(403, "forbidden");
        let agents = app.key(&[Scope::Agents, Scope::AccountsWrite], Asserts::Any).await;
        app.delete(&agents, path).await.refused(403, "missing_scope");
        reveal(&app, &token, &connection, &[]).await.expect(200);
        let erased = app.delete(&As::Bearer(key.clone()), path).await.expect(200).json();
        assert_eq!(erased, json!({ "id": "alice", "connections": 1, "apps": 0, "tokens": 1, "grants": 0, "roles": 1, "agents": 0 }));
        reveal(&app, &token, &connection, &[]).await.refused(401, "unauthenticated");
        assert_eq!(text(&app.get(&As::Operator, &format!("/v1/connections/{connection}")).await.expect(200).json(), "/status"), "revoked");
        app.patch(&As::Operator, path, json!({ "disabled": false })).await.refused(409, "conflict");
        app.patch(&As::Operator, path, json!({ "disabled": true })).await.expect(200);
        app.get(&As::For(key.clone(), "alice"), "/v1/sites/default").await.refused(403, "forbidden");
        let again = app.delete(&As::Bearer(key), path).await.expect(200).json();
        assert_eq!((&again["connections"], &again["tokens"]), (&json!(0), &json!(0)));
        // The audit stays readable, and names an id.
        let told = event(&app, |event| event["action"] == "person.erased").await;
        assert_eq!(told["facts"]["user"], "alice");
        event(&app, |event| event["action"] == "token.mint" && event["facts"]["person"] == "alice").await;
    }
}
