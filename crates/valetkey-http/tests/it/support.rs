//! A broker behind its router, and callers with names.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use valetkey::{
    Broker, Settings,
    clock::{Clock, Timestamp},
    db::{DbConfig, testing},
    id::SiteId,
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    seal::{RootKey, RootSource},
    secret::Secret,
    upstream::Resolver,
};
use valetkey_http::{AppState, HttpSettings, LocalOperator};

/// Runs a test body on both databases, each with a broker of its own.
macro_rules! on_each_db {
    ($($(#[$meta:meta])* async fn $name:ident($app:ident: $App:ty) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn on_one($app: $App) {
                $body
                $app.broker.stop().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                on_one(<$App>::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                on_one(<$App>::postgres().await).await;
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
    settings: Option<Settings>,
}

/// What an app is made of.
pub(crate) struct Parts {
    pub(crate) broker: Broker,
    pub(crate) router: Router,
    pub(crate) db: DbConfig,
    pub(crate) dir: tempfile::TempDir,
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
        Self::start(db, dir, RootSource::Text(RootKey::generate().unwrap().to_line())).await
    }

    /// With a root key in a file of its own.
    pub(crate) async fn sqlite_with_key_file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = DbConfig::Sqlite { dir: dir.path().join("data"), patience: Duration::from_secs(5) };
        let root = RootSource::File(dir.path().join("root.key"));
        Self::start(db, dir, root).await
    }

    pub(crate) async fn postgres() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = DbConfig::Postgres { url: Secret::new(testing::postgres_url().await), max_connections: 8 };
        Self::start(db, dir, RootSource::Text(RootKey::generate().unwrap().to_line())).await
    }

    async fn start(db: DbConfig, dir: tempfile::TempDir, root: RootSource) -> Self {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let mut settings = Settings::new(db.clone(), root, "https://keys.example.test".parse().unwrap());
        settings.clock = clock.clone();
        // Nothing outside is spoken to.
        settings.upstream.resolver = Resolver::Fixed(Default::default());
        let broker = Broker::start(settings.clone()).await.unwrap().broker;
        let router = valetkey_http::router(AppState::new(broker.clone(), HttpSettings::default()).unwrap());
        Self { broker, router, clock, db, dir, settings: Some(settings) }
    }

    /// A second replica on the same database, to be stopped by whoever asks for it. On SQLite, where one process has the database
    /// to itself, it is a second router over the same broker.
    pub(crate) async fn twin(&self) -> Self {
        let settings = self.settings.clone().unwrap();
        let broker = match &self.db {
            DbConfig::Sqlite { .. } => self.broker.clone(),
            DbConfig::Postgres { .. } => Broker::start(settings.clone()).await.unwrap().broker,
        };
        let router = valetkey_http::router(AppState::new(broker.clone(), HttpSettings::default()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        Self { broker, router, clock: self.clock.clone(), db: self.db.clone(), dir, settings: Some(settings) }
    }

    /// A database without its key behind the router.
    pub(crate) async fn without_key(db: DbConfig, dir: tempfile::TempDir) -> Self {
        let broker = Broker::without_key(&db).await.unwrap();
        let router = valetkey_http::router(AppState::new(broker.clone(), HttpSettings::default()).unwrap());
        Self { broker, router, clock: Clock::System, db, dir, settings: None }
    }

    /// Everything it is made of.
    pub(crate) fn into_parts(self) -> Parts {
        Parts { broker: self.broker, router: self.router, db: self.db, dir: self.dir }
    }

    /// A folder that goes away with the app.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// An agent with an owner; its id.
    pub(crate) async fn agent(&self, slug: &str, owner: &str) -> String {
        let made = self.post(&As::Operator, "/v1/agents", json!({ "slug": slug, "owner": owner })).await.expect(201);
        text(&made.json(), "/id")
    }

    /// Gives a person a role on an agent.
    pub(crate) async fn role(&self, agent: &str, user: &str, role: &str) {
        self.put(&As::Operator, &format!("/v1/agents/{agent}/roles/{user}"), json!({ "role": role })).await.expect(204);
    }

    /// A token for an agent; its id and the caller who shows it.
    pub(crate) async fn token(&self, agent: &str, new: Value) -> (String, As) {
        let minted = self.post(&As::Operator, &format!("/v1/agents/{agent}/tokens"), new).await.expect(201).json();
        (text(&minted, "/id"), As::Bearer(text(&minted, "/token")))
    }

    /// A stored account of a static provider, which is usable at once; its connection's id.
    pub(crate) async fn account(&self, owner: &str, name: &str) -> String {
        let path = format!("/v1/providers/http_basic/accounts/{owner}?name={name}");
        text(&self.put(&As::Operator, &path, basic("secret")).await.expect(201).json(), "/connection")
    }

    /// A grant; its id.
    pub(crate) async fn grant(&self, new: Value) -> String {
        text(&self.post(&As::Operator, "/v1/grants", new).await.expect(201).json(), "/id")
    }

    /// Stores the site's app at Reddit.
    pub(crate) async fn reddit(&self) {
        let values = json!({ "client_id": "id", "client_secret": "secret", "developer_username": "dev" });
        self.put(&As::Operator, "/v1/providers/reddit/config", json!({ "values": values })).await.expect(200);
    }

    /// A platform key of the default site.
    pub(crate) async fn key(&self, scopes: &[Scope], asserts: Asserts) -> As {
        As::Bearer(self.key_text(scopes, asserts).await)
    }

    pub(crate) async fn key_text(&self, scopes: &[Scope], asserts: Asserts) -> String {
        self.key_text_at(&SiteId::default_site(), scopes, asserts).await
    }

    /// The same for a key of any site.
    pub(crate) async fn key_text_at(&self, site: &SiteId, scopes: &[Scope], asserts: Asserts) -> String {
        let new = NewKey { label: "test".to_owned(), scopes: scopes.iter().copied().collect(), asserts, expires_at: None };
        let minted = platform::create(self.broker.base(), site, &Actor::Operator, new).await.unwrap();
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

/// An account of the static provider `http_basic`.
pub(crate) fn basic(password: &str) -> Value {
    json!({ "account": {
        "account": "intranet", "base_url": "https://intranet.example.com", "username": "u", "password": password,
    }})
}

/// A text inside a JSON document.
#[track_caller]
pub(crate) fn text(json: &Value, at: &str) -> String {
    json.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {at} in {json}")).to_owned()
}
