//! The task of one connection: look at the row, say what is to be done, do it.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    MINUTE, Refresher,
    attempt::{Attempted, Plan},
    breaker::fraction,
    life::Life,
    lock, must_reconnect, not_there, over, store,
    tasks::{Job, Key, Outcome, Progress, Purpose, Trouble},
};
use crate::{
    clock::Timestamp,
    connection::{self, Status, Stored},
    error::Code,
    provider::Definition,
};

/// What a row calls for.
enum Next {
    /// It is as it should be, or nothing can be done about it and it still lives.
    Serve,
    /// The keeper looks too early: nothing can be done about it before then, or ever.
    Park(Option<Timestamp>),
    /// There is nothing to serve.
    Refuse(Trouble),
    /// Another process has the lease, first seen at this moment.
    Wait(Instant),
    /// The answer was lost, and so was that of the recovery attempt.
    GiveUp,
    /// Ask the provider; whether as the one recovery attempt, and whether because it refused the token.
    Ask { recovery: bool, forced: bool },
}

impl Refresher {
    /// Does what the job wants, however long that takes; callers may leave.
    pub(super) async fn run(&self, key: &Key, job: &Job, progress: &watch::Sender<Progress>) -> Outcome {
        let mut before = None;
        let outcome = self.run_until_done(key, job, progress, &mut before).await;
        let changed = outcome.as_ref().is_ok_and(|served| before.is_some_and(|version| version != served.connection.version));
        if job.purpose == Purpose::Due && !changed {
            // The hot path may go by a cached row that still says due.
            self.0.tasks.rest(key, self.0.settings.keeper_interval);
        }
        outcome
    }

    async fn run_until_done(
        &self,
        key: &Key,
        job: &Job,
        progress: &watch::Sender<Progress>,
        before: &mut Option<i64>,
    ) -> Outcome {
        // The version whose answer was lost while the provider still takes its refresh token.
        let mut grace_for = None;
        loop {
            let stored = connection::load(self.db(), &key.site, &key.id).await?.ok_or_else(|| not_there(&key.id))?;
            before.get_or_insert(stored.connection.version);
            let definition = self.0.outside.catalogue.get(&stored.connection.provider).cloned();
            match self.next(key, &stored, definition.as_deref(), job.purpose, grace_for == Some(stored.connection.version)) {
                Next::Serve => return Ok(Arc::new(self.open(&stored).await?)),
                Next::Park(until) => {
                    store::park(self.db(), &stored.connection, self.now(), until).await?;
                    return Ok(Arc::new(self.open(&stored).await?));
                }
                Next::Refuse(trouble) => return Err(trouble),
                Next::Wait(since) => self.wait_for_another(since, progress).await?,
                Next::GiveUp => {
                    let Some(definition) = definition else { return Err(over(&stored.connection).into()) };
                    self.give_up(&stored, &definition, &job.actor).await?;
                }
                Next::Ask { recovery, forced } => {
                    let Some(definition) = definition else { return Err(over(&stored.connection).into()) };
                    let (grace, version) = (definition.refresh.grace, stored.connection.version);
                    // Who comes now can wait for the answer.
                    progress.send_replace(Progress::Working);
                    let plan = Plan { stored, definition, recovery, forced, actor: job.actor.clone() };
                    match self.attempt(plan, progress).await {
                        Attempted::Served(served) => return Ok(served),
                        Attempted::Again => {}
                        Attempted::Lost { sent, trouble } => {
                            // Within the window an old refresh token still answers, so nothing is risked by asking again.
                            let in_time = |grace: Duration| sent.elapsed() + (grace / 4).min(LATEST) < grace;
                            if !grace.is_some_and(in_time) {
                                return Err(trouble);
                            }
                            grace_for = Some(version);
                        }
                        Attempted::Failed(trouble) => return Err(trouble),
                    }
                }
            }
        }
    }

    fn next(&self, key: &Key, stored: &Stored, definition: Option<&Definition>, purpose: Purpose, in_grace: bool) -> Next {
        let connection = &stored.connection;
        let now = self.now();
        let life = Life::new(stored, definition, now);
        match &connection.status {
            Status::Revoked { .. } => return Next::Refuse(not_there(&connection.id).into()),
            Status::NeedsReauth { .. } if connection.expires_at.is_some_and(|end| end > now) => return Next::Serve,
            Status::NeedsReauth { reason } => return Next::Refuse(must_reconnect(connection, reason).into()),
            Status::Active => {}
        }
        let held_since = self.held_since(key, stored);
        let wanted = in_grace
            || match purpose {
                Purpose::Due => life.is_due() || !life.serves(),
                Purpose::Dead => !life.serves(),
                Purpose::Wish(version) | Purpose::Rejected(version) | Purpose::Asked(version) => connection.version == version,
            };
        if !wanted {
            return match purpose {
                Purpose::Due => Next::Park(life.look_again_at()),
                _ => Next::Serve,
            };
        }
        if let Some(since) = held_since {
            return if purpose == Purpose::Due { Next::Serve } else { Next::Wait(since) };
        }
        let serve_or = |trouble: Trouble| if life.has_ended() { Next::Refuse(trouble) } else { Next::Serve };
        if !life.is_renewable() {
            return if purpose == Purpose::Due { Next::Park(None) } else { serve_or(over(connection).into()) };
        }
        let asked = matches!(purpose, Purpose::Asked(_));
        let forced = matches!(purpose, Purpose::Rejected(_));
        // Once a minute: who comes later with the same refusal is served what there is. A time that lies in the future
        // was written by a clock that ran ahead, and must not lock anybody out.
        let recently = |at: Timestamp| now.since(at) < MINUTE && at.since(now) < MINUTE;
        if forced && stored.forced_at.is_some_and(recently) && !life.has_ended() {
            return Next::Serve;
        }
        let recovery = life.answer_was_lost();
        if recovery {
            // A token that its provider refuses serves no more, whatever its end was said to be.
            let is_dead = !life.serves() || in_grace || forced;
            if !is_dead && asked {
                return Next::Refuse(answer_lost_earlier());
            }
            if !is_dead {
                return Next::Serve;
            }
            if stored.recovered_version == Some(connection.version) {
                return Next::GiveUp;
            }
        }
        if life.is_resting() && !asked && !in_grace {
            let wait = connection.retry_at.map(|at| at.since(now)).unwrap_or_default();
            return serve_or(failed_before(connection.last_error.as_deref()).after(wait));
        }
        Next::Ask { recovery, forced }
    }

    /// Since when we see another process hold the lease; absent where nobody does, or nobody can any more.
    fn held_since(&self, key: &Key, stored: &Stored) -> Option<Instant> {
        let mut sightings = lock(&self.0.sightings);
        let holder = match &stored.lease_holder {
            // Nobody but this task refreshes this connection in this process: a lease of ours is left over.
            Some(holder) if *holder != self.0.holder => holder,
            _ => {
                sightings.remove(key);
                return None;
            }
        };
        // Whoever held a lease before us let go of the lock on the database, and so is dead.
        if self.db().is_sqlite() {
            return None;
        }
        let seen = sightings.entry(key.clone()).or_insert((stored.lease_number, Instant::now()));
        if seen.0 != stored.lease_number {
            *seen = (stored.lease_number, Instant::now());
        }
        // Nobody's clock is compared with ours: only our own monotonic one says how long we have seen it.
        if seen.1.elapsed() < self.0.settings.lease() {
            return Some(seen.1);
        }
        tracing::info!(connection.id = %key.id, lease.holder = %holder, "a lease ran out without an answer; its holder is taken for dead");
        None
    }

    /// Notes that a lease is seen, for a row that is only looked at.
    pub(super) fn forget_old_sightings(&self) {
        let oldest = self.0.settings.lease() * 10;
        lock(&self.0.sightings).retain(|_, (_, since)| since.elapsed() < oldest);
    }

    /// Waits a moment for the holder of a lease, and tells callers once it must have failed.
    async fn wait_for_another(&self, since: Instant, progress: &watch::Sender<Progress>) -> Result<(), Trouble> {
        let settings = &self.0.settings;
        if since.elapsed() > settings.deadline + settings.lease_extra / 3 {
            let until = since + settings.lease();
            progress.send_if_modified(|progress| {
                let is_news = !matches!(progress, Progress::Waiting(_));
                *progress = Progress::Waiting(until);
                is_news
            });
        }
        let pause = settings.poll / 2 + fraction(settings.poll);
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.0.stopping.cancelled() => Err(Trouble::new(Code::Unavailable, "the service is shutting down; try again").after(pause)),
        }
    }
}

/// How much of a grace window is kept for the way to the provider.
const LATEST: Duration = Duration::from_secs(2);

fn answer_lost_earlier() -> Trouble {
    Trouble::new(
        Code::RefreshFailed,
        "the answer to an earlier refresh was lost; it is tried once more when the access token ends, and not before",
    )
}

/// The trouble of an earlier attempt that may be tried again later.
pub(super) fn failed_before(error: Option<&str>) -> Trouble {
    let reason = error.unwrap_or("unknown");
    Trouble::new(Code::RefreshFailed, format!("the account could not be renewed ({reason}); try again later"))
        .with_extra(json!({ "reason": reason }))
}
