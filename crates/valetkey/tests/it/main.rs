//! The library against both databases.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod arrows;
mod audit;
mod broker;
mod conformance;
mod connect;
mod credentials;
mod db;
mod decision;
mod deliver;
mod lab_definition;
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
