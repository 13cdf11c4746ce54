//! Tests of the real binary: every one starts it as a process and speaks to it from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod agent_builders;
mod api;
mod approvals;
mod auth;
mod authority;
mod browser;
mod canary;
mod clients;
mod dev;
mod device;
mod doctor;
mod import_killed;
mod keys;
mod ledger;
mod main_job;
mod mcp;
mod moving;
mod nginx;
mod provider;
mod refresh_survival;
mod revocation;
mod saves;
mod scene;
mod serve;
mod support;
mod tokens;
mod trial;
mod webhooks;
