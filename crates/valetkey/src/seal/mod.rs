//! Sealing: nothing secret is ever written in the clear (decisions 8).
//!
//! ```text
//! root key (outside the database)  wraps  data keys, one per site and provider, versioned  seal  rows
//! ```
//!
//! 1. [`root`] reads the root keys and refuses to start with none, a wrong one, or one that others can read.
//! 2. [`ring`] holds the opened data keys in memory and makes new ones where none is yet.
//! 3. `envelope` is one sealed value: its bytes and the [`Place`] they are bound to.
//! 4. [`rotate`] changes data keys and root keys while everything runs, and opens every value to verify.
//!
//! What this does not show: a whole row put back from an old backup opens again, because it is in its own place. And
//! whoever holds both the database and a root key can open everything: keep their backups apart.

mod envelope;
pub mod ring;
pub mod root;
pub mod rotate;
mod store;

pub use envelope::Place;
pub use ring::{KeyRing, Started, start};
pub use root::{RootKey, RootKeyId, RootKeys, RootSource};
