//! `valetkey connect`: a link by which somebody connects an account, or a code for whoever sits here.
//!
//! With `--device` no browser is needed on this machine: the code and the address are shown, the person signs in on a device
//! of their own, and the command waits for what comes of it (RFC 8628).

use std::{collections::HashMap, time::Duration};

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Session, owner::OwnerArgs};
use crate::{
    client::{Client, segment},
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
    #[arg(long, value_name = "URL", conflicts_with = "device")]
    return_to: Option<String>,
    /// Show a code to sign in with on another device, and wait until that is done; needs no browser on this machine
    #[arg(long)]
    device: bool,
}

/// How often the broker is asked what became of a sign-in.
const LOOK: Duration = Duration::from_secs(2);

impl Connect {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        if self.device {
            return self.on_another_device(session).await;
        }
        let answer = session
            .with(async |client| {
                session.check_link(client)?;
                let body = self.body(client).await?;
                client.call(Method::POST, "/v1/connect-sessions", Some(&body)).await
            })
            .await?;
        session.out.show(&answer, show)
    }

    async fn body(&self, client: &Client) -> Result<Value> {
        Ok(json!({
            "provider": self.provider,
            "owner": self.owner.resolve(client).await?,
            "name": self.name,
            "scopes": (!self.scope.is_empty()).then_some(&self.scope),
            "fields": self.field.iter().cloned().collect::<HashMap<_, _>>(),
            "new_subject": self.new_subject,
            "return_to": self.return_to,
            "device": self.device,
        }))
    }

    /// Programs get two documents: the code, then what became of it.
    async fn on_another_device(self, session: &Session) -> Result<()> {
        let ended = session
            .with(async |client| {
                let made = client.call(Method::POST, "/v1/connect-sessions", Some(&self.body(client).await?)).await?;
                let path = format!("/v1/connect-sessions/{}", segment(&cell(&made, "/id"))?);
                let code = client.call(Method::POST, &format!("{path}/device"), Some(&json!({}))).await?;
                session.out.show(&code, show_code)?;
                loop {
                    tokio::time::sleep(LOOK).await;
                    let now = client.call(Method::GET, &path, None).await?;
                    if !matches!(cell(&now, "/state").as_str(), "waiting" | "started") {
                        return Ok(now);
                    }
                }
            })
            .await?;
        let state = cell(&ended, "/state");
        if state == "connected" || session.out.json {
            session
                .out
                .show(&ended, |ended| facts(&[("connection", cell(ended, "/connection")), ("owner", cell(ended, "/owner"))]))?;
        }
        match state.as_str() {
            "connected" => Ok(()),
            "expired" => Err(Failure::failed("nobody signed in with the code in time; run this again for another one")),
            "oauth_denied" => Err(Failure::failed("it was refused at the provider; nothing was connected")),
            other => Err(Failure::failed(format!("nothing was connected: {other}"))),
        }
    }
}

fn show_code(code: &Value) -> String {
    let lines = facts(&[
        ("open", cell(code, "/verification_uri")),
        ("and type in", cell(code, "/user_code")),
        ("or open", cell(code, "/verification_uri_complete")),
        ("until", cell(code, "/expires_at")),
    ]);
    format!(
        "{lines}\n\nOn a device of yours. Whoever signs in with this code links their account here: give it to nobody, and never\n\
         type in a code that somebody sent you. Waiting for you to sign in."
    )
}

pub(super) fn show(answer: &Value) -> String {
    format!(
        "{}\n\nThe link works once. Give it only to whom the account belongs.",
        facts(&[("link", cell(answer, "/url")), ("until", cell(answer, "/expires_at"))])
    )
}
