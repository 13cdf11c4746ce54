//! What would become of a use, without making it (promise 6).

use super::{
    choice,
    proxy::{check_operation, proxied},
};
use crate::{
    base::Outside,
    clock::Timestamp,
    connection::Connection,
    decision::{Decision, Effect, Facts, RATE, Reason, Request, decide},
    error::{Code, Error, Result},
    grant::Limits,
    principal::Delivery,
    provider::pattern::MAIL_METHOD,
};

/// The decision on a use as it would be made now: by what is granted, and for a proxied call by the rules that hold whatever
/// is granted. It asks in the order in which a use meets them, so that it gives the code that the use would get.
///
/// What hangs on more of a call than its method, host and path is not asked: its query, its headers, its body, and whether a
/// token can be had.
///
/// A mailbox is not spoken to through the proxy. What a platform asks with `MAIL` before it opens one itself is a question to
/// the grants alone.
pub fn explain(outside: &Outside, facts: &Facts, request: &Request<'_>, now: Timestamp) -> Decision {
    let names_mail = request.operation.is_some_and(|(method, ..)| method.as_str() == MAIL_METHOD);
    if request.delivery == Delivery::Reveal || (names_mail && is_mailbox(outside, facts)) {
        let decision = decide(facts, &asked(outside, facts, request), now);
        return match check_reveal(outside, facts, request) {
            Err(error) if !decision.denied() => refused(decision, &error),
            _ => decision,
        };
    }
    let general = decide(facts, &Request { operation: None, ..request.clone() }, now);
    let Some(connection) = facts.connection.as_ref().filter(|_| !general.denied()) else { return general };
    match check(outside, &connection.stored.connection, request) {
        Ok(()) => decide(facts, request, now),
        Err(error) => refused(general, &error),
    }
}

/// What a rule makes of a decision that is none of its own.
fn refused(decision: Decision, error: &Error) -> Decision {
    Decision {
        effect: Effect::Deny,
        code: Some(error.code()),
        grant: None,
        counted: false,
        rate: None,
        reasons: vec![Reason { fact: error.code().as_str(), text: error.message().to_owned(), change: None }],
        ..decision
    }
}

fn check_reveal(outside: &Outside, facts: &Facts, request: &Request<'_>) -> Result<()> {
    match (&request.delivery, &facts.connection) {
        (Delivery::Reveal, Some(connection)) => {
            choice::check_reveal(outside.definition(&connection.stored.connection.provider)?.as_ref())
        }
        _ => Ok(()),
    }
}

/// [`explain`], and whether the grant by which a use would pass has one left at this moment. It takes none.
///
/// How many are left in all stands among the facts, and [`explain`] says it; how many in a stretch of time, only what all replicas
/// reserved says.
pub async fn evaluate(
    outside: &Outside,
    limits: &Limits,
    facts: &Facts,
    request: &Request<'_>,
    now: Timestamp,
) -> Result<Decision> {
    let decision = explain(outside, facts, request, now);
    let (true, Some(rate), Some(grant)) = (decision.allowed(), decision.rate, &decision.grant) else { return Ok(decision) };
    let Some(wait) = limits.wait(&outside.base.db, &facts.site, grant, rate, now).await? else { return Ok(decision) };
    let text = format!("grant {grant}: it is for {rate}, and that is reached; a use is free again in {} s", wait.as_secs() + 1);
    Ok(Decision {
        effect: Effect::Deny,
        code: Some(Code::RateLimited),
        grant: None,
        counted: false,
        rate: None,
        reasons: vec![Reason { fact: RATE, text, change: Some("wait, or grant it with a higher rate") }],
        ..decision
    })
}

/// A request as it is decided. Of a mailbox a part can be revealed. Of anything else it is all or nothing, and `MAIL` is no
/// operation of it: there a reveal asks for what no grant names.
pub(super) fn asked<'r>(outside: &Outside, facts: &Facts, request: &Request<'r>) -> Request<'r> {
    static ALL: http::Method = http::Method::GET;
    match request.delivery {
        Delivery::Reveal if !is_mailbox(outside, facts) => {
            Request { operation: Some((&ALL, "", b"/".as_slice())), ..request.clone() }
        }
        Delivery::Reveal | Delivery::Proxy => request.clone(),
    }
}

fn is_mailbox(outside: &Outside, facts: &Facts) -> bool {
    let provider = facts.connection.as_ref().map(|connection| &connection.stored.connection.provider);
    provider.and_then(|provider| outside.catalogue.get(provider)).is_some_and(|definition| definition.mail.is_some())
}

fn check(outside: &Outside, connection: &Connection, request: &Request<'_>) -> Result<()> {
    let definition = outside.definition(&connection.provider)?;
    let proxy = proxied(&definition)?;
    let Some((method, host, path)) = request.operation else { return Ok(()) };
    let path = std::str::from_utf8(path).map_err(|_| Error::new(Code::PathRefused, "the path is no text"))?;
    check_operation(&definition, proxy, connection, (method, host, path), None)
}
