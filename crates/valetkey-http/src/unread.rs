//! A body that nobody read to its end is read and dropped here, for a while.
//!
//! A refusal often comes before the body was looked at. Were the connection closed then, with bytes of the body on their way, the
//! system would reset it, and the answer could be lost with it; many a client gives up at its first write that fails, and never
//! looks for an answer. HTTP/1.1 has no other way to say that no more is wanted (RFC 9112, section 9.6); HTTP/2 has.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Version, header::EXPECT};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{Request, body::Incoming};
use tokio::runtime::Handle;

/// How long what is still sent is read, from when nobody wants it any more; then the connection is closed on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The request, with a body that is read to its end by whoever drops it.
pub(crate) fn to_its_end(request: Request<Incoming>) -> Request<Body> {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return request.map(Body::new);
    }
    // Whoever asks first whether to send the body is told so by its being read, or by the answer.
    let expects = request.headers().get(EXPECT).filter(|_| request.version() == Version::HTTP_11);
    let asks_first = expects.is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    request.map(|body| Body::new(ToItsEnd { body: Some(body), comes: !asks_first }))
}

/// A body, until its end was seen.
struct ToItsEnd {
    body: Option<Incoming>,
    /// Whether it is sent.
    comes: bool,
}

impl http_body::Body for ToItsEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.comes = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for ToItsEnd {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| self.comes && !body.is_end_stream()) else { return };
        let rest = async move { while !body.is_end_stream() && matches!(body.frame().await, Some(Ok(_))) {} };
        // Where the runtime is gone, so is the connection.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::StatusCode, routing::post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };
    use tokio_util::sync::CancellationToken;

    use crate::lanes::Lanes;

    /// More than the buffers of both ends hold.
    const MUCH: usize = 16 << 20;

    async fn server() -> TcpStream {
        let router = Router::new()
            .route("/refused", post(|| async { (StatusCode::UNAUTHORIZED, "refused") }))
            .route(
                "/refused-late",
                post(|| async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    (StatusCode::UNAUTHORIZED, "refused")
                }),
            )
            .route("/read", post(|body: String| async move { body.len().to_string() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(crate::serve::serve(listener, router, Lanes::start().unwrap(), CancellationToken::new()));
        TcpStream::connect(address).await.unwrap()
    }

    fn head(path: &str, length: usize) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    }

    /// Reads until that was read.
    async fn until(stream: &mut TcpStream, end: &str) -> String {
        let mut answer = String::new();
        while !answer.ends_with(end) {
            let mut some = [0; 1024];
            let read = stream.read(&mut some).await.unwrap();
            assert_ne!(read, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&some[..read]).unwrap());
        }
        answer
    }

    async fn send_all_of_it(stream: &mut TcpStream) {
        for _ in 0..MUCH / 65_536 {
            stream.write_all(&[b'x'; 65_536]).await.expect("the connection stays open while the body comes");
        }
    }

    #[tokio::test]
    async fn who_is_refused_before_the_body_was_read_can_send_all_of_it_and_is_answered_and_asks_again() {
        let mut stream = server().await;
        stream.write_all(head("/refused", MUCH).as_bytes()).await.unwrap();
        send_all_of_it(&mut stream).await;
        assert!(until(&mut stream, "refused").await.starts_with("HTTP/1.1 401 "));
        stream.write_all(format!("{}four", head("/read", 4)).as_bytes()).await.unwrap();
        assert!(until(&mut stream, "\r\n\r\n4").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn the_refusal_comes_before_the_body_does_and_who_never_sends_it_is_cut_off() {
        let mut stream = server().await;
        stream.write_all(head("/refused", MUCH).as_bytes()).await.unwrap();
        until(&mut stream, "refused").await;
        let began = std::time::Instant::now();
        let cut = tokio::time::timeout(4 * super::PATIENCE, stream.read(&mut [0; 1])).await.expect("it is cut off");
        assert_eq!(cut.unwrap_or(0), 0);
        assert!(began.elapsed() >= super::PATIENCE / 2, "it was given no time");
    }

    #[tokio::test]
    async fn who_asks_before_sending_a_body_is_not_told_to_send_what_nobody_reads() {
        let mut stream = server().await;
        stream.write_all(asking(&head("/refused-late", MUCH)).as_bytes()).await.unwrap();
        assert!(until(&mut stream, "refused").await.starts_with("HTTP/1.1 401 "));
    }

    #[tokio::test]
    async fn who_was_told_to_send_a_body_that_turns_out_too_large_can_send_all_of_it_and_is_answered() {
        let mut stream = server().await;
        stream.write_all(asking(&head("/read", MUCH)).as_bytes()).await.unwrap();
        until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        send_all_of_it(&mut stream).await;
        assert!(until(&mut stream, "length limit exceeded").await.starts_with("HTTP/1.1 413 "));
    }

    fn asking(head: &str) -> String {
        head.replace("Host: a", "Host: a\r\nExpect: 100-continue")
    }
}
