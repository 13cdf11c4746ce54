//! A platform that embeds the broker as a library and brings something of its own.
//!
//! 1. [`Table`] holds the accounts of some people, in a table that the platform had before. The broker asks it first.
//! 2. [`PeopleFirst`] says whose account applies at the provider: the person's who is calling.
//! 3. [`Copies`] is handed what people connect, and is told what happens to it.
//!
//! [`run`] shows them at work beside a stand-in provider. Nothing leaves this machine.

use std::{
    collections::HashMap,
    error::Error,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use provider_lab::{CLIENT_ID, CLIENT_SECRET, Lab};
use serde_json::{Value, json};
use valetkey::{
    Broker, Code, Settings, app_config,
    connect::{self, Answer as Callback, Outcome, session, session::NewSession},
    context::{Context, Kind, Origin, Policy, RequestContext},
    db::DbConfig,
    extend::{AccountResolver, AccountSink, Answer, Entry, EventSink, Extensions, PolicyQuestion, ScopePolicy},
    id::{ConnectionId, SiteId, UserId},
    principal::{Actor, Owner, Slot},
    provider::Trust,
    seal::RootSource,
    secret::SecretMap,
    upstream::Limits,
};

/// The platform's own table of accounts, by person. What it holds is never stored by the broker.
#[derive(Default)]
pub struct Table(Mutex<HashMap<UserId, SecretMap>>);

impl Table {
    /// Puts an account into the table.
    pub fn insert(&self, user: UserId, account: SecretMap) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(user, account);
    }

    fn get(&self, slot: &Slot) -> Option<SecretMap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(slot.owner.user()?).cloned()
    }
}

impl AccountResolver for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn account<'a>(&'a self, slot: &'a Slot) -> Answer<'a, Option<SecretMap>> {
        Box::pin(async move { Ok(self.get(slot)) })
    }

    fn save<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()> {
        Box::pin(async move {
            if let Some(user) = slot.owner.user() {
                self.insert(user.clone(), account.clone());
            }
            Ok(())
        })
    }
    // Deleting is not written here, so it is refused: people leave the table where they came into it.
}

/// At the lab whoever is calling uses their own account.
pub struct PeopleFirst;

impl ScopePolicy for PeopleFirst {
    fn policy(&self, question: &PolicyQuestion<'_>) -> Option<Policy> {
        (question.provider.as_str() == "lab" && question.kind == Kind::Account).then_some(Policy::User)
    }
}

/// Counts what is connected and remembers what happened. A real one would write to a queue.
#[derive(Default)]
pub struct Copies(Mutex<Vec<String>>);

impl Copies {
    fn note(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// What was noted since this was asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AccountSink for Copies {
    fn store<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()> {
        Box::pin(async move {
            // Names only: what is in an account belongs into no log.
            let members = account.expose().len();
            self.note(format!("connected: {} at {}, {members} members", slot.owner, slot.provider));
            Ok(())
        })
    }
}

impl EventSink for Copies {
    fn log(&self, entry: &Entry<'_>) {
        self.note(format!("{}: {} from {}", entry.label, entry.slot.owner, entry.source.unwrap_or("-")));
    }

    fn connection_broken(&self, slot: &Slot, _: &ConnectionId, reason: &str) {
        self.note(format!("must be connected again: {} ({reason})", slot.owner));
    }

    fn revoked(&self, slot: &Slot, _: &ConnectionId) {
        self.note(format!("revoked: {}", slot.owner));
    }
}

/// Shows all of it; what it says goes to `out`.
pub async fn run(data: &Path, out: &mut (dyn Write + Send)) -> Result<(), Box<dyn Error>> {
    let lab = Lab::start("127.0.0.1:0".parse()?).await?;
    let (table, copies) = (Arc::new(Table::default()), Arc::new(Copies::default()));

    // A broker is a value. The lab's definition is registered like any provider's.
    let db = DbConfig::Sqlite { dir: data.join("data"), patience: Duration::from_secs(5) };
    let root = RootSource::File(data.join("root.key"));
    let mut settings = Settings::new(db, root, "http://127.0.0.1:7777".parse()?);
    settings.trust = Trust::Dev;
    settings.upstream.allow_private = vec![lab.addr().to_string().parse()?];
    settings.extensions = Extensions::default()
        .provider("lab".parse()?, lab.definition_toml())
        .resolve_users(table.clone())
        .policy(Arc::new(PeopleFirst))
        .sink(copies.clone())
        .events(copies.clone());
    let broker = Broker::start(settings).await?.broker;
    let accounts = broker.provider("lab")?;

    // Ada's account is in the table; Bob connects his to the broker.
    let (ada, bob): (UserId, UserId) = ("ada".parse()?, "bob".parse()?);
    table.insert(ada.clone(), SecretMap::new(object(json!({ "access_token": "from the table" }))));
    connect(&broker, &lab, &bob).await?;

    // Named scopes: what is named is what is read, and nothing stands in for what is missing.
    let held = accounts.account_for_user(&ada).await?.is_some();
    writeln!(out, "ada has an account: {held}; the site has one: {}", accounts.site_account().await?.is_some())?;

    // The policy's look-up: whoever is calling uses their own, and nobody is nobody.
    for caller in [Some(&ada), Some(&bob), None] {
        let request = RequestContext::new(Origin::Chat { caller: caller.cloned() });
        let found = accounts.account_for_context(&request.context()).await?;
        let from = found.resolved_from.map_or_else(|| "nobody".to_owned(), |owner| owner.to_string());
        writeln!(out, "a call of {} uses the account of {from}", caller.map_or("nobody", UserId::as_str))?;
    }

    // A ready client: the call is made as Bob, and nobody here sees his token.
    let found = broker.client_for_context(&accounts, &Context::of_user(bob.clone())).await?;
    let client = found.value.ok_or("bob has no account")?;
    let answer = client.send(Request::get("/me").body(Empty::<Bytes>::new())?).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    writeln!(out, "the provider says that this is {}", serde_json::from_slice::<Value>(&body)?["username"])?;

    // A change of what the table holds goes to the table, or is refused; it is never in two places.
    accounts.update_account_for_user(&ada, &SecretMap::new(object(json!({ "note": "kept in the table" })))).await?;
    let refused = accounts.delete_account_for_user(&ada).await.err().map(|error| error.code());
    writeln!(out, "deleting ada's account: {}", refused.map_or("done", Code::as_str))?;

    accounts.delete_account_for_user(&bob).await?;
    for line in copies.take() {
        writeln!(out, "noted: {line}")?;
    }
    broker.stop().await;
    lab.stop().await;
    Ok(())
}

/// Bob opens a link, signs in at the provider and comes back. On a real site his browser and the pages do this.
async fn connect(broker: &Broker, lab: &Lab, bob: &UserId) -> Result<(), Box<dyn Error>> {
    let (outside, site) = (broker.outside(), SiteId::default_site());
    let definition = outside.definition(&"lab".parse()?)?;
    let app = object(json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET }));
    app_config::set(broker.base(), &site, &Actor::Operator, &definition, &Owner::Site, &app).await?;
    // The operator lets links work without proof of who opens them: there is no page here to prove it on.
    let change = valetkey::site::SiteChange { unproven_links: Some(true), ..Default::default() };
    valetkey::site::change(broker.base(), &Actor::Operator, &site, change).await?;

    let new = NewSession::new(definition.name.clone(), Owner::User(bob.clone()));
    let link = session::create(outside, &site, &Actor::Operator, new).await?;
    let visit = session::visit(outside, &link.link, None).await?.fresh.ok_or("the link was opened before")?.value;
    let csrf = session::visit(outside, &link.link, Some(&visit)).await?.csrf.ok_or("no form")?;
    let started = session::approve(outside, &link.link, Some(&visit), &csrf).await?;

    lab.auto_approve(Some("bob"));
    let door = Request::get(started.authorize_url.expose()).body(Bytes::new())?;
    let sent = outside.upstream.exchange(door, Limits::within(Duration::from_secs(10))).await.map_err(|failure| failure.error)?;
    let back = sent.headers.get(header::LOCATION).ok_or("not sent back")?.to_str()?;
    let query = back.split_once('?').ok_or("sent back without an answer")?.1;
    let ended =
        connect::callback(outside, broker.tasks(), &definition.name, Callback::parse(query)?, Some(started.binding.value)).await;
    match ended.outcome {
        Outcome::Connected { .. } => Ok(()),
        Outcome::Failed { code, .. } => Err(format!("not connected: {code}").into()),
    }
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => serde_json::Map::new(),
    }
}
