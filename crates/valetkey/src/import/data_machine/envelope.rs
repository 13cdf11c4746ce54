//! `dm:enc:v1`: how Data Machine seals the secret fields of an account or a configuration.
//!
//! ```text
//! dm:enc:v1:<base64 of the 12-byte IV>:<base64 of the 16-byte tag>:<base64 of the ciphertext>
//! ```
//!
//! 1. AES-256-GCM without associated data. The one key of a site is the SHA-256 of both WordPress salts and a label.
//! 2. Only members at the top of an account or configuration are sealed, only texts that are not empty, and only under
//!    the names in [`is_sealed_field`]. A listed field without the prefix is plaintext from before sealing; an unlisted
//!    field with it is just text.
//! 3. What does not open is an error with its reason. (Data Machine hands the envelope out as if it were the token.)
//! 4. Base64 is read as PHP's strict mode reads it: padding may be missing, white space may stand anywhere.

use std::{borrow::Cow, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, Zeroizing};

use super::{
    php::{Entries, Key as Name, Value},
    salts::Salts,
};
use crate::{
    error::{Error, Result},
    id,
    secret::SecretBytes,
};

/// What every sealed text begins with.
pub const PREFIX: &str = "dm:enc:v1:";
/// The length of an IV, in bytes.
pub const IV: usize = 12;
/// The length of a tag, in bytes.
pub const TAG: usize = 16;
/// The fields that are sealed whatever the provider.
pub const SEALED_FIELDS: [&str; 9] = [
    "access_token",
    "refresh_token",
    "oauth_token",
    "oauth_token_secret",
    "app_secret",
    "client_secret",
    "consumer_secret",
    "api_secret",
    "webhook_secret",
];

/// What the key's salts are followed by when it is derived.
const LABEL: &[u8] = b"datamachine-oauth";

/// Whether a provider's accounts and configurations have this field sealed: the nine of every provider, and those that
/// two providers add. (Other plugins can add more by a filter; their fields are left as they are.)
pub fn is_sealed_field(provider: &str, field: &[u8]) -> bool {
    SEALED_FIELDS.iter().any(|name| name.as_bytes() == field)
        || matches!((provider, field), ("http_basic", b"password") | ("email_imap", b"imap_password"))
}

/// Whether a text is sealed, by its prefix alone.
pub fn is_envelope(text: &[u8]) -> bool {
    text.starts_with(PREFIX.as_bytes())
}

/// Why a sealed text cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin with [`PREFIX`].
    NoPrefix,
    /// It has fewer than three parts.
    MissingSeparator,
    /// A part is not base64.
    BadBase64,
    /// The IV has another length.
    IvLength,
    /// The tag has another length.
    TagLength,
    /// The tag does not match: it was changed, or sealed under other salts.
    DoesNotOpen,
}

impl Unreadable {
    /// The stable word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPrefix => "no_prefix",
            Self::MissingSeparator => "missing_separator",
            Self::BadBase64 => "bad_base64",
            Self::IvLength => "iv_length",
            Self::TagLength => "tag_length",
            Self::DoesNotOpen => "does_not_open",
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPrefix => "it is not sealed",
            Self::MissingSeparator => "the sealed text has fewer than three parts",
            Self::BadBase64 => "a part of the sealed text is not base64",
            Self::IvLength => "the IV of the sealed text is not 12 bytes long",
            Self::TagLength => "the tag of the sealed text is not 16 bytes long",
            Self::DoesNotOpen => "it was sealed under other salts, or changed since",
        })
    }
}

impl std::error::Error for Unreadable {}

/// A site's key. Wiped on drop, by the library that holds it.
pub struct Key(LessSafeKey);

impl Key {
    /// The key that Data Machine derives from a site's salts.
    pub fn derive(salts: &Salts) -> Result<Self> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(salts.key().expose());
        context.update(salts.salt().expose());
        context.update(LABEL);
        let mut bytes = Zeroizing::new([0; digest::SHA256_OUTPUT_LEN]);
        bytes.copy_from_slice(context.finish().as_ref());
        let key =
            UnboundKey::new(&AES_256_GCM, &*bytes).map_err(|_| Error::internal("the key of an import has a wrong length"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    ///
    /// In the order of the checks: no prefix, too few parts, base64, the lengths of IV and tag, the tag itself.
    pub fn open(&self, envelope: &[u8]) -> Result<SecretBytes, Unreadable> {
        let parts = envelope.strip_prefix(PREFIX.as_bytes()).ok_or(Unreadable::NoPrefix)?;
        let mut parts = parts.splitn(3, |byte| *byte == b':');
        let (Some(iv), Some(tag), Some(ciphertext)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Unreadable::MissingSeparator);
        };
        let decode = |part| decode(part).ok_or(Unreadable::BadBase64);
        let (iv, tag, mut buffer) = (decode(iv)?, decode(tag)?, Zeroizing::new(decode(ciphertext)?));
        let iv: [u8; IV] = iv.try_into().map_err(|_| Unreadable::IvLength)?;
        if tag.len() != TAG {
            return Err(Unreadable::TagLength);
        }
        buffer.extend_from_slice(&tag);
        let length = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut buffer)
            .map_err(|_| Unreadable::DoesNotOpen)?
            .len();
        buffer.truncate(length);
        Ok(SecretBytes::new(std::mem::take(&mut *buffer)))
    }

    /// Seals a text under a fresh IV.
    pub fn seal(&self, plain: &[u8]) -> Result<String> {
        self.seal_with(id::random()?, plain)
    }

    fn seal_with(&self, iv: [u8; IV], plain: &[u8]) -> Result<String> {
        let mut buffer = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut buffer)
            .map_err(|_| Error::internal("a value could not be sealed for export"))?;
        Ok(format!("{PREFIX}{}:{}:{}", STANDARD.encode(iv), STANDARD.encode(tag.as_ref()), STANDARD.encode(&*buffer)))
    }

    /// Seals an account or configuration as Data Machine does when it saves one: listed fields that are texts and neither
    /// empty nor sealed already.
    pub fn seal_fields(&self, provider: &str, fields: &mut Entries<'_>) -> Result<()> {
        for (name, value) in fields.iter_mut() {
            if let (Name::Text(name), Value::Text(text)) = (name, value)
                && is_sealed_field(provider, name)
                && !text.is_empty()
                && !is_envelope(text)
            {
                let sealed = self.seal(text)?.into_bytes();
                replace(text, sealed);
            }
        }
        Ok(())
    }

    /// Opens the sealed fields of an account or configuration in place. Those that cannot be opened stay as they are and
    /// are returned with the reason; they are no tokens and must not be used as such.
    pub fn open_fields(&self, provider: &str, fields: &mut Entries<'_>) -> Vec<(String, Unreadable)> {
        let mut unreadable = Vec::new();
        for (name, value) in fields.iter_mut() {
            if let (Name::Text(name), Value::Text(text)) = (name, value)
                && is_sealed_field(provider, name)
                && is_envelope(text)
            {
                match self.open(text) {
                    Ok(plain) => replace(text, plain.expose().to_vec()),
                    Err(reason) => unreadable.push((String::from_utf8_lossy(name).into_owned(), reason)),
                }
            }
        }
        unreadable
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Puts a text in the place of another, which is wiped if it is ours.
fn replace(text: &mut Cow<'_, [u8]>, with: Vec<u8>) {
    if let Cow::Owned(mut old) = std::mem::replace(text, Cow::Owned(with)) {
        old.zeroize();
    }
}

/// Base64 as PHP's strict mode decodes it. Bits left over at the end are dropped, as PHP drops them.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // As Data Machine writes it; what only PHP takes goes the slow way.
    if let Ok(bytes) = STANDARD.decode(text) {
        return Some(bytes);
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut digits, mut padding, mut bits) = (0usize, 0usize, 0u32);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = (bits << 6) | u32::from(value);
        digits += 1;
        match digits % 4 {
            2 => bytes.extend(u8::try_from((bits >> 4) & 0xff)),
            3 => bytes.extend(u8::try_from((bits >> 2) & 0xff)),
            0 => bytes.extend(u8::try_from(bits & 0xff)),
            _ => {}
        }
    }
    let whole = padding == 0 || (padding <= 2 && (digits + padding).is_multiple_of(4));
    (digits % 4 != 1 && whole).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(auth_key: &str, auth_salt: &str) -> Key {
        let part = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        Key::derive(&Salts::given(part(auth_key), part(auth_salt))).unwrap()
    }

    #[test]
    fn the_known_answers_of_the_old_format_are_met_in_both_directions() {
        let (k1, s1) = ("k1-unique-auth-key", "s1-unique-auth-salt");
        let vectors = [
            (
                k1,
                s1,
                *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b",
                "hello",
                "dm:enc:v1:AAECAwQFBgcICQoL:MT9dXUz3ILnLREWeEWyejg==:uFVCFsY=",
            ),
            (
                k1,
                s1,
                *b"\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15",
                "tok_\u{1F511}_key_emoji",
                "dm:enc:v1:CgsMDQ4PEBESExQV:FFSnk15QqvHB7W6mO2Dd4A==:D55fAZbnsCbptz3UFeh4nB8s",
            ),
            (
                "",
                "test-auth-salt-value-for-unit-tests",
                *b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b",
                "format-test-token",
                "dm:enc:v1:EBESExQVFhcYGRob:lx8GroRyJxRwbH4j0OowXw==:8WmBq64XZsh30M6DKxo3mPI=",
            ),
        ];
        for (auth_key, auth_salt, iv, plain, sealed) in vectors {
            let key = key(auth_key, auth_salt);
            assert_eq!(key.seal_with(iv, plain.as_bytes()).unwrap(), sealed);
            assert_eq!(key.open(sealed.as_bytes()).unwrap().expose(), plain.as_bytes());
        }
    }

    /// Each line was asked of PHP 8.2's `base64_decode($text, true)`.
    #[test]
    fn base64_is_read_as_the_strict_mode_of_php_reads_it() {
        let cases: [(&str, Option<&[u8]>); 24] = [
            ("", Some(b"")),
            ("QUJD", Some(b"ABC")),
            ("QUI=", Some(b"AB")),
            ("QUI", Some(b"AB")),
            ("QQ==", Some(b"A")),
            ("QQ", Some(b"A")),
            ("QR==", Some(b"A")),
            (" Q U\tI\r\n= ", Some(b"AB")),
            ("Q Q = =", Some(b"A")),
            ("QQ=", None),
            ("QQ===", None),
            ("Q", None),
            ("Q===", None),
            ("=", None),
            ("==", None),
            ("====", None),
            ("QUI=QUI=", None),
            ("QU=I", None),
            ("QUJD=", None),
            ("QUJD====", None),
            ("QU-_", None),
            ("QUJ:", None),
            ("QU\u{b}JD", None),
            ("QU\u{0}JD", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(decode(text.as_bytes()).as_deref(), bytes, "{text:?}");
        }
    }
}
