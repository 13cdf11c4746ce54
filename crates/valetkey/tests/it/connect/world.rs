//! A broker with a provider lab beside it, and a browser of few words.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use provider_lab::{CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Lab};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::task::TaskTracker;
use url::Url;
use valetkey::{
    Code, app_config, audit,
    base::Outside,
    connect::{self, Answer, Ended, Outcome, session, session::NewSession},
    connection::{self, Connection},
    db::Db,
    id::{ConnectionId, PlatformKeyId, ProviderName},
    on,
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, Owner},
    provider::{Catalogue, Trust},
    secret::{Secret, SecretMap},
    upstream::{AllowPrivate, Limits, Settings, Upstream},
};

use crate::support::House;

pub(crate) const OPERATOR: Actor = Actor::Operator;
pub(crate) const PUBLIC: &str = "http://127.0.0.1:7777";

/// A site with the provider `lab`, its app configured.
pub(crate) struct World {
    pub(crate) house: House,
    pub(crate) outside: Outside,
    pub(crate) lab: Lab,
    pub(crate) tasks: TaskTracker,
    platform: (PlatformKeyId, Secret),
}

impl World {
    pub(crate) async fn new(db: &Db) -> Self {
        Self::with(db, &DefinitionOptions::default(), |text| text).await
    }

    /// A world whose lab definition was changed.
    pub(crate) async fn with(db: &Db, options: &DefinitionOptions, change: impl FnOnce(String) -> String) -> Self {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let text = change(lab.definition(options));
        let allowed = vec![lab.addr().to_string()];
        Self::around(db, lab, &text, allowed, PUBLIC).await
    }

    pub(crate) async fn around(db: &Db, lab: Lab, definition: &str, allowed: Vec<String>, public: &str) -> Self {
        let world = Self::around_unconfigured(db, lab, definition, allowed, public).await;
        world.configure(CLIENT_ID, CLIENT_SECRET).await;
        world
    }

    pub(crate) async fn around_unconfigured(db: &Db, lab: Lab, definition: &str, allowed: Vec<String>, public: &str) -> Self {
        Self::of(db, lab, &[("lab", definition.to_owned())], allowed, public).await
    }

    /// A world of several providers, no app of theirs configured.
    pub(crate) async fn of(db: &Db, lab: Lab, definitions: &[(&str, String)], allowed: Vec<String>, public: &str) -> Self {
        let house = House::new(db).await;
        let mut catalogue = Catalogue::embedded().unwrap();
        for (name, text) in definitions {
            let grown = catalogue.with_text(&name.parse().unwrap(), text, Trust::Dev);
            catalogue = grown.unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        }
        let allow_private = allowed.iter().map(|text| text.parse::<AllowPrivate>().unwrap()).collect();
        let upstream = Upstream::new(Settings { allow_private, ..Settings::default() }).unwrap();
        let outside = Outside {
            base: house.base.clone(),
            catalogue: Arc::new(catalogue),
            upstream,
            public_url: Url::parse(public).unwrap(),
            extensions: Default::default(),
        };
        let new = NewKey { label: "platform".into(), scopes: [Scope::Connect].into(), asserts: Asserts::Any, expires_at: None };
        let minted = platform::create(&house.base, &house.site, &OPERATOR, new).await.unwrap();
        Self { house, outside, lab, tasks: TaskTracker::new(), platform: (minted.key.id, minted.assertion_secret) }
    }

    pub(crate) async fn configure(&self, client_id: &str, client_secret: &str) {
        let values = json!({ "client_id": client_id, "client_secret": client_secret });
        self.configure_provider("lab", &values).await;
    }

    pub(crate) async fn configure_provider(&self, name: &str, values: &Value) {
        let definition = self.outside.definition(&name.parse().unwrap()).unwrap();
        let (base, site) = (&self.house.base, &self.house.site);
        app_config::set(base, site, &OPERATOR, &definition, &Owner::Site, values.as_object().unwrap()).await.unwrap();
    }

    /// A link for an owner's account at the lab.
    pub(crate) async fn link(&self, new: NewSession) -> session::Created {
        session::create(&self.outside, &self.house.site, &OPERATOR, new).await.unwrap()
    }

    /// Why a link is refused.
    pub(crate) async fn refused(&self, new: NewSession) -> Code {
        session::create(&self.outside, &self.house.site, &OPERATOR, new).await.unwrap_err().code()
    }

    /// What the platform says about the browser before it.
    pub(crate) fn assertion(&self, link: &session::Created, user: &str) -> Secret {
        let (key, secret) = &self.platform;
        platform::sign(key, secret, &user.parse().unwrap(), &link.id, self.house.base.clock.now()).unwrap()
    }

    /// A browser opens the link, with the platform's word where the owner is a person. The visit secret.
    pub(crate) async fn open(&self, link: &session::Created, owner: &Owner) -> Secret {
        match owner {
            Owner::User(user) => {
                let assertion = self.assertion(link, user.as_str());
                session::prove(&self.outside, &link.link, &assertion).await.unwrap().value
            }
            _ => session::visit(&self.outside, &link.link, None).await.unwrap().fresh.unwrap().value,
        }
    }

    /// The person approves.
    pub(crate) async fn approve(&self, link: &session::Created, visit: &Secret) -> session::Started {
        let page = session::visit(&self.outside, &link.link, Some(visit)).await.unwrap();
        session::approve(&self.outside, &link.link, Some(visit), &page.csrf.unwrap()).await.unwrap()
    }

    /// From a session to the provider's door.
    pub(crate) async fn start(&self, new: NewSession) -> session::Started {
        let owner = new.owner.clone();
        let link = self.link(new).await;
        let visit = self.open(&link, &owner).await;
        self.approve(&link, &visit).await
    }

    /// Signs in at the lab as a person; the query with which the lab sends the browser back.
    pub(crate) async fn sign_in(&self, started: &session::Started, person: &str) -> String {
        let url = format!("{}&auto_approve={person}", started.authorize_url.expose());
        let location = self.location(&url).await;
        let back = format!("{PUBLIC}/callback/lab?");
        location.strip_prefix(&back).unwrap_or_else(|| panic!("not our callback: {location}")).to_owned()
    }

    pub(crate) async fn location(&self, url: &str) -> String {
        let request = Request::get(url).body(Bytes::new()).unwrap();
        let answer = self.outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
        answer.headers[header::LOCATION].to_str().unwrap().to_owned()
    }

    /// The browser comes back, with the binding it has.
    pub(crate) async fn come_back(&self, query: &str, binding: Option<&Secret>) -> Ended {
        self.come_back_at("lab", query, binding).await
    }

    pub(crate) async fn come_back_at(&self, provider: &str, query: &str, binding: Option<&Secret>) -> Ended {
        let answer = Answer::parse(query).unwrap();
        connect::callback(&self.outside, &self.tasks, &provider.parse().unwrap(), answer, binding.cloned()).await
    }

    /// The whole way for a person at the lab.
    pub(crate) async fn connect(&self, new: NewSession, person: &str) -> Ended {
        let started = self.start(new).await;
        let query = self.sign_in(&started, person).await;
        self.come_back(&query, Some(&started.binding.value)).await
    }

    /// The one connection at the lab, if there is one.
    pub(crate) async fn connections(&self) -> Vec<Connection> {
        connection::list(&self.house.base.db, &self.house.site, &connection::Filter::default()).await.unwrap()
    }

    pub(crate) async fn connection(&self, id: &ConnectionId) -> Connection {
        connection::get(&self.house.base.db, &self.house.site, id).await.unwrap().unwrap()
    }

    pub(crate) async fn account(&self, id: &ConnectionId) -> SecretMap {
        let (base, site) = (&self.house.base, &self.house.site);
        let stored = connection::load(&base.db, site, id).await.unwrap().unwrap();
        connection::open_account(base, &stored.connection, &stored.sealed.unwrap()).await.unwrap()
    }

    /// The audit's rows of one action: outcome and facts.
    pub(crate) async fn audited(&self, action: &str) -> Vec<(String, Value)> {
        let rows = audit::list(&self.house.base.db, &self.house.site, None, 1000).await.unwrap();
        let rows = rows.into_iter().filter(|row| row.action == action);
        rows.map(|row| (row.outcome, serde_json::from_str(&row.facts).unwrap())).collect()
    }

    /// How many requests the lab's token endpoint got.
    pub(crate) fn token_requests(&self) -> u64 {
        ["token.authorization_code", "token.refresh_token", "token.other"].iter().map(|name| self.lab.requests(name)).sum()
    }

    /// What the outbox holds: reason and status.
    pub(crate) async fn owed(&self) -> Vec<(String, String)> {
        on!(&self.house.base.db, |c| sqlx::query_as("SELECT reason, status FROM revocations ORDER BY created_at, id")
            .fetch_all(c)
            .await
            .unwrap())
    }
}

pub(crate) fn provider() -> ProviderName {
    "lab".parse().unwrap()
}

/// A session of Alice's for her default account at the lab.
pub(crate) fn alices() -> NewSession {
    of("user:alice")
}

pub(crate) fn of(owner: &str) -> NewSession {
    NewSession::new(provider(), owner.parse().unwrap())
}

pub(crate) fn fields(members: Value) -> Map<String, Value> {
    members.as_object().unwrap().clone()
}

/// The connection of a flow that went well.
pub(crate) fn connected(ended: &Ended) -> ConnectionId {
    match &ended.outcome {
        Outcome::Connected { connection, .. } => connection.clone(),
        Outcome::Failed { code, .. } => panic!("it failed: {code}"),
    }
}

/// The code of a flow that did not.
pub(crate) fn failure(ended: &Ended) -> Code {
    match &ended.outcome {
        Outcome::Failed { code, .. } => *code,
        Outcome::Connected { .. } => panic!("it went well"),
    }
}

/// What the maker of its link gave.
pub(crate) fn carried(ended: &Ended) -> Option<&str> {
    ended.payload.as_ref().map(Secret::expose)
}

/// A parameter of the authorization request.
pub(crate) fn param(started: &session::Started, name: &str) -> Option<String> {
    let url = Url::parse(started.authorize_url.expose()).unwrap();
    let mut found = url.query_pairs().filter(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    let first = found.next();
    assert!(found.next().is_none(), "{name} comes twice");
    first
}

/// One request as it arrived at a [`Stub`].
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.body.as_bytes()).into_owned().collect()
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.form().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// A token endpoint that writes down what it gets and answers what it is told.
pub(crate) struct Stub {
    pub(crate) addr: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Mutex<String>>,
}

impl Stub {
    pub(crate) async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let answer = Arc::new(Mutex::new(answer.to_owned()));
        let (log, told) = (seen.clone(), answer.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, told) = (log.clone(), told.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let mut chunk = [0; 4096];
                    let request = loop {
                        let read = stream.read(&mut chunk).await.unwrap_or(0);
                        bytes.extend_from_slice(&chunk[..read]);
                        if let Some(request) = whole(&bytes) {
                            break request;
                        }
                        if read == 0 {
                            return;
                        }
                    };
                    log.lock().unwrap().push(request);
                    let body = told.lock().unwrap().clone();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        Self { addr, seen, answer }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn answer(&self, text: &str) {
        text.clone_into(&mut self.answer.lock().unwrap());
    }

    /// A definition with this as its only endpoint, without an identity step.
    pub(crate) fn definition(&self, oauth2: &str) -> String {
        let addr = self.addr;
        format!(
            r#"title = "Stub"
kind = "oauth2"
identity = "none"
identity_none_reason = "the stub has no people"
[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}
[oauth2]
authorize_url = "http://{addr}/authorize"
token_url = "http://{addr}/token"
scope_separator = " "
scopes = {{ default = ["read", "write"] }}
{oauth2}
[refresh]
strategy = "refresh_token"
rotation = "always"
[proxy]
base_url = "http://{addr}/api"
hosts = ["{addr}"]
credential_paths = ["/token"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
"#
        )
    }

    /// A world around it.
    pub(crate) async fn world(&self, db: &Db, oauth2: &str) -> World {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        World::around(db, lab, &self.definition(oauth2), vec![self.addr.to_string()], PUBLIC).await
    }
}

fn whole(bytes: &[u8]) -> Option<Seen> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let body = bytes.get(end + 4..end + 4 + length)?;
    Some(Seen { line, headers, body: String::from_utf8_lossy(body).into_owned() })
}

/// A token answer as the stub gives it.
pub(crate) const TOKENS: &str = r#"{"access_token":"stub_at","refresh_token":"stub_rt","token_type":"Bearer","expires_in":3600}"#;
