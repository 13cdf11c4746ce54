//! What every room stands on: the database, the key ring, the clock and the audit.

use crate::{audit::Audit, clock::Clock, db::Db, seal::KeyRing};

/// The ground that every room stands on; clones share it.
#[derive(Clone)]
pub struct Base {
    /// Where rows live.
    pub db: Db,
    /// What seals and opens them.
    pub ring: KeyRing,
    /// What time it is.
    pub clock: Clock,
    /// What happened.
    pub audit: Audit,
}
