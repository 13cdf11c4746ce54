//! The three legs of OAuth 1.0a (RFC 5849 section 2), as definitions describe them.
//!
//! 1. [`begin`] asks for temporary credentials, with our callback in the signed request. A provider that does not confirm
//!    the callback is one of the first OAuth 1.0, where anybody could finish anybody's flow: refused (section 2.1).
//! 2. The browser goes to the provider with the temporary token. There is no `state`: the temporary token is what the flow is
//!    found by, and the browser that began is the only one that can finish it, as with OAuth 2.0.
//! 3. The browser comes back with the token and a verifier, or with the word that the person refused ([`refusal`]).
//! 4. [`obtain`] trades token and verifier for the token of the account. The temporary secret was sealed in the flow
//!    meanwhile, and is gone with it: it serves once.

use std::time::Duration;

use url::Url;

use super::{
    FLOW_LIFE, Fault,
    callback::Answer,
    oauth2::{self, Ground, Obtained},
};
use crate::{
    error::Code,
    id::{ProviderName, sha256_hex},
    principal::Slot,
    provider::{Definition, OAuth1, TOKEN_SECRET, Vars},
    secret::{Secret, SecretMap},
};

/// A flow whose first leg is done.
pub(super) struct Begun {
    /// Where the browser goes.
    pub(super) authorize_url: Url,
    /// The temporary token: no secret once the browser has it.
    pub(super) token: Secret,
    /// The temporary credentials, with the names of an account.
    pub(super) temporary: SecretMap,
    /// How long they are kept.
    pub(super) life: Duration,
}

/// Asks for temporary credentials (RFC 5849 section 2.1).
pub(super) async fn begin(ground: &Ground<'_>, oauth1: &OAuth1) -> Result<Begun, Fault> {
    const FAILED: Code = Code::RequestTokenFailed;
    let mut authorize_url = oauth2::authorize_endpoint(ground).map_err(|error| Fault::of(FAILED, &error))?;
    let (outputs, _) = ground.call_one(&oauth1.request, FAILED, &ground.plain_vars()).await?;
    // The RFC's word is `true`; Authlib's providers say `True`.
    let confirmed = outputs.raw.expose().get("oauth_callback_confirmed").and_then(serde_json::Value::as_str);
    if !confirmed.is_some_and(|word| word.eq_ignore_ascii_case("true")) {
        return Err(Fault::new(FAILED, "callback_not_confirmed"));
    }
    let (Some(token), Some(_)) = (outputs.access_token.clone(), &outputs.token_secret) else {
        return Err(Fault::new(FAILED, "no_token_in_answer"));
    };
    authorize_url.query_pairs_mut().append_pair("oauth_token", token.expose());
    let mut temporary = SecretMap::default();
    outputs.store_into(&mut temporary);
    Ok(Begun { authorize_url, token, temporary, life: oauth1.temp_ttl.min(FLOW_LIFE) })
}

/// What a flow is found by: a hash of its temporary token. Two providers may give out the same one.
pub(super) fn flow_hash(provider: &ProviderName, token: &Secret) -> String {
    sha256_hex(format!("oauth1\n{provider}\n{}", token.expose()).as_bytes())
}

/// Why an answer finishes no flow, where it does not: the person refused, or what is needed is not in it.
pub(super) fn refusal(definition: &Definition, answer: &Answer) -> Option<Fault> {
    let oauth1 = definition.oauth1.as_ref()?;
    if answer.is_denied(oauth1) {
        return Some(Fault::new(Code::AccessDenied, "denied"));
    }
    let lacks = |value: &Option<Secret>| value.as_ref().is_none_or(Secret::is_empty);
    match (lacks(&answer.token), lacks(&answer.verifier)) {
        (false, false) => None,
        (true, _) => Some(Fault::new(Code::MissingParameters, "no_token")),
        (false, true) => Some(Fault::new(Code::MissingParameters, "no_verifier")),
    }
}

/// From token and verifier to an account that can be stored (RFC 5849 section 2.3). Sent once: the verifier is spent by it.
pub(super) async fn obtain(
    ground: &Ground<'_>,
    oauth1: &OAuth1,
    slot: &Slot,
    temporary: &SecretMap,
    verifier: &Secret,
) -> Result<Obtained, Fault> {
    let vars = Vars { account: Some(temporary), code: Some(verifier), ..ground.plain_vars() };
    let (mut outputs, sent_at) = ground.call_one(&oauth1.token, Code::AccessTokenFailed, &vars).await?;
    if outputs.token_secret.is_none() {
        return Err(Fault::new(Code::AccessTokenFailed, "no_token_secret_in_answer"));
    }
    // They are kept under the names of an account, and not a second time under their own.
    for name in ["oauth_token", "oauth_token_secret", "oauth_callback_confirmed"] {
        outputs.raw.expose_mut().remove(name);
    }
    oauth2::finish(ground, slot, outputs, sent_at).await
}

/// The member of a flow that holds the temporary credentials.
pub(super) const TEMPORARY: &str = "temporary";

/// The temporary credentials that a flow kept.
pub(super) fn temporary(kept: &SecretMap) -> Option<SecretMap> {
    let members = kept.expose().get(TEMPORARY)?.as_object()?;
    let temporary = SecretMap::new(members.clone());
    (temporary.text("access_token").is_some() && temporary.text(TOKEN_SECRET).is_some()).then_some(temporary)
}
