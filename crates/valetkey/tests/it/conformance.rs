//! docs/conformance/oauth.md tells the truth: every line that holds has a test that names it.

use std::{collections::BTreeMap, fs, path::Path};

/// The lines that hold today.
fn held() -> Vec<u32> {
    (1..=43).filter(|n| ![8, 30].contains(n)).collect()
}

#[test]
fn every_line_of_the_oauth_page_that_holds_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = root.join("docs/conformance/oauth.md");
    let mut tests: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for krate in fs::read_dir(root.join("crates")).unwrap() {
        for part in ["src", "tests"] {
            scan(&krate.as_ref().unwrap().path().join(part), &mut tests);
        }
    }
    let before = fs::read_to_string(&page).unwrap();
    let mut rows = Vec::new();
    let after: String = before
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let Some(number) = cells.get(1).and_then(|cell| cell.parse::<u32>().ok()) else { return format!("{line}\n") };
            rows.push(number);
            if !held().contains(&number) {
                assert!(cells[4].starts_with("not built"), "line {number} neither holds nor says why not");
                return format!("{line}\n");
            }
            let mut names = tests.get(&number).cloned().unwrap_or_default();
            names.sort();
            names.dedup();
            assert!(!names.is_empty(), "no test names R{number}");
            let written: Vec<&str> = cells[4].split(',').map(|name| name.trim().trim_matches('`')).collect();
            if written.iter().all(|name| names.iter().any(|known| known == name)) {
                return format!("{line}\n");
            }
            let names: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
            format!("| {number} | {} | {} | {} |\n", cells[2], cells[3], names.join(", "))
        })
        .collect();
    assert_eq!(rows, (1..=43).collect::<Vec<_>>(), "every line has one row");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&page, &after).unwrap();
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), after, "run with UPDATE_GOLDEN=1 and commit the page");
}

/// Finds functions whose doc comment names lines, as in `/// R12: ...`.
fn scan(path: &Path, tests: &mut BTreeMap<u32, Vec<String>>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            scan(&entry.unwrap().path(), tests);
        }
        return;
    }
    // This file speaks about the numbers without testing them.
    if path.extension().is_none_or(|e| e != "rs") || path.ends_with("it/conformance.rs") {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    // In src, only what stands in a test module counts.
    let text = if path.components().any(|c| c.as_os_str() == "tests") {
        text.as_str()
    } else {
        text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests)
    };
    let mut named = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            named.extend(lines_in(comment));
        } else if let Some(name) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            for number in named.drain(..) {
                tests.entry(number).or_default().push(name.clone());
            }
        } else if !line.starts_with('#') {
            named.clear();
        }
    }
}

/// The numbers behind `R` in a comment; `R12 to R15` and `R1, R9` name them all.
fn lines_in(comment: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut words = comment.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).peekable();
    while let Some(word) = words.next() {
        let Some(from) = word.strip_prefix('R').and_then(|n| n.parse::<u32>().ok()) else { continue };
        found.push(from);
        if words.peek() == Some(&"to") {
            words.next();
            if let Some(to) = words.peek().and_then(|w| w.strip_prefix('R')).and_then(|n| n.parse::<u32>().ok()) {
                found.extend(from + 1..=to);
            }
        }
    }
    found
}
