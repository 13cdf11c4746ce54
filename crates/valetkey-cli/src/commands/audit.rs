//! `valetkey audit`: what happened, and whether all of it is still there.

use std::{
    collections::HashSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use http::Method;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::{Client, with_query},
    failure::{Failure, Result},
    output::{cell, facts, items, plain, table},
    secrets,
    settings::Place,
};

/// The audit.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List events of the site, newest first
    List {
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only those that came before this event
        #[arg(long, value_name = "EVENT")]
        before: Option<String>,
    },
    /// Show events as they come, until it is interrupted
    Tail {
        /// How many of the newest to begin with
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
        lines: u32,
    },
    /// Print every row of the site's ledger with its place and link, as JSON documents, one a line, chain by chain
    Export {
        /// Only what came after the head in this file
        #[arg(long, value_name = "FILE")]
        after: Option<PathBuf>,
        /// Write where the export ends to this new file: for `--after` and `verify --head`. Keep it apart from the database
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
    /// Print where every chain of the site stands now, as JSON. Keep it apart from the database
    Head,
    /// Walk over the whole ledger, of all sites unless --site names one, and say where a row was left out, moved, edited or
    /// put in. The exit code is 1 then
    Verify {
        /// Also find ends that were cut off since the head in this file was taken; of its site only
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
}

/// For how many seconds one answer follows.
const FOLLOW: u32 = 3600;
/// The largest file that is taken for a head.
const LARGEST_HEAD: u64 = 16 * 1024 * 1024;

impl Audit {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List { limit, before } => {
                let path = with_query("/v1/audit", &[("limit", Some(&limit.to_string())), ("before", before.as_deref())]);
                session.ask(Method::GET, &path, None, list).await
            }
            Self::Tail { lines } => tail(session, lines).await,
            Self::Export { after, head } => export(session, after.as_deref(), head.as_deref()).await,
            Self::Head => session.ask(Method::GET, "/v1/audit/head", None, |head| format!("{head:#}")).await,
            Self::Verify { head } => verify(session, head.as_deref()).await,
        }
    }
}

const COLUMNS: [&str; 6] = ["/at", "/actor", "/action", "/outcome", "/agent", "/connection"];

fn list(answer: &Value) -> String {
    let heads = ["at", "actor", "action", "outcome", "agent", "connection", "facts"];
    table(&heads, items(answer, "events").iter().map(cells).collect(), "nothing happened yet")
}

fn cells(event: &Value) -> Vec<String> {
    let facts = event.get("facts").filter(|facts| facts.as_object().is_some_and(|facts| !facts.is_empty()));
    let mut row = COLUMNS.map(|at| cell(event, at)).to_vec();
    row.push(facts.map(Value::to_string).unwrap_or_default());
    row
}

async fn tail(session: &Session, lines: u32) -> Result<()> {
    session
        .with(async |client| {
            if client.is_here() && matches!(session.settings.place, Place::Folder(_)) {
                return Err(Failure::unreachable("no server runs on this data folder, so there is nothing to follow"));
            }
            // The place before the newest events, so that none is missed between the two; what comes twice is left out.
            let mut head = client.call(Method::GET, "/v1/audit/head", None).await?;
            let mut shown = HashSet::new();
            if lines > 0 {
                let newest = client.call(Method::GET, &format!("/v1/audit?limit={lines}"), None).await?;
                for event in items(&newest, "events").iter().rev() {
                    shown.insert(cell(event, "/id"));
                    show(session, event)?;
                }
            }
            loop {
                head = rows(client, Some(&head), FOLLOW, |event| match shown.remove(&cell(event, "/id")) {
                    true => Ok(()),
                    false => show(session, event),
                })
                .await?;
            }
        })
        .await
}

fn show(session: &Session, event: &Value) -> Result<()> {
    if session.out.json {
        return session.out.text(&event.to_string());
    }
    let cells = cells(event).into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(&cell) });
    session.out.text(&cells.collect::<Vec<_>>().join("  "))
}

/// Hands over every row after a head, and what comes for so many seconds; returns where that ended.
async fn rows(client: &Client, after: Option<&Value>, follow: u32, mut each: impl FnMut(&Value) -> Result<()>) -> Result<Value> {
    let mut end = None;
    let body = json!({ "after": after, "follow": follow });
    client
        .stream(Method::POST, "/v1/audit/export", Some(&body), |mut line| {
            if let Some(problem) = line.get("problem") {
                return Err(Failure::problem(http::StatusCode::INTERNAL_SERVER_ERROR, problem.clone()));
            }
            match line.get_mut("head") {
                Some(head) => end = Some(head.take()),
                None => each(line.get("event").unwrap_or(&Value::Null))?,
            }
            Ok(())
        })
        .await?;
    end.ok_or_else(|| Failure::unreachable("the server ended the answer before its end"))
}

async fn export(session: &Session, after: Option<&Path>, head: Option<&Path>) -> Result<()> {
    let after = after.map(read_head).transpose()?;
    // Made before anything is asked for, so that an export does not run for nothing.
    let mut file = head.map(secrets::new_file).transpose()?;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let end = session.with(async |client| rows(client, after.as_ref(), 0, |event| Ok(writeln!(out, "{event}")?)).await).await?;
    out.flush()?;
    match &mut file {
        Some(file) => Ok(writeln!(file, "{end:#}").and_then(|()| file.sync_all())?),
        None => Ok(()),
    }
}

async fn verify(session: &Session, head: Option<&Path>) -> Result<()> {
    let head = head.map(read_head).transpose()?;
    let own = session.settings.site.to_string();
    let reports = session
        .with(async |client| {
            let sites: Vec<String> = match &head {
                Some(head) if session.settings.site_was_said && cell(head, "/site") != own => {
                    return Err(Failure::usage(format!(
                        "this head is of the site `{}`, and --site says `{own}`",
                        cell(head, "/site")
                    )));
                }
                Some(head) => vec![cell(head, "/site")],
                None if session.settings.site_was_said => vec![own],
                None => {
                    let sites = client.call(Method::GET, "/v1/sites", None).await?;
                    items(&sites, "sites").iter().map(|site| cell(site, "/id")).collect()
                }
            };
            let mut reports = Vec::new();
            for site in sites {
                reports.push(walk(session, client, &site, head.as_ref()).await?);
            }
            Ok(reports)
        })
        .await?;
    let faulty: u64 = reports.iter().filter_map(|report| report.get("faulty")?.as_u64()).sum();
    session.out.show(&json!({ "ok": faulty == 0, "sites": reports }), |answer| found(answer, faulty, head.is_some()))?;
    if faulty == 0 { Ok(()) } else { Err(Failure::silent()) }
}

/// One site's walk, with how far it came.
async fn walk(session: &Session, client: &Client, site: &str, head: Option<&Value>) -> Result<Value> {
    let bar = if session.out.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    // The client itself names the site, unless it is the usual one.
    let site = (session.settings.site.as_str() != site).then_some(site);
    let path = with_query("/v1/audit/verify", &[("site", site)]);
    let outcome = client
        .work(&path, &json!({ "head": head }), |progress| {
            if let Some(rows) = progress.get("rows").and_then(Value::as_u64) {
                bar.set_message(format!("{rows} rows"));
                bar.tick();
            }
        })
        .await;
    bar.finish_and_clear();
    outcome
}

fn found(answer: &Value, faulty: u64, against_a_head: bool) -> String {
    let sites = items(answer, "sites");
    let sum = |at: &str| sites.iter().filter_map(|site| site.pointer(at)?.as_u64()).sum::<u64>().to_string();
    let mut text = facts(&[
        ("sites", sites.len().to_string()),
        ("chains", sum("/chains")),
        ("rows", sum("/rows")),
        ("faults", faulty.to_string()),
    ]);
    let columns = ["/site", "/writer", "/seq", "/until", "/what", "/event"];
    let faults = sites.iter().flat_map(|site| items(site, "faults"));
    let rows: Vec<_> = faults.map(|fault| columns.map(|at| cell(fault, at)).to_vec()).collect();
    if !rows.is_empty() {
        text = format!("{text}\n\n{}", table(&["site", "writer", "from", "to", "what", "event"], rows, ""));
    }
    if !against_a_head {
        text.push_str(
            "\n\nAn end that was cut off is found against a head only: `valetkey audit head`, kept elsewhere, and --head FILE.",
        );
    }
    text
}

fn read_head(path: &Path) -> Result<Value> {
    let odd = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| odd(format!("it cannot be read: {error}")))?.len();
    if size > LARGEST_HEAD {
        return Err(odd(format!("it is larger than {LARGEST_HEAD} bytes")));
    }
    let text = std::fs::read(path).map_err(|error| odd(format!("it cannot be read: {error}")))?;
    serde_json::from_slice(&text).map_err(|_| odd("it is no JSON; a head comes from `valetkey audit head`".to_owned()))
}
