//! Moving in: items come as JSON documents, one a line, and become one transaction.
//!
//! The first line says how, the last one that it is the end. The body is put aside until all of it is there, sealed
//! ([`valetkey::import::spool`]): the one writer of an SQLite database waits for the import, and must not wait for its sender. A
//! body that breaks off, stalls or lacks its end leaves nothing behind, and so does a process that dies.

use std::{collections::HashMap, time::Duration};

use axum::{body::Body, extract::State};
use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result,
    id::SiteId,
    import::{
        apply::{self, Import, Prepared, Report},
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
    let (lines, header) = Lines::of(aside).header().await?;
    let mut import = Import::begin(state.outside(), &site, &actor, header).await?;
    import.keep_out(held);
    let preparer = import.preparer();
    let mut ahead = Ahead::of(lines, move |line| {
        Ok(match line {
            Line::Item { at, item } => Next::Item(Box::new(preparer.prepare(at, item)?)),
            Line::End { items, unreadable } => Next::End { items, unreadable },
        })
    });
    loop {
        let some;
        (ahead, some) = ahead.next().await?;
        for next in some {
            match next {
                Next::Item(prepared) => import.take(*prepared).await?,
                Next::End { items, unreadable } => return Ok(Json(import.end(items, unreadable).await?)),
            }
        }
    }
}

/// A line that is ready to be taken.
enum Next {
    Item(Box<Prepared>),
    End { items: u64, unreadable: u64 },
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
    let (mut lines, _) = Lines::of(aside).header().await?;
    let mut held = HashMap::new();
    loop {
        let some: Vec<Line>;
        (lines, _, some) = reading(lines, Ok).await.map_err(Error::internal)??;
        for line in some {
            let Line::Item { item, .. } = line else { return Ok((lines.from.again().await?, held)) };
            held.extend(apply::held_elsewhere(state.outside(), site, &item).await?);
        }
    }
}

/// The lines of a body. They are read from a file and taken apart, so on another thread.
struct Lines {
    /// Where more of it comes from.
    from: Spooled,
    rest: BytesMut,
    /// How much of `rest` holds no line break.
    seen: usize,
    number: u64,
}

impl Lines {
    fn of(aside: Spooled) -> Self {
        Self { from: aside, rest: BytesMut::new(), seen: 0, number: 0 }
    }

    /// The first line.
    async fn header(mut self) -> Result<(Self, Header)> {
        let read = tokio::task::spawn_blocking(move || {
            let header: Header = self.next()?;
            Ok::<_, Error>((self, header))
        });
        read.await.map_err(Error::internal)?
    }

    /// The next line that is not empty.
    fn next<T: DeserializeOwned>(&mut self) -> Result<T> {
        loop {
            if let Some(value) = self.there()? {
                return Ok(value);
            }
            if self.seen > LONGEST_LINE {
                return Err(Error::new(
                    Code::PayloadTooLarge,
                    format!("a line of the import is longer than {LONGEST_LINE} bytes"),
                ));
            }
            let cut = || Error::new(Code::InvalidRequest, "the import was cut off; nothing was brought over");
            self.rest.extend_from_slice(&self.from.read()?.ok_or_else(cut)?);
        }
    }

    /// The next line that is not empty, if all of it was read already. Its text is in no error: it holds secrets.
    fn there<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        while let Some(end) = self.rest[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + end;
            self.number += 1;
            let line = self.rest[..end].trim_ascii();
            let read = (!line.is_empty()).then(|| serde_json::from_slice(line));
            self.rest[..end].zeroize();
            self.rest.advance(end + 1);
            self.seen = 0;
            match read {
                Some(Ok(value)) => return Ok(Some(value)),
                Some(Err(why)) => {
                    let at = format!("line {} of the import cannot be read, column {}", self.number, why.column());
                    return Err(Error::new(Code::InvalidRequest, at));
                }
                None => {}
            }
        }
        self.seen = self.rest.len();
        Ok(None)
    }
}

/// Lines and what is made of each, as they come back from the thread that read some.
type Reading<R, T> = JoinHandle<Result<(Lines, R, Vec<T>)>>;

/// Reads some lines, one or more, and makes of each what is wanted.
fn reading<R, T>(mut lines: Lines, mut each: R) -> Reading<R, T>
where
    R: FnMut(Line) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(move || {
        let mut some = vec![each(lines.next()?)?];
        while let Some(line) = lines.there()? {
            some.push(each(line)?);
        }
        Ok((lines, each, some))
    })
}

/// Lines that are read ahead: while some are brought over, the next are being read.
struct Ahead<R, T>(Reading<R, T>);

impl<R, T> Ahead<R, T>
where
    R: FnMut(Line) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    fn of(lines: Lines, each: R) -> Self {
        Self(reading(lines, each))
    }

    /// The next ones.
    async fn next(self) -> Result<(Self, Vec<T>)> {
        let (lines, each, some) = self.0.await.map_err(Error::internal)??;
        Ok((Self::of(lines, each), some))
    }
}
