//! Token exchange (RFC 8693): a token for another one. Nothing ever grows by it.
//!
//! | subject | actor | result |
//! |---|---|---|
//! | an agent's token | | a token of the same agent that may less, for a shorter time, at the same place |
//! | a person's assertion | an agent's token, for nobody or for that person | a token of that agent that acts for that person (`sub` the person, `act` the agent) |
//!
//! 1. Subject and actor are looked at before anything else: whatever is wrong with them is `invalid_request` (section 2.2.2).
//! 2. What comes out lies under the token that was shown, the scopes that were asked for and the client's own ceiling
//!    ([`Parent::child`]). It is of the same agent, so every grant, role and switch counts for it as before; it hangs on the shown
//!    token and ends with it.
//! 3. Where `audience` names a connection or a provider, the result is the upstream access token itself, if a grant says
//!    `reveal`: the decision is asked as for any reveal, with a token as in 2. that is never handed out. Where a grant asks, the
//!    answer is `authorization_pending` with the approval; the same request with `approval` fetches the token, once.
//!
//! `session` and `task`, which are ours and not the standard's, name the session or the task that a token is for, where the shown
//! one is for none. They open what is granted for them, as whoever mints a token opens it; so they are a client's word, which proved
//! itself by its secret, and an agent that only holds a token has no way to say one. Nothing changes a name that is there.

use std::{str::FromStr, time::Duration};

use serde_json::{Value, json};

use super::{ACCESS_LIFE, Client, Fault, Found, Issued, Outcome, Params, Scopes, Server, Word, scope::under, token::BEARER};
use crate::{
    clock::Timestamp,
    decision::{self, Facts, Parsed, PersonFacts},
    deliver::{Caller, Revealed},
    error::{Code, Error},
    id::{self, AgentId, ApprovalId, ConnectionId, ProviderName, SessionName, TaskName, UserId},
    platform::{self, Purpose},
    principal::{Actor, CallerChain, Ceiling, Delivery},
    secret::Secret,
    token::{self, Audience, Issue, TokenHash},
};

/// The type of an access token.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The type of a person's assertion.
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// How many exchanges a token may be away from the one it began with.
pub const DEPTH: u32 = 16;
/// How long the token lives by which an upstream token is asked for.
const UPSTREAM_LIFE: Duration = Duration::from_secs(60);

/// What the result is to be.
enum Target {
    /// A token of ours; for this place, where one is named.
    Ours(Option<Audience>),
    /// An upstream token: of a connection by its id, or of the only one that can be used at a provider.
    Upstream(String),
}

/// What was shown, and is good.
struct Shown {
    /// The agent's token.
    token: Found,
    /// The agent.
    agent: AgentId,
    /// The person who was proven beside it.
    proven: Option<UserId>,
}

/// What the shown token holds. What is exchanged for it never holds more.
#[derive(Clone, Debug)]
struct Parent {
    /// The most it may do.
    ceiling: Ceiling,
    /// For whom it acts.
    person: Option<UserId>,
    /// For which session it is.
    session: Option<SessionName>,
    /// For which task.
    task: Option<TaskName>,
    /// Until when; absent for ever.
    expires_at: Option<Timestamp>,
    /// How many exchanges it is away from a token that was not exchanged.
    depth: u32,
}

/// What a request asks for, besides the target.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// The scopes; without any, all that there are.
    scopes: Option<Scopes>,
    /// Whether an upstream token is asked for.
    upstream: bool,
    session: Option<SessionName>,
    task: Option<TaskName>,
    /// The person who was proven.
    proven: Option<UserId>,
    /// How long the result shall live.
    life: Duration,
}

/// What a token that is exchanged holds.
#[derive(Clone, Debug)]
struct Child {
    ceiling: Ceiling,
    person: Option<UserId>,
    session: Option<SessionName>,
    task: Option<TaskName>,
    expires_at: Timestamp,
}

impl Parent {
    fn of(facts: &Facts, depth: u32) -> Outcome<Self> {
        let token = facts.token.as_ref().ok_or_else(|| Error::internal("a live token without a row"))?;
        let ceiling = match &token.ceiling {
            None => Ceiling::default(),
            Some(Parsed::Read(ceiling)) => ceiling.clone(),
            Some(Parsed::Unreadable) => return Err(odd("the token's ceiling cannot be read")),
        };
        Ok(Self {
            ceiling,
            person: facts.person.as_ref().map(|person| person.id.clone()),
            session: facts.session.clone(),
            task: facts.task.clone(),
            expires_at: token.expires_at,
            depth,
        })
    }

    /// What a token exchanged for this one holds, under a client's own ceiling: in nothing more than this, but for a person who was
    /// proven, and for a session or a task where this one is for none.
    fn child(&self, client: Option<&Ceiling>, wanted: &Wanted, now: Timestamp) -> Outcome<Child> {
        if self.depth >= DEPTH {
            return Err(odd("this token was exchanged too often"));
        }
        let ends = now.plus(wanted.life);
        Ok(Child {
            ceiling: self.narrowed(client, wanted)?,
            person: wanted.proven.clone().or_else(|| self.person.clone()),
            session: kept(self.session.as_ref(), wanted.session.as_ref(), "the token is for another session")?,
            task: kept(self.task.as_ref(), wanted.task.as_ref(), "the token is for another task")?,
            expires_at: self.expires_at.map_or(ends, |end| end.min(ends)),
        })
    }

    /// The ceiling that lies under this one, the client's and what was asked for.
    fn narrowed(&self, client: Option<&Ceiling>, wanted: &Wanted) -> Outcome<Ceiling> {
        let nothing = || Fault::new(Word::InvalidScope, "these scopes leave nothing under the token and the client");
        let most = under(&self.ceiling, client).ok_or_else(nothing)?;
        match (&wanted.scopes, wanted.upstream) {
            (Some(asked), false) => {
                asked.check_within(&most)?;
                asked.narrow(&most).ok_or_else(nothing)
            }
            (None, false) => Ok(most),
            // An upstream token has the scopes that it has: nobody can narrow it any more.
            (Some(_), true) => Err(Fault::new(Word::InvalidScope, "an upstream token cannot be narrowed")),
            (None, true) => {
                let reveal = Scopes::from_iter([super::Scope::Delivery(Delivery::Reveal)]);
                let denied =
                    || Fault::new(Word::InvalidTarget, "neither this token nor this client may be handed an upstream token");
                reveal.narrow(&most).ok_or_else(denied)
            }
        }
    }
}

/// The name that a token keeps, or gets where it has none.
fn kept<T: Clone + PartialEq>(held: Option<&T>, named: Option<&T>, other: &'static str) -> Outcome<Option<T>> {
    match (held, named) {
        (Some(held), Some(named)) if held != named => Err(odd(other)),
        (held, named) => Ok(held.or(named).cloned()),
    }
}

/// A parameter that is a name or an id of ours.
fn read<T: FromStr>(params: &Params, name: &'static str) -> Outcome<Option<T>> {
    let unread = |_| Fault::new(Word::InvalidRequest, format!("`{name}` has not the form of one"));
    params.get(name).map(|text| text.parse::<T>().map_err(unread)).transpose()
}

impl Server {
    /// Answers a request for an exchange, of a client that proved itself by a secret.
    pub(super) async fn exchange(&self, client: &Client, params: &Params, chain: &CallerChain) -> Outcome<Issued> {
        // A client without a secret has no such grant; this is for one that was made otherwise.
        if !client.confidential {
            return Err(Fault::new(Word::InvalidClient, "an exchange is for clients with a secret"));
        }
        let shown = self.shown(client, params, chain).await?;
        match params.get("requested_token_type") {
            None | Some(ACCESS_TOKEN) => {}
            Some(_) => return Err(Fault::new(Word::InvalidRequest, "the only type of token here is an access token")),
        }
        let target = self.target(params)?;
        let wanted = Wanted {
            scopes: params.get("scope").map(str::parse::<Scopes>).transpose()?,
            upstream: matches!(target, Target::Upstream(_)),
            session: read(params, "session")?,
            task: read(params, "task")?,
            proven: shown.proven.clone(),
            life: if matches!(target, Target::Upstream(_)) { UPSTREAM_LIFE } else { ACCESS_LIFE },
        };
        match target {
            Target::Ours(audience) => {
                let own = shown.token.facts.token.as_ref().and_then(|token| token.origin.audience);
                // Whoever gets hold of a token for one place must not be able to make one for another of it.
                if own.is_some() && audience.is_some() && own != audience {
                    return Err(Fault::new(Word::InvalidTarget, "the token is for another resource"));
                }
                let audience = own.or(audience).unwrap_or(Audience::Api);
                let scopes = holding(client, &shown, wanted.scopes.as_ref())?;
                let (text, child, _) = self.child(client, &shown, &wanted, audience).await?;
                Ok(Issued {
                    access_token: text,
                    token_type: BEARER,
                    expires_in: Some(child.expires_at.since(self.now()).as_secs()),
                    refresh_token: None,
                    scope: Some(scopes.to_string()),
                    issued_token_type: Some(ACCESS_TOKEN),
                })
            }
            Target::Upstream(named) => {
                let approval: Option<ApprovalId> = read(params, "approval")?;
                let (_, _, hash) = self.child(client, &shown, &wanted, Audience::Api).await?;
                let caller = Caller { chain: chain.clone(), ..Caller::new(hash) };
                self.upstream(&caller, &named, approval.as_ref()).await
            }
        }
    }

    /// Looks at subject and actor.
    async fn shown(&self, client: &Client, params: &Params, chain: &CallerChain) -> Outcome<Shown> {
        let subject = Secret::new(params.require("subject_token")?);
        let subject_type = params.require("subject_token_type")?;
        let actor = match (params.get("actor_token"), params.get("actor_token_type")) {
            (None, None) => None,
            (Some(actor), Some(kind)) => Some((actor, kind)),
            (Some(_), None) => return Err(odd("`actor_token_type` is missing")),
            (None, Some(_)) => return Err(odd("`actor_token_type` comes with an `actor_token` only")),
        };
        match (subject_type, actor) {
            (ACCESS_TOKEN, None) => {
                let token = self.agents_token(client, subject.expose(), chain).await?;
                of_agent(token)
            }
            (ACCESS_TOKEN, Some(_)) => {
                Err(odd("an agent acts by its own token; an actor token goes with a person's assertion as the subject"))
            }
            (JWT, Some((actor, ACCESS_TOKEN))) => {
                // The agent first: an assertion is used up by looking at it.
                let token = self.agents_token(client, actor, chain).await?;
                let shown = of_agent(token)?;
                let person = self.proven(client, &shown.agent, &subject).await?;
                // What somebody let a program do in their name is not done in another's.
                if shown.token.principal.user.as_ref().is_some_and(|own| *own != person) {
                    return Err(odd("the agent's token acts for somebody else; one that is for nobody will do"));
                }
                if self.acting(&client.site, &shown.agent, &person).await?.is_none() {
                    return Err(odd("the person may not have this agent act"));
                }
                Ok(Shown { proven: Some(person), ..shown })
            }
            (JWT, Some(_)) => Err(odd("the actor token is an agent's access token")),
            (JWT, None) => Err(odd("a person's assertion needs the agent's access token as its `actor_token`")),
            // Also a refresh token: it is its client's alone.
            _ => Err(odd("`subject_token_type` is that of an access token or of a JWT")),
        }
    }

    /// A live agent's token that the client may exchange, in a call that came through no more agents than the site allows.
    async fn agents_token(&self, client: &Client, text: &str, chain: &CallerChain) -> Outcome<Found> {
        let unacceptable = || odd("the token is unknown, expired, revoked, or not this client's to exchange");
        let found = self.find(text).await?.ok_or_else(unacceptable)?;
        let fits = found.principal.site == client.site
            && client.agent.as_ref().is_none_or(|only| found.principal.agent.as_ref() == Some(only));
        if !fits {
            return Err(unacceptable());
        }
        decision::calling(&found.facts, false, chain, self.now())?;
        Ok(found)
    }

    /// The person that a platform's assertion proves, to a client and for an agent.
    async fn proven(&self, client: &Client, agent: &AgentId, assertion: &Secret) -> Outcome<UserId> {
        let base = self.base();
        let proven = async {
            let signed = platform::read(base, assertion).await?.check(&self.outside).await?;
            // Before it is used up: one of another site, or for another agent or client, proves nothing here.
            if signed.key().site != client.site || !signed.is_for(agent, &client.id) {
                return Ok(None);
            }
            signed.accept(base, Purpose::Exchange).await.map(Some)
        };
        match proven.await {
            Ok(Some(proven)) => Ok(proven.user),
            Ok(None) => Err(odd("the assertion is not valid")),
            Err(error) if error.code() == Code::Unauthenticated => Err(odd("the assertion is not valid")),
            Err(error) => Err(error.into()),
        }
    }

    /// What `resource` and `audience` name together.
    fn target(&self, params: &Params) -> Outcome<Target> {
        let unknown = |text: &'static str| Fault::new(Word::InvalidTarget, text);
        let mut ours = self.named_audience(params)?;
        let mut upstream: Option<String> = None;
        for named in params.all("audience") {
            if let Some(audience) = self.audience(named) {
                if ours.is_some_and(|ours| ours != audience) {
                    return Err(unknown("a token is for one resource; ask for one token for each"));
                }
                ours = Some(audience);
                continue;
            }
            let id = named.strip_prefix("connection:").filter(|id| id.starts_with(ConnectionId::PREFIX));
            let provider = named.parse::<ProviderName>().ok().filter(|name| self.outside.catalogue.get(name).is_some());
            let found = match (id, provider) {
                (Some(id), _) => id.to_owned(),
                (None, Some(provider)) => provider.to_string(),
                (None, None) => {
                    return Err(unknown("an audience is one of our resources, `connection:ID`, or a provider's name"));
                }
            };
            if upstream.as_ref().is_some_and(|known| *known != found) {
                return Err(unknown("an upstream token is of one connection"));
            }
            upstream = Some(found);
        }
        match (ours, upstream) {
            (Some(_), Some(_)) => Err(unknown("a token is ours or a provider's; ask for one token for each")),
            (ours, None) => Ok(Target::Ours(ours)),
            (None, Some(upstream)) => Ok(Target::Upstream(upstream)),
        }
    }

    /// Issues a token that hangs on the one that was shown. Its text, what it holds, its hash.
    async fn child(
        &self,
        client: &Client,
        shown: &Shown,
        wanted: &Wanted,
        audience: Audience,
    ) -> Outcome<(Secret, Child, TokenHash)> {
        let (base, now) = (self.base(), self.now());
        let parent = shown.token.facts.token.as_ref().ok_or_else(|| Error::internal("a live token without a row"))?;
        let depth = token::depth(&base.db, &client.site, &parent.id, DEPTH).await?;
        let child = Parent::of(&shown.token.facts, depth)?.child(client.ceiling.as_ref(), wanted, now)?;
        let text = token::compose(&id::random::<32>()?);
        let new = Issue {
            text: &text,
            agent: &shown.agent,
            person: child.person.as_ref(),
            minter: parent.minter.as_ref().map(|minter: &PersonFacts| &minter.id),
            client: &client.id,
            family: parent.origin.family.as_ref(),
            parent: Some(&parent.id),
            session: child.session.as_ref(),
            task: child.task.as_ref(),
            label: &client.name,
            ceiling: &child.ceiling,
            audience,
            expires_at: child.expires_at,
        };
        let actor = Actor::Agent { agent: shown.agent.clone(), token: parent.id.clone(), user: child.person.clone() };
        // A new token is in nobody's cache.
        let mut tx = base.db.begin_bookkeeping().await?;
        // The client before the token, as whoever revokes it does.
        let held =
            super::store::hold_client(&mut tx, client, now).await? && token::hold(&mut tx, &client.site, &parent.id, now).await?;
        if !held {
            return Err(odd("the token or the client was revoked meanwhile"));
        }
        let (_, hash) = token::issue(base, &mut tx, &client.site, &actor, new).await?;
        tx.commit().await?;
        Ok((text, child, hash))
    }

    /// The access token of a connection, by a token that nobody was handed.
    async fn upstream(&self, caller: &Caller, named: &str, approval: Option<&ApprovalId>) -> Outcome<Issued> {
        let revealed = async {
            let connection = self.deliverer.resolve(caller, named, Delivery::Reveal).await?;
            self.deliverer.reveal_approved(caller, &connection, None, None, approval).await
        };
        match revealed.await {
            Ok(revealed) => self.handed_out(revealed),
            Err(error) if error.code() == Code::ApprovalRequired => Err(waits(&error)),
            Err(error) if error.code() == Code::ApprovalRefused => {
                Err(Fault::new(Word::AccessDenied, format!("{}: {}", error.code(), error.message())))
            }
            Err(error) if is_refusal(error.code()) => {
                // What is told of it here is told to whoever has the agent's token.
                Err(Fault::new(Word::InvalidTarget, format!("{}: {}", error.code(), error.message())))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn handed_out(&self, revealed: Revealed) -> Outcome<Issued> {
        let bearer = revealed.token_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case(BEARER));
        let token = revealed.secrets.text("access_token").filter(|_| bearer);
        let access_token = token.ok_or_else(|| {
            Fault::new(
                Word::InvalidTarget,
                "this account is opened by something else than one bearer token; reveal it by the API",
            )
        })?;
        Ok(Issued {
            access_token,
            token_type: BEARER,
            expires_in: revealed.expires_at.map(|at| at.since(self.now()).as_secs()),
            refresh_token: None,
            scope: revealed.scopes.map(|scopes| scopes.join(" ")),
            issued_token_type: Some(ACCESS_TOKEN),
        })
    }
}

fn of_agent(token: Found) -> Outcome<Shown> {
    let agent = token.principal.agent.clone().ok_or_else(|| odd("the token is no agent's"))?;
    Ok(Shown { token, agent, proven: None })
}

/// What of the result holds at this moment, by the agent, the site and the person, too. What stands above the token is not in the
/// result's own ceiling: it is asked at each use.
fn holding(client: &Client, shown: &Shown, asked: Option<&Scopes>) -> Outcome<Scopes> {
    let nothing = || Fault::new(Word::InvalidScope, "these scopes leave nothing under the token and the client");
    let facts = &shown.token.facts;
    // A person who is proven anew has their role looked at where they are ([`Server::shown`]).
    let person = facts.person.as_ref().filter(|person| shown.proven.as_ref().is_none_or(|proven| *proven == person.id));
    let most = decision::most(facts, person).and_then(|holds| under(&holds, client.ceiling.as_ref())).ok_or_else(nothing)?;
    let Some(asked) = asked else { return Ok(Scopes::of(&most)) };
    asked.check_within(&most)?;
    Ok(Scopes::of(&asked.narrow(&most).ok_or_else(nothing)?))
}

/// What is told of an upstream token that a person has to approve first.
fn waits(error: &Error) -> Fault {
    let text = "a person has to approve this; ask at `poll` with the agent's token for the answer, then send the same request again \
                with `approval`";
    let mut members = error.extra().cloned().unwrap_or_else(|| json!({}));
    if let Value::Object(members) = &mut members {
        members.insert("code".to_owned(), json!(error.code().as_str()));
    }
    Fault::new(Word::AuthorizationPending, text).with_more(members)
}

fn odd(text: &'static str) -> Fault {
    Fault::new(Word::InvalidRequest, text)
}

/// Whether an error says that the target may not be had, and not that something is broken.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated
            | Code::NotFound
            | Code::GrantDenied
            | Code::ApprovalExpired
            | Code::ApprovalMismatch
            | Code::ApprovalUsed
            | Code::IdentityUnverified
            | Code::Ambiguous
            | Code::NotConfigured
            | Code::NotAuthenticated
            | Code::NoCredentials
            | Code::NoPerUserCredentials
            | Code::InvalidRequest
    )
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use proptest::{
        prelude::*,
        test_runner::{Config, TestRunner},
    };

    use super::*;
    use crate::{
        oauth::scope::tests::{any_scopes, is_within},
        principal::PlatformCeiling,
    };

    /// A name out of two, or none.
    fn name<T: FromStr + std::fmt::Debug + Clone>(words: [&'static str; 2]) -> impl Strategy<Value = Option<T>> {
        prop::option::of(prop::sample::select(words.to_vec()).prop_map(|word| word.parse::<T>().ok())).prop_map(Option::flatten)
    }

    fn ceiling() -> impl Strategy<Value = Ceiling> {
        let closed = Ceiling { providers: Some(BTreeSet::new()), ..Ceiling::default() };
        let silent = Ceiling { delivery: Some(BTreeSet::new()), ..Ceiling::default() };
        let some = (any_scopes(), any::<bool>(), any::<bool>()).prop_map(|(scopes, operations, platform)| {
            let most = Ceiling {
                operations: operations.then(|| vec!["GET /v1/**".parse().unwrap()]),
                platform: platform.then(PlatformCeiling::default),
                ..Ceiling::default()
            };
            scopes.narrow(&most).unwrap()
        });
        prop_oneof![1 => Just(Ceiling::default()), 1 => Just(closed), 1 => Just(silent), 8 => some]
    }

    fn parent() -> impl Strategy<Value = Parent> {
        let names = (name::<UserId>(["alice", "bob"]), name::<SessionName>(["s1", "s2"]), name::<TaskName>(["t1", "t2"]));
        (ceiling(), names, prop::option::of(1_000_u64..5_000), 0_u32..=DEPTH).prop_map(
            |(ceiling, (person, session, task), ends, depth)| {
                let expires_at = ends.map(|ends| START.plus(Duration::from_secs(ends)));
                Parent { ceiling, person, session, task, expires_at, depth }
            },
        )
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        let names = (name::<UserId>(["alice", "bob"]), name::<SessionName>(["s1", "s2"]), name::<TaskName>(["t1", "t2"]));
        let scopes = prop::option::of(any_scopes());
        (scopes, prop::bool::weighted(0.2), names, 1_u64..2_000).prop_map(|(scopes, upstream, (proven, session, task), life)| {
            Wanted { scopes, upstream, session, task, proven, life: Duration::from_secs(life) }
        })
    }

    const START: Timestamp = Timestamp(1_800_000_000_000_000);

    /// R113: whatever is exchanged for whatever, by whichever clients and however often, nothing that comes out holds more than what
    /// was shown: scopes, time, person, session, task, and the number of exchanges that are left.
    #[test]
    fn what_is_exchanged_holds_nothing_more() {
        let turn = || (prop::option::of(any_scopes()), wanted(), 0_u64..300);
        let (issued, named, refused) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&(parent(), prop::collection::vec(turn(), 1..6)), |(first, turns)| {
                let (mut held, mut now) = (first.clone(), START);
                for (client, wanted, later) in turns {
                    now = now.plus(Duration::from_secs(later));
                    let client = client.and_then(|scopes| scopes.narrow(&Ceiling::default()));
                    let Ok(child) = held.child(client.as_ref(), &wanted, now) else {
                        refused.set(refused.get() + 1);
                        continue;
                    };
                    issued.set(issued.get() + 1);
                    for most in [&held.ceiling, &first.ceiling].into_iter().chain(&client) {
                        prop_assert!(is_within(&child.ceiling, most), "{:?} is beyond {:?}", child.ceiling, most);
                    }
                    prop_assert!(held.expires_at.is_none_or(|end| child.expires_at <= end));
                    prop_assert!(child.expires_at <= now.plus(wanted.life));
                    // Another person only by a proof of theirs, a name only where there was none.
                    let person = wanted.proven.as_ref().or(held.person.as_ref());
                    prop_assert_eq!(child.person.as_ref(), person);
                    prop_assert_eq!(child.session.as_ref(), held.session.as_ref().or(wanted.session.as_ref()));
                    prop_assert_eq!(child.task.as_ref(), held.task.as_ref().or(wanted.task.as_ref()));
                    prop_assert!(held.session.is_none() || wanted.session.is_none() || held.session == wanted.session);
                    prop_assert!(held.task.is_none() || wanted.task.is_none() || held.task == wanted.task);
                    prop_assert!(held.depth < DEPTH);
                    named.set(named.get() + usize::from(held.session.is_none() && child.session.is_some()));
                    let Child { ceiling, person, session, task, expires_at } = child;
                    held = Parent { ceiling, person, session, task, expires_at: Some(expires_at), depth: held.depth + 1 };
                }
                Ok(())
            })
            .unwrap();
        let counts = (issued.get(), named.get(), refused.get());
        assert!(counts.0 > 500 && counts.1 > 50 && counts.2 > 500, "{counts:?}");
    }

    /// An empty list allows nothing, and is not taken for none.
    #[test]
    fn what_allows_nothing_is_exchanged_for_nothing_more() {
        let silent = Ceiling { delivery: Some(BTreeSet::new()), ..Ceiling::default() };
        let parent = Parent { ceiling: silent.clone(), person: None, session: None, task: None, expires_at: None, depth: 0 };
        let child = parent.child(None, &Wanted { life: ACCESS_LIFE, ..Wanted::default() }, START).unwrap();
        assert_eq!(child.ceiling, silent);
        let asked = Wanted { scopes: Some("proxy".parse().unwrap()), life: ACCESS_LIFE, ..Wanted::default() };
        assert_eq!(parent.child(None, &asked, START).unwrap_err().word(), Some(Word::InvalidScope));
        let client = "proxy reveal".parse::<Scopes>().unwrap().narrow(&Ceiling::default()).unwrap();
        let asked = Wanted { life: ACCESS_LIFE, ..Wanted::default() };
        assert_eq!(parent.child(Some(&client), &asked, START).unwrap_err().word(), Some(Word::InvalidScope));
    }
}
