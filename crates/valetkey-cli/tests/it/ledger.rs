//! `valetkey audit`: what an auditor does, with the real binary and somebody at the database.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::{
    on_each_home,
    scene::{On, Scene, eventually, on_each, reveal},
    support::{Home, call, command, text},
};

on_each_home! {
    async fn an_edited_row_and_a_cut_off_end_are_found_and_told_by_site_writer_and_place(home: Home) {
        let server = home.serve().await;
        let key = text(&home.json(&["key", "create", "--label", "k", "--scope", "agents"]), "key");
        for slug in ["a", "b", "c", "d", "e"] {
            // By the server, so that they are in one chain.
            call(&server, Method::POST, "/v1/agents", &key, Some(&json!({ "slug": slug }))).await.ok();
        }
        home.json(&["site", "create", "other"]);
        let head = home.folder().join("head.json");
        std::fs::write(&head, home.cli(&["audit", "head"]).ok()).unwrap();
        let head = head.to_str().unwrap();
        let clean = home.json(&["audit", "verify"]);
        let sites: Vec<_> = clean["sites"].as_array().unwrap().iter().map(|site| site["site"].as_str().unwrap()).collect();
        assert_eq!((&clean["ok"], sites), (&Value::Bool(true), vec!["default", "other"]));
        assert!(home.cli(&["audit", "verify", "--head", head]).ok().contains("faults  0"));

        assert_eq!(server.end().await, Some(0));
        let (writer, seq) = newest(&home, "agent.create").await;
        attack(&home, &format!("UPDATE audit SET facts = '{{}}' WHERE writer = '{writer}' AND seq = {}", seq - 1)).await;
        let found = home.cli(&["audit", "verify"]);
        let line = found.stdout.lines().find(|line| line.contains(&writer)).unwrap_or_else(|| panic!("{found:?}")).to_owned();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!((words[0], words[2], words[4]), ("default", (seq - 1).to_string().as_str(), "changed"));
        found.failed(1);

        attack(&home, &format!("DELETE FROM audit WHERE writer = '{writer}' AND seq >= {}", seq - 1)).await;
        let report = home.cli(&["audit", "verify", "--head", head, "--json"]);
        let fault = serde_json::from_str::<Value>(&report.stdout).unwrap()["sites"][0]["faults"][0].clone();
        assert_eq!((&fault["what"], &fault["writer"], &fault["seq"]), (&"cut_off".into(), &writer.as_str().into(), &(seq - 1).into()));
        report.failed(1);
        std::fs::write(home.folder().join("odd.json"), "{}").unwrap();
        home.cli(&["audit", "verify", "--head", home.folder().join("odd.json").to_str().unwrap()]).failed(1);
    }

    async fn an_export_goes_on_where_the_one_before_ended(home: Home) {
        let _server = home.serve().await;
        home.json(&["agent", "create", "a"]);
        let (first, second) = (home.folder().join("first.json"), home.folder().join("second.json"));
        let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
        let all = rows(&home.cli(&["audit", "export", "--head", first]).ok());
        assert!(all.iter().any(|row| row["action"] == "agent.create") && all.iter().all(|row| row["chain"].is_string()));
        home.json(&["agent", "create", "b"]);
        let more = rows(&home.cli(&["audit", "export", "--after", first, "--head", second]).ok());
        assert_eq!(more.iter().filter(|row| row["action"] == "agent.create").count(), 1);
        assert!(more.iter().all(|row| !all.contains(row)));
        // A head that is there is not written over.
        home.cli(&["audit", "export", "--head", second]).failed(1);
    }

    async fn a_tail_shows_what_comes(home: Home) {
        let _server = home.serve().await;
        home.json(&["agent", "create", "before"]);
        let mut tail = command(home.variables(), &["audit", "tail", "--json", "--lines", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(tail.stdout.take().unwrap());
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str::<Value>(&line).unwrap());
            }
        });
        let next = || lines.recv_timeout(Duration::from_secs(60)).expect("the tail shows nothing");
        assert_eq!(next()["action"], "agent.create");
        home.json(&["agent", "create", "after"]);
        let shown = next();
        tail.kill().unwrap();
        tail.wait().unwrap();
        assert_eq!((&shown["action"], &shown["facts"]["slug"]), (&"agent.create".into(), &"after".into()));
    }
}

on_each! {
    /// Decisions 9, `--audit strict`: the answer waits for the commit that holds its row, so whatever becomes of the process, every
    /// token that was handed out is in the ledger.
    async fn what_was_answered_under_a_strict_audit_is_recorded_though_the_server_is_killed(on: On) {
        const CALLERS: usize = 8;
        let mut scene = Scene::usual(on).await;
        let usable = scene.usable("lab").await;
        for server in std::mem::take(&mut scene.replicas) {
            assert_eq!(server.end().await, Some(0));
        }
        let strict = scene.spawn(&scene.public_address(), &[("VALETKEY_AUDIT", "strict")]).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (http, url, usable, answered) = (scene.http.clone(), strict.url(), usable.clone(), Arc::clone(&answered));
                tokio::spawn(async move {
                    // Not so many that one page of the ledger does not hold them.
                    for _ in 0..60 {
                        match reveal(&http, &url, &usable).await {
                            Ok(answer) => assert!(!answer.access_token().is_empty()),
                            // It is dead.
                            Err(_) => break,
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        eventually(|| async { (answered.load(Ordering::SeqCst) >= 100).then_some(()) }).await;
        strict.kill();
        for caller in callers {
            caller.await.unwrap();
        }
        let again = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.push(again);
        let answered = answered.load(Ordering::SeqCst);
        let recorded = scene.events(&usable.connection, "connection.reveal").await.len();
        assert!((answered..=answered + CALLERS).contains(&recorded), "{recorded} rows of {answered} answers");
    }
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writer and place of the newest event of an action.
async fn newest(home: &Home, action: &str) -> (String, i64) {
    let listed = home.json(&["audit", "list", "--limit", "1000"]);
    let event = listed["events"].as_array().unwrap().iter().find(|event| event["action"] == action).unwrap().clone();
    (event["writer"].as_str().unwrap().to_owned(), event["seq"].as_i64().unwrap())
}

/// What somebody does who has the database and not the broker.
async fn attack(home: &Home, sql: &str) {
    let database = home.variables().iter().find(|(name, _)| name == "VALETKEY_DATABASE").map(|(_, url)| url.clone());
    let changed = match database {
        Some(url) => {
            let mut database = sqlx::PgConnection::connect(&url).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut database).await.unwrap().rows_affected()
        }
        None => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.data().join("valetkey.db"));
            let mut database = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut database).await.unwrap();
            database.close().await.unwrap();
            done.rows_affected()
        }
    };
    assert!(changed > 0, "{sql}");
}
