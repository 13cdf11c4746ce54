//! The broker as one value: opened, its background work running, and stopped in the right order.
//!
//! 1. [`Broker::start`] opens the database (which brings its schema up to date), then the key ring, reads the provider
//!    definitions, makes the site `default` where there is no site yet, and starts the background work.
//! 2. Whoever serves a face (HTTP, the command line) holds a clone and asks the rooms through [`Broker::base`] and
//!    [`Broker::outside`].
//! 3. [`Broker::stop`] comes after the faces are closed: it ends the background work, writes down what is only in memory,
//!    and closes the database.
//!
//! [`Broker::without_key`] opens no key: status and listings answer, everything sealed stays sealed.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use crate::{
    account::{Accounts, Kept},
    approval,
    audit::{self, Audit},
    base::{Base, Outside},
    clock::Clock,
    connect,
    connection::calls,
    context::{Context, Kind},
    db::{Db, DbConfig},
    decision::Authority,
    deliver::{AuthenticatedClient, Caller, Deliverer},
    error::{Code, Error, Result},
    extend::Extensions,
    id::SiteId,
    oauth, person,
    principal::{Actor, Delivery, Owner},
    proposal,
    provider::{Catalogue, Problem, Trust},
    refresh::{self, Refresher},
    revoke,
    scope::{self, Found},
    seal::{self, KeyRing, RootSource},
    session, site,
    token::LastUsed,
    upstream::{self, Upstream},
    webhook,
};

/// How often last-used times are written.
const LAST_USED_EVERY: Duration = Duration::from_secs(30);
/// How often what is over is swept out: flows, links, used assertions, sessions, answered questions.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often we look whether a provider is to be asked if somebody signed in on another device. What comes earlier than the
/// provider's interval is not asked.
const ASK_DEVICES_EVERY: Duration = Duration::from_secs(1);
/// How often old messages to webhooks are swept out.
const SWEEP_WEBHOOKS_EVERY: Duration = Duration::from_secs(3600);
/// How often we look for connections that will end of age.
const AGE_EVERY: Duration = Duration::from_secs(10 * 60);
/// How often we look whether somebody else wrote to an SQLite file.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long stopping waits for the background work before it says so and goes on.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What a broker is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the data is.
    pub db: DbConfig,
    /// Where the root key is.
    pub root: RootSource,
    /// Whether a first root key may be made; only ever done on SQLite, and only where nothing is sealed yet.
    pub create_root: bool,
    /// The operator's own provider definitions, read on top of the built-in ones.
    pub providers: Option<PathBuf>,
    /// Whether definitions may name plain HTTP on loopback: for development and tests.
    pub trust: Trust,
    /// How the client to the outside is set up; its exceptions for private addresses are here.
    pub upstream: upstream::Settings,
    /// Where browsers and agents reach us: an origin, without a path.
    pub public_url: Url,
    /// When the answer to a use may leave.
    pub audit: audit::Mode,
    /// How refreshes are timed.
    pub refresh: refresh::Settings,
    /// What the platform that embeds the library brings of its own.
    pub extensions: Extensions,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Settings {
    /// The usual settings for some data, a root key and a public address.
    pub fn new(db: DbConfig, root: RootSource, public_url: Url) -> Self {
        Self {
            db,
            root,
            create_root: true,
            providers: None,
            trust: Trust::Normal,
            upstream: upstream::Settings::default(),
            public_url,
            audit: audit::Mode::default(),
            refresh: refresh::Settings::default(),
            extensions: Extensions::default(),
            clock: Clock::System,
        }
    }
}

/// A broker that is ready, and what its start made.
#[derive(Debug)]
pub struct Started {
    /// The broker.
    pub broker: Broker,
    /// The file of a new root key. Say plainly that it must be backed up, apart from the database.
    pub created_root: Option<PathBuf>,
    /// Whether the site `default` was made, which is so on the first start only.
    pub created_site: bool,
}

/// The whole broker; clones share it.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    settings: Option<Settings>,
    outside: Outside,
    authority: Authority,
    refresher: Refresher,
    deliverer: Deliverer,
    oauth: oauth::Server,
    last_used: LastUsed,
    tasks: TaskTracker,
    /// The task that writes the audit's queue down. It ends after all others.
    auditor: TaskTracker,
    stopping: CancellationToken,
}

impl Broker {
    /// Opens everything and starts the background work.
    ///
    /// # Errors
    /// What the parts refuse to start with: `invalid_config`, `invalid_definition`, `key_unavailable`, `conflict` (another
    /// process has the data folder). Each message says what to do.
    pub async fn start(settings: Settings) -> Result<Started> {
        check_public_url(&settings.public_url)?;
        // Read before the database is touched, so that a wrong definition leaves everything as it was.
        let catalogue = Arc::new(catalogue(&settings)?);
        let mut way_out = settings.upstream.clone();
        // A refresh has a deadline of its own. Cut shorter, it would be given up while its lease is kept, and its answer lost.
        way_out.exchange_timeout = way_out.exchange_timeout.max(settings.refresh.deadline);
        let upstream = Upstream::new(way_out)?;
        let db = Db::open(&settings.db).await?;
        let opened = seal::start(&db, &settings.root, settings.create_root, settings.clock.clone()).await?;
        let audit = Audit::new(settings.clock.clone(), opened.ring.clone(), settings.audit);
        let base = Base { db, ring: opened.ring, clock: settings.clock.clone(), audit };
        let created_site = prepare_sites(&base).await?;
        let (public_url, extensions) = (settings.public_url.clone(), settings.extensions.clone());
        let outside = Outside { base, catalogue, upstream, public_url, extensions };
        let broker = Self::assemble(outside, Some(settings));
        broker.start_background();
        Ok(Started { broker, created_root: opened.created, created_site })
    }

    /// Opens the database without any key: status and listings answer; whatever must be sealed or opened is refused with
    /// `key_unavailable`. No background work runs, and connections cannot be used.
    pub async fn without_key(db: &DbConfig) -> Result<Self> {
        let base_url = Url::parse("http://localhost").map_err(Error::internal)?;
        let (clock, ring) = (Clock::System, KeyRing::empty());
        let audit = Audit::new(clock.clone(), ring.clone(), audit::Mode::Strict);
        let base = Base { db: Db::open(db).await?, ring, clock, audit };
        let outside = Outside {
            base,
            catalogue: Arc::new(Catalogue::embedded()?),
            upstream: Upstream::new(upstream::Settings::default())?,
            public_url: base_url,
            extensions: Extensions::default(),
        };
        Ok(Self::assemble(outside, None))
    }

    fn assemble(outside: Outside, settings: Option<Settings>) -> Self {
        let authority = Authority::new(outside.base.db.clone());
        let timing = settings.as_ref().map_or_else(refresh::Settings::default, |settings| settings.refresh);
        let refresher = Refresher::new(outside.clone(), timing);
        let last_used = LastUsed::default();
        let deliverer = Deliverer::new(outside.clone(), authority.clone(), refresher.clone(), last_used.clone());
        let oauth = oauth::Server::new(outside.clone(), authority.clone(), deliverer.clone());
        Self(Arc::new(Inner {
            settings,
            outside,
            authority,
            refresher,
            deliverer,
            oauth,
            last_used,
            tasks: TaskTracker::new(),
            auditor: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The ground: database, key ring, clock, audit.
    pub fn base(&self) -> &Base {
        &self.0.outside.base
    }

    /// The ground with the way to the providers.
    pub fn outside(&self) -> &Outside {
        &self.0.outside
    }

    /// A provider's accounts, for whoever embeds the library: those of the site `default`, as the operator. Another site is
    /// named by [`Accounts::on_site`], another actor by [`Accounts::acting`].
    ///
    /// # Errors
    /// `invalid_request` for what can be no provider's name. One that is no provider's is told by the first call.
    pub fn provider(&self, name: &str) -> Result<Accounts> {
        Ok(Accounts::new(self.outside(), SiteId::default_site(), name.parse()?, Actor::Operator))
    }

    /// A ready client for an owner's account at a provider, for the platform itself: no grant is asked for. Where a resolver
    /// holds the account, it is asked for each call.
    ///
    /// # Errors
    /// `no_credentials` or `no_per_user_credentials` where there is none.
    pub async fn client(&self, accounts: &Accounts, owner: Owner) -> Result<AuthenticatedClient> {
        let (site, actor) = (accounts.site().clone(), accounts.actor().clone());
        match accounts.kept(&owner).await? {
            Some(Kept::Here(connection)) => Ok(AuthenticatedClient::for_owner(self.deliverer(), site, actor, connection.id)),
            Some(Kept::By(_)) => Ok(AuthenticatedClient::for_holder(self.deliverer(), actor, accounts.slot(owner))),
            None => Err(accounts.slot(owner).empty()),
        }
    }

    /// A ready client for the account that the provider's policy gives a context; absent where there is none.
    ///
    /// # Errors
    /// As [`Broker::client`].
    pub async fn client_for_context(&self, accounts: &Accounts, context: &Context) -> Result<Found<AuthenticatedClient>> {
        let resolution = scope::resolve(self.outside(), accounts.site(), accounts.provider(), Kind::Account, context).await?;
        let mut value = None;
        for owner in resolution.owners() {
            if accounts.kept(owner).await?.is_some() {
                value = Some((owner.clone(), self.client(accounts, owner.clone()).await?));
                break;
            }
        }
        Ok(resolution.found(value))
    }

    /// A ready client for an agent, with the connection that it names: an id, or a provider where exactly one can be used.
    /// What the agent may do is decided on for each call.
    ///
    /// # Errors
    /// `unauthenticated`, `ambiguous`, `no_credentials` and the like, as at the proxy.
    pub async fn client_for_agent(&self, caller: Caller, connection: &str) -> Result<AuthenticatedClient> {
        let connection = self.deliverer().resolve(&caller, connection, Delivery::Proxy).await?;
        Ok(AuthenticatedClient::for_agent(self.deliverer(), caller, connection))
    }

    /// The look-up of what decisions depend on.
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// What renews tokens.
    pub fn refresher(&self) -> &Refresher {
        &self.0.refresher
    }

    /// What hands out credentials and makes calls with them.
    pub fn deliverer(&self) -> &Deliverer {
        &self.0.deliverer
    }

    /// The authorization server, by which agents get tokens.
    pub fn oauth(&self) -> &oauth::Server {
        &self.0.oauth
    }

    /// Where uses of agent tokens are noted.
    pub fn last_used(&self) -> &LastUsed {
        &self.0.last_used
    }

    /// What it was started with; absent without a key.
    pub fn settings(&self) -> Option<&Settings> {
        self.0.settings.as_ref()
    }

    /// Fires when [`Broker::stop`] begins. Long work of the faces ends by it.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// What [`Broker::spawn`] runs in: stopping waits for all of it.
    pub fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Runs work that outlives the request that asked for it; stopping waits for it.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.0.tasks.spawn(work)
    }

    /// Reads the root keys again from where they were read at start, after their file changed.
    ///
    /// # Errors
    /// `key_unavailable` when a key that is still needed is not among them; the old ones stay then.
    pub async fn reload_roots(&self) -> Result<()> {
        let settings = self.settings().ok_or_else(|| Error::new(Code::KeyUnavailable, "this was started without a key"))?;
        let roots = settings.root.load()?.ok_or_else(|| {
            Error::new(Code::KeyUnavailable, format!("the root key file {} does not exist; put it back", settings.root))
        })?;
        self.base().ring.reload_roots(&self.base().db, roots).await
    }

    /// Ends the background work, writes down what is only in memory, and closes the database. Close the faces first:
    /// whatever still asks is refused.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        // An answer that a refresh waits for exists nowhere else, so this has no limit of its own.
        self.0.refresher.drain().await;
        self.0.tasks.close();
        ended(&self.0.tasks, "background work").await;
        // Nobody is left who could record something; what is in the queue is still written.
        self.base().audit.close();
        self.0.auditor.close();
        ended(&self.0.auditor, "writing down the audit").await;
        if let Err(error) = self.0.last_used.flush(&self.base().db, self.base().clock.now()).await {
            tracing::warn!(?error, "the last uses of tokens could not be written");
        }
        self.base().db.close().await;
    }

    fn start_background(&self) {
        let base = self.base().clone();
        let audit_db = base.db.clone();
        self.0.auditor.spawn(async move { base.audit.run(audit_db).await });
        self.every(LAST_USED_EVERY, "last uses of tokens", |broker| async move {
            broker.last_used().flush(&broker.base().db, broker.base().clock.now()).await.map(|_| ())
        });
        self.every(SWEEP_WEBHOOKS_EVERY, "sweeping out old messages to webhooks", |broker| async move {
            webhook::sweep(broker.base()).await
        });
        self.every(SWEEP_EVERY, "sweeping out what is over of the authorization server", |broker| async move {
            oauth::sweep(broker.base()).await.map(|_| ())
        });
        self.every(SWEEP_EVERY, "sweeping out what is over", |broker| async move {
            let base = broker.base();
            connect::sweep(base).await?;
            approval::expire(base).await?;
            approval::sweep(base).await?;
            proposal::expire(base).await?;
            proposal::sweep(base).await?;
            session::sweep(&base.db, base.clock.now()).await.map(|_| ())
        });
        self.every(SWEEP_EVERY, "erasing people", |broker| async move { person::go_on(broker.outside()).await.map(|_| ()) });
        self.every(ASK_DEVICES_EVERY, "asking for sign-ins on other devices", |broker| async move {
            connect::device::poll(broker.outside(), broker.tasks()).await.map(|_| ())
        });
        self.every(AGE_EVERY, "warning of connections that end", |broker| async move {
            broker.refresher().warn_of_age().await.map(|_| ())
        });
        let (refresher, stop) = (self.0.refresher.clone(), self.0.stopping.clone());
        self.spawn(async move { refresher.keeper(stop).await });
        let (outside, stop) = (self.0.outside.clone(), self.0.stopping.clone());
        self.spawn(revoke::worker(outside, stop));
        let (outside, stop) = (self.0.outside.clone(), self.0.stopping.clone());
        self.spawn(webhook::worker(outside, stop));
        let (outside, stop) = (self.0.outside.clone(), self.0.stopping.clone());
        self.spawn(async move {
            if let Err(error) = calls::fix_open(&outside, &stop).await {
                tracing::warn!(?error, "where older connections' secrets go could not be fixed; the next start tries again");
            }
        });
        let (deliverer, stop) = (self.0.deliverer.clone(), self.0.stopping.clone());
        self.spawn(async move { deliverer.watch_streams(stop).await });
        if self.base().db.is_sqlite() {
            let broker = self.clone();
            self.spawn(async move { watch_foreign_writes(&broker).await });
        }
    }

    /// Does something again and again until the broker stops. An error is logged, and the next turn tries again.
    fn every<F, W>(&self, period: Duration, what: &'static str, work: F)
    where
        F: Fn(Broker) -> W + Send + 'static,
        W: Future<Output = Result<()>> + Send,
    {
        let broker = self.clone();
        self.spawn(async move {
            while broker.pause(period).await {
                if let Err(error) = work(broker.clone()).await {
                    tracing::warn!(?error, what, "background work failed; it is tried again");
                }
            }
        });
    }

    /// Waits; false when the broker stops meanwhile.
    async fn pause(&self, period: Duration) -> bool {
        tokio::select! {
            () = self.0.stopping.cancelled() => false,
            () = tokio::time::sleep(period) => true,
        }
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// Waits for tasks, but not for ever: a database that is gone would hold them.
async fn ended(tasks: &TaskTracker, what: &'static str) {
    if tokio::time::timeout(STOP_PATIENCE, tasks.wait()).await.is_err() {
        tracing::error!(what, seconds = STOP_PATIENCE.as_secs(), "it did not end in time; stopping without it");
    }
}

/// Makes the first site, and the keys that every site needs. Says whether the first site was made.
async fn prepare_sites(base: &Base) -> Result<bool> {
    let sites = site::list(&base.db).await?;
    if sites.is_empty() {
        return match site::create(base, &Actor::System, &SiteId::default_site(), "Default").await {
            Ok(_) => Ok(true),
            // Another replica started at the same moment; its site is ours.
            Err(error) if error.code() == Code::Conflict => {
                site::prepare(base, &SiteId::default_site()).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        };
    }
    for site in sites {
        site::prepare(base, &site.id).await?;
    }
    Ok(false)
}

/// Looks whether another process writes to the SQLite file, and says so aloud: what it changes is outside promise 3,
/// so at least the authority cache is emptied.
async fn watch_foreign_writes(broker: &Broker) {
    let db = &broker.base().db;
    let mut known = db.data_version().await.unwrap_or_default();
    while broker.pause(WATCH_EVERY).await {
        match db.data_version().await {
            Ok(now) => {
                if known.is_some() && known != now {
                    db.bump_epoch();
                    tracing::error!(
                        "another process wrote to the database file; this server must be the only one, stop the other at once"
                    );
                }
                known = now;
            }
            Err(error) => tracing::warn!(?error, "the database could not be watched"),
        }
    }
}

/// The built-in definitions, with those that were registered and then the operator's on top.
fn catalogue(settings: &Settings) -> Result<Catalogue> {
    let wrong = |problems: Vec<Problem>| {
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Error::new(Code::InvalidDefinition, format!("a provider definition is wrong:\n{}", all.join("\n")))
            .with_extra(serde_json::json!({ "problems": problems }))
    };
    let mut catalogue = Catalogue::embedded()?;
    for (name, text) in settings.extensions.providers() {
        catalogue = catalogue.with_text(name, text, settings.trust).map_err(wrong)?;
    }
    match &settings.providers {
        Some(folder) => catalogue.with_folder(folder, settings.trust).map_err(wrong),
        None => Ok(catalogue),
    }
}

fn check_public_url(url: &Url) -> Result<()> {
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.path() == "/" {
        Ok(())
    } else {
        Err(Error::new(
            Code::InvalidConfig,
            "the public URL is an origin such as https://keys.example.com, without a path, a query or a user",
        ))
    }
}
