//! The page on which a person chooses from the provider's lists, after the account was connected.
//!
//! The account is stored already: who leaves this page loses nothing, and can choose later. The page belongs to the browser
//! that brought the account, for as long as what became of its session is remembered.

use super::{Ended, session, store::Session};
use crate::{
    base::Outside,
    connection::{self, Status, open_account},
    error::{Code, Error, Result},
    id::{ConnectSessionId, SiteId, sha256_hex},
    resource::{self, Choice, List},
    secret::{Secret, SecretMap},
};

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Choosing {
    /// The provider's name for people.
    pub title: String,
    /// What upstream calls the account.
    pub account: Option<String>,
    /// The lists from which the person chooses.
    pub lists: Vec<List>,
    /// The origin of where the browser goes afterwards, if that is not a page of ours.
    pub return_to: Option<String>,
    /// The token that the page's form carries.
    pub csrf: Secret,
}

/// Opens the page.
///
/// # Errors
/// `not_found` for any other browser than the one that connected the account, and where there is none; and as
/// [`resource::lists`].
pub async fn open(outside: &Outside, site: &SiteId, session: &ConnectSessionId, binding: Option<&Secret>) -> Result<Choosing> {
    let session = session::bound(outside, site, session, binding).await?;
    let (connection, account) = account(outside, &session).await?;
    let mut lists = resource::lists(outside, &connection, &account).await?;
    lists.retain(|list| list.person_chooses);
    let csrf = csrf(&session, binding)?;
    let return_to = session.return_to.as_deref().and_then(|url| url::Url::parse(url).ok());
    let return_to = return_to.map(|url| url.origin().ascii_serialization());
    let title = outside.definition(&connection.provider)?.title.clone();
    Ok(Choosing { title, account: connection.subject_name, lists, return_to, csrf })
}

/// Takes the person's choice.
///
/// # Errors
/// As [`open`] and [`resource::choose`]; `forbidden` for a form that is not our page's.
pub async fn take(
    outside: &Outside,
    site: &SiteId,
    session: &ConnectSessionId,
    binding: Option<&Secret>,
    given: &Secret,
    choice: &Choice,
) -> Result<Ended> {
    let session = session::bound(outside, site, session, binding).await?;
    if !csrf(&session, binding)?.matches(given) {
        return Err(Error::new(Code::Forbidden, "this form did not come from our page; open the page again"));
    }
    let (connection, account) = account(outside, &session).await?;
    let actor = session::person_or_maker(&session);
    resource::choose(outside, site, &actor, &connection.id, &account, choice).await?;
    let mut ended = session::ended(outside, session).await?;
    ended.choose = None;
    Ok(ended)
}

async fn account(outside: &Outside, session: &Session) -> Result<(connection::Connection, SecretMap)> {
    session::still_may(outside, &session.site, &session.owner, &session.created_by).await?;
    let none = || Error::new(Code::NotFound, "there is no account to choose for; connect it again");
    let id = session.connection.as_ref().ok_or_else(none)?;
    let stored = connection::load(&outside.base.db, &session.site, id).await?.ok_or_else(none)?;
    let (Status::Active, Some(sealed)) = (&stored.connection.status, &stored.sealed) else { return Err(none()) };
    let account = open_account(&outside.base, &stored.connection, sealed).await?;
    Ok((stored.connection, account))
}

/// Told from the value of the browser's cookie, which no page shows.
fn csrf(session: &Session, binding: Option<&Secret>) -> Result<Secret> {
    let binding = binding.ok_or_else(session::gone)?;
    Ok(Secret::new(sha256_hex(format!("valetkey choice form\n{}\n{}", session.id, binding.expose()).as_bytes())))
}
