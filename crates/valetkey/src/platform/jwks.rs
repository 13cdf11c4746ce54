//! The public keys that a platform publishes (RFC 7517): read from its URL, kept in the key's row, and found by their name.
//!
//! 1. What was read within ten minutes serves as it is.
//! 2. Older keys, or a name that is not among them, make one replica read anew, at most once a minute: nobody who invents
//!    names has us call the platform.
//! 3. While the URL cannot be read the keys serve on, for a day. Then nothing that they signed is believed.
//!
//! The URL is the operator's. It is spoken to like any other address outside: public ones only, one request, no redirect.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use tokio::time::Instant;
use url::Url;

use super::{PlatformKey, store};
use crate::{
    base::Outside,
    clock::Timestamp,
    error::{Code, Error, Result},
    upstream::Limits,
};

/// How long keys serve without a look at where they came from.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long they serve while that place cannot be read.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is not read again.
const PAUSE: Duration = Duration::from_secs(60);
/// How long one reading may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest set, in bytes.
const LARGEST: usize = 64 * 1024;
/// The longest URL, in bytes.
const LONGEST_URL: usize = 2000;

/// The published key of that name, and the one algorithm that it is for. Absent where there is none that we use, or two.
///
/// # Errors
/// What the reading failed of, where there is nothing older that serves.
pub(super) async fn find(outside: &Outside, key: &PlatformKey, kid: &str) -> Result<Option<(Algorithm, DecodingKey)>> {
    let (db, now) = (&outside.base.db, outside.base.clock.now());
    // It was read before the URL was set; a URL that was taken away meanwhile has nothing.
    let (Some(kept), Some(url)) = (store::jwks(db, key).await?, &key.jwks_url) else { return Ok(None) };
    let (age, asked) = (now.since(Timestamp(kept.jwks_at)), Timestamp(kept.jwks_asked_at));
    let known = named(&kept.jwks, kid)?.filter(|_| age <= STALE);
    if known.is_some() && age <= FRESH {
        return Ok(known);
    }
    let before = now.minus(PAUSE);
    let asked_lately = asked > before && asked <= now;
    if asked_lately || !store::ask_jwks(db, key, before, now).await? {
        return Ok(known);
    }
    match fetch(outside, url).await {
        Ok(text) => {
            store::keep_jwks(db, key, &text, outside.base.clock.now()).await?;
            named(&text, kid)
        }
        Err(error) => {
            tracing::warn!(key = %key.id, ?error, "a platform's published keys could not be read");
            known.map(Some).ok_or(error)
        }
    }
}

/// Reads the keys at a URL that is to be set. At least one of them can be used.
pub(super) async fn first(outside: &Outside, url: &str) -> Result<String> {
    let text = fetch(outside, url).await?;
    if parse(&text)?.keys.iter().any(|jwk| jwk.common.key_id.is_some() && usable(jwk).is_some()) {
        return Ok(text);
    }
    Err(Error::new(
        Code::InvalidRequest,
        "jwks_url: no key there has a `kid` and is for RS256, ES256 or EdDSA (Ed25519); publish one and set the URL again",
    ))
}

async fn fetch(outside: &Outside, url: &str) -> Result<String> {
    let wrong =
        || Error::new(Code::InvalidRequest, "jwks_url: a full https URL without fragment or user, at most 2000 characters");
    if url.len() > LONGEST_URL || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    outside.upstream.guard().check_url(&Url::parse(url).map_err(|_| wrong())?)?;
    let request = Request::get(url)
        .header(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"))
        .body(Bytes::new())
        .map_err(|_| wrong())?;
    let limits = Limits { deadline: Instant::now() + DEADLINE, max_body: LARGEST };
    let answer = outside.upstream.exchange(request, limits).await.map_err(unread)?;
    let odd = |why: &'static str| {
        Error::new(Code::UpstreamInvalid, "the platform's key URL does not answer with a JWK set; its operator mends that")
            .with_detail(why)
    };
    if answer.status != StatusCode::OK {
        return Err(odd("another status than 200"));
    }
    let text = std::str::from_utf8(answer.body.expose()).map_err(|_| odd("no text"))?.to_owned();
    // PostgreSQL stores no NUL.
    if text.contains('\0') || parse(&text).is_err() {
        return Err(odd("no JWK set"));
    }
    Ok(text)
}

/// Where nothing came back: what it failed of, said of the right place.
fn unread(failure: crate::upstream::Failure) -> Error {
    let error = failure.error;
    match error.code() {
        Code::UpstreamUnreachable | Code::UpstreamTimeout => {
            Error::new(error.code(), "the platform's keys could not be read; try again in a minute").with_detail(&error)
        }
        _ => error,
    }
}

fn parse(text: &str) -> Result<JwkSet> {
    serde_json::from_str(text).map_err(|_| Error::new(Code::UpstreamInvalid, "what the platform publishes is no JWK set"))
}

/// The one key of a name in a set.
fn named(text: &str, kid: &str) -> Result<Option<(Algorithm, DecodingKey)>> {
    let set = parse(text)?;
    let mut found = set.keys.iter().filter(|jwk| jwk.common.key_id.as_deref() == Some(kid)).filter_map(usable);
    // Two of one name: which is meant is not ours to choose.
    Ok(match (found.next(), found.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    })
}

/// What a published key is for, told by its own kind: a symmetric key is for nothing here (RFC 8725 section 2.1).
fn usable(jwk: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    let (algorithm, word) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => (Algorithm::ES256, KeyAlgorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => (Algorithm::EdDSA, KeyAlgorithm::EdDSA),
        _ => return None,
    };
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|is_for| *is_for == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let agrees = common.key_algorithm.is_none_or(|said| said == word);
    if !(signs && verifies && agrees) {
        return None;
    }
    Some((algorithm, DecodingKey::from_jwk(jwk).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn set(keys: &str) -> String {
        format!(r#"{{"keys":[{keys}]}}"#)
    }

    #[test]
    fn the_published_key_says_which_algorithm_it_is_for() {
        let ed = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{X}"}}"#);
        let rsa = r#"{"kty":"RSA","kid":"b","n":"0vx7","e":"AQAB"}"#;
        let ec = format!(r#"{{"kty":"EC","crv":"P-256","kid":"c","x":"{X}","y":"{X}"}}"#);
        let all = set(&[ed.as_str(), rsa, ec.as_str()].join(","));
        for (kid, algorithm) in [("a", Algorithm::EdDSA), ("b", Algorithm::RS256), ("c", Algorithm::ES256)] {
            assert_eq!(named(&all, kid).unwrap().unwrap().0, algorithm, "{kid}");
        }
        assert!(named(&all, "d").unwrap().is_none());
    }

    #[test]
    fn a_key_that_is_symmetric_for_something_else_or_twice_there_is_not_used() {
        let ed = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{X}"}}"#);
        for keys in [
            r#"{"kty":"oct","kid":"a","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}"#.to_owned(),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","use":"enc","x":"{X}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","alg":"HS256","x":"{X}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","key_ops":["sign"],"x":"{X}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"X25519","kid":"a","x":"{X}"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-384","kid":"a","x":"{X}","y":"{X}"}}"#),
            format!("{ed},{ed}"),
        ] {
            assert!(named(&set(&keys), "a").unwrap().is_none(), "{keys}");
        }
        assert!(named(&set(&ed), "a").unwrap().is_some());
    }

    #[test]
    fn what_is_no_set_is_an_error_and_no_empty_set() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert_eq!(parse(text).unwrap_err().code(), Code::UpstreamInvalid, "{text}");
        }
    }
}
