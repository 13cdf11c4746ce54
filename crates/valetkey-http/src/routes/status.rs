//! How this process is set up and how it stands: what `valetkey doctor` asks.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use valetkey::{Code, Error, audit::Mode, connection, id::SiteId, provider::Trust, webhook};

use super::{maybe, moment};
use crate::{error::Answer, extract::Json, state::AppState};

/// How this process is set up and how it stands. No secret is among this.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    /// Its release.
    version: String,
    /// `sqlite` or `postgresql`.
    database: String,
    /// The number of the database's schema.
    schema: i64,
    /// Where browsers and agents reach it.
    public_url: String,
    /// The private addresses that it may speak to.
    allow_private: Vec<String>,
    /// Whether definitions may name plain http on loopback.
    loopback_http: bool,
    /// The proxies in front whose headers count.
    trusted_proxies: Vec<String>,
    /// The root keys that are loaded, the current one first.
    roots: Vec<String>,
    /// How many provider definitions are loaded.
    providers: usize,
    /// When the answer to a use may leave, `batched` or `strict`, and how many uses wait to be written down.
    audit: AuditStatus,
    /// Connections that will end of age unless they are connected again, the first to end first; at most 50.
    ageing: Vec<Ageing>,
    /// Webhooks that take nothing, or were disabled for that; at most 50.
    webhooks: Vec<TroubledWebhook>,
    /// What time it is here.
    now: String,
    /// How far the clock of PostgreSQL's machine is from ours, in milliseconds; absent on SQLite.
    clock_offset_ms: Option<i64>,
}

/// A connection that will end of age.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ageing {
    /// The site it belongs to.
    site: String,
    /// Its id.
    connection: String,
    /// At which provider.
    provider: String,
    /// Whose it is.
    owner: String,
    /// When it ends.
    ends_at: String,
}

impl From<connection::Connection> for Ageing {
    fn from(connection: connection::Connection) -> Self {
        Self {
            site: connection.site.to_string(),
            connection: connection.id.to_string(),
            provider: connection.provider.to_string(),
            owner: connection.owner.to_string(),
            ends_at: maybe(connection.ends_at()).unwrap_or_default(),
        }
    }
}

/// A webhook that takes nothing.
#[derive(Serialize, ToSchema)]
pub(crate) struct TroubledWebhook {
    /// The site it belongs to.
    site: String,
    /// Its id.
    webhook: String,
    /// Since when no attempt was answered with a yes.
    failing_since: Option<String>,
    /// Since when it is disabled.
    disabled_at: Option<String>,
}

impl From<(SiteId, webhook::Webhook)> for TroubledWebhook {
    fn from((site, webhook): (SiteId, webhook::Webhook)) -> Self {
        Self {
            site: site.to_string(),
            webhook: webhook.id.to_string(),
            failing_since: maybe(webhook.failing_since),
            disabled_at: maybe(webhook.disabled_at),
        }
    }
}

/// How many ageing connections, and how many webhooks, are told of.
const MOST_TOLD: u32 = 50;

/// How the audit stands.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditStatus {
    /// `batched` or `strict`.
    mode: String,
    /// How many uses wait to be written.
    waiting: usize,
    /// How many may; beyond that uses are refused.
    capacity: usize,
}

/// How this process is set up and how it stands.
#[utoipa::path(get, path = "/v1/status", tag = "health", responses((status = 200, body = Status)))]
pub(crate) async fn show(State(state): State<AppState>) -> Answer<Json<Status>> {
    let base = state.base();
    let settings = state.settings().ok_or_else(|| Error::new(Code::KeyUnavailable, "this process was started without a key"))?;
    let now = base.clock.now();
    let there = base.db.remote_time().await?;
    let (waiting, capacity) = base.audit.waiting();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: if base.db.is_sqlite() { "sqlite" } else { "postgresql" }.to_owned(),
        schema: base.db.schema().await?,
        public_url: state.outside().public_url.as_str().trim_end_matches('/').to_owned(),
        allow_private: settings.upstream.allow_private.iter().map(ToString::to_string).collect(),
        loopback_http: settings.trust == Trust::Dev,
        trusted_proxies: state.http().trusted_proxies.iter().map(ToString::to_string).collect(),
        roots: base.ring.root_ids().iter().map(ToString::to_string).collect(),
        providers: state.outside().catalogue.len(),
        audit: AuditStatus {
            mode: match settings.audit {
                Mode::Batched => "batched",
                Mode::Strict => "strict",
            }
            .to_owned(),
            waiting,
            capacity,
        },
        ageing: connection::ageing(&base.db, now, MOST_TOLD).await?.into_iter().map(Ageing::from).collect(),
        webhooks: webhook::troubled(&base.db, MOST_TOLD).await?.into_iter().map(TroubledWebhook::from).collect(),
        now: moment(now),
        clock_offset_ms: there.map(|there| there.0.saturating_sub(now.0) / 1000),
    }))
}
