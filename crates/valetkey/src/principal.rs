//! Who is acting, for whom, and how far: one vocabulary for tokens, platforms, operators and people.

mod chain;

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::{Code, Error, Result},
    id::{AccountName, AgentId, ConnectionId, PlatformKeyId, ProviderName, SiteId, TokenId, UserId},
    provider::pattern::PathPattern,
    text,
};

pub use chain::{CallerChain, Claims};

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

/// The most that may ever be done, whatever is granted: each part that is present narrows. It stands on a token, on an agent
/// (for all its tokens) and on a site (for all its agents); what may be done is within each of them.
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

impl Ceiling {
    /// Refuses one whose lists have no end.
    ///
    /// # Errors
    /// `invalid_request`, naming the list.
    pub fn check(&self) -> Result<()> {
        let lengths = [
            ("connections", self.connections.as_ref().map_or(0, BTreeSet::len)),
            ("providers", self.providers.as_ref().map_or(0, BTreeSet::len)),
            ("operations", self.operations.as_ref().map_or(0, Vec::len)),
        ];
        lengths.into_iter().try_for_each(|(what, length)| text::check_list(what, length, text::LIST))
    }

    /// How a ceiling stands in its column: absent where it narrows nothing.
    ///
    /// # Errors
    /// As [`Ceiling::check`].
    pub(crate) fn to_column(ceiling: Option<&Self>) -> Result<Option<String>> {
        let Some(ceiling) = ceiling.filter(|ceiling| **ceiling != Self::default()) else { return Ok(None) };
        ceiling.check()?;
        serde_json::to_string(ceiling).map(Some).map_err(Error::internal)
    }

    /// Reads the column of an agent or a site, to be shown.
    ///
    /// # Errors
    /// `internal` where it cannot be read: everything is denied then, and it must not be shown as if it were none.
    pub(crate) fn from_column(text: Option<&str>) -> Result<Option<Self>> {
        text.map(serde_json::from_str).transpose().map_err(|error| {
            Error::new(Code::Internal, "the stored ceiling cannot be read, so that everything is denied; set it anew")
                .with_detail(error)
        })
    }
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

    /// Reads a scope as Data Machine writes it: a list of capabilities, or an object that names abilities besides. Nothing for
    /// what is neither: it was meant to narrow.
    pub fn from_scope(scope: &Value) -> Option<Self> {
        match scope {
            Value::Array(list) if list.is_empty() => Some(Self::structured(&Map::new())),
            Value::Array(list) => Some(Self { capabilities: Some(words(list)), ..Self::default() }),
            Value::Object(scope) => Some(Self::structured(scope)),
            _ => None,
        }
    }

    /// A scope that names abilities. Without a list of capabilities it allows none.
    fn structured(scope: &Map<String, Value>) -> Self {
        let list = |name: &str| scope.get(name).and_then(Value::as_array).map_or_else(Vec::new, |list| words(list));
        let text = |name: &str| scope.get(name).and_then(Value::as_str).unwrap_or_default();
        let slug = text("scope").to_lowercase();
        Self {
            capabilities: Some(list("capabilities")),
            abilities: Some(Abilities {
                scope: slug.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect(),
                label: text("label").chars().filter(|c| !c.is_control()).collect(),
                ability_categories: list("ability_categories"),
                ability_allow: list("ability_allow"),
                ability_deny: list("ability_deny"),
            }),
            site_scope: None,
        }
    }

    /// Whether a token may use accounts at all: one that its platform holds to capabilities needs the one for tools. At
    /// Data Machine such a token could not reach an account either, and no grant here shall make it more than it was.
    pub fn may_use_accounts(&self) -> bool {
        self.capabilities.as_ref().is_none_or(|held| held.iter().any(|one| one == Self::USE_TOOLS))
    }
}

/// Words without spaces around them, each once; a number is its digits, and what is neither is left out.
fn words(list: &[Value]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for item in list {
        let word = match item {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(true) => "1".to_owned(),
            _ => continue,
        };
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// Where a principal's authority comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthSource {
    /// A bearer token of an agent.
    AgentToken,
    /// A person who is signed in here.
    Session,
    /// A platform by its key, for a person it may speak for or for itself. What it asserts of a person for one act is its word, too.
    Platform,
    /// Whoever holds the machine.
    Operator,
    /// The broker's own background work.
    System,
}

impl AuthSource {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthSource::AgentToken => "agent_token",
            AuthSource::Session => "session",
            AuthSource::Platform => "platform",
            AuthSource::Operator => "operator",
            AuthSource::System => "system",
        }
    }
}

/// Who is acting in this request: one type for an agent's token, a signed-in person, a platform, the operator and the system
/// (mission document 003). Only [`Principal::export`] of it goes into answers and logs.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// The site everything happens in.
    pub site: SiteId,
    /// How we know.
    pub source: AuthSource,
    /// The acting agent, if an agent acts.
    pub agent: Option<AgentId>,
    /// The person that the agent belongs to. They are not acting.
    pub owner: Option<UserId>,
    /// The acting person: whose live rights bound what is done. Absent is absent: the integer 0 lives in compatibility code only.
    pub user: Option<UserId>,
    /// The proven person who is calling now: the acting one, unless the call gave them up.
    pub calling_user: Option<UserId>,
    /// The token, if one was shown.
    pub token: Option<TokenId>,
    /// The first characters of the token.
    pub token_prefix: Option<String>,
    /// What somebody called the token.
    pub token_label: Option<String>,
    /// The program that calls: a platform's key, or the client that the authorization server issued the token to.
    pub client: Option<String>,
    /// Which user of the machine the operator is; absent where nothing says so.
    pub local_user: Option<u32>,
    /// Everything that narrows: the site's ceiling, the agent's and the token's, those of them that there are.
    pub ceilings: Vec<Ceiling>,
    /// The agents that the call came through, as it claims. Nobody checked it.
    pub chain: CallerChain,
}

impl Principal {
    /// One of a source, with nothing else known of it.
    pub(crate) fn of(site: SiteId, source: AuthSource) -> Self {
        Self {
            site,
            source,
            agent: None,
            owner: None,
            user: None,
            calling_user: None,
            token: None,
            token_prefix: None,
            token_label: None,
            client: None,
            local_user: None,
            ceilings: Vec::new(),
            chain: CallerChain::default(),
        }
    }

    /// Whoever holds the machine.
    pub fn operator(site: SiteId, local_user: Option<u32>) -> Self {
        Self { local_user, ..Self::of(site, AuthSource::Operator) }
    }

    /// A platform by its key, for a person that it may speak for or for itself.
    pub fn platform(site: SiteId, key: &PlatformKeyId, user: Option<UserId>) -> Self {
        let client = Some(key.to_string());
        Self { user: user.clone(), calling_user: user, client, ..Self::of(site, AuthSource::Platform) }
    }

    /// A person who is signed in here.
    pub fn person(site: SiteId, user: UserId) -> Self {
        Self { user: Some(user.clone()), calling_user: Some(user), ..Self::of(site, AuthSource::Session) }
    }

    /// The broker's own background work.
    pub fn system(site: SiteId) -> Self {
        Self::of(site, AuthSource::System)
    }

    /// Whether something narrows it besides what is granted.
    pub fn has_ceiling(&self) -> bool {
        !self.ceilings.is_empty()
    }

    /// Who acted, for rows and the audit.
    pub fn actor(&self) -> Actor {
        let user = self.calling_user.clone();
        let acted = match self.source {
            AuthSource::AgentToken => {
                self.agent.clone().zip(self.token.clone()).map(|(agent, token)| Actor::Agent { agent, token, user })
            }
            AuthSource::Platform => {
                let key = self.client.as_ref().and_then(|key| key.parse().ok());
                key.map(|key| Actor::Platform { key, user })
            }
            AuthSource::Session => user.map(Actor::User),
            AuthSource::Operator => Some(self.local_user.map_or(Actor::Operator, |uid| Actor::LocalUser { uid })),
            AuthSource::System => None,
        };
        acted.unwrap_or(Actor::System)
    }

    /// What of it may stand in a log or an answer: no token, nothing that somebody wrote freely, and no ceiling's content.
    pub fn export(&self) -> Exported {
        Exported {
            schema_version: 1,
            site: self.site.clone(),
            source: self.source,
            agent: self.agent.clone(),
            acting_user: self.user.clone(),
            calling_user: self.calling_user.clone(),
            client: self.client.clone(),
            has_ceiling: self.has_ceiling(),
            chain: self.chain.claims().cloned(),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.export(), f)
    }
}

/// The safe shape of a [`Principal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// 1. A member that changes its meaning makes it another number; a new member does not.
    pub schema_version: u8,
    /// The site.
    pub site: SiteId,
    /// How we know.
    pub source: AuthSource,
    /// The acting agent.
    pub agent: Option<AgentId>,
    /// The person whose live rights bound what is done.
    pub acting_user: Option<UserId>,
    /// The proven person who is calling.
    pub calling_user: Option<UserId>,
    /// The program that calls.
    pub client: Option<String>,
    /// Whether something narrows it besides what is granted.
    pub has_ceiling: bool,
    /// The agents that the call came through, as it claims: marked as unverified. Absent where it claims nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Claims>,
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

    fn whole() -> Principal {
        let (agent, token): (AgentId, TokenId) = ("a".parse().unwrap(), TokenId::new());
        let ceiling = Ceiling { providers: Some(BTreeSet::from(["canary".parse().unwrap()])), ..Ceiling::default() };
        Principal {
            agent: Some(agent),
            owner: Some("canary".parse().unwrap()),
            user: Some("alice".parse().unwrap()),
            token: Some(token),
            token_prefix: Some("canary".to_owned()),
            token_label: Some("canary".to_owned()),
            ceilings: vec![ceiling],
            ..Principal::of(SiteId::default_site(), AuthSource::AgentToken)
        }
    }

    /// T-062, T-064, T-065.
    #[test]
    fn what_a_principal_shows_of_itself_is_no_token_no_label_and_no_ceiling() {
        let principal = whole();
        let shown = serde_json::to_value(principal.export()).unwrap();
        let expected = serde_json::json!({
            "schema_version": 1, "site": "default", "source": "agent_token", "agent": "a", "acting_user": "alice",
            "calling_user": null, "client": null, "has_ceiling": true,
        });
        assert_eq!(shown, expected);
        let debug = format!("{principal:?}");
        assert!(!debug.contains("canary") && !debug.contains(principal.token.as_ref().unwrap().as_str()), "{debug}");
    }

    #[test]
    fn a_principal_acts_as_its_source_says() {
        let (site, alice, key) = (SiteId::default_site(), "alice".parse::<UserId>().unwrap(), PlatformKeyId::new());
        let acts = |principal: Principal, text: &str| assert_eq!(principal.actor().to_string(), text);
        acts(Principal::operator(site.clone(), None), "operator");
        acts(Principal::operator(site.clone(), Some(1000)), "operator/uid:1000");
        acts(Principal::system(site.clone()), "system");
        acts(Principal::platform(site.clone(), &key, None), &format!("platform:{key}"));
        acts(Principal::platform(site.clone(), &key, Some(alice.clone())), &format!("platform:{key}/user:alice"));
        acts(Principal::person(site, alice.clone()), "user:alice");
        // The person that a call gave up still bounds it, and did not act.
        let agent = whole();
        let text = format!("agent:a/{}", agent.token.as_ref().unwrap());
        acts(agent.clone(), &text);
        acts(Principal { calling_user: Some(alice), ..agent }, &format!("{text}/user:alice"));
    }

    /// T-067, T-107, T-216: who is signed in acts and calls; no agent and no token is beside them, and nothing narrows them here.
    #[test]
    fn a_signed_in_person_is_the_acting_and_the_calling_one() {
        let alice: UserId = "alice".parse().unwrap();
        let principal = Principal::person(SiteId::default_site(), alice.clone());
        let hers = Some(alice);
        assert_eq!((principal.source, &principal.user, &principal.calling_user), (AuthSource::Session, &hers, &hers));
        assert_eq!((&principal.agent, &principal.token, principal.has_ceiling()), (&None, &None, false));
    }

    /// T-103: an entry that is none is refused with its list, and not left out of it.
    #[test]
    fn an_entry_of_a_ceiling_that_is_none_is_not_read() {
        for odd in [
            r#"{"providers":[""]}"#,
            r#"{"providers":["lab",""]}"#,
            r#"{"connections":["x"]}"#,
            r#"{"operations":[""]}"#,
            r#"{"delivery":["proxy",""]}"#,
            r#"{"delivery":"proxy"}"#,
        ] {
            assert!(serde_json::from_str::<Ceiling>(odd).is_err(), "{odd}");
        }
    }

    /// T-102.
    #[test]
    fn a_ceiling_that_narrows_nothing_is_no_ceiling() {
        assert_eq!(Ceiling::to_column(None).unwrap(), None);
        assert_eq!(Ceiling::to_column(Some(&Ceiling::default())).unwrap(), None);
        // An empty list allows nothing.
        let closed = Ceiling { providers: Some(BTreeSet::new()), ..Ceiling::default() };
        let column = Ceiling::to_column(Some(&closed)).unwrap();
        assert_eq!(Ceiling::from_column(column.as_deref()).unwrap(), Some(closed));
        assert_eq!(Ceiling::from_column(Some("{\"budget\":1}")).unwrap_err().code(), Code::Internal);
    }

    #[test]
    fn a_ceiling_with_a_part_we_do_not_know_is_not_read() {
        assert!(serde_json::from_str::<Ceiling>(r#"{"delivery":["proxy"],"budget":3}"#).is_err());
    }
}
