//! From an allowed decision to a credential in use.
//!
//! The pure rules of the proxy (decisions 7), each a function of plain arguments:
//!
//! 1. [`path`]: what is not plainly spelled is refused, never normalised.
//! 2. [`rules`]: methods, method overrides, batch endpoints.
//! 3. [`headers`]: what of the caller's headers goes on, and what of the provider's comes back.
//! 4. [`inject`]: the credential, put in last.
//! 5. [`echo`]: a credential that comes back in an answer's headers is taken out.

pub mod echo;
pub mod headers;
pub mod inject;
pub mod path;
pub mod query;
pub mod rules;
