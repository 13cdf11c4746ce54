//! `valetkey keys`.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    on_each_home,
    support::{Home, Server, World, call, text},
};

#[test]
fn a_generated_key_goes_into_a_private_file_and_replaces_nothing() {
    let home = Home::sqlite();
    let file = home.folder().join("new.key");
    let said = home.cli(&["keys", "generate", "--file", file.to_str().unwrap()]).ok();
    assert!(said.contains("apart from the database"), "{said}");
    let line = std::fs::read_to_string(&file).unwrap();
    assert!(line.starts_with("vkroot1_") && !said.contains(line.trim()));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    home.cli(&["keys", "generate", "--file", file.to_str().unwrap()]).failed(1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
    let printed = home.cli(&["keys", "generate"]).ok();
    assert!(printed.starts_with("vkroot1_") && printed.lines().count() == 1);
}

/// Somebody who reads and writes accounts all the time, and counts what was not answered as it should be.
struct Load {
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<(u64, Vec<String>)>>,
}

impl Load {
    const ACCOUNTS: usize = 40;

    fn path(account: usize) -> String {
        format!("/v1/providers/lab/accounts/users/{}", account + 1)
    }

    async fn begin(server: &Arc<Server>, key: &str) -> Self {
        for account in 0..Self::ACCOUNTS {
            let body = json!({ "account": { "access_token": format!("token-{account}-0") } });
            call(server, Method::PUT, &Self::path(account), key, Some(&body)).await.ok();
        }
        let stop = CancellationToken::new();
        let tasks = (0..4).map(|worker| tokio::spawn(work(Arc::clone(server), key.to_owned(), worker, stop.clone()))).collect();
        Self { stop, tasks }
    }

    /// How many answers there were, and the wrong ones among them.
    async fn end(self) -> (u64, Vec<String>) {
        self.stop.cancel();
        let (mut answers, mut wrong) = (0, Vec::new());
        for task in self.tasks {
            let (more, faults) = task.await.unwrap();
            answers += more;
            wrong.extend(faults);
        }
        (answers, wrong)
    }
}

/// Each worker has accounts of its own, so that it knows what it must read.
async fn work(server: Arc<Server>, key: String, worker: usize, stop: CancellationToken) -> (u64, Vec<String>) {
    let (mut answers, mut wrong, mut round) = (0, Vec::new(), 0);
    while !stop.is_cancelled() {
        for account in (worker..Load::ACCOUNTS).step_by(4) {
            let path = Load::path(account);
            let read = call(&server, Method::GET, &format!("{path}?reveal=true"), &key, None).await;
            let expected = format!("token-{account}-{round}");
            if read.body["account"]["access_token"] != expected.as_str() {
                wrong.push(format!("{path} is not {expected}: {read:?}"));
            }
            let body = json!({ "account": { "access_token": format!("token-{account}-{}", round + 1) } });
            let write = call(&server, Method::PUT, &format!("{path}?replace=true"), &key, Some(&body)).await;
            if !write.status.is_success() {
                wrong.push(format!("{write:?}"));
            }
            answers += 2;
        }
        round += 1;
    }
    (answers, wrong)
}

on_each_home! {
    async fn data_keys_rotate_under_load_and_nothing_old_is_left(home: Home) {
        let world = World::around(home).await;
        let home = &world.home;
        let server = Arc::new(home.serve().await);
        let key = world.key("accounts:read,accounts:write,accounts:reveal", "any").key;
        let load = Load::begin(&server, &key).await;
        let rotated = home.json(&["keys", "rotate", "--verify"]);
        assert!(rotated["resealed"].as_u64() >= Some(1) && rotated["new_keys"].as_u64() >= Some(1), "{rotated}");
        assert_eq!((rotated["verified"]["stale"].as_u64(), rotated["verified"]["unreadable"]["count"].as_u64()), (Some(0), Some(0)));
        let one = home.json(&["keys", "rotate", "--provider", "lab"]);
        assert_eq!(one["new_keys"], 1, "{one}");
        let (answers, wrong) = load.end().await;
        assert!(answers > 100 && wrong.is_empty(), "{answers} answers, wrong: {wrong:?}");
        let status = home.json(&["keys", "status"]);
        let lab: Vec<_> = status["keys"].as_array().unwrap().iter().filter(|key| key["provider"] == "lab").collect();
        assert_eq!(lab.len(), 3, "{status}");
        assert!(lab[..2].iter().all(|key| key["retired_at"].is_string()) && lab[2]["retired_at"].is_null(), "{status}");
        assert!(home.cli(&["keys", "verify"]).ok().contains("values opened"));
        assert!(!server.log().contains("panicked"), "{}", server.log());
    }

    async fn the_root_key_changes_while_the_server_runs(home: Home) {
        let world = World::around(home).await;
        let home = &world.home;
        let server = Arc::new(home.serve().await);
        let key = world.key("accounts:read,accounts:write,accounts:reveal", "any").key;
        let old = text(&home.json(&["keys", "status"]), "current");
        let load = Load::begin(&server, &key).await;
        let new = text(&home.json(&["keys", "new-root"]), "root");
        assert_ne!(old, new);
        home.cli(&["keys", "drop-old-roots"]).failed(1);
        let reloaded = home.cli(&["keys", "reload"]);
        match home.variables().iter().any(|(name, _)| name == "VALETKEY_DATABASE") {
            // That command is a process of its own there.
            true => assert!(reloaded.failed(2).contains("SIGHUP")),
            false => drop(reloaded.ok()),
        }
        server.signal("HUP");
        server.logged("the root keys were read again").await;
        let moved = home.json(&["keys", "rewrap"]);
        assert!(moved["moved"].as_u64() >= Some(2), "{moved}");
        assert_eq!(home.json(&["keys", "drop-old-roots"])["removed"], json!([old]));
        assert_eq!(home.json(&["keys", "status"])["roots"], json!([new]), "the old one is out of memory, too");
        let report = home.json(&["keys", "verify"]);
        assert_eq!(report["old_roots"], 0, "{report}");
        let (answers, wrong) = load.end().await;
        assert!(answers > 20 && wrong.is_empty(), "{answers} answers, wrong: {wrong:?}");
        drop(server);
        let again = home.serve().await;
        assert_eq!(home.json(&["keys", "status"])["roots"], json!([new]));
        call(&again, Method::GET, &format!("{}?reveal=true", Load::path(0)), &key, None).await.ok();
    }

    async fn a_root_key_file_that_went_wrong_leaves_the_running_server_its_keys(home: Home) {
        let server = home.serve().await;
        std::fs::write(home.root_key(), "vkroot1_canary-no-key\n").unwrap();
        server.signal("HUP");
        let log = server.logged("could not be read again").await;
        assert!(!log.contains("canary"), "{log}");
        assert_eq!(server.http().get(server.at("/readyz")).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn verify_fails_where_a_value_does_not_open() {
    let home = Home::postgres().await;
    let world = World::around(home).await;
    let home = &world.home;
    let server = home.serve().await;
    world.configure();
    drop(server);
    let url = home.variables().iter().find(|(name, _)| name == "VALETKEY_DATABASE").unwrap().1.clone();
    let db = valetkey::db::testing::open_postgres(&url).await;
    sqlx::query("UPDATE app_configs SET sealed = sealed || '\\x00'::bytea").execute(db.postgres().unwrap()).await.unwrap();
    let ran = home.cli(&["keys", "verify", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (report["unreadable"]["count"].as_u64(), report["unreadable"]["rows"][0]["table"].as_str()),
        (Some(1), Some("app_configs"))
    );
}
