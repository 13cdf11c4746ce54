//! The pages about providers say what the definitions and the loader say. `UPDATE_GOLDEN=1` writes their tables anew; what
//! stands around those is for people to keep true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use super::{Catalogue, MISSION, Trust, load_as, name, shown};
use crate::provider::{Definition, FieldLevel, Flow, Identity, Kind, RefreshStrategy, answer::OUT_NAMES, load::is_name};

fn docs(page: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page)
}

fn read(page: &str) -> String {
    fs::read_to_string(docs(page)).unwrap_or_else(|error| panic!("docs/{page}: {error}"))
}

/// Compares the first table of a page, or writes it where that is asked for.
#[track_caller]
fn first_table_is(page: &str, table: &str) {
    let text = read(page);
    let start = text.find("\n|").unwrap_or_else(|| panic!("docs/{page} has no table")) + 1;
    let end = text[start..].find("\n\n").map_or(text.len(), |at| start + at + 1);
    let written = format!("{}{table}{}", &text[..start], &text[end..]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(docs(page), &written).unwrap();
    }
    assert!(written == text, "docs/{page} differs from the definitions: UPDATE_GOLDEN=1 cargo test -p valetkey documented");
}

fn code<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn unverified(definition: &Definition) -> String {
    code(definition.facts.iter().flat_map(|facts| &facts.unverified))
}

/// The table at the head of a provider's page.
fn table(definition: &Definition) -> String {
    let by_code = definition.oauth2.as_ref().is_some_and(|oauth2| oauth2.flows.contains(&Flow::Code));
    let fields = |level| code(definition.fields_of(level).map(|field| &field.name));
    let mut rows = vec![("name", format!("`{}`", definition.name))];
    rows.extend(definition.setup_url.iter().map(|url| ("register at", format!("<{url}>"))));
    if by_code || definition.kind == Kind::OAuth1 {
        rows.push(("redirect URI", format!("`https://keys.example.org/callback/{}`", definition.name)));
    }
    if definition.oauth2.is_some() {
        rows.push(("scopes", code(&definition.needed_scopes())));
    }
    rows.push(("of your app", fields(FieldLevel::App)));
    rows.push(("of each account", fields(FieldLevel::Connection)));
    rows.push(("unverified", unverified(definition)));
    let rows: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    format!("| | |\n|---|---|\n{rows}")
}

#[test]
fn the_page_of_a_provider_says_what_its_definition_says() {
    let all = Catalogue::embedded().unwrap();
    for page in fs::read_dir(docs("providers")).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        // What is about all of them.
        let Some(provider) = page.strip_suffix(".md").filter(|page| !matches!(*page, "README" | "grant")) else { continue };
        let definition = all.get(&name(provider)).unwrap_or_else(|| panic!("docs/providers/{page} is about no definition"));
        first_table_is(&format!("providers/{page}"), &table(definition));
        let text = read(&format!("providers/{page}"));
        let says = |command: &str| text.lines().any(|line| line.trim_start().starts_with(&format!("{command} {provider} ")));
        assert!(says("valetkey connect") || says("valetkey auth connect"), "{page} does not say how to connect");
        let has_app = definition.fields_of(FieldLevel::App).next().is_some();
        assert!(!has_app || says("valetkey provider configure"), "{page} does not say how to tell of the app");
    }
}

/// What people look for first, beside those of the mission.
const LOOKED_FOR: [&str; 18] = [
    "github",
    "github_app",
    "google_service_account",
    "slack",
    "gmail",
    "google_calendar",
    "google_drive",
    "outlook",
    "notion",
    "linear",
    "hubspot",
    "stripe",
    "zoom",
    "dropbox",
    "discord",
    "gitlab",
    "jira",
    "airtable",
];

#[test]
fn every_provider_that_people_look_for_has_a_page() {
    for provider in MISSION.iter().copied().chain(LOOKED_FOR) {
        assert!(docs(&format!("providers/{provider}.md")).is_file(), "{provider}");
    }
}

#[test]
fn the_page_of_all_providers_names_the_sources_of_each() {
    let row = |definition: &Definition| {
        let page = format!("{}.md", definition.name);
        let name = match docs("providers").join(&page).is_file() {
            true => format!("[{}]({page})", definition.name),
            false => definition.name.to_string(),
        };
        let facts = definition.facts.as_ref().unwrap();
        let shown = |source: &String| if source.starts_with("https://") { format!("<{source}>") } else { source.clone() };
        let (sources, open) = (facts.sources.iter().map(shown).collect::<Vec<_>>().join(", "), unverified(definition));
        format!("| {name} | {} | {} | {} | {sources} | {open} |\n", definition.title, definition.kind, facts.read)
    };
    let all = Catalogue::embedded().unwrap();
    let rows: String = all.iter().map(|definition| row(definition)).collect();
    let heads = "| name | title | kind | read on | sources | unverified |\n|---|---|---|---|---|---|\n";
    first_table_is("providers/README.md", &format!("{heads}{rows}"));
}

/// The sources that are known by a name, each with the sections that it speaks of; nothing where it may speak of all.
fn named_sources() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let page = read("providers/README.md");
    let section = page.split("\n## Sources\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    // Behind the heads and the row about addresses.
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, speaks] = cells[..] else { panic!("{line}") };
        let sections: BTreeSet<String> = speaks.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.to_owned(), (speaks != "everything").then_some(sections))
    };
    rows.map(row).collect()
}

/// The sections of a definition that say something of the provider.
fn sections(definition: &Definition) -> Vec<&'static str> {
    let there = [
        ("oauth2", definition.oauth2.is_some()),
        ("oauth1", definition.oauth1.is_some()),
        ("jwt", definition.jwt.is_some()),
        ("mint", definition.mint.is_some()),
        ("session", definition.session.is_some()),
        ("mail", definition.mail.is_some()),
        ("refresh", definition.refresh.strategy != RefreshStrategy::None),
        ("revoke", definition.revoke.is_some()),
        ("identity", matches!(definition.identity, Identity::Step(_))),
        ("proxy", definition.proxy.is_some()),
    ];
    there.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// `the provider's documentation` is a word that nobody can look up, and a site's front page says nothing of it.
#[test]
fn every_source_is_a_page_or_a_name_whose_place_is_told() {
    let named = named_sources();
    assert!(named.len() > 8, "{named:?}");
    for definition in Catalogue::embedded().unwrap().iter() {
        for source in &definition.facts.as_ref().unwrap().sources {
            let page = source.strip_prefix("https://").and_then(|rest| rest.split_once('/'));
            let is_page = page.is_some_and(|(host, path)| host.contains('.') && !path.is_empty() && !source.contains(' '));
            assert!(is_page || named.contains_key(source), "{}: {source:?}", definition.name);
        }
    }
}

#[test]
fn what_fewer_than_two_sources_speak_of_is_marked_unverified() {
    let named = named_sources();
    let speaks = |source: &String, section: &str| match named.get(source) {
        Some(Some(sections)) => sections.contains(section),
        Some(None) | None => true,
    };
    for definition in Catalogue::embedded().unwrap().iter() {
        let facts = definition.facts.as_ref().unwrap();
        let is_marked = |key: &str| facts.unverified.iter().any(|marked| marked == key);
        for section in sections(definition) {
            let count = facts.sources.iter().filter(|source| speaks(source, section)).count();
            assert!(count > 1 || is_marked(section), "{}: {count} of {section}", definition.name);
        }
        let closes = definition.proxy.as_ref().is_some_and(|proxy| !proxy.credential_paths.is_empty());
        assert!(!closes || is_marked("proxy") || is_marked("proxy.credential_paths"), "{}", definition.name);
    }
}

/// Every key that the loader knows, read out of its own text: what stands in its lists of texts.
fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/provider")).unwrap() {
        let path = file.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("load") {
            continue;
        }
        let source = fs::read_to_string(path).unwrap();
        for list in source.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
            // Two of them are names of headers.
            if list.trim_start().starts_with('"') && !list.contains("\"connection\"") {
                keys.extend(list.split('"').skip(1).step_by(2).filter(|word| is_name(word)).map(str::to_owned));
            }
        }
    }
    keys
}

/// The words of the closed lists.
fn words() -> BTreeSet<String> {
    let lines = include_str!("../words.rs").lines().filter_map(|line| line.trim().strip_suffix("\","));
    lines.filter_map(|line| line.split_once(" = \"").map(|(_, word)| word.to_owned())).collect()
}

#[test]
fn every_key_and_every_word_of_a_definition_is_explained() {
    let page = read("writing-a-provider.md");
    let (keys, words) = (keys(), words());
    assert!(keys.len() > 100 && words.len() > 40 && keys.contains("client_id_param") && words.contains("bearer_refresh"));
    let names: Vec<String> = OUT_NAMES.iter().map(|name| (*name).to_owned()).collect();
    let missing: Vec<_> = keys.iter().chain(&words).chain(&names).filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "docs/writing-a-provider.md does not explain {missing:?}");
}

#[test]
fn every_whole_example_on_how_to_write_one_loads() {
    let page = read("writing-a-provider.md");
    let blocks: Vec<&str> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let whole: Vec<&&str> = blocks.iter().filter(|block| block.starts_with("title =")).collect();
    assert!(whole.len() >= 8, "{} examples", whole.len());
    for block in whole {
        let loaded = load_as(block, Trust::Normal);
        assert!(loaded.is_ok(), "{}\n{block}", shown(&loaded.unwrap_err()).join("\n"));
    }
}
