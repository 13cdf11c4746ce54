//! The look-up of facts, with the authority cache of the embedded database.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::facts::{self, Facts};
use crate::{db::Db, error::Result, id::ConnectionId, token::TokenHash};

/// How many (token, connection) pairs are remembered.
const CAPACITY: usize = 20_000;

/// Loads facts; on SQLite it remembers them as long as nothing was committed since.
#[derive(Clone)]
pub struct Authority {
    db: Db,
    cache: Option<Arc<Cache<Key, (u64, Arc<Facts>)>>>,
}

type Key = (TokenHash, ConnectionId);

impl Authority {
    /// The look-up for a database. PostgreSQL caches no authority: another replica may revoke at any moment.
    pub fn new(db: Db) -> Self {
        let cache = db.is_sqlite().then(|| Arc::new(Cache::new(CAPACITY)));
        Self { db, cache }
    }

    /// The facts for a presented token and a connection; nothing when there is no such token.
    pub async fn facts(&self, token: &TokenHash, connection: &ConnectionId) -> Result<Option<Arc<Facts>>> {
        let Some(cache) = &self.cache else {
            return Ok(facts::for_token(&self.db, token, connection).await?.map(Arc::new));
        };
        // INVARIANT: the epoch is read before loading. A commit in between makes what was loaded count for nothing.
        let epoch = self.db.epoch();
        let key = (token.clone(), connection.clone());
        if let Some((then, facts)) = cache.get(&key)
            && then == epoch
        {
            return Ok(Some(facts));
        }
        let Some(loaded) = facts::for_token(&self.db, token, connection).await?.map(Arc::new) else {
            // Unknown tokens are not remembered: a stranger could fill the cache with them.
            return Ok(None);
        };
        cache.insert(key, (epoch, Arc::clone(&loaded)));
        Ok(Some(loaded))
    }
}
