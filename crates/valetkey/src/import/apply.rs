//! One import: items in, one transaction, a report.
//!
//! 1. [`Import::begin`] makes the data keys that will be needed, for inside the transaction that cannot be done, looks up
//!    what is known, and opens the transaction.
//! 2. [`Import::item`] for each item. What is known with the same content is passed over. Accounts are sealed and inserted
//!    in batches; a slot that is taken is a conflict, decided as the header says. While the database inserts one batch, the next is
//!    sealed, and items are taken for the one after it; whoever reads the items may do that meanwhile, too ([`Preparer`]).
//! 3. [`Import::end`] makes the grants, remembers what came from where, records the import and commits. A dry run does all
//!    of it and then drops the transaction. So does everything that goes wrong on the way, and a process that dies.

mod settle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use aws_lc_rs::hmac;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use super::{
    item::{Header, Item, OnConflict, Plain, Rest, account_id},
    store::{self, Row},
};
use crate::{
    agent::{self, Agent},
    app_config,
    audit::Event,
    base::Outside,
    connection::import::{self as arrivals, Arrival, BATCH, Coming},
    db::Tx,
    error::{Code, Error, Result},
    grant,
    id::{AccountName, AgentId, AppConfigId, ConnectionId, ProviderName, SiteId, TokenId, UserId},
    platform,
    principal::{Actor, Owner, Slot},
    provider::{FieldLevel, Role as FieldRole, pattern::PathPattern},
    secret::{SecretBytes, SecretMap},
    token::{self, TokenHash},
};

/// Where Data Machine's things come from, in `imports`.
pub const DATA_MACHINE: &str = "data_machine";
/// The name of the account that is made of credentials which the source keeps in a configuration.
pub const FROM_CONFIG: &str = "config";
/// Which of a site's derived keys the digests are made with.
const DIGEST_LABEL: &str = "import digest";
/// Why a connection is over whose place another took.
const TOOK_PLACE: &str = "an import took its place";
/// What a grant says that was a permission at the source.
const LENT: &str = "lent at Data Machine";
/// Why such a grant is over where the permission came again as another.
const LENT_ANEW: &str = "lent otherwise at Data Machine since";
/// The most rows that one list of a report holds; beyond, they are counted.
const MOST_LISTED: usize = 1_000;

/// How many of a kind became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// They were not here.
    pub created: u64,
    /// They came before and did not change.
    pub unchanged: u64,
    /// They took the place of something.
    pub replaced: u64,
    /// They were left out, because something else is here.
    pub skipped: u64,
}

/// What an import did, or in a dry run would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// By kind.
    pub counts: BTreeMap<&'static str, Counts>,
    /// What is here already and is another.
    pub conflicts: List<Conflict>,
    /// What could not be brought over, and why.
    pub left_out: List<LeftOut>,
    /// What agents could use before and now must be granted.
    pub to_grant: List<ToGrant>,
    /// Agents that the accounts name and nobody brought.
    pub agents_missing: BTreeSet<AgentId>,
    /// How many new accounts wait for somebody to confirm whose they are before agents may use them.
    pub unverified: u64,
    /// How many new accounts have a provider without a definition: they can be read, and not used.
    pub without_definition: BTreeMap<ProviderName, u64>,
}

/// A list with an end.
#[derive(Clone, Debug, Serialize)]
pub struct List<T> {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub rows: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { count: 0, rows: Vec::new() }
    }
}

impl<T> List<T> {
    fn push(&mut self, row: T) {
        self.count += 1;
        if self.rows.len() < MOST_LISTED {
            self.rows.push(row);
        }
    }
}

/// Something that is here already and is another.
#[derive(Clone, Debug, Serialize)]
pub struct Conflict {
    /// What it is, as `account/reddit/site/`.
    pub item: String,
    /// What is in its way.
    pub why: &'static str,
}

/// Something that could not be brought over.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// What it is.
    pub item: String,
    /// Why.
    pub why: String,
}

/// A connection, and the agents that reached it before without anybody's word.
#[derive(Clone, Debug, Serialize)]
pub struct ToGrant {
    /// The connection; its id is not final in a dry run.
    pub connection: ConnectionId,
    /// The provider.
    pub provider: ProviderName,
    /// Whose it is.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// The agents without a grant.
    pub agents: Vec<AgentId>,
}

/// What an import in the database before says of an item.
struct Known {
    digest: String,
    target: Option<String>,
}

/// How many accounts are sealed together, on another thread than the one that speaks to the database.
const SEALED_TOGETHER: usize = 4 * BATCH;

/// An account that waits until it is described and sealed.
struct Waiting {
    coming: Coming,
    row: Row,
    kind: &'static str,
}

/// One that was, and waits for the database.
type Ready = (Arrival, Row, &'static str);

/// Makes items ready to be taken ([`Import::take`]), wherever they are read: that takes a while, and needs no database.
#[derive(Clone)]
pub struct Preparer(hmac::Key);

/// An item that is ready to be taken.
pub struct Prepared {
    item: Item,
    row: Row,
}

impl Preparer {
    /// Makes one ready.
    ///
    /// # Errors
    /// `internal` where what is left over of it cannot be written down.
    pub fn prepare(&self, at: u64, item: Item) -> Result<Prepared> {
        let row = Row {
            item: item.id(),
            digest: item.digest(&self.0),
            target: None,
            rest: settle::text_of(&item.rest())?,
            position: i64::try_from(at).unwrap_or(i64::MAX),
        };
        Ok(Prepared { item, row })
    }
}

/// What became of a batch in the database.
struct Inserted {
    arrivals: Vec<Arrival>,
    /// What each was in the source.
    rows: Vec<(Row, &'static str)>,
    /// Those whose slots are taken.
    taken: HashSet<ConnectionId>,
}

/// A permission that waits for its account and its agent.
struct Lent {
    row: Row,
    account: String,
    owner: Owner,
    agent: AgentId,
    operations: Vec<PathPattern>,
    /// Whether it came before, as another.
    changed: bool,
}

/// Who holds the account of an item elsewhere, with the account's name in `imports`, if a registered resolver does. It is asked
/// before the import begins, for no transaction waits for it; [`Import::keep_out`] takes what it says.
///
/// # Errors
/// What a resolver says that cannot tell.
pub async fn held_elsewhere(outside: &Outside, site: &SiteId, item: &Item) -> Result<Option<(String, &'static str)>> {
    let (provider, owner, name) = match item {
        Item::Account { provider, owner, name, .. } => (provider, owner, name.as_str()),
        // An account is made of the credentials in it, if there are any.
        Item::Config { provider, owner, .. } => (provider, owner, FROM_CONFIG),
        _ => return Ok(None),
    };
    let slot = Slot { site: site.clone(), provider: provider.clone(), owner: owner.clone(), name: name.parse()? };
    Ok(outside.extensions.held(&slot).await?.map(|held| (account_id(provider, owner, name), held.resolver.name())))
}

/// An import under way. Dropped before its end, it never happened; what is on its way to the database then is taken back, too.
pub struct Import {
    outside: Outside,
    site: SiteId,
    actor: Actor,
    header: Header,
    providers: HashSet<ProviderName>,
    /// Those of which something came for the first time.
    fresh: BTreeSet<ProviderName>,
    key: hmac::Key,
    known: HashMap<String, Known>,
    /// Accounts that are held elsewhere, by their names in `imports`, and who holds them.
    held: HashMap<String, &'static str>,
    apps: HashMap<(ProviderName, Owner), (AppConfigId, Option<String>)>,
    agents: BTreeMap<AgentId, Option<UserId>>,
    /// Whose agents they are, or were.
    agent_owners: HashSet<UserId>,
    granted: HashSet<(AgentId, ConnectionId)>,
    /// The transaction, which may be at work on the last batch while items are taken.
    tx: Arc<Mutex<Tx>>,
    waiting: Vec<Waiting>,
    /// Those that are being sealed.
    sealing: Option<JoinHandle<Result<Vec<Ready>>>>,
    /// Those that are being inserted.
    inserting: Option<AbortOnDropHandle<Result<Inserted>>>,
    rows: Vec<Row>,
    from_config: Vec<(ProviderName, Owner, Plain, i64)>,
    named_config: HashSet<(ProviderName, Owner)>,
    lent: Vec<Lent>,
    /// Accounts of agents, by their names in `imports`, and where they stood.
    owned: Vec<(String, AgentId, ConnectionId, i64)>,
    /// Accounts that agents may have reached before without a grant.
    reached: Vec<(Owner, ProviderName, AccountName, ConnectionId)>,
    /// What mailboxes became, by their names in `imports`: they may be lent.
    mailboxes: HashMap<String, ConnectionId>,
    items: u64,
    /// What ended because something else took its place.
    ended: Vec<(Slot, ConnectionId)>,
    report: Report,
}

impl Import {
    /// Makes ready, and opens the transaction.
    pub async fn begin(outside: &Outside, site: &SiteId, actor: &Actor, header: Header) -> Result<Self> {
        let base = &outside.base;
        if !header.dry_run {
            for provider in &header.providers {
                base.ring.ensure(&base.db, site.as_str(), provider.as_str()).await?;
            }
        }
        let key = base.ring.derived(&base.db, site, DIGEST_LABEL).await?;
        let known = store::all(&base.db, site, DATA_MACHINE).await?;
        let known = known.into_iter().map(|row| (row.item, Known { digest: row.digest, target: row.target })).collect();
        let apps = app_config::list(&base.db, site).await?;
        let apps = apps.into_iter().map(|app| ((app.provider, app.owner), (app.id, app.client_id))).collect();
        let agents: BTreeMap<_, _> =
            agent::list(&base.db, site).await?.into_iter().map(|agent| (agent.id, agent.owner)).collect();
        let agent_owners = agents.values().flatten().cloned().collect();
        let grants = grant::list(&base.db, site, None, None).await?;
        let granted = grants.into_iter().filter(|grant| grant.revoked_at.is_none()).map(|g| (g.agent, g.connection)).collect();
        Ok(Self {
            outside: outside.clone(),
            site: site.clone(),
            actor: actor.clone(),
            providers: header.providers.iter().cloned().collect(),
            fresh: BTreeSet::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
            known,
            held: HashMap::new(),
            apps,
            agents,
            agent_owners,
            granted,
            tx: Arc::new(Mutex::new(base.db.begin().await?)),
            waiting: Vec::new(),
            sealing: None,
            inserting: None,
            rows: Vec::with_capacity(store::BATCH),
            from_config: Vec::new(),
            named_config: HashSet::new(),
            lent: Vec::new(),
            owned: Vec::new(),
            reached: Vec::new(),
            mailboxes: HashMap::new(),
            items: 0,
            ended: Vec::new(),
            report: Report { dry_run: header.dry_run, ..Report::default() },
            header,
        })
    }

    /// Leaves accounts out that are held elsewhere ([`held_elsewhere`]): one is never in two places.
    pub fn keep_out(&mut self, held: HashMap<String, &'static str>) {
        self.held = held;
    }

    /// How many items came so far.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// What makes items ready for this import.
    pub fn preparer(&self) -> Preparer {
        Preparer(self.key.clone())
    }

    /// Takes one item.
    ///
    /// # Errors
    /// `invalid_request` for an item that is none, perhaps with a later item or at the end; what the database says. The import is
    /// over then: drop it.
    pub async fn item(&mut self, at: u64, item: Item) -> Result<()> {
        let prepared = self.preparer().prepare(at, item)?;
        self.take(prepared).await
    }

    /// Takes one that is ready.
    ///
    /// # Errors
    /// As [`Import::item`].
    pub async fn take(&mut self, Prepared { item, row }: Prepared) -> Result<()> {
        self.items += 1;
        let kind = item.kind();
        let before = self.known.get(&row.item);
        if let Some(before) = before
            && before.digest == row.digest
        {
            let target = before.target.clone();
            self.count(kind).unchanged += 1;
            return self.seen(item, row, target);
        }
        let changed = before.is_some();
        match item {
            Item::GonePerson { user } => {
                let (base, site) = (&self.outside.base, &self.site);
                let done = platform::import_gone(base, &mut *self.tx.lock().await, site, &self.actor, &user).await?;
                self.done(kind, done, false, row, "a person who is known here")
            }
            Item::Agent { agent, slug, title, owner, created_at, .. } => {
                let base = &self.outside.base;
                let created_at = created_at.unwrap_or_else(|| base.clock.now());
                let made = Agent { id: agent.clone(), slug, title, owner: owner.clone(), created_at, disabled_at: None };
                let over = self.header.on_conflict == OnConflict::Replace;
                let (mut done, mut took) =
                    (agent::import(base, &mut *self.tx.lock().await, &self.site, &self.actor, &made, false).await?, false);
                if !done && over {
                    took = agent::import(base, &mut *self.tx.lock().await, &self.site, &self.actor, &made, true).await?;
                    done = took;
                }
                if done {
                    self.agent_owners.extend(owner.clone());
                    self.agents.insert(agent.clone(), owner);
                }
                let row = Row { target: Some(agent.to_string()), ..row };
                self.done(kind, done, took, row, "an agent with this id")
            }
            Item::Role { agent, user, role } => {
                if !self.agents.contains_key(&agent) {
                    return self.leave_out(kind, &row, format!("there is no agent {agent}"));
                }
                let over = self.header.on_conflict == OnConflict::Replace;
                let what = (&agent, &user, role);
                let done =
                    agent::import_role(&self.outside.base, &mut *self.tx.lock().await, &self.site, &self.actor, what, over)
                        .await?;
                self.done(kind, done, false, row, "another role of this person on this agent")
            }
            Item::Token { hash, agent, label, prefix, person, ceiling, created_at, expires_at, last_used_at } => {
                let Some(hash) = TokenHash::stored(&hash) else {
                    return self.leave_out(kind, &row, "its hash is none".to_owned());
                };
                if !self.agents.contains_key(&agent) {
                    return self.leave_out(kind, &row, format!("there is no agent {agent}"));
                }
                let base = &self.outside.base;
                let created_at = created_at.unwrap_or_else(|| base.clock.now());
                let id = TokenId::new();
                let token =
                    token::Arriving { id, hash, agent, prefix, label, person, ceiling, created_at, expires_at, last_used_at };
                let over = self.header.on_conflict == OnConflict::Replace;
                let (mut done, mut took) =
                    (token::import(base, &mut *self.tx.lock().await, &self.site, &self.actor, &token, false).await?, false);
                if !done && over {
                    took = token::import(base, &mut *self.tx.lock().await, &self.site, &self.actor, &token, true).await?;
                    done = took;
                }
                let row = Row { target: Some(token.id.to_string()), ..row };
                self.done(kind, done, took, row, "a token with this hash")
            }
            Item::Config { provider, owner, values, .. } => self.config(row, provider, owner, values).await,
            Item::Account { .. } if self.held.contains_key(&row.item) => {
                let by = self.held.get(&row.item).copied().unwrap_or_default();
                self.leave_out(kind, &row, format!("it is held by `{by}`; change it there"))
            }
            Item::Account { provider, owner, name, account, incomplete, .. } => {
                if name == FROM_CONFIG {
                    self.named_config.insert((provider.clone(), owner.clone()));
                }
                self.account(kind, row, changed, (provider, owner, name), account, incomplete).await
            }
            Item::Grant { provider, owner, name, agent, operations, .. } => {
                let operations = operations.iter().map(|text| PathPattern::parse(text)).collect::<Result<Vec<_>>>()?;
                if changed && self.header.on_conflict != OnConflict::Replace {
                    return self.done(kind, false, false, row, "a permission that changed at its source since it came");
                }
                self.lent.push(Lent { row, account: account_id(&provider, &owner, &name), owner, agent, operations, changed });
                Ok(())
            }
            Item::Nothing { .. } => self.done(kind, true, false, row, ""),
        }
    }

    /// Ends the import: it is committed, or in a dry run dropped.
    ///
    /// # Errors
    /// `invalid_request` where the source was cut off; `conflict` with what is in the way where the header says so.
    pub async fn end(mut self, items: u64, unreadable: u64) -> Result<Report> {
        if items != self.items {
            return Err(Error::new(Code::InvalidRequest, "the import was cut off; nothing was brought over"));
        }
        self.accounts_from_config().await?;
        self.insert_all().await?;
        self.grant_to_owners().await?;
        self.lend().await?;
        self.list_ungranted();
        self.let_fall_back().await?;
        self.put_rows(0).await?;
        if self.header.on_conflict == OnConflict::Fail && self.report.conflicts.count > 0 && !self.header.dry_run {
            let message = format!(
                "{} things are here already and are others; nothing was brought over. Say --on-conflict skip to leave those out, or \
                 replace to have them replaced",
                self.report.conflicts.count
            );
            let choices: Vec<&String> = self.report.conflicts.rows.iter().take(100).map(|conflict| &conflict.item).collect();
            return Err(Error::new(Code::Conflict, message).with_extra(json!({ "choices": choices })));
        }
        let facts = json!({
            "source": DATA_MACHINE, "counts": self.report.counts, "conflicts": self.report.conflicts.count,
            "left_out": self.report.left_out.count, "unreadable": unreadable, "trust_identities": self.header.trust_identities,
            "on_conflict": self.header.on_conflict,
        });
        let event = Event::new(&self.site, &self.actor, "import.data_machine").facts(facts);
        self.outside.base.audit.record(&mut *self.tx.lock().await, event).await?;
        if !self.header.dry_run {
            let tx = Arc::into_inner(self.tx).ok_or_else(|| Error::internal("an import ended while it was at work"))?;
            tx.into_inner().commit().await?;
            for (slot, id) in &self.ended {
                self.outside.extensions.tell(|sink| sink.revoked(slot, id));
            }
        }
        Ok(self.report)
    }

    /// Something that came before: what later items need to know of it.
    fn seen(&mut self, item: Item, row: Row, target: Option<String>) -> Result<()> {
        match item {
            Item::Account { provider, owner, name, .. } => {
                if name == FROM_CONFIG {
                    self.named_config.insert((provider.clone(), owner.clone()));
                }
                if let Some(id) = target.and_then(|target| target.parse::<ConnectionId>().ok()) {
                    self.note(&row.item, row.position, &owner, &provider, &name.parse()?, &id);
                }
                Ok(())
            }
            Item::Config { provider, owner, values, .. } => {
                self.keep_for_account(&provider, &owner, values, row.position);
                Ok(())
            }
            Item::Grant { .. }
            | Item::GonePerson { .. }
            | Item::Agent { .. }
            | Item::Role { .. }
            | Item::Token { .. }
            | Item::Nothing { .. } => Ok(()),
        }
    }

    async fn config(&mut self, row: Row, provider: ProviderName, owner: Owner, values: Plain) -> Result<()> {
        self.check_provider(&provider)?;
        let definition = self.definition(&provider);
        let coming = app_config::Coming {
            site: &self.site,
            provider: &provider,
            definition: definition.as_deref(),
            owner: &owner,
            values: values.0.expose(),
        };
        let seal = !self.header.dry_run;
        let base = &self.outside.base;
        let mut made = app_config::import(base, &mut *self.tx.lock().await, &self.actor, &coming, (false, seal)).await?;
        let took = made.is_none() && self.header.on_conflict == OnConflict::Replace;
        if took {
            made = app_config::import(base, &mut *self.tx.lock().await, &self.actor, &coming, (true, seal)).await?;
        }
        let done = made.is_some();
        let row = Row { target: made.as_ref().map(|(id, _)| id.to_string()), ..row };
        if let Some(app) = made {
            self.apps.insert((provider.clone(), owner.clone()), app);
            self.keep_for_account(&provider, &owner, values, row.position);
        }
        self.done("config", done, took, row, "another configuration")
    }

    /// Keeps a configuration in mind that holds an account's own credentials (decisions 10).
    fn keep_for_account(&mut self, provider: &ProviderName, owner: &Owner, values: Plain, at: i64) {
        let Some(definition) = self.definition(provider) else { return };
        let Ok(map) = serde_json::from_str::<Map<String, Value>>(values.0.expose()).map(SecretMap::new) else { return };
        let credential =
            |field: &crate::provider::Field| field.secret || matches!(field.role, Some(FieldRole::Token | FieldRole::Password));
        if definition.fields_of(FieldLevel::Connection).any(|field| credential(field) && map.text(&field.name).is_some()) {
            self.from_config.push((provider.clone(), owner.clone(), values, at));
        }
    }

    /// The accounts whose credentials the source keeps in a configuration: they can be granted, and the configuration stays.
    async fn accounts_from_config(&mut self) -> Result<()> {
        for (provider, owner, values, at) in std::mem::take(&mut self.from_config) {
            if self.named_config.contains(&(provider.clone(), owner.clone())) {
                let item = account_id(&provider, &owner, FROM_CONFIG);
                self.report.left_out.push(LeftOut { item, why: "an account of the source has this name".to_owned() });
                continue;
            }
            let rest = Rest { out_of: Some(FROM_CONFIG.to_owned()), ..Rest::default() };
            let item = Item::Account { provider, owner, name: FROM_CONFIG.to_owned(), account: values, incomplete: false, rest };
            let (id, digest) = (item.id(), item.digest(&self.key));
            let before = self.known.get(&id);
            let changed = before.is_some();
            if before.is_some_and(|before| before.digest == digest) {
                let target = before.and_then(|before| before.target.clone());
                self.count("account_from_config").unchanged += 1;
                let row = Row { item: id, digest, target: None, rest: None, position: at };
                self.seen(item, row, target)?;
                continue;
            }
            let row = Row { item: id, digest, target: None, rest: settle::text_of(&item.rest())?, position: at };
            if let Some(by) = self.held.get(&row.item).copied() {
                self.leave_out("account_from_config", &row, format!("it is held by `{by}`; change it there"))?;
                continue;
            }
            if let Item::Account { provider, owner, name, account, incomplete, .. } = item {
                self.account("account_from_config", row, changed, (provider, owner, name), account, incomplete).await?;
            }
        }
        Ok(())
    }

    async fn account(
        &mut self,
        kind: &'static str,
        row: Row,
        changed: bool,
        (provider, owner, name): (ProviderName, Owner, String),
        account: Plain,
        incomplete: bool,
    ) -> Result<()> {
        self.check_provider(&provider)?;
        let stored = name.parse::<AccountName>()?;
        let definition = self.definition(&provider);
        if definition.is_none() {
            *self.report.without_definition.entry(provider.clone()).or_default() += 1;
        }
        if changed && self.header.on_conflict != OnConflict::Replace {
            return self.done(kind, false, false, row, "an account that came before and changed at its source since");
        }
        let before = self.known.get(&row.item).and_then(|known| known.target.as_ref()).and_then(|id| id.parse().ok());
        if let Some(before) = before {
            let place = (before, &provider, &definition, &owner, &stored);
            let arrival = arrivals::arrive(&self.outside, self.coming(place, account.clone(), incomplete))?;
            let base = &self.outside.base;
            if arrivals::put_over(base, &mut *self.tx.lock().await, &self.site, &arrival).await? {
                let row = Row { target: Some(arrival.id.to_string()), ..row };
                self.note_arrival(&arrival, &row);
                return self.done(kind, true, true, row, "");
            }
            // It is over, or by its own words somebody else's: what comes gets an id of its own, without the grants.
            if let Some(ended) = self.end_replaced(&arrival.id).await? {
                let by = SecretMap::from_json(&SecretBytes::new(account.0.expose().as_bytes().to_vec()));
                let by = by.map_err(|_| Error::internal("an account that was sealed is no object"))?;
                settle::owe(&self.outside, &mut *self.tx.lock().await, &self.actor, &ended, &by).await?;
            }
        }
        let coming = self.coming((ConnectionId::new(), &provider, &definition, &owner, &stored), account, incomplete);
        let row = Row { target: Some(coming.id.to_string()), ..row };
        self.waiting.push(Waiting { coming, row, kind });
        if self.waiting.len() >= SEALED_TOGETHER { self.seal_waiting().await } else { Ok(()) }
    }
}
