//! The bounded queue of uses, and the task that writes it down in batches.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{AUDIT_LABEL, Audit, Event, lock};
use crate::{
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
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
    send: Arc<Mutex<Option<mpsc::Sender<Item>>>>,
    receive: Arc<tokio::sync::Mutex<mpsc::Receiver<Item>>>,
    /// Told when a whole batch waits.
    full: Arc<Notify>,
}

impl Queue {
    pub(super) fn new(mode: Mode) -> Self {
        let (send, receive) = mpsc::channel(CAPACITY);
        Self {
            mode,
            send: Arc::new(Mutex::new(Some(send))),
            receive: Arc::new(tokio::sync::Mutex::new(receive)),
            full: Arc::default(),
        }
    }

    pub(super) async fn push(&self, event: Event, at: Timestamp) -> Result<()> {
        let full = || Error::new(Code::AuditUnavailable, "the use cannot be recorded now, so it was not allowed; try again");
        let send = lock(&self.send).clone().ok_or_else(full)?;
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
        if send.max_capacity() - send.capacity() == BATCH {
            self.full.notify_one();
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
        let waiting = lock(&self.send).as_ref().map_or(0, |send| send.max_capacity() - send.capacity());
        (waiting, CAPACITY)
    }

    pub(super) fn close(&self) {
        lock(&self.send).take();
    }

    pub(super) async fn run(&self, audit: &Audit, db: &Db) {
        let mut receive = self.receive.lock().await;
        let mut batch = Vec::new();
        while receive.recv_many(&mut batch, BATCH).await > 0 {
            if self.mode == Mode::Batched && batch.len() < BATCH && !receive.is_closed() {
                // More come meanwhile; one commit serves them all. Nobody is waked for each of them.
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = self.full.notified() => {}
                }
                while batch.len() < BATCH
                    && let Ok(item) = receive.try_recv()
                {
                    batch.push(item);
                }
            }
            // Nothing is dropped: a batch is tried until it is written. Meanwhile the queue fills, and refuses.
            let mut wait = Duration::from_millis(20);
            while let Err(error) = write(audit, db, &batch).await {
                tracing::error!(%error, detail = error.detail(), rows = batch.len(), "audit rows cannot be written; trying again");
                if batch.iter().all(|item| item.done.as_ref().is_some_and(oneshot::Sender::is_closed)) {
                    break;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
            for item in batch.drain(..) {
                if let Some(done) = item.done {
                    let _ = done.send(true);
                }
            }
        }
    }
}

async fn write(audit: &Audit, db: &Db, batch: &[Item]) -> Result<()> {
    // A key that is not known here is looked up or made before the transaction begins: inside, SQLite's one writing
    // connection is taken.
    let sites: HashSet<_> = batch.iter().map(|item| &item.event.site).collect();
    for site in sites {
        audit.ring.derived(db, site, AUDIT_LABEL).await?;
    }
    let mut tx = db.begin_bookkeeping().await?;
    audit.record_all(&mut tx, batch.iter().map(|item| (&item.event, item.at)), None).await?;
    tx.commit().await
}
