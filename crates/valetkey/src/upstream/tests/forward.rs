//! Proxied calls: streamed both ways, pooled, and never repeated once begun.

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::{error::Code, upstream::Body};

/// A server that sends every body back with its trailers, and the host it heard.
async fn echo() -> Server {
    Server::start(|stream, _| async move { serve_echo(stream).await }).await
}

pub(super) async fn serve_echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let host = parts.uri.authority().map(|a| a.to_string());
        let host = host.unwrap_or_else(|| parts.headers["host"].to_str().unwrap().to_owned());
        let response = Response::builder()
            .header("x-host", host)
            .header("trailer", "x-sum")
            .header("x-version", format!("{:?}", parts.version));
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Every byte value, in `count` frames of odd sizes, then a trailer.
pub(super) fn frames(count: usize, pause: Duration) -> (Body, Vec<u8>) {
    let pieces: Vec<Bytes> = (0..count).map(|n| (0..=255_u8).cycle().skip(n % 256).take(7000 + n).collect()).collect();
    let whole = pieces.concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = pieces.into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
    let stream = futures_util::stream::unfold(frames, move |mut frames| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(frames.next()?), frames))
    });
    (Body::stream(StreamBody::new(Box::pin(stream))), whole)
}

fn request(method: &str, url: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(url).body(body).unwrap()
}

fn get(url: &str) -> Request<Body> {
    request("GET", url, Body::empty())
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn bodies_and_trailers_pass_unchanged_in_both_directions() {
    let server = echo().await;
    let (body, whole) = frames(300, Duration::ZERO);
    let mut request = request("POST", &server.url("/x"), body);
    request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let response = client_of(&server).forward(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "42");
    assert!(collected.to_bytes() == whole);
}

#[tokio::test]
async fn a_body_that_was_read_whole_announces_no_trailers() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut stream, requests| {
        let tell = tell.clone();
        async move {
            while let Some(request) = read_request(&mut stream, &requests).await {
                tell.send(request.to_ascii_lowercase()).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let client = client_of(&server);
    for body in [Body::empty(), Body::from(Bytes::from_static(b"whole"))] {
        let mut request = request("POST", &server.url("/"), body);
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        assert_eq!(text(client.forward(request).await.unwrap()).await, "ok");
        let seen = told.recv().await.unwrap();
        assert!(!seen.contains("trailer"), "{seen}");
    }
}

#[tokio::test]
async fn an_answer_streams_before_it_is_complete() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let server = Server::start(move |mut stream, requests| {
        let mut wait = wait.clone();
        async move {
            read_request(&mut stream, &requests).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none").await.unwrap();
            wait.wait_for(|go| *go).await.unwrap();
            stream.write_all(b"two").await.unwrap();
        }
    })
    .await;
    let mut body = client_of(&server).forward(get(&server.url("/"))).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    go.send(true).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
}

#[tokio::test]
async fn the_host_header_is_the_urls_whatever_the_caller_says() {
    let server = echo().await;
    let mut request = get(&server.url("/"));
    request.headers_mut().insert("host", HeaderValue::from_static("evil.example"));
    let response = client_of(&server).forward(request).await.unwrap();
    assert_eq!(response.headers()["x-host"], server.address.to_string());
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::ok().await;
    let client = client_of(&server);
    for _ in 0..5 {
        assert_eq!(text(client.forward(get(&server.url("/"))).await.unwrap()).await, "ok");
    }
    assert_eq!((server.requests(), server.connections()), (5, 1));
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let client = client_of(&server);
    for _ in 0..3 {
        assert_eq!(text(client.forward(get(&server.url("/"))).await.unwrap()).await, "ok");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((server.requests(), server.connections()), (3, 3));
}

#[tokio::test]
async fn a_request_that_was_read_and_not_answered_is_not_repeated() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        read_request(&mut stream, &requests).await;
    })
    .await;
    let client = client_of(&server);
    text(client.forward(get(&server.url("/"))).await.unwrap()).await;
    let error = client.forward(request("POST", &server.url("/"), Bytes::from_static(b"pay").into())).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[tokio::test]
async fn redirects_go_to_the_caller() {
    let target = Server::ok().await;
    let answer = format!("HTTP/1.1 307 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url("/"));
    let server = Server::answering(answer).await;
    let client = client(&[&server.address.to_string(), &target.address.to_string()]);
    let response = client.forward(get(&server.url("/"))).await.unwrap();
    assert_eq!(response.headers()["location"], target.url("/"));
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn a_switch_of_protocols_and_connect_are_refused() {
    let server = Server::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    let client = client_of(&server);
    let error = client.forward(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamInvalid);
    let error = client.forward(request("CONNECT", &server.address.to_string(), Body::empty())).await.unwrap_err();
    assert_eq!(error.code(), Code::MethodRefused);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_given_up() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
        std::future::pending::<()>().await;
    })
    .await;
    let settings = Settings { header_timeout: Duration::from_millis(200), ..settings(&[&server.address.to_string()]) };
    let client = Upstream::new(settings).unwrap();
    assert_eq!(client.forward(get(&server.url("/"))).await.unwrap_err().code(), Code::UpstreamTimeout);
    // A body that stands still is no longer waited for either.
    let still = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let error = client.forward(request("POST", &server.url("/"), Body::stream(still))).await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamTimeout);
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_wait_for_an_answer() {
    let server = Server::start(|mut stream, requests| async move {
        // A chunked body ends with a trailer here; the answer comes after it.
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") || !seen.windows(5).any(|window| window == b"\r\n0\r\n") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        requests.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let settings = Settings { header_timeout: Duration::from_millis(400), ..settings(&[&server.address.to_string()]) };
    let (body, _) = frames(10, Duration::from_millis(100));
    let response = Upstream::new(settings).unwrap().forward(request("POST", &server.url("/"), body)).await.unwrap();
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn a_callers_body_that_breaks_off_is_the_callers_fault() {
    let server = Server::start(|mut stream, _| async move {
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.unwrap();
    })
    .await;
    let frames = [Ok(Frame::data(Bytes::from_static(b"a"))), Err(std::io::Error::other("gone"))];
    let body = Body::stream(StreamBody::new(futures_util::stream::iter(frames)));
    let error = client_of(&server).forward(request("POST", &server.url("/"), body)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidRequest);
}
