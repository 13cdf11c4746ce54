//! The lab over real HTTP.

mod api;
mod control;
mod faults;
mod oauth;
mod support;
