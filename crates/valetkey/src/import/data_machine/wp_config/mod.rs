//! A site's `wp-config.php`, read and never run.
//!
//! 1. The file is taken apart into words; text outside PHP and comments are left out.
//! 2. The statements are walked in order. What certainly runs and defines a constant from literals is a value; the first
//!    definition of a name counts, as in PHP.
//! 3. Everything else about a constant is reported by its name and line, with the reason: a function call, a variable, a
//!    condition. The one condition that is understood is `! defined('X')`, which asks nothing but what this file knows.
//! 4. Lines by which more constants may come in (included files, computed names) are listed.

mod evaluate;
mod lexer;

use std::{collections::BTreeMap, fmt};

use evaluate::{closings, evaluate};
use lexer::{Lexed, Token, lex};

use super::salts::CONSTANTS;
use crate::secret::SecretBytes;

/// The largest file that is read, in bytes. (WordPress's own sample has 3,500.)
pub const MAX_BYTES: usize = 1 << 20;

/// How deep blocks may stand in each other.
const MAX_BLOCKS: usize = 256;

/// How many words behind `include` may name the file.
const MAX_INCLUDE: usize = 64;

/// What a configuration says.
#[derive(Debug, Default)]
pub struct WpConfig {
    constants: BTreeMap<String, Definition>,
    table_prefix: Option<Definition>,
    elsewhere: Vec<usize>,
}

/// What is known of a constant, or of `$table_prefix`.
#[derive(Clone, Debug)]
pub enum Definition {
    /// Its value.
    Value {
        /// The value.
        value: Constant,
        /// The line, from 1.
        line: usize,
    },
    /// It is set, and its value is not certain without running PHP.
    NotEvaluated {
        /// The line, from 1.
        line: usize,
        /// What makes it uncertain.
        reason: Reason,
    },
}

/// A constant's value. Texts may be secrets, so all are.
#[derive(Clone, Debug)]
pub enum Constant {
    /// A text.
    Text(SecretBytes),
    /// A whole number.
    Int(i64),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl Constant {
    /// The text that PHP makes of it where it needs one.
    pub fn to_text(&self) -> SecretBytes {
        match self {
            Self::Text(text) => text.clone(),
            Self::Int(number) => SecretBytes::new(number.to_string().into_bytes()),
            Self::Bool(true) => SecretBytes::new(b"1".to_vec()),
            Self::Bool(false) | Self::Null => SecretBytes::default(),
        }
    }
}

/// Why a value is not certain. Its `Display` follows the constant's name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is defined under a condition, in a loop or in a function.
    Condition,
    /// It comes from a call of this function.
    Call(String),
    /// It has a variable in it, or the output of a command.
    Variable,
    /// It uses this constant, which the file does not define.
    Constant(String),
    /// It is a number with a fraction, whose text depends on the settings of PHP.
    Float,
    /// It is computed in another way.
    Computed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Condition => f.write_str("is defined under a condition"),
            Self::Call(name) => write!(f, "comes from a call of {name}()"),
            Self::Variable => f.write_str("has a variable in it"),
            Self::Constant(name) => write!(f, "uses {name}, which this file does not define"),
            Self::Float => f.write_str("is a number with a fraction"),
            Self::Computed => f.write_str("is computed"),
        }
    }
}

/// Why a file cannot be read as a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No `<?php` is in it.
    NoPhp,
    /// It is larger than [`MAX_BYTES`].
    TooLarge,
    /// A text or comment that begins on this line has no end: the file was cut off.
    Unterminated {
        /// The line, from 1.
        line: usize,
    },
    /// Blocks stand too deep in each other.
    TooDeep {
        /// The line, from 1.
        line: usize,
    },
    /// A bracket that is opened on this line is not closed: the file was cut off.
    Unclosed {
        /// The line, from 1.
        line: usize,
    },
}

impl Error {
    /// The stable word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPhp => "no_php",
            Self::TooLarge => "too_large",
            Self::Unterminated { .. } => "unterminated",
            Self::TooDeep { .. } => "too_deep",
            Self::Unclosed { .. } => "unclosed",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPhp => f.write_str("no PHP is in it; give the site's wp-config.php"),
            Self::TooLarge => f.write_str("it is larger than 1 MiB; give the site's wp-config.php"),
            Self::Unterminated { line } => write!(f, "line {line}: a text or comment has no end; is the file whole?"),
            Self::TooDeep { line } => write!(f, "line {line}: blocks stand too deep in each other"),
            Self::Unclosed { line } => write!(f, "line {line}: a bracket is not closed; is the file whole?"),
        }
    }
}

impl std::error::Error for Error {}

impl WpConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// When the file is no PHP, too large or cut off. What is merely uncertain is no error but a [`Definition`].
    pub fn parse(source: &[u8]) -> Result<Self, Error> {
        if source.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let tokens = lex(source)?;
        if tokens.is_empty() {
            return Err(Error::NoPhp);
        }
        let (config, closings) = (Self::default(), closings(&tokens));
        let mut walk = Walk { config, tokens: &tokens, closings, blocks: Vec::new(), pending: Guard::Plain };
        walk.run()?;
        Ok(walk.config)
    }

    /// What is known of a constant; none where the file does not mention it as one.
    pub fn constant(&self, name: &str) -> Option<&Definition> {
        self.constants.get(name)
    }

    /// What is known of `$table_prefix`.
    pub fn table_prefix(&self) -> Option<&Definition> {
        self.table_prefix.as_ref()
    }

    /// Whether the file says that the site is a network (`MULTISITE` is true).
    pub fn multisite(&self) -> bool {
        match self.constant("MULTISITE") {
            Some(Definition::Value { value: Constant::Text(text), .. }) => !matches!(text.expose(), b"" | b"0"),
            Some(Definition::Value { value: Constant::Int(number), .. }) => *number != 0,
            Some(Definition::Value { value: Constant::Bool(flag), .. }) => *flag,
            _ => false,
        }
    }

    /// The lines that may define further constants: included files and computed names. WordPress's own settings file,
    /// which every configuration includes at its end, is none of them.
    pub fn elsewhere(&self) -> &[usize] {
        &self.elsewhere
    }

    /// Notes a definition; the first of a name counts.
    fn define(&mut self, name: &[u8], definition: Definition) {
        self.constants.entry(String::from_utf8_lossy(name).into_owned()).or_insert(definition);
    }
}

/// Under what a statement runs.
#[derive(Clone, PartialEq)]
enum Guard {
    /// It runs.
    Plain,
    /// It runs if this constant is not defined yet; which only matters to others than itself.
    IfUndefined(Vec<u8>),
    /// Nobody knows.
    Conditional,
    /// It does not run.
    Dead,
}

struct Walk<'t, 'a> {
    config: WpConfig,
    tokens: &'t [Lexed<'a>],
    /// Where the bracket that opens at a place is closed.
    closings: Vec<Option<usize>>,
    /// The blocks around a statement.
    blocks: Vec<Guard>,
    /// What a condition without braces says of the one statement behind it.
    pending: Guard,
}

impl<'a> Walk<'_, 'a> {
    fn token(&self, at: usize) -> Option<&Token<'a>> {
        self.tokens.get(at).map(|lexed| &lexed.token)
    }

    fn is(&self, at: usize, sign: &[u8]) -> bool {
        matches!(self.token(at), Some(Token::Sign(found)) if *found == sign)
    }

    fn word(&self, at: usize) -> Option<String> {
        match self.token(at) {
            Some(Token::Word(word)) => {
                Some(String::from_utf8_lossy(word.strip_prefix(b"\\").unwrap_or(word)).to_ascii_lowercase())
            }
            _ => None,
        }
    }

    fn line(&self, at: usize) -> usize {
        self.tokens.get(at).map_or(0, |lexed| lexed.line)
    }

    fn closing(&self, open: usize) -> Result<usize, Error> {
        self.closings.get(open).copied().flatten().ok_or(Error::Unclosed { line: self.line(open) })
    }

    /// Walks the statements. `at` always stands at the begin of one.
    fn run(&mut self) -> Result<(), Error> {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is(at, b"{") {
                if self.blocks.len() == MAX_BLOCKS {
                    return Err(Error::TooDeep { line: self.line(at) });
                }
                let guard = std::mem::replace(&mut self.pending, Guard::Plain);
                self.blocks.push(guard);
                at += 1;
                continue;
            }
            if self.is(at, b"}") {
                self.blocks.pop();
                self.pending = Guard::Plain;
                at += 1;
                continue;
            }
            let word = self.word(at).unwrap_or_default();
            at = match word.as_str() {
                "if" | "elseif" | "while" | "for" | "foreach" | "switch" | "catch" if self.is(at + 1, b"(") => {
                    let end = self.closing(at + 1)?;
                    self.inside(at + 2, end, false)?;
                    let guard = if word == "if" { self.condition(at + 2, end) } else { Guard::Conditional };
                    if word == "elseif" && self.is(end + 1, b":") {
                        self.blocks.pop();
                    }
                    self.begin(guard, end + 1)
                }
                "else" => {
                    if self.is(at + 1, b":") {
                        self.blocks.pop();
                    }
                    self.begin(Guard::Conditional, at + 1)
                }
                "do" | "try" | "finally" => self.begin(Guard::Conditional, at + 1),
                "endif" | "endwhile" | "endfor" | "endforeach" | "endswitch" => {
                    self.blocks.pop();
                    self.pending = Guard::Plain;
                    self.end(at)?
                }
                "function" | "class" | "abstract" | "final" | "interface" | "trait" | "enum" | "readonly" => {
                    let body = (at..self.tokens.len()).find(|at| self.is(*at, b"{") || self.is(*at, b";"));
                    self.pending = Guard::Conditional;
                    body.unwrap_or(self.tokens.len())
                }
                "namespace" => {
                    let body = (at..self.tokens.len()).find(|at| self.is(*at, b"{") || self.is(*at, b";"));
                    body.unwrap_or(self.tokens.len())
                }
                "return" | "exit" | "die" if self.guard(b"") == Guard::Plain => {
                    let end = self.end(at)?;
                    return self.inside(at + 1, end, false);
                }
                "const" => {
                    let end = self.end(at)?;
                    self.constants(at + 1, end);
                    self.pending = Guard::Plain;
                    end
                }
                _ => {
                    let end = self.end(at)?;
                    self.statement(at, end)?;
                    self.pending = Guard::Plain;
                    end
                }
            };
            if self.is(at, b";") {
                self.pending = Guard::Plain;
                at += 1;
            }
        }
        Ok(())
    }

    /// What is behind a condition: a block of the `:` kind, or whatever stands there.
    fn begin(&mut self, guard: Guard, at: usize) -> usize {
        let guard = if self.pending == Guard::Plain { guard } else { self.pending.clone() };
        if self.is(at, b":") {
            self.blocks.push(guard);
            self.pending = Guard::Plain;
            return at + 1;
        }
        self.pending = guard;
        at
    }

    /// The end of a statement: its semicolon, the end of the block, or of the file.
    fn end(&self, begin: usize) -> Result<usize, Error> {
        let mut at = begin;
        while let Some(token) = self.token(at) {
            match token {
                Token::Sign(b";" | b"}") => return Ok(at),
                Token::Sign(b"(" | b"[" | b"{" | b"#[") => at = self.closing(at)? + 1,
                _ => at += 1,
            }
        }
        Ok(at)
    }

    /// What is known of an `if` from its condition.
    fn condition(&self, begin: usize, end: usize) -> Guard {
        match self.undefined(begin) {
            Some((name, after)) if after == end => self.if_undefined(name),
            _ => Guard::Conditional,
        }
    }

    fn if_undefined(&self, name: Vec<u8>) -> Guard {
        let text = String::from_utf8_lossy(&name);
        match self.config.constant(&text) {
            Some(Definition::NotEvaluated { reason: Reason::Condition, .. }) => Guard::Conditional,
            Some(_) => Guard::Dead,
            // Nobody but this file defines the key and salt constants, if nothing was included before.
            None if CONSTANTS.contains(&&*text) && self.config.elsewhere.is_empty() => Guard::Plain,
            None => Guard::IfUndefined(name),
        }
    }

    /// `! defined('X')` at a place: the name, and the place behind it.
    fn undefined(&self, at: usize) -> Option<(Vec<u8>, usize)> {
        if !self.is(at, b"!") {
            return None;
        }
        self.defined(at + 1)
    }

    /// `defined('X')` at a place: the name, and the place behind it.
    fn defined(&self, at: usize) -> Option<(Vec<u8>, usize)> {
        match self.token(at + 2) {
            Some(Token::Text(name))
                if self.word(at).is_some_and(|word| word == "defined") && self.is(at + 1, b"(") && self.is(at + 3, b")") =>
            {
                Some((name.to_vec(), at + 4))
            }
            _ => None,
        }
    }

    /// Under what a definition of a name runs here.
    fn guard(&self, name: &[u8]) -> Guard {
        let mut guards = self.blocks.iter().chain([&self.pending]);
        if guards.clone().any(|guard| *guard == Guard::Dead) {
            return Guard::Dead;
        }
        let runs = guards.all(|guard| match guard {
            Guard::Plain => true,
            // The first definition counts, so that this one asks first changes nothing.
            Guard::IfUndefined(asked) => asked == name,
            Guard::Conditional | Guard::Dead => false,
        });
        if runs { Guard::Plain } else { Guard::Conditional }
    }

    /// A statement that is none of the others: `define(...)`, an assignment, an include, anything.
    fn statement(&mut self, begin: usize, end: usize) -> Result<(), Error> {
        let mut at = begin;
        // `defined('X') || define('X', ...)`, and the same with `or`, or with `!` and `and`.
        let outer = self.pending.clone();
        let (asked, signs): (_, [&[u8]; 2]) = match self.undefined(at) {
            Some(asked) => (Some(asked), [b"&&", b"and"]),
            None => (self.defined(at), [b"||", b"or"]),
        };
        if let Some((name, after)) = asked
            && (self.is(after, signs[0]) || self.word(after).is_some_and(|word| word.as_bytes() == signs[1]))
        {
            if self.pending == Guard::Plain {
                self.pending = self.if_undefined(name);
            }
            at = after + 1;
        }
        at += usize::from(self.is(at, b"@"));
        at = self.call(at, end)?;
        self.pending = outer;
        self.inside(at, end, at == begin)
    }

    /// What else is between two places: whatever is defined there is defined under something, or elsewhere. `first` says that
    /// a statement begins there.
    fn inside(&mut self, begin: usize, end: usize, first: bool) -> Result<(), Error> {
        let mut at = begin;
        while at < end {
            let word = self.word(at);
            match word.as_deref() {
                Some("define") if self.is(at + 1, b"(") => {
                    let pending = std::mem::replace(&mut self.pending, Guard::Conditional);
                    self.call(at, end)?;
                    self.pending = pending;
                }
                Some("include" | "include_once" | "require" | "require_once") => self.include(at, end),
                Some("eval") => self.elsewhere(at),
                // The function by its name, for another to call.
                _ if matches!(self.token(at), Some(Token::Text(text)) if is_define(text)) => {
                    self.elsewhere(at);
                }
                _ if matches!(self.token(at), Some(Token::Variable(b"table_prefix"))) && self.is(at + 1, b"=") => {
                    self.table_prefix(at, end, first && at == begin);
                }
                _ => {}
            }
            at += 1;
        }
        Ok(())
    }

    /// `define('X', ...)` at a place, if it stands there; the place behind it.
    fn call(&mut self, at: usize, end: usize) -> Result<usize, Error> {
        if self.word(at).is_none_or(|word| word != "define") || !self.is(at + 1, b"(") {
            return Ok(at);
        }
        let close = self.closing(at + 1)?;
        if close >= end {
            return Err(Error::Unclosed { line: self.line(at) });
        }
        let line = self.line(at);
        let parts = self.parts(at + 2, close);
        let name = parts.first().map(|(from, to)| evaluate(&self.config, &self.tokens[*from..*to]));
        let guard = |walk: &Self, name: &[u8]| walk.guard(name);
        match (name, parts.get(1)) {
            (Some(Ok(name)), Some((from, to))) => {
                let name = name.to_text();
                let name = name.expose().strip_prefix(b"\\").unwrap_or(name.expose());
                match guard(self, name) {
                    Guard::Dead => {}
                    Guard::Plain => {
                        let definition = self.value(*from, *to, line);
                        self.config.define(name, definition);
                    }
                    _ => self.config.define(name, Definition::NotEvaluated { line, reason: Reason::Condition }),
                }
            }
            (Some(Err(_)), _) => self.elsewhere(at),
            _ => {}
        }
        Ok(close + 1)
    }

    /// `const A = ..., B = ...` behind its keyword.
    fn constants(&mut self, begin: usize, end: usize) {
        for (from, to) in self.parts(begin, end) {
            let line = self.line(from);
            let Some(Token::Word(name)) = self.token(from) else { continue };
            let name = name.to_vec();
            if !self.is(from + 1, b"=") {
                continue;
            }
            match self.guard(&name) {
                Guard::Plain => {
                    let definition = self.value(from + 2, to, line);
                    self.config.define(&name, definition);
                }
                // Inside a class it is the class's, and nowhere else may it stand.
                _ => continue,
            }
        }
    }

    fn value(&self, from: usize, to: usize, line: usize) -> Definition {
        match evaluate(&self.config, self.tokens.get(from..to).unwrap_or_default()) {
            Ok(value) => Definition::Value { value, line },
            Err(reason) => Definition::NotEvaluated { line, reason },
        }
    }

    /// The last assignment counts.
    fn table_prefix(&mut self, at: usize, end: usize, first: bool) {
        let line = self.line(at);
        let definition = match self.guard(b"") {
            Guard::Dead => return,
            Guard::Plain if first => self.value(at + 2, end, line),
            _ => Definition::NotEvaluated { line, reason: Reason::Condition },
        };
        self.config.table_prefix = Some(definition);
    }

    fn include(&mut self, at: usize, end: usize) {
        // The name of a file is not longer; a file of nothing but includes must not be looked through for each.
        let settings = self.tokens[at..end].iter().take(MAX_INCLUDE).any(|lexed| match &lexed.token {
            Token::Text(text) => text.ends_with(b"wp-settings.php"),
            _ => false,
        });
        if !settings {
            self.elsewhere(at);
        }
    }

    /// More constants may come by what stands here.
    fn elsewhere(&mut self, at: usize) {
        if self.guard(b"") != Guard::Dead {
            self.config.elsewhere.push(self.line(at));
        }
    }

    /// The parts between commas that no bracket encloses.
    fn parts(&self, begin: usize, end: usize) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        let (mut from, mut at) = (begin, begin);
        while at < end {
            match self.token(at) {
                // What is in brackets is passed over at once, however deep they stand.
                Some(Token::Sign(b"(" | b"[" | b"{" | b"#[")) => at = self.closings.get(at).copied().flatten().unwrap_or(at),
                Some(Token::Sign(b",")) => {
                    parts.push((from, at));
                    from = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        if from < end {
            parts.push((from, end));
        }
        parts
    }
}

/// Whether a text names the function `define`.
fn is_define(text: &[u8]) -> bool {
    text.strip_prefix(b"\\").unwrap_or(text).eq_ignore_ascii_case(b"define")
}
