//! Calls that may be made where a person chooses from a list (`resources.NAME.only`): which of them name an entry, and where.
//!
//! ```text
//! GET /me                            names no entry, and is open
//! /sites/{id}/**                     the entry's id is this segment of the path
//! { path = "POST /inspect", json = "site" }   it is this member of the JSON body
//! ```
//!
//! Whatever none of them is, is not called: a definition lists what it can tell apart. The id is compared with the segment as it
//! is after its escapes are decoded once; the rules on paths see to it that there is nothing to decode twice.

use http::HeaderMap;
use percent_encoding::percent_decode;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    credential_query::{BodyKind, kind},
    pattern::PathPattern,
    strict_json::json_value,
};
use crate::error::{Code, Error, Result};

/// What stands in a pattern for the id of an entry.
const ID: &str = "{id}";

/// A call that may be made where a person chooses.
#[derive(Clone, Debug)]
pub struct Only {
    source: String,
    pattern: PathPattern,
    names: Names,
}

/// Where a call names the entry that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    Nothing,
    /// In this segment of the path, the first being 0.
    Segment(usize),
    /// In this member of its body, a JSON object.
    Member(String),
}

impl Only {
    /// Reads a path pattern with at most one segment `{id}`, or one without and the member of the JSON body instead.
    ///
    /// # Errors
    /// `invalid_request` for what is no pattern, an `{id}` that is not one whole segment, and both places at once.
    pub(super) fn parse(text: &str, member: Option<&str>) -> Result<Self> {
        let wrong = |why: &str| Err(Error::new(Code::InvalidRequest, why.to_owned()));
        let pattern = PathPattern::parse(&text.replace(ID, "*"))?;
        let rest = text.split_once(' ').map_or(text, |(_, rest)| rest);
        // Behind the host, where one is named.
        let path = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
            None => rest,
        };
        let segment = path.split('/').skip(1).position(|segment| segment == ID);
        let names = match (segment, member, text.matches(ID).count()) {
            (None, None, 0) => Names::Nothing,
            (Some(at), None, 1) => Names::Segment(at),
            (None, Some(member), 0) if !folded(member).is_empty() => Names::Member(member.to_owned()),
            (None, Some(_), 0) => return wrong("`json` is the name of a member of the body"),
            (_, Some(_), _) => return wrong("the entry's id stands in the path or in the body, not in both"),
            _ => return wrong("`{id}` is one whole segment of the path, and stands there once"),
        };
        Ok(Self { source: text.to_owned(), pattern, names })
    }

    /// Whether the call is this one, as far as its method, host and path tell, and names one of the chosen ids where it names
    /// one in its path. One whose body names the entry is let pass where anything is chosen; see [`lets_body`](Self::lets_body).
    pub fn lets<'c>(&self, (method, host, path): (&str, &str, &[u8]), mut chosen: impl Iterator<Item = &'c str>) -> bool {
        if !self.pattern.matches(method, host, path) {
            return false;
        }
        match &self.names {
            Names::Nothing => true,
            Names::Member(_) => chosen.next().is_some(),
            Names::Segment(at) => {
                let segment = path.split(|byte| *byte == b'/').skip(1).nth(*at).unwrap_or_default();
                let named: Vec<u8> = percent_decode(segment).collect();
                chosen.any(|id| id.as_bytes() == named)
            }
        }
    }

    /// Its pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether its body says which entry is meant, so that it must be read.
    pub fn names_in_body(&self) -> bool {
        matches!(self.names, Names::Member(_))
    }

    /// Whether the body of a call that [`lets`](Self::lets) let pass names one of the chosen ids, and nothing beside it that a
    /// server might take for the same member: another spelling of it, or a parameter of the query.
    pub fn lets_body<'c>(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        body: &[u8],
        mut chosen: impl Iterator<Item = &'c str>,
    ) -> bool {
        let Names::Member(member) = &self.names else { return true };
        let is_it = |name: &str| folded(name) == folded(member);
        if url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(name, _)| is_it(&name)) {
            return false;
        }
        if kind(headers) != BodyKind::Json {
            return false;
        }
        let Some(Value::Object(members)) = json_value(body) else { return false };
        let mut found = members.iter().filter(|(name, _)| is_it(name));
        match (found.next(), found.next()) {
            (Some((name, Value::String(id))), None) if name == member => chosen.any(|chosen| chosen == id),
            _ => false,
        }
    }
}

impl Serialize for Only {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.names {
            Names::Nothing | Names::Segment(_) => serializer.serialize_str(&self.source),
            Names::Member(member) => serializer.collect_map([("path", self.source.as_str()), ("json", member.as_str())]),
        }
    }
}

/// A name without what servers do not tell apart in it: `siteUrl` is `site_url` to some.
fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    const SHOP: &str = "https://shop.example/";

    fn lets(only: &Only, path: &str) -> bool {
        only.lets(("GET", "api.example", path.as_bytes()), [SHOP].into_iter())
    }

    #[test]
    fn a_call_that_names_an_entry_in_its_path_names_a_chosen_one() {
        let only = Only::parse("GET //api.example/v3/sites/{id}/**", None).unwrap();
        assert!(lets(&only, "/v3/sites/https%3A%2F%2Fshop.example%2F/query"));
        for path in [
            "/v3/sites/https%3A%2F%2Fother.example%2F/query",
            "/v3/sites/https%3A%2F%2Fshop.example/query",
            "/v3/sites/https%253A%252F%252Fshop.example%252F/query",
            "/v3/sites/https:%2F%2FSHOP.example%2F/query",
            "/v3/sites/https%3A%2F%2Fshop.example%2F;x=1/query",
            "/v3/sites/https%3A%2F%2Fshop.example%2F/../x",
            "/v3/sites/https%3A%2F%2Fshop.example%2F",
            "/v3/sites",
        ] {
            assert!(!lets(&only, path), "{path}");
        }
        assert!(!only.lets(("GET", "api.example", b"/v3/sites/a/x"), std::iter::empty()));
        assert!(!only.lets(("GET", "b.example", b"/v3/sites/https%3A%2F%2Fshop.example%2F/x"), [SHOP].into_iter()));
        let open = Only::parse("GET /me", None).unwrap();
        assert!(open.lets(("GET", "api.example", b"/me"), std::iter::empty()) && !lets(&open, "/me/x"));
    }

    #[test]
    fn a_call_that_names_an_entry_in_its_body_names_a_chosen_one_and_nothing_beside_it() {
        let only = Only::parse("POST /inspect", Some("siteUrl")).unwrap();
        let call = ("POST", "api.example", b"/inspect".as_slice());
        assert!(only.names_in_body() && only.lets(call, [SHOP].into_iter()) && !only.lets(call, std::iter::empty()));
        let says = |kind: &'static str, query: Option<&str>, body: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            only.lets_body(&headers, query, body.as_bytes(), [SHOP].into_iter())
        };
        let json = "application/json";
        let fine = r#"{"siteUrl":"https://shop.example/","x":1}"#;
        assert!(says(json, None, fine) && says("application/json; charset=utf-8", Some("alt=json"), fine));
        for body in [
            r#"{"siteUrl":"https://other.example/"}"#,
            r#"{"siteUrl":["https://shop.example/"]}"#,
            r#"{"siteUrl":"https://shop.example/","siteUrl":"https://other.example/"}"#,
            r#"{"siteUrl":"https://shop.example/","site_url":"https://other.example/"}"#,
            r#"{"site_url":"https://shop.example/"}"#,
            r#"[{"siteUrl":"https://shop.example/"}]"#,
            "{}",
            "",
            "x",
        ] {
            assert!(!says(json, None, body), "{body}");
        }
        assert!(!says(json, Some("siteUrl=https://other.example/"), fine) && !says(json, Some("site%5Furl=x"), fine));
        assert!(!says("application/x-protobuf", None, fine) && !says("application/x-www-form-urlencoded", None, fine));
    }

    #[test]
    fn what_says_in_no_place_or_in_two_which_entry_is_meant_is_refused() {
        for (text, member) in [
            ("/a/{id}/b/{id}", None),
            ("/a/x{id}", None),
            ("//{id}/a", None),
            ("/a/{id}", Some("id")),
            ("/a", Some("")),
            ("a/{id}", None),
            ("/a/{ID}", None),
        ] {
            assert!(Only::parse(text, member).is_err(), "{text} {member:?}");
        }
    }
}
