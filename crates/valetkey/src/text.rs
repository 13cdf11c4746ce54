//! Free text and lists from outside: titles, labels, notes, reasons. Each has an end, and no text holds what a
//! database refuses or a terminal obeys.

use crate::error::{Code, Error, Result};

/// The longest title or label, in characters.
pub const LABEL: usize = 200;
/// The longest note or reason, in characters.
pub const NOTE: usize = 2_000;
/// The longest list of people, connections, scopes or operations.
pub const LIST: usize = 1_000;

/// Refuses a text of more than `most` characters, or with a control character other than a line break or a tab.
///
/// PostgreSQL cannot store NUL, and SQLite can: both are told the same (decisions 10).
pub fn check(what: &str, text: &str, most: usize) -> Result<()> {
    if text.chars().nth(most).is_some() {
        return Err(Error::new(Code::InvalidRequest, format!("{what}: it has at most {most} characters")));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(Error::new(Code::InvalidRequest, format!("{what}: it holds a control character")));
    }
    Ok(())
}

/// Refuses a name that people decide by where it is no plain line: where it breaks, or turns the direction of writing, and so could
/// show another.
pub fn check_line(what: &str, text: &str, most: usize) -> Result<()> {
    check(what, text, most)?;
    if text.chars().any(|c| c.is_control() || TURNS.contains(&c)) {
        return Err(Error::new(Code::InvalidRequest, format!("{what}: it is one line, written in one direction")));
    }
    Ok(())
}

/// Marks that turn the direction of writing.
const TURNS: [char; 12] = [
    '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
    '\u{2069}', '\u{061c}',
];

/// Refuses a list of more than `most` entries.
pub fn check_list(what: &str, entries: usize, most: usize) -> Result<()> {
    if entries > most {
        return Err(Error::new(Code::InvalidRequest, format!("{what}: it has at most {most} entries")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_counted_in_characters_and_holds_none_that_acts() {
        check("note", &"\u{e9}".repeat(10), 10).unwrap();
        check("note", "two\n\tlines", 20).unwrap();
        for text in ["eleven char", "a\0", "\u{1b}[31m", "\r", "\u{85}"] {
            assert_eq!(check("note", text, 10).unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        }
    }

    #[test]
    fn a_name_that_people_decide_by_is_one_plain_line() {
        check_line("title", "Helper \u{5d0}\u{5d1}", 20).unwrap();
        for text in ["two\nlines", "a\tb", "Helper\u{202e}knaB", "\u{2066}x", "too long for it", "a\0"] {
            assert_eq!(check_line("title", text, 12).unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        }
    }

    #[test]
    fn a_list_has_an_end() {
        check_list("people", 3, 3).unwrap();
        assert!(check_list("people", 4, 3).is_err());
    }
}
