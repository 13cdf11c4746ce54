//! Answers that are a stream of JSON documents, one a line.

use std::convert::Infallible;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::header;
use tokio::sync::mpsc;

/// The answer whose lines come through a channel; it ends with the channel.
pub(super) fn answer(lines: mpsc::Receiver<Bytes>) -> Response {
    let body = futures_util::stream::unfold(lines, |mut lines| async move {
        lines.recv().await.map(|line| (Ok::<_, Infallible>(line), lines))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

/// A line as it travels. These are plain values, so writing them does not fail; what would is no line, and so no end.
pub(super) fn line(value: &impl serde::Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}
