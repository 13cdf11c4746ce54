//! A lab and one or several replicas beside it, for what speaks to a provider in the background.

use std::{sync::Arc, time::Duration};

use provider_lab::{CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Issued, Lab, fingerprint};
use serde_json::{Map, Value, json};
use valetkey::{
    Result, app_config,
    audit::{self, Audit, Mode},
    base::{Base, Outside},
    clock::{Clock, Timestamp},
    connection::{self, Identity, NewConnection, Renewal, Status, Stored, Tokens},
    db::Db,
    id::{AppConfigId, ConnectionId, ProviderName, SiteId},
    principal::{Actor, Owner},
    provider::{Catalogue, Trust},
    refresh::{Refresher, Served, Settings, Wish},
    seal::{KeyRing, RootKeys},
    secret::{Secret, SecretMap},
    site,
    upstream::{self, Upstream},
};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Where the test's clock begins.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000_000);
pub(crate) const SCOPES: &str = "posts:read posts:write profile";

/// A lab, a clock that the test moves, and what replicas share.
pub(crate) struct Town {
    pub(crate) lab: Lab,
    pub(crate) clock: Clock,
    pub(crate) definition: String,
    pub(crate) roots: Secret,
}

/// One process of the broker.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) outside: Outside,
    pub(crate) refresher: Refresher,
    pub(crate) site: SiteId,
    /// At which provider it stores accounts.
    pub(crate) provider: ProviderName,
    pub(crate) config: AppConfigId,
}

/// A connection and the tokens with which it began.
pub(crate) struct Account {
    pub(crate) id: ConnectionId,
    pub(crate) first: Issued,
}

/// Deadlines and leases of a second and a half, and pauses on the test's own clock.
pub(crate) fn quick() -> Settings {
    Settings {
        deadline: Duration::from_secs(1),
        lease_extra: Duration::from_millis(500),
        poll: Duration::from_millis(20),
        keeper_interval: Duration::from_millis(100),
        ..Settings::default()
    }
}

impl Town {
    pub(crate) async fn new() -> Self {
        Self::with(&DefinitionOptions::default()).await
    }

    pub(crate) async fn with(options: &DefinitionOptions) -> Self {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let definition = lab.definition(options);
        let clock = Clock::manual(START);
        Self { lab, clock, definition, roots: valetkey::seal::RootKey::generate().unwrap().to_line() }
    }

    pub(crate) async fn replica(&self, db: &Db) -> Replica {
        self.replica_with(db, quick()).await
    }

    pub(crate) async fn replica_with(&self, db: &Db, settings: Settings) -> Replica {
        Replica::build(db, settings, &self.definition, &self.lab.addr().to_string(), &self.roots, self.clock.clone()).await
    }

    pub(crate) fn upstream(&self, reaches_the_lab: bool) -> Upstream {
        let lab = self.lab.addr().to_string();
        upstream(reaches_the_lab.then_some(lab.as_str()))
    }

    /// Changes how the lab treats our client.
    pub(crate) fn lab_settings(&self, change: impl FnOnce(&mut provider_lab::Settings)) {
        assert!(self.lab.settings(CLIENT_ID, change));
    }

    pub(crate) fn issue(&self) -> Issued {
        self.lab.issue(CLIENT_ID, "alice", SCOPES).unwrap()
    }
}

pub(crate) fn catalogue(definition: &str) -> Catalogue {
    let catalogue = Catalogue::embedded().unwrap().with_text(&"lab".parse().unwrap(), definition, Trust::Dev);
    catalogue.unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn upstream(lab: Option<&str>) -> Upstream {
    let allow_private = lab.iter().map(|lab| lab.parse().unwrap()).collect();
    Upstream::new(upstream::Settings { allow_private, ..upstream::Settings::default() }).unwrap()
}

/// The way outside for a process that reaches these labs and no other private address.
pub(crate) fn reaching(labs: &[&Lab]) -> Upstream {
    let allow_private = labs.iter().map(|lab| lab.addr().to_string().parse().unwrap()).collect();
    Upstream::new(upstream::Settings { allow_private, ..upstream::Settings::default() }).unwrap()
}

pub(crate) fn client(secret: &str) -> Map<String, Value> {
    Map::from_iter([("client_id".to_owned(), json!(CLIENT_ID)), ("client_secret".to_owned(), json!(secret))])
}

impl Replica {
    /// A process that reaches this lab and no other private address.
    pub(crate) async fn build(db: &Db, settings: Settings, definition: &str, lab: &str, roots: &Secret, clock: Clock) -> Self {
        let roots = RootKeys::parse(roots).unwrap();
        let ring = KeyRing::load_with_freshness(db, roots, Clock::System, Duration::from_millis(100)).await.unwrap();
        let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
        let base = Base { db: db.clone(), ring, clock, audit };
        let site = SiteId::default_site();
        let outside = Outside {
            base: base.clone(),
            catalogue: Arc::new(catalogue(definition)),
            upstream: upstream(Some(lab)),
            public_url: "https://keys.example.test".parse().unwrap(),
            extensions: Default::default(),
        };
        // The first replica makes the site; the others find it.
        let _ = site::create(&base, &Actor::Operator, &site, "Default").await;
        let provider: ProviderName = "lab".parse().unwrap();
        let definition = outside.catalogue.get(&provider).unwrap().clone();
        let config = match app_config::current(db, &site, &provider, &Owner::Site).await.unwrap() {
            Some(config) => config,
            None => {
                let values = client(CLIENT_SECRET);
                app_config::set(&base, &site, &Actor::Operator, &definition, &Owner::Site, &values).await.unwrap()
            }
        };
        let refresher = Refresher::new(outside.clone(), settings);
        Self { outside, refresher, site, provider, config: config.id }
    }

    /// The same process with a second provider, played by another lab; and as it stores accounts there.
    pub(crate) async fn with_second(&self, town: &Town, settings: Settings, name: &str, lab: &Lab) -> (Self, Self) {
        let provider: ProviderName = name.parse().unwrap();
        let text = lab.definition(&DefinitionOptions::default());
        let first = self.rebuilt(settings, |outside| {
            outside.catalogue = Arc::new(catalogue(&town.definition).with_text(&provider, &text, Trust::Dev).unwrap());
            outside.upstream = reaching(&[&town.lab, lab]);
        });
        let definition = first.outside.catalogue.get(&provider).unwrap().clone();
        let (base, values) = (&first.outside.base, client(CLIENT_SECRET));
        let config = app_config::set(base, &first.site, &Actor::Operator, &definition, &Owner::Site, &values).await.unwrap();
        let second = Self { provider, config: config.id, ..first.clone() };
        (first, second)
    }

    /// The same process with other pieces.
    pub(crate) fn rebuilt(&self, settings: Settings, change: impl FnOnce(&mut Outside)) -> Self {
        let mut outside = self.outside.clone();
        change(&mut outside);
        Self { refresher: Refresher::new(outside.clone(), settings), outside, ..self.clone() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.outside.base.clock.now()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.outside.base.clock.advance(by);
    }

    /// An account whose access token of an hour ended a minute ago.
    pub(crate) async fn expired(&self, town: &Town, name: &str) -> Account {
        self.account(town, name, |_, tokens, now| {
            tokens.issued_at = Some(now.minus(HOUR + MINUTE));
            tokens.expires_at = Some(now.minus(MINUTE));
        })
        .await
    }

    /// An account whose access token of an hour has so much life left.
    pub(crate) async fn living(&self, town: &Town, name: &str, left: Duration) -> Account {
        self.account(town, name, |_, tokens, now| {
            tokens.issued_at = Some(now.plus(left).minus(HOUR));
            tokens.expires_at = Some(now.plus(left));
        })
        .await
    }

    pub(crate) async fn account(
        &self,
        town: &Town,
        name: &str,
        change: impl FnOnce(&mut SecretMap, &mut Tokens, Timestamp),
    ) -> Account {
        let first = town.issue();
        let id = self.store(&first, name, change).await;
        Account { id, first }
    }

    pub(crate) async fn store(
        &self,
        issued: &Issued,
        name: &str,
        change: impl FnOnce(&mut SecretMap, &mut Tokens, Timestamp),
    ) -> ConnectionId {
        let (base, now) = (&self.outside.base, self.now());
        let provider = self.provider.clone();
        let definition = self.outside.catalogue.get(&provider).unwrap();
        let mut account = SecretMap::default();
        account.set_text("access_token", &issued.access_token.clone().into());
        account.set_text("token_type", &Secret::new("bearer"));
        account.set_text("note", &Secret::new("kept"));
        let mut renewal = Renewal::Extend;
        if let Some(refresh_token) = &issued.refresh_token {
            account.set_text("refresh_token", &refresh_token.clone().into());
            renewal = Renewal::RefreshToken;
        }
        if definition.refresh.strategy == valetkey::provider::RefreshStrategy::Extend {
            renewal = Renewal::Extend;
        }
        let mut tokens = Tokens {
            renewal,
            issued_at: Some(now.minus(HOUR)),
            expires_at: None,
            usual_life: Some(3600),
            refresh_expires_at: None,
            refresh_at: None,
            scopes: Some(SCOPES.split(' ').map(str::to_owned).collect()),
        };
        change(&mut account, &mut tokens, now);
        tokens.refresh_at =
            connection::due_at(definition, tokens.renewal, tokens.issued_at, tokens.expires_at, tokens.refresh_expires_at);
        let new = NewConnection {
            site: self.site.clone(),
            provider,
            owner: "user:alice".parse().unwrap(),
            name: name.parse().unwrap(),
            account,
            tokens,
            app_config: Some(self.config.clone()),
            client_id: Some(CLIENT_ID.to_owned()),
            subject: Some("1001".to_owned()),
            subject_name: Some("alice".to_owned()),
            identity: Identity::Verified,
            wanted_scopes: SCOPES.split(' ').map(str::to_owned).collect(),
            hosts: Vec::new(),
            call_hosts: None,
        };
        base.ring.ensure(&base.db, self.site.as_str(), self.provider.as_str()).await.unwrap();
        let mut tx = base.db.begin().await.unwrap();
        let id = connection::insert(base, &mut tx, &Actor::Operator, &new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn stored(&self, id: &ConnectionId) -> Stored {
        connection::load(&self.outside.base.db, &self.site, id).await.unwrap().unwrap()
    }

    pub(crate) async fn opened(&self, id: &ConnectionId) -> SecretMap {
        let stored = self.stored(id).await;
        connection::open_account(&self.outside.base, &stored.connection, &stored.sealed.unwrap()).await.unwrap()
    }

    pub(crate) async fn serve(&self, id: &ConnectionId) -> Result<Served> {
        self.wish(id, Wish::default()).await
    }

    pub(crate) async fn wish(&self, id: &ConnectionId, wish: Wish) -> Result<Served> {
        self.refresher.serve(Arc::new(self.stored(id).await), wish).await
    }

    /// Waits until the row is as wanted; panics after five seconds.
    pub(crate) async fn until(&self, id: &ConnectionId, wanted: impl Fn(&Stored) -> bool) -> Stored {
        for _ in 0..500 {
            let stored = self.stored(id).await;
            if wanted(&stored) {
                return stored;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the row did not become what was wanted: {:?}", self.stored(id).await);
    }

    /// The facts of every event of that action, oldest first.
    pub(crate) async fn events(&self, action: &str) -> Vec<Value> {
        let rows = audit::list(&self.outside.base.db, &self.site, None, 1000).await.unwrap();
        rows.into_iter().rev().filter(|row| row.action == action).map(|row| serde_json::from_str(&row.facts).unwrap()).collect()
    }
}

/// The access token that was served.
pub(crate) fn access(served: &Served) -> String {
    served.account.text("access_token").unwrap().expose().to_owned()
}

/// So many callers at once, spread over the replicas; the tokens they got.
pub(crate) async fn crowd(replicas: &[&Replica], id: &ConnectionId, callers: usize) -> Vec<String> {
    let callers: Vec<_> = (0..callers).map(|n| spawn(replicas[n % replicas.len()], id)).collect();
    let mut tokens = Vec::new();
    for caller in callers {
        tokens.push(access(&caller.await.unwrap().unwrap()));
    }
    tokens
}

pub(crate) fn spawn(
    replica: &Replica,
    id: &ConnectionId,
) -> tokio::task::JoinHandle<valetkey::Result<valetkey::refresh::Served>> {
    let (replica, id) = (replica.clone(), id.clone());
    tokio::spawn(async move { replica.serve(&id).await })
}

pub(crate) fn keep(replica: &Replica) -> tokio_util::sync::CancellationToken {
    let stop = tokio_util::sync::CancellationToken::new();
    let (refresher, token) = (replica.refresher.clone(), stop.clone());
    tokio::spawn(async move { refresher.keeper(token).await });
    stop
}

pub(crate) fn spends(town: &Town, account: &Account) -> u64 {
    town.lab.spends_of_refresh_token(&fingerprint(account.first.refresh_token.as_deref().unwrap()))
}

pub(crate) fn reauth(reason: &str) -> Status {
    Status::NeedsReauth { reason: reason.to_owned() }
}
