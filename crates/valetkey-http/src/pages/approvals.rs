//! What waits for a signed-in person's word: calls that a grant asks about, and what agents ask to be granted.
//!
//! To look needs a session; a no needs one too; a yes needs a fresh proof, for it lets an agent act.

use std::{collections::BTreeSet, time::Duration};

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use valetkey::{
    Code, Error, Result,
    approval::{self, Status},
    clock::Timestamp,
    grant::{Effect, ForWhom},
    id::{ApprovalId, ConnectionId, ProposalId, ProviderName},
    mine,
    principal::Delivery,
    proposal::{self, Terms},
};

use super::{
    Deps,
    account::whom,
    answer::{own_page, redirect},
    failed,
    form::Fields,
    minute,
};
use crate::{
    csrf,
    signed_in::{self, SignedForm, SignedIn},
};

/// How long what is granted here lasts, in days, where the person says nothing else.
const USUAL_DAYS: u64 = 30;
/// Among how many days a person chooses.
const DAYS: [u64; 4] = [1, 7, USUAL_DAYS, 90];

#[derive(Template)]
#[template(path = "approvals.html")]
struct Waiting {
    approvals: Vec<Line>,
    proposals: Vec<Line>,
}

/// A question in the list.
struct Line {
    id: String,
    agent: String,
    what: String,
    until: String,
}

/// `GET /approvals`
pub(super) async fn list(State(deps): State<Deps>, who: SignedIn) -> Response {
    let shown = async {
        let questions = mine::questions(&deps.outside, &who.session).await?;
        let waiting = Waiting {
            approvals: questions.approvals.iter().map(|held| Line::of_call(&deps, held)).collect(),
            proposals: questions.proposals.iter().map(|asked| Line::of_proposal(&deps, asked)).collect(),
        };
        Ok::<_, Error>(own_page(StatusCode::OK, &waiting))
    };
    shown.await.unwrap_or_else(failed)
}

impl Line {
    fn of_call(deps: &Deps, held: &approval::Approval) -> Self {
        let call = &held.summary;
        let what = match call.delivery {
            Delivery::Proxy => format!("{} {}{}", call.method, call.host, call.path),
            Delivery::Reveal => format!("to be handed the token of your account at {}", title(deps, &held.provider)),
        };
        Self { id: held.id.to_string(), agent: held.agent_title.clone(), what, until: minute(held.expires_at) }
    }

    fn of_proposal(deps: &Deps, asked: &proposal::Proposal) -> Self {
        Self {
            id: asked.id.to_string(),
            agent: asked.agent_title.clone(),
            what: title(deps, &asked.provider),
            until: minute(asked.expires_at),
        }
    }
}

#[derive(Template)]
#[template(path = "approval.html")]
struct Call {
    action: String,
    csrf: String,
    agent: String,
    title: String,
    account: Option<String>,
    held: approval::Approval,
    is_reveal: bool,
    /// For whom the agent acts, where that is somebody else than who looks.
    person: Option<String>,
    /// Whether it waits for an answer.
    open: bool,
    status: &'static str,
    until: String,
}

/// `GET /approvals/{id}`
pub(super) async fn show(State(deps): State<Deps>, Path(id): Path<String>, who: SignedIn) -> Response {
    let shown = async {
        let held = mine::held(&deps.outside, &who.session, &call_id(&id)?).await?;
        let status = held.status(deps.outside.base.clock.now());
        let call = Call {
            action: call_path(&id),
            csrf: csrf::field(&who),
            agent: held.agent_title.clone(),
            title: title(&deps, &held.provider),
            account: held.account.clone(),
            is_reveal: held.summary.delivery == Delivery::Reveal,
            person: held.person.as_ref().filter(|person| **person != who.session.user).map(ToString::to_string),
            open: status == Status::Pending,
            status: status.as_str(),
            until: minute(held.expires_at),
            held,
        };
        Ok::<_, Error>(own_page(StatusCode::OK, &call))
    };
    shown.await.unwrap_or_else(failed)
}

/// `POST /approvals/{id}`
pub(super) async fn answer(State(deps): State<Deps>, Path(id): Path<String>, form: SignedForm) -> Response {
    let answered = async {
        let (session, held) = (&form.signed_in.session, call_id(&id)?);
        match said(&form.fields)? {
            Said::Yes => mine::approve(&deps.outside, session, &held).await?,
            Said::No => mine::refuse(&deps.outside, session, &held, text(&form.fields, "reason")?).await?,
            Said::Connect => return Err(undecided()),
        };
        redirect(&call_path(&id))
    };
    match answered.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(&deps.outside, &form.signed_in, error, &call_path(&id)).await,
    }
}

#[derive(Template)]
#[template(path = "proposal.html")]
struct Asked {
    action: String,
    csrf: String,
    agent: String,
    title: String,
    reason: String,
    /// The accounts that could be granted: id and what people call them.
    choices: Vec<(String, String)>,
    delivery: Vec<(String, &'static str)>,
    operations: Vec<String>,
    for_whom: String,
    /// Whether an account may be connected for it, where there is none.
    connectable: bool,
    /// Whether the person may narrow it to themselves.
    only_me: bool,
    /// For how long it may be granted.
    days: Vec<Days>,
    open: bool,
    status: &'static str,
    until: String,
}

/// A time among which a person chooses.
struct Days {
    days: u64,
    words: String,
    usual: bool,
}

impl Days {
    fn new(days: u64) -> Self {
        let words = if days == 1 { "1 day".to_owned() } else { format!("{days} days") };
        Self { days, words, usual: days == USUAL_DAYS }
    }
}

/// `GET /proposals/{id}`
pub(super) async fn show_proposal(State(deps): State<Deps>, Path(id): Path<String>, who: SignedIn) -> Response {
    let shown = async {
        let (asked, choices) = mine::asked(&deps.outside, &who.session, &wish_id(&id)?).await?;
        let status = asked.status(deps.outside.base.clock.now());
        let words = |delivery: &Delivery| match delivery {
            Delivery::Proxy => "make calls through the broker, without seeing the account's token",
            Delivery::Reveal => "be handed the account's token",
        };
        let page = Asked {
            action: wish_path(&id),
            csrf: csrf::field(&who),
            agent: asked.agent_title.clone(),
            title: title(&deps, &asked.provider),
            reason: asked.reason.clone(),
            choices: choices
                .into_iter()
                .map(|choice| (choice.id.to_string(), choice.subject_name.unwrap_or_else(|| choice.name.to_string())))
                .collect(),
            delivery: asked.wanted.delivery.iter().map(|delivery| (delivery.to_string(), words(delivery))).collect(),
            operations: asked.wanted.operations.iter().flatten().map(ToString::to_string).collect(),
            for_whom: whom(&asked.wanted.for_whom),
            connectable: asked.connection.is_none(),
            only_me: asked.wanted.for_whom != ForWhom::Owner,
            days: DAYS.iter().map(|days| Days::new(*days)).collect(),
            open: status == proposal::Status::Pending,
            status: status.as_str(),
            until: minute(asked.expires_at),
        };
        Ok::<_, Error>(own_page(StatusCode::OK, &page))
    };
    shown.await.unwrap_or_else(failed)
}

/// `POST /proposals/{id}`
pub(super) async fn answer_proposal(State(deps): State<Deps>, Path(id): Path<String>, form: SignedForm) -> Response {
    let answered = async {
        let (session, asked) = (&form.signed_in.session, wish_id(&id)?);
        match said(&form.fields)? {
            Said::Yes => {
                let terms = terms(&form.fields, deps.outside.base.clock.now())?;
                mine::accept(&deps.outside, session, &asked, terms).await?;
            }
            Said::No => {
                mine::decline(&deps.outside, session, &asked, text(&form.fields, "reason")?).await?;
            }
            Said::Connect => {
                let made = mine::connect(&deps.outside, session, &asked).await?;
                return redirect(made.url(&deps.outside).expose());
            }
        }
        redirect(&wish_path(&id))
    };
    match answered.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(&deps.outside, &form.signed_in, error, &wish_path(&id)).await,
    }
}

/// What the person made of what an agent asks for. Of boxes, those that are ticked count: none is no answer.
fn terms(fields: &Fields, now: Timestamp) -> Result<Terms> {
    let nothing = |text: &'static str| Error::new(Code::InvalidRequest, text);
    let delivery: BTreeSet<Delivery> = fields
        .all("delivery")
        .map(|word| match word.expose() {
            "proxy" => Ok(Delivery::Proxy),
            "reveal" => Ok(Delivery::Reveal),
            _ => Err(nothing("the form names a delivery that there is not")),
        })
        .collect::<Result<_>>()?;
    if delivery.is_empty() {
        return Err(nothing("say how the agent may use the account, or say no"));
    }
    let written = text(fields, "patterns")?.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut operations: Vec<String> = written.map(str::to_owned).collect();
    if operations.is_empty() {
        operations.extend(fields.all("operation").map(|one| one.expose().to_owned()));
    }
    // The page says when there were boxes for operations: with none ticked nothing is granted, and not everything.
    if operations.is_empty() && fields.one("operations")?.is_some() {
        return Err(nothing("tick at least one operation, or say no"));
    }
    let days = match text(fields, "days")? {
        "" => None,
        days => Some(
            days.parse::<u64>().ok().filter(|days| DAYS.contains(days)).ok_or_else(|| nothing("the form names no such time"))?,
        ),
    };
    let max_uses = match text(fields, "max_uses")? {
        "" => None,
        uses => Some(uses.parse().map_err(|_| nothing("how often: a number, or nothing"))?),
    };
    let connection: Option<ConnectionId> = match text(fields, "connection")? {
        "" => None,
        id => Some(id.parse()?),
    };
    Ok(Terms {
        connection,
        effect: if fields.one("ask")?.is_some() { Effect::Ask } else { Effect::Allow },
        delivery: Some(delivery),
        for_whom: (text(fields, "for_whom")? == "owner").then_some(ForWhom::Owner),
        operations: (!operations.is_empty()).then_some(operations),
        max_uses,
        expires_at: days.map(|days| now.plus(Duration::from_secs(days * 24 * 3600))),
        ..Terms::default()
    })
}

/// What a person says with a form.
enum Said {
    Yes,
    No,
    /// Not yet: an account first.
    Connect,
}

fn said(fields: &Fields) -> Result<Said> {
    match text(fields, "decision")? {
        "yes" => Ok(Said::Yes),
        "no" => Ok(Said::No),
        "connect" => Ok(Said::Connect),
        _ => Err(undecided()),
    }
}

fn undecided() -> Error {
    Error::new(Code::InvalidRequest, "a decision is yes or no")
}

/// A field that may be missing, as text.
fn text<'f>(fields: &'f Fields, name: &str) -> Result<&'f str> {
    Ok(fields.one(name)?.map_or("", |value| value.expose()))
}

fn title(deps: &Deps, provider: &ProviderName) -> String {
    let definition = deps.outside.catalogue.get(provider);
    definition.map_or_else(|| provider.to_string(), |definition| definition.title.clone())
}

fn call_path(id: &str) -> String {
    format!("/approvals/{id}")
}

fn wish_path(id: &str) -> String {
    format!("/proposals/{id}")
}

fn call_id(id: &str) -> Result<ApprovalId> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is no call that waits for you"))
}

fn wish_id(id: &str) -> Result<ProposalId> {
    id.parse().map_err(|_| Error::new(Code::NotFound, "there is nothing that an agent asks you for by that name"))
}
