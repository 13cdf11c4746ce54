//! Attacks, each with the answer that it gets, through the whole router and on both databases: whoever guesses, replays, borrows
//! the rights of somebody else, comes from another site or agent, goes by a name that looks like another, or sends what nobody
//! asked for.

mod agents;
mod deputy;
mod forgery;
mod guessing;
mod malformed;
mod names;
mod replay;
mod sites;

use http::{Method, StatusCode, header};
use serde_json::json;

use crate::support::{Answer, App, As};

/// What an id looks like that nobody has, without its prefix.
const NOBODY: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
/// What a token is called in an exchange (RFC 8693 section 3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Asks to be handed what opens an account, by its id or by its provider's name.
async fn reveal(app: &App, who: &As, named: &str, headers: &[(&str, &str)]) -> Answer {
    app.call(who, Method::POST, &format!("/v1/connections/{named}/token"), Some(json!({})), headers).await
}

/// What somebody could tell two answers apart by, with the names that were asked about taken out.
fn told(answer: &Answer, names: &[&str]) -> (StatusCode, String, String) {
    let kind = answer.headers.get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap());
    let body = names.iter().fold(String::from_utf8_lossy(&answer.bytes).into_owned(), |body, name| body.replace(name, "NAME"));
    (answer.status, kind.to_owned(), body)
}
