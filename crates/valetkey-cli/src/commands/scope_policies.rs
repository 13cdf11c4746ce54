//! `valetkey provider policy`: whose account and app configuration apply where a call leaves that to the provider.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::segment,
    failure::{Failure, Result},
    output::{cell, table},
};

/// What to show or to set.
#[derive(Args, Debug)]
pub(crate) struct Policy {
    /// The provider
    name: String,
    /// What the change is about; both are shown either way
    #[arg(long = "for", value_name = "KIND", default_value = "account")]
    kind: KindArg,
    /// Whose applies
    #[arg(long, value_name = "POLICY")]
    set: Option<PolicyArg>,
    /// Whether the site's stands in for whoever has none
    #[arg(long, value_name = "on|off")]
    fallback: Option<Switch>,
}

/// What a policy is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindArg {
    /// Connected accounts
    Account,
    /// App configurations
    Config,
}

/// Whose applies.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArg {
    /// The site's, whoever acts
    Site,
    /// The person's
    User,
    /// The agent's
    Agent,
    /// The agent's or the person's, whoever is named
    Principal,
}

/// On or off.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    /// It does
    On,
    /// It does not
    Off,
}

fn word(value: &impl ValueEnum) -> Result<String> {
    let possible = value.to_possible_value().ok_or_else(|| Failure::usage("a value that cannot be given"))?;
    Ok(possible.get_name().to_owned())
}

impl Policy {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let path = format!("/v1/providers/{}/scope-policies", segment(&self.name)?);
        if self.set.is_none() && self.fallback.is_none() {
            return session.ask(Method::GET, &path, None, shown).await;
        }
        let mut change = json!({});
        if let Some(policy) = &self.set {
            change["policy"] = word(policy)?.into();
        }
        if let Some(fallback) = self.fallback {
            change["fallback"] = matches!(fallback, Switch::On).into();
        }
        let mut body = json!({});
        body[word(&self.kind)?] = change;
        session.ask(Method::PATCH, &path, Some(&body), shown).await
    }
}

fn shown(answer: &Value) -> String {
    let row = |kind: &str| {
        let fallback = if answer[kind]["fallback"] == true { "the site's" } else { "nothing" };
        vec![kind.to_owned(), cell(answer, &format!("/{kind}/policy")), fallback.to_owned()]
    };
    table(&["for", "whose applies", "for whoever has none"], vec![row("account"), row("config")], "")
}
