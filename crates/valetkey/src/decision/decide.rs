//! The pure function that decides, with its reasons.
//!
//! 1. Whoever asks must be somebody, the connection must be there, and every ceiling (the site's, the agent's, the token's) must
//!    include what is asked.
//! 2. A denial that speaks of it ends it.
//! 3. A grant must permit it. Where one that asks speaks of it, that one must permit it, and a person must approve.
//!
//! A grant *permits* what it fits exactly. One that asks or denies *speaks of* whatever might be meant: every spelling of a
//! path, everything that a revealed token could do, and what cannot be read. So neither is slipped past.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use super::facts::{Facts, GrantFacts, Over, Parsed, PersonFacts};
use crate::{
    agent::Role,
    clock::Timestamp,
    connection::{Connection, Identity, Status},
    error::{Code, Error, Result},
    grant::{Effect, ForWhom, Rate},
    id::{GrantId, UserId},
    principal::{AuthSource, CallerChain, Ceiling, Delivery, Principal},
    provider::pattern::{MAIL_METHOD, PathPattern, Readings},
};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// How the credential is to reach its use.
    pub delivery: Delivery,
    /// The operation. Where the delivery is the proxy: method, host and path as they will be sent. Where a mailbox is
    /// revealed: the method `MAIL` and a path such as `/read`.
    pub operation: Option<(&'a http::Method, &'a str, &'a [u8])>,
    /// The caller gave up the token's person for this call. Nothing can name another (decisions 3).
    pub unattended: bool,
}

/// One fact that spoke for or against, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// A stable word.
    pub fact: &'static str,
    /// A sentence for people.
    pub text: String,
    /// What would change it; absent where nothing sensible would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<&'static str>,
}

/// The answer, with the facts that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Allow, ask or deny.
    pub effect: Effect,
    /// The code of the refusal; absent when allowed. It is `approval_required` where a person must approve first.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "code_text")]
    pub code: Option<Code>,
    /// The grant that allows or asks; absent when denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// Whether that grant has a count limit, of which a use must be taken.
    #[serde(skip)]
    pub counted: bool,
    /// The rate limit of that grant, by which a use must be taken.
    #[serde(skip)]
    pub rate: Option<Rate>,
    /// A person approved it: without that, that grant would ask.
    #[serde(skip)]
    pub approved: bool,
    /// For whom the agent acts in this call; absent means unattended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<UserId>,
    /// The deciding facts.
    pub reasons: Vec<Reason>,
}

#[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
fn code_text<S: serde::Serializer>(code: &Option<Code>, serializer: S) -> Result<S::Ok, S::Error> {
    match code {
        Some(code) => serializer.serialize_str(code.as_str()),
        None => serializer.serialize_none(),
    }
}

impl Decision {
    /// Whether it may be done, now and without asking anybody.
    pub fn allowed(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// Whether it may not be done, whoever approves.
    pub fn denied(&self) -> bool {
        self.effect == Effect::Deny
    }

    /// Whether it is denied only because every use that was granted is taken: some other time, or anew, it would be allowed.
    pub fn is_spent(&self) -> bool {
        self.denied() && !self.reasons.is_empty() && self.reasons.iter().all(|reason| matches!(reason.fact, USED_UP | RATE))
    }

    /// The error of a refusal: what the agent is told. A dead token learns nothing, a stranger learns that there is nothing.
    pub fn error(&self) -> Error {
        match self.code {
            Some(Code::Unauthenticated) | None => unauthenticated(),
            Some(Code::NotFound) => Error::new(Code::NotFound, "there is no such connection that you may use"),
            Some(Code::ApprovalRequired) => {
                let text = "a person must approve this first";
                Error::new(Code::ApprovalRequired, text).with_extra(serde_json::json!({ "grant": self.grant }))
            }
            Some(code) => {
                let text = self.reasons.first().map_or("this is not granted", |reason| reason.text.as_str());
                Error::new(code, text.to_owned())
            }
        }
    }
}

/// Decides. Pure: the same facts, request and time give the same answer, everywhere it is asked.
pub fn decide(facts: &Facts, request: &Request<'_>, now: Timestamp) -> Decision {
    decide_for(facts, request, &Under::Nothing, now)
}

/// Decides on a call that a person approved under a grant which asks. Whoever asks this has just used that approval up.
pub fn decide_approved(facts: &Facts, request: &Request<'_>, under: &GrantId, now: Timestamp) -> Decision {
    decide_for(facts, request, &Under::Approved(under), now)
}

/// Decides again for a call that runs under a grant. The use that it took of that grant stays taken, and so does its
/// approval; a use of another one was not taken, so no other counted grant carries the call on.
pub fn decide_running(facts: &Facts, request: &Request<'_>, under: &GrantId, now: Timestamp) -> Decision {
    decide_for(facts, request, &Under::Running(under), now)
}

/// What a call already has.
enum Under<'a> {
    Nothing,
    Approved(&'a GrantId),
    Running(&'a GrantId),
}

impl Under<'_> {
    /// Whether a person approved the call under a grant that asks. A call that runs under one was approved.
    fn is_approved(&self, grant: &GrantFacts) -> bool {
        match self {
            Under::Nothing => false,
            Under::Approved(id) | Under::Running(id) => **id == grant.id,
        }
    }
}

/// Why an agent does nothing for somebody who may not have it act.
const PERSON_ROLE: &str = "person_role";
/// The same for people.
const NO_ROLE: &str = "the person the token acts for has no role of operator or more on the agent";
/// Why a running call does not go on under another grant.
const OTHER_USE: &str = "other_use";
/// Why a grant of which every use is taken permits nothing.
const USED_UP: &str = "used_up";
/// Why a grant whose rate is reached permits nothing at this moment.
pub(crate) const RATE: &str = "rate";

fn decide_for(facts: &Facts, request: &Request<'_>, under: &Under<'_>, now: Timestamp) -> Decision {
    let person = if request.unattended { None } else { facts.person.as_ref() };
    let deny = |code: Code, fact: &'static str, text: &str, change: Option<&'static str>| Decision {
        effect: Effect::Deny,
        code: Some(code),
        grant: None,
        counted: false,
        rate: None,
        approved: false,
        person: person.map(|p| p.id.clone()),
        reasons: vec![Reason { fact, text: text.to_owned(), change }],
    };

    if let Some(reason) = nobody(facts, now) {
        return Decision { reasons: vec![reason], ..deny(Code::Unauthenticated, "", "", None) };
    }

    // What is asked for.
    let nothing = |fact, text, change| deny(Code::NotFound, fact, text, change);
    let Some(connection) = &facts.connection else {
        return nothing("no_connection", "there is no such connection in this site", None);
    };
    let row = &connection.stored.connection;
    if matches!(row.status, Status::Revoked { .. }) {
        return nothing(
            "connection_revoked",
            "the connection is revoked; that is final for its id",
            Some("connect again and grant anew"),
        );
    }
    let given = || facts.grants.iter().filter(|grant| grant.effect != Effect::Deny);
    let is_live = |grant: &&GrantFacts| grant.expires_at.is_none_or(|at| at > now);
    if !given().any(|grant| is_live(&grant)) {
        return if given().next().is_none() {
            nothing("no_grant", "the agent has no grant on this connection", Some("grant it"))
        } else {
            nothing("grant_expired", "the agent's grant on this connection is expired", Some("ask the owner to grant it anew"))
        };
    }
    if connection.owner_gone {
        return deny(
            Code::GrantDenied,
            "owner_gone",
            "the person who owns the connection is disabled",
            Some("enable the person"),
        );
    }
    // Also for unattended calls: whoever lost their role must not go on by giving up their person.
    if !may_have_it_act(facts.person.as_ref()) {
        return deny(
            Code::GrantDenied,
            PERSON_ROLE,
            NO_ROLE,
            Some("give the person a role on the agent, or mint a token without a person"),
        );
    }
    for (over, ceiling) in facts.ceilings() {
        // An unreadable one was refused above.
        if let Parsed::Read(ceiling) = ceiling
            && let Some(reason) = beyond_ceiling(over, ceiling, Some(row), request)
        {
            return Decision { reasons: vec![reason], ..deny(Code::GrantDenied, "", "", None) };
        }
    }

    let whose = person.map(|p| &p.id);
    let path = request.operation.map(|(_, _, path)| Readings::of(path));
    let mut denials = facts.grants.iter().filter(|grant| grant.effect == Effect::Deny).filter(is_live);
    if let Some(grant) = denials.find(|grant| speaks_of(grant, facts, request, path.as_ref(), whose)) {
        let text = format!("grant {} denies it", grant.id);
        return deny(Code::GrantDenied, "denied", &text, Some("take that denial back"));
    }

    // What is granted: each says why it does not permit it, or is one that does.
    let (mut reasons, mut allows) = (Vec::new(), None::<&GrantFacts>);
    let mut asks: Option<((bool, bool), &GrantFacts)> = None;
    // A grant that asks about this and does not permit it. No other lets it pass without asking, so nothing does.
    let mut withheld = None;
    for grant in given().filter(is_live) {
        let speaks = grant.effect == Effect::Ask && speaks_of(grant, facts, request, path.as_ref(), whose);
        match refuses(grant, facts, request, whose, under) {
            // A call that runs was not approved under it, and it is as if it asked now.
            Some(reason) if speaks && reason.fact == OTHER_USE => asks = asks.or(Some(((false, true), grant))),
            Some(reason) if speaks => withheld = withheld.or(Some(reason)),
            Some(reason) => reasons.push(reason),
            // One without a limit before one that has one: nobody waits, or uses anything up, who need not.
            None if grant.effect == Effect::Allow => {
                if allows.is_none_or(|known| is_limited(known) && !is_limited(grant)) {
                    allows = Some(grant);
                }
            }
            // The approved one comes first, and one that speaks of it before one that does not.
            None => {
                let rank = (under.is_approved(grant), speaks);
                if asks.is_none_or(|(known, _)| known < rank) {
                    asks = Some((rank, grant));
                }
            }
        }
    }
    let (grant, effect) = match (asks, withheld, allows) {
        (_, Some(reason), _) => return Decision { reasons: vec![reason], ..deny(Code::GrantDenied, "", "", None) },
        (Some(((true, _), grant)), None, _) => (grant, Effect::Allow),
        (Some(((false, true), grant)), None, _) | (Some((_, grant)), None, None) => (grant, Effect::Ask),
        (_, None, Some(grant)) => (grant, Effect::Allow),
        (None, None, None) => return Decision { reasons, ..deny(Code::GrantDenied, "", "", None) },
    };
    if row.identity == Identity::Unverified {
        return deny(
            Code::IdentityUnverified,
            "identity_unverified",
            "the connection's upstream account was not confirmed since its tokens were written",
            Some("connect again, or let the owner confirm the account"),
        );
    }
    let (code, fact, text, change) = match effect {
        Effect::Allow => (None, "grant", format!("grant {} allows it", grant.id), None),
        Effect::Ask | Effect::Deny => {
            let text = format!("grant {} asks a person to approve it first", grant.id);
            (Some(Code::ApprovalRequired), "asks", text, Some("have it approved"))
        }
    };
    Decision {
        effect,
        code,
        grant: Some(grant.id.clone()),
        counted: grant.max_uses.is_some(),
        rate: match grant.rate {
            Some(Parsed::Read(rate)) => Some(rate),
            // An unreadable one was refused above.
            Some(Parsed::Unreadable) | None => None,
        },
        approved: effect == Effect::Allow && grant.effect == Effect::Ask,
        person: whose.cloned(),
        reasons: vec![Reason { fact, text, change }],
    }
}

/// The most that may be done now for a person (nobody when absent), in the words that a ceiling has for it: the ways of delivery,
/// the providers and the connections that every ceiling over it leaves. Nothing where that is nothing at all.
///
/// A use is asked the same questions ([`decide`]), so what is not in it is denied. What is in it still needs a grant: those are of
/// single connections, and are not looked at here.
pub fn most(facts: &Facts, person: Option<&PersonFacts>) -> Option<Ceiling> {
    if !may_have_it_act(person) {
        return None;
    }
    let mut ceilings = Vec::new();
    for (over, ceiling) in facts.ceilings() {
        match ceiling {
            Parsed::Read(ceiling) => ceilings.push((over, ceiling)),
            Parsed::Unreadable => return None,
        }
    }
    let is_left = |delivery: &Delivery| {
        let request = Request { delivery: *delivery, operation: None, unattended: false };
        ceilings.iter().all(|(over, ceiling)| beyond_ceiling(*over, ceiling, None, &request).is_none())
    };
    let delivery: BTreeSet<_> = [Delivery::Proxy, Delivery::Reveal].into_iter().filter(is_left).collect();
    let providers = in_all(ceilings.iter().map(|(_, ceiling)| ceiling.providers.as_ref()));
    let connections = in_all(ceilings.iter().map(|(_, ceiling)| ceiling.connections.as_ref()));
    let is_nothing = delivery.is_empty()
        || providers.as_ref().is_some_and(BTreeSet::is_empty)
        || connections.as_ref().is_some_and(BTreeSet::is_empty);
    (!is_nothing).then(|| Ceiling { delivery: Some(delivery), providers, connections, ..Ceiling::default() })
}

/// What is in each of some lists, where an absent one holds everything.
fn in_all<'a, T: Ord + Clone + 'a>(lists: impl Iterator<Item = Option<&'a BTreeSet<T>>>) -> Option<BTreeSet<T>> {
    lists.flatten().fold(None, |known: Option<BTreeSet<T>>, list| {
        Some(known.map_or_else(|| list.clone(), |known| known.intersection(list).cloned().collect()))
    })
}

/// Whether whoever an agent acts for may have it act. Where that is nobody, nobody's role is missing.
fn may_have_it_act(person: Option<&PersonFacts>) -> bool {
    person.is_none_or(|person| person.role >= Some(Role::Operator))
}

/// Who is acting with the token that the facts were loaded for; the one 401 when nobody is.
pub fn principal(facts: &Facts, now: Timestamp) -> Result<Principal> {
    if nobody(facts, now).is_some() {
        return Err(unauthenticated());
    }
    let user = facts.person.as_ref().map(|person| person.id.clone());
    let token = facts.token.as_ref();
    let readable = facts.ceilings().filter_map(|(_, ceiling)| match ceiling {
        Parsed::Read(ceiling) => Some(ceiling.clone()),
        Parsed::Unreadable => None,
    });
    Ok(Principal {
        agent: Some(facts.agent.id.clone()),
        owner: facts.agent.owner.clone(),
        user: user.clone(),
        calling_user: user,
        token: token.map(|token| token.id.clone()),
        token_prefix: token.map(|token| token.prefix.clone()),
        token_label: token.map(|token| token.label.clone()),
        client: token.and_then(|token| token.origin.client.as_ref()).map(ToString::to_string),
        ceilings: readable.collect(),
        ..Principal::of(facts.site.clone(), AuthSource::AgentToken)
    })
}

/// The same for one call: it may give the token's person up, and says through which agents it came.
///
/// # Errors
/// The one 401; `chain_too_deep` where somebody is acting, and the chain is exhausted at their site.
pub fn calling(facts: &Facts, unattended: bool, chain: &CallerChain, now: Timestamp) -> Result<Principal> {
    let principal = principal(facts, now)?;
    chain.check(facts.chain_limit)?;
    let calling_user = principal.calling_user.clone().filter(|_| !unattended);
    Ok(Principal { calling_user, chain: chain.clone(), ..principal })
}

/// Refuses a token whose person may not have the agent act any more: it uses nothing, and so it asks for nothing and is told of
/// nothing that waits. Whether its call gives the person up does not matter.
///
/// # Errors
/// `grant_denied`.
pub fn require_role(facts: &Facts) -> Result<()> {
    match may_have_it_act(facts.person.as_ref()) {
        true => Ok(()),
        false => Err(Error::new(Code::GrantDenied, NO_ROLE)),
    }
}

/// The one answer to a token that is nobody's.
pub fn unauthenticated() -> Error {
    Error::new(Code::Unauthenticated, "the credential is missing or not valid")
}

/// Why whoever asks is nobody. Every reason is one and the same 401 to the caller; `explain` tells them, by the token's id.
fn nobody(facts: &Facts, now: Timestamp) -> Option<Reason> {
    let dead = |fact, text: &str, change| Some(Reason { fact, text: text.to_owned(), change });
    if facts.site_disabled {
        return dead("site_disabled", "the site is disabled", None);
    }
    if facts.agent.gone {
        return dead("agent_gone", "the agent is disabled or deleted", Some("enable the agent"));
    }
    if facts.agent.owner_gone {
        return dead("agent_owner_gone", "the agent's owner is disabled", Some("enable the person who owns the agent"));
    }
    if let Some(token) = &facts.token {
        if token.revoked {
            return dead("token_revoked", "the token is revoked", Some("mint another token"));
        }
        if token.expires_at.is_some_and(|at| at <= now) {
            return dead("token_expired", "the token is expired", Some("mint another token"));
        }
        if let Some(minter) = &token.minter
            && (minter.gone || minter.role < Some(Role::Operator))
        {
            return dead(
                "minter_role",
                "whoever minted the token no longer has a role of operator or more on the agent",
                Some("give the minter a role again, or mint another token"),
            );
        }
    }
    for (over, ceiling) in facts.ceilings() {
        if *ceiling == Parsed::Unreadable {
            return dead("ceiling_unreadable", &format!("{} ceiling cannot be read", whose(over)), Some(anew(over)));
        }
    }
    // A token for a person dies with that person, also for unattended calls.
    if facts.person.as_ref().is_some_and(|person| person.gone) {
        return dead("person_gone", "the person the token acts for is disabled", Some("enable the person"));
    }
    None
}

fn whose(over: Over) -> &'static str {
    match over {
        Over::Site => "the site's",
        Over::Agent => "the agent's",
        Over::Token => "the token's",
    }
}

/// What helps against a ceiling.
fn anew(over: Over) -> &'static str {
    match over {
        Over::Site => "let the operator set the site's policy anew",
        Over::Agent => "let an admin of the agent set its ceiling anew",
        Over::Token => "mint another token",
    }
}

/// Why a use of a connection is beyond a ceiling, wherever that stands; or a use of any connection, where none is named.
fn beyond_ceiling(over: Over, ceiling: &Ceiling, row: Option<&Connection>, request: &Request<'_>) -> Option<Reason> {
    let (fact, change) = match over {
        Over::Site => ("site_ceiling", anew(over)),
        Over::Agent => ("agent_ceiling", anew(over)),
        Over::Token => ("ceiling", "mint a token with a higher ceiling"),
    };
    let reason = |what: fmt::Arguments<'_>| {
        Some(Reason { fact, text: format!("{} ceiling does not {what}", whose(over)), change: Some(change) })
    };
    if ceiling.delivery.as_ref().is_some_and(|allowed| !allowed.contains(&request.delivery)) {
        return reason(format_args!("allow {}", request.delivery));
    }
    if let Some(row) = row {
        if ceiling.connections.as_ref().is_some_and(|allowed| !allowed.contains(&row.id)) {
            return reason(format_args!("include this connection"));
        }
        if ceiling.providers.as_ref().is_some_and(|allowed| !allowed.contains(&row.provider)) {
            return reason(format_args!("include {}", row.provider));
        }
    }
    if ceiling.operations.as_ref().is_some_and(|allowed| !operation_fits(allowed, request)) {
        return reason(format_args!("include this operation"));
    }
    if ceiling.platform.as_ref().is_some_and(|platform| !platform.may_use_accounts()) {
        return reason(format_args!("let it use tools at its platform, and so no accounts"));
    }
    None
}

/// Whether a grant that asks or denies speaks of what is asked. It errs on the side of yes: what cannot be read speaks of
/// everything, and a path is meant however it is spelled. `path` is that of the operation.
fn speaks_of(
    grant: &GrantFacts,
    facts: &Facts,
    request: &Request<'_>,
    path: Option<&Readings<'_>>,
    person: Option<&UserId>,
) -> bool {
    let operations = || match (&grant.operations, request.operation.zip(path)) {
        (None | Some(Parsed::Unreadable), _) => true,
        // What is revealed obeys no operation: whoever has it can do those as well.
        (Some(Parsed::Read(_)), _) if request.delivery == Delivery::Reveal => true,
        // In general something else may be done. The operation itself is asked about before it is done.
        (Some(Parsed::Read(_)), None) => false,
        (Some(Parsed::Read(patterns)), Some(((method, host, _), path))) => {
            patterns.iter().any(|pattern| pattern.catches(method.as_str(), host, path))
        }
    };
    is_for_the_work(grant, facts)
        && match &grant.for_whom {
            Parsed::Read(whom) => is_for(whom, facts, person),
            Parsed::Unreadable => true,
        }
        && match &grant.delivery {
            Parsed::Read(delivery) => delivery.contains(&request.delivery),
            Parsed::Unreadable => true,
        }
        && operations()
}

/// Whether a use of a grant is one of so many.
fn is_limited(grant: &GrantFacts) -> bool {
    grant.rate.is_some() || grant.max_uses.is_some()
}

/// Whether the token was minted for the session and the task that a grant is for.
fn is_for_the_work(grant: &GrantFacts, facts: &Facts) -> bool {
    grant.session.as_ref().is_none_or(|session| facts.session.as_ref() == Some(session))
        && grant.task.as_ref().is_none_or(|task| facts.task.as_ref() == Some(task))
}

/// Whether a grant is for whoever calls.
fn is_for(whom: &ForWhom, facts: &Facts, person: Option<&UserId>) -> bool {
    match (whom, person) {
        (ForWhom::Owner, Some(person)) => {
            facts.connection.as_ref().is_some_and(|c| c.stored.connection.owner.user() == Some(person))
        }
        (ForWhom::Operators, Some(_)) => facts.person.as_ref().is_some_and(|p| p.role >= Some(Role::Operator)),
        (ForWhom::People(people), Some(person)) => people.contains(person),
        (ForWhom::Unattended, None) | (ForWhom::Anyone, _) => true,
        (ForWhom::Owner | ForWhom::Operators | ForWhom::People(_), None) | (ForWhom::Unattended, Some(_)) => false,
    }
}

/// Why a grant does not permit what is asked; nothing where it does.
fn refuses(
    grant: &GrantFacts,
    facts: &Facts,
    request: &Request<'_>,
    person: Option<&UserId>,
    under: &Under<'_>,
) -> Option<Reason> {
    let row = &facts.connection.as_ref()?.stored.connection;
    let reason = |fact, text: String, change| Some(Reason { fact, text: format!("grant {}: {text}", grant.id), change });
    let unreadable = |what: &str| {
        Some(Reason {
            fact: "grant_unreadable",
            text: format!("grant {}: its {what} cannot be read", grant.id),
            change: Some("grant anew"),
        })
    };
    if !grant.grantor_may {
        return reason(
            "grantor",
            "whoever granted it may no longer dispose of the connection".to_owned(),
            Some("let its owner grant it"),
        );
    }
    if !is_for_the_work(grant, facts) {
        let session = grant.session.as_ref().map(|session| format!("session {session}"));
        let task = grant.task.as_ref().map(|task| format!("task {task}"));
        let work = session.into_iter().chain(task).collect::<Vec<_>>().join(" and ");
        return reason("session", format!("it is for tokens of {work}"), Some("mint a token for that, or grant it without"));
    }
    let Parsed::Read(for_whom) = &grant.for_whom else { return unreadable("for-whom") };
    // Only a denial is for anyone.
    if *for_whom == ForWhom::Anyone || !is_for(for_whom, facts, person) {
        let wanted = match for_whom {
            ForWhom::Owner => "the connection's owner",
            ForWhom::Unattended => "calls without a person",
            ForWhom::Operators => "operators of the agent",
            ForWhom::Anyone => "anyone, which only a denial can be",
            ForWhom::People(_) => "certain people",
        };
        let asked = person.map_or_else(|| "no person".to_owned(), |p| format!("user {p}"));
        return reason("for_whom", format!("it is for {wanted}, and {asked} is calling"), Some("grant it for whoever calls"));
    }
    let Parsed::Read(delivery) = &grant.delivery else { return unreadable("delivery") };
    if !delivery.contains(&request.delivery) {
        return reason("delivery", format!("it does not allow {}", request.delivery), Some("grant that delivery too"));
    }
    match &grant.scopes {
        None => {}
        Some(Parsed::Unreadable) => return unreadable("scopes"),
        // A token cannot be narrowed, neither when it is handed out nor in a call: what it can do upstream must lie
        // within the grant. Where the grant names operations, those hold the proxy to it (a reveal is refused below).
        Some(Parsed::Read(allowed)) if grant.operations.is_none() || request.delivery == Delivery::Reveal => {
            let granted = row.scopes.as_ref().unwrap_or(&row.wanted_scopes);
            if let Some(beyond) = granted.iter().find(|scope| !allowed.contains(*scope)) {
                return reason(
                    "scopes",
                    format!("the account's token can do more than the grant allows ({beyond})"),
                    Some("connect with fewer scopes, grant that scope, or grant the proxy for named operations"),
                );
            }
        }
        Some(Parsed::Read(_)) => {}
    }
    match &grant.operations {
        None => {}
        Some(Parsed::Unreadable) => return unreadable("operations"),
        Some(Parsed::Read(allowed)) if operation_fits(allowed, request) => {}
        // A revealed token can do every operation.
        Some(Parsed::Read(_)) if request.delivery == Delivery::Reveal => {
            return reason(
                "operations",
                "it names operations, which a revealed token would not obey".to_owned(),
                Some("use the proxy"),
            );
        }
        Some(Parsed::Read(_)) => {
            return reason("operations", "it does not include this operation".to_owned(), Some("grant that operation too"));
        }
    }
    if grant.rate == Some(Parsed::Unreadable) {
        return unreadable("rate");
    }
    match under {
        Under::Running(id) if **id == grant.id => {}
        Under::Running(_) if grant.max_uses.is_some() => {
            return reason(OTHER_USE, "it counts uses, and this call took none of it".to_owned(), None);
        }
        _ if grant.max_uses.is_some_and(|most| grant.uses >= most) => {
            return reason(USED_UP, "it is used up".to_owned(), Some("grant it anew"));
        }
        _ => {}
    }
    None
}

/// Whether an operation is among those allowed. A request without one (asking in general) is not held against it.
///
/// What is revealed obeys no pattern, and so no pattern allows a reveal: but of a mailbox one server can be handed out
/// without the other, which is what the patterns with the method `MAIL` are for.
fn operation_fits(allowed: &[PathPattern], request: &Request<'_>) -> bool {
    let mut allowed =
        allowed.iter().filter(|pattern| request.delivery == Delivery::Proxy || pattern.method() == Some(MAIL_METHOD));
    match request.operation {
        Some((method, host, path)) => allowed.any(|pattern| pattern.matches(method.as_str(), host, path)),
        None => request.delivery == Delivery::Proxy || allowed.next().is_some(),
    }
}
