//! Connecting: from a link to a sealed connection (decisions 4 and 6).
//!
//! 1. A platform or an operator makes a *connect session* ([`session::create`]): a link that works once, for ten
//!    minutes, for one owner at one provider.
//! 2. A browser opens the link. For a user's account it must be proven to be that user's: the platform's page posts a
//!    single-use assertion ([`session::prove`]). The browser is bound to the session by a *visit* secret.
//! 3. The person reads who is linked to what, and approves ([`session::approve`]): the session is used up, a *flow*
//!    begins, and only now the browser gets the flow's own binding secret (R4). The flow records the hash of `state`,
//!    the sealed PKCE verifier, the expected issuer, the redirect URI and the app it was started with. With OAuth 1.0a the
//!    provider is asked for a temporary token first: its hash takes the place of that of `state`, its sealed secret that of
//!    the verifier.
//! 4. The browser comes back from the provider ([`callback()`]). One statement takes the flow out, if and only if state or
//!    temporary token, provider and browser are right; of two callbacks at once, one gets it. Then `iss` is compared, the code
//!    or verifier is exchanged, the account is asked who it is, and everything is stored in one transaction with its audit
//!    row. This runs in a task of its own: a browser that leaves cannot lose tokens that were issued.
//! 5. Where the person has to choose from the provider's lists (pages, properties), the browser is asked that first
//!    ([`choice`]). Nothing is chosen silently; what is open can be chosen later.
//! 6. The browser is sent on to the exact `return_to` of the session, if the site still lists it, or to a page that shows the
//!    outcome.
//!
//! With the device grant the browser does not come back: the person signs in elsewhere with a code, and one replica at a time
//! asks the provider for the outcome ([`device`]). Where each server is an instance, an app is registered there first.
//!
//! An account that is made of entered values needs no provider's page: the page of step 3 asks for them, and posting them does
//! step 4 at once ([`form::submit`], [`entered`]). The session is used up when the account is stored; until then a wrong password
//! can be corrected, a few times.
//!
//! An agent's own account comes with two grants for that agent, by the proxy only: one for when nobody is calling and one
//! for whoever may operate the agent. Both are ordinary grants, to be seen and revoked like any other.

pub mod again;
mod attempts;
mod begin;
mod callback;
pub mod choice;
pub mod device;
pub mod entered;
pub mod form;
mod input;
mod oauth1;
mod oauth2;
mod payload;
mod register;
pub mod session;
mod store;

use std::time::Duration;

use url::form_urlencoded;

pub use callback::{Answer, ERROR_WORDS, callback};

use crate::{
    base::Base,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{ConnectSessionId, ConnectionId, ProviderName, SiteId, sha256_hex},
    principal::Owner,
    provider::{Definition, step::StepFailure},
    secret::{Secret, SecretMap},
    site,
};

/// How long a link works.
const LINK_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a browser may stay at the provider: as long as the mission says.
const FLOW_LIFE: Duration = Duration::from_secs(15 * 60);
/// How long what became of a session can be asked for after it expired.
const OUTCOME_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A secret that binds something to one browser, and the key by which the browser's cookie of it is found again.
#[derive(Clone, Debug)]
pub struct Binding {
    /// 16 hex digits; part of the cookie's name, so that two flows in one browser do not disturb each other.
    pub key: String,
    /// The cookie's value.
    pub value: Secret,
}

/// What became of a connect session.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// There is a connection.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// The scopes that were asked for and not granted.
        missing_scopes: Vec<String>,
    },
    /// There is none, or the one that was there before stays as it was.
    Failed {
        /// Why, as a stable code.
        code: Code,
        /// The provider's word, if it is one of those that RFC 6749 section 4.1.2.1 names.
        word: Option<&'static str>,
    },
}

/// A connect flow that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The provider, where it is known.
    pub provider: Option<ProviderName>,
    /// What became of it.
    pub outcome: Outcome,
    /// Where the session wants the browser to return to, if the site still lists it.
    pub return_to: Option<String>,
    /// What the session's maker gave to be carried along.
    pub payload: Option<Secret>,
    /// The session, where the person has still to choose from the provider's lists before the browser goes on.
    pub choose: Option<(SiteId, ConnectSessionId)>,
}

impl Ended {
    /// A flow that ended before anything is known of it.
    fn unknown(code: Code) -> Self {
        Self { provider: None, outcome: Outcome::Failed { code, word: None }, return_to: None, payload: None, choose: None }
    }

    /// The session's `return_to` with the outcome after its own query: `auth_success=1` and `connection`, or
    /// `auth_error`, and `provider`. Nothing secret is among them.
    pub fn return_url(&self) -> Option<String> {
        let mut url = self.return_to.clone()?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        match &self.outcome {
            Outcome::Connected { .. } => query.append_pair("auth_success", "1"),
            Outcome::Failed { code, .. } => query.append_pair("auth_error", code.as_str()),
        };
        if let Some(provider) = &self.provider {
            query.append_pair("provider", provider.as_str());
        }
        if let Outcome::Connected { connection, .. } = &self.outcome {
            query.append_pair("connection", connection.as_str());
        }
        match url.contains('?') {
            false => url.push('?'),
            true if url.ends_with(['?', '&']) => {}
            true => url.push('&'),
        }
        url.push_str(&query.finish());
        Some(url)
    }
}

/// Where the browser returns to, if the site still lists it: a link outlives a change of the list, and whoever has an address
/// that was taken off it must not get browsers from us. Where the list cannot be read, the browser stays with us too.
async fn still_listed(db: &Db, site: &SiteId, return_to: Option<String>) -> Option<String> {
    let return_to = return_to?;
    match site::require(db, site).await {
        Ok(site) => site.return_to.contains(&return_to).then_some(return_to),
        Err(error) => {
            tracing::error!(site.id = %site, error = ?error, "a site's return URLs cannot be read");
            None
        }
    }
}

/// Whether this build can connect accounts of a provider; the error says what it waits for.
pub fn is_connectable(definition: &Definition) -> Result<()> {
    if definition.is_entered() {
        return Ok(());
    }
    oauth2::connectable(definition)
}

/// Deletes expired flows, and sessions that expired a day ago; until then what became of them can be asked for.
///
/// Says how many flows and sessions went.
pub async fn sweep(base: &Base) -> Result<(u64, u64)> {
    let now = base.clock.now();
    let mut tx = base.db.begin_bookkeeping().await?;
    let gone = store::sweep(&mut tx, now, now.minus(OUTCOME_LIFE)).await?;
    tx.commit().await?;
    Ok(gone)
}

/// Deletes the links and flows that are under way for an owner who is no more.
pub async fn forget(tx: &mut Tx, site: &SiteId, owner: &Owner) -> Result<()> {
    store::forget(tx, site, owner).await
}

/// The word of RFC 8628 section 3.5 for a device code whose time is over.
const EXPIRED_TOKEN: &str = "expired_token";

/// Why a flow failed: a code, one bounded word for the audit, and a text for the log without any upstream body.
#[derive(Debug)]
pub(crate) struct Fault {
    code: Code,
    word: String,
    detail: Option<String>,
    /// A text of ours for whoever entered the account, where one that follows from the code would say too little.
    said: Option<String>,
    /// An account that was drawn before the flow failed, and that nobody will hold.
    issued: Option<SecretMap>,
}

impl Fault {
    fn new(code: Code, word: impl Into<String>) -> Self {
        Self { code, word: word.into(), detail: None, said: None, issued: None }
    }

    /// A fault of this code for an error of ours; the word is the error's code.
    fn of(code: Code, error: &Error) -> Self {
        Self { detail: Some(format!("{error:?}")), ..Self::new(code, error.code().as_str()) }
    }

    /// A fault that the provider told us of. Its word is kept only if it looks like one: letters, or a short number.
    /// A provider that puts what we sent into its error must not bring it into the audit (promise 1).
    fn told(code: Code, failure: &StepFailure) -> Self {
        let word = failure.error.as_str();
        let letters = word.len() <= 48 && word.bytes().all(|b| b.is_ascii_lowercase() || b"_.-".contains(&b));
        let number = word.len() <= 6 && word.bytes().all(|b| b.is_ascii_digit());
        let word = if letters || number { word } else { "other" };
        Self { detail: Some(format!("the provider answered {}", failure.status.as_u16())), ..Self::new(code, word) }
    }

    /// The person did not sign in in time.
    fn expired() -> Self {
        Self::new(Code::InvalidState, EXPIRED_TOKEN)
    }

    /// What the session is told became of it: `expired`, or the code.
    fn outcome(&self) -> &'static str {
        if self.word == EXPIRED_TOKEN { "expired" } else { self.code.as_str() }
    }

    /// A fault whose text already says all that whoever entered the account needs.
    fn said(error: Error) -> Self {
        Self { said: Some(error.message().to_owned()), ..Self::from(error) }
    }

    fn with_issued(mut self, account: SecretMap) -> Self {
        self.issued = Some(account);
        self
    }
}

impl From<Error> for Fault {
    /// An error of the database or of ours.
    fn from(error: Error) -> Self {
        Self::of(error.code(), &error)
    }
}

/// The key of the cookie by which a browser sees what became of a session. The session's id is no secret; the cookie's value is.
pub fn session_key(session: &ConnectSessionId) -> String {
    cookie_key(&Secret::new(session.as_str()))
}

/// The key of a secret's cookie: the beginning of its hash.
fn cookie_key(secret: &Secret) -> String {
    let mut key = sha256_hex(secret.expose().as_bytes());
    key.truncate(16);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(return_to: &str, outcome: Outcome) -> Ended {
        let provider = Some("lab".parse().unwrap());
        Ended { provider, outcome, return_to: Some(return_to.to_owned()), payload: None, choose: None }
    }

    #[test]
    fn an_outcome_is_appended_to_the_query_that_return_to_has() {
        let denied = || Outcome::Failed { code: Code::OauthDenied, word: None };
        for (return_to, url) in [
            ("https://p.example/done", "https://p.example/done?auth_error=oauth_denied&provider=lab"),
            ("https://p.example/done?a=%2F", "https://p.example/done?a=%2F&auth_error=oauth_denied&provider=lab"),
            ("https://p.example/done?", "https://p.example/done?auth_error=oauth_denied&provider=lab"),
        ] {
            assert_eq!(ended(return_to, denied()).return_url().unwrap(), url);
        }
        let connection = ConnectionId::new();
        let connected = Outcome::Connected { connection: connection.clone(), missing_scopes: Vec::new() };
        assert_eq!(
            ended("https://p.example/", connected).return_url().unwrap(),
            format!("https://p.example/?auth_success=1&provider=lab&connection={connection}")
        );
    }
}
