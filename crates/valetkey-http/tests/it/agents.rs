//! Agents, roles and tokens.

use serde_json::json;
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

fn alice_and_bob() -> Asserts {
    Asserts::People(["alice".parse().unwrap(), "bob".parse().unwrap()].into())
}

on_each_db! {
    /// T-139, T-142, T-146, T-178, T-194.
    async fn an_agent_is_found_by_id_or_slug_and_two_slugs_are_ambiguous(app: App) {
        let first = app.agent("helper", "alice").await;
        for named in ["helper", first.as_str()] {
            assert_eq!(app.get(&As::Operator, &format!("/v1/agents/{named}")).await.expect(200).json()["id"], first);
        }
        let second = app.agent("helper", "bob").await;
        let ambiguous = app.get(&As::Operator, "/v1/agents/helper").await.refused(409, "ambiguous").json();
        assert_eq!(ambiguous["choices"].as_array().unwrap().len(), 2);
        app.delete(&As::Operator, "/v1/agents/helper").await.refused(409, "ambiguous");
        for _ in 0..2 {
            app.delete(&As::Operator, &format!("/v1/agents/{second}")).await.expect(204);
            app.get(&As::Operator, &format!("/v1/agents/{second}")).await.refused(404, "not_found");
        }
        app.get(&As::Operator, "/v1/agents/helper").await.expect(200);
    }

    /// T-087, T-168, T-171, T-172, T-174, T-182, T-189, T-233.
    async fn a_call_for_a_person_goes_as_far_as_their_role(app: App) {
        let key = app.key_text(&[Scope::Agents], alice_and_bob()).await;
        let (alice, bob) = (As::For(key.clone(), "alice"), As::For(key.clone(), "bob"));
        let agent = text(&app.post(&alice, "/v1/agents", json!({ "slug": "hers" })).await.expect(201).json(), "/id");
        let shown = app.get(&alice, &format!("/v1/agents/{agent}")).await.expect(200).json();
        assert_eq!(shown["owner"], "alice", "made in a call for alice, it is hers");
        app.post(&alice, "/v1/agents", json!({ "slug": "his", "owner": "bob" })).await.refused(403, "forbidden");

        for named in [agent.as_str(), "hers", "nobodys"] {
            app.get(&bob, &format!("/v1/agents/{named}")).await.refused(404, "not_found");
        }
        assert_eq!(app.get(&bob, "/v1/agents").await.expect(200).json()["agents"], json!([]));
        app.put(&bob, &format!("/v1/agents/{agent}/roles/bob"), json!({ "role": "admin" })).await.refused(404, "not_found");
        app.put(&alice, &format!("/v1/agents/{agent}/roles/bob"), json!({ "role": "operator" })).await.expect(204);
        app.post(&bob, &format!("/v1/agents/{agent}/tokens"), json!({})).await.expect(201);
        app.patch(&bob, &format!("/v1/agents/{agent}"), json!({ "disabled": true })).await.refused(403, "forbidden");
        app.delete(&bob, &format!("/v1/agents/{agent}")).await.refused(403, "forbidden");
        app.delete(&bob, &format!("/v1/agents/{agent}/tokens")).await.refused(403, "forbidden");
        app.put(&alice, &format!("/v1/agents/{agent}/roles/bob"), json!({ "role": "viewer" })).await.expect(204);
        app.post(&bob, &format!("/v1/agents/{agent}/tokens"), json!({})).await.refused(403, "forbidden");
        assert_eq!(app.get(&bob, "/v1/agents").await.expect(200).json()["agents"][0]["id"], agent);
        app.delete(&alice, &format!("/v1/agents/{agent}/roles/bob")).await.expect(204);
        app.get(&bob, &format!("/v1/agents/{agent}")).await.refused(404, "not_found");
    }

    /// T-176.
    async fn a_key_speaks_for_nobody_it_was_not_given(app: App) {
        let key = app.key_text(&[Scope::Agents], alice_and_bob()).await;
        app.get(&As::For(key.clone(), "carol"), "/v1/agents").await.refused(403, "forbidden");
        app.get(&As::For(key.clone(), "0"), "/v1/agents").await.refused(400, "invalid_request");
        app.patch(&As::Operator, "/v1/people/alice", json!({ "disabled": true })).await.expect(200);
        app.get(&As::For(key, "alice"), "/v1/agents").await.refused(403, "forbidden");
    }

    /// T-218.
    async fn a_token_acts_for_whom_it_was_minted(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "bob", "operator").await;
        let path = format!("/v1/agents/{agent}/tokens");
        let key = app.key_text(&[Scope::Agents], alice_and_bob()).await;
        let plain = As::Bearer(key.clone());
        let person = async |who: &As, body: serde_json::Value| {
            let minted = app.post(who, &path, body).await.expect(201).json();
            let me = app.get(&As::Bearer(text(&minted, "/token")), "/v1/me").await.expect(200).json();
            assert_eq!(me["token"], minted["id"]);
            me["user"].clone()
        };
        assert_eq!(person(&plain, json!({})).await, json!(null));
        assert_eq!(person(&plain, json!({ "person": "bob" })).await, json!("bob"));
        assert_eq!(person(&As::For(key.clone(), "alice"), json!({})).await, json!("alice"));
        assert_eq!(person(&As::For(key.clone(), "alice"), json!({ "unattended": true })).await, json!(null));
        app.post(&As::For(key, "alice"), &path, json!({ "person": "bob" })).await.refused(403, "forbidden");
        app.post(&plain, &path, json!({ "person": "carol" })).await.refused(403, "forbidden");
        app.post(&plain, &path, json!({ "person": "bob", "unattended": true })).await.refused(400, "invalid_request");
        app.post(&As::Operator, &path, json!({ "person": "dave" })).await.refused(403, "forbidden");
    }

    /// T-021, T-084, T-235: an agent's token manages no agent, its own as little as another of its owner's, and mints nothing.
    async fn an_agents_token_manages_no_agent(app: App) {
        let (own, other) = (app.agent("own", "alice").await, app.agent("other", "alice").await);
        for new in [json!({}), json!({ "person": "alice" })] {
            let (id, token) = app.token(&own, new).await;
            for agent in [&own, &other] {
                let path = |rest: &str| format!("/v1/agents/{agent}{rest}");
                for refused in [
                    app.get(&token, &path("")).await,
                    app.patch(&token, &path(""), json!({ "disabled": false })).await,
                    app.delete(&token, &path("")).await,
                    app.get(&token, &path("/roles")).await,
                    app.get(&token, &path("/roles/alice")).await,
                    app.put(&token, &path("/roles/bob"), json!({ "role": "admin" })).await,
                    app.get(&token, &path("/ceiling")).await,
                    app.put(&token, &path("/ceiling"), json!({ "ceiling": null })).await,
                    app.get(&token, &path("/tokens")).await,
                    app.post(&token, &path("/tokens"), json!({})).await,
                    app.delete(&token, &path("/tokens")).await,
                ] {
                    refused.refused(403, "forbidden");
                }
            }
            let me = app.get(&token, "/v1/me").await.expect(200).json();
            assert_eq!((&me["agent"], &me["token"]), (&json!(own), &json!(id)));
        }
        // Nor does it end a token that is not itself.
        let (id, _) = app.token(&own, json!({})).await;
        let (theirs, token) = app.token(&other, json!({})).await;
        app.delete(&token, &format!("/v1/tokens/{id}")).await.refused(404, "not_found");
        for named in [own.as_str(), "own", "nobody"] {
            app.delete(&token, &format!("/v1/tokens/{theirs}?agent={named}")).await.refused(404, "not_found");
        }
        for (agent, tokens) in [(&own, 3), (&other, 1)] {
            let listed = app.get(&As::Operator, &format!("/v1/agents/{agent}/tokens")).await.expect(200).json();
            assert_eq!(listed["tokens"].as_array().unwrap().len(), tokens);
        }
    }

    async fn a_token_lives_no_longer_than_its_minters_role(app: App) {
        let agent = app.agent("a", "alice").await;
        app.role(&agent, "bob", "operator").await;
        let key = app.key_text(&[Scope::Agents], alice_and_bob()).await;
        let minted = app.post(&As::For(key, "bob"), &format!("/v1/agents/{agent}/tokens"), json!({})).await.expect(201).json();
        let token = As::Bearer(text(&minted, "/token"));
        app.get(&token, "/v1/me").await.expect(200);
        app.delete(&As::Operator, &format!("/v1/agents/{agent}/roles/bob")).await.expect(204);
        app.get(&token, "/v1/me").await.refused(401, "unauthenticated");
    }

    /// T-007, T-008.
    /// R66: a token is random, shown once, and stored only as a hash.
    async fn a_tokens_text_is_shown_once_and_its_hash_never(app: App) {
        let agent = app.agent("a", "alice").await;
        let minted = app.post(&As::Operator, &format!("/v1/agents/{agent}/tokens"), json!({ "label": "l" })).await.expect(201);
        let token = text(&minted.json(), "/token");
        let hash = valetkey::id::sha256_hex(token.as_bytes());
        let listed = app.get(&As::Operator, &format!("/v1/agents/{agent}/tokens")).await.expect(200);
        let listed = String::from_utf8(listed.bytes).unwrap();
        assert!(!listed.contains(&token) && !listed.contains(&hash) && listed.contains(&token[..9]));
    }

    async fn ending_all_tokens_of_an_agent_says_how_many_lived(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, first) = app.token(&agent, json!({})).await;
        app.token(&agent, json!({})).await;
        let path = format!("/v1/agents/{agent}/tokens?reason=over");
        assert_eq!(app.delete(&As::Operator, &path).await.expect(200).json()["revoked"], 2);
        assert_eq!(app.delete(&As::Operator, &path).await.expect(200).json()["revoked"], 0);
        app.get(&first, "/v1/me").await.refused(401, "unauthenticated");
    }

    async fn a_token_is_revoked_as_one_of_the_agent_that_is_named(app: App) {
        let (first, second) = (app.agent("first", "alice").await, app.agent("second", "alice").await);
        let (id, token) = app.token(&first, json!({})).await;
        let key = app.key_text(&[Scope::Agents], alice_and_bob()).await;
        let (alice, bob) = (As::For(key.clone(), "alice"), As::For(key, "bob"));
        let path = |agent: &str| format!("/v1/tokens/{id}?agent={agent}");
        for who in [&As::Operator, &alice] {
            app.delete(who, &path(&second)).await.refused(404, "not_found");
            app.delete(who, &path("third")).await.refused(404, "not_found");
        }
        // A role on the agent that is named opens no token of another.
        app.role(&second, "bob", "admin").await;
        for agent in [&first, &second] {
            app.delete(&bob, &path(agent)).await.refused(404, "not_found");
        }
        app.get(&token, "/v1/me").await.expect(200);
        app.delete(&alice, &path("first")).await.expect(204);
        app.delete(&alice, &path(&first)).await.expect(204);
        app.get(&token, "/v1/me").await.refused(401, "unauthenticated");
    }

    /// T-013.
    async fn a_use_is_noted_off_the_hot_path(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, token) = app.token(&agent, json!({})).await;
        app.get(&token, "/v1/me").await.expect(200);
        let path = format!("/v1/agents/{agent}/tokens");
        assert_eq!(app.get(&As::Operator, &path).await.expect(200).json()["tokens"][0]["last_used_at"], json!(null));
        app.broker.last_used().flush(&app.broker.base().db, app.clock.now()).await.unwrap();
        let listed = app.get(&As::Operator, &path).await.expect(200).json();
        assert_eq!(listed["tokens"][0]["last_used_at"], json!(app.clock.now()));
    }

    async fn a_ceiling_with_an_unknown_part_is_not_minted(app: App) {
        let agent = app.agent("a", "alice").await;
        let path = format!("/v1/agents/{agent}/tokens");
        app.post(&As::Operator, &path, json!({ "ceiling": { "budget": 3 } })).await.refused(400, "invalid_request");
        app.post(&As::Operator, &path, json!({ "ceiling": { "delivery": ["proxy"] } })).await.expect(201);
    }
}
