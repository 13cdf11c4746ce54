//! Parameters that make an answer hold a credential (`fields=access_token`), or that turn a call into another one
//! (`_method`, `rest_route`), wherever a provider reads them: in the query, in a form, in JSON, in the parts of a multipart
//! body.
//!
//! What is forbidden here is forbidden in every spelling that a server might take for it; when in doubt it is caught.

use http::{HeaderMap, header};
use serde::Serialize;
use serde_json::Value;

use super::strict_json::json_value;

/// A parameter that is never proxied.
#[derive(Clone, Debug, Serialize)]
pub struct CredentialQuery {
    /// The parameter; compared without regard to ASCII case.
    pub name: String,
    /// The word in its value that makes it so; compared the same way. Empty: whatever its value.
    pub contains: String,
}

/// How a body carries parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// As `application/x-www-form-urlencoded`.
    Form,
    /// As members of a JSON object.
    Json,
    /// As the parts of `multipart/form-data`.
    Multipart,
    /// There are two types, or one that is no text.
    Unclear,
    /// It carries none.
    Other,
}

/// How a body with these headers carries parameters.
pub fn kind(headers: &HeaderMap) -> BodyKind {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return if headers.contains_key(header::CONTENT_TYPE) { BodyKind::Unclear } else { BodyKind::Other };
    };
    let Ok(text) = first.to_str() else { return BodyKind::Unclear };
    // Up to the first parameter; a comma would be a second type to some servers.
    let essence = text.split([';', ' ', '\t']).find(|piece| !piece.is_empty()).unwrap_or_default().to_ascii_lowercase();
    match essence.as_str() {
        _ if text.contains(',') && !text.contains('"') => BodyKind::Unclear,
        "application/x-www-form-urlencoded" => BodyKind::Form,
        "multipart/form-data" => BodyKind::Multipart,
        json if json.ends_with("/json") || json.ends_with("+json") => BodyKind::Json,
        _ => BodyKind::Other,
    }
}

impl CredentialQuery {
    /// Whether the query holds the parameter with the word, plain or escaped once or twice.
    pub fn matches(&self, query: &str) -> bool {
        url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| self.is(&name, &value))
    }

    /// Whether a body does.
    pub(super) fn matches_body(&self, kind: BodyKind, body: &[u8]) -> bool {
        match kind {
            BodyKind::Other => false,
            BodyKind::Unclear => true,
            BodyKind::Form => url::form_urlencoded::parse(body).any(|(name, value)| self.is(&name, &value)),
            BodyKind::Json if body.iter().all(u8::is_ascii_whitespace) => false,
            BodyKind::Json => match json_value(body) {
                Some(Value::Object(members)) => members.iter().any(|(name, value)| match value {
                    Value::String(text) => self.is(name, text),
                    other => self.is(name, &other.to_string()),
                }),
                // Parameters have names; a list or a single value has none.
                Some(_) => false,
                None => true,
            },
            BodyKind::Multipart => self.is_in_parts(body),
        }
    }

    /// Whether a multipart body has a part of this name (RFC 7578). Parts are not taken apart, since servers differ in
    /// how: quotes, escapes and white space are left out, and the name is looked for after `name=`; the word anywhere.
    fn is_in_parts(&self, body: &[u8]) -> bool {
        let text: Vec<u8> =
            body.iter().filter(|b| !matches!(b, b'"' | b'\'' | b'\\' | b' ' | b'\t')).map(u8::to_ascii_lowercase).collect();
        let text = String::from_utf8_lossy(&text);
        let mut parts = text.split("name=").skip(1).map(|rest| rest.split(['\r', '\n', ';']).next().unwrap_or_default());
        parts.any(|name| self.is_name(name)) && text.contains(&self.contains.to_ascii_lowercase())
            // An encoded name (RFC 5987) or an encoded part could be anything.
            || text.contains("name*=")
            || text.contains("content-transfer-encoding:base64")
            || text.contains("content-transfer-encoding:quoted-printable")
    }

    fn is(&self, name: &str, value: &str) -> bool {
        // A second round: some servers decode twice.
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().to_ascii_lowercase();
        self.is_name(name) && value.contains(&self.contains.to_ascii_lowercase())
    }

    /// Whether a server might take this for the parameter. PHP cuts spaces in front, stops at NUL and reads `.`, a space and
    /// a lonely `[` as `_`; `fields[]` is `fields` to many.
    fn is_name(&self, name: &str) -> bool {
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        let name = name.trim().split('\0').next().unwrap_or_default().replace(['.', ' '], "_");
        let whole = name.replace('[', "_");
        let before_bracket = name.split('[').next().unwrap_or_default();
        [before_bracket, whole.as_str(), name.as_str()].iter().any(|name| name.eq_ignore_ascii_case(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(contains: &str) -> CredentialQuery {
        CredentialQuery { name: "rest_route".to_owned(), contains: contains.to_owned() }
    }

    fn body(content_type: &str, body: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        rule("secrets").matches_body(kind(&headers), body.as_bytes())
    }

    #[test]
    fn a_name_is_known_in_every_spelling_that_a_server_takes() {
        for name in [
            "rest_route",
            "REST_Route",
            "rest.route",
            "rest+route",
            "rest[route",
            "%20rest_route",
            "rest_route[]",
            "rest%5Froute",
            "rest%255Froute",
            "rest_route%00x",
        ] {
            assert!(rule("secrets").matches(&format!("a=b&{name}=/x/Secrets")), "{name} slipped past");
        }
        for query in ["rest_routes=secrets", "rest_route=other", "x=rest_route=secrets", ""] {
            assert!(!rule("secrets").matches(query), "{query} was caught");
        }
    }

    #[test]
    fn without_a_word_the_parameter_itself_is_caught() {
        assert!(rule("").matches("rest_route=x") && rule("").matches("rest_route") && !rule("").matches("x=rest_route"));
    }

    #[test]
    fn bodies_are_read_as_what_they_say_they_are() {
        assert!(body("application/x-www-form-urlencoded; charset=utf-8", "a=b&rest_route=secrets"));
        assert!(!body("application/x-www-form-urlencoded", "a=rest_route"));
        assert!(body("application/json", r#"{"rest\u005froute":"/secrets"}"#));
        assert!(body("application/vnd.api+json", r#"{"rest_route":["x","secrets"]}"#));
        assert!(!body("application/json", r#"{"a":{"rest_route":"secrets"}}"#));
        assert!(!body("application/json", ""));
        assert!(!body("image/png", "rest_route=secrets"));
    }

    #[test]
    fn a_body_that_nobody_can_read_is_caught() {
        assert!(body("application/json", r#"{"rest_route":"x","rest_route":"secrets"}"#));
        assert!(body("application/json", "{"));
        assert!(body("application/json, text/plain", "x"));
        let mut headers = HeaderMap::new();
        headers.append(header::CONTENT_TYPE, "image/png".parse().unwrap());
        headers.append(header::CONTENT_TYPE, "application/json".parse().unwrap());
        assert_eq!(kind(&headers), BodyKind::Unclear);
        assert_eq!(kind(&HeaderMap::new()), BodyKind::Other);
    }

    #[test]
    fn a_part_of_a_multipart_body_is_found() {
        let part =
            |disposition: &str| format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n/x/secrets\r\n--b--\r\n");
        for disposition in [
            "name=\"rest_route\"",
            "name=rest_route",
            "NAME = \"rest_route\"",
            "name=\"rest\\_route\"",
            "filename=\"x\"; name='rest_route'",
            "name*=utf-8''rest%5Froute",
            "name=\"rest_route[]\"",
        ] {
            assert!(body("multipart/form-data; boundary=b", &part(disposition)), "{disposition} slipped past");
        }
        assert!(!body("multipart/form-data; boundary=b", &part("name=\"title\"")));
    }
}
