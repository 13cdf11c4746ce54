//! Connecting: links, the code flow, the callback. One test per requirement of docs/requirements that concerns it, with
//! its number.

mod issuer;
mod outcomes;
mod request;
mod sessions;
mod state;
mod tokens;
mod world;
