//! The secret of a webhook and what it signs, as Standard Webhooks says: HMAC-SHA-256 over id, timestamp and body with dots
//! between, in base64 behind `v1,`; several signatures with spaces between.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    id,
    secret::Secret,
};

/// What every secret begins with.
pub const PREFIX: &str = "whsec_";

/// A fresh secret of 256 bits.
pub(super) fn fresh() -> Result<Secret> {
    let bytes = Zeroizing::new(id::random::<32>()?);
    Ok(Secret::new(format!("{PREFIX}{}", Zeroizing::new(STANDARD.encode(*bytes)).as_str())))
}

/// The value of `webhook-signature` for a message that is sent at `at`: one signature for each secret.
pub fn sign(secrets: &[Secret], id: &str, at: Timestamp, body: &[u8]) -> Result<String> {
    let odd = || Error::internal("the secret of a webhook has another form than ours");
    let mut signatures = Vec::with_capacity(secrets.len());
    for secret in secrets {
        let key = secret.expose().strip_prefix(PREFIX).ok_or_else(odd)?;
        let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| odd())?);
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
        context.update(format!("{id}.{}.", at.unix_seconds()).as_bytes());
        context.update(body);
        signatures.push(format!("v1,{}", STANDARD.encode(context.sign().as_ref())));
    }
    Ok(signatures.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of the libraries.
    #[test]
    fn a_signature_is_that_of_the_standard() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let at = Timestamp::from_unix_seconds(1_614_265_330);
        let sign = |secrets: &[Secret]| sign(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#).unwrap();
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(std::slice::from_ref(&secret)), one);
        let both = sign(&[fresh().unwrap(), secret]);
        assert!(both.ends_with(&format!(" {one}")) && both.split(' ').count() == 2, "{both}");
    }

    #[test]
    fn a_fresh_secret_is_of_the_form_that_libraries_take() {
        let (a, b) = (fresh().unwrap(), fresh().unwrap());
        assert!(!a.matches(&b));
        assert_eq!(STANDARD.decode(a.expose().strip_prefix(PREFIX).unwrap()).unwrap().len(), 32);
    }
}
