//! What is a signed-in person's own: their connected accounts, the agents that may use each, and the taking back.
//!
//! A session decides nothing about others: every call here is held to the person's own connections, and what is somebody
//! else's is not there at all.

use std::collections::BTreeMap;

use crate::{
    agent::{self, Agent, Role},
    base::Outside,
    connection::{self, Connection, Filter, Status},
    error::{Code, Error, Result},
    grant::{self, Grant},
    id::{AgentId, ConnectionId, GrantId},
    principal::Owner,
    revoke::{self, Ended, UpstreamWish},
    session::Session,
};

/// The most agents that are listed.
const MOST_AGENTS: u32 = 200;

/// A connected account with whoever may use it.
#[derive(Clone, Debug)]
pub struct Account {
    /// The account.
    pub connection: Connection,
    /// The provider's name for people.
    pub title: String,
    /// The permissions that have not ended.
    pub grants: Vec<Permission>,
}

/// A permission to use an account.
#[derive(Clone, Debug)]
pub struct Permission {
    /// The permission.
    pub grant: Grant,
    /// Who has it.
    pub agent: Agent,
}

/// An agent on which the person has a role.
#[derive(Clone, Debug)]
pub struct OwnAgent {
    /// The agent.
    pub agent: Agent,
    /// What the person may do with it.
    pub role: Role,
}

/// The person's connected accounts, the oldest first.
pub async fn accounts(outside: &Outside, session: &Session) -> Result<Vec<Account>> {
    let (db, site, now) = (&outside.base.db, &session.site, outside.base.clock.now());
    let filter = Filter { owner: Some(Owner::User(session.user.clone())), ..Filter::default() };
    let mut agents: BTreeMap<AgentId, Option<Agent>> = BTreeMap::new();
    let mut accounts = Vec::new();
    for connection in connection::list(db, site, &filter).await? {
        let mut grants = Vec::new();
        for grant in grant::list(db, site, None, Some(&connection.id)).await? {
            if grant.revoked_at.is_some() || grant.expires_at.is_some_and(|at| at <= now) {
                continue;
            }
            let agent = match agents.get(&grant.agent) {
                Some(known) => known.clone(),
                None => {
                    let found = agent::get(db, site, &grant.agent).await?;
                    agents.entry(grant.agent.clone()).or_insert(found).clone()
                }
            };
            // The permission of an agent that was deleted counts no more.
            if let Some(agent) = agent {
                grants.push(Permission { grant, agent });
            }
        }
        let title = match outside.catalogue.get(&connection.provider) {
            Some(definition) => definition.title.clone(),
            None => connection.provider.to_string(),
        };
        accounts.push(Account { connection, title, grants });
    }
    Ok(accounts)
}

/// The agents on which the person has a role, the oldest first, up to two hundred.
pub async fn agents(outside: &Outside, session: &Session) -> Result<Vec<OwnAgent>> {
    let (db, site) = (&outside.base.db, &session.site);
    let mut own = Vec::new();
    for agent in agent::page(db, site, Some(&session.user), None, MOST_AGENTS).await? {
        // It may have been taken away since the page was read.
        if let Some(role) = agent::role_of(db, site, &agent.id, &session.user).await? {
            own.push(OwnAgent { agent, role });
        }
    }
    Ok(own)
}

/// One of the person's connected accounts, that is not over.
async fn account(outside: &Outside, session: &Session, id: &ConnectionId) -> Result<Connection> {
    let found = connection::get(&outside.base.db, &session.site, id).await?;
    let own = found.filter(|connection| {
        connection.owner.user() == Some(&session.user) && !matches!(connection.status, Status::Revoked { .. })
    });
    own.ok_or_else(|| Error::new(Code::NotFound, "there is no such connected account of yours"))
}

/// Takes back a permission to use one of the person's accounts, whoever granted it. Doing it again changes nothing.
///
/// # Errors
/// `not_found` where there is no such permission on an account of theirs.
pub async fn take_back(outside: &Outside, session: &Session, id: &GrantId) -> Result<()> {
    let base = &outside.base;
    let missing = || Error::new(Code::NotFound, "there is no such permission on an account of yours");
    let grant = grant::get(&base.db, &session.site, id).await?.ok_or_else(missing)?;
    let connection = connection::get(&base.db, &session.site, &grant.connection).await?;
    if connection.is_none_or(|connection| connection.owner.user() != Some(&session.user)) {
        return Err(missing());
    }
    grant::revoke(base, &session.site, &session.actor(), id, "taken back by the account's owner").await
}

/// Disconnects one of the person's accounts: it is refused everywhere from now on, and its tokens are revoked at the provider
/// where that can be done.
///
/// # Errors
/// `fresh_proof_needed`; `not_found` where there is none of that id that is theirs; what a resolver says that holds the account
/// by now.
pub async fn disconnect(outside: &Outside, session: &Session, id: &ConnectionId) -> Result<Ended> {
    session.require_fresh(outside.base.clock.now())?;
    let connection = account(outside, session, id).await?;
    let why = "disconnected by its owner";
    revoke::connection(outside, &session.site, &session.actor(), &connection.id, why, UpstreamWish::IfPossible).await
}
