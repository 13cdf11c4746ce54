//! Migrations: one folder per database, the same file names, each file in one transaction.
//!
//! Two processes that start at once take turns: on PostgreSQL by an advisory lock, on SQLite by
//! `BEGIN IMMEDIATE`. Each migration states the oldest release that can still run on its schema, so that one
//! replica can be rolled back, and a release that is too old refuses to start instead of writing nonsense.

use crate::{
    error::{Code, Error, Result},
    on,
};

use super::{Db, Either, Target as _};

struct Migration {
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
    /// The oldest schema number a release must know to run on this one.
    admits: i64,
}

macro_rules! migration {
    ($name:literal, admits $admits:literal) => {
        Migration {
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
            admits: $admits,
        }
    };
}

/// In order; never edited after a release.
const MIGRATIONS: &[Migration] = &[
    migration!("0001_first", admits 1),
    migration!("0002_callback_urls", admits 1),
    migration!("0003_imports", admits 1),
    migration!("0004_scope_policies", admits 1),
    migration!("0005_attempts", admits 1),
    migration!("0006_device_choices", admits 1),
    migration!("0007_due_by_provider", admits 1),
    migration!("0008_sealed_payloads", admits 1),
    migration!("0009_call_hosts", admits 1),
    migration!("0010_webhooks", admits 1),
    migration!("0011_sessions", admits 1),
    migration!("0012_oauth_server", admits 1),
    // An older release does not know that a grant can deny.
    migration!("0013_grants", admits 13),
    migration!("0014_approvals", admits 1),
    // An older release would not keep to a ceiling that it does not know.
    migration!("0015_ceilings", admits 15),
    migration!("0016_webhook_claims", admits 15),
    // An older release would revoke without counting.
    migration!("0017_revocation_epoch", admits 17),
    // An older release would not write down who is behind a request.
    migration!("0018_behind", admits 18),
    // Nor who minted the token of one.
    migration!("0019_minter", admits 19),
];

/// "valetkey" as a number: the advisory lock that migrating processes take.
const LOCK: i64 = 0x7661_6c65_746b_6579;

pub(super) async fn run(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    if let Either::Postgres(c) = (&mut tx).split() {
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(c).await?;
    }
    let ledger = match (&mut tx).split() {
        Either::Sqlite(c) => sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, admits INTEGER NOT NULL
             ) STRICT",
        )
        .execute(c)
        .await
        .map(|_| ()),
        Either::Postgres(c) => sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 number BIGINT NOT NULL PRIMARY KEY, name TEXT COLLATE \"C\" NOT NULL, admits BIGINT NOT NULL
             )",
        )
        .execute(c)
        .await
        .map(|_| ()),
    };
    ledger?;
    let done: Vec<(i64, String, i64)> =
        on!(&mut tx, |c| sqlx::query_as("SELECT number, name, admits FROM schema_migrations ORDER BY number")
            .fetch_all(c)
            .await?);
    let known = i64::try_from(MIGRATIONS.len()).map_err(Error::internal)?;
    for (number, name, admits) in &done {
        if *number > known && *admits > known {
            return Err(Error::new(
                Code::InvalidConfig,
                format!(
                    "the database was brought to schema {number} by a newer release, which this one cannot run on; install that release"
                ),
            ));
        }
        let ours = usize::try_from(*number - 1).ok().and_then(|i| MIGRATIONS.get(i));
        if ours.is_some_and(|m| m.name != name) {
            return Err(Error::new(Code::InvalidConfig, format!("the database holds a migration `{name}` that is not ours")));
        }
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done.len()) {
        match (&mut tx).split() {
            Either::Sqlite(c) => sqlx::raw_sql(migration.sqlite).execute(c).await.map(|_| ())?,
            Either::Postgres(c) => sqlx::raw_sql(migration.postgres).execute(c).await.map(|_| ())?,
        }
        let number = i64::try_from(index + 1).map_err(Error::internal)?;
        on!(&mut tx, |c| sqlx::query("INSERT INTO schema_migrations (number, name, admits) VALUES ($1, $2, $3)")
            .bind(number)
            .bind(migration.name)
            .bind(migration.admits)
            .execute(c)
            .await
            .map(|_| ())?);
        tracing::info!(migration.name, "the schema was brought up to date");
    }
    tx.commit().await
}
