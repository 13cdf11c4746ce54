//! Agents, and the roles that people have on them. An agent owns no credential by being an agent.
//!
//! A role is looked up when it is needed and never remembered. [`held`] is the one question about it: a check of one agent
//! ([`may`]) and a list of all of them cannot disagree. (The decision reads the same rows among its facts.)
//!
//! Who may give and take roles: an admin of the agent, its owner being one; the site's platform; the operator. Roles that
//! somebody gave stay when they lose theirs; tokens that they minted do not (see [`crate::decision`]).

mod store;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AgentId, SiteId, UserId},
    principal::{Actor, Ceiling},
    text,
};

/// What a person may do with an agent. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May see it.
    Viewer,
    /// May have it act.
    Operator,
    /// May change it and who else may.
    Admin,
}

impl Role {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            _ => Err(Error::new(Code::InvalidRequest, "a role is viewer, operator or admin")),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A principal with a slug, an owner and a lifecycle.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// What people type. A name, not an identity: two agents may share one.
    pub slug: String,
    /// What people read.
    pub title: String,
    /// The person it belongs to, who is its admin.
    pub owner: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is disabled.
    pub disabled_at: Option<Timestamp>,
}

/// What a new agent is made of.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// The platform's id for it; a fresh one when absent.
    pub id: Option<AgentId>,
    /// 1 to 64 of `a-z0-9_-`.
    pub slug: String,
    /// What people read; the slug when empty.
    pub title: String,
    /// The person it belongs to.
    pub owner: Option<UserId>,
}

/// An agent on which a person has a role.
#[derive(Clone, Debug)]
pub struct Held {
    /// The agent.
    pub agent: Agent,
    /// What the person may do with it.
    pub role: Role,
}

/// A person's role on an agent.
#[derive(Clone, Debug, Serialize)]
pub struct Access {
    /// The person.
    pub user: UserId,
    /// The role.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
}

/// Makes an agent. It may do nothing until something is granted to it.
///
/// # Errors
/// `conflict` for an id that is there already, and for an id or a slug by which it could be taken for another agent.
pub async fn create(base: &Base, site: &SiteId, actor: &Actor, new: NewAgent) -> Result<Agent> {
    let slug_ok = (1..=64).contains(&new.slug.len())
        && new.slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if !slug_ok {
        return Err(Error::new(Code::InvalidRequest, "an agent's slug is 1 to 64 of a-z, 0-9, - and _"));
    }
    text::check_line("title", &new.title, text::LABEL)?;
    let agent = Agent {
        id: new.id.unwrap_or_else(AgentId::fresh),
        title: if new.title.is_empty() { new.slug.clone() } else { new.title },
        slug: new.slug,
        owner: new.owner,
        created_at: base.clock.now(),
        disabled_at: None,
    };
    let mut tx = base.db.begin().await?;
    store::hold_site(&mut tx, site).await?;
    // What people type is looked up as an id first: who could make an agent whose id is another's slug would be given what was
    // meant for that one.
    if store::is_mistakable(&mut tx, site, &agent.id, &agent.slug).await? {
        return Err(Error::new(Code::Conflict, "the id is another agent's slug, or the slug another agent's id; choose another"));
    }
    store::insert(&mut tx, site, &agent, actor).await?;
    let event =
        Event::new(site, actor, "agent.create").agent(&agent.id).facts(json!({ "slug": agent.slug, "owner": agent.owner }));
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(agent)
}

/// Takes an agent over from elsewhere, with the slug and title it had there. `over` puts it in the place of one that is here
/// by its id. False where one is here already and stays.
pub async fn import(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, agent: &Agent, over: bool) -> Result<bool> {
    let done = match over {
        false => store::insert_free(tx, site, agent, actor).await?,
        true => store::update(tx, site, agent).await?,
    };
    if done {
        let facts = json!({ "slug": agent.slug, "owner": agent.owner, "imported": true });
        base.audit.record(tx, Event::new(site, actor, "agent.create").agent(&agent.id).facts(facts)).await?;
    }
    Ok(done)
}

/// Takes a role over from elsewhere. False where the person has another one here and `over` is not said.
pub async fn import_role(
    base: &Base,
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    (id, user, role): (&AgentId, &UserId, Role),
    over: bool,
) -> Result<bool> {
    match store::role_in(tx, site, id, user).await? {
        Some(present) if present == role => return Ok(true),
        Some(_) if !over => return Ok(false),
        _ => {}
    }
    store::set_role(tx, site, id, user, role, actor, base.clock.now()).await?;
    let event = Event::new(site, actor, "agent.role").agent(id).facts(json!({ "user": user, "role": role, "imported": true }));
    base.audit.record(tx, event).await?;
    Ok(true)
}

/// One agent by id.
pub async fn get(db: &Db, site: &SiteId, id: &AgentId) -> Result<Option<Agent>> {
    store::by_id(db, site, id).await
}

/// One agent by id or, where no id fits, by slug. A slug that fits two is an error that lists both.
pub async fn find(db: &Db, site: &SiteId, id_or_slug: &str) -> Result<Agent> {
    one(meant(db, site, id_or_slug).await?, id_or_slug, |agent| &agent.id)
}

/// The same among those on which a person has a role, with that role: of the others they are not told that they are there.
pub async fn find_of(db: &Db, site: &SiteId, user: &UserId, id_or_slug: &str) -> Result<(Agent, Role)> {
    let mut theirs = Vec::new();
    for agent in meant(db, site, id_or_slug).await? {
        if let Some(role) = role_of(db, site, &agent.id, user).await? {
            theirs.push((agent, role));
        }
    }
    one(theirs, id_or_slug, |(agent, _)| &agent.id)
}

/// The agents that a name may mean: the one with this id, or those with this slug.
async fn meant(db: &Db, site: &SiteId, id_or_slug: &str) -> Result<Vec<Agent>> {
    if let Ok(id) = id_or_slug.parse::<AgentId>()
        && let Some(agent) = store::by_id(db, site, &id).await?
    {
        return Ok(vec![agent]);
    }
    store::by_slug(db, site, id_or_slug).await
}

fn one<T>(mut found: Vec<T>, named: &str, id: impl Fn(&T) -> &AgentId) -> Result<T> {
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            found.push(last);
            let ids: Vec<_> = found.iter().map(|one| id(one).to_string()).collect();
            Err(Error::new(Code::Ambiguous, format!("{} agents have the slug `{named}`; name one by its id", ids.len()))
                .with_extra(json!({ "choices": ids })))
        }
        (None, _) => Err(Error::new(Code::NotFound, format!("there is no agent `{named}`"))),
    }
}

/// A site's agents, oldest first.
pub async fn list(db: &Db, site: &SiteId) -> Result<Vec<Agent>> {
    store::all(db, site).await
}

/// A page of a site's agents, the oldest first: at most `limit`, after the one with id `after`. With a person only those on
/// which they have a role, theirs among them.
pub async fn page(db: &Db, site: &SiteId, user: Option<&UserId>, after: Option<&AgentId>, limit: u32) -> Result<Vec<Agent>> {
    match user {
        None => store::page(db, site, after, limit).await,
        Some(user) => {
            let held = held(db, site, user, Role::Viewer, None, after, limit).await?;
            Ok(held.into_iter().map(|held| held.agent).collect())
        }
    }
}

/// On which agents a person has at least a role now, and which: on one agent (`only`), or a page of all of them, the oldest
/// first. The owner of an agent is its admin; a deleted agent is nobody's; a person who is disabled has no role.
pub async fn held(
    db: &Db,
    site: &SiteId,
    user: &UserId,
    least: Role,
    only: Option<&AgentId>,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<Vec<Held>> {
    store::held(db, site, user, least, only, after, limit).await
}

/// Whether a person has at least a role on an agent now.
pub async fn may(base: &Base, site: &SiteId, user: &UserId, id: &AgentId, least: Role) -> Result<bool> {
    Ok(!held(&base.db, site, user, least, Some(id), None, 1).await?.is_empty())
}

/// Disables an agent or lets it act again. Its tokens stop and start with it.
pub async fn set_disabled(base: &Base, site: &SiteId, actor: &Actor, id: &AgentId, disabled: bool) -> Result<()> {
    let mut tx = base.db.begin().await?;
    let at = disabled.then(|| base.clock.now());
    if !store::set_disabled(&mut tx, site, id, at).await? {
        return Err(not_there(id));
    }
    let action = if disabled { "agent.disable" } else { "agent.enable" };
    base.audit.record(&mut tx, Event::new(site, actor, action).agent(id)).await?;
    tx.commit().await
}

/// Deletes an agent for good: its tokens and grants count no more. What the audit says of it stays.
pub async fn delete(base: &Base, site: &SiteId, actor: &Actor, id: &AgentId) -> Result<()> {
    let mut tx = base.db.begin().await?;
    if store::delete(&mut tx, site, id, base.clock.now()).await? {
        base.audit.record(&mut tx, Event::new(site, actor, "agent.delete").agent(id)).await?;
    }
    tx.commit().await
}

/// Gives a person a role on an agent, in place of the one they had. Whether the caller may is checked before.
///
/// # Errors
/// `conflict` where the agent is theirs, and the role would be less than they have by that.
pub async fn set_role(base: &Base, site: &SiteId, actor: &Actor, id: &AgentId, user: &UserId, role: Role) -> Result<()> {
    let agent = require(&base.db, site, id).await?;
    if role < Role::Admin {
        refuse_owner(&agent, user)?;
    }
    let mut tx = base.db.begin().await?;
    store::set_role(&mut tx, site, id, user, role, actor, base.clock.now()).await?;
    let event = Event::new(site, actor, "agent.role").agent(id).facts(json!({ "user": user, "role": role }));
    base.audit.record(&mut tx, event).await?;
    tx.commit().await
}

/// Takes a person's role on an agent away. Doing it again changes nothing.
///
/// # Errors
/// `conflict` where the agent is theirs: they would be its admin all the same.
pub async fn remove_role(base: &Base, site: &SiteId, actor: &Actor, id: &AgentId, user: &UserId) -> Result<()> {
    refuse_owner(&require(&base.db, site, id).await?, user)?;
    let mut tx = base.db.begin().await?;
    if store::remove_role(&mut tx, site, id, user).await? {
        let event = Event::new(site, actor, "agent.role").agent(id).facts(json!({ "user": user, "role": null }));
        base.audit.record(&mut tx, event).await?;
    }
    tx.commit().await
}

/// Nobody is told that an owner's role is gone, because it is not.
fn refuse_owner(agent: &Agent, user: &UserId) -> Result<()> {
    if agent.owner.as_ref() != Some(user) {
        return Ok(());
    }
    Err(Error::new(
        Code::Conflict,
        format!("the agent belongs to user {user}, who is its admin by that; disable the person or the agent"),
    ))
}

/// Who has which role on an agent, besides its owner.
pub async fn roles(db: &Db, site: &SiteId, id: &AgentId) -> Result<Vec<Access>> {
    store::roles(db, site, id).await
}

/// The live role of a person on an agent that must be there.
pub async fn role_of(db: &Db, site: &SiteId, id: &AgentId, user: &UserId) -> Result<Option<Role>> {
    require(db, site, id).await?;
    Ok(held(db, site, user, Role::Viewer, Some(id), None, 1).await?.pop().map(|held| held.role))
}

/// What narrows all tokens of an agent; absent for none.
///
/// # Errors
/// `not_found`; `internal` where it cannot be read, and so everything is denied.
pub async fn ceiling(db: &Db, site: &SiteId, id: &AgentId) -> Result<Option<Ceiling>> {
    let stored = store::ceiling(db, site, id).await?.ok_or_else(|| not_there(id))?;
    Ceiling::from_column(stored.as_deref())
}

/// Whether something narrows all tokens of an agent: a ceiling of its own or its site's, readable or not.
pub async fn is_narrowed(db: &Db, site: &SiteId, id: &AgentId) -> Result<bool> {
    store::is_narrowed(db, site, id).await
}

/// Narrows all tokens of an agent from the next request on, or lets them be; in place of what narrowed them before.
///
/// # Errors
/// `not_found`; `invalid_request` for lists without an end.
pub async fn set_ceiling(base: &Base, site: &SiteId, actor: &Actor, id: &AgentId, ceiling: Option<&Ceiling>) -> Result<()> {
    let column = Ceiling::to_column(ceiling)?;
    let mut tx = base.db.begin().await?;
    if !store::set_ceiling(&mut tx, site, id, column.as_deref()).await? {
        return Err(not_there(id));
    }
    let event = Event::new(site, actor, "agent.ceiling").agent(id).facts(json!({ "ceiling": ceiling }));
    base.audit.record(&mut tx, event).await?;
    tx.commit().await
}

/// What erasing a person changes about agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Roles that are gone.
    pub roles: u64,
    /// Agents that were the person's: they are disabled, and belong to nobody.
    pub agents: u64,
}

/// Takes a person's roles and agents from them, in the transaction that erases the person. An agent without its owner does not
/// go on by itself: who has the role of admin on it, or the platform, may let it act again.
pub async fn forget_person(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<Forgotten> {
    Ok(Forgotten { roles: store::remove_roles(tx, site, user).await?, agents: store::disown(tx, site, user, now).await? })
}

/// One agent that must be there.
pub async fn require(db: &Db, site: &SiteId, id: &AgentId) -> Result<Agent> {
    get(db, site, id).await?.ok_or_else(|| not_there(id))
}

fn not_there(id: &AgentId) -> Error {
    Error::new(Code::NotFound, format!("there is no agent `{id}`"))
}
