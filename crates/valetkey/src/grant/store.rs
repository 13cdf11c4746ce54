//! The rows of grants.

use super::Grant;
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, ConnectionId, GrantId, SiteId, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct GrantRow {
        id: String,
        agent: String,
        connection: String,
        for_whom: String,
        delivery: String,
        scopes: Option<String>,
        operations: Option<String>,
        max_uses: Option<i64>,
        uses: i64,
        expires_at: Option<i64>,
        note: String,
        grantor: Option<String>,
        created_at: i64,
        revoked_at: Option<i64>,
    }
}

impl TryFrom<GrantRow> for Grant {
    type Error = Error;

    fn try_from(row: GrantRow) -> Result<Self> {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).map_err(Error::internal);
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            connection: row.connection.parse()?,
            for_whom: serde_json::from_value(json(&row.for_whom)?).map_err(Error::internal)?,
            delivery: serde_json::from_str(&row.delivery).map_err(Error::internal)?,
            scopes: row.scopes.map(|t| serde_json::from_str(&t)).transpose().map_err(Error::internal)?,
            operations: row.operations.map(|t| serde_json::from_str(&t)).transpose().map_err(Error::internal)?,
            max_uses: row.max_uses,
            uses: row.uses,
            expires_at: row.expires_at.map(Timestamp),
            note: row.note,
            grantor: row.grantor.map(|g| g.parse()).transpose()?,
            created_at: Timestamp(row.created_at),
            revoked_at: row.revoked_at.map(Timestamp),
        })
    }
}

/// Whether the agent and the connection both exist and live, read inside the granting transaction.
pub(super) async fn both_live(tx: &mut Tx, site: &SiteId, agent: &AgentId, connection: &ConnectionId) -> Result<bool> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as(
        "SELECT c.id FROM connections c JOIN agents a ON a.site = c.site
         WHERE c.site = $1 AND c.id = $2 AND c.status <> 'revoked' AND a.id = $3 AND a.deleted_at IS NULL"
    )
    .bind(site.as_str())
    .bind(connection.as_str())
    .bind(agent.as_str())
    .fetch_optional(c)
    .await?);
    Ok(row.is_some())
}

pub(super) async fn insert(tx: &mut Tx, site: &SiteId, grant: &Grant, actor: &Actor) -> Result<()> {
    let json = |value: serde_json::Result<String>| value.map_err(Error::internal);
    let for_whom = json(serde_json::to_string(&grant.for_whom))?;
    let delivery = json(serde_json::to_string(&grant.delivery))?;
    let scopes = grant.scopes.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    let operations = grant.operations.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    on!(tx, |c| {
        sqlx::query(
        "INSERT INTO grants (site, id, agent, connection, for_whom, delivery, scopes, operations, max_uses, uses, expires_at, note,
                             grantor, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14)"
    )
    .bind(site.as_str())
    .bind(grant.id.as_str())
    .bind(grant.agent.as_str())
    .bind(grant.connection.as_str())
    .bind(&for_whom)
    .bind(&delivery)
    .bind(&scopes)
    .bind(&operations)
    .bind(grant.max_uses)
    .bind(grant.expires_at.map(|t| t.0))
    .bind(&grant.note)
    .bind(grant.grantor.as_ref().map(UserId::as_str))
    .bind(actor.to_string())
    .bind(grant.created_at.0)
    .execute(c)
    .await
    .map(|_| ())?
    });
    Ok(())
}

/// Inserts many grants with one statement.
pub(super) async fn insert_many(tx: &mut Tx, site: &SiteId, grants: &[Grant], actor: &Actor) -> Result<()> {
    let json = |value: serde_json::Result<String>| value.map_err(Error::internal);
    let mut rows = Vec::with_capacity(grants.len());
    for grant in grants {
        let scopes = grant.scopes.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
        let operations = grant.operations.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
        rows.push((
            grant,
            json(serde_json::to_string(&grant.for_whom))?,
            json(serde_json::to_string(&grant.delivery))?,
            scopes,
            operations,
        ));
    }
    let actor = actor.to_string();
    on!(tx, |c| {
        let mut query = sqlx::QueryBuilder::new(
            "INSERT INTO grants (site, id, agent, connection, for_whom, delivery, scopes, operations, max_uses, uses, expires_at, note,
                                 grantor, created_by, created_at) ",
        );
        query.push_values(&rows, |mut values, (grant, for_whom, delivery, scopes, operations)| {
            values
                .push_bind(site.as_str())
                .push_bind(grant.id.as_str())
                .push_bind(grant.agent.as_str())
                .push_bind(grant.connection.as_str())
                .push_bind(for_whom)
                .push_bind(delivery)
                .push_bind(scopes)
                .push_bind(operations)
                .push_bind(grant.max_uses)
                .push_bind(grant.uses)
                .push_bind(grant.expires_at.map(|at| at.0))
                .push_bind(grant.note.as_str())
                .push_bind(grant.grantor.as_ref().map(UserId::as_str))
                .push_bind(actor.as_str())
                .push_bind(grant.created_at.0);
        });
        query.build().persistent(false).execute(c).await.map(|_| ())?
    });
    Ok(())
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &GrantId) -> Result<Option<Grant>> {
    let row: Option<GrantRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, connection, for_whom, delivery, scopes, operations, max_uses, uses, expires_at, note, grantor,
                created_at, revoked_at
         FROM grants WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Grant::try_from).transpose()
}

pub(super) async fn list(
    db: &Db,
    site: &SiteId,
    agent: Option<&AgentId>,
    connection: Option<&ConnectionId>,
) -> Result<Vec<Grant>> {
    let rows: Vec<GrantRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, connection, for_whom, delivery, scopes, operations, max_uses, uses, expires_at, note, grantor,
                created_at, revoked_at
         FROM grants
         WHERE site = $1 AND ($2 = '' OR agent = $2) AND ($3 = '' OR connection = $3) ORDER BY created_at, id"
    )
    .bind(site.as_str())
    .bind(agent.map_or("", AgentId::as_str))
    .bind(connection.map_or("", ConnectionId::as_str))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Grant::try_from).collect()
}

/// A page of [`list`], after the grant with id `after`.
pub(super) async fn page(
    db: &Db,
    site: &SiteId,
    agent: Option<&AgentId>,
    connection: Option<&ConnectionId>,
    after: Option<&GrantId>,
    limit: u32,
) -> Result<Vec<Grant>> {
    let rows: Vec<GrantRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, connection, for_whom, delivery, scopes, operations, max_uses, uses, expires_at, note, grantor,
                created_at, revoked_at
         FROM grants
         WHERE site = $1 AND ($2 = '' OR agent = $2) AND ($3 = '' OR connection = $3)
           AND ($4 = '' OR (created_at, id) > (SELECT b.created_at, b.id FROM grants b WHERE b.site = $1 AND b.id = $4))
         ORDER BY created_at, id LIMIT $5"
    )
    .bind(site.as_str())
    .bind(agent.map_or("", AgentId::as_str))
    .bind(connection.map_or("", ConnectionId::as_str))
    .bind(after.map_or("", GrantId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Grant::try_from).collect()
}

pub(super) async fn revoke(
    tx: &mut Tx,
    site: &SiteId,
    id: &GrantId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE grants SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND id = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn revoke_of_person(
    tx: &mut Tx,
    site: &SiteId,
    user: &UserId,
    actor: &Actor,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query(
        "UPDATE grants SET revoked_at = $3, revoked_by = $4, revoke_reason = $5
         WHERE site = $1 AND grantor = $2 AND revoked_at IS NULL"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected()))
}

pub(super) async fn take_use(tx: &mut Tx, site: &SiteId, id: &GrantId) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE grants SET uses = uses + 1
         WHERE site = $1 AND id = $2 AND revoked_at IS NULL AND max_uses IS NOT NULL AND uses < max_uses"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}
