//! One `Db` over SQLite and PostgreSQL, and one SQL text for both.
//!
//! `on!` runs one body against whichever database is behind a `&Db` (reads) or a `&mut Tx` (reads and writes).
//! Every write goes through a [`Tx`]. On SQLite that is `BEGIN IMMEDIATE` on the only writing connection, so a
//! read-then-write never fails half way; on PostgreSQL it is an ordinary transaction, and races are settled by
//! compare-and-set, checked with `rows_affected`.
//!
//! The *epoch* serves the authority cache (decisions 2): it moves after every commit that may change what
//! somebody is allowed to do, and before the committing caller goes on.

mod lock;
mod memory;
mod migrate;
mod open;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod together;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{Executor, PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection};

pub use lock::{DataLock, holder};
pub use memory::Memory;
pub use open::{DbConfig, MIN_SQLITE};
pub(crate) use together::{Question, Together, by_key, of_each};

use crate::{
    clock::Timestamp,
    error::{Code, Error, Result},
};

/// Runs one body against the database behind a target, which is a `&Db`, a `&mut Tx` or a `&mut Line`.
#[macro_export]
macro_rules! on {
    ($target:expr, |$conn:ident| $body:expr) => {
        match $crate::db::Target::split($target) {
            $crate::db::Either::Sqlite($conn) => $body,
            $crate::db::Either::Postgres($conn) => $body,
        }
    };
}

/// Runs one statement for each batch of rows, and puts each together while the database does the one before. How many rows each changed.
macro_rules! in_batches {
    ($tx:expr, $rows:expr, $batch:expr, |$some:ident| $query:expr) => {
        $crate::on!($tx, |c| {
            let mut changed = Vec::new();
            let mut batches = $rows.chunks($batch).map(|$some| ($some.len(), $query));
            let mut next = batches.next();
            while let Some((rows, mut query)) = next.take() {
                let running = query.build().persistent(rows == $batch).execute(&mut *c);
                let (done, after) = tokio::join!(running, async { batches.next() });
                changed.push(done?.rows_affected());
                next = after;
            }
            changed
        })
    };
}
pub(crate) use in_batches;

/// A row of named columns for both databases: the struct and its `FromRow`.
///
/// sqlx's derive would build every driver a second time for the host; this is the same thing without it.
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty,)* }) => {
        $(#[$meta])*
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty,)* }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            &'static str: sqlx::ColumnIndex<R>,
            $($ty: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)* })
            }
        }
    };
}

/// One of the two databases, or of what they give.
#[derive(Debug)]
pub enum Either<S, P> {
    /// SQLite's.
    Sqlite(S),
    /// PostgreSQL's.
    Postgres(P),
}

/// What `on!` can run a body against.
pub trait Target<'c> {
    /// SQLite's executor.
    type Sqlite: Executor<'c, Database = Sqlite>;
    /// PostgreSQL's executor.
    type Postgres: Executor<'c, Database = Postgres>;

    /// The executor of whichever database it is.
    fn split(self) -> Either<Self::Sqlite, Self::Postgres>;
}

/// A handle to the database; clones share it.
#[derive(Clone, Debug)]
pub struct Db(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pools: Pools,
    epoch: AtomicU64,
    changes: tokio::sync::watch::Sender<()>,
    #[cfg(any(test, feature = "testing"))]
    asked: testing::Counts,
    /// Held as long as the database is open; nobody else writes meanwhile.
    _lock: Option<DataLock>,
}

#[derive(Debug)]
enum Pools {
    /// A pool that reads, and the one connection that writes.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Postgres(PgPool),
}

impl Db {
    /// Whether this is the embedded database, of which this process is the only writer.
    pub fn is_sqlite(&self) -> bool {
        matches!(self.0.pools, Pools::Sqlite { .. })
    }

    /// Begins a transaction that may write.
    pub async fn begin(&self) -> Result<Tx> {
        let inner = match &self.0.pools {
            Pools::Sqlite { write, .. } => TxInner::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?),
            Pools::Postgres(pool) => TxInner::Postgres(pool.begin().await?),
        };
        #[cfg(any(test, feature = "testing"))]
        self.0.asked.transaction();
        Ok(Tx { inner, db: self.clone(), authority: true, after_commit: Vec::new(), slot: None })
    }

    /// Counts a statement, for tests of what may ask but little; in a release this is nothing. `on!` does it by itself.
    fn note_statement(&self) {
        #[cfg(any(test, feature = "testing"))]
        self.0.asked.statement();
    }

    /// Begins a transaction that changes nobody's authority: audit rows, last-used times, leases, tokens that nobody has yet. It
    /// leaves the epoch alone, so that the authority cache stays warm.
    pub async fn begin_bookkeeping(&self) -> Result<Tx> {
        let mut tx = self.begin().await?;
        tx.authority = false;
        Ok(tx)
    }

    /// The present epoch. What was loaded after reading it counts only while it is still the same.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    /// Moves the epoch: everything cached before is void.
    pub fn bump_epoch(&self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        self.nudge();
    }

    /// Tells whoever listens to [`Db::changes`] to look again.
    pub fn nudge(&self) {
        self.0.changes.send_replace(());
    }

    /// Changes as soon as the epoch moves.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Checks that the database answers, and that it is one we may write to.
    pub async fn ping(&self) -> Result<()> {
        let one: (i64,) = on!(self, |c| sqlx::query_as("SELECT CAST(1 AS BIGINT)").fetch_one(c).await?);
        if one.0 != 1 {
            return Err(Error::internal("the database cannot count to one"));
        }
        match &self.0.pools {
            Pools::Postgres(pool) if open::is_standby(pool).await? => {
                Err(Error::new(Code::StorageFailed, "this PostgreSQL is a standby; give the URL of the primary"))
            }
            _ => Ok(()),
        }
    }

    /// SQLite's count of changes that other connections than our writing one made. Every write of ours goes through
    /// that one, so when this moves, another process wrote to the file behind our back. Absent on PostgreSQL.
    pub async fn data_version(&self) -> Result<Option<i64>> {
        match &self.0.pools {
            Pools::Sqlite { write, .. } => {
                self.note_statement();
                let (version,): (i64,) = sqlx::query_as("PRAGMA data_version").fetch_one(write).await?;
                Ok(Some(version))
            }
            Pools::Postgres(_) => Ok(None),
        }
    }

    /// The number of the schema: how many migrations were made.
    pub async fn schema(&self) -> Result<i64> {
        let (number,): (i64,) = on!(self, |c| sqlx::query_as("SELECT COUNT(*) FROM schema_migrations").fetch_one(c).await?);
        Ok(number)
    }

    /// What time it is on PostgreSQL's machine; absent on SQLite, which runs on ours.
    pub async fn remote_time(&self) -> Result<Option<Timestamp>> {
        let Some(pool) = self.postgres() else { return Ok(None) };
        self.note_statement();
        let (micros,): (i64,) =
            sqlx::query_as("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)").fetch_one(pool).await?;
        Ok(Some(Timestamp(micros)))
    }

    /// The PostgreSQL pool, for what only PostgreSQL has (`LISTEN`); absent on SQLite.
    pub fn postgres(&self) -> Option<&PgPool> {
        match &self.0.pools {
            Pools::Postgres(pool) => Some(pool),
            Pools::Sqlite { .. } => None,
        }
    }

    /// A connection that reads, for what is asked again and again.
    pub(crate) async fn line(&self) -> Result<Line> {
        let inner = match &self.0.pools {
            Pools::Sqlite { read, .. } => Either::Sqlite(read.acquire().await?),
            Pools::Postgres(pool) => Either::Postgres(pool.acquire().await?),
        };
        Ok(Line { inner, db: self.clone() })
    }

    /// Closes every connection; on SQLite the write-ahead log is folded in.
    pub async fn close(&self) {
        match &self.0.pools {
            Pools::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

impl<'c> Target<'c> for &'c Db {
    type Sqlite = &'c SqlitePool;
    type Postgres = &'c PgPool;

    fn split(self) -> Either<Self::Sqlite, Self::Postgres> {
        self.note_statement();
        match &self.0.pools {
            Pools::Sqlite { read, .. } => Either::Sqlite(read),
            Pools::Postgres(pool) => Either::Postgres(pool),
        }
    }
}

/// A connection of the pool's that reads, kept for many statements, one after another.
pub(crate) struct Line {
    inner: Either<PoolConnection<Sqlite>, PoolConnection<Postgres>>,
    db: Db,
}

impl<'c> Target<'c> for &'c mut Line {
    type Sqlite = &'c mut SqliteConnection;
    type Postgres = &'c mut PgConnection;

    fn split(self) -> Either<Self::Sqlite, Self::Postgres> {
        self.db.note_statement();
        match &mut self.inner {
            Either::Sqlite(connection) => Either::Sqlite(connection),
            Either::Postgres(connection) => Either::Postgres(connection),
        }
    }
}

/// A transaction. Dropped without [`Tx::commit`], it never happened.
pub struct Tx {
    inner: TxInner,
    db: Db,
    authority: bool,
    after_commit: Vec<Box<dyn FnOnce() + Send>>,
    slot: Option<Box<dyn Any + Send>>,
}

enum TxInner {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Tx {
    /// The database this transaction belongs to.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Something to do once the commit succeeded, such as advancing the head of an audit chain.
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(action));
    }

    /// What the audit keeps with this transaction.
    pub(crate) fn slot(&self) -> Option<&(dyn Any + Send)> {
        self.slot.as_deref()
    }

    /// Keeps something with this transaction until it ends.
    pub(crate) fn set_slot(&mut self, value: Box<dyn Any + Send>) {
        self.slot = Some(value);
    }

    /// Commits, then moves the epoch, then returns.
    ///
    /// It runs in a task of its own: a caller who leaves in the middle must not leave a committed change behind
    /// an epoch that did not move.
    pub async fn commit(self) -> Result<()> {
        let task = tokio::spawn(async move {
            let outcome = match self.inner {
                TxInner::Sqlite(tx) => tx.commit().await,
                TxInner::Postgres(tx) => tx.commit().await,
            };
            // Also after a failure: a lost connection may hide a commit that happened.
            if self.authority {
                self.db.bump_epoch();
            }
            outcome?;
            self.after_commit.into_iter().for_each(|action| action());
            Ok(())
        });
        task.await.map_err(Error::internal)?
    }
}

impl<'c> Target<'c> for &'c mut Tx {
    type Sqlite = &'c mut SqliteConnection;
    type Postgres = &'c mut PgConnection;

    fn split(self) -> Either<Self::Sqlite, Self::Postgres> {
        self.db.note_statement();
        match &mut self.inner {
            TxInner::Sqlite(tx) => Either::Sqlite(tx),
            TxInner::Postgres(tx) => Either::Postgres(tx),
        }
    }
}

/// Whether an insert hit a unique key. On SQLite the constraint has no name, so map by operation.
pub fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| e.is_unique_violation())
}
