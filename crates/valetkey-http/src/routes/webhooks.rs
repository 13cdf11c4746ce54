//! Webhooks: where a site wants to be told what happened.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, Result,
    clock::Timestamp,
    id::{MessageId, WebhookId},
    webhook::{self, Change, NewWebhook, Replay},
};

use super::{limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// An endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Webhook {
    /// Its id.
    id: String,
    /// What somebody called it.
    title: String,
    /// Where messages are sent.
    url: String,
    /// The types of events it is for; absent for all of them.
    events: Option<Vec<String>>,
    /// Whether it is told anything.
    enabled: bool,
    /// Since when it is disabled.
    disabled_at: Option<String>,
    /// Why: `by_hand`, `gone` (it answered 410) or `failing`.
    disabled_why: Option<String>,
    /// Since when no attempt was answered with a yes.
    failing_since: Option<String>,
    /// Until when the secret before the present one signs, too.
    old_secret_until: Option<String>,
    /// Since when.
    created_at: String,
    /// When it was last changed.
    updated_at: String,
}

impl From<webhook::Webhook> for Webhook {
    fn from(webhook: webhook::Webhook) -> Self {
        Self {
            id: webhook.id.to_string(),
            title: webhook.title,
            url: webhook.url,
            events: webhook.events,
            enabled: webhook.disabled_at.is_none(),
            disabled_at: maybe(webhook.disabled_at),
            disabled_why: webhook.disabled_why,
            failing_since: maybe(webhook.failing_since),
            old_secret_until: maybe(webhook.old_secret_until),
            created_at: moment(webhook.created_at),
            updated_at: moment(webhook.updated_at),
        }
    }
}

/// A list of endpoints.
#[derive(Serialize, ToSchema)]
pub(crate) struct Webhooks {
    /// The endpoints, the oldest first.
    webhooks: Vec<Webhook>,
}

/// Lists the site's endpoints.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", responses((status = 200, body = Webhooks)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Answer<Json<Webhooks>> {
    let webhooks = webhook::list(&state.base().db, caller.site()?).await?;
    Ok(Json(Webhooks { webhooks: webhooks.into_iter().map(Webhook::from).collect() }))
}

/// A new endpoint.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWebhookBody {
    /// Where messages are sent: `https`, at a public address.
    url: String,
    /// What to call it.
    #[serde(default)]
    title: String,
    /// The types of events it is for; all of them when absent.
    events: Option<Vec<String>>,
}

/// An endpoint with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeWebhook {
    /// The endpoint.
    #[serde(flatten)]
    listed: Webhook,
    /// What its messages are signed with: `whsec_` and base64.
    secret: String,
}

impl From<webhook::Made> for MadeWebhook {
    fn from(made: webhook::Made) -> Self {
        Self { listed: made.webhook.into(), secret: made.secret.expose().to_owned() }
    }
}

/// Makes an endpoint, with a secret of its own.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", request_body = NewWebhookBody,
    responses((status = 201, body = MadeWebhook)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewWebhookBody>,
) -> Answer<(StatusCode, Json<MadeWebhook>)> {
    let new = NewWebhook { url: url(&new.url)?, title: new.title, events: new.events };
    let made = webhook::create(state.outside(), caller.site()?, &caller.actor()?, new).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Shows an endpoint.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = Webhook)))]
pub(crate) async fn show(State(state): State<AppState>, caller: Caller, Path(id): Path<WebhookId>) -> Answer<Json<Webhook>> {
    Ok(Json(webhook::require(&state.base().db, caller.site()?, &id).await?.into()))
}

/// What changes about an endpoint; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookChange {
    /// Where messages are sent.
    url: Option<String>,
    /// What to call it.
    title: Option<String>,
    /// The types of events it is for; null for all of them.
    #[serde(default, deserialize_with = "said")]
    #[schema(value_type = Option<Vec<String>>)]
    events: Option<Option<Vec<String>>>,
    /// Whether it is told anything. Enabled again, it begins with what happens from then on.
    enabled: Option<bool>,
}

/// A member that may be null: absent, null and a value are three things.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<Vec<String>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes an endpoint.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), request_body = WebhookChange,
    responses((status = 200, body = Webhook)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WebhookId>,
    Body(change): Body<WebhookChange>,
) -> Answer<Json<Webhook>> {
    let url = change.url.as_deref().map(url).transpose()?;
    let change = Change { url, title: change.title, events: change.events, enabled: change.enabled };
    Ok(Json(webhook::change(state.outside(), caller.site()?, &caller.actor()?, &id, change).await?.into()))
}

/// Gives an endpoint a new secret. The one before signs, too, for a day.
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = MadeWebhook)))]
pub(crate) async fn rotate(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WebhookId>,
) -> Answer<Json<MadeWebhook>> {
    Ok(Json(webhook::rotate(state.base(), caller.site()?, &caller.actor()?, &id).await?.into()))
}

/// Removes an endpoint, with everything that waits for it. Doing it again changes nothing.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete(State(state): State<AppState>, caller: Caller, Path(id): Path<WebhookId>) -> Answer<StatusCode> {
    webhook::delete(state.base(), caller.site()?, &caller.actor()?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those in this state: `pending`, `delivered`, `failed` or `stopped`.
    status: Option<String>,
    /// Only those of messages that came before this one.
    #[param(value_type = Option<String>)]
    after: Option<MessageId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// What became of one message at one endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Delivery {
    /// The message: what `webhook-id` says.
    message: String,
    /// The type of its event.
    event: String,
    /// When that happened.
    at: String,
    /// `pending`, `delivered`, `failed` (given up) or `stopped` (the endpoint was disabled before).
    status: String,
    /// How often it was tried since it was queued, or queued again.
    attempts: i64,
    /// When it is tried next.
    next_at: Option<String>,
    /// The status of the last answer.
    last_status: Option<i64>,
    /// The stable word of the last failure.
    last_error: Option<String>,
    /// Since when it is over.
    done_at: Option<String>,
}

impl From<webhook::Delivery> for Delivery {
    fn from(delivery: webhook::Delivery) -> Self {
        Self {
            message: delivery.message.to_string(),
            event: delivery.kind,
            at: moment(delivery.at),
            status: delivery.status,
            attempts: delivery.attempts,
            next_at: maybe(delivery.next_at),
            last_status: delivery.last_status,
            last_error: delivery.last_error,
            done_at: maybe(delivery.done_at),
        }
    }
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deliveries {
    /// The deliveries, those of the newest messages first.
    deliveries: Vec<Delivery>,
    /// What to give as `after` for the page after this one; null where there is none.
    next: Option<String>,
}

/// Lists what became of an endpoint's messages. They are kept for thirty days.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = String, Path), Which),
    responses((status = 200, body = Deliveries)))]
pub(crate) async fn deliveries(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WebhookId>,
    Query(which): Query<Which>,
) -> Answer<Json<Deliveries>> {
    let (limit, status) = (limited(which.limit), which.status.as_deref());
    let page = webhook::deliveries(&state.base().db, caller.site()?, &id, status, which.after.as_ref(), limit).await?;
    let next = next(&page, limit, |delivery| delivery.message.to_string());
    Ok(Json(Deliveries { deliveries: page.into_iter().map(Delivery::from).collect(), next }))
}

/// Which messages are sent again: one, or those of a span of time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayBody {
    /// This one, whatever became of it.
    #[schema(value_type = Option<String>)]
    message: Option<MessageId>,
    /// Those that came since then and that the endpoint is for.
    #[schema(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Until when; now when absent.
    #[schema(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// Of a span, also those that were delivered.
    #[serde(default)]
    delivered_too: bool,
}

impl ReplayBody {
    fn read(self, now: Timestamp) -> Result<Replay> {
        match self {
            Self { message: Some(message), since: None, until: None, delivered_too: false } => Ok(Replay::Message(message)),
            Self { message: None, since: Some(since), until, delivered_too } => {
                Ok(Replay::Span { since, until: until.unwrap_or(now), delivered_too })
            }
            _ => Err(Error::new(Code::InvalidRequest, "name either a `message`, or a span by `since` and perhaps `until`")),
        }
    }
}

/// What was queued again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// How many messages; those that waited already are not counted.
    queued: u64,
}

/// Queues messages for an endpoint again, with their old ids.
#[utoipa::path(post, path = "/v1/webhooks/{id}/replay", tag = "webhooks", params(("id" = String, Path)), request_body = ReplayBody,
    responses((status = 200, body = Replayed)))]
pub(crate) async fn replay(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WebhookId>,
    Body(wanted): Body<ReplayBody>,
) -> Answer<Json<Replayed>> {
    let base = state.base();
    let what = wanted.read(base.clock.now())?;
    Ok(Json(Replayed { queued: webhook::replay(base, caller.site()?, &caller.actor()?, &id, &what).await? }))
}

fn url(text: &str) -> Result<Url> {
    Url::parse(text)
        .map_err(|_| Error::new(Code::InvalidRequest, "url: it is an absolute address, such as https://example.com/hook"))
}
