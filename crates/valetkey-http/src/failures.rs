//! Failed attempts, counted so that guessing is slow: a bucket for each address, client or person.
//!
//! Each replica counts for itself; the secrets that are guessed at have 256 bits, and the codes that people type 34. What is
//! limited is the work and the log that a guesser makes. Whoever did nothing yet never waits for what others did: where there are
//! more buckets than are kept, the emptiest are forgotten, and no bucket is shared but by the addresses of one network.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many buckets are kept of each kind.
const MOST: usize = 10_000;
/// How many times as much the bucket of a /48 takes as that of a /64: it may be one customer's, or a whole provider's.
const WIDER: u32 = 16;

/// Everything that is counted. Each kind has buckets of its own, so that a crowd of one kind takes no room from another.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Failed proofs of clients, codes and refresh tokens, by address.
    pub(crate) addresses: Addresses,
    /// The same by the client that is claimed.
    pub(crate) clients: Failures,
    /// Sign-ins on devices that clients without a secret begin: each makes a row.
    pub(crate) devices: Addresses,
    /// Clients that register themselves: each makes a row.
    pub(crate) registrations: Addresses,
    /// Wrong codes that signed-in people type.
    pub(crate) people: Failures,
    /// Tokens that were asked about and are not active. A busy resource server meets many.
    pub(crate) unknown_tokens: Failures,
}

impl Default for Counts {
    fn default() -> Self {
        let (burst, every) = (30, Duration::from_secs(2));
        Self {
            addresses: Addresses::new(burst, every),
            clients: Failures::new(burst, every),
            devices: Addresses::new(burst, every),
            registrations: Addresses::new(burst, every),
            people: Failures::new(burst, every),
            unknown_tokens: Failures::new(300, Duration::from_millis(50)),
        }
    }
}

/// Failures by address. Who has one address of IPv6 has 2^64 of them, and often 2^80: each /64 has a bucket, and so has each /48.
#[derive(Debug)]
pub(crate) struct Addresses {
    narrow: Failures,
    wide: Failures,
}

impl Addresses {
    fn new(burst: u32, every: Duration) -> Self {
        Self { narrow: Failures::new(burst, every), wide: Failures::new(burst * WIDER, every / WIDER) }
    }

    /// How long a bucket of this address stays full; nothing where none is.
    pub(crate) fn wait(&self, ip: IpAddr) -> Option<Duration> {
        let (narrow, wide) = keys(ip);
        self.narrow.wait(&narrow).max(wide.and_then(|wide| self.wide.wait(&wide)))
    }

    /// Puts a failure into the buckets of an address. How long one of them is full now; nothing where none is.
    pub(crate) fn note(&self, ip: IpAddr) -> Option<Duration> {
        let (narrow, wide) = keys(ip);
        self.narrow.note(&narrow).max(wide.and_then(|wide| self.wide.note(&wide)))
    }
}

/// Buckets that each hold a number of failures, and lose one at an interval (GCRA).
#[derive(Debug)]
pub(crate) struct Failures {
    burst: u32,
    every: Duration,
    /// When each bucket will be empty.
    buckets: Mutex<HashMap<String, Instant>>,
}

impl Failures {
    fn new(burst: u32, every: Duration) -> Self {
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
        self.full_for(*buckets.get(key)?, now)
    }

    fn note_at(&self, key: &str, now: Instant) -> Option<Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(key) {
            make_room(&mut buckets, now);
        }
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

/// Throws away the empty buckets, and then the emptiest until half of the room is free: a look at them all, once for so many
/// newcomers. Who fails again and again has the fullest, and so is not forgotten for a crowd that fails once each.
fn make_room(buckets: &mut HashMap<String, Instant>, now: Instant) {
    buckets.retain(|_, empty_at| *empty_at > now);
    let mut over = buckets.len().saturating_sub(MOST / 2);
    if over == 0 {
        return;
    }
    let mut ends: Vec<Instant> = buckets.values().copied().collect();
    let (_, last, _) = ends.select_nth_unstable(over - 1);
    let last = *last;
    buckets.retain(|_, empty_at| {
        let goes = over > 0 && *empty_at <= last;
        over -= usize::from(goes);
        !goes
    });
}

/// The keys of an address: its own, or its /64; and the /48 around that.
fn keys(ip: IpAddr) -> (String, Option<String>) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (ip.to_string(), None),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            let network = |d| Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string();
            (network(d), Some(network(0)))
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
    fn a_crowd_that_fails_once_each_shuts_no_newcomer_out_and_forgets_nobody_who_fails_often() {
        let (failures, start) = (Failures::new(3, Duration::from_secs(60)), Instant::now());
        for _ in 0..9 {
            failures.note_at("a guesser", start);
        }
        for n in 0..3 * MOST {
            assert_eq!(failures.note_at(&n.to_string(), start), None, "{n}");
        }
        assert!(failures.buckets.lock().unwrap().len() <= MOST);
        assert_eq!(failures.wait_at("a newcomer", start), None);
        assert_eq!(failures.note_at("a newcomer", start), None);
        assert_eq!(failures.wait_at("a guesser", start), Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_newcomer_has_a_bucket_where_all_others_are_full() {
        let (failures, start) = (Failures::new(1, Duration::from_secs(60)), Instant::now());
        for n in 0..MOST {
            failures.note_at(&n.to_string(), start);
            assert!(failures.note_at(&n.to_string(), start).is_some());
        }
        assert_eq!(failures.wait_at("a newcomer", start), None);
        assert_eq!(failures.note_at("a newcomer", start), None);
        assert!(failures.note_at("a newcomer", start).is_some(), "it is counted like the others");
        assert_eq!(failures.buckets.lock().unwrap().len(), MOST / 2 + 1);
    }

    #[test]
    fn empty_buckets_go_before_any_other() {
        let (failures, start) = (Failures::new(1, Duration::from_secs(60)), Instant::now());
        for n in 0..MOST {
            failures.note_at(&n.to_string(), start);
        }
        let later = start + Duration::from_secs(600);
        assert_eq!(failures.note_at("a newcomer", later), None);
        assert_eq!(failures.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_address_of_version_6_counts_with_its_neighbours() {
        let key = |text: &str| keys(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1").0, key("2001:db8:1:3::1").0);
        assert_eq!(key("2001:db8:1:2::1").1, key("2001:db8:1:3::1").1);
        assert_ne!(key("2001:db8:1:2::1").1, key("2001:db8:2:2::1").1);
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("192.0.2.1"), ("192.0.2.1".to_owned(), None));
    }

    #[test]
    fn a_network_that_fails_from_ever_new_addresses_waits_and_its_neighbour_does_not() {
        let counts = Counts::default();
        let network = |n: u32| -> IpAddr { format!("2001:db8:1:{n:x}::1").parse().unwrap() };
        let full = (0..10_000).find(|n| counts.addresses.note(network(*n)).is_some());
        assert!(full.is_some_and(|n| n >= 30 * WIDER), "{full:?}");
        assert!(counts.addresses.wait(network(0xffff)).is_some(), "one that did not fail yet");
        assert_eq!(counts.addresses.wait("2001:db8:2::1".parse().unwrap()), None);
        assert_eq!(counts.devices.wait(network(0)), None, "another kind");
    }
}
