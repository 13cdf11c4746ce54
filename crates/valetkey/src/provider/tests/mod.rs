//! Tests of the loader, the catalogue, the steps and the answers.

mod answers;
mod built_in;
mod documented;
mod faults;
mod layers;
mod steps;

use super::{Catalogue, Definition, Problem, Trust};
use crate::{id::ProviderName, secret::SecretMap};

/// A definition without a mistake, in which most sections stand.
const GOOD: &str = r#"title = "Good"
kind = "oauth2"
api_version = "v1"

[fields]
app_id = { label = "App", type = "text", required = true, level = "app", role = "client_id" }
app_secret = { label = "Secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }
instance = { label = "Server", type = "url", level = "connection", normalize = "https_origin" }

[oauth2]
authorize_url = "https://good.example/authorize"
token_url = "https://api.good.example/{{api_version}}/token"
client_auth = "basic"
pkce = "required"
scope_separator = " "
scopes = { default = ["read"], offline = ["offline"] }

[refresh]
strategy = "refresh_token"
before = "5m"
rotation = "always"

[revoke]
kills = "family"
method = "POST"
url = "https://api.good.example/revoke"
auth = "client"
form = { token = "{{token.refresh_token}}" }

[identity]
method = "GET"
url = "https://api.good.example/me"
auth = "bearer"
out = { id = "id", "extra.team" = "team.id" }

[proxy]
base_url = "https://api.good.example"
hosts = ["api.good.example"]
inject = [{ in = "header", name = "Authorization", value = "Bearer {{token.access_token}}" }]
credential_paths = ["/*/token", "/revoke"]
"#;

/// The providers that the documents behind this project name.
const MISSION: [&str; 18] = [
    "twitter",
    "x",
    "facebook",
    "instagram",
    "instagram_fb",
    "reddit",
    "threads",
    "linkedin",
    "pinterest",
    "bluesky",
    "email_imap",
    "youtube",
    "spotify",
    "gsc",
    "dice_fm",
    "ticketmaster",
    "wpcom",
    "mediavine",
];

fn name(text: &str) -> ProviderName {
    text.parse().unwrap()
}

fn load_as(text: &str, trust: Trust) -> Result<Definition, Vec<Problem>> {
    let catalogue = Catalogue::default().with_text(&name("x"), text, trust)?;
    Ok(Definition::clone(catalogue.get(&name("x")).unwrap()))
}

fn load(text: &str) -> Definition {
    load_as(text, Trust::Normal).unwrap_or_else(|problems| panic!("{}", shown(&problems).join("\n")))
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// The good definition with one text in place of another, which it must hold exactly once.
fn with(find: &str, replace: &str) -> String {
    assert_eq!(GOOD.matches(find).count(), 1, "{find:?} does not stand in the definition once");
    GOOD.replace(find, replace)
}

fn map(json: serde_json::Value) -> SecretMap {
    match json {
        serde_json::Value::Object(map) => SecretMap::new(map),
        _ => panic!("not an object"),
    }
}
