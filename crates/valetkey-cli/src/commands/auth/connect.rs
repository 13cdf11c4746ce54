//! `valetkey auth connect`: a link by which somebody connects an account, or, where an account is made of entered values (a
//! key, a login), those values, tried with the provider before they are stored.

use std::collections::HashMap;

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use valetkey::principal::Owner;

use super::{Which, provider_path};
use crate::{
    client::{Client, segment},
    commands::{
        Session,
        provider::{Form, how_to_give, pair},
    },
    failure::{Failure, Result},
    output::{cell, facts},
    secrets,
};

/// What is to be connected.
#[derive(Args, Debug)]
pub(crate) struct Connect {
    #[command(flatten)]
    which: Which,
    /// A field of the account's that is no secret, such as its server; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    field: Vec<(String, String)>,
    /// A secret of the account, from a file; - is standard input; may be repeated. Where an account is made of entered values
    #[arg(long, value_name = "KEY=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
    /// A scope of the provider to ask for, in place of the usual ones; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// Make a link also where an account is made of entered values: they are then entered on its page
    #[arg(long)]
    link: bool,
    /// Where the browser goes afterwards; one of the site's places to return to
    #[arg(long, value_name = "URL")]
    return_to: Option<String>,
    /// Let another account take the place of the one connected before; it gets a new id, without the old grants
    #[arg(long)]
    replace: bool,
}

impl Connect {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let answer = session
            .with(async |client| {
                let provider = client.call(Method::GET, &provider_path(&self.which.provider)?, None).await?;
                let owner = self.which.whose.owner(client).await?;
                let is_entered = provider.get("entered") == Some(&Value::Bool(true));
                let mut answer = match is_entered && !self.link {
                    true => self.store(client, &provider, &owner).await?,
                    false => self.link(session, client, &owner).await?,
                };
                answer["for"] = whom(client, &owner).await?;
                Ok(answer)
            })
            .await?;
        session.out.show(&answer, show)
    }

    async fn link(&self, session: &Session, client: &Client, owner: &Owner) -> Result<Value> {
        if let Some((key, _)) = self.secret_file.first() {
            return Err(Failure::usage(format!(
                "--secret-file {key}: a link takes no secrets; the person enters them on its page or signs in at the provider, and \
                 your app's secret goes into `valetkey auth config`"
            )));
        }
        session.check_link(client)?;
        let body = json!({
            "provider": self.which.provider,
            "owner": owner,
            "name": self.which.name,
            "scopes": (!self.scope.is_empty()).then_some(&self.scope),
            "fields": self.field.iter().cloned().collect::<HashMap<_, _>>(),
            "new_subject": self.replace,
            "return_to": self.return_to,
        });
        client.call(Method::POST, "/v1/connect-sessions", Some(&body)).await
    }

    async fn store(&self, client: &Client, provider: &Value, owner: &Owner) -> Result<Value> {
        if !self.scope.is_empty() || self.return_to.is_some() {
            return Err(Failure::usage("--scope and --return-to are for a link; add --link to make one"));
        }
        let form = Form { provider, level: "connection", set: &self.field, files: &self.secret_file };
        let account = form.values(secrets::can_ask())?;
        let path = self.which.path(owner, &[("replace", self.replace.then_some("true"))])?;
        let stored = client.call(Method::PUT, &path, Some(&json!({ "account": account }))).await;
        stored.map_err(|failure| how_to_give(failure, "--field"))
    }
}

/// For whom, so that nobody connects the wrong one's account by mistake.
async fn whom(client: &Client, owner: &Owner) -> Result<Value> {
    let mut whom = json!({ "owner": owner });
    if let Owner::Agent(id) = owner {
        let agent = client.call(Method::GET, &format!("/v1/agents/{}", segment(id.as_str())?), None).await?;
        whom["agent"] = agent.get("slug").cloned().unwrap_or_default();
        whom["agent_owner"] = agent.get("owner").cloned().unwrap_or_default();
    }
    Ok(whom)
}

fn show(answer: &Value) -> String {
    let whom = [
        ("for", cell(answer, "/for/owner")),
        ("agent", cell(answer, "/for/agent")),
        ("the agent's owner", cell(answer, "/for/agent_owner")),
    ];
    if answer.get("url").is_none() {
        let stored = [("connection", cell(answer, "/connection")), ("status", cell(answer, "/status"))];
        return format!("{}\n\nThe account is stored.", facts(&[&whom[..], &stored].concat()));
    }
    let link = [("link", cell(answer, "/url")), ("until", cell(answer, "/expires_at"))];
    format!(
        "{}\n\nThe link works once. Give it only to whom the account belongs; `valetkey auth status` shows what came of it.",
        facts(&[&whom[..], &link].concat())
    )
}
