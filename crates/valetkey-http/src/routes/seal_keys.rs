//! Sealing keys, while everything runs. For the operator: on every site at once, unless a site is named.
//!
//! Long work answers with a stream of JSON documents, one a line: `{"progress": ...}` as it goes, and at its end
//! `{"result": ...}` or `{"problem": ...}`. It goes on when the caller leaves; cut off by a shutdown, it goes on where it
//! was when it is asked for again.

use std::{future::Future, time::Duration, time::Instant};

use axum::{extract::State, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result,
    audit::Event,
    id::{ProviderName, SiteId},
    principal::Actor,
    seal::{RootSource, root, rotate},
    site,
};

use super::{lines, moment};
use crate::{
    caller::Caller,
    error::{Answer, Problem},
    extract::{Body, Json},
    state::AppState,
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// The keys there are.
#[derive(Serialize, ToSchema)]
pub(crate) struct SealKeys {
    /// The root keys that are loaded, the current one first.
    roots: Vec<String>,
    /// The root key that wraps new data keys.
    current: Option<String>,
    /// The data keys.
    keys: Vec<DataKey>,
}

/// A data key.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataKey {
    /// Its id.
    id: String,
    /// The tenant.
    site: String,
    /// The provider, or a name of ours that begins with `_`.
    provider: String,
    /// Its version.
    version: i64,
    /// The root key that wraps it.
    root: String,
    /// Since when.
    created_at: String,
    /// Since when nothing uses it any more.
    retired_at: Option<String>,
}

/// The root keys that are loaded, and the data keys.
#[utoipa::path(get, path = "/v1/seal-keys", tag = "seal keys", responses((status = 200, body = SealKeys)))]
pub(crate) async fn list(State(state): State<AppState>) -> Answer<Json<SealKeys>> {
    let roots = roots(&state);
    let keys = rotate::data_keys(&state.base().db).await?.into_iter().map(|key| DataKey {
        id: key.id,
        site: key.site,
        provider: key.provider,
        version: key.version,
        root: key.root,
        created_at: moment(key.created_at),
        retired_at: key.retired_at.map(moment),
    });
    Ok(Json(SealKeys { current: roots.first().cloned(), roots, keys: keys.collect() }))
}

/// What to rotate.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    /// Only this site's.
    #[schema(value_type = Option<String>)]
    site: Option<SiteId>,
    /// Only this provider's.
    #[schema(value_type = Option<String>)]
    provider: Option<ProviderName>,
}

/// Seals everything under new data keys.
#[utoipa::path(post, path = "/v1/seal-keys/rotate", tag = "seal keys", request_body = Rotation,
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn rotate(State(state): State<AppState>, caller: Caller, Body(rotation): Body<Rotation>) -> Answer<Response> {
    let actor = caller.actor()?;
    if let Some(id) = &rotation.site {
        site::require(&state.base().db, id).await?;
    }
    stream(&state, move |state, teller| async move {
        let base = state.base();
        let Rotation { site, provider } = &rotation;
        let told = |progress: &rotate::Progress| teller.tell(progress);
        let rotated = rotate::rotate(&base.db, &base.ring, site.as_ref(), provider.as_ref(), told).await?;
        let facts = json!({
            "provider": provider, "new_keys": rotated.new_keys, "resealed": rotated.resealed, "retired": rotated.retired,
            "unreadable": rotated.unreadable.count,
        });
        note(&state, &actor, site.as_ref(), "seal_keys.rotate", &facts).await?;
        serde_json::to_value(rotated).map_err(Error::internal)
    })
}

/// Opens every sealed value and says what was found. Changes nothing.
#[utoipa::path(post, path = "/v1/seal-keys/verify", tag = "seal keys",
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn verify(State(state): State<AppState>) -> Answer<Response> {
    stream(&state, |state, teller| async move {
        let base = state.base();
        let report = rotate::verify(&base.db, &base.ring, |progress| teller.tell(progress)).await?;
        serde_json::to_value(report).map_err(Error::internal)
    })
}

/// The root keys that are loaded.
#[derive(Serialize, ToSchema)]
pub(crate) struct Loaded {
    /// Their ids, the current one first.
    roots: Vec<String>,
}

/// Reads the root keys again, after their file changed. Every replica must do that before data keys move.
#[utoipa::path(post, path = "/v1/seal-keys/reload", tag = "seal keys", responses((status = 200, body = Loaded)))]
pub(crate) async fn reload(State(state): State<AppState>) -> Answer<Json<Loaded>> {
    state.reload_roots().await?;
    Ok(Json(Loaded { roots: roots(&state) }))
}

/// A root key that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewRoot {
    /// Its id.
    root: String,
    /// The file whose first line it is.
    file: String,
}

/// Writes a new root key as the first line of the key file. The old ones stay in it. It counts after `reload`.
#[utoipa::path(post, path = "/v1/seal-keys/new-root", tag = "seal keys", responses((status = 200, body = NewRoot)))]
pub(crate) async fn new_root(State(state): State<AppState>, caller: Caller) -> Answer<Json<NewRoot>> {
    let file = key_file(&state)?;
    let id = root::add_new_current(&file)?;
    note(&state, &caller.actor()?, None, "seal_keys.new_root", &json!({ "root": id.as_str() })).await?;
    Ok(Json(NewRoot { root: id.to_string(), file: file.display().to_string() }))
}

/// Puts every data key under the current root key, and says how many moved (`moved`). What they seal stays as it is.
#[utoipa::path(post, path = "/v1/seal-keys/rewrap", tag = "seal keys",
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn rewrap(State(state): State<AppState>, caller: Caller) -> Answer<Response> {
    let actor = caller.actor()?;
    stream(&state, |state, teller| async move {
        let moved = rotate::rewrap(&state.base().db, &state.base().ring, |progress| teller.tell(progress)).await?;
        note(&state, &actor, None, "seal_keys.rewrap", &json!({ "moved": moved, "roots": roots(&state) })).await?;
        Ok(json!({ "moved": moved }))
    })
}

/// The root keys that were taken out.
#[derive(Serialize, ToSchema)]
pub(crate) struct Dropped {
    /// Their ids.
    removed: Vec<String>,
}

/// Takes the root keys that nothing needs any more out of the key file. Backups made before may need them: keep a copy.
#[utoipa::path(post, path = "/v1/seal-keys/drop-old-roots", tag = "seal keys", responses((status = 200, body = Dropped)))]
pub(crate) async fn drop_old_roots(State(state): State<AppState>, caller: Caller) -> Answer<Json<Dropped>> {
    let file = key_file(&state)?;
    let _one_at_a_time = one_at_a_time(&state)?;
    let in_use = rotate::roots_in_use(&state.base().db).await?;
    let removed: Vec<String> = root::drop_others(&file, &in_use)?.iter().map(ToString::to_string).collect();
    note(&state, &caller.actor()?, None, "seal_keys.drop_old_roots", &json!({ "removed": removed })).await?;
    Ok(Json(Dropped { removed }))
}

/// Tells how far work has come, as often as anybody cares to know.
struct Teller {
    lines: mpsc::Sender<Bytes>,
    last: std::sync::Mutex<Option<Instant>>,
}

impl Teller {
    fn tell(&self, progress: &rotate::Progress) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *last = Some(Instant::now());
            // A reader who is slow, or gone, misses some of it.
            let _ = self.lines.try_send(lines::line(&json!({ "progress": progress })));
        }
    }
}

/// Runs work whose answer is a stream of lines. It goes on when the reader leaves.
fn stream<W, F>(state: &AppState, work: W) -> Answer<Response>
where
    W: FnOnce(AppState, std::sync::Arc<Teller>) -> F + Send + 'static,
    F: Future<Output = Result<Value>> + Send,
{
    let place = one_at_a_time(state)?;
    let (send, reader) = mpsc::channel(64);
    let teller = std::sync::Arc::new(Teller { lines: send.clone(), last: std::sync::Mutex::new(None) });
    let (task_state, stopping) = (state.clone(), state.stopping().clone());
    state.spawn(async move {
        let outcome = tokio::select! {
            outcome = work(task_state, teller) => outcome,
            () = stopping.cancelled() => Err(Error::new(Code::Unavailable, "this process is shutting down; ask again, it goes on")),
        };
        let last = match outcome {
            Ok(result) => json!({ "result": result }),
            Err(error) => {
                tracing::error!(error = ?error, "work on the sealing keys failed");
                json!({ "problem": Problem(error).document() })
            }
        };
        // Whoever reads the last line may ask for the next work.
        drop(place);
        let _ = send.send(lines::line(&last)).await;
    });
    Ok(lines::answer(reader))
}

fn one_at_a_time(state: &AppState) -> Result<tokio::sync::OwnedSemaphorePermit> {
    let busy = |_| Error::new(Code::Conflict, "other work on the sealing keys is under way; wait for its end");
    state.key_work().try_acquire_owned().map_err(busy)
}

fn roots(state: &AppState) -> Vec<String> {
    state.base().ring.root_ids().iter().map(ToString::to_string).collect()
}

fn key_file(state: &AppState) -> Result<std::path::PathBuf> {
    match state.settings().map(|settings| &settings.root) {
        Some(RootSource::File(path)) => Ok(path.clone()),
        _ => Err(Error::new(
            Code::InvalidRequest,
            "the root key does not come from a file of ours; change it where it comes from, then reload",
        )),
    }
}

/// Records what was done to keys, at the site it was done to or at all of them.
async fn note(state: &AppState, actor: &Actor, site: Option<&SiteId>, action: &'static str, facts: &Value) -> Result<()> {
    let base = state.base();
    let sites = match site {
        Some(site) => vec![site.clone()],
        None => site::list(&base.db).await?.into_iter().map(|site| site.id).collect(),
    };
    let mut tx = base.db.begin_bookkeeping().await?;
    for site in sites {
        base.audit.record(&mut tx, Event::new(&site, actor, action).facts(facts.clone())).await?;
    }
    tx.commit().await
}
