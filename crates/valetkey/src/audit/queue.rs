//! The bounded queue of uses, and the task that writes it down in batches.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{AUDIT_LABEL, Audit, Event, lock};
use crate::{
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::SiteId,
};

/// How many uses may wait to be written.
const CAPACITY: usize = 16_384;
/// The most uses in one commit.
const BATCH: usize = 2_048;
/// How long a full queue is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long uses gather before a commit, in `batched` mode: what a crash can lose.
const GATHER: Duration = Duration::from_millis(200);

/// When the answer to a use may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// When its row is in the queue. A crash can lose the last 200 ms of uses.
    #[default]
    Batched,
    /// When its row is committed.
    Strict,
}

struct Item {
    event: Event,
    at: Timestamp,
    done: Option<oneshot::Sender<bool>>,
}

#[derive(Clone)]
pub(super) struct Queue {
    mode: Mode,
    send: mpsc::Sender<Item>,
    receive: Arc<tokio::sync::Mutex<mpsc::Receiver<Item>>>,
    shared: Arc<Shared>,
}

/// What a use has to look at before it goes into the queue: on the hot path two flags and no lock.
#[derive(Default)]
struct Shared {
    /// No use is taken any more.
    closed: AtomicBool,
    /// Tells whoever empties the queue not to wait for more: a whole batch is there, or the queue was closed.
    wake: Notify,
    /// The sites for which nothing can be chained now, because their key cannot be had: their uses are refused.
    keyless: Mutex<HashSet<SiteId>>,
    /// Whether there are any.
    any_keyless: AtomicBool,
}

impl Shared {
    fn is_keyless(&self, site: &SiteId) -> bool {
        self.any_keyless.load(Ordering::Acquire) && lock(&self.keyless).contains(site)
    }

    fn set_keyless(&self, site: &SiteId, is_keyless: bool) {
        if !is_keyless && !self.any_keyless.load(Ordering::Acquire) {
            return;
        }
        let mut sites = lock(&self.keyless);
        if is_keyless {
            sites.insert(site.clone());
        } else {
            sites.remove(site);
        }
        self.any_keyless.store(!sites.is_empty(), Ordering::Release);
    }
}

impl Queue {
    pub(super) fn new(mode: Mode) -> Self {
        let (send, receive) = mpsc::channel(CAPACITY);
        Self { mode, send, receive: Arc::new(tokio::sync::Mutex::new(receive)), shared: Arc::default() }
    }

    pub(super) async fn push(&self, event: Event, at: Timestamp) -> Result<()> {
        let full = || Error::new(Code::AuditUnavailable, "the use cannot be recorded now, so it was not allowed; try again");
        let Self { send, shared, .. } = self;
        if shared.closed.load(Ordering::Acquire) {
            return Err(full());
        }
        if shared.is_keyless(&event.site) {
            return Err(full().with_retry_after(PATIENCE));
        }
        let (done, wait) = match self.mode {
            Mode::Batched => (None, None),
            Mode::Strict => {
                let (done, wait) = oneshot::channel();
                (Some(done), Some(wait))
            }
        };
        let item = Item { event, at, done };
        match send.try_send(item) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(item)) => {
                send.send_timeout(item, PATIENCE).await.map_err(|_| full().with_retry_after(PATIENCE))?;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(full()),
        }
        // Not only where it is exactly that many: of two at once neither may see that number.
        if self.waiting().0 >= BATCH {
            shared.wake.notify_one();
        }
        match wait {
            None => Ok(()),
            Some(wait) => match tokio::time::timeout(Duration::from_secs(10), wait).await {
                Ok(Ok(true)) => Ok(()),
                _ => Err(full().with_retry_after(PATIENCE)),
            },
        }
    }

    /// How many uses wait to be written, and how many may.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.send.max_capacity() - self.send.capacity(), CAPACITY)
    }

    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    pub(super) async fn run(&self, audit: &Audit, db: &Db) {
        let mut receive = self.receive.lock().await;
        let mut batch = Vec::new();
        let mut held: Vec<Item> = Vec::new();
        loop {
            if self.shared.closed.load(Ordering::Acquire) {
                // What is in it, and what was on its way into it, still comes out.
                receive.close();
            }
            tokio::select! {
                biased;
                count = receive.recv_many(&mut batch, BATCH) => if count == 0 {
                    break;
                },
                // Closed perhaps; or there was a whole batch, which was taken out since.
                () = self.shared.wake.notified() => continue,
                // What waits for its site's key is tried again, whether or not anything else comes.
                () = tokio::time::sleep(PATIENCE), if !held.is_empty() => {}
            }
            batch.append(&mut held);
            if self.mode == Mode::Batched && batch.len() < BATCH && !receive.is_closed() {
                // More come meanwhile; one commit serves them all. Nobody is waked for each of them.
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = self.shared.wake.notified() => {}
                }
                while batch.len() < BATCH
                    && let Ok(item) = receive.try_recv()
                {
                    batch.push(item);
                }
            }
            // Nothing is dropped: a batch is tried until it is written. Meanwhile the queue fills, and refuses.
            let mut wait = Duration::from_millis(20);
            self.hold_back(audit, db, &mut batch, &mut held).await;
            while let Err(error) = write(audit, db, &batch).await {
                tracing::error!(%error, detail = error.detail(), rows = batch.len(), "audit rows cannot be written; trying again");
                if batch.iter().all(|item| item.done.as_ref().is_some_and(oneshot::Sender::is_closed)) {
                    break;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
                self.hold_back(audit, db, &mut batch, &mut held).await;
            }
            for item in batch.drain(..) {
                if let Some(done) = item.done {
                    let _ = done.send(true);
                }
            }
        }
        if !held.is_empty() {
            tracing::error!(rows = held.len(), "uses at sites whose audit key cannot be had could not be recorded");
        }
    }

    /// Takes out of a batch what cannot be chained, so that one site without its key does not stop the others. A key that is not
    /// known here is looked up or made now, before the transaction begins: inside, SQLite's one writing connection is taken.
    async fn hold_back(&self, audit: &Audit, db: &Db, batch: &mut Vec<Item>, held: &mut Vec<Item>) {
        let sites: HashSet<&SiteId> = batch.iter().map(|item| &item.event.site).collect();
        let sites: Vec<SiteId> = sites.into_iter().cloned().collect();
        for site in sites {
            match audit.ring.derived(db, &site, AUDIT_LABEL).await {
                Ok(_) => self.shared.set_keyless(&site, false),
                // The database is away: that is everybody's trouble, and the batch waits as a whole.
                Err(error) if error.code() == Code::StorageFailed => return,
                Err(error) => {
                    tracing::error!(%site, error = ?error, "the site's audit key cannot be had; its uses are refused until it can");
                    self.shared.set_keyless(&site, true);
                    for item in batch.extract_if(.., |item| item.event.site == site) {
                        match item.done {
                            // Its answer waits for this, and will be a refusal: it did not happen.
                            Some(done) => {
                                let _ = done.send(false);
                            }
                            None => held.push(item),
                        }
                    }
                }
            }
        }
    }
}

async fn write(audit: &Audit, db: &Db, batch: &[Item]) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin_bookkeeping().await?;
    audit.record_all(&mut tx, batch.iter().map(|item| (&item.event, item.at)), None).await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Actor;

    fn item() -> Item {
        Item { event: Event::new(&SiteId::default_site(), &Actor::System, "test.use"), at: Timestamp(0), done: None }
    }

    #[tokio::test]
    async fn a_whole_batch_is_told_of_by_whoever_comes_after_it_was_whole() {
        let queue = Queue::new(Mode::Batched);
        // As two uses at once may leave it: neither saw the number at which the batch became whole.
        for _ in 0..BATCH {
            assert!(queue.send.try_send(item()).is_ok());
        }
        queue.push(item().event, Timestamp(0)).await.unwrap();
        let told = tokio::time::timeout(Duration::from_secs(5), queue.shared.wake.notified()).await;
        assert!(told.is_ok(), "a whole batch waits for its time");
    }

    #[tokio::test]
    async fn a_site_is_refused_while_its_key_cannot_be_had_and_no_other_is() {
        let queue = Queue::new(Mode::Batched);
        let (one, other): (SiteId, SiteId) = ("one".parse().unwrap(), "other".parse().unwrap());
        let taken = async |site: &SiteId| queue.push(Event::new(site, &Actor::System, "test.use"), Timestamp(0)).await.is_ok();
        queue.shared.set_keyless(&one, true);
        queue.shared.set_keyless(&other, true);
        queue.shared.set_keyless(&other, false);
        assert_eq!((taken(&one).await, taken(&other).await), (false, true));
        queue.shared.set_keyless(&one, false);
        assert!(taken(&one).await);
        queue.close();
        assert!(!taken(&one).await);
    }
}
