//! `valetkey connect`: a link by which somebody connects an account.

use std::collections::HashMap;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Session, owner::OwnerArgs};
use crate::{
    failure::{Failure, Result},
    output::{cell, facts},
};

/// What is to be connected.
#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// The provider, as `valetkey provider list` names it
    provider: String,
    #[command(flatten)]
    owner: OwnerArgs,
    /// A name, where the owner has several accounts there
    #[arg(long)]
    name: Option<String>,
    /// A scope of the provider to ask for, in place of the usual ones; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// A field of the provider's that decides where the account is, such as its server; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::provider::pair)]
    field: Vec<(String, String)>,
    /// Let another upstream account take the place of the one connected before; it gets a new id, without the old grants
    #[arg(long)]
    new_subject: bool,
    /// Where the browser goes afterwards; one of the site's places to return to
    #[arg(long, value_name = "URL")]
    return_to: Option<String>,
}

impl Connect {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let answer = session
            .with(async |client| {
                if client.is_here() && session.settings.public_url.is_none() {
                    return Err(Failure::usage(
                        "the link leads to the server, and none runs on this data folder; say where it is reached: --public-url",
                    ));
                }
                let body = json!({
                    "provider": self.provider,
                    "owner": self.owner.resolve(client).await?,
                    "name": self.name,
                    "scopes": (!self.scope.is_empty()).then_some(&self.scope),
                    "fields": self.field.iter().cloned().collect::<HashMap<_, _>>(),
                    "new_subject": self.new_subject,
                    "return_to": self.return_to,
                });
                client.call(Method::POST, "/v1/connect-sessions", Some(&body)).await
            })
            .await?;
        session.out.show(&answer, show)
    }
}

fn show(answer: &Value) -> String {
    format!(
        "{}\n\nThe link works once. Give it only to whom the account belongs.",
        facts(&[("link", cell(answer, "/url")), ("until", cell(answer, "/expires_at"))])
    )
}
