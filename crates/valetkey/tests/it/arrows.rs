//! The arrows between rooms are those that docs/architecture.md draws.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What everybody stands on.
const GROUND: [&str; 8] = ["error", "id", "clock", "secret", "text", "db", "on", "row"];

#[test]
fn every_import_between_rooms_is_drawn_in_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let drawn = drawn(&fs::read_to_string(root.join("../../docs/architecture.md")).unwrap());
    let mut faults = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if room == "lib" {
            continue;
        }
        let Some(allowed) = drawn.get(&room) else {
            faults.push(format!("the room `{room}` is not in docs/architecture.md"));
            continue;
        };
        for import in imports(&path) {
            seen += 1;
            let fine = GROUND.contains(&import.as_str()) || import == room || allowed.contains("*") || allowed.contains(&import);
            // The first words stand on nothing but each other.
            if !fine {
                faults.push(format!("`{room}` imports `{import}`"));
            }
        }
    }
    assert!(seen > 50, "the imports were not read");
    assert!(faults.is_empty(), "{faults:#?}");
}

fn drawn(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let block = document.split("```arrows").nth(1).unwrap().split("```").next().unwrap();
    block
        .lines()
        .filter_map(|line| line.split_once('▶'))
        .map(|(room, to)| {
            let to = to.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
            (room.trim().to_owned(), to)
        })
        .collect()
}

/// The rooms that the files below a path name after `crate::`, in imports and in the code; tests apart.
fn imports(path: &Path) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rooms.extend(imports(&entry.unwrap().path()));
        }
        return rooms;
    }
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            rooms.extend(heads(group));
        } else {
            rooms.insert(word(rest));
        }
    }
    // Names exported at the top are no rooms of their own.
    rooms.retain(|room| room.chars().next().is_some_and(char::is_lowercase));
    rooms
}

/// The first words of the parts of a `{a::b, c::{d, e}}` group, up to its end.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut at_start, mut found) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if c.is_whitespace() => {}
            _ if depth == 0 && at_start => {
                found.push(word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}
