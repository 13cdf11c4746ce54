//! Roles, ceilings, the site's policy and the erasing of people, by the command line.

use serde_json::json;

use crate::on_each_home;

on_each_home! {
    /// T-166, T-167, T-169.
    async fn roles_are_granted_listed_checked_and_revoked(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie", "--owner", "42"]).ok();
        home.cli(&["agent", "access", "grant", "roadie", "43"]).ok();
        home.cli(&["agent", "access", "grant", "roadie", "44", "--role", "viewer"]).ok();
        let listed = home.json(&["agent", "access", "list", "roadie"]);
        let rows: Vec<_> = listed["roles"].as_array().unwrap().iter().map(|row| (row["user"].clone(), row["role"].clone())).collect();
        assert_eq!(rows, [(json!("43"), json!("operator")), (json!("44"), json!("viewer"))]);
        let check = |user: &str, role: &str| home.cli(&["agent", "access", "check", "roadie", user, "--role", role]);
        for (user, role) in [("42", "admin"), ("43", "operator"), ("44", "viewer")] {
            assert!(check(user, role).ok().contains("yes"));
        }
        for (user, role) in [("43", "admin"), ("44", "operator"), ("45", "viewer")] {
            let refused = check(user, role);
            assert!(refused.code == Some(1) && refused.stdout.contains("no"), "{refused:?}");
        }
        let listed = home.json(&["agent", "list", "--user", "43", "--role", "operator"]);
        assert_eq!(listed["agents"][0]["slug"], "roadie");
        assert_eq!(home.json(&["agent", "list", "--user", "43", "--role", "admin"])["agents"], json!([]));
        home.cli(&["agent", "list", "--role", "admin"]).failed(2);
        home.cli(&["agent", "access", "revoke", "roadie", "43"]).ok();
        home.cli(&["agent", "access", "revoke", "roadie", "43"]).ok();
        check("43", "viewer").failed(1);
        home.cli(&["agent", "access", "revoke", "roadie", "42"]).failed(4);
    }

    async fn a_ceiling_is_shown_set_and_taken_away(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie"]).ok();
        let nothing = "nothing narrows besides grants";
        assert!(home.cli(&["agent", "ceiling", "roadie"]).ok().contains(nothing));
        let set = home.cli(&["agent", "ceiling", "roadie", "--only-deliver", "proxy", "--only-operation", "GET /**"]).ok();
        assert!(set.contains("proxy") && set.contains("GET /**"), "{set}");
        let shown = home.json(&["agent", "ceiling", "roadie"]);
        assert_eq!(shown, json!({ "ceiling": { "delivery": ["proxy"], "operations": ["GET /**"] } }));
        home.cli(&["agent", "ceiling", "roadie", "--only-provider", "reddit", "--clear"]).failed(2);
        assert_eq!(home.json(&["agent", "ceiling", "roadie"]), shown);
        assert!(home.cli(&["agent", "ceiling", "roadie", "--clear"]).ok().contains(nothing));
    }

    async fn a_policy_keeps_what_is_not_named(home: Home) {
        let _server = home.serve().await;
        home.cli(&["site", "policy", "--chain-limit", "5"]).ok();
        let both = home.json(&["site", "policy", "--only-deliver", "proxy"]);
        assert_eq!(both, json!({ "ceiling": { "delivery": ["proxy"] }, "chain_limit": 5 }));
        let shown = home.cli(&["site", "policy"]).ok();
        assert!(shown.contains("proxy") && shown.contains('5'), "{shown}");
        for odd in ["0", "11", "x"] {
            home.cli(&["site", "policy", "--chain-limit", odd]).failed(2);
        }
        assert_eq!(home.json(&["site", "policy", "--chain-limit", "2", "--clear"]), json!({ "ceiling": null, "chain_limit": 2 }));
        assert_eq!(home.json(&["site", "policy", "--clear"]), json!({ "ceiling": null, "chain_limit": null }));
    }

    async fn erasing_asks_whether_it_is_meant(home: Home) {
        let _server = home.serve().await;
        home.cli(&["agent", "create", "roadie", "--owner", "42"]).ok();
        home.cli(&["agent", "access", "grant", "roadie", "43"]).ok();
        home.cli(&["person", "erase", "43"]).failed(2);
        home.cli(&["agent", "access", "check", "roadie", "43", "--role", "operator"]).ok();
        let erased = home.json(&["person", "erase", "43", "--yes"]);
        assert_eq!((&erased["id"], &erased["roles"]), (&json!("43"), &json!(1)));
        home.cli(&["agent", "access", "check", "roadie", "43"]).failed(1);
        home.cli(&["person", "enable", "43"]).failed(4);
    }
}
