//! Running streams, and how they end when their authority does (promise 3, decisions 2).
//!
//! Every proxied call is registered with what was decided for it, before it leaves. One task decides again: at once when
//! something was committed here, and every second, because another replica may have revoked and because permissions
//! expire; on PostgreSQL with one query for all of them. Two seconds without an answer from the database end them all.
//!
//! A call that hangs on what a person chose of the account ends when any of that is chosen no more.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Allowed, Caller, Right, choice, echo::Needles, headers};
use crate::{
    base::Base,
    connection::{self, Connection, Status, Stored},
    decision::{Authority, Request, decide_running},
    error::{Code, Error, Result},
    id::{ConnectionId, GrantId, SiteId},
    principal::Delivery,
};

/// How often authority is looked at again without a commit here: other replicas revoke, and permissions expire.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the database may be silent before every stream ends.
const SILENCE: Duration = Duration::from_secs(2);
/// How long to wait before the database is asked again after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// The running streams of this process.
#[derive(Clone)]
pub(super) struct Streams(Arc<Inner>);

struct Inner {
    base: Base,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

#[derive(Clone)]
struct Open {
    by: By,
    connection: ConnectionId,
    /// The connection as it was when the call left, where the call hangs on what is chosen of it.
    chosen: Option<Arc<Stored>>,
    end: CancellationToken,
}

impl Open {
    /// Whether a connection still has what was chosen of it when the call left.
    fn is_still_chosen(&self, now: &Connection) -> bool {
        self.chosen.as_ref().is_none_or(|then| choice::is_whole(&then.connection, now))
    }
}

/// By what right it runs.
#[derive(Clone)]
enum By {
    /// An agent's grant, for one operation.
    Grant { caller: Caller, operation: Arc<Operation>, grant: GrantId },
    /// The owner's: it lasts as long as the connection does.
    Owner { site: SiteId },
    /// The owner's, of an account that a resolver holds: how long that lasts only its holder knows, and the next call asks.
    Held,
}

/// What was asked for, to ask it again.
pub(super) struct Operation {
    pub(super) method: http::Method,
    pub(super) host: String,
    pub(super) path: String,
}

/// A registered call; it is off the list when its body in the one direction and that in the other have ended.
pub(super) struct Ticket {
    streams: Streams,
    id: u64,
    pub(super) end: CancellationToken,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.open().remove(&self.id);
    }
}

impl Ticket {
    /// Does something for the call, and gives up at once when the permission is taken back meanwhile.
    pub(super) async fn while_it_lasts<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            // The end is asked first: a call whose permission is gone must not leave because its work came first.
            biased;
            () = self.end.cancelled() => Err(taken_back()),
            done = work => done,
        }
    }
}

fn taken_back() -> Error {
    Error::new(Code::GrantDenied, "the permission for this call was taken back")
}

impl Streams {
    pub(super) fn new(base: Base) -> Self {
        Self(Arc::new(Inner { base, next: AtomicU64::new(1), open: Mutex::default() }))
    }

    /// Registers a call before it leaves. `hangs_on_choice` says whether it may be made only for what is chosen of the account.
    pub(super) fn register(&self, allowed: &Allowed, operation: Operation, hangs_on_choice: bool) -> Result<Ticket> {
        let by = match &allowed.right {
            Right::Owner => By::Owner { site: allowed.site.clone() },
            Right::Held { .. } => By::Held,
            Right::Agent { caller, decision, .. } => {
                let grant = decision.grant.clone().ok_or_else(|| Error::internal("allowed by no grant"))?;
                By::Grant { caller: caller.clone(), operation: Arc::new(operation), grant }
            }
        };
        let chosen = hangs_on_choice.then(|| Arc::clone(&allowed.stored));
        Ok(self.add(by, &allowed.stored.connection.id, chosen, allowed.epoch))
    }

    /// `epoch` is the one read before the call's facts were loaded: where it moved since, a look is due at once.
    fn add(&self, by: By, connection: &ConnectionId, chosen: Option<Arc<Stored>>, epoch: u64) -> Ticket {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let end = CancellationToken::new();
        self.open().insert(id, Open { by, connection: connection.clone(), chosen, end: end.clone() });
        if epoch != self.0.base.db.epoch() {
            self.0.base.db.nudge();
        }
        Ticket { streams: self.clone(), id, end }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.0.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Decides again and again until told to stop; what runs then is ended, for nobody watches it any more.
    pub(super) async fn watch(&self, authority: &Authority, stop: CancellationToken) {
        let mut changes = self.0.base.db.changes();
        // When the last look began that was answered: a permission that ended since is not noticed yet.
        let mut seen = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(seen + INTERVAL) => {}
            }
            let began = Instant::now();
            let due: Vec<Open> = self.open().values().cloned().collect();
            // A slow answer takes its time from the next look, so that the two together stay within the promise.
            let until = (seen + INTERVAL + SILENCE).clamp(began + SILENCE / 4, began + SILENCE);
            if !due.is_empty() && tokio::time::timeout_at(until, self.look_again(authority, &due)).await.is_err() {
                tracing::error!(streams = due.len(), "the database is silent; every running stream was ended");
                due.iter().for_each(|open| open.end.cancel());
            }
            seen = began;
        }
        self.open().values().for_each(|open| open.end.cancel());
    }

    async fn look_again(&self, authority: &Authority, due: &[Open]) {
        let pairs: Vec<_> = due
            .iter()
            .filter_map(|open| match &open.by {
                By::Grant { caller, .. } => Some((caller.token.clone(), open.connection.clone())),
                By::Owner { .. } | By::Held => None,
            })
            .collect();
        let facts = until_read(|| authority.facts_of_many(&pairs)).await;
        let now = self.0.base.clock.now();
        for open in due {
            let still = match &open.by {
                By::Held => true,
                By::Owner { site } => {
                    let there = until_read(|| connection::get(&self.0.base.db, site, &open.connection)).await;
                    let lives = |row: &Connection| !matches!(row.status, Status::Revoked { .. });
                    there.is_some_and(|row| lives(&row) && open.is_still_chosen(&row))
                }
                By::Grant { caller, operation, grant } => {
                    let asked = (&operation.method, operation.host.as_str(), operation.path.as_bytes());
                    let request = Request { delivery: Delivery::Proxy, operation: Some(asked), unattended: caller.unattended };
                    facts
                        .get(&(caller.token.clone(), open.connection.clone()))
                        .filter(|facts| decide_running(facts, &request, grant, now).allowed())
                        .and_then(|facts| facts.connection.as_ref())
                        .is_some_and(|there| open.is_still_chosen(&there.stored.connection))
                }
            };
            if !still {
                open.end.cancel();
            }
        }
    }
}

/// Asks the database until it answers: one broken connection of the pool is no reason to end everything, and whoever waits
/// for this gives up in time.
async fn until_read<T, W: Future<Output = Result<T>>>(read: impl Fn() -> W) -> T {
    loop {
        match read().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, detail = error.detail(), "authority cannot be read; asking again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A provider's body on its way to the caller: streamed, its trailers cleaned, and ended when authority ends.
pub struct Guarded {
    inner: Incoming,
    needles: Arc<Needles>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _ticket: Arc<Ticket>,
}

impl Guarded {
    pub(super) fn new(inner: Incoming, needles: Arc<Needles>, ticket: Arc<Ticket>) -> Self {
        Self { inner, needles, ended: Box::pin(ticket.end.clone().cancelled_owned()), _ticket: ticket }
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guarded")
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(taken_back())));
        }
        match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => {
                Poll::Ready(Some(Err(Error::new(Code::UpstreamInvalid, "the provider broke its answer off").with_detail(error))))
            }
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    headers::clean_response_trailers(&mut trailers, &self.needles);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A caller's body on its way to the provider: its trailers cleaned, and ended when authority ends.
pub(super) struct Upload<B> {
    inner: B,
    injected: Vec<http::HeaderName>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// A provider may answer before it has read everything: the call is watched until the upload ends too.
    _ticket: Arc<Ticket>,
}

impl<B> Upload<B> {
    pub(super) fn new(inner: B, injected: Vec<http::HeaderName>, ticket: Arc<Ticket>) -> Self {
        Self { inner, injected, ended: Box::pin(ticket.end.clone().cancelled_owned()), _ticket: ticket }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<crate::upstream::BoxError>,
{
    type Data = Bytes;
    type Error = crate::upstream::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(taken_back().into())));
        }
        match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    headers::clean_request_trailers(&mut trailers, &self.injected);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::{
        audit::{Audit, Mode},
        clock::Clock,
        db::testing,
        seal::KeyRing,
        token::TokenHash,
    };

    #[tokio::test]
    async fn a_call_is_watched_until_its_upload_has_ended_too() {
        let (db, _dir) = testing::sqlite().await;
        let (clock, ring) = (Clock::System, KeyRing::empty());
        let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
        let streams = Streams::new(Base { db, ring, clock, audit });
        let token = TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap();
        let caller = Caller::new(token);
        let operation = Operation { method: http::Method::POST, host: String::new(), path: String::new() };
        let by = By::Grant { caller, operation: Arc::new(operation), grant: GrantId::new() };
        let answer = Arc::new(streams.add(by, &ConnectionId::new(), None, 0));
        let upload = Upload::new(Full::new(Bytes::from_static(b"x")), Vec::new(), Arc::clone(&answer));
        drop(answer);
        assert_eq!(streams.open().len(), 1);
        drop(upload);
        assert_eq!(streams.open().len(), 0);
    }

    #[tokio::test]
    async fn what_nobody_watches_any_more_is_ended() {
        let (db, _dir) = testing::sqlite().await;
        let (clock, ring) = (Clock::System, KeyRing::empty());
        let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
        let streams = Streams::new(Base { db: db.clone(), ring, clock, audit });
        let token = TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap();
        let caller = Caller::new(token);
        let operation = Operation { method: http::Method::GET, host: String::new(), path: String::new() };
        let by = By::Grant { caller, operation: Arc::new(operation), grant: GrantId::new() };
        let ticket = streams.add(by, &ConnectionId::new(), None, db.epoch());
        let stop = CancellationToken::new();
        stop.cancel();
        streams.watch(&Authority::new(db), stop).await;
        let sent = ticket.while_it_lasts(async { Ok(()) }).await;
        assert_eq!(sent.unwrap_err().code(), Code::GrantDenied);
    }
}
