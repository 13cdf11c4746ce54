//! Grants: an agent's permission to use a connection, for somebody, in some way, for some time.
//!
//! A new agent may do nothing. A grant is revoked by its row; nothing cascades by writing: a grant counts only
//! while its connection, agent, grantor and token count, and the decision's one look-up checks that.
//!
//! A grant allows, asks or denies ([`Effect`]). One that asks or denies also narrows the others: where it speaks of a use,
//! no other grant lets that use pass without asking, or at all.

mod operations;
mod rate;
mod store;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{AgentId, ConnectionId, GrantId, SessionName, SiteId, TaskName, UserId},
    principal::{Actor, Delivery},
    text,
};

pub use operations::Operations;
pub use rate::{Limits, Rate};

/// What a grant does where it fits, and what a decision comes to. A later one beats an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It may be done.
    #[default]
    Allow,
    /// It may be done once a person has approved it.
    Ask,
    /// It may not.
    Deny,
}

impl Effect {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Ask => "ask",
            Effect::Deny => "deny",
        }
    }
}

/// For whom the agent may use the connection (decisions 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForWhom {
    /// The proven calling person is the connection's owner.
    Owner,
    /// No person is calling: schedules, pipelines.
    Unattended,
    /// Anyone with the role of operator or more on the agent.
    Operators,
    /// Whoever calls, and calls without a person. Only a denial is for anyone.
    Anyone,
    /// These people.
    #[serde(untagged)]
    People(BTreeSet<UserId>),
}

/// A permission to use a connection.
#[derive(Clone, Debug, Serialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Who may use it.
    pub agent: AgentId,
    /// What may be used.
    pub connection: ConnectionId,
    /// Whether it allows, asks or denies.
    pub effect: Effect,
    /// For whom.
    pub for_whom: ForWhom,
    /// Only for tokens that were minted for this session.
    pub session: Option<SessionName>,
    /// Only for tokens that were minted for this task.
    pub task: Option<TaskName>,
    /// How the credential may reach its use; of a denial: how it may not.
    pub delivery: BTreeSet<Delivery>,
    /// The provider's scopes that the account's token may have at most. Where it has more, nothing is allowed but named
    /// operations through the proxy, for a token cannot be narrowed. Absent means those the connection has.
    pub scopes: Option<BTreeSet<String>>,
    /// The operations it is about, through the proxy; absent means all that the definition allows.
    pub operations: Option<Operations>,
    /// How often it may be used in a stretch of time.
    pub rate: Option<Rate>,
    /// How often it may be used in all.
    pub max_uses: Option<i64>,
    /// How often it was used; counted only where there is a limit.
    pub uses: i64,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Why, in the grantor's words.
    pub note: String,
    /// The person who granted it; absent where the site itself did.
    pub grantor: Option<UserId>,
    /// Since when.
    pub created_at: Timestamp,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What a new grant is made of. Whether the caller may dispose of the connection is checked before.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// Who may use it.
    pub agent: AgentId,
    /// What may be used.
    pub connection: ConnectionId,
    /// Whether it allows, asks or denies.
    pub effect: Effect,
    /// For whom.
    pub for_whom: ForWhom,
    /// Only for tokens of this session.
    pub session: Option<SessionName>,
    /// Only for tokens of this task.
    pub task: Option<TaskName>,
    /// How; the proxy when empty, and of a denial every way.
    pub delivery: BTreeSet<Delivery>,
    /// The most scopes that the account's token may have.
    pub scopes: Option<BTreeSet<String>>,
    /// The operations.
    pub operations: Option<Operations>,
    /// How often in a stretch of time.
    pub rate: Option<Rate>,
    /// How often in all.
    pub max_uses: Option<i64>,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Why.
    pub note: String,
    /// The person who grants it.
    pub grantor: Option<UserId>,
}

impl NewGrant {
    /// A grant of the proxy only, without limits.
    pub fn proxy(agent: &AgentId, connection: &ConnectionId, for_whom: ForWhom) -> Self {
        Self {
            agent: agent.clone(),
            connection: connection.clone(),
            effect: Effect::Allow,
            for_whom,
            session: None,
            task: None,
            delivery: BTreeSet::from([Delivery::Proxy]),
            scopes: None,
            operations: None,
            rate: None,
            max_uses: None,
            expires_at: None,
            note: String::new(),
            grantor: None,
        }
    }
}

/// Grants, in a transaction of its own.
pub async fn create(base: &Base, site: &SiteId, actor: &Actor, new: NewGrant) -> Result<Grant> {
    let mut tx = base.db.begin().await?;
    let grant = create_in(base, &mut tx, site, actor, new).await?;
    tx.commit().await?;
    Ok(grant)
}

/// Grants, in the transaction that stores what is granted.
pub async fn create_in(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, mut new: NewGrant) -> Result<Grant> {
    let now = base.clock.now();
    if new.delivery.is_empty() {
        new.delivery.insert(Delivery::Proxy);
        if new.effect == Effect::Deny {
            new.delivery.insert(Delivery::Reveal);
        }
    }
    check_effect(&new)?;
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::new(Code::InvalidRequest, "expires_at is in the past"));
    }
    if new.max_uses.is_some_and(|n| n < 1) {
        return Err(Error::new(Code::InvalidRequest, "max_uses is at least 1"));
    }
    if matches!(&new.for_whom, ForWhom::People(people) if people.is_empty()) {
        return Err(Error::new(Code::InvalidRequest, "for_whom: a list of people names at least one"));
    }
    text::check("note", &new.note, text::NOTE)?;
    if let ForWhom::People(people) = &new.for_whom {
        text::check_list("for_whom", people.len(), text::LIST)?;
    }
    if let Some(scopes) = &new.scopes {
        text::check_list("scopes", scopes.len(), text::LIST)?;
        scopes.iter().try_for_each(|scope| text::check("scopes", scope, text::NOTE))?;
    }
    text::check_list("operations", new.operations.as_ref().map_or(0, |operations| operations.patterns.len()), text::LIST)?;
    if !store::both_live(tx, site, &new.agent, &new.connection).await? {
        return Err(Error::new(Code::NotFound, "there is no such agent or no such connection"));
    }
    let grant = Grant::made(new, now);
    store::insert(tx, site, &grant, actor).await?;
    base.audit.record(tx, created(site, actor, &grant)).await?;
    Ok(grant)
}

/// Refuses what would not mean anything beside the effect. A limit on a denial would read as if it were lifted some day.
fn check_effect(new: &NewGrant) -> Result<()> {
    let is_denial = new.effect == Effect::Deny;
    let wrong = match new {
        _ if is_denial && (new.max_uses.is_some() || new.rate.is_some()) => {
            "max_uses, rate: a denial has no limits; leave them out"
        }
        _ if is_denial && new.scopes.is_some() => "scopes: a denial names operations, or is about everything",
        _ if !is_denial && new.for_whom == ForWhom::Anyone => {
            "for_whom: only a denial is for `anyone`; say `owner`, `unattended`, `operators` or a list of people"
        }
        _ => return Ok(()),
    };
    Err(Error::new(Code::InvalidRequest, wrong))
}

/// Makes many grants at once, in the transaction in which the caller saw that their agents and connections live.
pub async fn create_many(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, all: &[NewGrant]) -> Result<()> {
    let now = base.clock.now();
    for new in all.chunks(MANY) {
        let grants: Vec<Grant> = new.iter().map(|new| Grant::made(new.clone(), now)).collect();
        store::insert_many(tx, site, &grants, actor).await?;
        let events: Vec<Event> = grants.iter().map(|grant| created(site, actor, grant)).collect();
        base.audit.record_many(tx, &events).await?;
    }
    Ok(())
}

/// How many grants one statement inserts.
const MANY: usize = 64;

/// What the audit says of a new grant.
fn created(site: &SiteId, actor: &Actor, grant: &Grant) -> Event {
    let operations = grant.operations.as_ref();
    let facts = json!({
        "grant": grant.id, "effect": grant.effect, "for_whom": grant.for_whom, "session": grant.session, "task": grant.task,
        "delivery": grant.delivery, "scopes": grant.scopes, "operations": operations.map(|o| &o.patterns),
        "operation_names": operations.map(|o| &o.names), "rate": grant.rate, "max_uses": grant.max_uses,
        "expires_at": grant.expires_at, "grantor": grant.grantor,
    });
    Event::new(site, actor, "grant.create").agent(&grant.agent).connection(&grant.connection).facts(facts)
}

impl Grant {
    fn made(new: NewGrant, now: Timestamp) -> Self {
        Self {
            id: GrantId::new(),
            agent: new.agent,
            connection: new.connection,
            effect: new.effect,
            for_whom: new.for_whom,
            session: new.session,
            task: new.task,
            delivery: new.delivery,
            scopes: new.scopes,
            operations: new.operations,
            rate: new.rate,
            max_uses: new.max_uses,
            uses: 0,
            expires_at: new.expires_at,
            note: new.note,
            grantor: new.grantor,
            created_at: now,
            revoked_at: None,
        }
    }
}

/// One grant by id.
pub async fn get(db: &Db, site: &SiteId, id: &GrantId) -> Result<Option<Grant>> {
    store::by_id(db, site, id).await
}

/// The live and ended grants of an agent, a connection, both or all, oldest first.
pub async fn list(db: &Db, site: &SiteId, agent: Option<&AgentId>, connection: Option<&ConnectionId>) -> Result<Vec<Grant>> {
    store::list(db, site, agent, connection).await
}

/// A page of a site's grants, the oldest first, the ended ones among them: at most `limit`, after the one with id `after`.
pub async fn page(
    db: &Db,
    site: &SiteId,
    agent: Option<&AgentId>,
    connection: Option<&ConnectionId>,
    after: Option<&GrantId>,
    limit: u32,
) -> Result<Vec<Grant>> {
    store::page(db, site, agent, connection, after, limit).await
}

/// The connections that an agent has a grant on which is not revoked, by id: at most `limit`, after the one with id `after`.
pub async fn connections_of(
    db: &Db,
    site: &SiteId,
    agent: &AgentId,
    after: Option<&ConnectionId>,
    limit: u32,
) -> Result<Vec<ConnectionId>> {
    store::connections_of(db, site, agent, after, limit).await
}

/// The agents with a grant on a connection which is not revoked, by id: at most `limit`, after the one with id `after`.
pub async fn agents_on(
    db: &Db,
    site: &SiteId,
    connection: &ConnectionId,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<Vec<AgentId>> {
    store::agents_on(db, site, connection, after, limit).await
}

/// What has to be known of a grant to take it back: also of one whose terms cannot be read.
#[derive(Clone, Debug)]
pub struct Between {
    /// Whose it is.
    pub agent: AgentId,
    /// On what.
    pub connection: ConnectionId,
    /// Whether it only allows. One that asks or denies holds others back.
    pub allows: bool,
}

/// Between whom a grant is.
pub async fn between(db: &Db, site: &SiteId, id: &GrantId) -> Result<Option<Between>> {
    let Some((agent, connection, effect)) = store::between(db, site, id).await? else { return Ok(None) };
    Ok(Some(Between { agent: agent.parse()?, connection: connection.parse()?, allows: effect == Effect::Allow.as_str() }))
}

/// Takes a grant back: no request that arrives after this returned is served by it. Doing it again changes nothing.
pub async fn revoke(base: &Base, site: &SiteId, actor: &Actor, id: &GrantId, reason: &str) -> Result<()> {
    text::check("reason", reason, text::NOTE)?;
    let Some(grant) = between(&base.db, site, id).await? else {
        return Err(Error::new(Code::NotFound, format!("there is no grant `{id}`")));
    };
    let mut tx = base.db.begin().await?;
    if store::revoke(&mut tx, site, id, actor, reason, base.clock.now()).await? {
        let event = Event::new(site, actor, "grant.revoke")
            .agent(&grant.agent)
            .connection(&grant.connection)
            .facts(json!({ "grant": id, "reason": reason }));
        base.audit.record(&mut tx, event).await?;
    }
    tx.commit().await
}

/// Takes back every grant that a person made, in the transaction that erases the person. Says how many lived.
pub async fn revoke_of_person(
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    user: &UserId,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    store::revoke_of_person(tx, site, user, actor, reason, now).await
}

/// Takes a person out of the lists of those whom grants are for, in the transaction that erases the person. A list in which nobody
/// is left is for nobody.
pub async fn forget_person(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    for (id, stored) in store::naming(tx, site, user).await? {
        // One that cannot be read denies everything, and may say more than we know.
        let Ok(ForWhom::People(mut people)) = serde_json::from_str(&stored) else { continue };
        if people.remove(user) {
            store::set_for_whom(tx, site, &id, &ForWhom::People(people)).await?;
        }
    }
    Ok(())
}

/// Takes one use of a grant that has a count limit. False means that none is left.
///
/// It is one compare-and-set, so that two replicas cannot both take the last one.
pub async fn take_use(db: &Db, site: &SiteId, id: &GrantId) -> Result<bool> {
    let mut tx = db.begin().await?;
    let taken = take_use_in(&mut tx, site, id).await?;
    tx.commit().await?;
    Ok(taken)
}

/// The same in a transaction that takes something else with it.
pub(crate) async fn take_use_in(tx: &mut Tx, site: &SiteId, id: &GrantId) -> Result<bool> {
    store::take_use(tx, site, id).await
}
