//! `valetkey auth refresh` and `refresh-all`: new tokens now. Each says of each account whether it really has another token
//! than before.

use clap::Args;
use futures_util::{StreamExt as _, stream};
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Which, connections, named};
use crate::{
    client::{Client, segment},
    commands::Session,
    failure::{Failure, Result},
    output::{cell, facts, plain},
};

/// How many are asked for at a time.
const AT_ONCE: usize = 8;

/// One account.
#[derive(Args, Debug)]
pub(crate) struct Refresh {
    #[command(flatten)]
    which: Which,
}

impl Refresh {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let answer = session
            .with(async |client| {
                let owner = self.which.whose.owner(client).await?;
                let account = client.call(Method::GET, &self.which.path(&owner, &[])?, None).await?;
                refresh(client, &cell(&account, "/connection")).await
            })
            .await?;
        session.out.show(&answer, |answer| {
            let what = match answer.get("refreshed") {
                Some(Value::Bool(true)) => "the token is a new one",
                _ => "nothing was refreshed: the token is younger than a minute",
            };
            let about = facts(&[
                ("connection", cell(answer, "/id")),
                ("status", cell(answer, "/status")),
                ("token until", cell(answer, "/expires_at")),
            ]);
            format!("{what}\n{about}")
        })
    }
}

async fn refresh(client: &Client, connection: &str) -> Result<Value> {
    client.call(Method::POST, &format!("/v1/connections/{}/refresh", segment(connection)?), Some(&json!({}))).await
}

/// All accounts.
#[derive(Args, Debug)]
pub(crate) struct RefreshAll {
    /// Only accounts at this provider
    #[arg(long)]
    provider: Option<String>,
}

impl RefreshAll {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let report = session
            .with(async |client| {
                let all = connections(client, self.provider.as_deref(), None).await?;
                let (due, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|connection| why_not(connection).is_none());
                let bar = bar(session, due.len());
                let mut done: Vec<Value> =
                    left.iter().map(|connection| entry(connection, "skipped", why_not(connection))).collect();
                let asked = due.iter().map(|connection| async move {
                    let answer = refresh(client, &cell(connection, "/id")).await;
                    // Whoever cannot be asked any more is no account's fault.
                    match answer {
                        Ok(answer) if answer.get("refreshed") == Some(&Value::Bool(true)) => {
                            Ok(entry(&answer, "refreshed", None))
                        }
                        Ok(answer) => Ok(entry(&answer, "skipped", Some(cell(&answer, "/why")))),
                        Err(failure) if failure.is_unreachable() => Err(failure),
                        Err(failure) => Ok(entry(connection, "failed", Some(failure.code().to_owned()))),
                    }
                });
                let mut asked = stream::iter(asked).buffer_unordered(AT_ONCE);
                while let Some(entry) = asked.next().await {
                    let entry = entry?;
                    bar.inc(1);
                    bar.suspend(|| tell(session, &entry));
                    done.push(entry);
                }
                bar.finish_and_clear();
                Ok(report(done))
            })
            .await?;
        session.out.show(&report, |report| {
            let count = |at: &str| cell(report, at);
            format!("refreshed {}, skipped {}, failed {}", count("/refreshed"), count("/skipped"), count("/failed"))
        })?;
        if report.get("failed") == Some(&json!(0)) { Ok(()) } else { Err(Failure::silent()) }
    }
}

/// Why a connection is not asked for, if it is not.
fn why_not(connection: &Value) -> Option<String> {
    match (cell(connection, "/status").as_str(), cell(connection, "/renewal").as_str()) {
        ("needs_reauth", _) => Some("needs_reauth".to_owned()),
        (_, "none") => Some("not_renewable".to_owned()),
        _ => None,
    }
}

fn entry(connection: &Value, outcome: &str, why: Option<String>) -> Value {
    let mut entry = json!({ "outcome": outcome, "why": why });
    for member in ["id", "provider", "owner", "name", "expires_at"] {
        entry[member] = connection.get(member).cloned().unwrap_or_default();
    }
    entry
}

fn report(mut accounts: Vec<Value>) -> Value {
    accounts.sort_by_key(|entry| cell(entry, "/id"));
    let count = |outcome: &str| accounts.iter().filter(|entry| cell(entry, "/outcome") == outcome).count();
    json!({ "refreshed": count("refreshed"), "skipped": count("skipped"), "failed": count("failed"), "accounts": accounts })
}

/// A line for each account as it comes, beside the result.
fn tell(session: &Session, entry: &Value) {
    if !session.out.json {
        let parts = [cell(entry, "/outcome"), cell(entry, "/provider"), cell(entry, "/owner"), named(entry), cell(entry, "/why")];
        session.out.note(&plain(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")));
    }
}

fn bar(session: &Session, length: usize) -> ProgressBar {
    let bar = if session.out.json { ProgressBar::hidden() } else { ProgressBar::new(u64::try_from(length).unwrap_or(u64::MAX)) };
    if let Ok(style) = ProgressStyle::with_template("refreshing [{bar:30}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
