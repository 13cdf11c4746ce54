//! What an import brings, in our own terms. Whoever read the source makes these; whoever seals takes them.
//!
//! They travel as one JSON document a line. An account travels as the text that will be sealed, so that its members keep
//! the order they had; see [`super::data_machine::value`].

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::{
    agent::Role,
    clock::Timestamp,
    id::{AgentId, ProviderName, UserId},
    principal::Owner,
    secret::Secret,
};

/// One line of an import after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "all but the last line is an item; a box for each would cost more")]
pub enum Line {
    /// Something to bring over.
    Item {
        /// Where it stood in the source, from 0.
        at: u64,
        /// What it is.
        item: Item,
    },
    /// The end: without it nothing is brought over, for the source may have been cut off.
    End {
        /// How many items there were.
        items: u64,
        /// How many values could not be opened and are not among them.
        unreadable: u64,
    },
}

/// The first line of an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Do everything, then undo it: what would happen is told, and nothing is written.
    #[serde(default)]
    pub dry_run: bool,
    /// What becomes of something that is here already and is another.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Whether the operator vouches that the accounts belong to whom they are stored for (decisions 4).
    #[serde(default)]
    pub trust_identities: bool,
    /// Every provider that the items name. A key for each is made before the transaction begins.
    pub providers: Vec<ProviderName>,
}

/// What becomes of something that is here already and is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// What is here stays.
    Skip,
    /// What comes takes its place.
    Replace,
    /// The whole import is refused.
    #[default]
    Fail,
}

/// One thing to bring over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Item {
    /// A person who is no more; everything of theirs stops.
    GonePerson {
        /// Who.
        user: UserId,
    },
    /// An agent.
    Agent {
        /// Its id.
        agent: AgentId,
        /// Its slug, as long as the source allowed.
        slug: String,
        /// Its name for people.
        title: String,
        /// The person it belongs to.
        owner: Option<UserId>,
        /// When it was made.
        created_at: Option<Timestamp>,
        /// What tells it from its twins there.
        #[serde(default, skip_serializing_if = "Rest::is_empty")]
        rest: Rest,
    },
    /// A person's role on an agent.
    Role {
        /// The agent.
        agent: AgentId,
        /// The person.
        user: UserId,
        /// The role.
        role: Role,
    },
    /// An agent's token, of which only the hash is known.
    Token {
        /// Its SHA-256 in hex.
        hash: String,
        /// Its agent.
        agent: AgentId,
        /// What it was called.
        label: String,
        /// The first characters of its text.
        prefix: String,
        /// The person it acts for.
        person: UserId,
        /// Its ceiling as it will be stored; anything that is no ceiling denies everything.
        ceiling: Option<Value>,
        /// When it was made.
        created_at: Option<Timestamp>,
        /// When it ends.
        expires_at: Option<Timestamp>,
        /// When it was last used.
        last_used_at: Option<Timestamp>,
    },
    /// An app configuration.
    Config {
        /// The provider.
        provider: ProviderName,
        /// Whose.
        owner: Owner,
        /// The JSON object.
        values: Plain,
        /// What it was called, and which members were sealed though the source does not say so by itself.
        #[serde(default, skip_serializing_if = "Rest::is_empty")]
        rest: Rest,
    },
    /// An account.
    Account {
        /// The provider.
        provider: ProviderName,
        /// Whose.
        owner: Owner,
        /// Which of the owner's; empty for the default one.
        name: String,
        /// The JSON object.
        account: Plain,
        /// Whether something in it could not be opened, so that it must be connected again.
        #[serde(default, skip_serializing_if = "is_false")]
        incomplete: bool,
        /// As in a configuration.
        #[serde(default, skip_serializing_if = "Rest::is_empty")]
        rest: Rest,
    },
    /// A permission of an agent to use an account for named operations.
    Grant {
        /// The account's provider.
        provider: ProviderName,
        /// The account's owner.
        owner: Owner,
        /// The account's name.
        name: String,
        /// The agent.
        agent: AgentId,
        /// The operations, as `MAIL /read`.
        operations: Vec<String>,
        /// Since when, and by whom, in the source's words.
        #[serde(default, skip_serializing_if = "Rest::is_empty")]
        rest: Rest,
    },
    /// A place in the source that holds nothing: kept in mind, so that an export is complete.
    Nothing {
        /// The provider.
        provider: ProviderName,
        /// The path below it; empty for the provider itself.
        path: String,
        /// As in a configuration.
        #[serde(default, skip_serializing_if = "Rest::is_empty")]
        rest: Rest,
    },
}

/// What of an item has no other place here and is no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// The provider's slug in the source, where our name for it is another; base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    /// The account's name in the source, where ours is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The members that were sealed although Data Machine alone would not seal them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<String>,
    /// Since when a permission is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<String>,
    /// Who gave a permission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_by: Option<i64>,
    /// What tells an agent from others of its name and owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_key: Option<String>,
    /// The part of a network that an agent is held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_scope: Option<i64>,
    /// What it came out of, where that was not an account: `config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of: Option<String>,
    /// Whether the address of another site came with its token: one that did not is ours, and put together here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub url_came: bool,
}

impl Rest {
    /// Whether there is nothing left over.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A secret text on its way from whoever read it to whoever seals it.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Plain(pub Secret);

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl Item {
    /// The kind, as reports count it.
    pub fn kind(&self) -> &'static str {
        match self {
            Item::GonePerson { .. } => "gone_person",
            Item::Agent { .. } => "agent",
            Item::Role { .. } => "role",
            Item::Token { .. } => "token",
            Item::Config { .. } => "config",
            Item::Account { .. } => "account",
            Item::Grant { .. } => "grant",
            Item::Nothing { .. } => "nothing",
        }
    }

    /// What it is called in `imports`: the same thing has the same name in every import.
    pub fn id(&self) -> String {
        let kind = self.kind();
        match self {
            Item::GonePerson { user } => format!("{kind}/{user}"),
            Item::Agent { agent, .. } => format!("{kind}/{agent}"),
            Item::Role { agent, user, .. } => format!("{kind}/{agent}/{user}"),
            Item::Token { hash, .. } => format!("{kind}/{hash}"),
            Item::Config { provider, owner, .. } => format!("{kind}/{provider}/{owner}"),
            Item::Account { provider, owner, name, .. } => account_id(provider, owner, name),
            Item::Grant { provider, owner, name, agent, .. } => format!("{kind}/{provider}/{owner}/{name}/{agent}"),
            Item::Nothing { provider, path, .. } => format!("{kind}/{provider}/{path}"),
        }
    }

    /// What of it has no other place.
    pub fn rest(&self) -> Rest {
        match self {
            Item::Agent { rest, .. }
            | Item::Config { rest, .. }
            | Item::Account { rest, .. }
            | Item::Grant { rest, .. }
            | Item::Nothing { rest, .. } => rest.clone(),
            Item::GonePerson { .. } | Item::Role { .. } | Item::Token { .. } => Rest::default(),
        }
    }

    /// A keyed hash of its content, in hex. When a token was last used is no part of it: that moves all the time.
    pub fn digest(&self, key: &hmac::Key) -> String {
        let mut context = hmac::Context::with_key(key);
        let mut add = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        add(&self.id());
        match self {
            Item::GonePerson { .. } | Item::Nothing { .. } => {}
            Item::Agent { slug, title, owner, .. } => {
                [slug.as_str(), title, owner.as_ref().map_or("", UserId::as_str)].into_iter().for_each(add);
            }
            Item::Role { role, .. } => add(role.as_str()),
            Item::Token { agent, label, person, ceiling, expires_at, .. } => {
                add(agent.as_str());
                add(label);
                add(person.as_str());
                add(&ceiling.as_ref().map(ToString::to_string).unwrap_or_default());
                add(&expires_at.map(|at| at.to_string()).unwrap_or_default());
            }
            Item::Config { values, .. } => add(values.0.expose()),
            Item::Account { account, incomplete, .. } => {
                add(account.0.expose());
                add(if *incomplete { "incomplete" } else { "" });
            }
            Item::Grant { operations, .. } => operations.iter().for_each(|operation| add(operation)),
        }
        hex::encode(context.sign())
    }
}

/// What an account is called in `imports`.
pub(super) fn account_id(provider: &ProviderName, owner: &Owner, name: &str) -> String {
    format!("account/{provider}/{owner}/{name}")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference to the field")]
fn is_false(yes: &bool) -> bool {
    !yes
}
