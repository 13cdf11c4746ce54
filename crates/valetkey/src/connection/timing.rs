//! When a token should be refreshed: ahead of its end, by a window scaled to its life.

use std::time::Duration;

use crate::clock::Timestamp;

/// The provider's wish for how long before the end of a token it is refreshed.
#[derive(Clone, Copy, Debug)]
pub struct RefreshWindow {
    /// The definition's `before`; five minutes where it says nothing.
    pub before: Duration,
    /// The definition's refresh token life, to keep idle ones alive; absent when unknown.
    pub refresh_life: Option<Duration>,
}

impl Default for RefreshWindow {
    fn default() -> Self {
        Self { before: Duration::from_secs(300), refresh_life: None }
    }
}

/// The moment at which the keeper should refresh, or nothing when it never should.
///
/// The window is at most a third of the token's life, so that a token of one hour is not refreshed all day by a
/// provider-wide wish of seven days. An idle refresh token is spent after two thirds of its life, even where
/// the access token's end is unknown, so that it does not die unused.
pub fn refresh_at(
    issued: Timestamp,
    access_expires: Option<Timestamp>,
    refresh_expires: Option<Timestamp>,
    window: RefreshWindow,
) -> Option<Timestamp> {
    let by_access = access_expires.map(|end| {
        let life = end.since(issued);
        end.minus(window.before.min(life / 3))
    });
    let refresh_life = refresh_expires.map(|end| end.since(issued)).or(window.refresh_life);
    let by_refresh = refresh_life.map(|life| issued.plus(life / 3 * 2));
    match (by_access, by_refresh) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    ///
    #[test]
    fn a_token_is_due_its_window_before_its_end() {
        let window = RefreshWindow { before: 7 * 24 * HOUR, refresh_life: None };
        let due = refresh_at(Timestamp(0), Some(Timestamp(0).plus(30 * 24 * HOUR)), None, window);
        assert_eq!(due, Some(Timestamp(0).plus(23 * 24 * HOUR)));
    }

    #[test]
    fn the_window_is_at_most_a_third_of_the_life() {
        let window = RefreshWindow { before: 24 * HOUR, refresh_life: None };
        assert_eq!(refresh_at(Timestamp(0), Some(Timestamp(0).plus(HOUR)), None, window), Some(Timestamp(0).plus(HOUR / 3 * 2)));
    }

    #[test]
    fn an_idle_refresh_token_is_kept_alive_where_the_access_token_has_no_end() {
        let window = RefreshWindow { before: HOUR, refresh_life: Some(30 * HOUR) };
        assert_eq!(refresh_at(Timestamp(0), None, None, window), Some(Timestamp(0).plus(20 * HOUR)));
    }

    ///
    #[test]
    fn a_token_without_any_end_is_never_refreshed_ahead() {
        assert_eq!(refresh_at(Timestamp(0), None, None, RefreshWindow::default()), None);
    }
}
