//! Placeholder until the refresh engine lands (its own branch brings this file whole).

use std::{sync::Arc, time::Duration};

use crate::{
    connection::{Connection, Stored},
    error::{Code, Error, Result},
    secret::SecretMap,
};

/// What a caller wishes of the token.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The life it should have left.
    pub min_life: Option<Duration>,
    /// The version an upstream refused.
    pub rejected_version: Option<i64>,
}

/// A usable account.
#[derive(Debug)]
pub struct Served {
    /// The account.
    pub account: SecretMap,
    /// Its connection.
    pub connection: Connection,
}

/// Serves accounts.
#[derive(Clone, Debug)]
pub struct Refresher;

impl Refresher {
    /// Serves nothing yet.
    pub async fn serve(&self, _stored: Arc<Stored>, _wish: Wish) -> Result<Served> {
        Err(Error::new(Code::EngineMissing, "the refresh engine is not here yet"))
    }
}
