//! The HTTP faces of Valet Key: the API under `/v1`, the pages, the proxy. No SQL here, and no rules: a handler takes a
//! request apart, asks one function of the library, and shapes the answer.
//!
//! How a request travels:
//! 1. [`serve`] accepts the connection, gives it to one of the [`Lanes`], and says in the request's extensions who is at its other end ([`Peer`]).
//! 2. `edge` gives the request an id, believes forwarded headers only of trusted proxies, catches panics, counts and logs.
//! 3. [`router()`] holds every route on one page, with who may call it.
//! 4. `caller` finds out who calls, and refuses whoever the page does not name.
//! 5. A handler in `routes`, in the file of its noun, answers.
//! 6. Whatever goes wrong becomes a problem document (RFC 9457) in `error`, the only place where a status is chosen.

mod caller;
mod csrf;
mod edge;
mod error;
mod extract;
mod failures;
mod lanes;
mod openapi;
pub mod pages;
mod router;
mod routes;
mod serve;
mod signed_in;
mod state;
mod unread;

pub use caller::{Caller, Who};
pub use edge::{LocalOperator, Peer};
pub use error::{Problem, status};
pub use extract::{Body, Path, Query};
pub use lanes::Lanes;
pub use openapi::document;
pub use router::{ROUTES, Route, router};
pub use serve::{serve, serve_local};
pub use state::{AppState, HttpSettings};
