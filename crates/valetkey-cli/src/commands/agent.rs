//! `valetkey agent`: agents and the roles that people have on them.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::{
    Session,
    token::{CeilingArgs, Token, shown_ceiling},
};
use crate::{
    client::{segment, with_query},
    failure::{Failure, Result},
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
    List {
        /// Only those on which this person has a role, their own among them
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only those on which they have at least this role [default: viewer]
        #[arg(long, value_enum, requires = "user")]
        role: Option<RoleWord>,
    },
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
    /// Show what narrows all tokens of an agent, or narrow them: each part that is given, in place of all that was set before
    Ceiling {
        /// Its id or slug
        agent: String,
        #[command(flatten)]
        ceiling: CeilingArgs,
        /// Let them be
        #[arg(long)]
        clear: bool,
    },
    /// Who has which role on an agent
    #[command(subcommand)]
    Access(Access),
    /// An agent's tokens
    #[command(subcommand)]
    Token(Token),
}

/// Roles.
#[derive(Debug, Subcommand)]
pub(crate) enum Access {
    /// List who has which role, besides the agent's owner
    List {
        /// The agent's id or slug
        agent: String,
    },
    /// Give a person a role, in place of the one they had
    Grant {
        /// The agent's id or slug
        agent: String,
        /// The person's id
        user: String,
        /// The role; each includes those before it
        #[arg(long, value_enum, default_value_t = RoleWord::Operator)]
        role: RoleWord,
    },
    /// Take a person's role away
    Revoke {
        /// The agent's id or slug
        agent: String,
        /// The person's id
        user: String,
    },
    /// Whether a person has a role now; ends with 1 where they have not
    Check {
        /// The agent's id or slug
        agent: String,
        /// The person's id
        user: String,
        /// At least this role
        #[arg(long, value_enum, default_value_t = RoleWord::Viewer)]
        role: RoleWord,
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
            Self::List { user, role } => {
                let path = with_query("/v1/agents", &[("user", user.as_deref()), ("role", role.map(RoleWord::word))]);
                session.ask_all(&path, "agents", list).await
            }
            Self::Show { agent } => session.ask(Method::GET, &path(&agent)?, None, show).await,
            Self::Disable { agent } => session.ask(Method::PATCH, &path(&agent)?, Some(&json!({ "disabled": true })), show).await,
            Self::Enable { agent } => session.ask(Method::PATCH, &path(&agent)?, Some(&json!({ "disabled": false })), show).await,
            Self::Delete { agent } => {
                session.ask(Method::DELETE, &path(&agent)?, None, |_| format!("agent {agent} is deleted")).await
            }
            Self::Ceiling { agent, ceiling, clear } => {
                let path = format!("{}/ceiling", path(&agent)?);
                let said = |answer: &Value| shown_ceiling(answer.get("ceiling"));
                match (ceiling.body(), clear) {
                    (Some(_), true) => Err(Failure::usage("--clear takes everything away that narrows; give it alone")),
                    (None, false) => session.ask(Method::GET, &path, None, said).await,
                    (ceiling, _) => session.ask(Method::PUT, &path, Some(&json!({ "ceiling": ceiling })), said).await,
                }
            }
            Self::Access(access) => access.run(session).await,
            Self::Token(token) => token.run(session).await,
        }
    }
}

impl Access {
    async fn run(self, session: &Session) -> Result<()> {
        let of = |agent: &str, user: &str| Ok::<_, Failure>(format!("{}/roles/{}", path(agent)?, segment(user)?));
        match self {
            Self::List { agent } => session.ask(Method::GET, &format!("{}/roles", path(&agent)?), None, roles).await,
            Self::Grant { agent, user, role } => {
                let body = json!({ "role": role.word() });
                let said = |_: &Value| format!("{user} is {} of {agent}", role.word());
                session.ask(Method::PUT, &of(&agent, &user)?, Some(&body), said).await
            }
            Self::Revoke { agent, user } => {
                let said = |_: &Value| format!("{user} has no role of their own on {agent}");
                session.ask(Method::DELETE, &of(&agent, &user)?, None, said).await
            }
            Self::Check { agent, user, role } => {
                let path = with_query(&of(&agent, &user)?, &[("role", Some(role.word()))]);
                let answer = session.with(async |client| client.call(Method::GET, &path, None).await).await?;
                session.out.show(&answer, checked)?;
                if answer.get("allowed") == Some(&json!(true)) { Ok(()) } else { Err(Failure::silent()) }
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
        _ => format!("{about}\n\n{}", roles(agent)),
    }
}

fn roles(answer: &Value) -> String {
    let row = |role: &Value| ["/user", "/role", "/created_at"].map(|at| cell(role, at)).to_vec();
    let rows = items(answer, "roles").iter().map(row).collect();
    table(&["user", "role", "since"], rows, "nobody has a role on the agent, besides its owner")
}

fn checked(answer: &Value) -> String {
    let role = cell(answer, "/role");
    facts(&[
        ("allowed", cell(answer, "/allowed")),
        ("role", if role.is_empty() { "none".to_owned() } else { role }),
        ("asked for", cell(answer, "/least")),
    ])
}
