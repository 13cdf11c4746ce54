//! Starting and ending: what is said, what is refused, and what is left behind.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use provider_lab::{At, Fault, Rule};
use reqwest::StatusCode;
use sqlx::Connection as _;

use crate::{
    on_each_home,
    support::{Home, Server, World},
};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_first_start_makes_everything_private_and_says_how_to_go_on() {
    let home = Home::sqlite();
    let server = home.serve().await;
    assert_eq!(server.said["first_start"], true);
    assert_eq!(server.said["created_root_key"], home.root_key().to_str().unwrap());
    server.logged("Copy it now to a safe place, apart from the database").await;
    for (path, expected) in [("", 0o700), ("root.key", 0o600), ("valetkey.db", 0o600), ("valetkey.sock", 0o600)] {
        assert_eq!(mode(&home.data().join(path)), expected, "{path}");
    }
    assert_eq!(server.end().await, Some(0));
    assert!(!home.data().join("valetkey.sock").exists(), "the socket is gone with its server");

    let again = home.serve().await;
    assert_eq!(again.said["first_start"], false);
    assert!(!again.log().contains("root key was made"));
}

#[test]
fn for_people_the_first_start_names_the_commands_to_begin_with() {
    let home = Home::sqlite();
    let mut command = crate::support::command(home.variables(), &["serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    while !said.contains("connect PROVIDER") {
        assert!(std::io::BufRead::read_line(&mut lines, &mut said).unwrap() > 0, "{said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let here = format!("valetkey --data {}", home.data().display());
    assert!(said.contains("There is no password to set"), "{said}");
    assert!(said.contains(&format!("{here} key create")) && said.contains(&format!("{here} doctor")), "{said}");
}

/// Decisions 10: the audit says which user of the machine the operator was, also where no server runs.
#[tokio::test]
async fn the_audit_names_the_operators_user() {
    let home = Home::sqlite();
    let server = home.serve().await;
    home.cli(&["agent", "create", "served"]).ok();
    server.end().await;
    home.cli(&["agent", "create", "alone"]).ok();
    let events = home.json(&["audit", "list"]);
    let made = events["events"].as_array().unwrap().iter().filter(|event| event["action"] == "agent.create");
    let actors: Vec<_> = made.map(|event| event["actor"].clone()).collect();
    let me = format!("operator/uid:{}", rustix::process::geteuid().as_raw());
    assert_eq!(actors, [me.as_str(), me.as_str()]);
}

#[tokio::test]
async fn the_operator_stops_a_site_and_lets_it_go_on() {
    let home = Home::sqlite();
    let server = home.serve().await;
    home.json(&["site", "create", "acme"]);
    assert!(home.json(&["site", "disable", "acme"])["disabled_at"].is_string());
    server.end().await;
    let sites = home.json(&["site", "list"]);
    let since =
        sites["sites"].as_array().unwrap().iter().map(|site| (site["id"].as_str().unwrap(), site["disabled_at"].is_string()));
    assert_eq!(since.collect::<Vec<_>>(), [("acme", true), ("default", false)]);
    assert!(home.json(&["site", "enable", "acme"])["disabled_at"].is_null());
    home.cli(&["site", "disable", "nowhere"]).failed(3);
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_told_who_has_it() {
    let home = Home::sqlite();
    let first = home.serve().await;
    let refused = home.serve_refused(&[]).await;
    let said = refused.failed(5);
    assert!(said.contains(&format!("in use by process {}", first.id())), "{said}");
    assert_eq!(home.json(&["site", "list"])["sites"][0]["id"], "default", "the first goes on");
}

#[tokio::test]
async fn after_a_kill_the_next_server_starts_at_once() {
    let home = Home::sqlite();
    home.serve().await.kill();
    assert!(home.data().join("valetkey.sock").exists(), "a killed server cleans nothing up");
    let next = home.serve().await;
    assert_eq!(home.json(&["site", "list"])["sites"][0]["id"], "default");
    drop(next);
}

#[tokio::test]
async fn a_folder_or_database_that_others_may_write_to_stops_the_start() {
    let home = Home::sqlite();
    home.serve().await.end().await;
    for (path, private, open) in
        [("", 0o700, 0o770), ("", 0o700, 0o702), ("valetkey.db", 0o600, 0o666), ("valetkey.lock", 0o600, 0o620)]
    {
        let path = home.data().join(path);
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(open);
        for said in [home.serve_refused(&[]).await.failed(5), home.cli(&["site", "list"]).failed(5)] {
            assert!(said.contains("others may change") && said.contains("chmod go-w"), "{said}");
        }
        set(private);
    }
    // To be looked into is not to be changed.
    std::fs::set_permissions(home.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.serve().await.end().await;
}

/// R87: the log says from where a request came: by a proxy's word where the proxy is trusted, else by the connection.
#[tokio::test]
async fn the_access_log_names_the_client_that_a_trusted_proxy_names_and_no_other() {
    let home = Home::sqlite();
    for (arguments, expected) in [(vec!["--trusted-proxy", "127.0.0.1"], "ip=198.51.100.7"), (vec![], "ip=127.0.0.1")] {
        let server = home.serve_with(&arguments).await;
        let asked = server.http().get(server.at("/openapi.json")).header("x-forwarded-for", "203.0.113.9, 198.51.100.7");
        assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
        let log = server.logged("route=\"/openapi.json\"").await;
        let line = log.lines().find(|line| line.contains("/openapi.json")).unwrap();
        assert!(line.contains(expected) && !line.contains("203.0.113.9"), "{line}");
        server.end().await;
    }
}

#[tokio::test]
async fn a_taken_port_leaves_the_database_alone() {
    let home = Home::sqlite();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = home.serve_refused(&["--listen", &address]).await.failed(5);
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
    assert!(!home.data().exists());
}

#[tokio::test]
async fn listening_to_others_needs_a_public_url_and_https() {
    let home = Home::sqlite();
    let said = home.serve_refused(&["--listen", "0.0.0.0:0"]).await.failed(2);
    assert!(said.contains("--public-url"), "{said}");
    let said = home.serve_refused(&["--public-url", "http://keys.example.com"]).await.failed(2);
    assert!(said.contains("https"), "{said}");
    let server = home.serve_with(&["--public-url", "https://keys.example.com"]).await;
    assert_eq!(server.said["url"], "https://keys.example.com");
}

on_each_home! {
    async fn a_root_key_that_others_can_read_stops_the_start(home: Home) {
        home.serve().await.end().await;
        std::fs::set_permissions(home.root_key(), std::fs::Permissions::from_mode(0o644)).unwrap();
        for said in [home.serve_refused(&[]).await.failed(5), home.cli(&["site", "list"]).failed(5)] {
            assert!(said.contains("key_unavailable") && said.contains("chmod 600"), "{said}");
        }
    }

    async fn a_missing_root_key_stops_the_start_and_is_never_made_anew(home: Home) {
        home.serve().await.end().await;
        let aside = home.folder().join("aside");
        std::fs::rename(home.root_key(), &aside).unwrap();
        for said in [home.serve_refused(&[]).await.failed(5), home.cli(&["site", "list"]).failed(5)] {
            assert!(said.contains("key_unavailable") && said.contains("is missing"), "{said}");
        }
        assert!(!home.root_key().exists());
        std::fs::rename(&aside, home.root_key()).unwrap();
        home.serve().await;
    }

    async fn a_wrong_root_key_stops_the_start(home: Home) {
        home.serve().await.end().await;
        std::fs::remove_file(home.root_key()).unwrap();
        home.cli(&["keys", "generate", "--file", home.root_key().to_str().unwrap()]).ok();
        for said in [home.serve_refused(&[]).await.failed(5), home.cli(&["site", "list"]).failed(5)] {
            assert!(said.contains("key_unavailable"), "{said}");
        }
    }

    async fn a_root_key_from_the_environment_serves_as_well(mut home: Home) {
        home.serve().await.end().await;
        let text = std::fs::read_to_string(home.root_key()).unwrap();
        let line = text.lines().find(|line| line.starts_with("vkroot1_")).unwrap().to_owned();
        std::fs::rename(home.root_key(), home.folder().join("aside")).unwrap();
        home.unset("VALETKEY_ROOT_KEY_FILE");
        home.set("VALETKEY_ROOT_KEY", &line);
        let server = home.serve().await;
        assert!(!server.log().contains(&line));
    }

    async fn a_command_says_the_same_with_and_without_a_server(home: Home) {
        home.serve().await.end().await;
        home.json(&["site", "create", "acme", "--title", "Acme"]);
        let asked: [&[&str]; 2] = [&["site", "list"], &["site", "show", "--site", "acme"]];
        let without: Vec<_> = asked.iter().map(|arguments| home.json(arguments)).collect();
        let refused = home.cli(&["site", "show", "--site", "nope", "--json"]).failed(3);
        let server = home.serve().await;
        let with: Vec<_> = asked.iter().map(|arguments| home.json(arguments)).collect();
        assert_eq!(without, with);
        assert_eq!(refused, home.cli(&["site", "show", "--site", "nope", "--json"]).failed(3));
        assert!(!server.log().contains("panicked"), "{}", server.log());
    }

    async fn sigterm_answers_what_was_asked_and_then_ends(home: Home) {
        let mut server = home.serve_with(&["--log", "valetkey=info,valetkey_http=warn"]).await;
        let (url, http) = (server.at("/v1/sites"), server.http().clone());
        let busy = tokio::spawn(async move {
            let began = std::time::Instant::now();
            while began.elapsed() < Duration::from_secs(30) {
                match http.get(&url).send().await {
                    // Without a credential: the answer is a whole one.
                    Ok(answer) => {
                        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                        answer.bytes().await.unwrap();
                    }
                    Err(error) if error.is_connect() => return true,
                    // A connection that the server closed between two requests.
                    Err(_) => {}
                }
            }
            false
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.signal("TERM");
        assert_eq!(server.ended(Duration::from_secs(20)).await, Some(0), "{}", server.log());
        assert!(busy.await.unwrap(), "after the end nobody listens");
        server.logged("shutting down").await;
    }

    async fn a_call_that_is_under_way_when_sigterm_comes_gets_its_answer(home: Home) {
        let world = World::around(home).await;
        let mut server = world.home.serve().await;
        world.configure();
        let key = world.key("connect", "42");
        let connection = world.connect(&server, &key, "42", "alice").await;
        world.agent("roadie", "42");
        let token = world.token("roadie", "42");
        world.home.json(&["grant", "create", "--agent", "roadie", "--connection", &connection]);
        world.lab.misbehave(Rule::once(At::Api, Fault::HoldBefore));
        let asked = server.http().get(server.at(&format!("/v1/proxy/{connection}/me"))).bearer_auth(&token).send();
        let asked = tokio::spawn(asked);
        while world.lab.held() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.signal("TERM");
        server.logged("shutting down").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.lab.release();
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.text().await.unwrap().contains("alice"));
        assert_eq!(server.ended(Duration::from_secs(20)).await, Some(0));
    }

    async fn logs_are_json_where_that_is_asked_for(home: Home) {
        let server = home.serve_with(&["--log-format", "json"]).await;
        server.http().get(server.at("/v1/sites")).send().await.unwrap();
        let log = server.logged("/v1/sites").await;
        let lines: Vec<serde_json::Value> =
            log.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["message"] == "request" && line["status"] == 401), "{log}");
    }
}

#[tokio::test]
async fn two_replicas_serve_one_postgres() {
    let home = Home::postgres().await;
    let (first, second) = tokio::join!(Server::start(&home, &[]), Server::start(&home, &[]));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.url(), second.url());
    assert_eq!(home.json(&["site", "list"])["sites"].as_array().unwrap().len(), 1, "both made the first site, once");
}

/// Decisions 2: what such a process changes is outside the promises, and that is said aloud.
#[tokio::test]
async fn a_stranger_who_writes_to_the_database_file_is_noticed() {
    let home = Home::sqlite();
    let server = home.serve().await;
    home.json(&["site", "list"]);
    assert!(!server.log().contains("another process wrote"), "our own command was taken for a stranger");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.data().join("valetkey.db"));
    let mut stranger = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE sites SET title = 'changed'").execute(&mut stranger).await.unwrap();
    stranger.close().await.unwrap();
    server.logged("another process wrote to the database file").await;
}

#[test]
fn a_command_makes_no_broker_out_of_a_mistyped_folder() {
    let home = Home::sqlite();
    let said = home.cli(&["agent", "list"]).failed(5);
    assert!(said.contains("there is no database in") && said.contains("valetkey serve --data"), "{said}");
    assert!(!home.data().exists());
}

#[tokio::test]
async fn a_command_to_a_running_server_does_not_take_the_servers_own_settings() {
    let home = Home::sqlite();
    let _server = home.serve().await;
    let said = home.cli(&["site", "list", "--allow-private", "127.0.0.1:1"]).failed(2);
    assert!(said.contains("--allow-private is its own setting"), "{said}");
}
