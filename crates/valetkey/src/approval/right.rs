//! Who may answer: the one rule for approvals and for proposals.
//!
//! The requester is the agent, for an agent is what a question guards against. It never answers, whatever its token may do: nothing
//! that a token proves makes a [`Decider`], neither its own nor one that it got for it, and no call is made by a session. A
//! person answers for what is theirs, and has the role of operator or more on the agent that asks; also where the agent acts for
//! that very person, who is asked so that nothing is done in their name unseen.
//!
//! What belongs to no person is answered by whoever administers the site, as a second pair of eyes: so not in the name of a person
//! who is behind the request, by having the agent act or by having given it its token; and not by a platform in nobody's name, which
//! may have minted that token itself.

use crate::{
    agent::{self, Role},
    base::Base,
    error::{Code, Error, Result},
    id::{AgentId, SiteId, UserId},
    platform,
    principal::{Actor, Owner},
};

/// Who answers.
#[derive(Clone, Debug)]
pub struct Decider {
    /// Who it is. A person by their session, or by a platform that may speak for them; or whoever holds the machine.
    pub actor: Actor,
    /// Whether they dispose of what belongs to the site and its agents.
    pub administers: bool,
}

/// What an answer is about.
pub(crate) struct About<'a> {
    /// The agent that asks.
    pub(crate) agent: &'a AgentId,
    /// Who is behind it: the person for whom it asks, or for or by whom its token was minted; and whoever minted that, where it is
    /// another. Nobody where both are absent.
    pub(crate) behind: [Option<&'a UserId>; 2],
    /// Whose is what it asks for.
    pub(crate) owner: &'a Owner,
}

/// Refuses whoever may not answer.
///
/// Errors: `forbidden`, with what is missing.
pub(crate) async fn require(base: &Base, site: &SiteId, by: &Decider, about: &About<'_>) -> Result<()> {
    let refused = |text: String| Err(Error::new(Code::Forbidden, text));
    let who = by.actor.user();
    if let Some(user) = who
        && platform::person_is_disabled(&base.db, site, user).await?
    {
        return refused(format!("user {user} is disabled"));
    }
    match (&by.actor, about.owner) {
        (Actor::Operator | Actor::LocalUser { .. }, _) => return Ok(()),
        (Actor::Agent { .. } | Actor::System, _) => return refused("a person answers this, and no agent".to_owned()),
        (Actor::User(_) | Actor::Platform { .. }, Owner::User(owner)) => {
            if who != Some(owner) {
                return refused(format!("user {owner}, whose account it is, answers this"));
            }
            let held = match agent::get(&base.db, site, about.agent).await? {
                Some(_) => agent::role_of(&base.db, site, about.agent, owner).await?,
                None => None,
            };
            if held < Some(Role::Operator) {
                return refused(format!("user {owner} has no role of operator or more on the agent"));
            }
        }
        (Actor::User(_) | Actor::Platform { .. }, Owner::Site | Owner::Agent(_)) => {
            if !by.administers {
                return refused("whoever administers the site answers this".to_owned());
            }
            // The account is not theirs, so a second pair of eyes is what the question is for.
            if who.is_none() {
                return refused("a person answers this: name them in Valet-User, or answer at the command line".to_owned());
            }
            if about.behind.contains(&who) {
                return refused("somebody else than the person who is behind the request answers this".to_owned());
            }
        }
    }
    if let Actor::Platform { key, .. } = &by.actor
        && !platform::is_live(&base.db, site, key, base.clock.now()).await?
    {
        return refused("the platform key has ended".to_owned());
    }
    Ok(())
}
