//! The value of a WordPress option as somebody hands it over: PHP's serialization or JSON, told apart by looking.
//!
//! The database column and `wp option get --format=json` give the same array in two texts. Their first bytes have
//! nothing in common, so neither can be taken for the other. JSON is read as PHP's `json_decode($text, true)` reads it:
//! objects and lists are arrays, `{}` and `[]` the same empty one, `"10"` the key 10, a whole number past 64 bits a
//! float.
//!
//! Either may nest as deep as PHP unserializes, [`php::MAX_DEPTH`], and hold [`php::MAX_VALUES`]; neither is read by recursion.
//! How deep one account may nest is another question ([`super::value::DEEPEST`]): a deeper one is listed, and the rest is
//! brought.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Visitor};

use super::php::{self, Entries, Key, MAX_DEPTH, MAX_VALUES, Value};

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
    /// It is JSON of more than [`MAX_VALUES`] values.
    Values,
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
            Self::Values => "values",
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
            Self::Values => f.write_str("it holds more values than are read of one option"),
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
        [b'{' | b'[' | b'"' | b'-' | b'0'..=b'9', ..] => json(text, MAX_VALUES),
        [b't' | b'f' | b'n', letter, ..] if letter.is_ascii_lowercase() => json(text, MAX_VALUES),
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

/// Reads JSON as the PHP value that `json_decode` makes of it, of at most so many values.
fn json(text: &[u8], most: usize) -> Result<Value<'_>, Error> {
    let mut reader = Json { text, at: 0 };
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut left = most;
    loop {
        // A value begins here.
        left = left.checked_sub(1).ok_or(Error::Values)?;
        let mut value = match reader.peek() {
            Some(bracket @ (b'[' | b'{')) => {
                if open.len() == MAX_DEPTH {
                    return Err(reader.fault(reader.at));
                }
                reader.at += 1;
                match bracket {
                    b'[' if !reader.take(b']') => {
                        open.push(Open::List(Vec::new()));
                        continue;
                    }
                    b'{' if !reader.take(b'}') => {
                        let key = reader.key()?;
                        open.push(Open::Map(Vec::new(), key));
                        continue;
                    }
                    _ => Value::Array(Entries::from(Vec::new())),
                }
            }
            _ => reader.scalar()?,
        };
        // One has ended: what it stands in goes on, or ends too.
        loop {
            let end = match open.last_mut() {
                None => return reader.end(value),
                Some(Open::List(items)) => {
                    items.push((Key::Int(i64::try_from(items.len()).unwrap_or(i64::MAX)), value));
                    if reader.take(b',') {
                        break;
                    }
                    b']'
                }
                Some(Open::Map(members, key)) => {
                    members.push((std::mem::replace(key, Key::Int(0)), value));
                    if reader.take(b',') {
                        *key = reader.key()?;
                        break;
                    }
                    b'}'
                }
            };
            if !reader.take(end) {
                return Err(reader.fault(reader.at));
            }
            value = match open.pop() {
                Some(Open::List(items)) => Value::Array(Entries::from(items)),
                Some(Open::Map(members, _)) => Value::Array(Entries::unique(members)),
                None => Value::Null,
            };
        }
    }
}

/// A list or an object whose end has not come yet; the object with the key of its next member.
enum Open<'a> {
    List(Vec<(Key<'a>, Value<'a>)>),
    Map(Vec<(Key<'a>, Value<'a>)>, Key<'a>),
}

/// JSON, and how much of it was read.
struct Json<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Json<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.get(self.at).copied()
    }

    /// Passes over the next byte, if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    /// A member's name and the colon after it.
    fn key(&mut self) -> Result<Key<'a>, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.fault(self.at));
        }
        let key = match self.scalar()? {
            Value::Text(text) => Key::from_text(text),
            _ => return Err(self.fault(self.at)),
        };
        if self.take(b':') { Ok(key) } else { Err(self.fault(self.at)) }
    }

    /// A text, a number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<Value<'a>, Error> {
        let text = self.text;
        let rest = &text[self.at..];
        let length = match rest.first() {
            Some(b'"') => {
                let mut length = 1;
                while let Some(byte) = rest.get(length).filter(|byte| **byte != b'"') {
                    length += if *byte == b'\\' { 2 } else { 1 };
                }
                length + 1
            }
            _ => rest.iter().take_while(|byte| !matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r')).count(),
        };
        let word = &rest[..length.min(rest.len())];
        let mut deserializer = serde_json::Deserializer::from_slice(word);
        let read = AsPhp.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
        // There is one line in it: a line break is no part of a text in JSON.
        let value = read.map_err(|error| self.fault(self.at + error.column().saturating_sub(1)))?;
        self.at += word.len();
        Ok(match value {
            // `serde_json` may miss the nearest float by a bit; PHP and the standard library do not.
            Value::Float(near) => Value::Float(std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(near)),
            other => other,
        })
    }

    /// The whole of it, where nothing follows.
    fn end(mut self, value: Value<'a>) -> Result<Value<'a>, Error> {
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.fault(self.at)),
        }
    }

    /// What is wrong at an offset.
    fn fault(&self, at: usize) -> Error {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Error::Json { line, column: before.len() - begin + 1 }
    }
}

/// Reads one word of JSON as PHP's value.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_json_values_than_the_limit_none_are_read() {
        let text = br#"{"a": [1, {}, "x"], "b": null}"#;
        assert!(json(text, 6).is_ok());
        assert_eq!(json(text, 5).unwrap_err(), Error::Values);
    }
}
