//! `valetkey agent token`, with the arguments that `wp datamachine agents token` takes.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey::clock::Timestamp;

use crate::{
    on_each_home,
    support::{Home, text},
};

/// An agent's tokens, the newest first.
fn tokens(home: &Home, agent: &str) -> Vec<Value> {
    home.json(&["agent", "token", "list", agent])["tokens"].as_array().unwrap().clone()
}

fn create(home: &Home, agent: &str, more: &[&str]) -> Value {
    home.json(&[&["agent", "token", "create", agent], more].concat())
}

fn moment(token: &Value, name: &str) -> Timestamp {
    text(token, name).parse().unwrap()
}

on_each_home! {
    async fn a_token_is_made_with_a_label_and_a_life_in_seconds(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        let made = create(&home, "roadie", &["--label", "laptop", "--expires-in", "3600"]);
        assert_eq!((&made["label"], &made["ceiling"]), (&json!("laptop"), &json!(null)));
        let (since, until) = (moment(&made, "created_at"), moment(&made, "expires_at"));
        assert!(until.since(since) <= Duration::from_secs(3600) && until.since(since) > Duration::from_secs(3500));
        assert!(text(&made, "token").starts_with("vk_"));
        let shown = home.cli(&["agent", "token", "create", "roadie", "--label", "laptop"]).ok();
        assert!(shown.contains("vk_") && shown.contains("shown this once"), "{shown}");
        assert_eq!(create(&home, "roadie", &[])["expires_at"], json!(null));
        let named = create(&home, "roadie", &["--session", "chat-7", "--task", "post-1"]);
        assert_eq!((&named["session"], &named["task"]), (&json!("chat-7"), &json!("post-1")));
        home.cli(&["agent", "token", "create", "roadie", "--session", "chat 7"]).failed(1);
        home.cli(&["agent", "token", "create", "nobody"]).failed(3);
    }

    /// A person is `--user` to every command; `--person` was the word here and is still understood.
    async fn a_token_acts_for_the_user_that_is_named(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie", "--owner", "42"]).ok();
        for word in ["--user", "--person"] {
            assert_eq!(create(&home, "roadie", &[word, "42"])["person"], "42");
        }
        home.cli(&["agent", "token", "create", "roadie", "--user", "43"]).failed(1);
        let listed = home.json(&["client", "consents", "--user", "42"]);
        assert_eq!(listed["consents"], json!([]));
    }

    /// A life that is none would be a token without an end.
    async fn a_life_or_a_scope_that_is_none_makes_no_token(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        for odd in ["0", "-5", "soon", "1h", "", "1.5"] {
            home.cli(&["agent", "token", "create", "roadie", "--expires-in", odd]).failed(2);
        }
        home.cli(&["agent", "token", "create", "roadie", "--expires-in", "60", "--expires", "1h"]).failed(2);
        for odd in ["", "null", "7", "true", "{not json", "\"datamachine_chat\"", "datamachine_chat"] {
            home.cli(&["agent", "token", "create", "roadie", "--capabilities", odd]).failed(2);
        }
        assert!(tokens(&home, "roadie").is_empty());
    }

    /// T-196, T-197, T-198, T-199.
    async fn the_capabilities_of_the_platform_are_kept_with_the_token(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        let platform = |scope: &str| create(&home, "roadie", &["--capabilities", scope])["ceiling"]["platform"].clone();
        let flat = platform(r#"["datamachine_chat", " datamachine_use_tools ", "", "datamachine_chat", 7]"#);
        assert_eq!(flat, json!({ "capabilities": ["datamachine_chat", "datamachine_use_tools", "7"] }));
        let structured = platform(
            r#"{"scope": "read_only", "label": "Read-only", "ability_categories": ["a", ""], "ability_deny": ["b"], "capabilities": ["read", "read"]}"#,
        );
        let abilities = json!({ "scope": "read_only", "label": "Read-only", "ability_categories": ["a"], "ability_allow": [], "ability_deny": ["b"] });
        assert_eq!(structured, json!({ "capabilities": ["read"], "abilities": abilities }));
        // What names no capability allows none.
        for none in ["[]", "{}", r#"[""]"#, r#"{"capabilities": "datamachine_use_tools"}"#] {
            assert_eq!(platform(none)["capabilities"], json!([]), "{none}");
        }
        // It stands beside what narrows here.
        let both = create(&home, "roadie", &["--capabilities", r#"["read"]"#, "--only-deliver", "proxy"]);
        assert_eq!(both["ceiling"], json!({ "delivery": ["proxy"], "platform": { "capabilities": ["read"] } }));
    }

    async fn tokens_are_listed_for_people_and_for_programs(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        assert!(home.cli(&["agent", "token", "list", "roadie"]).ok().contains("the agent has no token"));
        let made = create(&home, "roadie", &["--label", "laptop"]);
        let (id, bearer) = (text(&made, "id"), text(&made, "token"));
        let table = home.cli(&["agent", "token", "list", "roadie", "--format", "table"]).ok();
        assert!(table.contains(&id) && table.contains("laptop") && table.contains("active"), "{table}");
        create(&home, "roadie", &["--capabilities", r#"["datamachine_chat"]"#, "--only-deliver", "proxy"]);
        let narrowed = home.cli(&["agent", "token", "list", "roadie"]).ok();
        assert!(narrowed.contains("SCOPE") && narrowed.contains("proxy; may datamachine_chat"), "{narrowed}");
        let (listed, format) = (tokens(&home, "roadie"), home.cli(&["agent", "token", "list", "roadie", "--format=json"]).json());
        assert_eq!(format["tokens"], json!(listed));
        assert!(!table.contains(&bearer) && !format.to_string().contains(&bearer));
        home.cli(&["agent", "token", "revoke", &id]).ok();
        assert!(home.cli(&["agent", "token", "list", "roadie"]).ok().contains("revoked 20"));
        home.cli(&["agent", "token", "list", "roadie", "--format", "csv"]).failed(2);
        home.cli(&["agent", "token", "list", "nobody"]).failed(3);
    }

    async fn a_token_is_revoked_as_its_agents_and_as_nobody_elses(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        home.cli(&["agent", "create", "other"]).ok();
        let id = text(&create(&home, "roadie", &[]), "id");
        let lives = |home: &Home| tokens(home, "roadie")[0]["revoked_at"].is_null();
        home.cli(&["agent", "token", "revoke", "other", &id]).failed(3);
        home.cli(&["agent", "token", "revoke", "nobody", &id]).failed(3);
        home.cli(&["agent", "token", "revoke", "roadie", "tok_00000000000000000000000000000000"]).failed(3);
        home.cli(&["agent", "token", "revoke", "roadie"]).failed(1);
        assert!(lives(&home));
        let said = home.cli(&["agent", "token", "revoke", "roadie", &id, "--reason", "lost"]).ok();
        assert_eq!(said.trim(), format!("{id} is revoked"));
        assert!(!lives(&home));
        let again = text(&create(&home, "roadie", &[]), "id");
        home.cli(&["agent", "token", "revoke", &again]).ok();
        assert!(!lives(&home));
    }

    async fn every_token_of_an_agent_ends_at_once_where_that_is_meant(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        home.cli(&["agent", "create", "other"]).ok();
        for agent in ["roadie", "roadie", "other"] {
            create(&home, agent, &[]);
        }
        let refused = home.cli(&["agent", "token", "revoke-all", "roadie"]).failed(2);
        assert!(refused.contains("--yes"), "{refused}");
        assert!(tokens(&home, "roadie").iter().all(|token| token["revoked_at"].is_null()));
        assert_eq!(home.json(&["agent", "token", "revoke-all", "roadie", "--reason", "left", "--yes"])["revoked"], 2);
        let ended: Vec<_> = tokens(&home, "roadie").iter().map(|token| token["revoked_at"].clone()).collect();
        assert!(ended.len() == 2 && ended[0].is_string() && ended[0] == ended[1], "at one moment: {ended:?}");
        assert!(tokens(&home, "other")[0]["revoked_at"].is_null());
        let rows = home.json(&["audit", "list", "--limit", "200"])["events"].clone();
        let row = rows.as_array().unwrap().iter().find(|row| row["action"] == "token.revoke_all").unwrap();
        assert_eq!((&row["facts"]["tokens"], &row["facts"]["reason"]), (&json!(2), &json!("left")));
        assert!(text(row, "actor").starts_with("operator"));
        assert_eq!(home.json(&["agent", "token", "revoke-all", "roadie", "--yes"])["revoked"], 0);
        home.cli(&["agent", "token", "revoke-all", "nobody", "--yes"]).failed(3);
    }
}
