//! Who may use what: the one decision, asked for everybody who might.
//!
//! 1. [`reach`] asks it for each connection that an agent was granted, [`who_can`] for each agent that was granted a
//!    connection. Grants only say whom to ask about; what comes of it, [`deliver::explain`] says, which every use asks too.
//! 2. [`at_provider`] asks it until one connection at a provider can be used now.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    agent::{self, Role},
    base::Outside,
    clock::Timestamp,
    connection::{self, Connection, Status},
    decision::{Authority, Decision, Facts, Of, Request, Who, for_agent},
    deliver::{self, Caller},
    error::{Code, Error, Result},
    grant::{self, Effect, ForWhom, Grant, Limits},
    id::{AgentId, ConnectionId, ProviderName, SiteId, UserId},
    principal::Delivery,
};

/// How many connections at a provider are asked about until one can be used: mostly one of the first can.
const FIRST: usize = 8;
/// The most that are asked about.
const MOST: usize = 100;

/// A way in which an agent may use a connection.
#[derive(Clone, Debug)]
pub struct Way {
    /// The agent, for whom it would act, and in which session or task.
    pub who: Who,
    /// The connection.
    pub connection: Connection,
    /// What becomes of a proxied call, asked in general: single operations may be refused all the same.
    pub proxy: Decision,
    /// What becomes of a reveal.
    pub reveal: Decision,
}

/// What an agent may use, and for whom, on at most `limit` connections after the one with id `after`. With it where the next
/// page begins; nothing on the last.
///
/// # Errors
/// `not_found` where there is no such agent.
pub async fn reach(
    outside: &Outside,
    site: &SiteId,
    agent: &AgentId,
    after: Option<&ConnectionId>,
    limit: u32,
) -> Result<(Vec<Way>, Option<ConnectionId>)> {
    let db = &outside.base.db;
    agent::require(db, site, agent).await?;
    let found = grant::connections_of(db, site, agent, after, limit).await?;
    let mut ways = Vec::new();
    for id in &found {
        ways.extend(ways_of(outside, site, agent, id).await?);
    }
    Ok((ways, next(found, limit)))
}

/// Which agents may use a connection, and for whom: at most `limit` agents after the one with id `after`. With it where the
/// next page begins; nothing on the last.
pub async fn who_can(
    outside: &Outside,
    site: &SiteId,
    connection: &ConnectionId,
    after: Option<&AgentId>,
    limit: u32,
) -> Result<(Vec<Way>, Option<AgentId>)> {
    let found = grant::agents_on(&outside.base.db, site, connection, after, limit).await?;
    let mut ways = Vec::new();
    for agent in &found {
        ways.extend(ways_of(outside, site, agent, connection).await?);
    }
    Ok((ways, next(found, limit)))
}

fn next<T>(found: Vec<T>, limit: u32) -> Option<T> {
    let is_full = u32::try_from(found.len()).is_ok_and(|length| length >= limit);
    found.into_iter().next_back().filter(|_| is_full)
}

/// Every way of one agent to one connection.
async fn ways_of(outside: &Outside, site: &SiteId, agent: &AgentId, connection: &ConnectionId) -> Result<Vec<Way>> {
    let (db, now) = (&outside.base.db, outside.base.clock.now());
    let Some(row) = connection::get(db, site, connection).await? else { return Ok(Vec::new()) };
    if matches!(row.status, Status::Revoked { .. }) {
        return Ok(Vec::new());
    }
    let mut ways = Vec::new();
    for who in whom_to_ask_about(outside, site, agent, &row, now).await? {
        let Some(facts) = for_agent(db, site, &who, connection).await? else { continue };
        let ask = |delivery| {
            let request = Request { delivery, operation: None, unattended: who.person.is_none() };
            deliver::explain(outside, &facts, &request, now)
        };
        let (proxy, reveal) = (ask(Delivery::Proxy), ask(Delivery::Reveal));
        if !proxy.denied() || !reveal.denied() {
            ways.push(Way { who, connection: row.clone(), proxy, reveal });
        }
    }
    Ok(ways)
}

/// Everybody for whom a grant of the agent on the connection might be. Whoever is not among them is named by no grant.
async fn whom_to_ask_about(
    outside: &Outside,
    site: &SiteId,
    agent: &AgentId,
    connection: &Connection,
    now: Timestamp,
) -> Result<BTreeSet<Who>> {
    let db = &outside.base.db;
    let gives =
        |grant: &Grant| grant.revoked_at.is_none() && grant.effect != Effect::Deny && grant.expires_at.is_none_or(|at| at > now);
    let mut all = BTreeSet::new();
    let mut operators: Option<Vec<UserId>> = None;
    for grant in grant::list(db, site, Some(agent), Some(&connection.id)).await?.into_iter().filter(gives) {
        let people: Vec<Option<UserId>> = match &grant.for_whom {
            ForWhom::Unattended => vec![None],
            ForWhom::Owner => connection.owner.user().cloned().map(Some).into_iter().collect(),
            ForWhom::People(people) => people.iter().cloned().map(Some).collect(),
            ForWhom::Operators => {
                let known = match operators.take() {
                    Some(known) => known,
                    None => operators_of(outside, site, agent).await?,
                };
                operators.insert(known).iter().cloned().map(Some).collect()
            }
            ForWhom::Anyone => Vec::new(),
        };
        for person in people {
            let (session, task) = (grant.session.clone(), grant.task.clone());
            all.insert(Who { agent: agent.clone(), person, session, task });
        }
    }
    Ok(all)
}

/// Who has a role of operator or more on an agent, its owner among them.
async fn operators_of(outside: &Outside, site: &SiteId, agent: &AgentId) -> Result<Vec<UserId>> {
    let db = &outside.base.db;
    let owner = agent::get(db, site, agent).await?.and_then(|agent| agent.owner);
    let others = agent::roles(db, site, agent).await?.into_iter().filter(|access| access.role >= Role::Operator);
    Ok(owner.into_iter().chain(others.map(|access| access.user)).collect())
}

/// About whom it is asked.
#[derive(Clone, Debug)]
pub enum Subject {
    /// The agent that shows a token, with everything that is so about that token.
    Token(Caller),
    /// An agent as if it held a fresh token without a ceiling.
    Agent(SiteId, Who),
}

impl Subject {
    /// What a decision about the subject and a connection depends on; nothing where there is no such subject.
    pub async fn facts(&self, authority: &Authority, connection: &ConnectionId) -> Result<Option<Arc<Facts>>> {
        match self {
            Subject::Token(caller) => authority.facts(&caller.token, connection).await,
            Subject::Agent(site, who) => authority.about(site, who, connection).await,
        }
    }

    /// Whether it acts for nobody.
    pub fn is_unattended(&self) -> bool {
        match self {
            Subject::Token(caller) => caller.unattended,
            Subject::Agent(_, who) => who.person.is_none(),
        }
    }

    fn of(&self) -> Of {
        match self {
            Subject::Token(caller) => Of::Token(caller.token.clone()),
            Subject::Agent(site, who) => Of::Agent(site.clone(), who.clone()),
        }
    }
}

/// A connection at a provider that the subject can use in one of the ways, with an account that can serve now. Where there is
/// none but one that needs a person's approval, that one; and where there is only one whose grant has no use left, that one with
/// its denial. Nothing where there is none of them.
///
/// `may_tell` says of which facts whoever asks may be told.
///
/// # Errors
/// `ambiguous` where there are more connections there than are asked about, and none of those can be used: that is no no.
pub async fn at_provider(
    outside: &Outside,
    authority: &Authority,
    limits: &Limits,
    subject: &Subject,
    provider: &ProviderName,
    deliveries: &[Delivery],
    may_tell: impl Fn(&Facts) -> Result<bool>,
) -> Result<Option<(ConnectionId, Decision)>> {
    let (now, of) = (outside.base.clock.now(), subject.of());
    let mut found = authority.candidates(&of, provider, FIRST, now).await?;
    let (mut asks, mut spent, mut at) = (None, None, 0);
    while let Some(id) = found.get(at).filter(|_| at < MOST).cloned() {
        at += 1;
        if at == FIRST && found.len() == FIRST {
            // They come in the order of their ids, so those that were asked about are the first of these, too.
            // One more, to know that there are more.
            found = authority.candidates(&of, provider, MOST + 1, now).await?;
        }
        let facts = match subject.facts(authority, &id).await {
            Ok(Some(facts)) => facts,
            Ok(None) => continue,
            // One row that cannot be read says nothing about the others.
            Err(error) if error.code() == Code::Internal => {
                tracing::error!(%error, detail = error.detail(), "rows that a decision needs cannot be read");
                continue;
            }
            Err(error) => return Err(error),
        };
        let can_serve = facts.connection.as_ref().is_some_and(|facts| facts.stored.connection.is_authenticated(now));
        if !may_tell(&facts)? || !can_serve {
            continue;
        }
        for delivery in deliveries {
            let request = Request { delivery: *delivery, operation: None, unattended: subject.is_unattended() };
            let decision = deliver::evaluate(outside, limits, &facts, &request, now).await?;
            match decision.effect {
                Effect::Allow => return Ok(Some((id, decision))),
                Effect::Ask => asks = asks.or_else(|| Some((id.clone(), decision))),
                Effect::Deny if decision.is_spent() => spent = spent.or_else(|| Some((id.clone(), decision))),
                Effect::Deny => {}
            }
        }
    }
    if asks.is_none() && found.len() > MOST {
        let text =
            format!("none of the first {MOST} connections at {provider} can be used, and there are more; name one by its id");
        return Err(Error::new(Code::Ambiguous, text));
    }
    Ok(asks.or(spent))
}
