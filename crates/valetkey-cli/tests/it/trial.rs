//! `valetkey provider try`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{Home, command};

/// Cells that are red for a reason that lies with the provider: its name, the check, the reason.
const FOR_A_REASON: &[(&str, &str, &str)] = &[];

/// The definition of a provider that nobody has heard of, as a person writes it.
const ACME: &str = r#"title = "Acme"
kind = "oauth2"

[fields]
client_id = { label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }
client_secret = { label = "Client Secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }

[oauth2]
authorize_url = "https://login.acme.example/authorize"
token_url = "https://login.acme.example/token"
issuer = "https://login.acme.example"
client_auth = "basic"
pkce = "required"
scope_separator = " "
scopes = { default = ["things:read"] }

[refresh]
strategy = "refresh_token"
rotation = "always"
access_ttl = "1h"

[revoke]
method = "POST"
url = "https://login.acme.example/revoke"
auth = "client"
form = { token = "{{token.refresh_token}}" }
kills = "family"

[identity]
method = "GET"
url = "https://api.acme.example/v1/me"
auth = "bearer"
out = { id = "data.id", username = "data.name" }

[proxy]
base_url = "https://api.acme.example/v1"
hosts = ["api.acme.example"]
inject = [{ in = "header", name = "Authorization", value = "Bearer {{token.access_token}}" }]
credential_paths = ["/v1/tokens/**"]
"#;

#[test]
fn a_definition_of_ones_own_is_tried_with_everything_and_nothing_is_left_behind() {
    let home = Home::sqlite();
    let file = home.folder().join("acme.toml");
    std::fs::write(&file, ACME).unwrap();
    let answer = home.json(&["provider", "try", file.to_str().unwrap()]);
    assert_eq!((answer["conformant"].as_bool(), answer["word"].as_str()), (Some(true), Some("lab-conformant")));
    let checks = answer["providers"][0]["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(check["result"], "ok", "every one of them applies: {check}");
    }
    assert!(checks.len() >= 24);
    assert!(!home.data().exists(), "nobody's data is touched");

    let text = home.cli(&["provider", "try", file.to_str().unwrap(), "github_pat"]).ok();
    assert!(text.lines().any(|line| line.starts_with("acme ")), "{text}");
}

/// The same by OAuth 1.0a.
const ACME_1: &str = r#"title = "Acme"
kind = "oauth1"

[fields]
key = { label = "Key", type = "text", required = true, level = "app", role = "client_id" }
secret = { label = "Secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }

[oauth1]
request_token_url = "https://login.acme.example/request"
authorize_url = "https://login.acme.example/authorize"
token_url = "https://login.acme.example/access"
signature = "HMAC-SHA256"
denied_param = "refused"

[refresh]
strategy = "none"

[revoke]
method = "DELETE"
url = "https://login.acme.example/access"
auth = "signed"
kills = "token"

[identity]
method = "GET"
url = "https://api.acme.example/v1/me"
query = { fields = "id,name" }
auth = "signed"
out = { id = "data.id", username = "data.name" }

[proxy]
base_url = "https://api.acme.example/v1"
hosts = ["api.acme.example"]
inject = [{ in = "oauth1_signature" }]
credential_paths = ["/v1/tokens/**"]
"#;

/// Three legs, a refusal on the way, and every call signed.
#[test]
fn a_definition_by_oauth_1_is_tried_with_every_call_signed() {
    let home = Home::sqlite();
    let file = home.folder().join("acme.toml");
    std::fs::write(&file, ACME_1).unwrap();
    let answer = home.json(&["provider", "try", file.to_str().unwrap()]);
    assert_eq!(answer["word"], "lab-conformant", "{answer}");
    let checks = answer["providers"][0]["checks"].as_array().unwrap();
    let tried: Vec<&str> =
        checks.iter().filter(|check| check["result"] == "ok").filter_map(|check| check["check"].as_str()).collect();
    for needed in [
        "connect",
        "identity",
        "wrong_state",
        "denied",
        "token_error",
        "html",
        "huge",
        "duplicate",
        "control_characters",
        "slow",
        "reveal",
        "proxy",
        "revoke",
    ] {
        assert!(tried.contains(&needed), "{needed} was not tried: {answer}");
    }
}

#[test]
fn a_definition_that_the_engine_cannot_carry_out_is_red_and_says_what_happened() {
    let home = Home::sqlite();
    let file = home.folder().join("acme.toml");
    // What says who the account is counts as a failure, too.
    let identity = "out = { id = \"data.id\", username = \"data.name\" }";
    let fails = "fail_when = [{ path = \"data.id\", exists = true, error = \"no_account\" }]";
    let broken = ACME.replace(identity, &format!("{identity}\n{fails}"));
    assert_ne!(broken, ACME);
    std::fs::write(&file, broken).unwrap();
    let ran = home.cli(&["provider", "try", file.to_str().unwrap(), "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["conformant"], false);
    let first = &answer["providers"][0]["checks"][0];
    assert_eq!((first["check"].as_str(), first["result"].as_str()), (Some("connect"), Some("red")), "{first}");
    assert!(first["why"].as_str().is_some_and(|why| why.contains("account_fetch_failed")), "{first}");
}

/// A mailbox is not HTTP, and the lab plays nothing else.
#[test]
fn what_no_check_can_be_made_of_is_untried_and_does_not_pass() {
    let home = Home::sqlite();
    let ran = home.cli(&["provider", "try", "email_imap", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let said = |answer: &Value| (answer["conformant"].clone(), answer["word"].clone());
    let untried = (Value::Null, Value::from("untried"));
    assert_eq!((said(&answer), said(&answer["providers"][0])), (untried.clone(), untried.clone()));
    let text = home.cli(&["provider", "try", "email_imap"]);
    assert!(text.code == Some(1) && text.stdout.contains("Untried") && !text.stdout.contains("onformant"), "{text:?}");
    // Beside something that passes it is no failure, and no pass either.
    let both = home.json(&["provider", "try", "email_imap", "github_pat"]);
    assert_eq!(said(&both), untried);
    assert_eq!(said(&both["providers"][1]), (Value::Bool(true), Value::from("lab-conformant")));
}

/// Whoever has nothing but the page takes one of its files, and sees it pass; where nothing can be tried, that is said.
#[test]
fn every_whole_file_of_the_page_on_writing_one_passes_or_says_that_it_is_untried() {
    let home = Home::sqlite();
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/writing-a-provider.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let whole: Vec<&str> = blocks.filter(|block| block.starts_with("title =")).collect();
    assert!(whole.len() >= 8, "{}", whole.len());
    let mut arguments = vec!["provider".to_owned(), "try".to_owned(), "--json".to_owned()];
    for (number, block) in whole.iter().enumerate() {
        let file = home.folder().join(format!("acme_{number}.toml"));
        std::fs::write(&file, block).unwrap();
        arguments.push(file.to_str().unwrap().to_owned());
    }
    // Not by `Home::cli`, which gives a command a minute.
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = command(home.variables(), &arguments).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for (provider, block) in answer["providers"].as_array().unwrap().iter().zip(&whole) {
        let lab_plays_none = block.contains("kind = \"mail\"") || block.contains("flows = [\"device\"]");
        let wanted = if lab_plays_none { "untried" } else { "lab-conformant" };
        assert_eq!(provider["word"], wanted, "{provider}");
    }
}

#[test]
fn what_does_not_load_or_is_not_known_is_not_tried() {
    let home = Home::sqlite();
    let file = home.folder().join("acme.toml");
    std::fs::write(&file, "kind = \"oauth3\"\n").unwrap();
    let said = home.cli(&["provider", "try", file.to_str().unwrap()]).failed(2);
    assert!(said.contains("acme.toml:1:"), "{said}");
    home.cli(&["provider", "try", "nobody"]).failed(3);
    home.cli(&["provider", "try"]).failed(2);
    home.cli(&["provider", "try", "github", "--all"]).failed(2);
}

/// `UPDATE_GOLDEN=1 cargo test -p valetkey-cli --test it the_whole_catalogue` writes the page anew.
#[test]
fn the_whole_catalogue_is_lab_conformant_and_docs_show_its_matrix() {
    // Not by `Home::cli`, which gives a command a minute.
    let home = Home::sqlite();
    let output = command(home.variables(), &["provider", "try", "--all", "--json"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let providers = answer["providers"].as_array().unwrap();
    assert!(providers.len() >= 40);
    let mut red = Vec::new();
    for provider in providers {
        for check in provider["checks"].as_array().unwrap().iter().filter(|check| check["result"] == "red") {
            let (name, id) = (provider["name"].as_str().unwrap(), check["check"].as_str().unwrap());
            if !FOR_A_REASON.iter().any(|(known, check, _)| (*known, *check) == (name, id)) {
                red.push(format!("{name}: {id}: {}", check["why"].as_str().unwrap_or_default()));
            }
        }
    }
    assert!(red.is_empty(), "{}", red.join("\n"));

    let page = page(providers);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/providers.md is out of date: UPDATE_GOLDEN=1 cargo test -p valetkey-cli --test it the_whole_catalogue"
    );
}

/// The matrix as a page.
fn page(providers: &[Value]) -> String {
    let mut page = String::from(
        "# Providers\n\nWritten from `valetkey provider try --all`; a test keeps it true.\n\n\
         Each definition is tried against a lab that plays its provider, with everything that may go wrong there. What\n\
         passes is *lab-conformant*: our engine can carry the definition out, and survives the misbehaviour. It does not show\n\
         that the provider's facts are right: the lab plays what the definition says. Try your own with\n\
         `valetkey provider try FILE`.\n\n\
         **ok**: as it should be. A number: there is nothing to check, for the reason of that number below. **red**: it went\n\
         wrong. **no**: not built. Where not one check could be made, the definition is *untried*.\n\n",
    );
    let checks: Vec<&Value> = providers[0]["checks"].as_array().unwrap().iter().collect();
    let heads: Vec<&str> = checks.iter().map(|check| check["title"].as_str().unwrap()).collect();
    writeln!(page, "| provider | kind | verdict | {} |", heads.join(" | ")).unwrap();
    writeln!(page, "|---|---|---|{}", "---|".repeat(heads.len())).unwrap();
    let (mut reasons, mut not_built) = (Vec::new(), Vec::new());
    for provider in providers {
        let (name, kind) = (provider["name"].as_str().unwrap(), provider["kind"].as_str().unwrap());
        let mut cells = Vec::new();
        for check in provider["checks"].as_array().unwrap() {
            let why = check["why"].as_str().unwrap_or_default().to_owned();
            cells.push(match check["result"].as_str().unwrap() {
                "ok" => "ok".to_owned(),
                "not_applicable" => (1 + position(&mut reasons, why)).to_string(),
                "not_built" => {
                    position(&mut not_built, format!("{name}: {why}"));
                    "no".to_owned()
                }
                _ => "**red**".to_owned(),
            });
        }
        writeln!(page, "| {name} | {kind} | {} | {} |", provider["word"].as_str().unwrap(), cells.join(" | ")).unwrap();
    }
    page.push_str("\n## Where there is nothing to check\n\n");
    for (number, reason) in reasons.iter().enumerate() {
        writeln!(page, "{}. {reason}", number + 1).unwrap();
    }
    if !not_built.is_empty() {
        page.push_str("\n## Not built\n\n");
        not_built.iter().for_each(|why| writeln!(page, "- {why}").unwrap());
    }
    let red: Vec<String> = FOR_A_REASON.iter().map(|(name, check, why)| format!("- {name}, {check}: {why}\n")).collect();
    if !red.is_empty() {
        page.push_str(&format!("\n## Red for a reason\n\n{}", red.concat()));
    }
    page
}

/// Where a text stands in a list; at its end, where it was not there.
fn position(list: &mut Vec<String>, text: String) -> usize {
    list.iter().position(|known| *known == text).unwrap_or_else(|| {
        list.push(text);
        list.len() - 1
    })
}
