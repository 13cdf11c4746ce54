//! `valetkey auth revoke`: an account ends. It is refused from then on, whatever the provider says, and what the provider says
//! is told.

use clap::Args;
use http::Method;
use serde_json::Value;
use valetkey::principal::Owner;

use super::{Which, confirm};
use crate::{
    client::Client,
    commands::{Session, owner::Whose},
    failure::{Failure, Result},
    output::cell,
};

/// How many seconds the provider is waited for.
const WAIT: &str = "10";

/// Which account ends, and how.
#[derive(Args, Debug)]
pub(crate) struct Revoke {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
}

/// How it ends.
#[derive(Args, Debug, Default)]
struct How {
    /// Do not ask whether it is meant
    #[arg(long)]
    yes: bool,
    /// Revoke at the provider also where that ends other connections of the same account
    #[arg(long, conflicts_with = "skip_upstream")]
    force: bool,
    /// Leave the tokens as they are at the provider
    #[arg(long)]
    skip_upstream: bool,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// The site's own account.
#[derive(Args, Debug)]
pub(crate) struct Disconnect {
    /// The provider
    provider: String,
    /// Do not ask whether it is meant
    #[arg(long)]
    yes: bool,
    // Taken only to be refused by name: who writes one of these does not mean the site's account.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", allow_negative_numbers = true)]
    user: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", allow_negative_numbers = true)]
    agent: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", allow_negative_numbers = true)]
    name: Option<String>,
}

impl Revoke {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        revoke(session, &self.which, &self.how).await
    }
}

impl Disconnect {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        for (option, given) in [("--user", &self.user), ("--agent", &self.agent), ("--name", &self.name)] {
            if given.is_some() {
                return Err(Failure::usage(format!(
                    "`disconnect` is deprecated and ends the site's own account only; nothing was done. With {option} use `valetkey \
                     auth revoke`"
                )));
            }
        }
        session.out.note("warning: `disconnect` is deprecated; use `valetkey auth revoke`");
        let which = Which { provider: self.provider, whose: Whose::default(), name: None };
        revoke(session, &which, &How { yes: self.yes, ..How::default() }).await
    }
}

async fn revoke(session: &Session, which: &Which, how: &How) -> Result<()> {
    let whose = match (&which.whose.user, &which.whose.agent) {
        (Some(user), _) => format!("user:{user}"),
        (None, Some(agent)) => format!("agent {agent}"),
        (None, None) => "the site".to_owned(),
    };
    let named = which.name.as_deref().map(|name| format!(" `{name}`")).unwrap_or_default();
    confirm(how.yes, &format!("End the account{named} of {whose} at {}? This is final; its grants end with it", which.provider))?;
    let answer = session
        .with(async |client| {
            let owner = owner(client, which).await?;
            let upstream = if how.force { Some("force") } else { how.skip_upstream.then_some("skip") };
            let query = [("upstream", upstream), ("reason", how.reason.as_deref()), ("wait", Some(WAIT))];
            let answer = client.call(Method::DELETE, &which.path(&owner, &query)?, None).await?;
            if answer.get("ended") == Some(&Value::Bool(true)) {
                return Ok(answer);
            }
            Err(Failure::not_found(format!("{owner} has no account{named} at {}; nothing was revoked", which.provider)))
        })
        .await?;
    session
        .out
        .show(&answer, |answer| format!("the account{named} of {whose} at {} is revoked\n{}", which.provider, there(answer)))
}

/// Whose account. An agent that is deleted may still have one, which goes by the agent's id.
async fn owner(client: &Client, which: &Which) -> Result<Owner> {
    match (which.whose.owner(client).await, &which.whose.agent) {
        (Err(failure), Some(agent)) if failure.code() == "not_found" => agent.parse().map(Owner::Agent).map_err(|_| failure),
        (owner, _) => owner,
    }
}

/// What became of the tokens at the provider, in words; for every command that ends an account.
pub(in crate::commands) fn there(answer: &Value) -> String {
    let (why, next) = (cell(answer, "/why"), cell(answer, "/next_at"));
    let there = match cell(answer, "/upstream").as_str() {
        "revoked" => "its tokens are revoked at the provider, too".to_owned(),
        "pending" if why.is_empty() => {
            "its tokens will be revoked at the provider, too; `valetkey connection revocations` shows what came of it".to_owned()
        }
        "pending" => format!("its tokens could not be revoked at the provider yet ({why}); next try at {next}"),
        "unsupported" => {
            "its tokens live on at the provider until they end by themselves: it has no way to revoke them".to_owned()
        }
        "failed" => format!("the provider refused to revoke its tokens ({why}): revoke your app's access there by hand"),
        "skipped" => format!("its tokens live on at the provider: {why}"),
        other => other.to_owned(),
    };
    let until = cell(answer, "/token_until");
    let end = if until.is_empty() { "it ends there".to_owned() } else { format!("it ends there, at {until} at the latest") };
    format!("{there}\nA token that was revealed before lives until {end}.")
}
