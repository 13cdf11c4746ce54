//! An option's value, serialized or as JSON.

use valetkey::import::data_machine::{
    option::{self, Error},
    php::{self, Value},
};

use super::{SITES, file};

#[test]
fn the_database_column_and_its_json_give_the_same_value() {
    for site in SITES {
        let (column, json) = (file(&format!("{site}/auth_data.serialized")), file(&format!("{site}/auth_data.stored.json")));
        let value = option::read(&column).unwrap();
        assert!(value == option::read(&json).unwrap(), "{site}");
        assert!(matches!(value, Value::Array(providers) if providers.len() == 19));
    }
}

#[test]
fn an_empty_list_and_an_empty_object_are_both_the_empty_array() {
    for text in ["[]", "{}", "a:0:{}"] {
        assert!(matches!(option::read(text.as_bytes()).unwrap(), Value::Array(entries) if entries.is_empty()), "{text}");
    }
}

/// What PHP 8.2's `json_decode($text, true)` makes of each, serialized.
#[test]
fn json_is_read_as_php_reads_it() {
    let cases = [
        (r#"{"a":1,"a":2,"b":3}"#, r#"a:2:{s:1:"a";i:2;s:1:"b";i:3;}"#),
        (r#"{"5":1,"05":2,"-5":3,"":4}"#, r#"a:4:{i:5;i:1;s:2:"05";i:2;i:-5;i:3;s:0:"";i:4;}"#),
        (r#"[true,null,"x",[]]"#, r#"a:4:{i:0;b:1;i:1;N;i:2;s:1:"x";i:3;a:0:{}}"#),
        ("9223372036854775807", "i:9223372036854775807;"),
        ("9223372036854775808", "d:9.223372036854776E+18;"),
        ("-9223372036854775808", "i:-9223372036854775808;"),
        ("1.0", "d:1;"),
        ("1e2", "d:100;"),
        (r#""\u00e9\ud83d\udd11\/""#, "s:7:\"é🔑/\";"),
    ];
    for (json, serialized) in cases {
        assert_eq!(String::from_utf8(php::write(&option::read(json.as_bytes()).unwrap())).unwrap(), serialized, "{json}");
    }
}

/// PHP writes the shortest text that reads back the same, and reads it back the same.
#[test]
fn a_float_in_json_is_the_nearest_to_the_bit() {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = f64::from_bits(bits);
        if number.is_finite() {
            let json = format!("[{number:e}]");
            let Value::Array(read) = option::read(json.as_bytes()).unwrap() else { panic!("{json}") };
            assert!(matches!(read[0].1, Value::Float(read) if read.to_bits() == bits), "{json}");
        }
    }
}

#[test]
fn white_space_and_a_byte_order_mark_around_a_value_do_no_harm() {
    for text in ["a:0:{}\n", "\n a:0:{}\r\n", "\u{feff}a:0:{}", " [] \n", "\u{feff}[]"] {
        assert!(option::read(text.as_bytes()).is_ok(), "{text:?}");
    }
}

#[test]
fn what_is_neither_is_refused_with_what_it_is_instead() {
    let cases: [(&[u8], Error); 10] = [
        (b"", Error::Empty),
        (b" \n", Error::Empty),
        (b"array (\n  'twitter' => 1,\n)", Error::Listing),
        (b"Array\n(\n", Error::Listing),
        (b"\xff\xfea\0:\0", Error::Utf16),
        (b"hello", Error::Unknown),
        (b"a:0:{}a:0:{}", Error::Trailing { offset: 6 }),
        (b"  i:5;junk", Error::Trailing { offset: 6 }),
        (b"{\"a\":\n1,}", Error::Json { line: 2, column: 3 }),
        (b"[\"\xff\"]", Error::Json { line: 1, column: 3 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(option::read(bytes).unwrap_err(), error, "{}", bytes.escape_ascii());
    }
}

/// One rule for both forms: as deep as PHP unserializes.
#[test]
fn json_nests_as_deep_as_the_serialized_form_and_no_deeper() {
    for depth in [1, 128, 129, 513, php::MAX_DEPTH] {
        let list = "[".repeat(depth) + &"]".repeat(depth);
        let object = "{\"a\":".repeat(depth - 1) + "{}" + &"}".repeat(depth - 1);
        let serialized = |head: &str| head.repeat(depth - 1) + "a:0:{}" + &"}".repeat(depth - 1);
        let read = |text: &str| php::write(&option::read(text.as_bytes()).unwrap());
        assert!(read(&list) == read(&serialized("a:1:{i:0;")), "{depth}");
        assert!(read(&object) == read(&serialized("a:1:{s:1:\"a\";")), "{depth}");
    }
    let depth = php::MAX_DEPTH + 1;
    let refused = |text: &str| option::read(text.as_bytes()).unwrap_err().as_str();
    assert_eq!(refused(&("[".repeat(depth) + &"]".repeat(depth))), "json");
    // PHP does not count an empty array.
    assert_eq!(refused(&("a:1:{i:0;".repeat(depth) + "i:1;" + &"}".repeat(depth))), "depth");
}

#[test]
fn json_that_is_malformed_is_refused_where_it_is() {
    let cases = [
        ("[1,]", 4),
        ("[1 2]", 4),
        ("[,1]", 2),
        ("{\"a\"}", 5),
        ("{\"a\":}", 6),
        ("{1:2}", 2),
        ("[1", 3),
        ("[1}", 3),
        ("{\"a\":1]", 7),
        ("[\"a", 4),
        ("[\"\\x\"]", 4),
        ("[01]", 3),
        ("[1.]", 3),
        ("[-]", 3),
        ("[nul]", 4),
        ("[truefalse]", 6),
        ("[] []", 4),
        ("[\"a\u{1}\"]", 4),
        ("[\"\\ud800\"]", 9),
    ];
    for (text, near) in cases {
        let Error::Json { line, column } = option::read(text.as_bytes()).unwrap_err() else { panic!("{text}") };
        assert!(line == 1 && column.abs_diff(near) <= 1, "{text}: column {column}");
    }
}

#[test]
fn json_that_nests_without_end_is_refused() {
    for text in ["[".repeat(200_000), "{\"a\":".repeat(200_000)] {
        assert_eq!(option::read(text.as_bytes()).unwrap_err().as_str(), "json");
    }
}

#[test]
fn the_place_of_a_fault_counts_from_the_begin_of_the_file() {
    let Error::Php(error) = option::read(b"\n\na:1:{i:0;x}").unwrap_err() else { panic!() };
    assert_eq!(error.offset, 11);
}
