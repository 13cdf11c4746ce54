//! Refresh: what still serves is served, and everything else is renewed exactly once (promise 2).
//!
//! The state lives in the row, not in a process. One refresh goes so:
//!
//! 1. A caller whose decision allowed the use asks for the account ([`Refresher::serve`]). What still serves is opened
//!    and returned: no write, no look-up, no lock.
//! 2. Otherwise one detached task per connection and process does the rest, and callers wait for it. One who leaves
//!    stops nothing.
//! 3. The task reads the row. Where another process holds the lease it waits for that one's answer. It takes over only
//!    after it has itself seen the same lease unchanged for a whole lease on its own monotonic clock; on SQLite the lock
//!    on the database proves a former holder dead.
//! 4. It takes the lease and journals which version it spends, in one commit, then sends one request. No database
//!    connection is held meanwhile.
//! 5. An answer is committed before anyone sees it, also where the lease was lost meanwhile: the provider's newest token
//!    is the truth. If the database fails, the answer is kept in memory and tried again as long as the process lives.
//! 6. Where the answer was lost, nobody can know whether the refresh token was spent. The journal stays, and there is one
//!    recovery attempt, only once the access token can no longer serve. Where a definition says that a refresh token is
//!    never rotated, nothing can have been lost, and an attempt without an answer is like any other that failed.
//! 7. A refusal for good (`invalid_grant`) makes the connection `needs_reauth`, once. The app's own fault
//!    (`invalid_client`) leaves connections alone and raises one alert. Everything else is tried again later.
//!
//! What is minted from what stays as it is (an assertion, a login, client credentials) goes the same way and spends nothing:
//! there is no recovery, because nothing can have been lost. A refusal of it is for good, for a wrong password that is sent again
//! and again locks its account. Where a refresh token is over and the definition names a login to fall back on, the row says
//! so first, and the next attempt is that login.
//!
//! A further token of a connection that brings a refresh token of its own goes the same way, by a mark beside it (`slots.rs`).
//!
//! What no refresh prolongs dies of age: whoever listens is warned once ([`Refresher::warn_of_age`]). A provider's lists are
//! read with a token that serves ([`Refresher::lists`]).
//!
//! The keeper ([`Refresher::keeper`]) does the same ahead of time, so that callers seldom wait.

mod age;
mod attempt;
mod breaker;
pub mod crash;
mod keeper;
mod life;
mod lists;
mod room;
mod run;
mod settle;
mod slots;
mod store;
mod tasks;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    breaker::{Alerts, Breakers},
    life::Life,
    tasks::{Job, Key, Purpose, Tasks, Trouble},
};
use crate::{
    base::Outside,
    clock::Timestamp,
    connection::{self, Connection, Status, Stored},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Actor,
    secret::SecretMap,
};

/// How refreshes are timed. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When the answer must be there, counted from before the lease is taken.
    pub deadline: Duration,
    /// How much longer than the deadline a lease lasts.
    pub lease_extra: Duration,
    /// How often the keeper looks for tokens that are due.
    pub keeper_interval: Duration,
    /// How many tokens of one provider the keeper renews at once.
    pub keeper_at_once: usize,
    /// How long the keeper waits for one of them before it goes on with the next, where each may be at another server. The renewal
    /// itself is not cut short.
    pub keeper_patience: Duration,
    /// How often a row is looked at while another process holds its lease.
    pub poll: Duration,
    /// The pause after a first failure; it doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause.
    pub longest_backoff: Duration,
    /// After how many failures in a row, of whatever connections, a provider is left alone for a while.
    pub breaker_after: u32,
    /// How many refreshes run at once; of these at one host as many as leave room for the others: a quarter where no other has any,
    /// and fewer the more hosts have some.
    pub at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            lease_extra: Duration::from_secs(15),
            keeper_interval: Duration::from_secs(15),
            keeper_at_once: 8,
            keeper_patience: Duration::from_secs(2),
            poll: Duration::from_millis(75),
            first_backoff: Duration::from_secs(5),
            longest_backoff: Duration::from_secs(15 * 60),
            breaker_after: 5,
            at_once: 256,
        }
    }
}

impl Settings {
    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.deadline + self.lease_extra
    }
}

/// What a caller wishes beyond a token that is valid now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// At least so much life left. Capped at half of what the provider usually gives, and no reason to renew a token
    /// that is younger than a minute.
    pub min_life: Option<Duration>,
    /// The provider refused the token of this version with 401. It is renewed if that is still the current one, at most
    /// once per connection and minute.
    pub rejected_version: Option<i64>,
}

/// An opened account, and the connection as it was then.
#[derive(Clone)]
pub struct Served {
    /// What the connection seals.
    pub account: SecretMap,
    /// The connection: its version, when its token ends.
    pub connection: Connection,
}

/// Silent about the account.
impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("connection", &self.connection.id).field("version", &self.connection.version).finish()
    }
}

/// How young a token is that no wish renews, and how long an upstream 401 or an operator cannot ask again.
const MINUTE: Duration = Duration::from_secs(60);

/// Renews tokens. One per process; clones share it.
#[derive(Clone)]
pub struct Refresher(Arc<Inner>);

struct Inner {
    outside: Outside,
    settings: Settings,
    /// How this process signs its leases.
    holder: String,
    tasks: Tasks,
    /// Which lease of another process was first seen when.
    sightings: Mutex<HashMap<Key, (i64, Instant)>>,
    slots: slots::Slots,
    breakers: Breakers,
    alerts: Alerts,
    rooms: room::Rooms,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Refresher {
    /// The refresher of a process.
    pub fn new(outside: Outside, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            outside,
            settings,
            holder: format!("r_{}", uuid::Uuid::now_v7().simple()),
            tasks: Tasks::default(),
            sightings: Mutex::default(),
            slots: slots::Slots::default(),
            breakers: Breakers::new(settings.breaker_after, settings.first_backoff, settings.longest_backoff),
            alerts: Alerts::default(),
            rooms: room::Rooms::new(settings.at_once),
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The account of a connection, renewed where it must be. Called only after a decision allowed the use.
    ///
    /// A valid token is never withheld: where a renewal fails or is slow to come, and the token that is there has not
    /// ended, that one is served (R65a).
    ///
    /// # Errors
    /// `not_authenticated` (connect it again), `refresh_pending` and `refresh_failed` (try again after `Retry-After`),
    /// `storage_failed`, `unsealable`, `not_configured`.
    pub async fn serve(&self, stored: Arc<Stored>, wish: Wish) -> Result<Served> {
        if let Some(rejected) = wish.rejected_version
            && rejected >= stored.connection.version
        {
            return self.replace_rejected(&stored.connection, rejected).await;
        }
        let now = self.now();
        match &stored.connection.status {
            Status::Revoked { .. } => return Err(not_there(&stored.connection.id)),
            Status::NeedsReauth { .. } => return self.serve_while_it_lives(&stored, now).await,
            Status::Active => {}
        }
        let definition = self.0.outside.catalogue.get(&stored.connection.provider);
        let life = Life::new(&stored, definition.map(AsRef::as_ref), now);
        if !life.serves() {
            if !life.is_renewable() {
                return Err(over(&stored.connection));
            }
            return self.renewed_or(&stored, Purpose::Dead).await;
        }
        if wish.min_life.is_some_and(|least| life.is_worth_renewing_for(least)) {
            return self.renewed_or(&stored, Purpose::Wish(stored.connection.version)).await;
        }
        if life.is_due() {
            self.renew_in_background(&stored.connection);
        }
        self.open(&stored).await
    }

    /// Renews a token now, unless that was done less than a minute ago: for an operator or an owner who asks for it.
    ///
    /// # Errors
    /// As for [`Refresher::serve`], also where the token that is there is still valid; and `invalid_request` where the
    /// account is of a kind that is not renewed.
    pub async fn refresh_now(&self, site: &SiteId, id: &ConnectionId, actor: &Actor) -> Result<Served> {
        let Some(stored) = connection::load(self.db(), site, id).await? else { return Err(not_there(id)) };
        let now = self.now();
        let connection = &stored.connection;
        match &connection.status {
            Status::Revoked { .. } => return Err(not_there(id)),
            Status::NeedsReauth { reason } => return Err(must_reconnect(connection, reason)),
            Status::Active => {}
        }
        let definition = self.0.outside.definition(&connection.provider)?;
        if !Life::new(&stored, Some(&definition), now).is_renewable() {
            return Err(Error::new(
                Code::InvalidRequest,
                format!("this account of {} cannot be renewed; connect it again when it ends", definition.title),
            ));
        }
        if connection.last_refreshed_at.or(connection.issued_at).is_some_and(|at| now.since(at) < MINUTE) {
            return self.open(&stored).await;
        }
        let job = Job { purpose: Purpose::Asked(connection.version), actor: actor.clone() };
        self.renewed(Key::of(connection), job).await
    }

    /// Renews what is due until `stop`: each provider on its own, on every replica.
    pub async fn keeper(&self, stop: CancellationToken) {
        keeper::keep(self, &stop).await;
    }

    /// Warns of connections that will die of age, each once. Every replica calls this again and again.
    pub async fn warn_of_age(&self) -> Result<usize> {
        age::sweep(self).await
    }

    /// Waits until no refresh runs. Those that wait for another process are told to stop; an answer that could not be
    /// stored yet is waited for, because it exists nowhere else.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// The provider refused this version: another one if there is one already, else a renewal.
    async fn replace_rejected(&self, connection: &Connection, rejected: i64) -> Result<Served> {
        // What the caller has may be from a cache.
        let Some(stored) = connection::load(self.db(), &connection.site, &connection.id).await? else {
            return Err(not_there(&connection.id));
        };
        let stored = Arc::new(stored);
        let definition = self.0.outside.catalogue.get(&stored.connection.provider);
        let now = self.now();
        let life = Life::new(&stored, definition.map(AsRef::as_ref), now);
        let is_current = stored.connection.version == rejected && stored.connection.status == Status::Active;
        if !is_current || !life.is_renewable() {
            return Box::pin(self.serve(stored, Wish::default())).await;
        }
        self.renewed_or(&stored, Purpose::Rejected(rejected)).await
    }

    /// Renews; where that fails, serves what is there if it has not ended.
    async fn renewed_or(&self, stored: &Stored, purpose: Purpose) -> Result<Served> {
        let job = Job { purpose, actor: Actor::System };
        match self.renewed(Key::of(&stored.connection), job).await {
            Ok(served) => Ok(served),
            Err(error) => {
                let now = self.now();
                // Revoked meanwhile: nothing is served, whatever we still hold.
                if error.code() == Code::NotFound || Life::new(stored, None, now).has_ended() {
                    return Err(error);
                }
                tracing::debug!(connection.id = %stored.connection.id, error = %error, "not renewed; what is there is still valid");
                self.open(stored).await
            }
        }
    }

    /// Starts a task for the connection or joins the one that runs, and waits for what comes of it.
    async fn renewed(&self, key: Key, job: Job) -> Result<Served> {
        // One that runs already may have looked at the row for another reason, and found nothing to do.
        for _ in 0..3 {
            let (running, started) = self.join_or_start(&key, &job);
            let outcome = tasks::outcome(running).await;
            match outcome {
                Ok(served) => {
                    let definition = self.0.outside.catalogue.get(&served.connection.provider);
                    if started || job.purpose.is_met_by(&served.connection, definition.map(AsRef::as_ref), self.now()) {
                        return Ok(Served::clone(&served));
                    }
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
        Err(Trouble::pending(self.0.settings.poll).into())
    }

    fn renew_in_background(&self, connection: &Connection) {
        let key = Key::of(connection);
        if !self.0.stopping.is_cancelled() && !self.0.tasks.rests(&key) {
            self.join_or_start(&key, &Job { purpose: Purpose::Due, actor: Actor::System });
        }
    }

    /// A connection that must be connected again serves as long as its access token lives.
    async fn serve_while_it_lives(&self, stored: &Stored, now: Timestamp) -> Result<Served> {
        let Status::NeedsReauth { reason } = &stored.connection.status else { return self.open(stored).await };
        match stored.connection.expires_at {
            Some(end) if end > now => self.open(stored).await,
            _ => Err(must_reconnect(&stored.connection, reason)),
        }
    }

    async fn open(&self, stored: &Stored) -> Result<Served> {
        let Some(sealed) = &stored.sealed else { return Err(not_there(&stored.connection.id)) };
        let account = connection::open_account(&self.0.outside.base, &stored.connection, sealed).await?;
        Ok(Served { account, connection: stored.connection.clone() })
    }

    fn now(&self) -> Timestamp {
        self.0.outside.base.clock.now()
    }

    fn db(&self) -> &crate::db::Db {
        &self.0.outside.base.db
    }
}

fn not_there(id: &ConnectionId) -> Error {
    Error::new(Code::NotFound, format!("there is no connection `{id}`"))
}

fn must_reconnect(connection: &Connection, reason: &str) -> Error {
    Error::new(Code::NotAuthenticated, "the account must be connected again: its provider will not renew it any more")
        .with_extra(json!({ "connection": connection.id, "reason": reason }))
}

fn over(connection: &Connection) -> Error {
    Error::new(Code::NotAuthenticated, "the account's access has ended and cannot be renewed; connect it again")
        .with_extra(json!({ "connection": connection.id, "reason": "expired" }))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
