//! Patience with what fails: pauses that grow, providers that are left alone for a while, one alert and not a thousand.
//!
//! All of it is memory of this process. What must survive it (when to try a connection again) is in the row.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::lock;
pub(super) use crate::clock::{backoff, fraction};
use crate::{app_config::AppConfig, clock::Timestamp, id::AppConfigId};

/// Providers that fail for everybody are left alone for a while. A provider is its token endpoint's host and port: each
/// instance of a self-hosted service is one of its own.
pub(super) struct Breakers {
    after: u32,
    first: Duration,
    longest: Duration,
    map: Mutex<HashMap<String, Breaker>>,
}

#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

/// More failing providers than this are not told apart: then all are tried.
const MOST: usize = 10_000;

impl Breakers {
    pub(super) fn new(after: u32, first: Duration, longest: Duration) -> Self {
        Self { after: after.max(1), first, longest, map: Mutex::default() }
    }

    /// Whether a request may go there; otherwise how long it may not. After a pause one request tries how it is, and the
    /// others wait for what comes of it.
    pub(super) fn admit(&self, authority: &str) -> Result<Admission<'_>, Duration> {
        let mut map = lock(&self.map);
        let mut is_probe = false;
        if let Some(breaker) = map.get_mut(authority).filter(|breaker| breaker.failures >= self.after) {
            let now = Instant::now();
            match breaker.open_until {
                Some(until) if until > now => return Err(until - now),
                _ if breaker.probing => return Err(Duration::from_secs(1)),
                _ => {
                    breaker.probing = true;
                    is_probe = true;
                }
            }
        }
        drop(map);
        Ok(Admission { breakers: self, authority: authority.to_owned(), is_probe })
    }
}

/// Leave to send one request. Dropped without a word, it says nothing about the provider.
pub(super) struct Admission<'a> {
    breakers: &'a Breakers,
    authority: String,
    is_probe: bool,
}

impl Admission<'_> {
    /// The provider answered sensibly, whatever it answered.
    pub(super) fn succeeded(self) {
        lock(&self.breakers.map).remove(&self.authority);
    }

    /// It did not answer, or said that it cannot.
    pub(super) fn failed(mut self, retry_after: Option<Duration>) {
        let breakers = self.breakers;
        let mut map = lock(&breakers.map);
        if map.len() >= MOST {
            map.clear();
        }
        let breaker = map.entry(self.authority.clone()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        if self.is_probe {
            breaker.probing = false;
            self.is_probe = false;
        }
        if breaker.failures >= breakers.after {
            let pause = backoff(i64::from(breaker.failures - breakers.after) + 1, breakers.first, breakers.longest);
            let pause = pause.max(retry_after.unwrap_or_default());
            if breaker.failures == breakers.after {
                tracing::warn!(provider.host = %self.authority, pause = ?pause, "a provider does not answer; it is left alone for a while");
            }
            breaker.open_until = Some(Instant::now() + pause);
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(breaker) = lock(&self.breakers.map).get_mut(&self.authority)
        {
            breaker.probing = false;
        }
    }
}

/// App configurations that their provider refused: one alert each, and a pause for all their connections.
#[derive(Default)]
pub(super) struct Alerts(Mutex<HashMap<AppConfigId, Refused>>);

struct Refused {
    /// The configuration as it was: a changed one is tried at once.
    updated_at: Timestamp,
    last: Instant,
    alerted: Instant,
}

/// How long the connections of a refused app configuration wait before one of them tries again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// How often the same trouble raises an alert.
const ALERT_EVERY: Duration = Duration::from_secs(3600);

impl Alerts {
    /// How long not to ask with this configuration.
    pub(super) fn pause(&self, config: &AppConfig) -> Option<Duration> {
        let map = lock(&self.0);
        let refused = map.get(&config.id).filter(|refused| refused.updated_at == config.updated_at)?;
        let left = REFUSED_PAUSE.saturating_sub(refused.last.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// Notes that it was refused; true where somebody should be told.
    pub(super) fn refuse(&self, config: &AppConfig) -> bool {
        let mut map = lock(&self.0);
        let now = Instant::now();
        match map.get_mut(&config.id) {
            Some(refused) if refused.updated_at == config.updated_at && refused.alerted.elapsed() < ALERT_EVERY => {
                refused.last = now;
                false
            }
            _ => {
                if map.len() >= MOST {
                    map.clear();
                }
                map.insert(config.id.clone(), Refused { updated_at: config.updated_at, last: now, alerted: now });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pause_doubles_up_to_the_longest_and_is_never_less_than_half() {
        for (failures, whole) in [(0, 5), (1, 5), (2, 10), (3, 20), (8, 600), (100, 600), (i64::MAX, 600)] {
            let pause = backoff(failures, 5 * SECOND, 600 * SECOND);
            assert!(pause >= whole * SECOND / 2 && pause <= whole * SECOND, "{failures}: {pause:?}");
        }
    }

    const TICK: Duration = Duration::from_millis(40);

    #[test]
    fn after_several_failures_a_provider_is_left_alone_and_then_tried_by_one() {
        let breakers = Breakers::new(3, TICK, TICK);
        for _ in 0..3 {
            breakers.admit("a.example").unwrap().failed(None);
        }
        assert!(breakers.admit("a.example").is_err());
        assert!(breakers.admit("b.example").is_ok());
        std::thread::sleep(2 * TICK);
        let probe = breakers.admit("a.example").unwrap();
        assert!(breakers.admit("a.example").is_err());
        probe.succeeded();
        assert!(breakers.admit("a.example").is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_lets_the_next_one_try() {
        let breakers = Breakers::new(1, TICK, TICK);
        breakers.admit("a.example").unwrap().failed(None);
        std::thread::sleep(2 * TICK);
        drop(breakers.admit("a.example").unwrap());
        assert!(breakers.admit("a.example").is_ok());
    }

    #[test]
    fn the_provider_s_own_pause_counts_where_it_is_longer() {
        let breakers = Breakers::new(1, TICK, TICK);
        breakers.admit("a.example").unwrap().failed(Some(30 * SECOND));
        std::thread::sleep(2 * TICK);
        assert!(breakers.admit("a.example").err().is_some_and(|wait| wait > 20 * SECOND));
    }
}
