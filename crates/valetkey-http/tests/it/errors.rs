//! The pages tell of every error: each code stands in a table, beside the status that it has.

use std::{fs, path::Path};

use valetkey::Code;
use valetkey_http::status;

/// A code in a table of a page, with what its row says of the status; nothing where the table tells none.
struct Told {
    code: Code,
    status: Option<String>,
}

#[test]
fn every_code_stands_in_a_table() {
    let told = told();
    let untold: Vec<_> = Code::ALL.iter().filter(|code| told.iter().all(|told| told.code != **code)).collect();
    assert!(untold.is_empty(), "no table with a column `code` in docs/*.md has {untold:?}");
}

#[test]
fn a_code_stands_beside_the_status_that_it_has() {
    for Told { code, status: said } in told() {
        let is = status(code);
        assert!(said.is_none_or(|said| said.split(", ").any(|said| said == is.as_str())), "`{code}` is {is}");
    }
}

fn told() -> Vec<Told> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut told = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            read(&fs::read_to_string(path).unwrap(), &mut told);
        }
    }
    told
}

/// Reads the tables of a page that have a column `code`.
fn read(page: &str, told: &mut Vec<Told>) {
    let mut head: Vec<&str> = Vec::new();
    for line in page.lines() {
        let Some(row) = line.strip_prefix('|') else {
            head.clear();
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if head.is_empty() {
            head = cells;
            continue;
        }
        let cell = |of: &str| head.iter().position(|name| *name == of).and_then(|at| cells.get(at).copied());
        let (codes, status) = (cell("code").unwrap_or_default(), cell("status"));
        let named = Code::ALL.iter().filter(|code| codes.contains(&format!("`{code}`")));
        told.extend(named.map(|code| Told { code: *code, status: status.map(str::to_owned) }));
    }
}
