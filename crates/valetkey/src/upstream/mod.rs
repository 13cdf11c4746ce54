//! The one client to the outside: host checks, deadlines, size limits.
//!
//! Three ways lead out, all over connections whose address was checked and pinned ([`guard`]):
//!
//! - [`Upstream::exchange`] sends one request once and reads its whole answer: tokens, identities, revocations.
//! - [`Upstream::forward`] passes a proxied request on and streams both bodies, over pooled connections.
//! - [`Upstream::dial`] and [`Upstream::secure`] make a connection for a protocol that is not HTTP: mail.
//!
//! None follows redirects, keeps cookies, decompresses, or reads proxy settings from the environment.

mod body;
mod connect;
mod exchange;
pub mod guard;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use rustls::pki_types::ServerName;
use thread_local::ThreadLocal;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

#[cfg(any(test, feature = "testing"))]
pub use self::connect::FixedNames;
pub use self::{
    body::{Body, BoxError},
    connect::Resolver,
    exchange::{Answer, Failure, Limits, Sent},
    guard::{AllowPrivate, Guard},
};
use self::{
    body::{Progress, Watched},
    connect::{Connector, Offer},
};
use crate::error::{Code, Error, Result};

/// What we call ourselves where the caller sets no `User-Agent` (some providers refuse requests without one).
pub const USER_AGENT: &str = concat!("valetkey/", env!("CARGO_PKG_VERSION"));

/// How the client is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long looking up, connecting and securing a connection may take.
    pub connect_timeout: Duration,
    /// How long a proxied call waits for the head of its answer after its body last moved.
    pub header_timeout: Duration,
    /// How long one exchange may take at the most, however long its caller would wait. A broker raises it to the deadline of its
    /// refreshes.
    pub exchange_timeout: Duration,
    /// Exact exceptions to the rule that only public addresses are spoken to.
    pub allow_private: Vec<AllowPrivate>,
    /// Further root certificates, as PEM, beside Mozilla's.
    pub extra_roots_pem: Option<Vec<u8>>,
    /// Where addresses of names come from.
    pub resolver: Resolver,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(120),
            exchange_timeout: Duration::from_secs(30),
            allow_private: Vec::new(),
            extra_roots_pem: None,
            resolver: Resolver::System,
        }
    }
}

/// The client. A clone is cheap and shares its connections.
#[derive(Clone)]
pub struct Upstream(Arc<Parts>);

struct Parts {
    guard: Guard,
    exchanges: Connector,
    forwards: Connector,
    /// A pool for each thread that forwards: where a thread keeps to its tasks, as a server's lanes do, a call never has to
    /// wake another one.
    pools: ThreadLocal<Client<Connector, Watched>>,
    tls: TlsConnector,
    header_timeout: Duration,
    exchange_timeout: Duration,
}

impl Upstream {
    /// A client with these settings. Fails with `invalid_config` when the extra roots are not certificates.
    pub fn new(settings: Settings) -> Result<Self> {
        let Settings { connect_timeout, header_timeout, exchange_timeout, allow_private, extra_roots_pem, resolver } = settings;
        let guard = Guard::new(allow_private);
        let tls = connect::tls(extra_roots_pem.as_deref())?;
        let connector = |offer| Connector::new(guard.clone(), resolver.clone(), tls.clone(), offer, connect_timeout);
        let (exchanges, forwards) = (connector(Offer::Http1), connector(Offer::Http1AndHttp2));
        let tls = TlsConnector::from(Arc::new(tls));
        let pools = ThreadLocal::new();
        Ok(Self(Arc::new(Parts { guard, exchanges, forwards, pools, tls, header_timeout, exchange_timeout })))
    }

    /// Which addresses this client speaks to.
    pub fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// Sends a request with an absolute URL once, on a connection of its own, and reads the whole answer.
    ///
    /// Errors: `address_refused`, `upstream_unreachable`, `upstream_timeout`, `upstream_invalid` (larger than the
    /// limit, or not HTTP). The failure says whether the request may have left us. It is never sent twice.
    pub async fn exchange(&self, request: Request<Bytes>, limits: Limits) -> Result<Answer, Failure> {
        let deadline = limits.deadline.min(tokio::time::Instant::now() + self.0.exchange_timeout);
        exchange::exchange(&self.0.exchanges, request, Limits { deadline, ..limits }).await
    }

    /// Passes a proxied request with an absolute URL on, and returns the answer's head with its body as a stream.
    ///
    /// A request of which nothing was written, because its pooled connection had just closed, goes out on another
    /// connection; any other is never repeated. The `Host` header is ours. Errors as with [`Upstream::exchange`],
    /// and `invalid_request` when the caller's own body broke off.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return Err(Error::new(Code::MethodRefused, "CONNECT is not proxied"));
        }
        parts.version = Version::HTTP_11;
        parts.headers.remove(header::HOST);
        parts.headers.remove(header::UPGRADE);
        let (body, progress) = Watched::new(body);
        if progress.is_none() {
            // There is no body, or it was read whole and its trailers are gone: none will follow.
            parts.headers.remove(header::TRAILER);
        }
        let sending = self.0.pool().request(Request::from_parts(parts, body));
        let wait = self.0.header_timeout;
        let answered = match progress {
            None => tokio::time::timeout(wait, sending).await.ok(),
            Some(progress) => while_it_moves(sending, &progress, wait).await,
        };
        match answered {
            // We asked for no other protocol.
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Error::new(Code::UpstreamInvalid, "the provider switched protocols without being asked"))
            }
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(forward_error(error)),
            None => Err(Error::new(Code::UpstreamTimeout, "the provider did not answer in time; try again later")),
        }
    }

    /// Connects to a host and port for a protocol that is not HTTP. Nothing is said and nothing is secured yet; whoever
    /// uses the connection sets a deadline for all of it.
    ///
    /// Errors: `address_refused`, `upstream_unreachable`, `upstream_timeout`.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream> {
        self.0.exchanges.dial(host, port).await
    }

    /// Secures such a connection. The certificate must be trusted and for `host`; there is no switch to turn that off.
    ///
    /// Errors: `tls_failed`.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>> {
        // A name or an address; IPv6 stands in brackets everywhere else.
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| {
            Error::new(Code::AddressRefused, "the host is not spelled as a plain name or address").with_detail(error)
        })?;
        self.0.tls.connect(name, stream).await.map_err(tls_failed)
    }
}

/// Which of the two it was: a certificate that proves nothing, or no TLS at all.
fn tls_failed(error: std::io::Error) -> Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let message = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "the server's certificate is not trusted, is expired, or is for another host name"
        }
        _ => "the server does not speak TLS there; check the port, and whether TLS begins at once or by STARTTLS",
    };
    Error::new(Code::TlsFailed, message).with_detail(error)
}

impl Parts {
    /// This thread's pool.
    ///
    /// The pool's key is scheme, host and port, and so is an exception's: a connection that an exception admitted is never
    /// handed to a request that the exception does not name. Idle connections end after a minute, so that a changed address
    /// counts soon.
    fn pool(&self) -> &Client<Connector, Watched> {
        self.pools.get_or(|| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(60))
                .pool_max_idle_per_host(128)
                .http2_initial_stream_window_size(512 * 1024)
                .http2_initial_connection_window_size(2 * 1024 * 1024)
                .http2_keep_alive_interval(Duration::from_secs(20))
                .http2_keep_alive_timeout(Duration::from_secs(10))
                .build(self.forwards.clone())
        })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("guard", &self.0.guard).finish_non_exhaustive()
    }
}

/// Waits for `sending` until the body has not moved for `wait`.
async fn while_it_moves<F: Future>(sending: F, progress: &Progress, wait: Duration) -> Option<F::Output> {
    tokio::pin!(sending);
    loop {
        let left = wait.saturating_sub(progress.idle());
        if left.is_zero() {
            return None;
        }
        if let Ok(done) = tokio::time::timeout(left, &mut sending).await {
            return Some(done);
        }
    }
}

fn forward_error(error: hyper_util::client::legacy::Error) -> Error {
    let source = std::error::Error::source(&error);
    if let Some(ours) = source.and_then(|source| source.downcast_ref::<Error>()) {
        return Error::new(ours.code(), ours.message().to_owned()).with_detail(ours.detail().unwrap_or_default());
    }
    match source.and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(hyper) if hyper.is_user() => {
            Error::new(Code::InvalidRequest, "the request body broke off before its end").with_detail(hyper)
        }
        Some(hyper) if hyper.is_parse() || hyper.is_parse_too_large() => {
            Error::new(Code::UpstreamInvalid, "the provider's answer is not valid HTTP").with_detail(hyper)
        }
        Some(hyper) => Error::new(Code::UpstreamUnreachable, "the connection to the provider broke off before it answered")
            .with_detail(hyper),
        None => Error::new(Code::UpstreamUnreachable, "the provider could not be reached; try again later").with_detail(error),
    }
}
