//! Look-ups that meet become one statement.
//!
//! Starting a statement costs more than running it for one more key: PostgreSQL plans it, and SQLite has a thread of its own for
//! each connection, to which a statement goes and from which its answer comes back. So callers that arrive while others are being
//! answered wait for the next statement, and share it; those who ask for the same share its answer, too. Nothing is remembered.
//!
//! INVARIANT: whoever asks joins only a statement that begins after they asked. So the statement sees whatever was
//! committed before the request came, and a request that comes after a revocation is refused (decisions 2).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{ColumnIndex, Decode, Row, Type};
use tokio::{runtime::Handle, sync::oneshot};

use super::{Db, Line};
use crate::error::{Error, Result};

/// What one statement can answer for many keys.
pub(crate) trait Question: Sized + Send + Sync + 'static {
    /// What is asked for.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is found for it, or that nothing is.
    type Found: Clone + Send + 'static;

    /// Asks on a connection. What is found for each key stands at its place.
    fn ask(line: &mut Line, keys: &[Self::Key]) -> impl Future<Output = Result<Vec<Self::Found>>> + Send;
}

/// The rows of each of so many keys, by the `number` that the statement gave it, from 1.
pub(crate) fn of_each<R>(rows: Vec<R>, keys: usize) -> Result<Vec<Vec<R>>>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let mut each: Vec<Vec<R>> = std::iter::repeat_with(Vec::new).take(keys).collect();
    for row in rows {
        let number: i64 = row.try_get("number")?;
        let place = usize::try_from(number).ok().and_then(|number| each.get_mut(number.checked_sub(1)?));
        place.ok_or_else(|| Error::internal("a row of a key that was not asked for"))?.push(row);
    }
    Ok(each)
}

/// The most callers that one statement answers: the first of them waits for the last.
const MOST: usize = 64;

/// The most statements that run at once on SQLite: they leave other readers their connections.
const ON_SQLITE: usize = 2;

/// A statement that takes longer than this is not waited for by whoever comes next.
const HANGS: Duration = Duration::from_millis(20);

/// How long a connection is kept when nobody waits: taking one from the pool and giving it back asks the database as often again.
const LINGER: Duration = Duration::from_millis(100);

/// The look-up; clones share it.
pub(crate) struct Together<Q: Question>(Arc<Inner<Q>>);

impl<Q: Question> Clone for Together<Q> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<Q: Question> {
    db: Db,
    /// The most statements that run at once.
    at_once: usize,
    queue: Mutex<Queue<Q>>,
    /// Where the statements run: with the pool's connections, and not on the thread of whoever asks first.
    runtime: Handle,
}

struct Queue<Q: Question> {
    waiting: Vec<(Q::Key, Answer<Q>)>,
    running: usize,
    /// Calls the runner that waits, with a connection, for somebody to come.
    lingers: Option<oneshot::Sender<()>>,
    /// When a statement last began.
    began: Instant,
}

/// Where a caller waits for what is found.
type Answer<Q> = oneshot::Sender<Result<<Q as Question>::Found>>;

impl<Q: Question> Queue<Q> {
    /// Whether whoever waits should not wait for the statements that run: there are none, there is enough for a whole one
    /// more, or the last one hangs. Otherwise another one would only make each smaller.
    fn needs_another(&self) -> bool {
        self.running == 0 || self.waiting.len() >= MOST || self.began.elapsed() > HANGS
    }
}

/// One of the tasks that ask. However it ends, its place becomes free.
struct Runner<Q: Question> {
    together: Together<Q>,
    counted: bool,
}

impl<Q: Question> Together<Q> {
    /// The look-up in a database. Its statements run in the runtime that this is called in.
    pub(crate) fn new(db: Db) -> Self {
        let at_once = match db.is_sqlite() {
            true => ON_SQLITE,
            false => std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
        };
        let queue = Queue { waiting: Vec::new(), running: 0, lingers: None, began: Instant::now() };
        Self(Arc::new(Inner { db, at_once, queue: Mutex::new(queue), runtime: Handle::current() }))
    }

    /// What is found for a key, by a statement that begins from now on.
    pub(crate) async fn ask(&self, key: Q::Key) -> Result<Q::Found> {
        let (answer, answered) = oneshot::channel();
        let runner = {
            let mut queue = self.queue();
            queue.waiting.push((key, answer));
            let needed = queue.running < self.0.at_once && queue.needs_another();
            if needed {
                queue.running += 1;
                queue.began = Instant::now();
            }
            let called = needed && queue.lingers.take().is_some_and(|call| call.send(()).is_ok());
            (needed && !called).then(|| Runner { together: self.clone(), counted: true })
        };
        if let Some(runner) = runner {
            // In a task of its own: a caller who leaves takes nobody else's answer along.
            self.0.runtime.spawn(async move { runner.run().await });
        }
        answered.await.map_err(|_| Error::internal("a shared look-up was given up"))?
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Q>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Question> Runner<Q> {
    async fn run(mut self) {
        let mut line = None;
        loop {
            let Some(asked) = self.next() else {
                if line.is_some() && self.lingers().await {
                    continue;
                }
                return;
            };
            let (keys, answers) = by_key(asked);
            match self.ask(&mut line, &keys).await {
                Ok(found) => {
                    for (answer, of) in answers {
                        let found = found.get(of).cloned().ok_or_else(|| Error::internal("a key without an answer"));
                        // Whoever left does not need it.
                        let _ = answer.send(found);
                    }
                }
                Err(error) => {
                    for (answer, _) in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Waits a while, as the only one who does, for somebody to come. Whether somebody came: then this runner is counted again.
    async fn lingers(&mut self) -> bool {
        let (call, mut called) = oneshot::channel();
        {
            let mut queue = self.together.queue();
            // Whoever came in between found no one lingering, and sent a runner.
            if queue.lingers.is_some() {
                return false;
            }
            queue.lingers = Some(call);
        }
        self.counted = matches!(tokio::time::timeout(LINGER, &mut called).await, Ok(Ok(()))) || {
            let mut queue = self.together.queue();
            // Somebody may have called since.
            let called = called.try_recv().is_ok();
            if !called {
                queue.lingers = None;
            }
            called
        };
        self.counted
    }

    /// Asks for many keys on a connection that is kept; one that failed is given back.
    async fn ask(&self, line: &mut Option<Line>, keys: &[Q::Key]) -> Result<Vec<Q::Found>> {
        let mut kept = match line.take() {
            Some(kept) => kept,
            None => self.together.0.db.line().await?,
        };
        let found = Q::ask(&mut kept, keys).await?;
        *line = Some(kept);
        Ok(found)
    }

    /// What waits now, of those who did not leave. Where nobody waits, this runner's place becomes free in the same moment:
    /// whoever comes next must not count on it.
    fn next(&mut self) -> Option<Vec<(Q::Key, Answer<Q>)>> {
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

/// Each key once, and for each who asked which of them they asked for, counted from 0.
pub(crate) fn by_key<K: Clone + Eq + Hash, A>(asked: Vec<(K, A)>) -> (Vec<K>, Vec<(A, usize)>) {
    let mut places: HashMap<K, usize> = HashMap::with_capacity(asked.len());
    let mut keys = Vec::with_capacity(asked.len());
    let answers = asked.into_iter().map(|(key, answer)| {
        let place = *places.entry(key).or_insert_with_key(|key| {
            keys.push(key.clone());
            keys.len() - 1
        });
        (answer, place)
    });
    let answers = answers.collect();
    (keys, answers)
}

impl<Q: Question> Drop for Runner<Q> {
    fn drop(&mut self) {
        if self.counted {
            let mut queue = self.together.queue();
            queue.running -= 1;
            // It broke. Where nobody else answers, those who wait are told so, not left to wait.
            if queue.running == 0 {
                queue.waiting.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db::{Either, Target as _, testing},
        on,
    };

    /// Asked for, this breaks whoever asks.
    const BREAKS: u32 = 666;

    /// Answers each number with all that were asked together, after a while.
    struct Numbers;

    impl Question for Numbers {
        type Key = u32;
        type Found = (u32, Vec<u32>);

        async fn ask(line: &mut Line, keys: &[u32]) -> Result<Vec<Self::Found>> {
            let (_,): (i64,) = on!(line, |c| sqlx::query_as("SELECT CAST(1 AS BIGINT)").fetch_one(c).await?);
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(!keys.contains(&BREAKS), "what was asked for breaks it");
            Ok(keys.iter().map(|key| (*key, keys.to_vec())).collect())
        }
    }

    /// Answers each number with PostgreSQL's name for the connection that it was asked on.
    struct Connections;

    impl Question for Connections {
        type Key = u32;
        type Found = i32;

        async fn ask(line: &mut Line, keys: &[u32]) -> Result<Vec<i32>> {
            let Either::Postgres(line) = line.split() else { panic!("SQLite's connections have no names") };
            let (pid,): (i32,) = sqlx::query_as("SELECT pg_backend_pid()").fetch_one(line).await?;
            Ok(vec![pid; keys.len()])
        }
    }

    /// One of each kind. A test of this module has but one thread, so that what meets is known.
    async fn databases() -> ([Db; 2], tempfile::TempDir) {
        let (sqlite, dir) = testing::sqlite().await;
        ([sqlite, testing::postgres().await], dir)
    }

    #[tokio::test]
    async fn who_asks_while_a_statement_runs_shares_the_next_and_what_is_asked_twice_is_asked_once() {
        let (databases, _dir) = databases().await;
        for db in databases {
            let numbers = Together::<Numbers>::new(db);
            // Polled in this order, and none is answered before all have asked.
            let (first, a, b, c) = tokio::join!(biased; numbers.ask(1), numbers.ask(2), numbers.ask(2), numbers.ask(3));
            let [first, a, b, c] = [first, a, b, c].map(Result::unwrap);
            assert_eq!([first.0, a.0, b.0, c.0], [1, 2, 2, 3]);
            // The first runner begins when it is given a thread, with whoever waits by then.
            let all = [vec![1, 2, 3], vec![2, 3]];
            assert!(all.contains(&a.1) && a.1 == b.1 && b.1 == c.1, "{a:?} {b:?} {c:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_runner_that_breaks_is_told_and_the_next_one_is_answered() {
        let (databases, _dir) = databases().await;
        for db in databases {
            let numbers = Together::<Numbers>::new(db);
            let both = async {
                tokio::join!(biased; numbers.ask(BREAKS), async {
                    // While the statement runs.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    numbers.ask(1).await
                })
            };
            let (broken, waiting) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("nobody is left to wait");
            assert!(broken.is_err());
            // Told, or answered by another runner where the statement took long.
            assert!(waiting.is_err() || waiting.is_ok_and(|found| found.0 == 1));
            assert_eq!(numbers.ask(2).await.unwrap().0, 2);
        }
    }

    #[tokio::test]
    async fn a_runner_that_lingers_is_called_with_its_connection() {
        let connections = Together::<Connections>::new(testing::postgres().await);
        let pid = connections.ask(1).await.unwrap();
        for number in 2..20 {
            tokio::time::sleep(LINGER / 10).await;
            assert_eq!(connections.ask(number).await.unwrap(), pid);
        }
    }
}
