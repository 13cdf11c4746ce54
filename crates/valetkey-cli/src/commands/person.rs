//! `valetkey person`: stop somebody, let them act again, end their sessions, erase them.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::segment,
    failure::{Failure, Result},
    output::{cell, facts, items, table},
};

/// People.
#[derive(Debug, Subcommand)]
pub(crate) enum Person {
    /// Stop a person: their tokens, grants and accounts stop with them
    Disable {
        /// The person's id
        user: String,
    },
    /// Let a person act again
    Enable {
        /// The person's id
        user: String,
    },
    /// List the browsers in which a person is signed in
    Sessions {
        /// The person's id
        user: String,
    },
    /// Sign a person out, in every browser
    SignOut {
        /// The person's id
        user: String,
    },
    /// Erase a person for good: their accounts, apps, tokens, grants and roles end, their agents are disabled. The audit keeps
    /// their id, and nothing else is kept
    Erase {
        /// The person's id
        user: String,
        /// That it is meant: there is no way back
        #[arg(long)]
        yes: bool,
    },
}

impl Person {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let (user, disabled) = match self {
            Self::Disable { user } => (user, true),
            Self::Enable { user } => (user, false),
            Self::Sessions { user } => {
                let path = format!("/v1/people/{}/sessions", segment(&user)?);
                return session.ask(Method::GET, &path, None, list).await;
            }
            Self::SignOut { user } => {
                let path = format!("/v1/people/{}/sessions", segment(&user)?);
                let said = |answer: &Value| format!("{user} is signed out; sessions ended: {}", cell(answer, "/ended"));
                return session.ask(Method::DELETE, &path, None, said).await;
            }
            Self::Erase { user, yes: false } => {
                return Err(Failure::usage(format!("erasing {user} cannot be undone; say --yes where that is meant")));
            }
            Self::Erase { user, yes: true } => {
                let path = format!("/v1/people/{}", segment(&user)?);
                return session.ask(Method::DELETE, &path, None, erased).await;
            }
        };
        let path = format!("/v1/people/{}", segment(&user)?);
        let word = if disabled { "disabled" } else { "enabled" };
        session.ask(Method::PATCH, &path, Some(&json!({ "disabled": disabled })), |_| format!("{user} is {word}")).await
    }
}

fn list(answer: &Value) -> String {
    let row = |session: &Value| ["/id", "/opened_at", "/expires_at", "/key"].map(|at| cell(session, at)).to_vec();
    let rows = items(answer, "sessions").iter().map(row).collect();
    table(&["id", "since", "until", "vouched for by"], rows, "this person is signed in nowhere")
}

fn erased(answer: &Value) -> String {
    let parts = [
        ("erased", "/id"),
        ("accounts", "/connections"),
        ("apps", "/apps"),
        ("tokens", "/tokens"),
        ("grants", "/grants"),
        ("roles", "/roles"),
        ("agents disabled", "/agents"),
    ];
    facts(&parts.map(|(name, at)| (name, cell(answer, at))))
}
