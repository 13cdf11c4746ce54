//! `valetkey person`: stop somebody, and let them act again.

use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::Session;
use crate::{client::segment, failure::Result};

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
}

impl Person {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let (user, disabled) = match self {
            Self::Disable { user } => (user, true),
            Self::Enable { user } => (user, false),
        };
        let path = format!("/v1/people/{}", segment(&user)?);
        let word = if disabled { "disabled" } else { "enabled" };
        session.ask(Method::PATCH, &path, Some(&json!({ "disabled": disabled })), |_| format!("{user} is {word}")).await
    }
}
