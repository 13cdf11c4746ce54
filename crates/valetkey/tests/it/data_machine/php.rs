//! PHP's serialization, against what PHP itself says.

use std::fmt::Write as _;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value as Json;
use valetkey::import::data_machine::{
    option,
    php::{self, Entries, Fault, Key, MAX_DEPTH, Value},
};

use super::{SITES, base64, file, json, on_a_small_stack};

#[test]
fn every_case_of_the_corpus_is_accepted_or_refused_and_typed_as_by_php() {
    let corpus = json("php_serialize_corpus.json");
    let cases = corpus["cases"].as_array().unwrap();
    assert!(cases.len() >= 60, "the corpus was not read");
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let bytes = match case.get("serialized_b64") {
            Some(text) => base64(text),
            None => nested(5000, "i:1;"),
        };
        let read = php::read(&bytes);
        assert_eq!(read.is_ok(), case["php_accepts"].as_bool().unwrap(), "{name}: {read:?}");
        if let Ok(value) = read {
            assert!(same(&value, &case["value"]), "{name}");
        }
    }
}

#[test]
fn inputs_at_the_edges_of_the_format_are_read_as_php_reads_them() {
    let text = String::from_utf8(file("php_unserialize.tsv")).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for line in text.lines() {
        let (hex, verdict) = line.split_once('\t').unwrap();
        let bytes = unhex(hex);
        let shown = match php::read(&bytes) {
            Ok(value) => show(&value),
            Err(_) => "ERR".to_owned(),
        };
        let input = bytes.escape_ascii();
        if verdict == "DEEP" || (shown.contains("REC") && verdict != "ERR") {
            assert_ne!(shown, "ERR", "{input}");
        } else {
            assert_eq!(shown, verdict, "{input}");
        }
        if verdict == "ERR" { refused += 1 } else { accepted += 1 }
    }
    assert!(accepted > 500 && refused > 1000, "{accepted} and {refused}");
}

#[test]
fn the_options_of_real_sites_are_written_back_byte_for_byte() {
    for site in SITES {
        let bytes = file(&format!("{site}/auth_data.serialized"));
        let value = php::read(&bytes).unwrap();
        assert_eq!(php::write(&value), bytes, "{site}");
    }
    let bytes = base64(&json("accounts.json")["php_serialized_base64"]);
    assert_eq!(php::write(&php::read(&bytes).unwrap()), bytes);
}

/// The texts were asked of PHP 8.2's `serialize`.
#[test]
fn floats_are_written_as_php_writes_them() {
    let texts = [
        "0",
        "-0",
        "5",
        "-5",
        "0.1",
        "1.5",
        "100000",
        "100000000000000",
        "1000000000000000",
        "10000000000000000",
        "1.0E+17",
        "1.2345678901234568E+17",
        "1.0E+25",
        "1.25E+25",
        "0.0001",
        "0.00012345",
        "1.0E-5",
        "1.2345E-5",
        "5.0E-324",
        "1.7976931348623157E+308",
        "2.2250738585072014E-308",
        "0.30000000000000004",
        "0.3333333333333333",
        "12345678901234568",
        "1234567890123456.8",
        "999999999999999.9",
        "INF",
        "-INF",
        "NAN",
        // Two texts are equally near; PHP takes the even one.
        "15150045246822.812",
        "-1389701632155283.2",
        "-1647191147776518.2",
    ];
    for text in texts {
        let serialized = format!("d:{text};");
        let value = php::read(serialized.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(php::write(&value)).unwrap(), serialized);
    }
}

#[test]
fn an_option_cut_off_anywhere_is_refused() {
    let bytes = base64(&json("accounts.json")["php_serialized_base64"]);
    for length in 0..bytes.len() {
        assert!(php::read(&bytes[..length]).is_err(), "{length}");
    }
    for site in SITES {
        let bytes = file(&format!("{site}/auth_data.serialized"));
        for length in (0..bytes.len()).step_by(211) {
            assert!(php::read(&bytes[..length]).is_err(), "{site} {length}");
        }
    }
}

#[test]
fn two_hundred_thousand_nested_arrays_are_refused_without_recursion() {
    on_a_small_stack(|| {
        for bytes in [nested(200_000, "i:1;"), nested_objects(200_000), nested(200_000, "i:1;")[..100_000].to_vec()] {
            assert_eq!(php::read(&bytes).unwrap_err().fault, Fault::Depth);
        }
        // The same with a reference in front, which is read another way.
        let mut bytes = b"a:2:{i:0;i:1;i:1;a:2:{i:0;R:2;i:1;".to_vec();
        bytes.extend_from_slice(&nested(200_000, "i:1;"));
        assert_eq!(php::read(&bytes).unwrap_err().fault, Fault::Depth);
    });
}

/// Where the limit lies was asked of PHP 8.2.
#[test]
fn the_deepest_value_that_php_reads_is_read_compared_written_and_dropped_without_recursion() {
    on_a_small_stack(|| {
        for (inner, accepted) in
            [("i:1;", true), ("a:0:{}", true), ("C:1:\"A\":0:{}", true), ("O:1:\"A\":0:{}", false), ("a:1:{i:0;i:1;}", false)]
        {
            let bytes = nested(MAX_DEPTH, inner);
            let value = php::read(&bytes);
            assert_eq!(value.is_ok(), accepted, "{inner}");
            if let Ok(value) = value {
                assert!(value == php::read(&bytes).unwrap());
                assert!(value.depth() >= MAX_DEPTH);
                assert_eq!(php::write(&value), bytes);
            }
        }
        assert_eq!(php::read(&nested(MAX_DEPTH + 1, "i:1;")).unwrap_err().fault, Fault::Depth);
    });
}

#[test]
fn a_claimed_length_or_count_is_not_believed() {
    for claim in ["2147483647", "2147483648", "4294967295", "9223372036854775807", "99999999999999999999999"] {
        for text in [
            format!("s:{claim}:\"a\";"),
            format!("S:{claim}:\"a\";"),
            format!("a:{claim}:{{i:0;i:1;}}"),
            format!("O:1:\"A\":{claim}:{{}}"),
            format!("O:{claim}:\"A\":0:{{}}"),
            format!("C:1:\"A\":{claim}:{{}}"),
            format!("a:2:{{i:0;i:1;i:1;a:{claim}:{{R:1;}}}}"),
        ] {
            assert!(php::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}

#[test]
fn references_that_stand_for_terabytes_are_refused_at_once() {
    // Each array names the one before it ten times: 10^40 values.
    let mut text = String::from("a:41:{i:0;a:1:{i:0;i:1;}");
    let mut slot = 2;
    for n in 1..=40 {
        let _ = write!(text, "i:{n};a:10:{{");
        for at in 0..10 {
            let _ = write!(text, "i:{at};R:{slot};");
        }
        text.push('}');
        // References have no slot of their own; the first array has its number beside itself.
        slot += if n == 1 { 2 } else { 1 };
    }
    text.push('}');
    assert_eq!(php::read(text.as_bytes()).unwrap_err().fault, Fault::Copies);
    // Long texts, too, are not copied without end: wherever they stand, and also where a copy only borrows them.
    let long = "x".repeat(3000);
    for named in [
        format!("S:3000:\"{long}\";"),
        format!("s:3000:\"{long}\";"),
        format!("C:1:\"A\":3000:{{{long}}}"),
        format!("C:3000:\"{long}\":0:{{}}"),
        format!("O:3000:\"{long}\":0:{{}}"),
        format!("a:1:{{s:3000:\"{long}\";i:1;}}"),
    ] {
        let mut text = format!("a:2001:{{i:0;{named}");
        for n in 1..=2000 {
            let _ = write!(text, "i:{n};R:2;");
        }
        text.push('}');
        assert_eq!(php::read(text.as_bytes()).unwrap_err().fault, Fault::Copies, "{}", &named[..4]);
    }
}

#[test]
fn a_long_text_may_stand_in_two_places() {
    let text = format!("a:2:{{i:0;s:9000:\"{}\";i:1;R:2;}}", "x".repeat(9000));
    let Value::Array(entries) = php::read(text.as_bytes()).unwrap() else { panic!() };
    assert!(entries[0].1 == entries[1].1);
}

#[test]
fn references_are_copies_of_what_they_name() {
    let value = php::read(b"a:3:{s:1:\"a\";a:1:{s:1:\"k\";s:1:\"v\";}s:1:\"b\";R:2;s:1:\"c\";R:3;}").unwrap();
    assert_eq!(
        php::write(&value),
        b"a:3:{s:1:\"a\";a:1:{s:1:\"k\";s:1:\"v\";}s:1:\"b\";a:1:{s:1:\"k\";s:1:\"v\";}s:1:\"c\";s:1:\"v\";}"
    );
    let Value::Array(entries) = php::read(b"a:2:{i:0;O:1:\"A\":1:{s:1:\"p\";i:5;}i:1;r:2;}").unwrap() else { panic!() };
    assert!(entries[0].1 == entries[1].1 && entries[1].1.kind() == "object");
}

#[test]
fn what_refers_to_itself_says_so() {
    let Value::Array(entries) = php::read(b"a:2:{s:4:\"self\";R:1;s:1:\"a\";i:1;}").unwrap() else { panic!() };
    assert!(matches!(entries.get("self"), Some(Value::Recursive)));
    assert!(matches!(entries.get("a"), Some(Value::Int(1))));
}

#[test]
fn of_two_equal_keys_the_last_value_counts_in_the_place_of_the_first() {
    // Few entries and many are told apart inside.
    for more in [0, 100] {
        let mut text = format!("a:{}:{{s:1:\"a\";i:1;i:-7;i:2;s:1:\"a\";i:3;s:2:\"-7\";i:4;s:1:\"z\";i:5;", 5 + more);
        for n in 0..more {
            let _ = write!(text, "i:{n};N;");
        }
        text.push('}');
        let Value::Array(entries) = php::read(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(entries.len(), 3 + more);
        let shown: Vec<String> = entries.iter().take(3).map(|(key, value)| format!("{key:?}={}", show(value))).collect();
        assert_eq!(shown, ["a=i3", "-7=i4", "z=i5"]);
    }
}

#[test]
fn a_member_of_an_object_keeps_a_text_for_its_key() {
    let Value::Object(object) = php::read(b"O:1:\"A\":2:{i:5;i:1;s:1:\"7\";i:2;}").unwrap() else { panic!() };
    assert!(object.members.iter().all(|(key, _)| matches!(key, Key::Text(_))));
    assert_eq!(php::write(&Value::Object(object)), b"O:1:\"A\":2:{s:1:\"5\";i:1;s:1:\"7\";i:2;}");
}

#[test]
fn a_key_is_a_number_exactly_where_php_makes_it_one() {
    let number = |text: &'static str| matches!(Key::from_text(text.as_bytes().into()), Key::Int(_));
    for text in ["0", "7", "10", "-1", "9223372036854775807", "-9223372036854775808"] {
        assert!(number(text), "{text}");
    }
    for text in ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1.0", "1e3", "9223372036854775808", "-9223372036854775809", "é"] {
        assert!(!number(text), "{text}");
    }
}

#[test]
fn an_error_says_where_and_nothing_of_the_text() {
    let error = php::read(b"a:1:{s:12:\"access_token\";s:6:\"canary\"}").unwrap_err();
    assert_eq!((error.offset, error.fault), (37, Fault::Punctuation));
    assert_eq!(error.to_string(), "serialized PHP, at byte 37: a colon, brace, quote or semicolon is missing");
    assert!(!format!("{error:?}").contains("canary"));
    let value = php::read(b"s:6:\"canary\";").unwrap();
    assert_eq!(format!("{value:?}"), "[string]");
}

#[test]
fn what_follows_a_value_is_ignored_and_can_be_asked_for() {
    assert_eq!(php::read_prefix(b"i:5;junk").unwrap().1, 4);
    assert!(php::read(b"a:0:{}junk").is_ok());
}

/// What the fuzz target checks, on arbitrary bytes and on texts made of the format's own pieces.
#[test]
fn no_bytes_whatever_panic_and_what_was_read_is_written_so_that_it_reads_the_same() {
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 4000, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let piece = prop::sample::select(vec![
        "a:1:{",
        "a:2:{",
        "a:3:{",
        "O:1:\"A\":1:{",
        "C:1:\"A\":2:{ab}",
        "}",
        "}",
        "}",
        "i:0;",
        "i:1;",
        "s:1:\"a\";",
        "s:1:\"0\";",
        "S:1:\"\\41\";",
        "N;",
        "b:1;",
        "d:.5;",
        "d:-INF;",
        "R:1;",
        "R:2;",
        "R:3;",
        "r:1;",
        "r:2;",
        "E:3:\"A:B\";",
        "s:2147483648:\"",
        ";",
        "\"",
        "\u{0}",
    ]);
    let pieces = prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes());
    let any = prop_oneof![prop::collection::vec(any::<u8>(), 0..200), pieces];
    runner
        .run(&any, |bytes| {
            check(&bytes);
            Ok(())
        })
        .unwrap();
}

fn check(bytes: &[u8]) {
    let _ = option::read(bytes);
    let Ok((value, length)) = php::read_prefix(bytes) else { return };
    assert!(length <= bytes.len());
    let written = php::write(&value);
    let again = php::read(&written).unwrap();
    let recursive = show(&value).contains("REC");
    assert!(recursive || value == again);
    assert!(php::write(&again) == written);
}

fn nested(depth: usize, inner: &str) -> Vec<u8> {
    format!("{}{inner}{}", "a:1:{i:0;".repeat(depth), "}".repeat(depth)).into_bytes()
}

fn nested_objects(depth: usize) -> Vec<u8> {
    format!("{}N;{}", "O:1:\"A\":1:{s:1:\"a\";".repeat(depth), "}".repeat(depth)).into_bytes()
}

/// Whether a value is the one that the corpus describes.
fn same(value: &Value<'_>, described: &Json) -> bool {
    let text = |text: &[u8], described: &Json| text == base64(described);
    match (value, described["t"].as_str().unwrap()) {
        (Value::Null, "null") => true,
        (Value::Bool(flag), "bool") => described["v"] == *flag,
        (Value::Int(number), "int") => described["v"].as_str() == Some(&number.to_string()),
        (Value::Float(number), "float") => described["bits"] == format!("{:016x}", number.to_bits()),
        (Value::Text(bytes), "string") => text(bytes, &described["b64"]),
        // PHP shows such objects under the class of those it does not know.
        (Value::Object(_) | Value::Custom(_), "object") => described["class"] == "__PHP_Incomplete_Class",
        (Value::Array(entries), "recursive") => holds_itself(entries),
        (Value::Array(entries), "array") => {
            let described = described["v"].as_array().unwrap();
            let pairs = entries.iter().zip(described).all(|((key, value), pair)| {
                let key = match key {
                    Key::Int(number) => pair[0]["int"] == *number,
                    Key::Text(bytes) => pair[0].get("str").is_some_and(|described| text(bytes, described)),
                };
                key && same(value, &pair[1])
            });
            pairs && entries.len() == described.len()
        }
        _ => false,
    }
}

fn holds_itself(entries: &Entries<'_>) -> bool {
    entries.iter().any(|(_, value)| match value {
        Value::Recursive => true,
        Value::Array(entries) => holds_itself(entries),
        _ => false,
    })
}

/// A value in the notation of `php_unserialize.tsv`.
fn show(value: &Value<'_>) -> String {
    let members = |entries: &Entries<'_>, plain: bool| {
        let shown = entries.iter().map(|(key, value)| match key {
            Key::Int(number) if !plain => format!("#{number}=>{}", show(value)),
            key => format!("{}=>{}", hex(&key.to_bytes()), show(value)),
        });
        shown.collect::<Vec<_>>().join(",")
    };
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("b{flag}"),
        Value::Int(number) => format!("i{number}"),
        Value::Float(number) if number.is_nan() => "fnan".to_owned(),
        Value::Float(number) => format!("f{:016x}", number.to_bits()),
        Value::Text(bytes) => format!("s{}", hex(bytes)),
        Value::Array(entries) => format!("[{}]", members(entries, false)),
        Value::Object(object) => format!("O{}{{{}}}", hex(&object.class), members(&object.members, true)),
        Value::Custom(custom) => format!("O{}{{}}", hex(&custom.class)),
        Value::Recursive => "REC".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
