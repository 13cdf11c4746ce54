//! Failed attempts, counted so that guessing is slow: a bucket for each address, client or person.
//!
//! Each replica counts for itself; the secrets that are guessed at have 256 bits, and the codes that people type 34. What is
//! limited is the work and the log that a guesser makes.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many buckets are kept; whoever comes beyond them shares one.
const MOST: usize = 10_000;
/// How often the empty ones are thrown away, which is a look at them all.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The key of that one.
const SHARED: &str = "";

/// Buckets that each hold a number of failures, and lose one at an interval (GCRA).
#[derive(Debug)]
pub(crate) struct Failures {
    burst: u32,
    every: Duration,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When each bucket will be empty.
    empty_at: HashMap<String, Instant>,
    /// When the empty ones were last thrown away.
    swept: Option<Instant>,
}

impl Failures {
    pub(crate) fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, buckets: Mutex::default() }
    }

    /// How long a bucket stays full; nothing where it is not.
    pub(crate) fn wait(&self, key: &str) -> Option<Duration> {
        self.wait_at(key, Instant::now())
    }

    /// Puts a failure into a bucket. How long it is full now; nothing where it is not.
    pub(crate) fn note(&self, key: &str) -> Option<Duration> {
        self.note_at(key, Instant::now())
    }

    fn wait_at(&self, key: &str, now: Instant) -> Option<Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let empty_at = &buckets.empty_at;
        let full = empty_at.len() >= MOST;
        let empty_at = empty_at.get(key).or_else(|| empty_at.get(SHARED).filter(|_| full))?;
        self.full_for(*empty_at, now)
    }

    fn note_at(&self, key: &str, now: Instant) -> Option<Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { empty_at: buckets, swept } = &mut *buckets;
        let swept_lately = swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_EVERY);
        if buckets.len() >= MOST && !swept_lately {
            buckets.retain(|_, empty_at| *empty_at > now);
            *swept = Some(now);
        }
        let key = if buckets.len() >= MOST && !buckets.contains_key(key) { SHARED } else { key };
        let empty_at = buckets.get(key).copied().unwrap_or(now).max(now) + self.every;
        // What comes while it is full does not make it fuller: whoever waits gets in.
        let empty_at = empty_at.min(now + self.every * (self.burst + 1));
        buckets.insert(key.to_owned(), empty_at);
        self.full_for(empty_at, now)
    }

    fn full_for(&self, empty_at: Instant, now: Instant) -> Option<Duration> {
        let held = empty_at.saturating_duration_since(now);
        let room = self.every * self.burst;
        (held > room).then(|| held - room)
    }
}

/// The key of an address. Who has one address of IPv6 has 2^64 of them.
pub(crate) fn address(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_takes_its_burst_and_then_one_at_an_interval() {
        let (failures, start) = (Failures::new(3, Duration::from_secs(2)), Instant::now());
        for _ in 0..3 {
            assert_eq!(failures.note_at("a", start), None);
            assert_eq!(failures.wait_at("a", start), None);
        }
        assert_eq!(failures.note_at("a", start), Some(Duration::from_secs(2)));
        assert_eq!(failures.wait_at("a", start), Some(Duration::from_secs(2)));
        assert_eq!(failures.wait_at("b", start), None, "another one's bucket");
        let later = start + Duration::from_secs(2);
        assert_eq!(failures.wait_at("a", later), None);
        assert_eq!(failures.note_at("a", later), Some(Duration::from_secs(2)));
    }

    #[test]
    fn hammering_a_full_bucket_does_not_close_it_for_longer() {
        let (failures, start) = (Failures::new(1, Duration::from_secs(1)), Instant::now());
        for _ in 0..1000 {
            failures.note_at("a", start);
        }
        assert_eq!(failures.wait_at("a", start), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_crowd_of_strangers_shares_one_bucket_and_takes_no_more_room() {
        let (failures, start) = (Failures::new(1, Duration::from_secs(60)), Instant::now());
        for n in 0..MOST + 10 {
            failures.note_at(&n.to_string(), start);
        }
        assert!(failures.buckets.lock().unwrap().empty_at.len() <= MOST + 1);
        assert!(failures.wait_at("a newcomer", start).is_some());
        // Once the buckets are empty again there is room.
        let later = start + Duration::from_secs(600);
        assert_eq!(failures.note_at("a newcomer", later), None);
        assert!(failures.buckets.lock().unwrap().empty_at.len() <= 2);
    }

    #[test]
    fn an_address_of_version_6_counts_with_its_neighbours() {
        let key = |text: &str| address(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
