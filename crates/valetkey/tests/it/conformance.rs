//! The pages in docs/conformance tell the truth: every line that holds has tests that name it, and every other one says
//! why not.
//!
//! A test names a line in the doc comment directly above it: `/// R12: ...` or `/// A-072, A-073: ...`; `R12 to R15` names
//! them all. A row's last cell is one of:
//! - names of tests;
//! - `differs: REASON`, where we do something else on purpose, and `; tests: NAMES` after it where tests show what;
//! - `not built: REASON`.
//!
//! `UPDATE_GOLDEN=1` writes the names.

use std::{collections::BTreeMap, fs, path::Path};

/// A page of numbered lines.
struct Page {
    /// Its file in docs/conformance.
    file: &'static str,
    /// What stands before a number in a doc comment.
    mark: &'static str,
    /// How many lines there are, and those that came between them.
    lines: u32,
    more: &'static [&'static str],
}

const OAUTH: Page = Page { file: "oauth.md", mark: "R", lines: 118, more: &["65a", "65b"] };
const ACCOUNTS: Page = Page { file: "accounts.md", mark: "A-", lines: 256, more: &[] };
const TOKENS: Page = Page { file: "tokens.md", mark: "T-", lines: 288, more: &[] };

impl Page {
    /// The numbers of all its lines, in order: those with a letter follow the one that they belong to.
    fn numbers(&self) -> Vec<String> {
        let with_letters = |line: u32| {
            let line = line.to_string();
            let belongs = |more: &&&str| more.trim_end_matches(|c: char| c.is_ascii_lowercase()) == line;
            let more: Vec<String> = self.more.iter().filter(belongs).map(|more| (*more).to_owned()).collect();
            std::iter::once(line.clone()).chain(more).collect::<Vec<_>>()
        };
        (1..=self.lines).flat_map(with_letters).collect()
    }
}

/// The tests that name each line.
type Tests = BTreeMap<String, Vec<String>>;

#[test]
fn every_line_of_the_oauth_page_names_its_tests_or_says_why_not() {
    check(&OAUTH, &tests_of(&OAUTH));
}

#[test]
fn every_line_of_the_accounts_page_names_its_tests_or_says_why_not() {
    check_both_ways(&ACCOUNTS);
}

#[test]
fn every_line_of_the_tokens_page_names_its_tests_or_says_why_not() {
    check_both_ways(&TOKENS);
}

/// Checks a page, and that no test names a line that is not on it.
fn check_both_ways(page: &Page) {
    let (tests, numbers) = (tests_of(page), page.numbers());
    check(page, &tests);
    let strange: Vec<_> = tests.keys().filter(|line| !numbers.contains(line)).collect();
    assert!(strange.is_empty(), "tests name lines that are not on {}: {strange:?}", page.file);
}

fn check(page: &Page, tests: &Tests) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance").join(page.file);
    let before = fs::read_to_string(&path).unwrap();
    let (mut rows, mut bare) = (Vec::new(), Vec::new());
    let after: String = before
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let number = cells.get(1).and_then(|cell| number(cell.trim_start_matches(page.mark)));
            let (Some(number), [head @ .., last, _]) = (number, cells.as_slice()) else { return format!("{line}\n") };
            rows.push(number.clone());
            match cell(last, tests.get(&number).map_or(&[], Vec::as_slice)) {
                Some(cell) => format!("{} | {cell} |\n", head.join(" | ").trim_start()),
                None => {
                    bare.push(number);
                    format!("{line}\n")
                }
            }
        })
        .collect();
    assert_eq!(rows, page.numbers(), "every line has one row");
    assert!(bare.is_empty(), "{} lines of {} have neither a test nor a reason: {bare:?}", bare.len(), page.file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &after).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap() == after, "{}: run with UPDATE_GOLDEN=1 and commit the page", page.file);
}

/// What a row's last cell should be, given what it is and which tests name the row; nothing where there is nothing to say.
fn cell(written: &str, tests: &[String]) -> Option<String> {
    let mut known: Vec<&str> = tests.iter().map(String::as_str).collect();
    known.sort_unstable();
    known.dedup();
    let (reason, names) = match written.split_once("; tests: ") {
        Some((reason, names)) => (reason, names),
        None if written.starts_with("differs: ") || written.starts_with("not built: ") => (written, ""),
        None => ("", written),
    };
    let argued = reason.strip_prefix("differs: ").or_else(|| reason.strip_prefix("not built: "));
    if argued.is_some_and(|why| why.trim().is_empty()) || (argued.is_none() && !reason.is_empty()) {
        return None;
    }
    let named: Vec<&str> = names.split(',').map(|name| name.trim().trim_matches('`')).filter(|name| !name.is_empty()).collect();
    // Names that are there stay: a further test does not have to touch the page.
    let names = if !named.is_empty() && named.iter().all(|name| known.contains(name)) {
        names.to_owned()
    } else {
        known.iter().take(4).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    match (argued.is_some(), names.is_empty()) {
        (false, true) => None,
        (true, true) => Some(reason.to_owned()),
        // What a test shows is built.
        (true, false) if reason.starts_with("differs: ") => Some(format!("{reason}; tests: {names}")),
        _ => Some(names),
    }
}

/// The tests of all crates and examples that name a line of a page.
fn tests_of(page: &Page) -> Tests {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut tests = Tests::new();
    for krate in fs::read_dir(root.join("crates")).unwrap() {
        for part in ["src", "tests"] {
            scan(page, &krate.as_ref().unwrap().path().join(part), &mut tests);
        }
    }
    if root.join("examples").is_dir() {
        scan(page, &root.join("examples"), &mut tests);
    }
    tests
}

fn scan(page: &Page, path: &Path, tests: &mut Tests) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            scan(page, &entry.unwrap().path(), tests);
        }
        return;
    }
    // This file speaks about the numbers without testing them.
    if path.extension().is_none_or(|e| e != "rs") || path.ends_with("it/conformance.rs") {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    // In src, only what stands in a test module counts.
    let text = if path.components().any(|c| c.as_os_str() == "tests") || path.ends_with("tests.rs") {
        text.as_str()
    } else {
        text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests)
    };
    let mut named = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            named.extend(lines_in(page.mark, comment));
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

/// A line's number, without zeros in front; a letter may follow (`65a`).
fn number(text: &str) -> Option<String> {
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits: u32 = text.strip_suffix(letters)?.parse().ok()?;
    let fine = letters.is_empty() || (letters.len() == 1 && letters.bytes().all(|b| b.is_ascii_lowercase()));
    fine.then(|| format!("{digits}{letters}"))
}

/// The numbers behind the mark in a comment; `R12 to R15` and `R1, R9` name them all.
fn lines_in(mark: &str, comment: &str) -> Vec<String> {
    let number = |word: &str| word.strip_prefix(mark).and_then(number);
    let mut found = Vec::new();
    let mut words = comment.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let Some(from) = number(word) else { continue };
        if words.peek() == Some(&"to") {
            words.next();
            let to = words.peek().and_then(|word| number(word));
            if let (Ok(from), Some(Ok(to))) = (from.parse::<u32>(), to.map(|to| to.parse::<u32>())) {
                found.extend((from + 1..=to).map(|line| line.to_string()));
            }
        }
        found.push(from);
    }
    found
}
