//! Look-ups that meet become one statement, on PostgreSQL.
//!
//! Starting the statement costs the database more than running it for one more pair, so callers that arrive while others
//! are being answered wait for the next statement, and share it. Nothing is remembered.
//!
//! INVARIANT: a pair joins only a statement that begins after it was asked for. So the statement sees whatever was
//! committed before the request came, and a request that comes after a revocation is refused (decisions 2).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Postgres, pool::PoolConnection};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use super::{
    cache::Pair,
    facts::{self, Facts, Unread},
};
use crate::{
    db::Db,
    error::{Error, Result},
};

/// The most pairs in one statement: the first of them waits for the last.
const MOST: usize = 64;

/// A statement that takes longer than this is not waited for by whoever comes next.
const HANGS: Duration = Duration::from_millis(20);

/// How long a connection is kept when nobody waits: taking one from the pool and giving it back asks the database twice.
const LINGER: Duration = Duration::from_millis(100);

/// What a statement found for a pair.
type Found = Result<Unread>;

/// The look-up; clones share it.
#[derive(Clone)]
pub(super) struct Together(Arc<Inner>);

struct Inner {
    db: Db,
    /// The most statements that run at once.
    at_once: usize,
    queue: Mutex<Queue>,
    /// Wakes the runner that lingers.
    wake: Notify,
    /// Where the statements run: with the pool's connections, and not on the thread of whoever asks first.
    runtime: Handle,
}

struct Queue {
    waiting: Vec<(Pair, oneshot::Sender<Found>)>,
    running: usize,
    /// Whether a runner waits, with a connection, for somebody to come.
    lingers: bool,
    /// When a statement last began.
    began: Instant,
}

impl Queue {
    /// Whether whoever waits should not wait for the statements that run: there are none, there is enough for a whole one
    /// more, or the last one hangs. Otherwise another one would only make each smaller.
    fn needs_another(&self) -> bool {
        self.running == 0 || self.waiting.len() >= MOST || self.began.elapsed() > HANGS
    }
}

/// One of the tasks that ask. However it ends, its place becomes free.
struct Runner {
    together: Together,
    counted: bool,
}

impl Together {
    pub(super) fn new(db: Db) -> Self {
        let at_once = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
        let queue = Queue { waiting: Vec::new(), running: 0, lingers: false, began: Instant::now() };
        Self(Arc::new(Inner { db, at_once, queue: Mutex::new(queue), wake: Notify::new(), runtime: Handle::current() }))
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    /// The facts for a pair; nothing when there is no such token.
    pub(super) async fn facts(&self, pair: Pair) -> Result<Option<Arc<Facts>>> {
        let (answer, answered) = oneshot::channel();
        let runner = {
            let mut queue = self.queue();
            queue.waiting.push((pair, answer));
            let needed = queue.running < self.0.at_once && queue.needs_another();
            if needed {
                queue.running += 1;
                queue.began = Instant::now();
            }
            if needed && std::mem::take(&mut queue.lingers) {
                self.0.wake.notify_one();
                None
            } else {
                needed.then(|| Runner { together: self.clone(), counted: true })
            }
        };
        if let Some(runner) = runner {
            // In a task of its own: a caller who leaves takes nobody else's answer along.
            self.0.runtime.spawn(async move { runner.run().await });
        }
        let found = answered.await.map_err(|_| Error::internal("a look-up of authority was given up"))??;
        found.read()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    async fn run(mut self) {
        let mut line = None;
        loop {
            let Some(asked) = self.next() else {
                if line.is_some() && self.lingers().await {
                    continue;
                }
                return;
            };
            let (pairs, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            match self.ask(&mut line, &pairs).await {
                Ok(found) => {
                    for (answer, rows) in answers.into_iter().zip(found) {
                        // Whoever left does not need it.
                        let _ = answer.send(Ok(rows));
                    }
                }
                Err(error) => {
                    for answer in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Waits a while, as the only one who does, for somebody to come. Whether somebody came: then this runner is counted again.
    async fn lingers(&mut self) -> bool {
        {
            let mut queue = self.together.queue();
            // Whoever came in between found no one lingering, and sent a runner.
            if queue.lingers {
                return false;
            }
            queue.lingers = true;
        }
        loop {
            let over = tokio::time::timeout(LINGER, self.together.0.wake.notified()).await.is_err();
            let mut queue = self.together.queue();
            // What was taken says so, not the notice: that may be an old one, which nobody waited for in time.
            if !queue.lingers {
                self.counted = true;
                return true;
            }
            if over {
                queue.lingers = false;
                return false;
            }
        }
    }

    /// Asks for many pairs on a connection that is kept; one that failed is given back.
    async fn ask(&self, line: &mut Option<PoolConnection<Postgres>>, pairs: &[Pair]) -> Result<Vec<Unread>> {
        let mut connection = match line.take() {
            Some(connection) => connection,
            None => facts::line(self.together.db()).await?,
        };
        let found = facts::for_many(self.together.db(), &mut connection, pairs).await?;
        *line = Some(connection);
        Ok(found)
    }

    /// What waits now, of those who did not leave. Where nobody waits, this runner's place becomes free in the same moment:
    /// whoever comes next must not count on it.
    fn next(&mut self) -> Option<Vec<(Pair, oneshot::Sender<Found>)>> {
        let mut queue = self.together.queue();
        queue.waiting.retain(|(_, answer)| !answer.is_closed());
        queue.began = Instant::now();
        let most = queue.waiting.len().min(MOST);
        if most == 0 {
            queue.running -= 1;
            self.counted = false;
            return None;
        }
        Some(queue.waiting.drain(..most).collect())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.counted {
            self.together.queue().running -= 1;
        }
    }
}
