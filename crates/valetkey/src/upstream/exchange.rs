//! One request to a provider's token, identity or revocation endpoint, and its whole answer.
//!
//! 1. A fresh connection is made; until it stands nothing has left us.
//! 2. The request is written once. Nothing here repeats it: a refresh token that was spent twice can kill a whole
//!    family of tokens (decisions 1). A pooled connection is not used either, because one that the other side has
//!    just closed leaves open whether the request arrived.
//! 3. The answer is read to its end, within the deadline and the size limit.
//!
//! Whoever fails is told whether the request may have left.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use tokio::time::Instant;
use zeroize::Zeroize;

use super::connect::{Connector, Stream};
use crate::{
    error::{Code, Error, Result},
    secret::SecretBytes,
};

/// How long an exchange may take and how much it may bring.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When everything must be over: connecting, sending, reading the last byte.
    pub deadline: Instant,
    /// The largest body in bytes.
    pub max_body: usize,
}

impl Limits {
    /// The usual largest body: 1 MiB.
    pub const MAX_BODY: usize = 1 << 20;

    /// The usual size, within `time` from now.
    pub fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, max_body: Self::MAX_BODY }
    }
}

/// A whole answer. Its `Debug` shows the status only (R41).
pub struct Answer {
    /// The status; redirects are answers like any other and are not followed.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: SecretBytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// An exchange that brought no answer.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// Whether the provider may have seen the request.
    pub sent: Sent,
}

impl Failure {
    fn unsent(error: Error) -> Self {
        Self { error, sent: Sent::No }
    }

    fn maybe(error: Error) -> Self {
        Self { error, sent: Sent::Maybe }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Whether a request left us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Certainly not: it can be made again.
    No,
    /// Nobody can know: it may have been acted upon.
    Maybe,
}

/// Sends `request` over a connection of its own.
pub(super) async fn exchange(connector: &Connector, request: Request<Bytes>, limits: Limits) -> Result<Answer, Failure> {
    let (uri, request) = prepare(request).map_err(Failure::unsent)?;
    let opened = tokio::time::timeout_at(limits.deadline, open(connector, uri)).await;
    let mut line = opened.map_err(|_| Failure::unsent(too_late()))?.map_err(Failure::unsent)?;
    // Too late to begin with: a process that stood still meanwhile must not send what another one may have sent by now.
    if Instant::now() >= limits.deadline {
        return Err(Failure::unsent(too_late()));
    }
    let speaking = line.speak(request, limits.max_body);
    tokio::pin!(speaking);
    match tokio::time::timeout_at(limits.deadline, &mut speaking).await {
        Ok(spoken) => spoken,
        // A process that stood still past its deadline wakes up with the answer in its socket: it is read, not lost.
        Err(_) => tokio::time::timeout(LAST_LOOK, speaking).await.map_err(|_| Failure::maybe(too_late()))?,
    }
}

/// How long after the deadline an answer that is here already may take to be read.
const LAST_LOOK: Duration = Duration::from_millis(100);

fn too_late() -> Error {
    Error::new(Code::UpstreamTimeout, "the provider did not answer in time; try again later")
}

/// The request as it goes over a line that leads straight to its host: the path alone, and the host as a header.
fn prepare(request: Request<Bytes>) -> Result<(Uri, Request<Full<Bytes>>)> {
    let (mut parts, body) = request.into_parts();
    let uri = std::mem::take(&mut parts.uri);
    let (Some(authority), Some(path)) = (uri.authority(), uri.path_and_query()) else {
        return Err(Error::internal("an exchange needs an absolute URL"));
    };
    parts.uri = Uri::from(path.clone());
    parts.version = http::Version::HTTP_11;
    let host = HeaderValue::from_str(authority.as_str()).map_err(Error::internal)?;
    parts.headers.insert(header::HOST, host);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    // We read bodies as they come; nobody may compress them.
    parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    parts.headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(super::USER_AGENT));
    Ok((uri, Request::from_parts(parts, Full::new(body))))
}

async fn open(connector: &Connector, uri: Uri) -> Result<Line> {
    let stream = connector.connect(uri).await?;
    let (sender, connection) =
        http1::Builder::new().max_buf_size(64 * 1024).handshake::<Stream, Full<Bytes>>(stream).await.map_err(broken)?;
    let task = tokio::spawn(async move {
        // Whoever waits for the answer is told of the same error.
        let _ = connection.await;
    });
    let mut line = Line { sender, task };
    line.sender.ready().await.map_err(broken)?;
    Ok(line)
}

fn broken(error: hyper::Error) -> Error {
    if error.is_parse() || error.is_parse_too_large() {
        return Error::new(Code::UpstreamInvalid, "the provider's answer is not valid HTTP").with_detail(error);
    }
    Error::new(Code::UpstreamUnreachable, "the connection to the provider broke off before it answered").with_detail(error)
}

/// A connection for one request; it ends with this value.
struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    async fn speak(&mut self, request: Request<Full<Bytes>>, max_body: usize) -> Result<Answer, Failure> {
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // hyper hands the request back only when not a byte of it was written.
                let sent = if error.take_message().is_some() { Sent::No } else { Sent::Maybe };
                return Err(Failure { error: broken(error.into_error()), sent });
            }
        };
        let (parts, body) = response.into_parts();
        let body = read(body, max_body).await.map_err(Failure::maybe)?;
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

/// Reads a body of at most `max` bytes.
async fn read(mut body: Incoming, max: usize) -> Result<SecretBytes> {
    let too_large = || Error::new(Code::UpstreamInvalid, "the provider's answer is larger than it may be");
    let told = body.size_hint();
    if told.lower() > max as u64 {
        return Err(too_large());
    }
    let mut whole = Growing(Vec::with_capacity(usize::try_from(told.lower()).unwrap_or(0)));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if data.len() > max - whole.0.len() {
            return Err(too_large());
        }
        whole.push(&data);
    }
    Ok(SecretBytes::new(std::mem::take(&mut whole.0)))
}

/// Bytes that leave no copy behind when they move to a larger place.
struct Growing(Vec<u8>);

impl Growing {
    fn push(&mut self, data: &[u8]) {
        let needed = self.0.len() + data.len();
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.next_power_of_two().max(4096));
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.extend_from_slice(data);
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
