//! Accepting connections: TCP (HTTP/1.1 and HTTP/2 without TLS, which stands in front) and the operator's local socket.
//!
//! 1. Every request is told who is at the other end ([`Peer`]); on the local socket also that it is the operator's.
//! 2. Whoever connects and sends no request head within ten seconds is cut off, and there are so many connections at once.
//! 3. A TCP connection is served on one of the [`Lanes`], the operator's where it was accepted.
//! 4. A body that nobody reads to its end is read here, so that its sender gets the answer ([`unread`]).
//! 5. At shutdown no connection is accepted any more, those that are open finish their requests, and what takes longer
//!    than half a minute is cut off.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    edge::{LocalOperator, Peer},
    lanes::Lanes,
    unread,
};

/// What a listener puts up with.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a request's head may take to arrive, the first on a connection from its start.
    head: Duration,
    /// How many connections may be open.
    connections: usize,
    /// How long open requests are waited for at shutdown.
    drain: Duration,
}

const LIMITS: Limits = Limits { head: Duration::from_secs(10), connections: 8192, drain: Duration::from_secs(30) };

/// Serves a router on a TCP listener until `shutdown` fires and the open requests are answered. `lanes` must outlive what
/// the router's state holds open (see [`Lanes`]).
pub async fn serve(listener: TcpListener, router: Router, lanes: Lanes, shutdown: CancellationToken) {
    let accept = || async {
        let (stream, address) = listener.accept().await?;
        // A small answer should not wait for another one.
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        Ok((move || TcpStream::from_std(stream), Some(Peer::Tcp(address))))
    };
    run(accept, router, LIMITS, Some(lanes), shutdown).await;
}

/// Serves a router on the operator's socket: whoever connects must be the user this process runs as, or root.
pub async fn serve_local(listener: UnixListener, router: Router, shutdown: CancellationToken) {
    let own = rustix::process::geteuid().as_raw();
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let peer = (uid == own || uid == 0).then_some(Peer::Local { uid });
        if peer.is_none() {
            tracing::warn!(uid, "somebody else's process connected to the operator's socket and was turned away");
        }
        Ok((move || Ok(stream), peer))
    };
    run(accept, router, LIMITS, None, shutdown).await;
}

/// Accepts and serves, on lanes where there are any. A connection without a peer is closed at once; what is accepted
/// becomes a stream where it is served.
async fn run<S, M, A, F>(mut accept: A, router: Router, limits: Limits, lanes: Option<Lanes>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: FnOnce() -> io::Result<S> + Send + 'static,
    A: FnMut() -> F,
    F: Future<Output = io::Result<(M, Option<Peer>)>>,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    loop {
        // A place first: beyond the limit the kernel's queue holds whoever comes.
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept() => accepted,
        };
        let (accepted, peer) = match accepted {
            Ok((accepted, Some(peer))) => (accepted, peer),
            Ok((_, None)) => continue,
            Err(error) => {
                // One broken connection is its own affair; no file left to open concerns all of them.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (router, watcher) = (router.clone(), graceful.watcher());
        let served = move || async move {
            let stream = match accepted() {
                Ok(stream) => stream,
                Err(error) => return tracing::warn!(%error, "a connection could not be taken over"),
            };
            let began = Arc::new(AtomicBool::new(false));
            let serving = connection(stream, peer, router, limits, Arc::clone(&began), watcher);
            // hyper's own limit on the head counts only once it knows which HTTP is spoken.
            let silence = async {
                tokio::time::sleep(limits.head).await;
                if began.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = serving => {}
                () = silence => {}
            }
            drop(place);
        };
        match &lanes {
            Some(lanes) => lanes.serve(served),
            None => drop(tokio::spawn(served())),
        }
    }
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = limits.drain.as_secs(), "some requests took longer than shutting down waits, and were cut off");
    }
}

async fn connection<S>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: Limits,
    began: Arc<AtomicBool>,
    watcher: hyper_util::server::graceful::Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        began.store(true, Ordering::Relaxed);
        let mut request = unread::to_its_end(request);
        request.extensions_mut().insert(peer);
        if let Peer::Local { .. } = peer {
            request.extensions_mut().insert(LocalOperator);
        }
        router.clone().oneshot(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let serving = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(error = %error, "a connection ended in the middle");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn server(limits: Limits) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" })).route(
            "/slow",
            axum::routing::get(|| async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "slow"
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let accept = || async {
                let (stream, address) = listener.accept().await?;
                let stream = stream.into_std()?;
                Ok((move || TcpStream::from_std(stream), Some(Peer::Tcp(address))))
            };
            run(accept, router, limits, Some(Lanes::start().unwrap()), stop).await;
        });
        (address, shutdown, task)
    }

    async fn send(address: std::net::SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn quick() -> Limits {
        Limits { head: Duration::from_millis(200), connections: 2, drain: Duration::from_secs(5) }
    }

    #[tokio::test]
    async fn whoever_sends_no_whole_head_is_cut_off() {
        let (address, _shutdown, _task) = server(quick()).await;
        for text in ["", "PRI * HT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            let cut = tokio::time::timeout(Duration::from_secs(3), send(address, text)).await.unwrap();
            assert!(!cut.contains("hello"), "{text:?}");
        }
        // And the places of those are free again.
        let answer = send(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.ends_with("hello"));
    }

    #[tokio::test]
    async fn http_2_is_spoken_without_tls_too() {
        let (address, shutdown, task) = server(quick()).await;
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let asked = Request::get("http://a/").body(Body::empty()).unwrap();
        let answer = sender.send_request(asked).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
        drop((answer, sender));
        shutdown.cancel();
        task.await.unwrap();
        connection.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn shutting_down_answers_what_was_asked_before() {
        let (address, shutdown, task) = server(quick()).await;
        let asked = tokio::spawn(async move { send(address, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        shutdown.cancel();
        assert!(asked.await.unwrap().ends_with("slow"));
        task.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
