//! `valetkey provider try`: definitions against a lab that plays their provider, with everything that may go wrong there.
//!
//! What passes is *lab-conformant*: our engine can carry the definition out, and survives the misbehaviour. Whether the
//! provider's facts are right (its addresses, its parameters, its errors) only the provider can tell: the lab plays what the
//! definition says.
//!
//! Where there was nothing to check at all, it is *untried*, which is no pass: what opens a mailbox, for one. The command fails where
//! something is red, and where all that it was asked about is untried.
//!
//! Each definition gets a lab, a broker with a fresh folder, and a browser of its own (`stage`); several are tried at once.
//! Nothing leaves this machine, and no data folder is looked at.

mod checks;
mod entries;
mod pieces;
mod plan;
mod stage;
mod tree;

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use futures_util::{StreamExt as _, stream as streams};
use serde_json::{Value, json};
use valetkey::{Code, Error, connect, provider::Definition};

use self::{
    checks::CHECKS,
    plan::NoPlan,
    stage::{Library, NoStage, Stage},
};
use super::Session;
use crate::{
    failure::{Failure, Result},
    output::{cell, items, plain, table},
};

/// How many definitions are tried at once. They wait for the lab most of the time.
const AT_ONCE: usize = 12;

/// Which definitions to try.
#[derive(Args, Debug)]
pub(crate) struct Try {
    /// Definition files, or names of definitions that are known
    #[arg(value_name = "FILE|NAME", required_unless_present = "all")]
    which: Vec<String>,
    /// Every definition that is known
    #[arg(long, conflicts_with = "which")]
    all: bool,
}

/// What came of one check.
#[derive(Clone, Debug)]
enum Cell {
    /// As it should be.
    Ok,
    /// There is nothing to check, for this reason.
    NotApplicable(String),
    /// This build cannot do it, for this reason.
    NotBuilt(String),
    /// This went wrong.
    Red(String),
}

impl Cell {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotApplicable(_) => "not_applicable",
            Self::NotBuilt(_) => "not_built",
            Self::Red(_) => "red",
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::NotApplicable(why) | Self::NotBuilt(why) | Self::Red(why) => Some(why),
        }
    }
}

impl Try {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let settings = &session.settings;
        let is_file = |which: &&String| which.ends_with(".toml") || which.contains('/');
        let files: Vec<PathBuf> = self.which.iter().filter(is_file).map(PathBuf::from).collect();
        let library = Library { folder: settings.providers.clone(), files, trust: settings.trust };
        let catalogue = library.catalogue().map_err(|problems| Failure::usage(problems.trim_end()))?;
        let mut chosen: Vec<Arc<Definition>> = Vec::new();
        if self.all {
            chosen.extend(catalogue.iter().cloned());
        }
        for which in &self.which {
            let name = match is_file(&which) {
                true => PathBuf::from(which).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
                false => which.clone(),
            };
            let found = catalogue.get(&name.parse()?);
            chosen.push(found.cloned().ok_or_else(|| {
                Error::new(
                    Code::NotFound,
                    format!("there is no provider `{name}`; `valetkey provider list` shows those there are"),
                )
            })?);
        }
        let trials = chosen.into_iter().map(|definition| {
            let library = library.clone();
            // A task each: they share the cores.
            async move {
                let named = definition.clone();
                let cells = tokio::spawn(async move { tried(&definition, &library).await }).await;
                let cells = cells.unwrap_or_else(|error| all(&Cell::Red(format!("the trial broke off: {error}"))));
                report(&named, &cells)
            }
        });
        let providers: Vec<Value> = streams::iter(trials).buffered(AT_ONCE).collect().await;
        let verdicts = || providers.iter().map(|provider| provider.get("conformant").and_then(Value::as_bool));
        let failed = verdicts().any(|verdict| verdict == Some(false));
        let (is_whole, is_nothing) = (verdicts().all(|verdict| verdict.is_some()), verdicts().all(|verdict| verdict.is_none()));
        let conformant = (failed || is_whole).then_some(!failed);
        let alone = providers.len() == 1;
        let answer = json!({ "word": word(conformant), "conformant": conformant, "providers": providers });
        session.out.show(&answer, |answer| if alone { one(answer) } else { several(answer) })?;
        if failed || is_nothing { Err(Failure::silent()) } else { Ok(()) }
    }
}

/// Every check with the same outcome.
fn all(cell: &Cell) -> Vec<Cell> {
    CHECKS.iter().map(|_| cell.clone()).collect()
}

async fn tried(definition: &Arc<Definition>, library: &Library) -> Vec<Cell> {
    if let Err(error) = connect::is_connectable(definition) {
        return all(&Cell::NotBuilt(error.message().to_owned()));
    }
    match Stage::set(definition, library).await {
        Ok(mut stage) => {
            let cells = checks::run(&mut stage).await;
            stage.strike().await;
            cells
        }
        Err(NoStage::Plan(NoPlan::NotForTheLab(why))) => all(&Cell::NotApplicable(why)),
        Err(NoStage::Plan(NoPlan::Wrong(what)) | NoStage::Broken(what)) => all(&Cell::Red(what)),
    }
}

/// What became of a trial: passed, failed, or nothing where no check could be made.
fn conformant(cells: &[Cell]) -> Option<bool> {
    if cells.iter().any(|cell| matches!(cell, Cell::Red(_))) {
        return Some(false);
    }
    cells.iter().any(|cell| matches!(cell, Cell::Ok)).then_some(true)
}

/// The word for that.
fn word(conformant: Option<bool>) -> &'static str {
    match conformant {
        Some(true) => "lab-conformant",
        Some(false) => "not lab-conformant",
        None => "untried",
    }
}

fn report(definition: &Definition, cells: &[Cell]) -> Value {
    let checks = CHECKS
        .iter()
        .zip(cells)
        .map(|((name, title), cell)| json!({ "check": name, "title": title, "result": cell.word(), "why": cell.why() }));
    json!({
        "name": definition.name,
        "title": definition.title,
        "kind": definition.kind.to_string(),
        "word": word(conformant(cells)),
        "conformant": conformant(cells),
        "checks": checks.collect::<Vec<_>>(),
    })
}

const MEANING: &str = "Lab-conformant: our engine carries the definition out and survives the misbehaviour. The lab plays what \
                       the definition says; whether the provider's facts are right, only the provider can tell.";

const UNTRIED: &str = "Untried: of what is called so not one check could be made here, so nothing is known of it. Nothing that was tried \
                       went wrong.";

fn one(answer: &Value) -> String {
    let Some(provider) = items(answer, "providers").first() else { return "nothing was tried".to_owned() };
    let row = |check: &Value| vec![cell(check, "/title"), in_words(check), cell(check, "/why")];
    let rows = items(provider, "checks").iter().map(row).collect();
    format!(
        "{} ({})\n\n{}\n\n{}",
        plain(&cell(provider, "/title")),
        cell(provider, "/name"),
        table(&["check", "result", "why"], rows, ""),
        verdict(answer)
    )
}

fn several(answer: &Value) -> String {
    let count = |provider: &Value, result: &str| {
        items(provider, "checks").iter().filter(|check| cell(check, "/result") == result).count().to_string()
    };
    let providers = items(answer, "providers");
    let row = |provider: &Value| {
        let counts = ["ok", "not_applicable", "not_built", "red"].map(|result| count(provider, result));
        [vec![cell(provider, "/name"), cell(provider, "/kind"), cell(provider, "/word")], counts.to_vec()].concat()
    };
    let mut text = table(
        &["name", "kind", "verdict", "ok", "not applicable", "not built", "red"],
        providers.iter().map(row).collect(),
        "there is no provider",
    );
    for provider in providers {
        for check in items(provider, "checks").iter().filter(|check| cell(check, "/result") == "red") {
            text.push_str(&format!("\n{}: {}: {}", cell(provider, "/name"), cell(check, "/title"), plain(&cell(check, "/why"))));
        }
    }
    format!("{text}\n\n{}", verdict(answer))
}

fn in_words(check: &Value) -> String {
    cell(check, "/result").replace('_', " ")
}

fn verdict(answer: &Value) -> String {
    let all_built = items(answer, "providers")
        .iter()
        .all(|provider| items(provider, "checks").iter().all(|check| cell(check, "/result") != "not_built"));
    match (answer.get("conformant").and_then(Value::as_bool), all_built) {
        (Some(true), true) => MEANING.to_owned(),
        (Some(true), false) => "Not all of it is built, and what is built went well.".to_owned(),
        (Some(false), _) => "Not lab-conformant: red says what happened.".to_owned(),
        (None, _) => UNTRIED.to_owned(),
    }
}
