//! Sessions: a person in their own browser, signed in.
//!
//! People come from the platform; there are no passwords here.
//!
//! 1. The platform's page posts an assertion for `valetkey:signin` ([`sign_in`]). It must come from the site's page for signing
//!    in: by a page of their own somebody could sign a person's browser in as somebody else (login CSRF).
//! 2. The browser gets a fresh secret, of which only the hash is stored. Nothing that a browser brings along becomes a session.
//! 3. Each request asks anew ([`resolve`]): a session ends with its time, its person, its site and the key that vouched for it.
//! 4. What is dangerous asks for a proof of the last five minutes ([`Session::require_fresh`]). A fresh proof is a fresh
//!    session.
//!
//! Who proved the person is [`open`]'s caller to know: sign-in by an OpenID provider has its place there.

mod store;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use url::Url;

use crate::{
    audit::{Event, Outcome},
    base::{Base, Outside},
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{self, PlatformKeyId, SessionId, SiteId, UserId, sha256_hex},
    platform::{self, Proven, Purpose},
    principal::{Actor, Principal},
    secret::Secret,
    site,
};

/// How long a session lasts.
pub const LIFE: Duration = Duration::from_secs(8 * 60 * 60);
/// How long a proof is fresh enough for a dangerous act.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// The most sessions a person has at once; the oldest end.
const MOST: i64 = 20;

/// What a signed-in browser holds.
#[derive(Clone, Debug)]
pub struct SessionSecret(Secret);

impl SessionSecret {
    /// What a browser sent as its session; absent where it cannot be one.
    pub fn presented(text: Secret) -> Option<Self> {
        (text.expose().len() == 43).then_some(Self(text))
    }

    /// Opens the secret, for the cookie.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// A token for the forms of this session's pages: told from the secret, which no page shows.
    pub fn form_token(&self) -> Secret {
        Secret::new(sha256_hex(format!("valetkey session form\n{}", self.expose()).as_bytes()))
    }

    fn hash(&self) -> String {
        sha256_hex(self.expose().as_bytes())
    }
}

/// A person signed in, in one browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The site.
    pub site: SiteId,
    /// Its id, which is no secret.
    pub id: SessionId,
    /// The person.
    pub user: UserId,
    /// The platform key that vouched for them.
    pub platform_key: Option<PlatformKeyId>,
    /// Since when, which is when the person was proven.
    pub opened_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Session {
    /// Whether the person was proven lately enough for a dangerous act.
    pub fn fresh(&self, now: Timestamp) -> bool {
        now.since(self.opened_at) <= FRESH
    }

    /// Refuses a dangerous act where the proof is older.
    ///
    /// # Errors
    /// `fresh_proof_needed`.
    pub fn require_fresh(&self, now: Timestamp) -> Result<()> {
        if self.fresh(now) {
            return Ok(());
        }
        Err(Error::new(Code::FreshProofNeeded, "you signed in more than five minutes ago; sign in once more to do this"))
    }

    /// Who is acting in this session.
    pub fn principal(&self) -> Principal {
        Principal::person(self.site.clone(), self.user.clone())
    }

    /// The same, for rows and the audit.
    pub fn actor(&self) -> Actor {
        self.principal().actor()
    }
}

/// Opens a session for a person whom a platform key proved just now. What the browser holds is told this once.
///
/// # Errors
/// `forbidden` where the site or the person is disabled.
pub async fn open(base: &Base, site: &SiteId, user: &UserId, by: &PlatformKeyId) -> Result<(SessionSecret, Session)> {
    if site::is_disabled(&base.db, site).await? {
        return Err(Error::new(Code::Forbidden, "this site is disabled; nobody can sign in"));
    }
    if platform::person_is_disabled(&base.db, site, user).await? {
        return Err(Error::new(Code::Forbidden, "this person is disabled here; the platform lets them act again"));
    }
    let (now, secret) = (base.clock.now(), SessionSecret(Secret::new(id::random_text::<32>()?)));
    let session = Session {
        site: site.clone(),
        id: SessionId::new(),
        user: user.clone(),
        platform_key: Some(by.clone()),
        opened_at: now,
        expires_at: now.plus(LIFE),
    };
    let mut tx = base.db.begin_bookkeeping().await?;
    store::make_room(&mut tx, site, user, MOST - 1).await?;
    store::insert(&mut tx, &session, &secret.hash()).await?;
    let actor = Actor::Platform { key: by.clone(), user: Some(user.clone()) };
    base.audit.record(&mut tx, event(&session, &actor, "session.open")).await?;
    tx.commit().await?;
    Ok((secret, session))
}

/// Signs a browser in that brings an assertion, posted by the page at `origin` as the browser says (RFC 6454 section 7).
///
/// # Errors
/// `unauthenticated` for whatever is wrong with the assertion; `forbidden` where the page is not the site's page for signing
/// in, or the site or the person is disabled. What the platform really signed and is refused leaves a row in the audit.
pub async fn sign_in(outside: &Outside, origin: Option<&str>, assertion: &Secret) -> Result<(SessionSecret, Session)> {
    let base = &outside.base;
    let signed = platform::read(base, assertion).await?.check(outside).await?;
    let (site, key) = (signed.key().site.clone(), signed.key().id.clone());
    let accepted = async {
        check_origin(base, &site, origin).await?;
        signed.accept(base, Purpose::SignIn).await
    };
    let opened = match accepted.await {
        Ok(Proven { user, .. }) => open(base, &site, &user, &key).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &opened
        && matches!(error.code(), Code::Unauthenticated | Code::Forbidden)
    {
        let facts = json!({ "why": error.detail().unwrap_or(error.message()) });
        let denied =
            Event::new(&site, &Actor::Platform { key, user: None }, "session.open").outcome(Outcome::Denied).facts(facts);
        let mut tx = base.db.begin_bookkeeping().await?;
        base.audit.record(&mut tx, denied).await?;
        tx.commit().await?;
    }
    opened
}

/// Refuses an assertion that another page than the site's own for signing in posts. A browser says with every form from where
/// it comes; one that says nothing, or `null` as a framed page without an origin does, proves nothing.
async fn check_origin(base: &Base, site: &SiteId, origin: Option<&str>) -> Result<()> {
    let Some(url) = site::require(&base.db, site).await?.signin_url else {
        return Err(Error::new(
            Code::Forbidden,
            "nobody can sign in at this site; its operator sets the platform's page with `valetkey site set --signin-url`",
        ));
    };
    let known = Url::parse(&url).map_err(Error::internal)?.origin().ascii_serialization();
    if origin == Some(known.as_str()) {
        return Ok(());
    }
    Err(Error::new(
        Code::Forbidden,
        "the page that sent you here is not the one where this site's people sign in; start at your platform",
    )
    .with_detail("another origin"))
}

/// The session of a browser; absent where it ended, in whatever way.
pub async fn resolve(base: &Base, secret: &SessionSecret) -> Result<Option<Session>> {
    store::by_secret(&base.db, &secret.hash(), base.clock.now()).await
}

/// Ends a session: the person signs out. Doing it again changes nothing.
pub async fn close(base: &Base, session: &Session) -> Result<()> {
    let mut tx = base.db.begin_bookkeeping().await?;
    if store::delete(&mut tx, &session.site, &session.id).await? {
        base.audit.record(&mut tx, event(session, &session.actor(), "session.close")).await?;
    }
    tx.commit().await
}

/// Ends every session of a person. How many there were.
pub async fn close_all(base: &Base, site: &SiteId, actor: &Actor, user: &UserId) -> Result<u64> {
    let mut tx = base.db.begin_bookkeeping().await?;
    let closed = close_all_in(base, &mut tx, site, actor, user).await?;
    tx.commit().await?;
    Ok(closed)
}

/// The same in the transaction of whoever ends more than sessions.
pub async fn close_all_in(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, user: &UserId) -> Result<u64> {
    let closed = store::delete_of(tx, site, user).await?;
    if closed > 0 {
        let facts = json!({ "user": user, "sessions": closed });
        base.audit.record(tx, Event::new(site, actor, "session.close").facts(facts)).await?;
    }
    Ok(closed)
}

/// Records that a form was refused that came with somebody's session and not from our page.
pub async fn note_refusal(base: &Base, session: &Session, why: &str) -> Result<()> {
    let facts = json!({ "session": session.id, "why": why });
    let denied = Event::new(&session.site, &session.actor(), "session.form").outcome(Outcome::Denied).facts(facts);
    let mut tx = base.db.begin_bookkeeping().await?;
    base.audit.record(&mut tx, denied).await?;
    tx.commit().await
}

/// A person's sessions that have not reached their end, the newest first.
pub async fn of_person(base: &Base, site: &SiteId, user: &UserId) -> Result<Vec<Session>> {
    store::of_person(&base.db, site, user, base.clock.now()).await
}

/// Forgets sessions whose time is over. How many there were.
pub async fn sweep(db: &Db, now: Timestamp) -> Result<u64> {
    let mut tx = db.begin_bookkeeping().await?;
    let gone = store::sweep(&mut tx, now).await?;
    tx.commit().await?;
    Ok(gone)
}

fn event(session: &Session, actor: &Actor, action: &'static str) -> Event {
    Event::new(&session.site, actor, action).facts(json!({ "session": session.id, "user": session.user }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_holds_is_silent_and_the_token_of_its_forms_is_another_text() {
        let secret = SessionSecret::presented(Secret::new("c".repeat(43))).unwrap();
        assert!(!format!("{secret:?}").contains("ccc"));
        assert!(!secret.form_token().expose().contains("ccc"));
        assert!(SessionSecret::presented(Secret::new("c".repeat(42))).is_none());
    }

    #[test]
    fn a_proof_is_fresh_for_five_minutes() {
        let opened_at = Timestamp::from_unix_seconds(1_800_000_000);
        let session = Session {
            site: SiteId::default_site(),
            id: SessionId::new(),
            user: "alice".parse().unwrap(),
            platform_key: None,
            opened_at,
            expires_at: opened_at.plus(LIFE),
        };
        assert!(session.require_fresh(opened_at.plus(FRESH)).is_ok());
        let later = opened_at.plus(FRESH + Duration::from_secs(1));
        assert_eq!(session.require_fresh(later).unwrap_err().code(), Code::FreshProofNeeded);
    }
}
