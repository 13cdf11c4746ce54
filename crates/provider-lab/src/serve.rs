//! The listener. It is our own accept loop and not `axum::serve`, because a lab must be able to hang up on a caller:
//! an answer marked with [`HangUp`] is never written, its connection is closed instead.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulConnection, GracefulShutdown},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use crate::world::World;

/// How long running answers may take after the lab was told to stop.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a caller may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections are open at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;

/// An extension of an answer that must not be written: the connection is closed instead.
#[derive(Clone, Debug)]
pub(crate) struct HangUp;

impl HangUp {
    /// An answer that closes the connection.
    pub(crate) fn answer() -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(HangUp);
        response
    }
}

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lab hung up")
    }
}

impl std::error::Error for HangUp {}

#[derive(Debug)]
pub(crate) struct Server {
    task: Option<JoinHandle<()>>,
    world: Arc<World>,
}

impl Server {
    pub(crate) fn spawn(listener: TcpListener, router: Router, world: Arc<World>) -> Self {
        let task = tokio::spawn(accept(listener, router, world.clone(), None));
        Self { task: Some(task), world }
    }

    /// The same behind TLS, for callers that begin with it.
    pub(crate) fn spawn_secured(listener: TcpListener, router: Router, world: Arc<World>, tls: TlsAcceptor) -> Self {
        let task = tokio::spawn(accept(listener, router, world.clone(), Some(tls)));
        Self { task: Some(task), world }
    }

    pub(crate) async fn stop(mut self) {
        self.world.stop();
        if let Some(task) = self.task.take() {
            // A panic in the accept loop has nothing left to stop.
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.world.stop();
    }
}

async fn accept(listener: TcpListener, router: Router, world: Arc<World>, tls: Option<TlsAcceptor>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            () = world.stopped() => break,
            _ = connections.join_next(), if connections.len() >= CONNECTIONS => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    // Small answers shall not wait for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    match &tls {
                        None => connections.spawn(graceful.watch(connection(stream, peer, router.clone()))),
                        Some(tls) => connections.spawn(secured(stream, peer, router.clone(), tls.clone())),
                    };
                }
                // Out of file handles, most likely: wait instead of spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await;
    connections.shutdown().await;
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection that is secured where its first byte opens a TLS handshake (RFC 8446 section 5.1).
async fn secured(stream: TcpStream, peer: SocketAddr, router: Router, tls: TlsAcceptor) -> Result<(), BoxError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first == [22] {
        connection(tls.accept(stream).await?, peer, router).await
    } else {
        connection(stream, peer, router).await
    }
}

fn connection<S>(stream: S, peer: SocketAddr, router: Router) -> impl GracefulConnection<Error = BoxError> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut router = router.clone();
        async move {
            let Ok(response) = router.call(request).await;
            if response.extensions().get::<HangUp>().is_some() { Err(HangUp) } else { Ok(response) }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    builder.serve_connection(TokioIo::new(stream), service).into_owned()
}
