//! The audit: what happened, and whether all of it is still there.
//!
//! Long answers are streams of JSON documents, one a line. An export has `{"event": ...}` for each row and ends with
//! `{"head": ...}`: where it stands, and where the next one goes on. A verification tells `{"progress": ...}` and ends with
//! `{"result": ...}`. Either may end with `{"problem": ...}` instead; one that has no such end broke off.

use std::time::{Duration, Instant};

use axum::{extract::State, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error, Result,
    audit::{self, Heads, Reader},
    clock::Timestamp,
    id::EventId,
    platform,
};

use super::{lines, moment};
use crate::{
    caller::Caller,
    error::{Answer, Problem},
    extract::{Body, Json, Query},
    state::AppState,
};

/// How many events a page has at most.
const MOST: u32 = 1000;
/// The largest body that holds a head, in bytes: a site has a chain for each process that ever wrote there.
const LARGEST_HEAD: usize = 16 * 1024 * 1024;
/// How many lines wait for a slow reader.
const WAITING: usize = 256;
/// How often whoever follows is shown what came.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a connection on which nothing came is left silent.
const SILENT: Duration = Duration::from_secs(15);
/// The longest time that one answer follows, in seconds.
const LONGEST: u32 = 3600;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that came before this event.
    #[param(value_type = Option<String>)]
    before: Option<EventId>,
    /// How many at most, up to 1000; 100 when absent.
    limit: Option<u32>,
}

/// An event.
#[derive(Serialize, ToSchema)]
pub(crate) struct Event {
    /// Its id.
    id: String,
    /// When.
    at: String,
    /// Who.
    actor: String,
    /// What, as `noun.verb`.
    action: String,
    /// `ok`, `denied` or `failed`.
    outcome: String,
    /// The agent concerned.
    agent: Option<String>,
    /// The connection concerned.
    connection: Option<String>,
    /// Further facts.
    #[schema(value_type = Object)]
    facts: Value,
    /// The chain it is a link of.
    writer: String,
    /// Its place in the chain, from 1.
    seq: i64,
}

impl From<audit::Row> for Event {
    fn from(row: audit::Row) -> Self {
        Self {
            id: row.id,
            at: moment(Timestamp(row.at)),
            actor: row.actor,
            action: row.action,
            outcome: row.outcome,
            agent: row.agent,
            connection: row.connection,
            facts: serde_json::from_str(&row.facts).unwrap_or_default(),
            writer: row.writer,
            seq: row.seq,
        }
    }
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(crate) struct Events {
    /// The events, the newest first.
    events: Vec<Event>,
}

/// Lists what happened at the site.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Which), responses((status = 200, body = Events)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Events>> {
    let limit = which.limit.unwrap_or(100).clamp(1, MOST);
    let rows = audit::page(&state.base().db, caller.site()?, which.before.as_ref(), limit.into()).await?;
    Ok(Json(Events { events: rows.into_iter().map(Event::from).collect() }))
}

/// Where every chain of a site stood. Kept apart from the database, it shows later whether an end was cut off.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description counts")]
pub(crate) struct AuditHead {
    /// The site.
    site: String,
    /// When it was taken.
    taken_at: String,
    /// The chains, by writer.
    chains: Vec<AuditChain>,
    /// A keyed hash over all of this.
    proof: String,
}

/// Where one chain stood.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description counts")]
pub(crate) struct AuditChain {
    /// The chain's writer.
    writer: String,
    /// The place of its last row, from 1.
    seq: i64,
    /// The link of its last row, in hex.
    chain: String,
}

/// Tells where every chain of the site stands now.
#[utoipa::path(get, path = "/v1/audit/head", tag = "audit", responses((status = 200, body = AuditHead)))]
pub(crate) async fn head(State(state): State<AppState>, caller: Caller) -> Answer<Json<Heads>> {
    let base = state.base();
    Ok(Json(base.audit.heads(&base.db, caller.site()?).await?))
}

/// What is exported.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditExport {
    /// Only what came after this head: the one that an export before ended with, or that was taken.
    #[schema(value_type = Option<AuditHead>)]
    after: Option<Heads>,
    /// For how many seconds to go on with what comes, up to 3600; 0 when absent.
    follow: Option<u32>,
}

/// An event with its link.
#[derive(Serialize)]
struct Linked {
    #[serde(flatten)]
    event: Event,
    /// In hex.
    chain: String,
}

/// A line of an export.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Event(Box<Linked>),
    Head(Heads),
}

/// Hands out every row of the site's ledger, chain by chain and each in its order, as JSON documents, one a line; then where
/// that stands. With `follow` it goes on with what comes, for so long.
#[utoipa::path(post, path = "/v1/audit/export", tag = "audit", request_body = AuditExport,
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn export(
    State(state): State<AppState>,
    caller: Caller,
    Body(wanted): Body<AuditExport, LARGEST_HEAD>,
) -> Answer<Response> {
    let (base, site) = (state.base(), caller.site()?);
    if let Some(after) = &wanted.after {
        base.audit.check_heads(&base.db, site, after).await?;
    }
    let follow = Duration::from_secs(wanted.follow.unwrap_or(0).min(LONGEST).into());
    let reader = Reader::new(&base.db, site, wanted.after.as_ref());
    let (send, read) = mpsc::channel(WAITING);
    let task = state.clone();
    state.spawn(async move {
        if let Err(error) = hand_out(&task, &caller, reader, follow, &send).await {
            tracing::error!(error = ?error, "an export of the audit broke off");
            let _ = send.send(lines::line(&json!({ "problem": Problem(error).document() }))).await;
        }
    });
    Ok(lines::answer(read))
}

async fn hand_out(
    state: &AppState,
    caller: &Caller,
    mut reader: Reader,
    follow: Duration,
    send: &mpsc::Sender<Bytes>,
) -> Result<()> {
    let until = Instant::now() + follow;
    let mut spoke = Instant::now();
    loop {
        let began = Instant::now();
        reader.look().await?;
        loop {
            let rows = reader.next().await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let chain = row.chain_hex();
                let line = Line::Event(Box::new(Linked { event: row.into(), chain }));
                if send.send(lines::line(&line)).await.is_err() {
                    return Ok(());
                }
            }
            spoke = Instant::now();
        }
        let now = Instant::now();
        if now >= until || state.is_draining() {
            break;
        }
        // Very many chains are not looked at all the time.
        let pause = LOOK_EVERY.max(began.elapsed() * 8).min(until - now);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = send.closed() => return Ok(()),
        }
        require_live(state, caller).await?;
        if spoke.elapsed() >= SILENT {
            // An empty line, so that nobody on the way takes the connection for dead.
            let _ = send.send(Bytes::from_static(b"\n")).await;
            spoke = Instant::now();
        }
    }
    let _ = send.send(lines::line(&Line::Head(reader.heads(&state.base().audit).await?))).await;
    Ok(())
}

/// A key that ends while somebody follows by it ends that, too.
async fn require_live(state: &AppState, caller: &Caller) -> Result<()> {
    let Caller::Platform { key, .. } = caller else { return Ok(()) };
    let base = state.base();
    match platform::is_live(&base.db, &key.site, &key.id, base.clock.now()).await? {
        true => Ok(()),
        false => Err(Error::new(Code::Unauthenticated, "the key has ended")),
    }
}

/// What is verified against.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditVerification {
    /// A head that was kept. Without one, an end that was cut off is not found.
    #[schema(value_type = Option<AuditHead>)]
    head: Option<Heads>,
}

/// Walks over the site's whole ledger and says where a row was left out, moved, edited or put in, and against a head also
/// where an end was cut off.
#[utoipa::path(post, path = "/v1/audit/verify", tag = "audit", request_body = AuditVerification,
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn verify(
    State(state): State<AppState>,
    caller: Caller,
    Body(wanted): Body<AuditVerification, LARGEST_HEAD>,
) -> Answer<Response> {
    let site = caller.site()?.clone();
    if let Some(head) = &wanted.head {
        state.base().audit.check_heads(&state.base().db, &site, head).await?;
    }
    let (send, read) = mpsc::channel(WAITING);
    let task = state.clone();
    state.spawn(async move {
        let base = task.base();
        let mut told = Instant::now();
        let progress = |rows: u64| {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                // A reader who is slow misses some of it.
                let _ = send.try_send(lines::line(&json!({ "progress": { "rows": rows } })));
            }
        };
        let outcome = tokio::select! {
            outcome = base.audit.verify(&base.db, &site, wanted.head.as_ref(), progress) => outcome,
            () = send.closed() => return,
            () = task.stopping().cancelled() => {
                Err(Error::new(Code::Unavailable, "this process is shutting down; ask again"))
            }
        };
        let last = match outcome {
            Ok(report) => lines::line(&json!({ "result": report })),
            Err(error) => {
                tracing::error!(error = ?error, "the ledger could not be verified");
                lines::line(&json!({ "problem": Problem(error).document() }))
            }
        };
        let _ = send.send(last).await;
    });
    Ok(lines::answer(read))
}
