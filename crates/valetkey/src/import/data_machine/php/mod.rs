//! PHP's serialization, read and written as PHP 8.2 does it (`unserialize` with `allowed_classes` false, `serialize`).
//!
//! 1. [`read`] accepts what PHP accepts and refuses what PHP refuses. Like PHP it ignores what follows the value;
//!    [`read_prefix`] says how much was read.
//! 2. **Objects** are data: no class is ever looked up. What a class wrote for itself (`C:`) stays bytes. Enum cases
//!    (`E:`) are refused, as PHP refuses them for a class it may not load.
//! 3. **References** (`R:`, and `r:` for objects) become copies of what they name, so that nobody behind this room has
//!    to know them. One that names an array or object around itself becomes [`Value::Recursive`]. Copies are limited,
//!    see [`Fault::Copies`]: a few hundred bytes of references could else become terabytes.
//! 4. **Keys** are PHP's: a text that is a whole number is that number; a later entry of the same key replaces the value
//!    and keeps the place of the first. An object's members have texts only.
//! 5. Nothing is allocated for a claimed length or count. Nesting ends where PHP's does, at 4096, and neither reading,
//!    writing, comparing nor dropping a value recurses. There are at most [`MAX_VALUES`] in one text: each takes several times
//!    the bytes that it was read from.

mod graph;
mod token;
mod write;

use std::{borrow::Cow, collections::HashMap, fmt, ops};

use zeroize::Zeroize;

use token::{Token, Tokens};
pub use write::write;

/// How deep arrays and objects may stand in each other (PHP's `unserialize_max_depth`).
pub const MAX_DEPTH: usize = 4096;

/// The most values that are read of one text, those in arrays and objects too. The accounts of 90,000 people are a quarter of that.
pub const MAX_VALUES: usize = 4 << 20;

/// A PHP value. Its `Debug` says the kind only: a value may be a token.
#[derive(Default)]
pub enum Value<'a> {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number, also `INF`, `-INF` and `NAN`.
    Float(f64),
    /// A text: bytes, often but not always UTF-8.
    Text(Cow<'a, [u8]>),
    /// An array, which in PHP is a list, a map or both.
    Array(Entries<'a>),
    /// An object, as data.
    Object(Box<Object<'a>>),
    /// An object that serialized itself in a format of its own.
    Custom(Box<Custom<'a>>),
    /// A reference to an array or object that this value stands in.
    Recursive,
}

/// An object: its class and its members, private ones under PHP's mangled names (`\0Class\0name`, `\0*\0name`).
#[derive(PartialEq)]
pub struct Object<'a> {
    /// The class's name.
    pub class: Cow<'a, [u8]>,
    /// The members in their order; every key is a text.
    pub members: Entries<'a>,
}

/// An object that serialized itself.
#[derive(PartialEq)]
pub struct Custom<'a> {
    /// The class's name.
    pub class: Cow<'a, [u8]>,
    /// What the class wrote.
    pub payload: Cow<'a, [u8]>,
}

/// The key of an array's entry. `Key::Text` never holds a whole number in plain decimal; [`Key::from_text`] sees to it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A number.
    Int(i64),
    /// A text.
    Text(Cow<'a, [u8]>),
}

impl Default for Key<'_> {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl<'a> Key<'a> {
    /// The key that PHP makes of a text: `"10"` is the number 10; `"010"`, `"+1"` and `"-0"` are texts.
    pub fn from_text(text: Cow<'a, [u8]>) -> Self {
        let digits = text.strip_prefix(b"-").unwrap_or(&text);
        let canonical = match digits {
            [b'0'] => digits.len() == text.len(),
            [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        let number = if canonical { std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()) } else { None };
        number.map_or(Self::Text(text), Self::Int)
    }

    /// The key as bytes: a number in decimal.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Int(number) => Cow::Owned(number.to_string().into_bytes()),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

/// The entries of an array, or the members of an object, in order. A `Vec` that comes apart without recursion, and wipes
/// the texts it owns.
#[derive(Default)]
pub struct Entries<'a>(Vec<(Key<'a>, Value<'a>)>);

impl<'a> Entries<'a> {
    /// Entries as PHP keeps them: the last value of a key, in the place of the first.
    pub fn unique(entries: Vec<(Key<'a>, Value<'a>)>) -> Self {
        Self(unique(entries))
    }

    /// The value of a text key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(k, _)| matches!(k, Key::Text(text) if **text == *key.as_bytes())).map(|(_, value)| value)
    }
}

impl<'a> ops::Deref for Entries<'a> {
    type Target = Vec<(Key<'a>, Value<'a>)>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl ops::DerefMut for Entries<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a> From<Vec<(Key<'a>, Value<'a>)>> for Entries<'a> {
    fn from(entries: Vec<(Key<'a>, Value<'a>)>) -> Self {
        Self(entries)
    }
}

impl<'a> FromIterator<(Key<'a>, Value<'a>)> for Entries<'a> {
    fn from_iter<I: IntoIterator<Item = (Key<'a>, Value<'a>)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<'a> IntoIterator for Entries<'a> {
    type Item = (Key<'a>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(mut self) -> Self::IntoIter {
        std::mem::take(&mut self.0).into_iter()
    }
}

impl<'e, 'a> IntoIterator for &'e Entries<'a> {
    type Item = &'e (Key<'a>, Value<'a>);
    type IntoIter = std::slice::Iter<'e, (Key<'a>, Value<'a>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        let mut rest = vec![std::mem::take(&mut self.0)];
        while let Some(entries) = rest.pop() {
            for (_, value) in entries {
                match value {
                    Value::Array(mut inner) => rest.push(std::mem::take(&mut inner.0)),
                    Value::Object(mut object) => rest.push(std::mem::take(&mut object.members.0)),
                    Value::Text(Cow::Owned(mut text)) => text.zeroize(),
                    _ => {}
                }
            }
        }
    }
}

impl PartialEq for Entries<'_> {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = vec![(self, other)];
        while let Some((one, two)) = pairs.pop() {
            if one.len() != two.len() {
                return false;
            }
            for ((key_one, value_one), (key_two, value_two)) in one.iter().zip(two.iter()) {
                let same = match (value_one, value_two) {
                    (Value::Array(one), Value::Array(two)) => {
                        pairs.push((one, two));
                        true
                    }
                    (Value::Object(one), Value::Object(two)) => {
                        pairs.push((&one.members, &two.members));
                        one.class == two.class
                    }
                    _ => value_one == value_two,
                };
                if key_one != key_two || !same {
                    return false;
                }
            }
        }
        true
    }
}

impl<'a> Value<'a> {
    /// A text that is borrowed.
    pub fn text(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::Text(Cow::Borrowed(text.as_ref()))
    }

    /// What kind of value it is, in PHP's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) | Self::Custom(_) => "object",
            Self::Recursive => "recursive reference",
        }
    }

    /// How deep arrays and objects stand in each other: 0 for anything else, 1 for an array of such. Whoever walks a
    /// value by recursion asks first.
    pub fn depth(&self) -> usize {
        let mut deepest = 0;
        let mut rest = vec![(self, 1)];
        while let Some((value, depth)) = rest.pop() {
            let entries = match value {
                Value::Array(entries) => entries,
                Value::Object(object) => &object.members,
                _ => continue,
            };
            deepest = deepest.max(depth);
            rest.extend(entries.iter().map(|(_, value)| (value, depth + 1)));
        }
        deepest
    }
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) | (Self::Recursive, Self::Recursive) => true,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Int(one), Self::Int(two)) => one == two,
            // By bits: a NaN comes back as the NaN it was, and -0 is not 0.
            (Self::Float(one), Self::Float(two)) => one.to_bits() == two.to_bits(),
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Array(one), Self::Array(two)) => one == two,
            (Self::Object(one), Self::Object(two)) => one == two,
            (Self::Custom(one), Self::Custom(two)) => one == two,
            _ => false,
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(entries) => write!(f, "[array of {}]", entries.len()),
            _ => write!(f, "[{}]", self.kind()),
        }
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_bytes().escape_ascii())
    }
}

/// Why bytes are no PHP value, and where. Never holds a piece of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The offset of the byte in question.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What can be wrong with serialized bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes end before the value does.
    Ended,
    /// No value begins like this.
    Unknown,
    /// A number, flag or count is malformed.
    Number,
    /// A colon, brace, quote or semicolon is missing.
    Punctuation,
    /// A text, payload, array or object is not as long as it claims.
    Length,
    /// An escaped text holds a backslash without two hex digits.
    Escape,
    /// A key is neither a whole number nor a text.
    Key,
    /// An array or object holds more than it claims.
    Close,
    /// A class's name is empty or malformed.
    Class,
    /// An enum case; its class is not loaded, so it has no value.
    Enum,
    /// A reference names nothing before it, itself, or with `r:` something that is no object.
    Reference,
    /// Arrays and objects stand more than [`MAX_DEPTH`] deep in each other.
    Depth,
    /// References stand for more than the text has bytes (and 4096): each value counts one, and in a copy also the bytes of its
    /// text, class and keys.
    Copies,
    /// There are more than [`MAX_VALUES`] values.
    Values,
}

impl Fault {
    /// The stable word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Unknown => "unknown",
            Self::Number => "number",
            Self::Punctuation => "punctuation",
            Self::Length => "length",
            Self::Escape => "escape",
            Self::Key => "key",
            Self::Close => "close",
            Self::Class => "class",
            Self::Enum => "enum",
            Self::Reference => "reference",
            Self::Depth => "depth",
            Self::Copies => "copies",
            Self::Values => "values",
        }
    }

    /// What is wrong, in words.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Ended => "it ends in the middle of a value",
            Self::Unknown => "no value begins like this",
            Self::Number => "a number is malformed",
            Self::Punctuation => "a colon, brace, quote or semicolon is missing",
            Self::Length => "a text, array or object is not as long as it says",
            Self::Escape => "an escaped text is malformed",
            Self::Key => "a key is neither a number nor a text",
            Self::Close => "an array or object holds more than it says",
            Self::Class => "the name of a class is malformed",
            Self::Enum => "an enum case cannot be read without its class",
            Self::Reference => "a reference names nothing that it may name",
            Self::Depth => "arrays stand too deep in each other",
            Self::Copies => "references stand for more than there are bytes",
            Self::Values => "it holds more values than are read of one text",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serialized PHP, at byte {}: {}", self.offset, self.fault.message())
    }
}

impl std::error::Error for Error {}

/// Reads one value. What follows it is ignored, as PHP ignores it.
///
/// # Errors
///
/// Where PHP refuses the bytes, for references that stand for too much ([`Fault::Copies`]), and for too many values
/// ([`Fault::Values`]).
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Error> {
    read_prefix(bytes).map(|(value, _)| value)
}

/// Reads one value, and says how many bytes it took.
///
/// # Errors
///
/// As [`read`].
pub fn read_prefix(bytes: &[u8]) -> Result<(Value<'_>, usize), Error> {
    read_at_most(bytes, MAX_VALUES)
}

/// The same, of at most so many values.
fn read_at_most(bytes: &[u8], most: usize) -> Result<(Value<'_>, usize), Error> {
    let mut tokens = Tokens::new(bytes);
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut left = most;
    loop {
        let offset = tokens.at();
        left = left.checked_sub(1).ok_or(Error { offset, fault: Fault::Values })?;
        // A value that is complete; none where an array or object has only begun.
        let mut done = match tokens.next()? {
            // References are rare enough that values without any are read without what they need.
            Token::Reference { .. } => return graph::read(bytes, most),
            Token::Array(0) => {
                tokens.expect(b'}')?;
                Some(Value::Array(Entries::default()))
            }
            Token::Array(count) => {
                Open::begin(&mut open, None, count, offset)?;
                None
            }
            Token::Object { class, count } => {
                Open::begin(&mut open, Some(class), count, offset)?;
                None
            }
            leaf => leaf.into_value(),
        };
        loop {
            let Some(top) = open.last_mut() else { return Ok((done.unwrap_or_default(), tokens.at())) };
            if let Some(value) = done.take() {
                top.entries.push((std::mem::take(&mut top.key), value));
            }
            if top.left > 0 {
                top.left -= 1;
                top.key = key(&mut tokens, top.class.is_some())?;
                break;
            }
            tokens.expect(b'}')?;
            done = open.pop().map(Open::close);
        }
    }
}

/// An array or object whose end was not read yet.
struct Open<'a> {
    class: Option<&'a [u8]>,
    left: usize,
    key: Key<'a>,
    entries: Vec<(Key<'a>, Value<'a>)>,
}

impl<'a> Open<'a> {
    fn begin(open: &mut Vec<Self>, class: Option<&'a [u8]>, count: usize, offset: usize) -> Result<(), Error> {
        if open.len() == MAX_DEPTH {
            return Err(Error { offset, fault: Fault::Depth });
        }
        // The count is a claim, so it is believed up to 16 only.
        open.push(Self { class, left: count, key: Key::default(), entries: Vec::with_capacity(count.min(16)) });
        Ok(())
    }

    fn close(self) -> Value<'a> {
        let mut entries = unique(self.entries);
        entries.shrink_to_fit();
        let entries = Entries(entries);
        match self.class {
            Some(class) => Value::Object(Box::new(Object { class: Cow::Borrowed(class), members: entries })),
            None => Value::Array(entries),
        }
    }
}

/// The key of the next entry; the members of an object have texts only.
fn key<'a>(tokens: &mut Tokens<'a>, object: bool) -> Result<Key<'a>, Error> {
    let offset = tokens.at();
    match tokens.next() {
        Ok(Token::Int(number)) if object => Ok(Key::Text(Cow::Owned(number.to_string().into_bytes()))),
        Ok(Token::Int(number)) => Ok(Key::Int(number)),
        Ok(Token::Text(text)) if object => Ok(Key::Text(text)),
        Ok(Token::Text(text)) => Ok(Key::from_text(text)),
        Ok(_) | Err(Error { fault: Fault::Unknown, .. }) => Err(Error { offset, fault: Fault::Key }),
        Err(error) => Err(error),
    }
}

/// Entries without doubles: the last value of a key, in the place of the first.
fn unique<'a>(mut entries: Vec<(Key<'a>, Value<'a>)>) -> Vec<(Key<'a>, Value<'a>)> {
    // Pairs of a double's place and the first place of its key.
    let mut doubles = Vec::new();
    if entries.len() <= 16 {
        for (at, (key, _)) in entries.iter().enumerate() {
            doubles.extend(entries[..at].iter().position(|(earlier, _)| earlier == key).map(|first| (at, first)));
        }
    } else {
        let mut places = HashMap::with_capacity(entries.len());
        for (at, (key, _)) in entries.iter().enumerate() {
            let first = *places.entry(key).or_insert(at);
            if first != at {
                doubles.push((at, first));
            }
        }
    }
    if doubles.is_empty() {
        return entries;
    }
    for &(at, first) in &doubles {
        entries[first].1 = std::mem::take(&mut entries[at].1);
    }
    let mut doubles = doubles.into_iter().map(|(at, _)| at).peekable();
    let mut at = 0;
    entries.retain(|_| {
        let keep = doubles.next_if_eq(&at).is_none();
        at += 1;
        keep
    });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_values_than_the_limit_none_are_read() {
        for (text, values) in [
            ("a:3:{i:0;N;i:1;a:1:{i:0;i:7;}i:2;s:1:\"a\";}", 5),
            ("O:1:\"A\":1:{s:1:\"a\";N;}", 2),
            // A copy is a value, too, and so is what stands in it.
            ("a:3:{i:0;a:2:{i:0;N;i:1;N;}i:1;R:2;i:2;R:2;}", 10),
        ] {
            assert!(read_at_most(text.as_bytes(), values).is_ok(), "{text}");
            assert_eq!(read_at_most(text.as_bytes(), values - 1).unwrap_err().fault, Fault::Values, "{text}");
        }
    }
}
