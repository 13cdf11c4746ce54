//! `valetkey agent`: agents and the roles that people have on them.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::{Session, token::Token};
use crate::{
    client::segment,
    failure::Result,
    output::{cell, facts, items, table},
};

/// Agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Make an agent; it may do nothing until something is granted to it
    Create {
        /// What people type: 1 to 64 of a-z 0-9 - _
        slug: String,
        /// Your platform's id for it [default: a fresh one]
        #[arg(long)]
        id: Option<String>,
        /// What people read [default: the slug]
        #[arg(long)]
        title: Option<String>,
        /// The person it belongs to
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
    /// List the site's agents
    List,
    /// Show an agent and who has which role on it
    Show {
        /// Its id or slug
        agent: String,
    },
    /// Stop an agent: its tokens stop with it
    Disable {
        /// Its id or slug
        agent: String,
    },
    /// Let an agent act again
    Enable {
        /// Its id or slug
        agent: String,
    },
    /// Delete an agent for good
    Delete {
        /// Its id or slug
        agent: String,
    },
    /// Who has which role on an agent
    #[command(subcommand)]
    Role(Role),
    /// An agent's tokens
    #[command(subcommand)]
    Token(Token),
}

/// Roles.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Give a person a role, in place of the one they had
    Set {
        /// The agent's id or slug
        agent: String,
        /// The person's id
        user: String,
        /// The role; each includes those before it
        #[arg(value_enum)]
        role: RoleWord,
    },
    /// Take a person's role away
    Remove {
        /// The agent's id or slug
        agent: String,
        /// The person's id
        user: String,
    },
}

/// A role.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleWord {
    /// May see it
    Viewer,
    /// May have it act
    Operator,
    /// May change it and who else may
    Admin,
}

impl RoleWord {
    fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Agent {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Create { slug, id, title, owner } => {
                let body = json!({ "slug": slug, "id": id, "title": title, "owner": owner });
                session.ask(Method::POST, "/v1/agents", Some(&body), show).await
            }
            Self::List => session.ask_all("/v1/agents", "agents", list).await,
            Self::Show { agent } => session.ask(Method::GET, &path(&agent)?, None, show).await,
            Self::Disable { agent } => session.ask(Method::PATCH, &path(&agent)?, Some(&json!({ "disabled": true })), show).await,
            Self::Enable { agent } => session.ask(Method::PATCH, &path(&agent)?, Some(&json!({ "disabled": false })), show).await,
            Self::Delete { agent } => {
                session.ask(Method::DELETE, &path(&agent)?, None, |_| format!("agent {agent} is deleted")).await
            }
            Self::Role(role) => role.run(session).await,
            Self::Token(token) => token.run(session).await,
        }
    }
}

impl Role {
    async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Set { agent, user, role } => {
                let path = format!("{}/roles/{}", path(&agent)?, segment(&user)?);
                let body = json!({ "role": role.word() });
                session.ask(Method::PUT, &path, Some(&body), |_| format!("{user} is {} of {agent}", role.word())).await
            }
            Self::Remove { agent, user } => {
                let path = format!("{}/roles/{}", path(&agent)?, segment(&user)?);
                session.ask(Method::DELETE, &path, None, |_| format!("{user} has no role of their own on {agent}")).await
            }
        }
    }
}

fn path(agent: &str) -> Result<String> {
    Ok(format!("/v1/agents/{}", segment(agent)?))
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/slug", "/title", "/owner", "/created_at", "/disabled_at"];
    let row = |agent: &Value| columns.map(|at| cell(agent, at)).to_vec();
    let heads = ["id", "slug", "title", "owner", "since", "disabled"];
    table(&heads, items(answer, "agents").iter().map(row).collect(), "there is no agent; make one with `valetkey agent create`")
}

fn show(agent: &Value) -> String {
    let about = facts(&[
        ("id", cell(agent, "/id")),
        ("slug", cell(agent, "/slug")),
        ("title", cell(agent, "/title")),
        ("owner", cell(agent, "/owner")),
        ("since", cell(agent, "/created_at")),
        ("disabled", cell(agent, "/disabled_at")),
    ]);
    match items(agent, "roles") {
        [] => about,
        roles => {
            let row = |role: &Value| ["/user", "/role", "/created_at"].map(|at| cell(role, at)).to_vec();
            format!("{about}\n\n{}", table(&["user", "role", "since"], roles.iter().map(row).collect(), ""))
        }
    }
}
