//! The binary `valetkey`: the server, the command line, and `dev`.
//!
//! Every command is a client of the same HTTP API (`client.rs`); it builds a request, gets JSON, and prints a table or
//! the JSON itself. `serve` and `dev` run the API.

mod cli;
mod client;
mod commands;
#[cfg(test)]
mod docs;
mod failure;
mod logging;
mod moments;
mod opened;
mod output;
#[cfg(test)]
mod reference;
mod secrets;
mod settings;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{cli::Cli, commands::Session, failure::Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(json),
    }
}

fn run(cli: Cli) -> failure::Result<()> {
    // Whatever file comes into being, also in a folder that others may enter: it is ours alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Before anything can speak TLS: the one provider that we build (deny.toml bans the others).
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err(Failure::failed("the TLS library was set up twice"));
    }
    let variable = |name: &str| std::env::var(name).ok();
    logging::start(&cli.global, cli.command.usual_log(), variable)?;
    let session = Session::new(&cli.global, variable)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the runtime could not be started").with_detail(error))?;
    runtime.block_on(commands::run(cli.command, session))
}
