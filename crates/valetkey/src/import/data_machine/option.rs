//! The value of a WordPress option as somebody hands it over: PHP's serialization or JSON, told apart by looking.
//!
//! The database column and `wp option get --format=json` give the same array in two texts. Their first bytes have
//! nothing in common, so neither can be taken for the other. JSON is read as PHP's `json_decode($text, true)` reads it:
//! objects and lists are arrays, `{}` and `[]` the same empty one, `"10"` the key 10, a whole number past 64 bits a
//! float.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::php::{self, Entries, Key, Value};

/// Why an option's value cannot be read. Never holds a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to read.
    Empty,
    /// It is UTF-16, as PowerShell's `>` writes it.
    Utf16,
    /// It is the listing that `wp option get` prints for people.
    Listing,
    /// It is neither serialized PHP nor JSON.
    Unknown,
    /// It is serialized PHP, and broken.
    Php(php::Error),
    /// It is JSON, and broken or too deep.
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// A value is there, and more after it.
    Trailing {
        /// The offset of the first byte that does not belong to the value.
        offset: usize,
    },
}

impl Error {
    /// The stable word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Utf16 => "utf16",
            Self::Listing => "listing",
            Self::Unknown => "unknown",
            Self::Php(error) => error.fault.as_str(),
            Self::Json { .. } => "json",
            Self::Trailing { .. } => "trailing",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is nothing in it"),
            Self::Utf16 => {
                f.write_str("it is UTF-16, as PowerShell's > writes it; write it from cmd or with Set-Content -Encoding")
            }
            Self::Listing => f.write_str("it is what `wp option get` prints for people; add --format=json"),
            Self::Unknown => f.write_str("it is neither serialized PHP nor JSON"),
            Self::Php(error) => error.fmt(f),
            Self::Json { line, column } => write!(f, "JSON, at line {line}, column {column}: it is malformed or too deep"),
            Self::Trailing { offset } => {
                write!(f, "a value ends at byte {offset}, and something follows; give the option's value alone")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<php::Error> for Error {
    fn from(error: php::Error) -> Self {
        Self::Php(error)
    }
}

/// Reads an option's value. White space around it and a byte order mark are let pass: a shell may have put them there.
///
/// # Errors
///
/// See [`Error`]. Unlike PHP's `unserialize`, bytes after the value are refused: the database column has none, so the
/// text was changed on its way.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Error> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::Utf16);
    }
    let begin = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let begin = begin + bytes[begin..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let text = bytes[begin..].trim_ascii_end();
    if text.starts_with(b"array (") || text.starts_with(b"Array") {
        return Err(Error::Listing);
    }
    match text {
        [] => Err(Error::Empty),
        [b'{' | b'[' | b'"' | b'-' | b'0'..=b'9', ..] => json(text),
        [b't' | b'f' | b'n', letter, ..] if letter.is_ascii_lowercase() => json(text),
        [b'N', b';', ..] | [b'a' | b'b' | b'd' | b'i' | b's' | b'S' | b'O' | b'C' | b'E' | b'R' | b'r', b':', ..] => {
            let (value, length) = php::read_prefix(text).map_err(|error| php::Error { offset: begin + error.offset, ..error })?;
            if length < text.len() {
                return Err(Error::Trailing { offset: begin + length });
            }
            Ok(value)
        }
        _ => Err(Error::Unknown),
    }
}

fn json(text: &[u8]) -> Result<Value<'_>, Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let fault = |error: serde_json::Error| Error::Json { line: error.line(), column: error.column() };
    // The deserializer stops at 128 levels by itself.
    let value = AsPhp.deserialize(&mut deserializer).map_err(fault)?;
    deserializer.end().map_err(fault)?;
    Ok(value)
}

/// Reads JSON as the PHP value that `json_decode` makes of it.
struct AsPhp;

impl<'de> DeserializeSeed<'de> for AsPhp {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AsPhp {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        #[expect(clippy::cast_precision_loss, reason = "PHP rounds to a float where 64 bits with a sign are too few")]
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        let mut next = 0;
        while let Some(value) = items.next_element_seed(AsPhp)? {
            entries.push((Key::Int(next), value));
            next += 1;
        }
        Ok(Value::Array(Entries::from(entries)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = members.next_key::<String>()? {
            entries.push((Key::from_text(Cow::Owned(key.into_bytes())), members.next_value_seed(AsPhp)?));
        }
        Ok(Value::Array(Entries::unique(entries)))
    }
}
