//! `valetkey agent token`: the bearers by which agents call the broker.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::{Failure, Result},
    moments::Until,
    output::{cell, facts, items, table},
};

/// Agent tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Mint a token; it is shown once
    Create {
        /// The agent's id or slug
        agent: String,
        /// What to call it
        #[arg(long, default_value = "")]
        label: String,
        /// The person it acts for, who needs a role of operator or more on the agent; without one it is unattended
        #[arg(long, value_name = "USER")]
        person: Option<String>,
        /// The session it is for, as you call it: what is granted for that session is granted to it
        #[arg(long)]
        session: Option<String>,
        /// The task it is for, likewise
        #[arg(long)]
        task: Option<String>,
        #[command(flatten)]
        ceiling: CeilingArgs,
        /// Until when: 90d, or a moment such as 2027-01-31T12:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = Until::parse)]
        expires: Option<Until>,
    },
    /// List an agent's tokens
    List {
        /// The agent's id or slug
        agent: String,
    },
    /// Revoke a token; no request that comes after this is served by it
    Revoke {
        /// The token's id
        token: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Revoke every token of an agent
    RevokeAll {
        /// The agent's id or slug
        agent: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

/// The most that may be done, whatever is granted. Each part that is given narrows.
#[derive(Args, Clone, Debug)]
pub(crate) struct CeilingArgs {
    /// At most this delivery, whatever is granted: proxy, reveal
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = ["proxy", "reveal"])]
    only_deliver: Vec<String>,
    /// At most these connections; may be repeated
    #[arg(long, value_name = "CONNECTION")]
    only_connection: Vec<String>,
    /// At most connections at these providers; may be repeated
    #[arg(long, value_name = "PROVIDER")]
    only_provider: Vec<String>,
    /// At most these operations, such as 'GET /v1/**'; may be repeated
    #[arg(long, value_name = "OPERATION")]
    only_operation: Vec<String>,
}

impl CeilingArgs {
    /// The ceiling; nothing where no part is given.
    pub(super) fn body(self) -> Option<Value> {
        let parts = [
            ("delivery", self.only_deliver),
            ("connections", self.only_connection),
            ("providers", self.only_provider),
            ("operations", self.only_operation),
        ];
        let parts: serde_json::Map<_, _> =
            parts.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), json!(list))).collect();
        (!parts.is_empty()).then_some(Value::Object(parts))
    }
}

impl Token {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let of = |agent: &str| Ok::<_, Failure>(format!("/v1/agents/{}/tokens", segment(agent)?));
        match self {
            Self::Create { agent, label, person, session: work, task, ceiling, expires } => {
                let body = json!({
                    "label": label,
                    "person": person,
                    "session": work,
                    "task": task,
                    "ceiling": ceiling.body(),
                    "expires_at": expires.map(|until| until.from(session.clock.now())),
                });
                session.ask(Method::POST, &of(&agent)?, Some(&body), minted).await
            }
            Self::List { agent } => session.ask_all(&of(&agent)?, "tokens", list).await,
            Self::Revoke { token, reason } => {
                let path = with_query(&format!("/v1/tokens/{}", segment(&token)?), &[("reason", reason.as_deref())]);
                session.ask(Method::DELETE, &path, None, |_| format!("{token} is revoked")).await
            }
            Self::RevokeAll { agent, reason } => {
                let path = with_query(&of(&agent)?, &[("reason", reason.as_deref())]);
                let said = |answer: &Value| format!("{} tokens are revoked", cell(answer, "/revoked"));
                session.ask(Method::DELETE, &path, None, said).await
            }
        }
    }
}

/// A ceiling for people.
pub(super) fn shown_ceiling(ceiling: Option<&Value>) -> String {
    let Some(ceiling) = ceiling.filter(|ceiling| !ceiling.is_null()) else { return "nothing narrows besides grants".to_owned() };
    let parts =
        [("delivery", "/delivery"), ("connections", "/connections"), ("providers", "/providers"), ("operations", "/operations")];
    // An empty list allows nothing, and is not shown as if it were not there.
    let parts = parts.map(|(name, at)| match ceiling.pointer(at) {
        Some(Value::Array(list)) if list.is_empty() => (name, "none".to_owned()),
        _ => (name, cell(ceiling, at)),
    });
    facts(&parts)
}

fn minted(answer: &Value) -> String {
    let person = cell(answer, "/person");
    let shown = facts(&[
        ("id", cell(answer, "/id")),
        ("agent", cell(answer, "/agent")),
        ("acts for", if person.is_empty() { "nobody: unattended".to_owned() } else { person }),
        ("session", cell(answer, "/session")),
        ("task", cell(answer, "/task")),
        ("until", cell(answer, "/expires_at")),
        ("token", cell(answer, "/token")),
    ]);
    format!("{shown}\n\nThe token is shown this once.")
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/label", "/prefix", "/person", "/created_at", "/expires_at", "/last_used_at", "/revoked_at"];
    let row = |token: &Value| columns.map(|at| cell(token, at)).to_vec();
    let heads = ["id", "label", "begins", "acts for", "since", "until", "last used", "revoked"];
    table(&heads, items(answer, "tokens").iter().map(row).collect(), "the agent has no token")
}
