//! The demo platform's way to the broker: its HTTP API over the network, with a platform key, as any platform would.

use std::net::SocketAddr;

use axum::body::Body;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use valetkey::secret::Secret;

use crate::failure::{Failure, Result};

const LARGEST_ANSWER: usize = 1024 * 1024;

/// The broker, seen from the platform.
pub(super) struct Api {
    /// Where the broker listens.
    pub(super) broker: SocketAddr,
    /// The platform's key.
    pub(super) key: Secret,
}

impl Api {
    /// Calls the broker on behalf of one person.
    pub(super) async fn call(&self, method: Method, path: &str, user: &str, body: Option<&Value>) -> Result<Value> {
        let failed = |error: &dyn std::fmt::Display| Failure::unreachable("the broker does not answer").with_detail(error);
        let stream = TcpStream::connect(self.broker).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.broker.to_string())
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key.expose()))
            .header("valet-user", user)
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))
            .map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| failed(&error))?;
        let value = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        if status.is_success() { Ok(value) } else { Err(Failure::problem(status, value)) }
    }
}
