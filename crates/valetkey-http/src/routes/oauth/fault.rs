//! Refusals in the form of RFC 6749 section 5.2.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use valetkey::{
    Code,
    oauth::{Fault, Word},
};

use crate::error::{Logged, seconds, status};

/// How a caller may prove itself in the header (RFC 7617).
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"valetkey\", charset=\"UTF-8\"");

/// A refusal on its way out.
pub(super) struct Refusal {
    fault: Fault,
    wait: Option<Duration>,
}

impl Refusal {
    /// A refusal to somebody who failed too often.
    pub(super) fn wait(wait: Duration) -> Self {
        Self { fault: Fault::new(Word::SlowDown, "too many attempts failed; wait, then try again"), wait: Some(wait) }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { fault, wait: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, word, text) = match &self.fault {
            Fault::Refused { word, text, .. } => (status_of(*word, self.wait), word.as_str(), plain(text)),
            Fault::Failed(error) => {
                let status = status(error.code());
                let word = match status {
                    StatusCode::INTERNAL_SERVER_ERROR => "server_error",
                    status if status.is_server_error() => "temporarily_unavailable",
                    // A word of ours (RFC 6749 section 8.5): none of the standard's says that trying again does not help.
                    _ if error.code() == Code::ChainTooDeep => Code::ChainTooDeep.as_str(),
                    _ => Word::InvalidRequest.as_str(),
                };
                (status, word, plain(error.message()))
            }
        };
        // The members of the standard last: nothing stands in their place.
        let mut body = match self.fault.more() {
            Some(Value::Object(members)) => members.clone(),
            _ => Map::new(),
        };
        body.insert("error".to_owned(), json!(word));
        body.insert("error_description".to_owned(), json!(text));
        let mut response = answer(code, &Value::Object(body));
        let headers = response.headers_mut();
        if code == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, BASIC);
        }
        if let Some(wait) = self.wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        if let Fault::Failed(error) = self.fault {
            response.extensions_mut().insert(Logged(Arc::new(error)));
        }
        response
    }
}

fn status_of(word: Word, wait: Option<Duration>) -> StatusCode {
    match word {
        _ if wait.is_some() => StatusCode::TOO_MANY_REQUESTS,
        Word::InvalidClient => StatusCode::UNAUTHORIZED,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// What may stand in a description (RFC 6749 section 5.2).
fn plain(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') && c != '"' && c != '\\' { c } else { '\'' }).collect()
}

/// JSON that nobody keeps (RFC 6749 section 5.1).
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_holds_only_what_the_standard_lets_it() {
        assert_eq!(plain("a `b` \"c\" \\ é\n"), "a `b` 'c' ' ''");
    }
}
