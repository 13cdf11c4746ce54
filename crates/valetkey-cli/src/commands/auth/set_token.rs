//! `valetkey auth set-token`: a token that was obtained elsewhere. It comes in by a file, standard input or the keyboard.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use valetkey::secret::SecretMap;

use super::Which;
use crate::{
    commands::Session,
    failure::{Failure, Result},
    moments::Until,
    output::{cell, facts},
    secrets,
};

/// A token from elsewhere.
#[derive(Args, Debug)]
pub(crate) struct SetToken {
    #[command(flatten)]
    which: Which,
    /// The file that holds the access token; - is standard input. Without it, it is asked for
    #[arg(long, value_name = "FILE", conflicts_with = "account_file")]
    token_file: Option<PathBuf>,
    /// The file that holds the refresh token
    #[arg(long, value_name = "FILE", conflicts_with = "account_file")]
    refresh_token_file: Option<PathBuf>,
    /// When the access token ends: seconds since 1970, a moment such as 2027-01-31T12:00:00Z, or from now such as 90d
    #[arg(long, value_name = "WHEN", conflicts_with = "account_file")]
    expires: Option<String>,
    /// What the provider calls the account
    #[arg(long, value_name = "NAME", conflicts_with = "account_file")]
    username: Option<String>,
    /// The file that holds the whole account as a JSON object; - is standard input
    #[arg(long, value_name = "FILE")]
    account_file: Option<PathBuf>,
    /// Replace what is there: a token that may have been refreshed meanwhile, or somebody else's account
    #[arg(long)]
    replace: bool,
}

impl SetToken {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let account = self.account(session)?;
        let answer = session
            .with(async |client| {
                let owner = self.which.whose.owner(client).await?;
                let path = self.which.path(&owner, &[("replace", self.replace.then_some("true"))])?;
                let body = json!({ "account": account.expose() });
                client.call(Method::PUT, &path, Some(&body)).await
            })
            .await?;
        session.out.show(&answer, |answer| {
            facts(&[
                ("connection", cell(answer, "/connection")),
                ("provider", cell(answer, "/provider")),
                ("owner", cell(answer, "/owner")),
                ("name", cell(answer, "/name")),
                ("status", cell(answer, "/status")),
                ("token until", cell(answer, "/expires_at")),
                ("renewed by", cell(answer, "/renewal")),
                ("identity", cell(answer, "/identity")),
            ])
        })
    }

    fn account(&self, session: &Session) -> Result<SecretMap> {
        if let Some(file) = &self.account_file {
            let text = secrets::read_file(file).map_err(Failure::usage)?;
            let account: Option<Map<String, Value>> = serde_json::from_str(text.expose()).ok();
            let account =
                account.ok_or_else(|| Failure::usage("the account is a JSON object such as {\"access_token\": \"...\"}"))?;
            return Ok(SecretMap::new(account));
        }
        let from_stdin = |file: &Option<PathBuf>| file.as_ref().is_some_and(|file| file.as_os_str() == "-");
        if from_stdin(&self.token_file) && from_stdin(&self.refresh_token_file) {
            return Err(Failure::usage("standard input holds one secret"));
        }
        let mut account = SecretMap::default();
        let token = match &self.token_file {
            Some(file) => secrets::one_from(file)?,
            None if secrets::can_ask() => secrets::ask_secret("Access token")?,
            None => return Err(Failure::usage("give the token in a file, --token-file FILE, or - for standard input")),
        };
        if token.expose().trim().is_empty() {
            return Err(Failure::usage("the access token is empty; to end an account, use `valetkey auth revoke`"));
        }
        account.set_text("access_token", &token);
        if let Some(file) = &self.refresh_token_file {
            account.set_text("refresh_token", &secrets::one_from(file)?);
        }
        if let Some(when) = &self.expires {
            let end = match when.parse::<i64>() {
                Ok(seconds) if seconds > 0 => seconds,
                _ => Until::parse(when).map_err(Failure::usage)?.from(session.clock.now()).unix_seconds(),
            };
            account.expose_mut().insert("expires_at".to_owned(), end.into());
        }
        if let Some(name) = &self.username {
            account.expose_mut().insert("username".to_owned(), name.as_str().into());
        }
        Ok(account)
    }
}
