//! What is written when a request has been answered, or will not be.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::watch;

use super::{
    Refresher, Served,
    attempt::{Attempted, app_refused, count, spends},
    breaker::backoff,
    crash, not_there,
    store::{self, Failed, Release},
    tasks::{Progress, Trouble},
};
use crate::{
    app_config::AppConfig,
    audit::{AUDIT_LABEL, Event, Outcome},
    base::Base,
    clock::Timestamp,
    connection::{
        self, Connection, Renewal, Status, Stored, UpstreamWish, keep_hosts, last_revocation_status, merge_answer,
        missing_scopes, owe_revocation,
    },
    error::{Error, Result},
    principal::{Actor, Principal},
    provider::{Definition, step::Outputs},
    resource,
    secret::{Secret, SecretMap},
};

/// What was spent, as it was when the lease was taken.
pub(super) struct Spent {
    /// The connection; its version is the one that is spent.
    pub(super) connection: Connection,
    pub(super) definition: Arc<Definition>,
    /// The lease under which it is spent.
    pub(super) lease: i64,
    /// Whether it is the one recovery attempt.
    pub(super) recovery: bool,
    pub(super) actor: Actor,
    /// The refresh token, or the access token where that one is extended; nothing where a token is minted anew.
    pub(super) secret: Option<Secret>,
    pub(super) sent_at: Timestamp,
}

/// What became of an answer.
pub(super) enum Settled {
    /// It is committed.
    Committed(Box<Served>),
    /// Somebody else's tokens are newer; ours are dropped.
    Dropped,
    /// The connection is over; the new tokens wait in the outbox to be revoked.
    Revoked,
    /// The row changed between reading and writing it.
    Raced,
}

/// The word for an answer of which nobody knows whether it was given.
pub(super) const ANSWER_LOST: &str = "answer_lost";
/// How often a lease that ended without tokens is tried to be given back. Left over, it only costs time.
const LET_GO_ATTEMPTS: u32 = 5;

impl Refresher {
    /// Commits an answer, as long as that takes: it exists nowhere else. Nobody sees it before.
    pub(super) async fn commit_answer(&self, spent: &Spent, outputs: &Outputs, progress: &watch::Sender<Progress>) -> Attempted {
        let id = &spent.connection.id;
        let mut failures = 0;
        loop {
            let error = match self.try_commit(spent, outputs).await {
                Ok(Settled::Raced) => continue,
                Ok(Settled::Committed(served)) => {
                    count(if spent.recovery { "recovered" } else { "ok" });
                    crash::point(crash::AFTER_COMMIT).await;
                    if failures > 0 {
                        tracing::warn!(connection.id = %id, "a renewed token that could not be stored is stored now");
                    }
                    self.read_lists_again(spent);
                    return Attempted::Served(Arc::from(served));
                }
                Ok(Settled::Dropped) => {
                    count("dropped");
                    tracing::info!(connection.id = %id, "somebody else stored newer tokens meanwhile; theirs stay");
                    return Attempted::Again;
                }
                Ok(Settled::Revoked) => {
                    count("revoked_meanwhile");
                    return Attempted::Failed(not_there(id).into());
                }
                Err(error) => error,
            };
            failures += 1;
            count("not_stored");
            tracing::error!(
                connection.id = %id, failures, error = ?error,
                "a renewed token cannot be stored and exists only in this process's memory; it is tried again: do not stop this process"
            );
            progress.send_replace(Progress::Unsaved);
            tokio::time::sleep(backoff(failures, Duration::from_millis(200), Duration::from_secs(10))).await;
        }
    }

    /// Reads the lists again that the definition names: the tokens of pages end with that from which they came. Nobody waits
    /// for it; what fails is tried with the next refresh.
    fn read_lists_again(&self, spent: &Spent) {
        let Some(names) = spent.definition.refreshed_lists() else { return };
        let (refresher, site, id) = (self.clone(), spent.connection.site.clone(), spent.connection.id.clone());
        self.0.tracker.spawn(async move {
            if let Err(error) = resource::read_again(&refresher.0.outside, &site, &id, Some(&names)).await {
                tracing::warn!(connection.id = %id, error = ?error, "the lists of a renewed connection could not be read again");
            }
        });
    }

    async fn try_commit(&self, spent: &Spent, outputs: &Outputs) -> Result<Settled> {
        let base = &self.0.outside.base;
        let (site, id) = (&spent.connection.site, &spent.connection.id);
        base.ring.ensure(&base.db, site.as_str(), spent.connection.provider.as_str()).await?;
        base.ring.derived(&base.db, site, AUDIT_LABEL).await?;
        // Opened outside the transaction: an unknown data key is looked for in the database.
        let read = connection::load(&base.db, site, id).await?;
        let now_there = match read.as_ref().and_then(|stored| Some((stored, stored.sealed.as_deref()?))) {
            Some((stored, sealed)) => Some((stored, connection::open_account(base, &stored.connection, sealed).await?)),
            None => None,
        };
        match now_there {
            Some((stored, account)) if stored.connection.version == spent.connection.version => {
                self.write(spent, outputs, stored, &account).await
            }
            Some((stored, account)) if holds(&account, spent) => self.write(spent, outputs, stored, &account).await,
            Some(_) => {
                let release = Release { lease: spent.lease, keep_journal: false, failure: None };
                // Compared on the version that is there, or it would not be found.
                if let Some(stored) = &read {
                    self.let_go(&stored.connection, &release).await;
                }
                Ok(Settled::Dropped)
            }
            None => self.owe(spent, outputs, read.as_ref()).await,
        }
    }

    /// Merges the answer into the account that is there and writes it.
    async fn write(&self, spent: &Spent, outputs: &Outputs, stored: &Stored, account: &SecretMap) -> Result<Settled> {
        let base = &self.0.outside.base;
        let old = &stored.connection;
        let (mut merged, mut tokens) = merge_answer(&spent.definition, Some(account), outputs, spent.sent_at);
        keep_hosts(&spent.definition, account, &mut merged);
        let account = merged;
        if tokens.refresh_expires_at.is_none() {
            // The answer said nothing of it; what was known still holds.
            let expires_at = old.refresh_expires_at;
            tokens.refresh_at =
                connection::due_at(&spent.definition, tokens.renewal, tokens.issued_at, tokens.expires_at, expires_at);
        }
        let owner = old.owner.to_string();
        let sealed = base.ring.seal_now(&old.place(&owner), &account.to_json())?;
        let lease_lost = stored.lease_number != spent.lease;
        let mut tx = base.db.begin().await?;
        if !store::write_tokens(&mut tx, old, &sealed, &tokens, spent.lease, base.clock.now()).await? {
            return Ok(Settled::Raced);
        }
        let missing: Vec<_> = match &tokens.scopes {
            Some(granted) => missing_scopes(Some(&spent.definition), &old.wanted_scopes, granted, tokens.renewal),
            None => Vec::new(),
        };
        let mut facts = json!({ "version": old.version + 1, "provider": old.provider });
        for (name, is_so) in [("recovered", spent.recovery), ("lease_lost", lease_lost)] {
            if is_so {
                facts[name] = true.into();
            }
        }
        if !missing.is_empty() {
            facts["missing_scopes"] = json!(missing);
        }
        base.audit.record(&mut tx, Event::new(&old.site, &spent.actor, "refresh.ok").connection(&old.id).facts(facts)).await?;
        let written = connection::load_in(&mut tx, &old.site, &old.id).await?;
        tx.commit().await?;
        let Some(written) = written else { return Err(Error::internal("a row that was written is gone")) };
        Ok(Settled::Committed(Box::new(Served { account, connection: written.connection })))
    }

    /// The connection was revoked while we asked: what came must be revoked at the provider, and is never served.
    pub(super) async fn owe(&self, spent: &Spent, outputs: &Outputs, stored: Option<&Stored>) -> Result<Settled> {
        let base = &self.0.outside.base;
        let connection = stored.map_or(&spent.connection, |stored| &stored.connection);
        if stored.is_some_and(|stored| !matches!(stored.connection.status, Status::Revoked { .. })) {
            return Err(Error::internal("a connection that is not revoked has no sealed account"));
        }
        // What was spent was erased with the row; the answer alone is what is left, and what must go.
        let (mut account, _) = merge_answer(&spent.definition, None, outputs, spent.sent_at);
        if spent.connection.renewal == Renewal::RefreshToken
            && account.text("refresh_token").is_none()
            && let Some(secret) = &spent.secret
        {
            account.set_text("refresh_token", secret);
        }
        let mut tx = base.db.begin().await?;
        // Whoever revoked it may have had a reason to leave the provider alone; it counts for these tokens too.
        let wish = match last_revocation_status(&mut tx, connection).await?.as_deref() {
            Some("skipped") => UpstreamWish::Skip,
            _ => UpstreamWish::IfPossible,
        };
        let reason = "renewed while it was being revoked";
        let owed = owe_revocation(base, &mut tx, Some(&spent.definition), connection, Some(&account), wish, reason).await?;
        let event = Event::new(&connection.site, &spent.actor, "refresh.revoked_meanwhile").connection(&connection.id);
        base.audit.record(&mut tx, event.facts(json!({ "upstream": owed }))).await?;
        tx.commit().await?;
        tracing::warn!(connection.id = %connection.id, "a connection was revoked while it was renewed; the new tokens go to the revocations");
        Ok(Settled::Revoked)
    }

    /// Refused for good, or lost for good: the person must connect again. One event.
    pub(super) async fn refused_for_good(&self, spent: &Spent, error: &str) -> Attempted {
        let reason = match (spent.recovery, spent.connection.renewal) {
            (true, _) => "answer_lost",
            (false, Renewal::Remint) => "credentials_refused",
            (false, _) => "invalid_grant",
        };
        match self.over(&spent.connection, &spent.definition, spent.lease, reason, error, &spent.actor).await {
            // Where it moved meanwhile, the row says what to do now (R37).
            Ok(_) => Attempted::Again,
            Err(trouble) => Attempted::Failed(trouble),
        }
    }

    /// The recovery attempt was lost too, with the process that made it.
    pub(super) async fn give_up(&self, stored: &Stored, definition: &Definition, actor: &Actor) -> Result<(), Trouble> {
        let (connection, lease) = (&stored.connection, stored.lease_number);
        self.over(connection, definition, lease, "answer_lost", "holder_died", actor).await.map(|_| ())
    }

    /// The refresh token is worth nothing any more: where the account holds a login that the definition falls back on, the
    /// next attempt is that login; else the person must connect again. False when something moved meanwhile.
    async fn over(
        &self,
        connection: &Connection,
        definition: &Definition,
        lease: i64,
        reason: &str,
        error: &str,
        actor: &Actor,
    ) -> Result<bool, Trouble> {
        if connection.renewal == Renewal::RefreshToken && definition.refresh.fallback.is_some() {
            match try_fall_back(&self.0.outside.base, connection, definition, lease, error, actor).await {
                Ok(FellBack::Yes) => {
                    count("fell_back");
                    tracing::info!(
                        connection.id = %connection.id, provider = %connection.provider, reason, error,
                        "a refresh token is over; the account logs in again"
                    );
                    return Ok(true);
                }
                Ok(FellBack::Moved) => return Ok(false),
                Ok(FellBack::Cannot) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.needs_reauth(connection, lease, reason, error, actor).await
    }

    /// False when something moved: the tokens, or the lease.
    async fn needs_reauth(
        &self,
        connection: &Connection,
        lease: i64,
        reason: &str,
        error: &str,
        actor: &Actor,
    ) -> Result<bool, Trouble> {
        let mut tried = 0;
        let changed = loop {
            match try_needs_reauth(&self.0.outside.base, connection, lease, reason, error, actor).await {
                Ok(changed) => break changed,
                Err(error) if tried >= LET_GO_ATTEMPTS => return Err(error.into()),
                Err(_) => tried += 1,
            }
            tokio::time::sleep(backoff(i64::from(tried), Duration::from_millis(100), Duration::from_secs(2))).await;
        };
        if changed {
            count("needs_reauth");
            self.0.outside.extensions.tell(|sink| sink.connection_broken(&connection.slot(), &connection.id, reason));
            tracing::warn!(
                connection.id = %connection.id, provider = %connection.provider, owner = %connection.owner, reason, error,
                "the account must be connected again"
            );
        }
        Ok(changed)
    }

    /// Our app is refused: connections keep their tokens, the first refusal in a row is recorded for each that was asked for, and
    /// somebody is told once.
    pub(super) async fn app_was_refused(&self, spent: &Spent, config: Option<&AppConfig>, error: &str) -> Attempted {
        let connection = &spent.connection;
        let pause = backoff(1, self.0.settings.first_backoff, self.0.settings.longest_backoff);
        let retry_at = self.now().plus(pause);
        let release = Release {
            lease: spent.lease,
            keep_journal: spent.recovery,
            failure: Some(Failed { retry_at, refresh_at: retry_at, error }),
        };
        count("client_fault");
        self.tell_failed(connection, error);
        let let_go = self.let_go_failed(spent, &release, error).await;
        self.alert(connection, config, error).await;
        match let_go {
            Some(false) => Attempted::Again,
            _ => Attempted::Failed(app_refused().after(pause)),
        }
    }

    /// Says once in a while that a provider refuses an app.
    pub(super) async fn alert(&self, connection: &Connection, config: Option<&AppConfig>, error: &str) {
        let Some(config) = config.filter(|config| self.0.alerts.refuse(config)) else { return };
        tracing::error!(
            app_config.id = %config.id, provider = %connection.provider, site = %connection.site, error,
            "the provider refuses an app configuration; correct its client id and secret. No account is renewed with it until then"
        );
        let facts = json!({ "app_config": config.id, "provider": connection.provider, "error": error });
        let event =
            Event::by(&Principal::system(connection.site.clone()), "refresh.failed").outcome(Outcome::Failed).facts(facts);
        if let Err(error) = record(&self.0.outside.base, event).await {
            tracing::warn!(error = ?error, "an alert could not be recorded");
        }
    }

    /// Tells those who listen that a token could not be renewed.
    pub(super) fn tell_failed(&self, connection: &Connection, error: &str) {
        self.0.outside.extensions.tell(|sink| sink.refresh_failed(&connection.slot(), &connection.id, error));
    }

    /// Ends a lease without tokens, and records that in the same transaction. Of failures in a row the first has a row of its own,
    /// and every answer that was lost: a provider that is down for a day does not fill the audit.
    pub(super) async fn let_go_failed(&self, spent: &Spent, release: &Release<'_>, error: &str) -> Option<bool> {
        let connection = &spent.connection;
        let lost = release.failure.as_ref().is_some_and(|failed| failed.error == ANSWER_LOST);
        let event = (lost || connection.failures == 0).then(|| {
            let facts = json!({
                "provider": connection.provider, "version": connection.version, "error": error, "answer_lost": lost,
            });
            let event = Event::new(&connection.site, &spent.actor, "refresh.failed").outcome(Outcome::Failed);
            event.connection(&connection.id).facts(facts)
        });
        self.end_lease(connection, release, event.as_ref()).await
    }

    /// Ends a lease of which nothing is to be recorded, with some patience for the database. Absent when it could not be done:
    /// then it runs out.
    pub(super) async fn let_go(&self, connection: &Connection, release: &Release<'_>) -> Option<bool> {
        self.end_lease(connection, release, None).await
    }

    async fn end_lease(&self, connection: &Connection, release: &Release<'_>, event: Option<&Event>) -> Option<bool> {
        for tried in 0..LET_GO_ATTEMPTS {
            if tried > 0 {
                tokio::time::sleep(backoff(i64::from(tried), Duration::from_millis(100), Duration::from_secs(2))).await;
            }
            let ended = async {
                let mut tx = self.db().begin_bookkeeping().await?;
                let ended = store::release(&mut tx, connection, release).await?;
                if let Some(event) = event.filter(|_| ended) {
                    self.0.outside.base.audit.record(&mut tx, event.clone()).await?;
                }
                tx.commit().await?;
                Ok::<_, Error>(ended)
            };
            match ended.await {
                Ok(ended) => return Some(ended),
                Err(error) => {
                    tracing::warn!(connection.id = %connection.id, error = ?error, "a refresh lease could not be given back")
                }
            }
        }
        None
    }
}

/// Whether what is stored now is what we spent: then nobody has renewed it, whatever moved the version.
fn holds(account: &SecretMap, spent: &Spent) -> bool {
    match (spends(spent.connection.renewal), &spent.secret) {
        (Some(name), Some(secret)) => account.text(name).is_some_and(|there| there.matches(secret)),
        // Nothing was spent: whatever is there instead is somebody's newer word.
        _ => false,
    }
}

/// What became of falling back on a login.
enum FellBack {
    /// The row says so now.
    Yes,
    /// The tokens or the lease moved: the row says what to do.
    Moved,
    /// The account holds no login.
    Cannot,
}

async fn try_fall_back(
    base: &Base,
    connection: &Connection,
    definition: &Definition,
    lease: i64,
    error: &str,
    actor: &Actor,
) -> Result<FellBack> {
    base.ring.derived(&base.db, &connection.site, AUDIT_LABEL).await?;
    let Some(stored) = connection::load(&base.db, &connection.site, &connection.id).await? else { return Ok(FellBack::Moved) };
    let Some(sealed) = &stored.sealed else { return Ok(FellBack::Moved) };
    let account = connection::open_account(base, &stored.connection, sealed).await?;
    if !definition.can_mint_from(&account) {
        return Ok(FellBack::Cannot);
    }
    let mut tx = base.db.begin().await?;
    if !store::fall_back(&mut tx, connection, lease).await? {
        return Ok(FellBack::Moved);
    }
    let facts = json!({ "provider": connection.provider, "error": error, "version": connection.version });
    let event = Event::new(&connection.site, actor, "refresh.fell_back").connection(&connection.id);
    base.audit.record(&mut tx, event.facts(facts)).await?;
    tx.commit().await?;
    Ok(FellBack::Yes)
}

async fn try_needs_reauth(
    base: &Base,
    connection: &Connection,
    lease: i64,
    reason: &str,
    error: &str,
    actor: &Actor,
) -> Result<bool> {
    base.ring.derived(&base.db, &connection.site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin().await?;
    let release = Release { lease, keep_journal: false, failure: None };
    // The first write locks the row, so that the two are one.
    if !store::release(&mut tx, connection, &release).await?
        || !connection::set_needs_reauth(&mut tx, &connection.site, &connection.id, connection.version, reason, base.clock.now())
            .await?
    {
        return Ok(false);
    }
    let facts = json!({ "provider": connection.provider, "reason": reason, "error": error, "version": connection.version });
    let event = Event::new(&connection.site, actor, "refresh.needs_reauth").outcome(Outcome::Failed).connection(&connection.id);
    base.audit.record(&mut tx, event.facts(facts)).await?;
    tx.commit().await?;
    Ok(true)
}

async fn record(base: &Base, event: Event) -> Result<()> {
    base.ring.derived(&base.db, &event.site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    base.audit.record(&mut tx, event).await?;
    tx.commit().await
}
