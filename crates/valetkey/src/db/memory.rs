//! What was loaded from the embedded database, remembered for as long as nothing was committed since (decisions 2).

use std::{hash::Hash, sync::Arc};

use quick_cache::sync::Cache;

use super::Db;
use crate::error::Result;

/// Remembers what was loaded together with the epoch that was read *before* loading; it counts only while that epoch is current.
/// On PostgreSQL it remembers nothing: another replica may change anything at any moment. Clones share it.
pub struct Memory<K, V>(Option<Arc<Cache<K, (u64, V)>>>);

impl<K, V> Clone for Memory<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    /// A memory of at most so many things.
    pub fn new(db: &Db, capacity: usize) -> Self {
        Self(db.is_sqlite().then(|| Arc::new(Cache::new(capacity))))
    }

    /// What is remembered, or else what `load` finds; nothing where it finds nothing.
    pub async fn or_load(&self, db: &Db, key: K, load: impl Future<Output = Result<Option<V>>>) -> Result<Option<V>> {
        let Some(cache) = &self.0 else { return load.await };
        // INVARIANT: the epoch is read before loading. A commit in between makes what was loaded count for nothing.
        let epoch = db.epoch();
        if let Some((then, known)) = cache.get(&key)
            && then == epoch
        {
            return Ok(Some(known));
        }
        let found = load.await?;
        // What is not there is not remembered: a stranger could fill the memory with it.
        if let Some(found) = &found {
            cache.insert(key, (epoch, found.clone()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;

    #[tokio::test]
    async fn what_was_loaded_counts_until_somebody_commits() {
        let (db, _dir) = testing::sqlite().await;
        let memory = Memory::new(&db, 10);
        let ask = async |value: Option<u8>| memory.or_load(&db, "key", async { Ok(value) }).await.unwrap();
        assert_eq!((ask(None).await, ask(Some(1)).await, ask(Some(2)).await), (None, Some(1), Some(1)));
        db.begin_bookkeeping().await.unwrap().commit().await.unwrap();
        assert_eq!(ask(Some(3)).await, Some(1));
        db.begin().await.unwrap().commit().await.unwrap();
        assert_eq!((ask(Some(4)).await, ask(None).await), (Some(4), Some(4)));
    }

    #[tokio::test]
    async fn what_was_loaded_while_somebody_committed_counts_for_nothing() {
        let (db, _dir) = testing::sqlite().await;
        let memory = Memory::new(&db, 10);
        let slow = async {
            db.bump_epoch();
            Ok(Some(1))
        };
        assert_eq!(memory.or_load(&db, "key", slow).await.unwrap(), Some(1));
        assert_eq!(memory.or_load(&db, "key", async { Ok(Some(2)) }).await.unwrap(), Some(2));
    }
}
