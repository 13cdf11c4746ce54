//! `valetkey auth`: status, connect, config, set-token, refresh, refresh-all, revoke, disconnect, as an operator uses them.

use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, Fault, Rule};
use reqwest::Method;
use serde_json::{Value, json};
use valetkey::app_config::MASK;

use crate::{
    on_each_home,
    support::{Browser, Home, Ran, World, call, text},
};

const SCOPES: &str = "posts:read posts:write profile";
/// Long ago.
const PAST: &str = "1600000000";

/// The lab beside a home where nothing is refreshed but what a test asks for.
async fn around(mut home: Home) -> World {
    home.set("VALETKEY_REFRESH_INTERVAL", "1d");
    World::around(home).await
}

impl World {
    /// Stores tokens of the lab for an owner, as if they had been obtained elsewhere.
    fn store(&self, owner: &[&str], expires: &str) -> Value {
        let issued = self.lab.issue(CLIENT_ID, "alice", SCOPES).unwrap();
        let refresh = self.home.folder().join("refresh-token");
        std::fs::write(&refresh, issued.refresh_token.unwrap()).unwrap();
        let refresh = refresh.to_str().unwrap();
        let arguments = ["auth", "set-token", "lab", "--token-file", "-", "--refresh-token-file", refresh, "--expires", expires];
        self.home.cli_with_input(&[&arguments[..], owner, &["--json"]].concat(), &format!("{}\n", issued.access_token)).json()
    }

    fn status(&self, more: &[&str]) -> Value {
        let answer = self.home.json(&[&["auth", "status", "lab"][..], more].concat());
        assert_eq!(answer["accounts"].as_array().unwrap().len(), 1, "{answer}");
        answer["accounts"][0].clone()
    }

    fn auth(&self, arguments: &[&str]) -> Ran {
        self.home.cli(&[&["auth"][..], arguments].concat())
    }
}

on_each_home! {
    async fn an_account_goes_from_nothing_to_configured_connected_refreshed_and_revoked(home: Home) {
        let mut world = around(home).await;
        let server = world.home.serve().await;
        // Beside PostgreSQL a command cannot know where the server is.
        world.home.set("VALETKEY_PUBLIC_URL", &server.url());
        let bare = world.status(&[]);
        assert_eq!((&bare["configured"], &bare["connected"], &bare["kind"]), (&json!(false), &json!(false), &json!("oauth2")));
        assert!(world.auth(&["status"]).ok().contains("nothing is configured"), "a list of what there might be is no status");

        let id = format!("client_id={CLIENT_ID}");
        let set = ["auth", "config", "lab", "--field", &id, "--secret-file", "client_secret=-", "--json"];
        let app = world.home.cli_with_input(&set, &format!("{CLIENT_SECRET}\n")).json();
        assert_eq!((&app["configured"], &app["fields"][1]["value"]), (&json!(true), &json!(MASK)), "{app}");

        let link = world.home.json(&["auth", "connect", "lab"]);
        assert_eq!(link["for"]["owner"], "site");
        world.lab.auto_approve(Some("alice"));
        let mut browser = Browser::new();
        let page = browser.open(&text(&link, "url")).await;
        browser.press(&page, "Go on to Lab").await;
        let connected = world.status(&[]);
        assert_eq!((&connected["connected"], &connected["health"], &connected["owner"]), (&json!(true), &json!("ok"), &json!("site")));
        assert!(connected["expires_at"].is_string() && connected["account"].is_string(), "{connected}");
        let shown = world.auth(&["status"]).ok();
        assert!(shown.lines().any(|line| line.starts_with("lab ") && line.ends_with("ok")), "{shown}");

        // Fresh from the provider: nothing is refreshed, and that is said.
        let refused = world.home.json(&["auth", "refresh", "lab"]);
        assert_eq!((&refused["refreshed"], &refused["why"]), (&json!(false), &json!("too_young")));
        assert!(world.auth(&["refresh", "lab"]).ok().contains("nothing was refreshed"));
        assert_eq!(world.lab.refresh_requests(), 0);

        let ended = world.home.json(&["auth", "revoke", "lab", "--yes", "--reason", "enough"]);
        assert_eq!((&ended["upstream"], &ended["ended"]), (&json!("revoked"), &json!(true)), "{ended}");
        assert_eq!(world.lab.revoked_tokens().len(), 1);
        assert_eq!(world.status(&[])["connected"], false);
        world.auth(&["revoke", "lab", "--yes"]).failed(3);
    }

    async fn an_account_is_updated_member_by_member_and_its_tokens_are_not(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        world.store(&[], "1900000000");
        let update = ["account", "update", "lab", "--site-account", "--json"];
        let get = ["account", "get", "lab", "--site-account", "--reveal"];
        let before = world.home.json(&get);
        world.home.cli_with_input(&update, r#"{"note": "ours", "more": 1}"#).json();
        world.home.cli_with_input(&update, r#"{"more": null}"#).json();
        let after = world.home.json(&get);
        assert_eq!((&after["account"]["note"], &after["account"]["more"]), (&json!("ours"), &Value::Null));
        assert_eq!(after["account"]["access_token"], before["account"]["access_token"]);
        world.home.cli_with_input(&update, r#"{"access_token": "canary"}"#).failed(1);
        world.home.cli_with_input(&update, "canary").failed(2);
        assert_eq!(world.home.json(&get)["account"], after["account"]);
    }

    /// The reference could neither refresh nor revoke what had expired.
    async fn an_expired_account_can_be_refreshed_and_revoked(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        world.store(&[], PAST);
        assert_eq!(world.status(&[])["health"], "expired_renewable");
        assert!(world.auth(&["status", "lab"]).ok().contains("EXPIRED, can be refreshed"));
        let refreshed = world.home.json(&["auth", "refresh", "lab"]);
        assert_eq!((&refreshed["refreshed"], &refreshed["status"]), (&json!(true), &json!("active")), "{refreshed}");
        assert_eq!(world.lab.refresh_requests(), 1);

        world.store(&["--user", "42"], PAST);
        assert_eq!(world.status(&["--user", "42"])["health"], "expired_renewable");
        let ended = world.home.json(&["auth", "revoke", "lab", "--user", "42", "--yes"]);
        assert_eq!(ended["ended"], true, "{ended}");
        assert_eq!(world.status(&["--user", "42"])["connected"], false);
        assert_eq!(world.status(&[])["connected"], true, "the site's is another");

        // One that cannot be renewed says so, and is revoked all the same.
        let file = world.home.folder().join("token");
        std::fs::write(&file, "plain").unwrap();
        let token = ["auth", "set-token", "lab", "--user", "43", "--token-file", file.to_str().unwrap(), "--expires", PAST];
        world.home.cli(&token).ok();
        assert_eq!(world.status(&["--user", "43"])["health"], "expired");
        assert!(world.auth(&["refresh", "lab", "--user", "43"]).failed(1).contains("cannot be renewed"));
        world.auth(&["revoke", "lab", "--user", "43", "--yes"]).ok();
    }

    async fn an_account_ends_here_whatever_its_provider_says(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        world.lab.misbehave(Rule::always(At::Revoke, Fault::status(503)));
        world.store(&[], "1h");
        let ended = world.home.json(&["auth", "revoke", "lab", "--yes"]);
        assert_eq!((&ended["ended"], &ended["upstream"]), (&json!(true), &json!("pending")), "{ended}");
        assert!(ended["why"].is_string() && ended["next_at"].is_string() && ended["token_until"].is_string(), "{ended}");
        assert_eq!(world.status(&[])["connected"], false);
        world.store(&[], "1h");
        let said = world.auth(&["revoke", "lab", "--yes"]).ok();
        assert!(said.contains("next try at") && said.contains("revealed before lives until"), "{said}");
        world.lab.behave();
        // A provider that refuses for good.
        world.lab.misbehave(Rule::always(At::Revoke, Fault::oauth("invalid_request")));
        world.store(&[], "1h");
        let said = world.auth(&["revoke", "lab", "--yes"]).ok();
        assert!(said.contains("refused to revoke its tokens"), "{said}");
        world.store(&[], "1h");
        assert_eq!(world.home.json(&["auth", "revoke", "lab", "--yes", "--skip-upstream"])["upstream"], "skipped");
    }

    /// T-288.
    /// A-196, A-197, argued: a token is stored for whom it is said, and nobody can be said together with somebody else.
    async fn every_owner_and_name_is_an_account_of_its_own(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        let agent = world.agent("roadie", "77");
        let owners: [&[&str]; 4] = [&[], &["--user", "42"], &["--agent", "roadie"], &["--user", "42", "--name", "archive"]];
        world.auth(&["set-token", "lab", "--user", "42", "--agent", "roadie", "--token-file", "-"]).failed(2);
        let stored = world.store(owners[1], "1h");
        assert_eq!((&stored["owner"], &stored["identity"]), (&json!("user:42"), &json!("unverified")));
        assert_eq!(world.status(&[])["connected"], false);
        assert_eq!(world.status(&["--user", "99"])["connected"], false);
        for owner in [owners[0], owners[2], owners[3]] {
            world.store(owner, "1h");
        }
        let all = world.home.json(&["auth", "status", "lab", "--all"]);
        let mut seen: Vec<_> = all["accounts"].as_array().unwrap().iter().map(|a| (text(a, "owner"), text(a, "name"))).collect();
        seen.sort();
        let agents = format!("agent:{agent}");
        let whose = |owner: &str, name: &str| (owner.to_owned(), name.to_owned());
        assert_eq!(seen, [whose(&agents, "default"), whose("site", "default"), whose("user:42", "archive"), whose("user:42", "default")]);
        // What is there and may have been refreshed is replaced only where that is said.
        assert!(world.home.cli_with_input(&["auth", "set-token", "lab", "--token-file", "-"], "t").failed(4).contains("replace"));
        // Each ends alone.
        for (n, owner) in owners.iter().rev().enumerate() {
            world.home.json(&[&["auth", "revoke", "lab", "--yes"][..], *owner].concat());
            let left = world.home.json(&["auth", "status", "lab", "--all"]);
            let left = left["accounts"].as_array().unwrap().iter().filter(|account| account["connected"] == true).count();
            assert_eq!(left, 3 - n);
        }
    }

    /// A-256, argued: `disconnect` warns once and ends the site's account; with `--user` it is refused and ends nobody's.
    async fn whose_account_is_meant_is_never_guessed(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        world.store(&[], "1h");
        world.store(&["--user", "42"], "1h");
        for id in ["0", "-5", "007", "", "a b", "site:1/x"] {
            let arguments = ["auth", "revoke", "lab", "--user", id, "--yes"];
            world.home.cli(&arguments).failed(2);
            world.home.cli(&["auth", "revoke", "lab", "--yes", &format!("--user={id}")]).failed(2);
            world.home.cli(&["auth", "status", "lab", "--user", id]).failed(2);
            world.home.cli(&["auth", "refresh", "lab", "--user", id]).failed(2);
        }
        // A name is an id here, and this is nobody's who has an account; the site's is not meant.
        world.auth(&["revoke", "lab", "--user", "abc", "--yes"]).failed(3);
        world.auth(&["revoke", "lab", "--agent", "abc", "--yes"]).failed(3);
        for given in ["--user=42", "--user", "--agent=x", "--name=archive"] {
            let said = world.auth(&["disconnect", "lab", "--yes", given]).failed(2);
            assert!(said.contains("valetkey auth revoke") && said.contains("nothing was done"), "{said}");
        }
        // Nobody can be asked here.
        let said = world.auth(&["revoke", "lab"]).failed(2);
        assert!(said.contains("--yes"), "{said}");
        assert_eq!((&world.status(&[])["connected"], &world.status(&["--user", "42"])["connected"]), (&json!(true), &json!(true)));

        let ran = world.auth(&["disconnect", "lab", "--yes"]);
        assert_eq!((ran.code, ran.stderr.matches("deprecated").count()), (Some(0), 1), "{ran:?}");
        assert!(ran.stdout.contains("of the site at lab is revoked"), "{ran:?}");
        assert_eq!((&world.status(&[])["connected"], &world.status(&["--user", "42"])["connected"]), (&json!(false), &json!(true)));
    }

    async fn refresh_all_tells_of_each_account_and_fails_where_one_failed(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        world.configure();
        let agent = world.agent("roadie", "77");
        for owner in [&[][..], &["--user", "42"], &["--agent", "roadie"]] {
            world.store(owner, PAST);
        }
        let file = world.home.folder().join("token");
        std::fs::write(&file, "plain").unwrap();
        world.auth(&["set-token", "lab", "--user", "43", "--token-file", file.to_str().unwrap()]).ok();
        let ran = world.auth(&["refresh-all"]);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "refreshed 3, skipped 1, failed 0"), "{ran:?}");
        for owner in ["site", "user:42", &format!("agent:{agent}")] {
            assert!(ran.stderr.contains(&format!("refreshed lab {owner}")), "each is told as it comes: {ran:?}");
        }
        assert_eq!(world.lab.refresh_requests(), 3);

        world.lab.misbehave(Rule::always(At::Refresh, Fault::oauth("invalid_grant")));
        world.store(&["--user", "44"], PAST);
        let ran = world.auth(&["refresh-all", "--json"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&report["refreshed"], &report["skipped"], &report["failed"]), (&json!(0), &json!(4), &json!(1)), "{report}");
        let failed = report["accounts"].as_array().unwrap().iter().find(|entry| entry["outcome"] == "failed").unwrap();
        assert_eq!((&failed["owner"], &failed["why"]), (&json!("user:44"), &json!("not_authenticated")));
        let standing = world.status(&["--user", "44"]);
        assert_eq!((&standing["health"], &standing["reason"]), (&json!("needs_reauth"), &json!("invalid_grant")));
        assert!(world.auth(&["status", "lab", "--user", "44"]).ok().contains("needs reauth (invalid_grant)"));
        // One account that cannot be refreshed says so by its exit code, too.
        world.auth(&["refresh", "lab", "--user", "44"]).failed(1);
        world.auth(&["refresh", "lab", "--user", "45"]).failed(3);
        // Where nothing is left to do, nothing fails.
        world.auth(&["refresh-all", "--provider", "github"]).ok();
    }

    /// A-200, A-201, A-202, A-203, A-204, A-205: a link is for whom it was made, and says so.
    async fn a_link_names_for_whom_it_is(home: Home) {
        let mut world = around(home).await;
        let server = world.home.serve().await;
        // Beside PostgreSQL a command cannot know where the server is.
        world.home.set("VALETKEY_PUBLIC_URL", &server.url());
        world.configure();
        let agent = world.agent("writer", "77");
        let made = world.home.json(&["auth", "connect", "lab", "--agent", "writer"]);
        let whom = json!({ "owner": format!("agent:{agent}"), "agent": "writer", "agent_owner": "77" });
        assert_eq!(made["for"], whom);
        let shown = world.auth(&["connect", "lab", "--agent", "writer"]).ok();
        for part in ["writer", "77", &agent, "/connect/"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        let key = world.key("connect,admin", "any");
        let session = |made: &Value| format!("/v1/connect-sessions/{}", text(made, "id"));
        assert_eq!(call(&server, Method::GET, &session(&made), &key.key, None).await.ok()["owner"], format!("agent:{agent}"));
        let sites = world.home.json(&["auth", "connect", "lab"]);
        assert_eq!(call(&server, Method::GET, &session(&sites), &key.key, None).await.ok()["owner"], "site");
        world.auth(&["connect", "lab", "--agent", "nobody"]).failed(3);
        // Somebody who may not speak for the site or its agents.
        let weak = world.key("connect", "any");
        let body = json!({ "provider": "lab", "owner": format!("agent:{agent}") });
        call(&server, Method::POST, "/v1/connect-sessions", &weak.key, Some(&body)).await.refused(403, "missing_scope");
        // What is made of entered values is entered here; what is missing is named.
        for (provider, missing) in [("mediavine", "email"), ("google_service_account", "service_account_json")] {
            let said = world.auth(&["connect", provider, "--agent", "writer"]).failed(1);
            assert!(said.contains(missing), "{said}");
        }
        world.auth(&["connect", "nowhere"]).failed(3);
    }

    /// Providers with plain credentials have no link: what they need is given, and a secret is no argument.
    async fn plain_credentials_are_stored_without_a_link(home: Home) {
        let world = around(home).await;
        let _server = world.home.serve().await;
        let fields = ["--field", "account=intranet", "--field", "base_url=https://intranet.example.com", "--field", "username=u"];
        let plain = [&["auth", "connect", "http_basic", "--user", "42"][..], &fields[..]].concat();
        let said = world.home.cli(&[&plain[..], &["--field", "password=canary"]].concat()).failed(2);
        assert!(said.contains("--secret-file password=FILE") && !said.contains("canary"), "{said}");
        let said = world.home.cli(&plain).failed(1);
        assert!(said.contains("password"), "what is missing is named: {said}");
        let stored = world.home.cli_with_input(&[&plain[..], &["--secret-file", "password=-", "--json"]].concat(), "p w\n").json();
        assert_eq!((&stored["owner"], &stored["status"]), (&json!("user:42"), &json!("active")));
        let whole = world.home.json(&["account", "get", "http_basic", "--user", "42", "--reveal"]);
        assert_eq!(whole["account"]["password"], "p w");
        let listed = world.home.json(&["auth", "status", "http_basic", "--user", "42"]);
        assert_eq!((&listed["accounts"][0]["health"], &listed["accounts"][0]["kind"]), (&json!("ok"), &json!("static")));
        let ended = world.home.json(&["auth", "revoke", "http_basic", "--user", "42", "--yes"]);
        assert_eq!(ended["upstream"], "unsupported");
    }

    async fn an_app_is_shown_masked_changed_by_field_and_cleared(home: Home) {
        let mut world = around(home).await;
        let server = world.home.serve().await;
        // Beside PostgreSQL a command cannot know where the server is.
        world.home.set("VALETKEY_PUBLIC_URL", &server.url());
        let empty = world.auth(&["config", "lab"]).ok();
        assert!(empty.contains("(not set)") && empty.contains("callback to register"), "{empty}");
        let said = world.auth(&["config", "lab", "--field", "client_secret=canary"]).failed(2);
        assert!(said.contains("--secret-file client_secret=FILE") && !said.contains("canary"), "{said}");
        let said = world.auth(&["config", "lab", "--field", "colour=canary"]).failed(1);
        assert!(said.contains("client_id, client_secret") && !said.contains("canary"), "{said}");
        world.configure();
        let shown = world.auth(&["config", "lab"]).ok();
        assert!(shown.contains("(secret, stored)") && !shown.contains(CLIENT_SECRET), "{shown}");
        // One field changes, the secret stays.
        world.auth(&["config", "lab", "--field", "client_id=other"]).ok();
        let config = world.home.json(&["auth", "config", "lab"]);
        assert_eq!((&config["fields"][0]["value"], &config["fields"][1]["value"]), (&json!("other"), &json!(MASK)));
        assert!(world.auth(&["config", "lab", "--clear", "client_secret"]).failed(1).contains("client_secret"));
        // A person's own app is another one.
        assert_eq!(world.home.json(&["auth", "config", "lab", "--user", "42"])["configured"], false);
        world.auth(&["config", "lab", "--user", "0"]).failed(2);

        let own = format!("{}/callback/lab", server.url());
        assert_eq!(config["callback_url"], own);
        let elsewhere = "https://blog.example.com/datamachine-auth/lab/";
        assert_eq!(world.home.json(&["auth", "config", "lab", "--callback", elsewhere])["callback_url"], elsewhere);
        world.auth(&["config", "lab", "--callback", "http://blog.example.com/"]).failed(1);
        world.auth(&["config", "lab", "--callback", elsewhere, "--user", "42"]).failed(2);
        assert_eq!(world.home.json(&["auth", "config", "lab", "--own-callback"])["callback_url"], own);
    }
}

/// The browser goes to the provider with the site's own redirect URI, and what comes back there is forwarded to the callback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_returns_to_the_sites_own_address_and_is_finished_by_forwarding() {
    let world = around(Home::sqlite()).await;
    let server = world.home.serve().await;
    world.configure();
    let site = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = format!("http://{}/datamachine-auth/lab/", site.local_addr().unwrap());
    let forward = format!("{}/callback/lab", server.url());
    // The site that had this address before, which sends the browser on.
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = site.accept().unwrap();
        let mut request = [0; 8192];
        let read = stream.read(&mut request).unwrap();
        let line = String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned();
        let query = line.split(' ').nth(1).unwrap().split_once('?').unwrap().1.to_owned();
        let answer =
            format!("HTTP/1.1 302 Found\r\nLocation: {forward}?{query}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
    });
    world.auth(&["config", "lab", "--callback", &elsewhere]).ok();
    let link = world.home.json(&["auth", "connect", "lab"]);
    world.lab.auto_approve(Some("alice"));
    let mut browser = Browser::new();
    let page = browser.open(&text(&link, "url")).await;
    let done = browser.press(&page, "Go on to Lab").await;
    assert!(done.url.query().unwrap_or_default().contains("outcome=connected"), "{done:?}");
    assert_eq!(world.status(&[])["connected"], true);
}
