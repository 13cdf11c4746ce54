//! `valetkey auth`: the accounts at providers in one place, the site's own unless a person or an agent is named.
//!
//! Everything here can also be done by another noun (`connect`, `connection`, `account`, `provider`); this one is named after
//! the work. It is a client of the same API, and knows no more than that.

mod config;
mod connect;
mod refresh;
mod revoke;
mod set_token;
mod status;

use clap::{Args, Subcommand};
use serde_json::Value;
use valetkey::{clock::Timestamp, principal::Owner};

use super::{
    Session,
    owner::{Whose, scope},
};
use crate::{
    client::{Client, segment, with_query},
    failure::{Failure, Result},
    output::{cell, items},
    secrets,
};

pub(super) use self::revoke::there;

/// Accounts at providers.
#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Show how accounts stand: connected or not, until when, in which health. Changes nothing
    Status(status::Status),
    /// Connect an account: makes a link for a browser, or stores what a provider with plain credentials needs
    Connect(connect::Connect),
    /// Show your app at a provider with its secrets masked, or change it
    Config(config::Config),
    /// Store an access token that you have from elsewhere
    SetToken(set_token::SetToken),
    /// Refresh an account's token now, also one that expired
    Refresh(refresh::Refresh),
    /// Refresh every token that can be refreshed, of the site, of people and of agents; fails if one could not be
    RefreshAll(refresh::RefreshAll),
    /// End an account: it is over here at once, and its tokens are revoked at the provider where that is possible
    Revoke(revoke::Revoke),
    /// Deprecated: `valetkey auth revoke` of the site's own account
    Disconnect(revoke::Disconnect),
}

impl Auth {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Status(status) => status.run(session).await,
            Self::Connect(connect) => connect.run(session).await,
            Self::Config(config) => config.run(session).await,
            Self::SetToken(set_token) => set_token.run(session).await,
            Self::Refresh(refresh) => refresh.run(session).await,
            Self::RefreshAll(refresh) => refresh.run(session).await,
            Self::Revoke(revoke) => revoke.run(session).await,
            Self::Disconnect(disconnect) => disconnect.run(session).await,
        }
    }
}

/// Which account.
#[derive(Args, Clone, Debug)]
struct Which {
    /// The provider, as `valetkey provider list` names it
    provider: String,
    #[command(flatten)]
    whose: Whose,
    /// Which of the owner's accounts there, where it has a name
    #[arg(long)]
    name: Option<String>,
}

impl Which {
    /// Where the account is, with a query.
    fn path(&self, owner: &Owner, query: &[(&str, Option<&str>)]) -> Result<String> {
        let path = format!("{}/accounts/{}", provider_path(&self.provider)?, scope(owner)?);
        Ok(with_query(&with_query(&path, &[("name", self.name.as_deref())]), query))
    }
}

fn provider_path(name: &str) -> Result<String> {
    Ok(format!("/v1/providers/{}", segment(name)?))
}

/// Every connection that fits.
async fn connections(client: &Client, provider: Option<&str>, owner: Option<&Owner>) -> Result<Vec<Value>> {
    let owner = owner.map(ToString::to_string);
    let narrowed = [("provider", provider), ("owner", owner.as_deref())];
    let all = client.all(&with_query("/v1/connections", &narrowed), "connections").await?;
    Ok(items(&all, "connections").to_vec())
}

/// A moment of an answer.
fn moment_of(value: &Value, at: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = value.pointer(at)?.as_str()?.parse().ok()?;
    Some(Timestamp(moment.as_microsecond()))
}

/// The account's name as people say it, where it has one.
fn named(value: &Value) -> String {
    let name = cell(value, "/name");
    if name == "default" { String::new() } else { name }
}

/// Asks whether something that cannot simply be undone is meant.
pub(super) fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !secrets::can_ask() {
        return Err(Failure::usage("nobody can be asked here whether this is meant; say --yes if it is"));
    }
    let answer = secrets::ask(&format!("{question} [y/N]"))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::failed("nothing was done"))
    }
}
