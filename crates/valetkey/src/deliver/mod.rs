//! From an allowed decision to a credential in use: the only room that turns one into the other.
//!
//! 1. The facts are loaded and `decide` is asked ([`Deliverer`]). A refusal is recorded and told.
//! 2. Where a grant asks, the use is held until a person approves exactly that ([`approved`]).
//! 3. Only then is anything opened or refreshed.
//! 4. The use is recorded; with an audit that cannot take it, nothing is handed out and nothing is sent.
//! 5. *Reveal* hands out the access token, never the refresh token. *Proxy* makes the call (see [`proxy`]).
//!
//! A platform that embeds the library makes calls with an account of its people or agents in the same way, as their owner
//! ([`AuthenticatedClient`]): the same rules of the proxy, and no grant.
//!
//! The pure rules of the proxy (decisions 7), each a function of plain arguments:
//!
//! 1. [`path`]: what is not plainly spelled is refused, never normalised.
//! 2. [`rules`]: methods, method overrides, batch endpoints.
//! 3. [`headers`]: what of the caller's headers goes on, and what of the provider's comes back.
//! 4. [`inject`]: the credential, put in last.
//! 5. [`slot`]: which of several tokens is meant.
//! 6. `choice`: what a person chose from the provider's lists.
//! 7. [`echo`]: a credential that comes back in an answer's headers is taken out.

pub mod approved;
mod choice;
mod client;
pub mod echo;
mod explain;
pub mod headers;
pub mod inject;
pub mod path;
pub mod proxy;
pub mod query;
pub mod rules;
pub mod slot;
mod streams;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    app_config,
    approval::{self, Approval},
    audit::{Event, Outcome},
    base::Outside,
    connection::{Connection, Renewal, Status, Stored, elsewhere, load},
    decision::{Authority, Decision, Effect, Facts, Request, decide, decide_approved, principal, unauthenticated, usable_at},
    error::{Code, Error, Result},
    grant::{self, Limits},
    id::{ApprovalId, ConnectionId, GrantId, ProviderName, SiteId, UserId},
    mail,
    principal::{Actor, CallerChain, Delivery, Slot},
    provider::{Definition, FieldLevel, TOKEN_SECRET, pattern::MAIL_METHOD},
    refresh::{Refresher, Served, Wish},
    secret::{Secret, SecretMap},
    token::{LastUsed, TokenHash},
};

pub use client::AuthenticatedClient;
pub use explain::{evaluate, explain};
pub use streams::Guarded;

/// A decision that is acted on within this time was not waited with.
const AT_ONCE: Duration = Duration::from_millis(250);

/// Who calls: an agent by its token, whether it gave the token's person up for this call, and what it says of its own caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The hash of the token that was shown.
    pub token: TokenHash,
    /// The call is made without the token's person. Nothing can name another one (decisions 3).
    pub unattended: bool,
    /// The agents that the call came through, as it claims: for the audit, and for an end of chains that go in circles.
    pub chain: CallerChain,
}

impl Caller {
    /// An agent that calls for its token's person, and says of nobody that they called it.
    pub fn new(token: TokenHash) -> Self {
        Self { token, unattended: false, chain: CallerChain::default() }
    }
}

/// What a reveal hands out.
#[derive(Debug)]
pub struct Revealed {
    /// The connection.
    pub connection: ConnectionId,
    /// Its provider.
    pub provider: ProviderName,
    /// The secret members: `access_token` and what belongs to using it, the fields of a static credential, or the servers of
    /// a mailbox as [`mail::revealed`] says.
    pub secrets: SecretMap,
    /// The token's type, where there is a token.
    pub token_type: Option<String>,
    /// When it ends; absent while unknown.
    pub expires_at: Option<crate::clock::Timestamp>,
    /// The scopes granted upstream.
    pub scopes: Option<Vec<String>>,
}

/// Delivers credentials to their uses; clones share everything.
#[derive(Clone)]
pub struct Deliverer {
    outside: Outside,
    authority: Authority,
    refresher: Refresher,
    last_used: LastUsed,
    limits: Limits,
    streams: streams::Streams,
    /// The providers whose proxied calls carry something of the app configuration.
    needs_app: Arc<HashSet<ProviderName>>,
}

/// An allowed use: by what right, on what.
struct Allowed {
    right: Right,
    site: SiteId,
    stored: Arc<Stored>,
    actor: Actor,
    epoch: u64,
    asked: Instant,
}

/// By what right a connection is used.
enum Right {
    /// An agent's: what was decided for it, on which facts.
    Agent { caller: Caller, facts: Arc<Facts>, decision: Decision },
    /// The platform's own, which handles the accounts of its people and agents as their owner.
    Owner,
    /// The same, of an account that a registered resolver holds: what it handed out for this call.
    Held { by: &'static str, account: SecretMap },
}

impl Allowed {
    /// The grant that allows it; the owner needs none.
    fn grant(&self) -> Option<&GrantId> {
        match &self.right {
            Right::Agent { decision, .. } => decision.grant.as_ref(),
            Right::Owner | Right::Held { .. } => None,
        }
    }

    /// What goes wrong with a token that only its holder can renew, with the holder's name.
    fn told_of_holder(&self, error: Error) -> Error {
        let Right::Held { by, .. } = &self.right else { return error };
        let Connection { owner, provider, .. } = &self.stored.connection;
        match error.code() {
            Code::NotAuthenticated | Code::NoCredentials => Error::new(
                Code::NotAuthenticated,
                format!(
                    "the account of {owner} at {provider} is held by `{by}`, and has no token that can be used; renew it there"
                ),
            ),
            _ => error,
        }
    }
}

impl Deliverer {
    /// A deliverer over everything it needs.
    pub fn new(outside: Outside, authority: Authority, refresher: Refresher, last_used: LastUsed) -> Self {
        let needs_app = outside.catalogue.iter().filter(|d| carries_app(d)).map(|d| d.name.clone()).collect();
        let streams = streams::Streams::new(outside.base.clone());
        Self { outside, authority, refresher, last_used, limits: Limits::default(), streams, needs_app: Arc::new(needs_app) }
    }

    /// What this process holds of the rate limits of grants; for [`evaluate`].
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends running streams whose authority ended. One task per process runs this.
    pub async fn watch_streams(&self, stop: tokio_util::sync::CancellationToken) {
        self.streams.watch(&self.authority, stop).await;
    }

    /// Hands out a fresh access token or what else opens the account, where a grant says `reveal`.
    ///
    /// `min_life` is how long the caller needs it to live; it is a wish, capped so that it makes no refresh storm.
    pub async fn reveal(&self, caller: &Caller, connection: &ConnectionId, min_life: Option<Duration>) -> Result<Revealed> {
        self.reveal_slot(caller, connection, min_life, None).await
    }

    /// The same for the token of a slot, where the connection holds several.
    pub async fn reveal_slot(
        &self,
        caller: &Caller,
        connection: &ConnectionId,
        min_life: Option<Duration>,
        named: Option<&slot::Named>,
    ) -> Result<Revealed> {
        self.reveal_approved(caller, connection, min_life, named, None).await
    }

    /// The same with the approval that carries it, where a grant asks.
    pub async fn reveal_approved(
        &self,
        caller: &Caller,
        connection: &ConnectionId,
        min_life: Option<Duration>,
        named: Option<&slot::Named>,
        approval: Option<&ApprovalId>,
    ) -> Result<Revealed> {
        let allowed = self.allow(caller, connection, Delivery::Reveal, None, None).await?;
        let definition = self.outside.definition(&allowed.stored.connection.provider)?;
        if let Err(error) = choice::check_reveal(&definition) {
            return Err(self.not_taken(&allowed, error, "chosen").await?);
        }
        let slot = named.map(ToString::to_string);
        let used = approved::Use {
            delivery: Delivery::Reveal,
            operation: None,
            url: "",
            path: "",
            query: None,
            slot,
            headers: &HeaderMap::new(),
            body: &[],
        };
        let (allowed, approval) = self.approved(allowed, &used, approval).await?;
        let wish = Wish { min_life, rejected_version: None };
        let (allowed, served) = self.serve(allowed, Delivery::Reveal, None, wish, named).await?;
        let now = self.outside.base.clock.now();
        let token = slot::token(&definition, &served.connection, &served.account, named, now)?;
        let (secrets, token_type) = match (&definition.mail, &token) {
            (Some(_), _) => self.mailbox(&allowed, &definition, &served.account)?,
            (None, Some(token)) => (token.account.clone(), Some("Bearer".to_owned())),
            (None, None) => revealable(&definition, served.connection.renewal, &served.account)?,
        };
        self.take_use(&allowed, approval.as_ref()).await?;
        let mut facts = json!({ "grant": allowed.grant() });
        if let Some(approval) = &approval {
            facts["approval"] = json!(approval.id);
        }
        if let Some(named) = named {
            facts["slot"] = named.to_string().into();
        }
        if definition.mail.is_some() {
            facts["servers"] = json!(secrets.expose().keys().collect::<Vec<_>>());
        }
        let event = self.event(&allowed, "connection.reveal", facts);
        self.outside.base.audit.record_use(event).await?;
        metrics::counter!("valetkey_deliveries_total", "delivery" => "reveal").increment(1);
        Ok(Revealed {
            connection: served.connection.id,
            provider: served.connection.provider,
            secrets,
            token_type,
            // What is known of the connection's own token says nothing of another one.
            expires_at: token.as_ref().map_or(served.connection.expires_at, |token| token.expires_at),
            scopes: served.connection.scopes.filter(|_| token.is_none()),
        })
    }

    /// What of a mailbox the grant hands out: the servers that serve an operation which it allows.
    fn mailbox(&self, allowed: &Allowed, definition: &Definition, account: &SecretMap) -> Result<(SecretMap, Option<String>)> {
        let now = self.outside.base.clock.now();
        let method = http::Method::from_bytes(MAIL_METHOD.as_bytes()).map_err(Error::internal)?;
        let may = |operation: &str| match &allowed.right {
            Right::Owner | Right::Held { .. } => true,
            Right::Agent { caller, facts, decision } => {
                let path = format!("/{operation}");
                let operation = Some((&method, "", path.as_bytes()));
                let request = Request { delivery: Delivery::Reveal, operation, unattended: caller.unattended };
                let found = match decision.grant.as_ref().filter(|_| decision.approved) {
                    Some(grant) => decide_approved(facts, &request, grant, now),
                    None => decide(facts, &request, now),
                };
                // Another grant with a limit is not drawn on beside the one that is.
                found.allowed() && (found.grant == decision.grant || !(found.counted || found.rate.is_some()))
            }
        };
        let token_type = account.text("access_token").and(account.text("token_type")).map(|kind| kind.expose().to_owned());
        Ok((mail::revealed(definition, account, may)?, token_type))
    }

    /// The connection that a call means: the id it names, or the only one the caller can use at the provider it names.
    pub async fn resolve(&self, caller: &Caller, named: &str, delivery: Delivery) -> Result<ConnectionId> {
        if named.starts_with(ConnectionId::PREFIX) {
            return named.parse();
        }
        let provider: ProviderName = named.parse()?;
        let now = self.outside.base.clock.now();
        let candidates = usable_at(&self.authority, &caller.token, &provider, now).await?;
        let request = Request { delivery, operation: None, unattended: caller.unattended };
        // Also where nothing is to be decided on: whether the token is alive is asked before anything is told.
        let facts = match candidates.facts.first() {
            Some(facts) => Arc::clone(facts),
            None => self.authority.holder(&caller.token).await?.ok_or_else(nobody)?,
        };
        if principal(&facts, now).is_err() {
            return Err(nobody());
        }
        self.check_chain(&facts, caller).await?;
        let person = facts.person.as_ref().filter(|_| !caller.unattended).map(|person| &person.id);
        let mut usable = Vec::new();
        for facts in &candidates.facts {
            let decision = decide(facts, &explain::asked(&self.outside, facts, &request), now);
            if let (false, Some(connection)) = (decision.denied(), &facts.connection) {
                usable.push(connection.stored.connection.clone());
            }
        }
        let refused = match usable.as_slice() {
            [only] if !candidates.more => return Ok(only.id.clone()),
            [] if !candidates.more => self.nothing_usable(&facts.site, &provider, delivery, person.is_some()).await,
            several => {
                let choices: Vec<_> = several
                    .iter()
                    .map(|c| json!({ "connection": c.id, "owner": c.owner, "name": c.name, "subject": c.subject_name }))
                    .collect();
                let text = match (choices.len(), candidates.more) {
                    // That is no no: among those that were not looked at one may be usable.
                    (0, _) => format!("none of the first connections at {provider} can be used, and there are more"),
                    (count, true) => format!("{count} and perhaps more connections at {provider} can be used"),
                    (count, false) => format!("{count} connections at {provider} can be used"),
                };
                Error::new(Code::Ambiguous, text + "; name one by its id").with_extra(json!({ "choices": choices }))
            }
        };
        // A name that is no provider's, and a defect of ours, are no refusals.
        let refusals = [Code::Ambiguous, Code::NotConfigured, Code::NoPerUserCredentials, Code::NoCredentials];
        if !refusals.contains(&refused.code()) {
            return Err(refused);
        }
        let mut told = json!({ "delivery": delivery, "provider": provider, "code": refused.code().as_str() });
        caller.chain.note(&mut told);
        let event = Event::new(&facts.site, &actor(&facts, person), "connection.use");
        self.outside.base.audit.record_use(event.outcome(Outcome::Denied).facts(told)).await?;
        metrics::counter!("valetkey_denials_total", "code" => refused.code().as_str()).increment(1);
        Err(refused)
    }

    async fn nothing_usable(&self, site: &SiteId, provider: &ProviderName, delivery: Delivery, person: bool) -> Error {
        let definition = match self.outside.definition(provider) {
            Ok(definition) => definition,
            Err(error) => return error,
        };
        // Anybody's app will do: whose applies is asked when an account is connected.
        let configured = |apps: &[app_config::AppConfig]| {
            let mut there = apps.iter().filter(|app| app.provider == *provider);
            app_config::is_configured(&definition, None) || there.any(|app| app_config::is_configured(&definition, Some(app)))
        };
        match app_config::list(&self.outside.base.db, site).await {
            Err(error) => error,
            Ok(apps) if !configured(&apps) => Error::new(
                Code::NotConfigured,
                format!("{} is not configured on this site; its operator enters the app's credentials", definition.title),
            ),
            Ok(_) if person => Error::new(
                Code::NoPerUserCredentials,
                format!(
                    "no {} account can be used for this person by {delivery}; they connect one, and grant the agent that use of it",
                    definition.title
                ),
            ),
            Ok(_) => Error::new(
                Code::NoCredentials,
                format!(
                    "no {} account can be used by {delivery} without a person; connect one, and grant the agent that use of it",
                    definition.title
                ),
            ),
        }
    }

    /// Loads the facts, decides, and records a refusal. `approved` is the grant under which a person approved this very call.
    ///
    /// What is asked about in general may go on where a person must approve: a call is asked about once more with its operation,
    /// and both are held before anything is spent on them ([`Deliverer::approved`]).
    async fn allow(
        &self,
        caller: &Caller,
        connection: &ConnectionId,
        delivery: Delivery,
        operation: Option<(&http::Method, &str, &[u8])>,
        approved: Option<&GrantId>,
    ) -> Result<Allowed> {
        let (epoch, asked) = (self.outside.base.db.epoch(), Instant::now());
        let Some(facts) = self.authority.facts(&caller.token, connection).await? else {
            return Err(nobody());
        };
        let request = Request { delivery, operation, unattended: caller.unattended };
        let (request, now) = (explain::asked(&self.outside, &facts, &request), self.outside.base.clock.now());
        let decision = match approved {
            Some(grant) => decide_approved(&facts, &request, grant, now),
            None => decide(&facts, &request, now),
        };
        let goes_on = match decision.effect {
            Effect::Allow => true,
            Effect::Ask => operation.is_none(),
            Effect::Deny => false,
        };
        let actor = actor(&facts, decision.person.as_ref());
        if decision.code != Some(Code::Unauthenticated) {
            self.check_chain(&facts, caller).await?;
        }
        match (&facts.connection, goes_on) {
            (Some(connection), true) => {
                let stored = Arc::clone(&connection.stored);
                if let Some(token) = &facts.token {
                    self.last_used.note(&facts.site, &token.id, now);
                }
                let (site, caller) = (facts.site.clone(), caller.clone());
                Ok(Allowed { right: Right::Agent { caller, facts, decision }, site, stored, actor, epoch, asked })
            }
            _ => Err(self.refuse(caller, &facts, &decision, &actor, connection, delivery).await?),
        }
    }

    /// Refuses a chain of agents that is exhausted, and records that. Whether the token is alive is settled before.
    async fn check_chain(&self, facts: &Facts, caller: &Caller) -> Result<()> {
        let Err(error) = caller.chain.check(facts.chain_limit) else { return Ok(()) };
        let person = facts.person.as_ref().filter(|_| !caller.unattended).map(|person| &person.id);
        let mut noted = json!({ "code": error.code().as_str() });
        caller.chain.note(&mut noted);
        let event = Event::new(&facts.site, &actor(facts, person), "connection.use").outcome(Outcome::Denied).facts(noted);
        self.outside.base.audit.record_use(event).await?;
        metrics::counter!("valetkey_denials_total", "code" => error.code().as_str()).increment(1);
        Err(error)
    }

    /// The owner's use of a connection that is theirs.
    async fn allow_owner(&self, site: &SiteId, actor: &Actor, connection: &ConnectionId) -> Result<Allowed> {
        let (epoch, asked) = (self.outside.base.db.epoch(), Instant::now());
        let stored = load(&self.outside.base.db, site, connection).await?;
        match stored.filter(|stored| !matches!(stored.connection.status, Status::Revoked { .. })) {
            Some(stored) => Ok(Allowed {
                right: Right::Owner,
                site: site.clone(),
                stored: Arc::new(stored),
                actor: actor.clone(),
                epoch,
                asked,
            }),
            None => Err(Error::new(Code::NotFound, format!("there is no connection `{connection}`"))),
        }
    }

    /// The owner's use of an account that a registered resolver holds. Another one that is kept here does not take its place.
    async fn allow_held(&self, actor: &Actor, slot: &Slot) -> Result<Allowed> {
        let (epoch, asked) = (self.outside.base.db.epoch(), Instant::now());
        let held = self.outside.extensions.held(slot).await?.ok_or_else(|| slot.empty())?;
        let (by, account) = (held.resolver.name(), held.account);
        let stored = Arc::new(elsewhere::describe(&self.outside, slot, &account).await?);
        self.outside.extensions.tell_resolved(slot, by);
        Ok(Allowed { right: Right::Held { by, account }, site: slot.site.clone(), stored, actor: actor.clone(), epoch, asked })
    }

    /// The account of an allowed use, with a token that serves; that of the slot, too, where one is named.
    ///
    /// Where it had to be waited for (a refresh, a body that came slowly), the decision is asked again: what was taken
    /// back meanwhile is not used.
    async fn serve(
        &self,
        allowed: Allowed,
        delivery: Delivery,
        operation: Option<(&http::Method, &str, &[u8])>,
        wish: Wish,
        named: Option<&slot::Named>,
    ) -> Result<(Allowed, Served)> {
        let served = match self.handed_out(&allowed)? {
            Some(served) => served,
            None => {
                let served = self.refresher.serve(Arc::clone(&allowed.stored), wish).await?;
                match named {
                    Some(named) => self.refresher.serve_slot(served, named.slot()).await?,
                    None => served,
                }
            }
        };
        if allowed.asked.elapsed() < AT_ONCE && self.outside.base.db.epoch() == allowed.epoch {
            return Ok((allowed, served));
        }
        let connection = &allowed.stored.connection.id;
        let again = match &allowed.right {
            Right::Agent { caller, decision, .. } => {
                let approved = decision.grant.as_ref().filter(|_| decision.approved);
                self.allow(caller, connection, delivery, operation, approved).await?
            }
            Right::Owner => self.allow_owner(&allowed.site, &allowed.actor, connection).await?,
            Right::Held { .. } => self.allow_held(&allowed.actor, &allowed.stored.connection.slot()).await?,
        };
        let served = self.handed_out(&again)?.unwrap_or(served);
        Ok((again, served))
    }

    /// What a resolver handed out for a use, unless its token ended; nothing for what is kept here.
    fn handed_out(&self, allowed: &Allowed) -> Result<Option<Served>> {
        let Right::Held { account, .. } = &allowed.right else { return Ok(None) };
        let connection = allowed.stored.connection.clone();
        if connection.expires_at.is_some_and(|end| end <= self.outside.base.clock.now()) {
            return Err(allowed.told_of_holder(Error::new(Code::NotAuthenticated, "the token ended")));
        }
        Ok(Some(Served { account: account.clone(), connection }))
    }

    /// Records a refusal and turns it into what the caller is told. That of a dead token is counted only.
    async fn refuse(
        &self,
        caller: &Caller,
        facts: &Facts,
        decision: &Decision,
        actor: &Actor,
        connection: &ConnectionId,
        delivery: Delivery,
    ) -> Result<Error> {
        if decision.code == Some(Code::Unauthenticated) {
            return Ok(nobody());
        }
        let reasons: BTreeSet<_> = decision.reasons.iter().map(|reason| reason.fact).collect();
        let mut noted = json!({ "delivery": delivery, "code": decision.code.map(Code::as_str), "reasons": reasons });
        caller.chain.note(&mut noted);
        let mut event =
            Event::new(&facts.site, actor, "connection.use").agent(&facts.agent.id).outcome(Outcome::Denied).facts(noted);
        event.connection = Some(connection.clone());
        self.outside.base.audit.record_use(event).await?;
        metrics::counter!("valetkey_denials_total", "code" => decision.code.map_or("none", Code::as_str)).increment(1);
        Ok(decision.error())
    }

    /// Takes the approval that carries a use, and one use where the grant limits them: when everything else is ready, so that
    /// a failure before it costs nothing; the two together, or neither. The rate comes first, so that a call which must wait costs
    /// nothing that never comes back.
    async fn take_use(&self, allowed: &Allowed, approval: Option<&Approval>) -> Result<()> {
        let Right::Agent { decision, .. } = &allowed.right else { return Ok(()) };
        // INVARIANT: every use passes here last. What a grant asks about leaves with the approval that was given under it, or
        // not at all; what was decided anew while the use waited for a token is seen here too.
        let carried = match approval {
            Some(approval) => decision.approved && decision.grant.as_ref() == Some(&approval.grant),
            None => !decision.approved,
        };
        if !decision.allowed() || !carried {
            let error = Error::new(Code::Conflict, "what is granted changed while the call waited; make it again");
            return Err(self.not_taken(allowed, error, "changed").await?);
        }
        let Decision { counted, rate, grant: Some(id), .. } = decision else { return Ok(()) };
        let (base, site) = (&self.outside.base, &allowed.site);
        if let Some(rate) = rate
            && let Err(error) = self.limits.take(&base.db, site, id, *rate, base.clock.now()).await
        {
            return match error.code() {
                Code::RateLimited => Err(self.not_taken(allowed, error, "rate").await?),
                _ => Err(error),
            };
        }
        let taken = match approval {
            Some(approval) => match approval::take(base, site, &allowed.actor, approval, *counted).await {
                Ok(taken) => taken,
                Err(error) => return Err(self.not_carried(allowed, error).await?),
            },
            None if *counted => grant::take_use(&base.db, site, id).await?,
            None => true,
        };
        if !taken {
            // Somebody else took the last one since the decision.
            let error = Error::new(Code::GrantDenied, "the grant is used up; ask its owner to grant it anew");
            return Err(self.not_taken(allowed, error, "used_up").await?);
        }
        Ok(())
    }

    /// Records that a call was refused after its decision: by the grant's limit, by the approval that it asks for, or because what
    /// is granted changed meanwhile.
    async fn not_taken(&self, allowed: &Allowed, error: Error, reason: &'static str) -> Result<Error> {
        let code = error.code().as_str();
        let facts = json!({ "grant": allowed.grant(), "code": code, "reasons": [reason] });
        let event = self.event(allowed, "connection.use", facts).outcome(Outcome::Denied);
        self.outside.base.audit.record_use(event).await?;
        metrics::counter!("valetkey_denials_total", "code" => code).increment(1);
        Ok(error)
    }

    /// What the audit says of a use; where an agent says who called it, that too.
    fn event(&self, allowed: &Allowed, action: &'static str, mut facts: Value) -> Event {
        if let Right::Agent { caller, .. } = &allowed.right {
            caller.chain.note(&mut facts);
        }
        let event = Event::new(&allowed.site, &allowed.actor, action).facts(facts);
        match allowed.right {
            Right::Held { .. } => event,
            Right::Agent { .. } | Right::Owner => event.connection(&allowed.stored.connection.id),
        }
    }
}

/// What whoever shows a token that is unknown or dead is told. It leaves no row, only a count: whoever has such a one could fill
/// the ledger with it, and the audit's queue, for which everybody waits.
fn nobody() -> Error {
    metrics::counter!("valetkey_unknown_tokens_total").increment(1);
    unauthenticated()
}

fn actor(facts: &Facts, person: Option<&UserId>) -> Actor {
    match &facts.token {
        Some(token) => Actor::Agent { agent: facts.agent.id.clone(), token: token.id.clone(), user: person.cloned() },
        None => Actor::System,
    }
}

/// What of an account is handed out: its access token with its type, or the connection's own fields where the
/// credential is static. Never a refresh token, never what mints another.
fn revealable(definition: &Definition, renewal: Renewal, account: &SecretMap) -> Result<(SecretMap, Option<String>)> {
    let mut shown = Map::new();
    let text = |key: &str| account.text(key).map(|secret: Secret| Value::String(secret.expose().to_owned()));
    if let Some(token) = text("access_token") {
        shown.insert("access_token".to_owned(), token);
        // An OAuth 1.0a token has two halves. Both are of use only to whoever has the app's secret, which stays here.
        if let (Some(_), Some(secret)) = (&definition.oauth1, text(TOKEN_SECRET)) {
            shown.insert(TOKEN_SECRET.to_owned(), secret);
            return Ok((SecretMap::new(shown), Some("oauth1".to_owned())));
        }
        let token_type = account.text("token_type").map(|t| t.expose().to_owned()).unwrap_or_else(|| "Bearer".to_owned());
        return Ok((SecretMap::new(shown), Some(token_type)));
    }
    // Where something is renewed, the fields are what mints it: an app password, a private key.
    let fields = definition.fields_of(FieldLevel::Connection).filter(|_| renewal == Renewal::None);
    for field in fields {
        if let Some(value) = account.expose().get(&field.name) {
            shown.insert(field.name.clone(), value.clone());
        }
    }
    if shown.is_empty() {
        return Err(Error::new(
            Code::NoCredentials,
            "the connection holds no credential that can be handed out; connect it again",
        ));
    }
    Ok((SecretMap::new(shown), None))
}

/// Whether a definition's proxied calls carry something of the app configuration: a signature by its secret, or a field, such as
/// a name in the User-Agent.
fn carries_app(definition: &Definition) -> bool {
    let Some(proxy) = &definition.proxy else { return false };
    if proxy.is_signed() {
        return true;
    }
    let Ok(text) = serde_json::to_string(proxy) else { return true };
    definition.fields_of(FieldLevel::App).any(|field| text.contains(&format!("field.{}", field.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_is_never_revealed() {
        let definition = crate::provider::Catalogue::embedded().unwrap().get(&"reddit".parse().unwrap()).unwrap().clone();
        let mut account = SecretMap::default();
        account.set_text("access_token", &Secret::new("at"));
        account.set_text("refresh_token", &Secret::new("rt"));
        let (secrets, _) = revealable(&definition, Renewal::RefreshToken, &account).unwrap();
        assert_eq!(secrets.expose().keys().collect::<Vec<_>>(), ["access_token"]);
    }

    #[test]
    fn the_two_halves_of_an_oauth1_token_are_revealed_together() {
        let catalogue = crate::provider::Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"twitter".parse().unwrap()).unwrap();
        let mut account = SecretMap::default();
        for name in ["access_token", "access_token_secret", "api_secret", "username"] {
            account.set_text(name, &Secret::new("canary"));
        }
        let (secrets, token_type) = revealable(definition, Renewal::None, &account).unwrap();
        assert_eq!(secrets.expose().keys().collect::<Vec<_>>(), ["access_token", "access_token_secret"]);
        assert_eq!(token_type.as_deref(), Some("oauth1"));
    }

    #[test]
    fn what_mints_a_token_is_not_revealed_in_place_of_one_that_is_missing() {
        let catalogue = crate::provider::Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"bluesky".parse().unwrap()).unwrap();
        let mut account = SecretMap::default();
        for field in definition.fields_of(FieldLevel::Connection) {
            account.set_text(&field.name, &Secret::new("canary"));
        }
        assert!(!account.expose().is_empty());
        assert_eq!(revealable(definition, Renewal::Remint, &account).unwrap_err().code(), Code::NoCredentials);
    }
}
