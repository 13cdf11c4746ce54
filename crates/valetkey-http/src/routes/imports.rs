//! Moving in: items come as JSON documents, one a line, and become one transaction.
//!
//! The first line says how, the last one that it is the end. A body that breaks off before that leaves nothing behind, and so
//! does a caller who leaves, or who stalls: the one writer of an SQLite database waits for the import.

use std::time::Duration;

use axum::{body::Body, extract::State};
use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result,
    import::{
        apply::{Import, Report},
        item::{Header, Line},
    },
    site,
};
use zeroize::Zeroize as _;

use crate::{caller::Caller, error::Answer, extract::Json, state::AppState};

/// The longest line: an account and what stands around it.
const LONGEST_LINE: usize = 16 * 1024 * 1024;
/// How long the next piece of the body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an import did, or in a dry run would do.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description counts")]
pub(crate) struct ImportReport {
    /// Whether nothing was written.
    dry_run: bool,
    /// By kind of item: how many were `created`, `unchanged`, `replaced` and `skipped`.
    #[schema(value_type = Object)]
    counts: (),
    /// What is here already and is another.
    #[schema(value_type = Object)]
    conflicts: (),
    /// What could not be brought over, and why.
    #[schema(value_type = Object)]
    left_out: (),
    /// What agents could use before and now must be granted.
    #[schema(value_type = Object)]
    to_grant: (),
    /// Agents that the accounts name and nobody brought.
    agents_missing: Vec<String>,
    /// How many new accounts wait for somebody to confirm whose they are.
    unverified: u64,
    /// How many new accounts have a provider without a definition, by provider.
    #[schema(value_type = Object)]
    without_definition: (),
}

/// Brings over what Data Machine stored, in one transaction: a header, items and an end, one JSON document a line. Nothing
/// is written unless all of it is.
#[utoipa::path(post, path = "/v1/imports/data-machine", tag = "imports",
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = ImportReport)))]
pub(crate) async fn data_machine(State(state): State<AppState>, caller: Caller, body: Body) -> Answer<Json<Report>> {
    let (site, actor) = (caller.site()?.clone(), caller.actor()?);
    site::require(&state.base().db, &site).await?;
    let mut lines = Lines { body, rest: BytesMut::new(), seen: 0, number: 0 };
    let header: Header = lines.next().await?;
    let mut import = Import::begin(state.outside(), &site, &actor, header).await?;
    loop {
        match lines.next().await? {
            Line::Item { at, item } => import.item(at, item).await?,
            Line::End { items, unreadable } => return Ok(Json(import.end(items, unreadable).await?)),
        }
    }
}

/// The lines of a body.
struct Lines {
    body: Body,
    rest: BytesMut,
    /// How much of `rest` holds no line break.
    seen: usize,
    number: u64,
}

impl Lines {
    /// The next line that is not empty. Its text is in no error: it holds secrets.
    async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        loop {
            if let Some(end) = self.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
                let end = self.seen + end;
                self.number += 1;
                let line = self.rest[..end].trim_ascii();
                let read = (!line.is_empty()).then(|| serde_json::from_slice(line));
                self.rest[..end].zeroize();
                self.rest.advance(end + 1);
                self.seen = 0;
                match read {
                    Some(Ok(value)) => return Ok(value),
                    Some(Err(why)) => {
                        let at = format!("line {} of the import cannot be read, column {}", self.number, why.column());
                        return Err(Error::new(Code::InvalidRequest, at));
                    }
                    None => continue,
                }
            }
            self.seen = self.rest.len();
            if self.seen > LONGEST_LINE {
                return Err(Error::new(
                    Code::PayloadTooLarge,
                    format!("a line of the import is longer than {LONGEST_LINE} bytes"),
                ));
            }
            let cut = || Error::new(Code::InvalidRequest, "the import was cut off; nothing was brought over");
            match tokio::time::timeout(PATIENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Ok(Some(Err(error))) => return Err(cut().with_detail(error)),
                Ok(None) => return Err(cut()),
                Err(_) => return Err(Error::new(Code::InvalidRequest, "the import stalled; nothing was brought over")),
            }
        }
    }
}
