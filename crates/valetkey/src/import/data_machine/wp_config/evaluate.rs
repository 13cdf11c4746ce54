//! The value of an expression, where it is certain: literals, constants of the same file, and texts joined by dots.

use zeroize::Zeroizing;

use super::{
    Constant, Definition, Reason, WpConfig,
    lexer::{Lexed, Token},
};
use crate::secret::SecretBytes;

/// How deep parentheses are followed.
const MAX_PARENTHESES: usize = 16;

/// The most bytes that an expression takes from other constants. A salt has 64; without an end, constants that double each
/// other would fill the memory from a few lines.
const MAX_TAKEN: usize = 1024;

/// Evaluates the words of an expression.
pub(super) fn evaluate(config: &WpConfig, tokens: &[Lexed<'_>]) -> Result<Constant, Reason> {
    expression(config, tokens, 0)
}

fn expression(config: &WpConfig, tokens: &[Lexed<'_>], depth: usize) -> Result<Constant, Reason> {
    // The one operator here is the dot; it has to stand between every two operands.
    let (value, length) = operand(config, tokens, depth)?;
    let mut rest = &tokens[length..];
    let most = own_length(tokens) + MAX_TAKEN;
    // One text takes all that is joined: a copy for each dot would take time by the square of their number.
    let mut joined: Option<Zeroizing<Vec<u8>>> = None;
    loop {
        match rest.first().map(|lexed| &lexed.token) {
            None => {
                return Ok(match joined {
                    None => value,
                    Some(mut text) => Constant::Text(SecretBytes::new(std::mem::take(&mut *text))),
                });
            }
            Some(Token::Sign(b".")) => {}
            Some(_) => return Err(Reason::Computed),
        }
        let text = joined.get_or_insert_with(|| {
            let mut text = Zeroizing::new(Vec::with_capacity(most));
            text.extend_from_slice(value.to_text().expose());
            text
        });
        let (next, length) = operand(config, &rest[1..], depth)?;
        let next = next.to_text();
        if text.len() + next.expose().len() > most {
            return Err(Reason::Computed);
        }
        text.extend_from_slice(next.expose());
        rest = &rest[1 + length..];
    }
}

/// How many bytes an expression makes of its own words at most. So much room, and no copy is left behind by growing.
fn own_length(tokens: &[Lexed<'_>]) -> usize {
    let length = |token: &Token<'_>| match token {
        Token::Text(text) => text.len(),
        _ => 20,
    };
    tokens.iter().map(|lexed| length(&lexed.token)).sum()
}

/// One operand, and how many words it has.
fn operand(config: &WpConfig, tokens: &[Lexed<'_>], depth: usize) -> Result<(Constant, usize), Reason> {
    let token = |at: usize| tokens.get(at).map(|lexed| &lexed.token);
    match token(0) {
        Some(Token::Text(text)) => Ok((Constant::Text(SecretBytes::new(text.to_vec())), 1)),
        Some(Token::Int(number)) => Ok((Constant::Int(*number), 1)),
        Some(Token::Sign(b"-")) => match token(1) {
            Some(Token::Int(number)) => Ok((Constant::Int(-number), 2)),
            _ => Err(Reason::Computed),
        },
        Some(Token::Float) => Err(Reason::Float),
        Some(Token::Filled | Token::Variable(_)) => Err(Reason::Variable),
        Some(Token::Sign(b"(")) => {
            let end = if depth < MAX_PARENTHESES { closing(tokens) } else { None };
            let end = end.ok_or(Reason::Computed)?;
            Ok((expression(config, &tokens[1..end], depth + 1)?, end + 1))
        }
        Some(Token::Word(word)) => {
            let word = word.strip_prefix(b"\\").unwrap_or(word);
            if matches!(token(1), Some(Token::Sign(b"(" | b"::"))) {
                return Err(Reason::Call(String::from_utf8_lossy(word).into_owned()));
            }
            for (name, value) in [("true", Constant::Bool(true)), ("false", Constant::Bool(false)), ("null", Constant::Null)] {
                if word.eq_ignore_ascii_case(name.as_bytes()) {
                    return Ok((value, 1));
                }
            }
            let name = String::from_utf8_lossy(word).into_owned();
            match config.constant(&name) {
                Some(Definition::Value { value: Constant::Text(text), .. }) if text.expose().len() > MAX_TAKEN => {
                    Err(Reason::Computed)
                }
                Some(Definition::Value { value, .. }) => Ok((value.clone(), 1)),
                _ => Err(Reason::Constant(name)),
            }
        }
        _ => Err(Reason::Computed),
    }
}

/// The place of the bracket that closes the one at the begin. Only what is between them is looked at: a file may hold as many
/// pairs as it likes.
fn closing(tokens: &[Lexed<'_>]) -> Option<usize> {
    let mut depth = 0usize;
    for (at, lexed) in tokens.iter().enumerate() {
        match &lexed.token {
            Token::Sign(b"(" | b"[" | b"{" | b"#[") => depth += 1,
            Token::Sign(b")" | b"]" | b"}") => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// For each bracket that opens, the place of the one that closes it.
pub(super) fn closings(tokens: &[Lexed<'_>]) -> Vec<Option<usize>> {
    let mut closings = vec![None; tokens.len()];
    let mut open = Vec::new();
    for (at, lexed) in tokens.iter().enumerate() {
        match &lexed.token {
            Token::Sign(b"(" | b"[" | b"{" | b"#[") => open.push(at),
            Token::Sign(b")" | b"]" | b"}") => {
                if let Some(begin) = open.pop() {
                    closings[begin] = Some(at);
                }
            }
            _ => {}
        }
    }
    closings
}
