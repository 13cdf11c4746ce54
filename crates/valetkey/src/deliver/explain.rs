//! What would become of a use, without making it (promise 6).

use super::proxy::{check_operation, proxied};
use crate::{
    base::Outside,
    clock::Timestamp,
    connection::Connection,
    decision::{Decision, Effect, Facts, Reason, Request, decide},
    error::{Code, Error, Result},
    principal::Delivery,
};

/// The decision on a use as it would be made now: by what is granted, and for a proxied call by the rules that hold whatever
/// is granted. It asks in the order in which a use meets them, so that it gives the code that the use would get.
///
/// What hangs on more of a call than its method, host and path is not asked: its query, its headers, its body, and whether a
/// token can be had.
pub fn explain(outside: &Outside, facts: &Facts, request: &Request<'_>, now: Timestamp) -> Decision {
    let general = decide(facts, &Request { operation: None, ..request.clone() }, now);
    let goes_out = general.allowed() && request.delivery == Delivery::Proxy;
    let Some(connection) = facts.connection.as_ref().filter(|_| goes_out) else { return general };
    match check(outside, &connection.stored.connection, request) {
        Ok(()) => decide(facts, request, now),
        Err(error) => Decision {
            effect: Effect::Deny,
            code: Some(error.code()),
            grant: None,
            counted: false,
            reasons: vec![Reason { fact: error.code().as_str(), text: error.message().to_owned(), change: None }],
            ..general
        },
    }
}

fn check(outside: &Outside, connection: &Connection, request: &Request<'_>) -> Result<()> {
    let definition = outside.definition(&connection.provider)?;
    let proxy = proxied(&definition)?;
    let Some((method, host, path)) = request.operation else { return Ok(()) };
    let path = std::str::from_utf8(path).map_err(|_| Error::new(Code::PathRefused, "the path is no text"))?;
    check_operation(&definition, proxy, &connection.hosts, (method, host, path), None)
}
