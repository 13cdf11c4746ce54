//! The handlers, one file per noun, the same nouns as the library's rooms.

pub(crate) mod accounts;
pub(crate) mod agents;
pub(crate) mod app_config;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod authzen;
pub(crate) mod clients;
pub(crate) mod connect_sessions;
pub(crate) mod connections;
pub(crate) mod consents;
pub(crate) mod decisions;
pub(crate) mod deliver;
pub(crate) mod exports;
pub(crate) mod grants;
pub(crate) mod health;
pub(crate) mod imports;
pub(crate) mod keys;
mod lines;
pub(crate) mod mcp;
pub(crate) mod oauth;
pub(crate) mod people;
pub(crate) mod proposals;
pub(crate) mod providers;
pub(crate) mod reach;
pub(crate) mod revocations;
pub(crate) mod scope_policies;
pub(crate) mod seal_keys;
pub(crate) mod sites;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod webhooks;

use valetkey::clock::Timestamp;

/// How many things a page of a list has at most, and where nobody says how many.
const MOST: u32 = 1000;

/// How many things a page has.
fn limited(asked: Option<u32>) -> u32 {
    asked.unwrap_or(MOST).clamp(1, MOST)
}

/// Where the page after this one begins: at its last id, where it is full.
fn next<T>(page: &[T], limit: u32, id: impl FnOnce(&T) -> String) -> Option<String> {
    (page.len() == limit as usize).then(|| page.last().map(id)).flatten()
}

/// A moment as it stands in answers: RFC 3339.
fn moment(at: Timestamp) -> String {
    at.to_string()
}

/// A moment that may be absent.
fn maybe(at: Option<Timestamp>) -> Option<String> {
    at.map(moment)
}
