//! Disabling a person, and erasing one: what is theirs goes, and what others did stays.
//!
//! 1. One transaction disables the person for good, ends their sessions, their consents and the tokens that act for them or were
//!    minted by them, takes back the grants that they made, takes their roles and agents from them, and removes what waits for
//!    an answer of theirs or was asked for them. They are taken out of every list of people: of other grants, of platform keys,
//!    of what agents ask for. From then on every request of theirs is refused.
//! 2. Their accounts are ended one by one, as [`crate::revoke`] ends any: the sealed account is gone with the row's own commit,
//!    and the provider is told through the outbox. Then their apps at providers go, as soon as no revocation needs them.
//! 3. What a process that died left undone, and what a flow brings that was under way meanwhile, is done in the background
//!    ([`go_on`]), for an hour at least.
//!
//! The audit stays as it is: its rows name people by the platform's id alone, and are chained over it. So do the rows that ended
//! with the person, and whatever says who did something; `docs/security.md` lists them. Whoever wants nobody to read who that was
//! forgets the id where it means somebody: at the platform.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::{
    agent, app_config, approval,
    audit::Event,
    base::{Base, Outside},
    clock::Timestamp,
    connect,
    connection::{self, Filter},
    error::Result,
    grant,
    id::{SiteId, UserId},
    import, oauth, platform,
    principal::{Actor, Owner},
    proposal,
    revoke::{self, UpstreamWish},
    session, token,
};

/// The reason in the rows that end with a person.
const REASON: &str = "the person was erased";

/// How long after an erasing it is looked whether something came after all: longer than a link and a flow live together.
const LINGER: Duration = Duration::from_secs(60 * 60);

/// What an erasing ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Accounts that are over here; their providers are told as soon as they answer.
    pub connections: u64,
    /// Apps at providers.
    pub apps: u64,
    /// Tokens that lived.
    pub tokens: u64,
    /// Grants that lived.
    pub grants: u64,
    /// Roles on agents.
    pub roles: u64,
    /// Agents of theirs: disabled, and nobody's.
    pub agents: u64,
}

/// Disables a person, or lets them act again. Their tokens, grants and accounts stop and start with them; their sessions end: who is
/// let in again signs in anew, and a browser that somebody else holds does not come back with them.
///
/// # Errors
/// `conflict` for letting somebody act again who was erased.
pub async fn set_disabled(base: &Base, site: &SiteId, actor: &Actor, user: &UserId, disabled: bool) -> Result<()> {
    // A sign-in that was let pass before they were disabled may have opened a session after it: that one ends now.
    let ends = disabled || platform::person_is_disabled(&base.db, site, user).await?;
    let mut tx = base.db.begin().await?;
    platform::set_person_disabled(base, &mut tx, site, actor, user, disabled).await?;
    if ends {
        session::close_all_in(base, &mut tx, site, actor, user).await?;
    }
    tx.commit().await
}

/// Erases a person. Doing it again ends what is still there, and changes nothing else.
///
/// # Errors
/// Where an account cannot be ended, after everything else is: the person is erased all the same, and it is tried again in the
/// background.
pub async fn erase(outside: &Outside, site: &SiteId, actor: &Actor, user: &UserId) -> Result<Erased> {
    let base = &outside.base;
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    let first = platform::mark_erased(&mut tx, site, user, now).await?;
    let agent::Forgotten { roles, agents } = agent::forget_person(&mut tx, site, user, now).await?;
    session::close_all_in(base, &mut tx, site, actor, user).await?;
    // The consents before the tokens: what is issued under one meanwhile is seen then.
    let consents = oauth::erase_person(&mut tx, site, user).await?;
    let tokens = token::revoke_of_person(&mut tx, site, actor, user, REASON, now).await?;
    let grants = grant::revoke_of_person(&mut tx, site, actor, user, REASON, now).await?;
    grant::forget_person(&mut tx, site, user).await?;
    platform::forget_person(&mut tx, site, user).await?;
    import::forget_person(&mut tx, site, user).await?;
    approval::forget(&mut tx, site, user).await?;
    proposal::forget(&mut tx, site, user).await?;
    let taken = Erased { tokens, grants, roles, agents, ..Erased::default() };
    if first || consents > 0 || taken != Erased::default() {
        let facts = json!({
            "user": user, "consents": consents, "tokens": tokens, "grants": grants, "roles": roles, "agents": agents,
        });
        base.audit.record(&mut tx, Event::new(site, actor, "person.erased").facts(facts)).await?;
    }
    token::count_revocations(&mut tx, site, tokens).await?;
    tx.commit().await?;
    let (connections, apps) = end_accounts(outside, site, actor, user).await?;
    Ok(Erased { connections, apps, ..taken })
}

/// Goes on with every erasing that is not done. Says how many are done now.
pub async fn go_on(outside: &Outside) -> Result<u64> {
    let base = &outside.base;
    let mut done = 0;
    for (site, user, since) in platform::being_erased(&base.db).await? {
        if let Err(error) = end_accounts(outside, &site, &Actor::System, &user).await {
            tracing::warn!(%site, %error, detail = error.detail(), "an erased person's accounts could not all be ended; that is tried again");
        } else if is_over(outside, &site, &user, since).await? {
            let mut tx = base.db.begin_bookkeeping().await?;
            platform::mark_erase_done(&mut tx, &site, &user, base.clock.now()).await?;
            tx.commit().await?;
            done += 1;
        }
    }
    Ok(done)
}

/// Ends the accounts and apps of an erased person, and the sessions that were opened for them meanwhile; says how many accounts
/// and apps. One that cannot be ended keeps none of the others.
async fn end_accounts(outside: &Outside, site: &SiteId, actor: &Actor, user: &UserId) -> Result<(u64, u64)> {
    let base = &outside.base;
    let owner = Owner::User(user.clone());
    let (mut connections, mut apps, mut failed) = (0, 0, Ok(()));
    // Links and flows first, so that they bring nothing more; and the session of a sign-in that was let pass just before.
    let mut tx = base.db.begin_bookkeeping().await?;
    connect::forget(&mut tx, site, &owner).await?;
    session::close_all_in(base, &mut tx, site, actor, user).await?;
    tx.commit().await?;
    let live = Filter { owner: Some(owner.clone()), ..Filter::default() };
    for connection in connection::list(&base.db, site, &live).await? {
        match revoke::connection(outside, site, actor, &connection.id, REASON, UpstreamWish::IfPossible).await {
            Ok(_) => connections += 1,
            Err(error) => failed = Err(error),
        }
    }
    for app in app_config::list(&base.db, site).await?.into_iter().filter(|app| app.owner == owner) {
        app_config::delete(base, site, actor, &app.provider, &owner).await?;
        apps += 1;
    }
    let mut tx = base.db.begin_bookkeeping().await?;
    connection::forget(&mut tx, site, &owner).await?;
    app_config::forget(&mut tx, site, &owner).await?;
    tx.commit().await?;
    failed.map(|()| (connections, apps))
}

/// Whether nothing of an erased person is left, and nothing can come any more.
async fn is_over(outside: &Outside, site: &SiteId, user: &UserId, since: Timestamp) -> Result<bool> {
    let base = &outside.base;
    let owner = Owner::User(user.clone());
    if base.clock.now() < since.plus(LINGER) || app_config::is_left(&base.db, site, &owner).await? {
        return Ok(false);
    }
    let live = Filter { owner: Some(owner), ..Filter::default() };
    Ok(connection::list(&base.db, site, &live).await?.is_empty())
}
