//! What is a signed-in person's own: their connected accounts, the agents that may use each, the programs that they let in, the
//! taking back, and what waits for their word.
//!
//! A session decides nothing about others: every call here is held to the person's own connections, and what is somebody
//! else's is not there at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    agent::{self, Agent, Role},
    approval::{self, Approval, Decider},
    base::Outside,
    connect,
    connection::{self, Connection, Filter, Status},
    error::{Code, Error, Result},
    grant::{self, Effect, Grant},
    id::{AgentId, ApprovalId, ConnectionId, FamilyId, GrantId, ProposalId},
    oauth::client,
    principal::Owner,
    proposal::{self, Proposal, Terms},
    revoke::{self, Ended, UpstreamWish},
    session::Session,
    token::family::{self, Family},
};

/// The most agents that are listed.
const MOST_AGENTS: u32 = 200;
/// The most questions of a kind that are listed.
const MOST_QUESTIONS: u32 = 200;

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

/// A program that the person let act through an agent.
#[derive(Clone, Debug)]
pub struct Program {
    /// The consent.
    pub consent: Family,
    /// What the program is called.
    pub name: String,
    /// What the agent is called.
    pub agent: String,
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
        accounts.push(Account { title: title(outside, &connection), connection, grants });
    }
    Ok(accounts)
}

/// The provider's name for people.
fn title(outside: &Outside, connection: &Connection) -> String {
    let definition = outside.catalogue.get(&connection.provider);
    definition.map_or_else(|| connection.provider.to_string(), |definition| definition.title.clone())
}

/// What those of these accounts that are the person's are called: where they are, who they are there, and which of several. Of what
/// is somebody else's nothing is told.
pub async fn names(
    outside: &Outside,
    session: &Session,
    ids: &BTreeSet<&ConnectionId>,
) -> Result<BTreeMap<ConnectionId, String>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let own = Filter { owner: Some(Owner::User(session.user.clone())), ..Filter::default() };
    let mut names = BTreeMap::new();
    for connection in connection::list(&outside.base.db, &session.site, &own).await? {
        if !ids.contains(&connection.id) {
            continue;
        }
        let mut name = title(outside, &connection);
        if let Some(subject) = connection.subject_name.as_ref().or(connection.subject.as_ref()) {
            name = format!("{name}: {subject}");
        }
        if !connection.name.is_default() {
            name = format!("{name} ({})", connection.name);
        }
        names.insert(connection.id, name);
    }
    Ok(names)
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
/// `not_found` where there is no such permission on an account of theirs; `fresh_proof_needed` for one that asks or denies: it
/// holds others back, so to take it away is to give.
pub async fn take_back(outside: &Outside, session: &Session, id: &GrantId) -> Result<()> {
    let base = &outside.base;
    let missing = || Error::new(Code::NotFound, "there is no such permission on an account of yours");
    let grant = grant::get(&base.db, &session.site, id).await?.ok_or_else(missing)?;
    let connection = connection::get(&base.db, &session.site, &grant.connection).await?;
    if connection.is_none_or(|connection| connection.owner.user() != Some(&session.user)) {
        return Err(missing());
    }
    if grant.effect != Effect::Allow {
        session.require_fresh(base.clock.now())?;
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

/// One of the person's connected accounts, with the provider's name for people.
///
/// # Errors
/// `not_found` where there is none of that id that is theirs.
pub async fn connected(outside: &Outside, session: &Session, id: &ConnectionId) -> Result<(Connection, String)> {
    let connection = account(outside, session, id).await?;
    let title = title(outside, &connection);
    Ok((connection, title))
}

/// A link by which the person connects one of their accounts again, for what it was asked for before: before it dies of age, or
/// after its provider took the tokens back.
///
/// # Errors
/// `not_found` where there is none of that id that is theirs; as [`connect::again::create`].
pub async fn reconnect(outside: &Outside, session: &Session, id: &ConnectionId) -> Result<connect::session::Created> {
    let connection = account(outside, session, id).await?;
    let wanted = connect::again::Wanted::default();
    connect::again::create(outside, &session.site, &session.actor(), &connection.id, wanted).await
}

/// The programs that the person let act through an agent, the newest consent first.
pub async fn programs(outside: &Outside, session: &Session) -> Result<Vec<Program>> {
    let (db, site) = (&outside.base.db, &session.site);
    let filter = family::Filter { person: Some(session.user.clone()), ..family::Filter::default() };
    let mut programs = Vec::new();
    for consent in family::list(db, site, &filter, outside.base.clock.now()).await? {
        let client = client::get(db, site, &consent.client).await?;
        let agent = agent::get(db, site, &consent.agent).await?;
        programs.push(Program {
            name: client.map_or_else(|| consent.client.to_string(), |client| client.name),
            agent: agent.map_or_else(|| consent.agent.to_string(), |agent| agent.title),
            consent,
        });
    }
    Ok(programs)
}

/// Ends what the person consented to, with every token that came of it. Doing it again changes nothing.
///
/// # Errors
/// `not_found` where there is no such consent of theirs.
pub async fn end_program(outside: &Outside, session: &Session, id: &FamilyId) -> Result<()> {
    let base = &outside.base;
    let found = family::get(&base.db, &session.site, id).await?;
    if found.is_none_or(|consent| consent.person != session.user) {
        return Err(Error::new(Code::NotFound, "there is no such program of yours"));
    }
    family::end(base, &session.site, &session.actor(), id, "ended by the person").await.map(|_| ())
}

/// What waits for the person's word, the oldest first.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Calls with an account of theirs.
    pub approvals: Vec<Approval>,
    /// What agents ask them for.
    pub proposals: Vec<Proposal>,
}

/// What waits for the person's word.
pub async fn questions(outside: &Outside, session: &Session) -> Result<Questions> {
    let (base, site, owner) = (&outside.base, &session.site, Owner::User(session.user.clone()));
    let held = approval::Which { owner: Some(&owner), waiting: true, ..approval::Which::default() };
    let asked = proposal::Which { addressee: Some(&session.user), waiting: true, ..proposal::Which::default() };
    Ok(Questions {
        approvals: approval::page(base, site, &held, None, MOST_QUESTIONS).await?,
        proposals: proposal::page(base, site, &asked, None, MOST_QUESTIONS).await?,
    })
}

/// One call with an account of the person's that waits, or waited, for their word.
///
/// # Errors
/// `not_found` where there is none of that id that is theirs to answer.
pub async fn held(outside: &Outside, session: &Session, id: &ApprovalId) -> Result<Approval> {
    let found = approval::get(&outside.base.db, &session.site, id).await?;
    let own = found.filter(|found| found.owner.user() == Some(&session.user));
    own.ok_or_else(|| Error::new(Code::NotFound, "there is no call that waits for you"))
}

/// The person says yes to a call with an account of theirs.
///
/// # Errors
/// `fresh_proof_needed`; as [`held`] and [`approval::approve`].
pub async fn approve(outside: &Outside, session: &Session, id: &ApprovalId) -> Result<Approval> {
    session.require_fresh(outside.base.clock.now())?;
    held(outside, session, id).await?;
    approval::approve(&outside.base, &session.site, &decider(session), id).await
}

/// The person says no to a call with an account of theirs. That is no danger, so any session will do.
///
/// # Errors
/// As [`held`] and [`approval::refuse`].
pub async fn refuse(outside: &Outside, session: &Session, id: &ApprovalId, reason: &str) -> Result<Approval> {
    held(outside, session, id).await?;
    approval::refuse(&outside.base, &session.site, &decider(session), id, reason).await
}

/// What an agent asks the person for, with the accounts of theirs that it could be granted.
///
/// # Errors
/// `not_found` where there is none of that id that is theirs to answer.
pub async fn asked(outside: &Outside, session: &Session, id: &ProposalId) -> Result<(Proposal, Vec<Connection>)> {
    let found = proposal::get(&outside.base.db, &session.site, id).await?;
    let own = found.filter(|found| found.addressee.as_ref() == Some(&session.user));
    let own = own.ok_or_else(|| Error::new(Code::NotFound, "there is nothing that an agent asks you for by that name"))?;
    let filter = Filter { owner: Some(Owner::User(session.user.clone())), ..Filter::default() };
    let mut choices = connection::list(&outside.base.db, &session.site, &filter).await?;
    choices.retain(|choice| match &own.connection {
        Some(named) => choice.id == *named,
        None => choice.provider == own.provider,
    });
    Ok((own, choices))
}

/// A link by which the person connects an account for what an agent asks for, where they have none at that provider.
///
/// # Errors
/// As [`asked`] and [`connect::session::create`]; `conflict` where it was answered, where an account is named, or where there is one.
pub async fn connect(outside: &Outside, session: &Session, id: &ProposalId) -> Result<connect::session::Created> {
    let (asked, choices) = asked(outside, session, id).await?;
    let conflict = |text: &'static str| Err(Error::new(Code::Conflict, text));
    if asked.status(outside.base.clock.now()) != proposal::Status::Pending {
        return conflict("this was answered already");
    }
    if asked.connection.is_some() || !choices.is_empty() {
        return conflict("there is an account to choose; load the page anew");
    }
    let owner = Owner::User(session.user.clone());
    let new =
        connect::session::NewSession { agent: Some(asked.agent), ..connect::session::NewSession::new(asked.provider, owner) };
    connect::session::create(outside, &session.site, &session.actor(), new).await
}

/// The person grants what an agent asks for, or less.
///
/// # Errors
/// `fresh_proof_needed`; as [`asked`] and [`proposal::accept`].
pub async fn accept(outside: &Outside, session: &Session, id: &ProposalId, terms: Terms) -> Result<Grant> {
    session.require_fresh(outside.base.clock.now())?;
    asked(outside, session, id).await?;
    Ok(proposal::accept(outside, &session.site, &decider(session), id, terms).await?.1)
}

/// The person grants nothing.
///
/// # Errors
/// As [`asked`] and [`proposal::refuse`].
pub async fn decline(outside: &Outside, session: &Session, id: &ProposalId, reason: &str) -> Result<Proposal> {
    asked(outside, session, id).await?;
    proposal::refuse(&outside.base, &session.site, &decider(session), id, reason).await
}

/// The person as somebody who answers: for what is theirs, and for nothing of the site's.
fn decider(session: &Session) -> Decider {
    Decider { actor: session.actor(), administers: false }
}
