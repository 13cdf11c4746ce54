//! `valetkey reach` and `valetkey who-can`: what an agent may use, and who may use a connection, as `explain` would say it.

use clap::Args;
use serde_json::Value;

use super::Session;
use crate::{
    client::segment,
    failure::Result,
    output::{cell, items, table},
};

/// About which agent.
#[derive(Args, Debug)]
pub(crate) struct Reach {
    /// The agent's id or slug
    agent: String,
}

/// About which connection.
#[derive(Args, Debug)]
pub(crate) struct WhoCan {
    /// The connection's id
    connection: String,
}

impl Reach {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let path = format!("/v1/agents/{}/reach", segment(&self.agent)?);
        let columns = ["/connection", "/provider", "/owner", "/name"];
        let heads = ["connection", "at", "of", "name"];
        session.ask_all(&path, "ways", |answer| ways(answer, &heads, &columns, "the agent can use nothing")).await
    }
}

impl WhoCan {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let path = format!("/v1/connections/{}/who-can", segment(&self.connection)?);
        session.ask_all(&path, "ways", |answer| ways(answer, &["agent"], &["/agent"], "nobody can use the connection")).await
    }
}

/// The ways in an answer: what differs between them first, then for whom, and what becomes of each delivery.
fn ways(answer: &Value, heads: &[&str], columns: &[&str], none: &str) -> String {
    let heads: Vec<&str> = heads.iter().chain(&["acts for", "session", "task", "proxy", "reveal"]).copied().collect();
    let row = |way: &Value| {
        let person = cell(way, "/person");
        let person = if person.is_empty() { "nobody".to_owned() } else { person };
        let rest = ["/session", "/task", "/proxy", "/reveal"].map(|at| cell(way, at));
        columns.iter().map(|at| cell(way, at)).chain([person]).chain(rest).collect()
    };
    table(&heads, items(answer, "ways").iter().map(row).collect(), none)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_way_says_for_whom_and_what_becomes_of_it() {
        let way = json!({ "agent": "a", "person": null, "session": null, "task": "t1", "proxy": "ask", "reveal": "deny" });
        let shown = ways(&json!({ "ways": [way] }), &["agent"], &["/agent"], "nobody");
        let cells: Vec<&str> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(cells, ["a", "nobody", "-", "t1", "ask", "deny"]);
        assert!(ways(&json!({ "ways": [] }), &["agent"], &["/agent"], "nobody can").contains("nobody can"));
    }
}
