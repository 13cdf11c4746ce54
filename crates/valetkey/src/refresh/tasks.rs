//! The running refreshes of this process: one task per connection, and the callers who wait for it.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::watch, time::Instant};

use super::{Refresher, Served, life, lock};
use crate::{
    clock::Timestamp,
    connection::{Connection, Status},
    error::{Code, Error},
    id::{ConnectionId, SiteId},
    principal::Actor,
    provider::Definition,
};

/// Which connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) site: SiteId,
    pub(super) id: ConnectionId,
}

impl Key {
    pub(super) fn of(connection: &Connection) -> Self {
        Self { site: connection.site.clone(), id: connection.id.clone() }
    }
}

/// Why a task runs, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) purpose: Purpose,
    pub(super) actor: Actor,
}

/// Why a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It should be, ahead of its end; nobody waits.
    Due,
    /// It does not serve any more.
    Dead,
    /// Somebody wishes for another one than this version, which still serves.
    Wish(i64),
    /// The provider refused this version.
    Rejected(i64),
    /// An operator or owner asks for another one than this version.
    Asked(i64),
}

impl Purpose {
    /// Whether this connection is what was wanted.
    pub(super) fn is_met_by(self, connection: &Connection, definition: Option<&Definition>, now: Timestamp) -> bool {
        match self {
            Purpose::Due => true,
            Purpose::Dead => connection.status != Status::Active || definition.is_none() || life::serves(connection, now),
            Purpose::Wish(version) | Purpose::Rejected(version) | Purpose::Asked(version) => {
                connection.status != Status::Active || connection.version != version
            }
        }
    }
}

/// How a task stands.
#[derive(Clone)]
pub(super) enum Progress {
    /// At work, or waiting for another process that may still be.
    Working,
    /// Another process holds the lease and must have failed; until then nobody may take over.
    Waiting(Instant),
    /// The answer is there and the database does not take it.
    Unsaved,
    /// Over.
    Done(Outcome),
}

/// What came of a task: the connection as it is now, or why there is nothing to serve.
pub(super) type Outcome = Result<Arc<Served>, Trouble>;

/// An error for several callers.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) code: Code,
    message: Cow<'static, str>,
    detail: Option<String>,
    retry_after: Option<Duration>,
    extra: Option<serde_json::Value>,
    /// Whether the provider cannot be asked for any account just now.
    pub(super) concerns_all: bool,
}

impl Trouble {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), detail: None, retry_after: None, extra: None, concerns_all: false }
    }

    pub(super) fn of_all(mut self) -> Self {
        self.concerns_all = true;
        self
    }

    pub(super) fn after(mut self, wait: Duration) -> Self {
        // `Retry-After` counts whole seconds; zero would mean at once.
        self.retry_after =
            Some(Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(Duration::from_secs(1)));
        self
    }

    pub(super) fn with_extra(mut self, extra: serde_json::Value) -> Self {
        self.extra = Some(extra);
        self
    }

    pub(super) fn pending(wait: Duration) -> Self {
        Self::new(Code::RefreshPending, "the account is being renewed; try again in a moment").after(wait)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self {
            code: error.code(),
            message: error.message().to_owned().into(),
            detail: error.detail().map(str::to_owned),
            retry_after: error.retry_after(),
            extra: error.extra().cloned(),
            concerns_all: false,
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        let mut error = Error::new(trouble.code, trouble.message);
        if let Some(detail) = trouble.detail {
            error = error.with_detail(detail);
        }
        if let Some(wait) = trouble.retry_after {
            error = error.with_retry_after(wait);
        }
        if let Some(extra) = trouble.extra {
            error = error.with_extra(extra);
        }
        error
    }
}

/// The tasks by connection, and the connections that need no background task for a while.
#[derive(Default)]
pub(super) struct Tasks {
    running: Mutex<HashMap<Key, watch::Receiver<Progress>>>,
    resting: Mutex<HashMap<Key, Instant>>,
}

/// How many resting connections are remembered before the past ones are swept out.
const MOST_RESTING: usize = 10_000;

impl Tasks {
    /// Whether a background task looked at it a moment ago and could do nothing.
    pub(super) fn rests(&self, key: &Key) -> bool {
        lock(&self.resting).get(key).is_some_and(|until| *until > Instant::now())
    }

    pub(super) fn rest(&self, key: &Key, pause: Duration) {
        let mut resting = lock(&self.resting);
        if resting.len() >= MOST_RESTING {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            if resting.len() >= MOST_RESTING {
                // Costs a look-up for some, nothing else.
                resting.clear();
            }
        }
        resting.insert(key.clone(), Instant::now() + pause);
    }
}

impl Refresher {
    /// The running task of a connection, or a new one; and whether it is new.
    pub(super) fn join_or_start(&self, key: &Key, job: &Job) -> (watch::Receiver<Progress>, bool) {
        let mut running = lock(&self.0.tasks.running);
        // A sender that is gone without an outcome belonged to a runtime that was shut down.
        if let Some(progress) = running.get(key).filter(|progress| progress.has_changed().is_ok()) {
            return (progress.clone(), false);
        }
        let (sender, receiver) = watch::channel(Progress::Working);
        running.insert(key.clone(), receiver.clone());
        drop(running);
        let (this, key, job) = (self.clone(), key.clone(), job.clone());
        self.0.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(this.run(&key, &job, &sender)).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(connection.id = %key.id, "a refresh panicked");
                Err(Error::internal("a refresh panicked").into())
            });
            // Out of the map before the outcome is told: who comes now starts anew.
            lock(&this.0.tasks.running).remove(&key);
            sender.send_replace(Progress::Done(outcome));
        });
        (receiver, true)
    }
}

/// Waits for what comes of a task, or until it is clear that waiting does not help.
pub(super) async fn outcome(mut progress: watch::Receiver<Progress>) -> Outcome {
    loop {
        match &*progress.borrow_and_update() {
            Progress::Working => {}
            Progress::Waiting(until) => return Err(Trouble::pending(until.saturating_duration_since(Instant::now()))),
            Progress::Unsaved => {
                return Err(Trouble::new(Code::StorageFailed, "the account was renewed but could not be stored yet; try again")
                    .after(Duration::from_secs(1)));
            }
            Progress::Done(outcome) => return outcome.clone(),
        }
        if progress.changed().await.is_err() {
            return Err(Trouble::new(Code::Unavailable, "the service is shutting down; try again").after(Duration::from_secs(1)));
        }
    }
}
