//! `valetkey key`: platform keys, by which a site's own backend calls the broker.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::segment,
    failure::Result,
    moments::Until,
    output::{cell, facts, items, table},
};

/// Platform keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key; it is shown once, with the secret by which its platform signs assertions
    Create {
        /// What to call it
        #[arg(long)]
        label: String,
        /// What it may do; may be repeated. None implies another
        #[arg(long, required = true, value_name = "SCOPE", value_delimiter = ',',
            value_parser = ["accounts:read", "accounts:reveal", "accounts:write", "connect", "signin", "agents", "grants", "admin"])]
        scope: Vec<String>,
        /// For which people it may speak: any, none, or their ids with commas
        #[arg(long, value_name = "WHOM", default_value = "none")]
        assert: String,
        /// Until when: 90d, or a moment such as 2027-01-31T12:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = Until::parse)]
        expires: Option<Until>,
    },
    /// List the site's keys
    List,
    /// Change how what a key's platform signs is verified
    Set {
        /// Its id
        id: String,
        /// Where the platform publishes its public keys, a JWK set: from then on only what one of them signed counts. An empty
        /// text goes back to the assertion secret
        #[arg(long, value_name = "URL")]
        jwks_url: String,
    },
    /// Revoke a key; no request that comes after this is served by it
    Revoke {
        /// Its id
        id: String,
    },
}

impl Key {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Create { label, scope, assert, expires } => {
                let body = json!({
                    "label": label,
                    "scopes": scope,
                    "asserts": asserts(&assert),
                    "expires_at": expires.map(|until| until.from(session.clock.now())),
                });
                session.ask(Method::POST, "/v1/keys", Some(&body), made).await
            }
            Self::List => session.ask(Method::GET, "/v1/keys", None, list).await,
            Self::Set { id, jwks_url } => {
                let path = format!("/v1/keys/{}", segment(&id)?);
                session.ask(Method::PATCH, &path, Some(&json!({ "jwks_url": jwks_url })), show).await
            }
            Self::Revoke { id } => {
                let path = format!("/v1/keys/{}", segment(&id)?);
                session.ask(Method::DELETE, &path, None, |_| format!("{id} is revoked")).await
            }
        }
    }
}

fn asserts(text: &str) -> Value {
    match text {
        "any" | "none" => text.into(),
        list => list.split(',').map(str::trim).filter(|id| !id.is_empty()).collect(),
    }
}

fn show(answer: &Value) -> String {
    facts(&[
        ("id", cell(answer, "/id")),
        ("label", cell(answer, "/label")),
        ("scopes", cell(answer, "/scopes")),
        ("speaks for", cell(answer, "/asserts")),
        ("its platform's keys", cell(answer, "/jwks_url")),
        ("until", cell(answer, "/expires_at")),
    ])
}

fn made(answer: &Value) -> String {
    format!(
        "{}\n\nBoth are shown this once. The key goes into your backend's settings, as a bearer; the assertion secret signs\n\
         that a browser is a certain person's (HS256, see docs).",
        facts(&[
            ("id", cell(answer, "/id")),
            ("scopes", cell(answer, "/scopes")),
            ("speaks for", cell(answer, "/asserts")),
            ("until", cell(answer, "/expires_at")),
            ("key", cell(answer, "/key")),
            ("assertion secret", cell(answer, "/assertion_secret")),
        ])
    )
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/label", "/prefix", "/scopes", "/asserts", "/created_at", "/expires_at", "/revoked_at"];
    let row = |key: &Value| columns.map(|at| cell(key, at)).to_vec();
    let heads = ["id", "label", "begins", "scopes", "speaks for", "since", "until", "revoked"];
    table(
        &heads,
        items(answer, "keys").iter().map(row).collect(),
        "there is no platform key; make one with `valetkey key create`",
    )
}
