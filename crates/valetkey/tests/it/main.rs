//! The library against both databases.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod accounts;
mod accounts_in_context;
mod app_config;
mod arrows;
mod audit;
mod broker;
mod client;
mod conformance;
mod connect;
mod credentials;
mod data_machine;
mod db;
mod decision;
mod deliver;
mod desk;
mod export;
mod extend;
mod import;
mod import_reads;
mod import_tokens;
mod lab_definition;
mod mail;
mod moving;
mod refresh;
mod refresh_crash;
mod refresh_due;
mod refresh_lost;
mod refresh_replicas;
mod revoke;
mod seal;
mod site;
mod support;
mod town;
