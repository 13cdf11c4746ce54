//! When tokens were last used: remembered in memory, written in batches, at most once a minute for each token.
//!
//! The hot path only touches the map. What a crash loses is the last half minute of a column that nothing decides by.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::touch;
use crate::{
    clock::Timestamp,
    db::Db,
    error::Result,
    id::{SiteId, TokenId},
};

/// A token is noted again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// The most tokens that are remembered; uses of further ones are not noted until the next flush makes room.
const MOST: usize = 100_000;

/// The uses that were seen; clones share them.
#[derive(Clone, Debug, Default)]
pub struct LastUsed(Arc<Mutex<HashMap<TokenId, Noted>>>);

#[derive(Debug)]
struct Noted {
    site: SiteId,
    at: Timestamp,
    written: bool,
}

impl LastUsed {
    /// Notes that a token was used. Never waits for anything but this map.
    pub fn note(&self, site: &SiteId, token: &TokenId, now: Timestamp) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = noted.len() >= MOST;
        match noted.get_mut(token) {
            Some(entry) if now.since(entry.at) < AGAIN => {}
            Some(entry) => (entry.at, entry.written) = (now, false),
            None if full => {}
            None => {
                noted.insert(token.clone(), Noted { site: site.clone(), at: now, written: false });
            }
        }
    }

    /// Writes what was noted since the last time, and forgets what is older than a minute. Says how many were written.
    pub async fn flush(&self, db: &Db, now: Timestamp) -> Result<usize> {
        let used: Vec<(SiteId, TokenId, Timestamp)> = {
            let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            noted.iter().filter(|(_, entry)| !entry.written).map(|(id, e)| (e.site.clone(), id.clone(), e.at)).collect()
        };
        if !used.is_empty() {
            touch(db, &used).await?;
        }
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, id, at) in &used {
            if let Some(entry) = noted.get_mut(id).filter(|entry| entry.at == *at) {
                entry.written = true;
            }
        }
        noted.retain(|_, entry| !entry.written || now.since(entry.at) < AGAIN);
        Ok(used.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;

    #[tokio::test]
    async fn a_token_is_noted_once_a_minute() {
        let (db, _dir) = testing::sqlite().await;
        let (used, site, token) = (LastUsed::default(), SiteId::default_site(), TokenId::new());
        let start = Timestamp::from_unix_seconds(1_700_000_000);
        used.note(&site, &token, start);
        used.note(&site, &token, start.plus(Duration::from_secs(59)));
        assert_eq!(used.flush(&db, start).await.unwrap(), 1);
        used.note(&site, &token, start.plus(Duration::from_secs(59)));
        assert_eq!(used.flush(&db, start).await.unwrap(), 0, "within the minute nothing is written again");
        used.note(&site, &token, start.plus(AGAIN));
        assert_eq!(used.flush(&db, start.plus(AGAIN)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_is_written_and_old_is_forgotten() {
        let (db, _dir) = testing::sqlite().await;
        let (used, start) = (LastUsed::default(), Timestamp::from_unix_seconds(1_700_000_000));
        used.note(&SiteId::default_site(), &TokenId::new(), start);
        used.flush(&db, start.plus(AGAIN)).await.unwrap();
        assert!(used.0.lock().unwrap().is_empty());
    }
}
