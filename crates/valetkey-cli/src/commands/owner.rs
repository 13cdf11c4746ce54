//! Whose account is meant: always written out, never guessed.

use clap::Args;
use http::Method;
use serde_json::Value;
use valetkey::{id::UserId, principal::Owner};

use crate::{
    client::{Client, segment, with_query},
    failure::{Failure, Result},
    output::{cell, facts},
};

/// One of three owners.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct OwnerArgs {
    /// The site's own account
    #[arg(long)]
    pub(crate) site_account: bool,
    /// A person's account
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// An agent's account; its id or slug
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
}

impl OwnerArgs {
    /// The owner as the API writes it: `site`, `user:<id>` or `agent:<id>`.
    pub(crate) async fn resolve(&self, client: &Client) -> Result<String> {
        match (&self.user, &self.agent) {
            (Some(user), _) => Ok(format!("user:{user}")),
            (None, Some(agent)) => Ok(format!("agent:{}", agent_id(client, agent).await?)),
            (None, None) => Ok("site".to_owned()),
        }
    }
}

/// Whose account or app: the site's own unless a person or an agent is named.
#[derive(Args, Clone, Debug, Default)]
#[group(multiple = false)]
pub(crate) struct Whose {
    /// A person's own, by their id; the site's without it
    #[arg(long, value_name = "ID", value_parser = user_id, allow_negative_numbers = true)]
    pub(crate) user: Option<UserId>,
    /// An agent's own, by its id or slug
    #[arg(long, value_name = "AGENT", value_parser = agent_name, allow_negative_numbers = true)]
    pub(crate) agent: Option<String>,
}

impl Whose {
    /// The owner as the API writes it.
    pub(crate) async fn owner(&self, client: &Client) -> Result<Owner> {
        match (&self.user, &self.agent) {
            (Some(user), _) => Ok(Owner::User(user.clone())),
            (None, Some(agent)) => Ok(Owner::Agent(agent_id(client, agent).await?.parse()?)),
            (None, None) => Ok(Owner::Site),
        }
    }
}

/// For whom something is looked up by policy: a person, an agent, both, or nobody.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Acting {
    /// The person for whom it would be done, by their id
    #[arg(long, value_name = "ID", value_parser = user_id, allow_negative_numbers = true)]
    user: Option<UserId>,
    /// The agent that would do it, by its id or slug
    #[arg(long, value_name = "AGENT", value_parser = agent_name, allow_negative_numbers = true)]
    agent: Option<String>,
}

impl Acting {
    /// A path with them as its query.
    pub(crate) async fn query(&self, client: &Client, path: &str) -> Result<String> {
        let agent = match &self.agent {
            Some(agent) => Some(agent_id(client, agent).await?),
            None => None,
        };
        Ok(with_query(path, &[("user", self.user.as_ref().map(UserId::as_str)), ("agent", agent.as_deref())]))
    }
}

/// An answer to such a look-up: how it was found, and what, in the words of `show`.
pub(crate) fn found_by_policy(answer: &Value, show: impl FnOnce(&Value) -> String) -> String {
    let from = match cell(answer, "/resolved_from") {
        none if none.is_empty() => "nobody's: there is none".to_owned(),
        owner if answer["fell_back"] == true => format!("{owner}, in place of one that is missing"),
        owner => owner,
    };
    let how = facts(&[("policy", cell(answer, "/policy")), ("chosen by it", cell(answer, "/wanted")), ("applies", from)]);
    if answer["found"].is_null() { how } else { format!("{how}\n\n{}", show(&answer["found"])) }
}

/// An owner as part of a path: `site`, `users/<id>` or `agents/<id>`.
pub(crate) fn scope(owner: &Owner) -> Result<String> {
    match owner {
        Owner::Site => Ok("site".to_owned()),
        Owner::User(user) => Ok(format!("users/{}", segment(user.as_str())?)),
        Owner::Agent(agent) => Ok(format!("agents/{}", segment(agent.as_str())?)),
    }
}

/// A person's id. What is none, such as 0 or a negative number, is refused: it never means somebody else, nor the site.
fn user_id(text: &str) -> Result<UserId, String> {
    text.parse().map_err(|error: valetkey::Error| error.message().to_owned())
}

fn agent_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an agent is named by its id or slug".to_owned()) } else { Ok(text.to_owned()) }
}

/// The id of an agent that is named by id or slug. A slug that fits two is an error that lists both.
pub(crate) async fn agent_id(client: &Client, agent: &str) -> Result<String> {
    let found = client.call(Method::GET, &format!("/v1/agents/{}", segment(agent)?), None).await?;
    let id = found.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Failure::failed("the server's answer about the agent holds no id"))
}
