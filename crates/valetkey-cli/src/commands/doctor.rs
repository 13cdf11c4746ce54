//! `valetkey doctor`: looks at everything that has to be right, and says what to do where it is not.
//!
//! 1. What lies on the disk: the data folder, the root key, the definitions.
//! 2. What the broker says of itself: the server that runs on the data folder, or one opened here for a moment. Opening it
//!    brings the database's schema up to date, as every start does.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use clap::Args;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;
use valetkey::provider::{Catalogue, Source};

use super::Session;
use crate::{
    client::Client,
    failure::{Failure, Result},
    opened::DATABASE,
    output::{cell, items, plain},
    settings::{Place, is_loopback},
};

/// How far PostgreSQL's clock may be from ours, in milliseconds. Tokens are given ends by the one and refused by the other
/// only where replicas differ; assertions allow five seconds.
const CLOCK_SKEW: u64 = 2000;

/// Nothing to choose.
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it has to be.
    Ok,
    /// Good to know.
    Note,
    /// It must be put right.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// What to do; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, state: State::Ok, found: found.into(), todo: None }
    }

    fn note(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { what, state: State::Note, found: found.into(), todo: Some(todo.into()) }
    }

    fn problem(what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { what, state: State::Problem, found: found.into(), todo: Some(todo.into()) }
    }
}

impl Doctor {
    /// Prints what was found; the exit code is 1 where something must be put right.
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let mut findings = Vec::new();
        let exists = data(session, &mut findings);
        findings.push(root_key(session, exists));
        findings.push(definitions(session));
        if exists {
            broker(session, &mut findings).await;
        }
        let fine = findings.iter().all(|finding| finding.state != State::Problem);
        session.out.show(&json!({ "ok": fine, "findings": findings }), |_| shown(&findings))?;
        if fine { Ok(()) } else { Err(Failure::silent()) }
    }
}

/// The place of the data. Says whether there is a database to open.
fn data(session: &Session, findings: &mut Vec<Finding>) -> bool {
    let dir = match &session.settings.place {
        Place::Postgres(_) => {
            findings.push(Finding::ok("data", "PostgreSQL"));
            return true;
        }
        Place::Folder(dir) => dir,
    };
    let shown = dir.display();
    if !dir.join(DATABASE).exists() {
        let todo = format!("`valetkey serve --data {shown}` makes it; or name another folder with --data");
        findings.push(Finding::problem("data", format!("there is no database in {shown}"), todo));
        return false;
    }
    findings.push(match open_to_others(dir) {
        Ok(None) => Finding::ok("data", format!("SQLite in {shown}, which only its owner may enter")),
        Ok(Some(mode)) => Finding::problem(
            "data",
            format!("others may enter the data folder {shown} (mode {mode:o})"),
            format!("chmod 700 {shown}"),
        ),
        Err(error) => Finding::problem("data", format!("{shown} cannot be looked at: {error}"), "run this as its owner"),
    });
    true
}

/// The mode of a folder that others may enter or that belongs to somebody else.
fn open_to_others(dir: &Path) -> std::io::Result<Option<u32>> {
    let about = fs::metadata(dir)?;
    let mode = about.permissions().mode() & 0o777;
    let ours = about.uid() == rustix::process::geteuid().as_raw();
    Ok((mode & 0o077 != 0 || !ours).then_some(mode))
}

fn root_key(session: &Session, database: bool) -> Finding {
    const WHAT: &str = "root key";
    let source = match &session.settings.root {
        Ok(source) => source,
        Err(error) => return Finding::problem(WHAT, error.message(), "`valetkey keys generate --file FILE` makes one"),
    };
    match source.load() {
        Ok(Some(keys)) => {
            let ids: Vec<&str> = keys.ids().map(|id| id.as_str()).collect();
            Finding::ok(WHAT, format!("{source} holds {}; keep a copy apart from the database's backups", ids.join(", ")))
        }
        Ok(None) if database => {
            Finding::problem(WHAT, format!("{source} does not exist"), "put it back from where its copy is kept")
        }
        Ok(None) => Finding::note(WHAT, format!("{source} does not exist yet"), "the first start makes it"),
        // The message says what to do.
        Err(error) => Finding::problem(WHAT, error.message(), "see there"),
    }
}

fn definitions(session: &Session) -> Finding {
    const WHAT: &str = "definitions";
    let settings = &session.settings;
    let catalogue = match (Catalogue::embedded(), &settings.providers) {
        (Err(error), _) => return Finding::problem(WHAT, error.message(), "report it, with what the log says"),
        (Ok(built_in), None) => return Finding::ok(WHAT, format!("{} built in", built_in.len())),
        (Ok(built_in), Some(folder)) => (built_in.len(), built_in.with_folder(folder, settings.trust), folder),
    };
    match catalogue {
        (built_in, Ok(all), folder) => {
            let own = all.iter().filter(|definition| definition.source != Source::Embedded).count();
            Finding::ok(WHAT, format!("{built_in} built in, {own} more or in place of them from {}", folder.display()))
        }
        (_, Err(problems), _) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Finding::problem(WHAT, lines.join("\n"), "correct them; `valetkey provider check FILE` looks again")
        }
    }
}

/// What the broker says of itself.
async fn broker(session: &Session, findings: &mut Vec<Finding>) {
    const WHAT: &str = "broker";
    let client = match Client::reach(&session.settings).await {
        Ok(client) => client,
        Err(failure) => {
            let said = failure.to_string();
            findings.push(Finding::problem(WHAT, said.trim_start_matches("error: ").trim(), "put that right first"));
            return;
        }
    };
    let who = match &session.settings.place {
        Place::Folder(dir) if !client.is_here() => valetkey::db::holder(dir).map(|holder| format!("{holder} serves")),
        _ => None,
    };
    match client.call(Method::GET, "/v1/status", None).await {
        Ok(status) => about(&status, who, client.is_here() && session.settings.public_url.is_none(), findings),
        Err(failure) => {
            findings.push(Finding::problem(WHAT, failure.to_string().trim(), "see the server's log"));
        }
    }
    client.close().await;
}

fn about(status: &Value, who: Option<String>, url_not_said: bool, findings: &mut Vec<Finding>) {
    let (database, schema) = (cell(status, "/database"), cell(status, "/schema"));
    let runs = who.unwrap_or_else(|| "it opens".to_owned());
    findings.push(Finding::ok("broker", format!("{runs}; {database}, schema {schema}, release {}", cell(status, "/version"))));
    findings.push(Finding::ok("keys", format!("root keys loaded: {}", cell(status, "/roots"))));
    findings.push(public_url(&cell(status, "/public_url"), url_not_said));
    findings.push(match items(status, "allow_private") {
        [] => Finding::ok("private addresses", "none may be spoken to"),
        list => Finding::note(
            "private addresses",
            format!("may be spoken to: {}", list.iter().map(crate::output::word).collect::<Vec<_>>().join(", ")),
            "--allow-private names them; take out what nobody needs",
        ),
    });
    if status.get("loopback_http") == Some(&Value::Bool(true)) {
        findings.push(Finding::note(
            "plain http",
            "definitions may name plain http on this machine",
            "that is for stand-in providers; leave --loopback-http out otherwise",
        ));
    }
    findings.extend(items(status, "ageing").iter().map(ageing));
    findings.extend(items(status, "webhooks").iter().map(webhook));
    findings.push(clock(status));
    findings.push(audit(status));
}

fn public_url(text: &str, not_said: bool) -> Finding {
    const WHAT: &str = "public URL";
    match Url::parse(text) {
        _ if not_said => Finding::note(
            WHAT,
            "not said to this command",
            "links need it: --public-url or VALETKEY_PUBLIC_URL, the same as the server's",
        ),
        Ok(url) if url.scheme() == "https" => Finding::ok(WHAT, text),
        Ok(url) if is_loopback(&url) => Finding::note(
            WHAT,
            format!("{text}, for this machine only"),
            "for others: TLS in front, and --public-url https://...",
        ),
        _ => Finding::problem(WHAT, format!("{text} is not https"), "TLS in front, and --public-url https://..."),
    }
}

/// A connection that will end because nothing renews it any further.
fn ageing(connection: &Value) -> Finding {
    let of = |at: &str| cell(connection, at);
    Finding::note(
        "connection",
        format!("the account of {} at {} ends of age on {}", of("/owner"), of("/provider"), of("/ends_at")),
        format!("`valetkey connection reconnect {}` makes a link to connect it again", of("/connection")),
    )
}

/// A webhook that takes nothing, or was disabled for that.
fn webhook(webhook: &Value) -> Finding {
    let of = |at: &str| cell(webhook, at);
    let id = of("/webhook");
    match of("/disabled_at").as_str() {
        "" => Finding::note(
            "webhook",
            format!("{id} of site {} has taken nothing since {}", of("/site"), of("/failing_since")),
            format!("`valetkey webhook deliveries {id}` shows what it answers"),
        ),
        since => Finding::note(
            "webhook",
            format!("{id} of site {} was disabled on {since}, because it took nothing", of("/site")),
            format!("mend it, then `valetkey webhook update {id} --enable` and `valetkey webhook replay {id} --since WHEN`"),
        ),
    }
}

fn clock(status: &Value) -> Finding {
    const WHAT: &str = "clock";
    let now = cell(status, "/now");
    match status.get("clock_offset_ms").and_then(Value::as_i64) {
        Some(offset) if offset.unsigned_abs() > CLOCK_SKEW => Finding::problem(
            WHAT,
            format!("{now} UTC, and PostgreSQL's machine is {offset} ms off"),
            "let both follow a time server (NTP): tokens and assertions end by the clock",
        ),
        Some(offset) => Finding::ok(WHAT, format!("{now} UTC, {offset} ms from PostgreSQL's")),
        None => Finding::ok(WHAT, format!("{now} UTC")),
    }
}

fn audit(status: &Value) -> Finding {
    const WHAT: &str = "audit";
    let number = |at: &str| status.pointer(at).and_then(Value::as_u64).unwrap_or(0);
    let (waiting, capacity) = (number("/audit/waiting"), number("/audit/capacity"));
    let found = format!("{}, {waiting} of at most {capacity} uses wait to be written", cell(status, "/audit/mode"));
    if waiting * 2 > capacity {
        Finding::problem(WHAT, found, "the database writes too slowly; when the queue is full, uses are refused")
    } else {
        Finding::ok(WHAT, found)
    }
}

fn shown(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match finding.state {
            State::Ok => "ok      ",
            State::Note => "note    ",
            State::Problem => "PROBLEM ",
        };
        let mut found = finding.found.lines();
        lines.push(format!("{mark} {}: {}", finding.what, plain(found.next().unwrap_or_default())));
        lines.extend(found.map(|line| format!("         {}", plain(line.trim()))));
        if let Some(todo) = &finding.todo {
            lines.push(format!("         -> {}", plain(todo)));
        }
    }
    lines.join("\n")
}
