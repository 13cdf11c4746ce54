//! The token endpoint (RFC 6749 sections 4.1.3 and 6): a code, a device code or a refresh token for an access token.
//!
//! A refresh token is traded for its successor:
//!
//! 1. It is looked up by its hash; another client's, an unknown or an expired one gives one and the same answer.
//! 2. The successor and the access token are computed from the old token's text and a key of the site's. So whoever asks again
//!    within ten seconds, because the answer was lost, gets the same ones, and nothing has to be kept that could be read.
//! 3. In one transaction the consent is held, the old token marked as used, and the new ones are stored.
//! 4. A token that was used before, later than that or after its successor was used, is in two hands: the consent ends with all
//!    that came of it (RFC 9700 section 4.14.2).

use aws_lc_rs::{constant_time, digest, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    ACCESS_LIFE, Client, GrantType, Outcome, Params, REFRESH_GRACE, REFRESH_IDLE, Scopes, Server, Word, fault::Fault, hash,
    not_good, store,
};
use crate::{
    audit::{Event, Outcome as Audited},
    clock::Timestamp,
    db::Tx,
    decision::{self, Facts},
    error::{Error, Result},
    id,
    principal::{Actor, CallerChain, Ceiling},
    secret::Secret,
    token::{self, Issue, TokenHash, family, family::Family},
};

/// What every refresh token begins with.
pub const REFRESH_PREFIX: &str = "vkr_";
/// Which of a site's derived keys successors are computed with.
const REFRESH_LABEL: &str = "refresh token successor";
/// How a bearer is used (RFC 6750).
pub(super) const BEARER: &str = "Bearer";

/// What a token endpoint hands out.
#[derive(Debug)]
pub struct Issued {
    /// The access token.
    pub access_token: Secret,
    /// How it is used.
    pub token_type: &'static str,
    /// How many seconds it lives; absent while unknown.
    pub expires_in: Option<u64>,
    /// What brings the next one.
    pub refresh_token: Option<Secret>,
    /// What it may do at most.
    pub scope: Option<String>,
    /// What it is (RFC 8693); absent but for an exchange.
    pub issued_token_type: Option<&'static str>,
}

impl Server {
    /// Answers a request to the token endpoint, of a client that proved itself. An exchange is an act of the agent whose token is
    /// shown, so a chain of agents ends at it as at any other ([`crate::decision::calling`]).
    pub async fn token(&self, client: &Client, params: &Params, chain: &CallerChain) -> Outcome<Issued> {
        let grant: GrantType = params.require("grant_type")?.parse()?;
        if !client.grant_types.contains(&grant) {
            return Err(Fault::new(Word::UnauthorizedClient, "this client may not use that grant type"));
        }
        match grant {
            GrantType::AuthorizationCode => self.redeem(client, params).await,
            GrantType::RefreshToken => self.refresh(client, params).await,
            GrantType::DeviceCode => self.poll(client, params).await,
            GrantType::TokenExchange => self.exchange(client, params, chain).await,
        }
    }

    async fn redeem(&self, client: &Client, params: &Params) -> Outcome<Issued> {
        let presented = Secret::new(params.require("code")?);
        let verifier = params.require("code_verifier")?;
        let code_hash = hash(&presented);
        let db = &self.base().db;
        let code = store::code(db, &code_hash).await?.filter(|code| code.site == client.site).ok_or_else(not_good)?;
        let family = family::get(db, &code.site, &code.family).await?.ok_or_else(not_good)?;
        // Another client learns nothing, and changes nothing.
        if family.client != client.id {
            return Err(not_good());
        }
        if code.used_at.is_some() {
            return Err(self.replayed(client, &family, "a code came twice").await?);
        }
        let now = self.now();
        if code.expires_at <= now
            || code.redirect_uri.as_deref() != params.get("redirect_uri")
            || !proves(verifier, &code.challenge)
        {
            return Err(not_good());
        }
        let facts = self.acting(&client.site, &family.agent, &family.person).await?.ok_or_else(not_good)?;
        self.check_audience(&family, params)?;
        let scope = holding(&facts, &family.ceiling)?;
        let (access, refresh) = (token::compose(&id::random::<32>()?), refresh_text(&id::random::<32>()?));
        let mut tx = self.base().db.begin_bookkeeping().await?;
        self.hold(&mut tx, client, &family, now).await?;
        if !store::use_code(&mut tx, &code_hash, now).await? {
            drop(tx);
            return Err(self.replayed(client, &family, "a code came twice").await?);
        }
        let issued = self.first(&mut tx, client, &family, &scope, access, refresh).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Holds a client and a consent of it until the transaction ends. A new token is in nobody's cache, so the transaction need not
    /// be one that empties them.
    pub(super) async fn hold(&self, tx: &mut Tx, client: &Client, family: &Family, now: Timestamp) -> Outcome<()> {
        let held = store::hold_client(tx, client, now).await? && family::hold(tx, &client.site, &family.id, now).await?;
        if held { Ok(()) } else { Err(not_good()) }
    }

    /// The first tokens of a consent, under [`Server::hold`].
    pub(super) async fn first(
        &self,
        tx: &mut Tx,
        client: &Client,
        family: &Family,
        scope: &Scopes,
        access: Secret,
        refresh: Secret,
    ) -> Outcome<Issued> {
        let refresh = client.grant_types.contains(&GrantType::RefreshToken).then_some(refresh);
        if let Some(refresh) = &refresh {
            self.store_refresh(tx, client, family, refresh).await?;
        }
        self.access(tx, client, family, (&family.ceiling, scope), access, refresh).await
    }

    async fn store_refresh(&self, tx: &mut Tx, client: &Client, family: &Family, refresh: &Secret) -> Result<()> {
        let now = self.now();
        let ends = now.plus(REFRESH_IDLE).min(family.expires_at);
        store::insert_refresh(tx, &hash(refresh), (&client.site, &family.id), now, ends).await
    }

    /// Issues an access token with a ceiling, of which a scope holds at this moment.
    async fn access(
        &self,
        tx: &mut Tx,
        client: &Client,
        family: &Family,
        (ceiling, scope): (&Ceiling, &Scopes),
        text: Secret,
        refresh: Option<Secret>,
    ) -> Outcome<Issued> {
        let now = self.now();
        let expires_at = now.plus(ACCESS_LIFE).min(family.expires_at);
        let new = Issue {
            text: &text,
            agent: &family.agent,
            person: Some(&family.person),
            // Whoever consented minted it: it needs their role, as one that they minted by hand does.
            minter: Some(&family.person),
            client: &client.id,
            family: Some(&family.id),
            parent: None,
            // A consent is to an agent, not to a session of its work; whoever runs one exchanges for it.
            session: None,
            task: None,
            label: &client.name,
            ceiling,
            audience: family.audience,
            expires_at,
        };
        token::issue(self.base(), tx, &client.site, &Actor::User(family.person.clone()), new).await?;
        Ok(Issued {
            access_token: text,
            token_type: BEARER,
            expires_in: Some(expires_at.since(now).as_secs()),
            refresh_token: refresh,
            scope: Some(scope.to_string()),
            issued_token_type: None,
        })
    }

    /// The consent says for which resource; a request may say it again, and nothing else.
    fn check_audience(&self, family: &Family, params: &Params) -> Outcome<()> {
        match self.named_audience(params)? {
            Some(named) if named != family.audience => {
                Err(Fault::new(Word::InvalidTarget, "the person consented to another resource"))
            }
            _ => Ok(()),
        }
    }

    async fn refresh(&self, client: &Client, params: &Params) -> Outcome<Issued> {
        let old = params.secret("refresh_token").ok_or_else(|| Fault::new(Word::InvalidRequest, "`refresh_token` is missing"))?;
        if !token::is_checked(REFRESH_PREFIX, old.expose()) {
            return Err(not_good());
        }
        let old_hash = hash(old);
        let db = &self.base().db;
        let stored = store::refresh(db, &old_hash).await?.filter(|stored| stored.site == client.site).ok_or_else(not_good)?;
        let family = family::get(db, &stored.site, &stored.family).await?.ok_or_else(not_good)?;
        let now = self.now();
        if family.client != client.id || !family.is_live(now) || stored.expires_at <= now {
            return Err(not_good());
        }
        self.check_audience(&family, params)?;
        let ceiling = match params.get("scope") {
            None => family.ceiling.clone(),
            Some(scope) => {
                let asked: Scopes = scope.parse()?;
                asked.check_within(&family.ceiling)?;
                let nothing = || Fault::new(Word::InvalidScope, "these scopes leave nothing");
                asked.narrow(&family.ceiling).ok_or_else(nothing)?
            }
        };
        let facts = self.acting(&client.site, &family.agent, &family.person).await?.ok_or_else(not_good)?;
        // Before the transaction: it may make the key.
        let key = self.base().ring.derived(db, &client.site, REFRESH_LABEL).await?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let (access, refresh) = (token::compose(&derived(&key, "access", old)?), refresh_text(&derived(&key, "refresh", old)?));
        if stored.used_at.is_none() {
            let scope = holding(&facts, &ceiling)?;
            let mut tx = db.begin_bookkeeping().await?;
            self.hold(&mut tx, client, &family, now).await?;
            if store::use_refresh(&mut tx, &old_hash, now).await? {
                self.store_refresh(&mut tx, client, &family, &refresh).await?;
                let issued = self.access(&mut tx, client, &family, (&ceiling, &scope), access, Some(refresh)).await?;
                tx.commit().await?;
                return Ok(issued);
            }
            // Somebody else used it since it was read.
        }
        self.again(client, &family, &facts, &old_hash, access, refresh).await
    }

    /// A refresh token that was used before: within the grace the same answer, else the end of the consent.
    async fn again(
        &self,
        client: &Client,
        family: &Family,
        facts: &Facts,
        old_hash: &str,
        access: Secret,
        refresh: Secret,
    ) -> Outcome<Issued> {
        let (db, now) = (&self.base().db, self.now());
        let used_at = store::refresh(db, old_hash).await?.and_then(|stored| stored.used_at).ok_or_else(not_good)?;
        let successor = store::refresh(db, &hash(&refresh)).await?;
        let unused = successor.is_some_and(|successor| successor.used_at.is_none());
        if now.since(used_at) > REFRESH_GRACE || !unused {
            return Err(self.replayed(client, family, "a refresh token was used again").await?);
        }
        let access_hash = TokenHash::of_presented(access.expose()).ok_or_else(not_good)?.at(family.audience);
        let standing = token::standing(db, &access_hash).await?.filter(|standing| !standing.revoked).ok_or_else(not_good)?;
        Ok(Issued {
            access_token: access,
            token_type: BEARER,
            expires_in: Some(standing.expires_at.since(now).as_secs()),
            refresh_token: Some(refresh),
            scope: Some(holding(facts, &standing.ceiling)?.to_string()),
            issued_token_type: None,
        })
    }

    /// Something that works once came again, from the client that it belongs to: it is in two hands, and nobody knows in
    /// whose. Ends the consent, and gives the refusal.
    pub(super) async fn replayed(&self, client: &Client, family: &Family, why: &'static str) -> Result<Fault> {
        if family.revoked_at.is_none() {
            family::end(self.base(), &client.site, &Actor::System, &family.id, why).await?;
            let facts = json!({ "family": family.id, "client": client.id, "person": family.person, "why": why });
            let event = Event::new(&client.site, &Actor::System, "token.reuse").agent(&family.agent);
            let mut tx = self.base().db.begin_bookkeeping().await?;
            self.base().audit.record(&mut tx, event.outcome(Audited::Denied).facts(facts)).await?;
            tx.commit().await?;
        }
        Ok(not_good())
    }
}

/// What of a ceiling holds at this moment, by the agent and the site, too: that is what is told of a token, here as in an exchange and
/// by introspection. What stands above the token is not in its own ceiling: it is asked at each use.
///
/// Where nothing is left the request is refused before anything is spent: it may be made again once there is something.
pub(super) fn holding(facts: &Facts, ceiling: &Ceiling) -> Outcome<Scopes> {
    let holds = decision::most(facts, facts.person.as_ref()).and_then(|most| Scopes::of(ceiling).narrow(&most));
    holds.map(|holds| Scopes::of(&holds)).ok_or_else(|| {
        Fault::new(
            Word::InvalidScope,
            "what the agent and the site may do at this moment leaves nothing of what was consented to",
        )
    })
}

/// The text of a refresh token made of 32 secret bytes.
pub(super) fn refresh_text(bytes: &[u8; 32]) -> Secret {
    Secret::new(token::checked(REFRESH_PREFIX, bytes))
}

/// What follows from an old refresh token and a key that only we have.
fn derived(key: &hmac::Key, what: &str, old: &Secret) -> Result<[u8; 32]> {
    let mut context = hmac::Context::with_key(key);
    context.update(what.as_bytes());
    context.update(b"\n");
    context.update(old.expose().as_bytes());
    context.sign().as_ref().try_into().map_err(|_| Error::internal("an HMAC-SHA256 that has not 32 bytes"))
}

/// Whether a verifier belongs to an S256 challenge (RFC 7636 section 4.6).
fn proves(verifier: &str, challenge: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !(43..=128).contains(&verifier.len()) || !verifier.bytes().all(unreserved) {
        return false;
    }
    let computed = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    constant_time::verify_slices_are_equal(computed.as_bytes(), challenge.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7636 appendix B.
    #[test]
    fn a_verifier_proves_its_own_challenge() {
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(proves(verifier, challenge));
        assert!(!proves(verifier, &challenge.replace('E', "F")));
        assert!(!proves(challenge, challenge), "what `plain` would take");
        for odd in ["", "short", &"a".repeat(129), &format!("{verifier} ")] {
            assert!(!proves(odd, challenge));
        }
    }

    /// R66, R81: a successor has 256 bits that nobody computes without our key, and is always the same.
    #[test]
    fn a_successor_follows_from_the_old_token_and_our_key() {
        let (a, b) = (hmac::Key::new(hmac::HMAC_SHA256, b"a"), hmac::Key::new(hmac::HMAC_SHA256, b"b"));
        let old = refresh_text(&[1; 32]);
        let first = derived(&a, "refresh", &old).unwrap();
        assert_eq!(first, derived(&a, "refresh", &old).unwrap());
        assert_ne!(first, derived(&b, "refresh", &old).unwrap());
        assert_ne!(first, derived(&a, "access", &old).unwrap());
        assert_ne!(first, derived(&a, "refresh", &refresh_text(&[2; 32])).unwrap());
        assert!(token::is_checked(REFRESH_PREFIX, refresh_text(&first).expose()));
    }
}
