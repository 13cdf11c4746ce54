//! Whose credential applies where a caller leaves that to the provider (mission document 004), for accounts and for app
//! configurations alike.
//!
//! 1. A provider has a policy for each [`Kind`], and whether a scope without a credential falls back to the site's. The
//!    setting is a row, so that it survives restarts and is the same on every replica. A registered
//!    [`crate::extend::ScopePolicy`] goes before it.
//! 2. [`resolve`] puts policy and context together; [`Resolution::owners`] says where to look, in order.
//! 3. What was found is told with where it came from: [`Resolution::found`].
//!
//! What is new does not fall back: the site's account would be used by whoever has none. What an import brought does,
//! because it did before ([`set_imported`]).

mod store;

use serde::Serialize;
use serde_json::json;

use crate::{
    audit::Event,
    base::{Base, Outside},
    context::{Context, Kind, Policy},
    db::{Db, Tx},
    error::Result,
    extend::PolicyQuestion,
    id::{ProviderName, SiteId},
    principal::{Actor, Owner},
};

/// What is set for a provider and a kind of credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Whose credential applies.
    pub policy: Policy,
    /// Whether the site's is used where the one chosen has none.
    pub fallback: bool,
}

/// What to change of a setting; absent parts stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Whose credential applies.
    pub policy: Option<Policy>,
    /// Whether the site's is used where the one chosen has none.
    pub fallback: Option<bool>,
}

/// Whose credential a context gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The policy that chose.
    pub policy: Policy,
    /// Whom it chose. A change is written to exactly this owner's.
    pub owner: Owner,
    /// Whether the site's is used where that owner has none.
    pub fallback: bool,
}

impl Resolution {
    /// Where to look, in order.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let site = (self.fallback && self.owner != SITE).then_some(&SITE);
        [Some(&self.owner), site].into_iter().flatten()
    }

    /// What was found at one of the [`Resolution::owners`]; absent where none has anything.
    pub fn found<T>(self, value: Option<(Owner, T)>) -> Found<T> {
        let (resolved_from, value) = value.unzip();
        let fell_back = resolved_from.as_ref().is_some_and(|from| *from != self.owner);
        Found { policy: self.policy, wanted: self.owner, resolved_from, fell_back, value }
    }
}

/// What a look-up by policy found, and where.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// The policy that chose.
    pub policy: Policy,
    /// Whom it chose.
    pub wanted: Owner,
    /// Whose credential this is; absent where there is none.
    pub resolved_from: Option<Owner>,
    /// Whether it is the site's because the one chosen has none.
    pub fell_back: bool,
    /// What was found. Absent is absent, never empty.
    pub value: Option<T>,
}

/// Where a look-up falls back to.
static SITE: Owner = Owner::Site;

/// Whose credential a context gets at a provider.
pub async fn resolve(
    outside: &Outside,
    site: &SiteId,
    provider: &ProviderName,
    kind: Kind,
    context: &Context,
) -> Result<Resolution> {
    let stored = setting(&outside.base.db, site, provider, kind).await?;
    let question = PolicyQuestion { site, provider, kind, context };
    let policy = outside.extensions.policy_for(&question).unwrap_or(stored.policy);
    Ok(Resolution { policy, owner: context.owner(policy), fallback: stored.fallback })
}

/// What is set for a provider. Where nothing is: the site's, which falls back to nothing.
pub async fn setting(db: &Db, site: &SiteId, provider: &ProviderName, kind: Kind) -> Result<Setting> {
    Ok(store::get(db, site, provider, kind).await?.unwrap_or_default())
}

/// Sets what is given, and leaves the rest as it is.
pub async fn set(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    provider: &ProviderName,
    kind: Kind,
    change: Change,
) -> Result<Setting> {
    let mut tx = base.db.begin().await?;
    set_in(base, &mut tx, site, actor, provider, kind, change).await?;
    tx.commit().await?;
    setting(&base.db, site, provider, kind).await
}

/// The same inside a transaction.
pub async fn set_in(
    base: &Base,
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    provider: &ProviderName,
    kind: Kind,
    change: Change,
) -> Result<()> {
    store::set(tx, site, provider, kind, change, base.clock.now()).await?;
    let facts = json!({ "provider": provider, "kind": kind, "policy": change.policy, "fallback": change.fallback });
    base.audit.record(tx, Event::new(site, actor, "scope_policy.set").facts(facts)).await
}

/// A provider whose credentials an import brought falls back to the site's, as it did where they come from. For the
/// import's own transaction; doing it again changes nothing.
pub async fn set_imported(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, provider: &ProviderName) -> Result<()> {
    for kind in Kind::ALL {
        set_in(base, tx, site, actor, provider, kind, Change { fallback: Some(true), policy: None }).await?;
    }
    Ok(())
}
