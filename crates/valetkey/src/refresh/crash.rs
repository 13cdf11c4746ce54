//! Named points at which a refresh can be made to die, so that tests of the real binary can show what survives.
//!
//! `VALETKEY_CRASH_POINT=refresh.after_journal` kills the process there with SIGKILL, as if the power had failed.
//! `VALETKEY_CRASH_POINT=refresh.after_journal:pause` instead waits there for ten seconds, and `:pause=1500` for so
//! many milliseconds, to be stopped meanwhile. Either is announced by one line on standard error. The variable is read
//! once; without it a point costs one comparison.

use std::{io::Write as _, sync::OnceLock, time::Duration};

/// Before the lease is taken: nothing is journaled, nothing was sent.
pub const BEFORE_LEASE: &str = "refresh.before_lease";
/// Lease and journal are committed, nothing was sent.
pub const AFTER_JOURNAL: &str = "refresh.after_journal";
/// The request was written, its answer was not read.
pub const AFTER_SEND: &str = "refresh.after_send";
/// The answer was read to its end and is not committed.
pub const AFTER_ANSWER: &str = "refresh.after_answer";
/// The answer is committed and nobody was told.
pub const AFTER_COMMIT: &str = "refresh.after_commit";

/// Every point, in the order in which a refresh passes them.
pub const POINTS: &[&str] = &[BEFORE_LEASE, AFTER_JOURNAL, AFTER_SEND, AFTER_ANSWER, AFTER_COMMIT];

/// The variable that names the point.
pub const VARIABLE: &str = "VALETKEY_CRASH_POINT";

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    point: &'static str,
    pause: Option<Duration>,
}

impl Plan {
    fn read(text: &str) -> Option<Self> {
        let (name, what) = text.split_once(':').unwrap_or((text, ""));
        let point = POINTS.iter().find(|point| **point == name)?;
        let pause = match what.split_once('=').unwrap_or((what, "10000")) {
            ("", _) => None,
            ("pause", millis) => Some(Duration::from_millis(millis.parse().ok()?)),
            _ => return None,
        };
        Some(Self { point, pause })
    }
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let plan = Plan::read(&text);
        if plan.is_none() {
            tracing::warn!("{VARIABLE} names no point; there are {}", POINTS.join(", "));
        }
        plan
    })
    .as_ref()
}

/// Whether something happens at this point.
pub(super) fn is_set(point: &str) -> bool {
    plan().is_some_and(|plan| plan.point == point)
}

/// Dies or pauses here, if this is the point that was named.
pub(super) async fn point(point: &str) {
    let Some(plan) = plan().filter(|plan| plan.point == point) else { return };
    let what = if plan.pause.is_some() { "pausing" } else { "dying" };
    // Not through the log, whose lines may be lost with the process.
    let _ = writeln!(std::io::stderr(), "{what} at {point}");
    match plan.pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal is on its way.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_or_without_a_pause() {
        let pause = |millis| Some(Duration::from_millis(millis));
        assert_eq!(Plan::read("refresh.after_send"), Some(Plan { point: AFTER_SEND, pause: None }));
        assert_eq!(Plan::read("refresh.after_send:pause"), Some(Plan { point: AFTER_SEND, pause: pause(10_000) }));
        assert_eq!(Plan::read("refresh.after_send:pause=5"), Some(Plan { point: AFTER_SEND, pause: pause(5) }));
    }

    #[test]
    fn what_is_no_point_does_nothing() {
        for text in ["", "after_send", "refresh.after_send:", "refresh.nowhere", "refresh.after_send:pause=x"] {
            assert!(Plan::read(text).is_none_or(|plan| plan.pause.is_none()), "{text}");
        }
    }
}
