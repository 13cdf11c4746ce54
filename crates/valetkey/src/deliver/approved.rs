//! Uses about which a grant asks: held, or carried by the approval that they name (see [`crate::approval`]).
//!
//! A use that names an approval is that approval's, or it is refused: also where no grant would ask about it any more.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use serde_json::json;
use url::form_urlencoded;

use super::{Allowed, Deliverer, Right, explain};
use crate::{
    approval::{self, Approval, Call, Digest, Hold, Status, Summary},
    clock::Timestamp,
    decision::{Effect, Request, decide_approved},
    error::{Code, Error, Result},
    id::{ApprovalId, SiteId},
    principal::Delivery,
};

/// The header by which a use names its approval.
pub const HEADER: &str = "valet-approval";
/// The longest path that is shown, in characters.
const SHOWN_PATH: usize = 2_000;
/// How many names of the query's parameters are shown, and how long one is.
const SHOWN_NAMES: usize = 50;
const SHOWN_NAME: usize = 100;

/// The approval that a use's headers name; absent where they name none.
///
/// # Errors
/// `invalid_request`.
pub fn named(headers: &HeaderMap) -> Result<Option<ApprovalId>> {
    let mut values = headers.get_all(HEADER).iter().map(HeaderValue::to_str);
    let odd = || Error::new(Code::InvalidRequest, "Valet-Approval: it is one id, `apr_` and 32 hex digits");
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => text.parse().map(Some).map_err(|_| odd()),
        _ => Err(odd()),
    }
}

/// A use as it is about to be made.
pub(super) struct Use<'a> {
    pub(super) delivery: Delivery,
    /// What is decided on.
    pub(super) operation: Option<(&'a http::Method, &'a str, &'a [u8])>,
    /// The whole URL; empty where the credential is revealed.
    pub(super) url: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) slot: Option<String>,
    /// The headers that go on.
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl Use<'_> {
    fn method(&self) -> &str {
        self.operation.map_or("", |(method, ..)| method.as_str())
    }

    /// What people see of it.
    fn summary(&self) -> Summary {
        let names = form_urlencoded::parse(self.query.unwrap_or_default().as_bytes());
        // Letters and what is plainly seen: nothing that turns round, hides or breaks what stands beside it.
        let seen = |c: char| if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '\u{fffd}' };
        let text = |text: &str, most| text.chars().take(most).map(seen).collect::<String>();
        let content_type = self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Summary {
            delivery: self.delivery,
            method: self.method().to_owned(),
            host: self.operation.map_or("", |(_, host, _)| host).to_owned(),
            path: match self.path.char_indices().nth(SHOWN_PATH) {
                None => self.path.to_owned(),
                Some((at, _)) => format!("{}... ({} bytes in all)", &self.path[..at], self.path.len()),
            },
            query: names.take(SHOWN_NAMES).map(|(name, _)| text(&name, SHOWN_NAME)).collect(),
            slot: self.slot.as_deref().map(|slot| text(slot, SHOWN_NAME)),
            content_type: content_type.map(|kind| text(kind, SHOWN_NAME)),
            body: self.body.len() as u64,
        }
    }
}

impl Allowed {
    /// Whether the use must be compared with an approval: a grant asks about it, or it names one.
    pub(super) fn is_compared(&self, named: Option<&ApprovalId>) -> bool {
        match &self.right {
            Right::Agent { decision, .. } => decision.effect == Effect::Ask || named.is_some(),
            Right::Owner | Right::Held { .. } => false,
        }
    }
}

impl Deliverer {
    /// Lets a use go on that no grant asks about, or that an approval carries, with that. Any other is held, and goes no
    /// further.
    ///
    /// # Errors
    /// `approval_required` with where to ask for the answer; what [`approval::examine`] says; what is decided anew.
    pub(super) async fn approved(
        &self,
        allowed: Allowed,
        used: &Use<'_>,
        named: Option<&ApprovalId>,
    ) -> Result<(Allowed, Option<Approval>)> {
        let Right::Agent { caller, facts, decision } = &allowed.right else { return Ok((allowed, None)) };
        if !allowed.is_compared(named) {
            return Ok((allowed, None));
        }
        let (base, connection) = (&self.outside.base, &allowed.stored.connection.id);
        let (Some(token), Some(grant)) = (&facts.token, &decision.grant) else {
            return Err(Error::internal("an agent's use without a token or a grant"));
        };
        let call = Call {
            agent: &facts.agent.id,
            person: decision.person.as_ref(),
            connection,
            grant,
            delivery: used.delivery,
            method: used.method(),
            url: used.url,
            slot: used.slot.as_deref(),
            headers: used.headers,
            body: used.body,
        };
        let digest = Digest::of(base, &allowed.site, &call).await?;
        let found = match named {
            Some(id) => approval::examine(base, &allowed.site, id, &facts.agent.id, &digest).await,
            None => {
                let hold = Hold {
                    site: &allowed.site,
                    agent: &facts.agent.id,
                    token: &token.id,
                    person: decision.person.as_ref(),
                    connection,
                    grant,
                    digest: &digest,
                    summary: used.summary(),
                };
                approval::hold(base, &hold).await
            }
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => return Err(self.not_carried(&allowed, error).await?),
        };
        let now = base.clock.now();
        match (named, found.status(now)) {
            (Some(_), Status::Approved) => {}
            (_, Status::Pending | Status::Approved) => return Err(self.waits(&allowed.site, &found, now)),
            (_, status) => return Err(self.not_carried(&allowed, approval::ended(&found, status)).await?),
        }
        // INVARIANT: the digest holds the grant, so this is the grant that asked when the use was held.
        let request = Request { delivery: used.delivery, operation: used.operation, unattended: caller.unattended };
        let anew = decide_approved(facts, &explain::asked(&self.outside, facts, &request), grant, now);
        if !anew.allowed() {
            return Err(self.refuse(caller, facts, &anew, &allowed.actor, connection, used.delivery).await?);
        }
        let right = Right::Agent { caller: caller.clone(), facts: Arc::clone(facts), decision: anew };
        Ok((Allowed { right, ..allowed }, Some(found)))
    }

    /// Records that no approval carries a use. Other errors are no refusals, and pass as they are.
    pub(super) async fn not_carried(&self, allowed: &Allowed, error: Error) -> Result<Error> {
        let refusals = [
            Code::ApprovalExpired,
            Code::ApprovalMismatch,
            Code::ApprovalRefused,
            Code::ApprovalUsed,
            Code::NotFound,
            Code::RateLimited,
        ];
        if refusals.contains(&error.code()) { self.not_taken(allowed, error, "approval").await } else { Ok(error) }
    }

    /// What an agent is told of a use that waits, or that was approved and is not made with its approval.
    fn waits(&self, site: &SiteId, found: &Approval, now: Timestamp) -> Error {
        let (path, status) = (format!("/approvals/{}", found.id), found.status(now));
        let words = format!("approval approve {}", found.id);
        let (page, command) = self.outside.page_or_command(found.owner.user(), &path, &words, site);
        let text = match (status, &command) {
            (Status::Approved, _) => "a person approved this; make it again with the header Valet-Approval".to_owned(),
            (_, None) => "a person has to approve this first; ask at `poll` for the answer, \
                          then make it again with the header Valet-Approval"
                .to_owned(),
            (_, Some(command)) => format!(
                "whoever administers the site has to approve this first, in their platform or with `{command}`; \
                 ask at `poll` for the answer, then make it again with the header Valet-Approval"
            ),
        };
        Error::new(Code::ApprovalRequired, text).with_extra(json!({
            "approval": found.id, "grant": found.grant, "status": status, "poll": format!("/v1{path}"),
            "page": page, "command": command, "expires_at": found.expires_at,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_named_once_and_plainly() {
        let id = ApprovalId::new();
        let headers = |values: &[&str]| -> HeaderMap {
            values.iter().map(|value| (http::HeaderName::from_static(HEADER), value.parse().unwrap())).collect()
        };
        assert_eq!(named(&headers(&[])).unwrap(), None);
        assert_eq!(named(&headers(&[id.as_str()])).unwrap(), Some(id.clone()));
        for wrong in [&[""][..], &["apr_1"], &["con_00000000000000000000000000000000"], &[id.as_str(), id.as_str()], &["\u{e9}"]]
        {
            assert_eq!(named(&headers(wrong)).unwrap_err().code(), Code::InvalidRequest, "{wrong:?}");
        }
    }

    #[test]
    fn people_see_names_of_the_query_and_never_its_values() {
        let headers = HeaderMap::new();
        let path = format!("/{}", "x".repeat(3_000));
        let seen = Use {
            delivery: Delivery::Proxy,
            operation: Some((&http::Method::GET, "api.example.com", path.as_bytes())),
            url: "https://api.example.com/x?secret=canary&b%5B%5D=canary&%E2%80%AEx%0A=canary",
            path: &path,
            query: Some("secret=canary&b%5B%5D=canary&%E2%80%AEx%0A=canary"),
            slot: None,
            headers: &headers,
            body: b"canary",
        }
        .summary();
        assert_eq!(seen.query, ["secret", "b[]", "\u{fffd}x\u{fffd}"]);
        assert!(!serde_json::to_string(&seen).unwrap().contains("canary"));
        assert!(seen.path.ends_with("(3001 bytes in all)"));
        assert_eq!(seen.body, 6);
    }
}
