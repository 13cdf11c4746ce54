//! The fuzz targets (`fuzz/`), compiled with the tests and run on a little of what they take: so they do not rot between two long
//! runs, for which a nightly compiler is needed.

use proptest::prelude::*;

#[path = "../../../../fuzz/fuzz_targets/inbound.rs"]
mod inbound;
#[path = "../../../../fuzz/fuzz_targets/php.rs"]
mod php;

/// Bytes, mostly made of pieces that get past the first look.
fn bytes(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![4 => pieces, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

const INBOUND: &[&str] = &[
    "GET /a/*",
    "//api.example/",
    "/a/**",
    "*",
    "%2e",
    "..",
    "/",
    "\\",
    " ",
    "\n",
    "GET api.example /a/b",
    "vk_",
    "vkp_",
    "AAAAAAAA",
    "operators",
    "[\"alice\"]",
    "{\"providers\":[\"lab\"]}",
    "100/1h",
    "agent:a/",
    "user:",
    "site",
    "proxy ",
    "provider:lab",
    "Bearer ",
    "Basic eDp5",
    "client_id=a&",
    "client_secret=b&",
    "=",
    "%00",
    "1",
    "10",
    "a.example",
    "con_",
    "00000000000000000000000000000000",
];

const PHP: &[&str] = &[
    "a:1:{",
    "a:2:{",
    "O:1:\"A\":1:{",
    "C:1:\"A\":2:{ab}",
    "}",
    "i:0;",
    "i:1;",
    "s:1:\"a\";",
    "S:1:\"\\41\";",
    "N;",
    "b:1;",
    "d:.5;",
    "R:1;",
    "R:2;",
    "r:1;",
    "E:3:\"A:B\";",
    ";",
    "\"",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_to_be_let_in_is_taken_as_its_fuzz_target_says(bytes in bytes(INBOUND)) {
        inbound::run(&bytes);
    }

    #[test]
    fn what_php_may_have_written_is_taken_as_its_fuzz_target_says(bytes in bytes(PHP)) {
        php::run(&bytes);
    }
}
