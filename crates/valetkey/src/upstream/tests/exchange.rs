//! One request, once, and its whole answer.

use super::*;
use crate::{error::Code, upstream::Sent};

#[tokio::test]
async fn the_request_arrives_as_it_should_and_the_answer_comes_whole() {
    let heard = Arc::new(std::sync::Mutex::new(String::new()));
    let ear = heard.clone();
    let server = Server::start(move |mut stream, requests| {
        let ear = ear.clone();
        async move {
            let request = read_request(&mut stream, &requests).await.unwrap();
            *ear.lock().unwrap() = request;
            let answer =
                "HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let answer = exchange(&client_of(&server), &server.url("/token?x=%20y")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.expose()), (400, &b"abcdefg"[..]));
    assert_eq!(answer.headers["x-a"], "1");
    let heard = heard.lock().unwrap().clone();
    assert!(heard.starts_with("POST /token?x=%20y HTTP/1.1\r\n"), "{heard}");
    for line in [
        &format!("host: {}\r\n", server.address),
        "accept-encoding: identity\r\n",
        "user-agent: valetkey/",
        "connection: close\r\n",
    ] {
        assert!(heard.contains(line), "{heard}");
    }
    assert!(heard.ends_with("grant_type=refresh_token"), "{heard}");
}

/// R41.
#[tokio::test]
async fn an_answer_shows_nothing_of_itself() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nset-cookie: canary\r\ncontent-length: 6\r\n\r\ncanary").await;
    let answer = exchange(&client_of(&server), &server.url("/")).await.unwrap();
    assert_eq!(format!("{answer:?}"), "Answer { status: 200, .. }");
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let server = Server::ok().await;
    let (client, url) = (client_of(&server), server.url("/"));
    server.task.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let failure = exchange(&client, &url).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamUnreachable, Sent::No));
}

/// R36: the server counts.
#[tokio::test]
async fn a_lost_answer_may_have_been_acted_upon_and_the_request_is_not_repeated() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
    })
    .await;
    let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamUnreachable, Sent::Maybe));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((server.requests(), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_closed_before_the_request_is_not_tried_again() {
    let server = Server::start(|stream, _| async move { drop(stream) }).await;
    let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
    assert_eq!(failure.error.code(), Code::UpstreamUnreachable);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn every_exchange_has_a_connection_of_its_own() {
    let server = Server::ok().await;
    let client = client_of(&server);
    for _ in 0..3 {
        exchange(&client, &server.url("/")).await.unwrap();
    }
    assert_eq!((server.requests(), server.connections()), (3, 3));
}

#[tokio::test]
async fn the_deadline_covers_the_wait_for_the_answer() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
        std::future::pending::<()>().await;
    })
    .await;
    let (client, limits) = (client_of(&server), Limits::within(Duration::from_millis(200)));
    let exchange = client.exchange(post(&server.url("/"), "x"), limits);
    let failure = tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("a wait without an end").unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamTimeout, Sent::Maybe));
}

#[tokio::test]
async fn the_deadline_covers_a_body_that_drips() {
    let server = Server::start(|mut stream, requests| async move {
        read_request(&mut stream, &requests).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let limits = Limits::within(Duration::from_millis(300));
    let failure = client_of(&server).exchange(post(&server.url("/"), "x"), limits).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamTimeout, Sent::Maybe));
}

#[tokio::test]
async fn a_deadline_met_while_connecting_sent_nothing() {
    // The TLS handshake is never answered.
    let server = Server::start(|stream, _| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits::within(Duration::from_millis(200));
    let url = format!("https://{}/", server.address);
    let failure = client_of(&server).exchange(post(&url, "x"), limits).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamTimeout, Sent::No));

    let patient =
        Upstream::new(Settings { connect_timeout: Duration::from_millis(200), ..settings(&[&server.address.to_string()]) });
    let failure = exchange(&patient.unwrap(), &url).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamTimeout, Sent::No));
}

#[tokio::test]
async fn a_body_larger_than_the_limit_is_cut_off() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let server = Server::start(move |mut stream, requests| {
        let count = count.clone();
        async move {
            read_request(&mut stream, &requests).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 65536], b"\r\n"].concat();
            while count.load(Ordering::SeqCst) < 256 << 20 && stream.write_all(&chunk).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamInvalid, Sent::Maybe));
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The limit is 1 MiB; the rest is what the kernel held between the two.
    assert!(written.load(Ordering::SeqCst) < 32 << 20, "{}", written.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_is_not_read() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 10485760\r\n\r\n").await;
    let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
    assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamInvalid, Sent::Maybe));
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n").await;
    let client = client_of(&server);
    let limited =
        |max_body| client.exchange(post(&server.url("/"), "x"), Limits { max_body, ..Limits::within(Duration::from_secs(5)) });
    assert_eq!(limited(5).await.unwrap().body.expose(), b"12345");
    assert_eq!(limited(4).await.unwrap_err().error.code(), Code::UpstreamInvalid);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200",
    ] {
        let server = Server::start(move |mut stream, requests| async move {
            read_request(&mut stream, &requests).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
        assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamUnreachable, Sent::Maybe), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_invalid() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", "x-a: b\r\n".repeat(20_000));
    for answer in ["SSH-2.0-OpenSSH\r\n\r\n".to_owned(), endless] {
        let server = Server::answering(answer).await;
        let failure = exchange(&client_of(&server), &server.url("/")).await.unwrap_err();
        assert_eq!((failure.error.code(), failure.sent), (Code::UpstreamInvalid, Sent::Maybe));
    }
}

/// R43: nor by way of a redirect.
#[tokio::test]
async fn redirects_are_answers_and_are_not_followed() {
    let target = Server::ok().await;
    for status in ["301", "302", "303", "307", "308"] {
        let answer = format!("HTTP/1.1 {status} X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url("/"));
        let server = Server::answering(answer).await;
        let client = client(&[&server.address.to_string(), &target.address.to_string()]);
        assert_eq!(exchange(&client, &server.url("/")).await.unwrap().status.as_str(), status);
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn nothing_is_decompressed() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc").await;
    let answer = exchange(&client_of(&server), &server.url("/")).await.unwrap();
    assert_eq!(answer.body.expose(), b"abc");
    assert_eq!(answer.headers["content-encoding"], "gzip");
}
