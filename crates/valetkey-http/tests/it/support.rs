//! A broker behind its router, and callers with names.

use std::{path::PathBuf, time::Duration};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use valetkey::{
    Broker, Settings,
    clock::{Clock, Timestamp},
    db::{DbConfig, testing},
    id::SiteId,
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    provider::Trust,
    seal::{RootKey, RootSource},
    secret::Secret,
};
use valetkey_http::{AppState, HttpSettings, LocalOperator};

/// Runs a test body on both databases, each with a broker of its own.
macro_rules! on_each_db {
    ($($(#[$meta:meta])* async fn $name:ident($app:ident: App) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn body($app: $crate::support::App) {
                $body
                $app.broker.stop().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                body($crate::support::App::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                body($crate::support::App::postgres().await).await;
            }
        }
    )*};
}
pub(crate) use on_each_db;

/// A broker behind its router.
pub(crate) struct App {
    pub(crate) broker: Broker,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) db: DbConfig,
    dir: tempfile::TempDir,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum As {
    /// Whoever holds the machine.
    Operator,
    /// Somebody without any credential.
    Stranger,
    /// A bearer: a platform key or an agent token.
    Bearer(String),
    /// A platform key that speaks for a person.
    For(String, &'static str),
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The code of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// The answer, which must be a problem with this status and code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(answer.code(), code);
        answer
    }
}

impl App {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = DbConfig::Sqlite { dir: dir.path().join("data"), patience: Duration::from_secs(5) };
        Self::start(db, dir, |_| {}).await
    }

    pub(crate) async fn postgres() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = DbConfig::Postgres { url: Secret::new(testing::postgres_url().await), max_connections: 8 };
        Self::start(db, dir, |_| {}).await
    }

    pub(crate) async fn start(db: DbConfig, dir: tempfile::TempDir, change: impl FnOnce(&mut HttpSettings)) -> Self {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let root = RootSource::Text(RootKey::generate().unwrap().to_line());
        let mut settings = Settings::new(db.clone(), root, "https://keys.example.test".parse().unwrap());
        settings.clock = clock.clone();
        settings.trust = Trust::Dev;
        settings.providers = Some(definitions(&dir));
        let broker = Broker::start(settings).await.unwrap().broker;
        let mut http = HttpSettings::default();
        change(&mut http);
        let router = valetkey_http::router(AppState::new(broker.clone(), http).unwrap());
        Self { broker, router, clock, db, dir }
    }

    /// A folder that goes away with the app.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A platform key of the default site.
    pub(crate) async fn key(&self, scopes: &[Scope], asserts: Asserts) -> As {
        As::Bearer(self.key_text(scopes, asserts).await)
    }

    pub(crate) async fn key_text(&self, scopes: &[Scope], asserts: Asserts) -> String {
        let new = NewKey { label: "test".to_owned(), scopes: scopes.iter().copied().collect(), asserts, expires_at: None };
        let minted = platform::create(self.broker.base(), &SiteId::default_site(), &Actor::Operator, new).await.unwrap();
        minted.text.expose().to_owned()
    }

    pub(crate) async fn get(&self, who: &As, path: &str) -> Answer {
        self.call(who, Method::GET, path, None, &[]).await
    }

    pub(crate) async fn delete(&self, who: &As, path: &str) -> Answer {
        self.call(who, Method::DELETE, path, None, &[]).await
    }

    pub(crate) async fn post(&self, who: &As, path: &str, body: Value) -> Answer {
        self.call(who, Method::POST, path, Some(body), &[]).await
    }

    pub(crate) async fn put(&self, who: &As, path: &str, body: Value) -> Answer {
        self.call(who, Method::PUT, path, Some(body), &[]).await
    }

    pub(crate) async fn patch(&self, who: &As, path: &str, body: Value) -> Answer {
        self.call(who, Method::PATCH, path, Some(body), &[]).await
    }

    pub(crate) async fn call(
        &self,
        who: &As,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        match who {
            As::Operator | As::Stranger => {}
            As::Bearer(text) => request = request.header(header::AUTHORIZATION, format!("Bearer {text}")),
            As::For(text, user) => {
                request = request.header(header::AUTHORIZATION, format!("Bearer {text}")).header("valet-user", *user);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let mut request = request.body(body).unwrap();
        if let As::Operator = who {
            request.extensions_mut().insert(LocalOperator);
        }
        self.send(request).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
    }
}

/// A folder of definitions for the tests.
fn definitions(dir: &tempfile::TempDir) -> PathBuf {
    let folder = dir.path().join("providers");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
