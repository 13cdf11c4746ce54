//! Valet Key as an OAuth authorization server, for agents: how a program gets a token by which an agent calls us.
//!
//! 1. A [`client`] is known here: made by the operator or a platform, or registered by itself where the site allows it.
//! 2. A person signs in and consents ([`authorize`], or [`device`] where the program has no browser). The consent is a row of
//!    `token_families`: agent, person, client, the most that may be done, until when.
//! 3. The client trades the code ([`token`]) for an access token of minutes and a refresh token, which is traded for its
//!    successor each time.
//! 4. An access token is a row of `agent_tokens` like one that was minted by hand. So there is one decision: whatever ends
//!    or narrows such a token holds here, and nothing here decides what a token may do.
//! 5. A client may trade a token for one that may less, for one that acts for a person who was proven, or for an upstream token
//!    where a grant says `reveal` ([`exchange`]).
//! 6. [`introspect`] and [`revoke`] tell of tokens and end them; [`metadata`] says what there is.
//!
//! The standards: RFC 6749 as RFC 9700 narrows it (PKCE S256 for everybody, no implicit grant, no password grant), RFC 7009, 7591,
//! 7636, 7662, 8252, 8414, 8628, 8693, 8707, 9207, 9728.

pub mod authorize;
pub mod client;
pub mod device;
pub mod exchange;
mod fault;
pub mod introspect;
pub mod metadata;
mod params;
pub mod register;
pub mod revoke;
mod scope;
mod store;
pub mod token;

use std::{sync::Arc, time::Duration};

use url::Url;

pub use client::{Asker, Client, GrantType, NewClient, Presented};
pub use fault::{Fault, Outcome, Word};
pub use introspect::Inspected;
pub use params::Params;
pub use scope::{Scope, Scopes};
pub use token::Issued;

use crate::{
    agent::Role,
    base::{Base, Outside},
    clock::Timestamp,
    db::Tx,
    decision::{self, Authority, Facts, Who},
    deliver::Deliverer,
    error::{Code, Error, Result},
    id::{AgentId, ConnectionId, SiteId, UserId, sha256_hex},
    platform,
    principal::Principal,
    secret::Secret,
    token::{Audience, TokenHash, family},
};

/// How long an access token lives.
pub const ACCESS_LIFE: Duration = Duration::from_secs(15 * 60);
/// How long a refresh token lives that nobody uses.
pub const REFRESH_IDLE: Duration = Duration::from_secs(14 * DAY);
/// How long a code lives.
pub const CODE_LIFE: Duration = Duration::from_secs(60);
/// For so long the same old refresh token brings the same successor: an answer may be lost.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);
/// How long what is over is kept: a code that comes back ends what came of it.
const KEPT: Duration = Duration::from_secs(DAY);

const DAY: u64 = 86_400;

/// The authorization server of a process; clones share everything.
#[derive(Clone)]
pub struct Server {
    outside: Outside,
    authority: Authority,
    deliverer: Deliverer,
    epochs: introspect::Epochs,
    keys: platform::Keys,
}

impl Server {
    /// The server over everything it needs.
    pub fn new(outside: Outside, authority: Authority, deliverer: Deliverer) -> Self {
        let keys = platform::Keys::new(outside.base.db.clone());
        Self { outside, authority, deliverer, epochs: introspect::Epochs::default(), keys }
    }

    /// The platform keys that call: whoever asks for one anywhere in this process asks here, where they are remembered.
    pub fn keys(&self) -> &platform::Keys {
        &self.keys
    }

    /// The issuer of RFC 8414: our origin, without a slash at its end.
    pub fn issuer(&self) -> &str {
        self.outside.public_url.as_str().trim_end_matches('/')
    }

    /// The address of a place where tokens are taken, as a resource of RFC 8707.
    pub fn resource(&self, audience: Audience) -> String {
        match audience {
            Audience::Api => self.issuer().to_owned(),
            Audience::Mcp => format!("{}/mcp", self.issuer()),
        }
    }

    fn base(&self) -> &Base {
        &self.outside.base
    }

    fn now(&self) -> Timestamp {
        self.base().clock.now()
    }

    /// The place of ours that a resource is.
    fn audience(&self, resource: &str) -> Option<Audience> {
        let resource = Url::parse(resource).ok().filter(|url| url.fragment().is_none())?;
        let ours = |audience: &Audience| Url::parse(&self.resource(*audience)).is_ok_and(|url| url == resource);
        Audience::ALL.into_iter().find(ours)
    }

    /// The one place that a request names by `resource`; nothing where it names none.
    ///
    /// # Errors
    /// `invalid_target` for what is no absolute URI without fragment, is not ours, or for two: a token is for one.
    fn named_audience(&self, params: &Params) -> Outcome<Option<Audience>> {
        let mut named = None;
        for resource in params.all("resource") {
            let found = self.audience(resource).ok_or_else(|| {
                Fault::new(Word::InvalidTarget, format!("the resources here are {} and {0}/mcp", self.issuer()))
            })?;
            if named.is_some_and(|named| named != found) {
                return Err(Fault::new(Word::InvalidTarget, "a token is for one resource; ask for one token for each"));
            }
            named = Some(found);
        }
        Ok(named)
    }

    /// The facts of an agent that can act for a person now: both live, and the person has a role of operator or more on the agent.
    async fn acting(&self, site: &SiteId, agent: &AgentId, person: &UserId) -> Result<Option<Facts>> {
        // No connection has this id: only who acts is asked.
        let none = ConnectionId::new();
        let who = Who::new(agent.clone(), Some(person.clone()));
        let Some(facts) = decision::for_agent(&self.base().db, site, &who, &none).await? else { return Ok(None) };
        let operates = facts.person.as_ref().is_some_and(|person| person.role >= Some(Role::Operator));
        match decision::principal(&facts, self.now()) {
            Ok(_) => Ok(operates.then_some(facts)),
            Err(error) if error.code() == Code::Unauthenticated => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The facts of a live token by its text, whichever place it is for, and who acts; nothing where it is nobody's, or of
    /// somebody who may no longer have the agent act.
    async fn find(&self, text: &str) -> Result<Option<Found>> {
        let Some(plain) = TokenHash::of_presented(text) else { return Ok(None) };
        for audience in Audience::ALL {
            let Some(facts) = self.authority.holder(&plain.at(audience)).await? else { continue };
            // Every use by such a token is denied, also the unattended ones.
            if facts.person.as_ref().is_some_and(|person| person.role < Some(Role::Operator)) {
                return Ok(None);
            }
            return match decision::principal(&facts, self.now()) {
                Ok(principal) => Ok(Some(Found { facts, principal })),
                Err(error) if error.code() == Code::Unauthenticated => Ok(None),
                Err(error) => Err(error),
            };
        }
        Ok(None)
    }

    /// The hash by which a bearer that is shown at a place is looked up. What is not taken there has none that is known, so
    /// whoever looks it up answers as to an unknown token (RFC 8707 section 2.2).
    ///
    /// # Errors
    /// `unauthenticated` for what has no token's form.
    pub async fn presented_at(&self, text: &str, at: Audience) -> Result<TokenHash> {
        let plain = TokenHash::of_presented(text).ok_or_else(decision::unauthenticated)?;
        if at == Audience::Api {
            return Ok(plain);
        }
        // One that was minted by hand is stored under its plain hash, and is taken everywhere.
        let by_hand = self
            .authority
            .holder(&plain)
            .await?
            .is_some_and(|facts| facts.token.as_ref().is_some_and(|token| token.origin.audience.is_none()));
        Ok(if by_hand { plain } else { plain.at(at) })
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("issuer", &self.issuer()).finish_non_exhaustive()
    }
}

/// A live token.
struct Found {
    facts: Arc<Facts>,
    principal: Principal,
}

/// Hashes a secret text for a row.
fn hash(secret: &Secret) -> String {
    sha256_hex(secret.expose().as_bytes())
}

/// Removes a person's consents and what hangs on them, in the caller's transaction; for erasing the person. Their tokens are
/// rows of `agent_tokens`, and go with the others that were minted for them.
pub async fn erase_person(tx: &mut Tx, site: &SiteId, person: &UserId) -> Result<u64> {
    // Whoever issues under one of them is waited for; otherwise a refresh token could come that hangs on what is removed.
    family::hold_of_person(tx, site, person).await?;
    store::erase_person(tx, site, person).await?;
    family::erase(tx, site, person).await
}

/// Removes what ended a day ago: issued tokens, codes, sign-ins, refresh tokens, consents, and clients that registered
/// themselves and were never used. Says how many rows.
pub async fn sweep(base: &Base) -> Result<u64> {
    let ended = base.clock.now().minus(KEPT);
    let mut tx = base.db.begin_bookkeeping().await?;
    let mut swept = store::sweep(&mut tx, ended, ended).await?;
    swept += crate::token::sweep(&mut tx, ended).await?;
    swept += family::sweep(&mut tx, ended).await?;
    tx.commit().await?;
    Ok(swept)
}

/// A refusal of a grant: the same whatever is wrong with it.
fn not_good() -> Fault {
    Fault::new(Word::InvalidGrant, "it is unknown, used, expired, revoked, or another client's")
}

/// An error of ours for whoever is at a page.
fn page_error(fault: Fault) -> Error {
    match fault {
        Fault::Refused { text, .. } => Error::new(Code::InvalidRequest, text),
        Fault::Failed(error) => error,
    }
}
