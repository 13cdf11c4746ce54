//! How commands reach the broker: always by its HTTP API, as the operator.
//!
//! 1. A server runs on the data folder, which its lock shows: over the socket in that folder, that only its owner may
//!    open and whose server asks the kernel who is calling. The command asks it who serves before it says anything.
//! 2. No server runs: the broker is opened in this process and its router is called, without a socket in between.
//! 3. PostgreSQL: in this process too, for any number of processes may write there.
//!
//! So a command gives the same answer either way, and knows nothing the API does not say.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::UnixStream;
use valetkey::id::SiteId;

use crate::{
    failure::{Failure, Result},
    opened::Opened,
    settings::{Place, Settings},
};

/// The operator's socket in the data folder.
pub(crate) const SOCKET: &str = "valetkey.sock";
/// The largest answer that is read.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;
/// How many things are asked for at once where a list comes in pages.
const PAGE: &str = "500";
/// The longest line of a streamed answer.
const LONGEST_LINE: usize = LARGEST_ANSWER;
/// How long an answer may take that is not a stream: longer than a provider may take, within a call, to refresh.
const PATIENCE: Duration = Duration::from_secs(120);

/// The broker, wherever it is, and the site that is spoken of.
pub(crate) struct Client {
    way: Way,
    site: SiteId,
}

enum Way {
    /// A running server's socket.
    Socket(PathBuf),
    /// The broker in this process.
    Here(Box<Opened>),
}

impl Client {
    /// Finds the server, or opens the database.
    ///
    /// # Errors
    /// Neither can be done; the exit code is 5.
    pub(crate) async fn reach(settings: &Settings) -> Result<Self> {
        Ok(Self { way: Way::find(settings).await?, site: settings.site.clone() })
    }

    /// The server that listens on a socket.
    pub(crate) fn at(socket: PathBuf, site: SiteId) -> Self {
        Self { way: Way::Socket(socket), site }
    }

    /// Whether the broker is in this process, so that nobody can follow a link to it.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }

    /// Sends a request and returns the JSON of its answer; null where the answer is empty.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = async { read(self.send(method, path, body).await?).await };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::unreachable(format!("no answer came within {} s", PATIENCE.as_secs()))))
    }

    /// Everything in a list that comes in pages, as one answer: `list` is the member that holds the things.
    pub(crate) async fn all(&self, path: &str, list: &str) -> Result<Value> {
        let (mut all, mut after): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            let page = with_query(path, &[("after", after.as_deref()), ("limit", Some(PAGE))]);
            let mut page = self.call(Method::GET, &page, None).await?;
            let Some(Value::Array(things)) = page.get_mut(list).map(Value::take) else {
                return Err(Failure::failed(format!("the server's answer holds no {list}")));
            };
            all.extend(things);
            match page.get("next").and_then(Value::as_str) {
                // A page that leads to itself would never end.
                Some(next) if after.as_deref() != Some(next) => after = Some(next.to_owned()),
                _ => {
                    return Ok(Value::Object(
                        [(list.to_owned(), Value::Array(all)), ("next".to_owned(), Value::Null)].into_iter().collect(),
                    ));
                }
            }
        }
    }

    /// Asks for long work, whose answer is a stream: `progress` is told how far it came, and what came of it stands at the end.
    ///
    /// # Errors
    /// The problem that ended the work; where the stream broke off before its end, exit code 5.
    pub(crate) async fn work(&self, path: &str, body: &Value, mut progress: impl FnMut(&Value)) -> Result<Value> {
        let mut result = None;
        let each = |line: Value| {
            if let Some(so_far) = line.get("progress") {
                progress(so_far);
            } else if let Some(problem) = line.get("problem") {
                return Err(Failure::problem(StatusCode::INTERNAL_SERVER_ERROR, problem.clone()));
            } else if let Some(done) = line.get("result") {
                result = Some(done.clone());
            }
            Ok(())
        };
        self.stream(Method::POST, path, Some(body), each).await?;
        result.ok_or_else(|| Failure::unreachable("the work broke off; run the command again"))
    }

    /// Sends a request whose answer is a stream of JSON documents, one a line, and hands over each as it comes.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mut each: impl FnMut(Value) -> Result<()>,
    ) -> Result<()> {
        let broke = |error: axum::Error| Failure::unreachable("the answer broke off").with_detail(error);
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let mut stream = response.into_body();
        let mut rest = Vec::new();
        if !status.is_success() {
            let bytes = Limited::new(stream, LARGEST_ANSWER).collect().await.map(|all| all.to_bytes()).unwrap_or_default();
            return Err(Failure::problem(status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)));
        }
        while let Some(frame) = stream.frame().await {
            let Ok(data) = frame.map_err(broke)?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line = line.trim_ascii();
                if !line.is_empty() {
                    each(
                        serde_json::from_slice(line)
                            .map_err(|error| Failure::failed("the answer is no JSON").with_detail(error))?,
                    )?;
                }
            }
            if rest.len() > LONGEST_LINE {
                return Err(Failure::failed("the answer holds a line that is too long"));
            }
        }
        match rest.trim_ascii() {
            [] => Ok(()),
            line => each(
                serde_json::from_slice(line).map_err(|error| Failure::unreachable("the answer broke off").with_detail(error))?,
            ),
        }
    }

    /// Ends what was opened here, so that all of it is on disk.
    pub(crate) async fn close(self) {
        if let Way::Here(opened) = self.way {
            opened.close().await;
        }
    }

    /// Sends a body that is made while it is sent, of JSON documents one a line, and returns the JSON of the answer. It may
    /// take as long as it takes.
    pub(crate) async fn send_lines(&self, path: &str, body: Body) -> Result<Value> {
        let request = Request::post(self.with_site(path))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(body)
            .map_err(|error| Failure::usage("that cannot be asked for").with_detail(error))?;
        read(self.exchange(request).await?).await
    }

    fn with_site(&self, path: &str) -> String {
        match self.site == SiteId::default_site() {
            true => path.to_owned(),
            false => with_query(path, &[("site", Some(self.site.as_str()))]),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(self.with_site(path)).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request =
            request.body(Body::from(bytes)).map_err(|error| Failure::usage("that cannot be asked for").with_detail(error))?;
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Body>> {
        match &self.way {
            Way::Here(opened) => opened.answer(request).await,
            Way::Socket(path) => over_socket(path, request).await,
        }
    }
}

impl Way {
    async fn find(settings: &Settings) -> Result<Self> {
        let Place::Folder(dir) = &settings.place else {
            return Ok(Self::Here(Box::new(Opened::open(settings).await?)));
        };
        if let Some(client) = Self::running(dir, settings).await? {
            return Ok(client);
        }
        match Opened::open(settings).await {
            // Somebody was faster; perhaps a server.
            Err(failure) if failure.code() == "conflict" => Self::running(dir, settings).await?.ok_or(failure),
            opened => Ok(Self::Here(Box::new(opened?))),
        }
    }

    /// The server that holds the folder, if somebody does.
    async fn running(dir: &std::path::Path, settings: &Settings) -> Result<Option<Self>> {
        let Some(holder) = valetkey::db::holder(dir) else { return Ok(None) };
        let socket = dir.join(SOCKET);
        if connect(&socket).await.is_err() {
            // A command that is at work, or a server that is about to listen or to end.
            return wait_for(dir, &socket, &holder).await.map(|found| found.map(Self::Socket));
        }
        if let [first, ..] = settings.only_for_servers.as_slice() {
            return Err(Failure::usage(format!(
                "{holder} serves {}, and {first} is its own setting: give it to `valetkey serve`, or leave it out here",
                dir.display()
            )));
        }
        Ok(Some(Self::Socket(socket)))
    }
}

/// The JSON of an answer; null where it is empty.
async fn read(response: Response<Body>) -> Result<Value> {
    let status = response.status();
    let bytes = Limited::new(response.into_body(), LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| Failure::unreachable("the answer broke off").with_detail(error))?
        .to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() { Ok(value) } else { Err(Failure::problem(status, value)) }
}

async fn over_socket(path: &std::path::Path, request: Request<Body>) -> Result<Response<Body>> {
    let failed = |error: &dyn std::fmt::Display| Failure::unreachable("the server broke off").with_detail(error);
    let stream = connect(path).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    Ok(response.map(Body::new))
}

async fn connect(path: &std::path::Path) -> Result<UnixStream> {
    let failed = |why: &str| Failure::unreachable(format!("the server's socket {} does not answer: {why}", path.display()));
    match tokio::time::timeout(Duration::from_secs(5), UnixStream::connect(path)).await {
        Ok(Ok(stream)) => {
            let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok()).map(|folder| folder.uid());
            match stream.peer_cred() {
                Ok(peer) if is_trusted(peer.uid(), rustix::process::geteuid().as_raw(), folder) => Ok(stream),
                Ok(peer) => Err(failed(&format!("user {} of this machine listens there, who is not its operator", peer.uid()))),
                Err(error) => Err(failed(&error.to_string())),
            }
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(failed("it belongs to another user; run this command as that user"))
        }
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(_) => Err(failed("no connection within 5 s")),
    }
}

/// Whether a server that runs as the user `server` may hear what `own` has to say: it is the same user, or root. Root speaks to
/// whoever owns the data folder, too.
fn is_trusted(server: u32, own: u32, folder: Option<u32>) -> bool {
    server == own || server == 0 || (own == 0 && folder == Some(server))
}

/// Waits a moment for the holder to listen, or to let go; nothing when it let go.
async fn wait_for(dir: &std::path::Path, socket: &std::path::Path, holder: &str) -> Result<Option<PathBuf>> {
    let mut last = None;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match connect(socket).await {
            Ok(_) => return Ok(Some(socket.to_owned())),
            Err(failure) => last = Some(failure),
        }
        if valetkey::db::holder(dir).is_none() {
            return Ok(None);
        }
    }
    let why = last.map(|failure| failure.to_string()).unwrap_or_default();
    Err(Failure::unreachable(format!("{} is in use by {holder}, which does not answer", dir.display()))
        .with_detail(why.trim_end()))
}

/// What stays as it is in one segment of a path or one value of a query (RFC 3986 section 2.3).
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One segment of a path.
pub(crate) fn segment(text: &str) -> Result<String> {
    match text {
        "" | "." | ".." => Err(Failure::usage(format!("`{text}` is no name"))),
        _ => Ok(utf8_percent_encode(text, KEPT).to_string()),
    }
}

/// A path with a query of the parameters that are there.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut all = path.to_owned();
    for (name, value) in parameters.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        all.push(if all.contains('?') { '&' } else { '?' });
        all.push_str(name);
        all.push('=');
        all.extend(utf8_percent_encode(value, KEPT));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_speaks_to_its_own_users_server_and_to_nobody_elses() {
        for (server, own, folder, trusted) in [
            (1000, 1000, Some(1000), true),
            (0, 1000, Some(0), true),
            (1001, 1000, Some(1001), false),
            (1001, 1000, None, false),
            (1001, 0, Some(1001), true),
            (1001, 0, Some(1002), false),
            (1001, 0, None, false),
        ] {
            assert_eq!(is_trusted(server, own, folder), trusted, "{server} {own} {folder:?}");
        }
    }

    #[test]
    fn names_stay_within_their_segment() {
        assert_eq!(segment("a/b?c#d %").unwrap(), "a%2Fb%3Fc%23d%20%25");
        assert!(segment("..").is_err() && segment("").is_err());
        assert_eq!(with_query("/v1/x", &[("a", Some("1&2")), ("b", None), ("c", Some("z"))]), "/v1/x?a=1%262&c=z");
    }
}
