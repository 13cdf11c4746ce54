//! Moving in: items come as JSON documents, one a line, and become one transaction.
//!
//! The first line says how, the last one that it is the end. The body is put aside until all of it is there, sealed
//! ([`valetkey::import::spool`]): the one writer of an SQLite database waits for the import, and must not wait for its sender. A
//! body that breaks off, stalls or lacks its end leaves nothing behind, and so does a process that dies.

use std::{collections::HashMap, time::Duration};

use axum::{body::Body, extract::State};
use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result,
    id::SiteId,
    import::{
        apply::{self, Import, Report},
        item::{Header, Line},
        spool::{self, Spool, Spooled},
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
    let mut aside = put_aside(&state, body).await?;
    let mut held = HashMap::new();
    if state.outside().extensions.hold_accounts() {
        (aside, held) = look_elsewhere(&state, &site, aside).await?;
    }
    let mut lines = Lines::of(aside);
    let header: Header = lines.next().await?;
    let mut import = Import::begin(state.outside(), &site, &actor, header).await?;
    import.keep_out(held);
    loop {
        match lines.next().await? {
            Line::Item { at, item } => import.item(at, item).await?,
            Line::End { items, unreadable } => return Ok(Json(import.end(items, unreadable).await?)),
        }
    }
}

/// The whole body, put aside.
async fn put_aside(state: &AppState, mut body: Body) -> Result<Spooled> {
    let settings = state.settings().ok_or_else(|| Error::new(Code::KeyUnavailable, "nothing can be sealed without the key"))?;
    let mut spool = Spool::new(&spool::folder(&settings.db))?;
    let cut = || Error::new(Code::InvalidRequest, "the import was cut off; nothing was brought over");
    loop {
        match tokio::time::timeout(PATIENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    spool = spool.write(&data).await?;
                }
            }
            Ok(Some(Err(error))) => return Err(cut().with_detail(error)),
            Ok(None) => return spool.whole().await,
            Err(_) => return Err(Error::new(Code::InvalidRequest, "the import stalled; nothing was brought over")),
        }
    }
}

/// The accounts that the registered resolvers hold, asked before the transaction begins.
async fn look_elsewhere(state: &AppState, site: &SiteId, aside: Spooled) -> Result<(Spooled, HashMap<String, &'static str>)> {
    let (mut lines, mut held) = (Lines::of(aside), HashMap::new());
    let _: Header = lines.next().await?;
    while let Line::Item { item, .. } = lines.next().await? {
        held.extend(apply::held_elsewhere(state.outside(), site, &item).await?);
    }
    let aside = lines.from.ok_or_else(|| Error::internal("what was put aside is being read"))?;
    Ok((aside.again().await?, held))
}

/// The lines of a body.
struct Lines {
    /// Where more of it comes from; nothing while it is being read.
    from: Option<Spooled>,
    rest: BytesMut,
    /// How much of `rest` holds no line break.
    seen: usize,
    number: u64,
}

impl Lines {
    fn of(aside: Spooled) -> Self {
        Self { from: Some(aside), rest: BytesMut::new(), seen: 0, number: 0 }
    }

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
            let (from, piece) = self.from.take().ok_or_else(cut)?.next().await?;
            self.from = Some(from);
            self.rest.extend_from_slice(&piece.ok_or_else(cut)?);
        }
    }
}
