//! Where a platform that embeds the library brings something of its own.
//!
//! Everything here is registered in [`Extensions`], which a broker is started with ([`crate::Settings`]). Where nothing is
//! registered nothing is asked, and no call becomes slower. What is registered runs in this process and is trusted like it:
//! it sees accounts in the clear. It must not call back into the broker for the account that it is being asked about.
//!
//! 1. An [`AccountResolver`] holds accounts of people or of agents elsewhere. The first to answer wins.
//! 2. A [`ScopePolicy`] says whose account applies where a caller leaves that to the provider.
//! 3. While an account is being connected: a [`TokenTransform`] may change what the provider issued, and [`AccountDetails`]
//!    may say whose account it is. An [`AccountSink`] is handed what is about to be stored, then and by the named calls.
//! 4. An [`EventSink`] is told what happened.
//! 5. A provider is registered by its definition, as in a file of the providers' folder.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    context::{Context, Kind, Policy},
    error::{Code, Error, Result},
    id::{ConnectionId, ProviderName, SiteId},
    principal::{Owner, Slot},
    secret::SecretMap,
};

/// The label of the one log entry that a resolved account makes.
pub const RESOLVED: &str = "account resolved";

/// An answer that may take its time.
pub type Answer<'a, T> = BoxFuture<'a, Result<T>>;

/// Holds accounts somewhere else: a table of the platform's own, a vault.
///
/// What it holds is not stored here. A save, a deletion or a revocation of an account that it holds goes to it; one that it
/// does not take is refused, and nothing is written here beside it.
pub trait AccountResolver: Send + Sync {
    /// What stands in the log as the source.
    fn name(&self) -> &'static str;

    /// The account in a slot, in the clear; nothing, or an empty one, where it holds none.
    ///
    /// An error ends the call: it is not known then whether an account is held, and another one must not be taken for it.
    fn account<'a>(&'a self, slot: &'a Slot) -> Answer<'a, Option<SecretMap>>;

    /// Stores an account that it holds, whole.
    fn save<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()> {
        let _ = account;
        Box::pin(async move { Err(held_elsewhere(slot, self.name())) })
    }

    /// Deletes an account that it holds, and revokes it at its provider if it can.
    fn delete<'a>(&'a self, slot: &'a Slot) -> Answer<'a, ()> {
        Box::pin(async move { Err(held_elsewhere(slot, self.name())) })
    }
}

/// What a change of an account is told that another place holds and does not take.
pub fn held_elsewhere(slot: &Slot, name: &str) -> Error {
    let Slot { owner, provider, .. } = slot;
    Error::new(Code::Conflict, format!("the account of {owner} at {provider} is held by `{name}`; change it there"))
}

/// What a policy is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PolicyQuestion<'a> {
    /// The site.
    pub site: &'a SiteId,
    /// The provider.
    pub provider: &'a ProviderName,
    /// Accounts or app configurations.
    pub kind: Kind,
    /// What the caller named, and who acts.
    pub context: &'a Context,
}

/// Says whose credential applies. Its word goes before the stored setting.
pub trait ScopePolicy: Send + Sync {
    /// The policy; nothing where it has no say.
    fn policy(&self, question: &PolicyQuestion<'_>) -> Option<Policy>;
}

/// Changes what a provider issued, before it is asked whose account it is: a second exchange that no definition can write
/// down. Its error ends the flow with `token_transform_failed`.
pub trait TokenTransform: Send + Sync {
    /// The account as it shall be; the same where there is nothing to do.
    fn transform<'a>(&'a self, slot: &'a Slot, account: SecretMap) -> Answer<'a, SecretMap>;
}

/// Whose account it is upstream.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// The subject's id at the provider, which never changes.
    pub id: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// Members to keep in the account.
    pub members: Map<String, Value>,
}

/// Says whose account it is, beside the definition's own step. Its error ends the flow with `account_fetch_failed`.
pub trait AccountDetails: Send + Sync {
    /// What it knows; nothing where it has no say.
    fn details<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, Option<Details>>;
}

/// Is handed every account before it is stored here: one that a connect flow brought, and one that is saved, updated or
/// patched by a named scope. Its error ends that with `storage_failed`, and nothing is stored. What a renewal makes of an
/// account, and what an import brings, it is not told.
pub trait AccountSink: Send + Sync {
    /// Takes a copy, or refuses. Where somebody else writes the same account at the same moment it may be told twice.
    fn store<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()>;
}

/// How much a log entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For whoever looks closely.
    Debug,
    /// Worth knowing.
    Info,
    /// Something to look after.
    Warning,
}

/// A log entry about an account: never a secret.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// How much it matters.
    pub level: Level,
    /// What happened, always the same words.
    pub label: &'static str,
    /// Which account it is about.
    pub slot: &'a Slot,
    /// Where it was found: `default` here, or a resolver's name.
    pub source: Option<&'a str>,
}

/// Is told what happened. Called in the middle of things: it must return at once and may lose what it is told, for the
/// audit is the record.
pub trait EventSink: Send + Sync {
    /// A log entry.
    fn log(&self, entry: &Entry<'_>) {
        let _ = entry;
    }

    /// An account's token could not be renewed; it is tried again.
    fn refresh_failed(&self, slot: &Slot, connection: &ConnectionId, reason: &str) {
        let _ = (slot, connection, reason);
    }

    /// An account must be connected again.
    fn connection_broken(&self, slot: &Slot, connection: &ConnectionId, reason: &str) {
        let _ = (slot, connection, reason);
    }

    /// An account will end of age at this moment, because nothing renews it any further; told once. It must be connected again
    /// before that: a person does so on their page `/account/connections/{id}/reconnect`, and `POST /v1/connections/{id}/reconnect`
    /// makes a link for them.
    fn connection_ageing(&self, slot: &Slot, connection: &ConnectionId, ends_at: Timestamp) {
        let _ = (slot, connection, ends_at);
    }

    /// An account was ended here. What becomes of it at its provider is in the list of revocations.
    fn revoked(&self, slot: &Slot, connection: &ConnectionId) {
        let _ = (slot, connection);
    }
}

/// What a platform registered; clones share it. Empty by default.
#[derive(Clone, Default)]
pub struct Extensions(Option<Arc<Registered>>);

#[derive(Clone, Default)]
struct Registered {
    users: Vec<Arc<dyn AccountResolver>>,
    agents: Vec<Arc<dyn AccountResolver>>,
    policies: Vec<Arc<dyn ScopePolicy>>,
    transforms: Vec<Arc<dyn TokenTransform>>,
    details: Vec<Arc<dyn AccountDetails>>,
    sinks: Vec<Arc<dyn AccountSink>>,
    events: Vec<Arc<dyn EventSink>>,
    providers: Vec<(ProviderName, String)>,
}

impl Extensions {
    fn register(mut self, add: impl FnOnce(&mut Registered)) -> Self {
        add(Arc::make_mut(self.0.get_or_insert_default()));
        self
    }

    /// Asks a resolver for people's accounts.
    #[must_use]
    pub fn resolve_users(self, resolver: Arc<dyn AccountResolver>) -> Self {
        self.register(|all| all.users.push(resolver))
    }

    /// Asks a resolver for agents' accounts.
    #[must_use]
    pub fn resolve_agents(self, resolver: Arc<dyn AccountResolver>) -> Self {
        self.register(|all| all.agents.push(resolver))
    }

    /// Asks a policy.
    #[must_use]
    pub fn policy(self, policy: Arc<dyn ScopePolicy>) -> Self {
        self.register(|all| all.policies.push(policy))
    }

    /// Lets tokens be changed while an account is being connected, in the order in which they are registered.
    #[must_use]
    pub fn transform(self, transform: Arc<dyn TokenTransform>) -> Self {
        self.register(|all| all.transforms.push(transform))
    }

    /// Asks for details of an account that is being connected.
    #[must_use]
    pub fn details(self, details: Arc<dyn AccountDetails>) -> Self {
        self.register(|all| all.details.push(details))
    }

    /// Hands over accounts that were connected.
    #[must_use]
    pub fn sink(self, sink: Arc<dyn AccountSink>) -> Self {
        self.register(|all| all.sinks.push(sink))
    }

    /// Tells what happened.
    #[must_use]
    pub fn events(self, sink: Arc<dyn EventSink>) -> Self {
        self.register(|all| all.events.push(sink))
    }

    /// Adds a provider by the text of its definition; one of the same name takes the built-in one's place.
    #[must_use]
    pub fn provider(self, name: ProviderName, definition: impl Into<String>) -> Self {
        self.register(|all| all.providers.push((name, definition.into())))
    }

    /// The definitions that were registered.
    pub(crate) fn providers(&self) -> &[(ProviderName, String)] {
        self.0.as_ref().map_or(&[], |all| &all.providers)
    }

    /// What code says of a policy; nothing where it has no say.
    pub(crate) fn policy_for(&self, question: &PolicyQuestion<'_>) -> Option<Policy> {
        self.0.as_ref()?.policies.iter().find_map(|policy| policy.policy(question))
    }

    /// Whether there is anybody who may hold accounts elsewhere.
    pub fn hold_accounts(&self) -> bool {
        self.0.as_ref().is_some_and(|all| !all.users.is_empty() || !all.agents.is_empty())
    }

    /// The resolver that holds the account of a slot, with the account. The site's are always here.
    pub(crate) async fn held(&self, slot: &Slot) -> Result<Option<Held>> {
        let Some(all) = &self.0 else { return Ok(None) };
        let resolvers = match slot.owner {
            Owner::Site => return Ok(None),
            Owner::User(_) => &all.users,
            Owner::Agent(_) => &all.agents,
        };
        for resolver in resolvers {
            if let Some(account) = resolver.account(slot).await?.filter(|account| !account.expose().is_empty()) {
                return Ok(Some(Held { resolver: Arc::clone(resolver), account }));
            }
        }
        Ok(None)
    }

    pub(crate) async fn transformed(&self, slot: &Slot, mut account: SecretMap) -> Result<SecretMap> {
        let Some(all) = &self.0 else { return Ok(account) };
        for transform in &all.transforms {
            account = transform.transform(slot, account).await?;
        }
        Ok(account)
    }

    pub(crate) async fn details_of(&self, slot: &Slot, account: &SecretMap) -> Result<Option<Details>> {
        let Some(all) = &self.0 else { return Ok(None) };
        for details in &all.details {
            if let Some(found) = details.details(slot, account).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(crate) async fn hand_over(&self, slot: &Slot, account: &SecretMap) -> Result<()> {
        let Some(all) = &self.0 else { return Ok(()) };
        for sink in &all.sinks {
            sink.store(slot, account).await?;
        }
        Ok(())
    }

    /// Tells that an account was found, and where. Only what was found is told: looking whether there is one is the usual
    /// thing, and would drown the rest.
    pub(crate) fn tell_resolved(&self, slot: &Slot, source: &str) {
        tracing::debug!(provider = %slot.provider, owner = %slot.owner, source, "{RESOLVED}");
        let entry = Entry { level: Level::Debug, label: RESOLVED, slot, source: Some(source) };
        self.tell(|sink| sink.log(&entry));
    }

    pub(crate) fn tell(&self, what: impl Fn(&dyn EventSink)) {
        self.0.iter().flat_map(|all| &all.events).for_each(|sink| what(sink.as_ref()));
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(all) = &self.0 else { return f.write_str("Extensions(none)") };
        f.debug_struct("Extensions")
            .field("users", &all.users.len())
            .field("agents", &all.agents.len())
            .field("policies", &all.policies.len())
            .field("transforms", &all.transforms.len())
            .field("details", &all.details.len())
            .field("sinks", &all.sinks.len())
            .field("events", &all.events.len())
            .field("providers", &all.providers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
            .finish()
    }
}

/// An account that is held elsewhere.
pub(crate) struct Held {
    pub(crate) resolver: Arc<dyn AccountResolver>,
    pub(crate) account: SecretMap,
}
