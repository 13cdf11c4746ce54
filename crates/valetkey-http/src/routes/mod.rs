//! The handlers, one file per noun, the same nouns as the library's rooms.

pub(crate) mod deliver;
pub(crate) mod health;
pub(crate) mod sites;
