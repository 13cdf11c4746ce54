//! A wp-config.php, read without running it. Every value here is what PHP 8.2 gave when it ran the same text.

use valetkey::import::data_machine::wp_config::{Constant, Definition, Error, MAX_BYTES, Reason, WpConfig};

use super::{SITES, file};

#[test]
fn texts_in_every_quoting_are_read_as_php_reads_them() {
    let cases: [(&str, &[u8]); 17] = [
        (r"'a\'b\\c\n$x{$y}'", br"a'b\c\n$x{$y}"),
        (r#""a\"b\\c\n\t\$x\x41\101\u{1F511}\q\{ $ {""#, "a\"b\\c\n\t$xAA\u{1F511}\\q\\{ $ {".as_bytes()),
        (r#""\400\0\7\77\1234""#, b"\0\0\x07?S4"),
        (r#""\x4\xg\u{41}\e\v\f""#, b"\x04\\xgA\x1b\x0b\x0c"),
        (r#""a$ b$1 c$""#, b"a$ b$1 c$"),
        (r#""{ $ {a} }""#, b"{ $ {a} }"),
        ("'x\r\ny'", b"x\r\ny"),
        ("'schlüssel 日本 🔑'", "schlüssel 日本 🔑".as_bytes()),
        ("<<<EOT\n  key \"q\" \\\" \\x41\n  two\n  EOT", b"key \"q\" \\\" A\ntwo"),
        ("<<<'X'\nraw $x \\n\n\nX", b"raw $x \\n\n"),
        ("<<<\"EOT\"\n    a\n  b\n  EOT . 'tail'", b"  a\nbtail"),
        ("<<<'X'\nX", b""),
        ("<<<EOT\r\na\r\nb\r\nEOT", b"a\r\nb"),
        ("'a' . \"b\" . 'c'", b"abc"),
        ("('x' . ('y')) . 5 . -7 . true . null", b"xy5-71"),
        ("/* c */ 'K // not a comment # nor this' // c\n", b"K // not a comment # nor this"),
        ("\"b\", false", b"b"),
    ];
    for (expression, value) in cases {
        let config = parse(&format!("define('AUTH_KEY', {expression}\n);"));
        assert_eq!(text(&config, "AUTH_KEY"), value, "{expression}");
    }
}

#[test]
fn numbers_and_flags_keep_their_kind() {
    let config = parse(
        "define('A', 12345); define('B', 0x1F); define('C', 017); define('D', 1_000); define('E', True); define('F', null);",
    );
    for (name, value) in [("A", 12345), ("B", 31), ("C", 15), ("D", 1000)] {
        assert!(
            matches!(config.constant(name), Some(Definition::Value { value: Constant::Int(n), .. }) if *n == value),
            "{name}"
        );
    }
    assert!(matches!(config.constant("E"), Some(Definition::Value { value: Constant::Bool(true), .. })));
    assert!(matches!(config.constant("F"), Some(Definition::Value { value: Constant::Null, .. })));
}

#[test]
fn the_first_definition_counts_and_const_is_one() {
    let config = parse(
        "const AUTH_KEY = 'a', AUTH_SALT = AUTH_KEY . 'b'; DEFINE('AUTH_KEY', 'later'); @define('AUTH_SALT', 'later');\n\
         \\define('NONCE_KEY', AUTH_SALT . \\AUTH_KEY); define('AUTH_' . 'X', 'x');",
    );
    for (name, value) in [("AUTH_KEY", "a"), ("AUTH_SALT", "ab"), ("NONCE_KEY", "aba"), ("AUTH_X", "x")] {
        assert_eq!(text(&config, name), value.as_bytes(), "{name}");
    }
}

#[test]
fn comments_and_what_is_outside_of_php_define_nothing() {
    let config = parse(
        "// define('A', 'no');\n# define('A', 'no');\n/* define('A', 'no');\n */ define('A', 'yes'); # it's\n// it's ?>\n\
         define('B', 'no'); <?php define('B', 'yes') ?> define('C', 'no'); <?php define('C', 'yes'); exit; define('D', 'no');",
    );
    for name in ["A", "B", "C"] {
        assert_eq!(text(&config, name), b"yes", "{name}");
    }
    assert!(config.constant("D").is_none());
}

#[test]
fn to_ask_first_whether_a_constant_is_defined_changes_nothing() {
    let config = parse(
        "if (!defined('AUTH_KEY')) { define('AUTH_KEY', 'k'); define('AUTH_SALT', 's'); }\n\
         if ( ! defined( 'AUTH_KEY' ) ) define('NONCE_SALT', 'no');\n\
         if (!defined('AUTH_SALT')): define('AUTH_SALT', 'z'); endif;\n\
         defined('NONCE_KEY') || define('NONCE_KEY', 'n'); defined('SECURE_AUTH_KEY') or define('SECURE_AUTH_KEY', 'se');\n\
         !defined('LOGGED_IN_KEY') && define('LOGGED_IN_KEY', 'li');",
    );
    for (name, value) in
        [("AUTH_KEY", "k"), ("AUTH_SALT", "s"), ("NONCE_KEY", "n"), ("SECURE_AUTH_KEY", "se"), ("LOGGED_IN_KEY", "li")]
    {
        assert_eq!(text(&config, name), value.as_bytes(), "{name}");
    }
    assert!(config.constant("NONCE_SALT").is_none());
}

#[test]
fn what_another_condition_decides_is_said_and_not_guessed() {
    let config = parse(
        "if (getenv('PATH')) { define('A', 'k'); } else { define('B', 's'); }\nif (true) define('C', 'x');\n\
         switch (1) { case 1: define('D', 'sw'); }\nfunction f() { define('E', 'fn'); }\n$f = function () { define('F', 'no'); };\n\
         if (!defined('WP_CLI')) { define('G', 'x'); }\nforeach ([1] as $i): define('H', 'x'); endforeach;\n\
         $x and define('I', 'x');\nwhile (0) { define('J', 'x'); }\ntry { define('K', 'x'); } catch (E $e) { }\nif (0): elseif (1): else: define('L', 'x'); endif;\n\
         define('M', 'certain');",
    );
    for name in ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"] {
        assert_eq!(reason(&config, name), Reason::Condition, "{name}");
    }
    assert_eq!(text(&config, "M"), b"certain");
}

#[test]
fn a_value_that_only_php_could_compute_is_said_with_its_reason() {
    let config = parse(
        "define('A', getenv('K') ?: 'fb'); define('B', $x ?? 'y'); define('C', \"a$b\"); define('D', 1 ? 'a' : 'b');\n\
         define('E', NOWHERE); define('F', 1.5); define('G', \"{$x}\"); define('H', `id`); define('I', ['a']); define('J', A::B);\n\
         define('K', 'a' . trim('b')); define('L', __DIR__ . '/x'); define('M', <<<X\n$a\nX\n); define('N', 'a' == 'b');",
    );
    let cases = [
        ("A", Reason::Call("getenv".to_owned())),
        ("B", Reason::Variable),
        ("C", Reason::Variable),
        ("D", Reason::Computed),
        ("E", Reason::Constant("NOWHERE".to_owned())),
        ("F", Reason::Float),
        ("G", Reason::Variable),
        ("H", Reason::Variable),
        ("I", Reason::Computed),
        ("J", Reason::Call("A".to_owned())),
        ("K", Reason::Call("trim".to_owned())),
        ("L", Reason::Constant("__DIR__".to_owned())),
        ("M", Reason::Variable),
        ("N", Reason::Computed),
    ];
    for (name, expected) in cases {
        assert_eq!(reason(&config, name), expected, "{name}");
    }
}

#[test]
fn lines_by_which_more_constants_may_come_are_listed() {
    let config =
        parse("require 'salts.php';\nforeach ($all as $k => $v) { define($k, $v); }\nrequire_once ABSPATH . 'wp-settings.php';");
    assert_eq!(config.elsewhere(), [2, 3]);
    for source in [
        "if (!@include 'salts.php') { exit; }",
        "while (include_once __DIR__ . '/a.php') { }",
        "return require '../wp-config.php';",
        "eval('define(\"AUTH_KEY\", \"k\");');",
        "call_user_func('define', 'AUTH_KEY', 'k');",
        "array_map('\\define', $names, $values);",
    ] {
        assert_eq!(parse(source).elsewhere(), [2], "{source}");
    }
    let asked = parse("if (define('AUTH_KEY', 'k')) { }");
    assert_eq!(reason(&asked, "AUTH_KEY"), Reason::Condition);
}

#[test]
fn the_table_prefix_is_the_last_one_assigned() {
    let prefix = |source: &str| match parse(source).table_prefix() {
        Some(Definition::Value { value, .. }) => String::from_utf8(value.to_text().expose().to_vec()).unwrap(),
        Some(Definition::NotEvaluated { reason, .. }) => format!("{reason:?}"),
        None => "none".to_owned(),
    };
    assert_eq!(prefix("$table_prefix = 'a_'; $table_prefix = \"b_\";"), "b_");
    assert_eq!(prefix("$table_prefix = getenv('P') ?: 'wp_';"), "Call(\"getenv\")");
    assert_eq!(prefix("$table_prefix = 'wp_'; if ($x) { $table_prefix = 'y_'; }"), "Condition");
    assert_eq!(prefix("$x = 1;"), "none");
}

#[test]
fn a_network_says_so() {
    let networks: Vec<bool> =
        SITES.iter().map(|site| WpConfig::parse(&file(&format!("{site}/wp-config.php"))).unwrap().multisite()).collect();
    assert_eq!(networks, [false, true]);
}

#[test]
fn a_file_that_is_cut_off_or_none_is_refused_and_no_cut_panics() {
    assert_eq!(WpConfig::parse(b"").unwrap_err(), Error::NoPhp);
    assert_eq!(WpConfig::parse(b"AUTH_KEY=x\n").unwrap_err(), Error::NoPhp);
    assert_eq!(parse_error("\ndefine('AUTH_KEY', 'abc"), Error::Unterminated { line: 3 });
    assert_eq!(parse_error("\n/* abc"), Error::Unterminated { line: 3 });
    assert_eq!(parse_error("define('A', <<<X\nabc"), Error::Unterminated { line: 2 });
    assert_eq!(parse_error("\ndefine('AUTH_KEY', 'abc'"), Error::Unclosed { line: 3 });
    for site in SITES {
        let source = file(&format!("{site}/wp-config.php"));
        for length in 0..source.len() {
            // What is certain of the begin is certain of the whole.
            if let Ok(config) = WpConfig::parse(&source[..length])
                && let Some(Definition::Value { value, .. }) = config.constant("AUTH_KEY")
            {
                assert_eq!(value.to_text().expose(), text(&WpConfig::parse(&source).unwrap(), "AUTH_KEY"));
            }
        }
    }
}

#[test]
fn hostile_files_are_refused_or_read_in_no_time() {
    let repeated = |text: &str| format!("<?php {}", text.repeat(MAX_BYTES / text.len() - 8));
    for text in
        ["(", "{", "define(", "if(", "!", "'a'.", "define('A',(", "function ", "<<<A\n", "\\", "${", "if(1){", "?><?php ", "#["]
    {
        let _ = WpConfig::parse(repeated(text).as_bytes());
    }
    assert_eq!(WpConfig::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err(), Error::TooLarge);
    for word in ["include ", "eval ", "if(1)"] {
        let _ = WpConfig::parse(repeated(word).as_bytes());
    }
    let doubling: String = (0..64).map(|n| format!("define('A{}', A{n} . A{n});", n + 1)).collect();
    let doubled = parse(&format!("define('A0', 'xxxxxxxx'); {doubling}"));
    assert_eq!(text(&doubled, "A3").len(), 64);
    assert!(matches!(doubled.constant("A64"), Some(Definition::NotEvaluated { .. })));
    let count = 100_000;
    let _ = parse(&format!("x({}{});", "define(".repeat(count), ")".repeat(count)));
    for joined in ["'a'.", "('a')."] {
        let count = 150_000;
        let config = parse(&format!("define('AUTH_KEY', {}'z');", joined.repeat(count)));
        assert_eq!(text(&config, "AUTH_KEY").len(), count + 1, "{joined}");
    }
    let _ = WpConfig::parse(b"<?php define('AUTH_KEY', '\xff\xfe'); \xff\xff $\xff = \"\xff");
}

fn parse(source: &str) -> WpConfig {
    WpConfig::parse(format!("<?php\n{source}").as_bytes()).unwrap()
}

fn parse_error(source: &str) -> Error {
    WpConfig::parse(format!("<?php\n{source}").as_bytes()).unwrap_err()
}

fn text(config: &WpConfig, name: &str) -> Vec<u8> {
    match config.constant(name) {
        Some(Definition::Value { value, .. }) => value.to_text().expose().to_vec(),
        other => panic!("{name}: {other:?}"),
    }
}

fn reason(config: &WpConfig, name: &str) -> Reason {
    match config.constant(name) {
        Some(Definition::NotEvaluated { reason, .. }) => reason.clone(),
        other => panic!("{name}: {other:?}"),
    }
}
