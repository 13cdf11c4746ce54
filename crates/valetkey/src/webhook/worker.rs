//! Sends what is due: claims it, signs it, sends it once, settles it.
//!
//! One task for each endpoint, and one message at a time in it: an endpoint that hangs holds up nobody else, and gets what
//! happened in its order as long as it takes it. Of the places for tasks, endpoints that fail have half at most.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    OLD_SECRET, SECRET,
    claims::Sightings,
    disable, open, prepare, sign,
    store::{self, Due, Endpoint, Settlement},
};
use crate::{
    base::Outside,
    clock::{Timestamp, backoff},
    error::{Error, Result},
    principal::Actor,
    provider::retry_after,
    upstream::Limits,
};

/// How messages are sent. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often what is due is looked for.
    pub interval: Duration,
    /// How long one call may take.
    pub deadline: Duration,
    /// How much longer than a call a claim lives before whoever sees it all that time takes it for left behind.
    pub claim_extra: Duration,
    /// The pause after a first failure; it doubles with each further one.
    pub first_backoff: Duration,
    /// The longest pause.
    pub longest_backoff: Duration,
    /// How often a message is tried before it is given up.
    pub attempts: i64,
    /// How long an endpoint may take nothing before it is disabled.
    pub dead_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            deadline: Duration::from_secs(15),
            claim_extra: Duration::from_secs(45),
            // Twenty attempts, doubling from ten seconds to twelve hours, take some three days.
            first_backoff: Duration::from_secs(10),
            longest_backoff: Duration::from_secs(12 * 3600),
            attempts: 20,
            dead_after: Duration::from_secs(3 * 86_400),
        }
    }
}

impl Settings {
    /// How long a claim lives: longer than its holder makes use of it.
    fn claim_life(&self) -> Duration {
        self.deadline + self.claim_extra
    }
}

/// How many endpoints are spoken to at once.
const AT_ONCE: usize = 16;

/// The endpoints that a task is at work for, and whether they failed last.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<HashMap<Endpoint, bool>>>);

impl Busy {
    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoint, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for an endpoint, if there is one and it has none.
    fn take(&self, endpoint: &Endpoint, failing: bool) -> Option<Taken> {
        let mut busy = self.lock();
        let full = busy.len() >= AT_ONCE || (failing && busy.values().filter(|failing| **failing).count() >= AT_ONCE / 2);
        if full || busy.contains_key(endpoint) {
            return None;
        }
        busy.insert(endpoint.clone(), failing);
        Some(Taken { busy: self.clone(), endpoint: endpoint.clone() })
    }
}

/// A place that is given back when this is dropped, however its task ends.
struct Taken {
    busy: Busy,
    endpoint: Endpoint,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.endpoint);
    }
}

/// Sends what is due until `stop`. Every replica runs one.
pub async fn worker(outside: Outside, stop: CancellationToken) {
    worker_with(outside, Settings::default(), stop).await;
}

/// The same with other settings.
pub async fn worker_with(outside: Outside, settings: Settings, stop: CancellationToken) {
    let (busy, mut tasks, mut sightings) = (Busy::default(), JoinSet::new(), Sightings::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(settings.interval) => {}
        }
        while tasks.try_join_next().is_some() {}
        if let Err(error) = sightings.take_back(&outside.base, settings.claim_life()).await {
            tracing::warn!(error = ?error, "it could not be looked for messages that were claimed and not settled; that is tried again");
        }
        let due = match store::due_endpoints(&outside.base.db, outside.base.clock.now()).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(error = ?error, "it could not be looked for messages to webhooks; that is tried again");
                continue;
            }
        };
        for (endpoint, failing) in due {
            let Some(taken) = busy.take(&endpoint, failing) else { continue };
            let (outside, stop) = (outside.clone(), stop.clone());
            tasks.spawn(async move {
                if let Err(error) = send_all(&outside, &settings, &taken.endpoint, &stop).await {
                    tracing::warn!(webhook.id = %taken.endpoint.webhook, error = ?error, "messages to a webhook wait; that is tried again");
                }
            });
        }
    }
    // Not cut off by `stop`: what was sent is settled, or it is sent again once its claim is taken back.
    while tasks.join_next().await.is_some() {}
}

/// Sends what is due now, one endpoint after the other; says how many attempts that were.
pub async fn work_off(outside: &Outside, settings: &Settings) -> Result<usize> {
    let (never, mut all) = (CancellationToken::new(), 0);
    loop {
        let mut tried = 0;
        for (endpoint, _) in store::due_endpoints(&outside.base.db, outside.base.clock.now()).await? {
            tried += send_all(outside, settings, &endpoint, &never).await?;
        }
        if tried == 0 {
            return Ok(all);
        }
        all += tried;
    }
}

/// Sends what is due for an endpoint, until one attempt fails; says how many attempts that were.
async fn send_all(outside: &Outside, settings: &Settings, to: &Endpoint, stop: &CancellationToken) -> Result<usize> {
    let base = &outside.base;
    let mut tried = 0;
    while !stop.is_cancelled() {
        let now = base.clock.now();
        let Some(due) = store::next_due(&base.db, to, now).await? else { break };
        prepare(base, &to.site).await?;
        // Counts from before the claim: a process that stood still meanwhile does not send what another one has by now.
        let deadline = Instant::now() + settings.deadline;
        if !store::claim(&base.db, to, &due).await? {
            continue;
        }
        tried += 1;
        let verdict = match send(outside, to, &due, deadline).await {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!(webhook.id = %to.webhook, error = ?error, "a message to a webhook cannot be made");
                Verdict::refused(None, error.code().as_str())
            }
        };
        if !settle(outside, settings, to, &due, &verdict).await? {
            break;
        }
    }
    Ok(tried)
}

/// What an attempt came to.
enum Verdict {
    /// The answer was a yes.
    Taken(StatusCode),
    /// The endpoint says that it is no more.
    Gone,
    /// Anything else.
    Refused { answered: Option<StatusCode>, error: String, retry_after: Option<Duration> },
}

impl Verdict {
    fn refused(answered: Option<StatusCode>, error: impl Into<String>) -> Self {
        Self::Refused { answered, error: error.into(), retry_after: None }
    }
}

async fn send(outside: &Outside, to: &Endpoint, due: &Due, deadline: Instant) -> Result<Verdict> {
    let base = &outside.base;
    let held = open(base, &to.site, &to.webhook, &due.sealed).await?;
    let now = base.clock.now();
    let old = due.old_secret_until.is_some_and(|until| now < Timestamp(until)).then(|| held.text(OLD_SECRET)).flatten();
    let secrets: Vec<_> = held.text(SECRET).into_iter().chain(old).collect();
    let signature = sign::sign(&secrets, &due.message, now, due.body.as_bytes())?;
    let request = Request::post(&due.url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", &due.message)
        .header("webhook-timestamp", now.unix_seconds())
        .header("webhook-signature", signature)
        .body(Bytes::from(due.body.clone()))
        .map_err(Error::internal)?;
    let answer = match outside.upstream.exchange(request, Limits { deadline, max_body: Limits::MAX_BODY }).await {
        Ok(answer) => answer,
        Err(failure) => return Ok(Verdict::refused(None, failure.error.code().as_str())),
    };
    Ok(match answer.status {
        status if status.is_success() => Verdict::Taken(status),
        StatusCode::GONE => Verdict::Gone,
        status => Verdict::Refused {
            answered: Some(status),
            error: format!("http_{}", status.as_u16()),
            retry_after: retry_after(&answer.headers),
        },
    })
}

/// Writes down what an attempt came to. False where the endpoint is left alone for now.
async fn settle(outside: &Outside, settings: &Settings, to: &Endpoint, due: &Due, verdict: &Verdict) -> Result<bool> {
    let base = &outside.base;
    let now = base.clock.now();
    let (status, answered, error, next_at) = match verdict {
        Verdict::Taken(answered) => ("delivered", Some(*answered), None, None),
        Verdict::Gone => ("failed", Some(StatusCode::GONE), Some("http_410"), None),
        Verdict::Refused { answered, error, retry_after } if due.attempts + 1 < settings.attempts => {
            let pause = backoff(due.attempts + 1, settings.first_backoff, settings.longest_backoff);
            let next_at = now.plus(pause.max(retry_after.unwrap_or_default()));
            ("pending", *answered, Some(error.as_str()), Some(next_at))
        }
        Verdict::Refused { answered, error, .. } => ("failed", *answered, Some(error.as_str()), None),
    };
    let answered = answered.map(|status| i64::from(status.as_u16()));
    let failing_since = due.failing_since.map_or(now, Timestamp);
    let dead = match verdict {
        Verdict::Taken(_) => None,
        Verdict::Gone => Some("gone"),
        Verdict::Refused { .. } => (now.since(failing_since) >= settings.dead_after).then_some("failing"),
    };
    let taken = matches!(verdict, Verdict::Taken(_));
    // Only where it changes: a row that every delivery writes would be a queue of its own.
    let turned = taken == due.failing_since.is_some();
    let mut tx = base.db.begin_bookkeeping().await?;
    if dead.is_some() || turned {
        store::lock(&mut tx, &to.site, &to.webhook).await?;
    }
    if !store::settle(&mut tx, to, due, &Settlement { status, next_at, answered, error, now }).await? {
        return Ok(false);
    }
    let disabled = match dead {
        Some(why) => disable(base, &mut tx, &to.site, &Actor::System, &to.webhook, why).await?,
        None => false,
    };
    if dead.is_none() && turned {
        store::set_failing(&mut tx, &to.site, &to.webhook, (!taken).then_some(now)).await?;
    }
    tx.commit().await?;
    metrics::counter!("valetkey_webhook_deliveries_total", "outcome" => if taken { "delivered" } else { "failed" }).increment(1);
    match (dead, disabled) {
        (Some(why), true) => {
            tracing::warn!(webhook.id = %to.webhook, site = %to.site, why, "a webhook is disabled; it is told nothing until it is enabled again");
        }
        _ if status == "failed" => {
            tracing::warn!(webhook.id = %to.webhook, message.id = due.message, error, "a message to a webhook is given up; it can be replayed");
        }
        _ => {}
    }
    Ok(taken)
}
