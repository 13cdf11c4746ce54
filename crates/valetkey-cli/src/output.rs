//! What commands print: tables and sentences for people, the answer itself for programs (`--json`).
//!
//! Results go to stdout, everything else to stderr. Texts that came from outside may hold terminal commands; they are
//! made harmless before a person's terminal sees them.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::failure::Result;

/// Where a command prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Programs read it.
    pub(crate) json: bool,
}

impl Output {
    /// Prints the answer itself for programs, or what `human` makes of it for people.
    pub(crate) fn show(self, answer: &Value, human: impl FnOnce(&Value) -> String) -> Result<()> {
        if self.json { self.document(answer) } else { self.text(&human(answer)) }
    }

    /// Prints one JSON document.
    pub(crate) fn document(self, answer: &Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer:#}")?;
        Ok(out.flush()?)
    }

    /// Prints a text as it is, with a line break at its end.
    pub(crate) fn text(self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text.trim_end())?;
        Ok(out.flush()?)
    }

    /// Says something to the person, beside the result.
    pub(crate) fn note(self, text: &str) {
        let mut err = std::io::stderr().lock();
        // Nobody reads stderr: nothing is left to say it to.
        let _ = writeln!(err, "{text}");
    }
}

/// A word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A table of `rows` under `heads`, or a sentence where there is none. Wraps to the terminal, never to a pipe.
pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let arrangement = if std::io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    table.set_header(heads.iter().map(|head| head.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { plain(cell) }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A list of facts, one a line, their names aligned. Facts without a value are left out.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let shown: Vec<_> = facts.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    shown.iter().map(|(name, value)| format!("{name:<width$}  {}", plain(value))).collect::<Vec<_>>().join("\n")
}

/// A member of an answer as people read it: nothing for null, a list with commas, a moment to the second.
pub(crate) fn cell(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map(word).unwrap_or_default()
}

/// One value as people read it.
pub(crate) fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) => moment(text),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The members of a list answer.
pub(crate) fn items<'a>(answer: &'a Value, of: &str) -> &'a [Value] {
    answer.get(of).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `2026-03-05T10:00:00.123Z` as `2026-03-05 10:00:00`; any other text as it is.
fn moment(text: &str) -> String {
    let form = b"dddd-dd-ddTdd:dd:dd";
    let fits = text.len() > form.len()
        && text.ends_with('Z')
        && text.bytes().zip(form).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            other => byte == *other,
        });
    if fits { text[..form.len()].replace('T', " ") } else { text.to_owned() }
}

/// A text without control characters and without marks that turn the direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_aligns_and_makes_outside_text_harmless() {
        let rows = vec![vec!["one".to_owned(), "\u{1b}[31mred".to_owned()], vec!["three".to_owned(), String::new()]];
        assert_eq!(table(&["id", "name"], rows, "none"), "ID     NAME\none    \u{fffd}[31mred\nthree  -");
        assert_eq!(table(&["id"], Vec::new(), "there is none"), "there is none");
    }

    #[test]
    fn facts_without_a_value_are_left_out() {
        assert_eq!(facts(&[("a", "1".into()), ("long", String::new()), ("bcd", "2".into())]), "a    1\nbcd  2");
    }

    #[test]
    fn a_moment_is_shown_to_the_second_and_other_text_as_it_is() {
        assert_eq!(word(&json!("2026-03-05T10:00:00.123Z")), "2026-03-05 10:00:00");
        assert_eq!(word(&json!("2026-03-05Trouble:maker Z")), "2026-03-05Trouble:maker Z");
        assert_eq!(word(&json!(["a", "b"])), "a, b");
    }

    #[test]
    fn a_word_with_a_space_is_quoted_for_the_shell() {
        assert_eq!(quoted("target/release/valetkey"), "target/release/valetkey");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
