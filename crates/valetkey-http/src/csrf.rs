//! Whether a form of a signed-in person's page really came from our page, twice over.
//!
//! 1. The browser says so: `Sec-Fetch-Site`, or `Origin` where a browser does not know that (Fetch Metadata; RFC 6454 section 7).
//!    No page can set these.
//! 2. The form carries a token that is told from the session's secret. Another page can read neither.
//!
//! Beside that the session's cookie is `SameSite=Lax`: a form of another site comes without it.

use http::{HeaderMap, header};
use url::Url;
use valetkey::{Code, Error, Result, secret::Secret};

use crate::signed_in::SignedIn;

/// What the form's field is called.
pub(crate) const FIELD: &str = "csrf";

/// The hidden field of every form on a signed-in person's page, as HTML.
pub(crate) fn field(signed_in: &SignedIn) -> String {
    // Hex digits: nothing to escape.
    format!(r#"<input type="hidden" name="{FIELD}" value="{}">"#, signed_in.csrf.expose())
}

/// Refuses a form that did not come from a page of ours in this very session. `public` is where browsers reach us.
///
/// # Errors
/// `forbidden`; which of the two it was stands in the log.
pub(crate) fn check(public: &Url, headers: &HeaderMap, signed_in: &SignedIn, given: Option<&Secret>) -> Result<()> {
    let refused = |why: &'static str| {
        Err(Error::new(Code::Forbidden, "this form did not come from our page; open the page again").with_detail(why))
    };
    if !is_from_us(public, headers) {
        return refused("another origin");
    }
    match given {
        Some(given) if signed_in.csrf.matches(given) => Ok(()),
        _ => refused("another form"),
    }
}

fn is_from_us(public: &Url, headers: &HeaderMap) -> bool {
    let ours = public.origin().ascii_serialization();
    let (Ok(fetched), Ok(origin)) = (only(headers, "sec-fetch-site"), only(headers, header::ORIGIN.as_str())) else {
        return false;
    };
    match (fetched, origin) {
        // `null` is what a page without a referrer says of itself, to itself too.
        (Some("same-origin"), Some(origin)) => origin == ours || origin == "null",
        (Some("same-origin"), None) => true,
        (Some(_), _) => false,
        (None, Some(origin)) => origin == ours,
        // No browser of today; the token decides.
        (None, None) => true,
    }
}

/// A header that is there at most once.
pub(crate) fn only<'h>(headers: &'h HeaderMap, name: &str) -> std::result::Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_from_us_where_the_browser_says_so_and_nothing_says_otherwise() {
        let public: Url = "https://keys.example.test/".parse().unwrap();
        let check = |headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            is_from_us(&public, &headers)
        };
        let ours = ("origin", "https://keys.example.test");
        for fine in [
            &[("sec-fetch-site", "same-origin"), ours][..],
            &[("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[("sec-fetch-site", "same-origin")],
            &[ours],
            &[],
        ] {
            assert!(check(fine), "{fine:?}");
        }
        for wrong in [
            &[("sec-fetch-site", "cross-site"), ours][..],
            &[("sec-fetch-site", "same-site"), ours],
            &[("sec-fetch-site", "none"), ours],
            &[("sec-fetch-site", "")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
            &[("origin", "null")],
            &[("origin", "https://keys.example.test.evil.example")],
            &[("origin", "http://keys.example.test")],
            &[ours, ours],
        ] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }
}
