//! The MCP face of Valet Key: an agent's tools, for clients of anybody's make (Model Context Protocol, revision 2026-07-28 and
//! those before it). The protocol itself is the official SDK's (`rmcp`), which nothing outside this crate knows of.
//!
//! 1. A client names a tool and its arguments: by one HTTP request ([`answer`]) or by a line on standard input ([`serve_stdio`]).
//! 2. The tool makes a request of the broker's API of them, and sends it by an [`Api`]. That is all a tool does: who the agent is,
//!    what it may do, and what is recorded of it is found out behind the API, as for every other caller.
//! 3. What comes back is told as a structured result; what went wrong with the stable code of the API and what to do.
//!
//! No tool hands out a credential: there is none for `reveal`. Nothing is kept between two requests, so any replica answers any
//! of them, and a token is looked up for each.

mod arguments;
mod proxied;
mod tools;

use std::{convert::Infallible, error::Error, future::Future, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{
    Full,
    combinators::{BoxBody, UnsyncBoxBody},
};
use rmcp::{
    ServiceExt as _,
    service::ServerInitializeError,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, stdio, streamable_http_server::session::never::NeverSessionManager,
    },
};
use tokio_util::sync::CancellationToken;
use url::Url;

use tools::Tools;

/// The largest message that is taken over HTTP, in bytes. The body of a call is a string in it.
pub const LARGEST_MESSAGE: usize = 2 * 1024 * 1024;

/// An answer of the API, whose body is read by whoever asked.
pub type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// The broker's API as one agent may call it.
pub trait Api: Send + Sync + 'static {
    /// Sends one request of the agent's, which names a path below the API's root. Whoever implements this says who calls; no
    /// header of the request does.
    fn send(&self, request: Request<Bytes>) -> impl Future<Output = Result<Answer, Unreachable>> + Send;
}

/// The API gave no answer: a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable(pub String);

/// By which names the server is asked for, against DNS rebinding: a page in a browser could lead a name of its own to this
/// machine, and neither `Host` nor `Origin` would be ours then.
#[derive(Clone, Debug)]
pub struct Place {
    hosts: Vec<String>,
    origin: String,
}

impl Place {
    /// The names of a server that is reached at a public URL. Loopback is always among them: a foreign page cannot say it.
    pub fn new(public: &Url) -> Self {
        let host = public.host_str().unwrap_or_default();
        let named = match public.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // With its port, whatever it is: an origin without one would count for every port of the host.
        let port = public.port_or_known_default().unwrap_or_default();
        Self {
            hosts: [named.as_str(), "localhost", "127.0.0.1", "::1"].map(str::to_owned).into(),
            origin: format!("{}://{host}:{port}", public.scheme()),
        }
    }
}

/// Answers one request of streamable HTTP. It is complete in itself: there are no sessions.
///
/// A request whose `Host` or `Origin` is not of the `place` is refused with 403. `stopping` ends what still runs.
pub async fn answer<A: Api>(
    api: A,
    place: &Place,
    request: Request<Bytes>,
    stopping: &CancellationToken,
) -> Response<BoxBody<Bytes, Infallible>> {
    let tools = Tools::new(Arc::new(api));
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(place.hosts.iter())
        .with_allowed_origins([&place.origin])
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(LARGEST_MESSAGE)
        .with_cancellation_token(stopping.child_token());
    let service = StreamableHttpService::new(move || Ok(tools.clone()), Arc::new(NeverSessionManager::default()), config);
    service.handle(request.map(Full::new)).await
}

/// Serves standard input and output until the client closes them.
///
/// # Errors
/// The client did not begin as MCP has it: a text for people, without what it said.
pub async fn serve_stdio<A: Api>(api: A) -> Result<(), &'static str> {
    let serving = match Tools::new(Arc::new(api)).serve(stdio()).await {
        Ok(serving) => serving,
        // It went away before it said anything.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(_) => return Err("standard input did not begin with MCP; this is for an MCP client to start"),
    };
    serving.waiting().await.map(drop).map_err(|_| "the server broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_goes_by_its_public_name_and_by_loopback() {
        let place = Place::new(&"https://keys.example.test".parse().unwrap());
        assert_eq!(place.hosts, ["keys.example.test", "localhost", "127.0.0.1", "::1"]);
        assert_eq!(place.origin, "https://keys.example.test:443");
        let place = Place::new(&"http://[::1]:8320".parse().unwrap());
        assert_eq!((place.hosts[0].as_str(), place.origin.as_str()), ("[::1]:8320", "http://[::1]:8320"));
    }
}
