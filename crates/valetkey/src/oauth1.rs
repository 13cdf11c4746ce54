//! OAuth 1.0a signatures (RFC 5849 section 3): what a request is signed over, with which keys, and the header that
//! carries the signature. Pure: the moment is an argument, and nothing here sends anything.
//!
//! 1. A request is final before it is signed: its URL, and its body where that is a form. What changes afterwards breaks
//!    the signature.
//! 2. [`base_string`] is section 3.4.1: method, URL without query, and every parameter of query, form and header, decoded,
//!    encoded anew in one way, and sorted.
//! 3. [`Keys::sign`] is section 3.4.2, HMAC over it, with SHA-1 as the RFC has it or with SHA-256 as some providers want it.
//! 4. [`Keys::authorization`] puts the parameters of the protocol into the `Authorization` header, and nowhere else: they
//!    may stand in one place only (section 3.5).
//!
//! This is our own code because no crate for it is kept: the last releases of those there were are years old.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use zeroize::Zeroizing;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    id,
    secret::Secret,
};

/// What the names of the protocol's own parameters begin with (RFC 5849 section 3.1): no call may bring such a parameter
/// of its own.
pub const PREFIX: &str = "oauth_";

/// Section 3.6: letters, digits, `-`, `.`, `_` and `~` stand as they are, everything else does not.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// `HMAC-SHA1` (section 3.4.2).
    Sha1,
    /// `HMAC-SHA256`: the same with SHA-256. No RFC has it; the providers that want it name it so.
    Sha256,
}

impl Hash {
    /// The value of `oauth_signature_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hash::Sha1 => "HMAC-SHA1",
            Hash::Sha256 => "HMAC-SHA256",
        }
    }

    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => hmac::HMAC_SHA256,
        }
    }
}

/// What a request is signed with.
#[derive(Clone, Debug)]
pub struct Keys {
    /// How.
    pub hash: Hash,
    /// The app's key (`oauth_consumer_key`).
    pub consumer_key: String,
    /// The app's secret.
    pub consumer_secret: Secret,
    /// The token and its secret; absent where a temporary one is asked for.
    pub token: Option<(Secret, Secret)>,
}

/// What makes a request another one than every request before it (section 3.3).
#[derive(Clone, Debug)]
pub struct Stamp {
    nonce: String,
    timestamp: i64,
}

impl Stamp {
    /// A stamp for one request that is sent now: its nonce has 128 random bits, so it is used by no other.
    pub fn new(now: Timestamp) -> Result<Self> {
        let nonce = id::random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { nonce, timestamp: now.unix_seconds() })
    }
}

/// A request as it will be sent.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The whole URL with its query.
    pub uri: &'a Uri,
    /// The body where it is `application/x-www-form-urlencoded`; nothing otherwise, because other bodies are not signed.
    pub form: &'a [u8],
    /// Further parameters of the protocol, such as `oauth_callback`.
    pub more: &'a [(String, Zeroizing<String>)],
}

impl Keys {
    /// The value of the `Authorization` header (section 3.5.1).
    ///
    /// Errors: `internal` where the URL is not absolute.
    pub fn authorization(&self, call: &Call<'_>, stamp: &Stamp) -> Result<Secret> {
        let text = |text: &str| Zeroizing::new(text.to_owned());
        let mut protocol = vec![
            ("oauth_consumer_key".to_owned(), text(&self.consumer_key)),
            ("oauth_nonce".to_owned(), text(&stamp.nonce)),
            ("oauth_signature_method".to_owned(), text(self.hash.as_str())),
            ("oauth_timestamp".to_owned(), Zeroizing::new(stamp.timestamp.to_string())),
            ("oauth_version".to_owned(), text("1.0")),
        ];
        if let Some((token, _)) = &self.token {
            protocol.push(("oauth_token".to_owned(), text(token.expose())));
        }
        protocol.extend(call.more.iter().cloned());
        let signature = self.sign(&base_string(call, &protocol)?);
        protocol.push(("oauth_signature".to_owned(), Zeroizing::new(signature)));
        let mut header = Zeroizing::new("OAuth ".to_owned());
        for (at, (name, value)) in protocol.iter().enumerate() {
            header.push_str(if at == 0 { "" } else { ", " });
            for part in [encoded(name.as_bytes()).as_str(), "=\"", encoded(value.as_bytes()).as_str(), "\""] {
                header.push_str(part);
            }
        }
        Ok(Secret::new(header.as_str()))
    }

    /// The signature of a base string, in Base64 (section 3.4.2).
    fn sign(&self, base_string: &str) -> String {
        let token_secret = self.token.as_ref().map(|(_, secret)| secret.expose()).unwrap_or_default();
        let consumer_secret = encoded(self.consumer_secret.expose().as_bytes());
        let key = Zeroizing::new(format!("{}&{}", &*consumer_secret, &*encoded(token_secret.as_bytes())));
        let key = hmac::Key::new(self.hash.algorithm(), key.as_bytes());
        STANDARD.encode(hmac::sign(&key, base_string.as_bytes()))
    }
}

/// The signature base string (section 3.4.1.1): what the provider puts together on its side too.
fn base_string(call: &Call<'_>, protocol: &[(String, Zeroizing<String>)]) -> Result<Zeroizing<String>> {
    let mut parameters = Vec::new();
    collect(call.uri.query().unwrap_or_default().as_bytes(), &mut parameters);
    collect(call.form, &mut parameters);
    parameters.extend(protocol.iter().map(|(name, value)| (encoded(name.as_bytes()), encoded(value.as_bytes()))));
    // By name, then by value, as bytes, after encoding (section 3.4.1.3.2).
    parameters.sort_unstable_by(|a, b| (a.0.as_str(), a.1.as_str()).cmp(&(b.0.as_str(), b.1.as_str())));
    let mut normalized = Zeroizing::new(String::new());
    for (name, value) in &parameters {
        if !normalized.is_empty() {
            normalized.push('&');
        }
        normalized.push_str(name);
        normalized.push('=');
        normalized.push_str(value);
    }
    let address = address(call.uri)?;
    Ok(Zeroizing::new(format!(
        "{}&{}&{}",
        call.method.as_str().to_ascii_uppercase(),
        &*encoded(address.as_bytes()),
        &*encoded(normalized.as_bytes())
    )))
}

/// The URL without query, scheme and host in lower case, without a port that the scheme implies (section 3.4.1.2).
fn address(uri: &Uri) -> Result<String> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Error::internal("only a request with an absolute URL can be signed"));
    };
    let (scheme, host) = (scheme.to_ascii_lowercase(), authority.host().to_ascii_lowercase());
    let port = match (scheme.as_str(), authority.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    Ok(format!("{scheme}://{host}{port}{}", uri.path()))
}

/// The parameters of a query or form (section 3.4.1.3.1), decoded as HTML forms are and encoded anew. Byte by byte: a value
/// that is no UTF-8 is signed as it is sent.
fn collect(form: &[u8], into: &mut Vec<(Zeroizing<String>, Zeroizing<String>)>) {
    for piece in form.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty()) {
        let mut halves = piece.splitn(2, |byte| *byte == b'=');
        let mut half = || {
            let spaced: Zeroizing<Vec<u8>> =
                Zeroizing::new(halves.next().unwrap_or_default().iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect());
            let decoded = Zeroizing::new(percent_decode(&spaced).collect::<Vec<u8>>());
            encoded(&decoded)
        };
        let name = half();
        into.push((name, half()));
    }
}

/// Section 3.6.
fn encoded(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(percent_encode(bytes, UNRESERVED).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, Zeroizing<String>)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned()))).collect()
    }

    fn keys(hash: Hash, consumer: (&str, &str), token: Option<(&str, &str)>) -> Keys {
        Keys {
            hash,
            consumer_key: consumer.0.to_owned(),
            consumer_secret: Secret::new(consumer.1),
            token: token.map(|(token, secret)| (Secret::new(token), Secret::new(secret))),
        }
    }

    fn base(method: &str, uri: &str, form: &str, protocol: &[(&str, &str)]) -> String {
        let (method, uri) = (method.parse().unwrap(), uri.parse().unwrap());
        let call = Call { method: &method, uri: &uri, form: form.as_bytes(), more: &[] };
        base_string(&call, &pairs(protocol)).unwrap().to_string()
    }

    /// R48: the base string of RFC 5849 section 3.4.1.1: a query, a form, an encoded name, an empty value, a name that
    /// comes twice.
    #[test]
    fn the_base_string_is_that_of_the_rfc() {
        let text = base(
            "post",
            "http://EXAMPLE.COM:80/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b",
            "c2&a3=2+q",
            &[
                ("oauth_consumer_key", "9djdj82h48djs9d2"),
                ("oauth_token", "kkk9d7dh3k39sjv7"),
                ("oauth_signature_method", "HMAC-SHA1"),
                ("oauth_timestamp", "137131201"),
                ("oauth_nonce", "7d8f3e4a"),
            ],
        );
        assert_eq!(
            text,
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D\
             %26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1\
             %26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
    }

    /// RFC 5849 section 3.4.1.2.
    #[test]
    fn the_address_has_no_port_that_the_scheme_implies_and_no_query() {
        for (uri, told) in [
            ("http://EXAMPLE.COM:80/r%20v/X?id=123", "http://example.com/r%20v/X"),
            ("https://www.example.net:8080/?q=1", "https://www.example.net:8080/"),
            ("https://www.example.net:443", "https://www.example.net/"),
            ("http://www.example.net:443/", "http://www.example.net:443/"),
            ("http://[::1]:80/a", "http://[::1]/a"),
        ] {
            assert_eq!(address(&uri.parse().unwrap()).unwrap(), told);
        }
        assert!(address(&"/relative".parse().unwrap()).is_err());
    }

    /// R48: the three requests of RFC 5849 section 1.2.
    #[test]
    fn the_signatures_are_those_of_the_rfc() {
        let consumer = ("dpf43f3p2l4k3l03", "kd94hf93k423kf44");
        for (method, uri, token, protocol, signature) in [
            (
                "POST",
                "https://photos.example.net/initiate",
                None,
                &[
                    ("oauth_nonce", "wIjqoS"),
                    ("oauth_timestamp", "137131200"),
                    ("oauth_callback", "http://printer.example.com/ready"),
                ][..],
                "74KNZJeDHnMBp0EMJ9ZHt/XKycU=",
            ),
            (
                "POST",
                "https://photos.example.net/token",
                Some(("hh5s93j4hdidpola", "hdhd0244k9j7ao03")),
                &[("oauth_nonce", "walatlh"), ("oauth_timestamp", "137131201"), ("oauth_verifier", "hfdp7dh39dks9884")],
                "gKgrFCywp7rO0OXSjdot/IHF7IU=",
            ),
            (
                "GET",
                "http://photos.example.net/photos?file=vacation.jpg&size=original",
                Some(("nnch734d00sl2jdk", "pfkkdhi9sl3r4s00")),
                &[("oauth_nonce", "chapoH"), ("oauth_timestamp", "137131202")],
                "MdpQcU8iPSUjWoN/UDMsK2sui9I=",
            ),
        ] {
            let mut protocol = protocol.to_vec();
            protocol.extend([("oauth_consumer_key", consumer.0), ("oauth_signature_method", "HMAC-SHA1")]);
            protocol.extend(token.map(|(token, _)| ("oauth_token", token)));
            let text = base(method, uri, "", &protocol);
            assert_eq!(keys(Hash::Sha1, consumer, token).sign(&text), signature, "{uri}");
        }
    }

    /// The example of X's own documents, and the same by SHA-256 as Python's hmac makes it.
    #[test]
    fn a_whole_header_is_signed_over_query_form_and_itself() {
        let consumer = ("xvz1evFS4wEEPTGEFPHBog", "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw");
        let token = ("370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb", "LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE");
        let stamp = Stamp { nonce: "kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg".to_owned(), timestamp: 1_318_622_958 };
        let uri = "https://api.twitter.com/1.1/statuses/update.json?include_entities=true".parse().unwrap();
        let form = b"status=Hello%20Ladies%20%2b%20Gentlemen%2c+a+signed+OAuth+request%21";
        let call = Call { method: &Method::POST, uri: &uri, form, more: &[] };
        for (hash, signature) in
            [(Hash::Sha1, "hCtSmYh%2BiHYCEqBWrE7C7hYmtUk%3D"), (Hash::Sha256, "PLbq%2BOWUE2vwiOZeZBSR06GFvymUHoaBdCIHyD66IcM%3D")]
        {
            let header = keys(hash, consumer, Some(token)).authorization(&call, &stamp).unwrap();
            assert_eq!(
                header.expose(),
                format!(
                    "OAuth oauth_consumer_key=\"{}\", oauth_nonce=\"{}\", oauth_signature_method=\"{}\", \
                     oauth_timestamp=\"1318622958\", oauth_version=\"1.0\", oauth_token=\"{}\", oauth_signature=\"{signature}\"",
                    consumer.0,
                    stamp.nonce,
                    hash.as_str(),
                    token.0
                )
            );
        }
    }

    /// The two calls of a flow, as the library that Data Machine used signs them.
    #[test]
    fn callback_and_verifier_are_signed_and_stand_in_the_header() {
        let stamp = Stamp { nonce: "kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg".to_owned(), timestamp: 1_318_622_958 };
        for (path, token, more, expected) in [
            (
                "request_token",
                None,
                ("oauth_callback", "https://site.test/datamachine-auth/twitter/"),
                "oauth_callback=\"https%3A%2F%2Fsite.test%2Fdatamachine-auth%2Ftwitter%2F\", \
                 oauth_signature=\"dIVGd%2FjvBfJU5hSECY2QcHNws7s%3D\"",
            ),
            (
                "access_token",
                Some(("reqtok", "reqsec")),
                ("oauth_verifier", "uw7NjWHT6OJ1MpJOXsHfNxoAhPKpgI8BlYDhxEjIBY"),
                "oauth_verifier=\"uw7NjWHT6OJ1MpJOXsHfNxoAhPKpgI8BlYDhxEjIBY\", \
                 oauth_signature=\"ynt20KAqaGL6VxUZhFG7W81rDe8%3D\"",
            ),
        ] {
            let uri = format!("https://up.test/oauth/{path}").parse().unwrap();
            let more = pairs(&[more]);
            let call = Call { method: &Method::POST, uri: &uri, form: b"", more: &more };
            let header = keys(Hash::Sha1, ("ck", "cs"), token).authorization(&call, &stamp).unwrap();
            assert!(header.expose().ends_with(expected), "{path}");
        }
    }

    #[test]
    fn whatever_bytes_a_form_holds_are_signed_as_they_are_sent() {
        let text = |form: &str| base("POST", "https://h.example/", form, &[]);
        let whole = |parameters: &str| format!("POST&https%3A%2F%2Fh.example%2F&{parameters}");
        assert_eq!(text("a=%ff&b=%"), whole("a%3D%25FF%26b%3D%2525"));
        assert_eq!(text("&&a=1=2&"), whole("a%3D1%253D2"));
        assert_eq!(text("z=1&a=b&a=a&A=~-._*"), whole("A%3D~-._%252A%26a%3Da%26a%3Db%26z%3D1"));
        assert_eq!(text("{\"a\":1}"), whole("%257B%2522a%2522%253A1%257D%3D"));
        assert_eq!(text("h\u{e9}=\u{2603}"), whole("h%25C3%25A9%3D%25E2%2598%2583"));
    }

    /// R48: a nonce is used once.
    #[test]
    fn every_stamp_has_a_nonce_of_its_own() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let nonces: std::collections::BTreeSet<_> = (0..100).map(|_| Stamp::new(now).unwrap().nonce).collect();
        assert_eq!(nonces.len(), 100);
        assert!(nonces.iter().all(|nonce| nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn keys_are_silent() {
        let shown = format!("{:?}", keys(Hash::Sha1, ("ck", "canary-1"), Some(("canary-2", "canary-3"))));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
