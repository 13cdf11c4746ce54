//! One attempt: everything that can fail before, then lease and journal, then one request, then what it means.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    Refresher, Served,
    breaker::{Admission, backoff},
    crash,
    life::Life,
    room::Room,
    run::failed_before,
    settle::{ANSWER_LOST, Spent},
    store::{self, Failed, Release, Take},
    tasks::{Progress, Trouble},
};
use crate::{
    app_config::{self, AppConfig},
    audit::{AUDIT_LABEL, Event, Outcome},
    connection::{self, Connection, Renewal, Stored, calls},
    error::{Code, Error, Result},
    principal::Actor,
    provider::{
        Broker, Definition, OwnClient, RefreshStrategy, Vars,
        step::{FailureClass, MAX_ANSWER, Step, StepFailure},
    },
    secret::{Secret, SecretMap},
    upstream::{Answer, Failure, Limits, Sent},
};

/// What is to be tried.
pub(super) struct Plan {
    /// The row as it was read.
    pub(super) stored: Stored,
    pub(super) definition: Arc<Definition>,
    /// Whether this is the one recovery attempt after a lost answer.
    pub(super) recovery: bool,
    /// Whether the provider refused the token, which forces a refresh once a minute.
    pub(super) forced: bool,
    pub(super) actor: Actor,
}

/// What came of it.
pub(super) enum Attempted {
    /// New tokens, committed.
    Served(Arc<Served>),
    /// The row moved, or says something new: look again.
    Again,
    /// The answer was lost; the journal stays. When the request was sent at the latest.
    Lost { sent: Instant, trouble: Trouble },
    /// Nothing was spent; it may be tried again later.
    Failed(Trouble),
}

/// A request that is ready, and what it spends: nothing where a token is minted anew.
pub(super) struct Prepared {
    pub(super) request: Request<Bytes>,
    pub(super) authority: String,
    pub(super) config: Option<AppConfig>,
    pub(super) spent: Option<Secret>,
}

impl Refresher {
    pub(super) async fn attempt(&self, plan: Plan, progress: &watch::Sender<Progress>) -> Attempted {
        let settings = self.0.settings;
        let prepared = match self.prepare(&plan).await {
            Ok(prepared) => prepared,
            Err(error) => return Attempted::Failed(self.cannot_ask(&plan, error).await),
        };
        if let Some(wait) = prepared.config.as_ref().and_then(|config| self.0.alerts.pause(config)) {
            return Attempted::Failed(app_refused().after(wait).of_all());
        }
        let (admission, room) = match self.leave(&prepared.authority).await {
            Ok(Ok(leave)) => leave,
            Ok(Err(wait)) => {
                let trouble = failed_before(Some("provider_unavailable")).after(wait);
                // Of a provider with a server for each account, only this account's is known to be away.
                let one_server = step(&plan.definition, plan.stored.connection.renewal);
                let one_server = one_server.is_ok_and(|step| step.url.fixed_host().is_some());
                return Attempted::Failed(if one_server { trouble.of_all() } else { trouble });
            }
            Err(error) => return Attempted::Failed(error.into()),
        };
        if self.0.stopping.is_cancelled() {
            return Attempted::Failed(Trouble::new(Code::Unavailable, "the service is shutting down; try again"));
        }
        crash::point(crash::BEFORE_LEASE).await;
        // The deadline counts from before the commit: whoever sees the lease later counts from later.
        let begun = Instant::now();
        match self.take_lease(&plan).await {
            Ok(true) => {}
            Ok(false) => return Attempted::Again,
            Err(error) => return Attempted::Failed(error.into()),
        }
        crash::point(crash::AFTER_JOURNAL).await;
        let spent = Spent {
            connection: plan.stored.connection.clone(),
            definition: plan.definition.clone(),
            lease: plan.stored.lease_number + 1,
            recovery: plan.recovery,
            actor: plan.actor.clone(),
            secret: prepared.spent,
            sent_at: self.now(),
        };
        let sent = Instant::now();
        let answer = self.send(prepared.request, begun + settings.deadline).await;
        drop(room);
        match answer {
            Err(Failure { error, sent: Sent::No }) => {
                admission.failed(None);
                self.spent_nothing(&spent, error.code().as_str(), None, "unreachable").await
            }
            Err(Failure { error, sent: Sent::Maybe }) => {
                admission.failed(None);
                self.answer_lost(&spent, sent, error.code().as_str()).await
            }
            Ok(answer) => {
                crash::point(crash::AFTER_ANSWER).await;
                // No more requests are sent now: what follows may take long, and only waits for the database.
                let step = step(&plan.definition, plan.stored.connection.renewal);
                match step.map(|step| step.read(answer.status, &answer.headers, answer.body.expose())) {
                    Ok(Ok(outputs)) => {
                        admission.succeeded();
                        self.commit_answer(&spent, &outputs, progress).await
                    }
                    Ok(Err(failure)) => self.refused(&spent, &failure, prepared.config.as_ref(), admission, sent).await,
                    Err(error) => Attempted::Failed(error.into()),
                }
            }
        }
    }

    /// Opens and fills in everything that a request needs, before anything is journaled.
    async fn prepare(&self, plan: &Plan) -> Result<Prepared> {
        let base = &self.0.outside.base;
        let (connection, definition) = (&plan.stored.connection, &plan.definition);
        let Some(sealed) = &plan.stored.sealed else { return Err(super::not_there(&connection.id)) };
        let account = connection::open_account(base, connection, sealed).await?;
        let spent = match spends(connection.renewal) {
            None => None,
            Some(name) => Some(
                account
                    .text(name)
                    .ok_or_else(|| Error::new(Code::NotAuthenticated, format!("the account has no {name}; connect it again")))?,
            ),
        };
        // R38: what was granted, and never what was once asked for. What is minted anew was granted nothing yet.
        let wanted = (connection.renewal == Renewal::Remint).then_some(&connection.wanted_scopes);
        let scopes = connection.scopes.as_ref().or(wanted).map(Vec::as_slice).unwrap_or_default();
        let step = step(definition, connection.renewal)?;
        self.request_for(connection, definition, &account, step, spent, scopes).await
    }

    /// Waits until one more request may be under way at a host, and one more at all; or how long that host is left alone.
    ///
    /// That is asked before the wait, so that nobody waits for nothing, and after it: the host may have gone away meanwhile.
    pub(super) async fn leave(&self, authority: &str) -> Result<std::result::Result<(Admission<'_>, Room), Duration>> {
        let breakers = &self.0.breakers;
        if let Err(wait) = breakers.admit(authority) {
            return Ok(Err(wait));
        }
        let room = self.0.rooms.take(authority).await;
        let room = room.ok_or_else(|| Error::internal("nobody hands out room for a refresh any more"))?;
        Ok(breakers.admit(authority).map(|admission| (admission, room)))
    }

    /// The request of a step, filled in from an account and from the app that it was connected with.
    pub(super) async fn request_for(
        &self,
        connection: &Connection,
        definition: &Definition,
        account: &SecretMap,
        step: &Step,
        spent: Option<Secret>,
        scopes: &[String],
    ) -> Result<Prepared> {
        let outside = &self.0.outside;
        let base = &outside.base;
        let Connection { site, provider, owner, app_config, .. } = connection;
        let (config, app) = app_config::of_account(outside, site, provider, owner, app_config.as_ref()).await?.unzip();
        let client = OwnClient::of(definition, app.as_ref(), Some(account));
        let scopes = (!scopes.is_empty()).then(|| match &definition.oauth2 {
            Some(oauth2) => oauth2.join_scopes(scopes),
            None => scopes.join(" "),
        });
        let callback = app_config::callback::of(outside, &connection.site, &connection.provider).await?.url;
        let vars = Vars {
            app: app.as_ref(),
            fields: Some(account),
            account: Some(account),
            client: client.borrow(),
            scopes: scopes.as_deref(),
            callback: Some(&callback),
            id: connection.subject.as_deref(),
            now: Some(self.now()),
            broker: Broker { url: outside.public_url.as_str(), ..Broker::default() },
            ..Vars::default()
        };
        let assertion = match &definition.jwt {
            Some(jwt) => Some(jwt.sign(&vars, self.now())?),
            None => None,
        };
        let request = step.render(&Vars { jwt: assertion.as_ref(), ..vars })?;
        calls::check(outside, connection, definition, &vars, request.uri()).await?;
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        // Both may write, so they come before any transaction.
        base.ring.ensure(&base.db, connection.site.as_str(), connection.provider.as_str()).await?;
        base.ring.derived(&base.db, &connection.site, AUDIT_LABEL).await?;
        Ok(Prepared { request, authority, config, spent })
    }

    /// Something of ours is missing or broken. A row is not tried again at once, so that callers do not hammer on it.
    async fn cannot_ask(&self, plan: &Plan, error: Error) -> Trouble {
        if error.code() == Code::StorageFailed {
            return error.into();
        }
        let connection = &plan.stored.connection;
        let retry_at = self.now().plus(backoff(1, OURS, OURS));
        let failed = Failed { retry_at, refresh_at: retry_at, error: error.code().as_str() };
        if let Err(storage) = self.note_not_asked(connection, &plan.actor, &failed, &error).await {
            tracing::warn!(connection.id = %connection.id, error = ?storage, "a failure could not be noted");
        }
        tracing::warn!(connection.id = %connection.id, provider = %connection.provider, error = ?error, "a token cannot be renewed");
        count("not_asked");
        error.into()
    }

    /// Notes it, and records it in the same transaction: of failures in a row the first, and that the definition leads elsewhere
    /// whatever failed before.
    async fn note_not_asked(&self, connection: &Connection, actor: &Actor, failed: &Failed<'_>, error: &Error) -> Result<()> {
        let base = &self.0.outside.base;
        let told = match error.code() {
            Code::HostRefused => {
                (connection.last_error.as_deref() != Some(failed.error)).then_some(("refresh.refused", Outcome::Denied))
            }
            _ => (connection.failures == 0).then_some(("refresh.failed", Outcome::Failed)),
        };
        if told.is_some() {
            base.ring.derived(&base.db, &connection.site, AUDIT_LABEL).await?;
        }
        let mut tx = base.db.begin_bookkeeping().await?;
        let noted = store::note_failure(&mut tx, connection, failed).await?;
        let told = told.filter(|_| noted);
        if let Some((action, outcome)) = told {
            let facts = json!({ "provider": connection.provider, "error": failed.error, "why": error.message() });
            let event = Event::new(&connection.site, actor, action).outcome(outcome);
            base.audit.record(&mut tx, event.connection(&connection.id).facts(facts)).await?;
        }
        tx.commit().await?;
        if told.is_some() {
            self.tell_failed(connection, failed.error);
        }
        Ok(())
    }

    async fn take_lease(&self, plan: &Plan) -> Result<bool> {
        let (connection, lease) = (&plan.stored.connection, plan.stored.lease_number);
        let take = Take {
            lease_as_read: lease,
            holder: &self.0.holder,
            recovery: plan.recovery,
            forced_at: plan.forced.then(|| self.now()),
        };
        let taken = store::take_lease(self.db(), connection, &take).await;
        if taken.is_err() {
            // Perhaps it was committed nevertheless. Nothing was sent under it, so it is taken back.
            let release = Release { lease: lease + 1, keep_journal: plan.recovery, failure: None };
            self.let_go(connection, &release).await;
        }
        taken
    }

    pub(super) async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Answer, Failure> {
        let exchange = self.0.outside.upstream.exchange(request, Limits { deadline, max_body: MAX_ANSWER });
        if !crash::is_set(crash::AFTER_SEND) {
            return exchange.await;
        }
        tokio::pin!(exchange);
        // The request is a few hundred bytes and written at once; if the answer is here already, nobody has looked at it.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut exchange).await;
        crash::point(crash::AFTER_SEND).await;
        match early {
            Ok(answer) => answer,
            Err(_) => exchange.await,
        }
    }

    /// The provider answered, and not with tokens.
    async fn refused(
        &self,
        spent: &Spent,
        failure: &StepFailure,
        config: Option<&AppConfig>,
        admission: Admission<'_>,
        sent: Instant,
    ) -> Attempted {
        tracing::debug!(connection.id = %spent.connection.id, failure = %failure, "a refresh was refused");
        match meaning(spent, failure) {
            FailureClass::Terminal => {
                admission.succeeded();
                self.refused_for_good(spent, &failure.error).await
            }
            FailureClass::ClientFault => {
                admission.succeeded();
                self.app_was_refused(spent, config, &failure.error).await
            }
            FailureClass::Transient { retry_after } => {
                admission.failed(retry_after);
                self.spent_nothing(spent, &failure.error, retry_after, "transient").await
            }
            // A success that cannot be read may have been one.
            FailureClass::Other if failure.status.is_success() && OURS_FOR_UNREADABLE.contains(&failure.error.as_str()) => {
                admission.failed(None);
                self.answer_lost(spent, sent, &failure.error).await
            }
            FailureClass::Denied | FailureClass::Other => {
                admission.succeeded();
                self.spent_nothing(spent, &failure.error, None, "transient").await
            }
        }
    }

    /// Nothing was spent: the lease ends and it is tried again later.
    async fn spent_nothing(&self, spent: &Spent, error: &str, retry_after: Option<Duration>, outcome: &'static str) -> Attempted {
        let pause = self.pause(spent).max(retry_after.unwrap_or_default());
        let retry_at = self.now().plus(pause);
        let release = Release {
            lease: spent.lease,
            // The answer that was lost before is still lost.
            keep_journal: spent.recovery,
            failure: Some(Failed { retry_at, refresh_at: retry_at, error }),
        };
        count(outcome);
        let connection = &spent.connection;
        self.tell_failed(connection, error);
        tracing::info!(connection.id = %connection.id, provider = %connection.provider, error, pause = ?pause, "a refresh failed; it is tried again");
        match self.let_go_failed(spent, &release, error).await {
            Some(false) => Attempted::Again,
            _ => Attempted::Failed(failed_before(Some(error)).after(pause)),
        }
    }

    /// Nobody knows whether the token was spent.
    async fn answer_lost(&self, spent: &Spent, sent: Instant, error: &str) -> Attempted {
        if !spent.can_be_lost() {
            return self.spent_nothing(spent, error, None, "transient").await;
        }
        count("lost");
        if spent.recovery {
            return self.refused_for_good(spent, error).await;
        }
        let connection = &spent.connection;
        self.tell_failed(connection, error);
        let pause = self.pause(spent);
        let retry_at = self.now().plus(pause);
        let refresh_at = connection.expires_at.map_or(retry_at, |end| end.max(retry_at));
        let release = Release {
            lease: spent.lease,
            keep_journal: true,
            failure: Some(Failed { retry_at, refresh_at, error: ANSWER_LOST }),
        };
        tracing::warn!(
            connection.id = %connection.id, provider = %connection.provider, error,
            "the answer to a refresh was lost; there is one more attempt once the access token ends"
        );
        match self.let_go_failed(spent, &release, error).await {
            Some(false) => Attempted::Again,
            _ => Attempted::Lost { sent, trouble: failed_before(Some(ANSWER_LOST)).after(pause) },
        }
    }

    /// The pause after this failure.
    fn pause(&self, spent: &Spent) -> Duration {
        let settings = &self.0.settings;
        backoff(spent.connection.failures.saturating_add(1), settings.first_backoff, settings.longest_backoff)
    }
}

/// Our own words for a success that cannot be read (see `provider::step`): it may have brought tokens.
pub(super) const OURS_FOR_UNREADABLE: &[&str] =
    &["unreadable_answer", "no_token_in_answer", "malformed_token", "unknown_token_type"];

/// How long a row rests that lacks something of ours.
const OURS: Duration = Duration::from_secs(30);

pub(super) fn app_refused() -> Trouble {
    Trouble::new(
        Code::RefreshFailed,
        "the provider refuses the app that this account was connected with; the operator must look at its configuration",
    )
}

/// Counts what came of a refresh.
pub(super) fn count(outcome: &'static str) {
    metrics::counter!("valetkey_refresh_total", "outcome" => outcome).increment(1);
}

/// What a renewal spends of the account; nothing where a token is minted from what stays as it is.
pub(super) fn spends(renewal: Renewal) -> Option<&'static str> {
    match renewal {
        Renewal::Extend => Some("access_token"),
        Renewal::RefreshToken => Some("refresh_token"),
        Renewal::Remint | Renewal::None => None,
    }
}

fn step(definition: &Definition, renewal: Renewal) -> Result<&Step> {
    let refresh = &definition.refresh;
    // An account whose refresh token is gone, at a provider where a login is what to fall back on.
    let step = match (renewal, refresh.strategy) {
        (Renewal::Remint, RefreshStrategy::RefreshToken) => definition.minting_step(),
        _ => refresh.step.as_ref(),
    };
    step.ok_or_else(|| Error::internal("a definition is renewed without a step"))
}

/// What a refusal means. One of what a token is minted from (a password, a key) is for good, or the app's fault, though
/// providers have no word for it: to send a wrong password again and again locks the account out.
fn meaning(spent: &Spent, failure: &StepFailure) -> FailureClass {
    let refused = match failure.class {
        FailureClass::ClientFault | FailureClass::Denied => true,
        FailureClass::Other => matches!(failure.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
        FailureClass::Terminal | FailureClass::Transient { .. } => false,
    };
    match (spent.connection.renewal, refused) {
        (Renewal::Remint, true) if spent.definition.mints_as_app() => FailureClass::ClientFault,
        (Renewal::Remint, true) => FailureClass::Terminal,
        _ => failure.class,
    }
}

impl Spent {
    /// Whether an unanswered request may have used up what it carried.
    fn can_be_lost(&self) -> bool {
        self.secret.is_some() && Life::rotates(&self.definition)
    }
}
