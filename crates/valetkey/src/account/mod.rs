//! Accounts as a platform reads and writes them (mission documents 001 and 004): the scope is in the name of the call.
//!
//! 1. [`Accounts`] is a provider's accounts: the site's, a person's, an agent's, each read, saved, updated and deleted under
//!    its own name. Nothing falls back, no policy is asked, and what is missing is absent.
//! 2. [`Accounts::account_for_context`] alone asks the policy ([`crate::scope`]), and says what it found where.
//! 3. Underneath are functions over a [`Slot`], which the HTTP face calls too. They ask the registered resolvers first: an
//!    account that one of them holds is read from it, and a change of it goes to it or is refused. It is never in two places.

mod held;

use std::fmt;

use crate::{
    agent,
    app_config::{self, AppConfig},
    base::Outside,
    connect::entered,
    connection::{
        self, Connection, UpstreamWish,
        accounts::{self, Precondition},
    },
    context::{Context, Kind},
    error::Result,
    extend::held_elsewhere,
    id::{AccountName, AgentId, ConnectionId, ProviderName, SiteId, UserId},
    principal::{Actor, Owner, Slot},
    revoke,
    scope::{self, Found, Resolution},
    secret::SecretMap,
};

/// Where an account is kept.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Here, as this connection.
    Here(Box<Connection>),
    /// By a registered resolver of this name.
    By(&'static str),
}

impl Kept {
    /// The connection, where it is kept here.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Kept::Here(connection) => Some(connection),
            Kept::By(_) => None,
        }
    }

    /// What stands in the log as the source.
    pub fn source(&self) -> &'static str {
        match self {
            Kept::Here(_) => "default",
            Kept::By(name) => name,
        }
    }
}

/// An account in the clear, and where it is kept.
#[derive(Clone, Debug)]
pub struct Account {
    /// The account. Its `Debug` is silent.
    pub account: SecretMap,
    /// Where it is kept.
    pub kept: Kept,
}

/// What became of an account that was saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Where it is kept.
    pub kept: Kept,
    /// Whether there was none before.
    pub created: bool,
}

/// Makes sure that a provider is one: there is a definition, or something of it is or was stored here. What an import brought
/// of a provider without a definition can be read and deleted, and no more.
///
/// # Errors
/// `not_found` for any other name: a typing mistake is not taken for an account that is not there.
pub async fn known(outside: &Outside, site: &SiteId, provider: &ProviderName) -> Result<()> {
    let Err(error) = outside.definition(provider) else { return Ok(()) };
    let db = &outside.base.db;
    let stored = connection::is_stored(db, site, provider).await? || app_config::is_stored(db, site, provider).await?;
    if stored { Ok(()) } else { Err(error) }
}

/// Where the account of a slot is kept; opens nothing that is kept here.
pub async fn status(outside: &Outside, slot: &Slot) -> Result<Option<Kept>> {
    if let Some(held) = outside.extensions.held(slot).await? {
        return Ok(Some(Kept::By(held.resolver.name())));
    }
    Ok(accounts::status(&outside.base, slot).await?.map(|connection| Kept::Here(Box::new(connection))))
}

/// The account of a slot with its secrets. Who may see them is checked before; that somebody did is recorded.
pub async fn reveal(outside: &Outside, actor: &Actor, slot: &Slot) -> Result<Option<Account>> {
    let found = match outside.extensions.held(slot).await? {
        Some(held) => Some(held::reveal(outside, actor, slot, held).await?),
        None => accounts::reveal(&outside.base, actor, slot)
            .await?
            .map(|(connection, account)| Account { account, kept: Kept::Here(Box::new(connection)) }),
    };
    if let (Some(found), Owner::User(_) | Owner::Agent(_)) = (&found, &slot.owner) {
        outside.extensions.tell_resolved(slot, found.kept.source());
    }
    Ok(found)
}

/// Stores a whole account.
///
/// # Errors
/// As [`accounts::put`]; where a resolver holds the account, what that one says.
pub async fn put(
    outside: &Outside,
    actor: &Actor,
    slot: &Slot,
    account: SecretMap,
    precondition: &Precondition,
) -> Result<Saved> {
    if let Some(held) = outside.extensions.held(slot).await? {
        held::check(precondition)?;
        return held::save(outside, actor, slot, &held, &account).await;
    }
    Ok(accounts::put(outside, actor, slot, account, precondition).await?.into())
}

/// Stores a whole account that somebody entered. Where it is made of entered values (a key, a login, a mailbox), they are tried
/// with the provider first, by the engine that the page of a link uses; anything else is stored as [`put`] stores it.
///
/// # Errors
/// As [`put`] and [`entered::store`].
pub async fn enter(
    outside: &Outside,
    actor: &Actor,
    slot: &Slot,
    account: SecretMap,
    precondition: &Precondition,
) -> Result<Saved> {
    let is_entry = outside.definition(&slot.provider).is_ok_and(|definition| entered::is_entry(&definition, &account));
    if !is_entry || outside.extensions.held(slot).await?.is_some() {
        return put(outside, actor, slot, account, precondition).await;
    }
    Ok(entered::store(outside, actor, slot, account, precondition).await?.into())
}

/// Merges members into an account; null takes one out. With `tokens`, tokens may be among them, and an account that is not
/// there is made of what is given.
///
/// # Errors
/// As [`accounts::patch`] and [`accounts::merge`]; where a resolver holds the account, what that one says.
pub async fn merge(outside: &Outside, actor: &Actor, slot: &Slot, changes: &SecretMap, how: Merge<'_>) -> Result<Saved> {
    if let Some(mut held) = outside.extensions.held(slot).await? {
        if let Merge::Beside(precondition) = how {
            held::check(precondition)?;
        }
        accounts::apply(&mut held.account, changes);
        let account = std::mem::take(&mut held.account);
        return held::save(outside, actor, slot, &held, &account).await;
    }
    match how {
        Merge::Beside(precondition) => {
            let connection = accounts::patch(outside, actor, slot, changes, precondition).await?;
            Ok(Saved { kept: Kept::Here(Box::new(connection)), created: false })
        }
        Merge::Whole => Ok(accounts::merge(outside, actor, slot, changes).await?.into()),
    }
}

/// What a merge may change.
#[derive(Clone, Copy, Debug)]
pub enum Merge<'a> {
    /// What stands beside the tokens, of an account that is there.
    Beside(&'a Precondition),
    /// Anything but whose account it is and where; and an account that is not there comes to be.
    Whole,
}

impl From<accounts::Put> for Saved {
    fn from(put: accounts::Put) -> Self {
        Self { kept: Kept::Here(Box::new(put.connection)), created: put.created }
    }
}

/// Holds what a writer said about an account against where it is kept and how it stands.
///
/// # Errors
/// As [`accounts::check`]; `precondition_failed` for an entity tag where a resolver holds the account.
pub fn check(precondition: &Precondition, kept: Option<&Kept>) -> Result<()> {
    match kept {
        Some(Kept::By(_)) => held::check(precondition),
        Some(Kept::Here(connection)) => accounts::check(precondition, Some(connection)),
        None => accounts::check(precondition, None),
    }
}

/// Deletes the account of a slot and nothing else: here at once, and at its provider as that answers. Doing it again changes
/// nothing.
///
/// # Errors
/// Where a resolver holds the account, what that one says: it is gone there, or refused and stays.
pub async fn delete(outside: &Outside, actor: &Actor, slot: &Slot, wish: UpstreamWish) -> Result<()> {
    if let Some(connection) = accounts::status(&outside.base, slot).await? {
        // Asks the resolvers itself: what was stored here before one of them held it must not come to light again.
        revoke::connection(outside, &slot.site, actor, &connection.id, "the account was deleted", wish).await?;
    } else if let Some(held) = outside.extensions.held(slot).await? {
        held::delete(outside, actor, slot, &held).await?;
    }
    Ok(())
}

/// One provider's accounts on a site, for whoever embeds the library.
///
/// A clone costs little. The methods answer for the default account of an owner, or for the one that
/// [`Accounts::named`] names.
#[derive(Clone)]
pub struct Accounts {
    outside: Outside,
    site: SiteId,
    provider: ProviderName,
    name: AccountName,
    actor: Actor,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({} at {}, `{}`)", self.site, self.provider, self.name)
    }
}

/// The four calls of one scope.
macro_rules! scoped {
    ($read:ident, $save:ident, $update:ident, $delete:ident, ($($id:ident: $Id:ty)?), $owner:expr, $whose:literal) => {
        #[doc = concat!("The ", $whose, " account, with its secrets; absent where there is none. That it was read is recorded.")]
        ///
        /// # Errors
        /// `not_found` for a name that is no provider's ([`known`]); what a resolver says that cannot tell.
        pub async fn $read(&self $(, $id: &$Id)?) -> Result<Option<SecretMap>> {
            self.read($owner).await
        }

        #[doc = concat!("Stores the ", $whose, " account, whole: whatever was there is replaced.")]
        ///
        /// # Errors
        /// `invalid_request` for an empty account or a field that is missing or wrong; `not_found` for a provider without a
        /// definition and for an agent that there is not; `storage_failed` where a sink refuses it; what a resolver says that
        /// holds the account.
        pub async fn $save(&self $(, $id: &$Id)?, account: SecretMap) -> Result<()> {
            self.save($owner, account).await
        }

        #[doc = concat!("Merges members into the ", $whose, " account: what is given wins, null takes one out, the rest stays. ")]
        /// Where there is none, what is given is all of it; nothing is copied from another account.
        ///
        /// # Errors
        /// As when it is saved; `subject_mismatch` where it would become an account at another server.
        pub async fn $update(&self $(, $id: &$Id)?, changes: &SecretMap) -> Result<()> {
            self.update($owner, changes).await
        }

        #[doc = concat!("Deletes the ", $whose, " account and nothing else: here at once, and at its provider as that answers.")]
        /// Doing it again changes nothing.
        pub async fn $delete(&self $(, $id: &$Id)?) -> Result<()> {
            self.delete($owner).await
        }
    };
}

impl Accounts {
    /// The default accounts at a provider. What is done with them is recorded as the actor's.
    ///
    /// Whether there is such a provider is told by the calls: what an import brought of one without a definition can be read
    /// and deleted.
    pub fn new(outside: &Outside, site: SiteId, provider: ProviderName, actor: Actor) -> Self {
        Self { outside: outside.clone(), site, provider, name: AccountName::default_account(), actor }
    }

    /// The accounts of another site.
    #[must_use]
    pub fn on_site(self, site: SiteId) -> Self {
        Self { site, ..self }
    }

    /// The same, done by somebody else.
    #[must_use]
    pub fn acting(self, actor: Actor) -> Self {
        Self { actor, ..self }
    }

    /// The accounts of that name, beside the default ones.
    ///
    /// # Errors
    /// `invalid_request` for a name that is none.
    pub fn named(&self, name: &str) -> Result<Self> {
        Ok(Self { name: name.parse()?, ..self.clone() })
    }

    /// The provider.
    pub fn provider(&self) -> &ProviderName {
        &self.provider
    }

    /// As whom things are done.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The site.
    pub fn site(&self) -> &SiteId {
        &self.site
    }

    scoped!(site_account, save_site_account, update_site_account, delete_site_account, (), Owner::Site, "site's");
    scoped!(
        account_for_user,
        save_account_for_user,
        update_account_for_user,
        delete_account_for_user,
        (user: UserId),
        Owner::User(user.clone()),
        "person's"
    );
    scoped!(
        account_for_agent,
        save_account_for_agent,
        update_account_for_agent,
        delete_account_for_agent,
        (agent: AgentId),
        Owner::Agent(agent.clone()),
        "agent's"
    );

    /// The account that the provider's policy gives a context, with its secrets, and where it came from. The site's stands
    /// in only where the provider's setting says so.
    pub async fn account_for_context(&self, context: &Context) -> Result<Found<Account>> {
        let resolution = self.resolve(context).await?;
        let mut value = None;
        for owner in resolution.owners() {
            if let Some(account) = reveal(&self.outside, &self.actor, &self.slot(owner.clone())).await? {
                value = Some((owner.clone(), account));
                break;
            }
        }
        let value = self.told_where_unknown(value).await?;
        Ok(resolution.found(value))
    }

    /// The app configuration that the provider's policy for configurations gives a context, and where it came from. Its secrets
    /// are masked; [`app_config::open`] opens it. The site's stands in only where the provider's setting says so.
    pub async fn config_for_context(&self, context: &Context) -> Result<Found<AppConfig>> {
        let found = app_config::for_context(&self.outside, &self.site, &self.provider, context).await?;
        if found.value.is_none() {
            known(&self.outside, &self.site, &self.provider).await?;
        }
        Ok(found)
    }

    /// Merges members into the account of exactly the owner whom the provider's policy gives a context. Nothing is copied
    /// from the site's.
    ///
    /// # Errors
    /// As for the methods that name their scope.
    pub async fn update_account_for_context(&self, changes: &SecretMap, context: &Context) -> Result<()> {
        let resolution = self.resolve(context).await?;
        self.update(resolution.owner, changes).await
    }

    /// Where the account of an owner is kept; absent where there is none. Opens nothing that is kept here.
    pub async fn kept(&self, owner: &Owner) -> Result<Option<Kept>> {
        let kept = status(&self.outside, &self.slot(owner.clone())).await?;
        self.told_where_unknown(kept).await
    }

    /// The connection that an owner's account is, for making calls with it.
    ///
    /// # Errors
    /// `no_credentials` or `no_per_user_credentials` where there is none; `conflict` where a resolver holds it.
    pub async fn connection(&self, owner: Owner) -> Result<ConnectionId> {
        let slot = self.slot(owner);
        match self.kept(&slot.owner).await? {
            Some(Kept::Here(connection)) => Ok(connection.id),
            Some(Kept::By(name)) => Err(held_elsewhere(&slot, name)),
            None => Err(slot.empty()),
        }
    }

    /// What was found; where that is nothing the provider must be one.
    async fn told_where_unknown<T>(&self, found: Option<T>) -> Result<Option<T>> {
        if found.is_none() {
            known(&self.outside, &self.site, &self.provider).await?;
        }
        Ok(found)
    }

    pub(crate) async fn resolve(&self, context: &Context) -> Result<Resolution> {
        scope::resolve(&self.outside, &self.site, &self.provider, Kind::Account, context).await
    }

    pub(crate) async fn read(&self, owner: Owner) -> Result<Option<SecretMap>> {
        let found = reveal(&self.outside, &self.actor, &self.slot(owner)).await?;
        Ok(self.told_where_unknown(found).await?.map(|found| found.account))
    }

    pub(crate) async fn save(&self, owner: Owner, account: SecretMap) -> Result<()> {
        self.check_agent(&owner).await?;
        let precondition = Precondition { replace: true, ..Precondition::default() };
        put(&self.outside, &self.actor, &self.slot(owner), account, &precondition).await.map(|_| ())
    }

    async fn update(&self, owner: Owner, changes: &SecretMap) -> Result<()> {
        self.check_agent(&owner).await?;
        merge(&self.outside, &self.actor, &self.slot(owner), changes, Merge::Whole).await.map(|_| ())
    }

    pub(crate) async fn delete(&self, owner: Owner) -> Result<()> {
        known(&self.outside, &self.site, &self.provider).await?;
        delete(&self.outside, &self.actor, &self.slot(owner), UpstreamWish::IfPossible).await
    }

    pub(crate) fn slot(&self, owner: Owner) -> Slot {
        Slot { site: self.site.clone(), provider: self.provider.clone(), owner, name: self.name.clone() }
    }

    pub(crate) fn outside(&self) -> &Outside {
        &self.outside
    }

    /// An account of an agent that there is not would be nobody's.
    async fn check_agent(&self, owner: &Owner) -> Result<()> {
        if let Owner::Agent(id) = owner {
            agent::require(&self.outside.base.db, &self.site, id).await?;
        }
        Ok(())
    }
}
