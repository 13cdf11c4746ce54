//! Connecting: links, the code flow, the callback. A test that shows a requirement names it (`R12`).

mod again;
mod choice;
mod device;
mod extensions;
mod hosts;
mod issuer;
pub(crate) mod oauth1;
mod outcomes;
mod payload;
mod register;
pub(crate) mod request;
mod sessions;
mod state;
pub(crate) mod tokens;
pub(crate) mod world;
