//! `valetkey provider`.

use crate::support::Home;

#[test]
fn check_reports_every_mistake_with_file_line_column_and_key() {
    let home = Home::sqlite();
    let good = home.folder().join("good.toml");
    std::fs::write(&good, "extends = \"github\"\ntitle = \"Ours\"\n").unwrap();
    assert_eq!(home.cli(&["provider", "check", good.to_str().unwrap()]).ok().trim(), "1 file without a mistake");

    let bad = home.folder().join("bad.toml");
    std::fs::write(&bad, "extends = \"github\"\ntitel = \"Ours\"\n\n[oauth2]\npkce = \"perhaps\"\n").unwrap();
    let ran = home.cli(&["provider", "check", good.to_str().unwrap(), bad.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    assert!(lines[0].starts_with(&format!("{}:2:1: titel: ", bad.display())), "{ran:?}");
    assert!(lines[1].starts_with(&format!("{}:5:1: oauth2.pkce: ", bad.display())), "{ran:?}");
    assert!(lines[1].contains("required"), "it says what is allowed: {ran:?}");
    assert_eq!(ran.stderr, "");

    let ran = home.cli(&["provider", "check", bad.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, Some(1));
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((answer["problems"][1]["line"].as_u64(), answer["problems"][1]["key"].as_str()), (Some(5), Some("oauth2.pkce")));
}

#[tokio::test]
async fn a_definition_with_a_mistake_stops_the_start_and_leaves_no_database() {
    let mut home = Home::sqlite();
    let folder = home.folder().join("providers");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mine.toml"), "kind = \"oauth3\"\n").unwrap();
    home.set("VALETKEY_PROVIDERS", folder.to_str().unwrap());
    let said = home.serve_refused(&[]).await.failed(5);
    assert!(said.contains("mine.toml:1:1: kind: "), "{said}");
    assert!(!home.data().exists());
}

#[tokio::test]
async fn what_a_changed_definition_waits_for_is_accepted_for_a_whole_provider() {
    let text = |token_host: &str| {
        format!(
            r#"title = "Mine"
kind = "oauth2"
identity = "none"
identity_none_reason = "nobody is there to be asked"
[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }}
[oauth2]
authorize_url = "https://mine.example/authorize"
token_url = "https://{token_host}/token"
client_auth = "none"
pkce = "required"
scope_separator = " "
scopes = {{ default = ["read"] }}
[refresh]
strategy = "refresh_token"
rotation = "always"
[proxy]
hosts = ["api.mine.example"]
credential_paths = ["/token"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
"#
        )
    };
    let mut home = Home::sqlite();
    let folder = home.folder().join("providers");
    std::fs::create_dir(&folder).unwrap();
    home.set("VALETKEY_PROVIDERS", folder.to_str().unwrap());
    std::fs::write(folder.join("mine.toml"), text("one.mine.example")).unwrap();
    let server = home.serve().await;
    let account = r#"{"access_token":"canary-access-token","refresh_token":"canary-refresh-token"}"#;
    for owner in [&["--site-account"][..], &["--user", "42"]] {
        home.cli_with_input(&[&["account", "set", "mine"][..], owner].concat(), account).ok();
    }
    let accept = |home: &Home| {
        let accepted = home.json(&["connection", "accept-hosts", "--provider", "mine", "--yes"]);
        accepted["accepted"].as_array().unwrap().len()
    };
    assert_eq!(accept(&home), 0);
    server.end().await;
    std::fs::write(folder.join("mine.toml"), text("two.mine.example")).unwrap();
    let _server = home.serve().await;
    assert_eq!((accept(&home), accept(&home)), (2, 0));
    home.cli(&["connection", "accept-hosts"]).failed(2);
}

#[tokio::test]
async fn the_providers_are_listed_before_there_is_a_broker_and_after() {
    let home = Home::sqlite();
    let before = home.json(&["provider", "list"]);
    assert_eq!(before["providers"].as_array().unwrap().len(), valetkey::provider::Catalogue::embedded().unwrap().len());
    let shown = home.json(&["provider", "show", "github"]);
    assert!(!home.data().exists(), "looking makes nothing");
    home.cli(&["provider", "show", "nobody"]).failed(3);

    let server = home.serve().await;
    assert_eq!(home.json(&["provider", "list"]), before);
    let asked = home.json(&["provider", "show", "github"]);
    assert_eq!(asked["callback_url"], format!("{}/callback/github", server.url()));
    for (name, value) in shown.as_object().unwrap() {
        assert_eq!(&asked[name], value, "{name}");
    }
    assert_eq!(shown["definition"]["facts"]["read"], "2026-11-22");
    let text = home.cli(&["provider", "show", "github"]).ok();
    assert!(text.lines().any(|line| line.starts_with("unverified") && line.contains("refresh.terminal_errors")), "{text}");
    let text = home.cli(&["provider", "list"]).ok();
    assert!(text.lines().any(|line| line.starts_with("github ") && line.ends_with("yes")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("email_imap ") && line.ends_with("yes")), "{text}");
}

#[tokio::test]
async fn a_scope_policy_is_shown_set_and_there_after_a_restart() {
    let home = Home::sqlite();
    let server = home.serve().await;
    let set = |args: &[&str]| home.json(&[&["provider", "policy", "github"], args].concat());
    assert_eq!(set(&[])["account"], serde_json::json!({ "policy": "site", "fallback": false }));
    set(&["--set", "principal"]);
    set(&["--for", "config", "--fallback", "on"]);
    server.end().await;
    let _server = home.serve().await;
    let kept = set(&[]);
    assert_eq!(kept["account"], serde_json::json!({ "policy": "principal", "fallback": false }));
    assert_eq!(kept["config"], serde_json::json!({ "policy": "site", "fallback": true }));
    let text = home.cli(&["provider", "policy", "github"]).ok();
    assert!(text.lines().any(|line| line.starts_with("config ") && line.ends_with("the site's")), "{text}");
    home.cli(&["provider", "policy", "nowhere"]).failed(3);
    home.cli(&["provider", "policy", "github", "--set", "everybody"]).failed(2);
}

/// Whose account and whose app a person and an agent would get is told with why; the commands that name an owner never ask.
#[tokio::test]
async fn what_a_policy_gives_a_person_and_an_agent_is_told_with_where_it_came_from() {
    let home = Home::sqlite();
    let _server = home.serve().await;
    let agent = home.json(&["agent", "create", "roadie", "--owner", "bob"]);
    let account = |arguments: &[&str]| home.json(&[&["account", "context", "http_basic"][..], arguments].concat());
    let store = |owner: &[&str], password: &str| {
        let arguments = [&["account", "set", "http_basic"][..], owner, &["--json"]].concat();
        let account = serde_json::json!({
            "account": "intranet", "base_url": "https://intranet.example.com", "username": "u", "password": password,
        });
        home.cli_with_input(&arguments, &account.to_string()).json()
    };
    store(&["--site-account"], "the-site-s");
    store(&["--user", "42"], "alice-s");
    home.cli(&["provider", "policy", "http_basic", "--set", "principal"]).ok();

    let found = account(&["--user", "42", "--reveal"]);
    assert_eq!((&found["policy"], &found["resolved_from"]), (&"principal".into(), &"user:42".into()));
    assert_eq!(found["found"]["account"]["password"], "alice-s");
    // An agent that is meant comes first, and has none of its own; the site's stands in only where that is said.
    let nobody = account(&["--user", "42", "--agent", "roadie"]);
    assert_eq!(nobody["wanted"], format!("agent:{}", agent["id"].as_str().unwrap()));
    assert!(nobody["found"].is_null());
    let said = home.cli(&["account", "context", "http_basic", "--agent", "roadie"]).ok();
    assert!(said.contains("nobody's"), "{said}");
    home.cli(&["provider", "policy", "http_basic", "--fallback", "on"]).ok();
    let said = home.cli(&["account", "context", "http_basic", "--agent", "roadie"]).ok();
    assert!(said.contains("site, in place of one that is missing") && !said.contains("the-site-s"), "{said}");
    home.cli(&["account", "context", "http_basic", "--user", "0"]).failed(2);
    home.cli(&["account", "context", "http_basic", "--agent", "nobody"]).failed(3);
    home.cli(&["account", "context", "nowhere"]).failed(3);

    let app = home.folder().join("secret");
    std::fs::write(&app, "canary").unwrap();
    let secret = format!("client_secret={}", app.display());
    home.cli(&["provider", "configure", "github", "--user", "42", "--set", "client_id=hers", "--secret-file", &secret]).ok();
    assert!(home.json(&["provider", "context", "github", "--user", "42"])["found"].is_null(), "the policy says the site's");
    home.cli(&["provider", "policy", "github", "--for", "config", "--set", "user"]).ok();
    let found = home.json(&["provider", "context", "github", "--user", "42"]);
    assert_eq!((&found["resolved_from"], &found["found"]["values"]["client_id"]), (&"user:42".into(), &"hers".into()));
    assert!(!found.to_string().contains("canary"));
}
