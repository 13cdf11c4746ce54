//! The query of a proxied call: passed byte for byte, except parameters that are cut off whole.
//!
//! A name counts as the same when a server could read it as the same: after percent-decoding, without regard to
//! case, and with the folding that PHP does (leading spaces fall away; `.`, space and `[` become `_`). `;` counts
//! as a separator too, because some servers still read it so.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::error::{Code, Error, Result};

/// Refuses a query that a URL cannot hold: control characters, raw non-ASCII, `#`, spaces.
pub fn check(query: &str) -> Result<()> {
    if query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(());
    }
    Err(Error::new(Code::InvalidRequest, "the query holds a character that must be percent-encoded"))
}

/// The parameters, name and value decoded, in order.
pub fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split(['&', ';']).filter(|piece| !piece.is_empty()).map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        (decoded(name), decoded(value))
    })
}

/// The query without the named parameters; every other byte is kept.
pub fn without<'q>(query: &'q str, names: &[&str]) -> Cow<'q, str> {
    let unwanted = |piece: &str| {
        let name = piece.split('=').next().unwrap_or_default();
        let name = folded(&decoded(name));
        names.iter().any(|unwanted| folded(unwanted) == name)
    };
    if names.is_empty() || !query.split(['&', ';']).any(unwanted) {
        return Cow::Borrowed(query);
    }
    let mut kept = String::with_capacity(query.len());
    for piece in query.split_inclusive(['&', ';']) {
        if !unwanted(piece.trim_end_matches(['&', ';'])) {
            kept.push_str(piece);
        }
    }
    // The separator before a last parameter goes with it.
    if !query.ends_with(['&', ';']) && kept.ends_with(['&', ';']) {
        kept.pop();
    }
    Cow::Owned(kept)
}

/// A name as the most careless server would read it.
pub(super) fn folded(name: &str) -> String {
    name.trim_start().chars().map(|c| if matches!(c, '.' | ' ' | '[') { '_' } else { c.to_ascii_lowercase() }).collect()
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_parameter_is_cut_off_in_every_spelling() {
        let names = ["access_token"];
        for query in [
            "access_token=evil",
            "ACCESS_TOKEN=evil",
            "access%5Ftoken=evil",
            "%61ccess_token=evil",
            "access.token=evil",
            "+access_token=evil",
            "access_token",
            "access_token=a=b",
        ] {
            assert_eq!(without(query, &names), "", "{query}");
            assert_eq!(without(&format!("a=1&{query}&b=%20"), &names), "a=1&b=%20");
            assert_eq!(without(&format!("a=1;{query}"), &names), "a=1");
        }
    }

    #[test]
    fn every_other_byte_is_kept() {
        for query in ["", "a=1&&b", "a=%2e+%2F&x[]=1;y", "token=1&access_token_x=2", "&", "a=1&"] {
            assert_eq!(without(query, &["access_token"]), query);
        }
        assert_eq!(without("a=1&key=2&b=3&", &["key"]), "a=1&b=3&");
    }

    #[test]
    fn a_query_that_a_url_cannot_hold_is_refused() {
        for query in ["a=b c", "a=\u{e9}", "a#b", "a\n"] {
            assert!(check(query).is_err(), "{query}");
        }
        assert!(check("q={\"a\":[1]}&b='x'|y").is_ok());
    }
}
