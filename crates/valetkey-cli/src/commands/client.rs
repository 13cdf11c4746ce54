//! `valetkey client`: OAuth clients, and what people consented to.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::{Session, site::Switch};
use crate::{
    client::{segment, with_query},
    failure::Result,
    output::{cell, facts, items, table},
};

/// OAuth clients.
#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// Make a client; its secret, where it has one, is shown once
    Create {
        /// What people read when they consent
        name: String,
        /// Let browsers be sent back to this URL, compared as a whole (https; http on loopback, with any port); may be repeated
        #[arg(long, value_name = "URL")]
        redirect_uri: Vec<String>,
        /// It can keep a secret, and gets one. A program on somebody's machine cannot
        #[arg(long)]
        confidential: bool,
        /// What it may ask for tokens with; may be repeated [default: refresh, and code with a redirect URL, else device]
        #[arg(long, value_name = "GRANT", value_enum, value_delimiter = ',')]
        grant: Vec<GrantWord>,
        /// At most these scopes: proxy, reveal, provider:NAME, connection:ID; may be repeated
        #[arg(long)]
        scope: Vec<String>,
        /// Only this agent, by its id [default: whichever the person chooses]
        #[arg(long)]
        agent: Option<String>,
    },
    /// List the site's clients
    List,
    /// Show a client
    Show {
        /// Its id
        id: String,
    },
    /// Revoke a client with every token that was issued to it; no request that comes after this is served by them
    Revoke {
        /// Its id
        id: String,
    },
    /// Whether clients may register themselves at the site (RFC 7591); says so without a word
    Registration {
        /// Let them, or no longer
        #[arg(value_enum)]
        switch: Option<Switch>,
    },
    /// List what people consented to
    Consents {
        /// Only those for this agent; its id or slug
        #[arg(long)]
        agent: Option<String>,
        /// Only those of this person
        #[arg(long, alias = "person", value_name = "USER")]
        user: Option<String>,
        /// Only those of this client; its id
        #[arg(long)]
        client: Option<String>,
    },
    /// End a consent with every token that came of it
    EndConsent {
        /// Its id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

/// A grant type of OAuth.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum GrantWord {
    /// A person consents in their browser
    Code,
    /// A person consents on another device
    Device,
    /// Refresh tokens
    Refresh,
    /// A token for another one
    Exchange,
}

impl GrantWord {
    fn word(self) -> &'static str {
        match self {
            Self::Code => "authorization_code",
            Self::Device => "urn:ietf:params:oauth:grant-type:device_code",
            Self::Refresh => "refresh_token",
            Self::Exchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
}

impl Client {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Create { name, redirect_uri, confidential, grant, scope, agent } => {
                let grants: Vec<_> = grant.into_iter().map(GrantWord::word).collect();
                let body = json!({
                    "name": name,
                    "redirect_uris": redirect_uri,
                    "confidential": confidential,
                    "grant_types": (!grants.is_empty()).then_some(grants),
                    "scope": (!scope.is_empty()).then(|| scope.join(" ")),
                    "agent": agent,
                });
                session.ask(Method::POST, "/v1/clients", Some(&body), made).await
            }
            Self::List => session.ask_all("/v1/clients", "clients", list).await,
            Self::Show { id } => session.ask(Method::GET, &path(&id)?, None, show).await,
            Self::Revoke { id } => {
                let said = |answer: &Value| format!("{id} is revoked, with {} tokens", cell(answer, "/revoked"));
                session.ask(Method::DELETE, &path(&id)?, None, said).await
            }
            Self::Registration { switch } => {
                let said = |answer: &Value| match answer["open"].as_bool() {
                    Some(true) => "clients may register themselves".to_owned(),
                    _ => "clients cannot register themselves".to_owned(),
                };
                let path = "/v1/client-registration";
                match switch {
                    None => session.ask(Method::GET, path, None, said).await,
                    Some(switch) => {
                        let body = json!({ "open": switch == Switch::On });
                        session.ask(Method::PUT, path, Some(&body), said).await
                    }
                }
            }
            Self::Consents { agent, user, client } => {
                let narrowed = [("agent", agent.as_deref()), ("person", user.as_deref()), ("client", client.as_deref())];
                session.ask(Method::GET, &with_query("/v1/consents", &narrowed), None, consents).await
            }
            Self::EndConsent { id, reason } => {
                let path = with_query(&format!("/v1/consents/{}", segment(&id)?), &[("reason", reason.as_deref())]);
                session.ask(Method::DELETE, &path, None, |_| format!("{id} is over")).await
            }
        }
    }
}

fn path(id: &str) -> Result<String> {
    Ok(format!("/v1/clients/{}", segment(id)?))
}

fn made(answer: &Value) -> String {
    let about = show(answer);
    match cell(answer, "/client_secret") {
        secret if secret.is_empty() => about,
        secret => format!("{about}\n{}\n\nThe secret is shown this once.", facts(&[("client secret", secret)])),
    }
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/name", "/confidential", "/agent", "/registered_at", "/used_at", "/created_at", "/revoked_at"];
    let row = |client: &Value| columns.map(|at| cell(client, at)).to_vec();
    let heads = ["id", "name", "secret", "agent", "registered itself", "last used", "since", "revoked"];
    let none = "there is no client; make one with `valetkey client create`";
    table(&heads, items(answer, "clients").iter().map(row).collect(), none)
}

fn show(client: &Value) -> String {
    facts(&[
        ("client id", cell(client, "/id")),
        ("name", cell(client, "/name")),
        ("secret", cell(client, "/confidential")),
        ("returns to", cell(client, "/redirect_uris")),
        ("grants", cell(client, "/grant_types")),
        ("at most", cell(client, "/scope")),
        ("agent", cell(client, "/agent")),
        ("registered itself", cell(client, "/registered_at")),
        ("last used", cell(client, "/used_at")),
        ("since", cell(client, "/created_at")),
        ("revoked", cell(client, "/revoked_at")),
    ])
}

fn consents(answer: &Value) -> String {
    let columns = ["/id", "/agent", "/person", "/client", "/scope", "/created_at", "/used_at", "/expires_at"];
    let row = |consent: &Value| columns.map(|at| cell(consent, at)).to_vec();
    let heads = ["id", "agent", "user", "client", "at most", "since", "last used", "until"];
    table(&heads, items(answer, "consents").iter().map(row).collect(), "nobody consented to anything that is not over")
}
