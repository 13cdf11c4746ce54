//! Durations and moments as people type them.

use std::time::Duration;

use valetkey::clock::Timestamp;

/// A whole number from 1 with `s`, `m`, `h` or `d`: `30s`, `15m`, `90d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 30s, 15m, 12h or 90d");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit)
        .filter(|seconds| (1..=100 * 366 * 86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// A whole number of seconds from 1: `3600`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a number of seconds from 1");
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    duration(&format!("{text}s")).map_err(|_| wrong())
}

/// When something shall end: a moment, or a time from now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so long.
    After(Duration),
    /// At this moment.
    At(Timestamp),
}

impl Until {
    /// Reads `90d` or an RFC 3339 moment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(Timestamp(moment.as_microsecond())));
        }
        duration(text)
            .map(Self::After)
            .map_err(|_| format!("`{text}` is neither a duration such as 90d nor a moment such as 2027-01-31T12:00:00Z"))
    }

    /// The moment, seen from `now`.
    pub(crate) fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::After(duration) => now.plus(duration),
            Self::At(moment) => moment,
        }
    }

    /// The moment, where a time is one ago: so long before `now`.
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::After(duration) => now.minus(duration),
            Self::At(moment) => moment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(2 * 86_400)));
        for text in ["", "s", "0s", "30", "-1s", "1.5h", "1h30m", "99999999999999999999s", "30000000000d", "5 s", "5S"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn seconds_are_a_number_from_one() {
        assert_eq!(seconds("3600"), Ok(Duration::from_secs(3600)));
        for text in ["", "0", "-1", "+1", "1.5", "1h", "60s", "never", "99999999999999999999"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_end_is_a_moment_or_a_time_from_now() {
        let now = Timestamp::from_unix_seconds(1_000);
        assert_eq!(Until::parse("1m").unwrap().from(now), Timestamp::from_unix_seconds(1_060));
        assert_eq!(Until::parse("1970-01-01T00:01:00Z").unwrap().from(now), Timestamp::from_unix_seconds(60));
        assert!(Until::parse("tomorrow").is_err());
    }
}
