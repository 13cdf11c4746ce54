//! `valetkey grant`: permissions of agents to use connections.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use valetkey::grant::Rate;

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::Result,
    moments::Until,
    output::{cell, facts, items, table},
};

/// Grants.
#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// Let an agent use a connection, have it ask first, or forbid it
    Create(Box<New>),
    /// List grants, the ended ones among them
    List {
        /// Only this agent's; its id or slug
        #[arg(long)]
        agent: Option<String>,
        /// Only those on this connection
        #[arg(long)]
        connection: Option<String>,
    },
    /// Take a grant back; no request that comes after this is served by it
    Revoke {
        /// The grant's id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

/// What is granted.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// The agent's id or slug
    #[arg(long)]
    agent: String,
    /// The connection's id
    #[arg(long)]
    connection: String,
    /// What it does: allow, ask (a person approves each use first), deny. One that asks or denies also holds back what
    /// other grants allow
    #[arg(long, default_value = "allow", value_parser = ["allow", "ask", "deny"])]
    effect: String,
    /// For whom the agent may use it: owner (the calling person is the connection's owner), unattended (no person is
    /// calling), operators (anyone with that role on the agent), users:ID,ID, or of a denial anyone
    #[arg(long = "for", value_name = "WHOM", value_parser = for_whom)]
    for_whom: Option<Value>,
    /// Only for tokens that were minted for this session
    #[arg(long)]
    session: Option<String>,
    /// Only for tokens that were minted for this task
    #[arg(long)]
    task: Option<String>,
    /// How: proxy (the broker makes the call), reveal (the access token is handed out); without it the proxy, and of a
    /// denial both
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = ["proxy", "reveal"])]
    deliver: Vec<String>,
    /// At most these scopes of the provider; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// Only these operations: a pattern such as 'GET /api/**' (`*` is one segment, `**` the rest), or a name that the
    /// provider's definition has, such as issue.create; may be repeated
    #[arg(long, value_name = "OPERATION")]
    operation: Vec<String>,
    #[command(flatten)]
    limits: Limits,
}

/// How often, until when, and why: of whatever is granted.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// How often at most in any stretch of time, such as 100/1h
    #[arg(long, value_name = "N/TIME", value_parser = rate)]
    rate: Option<Rate>,
    /// How often at most, in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    max_uses: Option<i64>,
    /// Until when: 90d, or a moment such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = Until::parse)]
    expires: Option<Until>,
    /// Why
    #[arg(long, default_value = "")]
    note: String,
}

impl Limits {
    /// Adds them to what is asked of the API.
    pub(super) fn add_to(self, mut body: Value, session: &Session) -> Value {
        body["rate"] = json!(self.rate);
        body["max_uses"] = json!(self.max_uses);
        body["expires_at"] = json!(self.expires.map(|until| until.from(session.clock.now())));
        body["note"] = json!(self.note);
        body
    }
}

impl Grant {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Create(new) => {
                let New { agent, connection, effect, for_whom, session: work, task, deliver, scope, operation, limits } = *new;
                let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
                let body = json!({
                    "agent": agent,
                    "connection": connection,
                    "effect": effect,
                    "for_whom": for_whom,
                    "session": work,
                    "task": task,
                    "delivery": deliver,
                    "scopes": some(scope),
                    "operations": some(operation),
                });
                let body = limits.add_to(body, session);
                session.ask(Method::POST, "/v1/grants", Some(&body), show).await
            }
            Self::List { agent, connection } => {
                let filter = [("agent", agent.as_deref()), ("connection", connection.as_deref())];
                session.ask_all(&with_query("/v1/grants", &filter), "grants", list).await
            }
            Self::Revoke { id, reason } => {
                let path = with_query(&format!("/v1/grants/{}", segment(&id)?), &[("reason", reason.as_deref())]);
                session.ask(Method::DELETE, &path, None, |_| format!("{id} is revoked")).await
            }
        }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse::<Rate>().map_err(|error| error.message().to_owned())
}

pub(super) fn for_whom(text: &str) -> Result<Value, String> {
    match (text, text.strip_prefix("users:")) {
        ("owner" | "unattended" | "operators" | "anyone", _) => Ok(text.into()),
        (_, Some(list)) if !list.is_empty() => Ok(list.split(',').map(str::trim).collect()),
        _ => Err(format!("`{text}` is not one of owner, unattended, operators, anyone, users:ID,ID")),
    }
}

fn list(answer: &Value) -> String {
    let columns =
        ["/id", "/agent", "/connection", "/effect", "/for_whom", "/delivery", "/operations", "/expires_at", "/revoked_at"];
    let row = |grant: &Value| columns.map(|at| cell(grant, at)).to_vec();
    let heads = ["id", "agent", "connection", "effect", "for", "delivery", "operations", "until", "revoked"];
    table(&heads, items(answer, "grants").iter().map(row).collect(), "nothing is granted")
}

pub(super) fn show(grant: &Value) -> String {
    facts(&[
        ("id", cell(grant, "/id")),
        ("agent", cell(grant, "/agent")),
        ("connection", cell(grant, "/connection")),
        ("effect", cell(grant, "/effect")),
        ("for", cell(grant, "/for_whom")),
        ("session", cell(grant, "/session")),
        ("task", cell(grant, "/task")),
        ("delivery", cell(grant, "/delivery")),
        ("scopes", cell(grant, "/scopes")),
        ("operations", cell(grant, "/operations")),
        ("at most", cell(grant, "/rate")),
        ("uses at most", cell(grant, "/max_uses")),
        ("until", cell(grant, "/expires_at")),
        ("granted by", cell(grant, "/grantor")),
        ("note", cell(grant, "/note")),
    ])
}
