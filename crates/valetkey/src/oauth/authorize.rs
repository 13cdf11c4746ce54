//! The authorization endpoint (RFC 6749 section 4.1): what a client asks for, what a person is told, and what comes of their
//! answer.
//!
//! 1. [`Server::asked`] reads the request. While it is not certain whose it is, whatever is wrong is told on a page of ours, and
//!    no browser is sent anywhere (section 4.1.2.1). The page asks this only of a person who is signed in.
//! 2. [`Server::consent`] says what the page shows. The person may choose less than what is asked for, never more.
//! 3. [`Server::approve`] records the consent with a code in one transaction, and gives the address to send the browser to;
//!    [`Server::refuse`] gives that of a refusal. Both carry `iss` (RFC 9207).

use std::{fmt, str::FromStr, time::Duration};

use serde_json::json;
use url::Url;

use super::{
    CODE_LIFE, Client, Fault, GrantType, Outcome, Params, Scopes, Server, Word, hash, page_error,
    store::{self, AuthCode},
};
use crate::{
    agent::{self, Agent, Role},
    audit::Event,
    error::{Code, Error, Result},
    id::{self, AgentId, ClientId, SiteId, UserId},
    principal::{Actor, Ceiling},
    secret::Secret,
    site,
    token::{Audience, family, family::NewFamily},
};

/// The longest `state`, in bytes.
const LONGEST_STATE: usize = 4_000;
/// An S256 challenge is the Base64 of 32 bytes.
const CHALLENGE_LENGTH: usize = 43;
/// The most agents that a page offers.
const MOST_AGENTS: u32 = 1_000;

/// A request that was understood.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose it is.
    pub client: Client,
    /// What is asked for.
    pub ceiling: Ceiling,
    /// Where the tokens will be taken.
    pub audience: Audience,
    /// Which agent it is about, by id or slug, where the request says so.
    pub agent: Option<String>,
    /// Where the browser goes afterwards.
    pub redirect_uri: String,
    sent_redirect: Option<String>,
    state: Option<String>,
    challenge: String,
}

/// Why a request leads to no page of consent.
#[derive(Debug)]
pub enum Misasked {
    /// It is told here: nobody knows whose request it is, or nobody vouches for whoever it would be told to.
    Here(Error),
    /// The client is told, by sending the browser to an address.
    There {
        /// The client's site: nobody's browser is sent there but of somebody who is signed in at it.
        site: SiteId,
        /// The address.
        address: String,
    },
}

impl Misasked {
    /// The site that the request is about, where it is certain whose it is.
    pub fn site(&self) -> Option<&SiteId> {
        match self {
            Self::Here(_) => None,
            Self::There { site, .. } => Some(site),
        }
    }

    /// The address to send the browser to, for somebody who is signed in at a site.
    ///
    /// # Errors
    /// What is told here; `not_found` where the client belongs to another site.
    pub fn address(self, site: &SiteId) -> Result<String> {
        match self {
            Self::Here(error) => Err(error),
            Self::There { site: own, address } => same_site(site, &own).map(|()| address),
        }
    }
}

impl From<Error> for Misasked {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

/// What the page of consent says.
#[derive(Clone, Debug)]
pub struct Consent {
    /// Who asks.
    pub client: Client,
    /// What the site is called.
    pub site_title: String,
    /// Who is asked.
    pub person: UserId,
    /// The agents that the person may let act, and that the request admits.
    pub agents: Vec<Agent>,
    /// What is asked for.
    pub scopes: Scopes,
    /// Where the tokens will be taken.
    pub resource: String,
    /// Where the browser goes afterwards: host and port.
    pub returns_to: Option<String>,
}

/// What a person chooses.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The agent that will act.
    pub agent: AgentId,
    /// What it may do at most.
    pub scopes: Scopes,
    /// For how long.
    pub life: Life,
}

/// How long a consent lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// One hour.
    Hour,
    /// One day.
    Day,
    /// Seven days.
    Week,
    /// Thirty days.
    #[default]
    Month,
    /// Ninety days.
    Quarter,
}

impl Life {
    /// All of them, the shortest first.
    pub const ALL: [Life; 5] = [Life::Hour, Life::Day, Life::Week, Life::Month, Life::Quarter];

    /// The word in the form.
    pub fn as_str(self) -> &'static str {
        match self {
            Life::Hour => "1h",
            Life::Day => "1d",
            Life::Week => "7d",
            Life::Month => "30d",
            Life::Quarter => "90d",
        }
    }

    fn duration(self) -> Duration {
        const HOUR: u64 = 3600;
        Duration::from_secs(match self {
            Life::Hour => HOUR,
            Life::Day => 24 * HOUR,
            Life::Week => 7 * 24 * HOUR,
            Life::Month => 30 * 24 * HOUR,
            Life::Quarter => 90 * 24 * HOUR,
        })
    }
}

impl fmt::Display for Life {
    /// As people read it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Life::Hour => "1 hour",
            Life::Day => "1 day",
            Life::Week => "7 days",
            Life::Month => "30 days",
            Life::Quarter => "90 days",
        })
    }
}

impl FromStr for Life {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|life| life.as_str() == text)
            .ok_or_else(|| Error::new(Code::InvalidRequest, "a consent lasts 1h, 1d, 7d, 30d or 90d"))
    }
}

impl Server {
    /// Reads an authorization request.
    pub async fn asked(&self, params: &Params) -> Result<Asked, Misasked> {
        let here = |text: &'static str| Misasked::Here(Error::new(Code::InvalidRequest, text));
        let id = params.get("client_id").and_then(|id| id.parse::<ClientId>().ok());
        let client = match id {
            Some(id) => store::live_client(&self.base().db, &id).await?,
            None => None,
        };
        let client =
            client.ok_or_else(|| here("the program that sent you here is not known; its developer registers it first"))?;
        let sent_redirect = params.get("redirect_uri");
        let redirect_uri = client
            .redirect(sent_redirect)
            .ok_or_else(|| here("the program that sent you here wants you to return to an address that is not one of its own"))?;
        let state = params.get("state").filter(|state| state.len() <= LONGEST_STATE);
        let fault = match self.rest(&client, params) {
            Ok((ceiling, audience, challenge)) => {
                return Ok(Asked {
                    ceiling,
                    audience,
                    agent: params.get("agent").map(str::to_owned),
                    sent_redirect: sent_redirect.map(str::to_owned),
                    state: state.map(str::to_owned),
                    challenge,
                    redirect_uri,
                    client,
                });
            }
            Err(fault) => fault,
        };
        match &fault {
            Fault::Refused { word, text, .. } if client.is_vouched_for() => {
                let answer = [("error", word.as_str()), ("error_description", &**text)];
                let address = self.back(&redirect_uri, state, &answer)?;
                Err(Misasked::There { site: client.site, address })
            }
            _ => Err(Misasked::Here(page_error(fault))),
        }
    }

    fn rest(&self, client: &Client, params: &Params) -> Outcome<(Ceiling, Audience, String)> {
        let refuse = |word, text: &'static str| Err(Fault::new(word, text));
        if !client.grant_types.contains(&GrantType::AuthorizationCode) {
            return refuse(Word::UnauthorizedClient, "this client may not use the authorization code");
        }
        if params.require("response_type")? != "code" {
            return refuse(Word::UnsupportedResponseType, "the only response type here is code");
        }
        if params.get("response_mode").is_some_and(|mode| mode != "query") {
            return refuse(Word::InvalidRequest, "the only response mode here is query");
        }
        if params.get("state").is_some_and(|state| state.len() > LONGEST_STATE) {
            return refuse(Word::InvalidRequest, "`state` is too long");
        }
        // Also of confidential clients: a code that is injected into another session is worth nothing (RFC 9700 section 2.1.1).
        let challenge = params.require("code_challenge")?;
        if params.get("code_challenge_method") != Some("S256") {
            return refuse(Word::InvalidRequest, "`code_challenge_method` is S256");
        }
        let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if challenge.len() != CHALLENGE_LENGTH || !challenge.bytes().all(url_safe) {
            return refuse(Word::InvalidRequest, "`code_challenge` is the URL-safe Base64 of a SHA-256, without padding");
        }
        let asked: Scopes = params.get("scope").unwrap_or_default().parse()?;
        let most = client.ceiling.clone().unwrap_or_default();
        asked.check_within(&most)?;
        let ceiling = asked.narrow(&most).ok_or_else(|| Fault::new(Word::InvalidScope, "these scopes leave nothing"))?;
        let audience = self.named_audience(params)?.unwrap_or(Audience::Api);
        Ok((ceiling, audience, challenge.to_owned()))
    }

    /// An address to send the browser back to, with `state` and `iss`.
    fn back(&self, redirect_uri: &str, state: Option<&str>, answer: &[(&str, &str)]) -> Result<String> {
        let mut url = Url::parse(redirect_uri).map_err(Error::internal)?;
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(answer);
            if let Some(state) = state {
                query.append_pair("state", state);
            }
            query.append_pair("iss", self.issuer());
        }
        Ok(url.into())
    }

    /// What the page says to a person who is signed in at a site.
    ///
    /// # Errors
    /// `not_found` where the client belongs to another site.
    pub async fn consent(&self, site: &SiteId, person: &UserId, asked: &Asked) -> Result<Consent> {
        same_site(site, &asked.client.site)?;
        let consent = self.describe(person, &asked.client, (&asked.ceiling, asked.audience, asked.agent.as_deref())).await?;
        Ok(Consent { returns_to: host_of(&asked.redirect_uri), ..consent })
    }

    pub(super) async fn describe(
        &self,
        person: &UserId,
        client: &Client,
        (ceiling, audience, agent): (&Ceiling, Audience, Option<&str>),
    ) -> Result<Consent> {
        Ok(Consent {
            site_title: site::require(&self.base().db, &client.site).await?.title,
            agents: self.agents(person, client, agent).await?,
            client: client.clone(),
            person: person.clone(),
            scopes: Scopes::of(ceiling),
            resource: self.resource(audience),
            returns_to: None,
        })
    }

    /// The agents that a person may let act for a client.
    async fn agents(&self, person: &UserId, client: &Client, named: Option<&str>) -> Result<Vec<Agent>> {
        let held = agent::held(&self.base().db, &client.site, person, Role::Operator, None, None, MOST_AGENTS).await?;
        let mut agents: Vec<Agent> = held.into_iter().map(|held| held.agent).collect();
        agents.retain(|agent| {
            agent.disabled_at.is_none()
                && client.agent.as_ref().is_none_or(|only| *only == agent.id)
                && named.is_none_or(|named| named == agent.id.as_str() || named == agent.slug)
        });
        Ok(agents)
    }

    /// The consent that a choice makes.
    pub(super) async fn chosen(
        &self,
        person: &UserId,
        client: &Client,
        (ceiling, audience, named): (&Ceiling, Audience, Option<&str>),
        choice: &Choice,
    ) -> Result<NewFamily> {
        let refuse = |text: &'static str| Err(Error::new(Code::InvalidRequest, text));
        let agents = self.agents(person, client, named).await?;
        if !agents.iter().any(|agent| agent.id == choice.agent) {
            return Err(Error::new(Code::Forbidden, "you may not let this agent act; its owner gives you a role on it"));
        }
        choice.scopes.check_within(ceiling).map_err(page_error)?;
        // What nobody ticked must not come back by a default.
        if !choice.scopes.names_delivery() {
            return refuse("choose at least one way in which it may use your accounts");
        }
        let targets = ceiling.providers.is_some() || ceiling.connections.is_some();
        if targets && !choice.scopes.names_target() {
            return refuse("choose at least one of what it asks to reach");
        }
        let Some(ceiling) = choice.scopes.narrow(ceiling) else { return refuse("this choice leaves nothing; say no instead") };
        Ok(NewFamily {
            agent: choice.agent.clone(),
            person: person.clone(),
            client: client.id.clone(),
            ceiling,
            audience,
            expires_at: self.now().plus(choice.life.duration()),
        })
    }

    /// The person consents: the address to send the browser to, with a code in it.
    ///
    /// # Errors
    /// `forbidden` where the person may not have the agent act; `invalid_request` where the choice leaves nothing.
    pub async fn approve(&self, site: &SiteId, person: &UserId, asked: &Asked, choice: &Choice) -> Result<Secret> {
        same_site(site, &asked.client.site)?;
        let (base, now) = (self.base(), self.now());
        let asked_for = (&asked.ceiling, asked.audience, asked.agent.as_deref());
        let new = self.chosen(person, &asked.client, asked_for, choice).await?;
        let text = Secret::new(id::random_text::<32>()?);
        let mut tx = base.db.begin().await?;
        if !store::hold_client(&mut tx, &asked.client, now).await? {
            return Err(Error::new(Code::NotFound, "the program that sent you here was revoked meanwhile"));
        }
        let family = family::open(base, &mut tx, site, &Actor::User(person.clone()), new).await?;
        let code = AuthCode {
            site: site.clone(),
            family: family.id,
            redirect_uri: asked.sent_redirect.clone(),
            challenge: asked.challenge.clone(),
            expires_at: now.plus(CODE_LIFE),
            used_at: None,
        };
        store::insert_code(&mut tx, &hash(&text), &code).await?;
        tx.commit().await?;
        self.back(&asked.redirect_uri, asked.state.as_deref(), &[("code", text.expose())]).map(Secret::new)
    }

    /// The person says no: the address to send the browser to.
    pub async fn refuse(&self, site: &SiteId, person: &UserId, asked: &Asked) -> Result<String> {
        same_site(site, &asked.client.site)?;
        let base = self.base();
        let event = Event::new(site, &Actor::User(person.clone()), "consent.refuse");
        let mut tx = base.db.begin_bookkeeping().await?;
        base.audit.record(&mut tx, event.facts(json!({ "client": asked.client.id, "device": false }))).await?;
        tx.commit().await?;
        self.back(&asked.redirect_uri, asked.state.as_deref(), &[("error", Word::AccessDenied.as_str())])
    }
}

fn same_site(site: &SiteId, own: &SiteId) -> Result<()> {
    if own == site {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, "the program that sent you here belongs to another site than the one you are signed in at"))
}

/// Host and port of an address, for people.
fn host_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}
