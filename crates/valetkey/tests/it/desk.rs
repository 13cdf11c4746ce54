//! A desk at which a platform handles accounts: a house, the embedded providers, and whatever was registered.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use valetkey::{
    account::Accounts,
    agent::{self, NewAgent},
    base::Outside,
    connection::{self, Connection, Filter},
    db::Db,
    extend::{Entry, EventSink, Extensions, Level},
    id::{AgentId, ConnectionId, UserId},
    principal::{Actor, Slot},
    provider::Catalogue,
    scope::{self, Change},
    secret::SecretMap,
    upstream::{self, Upstream},
};

use crate::support::House;

pub(crate) struct Desk {
    pub(crate) house: House,
    pub(crate) outside: Outside,
    pub(crate) heard: Arc<Ears>,
}

impl Desk {
    /// Agents 303 and 404 are there.
    pub(crate) async fn new(db: &Db) -> Self {
        Self::with(db, Extensions::default()).await
    }

    pub(crate) async fn with(db: &Db, extensions: Extensions) -> Self {
        let house = House::new(db).await;
        let heard = Arc::new(Ears::default());
        let outside = Outside {
            base: house.base.clone(),
            catalogue: Arc::new(Catalogue::embedded().unwrap()),
            upstream: Upstream::new(upstream::Settings::default()).unwrap(),
            public_url: "https://keys.example.test".parse().unwrap(),
            extensions: extensions.events(heard.clone()),
        };
        for id in ["303", "404"] {
            let new = NewAgent { id: Some(id.parse().unwrap()), slug: format!("a{id}"), title: String::new(), owner: None };
            agent::create(&house.base, &house.site, &Actor::Operator, new).await.unwrap();
        }
        Self { house, outside, heard }
    }

    pub(crate) fn reddit(&self) -> Accounts {
        self.at("reddit")
    }

    pub(crate) fn at(&self, provider: &str) -> Accounts {
        Accounts::new(&self.outside, self.house.site.clone(), provider.parse().unwrap(), Actor::Operator)
    }

    /// What is set for accounts at Reddit.
    pub(crate) async fn policy(&self, policy: &str, fallback: bool) {
        let change = Change { policy: Some(policy.parse().unwrap()), fallback: Some(fallback) };
        let (base, site) = (&self.house.base, &self.house.site);
        let provider = "reddit".parse().unwrap();
        scope::set(base, site, &Actor::Operator, &provider, valetkey::context::Kind::Account, change).await.unwrap();
    }

    pub(crate) async fn connections(&self) -> Vec<Connection> {
        connection::list(&self.house.base.db, &self.house.site, &Filter::default()).await.unwrap()
    }

    /// What is stored of every account, as the database holds it.
    pub(crate) async fn raw(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for connection in self.connections().await {
            let stored = connection::load(&self.house.base.db, &self.house.site, &connection.id).await.unwrap().unwrap();
            all.extend(stored.sealed.unwrap_or_default());
            all.extend(serde_json::to_vec(&stored.connection).unwrap());
        }
        all
    }
}

/// Hears what is told.
#[derive(Default)]
pub(crate) struct Ears(Mutex<Vec<String>>);

impl Ears {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn hear(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

impl EventSink for Ears {
    fn log(&self, entry: &Entry<'_>) {
        let level = match entry.level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
        };
        let Slot { provider, owner, .. } = entry.slot;
        self.hear(format!("{level}: {} ({provider}, {owner}, {})", entry.label, entry.source.unwrap_or("-")));
    }

    fn refresh_failed(&self, slot: &Slot, _connection: &ConnectionId, reason: &str) {
        self.hear(format!("refresh failed: {}, {reason}", slot.owner));
    }

    fn connection_broken(&self, slot: &Slot, _connection: &ConnectionId, reason: &str) {
        self.hear(format!("broken: {}, {reason}", slot.owner));
    }

    fn revoked(&self, slot: &Slot, _connection: &ConnectionId) {
        self.hear(format!("revoked: {}", slot.owner));
    }
}

pub(crate) fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

pub(crate) fn agent(id: &str) -> AgentId {
    id.parse().unwrap()
}

/// An account that is this object.
pub(crate) fn account(value: Value) -> SecretMap {
    SecretMap::new(value.as_object().unwrap().clone())
}

/// An account with this token and nothing else.
pub(crate) fn token(text: &str) -> SecretMap {
    account(serde_json::json!({ "access_token": text }))
}

/// The token of an account that must be there.
#[track_caller]
pub(crate) fn access(account: Option<SecretMap>) -> String {
    account.unwrap().text("access_token").unwrap().expose().to_owned()
}
