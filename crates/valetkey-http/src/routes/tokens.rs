//! Agent tokens: the bearers by which agents call us.

use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    agent::Role,
    clock::Timestamp,
    id::{SessionName, TaskName, TokenId, UserId},
    principal::{Actor, Ceiling},
    token::{self, NewToken},
};

use super::{agents::named_agent, approvals::holder, connections::json_or_null, limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// A token as it is listed: never its text, never its hash.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    /// Its id, which is no secret.
    id: String,
    /// The agent that holds it.
    agent: String,
    /// The first characters of its text.
    prefix: String,
    /// What somebody called it.
    label: String,
    /// The person it acts for; absent means unattended.
    person: Option<String>,
    /// The session it was minted for.
    session: Option<String>,
    /// The task it was minted for.
    task: Option<String>,
    /// The most it may do, besides what is granted.
    #[schema(value_type = Option<Object>)]
    ceiling: Value,
    /// Since when.
    created_at: String,
    /// Until when.
    expires_at: Option<String>,
    /// When it was last used, to the minute.
    last_used_at: Option<String>,
    /// Since when it is revoked.
    revoked_at: Option<String>,
}

impl From<token::Token> for Token {
    fn from(token: token::Token) -> Self {
        Self {
            id: token.id.to_string(),
            agent: token.agent.to_string(),
            prefix: token.prefix,
            label: token.label,
            person: token.person.map(|person| person.to_string()),
            session: token.session.map(|session| session.to_string()),
            task: token.task.map(|task| task.to_string()),
            ceiling: json_or_null(&token.ceiling),
            created_at: moment(token.created_at),
            expires_at: maybe(token.expires_at),
            last_used_at: maybe(token.last_used_at),
            revoked_at: maybe(token.revoked_at),
        }
    }
}

/// Which tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those that came before this one was made: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<TokenId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// The tokens, the newest first, the ended ones among them.
    tokens: Vec<Token>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists an agent's tokens.
#[utoipa::path(get, path = "/v1/agents/{agent}/tokens", tag = "tokens", params(("agent" = String, Path), Which),
    responses((status = 200, body = Tokens)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Query(which): Query<Which>,
) -> Answer<Json<Tokens>> {
    let agent = named_agent(&state, &caller, &named, Role::Operator).await?;
    let limit = limited(which.limit);
    let tokens = token::page(&state.base().db, caller.site()?, &agent.id, which.after.as_ref(), limit).await?;
    let next = next(&tokens, limit, |token| token.id.to_string());
    Ok(Json(Tokens { tokens: tokens.into_iter().map(Token::from).collect(), next }))
}

/// A new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTokenBody {
    /// What to call it.
    #[serde(default)]
    label: String,
    /// The person it acts for, who needs a role of operator or more on the agent and whom the key may speak for. In a call
    /// for a person it is that person when absent; otherwise a token without a person is unattended.
    #[schema(value_type = Option<String>)]
    person: Option<UserId>,
    /// Whether it acts for nobody, also in a call for a person.
    #[serde(default)]
    unattended: bool,
    /// The session it is for, as you call it: what is granted for that session is granted to it.
    #[schema(value_type = Option<String>)]
    session: Option<SessionName>,
    /// The task it is for, likewise.
    #[schema(value_type = Option<String>)]
    task: Option<TaskName>,
    /// The most it may do, whatever is granted; each part that is present narrows: `delivery`, `connections`, `providers`,
    /// `operations`.
    #[schema(value_type = Option<Object>)]
    ceiling: Option<Ceiling>,
    /// Until when.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// A fresh token with its text, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MintedToken {
    /// The token as it is listed.
    #[serde(flatten)]
    listed: Token,
    /// Its text: the bearer.
    token: String,
}

/// Mints a token for an agent.
#[utoipa::path(post, path = "/v1/agents/{agent}/tokens", tag = "tokens", params(("agent" = String, Path)),
    request_body = NewTokenBody, responses((status = 201, body = MintedToken)))]
pub(crate) async fn mint(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Body(new): Body<NewTokenBody>,
) -> Answer<(StatusCode, Json<MintedToken>)> {
    let agent = named_agent(&state, &caller, &named, Role::Operator).await?;
    let person = match (new.person, new.unattended) {
        (Some(_), true) => {
            return Err(Error::new(Code::InvalidRequest, "a token acts for a person or is unattended, not both").into());
        }
        (Some(person), false) => Some(person),
        (None, true) => None,
        (None, false) => caller.user().cloned(),
    };
    if let Some(person) = &person {
        caller.require_speaks_for(person)?;
    }
    let new = NewToken {
        label: new.label,
        person,
        session: new.session,
        task: new.task,
        ceiling: new.ceiling,
        expires_at: new.expires_at,
    };
    let (token, text) = token::mint(state.base(), caller.site()?, &caller.actor()?, &agent.id, new).await?;
    Ok((StatusCode::CREATED, Json(MintedToken { listed: token.into(), token: text.expose().to_owned() })))
}

/// Why something is revoked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Why {
    /// Why, in your words.
    reason: Option<String>,
}

impl Why {
    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("asked for")
    }
}

/// Which agent's token is meant, and why it is revoked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Whose {
    /// Only if it is a token of this agent, by id or slug.
    agent: Option<String>,
    /// Why, in your words.
    reason: Option<String>,
}

/// Revokes a token: no request that comes after this is served by it. Doing it again changes nothing. An agent gives up its own
/// token, by which it asks; what that came of, a consent, ends with it.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path), Whose), responses((status = 204)))]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<TokenId>,
    Query(Whose { agent: named, reason }): Query<Whose>,
) -> Answer<StatusCode> {
    let (base, why) = (state.base(), Why { reason });
    let none = || Error::new(Code::NotFound, format!("there is no token `{id}`"));
    if let Caller::Agent { .. } = caller {
        let asker = holder(&state, &caller, &headers).await?;
        if asker.token != id || named.is_some_and(|named| named != asker.agent.as_str()) {
            return Err(none().into());
        }
        let actor = Actor::Agent { agent: asker.agent, token: asker.token, user: asker.person };
        token::revoke(base, &asker.site, &actor, &id, why.reason()).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let site = caller.site()?;
    if caller.user().is_some() || named.is_some() {
        let agent = token::agent_of(&base.db, site, &id).await?.ok_or_else(none)?;
        let meant = named_agent(&state, &caller, named.as_deref().unwrap_or(agent.as_str()), Role::Operator).await?;
        if meant.id != agent {
            return Err(Error::new(Code::NotFound, format!("the agent `{}` has no token `{id}`", meant.slug)).into());
        }
    }
    token::revoke(base, site, &caller.actor()?, &id, why.reason()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many tokens ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct RevokedTokens {
    /// How many were alive.
    revoked: u64,
}

/// Revokes every token of an agent.
#[utoipa::path(delete, path = "/v1/agents/{agent}/tokens", tag = "tokens", params(("agent" = String, Path), Why),
    responses((status = 200, body = RevokedTokens)))]
pub(crate) async fn revoke_all(
    State(state): State<AppState>,
    caller: Caller,
    Path(named): Path<String>,
    Query(why): Query<Why>,
) -> Answer<Json<RevokedTokens>> {
    let agent = named_agent(&state, &caller, &named, Role::Admin).await?;
    let revoked = token::revoke_all(state.base(), caller.site()?, &caller.actor()?, &agent.id, why.reason()).await?;
    Ok(Json(RevokedTokens { revoked }))
}
