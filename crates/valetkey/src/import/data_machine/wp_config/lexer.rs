//! The words of a PHP file, as far as a configuration needs them.

use zeroize::Zeroizing;

use super::Error;

/// One word of PHP, with the line on which it begins (from 1).
pub(super) struct Lexed<'a> {
    pub(super) token: Token<'a>,
    pub(super) line: usize,
}

/// What a word can be.
pub(super) enum Token<'a> {
    /// A text without anything to fill in.
    Text(Zeroizing<Vec<u8>>),
    /// A text into which PHP would put variables, or what a shell says (backquotes).
    Filled,
    /// A name: a keyword, constant, function or class, perhaps with a namespace.
    Word(&'a [u8]),
    /// A variable's name, without the dollar.
    Variable(&'a [u8]),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float,
    /// An operator or a bracket. The end of PHP (`?>`) is a `;`.
    Sign(&'a [u8]),
}

/// Operators of more than one byte, the longest first.
const SIGNS: [&[u8]; 36] = [
    b"<=>", b"**=", b"...", b"<<=", b">>=", b"===", b"!==", b"??=", b"?->", b"||", b"&&", b"??", b"::", b"=>", b"->", b"==",
    b"!=", b"<>", b"<=", b">=", b".=", b"+=", b"-=", b"*=", b"/=", b"%=", b"&=", b"|=", b"^=", b"<<", b">>", b"++", b"--", b"**",
    b"?:", b"#[",
];

/// Takes a file apart. Everything outside `<?php ... ?>` is text for a browser, and left out.
pub(super) fn lex(source: &[u8]) -> Result<Vec<Lexed<'_>>, Error> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    while lexer.open() {
        lexer.php()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    line: usize,
    tokens: Vec<Lexed<'a>>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.source[self.at..]
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    /// Goes on by some bytes, and counts their lines.
    fn skip(&mut self, length: usize) -> &'a [u8] {
        let end = (self.at + length).min(self.source.len());
        let skipped = &self.source[self.at..end];
        self.line += skipped.iter().filter(|byte| **byte == b'\n').count();
        self.at = end;
        skipped
    }

    /// Goes to the next begin of PHP.
    fn open(&mut self) -> bool {
        let rest = self.rest();
        let begin = (0..rest.len()).find_map(|at| {
            let tag = rest[at..].get(..5)?;
            let white = rest.get(at + 5).is_none_or(u8::is_ascii_whitespace);
            if tag.eq_ignore_ascii_case(b"<?php") && white { Some(at + 5) } else { tag.starts_with(b"<?=").then_some(at + 3) }
        });
        self.skip(begin.unwrap_or(rest.len()));
        begin.is_some()
    }

    /// Reads PHP up to its end.
    fn php(&mut self) -> Result<(), Error> {
        while let Some(byte) = self.peek(0) {
            let line = self.line;
            let token = match byte {
                byte if byte.is_ascii_whitespace() || byte == 0x0b => {
                    self.skip(1);
                    continue;
                }
                b'?' if self.rest().starts_with(b"?>") => {
                    self.skip(2);
                    self.tokens.push(Lexed { token: Token::Sign(b";"), line });
                    return Ok(());
                }
                b'#' if self.peek(1) != Some(b'[') => {
                    self.comment();
                    continue;
                }
                b'/' if self.peek(1) == Some(b'/') => {
                    self.comment();
                    continue;
                }
                b'/' if self.peek(1) == Some(b'*') => {
                    let end = find(&self.rest()[2..], b"*/").ok_or(Error::Unterminated { line })?;
                    self.skip(2 + end + 2);
                    continue;
                }
                b'\'' => Token::Text(self.single(line)?),
                b'"' => {
                    self.skip(1);
                    let length = quoted(self.rest(), b'"').ok_or(Error::Unterminated { line })?;
                    let body = self.skip(length);
                    self.skip(1);
                    unescape(body, Some(b'"')).map_or(Token::Filled, Token::Text)
                }
                b'`' => {
                    self.skip(1);
                    let length = quoted(self.rest(), b'`').ok_or(Error::Unterminated { line })?;
                    self.skip(length + 1);
                    Token::Filled
                }
                b'<' if self.rest().starts_with(b"<<<") => match self.heredoc(line)? {
                    Some(token) => token,
                    None => Token::Sign(self.skip(3)),
                },
                b'$' if self.peek(1).is_some_and(begins_name) => {
                    self.skip(1);
                    let length = self.rest().iter().take_while(|byte| continues_name(**byte)).count();
                    Token::Variable(self.skip(length))
                }
                b'0'..=b'9' => self.number(),
                b'.' if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) => self.number(),
                byte if begins_name(byte) || byte == b'\\' => {
                    let length = self.rest().iter().take_while(|byte| continues_name(**byte) || **byte == b'\\').count();
                    let word = self.skip(length);
                    if word.eq_ignore_ascii_case(b"__halt_compiler") {
                        self.at = self.source.len();
                        return Ok(());
                    }
                    Token::Word(word)
                }
                _ => {
                    let length = SIGNS.iter().find(|sign| self.rest().starts_with(sign)).map_or(1, |sign| sign.len());
                    Token::Sign(self.skip(length))
                }
            };
            self.tokens.push(Lexed { token, line });
        }
        Ok(())
    }

    /// A comment to the end of its line, or of PHP.
    fn comment(&mut self) {
        let rest = self.rest();
        let end = (0..rest.len()).find(|at| matches!(rest[*at], b'\n' | b'\r') || rest[*at..].starts_with(b"?>"));
        self.skip(end.unwrap_or(rest.len()));
    }

    fn single(&mut self, line: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.skip(1);
        let length = quoted(self.rest(), b'\'').ok_or(Error::Unterminated { line })?;
        let body = self.skip(length);
        self.skip(1);
        let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
        let mut bytes = body.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let escaped = if byte == b'\\' { bytes.next_if(|next| matches!(next, b'\\' | b'\'')) } else { None };
            text.push(escaped.unwrap_or(byte));
        }
        Ok(text)
    }

    fn number(&mut self) -> Token<'a> {
        let length = self.rest().iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let text = self.skip(length);
        let point = self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') && !text.starts_with(b"0x");
        if point || text.is_empty() {
            self.skip(1);
            let length = self.rest().iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            self.skip(length);
            return Token::Float;
        }
        let digits: String =
            text.iter().filter(|byte| **byte != b'_').map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        let (radix, digits) = match digits.as_bytes() {
            [b'0', b'x', ..] => (16, &digits[2..]),
            [b'0', b'b', ..] => (2, &digits[2..]),
            [b'0', b'o', ..] => (8, &digits[2..]),
            [b'0', _, ..] => (8, &digits[1..]),
            _ => (10, &*digits),
        };
        i64::from_str_radix(digits, radix).map_or(Token::Float, Token::Int)
    }

    /// `<<<WORD`, `<<<"WORD"` or `<<<'WORD'`; none where it is no begin of a text after all.
    fn heredoc(&mut self, line: usize) -> Result<Option<Token<'a>>, Error> {
        let rest = self.rest();
        let blank = rest[3..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let mut at = 3 + blank;
        let quote = rest.get(at).copied().filter(|byte| matches!(byte, b'"' | b'\''));
        at += usize::from(quote.is_some());
        let label = rest[at.min(rest.len())..].iter().take_while(|byte| continues_name(**byte)).count();
        let label = &rest[at.min(rest.len())..][..label];
        at += label.len();
        if quote.is_some() {
            if rest.get(at).copied() != quote {
                return Ok(None);
            }
            at += 1;
        }
        at += usize::from(rest.get(at) == Some(&b'\r'));
        if !label.first().copied().is_some_and(begins_name) || !matches!(rest.get(at).or(rest.get(at - 1)), Some(b'\n' | b'\r')) {
            return Ok(None);
        }
        at += usize::from(rest.get(at) == Some(&b'\n'));
        // The text ends at the first line that begins with the label, perhaps indented.
        let body = &rest[at..];
        let mut begin = 0;
        let (length, indent) = loop {
            let here = &body[begin..];
            let indent = here.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let ends = here[indent..].starts_with(label) && !here.get(indent + label.len()).copied().is_some_and(continues_name);
            if ends {
                break (begin, indent);
            }
            begin += 1 + here.iter().position(|byte| matches!(byte, b'\n' | b'\r')).ok_or(Error::Unterminated { line })?;
        };
        let lines = body[..length].strip_suffix(b"\n").unwrap_or(&body[..length]);
        let lines = lines.strip_suffix(b"\r").unwrap_or(lines);
        let text = outdent(lines, indent);
        self.skip(at + length + indent + label.len());
        Ok(Some(match quote {
            Some(b'\'') => Token::Text(text),
            _ => unescape(&text, None).map_or(Token::Filled, Token::Text),
        }))
    }
}

fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_name(byte: u8) -> bool {
    begins_name(byte) || byte.is_ascii_digit()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The length of a text up to its closing quote; a backslash hides what follows it.
fn quoted(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if *byte == quote => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// Takes an indentation off every line.
fn outdent(text: &[u8], indent: usize) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let blank = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        out.extend_from_slice(&line[blank.min(indent)..]);
    }
    out
}

/// The text between double quotes, or of a heredoc (which has no quote to escape); none if PHP would fill something in.
fn unescape(body: &[u8], quote: Option<u8>) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(body.len()));
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        let next = body.get(at + 1).copied();
        at += 1;
        match (byte, next) {
            (b'$', Some(next)) if begins_name(next) || next == b'{' => return None,
            (b'{', Some(b'$')) => return None,
            (b'\\', Some(next)) => {
                at += 1;
                let plain = match next {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'e' => 0x1b,
                    b'f' => 0x0c,
                    b'\\' | b'$' => next,
                    _ if Some(next) == quote => next,
                    b'0'..=b'7' => {
                        let digits = body[at - 1..].iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7'));
                        let digits: Vec<u32> = digits.map(|byte| u32::from(byte - b'0')).collect();
                        at += digits.len() - 1;
                        // PHP takes the low eight bits.
                        let value = digits.iter().fold(0, |sum, digit| sum * 8 + digit) & 0xff;
                        out.extend(u8::try_from(value));
                        continue;
                    }
                    b'x' => {
                        let digits = body[at..].iter().take(2).map_while(|byte| char::from(*byte).to_digit(16));
                        let digits: Vec<u32> = digits.collect();
                        if digits.is_empty() {
                            out.extend_from_slice(b"\\x");
                        } else {
                            at += digits.len();
                            out.extend(u8::try_from(digits.iter().fold(0, |sum, digit| sum * 16 + digit)));
                        }
                        continue;
                    }
                    b'u' if body.get(at) == Some(&b'{') => {
                        let digits = body[at + 1..].split(|byte| *byte == b'}').next().unwrap_or_default();
                        let value = std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
                        // Anything else is an error in PHP.
                        let letter = value.and_then(char::from_u32)?;
                        out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                        at += digits.len() + 2;
                        continue;
                    }
                    _ => {
                        out.extend_from_slice(&[b'\\', next]);
                        continue;
                    }
                };
                out.push(plain);
            }
            _ => out.push(byte),
        }
    }
    Some(out)
}
