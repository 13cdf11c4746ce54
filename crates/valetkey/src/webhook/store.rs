//! The rows of endpoints, messages and deliveries. The audit writes messages, and the deliveries that come with them.

use super::{Delivery, Webhook};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{MessageId, SiteId, WebhookId},
    on,
    principal::Actor,
    row,
};

row! {
    struct WebhookRow {
        id: String,
        title: String,
        url: String,
        events: Option<String>,
        sealed: Vec<u8>,
        old_secret_until: Option<i64>,
        created_at: i64,
        updated_at: i64,
        failing_since: Option<i64>,
        disabled_at: Option<i64>,
        disabled_why: Option<String>,
    }
}

impl WebhookRow {
    fn read(self) -> Result<(Webhook, Vec<u8>)> {
        let webhook = Webhook {
            id: self.id.parse()?,
            title: self.title,
            url: self.url,
            events: self.events.map(|events| serde_json::from_str(&events)).transpose().map_err(Error::internal)?,
            old_secret_until: self.old_secret_until.map(Timestamp),
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
            failing_since: self.failing_since.map(Timestamp),
            disabled_at: self.disabled_at.map(Timestamp),
            disabled_why: self.disabled_why,
        };
        Ok((webhook, self.sealed))
    }
}

fn events_json(webhook: &Webhook) -> Result<Option<String>> {
    webhook.events.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)
}

pub(super) async fn count(tx: &mut Tx, site: &SiteId) -> Result<i64> {
    let (count,): (i64,) =
        on!(tx, |c| sqlx::query_as("SELECT COUNT(*) FROM webhooks WHERE site = $1").bind(site.as_str()).fetch_one(c).await?);
    Ok(count)
}

pub(super) async fn insert(tx: &mut Tx, site: &SiteId, webhook: &Webhook, sealed: &[u8], actor: &Actor) -> Result<()> {
    let events = events_json(webhook)?;
    on!(tx, |c| sqlx::query(
        "INSERT INTO webhooks (site, id, title, url, events, sealed, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)"
    )
    .bind(site.as_str())
    .bind(webhook.id.as_str())
    .bind(&webhook.title)
    .bind(&webhook.url)
    .bind(&events)
    .bind(sealed)
    .bind(actor.to_string())
    .bind(webhook.created_at.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn all(db: &Db, site: &SiteId) -> Result<Vec<Webhook>> {
    let rows: Vec<WebhookRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT id, title, url, events, sealed, old_secret_until, created_at, updated_at, failing_since, disabled_at, disabled_why
         FROM webhooks WHERE site = $1 ORDER BY created_at, id"
    )
    .bind(site.as_str())
    .fetch_all(c)
    .await?
    });
    rows.into_iter().map(|row| row.read().map(|(webhook, _)| webhook)).collect()
}

row! {
    struct TroubledRow {
        site: String,
        id: String,
    }
}

/// The endpoints of all sites that take nothing, or were disabled for that; at most `limit`.
pub(super) async fn troubled(db: &Db, limit: i64) -> Result<Vec<(SiteId, WebhookId)>> {
    let rows: Vec<TroubledRow> = on!(db, |c| sqlx::query_as(
        "SELECT site, id FROM webhooks WHERE failing_since IS NOT NULL OR disabled_why IN ('gone', 'failing')
         ORDER BY site, id LIMIT $1"
    )
    .bind(limit)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(|row| Ok((row.site.parse()?, row.id.parse()?))).collect()
}

/// An endpoint with what it has sealed.
pub(super) async fn by_id(db: &Db, site: &SiteId, id: &WebhookId) -> Result<Option<(Webhook, Vec<u8>)>> {
    let row: Option<WebhookRow> = on!(db, |c| {
        sqlx::query_as(
        "SELECT id, title, url, events, sealed, old_secret_until, created_at, updated_at, failing_since, disabled_at, disabled_why
         FROM webhooks WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?
    });
    row.map(WebhookRow::read).transpose()
}

/// Writes what people say of an endpoint; at another address it has not failed yet. False where somebody else did meanwhile.
pub(super) async fn update(tx: &mut Tx, site: &SiteId, before: &Webhook, after: &Webhook) -> Result<bool> {
    let events = events_json(after)?;
    let changed = on!(tx, |c| {
        sqlx::query(
            "UPDATE webhooks SET title = $3, url = $4, events = $5, updated_at = $6,
            failing_since = CASE WHEN url = $4 THEN failing_since END
         WHERE site = $1 AND id = $2 AND updated_at = $7",
        )
        .bind(site.as_str())
        .bind(before.id.as_str())
        .bind(&after.title)
        .bind(&after.url)
        .bind(&events)
        .bind(after.updated_at.0)
        .bind(before.updated_at.0)
        .execute(c)
        .await?
        .rows_affected()
    });
    Ok(changed == 1)
}

pub(super) async fn enable(tx: &mut Tx, site: &SiteId, id: &WebhookId) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE webhooks SET disabled_at = NULL, disabled_why = NULL, failing_since = NULL
         WHERE site = $1 AND id = $2 AND disabled_at IS NOT NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Disables an endpoint, and stops what waits for it. False where it was disabled before.
pub(super) async fn disable(tx: &mut Tx, site: &SiteId, id: &WebhookId, why: &str, now: Timestamp) -> Result<bool> {
    let changed = on!(&mut *tx, |c| sqlx::query(
        "UPDATE webhooks SET disabled_at = $3, disabled_why = $4, updated_at = $3
         WHERE site = $1 AND id = $2 AND disabled_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(why)
    .execute(c)
    .await?
    .rows_affected());
    if changed == 1 {
        on!(tx, |c| sqlx::query(
            "UPDATE webhook_deliveries SET status = 'stopped', next_at = NULL, done_at = $3
             WHERE site = $1 AND webhook = $2 AND status = 'pending'"
        )
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(now.0)
        .execute(c)
        .await
        .map(|_| ())?);
    }
    Ok(changed == 1)
}

/// Puts other secrets in the place of those that were read. False where somebody else did meanwhile.
pub(super) async fn set_secret(
    tx: &mut Tx,
    site: &SiteId,
    id: &WebhookId,
    old: &[u8],
    new: &[u8],
    old_until: Timestamp,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE webhooks SET sealed = $4, old_secret_until = $5, updated_at = $6 WHERE site = $1 AND id = $2 AND sealed = $3"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(old)
    .bind(new)
    .bind(old_until.0)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Locks an endpoint's row until the transaction ends. Whoever writes an endpoint and its deliveries does that first, so that
/// two of them wait for one another and do not lock up.
pub(super) async fn lock(tx: &mut Tx, site: &SiteId, id: &WebhookId) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE webhooks SET updated_at = updated_at WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Notes since when an endpoint takes nothing, unless that is noted already; or that it took something.
pub(super) async fn set_failing(tx: &mut Tx, site: &SiteId, id: &WebhookId, since: Option<Timestamp>) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE webhooks SET failing_since = $3
         WHERE site = $1 AND id = $2 AND disabled_at IS NULL AND (failing_since IS NULL) <> ($3 IS NULL)"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(since.map(|at| at.0))
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn delete(tx: &mut Tx, site: &SiteId, id: &WebhookId) -> Result<bool> {
    let gone = on!(&mut *tx, |c| sqlx::query("DELETE FROM webhooks WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .execute(c)
        .await?
        .rows_affected());
    on!(tx, |c| sqlx::query("DELETE FROM webhook_deliveries WHERE site = $1 AND webhook = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(gone == 1)
}

row! {
    struct DeliveryRow {
        message: String,
        kind: String,
        at: i64,
        status: String,
        attempts: i64,
        next_at: Option<i64>,
        last_status: Option<i64>,
        last_error: Option<String>,
        done_at: Option<i64>,
    }
}

impl TryFrom<DeliveryRow> for Delivery {
    type Error = Error;

    fn try_from(row: DeliveryRow) -> Result<Self> {
        Ok(Self {
            message: row.message.parse()?,
            kind: row.kind,
            at: Timestamp(row.at),
            status: row.status,
            attempts: row.attempts,
            next_at: row.next_at.map(Timestamp),
            last_status: row.last_status,
            last_error: row.last_error,
            done_at: row.done_at.map(Timestamp),
        })
    }
}

pub(super) async fn deliveries(
    db: &Db,
    site: &SiteId,
    id: &WebhookId,
    status: Option<&str>,
    before: Option<&MessageId>,
    limit: u32,
) -> Result<Vec<Delivery>> {
    // Ids sort by age.
    let rows: Vec<DeliveryRow> = on!(db, |c| sqlx::query_as(
        "SELECT d.message, m.type AS kind, m.at, d.status, d.attempts, d.next_at, d.last_status, d.last_error, d.done_at
         FROM webhook_deliveries d JOIN webhook_messages m ON m.site = d.site AND m.id = d.message
         WHERE d.site = $1 AND d.webhook = $2 AND ($3 = '' OR d.status = $3) AND ($4 = '' OR d.message < $4)
         ORDER BY d.message DESC LIMIT $5"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(status.unwrap_or_default())
    .bind(before.map_or("", MessageId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Delivery::try_from).collect()
}

pub(super) async fn has_message(tx: &mut Tx, site: &SiteId, id: &MessageId) -> Result<bool> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as("SELECT id FROM webhook_messages WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.is_some())
}

/// The next messages of a span of time with their types, in the order of their ids.
pub(super) async fn messages(
    db: &Db,
    site: &SiteId,
    since: Timestamp,
    until: Timestamp,
    after: Option<&MessageId>,
) -> Result<Vec<(MessageId, String)>> {
    let rows: Vec<(String, String)> = on!(db, |c| sqlx::query_as(
        "SELECT id, type FROM webhook_messages WHERE site = $1 AND at >= $2 AND at <= $3 AND id > $4 ORDER BY id LIMIT 200"
    )
    .bind(site.as_str())
    .bind(since.0)
    .bind(until.0)
    .bind(after.map_or("", MessageId::as_str))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(|(id, kind)| Ok((id.parse()?, kind))).collect()
}

/// Queues a message for an endpoint as if it were new; one that was delivered only where that is said. Says how many rows that
/// were: one that waits, or is under way, is left alone.
pub(super) async fn queue_again(
    tx: &mut Tx,
    site: &SiteId,
    id: &WebhookId,
    message: &MessageId,
    delivered_too: bool,
    now: Timestamp,
) -> Result<u64> {
    Ok(on!(tx, |c| {
        sqlx::query(
        "INSERT INTO webhook_deliveries (site, webhook, message, status, attempts, claim, next_at, created_at)
         VALUES ($1, $2, $3, 'pending', 0, 0, $4, $4)
         ON CONFLICT (site, webhook, message) DO UPDATE
            SET status = 'pending', attempts = 0, next_at = excluded.next_at, last_status = NULL, last_error = NULL, done_at = NULL
         WHERE webhook_deliveries.status <> 'pending' AND webhook_deliveries.status <> $5"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(message.as_str())
    .bind(now.0)
    .bind(if delivered_too { "" } else { "delivered" })
    .execute(c)
    .await?
    .rows_affected()
    }))
}

row! {
    struct EndpointRow {
        site: String,
        webhook: String,
        failing: i64,
    }
}

/// An endpoint for which something is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) site: SiteId,
    pub(super) webhook: WebhookId,
}

/// The endpoints for which something is due, and whether they failed last; those that work come first.
pub(super) async fn due_endpoints(db: &Db, now: Timestamp) -> Result<Vec<(Endpoint, bool)>> {
    let rows: Vec<EndpointRow> = on!(db, |c| sqlx::query_as(
        "SELECT d.site, d.webhook, COUNT(w.failing_since) AS failing
         FROM webhook_deliveries d JOIN webhooks w ON w.site = d.site AND w.id = d.webhook
         WHERE d.next_at IS NOT NULL AND d.next_at <= $1 AND d.status = 'pending' AND w.disabled_at IS NULL
         GROUP BY d.site, d.webhook ORDER BY MIN(CASE WHEN w.failing_since IS NULL THEN 0 ELSE 1 END), MIN(d.next_at)
         LIMIT 256"
    )
    .bind(now.0)
    .fetch_all(c)
    .await?);
    let read = |row: EndpointRow| Ok((Endpoint { site: row.site.parse()?, webhook: row.webhook.parse()? }, row.failing > 0));
    rows.into_iter().map(read).collect()
}

row! {
    /// A delivery that is due, with what it needs.
    pub(super) struct Due {
        pub(super) message: String,
        pub(super) attempts: i64,
        pub(super) claim: i64,
        pub(super) body: String,
        pub(super) url: String,
        pub(super) sealed: Vec<u8>,
        pub(super) old_secret_until: Option<i64>,
        pub(super) failing_since: Option<i64>,
    }
}

/// What is due longest for an endpoint.
pub(super) async fn next_due(db: &Db, to: &Endpoint, now: Timestamp) -> Result<Option<Due>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT d.message, d.attempts, d.claim, m.body, w.url, w.sealed, w.old_secret_until, w.failing_since
         FROM webhook_deliveries d
            JOIN webhooks w ON w.site = d.site AND w.id = d.webhook
            JOIN webhook_messages m ON m.site = d.site AND m.id = d.message
         WHERE d.site = $1 AND d.webhook = $2 AND d.next_at IS NOT NULL AND d.next_at <= $3 AND d.status = 'pending'
            AND w.disabled_at IS NULL
         ORDER BY d.next_at, d.message LIMIT 1"
    )
    .bind(to.site.as_str())
    .bind(to.webhook.as_str())
    .bind(now.0)
    .fetch_optional(c)
    .await?))
}

/// Claims a delivery. False when another replica has it.
pub(super) async fn claim(db: &Db, to: &Endpoint, due: &Due) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE webhook_deliveries SET attempts = attempts + 1, claim = claim + 1, next_at = NULL
         WHERE site = $1 AND webhook = $2 AND message = $3 AND claim = $4 AND status = 'pending'
            AND EXISTS (SELECT 1 FROM webhooks w WHERE w.site = $1 AND w.id = $2 AND w.disabled_at IS NULL)"
    )
    .bind(to.site.as_str())
    .bind(to.webhook.as_str())
    .bind(&due.message)
    .bind(due.claim)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

row! {
    /// A claim that is not settled.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    pub(super) struct Held {
        pub(super) site: String,
        pub(super) webhook: String,
        pub(super) message: String,
        pub(super) claim: i64,
    }
}

/// The claims that are not settled. Each replica has a few at a time, and leaves as many when it dies.
pub(super) async fn claims(db: &Db) -> Result<Vec<Held>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, webhook, message, claim FROM webhook_deliveries
         WHERE status = 'pending' AND next_at IS NULL ORDER BY site, webhook, message LIMIT 1000"
    )
    .fetch_all(c)
    .await?))
}

/// Takes a claim from whoever holds it, so that the delivery is due at once. False where it was settled, or is another one by now.
pub(super) async fn take_back(db: &Db, claim: &Held, now: Timestamp) -> Result<bool> {
    let mut tx = db.begin_bookkeeping().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE webhook_deliveries SET claim = claim + 1, next_at = $5
         WHERE site = $1 AND webhook = $2 AND message = $3 AND claim = $4 AND status = 'pending' AND next_at IS NULL"
    )
    .bind(&claim.site)
    .bind(&claim.webhook)
    .bind(&claim.message)
    .bind(claim.claim)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    tx.commit().await?;
    Ok(changed == 1)
}

/// How a claim is settled.
pub(super) struct Settlement<'a> {
    /// `pending`, `delivered` or `failed`.
    pub(super) status: &'a str,
    /// When it is tried next, while it is pending.
    pub(super) next_at: Option<Timestamp>,
    /// The status of the answer.
    pub(super) answered: Option<i64>,
    pub(super) error: Option<&'a str>,
    pub(super) now: Timestamp,
}

/// Settles a claim. False when it was lost meanwhile: it was taken back, or the endpoint was disabled.
pub(super) async fn settle(tx: &mut Tx, to: &Endpoint, due: &Due, settlement: &Settlement<'_>) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE webhook_deliveries SET status = $5, next_at = $6, last_status = $7, last_error = $8, done_at = $9
         WHERE site = $1 AND webhook = $2 AND message = $3 AND claim = $4 AND status = 'pending'"
    )
    .bind(to.site.as_str())
    .bind(to.webhook.as_str())
    .bind(&due.message)
    .bind(due.claim + 1)
    .bind(settlement.status)
    .bind(settlement.next_at.map(|at| at.0))
    .bind(settlement.answered)
    .bind(settlement.error)
    .bind(settlement.next_at.is_none().then_some(settlement.now.0))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Removes what is older than `before`, and what is left of endpoints that were removed; a little at a time, so that others
/// can write in between.
pub(super) async fn sweep(db: &Db, before: Timestamp) -> Result<()> {
    for sql in [
        "DELETE FROM webhook_deliveries WHERE (site, webhook, message) IN (
             SELECT d.site, d.webhook, d.message FROM webhook_deliveries d
             WHERE d.created_at < $1 OR NOT EXISTS (SELECT 1 FROM webhooks w WHERE w.site = d.site AND w.id = d.webhook)
             LIMIT 200)",
        "DELETE FROM webhook_messages WHERE (site, id) IN (
             SELECT m.site, m.id FROM webhook_messages m
             WHERE m.at < $1 AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.site = m.site AND d.message = m.id)
             LIMIT 200)",
    ] {
        loop {
            let mut tx = db.begin_bookkeeping().await?;
            let gone = on!(&mut tx, |c| sqlx::query(sql).bind(before.0).execute(c).await?.rows_affected());
            tx.commit().await?;
            if gone == 0 {
                break;
            }
        }
    }
    Ok(())
}
