//! The rows of agents and of roles on them.

use super::{Access, Agent, Role};
use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AgentId, SiteId, UserId},
    on,
    principal::Actor,
    row,
};

row! {
    struct AgentRow {
        id: String,
        slug: String,
        title: String,
        owner_user: Option<String>,
        created_at: i64,
        disabled_at: Option<i64>,
    }
}

impl TryFrom<AgentRow> for Agent {
    type Error = Error;

    fn try_from(row: AgentRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            slug: row.slug,
            title: row.title,
            owner: row.owner_user.map(|user| user.parse()).transpose()?,
            created_at: Timestamp(row.created_at),
            disabled_at: row.disabled_at.map(Timestamp),
        })
    }
}

pub(super) async fn insert(tx: &mut Tx, site: &SiteId, agent: &Agent, actor: &Actor) -> Result<()> {
    match insert_free(tx, site, agent, actor).await? {
        true => Ok(()),
        false => Err(Error::new(Code::Conflict, format!("there is an agent `{}` already", agent.id))),
    }
}

/// Inserts an agent whose id is free. False where it is not.
pub(super) async fn insert_free(tx: &mut Tx, site: &SiteId, agent: &Agent, actor: &Actor) -> Result<bool> {
    let inserted = on!(tx, |c| sqlx::query(
        "INSERT INTO agents (site, id, slug, title, owner_user, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (site, id) DO NOTHING"
    )
    .bind(site.as_str())
    .bind(agent.id.as_str())
    .bind(&agent.slug)
    .bind(&agent.title)
    .bind(agent.owner.as_ref().map(UserId::as_str))
    .bind(actor.to_string())
    .bind(agent.created_at.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(inserted == 1)
}

/// Writes an agent over the live one by its id. False where there is none: deleted is for good.
pub(super) async fn update(tx: &mut Tx, site: &SiteId, agent: &Agent) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query(
        "UPDATE agents SET slug = $3, title = $4, owner_user = $5 WHERE site = $1 AND id = $2 AND deleted_at IS NULL"
    )
    .bind(site.as_str())
    .bind(agent.id.as_str())
    .bind(&agent.slug)
    .bind(&agent.title)
    .bind(agent.owner.as_ref().map(UserId::as_str))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// The role that a person was given on an agent, read inside a transaction.
pub(super) async fn role_in(tx: &mut Tx, site: &SiteId, id: &AgentId, user: &UserId) -> Result<Option<Role>> {
    let row: Option<(String,)> =
        on!(tx, |c| sqlx::query_as("SELECT role FROM agent_access WHERE site = $1 AND agent = $2 AND user_id = $3")
            .bind(site.as_str())
            .bind(id.as_str())
            .bind(user.as_str())
            .fetch_optional(c)
            .await?);
    row.map(|(role,)| role.parse()).transpose()
}

pub(super) async fn by_id(db: &Db, site: &SiteId, id: &AgentId) -> Result<Option<Agent>> {
    let row: Option<AgentRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, slug, title, owner_user, created_at, disabled_at FROM agents
         WHERE site = $1 AND id = $2 AND deleted_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Agent::try_from).transpose()
}

pub(super) async fn by_slug(db: &Db, site: &SiteId, slug: &str) -> Result<Vec<Agent>> {
    let rows: Vec<AgentRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, slug, title, owner_user, created_at, disabled_at FROM agents
         WHERE site = $1 AND slug = $2 AND deleted_at IS NULL ORDER BY id"
    )
    .bind(site.as_str())
    .bind(slug)
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Agent::try_from).collect()
}

pub(super) async fn all(db: &Db, site: &SiteId) -> Result<Vec<Agent>> {
    let rows: Vec<AgentRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, slug, title, owner_user, created_at, disabled_at FROM agents
         WHERE site = $1 AND deleted_at IS NULL ORDER BY created_at, id"
    )
    .bind(site.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Agent::try_from).collect()
}

pub(super) async fn page(
    db: &Db,
    site: &SiteId,
    user: Option<&UserId>,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<Vec<Agent>> {
    let rows: Vec<AgentRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, slug, title, owner_user, created_at, disabled_at FROM agents a
         WHERE site = $1 AND deleted_at IS NULL AND ($2 = '' OR owner_user = $2
            OR EXISTS (SELECT 1 FROM agent_access r WHERE r.site = a.site AND r.agent = a.id AND r.user_id = $2))
           AND ($3 = '' OR (created_at, id) > (SELECT b.created_at, b.id FROM agents b WHERE b.site = $1 AND b.id = $3))
         ORDER BY created_at, id LIMIT $4"
    )
    .bind(site.as_str())
    .bind(user.map_or("", UserId::as_str))
    .bind(after.map_or("", AgentId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Agent::try_from).collect()
}

pub(super) async fn set_disabled(tx: &mut Tx, site: &SiteId, id: &AgentId, at: Option<Timestamp>) -> Result<bool> {
    let changed =
        on!(tx, |c| sqlx::query("UPDATE agents SET disabled_at = $3 WHERE site = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(site.as_str())
            .bind(id.as_str())
            .bind(at.map(|t| t.0))
            .execute(c)
            .await?
            .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn delete(tx: &mut Tx, site: &SiteId, id: &AgentId, at: Timestamp) -> Result<bool> {
    let changed =
        on!(tx, |c| sqlx::query("UPDATE agents SET deleted_at = $3 WHERE site = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(site.as_str())
            .bind(id.as_str())
            .bind(at.0)
            .execute(c)
            .await?
            .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn set_role(
    tx: &mut Tx,
    site: &SiteId,
    id: &AgentId,
    user: &UserId,
    role: Role,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "INSERT INTO agent_access (site, agent, user_id, role, granted_by, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (site, agent, user_id)
         DO UPDATE SET role = excluded.role, granted_by = excluded.granted_by, created_at = excluded.created_at"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(user.as_str())
    .bind(role.as_str())
    .bind(actor.to_string())
    .bind(now.0)
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

pub(super) async fn remove_role(tx: &mut Tx, site: &SiteId, id: &AgentId, user: &UserId) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query("DELETE FROM agent_access WHERE site = $1 AND agent = $2 AND user_id = $3")
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(user.as_str())
        .execute(c)
        .await?
        .rows_affected());
    Ok(changed == 1)
}

pub(super) async fn roles(db: &Db, site: &SiteId, id: &AgentId) -> Result<Vec<Access>> {
    let rows: Vec<(String, String, i64)> = on!(db, |c| sqlx::query_as(
        "SELECT user_id, role, created_at FROM agent_access WHERE site = $1 AND agent = $2 ORDER BY user_id"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_all(c)
    .await?);
    rows.into_iter()
        .map(|(user, role, created_at)| {
            Ok(Access { user: user.parse()?, role: role.parse()?, created_at: Timestamp(created_at) })
        })
        .collect()
}
