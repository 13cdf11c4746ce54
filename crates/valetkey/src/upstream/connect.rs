//! How a connection to the outside is made.
//!
//! 1. The URL's host is read in its one usual spelling and checked by the guard.
//! 2. A name is looked up; an address is taken as it stands. (Resolver hooks of HTTP clients see names only, so
//!    the check cannot live there.)
//! 3. Every address is checked; one that passed is connected to, exactly that one.
//! 4. TLS is spoken with the name from the URL. There is no switch to turn verification off.

#[cfg(any(test, feature = "testing"))]
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};
use std::{
    future::Future,
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{net::TcpStream, time::Instant};
use tower_service::Service;

use super::guard::{Guard, Host, Target};
use crate::error::{Code, Error, Result};

/// Addresses tried of one name before giving up.
const MAX_ADDRESSES: usize = 6;

/// A future in a box; one per connection, not per request.
type Boxed<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A connection, secured or (to an admitted loopback address) plain.
pub(super) type Stream = MaybeHttpsStream<Tcp>;

/// Makes checked connections. Cheap to clone: the client clones it for every request.
#[derive(Clone)]
pub(super) struct Connector(Arc<Parts>);

struct Parts {
    https: HttpsConnector<Pinned>,
    checked: Arc<Checked>,
}

/// Which HTTP versions to offer in the TLS handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Http1,
    Http1AndHttp2,
}

impl Connector {
    pub(super) fn new(guard: Guard, resolver: Resolver, tls: ClientConfig, offer: Offer, timeout: Duration) -> Self {
        let checked = Arc::new(Checked { guard, resolver, timeout });
        let pinned = Pinned(checked.clone());
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let https = match offer {
            Offer::Http1 => builder.enable_http1().wrap_connector(pinned),
            Offer::Http1AndHttp2 => builder.enable_all_versions().wrap_connector(pinned),
        };
        Self(Arc::new(Parts { https, checked }))
    }

    /// Connects to the host of `uri`; nothing of a request is sent.
    pub(super) async fn connect(&self, uri: Uri) -> Result<Stream> {
        // Asked once more inside, where it counts; here so that TLS is not the first to complain of an odd name.
        self.0.checked.target(&uri)?;
        let mut https = self.0.https.clone();
        match tokio::time::timeout(self.0.checked.timeout, https.call(uri)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(match error.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => Error::new(
                    Code::UpstreamUnreachable,
                    "no trusted connection to the provider could be made; check its certificate and host name",
                )
                .with_detail(other),
            }),
            Err(_) => Err(timed_out()),
        }
    }

    /// A bare connection to a host and port, for a protocol that is not HTTP and that its caller secures. The same names,
    /// addresses and exceptions are admitted as for https.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream> {
        let checked = &self.0.checked;
        let target = checked.guard.target(true, host, port)?;
        tokio::time::timeout(checked.timeout, checked.connect(&target)).await.map_err(|_| timed_out())?
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Error;
    type Future = Boxed<Stream>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await })
    }
}

fn timed_out() -> Error {
    Error::new(Code::UpstreamTimeout, "the provider could not be reached in time; try again later")
}

/// Makes plain connections to checked addresses.
#[derive(Clone)]
struct Pinned(Arc<Checked>);

struct Checked {
    guard: Guard,
    resolver: Resolver,
    timeout: Duration,
}

impl Service<Uri> for Pinned {
    type Response = Tcp;
    type Error = Error;
    type Future = Boxed<Tcp>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let checked = self.0.clone();
        Box::pin(async move {
            let target = checked.target(&uri)?;
            Ok(Tcp(TokioIo::new(checked.connect(&target).await?)))
        })
    }
}

impl Checked {
    async fn connect(&self, target: &Target) -> Result<TcpStream> {
        let addresses = self.addresses(target).await?;
        let end = Instant::now() + self.timeout;
        let mut failure = None;
        for (position, address) in addresses.iter().enumerate() {
            // An address that swallows packets must leave time for the ones after it.
            let left = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
            let share = end.saturating_duration_since(Instant::now()) / left;
            match tokio::time::timeout(share, TcpStream::connect(*address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(|error| unreachable(target, error))?;
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = Some(unreachable(target, error)),
                Err(_) => failure = Some(timed_out().with_detail(format_args!("connecting to {}", target.host))),
            }
        }
        Err(failure.unwrap_or_else(|| unreachable(target, "no address")))
    }

    fn target(&self, uri: &Uri) -> Result<Target> {
        let odd = |message: &'static str| Err(Error::new(Code::AddressRefused, message));
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return odd("only https addresses are spoken to"),
        };
        let Some(authority) = uri.authority() else { return odd("the address names no host") };
        if authority.as_str().contains('@') {
            return odd("the address must not hold a user name or password");
        }
        // `port()` is also absent for a port that is no number: that must not become the default one.
        let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or("?");
        let port = match (rest, authority.port_u16()) {
            ("", None) => {
                if https {
                    443
                } else {
                    80
                }
            }
            (_, Some(port)) => port,
            _ => return odd("the port is not a number"),
        };
        self.guard.target(https, authority.host(), port)
    }

    /// The addresses of a target that may be connected to, in the resolver's order.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>> {
        if let Resolver::StandIn(address) = self.resolver {
            self.guard.admit(target, address.ip())?;
            return Ok(vec![address]);
        }
        let name = match &target.host {
            Host::Ip(ip) => {
                self.guard.admit(target, *ip)?;
                return Ok(vec![SocketAddr::new(*ip, target.port)]);
            }
            Host::Name(name) => name,
        };
        let mut admitted = Vec::new();
        let mut refusal = None;
        for ip in self.resolver.lookup(name).await.map_err(|error| unreachable(target, error))? {
            match self.guard.admit(target, ip) {
                Ok(()) => admitted.push(SocketAddr::new(ip, target.port)),
                Err(error) => refusal = Some(error),
            }
        }
        admitted.truncate(MAX_ADDRESSES);
        match (admitted.is_empty(), refusal) {
            (false, _) => Ok(admitted),
            (true, Some(refusal)) => Err(refusal),
            (true, None) => Err(unreachable(target, "the name has no address")),
        }
    }
}

fn unreachable(target: &Target, why: impl std::fmt::Display) -> Error {
    Error::new(Code::UpstreamUnreachable, "the provider could not be reached; try again later")
        .with_detail(format_args!("{}:{}: {why}", target.host, target.port))
}

/// Where addresses of names come from.
#[derive(Clone, Debug, Default)]
pub enum Resolver {
    /// The system's resolver.
    #[default]
    System,
    /// Every host, also one that is written as an address, leads to this one address and port, and nothing leaves for
    /// anywhere else: a stand-in for the outside world plays them all. The guard checks it like any other address, so each
    /// host needs its exact exception.
    StandIn(SocketAddr),
    /// A fixed list, for tests. What it answers is checked like any other answer.
    #[cfg(any(test, feature = "testing"))]
    Fixed(FixedNames),
}

impl Resolver {
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        match self {
            // The port is put to each address after it was checked.
            Resolver::System => Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()),
            Resolver::StandIn(address) => Ok(vec![address.ip()]),
            #[cfg(any(test, feature = "testing"))]
            Resolver::Fixed(names) => {
                names.next(name).ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "no such name"))
            }
        }
    }
}

#[cfg(any(test, feature = "testing"))]
/// Names with the answers to their first, second, ... look-up; the last answer repeats.
#[derive(Clone, Debug, Default)]
pub struct FixedNames(Arc<Mutex<HashMap<String, Answers>>>);

#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Default)]
struct Answers {
    coming: VecDeque<Vec<IpAddr>>,
    asked: usize,
}

#[cfg(any(test, feature = "testing"))]
impl FixedNames {
    /// Adds a name with its answers, one list of addresses for each look-up.
    pub fn add(&self, name: &str, answers: impl IntoIterator<Item = Vec<IpAddr>>) {
        let answers = Answers { coming: answers.into_iter().collect(), asked: 0 };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answers);
    }

    /// How often a name was looked up.
    pub fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).map_or(0, |answers| answers.asked)
    }

    fn next(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = names.get_mut(name)?;
        answers.asked += 1;
        if answers.coming.len() > 1 { answers.coming.pop_front() } else { answers.coming.front().cloned() }
    }
}

/// The TLS settings: Mozilla's roots, and what the operator adds.
pub(super) fn tls(extra_roots_pem: Option<&[u8]>) -> Result<ClientConfig> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = extra_roots_pem {
        let odd = |error: &dyn std::fmt::Display| {
            Error::new(Code::InvalidConfig, "the extra root certificates are not certificates in PEM form").with_detail(error)
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|error| odd(&error))?).map_err(|error| odd(&error))?;
        }
        if roots.len() == before {
            return Err(odd(&"no certificate found"));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::internal)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A TCP stream. It tells the client nothing of its addresses, which would be copied into every answer.
pub(super) struct Tcp(TokioIo<TcpStream>);

impl Connection for Tcp {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
