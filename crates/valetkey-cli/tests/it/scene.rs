//! A scene for the tests of what must be survived: replicas of the real binary on one database, and the provider lab
//! outside, with everything set up.
//!
//! 1. [`Scene::start`] writes the definitions, makes a database, starts one server on SQLite or two on PostgreSQL, and
//!    sets up the apps and a platform key.
//! 2. A test connects accounts as a browser would ([`Scene::connect`]), makes agents, tokens and grants by the API, and
//!    calls whichever replica it likes.
//! 3. Further replicas can be started with other variables ([`Scene::spawn`]), killed, frozen and thawed.
//!
//! Nothing here sleeps for a guess: what is waited for is asked for, with a limit that only a broken build reaches.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use provider_lab::{Client, DefinitionOptions, Lab, Settings};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use valetkey::{clock::Clock, platform, secret::Secret};

use crate::support::{Browser, Home, Page, Server};

/// Longer than anything takes here, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Every scope that a platform key can have.
pub(crate) const ALL_SCOPES: &str = "accounts:read,accounts:reveal,accounts:write,connect,agents,grants,admin";

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// SQLite in a folder, which one server has to itself.
    Sqlite,
    /// PostgreSQL, with two replicas.
    Postgres,
}

/// Writes a test once and runs it on both databases: `on_each! { async fn name(on: On) { ... } }`.
macro_rules! on_each {
    ($($(#[$meta:meta])* async fn $name:ident($on:ident: On) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn body($on: On) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                body(On::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                body(On::Postgres).await;
            }
        }
    )*};
}
pub(crate) use on_each;

/// A provider that the lab plays: with a definition and a client of its own.
#[derive(Clone, Default)]
pub(crate) struct LabProvider {
    pub(crate) name: &'static str,
    pub(crate) definition: DefinitionOptions,
    pub(crate) settings: Settings,
    /// Replacements in the text of the definition.
    pub(crate) edits: Vec<(String, String)>,
}

impl LabProvider {
    /// The lab as it usually is.
    pub(crate) fn usual() -> Self {
        Self { name: "lab", ..Self::default() }
    }
}

/// How a scene is made.
pub(crate) struct Plan {
    pub(crate) on: On,
    pub(crate) providers: Vec<LabProvider>,
    /// Definitions of other providers: name and text.
    pub(crate) definitions: Vec<(String, String)>,
    /// When a refresh must be answered, and how much longer its lease lasts, in seconds.
    pub(crate) refresh: (u32, u32),
    /// Addresses beside the lab's that may be spoken to.
    pub(crate) allowed: Vec<SocketAddr>,
    /// What is logged.
    pub(crate) log: &'static str,
}

impl Plan {
    /// The usual lab; a refresh must be answered within a second.
    pub(crate) fn new(on: On) -> Self {
        Self {
            on,
            providers: vec![LabProvider::usual()],
            definitions: Vec::new(),
            refresh: (1, 1),
            allowed: Vec::new(),
            log: "info",
        }
    }
}

/// So many scenes at once: each is several processes, and a machine may have two cores.
static PLACES: Semaphore = Semaphore::const_new(2);

/// A broker and the world around it.
pub(crate) struct Scene {
    pub(crate) on: On,
    pub(crate) home: Home,
    pub(crate) lab: Lab,
    pub(crate) http: reqwest::Client,
    pub(crate) replicas: Vec<Server>,
    /// A platform key with every scope, that may speak for anybody.
    pub(crate) key: PlatformKey,
    counter: AtomicU64,
    _place: SemaphorePermit<'static>,
}

/// A platform key as it was shown once.
#[derive(Clone, Default)]
pub(crate) struct PlatformKey {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) assertion_secret: String,
}

/// An agent's token as it was shown once.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) token: String,
}

/// An account, and an agent that may use it.
#[derive(Clone)]
pub(crate) struct Usable {
    pub(crate) connection: String,
    pub(crate) agent: String,
    pub(crate) token: Token,
    pub(crate) grant: String,
}

impl Scene {
    /// Starts everything: one server on SQLite, two on PostgreSQL.
    pub(crate) async fn start(plan: Plan) -> Self {
        let place = PLACES.acquire().await.unwrap();
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        lab.auto_approve(Some("alice"));
        let mut home = match plan.on {
            On::Sqlite => Home::sqlite(),
            On::Postgres => Home::postgres().await,
        };
        let folder = home.folder().join("providers");
        fs::create_dir(&folder).unwrap();
        for provider in &plan.providers {
            let client = Client::new(&client_id(provider.name), &client_secret(provider.name));
            lab.register(client.with(provider.settings.clone()));
            let mut text = lab.definition(&provider.definition);
            for (from, to) in &provider.edits {
                assert!(text.contains(from.as_str()), "the definition holds no {from}");
                text = text.replace(from.as_str(), to);
            }
            fs::write(folder.join(format!("{}.toml", provider.name)), text).unwrap();
        }
        for (name, text) in &plan.definitions {
            fs::write(folder.join(format!("{name}.toml")), text).unwrap();
        }
        let allowed: Vec<_> = plan.allowed.iter().chain([&lab.addr()]).map(ToString::to_string).collect();
        home.set("VALETKEY_ALLOW_PRIVATE", &allowed.join(","));
        home.set("VALETKEY_PROVIDERS", folder.to_str().unwrap());
        home.set("VALETKEY_LOOPBACK_HTTP", "1");
        home.set("VALETKEY_PUBLIC_URL", &format!("http://127.0.0.1:{}", free_port()));
        let (deadline, extra) = plan.refresh;
        home.set("VALETKEY_REFRESH_DEADLINE", &format!("{deadline}s"));
        home.set("VALETKEY_REFRESH_LEASE_EXTRA", &format!("{extra}s"));
        // A test says itself when something is refreshed.
        home.set("VALETKEY_REFRESH_INTERVAL", "1d");
        home.set("VALETKEY_LOG", plan.log);
        let mut scene = Self {
            on: plan.on,
            home,
            lab,
            http: client(),
            replicas: Vec::new(),
            key: PlatformKey::default(),
            counter: AtomicU64::new(0),
            _place: place,
        };
        let first = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.push(first);
        if plan.on == On::Postgres {
            let second = scene.spawn("127.0.0.1:0", &[]).await;
            scene.replicas.push(second);
        }
        scene.key = scene.platform_key(ALL_SCOPES, "any");
        for provider in &plan.providers {
            let values = json!({ "client_id": client_id(provider.name), "client_secret": client_secret(provider.name) });
            scene.put_app(provider.name, values).await;
        }
        scene
    }

    /// The usual scene.
    pub(crate) async fn usual(on: On) -> Self {
        Self::start(Plan::new(on)).await
    }

    /// Starts a server on this database. It takes part, but is not among `replicas`; it ends with the value.
    pub(crate) async fn spawn(&self, listen: &str, variables: &[(&str, &str)]) -> Server {
        let mut all = self.home.variables().to_vec();
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let started = Server::run(&all, &["serve", "--json", "--listen", listen]).await;
        started.unwrap_or_else(|ran| panic!("the server did not start: {ran:?}"))
    }

    /// The only server of SQLite makes room for something else, and then comes back to the same address.
    pub(crate) async fn without_server(&mut self, work: impl AsyncFnOnce(&mut Self)) {
        assert_eq!(self.on, On::Sqlite);
        let server = self.replicas.pop().unwrap();
        assert_eq!(server.end().await, Some(0));
        work(self).await;
        let server = self.spawn(&self.public_address(), &[]).await;
        self.replicas.push(server);
    }

    /// Where browsers reach the broker: the first replica.
    pub(crate) fn public_url(&self) -> &str {
        self.variable("VALETKEY_PUBLIC_URL")
    }

    /// A variable that every server and command has.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.home.variables().iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} is not set")).1
    }

    pub(crate) fn public_address(&self) -> String {
        self.public_url().trim_start_matches("http://").to_owned()
    }

    /// A request to one replica, with a bearer.
    pub(crate) async fn call(&self, at: usize, bearer: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        ask(&self.http, &self.replicas[at].at(path), bearer, method, body).await.unwrap()
    }

    /// A request of the platform to the first replica, which must succeed.
    pub(crate) async fn platform(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.call(0, &self.key.key, method.clone(), path, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
        answer.body
    }

    /// Makes a platform key, as the operator.
    pub(crate) fn platform_key(&self, scopes: &str, asserts: &str) -> PlatformKey {
        let made = self.home.json(&["key", "create", "--label", "tests", "--scope", scopes, "--assert", asserts]);
        PlatformKey { id: text(&made, "id"), key: text(&made, "key"), assertion_secret: text(&made, "assertion_secret") }
    }

    pub(crate) async fn put_app(&self, provider: &str, values: Value) {
        self.platform(Method::PUT, &format!("/v1/providers/{provider}/config"), Some(json!({ "values": values }))).await;
    }

    /// A word that was not used before.
    pub(crate) fn fresh(&self, word: &str) -> String {
        format!("{word}{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes an agent that belongs to nobody.
    pub(crate) async fn agent(&self) -> String {
        let made = self.platform(Method::POST, "/v1/agents", Some(json!({ "slug": self.fresh("agent") }))).await;
        text(&made, "id")
    }

    /// Mints an unattended token.
    pub(crate) async fn token(&self, agent: &str) -> Token {
        let made = self.platform(Method::POST, &format!("/v1/agents/{agent}/tokens"), Some(json!({ "label": "test" }))).await;
        Token { id: text(&made, "id"), token: text(&made, "token") }
    }

    /// Grants both deliveries for calls without a person.
    pub(crate) async fn grant(&self, agent: &str, connection: &str) -> String {
        let (whom, delivery) = ("unattended", ["proxy", "reveal"]);
        let grant = json!({ "agent": agent, "connection": connection, "for_whom": whom, "delivery": delivery });
        text(&self.platform(Method::POST, "/v1/grants", Some(grant)).await, "id")
    }

    /// Connects a named account of the site, as a browser would, and says the connection's id.
    pub(crate) async fn connect(&self, provider: &str) -> String {
        let name = self.fresh("account");
        let session = json!({ "provider": provider, "owner": "site", "name": name });
        let session = self.platform(Method::POST, "/v1/connect-sessions", Some(session)).await;
        let mut browser = Browser::new();
        let page = browser.open(&text(&session, "url")).await;
        let done = approve(&mut browser, &page).await;
        // Where there are lists to choose from, the account is connected before anything is chosen.
        let chooses = done.url.path().starts_with("/connect/choose/");
        assert!(chooses || done.url.query().unwrap_or_default().contains("outcome=connected"), "{done:?}");
        let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
        text(&self.platform(Method::GET, &path, None).await, "connection")
    }

    pub(crate) async fn connection(&self, id: &str) -> Value {
        self.platform(Method::GET, &format!("/v1/connections/{id}"), None).await
    }

    /// An account at a provider of the lab, and an agent that may use it.
    pub(crate) async fn usable(&self, provider: &str) -> Usable {
        let connection = self.connect(provider).await;
        let agent = self.agent().await;
        let token = self.token(&agent).await;
        let grant = self.grant(&agent, &connection).await;
        Usable { connection, agent, token, grant }
    }

    /// Asks one replica for an access token.
    pub(crate) async fn reveal(&self, at: usize, usable: &Usable) -> Answer {
        reveal(&self.http, &self.replicas[at].url(), usable).await.unwrap()
    }

    /// Makes a call through the proxy of one replica.
    pub(crate) async fn proxy(&self, at: usize, usable: &Usable, path: &str) -> Answer {
        proxy(&self.http, &self.replicas[at].url(), usable, path).await.unwrap()
    }

    /// Moves what a connection knows of time into the past, as if that much had gone by since. On SQLite the server is away
    /// meanwhile: nobody else may write there.
    pub(crate) async fn age(&mut self, connection: &str, by: Duration) {
        const SQL: &str = "UPDATE connections SET access_issued_at = access_issued_at - $2,
            access_expires_at = access_expires_at - $2, refresh_at = refresh_at - $2,
            last_refreshed_at = last_refreshed_at - $2 WHERE id = $1";
        let by = i64::try_from(by.as_micros()).unwrap();
        let mut changed = 0;
        if self.on == On::Postgres {
            let mut database = sqlx::PgConnection::connect(self.variable("VALETKEY_DATABASE")).await.unwrap();
            changed = sqlx::query(SQL).bind(connection).bind(by).execute(&mut database).await.unwrap().rows_affected();
        } else {
            self.without_server(async |scene| {
                let file = scene.home.data().join("valetkey.db");
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                let mut database = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                changed = sqlx::query(SQL).bind(connection).bind(by).execute(&mut database).await.unwrap().rows_affected();
                database.close().await.unwrap();
            })
            .await;
        }
        assert_eq!(changed, 1);
    }

    /// The newest events of the audit.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        let answer = self.platform(Method::GET, "/v1/audit?limit=1000", None).await;
        answer["events"].as_array().unwrap().clone()
    }

    /// The events of one kind about one connection.
    pub(crate) async fn events(&self, connection: &str, action: &str) -> Vec<Value> {
        let mut events = self.audit().await;
        events.retain(|event| event["action"] == action && event["connection"] == connection);
        events
    }

    /// The platform's word that a browser is a user's, for one connect session.
    pub(crate) fn assertion(&self, user: &str, session: &str) -> String {
        let (id, secret) = (self.key.id.parse().unwrap(), Secret::new(self.key.assertion_secret.as_str()));
        let signed = platform::sign(&id, &secret, &user.parse().unwrap(), &session.parse().unwrap(), Clock::System.now());
        signed.unwrap().expose().to_owned()
    }
}

/// Presses the button by which our page goes on to the provider.
pub(crate) async fn approve(browser: &mut Browser, page: &Page) -> Page {
    let button = page.html.split("value=\"approve\">").nth(1).unwrap_or_else(|| panic!("nothing to approve on {page:?}"));
    browser.press(page, button.split('<').next().unwrap()).await
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The JSON, or null where it is none.
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { status, headers, body, text })
    }

    /// What is known of a connection that broke.
    pub(crate) fn none() -> Self {
        Self { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body: Value::Null, text: String::new() }
    }

    /// Whether it is that.
    pub(crate) fn broke(&self) -> bool {
        self.status == StatusCode::BAD_GATEWAY && self.text.is_empty()
    }

    /// The stable code of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The access token that a reveal handed out.
    #[track_caller]
    pub(crate) fn access_token(&self) -> &str {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.body["access_token"].as_str().unwrap_or_else(|| panic!("no access token in {self:?}"))
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

/// Sends a request and reads the answer.
pub(crate) async fn ask(
    http: &reqwest::Client,
    url: &str,
    bearer: &str,
    method: Method,
    body: Option<Value>,
) -> reqwest::Result<Answer> {
    let mut request = http.request(method, url).bearer_auth(bearer);
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::read(request.send().await?).await
}

/// Asks a server for an access token.
pub(crate) async fn reveal(http: &reqwest::Client, server: &str, usable: &Usable) -> reqwest::Result<Answer> {
    let url = format!("{server}/v1/connections/{}/token", usable.connection);
    ask(http, &url, &usable.token.token, Method::POST, Some(json!({}))).await
}

/// Makes a call through a server's proxy.
pub(crate) async fn proxy(http: &reqwest::Client, server: &str, usable: &Usable, path: &str) -> reqwest::Result<Answer> {
    let url = format!("{server}/v1/proxy/{}/{path}", usable.connection);
    ask(http, &url, &usable.token.token, Method::GET, None).await
}

/// A text member of an answer.
#[track_caller]
pub(crate) fn text(answer: &Value, member: &str) -> String {
    answer[member].as_str().unwrap_or_else(|| panic!("no text {member} in {answer}")).to_owned()
}

/// The lab's client of a provider, and its secret.
pub(crate) fn client_id(provider: &str) -> String {
    format!("client-of-{provider}")
}

pub(crate) fn client_secret(provider: &str) -> String {
    format!("lab-secret-of-{provider}")
}

/// A client that follows no redirect and knows no proxy.
pub(crate) fn client() -> reqwest::Client {
    // reqwest asks for a TLS provider even where only plain http is spoken. Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(2 * PATIENCE).build().unwrap()
}

/// A port that is free, and below those that the system gives to whoever asks for any: a server that comes back finds it
/// free again.
fn free_port() -> u16 {
    loop {
        let port = 12_000 + u16::from_le_bytes(valetkey::id::random().unwrap()) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it never came to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs work in tasks of its own and waits for all of it, in order.
pub(crate) async fn all<T, F>(work: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}
