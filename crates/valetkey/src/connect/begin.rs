//! The beginning of a flow, as the definition's kind has it: what the browser is sent away with, and what is kept for its
//! return.

use std::time::Duration;

use serde_json::{Value, json};
use url::Url;

use super::{
    FLOW_LIFE, Fault, oauth1,
    oauth2::{self, Ground},
    store::Session,
};
use crate::{
    audit::{Event, Outcome},
    error::{Error, Result},
    id::{self, sha256_hex},
    principal::Actor,
    secret::{Secret, SecretMap},
};

/// What a flow is, before it is stored.
pub(super) struct Begun {
    /// Where the browser goes.
    pub(super) authorize_url: Url,
    /// What the browser brings back.
    pub(super) key: Secret,
    /// What the flow is found by then.
    pub(super) hash: String,
    /// What only we may know until then.
    pub(super) kept: SecretMap,
    /// How long the browser may stay away.
    pub(super) life: Duration,
}

/// Begins a flow of the definition's kind. Nothing is used up here: where a provider cannot be asked, the link still works.
pub(super) async fn begin(ground: &Ground<'_>, session: &Session, actor: &Actor) -> Result<Begun> {
    let mut kept = SecretMap::default();
    match (&ground.definition.oauth1, &ground.definition.oauth2) {
        (Some(oauth1), _) => {
            let begun = match oauth1::begin(ground, oauth1).await {
                Ok(begun) => begun,
                Err(fault) => return Err(not_begun(ground, session, actor, &fault).await?),
            };
            let oauth1::Begun { authorize_url, token, temporary, life } = begun;
            kept.expose_mut().insert(oauth1::TEMPORARY.to_owned(), Value::Object(temporary.expose().clone()));
            let hash = oauth1::flow_hash(&ground.definition.name, &token);
            Ok(Begun { authorize_url, key: token, hash, kept, life })
        }
        (None, Some(oauth2)) => {
            // Independent of one another: neither can be told from the other, nor from the binding.
            let state = Secret::new(id::random_text::<32>()?);
            let verifier = Secret::new(id::random_text::<32>()?);
            let authorize_url = oauth2::authorize_url(ground, oauth2, &state, &verifier)?;
            kept.set_text("verifier", &verifier);
            Ok(Begun { authorize_url, hash: sha256_hex(state.expose().as_bytes()), key: state, kept, life: FLOW_LIFE })
        }
        (None, None) => Err(Error::internal("a connectable definition without a flow")),
    }
}

/// Records that the provider did not let a flow begin, and says so to the person.
async fn not_begun(ground: &Ground<'_>, session: &Session, actor: &Actor, fault: &Fault) -> Result<Error> {
    let base = &ground.outside.base;
    tracing::warn!(
        session.id = %session.id, provider = %session.provider, code = %fault.code, word = fault.word, detail = fault.detail,
        "a provider gave no temporary token"
    );
    let facts = json!({
        "session": session.id, "provider": session.provider, "owner": session.owner, "name": session.name,
        "code": fault.code.as_str(), "word": fault.word,
    });
    let event = Event::new(&session.site, actor, "connect.approve").outcome(Outcome::Failed).facts(facts);
    let mut tx = base.db.begin_bookkeeping().await?;
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(Error::new(
        fault.code,
        format!(
            "{} did not let this begin; your link still works: go back and try again, and if it stays, tell your operator",
            ground.definition.title
        ),
    ))
}
