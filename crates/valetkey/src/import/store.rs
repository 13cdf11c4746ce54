//! The rows of `imports`: what of a source became what here.

use super::item::Rest;
use crate::{
    clock::Timestamp,
    db::{Db, Tx, in_batches},
    error::{Error, Result},
    id::{AgentId, ConnectionId, SiteId, UserId},
    on,
    principal::Actor,
    row,
};

/// How many rows one statement writes.
pub(super) const BATCH: usize = 64;

row! {
    /// One thing of a source.
    #[derive(Clone, Debug)]
    pub(super) struct Row {
        pub(super) item: String,
        pub(super) digest: String,
        pub(super) target: Option<String>,
        pub(super) rest: Option<String>,
        pub(super) position: i64,
    }
}

impl Row {
    /// What of it has no other place.
    pub(super) fn rest(&self) -> Result<Rest> {
        self.rest.as_deref().map_or_else(|| Ok(Rest::default()), |text| serde_json::from_str(text).map_err(Error::internal))
    }
}

/// Everything that came from a source.
pub(super) async fn all(db: &Db, site: &SiteId, source: &str) -> Result<Vec<Row>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT item, digest, target, rest, position FROM imports WHERE site = $1 AND source = $2 ORDER BY position, item"
    )
    .bind(site.as_str())
    .bind(source)
    .fetch_all(c)
    .await?))
}

/// What has no other place and might name a person, whatever source it came from: its source, what it was there, and the text.
pub(super) async fn naming(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<Vec<(String, String, String)>> {
    Ok(on!(tx, |c| sqlx::query_as(
        "SELECT source, item, rest FROM imports WHERE site = $1 AND rest IS NOT NULL AND REPLACE(rest, $2, '') <> rest"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .fetch_all(c)
    .await?))
}

pub(super) async fn set_rest(tx: &mut Tx, site: &SiteId, (source, item): (&str, &str), rest: Option<&str>) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE imports SET rest = $4 WHERE site = $1 AND source = $2 AND item = $3")
        .bind(site.as_str())
        .bind(source)
        .bind(item)
        .bind(rest)
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Writes rows, over those of the same things.
pub(super) async fn put(tx: &mut Tx, site: &SiteId, source: &str, rows: &[Row], now: Timestamp) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    in_batches!(&mut *tx, rows, BATCH, |some| {
        let mut query =
            sqlx::QueryBuilder::new("INSERT INTO imports (site, source, item, digest, target, rest, position, imported_at) ");
        query.push_values(some, |mut values, row| {
            values
                .push_bind(site.as_str())
                .push_bind(source)
                .push_bind(row.item.as_str())
                .push_bind(row.digest.as_str())
                .push_bind(row.target.as_deref())
                .push_bind(row.rest.as_deref())
                .push_bind(row.position)
                .push_bind(now.0);
        });
        query.push(
            " ON CONFLICT (site, source, item) DO UPDATE SET digest = excluded.digest, target = excluded.target,
              rest = excluded.rest, position = excluded.position, imported_at = excluded.imported_at",
        );
        query
    });
    Ok(())
}

/// Keeps everybody else from changing a connection until this transaction ends.
pub(super) async fn lock_connection(tx: &mut Tx, site: &SiteId, id: &ConnectionId) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE connections SET revision = revision WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
}

/// Takes back the grants of an agent on a connection that have a note. Says which of them lived.
pub(super) async fn revoke_grants(
    tx: &mut Tx,
    site: &SiteId,
    (agent, connection, note): (&AgentId, &ConnectionId, &str),
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<String>> {
    let rows: Vec<(String,)> = on!(tx, |c| sqlx::query_as(
        "UPDATE grants SET revoked_at = $5, revoked_by = $6, revoke_reason = $7
         WHERE site = $1 AND agent = $2 AND connection = $3 AND note = $4 AND revoked_at IS NULL
         RETURNING id"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(connection.as_str())
    .bind(note)
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .fetch_all(c)
    .await?);
    Ok(rows.into_iter().map(|(id,)| id).collect())
}
