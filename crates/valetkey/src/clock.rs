//! Time as an argument: 64-bit microseconds since the Unix epoch, from a clock that tests can set.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::{
    error::{Code, Error, Result},
    id,
};

/// A moment: microseconds since the Unix epoch, UTC. Prints as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment moved by a duration; saturates at the ends of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment moved back by a duration.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since the Unix epoch, as OAuth counts time.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => f.write_str("out of range"),
        }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = Error;

    /// Reads an RFC 3339 moment.
    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<jiff::Timestamp>() {
            Ok(moment) => Ok(Self(moment.as_microsecond())),
            Err(_) => Err(Error::new(Code::InvalidRequest, "a moment is written as in RFC 3339: 2027-01-31T12:00:00Z")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|e: Error| serde::de::Error::custom(e.message()))
    }
}

/// Where the time comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved; for tests.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `start`.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.0)))
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp(jiff::Timestamp::now().as_microsecond()),
            Clock::Manual(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; the system clock is nobody's to move.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(micros) = self {
            micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// How long to wait after so many failures in a row: doubling, at most `longest`, and by chance somewhere in the upper
/// half, so that what failed together does not come back together.
pub(crate) fn backoff(failures: i64, first: Duration, longest: Duration) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1).clamp(0, 16)).unwrap_or(0);
    let pause = first.saturating_mul(1 << doublings).min(longest);
    pause / 2 + fraction(pause / 2)
}

/// A part of `whole` by chance.
pub(crate) fn fraction(whole: Duration) -> Duration {
    // Without random bytes there is no jitter, and nothing else is lost.
    let chance = id::random::<2>().map_or(u16::MAX, u16::from_le_bytes);
    whole.mul_f64(f64::from(chance) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_rfc_3339() {
        assert_eq!(Timestamp::from_unix_seconds(1_700_000_000).to_string(), "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn a_moment_is_read_as_it_is_printed_and_in_any_zone() {
        let moment: Timestamp = "2023-11-15T00:13:20+02:00".parse().unwrap();
        assert_eq!(moment, Timestamp::from_unix_seconds(1_700_000_000));
        assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        assert!("tomorrow".parse::<Timestamp>().is_err() && "1700000000".parse::<Timestamp>().is_err());
    }

    #[test]
    fn moving_past_the_ends_of_time_saturates() {
        assert_eq!(Timestamp(i64::MAX).plus(Duration::from_secs(1)), Timestamp(i64::MAX));
        assert_eq!(Timestamp(0).since(Timestamp(5)), Duration::ZERO);
    }
}
