//! The main job by the command line, the pages and the API: connect once, act through grants, take it back.

use reqwest::Method;
use serde_json::json;

use crate::{
    on_each_home,
    support::{World, call, text},
};

on_each_home! {
    async fn a_person_connects_once_and_an_agent_acts_until_it_is_taken_back(home: Home) {
        let world = World::around(home).await;
        let home = &world.home;
        let server = home.serve().await;
        let app = world.configure();
        assert_eq!(app["values"], json!({ "client_id": "lab-client", "client_secret": valetkey::app_config::MASK }), "a secret is never shown");
        let key = world.key("connect,accounts:read", "42,43");
        let connection = world.connect(&server, &key, "42", "alice").await;
        let shown = home.json(&["connection", "show", &connection]);
        assert_eq!((text(&shown, "status"), text(&shown, "subject")), ("active".to_owned(), "1001".to_owned()), "{shown}");

        let agent = world.agent("roadie", "42");
        let token = world.token("roadie", "42");
        let me = format!("/v1/proxy/{connection}/me");
        call(&server, Method::GET, &me, &token, None).await.refused(404, "not_found");
        let denied = home.cli(&["explain", "--agent", "roadie", "--connection", &connection, "--user", "42", "--json"]);
        assert_eq!(denied.code, Some(1), "{denied:?}");
        assert!(denied.stdout.contains("no_grant"), "{denied:?}");

        let grant = home.json(&[
            "grant", "create", "--agent", "roadie", "--connection", &connection, "--for", "owner",
            "--operation", "GET /api/**", "--expires", "1h",
        ]);
        let answer = call(&server, Method::GET, &me, &token, None).await.ok();
        assert_eq!(answer["username"], "alice");
        let post = json!({ "text": "hello" });
        call(&server, Method::POST, &format!("/v1/proxy/{connection}/posts"), &token, Some(&post)).await.refused(403, "grant_denied");
        call(&server, Method::POST, &format!("/v1/connections/{connection}/token"), &token, Some(&json!({}))).await.refused(403, "grant_denied");
        let allowed = home.cli(&["explain", "--agent", &agent, "--connection", &connection, "--user", "42", "--operation", "GET /api/me"]);
        assert!(allowed.ok().starts_with("allow"));
        let id = text(&home.json(&["agent", "token", "list", "roadie"])["tokens"][0], "id");
        let of_token = ["explain", "--token", &id, "--connection", &connection, "--operation", "GET /api/me"];
        assert!(home.cli(&of_token).ok().starts_with("allow"));
        assert_eq!(home.cli(&[&of_token[..], &["--unattended"]].concat()).code, Some(1), "what is granted is for its person");
        home.cli(&[&of_token[..], &["--agent", "roadie"]].concat()).failed(2);
        let reached = home.json(&["reach", "roadie"])["ways"][0].clone();
        let way = ["connection", "person", "proxy", "reveal"].map(|part| text(&reached, part));
        assert_eq!(way, [connection.as_str(), "42", "allow", "deny"]);
        let who = home.cli(&["who-can", &connection]).ok();
        assert!(who.contains(&agent) && who.contains("42"), "{who}");
        let denial = ["grant", "create", "--agent", "roadie", "--connection", &connection, "--effect", "deny", "--operation", "GET /api/me"];
        let denial = home.json(&denial);
        call(&server, Method::GET, &me, &token, None).await.refused(403, "grant_denied");
        home.cli(&["grant", "revoke", &text(&denial, "id")]).ok();
        call(&server, Method::GET, &me, &token, None).await.ok();

        home.cli(&["grant", "revoke", &text(&grant, "id"), "--reason", "enough"]).ok();
        call(&server, Method::GET, &me, &token, None).await.refused(404, "not_found");

        let all = ["grant", "create", "--agent", "roadie", "--connection", &connection, "--deliver", "proxy,reveal"];
        home.json(&all);
        let revealed = call(&server, Method::POST, &format!("/v1/connections/{connection}/token"), &token, Some(&json!({}))).await.ok();
        assert!(text(&revealed, "access_token").starts_with(provider_lab::ACCESS_PREFIX) && revealed.get("refresh_token").is_none());
        assert!(!server.log().contains(provider_lab::ACCESS_PREFIX) && !server.log().contains(&token));

        home.cli(&["person", "disable", "42"]).ok();
        call(&server, Method::GET, &me, &token, None).await.refused(401, "unauthenticated");
        home.cli(&["person", "enable", "42"]).ok();
        call(&server, Method::GET, &me, &token, None).await.ok();
        home.cli(&["agent", "disable", "roadie"]).ok();
        call(&server, Method::GET, &me, &token, None).await.refused(401, "unauthenticated");
        home.cli(&["agent", "enable", "roadie"]).ok();
        let gone = home.json(&["agent", "token", "revoke-all", "roadie", "--yes"]);
        assert_eq!(gone["revoked"], 1);
        call(&server, Method::GET, &me, &token, None).await.refused(401, "unauthenticated");

        let ended = home.json(&["connection", "revoke", &connection]);
        assert_eq!(ended["upstream"], "pending", "{ended}");
        assert_eq!(text(&home.json(&["connection", "show", &connection]), "status"), "revoked");
        let shown = home.cli(&["connection", "show", &connection]).ok();
        assert!(shown.lines().any(|line| line.starts_with("at the provider  ")), "{shown}");
        let actions: Vec<String> = home.json(&["audit", "list", "--limit", "200"])["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| text(event, "action"))
            .collect();
        for action in [
            "connection.connect", "connection.proxy", "connection.reveal", "connection.use", "connection.revoke",
            "grant.create", "grant.revoke", "token.mint", "token.revoke_all", "person.disable", "key.create",
        ] {
            assert!(actions.iter().any(|known| known == action), "{action} is not among {actions:?}");
        }
        assert!(!server.log().contains("panicked"), "{}", server.log());
    }

    async fn commands_say_the_same_with_and_without_a_server(home: Home) {
        let world = World::around(home).await;
        let home = &world.home;
        let server = home.serve().await;
        world.configure();
        let key = world.key("connect", "any");
        let connection = world.connect(&server, &key, "42", "bob").await;
        world.agent("roadie", "42");
        home.cli(&["agent", "access", "grant", "roadie", "43"]).ok();
        world.token("roadie", "43");
        home.json(&["grant", "create", "--agent", "roadie", "--connection", &connection, "--for", "users:42,43"]);
        let commands: &[&[&str]] = &[
            &["site", "list"],
            &["key", "list"],
            &["keys", "status"],
            &["provider", "list"],
            &["connection", "list"],
            &["connection", "show", &connection],
            &["account", "get", "lab", "--user", "42"],
            &["agent", "list"],
            &["agent", "show", "roadie"],
            &["agent", "access", "list", "roadie"],
            &["agent", "access", "check", "roadie", "43"],
            &["agent", "ceiling", "roadie"],
            &["site", "policy"],
            &["agent", "token", "list", "roadie"],
            &["grant", "list", "--agent", "roadie"],
            &["explain", "--agent", "roadie", "--connection", &connection, "--user", "43"],
            &["audit", "list"],
        ];
        let missing = ["connection", "show", "con_00000000000000000000000000000000", "--json"];
        let with: Vec<_> = commands.iter().map(|command| home.json(command)).collect();
        let refused = home.cli(&missing).failed(3);
        assert_eq!(server.end().await, Some(0));
        for (command, with) in commands.iter().zip(with) {
            assert_eq!(home.json(command), with, "{command:?}");
        }
        assert_eq!(home.cli(&missing).failed(3), refused);
        // A link leads to the server. Nobody would know where that is.
        let reconnect = ["connection", "reconnect", connection.as_str()];
        for link in [&reconnect[..], &["connect", "lab", "--user", "42"]] {
            assert!(home.cli(link).failed(2).contains("--public-url"), "{link:?}");
            let made = home.json(&[link, &["--public-url", "https://keys.example.org"]].concat());
            assert!(text(&made, "url").starts_with("https://keys.example.org/connect/"), "{made}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_stored_from_standard_input_and_shown_only_when_asked() {
    let world = World::around(crate::support::Home::sqlite()).await;
    let home = &world.home;
    let _server = home.serve().await;
    world.configure();
    let stored = home.cli_with_input(
        &["account", "set", "lab", "--site-account", "--json"],
        r#"{ "access_token": "canary-at", "note": "kept as it is" }"#,
    );
    assert!(!stored.json().to_string().contains("canary"));
    let shown = home.cli(&["account", "get", "lab", "--site-account"]).ok();
    assert!(shown.contains("active") && !shown.contains("canary"), "{shown}");
    let whole = home.json(&["account", "get", "lab", "--site-account", "--reveal"]);
    assert_eq!(
        (text(&whole["account"], "access_token"), text(&whole["account"], "note")),
        ("canary-at".into(), "kept as it is".into())
    );
    home.cli(&["account", "get", "lab", "--user", "42"]).failed(3);
    home.cli(&["account", "delete", "lab", "--site-account"]).ok();
    home.cli(&["account", "get", "lab", "--site-account"]).failed(3);
    let wrong = home.cli_with_input(&["account", "set", "lab", "--site-account"], "canary-not-json").failed(2);
    assert!(!wrong.contains("canary"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_refused_as_an_argument_and_a_slug_that_fits_two_lists_both() {
    let world = World::around(crate::support::Home::sqlite()).await;
    let home = &world.home;
    let _server = home.serve().await;
    let said = home.cli(&["provider", "configure", "lab", "--set", "client_id=a", "--set", "client_secret=b"]).failed(2);
    assert!(said.contains("--secret-file client_secret=FILE"), "{said}");
    let ids = [world.agent("roadie", "42"), world.agent("roadie", "43")];
    let said = home.cli(&["agent", "show", "roadie"]).failed(4);
    assert!(ids.iter().all(|id| said.contains(id)), "{said}");
    let told = home.cli(&["agent", "show", "roadie", "--json"]).failed(4);
    let document: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((document["code"].as_str(), document["status"].as_u64()), (Some("ambiguous"), Some(409)));
}
