//! The lab over real HTTP.

#![expect(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

mod api;
mod control;
mod faults;
mod mimic;
mod oauth;
mod oauth1;
mod support;
