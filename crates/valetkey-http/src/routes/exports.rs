//! Moving out: everything that Data Machine could hold, as JSON documents, one a line, opened. The operator's only.

use axum::{extract::State, response::Response};
use serde_json::json;
use tokio::sync::mpsc;
use valetkey::{import::export, site};

use super::lines;
use crate::{
    caller::Caller,
    error::{Answer, Problem},
    state::AppState,
};

/// How many lines wait for a slow reader.
const WAITING: usize = 256;

/// Hands out every account, configuration, agent, role and token hash of a site as items, secrets and all, then what the old
/// format cannot hold, then the end. That it was asked for is recorded before anything leaves.
#[utoipa::path(post, path = "/v1/exports/data-machine", tag = "exports",
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub(crate) async fn data_machine(State(state): State<AppState>, caller: Caller) -> Answer<Response> {
    let (site, actor) = (caller.site()?.clone(), caller.actor()?);
    site::require(&state.base().db, &site).await?;
    export::record(state.base(), &site, &actor).await?;
    let (send, reader) = mpsc::channel(WAITING);
    let task = state.clone();
    state.spawn(async move {
        let (given, mut taken) = mpsc::channel(WAITING);
        let pass_on = async {
            while let Some(line) = taken.recv().await {
                if send.send(lines::line(&line)).await.is_err() {
                    // Whoever gives sees it, and stops.
                    taken.close();
                }
            }
        };
        let (outcome, ()) = tokio::join!(export::run(task.base(), &site, given), pass_on);
        if let Err(error) = outcome {
            tracing::error!(error = ?error, "an export broke off");
            let _ = send.send(lines::line(&json!({ "problem": Problem(error).document() }))).await;
        }
    });
    Ok(lines::answer(reader))
}
