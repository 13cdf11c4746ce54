//! `valetkey proposal`: what agents ask to be granted.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    Session,
    grant::{self, Limits},
};
use crate::{
    client::{segment, with_query},
    failure::Result,
    output::{cell, facts, items, table},
};

/// What agents ask to be granted.
#[derive(Debug, Subcommand)]
pub(crate) enum Proposal {
    /// List the proposals that wait for an answer
    List {
        /// Those that were answered, too
        #[arg(long)]
        all: bool,
        /// Only this agent's; its id or slug
        #[arg(long)]
        agent: Option<String>,
    },
    /// Show one
    Show {
        /// The proposal's id
        id: String,
    },
    /// Grant what is asked for, or less
    Accept(Box<Accepted>),
    /// Grant nothing
    Refuse {
        /// The proposal's id
        id: String,
        /// Why, for the agent to read
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// What of a proposal is granted.
#[derive(Debug, Args)]
pub(crate) struct Accepted {
    /// The proposal's id
    id: String,
    /// With which connection; needed where the agent names a provider only
    #[arg(long)]
    connection: Option<String>,
    /// What it does: allow, or ask (a person approves each use first)
    #[arg(long, default_value = "allow", value_parser = ["allow", "ask"])]
    effect: String,
    /// For whom the agent may use it: owner, unattended, operators, or users:ID,ID; as asked for without this
    #[arg(long = "for", value_name = "WHOM", value_parser = grant::for_whom)]
    for_whom: Option<Value>,
    /// How: proxy, reveal; not more than is asked for
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = ["proxy", "reveal"])]
    deliver: Vec<String>,
    /// Only these of the operations asked for, as patterns or names; may be repeated
    #[arg(long, value_name = "OPERATION")]
    operation: Vec<String>,
    /// At most these scopes of the provider; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    #[command(flatten)]
    limits: Limits,
}

impl Proposal {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List { all, agent } => {
                let filter = [("waiting", (!all).then_some("true")), ("agent", agent.as_deref())];
                session.ask_all(&with_query("/v1/proposals", &filter), "proposals", list).await
            }
            Self::Show { id } => session.ask(Method::GET, &format!("/v1/proposals/{}", segment(&id)?), None, show).await,
            Self::Accept(accepted) => {
                let Accepted { id, connection, effect, for_whom, deliver, operation, scope, limits } = *accepted;
                let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
                let body = json!({
                    "connection": connection,
                    "effect": effect,
                    "for_whom": for_whom,
                    "delivery": some(deliver),
                    "operations": some(operation),
                    "scopes": some(scope),
                });
                let body = limits.add_to(body, session);
                let path = format!("/v1/proposals/{}/accept", segment(&id)?);
                session.ask(Method::POST, &path, Some(&body), grant::show).await
            }
            Self::Refuse { id, reason } => {
                let path = format!("/v1/proposals/{}/refuse", segment(&id)?);
                session.ask(Method::POST, &path, Some(&json!({ "reason": reason })), |_| format!("{id} is refused")).await
            }
        }
    }
}

fn list(answer: &Value) -> String {
    let columns =
        ["/id", "/agent_title", "/addressee", "/provider", "/delivery", "/operations", "/reason", "/status", "/expires_at"];
    let row = |proposal: &Value| columns.map(|at| cell(proposal, at)).to_vec();
    let heads = ["id", "agent", "asks", "provider", "delivery", "operations", "reason", "status", "until"];
    table(&heads, items(answer, "proposals").iter().map(row).collect(), "nothing is asked for")
}

fn show(proposal: &Value) -> String {
    facts(&[
        ("id", cell(proposal, "/id")),
        ("status", cell(proposal, "/status")),
        ("agent", cell(proposal, "/agent_title")),
        ("acts for", cell(proposal, "/person")),
        ("asks", cell(proposal, "/addressee")),
        ("provider", cell(proposal, "/provider")),
        ("connection", cell(proposal, "/connection")),
        ("delivery", cell(proposal, "/delivery")),
        ("for", cell(proposal, "/for_whom")),
        ("operations", cell(proposal, "/operations")),
        ("reason", cell(proposal, "/reason")),
        ("since", cell(proposal, "/created_at")),
        ("until", cell(proposal, "/expires_at")),
        ("answered by", cell(proposal, "/decided_by")),
        ("refused because", cell(proposal, "/refusal")),
        ("grant", cell(proposal, "/grant")),
    ])
}
