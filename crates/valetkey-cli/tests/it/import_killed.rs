//! An import that is killed: all of it is there afterwards, or nothing.

use std::{
    collections::BTreeSet,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    on_each_home,
    support::{Home, command},
};

/// How many people's accounts are brought.
const PEOPLE: usize = 2_000;

on_each_home! {
    async fn an_import_that_is_killed_leaves_nothing_behind(home: Home) {
        drop(home.serve().await);
        let option = home.folder().join("auth_data.json");
        std::fs::write(&option, option_of(PEOPLE).to_string()).unwrap();
        let words = ["import", "data-machine", "--auth-data", option.to_str().unwrap()];
        assert_eq!(accounts(&home), 0);
        let before = files(&home);
        let (mut killed, mut wait) = (0, Duration::from_millis(40));
        loop {
            let ended_itself = killed_after(&home, &words, wait);
            let there = accounts(&home);
            if there == PEOPLE {
                break;
            }
            // Not a part of them, and nothing that the next start would have to clean up.
            assert_eq!((there, ended_itself), (0, false), "killed after {wait:?}");
            assert_eq!(files(&home), before, "killed after {wait:?}");
            killed += 1;
            wait = wait * 3 / 2;
            assert!(wait < Duration::from_secs(100), "the import does not end");
        }
        assert!(killed >= 3, "it was over before it could be killed");
        // Once more, and it is as if it had never been tried.
        let again = home.json(&words);
        assert_eq!(again["report"]["counts"]["account"], json!({ "created": 0, "unchanged": PEOPLE, "replaced": 0, "skipped": 0 }));
    }
}

/// Runs a command and kills it after a while; whether it was over before.
fn killed_after(home: &Home, words: &[&str], wait: Duration) -> bool {
    let mut command = command(home.variables(), words);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while began.elapsed() < wait {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

fn accounts(home: &Home) -> usize {
    home.json(&["connection", "list"])["connections"].as_array().unwrap().len()
}

/// The names in the data folder, besides what SQLite itself keeps there; nothing on PostgreSQL.
fn files(home: &Home) -> BTreeSet<String> {
    let folder = home.folder().join("data");
    let names = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm")).collect()
}

/// An option with an account for each of so many people, nothing of it sealed.
fn option_of(people: usize) -> Value {
    let account = |id: usize| json!({ "account": { "access_token": format!("t-{id}"), "username": format!("person_{id}") } });
    let principals: serde_json::Map<_, _> = (1..=people).map(|id| (format!("user:{id}"), account(id))).collect();
    json!({ "reddit": { "principals": principals } })
}
