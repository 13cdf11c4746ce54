//! Revocation: a connection ends here at once, and at its provider as soon as that answers (decisions 2, RFC 7009).
//!
//! 1. [`connection`] erases the sealed account and writes what is owed into the outbox, sealed on its own, in one
//!    transaction. When it returns, every replica refuses the connection. The provider is never waited for (R64).
//! 2. [`worker`] takes what is due out of the outbox, on every replica: a row is claimed by compare-and-set, so that two
//!    do not send it at once. A claim that is never settled, because its process died, comes due again.
//! 3. The definition's calls are made in order: refresh token first, then access token (R62). An answer of success ends
//!    the row and erases what it had sealed. An endpoint that is down or slow means that the token must be taken as
//!    living: the row stays `pending`, visibly, and is tried again, as late as `Retry-After` says (R63).
//! 4. After twenty attempts over some days it is given up, visibly, and what it had sealed is erased all the same.
//!
//! Whoever ends a connection and wants to know how that goes has it asked at once ([`ask_now`]), for as long as they care to
//! wait. It is over here before that, whatever the provider says.
//!
//! Where a revocation would kill other live connections of the same account, it is skipped and said, unless forced.

mod store;
mod worker;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio_util::task::TaskTracker;

pub use self::{
    store::{Revocation, list, newest},
    worker::{Settings, work_off, worker, worker_with},
};
pub use crate::connection::{Owed, UpstreamWish};
use crate::{
    audit::{AUDIT_LABEL, Event},
    base::Outside,
    connection::{self as row, Status, Stored, owe_revocation},
    db::Tx,
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Actor,
    secret::SecretMap,
    text,
};

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// What becomes of its tokens at the provider. Until that is done they live there, and a secret that was revealed
    /// before lives until it expires.
    #[serde(flatten)]
    pub upstream: Owed,
}

/// How often a connection that changes under our hands is looked at again.
const TRIES: usize = 16;

/// Ends a connection. Ending it again changes nothing.
///
/// Where a registered resolver holds the account of its place by now, that one ends it too, and first: an account is not ended
/// here and used there.
///
/// # Errors
/// What a resolver says that does not take it; nothing is changed then. `not_found`; `invalid_request` where the reason is too
/// long; `conflict` where the connection changes faster than it can be ended.
pub async fn connection(
    outside: &Outside,
    site: &SiteId,
    actor: &Actor,
    id: &ConnectionId,
    reason: &str,
    wish: UpstreamWish,
) -> Result<Ended> {
    text::check("reason", reason, text::NOTE)?;
    let base = &outside.base;
    let mut ended_by = None;
    for _ in 0..TRIES {
        let Some(stored) = row::load(&base.db, site, id).await? else {
            return Err(Error::new(Code::NotFound, format!("there is no connection `{id}`")));
        };
        if matches!(stored.connection.status, Status::Revoked { .. }) {
            return Ok(Ended { upstream: Owed::Skipped("the connection was over before".to_owned()) });
        }
        let slot = stored.connection.slot();
        if ended_by.is_none()
            && let Some(held) = outside.extensions.held(&slot).await?
        {
            held.resolver.delete(&slot).await?;
            ended_by = Some(held.resolver.name());
        }
        prepare(outside, &stored).await?;
        let account = open(outside, &stored).await;
        let mut tx = base.db.begin().await?;
        // What is sealed for the provider must be what was erased: the newest tokens and no others.
        if !store::lock_unchanged(&mut tx, &stored.connection).await? {
            continue;
        }
        let definition = outside.catalogue.get(&stored.connection.provider);
        let definition = definition.map(AsRef::as_ref);
        let owed = owe_revocation(base, &mut tx, definition, &stored.connection, account.as_ref(), wish, reason).await?;
        row::erase(&mut tx, site, id, actor, reason, base.clock.now()).await?;
        let facts = json!({
            "provider": stored.connection.provider, "owner": stored.connection.owner, "reason": reason, "revocation": owed,
            "ended_by": ended_by,
        });
        base.audit.record(&mut tx, Event::new(site, actor, "connection.revoke").connection(id).facts(facts)).await?;
        tx.commit().await?;
        outside.extensions.tell(|sink| sink.revoked(&slot, id));
        tracing::info!(connection.id = %id, provider = %stored.connection.provider, ?owed, "a connection was revoked");
        return Ok(Ended { upstream: owed });
    }
    Err(Error::new(Code::Conflict, "the connection changes all the time; try again"))
}

/// How often it is looked whether another replica settled what it asks for.
const POLL: Duration = Duration::from_millis(50);

/// Asks the provider at once for what an ended connection owes it, and says how that stands when it is settled, when an
/// attempt failed, or after `wait`; nothing where nothing was ever owed.
///
/// The asking runs in a task of the tracker: a caller who leaves does not cut a call off. Where a replica asks already, its
/// answer is waited for.
pub async fn ask_now(
    outside: &Outside,
    tasks: &TaskTracker,
    site: &SiteId,
    connection: &ConnectionId,
    wait: Duration,
) -> Result<Option<Revocation>> {
    let db = &outside.base.db;
    let newest = async || Ok::<_, Error>(store::list(db, site, connection).await?.pop());
    let is_open =
        |owed: &Option<Revocation>| owed.as_ref().is_some_and(|owed| owed.status == "pending" && owed.last_error.is_none());
    if wait.is_zero() || !is_open(&newest().await?) {
        return newest().await;
    }
    let asking = tasks.spawn({
        let (outside, site, connection) = (outside.clone(), site.clone(), connection.clone());
        async move {
            if let Err(error) = worker::work_off_of(&outside, &Settings::default(), &site, &connection).await {
                tracing::warn!(connection.id = %connection, error = ?error, "a revocation could not be asked for; that is tried again");
            }
        }
    });
    let until = tokio::time::Instant::now() + wait;
    let _ = tokio::time::timeout_at(until, asking).await;
    loop {
        let owed = newest().await?;
        if !is_open(&owed) || tokio::time::Instant::now() >= until {
            return Ok(owed);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes sure of the keys that [`owe`] needs, before its transaction begins.
pub async fn prepare(outside: &Outside, stored: &Stored) -> Result<()> {
    let (base, connection) = (&outside.base, &stored.connection);
    base.ring.ensure(&base.db, connection.site.as_str(), connection.provider.as_str()).await?;
    base.ring.derived(&base.db, &connection.site, AUDIT_LABEL).await?;
    Ok(())
}

/// Notes what an ended connection owes its provider, for whoever ends one in a transaction of their own: `stored` is the
/// row as it was before it was erased there.
pub async fn owe(outside: &Outside, tx: &mut Tx, stored: &Stored, wish: UpstreamWish, reason: &str) -> Result<Owed> {
    let account = open(outside, stored).await;
    let definition = outside.catalogue.get(&stored.connection.provider).map(AsRef::as_ref);
    owe_revocation(&outside.base, tx, definition, &stored.connection, account.as_ref(), wish, reason).await
}

/// What a connection has sealed. That it cannot be opened must not keep anybody from ending it (R64).
async fn open(outside: &Outside, stored: &Stored) -> Option<SecretMap> {
    let sealed = stored.sealed.as_deref()?;
    match row::open_account(&outside.base, &stored.connection, sealed).await {
        Ok(account) => Some(account),
        Err(error) => {
            tracing::error!(connection.id = %stored.connection.id, error = ?error, "the account of an ended connection cannot be opened");
            None
        }
    }
}
