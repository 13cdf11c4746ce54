//! The body of a request that is passed on: streamed frame by frame, trailers too, and watched for progress.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

/// What a request body may fail with.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A request body. Only a body that is neither absent, in memory nor hyper's own costs an allocation.
pub struct Body(Kind);

enum Kind {
    Empty,
    Full(Full<Bytes>),
    Incoming(Incoming),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Any body; one that is already at its end becomes an empty one.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::Stream(body.map_err(Into::into).boxed_unsync()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self(Kind::Full(Full::new(bytes))) }
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        if body.is_end_stream() { Self::empty() } else { Self(Kind::Incoming(body)) }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(full)",
            Kind::Incoming(_) | Kind::Stream(_) => "Body(stream)",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(body) => body.is_end_stream(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(body) => body.size_hint(),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// A body on its way out. A streamed one notes when it last moved, so that the wait for an answer counts from
/// the end of a long upload and not from its beginning.
pub(super) struct Watched {
    body: Body,
    progress: Option<Arc<Progress>>,
}

impl Watched {
    pub(super) fn new(body: Body) -> (Self, Option<Arc<Progress>>) {
        let progress = match body.0 {
            Kind::Empty | Kind::Full(_) => None,
            Kind::Incoming(_) | Kind::Stream(_) => Some(Arc::new(Progress::start())),
        };
        (Self { body, progress: progress.clone() }, progress)
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(_), Some(progress)) = (&polled, &self.progress) {
            progress.touch();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// When a body last moved.
pub(super) struct Progress {
    start: Instant,
    last_micros: AtomicU64,
}

impl Progress {
    fn start() -> Self {
        Self { start: Instant::now(), last_micros: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_micros.store(micros, Ordering::Relaxed);
    }

    /// How long nothing has moved.
    pub(super) fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_micros(self.last_micros.load(Ordering::Relaxed)))
    }
}
