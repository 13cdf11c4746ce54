//! `valetkey import`: moving in. Files are read here, with the rights of whoever runs the command; what was read goes to the
//! broker as items, and the broker writes them in one transaction.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use axum::body::Body;
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use valetkey::import::{
    data_machine::{
        dump::{self, Choice, Dump},
        envelope::Key,
        option,
        plan::{Findings, Skipped, Source},
        salts::{Part, Salts},
        tables::Tables,
        wp_config::WpConfig,
    },
    item::{Header, Line, OnConflict},
};
use zeroize::Zeroize as _;

use super::{
    Session,
    wordpress::{self, InDatabase, SaltArgs},
};
use crate::{
    failure::{Failure, Result},
    output::{cell, facts, items, table},
};

/// How much of a source is sent at once, in bytes.
const PIECE: usize = 64 * 1024;
/// How many pieces are on their way.
const PIECES: usize = 8;
/// How many lines are written out together, and how many such handfuls wait for it.
const HANDFUL: usize = 128;
const HANDFULS: usize = 2;

/// Move in from another system.
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// From Data Machine: accounts, configurations, agents, their tokens and roles, lent mailboxes. One transaction: all of it
    /// or nothing. Running it again changes nothing
    DataMachine(DataMachine),
}

/// What to read, and how to move in.
#[derive(Args, Debug)]
pub(crate) struct DataMachine {
    /// The value of the option datamachine_auth_data, PHP-serialized or JSON; - is standard input, as in
    /// `wp option get datamachine_auth_data --format=json | valetkey import data-machine --auth-data -`
    #[arg(long, value_name = "FILE")]
    auth_data: Option<PathBuf>,
    /// A dump of the database by mysqldump or mariadb-dump, plain, .gz or .zst; - is standard input. Brings agents, tokens and
    /// roles too. With --auth-data, accounts come from there
    #[arg(long, value_name = "FILE")]
    sql_dump: Option<PathBuf>,
    /// What the dump's tables begin with, where it holds more than one WordPress; else --wp-config says it
    #[arg(long, value_name = "PREFIX", requires = "sql_dump")]
    table_prefix: Option<String>,
    /// The number of the network, where the dump holds several
    #[arg(long, value_name = "NUMBER", requires = "sql_dump")]
    network: Option<u64>,
    #[command(flatten)]
    salts: SaltArgs,
    /// Say what would happen, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// What becomes of something that is here already and is another
    #[arg(long, value_enum, default_value_t = Conflicts::Fail)]
    on_conflict: Conflicts,
    /// Vouch that every account belongs to whom it is stored for; without this, agents wait until each is confirmed
    #[arg(long)]
    trust_identities: bool,
    /// Import the rest where something sealed cannot be opened; those accounts must be connected again
    #[arg(long)]
    allow_unreadable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Conflicts {
    /// What is here stays
    Skip,
    /// What comes takes its place
    Replace,
    /// The whole import is refused
    Fail,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::DataMachine(import) => import.run(session).await,
        }
    }
}

/// How reading the source ended.
struct Read {
    findings: Findings,
    /// Where each salt came from.
    salts: Map<String, Value>,
    /// Why there are none.
    without_salts: Option<String>,
    /// Whether the broker wanted no more of it.
    stopped: bool,
}

type Pieces = mpsc::Sender<Result<Bytes, std::io::Error>>;

impl DataMachine {
    async fn run(self, session: &Session) -> Result<()> {
        let (allowed, dry_run, conflicts) = (self.allow_unreadable, self.dry_run, self.on_conflict);
        let with_dump = self.sql_dump.is_some();
        let bar = progress(session);
        let counted = bar.clone();
        let (pieces, mut reader) = mpsc::channel(PIECES);
        let reading = tokio::task::spawn_blocking(move || {
            let outcome = self.read(&pieces, &counted);
            if !matches!(&outcome, Ok(read) if self.sends_end(read)) {
                // So that the broker does not take what it has for the whole.
                let _ = pieces.blocking_send(Err(std::io::Error::other("the source has no end")));
            }
            outcome
        });
        // Nothing is asked of the broker before there is something to bring.
        let sent = match reader.recv().await {
            Some(Ok(first)) => {
                let body = body(first, reader);
                session.with(async |client| client.send_lines("/v1/imports/data-machine", body).await).await
            }
            _ => Ok(Value::Null),
        };
        let read = reading.await.map_err(|error| Failure::failed("reading the source failed").with_detail(error))?;
        bar.finish_and_clear();
        // What is wrong with the source explains what the broker then says.
        let read = read?;
        let unreadable = read.findings.unreadable.len();
        let refused = unreadable > 0 && !allowed;
        let report = match sent {
            Err(failure) if read.stopped || !refused => return Err(failure),
            Err(_) => Value::Null,
            Ok(report) => report,
        };
        let source = serde_json::to_value(&read.findings).unwrap_or_default();
        let written = !dry_run && report.is_object();
        let answer =
            json!({ "written": written, "report": report, "source": source, "salts": read.salts, "sql_dump": with_dump });
        session.out.show(&answer, told)?;
        if refused {
            let why = match read.without_salts {
                Some(why) => format!("there are sealed values and no salts: {why}"),
                None => "they were sealed under other salts, or changed since".to_owned(),
            };
            return Err(Failure::failed(format!(
                "{unreadable} sealed values cannot be opened{}; {why}. Or say --allow-unreadable, and they are left out",
                if dry_run { "" } else { ", so nothing was written" }
            )));
        }
        let in_the_way = answer.pointer("/report/conflicts/count").and_then(Value::as_u64).unwrap_or(0);
        if dry_run && conflicts == Conflicts::Fail && in_the_way > 0 {
            let detail = format!("{in_the_way} things are here already and are others; say --on-conflict skip or replace");
            let document = json!({ "status": 409, "code": "conflict", "detail": detail });
            return Err(Failure::problem(http::StatusCode::CONFLICT, document));
        }
        Ok(())
    }

    /// Whether what was read is sent to its end, so that it counts.
    fn sends_end(&self, read: &Read) -> bool {
        self.dry_run || self.allow_unreadable || read.findings.unreadable.is_empty()
    }

    /// Reads the source, and sends it as lines.
    fn read(&self, pieces: &Pieces, bar: &ProgressBar) -> Result<Read> {
        if self.sql_dump.is_none() && self.auth_data.is_none() {
            return Err(Failure::usage("say what to import: --auth-data FILE, --sql-dump FILE, or both"));
        }
        let config = self.salts.config()?;
        let dump = self.sql_dump.as_deref().map(|path| self.dump(path, config.as_ref())).transpose()?;
        let file = self.auth_data.as_deref().map(wordpress::whole).transpose()?;
        let dump = dump.as_ref();
        let read =
            |bytes, what: &str| option::read(bytes).map_err(|why| Failure::failed(format!("{what} cannot be read: {why}")));
        let in_dump = dump.and_then(|dump| dump.auth_data.as_ref());
        let auth_data = match (&file, in_dump) {
            (Some(bytes), _) => Some(read(bytes.as_slice(), "the value of datamachine_auth_data")?),
            (None, Some(bytes)) => Some(read(bytes.expose(), "the dump's option datamachine_auth_data")?),
            (None, None) => None,
        };
        let peers = dump.and_then(|dump| dump.external_tokens.as_ref());
        let external_tokens =
            peers.map(|bytes| read(bytes.expose(), "the dump's option datamachine_external_tokens")).transpose()?;
        let source = Source {
            auth_data: auth_data.as_ref(),
            external_tokens: external_tokens.as_ref(),
            tables: dump.map(|dump| Tables {
                agents: dump.agents.as_deref().unwrap_or_default(),
                tokens: dump.tokens.as_deref().unwrap_or_default(),
                access: dump.access.as_deref().unwrap_or_default(),
                principals: dump.principal_access.as_deref().unwrap_or_default(),
                users: dump.users.as_ref(),
            }),
        };
        let database =
            InDatabase { key: dump.and_then(|dump| dump.auth_key.as_ref()), salt: dump.and_then(|dump| dump.auth_salt.as_ref()) };
        let salts = self.salts.compose(config.as_ref(), &database)?;
        let mut sent = self.send(&source, salts.map_err(|missing| wordpress::told(&missing)), pieces, bar)?;
        let unused = dump.map_or(&[][..], |dump| dump.unused.as_slice());
        let reason = "another site's, or where Data Machine does not read it";
        sent.findings.skipped.extend(unused.iter().map(|what| Skipped { path: what.clone(), reason: reason.to_owned() }));
        Ok(sent)
    }

    fn dump(&self, path: &Path, config: Option<&WpConfig>) -> Result<Dump> {
        let likely_prefix = config.and_then(wordpress::table_prefix);
        let choice = Choice { table_prefix: self.table_prefix.clone(), likely_prefix, network: self.network };
        let read = if path == Path::new("-") {
            dump::read(std::io::stdin().lock(), &choice)
        } else {
            let file = std::fs::File::open(path);
            let file = file.map_err(|error| Failure::failed(format!("{} cannot be read", path.display())).with_detail(error))?;
            dump::read(file, &choice)
        };
        read.map_err(|why| Failure::failed(format!("{}: {why}", path.display())))
    }

    fn send(&self, source: &Source<'_, '_>, salts: Result<Salts, String>, pieces: &Pieces, bar: &ProgressBar) -> Result<Read> {
        let header = Header {
            dry_run: self.dry_run,
            on_conflict: match self.on_conflict {
                Conflicts::Skip => OnConflict::Skip,
                Conflicts::Replace => OnConflict::Replace,
                Conflicts::Fail => OnConflict::Fail,
            },
            trust_identities: self.trust_identities,
            providers: source.providers(),
        };
        bar.set_length(source.count());
        let key = match &salts {
            Ok(salts) => Some(Key::derive(salts)?),
            Err(_) => None,
        };
        let from = |salts: &Salts, part: Part| (part.constant().to_owned(), json!(salts.origin(part).to_string()));
        let mut read = Read {
            findings: Findings::default(),
            salts: salts.iter().flat_map(|salts| [from(salts, Part::Key), from(salts, Part::Salt)]).collect(),
            without_salts: salts.err(),
            stopped: false,
        };
        let (mut lines, given) = Lines::new();
        thread::scope(|scope| {
            let written = scope.spawn(|| write(&header, given, pieces));
            let outcome = source.plan(key.as_ref(), &mut |line| {
                bar.inc(1);
                if lines.add(line) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            match outcome {
                Ok(findings) => read.findings = findings,
                Err(_) => read.stopped = true,
            }
            if !read.stopped && self.sends_end(&read) {
                let (items, unreadable) = (read.findings.items, read.findings.unreadable.len() as u64);
                lines.add(Line::End { items, unreadable });
                lines.hand_on();
            }
            drop(lines);
            read.stopped |= !written.join().unwrap_or(false);
        });
        Ok(read)
    }
}

/// Lines on their way to where they are written out, which goes on while the next are read.
struct Lines {
    some: Vec<Line>,
    to: SyncSender<Vec<Line>>,
}

impl Lines {
    fn new() -> (Self, Receiver<Vec<Line>>) {
        let (to, given) = sync_channel(HANDFULS);
        (Self { some: Vec::with_capacity(HANDFUL), to }, given)
    }

    /// False when nobody wants more of them.
    fn add(&mut self, line: Line) -> bool {
        self.some.push(line);
        self.some.len() < HANDFUL || self.hand_on()
    }

    fn hand_on(&mut self) -> bool {
        self.to.send(std::mem::replace(&mut self.some, Vec::with_capacity(HANDFUL))).is_ok()
    }
}

/// Writes out what is given, and sends it a piece at a time, the last with the end. False when nobody wants more of it.
fn write(header: &Header, given: Receiver<Vec<Line>>, pieces: &Pieces) -> bool {
    let mut out = Out { buffer: Vec::with_capacity(PIECE + PIECE / 2), pieces };
    let mut going = out.add(header);
    for line in given.into_iter().flatten() {
        going = going && out.add(&line);
        if !going || matches!(line, Line::End { .. }) {
            return going && out.flush();
        }
    }
    going
}

/// What is written out and not sent yet.
struct Out<'p> {
    buffer: Vec<u8>,
    pieces: &'p Pieces,
}

impl Out<'_> {
    /// False when nobody wants more.
    fn add(&mut self, line: &impl serde::Serialize) -> bool {
        // Writing into memory does not fail, and these are plain values.
        if serde_json::to_writer(&mut self.buffer, line).is_err() {
            return false;
        }
        self.buffer.push(b'\n');
        self.buffer.len() < PIECE || self.flush()
    }

    fn flush(&mut self) -> bool {
        let piece = Bytes::copy_from_slice(&self.buffer);
        self.buffer.zeroize();
        self.pieces.blocking_send(Ok(piece)).is_ok()
    }
}

fn body(first: Bytes, reader: mpsc::Receiver<Result<Bytes, std::io::Error>>) -> Body {
    let rest = futures_util::stream::unfold((Some(first), reader), |(first, mut reader)| async move {
        match first {
            Some(first) => Some((Ok(first), (None, reader))),
            None => reader.recv().await.map(|piece| (piece, (None, reader))),
        }
    });
    Body::from_stream(rest)
}

fn progress(session: &Session) -> ProgressBar {
    let bar = if session.out.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message("importing");
    bar
}

/// The report for people.
fn told(answer: &Value) -> String {
    let mut parts = Vec::new();
    let count = |at: &str| answer.pointer(at).and_then(Value::as_array).map_or(0, Vec::len);
    if let Some(counts) = answer.pointer("/report/counts").and_then(Value::as_object) {
        let columns = ["/created", "/unchanged", "/replaced", "/skipped"];
        let rows = counts.iter().filter(|(kind, _)| *kind != "nothing");
        let rows = rows.map(|(kind, counts)| {
            let mut row = vec![kind.replace('_', " ")];
            row.extend(columns.map(|at| cell(counts, at)));
            row
        });
        parts.push(table(&["kind", "new", "as before", "replaced", "left out"], rows.collect(), "there was nothing to import"));
    }
    let salts = answer.get("salts").and_then(Value::as_object).cloned().unwrap_or_default();
    let salts: Vec<String> = salts.values().filter_map(Value::as_str).map(str::to_owned).collect();
    let written = match (answer["written"].as_bool(), answer.pointer("/report/dry_run").and_then(Value::as_bool)) {
        (Some(true), _) => "yes, in one transaction",
        (_, Some(true)) => "no, this was a dry run",
        _ => "no",
    };
    parts.push(facts(&[
        ("written", written.to_owned()),
        ("salts", salts.join(", ")),
        ("accounts to confirm", nonzero(answer, "/report/unverified")),
        ("conflicts", nonzero(answer, "/report/conflicts/count")),
    ]));
    let list = |heading: &str, rows: &[Value], columns: &[(&str, &str)]| {
        if rows.is_empty() {
            return None;
        }
        let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
        let row = |one: &Value| columns.iter().map(|(_, at)| cell(one, at)).collect();
        Some(format!("{heading}\n{}", table(&heads, rows.iter().map(row).collect(), "")))
    };
    // These lists have an end. What is beyond it is counted and nowhere else, not in the JSON either.
    let first = |heading: &str, of: &str, columns: &[(&str, &str)]| {
        let rows = items(&answer["report"][of], "rows");
        let told = list(heading, rows, columns)?;
        let all = answer["report"][of]["count"].as_u64().unwrap_or(0);
        Some(match all.saturating_sub(rows.len() as u64) {
            0 => told,
            more => format!("{told}\nand {more} more, which are not listed"),
        })
    };
    let member = [("provider", "/provider"), ("owner", "/owner"), ("part", "/part"), ("field", "/field"), ("why", "/reason")];
    parts.extend(list(
        "These sealed values cannot be opened, and are not stored:",
        items(&answer["source"], "unreadable"),
        &member,
    ));
    parts.extend(list(
        "These were opened; Data Machine handed them out sealed:",
        items(&answer["source"], "opened_beyond"),
        &member[..4],
    ));
    parts.extend(list("Not brought over:", items(&answer["source"], "skipped"), &[("what", "/path"), ("why", "/reason")]));
    parts.extend(first("Left out:", "left_out", &[("what", "/item"), ("why", "/why")]));
    parts.extend(first("In the way:", "conflicts", &[("what", "/item"), ("there is", "/why")]));
    parts.extend(list("Called otherwise here:", items(&answer["source"], "renamed"), &[("there", "/path"), ("here", "/name")]));
    let to_grant =
        [("connection", "/connection"), ("provider", "/provider"), ("owner", "/owner"), ("name", "/name"), ("agents", "/agents")];
    // A dry run gives new accounts ids, which are gone with it.
    let to_grant_says = match answer.pointer("/report/dry_run").and_then(Value::as_bool) {
        Some(true) => {
            "Agents could use these before because nobody asked; once imported, each needs a grant (`valetkey grant create`). What is \
             new gets another id by the import itself:"
        }
        _ => "Agents could use these before because nobody asked; now each needs a grant (`valetkey grant create`):",
    };
    parts.extend(first(to_grant_says, "to_grant", &to_grant));
    if let Some(unknown) = answer.pointer("/report/without_definition").and_then(Value::as_object).filter(|map| !map.is_empty()) {
        let rows = unknown.iter().map(|(provider, accounts)| vec![provider.clone(), accounts.to_string()]).collect();
        let heading = "There is no definition of these providers; their accounts can be read here, and not used:";
        parts.push(format!("{heading}\n{}", table(&["provider", "accounts"], rows, "")));
    }
    if count("/report/agents_missing") > 0 {
        let agents = cell(answer, "/report/agents_missing");
        let what = match answer["sql_dump"].as_bool() {
            Some(true) => "Accounts name agents that are neither in the dump nor here; they are gone at the source, too",
            _ => "Accounts name agents that are not here; import the SQL dump too",
        };
        parts.push(format!("{what}: {agents}"));
    }
    parts.join("\n\n")
}

fn nonzero(answer: &Value, at: &str) -> String {
    answer.pointer(at).and_then(Value::as_u64).filter(|count| *count > 0).map(|count| count.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_cut_says_how_many_more_there_are() {
        let left_out = json!({ "count": 1001, "rows": [{ "item": "role/7/42", "why": "there is no agent 7" }] });
        let conflicts = json!({ "count": 1002, "rows": [{ "item": "account/reddit/site/", "why": "another account" }] });
        let to_grant = json!({ "count": 1003, "rows": [{ "provider": "github", "owner": "site", "agents": ["7"] }] });
        let told = told(&json!({ "report": { "left_out": left_out, "conflicts": conflicts, "to_grant": to_grant } }));
        for (row, more) in [("role/7/42", 1000), ("account/reddit/site/", 1001), ("github", 1002)] {
            let after = told.split_once(row).unwrap().1;
            assert_eq!(after.lines().nth(1), Some(&*format!("and {more} more, which are not listed")), "{told}");
        }
    }

    #[test]
    fn a_list_that_is_whole_says_nothing_of_more() {
        let whole = json!({ "count": 1, "rows": [{ "item": "role/7/42", "why": "there is no agent 7" }] });
        let told = told(&json!({ "report": { "left_out": whole, "conflicts": { "count": 0, "rows": [] } } }));
        assert!(told.contains("role/7/42") && !told.contains("more") && !told.contains("In the way"), "{told}");
    }

    #[test]
    fn providers_without_a_definition_are_told_with_how_many_accounts_they_have() {
        let told = told(&json!({ "report": { "without_definition": { "newsletter": 3 } } }));
        assert!(told.contains("There is no definition of these providers") && told.ends_with("newsletter  3"), "{told}");
        let none = super::told(&json!({ "report": { "without_definition": {} } }));
        assert!(!none.contains("There is no definition"), "{none}");
    }
}
