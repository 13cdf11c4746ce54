//! The client against real servers on loopback.

mod address;
mod exchange;
mod forward;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Answer, Failure, Limits, Settings, Upstream};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that speaks raw bytes and counts.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Every connection is handed to `serve` with the counter of requests.
    async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicUsize>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start_at((LOCAL, 0).into(), serve).await
    }

    async fn start_at<F, Fut>(address: SocketAddr, serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicUsize>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (connected, requested) = (connections.clone(), requests.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connected.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, requested.clone()));
            }
        });
        Self { address, connections, requests, task }
    }

    /// Answers every request on every connection with the same bytes.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut stream, requests| {
            let answer = answer.clone();
            async move {
                while read_request(&mut stream, &requests).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers `ok`.
    async fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the head of a request and, by `content-length`, its body; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, requests: &AtomicUsize) -> Option<String> {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(seen[..end].to_vec()).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while seen.len() < end + length {
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    Some(String::from_utf8_lossy(&seen).into_owned())
}

/// A client that may reach exactly these.
fn client(allowed: &[&str]) -> Upstream {
    Upstream::new(settings(allowed)).unwrap()
}

fn settings(allowed: &[&str]) -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(2),
        allow_private: allowed.iter().map(|entry| entry.parse().unwrap()).collect(),
        ..Settings::default()
    }
}

fn client_of(server: &Server) -> Upstream {
    client(&[&server.address.to_string()])
}

fn post(url: &str, body: &'static str) -> Request<Bytes> {
    Request::post(url).body(Bytes::from_static(body.as_bytes())).unwrap()
}

async fn exchange(client: &Upstream, url: &str) -> Result<Answer, Failure> {
    client.exchange(post(url, "grant_type=refresh_token"), Limits::within(Duration::from_secs(5))).await
}
