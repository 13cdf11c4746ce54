//! Finding an injected credential in what comes back.
//!
//! An upstream that repeats its caller's headers would hand the credential to the agent. In answer headers and
//! trailers it is looked for as it is, percent-encoded, and in Base64 at any offset (so that `Basic` is found too,
//! whatever the user name). Bodies are not searched: docs say so, and definitions put endpoints that echo among
//! the credential paths.

use std::sync::OnceLock;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Secrets shorter than this are not looked for: they would be found everywhere by chance.
pub const SHORTEST: usize = 8;

/// The secrets of one call, as things to look for.
pub struct Needles {
    plain: Vec<Zeroizing<Vec<u8>>>,
    shortest: usize,
    /// Made at the first value long enough to hold one: most answers have none.
    base64: OnceLock<Vec<Zeroizing<Vec<u8>>>>,
}

impl Needles {
    /// Everything of `secrets` that is long enough to look for.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s Secret>) -> Self {
        let long = secrets.into_iter().map(|secret| secret.expose().trim().as_bytes()).filter(|bytes| bytes.len() >= SHORTEST);
        let plain: Vec<_> = long.map(|bytes| Zeroizing::new(bytes.to_vec())).collect();
        let shortest = plain.iter().map(|needle| needle.len()).min().unwrap_or(usize::MAX);
        Self { plain, shortest, base64: OnceLock::new() }
    }

    /// Whether `value` holds one of the secrets, in any of the forms above.
    pub fn are_in(&self, value: &[u8]) -> bool {
        // Every other form is longer than the plain one.
        if value.len() < self.shortest {
            return false;
        }
        let holds = |needles: &[Zeroizing<Vec<u8>>], value: &[u8]| needles.iter().any(|needle| contains(value, needle));
        holds(&self.plain, value)
            || holds(self.base64.get_or_init(|| self.plain.iter().flat_map(|secret| in_base64(secret)).collect()), value)
            || (value.contains(&b'%') && {
                let decoded = Zeroizing::new(percent_decode(value).collect::<Vec<u8>>());
                holds(&self.plain, &decoded) || self.base64.get().is_some_and(|needles| holds(needles, &decoded))
            })
    }
}

impl std::fmt::Debug for Needles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

fn contains(value: &[u8], needle: &[u8]) -> bool {
    value.windows(needle.len()).any(|window| window == needle)
}

/// What Base64 of any text around the secret must hold: for each of the three offsets, the characters that depend
/// on the secret alone, in both alphabets.
fn in_base64(secret: &[u8]) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    let mut forms = Vec::with_capacity(6);
    for offset in 0..3 {
        let mut shifted = Zeroizing::new(vec![0; offset]);
        shifted.extend_from_slice(secret);
        let bits = shifted.len() * 8;
        // Characters that begin before the secret or end behind it are shared with its neighbours.
        let (first, end) = ((offset * 8).div_ceil(6), bits / 6);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*shifted));
            let core = Zeroizing::new(text.as_bytes().get(first..end).unwrap_or_default().to_vec());
            if !forms.contains(&core) {
                forms.push(core);
            }
        }
    }
    forms.into_iter()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needles(secret: &str) -> Needles {
        Needles::new([&Secret::new(secret)])
    }

    #[test]
    fn a_secret_is_found_plain_encoded_and_in_basic() {
        let secret = "s3cr3t/+?&token=";
        let needles = needles(secret);
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("bob:{secret}"));
        for value in [
            secret.to_owned(),
            format!("https://example.com/cb?t={secret}&x"),
            format!(
                "<https://example.com/?t={}>",
                percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
            ),
            "a=s3cr3t%2f%2b%3f%26token%3d".to_owned(),
            format!("Basic {basic}"),
            format!("x={}", basic.replace('=', "%3D")),
        ] {
            assert!(needles.are_in(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn other_values_and_short_secrets_are_left_alone() {
        assert!(!needles("0123456789").are_in(b"W/\"012345678\""));
        assert!(!needles("short").are_in(b"a short value"));
        assert!(!needles("").are_in(b""));
        assert_eq!(format!("{:?}", needles("0123456789")), "[redacted]");
    }

    proptest! {
        #[test]
        fn base64_of_anything_around_the_secret_is_found(
            before in proptest::collection::vec(any::<u8>(), 0..20),
            secret in "[!-~]{8,40}",
            after in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = [before.as_slice(), secret.as_bytes(), after.as_slice()].concat();
            let needles = needles(&secret);
            for engine in [&base64::engine::general_purpose::STANDARD, &base64::engine::general_purpose::URL_SAFE] {
                prop_assert!(needles.are_in(engine.encode(&whole).as_bytes()));
            }
        }
    }
}
