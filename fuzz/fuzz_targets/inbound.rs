//! What anybody may send to be let in, and what is written into grants: no text whatever makes a parser panic; what is taken is
//! written so that it is read as the same; and patterns mean what a slow and simple reading of their language says.

#![cfg_attr(fuzzing, no_main)]

use http::{HeaderMap, HeaderName, HeaderValue};
use valetkey::{
    grant::{ForWhom, Rate},
    id::{AgentId, ApprovalId, ConnectionId, ProviderName, SessionName, UserId},
    oauth::{Params, Presented, Scopes},
    principal::{Actor, CallerChain, Ceiling, Owner},
    provider::pattern::{PathPattern, Readings},
    token::TokenHash,
};

/// The headers that claim a chain of callers.
const CHAIN: [&str; 5] = [
    "x-agents-api-caller-agent",
    "x-agents-api-caller-user",
    "x-agents-api-caller-host",
    "x-agents-api-chain-depth",
    "x-agents-api-chain-root",
];

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

/// Everything that is checked of some bytes. The tests of the library compile this and call it, too.
pub(crate) fn run(bytes: &[u8]) {
    chain(bytes);
    forms(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    tokens(text);
    words(text);
    // A pattern, and on the next line what is asked of it.
    let (pattern, asked) = text.split_once('\n').unwrap_or((text, "GET api.example /a"));
    let mut asked = asked.splitn(3, ' ');
    let (method, host, path) =
        (asked.next().unwrap_or_default(), asked.next().unwrap_or_default(), asked.next().unwrap_or_default());
    patterns(pattern, method, host, path.as_bytes());
}

/// A token is taken by its form alone, and one that is taken is taken in one spelling.
fn tokens(text: &str) {
    let Some(hash) = TokenHash::of_presented(text) else { return };
    assert_eq!(TokenHash::stored(hash.as_str()).as_ref(), Some(&hash));
    for other in [format!("{text} "), format!(" {text}"), format!("{text}\0")] {
        assert_ne!(TokenHash::of_presented(&other), Some(hash.clone()));
    }
    if text.starts_with("vk_") {
        assert_eq!(text.len(), 53);
        assert!(TokenHash::of_presented(&text.to_uppercase()).is_none());
    }
}

/// Whatever reads a word reads what it writes.
fn words(text: &str) {
    macro_rules! read_again {
        ($($kind:ty),*) => {$(
            if let Ok(read) = text.parse::<$kind>() {
                let written = read.to_string();
                let again = written.parse::<$kind>();
                assert!(again.is_ok_and(|again| again == read), "{} as {}", written, stringify!($kind));
            }
        )*};
    }
    read_again!(Actor, AgentId, ApprovalId, ConnectionId, Owner, ProviderName, Rate, Scopes, SessionName, UserId);
    macro_rules! json_again {
        ($($kind:ty),*) => {$(
            if let Ok(read) = serde_json::from_str::<$kind>(text) {
                let written = serde_json::to_string(&read).expect("it is written");
                assert!(serde_json::from_str::<$kind>(&written).is_ok_and(|again| again == read), "{written}");
            }
        )*};
    }
    json_again!(Ceiling, ForWhom);
}

/// The five headers, one on each line: a chain that is read claims what it was given, and is never taken for none.
fn chain(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (name, value) in CHAIN.into_iter().cycle().zip(bytes.split(|byte| *byte == b'\n')).take(7) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let Ok(chain) = CallerChain::from_headers(&headers) else { return };
    assert!(chain.depth() <= CallerChain::DEEPEST);
    if let Some(claims) = chain.claims() {
        assert_eq!(claims.depth > 0, claims.agent.is_some() && claims.host.is_some());
        assert!(!claims.root.is_empty());
        assert_eq!(serde_json::to_value(claims).expect("claims are written")["unverified"], true);
    } else {
        assert_eq!(chain.depth(), 0);
    }
}

/// A form, and what a caller says of itself in it and in the `Authorization` header.
fn forms(bytes: &[u8]) {
    let (header, form) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (std::str::from_utf8(&bytes[..at]).ok(), &bytes[at + 1..]),
        None => (None, bytes),
    };
    let Ok(params) = Params::parse(form) else { return };
    assert!(params.get("client_id").is_none_or(|id| !id.is_empty() && !id.contains('\0')));
    match Presented::read(header, &params) {
        Ok(Presented::Client { secret, .. }) => {
            assert!(header.is_none() || params.get("client_secret").is_none() || secret.is_none())
        }
        Ok(Presented::Key { text, .. }) => assert!(text.expose().starts_with("vkp_")),
        Err(fault) => assert!(fault.word().is_some(), "a refusal, and no defect"),
    }
}

fn patterns(text: &str, method: &str, host: &str, path: &[u8]) {
    let Ok(pattern) = PathPattern::parse(text) else { return };
    assert_eq!(pattern.as_str(), text);
    assert_eq!(PathPattern::parse(&pattern.to_string()).ok().as_ref(), Some(&pattern));
    let matches = pattern.matches(method, host, path);
    assert_eq!(matches, meant(text, method, host, path), "{text} for {method} {host} {path:?}");
    let caught = pattern.catches(method, host, &Readings::of(path));
    // What is allowed in one spelling is forbidden in that one, too, as long as it can be sent at all.
    if path.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(byte)) {
        assert!(!matches || caught, "{text} for {method} {host} {path:?}");
    }
}

/// The language of patterns, read as slowly as it is described.
fn meant(text: &str, method: &str, host: &str, path: &[u8]) -> bool {
    let (wanted, rest) = text.split_once(' ').map_or((None, text), |(method, rest)| (Some(method), rest));
    let (wanted_host, wanted_path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').expect("a host has a path behind it")),
        None => ("", rest),
    };
    if wanted.is_some_and(|wanted| wanted != method) || !(wanted_host.is_empty() || wanted_host.eq_ignore_ascii_case(host)) {
        return false;
    }
    let Some(body) = path.strip_prefix(b"/") else { return false };
    if unescaped(path).split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| segment == b"." || segment == b"..") {
        return false;
    }
    let segments: Vec<&[u8]> = body.split(|byte| *byte == b'/').collect();
    let mut wanted: Vec<&str> = wanted_path[1..].split('/').collect();
    let below = wanted.last() == Some(&"**");
    if below {
        wanted.pop();
    }
    let long_enough = if below { segments.len() > wanted.len() } else { segments.len() == wanted.len() };
    long_enough && wanted.iter().zip(&segments).all(|(wanted, segment)| fits(wanted.as_bytes(), segment))
}

/// Whether a segment fits: `*` alone is any but the empty one.
fn fits(wanted: &[u8], segment: &[u8]) -> bool {
    if wanted == b"*" { !segment.is_empty() } else { within(wanted, segment) }
}

/// Beside other text `*` may also be nothing.
fn within(wanted: &[u8], segment: &[u8]) -> bool {
    match wanted.split_first() {
        None => segment.is_empty(),
        Some((b'*', rest)) => (0..=segment.len()).any(|at| rest == &segment[at..]),
        Some((first, rest)) => segment.split_first().is_some_and(|(byte, segment)| byte == first && within(rest, segment)),
    }
}

/// Escapes taken away once; what is none stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut found, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                found.push(u8::try_from(high * 16 + low).expect("two hex digits"));
                at += 3;
            }
            (byte, ..) => {
                found.push(byte);
                at += 1;
            }
        }
    }
    found
}
