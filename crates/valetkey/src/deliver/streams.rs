//! Running streams, and how they end when their authority does (promise 3, decisions 2).
//!
//! Every proxied body is registered with what was decided for it. One task decides again: at once when something
//! was committed here, and on PostgreSQL every second, with one query for all of them, because another replica may
//! have revoked. Two seconds without an answer from the database end them all.

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
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Caller, echo::Needles, headers};
use crate::{
    base::Base,
    decision::{Authority, Request, decide},
    error::{Code, Error},
    id::ConnectionId,
    principal::Delivery,
};

/// How often authority is looked at again where other replicas may change it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the database may be silent before every stream ends.
const SILENCE: Duration = Duration::from_secs(2);

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
    caller: Caller,
    connection: ConnectionId,
    operation: Arc<Operation>,
    /// The epoch before the facts of its last decision were loaded.
    epoch: u64,
    end: CancellationToken,
}

/// What was asked for, to ask it again.
pub(super) struct Operation {
    pub(super) method: http::Method,
    pub(super) host: String,
    pub(super) path: String,
}

/// A registered stream; dropping it takes it off the list.
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

impl Streams {
    pub(super) fn new(base: Base) -> Self {
        Self(Arc::new(Inner { base, next: AtomicU64::new(1), open: Mutex::default() }))
    }

    /// Registers a stream before its call leaves. `epoch` is the one read before its facts were loaded, so that a
    /// revocation in between is noticed at the next look.
    pub(super) fn register(&self, caller: &Caller, connection: &ConnectionId, operation: Operation, epoch: u64) -> Ticket {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let end = CancellationToken::new();
        let open = Open {
            caller: caller.clone(),
            connection: connection.clone(),
            operation: Arc::new(operation),
            epoch,
            end: end.clone(),
        };
        self.open().insert(id, open);
        if epoch != self.0.base.db.epoch() {
            self.0.base.db.nudge();
        }
        Ticket { streams: self.clone(), id, end }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.0.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Decides again and again until told to stop.
    pub(super) async fn watch(&self, authority: &Authority, stop: CancellationToken) {
        let replicated = !self.0.base.db.is_sqlite();
        let mut changes = self.0.base.db.changes();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let epoch = self.0.base.db.epoch();
            let due: Vec<(u64, Open)> = self
                .open()
                .iter()
                .filter(|(_, open)| replicated || open.epoch != epoch)
                .map(|(id, open)| (*id, open.clone()))
                .collect();
            if due.is_empty() {
                continue;
            }
            if tokio::time::timeout(SILENCE, self.look_again(authority, epoch, &due)).await.is_err() {
                tracing::error!(streams = due.len(), "the database is silent; every running stream was ended");
                due.iter().for_each(|(_, open)| open.end.cancel());
            }
        }
    }

    async fn look_again(&self, authority: &Authority, epoch: u64, due: &[(u64, Open)]) {
        let pairs: Vec<_> = due.iter().map(|(_, open)| (open.caller.token.clone(), open.connection.clone())).collect();
        let facts = match authority.facts_of_many(&pairs).await {
            Ok(facts) => facts,
            Err(error) => {
                tracing::error!(%error, streams = due.len(), "authority cannot be read; every running stream was ended");
                due.iter().for_each(|(_, open)| open.end.cancel());
                return;
            }
        };
        let now = self.0.base.clock.now();
        for (id, open) in due {
            let operation = (&open.operation.method, open.operation.host.as_str(), open.operation.path.as_bytes());
            let request = Request { delivery: Delivery::Proxy, operation: Some(operation), unattended: open.caller.unattended };
            let still = facts
                .get(&(open.caller.token.clone(), open.connection.clone()))
                .is_some_and(|facts| decide(facts, &request, now).effect_ignoring_count());
            if still {
                if let Some(open) = self.open().get_mut(id) {
                    open.epoch = epoch;
                }
            } else {
                open.end.cancel();
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

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Error::new(Code::GrantDenied, "the permission for this call was taken back"))));
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
    pub(super) inner: B,
    pub(super) injected: Vec<http::HeaderName>,
    pub(super) ended: Pin<Box<WaitForCancellationFutureOwned>>,
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
            return Poll::Ready(Some(Err("the permission for this call was taken back".into())));
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
