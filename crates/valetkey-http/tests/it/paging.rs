//! Lists that come in pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db, text};

const OP: As = As::Operator;

/// Everything in a list, two at a time: the ids, and how many pages they took.
async fn pages(app: &App, who: &As, path: &str, list: &str) -> (Vec<String>, usize) {
    let (mut ids, mut count, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = app.get(who, &format!("{path}limit=2{after}")).await.expect(200).json();
        count += 1;
        assert!(page[list].as_array().unwrap().len() <= 2);
        ids.extend(page[list].as_array().unwrap().iter().map(|one| text(one, "/id")));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (ids, count),
        }
        assert!(count < 100, "the pages do not end");
    }
}

/// The ids of a list that is asked for whole.
async fn whole(app: &App, who: &As, path: &str, list: &str) -> Vec<String> {
    let all = app.get(who, path).await.expect(200).json();
    assert_eq!(all["next"], Value::Null);
    all[list].as_array().unwrap().iter().map(|one| text(one, "/id")).collect()
}

on_each_db! {
    async fn the_pages_of_agents_are_the_list_of_agents(app: App) {
        // The clock stands: all are made at the same moment, and the order holds all the same.
        for slug in ["a", "b", "c", "d", "e"] {
            app.agent(slug, "alice").await;
        }
        let all = whole(&app, &OP, "/v1/agents", "agents").await;
        let (paged, count) = pages(&app, &OP, "/v1/agents?", "agents").await;
        assert_eq!((paged, count, all.len()), (all, 3, 5));
    }

    /// T-089, T-183, T-184.
    async fn in_a_call_for_a_person_the_pages_hold_their_agents_only(app: App) {
        let mut hers = BTreeSet::new();
        for slug in ["a", "b", "c"] {
            hers.insert(app.agent(slug, "alice").await);
            app.agent(slug, "bob").await;
        }
        let shared = app.agent("shared", "bob").await;
        app.role(&shared, "alice", "viewer").await;
        hers.insert(shared);
        let alice = As::For(app.key_text(&[Scope::Agents], Asserts::Any).await, "alice");
        let (paged, _) = pages(&app, &alice, "/v1/agents?", "agents").await;
        assert_eq!(paged.len(), 4);
        assert_eq!(paged.into_iter().collect::<BTreeSet<_>>(), hers);
    }

    async fn a_page_that_begins_after_an_agent_that_is_gone_goes_on_there(app: App) {
        for slug in ["a", "b", "c"] {
            app.agent(slug, "alice").await;
        }
        let all = whole(&app, &OP, "/v1/agents", "agents").await;
        app.delete(&OP, &format!("/v1/agents/{}", all[1])).await.expect(204);
        assert_eq!(whole(&app, &OP, &format!("/v1/agents?after={}", all[1]), "agents").await, all[2..]);
    }

    async fn the_pages_of_tokens_are_the_list_of_tokens_the_newest_first(app: App) {
        let agent = app.agent("a", "alice").await;
        let mut made = Vec::new();
        for _ in 0..5 {
            made.insert(0, app.token(&agent, json!({})).await.0);
            app.clock.advance(std::time::Duration::from_secs(1));
        }
        let path = format!("/v1/agents/{agent}/tokens");
        assert_eq!(whole(&app, &OP, &path, "tokens").await, made);
        let (paged, count) = pages(&app, &OP, &format!("{path}?"), "tokens").await;
        assert_eq!((paged, count), (made, 3));
    }

    async fn the_pages_of_grants_are_the_list_of_grants(app: App) {
        let agent = app.agent("a", "alice").await;
        for name in ["one", "two", "three", "four"] {
            let connection = app.account("users/alice", name).await;
            app.grant(json!({ "agent": agent, "connection": connection })).await;
        }
        let all = whole(&app, &OP, "/v1/grants?agent=a", "grants").await;
        // Two pages that are full, and one that shows that there is no more.
        let (paged, count) = pages(&app, &OP, "/v1/grants?agent=a&", "grants").await;
        assert_eq!((paged, count, all.len()), (all, 3, 4));
    }

    /// Each page is of those that are granted, and holds those among them that can be used now.
    async fn the_pages_of_what_an_agent_may_use_are_all_that_it_may_use(app: App) {
        let agent = app.agent("a", "alice").await;
        let mut usable = BTreeSet::new();
        for n in 0..7 {
            let connection = app.account("users/alice", &format!("n{n}")).await;
            // Every third is for a session that the token is not for.
            let session = (n % 3 == 0).then_some("night");
            app.grant(json!({ "agent": agent, "connection": connection, "session": session })).await;
            // A second grant makes no second connection of it.
            app.grant(json!({ "agent": agent, "connection": connection, "session": session, "max_uses": 1 })).await;
            // What denies it counts on whichever page it is.
            let denied = n == 5;
            if denied {
                app.grant(json!({ "agent": agent, "connection": connection, "effect": "deny" })).await;
            }
            usable.extend((session.is_none() && !denied).then_some(connection));
        }
        let denied = app.account("users/alice", "denied").await;
        app.grant(json!({ "agent": agent, "connection": denied, "effect": "deny" })).await;
        let over = app.account("users/alice", "over").await;
        app.grant(json!({ "agent": agent, "connection": over })).await;
        app.delete(&OP, &format!("/v1/connections/{over}")).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let all = whole(&app, &token, "/v1/me", "connections").await;
        assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), usable);
        assert_eq!(pages(&app, &token, "/v1/me?", "connections").await, (all, 4));
        app.get(&token, "/v1/me?after=nothing").await.refused(400, "invalid_request");
        app.get(&token, "/v1/me?first=2").await.refused(400, "invalid_request");
    }

    async fn a_platform_gets_through_pages_of_grants_that_it_may_not_see(app: App) {
        let agent = app.agent("a", "alice").await;
        let mut hers = String::new();
        for (owner, name) in [("bob", "1"), ("bob", "2"), ("bob", "3"), ("alice", "1")] {
            let connection = app.account(&format!("users/{owner}"), name).await;
            hers = app.grant(json!({ "agent": agent, "connection": connection })).await;
        }
        let key = app.key(&[Scope::Grants], Asserts::People(["alice".parse().unwrap()].into())).await;
        let (paged, _) = pages(&app, &key, "/v1/grants?agent=a&", "grants").await;
        assert_eq!(paged, [hers]);
    }

    async fn a_limit_that_is_none_is_refused(app: App) {
        for path in ["/v1/agents?limit=many", "/v1/grants?limit=-1", "/v1/connections?limit=1.5"] {
            app.get(&OP, path).await.refused(400, "invalid_request");
        }
        app.get(&OP, "/v1/grants?after=con_nothing").await.refused(400, "invalid_request");
    }
}
