//! The rows of agents and of roles on them.

use super::{Access, Agent, Held, Role};
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

/// Holds a site's row until the transaction ends: who would make two agents there at once takes turns.
pub(super) async fn hold_site(tx: &mut Tx, site: &SiteId) -> Result<()> {
    on!(tx, |c| sqlx::query("UPDATE sites SET title = title WHERE id = $1").bind(site.as_str()).execute(c).await.map(|_| ())?);
    Ok(())
}

/// Whether a live agent has as its id what is to be another's slug, or as its slug what is to be another's id.
pub(super) async fn is_mistakable(tx: &mut Tx, site: &SiteId, id: &AgentId, slug: &str) -> Result<bool> {
    let (others,): (i64,) = on!(tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM agents
         WHERE site = $1 AND id <> $2 AND (slug = $2 OR id = $3) AND deleted_at IS NULL"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(slug)
    .fetch_one(c)
    .await?);
    Ok(others > 0)
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

pub(super) async fn page(db: &Db, site: &SiteId, after: Option<&AgentId>, limit: u32) -> Result<Vec<Agent>> {
    let rows: Vec<AgentRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, slug, title, owner_user, created_at, disabled_at FROM agents
         WHERE site = $1 AND deleted_at IS NULL
           AND ($2 = '' OR (created_at, id) > (SELECT b.created_at, b.id FROM agents b WHERE b.site = $1 AND b.id = $2))
         ORDER BY created_at, id LIMIT $3"
    )
    .bind(site.as_str())
    .bind(after.map_or("", AgentId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Agent::try_from).collect()
}

row! {
    struct RankRow {
        standing: i64,
    }
}

/// An agent's row with what a person may do with it, as a number that grows with the role.
struct HeldRow(AgentRow, RankRow);

impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for HeldRow
where
    AgentRow: sqlx::FromRow<'r, R>,
    RankRow: sqlx::FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> std::result::Result<Self, sqlx::Error> {
        Ok(Self(AgentRow::from_row(row)?, RankRow::from_row(row)?))
    }
}

/// A role as the number that the statement below makes of it. A stored word that is no role is 0, and so none.
fn standing(role: Role) -> i64 {
    match role {
        Role::Viewer => 1,
        Role::Operator => 2,
        Role::Admin => 3,
    }
}

pub(super) async fn held(
    db: &Db,
    site: &SiteId,
    user: &UserId,
    least: Role,
    only: Option<&AgentId>,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<Vec<Held>> {
    let rows: Vec<HeldRow> = on!(db, |c| sqlx::query_as(
        "SELECT h.id, h.slug, h.title, h.owner_user, h.created_at, h.disabled_at, h.standing
         FROM (SELECT a.id, a.slug, a.title, a.owner_user, a.created_at, a.disabled_at,
                      CAST(CASE WHEN a.owner_user = $2 THEN 3
                                WHEN r.role = 'admin' THEN 3
                                WHEN r.role = 'operator' THEN 2
                                WHEN r.role = 'viewer' THEN 1
                                ELSE 0 END AS BIGINT) AS standing
               FROM agents a LEFT JOIN agent_access r ON r.site = a.site AND r.agent = a.id AND r.user_id = $2
               WHERE a.site = $1 AND a.deleted_at IS NULL AND ($3 = '' OR a.id = $3)
                 AND NOT EXISTS (SELECT 1 FROM people p WHERE p.site = $1 AND p.id = $2 AND p.disabled_at IS NOT NULL)) h
         WHERE h.standing >= $4
           AND ($5 = '' OR (h.created_at, h.id) > (SELECT b.created_at, b.id FROM agents b WHERE b.site = $1 AND b.id = $5))
         ORDER BY h.created_at, h.id LIMIT $6"
    )
    .bind(site.as_str())
    .bind(user.as_str())
    .bind(only.map_or("", AgentId::as_str))
    .bind(standing(least))
    .bind(after.map_or("", AgentId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    rows.into_iter()
        .map(|HeldRow(agent, rank)| {
            let role = [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(|role| standing(*role) == rank.standing);
            Ok(Held { agent: agent.try_into()?, role: role.ok_or_else(|| Error::internal("a role that is none"))? })
        })
        .collect()
}

/// The text of an agent's ceiling; nothing at all where there is no such agent.
pub(super) async fn ceiling(db: &Db, site: &SiteId, id: &AgentId) -> Result<Option<Option<String>>> {
    let row: Option<(Option<String>,)> =
        on!(db, |c| sqlx::query_as("SELECT ceiling FROM agents WHERE site = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(site.as_str())
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    Ok(row.map(|(ceiling,)| ceiling))
}

pub(super) async fn is_narrowed(db: &Db, site: &SiteId, id: &AgentId) -> Result<bool> {
    let row: Option<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT a.id FROM agents a JOIN sites s ON s.id = a.site
         WHERE a.site = $1 AND a.id = $2 AND (a.ceiling IS NOT NULL OR s.ceiling IS NOT NULL)"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    Ok(row.is_some())
}

pub(super) async fn set_ceiling(tx: &mut Tx, site: &SiteId, id: &AgentId, ceiling: Option<&str>) -> Result<bool> {
    let changed = on!(tx, |c| sqlx::query("UPDATE agents SET ceiling = $3 WHERE site = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(site.as_str())
        .bind(id.as_str())
        .bind(ceiling)
        .execute(c)
        .await?
        .rows_affected());
    Ok(changed == 1)
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

pub(super) async fn remove_roles(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query("DELETE FROM agent_access WHERE site = $1 AND user_id = $2")
        .bind(site.as_str())
        .bind(user.as_str())
        .execute(c)
        .await?
        .rows_affected()))
}

/// Disables the agents of an owner and takes them from the owner, the deleted ones too.
pub(super) async fn disown(tx: &mut Tx, site: &SiteId, owner: &UserId, now: Timestamp) -> Result<u64> {
    Ok(on!(tx, |c| sqlx::query(
        "UPDATE agents SET owner_user = NULL, disabled_at = COALESCE(disabled_at, $3) WHERE site = $1 AND owner_user = $2"
    )
    .bind(site.as_str())
    .bind(owner.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected()))
}
