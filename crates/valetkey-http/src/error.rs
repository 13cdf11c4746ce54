//! Errors as problem documents (RFC 9457), and the one place where a status is chosen.
//!
//! `type` is `about:blank`, so `title` is the status phrase; programs compare `code`. The text for the log travels beside
//! the answer and is written once, by `edge`, together with the request's id.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use valetkey::{Code, Error, deliver};

/// The header of every problem of ours, with its code. A provider's answer that came through the proxy never has it, whatever is
/// in its body.
const ERROR: HeaderName = HeaderName::from_static("valet-error");

/// What a handler answers: its body, or a problem.
pub(crate) type Answer<T> = std::result::Result<T, Problem>;

/// An error on its way out.
#[derive(Debug)]
pub struct Problem(pub Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// The error that an answer was made of, for the log.
#[derive(Clone)]
pub(crate) struct Logged(pub(crate) Arc<Error>);

impl Problem {
    /// The document: what the caller may know.
    pub(crate) fn document(&self) -> Value {
        let error = &self.0;
        let status = status(error.code());
        let mut members = match error.extra() {
            Some(Value::Object(extra)) => extra.clone(),
            _ => Map::new(),
        };
        // After the extras, so that none of them takes the place of these.
        for (name, value) in [
            ("type", json!("about:blank")),
            ("title", json!(status.canonical_reason().unwrap_or("Error"))),
            ("status", json!(status.as_u16())),
            ("code", json!(error.code().as_str())),
            ("detail", json!(error.message())),
        ] {
            members.insert(name.to_owned(), value);
        }
        Value::Object(members)
    }
}

/// A call that waits for a person's word is no failure, and so no problem document: it says where to ask for the answer. The header
/// tells it from an answer of the provider's, which never has one of this name.
fn held(error: &Error) -> Response {
    let mut members = match error.extra() {
        Some(Value::Object(extra)) => extra.clone(),
        _ => Map::new(),
    };
    members.insert("code".to_owned(), json!(error.code().as_str()));
    members.insert("detail".to_owned(), json!(error.message()));
    let id = members.get("approval").and_then(Value::as_str).and_then(|id| HeaderValue::from_str(id).ok());
    let mut response = (StatusCode::ACCEPTED, Value::Object(members).to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(id) = id {
        headers.insert(deliver::approved::HEADER, id);
    }
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.0.code() == Code::ApprovalRequired {
            return held(&self.0);
        }
        let mut response = (status(self.0.code()), self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(ERROR, HeaderValue::from_static(self.0.code().as_str()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.0.code() == Code::Unauthenticated {
            // RFC 6750 section 3. Without `error=`: every reason gets the same answer.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.0.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response.extensions_mut().insert(Logged(Arc::new(self.0)));
        response
    }
}

/// Whole seconds, rounded up: trying again before is useless.
pub(crate) fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The status of a code.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden
        | Code::MissingScope
        | Code::FreshProofNeeded
        | Code::GrantDenied
        | Code::ApprovalRefused
        | Code::IdentityUnverified
        | Code::CredentialPath
        | Code::HostRefused
        | Code::AddressRefused
        | Code::OauthDenied
        | Code::AccessDenied => StatusCode::FORBIDDEN,
        Code::InvalidRequest
        | Code::PathRefused
        | Code::UpgradeRefused
        | Code::NotProxied
        | Code::InvalidState
        | Code::IssuerMismatch
        | Code::MissingParameters
        | Code::TokenSecretExpired => StatusCode::BAD_REQUEST,
        // What the caller entered was tried, and this is what the other side said of it.
        Code::LoginRefused => StatusCode::UNPROCESSABLE_ENTITY,
        Code::NotFound | Code::NoCredentials | Code::NoPerUserCredentials => StatusCode::NOT_FOUND,
        Code::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
        Code::Conflict | Code::Ambiguous | Code::SubjectMismatch | Code::NotConfigured | Code::NotAuthenticated => {
            StatusCode::CONFLICT
        }
        // Not sent yet, and no failure: see `held`.
        Code::ApprovalRequired => StatusCode::ACCEPTED,
        Code::ApprovalUsed | Code::ApprovalMismatch => StatusCode::CONFLICT,
        Code::ApprovalExpired => StatusCode::GONE,
        Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Code::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited | Code::ChainTooDeep => StatusCode::TOO_MANY_REQUESTS,
        Code::EngineMissing => StatusCode::NOT_IMPLEMENTED,
        Code::TokenExchangeFailed
        | Code::RequestTokenFailed
        | Code::AccessTokenFailed
        | Code::TokenTransformFailed
        | Code::AccountFetchFailed
        | Code::UpstreamUnreachable
        | Code::UpstreamInvalid
        | Code::TlsFailed
        | Code::StarttlsMissing => StatusCode::BAD_GATEWAY,
        Code::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        Code::RefreshPending
        | Code::RefreshFailed
        | Code::StorageFailed
        | Code::KeyUnavailable
        | Code::AuditUnavailable
        | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::InvalidConfig | Code::InvalidDefinition | Code::Unsealable | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // A code that was added and not placed here is a defect of ours; a test counts them.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_defects_are_500() {
        let defects: Vec<_> = Code::ALL
            .iter()
            .filter(|code| status(**code) == StatusCode::INTERNAL_SERVER_ERROR)
            .map(|code| code.as_str())
            .collect();
        assert_eq!(defects, ["invalid_config", "invalid_definition", "unsealable", "internal"]);
    }

    #[test]
    fn the_text_for_the_log_is_not_in_the_document() {
        let problem = Problem(Error::internal("canary"));
        assert!(!problem.document().to_string().contains("canary"));
    }

    #[test]
    fn an_extra_member_cannot_take_the_place_of_a_standard_one() {
        let problem = Problem(Error::new(Code::Ambiguous, "two").with_extra(json!({ "status": 200, "choices": ["a", "b"] })));
        assert_eq!(
            problem.document(),
            json!({ "type": "about:blank", "title": "Conflict", "status": 409, "code": "ambiguous", "detail": "two", "choices": ["a", "b"] })
        );
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        assert_eq!((seconds(Duration::from_millis(1)), seconds(Duration::from_millis(2001)), seconds(Duration::ZERO)), (1, 3, 1));
    }
}
