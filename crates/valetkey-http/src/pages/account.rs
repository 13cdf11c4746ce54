//! A signed-in person's own page: their connected accounts, which agents may use each, and the taking back.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use valetkey::{
    Code, Error, Result,
    clock::Timestamp,
    grant::{Effect, ForWhom},
    id::{ConnectionId, FamilyId, GrantId},
    mine::{self, Account, OwnAgent, Permission, Program},
    oauth::Scopes,
    principal::Delivery,
    site,
};

use super::{
    Deps,
    answer::{Forms, own_page, page, redirect},
    failed, minute,
};
use crate::{
    csrf,
    signed_in::{self, SignedForm, SignedIn},
};

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    sign_in: Option<String>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct Own {
    user: String,
    site: String,
    csrf: String,
    accounts: Vec<Shown>,
    programs: Vec<ShownProgram>,
    agents: Vec<OwnAgent>,
}

/// A program as the page tells of it.
struct ShownProgram {
    id: String,
    name: String,
    agent: String,
    scope: String,
    until: String,
}

/// An account as the page tells of it.
struct Shown {
    id: String,
    title: String,
    name: Option<String>,
    subject: Option<String>,
    state: &'static str,
    well: bool,
    since: String,
    grants: Vec<ShownGrant>,
}

/// A permission as the page tells of it.
struct ShownGrant {
    id: String,
    agent: String,
    off: bool,
    words: String,
}

#[derive(Template)]
#[template(path = "disconnect.html")]
struct Disconnect {
    action: String,
    csrf: String,
    title: String,
    subject: Option<String>,
    uses: usize,
}

#[derive(Template)]
#[template(path = "reconnect.html")]
struct Reconnect {
    action: String,
    csrf: String,
    title: String,
    subject: Option<String>,
    ends: Option<String>,
}

/// `GET /`
pub(super) async fn home(State(deps): State<Deps>, headers: HeaderMap) -> Response {
    let shown = async {
        match signed_in::current(&deps.outside, &headers).await? {
            Some(who) => own(&deps, &who).await,
            None => {
                let sign_in = signed_in::link(&deps.outside, None, "/", false).await?;
                Ok(page(StatusCode::OK, &Home { sign_in }, &Forms::None))
            }
        }
    };
    shown.await.unwrap_or_else(failed)
}

async fn own(deps: &Deps, who: &SignedIn) -> Result<Response> {
    let now = deps.outside.base.clock.now();
    let accounts = mine::accounts(&deps.outside, &who.session).await?;
    let own = Own {
        user: who.session.user.to_string(),
        site: site::require(&deps.outside.base.db, &who.session.site).await?.title,
        csrf: csrf::field(who),
        accounts: accounts.into_iter().map(|account| Shown::new(account, now)).collect(),
        programs: mine::programs(&deps.outside, &who.session).await?.into_iter().map(ShownProgram::new).collect(),
        agents: mine::agents(&deps.outside, &who.session).await?,
    };
    Ok(own_page(StatusCode::OK, &own))
}

impl Shown {
    fn new(account: Account, now: Timestamp) -> Self {
        let Account { connection, title, grants } = account;
        let (state, well) = match connection.display_status(now) {
            "active" => ("connected", true),
            // An access token that ended is renewed when it is needed.
            "expired" if connection.is_authenticated(now) => ("connected", true),
            "expiring" => ("connected, and about to end unless it is connected again", false),
            "expired" => ("ended by itself; connect it again", false),
            _ => ("must be connected again", false),
        };
        Self {
            id: connection.id.to_string(),
            title,
            name: (!connection.name.is_default()).then(|| connection.name.to_string()),
            subject: connection.subject_name.or(connection.subject),
            state,
            well,
            since: minute(connection.connected_at),
            grants: grants.into_iter().map(ShownGrant::new).collect(),
        }
    }
}

impl ShownGrant {
    fn new(permission: Permission) -> Self {
        let Permission { grant, agent } = permission;
        let (whom, ways) = (whom(&grant.for_whom), &grant.delivery);
        let mut words = match (grant.effect, ways.contains(&Delivery::Proxy), ways.contains(&Delivery::Reveal)) {
            (Effect::Deny, true, false) => format!("may not make calls with it {whom}"),
            (Effect::Deny, false, true) => format!("may not be shown its token {whom}"),
            (Effect::Deny, ..) => format!("may not use it {whom}"),
            (Effect::Allow | Effect::Ask, _, true) => format!("{whom}, and it may be shown the account's token"),
            (Effect::Allow | Effect::Ask, _, false) => format!("{whom}, without seeing the account's token"),
        };
        if grant.effect == Effect::Ask {
            words += "; it asks before each use";
        }
        if let Some(session) = &grant.session {
            words += &format!("; only in its session {session}");
        }
        if let Some(task) = &grant.task {
            words += &format!("; only for its task {task}");
        }
        if let Some(operations) = &grant.operations {
            let operations: Vec<_> = operations.patterns.iter().map(ToString::to_string).collect();
            words += &format!("; only {}", operations.join(", "));
        }
        if let Some(rate) = grant.rate {
            words += &format!("; at most {rate}");
        }
        if let Some(most) = grant.max_uses {
            words += &format!("; {} of {most} uses left", (most - grant.uses).max(0));
        }
        if let Some(until) = grant.expires_at {
            words += &format!("; until {}", minute(until));
        }
        Self { id: grant.id.to_string(), agent: agent.title, off: agent.disabled_at.is_some(), words }
    }
}

impl ShownProgram {
    fn new(program: Program) -> Self {
        let Program { consent, name, agent } = program;
        let scope = Scopes::of(&consent.ceiling).to_string();
        Self { id: consent.id.to_string(), name, agent, scope, until: minute(consent.expires_at) }
    }
}

/// `POST /account/programs/{consent}/end`
pub(super) async fn end_program(State(deps): State<Deps>, Path(consent): Path<String>, form: SignedForm) -> Response {
    let ended = async {
        let consent: FamilyId = consent.parse().map_err(|_| nothing_there())?;
        mine::end_program(&deps.outside, &form.signed_in.session, &consent).await?;
        redirect("/")
    };
    ended.await.unwrap_or_else(failed)
}

/// For whom a permission is, in words for the account's owner.
pub(super) fn whom(for_whom: &ForWhom) -> String {
    match for_whom {
        ForWhom::Owner => "for you".to_owned(),
        ForWhom::Unattended => "while nobody is there".to_owned(),
        ForWhom::Operators => "for everybody who may operate it".to_owned(),
        ForWhom::Anyone => "for anyone".to_owned(),
        ForWhom::People(people) => {
            let people: Vec<_> = people.iter().map(ToString::to_string).collect();
            format!("for {}", people.join(", "))
        }
    }
}

/// `POST /account/grants/{grant}/revoke`
pub(super) async fn take_back(State(deps): State<Deps>, Path(grant): Path<String>, form: SignedForm) -> Response {
    let taken = async {
        let grant: GrantId = grant.parse().map_err(|_| nothing_there())?;
        mine::take_back(&deps.outside, &form.signed_in.session, &grant).await?;
        redirect("/")
    };
    match taken.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(&deps.outside, &form.signed_in, error, "/").await,
    }
}

/// `GET /account/connections/{connection}/disconnect`
pub(super) async fn ask_disconnect(State(deps): State<Deps>, Path(connection): Path<String>, who: SignedIn) -> Response {
    let asked = async {
        who.session.require_fresh(deps.outside.base.clock.now())?;
        let accounts = mine::accounts(&deps.outside, &who.session).await?;
        let found = accounts.into_iter().find(|account| account.connection.id.as_str() == connection);
        let account = found.ok_or_else(nothing_there)?;
        let page = Disconnect {
            action: disconnect_path(&connection),
            csrf: csrf::field(&who),
            title: account.title,
            subject: account.connection.subject_name.or(account.connection.subject),
            uses: account.grants.len(),
        };
        Ok::<_, Error>(own_page(StatusCode::OK, &page))
    };
    match asked.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(&deps.outside, &who, error, &disconnect_path(&connection)).await,
    }
}

/// `POST /account/connections/{connection}/disconnect`
pub(super) async fn disconnect(State(deps): State<Deps>, Path(connection): Path<String>, form: SignedForm) -> Response {
    let ended = async {
        let id: ConnectionId = connection.parse().map_err(|_| nothing_there())?;
        mine::disconnect(&deps.outside, &form.signed_in.session, &id).await?;
        redirect("/")
    };
    match ended.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(&deps.outside, &form.signed_in, error, &disconnect_path(&connection)).await,
    }
}

/// `GET /account/connections/{connection}/reconnect`
///
/// The link in a warning leads here, so it works for as long as the account is there.
pub(super) async fn ask_reconnect(State(deps): State<Deps>, Path(connection): Path<String>, who: SignedIn) -> Response {
    let asked = async {
        let id: ConnectionId = connection.parse().map_err(|_| nothing_there())?;
        let (connection, title) = mine::connected(&deps.outside, &who.session, &id).await?;
        let page = Reconnect {
            action: reconnect_path(id.as_str()),
            csrf: csrf::field(&who),
            title,
            subject: connection.subject_name.clone().or_else(|| connection.subject.clone()),
            ends: connection.ends_at().map(minute),
        };
        Ok::<_, Error>(own_page(StatusCode::OK, &page))
    };
    asked.await.unwrap_or_else(failed)
}

/// `POST /account/connections/{connection}/reconnect`
pub(super) async fn reconnect(State(deps): State<Deps>, Path(connection): Path<String>, form: SignedForm) -> Response {
    let made = async {
        let id: ConnectionId = connection.parse().map_err(|_| nothing_there())?;
        let made = mine::reconnect(&deps.outside, &form.signed_in.session, &id).await?;
        redirect(&format!("/connect/{}", made.link.expose()))
    };
    made.await.unwrap_or_else(failed)
}

fn reconnect_path(connection: &str) -> String {
    format!("/account/connections/{connection}/reconnect")
}

fn disconnect_path(connection: &str) -> String {
    format!("/account/connections/{connection}/disconnect")
}

fn nothing_there() -> Error {
    Error::new(Code::NotFound, "there is nothing of yours by that name")
}
