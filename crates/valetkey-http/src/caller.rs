//! Who calls, and whether the router's page names them.
//!
//! - The *operator* comes through the local socket or the router in the same process ([`LocalOperator`]), and names the
//!   site by `?site=`; the site `default` without it.
//! - A *platform* shows its key as a bearer (`vkp_...`); the site is the key's. `Valet-User: <id>` names the person it
//!   speaks for, which the key must be allowed to do, and narrows what follows to that person.
//! - An *agent* shows its token as a bearer. It is looked up by whoever needs it, together with what is decided about it. Where
//!   one of its MCP tools calls, the MCP server has read the bearer ([`Known`]).
//!   What it says of the agents that called it (`X-Agents-Api-*`, [`CallerChain`]) is read here, once, for whatever it calls;
//!   it is claimed and not proven, and says nothing about who is calling us.
//!
//! Whatever is wrong with a credential, the answer is one and the same 401. A 403 tells somebody whom we know, and leaves a
//! row in the audit; a 401 leaves none, so that nobody can fill the audit with nothing.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use serde_json::json;
use valetkey::{
    Code, Error, Result,
    audit::{Event, Outcome},
    decision,
    id::{SiteId, UserId},
    platform::{self, PlatformKey, Scope},
    principal::{Actor, CallerChain, Owner, Principal},
    site,
    token::TokenHash,
};

use crate::{
    edge::{CallerName, LocalOperator, Peer},
    error::{Logged, Problem, status},
    extract, openapi,
    router::{self, Route},
    state::AppState,
};

/// The mark of a call that a tool of the MCP server makes: the agent whose bearer was shown there. Only that server puts it into a
/// request's extensions; no header does.
#[derive(Clone, Debug)]
pub(crate) struct Known(pub(crate) Caller);

/// Who may call a route, as the router's page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody, without a credential.
    Anybody,
    /// The operator only.
    Operator,
    /// A platform key with one of these scopes; the operator too.
    Scope(&'static [Scope]),
    /// Any platform key; the operator too.
    Platform,
    /// An agent by its token, and nobody else.
    Agent,
    /// An agent by its token, a platform key with one of these scopes, the operator.
    AgentOr(&'static [Scope]),
    /// What monitoring reads: a platform key with `admin`, the operator, or anybody where a setting says so.
    Monitoring,
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever holds the machine.
    Operator {
        /// The site the call is about.
        site: SiteId,
        /// Which user of the machine; absent where nothing says so.
        uid: Option<u32>,
    },
    /// A site's own backend.
    Platform {
        /// Its key.
        key: Arc<PlatformKey>,
        /// The person it speaks for in this call.
        user: Option<UserId>,
    },
    /// An agent, by the hash of its token, which is not looked up yet.
    Agent {
        /// The hash.
        hash: TokenHash,
        /// The agents that the call came through, as it claims.
        chain: CallerChain,
    },
}

impl Caller {
    /// The site the call is about.
    pub fn site(&self) -> Result<&SiteId> {
        match self {
            Caller::Operator { site, .. } => Ok(site),
            Caller::Platform { key, .. } => Ok(&key.site),
            Caller::Agent { .. } => Err(Error::internal("an agent's site is known only after its token was looked up")),
        }
    }

    /// Who is acting.
    pub fn principal(&self) -> Result<Principal> {
        match self {
            Caller::Operator { site, uid } => Ok(Principal::operator(site.clone(), *uid)),
            Caller::Platform { key, user } => Ok(Principal::platform(key.site.clone(), &key.id, user.clone())),
            Caller::Agent { .. } => Err(Error::internal("an agent's id is known only after its token was looked up")),
        }
    }

    /// Who is acting, for rows and the audit.
    pub fn actor(&self) -> Result<Actor> {
        Ok(self.principal()?.actor())
    }

    /// The person that a platform speaks for in this call.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Caller::Platform { user, .. } => user.as_ref(),
            Caller::Operator { .. } | Caller::Agent { .. } => None,
        }
    }

    /// Whether the caller has a scope; the operator has them all, an agent has none.
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Caller::Operator { .. } => true,
            Caller::Platform { key, .. } => key.scopes.contains(&scope),
            Caller::Agent { .. } => false,
        }
    }

    /// Refuses a caller without a scope.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.has(scope) { Ok(()) } else { Err(missing(&[scope])) }
    }

    /// Whether the caller may speak for a person. A call that names a person speaks for nobody else.
    pub fn speaks_for(&self, person: &UserId) -> bool {
        match self {
            Caller::Operator { .. } => true,
            Caller::Platform { key, user } => key.asserts.allows(person) && user.as_ref().is_none_or(|user| user == person),
            Caller::Agent { .. } => false,
        }
    }

    /// Refuses a caller who may not speak for a person.
    pub fn require_speaks_for(&self, person: &UserId) -> Result<()> {
        if self.speaks_for(person) {
            Ok(())
        } else {
            Err(Error::new(Code::Forbidden, format!("this key may not speak for user {person}")))
        }
    }

    /// Whether the caller may see and change what belongs to an owner: a person's own things need somebody who may speak
    /// for them, or `admin`.
    pub fn reaches(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Site | Owner::Agent(_) => true,
            // `admin` in a call for one person is that person's call.
            Owner::User(person) => self.speaks_for(person) || (self.has(Scope::Admin) && self.user().is_none()),
        }
    }

    /// Refuses a caller who does not reach an owner's things.
    pub fn require_reaches(&self, owner: &Owner) -> Result<()> {
        if self.reaches(owner) {
            Ok(())
        } else {
            Err(Error::new(
                Code::Forbidden,
                format!("this key reaches nothing of {owner}: it may not speak for that person, and has no `admin`"),
            ))
        }
    }

    /// Refuses a caller who does not have an owner's word: a person's have those who may speak for them, and the site's and its
    /// agents' has `admin`.
    pub(crate) fn require_word_of(&self, owner: &Owner) -> Result<()> {
        match owner {
            Owner::User(person) => self.require_speaks_for(person),
            Owner::Site | Owner::Agent(_) => self.require(Scope::Admin),
        }
    }

    /// What stands for the caller in the log.
    pub(crate) fn name(&self) -> String {
        match self {
            Caller::Operator { .. } => "operator".to_owned(),
            Caller::Platform { key, .. } => format!("platform:{}", key.id),
            // The token's id is not known yet; whoever looks it up writes it into the audit.
            Caller::Agent { .. } => "agent".to_owned(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Problem(Error::internal("a handler asks who calls on a route where nobody is asked")))
    }
}

/// Finds out who calls, and lets through only those whom the router's page names for the route.
pub(crate) async fn gate(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else {
        // No path fits: there is nothing behind this but the 404.
        return next.run(request).await;
    };
    // Nothing that is not on the page is served, whatever is routed.
    let Some(route) = router::route(request.method(), path.as_str()) else { return method_not_allowed(path.as_str()) };
    let (mut parts, body) = request.into_parts();
    // An agent's use is decided, and its refusal recorded, behind this.
    let mut told = None;
    match admit(&state, route, &parts).await {
        Ok(None) => {}
        Ok(Some(caller)) => {
            if let Some(CallerName(name)) = parts.extensions.get::<CallerName>() {
                let _ = name.set(caller.name());
            }
            told = (!matches!(caller, Caller::Agent { .. })).then(|| caller.clone());
            parts.extensions.insert(caller);
        }
        Err(error) => return Problem(error).into_response(),
    }
    // The databases differ in what they make of a NUL. What is proxied has stricter rules of its own.
    if !path.as_str().starts_with("/v1/proxy/") && parts.uri.path().contains("%00") {
        return Problem(Error::new(Code::InvalidRequest, "the path holds a NUL")).into_response();
    }
    if let Err(error) = check_query(route, parts.uri.query()) {
        return Problem(error).into_response();
    }
    let method = parts.method.clone();
    let response = next.run(Request::from_parts(parts, body)).await;
    let code = response.extensions().get::<Logged>().map(|Logged(error)| error.code());
    if let (Some(caller), Some(code)) = (told, code)
        && let Err(error) = note_denial(&state, &caller, (&method, path.as_str()), code).await
    {
        return Problem(error).into_response();
    }
    response
}

/// Refuses a query parameter that the route does not know: one that is mistyped must not pass for one that is not there. The
/// query of a proxied call is the provider's.
fn check_query(route: &Route, query: Option<&str>) -> Result<()> {
    let Some(query) = query.filter(|query| !query.is_empty() && route.method != "any") else { return Ok(()) };
    let known = openapi::query_of(route);
    for (name, _) in extract::pairs(Some(query))? {
        // `site` is everybody's who names one, and was read with the caller.
        let is_site = name == "site" && route.path.starts_with("/v1/") && route.who != Who::Agent;
        if !is_site && !known.is_some_and(|known| known.contains(&name)) {
            let names: Vec<_> = known.into_iter().flatten().map(String::as_str).collect();
            let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            // The name is the caller's own text; it is cut, in case it is none.
            return Err(Error::new(Code::InvalidRequest, format!("the query names `{name:.40}`; this path knows {has}")));
        }
    }
    Ok(())
}

async fn admit(state: &AppState, route: &Route, request: &Parts) -> Result<Option<Caller>> {
    let who = match route.who {
        Who::Monitoring if state.http().open_metrics => Who::Anybody,
        Who::Monitoring => Who::Scope(&[Scope::Admin]),
        who => who,
    };
    if who == Who::Anybody {
        return Ok(None);
    }
    let caller = identify(state, request, who).await?;
    if let Err(error) = permit(state, who, &caller, request).await {
        note_denial(state, &caller, (&request.method, route.path), error.code()).await?;
        return Err(error);
    }
    Ok(Some(caller))
}

/// Lets through whom the router's page names. A platform that names a person must be allowed to speak for them.
async fn permit(state: &AppState, who: Who, caller: &Caller, request: &Parts) -> Result<()> {
    let refused = |text: &'static str| Err(Error::new(Code::Forbidden, text));
    if let Caller::Platform { key, user } = caller {
        if let Some(user) = user {
            if !key.asserts.allows(user) {
                return Err(Error::new(Code::Forbidden, format!("this key may not speak for user {user}")));
            }
            if platform::person_is_disabled(&state.base().db, &key.site, user).await? {
                return Err(Error::new(Code::Forbidden, format!("user {user} is disabled")));
            }
        }
        if let Some(site) = named_site(request)?
            && site != key.site
        {
            return Err(Error::new(Code::NotFound, format!("there is no site `{site}` for this key")));
        }
    }
    match (caller, who) {
        (Caller::Agent { .. }, Who::Agent | Who::AgentOr(_)) => Ok(()),
        (Caller::Agent { .. }, _) => refused("agent tokens are not accepted here"),
        (_, Who::Agent) => refused("this is for agents, with their own token"),
        (Caller::Platform { .. }, Who::Operator) => refused("only the operator may do this, on the machine itself"),
        (caller, Who::Scope(scopes) | Who::AgentOr(scopes)) if !scopes.iter().any(|scope| caller.has(*scope)) => {
            Err(missing(scopes))
        }
        (Caller::Operator { .. } | Caller::Platform { .. }, _) => Ok(()),
    }
}

/// Records that somebody known was refused with a 403; other codes are no refusals.
///
/// Errors: the one 401 where the refused is an agent whose token is dead, which learns nothing from a refusal either;
/// `audit_unavailable`.
async fn note_denial(state: &AppState, caller: &Caller, (method, path): (&Method, &str), code: Code) -> Result<()> {
    if status(code) != StatusCode::FORBIDDEN {
        return Ok(());
    }
    let base = state.base();
    let principal = match caller {
        // The person it names may be what it was refused for: that is a fact, and nobody who acted.
        Caller::Platform { key, .. } => Principal::platform(key.site.clone(), &key.id, None),
        Caller::Agent { hash, chain } => {
            let facts = state.authority().holder(hash).await?.ok_or_else(decision::unauthenticated)?;
            decision::calling(&facts, false, chain, base.clock.now())?
        }
        Caller::Operator { .. } => caller.principal()?,
    };
    let mut facts = json!({ "method": served_as(method).as_str(), "path": path, "code": code.as_str(), "person": caller.user() });
    principal.chain.note(&mut facts);
    metrics::counter!("valetkey_denials_total", "code" => code.as_str()).increment(1);
    let event = Event::by(&principal, "api.call").outcome(Outcome::Denied).facts(facts);
    base.audit.record_use(event).await
}

async fn identify(state: &AppState, request: &Parts, who: Who) -> Result<Caller> {
    let bearer = bearer(&request.headers)?;
    let user = one_header(&request.headers, "valet-user")?;
    if let Some(Known(caller)) = request.extensions.get::<Known>() {
        return match user {
            None => Ok(caller.clone()),
            Some(_) => Err(no_person()),
        };
    }
    let Some(bearer) = bearer else {
        if request.extensions.get::<LocalOperator>().is_none() {
            return Err(decision::unauthenticated());
        }
        if user.is_some() {
            return Err(Error::new(
                Code::InvalidRequest,
                "Valet-User is for platform keys; the operator names people in the call itself",
            ));
        }
        let uid = match request.extensions.get::<Peer>() {
            Some(Peer::Local { uid }) => Some(*uid),
            Some(Peer::Tcp(_)) | None => None,
        };
        return Ok(Caller::Operator { site: operator_site(state, request).await?, uid });
    };
    if !bearer.starts_with(platform::PREFIX) {
        let hash = TokenHash::of_presented(bearer).ok_or_else(decision::unauthenticated)?;
        if user.is_some() && matches!(who, Who::Agent | Who::AgentOr(_)) {
            return Err(no_person());
        }
        // What cannot be read is refused, and not taken for a call without a chain.
        return Ok(Caller::Agent { hash, chain: CallerChain::from_headers(&request.headers)? });
    }
    let key = state.keys().authenticate(bearer, state.base().clock.now()).await.map_err(|error| match error.code() {
        Code::Unauthenticated => decision::unauthenticated(),
        _ => error,
    })?;
    let user: Option<UserId> = user.map(str::parse).transpose()?;
    Ok(Caller::Platform { key, user })
}

/// The refusal of an agent's call that names a person.
pub(crate) fn no_person() -> Error {
    Error::new(Code::InvalidRequest, "Valet-User is for platform keys; an agent's token says for whom it acts")
}

async fn operator_site(state: &AppState, request: &Parts) -> Result<SiteId> {
    match named_site(request)? {
        // A site that is named must be there, so that a typing mistake is no empty list.
        Some(site) => Ok(site::require(&state.base().db, &site).await?.id),
        None => Ok(SiteId::default_site()),
    }
}

fn named_site(request: &Parts) -> Result<Option<SiteId>> {
    let Some(query) = request.uri.query().filter(|query| query.contains("site")) else { return Ok(None) };
    let pairs = extract::pairs(Some(query))?;
    pairs.iter().find(|(name, _)| name == "site").map(|(_, value)| value.parse()).transpose()
}

/// The bearer, if a credential was sent. Several, or one of another scheme, are as good as none that is valid: which one
/// would count is not ours to choose.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(decision::unauthenticated()),
    };
    let text = value.to_str().map_err(|_| decision::unauthenticated())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(decision::unauthenticated)?;
    let token = token.trim_matches(' ');
    // RFC 9110 section 11.1: the scheme's name is compared without regard to case.
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains([' ', ',']) {
        return Err(decision::unauthenticated());
    }
    Ok(Some(token))
}

fn one_header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Error::new(Code::InvalidRequest, format!("{name}: it is plain text")))
        }
        (Some(_), Some(_)) => Err(Error::new(Code::InvalidRequest, format!("{name} is sent more than once"))),
    }
}

fn missing(scopes: &[Scope]) -> Error {
    let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    Error::new(Code::MissingScope, format!("this needs a platform key with the scope {}", names.join(" or ")))
        .with_extra(json!({ "scopes": names }))
}

/// The answer to a method that a path does not have.
pub(crate) fn method_not_allowed(path: &str) -> Response {
    let allowed = router::methods(path);
    let problem = Problem(Error::new(Code::MethodRefused, format!("this path answers {} only", allowed.join(", "))));
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&allowed.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// `HEAD` is served by whatever serves `GET`.
pub(crate) fn served_as(method: &Method) -> &Method {
    if method == Method::HEAD { &Method::GET } else { method }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn the_scheme_is_compared_without_regard_to_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc ", "bEaReR abc"] {
            assert_eq!(bearer(&headers(&[value])).unwrap(), Some("abc"), "{value}");
        }
    }

    #[test]
    fn another_scheme_several_headers_or_half_a_header_are_refused() {
        for values in
            [&["Basic abc"][..], &["Bearer"], &["Bearer "], &["Bearer a b"], &["Bearer a,b"], &["Bearer a", "Bearer a"], &["abc"]]
        {
            assert_eq!(bearer(&headers(values)).unwrap_err().code(), Code::Unauthenticated, "{values:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()).unwrap(), None);
    }
}
