//! Logs: structured lines on stderr, as text or as JSON. stdout is for results.

use std::{io::IsTerminal as _, str::FromStr};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, filter::Directive, fmt};

use crate::{
    failure::{Failure, Result},
    settings::Global,
};

/// What to log.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel(String);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        EnvFilter::builder().parse(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object in a line, for machines.
    Json,
}

/// The most that is logged of the MCP SDK.
const SDK: &str = "rmcp=warn";

/// Starts logging. `usual` is the level where none is given.
pub(crate) fn start(global: &Global, usual: &str, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let level = match &global.log {
        Some(level) => level.0.clone(),
        None => variable("VALETKEY_LOG").unwrap_or_else(|| usual.to_owned()),
    };
    let filter = EnvFilter::builder().parse(&level).map_err(|error| Failure::usage(format!("VALETKEY_LOG: {error}")))?;
    // The MCP SDK logs whole messages: what agents send to providers, and what these answer.
    let filter = match SDK.parse::<Directive>() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => return Err(Failure::failed("the log's own filter cannot be read")),
    };
    let format = match (global.log_format, variable("VALETKEY_LOG_FORMAT")) {
        (Some(format), _) => format,
        (None, Some(text)) => LogFormat::from_str(&text, false)
            .map_err(|_| Failure::usage(format!("VALETKEY_LOG_FORMAT is text or json, not `{text}`")))?,
        (None, None) => LogFormat::default(),
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::failed("logging could not be started").with_detail(error))
}
