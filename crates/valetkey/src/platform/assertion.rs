//! Signed assertions: how a platform proves that a browser is a certain person's (decisions 6).
//!
//! A JSON Web Token: `sub` = the user id, `aud` = what it is for ([`Purpose`]), `sid` = the connect session where it is for one,
//! `jti` = at least 16 random characters, `iat`, and `exp` at most sixty seconds after `iat`. It works once. An `nbf` counts
//! where there is one. One for an exchange may say by `agent` which agent is to act, and by `client_id` which client may bring it
//! ([`Signed::is_for`]). Other claims (whatever a library adds) are ignored (RFC 7519 section 4).
//!
//! Either it is signed HS256 with the platform key's assertion secret, and `kid` is the key's id. Or the key has a JWKS URL: then
//! it is signed RS256, ES256 or EdDSA by one of the keys published there, which `kid` names, and `iss` is the platform key's
//! id. Which of the two it is the platform key says, and which algorithm the published key says: never the assertion's own
//! header (RFC 8725 section 3.1).
//!
//! What is claimed becomes believed in two steps, each a type: [`Claimed`] names a key, [`Signed`] was signed by that key,
//! [`Proven`] is for this very purpose, in time, and used up.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, dangerous};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PlatformKey, Scope, jwks, store};
use crate::{
    base::{Base, Outside},
    clock::Timestamp,
    error::{Code, Error, Result},
    id::{self, AgentId, ClientId, ConnectSessionId, PlatformKeyId, SiteId, UserId, sha256_hex},
    seal::Place,
    secret::Secret,
};

/// The longest life of an assertion, in seconds.
const LIFE: i64 = 60;
/// How far a platform's clock may be off, in seconds.
const SKEW: i64 = 5;
/// The longest assertion, in bytes.
const LONGEST: usize = 4096;

/// What an assertion is for. One that is for something else is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// To open a link, which it names.
    Connect(&'a ConnectSessionId),
    /// To sign in.
    SignIn,
    /// To get an agent a token that acts for the person (RFC 8693).
    Exchange,
}

impl Purpose<'_> {
    /// The audience (RFC 7519 section 4.1.3).
    pub fn audience(self) -> &'static str {
        match self {
            Purpose::Connect(_) => "valetkey:connect",
            Purpose::SignIn => "valetkey:signin",
            Purpose::Exchange => "valetkey:exchange",
        }
    }

    fn session(self) -> Option<String> {
        match self {
            Purpose::Connect(session) => Some(session.to_string()),
            Purpose::SignIn | Purpose::Exchange => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    jti: String,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
    /// Of any kind: at another purpose than an exchange they are claims that somebody added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<Value>,
}

/// One audience, as a text or as a list of one (RFC 7519 section 4.1.3). What is meant for others too is not taken.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
enum Audience {
    One(String),
    List([String; 1]),
}

impl Audience {
    fn name(&self) -> &str {
        let (Audience::One(name) | Audience::List([name])) = self;
        name
    }
}

/// Who signed, before anybody looked.
#[derive(Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: Option<String>,
}

/// Signs an assertion for a link, as a platform does. `dev` and the tests use it; platforms use any JWT library.
pub fn sign(key: &PlatformKeyId, secret: &Secret, user: &UserId, session: &ConnectSessionId, now: Timestamp) -> Result<Secret> {
    sign_for(key, secret, user, Purpose::Connect(session), now)
}

/// Signs an assertion for any purpose.
pub fn sign_for(key: &PlatformKeyId, secret: &Secret, user: &UserId, purpose: Purpose<'_>, now: Timestamp) -> Result<Secret> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.to_string());
    let iat = now.unix_seconds();
    let claims = Claims {
        sub: user.to_string(),
        aud: Audience::One(purpose.audience().to_owned()),
        sid: purpose.session(),
        jti: id::random_text::<18>()?,
        iat,
        nbf: None,
        exp: iat + LIFE,
        agent: None,
        client_id: None,
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).map(Secret::new).map_err(|_| Error::internal("an assertion could not be signed"))
}

/// The person that an assertion proves to a site, for one connect session; it is used up by this.
///
/// Every fault gives the same answer: which part was wrong is nobody's business but the log's.
///
/// # Errors
/// `unauthenticated`; where the platform's published keys had to be read and could not be, what that failed of.
pub async fn verify(
    outside: &Outside,
    site: &SiteId,
    session: &ConnectSessionId,
    presented: &Secret,
) -> Result<(PlatformKeyId, UserId)> {
    let claimed = read(&outside.base, presented).await?;
    if &claimed.key.site != site {
        return Err(refused("a key of another site"));
    }
    let proven = claimed.check(outside).await?.accept(&outside.base, Purpose::Connect(session)).await?;
    Ok((proven.key, proven.user))
}

/// An assertion as it was presented, and the live key that it says signed it. Nothing of it is believed yet.
pub struct Claimed {
    presented: Secret,
    kid: Option<String>,
    key: PlatformKey,
    sealed: Vec<u8>,
}

/// Reads which key an assertion names.
///
/// # Errors
/// `unauthenticated`.
pub async fn read(base: &Base, presented: &Secret) -> Result<Claimed> {
    if presented.expose().len() > LONGEST {
        return Err(refused("too long"));
    }
    let bytes = presented.expose().as_bytes();
    let header = jsonwebtoken::decode_header(bytes).map_err(|_| refused("no JWT"))?;
    // What must be understood and is not (RFC 7515 section 4.1.11).
    if header.crit.is_some() {
        return Err(refused("crit"));
    }
    let named: Option<PlatformKeyId> = header.kid.as_deref().and_then(|kid| kid.parse().ok());
    let id = match named {
        Some(id) => id,
        None => {
            let unverified: Issuer = dangerous::insecure_decode_claims(bytes).map_err(|_| refused("no claims"))?;
            unverified.iss.as_deref().unwrap_or_default().parse().map_err(|_| refused("neither kid nor iss names a key"))?
        }
    };
    let (key, sealed) = store::anywhere(&base.db, &id).await?.ok_or_else(|| refused("unknown key"))?;
    if key.has_ended(base.clock.now()) {
        return Err(refused("ended key"));
    }
    Ok(Claimed { presented: presented.clone(), kid: header.kid, key, sealed })
}

impl Claimed {
    /// Checks the signature.
    ///
    /// # Errors
    /// As [`verify`].
    pub async fn check(self, outside: &Outside) -> Result<Signed> {
        let base = &outside.base;
        let (algorithm, by) = match &self.key.jwks_url {
            None => {
                let secret = base.ring.open(&base.db, &Place::platform_key(&self.key.site, &self.key.id), &self.sealed).await?;
                (Algorithm::HS256, DecodingKey::from_secret(secret.expose()))
            }
            Some(_) => {
                let kid = self.kid.as_deref().ok_or_else(|| refused("kid"))?;
                jwks::find(outside, &self.key, kid).await?.ok_or_else(|| refused("no such key is published"))?
            }
        };
        // One algorithm, which the key says: with another one the signature is not even looked at.
        let mut validation = Validation::new(algorithm);
        // The audience and the times are checked by `accept`, the times by the broker's own clock.
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        let data = jsonwebtoken::decode::<Claims>(self.presented.expose().as_bytes(), &by, &validation);
        let claims = data.map_err(|_| refused("signature or claims"))?.claims;
        Ok(Signed { key: self.key, claims })
    }
}

/// An assertion that the platform really signed.
pub struct Signed {
    key: PlatformKey,
    claims: Claims,
}

/// What an assertion proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The site.
    pub site: SiteId,
    /// The key by which the platform vouches.
    pub key: PlatformKeyId,
    /// The person.
    pub user: UserId,
}

impl Signed {
    /// The platform's key.
    pub fn key(&self) -> &PlatformKey {
        &self.key
    }

    /// Whether an exchange may have this agent act, and come from this client: what the assertion names has to be just that, and
    /// where it names nothing any will do.
    pub fn is_for(&self, agent: &AgentId, client: &ClientId) -> bool {
        let names = |claim: &Option<Value>, id: &str| claim.as_ref().is_none_or(|claim| claim.as_str() == Some(id));
        names(&self.claims.agent, agent.as_str()) && names(&self.claims.client_id, client.as_str())
    }

    /// Takes the assertion for a purpose, and uses it up.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub async fn accept(self, base: &Base, purpose: Purpose<'_>) -> Result<Proven> {
        let (now, Self { key, claims }) = (base.clock.now(), self);
        if claims.aud.name() != purpose.audience() {
            return Err(refused("aud"));
        }
        let seconds = now.unix_seconds();
        let begun = claims.nbf.is_none_or(|nbf| nbf <= seconds.saturating_add(SKEW));
        if !begun || !is_in_time(claims.iat, claims.exp, seconds) {
            return Err(refused("time"));
        }
        if let Purpose::Connect(session) = purpose
            && claims.sid.as_deref() != Some(session.as_str())
        {
            return Err(refused("another session"));
        }
        // A connect link is the platform's to make; who may sign people in is a right of its own.
        if purpose == Purpose::SignIn && !key.scopes.contains(&Scope::Signin) {
            return Err(refused("the key lacks the scope signin"));
        }
        // As to mint a token for the person by hand.
        if purpose == Purpose::Exchange && !key.scopes.contains(&Scope::Agents) {
            return Err(refused("the key lacks the scope agents"));
        }
        if claims.jti.len() < 16 {
            return Err(refused("jti"));
        }
        let user: UserId = claims.sub.parse().map_err(|_| refused("sub"))?;
        if !key.asserts.allows(&user) {
            return Err(refused("the key may not speak for this person"));
        }
        let until = Timestamp::from_unix_seconds(claims.exp);
        if !store::use_assertion(&base.db, &key.site, &sha256_hex(claims.jti.as_bytes()), until, now).await? {
            return Err(refused("used before"));
        }
        Ok(Proven { site: key.site, key: key.id, user })
    }
}

fn refused(why: &'static str) -> Error {
    Error::new(Code::Unauthenticated, "the platform's assertion is not valid; go back to the platform and follow its link again")
        .with_detail(why)
}

/// Whether an assertion counts at `now`, all in seconds. Whoever signs chooses the numbers: none may overflow.
fn is_in_time(iat: i64, exp: i64, now: i64) -> bool {
    exp > now && iat <= now.saturating_add(SKEW) && exp.checked_sub(iat).is_some_and(|life| (0..=LIFE).contains(&life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_counts_for_a_minute_whatever_its_numbers() {
        let now = 1_800_000_000;
        assert!(is_in_time(now, now + LIFE, now));
        assert!(is_in_time(now + SKEW, now + LIFE, now));
        for (iat, exp) in [
            (now, now),
            (now, now + LIFE + 1),
            (now + SKEW + 1, now + LIFE),
            (now + 3, now + 2),
            // The difference overflows, and wrapped it is less than a minute.
            (i64::MIN, i64::MAX),
            (i64::MIN, now + 1),
        ] {
            assert!(!is_in_time(iat, exp, now), "{iat} {exp}");
        }
    }
}
