//! A demo platform, as small as can be: one page, where "alice" is signed in, whose agent `demo` shall act in her name.
//!
//! 1. Alice presses *Connect*. The platform asks the broker for a connect session, signs that this browser is alice's
//!    (an assertion, `platform::sign`), and shows a form that posts it to the broker's link.
//! 2. The broker and the lab ask alice, and send her back here.
//! 3. The platform grants the connection to the agent, for alice herself and by the proxy only, mints a token by which the
//!    agent acts for her, and shows the command that makes a real call with it.
//! 4. Whoever wants to sign in at the broker is sent to `/signin` here, and posts from there what the platform signs.
//!
//! A real platform does the same with its own sign-in. There is no script on the page.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Form, Router,
    extract::{Query, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use valetkey::{
    clock::Clock,
    id::{PlatformKeyId, UserId},
    platform,
    secret::Secret,
};

use super::{api::Api, pages};
use crate::{
    client::with_query,
    failure::{Failure, Result},
    output::{cell, items},
};

/// What the platform knows.
pub(super) struct Platform {
    /// Its own address.
    pub(super) address: SocketAddr,
    /// Its way to the broker.
    pub(super) api: Api,
    /// The id of its key.
    pub(super) key_id: PlatformKeyId,
    /// By which it signs assertions.
    pub(super) assertion_secret: Secret,
    /// Who is signed in here.
    pub(super) user: UserId,
    /// The agent's id and slug.
    pub(super) agent: (String, String),
    /// The provider's name at the broker.
    pub(super) provider: String,
    /// Where the lab is, for people.
    pub(super) lab: String,
    /// How the command line is called, with its folder.
    pub(super) valetkey: String,
    /// What was handed to the agent, by connection.
    pub(super) handed: Mutex<HashMap<String, Handed>>,
}

/// What the agent got.
#[derive(Clone)]
pub(super) struct Handed {
    /// The grant.
    pub(super) grant: String,
    /// The agent's token.
    pub(super) token: Secret,
}

/// Serves the platform until `shutdown` fires.
pub(super) async fn serve(listener: TcpListener, platform: Platform, shutdown: CancellationToken) {
    let platform = Arc::new(platform);
    let router = Router::new()
        .route("/", get(home))
        .route("/connect", post(connect))
        .route("/signin", get(sign_in))
        .layer(from_fn_with_state(Arc::clone(&platform), own_pages_only))
        .with_state(platform);
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the demo platform ended");
    }
}

impl Platform {
    /// The one URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.api.call(method, path, self.user.as_str(), body).await
    }

    /// A connect session for alice, and the assertion that this browser is hers.
    async fn session(&self) -> Result<(String, Secret)> {
        let body = json!({
            "provider": self.provider,
            "owner": format!("user:{}", self.user),
            "return_to": self.url(),
            "agent": self.agent.0,
        });
        let session = self.call(Method::POST, "/v1/connect-sessions", Some(&body)).await?;
        let id = cell(&session, "/id").parse()?;
        let assertion = platform::sign(&self.key_id, &self.assertion_secret, &self.user, &id, Clock::System.now())?;
        Ok((cell(&session, "/url"), assertion))
    }

    /// The assertion by which alice signs in at the broker.
    fn sign_in(&self) -> Result<Secret> {
        let (user, now) = (&self.user, Clock::System.now());
        Ok(platform::sign_for(&self.key_id, &self.assertion_secret, user, platform::Purpose::SignIn, now)?)
    }

    /// Alice's connection at the provider, if there is one that works.
    async fn connection(&self) -> Result<Option<Value>> {
        let owner = format!("user:{}", self.user);
        let path = with_query("/v1/connections", &[("provider", Some(&self.provider)), ("owner", Some(&owner))]);
        let answer = self.call(Method::GET, &path, None).await?;
        let live = items(&answer, "connections").iter().find(|connection| cell(connection, "/status") == "active");
        Ok(live.cloned())
    }

    /// Hands the connection to the agent, once: a grant and a token.
    async fn hand(&self, connection: &str) -> Result<Handed> {
        let known = self.handed.lock().unwrap_or_else(PoisonError::into_inner).get(connection).cloned();
        if let Some(handed) = known {
            return Ok(handed);
        }
        let grant = json!({
            "agent": self.agent.0,
            "connection": connection,
            "for_whom": "owner",
            "delivery": ["proxy"],
            "note": "made by the demo platform when alice connected",
        });
        let grant = self.call(Method::POST, "/v1/grants", Some(&grant)).await?;
        let token = json!({ "label": "demo", "person": self.user });
        let token = self.call(Method::POST, &format!("/v1/agents/{}/tokens", self.agent.0), Some(&token)).await?;
        let handed = Handed { grant: cell(&grant, "/id"), token: Secret::new(cell(&token, "/token")) };
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.to_owned(), handed.clone());
        Ok(handed)
    }
}

#[derive(Deserialize)]
struct Returned {
    auth_success: Option<String>,
    auth_error: Option<String>,
}

/// `GET /`: the page, in the state that things are in.
async fn home(State(platform): State<Arc<Platform>>, Query(returned): Query<Returned>) -> Response {
    if returned.auth_success.is_some() {
        // The outcome is asked of the broker, not believed of a URL that anybody can write.
        return Redirect::to("/").into_response();
    }
    let shown = async {
        match platform.connection().await? {
            None => Ok(pages::start(&platform, returned.auth_error.as_deref())),
            Some(connection) => {
                let handed = platform.hand(&cell(&connection, "/id")).await?;
                Ok(pages::ready(&platform, &connection, &handed))
            }
        }
    };
    shown.await.unwrap_or_else(|failure: Failure| pages::failed(&failure))
}

#[derive(Deserialize)]
struct Nothing {}

/// `POST /connect`: a fresh link, and the form that carries the assertion to it.
async fn connect(State(platform): State<Arc<Platform>>, Form(Nothing {}): Form<Nothing>) -> Response {
    match platform.session().await {
        Ok((link, assertion)) => pages::go_on(&platform, &link, &assertion),
        Err(failure) => pages::failed(&failure),
    }
}

#[derive(Deserialize)]
struct Wanted {
    /// A path of the broker's, to which it leads back. It is passed on as it came; the broker looks what it is.
    return_to: Option<String>,
}

/// `GET /signin`: the form that carries alice's assertion to the broker. A real platform asks for her password first, where she
/// is not signed in, or where `fresh=1` says that the broker wants to be sure.
async fn sign_in(State(platform): State<Arc<Platform>>, Query(wanted): Query<Wanted>) -> Response {
    match platform.sign_in() {
        Ok(assertion) => pages::sign_in(&platform, &assertion, wanted.return_to.as_deref().unwrap_or("/")),
        Err(failure) => pages::failed(&failure),
    }
}

/// Refuses requests that another site's page makes a browser send: alice is signed in here without a password, so anybody
/// who could speak with her browser's voice would be alice.
async fn own_pages_only(State(platform): State<Arc<Platform>>, request: Request, next: Next) -> Response {
    if ours(request.method(), request.headers(), platform.address) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this demo answers its own page only\n").into_response()
    }
}

fn ours(method: &Method, headers: &HeaderMap, address: SocketAddr) -> bool {
    // A name that was made to lead here (DNS rebinding) is another host.
    let host = headers.get(header::HOST).is_some_and(|host| host.as_bytes() == address.to_string().as_bytes());
    let origin = headers.get(header::ORIGIN);
    let origin = match *method {
        Method::GET | Method::HEAD => true,
        // Programs send none; browsers always do with a form.
        _ => origin.is_none_or(|origin| origin.as_bytes() == format!("http://{address}").as_bytes()),
    };
    host && origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_sites_page_cannot_speak_with_alices_voice() {
        let address: SocketAddr = "127.0.0.1:8323".parse().unwrap();
        let check = |method: Method, host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            ours(&method, &headers, address)
        };
        assert!(check(Method::POST, "127.0.0.1:8323", Some("http://127.0.0.1:8323")));
        assert!(check(Method::POST, "127.0.0.1:8323", None));
        assert!(check(Method::GET, "127.0.0.1:8323", None));
        assert!(!check(Method::POST, "127.0.0.1:8323", Some("https://evil.example")));
        assert!(!check(Method::POST, "127.0.0.1:8323", Some("null")));
        assert!(!check(Method::GET, "evil.example:8323", None));
    }
}
