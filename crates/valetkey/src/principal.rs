//! Who is acting, for whom, and how far: one vocabulary for tokens, platforms, operators and people.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    id::{AccountName, AgentId, ConnectionId, PlatformKeyId, ProviderName, SiteId, TokenId, UserId},
    provider::pattern::PathPattern,
};

/// Who an outside account belongs to. Always written by the caller; nothing falls back to another owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The site itself: shared accounts, organisations.
    Site,
    /// One person.
    User(UserId),
    /// One agent.
    Agent(AgentId),
}

impl Owner {
    /// The person who owns it, if a person does.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Owner::User(user) => Some(user),
            _ => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Site => f.write_str("site"),
            Owner::User(user) => write!(f, "user:{user}"),
            Owner::Agent(agent) => write!(f, "agent:{agent}"),
        }
    }
}

impl FromStr for Owner {
    type Err = Error;

    /// Reads `site`, `user:<id>` or `agent:<id>`; splits at the first colon, for ids may hold colons.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "site" => Ok(Owner::Site),
            Some(("user", id)) => Ok(Owner::User(id.parse()?)),
            Some(("agent", id)) => Ok(Owner::Agent(id.parse()?)),
            _ => Err(Error::new(Code::InvalidRequest, "an owner is `site`, `user:<id>` or `agent:<id>`")),
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|e: Error| serde::de::Error::custom(e.message()))
    }
}

/// Where an account is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The site.
    pub site: SiteId,
    /// The provider.
    pub provider: ProviderName,
    /// Whose.
    pub owner: Owner,
    /// Which of the owner's accounts there.
    pub name: AccountName,
}

impl Slot {
    /// The error of a slot without an account.
    pub fn empty(&self) -> Error {
        match &self.owner {
            Owner::User(user) => {
                Error::new(Code::NoPerUserCredentials, format!("user {user} has no account `{}` at {}", self.name, self.provider))
            }
            owner => Error::new(Code::NoCredentials, format!("{owner} has no account `{}` at {}", self.name, self.provider)),
        }
    }
}

/// Who did something, for rows and the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds the machine: the local socket or the command line itself.
    Operator,
    /// The same, where the machine says which of its users it was (decisions 10).
    LocalUser {
        /// The user's number.
        uid: u32,
    },
    /// The broker's own background work.
    System,
    /// A platform by its key, for a person it was allowed to assert or for itself.
    Platform {
        /// The key's id.
        key: PlatformKeyId,
        /// The person it asserted.
        user: Option<UserId>,
    },
    /// A person in their own browser, proven by an assertion.
    User(UserId),
    /// An agent by its token, with the token's person unless the call gave them up.
    Agent {
        /// The agent.
        agent: AgentId,
        /// The token's id.
        token: TokenId,
        /// The proven calling person.
        user: Option<UserId>,
    },
}

impl Actor {
    /// The proven person behind the act, if there is one.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Actor::Platform { user, .. } | Actor::Agent { user, .. } => user.as_ref(),
            Actor::User(user) => Some(user),
            Actor::Operator | Actor::LocalUser { .. } | Actor::System => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut with_user = |what: fmt::Arguments<'_>, user: &Option<UserId>| match user {
            Some(user) => write!(f, "{what}/user:{user}"),
            None => write!(f, "{what}"),
        };
        match self {
            Actor::Operator => f.write_str("operator"),
            Actor::LocalUser { uid } => write!(f, "operator/uid:{uid}"),
            Actor::System => f.write_str("system"),
            Actor::User(user) => write!(f, "user:{user}"),
            Actor::Platform { key, user } => with_user(format_args!("platform:{key}"), user),
            Actor::Agent { agent, token, user } => with_user(format_args!("agent:{agent}/{token}"), user),
        }
    }
}

impl FromStr for Actor {
    type Err = Error;

    /// Reads what `Display` writes: rows keep actors as text. Ids hold no slash, so it splits in one way only.
    fn from_str(text: &str) -> Result<Self> {
        let odd = || Error::internal("a stored actor cannot be read");
        let user = |part: Option<&str>| -> Result<Option<UserId>> {
            part.map(|part| part.strip_prefix("user:").ok_or_else(odd)?.parse()).transpose()
        };
        match text.split_once(':') {
            None if text == "operator" => Ok(Actor::Operator),
            Some(("operator/uid", uid)) => Ok(Actor::LocalUser { uid: uid.parse().map_err(|_| odd())? }),
            None if text == "system" => Ok(Actor::System),
            Some(("user", id)) => Ok(Actor::User(id.parse()?)),
            Some(("platform", rest)) => {
                let (key, rest) = rest.split_once('/').map_or((rest, None), |(key, rest)| (key, Some(rest)));
                Ok(Actor::Platform { key: key.parse()?, user: user(rest)? })
            }
            Some(("agent", rest)) => {
                let (agent, rest) = rest.split_once('/').ok_or_else(odd)?;
                let (token, rest) = rest.split_once('/').map_or((rest, None), |(token, rest)| (token, Some(rest)));
                Ok(Actor::Agent { agent: agent.parse()?, token: token.parse()?, user: user(rest)? })
            }
            _ => Err(odd()),
        }
    }
}

/// How a credential reaches its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// We make the call; the agent never sees the secret.
    Proxy,
    /// The access token is handed out.
    Reveal,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::Proxy => "proxy",
            Delivery::Reveal => "reveal",
        })
    }
}

/// The most a token may ever do, whatever is granted: each part that is present narrows.
///
/// Stored as JSON. A ceiling that cannot be read, or that holds a part we do not know, denies everything
/// (promise 4): an unknown part may have been meant to narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// Only these ways of delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<BTreeSet<Delivery>>,
    /// Only these connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<BTreeSet<ConnectionId>>,
    /// Only connections at these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<BTreeSet<ProviderName>>,
    /// Only these operations; a path pattern with an optional method before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<PathPattern>>,
    /// What the platform that minted an imported token allows it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformCeiling>,
}

/// The most a token may do at the platform that minted it. We keep it and tell it; the platform holds its own calls to it.
/// Here it narrows in one way: see [`PlatformCeiling::may_use_accounts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformCeiling {
    /// Only these capabilities; absent means all that the token's person has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Only these abilities; absent means all that the capabilities allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
    /// Only in this part of the platform: the number of a site in a WordPress network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_scope: Option<i64>,
}

/// Which abilities of its platform a token may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abilities {
    /// The word of a preset, or empty.
    pub scope: String,
    /// What people call it, or empty.
    pub label: String,
    /// Those of these categories; empty means of every category.
    pub ability_categories: Vec<String>,
    /// These, whatever their category.
    pub ability_allow: Vec<String>,
    /// None of these.
    pub ability_deny: Vec<String>,
}

impl PlatformCeiling {
    /// The capability by which Data Machine lets an agent use tools, and so accounts.
    pub const USE_TOOLS: &'static str = "datamachine_use_tools";

    /// Whether a token may use accounts at all: one that its platform holds to capabilities needs the one for tools. At
    /// Data Machine such a token could not reach an account either, and no grant here shall make it more than it was.
    pub fn may_use_accounts(&self) -> bool {
        self.capabilities.as_ref().is_none_or(|held| held.iter().any(|one| one == Self::USE_TOOLS))
    }
}

/// Where a principal's authority comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthSource {
    /// A bearer token of an agent.
    AgentToken,
    /// A person asserted by their platform.
    Assertion,
}

/// Who is acting in this request: one type for an agent's token and for a signed-in person (mission document 003).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Principal {
    /// The site everything happens in.
    pub site: SiteId,
    /// The acting agent, if an agent acts.
    pub agent: Option<AgentId>,
    /// The proven person, if there is one. Absent is absent: the integer 0 lives in compatibility code only.
    pub user: Option<UserId>,
    /// How we know.
    pub source: AuthSource,
    /// The token, if one was shown.
    pub token: Option<TokenId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_splits_at_the_first_colon() {
        let owner: Owner = "user:did:plc:abc".parse().unwrap();
        assert_eq!(owner, Owner::User("did:plc:abc".parse().unwrap()));
        assert_eq!(owner.to_string(), "user:did:plc:abc");
    }

    #[test]
    fn an_owner_that_is_not_an_id_is_refused_and_never_the_site() {
        for text in ["", "Site", "user:", "user:0", "user:-1", "agent:", "42", "site:1"] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_actor_is_read_as_it_was_written() {
        let user: UserId = "did:plc:abc".parse().unwrap();
        let (agent, token, key): (AgentId, _, _) = ("a:b".parse().unwrap(), TokenId::new(), PlatformKeyId::new());
        for actor in [
            Actor::Operator,
            Actor::LocalUser { uid: 1000 },
            Actor::System,
            Actor::User(user.clone()),
            Actor::Platform { key: key.clone(), user: None },
            Actor::Platform { key, user: Some(user.clone()) },
            Actor::Agent { agent: agent.clone(), token: token.clone(), user: None },
            Actor::Agent { agent, token, user: Some(user) },
        ] {
            assert_eq!(actor.to_string().parse::<Actor>().unwrap(), actor);
        }
        for text in ["", "Operator", "operator/uid:", "operator/uid:x", "user:", "agent:a", "platform:x", "agent:a/tok_1/alice"] {
            assert!(text.parse::<Actor>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_ceiling_with_a_part_we_do_not_know_is_not_read() {
        assert!(serde_json::from_str::<Ceiling>(r#"{"delivery":["proxy"],"budget":3}"#).is_err());
    }
}
