//! What the maker of a session gives to be carried along. It is whatever they like, a secret of theirs perhaps, so it is sealed.
//! It stands in the session and nowhere else: a flow names its session, and the session outlives the flow.

use super::store::{self, Flow, Session};
use crate::{
    base::{Base, Outside},
    error::{Code, Error, Result},
    seal::Place,
    secret::{Secret, SecretBytes},
};

/// The largest payload, in bytes (mission document 001).
pub const MAX_PAYLOAD: usize = 4096;

/// Errors: `invalid_request` for one that is too large, or not a text.
pub(super) fn check(payload: Option<&Secret>) -> Result<()> {
    match payload.map(Secret::expose) {
        Some(text) if text.len() > MAX_PAYLOAD || text.contains('\0') => {
            Err(Error::new(Code::InvalidRequest, "the payload is a text of at most 4096 bytes without NUL"))
        }
        _ => Ok(()),
    }
}

/// Seals what a session carries. Not while this task holds a transaction.
pub(super) async fn seal(base: &Base, session: &Session, payload: &Secret) -> Result<Vec<u8>> {
    let owner = session.owner.to_string();
    base.ring.seal(&base.db, &place(session, &owner), &SecretBytes::new(payload.expose().into())).await
}

/// What a session carries.
///
/// # Errors
/// `unsealable`.
pub(super) async fn open(base: &Base, session: &Session) -> Result<Option<Secret>> {
    let Some(sealed) = &session.sealed else { return Ok(None) };
    let owner = session.owner.to_string();
    let bytes = base.ring.open(&base.db, &place(session, &owner), sealed).await?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| Error::internal("a sealed payload is no text"))?;
    Ok(Some(Secret::new(text)))
}

/// What a session carries, where it is over: that comes of it what came, also where this cannot be read any more.
pub(super) async fn carried(base: &Base, session: &Session) -> Option<Secret> {
    open(base, session).await.unwrap_or_else(|error| {
        tracing::error!(session.id = %session.id, error = ?error, "the payload of a connect session cannot be read");
        None
    })
}

/// The same by the session's flow.
pub(super) async fn carried_by(outside: &Outside, flow: &Flow) -> Option<Secret> {
    let base = &outside.base;
    match store::session_by_id(&base.db, &flow.site, &flow.session).await {
        Ok(session) => carried(base, &session?).await,
        Err(error) => {
            tracing::error!(session.id = %flow.session, error = ?error, "the session of a flow cannot be read");
            None
        }
    }
}

fn place<'a>(session: &'a Session, owner: &'a str) -> Place<'a> {
    Place::connect_session(&session.site, &session.provider, owner, &session.name, &session.id)
}
