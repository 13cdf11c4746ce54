//! `valetkey mcp`: the tools of an agent on standard input and output, for an MCP client that starts programs.
//!
//! It speaks to a broker over HTTP, with the agent's own token, and can do nothing that this token cannot. No data folder is opened,
//! and nothing but MCP goes to standard output. The token comes from a file or a variable, never from an argument, which other users
//! could see in the list of processes.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::BodyExt as _;
use url::Url;
use valetkey::{
    secret::Secret,
    token::TokenHash,
    upstream::{self, AllowPrivate, Upstream},
};
use valetkey_mcp::{Answer, Api, Unreachable};

use super::Session;
use crate::{
    failure::{Failure, Result},
    opened::USUAL_LISTEN,
    secrets,
};

/// The variable that holds the agent's token.
const TOKEN: &str = "VALETKEY_TOKEN";

/// Where the agent's token comes from.
#[derive(Args, Debug)]
pub(crate) struct Mcp {
    /// The file that holds the agent's token [env: VALETKEY_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file of further root certificates (PEM), for a broker inside your own network
    #[arg(long, env = "VALETKEY_EXTRA_ROOTS", value_name = "FILE")]
    extra_roots: Option<PathBuf>,
}

impl Mcp {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let usual = || Url::parse(&format!("http://{USUAL_LISTEN}"));
        let broker = session.settings.public_url.clone().map_or_else(usual, Ok);
        let broker = broker.map_err(|error| Failure::failed("the broker's usual address is none").with_detail(error))?;
        let token = self.token()?;
        let extra_roots_pem = match &self.extra_roots {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                Failure::usage(format!("--extra-roots: {} cannot be read", path.display())).with_detail(error)
            })?),
        };
        let api = Remote::new(broker, &token, extra_roots_pem)?;
        valetkey_mcp::serve_stdio(api).await.map_err(Failure::failed)
    }

    fn token(&self) -> Result<Secret> {
        let token = match &self.token_file {
            Some(path) => secrets::one_from(path)?,
            None => match std::env::var(TOKEN) {
                Ok(text) if !text.is_empty() => Secret::new(text),
                _ => return Err(Failure::usage(format!("whose tools? Give the agent's token by --token-file, or by {TOKEN}"))),
            },
        };
        match TokenHash::of_presented(token.expose()) {
            Some(_) => Ok(token),
            None => Err(Failure::usage("that is no agent's token; `valetkey agent token create` makes one")),
        }
    }
}

/// A broker that is reached over HTTP, as one agent.
struct Remote {
    upstream: Upstream,
    broker: Url,
    bearer: HeaderValue,
}

impl Remote {
    fn new(broker: Url, token: &Secret, extra_roots_pem: Option<Vec<u8>>) -> Result<Self> {
        let odd = || Failure::usage("--public-url: an origin such as https://keys.example.com");
        let (Some(host), Some(port)) = (broker.host_str(), broker.port_or_known_default()) else { return Err(odd()) };
        // Wherever it is: it was named by whoever starts this, and it is the only one that is spoken to.
        let it: AllowPrivate = format!("{host}:{port}").parse().map_err(|_| odd())?;
        let settings = upstream::Settings { allow_private: vec![it], extra_roots_pem, ..upstream::Settings::default() };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| odd())?;
        bearer.set_sensitive(true);
        Ok(Self { upstream: Upstream::new(settings)?, broker, bearer })
    }

    fn unreachable(&self) -> Unreachable {
        Unreachable(format!(
            "the broker at {} gives no answer; whoever set this up sees to it that it runs, and that --public-url names it",
            self.broker
        ))
    }
}

impl Api for Remote {
    async fn send(&self, request: Request<Bytes>) -> std::result::Result<Answer, Unreachable> {
        let (mut parts, body) = request.into_parts();
        let whole = format!("{}{}", self.broker.as_str().trim_end_matches('/'), parts.uri);
        parts.uri = whole.parse::<Uri>().map_err(|_| self.unreachable())?;
        parts.headers.insert(header::AUTHORIZATION, self.bearer.clone());
        match self.upstream.forward(Request::from_parts(parts, upstream::Body::from(body))).await {
            Ok(answer) => Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(error) => {
                tracing::warn!(code = error.code().as_str(), detail = error.detail().unwrap_or_default(), "{}", error.message());
                Err(self.unreachable())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn a_token_is_no_argument() {
        assert!(Cli::try_parse_from(["valetkey", "mcp", "--token", "vk_x"]).is_err());
        assert!(Cli::try_parse_from(["valetkey", "mcp", "vk_x"]).is_err());
        assert!(Cli::try_parse_from(["valetkey", "mcp", "--token-file", "/x"]).is_ok());
    }
}
