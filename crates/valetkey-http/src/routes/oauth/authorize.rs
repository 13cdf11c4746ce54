//! The page of consent (RFC 6749 section 4.1.1): who asks for what, for which agent and until when.
//!
//! The form comes back to the very address that the client sent the browser to, so the request is read anew when it is answered, and
//! nothing of it is kept before. Nobody is sent anywhere before they are signed in (RFC 9700 section 4.11), and consenting asks for a
//! fresh proof.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{FromRequest, OriginalUri, Request, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use url::Url;
use valetkey::{
    Code, Error, Result,
    agent::Agent,
    base::Outside,
    id::{AgentId, ConnectionId},
    mine,
    oauth::{
        Params, Scope, Scopes,
        authorize::{Asked, Choice, Consent, Life, Misasked},
    },
    principal::Delivery,
    secret::Secret,
};

use crate::{
    csrf,
    pages::{
        answer::{own_page_to, redirect},
        failed,
        form::Fields,
    },
    signed_in::{self, SignedForm, SignedIn},
    state::AppState,
};

#[derive(Template)]
#[template(path = "oauth_consent.html")]
pub(super) struct Page {
    action: String,
    csrf: String,
    client: String,
    vouched_for: bool,
    person: String,
    site: String,
    resource: String,
    returns_to: Option<String>,
    agents: Vec<Named>,
    deliveries: Vec<Offer>,
    targets: Vec<Offer>,
    lives: Vec<Length>,
    /// The code that the person's device shows, where that is where they come from.
    pub(super) user_code: Option<String>,
}

/// An agent that can be chosen.
struct Named {
    id: String,
    words: String,
}

/// How long it may last.
struct Length {
    word: &'static str,
    words: String,
    usual: bool,
}

/// A box that can be ticked.
struct Offer {
    scope: String,
    words: String,
}

impl Page {
    pub(super) async fn new(outside: &Outside, consent: Consent, who: &SignedIn, action: String) -> Result<Self> {
        let connections = consent.scopes.iter().filter_map(|scope| match scope {
            Scope::Connection(id) => Some(id),
            Scope::Delivery(_) | Scope::Provider(_) => None,
        });
        let accounts = mine::names(outside, &who.session, &connections.collect()).await?;
        let offer = |scope: &Scope| Offer::new(scope, &accounts);
        let (deliveries, targets) = consent.scopes.iter().partition::<Vec<_>, _>(|scope| matches!(scope, Scope::Delivery(_)));
        let agent = |agent: Agent| {
            let words = if agent.title == agent.slug { agent.title } else { format!("{} ({})", agent.title, agent.slug) };
            Named { id: agent.id.to_string(), words }
        };
        let length = |life: Life| Length { word: life.as_str(), words: life.to_string(), usual: life == Life::default() };
        Ok(Self {
            action,
            csrf: csrf::field(who),
            vouched_for: consent.client.is_vouched_for(),
            client: consent.client.name,
            person: consent.person.to_string(),
            site: consent.site_title,
            resource: consent.resource,
            returns_to: consent.returns_to,
            agents: consent.agents.into_iter().map(agent).collect(),
            deliveries: deliveries.into_iter().map(offer).collect(),
            targets: targets.into_iter().map(offer).collect(),
            lives: Life::ALL.into_iter().map(length).collect(),
            user_code: None,
        })
    }
}

impl Offer {
    fn new(scope: &Scope, accounts: &BTreeMap<ConnectionId, String>) -> Self {
        let words = match scope {
            Scope::Delivery(Delivery::Proxy) => {
                "make calls with accounts that the agent was granted, without seeing their keys".to_owned()
            }
            Scope::Delivery(Delivery::Reveal) => "be handed the access tokens of accounts, where a grant says so".to_owned(),
            Scope::Provider(name) => format!("accounts at {name}"),
            Scope::Connection(id) => match accounts.get(id) {
                Some(name) => format!("your account {name}"),
                None => format!("the account {id}, which is not one of yours"),
            },
        };
        Self { scope: scope.to_string(), words }
    }
}

/// `GET /oauth/authorize`
pub(super) async fn show(State(state): State<AppState>, OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    let back = uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = match read(&state, uri.query()).await {
        Err(Misasked::Here(error)) => return failed(error),
        asked => asked,
    };
    let site = asked.as_ref().map_or_else(Misasked::site, |asked| Some(&asked.client.site));
    let who = match signed_in::current(state.outside(), &headers).await {
        Ok(Some(who)) => who,
        Ok(None) => return signed_in::ask(state.outside(), site, back).await,
        Err(error) => return failed(error),
    };
    let shown = async {
        let session = &who.session;
        let asked = match asked {
            Ok(asked) => asked,
            Err(misasked) => return redirect(&misasked.address(&session.site)?),
        };
        let consent = state.oauth().consent(&session.site, &session.user, &asked).await?;
        session.require_fresh(state.base().clock.now())?;
        let page = Page::new(state.outside(), consent, &who, back.to_owned()).await?;
        // The answer leads on to the client.
        Ok(own_page_to(StatusCode::OK, &page, origin_of(&asked.redirect_uri).into_iter().collect()))
    };
    match shown.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(state.outside(), &who, error, back).await,
    }
}

/// `POST /oauth/authorize`
pub(super) async fn answer(State(state): State<AppState>, OriginalUri(uri): OriginalUri, request: Request) -> Response {
    let SignedForm { signed_in: who, fields } = match SignedForm::from_request(request, &state).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let back = uri.path_and_query().map_or("/", |path| path.as_str());
    let answered = async {
        let session = &who.session;
        let asked = match read(&state, uri.query()).await {
            Ok(asked) => asked,
            Err(misasked) => return redirect(&misasked.address(&session.site)?),
        };
        if !says_yes(&fields)? {
            return redirect(&state.oauth().refuse(&session.site, &session.user, &asked).await?);
        }
        session.require_fresh(state.base().clock.now())?;
        let address = state.oauth().approve(&session.site, &session.user, &asked, &choice(&fields)?).await?;
        redirect(address.expose())
    };
    match answered.await {
        Ok(response) => response,
        Err(error) => signed_in::refused(state.outside(), &who, error, back).await,
    }
}

async fn read(state: &AppState, query: Option<&str>) -> Result<Asked, Misasked> {
    let params = Params::parse(query.unwrap_or_default().as_bytes()).map_err(|fault| {
        Error::new(Code::InvalidRequest, "the program that sent you here asks in a way that cannot be read").with_detail(fault)
    })?;
    state.oauth().asked(&params).await
}

/// What the person answered: `allow` or `deny`, and nothing else.
pub(super) fn says_yes(fields: &Fields) -> Result<bool> {
    match fields.one("decision")?.map(Secret::expose) {
        Some("allow") => Ok(true),
        Some("deny") => Ok(false),
        _ => Err(Error::new(Code::InvalidRequest, "the form is not complete; open the page again")),
    }
}

/// What the person chose.
pub(super) fn choice(fields: &Fields) -> Result<Choice> {
    let incomplete = || Error::new(Code::InvalidRequest, "the form is not complete; open the page again");
    let agent: AgentId = fields.one("agent")?.ok_or_else(incomplete)?.expose().parse()?;
    let scopes: Scopes =
        fields.all("scope").map(|scope| scope.expose().parse::<Scope>()).collect::<Result<_, _>>().map_err(|_| incomplete())?;
    let life = fields.one("life")?.ok_or_else(incomplete)?.expose().parse()?;
    Ok(Choice { agent, scopes, life })
}

fn origin_of(url: &str) -> Option<String> {
    Some(Url::parse(url).ok()?.origin().ascii_serialization())
}
