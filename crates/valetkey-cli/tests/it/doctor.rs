//! `valetkey doctor`.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::{
    on_each_home,
    support::{Home, World},
};

/// What was found about one thing: its state, and what to do.
fn finding<'a>(report: &'a Value, what: &str) -> (&'a str, &'a str, &'a str) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("no {what} in {report}"));
    let text = |name: &str| found[name].as_str().unwrap_or_default();
    (text("state"), text("found"), text("todo"))
}

fn report(home: &Home, code: i32) -> Value {
    let ran = home.cli(&["doctor", "--json"]);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

on_each_home! {
    async fn a_healthy_installation_has_no_problem_with_and_without_a_server(home: Home) {
        let world = World::around(home).await;
        let home = &world.home;
        let server = home.serve().await;
        for _ in 0..2 {
            let report = report(home, 0);
            assert_eq!(report["ok"], true, "{report}");
            assert!(finding(&report, "definitions").1.contains("44 built in, 1 more"), "{report}");
            assert!(finding(&report, "private addresses").1.contains(&world.lab.addr().to_string()), "{report}");
            assert_eq!(finding(&report, "plain http").0, "note", "{report}");
            assert_eq!(finding(&report, "clock").0, "ok", "{report}");
            assert!(finding(&report, "audit").1.contains("wait to be written"), "{report}");
            server.signal("TERM");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        let said = home.cli(&["doctor"]).ok();
        assert!(said.contains("ok       root key: ") && !said.contains("PROBLEM"), "{said}");
    }

    async fn a_root_key_that_others_can_read_is_a_problem_with_its_remedy(home: Home) {
        home.serve().await.end().await;
        std::fs::set_permissions(home.root_key(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let report = report(&home, 1);
        let (state, found, _) = finding(&report, "root key");
        assert!(state == "problem" && found.contains("chmod 600"), "{report}");
    }
}

#[tokio::test]
async fn an_open_folder_a_wrong_definition_and_an_empty_place_are_told() {
    let mut home = Home::sqlite();
    let empty = report(&home, 1);
    assert!(finding(&empty, "data").2.contains("valetkey serve --data"), "{empty}");
    assert_eq!(finding(&empty, "root key").0, "note");

    let _server = home.serve().await;
    std::fs::set_permissions(home.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = report(&home, 1);
    assert_eq!(finding(&open, "data").2, format!("chmod 700 {}", home.data().display()));
    assert!(finding(&open, "broker").1.starts_with("process "), "{open}");
    assert_eq!(finding(&open, "public URL").0, "note", "loopback only: {open}");

    let providers = home.folder().join("providers");
    std::fs::create_dir(&providers).unwrap();
    std::fs::write(providers.join("mine.toml"), "extends = \"nobody\"\n").unwrap();
    home.set("VALETKEY_PROVIDERS", providers.to_str().unwrap());
    let wrong = report(&home, 1);
    let (state, found, todo) = finding(&wrong, "definitions");
    assert!(state == "problem" && found.contains("mine.toml:1:1") && todo.contains("provider check"), "{wrong}");
}
