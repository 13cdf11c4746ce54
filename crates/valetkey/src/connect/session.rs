//! Connect sessions: a link, the page behind it, and the person's word.
//!
//! A link alone proves nothing, and it can be phished both ways: somebody may be lured into linking their account to
//! another person, or another person's account to themselves. So the session is bound to one browser, a user's session
//! asks for proof that the browser is that user's, and the page says whose account will be linked to whom. Where the
//! operator lets links work without proof, the page says that too.

use serde_json::{Map, Value, json};
use url::Url;

use super::{
    Binding, Ended, FLOW_LIFE, LINK_LIFE, Outcome,
    begin::Begun,
    cookie_key, device, entered, form, input,
    oauth2::{self, App},
    payload,
    store::{self, Flow, Session},
};
use crate::{
    agent,
    app_config::callback,
    audit::{Event, Outcome as Audited},
    base::{Base, Outside},
    clock::Timestamp,
    connection,
    error::{Code, Error, Result},
    extend::held_elsewhere,
    id::{self, AccountName, AgentId, ConnectSessionId, ConnectionId, ProviderName, SiteId, UserId, sha256_hex},
    platform,
    principal::{Actor, Owner, Slot},
    provider, resource,
    secret::{Secret, SecretMap},
    session, site,
};

pub use payload::MAX_PAYLOAD;

/// What a new connect session is made of.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// At which provider.
    pub provider: ProviderName,
    /// Whose the account will be.
    pub owner: Owner,
    /// Which of the owner's accounts there.
    pub name: AccountName,
    /// The scopes to ask for; the definition's when absent. Those that bring a refresh token are always added.
    pub scopes: Option<Vec<String>>,
    /// Where the browser goes afterwards: exactly one of the site's list. A page of ours when absent.
    pub return_to: Option<String>,
    /// Carried along until the flow is over; at most [`MAX_PAYLOAD`] bytes. Sealed, for it is whatever its maker likes.
    pub payload: Option<Secret>,
    /// The agent on whose account this is asked, named on the page.
    pub agent: Option<AgentId>,
    /// Whether another upstream account may take the place of the one connected before.
    pub new_subject: bool,
    /// The person signs in on another device (RFC 8628). Always so where the provider has no other flow.
    pub device: bool,
    /// Values of the definition's connection fields, such as an instance. None of them is a secret.
    pub fields: Map<String, Value>,
}

impl NewSession {
    /// A session for an owner's default account, with everything else as usual.
    pub fn new(provider: ProviderName, owner: Owner) -> Self {
        Self {
            provider,
            owner,
            name: AccountName::default(),
            scopes: None,
            return_to: None,
            payload: None,
            agent: None,
            new_subject: false,
            device: false,
            fields: Map::new(),
        }
    }
}

/// A fresh session with its link, which is shown this once.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its id, which is no secret; assertions name it.
    pub id: ConnectSessionId,
    /// The secret part of the link.
    pub link: Secret,
    /// Until when the link works.
    pub expires_at: Timestamp,
}

impl Created {
    /// The link that a browser opens.
    pub fn url(&self, outside: &Outside) -> Secret {
        let base = outside.public_url.as_str().trim_end_matches('/');
        Secret::new(format!("{base}/connect/{}", self.link.expose()))
    }
}

/// Makes a connect session. Whether the caller may do that for this owner is checked before.
///
/// Errors: `invalid_request` (a `return_to` that is not listed, a scope, field or payload that is not one),
/// `not_found`, `engine_missing`, `not_configured`, `invalid_config`.
pub async fn create(outside: &Outside, site: &SiteId, actor: &Actor, new: NewSession) -> Result<Created> {
    let base = &outside.base;
    let definition = outside.definition(&new.provider)?;
    super::is_connectable(&definition)?;
    let its_site = site::require(&base.db, site).await?;
    still_may(outside, site, &new.owner, actor).await?;
    if let Some(return_to) = &new.return_to
        && !its_site.return_to.iter().any(|listed| listed == return_to)
    {
        return Err(Error::new(
            Code::InvalidRequest,
            "return_to is not among the site's return URLs; it is compared as a whole, and `valetkey site set` adds one",
        ));
    }
    payload::check(new.payload.as_ref())?;
    for id in [&new.agent, &owner_agent(&new.owner)].into_iter().flatten() {
        agent::require(&base.db, site, id).await?;
    }
    let slot = Slot { site: site.clone(), provider: definition.name.clone(), owner: new.owner.clone(), name: new.name.clone() };
    if let Some(held) = outside.extensions.held(&slot).await? {
        return Err(held_elsewhere(&slot, held.resolver.name()));
    }
    let scopes = input::wanted_scopes(&definition, new.scopes)?;
    let is_code = definition.oauth2.as_ref().is_none_or(|oauth2| oauth2.flows.contains(&provider::Flow::Code));
    let device = new.device || !(is_code || definition.is_entered());
    let fields = if definition.is_entered() && !device {
        entered::app(outside, site, &definition, &new.owner).await?;
        input::accept_given(outside, &definition, &new.fields)?
    } else {
        oauth2::connectable(&definition)?;
        let fields = input::accept_fields(outside, &definition, &new.fields)?;
        if !device {
            oauth2::check_redirect(&definition, &callback::of(outside, site, &definition.name).await?.url)?;
        }
        oauth2::sign_in_place(&definition, &SecretMap::new(fields.clone()), device)?;
        if definition.register.is_none() {
            App::choose(outside, site, &definition, &new.owner).await?;
        }
        fields
    };

    let now = base.clock.now();
    let link = Secret::new(id::random_text::<32>()?);
    let mut session = Session {
        site: site.clone(),
        id: ConnectSessionId::new(),
        provider: definition.name.clone(),
        owner: new.owner,
        name: new.name,
        scopes,
        fields,
        agent: new.agent,
        return_to: new.return_to,
        sealed: None,
        new_subject: new.new_subject,
        device,
        browser_hash: None,
        proven_user: None,
        created_by: actor.clone(),
        created_at: now,
        expires_at: now.plus(LINK_LIFE),
        used_at: None,
        outcome: None,
        connection: None,
    };
    if let Some(payload) = &new.payload {
        session.sealed = Some(payload::seal(base, &session, payload).await?);
    }
    let mut tx = base.db.begin_bookkeeping().await?;
    store::insert_session(&mut tx, &session, &hash(&link)).await?;
    base.audit.record(&mut tx, event(&session, actor, "connect.link")).await?;
    tx.commit().await?;
    Ok(Created { id: session.id, link, expires_at: session.expires_at })
}

/// How sure we are that the browser before us is the right person's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The account will belong to no person: whoever has the link may use it.
    NotNeeded,
    /// The platform said so for this browser.
    Proven,
    /// The operator lets links work without proof; nobody knows who is looking.
    Waived,
    /// It is needed and not there.
    Missing,
}

/// What the page behind a link says.
#[derive(Clone, Debug)]
pub struct View {
    /// The session.
    pub id: ConnectSessionId,
    /// The site.
    pub site: SiteId,
    /// What the site is called.
    pub site_title: String,
    /// The provider.
    pub provider: ProviderName,
    /// Its name for people.
    pub title: String,
    /// Whose the account will be.
    pub owner: Owner,
    /// The same in plain words.
    pub owner_words: String,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// What will be asked for.
    pub scopes: Vec<String>,
    /// The agent on whose account this is asked: its title.
    pub agent: Option<String>,
    /// Whether another upstream account may take the place of the one connected before.
    pub new_subject: bool,
    /// The person signs in on another device.
    pub device: bool,
    /// Where the browser will be sent: `https://host`. Empty where the account is entered on our page.
    pub authorize_origin: String,
    /// The host of that.
    pub host: String,
    /// What the person enters, where the account is made of that.
    pub inputs: Option<Vec<form::Input>>,
    /// Where a key or an app password is made at the provider.
    pub setup_url: Option<String>,
    /// Where the browser returns to afterwards.
    pub return_to: Option<String>,
    /// How sure we are who is looking.
    pub proof: Proof,
    /// Until when the link works.
    pub expires_at: Timestamp,
}

/// A look at the page by one browser.
#[derive(Clone, Debug)]
pub struct Visit {
    /// What the page says.
    pub view: View,
    /// The token that the page's form carries; absent while the proof is missing.
    pub csrf: Option<Secret>,
    /// A visit secret that the browser does not have yet.
    pub fresh: Option<Binding>,
}

/// The key of the visit cookie of a link.
pub fn visit_key(link: &Secret) -> String {
    cookie_key(link)
}

/// What the page behind a link says, for anybody who has the link. Binds nothing.
pub async fn view(outside: &Outside, link: &Secret) -> Result<View> {
    let session = open(outside, link).await?;
    describe(outside, &session, None).await
}

/// Opens the page in a browser, which sent `visit` if it was here before. Binds nothing: a chat that shows what is behind the
/// link must not shut out the person for whom it is. The browser that answers first is the one that goes on ([`approve`]).
///
/// Where proof is needed and this browser has none, the view says so, and there is nothing to answer.
pub async fn visit(outside: &Outside, link: &Secret, visit: Option<&Secret>) -> Result<Visit> {
    let session = open(outside, link).await?;
    let known = visit.filter(|visit| is_bound_to(&session, visit));
    let view = describe(outside, &session, known).await?;
    if view.proof == Proof::Missing {
        return Ok(Visit { view, csrf: None, fresh: None });
    }
    if session.browser_hash.is_some() && known.is_none() {
        return Err(other_browser());
    }
    if let Some(visit) = visit {
        return Ok(Visit { view, csrf: Some(csrf(&session, visit)), fresh: None });
    }
    let fresh = Secret::new(id::random_text::<32>()?);
    let csrf = csrf(&session, &fresh);
    Ok(Visit { view, csrf: Some(csrf), fresh: Some(Binding { key: visit_key(link), value: fresh }) })
}

/// Refuses an assertion that another page than the platform's posts: by a page of their own, somebody could have a person's
/// browser carry an assertion that is not about that person.
///
/// `origin` is what the browser says posted it (RFC 6454 section 7). Allowed are our own origin and those of the site's return
/// URLs; also `null`, which a platform's page says that sends no referrer; and any where the site has no return URL, for then
/// nothing tells where its platform is.
pub async fn check_origin(outside: &Outside, link: &Secret, origin: &str) -> Result<()> {
    let session = open(outside, link).await?;
    let returns = site::require(&outside.base.db, &session.site).await?.return_to;
    let mut known = returns.iter().filter_map(|url| Url::parse(url).ok()).chain([outside.public_url.clone()]);
    if origin == "null" || returns.is_empty() || known.any(|url| url.origin().ascii_serialization() == origin) {
        return Ok(());
    }
    deny(outside, &session, "connect.prove", "another origin").await?;
    Err(Error::new(
        Code::Forbidden,
        "the page that sent you here is not among the platform's; its operator adds its address to the site's return URLs",
    ))
}

/// Takes the platform's assertion for the browser that posts it, and binds the session to that browser.
///
/// The assertion must prove exactly the session's owner. It works once. A later proof for the same person takes the
/// session over to the browser that brings it.
pub async fn prove(outside: &Outside, link: &Secret, assertion: &Secret) -> Result<Binding> {
    let base = &outside.base;
    let session = open(outside, link).await?;
    let Owner::User(owner) = &session.owner else {
        return Err(Error::new(Code::InvalidRequest, "this link needs no assertion; open it as it is"));
    };
    let (key, user) = match platform::verify(outside, &session.site, &session.id, assertion).await {
        Ok(proven) => proven,
        Err(error) => {
            if error.code() == Code::Unauthenticated {
                deny(outside, &session, "connect.prove", error.detail().unwrap_or("not valid")).await?;
            }
            return Err(error);
        }
    };
    if &user != owner {
        let facts = json!({ "session": session.id, "why": "another person" });
        let actor = Actor::Platform { key, user: Some(user) };
        let denied = Event::new(&session.site, &actor, "connect.prove").outcome(Audited::Denied).facts(facts);
        let mut tx = base.db.begin_bookkeeping().await?;
        base.audit.record(&mut tx, denied).await?;
        tx.commit().await?;
        return Err(Error::new(
            Code::Forbidden,
            "this link is for another person than the one signed in at the platform; sign in there as the right one",
        ));
    }
    let actor = Actor::Platform { key, user: Some(user) };
    bind(base, link, &session, owner, &actor).await
}

/// Opens the page as [`visit`] does, in a browser where somebody is signed in: a session of the owner's at the same site proves
/// whose browser it is, and the link is bound to it (decisions 6).
pub async fn visit_signed_in(outside: &Outside, link: &Secret, known: Option<&Secret>, who: &session::Session) -> Result<Visit> {
    let found = open(outside, link).await?;
    let is_owner = found.site == who.site && found.owner.user() == Some(&who.user);
    let is_proven = known.is_some_and(|visit| is_bound_to(&found, visit)) && found.proven_user.as_ref() == Some(&who.user);
    if !is_owner || is_proven {
        return visit(outside, link, known).await;
    }
    let fresh = bind(&outside.base, link, &found, &who.user, &who.actor()).await?;
    let visit = visit(outside, link, Some(&fresh.value)).await?;
    Ok(Visit { fresh: Some(fresh), ..visit })
}

/// Binds a session to a browser that is proven to be its owner's.
async fn bind(base: &Base, link: &Secret, session: &Session, user: &UserId, actor: &Actor) -> Result<Binding> {
    let fresh = Secret::new(id::random_text::<32>()?);
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::bind_proven(&mut tx, session, &hash(&fresh), user, base.clock.now()).await? {
        return Err(gone());
    }
    base.audit.record(&mut tx, event(session, actor, "connect.prove")).await?;
    tx.commit().await?;
    Ok(Binding { key: visit_key(link), value: fresh })
}

/// A flow that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where to send the browser. Holds `state`, so it is a secret until the browser has it.
    pub authorize_url: Secret,
    /// What binds the flow to this browser (R3).
    pub binding: Binding,
    /// How long the binding counts, in seconds.
    pub max_age: u64,
}

/// The person approves: uses the session up and begins the flow. With a sign-in on another device the browser goes on to a
/// page of ours that shows the code.
pub async fn approve(outside: &Outside, link: &Secret, visit: Option<&Secret>, csrf: &Secret) -> Result<Started> {
    let base = &outside.base;
    let (session, visit) = authorized(outside, link, visit, csrf).await?;
    let actor = person_or_maker(&session);
    let begun = Begun::prepare(outside, &session, &actor).await?;
    if session.device {
        return device::approved(outside, &session, &begun, visit).await;
    }
    let leaving = begun.leave(outside, &session, &actor).await?;
    let binding = Binding { key: cookie_key(&leaving.key), value: Secret::new(id::random_text::<32>()?) };
    let flow = begun.flow(outside, &session, &leaving.kept, &binding.value, &actor).await?;
    let flow = Flow { expires_at: flow.created_at.plus(leaving.life), ..flow };
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::use_session(&mut tx, &session, &hash(visit), Some(&flow.browser_hash), base.clock.now()).await? {
        return Err(gone());
    }
    store::insert_flow(&mut tx, &flow, &leaving.hash).await?;
    base.audit.record(&mut tx, event(&session, &actor, "connect.approve")).await?;
    tx.commit().await?;
    Ok(Started { authorize_url: Secret::new(String::from(leaving.authorize_url)), binding, max_age: leaving.life.as_secs() })
}

/// The person says no: uses the session up; nothing else changes.
pub async fn cancel(outside: &Outside, link: &Secret, visit: Option<&Secret>, csrf: &Secret) -> Result<Ended> {
    let base = &outside.base;
    let (session, visit) = authorized(outside, link, visit, csrf).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::use_session(&mut tx, &session, &hash(visit), None, base.clock.now()).await? {
        return Err(gone());
    }
    store::set_outcome(&mut tx, &session.site, &session.id, Code::OauthDenied.as_str(), None).await?;
    let actor = person_or_maker(&session);
    let mut cancelled = event(&session, &actor, "connect.cancel");
    cancelled.facts["code"] = Code::OauthDenied.as_str().into();
    base.audit.record(&mut tx, cancelled).await?;
    tx.commit().await?;
    Ok(Ended {
        payload: payload::carried(base, &session).await,
        provider: Some(session.provider),
        outcome: Outcome::Failed { code: Code::OauthDenied, word: None },
        return_to: super::still_listed(&base.db, &session.site, session.return_to).await,
        choose: None,
    })
}

/// A session that was used up, for the browser that it is bound to since.
///
/// # Errors
/// `not_found` for every other browser: it may not even know that there is one.
pub(super) async fn bound(outside: &Outside, site: &SiteId, id: &ConnectSessionId, binding: Option<&Secret>) -> Result<Session> {
    let found = store::session_by_id(&outside.base.db, site, id).await?.filter(|session| session.used_at.is_some());
    match (found, binding) {
        (Some(session), Some(binding)) if is_bound_to(&session, binding) => Ok(session),
        _ => Err(gone()),
    }
}

/// What became of a session, for the page that its browser sees.
pub(super) async fn ended(outside: &Outside, session: Session) -> Result<Ended> {
    let mut choose = None;
    let outcome = match (session.outcome.as_deref(), &session.connection) {
        (Some("connected"), Some(id)) => {
            let connection = connection::require(&outside.base.db, &session.site, id).await?;
            let definition = outside.definition(&session.provider)?;
            if !resource::open_choices(&definition, &connection).is_empty() {
                choose = Some((session.site.clone(), session.id.clone()));
            }
            let missing_scopes = connection.missing_scopes(Some(&definition)).into_iter().cloned().collect();
            Outcome::Connected { connection: id.clone(), missing_scopes }
        }
        (told, _) => {
            let code = Code::ALL.iter().copied().find(|code| told == Some(code.as_str()));
            Outcome::Failed { code: code.unwrap_or(Code::InvalidState), word: None }
        }
    };
    let payload = payload::carried(&outside.base, &session).await;
    let return_to = super::still_listed(&outside.base.db, &session.site, session.return_to).await;
    Ok(Ended { provider: Some(session.provider), outcome, return_to, payload, choose })
}

/// Where a connect session stands, for whoever made it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The session.
    pub id: ConnectSessionId,
    /// At which provider.
    pub provider: ProviderName,
    /// Whose the account will be.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// `waiting`, `started`, `expired`, `connected`, or the code of what went wrong.
    pub state: String,
    /// The connection, once there is one.
    pub connection: Option<ConnectionId>,
    /// What its maker gave to be carried along.
    pub payload: Option<Secret>,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when its link works.
    pub expires_at: Timestamp,
}

/// Where a connect session stands. It is forgotten a day after its link expired.
///
/// # Errors
/// `unsealable` where what its maker gave cannot be opened.
pub async fn status(base: &Base, site: &SiteId, id: &ConnectSessionId) -> Result<Option<Status>> {
    let now = base.clock.now();
    let Some(session) = store::session_by_id(&base.db, site, id).await? else { return Ok(None) };
    let started = session.used_at.is_some_and(|at| at.plus(FLOW_LIFE) > now);
    let state = match &session.outcome {
        Some(outcome) => outcome.clone(),
        None if started => "started".to_owned(),
        None if session.used_at.is_some() || session.expires_at <= now => "expired".to_owned(),
        None => "waiting".to_owned(),
    };
    Ok(Some(Status {
        payload: payload::open(base, &session).await?,
        id: session.id,
        provider: session.provider,
        owner: session.owner,
        name: session.name,
        state,
        connection: session.connection,
        created_at: session.created_at,
        expires_at: session.expires_at,
    }))
}

/// The session of a link, if the link still works. Used, expired and unknown give one answer.
pub(super) async fn open(outside: &Outside, link: &Secret) -> Result<Session> {
    if link.expose().len() != 43 {
        return Err(gone());
    }
    let session = store::session_by_link(&outside.base.db, &hash(link)).await?.ok_or_else(gone)?;
    if session.used_at.is_some() || session.expires_at <= outside.base.clock.now() {
        return Err(gone());
    }
    still_may(outside, &session.site, &session.owner, &session.created_by).await?;
    Ok(session)
}

/// Whether an owner may still get accounts, by a link of this maker: read anew at each step, for a link outlives a decision.
///
/// # Errors
/// `forbidden` where the site or the person is disabled, or the maker is a platform whose key has ended.
pub(super) async fn still_may(outside: &Outside, site: &SiteId, owner: &Owner, maker: &Actor) -> Result<()> {
    let db = &outside.base.db;
    let refused = |why: &'static str| Err(Error::new(Code::Forbidden, why));
    if site::is_disabled(db, site).await? {
        return refused("this site is disabled; nothing can be connected to it");
    }
    let owner = match owner {
        Owner::User(user) => Some(user),
        Owner::Site | Owner::Agent(_) => None,
    };
    let maker_themselves = match maker {
        Actor::User(user) => Some(user),
        _ => None,
    };
    for user in owner.into_iter().chain(maker_themselves) {
        if platform::person_is_disabled(db, site, user).await? {
            return refused("this person is disabled here; the platform lets them act again");
        }
    }
    if let Actor::Platform { key, .. } = maker
        && !platform::is_live(db, site, key, outside.base.clock.now()).await?
    {
        return refused("the platform's key that made this link has ended; ask for a new link");
    }
    Ok(())
}

/// The same for a flow: it outlives its link, and whoever it is for or made it may have been stopped since.
pub(super) async fn flow_still_may(outside: &Outside, flow: &Flow) -> Result<()> {
    let session = store::session_by_id(&outside.base.db, &flow.site, &flow.session).await?.ok_or_else(gone)?;
    still_may(outside, &session.site, &session.owner, &session.created_by).await
}

/// The session, if this browser may decide about it and its form came from our page.
pub(super) async fn authorized<'v>(
    outside: &Outside,
    link: &Secret,
    visit: Option<&'v Secret>,
    given: &Secret,
) -> Result<(Session, &'v Secret)> {
    let session = open(outside, link).await?;
    // Nobody is bound yet where no proof is needed: then the form's token tells that this browser was shown the page.
    let Some(visit) = visit.filter(|visit| session.browser_hash.is_none() || is_bound_to(&session, visit)) else {
        deny(outside, &session, "connect.answer", "another browser").await?;
        return Err(other_browser());
    };
    if !csrf(&session, visit).matches(given) {
        deny(outside, &session, "connect.answer", "another form").await?;
        return Err(Error::new(Code::Forbidden, "this form did not come from our page; open the link again"));
    }
    if proof(outside, &session, Some(visit)).await? == Proof::Missing {
        deny(outside, &session, "connect.answer", "no proof").await?;
        return Err(Error::new(Code::Forbidden, "nobody has said who you are; start at the platform that sent you here"));
    }
    Ok((session, visit))
}

/// Records a refusal by somebody of whom nothing is known but that they have the link.
async fn deny(outside: &Outside, session: &Session, action: &'static str, why: &str) -> Result<()> {
    let facts = json!({ "session": session.id, "why": why });
    let mut denied = Event::new(&session.site, &Actor::System, action).outcome(Audited::Denied).facts(facts);
    "nobody".clone_into(&mut denied.actor);
    let mut tx = outside.base.db.begin_bookkeeping().await?;
    outside.base.audit.record(&mut tx, denied).await?;
    tx.commit().await
}

pub(super) async fn describe(outside: &Outside, session: &Session, visit: Option<&Secret>) -> Result<View> {
    let definition = outside.definition(&session.provider)?;
    let site = site::require(&outside.base.db, &session.site).await?;
    let url = match definition.is_entered() {
        true => None,
        false => {
            oauth2::connectable(&definition)?;
            Some(oauth2::sign_in_place(&definition, &SecretMap::new(session.fields.clone()), session.device)?)
        }
    };
    let agent = match &session.agent {
        Some(id) => Some(agent::require(&outside.base.db, &session.site, id).await?.title),
        None => None,
    };
    let owner_words = match &session.owner {
        Owner::Site => format!("the site {}", site.title),
        Owner::User(user) => format!("user {user}"),
        Owner::Agent(id) => format!("agent {}", agent::require(&outside.base.db, &session.site, id).await?.title),
    };
    Ok(View {
        id: session.id.clone(),
        site: session.site.clone(),
        site_title: site.title,
        provider: session.provider.clone(),
        title: definition.title.clone(),
        owner: session.owner.clone(),
        owner_words,
        name: session.name.clone(),
        scopes: session.scopes.clone(),
        agent,
        new_subject: session.new_subject,
        device: session.device,
        authorize_origin: url.as_ref().map(|url| url.origin().ascii_serialization()).unwrap_or_default(),
        host: url.as_ref().map(host_and_port).unwrap_or_default(),
        inputs: match definition.is_entered() {
            true => Some(form::inputs(&definition, session)),
            false => None,
        },
        setup_url: definition.setup_url.clone(),
        return_to: session.return_to.clone().filter(|url| site.return_to.contains(url)),
        proof: proof(outside, session, visit).await?,
        expires_at: session.expires_at,
    })
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Read anew each time: the operator's switch may have been turned off meanwhile.
async fn proof(outside: &Outside, session: &Session, visit: Option<&Secret>) -> Result<Proof> {
    let Owner::User(owner) = &session.owner else { return Ok(Proof::NotNeeded) };
    if visit.is_some_and(|visit| is_bound_to(session, visit)) && session.proven_user.as_ref() == Some(owner) {
        return Ok(Proof::Proven);
    }
    let waived = site::require(&outside.base.db, &session.site).await?.unproven_links;
    Ok(if waived { Proof::Waived } else { Proof::Missing })
}

fn is_bound_to(session: &Session, visit: &Secret) -> bool {
    session.browser_hash.as_ref().is_some_and(|bound| Secret::new(bound.as_str()).matches(&Secret::new(hash(visit))))
}

/// The form token: told from the visit secret, which only this browser and its cookie hold, and which no page shows.
fn csrf(session: &Session, visit: &Secret) -> Secret {
    Secret::new(sha256_hex(format!("valetkey connect form\n{}\n{}", session.id, visit.expose()).as_bytes()))
}

pub(super) fn hash(secret: &Secret) -> String {
    sha256_hex(secret.expose().as_bytes())
}

/// Who acts from here on: the proven person, else whoever made the link.
pub(super) fn person_or_maker(session: &Session) -> Actor {
    session.proven_user.clone().map_or_else(|| session.created_by.clone(), Actor::User)
}

fn owner_agent(owner: &Owner) -> Option<AgentId> {
    match owner {
        Owner::Agent(agent) => Some(agent.clone()),
        Owner::Site | Owner::User(_) => None,
    }
}

pub(super) fn event(session: &Session, actor: &Actor, action: &'static str) -> Event {
    let proven: Option<&UserId> = session.proven_user.as_ref();
    let facts = json!({
        "session": session.id, "provider": session.provider, "owner": session.owner, "name": session.name,
        "scopes": session.scopes, "for_agent": session.agent, "new_subject": session.new_subject, "proven": proven,
    });
    Event::new(&session.site, actor, action).facts(facts)
}

pub(super) fn gone() -> Error {
    Error::new(Code::NotFound, "this link was used, has expired or never was; ask for a new one")
}

pub(super) fn other_browser() -> Error {
    Error::new(
        Code::Forbidden,
        "this browser did not open the link, or another one went on with it; go on there, or ask for a new link",
    )
}
