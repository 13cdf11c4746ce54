//! Whose account is meant: always written out, never guessed.

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::{
    client::{Client, segment},
    failure::{Failure, Result},
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

/// The id of an agent that is named by id or slug. A slug that fits two is an error that lists both.
pub(crate) async fn agent_id(client: &Client, agent: &str) -> Result<String> {
    let found = client.call(Method::GET, &format!("/v1/agents/{}", segment(agent)?), None).await?;
    let id = found.get("id").and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Failure::failed("the server's answer about the agent holds no id"))
}
