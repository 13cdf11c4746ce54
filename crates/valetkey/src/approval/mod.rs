//! Approvals: where a grant asks, a call is held until a person says yes or no to exactly that call.
//!
//! 1. An agent makes a call, and the decision is to ask. Nothing is sent. [`hold`] writes down a [`Summary`] for people and
//!    a [`Digest`] of everything that was to go out; never a body, never a value of the query.
//! 2. A person says yes ([`approve`]) or no ([`refuse`]): on the page, in their platform, or the operator at the command line.
//!    Who may is one rule ([`Decider`]); the agent never can.
//! 3. The agent makes the same call again and names the approval. Everything is decided anew, the digest is made anew from what
//!    is about to go out, whoever approved must still be allowed to, and one compare-and-set takes the approval ([`take`])
//!    before the call leaves. Of two who try, one sends.
//!
//! ```text
//! pending ──▶ approved ──▶ used          each once; what is not done in time is expired
//!    └──────▶ refused                    a no stands for that call as long as the question would have
//! ```
//!
//! A process that dies between taking and sending leaves the approval used: the call may have left, and is not repeated.

mod digest;
mod right;
mod store;

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{AUDIT_LABEL, Event},
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    grant,
    id::{AgentId, ApprovalId, ConnectionId, GrantId, ProviderName, SiteId, TokenId, UserId},
    principal::{Actor, Delivery, Owner, Principal},
    text,
};

pub use digest::{Call, Digest};
pub use right::Decider;
pub(crate) use right::{About, require};

/// How long a call waits for a person's word. A no stands as long.
const WAITS: Duration = Duration::from_secs(24 * 3600);
/// How long an agent has to make the call once it is approved.
const APPROVED_FOR: Duration = Duration::from_secs(3600);
/// How many calls of one agent may wait at a time: whoever is asked too much says yes to anything.
const MOST_WAITING: i64 = 50;
/// The longest that a question for the state of an approval is kept waiting.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a waiting question looks again without a sign: another replica may have been told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long it takes no further sign after one: other rows change too.
const PAUSE: Duration = Duration::from_millis(100);
/// How many calls whose time ran out are read at a time.
const EXPIRED_AT_ONCE: i64 = 100;
/// How long a row is kept after its end.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is shown of a held call: enough to know it by, and nothing of what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether a call is made with the credential, or the credential itself is handed out.
    pub delivery: Delivery,
    /// The method; empty where the credential is handed out.
    pub method: String,
    /// Where it goes.
    pub host: String,
    /// The whole path.
    pub path: String,
    /// The names of the query's parameters, without their values.
    pub query: Vec<String>,
    /// Which of the connection's tokens; its own when absent.
    pub slot: Option<String>,
    /// What the body is said to be.
    pub content_type: Option<String>,
    /// How long the body is, in bytes.
    pub body: u64,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has answered.
    Pending,
    /// Somebody said yes, and the call has not been made.
    Approved,
    /// Somebody said no.
    Refused,
    /// The call was made, or its process died while making it.
    Used,
    /// Its time ran out before it was answered or used.
    Expired,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Approved => "approved",
            Status::Refused => "refused",
            Status::Used => "used",
            Status::Expired => "expired",
        }
    }
}

impl FromStr for Status {
    type Err = Error;

    /// Reads a stored word. `expired` is derived, and stored once that was recorded ([`expire`]).
    fn from_str(text: &str) -> Result<Self> {
        let all = [Status::Pending, Status::Approved, Status::Refused, Status::Used, Status::Expired];
        all.into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| Error::internal("an approval's state cannot be read"))
    }
}

/// A person's word.
#[derive(Clone, Debug)]
pub struct Decided {
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub by: Actor,
    /// Why, in their words; empty where they said nothing.
    pub reason: String,
}

impl Decided {
    /// What the columns of a row say; absent where nobody answered.
    pub(crate) fn of_row(at: Option<i64>, by: Option<String>, reason: Option<String>) -> Result<Option<Self>> {
        let (Some(at), Some(by)) = (at, by) else { return Ok(None) };
        Ok(Some(Self { at: Timestamp(at), by: by.parse()?, reason: reason.unwrap_or_default() }))
    }
}

/// A call that waits, or waited, for a person's word.
#[derive(Clone, Debug)]
pub struct Approval {
    /// Its id, which is no secret.
    pub id: ApprovalId,
    /// Who made the call.
    pub agent: AgentId,
    /// What people call the agent.
    pub agent_title: String,
    /// The person it was made for; absent where nobody was calling.
    pub person: Option<UserId>,
    /// Who is behind it: that person, or the one for whom or by whom its token was minted. Giving the person up in a call, or
    /// minting a token for nobody, makes nobody a second pair of eyes.
    behind: Option<UserId>,
    /// Who minted its token: after an exchange that may be another.
    minter: Option<UserId>,
    /// With which connection.
    pub connection: ConnectionId,
    /// Whose that is.
    pub owner: Owner,
    /// Where it is.
    pub provider: ProviderName,
    /// What the provider calls the account.
    pub account: Option<String>,
    /// The grant that asks.
    pub grant: GrantId,
    /// What the call is told by.
    pub digest: Digest,
    /// What is shown of it.
    pub summary: Summary,
    stored: Status,
    /// Since when it waits.
    pub created_at: Timestamp,
    /// Until when it can be answered; once approved, until when it can be used.
    pub expires_at: Timestamp,
    /// What was said to it.
    pub decided: Option<Decided>,
    /// When the call was made.
    pub used_at: Option<Timestamp>,
}

impl Approval {
    /// Where it stands.
    pub fn status(&self, now: Timestamp) -> Status {
        match self.stored {
            Status::Pending | Status::Approved if self.expires_at <= now => Status::Expired,
            status => status,
        }
    }

    fn event(&self, site: &SiteId, actor: &Actor, action: &'static str) -> Event {
        Event::new(site, actor, action).agent(&self.agent).connection(&self.connection).facts(facts(
            &self.id,
            &self.grant,
            &self.digest,
            &self.summary,
        ))
    }

    fn about(&self) -> About<'_> {
        About { agent: &self.agent, behind: [self.behind.as_ref(), self.minter.as_ref()], owner: &self.owner }
    }
}

/// What the audit says of a held call.
fn facts(id: &ApprovalId, grant: &GrantId, digest: &Digest, summary: &Summary) -> serde_json::Value {
    json!({
        "approval": id, "grant": grant, "digest": digest.as_str(), "delivery": summary.delivery, "method": summary.method,
        "host": summary.host, "path": summary.path,
    })
}

/// A call to hold.
#[derive(Debug)]
pub struct Hold<'a> {
    /// Where.
    pub site: &'a SiteId,
    /// Who made it, with what token.
    pub agent: &'a AgentId,
    /// The token.
    pub token: &'a TokenId,
    /// For whom; nobody when absent.
    pub person: Option<&'a UserId>,
    /// With what.
    pub connection: &'a ConnectionId,
    /// The grant that asks.
    pub grant: &'a GrantId,
    /// What it is told by.
    pub digest: &'a Digest,
    /// What is shown of it.
    pub summary: Summary,
}

/// Holds a call. The same call made again is the same question: it is told where that stands, yes and no included.
///
/// # Errors
/// `rate_limited` where too many calls of the agent wait already.
pub async fn hold(base: &Base, hold: &Hold<'_>) -> Result<Approval> {
    let now = base.clock.now();
    let actor = Actor::Agent { agent: hold.agent.clone(), token: hold.token.clone(), user: hold.person.cloned() };
    // The audit's key is there before a transaction is, which cannot make it.
    base.ring.derived(&base.db, hold.site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    store::close_expired(&mut tx, hold, now).await?;
    let mut id = store::open(&mut tx, hold).await?;
    if id.is_none() {
        if store::waiting(&mut tx, hold.site, hold.agent, now).await? >= MOST_WAITING {
            let text = format!("{MOST_WAITING} calls of this agent wait for an answer; let somebody answer them first");
            return Err(Error::new(Code::RateLimited, text).with_retry_after(Duration::from_secs(60)));
        }
        let fresh = ApprovalId::new();
        if store::insert(&mut tx, &fresh, hold, now, now.plus(WAITS)).await? {
            let facts = facts(&fresh, hold.grant, hold.digest, &hold.summary);
            let event = Event::new(hold.site, &actor, "approval.hold").connection(hold.connection).facts(facts);
            base.audit.record(&mut tx, event).await?;
            id = Some(fresh);
        } else {
            // Another replica was asked the same at this moment.
            id = store::open(&mut tx, hold).await?;
        }
    }
    tx.commit().await?;
    let id = id.ok_or_else(|| Error::new(Code::Conflict, "the same call was answered at this moment; make it again"))?;
    get(&base.db, hold.site, &id).await?.ok_or_else(|| Error::internal("a held call is not there"))
}

/// One approval by id.
pub async fn get(db: &Db, site: &SiteId, id: &ApprovalId) -> Result<Option<Approval>> {
    store::by_id(db, site, id).await
}

/// One approval as its agent may see it: a call of its own, made for the same person or for nobody.
pub async fn of_agent(
    db: &Db,
    site: &SiteId,
    id: &ApprovalId,
    agent: &AgentId,
    person: Option<&UserId>,
) -> Result<Option<Approval>> {
    let found = get(db, site, id).await?;
    Ok(found.filter(|found| found.agent == *agent && (found.person.is_none() || found.person.as_ref() == person)))
}

/// Which approvals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    /// Only this agent's.
    pub agent: Option<&'a AgentId>,
    /// Only those for this connection.
    pub connection: Option<&'a ConnectionId>,
    /// Only those for what belongs to this owner.
    pub owner: Option<&'a Owner>,
    /// Only those that wait for an answer.
    pub waiting: bool,
}

/// A page of a site's approvals, the oldest first: at most `limit`, after the one with id `after`.
pub async fn page(
    base: &Base,
    site: &SiteId,
    which: &Which<'_>,
    after: Option<&ApprovalId>,
    limit: u32,
) -> Result<Vec<Approval>> {
    store::page(&base.db, site, which, base.clock.now(), after, limit).await
}

/// Waits until an approval is answered, at most for `patience` ([`LONGEST_WAIT`] at most) or until `stop`, and says where it
/// stands then. Nothing where there is none.
pub async fn wait(
    base: &Base,
    site: &SiteId,
    id: &ApprovalId,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Option<Approval>> {
    let end = Instant::now() + patience.min(LONGEST_WAIT);
    let mut changes = base.db.changes();
    loop {
        // What changes after this look is seen by the next.
        changes.mark_unchanged();
        let Some(found) = get(&base.db, site, id).await? else { return Ok(None) };
        let answered = found.status(base.clock.now()) != Status::Pending;
        if answered || stop.is_cancelled() || Instant::now() >= end {
            return Ok(Some(found));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(end.min(Instant::now() + LOOK_AGAIN)) => {}
            changed = changes.changed() => match changed {
                Ok(()) => tokio::time::sleep(PAUSE).await,
                Err(_) => return Ok(Some(found)),
            },
        }
    }
}

/// Says yes to a held call. The agent may then make it, once, within the hour.
///
/// # Errors
/// `not_found`; `forbidden` for whoever may not answer; `conflict` where it was answered already or its time is over.
pub async fn approve(base: &Base, site: &SiteId, by: &Decider, id: &ApprovalId) -> Result<Approval> {
    answer(base, site, by, id, Status::Approved, "").await
}

/// Says no to a held call. The reason is for the agent to read, too.
///
/// # Errors
/// As [`approve`]; `invalid_request` for a reason that is too long.
pub async fn refuse(base: &Base, site: &SiteId, by: &Decider, id: &ApprovalId, reason: &str) -> Result<Approval> {
    text::check("reason", reason, text::NOTE)?;
    answer(base, site, by, id, Status::Refused, reason).await
}

async fn answer(base: &Base, site: &SiteId, by: &Decider, id: &ApprovalId, said: Status, reason: &str) -> Result<Approval> {
    let there = async || get(&base.db, site, id).await?.ok_or_else(|| unknown(id));
    let approval = there().await?;
    require(base, site, by, &approval.about()).await?;
    let now = base.clock.now();
    let (action, expires_at) = match said {
        Status::Approved => ("approval.approve", now.plus(APPROVED_FOR)),
        _ => ("approval.refuse", approval.expires_at),
    };
    base.ring.derived(&base.db, site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::decide(&mut tx, site, id, (said, reason), &by.actor, now, expires_at).await? {
        drop(tx);
        let stands = there().await?.status(now).as_str();
        return Err(Error::new(Code::Conflict, format!("the call waits for no answer any more; it is {stands}")));
    }
    base.audit.record(&mut tx, approval.event(site, &by.actor, action)).await?;
    tx.commit().await?;
    // Whoever waits for the answer looks again.
    base.db.nudge();
    there().await
}

/// Whether an approval carries a call that is about to be sent, as things stand now. [`take`] takes it.
///
/// # Errors
/// `not_found` where the agent has none by this id; `approval_mismatch`, `approval_refused`, `approval_used`, `approval_expired`;
/// `approval_refused` too where whoever said yes may no longer. A call that waits is no error: it comes back as what it is.
pub async fn examine(base: &Base, site: &SiteId, id: &ApprovalId, agent: &AgentId, digest: &Digest) -> Result<Approval> {
    // Another agent's and another site's are not told apart from none.
    let found = get(&base.db, site, id).await?.filter(|found| found.agent == *agent).ok_or_else(|| unknown(id))?;
    if found.digest != *digest {
        let text = "this call is not the one that was held: its method, URL, headers, body, person or grant differs; \
                    make it without Valet-Approval";
        return Err(Error::new(Code::ApprovalMismatch, text));
    }
    match found.status(base.clock.now()) {
        Status::Pending => Ok(found),
        Status::Approved => {
            let by = found.decided.as_ref().ok_or_else(|| Error::internal("an approval that nobody gave"))?;
            // Keys keep their scopes: whoever administered the site then does now, as long as the key lives.
            let by = Decider { actor: by.by.clone(), administers: true };
            match require(base, site, &by, &found.about()).await {
                Ok(()) => Ok(found),
                Err(error) if error.code() == Code::Forbidden => Err(Error::new(
                    Code::ApprovalRefused,
                    "whoever approved this call may no longer do so; make it without Valet-Approval to ask again",
                )),
                Err(error) => Err(error),
            }
        }
        status => Err(ended(&found, status)),
    }
}

/// Takes an approval for one call, before it leaves, and with it one use of its grant where that counts them (`counted`): neither goes
/// without the other. It is one compare-and-set: of two who try, one sends. False, and nothing taken, where the grant has no use left.
///
/// # Errors
/// As [`examine`].
pub async fn take(base: &Base, site: &SiteId, actor: &Actor, approval: &Approval, counted: bool) -> Result<bool> {
    // A token may have been waited for since the call came: whoever said yes must still be allowed to.
    examine(base, site, &approval.id, &approval.agent, &approval.digest).await?;
    let now = base.clock.now();
    base.ring.derived(&base.db, site, AUDIT_LABEL).await?;
    let mut tx = if counted { base.db.begin().await? } else { base.db.begin_bookkeeping().await? };
    if counted && !grant::take_use_in(&mut tx, site, &approval.grant).await? {
        return Ok(false);
    }
    if !store::take(&mut tx, site, approval, now).await? {
        drop(tx);
        let found = get(&base.db, site, &approval.id).await?.ok_or_else(|| unknown(&approval.id))?;
        return Err(ended(&found, found.status(now)));
    }
    base.audit.record(&mut tx, approval.event(site, actor, "approval.use")).await?;
    tx.commit().await?;
    Ok(true)
}

/// Removes the calls that were made for a person or with an account of theirs, in the transaction that erases them.
pub async fn forget(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    store::forget(tx, site, user).await
}

/// Records of each call whose time ran out, unanswered or unused, that it did; says of how many. One task per process runs this
/// now and then, and of two one records it. Nothing waits for this: a call is over with its time.
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
                let event = Event::by(&Principal::system(site), "approval.expire").agent(&over.agent.parse()?);
                let facts = json!({ "approval": over.id, "grant": over.grant_id });
                base.audit.record(&mut tx, event.connection(&over.connection.parse()?).facts(facts)).await?;
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

/// Why an approval carries no call.
pub(crate) fn ended(approval: &Approval, status: Status) -> Error {
    let (code, text) = match status {
        Status::Refused => {
            let reason = approval.decided.as_ref().map_or("", |decided| decided.reason.as_str());
            let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            (Code::ApprovalRefused, format!("this call was refused{because}"))
        }
        Status::Used => (
            Code::ApprovalUsed,
            "this approval carried a call already, which may have left even where no answer came; \
             make the call without Valet-Approval to ask again"
                .to_owned(),
        ),
        Status::Expired => (
            Code::ApprovalExpired,
            "the time of this approval is over; make the call without Valet-Approval to ask again".to_owned(),
        ),
        // Somebody moved it on at this very moment.
        Status::Pending | Status::Approved => (Code::Conflict, "the approval changed at this moment; try again".to_owned()),
    };
    Error::new(code, text).with_extra(json!({ "approval": approval.id, "state": status }))
}

fn unknown(id: &ApprovalId) -> Error {
    Error::new(Code::NotFound, format!("there is no approval `{id}`"))
}
