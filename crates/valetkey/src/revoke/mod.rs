//! Revocation: a connection ends here at once, and at its provider as soon as that answers (decisions 2, RFC 7009).

pub use crate::connection::{Owed, UpstreamWish};
