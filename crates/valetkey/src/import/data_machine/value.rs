//! PHP values as JSON, and back. An account of ours is a JSON object; PHP holds a little more than JSON can.
//!
//! 1. An array with the keys 0 to n-1 in that order is a list, the empty array among them; any other is an object whose
//!    members stand in PHP's order. An integer key is its decimal text: PHP itself knows no text key `"10"`.
//! 2. What JSON has no form for is an object with one member whose name begins with `$`: a text that is not UTF-8 is
//!    `{"$base64": "..."}`, a float that is not finite, or that our own JSON would not read back to the bit, is
//!    `{"$float": "..."}`, an array with a key that is not UTF-8 is `{"$array": [[key, value], ...]}`, an object is
//!    `{"$object": "Class", "$members": [[name, value], ...]}`, one that wrote itself `{"$object": "Class", "$payload":
//!    "..."}`, and a reference to what it stands in `{"$recursive": true}`.
//! 3. An array that looks like one of these is written as `{"$array": ...}` too, so that every value has its own text.
//!
//! The text keeps the order of the source, and [`Json`] reads it in that order: `serde_json`'s own map would sort it.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroize;

use super::php::{Custom, Entries, Key, Object, Value};

/// The deepest nesting of a value that is taken: our JSON reader stops at 128.
pub const DEEPEST: usize = 100;

/// The names by which rule 2 speaks.
const OURS: [&str; 5] = ["$base64", "$float", "$array", "$object", "$recursive"];

/// Why a value cannot be written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

/// Why a value cannot be written as JSON that PHP reads back as the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotPlain {
    /// It is nested too deeply.
    TooDeep,
    /// Something in it has no form in JSON: a text or key that is not UTF-8, a float that is not finite, an object.
    NoForm,
}

/// Writes a value. What is secret in it is then in `out`.
pub fn write(out: &mut String, value: &Value<'_>) -> Result<(), TooDeep> {
    write_at(out, value, DEEPEST)
}

fn write_at(out: &mut String, value: &Value<'_>, depth: usize) -> Result<(), TooDeep> {
    let depth = depth.checked_sub(1).ok_or(TooDeep)?;
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Float(number) => float(out, *number),
        Value::Text(bytes) => text(out, bytes),
        Value::Array(entries) if is_list(entries) => {
            out.push('[');
            for (at, (_, item)) in entries.iter().enumerate() {
                comma(out, at);
                write_at(out, item, depth)?;
            }
            out.push(']');
        }
        Value::Array(entries) if needs_pairs(each(entries)) => {
            out.push_str("{\"$array\":");
            pairs(out, each(entries), depth)?;
            out.push('}');
        }
        Value::Array(entries) => members(out, each(entries), depth)?,
        Value::Object(object) => {
            out.push_str("{\"$object\":");
            text(out, &object.class);
            out.push_str(",\"$members\":");
            pairs(out, each(&object.members), depth)?;
            out.push('}');
        }
        Value::Custom(custom) => {
            out.push_str("{\"$object\":");
            text(out, &custom.class);
            out.push_str(",\"$payload\":");
            text(out, &custom.payload);
            out.push('}');
        }
        Value::Recursive => out.push_str("{\"$recursive\":true}"),
    }
    Ok(())
}

/// Writes the entries of an array as an object, also where they would make a list: an account is always an object.
pub fn write_object<'v>(
    out: &mut String,
    entries: impl Iterator<Item = (&'v Key<'v>, &'v Value<'v>)> + Clone,
) -> Result<(), TooDeep> {
    if needs_pairs(entries.clone()) {
        out.push_str("{\"$array\":");
        pairs(out, entries, DEEPEST)?;
        out.push('}');
        return Ok(());
    }
    members(out, entries, DEEPEST)
}

/// Writes a value as `json_encode` does, for PHP to read: without the forms of rule 2, which mean something here only.
pub fn write_plain(out: &mut String, value: &Value<'_>) -> Result<(), NotPlain> {
    plain_at(out, value, DEEPEST)
}

fn plain_at(out: &mut String, value: &Value<'_>, depth: usize) -> Result<(), NotPlain> {
    let depth = depth.checked_sub(1).ok_or(NotPlain::TooDeep)?;
    match value {
        Value::Float(number) if number.is_finite() => out.push_str(&serde_json::to_string(number).unwrap_or_default()),
        Value::Text(bytes) => quoted(out, std::str::from_utf8(bytes).map_err(|_| NotPlain::NoForm)?),
        Value::Array(entries) => {
            let list = is_list(entries);
            out.push(if list { '[' } else { '{' });
            for (at, (key, item)) in entries.iter().enumerate() {
                comma(out, at);
                if !list {
                    quoted(out, std::str::from_utf8(&key.to_bytes()).map_err(|_| NotPlain::NoForm)?);
                    out.push(':');
                }
                plain_at(out, item, depth)?;
            }
            out.push(if list { ']' } else { '}' });
        }
        Value::Float(_) | Value::Object(_) | Value::Custom(_) | Value::Recursive => return Err(NotPlain::NoForm),
        Value::Null | Value::Bool(_) | Value::Int(_) => write_at(out, value, 1).map_err(|_| NotPlain::TooDeep)?,
    }
    Ok(())
}

fn members<'v>(
    out: &mut String,
    entries: impl Iterator<Item = (&'v Key<'v>, &'v Value<'v>)>,
    depth: usize,
) -> Result<(), TooDeep> {
    out.push('{');
    for (at, (key, value)) in entries.enumerate() {
        comma(out, at);
        match key {
            Key::Int(number) => quoted(out, &number.to_string()),
            // `needs_pairs` saw to it that it is UTF-8.
            Key::Text(bytes) => quoted(out, &String::from_utf8_lossy(bytes)),
        }
        out.push(':');
        write_at(out, value, depth)?;
    }
    out.push('}');
    Ok(())
}

fn pairs<'v>(out: &mut String, entries: impl Iterator<Item = (&'v Key<'v>, &'v Value<'v>)>, depth: usize) -> Result<(), TooDeep> {
    // The pair and its list are two levels of their own.
    let depth = depth.checked_sub(2).ok_or(TooDeep)?;
    out.push('[');
    for (at, (key, value)) in entries.enumerate() {
        comma(out, at);
        out.push('[');
        match key {
            Key::Int(number) => out.push_str(&number.to_string()),
            Key::Text(bytes) => text(out, bytes),
        }
        out.push(',');
        write_at(out, value, depth)?;
        out.push(']');
    }
    out.push(']');
    Ok(())
}

fn text(out: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => quoted(out, text),
        Err(_) => {
            out.push_str("{\"$base64\":\"");
            STANDARD.encode_string(bytes, out);
            out.push_str("\"}");
        }
    }
}

fn float(out: &mut String, number: f64) {
    let plain = serde_json::to_string(&number).unwrap_or_default();
    let same = serde_json::from_str::<f64>(&plain).is_ok_and(|read| read.to_bits() == number.to_bits());
    if number.is_finite() && same {
        return out.push_str(&plain);
    }
    let word = match number {
        n if n.is_nan() => "NAN".to_owned(),
        f64::INFINITY => "INF".to_owned(),
        f64::NEG_INFINITY => "-INF".to_owned(),
        _ => plain,
    };
    out.push_str("{\"$float\":");
    quoted(out, &word);
    out.push('}');
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            byte => out.push_str(&format!("\\u{byte:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn comma(out: &mut String, at: usize) {
    if at > 0 {
        out.push(',');
    }
}

fn is_list(entries: &[(Key<'_>, Value<'_>)]) -> bool {
    entries.iter().enumerate().all(|(at, (key, _))| matches!(key, Key::Int(number) if usize::try_from(*number) == Ok(at)))
}

/// Whether an object would not say what is meant: a key that is no text, or one that would be taken for ours.
fn needs_pairs<'v>(mut entries: impl Iterator<Item = (&'v Key<'v>, &'v Value<'v>)>) -> bool {
    entries.any(|(key, _)| match key {
        Key::Int(_) => false,
        Key::Text(bytes) => std::str::from_utf8(bytes).map_or(true, |text| OURS.contains(&text)),
    })
}

/// The entries of an array, each borrowed.
pub fn each<'v>(entries: &'v Entries<'_>) -> impl Iterator<Item = (&'v Key<'v>, &'v Value<'v>)> + Clone {
    entries.iter().map(|(key, value)| (key, value))
}

/// A JSON value whose members stand in the order of the text. It may hold secrets, and forgets them when dropped.
#[derive(Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for Json {
    fn drop(&mut self) {
        if let Json::Text(text) = self {
            text.zeroize();
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Json, E> {
        Ok(Json::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object: Vec<(String, Json)> = Vec::new();
        while let Some(member) = members.next_entry::<String, Json>()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

/// The PHP value that a JSON value stands for. What is said by the names of ours and cannot be is taken as it stands.
pub fn to_php(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(yes) => Value::Bool(*yes),
        Json::Int(number) => Value::Int(*number),
        Json::Float(number) => Value::Float(*number),
        Json::Text(text) => Value::Text(Cow::Owned(text.as_bytes().to_vec())),
        Json::List(items) => {
            Value::Array(items.iter().enumerate().map(|(at, item)| (Key::Int(at as i64), to_php(item))).collect())
        }
        Json::Object(members) => named(members)
            .unwrap_or_else(|| Value::Array(members.iter().map(|(name, value)| (key_of(name), to_php(value))).collect())),
    }
}

/// What an object says by a name of ours.
fn named(members: &[(String, Json)]) -> Option<Value<'static>> {
    match members {
        [(name, Json::Text(text))] if name == "$base64" => STANDARD.decode(text).ok().map(|bytes| Value::Text(Cow::Owned(bytes))),
        [(name, Json::Text(text))] if name == "$float" => match text.as_str() {
            "NAN" => Some(Value::Float(f64::NAN)),
            "INF" => Some(Value::Float(f64::INFINITY)),
            "-INF" => Some(Value::Float(f64::NEG_INFINITY)),
            other => other.parse().ok().map(Value::Float),
        },
        [(name, Json::List(items))] if name == "$array" => Some(Value::Array(unpaired(items)?)),
        [(name, Json::Bool(true))] if name == "$recursive" => Some(Value::Recursive),
        [(first, class), (second, inner)] if first == "$object" => {
            let Value::Text(class) = to_php(class) else { return None };
            match (second.as_str(), inner) {
                ("$members", Json::List(items)) => Some(Value::Object(Box::new(Object { class, members: unpaired(items)? }))),
                ("$payload", payload) => {
                    let Value::Text(payload) = to_php(payload) else { return None };
                    Some(Value::Custom(Box::new(Custom { class, payload })))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn unpaired(items: &[Json]) -> Option<Entries<'static>> {
    items
        .iter()
        .map(|pair| {
            let Json::List(pair) = pair else { return None };
            let [key, value] = pair.as_slice() else { return None };
            let key = match to_php(key) {
                Value::Int(number) => Key::Int(number),
                Value::Text(bytes) => Key::Text(bytes),
                _ => return None,
            };
            Some((key, to_php(value)))
        })
        .collect()
}

/// The key that PHP makes of a text.
pub fn key_of(name: &str) -> Key<'static> {
    Key::from_text(Cow::Owned(name.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Value<'static> {
        Value::Text(Cow::Owned(bytes.to_vec()))
    }

    fn array(entries: Vec<(Key<'static>, Value<'static>)>) -> Value<'static> {
        Value::Array(Entries::from(entries))
    }

    fn key(name: &[u8]) -> Key<'static> {
        Key::Text(Cow::Owned(name.to_vec()))
    }

    fn there_and_back(value: &Value<'static>) -> String {
        let mut out = String::new();
        write(&mut out, value).unwrap();
        let read: Json = serde_json::from_str(&out).unwrap();
        let mut again = String::new();
        write(&mut again, &to_php(&read)).unwrap();
        assert_eq!(out, again);
        out
    }

    #[test]
    fn what_json_has_no_form_for_comes_back() {
        let value = Value::Array(Entries::from(vec![
            (key(b"binary"), text(b"\xff\x00")),
            (key(b"inf"), Value::Float(f64::INFINITY)),
            (key(b"nan"), Value::Float(f64::NAN)),
            (key(b"zero"), Value::Float(-0.0)),
            (key(b"one"), Value::Float(1.0)),
            (Key::Int(-1), Value::Array(Entries::default())),
            (key(b"looks"), array(vec![(key(b"$base64"), text(b"AAAA"))])),
            (key(b"odd"), array(vec![(key(b"\xff"), Value::Null), (Key::Int(3), Value::Bool(true))])),
        ]));
        assert_eq!(
            there_and_back(&value),
            r#"{"binary":{"$base64":"/wA="},"inf":{"$float":"INF"},"nan":{"$float":"NAN"},"zero":-0.0,"one":1.0,"-1":[],"#
                .to_owned()
                + r#""looks":{"$array":[["$base64","AAAA"]]},"odd":{"$array":[[{"$base64":"/w=="},null],[3,true]]}}"#
        );
    }

    #[test]
    fn a_float_that_our_json_would_not_read_back_to_the_bit_is_written_as_text() {
        for number in
            [0.1, 0.1 + 0.2, 1e100, 5e-324, f64::MAX, 2.5e-10, 123_456_789.123_456_78, 1.0 / 3.0, 9_007_199_254_740_993.0]
        {
            let mut out = String::new();
            write(&mut out, &Value::Float(number)).unwrap();
            let Value::Float(read) = to_php(&serde_json::from_str(&out).unwrap()) else { panic!("{out}") };
            assert_eq!(read.to_bits(), number.to_bits(), "{out}");
        }
    }

    #[test]
    fn json_for_php_has_no_forms_of_ours_and_what_it_cannot_say_is_refused() {
        let looks = array(vec![(key(b"$base64"), text(b"AAAA")), (Key::Int(7), Value::Float(1.0)), (key(b"l"), array(vec![]))]);
        let mut out = String::new();
        write_plain(&mut out, &looks).unwrap();
        assert_eq!(out, r#"{"$base64":"AAAA","7":1.0,"l":[]}"#);
        let custom = Custom { class: Cow::Borrowed(b"A"), payload: Cow::Borrowed(b"") };
        for inner in [text(b"\xff"), Value::Float(f64::NAN), Value::Custom(Box::new(custom)), Value::Recursive] {
            let value = array(vec![(key(b"deep"), array(vec![(Key::Int(0), inner)]))]);
            assert_eq!(write_plain(&mut String::new(), &value), Err(NotPlain::NoForm), "{value:?}");
        }
        let odd = array(vec![(key(b"\xff"), Value::Null)]);
        assert_eq!(write_plain(&mut String::new(), &odd), Err(NotPlain::NoForm));
        let mut value = Value::Array(Entries::default());
        for _ in 0..DEEPEST {
            value = array(vec![(Key::Int(0), value)]);
        }
        assert_eq!(write_plain(&mut String::new(), &value), Err(NotPlain::TooDeep));
    }

    #[test]
    fn an_account_that_is_a_list_is_still_an_object() {
        let mut out = String::new();
        let list = Entries::from(vec![(Key::Int(0), text(b"a")), (Key::Int(1), text(b"b"))]);
        write_object(&mut out, each(&list)).unwrap();
        assert_eq!(out, r#"{"0":"a","1":"b"}"#);
    }

    #[test]
    fn nesting_has_an_end() {
        let mut value = Value::Array(Entries::default());
        for _ in 0..DEEPEST {
            value = array(vec![(Key::Int(0), value)]);
        }
        assert_eq!(write(&mut String::new(), &value), Err(TooDeep));
    }

    #[test]
    fn a_secret_in_a_json_value_is_not_printed() {
        assert_eq!(format!("{:?}", Json::Text("canary".to_owned())), "[redacted]");
    }
}
