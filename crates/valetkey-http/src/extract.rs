//! Taking a request apart: path, query and JSON body. Every refusal is a problem document, and none repeats a value that
//! was sent, because it may be a secret.

use std::{fmt, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{
    Deserializer,
    de::{self, DeserializeOwned, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use valetkey::{Code, Error};

use crate::error::Problem;

/// The largest JSON body that is read, in bytes.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// How long a body that is read here may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The most parameters of a query.
const MOST_PARAMETERS: usize = 100;

/// The parts of the path, parsed into their types.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(why)) => {
                use axum::extract::path::ErrorKind;
                let text = match why.into_kind() {
                    ErrorKind::ParseErrorAtKey { key, .. } => format!("{key}: it cannot be read"),
                    ErrorKind::DeserializeError { key, message, .. } => format!("{key}: {message}"),
                    ErrorKind::Message(message) => message,
                    _ => "a part of the path cannot be read".to_owned(),
                };
                Err(invalid(text).into())
            }
            Err(other) => Err(Error::internal(other).into()),
        }
    }
}

/// The query, parsed. A parameter that is repeated or not known is refused, an empty one counts as left out.
///
/// `site` is everybody's and read by `caller`.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut rest = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in pairs(parts.uri.query())? {
            if name != "site" {
                rest.append_pair(&name, &value);
            }
        }
        let uri = http::Uri::builder().path_and_query(format!("/?{}", rest.finish())).build().map_err(Error::internal)?;
        match axum::extract::Query::<T>::try_from_uri(&uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(why) => {
                let text = std::error::Error::source(&why).map(ToString::to_string).unwrap_or_default();
                Err(invalid(format!("the query cannot be read: {}", without_value(&text))).into())
            }
        }
    }
}

/// The parameters of a query: each at most once, the empty ones left out (R68).
pub(crate) fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        // Each is compared with those before it, also for whoever shows no credential.
        if pairs.len() >= MOST_PARAMETERS {
            return Err(invalid(format!("the query names more than {MOST_PARAMETERS} parameters")));
        }
        if value.contains('\0') || name.contains('\0') {
            return Err(invalid("the query holds a NUL"));
        }
        if pairs.iter().any(|(known, _)| *known == name) {
            // The name is the caller's own text; it is cut, in case it is none.
            return Err(invalid(format!("the query names `{:.40}` more than once", name)));
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Ok(pairs)
}

/// A JSON body: at most 64 KiB where nothing else is said, only members that are known, no NUL.
#[derive(Debug)]
pub struct Body<T, const MOST: usize = MAX_BODY>(pub T);

impl<T, S, const MOST: usize> FromRequest<S> for Body<T, MOST>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let json = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|text| {
            let essence = text.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
        });
        if !json {
            return Err(invalid("the body is JSON; say so with `Content-Type: application/json`").into());
        }
        let bytes = whole(request.into_body(), MOST).await?;
        parse(&bytes).map(Self).map_err(Problem)
    }
}

/// A whole body of at most so many bytes, and not for ever.
///
/// # Errors
/// `payload_too_large`; `invalid_request` where it broke off or came too slowly.
pub(crate) async fn whole(body: axum::body::Body, most: usize) -> Result<Bytes, Error> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Error::new(Code::PayloadTooLarge, format!("the body is larger than {most} bytes")))
        }
        Ok(Err(error)) => Err(invalid("the body broke off before its end").with_detail(error)),
        Err(_) => Err(invalid("the body did not arrive in time")),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    if holds_nul(bytes) {
        return Err(invalid("the body holds a NUL"));
    }
    serde_json::from_slice(bytes).map_err(|why| invalid(format!("the body cannot be read: {}", without_value(&why.to_string()))))
}

/// The members of an object whose names are not ours. One that stands there twice is refused, as one of ours is: which of them
/// counts, parsers do not agree on.
pub(crate) fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    struct Members;

    impl<'de> Visitor<'de> for Members {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Map::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                if members.insert(name, value).is_some() {
                    return Err(de::Error::custom("a member stands twice"));
                }
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(Members)
}

/// A message of serde's without the value that it quotes: `invalid type: string "...", expected u64 at line 1`.
fn without_value(text: &str) -> String {
    for kind in ["invalid type", "invalid value", "unknown variant"] {
        if text.starts_with(kind) {
            let tail = text.rfind(", expected ").map_or("", |at| &text[at..]);
            return format!("{kind}{tail}");
        }
    }
    text.to_owned()
}

/// Whether a JSON text holds the character U+0000, raw or as `\u0000`.
fn holds_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            0 => return true,
            b'\\' if tail.starts_with(b"u0000") => return true,
            // Whatever is escaped is passed over, so that `\\u0000` is the five characters it says.
            b'\\' => rest = tail.get(1..).unwrap_or_default(),
            _ => rest = tail,
        }
    }
    false
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::InvalidRequest, text)
}

/// JSON on its way out, which nobody may keep.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> axum::response::Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => {
                ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], bytes).into_response()
            }
            Err(error) => Problem(Error::internal(error)).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its parsing counts")]
        n: u64,
    }

    #[test]
    fn a_refused_body_does_not_repeat_what_was_sent() {
        for body in
            [r#"{"n":"canary"}"#, r#"{"n":"canary, expected mischief"}"#, r#"{"n":1,"n":2}"#, r#"{"x":"canary"}"#, "canary"]
        {
            let error = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        assert!(parse::<Sample>(br#"{"n":"canary"}"#).unwrap_err().message().contains("expected u64"));
    }

    #[test]
    fn a_nul_is_refused_however_it_is_written() {
        for body in [&b"{\"n\":\"a\\u0000\"}"[..], b"{\"n\":\"\\\\\\u0000\"}", b"{\"n\":\"\0\"}"] {
            assert!(holds_nul(body));
        }
        assert!(!holds_nul(br#"{"n":"\\u0000"}"#), "an escaped backslash before u0000 is no NUL");
    }

    /// R68: a parameter that is repeated is refused, one that is empty counts as left out.
    #[test]
    fn a_repeated_parameter_is_refused_and_an_empty_one_left_out() {
        assert!(pairs(Some("a=1&a=2")).is_err());
        assert!(pairs(Some("a=1&%61=2")).is_err());
        assert_eq!(pairs(Some("a=&b=1")).unwrap(), [("b".to_owned(), "1".to_owned())]);
        assert!(pairs(Some("a=%00")).is_err());
    }

    #[test]
    fn a_query_of_parameters_without_end_is_refused() {
        let many = |count: usize| (0..count).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
        assert_eq!(pairs(Some(&many(100))).unwrap().len(), 100);
        assert!(pairs(Some(&many(101))).is_err());
    }
}
