//! The API through its own router, on both databases, as named callers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod abuse;
mod access;
mod accounts;
mod agents;
mod app_config;
mod approvals;
mod audit;
mod authority;
mod authzen;
mod clients;
mod connect_sessions;
mod connections;
mod decisions;
mod edge;
mod errors;
mod grants;
mod imports;
mod keys;
mod mcp;
mod oauth;
mod oauth_consent;
mod openapi;
mod outside;
mod pages;
mod pages_approvals;
mod pages_choice;
mod pages_entered;
mod paging;
mod people;
mod providers;
mod proxy;
mod seal_keys;
mod serve;
mod sessions;
mod sites;
mod support;
mod unauthenticated;
mod webhooks;
