//! `valetkey export`: moving out, in the formats that were moved in from.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use valetkey::import::{
    data_machine::{
        compose, php, sql,
        value::{self, NotPlain},
    },
    export::{Line, Loss},
};

use super::{Session, wordpress::SaltArgs};
use crate::{
    failure::{Failure, Result},
    output::{cell, facts, table},
    secrets,
};

/// Move out to another system.
#[derive(Debug, Subcommand)]
pub(crate) enum Export {
    /// To Data Machine: what `import data-machine` brought, as it is now, sealed with the site's salts. What the old format
    /// cannot hold is listed, and the exit code is 1 then
    DataMachine(DataMachine),
}

/// What to write, and how.
#[derive(Args, Debug)]
pub(crate) struct DataMachine {
    /// Write the value of the option datamachine_auth_data to this new file, readable by you alone; - is standard output
    #[arg(long, value_name = "FILE")]
    auth_data: PathBuf,
    /// How to write it: as PHP serializes it, which is what the database column holds, or as JSON, which cannot hold everything
    /// that PHP can, and is refused then
    #[arg(long, value_enum, default_value_t = Format::Php)]
    format: Format,
    /// Write agents, roles and tokens to this new file, as SQL to run on the site's database
    #[arg(long, value_name = "FILE")]
    sql: Option<PathBuf>,
    /// What the site's tables begin with; of a network, those of its main site
    #[arg(long, value_name = "PREFIX", default_value = "wp_")]
    table_prefix: String,
    /// Write the value of the option datamachine_external_tokens to this new file
    #[arg(long, value_name = "FILE")]
    external_tokens: Option<PathBuf>,
    #[command(flatten)]
    salts: SaltArgs,
    /// Write secrets unsealed; Data Machine reads them, and seals each when it is saved next
    #[arg(long, conflicts_with_all = ["wp_config", "auth_key_file", "auth_salt_file"])]
    plain: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// PHP's serialization
    Php,
    /// JSON
    Json,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::DataMachine(export) => export.run(session).await,
        }
    }
}

impl DataMachine {
    async fn run(self, session: &Session) -> Result<()> {
        // Before anything is asked for: without salts nothing could be written.
        let key = match (self.plain, self.salts.said()) {
            (true, _) => None,
            (false, true) => Some(self.salts.key()?),
            (false, false) => {
                return Err(Failure::usage("say what to seal with: --wp-config FILE or the salts, or --plain to seal nothing"));
            }
        };
        if !sql::is_prefix(&self.table_prefix) {
            return Err(Failure::usage("--table-prefix: letters, digits and underscores"));
        }
        let (mut all, mut losses, mut ended) = (Vec::new(), Vec::new(), false);
        session
            .with(async |client| {
                client
                    .stream(Method::POST, "/v1/exports/data-machine", Some(&json!({})), |line| {
                        if let Some(problem) = line.get("problem") {
                            return Err(Failure::problem(http::StatusCode::INTERNAL_SERVER_ERROR, problem.clone()));
                        }
                        let odd = |_| Failure::failed("a line of the export cannot be read");
                        match serde_json::from_value::<Line>(line).map_err(odd)? {
                            Line::Item { at, item } => all.push((at, item)),
                            Line::Loss(loss) => losses.push(loss),
                            Line::End { items } => ended = items == all.len() as u64,
                        }
                        Ok(())
                    })
                    .await
            })
            .await?;
        if !ended {
            return Err(Failure::unreachable("the export broke off; nothing was written"));
        }
        let count = all.len();
        let composed = compose::compose(all, key.as_ref())?;
        losses.extend(composed.losses);
        let option = match self.format {
            Format::Php => php::write(&composed.auth_data),
            Format::Json => json_of(&composed.auth_data)?,
        };
        write(&self.auth_data, &option)?;
        if let Some(path) = &self.external_tokens {
            write(path, &php::write(&composed.external_tokens))?;
        }
        if let Some(path) = &self.sql {
            let (text, lost) = sql::write(&self.table_prefix, &composed.tables);
            losses.extend(lost);
            write(path, text.as_bytes())?;
        }
        self.tell(session, count, &losses)?;
        if losses.is_empty() { Ok(()) } else { Err(Failure::silent()) }
    }

    fn tell(&self, session: &Session, count: usize, losses: &[Loss]) -> Result<()> {
        let answer = json!({ "items": count, "losses": losses });
        let human = |answer: &Value| {
            let rows = answer.get("losses").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let row = |one: &Value| vec![cell(one, "/what"), cell(one, "/why")];
            let lost = table(&["not written", "why"], rows.iter().map(row).collect(), "everything was written");
            format!("{}\n\n{lost}", facts(&[("items", cell(answer, "/items"))]))
        };
        // Standard output is the option then.
        if self.auth_data == Path::new("-") {
            session.out.note(&human(&answer));
            return Ok(());
        }
        session.out.show(&answer, human)
    }
}

/// The option as JSON, where JSON can hold all of it.
fn json_of(option: &php::Value<'_>) -> Result<Vec<u8>> {
    let mut text = String::new();
    value::write_plain(&mut text, option).map_err(|why| {
        Failure::failed(match why {
            NotPlain::TooDeep => "the option is nested too deeply for JSON; use --format php",
            NotPlain::NoForm => {
                "something in the option has no form in JSON (a text that is not UTF-8, an object, a float that is not finite); \
                 use --format php"
            }
        })
    })?;
    Ok(text.into_bytes())
}

/// Writes a new file that only we may read, to the end and onto the disk; or standard output.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return Ok(out.write_all(bytes).and_then(|()| out.flush())?);
    }
    let mut file = secrets::new_file(path)?;
    Ok(file.write_all(bytes).and_then(|()| file.sync_all())?)
}
