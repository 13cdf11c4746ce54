//! `valetkey audit`: what happened.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::Session;
use crate::{
    client::with_query,
    failure::Result,
    output::{cell, items, table},
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
}

impl Audit {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let Self::List { limit, before } = self;
        let path = with_query("/v1/audit", &[("limit", Some(&limit.to_string())), ("before", before.as_deref())]);
        session.ask(Method::GET, &path, None, list).await
    }
}

fn list(answer: &Value) -> String {
    let columns = ["/at", "/actor", "/action", "/outcome", "/agent", "/connection"];
    let row = |event: &Value| {
        let facts = event.get("facts").filter(|facts| facts.as_object().is_some_and(|facts| !facts.is_empty()));
        let mut row = columns.map(|at| cell(event, at)).to_vec();
        row.push(facts.map(Value::to_string).unwrap_or_default());
        row
    };
    let heads = ["at", "actor", "action", "outcome", "agent", "connection", "facts"];
    table(&heads, items(answer, "events").iter().map(row).collect(), "nothing happened yet")
}
