//! Connecting: links, the code flow, the callback. A test that shows a requirement names it (`R12`).

mod again;
mod choice;
mod device;
mod extensions;
mod hosts;
mod issuer;
mod outcomes;
mod payload;
mod register;
mod request;
mod sessions;
mod state;
mod tokens;
pub(crate) mod world;
