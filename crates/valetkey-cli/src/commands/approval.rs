//! `valetkey approval`: calls that wait for a person's word.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::Result,
    output::{cell, facts, items, table},
};

/// Calls that wait for a person's word.
#[derive(Debug, Subcommand)]
pub(crate) enum Approval {
    /// List the calls that wait for an answer
    List {
        /// Those that were answered and used, too
        #[arg(long)]
        all: bool,
        /// Only this agent's; its id or slug
        #[arg(long)]
        agent: Option<String>,
        /// Only those for this connection
        #[arg(long)]
        connection: Option<String>,
    },
    /// Show what is known of one call: everything but its body and the values of its query
    Show {
        /// The approval's id
        id: String,
    },
    /// Say yes: the agent may make exactly this call, once, within the hour
    Approve {
        /// The approval's id
        id: String,
    },
    /// Say no
    Refuse {
        /// The approval's id
        id: String,
        /// Why, for the agent to read
        #[arg(long, default_value = "")]
        reason: String,
    },
}

impl Approval {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List { all, agent, connection } => {
                let filter =
                    [("waiting", (!all).then_some("true")), ("agent", agent.as_deref()), ("connection", connection.as_deref())];
                session.ask_all(&with_query("/v1/approvals", &filter), "approvals", list).await
            }
            Self::Show { id } => session.ask(Method::GET, &format!("/v1/approvals/{}", segment(&id)?), None, show).await,
            Self::Approve { id } => {
                let path = format!("/v1/approvals/{}/approve", segment(&id)?);
                let said = |answer: &Value| {
                    format!("{id} is approved; the agent may make the call once, until {}", cell(answer, "/expires_at"))
                };
                session.ask(Method::POST, &path, None, said).await
            }
            Self::Refuse { id, reason } => {
                let path = format!("/v1/approvals/{}/refuse", segment(&id)?);
                session.ask(Method::POST, &path, Some(&json!({ "reason": reason })), |_| format!("{id} is refused")).await
            }
        }
    }
}

fn list(answer: &Value) -> String {
    let columns =
        ["/id", "/agent_title", "/owner", "/provider", "/call/method", "/call/host", "/call/path", "/status", "/expires_at"];
    let row = |approval: &Value| columns.map(|at| cell(approval, at)).to_vec();
    let heads = ["id", "agent", "account of", "provider", "method", "host", "path", "status", "until"];
    table(&heads, items(answer, "approvals").iter().map(row).collect(), "no call waits")
}

fn show(approval: &Value) -> String {
    facts(&[
        ("id", cell(approval, "/id")),
        ("status", cell(approval, "/status")),
        ("agent", cell(approval, "/agent_title")),
        ("for", cell(approval, "/person")),
        ("provider", cell(approval, "/provider")),
        ("account of", cell(approval, "/owner")),
        ("account", cell(approval, "/account")),
        ("connection", cell(approval, "/connection")),
        ("delivery", cell(approval, "/call/delivery")),
        ("method", cell(approval, "/call/method")),
        ("host", cell(approval, "/call/host")),
        ("path", cell(approval, "/call/path")),
        ("query names", cell(approval, "/call/query")),
        ("token", cell(approval, "/call/slot")),
        ("content type", cell(approval, "/call/content_type")),
        ("body bytes", cell(approval, "/call/body_bytes")),
        ("since", cell(approval, "/created_at")),
        ("until", cell(approval, "/expires_at")),
        ("answered by", cell(approval, "/decided_by")),
        ("reason", cell(approval, "/reason")),
    ])
}
