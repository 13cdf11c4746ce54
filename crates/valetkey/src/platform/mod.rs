//! Platform keys: how a site's own backend calls us, what it may do, and which people it may speak for.
//!
//! A key is shown once, together with the secret by which its platform signs *assertions*: short JSON Web
//! Tokens that say "the browser showing this is user 42", for one connect session or for signing in, once, for at most
//! sixty seconds (decisions 6). A platform that has keys of its own publishes them instead ([`set_jwks_url`]).

mod assertion;
mod jwks;
mod store;

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    audit::Event,
    base::{Base, Outside},
    clock::Timestamp,
    db::{Db, Line, Memory, Question, Together, Tx},
    error::{Code, Error, Result},
    id::{self, PlatformKeyId, SiteId, UserId, sha256_hex},
    principal::Actor,
    seal::Place,
    secret::{Secret, SecretBytes},
    text,
};

pub use assertion::{Claimed, Proven, Purpose, Signed, read, sign, sign_for, verify};

/// What the text of every platform key begins with.
pub const PREFIX: &str = "vkp_";

/// What a platform key may do. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// See accounts and their state, without secrets.
    #[serde(rename = "accounts:read")]
    AccountsRead,
    /// Read the secrets of accounts: a third delivery, which no other scope implies (decisions 5).
    #[serde(rename = "accounts:reveal")]
    AccountsReveal,
    /// Store, change and delete accounts.
    #[serde(rename = "accounts:write")]
    AccountsWrite,
    /// Make connect sessions for the people it may assert.
    #[serde(rename = "connect")]
    Connect,
    /// Sign in the people it may assert, and out.
    #[serde(rename = "signin")]
    Signin,
    /// Manage agents, roles and their tokens.
    #[serde(rename = "agents")]
    Agents,
    /// Grant, list and revoke.
    #[serde(rename = "grants")]
    Grants,
    /// What concerns the site: app configurations, site and agent accounts, settings, keys, audit.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 8] = [
        Scope::AccountsRead,
        Scope::AccountsReveal,
        Scope::AccountsWrite,
        Scope::Connect,
        Scope::Signin,
        Scope::Agents,
        Scope::Grants,
        Scope::Admin,
    ];

    /// The scope's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::AccountsRead => "accounts:read",
            Scope::AccountsReveal => "accounts:reveal",
            Scope::AccountsWrite => "accounts:write",
            Scope::Connect => "connect",
            Scope::Signin => "signin",
            Scope::Agents => "agents",
            Scope::Grants => "grants",
            Scope::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            Error::new(Code::InvalidRequest, format!("`{text}` is no scope; there are {}", all.join(", ")))
        })
    }
}

/// Which people a key may speak for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asserts {
    /// Nobody.
    #[default]
    None,
    /// Anybody.
    Any,
    /// These people.
    #[serde(untagged)]
    People(BTreeSet<UserId>),
}

impl Asserts {
    /// Whether the key may speak for this person.
    pub fn allows(&self, user: &UserId) -> bool {
        match self {
            Asserts::None => false,
            Asserts::Any => true,
            Asserts::People(people) => people.contains(user),
        }
    }
}

/// A platform key as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct PlatformKey {
    /// Its id, which is no secret.
    pub id: PlatformKeyId,
    /// The site it belongs to.
    pub site: SiteId,
    /// The first characters of its text.
    pub prefix: String,
    /// What somebody called it.
    pub label: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// For whom it may speak.
    pub asserts: Asserts,
    /// Where its platform publishes the keys by which it signs assertions; absent where it signs with the key's own secret.
    pub jwks_url: Option<String>,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
}

impl PlatformKey {
    /// Whether it was revoked, or its time is over.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What a new key is made of.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What to call it.
    pub label: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// For whom it may speak.
    pub asserts: Asserts,
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// A fresh key with what is shown this once.
#[derive(Debug)]
pub struct Minted {
    /// The key as it is listed.
    pub key: PlatformKey,
    /// Its text.
    pub text: Secret,
    /// The secret by which its platform signs assertions.
    pub assertion_secret: Secret,
}

/// Makes a platform key.
pub async fn create(base: &Base, site: &SiteId, actor: &Actor, new: NewKey) -> Result<Minted> {
    let now = base.clock.now();
    if new.scopes.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "a platform key has at least one scope"));
    }
    text::check("label", &new.label, text::LABEL)?;
    if let Asserts::People(people) = &new.asserts {
        text::check_list("asserts", people.len(), text::LIST)?;
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::new(Code::InvalidRequest, "expires_at is in the past"));
    }
    let text = Secret::new(format!("{PREFIX}{}", id::random_text::<32>()?));
    let assertion_secret = Secret::new(id::random_text::<32>()?);
    let key = PlatformKey {
        id: PlatformKeyId::new(),
        site: site.clone(),
        prefix: text.expose()[..PREFIX.len() + 6].to_owned(),
        label: new.label,
        scopes: new.scopes,
        asserts: new.asserts,
        jwks_url: None,
        created_at: now,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    let secret = SecretBytes::new(assertion_secret.expose().as_bytes().to_vec());
    let sealed = base.ring.seal(&base.db, &Place::platform_key(site, &key.id), &secret).await?;
    let mut tx = base.db.begin().await?;
    store::insert(&mut tx, &key, &sha256_hex(text.expose().as_bytes()), &sealed, actor).await?;
    let facts = json!({ "key": key.id, "label": key.label, "scopes": key.scopes, "asserts": key.asserts });
    base.audit.record(&mut tx, Event::new(site, actor, "key.create").facts(facts)).await?;
    tx.commit().await?;
    Ok(Minted { key, text, assertion_secret })
}

/// What a key with this text is looked up by; whatever has no key's form is refused before anybody is asked.
fn hash_of(presented: &str) -> Result<String> {
    let is_one = presented.starts_with(PREFIX) && presented.len() == PREFIX.len() + 43;
    is_one.then(|| sha256_hex(presented.as_bytes())).ok_or_else(refused)
}

/// The keys that call: look-ups meet in one statement, and on SQLite what was found is remembered. Clones share it.
#[derive(Clone)]
pub struct Keys {
    db: Db,
    known: Memory<String, Arc<PlatformKey>>,
    together: Together<KeysOf>,
}

/// The keys of hashes.
struct KeysOf;

impl Question for KeysOf {
    type Key = String;
    type Found = Result<Option<Arc<PlatformKey>>>;

    async fn ask(line: &mut Line, keys: &[String]) -> Result<Vec<Self::Found>> {
        let found = store::by_hashes(line, keys).await?;
        Ok(found.into_iter().map(|key| Ok(key?.map(Arc::new))).collect())
    }
}

impl Keys {
    /// The keys in a database.
    pub fn new(db: Db) -> Self {
        Self { known: Memory::new(&db, REMEMBERED), together: Together::new(db.clone()), db }
    }

    /// The live key behind a presented text.
    ///
    /// # Errors
    /// `unauthenticated`, with the same words for every reason to refuse; what the database says.
    pub async fn authenticate(&self, presented: &str, now: Timestamp) -> Result<Arc<PlatformKey>> {
        let hash = hash_of(presented)?;
        let load = async { self.together.ask(hash.clone()).await? };
        let found = self.known.or_load(&self.db, hash.clone(), load).await?;
        found.filter(|key| !key.has_ended(now)).ok_or_else(refused)
    }
}

/// How many keys are remembered.
const REMEMBERED: usize = 1_000;

fn refused() -> Error {
    Error::new(Code::Unauthenticated, "the key is not valid")
}

/// Whether there is such a key and it has not ended.
pub async fn is_live(db: &Db, site: &SiteId, id: &PlatformKeyId, now: Timestamp) -> Result<bool> {
    Ok(store::by_id(db, site, id).await?.is_some_and(|(key, _)| !key.has_ended(now)))
}

/// A site's keys, newest first.
pub async fn list(db: &Db, site: &SiteId) -> Result<Vec<PlatformKey>> {
    store::of_site(db, site).await
}

/// Has assertions of a key verified by the public keys that its platform publishes at `url` (RFC 7517), and by its own secret no
/// more; `None` goes back to the secret. The keys are read at once, so that what is wrong with them is said now.
///
/// # Errors
/// `invalid_request` where the URL is no https one or there is no key of a kind we use; `address_refused` where it leads
/// inward; `upstream_unreachable`, `upstream_timeout`, `upstream_invalid`; `not_found` where there is no such key, or it is
/// revoked.
pub async fn set_jwks_url(outside: &Outside, site: &SiteId, actor: &Actor, id: &PlatformKeyId, url: Option<&str>) -> Result<()> {
    let base = &outside.base;
    let read = match url {
        Some(url) => Some((url, jwks::first(outside, url).await?)),
        None => None,
    };
    let mut tx = base.db.begin_bookkeeping().await?;
    let kept = read.as_ref().map(|(url, text)| (*url, text.as_str()));
    if !store::set_jwks(&mut tx, site, id, kept, base.clock.now()).await? {
        return Err(Error::new(Code::NotFound, format!("there is no live platform key `{id}`")));
    }
    base.audit.record(&mut tx, Event::new(site, actor, "key.change").facts(json!({ "key": id, "jwks_url": url }))).await?;
    tx.commit().await
}

/// One key of a site.
pub async fn get(db: &Db, site: &SiteId, id: &PlatformKeyId) -> Result<Option<PlatformKey>> {
    Ok(store::by_id(db, site, id).await?.map(|(key, _)| key))
}

/// Revokes a key. Doing it again changes nothing.
pub async fn revoke(base: &Base, site: &SiteId, actor: &Actor, id: &PlatformKeyId) -> Result<()> {
    let mut tx = base.db.begin().await?;
    if store::revoke(&mut tx, site, id, actor, base.clock.now()).await? {
        base.audit.record(&mut tx, Event::new(site, actor, "key.revoke").facts(json!({ "key": id }))).await?;
    }
    tx.commit().await
}

/// Whether a person is disabled. Somebody we never heard of is not.
pub async fn person_is_disabled(db: &Db, site: &SiteId, user: &UserId) -> Result<bool> {
    store::person_is_disabled(db, site, user).await
}

/// Notes a person who is no more where they came from: disabled, unless we know of them and decided otherwise. False then.
pub async fn import_gone(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, user: &UserId) -> Result<bool> {
    if !store::add_disabled(tx, site, user, base.clock.now()).await? {
        return Ok(false);
    }
    base.audit.record(tx, Event::new(site, actor, "person.disable").facts(json!({ "user": user }))).await?;
    Ok(true)
}

/// Disables a person or lets them act again, in the transaction of whoever ends more with it: `person::set_disabled`.
///
/// Errors: `conflict` for letting somebody act again who was erased.
pub(crate) async fn set_person_disabled(
    base: &Base,
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    user: &UserId,
    disabled: bool,
) -> Result<()> {
    let now = base.clock.now();
    if !store::set_person_disabled(tx, site, user, now, disabled).await? {
        if disabled {
            return Ok(());
        }
        return Err(Error::new(Code::Conflict, format!("user {user} was erased, which is for good; use another id")));
    }
    let action = if disabled { "person.disable" } else { "person.enable" };
    base.audit.record(tx, Event::new(site, actor, action).facts(json!({ "user": user }))).await
}

/// Marks a person as erased, in the transaction that takes what is theirs. They are disabled by that, for good. False where
/// they were erased before.
pub async fn mark_erased(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<bool> {
    store::mark_erased(tx, site, user, now).await
}

/// Takes a person out of the lists of those whom keys may speak for, in the transaction that erases the person.
pub async fn forget_person(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    for (id, stored) in store::naming(tx, site, user).await? {
        let Ok(Asserts::People(mut people)) = serde_json::from_str(&stored) else { continue };
        if people.remove(user) {
            let left = if people.is_empty() { Asserts::None } else { Asserts::People(people) };
            store::set_asserts(tx, site, &id, &left).await?;
        }
    }
    Ok(())
}

/// The people whose erasing is not done, with since when it goes on; at most a hundred.
pub async fn being_erased(db: &Db) -> Result<Vec<(SiteId, UserId, Timestamp)>> {
    store::being_erased(db).await
}

/// Notes that nothing of an erased person is left.
pub async fn mark_erase_done(tx: &mut Tx, site: &SiteId, user: &UserId, now: Timestamp) -> Result<()> {
    store::mark_erase_done(tx, site, user, now).await
}
