//! Webhooks: a site is told what happened, as Standard Webhooks says (<https://www.standardwebhooks.com>).
//!
//! 1. A site names an endpoint, and which events it is for. It gets a secret, once.
//! 2. What happens is queued by the audit, in the transaction of the change itself ([`crate::audit::EVENT_TYPES`]).
//! 3. [`worker`] sends what is due, on every replica. One delivery is claimed by compare-and-set, so two replicas do not have
//!    the same one at the same time; a claim that a replica saw unchanged for longer than a call can take is taken back, whatever
//!    any clock says. So a message comes at least once, with the same id each time.
//! 4. What was not answered with a yes is tried again, later and later, for about three days. An endpoint that says it is gone
//!    (410), or that took nothing for three days, is disabled: visibly, with an event of its own.
//! 5. For thirty days any message can be sent again, by itself or as part of a span of time.
//!
//! Every call goes through the one client to the outside with its address guard; a redirect is an answer that is no yes.

mod claims;
mod sign;
mod store;
mod worker;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use url::Url;

pub use self::{
    sign::{PREFIX, sign},
    worker::{Settings, work_off, worker, worker_with},
};
use crate::{
    audit::{AUDIT_LABEL, EVENT_TYPES, Event, Outcome},
    base::{Base, Outside},
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{MessageId, SiteId, WebhookId},
    principal::Actor,
    seal::Place,
    secret::{Secret, SecretMap},
    text,
};

/// An endpoint as it is listed. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// What somebody called it.
    pub title: String,
    /// Where messages are sent.
    pub url: String,
    /// The types of events it is for; absent for all of them.
    pub events: Option<Vec<String>>,
    /// Until when the secret before the present one signs, too.
    pub old_secret_until: Option<Timestamp>,
    /// Since when.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Since when no attempt was answered with a yes.
    pub failing_since: Option<Timestamp>,
    /// Since when it is told nothing.
    pub disabled_at: Option<Timestamp>,
    /// Why: `by_hand`, `gone` (it answered 410) or `failing`.
    pub disabled_why: Option<String>,
}

/// What a new endpoint is made of.
#[derive(Clone, Debug)]
pub struct NewWebhook {
    /// Where messages are sent.
    pub url: Url,
    /// What to call it.
    pub title: String,
    /// The types of events it is for; absent for all of them.
    pub events: Option<Vec<String>>,
}

/// What changes about an endpoint; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Where messages are sent.
    pub url: Option<Url>,
    /// What to call it.
    pub title: Option<String>,
    /// The types of events it is for; all of them where nothing is inside.
    pub events: Option<Option<Vec<String>>>,
    /// Whether it is told anything.
    pub enabled: Option<bool>,
}

/// An endpoint with its secret, which is shown this once.
#[derive(Debug)]
pub struct Made {
    /// The endpoint.
    pub webhook: Webhook,
    /// What its messages are signed with: `whsec_` and base64.
    pub secret: Secret,
}

/// What became of one message at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The message, which is `webhook-id`.
    pub message: MessageId,
    /// The type of its event.
    pub kind: String,
    /// When that happened.
    pub at: Timestamp,
    /// `pending`, `delivered`, `failed` (given up) or `stopped` (the endpoint was disabled before).
    pub status: String,
    /// How often it was tried since it was queued, or queued again.
    pub attempts: i64,
    /// When it is tried next; absent while it is under way, and when it is over.
    pub next_at: Option<Timestamp>,
    /// The status of the last answer.
    pub last_status: Option<i64>,
    /// The stable word of the last failure.
    pub last_error: Option<String>,
    /// Since when it is over.
    pub done_at: Option<Timestamp>,
}

/// Which messages are sent again.
#[derive(Clone, Debug)]
pub enum Replay {
    /// This one, whatever became of it.
    Message(MessageId),
    /// Those of a span of time, both ends included.
    Span {
        /// From when.
        since: Timestamp,
        /// Until when.
        until: Timestamp,
        /// Also those that were delivered.
        delivered_too: bool,
    },
}

/// Makes an endpoint.
///
/// # Errors
/// `address_refused` where the guard would not let a message through; `invalid_request` for an event that does not exist;
/// `conflict` where the site has twenty endpoints.
pub async fn create(outside: &Outside, site: &SiteId, actor: &Actor, new: NewWebhook) -> Result<Made> {
    let base = &outside.base;
    check_url(outside, &new.url)?;
    text::check("title", &new.title, text::LABEL)?;
    let events = new.events.map(checked_events).transpose()?;
    let now = base.clock.now();
    let webhook = Webhook {
        id: WebhookId::new(),
        title: new.title,
        url: new.url.into(),
        events,
        old_secret_until: None,
        created_at: now,
        updated_at: now,
        failing_since: None,
        disabled_at: None,
        disabled_why: None,
    };
    let secret = sign::fresh()?;
    let sealed = seal(base, site, &webhook.id, &secret, None).await?;
    prepare(base, site).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if store::count(&mut tx, site).await? >= MOST {
        return Err(Error::new(Code::Conflict, format!("a site has at most {MOST} webhooks; delete one that is not needed")));
    }
    store::insert(&mut tx, site, &webhook, &sealed, actor).await?;
    let facts = json!({ "webhook": webhook.id, "host": host(&webhook), "events": webhook.events });
    base.audit.record(&mut tx, Event::new(site, actor, "webhook.create").facts(facts)).await?;
    tx.commit().await?;
    Ok(Made { webhook, secret })
}

/// A site's endpoints, the oldest first.
pub async fn list(db: &Db, site: &SiteId) -> Result<Vec<Webhook>> {
    store::all(db, site).await
}

/// The endpoints of all sites that take nothing, or were disabled for that: for whoever watches over all of it.
pub async fn troubled(db: &Db, limit: u32) -> Result<Vec<(SiteId, Webhook)>> {
    let mut all = Vec::new();
    for (site, id) in store::troubled(db, limit.into()).await? {
        // One that was removed meanwhile is no trouble any more.
        if let Some((webhook, _)) = store::by_id(db, &site, &id).await? {
            all.push((site, webhook));
        }
    }
    Ok(all)
}

/// One endpoint that must be there.
pub async fn require(db: &Db, site: &SiteId, id: &WebhookId) -> Result<Webhook> {
    Ok(found(db, site, id).await?.0)
}

async fn found(db: &Db, site: &SiteId, id: &WebhookId) -> Result<(Webhook, Vec<u8>)> {
    let found = store::by_id(db, site, id).await?;
    found.ok_or_else(|| Error::new(Code::NotFound, format!("there is no webhook `{id}`")))
}

/// Changes an endpoint. One that is enabled again begins with what happens from then on; what it missed is replayed when
/// somebody says so.
///
/// # Errors
/// As [`create`]; `not_found`; `conflict` where somebody else changed it meanwhile.
pub async fn change(outside: &Outside, site: &SiteId, actor: &Actor, id: &WebhookId, change: Change) -> Result<Webhook> {
    let base = &outside.base;
    if let Some(url) = &change.url {
        check_url(outside, url)?;
    }
    if let Some(title) = &change.title {
        text::check("title", title, text::LABEL)?;
    }
    let events = change.events.map(|events| events.map(checked_events).transpose()).transpose()?;
    let before = require(&base.db, site, id).await?;
    let now = base.clock.now();
    let mut after = before.clone();
    after.updated_at = now;
    if let Some(url) = change.url {
        after.url = url.into();
    }
    if let Some(title) = change.title {
        after.title = title;
    }
    if let Some(events) = events {
        after.events = events;
    }
    prepare(base, site).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::update(&mut tx, site, &before, &after).await? {
        return Err(Error::new(Code::Conflict, "the webhook changed meanwhile; look at it and say it again"));
    }
    if change.enabled == Some(true) {
        store::enable(&mut tx, site, id).await?;
    }
    let facts = json!({ "webhook": id, "host": host(&after), "events": after.events, "enabled": change.enabled });
    base.audit.record(&mut tx, Event::new(site, actor, "webhook.change").facts(facts)).await?;
    if change.enabled == Some(false) {
        disable(base, &mut tx, site, actor, id, "by_hand").await?;
    }
    tx.commit().await?;
    require(&base.db, site, id).await
}

/// Gives an endpoint a new secret. The one before signs too for a day, so that whoever verifies can go over meanwhile.
///
/// # Errors
/// `not_found`; `conflict` where somebody else does the same.
pub async fn rotate(base: &Base, site: &SiteId, actor: &Actor, id: &WebhookId) -> Result<Made> {
    let (_, sealed) = found(&base.db, site, id).await?;
    let held = open(base, site, id, &sealed).await?;
    let secret = sign::fresh()?;
    let fresh = seal(base, site, id, &secret, held.text(SECRET).as_ref()).await?;
    prepare(base, site).await?;
    let now = base.clock.now();
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::set_secret(&mut tx, site, id, &sealed, &fresh, now.plus(BOTH_SIGN), now).await? {
        return Err(Error::new(Code::Conflict, "the webhook's secret changed meanwhile; say it again"));
    }
    base.audit.record(&mut tx, Event::new(site, actor, "webhook.rotate").facts(json!({ "webhook": id }))).await?;
    tx.commit().await?;
    Ok(Made { webhook: require(&base.db, site, id).await?, secret })
}

/// Removes an endpoint with everything that waits for it. Doing it again changes nothing.
pub async fn delete(base: &Base, site: &SiteId, actor: &Actor, id: &WebhookId) -> Result<()> {
    prepare(base, site).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if store::delete(&mut tx, site, id).await? {
        base.audit.record(&mut tx, Event::new(site, actor, "webhook.delete").facts(json!({ "webhook": id }))).await?;
    }
    tx.commit().await
}

/// What became of an endpoint's messages, the newest first: at most `limit`, older than the message `before`.
pub async fn deliveries(
    db: &Db,
    site: &SiteId,
    id: &WebhookId,
    status: Option<&str>,
    before: Option<&MessageId>,
    limit: u32,
) -> Result<Vec<Delivery>> {
    if let Some(status) = status.filter(|status| !STATUSES.contains(status)) {
        let text = format!("`{status:.40}` is no state of a delivery; there are {}", STATUSES.join(", "));
        return Err(Error::new(Code::InvalidRequest, text));
    }
    require(db, site, id).await?;
    store::deliveries(db, site, id, status, before, limit).await
}

/// Queues messages again for an endpoint, with their old ids, and says how many. What waits already is left as it is.
///
/// # Errors
/// `not_found`; `conflict` where the endpoint is disabled.
pub async fn replay(base: &Base, site: &SiteId, actor: &Actor, id: &WebhookId, what: &Replay) -> Result<u64> {
    let webhook = require(&base.db, site, id).await?;
    if webhook.disabled_at.is_some() {
        return Err(Error::new(Code::Conflict, "the webhook is disabled; enable it first"));
    }
    let facts = match what {
        Replay::Message(message) => json!({ "webhook": id, "message": message }),
        Replay::Span { since, until, delivered_too } => {
            json!({ "webhook": id, "since": since, "until": until, "delivered_too": delivered_too })
        }
    };
    prepare(base, site).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    let mut queued = 0;
    if let Replay::Message(message) = what {
        if !store::has_message(&mut tx, site, message).await? {
            return Err(Error::new(Code::NotFound, format!("there is no message `{message}`; they are kept for thirty days")));
        }
        queued += store::queue_again(&mut tx, site, id, message, true, base.clock.now()).await?;
    }
    base.audit.record(&mut tx, Event::new(site, actor, "webhook.replay").facts(facts)).await?;
    tx.commit().await?;
    if let Replay::Span { since, until, delivered_too } = what {
        let mut after = None;
        loop {
            let page = store::messages(&base.db, site, *since, *until, after.as_ref()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            // A page at a time, so that others can write in between.
            let mut tx = base.db.begin_bookkeeping().await?;
            for (message, kind) in &page {
                if webhook.events.as_ref().is_none_or(|events| events.contains(kind)) {
                    queued += store::queue_again(&mut tx, site, id, message, *delivered_too, base.clock.now()).await?;
                }
            }
            tx.commit().await?;
        }
    }
    Ok(queued)
}

/// Removes messages that are older than thirty days, and what became of them.
pub async fn sweep(base: &Base) -> Result<()> {
    store::sweep(&base.db, base.clock.now().minus(KEPT)).await
}

/// Stops telling an endpoint anything, in a transaction of the caller's. False where it was disabled before.
async fn disable(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, id: &WebhookId, why: &str) -> Result<bool> {
    if !store::disable(tx, site, id, why, base.clock.now()).await? {
        return Ok(false);
    }
    let outcome = if why == "by_hand" { Outcome::Ok } else { Outcome::Failed };
    let event = Event::new(site, actor, "webhook.disable").outcome(outcome);
    base.audit.record(tx, event.facts(json!({ "webhook": id, "reason": why }))).await?;
    Ok(true)
}

fn check_url(outside: &Outside, url: &Url) -> Result<()> {
    text::check("url", url.as_str(), text::NOTE)?;
    outside.upstream.guard().check_url(url)
}

fn checked_events(mut events: Vec<String>) -> Result<Vec<String>> {
    events.sort();
    events.dedup();
    if events.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "name at least one event, or leave `events` out for all of them"));
    }
    match events.iter().find(|event| !EVENT_TYPES.iter().any(|(name, _)| name == event)) {
        None => Ok(events),
        Some(odd) => {
            let all: Vec<_> = EVENT_TYPES.iter().map(|(name, _)| *name).collect();
            Err(Error::new(Code::InvalidRequest, format!("`{odd:.60}` is no event; there are {}", all.join(", "))))
        }
    }
}

/// What the audit says of an endpoint's address: its path and query may hold what only its owner should know.
fn host(webhook: &Webhook) -> Option<String> {
    Url::parse(&webhook.url).ok()?.host_str().map(str::to_owned)
}

async fn seal(base: &Base, site: &SiteId, id: &WebhookId, secret: &Secret, old: Option<&Secret>) -> Result<Vec<u8>> {
    let mut held = SecretMap::default();
    held.set_text(SECRET, secret);
    if let Some(old) = old {
        held.set_text(OLD_SECRET, old);
    }
    base.ring.seal(&base.db, &Place::webhook(site, id), &held.to_json()).await
}

async fn open(base: &Base, site: &SiteId, id: &WebhookId, sealed: &[u8]) -> Result<SecretMap> {
    let opened = base.ring.open(&base.db, &Place::webhook(site, id), sealed).await?;
    SecretMap::from_json(&opened).map_err(|_| Error::internal("a sealed webhook holds no JSON object"))
}

/// Makes sure of the key that the audit needs, before a transaction begins.
async fn prepare(base: &Base, site: &SiteId) -> Result<()> {
    base.ring.derived(&base.db, site, AUDIT_LABEL).await.map(|_| ())
}

/// The members of what is sealed.
const SECRET: &str = "secret";
const OLD_SECRET: &str = "old_secret";
/// What may become of a delivery.
const STATUSES: [&str; 4] = ["pending", "delivered", "failed", "stopped"];
/// How many endpoints a site has at most: each costs a row for every event.
const MOST: i64 = 20;
/// How long two secrets sign.
const BOTH_SIGN: Duration = Duration::from_secs(24 * 3600);
/// How long messages are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
