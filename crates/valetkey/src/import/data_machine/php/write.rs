//! Values as PHP's `serialize` writes them.

use super::{Entries, Key, Value};

/// The bytes that PHP would write for a value.
///
/// Floats are written with PHP's default `serialize_precision` of -1: the shortest text that reads back the same. A
/// member that pointed back at what holds it ([`Value::Recursive`]) is written as null, for there is nothing to point at.
pub fn write(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    // The values of each open array or object that are still to be written.
    let mut open: Vec<std::slice::Iter<'_, (Key<'_>, Value<'_>)>> = Vec::new();
    begin(&mut out, &mut open, value);
    while let Some(entries) = open.last_mut() {
        match entries.next() {
            Some((key, value)) => {
                match key {
                    Key::Int(key) => int(&mut out, *key),
                    Key::Text(key) => text(&mut out, key),
                }
                begin(&mut out, &mut open, value);
            }
            None => {
                out.push(b'}');
                open.pop();
            }
        }
    }
    out
}

fn begin<'v>(out: &mut Vec<u8>, open: &mut Vec<std::slice::Iter<'v, (Key<'v>, Value<'v>)>>, value: &'v Value<'v>) {
    match value {
        Value::Null | Value::Recursive => out.extend_from_slice(b"N;"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"b:1;" } else { b"b:0;" }),
        Value::Int(value) => int(out, *value),
        Value::Float(value) => {
            out.extend_from_slice(b"d:");
            out.extend_from_slice(float(*value).as_bytes());
            out.push(b';');
        }
        Value::Text(value) => text(out, value),
        Value::Array(entries) => {
            out.extend_from_slice(b"a:");
            members(out, open, entries);
        }
        Value::Object(object) => {
            quoted(out, b'O', &object.class);
            members(out, open, &object.members);
        }
        Value::Custom(custom) => {
            quoted(out, b'C', &custom.class);
            out.extend_from_slice(format!("{}:{{", custom.payload.len()).as_bytes());
            out.extend_from_slice(&custom.payload);
            out.push(b'}');
        }
    }
}

fn members<'v>(out: &mut Vec<u8>, open: &mut Vec<std::slice::Iter<'v, (Key<'v>, Value<'v>)>>, entries: &'v Entries<'v>) {
    out.extend_from_slice(format!("{}:{{", entries.len()).as_bytes());
    open.push(entries.iter());
}

fn int(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(format!("i:{value};").as_bytes());
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(format!("s:{}:\"", value.len()).as_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\";");
}

fn quoted(out: &mut Vec<u8>, kind: u8, class: &[u8]) {
    out.push(kind);
    out.extend_from_slice(format!(":{}:\"", class.len()).as_bytes());
    out.extend_from_slice(class);
    out.extend_from_slice(b"\":");
}

/// The shortest digits that read back as the same number: plain between 0.0001 and 10^17, with an exponent outside.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NAN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF" } else { "-INF" }.to_owned();
    }
    let shortest = even(value, format!("{value:e}"));
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..17).contains(&exponent) => {
            let point = if digits.contains('.') { "" } else { ".0" };
            let sign = if exponent < 0 { "" } else { "+" };
            format!("{digits}{point}E{sign}{exponent}")
        }
        Ok(exponent) => plain(digits, exponent),
        Err(_) => shortest,
    }
}

/// Of two shortest texts that are equally near, PHP takes the one that ends in an even digit; Rust takes the larger.
fn even(value: f64, shortest: String) -> String {
    let Some((digits, exponent)) = shortest.split_once('e') else { return shortest };
    // Far more digits than the halfway point between two shortest texts has.
    let exact = format!("{value:.80e}");
    match exact.split_at_checked(digits.len()) {
        Some((cut, rest)) if rest.starts_with('5') && rest[1..].trim_start_matches('0').starts_with('e') => {
            let other = format!("{cut}e{exponent}");
            let even = cut.ends_with(['0', '2', '4', '6', '8']);
            if even && other.parse() == Ok(value) { other } else { shortest }
        }
        _ => shortest,
    }
}

/// Digits (`1.25`, perhaps with a sign) times a power of ten, without an exponent.
fn plain(digits: &str, exponent: i32) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = digits.replace('.', "");
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or_default();
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(places - 1));
    }
    if digits.len() <= places + 1 {
        return format!("{sign}{digits}{}", "0".repeat(places + 1 - digits.len()));
    }
    let (whole, part) = digits.split_at(places + 1);
    format!("{sign}{whole}.{part}")
}
