//! The library against both databases.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod accounts;
mod accounts_in_context;
mod app_config;
mod arrows;
mod audit;
mod authlib;
mod authority;
mod bluesky;
mod broker;
mod client;
mod config_in_context;
mod conformance;
mod connect;
mod credentials;
mod data_machine;
mod db;
mod decision;
mod deliver;
mod desk;
mod entered;
mod entered_renewal;
mod export;
mod extend;
mod import;
mod import_reads;
mod import_tokens;
mod lab_definition;
mod mail;
mod moving;
mod person;
mod ready_client;
mod refresh;
mod refresh_age;
mod refresh_crash;
mod refresh_due;
mod refresh_lost;
mod refresh_replicas;
mod refresh_slots;
mod revoke;
mod seal;
mod signed;
mod site;
mod support;
mod town;
