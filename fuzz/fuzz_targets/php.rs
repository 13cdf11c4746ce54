//! No bytes whatever make the reader of PHP's serialization panic, hang or recurse, and what it read is written so that it
//! reads the same.
//!
//! The reader is taken in by its path: it stands on nothing else of the library, so this builds in seconds.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[path = "../../crates/valetkey/src/import/data_machine/php/mod.rs"]
mod php;

use php::Value;
#[cfg(not(fuzzing))]
use valetkey::import::data_machine::php;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

/// Everything that is checked of some bytes. The tests of the library compile this and call it, too, with its own reader.
pub(crate) fn run(bytes: &[u8]) {
    let Ok((value, length)) = php::read_prefix(bytes) else { return };
    assert!(length <= bytes.len());
    let written = php::write(&value);
    let again = php::read(&written).expect("what was written is read");
    assert!(holds_itself(&value) || value == again);
    assert!(php::write(&again) == written);
    assert!(value.depth() <= php::MAX_DEPTH + 1);
}

/// Whether a reference to what is around it is in a value; that is not written back.
fn holds_itself(value: &Value<'_>) -> bool {
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value {
            Value::Recursive => return true,
            Value::Array(entries) => rest.extend(entries.iter().map(|(_, value)| value)),
            Value::Object(object) => rest.extend(object.members.iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    false
}
