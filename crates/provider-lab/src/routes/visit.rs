//! One request from arrival to answer, with everything that shall go wrong on the way.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use crate::{
    fault::{At, Edit, Effects, Loss, NewBody, Plan},
    records::Call,
    routes::{answer, authorize, bearer},
    serve::HangUp,
    world::{World, fingerprint},
};

/// The largest answer that a fault can change.
const LARGEST_BODY: usize = 16 << 20;
/// How many bytes of padding are sent at once.
const PIECE: usize = 64 << 10;

/// Does the work of one request.
///
/// It runs in a task of its own: a caller who leaves or is killed does not stop a provider that has begun.
pub(super) async fn act<W>(world: &Arc<World>, call: Call, work: W) -> Response
where
    W: FnOnce(&World, &Effects) -> Response + Send + 'static,
{
    let world = world.clone();
    let (number, plan) = world.arrive(&call);
    let task = tokio::spawn(async move {
        before(&world, &plan).await;
        if plan.drop {
            return HangUp::answer();
        }
        let response = match instead(&plan) {
            Some(refusal) if !plan.work_despite_status => refusal,
            refusal => {
                let done = work(&world, &plan.effects);
                refusal.unwrap_or(done)
            }
        };
        after(&world, number, plan, response).await
    });
    task.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The same for everything under `/api/`. A caller who leaves ends the work there, as with most web services.
pub(super) async fn api(
    State(world): State<Arc<World>>,
    OriginalUri(uri): OriginalUri,
    request: Request,
    next: Next,
) -> Response {
    let token = bearer(request.headers());
    let call = Call {
        at: At::Api,
        method: request.method().to_string(),
        path: uri.path().to_owned(),
        client_id: token.and_then(|token| world.with(|state, now| state.tokens.live(token, now)).map(|live| live.client_id)),
        credential_sha256: token.map(fingerprint),
    };
    let (number, plan) = world.arrive(&call);
    before(&world, &plan).await;
    if plan.drop {
        return HangUp::answer();
    }
    let response = match instead(&plan) {
        Some(refusal) if !plan.work_despite_status => refusal,
        refusal => {
            let done = next.run(request).await;
            refusal.unwrap_or(done)
        }
    };
    after(&world, number, plan, response).await
}

async fn before(world: &World, plan: &Plan) {
    if !plan.delay_before.is_zero() {
        world.pause(plan.delay_before).await;
    }
    if plan.hold_before {
        world.hold().await;
    }
}

/// The answer that takes the place of the work's.
fn instead(plan: &Plan) -> Option<Response> {
    if let Some((status, retry_after)) = &plan.status {
        let mut response = answer(*status, &json!({ "message": "the lab was told to answer so" }));
        if let Some(value) = retry_after.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        return Some(response);
    }
    if let Some((status, body)) = &plan.reply {
        return Some(answer(*status, body));
    }
    plan.oauth_error
        .as_ref()
        .map(|(status, error)| answer(*status, &json!({ "error": error, "error_description": "the lab was told to answer so" })))
}

async fn after(world: &World, number: u64, plan: Plan, response: Response) -> Response {
    world.with(|state, _| state.records.answered(number, response.status().as_u16()));
    if !plan.delay_after.is_zero() {
        world.pause(plan.delay_after).await;
    }
    if plan.hold_after {
        world.hold().await;
    }
    match plan.loss {
        Some(Loss::HangUp) => HangUp::answer(),
        Some(Loss::Silence) => {
            world.pause(Duration::from_secs(120)).await;
            HangUp::answer()
        }
        None => change(plan, response).await,
    }
}

async fn change(plan: Plan, response: Response) -> Response {
    let touches_body = plan.touches_body();
    let (mut parts, body) = response.into_parts();
    let body = if touches_body {
        // Only the lab's own answers come here; one that is too large to change is a fault in the test.
        let Ok(whole) = to_bytes(body, LARGEST_BODY).await else { return HangUp::answer() };
        parts.headers.remove(header::CONTENT_LENGTH);
        let whole = match &plan.new_body {
            Some(NewBody::Html) => {
                parts.status = StatusCode::OK;
                parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
                Bytes::from_static(b"<!doctype html><title>Lab</title><p>Scheduled maintenance. Please come back later.</p>")
            }
            Some(NewBody::Text(text)) => Bytes::from(text.clone()),
            None if parts.status.is_success() && is_form(&parts.headers) => edit_form(&whole, &plan.effects.edits),
            None if parts.status.is_success() => edit_json(whole, &plan.effects.edits),
            None => whole,
        };
        Outgoing { body: whole, padding: plan.padding, slow: plan.slow, truncated: plan.truncated }.into_body()
    } else {
        body
    };
    if let Some(value) = &plan.content_type {
        parts.headers.remove(header::CONTENT_TYPE);
        if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
            parts.headers.insert(header::CONTENT_TYPE, value);
        }
    }
    Response::from_parts(parts, body)
}

fn is_form(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes() == b"application/x-www-form-urlencoded")
}

/// Changes pairs of a form.
fn edit_form(body: &[u8], edits: &[Edit]) -> Bytes {
    let mut pairs: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    authorize::edit(&mut pairs, edits);
    Bytes::from(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish())
}

/// Changes members of a JSON object; anything else stays as it is.
fn edit_json(body: Bytes, edits: &[Edit]) -> Bytes {
    if edits.is_empty() {
        return body;
    }
    let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&body) else { return body };
    let mut twice = String::new();
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                members.insert(name.clone(), value.clone());
            }
            Edit::Omit(name) => {
                members.remove(name);
            }
            Edit::Duplicate(name, value) => {
                twice.push_str(&format!("{}:{value},", Value::from(name.as_str())));
            }
        }
    }
    let text = Value::Object(members).to_string();
    // An object's text begins with a brace; the doubled members go right behind it.
    Bytes::from(match text.strip_prefix('{') {
        Some(rest) if rest != "}" => format!("{{{twice}{rest}"),
        _ => text,
    })
}

/// A body on its way, with its troubles.
struct Outgoing {
    body: Bytes,
    padding: u64,
    slow: Option<(usize, Duration)>,
    truncated: bool,
}

impl Outgoing {
    fn into_body(mut self) -> Body {
        if self.padding == 0 && self.slow.is_none() && !self.truncated {
            return Body::from(self.body);
        }
        if self.truncated {
            self.body.truncate(self.body.len() / 2);
        }
        Body::from_stream(stream::unfold(Some(self), |outgoing| async {
            let mut outgoing = outgoing?;
            let largest = outgoing.slow.map_or(PIECE, |(chunk, _)| chunk);
            let piece = if !outgoing.body.is_empty() {
                outgoing.body.split_to(largest.min(outgoing.body.len()))
            } else if outgoing.padding > 0 {
                let length = largest.min(PIECE).min(usize::try_from(outgoing.padding).unwrap_or(PIECE));
                outgoing.padding -= length as u64;
                Bytes::from(vec![b' '; length])
            } else if outgoing.truncated {
                // An error in the body makes the server close the connection before the body's end. The pause lets it
                // send the first half, which it would otherwise forget.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return Some((Err(HangUp), None));
            } else {
                return None;
            };
            if let Some((_, pause)) = outgoing.slow {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(piece), Some(outgoing)))
        }))
    }
}
