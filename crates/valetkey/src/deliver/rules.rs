//! Which calls the proxy does not pass on, whatever the grant says: methods, overrides of the method, batches.

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use super::{headers::folded_name, query};
use crate::error::{Code, Error, Result};

/// Refuses `TRACE` (echoes headers), its relative `TRACK`, `CONNECT` (a tunnel), and names longer than 32 characters.
/// A method of other characters than RFC 9110's token does not parse in the first place.
pub fn check_method(method: &Method) -> Result<()> {
    let name = method.as_str();
    let refused = ["TRACE", "TRACK", "CONNECT"].iter().any(|never| name.eq_ignore_ascii_case(never));
    if refused || name.len() > 32 {
        return Err(Error::new(Code::MethodRefused, "this method is not proxied"));
    }
    Ok(())
}

/// Headers that make a server act as if another method had been used.
const OVERRIDE_HEADERS: [&str; 4] = ["x-http-method-override", "x-http-method", "x-method-override", "x-original-method"];

/// Query parameters that do the same, folded.
const OVERRIDE_QUERY: [&str; 7] =
    ["_method", "_http_method", "http_method", "$httpmethod", "x-http-method-override", "x-http-method", "x-method-override"];

/// Refuses headers and query parameters that override the method, unless the definition allows them.
///
/// A parameter `method` counts only when its value is the name of a method (Graph reads it so; others use the name
/// for what it is). Overrides inside a body are not looked for: bodies pass unread.
pub fn check_override(headers: &HeaderMap, raw_query: Option<&str>, allowed: bool) -> Result<()> {
    if allowed {
        return Ok(());
    }
    let refused =
        |what: &str| Err(Error::new(Code::MethodRefused, format!("`{what}` overrides the method; use the method itself")));
    for name in headers.keys() {
        if OVERRIDE_HEADERS.contains(&&*folded_name(name)) {
            return refused(name.as_str());
        }
    }
    for (name, value) in raw_query.into_iter().flat_map(query::parameters) {
        let name = query::folded(&name);
        if OVERRIDE_QUERY.contains(&&*name) || (name == "method" && is_a_method(&value)) {
            return refused(&name);
        }
    }
    Ok(())
}

fn is_a_method(value: &str) -> bool {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    METHODS.iter().any(|method| value.trim().eq_ignore_ascii_case(method))
}

/// Segments by which well-known APIs name an endpoint that carries other calls inside: Google and Asana (`batch`),
/// OData and Microsoft Graph (`$batch`), Mailchimp and OpenAI (`batches`), Salesforce (`composite`).
pub const BATCH_SEGMENTS: [&str; 5] = ["batch", "$batch", "_batch", "batches", "composite"];

/// Refuses calls that carry other calls, unless the definition allows them: their inner paths are seen by no rule.
///
/// Refused are, for methods that send something: a path with one of [`BATCH_SEGMENTS`], a query parameter `batch`,
/// and the root of the API or of one of its versions (`/`, `/v19.0`), where Meta's Graph takes batches. `path` is
/// the whole path that is sent, the base's included.
pub fn check_batch(method: &Method, path: &str, raw_query: Option<&str>, allowed: bool) -> Result<()> {
    if allowed || method.is_safe() {
        return Ok(());
    }
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let batch_segment = segments.clone().any(|segment| {
        let decoded = percent_decode_str(segment).decode_utf8_lossy();
        // A definition may let `%2F` pass, and some servers cut `;...` off.
        let mut names = decoded.split('/').map(|name| name.split(';').next().unwrap_or_default());
        names.any(|name| BATCH_SEGMENTS.iter().any(|batch| name.eq_ignore_ascii_case(batch)))
    });
    let at_root = match (segments.next(), segments.next()) {
        (None, _) => true,
        (Some(only), None) => is_version(only),
        _ => false,
    };
    let batch_query = raw_query.into_iter().flat_map(query::parameters).any(|(name, _)| query::folded(&name) == "batch");
    if batch_segment || batch_query || at_root {
        return Err(Error::new(Code::PathRefused, "batch endpoints are not proxied here; make the calls one by one"));
    }
    Ok(())
}

/// `v2`, `v19.0`, `3.0`; a bare number is some object's id.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix(['v', 'V']);
    let number = digits.unwrap_or(segment);
    let numeric = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    numeric && (digits.is_some() || number.contains('.'))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn trace_track_and_connect_are_refused_and_unknown_methods_pass() {
        for refused in ["TRACE", "trace", "TRACK", "CONNECT", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG"] {
            let error = check_method(&refused.parse().unwrap()).unwrap_err();
            assert_eq!(error.code(), Code::MethodRefused, "{refused}");
        }
        for passed in ["GET", "QUERY", "PROPFIND", "X-ODD"] {
            check_method(&passed.parse().unwrap()).unwrap();
        }
        assert!("G ET".parse::<Method>().is_err());
    }

    #[test]
    fn method_overrides_are_refused_unless_allowed() {
        for name in ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "x_http_method_override"] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("DELETE"));
            assert_eq!(check_override(&headers, None, false).unwrap_err().code(), Code::MethodRefused);
            check_override(&headers, None, true).unwrap();
        }
        for query in ["_method=DELETE", "a=1&_METHOD=put", "%5Fmethod=x", "a;_method=x", ".method=DELETE", "method=delete"] {
            assert!(check_override(&HeaderMap::new(), Some(query), false).is_err(), "{query}");
            check_override(&HeaderMap::new(), Some(query), true).unwrap();
        }
        for query in ["method=flickr.photos.search", "methods=delete", "a=_method"] {
            check_override(&HeaderMap::new(), Some(query), false).unwrap();
        }
    }

    #[test]
    fn batch_endpoints_are_refused_unless_allowed() {
        for (path, query) in [
            ("/batch", None),
            ("/batch/drive/v3", None),
            ("/v1.0/$batch", None),
            ("/v1.0/%24batch", None),
            ("/odata/$BATCH;x=1", None),
            ("/3.0/batches", None),
            ("/services/data/v60.0/composite/tree", None),
            ("/", None),
            ("/v19.0", None),
            ("/v19.0/", None),
            ("/3.0", None),
            ("/a%2Fbatch", None),
            ("/me", Some("batch=[]")),
            ("/me", Some("a=1&%62atch=[]")),
        ] {
            assert_eq!(check_batch(&Method::POST, path, query, false).unwrap_err().code(), Code::PathRefused, "{path}");
            check_batch(&Method::POST, path, query, true).unwrap();
        }
        check_batch(&Method::GET, "/v1/batches/1", None, false).unwrap();
        check_batch(&Method::POST, "/v4/spreadsheets/x:batchUpdate", None, false).unwrap();
        check_batch(&Method::POST, "/v1/posts", Some("q=batch"), false).unwrap();
        check_batch(&Method::POST, "/123456789", None, false).unwrap();
    }
}
