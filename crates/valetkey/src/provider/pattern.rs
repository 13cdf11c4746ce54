//! Patterns for paths: what a grant allows, and what is never proxied.
//!
//! ```text
//! [METHOD ][//host]/segment/segment...
//!
//! /oauth/**                          anything below /oauth
//! /api/v1/access_token               exactly this
//! GET /repos/*/issues                one segment stands for `*`
//! /xrpc/com.atproto.server.*         the rest of a segment
//! POST //api.github.com/app/installations/*/access_tokens
//! ```
//!
//! - `*` alone is one segment, which is not empty. Within a segment one `*` stands for any text, also none.
//! - `/**` at the end is anything below: one segment or more.
//! - Without a method every method is meant, without a host every host of the provider.
//! - There is no query, no fragment and no escaping of `*`.
//!
//! One language, two ways to ask. [`matches`](PathPattern::matches) is for what is *allowed*: it compares the bytes
//! that are sent and nothing else, so whatever is spelled differently is not allowed. [`catches`](PathPattern::catches)
//! is for what is *forbidden*: it compares every reading that a server might make of the path (case, escapes, dot
//! segments, doubled slashes, path parameters, a trailing slash), so that no spelling slips past.

use std::{borrow::Cow, cell::OnceCell, fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::error::{Code, Error, Result};

/// What stands for the method in an operation of a mailbox (`MAIL /read`), which is none of HTTP.
pub const MAIL_METHOD: &str = "MAIL";

/// The longest pattern, in bytes.
const MAX_BYTES: usize = 512;

/// How often a path is decoded in search of a forbidden reading. Each round is one level of escaping.
const MAX_ROUNDS: usize = 8;

/// A pattern for a method, a host and a path. See the module for the language.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    source: String,
    method: Option<String>,
    host: Option<String>,
    segments: Vec<Segment>,
    below: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Exact(Vec<u8>),
    Any,
    Around { prefix: Vec<u8>, suffix: Vec<u8> },
}

impl Segment {
    fn matches(&self, segment: &[u8]) -> bool {
        match self {
            Segment::Exact(text) => text == segment,
            Segment::Any => !segment.is_empty(),
            Segment::Around { prefix, suffix } => {
                segment.len() >= prefix.len() + suffix.len() && segment.starts_with(prefix) && segment.ends_with(suffix)
            }
        }
    }

    /// Whether every segment that another one matches is matched by this one.
    fn covers(&self, other: &Segment) -> bool {
        match (self, other) {
            (Segment::Exact(one), Segment::Exact(other)) => one == other,
            (Segment::Exact(_), _) => false,
            (_, Segment::Exact(text)) => self.matches(text),
            (Segment::Any, _) => true,
            (Segment::Around { .. }, Segment::Any) => false,
            (Segment::Around { prefix, suffix }, Segment::Around { prefix: longer, suffix: end }) => {
                longer.starts_with(prefix) && end.ends_with(suffix)
            }
        }
    }

    /// The same segment in lower case.
    fn lowered(&self) -> Segment {
        match self {
            Segment::Exact(text) => Segment::Exact(text.to_ascii_lowercase()),
            Segment::Any => Segment::Any,
            Segment::Around { prefix, suffix } => {
                Segment::Around { prefix: prefix.to_ascii_lowercase(), suffix: suffix.to_ascii_lowercase() }
            }
        }
    }

    /// What becomes of it where its escapes are decoded: an encoded slash makes several of one.
    fn decoded(&self) -> Vec<Segment> {
        let parts = |text: &[u8]| -> Vec<Vec<u8>> {
            let text = decode(text).to_ascii_lowercase();
            text.split(|b| matches!(b, b'/' | b'\\')).map(<[u8]>::to_vec).collect()
        };
        let exact = |part: Vec<u8>| Segment::Exact(trim(&part).to_vec());
        match self {
            Segment::Exact(text) => parts(text).into_iter().map(exact).collect(),
            Segment::Any => vec![Segment::Any],
            Segment::Around { prefix, suffix } => {
                let (mut before, mut behind) = (parts(prefix), parts(suffix).into_iter());
                let around =
                    Segment::Around { prefix: before.pop().unwrap_or_default(), suffix: behind.next().unwrap_or_default() };
                before.into_iter().map(exact).chain([around]).chain(behind.map(exact)).collect()
            }
        }
    }
}

impl PathPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(Code::InvalidRequest, format!("a path pattern {why}")));
        if text.len() > MAX_BYTES {
            return refuse("has at most 512 bytes");
        }
        let (method, rest) = match text.split_once(' ') {
            Some((method, rest)) => (Some(method), rest),
            None => (None, text),
        };
        let is_method = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if method.is_some_and(|method| !is_method(method)) {
            return refuse("starts with a method in capitals and one space, or with `/`");
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(slash) => (Some(rest[..slash].to_ascii_lowercase()), &rest[slash..]),
                None => return refuse("with a host has a path after it"),
            },
            None => (None, rest),
        };
        let is_host = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        if host.as_ref().is_some_and(|host| !is_host(host)) {
            return refuse("names a whole host, without `*`");
        }
        let Some(body) = path.strip_prefix('/') else { return refuse("has a path that starts with `/`") };
        if !path.bytes().all(is_path_byte) || !escapes_are_whole(path.as_bytes()) {
            return refuse("holds only characters that stand in a URL path");
        }
        let (body, below) = match body.strip_suffix("**") {
            Some("") => ("", true),
            Some(rest) => match rest.strip_suffix('/') {
                Some(rest) => (rest, true),
                None => return refuse("has `**` only after a last `/`"),
            },
            None => (body, false),
        };
        let mut segments = Vec::new();
        if !(body.is_empty() && below) {
            for text in body.split('/') {
                if text == "." || text == ".." {
                    return refuse("has no dot segments");
                }
                segments.push(match text.split_once('*') {
                    None => Segment::Exact(text.as_bytes().to_vec()),
                    Some(("", "")) => Segment::Any,
                    Some((_, suffix)) if suffix.contains('*') => return refuse("has at most one `*` in a segment"),
                    Some((prefix, suffix)) => {
                        Segment::Around { prefix: prefix.as_bytes().to_vec(), suffix: suffix.as_bytes().to_vec() }
                    }
                });
            }
        }
        // An empty segment may only be the last: `/a/` is a path of its own, `/a//b` is refused everywhere.
        let empty = |segment: &Segment| matches!(segment, Segment::Exact(text) if text.is_empty());
        let last = segments.len().saturating_sub(1);
        if segments.iter().enumerate().any(|(at, segment)| empty(segment) && (at < last || below)) {
            return refuse("has no empty segments");
        }
        Ok(Self { source: text.to_owned(), method: method.map(str::to_owned), host, segments, below })
    }

    /// Whether exactly these bytes are meant. For what is allowed.
    ///
    /// `path` is what is sent, from the first `/`, without the query. Methods and paths compare with regard to case,
    /// hosts without. A path with a dot segment, plain or escaped, is never meant: `/a/**` is below `/a` for certain.
    pub fn matches(&self, method: &str, host: &str, path: &[u8]) -> bool {
        let Some(body) = path.strip_prefix(b"/") else { return false };
        // Some server may resolve them, and be elsewhere.
        let is_dots = |segment: &[u8]| segment == b"." || segment == b"..";
        if decode(path).split(|b| matches!(b, b'/' | b'\\')).any(is_dots) {
            return false;
        }
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
            && segments_match(&self.segments, self.below, &body.split(|b| *b == b'/').collect::<Vec<_>>())
    }

    /// Whether this pattern [`matches`](Self::matches) whatever another one matches. It errs on the side of no.
    pub fn covers(&self, other: &PathPattern) -> bool {
        let bound = |one: Option<&str>, other: Option<&str>| one.is_none() || one == other;
        let (many, least) = (self.segments.len(), other.segments.len() + usize::from(other.below));
        let is_long_enough = if self.below { least > many } else { !other.below && least == many };
        bound(self.method(), other.method())
            && bound(self.host(), other.host())
            && is_long_enough
            && self.segments.iter().zip(&other.segments).all(|(wide, narrow)| wide.covers(narrow))
    }

    /// Whether any reading of a path is meant. For what is forbidden: it errs on the side of a match.
    ///
    /// `/x/**` also catches `/x` itself here.
    pub fn catches(&self, method: &str, host: &str, path: &Readings<'_>) -> bool {
        if !self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method)) {
            return false;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host)) {
            return false;
        }
        let meant = self.readings();
        path.found().iter().any(|reading| {
            meant
                .iter()
                .any(|meant| segments_match(meant, self.below, reading) || (self.below && segments_match(meant, false, reading)))
        })
    }

    /// The segments as they are compared with the readings of a path: as they are written and, where that differs, decoded.
    fn readings(&self) -> Vec<Vec<Segment>> {
        let not_empty = |segment: &Segment| *segment != Segment::Exact(vec![]);
        let mut all = vec![self.segments.iter().map(Segment::lowered).filter(not_empty).collect()];
        if self.source.contains('%') {
            all.push(self.segments.iter().flat_map(Segment::decoded).filter(not_empty).collect());
        }
        all
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The method it is bound to.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The host it is bound to, in lower case.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}

fn segments_match<S: AsRef<[u8]>>(pattern: &[Segment], below: bool, path: &[S]) -> bool {
    let long_enough = if below { path.len() > pattern.len() } else { path.len() == pattern.len() };
    long_enough && pattern.iter().zip(path).all(|(wanted, segment)| wanted.matches(segment.as_ref()))
}

/// A path as every server might read it: found when the first pattern asks, and then there for all that are compared with it.
#[derive(Debug)]
pub struct Readings<'p> {
    path: &'p [u8],
    found: OnceCell<Vec<Vec<Vec<u8>>>>,
}

impl<'p> Readings<'p> {
    /// Of what is sent, from the first `/`, without the query.
    pub fn of(path: &'p [u8]) -> Self {
        Self { path, found: OnceCell::new() }
    }

    fn found(&self) -> &[Vec<Vec<u8>>] {
        self.found.get_or_init(|| readings(self.path))
    }
}

/// Every way in which a server might read a path: as it is, and with its escapes decoded again and again; each with
/// and without its path parameters, and with its slashes and dots resolved. All in ASCII lower case, in segments.
fn readings(path: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut text = path.to_ascii_lowercase();
    for _ in 0..MAX_ROUNDS {
        for with_parameters in [true, false] {
            // Where the query begins is settled on the bytes as they are, and again after every decoding, since a
            // server that decodes first may also split first.
            for cut in [text.as_slice(), until_any(&text, b"?#")] {
                let reading = segments(cut, with_parameters);
                if !found.contains(&reading) {
                    found.push(reading);
                }
            }
        }
        let next = decode(&text).to_ascii_lowercase();
        if next == text {
            break;
        }
        text = next;
    }
    found
}

/// The segments of a path with `\` as `/`, empty ones left out and dot segments resolved.
fn segments(path: &[u8], with_parameters: bool) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|b| matches!(b, b'/' | b'\\')) {
        let segment = if with_parameters { segment } else { until_any(segment, b";") };
        // NUL and white space at the ends are cut by some servers.
        let segment = trim(segment);
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            _ => segments.push(segment.to_vec()),
        }
    }
    segments
}

fn until_any<'a>(text: &'a [u8], stops: &[u8]) -> &'a [u8] {
    text.iter().position(|b| stops.contains(b)).map_or(text, |at| &text[..at])
}

fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| *b <= b' ';
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(text).into()
}

/// RFC 3986 pchar and `/`, plus `%`; `*` is among them.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte)
}

fn escapes_are_whole(path: &[u8]) -> bool {
    path.iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(at, _)| path.get(at + 1).is_some_and(u8::is_ascii_hexdigit) && path.get(at + 2).is_some_and(u8::is_ascii_hexdigit))
}

impl FromStr for PathPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({})", self.source)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> serde::Deserialize<'de> for PathPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "api.example";

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    fn matches(text: &str, path: &str) -> bool {
        pattern(text).matches("GET", HOST, path.as_bytes())
    }

    fn catches(text: &str, path: &str) -> bool {
        pattern(text).catches("GET", HOST, &Readings::of(path.as_bytes()))
    }

    /// They are many, and so are the patterns of a definition.
    #[test]
    fn the_readings_of_a_path_are_found_once_and_only_where_a_pattern_asks() {
        let path = Readings::of(b"/a%2Fb");
        assert!(!pattern("POST /a/b").catches("GET", HOST, &path) && !pattern("//other.example/a/b").catches("GET", HOST, &path));
        assert!(path.found.get().is_none());
        assert!(pattern("/a/b").catches("GET", HOST, &path));
        let found = path.found.get().map(|found| found.as_ptr());
        assert!(found.is_some());
        assert!(!pattern("/b/a").catches("GET", HOST, &path) && pattern("/a/**").catches("GET", HOST, &path));
        assert_eq!(path.found.get().map(|found| found.as_ptr()), found);
    }

    #[test]
    fn a_star_is_one_segment_and_two_stars_are_anything_below() {
        assert!(matches("/repos/*/issues", "/repos/a/issues"));
        assert!(!matches("/repos/*/issues", "/repos/a/b/issues"));
        assert!(!matches("/repos/*/issues", "/repos//issues"));
        assert!(matches("/oauth/**", "/oauth/a") && matches("/oauth/**", "/oauth/a/b") && matches("/oauth/**", "/oauth/"));
        assert!(!matches("/oauth/**", "/oauth") && !matches("/oauth/**", "/oauthx/a"));
        assert!(matches("/**", "/") && matches("/**", "/a/b"));
    }

    #[test]
    fn a_star_inside_a_segment_stays_inside_it() {
        assert!(matches("/xrpc/com.atproto.server.*", "/xrpc/com.atproto.server.createSession"));
        assert!(!matches("/xrpc/com.atproto.server.*", "/xrpc/com.atproto.repo.createRecord"));
        assert!(!matches("/xrpc/com.atproto.server.*", "/xrpc/com.atproto.server.x/y"));
        assert!(matches("/v1/*:mint", "/v1/a:mint") && !matches("/v1/*:mint", "/v1/mint"));
    }

    #[test]
    fn methods_and_hosts_bind_where_they_are_given() {
        let pattern = pattern("POST //API.github.com/app/installations/*/access_tokens");
        assert!(pattern.matches("POST", "api.GitHub.com", b"/app/installations/1/access_tokens"));
        assert!(!pattern.matches("GET", "api.github.com", b"/app/installations/1/access_tokens"));
        assert!(!pattern.matches("POST", "uploads.github.com", b"/app/installations/1/access_tokens"));
    }

    #[test]
    fn a_pattern_covers_one_that_is_narrower() {
        for (wide, narrow) in [
            ("/**", "GET //api.example/a/b"),
            ("GET /api/**", "GET /api/me"),
            ("GET /api/**", "GET /api/v1/**"),
            ("/api/**", "/api/"),
            ("/a/*/c", "/a/b*/c"),
            ("/a/x*z", "/a/xy*yz"),
            ("POST //API.example/a", "POST //api.example/a"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
            assert!(!pattern(narrow).covers(&pattern(wide)) || wide.eq_ignore_ascii_case(narrow), "{narrow} {wide}");
        }
        for (one, other) in
            [("/a/**", "/a"), ("/a/*", "/a/"), ("GET /a", "/a"), ("GET /a", "POST /a"), ("/a/x*x", "/a/x"), ("/a", "/A")]
        {
            assert!(!pattern(one).covers(&pattern(other)), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn what_a_covered_pattern_matches_is_matched(
            wide in "(GET )?/([ab*]{1,3}/){0,2}([ab*]|\\*\\*)",
            narrow in "(GET )?/([ab*]{1,3}/){0,2}([ab*]|\\*\\*)",
            path in "/([ab]{1,3}/){0,3}[ab]{0,2}",
        ) {
            if let (Ok(wide), Ok(narrow)) = (PathPattern::parse(&wide), PathPattern::parse(&narrow))
                && wide.covers(&narrow)
                && narrow.matches("GET", HOST, path.as_bytes())
            {
                prop_assert!(wide.matches("GET", HOST, path.as_bytes()), "{wide} {narrow} {path}");
            }
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_in_exactly_one_spelling() {
        for path in ["/repos/../a", "/repos/%2e%2E/a", "/repos/x%2f..%2f..", "/repos/x/.", "/repos/x\\..\\y"] {
            assert!(!matches("/repos/**", path), "{path} was allowed");
        }
        assert!(matches("/sites/**", "/sites/https%3A%2F%2Fa.example%2F/x") && matches("/a/**", "/a/..b/c."));
        for path in ["/Repos/a", "/repos/%61", "/repos//a", "/repos/a/", "/repos/./a", "repos/a", "", "/repos"] {
            assert!(!matches("/repos/a", path), "{path} was allowed");
        }
        assert!(matches("/repos/%61", "/repos/%61"));
    }

    #[test]
    fn what_is_forbidden_is_forbidden_in_every_spelling() {
        for path in [
            "/oauth2/token",
            "/OAuth2/Token",
            "/oauth%32/token",
            "/oauth%2532/token",
            "/%6f%61uth2/%74oken",
            "/oauth2%2ftoken",
            "/oauth2%2Ftoken",
            "/oauth2\\token",
            "/oauth2%5ctoken",
            "//oauth2//token",
            "/oauth2/token/",
            "/./oauth2/./token",
            "/x/../oauth2/token",
            "/x/%2e%2e/oauth2/token",
            "/oauth2;a=b/token;c",
            "/oauth2/token?grant_type=x",
            "/oauth2/token%3fgrant_type=x",
            "/oauth2/token%00",
            "/oauth2/token%20",
        ] {
            assert!(catches("/oauth2/token", path), "{path} slipped past");
        }
        assert!(catches("/oauth/**", "/oauth") && catches("/oauth/**", "/OAuth/x/y"));
        assert!(pattern("POST /a").catches("post", "api.example.", &Readings::of(b"/a")));
    }

    /// A denial names what is to be denied as it is sent, escapes and all.
    #[test]
    fn what_a_pattern_spells_with_escapes_is_caught_in_every_spelling_too() {
        for path in [
            "/projects/a%2Fb/issues",
            "/projects/a%2fb/issues",
            "/Projects/%61%2Fb/issues",
            "/projects/a/b/issues",
            "/projects/a%5cb/issues",
        ] {
            assert!(catches("/projects/a%2Fb/issues", path), "{path} slipped past");
            assert!(catches("/projects/a%2F*/issues", path), "{path} slipped past");
            assert!(catches("/projects/*%2Fb/**", path), "{path} slipped past");
        }
        for path in ["/files/my%20", "/files/my", "/files/my%20/"] {
            assert!(catches("/files/my%20", path), "{path} slipped past");
        }
        for path in ["/projects/ab/issues", "/projects/a%2Fc/issues", "/projects/a%2Fb", "/a%2Fb/issues"] {
            assert!(!catches("/projects/a%2Fb/issues", path), "{path} was caught");
        }
    }

    #[test]
    fn other_paths_are_not_caught() {
        for path in ["/2/tweets", "/oauth2x/token", "/oauth2/tokens", "/a/oauth2/token", "/"] {
            assert!(!catches("/oauth2/token", path), "{path} was caught");
        }
    }

    #[test]
    fn a_pattern_that_could_mean_two_things_is_refused() {
        for text in [
            "",
            "oauth/token",
            "get /a",
            "GET  /a",
            "GET",
            "/a?b=c",
            "/a#b",
            "/a**",
            "/**/a",
            "/a/**/b",
            "/a*b*",
            "//host",
            "//ho*st/a",
            "///a",
            "/a//b",
            "/a/../b",
            "/./a",
            "/a b",
            "/a%2",
            "/a%zz",
            "/é",
            "https://h/a",
            "/a//**",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text:?} was taken");
        }
    }

    /// Writes a path with some of its characters escaped, some in capitals.
    fn spelled(path: &str, choices: &[u8]) -> String {
        let mut text = String::new();
        for (at, c) in path.chars().enumerate() {
            match choices[at % choices.len()] % 4 {
                0 => text.push_str(&format!("%{:02x}", u32::from(c))),
                1 => text.push_str(&format!("%{:02X}", u32::from(c))),
                2 => text.push(c.to_ascii_uppercase()),
                _ => text.push(c),
            }
        }
        text
    }

    proptest! {
        #[test]
        fn no_mixture_of_escapes_and_capitals_slips_past(choices in proptest::collection::vec(any::<u8>(), 1..40), rounds in 1usize..4) {
            let mut path = "oauth2/token".to_owned();
            for _ in 0..rounds {
                path = spelled(&path, &choices);
            }
            let path = format!("/{path}");
            prop_assert!(catches("/oauth2/token", &path), "{} slipped past", path);
            prop_assert!(catches("/oauth2/**", &path), "{} slipped past", path);
            prop_assert!(catches("/oauth*/*", &path), "{} slipped past", path);
        }

        #[test]
        fn what_matches_is_also_caught(path in "(/([a-zA-Z0-9._~-]|%2[0fF]|%5[cC]|%3[bBfF]|%C3%A9|;|:){1,8}){1,5}/?") {
            prop_assume!(!path.split('/').any(|segment| segment == "." || segment == ".."));
            for text in ["/**", path.as_str()] {
                let pattern = pattern(text);
                prop_assert!(!pattern.matches("GET", HOST, path.as_bytes()) || pattern.catches("GET", HOST, &Readings::of(path.as_bytes())));
            }
        }

        #[test]
        fn no_input_makes_it_panic(text in any::<String>(), path in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(pattern) = PathPattern::parse(&text) {
                let _ = pattern.matches("GET", HOST, &path);
                let _ = pattern.catches("GET", HOST, &Readings::of(&path));
            }
            let _ = pattern("/a/**").catches("GET", HOST, &Readings::of(&path));
        }
    }
}
