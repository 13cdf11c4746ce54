//! What comes back: untrusted, and read so that nothing in it surprises.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use super::{GOOD, load, with};
use crate::{
    clock::Timestamp,
    provider::{
        Identity,
        step::{FailureClass, MAX_ANSWER, Outputs, Step, StepFailure},
    },
    secret::SecretMap,
};

fn token_step() -> Step {
    load(GOOD).oauth2.unwrap().token
}

fn refresh_step() -> Step {
    load(&with("before = \"5m\"", "before = \"5m\"\nterminal_errors = [\"Bad_Refresh_Token\"]")).refresh.step.unwrap()
}

fn identity(out: &str) -> Step {
    match load(&with("out = { id = \"id\", \"extra.team\" = \"team.id\" }", out)).identity {
        Identity::Step(step) => *step,
        other => panic!("{other:?}"),
    }
}

fn read(step: &Step, status: u16, body: &str) -> Result<Outputs, StepFailure> {
    step.read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
}

fn class(step: &Step, status: u16, body: &str) -> (FailureClass, String) {
    let failure = read(step, status, body).unwrap_err();
    (failure.class, failure.error)
}

const TRANSIENT: FailureClass = FailureClass::Transient { retry_after: None };

#[test]
fn a_token_answer_is_read() {
    let body = r#"{"access_token":"at","token_type":"Bearer","expires_in":3600,"refresh_token":"rt","scope":"read write"}"#;
    let outputs = read(&token_step(), 200, body).unwrap();
    assert_eq!(outputs.access_token.as_ref().unwrap().expose(), "at");
    assert_eq!(outputs.refresh_token.as_ref().unwrap().expose(), "rt");
    assert_eq!(outputs.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(outputs.scope.as_deref().unwrap(), ["read", "write"]);
    assert_eq!(outputs.raw.expose()["expires_in"], 3600);
}

/// R32: missing is unknown, and no number makes anything panic.
#[test]
fn a_lifetime_may_be_anything() {
    let expires_in =
        |value: &str| read(&token_step(), 200, &format!(r#"{{"access_token":"at","expires_in":{value}}}"#)).unwrap().expires_in;
    for (value, expected) in [
        ("3600", Some(3600)),
        ("\"3600\"", Some(3600)),
        ("\" 60 \"", Some(60)),
        ("3600.0", Some(3600)),
        ("0", Some(0)),
        ("-1", Some(0)),
        ("-9223372036854775808", Some(0)),
        ("18446744073709551615", Some(3_153_600_000)),
        ("1e300", Some(3_153_600_000)),
        ("\"inf\"", Some(3_153_600_000)),
        ("\"NaN\"", None),
        ("\"soon\"", None),
        ("\"\"", None),
        ("null", None),
        ("true", None),
        ("[3600]", None),
    ] {
        assert_eq!(expires_in(value), expected.map(Duration::from_secs), "{value}");
    }
    assert_eq!(read(&token_step(), 200, r#"{"access_token":"at"}"#).unwrap().expires_in, None);
}

#[test]
fn a_default_lifetime_stands_in_for_a_missing_one_only() {
    let text = with("[refresh]", "[oauth2.token]\ndefault_expires_in = \"1h\"\n\n[refresh]");
    let step = load(&text).oauth2.unwrap().token;
    assert_eq!(read(&step, 200, r#"{"access_token":"at"}"#).unwrap().expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(read(&step, 200, r#"{"access_token":"at","expires_in":5}"#).unwrap().expires_in, Some(Duration::from_secs(5)));
}

/// R33.
#[test]
fn granted_scopes_are_read_whatever_separates_them() {
    let step =
        load(&with("scope_separator = \" \"", "scope_separator = \" \"\nscope_separator_out = \",\"")).oauth2.unwrap().token;
    let scope = |value: &str| read(&step, 200, &format!(r#"{{"access_token":"at","scope":{value}}}"#)).unwrap().scope;
    for value in [r#""write,read""#, r#""read, write""#, r#""read write""#, r#"["read","write","read"]"#, r#"",read,,write,""#] {
        assert_eq!(scope(value).unwrap(), ["read", "write"], "{value}");
    }
    assert_eq!(scope("\"\""), None);
    assert_eq!(scope("[]"), Some(Vec::new()));
    assert_eq!(scope("7"), None);
}

/// R31.
#[test]
fn a_token_of_an_unknown_type_is_not_used() {
    for (kind, taken) in [("bearer", true), ("BEARER", true), ("Bearer", true), ("mac", false), ("DPoP", false)] {
        let outcome = read(&token_step(), 200, &format!(r#"{{"access_token":"at","token_type":"{kind}"}}"#));
        assert_eq!(outcome.is_ok(), taken, "{kind}");
    }
    let slack = load(&with("client_auth = \"basic\"", "client_auth = \"basic\"\ntoken_types = [\"bot\"]")).oauth2.unwrap().token;
    assert!(read(&slack, 200, r#"{"access_token":"at","token_type":"bot"}"#).is_ok());
}

/// R39.
#[test]
fn errors_fall_into_classes() {
    let step = refresh_step();
    for (status, body, expected, word) in [
        (400, r#"{"error":"invalid_grant"}"#, FailureClass::Terminal, "invalid_grant"),
        (401, r#"{"error":"bad_refresh_token"}"#, FailureClass::Terminal, "bad_refresh_token"),
        (401, r#"{"error":"invalid_client"}"#, FailureClass::ClientFault, "invalid_client"),
        (400, r#"{"error":"unauthorized_client"}"#, FailureClass::ClientFault, "unauthorized_client"),
        (400, r#"{"error":"access_denied"}"#, FailureClass::Denied, "access_denied"),
        (400, r#"{"error":"temporarily_unavailable"}"#, TRANSIENT, "temporarily_unavailable"),
        (408, "", TRANSIENT, "http_408"),
        (429, r#"{"error":"invalid_grant"}"#, TRANSIENT, "invalid_grant"),
        (503, "<html>", TRANSIENT, "http_503"),
        (400, r#"{"error":"invalid_request"}"#, FailureClass::Other, "invalid_request"),
        (400, "", FailureClass::Other, "http_400"),
        (302, "", FailureClass::Other, "redirect"),
        (400, r#"{"error":{"message":"secret text","type":"OAuthException","code":190}}"#, FailureClass::Other, "190"),
    ] {
        assert_eq!(class(&step, status, body), (expected, word.to_owned()), "{status} {body}");
    }
}

#[test]
fn an_identity_call_never_ends_a_connection_by_its_word() {
    let step = identity("out = { id = \"id\" }");
    assert_eq!(class(&step, 400, r#"{"error":"invalid_grant"}"#).0, FailureClass::Other);
}

/// R40.
#[test]
fn an_error_that_comes_with_200_is_an_error() {
    let step = refresh_step();
    assert_eq!(class(&step, 200, r#"{"error":"invalid_grant"}"#), (FailureClass::Terminal, "invalid_grant".to_owned()));
    assert_eq!(class(&step, 200, r#"{"error":"Bad_Refresh_Token"}"#).0, FailureClass::Terminal);
    assert_eq!(class(&step, 200, "{}").1, "no_token_in_answer");
    assert_eq!(class(&step, 200, r#"{"access_token":""}"#).1, "no_token_in_answer");
    assert_eq!(class(&step, 200, "<html>").1, "unreadable_answer");
    assert_eq!(class(&step, 200, "").1, "unreadable_answer");
    let slack = load(&with(
        "[refresh]",
        "[oauth2.token]\nfail_when = [{ path = \"ok\", equals = false, error_path = \"error\" }]\n\n[refresh]",
    ));
    // The refresh inherits it.
    let step = slack.refresh.step.unwrap();
    assert_eq!(
        class(&step, 200, r#"{"ok":false,"error":"invalid_refresh_token","access_token":"x"}"#).1,
        "invalid_refresh_token"
    );
    assert!(read(&step, 200, r#"{"ok":true,"access_token":"x"}"#).is_ok());
}

#[test]
fn a_test_of_an_answer_is_one_of_three() {
    let step =
        identity("out = { id = \"id\" }\nfail_when = [{ path = \"error.code\", not_equals = \"ok\", error = \"refused\" }]");
    assert!(read(&step, 200, r#"{"id":"1","error":{"code":"ok"}}"#).is_ok());
    assert_eq!(class(&step, 200, r#"{"id":"1"}"#).1, "refused");
    let step = identity("out = { id = \"id\" }\nfail_when = [{ path = \"items[0]\", exists = false, error = \"no_channel\" }]");
    assert_eq!(class(&step, 200, r#"{"id":"1","items":[]}"#).1, "no_channel");
}

/// R41: a provider's description is free text and may hold what we sent.
#[test]
fn nothing_of_an_answer_but_one_bounded_word_gets_into_a_failure() {
    let long = "a".repeat(65);
    for error in ["secret token here", "a\\nb", "é", "<script>", &long, ""] {
        let body = format!(r#"{{"error":"{error}","error_description":"canary"}}"#);
        let failure = read(&refresh_step(), 400, &body).unwrap_err();
        assert_eq!(failure.error, "http_400", "{error}");
        assert!(!format!("{failure:?} {failure}").contains("canary"));
    }
}

#[test]
fn a_retry_after_is_seconds_or_a_date_by_the_answers_own_clock() {
    let wait = |retry: &str, date: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", retry.parse().unwrap());
        if let Some(date) = date {
            headers.insert("date", date.parse().unwrap());
        }
        match token_step().read(StatusCode::TOO_MANY_REQUESTS, &headers, b"").unwrap_err().class {
            FailureClass::Transient { retry_after } => retry_after.map(|wait| wait.as_secs()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait("7", None), Some(7));
    assert_eq!(wait("99999999999", None), Some(86_400));
    assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT", Some("Wed, 21 Oct 2015 07:27:30 GMT")), Some(30));
    assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT", Some("Wed, 21 Oct 2015 08:00:00 GMT")), Some(0));
    assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT", None), None);
    assert_eq!(wait("later", None), None);
}

#[test]
fn a_member_that_stands_twice_makes_an_answer_unreadable() {
    for body in [
        r#"{"access_token":"one","access_token":"two"}"#,
        r#"{"access_token":"one","\u0061ccess_token":"two"}"#,
        r#"{"access_token":"one","user":{"id":1,"id":2}}"#,
    ] {
        assert_eq!(class(&token_step(), 200, body).1, "unreadable_answer");
    }
}

#[test]
fn deep_nesting_and_great_size_make_an_answer_unreadable() {
    let deep = format!(r#"{{"access_token":"at","x":{}1{}}}"#, "[".repeat(30), "]".repeat(30));
    assert_eq!(class(&token_step(), 200, &deep).1, "unreadable_answer");
    let large = format!(r#"{{"access_token":"at","x":"{}"}}"#, "x".repeat(MAX_ANSWER));
    assert_eq!(class(&token_step(), 200, &large).1, "unreadable_answer");
    assert_eq!(class(&token_step(), 200, r#"{"access_token":"at"} x"#).1, "unreadable_answer");
}

#[test]
fn a_token_that_no_header_could_carry_is_refused() {
    for token in [r"a\r\nX: y", r"a\u0000b", r"a\tb", &"x".repeat(16 * 1024 + 1)] {
        assert_eq!(class(&token_step(), 200, &format!(r#"{{"access_token":"{token}"}}"#)).1, "malformed_token");
    }
    assert_eq!(class(&token_step(), 200, r#"{"access_token":["x"]}"#).1, "malformed_token");
    assert_eq!(class(&token_step(), 200, r#"{"access_token":"at","refresh_token":7}"#).1, "malformed_token");
}

#[test]
fn an_id_keeps_all_its_digits() {
    let step = identity("out = { id = [\"user_id\", \"data[0].user_id\"], username = \"name\", \"extra.team\" = \"team\" }");
    assert_eq!(read(&step, 200, r#"{"user_id":17841405793187218}"#).unwrap().id.unwrap(), "17841405793187218");
    assert_eq!(read(&step, 200, r#"{"data":[{"user_id":"x"}]}"#).unwrap().id.unwrap(), "x");
    // Too large for a whole number: wrong digits would be another account.
    assert_eq!(read(&step, 200, r#"{"user_id":123456789012345678901234567890}"#).unwrap().id, None);
    let outputs = read(&step, 200, r#"{"user_id":1,"team":9,"name":null}"#).unwrap();
    assert_eq!((outputs.extra["team"].clone(), outputs.username), (json!(9), None));
}

#[test]
fn a_revocation_may_answer_with_nothing() {
    let step = load(GOOD).revoke.unwrap().steps.remove(0);
    assert!(read(&step, 200, "").is_ok());
    assert!(read(&step, 204, "").is_ok());
    assert!(read(&step, 200, "OK").is_ok());
    assert_eq!(class(&step, 503, "").0, TRANSIENT);
}

#[test]
fn the_end_of_a_token_may_stand_in_the_token() {
    use base64::Engine as _;
    let text = with("[refresh]", "[oauth2.token]\nexpires_from = \"jwt_exp\"\n\n[refresh]");
    let step = load(&text).oauth2.unwrap().token;
    let jwt = |claims: &str| format!("e30.{}.x", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let body = |access: &str, refresh: &str| json!({"access_token": access, "refresh_token": refresh}).to_string();
    let outputs = read(&step, 200, &body(&jwt(r#"{"exp":1700000000}"#), &jwt(r#"{"exp":1800000000}"#))).unwrap();
    assert_eq!(outputs.expires_at, Some(Timestamp::from_unix_seconds(1_700_000_000)));
    assert_eq!(outputs.refresh_expires_at, Some(Timestamp::from_unix_seconds(1_800_000_000)));
    for odd in ["no jwt", "a.b.c", &jwt("[]"), &jwt(r#"{"exp":"x"}"#), &jwt(r#"{"exp":null}"#)] {
        assert_eq!(read(&step, 200, &body(odd, "rt")).unwrap().expires_at, None, "{odd}");
    }
    let far = read(&step, 200, &body(&jwt(r#"{"exp":1e300}"#), "rt")).unwrap();
    assert_eq!(far.expires_at, Some(Timestamp(i64::MAX)));
}

#[test]
fn an_end_may_be_a_date() {
    let text =
        with("[refresh]", "[oauth2.token]\nout = { expires_at = \"expires_at\" }\nexpires_at_format = \"rfc3339\"\n\n[refresh]");
    let step = load(&text).oauth2.unwrap().token;
    let outputs = read(&step, 200, r#"{"access_token":"at","expires_at":"2023-11-14T22:13:20Z"}"#).unwrap();
    assert_eq!(outputs.access_expiry(Timestamp(0)), Some(Timestamp::from_unix_seconds(1_700_000_000)));
    assert_eq!(read(&step, 200, r#"{"access_token":"at","expires_at":"tomorrow"}"#).unwrap().expires_at, None);
}

#[test]
fn a_form_answer_is_read_where_it_is_expected() {
    let twitter = crate::provider::Catalogue::embedded().unwrap();
    let oauth1 = twitter.get(&super::name("twitter")).unwrap().oauth1.clone().unwrap();
    let outputs = read(&oauth1.token, 200, "oauth_token=t&oauth_token_secret=s&user_id=7&screen_name=n").unwrap();
    assert_eq!((outputs.token_secret.unwrap().expose(), outputs.id.unwrap().as_str()), ("s", "7"));
    assert_eq!(class(&oauth1.token, 200, "oauth_token=t&oauth_token=u").1, "unreadable_answer");
    // An answer in form may still be an error in JSON.
    assert_eq!(class(&oauth1.token, 401, r#"{"errors":[{"code":32}]}"#).1, "http_401");
    let temporary = read(&oauth1.request, 200, "oauth_token=t&oauth_token_secret=s&oauth_callback_confirmed=true").unwrap();
    assert_eq!(temporary.raw.expose()["oauth_callback_confirmed"], "true");
}

#[test]
fn a_page_of_a_list_says_where_the_next_begins_and_the_last_does_not() {
    let catalogue = crate::provider::Catalogue::embedded().unwrap();
    let facebook = catalogue.get(&super::name("facebook")).unwrap();
    let step = &facebook.resources[0].1;
    let next = |body: &str| step.read_page(StatusCode::OK, &HeaderMap::new(), body.as_bytes()).unwrap().1;
    let begins = next(r#"{"data":[{"id":"1"}],"paging":{"cursors":{"after":"MTAx"}}}"#);
    assert_eq!(begins.unwrap().expose(), "MTAx");
    for last in
        [r#"{"data":[]}"#, r#"{"data":[],"paging":{"cursors":{"after":""}}}"#, r#"{"data":[],"paging":{"cursors":{"after":{}}}}"#]
    {
        assert!(next(last).is_none(), "{last}");
    }
}

#[test]
fn a_list_is_read_entry_by_entry() {
    let catalogue = crate::provider::Catalogue::embedded().unwrap();
    let get = |provider: &str| catalogue.get(&super::name(provider)).unwrap().clone();
    let read = |step: &Step, body: &str| step.read_list(StatusCode::OK, &HeaderMap::new(), body.as_bytes()).unwrap();
    let gsc = get("gsc");
    let body = r#"{"siteEntry":[{"siteUrl":"https://a/","permissionLevel":"siteOwner"},{"siteUrl":"https://b/","permissionLevel":"siteUnverifiedUser"}]}"#;
    let found = read(&gsc.resources[0].1, body);
    assert_eq!(found.iter().map(|entry| entry.id.as_deref().unwrap()).collect::<Vec<_>>(), ["https://a/"]);
    assert!(read(&gsc.resources[0].1, "{}").is_empty());
    let facebook = get("facebook");
    let pages = read(&facebook.resources[0].1, r#"{"data":[{"id":"1","name":"Page","access_token":"pt"}]}"#);
    assert_eq!((pages[0].token.as_ref().unwrap().expose(), pages[0].label.as_deref()), ("pt", Some("Page")));
    let granted = read(
        facebook.scope_check.as_ref().unwrap(),
        r#"{"data":[{"permission":"email","status":"granted"},{"permission":"pages_show_list","status":"declined"}]}"#,
    );
    assert_eq!(granted.iter().flat_map(|entry| entry.scope.clone().unwrap()).collect::<Vec<_>>(), ["email"]);
    let instagram = get("instagram_fb");
    let accounts = &instagram.resources.iter().find(|(name, _)| name == "ig_account").unwrap().1;
    let found = read(accounts, r#"{"data":[{"id":"1"},{"instagram_business_account":{"id":"9","username":"u"}}]}"#);
    assert_eq!(found.iter().map(|entry| entry.id.as_deref().unwrap()).collect::<Vec<_>>(), ["9"]);
}

#[test]
fn a_slot_is_read_out_of_the_same_answer() {
    let catalogue = crate::provider::Catalogue::embedded().unwrap();
    let slack = catalogue.get(&super::name("slack")).unwrap();
    let step = &slack.oauth2.as_ref().unwrap().token;
    let both = r#"{"ok":true,"access_token":"xoxb","token_type":"bot","authed_user":{"id":"U1","access_token":"xoxp"}}"#;
    let answer = read(step, 200, both).unwrap();
    let user = step.read_slot(&slack.slots[0].1, &answer, StatusCode::OK).unwrap().unwrap();
    assert_eq!((user.access_token.unwrap().expose(), user.id.as_deref()), ("xoxp", Some("U1")));
    let bot_only = read(step, 200, r#"{"ok":true,"access_token":"xoxb","authed_user":{"id":"U1"}}"#).unwrap();
    assert!(step.read_slot(&slack.slots[0].1, &bot_only, StatusCode::OK).unwrap().is_none());
}

/// R34: without a new refresh token the old one stays.
#[test]
fn what_an_answer_does_not_bring_stays_as_it_was() {
    let mut account = super::map(json!({"access_token": "old", "refresh_token": "rt", "note": "mine"}));
    read(&token_step(), 200, r#"{"access_token":"new","token_type":"Bearer"}"#).unwrap().store_into(&mut account);
    let expected = super::map(json!({"access_token": "new", "refresh_token": "rt", "note": "mine", "token_type": "bearer"}));
    assert!(account == expected);
}

#[test]
fn outputs_are_silent() {
    let outputs = read(&token_step(), 200, r#"{"access_token":"canary"}"#).unwrap();
    assert!(!format!("{outputs:?}").contains("canary"));
    assert!(!format!("{:?}", SecretMap::default()).contains("canary"));
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let step = token_step();
        let _ = step.read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body);
        let _ = step.read_list(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body);
    }

    #[test]
    fn no_lifetime_makes_it_panic(number in any::<f64>(), text in any::<String>()) {
        for value in [json!(number), json!(text)] {
            let body = json!({"access_token": "at", "expires_in": value, "scope": value}).to_string();
            if let Ok(outputs) = read(&token_step(), 200, &body) {
                let _ = outputs.access_expiry(Timestamp(i64::MAX));
                let _ = outputs.access_expiry(Timestamp(i64::MIN));
            }
        }
    }
}
