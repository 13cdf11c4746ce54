//! The command line: verbs on nouns, one file per noun in `commands/`.

use clap::{Parser, Subcommand};

use crate::{commands, failure::EXIT_CODES, settings::Global};

/// Valet Key: a self-hosted credential broker for AI agents.
///
/// A person or a site connects an outside account once; agents use it through grants that can be narrowed, explained,
/// limited in time and taken back; nobody but the broker ever holds the keys. Begin with `valetkey dev`.
#[derive(Debug, Parser)]
#[command(name = "valetkey", version, propagate_version = true, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The nouns and verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker
    Serve(commands::serve::Serve),
    /// Try everything on this machine: a broker, a stand-in provider and a demo platform, by one command
    Dev(commands::dev::Dev),
    /// Look at everything that has to be right, and say what to do where it is not
    Doctor(commands::doctor::Doctor),
    /// Accounts at providers, in one place: status, connect, configure, refresh, revoke
    #[command(subcommand)]
    Auth(commands::auth::Auth),
    /// Tenants, and where their connect flows may return to
    #[command(subcommand)]
    Site(commands::site::Site),
    /// Platform keys: how a site's own backend calls the broker
    #[command(subcommand)]
    Key(commands::key::Key),
    /// Sealing keys: rotate, verify, change the root key
    #[command(subcommand)]
    Keys(commands::keys::Keys),
    /// Outside services, and your apps there
    #[command(subcommand)]
    Provider(commands::provider::Provider),
    /// Make a link by which somebody connects an account
    Connect(commands::connect::Connect),
    /// Connected accounts
    #[command(subcommand)]
    Connection(commands::connection::Connection),
    /// Stored accounts by owner: read, write, delete
    #[command(subcommand)]
    Account(commands::account::Account),
    /// Agents, their roles and their tokens
    #[command(subcommand)]
    Agent(commands::agent::Agent),
    /// OAuth clients: programs by which people let agents act
    #[command(subcommand)]
    Client(commands::client::Client),
    /// Permissions of agents to use connections
    #[command(subcommand)]
    Grant(commands::grant::Grant),
    /// Calls that wait for a person's word: list, show, approve, refuse
    #[command(subcommand)]
    Approval(commands::approval::Approval),
    /// What agents ask to be granted: list, show, accept, refuse
    #[command(subcommand)]
    Proposal(commands::proposal::Proposal),
    /// Whether an agent may do something with a connection, and why
    Explain(commands::explain::Explain),
    /// What an agent may use, and for whom
    Reach(commands::reach::Reach),
    /// Which agents may use a connection, and for whom
    WhoCan(commands::reach::WhoCan),
    /// An agent's tools on standard input and output, for an MCP client that starts programs. --public-url names the broker
    Mcp(commands::mcp::Mcp),
    /// Move in from another system
    #[command(subcommand)]
    Import(commands::import::Import),
    /// Move out to another system
    #[command(subcommand)]
    Export(commands::export::Export),
    /// People: stop them and let them act again
    #[command(subcommand)]
    Person(commands::person::Person),
    /// What happened, and whether all of it is still there
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    /// Where a site wants to be told what happened
    #[command(subcommand)]
    Webhook(commands::webhook::Webhook),
}

impl Command {
    /// What is logged where nothing is asked for: servers tell what they do, commands only what is wrong. What goes wrong
    /// with the command's own request is its answer already.
    pub(crate) fn usual_log(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            Self::Dev(_) => "warn",
            // Everything that can go wrong is made to, and its table says what came of it.
            Self::Provider(commands::provider::Provider::Try(_)) => "off",
            _ => "warn,valetkey_http::edge=off,valetkey_http::routes=off",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_put_together_without_contradictions() {
        Cli::command().debug_assert();
    }
}
