//! The form of a link whose account is made of entered values: what it asks for, and what becomes of an answer.
//!
//! 1. The page shows the connection's fields ([`inputs`]); what the link's maker gave is shown and cannot be changed.
//! 2. [`submit`] takes the answer of a browser that may give it, with the form token of our page. Values that
//!    cannot be what they must be are told at once and cost nothing.
//! 3. One attempt at a time, at most [`MOST_ATTEMPTS`] for a link: nobody guesses passwords here, and nobody locks an account
//!    out by a mistake that repeats itself. A failed attempt leaves the form, until the last one ends the link.
//! 4. What succeeds is stored in one transaction, which uses the session up. This runs in a task of its own: a browser that
//!    leaves cannot lose a session that was begun at the provider.

use std::time::Duration;

use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::{
    Ended, Fault, Outcome, attempts, callback, entered,
    entered::Entry,
    input, session,
    store::{Flow, Session},
};
use crate::{
    base::Outside,
    error::{Code, Error, Result},
    id::FlowId,
    provider::{Definition, FieldLevel, FieldType, Role},
    secret::{Secret, SecretMap},
};

/// How often a link's form may be answered with values that are tried with the provider.
pub const MOST_ATTEMPTS: i64 = 5;

/// How long an attempt may take before another one may begin: the process that made it may be dead. The look-ups, the login
/// and the questions after it have half a minute each.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(180);

/// One field of the form.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in the form.
    pub name: String,
    /// Its name for people.
    pub label: String,
    /// How it is shown.
    pub kind: FieldType,
    /// Whether it must be given.
    pub required: bool,
    /// Whether what is entered is never shown again.
    pub secret: bool,
    /// The values to choose from, of a `select`.
    pub options: Vec<String>,
    /// What is there to begin with; never a secret.
    pub value: String,
    /// Whether it was given with the link, and is not for the person to change.
    pub fixed: bool,
    /// Help for whoever enters it.
    pub help: Option<String>,
    /// An example.
    pub placeholder: Option<String>,
    /// What a browser may fill in: the value of `autocomplete`.
    pub autocomplete: &'static str,
}

/// The fields of a session's form, in the definition's order.
pub(super) fn inputs(definition: &Definition, session: &Session) -> Vec<Input> {
    let input = |field: &crate::provider::Field| {
        let given = session.fields.get(&field.name).and_then(Value::as_str);
        Input {
            name: field.name.clone(),
            label: field.label.clone(),
            kind: field.kind,
            required: field.required && field.default.is_none(),
            secret: field.secret,
            options: field.options.clone(),
            value: given.or(field.default.as_deref()).unwrap_or_default().to_owned(),
            fixed: given.is_some(),
            help: field.description.clone(),
            placeholder: field.placeholder.clone(),
            autocomplete: match field.role {
                Some(Role::Username) => "username",
                Some(Role::Password) => "current-password",
                _ => "off",
            },
        }
    };
    definition.fields_of(FieldLevel::Connection).map(input).collect()
}

/// What became of an answer.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// The session is over, one way or the other.
    Over(Ended),
    /// Nothing was stored, and the form can be answered again.
    Again {
        /// Why; for the person.
        why: Error,
        /// How many attempts are left.
        left: i64,
    },
}

/// The person answers the form.
///
/// # Errors
/// `not_found` (the link is over), `forbidden` (another browser, a form that is not ours, nobody said who is looking),
/// `conflict` where an attempt is under way.
pub async fn submit(
    outside: &Outside,
    tasks: &TaskTracker,
    link: &Secret,
    visit: Option<&Secret>,
    csrf: &Secret,
    given: SecretMap,
) -> Result<Submitted> {
    let (session, visit) = session::authorized(outside, link, visit, csrf).await?;
    let definition = outside.definition(&session.provider)?;
    if !definition.is_entered() {
        return Err(Error::new(Code::InvalidRequest, "this account is connected at its provider; open the link again"));
    }
    let db = &outside.base.db;
    let left = |attempts: i64| (MOST_ATTEMPTS - attempts).max(0);
    let mut all = given;
    // What came with the link counts, whatever the form says.
    all.expose_mut().extend(session.fields.clone());
    let fields = match input::accept_entered(outside, &definition, &all) {
        Ok(fields) => fields,
        Err(why) => return Ok(Submitted::Again { why, left: left(attempts::count(db, &session).await?) }),
    };
    let app = entered::app(outside, &session.site, &definition, &session.owner).await?;
    let now = outside.base.clock.now();
    let actor = session::person_or_maker(&session);
    let flow = Flow {
        sealed: Vec::new(),
        site: session.site.clone(),
        id: FlowId::new(),
        session: session.id.clone(),
        provider: session.provider.clone(),
        owner: session.owner.clone(),
        name: session.name.clone(),
        issuer: None,
        redirect_uri: String::new(),
        app_config: app.as_ref().map(|app| app.config.id.clone()),
        scopes: session.scopes.clone(),
        browser_hash: session::hash(visit),
        proven_user: session.proven_user.clone(),
        agent: session.agent.clone(),
        return_to: session.return_to.clone(),
        new_subject: session.new_subject,
        created_by: actor,
        created_at: now,
        expires_at: session.expires_at,
        poll: None,
    };
    let slot = flow.slot();
    let checked =
        Entry { outside, definition: &definition, app: app.as_ref(), fields: &fields, scopes: &session.scopes, slot: &slot };
    if let Err(why) = checked.check() {
        return Ok(Submitted::Again { why, left: left(attempts::count(db, &session).await?) });
    }
    if !attempts::begin(db, &session, &flow.browser_hash, MOST_ATTEMPTS, now, now.plus(LONGEST_ATTEMPT)).await? {
        return Err(Error::new(
            Code::Conflict,
            "an attempt with this link is under way, or it was the last; wait a moment, or ask for a new link",
        ));
    }
    let task = {
        let outside = outside.clone();
        tasks.spawn(async move {
            let entry = Entry {
                outside: &outside,
                definition: &definition,
                app: app.as_ref(),
                fields: &fields,
                scopes: &session.scopes,
                slot: &slot,
            };
            let client_id = entry.client().id().map(str::to_owned);
            let stored = match entry.obtain().await {
                Ok(obtained) => callback::store_obtained(&outside, &definition, &flow, client_id, &fields, obtained).await,
                Err(fault) => Err(fault),
            };
            match stored {
                Ok((connected, missing_scopes)) => {
                    Ok(Submitted::Over(callback::settled(&outside, &definition, flow, &connected, missing_scopes).await))
                }
                Err(fault) => failed(&outside, &definition, &session, flow, fault).await,
            }
        })
    };
    task.await.map_err(Error::internal)?
}

/// A failed attempt: recorded, and the last of its session where there is nothing to correct or no attempt left.
async fn failed(outside: &Outside, definition: &Definition, session: &Session, flow: Flow, fault: Fault) -> Result<Submitted> {
    let db = &outside.base.db;
    let left = (MOST_ATTEMPTS - attempts::count(db, session).await?).max(0);
    // To enter it again would change nothing.
    let is_final = left == 0 || matches!(fault.code, Code::NotFound | Code::Forbidden | Code::StorageFailed);
    if is_final {
        let now = outside.base.clock.now();
        let mut tx = db.begin_bookkeeping().await?;
        attempts::use_up(&mut tx, &flow, now).await?;
        tx.commit().await?;
        let code = fault.code;
        // One that was used up meanwhile has its outcome already.
        callback::note_failure(outside, definition, &flow, &fault, code != Code::NotFound).await;
        return Ok(Submitted::Over(callback::over(outside, flow, Outcome::Failed { code, word: None }, None).await));
    }
    callback::note_failure(outside, definition, &flow, &fault, false).await;
    let mut tx = db.begin_bookkeeping().await?;
    attempts::end(&mut tx, session).await?;
    tx.commit().await?;
    Ok(Submitted::Again { why: entered::told(definition, &fault), left })
}
