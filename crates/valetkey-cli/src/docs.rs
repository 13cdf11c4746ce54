//! The pages name no command, no route and no file that is not there.
//!
//! Every command line of ours in a code block is parsed by the command line itself. A command between backticks in a
//! sentence may leave required arguments out, but its words have to exist. Every path that begins with `/v1/` has to be a
//! route, with the method in front of it where there is one. A link to another page or file has to lead to it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory as _, error::ErrorKind};

use crate::cli::Cli;

/// What a page says that is not so, and how much of it was checked.
#[derive(Default)]
struct Findings {
    commands: usize,
    routes: usize,
    faults: Vec<String>,
}

#[test]
fn the_pages_name_no_command_no_route_and_no_file_that_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("SECURITY.md")];
    for folder in ["docs", "docs/conformance", "docs/providers", "providers", "examples"] {
        markdown(&root.join(folder), &mut pages);
    }
    let mut findings = Findings::default();
    for page in &pages {
        // Written from the command line itself, with its placeholders.
        if page.ends_with("docs/cli.md") {
            continue;
        }
        let before = findings.faults.len();
        let text = fs::read_to_string(page).unwrap();
        check(&text, &mut findings);
        links(&text, page.parent().unwrap(), &mut findings);
        let name = page.strip_prefix(&root).unwrap_or(page).display().to_string();
        findings.faults[before..].iter_mut().for_each(|fault| *fault = format!("{name}: {fault}"));
    }
    let Findings { commands, routes, faults } = findings;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(commands >= 30 && routes >= 10, "only {commands} commands and {routes} routes were found");
}

#[test]
fn a_page_that_is_wrong_is_caught() {
    let page = "\
Say `valetkey agnet list`, or `valetkey explain`, or `valetkey grant create --for-ever`.

```sh
echo x | valetkey account set reddit --site-account --file - > out   # fine
valetkey account put reddit
valetkey \\
    explain --agent roadie --conection con_x
curl -X POST https://keys.example.org/v1/agents
```

`GET /v1/grants`, `PATCH /v1/grants`, `/v1/grant`, `/api/v1/other`, datamachine/v1/auth, /v1/proxy/reddit/api/v1/x, `/v1/agents/...`.
";
    let mut findings = Findings::default();
    check(page, &mut findings);
    links("[a](../Cargo.toml#x), [b](docs.rs), [c](nothing.md), [d](https://x.example/)", Path::new("src"), &mut findings);
    assert_eq!((findings.commands, findings.routes), (6, 6));
    let begins: Vec<&str> = findings.faults.iter().map(|fault| fault.split(": ").next().unwrap_or_default()).collect();
    let expected = [
        "valetkey agnet list",
        "valetkey grant create --for-ever",
        "valetkey account put reddit",
        "valetkey explain --agent roadie --conection con_x",
        "PATCH /v1/grants",
        "/v1/grant",
        "nothing.md",
    ];
    assert_eq!(begins, expected, "{:#?}", findings.faults);
}

fn markdown(folder: &Path, pages: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        } else if path.is_dir() && folder.ends_with("examples") {
            // An example has its page in a folder of its own.
            markdown(&path, pages);
        }
    }
}

fn check(page: &str, findings: &mut Findings) {
    let (mut blocks, mut sentences, mut in_block) = (String::new(), String::new(), false);
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let text = if in_block { &mut blocks } else { &mut sentences };
        text.push_str(line);
        text.push('\n');
    }
    for inline in sentences.split('`').skip(1).step_by(2) {
        // What is broken over two lines is one command.
        commands(&inline.replace('\n', " ")).iter().for_each(|words| command(words, true, findings));
    }
    for line in blocks.replace("\\\n", " ").lines() {
        commands(line).iter().for_each(|words| command(words, false, findings));
    }
    routes(page, findings);
}

/// Parses a command, if it is one of ours.
fn command(words: &[String], may_be_short: bool, findings: &mut Findings) {
    // Variables may stand before a command.
    let words: Vec<&str> = words.iter().map(String::as_str).skip_while(|word| word.contains('=')).collect();
    let ours = match words.as_slice() {
        ["valetkey", first, ..] if *first != "..." => words.clone(),
        ["cargo", "run", "--release", "--", rest @ ..] => [&["valetkey"], rest].concat(),
        _ => return,
    };
    findings.commands += 1;
    let Err(error) = Cli::command().try_get_matches_from(&ours) else { return };
    let incomplete = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) || (incomplete && may_be_short) {
        return;
    }
    let why = error.to_string();
    findings.faults.push(format!("{}: {}", ours.join(" "), why.lines().next().unwrap_or_default()));
}

/// The commands on a line of shell, as words. Redirections are left out, and so is everything after a `#`.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let (mut word, mut quote, mut is_target) = (None::<String>, None, false);
    for c in line.chars().chain(['\n']) {
        match c {
            c if quote == Some(c) => quote = None,
            '\'' | '"' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            '#' if quote.is_none() && word.is_none() => break,
            '|' | ';' | '&' | '<' | '>' | ' ' | '\t' | '\n' if quote.is_none() => {
                // What a redirection goes to is no word, and neither is the number before it.
                let is_number = "<>".contains(c) && word.as_ref().is_some_and(|word| word.parse::<u8>().is_ok());
                if let Some(word) = word.take() {
                    let was_target = std::mem::take(&mut is_target);
                    if let Some(words) = all.last_mut().filter(|_| !was_target && !is_number) {
                        words.push(word);
                    }
                }
                is_target |= "<>".contains(c);
                if "|;&".contains(c) {
                    all.push(Vec::new());
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    all
}

/// Looks every path below `/v1/` up among the routes.
fn routes(page: &str, findings: &mut Findings) {
    let separates = |c: char| c.is_whitespace() || "`\"'()|,;<>".contains(c);
    let mut before = "";
    for word in page.split(separates).filter(|word| !word.is_empty()) {
        let method = std::mem::replace(&mut before, word);
        let path = match word.split_once("://") {
            // Ours stand on example.org; others are a provider's.
            Some((_, rest)) => match rest.split_once('/') {
                Some((host, _)) if host.ends_with("example.org") => &rest[host.len()..],
                _ => "",
            },
            None => word,
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = if path.ends_with("...") { path } else { path.trim_end_matches(['.', ':']) };
        // `GET /v1/**` is a pattern of a grant, for a provider's paths.
        if !path.starts_with("/v1/") || path == "/v1/..." || path.contains('*') {
            continue;
        }
        findings.routes += 1;
        let method = ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().find(|known| *known == method);
        let is_there = valetkey_http::ROUTES.iter().any(|route| {
            let takes = method.is_none_or(|method| route.method == "any" || route.method.eq_ignore_ascii_case(method));
            takes && fits(route.path, path)
        });
        if !is_there {
            findings.faults.push(format!("{}: there is no such route", [method.unwrap_or_default(), path].join(" ").trim()));
        }
    }
}

/// Looks for every file that a page links to.
fn links(page: &str, folder: &Path, findings: &mut Findings) {
    for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let file = target.split('#').next().unwrap_or_default();
        if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
            findings.faults.push(format!("{file}: there is no such file"));
        }
    }
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(rest), Some(_)) if rest.starts_with("{*") => return true,
            // Every route that begins so.
            (Some(_), Some("...")) => return true,
            (Some(any), Some(word)) if any.starts_with('{') && !word.is_empty() => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}
