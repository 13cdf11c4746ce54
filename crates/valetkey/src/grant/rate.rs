//! How often a grant may be used in a stretch of time, over all replicas.
//!
//! Uses are reserved in small blocks (decisions 9): a busy grant costs one write for each block, not for each use. What
//! was reserved stands in one row with the moment until which it counts, and a block is reserved by a compare-and-set on
//! that row. So in no stretch of the limit's length are there more uses than the limit says, whichever replica served
//! them. What is left of a block when its time is over is lost: that errs on the strict side.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::Mutex;

use super::store;
use crate::{
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::{GrantId, SiteId},
    provider::RateLimit,
};

/// How many blocks make up a limit. A limit of fewer uses is reserved use by use.
const BLOCKS: u32 = 64;
/// A block of several uses serves for this part of the limit's time.
const LIFE: u32 = 8;
/// How many grants a process holds blocks of; beyond that, those that nobody uses right now are given up.
const HELD: usize = 4_096;
/// How often a block is tried for while other replicas take theirs.
const TRIES: usize = 50;

/// At most so many uses in any stretch of so much time. Written `100/1h`, in seconds, minutes, hours or days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(RateLimit);

impl Rate {
    /// How many uses are reserved at once.
    fn block(self) -> u32 {
        (self.0.count / BLOCKS).max(1)
    }

    /// How long a reserved block serves. A single use is made at once.
    fn life(self) -> Duration {
        if self.block() == 1 { Duration::ZERO } else { self.0.per / LIFE }
    }
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let rate = RateLimit::parse(text);
        rate.map(Self).ok_or_else(|| Error::new(Code::InvalidRequest, "a rate is a count and a time, such as 100/1h or 5/s"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| de::Error::custom(error.message()))
    }
}

/// What was reserved and still counts, as it is stored: each block's end of counting in microseconds since the Unix
/// epoch, and how many uses it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reserved(Vec<(i64, u32)>);

/// Uses that this process may hand out.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Block {
    left: u32,
    until: Timestamp,
}

impl Reserved {
    /// Reserves a block, or says how long to wait until a use is free.
    fn reserve(&mut self, rate: Rate, now: Timestamp) -> Result<Block, Duration> {
        self.0.retain(|(counts_until, _)| *counts_until > now.0);
        let taken: u64 = self.0.iter().map(|(_, uses)| u64::from(*uses)).sum();
        let free = u64::from(rate.0.count).saturating_sub(taken);
        let left = u32::try_from(free).unwrap_or(u32::MAX).min(rate.block());
        if left == 0 {
            let next = self.0.iter().map(|(counts_until, _)| *counts_until).min();
            return Err(next.map_or(rate.0.per, |next| Timestamp(next).since(now)));
        }
        let until = now.plus(rate.life());
        // It may be used up to its last moment, and counts for the whole stretch after that.
        self.0.push((until.plus(rate.0.per).0, left));
        Ok(Block { left, until })
    }
}

/// The rate limits of this process; clones share them.
#[derive(Clone, Default)]
pub struct Limits(Arc<std::sync::Mutex<HashMap<GrantId, Held>>>);

/// What this process holds of one grant's limit. Whoever reserves holds the lock, so that a process does not race itself.
type Held = Arc<Mutex<Option<Block>>>;

impl Limits {
    /// Takes one use of a grant with a rate limit.
    ///
    /// # Errors
    /// `rate_limited` with the time to wait where none is free; `unavailable` where other replicas were always faster.
    pub async fn take(&self, db: &Db, site: &SiteId, grant: &GrantId, rate: Rate, now: Timestamp) -> Result<()> {
        let held = self.held(grant);
        let mut block = held.lock().await;
        if let Some(block) = block.as_mut().filter(|block| block.left > 0 && block.until >= now) {
            block.left -= 1;
            return Ok(());
        }
        for _ in 0..TRIES {
            let mut tx = db.begin_bookkeeping().await?;
            let (version, mut reserved) = store::reserved(&mut tx, site, grant).await?;
            let found = match reserved.reserve(rate, now) {
                Ok(found) => found,
                Err(wait) => {
                    let text = format!("the grant is for {rate}, and that is reached; wait a while");
                    return Err(Error::new(Code::RateLimited, text).with_retry_after(wait));
                }
            };
            if store::set_reserved(&mut tx, site, grant, version, &reserved).await? {
                tx.commit().await?;
                *block = Some(Block { left: found.left - 1, ..found });
                return Ok(());
            }
        }
        let text = "the grant's limit could not be read for all who count on it; try again";
        Err(Error::new(Code::Unavailable, text).with_retry_after(Duration::from_secs(1)))
    }

    /// How long to wait until a use of a grant with a rate limit is free; nothing where one is. It takes none, and reserves none.
    pub async fn wait(&self, db: &Db, site: &SiteId, grant: &GrantId, rate: Rate, now: Timestamp) -> Result<Option<Duration>> {
        // Whoever only asks makes no place for a grant that nobody here uses.
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(grant).cloned();
        let block = match held {
            Some(held) => *held.lock().await,
            None => None,
        };
        if block.is_some_and(|block| block.left > 0 && block.until >= now) {
            return Ok(None);
        }
        Ok(store::reserved_now(db, site, grant).await?.reserve(rate, now).err())
    }

    fn held(&self, grant: &GrantId) -> Held {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get(grant) {
            return Arc::clone(held);
        }
        if all.len() >= HELD {
            // What is left of their blocks is lost.
            all.retain(|_, held| Arc::strong_count(held) > 1);
        }
        let held = Held::default();
        all.insert(grant.clone(), Arc::clone(&held));
        held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_a_count_and_a_time() {
        for (text, written) in [("100/1h", "100/1h"), ("5/s", "5/1s"), ("3/90m", "3/90m"), ("1/60s", "1/1m")] {
            assert_eq!(rate(text).to_string(), written);
            assert_eq!(serde_json::from_value::<Rate>(serde_json::json!(text)).unwrap(), rate(written));
        }
        for text in ["", "5", "5/", "/s", "0/s", "-1/s", "5/0s", "5/1y", "5/s/s", "5.5/s", "5 / s", "99999999999/s"] {
            assert_eq!(text.parse::<Rate>().unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        }
    }

    #[test]
    fn a_limit_is_reached_and_is_free_again_after_its_time() {
        let (mut reserved, start) = (Reserved::default(), Timestamp::from_unix_seconds(1_000));
        for n in 0..5 {
            reserved.reserve(rate("5/1m"), start.plus(SECOND * n)).unwrap();
        }
        // The first counts for a minute.
        assert_eq!(reserved.reserve(rate("5/1m"), start.plus(SECOND * 10)), Err(SECOND * 50));
        assert!(reserved.reserve(rate("5/1m"), start.plus(SECOND * 60)).is_ok());
        assert_eq!(reserved.reserve(rate("5/1m"), start.plus(SECOND * 60)), Err(SECOND));
    }

    #[test]
    fn a_large_limit_is_reserved_in_blocks() {
        let mut reserved = Reserved::default();
        let block = reserved.reserve(rate("6400/1h"), Timestamp(0)).unwrap();
        assert_eq!(block, Block { left: 100, until: Timestamp(0).plus(SECOND * 450) });
    }

    proptest! {
        /// Uses as a process makes them, at times that proptest chooses: no stretch of the limit's length holds too many.
        #[test]
        fn no_stretch_of_time_holds_more_uses_than_the_limit(
            count in 1u32..300,
            waits in proptest::collection::vec(0u64..20_000_000, 1..400),
        ) {
            let rate = Rate(RateLimit { count, per: Duration::from_secs(60) });
            let (mut reserved, mut block, mut now) = (Reserved::default(), None::<Block>, Timestamp(0));
            let mut made: Vec<Timestamp> = Vec::new();
            for wait in waits {
                now = now.plus(Duration::from_micros(wait / u64::from(count)));
                if block.is_none_or(|block| block.left == 0 || block.until < now) {
                    block = reserved.reserve(rate, now).ok();
                }
                if let Some(block) = &mut block {
                    block.left -= 1;
                    made.push(now);
                }
            }
            let most = usize::try_from(count).unwrap();
            for pair in made.windows(most + 1) {
                prop_assert!(pair[most].since(pair[0]) >= Duration::from_secs(60));
            }
            prop_assert!(reserved.0.len() <= 200);
        }
    }
}
