//! The rows of grants.

use super::{ForWhom, Grant, Operations, rate::Reserved};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Error, Result},
    id::{AgentId, ConnectionId, GrantId, SessionName, SiteId, TaskName, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct GrantRow {
        id: String,
        agent: String,
        connection: String,
        effect: String,
        for_whom: String,
        session_name: Option<String>,
        task_name: Option<String>,
        delivery: String,
        scopes: Option<String>,
        operations: Option<String>,
        operation_names: Option<String>,
        rate: Option<String>,
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
        let operations = match &row.operations {
            None => None,
            Some(text) => Some(Operations {
                patterns: serde_json::from_str(text).map_err(Error::internal)?,
                names: row
                    .operation_names
                    .as_deref()
                    .map(serde_json::from_str)
                    .transpose()
                    .map_err(Error::internal)?
                    .unwrap_or_default(),
            }),
        };
        Ok(Self {
            id: row.id.parse()?,
            agent: row.agent.parse()?,
            connection: row.connection.parse()?,
            effect: serde_json::from_value(row.effect.into()).map_err(Error::internal)?,
            for_whom: serde_json::from_value(json(&row.for_whom)?).map_err(Error::internal)?,
            session: row.session_name.map(|name| name.parse()).transpose()?,
            task: row.task_name.map(|name| name.parse()).transpose()?,
            delivery: serde_json::from_str(&row.delivery).map_err(Error::internal)?,
            scopes: row.scopes.map(|t| serde_json::from_str(&t)).transpose().map_err(Error::internal)?,
            operations,
            rate: row.rate.map(|rate| rate.parse()).transpose()?,
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

/// The parts of a grant as they are stored.
struct Parts {
    for_whom: String,
    delivery: String,
    scopes: Option<String>,
    operations: Option<String>,
    operation_names: Option<String>,
    rate: Option<String>,
}

impl Parts {
    fn of(grant: &Grant) -> Result<Self> {
        fn json<T: serde::Serialize>(value: &T) -> Result<String> {
            serde_json::to_string(value).map_err(Error::internal)
        }
        let names = grant.operations.as_ref().map(|operations| &operations.names).filter(|names| !names.is_empty());
        Ok(Self {
            for_whom: json(&grant.for_whom)?,
            delivery: json(&grant.delivery)?,
            scopes: grant.scopes.as_ref().map(json).transpose()?,
            operations: grant.operations.as_ref().map(|operations| json(&operations.patterns)).transpose()?,
            operation_names: names.map(json).transpose()?,
            rate: grant.rate.map(|rate| rate.to_string()),
        })
    }
}

pub(super) async fn insert(tx: &mut Tx, site: &SiteId, grant: &Grant, actor: &Actor) -> Result<()> {
    insert_many(tx, site, std::slice::from_ref(grant), actor).await
}

/// Inserts many grants with one statement.
pub(super) async fn insert_many(tx: &mut Tx, site: &SiteId, grants: &[Grant], actor: &Actor) -> Result<()> {
    let mut rows = Vec::with_capacity(grants.len());
    for grant in grants {
        rows.push((grant, Parts::of(grant)?));
    }
    let actor = actor.to_string();
    on!(tx, |c| {
        let mut query = sqlx::QueryBuilder::new(
            "INSERT INTO grants (site, id, agent, connection, provider, effect, for_whom, session_name, task_name, delivery, scopes,
                                 operations, operation_names, rate, max_uses, uses, expires_at, note, grantor, created_by, created_at) ",
        );
        query.push_values(&rows, |mut values, (grant, parts)| {
            values
                .push_bind(site.as_str())
                .push_bind(grant.id.as_str())
                .push_bind(grant.agent.as_str())
                .push_bind(grant.connection.as_str())
                .push("(SELECT c.provider FROM connections c WHERE c.site = ")
                .push_bind_unseparated(site.as_str())
                .push_unseparated(" AND c.id = ")
                .push_bind_unseparated(grant.connection.as_str())
                .push_unseparated(")")
                .push_bind(grant.effect.as_str())
                .push_bind(parts.for_whom.as_str())
                .push_bind(grant.session.as_ref().map(SessionName::as_str))
                .push_bind(grant.task.as_ref().map(TaskName::as_str))
                .push_bind(parts.delivery.as_str())
                .push_bind(parts.scopes.as_deref())
                .push_bind(parts.operations.as_deref())
                .push_bind(parts.operation_names.as_deref())
                .push_bind(parts.rate.as_deref())
                .push_bind(grant.max_uses)
                .push_bind(grant.uses)
                .push_bind(grant.expires_at.map(|at| at.0))
                .push_bind(grant.note.as_str())
                .push_bind(grant.grantor.as_ref().map(UserId::as_str))
                .push_bind(actor.as_str())
                .push_bind(grant.created_at.0);
        });
        // One at a time it is always the same statement.
        query.build().persistent(rows.len() == 1).execute(c).await.map(|_| ())?
    });
    Ok(())
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &GrantId) -> Result<Option<Grant>> {
    let row: Option<GrantRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, connection, effect, for_whom, session_name, task_name, delivery, scopes, operations,
                operation_names, rate, max_uses, uses, expires_at, note, grantor,
                created_at, revoked_at
         FROM grants WHERE site = $1 AND id = $2"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Grant::try_from).transpose()
}

/// The agent, the connection and the effect of a grant, as they are stored.
pub(super) async fn between(db: &Db, site: &SiteId, id: &GrantId) -> Result<Option<(String, String, String)>> {
    Ok(on!(db, |c| sqlx::query_as("SELECT agent, connection, effect FROM grants WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id.as_str())
        .fetch_optional(c)
        .await?))
}

pub(super) async fn list(
    db: &Db,
    site: &SiteId,
    agent: Option<&AgentId>,
    connection: Option<&ConnectionId>,
) -> Result<Vec<Grant>> {
    let rows: Vec<GrantRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, agent, connection, effect, for_whom, session_name, task_name, delivery, scopes, operations,
                operation_names, rate, max_uses, uses, expires_at, note, grantor,
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
        "SELECT id, agent, connection, effect, for_whom, session_name, task_name, delivery, scopes, operations,
                operation_names, rate, max_uses, uses, expires_at, note, grantor,
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

pub(super) async fn connections_of(
    db: &Db,
    site: &SiteId,
    agent: &AgentId,
    after: Option<&ConnectionId>,
    limit: u32,
) -> Result<Vec<ConnectionId>> {
    let rows: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT DISTINCT connection FROM grants
         WHERE site = $1 AND agent = $2 AND revoked_at IS NULL AND connection > $3 ORDER BY connection LIMIT $4"
    )
    .bind(site.as_str())
    .bind(agent.as_str())
    .bind(after.map_or("", ConnectionId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.iter().map(|(id,)| id.parse()).collect()
}

pub(super) async fn agents_on(
    db: &Db,
    site: &SiteId,
    connection: &ConnectionId,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<Vec<AgentId>> {
    let rows: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT DISTINCT agent FROM grants
         WHERE site = $1 AND connection = $2 AND revoked_at IS NULL AND agent > $3 ORDER BY agent LIMIT $4"
    )
    .bind(site.as_str())
    .bind(connection.as_str())
    .bind(after.map_or("", AgentId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.iter().map(|(id,)| id.parse()).collect()
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

/// The grants whose people might hold a person, with those as they are stored; revoked ones too.
pub(super) async fn naming(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<Vec<(String, String)>> {
    Ok(on!(tx, |c| sqlx::query_as("SELECT id, for_whom FROM grants WHERE site = $1 AND REPLACE(for_whom, $2, '') <> for_whom")
        .bind(site.as_str())
        .bind(format!("\"{user}\""))
        .fetch_all(c)
        .await?))
}

pub(super) async fn set_for_whom(tx: &mut Tx, site: &SiteId, id: &str, for_whom: &ForWhom) -> Result<()> {
    let for_whom = serde_json::to_string(for_whom).map_err(Error::internal)?;
    on!(tx, |c| sqlx::query("UPDATE grants SET for_whom = $3 WHERE site = $1 AND id = $2")
        .bind(site.as_str())
        .bind(id)
        .bind(&for_whom)
        .execute(c)
        .await
        .map(|_| ())?);
    Ok(())
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

/// What is reserved of a grant's rate limit, and the version to hand back to [`set_reserved`].
pub(super) async fn reserved(tx: &mut Tx, site: &SiteId, id: &GrantId) -> Result<(i64, Reserved)> {
    let row: Option<(i64, String)> =
        on!(tx, |c| sqlx::query_as(RESERVED).bind(site.as_str()).bind(id.as_str()).fetch_optional(c).await?);
    read_reserved(row)
}

/// The same for whoever only looks.
pub(super) async fn reserved_now(db: &Db, site: &SiteId, id: &GrantId) -> Result<Reserved> {
    let row: Option<(i64, String)> =
        on!(db, |c| sqlx::query_as(RESERVED).bind(site.as_str()).bind(id.as_str()).fetch_optional(c).await?);
    Ok(read_reserved(row)?.1)
}

const RESERVED: &str = "SELECT version, reserved FROM limits WHERE site = $1 AND grant_id = $2";

fn read_reserved(row: Option<(i64, String)>) -> Result<(i64, Reserved)> {
    match row {
        None => Ok((0, Reserved::default())),
        Some((version, text)) => Ok((version, serde_json::from_str(&text).map_err(Error::internal)?)),
    }
}

/// Writes what is reserved now. False where somebody else wrote since it was read.
pub(super) async fn set_reserved(tx: &mut Tx, site: &SiteId, id: &GrantId, version: i64, reserved: &Reserved) -> Result<bool> {
    let text = serde_json::to_string(reserved).map_err(Error::internal)?;
    let written = on!(tx, |c| sqlx::query(
        "INSERT INTO limits (site, grant_id, version, reserved) VALUES ($1, $2, $3 + 1, $4)
         ON CONFLICT (site, grant_id) DO UPDATE SET version = excluded.version, reserved = excluded.reserved
         WHERE limits.version = $3"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(version)
    .bind(&text)
    .execute(c)
    .await?
    .rows_affected());
    Ok(written == 1)
}
