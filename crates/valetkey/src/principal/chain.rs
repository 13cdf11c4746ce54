//! The chain of agents that a call came through, as the calling agent claims it.
//!
//! An agent that works for another agent, on another platform, says so in five headers. Nothing ties them to the token: they are
//! claims, and are marked `unverified` wherever they are shown. They widen nothing. What they are for is to be seen in the
//! audit, and to end a chain that goes round in circles.
//!
//! | header | claims |
//! |---|---|
//! | `X-Agents-Api-Caller-Agent` | the agent that calls the calling agent |
//! | `X-Agents-Api-Caller-User` | that agent's person, as a number of their platform; 0 is nobody |
//! | `X-Agents-Api-Caller-Host` | that platform: an absolute `http` or `https` URL |
//! | `X-Agents-Api-Chain-Depth` | how many agents there were before this one; 0 to 16 |
//! | `X-Agents-Api-Chain-Root` | the id of the request with which all of it began |
//!
//! 1. Without any of them the call begins a chain: depth 0, and the request's own id is its root.
//! 2. At depth 0 nobody else is claimed; at any other, agent, host and root are. What does not fit is refused.
//! 3. A site says how deep is too deep ([`CallerChain::check`]).

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use crate::error::{Code, Error, Result};

/// Agent, user, host, depth, root.
static HEADERS: [HeaderName; 5] = [
    HeaderName::from_static("x-agents-api-caller-agent"),
    HeaderName::from_static("x-agents-api-caller-user"),
    HeaderName::from_static("x-agents-api-caller-host"),
    HeaderName::from_static("x-agents-api-chain-depth"),
    HeaderName::from_static("x-agents-api-chain-root"),
];

/// What a chain claims. Never an identity of ours: it is not made of [`crate::id::UserId`] and the like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Always true: nobody checked any of it.
    unverified: bool,
    /// The agent that calls the calling agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its person, as a number of its platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u64>,
    /// Its platform, without query and fragment; absent for ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How many agents there were before this one.
    pub depth: u32,
    /// The request with which the chain began.
    pub root: String,
}

/// The chain of agents that a call came through. The default is the beginning of one, with nothing claimed; clones share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerChain(Option<Arc<Claims>>);

impl CallerChain {
    /// The deepest chain that is read.
    pub const DEEPEST: u32 = 16;
    /// The depth at which a chain is exhausted where a site says nothing else.
    pub const USUAL_LIMIT: u32 = 3;
    /// The highest limit that a site can set.
    pub const HIGHEST_LIMIT: u32 = 10;

    /// Reads the five headers of a request. Without any of them nothing is claimed.
    ///
    /// # Errors
    /// `chain_too_deep` beyond [`CallerChain::DEEPEST`]; `invalid_request`, naming the header, for everything else that does not
    /// fit. A chain that cannot be read is not taken for none.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self> {
        if HEADERS.iter().all(|name| !headers.contains_key(name)) {
            return Ok(Self::default());
        }
        let [agent, user, host, depth, root] = &HEADERS;
        let (caller, platform, first) = (one(headers, agent)?, one(headers, host)?, one(headers, root)?);
        // A number that does not fit is no number of anybody: cut down, it would be somebody else's.
        let person = number(user, one(headers, user)?)?.ok_or_else(|| refused(user, "the number is too large"))?;
        let person = (person > 0).then_some(person);
        let deep = number(depth, one(headers, depth)?)?.and_then(|deep| u32::try_from(deep).ok()).unwrap_or(u32::MAX);
        if deep == 0 {
            for (name, claimed) in [(agent, !caller.is_empty()), (user, person.is_some()), (host, !platform.is_empty())] {
                if claimed {
                    return Err(refused(name, "at depth 0 nobody else is calling"));
                }
            }
            if first.is_empty() {
                return Ok(Self::default());
            }
        } else {
            for (name, text) in [(agent, caller), (host, platform), (root, first)] {
                if text.is_empty() {
                    return Err(refused(name, "a chain that is under way names it"));
                }
            }
        }
        let claims = Claims {
            unverified: true,
            agent: (deep > 0).then(|| caller.to_owned()),
            user: person,
            host: (deep > 0).then(|| platform_url(host, platform)).transpose()?,
            depth: deep,
            root: first.to_owned(),
        };
        let chain = Self(Some(Arc::new(claims)));
        match deep > Self::DEEPEST {
            true => Err(chain.too_deep(Self::DEEPEST + 1)),
            false => Ok(chain),
        }
    }

    /// What is claimed; nothing where a call began the chain and names no root.
    pub fn claims(&self) -> Option<&Claims> {
        self.0.as_deref()
    }

    /// How many agents there were before this one.
    pub fn depth(&self) -> u32 {
        self.claims().map_or(0, |claims| claims.depth)
    }

    /// Whether the call is claimed to come from another platform.
    pub fn is_cross_site(&self) -> bool {
        self.claims().is_some_and(|claims| claims.host.is_some())
    }

    /// Refuses a chain that is exhausted.
    ///
    /// # Errors
    /// `chain_too_deep` where the depth has reached the site's limit.
    pub fn check(&self, limit: u32) -> Result<()> {
        if self.depth() < limit { Ok(()) } else { Err(self.too_deep(limit)) }
    }

    /// Adds the claims to the facts of an audit row, marked as unverified. Where nothing is claimed nothing is added.
    pub fn note(&self, facts: &mut Value) {
        if let Some(claims) = self.claims() {
            facts["chain"] = json!(claims);
        }
    }

    fn too_deep(&self, limit: u32) -> Error {
        Error::new(
            Code::ChainTooDeep,
            format!(
                "this call says that it comes through a chain of {} agents, and a chain ends at {limit}; call nothing further",
                self.depth()
            ),
        )
        .with_extra(json!({ "limit": limit, "chain": self.claims() }))
    }
}

/// The longest value of a header that is read, in bytes.
const LONGEST: usize = 512;

/// A header's value, trimmed; empty where it is not there. One that is there twice could be read in two ways.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(""),
        (Some(_), Some(_)) => Err(refused(name, "it is sent more than once")),
        (Some(value), None) => match value.to_str().map(str::trim) {
            Ok(text) if text.len() <= LONGEST && !text.contains('\t') => Ok(text),
            _ => Err(refused(name, "it is plain text of at most 512 characters")),
        },
    }
}

/// A number in decimal digits, 0 where the value is empty; nothing where it is larger than any we keep.
fn number(name: &HeaderName, text: &str) -> Result<Option<u64>> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true if text.is_empty() => Ok(Some(0)),
        true => Ok(text.parse().ok()),
        false => Err(refused(name, "it is a number in digits")),
    }
}

/// The URL of another platform, without what may hold a secret.
fn platform_url(name: &HeaderName, text: &str) -> Result<String> {
    let refuse = || refused(name, "it is the absolute URL of the calling platform, http or https, without a user");
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(refuse)?;
    // A parser would skip these on its way to the host.
    if rest.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(refuse());
    }
    let url = Url::parse(text).ok().filter(|url| url.username().is_empty() && url.password().is_none()).ok_or_else(refuse)?;
    Ok(format!("{}{}", url.origin().ascii_serialization(), url.path().trim_end_matches('/')))
}

fn refused(name: &HeaderName, why: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENT: &str = "X-Agents-Api-Caller-Agent";
    const USER: &str = "X-Agents-Api-Caller-User";
    const HOST: &str = "X-Agents-Api-Caller-Host";
    const DEPTH: &str = "X-Agents-Api-Chain-Depth";
    const ROOT: &str = "X-Agents-Api-Chain-Root";
    const WHOLE: [(&str, &str); 5] =
        [(AGENT, "scout"), (USER, "7"), (HOST, "https://other.example"), (DEPTH, "2"), (ROOT, "root-1")];

    fn read(headers: &[(&str, &str)]) -> Result<CallerChain> {
        let headers = headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        CallerChain::from_headers(&headers.collect())
    }

    /// The five headers with one of them changed.
    fn with(name: &str, value: &str) -> Result<CallerChain> {
        read(&WHOLE.map(|(known, old)| (known, if known == name { value } else { old })))
    }

    #[track_caller]
    fn refuses(chain: Result<CallerChain>, name: &str) {
        let error = chain.unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        assert!(error.message().starts_with(&name.to_ascii_lowercase()), "{error}");
    }

    /// T-012, T-038, T-029.
    #[test]
    fn a_call_without_the_headers_begins_a_chain_and_claims_nothing() {
        let chain = read(&[]).unwrap();
        assert_eq!((chain.depth(), chain.is_cross_site(), chain.claims()), (0, false, None));
        assert_eq!(read(&[(AGENT, ""), (USER, "0"), (HOST, ""), (DEPTH, " 0 "), (ROOT, "")]).unwrap(), chain);
    }

    /// T-030, T-037, T-041, T-043, T-049, T-031.
    #[test]
    fn five_headers_are_read_whatever_their_case_and_their_claims_are_marked_as_unverified() {
        let chain = read(&WHOLE).unwrap();
        assert!(chain.is_cross_site());
        let claims = json!({
            "unverified": true, "agent": "scout", "user": 7, "host": "https://other.example", "depth": 2, "root": "root-1",
        });
        assert_eq!(json!(chain.claims()), claims);
        let lower: Vec<_> = WHOLE.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
        let lower: Vec<_> = lower.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(read(&lower).unwrap(), chain);
    }

    /// T-036.
    #[test]
    fn a_call_that_begins_a_chain_may_name_its_root_and_nobody_else() {
        let chain = read(&[(ROOT, "root-1")]).unwrap();
        assert_eq!((chain.depth(), chain.is_cross_site()), (0, false));
        assert_eq!(chain.claims().unwrap().root, "root-1");
        refuses(read(&[(AGENT, "scout")]), AGENT);
        refuses(read(&[(USER, "7")]), USER);
        refuses(read(&[(HOST, "https://other.example")]), HOST);
        refuses(read(&[(HOST, "self")]), HOST);
        refuses(with(DEPTH, "0"), AGENT);
    }

    /// T-016, T-032, T-039.
    #[test]
    fn what_is_no_number_is_refused_and_not_taken_for_none() {
        for odd in ["bogus", "not-a-number", "-5", "+1", "1.0", "0x2"] {
            refuses(with(DEPTH, odd), DEPTH);
            refuses(with(USER, odd), USER);
        }
        refuses(with(USER, "99999999999999999999"), USER);
        assert_eq!(with(DEPTH, "02").unwrap().depth(), 2);
    }

    /// T-040.
    #[test]
    fn a_chain_without_a_person_is_a_chain() {
        for nobody in ["", "0", " 0"] {
            assert_eq!(with(USER, nobody).unwrap().claims().unwrap().user, None);
        }
        assert!(read(&[WHOLE[0], WHOLE[2], WHOLE[3], WHOLE[4]]).is_ok());
    }

    /// T-034, T-035, T-042, T-054.
    #[test]
    fn a_chain_that_is_under_way_names_agent_root_and_another_platform() {
        for (name, _) in [WHOLE[0], WHOLE[2], WHOLE[4]] {
            refuses(with(name, ""), name);
        }
        for host in
            ["self", "other.example", "//other.example", "ftp://other.example", "HTTPS://other.example", "https://", "https:///x"]
        {
            refuses(with(HOST, host), HOST);
        }
    }

    #[test]
    fn what_a_platforms_url_could_carry_is_not_kept() {
        for (host, kept) in [
            ("http://other.example:8080/blog/?token=canary#canary", "http://other.example:8080/blog"),
            ("https://other.example/", "https://other.example"),
        ] {
            assert_eq!(with(HOST, host).unwrap().claims().unwrap().host.as_deref(), Some(kept));
        }
        refuses(with(HOST, "https://user:canary@other.example"), HOST);
        refuses(with(HOST, "https://other.example\\@evil.example"), HOST);
    }

    #[test]
    fn a_header_that_is_sent_twice_is_refused() {
        for (name, value) in WHOLE {
            let twice: Vec<_> = WHOLE.into_iter().chain([(name, value)]).collect();
            let mut headers = HeaderMap::new();
            for (name, value) in twice {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            refuses(CallerChain::from_headers(&headers), name);
        }
    }

    /// T-033, T-051.
    #[test]
    fn a_chain_ends_at_the_limit_whoever_sets_it() {
        for (deep, limit, fine) in [(0, 1, true), (1, 1, false), (2, 3, true), (3, 3, false), (7, 3, false), (9, 10, true)] {
            let chain = if deep == 0 { read(&[]) } else { with(DEPTH, &deep.to_string()) }.unwrap();
            assert_eq!(chain.check(limit).is_ok(), fine, "{deep} {limit}");
        }
        assert_eq!(with(DEPTH, "16").unwrap().depth(), 16);
        for deep in ["17", "4294967296", "99999999999999999999999"] {
            let error = with(DEPTH, deep).unwrap_err();
            assert_eq!(error.code(), Code::ChainTooDeep, "{deep}");
            assert_eq!(error.extra().unwrap()["chain"]["unverified"], true);
        }
    }

    proptest! {
        /// Whatever is sent, what is read of it is whole: nobody is claimed at depth 0, and everybody above.
        #[test]
        fn what_is_read_is_whole(values in prop::array::uniform5(prop::option::of("[ -~]{0,12}|[0-9]{1,3}|https?://[a-z.:/@?]{1,8}|self"))) {
            let names = [AGENT, USER, HOST, DEPTH, ROOT];
            let sent: Vec<_> = names.iter().zip(&values).filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
            if let Ok(chain) = read(&sent) {
                prop_assert!(chain.depth() <= CallerChain::DEEPEST);
                prop_assert_eq!(chain.is_cross_site(), chain.depth() > 0);
                if let Some(claims) = chain.claims() {
                    prop_assert_eq!(claims.agent.is_some(), claims.depth > 0);
                    prop_assert!(claims.depth > 0 || claims.user.is_none());
                    prop_assert!(!claims.root.is_empty());
                    let host = claims.host.as_deref().map(|host| Url::parse(host).unwrap());
                    prop_assert!(host.is_none_or(|host| host.username().is_empty() && host.query().is_none()));
                }
            }
        }
    }
}
