//! Further tokens of a connection that bring a refresh token of their own (Slack's user token beside its bot token). One is renewed
//! when it is used and has ended, and exactly once, as the connection's own is (promise 2).
//!
//! The lease and the journal of the row are about the connection's own token. A slot has a mark of its own, in the sealed account
//! beside its token:
//!
//! 1. Whoever renews writes the mark, by compare-and-set, before the request leaves. Within a process one task at a time does so
//!    for a slot, and callers wait for theirs; one who leaves stops nothing.
//! 2. An answer is committed before anyone sees it, where the slot still holds the refresh token that was spent, and takes the mark
//!    away. Nothing of the connection's own token changes, but its version moves: what was read before is older.
//! 3. A mark that stays says that nobody knows whether the refresh token was spent: its maker died, or the answer was lost. A mark of
//!    another process counts as that only after it was seen unchanged for a whole lease; on SQLite its maker is dead. Then there
//!    is one more attempt, and no third.
//! 4. A refusal for good, and a second loss, take the slot's refresh token out, with one event. The connection's own token serves
//!    on; whoever wants the slot connects again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Refresher, Served,
    attempt::{OURS_FOR_UNREADABLE, app_refused, count},
    breaker::{backoff, fraction},
    life::{Life, MARGIN},
    lock, not_there,
    run::failed_before,
    settle::{ANSWER_LOST, Settled, Spent},
    store,
    tasks::{Key, Trouble},
};
use crate::{
    audit::{AUDIT_LABEL, Event, Outcome},
    clock::Timestamp,
    connection::{self, Connection, Stored},
    error::{Code, Error, Result},
    principal::{Actor, Principal},
    provider::{
        Definition, RefreshStrategy,
        step::{FailureClass, Outputs},
    },
    secret::{Secret, SecretMap},
    upstream::{Failure, Sent},
};

/// The member of a slot that says who renews it.
const MARK: &str = "_renewing";
/// The member of a slot that says that the mark is of the one further attempt.
const AGAIN: &str = "_again";
/// How often a write that met another one is tried again.
const TRIES: u32 = 16;
/// How many slots are remembered before those that nobody renews are swept out.
const MOST: usize = 10_000;

/// What this process knows of the slots that it renews.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<(Key, String), Turn>>);

type Turn = Arc<tokio::sync::Mutex<Seen>>;

/// What this process knows of one.
#[derive(Default)]
struct Seen {
    /// How many attempts failed in a row, and before when there is no other.
    failures: i64,
    rests: Option<Instant>,
    /// The mark of another process, and since when it is seen.
    mark: Option<(String, Instant)>,
}

impl Slots {
    fn turn(&self, key: &Key, slot: &str) -> Turn {
        let mut map = lock(&self.0);
        if map.len() >= MOST {
            map.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(map.entry((key.clone(), slot.to_owned())).or_default())
    }
}

impl Refresher {
    /// The account with a token of this slot that serves, where the slot can be renewed; as it is where it serves, or cannot.
    ///
    /// A token that has not ended is never withheld: where a renewal fails, it is served (R65a).
    ///
    /// # Errors
    /// As [`Refresher::serve`].
    pub async fn serve_slot(&self, served: Served, slot: &str) -> Result<Served> {
        let now = self.now();
        if !is_due(&served.account, slot, now.plus(MARGIN)) {
            return Ok(served);
        }
        let (this, key, name) = (self.clone(), Key::of(&served.connection), slot.to_owned());
        let task = self.0.tracker.spawn(async move { this.renew_slot(&key, &name).await });
        match task.await.map_err(Error::internal)? {
            // Revoked meanwhile: nothing is served, whatever we still hold.
            Err(error) if error.code() != Code::NotFound && !is_due(&served.account, slot, now) => {
                tracing::debug!(connection.id = %served.connection.id, slot, error = %error, "not renewed; the token is still valid");
                Ok(served)
            }
            outcome => outcome,
        }
    }

    /// Renews a slot, unless that was done by the time it is its turn.
    async fn renew_slot(&self, key: &Key, slot: &str) -> Result<Served> {
        let turn = self.0.slots.turn(key, slot);
        let mut seen = turn.lock().await;
        let begun = Instant::now();
        loop {
            if self.0.stopping.is_cancelled() {
                return Err(Error::new(Code::Unavailable, "the service is shutting down; try again"));
            }
            let stored = connection::load(self.db(), &key.site, &key.id).await?.ok_or_else(|| not_there(&key.id))?;
            let Some(sealed) = &stored.sealed else { return Err(not_there(&key.id)) };
            let account = connection::open_account(&self.0.outside.base, &stored.connection, sealed).await?;
            let definition = self.0.outside.definition(&stored.connection.provider)?;
            let renewable = definition.refresh.strategy == RefreshStrategy::RefreshToken
                && definition.refresh.step.is_some()
                && definition.slots.iter().any(|(name, _)| name == slot);
            let Some(token) = token_of(&account, slot).filter(|_| renewable && is_due(&account, slot, self.now().plus(MARGIN)))
            else {
                return Ok(Served { account, connection: stored.connection });
            };
            let left = seen.rests.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
            if !left.is_zero() {
                return Err(failed_before(None).after(left).into());
            }
            let mark = text(token, MARK).map(str::to_owned);
            if let Some(mark) = mark.as_deref().filter(|mark| !self.db().is_sqlite() && !mark.starts_with(&self.0.holder)) {
                let known = seen.mark.as_ref().filter(|(known, _)| known == mark).map(|(_, since)| *since);
                let since = known.unwrap_or_else(Instant::now);
                seen.mark = Some((mark.to_owned(), since));
                let lease = self.0.settings.lease();
                if since.elapsed() < lease {
                    if begun.elapsed() > self.0.settings.deadline {
                        return Err(Trouble::pending(lease.saturating_sub(since.elapsed())).into());
                    }
                    tokio::time::sleep(self.0.settings.poll / 2 + fraction(self.0.settings.poll)).await;
                    continue;
                }
            }
            // What never rotates is as good after a lost answer as before.
            let recovery = mark.is_some() && Life::rotates(&definition);
            // As for the connection's own token: not while there is one that lives.
            if recovery && !is_due(&account, slot, self.now()) {
                return Err(failed_before(Some(ANSWER_LOST)).into());
            }
            if recovery && token.get(AGAIN) == Some(&Value::Bool(true)) {
                let spent = Secret::new(text(token, "refresh_token").unwrap_or_default());
                self.end_slot(&stored.connection, slot, &spent, ANSWER_LOST, "holder_died").await?;
                continue;
            }
            match self.attempt_slot(&stored, definition, &account, slot, recovery).await {
                Ok(Some(served)) => {
                    *seen = Seen::default();
                    return Ok(served);
                }
                // The row moved, or says something new: look again.
                Ok(None) => {}
                Err(trouble) => {
                    seen.failures += 1;
                    let settings = &self.0.settings;
                    let pause = backoff(seen.failures, settings.first_backoff, settings.longest_backoff);
                    seen.rests = Some(Instant::now() + pause);
                    return Err(trouble.after(pause).into());
                }
            }
        }
    }

    /// One attempt: everything that can fail before, then the mark, then one request, then what it means. Nothing where the row
    /// has to be looked at again.
    async fn attempt_slot(
        &self,
        stored: &Stored,
        definition: Arc<Definition>,
        account: &SecretMap,
        slot: &str,
        recovery: bool,
    ) -> Result<Option<Served>, Trouble> {
        let connection = &stored.connection;
        let Some(token) = token_of(account, slot) else { return Ok(None) };
        let secret = Secret::new(text(token, "refresh_token").unwrap_or_default());
        // To the step the slot's tokens are the account's.
        let mut view = account.clone();
        for name in ["access_token", "refresh_token"] {
            view.set_text(name, &Secret::new(text(token, name).unwrap_or_default()));
        }
        let step = definition.refresh.step.as_ref().ok_or_else(|| Error::internal("a slot is renewed without a step"))?;
        let scopes = definition.slots.iter().find(|(name, _)| name == slot).map(|(_, slot)| slot.scopes.as_slice());
        let scopes = scopes.unwrap_or_default();
        let prepared = self.request_for(connection, &definition, &view, step, Some(secret.clone()), scopes).await?;
        if let Some(wait) = prepared.config.as_ref().and_then(|config| self.0.alerts.pause(config)) {
            return Err(app_refused().after(wait));
        }
        let (admission, room) = match self.leave(&prepared.authority).await? {
            Ok(leave) => leave,
            Err(wait) => return Err(failed_before(Some("provider_unavailable")).after(wait)),
        };
        let mark = format!("{} {}", self.0.holder, uuid::Uuid::now_v7().simple());
        let marked = with(account, slot, |token| {
            token.insert(MARK.to_owned(), Value::from(mark.as_str()));
            if recovery {
                token.insert(AGAIN.to_owned(), Value::Bool(true));
            }
        });
        // The deadline counts from before the commit: whoever sees the mark later counts from later.
        let begun = Instant::now();
        if self.write_slot(connection, &marked, None).await?.is_none() {
            return Ok(None);
        }
        let spent = Spent {
            connection: connection.clone(),
            definition: Arc::clone(&definition),
            lease: stored.lease_number,
            recovery,
            actor: Actor::System,
            secret: Some(secret.clone()),
            sent_at: self.now(),
        };
        let answer = self.send(prepared.request, begun + self.0.settings.deadline).await;
        drop(room);
        let lost = |error: &str| {
            count("lost");
            tracing::warn!(connection.id = %connection.id, slot, error, "the answer to a refresh of a slot was lost; there is one more attempt");
            Err(failed_before(Some(ANSWER_LOST)))
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure { error, sent }) => {
                admission.failed(None);
                self.tell_failed(connection, error.code().as_str());
                if sent == Sent::Maybe && Life::rotates(&definition) {
                    return lost(error.code().as_str());
                }
                self.take_mark(connection, slot, &mark, recovery).await;
                return Err(failed_before(Some(error.code().as_str())));
            }
        };
        let failure = match step.read(answer.status, &answer.headers, answer.body.expose()) {
            Ok(outputs) => {
                admission.succeeded();
                return self.commit_slot(&spent, slot, &outputs).await;
            }
            Err(failure) => failure,
        };
        tracing::debug!(connection.id = %connection.id, slot, failure = %failure, "a refresh of a slot was refused");
        self.tell_failed(connection, &failure.error);
        match failure.class {
            FailureClass::Terminal => {
                admission.succeeded();
                let reason = if recovery { ANSWER_LOST } else { "invalid_grant" };
                self.end_slot(connection, slot, &secret, reason, &failure.error).await?;
                return Ok(None);
            }
            FailureClass::ClientFault => {
                admission.succeeded();
                self.alert(connection, prepared.config.as_ref(), &failure.error).await;
                self.take_mark(connection, slot, &mark, recovery).await;
                return Err(app_refused());
            }
            FailureClass::Transient { retry_after } => admission.failed(retry_after),
            // A success that cannot be read may have been one.
            FailureClass::Other if failure.status.is_success() && OURS_FOR_UNREADABLE.contains(&failure.error.as_str()) => {
                admission.failed(None);
                return lost(&failure.error);
            }
            FailureClass::Denied | FailureClass::Other => admission.succeeded(),
        }
        count("transient");
        self.take_mark(connection, slot, &mark, recovery).await;
        Err(failed_before(Some(&failure.error)))
    }

    /// Commits an answer, as long as that takes: it exists nowhere else. Nobody sees it before.
    async fn commit_slot(&self, spent: &Spent, slot: &str, outputs: &Outputs) -> Result<Option<Served>, Trouble> {
        let id = &spent.connection.id;
        let mut failures = 0;
        loop {
            let error = match self.try_commit_slot(spent, slot, outputs).await {
                Ok(Settled::Raced) => continue,
                Ok(Settled::Committed(served)) => {
                    count(if spent.recovery { "recovered" } else { "ok" });
                    return Ok(Some(*served));
                }
                Ok(Settled::Dropped) => {
                    count("dropped");
                    return Ok(None);
                }
                Ok(Settled::Revoked) => {
                    count("revoked_meanwhile");
                    return Err(not_there(id).into());
                }
                Err(error) => error,
            };
            failures += 1;
            count("not_stored");
            tracing::error!(
                connection.id = %id, slot, failures, error = ?error,
                "a renewed token cannot be stored and exists only in this process's memory; it is tried again: do not stop this process"
            );
            tokio::time::sleep(backoff(failures, Duration::from_millis(200), Duration::from_secs(10))).await;
        }
    }

    async fn try_commit_slot(&self, spent: &Spent, slot: &str, outputs: &Outputs) -> Result<Settled> {
        let base = &self.0.outside.base;
        let read = connection::load(&base.db, &spent.connection.site, &spent.connection.id).await?;
        let Some((stored, sealed)) = read.as_ref().and_then(|stored| Some((stored, stored.sealed.as_deref()?))) else {
            return self.owe(spent, outputs, read.as_ref()).await;
        };
        let account = connection::open_account(base, &stored.connection, sealed).await?;
        if !holds(&account, slot, spent.secret.as_ref()) {
            return Ok(Settled::Dropped);
        }
        let ttl = spent.definition.slots.iter().find(|(name, _)| name == slot).and_then(|(_, slot)| slot.ttl);
        let ends = outputs.access_expiry(spent.sent_at).or_else(|| ttl.map(|life| spent.sent_at.plus(life)));
        let renewed = with(&account, slot, |token| {
            for (name, secret) in [("access_token", &outputs.access_token), ("refresh_token", &outputs.refresh_token)] {
                if let Some(secret) = secret {
                    token.insert(name.to_owned(), Value::from(secret.expose()));
                }
            }
            for gone in [MARK, AGAIN, "expires_in", "expires_at"] {
                token.remove(gone);
            }
            if let Some(ends) = ends.filter(|ends| *ends > spent.sent_at) {
                token.insert("expires_at".to_owned(), Value::from(ends.unix_seconds()));
            }
        });
        let old = &stored.connection;
        let mut facts = json!({ "version": old.version + 1, "provider": old.provider, "slot": slot });
        if spent.recovery {
            facts["recovered"] = true.into();
        }
        let event = Event::new(&old.site, &spent.actor, "refresh.ok").connection(&old.id).facts(facts);
        match self.write_slot(old, &renewed, Some(event)).await? {
            Some(connection) => Ok(Settled::Committed(Box::new(Served { account: renewed, connection }))),
            None => Ok(Settled::Raced),
        }
    }

    /// The slot's refresh token is worth nothing any more. One event.
    async fn end_slot(&self, connection: &Connection, slot: &str, secret: &Secret, reason: &str, error: &str) -> Result<()> {
        let facts = json!({ "provider": connection.provider, "slot": slot, "reason": reason, "error": error });
        let event = Event::by(&Principal::system(connection.site.clone()), "refresh.slot_over").outcome(Outcome::Failed);
        let event = event.connection(&connection.id).facts(facts);
        let without = |token: &mut Map<String, Value>| {
            for gone in [MARK, AGAIN, "refresh_token"] {
                token.remove(gone);
            }
        };
        let change = |account: &SecretMap| holds(account, slot, Some(secret)).then(|| with(account, slot, without));
        if self.change_slot(connection, slot, Some(&event), change).await? {
            count("slot_over");
            tracing::warn!(
                connection.id = %connection.id, provider = %connection.provider, owner = %connection.owner, slot, reason, error,
                "a further token of an account is over; the account must be connected again for it"
            );
        }
        Ok(())
    }

    /// Takes our mark away: nothing was spent. What was lost before is still lost.
    async fn take_mark(&self, connection: &Connection, slot: &str, mark: &str, recovery: bool) {
        let without = |token: &mut Map<String, Value>| {
            token.remove(AGAIN);
            if !recovery {
                token.remove(MARK);
            }
        };
        let change = |account: &SecretMap| {
            let ours = token_of(account, slot).is_some_and(|token| text(token, MARK) == Some(mark));
            ours.then(|| with(account, slot, without))
        };
        if let Err(error) = self.change_slot(connection, slot, None, change).await {
            // Left over, it costs the one further attempt.
            tracing::warn!(connection.id = %connection.id, slot, error = ?error, "the mark of a refresh could not be taken away");
        }
    }

    /// Writes what `change` makes of the account that is there, by compare-and-set: with an event where its tokens change. False
    /// where it makes nothing of it.
    async fn change_slot(
        &self,
        connection: &Connection,
        slot: &str,
        event: Option<&Event>,
        change: impl Fn(&SecretMap) -> Option<SecretMap>,
    ) -> Result<bool> {
        for _ in 0..TRIES {
            let Some(stored) = connection::load(self.db(), &connection.site, &connection.id).await? else { return Ok(false) };
            let Some(sealed) = &stored.sealed else { return Ok(false) };
            let account = connection::open_account(&self.0.outside.base, &stored.connection, sealed).await?;
            let Some(changed) = change(&account) else { return Ok(false) };
            if self.write_slot(&stored.connection, &changed, event.cloned()).await?.is_some() {
                return Ok(true);
            }
        }
        Err(Error::new(Code::Conflict, format!("the slot `{slot}` changes all the time; try again")))
    }

    /// Writes an account over the revision that was read: new tokens with their event, or without one a mark. The connection as it
    /// is then; nothing when it moved.
    async fn write_slot(&self, old: &Connection, account: &SecretMap, event: Option<Event>) -> Result<Option<Connection>> {
        let base = &self.0.outside.base;
        let new_tokens = event.is_some();
        base.ring.ensure(&base.db, old.site.as_str(), old.provider.as_str()).await?;
        base.ring.derived(&base.db, &old.site, AUDIT_LABEL).await?;
        let sealed = base.ring.seal_now(&old.place(&old.owner.to_string()), &account.to_json())?;
        // A mark is nobody's authority; tokens are among what a decision may have kept.
        let mut tx = if new_tokens { base.db.begin().await? } else { base.db.begin_bookkeeping().await? };
        if !store::write_account(&mut tx, old, &sealed, new_tokens, base.clock.now()).await? {
            return Ok(None);
        }
        if let Some(event) = event {
            base.audit.record(&mut tx, event).await?;
        }
        let written = connection::load_in(&mut tx, &old.site, &old.id).await?;
        tx.commit().await?;
        written.map(|stored| Some(stored.connection)).ok_or_else(|| Error::internal("a row that was written is gone"))
    }
}

/// What an account holds of a slot.
fn token_of<'a>(account: &'a SecretMap, slot: &str) -> Option<&'a Map<String, Value>> {
    account.expose().get("slots")?.get(slot)?.as_object()
}

fn text<'a>(token: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    token.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Whether a slot's token ends by then and brings what renews it.
fn is_due(account: &SecretMap, slot: &str, by: Timestamp) -> bool {
    token_of(account, slot).is_some_and(|token| {
        let ends = token.get("expires_at").and_then(Value::as_i64).map(Timestamp::from_unix_seconds);
        text(token, "refresh_token").is_some() && ends.is_some_and(|ends| ends <= by)
    })
}

/// Whether the slot still holds the refresh token that was spent.
fn holds(account: &SecretMap, slot: &str, secret: Option<&Secret>) -> bool {
    let there = token_of(account, slot).and_then(|token| text(token, "refresh_token"));
    there.zip(secret).is_some_and(|(there, secret)| Secret::new(there).matches(secret))
}

/// The account with one of its slots changed.
fn with(account: &SecretMap, slot: &str, change: impl FnOnce(&mut Map<String, Value>)) -> SecretMap {
    let mut account = account.clone();
    let token = account.expose_mut().get_mut("slots").and_then(|slots| slots.get_mut(slot)).and_then(Value::as_object_mut);
    if let Some(token) = token {
        change(token);
    }
    account
}
