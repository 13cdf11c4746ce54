//! Access evaluation as AuthZEN has it (OpenID Authorization API 1.0): a face on the one decision.
//!
//! | subject | action | resource | the question |
//! |---|---|---|---|
//! | `agent`, `session` | `use`, `proxy`, `reveal` | `connection` | may it use this connection? |
//! | `agent`, `session` | `use`, `proxy`, `reveal` | `provider` | has it a connection there that it may use and that can serve now? |
//!
//! An agent asks about itself, and is answered for the token that it shows, ceiling and all. A platform asks about an agent or
//! a session as if it held a fresh token. `decision` is true only where the use would be let pass without asking anybody, and a use
//! is left of the grant by which it would pass. Asking takes none.
//!
//! A question without one of its three parts is a 400, and in a batch a decision of `false` with what is wrong. So is one whose
//! parts are there and name nothing that is known here: whoever enforces gets its no, whatever it asks about.

use axum::extract::State;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use valetkey::{
    Code, Error, Result, agent,
    clock::Timestamp,
    decision::{self, Decision, Facts, Request, Who},
    deliver,
    id::{AgentId, ConnectionId, ProviderName},
    principal::Delivery,
    reach::{self, Subject},
};

use crate::{
    caller::Caller,
    error::{Answer, status},
    extract::{Body, Json, members},
    state::AppState,
};

/// The most questions in one batch.
const MOST: usize = 100;

/// Who would act, or what with (section 5): a subject is `agent` with the agent's id, or `session` with the name of a session.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Named {
    /// `agent` or `session`; of a resource `connection` or `provider`.
    #[serde(rename = "type")]
    kind: String,
    /// Its id.
    id: String,
    /// Of a subject: `person` whom the agent acts for (nobody when absent), `session`, `task`, and of a session its `agent`.
    #[serde(default, deserialize_with = "members")]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

/// What it would do (section 5).
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Action {
    /// `proxy`, `reveal`, or `use` for either.
    name: String,
    /// Of `proxy`: the operation's `method`, `path`, and `host` where it is not the connection's first.
    #[serde(default, deserialize_with = "members")]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

/// One question (section 6). Members that the standard leaves to others are not looked at.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Evaluation {
    /// Who would act.
    subject: Option<Named>,
    /// What it would do.
    action: Option<Action>,
    /// With what.
    resource: Option<Named>,
}

/// Several questions (section 7). What stands beside `evaluations` counts for each of them that does not say otherwise.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Evaluations {
    /// What counts for each.
    #[serde(flatten)]
    defaults: Evaluation,
    /// The questions. Without any it is a single one.
    #[serde(default)]
    evaluations: Vec<Evaluation>,
    /// How they are worked through.
    #[serde(default)]
    options: Options,
}

/// How questions are worked through.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Options {
    /// `execute_all` when absent; `deny_on_first_deny` and `permit_on_first_permit` stop behind the first answer of that kind.
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// When to stop.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Semantic {
    /// Not before the end.
    #[default]
    ExecuteAll,
    /// Behind the first no.
    DenyOnFirstDeny,
    /// Behind the first yes.
    PermitOnFirstPermit,
}

/// The answer to one question (section 6).
#[derive(Serialize, ToSchema)]
pub(crate) struct Decided {
    /// Whether it may be done now, without asking anybody.
    decision: bool,
    /// What made it so: `effect` (`allow`, `ask`, `deny`), `code` of the refusal, the `connection`; to those who manage grants
    /// also `grant` and `reasons`. `error` where the question could not be understood.
    #[schema(value_type = Object)]
    context: Value,
}

/// The answers to several questions, in their order.
#[derive(Serialize, ToSchema)]
pub(crate) struct AllDecided {
    /// The answers; fewer than questions where it stopped before the last.
    evaluations: Vec<Decided>,
}

/// May this agent or session use this connection, or has it a usable one at this provider?
#[utoipa::path(post, path = "/access/v1/evaluation", tag = "decisions",
    params(("Valet-Unattended" = Option<String>, Header, description = "`true`: an agent asks without its token's person.")),
    request_body = Evaluation, responses((status = 200, body = Decided)))]
pub(crate) async fn evaluation(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Body(question): Body<Evaluation>,
) -> Answer<Json<Decided>> {
    let asker = Asker::of(&caller, &headers)?;
    Ok(Json(asker.answer(&state, &question, &Evaluation::NONE).await?))
}

/// The same for several questions at once.
#[utoipa::path(post, path = "/access/v1/evaluations", tag = "decisions",
    params(("Valet-Unattended" = Option<String>, Header, description = "`true`: an agent asks without its token's person.")),
    request_body = Evaluations, responses((status = 200, body = AllDecided)))]
pub(crate) async fn evaluations(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Body(questions): Body<Evaluations>,
) -> Answer<Json<Value>> {
    let asker = Asker::of(&caller, &headers)?;
    let Evaluations { defaults, evaluations, options } = questions;
    let json = |value: serde_json::Result<Value>| value.map_err(Error::internal);
    if evaluations.is_empty() {
        return Ok(Json(json(serde_json::to_value(asker.answer(&state, &defaults, &Evaluation::NONE).await?))?));
    }
    if evaluations.len() > MOST {
        return Err(Error::new(Code::InvalidRequest, format!("evaluations: at most {MOST} at once")).into());
    }
    let mut answers = Vec::with_capacity(evaluations.len());
    for question in &evaluations {
        let answer = match asker.answer(&state, question, &defaults).await {
            Ok(answer) => answer,
            Err(error) if error.code() == Code::InvalidRequest => Decided::misunderstood(&error),
            // Who asks is nobody, or something is broken here: that is no answer to any of them.
            Err(error) => return Err(error.into()),
        };
        let stops = match options.evaluations_semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !answer.decision,
            Semantic::PermitOnFirstPermit => answer.decision,
        };
        answers.push(answer);
        if stops {
            break;
        }
    }
    Ok(Json(json(serde_json::to_value(AllDecided { evaluations: answers }))?))
}

/// Where the endpoints are (section 9).
#[utoipa::path(get, path = "/.well-known/authzen-configuration", tag = "decisions", responses((status = 200, body = Object)))]
pub(crate) async fn configuration(State(state): State<AppState>) -> Json<Value> {
    let here = state.outside().public_url.as_str().trim_end_matches('/').to_owned();
    Json(json!({
        "policy_decision_point": here,
        "access_evaluation_endpoint": format!("{here}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{here}/access/v1/evaluations"),
    }))
}

impl Evaluation {
    const NONE: Self = Self { subject: None, action: None, resource: None };
}

impl Decided {
    fn misunderstood(error: &Error) -> Self {
        let error = json!({ "status": status(error.code()).as_u16(), "message": error.message() });
        Self { decision: false, context: json!({ "error": error }) }
    }
}

/// Who asks.
struct Asker<'a> {
    caller: &'a Caller,
    /// The token, where an agent asks.
    token: Option<deliver::Caller>,
}

/// What is asked.
struct Asked {
    what: What,
    deliveries: &'static [Delivery],
    operation: Option<Operation>,
}

/// What a question is about.
enum What {
    Connection(ConnectionId),
    Provider(ProviderName),
}

/// What is said of a subject.
struct Claim<'q> {
    agent: Option<&'q str>,
    session: Option<&'q str>,
    task: Option<&'q str>,
    person: Option<&'q str>,
}

impl<'q> Claim<'q> {
    fn of(subject: &'q Named) -> Result<Self> {
        let property = |name| text(&subject.properties, name);
        let id = Some(subject.id.as_str());
        let (agent, session) = match subject.kind.as_str() {
            "agent" => (id, property("session")?),
            "session" => (property("agent")?, id),
            _ => return Err(invalid("subject.type: it is `agent` or `session`")),
        };
        Ok(Self { agent, session, task: property("task")?, person: property("person")? })
    }

    fn who(&self, agent: AgentId) -> Result<Who> {
        Ok(Who {
            agent,
            person: self.person.map(str::parse).transpose()?,
            session: self.session.map(str::parse).transpose()?,
            task: self.task.map(str::parse).transpose()?,
        })
    }
}

impl<'a> Asker<'a> {
    fn of(caller: &'a Caller, headers: &HeaderMap) -> Result<Self> {
        let token = match caller {
            Caller::Agent { .. } => Some(super::deliver::agent(caller, headers)?),
            Caller::Operator { .. } | Caller::Platform { .. } => None,
        };
        Ok(Self { caller, token })
    }

    /// Errors: `invalid_request` where a part is missing; `unauthenticated` where an agent asks whose token is dead.
    async fn answer(&self, state: &AppState, question: &Evaluation, defaults: &Evaluation) -> Result<Decided> {
        let parts = || -> Result<_> {
            let subject = needed(&question.subject, &defaults.subject, "subject")?;
            let action = needed(&question.action, &defaults.action, "action")?;
            Ok((subject, action, needed(&question.resource, &defaults.resource, "resource")?))
        };
        let odd = [Code::InvalidRequest, Code::NotFound, Code::Ambiguous];
        let (error, is_missing) = match parts() {
            Err(error) => (error, true),
            Ok((subject, action, resource)) => match self.decided(state, subject, action, resource).await {
                Err(error) if odd.contains(&error.code()) => (error, false),
                decided => return decided,
            },
        };
        self.must_be_alive(state).await?;
        if is_missing { Err(error) } else { Ok(Decided::misunderstood(&error)) }
    }

    /// An agent whose token is dead is told nothing, not even what is wrong with its question.
    async fn must_be_alive(&self, state: &AppState) -> Result<()> {
        let Some(token) = &self.token else { return Ok(()) };
        let facts = state.authority().holder(&token.token).await?.ok_or_else(decision::unauthenticated)?;
        decision::calling(&facts, token.unattended, &token.chain, state.base().clock.now()).map(|_| ())
    }

    async fn decided(&self, state: &AppState, subject: &Named, action: &Action, resource: &Named) -> Result<Decided> {
        let deliveries: &'static [Delivery] = match action.name.as_str() {
            "use" => &[Delivery::Proxy, Delivery::Reveal],
            "proxy" => &[Delivery::Proxy],
            "reveal" => &[Delivery::Reveal],
            _ => return Err(invalid("action.name: it is `use`, `proxy` or `reveal`")),
        };
        let what = match resource.kind.as_str() {
            "connection" => What::Connection(resource.id.parse()?),
            "provider" => What::Provider(resource.id.parse()?),
            _ => return Err(invalid("resource.type: it is `connection` or `provider`")),
        };
        let operation = operation(action)?;
        if operation.is_some() && (deliveries != [Delivery::Proxy] || matches!(what, What::Provider(_))) {
            return Err(invalid("action.properties: an operation is asked about with the action `proxy` on a connection"));
        }
        let question = Asked { what, deliveries, operation };
        let claim = Claim::of(subject)?;
        match &self.token {
            Some(token) => {
                let told = self.ask(state, &Subject::Token(token.clone()), &question, &claim).await?;
                if let Some(told) = told {
                    return Ok(told);
                }
                // Nothing was decided on.
                self.must_be_alive(state).await?;
                Ok(self.nobody())
            }
            None => self.ask_about(state, &question, &claim).await,
        }
    }

    /// Asks about an agent by its id or its slug. By its id nothing has to be looked up first.
    async fn ask_about(&self, state: &AppState, question: &Asked, claim: &Claim<'_>) -> Result<Decided> {
        let named = claim.agent.ok_or_else(|| invalid("subject.properties.agent: it says whose session it is"))?;
        let site = self.caller.site()?;
        let mut who = claim.who(named.parse()?)?;
        if let Some(told) = self.ask(state, &Subject::Agent(site.clone(), who.clone()), question, claim).await? {
            return Ok(told);
        }
        match agent::find(&state.base().db, site, named).await {
            Ok(found) if found.id != who.agent => who.agent = found.id,
            Ok(_) => return Ok(self.nobody()),
            Err(error) if error.code() == Code::NotFound => return Ok(self.nobody()),
            Err(error) => return Err(error),
        }
        let told = self.ask(state, &Subject::Agent(site.clone(), who), question, claim).await?;
        Ok(told.unwrap_or_else(|| self.nobody()))
    }

    /// The answer; nothing where there is nothing to decide on.
    async fn ask(&self, state: &AppState, subject: &Subject, question: &Asked, claim: &Claim<'_>) -> Result<Option<Decided>> {
        let may_ask = |facts: &Facts| self.may_ask(facts, claim, state.base().clock.now());
        match &question.what {
            What::Connection(id) => {
                let Some(facts) = subject.facts(state.authority(), id).await? else { return Ok(None) };
                if !may_ask(&facts)? {
                    return Ok(Some(self.nobody()));
                }
                Ok(Some(self.on_connection(state, subject, &facts, question).await?))
            }
            What::Provider(provider) => {
                let (outside, authority, limits) = (state.outside(), state.authority(), state.deliverer().limits());
                let found = reach::at_provider(outside, authority, limits, subject, provider, question.deliveries, may_ask).await;
                match found {
                    Ok(found) => Ok(found.map(|(id, decision)| self.told(&decision, Some(&id)))),
                    // There are too many to tell: whoever asked hears that, and not that there is nothing.
                    Err(error) if error.code() == Code::Ambiguous => Ok(Some(Decided::misunderstood(&error))),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Whether whoever asks may be told of these facts. A platform hears of connections that it reaches. An agent asks about
    /// itself and its own work: what it says of that must be what its token says.
    ///
    /// Errors: `unauthenticated` where an agent asks whose token is dead: it is told nothing, also not about itself.
    fn may_ask(&self, facts: &Facts, claim: &Claim<'_>, now: Timestamp) -> Result<bool> {
        let Some(token) = &self.token else {
            // Of what is not there it hears as of what it does not reach.
            let connection = facts.connection.as_ref().map(|connection| &connection.stored.connection);
            return Ok(connection.is_some_and(|connection| self.caller.reaches(&connection.owner)));
        };
        decision::calling(facts, token.unattended, &token.chain, now)?;
        let acts_for = facts.person.as_ref().filter(|_| !token.unattended).map(|person| person.id.as_str());
        Ok(claim.agent.is_none_or(|agent| facts.agent.id.as_str() == agent)
            && claim.session.is_none_or(|session| facts.session.as_ref().is_some_and(|own| own.as_str() == session))
            && claim.task.is_none_or(|task| facts.task.as_ref().is_some_and(|own| own.as_str() == task))
            && claim.person.is_none_or(|person| acts_for == Some(person)))
    }

    /// The decision in the way that goes furthest.
    async fn on_connection(&self, state: &AppState, subject: &Subject, facts: &Facts, question: &Asked) -> Result<Decided> {
        let connection = facts.connection.as_ref().map(|facts| &facts.stored.connection);
        let first = connection.and_then(|connection| connection.hosts.first()).map(String::as_str).unwrap_or_default();
        let call = question.operation.as_ref();
        let operation = call.map(|call| (&call.method, call.host.as_deref().unwrap_or(first), call.path.as_bytes()));
        let now = state.base().clock.now();
        let limits = state.deliverer().limits();
        let mut decisions = Vec::with_capacity(question.deliveries.len());
        for delivery in question.deliveries {
            let request = Request { delivery: *delivery, operation, unattended: subject.is_unattended() };
            decisions.push(deliver::evaluate(state.outside(), limits, facts, &request, now).await?);
        }
        // Of two denials the one that says that a grant has no use left says more than that there is none for the other way.
        let best = decisions.into_iter().min_by_key(|decision| (decision.effect, !decision.is_spent()));
        let told = |decision: Decision| self.told(&decision, connection.map(|connection| &connection.id));
        Ok(best.map_or_else(|| self.nobody(), told))
    }

    /// A decision as it is told. An agent hears what a use would tell it, and no more.
    fn told(&self, decision: &Decision, connection: Option<&ConnectionId>) -> Decided {
        let mut context = json!({ "effect": decision.effect });
        if !decision.denied() {
            context["connection"] = json!(connection);
        }
        if let Some(code) = decision.code {
            context["code"] = json!(code.as_str());
        }
        match &self.token {
            Some(_) if !decision.allowed() => context["message"] = json!(decision.error().message()),
            Some(_) => {}
            None => {
                context["grant"] = json!(decision.grant);
                context["reasons"] = json!(decision.reasons);
            }
        }
        Decided { decision: decision.allowed(), context }
    }

    /// The one answer where there is nothing to decide on, whatever of it is missing.
    fn nobody(&self) -> Decided {
        let code = Code::NotFound.as_str();
        Decided {
            decision: false,
            context: json!({ "effect": "deny", "code": code, "message": "there is nothing that may be used" }),
        }
    }
}

/// A call as it would be sent.
struct Operation {
    method: http::Method,
    host: Option<String>,
    path: String,
}

fn operation(action: &Action) -> Result<Option<Operation>> {
    let part = |name| text(&action.properties, name);
    match (part("method")?, part("host")?, part("path")?) {
        (None, None, None) => Ok(None),
        (Some(method), host, Some(path)) => {
            let method = method.parse().map_err(|_| invalid("action.properties.method: it is a method such as GET"))?;
            Ok(Some(Operation { method, host: host.map(str::to_ascii_lowercase), path: path.to_owned() }))
        }
        _ => Err(invalid("action.properties: an operation is a `method` and a `path`, and perhaps a `host`")),
    }
}

fn needed<'q, T>(own: &'q Option<T>, default: &'q Option<T>, what: &str) -> Result<&'q T> {
    own.as_ref().or(default.as_ref()).ok_or_else(|| Error::new(Code::InvalidRequest, format!("{what}: it is missing")))
}

/// A property that is a text; nothing where it is not there. One of another kind must not pass for one that is not there.
fn text<'q>(properties: &'q Map<String, Value>, name: &str) -> Result<Option<&'q str>> {
    match properties.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::new(Code::InvalidRequest, format!("properties.{name}: it is a text"))),
    }
}

fn invalid(text: &'static str) -> Error {
    Error::new(Code::InvalidRequest, text)
}
