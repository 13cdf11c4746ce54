//! Introspection (RFC 7662): what a token is, for a resource server that was shown it.
//!
//! The answer is made of the facts that a decision is made of, so a token is active here exactly as long as it is taken by us.
//! Whatever is not active for whoever asks gets one and the same answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Asker, Found, Outcome, Params, Scopes, Server, scope::under, token::BEARER};
use crate::{
    clock::Timestamp,
    decision::{self, Parsed},
    error::Result,
    id::{AgentId, ClientId, FamilyId, SessionName, SiteId, TaskName, TokenId, UserId},
    principal::{Ceiling, Owner, PlatformCeiling},
    token::{self, Audience},
};

/// An answer: exactly `{"active":false}`, or everything else.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Inspected {
    /// Not a token that whoever asks may use: unknown, ended, malformed, or not theirs to ask about.
    Inactive(Inactive),
    /// A token that is taken now.
    Active(Box<Active>),
}

impl Inspected {
    /// Whether the token is taken now.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Active(_))
    }

    fn nothing() -> Self {
        Self::Inactive(Inactive { active: false })
    }
}

/// The one answer for what is not active.
#[derive(Clone, Debug, Serialize)]
pub struct Inactive {
    active: bool,
}

/// What is told of a token that is taken now.
#[derive(Clone, Debug, Serialize)]
pub struct Active {
    active: bool,
    token_type: &'static str,
    iss: String,
    /// For whom it acts: `user:ID`, or `agent:ID` where it acts for nobody else. Neither is ever a client's id.
    sub: String,
    aud: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Act>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<ClientId>,
    /// What may be done with it at most at this moment; empty where that is nothing. A use needs a grant besides.
    scope: String,
    jti: TokenId,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    site: SiteId,
    agent: AgentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    /// The session and the task that it is for, where it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<TaskName>,
    auth_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_id: Option<FamilyId>,
    /// What the platform that asks holds the token to in its own calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<PlatformCeiling>,
    /// Grows whenever a token of the site is revoked, by whichever replica: whoever keeps answers drops those with a smaller one.
    revocation_epoch: i64,
}

/// Who acts, where it is another than the subject (RFC 8693 section 4.1).
#[derive(Clone, Debug, Serialize)]
struct Act {
    sub: String,
}

impl Server {
    /// Says what a token is, to whoever proved to be somebody.
    pub async fn introspect(&self, asker: &Asker, params: &Params) -> Outcome<Inspected> {
        // The hint is not looked at: every kind is looked for (section 2.1). A refresh token is its client's alone, and is never
        // active for a resource.
        let text = params.require("token")?;
        // INVARIANT: before the token is looked at. An answer that a revocation overtakes has the smaller number, and is dropped.
        let epoch = self.epochs.of(self, asker.site()).await?;
        let Some(found) = self.find(text).await? else { return Ok(Inspected::nothing()) };
        Ok(self.inspected(asker, &found, epoch).map_or_else(Inspected::nothing, |active| Inspected::Active(Box::new(active))))
    }

    /// What is told of a live token; nothing where it is not the asker's to ask about.
    fn inspected(&self, asker: &Asker, found: &Found, epoch: i64) -> Option<Active> {
        let Found { facts, principal } = found;
        let token = facts.token.as_ref()?;
        let agent = principal.agent.clone()?;
        let own = match &token.ceiling {
            None => Ceiling::default(),
            Some(Parsed::Read(ceiling)) => ceiling.clone(),
            Some(Parsed::Unreadable) => return None,
        };
        // A platform asks about every token of its site; a client about those that were issued to it, as far as it may go.
        let (cut, platform) = match asker {
            Asker::Platform(key) if key.site == principal.site => (None, own.platform),
            Asker::Client(client) if client.site == principal.site && token.origin.client.as_ref() == Some(&client.id) => {
                under(&own, client.ceiling.as_ref())?;
                (client.ceiling.as_ref(), None)
            }
            Asker::Platform(_) | Asker::Client(_) => return None,
        };
        // Not what stands on the token alone: what of it holds at this moment, by the agent, the site and the person, too.
        let holds = decision::most(facts, facts.person.as_ref()).and_then(|most| under(&most, cut));
        let acting = Owner::Agent(agent.clone()).to_string();
        let (sub, act) = match &principal.user {
            Some(user) => (Owner::User(user.clone()).to_string(), Some(Act { sub: acting })),
            None => (acting, None),
        };
        let taken_at = token.origin.audience.map_or_else(|| Audience::ALL.to_vec(), |audience| vec![audience]);
        Some(Active {
            active: true,
            token_type: BEARER,
            iss: self.issuer().to_owned(),
            sub,
            aud: taken_at.into_iter().map(|audience| self.resource(audience)).collect(),
            act,
            client_id: token.origin.client.clone(),
            scope: holds.map(|holds| Scopes::of(&holds).to_string()).unwrap_or_default(),
            jti: token.id.clone(),
            iat: token.origin.created_at.unix_seconds(),
            exp: token.expires_at.map(Timestamp::unix_seconds),
            site: principal.site.clone(),
            agent,
            user: principal.user.clone(),
            session: facts.session.clone(),
            task: facts.task.clone(),
            auth_source: "agent_token",
            grant_id: token.origin.family.clone(),
            platform,
            revocation_epoch: epoch,
        })
    }
}

/// How old an epoch may be that another replica may have moved meanwhile.
const STALE: Duration = Duration::from_secs(1);

/// The revocation epoch ([`token::revocation_epoch`]) of each site that is asked about; clones share it.
#[derive(Clone, Default)]
pub(super) struct Epochs(Arc<Mutex<HashMap<SiteId, Known>>>);

#[derive(Clone, Copy)]
struct Known {
    /// The database's own epoch before it was read: what this process revoked since is not in it.
    then: u64,
    read: Instant,
    value: i64,
}

impl Epochs {
    async fn of(&self, server: &Server, site: &SiteId) -> Result<i64> {
        let db = &server.base().db;
        let (then, read) = (db.epoch(), Instant::now());
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(site).copied();
        if let Some(known) = known
            && known.then == then
            && read.duration_since(known.read) < STALE
        {
            return Ok(known.value);
        }
        let value = token::revocation_epoch(db, site).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(site.clone(), Known { then, read, value });
        Ok(value)
    }
}
