//! Sealed fields, read and written as Data Machine does it.

use std::borrow::Cow;

use valetkey::import::data_machine::{
    envelope::{IV, Key, PREFIX, SEALED_FIELDS, TAG, Unreadable, is_envelope, is_sealed_field},
    option,
    php::{self, Entries, Key as Name, Value},
    salts::Salts,
};

use super::{SITES, file, json, salts_of, secret};

fn key() -> Key {
    Key::derive(&Salts::given(secret("k1-unique-auth-key"), secret("s1-unique-auth-salt"))).unwrap()
}

fn map(members: &[(&'static str, Value<'static>)]) -> Entries<'static> {
    members.iter().map(|(name, value)| (Name::Text(Cow::Borrowed(name.as_bytes())), copy(value))).collect()
}

fn copy(value: &Value<'static>) -> Value<'static> {
    match value {
        Value::Text(text) => Value::Text(text.clone()),
        Value::Int(number) => Value::Int(*number),
        Value::Bool(flag) => Value::Bool(*flag),
        _ => Value::Null,
    }
}

fn text<'v>(map: &'v Entries<'_>, name: &str) -> &'v [u8] {
    match map.get(name) {
        Some(Value::Text(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

fn serialized(map: &Entries<'_>) -> Vec<u8> {
    map.iter().flat_map(|(name, value)| [name.to_bytes().into_owned(), php::write(value)].concat()).collect()
}

/// A token through one field and back.
fn round_trip(token: &'static str) {
    let mut fields = map(&[("access_token", Value::text(token))]);
    key().seal_fields("acme", &mut fields).unwrap();
    assert!(is_envelope(text(&fields, "access_token")));
    assert!(key().open_fields("acme", &mut fields).is_empty());
    assert_eq!(text(&fields, "access_token"), token.as_bytes());
}

#[test]
fn every_envelope_of_two_real_sites_opens_to_its_plaintext() {
    for site in SITES {
        let key = Key::derive(&salts_of(site)).unwrap();
        let (stored, plain) = (file(&format!("{site}/auth_data.serialized")), file(&format!("{site}/auth_data.decrypted.json")));
        let opened = compare(&key, &php::read(&stored).unwrap(), &option::read(&plain).unwrap());
        assert_eq!(opened, (62, 0), "{site}");
    }
}

#[test]
fn the_one_envelope_that_was_sealed_under_another_key_is_unreadable_and_the_rest_are_not() {
    let fixture = json("accounts.json");
    let salts = Salts::given(secret(fixture["AUTH_KEY"].as_str().unwrap()), secret(fixture["AUTH_SALT"].as_str().unwrap()));
    let (stored, plain) = (fixture["stored_json"].to_string(), fixture["decrypted_json"].to_string());
    let key = Key::derive(&salts).unwrap();
    let (stored, plain) = (option::read(stored.as_bytes()).unwrap(), option::read(plain.as_bytes()).unwrap());
    assert_eq!(compare(&key, &stored, &plain), (14, 1));
}

/// Walks two values side by side; counts the envelopes that opened to the other's text, and those that did not open and
/// stand in the other as they are.
fn compare(key: &Key, stored: &Value<'_>, plain: &Value<'_>) -> (usize, usize) {
    match (stored, plain) {
        (Value::Text(stored), plain) if is_envelope(stored) => match key.open(stored) {
            Ok(opened) => {
                let expected = match plain {
                    Value::Text(text) => text.to_vec(),
                    Value::Array(entries) => match entries.get("$base64") {
                        Some(Value::Text(text)) => super::base64(&std::str::from_utf8(text).unwrap().into()),
                        _ => panic!("an envelope stands for an array"),
                    },
                    _ => panic!("an envelope stands for no text"),
                };
                assert_eq!(opened.expose(), expected);
                (1, 0)
            }
            Err(reason) => {
                assert!(matches!(plain, Value::Text(text) if text == stored) && reason == Unreadable::DoesNotOpen);
                (0, 1)
            }
        },
        (Value::Array(stored), Value::Array(plain)) => {
            assert_eq!(stored.len(), plain.len());
            let pairs = stored.iter().zip(plain.iter());
            pairs.fold((0, 0), |(opened, closed), ((name, stored), (other, plain))| {
                assert_eq!(name, other);
                let (more_opened, more_closed) = compare(key, stored, plain);
                (opened + more_opened, closed + more_closed)
            })
        }
        (stored, plain) => {
            assert!(stored == plain, "{stored:?} and {plain:?}");
            (0, 0)
        }
    }
}

/// the default list.
#[test]
fn nine_fields_are_sealed_for_every_provider_and_one_more_for_two_of_them() {
    for name in [
        "access_token",
        "refresh_token",
        "client_secret",
        "oauth_token",
        "oauth_token_secret",
        "app_secret",
        "consumer_secret",
        "api_secret",
        "webhook_secret",
    ] {
        assert!(SEALED_FIELDS.contains(&name) && is_sealed_field("acme", name.as_bytes()), "{name}");
    }
    assert_eq!(SEALED_FIELDS.len(), 9);
    assert!(is_sealed_field("http_basic", b"password") && !is_sealed_field("acme", b"password"));
    assert!(is_sealed_field("email_imap", b"imap_password") && !is_sealed_field("http_basic", b"imap_password"));
    assert!(!is_sealed_field("acme", b"access_token_secret") && !is_sealed_field("acme", b"api_key"));
}

/// listed fields carry the prefix, the others are as they were; opening gives the same keys in the same order.
#[test]
fn sealing_touches_the_listed_fields_only_and_opening_restores_them_all() {
    let given = [
        ("access_token", Value::text("at")),
        ("refresh_token", Value::text("rt")),
        ("client_secret", Value::text("cs")),
        ("user_id", Value::Int(7)),
        ("username", Value::text("bot")),
    ];
    let mut fields = map(&given);
    key().seal_fields("acme", &mut fields).unwrap();
    for name in ["access_token", "refresh_token", "client_secret"] {
        assert!(text(&fields, name).starts_with(b"dm:enc:v1:"));
    }
    assert_eq!(text(&fields, "username"), b"bot");
    assert!(fields.get("user_id") == Some(&Value::Int(7)));
    assert!(key().open_fields("acme", &mut fields).is_empty());
    assert!(fields == map(&given));
}

/// characters that mean something elsewhere.
#[test]
fn a_token_with_special_characters_comes_back() {
    round_trip("a/b+c=d&e?f<g>h\"i'j\\k");
}

/// a long token.
#[test]
fn a_token_of_3200_characters_comes_back() {
    round_trip(Box::leak("x9".repeat(1600).into_boxed_str()));
}

/// a character of four bytes.
#[test]
fn a_token_with_a_character_of_four_bytes_comes_back() {
    round_trip("tok_\u{1F511}_key_emoji");
}

/// what is no sealed text stays what it is, in value and type.
#[test]
fn plaintext_from_before_sealing_and_what_is_no_text_are_left_alone() {
    let given = [
        ("access_token", Value::Int(12345)),
        ("refresh_token", Value::Bool(true)),
        ("oauth_token", Value::text("")),
        ("app_secret", Value::Null),
    ];
    let mut fields = map(&given);
    key().seal_fields("acme", &mut fields).unwrap();
    assert!(fields == map(&given));
    let mut legacy = map(&[("access_token", Value::text("from-before"))]);
    assert!(key().open_fields("acme", &mut legacy).is_empty());
    assert_eq!(text(&legacy, "access_token"), b"from-before");
}

/// sealing twice changes nothing.
#[test]
fn what_is_sealed_already_is_not_sealed_again() {
    let mut fields = map(&[("access_token", Value::text("tok"))]);
    key().seal_fields("acme", &mut fields).unwrap();
    let once = text(&fields, "access_token").to_vec();
    key().seal_fields("acme", &mut fields).unwrap();
    assert_eq!(text(&fields, "access_token"), once);
    assert_eq!(key().open(&once).unwrap().expose(), b"tok");
}

/// one key for all providers.
#[test]
fn an_envelope_opens_whatever_the_provider() {
    let mut fields = map(&[("access_token", Value::text("tok"))]);
    key().seal_fields("one", &mut fields).unwrap();
    assert!(key().open_fields("two", &mut fields).is_empty());
    assert_eq!(text(&fields, "access_token"), b"tok");
}

/// the form of an envelope, and a fresh IV for each.
#[test]
fn an_envelope_has_six_parts_and_no_two_are_alike() {
    let (one, two) = (key().seal(b"tok").unwrap(), key().seal(b"tok").unwrap());
    assert_ne!(one, two);
    for sealed in [&one, &two] {
        assert_eq!(key().open(sealed.as_bytes()).unwrap().expose(), b"tok");
        let parts: Vec<&str> = sealed.split(':').collect();
        assert_eq!((parts.len(), &parts[..3]), (6, &["dm", "enc", "v1"][..]));
        let lengths: Vec<usize> = parts[3..].iter().map(|part| super::base64(&(*part).into()).len()).collect();
        assert_eq!(lengths, [12, 16, 3]);
    }
    assert_eq!((PREFIX, IV, TAG), ("dm:enc:v1:", 12, 16));
}

/// nothing listed, nothing at all, and the prefix where it means nothing.
#[test]
fn without_a_listed_field_sealing_and_opening_change_nothing() {
    for given in [vec![], vec![("username", Value::text("bot"))], vec![("note", Value::text("dm:enc:v1:some:thing"))]] {
        let mut fields = map(&given);
        key().seal_fields("acme", &mut fields).unwrap();
        assert!(key().open_fields("acme", &mut fields).is_empty());
        assert_eq!(serialized(&fields), serialized(&map(&given)));
    }
}

///
#[test]
fn a_broken_envelope_is_an_error_with_its_reason_and_never_a_token() {
    let good = key().seal(b"canary").unwrap();
    let parts: Vec<&str> = good.split(':').collect();
    let with = |at: usize, part: &'static str| {
        let mut parts = parts.clone();
        parts[at] = part;
        parts.join(":")
    };
    let cases = [
        ("canary".to_owned(), Unreadable::NoPrefix),
        ("dm:enc:v2:AA==:AA==:AA==".to_owned(), Unreadable::NoPrefix),
        ("dm:enc:v1:nothing".to_owned(), Unreadable::MissingSeparator),
        ("dm:enc:v1:AAAA:AAAA".to_owned(), Unreadable::MissingSeparator),
        ("dm:enc:v1:!!:??:**".to_owned(), Unreadable::BadBase64),
        (format!("{good}:AAAA"), Unreadable::BadBase64),
        (with(3, "c2hvcnQ="), Unreadable::IvLength),
        (with(4, "c2hvcnQ="), Unreadable::TagLength),
        (with(4, "eHh4eHh4eHh4eHh4eHh4eA=="), Unreadable::DoesNotOpen),
        (with(5, "AAAAAAAA"), Unreadable::DoesNotOpen),
        ("dm:enc:v1:::".to_owned(), Unreadable::IvLength),
    ];
    for (envelope, reason) in cases {
        assert_eq!(key().open(envelope.as_bytes()).unwrap_err(), reason, "{envelope}");
        if reason != Unreadable::NoPrefix {
            let mut fields: Entries<'_> = vec![(Name::Text(Cow::Borrowed(b"access_token")), Value::text(&envelope))].into();
            assert_eq!(key().open_fields("acme", &mut fields), [("access_token".to_owned(), reason)]);
            assert_eq!(text(&fields, "access_token"), envelope.as_bytes());
        }
    }
}

#[test]
fn white_space_and_missing_padding_in_an_envelope_do_no_harm() {
    let envelope = "dm:enc:v1:AAEC AwQF\nBgcICQoL:MT9dXUz3ILnLREWeEWyejg:uFV CFsY";
    assert_eq!(key().open(envelope.as_bytes()).unwrap().expose(), b"hello");
}

#[test]
fn other_salts_do_not_open_it() {
    let other = Key::derive(&Salts::given(secret("k1-unique-auth-key"), secret("another"))).unwrap();
    let sealed = key().seal(b"canary").unwrap();
    assert_eq!(other.open(sealed.as_bytes()).unwrap_err(), Unreadable::DoesNotOpen);
    assert_eq!(format!("{other:?}"), "[redacted]");
}
