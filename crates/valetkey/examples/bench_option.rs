//! Writes the option of a large Data Machine site for `benches/run`: nine providers, each with so many people and agents; with
//! ten thousand it is the option of 58 MB whose import was asked for.

use std::{borrow::Cow, path::Path};

use valetkey::{
    import::data_machine::{
        envelope::Key,
        php::{self, Entries, Key as Name, Value},
        salts::Salts,
    },
    secret::SecretBytes,
};

const PROVIDERS: [&str; 9] =
    ["twitter", "reddit", "facebook", "instagram", "threads", "linkedin", "pinterest", "tiktok", "youtube"];
const SALTS: [&str; 2] = ["bench-auth-key-0123456789", "bench-auth-salt-9876543210"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(principals)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bench_option FOLDER PRINCIPALS".into());
    };
    let principals: u64 = principals.parse()?;
    let part = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    let key = Key::derive(&Salts::given(part(SALTS[0]), part(SALTS[1])))?;
    let mut option = Vec::new();
    for provider in PROVIDERS {
        let mut people = Vec::new();
        for id in 1..=principals {
            let mut account = Entries::from(vec![
                (name("access_token"), text(&format!("{provider}-access-{id:06}-{}", "a".repeat(60)))),
                (name("refresh_token"), text(&format!("{provider}-refresh-{id:06}-{}", "r".repeat(60)))),
                (name("token_expires_at"), Value::Int(1_900_000_000)),
                (name("last_refreshed_at"), Value::Int(1_890_000_000)),
                (name("username"), text(&format!("person_{id}"))),
                (name("name"), text(&format!("Person {id:09}"))),
                (name("scope"), text("read write identity")),
                (name("id"), text(&format!("{id:020}"))),
            ]);
            key.seal_fields(provider, &mut account)?;
            let kind = if id % 2 == 0 { "user" } else { "agent" };
            let node = Entries::from(vec![(name("account"), Value::Array(account))]);
            people.push((name(&format!("{kind}:{id}")), Value::Array(node)));
        }
        let node = Entries::from(vec![(name("principals"), Value::Array(Entries::from(people)))]);
        option.push((name(provider), Value::Array(node)));
    }
    let folder = Path::new(&folder);
    std::fs::write(folder.join("auth_data.serialized"), php::write(&Value::Array(Entries::from(option))))?;
    let config = format!("<?php\ndefine( 'AUTH_KEY', '{}' );\ndefine( 'AUTH_SALT', '{}' );\n", SALTS[0], SALTS[1]);
    std::fs::write(folder.join("wp-config.php"), config)?;
    Ok(())
}

fn name(text: &str) -> Name<'static> {
    Name::Text(Cow::Owned(text.as_bytes().to_vec()))
}

fn text(text: &str) -> Value<'static> {
    Value::Text(Cow::Owned(text.as_bytes().to_vec()))
}
