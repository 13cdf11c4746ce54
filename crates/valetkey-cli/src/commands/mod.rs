//! One file per noun. A command builds a request, gets JSON, and prints it.

pub(crate) mod account;
pub(crate) mod agent;
pub(crate) mod approval;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod grant;
pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod keys;
pub(crate) mod mcp;
mod owner;
pub(crate) mod person;
pub(crate) mod proposal;
pub(crate) mod provider;
pub(crate) mod reach;
mod scope_policies;
pub(crate) mod serve;
pub(crate) mod site;
pub(crate) mod token;
pub(crate) mod webhook;
mod wordpress;

use serde_json::Value;
use valetkey::clock::Clock;

use crate::{
    cli::Command,
    client::Client,
    failure::{Failure, Result},
    output::Output,
    settings::{Global, Settings},
};

/// What every command has at hand.
pub(crate) struct Session {
    /// The settings of this run.
    pub(crate) settings: Settings,
    /// Where to print.
    pub(crate) out: Output,
    /// What time it is.
    pub(crate) clock: Clock,
}

impl Session {
    /// Reads the settings.
    pub(crate) fn new(global: &Global, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Self { settings: Settings::read(global, variable)?, out: Output { json: global.json }, clock: Clock::System })
    }

    /// Finds the broker, does something with it, and closes what was opened for that.
    pub(crate) async fn with<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T>) -> Result<T> {
        let client = Client::reach(&self.settings).await?;
        let outcome = work(&client).await;
        client.close().await;
        outcome
    }

    /// Refuses to make a link where nothing says to whom it leads: the broker is in this process, and nobody follows a link to it.
    ///
    /// # Errors
    /// The exit code is 2.
    pub(crate) fn check_link(&self, client: &Client) -> Result<()> {
        if client.is_here() && self.settings.public_url.is_none() {
            return Err(Failure::usage(
                "the link leads to the server, which this command does not ask; say where it is reached: --public-url",
            ));
        }
        Ok(())
    }

    /// Asks the broker one thing and prints the answer.
    pub(crate) async fn ask(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
        human: impl FnOnce(&Value) -> String,
    ) -> Result<()> {
        let answer = self.with(async |client| client.call(method, path, body).await).await?;
        self.out.show(&answer, human)
    }

    /// Prints everything in a list that comes in pages; `list` is the member of an answer that holds the things.
    pub(crate) async fn ask_all(&self, path: &str, list: &str, human: impl FnOnce(&Value) -> String) -> Result<()> {
        let answer = self.with(async |client| client.all(path, list).await).await?;
        self.out.show(&answer, human)
    }
}

/// Runs a command. Boxed, so that the largest of them does not make every one large.
pub(crate) async fn run(command: Command, session: Session) -> Result<()> {
    match command {
        Command::Serve(serve) => Box::pin(serve.run(&session)).await,
        Command::Dev(dev) => Box::pin(dev.run(&session)).await,
        Command::Doctor(doctor) => Box::pin(doctor.run(&session)).await,
        Command::Auth(auth) => Box::pin(auth.run(&session)).await,
        Command::Site(site) => Box::pin(site.run(&session)).await,
        Command::Key(key) => Box::pin(key.run(&session)).await,
        Command::Keys(keys) => Box::pin(keys.run(&session)).await,
        Command::Provider(provider) => Box::pin(provider.run(&session)).await,
        Command::Connect(connect) => Box::pin(connect.run(&session)).await,
        Command::Connection(connection) => Box::pin(connection.run(&session)).await,
        Command::Account(account) => Box::pin(account.run(&session)).await,
        Command::Agent(agent) => Box::pin(agent.run(&session)).await,
        Command::Client(client) => Box::pin(client.run(&session)).await,
        Command::Grant(grant) => Box::pin(grant.run(&session)).await,
        Command::Approval(approval) => Box::pin(approval.run(&session)).await,
        Command::Proposal(proposal) => Box::pin(proposal.run(&session)).await,
        Command::Explain(explain) => Box::pin(explain.run(&session)).await,
        Command::Reach(reach) => Box::pin(reach.run(&session)).await,
        Command::WhoCan(who_can) => Box::pin(who_can.run(&session)).await,
        Command::Mcp(mcp) => Box::pin(mcp.run(&session)).await,
        Command::Import(import) => Box::pin(import.run(&session)).await,
        Command::Export(export) => Box::pin(export.run(&session)).await,
        Command::Person(person) => Box::pin(person.run(&session)).await,
        Command::Audit(audit) => Box::pin(audit.run(&session)).await,
        Command::Webhook(webhook) => Box::pin(webhook.run(&session)).await,
    }
}
