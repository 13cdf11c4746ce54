//! `valetkey connection`: connected accounts.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::Result,
    output::{cell, facts, items, table},
};

/// Connections.
#[derive(Debug, Subcommand)]
pub(crate) enum Connection {
    /// List the site's connections
    List {
        /// Only at this provider
        #[arg(long)]
        provider: Option<String>,
        /// Only this owner's: site, user:ID or agent:ID
        #[arg(long)]
        owner: Option<String>,
        /// The revoked ones, too
        #[arg(long)]
        all: bool,
    },
    /// Show a connection; no secret is among it
    Show {
        /// Its id
        id: String,
    },
    /// End a connection: its account is erased, its tokens are revoked at the provider where that is possible
    Revoke {
        /// Its id
        id: String,
        /// Revoke at the provider also where that ends other connections of the same account
        #[arg(long)]
        force: bool,
    },
    /// Refresh a connection's token now
    Refresh {
        /// Its id
        id: String,
    },
    /// Say that a connection's account is the right one, after its tokens were written from outside
    Confirm {
        /// Its id
        id: String,
    },
}

impl Connection {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let of = |id: &str| Ok::<_, crate::failure::Failure>(format!("/v1/connections/{}", segment(id)?));
        match self {
            Self::List { provider, owner, all } => {
                let all = all.then_some("true");
                let filter = [("provider", provider.as_deref()), ("owner", owner.as_deref()), ("revoked", all)];
                session.ask(Method::GET, &with_query("/v1/connections", &filter), None, list).await
            }
            Self::Show { id } => session.ask(Method::GET, &of(&id)?, None, show).await,
            Self::Revoke { id, force } => {
                let path = with_query(&of(&id)?, &[("force", force.then_some("true"))]);
                session.ask(Method::DELETE, &path, None, |answer| revoked(&id, answer)).await
            }
            Self::Refresh { id } => session.ask(Method::POST, &format!("{}/refresh", of(&id)?), Some(&json!({})), show).await,
            Self::Confirm { id } => session.ask(Method::POST, &format!("{}/confirm", of(&id)?), Some(&json!({})), show).await,
        }
    }
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/provider", "/owner", "/name", "/status", "/subject_name", "/expires_at", "/connected_at"];
    let row = |connection: &Value| columns.map(|at| cell(connection, at)).to_vec();
    let heads = ["id", "provider", "owner", "name", "status", "account", "token until", "since"];
    let none = "nothing is connected; make a link with `valetkey connect`";
    table(&heads, items(answer, "connections").iter().map(row).collect(), none)
}

fn show(connection: &Value) -> String {
    facts(&[
        ("id", cell(connection, "/id")),
        ("provider", cell(connection, "/provider")),
        ("owner", cell(connection, "/owner")),
        ("name", cell(connection, "/name")),
        ("status", cell(connection, "/status")),
        ("reason", cell(connection, "/reason")),
        ("account", cell(connection, "/subject_name")),
        ("subject", cell(connection, "/subject")),
        ("identity", cell(connection, "/identity")),
        ("scopes", cell(connection, "/scopes")),
        ("hosts", cell(connection, "/hosts")),
        ("token until", cell(connection, "/expires_at")),
        ("renewed by", cell(connection, "/renewal")),
        ("last refresh", cell(connection, "/last_refreshed_at")),
        ("last error", cell(connection, "/last_error")),
        ("since", cell(connection, "/connected_at")),
        ("version", cell(connection, "/version")),
    ])
}

fn revoked(id: &str, answer: &Value) -> String {
    let upstream = cell(answer, "/upstream");
    match upstream.as_str() {
        "" => format!("{id} is revoked"),
        upstream => format!("{id} is revoked\nat the provider: {upstream}"),
    }
}
