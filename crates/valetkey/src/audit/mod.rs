//! The audit: append-only rows in keyed chains (decisions 9).
//!
//! Two ways in. A *change* is recorded in the transaction it describes. A *use* (reveal, proxied call) goes
//! through a bounded queue that one task empties in batches, so that the hot path writes nothing:
//!
//! 1. `batched`: the answer leaves when its row is in the queue. A crash can lose the last 200 ms of uses.
//! 2. `strict`: the answer waits for the commit that holds its row.
//!
//! A queue that stays full for two seconds refuses with `audit_unavailable`: nothing is dropped, nothing hangs.
//!
//! Chains are per (site, writer). A process has a few writers, for one chain per site would be a row that
//! everybody writes; each transaction borrows one writer until it ends. A transaction that does not commit
//! retires its writer's id, because after a lost connection nobody knows whether the row is there.

//!
//! The ledger is read as a whole by [`Reader`] and held against its own links, and against heads that were kept, by
//! [`Audit::verify`]. Some of what is recorded is told to the outside, too ([`EVENT_TYPES`]).

mod ledger;
mod queue;
mod store;
mod told;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use aws_lc_rs::hmac;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::{
    clock::{Clock, Timestamp},
    db::{Db, Tx},
    error::Result,
    id::{AgentId, ConnectionId, EventId, SiteId},
    principal::{Actor, Principal},
    seal::KeyRing,
    secret::SecretBytes,
};

pub use ledger::{ChainHead, Fault, FaultKind, Heads, Reader, Report};
pub use queue::Mode;
pub use store::{Row, list, page};
pub use told::EVENT_TYPES;

/// Which of a site's derived keys its chains are keyed with.
pub const AUDIT_LABEL: &str = "audit chain";

/// How many writers a process has: the most changes that can be recorded at the same moment.
const WRITERS: usize = 8;

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It was refused.
    Denied,
    /// It was tried and failed.
    Failed,
}

impl Outcome {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
}

/// One event. Facts are codes, ids, names and counts: never a secret, never a body.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it happened.
    pub site: SiteId,
    /// Who did it.
    pub actor: String,
    /// What was done, as `noun.verb`.
    pub action: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// The agent concerned.
    pub agent: Option<AgentId>,
    /// The connection concerned.
    pub connection: Option<ConnectionId>,
    /// Further facts: a JSON object.
    pub facts: serde_json::Value,
}

impl Event {
    /// An event that was done, without further facts.
    pub fn new(site: &SiteId, actor: &Actor, action: &'static str) -> Self {
        let agent = match actor {
            Actor::Agent { agent, .. } => Some(agent.clone()),
            _ => None,
        };
        Self {
            site: site.clone(),
            actor: actor.to_string(),
            action,
            outcome: Outcome::Ok,
            agent,
            connection: None,
            facts: json!({}),
        }
    }

    /// The same of whoever is acting, at their site.
    pub fn by(principal: &Principal, action: &'static str) -> Self {
        Self::new(&principal.site, &principal.actor(), action)
    }

    /// The same event about an agent.
    #[must_use]
    pub fn agent(mut self, agent: &AgentId) -> Self {
        self.agent = Some(agent.clone());
        self
    }

    /// The same event about a connection.
    #[must_use]
    pub fn connection(mut self, connection: &ConnectionId) -> Self {
        self.connection = Some(connection.clone());
        self
    }

    /// The same event with another outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The same event with facts.
    #[must_use]
    pub fn facts(mut self, facts: serde_json::Value) -> Self {
        self.facts = facts;
        self
    }
}

/// The audit of one process; clones share it.
#[derive(Clone)]
pub struct Audit {
    clock: Clock,
    ring: KeyRing,
    writers: Arc<Vec<Arc<tokio::sync::Mutex<Writer>>>>,
    turn: Arc<std::sync::atomic::AtomicUsize>,
    queue: queue::Queue,
}

/// A chain's writer: its id and the head of its chain in each site.
struct Writer {
    id: String,
    heads: HashMap<SiteId, Head>,
}

#[derive(Clone, Default)]
struct Head {
    seq: i64,
    chain: Vec<u8>,
}

/// A writer borrowed by a transaction, with the heads it will have if the transaction commits.
struct Borrowed {
    writer: OwnedMutexGuard<Writer>,
    heads: HashMap<SiteId, Head>,
    committed: bool,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if !self.committed {
            self.writer.id = fresh_writer();
            self.writer.heads.clear();
        }
    }
}

impl Audit {
    /// The audit of a process. Its queue is emptied by [`Audit::run`].
    pub fn new(clock: Clock, ring: KeyRing, mode: Mode) -> Self {
        let writers = (0..WRITERS)
            .map(|_| Arc::new(tokio::sync::Mutex::new(Writer { id: fresh_writer(), heads: HashMap::new() })))
            .collect();
        Self { clock, ring, writers: Arc::new(writers), turn: Arc::default(), queue: queue::Queue::new(mode) }
    }

    /// Records a change in the transaction that makes it.
    pub async fn record(&self, tx: &mut Tx, event: Event) -> Result<()> {
        self.record_at(tx, &event, self.clock.now()).await
    }

    /// Records changes in the transaction that makes them all.
    pub async fn record_many(&self, tx: &mut Tx, events: &[Event]) -> Result<()> {
        let now = self.clock.now();
        self.record_all(tx, events.iter().map(|event| (event, now)), None).await
    }

    /// Records the making of a site in the transaction that makes it, with the key that its chains will have: it is not in
    /// the ring yet ([`KeyRing::found`]).
    pub async fn record_founding(&self, tx: &mut Tx, event: Event, key: &SecretBytes) -> Result<()> {
        let at = self.clock.now();
        self.record_all(tx, std::iter::once((&event, at)), Some(key)).await
    }

    /// Records a use. Returns when the mode says that the answer may leave.
    pub async fn record_use(&self, event: Event) -> Result<()> {
        self.queue.push(event, self.clock.now()).await
    }

    /// Empties the queue until it is closed and empty. One task per process runs this.
    pub async fn run(&self, db: Db) {
        self.queue.run(self, &db).await;
    }

    /// How many uses wait to be written, and how many may before uses are refused.
    pub fn waiting(&self) -> (usize, usize) {
        self.queue.waiting()
    }

    /// Closes the queue: what is in it is still written, new uses are refused.
    pub fn close(&self) {
        self.queue.close();
    }

    async fn record_at(&self, tx: &mut Tx, event: &Event, at: Timestamp) -> Result<()> {
        self.record_all(tx, std::iter::once((event, at)), None).await
    }

    /// Links events behind one another and writes them with as few statements as may be.
    async fn record_all<'e>(
        &self,
        tx: &mut Tx,
        events: impl Iterator<Item = (&'e Event, Timestamp)>,
        founding: Option<&SecretBytes>,
    ) -> Result<()> {
        let mut keys: HashMap<&SiteId, hmac::Key> = HashMap::new();
        let (mut rows, mut messages) = (Vec::new(), Vec::new());
        let shared = self.borrow(tx).await;
        for (event, at) in events {
            let key = match keys.get(&event.site) {
                Some(key) => key,
                None => {
                    let key = match founding {
                        Some(key) => hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
                        None => {
                            let key = self.ring.derived(tx.db(), &event.site, AUDIT_LABEL).await?;
                            hmac::Key::new(hmac::HMAC_SHA256, key.expose())
                        }
                    };
                    keys.entry(&event.site).or_insert(key)
                }
            };
            let mut borrowed = lock(&shared);
            let Borrowed { writer, heads, .. } = &mut *borrowed;
            let head = match heads.get_mut(&event.site) {
                Some(head) => head,
                None => {
                    let before = writer.heads.get(&event.site).cloned().unwrap_or_default();
                    heads.entry(event.site.clone()).or_insert(before)
                }
            };
            let mut row = Row {
                site: event.site.as_str().to_owned(),
                writer: writer.id.clone(),
                seq: head.seq + 1,
                id: EventId::new().to_string(),
                at: at.0,
                actor: event.actor.clone(),
                action: event.action.to_owned(),
                outcome: event.outcome.as_str().to_owned(),
                agent: event.agent.as_ref().map(|agent| agent.as_str().to_owned()),
                connection: event.connection.as_ref().map(|connection| connection.as_str().to_owned()),
                facts: event.facts.to_string(),
                chain: Vec::new(),
            };
            row.chain = row.link(key, &head.chain);
            head.seq = row.seq;
            head.chain.clone_from(&row.chain);
            messages.extend(told::messages(event, &row.id, at));
            rows.push(row);
        }
        store::insert(tx, rows).await?;
        told::queue(tx, messages).await
    }

    /// The writer this transaction has, or a free one for it.
    async fn borrow(&self, tx: &mut Tx) -> Arc<Mutex<Borrowed>> {
        if let Some(shared) = tx.slot().and_then(|slot| slot.downcast_ref::<Arc<Mutex<Borrowed>>>()) {
            return Arc::clone(shared);
        }
        let writer = self.free_writer().await;
        let shared = Arc::new(Mutex::new(Borrowed { writer, heads: HashMap::new(), committed: false }));
        tx.set_slot(Box::new(Arc::clone(&shared)));
        let committed = Arc::clone(&shared);
        tx.after_commit(move || {
            let mut borrowed = lock(&committed);
            borrowed.committed = true;
            let heads = std::mem::take(&mut borrowed.heads);
            borrowed.writer.heads.extend(heads);
        });
        shared
    }

    async fn free_writer(&self) -> OwnedMutexGuard<Writer> {
        for writer in self.writers.iter() {
            if let Ok(guard) = Arc::clone(writer).try_lock_owned() {
                return guard;
            }
        }
        // All are busy: wait for one, in turn.
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.writers.len();
        Arc::clone(&self.writers[turn]).lock_owned().await
    }
}

fn fresh_writer() -> String {
    format!("w_{}", uuid::Uuid::now_v7().simple())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
