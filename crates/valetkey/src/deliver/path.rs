//! The path of a proxied call: refused where it could mean something else to the provider than to us.
//!
//! Grants and credential paths are matched against the bytes that are sent. So a path may not hold anything that
//! a server on the way might resolve, decode twice or fold into another path. Nothing is repaired: the caller is
//! told what was found.

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::error::{Code, Error, Result};

/// A path that passed: exactly the bytes that are sent after the base URL's path. Begins with `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanPath<'a>(&'a str);

impl<'a> CleanPath<'a> {
    /// Checks the raw path of a request (without its query). `encoded_slashes`: the definition lets `%2F` pass.
    ///
    /// Refused with `path_refused`: dot segments in any spelling (also before `;`), empty segments, `\`, `%2F`
    /// (unless allowed), `%5C`, `%25`, encoded control characters, encoded letters and digits, broken escapes,
    /// escapes that are not UTF-8, and every raw byte that RFC 3986 does not let stand in a path.
    pub fn parse(raw: &'a str, encoded_slashes: bool) -> Result<Self> {
        let Some(rest) = raw.strip_prefix('/') else {
            return Err(refused("it does not begin with `/`"));
        };
        let mut decoded = Vec::with_capacity(if rest.contains('%') { rest.len() } else { 0 });
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_some() {
                return Err(refused("it holds an empty segment (`//`)"));
            }
            if segment.bytes().all(is_plain) {
                check_dots(segment.as_bytes())?;
                continue;
            }
            decoded.clear();
            decode(segment, encoded_slashes, &mut decoded)?;
            if std::str::from_utf8(&decoded).is_err() {
                return Err(refused("its escapes are not UTF-8"));
            }
            let mut parts = decoded.split(|byte| *byte == b'/').peekable();
            while let Some(part) = parts.next() {
                // An encoded slash may end the whole path, as a plain one may; nowhere may two meet.
                if part.is_empty() && (parts.peek().is_some() || segments.peek().is_some()) {
                    return Err(refused("it holds an empty segment (`//`)"));
                }
                check_dots(part)?;
            }
        }
        Ok(Self(raw))
    }

    /// The path as it is sent.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The URL of a call: the base's scheme, authority and path, this path, and the query as it came.
    ///
    /// A trailing slash of the base path is not doubled.
    pub fn under(self, scheme: Scheme, authority: Authority, base_path: &str, query: Option<&str>) -> Result<Uri> {
        let base = base_path.strip_suffix('/').unwrap_or(base_path);
        let length = base.len() + self.0.len() + query.map_or(0, |query| query.len() + 1);
        let mut whole = String::with_capacity(length);
        whole.push_str(base);
        whole.push_str(self.0);
        if let Some(query) = query {
            whole.push('?');
            whole.push_str(query);
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(bytes::Bytes::from(whole)).map_err(|_| too_odd())?);
        Uri::from_parts(parts).map_err(|_| too_odd())
    }
}

fn too_odd() -> Error {
    Error::new(Code::PathRefused, "the path and query are too long or hold what a URL cannot")
}

fn refused(found: &str) -> Error {
    Error::new(Code::PathRefused, format!("the path is refused because {found}"))
}

/// Characters that RFC 3986 lets stand in a segment, except `%`, and with no second meaning.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

/// `.`, `..`, and both with parameters behind: some servers cut `;...` off before they resolve.
fn check_dots(segment: &[u8]) -> Result<()> {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    match name {
        b"." | b".." => Err(refused("it holds a dot segment")),
        _ => Ok(()),
    }
}

fn decode(segment: &str, encoded_slashes: bool, into: &mut Vec<u8>) -> Result<()> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at).copied() {
        if byte != b'%' {
            if !is_plain(byte) {
                return Err(refused(&match byte {
                    b'\\' => "it holds a backslash".to_owned(),
                    b'#' => "it holds a fragment (`#`)".to_owned(),
                    0..=0x1f | 0x7f => "it holds a control character".to_owned(),
                    0x80.. => "it holds a character that must be percent-encoded".to_owned(),
                    _ => format!("it holds `{}`, which must be percent-encoded", char::from(byte)),
                }));
            }
            into.push(byte);
            at += 1;
            continue;
        }
        let hex = |offset| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (hex(1), hex(2)) else {
            return Err(refused("it holds a broken escape (`%` without two hex digits)"));
        };
        #[expect(clippy::cast_possible_truncation, reason = "two hex digits make one byte")]
        let value = (high * 16 + low) as u8;
        let escape = segment.get(at..at + 3).unwrap_or("%");
        match value {
            b'/' if encoded_slashes => {}
            b'/' => return Err(refused("it holds an encoded slash (`%2F`)")),
            b'\\' => return Err(refused("it holds an encoded backslash (`%5C`)")),
            b'%' => return Err(refused("it holds an encoded percent sign (`%25`)")),
            0..=0x1f | 0x7f => return Err(refused(&format!("it holds an encoded control character (`{escape}`)"))),
            // Two spellings of one path; only the plain one is what a grant or a credential path names.
            b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                return Err(refused(&format!("it encodes a character that needs no encoding (`{escape}`)")));
            }
            _ => {}
        }
        into.push(value);
        at += 3;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(raw: &str) -> String {
        let error = CleanPath::parse(raw, false).unwrap_err();
        assert_eq!(error.code(), Code::PathRefused);
        error.message().to_owned()
    }

    #[test]
    fn a_plain_path_passes_as_it_is() {
        for raw in [
            "/",
            "/v1/users/42",
            "/v1/users/42/",
            "/a.b/..c/...",
            "/2/users/me:search",
            "/caf%C3%A9/%F0%9F%94%91",
            "/users('x')/$value;a=1",
            "/me%20and%3Ayou%40home%7E",
        ] {
            assert_eq!(CleanPath::parse(raw, false).unwrap().as_str(), raw);
        }
    }

    #[test]
    fn what_could_mean_another_path_is_refused_by_name() {
        for (raw, what) in [
            ("v1", "does not begin"),
            ("", "does not begin"),
            ("/a/../b", "dot segment"),
            ("/a/..", "dot segment"),
            ("/./a", "dot segment"),
            ("/a/..;x=1/b", "dot segment"),
            ("/a/.;/b", "dot segment"),
            ("/a/..%3Bx/b", "dot segment"),
            ("/a/%2e%2e/b", "%2e"),
            ("/a/.%2E/b", "%2E"),
            ("/a/%2e", "%2e"),
            ("//a", "empty segment"),
            ("/a//b", "empty segment"),
            ("/a//", "empty segment"),
            ("/a\\b", "backslash"),
            ("/a%2fb", "%2F"),
            ("/a%2Fb", "%2F"),
            ("/a%5cb", "%5C"),
            ("/a%00", "%00"),
            ("/a%0d%0aX", "%0d"),
            ("/a%7f", "%7f"),
            ("/a%252e", "%25"),
            ("/%6cogin", "%6c"),
            ("/a%", "broken escape"),
            ("/a%2", "broken escape"),
            ("/a%zz", "broken escape"),
            ("/a%C0%AFb", "not UTF-8"),
            ("/a%FF", "not UTF-8"),
            ("/a\u{1}", "control character"),
            ("/a\tb", "control character"),
            ("/a b", "` `"),
            ("/caf\u{e9}", "percent-encoded"),
            ("/a#b", "fragment"),
            ("/a?b", "`?`"),
            ("/{id}", "`{`"),
            ("/a\"b", "`\"`"),
            ("/a|b", "`|`"),
            ("/[a]", "`[`"),
        ] {
            let message = found(raw);
            assert!(message.contains(what), "{raw}: {message}");
        }
    }

    #[test]
    fn an_allowed_encoded_slash_still_hides_no_dots() {
        assert_eq!(CleanPath::parse("/projects/a%2Fb/x", true).unwrap().as_str(), "/projects/a%2Fb/x");
        assert!(CleanPath::parse("/projects/a%2F", true).is_ok());
        for raw in ["/a%2F..%2Fb", "/a%2F..", "/..%2Fa", "/a%2F/b", "/a%2F%2Fb", "/%2Fa", "/a/%2Fb", "/a%2F.;x"] {
            assert!(CleanPath::parse(raw, true).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_base_path_is_kept_and_its_slash_not_doubled() {
        let uri = |base, raw, query| {
            let path = CleanPath::parse(raw, false).unwrap();
            path.under(Scheme::HTTPS, Authority::from_static("api.example.com"), base, query).unwrap().to_string()
        };
        assert_eq!(uri("/v2/", "/me", Some("a=%20&b")), "https://api.example.com/v2/me?a=%20&b");
        assert_eq!(uri("/", "/", None), "https://api.example.com/");
        assert_eq!(uri("", "/me/", None), "https://api.example.com/me/");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// R65b: whatever passes reads the same to a URL parser and stays under the base.
        #[test]
        fn what_passes_is_read_the_same_by_a_url_parser_and_stays_under_the_base(
            raw in "/(\\.|/|%2[eEfF5]|%5[cC]|%[0-9a-fA-F]{2}|;|\\\\|:|@|[a-c]|[ -~]|é){0,12}",
            encoded_slashes: bool,
        ) {
            if let Ok(path) = CleanPath::parse(&raw, encoded_slashes) {
                let sent = path.under(Scheme::HTTPS, Authority::from_static("h.example"), "/base", None).unwrap();
                prop_assert_eq!(sent.path(), format!("/base{raw}"));
                let parsed = url::Url::parse(&format!("https://h.example/base{raw}")).unwrap();
                prop_assert_eq!(parsed.path(), format!("/base{raw}"));
                prop_assert_eq!(parsed.host_str(), Some("h.example"));
                prop_assert!(parsed.query().is_none() && parsed.fragment().is_none());
                // Nor does decoding it once give a server anything to resolve.
                let decoded = percent_encoding::percent_decode_str(&raw).decode_utf8().unwrap();
                prop_assert!(decoded.split('/').all(|segment| !matches!(segment.split(';').next(), Some("." | ".."))));
                prop_assert!(!decoded.contains("//") && !decoded.contains('\\') && !decoded.contains('%'));
            }
        }

        #[test]
        fn any_text_is_answered_without_a_panic(raw in "\\PC*", encoded_slashes: bool) {
            let _ = CleanPath::parse(&raw, encoded_slashes);
        }
    }
}
