//! Works the outbox off: claims what is due, asks the provider, settles the claim.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::store::{self, OwedItem, Settlement};
use crate::{
    app_config,
    audit::{AUDIT_LABEL, Event, Outcome},
    base::Outside,
    connection::{calls, can_revoke_with},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Principal,
    provider::{
        Broker, OwnClient, Vars,
        step::{FailureClass, Step, StepFailure},
    },
    seal::Place,
    secret::{Secret, SecretMap},
    upstream::Limits,
};

/// How the outbox is worked off. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often what is due is looked for.
    pub interval: Duration,
    /// How long one call may take.
    pub deadline: Duration,
    /// The pause after a first failure; it doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause.
    pub longest_backoff: Duration,
    /// How often the provider is asked before it is given up.
    pub attempts: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            // Twenty attempts, doubling from half a minute to twelve hours, take some five days.
            first_backoff: Duration::from_secs(30),
            longest_backoff: Duration::from_secs(12 * 3600),
            attempts: 20,
        }
    }
}

/// How many are asked for at once, and read at a time.
const AT_ONCE: usize = 8;
const PAGE: i64 = 32;

/// The word for a definition that has a revocation go elsewhere than it named when the account was connected.
const REFUSED: &str = Code::HostRefused.as_str();

/// Works off what is due until `stop`. Every replica runs one.
pub async fn worker(outside: Outside, stop: CancellationToken) {
    worker_with(outside, Settings::default(), stop).await;
}

/// The same with other settings.
pub async fn worker_with(outside: Outside, settings: Settings, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(settings.interval) => {}
        }
        // Not cut off by `stop`: a call that was made is settled, or it is made again after its claim ran out.
        if let Err(error) = work_off(&outside, &settings).await {
            tracing::warn!(error = ?error, "the revocations could not be worked off; that is tried again");
        }
    }
}

/// Works off what is due now; says how many calls for revocations were settled.
pub async fn work_off(outside: &Outside, settings: &Settings) -> Result<usize> {
    let mut settled = 0;
    loop {
        let due = store::due(&outside.base.db, outside.base.clock.now(), PAGE).await?;
        let is_last = i64::try_from(due.len()).unwrap_or(PAGE) < PAGE;
        let mut outcomes = stream::iter(due.into_iter().map(|item| one(outside, settings, item))).buffer_unordered(AT_ONCE);
        let mut claimed = 0;
        while let Some(outcome) = outcomes.next().await {
            claimed += usize::from(outcome?);
        }
        settled += claimed;
        // A page of which another replica had everything would come again.
        if is_last || claimed == 0 {
            return Ok(settled);
        }
    }
}

/// Works off what a connection owes now, unless somebody else has it.
pub(super) async fn work_off_of(outside: &Outside, settings: &Settings, site: &SiteId, connection: &ConnectionId) -> Result<()> {
    for item in store::due_of(&outside.base.db, site, connection, outside.base.clock.now()).await? {
        one(outside, settings, item).await?;
    }
    Ok(())
}

/// What the provider's answers mean.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The tokens are dead.
    Revoked,
    /// The provider does not revoke such tokens.
    Unsupported(String),
    /// There was no token that a call names.
    NothingToRevoke,
    /// It refused, and will again.
    Failed(String),
    /// It may work later.
    Later { error: String, retry_after: Option<Duration> },
}

impl Verdict {
    /// What two of them mean together: what may still work is tried again, and what failed is not hidden by what did not.
    fn or_worse(self, other: Self) -> Self {
        let weight = |verdict: &Self| match verdict {
            Verdict::NothingToRevoke => 0,
            Verdict::Unsupported(_) => 1,
            Verdict::Revoked => 2,
            Verdict::Failed(_) => 3,
            Verdict::Later { .. } => 4,
        };
        if weight(&other) > weight(&self) { other } else { self }
    }
}

async fn one(outside: &Outside, settings: &Settings, item: OwedItem) -> Result<bool> {
    let base = &outside.base;
    // Long enough for every call of the longest definition, for a further token too; a dead claimer's row comes due again after it.
    let until = base.clock.now().plus(settings.deadline * 8 + Duration::from_secs(60));
    base.ring.derived(&base.db, &item.site, AUDIT_LABEL).await?;
    if !store::claim(&base.db, &item, until).await? {
        return Ok(false);
    }
    let verdict = ask(outside, settings, &item).await.unwrap_or_else(|error| {
        tracing::warn!(revocation.id = %item.id, error = ?error, "a revocation cannot be asked for");
        Verdict::Later { error: error.code().as_str().to_owned(), retry_after: None }
    });
    settle(outside, settings, &item, verdict).await?;
    Ok(true)
}

async fn settle(outside: &Outside, settings: &Settings, item: &OwedItem, verdict: Verdict) -> Result<()> {
    let base = &outside.base;
    let now = base.clock.now();
    let attempts = item.attempts + 1;
    let (status, error) = match &verdict {
        Verdict::Later { error, retry_after } if attempts < settings.attempts => {
            let doublings = u32::try_from(item.attempts.clamp(0, 20)).unwrap_or(0);
            let pause = settings.first_backoff.saturating_mul(1 << doublings).min(settings.longest_backoff);
            let at = now.plus(pause.max(retry_after.unwrap_or_default()));
            let mut tx = base.db.begin_bookkeeping().await?;
            let settled = store::settle(&mut tx, item, &Settlement::Again { at, error }).await?;
            if settled && error == REFUSED && item.last_error.as_deref() != Some(REFUSED) {
                let facts = json!({ "provider": item.provider, "error": error, "accepted": item.call_hosts });
                let event = Event::by(&Principal::system(item.site.clone()), "revocation.refused").outcome(Outcome::Denied);
                base.audit.record(&mut tx, event.connection(&item.connection).facts(facts)).await?;
            }
            metrics::counter!("valetkey_revocations_total", "outcome" => "later").increment(1);
            tracing::info!(
                revocation.id = %item.id, connection.id = %item.connection, provider = %item.provider, error, attempts,
                "a provider did not revoke yet; its tokens must be taken as living"
            );
            return tx.commit().await;
        }
        Verdict::Later { error, .. } | Verdict::Failed(error) => ("failed", Some(error.as_str())),
        Verdict::Unsupported(error) => ("unsupported", Some(error.as_str())),
        Verdict::NothingToRevoke => ("skipped", Some("no token that the provider revokes")),
        Verdict::Revoked => ("revoked", None),
    };
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::settle(&mut tx, item, &Settlement::Over { status, error, now }).await? {
        return Ok(());
    }
    let outcome = if status == "failed" { Outcome::Failed } else { Outcome::Ok };
    let facts = json!({ "provider": item.provider, "status": status, "error": error, "attempts": attempts });
    let event = Event::by(&Principal::system(item.site.clone()), "revocation.over");
    let event = event.outcome(outcome).connection(&item.connection);
    base.audit.record(&mut tx, event.facts(facts)).await?;
    tx.commit().await?;
    metrics::counter!("valetkey_revocations_total", "outcome" => status).increment(1);
    if status == "failed" {
        tracing::warn!(
            revocation.id = %item.id, connection.id = %item.connection, provider = %item.provider, error, attempts,
            "the provider did not revoke; revoke the app's access there by hand"
        );
    }
    Ok(())
}

/// Makes the definition's calls, in order.
async fn ask(outside: &Outside, settings: &Settings, item: &OwedItem) -> Result<Verdict> {
    let base = &outside.base;
    let definition = outside.definition(&item.provider)?;
    let Some(revoke) = &definition.revoke else { return Ok(Verdict::Unsupported("no_revocation".to_owned())) };
    let Some(sealed) = &item.sealed else { return Ok(Verdict::Failed("nothing_kept".to_owned())) };
    let owner = item.owner.to_string();
    let place = Place::revocation(&item.site, &item.provider, &owner, &item.name, &item.id);
    let bytes = base.ring.open(&base.db, &place, sealed).await?;
    let account = SecretMap::from_json(&bytes).map_err(|_| Error::internal("a sealed revocation holds no JSON object"))?;
    let app = app_config::of_account(outside, &item.site, &item.provider, &item.owner, item.app_config.as_ref()).await?;
    let app = app.map(|(_, app)| app);
    let callback = app_config::callback::of(outside, &item.site, &item.provider).await?.url;
    let mut worst = Verdict::NothingToRevoke;
    // The connection's own tokens, and then those of each slot. All are asked for, whatever became of the first.
    for tokens in std::iter::once(account.clone()).chain(slots_of(&account)) {
        let client = OwnClient::of(&definition, app.as_ref(), Some(&tokens));
        let subject = tokens.text("id");
        let vars = Vars {
            app: app.as_ref(),
            fields: Some(&tokens),
            account: Some(&tokens),
            client: client.borrow(),
            callback: Some(&callback),
            id: subject.as_ref().map(Secret::expose),
            broker: Broker { url: outside.public_url.as_str(), ..Broker::default() },
            ..Vars::default()
        };
        worst = worst.or_worse(call(outside, settings, item, &revoke.steps, &vars).await?);
    }
    Ok(worst)
}

/// An account for each of its slots: with the slot's tokens in the place of its own.
fn slots_of(account: &SecretMap) -> impl Iterator<Item = SecretMap> {
    let slots = account.expose().get("slots").and_then(Value::as_object);
    slots.into_iter().flat_map(Map::values).filter_map(move |slot| {
        let mut of_slot = account.clone();
        of_slot.expose_mut().remove("slots");
        for name in ["access_token", "refresh_token"] {
            let token = slot.get(name).and_then(Value::as_str).unwrap_or_default();
            of_slot.set_text(name, &Secret::new(token));
        }
        ["access_token", "refresh_token"].iter().any(|name| of_slot.text(name).is_some()).then_some(of_slot)
    })
}

/// Makes the calls of a definition for one account.
async fn call(outside: &Outside, settings: &Settings, item: &OwedItem, steps: &[Step], vars: &Vars<'_>) -> Result<Verdict> {
    let (mut revoked, mut unsupported) = (false, None);
    for step in steps {
        if !can_revoke_with(step) {
            unsupported = Some("auth_not_built".to_owned());
            continue;
        }
        if !step.applies(vars) {
            continue;
        }
        let request = step.render(&Vars { now: Some(outside.base.clock.now()), ..*vars })?;
        if item.call_hosts.as_ref().is_some_and(|hosts| !calls::is_among(hosts, request.uri())) {
            tracing::warn!(
                revocation.id = %item.id, connection.id = %item.connection, provider = %item.provider, to = ?request.uri().authority(),
                "the provider's definition has a revocation go to another host than it named for the connection; it is not sent there"
            );
            // The operator may put the definition right.
            return Ok(Verdict::Later { error: REFUSED.to_owned(), retry_after: None });
        }
        let answer = match outside.upstream.exchange(request, Limits::within(settings.deadline)).await {
            Ok(answer) => answer,
            // Asking twice revokes once, so it does not matter whether the request arrived.
            Err(failure) => return Ok(Verdict::Later { error: failure.error.code().as_str().to_owned(), retry_after: None }),
        };
        match step.read(answer.status, &answer.headers, answer.body.expose()) {
            Ok(_) => revoked = true,
            Err(failure) => match refused(step, failure) {
                Verdict::Revoked => revoked = true,
                Verdict::Unsupported(error) => unsupported = Some(error),
                verdict => return Ok(verdict),
            },
        }
    }
    Ok(match (revoked, unsupported) {
        (true, _) => Verdict::Revoked,
        (false, Some(error)) => Verdict::Unsupported(error),
        (false, None) => Verdict::NothingToRevoke,
    })
}

/// What a refusal means for a revocation.
fn refused(step: &Step, failure: StepFailure) -> Verdict {
    match failure.class {
        FailureClass::Transient { retry_after } => Verdict::Later { error: failure.error, retry_after },
        // The operator may correct the app configuration.
        FailureClass::ClientFault => Verdict::Later { error: failure.error, retry_after: None },
        // RFC 7009 section 2.2.1.
        _ if failure.error == "unsupported_token_type" => Verdict::Unsupported(failure.error),
        // What is deleted by its URL or body and is not there is gone, by an attempt whose answer was lost, say.
        _ if step.method == Method::DELETE && matches!(failure.status, StatusCode::NOT_FOUND | StatusCode::GONE) => {
            Verdict::Revoked
        }
        _ => Verdict::Failed(failure.error),
    }
}
