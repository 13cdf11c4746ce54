//! `extends`, the operator's folder, and definitions on top of others.

use super::{Catalogue, GOOD, Trust, load, name, shown, with};
use crate::provider::{Definition, Source};

fn catalogue() -> Catalogue {
    Catalogue::default().with_text(&name("good"), GOOD, Trust::Normal).unwrap()
}

fn child(catalogue: Catalogue, text: &str) -> Result<Definition, Vec<String>> {
    let catalogue = catalogue.with_text(&name("child"), text, Trust::Normal).map_err(|problems| shown(&problems))?;
    Ok(Definition::clone(catalogue.get(&name("child")).unwrap()))
}

#[test]
fn a_definition_builds_on_another() {
    let child = child(catalogue(), "title = \"Child\"\nextends = \"good\"\n[refresh]\nbefore = \"1h\"\n").unwrap();
    assert_eq!((child.title.as_str(), child.refresh.before.as_secs()), ("Child", 3600));
    assert_eq!(child.refresh.rotation, crate::provider::Rotation::Always);
    assert_eq!(child.extends.as_ref().unwrap().as_str(), "good");
}

#[test]
fn scopes_and_identity_are_replaced_as_a_whole() {
    let text = "title = \"Child\"\nextends = \"good\"\nidentity = { static = { id = \"{{field.app_id}}\" } }\n\
                [oauth2]\nscopes = { default = [\"write\"] }\n";
    let child = child(catalogue(), text).unwrap();
    assert_eq!(child.needed_scopes(), ["write"]);
    assert!(matches!(child.identity, crate::provider::Identity::Static(_)));
}

#[test]
fn a_reason_why_there_is_nothing_goes_when_there_is_something() {
    let text = "title = \"Child\"\nextends = \"http_basic\"\nidentity = { static = { id = \"{{field.username}}\" } }\n\
                [proxy]\ncredential_paths = [\"/login\"]\n";
    let child = child(Catalogue::embedded().unwrap(), text).unwrap();
    assert!(matches!(child.identity, crate::provider::Identity::Static(_)));
    assert_eq!(child.proxy.unwrap().credential_paths_none_reason, None);
}

#[test]
fn a_mistake_that_was_inherited_points_into_the_file_that_has_it() {
    let bad = with("pkce = \"required\"", "pkce = \"maybe\"");
    let problems = Catalogue::default().with_text(&name("good"), &bad, Trust::Normal).unwrap_err();
    assert_eq!(shown(&problems), ["good.toml:14:1: oauth2.pkce: \"maybe\" is not one of required, optional, off"]);
    let own = child(catalogue(), "title = \"Child\"\nextends = \"good\"\n[oauth2]\npkce = \"maybe\"\n").unwrap_err();
    assert_eq!(own, ["child.toml:4:1: oauth2.pkce: \"maybe\" is not one of required, optional, off"]);
}

#[test]
fn a_circle_of_extends_is_told() {
    let text = |base: &str| format!("title = \"T\"\nextends = \"{base}\"\n");
    let folder = tempfile::tempdir().unwrap();
    for (file, base) in [("a", "b"), ("b", "c"), ("c", "a")] {
        std::fs::write(folder.path().join(format!("{file}.toml")), text(base)).unwrap();
    }
    let problems = Catalogue::default().with_folder(folder.path(), Trust::Normal).unwrap_err();
    let expected = format!("{}:2:1: extends: goes round in a circle: a -> b -> c -> a", folder.path().join("c.toml").display());
    assert_eq!(problems[2].to_string(), expected);
}

#[test]
fn a_tower_of_definitions_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("d0.toml"), GOOD).unwrap();
    for at in 1..=18 {
        std::fs::write(folder.path().join(format!("d{at}.toml")), format!("extends = \"d{}\"\n", at - 1)).unwrap();
    }
    let problems = Catalogue::default().with_folder(folder.path(), Trust::Normal).unwrap_err();
    assert!(problems.iter().all(|problem| problem.key == "extends"), "{problems:?}");
    assert!(problems[0].message.starts_with("builds on more than 16 definitions"), "{problems:?}");
    for at in 17..=18 {
        std::fs::remove_file(folder.path().join(format!("d{at}.toml"))).unwrap();
    }
    assert_eq!(Catalogue::default().with_folder(folder.path(), Trust::Normal).unwrap().len(), 17);
}

#[test]
fn facts_are_replaced_as_a_whole_and_may_be_inherited() {
    let facts = "\n[facts]\nread = \"2026-11-22\"\nsources = [\"a page\"]\nunverified = [\"identity.query\"]\n";
    let base = with("auth = \"bearer\"", "auth = \"bearer\"\nquery = { a = \"b\" }") + facts;
    let catalogue = Catalogue::default().with_text(&name("good"), &base, Trust::Normal).unwrap();
    // What the facts are about has gone: that is no mistake of the file below.
    let inherited = "title = \"C\"\nextends = \"good\"\nidentity = { static = { id = \"{{field.app_id}}\" } }\n";
    assert_eq!(child(catalogue.clone(), inherited).unwrap().facts.unwrap().sources, ["a page"]);
    let own = "title = \"C\"\nextends = \"good\"\n[facts]\nread = \"2026-11-23\"\nsources = [\"another\"]\n";
    let own = child(catalogue, own).unwrap().facts.unwrap();
    assert_eq!((own.read.as_str(), own.unverified.len()), ("2026-11-23", 0));
}

#[test]
fn a_base_that_is_not_there_is_told() {
    let problems = child(catalogue(), "title = \"Child\"\nextends = \"god\"\n").unwrap_err();
    assert_eq!(problems, ["child.toml:2:1: extends: there is no definition \"god\" to build on"]);
    let problems = child(catalogue(), "title = \"Child\"\nextends = \"../good\"\n").unwrap_err();
    assert_eq!(problems, ["child.toml:2:1: extends: there is no definition \"../good\" to build on"]);
    let problems = child(catalogue(), "title = \"Child\"\nextends = \"child\"\n").unwrap_err();
    assert_eq!(problems, ["child.toml:2:1: extends: there is no definition \"child\" to build on"]);
}

#[test]
fn a_folder_covers_what_is_built_in_and_may_extend_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("facebook.toml"), "extends = \"facebook\"\napi_version = \"v24.0\"\n").unwrap();
    std::fs::write(folder.path().join("mine.toml"), GOOD).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not a definition").unwrap();
    std::fs::write(folder.path().join(".hidden.toml"), "not = [a definition").unwrap();
    let catalogue = Catalogue::embedded().unwrap().with_folder(folder.path(), Trust::Normal).unwrap();
    let facebook = catalogue.get(&name("facebook")).unwrap();
    assert_eq!((facebook.title.as_str(), facebook.api_version.as_deref()), ("Facebook Pages", Some("v24.0")));
    assert_eq!(facebook.source, Source::File(folder.path().join("facebook.toml")));
    // What builds on it follows.
    assert_eq!(catalogue.get(&name("instagram_fb")).unwrap().api_version.as_deref(), Some("v24.0"));
    assert_eq!(catalogue.len(), Catalogue::embedded().unwrap().len() + 1);
    assert!(catalogue.get(&name("mine")).is_some());
}

#[test]
fn one_bad_file_in_a_folder_is_told_and_nothing_loads() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.toml"), GOOD).unwrap();
    std::fs::write(folder.path().join("B!.toml"), GOOD).unwrap();
    let problems = Catalogue::default().with_folder(folder.path(), Trust::Normal).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("B!.toml: a provider's name is"), "{problems:?}");
    assert!(Catalogue::default().with_folder(&folder.path().join("missing"), Trust::Normal).is_err());
}

#[test]
fn a_file_can_be_checked_without_being_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("child.toml");
    std::fs::write(&path, "title = \"Child\"\nextends = \"good\"\n").unwrap();
    let catalogue = catalogue();
    assert_eq!(catalogue.check_file(&path, Trust::Normal).unwrap().title, "Child");
    assert!(catalogue.get(&name("child")).is_none());
    std::fs::write(&path, "title = \"Child\"\nextends = \"good\"\nkolour = 1\n").unwrap();
    assert_eq!(catalogue.check_file(&path, Trust::Normal).unwrap_err().len(), 1);
}

#[test]
fn a_file_that_is_far_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big.toml"), "# ".repeat(200 * 1024)).unwrap();
    let problems = Catalogue::default().with_folder(folder.path(), Trust::Normal).unwrap_err();
    assert!(problems[0].message.contains("larger than"));
}

#[test]
fn a_definition_reads_back_as_json() {
    let json = load(GOOD).to_json().unwrap();
    assert_eq!(json["oauth2"]["pkce"], "required");
    assert_eq!(json["refresh"]["before"], "5m");
    assert_eq!(json["refresh"]["step"]["form"]["grant_type"], "refresh_token");
    assert_eq!(json["fields"][1]["name"], "app_secret");
    assert_eq!(json["proxy"]["credential_paths"][0], "/*/token");
}
