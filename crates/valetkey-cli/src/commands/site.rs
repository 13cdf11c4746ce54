//! `valetkey site`: tenants, and where their connect flows may return to.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::{
    Session,
    token::{CeilingArgs, shown_ceiling},
};
use crate::{
    client::segment,
    failure::{Failure, Result},
    output::{cell, facts, items, table},
};

/// Tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// Make a site with its own keys
    Create {
        /// Its id: 1 to 191 of A-Z a-z 0-9 . _ ~ @ : + -
        id: String,
        /// What people call it [default: its id]
        #[arg(long)]
        title: Option<String>,
    },
    /// List every site
    List,
    /// Show the site
    Show,
    /// Change the site
    Set {
        /// What people call it
        #[arg(long)]
        title: Option<String>,
        /// Let finished connect flows return to this URL, compared as a whole; may be repeated
        #[arg(long, value_name = "URL")]
        add_return_to: Vec<String>,
        /// No longer; may be repeated
        #[arg(long, value_name = "URL")]
        remove_return_to: Vec<String>,
        /// Whether a link to a person's account works without proof of who opened it. With `on`, whoever gets hold of a
        /// link can connect their own account as that person's
        #[arg(long, value_enum)]
        unproven_links: Option<Switch>,
        /// The platform's page that signs people in here; an empty text takes it away, and then nobody can sign in
        #[arg(long, value_name = "URL")]
        signin_url: Option<String>,
    },
    /// Show what nobody at the site may exceed, or set it: the parts of the ceiling that are given take the place of all that
    /// were set before
    Policy {
        #[command(flatten)]
        ceiling: CeilingArgs,
        /// At which depth a chain of agents is exhausted: 1 to 10 [default: 3]
        #[arg(long, value_name = "DEPTH", value_parser = clap::value_parser!(u32).range(1..=10))]
        chain_limit: Option<u32>,
        /// Take everything away that was set; what is given besides is set then
        #[arg(long)]
        clear: bool,
    },
    /// Stop a site: its tokens and keys are refused at once, nothing is connected to it, and nothing of it is renewed. Nothing is
    /// lost: `site enable` lets it go on with what it had. Tokens that end meanwhile may have to be connected again
    Disable {
        /// Its id
        id: String,
    },
    /// Let a site that was disabled go on
    Enable {
        /// Its id
        id: String,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Site {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let own = format!("/v1/sites/{}", segment(session.settings.site.as_str())?);
        match self {
            Self::Create { id, title } => {
                let body = json!({ "id": id, "title": title });
                session.ask(Method::POST, "/v1/sites", Some(&body), show).await
            }
            Self::List => session.ask(Method::GET, "/v1/sites", None, list).await,
            Self::Show => session.ask(Method::GET, &own, None, show).await,
            Self::Disable { id } => disable(session, &id, true).await,
            Self::Enable { id } => disable(session, &id, false).await,
            Self::Set { title, add_return_to, remove_return_to, unproven_links, signin_url } => {
                let places = add_return_to.is_empty() && remove_return_to.is_empty();
                if title.is_none() && places && unproven_links.is_none() && signin_url.is_none() {
                    return Err(Failure::usage("nothing to set; see `valetkey site set --help`"));
                }
                let answer = session
                    .with(async |client| {
                        let mut change = serde_json::Map::new();
                        if let Some(title) = title {
                            change.insert("title".into(), title.into());
                        }
                        if let Some(switch) = unproven_links {
                            change.insert("unproven_links".into(), (switch == Switch::On).into());
                        }
                        if let Some(url) = signin_url {
                            change.insert("signin_url".into(), url.into());
                        }
                        if !add_return_to.is_empty() || !remove_return_to.is_empty() {
                            let site = client.call(Method::GET, &own, None).await?;
                            let now = site.get("return_to").and_then(Value::as_array).cloned().unwrap_or_default();
                            change.insert("return_to".into(), changed(now, add_return_to, &remove_return_to)?);
                        }
                        client.call(Method::PATCH, &own, Some(&Value::Object(change))).await
                    })
                    .await?;
                session.out.show(&answer, show)
            }
            Self::Policy { ceiling, chain_limit, clear } => {
                let path = format!("{own}/policy");
                let ceiling = ceiling.body();
                if ceiling.is_none() && chain_limit.is_none() && !clear {
                    return session.ask(Method::GET, &path, None, shown_policy).await;
                }
                let answer = session
                    .with(async |client| {
                        let mut policy = match clear {
                            true => json!({}),
                            false => client.call(Method::GET, &path, None).await?,
                        };
                        if let Some(ceiling) = ceiling {
                            policy["ceiling"] = ceiling;
                        }
                        if let Some(limit) = chain_limit {
                            policy["chain_limit"] = limit.into();
                        }
                        client.call(Method::PUT, &path, Some(&policy)).await
                    })
                    .await?;
                session.out.show(&answer, shown_policy)
            }
        }
    }
}

async fn disable(session: &Session, id: &str, disabled: bool) -> Result<()> {
    let body = json!({ "disabled": disabled });
    session.ask(Method::PATCH, &format!("/v1/sites/{}", segment(id)?), Some(&body), show).await
}

fn changed(mut now: Vec<Value>, add: Vec<String>, remove: &[String]) -> Result<Value> {
    for gone in remove {
        let before = now.len();
        now.retain(|known| known.as_str() != Some(gone));
        if now.len() == before {
            return Err(Failure::usage(format!("{gone} is not among the places to return to")));
        }
    }
    for new in add {
        if !now.iter().any(|known| known.as_str() == Some(&new)) {
            now.push(new.into());
        }
    }
    Ok(Value::Array(now))
}

fn list(answer: &Value) -> String {
    let row =
        |site: &Value| ["/id", "/title", "/unproven_links", "/created_at", "/disabled_at"].map(|at| cell(site, at)).to_vec();
    table(
        &["id", "title", "unproven links", "since", "disabled"],
        items(answer, "sites").iter().map(row).collect(),
        "there is no site",
    )
}

fn show(site: &Value) -> String {
    facts(&[
        ("site", cell(site, "/id")),
        ("title", cell(site, "/title")),
        ("return to", cell(site, "/return_to")),
        ("unproven links", cell(site, "/unproven_links")),
        ("people sign in at", cell(site, "/signin_url")),
        ("since", cell(site, "/created_at")),
        ("disabled", cell(site, "/disabled_at")),
    ])
}

fn shown_policy(policy: &Value) -> String {
    let limit = policy.get("chain_limit").and_then(Value::as_u64);
    let limit = facts(&[("chain limit", limit.map_or_else(|| "3, as usual".to_owned(), |limit| limit.to_string()))]);
    format!("{}\n{limit}", shown_ceiling(policy.get("ceiling")))
}
