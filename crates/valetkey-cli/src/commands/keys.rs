//! `valetkey keys`: the sealing keys. All of it works while the server runs.
//!
//! Data keys seal rows, one per site and provider; root keys wrap data keys and are never in the database. To change the
//! root key: `new-root` writes a new first line into the key file and has the server read it, `rewrap` puts the data keys
//! under it, and `drop-old-roots` takes the old lines away. With PostgreSQL every replica gets the same file and reads it
//! again (SIGHUP) before `rewrap`.

use std::{io::Write as _, path::PathBuf};

use clap::Subcommand;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use valetkey::seal::RootKey;

use super::Session;
use crate::{
    client::Client,
    failure::{Failure, Result},
    output::{cell, facts, items, table},
    settings::Place,
};

/// Sealing keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Show the root keys that are loaded and the data keys under them
    Status,
    /// Seal everything under new data keys, of all sites unless --site names one; run again after an interruption, it goes on
    Rotate {
        /// Only this provider's
        #[arg(long)]
        provider: Option<String>,
        /// Afterwards open every value, and fail where one is not under the newest key
        #[arg(long)]
        verify: bool,
    },
    /// Open every sealed value and say what was found; changes nothing
    Verify,
    /// Write a new root key as the first line of the key file, where the old ones stay, and have the server read it
    NewRoot,
    /// Have the server read the root keys again; with PostgreSQL, each replica reads them on SIGHUP
    Reload,
    /// Put every data key under the current root key
    Rewrap,
    /// Remove the root keys that nothing needs any more from the key file
    DropOldRoots,
    /// Make a root key for PostgreSQL, whose root key you bring yourself
    Generate {
        /// Write it to this new file, readable by you alone, instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl Keys {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Status => session.ask(Method::GET, "/v1/seal-keys", None, status).await,
            Self::Rotate { provider, verify } => rotate(session, provider, verify).await,
            Self::Verify => {
                let report = session.with(async |client| walk(session, client, "/v1/seal-keys/verify", &json!({})).await).await?;
                session.out.show(&report, found)?;
                clean(&report)
            }
            Self::NewRoot => new_root(session).await,
            Self::Reload if on_postgres(session) => {
                Err(Failure::usage("with PostgreSQL no command reaches the servers: send SIGHUP to each replica"))
            }
            Self::Reload => {
                let loaded = |answer: &Value| format!("loaded: {}", cell(answer, "/roots"));
                session.ask(Method::POST, "/v1/seal-keys/reload", Some(&json!({})), loaded).await
            }
            Self::Rewrap => {
                let moved = session.with(async |client| walk(session, client, "/v1/seal-keys/rewrap", &json!({})).await).await?;
                session.out.show(&moved, |answer| {
                    format!(
                        "{} data keys moved under the current root key\nnow: `valetkey keys drop-old-roots`",
                        cell(answer, "/moved")
                    )
                })
            }
            Self::DropOldRoots => drop_old_roots(session).await,
            Self::Generate { file } => generate(session, file),
        }
    }
}

/// Whether this command works at the database itself, beside whatever servers there are.
fn on_postgres(session: &Session) -> bool {
    matches!(session.settings.place, Place::Postgres(_))
}

/// Writes the new key, and has the server that was asked read it.
async fn new_root(session: &Session) -> Result<()> {
    let answer = session
        .with(async |client| {
            let mut answer = client.call(Method::POST, "/v1/seal-keys/new-root", Some(&json!({}))).await?;
            let loaded = client.call(Method::POST, "/v1/seal-keys/reload", Some(&json!({}))).await?;
            answer["roots"] = loaded.get("roots").cloned().unwrap_or_default();
            Ok(answer)
        })
        .await?;
    session.out.show(&answer, |answer| {
        let next = match on_postgres(session) {
            true => "Every replica needs the same file, and SIGHUP to read it. Back it up",
            false => "It is loaded. Back it up",
        };
        let (root, file) = (cell(answer, "/root"), cell(answer, "/file"));
        format!("root key {root} is the first line of {file}\n{next}, then: `valetkey keys rewrap`")
    })
}

/// Takes the old keys out of the file, and has the server that was asked forget them.
async fn drop_old_roots(session: &Session) -> Result<()> {
    let answer = session
        .with(async |client| {
            let dropped = client.call(Method::POST, "/v1/seal-keys/drop-old-roots", Some(&json!({}))).await?;
            client.call(Method::POST, "/v1/seal-keys/reload", Some(&json!({}))).await?;
            Ok(dropped)
        })
        .await?;
    session.out.show(&answer, |answer| {
        let gone = cell(answer, "/removed");
        if gone.is_empty() { "there was no old root key in the file".to_owned() } else { format!("removed: {gone}") }
    })
}

async fn rotate(session: &Session, provider: Option<String>, verify: bool) -> Result<()> {
    let site = session.settings.site_was_said.then_some(&session.settings.site);
    let scope = json!({ "site": site, "provider": provider });
    let outcome = session
        .with(async |client| {
            let mut outcome = walk(session, client, "/v1/seal-keys/rotate", &scope).await?;
            if verify {
                outcome["verified"] = walk(session, client, "/v1/seal-keys/verify", &json!({})).await?;
            }
            Ok(outcome)
        })
        .await?;
    session.out.show(&outcome, |outcome| {
        let mut text = facts(&[
            ("new data keys", cell(outcome, "/new_keys")),
            ("values sealed anew", cell(outcome, "/resealed")),
            ("data keys retired", cell(outcome, "/retired")),
            ("unreadable values", cell(outcome, "/unreadable/count")),
        ]);
        if let Some(report) = outcome.get("verified") {
            text = format!("{text}\n\n{}", found(report));
        }
        text
    })?;
    outcome.get("verified").map_or(Ok(()), clean)
}

/// Long work with a bar: what came of it.
async fn walk(session: &Session, client: &Client, path: &str, body: &Value) -> Result<Value> {
    let bar = if session.out.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let outcome = client
        .work(path, body, |progress| {
            let number = |at: &str| progress.get(at).and_then(Value::as_u64).unwrap_or(0);
            bar.set_length(number("total"));
            bar.set_position(number("done"));
            bar.set_message(format!("walk {}, {}", number("walk"), cell(progress, "/table")));
        })
        .await;
    bar.finish_and_clear();
    outcome
}

fn status(answer: &Value) -> String {
    let columns = ["/id", "/site", "/provider", "/version", "/root", "/created_at", "/retired_at"];
    let row = |key: &Value| columns.map(|at| cell(key, at)).to_vec();
    let heads = ["data key", "site", "provider", "version", "root key", "since", "retired"];
    format!(
        "{}\n\n{}",
        facts(&[("root keys loaded", cell(answer, "/roots")), ("current", cell(answer, "/current"))]),
        table(&heads, items(answer, "keys").iter().map(row).collect(), "there is no data key yet")
    )
}

fn found(report: &Value) -> String {
    let mut text = facts(&[
        ("values opened", cell(report, "/opened")),
        ("under an older data key", cell(report, "/stale")),
        ("data keys under an old root key", cell(report, "/old_roots")),
        ("unreadable values", cell(report, "/unreadable/count")),
    ]);
    let rows = report.pointer("/unreadable/rows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !rows.is_empty() {
        let columns = ["/table", "/site", "/provider", "/row", "/why"];
        let row = |one: &Value| columns.map(|at| cell(one, at)).to_vec();
        let heads = ["table", "site", "provider", "row", "why"];
        text = format!("{text}\n\n{}", table(&heads, rows.iter().map(row).collect(), ""));
    }
    text
}

fn clean(report: &Value) -> Result<()> {
    let count = |at: &str| report.pointer(at).and_then(Value::as_u64);
    let all = ["/stale", "/old_roots", "/unreadable/count"];
    if all.iter().all(|at| count(at) == Some(0)) { Ok(()) } else { Err(Failure::silent()) }
}

fn generate(session: &Session, file: Option<PathBuf>) -> Result<()> {
    let key = RootKey::generate()?;
    let Some(path) = file else {
        let line = key.to_line();
        return session.out.show(&json!({ "id": key.id().as_str(), "key": line.expose() }), |answer| cell(answer, "/key"));
    };
    let mut file = crate::secrets::new_file(&path)?;
    file.write_all(key.to_line().expose().as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all())?;
    session.out.show(&json!({ "id": key.id().as_str(), "file": path }), |answer| {
        format!(
            "root key {} is in {}\nGive the same file to every replica, and keep a copy apart from the database and its backups.",
            cell(answer, "/id"),
            cell(answer, "/file")
        )
    })
}
