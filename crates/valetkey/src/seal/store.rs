//! The SQL of sealing: data keys, and the sealed column of every table that has one.

use super::envelope::Place;
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::Result,
    on, row,
};

/// A table with a column `sealed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Connections,
    AppConfigs,
    ConnectSessions,
    Flows,
    PlatformKeys,
    Revocations,
}

impl Table {
    pub(super) const ALL: [Table; 6] =
        [Table::Connections, Table::AppConfigs, Table::ConnectSessions, Table::Flows, Table::PlatformKeys, Table::Revocations];

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Connections => "connections",
            Table::AppConfigs => "app_configs",
            Table::ConnectSessions => "connect_sessions",
            Table::Flows => "flows",
            Table::PlatformKeys => "platform_keys",
            Table::Revocations => "revocations",
        }
    }

    /// The place of this table's sealed value in a row.
    pub(super) fn place<'a>(self, site: &'a str, provider: &'a str, owner: &'a str, name: &'a str, row: &'a str) -> Place<'a> {
        let field = match self {
            Table::Connections => "account",
            Table::AppConfigs => "config",
            Table::ConnectSessions => "payload",
            Table::Flows => "flow",
            Table::PlatformKeys => "assertion_secret",
            Table::Revocations => "revocation",
        };
        Place { site, provider, owner, name, table: self.name(), row, field }
    }
}

row! {
    /// One row with a sealed value.
    pub(super) struct SealedRow {
        pub(super) site: String,
        pub(super) id: String,
        pub(super) provider: String,
        pub(super) owner: String,
        pub(super) name: String,
        pub(super) sealed: Vec<u8>,
    }
}

impl SealedRow {
    pub(super) fn place(&self, table: Table) -> Place<'_> {
        table.place(&self.site, &self.provider, &self.owner, &self.name, &self.id)
    }
}

/// Which rows are meant; an empty text is all of them.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) site: &'a str,
    pub(super) provider: &'a str,
}

/// The next sealed rows after (site, id), in that order.
pub(super) async fn sealed_after(db: &Db, table: Table, scope: Scope<'_>, after: (&str, &str)) -> Result<Vec<SealedRow>> {
    let sql = match table {
        Table::Connections => {
            "SELECT site, id, provider, owner, name, sealed
             FROM connections
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR provider = $4) AND sealed IS NOT NULL
             ORDER BY site, id LIMIT 200"
        }
        Table::AppConfigs => {
            "SELECT site, id, provider, owner, '' AS name, sealed
             FROM app_configs
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR provider = $4) AND sealed IS NOT NULL
             ORDER BY site, id LIMIT 200"
        }
        Table::ConnectSessions => {
            "SELECT site, id, provider, owner, name, sealed
             FROM connect_sessions
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR provider = $4) AND sealed IS NOT NULL
             ORDER BY site, id LIMIT 200"
        }
        Table::Flows => {
            "SELECT site, id, provider, owner, name, sealed
             FROM flows
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR provider = $4)
             ORDER BY site, id LIMIT 200"
        }
        // No provider: a name of ours stands for it.
        Table::PlatformKeys => {
            "SELECT site, id, '_platform' AS provider, '' AS owner, '' AS name, sealed
             FROM platform_keys
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR $4 = '_platform')
             ORDER BY site, id LIMIT 200"
        }
        Table::Revocations => {
            "SELECT site, id, provider, owner, name, sealed
             FROM revocations
             WHERE (site, id) > ($1, $2) AND ($3 = '' OR site = $3) AND ($4 = '' OR provider = $4) AND sealed IS NOT NULL
             ORDER BY site, id LIMIT 200"
        }
    };
    Ok(on!(db, |c| sqlx::query_as(sql).bind(after.0).bind(after.1).bind(scope.site).bind(scope.provider).fetch_all(c).await?))
}

/// How many rows there are to look at.
pub(super) async fn count_sealed(db: &Db, table: Table, scope: Scope<'_>) -> Result<u64> {
    let sql = match table {
        Table::Connections => {
            "SELECT COUNT(*) FROM connections
             WHERE ($1 = '' OR site = $1) AND ($2 = '' OR provider = $2) AND sealed IS NOT NULL"
        }
        Table::AppConfigs => {
            "SELECT COUNT(*) FROM app_configs
             WHERE ($1 = '' OR site = $1) AND ($2 = '' OR provider = $2) AND sealed IS NOT NULL"
        }
        Table::ConnectSessions => {
            "SELECT COUNT(*) FROM connect_sessions
             WHERE ($1 = '' OR site = $1) AND ($2 = '' OR provider = $2) AND sealed IS NOT NULL"
        }
        Table::Flows => "SELECT COUNT(*) FROM flows WHERE ($1 = '' OR site = $1) AND ($2 = '' OR provider = $2)",
        Table::PlatformKeys => {
            "SELECT COUNT(*) FROM platform_keys WHERE ($1 = '' OR site = $1) AND ($2 = '' OR $2 = '_platform')"
        }
        Table::Revocations => {
            "SELECT COUNT(*) FROM revocations
             WHERE ($1 = '' OR site = $1) AND ($2 = '' OR provider = $2) AND sealed IS NOT NULL"
        }
    };
    let (count,): (i64,) = on!(db, |c| sqlx::query_as(sql).bind(scope.site).bind(scope.provider).fetch_one(c).await?);
    Ok(count.cast_unsigned())
}

/// Puts a new ciphertext in the place of the one that was read; false when the row changed or went meanwhile.
///
/// Nothing else moves: not `version`, not `revision`, not `updated_at`. What is stored stays what it was.
pub(super) async fn replace_sealed(tx: &mut Tx, table: Table, row: &SealedRow, new: &[u8]) -> Result<bool> {
    let sql = match table {
        Table::Connections => "UPDATE connections SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
        Table::AppConfigs => "UPDATE app_configs SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
        Table::ConnectSessions => "UPDATE connect_sessions SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
        Table::Flows => "UPDATE flows SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
        Table::PlatformKeys => "UPDATE platform_keys SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
        Table::Revocations => "UPDATE revocations SET sealed = $1 WHERE site = $2 AND id = $3 AND sealed = $4",
    };
    Ok(on!(tx, |c| sqlx::query(sql).bind(new).bind(&row.site).bind(&row.id).bind(&row.sealed).execute(c).await?.rows_affected())
        == 1)
}

row! {
    /// One wrapped data key.
    pub(super) struct DataKeyRow {
        pub(super) site: String,
        pub(super) provider: String,
        pub(super) version: i64,
        pub(super) id: String,
        pub(super) root_id: String,
        pub(super) wrapped: Vec<u8>,
        pub(super) created_at: i64,
        pub(super) retired_at: Option<i64>,
    }
}

/// All data keys, by site, provider and version.
pub(super) async fn data_keys(db: &Db) -> Result<Vec<DataKeyRow>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, provider, version, id, root_id, wrapped, created_at, retired_at
         FROM data_keys
         ORDER BY site, provider, version"
    )
    .fetch_all(c)
    .await?))
}

/// The data keys of one site and provider, by version.
pub(super) async fn data_keys_of(db: &Db, site: &str, provider: &str) -> Result<Vec<DataKeyRow>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, provider, version, id, root_id, wrapped, created_at, retired_at
         FROM data_keys
         WHERE site = $1 AND provider = $2
         ORDER BY version"
    )
    .bind(site)
    .bind(provider)
    .fetch_all(c)
    .await?))
}

/// One data key by its id.
pub(super) async fn data_key(db: &Db, id: &str) -> Result<Option<DataKeyRow>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, provider, version, id, root_id, wrapped, created_at, retired_at
         FROM data_keys
         WHERE id = $1"
    )
    .bind(id)
    .fetch_optional(c)
    .await?))
}

/// The ids of the root keys that data keys are wrapped by, with how many.
pub(super) async fn roots_in_use(db: &Db) -> Result<Vec<(String, i64)>> {
    Ok(on!(db, |c| sqlx::query_as("SELECT root_id, COUNT(*) FROM data_keys GROUP BY root_id ORDER BY root_id")
        .fetch_all(c)
        .await?))
}

/// The sites that have no data key for this provider.
pub(super) async fn sites_without(db: &Db, provider: &str) -> Result<Vec<String>> {
    let sites: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT id
         FROM sites
         WHERE NOT EXISTS (SELECT 1 FROM data_keys WHERE data_keys.site = sites.id AND data_keys.provider = $1)
         ORDER BY id"
    )
    .bind(provider)
    .fetch_all(c)
    .await?);
    Ok(sites.into_iter().map(|(id,)| id).collect())
}

/// Adds a data key unless that version is there already; false when it is.
pub(super) async fn add_data_key(tx: &mut Tx, key: &DataKeyRow) -> Result<bool> {
    Ok(on!(tx, |c| sqlx::query(
        "INSERT INTO data_keys (site, provider, version, id, root_id, wrapped, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT DO NOTHING"
    )
    .bind(&key.site)
    .bind(&key.provider)
    .bind(key.version)
    .bind(&key.id)
    .bind(&key.root_id)
    .bind(&key.wrapped)
    .bind(key.created_at)
    .execute(c)
    .await?
    .rows_affected())
        == 1)
}

/// Puts a data key under another root key; false when it changed meanwhile.
pub(super) async fn replace_wrapped(tx: &mut Tx, key: &DataKeyRow, root_id: &str, wrapped: &[u8]) -> Result<bool> {
    Ok(on!(tx, |c| sqlx::query("UPDATE data_keys SET root_id = $1, wrapped = $2 WHERE id = $3 AND wrapped = $4")
        .bind(root_id)
        .bind(wrapped)
        .bind(&key.id)
        .bind(&key.wrapped)
        .execute(c)
        .await?
        .rows_affected())
        == 1)
}

/// Says that no row uses a data key any more. It stays: a backup may.
pub(super) async fn retire_data_key(tx: &mut Tx, id: &str, now: Timestamp) -> Result<bool> {
    Ok(on!(tx, |c| sqlx::query("UPDATE data_keys SET retired_at = $1 WHERE id = $2 AND retired_at IS NULL")
        .bind(now.0)
        .bind(id)
        .execute(c)
        .await?
        .rows_affected())
        == 1)
}
