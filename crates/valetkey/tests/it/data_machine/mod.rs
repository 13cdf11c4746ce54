//! The formats of Data Machine, against files of real sites and against hostile ones.

mod dump;
mod envelope;
mod option;
mod php;
mod salts;
mod wp_config;

use std::{fs, path::PathBuf};

use serde_json::Value as Json;
use valetkey::{
    import::data_machine::{
        dump::{Choice, Dump, read},
        salts::{Salts, Sources},
        wp_config::WpConfig,
    },
    secret::SecretBytes,
};

/// The two fixture sites: a single one with its salts in wp-config.php, and a network with them in the database.
const SITES: [&str; 2] = ["single-wpconfig", "multisite-dbsalts"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-machine").join(name)
}

fn file(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&file(name)).unwrap()
}

fn base64(text: &Json) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text.as_str().unwrap()).unwrap()
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn dump_of(site: &str) -> Dump {
    read(&*file(&format!("{site}/dump.extended.sql")), &Choice::default()).unwrap()
}

/// A site's salts from its own configuration and dump.
fn salts_of(site: &str) -> Salts {
    let config = WpConfig::parse(&file(&format!("{site}/wp-config.php"))).unwrap();
    let dump = dump_of(site);
    let sources = Sources {
        config: Some(&config),
        database_key: dump.auth_key.as_ref(),
        database_salt: dump.auth_salt.as_ref(),
        ..Sources::default()
    };
    Salts::compose(&sources).unwrap()
}

/// Runs something with a stack that leaves no room for recursion.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}
