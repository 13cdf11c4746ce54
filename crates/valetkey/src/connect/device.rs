//! Signing in on another device (RFC 8628).
//!
//! 1. A session that was made for it asks the provider for two codes when the person approves ([`super::session::approve`]),
//!    or when somebody at a terminal begins it ([`begin`]). The device code is sealed in the flow, and so outlives a restart;
//!    the user code and the address are shown.
//! 2. The person signs in with the user code on a device of their own. The page and the command line warn of codes that came
//!    from somebody else: whoever approves such a code links their own account to another person (section 5.4).
//! 3. Meanwhile every replica looks for flows that are due ([`poll`]). One takes the question, by compare-and-set, and asks
//!    once, never sooner than the interval says: five seconds more after each `slow_down`, twice as long after an answer that
//!    cannot be understood (section 3.5).
//! 4. An answer that settles it takes the flow out, once, and goes the way of every other flow. What became of it stands in the
//!    session, where the page, the command line and the platform read it.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::{
    Binding, Ended, FLOW_LIFE, Fault,
    begin::Begun,
    callback,
    oauth2::{self, App, Asked, Codes, Ground},
    session, session_key,
    store::{self, Flow, Poll},
};
use crate::{
    base::Outside,
    clock::Timestamp,
    connection::Connected,
    error::{Code, Error, Result},
    id::{self, ConnectSessionId, SiteId},
    principal::Actor,
    provider::Definition,
    seal::Place,
    secret::{Secret, SecretMap},
};

/// How many flows one look takes up.
const AT_ONCE: i64 = 64;
/// How long nobody else asks for a flow, in case that whoever asks dies: longer than a request may take.
const TURN: Duration = Duration::from_secs(60);
/// What `slow_down` adds to the interval, in seconds (RFC 8628 section 3.5).
const SLOWER: i64 = 5;
/// The longest pause after answers that cannot be understood, in seconds.
const LONGEST_PAUSE: i64 = 60;

/// What the person needs.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The code to type in.
    pub user_code: Secret,
    /// Where.
    pub verification_uri: String,
    /// The same address with the code in it, where the provider gives one.
    pub verification_uri_complete: Option<Secret>,
    /// Until when.
    pub expires_at: Timestamp,
}

/// How a page about a sign-in on another device stands.
#[derive(Clone, Debug)]
pub enum Page {
    /// The person has not signed in yet.
    Waiting {
        /// The provider's name for people.
        title: String,
        /// To whom the account will be linked, in plain words.
        owner_words: String,
        /// What the person needs.
        shown: Shown,
    },
    /// The person signed in, and the rest is being done.
    Finishing {
        /// The provider's name for people.
        title: String,
    },
    /// It is over.
    Over(Box<Ended>),
}

/// Begins a session's sign-in without a page, for whoever sits at a terminal of this machine: they are shown the code. It works
/// only while no browser is bound to the link. Whether the caller may do that is checked before.
///
/// # Errors
/// `not_found` where the link was used or has expired; `forbidden` where a browser is bound to it; `invalid_request` where it is no
/// session for another device; and what the provider's answer gives.
pub async fn begin(outside: &Outside, site: &SiteId, actor: &Actor, session: &ConnectSessionId) -> Result<Shown> {
    let base = &outside.base;
    let found = store::session_by_id(&base.db, site, session).await?;
    let session = found.filter(|session| session.used_at.is_none() && session.expires_at > base.clock.now());
    let session = session.ok_or_else(session::gone)?;
    if !session.device {
        return Err(Error::new(Code::InvalidRequest, "this link is for a browser; make one for a sign-in on another device"));
    }
    session::still_may(outside, &session.site, &session.owner, &session.created_by).await?;
    let begun = Begun::prepare(outside, &session, actor).await?;
    let codes = oauth2::device_codes(&begun.ground(outside, &session)).await?;
    let unseen = Secret::new(id::random_text::<32>()?);
    let (flow, shown) = flow_of(outside, &session, &begun, &codes, &unseen, actor).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    if !store::use_unbound(&mut tx, &session, base.clock.now()).await? {
        return Err(session::other_browser());
    }
    store::insert_flow(&mut tx, &flow, &session::hash(&Secret::new(id::random_text::<32>()?))).await?;
    let event = session::event(&session, actor, "connect.approve");
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(shown)
}

/// The person approved on our page: asks for the codes, and binds what follows to this browser.
pub(super) async fn approved(
    outside: &Outside,
    session: &store::Session,
    begun: &Begun,
    visit: &Secret,
) -> Result<session::Started> {
    let base = &outside.base;
    let codes = oauth2::device_codes(&begun.ground(outside, session)).await?;
    let binding = Binding { key: session_key(&session.id), value: Secret::new(id::random_text::<32>()?) };
    let actor = session::person_or_maker(session);
    let (flow, _) = flow_of(outside, session, begun, &codes, &binding.value, &actor).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    let bound = session::hash(&binding.value);
    if !store::use_session(&mut tx, session, &session::hash(visit), Some(&bound), base.clock.now()).await? {
        return Err(session::gone());
    }
    store::insert_flow(&mut tx, &flow, &session::hash(&Secret::new(id::random_text::<32>()?))).await?;
    base.audit.record(&mut tx, session::event(session, &actor, "connect.approve")).await?;
    tx.commit().await?;
    let url = format!("{}/connect/device/{}/{}", outside.public_url.as_str().trim_end_matches('/'), session.site, session.id);
    Ok(session::Started { authorize_url: Secret::new(url), binding, max_age: FLOW_LIFE.as_secs() })
}

async fn flow_of(
    outside: &Outside,
    session: &store::Session,
    begun: &Begun,
    codes: &Codes,
    browser: &Secret,
    actor: &Actor,
) -> Result<(Flow, Shown)> {
    let base = &outside.base;
    let life = codes.life.min(FLOW_LIFE);
    let shown = Shown {
        user_code: codes.user_code.clone(),
        verification_uri: codes.verification_uri.clone(),
        verification_uri_complete: codes.verification_uri_complete.clone(),
        expires_at: codes.sent_at.plus(life),
    };
    let mut kept = begun.kept(session);
    kept.set_text("device_code", &codes.device_code);
    kept.set_text("user_code", &shown.user_code);
    kept.set_text("verification_uri", &Secret::new(shown.verification_uri.as_str()));
    if let Some(complete) = &shown.verification_uri_complete {
        kept.set_text("verification_uri_complete", complete);
    }
    let interval = Duration::from_secs(u64::try_from(codes.interval).unwrap_or(0));
    let poll = Poll { at: base.clock.now().plus(interval), interval: codes.interval, number: 0 };
    let flow = begun.flow(outside, session, &kept, browser, actor).await?;
    Ok((Flow { poll: Some(poll), expires_at: shown.expires_at, ..flow }, shown))
}

/// The page of a session whose person signs in on another device, for the browser that it is bound to.
///
/// # Errors
/// `not_found` for any other browser, and where there is no such session.
pub async fn page(outside: &Outside, site: &SiteId, session: &ConnectSessionId, binding: Option<&Secret>) -> Result<Page> {
    let base = &outside.base;
    let session = session::bound(outside, site, session, binding).await?;
    if let Some(flow) = store::flow_of_session(&base.db, site, &session.id).await?
        && flow.expires_at > base.clock.now()
    {
        let kept = open(outside, &flow).await?;
        let needed = |name: &str| kept.text(name).ok_or_else(|| Error::internal("a flow for another device without its codes"));
        let shown = Shown {
            user_code: needed("user_code")?,
            verification_uri: needed("verification_uri")?.expose().to_owned(),
            verification_uri_complete: kept.text("verification_uri_complete"),
            expires_at: flow.expires_at,
        };
        let view = session::describe(outside, &session, None).await?;
        return Ok(Page::Waiting { title: view.title, owner_words: view.owner_words, shown });
    }
    // The flow is taken out before what came of it is stored.
    let recently = session.used_at.is_some_and(|at| at.plus(FLOW_LIFE) > base.clock.now());
    if session.outcome.is_none() && recently {
        return Ok(Page::Finishing { title: outside.definition(&session.provider)?.title.clone() });
    }
    let ended = session::ended(outside, session).await?;
    Ok(Page::Over(Box::new(ended)))
}

/// Asks the providers of all flows that are due, each in a task of its own, which shutdown waits for. Every replica calls this
/// again and again; a flow is asked for by one of them at a time.
pub async fn poll(outside: &Outside, tasks: &TaskTracker) -> Result<Vec<JoinHandle<()>>> {
    let base = &outside.base;
    let mut begun = Vec::new();
    for flow in store::flows_due(&base.db, base.clock.now(), AT_ONCE).await? {
        let Some(poll) = flow.poll else { continue };
        let Some(number) = store::take_poll(&base.db, &flow, poll, base.clock.now().plus(TURN)).await? else { continue };
        let (outside, poll) = (outside.clone(), Poll { number, ..poll });
        begun.push(tasks.spawn(async move {
            if let Err(error) = ask(&outside, &flow, poll).await {
                tracing::warn!(flow.id = %flow.id, provider = %flow.provider, error = ?error, "a sign-in on another device could not be asked for; it is tried again");
            }
        }));
    }
    Ok(begun)
}

/// One question. An error is one of ours that may pass.
async fn ask(outside: &Outside, flow: &Flow, poll: Poll) -> Result<()> {
    let definition = match outside.definition(&flow.provider) {
        Ok(definition) => definition,
        Err(error) => return callback::forget(outside, flow, error.code()).await,
    };
    if flow.expires_at <= outside.base.clock.now() {
        return over(outside, &definition, flow, Err(Fault::expired())).await;
    }
    let prepared = match Prepared::of(outside, &definition, flow).await {
        Ok(prepared) => prepared,
        Err(error) if error.code() == Code::StorageFailed => return Err(error),
        Err(error) => return over(outside, &definition, flow, Err(Fault::from(error))).await,
    };
    let ground = prepared.ground(outside, &definition, flow);
    let longer = match oauth2::ask_device(&ground, &prepared.device_code).await {
        Asked::Pending => poll.interval,
        Asked::SlowDown => poll.interval.saturating_add(SLOWER),
        Asked::Later => poll.interval.saturating_mul(2).min(LONGEST_PAUSE.max(poll.interval)),
        Asked::Over(fault) => return over(outside, &definition, flow, Err(fault)).await,
        Asked::Done(outputs, sent_at) => {
            // From here on there are tokens. The flow is over for everybody else.
            let first = {
                let mut tx = outside.base.db.begin_bookkeeping().await?;
                let first = store::end_flow(&mut tx, flow).await?;
                tx.commit().await?;
                first
            };
            let slot = flow.slot();
            let obtained = oauth2::finish(&ground, &slot, *outputs, sent_at).await;
            if !first {
                let account = obtained.map_or_else(|fault| fault.issued, |obtained| Some(obtained.account));
                return callback::discard_late(outside, &definition, flow, account).await;
            }
            let stored = match obtained {
                Ok(obtained) => {
                    let client_id = prepared.app.client.id().map(str::to_owned);
                    callback::store_obtained(outside, &definition, flow, client_id, &prepared.fields, obtained).await
                }
                Err(fault) => Err(fault),
            };
            callback::conclude(outside, &definition, flow.clone(), stored).await;
            return Ok(());
        }
    };
    let pause = Duration::from_secs(u64::try_from(longer).unwrap_or(0));
    let at = outside.base.clock.now().plus(pause);
    store::set_poll(&outside.base.db, flow, Poll { at, interval: longer, ..poll }).await
}

/// Ends a flow that failed, if nobody else did.
async fn over(
    outside: &Outside,
    definition: &Arc<Definition>,
    flow: &Flow,
    failed: Result<(Connected, Vec<String>), Fault>,
) -> Result<()> {
    let mut tx = outside.base.db.begin_bookkeeping().await?;
    let first = store::end_flow(&mut tx, flow).await?;
    tx.commit().await?;
    if first {
        callback::conclude(outside, definition, flow.clone(), failed).await;
    }
    Ok(())
}

/// What a question needs.
struct Prepared {
    app: App,
    fields: SecretMap,
    device_code: Secret,
}

impl Prepared {
    async fn of(outside: &Outside, definition: &Definition, flow: &Flow) -> Result<Self> {
        let kept = open(outside, flow).await?;
        let device_code =
            kept.text("device_code").ok_or_else(|| Error::internal("a flow for another device without its code"))?;
        let fields = kept.expose().get("fields").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
        let config = flow.app_config.as_ref().ok_or_else(|| Error::internal("a flow for another device without an app"))?;
        let app = App::of_flow(outside, &flow.site, definition, config).await?;
        Ok(Self { app, fields: SecretMap::new(fields), device_code })
    }

    fn ground<'g>(&'g self, outside: &'g Outside, definition: &'g Arc<Definition>, flow: &'g Flow) -> Ground<'g> {
        Ground {
            outside,
            definition,
            app: Some(&self.app.values),
            client: &self.app.client,
            fields: &self.fields,
            scopes: &flow.scopes,
            redirect_uri: &flow.redirect_uri,
        }
    }
}

async fn open(outside: &Outside, flow: &Flow) -> Result<SecretMap> {
    let base = &outside.base;
    let owner = flow.owner.to_string();
    let place = Place::flow(&flow.site, &flow.provider, &owner, &flow.name, &flow.id);
    let bytes = base.ring.open(&base.db, &place, &flow.sealed).await?;
    SecretMap::from_json(&bytes).map_err(|_| Error::internal("a sealed flow holds no JSON object"))
}
