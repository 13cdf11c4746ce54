//! Token exchange (RFC 8693): a token for another one. Nothing ever grows by it.
//!
//! | subject | actor | result |
//! |---|---|---|
//! | an agent's token | | a token of the same agent that may less, for a shorter time |
//! | a person's assertion | an agent's token | a token of that agent that acts for that person (`sub` the person, `act` the agent) |
//!
//! 1. Subject and actor are looked at before anything else: whatever is wrong with them is `invalid_request` (section 2.2.2).
//! 2. What comes out lies under the token that was shown, the scopes that were asked for and the client's own ceiling. It is of
//!    the same agent, for the same session and task and for no other place, so every grant, role and switch counts for it as
//!    before; it hangs on the shown token and ends with it.
//! 3. Where `audience` names a connection or a provider, the result is the upstream access token itself, if a grant says
//!    `reveal`: the decision is asked as for any reveal, with a token as in 2. that is never handed out.

use std::time::Duration;

use super::{ACCESS_LIFE, Client, Fault, Found, Issued, Outcome, Params, Scopes, Server, Word, scope::under, token::BEARER};
use crate::{
    clock::Timestamp,
    decision::{Parsed, PersonFacts},
    deliver::{Caller, Revealed},
    error::{Code, Error},
    id::{self, AgentId, ConnectionId, ProviderName, UserId},
    platform::{self, Purpose},
    principal::{Actor, Ceiling, Delivery},
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
    /// For whom the result acts.
    person: Option<UserId>,
}

impl Server {
    /// Answers a request for an exchange, of a client that proved itself by a secret.
    pub(super) async fn exchange(&self, client: &Client, params: &Params) -> Outcome<Issued> {
        // A client without a secret has no such grant; this is for one that was made otherwise.
        if !client.confidential {
            return Err(Fault::new(Word::InvalidClient, "an exchange is for clients with a secret"));
        }
        let shown = self.shown(client, params).await?;
        match params.get("requested_token_type") {
            None | Some(ACCESS_TOKEN) => {}
            Some(_) => return Err(Fault::new(Word::InvalidRequest, "the only type of token here is an access token")),
        }
        let target = self.target(params)?;
        let ceiling = narrowed(client, &shown.token, params, &target)?;
        match target {
            Target::Ours(audience) => {
                let own = shown.token.facts.token.as_ref().and_then(|token| token.origin.audience);
                // Whoever gets hold of a token for one place must not be able to make one for another of it.
                if own.is_some() && audience.is_some() && own != audience {
                    return Err(Fault::new(Word::InvalidTarget, "the token is for another resource"));
                }
                let audience = own.or(audience).unwrap_or(Audience::Api);
                let (text, expires_at, _) = self.child(client, &shown, &ceiling, audience, ACCESS_LIFE).await?;
                Ok(Issued {
                    access_token: text,
                    token_type: BEARER,
                    expires_in: Some(expires_at.since(self.now()).as_secs()),
                    refresh_token: None,
                    scope: Some(Scopes::of(&ceiling).to_string()),
                    issued_token_type: Some(ACCESS_TOKEN),
                })
            }
            Target::Upstream(named) => self.upstream(client, &shown, &ceiling, &named).await,
        }
    }

    /// Looks at subject and actor.
    async fn shown(&self, client: &Client, params: &Params) -> Outcome<Shown> {
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
                let token = self.agents_token(client, subject.expose()).await?;
                let person = token.principal.user.clone();
                of_agent(token, person)
            }
            (ACCESS_TOKEN, Some(_)) => {
                Err(odd("an agent acts by its own token; an actor token goes with a person's assertion as the subject"))
            }
            (JWT, Some((actor, ACCESS_TOKEN))) => {
                // The agent first: an assertion is used up by looking at it.
                let token = self.agents_token(client, actor).await?;
                let person = self.proven(client, &subject).await?;
                let shown = of_agent(token, Some(person.clone()))?;
                if !self.can_act(&client.site, &shown.agent, &person).await? {
                    return Err(odd("the person may not have this agent act"));
                }
                Ok(shown)
            }
            (JWT, Some(_)) => Err(odd("the actor token is an agent's access token")),
            (JWT, None) => Err(odd("a person's assertion needs the agent's access token as its `actor_token`")),
            // Also a refresh token: it is its client's alone.
            _ => Err(odd("`subject_token_type` is that of an access token or of a JWT")),
        }
    }

    /// A live agent's token that the client may exchange.
    async fn agents_token(&self, client: &Client, text: &str) -> Outcome<Found> {
        let unacceptable = || odd("the token is unknown, expired, revoked, or not this client's to exchange");
        let found = self.find(text).await?.ok_or_else(unacceptable)?;
        let fits = found.principal.site == client.site
            && client.agent.as_ref().is_none_or(|only| found.principal.agent.as_ref() == Some(only));
        if fits { Ok(found) } else { Err(unacceptable()) }
    }

    /// The person that a platform's assertion proves.
    async fn proven(&self, client: &Client, assertion: &Secret) -> Outcome<UserId> {
        let base = self.base();
        let proven = async {
            let signed = platform::read(base, assertion).await?.check(&self.outside).await?;
            // Before it is used up: one of another site is nobody here.
            if signed.key().site != client.site {
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

    /// Issues a token that hangs on the one that was shown. Its text, its end, its hash.
    async fn child(
        &self,
        client: &Client,
        shown: &Shown,
        ceiling: &Ceiling,
        audience: Audience,
        life: Duration,
    ) -> Outcome<(Secret, Timestamp, TokenHash)> {
        let (base, now) = (self.base(), self.now());
        let parent = shown.token.facts.token.as_ref().ok_or_else(|| Error::internal("a live token without a row"))?;
        if token::depth(&base.db, &client.site, &parent.id, DEPTH).await? >= DEPTH {
            return Err(odd("this token was exchanged too often"));
        }
        let expires_at = parent.expires_at.map_or(now.plus(life), |end| end.min(now.plus(life)));
        let text = token::compose(&id::random::<32>()?);
        let new = Issue {
            text: &text,
            agent: &shown.agent,
            person: shown.person.as_ref(),
            minter: parent.minter.as_ref().map(|minter: &PersonFacts| &minter.id),
            session: shown.token.facts.session.as_ref(),
            task: shown.token.facts.task.as_ref(),
            client: &client.id,
            family: parent.origin.family.as_ref(),
            parent: Some(&parent.id),
            label: &client.name,
            ceiling,
            audience,
            expires_at,
        };
        let actor = Actor::Agent { agent: shown.agent.clone(), token: parent.id.clone(), user: shown.person.clone() };
        let mut tx = base.db.begin().await?;
        // The client before the token, as whoever revokes it does.
        let held = super::store::hold_client(&mut tx, &client.id, now).await?
            && token::hold(&mut tx, &client.site, &parent.id, now).await?;
        if !held {
            return Err(odd("the token or the client was revoked meanwhile"));
        }
        let (_, hash) = token::issue(base, &mut tx, &client.site, &actor, new).await?;
        tx.commit().await?;
        Ok((text, expires_at, hash))
    }

    async fn upstream(&self, client: &Client, shown: &Shown, ceiling: &Ceiling, named: &str) -> Outcome<Issued> {
        let (_, _, hash) = self.child(client, shown, ceiling, Audience::Api, UPSTREAM_LIFE).await?;
        let caller = Caller::new(hash);
        let revealed = async {
            let connection = self.deliverer.resolve(&caller, named, Delivery::Reveal).await?;
            self.deliverer.reveal(&caller, &connection, None).await
        };
        match revealed.await {
            Ok(revealed) => self.handed_out(revealed),
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

fn of_agent(token: Found, person: Option<UserId>) -> Outcome<Shown> {
    let agent = token.principal.agent.clone().ok_or_else(|| odd("the token is no agent's"))?;
    Ok(Shown { token, agent, person })
}

/// The ceiling that lies under the shown token, the client and what was asked for.
fn narrowed(client: &Client, token: &Found, params: &Params, target: &Target) -> Outcome<Ceiling> {
    let own = match token.facts.token.as_ref().and_then(|token| token.ceiling.as_ref()) {
        None => Ceiling::default(),
        Some(Parsed::Read(ceiling)) => ceiling.clone(),
        Some(Parsed::Unreadable) => return Err(odd("the token's ceiling cannot be read")),
    };
    let nothing = || Fault::new(Word::InvalidScope, "these scopes leave nothing under the token and the client");
    let most = under(&own, client.ceiling.as_ref()).ok_or_else(nothing)?;
    match (params.get("scope"), target) {
        (Some(scope), Target::Ours(_)) => {
            let asked: Scopes = scope.parse()?;
            asked.check_within(&most)?;
            asked.narrow(&most).ok_or_else(nothing)
        }
        (None, Target::Ours(_)) => Ok(most),
        // An upstream token has the scopes that it has: nobody can narrow it any more.
        (Some(_), Target::Upstream(_)) => Err(Fault::new(Word::InvalidScope, "an upstream token cannot be narrowed")),
        (None, Target::Upstream(_)) => {
            let reveal = Scopes::from_iter([super::Scope::Delivery(Delivery::Reveal)]);
            let denied = || Fault::new(Word::InvalidTarget, "neither this token nor this client may be handed an upstream token");
            reveal.narrow(&most).ok_or_else(denied)
        }
    }
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
            | Code::ApprovalRequired
            | Code::IdentityUnverified
            | Code::Ambiguous
            | Code::NotConfigured
            | Code::NotAuthenticated
            | Code::NoCredentials
            | Code::NoPerUserCredentials
            | Code::InvalidRequest
    )
}
