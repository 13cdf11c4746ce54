//! Opening a database: what is required of it, and what is refused.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{DataLock, Db, Inner, Pools, migrate};
use crate::{
    error::{Code, Error, Result},
    secret::Secret,
};

/// The oldest SQLite that is safe to use: versions before have a bug that can corrupt a write-ahead log.
pub const MIN_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// The most connections that read from SQLite; each is opened when it is needed, and has a thread. Look-ups that meet keep some for
/// as long as many come, so there are more than those.
const READERS: u32 = 8;

/// Where the data is.
#[derive(Clone, Debug)]
pub enum DbConfig {
    /// SQLite in a folder of its own.
    Sqlite {
        /// The folder; made when it is missing.
        dir: PathBuf,
        /// How long to wait for a former process to let go.
        patience: Duration,
    },
    /// PostgreSQL 15 or newer.
    Postgres {
        /// `postgres://user:password@host/database`; holds a password, so it is a secret.
        url: Secret,
        /// The most connections this process opens.
        max_connections: u32,
    },
}

impl Db {
    /// Opens the database, checks that it is fit, and brings its schema up to date.
    pub async fn open(config: &DbConfig) -> Result<Db> {
        let db = match config {
            DbConfig::Sqlite { dir, patience } => open_sqlite(dir, *patience).await?,
            DbConfig::Postgres { url, max_connections } => open_postgres(url, *max_connections).await?,
        };
        migrate::run(&db).await?;
        Ok(db)
    }
}

async fn open_sqlite(dir: &std::path::Path, patience: Duration) -> Result<Db> {
    make_private_dir(dir)?;
    let lock = DataLock::take(dir, patience).await?;
    let file = dir.join("valetkey.db");
    make_private_file(&file)?;
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A lost rotated refresh token locks a person out, so every commit reaches the disk.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        // No memory map: a disk error would be a crash instead of an error.
        .pragma("mmap_size", "0")
        // Freed pages are overwritten. Copies stay for a while all the same: in the write-ahead log until it is used anew, and on
        // PostgreSQL in dead rows until they are vacuumed. All of them are ciphertext.
        .pragma("secure_delete", "ON")
        .statement_cache_capacity(256)
        .disable_statement_logging();
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.clone())
        .await
        .map_err(|e| Error::new(Code::InvalidConfig, format!("cannot open the database in {}", dir.display())).with_detail(e))?;
    let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()").fetch_one(&write).await?;
    if parse_version(&version) < MIN_SQLITE {
        return Err(Error::new(
            Code::InvalidConfig,
            format!("this build holds SQLite {version}, which can corrupt its log; build with 3.51.3 or newer"),
        ));
    }
    let read = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options.pragma("query_only", "ON"))
        .await?;
    Ok(Db(Arc::new(Inner {
        pools: Pools::Sqlite { read, write },
        epoch: 1.into(),
        changes: tokio::sync::watch::Sender::new(()),
        #[cfg(any(test, feature = "testing"))]
        asked: Default::default(),
        _lock: Some(lock),
    })))
}

async fn open_postgres(url: &Secret, max_connections: u32) -> Result<Db> {
    let options = PgConnectOptions::from_str(url.expose())
        // The parser's message can quote the URL, password and all.
        .map_err(|_| {
            Error::new(Code::InvalidConfig, "the database URL cannot be read; it looks like postgres://user:password@host/name")
        })?
        .application_name("valetkey")
        // Compiling a statement takes longer than any of ours runs.
        .options([("statement_timeout", "30000"), ("idle_in_transaction_session_timeout", "30000"), ("jit", "off")])
        .disable_statement_logging();
    let unreachable = |e: sqlx::Error| {
        Error::new(Code::InvalidConfig, "cannot connect to PostgreSQL; check the URL and that it is running").with_detail(e)
    };
    // Asked by a connection of its own: the pool would try one that it refuses again and again.
    let mut first = options.connect().await.map_err(unreachable)?;
    if is_standby(&mut first).await? {
        return Err(Error::new(Code::InvalidConfig, "this PostgreSQL is a standby; give the URL of the primary"));
    }
    first.close().await?;
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(30))
        // After a failover the same URL may lead to a standby: what it says of authority is old (decisions 2). A primary becomes
        // one by a new start, which ends every connection.
        .after_connect(|connection, _| {
            Box::pin(async move {
                match is_standby(connection).await? {
                    true => Err(sqlx::Error::Configuration("this PostgreSQL is a standby".into())),
                    false => Ok(()),
                }
            })
        })
        .connect_with(options)
        .await
        .map_err(unreachable)?;
    let setting = |name: &'static str| {
        let pool = pool.clone();
        async move {
            let (value,): (String,) = sqlx::query_as("SELECT current_setting($1)").bind(name).fetch_one(&pool).await?;
            Ok::<_, sqlx::Error>(value)
        }
    };
    let version: i64 = setting("server_version_num").await?.parse().unwrap_or(0);
    if version < 150_000 {
        return Err(Error::new(Code::InvalidConfig, "PostgreSQL 15 or newer is needed"));
    }
    if setting("synchronous_commit").await? == "off" {
        return Err(Error::new(
            Code::InvalidConfig,
            "this PostgreSQL runs with synchronous_commit=off and can lose a rotated token; turn it on for this database",
        ));
    }
    if setting("server_encoding").await? != "UTF8" {
        return Err(Error::new(Code::InvalidConfig, "the database's encoding is not UTF8; create it with ENCODING 'UTF8'"));
    }
    Ok(Db(Arc::new(Inner {
        pools: Pools::Postgres(pool),
        epoch: 1.into(),
        changes: tokio::sync::watch::Sender::new(()),
        #[cfg(any(test, feature = "testing"))]
        asked: Default::default(),
        _lock: None,
    })))
}

pub(super) async fn is_standby<'c>(target: impl sqlx::PgExecutor<'c>) -> sqlx::Result<bool> {
    let (standby,): (bool,) = sqlx::query_as("SELECT pg_is_in_recovery()").fetch_one(target).await?;
    Ok(standby)
}

fn make_private_dir(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::new(Code::InvalidConfig, format!("cannot make the data folder {}", dir.display())).with_detail(e))
}

/// The folder may be one that others can look into. SQLite gives its log the permissions of this file.
fn make_private_file(file: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .map(|_| ())
        .map_err(|e| Error::new(Code::InvalidConfig, format!("cannot make the database {}", file.display())).with_detail(e))
}

fn parse_version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}
