//! Checking OAuth 1.0a signatures (RFC 5849 section 3.2), by the lab's own reading of the RFC: it shares no code with the
//! broker that it tests.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, Method, Uri, header};
use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::world::same;

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A request that says it is signed.
#[derive(Clone, Default)]
pub(crate) struct Signed {
    /// The parameters of the header, in the order they came.
    protocol: Vec<(String, String)>,
    base: String,
}

impl Signed {
    /// Takes a request apart. `origin` is the scheme and the authority under which the lab is reached.
    pub(crate) fn read(origin: &str, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Self, &'static str> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err("one Authorization header is needed") };
        let value = value.to_str().map_err(|_| "the Authorization header is no text")?;
        let value = value.strip_prefix("OAuth ").ok_or("the Authorization header is not of the scheme OAuth")?;
        let mut protocol: Vec<(String, String)> = Vec::new();
        for pair in value.split(',') {
            let (name, quoted) = pair.trim().split_once('=').ok_or("a parameter of the header has no value")?;
            let quoted = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or("a value is not quoted")?;
            let plain =
                |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| "a value is no text");
            let (name, value) = (plain(name)?, plain(quoted)?);
            if protocol.iter().any(|(known, _)| *known == name) {
                return Err("a parameter of the header comes twice");
            }
            protocol.push((name, value));
        }
        let is_form = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
        let form = if is_form { body } else { &[] };
        let outside: Vec<(String, String)> = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
            .chain(url::form_urlencoded::parse(form))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        // Section 3.5: one place only.
        if outside.iter().any(|(name, _)| name.starts_with("oauth_")) {
            return Err("parameters of the protocol stand outside the header");
        }
        let signed = protocol.iter().filter(|(name, _)| name != "realm" && name != "oauth_signature");
        let mut pairs: Vec<(String, String)> = signed
            .chain(&outside)
            .map(|(name, value)| (utf8_percent_encode(name, PLAIN).to_string(), utf8_percent_encode(value, PLAIN).to_string()))
            .collect();
        pairs.sort();
        let joined = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let address = format!("{origin}{}", uri.path());
        let base = format!("{method}&{}&{}", utf8_percent_encode(&address, PLAIN), utf8_percent_encode(&joined, PLAIN));
        Ok(Self { protocol, base })
    }

    /// A parameter of the protocol, if it is there and not empty.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.protocol.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether the signature is that of these secrets.
    pub(crate) fn fits(&self, client_secret: &str, token_secret: &str) -> bool {
        let algorithm = match self.find("oauth_signature_method") {
            Some("HMAC-SHA1") => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Some("HMAC-SHA256") => hmac::HMAC_SHA256,
            _ => return false,
        };
        let key = format!("{}&{}", utf8_percent_encode(client_secret, PLAIN), utf8_percent_encode(token_secret, PLAIN));
        let tag = hmac::sign(&hmac::Key::new(algorithm, key.as_bytes()), self.base.as_bytes());
        let expected = base64::engine::general_purpose::STANDARD.encode(tag);
        self.find("oauth_signature").is_some_and(|given| same(&expected, given))
    }
}
