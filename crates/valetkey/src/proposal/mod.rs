//! Proposals: an agent asks for access that it does not have, or for more than it has; a person narrows that and decides.
//!
//! 1. [`propose`] writes the wish down: a provider, or a connection that the agent may use already; how, for whom, which
//!    operations, and why. It says who is asked: the connection's owner, else the person the agent acts for, else the
//!    agent's owner; for what belongs to no person, whoever administers the site.
//! 2. [`accept`] makes a grant of it, in one transaction with the answer, and never a wider one than was asked for. Who may is
//!    the rule of [`crate::approval`]: the agent never can. [`refuse`] makes none.
//!
//! Nothing is granted by asking, and a no stands as long as the question would have.

mod store;

use std::{collections::BTreeSet, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent,
    approval::{About, Decider, require},
    audit::{AUDIT_LABEL, Event},
    base::{Base, Outside},
    clock::Timestamp,
    connection::{self, Connection},
    db::{Db, Tx},
    error::{Code, Error, Result},
    grant::{self, Effect, ForWhom, Grant, NewGrant, Operations, Rate},
    id::{AgentId, ConnectionId, GrantId, ProposalId, ProviderName, SiteId, TokenId, UserId, sha256_hex},
    principal::{Actor, Delivery, Owner, Principal},
    provider::pattern::PathPattern,
    text,
};

pub use crate::approval::Decided;

/// How long a wish waits for an answer.
const WAITS: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many wishes of one agent may wait at a time.
const MOST_WAITING: i64 = 20;
/// How many wishes whose time is over are looked for at once.
const EXPIRED_AT_ONCE: i64 = 100;
/// How long a row is kept after its end.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// How the credential is to reach its use.
    pub delivery: BTreeSet<Delivery>,
    /// For whom.
    pub for_whom: ForWhom,
    /// Which operations, as patterns; absent for all that the definition allows.
    pub operations: Option<Vec<PathPattern>>,
    /// The provider's names that some of the patterns came from.
    #[serde(default)]
    pub operation_names: BTreeSet<String>,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has answered.
    Pending,
    /// Something was granted.
    Accepted,
    /// Somebody said no.
    Refused,
    /// Nobody answered in time.
    Expired,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Accepted => "accepted",
            Status::Refused => "refused",
            Status::Expired => "expired",
        }
    }
}

impl FromStr for Status {
    type Err = Error;

    /// Reads a stored word. `expired` is derived, and stored once that was recorded ([`expire`]).
    fn from_str(text: &str) -> Result<Self> {
        let all = [Status::Pending, Status::Accepted, Status::Refused, Status::Expired];
        all.into_iter().find(|status| status.as_str() == text).ok_or_else(|| Error::internal("a proposal's state cannot be read"))
    }
}

/// A wish of an agent.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its id, which is no secret.
    pub id: ProposalId,
    /// Who asks.
    pub agent: AgentId,
    /// What people call the agent.
    pub agent_title: String,
    /// The person the agent acts for; absent where it acts for nobody.
    pub person: Option<UserId>,
    /// Who is behind it: that person, or the one for whom or by whom its token was minted.
    behind: Option<UserId>,
    /// Who minted its token: after an exchange that may be another.
    minter: Option<UserId>,
    /// The person who is asked; absent where whoever administers the site is.
    pub addressee: Option<UserId>,
    /// At which provider.
    pub provider: ProviderName,
    /// The connection that is asked for; absent where any account of the addressee's will do. Once accepted, the one granted.
    pub connection: Option<ConnectionId>,
    /// What is asked for.
    pub wanted: Wanted,
    /// Why, in the agent's words, which nobody has checked.
    pub reason: String,
    stored: Status,
    /// Since when it waits.
    pub created_at: Timestamp,
    /// Until when it can be answered.
    pub expires_at: Timestamp,
    /// What was said to it.
    pub decided: Option<Decided>,
    /// What was granted.
    pub grant: Option<GrantId>,
}

impl Proposal {
    /// Where it stands.
    pub fn status(&self, now: Timestamp) -> Status {
        match self.stored {
            Status::Pending if self.expires_at <= now => Status::Expired,
            status => status,
        }
    }

    /// Whose the account is that is asked for.
    pub fn owner(&self) -> Owner {
        self.addressee.clone().map_or(Owner::Site, Owner::User)
    }

    fn event(&self, site: &SiteId, actor: &Actor, action: &'static str) -> Event {
        Event::new(site, actor, action).agent(&self.agent)
    }
}

/// Who asks, as the decision found them.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Where.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// Its token.
    pub token: TokenId,
    /// The person it acts for.
    pub person: Option<UserId>,
}

/// What an agent asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// At which provider; may be absent where a connection is named.
    pub provider: Option<ProviderName>,
    /// Which connection. Only one that the agent has a grant on can be named: others it has no business to know.
    pub connection: Option<ConnectionId>,
    /// How; the proxy when empty.
    pub delivery: BTreeSet<Delivery>,
    /// For whom; for the person who is asked, when absent and the agent acts for them.
    pub for_whom: Option<ForWhom>,
    /// Which operations: patterns, and names that the definition has; all that it allows when absent.
    pub operations: Option<Vec<String>>,
    /// Why.
    pub reason: String,
}

/// Writes a wish down. The same wish again is the same question: it is told where that stands.
///
/// # Errors
/// `invalid_request`; `not_found` for a provider that is not there or a connection on which the agent has no grant;
/// `rate_limited` where too many wishes of the agent wait already.
pub async fn propose(outside: &Outside, asker: &Asker, wish: Wish) -> Result<Proposal> {
    let base = &outside.base;
    let invalid = |text: &'static str| Error::new(Code::InvalidRequest, text);
    text::check("reason", &wish.reason, text::NOTE)?;
    if wish.reason.trim().is_empty() {
        return Err(invalid("reason: say why; a person reads it before they decide"));
    }
    text::check_list("operations", wish.operations.as_ref().map_or(0, Vec::len), text::LIST)?;
    if wish.operations.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid("operations: name at least one, or leave them out for all"));
    }
    if let Some(ForWhom::People(people)) = &wish.for_whom {
        text::check_list("for_whom", people.len(), text::LIST)?;
    }
    let (provider, addressee) = match (&wish.connection, wish.provider) {
        (Some(named), provider) => {
            let found = reached(base, asker, named).await?;
            if provider.is_some_and(|provider| provider != found.provider) {
                return Err(invalid("provider: the connection is at another one"));
            }
            (found.provider.clone(), found.owner.user().cloned())
        }
        (None, Some(provider)) => {
            let addressee = match &asker.person {
                Some(person) => Some(person.clone()),
                None => agent::require(&base.db, &asker.site, &asker.agent).await?.owner,
            };
            (outside.definition(&provider)?.name.clone(), addressee)
        }
        (None, None) => return Err(invalid("name a provider or a connection")),
    };
    let for_whom = match wish.for_whom {
        Some(ForWhom::Anyone) => return Err(invalid("for_whom: only a denial is for `anyone`")),
        Some(whom) => whom,
        None if addressee.is_some() && addressee == asker.person => ForWhom::Owner,
        None => return Err(invalid("for_whom: say `unattended`, `operators` or a list of people")),
    };
    let mut delivery = wish.delivery;
    if delivery.is_empty() {
        delivery.insert(Delivery::Proxy);
    }
    let operations = match &wish.operations {
        Some(named) => Some(Operations::read(outside.definition(&provider)?.as_ref(), named)?),
        None => None,
    };
    let (operations, operation_names) = operations.map(|read| (read.patterns, read.names)).unzip();
    let wanted = Wanted { delivery, for_whom, operations, operation_names: operation_names.unwrap_or_default() };
    let text = serde_json::to_string(&wanted).map_err(Error::internal)?;
    let told_by = json!([asker.person, addressee, provider, wish.connection, text]).to_string();
    let now = base.clock.now();
    let fresh = ProposalId::new();
    let new = store::New {
        site: &asker.site,
        id: &fresh,
        agent: &asker.agent,
        token: &asker.token,
        person: asker.person.as_ref(),
        addressee: addressee.as_ref(),
        provider: provider.as_str(),
        connection: wish.connection.as_ref(),
        digest: &sha256_hex(told_by.as_bytes()),
        wanted: &text,
        reason: &wish.reason,
        now,
        expires_at: now.plus(WAITS),
    };
    let id = write_down(base, asker, &new, &wanted).await?;
    let id = id.ok_or_else(|| Error::new(Code::Conflict, "the same was answered at this moment; ask again"))?;
    get(&base.db, &asker.site, &id).await?.ok_or_else(|| Error::internal("a proposal is not there"))
}

/// Writes the row, or finds the one that stands for the same wish.
async fn write_down(base: &Base, asker: &Asker, new: &store::New<'_>, wanted: &Wanted) -> Result<Option<ProposalId>> {
    base.ring.derived(&base.db, &asker.site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    store::close_expired(&mut tx, new).await?;
    let mut id = store::open(&mut tx, new).await?;
    if id.is_none() {
        if store::waiting(&mut tx, &asker.site, &asker.agent, new.now).await? >= MOST_WAITING {
            let text = format!("{MOST_WAITING} proposals of this agent wait for an answer; let somebody answer them first");
            return Err(Error::new(Code::RateLimited, text).with_retry_after(Duration::from_secs(60)));
        }
        id = match store::insert(&mut tx, new).await? {
            true => {
                let user = asker.person.clone();
                let actor = Actor::Agent { agent: asker.agent.clone(), token: asker.token.clone(), user };
                let facts = json!({
                    "proposal": new.id, "provider": new.provider, "addressee": new.addressee, "delivery": wanted.delivery,
                    "for_whom": wanted.for_whom, "operations": wanted.operations,
                });
                let mut event = Event::new(&asker.site, &actor, "proposal.create").facts(facts);
                event.connection = new.connection.cloned();
                base.audit.record(&mut tx, event).await?;
                Some(new.id.clone())
            }
            // Another replica was asked the same at this moment.
            false => store::open(&mut tx, new).await?,
        };
    }
    tx.commit().await?;
    Ok(id)
}

/// A connection that the agent may know of: one on which it has a grant.
async fn reached(base: &Base, asker: &Asker, id: &ConnectionId) -> Result<Connection> {
    let none = || {
        Error::new(Code::NotFound, "there is no such connection that you may use; name the provider, and the person chooses one")
    };
    let grants = grant::list(&base.db, &asker.site, Some(&asker.agent), Some(id)).await?;
    let now = base.clock.now();
    // One that denies lets the agent know of nothing.
    let tells =
        |grant: &Grant| grant.effect != Effect::Deny && grant.revoked_at.is_none() && grant.expires_at.is_none_or(|at| at > now);
    if !grants.iter().any(tells) {
        return Err(none());
    }
    live(base, &asker.site, id).await?.ok_or_else(none)
}

async fn live(base: &Base, site: &SiteId, id: &ConnectionId) -> Result<Option<Connection>> {
    let found = connection::get(&base.db, site, id).await?;
    Ok(found.filter(|found| !matches!(found.status, connection::Status::Revoked { .. })))
}

/// One proposal by id.
pub async fn get(db: &Db, site: &SiteId, id: &ProposalId) -> Result<Option<Proposal>> {
    store::by_id(db, site, id).await
}

/// One proposal as its agent may see it: its own, made for the same person or for nobody.
pub async fn of_agent(
    db: &Db,
    site: &SiteId,
    id: &ProposalId,
    agent: &AgentId,
    person: Option<&UserId>,
) -> Result<Option<Proposal>> {
    let found = get(db, site, id).await?;
    Ok(found.filter(|found| found.agent == *agent && (found.person.is_none() || found.person.as_ref() == person)))
}

/// Which proposals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    /// Only this agent's.
    pub agent: Option<&'a AgentId>,
    /// Only those that this person is asked.
    pub addressee: Option<&'a UserId>,
    /// Only those that wait for an answer.
    pub waiting: bool,
}

/// A page of a site's proposals, the oldest first: at most `limit`, after the one with id `after`.
pub async fn page(
    base: &Base,
    site: &SiteId,
    which: &Which<'_>,
    after: Option<&ProposalId>,
    limit: u32,
) -> Result<Vec<Proposal>> {
    store::page(&base.db, site, which, base.clock.now(), after, limit).await
}

/// What a person makes of a proposal: what is absent stays as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Which connection; needed where the proposal names a provider only.
    pub connection: Option<ConnectionId>,
    /// Whether it is allowed, or asked about each time.
    pub effect: Effect,
    /// How.
    pub delivery: Option<BTreeSet<Delivery>>,
    /// For whom.
    pub for_whom: Option<ForWhom>,
    /// Which operations: patterns, and names that the definition has.
    pub operations: Option<Vec<String>>,
    /// The most scopes that the account's token may have.
    pub scopes: Option<BTreeSet<String>>,
    /// How often in a stretch of time.
    pub rate: Option<Rate>,
    /// How often in all.
    pub max_uses: Option<i64>,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Why.
    pub note: String,
}

/// Grants what was asked for, or less.
///
/// # Errors
/// `not_found`; `forbidden` for whoever may not answer; `conflict` where it was answered already or its time is over;
/// `invalid_request` for terms that are wider than what was asked for.
pub async fn accept(outside: &Outside, site: &SiteId, by: &Decider, id: &ProposalId, terms: Terms) -> Result<(Proposal, Grant)> {
    let base = &outside.base;
    let proposal = get(&base.db, site, id).await?.ok_or_else(|| unknown(id))?;
    require(base, site, by, &about(&proposal, &proposal.owner())).await?;
    let connection = chosen(base, site, &proposal, terms.connection.as_ref()).await?;
    require(base, site, by, &about(&proposal, &connection.owner)).await?;
    let grantor = match (&connection.owner, &by.actor) {
        (Owner::User(person), Actor::User(_) | Actor::Platform { .. }) => Some(person.clone()),
        _ => None,
    };
    if terms.effect == Effect::Deny {
        return Err(Error::new(Code::InvalidRequest, "effect: allow or ask; whoever wants neither refuses the proposal"));
    }
    let operations = match terms.operations.filter(|named| !named.is_empty()) {
        Some(named) => Some(Operations::read(outside.definition(&proposal.provider)?.as_ref(), &named)?),
        None => None,
    };
    let for_whom = narrowed_whom(&proposal.wanted, terms.for_whom)?;
    let new = NewGrant {
        effect: terms.effect,
        delivery: narrowed_delivery(&proposal.wanted, terms.delivery)?,
        operations: narrowed_operations(&proposal.wanted, operations)?,
        rate: terms.rate,
        scopes: terms.scopes,
        max_uses: terms.max_uses,
        expires_at: terms.expires_at,
        note: terms.note,
        grantor,
        ..NewGrant::proxy(&proposal.agent, &connection.id, for_whom)
    };
    base.ring.derived(&base.db, site, AUDIT_LABEL).await?;
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    let granted = grant::create_in(base, &mut tx, site, &by.actor, new).await?;
    if !store::decide(&mut tx, (site, id), (Status::Accepted, ""), Some((&granted.id, &connection.id)), &by.actor, now).await? {
        drop(tx);
        return Err(answered(base, site, id).await);
    }
    let facts = json!({ "proposal": id, "provider": proposal.provider, "grant": granted.id });
    let event = proposal.event(site, &by.actor, "proposal.accept").connection(&connection.id).facts(facts);
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    let proposal = get(&base.db, site, id).await?.ok_or_else(|| unknown(id))?;
    Ok((proposal, granted))
}

/// Grants nothing. The reason is for the agent to read, too.
///
/// # Errors
/// As [`accept`].
pub async fn refuse(base: &Base, site: &SiteId, by: &Decider, id: &ProposalId, reason: &str) -> Result<Proposal> {
    text::check("reason", reason, text::NOTE)?;
    let proposal = get(&base.db, site, id).await?.ok_or_else(|| unknown(id))?;
    require(base, site, by, &about(&proposal, &proposal.owner())).await?;
    base.ring.derived(&base.db, site, AUDIT_LABEL).await?;
    let now = base.clock.now();
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::decide(&mut tx, (site, id), (Status::Refused, reason), None, &by.actor, now).await? {
        drop(tx);
        return Err(answered(base, site, id).await);
    }
    let mut event =
        proposal.event(site, &by.actor, "proposal.refuse").facts(json!({ "proposal": id, "provider": proposal.provider }));
    event.connection = proposal.connection.clone();
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    get(&base.db, site, id).await?.ok_or_else(|| unknown(id))
}

/// Removes what was asked of a person or for them, and takes them out of what else is asked for, in the transaction that erases
/// them.
pub async fn forget(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    store::forget(tx, site, user).await?;
    for (id, stored) in store::naming(tx, site, user).await? {
        let Ok(mut wanted) = serde_json::from_str::<Wanted>(&stored) else { continue };
        if let ForWhom::People(people) = &mut wanted.for_whom
            && people.remove(user)
        {
            store::set_wanted(tx, site, &id, &wanted).await?;
        }
    }
    Ok(())
}

/// Records of each wish that nobody answered in time that its time ran out; says of how many. One task per process runs this now and
/// then, and of two one records it. Nothing waits for this: a wish is over with its time.
pub async fn expire(base: &Base) -> Result<u64> {
    let mut recorded = 0;
    loop {
        let now = base.clock.now();
        let over = store::over(&base.db, now, EXPIRED_AT_ONCE).await?;
        for over in &over {
            let site: SiteId = over.site.parse()?;
            base.ring.derived(&base.db, &site, AUDIT_LABEL).await?;
            let mut tx = base.db.begin_bookkeeping().await?;
            if store::expire(&mut tx, over, now).await? {
                let facts = json!({ "proposal": over.id, "provider": over.provider, "addressee": over.addressee });
                let mut event = Event::by(&Principal::system(site), "proposal.expire").agent(&over.agent.parse()?).facts(facts);
                event.connection = over.connection.as_deref().map(str::parse).transpose()?;
                base.audit.record(&mut tx, event).await?;
                tx.commit().await?;
                recorded += 1;
            }
        }
        if i64::try_from(over.len()).unwrap_or(EXPIRED_AT_ONCE) < EXPIRED_AT_ONCE {
            return Ok(recorded);
        }
    }
}

/// Removes what ended long ago. One task per process runs this now and then.
pub async fn sweep(base: &Base) -> Result<u64> {
    let mut tx = base.db.begin_bookkeeping().await?;
    let gone = store::sweep(&mut tx, base.clock.now().minus(KEPT)).await?;
    tx.commit().await?;
    Ok(gone)
}

fn about<'a>(proposal: &'a Proposal, owner: &'a Owner) -> About<'a> {
    About { agent: &proposal.agent, behind: [proposal.behind.as_ref(), proposal.minter.as_ref()], owner }
}

/// The connection that a proposal is accepted with: the one it names, or one of the addressee's at its provider.
async fn chosen(base: &Base, site: &SiteId, proposal: &Proposal, named: Option<&ConnectionId>) -> Result<Connection> {
    let id = match (&proposal.connection, named) {
        (Some(asked), Some(named)) if asked != named => {
            return Err(Error::new(Code::InvalidRequest, format!("connection: the agent asks for `{asked}`")));
        }
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) => {
            let text = format!("connection: say with which account at {}", proposal.provider);
            return Err(Error::new(Code::InvalidRequest, text));
        }
    };
    let fits = |found: &Connection| found.provider == proposal.provider && found.owner.user() == proposal.addressee.as_ref();
    let found = live(base, site, id).await?.filter(fits);
    found.ok_or_else(|| {
        let text = format!("there is no connection `{id}` of {} at {}", proposal.owner(), proposal.provider);
        Error::new(Code::NotFound, text)
    })
}

fn narrowed_delivery(wanted: &Wanted, said: Option<BTreeSet<Delivery>>) -> Result<BTreeSet<Delivery>> {
    let Some(said) = said.filter(|said| !said.is_empty()) else { return Ok(wanted.delivery.clone()) };
    match said.iter().find(|delivery| !wanted.delivery.contains(*delivery)) {
        None => Ok(said),
        Some(beyond) => Err(wider("delivery", &beyond.to_string())),
    }
}

fn narrowed_operations(wanted: &Wanted, said: Option<Operations>) -> Result<Option<Operations>> {
    let Some(asked) = &wanted.operations else { return Ok(said) };
    let Some(said) = said else {
        return Ok(Some(Operations { patterns: asked.clone(), names: wanted.operation_names.clone() }));
    };
    match said.patterns.iter().find(|pattern| !asked.iter().any(|asked| asked.covers(pattern))) {
        None => Ok(Some(said)),
        Some(beyond) => Err(wider("operations", beyond.as_str())),
    }
}

/// As was asked for, or for fewer; for nobody but the account's owner always.
fn narrowed_whom(wanted: &Wanted, said: Option<ForWhom>) -> Result<ForWhom> {
    let Some(said) = said else { return Ok(wanted.for_whom.clone()) };
    let is_less = match (&wanted.for_whom, &said) {
        (_, ForWhom::Owner) => true,
        (ForWhom::People(asked), ForWhom::People(some)) => some.is_subset(asked),
        // Whoever is named has to be an operator, too.
        (ForWhom::Operators, ForWhom::People(_)) => true,
        (asked, said) => asked == said,
    };
    if is_less { Ok(said) } else { Err(wider("for_whom", &json!(said).to_string())) }
}

fn wider(what: &str, beyond: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("{what}: the agent did not ask for `{beyond}`; grant it apart if that is meant"))
}

/// Why a proposal cannot be answered any more.
async fn answered(base: &Base, site: &SiteId, id: &ProposalId) -> Error {
    match get(&base.db, site, id).await {
        Ok(Some(found)) => {
            let stands = found.status(base.clock.now()).as_str();
            Error::new(Code::Conflict, format!("the proposal waits for no answer any more; it is {stands}"))
        }
        Ok(None) => unknown(id),
        Err(error) => error,
    }
}

fn unknown(id: &ProposalId) -> Error {
    Error::new(Code::NotFound, format!("there is no proposal `{id}`"))
}
