//! What a person chose from a provider's lists binds the calls: where the definition says how a call names an entry
//! (`resources.NAME.only`), one that names another, or that names none and is not open, is not made.
//!
//! A token that is handed out is bound by nothing, so none is where calls are bound.

use http::HeaderMap;

use crate::{
    connection::Connection,
    error::{Code, Error, Result},
    provider::{Definition, step::Step},
};

/// How many ids of chosen entries a refusal names.
const NAMED: usize = 3;

/// Method, host in lower case, and whole path.
type Call<'a> = (&'a str, &'a str, &'a [u8]);

/// Refuses a call whose method, host or path does not belong to what is chosen.
///
/// # Errors
/// `path_refused`.
pub(super) fn check(definition: &Definition, connection: &Connection, call: Call<'_>) -> Result<()> {
    let is_let = |list: &str, step: &Step| step.only.iter().any(|only| only.lets(call, ids(connection, list)));
    match definition.binding().find(|(list, step)| !is_let(list, step)) {
        None => Ok(()),
        Some((list, _)) => Err(refused(definition, connection, list)),
    }
}

/// Whether only the body of a call says what it is about, so that it must be read before the call is made.
pub(super) fn is_in_body(definition: &Definition, connection: &Connection, call: Call<'_>) -> bool {
    definition.binding().any(|(list, step)| hangs_on_body(connection, list, step, call))
}

/// Refuses a call whose body does not belong to what is chosen, where the body says what the call is about.
///
/// # Errors
/// `path_refused`.
pub(super) fn check_body(
    definition: &Definition,
    connection: &Connection,
    call: Call<'_>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<()> {
    for (list, step) in definition.binding().filter(|(list, step)| hangs_on_body(connection, list, step, call)) {
        let mut lets = step.only.iter().filter(|only| only.names_in_body() && only.lets(call, ids(connection, list)));
        if !lets.any(|only| only.lets_body(headers, query, body, ids(connection, list))) {
            return Err(refused(definition, connection, list));
        }
    }
    Ok(())
}

/// Refuses to hand a token out that would reach what was not chosen.
///
/// # Errors
/// `grant_denied`.
pub(super) fn check_reveal(definition: &Definition) -> Result<()> {
    if !definition.is_bound() {
        return Ok(());
    }
    let text = format!(
        "what of {} may be used was chosen, and a token that is handed out is not bound by that; make the call through the proxy",
        definition.title
    );
    Err(Error::new(Code::GrantDenied, text))
}

/// Whether all that was chosen `then` is chosen `now`. What was added since takes nothing from a call that is under way.
pub(super) fn is_whole(then: &Connection, now: &Connection) -> bool {
    then.resources.iter().all(|(list, chosen)| chosen.iter().all(|one| ids(now, list).any(|id| id == one.id)))
}

fn hangs_on_body(connection: &Connection, list: &str, step: &Step, call: Call<'_>) -> bool {
    !step.only.iter().any(|only| !only.names_in_body() && only.lets(call, ids(connection, list)))
}

fn ids<'c>(connection: &'c Connection, list: &str) -> impl Iterator<Item = &'c str> + use<'c> {
    connection.resources.get(list).into_iter().flatten().map(|chosen| chosen.id.as_str())
}

fn refused(definition: &Definition, connection: &Connection, list: &str) -> Error {
    let mut ids = ids(connection, list);
    let named: Vec<&str> = ids.by_ref().take(NAMED).collect();
    let text = match (named.is_empty(), ids.next()) {
        (true, _) => {
            format!("nothing of `{list}` is chosen yet; whoever owns the account chooses, and until then no call is made")
        }
        (false, None) => format!("of `{list}` only {} is chosen, and this call is not about that", named.join(", ")),
        (false, Some(_)) => {
            format!("of `{list}` only {} and others are chosen, and this call is about none of them", named.join(", "))
        }
    };
    Error::new(Code::PathRefused, format!("{}: {text}", definition.title))
}
