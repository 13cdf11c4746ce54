//! Databases for tests: a fresh one each, on both kinds. A test without PostgreSQL fails; it never skips.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Db, DbConfig};
use crate::secret::Secret;

/// What a database was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How many statements, those of transactions among them.
    pub statements: u64,
    /// How many transactions were begun. Every write is in one.
    pub transactions: u64,
}

/// What a database was asked since it was opened, by this handle and its clones.
pub fn asked(db: &Db) -> Asked {
    let Counts { statements, transactions } = &db.0.asked;
    Asked { statements: statements.load(Ordering::SeqCst), transactions: transactions.load(Ordering::SeqCst) }
}

/// Counts where statements are run.
#[derive(Debug, Default)]
pub(super) struct Counts {
    statements: AtomicU64,
    transactions: AtomicU64,
}

impl Counts {
    pub(super) fn statement(&self) {
        self.statements.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::SeqCst);
    }
}

/// A fresh SQLite database in a folder that goes away with the returned guard.
pub async fn sqlite() -> (Db, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = DbConfig::Sqlite { dir: dir.path().to_owned(), patience: Duration::from_secs(5) };
    (Db::open(&config).await.expect("a fresh SQLite database"), dir)
}

/// The URL of a fresh PostgreSQL database beside the one that `VALETKEY_TEST_POSTGRES` names.
pub async fn postgres_url() -> String {
    let base = std::env::var("VALETKEY_TEST_POSTGRES")
        .expect("VALETKEY_TEST_POSTGRES is not set: run ./scripts/test, or ./scripts/test --peers for a shell");
    let name = format!("vk_{}", uuid::Uuid::now_v7().simple());
    let pool = sqlx::PgPool::connect(&base).await.expect("the test PostgreSQL answers");
    // The name is ours: hex digits only.
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"));
    sqlx::query(create).execute(&pool).await.expect("a fresh database");
    pool.close().await;
    let mut url = url::Url::parse(&base).expect("a URL");
    url.set_path(&name);
    url.to_string()
}

/// A fresh PostgreSQL database.
pub async fn postgres() -> Db {
    open_postgres(&postgres_url().await).await
}

/// Another process's view of a PostgreSQL database.
pub async fn open_postgres(url: &str) -> Db {
    Db::open(&DbConfig::Postgres { url: Secret::new(url), max_connections: 8 }).await.expect("the test database opens")
}

/// Writes a test once and runs it on both databases: `on_each_db! { async fn name(db: Db) { ... } }`.
#[macro_export]
macro_rules! on_each_db {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident: Db) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn body($db: $crate::db::Db) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let (db, _dir) = $crate::db::testing::sqlite().await;
                body(db).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                body($crate::db::testing::postgres().await).await;
            }
        }
    )*};
}

/// Writes what no function of ours would write: a row as a defect, an older release or a stranger may have left it.
pub async fn execute(db: &Db, sql: &str) {
    let mut tx = db.begin().await.expect("a transaction");
    crate::on!(&mut tx, |c| sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(c).await.map(|_| ()))
        .expect("the statement is right");
    tx.commit().await.expect("a commit");
}
