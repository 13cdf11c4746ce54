//! The API through its own router, on both databases, as named callers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop; clippy knows test functions, not what they call")]

mod edge;
mod pages;
mod sites;
mod support;
