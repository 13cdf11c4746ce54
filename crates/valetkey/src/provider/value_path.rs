//! Where in an answer a value stands.
//!
//! ```text
//! data.user.open_id                                       members, by name
//! items[0].id                                             an entry of a list, counted from 0
//! $.didDoc.service[?@.id=='#atproto_pds'].serviceEndpoint the first entry that passes a test
//! $                                                       the whole answer, where it is a list
//! ```
//!
//! The third form is the part of JSONPath (RFC 9535) that definitions need: `$`, member names, indexes, and one kind of
//! filter, `[?@.member==literal]`, where the literal is `true`, `false`, a whole number or a text in single quotes.
//! Where several entries pass, the first counts. Everything else of JSONPath is refused at load.

use std::{fmt, iter::Peekable, str::Chars};

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Where in an answer a value stands.
#[derive(Clone, PartialEq)]
pub struct ValuePath {
    source: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(usize),
    /// The first entry of a list whose member has this value.
    First {
        member: String,
        equals: Value,
    },
}

impl ValuePath {
    /// Reads a path. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, json_path) = match text.strip_prefix('$') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let mut chars = rest.chars().peekable();
        let mut steps = Vec::new();
        if !json_path {
            steps.push(Step::Member(name(&mut chars)?));
        }
        while let Some(c) = chars.next() {
            match c {
                '.' => steps.push(Step::Member(name(&mut chars)?)),
                '[' if json_path && chars.peek() == Some(&'?') => steps.push(filter(&mut chars)?),
                '[' => steps.push(Step::Index(index(&mut chars)?)),
                _ => return Err(format!("`{c}` cannot stand in a path; members are separated by `.`")),
            }
        }
        Ok(Self { source: text.to_owned(), steps })
    }

    /// The value at this place; absent when there is none, or `null`.
    pub fn find<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        let mut at = root;
        for step in &self.steps {
            at = match step {
                Step::Member(name) => at.as_object()?.get(name)?,
                Step::Index(index) => at.as_array()?.get(*index)?,
                Step::First { member, equals } => {
                    at.as_array()?.iter().find(|entry| entry.get(member).is_some_and(|value| value == equals))?
                }
            };
        }
        (!at.is_null()).then_some(at)
    }

    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

fn name(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@')) {
        name.push(c);
    }
    if name.is_empty() { Err("a member's name is made of letters, digits, `_`, `-` and `@`".to_owned()) } else { Ok(name) }
}

fn index(chars: &mut Peekable<Chars<'_>>) -> Result<usize, String> {
    let mut digits = String::new();
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        digits.push(c);
    }
    match (digits.parse(), chars.next()) {
        (Ok(index), Some(']')) => Ok(index),
        _ => Err("`[` holds a whole number, or in a path that starts with `$` a test such as `[?@.primary==true]`".to_owned()),
    }
}

fn filter(chars: &mut Peekable<Chars<'_>>) -> Result<Step, String> {
    let form = || "a test is `[?@.member==literal]` with true, false, a whole number or a 'text'".to_owned();
    for expected in ['?', '@', '.'] {
        if chars.next() != Some(expected) {
            return Err(form());
        }
    }
    let member = name(chars)?;
    if chars.next() != Some('=') || chars.next() != Some('=') {
        return Err(form());
    }
    let mut literal = String::new();
    let equals = if chars.next_if_eq(&'\'').is_some() {
        loop {
            match chars.next() {
                Some('\'') => break Value::String(literal),
                Some('\\') | None => return Err(form()),
                Some(c) => literal.push(c),
            }
        }
    } else {
        while let Some(c) = chars.next_if(|c| *c != ']') {
            literal.push(c);
        }
        match literal.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number => Value::from(number.parse::<i64>().map_err(|_| form())?),
        }
    };
    if chars.next() == Some(']') { Ok(Step::First { member, equals }) } else { Err(form()) }
}

impl fmt::Display for ValuePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for ValuePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValuePath({})", self.source)
    }
}

impl Serialize for ValuePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(path: &str, value: &Value) -> Option<Value> {
        ValuePath::parse(path).unwrap().find(value).cloned()
    }

    #[test]
    fn members_and_entries_are_found() {
        let value = json!({"data": {"user": {"open_id": "u1"}}, "items": [{"id": 7}, {"id": 8}], "null": null});
        assert_eq!(find("data.user.open_id", &value), Some(json!("u1")));
        assert_eq!(find("items[1].id", &value), Some(json!(8)));
        for path in ["data.user.name", "items[2].id", "items.id", "data[0]", "null", "data.user.open_id.x"] {
            assert_eq!(find(path, &value), None, "{path}");
        }
    }

    #[test]
    fn a_dollar_alone_is_the_whole_answer() {
        assert_eq!(find("$", &json!([{"id": 1}])), Some(json!([{"id": 1}])));
    }

    #[test]
    fn the_first_entry_that_passes_the_test_counts() {
        let blogs = json!({"response": {"user": {"blogs": [
            {"uuid": "a", "primary": false}, {"uuid": "b", "primary": true}, {"uuid": "c", "primary": true}]}}});
        assert_eq!(find("$.response.user.blogs[?@.primary==true].uuid", &blogs), Some(json!("b")));
        let document =
            json!({"didDoc": {"service": [{"id": "#other"}, {"id": "#atproto_pds", "serviceEndpoint": "https://pds.example"}]}});
        let path = "$.didDoc.service[?@.id=='#atproto_pds'].serviceEndpoint";
        assert_eq!(find(path, &document), Some(json!("https://pds.example")));
        assert_eq!(find("$.a[?@.n==2].v", &json!({"a": [{"n": 2, "v": 1}]})), Some(json!(1)));
        assert_eq!(find("$.a[?@.n==2].v", &json!({"a": [{"n": "2", "v": 1}]})), None);
    }

    #[test]
    fn the_rest_of_json_path_is_refused() {
        for text in [
            "",
            ".a",
            "a.",
            "a..b",
            "a[",
            "a[]",
            "a[x]",
            "a[-1]",
            "a[0",
            "a[?@.x==1]",
            "$..a",
            "$.*",
            "$.a[*]",
            "$['a']",
            "$.a[0:2]",
            "$.a[?@.x]",
            "$.a[?@.x>1]",
            "$.a[?@.x==1.5]",
            "$.a[?@.x==\"t\"]",
            "$.a[?@.x=='t]",
            "$.a[?@.x=='a'&&@.y=='b']",
            "$.a[?@.x==1",
            "a b",
        ] {
            assert!(ValuePath::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
