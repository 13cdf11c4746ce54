//! What a request says of itself: who is acting, for whom, and which of them a policy may choose between.
//!
//! 1. A [`RequestContext`] says where a request comes from, and with that who is calling (mission document 001): a person,
//!    or nobody. Who owns the agent, or who set up the schedule, is not the one who calls.
//! 2. A [`Context`] holds the principals that a policy may choose between (mission document 004): those that the caller
//!    named, and those that are acting anyway.
//! 3. A [`Policy`] chooses: [`Context::owner`] is the whole table, a pure function.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    id::{AgentId, UserId},
    principal::{Actor, Owner, Principal},
};

/// Whose credential applies where a caller leaves that to the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The site's, whoever acts.
    #[default]
    Site,
    /// The person's.
    User,
    /// The agent's. People do not count.
    Agent,
    /// The agent's where the caller named one, else the person's where the caller named one, else whoever acts.
    Principal,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 4] = [Policy::Site, Policy::User, Policy::Agent, Policy::Principal];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Site => "site",
            Policy::User => "user",
            Policy::Agent => "agent",
            Policy::Principal => "principal",
        }
    }

    fn admits(self, owner: &Owner) -> bool {
        match self {
            Policy::Site => false,
            Policy::User => matches!(owner, Owner::User(_)),
            Policy::Agent => matches!(owner, Owner::Agent(_)),
            Policy::Principal => matches!(owner, Owner::User(_) | Owner::Agent(_)),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = Error;

    /// Reads a policy. A word that is none is refused: taken for the site, it would widen who uses the site's account.
    fn from_str(text: &str) -> Result<Self> {
        let known = Policy::ALL.into_iter().find(|policy| policy.as_str() == text);
        known.ok_or_else(|| Error::new(Code::InvalidRequest, "a policy is `site`, `user`, `agent` or `principal`"))
    }
}

/// What a policy is about. The two have policies of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connected accounts.
    Account,
    /// App configurations.
    Config,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Account, Kind::Config];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Account => "account",
            Kind::Config => "config",
        }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| Error::new(Code::InvalidRequest, "a policy is for `account` or `config`"))
    }
}

/// The principals that a policy may choose between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The agent that the caller named.
    pub agent: Option<AgentId>,
    /// The person that the caller named.
    pub user: Option<UserId>,
    /// The agent that is acting.
    pub acting_agent: Option<AgentId>,
    /// The person that is acting, or for whom the agent is.
    pub acting_user: Option<UserId>,
    /// The person who is signed in where the caller runs, where nobody else is known.
    pub current_user: Option<UserId>,
}

impl Context {
    /// A context in which the caller names an agent.
    pub fn of_agent(agent: AgentId) -> Self {
        Self { agent: Some(agent), ..Self::default() }
    }

    /// A context in which the caller names a person.
    pub fn of_user(user: UserId) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    /// A context in which the caller names an owner; for the site nobody is named.
    pub fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Site => Self::default(),
            Owner::User(user) => Self::of_user(user.clone()),
            Owner::Agent(agent) => Self::of_agent(agent.clone()),
        }
    }

    /// Whether nobody is named and nobody acts.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whose credential a policy chooses: the first that it admits of the named agent, the named person, the acting agent,
    /// the acting person and the signed-in one; the site where there is none.
    ///
    /// Under [`Policy::Principal`] a named person goes before an agent that is merely acting.
    pub fn owner(&self, policy: Policy) -> Owner {
        let agent = |id: &Option<AgentId>| id.clone().map(Owner::Agent);
        let user = |id: &Option<UserId>| id.clone().map(Owner::User);
        let candidates =
            [agent(&self.agent), user(&self.user), agent(&self.acting_agent), user(&self.acting_user), user(&self.current_user)];
        candidates.into_iter().flatten().find(|owner| policy.admits(owner)).unwrap_or(Owner::Site)
    }
}

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A person talks with an agent: a platform's call that names them.
    Chat {
        /// Who talks; nobody where the platform could not tell.
        caller: Option<UserId>,
    },
    /// A schedule or a pipeline runs. Whoever set it up is not calling.
    Pipeline,
    /// The system does something of its own: texts for pictures, links, descriptions.
    SystemTask,
    /// An agent shows its token.
    Bearer {
        /// The token's person, unless the call gave them up.
        person: Option<UserId>,
    },
    /// Somebody looks whether the service lives. A person who is borrowed for storing something is not calling.
    HealthCheck,
}

/// A request: where it comes from, and what else is known of it that must not be taken for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// Where it comes from.
    pub origin: Origin,
    /// The agent that acts in it.
    pub agent: Option<AgentId>,
    /// Who owns the work: the person who set up the flow, an administrator whose name a check borrows.
    pub work_owner: Option<UserId>,
}

impl RequestContext {
    /// A request of nobody and by no agent.
    pub fn new(origin: Origin) -> Self {
        Self { origin, agent: None, work_owner: None }
    }

    /// The person who is calling, for whom the agent acts now (`calling_user_id` of mission document 001). Nobody is
    /// absent here; the number 0 is [`crate::compat`]'s.
    pub fn calling_user(&self) -> Option<&UserId> {
        match &self.origin {
            Origin::Chat { caller } => caller.as_ref(),
            Origin::Bearer { person } => person.as_ref(),
            Origin::Pipeline | Origin::SystemTask | Origin::HealthCheck => None,
        }
    }

    /// What a policy may choose between in this request. The owner of the agent or of the work is not among it: an agent
    /// does not act with its owner's accounts because somebody owns it.
    pub fn context(&self) -> Context {
        Context { acting_agent: self.agent.clone(), acting_user: self.calling_user().cloned(), ..Context::default() }
    }
}

impl From<&Principal> for RequestContext {
    fn from(principal: &Principal) -> Self {
        Self::from(&principal.actor())
    }
}

impl From<&Actor> for RequestContext {
    fn from(actor: &Actor) -> Self {
        let chat = |caller: &Option<UserId>| Self::new(Origin::Chat { caller: caller.clone() });
        match actor {
            Actor::Operator | Actor::LocalUser { .. } | Actor::System => Self::new(Origin::SystemTask),
            Actor::Platform { user: None, .. } => Self::new(Origin::Pipeline),
            Actor::Platform { user, .. } => chat(user),
            Actor::User(user) => chat(&Some(user.clone())),
            Actor::Agent { agent, user, .. } => {
                Self { agent: Some(agent.clone()), ..Self::new(Origin::Bearer { person: user.clone() }) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> Option<AgentId> {
        (!id.is_empty()).then(|| id.parse().unwrap())
    }

    fn user(id: &str) -> Option<UserId> {
        (!id.is_empty()).then(|| id.parse().unwrap())
    }

    /// The rows of the table: policy, named agent, named person, acting agent, acting person, signed-in person, and who
    /// is chosen. `*` is tried absent and present.
    const TABLE: &[[&str; 7]] = &[
        ["site", "*", "*", "*", "*", "*", "site"],
        ["user", "*", "U", "*", "*", "*", "user:U"],
        ["user", "*", "", "*", "u", "*", "user:u"],
        ["user", "*", "", "*", "", "w", "user:w"],
        ["user", "*", "", "*", "", "", "site"],
        ["agent", "A", "*", "*", "*", "*", "agent:A"],
        ["agent", "", "*", "a", "*", "*", "agent:a"],
        ["agent", "", "*", "", "*", "*", "site"],
        ["principal", "A", "*", "*", "*", "*", "agent:A"],
        ["principal", "", "U", "*", "*", "*", "user:U"],
        ["principal", "", "", "a", "*", "*", "agent:a"],
        ["principal", "", "", "", "u", "*", "user:u"],
        ["principal", "", "", "", "", "w", "user:w"],
        ["principal", "", "", "", "", "", "site"],
    ];

    #[test]
    fn a_policy_chooses_as_the_whole_table_says() {
        let mut tried = std::collections::BTreeSet::new();
        for row in TABLE {
            let policy: Policy = row[0].parse().unwrap();
            for bits in 0..32_u32 {
                let names = ["A", "U", "a", "u", "w"];
                let cells: Vec<&str> = (0..5)
                    .map(|n| match row[n + 1] {
                        "*" if bits & (1 << n) != 0 => names[n],
                        "*" => "",
                        cell => cell,
                    })
                    .collect();
                let context = Context {
                    agent: agent(cells[0]),
                    user: user(cells[1]),
                    acting_agent: agent(cells[2]),
                    acting_user: user(cells[3]),
                    current_user: user(cells[4]),
                };
                assert_eq!(context.owner(policy).to_string(), row[6], "{policy} {cells:?}");
                tried.insert((row[0], cells));
            }
        }
        assert_eq!(tried.len(), 4 * 32, "every combination has exactly one row");
    }

    #[test]
    fn a_word_that_is_no_policy_is_refused() {
        for text in ["", "Site", "network", "users"] {
            assert_eq!(text.parse::<Policy>().unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        }
    }

    #[test]
    fn the_person_who_calls_is_as_the_documents_table_says() {
        let (alice, admin) = (user("alice"), user("admin"));
        let table = [
            (Origin::Chat { caller: alice.clone() }, alice.clone()),
            (Origin::Chat { caller: None }, None),
            (Origin::Pipeline, None),
            (Origin::SystemTask, None),
            (Origin::Bearer { person: alice.clone() }, alice.clone()),
            (Origin::Bearer { person: None }, None),
            (Origin::HealthCheck, None),
        ];
        for (origin, calling) in table {
            // Who set the work up, or lends a check their name, is never the one who calls; nor is the agent.
            let request = RequestContext { origin, agent: agent("7"), work_owner: admin.clone() };
            assert_eq!(request.calling_user().cloned(), calling, "{request:?}");
            assert_eq!(request.context().acting_user, calling, "{request:?}");
        }
    }

    #[test]
    fn an_actor_calls_as_its_credential_says() {
        let (key, token) = (crate::id::PlatformKeyId::new(), crate::id::TokenId::new());
        let alice = user("alice");
        let agent: AgentId = "7".parse().unwrap();
        let calling = |actor: &Actor| RequestContext::from(actor).calling_user().cloned();
        assert_eq!(calling(&Actor::Platform { key: key.clone(), user: alice.clone() }), alice);
        assert_eq!(calling(&Actor::Platform { key, user: None }), None);
        assert_eq!(calling(&Actor::Agent { agent: agent.clone(), token: token.clone(), user: alice.clone() }), alice);
        assert_eq!(calling(&Actor::Agent { agent, token, user: None }), None);
        assert_eq!(calling(&Actor::System), None);
        assert_eq!(calling(&Actor::Operator), None);
    }
}
