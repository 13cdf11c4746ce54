//! `valetkey account`: what is stored for an owner at a provider. Secrets come in by standard input or a file, never as
//! arguments.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    Session,
    owner::{Acting, OwnerArgs, agent_id, found_by_policy},
};
use crate::{
    client::{Client, segment, with_query},
    failure::{Failure, Result},
    output::{cell, facts},
    secrets,
};

/// Stored accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Show an account: whether it is there and how it stands, or with --reveal everything in it
    Get {
        #[command(flatten)]
        which: Which,
        /// Print the account itself, secrets and all
        #[arg(long)]
        reveal: bool,
    },
    /// Show whose account the provider's policy gives to a person and an agent, and with --reveal everything in it. Nothing of
    /// this is done by the commands that name an owner
    Context {
        /// The provider
        provider: String,
        #[command(flatten)]
        acting: Acting,
        /// Which of the owner's accounts there, where it has a name
        #[arg(long)]
        name: Option<String>,
        /// Print the account itself, secrets and all
        #[arg(long)]
        reveal: bool,
    },
    /// Store an account: a JSON object such as {"access_token": "...", "refresh_token": "..."}
    Set {
        #[command(flatten)]
        which: Which,
        /// The file that holds the JSON object; - is standard input
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
        /// Replace tokens that the broker may have refreshed meanwhile
        #[arg(long)]
        replace: bool,
    },
    /// Merge members into an account: a JSON object such as {"note": "..."}; null takes a member out. Tokens and what decides a
    /// host are changed by `set` only
    Update {
        #[command(flatten)]
        which: Which,
        /// The file that holds the JSON object; - is standard input
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Delete an account; this is final, its grants end with it
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// Which account.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The provider
    provider: String,
    #[command(flatten)]
    owner: OwnerArgs,
    /// Which of the owner's accounts there, where it has a name
    #[arg(long)]
    name: Option<String>,
}

impl Which {
    async fn path(&self, client: &Client) -> Result<String> {
        let accounts = format!("/v1/providers/{}/accounts", segment(&self.provider)?);
        let path = match (&self.owner.user, &self.owner.agent) {
            (Some(user), _) => format!("{accounts}/users/{}", segment(user)?),
            (None, Some(agent)) => {
                let id = match agent_id(client, agent).await {
                    // An import may have brought its account and not the agent; the server says whether it did.
                    Err(failure) if failure.code() == "not_found" => agent.clone(),
                    found => found?,
                };
                format!("{accounts}/agents/{}", segment(&id)?)
            }
            (None, None) => format!("{accounts}/site"),
        };
        Ok(with_query(&path, &[("name", self.name.as_deref())]))
    }
}

impl Account {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Get { which, reveal } => {
                let answer = session
                    .with(async |client| {
                        let path = which.path(client).await?;
                        let path = if reveal { with_query(&path, &[("reveal", Some("true"))]) } else { path };
                        client.call(Method::GET, &path, None).await
                    })
                    .await?;
                session.out.show(&answer, show)
            }
            Self::Context { provider, acting, name, reveal } => {
                let answer = session
                    .with(async |client| {
                        let path = format!("/v1/providers/{}/accounts/context", segment(&provider)?);
                        let own = [("name", name.as_deref()), ("reveal", reveal.then_some("true"))];
                        let path = with_query(&acting.query(client, &path).await?, &own);
                        client.call(Method::GET, &path, None).await
                    })
                    .await?;
                session.out.show(&answer, |answer| found_by_policy(answer, show))
            }
            Self::Set { which, file, replace } => {
                let account = object(session, &file)?;
                let answer = session
                    .with(async |client| {
                        let path = with_query(&which.path(client).await?, &[("replace", replace.then_some("true"))]);
                        client.call(Method::PUT, &path, Some(&json!({ "account": account }))).await
                    })
                    .await?;
                session.out.show(&answer, show)
            }
            Self::Update { which, file } => {
                let changes = object(session, &file)?;
                let answer = session
                    .with(async |client| {
                        client.call(Method::PATCH, &which.path(client).await?, Some(&json!({ "account": changes }))).await
                    })
                    .await?;
                session.out.show(&answer, show)
            }
            Self::Delete { which } => {
                let answer =
                    session.with(async |client| client.call(Method::DELETE, &which.path(client).await?, None).await).await?;
                session.out.show(&answer, |_| "the account is deleted".to_owned())
            }
        }
    }
}

/// The JSON object in a file, or in what is typed.
fn object(session: &Session, file: &Path) -> Result<Value> {
    if file.as_os_str() == "-" && secrets::can_ask() {
        session.out.note("Paste the JSON object, then press Ctrl-D:");
    }
    let text = secrets::read_file(file).map_err(Failure::usage)?;
    let object: Option<Value> = serde_json::from_str(text.expose()).ok().filter(Value::is_object);
    object.ok_or_else(|| Failure::usage("the account is a JSON object such as {\"access_token\": \"...\"}"))
}

fn show(answer: &Value) -> String {
    let mut lines = vec![
        ("connection", cell(answer, "/connection")),
        ("status", cell(answer, "/status")),
        ("account", cell(answer, "/subject_name")),
        ("token until", cell(answer, "/expires_at")),
        ("version", cell(answer, "/version")),
    ];
    let stored = answer.get("account").and_then(Value::as_object);
    lines.extend(stored.into_iter().flatten().map(|(name, value)| (name.as_str(), crate::output::word(value))));
    facts(&lines)
}
