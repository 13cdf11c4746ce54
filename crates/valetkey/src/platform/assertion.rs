//! Signed assertions: how a platform proves that a browser is a certain person's (decisions 6).
//!
//! A JSON Web Token signed HS256 with the platform key's assertion secret:
//! `kid` = the key's id, `sub` = the user id, `aud` = `valetkey:connect`, `sid` = the connect session,
//! `jti` = at least 16 random characters, `iat`, and `exp` at most sixty seconds after `iat`. It works once. An `nbf` counts
//! where there is one; other claims (`iss` and whatever a library adds) are ignored (RFC 7519 section 4).

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::store;
use crate::{
    base::Base,
    clock::Timestamp,
    error::{Code, Error, Result},
    id::{self, ConnectSessionId, PlatformKeyId, SiteId, UserId, sha256_hex},
    seal::Place,
    secret::Secret,
};

const AUDIENCE: &str = "valetkey:connect";
/// The longest life of an assertion, in seconds.
const LIFE: i64 = 60;
/// How far a platform's clock may be off, in seconds.
const SKEW: i64 = 5;

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    sid: String,
    jti: String,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
}

/// One audience, as a text or as a list of one (RFC 7519 section 4.1.3). What is meant for others too is not taken.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
enum Audience {
    One(String),
    List([String; 1]),
}

impl Audience {
    fn is_ours(&self) -> bool {
        let (Audience::One(name) | Audience::List([name])) = self;
        name == AUDIENCE
    }
}

/// Signs an assertion, as a platform does. `dev` and the tests use it; platforms use any JWT library.
pub fn sign(key: &PlatformKeyId, secret: &Secret, user: &UserId, session: &ConnectSessionId, now: Timestamp) -> Result<Secret> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.to_string());
    let iat = now.unix_seconds();
    let claims = Claims {
        sub: user.to_string(),
        aud: Audience::One(AUDIENCE.to_owned()),
        sid: session.to_string(),
        jti: id::random_text::<18>()?,
        iat,
        nbf: None,
        exp: iat + LIFE,
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&header, &claims, &key).map(Secret::new).map_err(|_| Error::internal("an assertion could not be signed"))
}

/// The person that an assertion proves, for one connect session; it is used up by this.
///
/// Every fault gives the same answer: which part was wrong is nobody's business but the log's.
pub async fn verify(
    base: &Base,
    site: &SiteId,
    session: &ConnectSessionId,
    presented: &Secret,
) -> Result<(PlatformKeyId, UserId)> {
    let refused = |why: &str| {
        Error::new(
            Code::Unauthenticated,
            "the platform's assertion is not valid; go back to the platform and follow its link again",
        )
        .with_detail(why)
    };
    let now = base.clock.now();
    if presented.expose().len() > 4096 {
        return Err(refused("too long"));
    }
    let header = jsonwebtoken::decode_header(presented.expose().as_bytes()).map_err(|_| refused("no JWT"))?;
    let key_id: PlatformKeyId = header.kid.as_deref().unwrap_or_default().parse().map_err(|_| refused("kid"))?;
    let (key, sealed) = store::by_id(&base.db, site, &key_id).await?.ok_or_else(|| refused("unknown key"))?;
    if key.has_ended(now) {
        return Err(refused("ended key"));
    }
    let secret = base.ring.open(&base.db, &Place::platform_key(site, &key_id), &sealed).await?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[AUDIENCE]);
    // The times are checked below, by the broker's own clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims.clear();
    let data =
        jsonwebtoken::decode::<Claims>(presented.expose().as_bytes(), &DecodingKey::from_secret(secret.expose()), &validation)
            .map_err(|_| refused("signature or claims"))?;
    let claims = data.claims;
    if !claims.aud.is_ours() {
        return Err(refused("aud"));
    }
    let seconds = now.unix_seconds();
    let begun = claims.nbf.is_none_or(|nbf| nbf <= seconds.saturating_add(SKEW));
    if !begun || !is_in_time(claims.iat, claims.exp, seconds) {
        return Err(refused("time"));
    }
    if claims.sid != session.as_str() {
        return Err(refused("another session"));
    }
    if claims.jti.len() < 16 {
        return Err(refused("jti"));
    }
    let user: UserId = claims.sub.parse().map_err(|_| refused("sub"))?;
    if !key.asserts.allows(&user) {
        return Err(refused("the key may not speak for this person"));
    }
    let until = Timestamp::from_unix_seconds(claims.exp);
    if !store::use_assertion(&base.db, site, &sha256_hex(claims.jti.as_bytes()), until, now).await? {
        return Err(refused("used before"));
    }
    Ok((key_id, user))
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
