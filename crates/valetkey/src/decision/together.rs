//! Look-ups that meet become one statement, on PostgreSQL.
//!
//! Starting the statement costs the database more than running it for one more pair, so callers that arrive while others
//! are being answered wait for the next statement, and share it. Nothing is remembered.
//!
//! INVARIANT: a pair joins only a statement that begins after it was asked for. So the statement sees whatever was
//! committed before the request came, and a request that comes after a revocation is refused (decisions 2).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{
    cache::Pair,
    facts::{self, Facts},
};
use crate::{
    db::Db,
    error::{Error, Result},
};

/// The most pairs in one statement: the first of them waits for the last.
const MOST: usize = 64;

type Found = Result<Option<Arc<Facts>>>;

/// The look-up; clones share it.
#[derive(Clone)]
pub(super) struct Together(Arc<Inner>);

struct Inner {
    db: Db,
    /// How many statements run at once: more would only make each smaller.
    at_once: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Pair, oneshot::Sender<Found>)>,
    running: usize,
}

/// One of the tasks that ask. However it ends, its place becomes free.
struct Runner {
    together: Together,
    counted: bool,
}

impl Together {
    pub(super) fn new(db: Db) -> Self {
        let at_once = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
        Self(Arc::new(Inner { db, at_once, queue: Mutex::default() }))
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    /// The facts for a pair; nothing when there is no such token.
    pub(super) async fn facts(&self, pair: Pair) -> Found {
        let (answer, answered) = oneshot::channel();
        let runner = {
            let mut queue = self.queue();
            queue.waiting.push((pair, answer));
            (queue.running < self.0.at_once).then(|| {
                queue.running += 1;
                Runner { together: self.clone(), counted: true }
            })
        };
        if let Some(runner) = runner {
            // In a task of its own: a caller who leaves takes nobody else's answer along.
            tokio::spawn(async move { runner.run().await });
        }
        answered.await.map_err(|_| Error::internal("a look-up of authority was given up"))?
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    async fn run(mut self) {
        while let Some(asked) = self.next() {
            let (pairs, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            match facts::for_many(self.together.db(), &pairs).await {
                Ok(found) => {
                    for (answer, facts) in answers.into_iter().zip(found) {
                        // Whoever left does not need it.
                        let _ = answer.send(facts);
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

    /// What waits now, of those who did not leave. Where nobody waits, this runner's place becomes free in the same moment:
    /// whoever comes next must not count on it.
    fn next(&mut self) -> Option<Vec<(Pair, oneshot::Sender<Found>)>> {
        let mut queue = self.together.queue();
        queue.waiting.retain(|(_, answer)| !answer.is_closed());
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
