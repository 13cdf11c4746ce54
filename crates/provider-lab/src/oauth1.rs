//! What the lab remembers of OAuth 1.0a (RFC 5849): temporary credentials, tokens, and the nonces that were used. No HTTP
//! here; the time is an argument, in milliseconds.

use axum::http::StatusCode;

use crate::{
    ACCESS_PREFIX, TEMPORARY_PREFIX, VERIFIER_PREFIX,
    records::{Capped, Records, RevokedToken},
    settings::{Client, Person},
    signature::Signed,
    tokens::Refusal,
    world::{fingerprint, random_text, same},
};

/// How many tokens and nonces are remembered.
const REMEMBERED: usize = 50_000;

/// A token and its secret.
pub(crate) struct Pair {
    pub(crate) token: String,
    pub(crate) secret: String,
}

impl Pair {
    fn new(prefix: &str) -> Result<Self, Refusal> {
        Ok(Self { token: format!("{prefix}{}", random_text()?), secret: format!("{prefix}{}", random_text()?) })
    }
}

/// Temporary credentials on their way.
#[derive(Clone)]
pub(crate) struct Temporary {
    pub(crate) client_id: String,
    secret: String,
    pub(crate) callback: String,
    expires_at: u64,
    /// Who approved, and the verifier they were given.
    approved: Option<(&'static Person, String)>,
    used: bool,
}

struct Token {
    client_id: String,
    secret: String,
    person: &'static Person,
    revoked: bool,
}

/// Who signed a request, and for whom.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) client: Client,
    pub(crate) person: &'static Person,
}

pub(crate) struct OAuth1 {
    temporary: Capped<String, Temporary>,
    tokens: Capped<String, Token>,
    nonces: Capped<String, ()>,
}

impl OAuth1 {
    pub(crate) fn new() -> Self {
        Self { temporary: Capped::new(REMEMBERED), tokens: Capped::new(REMEMBERED), nonces: Capped::new(REMEMBERED) }
    }

    /// Temporary credentials (section 2.1).
    pub(crate) fn begin(&mut self, client: &Client, signed: &Signed, now: u64) -> Result<Pair, Refusal> {
        self.check(client, signed, "")?;
        let callback = signed.find("oauth_callback").ok_or_else(|| Refusal::request("`oauth_callback` is missing"))?;
        if !client.accepts_redirect(callback) {
            return Err(Refusal::request("the app is not registered with this callback"));
        }
        let pair = Pair::new(TEMPORARY_PREFIX)?;
        let temporary = Temporary {
            client_id: client.client_id.clone(),
            secret: pair.secret.clone(),
            callback: callback.to_owned(),
            expires_at: now.saturating_add(client.settings.temporary_ttl.saturating_mul(1000)),
            approved: None,
            used: false,
        };
        self.temporary.insert(fingerprint(&pair.token), temporary);
        Ok(pair)
    }

    /// Temporary credentials that wait for a person.
    pub(crate) fn waiting(&self, token: &str, now: u64) -> Option<Temporary> {
        self.temporary
            .find(&fingerprint(token))
            .filter(|found| !found.used && found.approved.is_none() && now < found.expires_at)
            .cloned()
    }

    /// The person approves; the verifier with which the browser goes back (section 2.2).
    pub(crate) fn approve(&mut self, token: &str, person: &'static Person) -> Result<String, Refusal> {
        let verifier = format!("{VERIFIER_PREFIX}{}", random_text()?);
        let found = self.temporary.find_mut(&fingerprint(token)).ok_or_else(|| Refusal::request("the token is unknown"))?;
        found.approved = Some((person, verifier.clone()));
        Ok(verifier)
    }

    /// The person refuses: the temporary credentials are over.
    pub(crate) fn refuse(&mut self, token: &str) {
        if let Some(found) = self.temporary.find_mut(&fingerprint(token)) {
            found.used = true;
        }
    }

    /// Trades a verifier for a token, once (section 2.3).
    pub(crate) fn redeem(&mut self, client: &Client, signed: &Signed, now: u64) -> Result<(Pair, &'static Person), Refusal> {
        let key = fingerprint(signed.find("oauth_token").unwrap_or_default());
        let found = self.temporary.find(&key).cloned().filter(|found| found.client_id == client.client_id);
        let found = found.ok_or_else(|| refused("the token is unknown"))?;
        self.check(client, signed, &found.secret)?;
        if found.used || now >= found.expires_at {
            return Err(refused("the token was used or has expired"));
        }
        let verifier = signed.find("oauth_verifier").ok_or_else(|| Refusal::request("`oauth_verifier` is missing"))?;
        let Some((person, _)) = found.approved.filter(|(_, expected)| same(expected, verifier)) else {
            return Err(refused("the verifier is not the one of this token"));
        };
        if let Some(temporary) = self.temporary.find_mut(&key) {
            temporary.used = true;
        }
        let pair = Pair::new(ACCESS_PREFIX)?;
        let token = Token { client_id: client.client_id.clone(), secret: pair.secret.clone(), person, revoked: false };
        self.tokens.insert(fingerprint(&pair.token), token);
        Ok((pair, person))
    }

    /// Who signed a request with a token (section 3.2).
    pub(crate) fn signer(&mut self, client: &Client, signed: &Signed) -> Result<Signer, Refusal> {
        let key = fingerprint(signed.find("oauth_token").unwrap_or_default());
        let found = self.tokens.find(&key).filter(|token| token.client_id == client.client_id && !token.revoked);
        let (secret, person) =
            found.map(|token| (token.secret.clone(), token.person)).ok_or_else(|| refused("the token is unknown"))?;
        self.check(client, signed, &secret)?;
        Ok(Signer { client: client.clone(), person })
    }

    /// Ends a token.
    pub(crate) fn revoke(&mut self, token: &str, records: &mut Records) {
        let key = fingerprint(token);
        if let Some(found) = self.tokens.find_mut(&key) {
            found.revoked = true;
            records.revoke(RevokedToken { sha256: key, kind: "access_token", client_id: found.client_id.clone() });
        }
    }

    pub(crate) fn is_live(&self, token: &str) -> bool {
        self.tokens.find(&fingerprint(token)).is_some_and(|token| !token.revoked)
    }

    /// Version, time, nonce and signature. The lab's clock and the caller's may be years apart, so the time is not compared
    /// with anything: it and the nonce only have to be new together (section 3.3).
    fn check(&mut self, client: &Client, signed: &Signed, token_secret: &str) -> Result<(), Refusal> {
        if signed.find("oauth_version").is_some_and(|version| version != "1.0") {
            return Err(Refusal::request("`oauth_version` must be 1.0"));
        }
        let timestamp = signed.find("oauth_timestamp").filter(|text| text.parse::<u64>().is_ok_and(|seconds| seconds > 0));
        let timestamp = timestamp.ok_or_else(|| Refusal::request("`oauth_timestamp` is missing or no number"))?;
        let nonce = signed.find("oauth_nonce").ok_or_else(|| Refusal::request("`oauth_nonce` is missing"))?;
        if !signed.fits(client.client_secret.as_deref().unwrap_or_default(), token_secret) {
            return Err(refused("the signature is wrong"));
        }
        let seen = format!("{}\n{timestamp}\n{nonce}\n{}", client.client_id, signed.find("oauth_token").unwrap_or_default());
        if self.nonces.find(&seen).is_some() {
            return Err(refused("the nonce was used before"));
        }
        self.nonces.insert(seen, ());
        Ok(())
    }
}

/// 401, as section 3.2 asks for.
fn refused(why: &'static str) -> Refusal {
    Refusal { status: StatusCode::UNAUTHORIZED, error: "unauthorized".into(), description: why.into() }
}
