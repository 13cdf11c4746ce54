//! The tokens of PHP's serialization, each accepted exactly where PHP 8.2 accepts it.
//!
//! A tokenizer of our own, because the crates made for it refuse what PHP reads: a plus sign, numbers past the range
//! (PHP takes the nearest), `.5`, escaped strings (`S:`), a text that is longer than 2^32, and keep no offset of where
//! a token began. What is left to them is smaller than the difference.

use std::borrow::Cow;

use super::{Custom, Error, Fault, Value};

/// One token. Lengths and counts are claims, checked against what is left before they are believed.
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, [u8]>),
    /// An array's begin, up to and with `{`.
    Array(usize),
    /// An object's begin, up to and with `{`.
    Object {
        class: &'a [u8],
        count: usize,
    },
    /// An object that wrote itself; whole.
    Custom {
        class: &'a [u8],
        payload: &'a [u8],
    },
    /// `R:` shares the place of an earlier value; `r:` is an earlier object once more. Slots count from 1.
    Reference {
        shared: bool,
        slot: u64,
    },
}

impl<'a> Token<'a> {
    /// The value of a token that is a whole one.
    pub(super) fn into_value(self) -> Option<Value<'a>> {
        Some(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Float(value) => Value::Float(value),
            Self::Text(value) => Value::Text(value),
            Self::Custom { class, payload } => {
                Value::Custom(Box::new(Custom { class: Cow::Borrowed(class), payload: Cow::Borrowed(payload) }))
            }
            Self::Array(_) | Self::Object { .. } | Self::Reference { .. } => return None,
        })
    }
}

/// Where reading stands in the bytes.
pub(super) struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// A fault at the next byte, or the end of the bytes if there is none.
    pub(super) fn fault(&self, fault: Fault) -> Error {
        Error { offset: self.at, fault: if self.at >= self.bytes.len() { Fault::Ended } else { fault } }
    }

    /// The next token of a value.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Error> {
        let begin = self.at;
        let kind = self.peek().ok_or(self.fault(Fault::Ended))?;
        self.at += 1;
        if kind == b'N' {
            self.expect(b';')?;
            return Ok(Token::Null);
        }
        if !b"bidsSaOCErR".contains(&kind) {
            self.at = begin;
            return Err(self.fault(Fault::Unknown));
        }
        self.expect(b':')?;
        match kind {
            b'b' => {
                let value = match self.peek() {
                    Some(b'0') => false,
                    Some(b'1') => true,
                    _ => return Err(self.fault(Fault::Number)),
                };
                self.at += 1;
                self.expect(b';')?;
                Ok(Token::Bool(value))
            }
            b'i' => {
                let value = self.signed(true)?;
                self.expect(b';')?;
                Ok(Token::Int(value))
            }
            b'd' => self.float().map(Token::Float),
            b's' | b'S' => self.text(kind == b'S').map(Token::Text),
            b'a' => {
                let count = self.count()?;
                self.expect(b':')?;
                self.expect(b'{')?;
                Ok(Token::Array(count))
            }
            b'O' => {
                let class = self.class()?;
                let count = self.signed(false)?;
                let count = usize::try_from(count).ok().filter(|count| *count <= self.left());
                let count = count.ok_or(self.fault(Fault::Length))?;
                self.expect(b':')?;
                self.expect(b'{')?;
                Ok(Token::Object { class, count })
            }
            b'C' => {
                let class = self.class()?;
                let length = self.signed(false)?;
                self.expect(b':')?;
                self.expect(b'{')?;
                let payload = usize::try_from(length).ok().and_then(|length| self.take(length));
                let payload = payload.ok_or(Error { offset: self.at, fault: Fault::Length })?;
                self.expect(b'}')?;
                Ok(Token::Custom { class, payload })
            }
            b'E' => Err(Error { offset: begin, fault: Fault::Enum }),
            _ => {
                let slot = self.unsigned()?;
                self.expect(b';')?;
                Ok(Token::Reference { shared: kind == b'R', slot })
            }
        }
    }

    /// Takes one byte that has to stand here.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.fault(match byte {
            b'}' => Fault::Close,
            _ => Fault::Punctuation,
        }))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn digits(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// A whole number without a sign. PHP lets it run over 2^64, and so does this; whoever uses it checks its range.
    fn unsigned(&mut self) -> Result<u64, Error> {
        let digits = self.digits();
        if digits.is_empty() {
            return Err(self.fault(Fault::Number));
        }
        Ok(digits.iter().fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
    }

    /// A whole number with or without a sign; beyond 64 bits it is the nearest that fits. Some places take none at all
    /// for 0.
    fn signed(&mut self, digits_needed: bool) -> Result<i64, Error> {
        let negative = self.peek() == Some(b'-');
        if matches!(self.peek(), Some(b'-' | b'+')) {
            self.at += 1;
        }
        let digits = self.digits();
        if digits.is_empty() && digits_needed {
            return Err(self.fault(Fault::Number));
        }
        let step = |sum: i64, digit: &u8| {
            let digit = i64::from(digit - b'0');
            let sum = sum.saturating_mul(10);
            if negative { sum.saturating_sub(digit) } else { sum.saturating_add(digit) }
        };
        Ok(digits.iter().fold(0, step))
    }

    /// A number of entries; more than there are bytes left cannot be true.
    fn count(&mut self) -> Result<usize, Error> {
        let begin = self.at;
        let digits = self.digits();
        if digits.is_empty() {
            return Err(self.fault(Fault::Number));
        }
        let count = digits
            .iter()
            .try_fold(0usize, |sum, digit| sum.checked_mul(10)?.checked_add(usize::from(digit - b'0')))
            .filter(|count| *count <= self.left());
        count.ok_or(Error { offset: begin, fault: Fault::Length })
    }

    fn float(&mut self) -> Result<f64, Error> {
        let begin = self.at;
        for (text, value) in [("INF;", f64::INFINITY), ("-INF;", f64::NEG_INFINITY), ("NAN;", f64::NAN)] {
            if self.bytes[begin..].starts_with(text.as_bytes()) {
                self.at += text.len();
                return Ok(value);
            }
        }
        if matches!(self.peek(), Some(b'-' | b'+')) {
            self.at += 1;
        }
        let whole = self.digits().len();
        let mut parts = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            parts = self.digits().len();
        }
        if whole + parts == 0 {
            return Err(self.fault(Fault::Number));
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'-' | b'+')) {
                self.at += 1;
            }
            if self.digits().is_empty() {
                return Err(self.fault(Fault::Number));
            }
        }
        let text = &self.bytes[begin..self.at];
        self.expect(b';')?;
        let value = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        value.ok_or(Error { offset: begin, fault: Fault::Number })
    }

    fn text(&mut self, escaped: bool) -> Result<Cow<'a, [u8]>, Error> {
        let begin = self.at;
        let length = self.unsigned()?;
        self.expect(b':')?;
        self.expect(b'"')?;
        let too_long = Error { offset: begin, fault: Fault::Length };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.left()).ok_or(too_long)?;
        let text = if escaped { Cow::Owned(self.escaped(length)?) } else { Cow::Borrowed(self.take(length).ok_or(too_long)?) };
        self.expect(b'"').map_err(|error| Error { fault: Fault::Length, ..error })?;
        self.expect(b';')?;
        Ok(text)
    }

    /// The bytes of an `S:` text: `\` and two hex digits stand for one.
    fn escaped(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        for _ in 0..length {
            let byte = self.peek().ok_or(self.fault(Fault::Length))?;
            self.at += 1;
            if byte != b'\\' {
                text.push(byte);
                continue;
            }
            let mut value = 0;
            for _ in 0..2 {
                let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
                value = value * 16 + digit.ok_or(self.fault(Fault::Escape))?;
                self.at += 1;
            }
            text.extend(u8::try_from(value));
        }
        Ok(text)
    }

    /// A class's name in quotes with the colon behind it.
    fn class(&mut self) -> Result<&'a [u8], Error> {
        let begin = self.at;
        let length = self.unsigned()?;
        self.expect(b':')?;
        self.expect(b'"')?;
        let fault = Error { offset: begin, fault: Fault::Class };
        let class = usize::try_from(length).ok().filter(|length| *length > 0).and_then(|length| self.take(length));
        let class = class.ok_or(fault)?;
        if class[0] == b'\\' || !class.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'\\' | 0x80..)) {
            return Err(fault);
        }
        self.expect(b'"')?;
        self.expect(b':')?;
        Ok(class)
    }
}
