//! `valetkey explain`: whether an agent may do something with a connection, by the same function that enforces it.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    failure::{Failure, Result},
    output::{cell, items, plain},
};

/// What is asked.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The agent's id or slug, as if it held a fresh token without a ceiling
    #[arg(long, required_unless_present = "token")]
    agent: Option<String>,
    /// Instead, a token's id: with its own person, session, task and ceiling, and whether it is alive
    #[arg(long, value_name = "ID", conflicts_with_all = ["agent", "user", "session", "task"])]
    token: Option<String>,
    /// The connection's id
    #[arg(long)]
    connection: String,
    /// How the credential would reach its use
    #[arg(long, value_name = "HOW", default_value = "proxy", value_parser = ["proxy", "reveal"])]
    deliver: String,
    /// What would be called, such as 'GET /v1/me' or, at another of the connection's hosts, 'GET api.example.com/v1/me';
    /// without it, the question is a general one
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// The person who would be calling; without one, nobody
    #[arg(long)]
    user: Option<String>,
    /// In a call that gives the token's person up
    #[arg(long, requires = "token")]
    unattended: bool,
    /// The session that the agent's token would be for
    #[arg(long)]
    session: Option<String>,
    /// The task that it would be for
    #[arg(long)]
    task: Option<String>,
}

impl Explain {
    /// Prints the answer; the exit code is 1 when it is a no.
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let operation = self.operation.as_deref().map(operation).transpose()?;
        let body = json!({
            "agent": self.agent,
            "token": self.token,
            "connection": self.connection,
            "delivery": self.deliver,
            "operation": operation,
            "person": self.user,
            "unattended": self.unattended,
            "session": self.session,
            "task": self.task,
        });
        let answer = session.with(async |client| client.call(Method::POST, "/v1/explain", Some(&body)).await).await?;
        session.out.show(&answer, show)?;
        if cell(&answer, "/effect") == "allow" { Ok(()) } else { Err(Failure::silent()) }
    }
}

fn operation(text: &str) -> Result<Value> {
    let wrong = || Failure::usage("--operation: a method, a space, and a path with or without a host, such as 'GET /v1/me'");
    let (method, target) = text.split_once(' ').ok_or_else(wrong)?;
    let at = target.find('/').ok_or_else(wrong)?;
    let method: http::Method = method.parse().map_err(|_| wrong())?;
    let host = (at > 0).then(|| &target[..at]);
    Ok(json!({ "method": method.as_str(), "host": host, "path": &target[at..] }))
}

fn show(answer: &Value) -> String {
    let mut text = cell(answer, "/effect");
    for (name, at) in [("code", "/code"), ("grant", "/grant"), ("acts for", "/person")] {
        let value = cell(answer, at);
        if !value.is_empty() {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    for reason in items(answer, "reasons") {
        text.push_str(&format!("\n- {}", cell(reason, "/text")));
        let change = cell(reason, "/change");
        if !change.is_empty() {
            text.push_str(&format!("\n  to change it: {change}"));
        }
    }
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_method_a_host_and_a_path() {
        let read = operation("GET api.example.com:8443/v1/a%20b").unwrap();
        assert_eq!(read, json!({ "method": "GET", "host": "api.example.com:8443", "path": "/v1/a%20b" }));
        assert_eq!(operation("GET /v1/me").unwrap(), json!({ "method": "GET", "host": null, "path": "/v1/me" }));
        for text in ["", "GET", "api.example.com/v1", "G@T api.example.com/v1", "GET api.example.com"] {
            assert!(operation(text).is_err(), "{text:?}");
        }
    }
}
