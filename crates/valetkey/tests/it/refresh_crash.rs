//! A process that dies or stands still in the middle of a refresh: a real one, with a real SIGKILL or SIGSTOP.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use rustix::process::{Pid, Signal, kill_process};
use valetkey::{
    Code,
    clock::Clock,
    connection::Status,
    db::{Db, DbConfig, testing},
    id::ConnectionId,
    refresh::{Served, Settings, crash},
    secret::Secret,
};

use crate::town::{Account, Replica, START, Town, access, quick, reauth, spends};

/// A test binary has no way in but its tests. This one begins as the process that it and its neighbours start, where it is told to.
const ENTRY: &str = "refresh_crash::a_paused_process_says_where_it_is_and_goes_on";
/// By this variable: the connection that the process is to serve.
const CONNECTION: &str = "TEST_CONNECTION";

/// The process that dies: it serves one account, and is told everything by its environment.
async fn child(connection: String) {
    let told = |name: &str| std::env::var(name).unwrap();
    let db = Db::open(&place(&told("TEST_DATABASE")).config()).await.unwrap();
    let settings = Settings { deadline: told("TEST_DEADLINE_MS").parse().map(Duration::from_millis).unwrap(), ..quick() };
    let roots = Secret::new(told("TEST_ROOTS"));
    let (definition, lab) = (told("TEST_DEFINITION"), told("TEST_LAB"));
    let replica = Replica::build(&db, settings, &definition, &lab, &roots, Clock::manual(START)).await;
    let id: ConnectionId = connection.parse().unwrap();
    let served = patiently(&replica, &id).await;
    eprintln!("served {}", served.is_ok());
}

/// Asks until something comes of it.
async fn patiently(replica: &Replica, id: &ConnectionId) -> valetkey::Result<Served> {
    loop {
        match replica.serve(id).await {
            Err(error) if error.code() == Code::RefreshPending => tokio::time::sleep(Duration::from_millis(50)).await,
            outcome => return outcome,
        }
    }
}

/// R35: what a process that is killed at each point leaves behind, at a provider that kills a family for a replay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_point_costs_at_most_two_spends_sqlite() {
    killed_at_any_point(true).await;
}

/// R35.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_point_costs_at_most_two_spends_postgres() {
    killed_at_any_point(false).await;
}

async fn killed_at_any_point(on_sqlite: bool) {
    for (point, spent_by_the_dead, usable) in [
        (crash::BEFORE_LEASE, 0, true),
        (crash::AFTER_JOURNAL, 0, true),
        (crash::AFTER_SEND, 1, false),
        (crash::AFTER_ANSWER, 1, false),
        (crash::AFTER_COMMIT, 1, true),
    ] {
        for grace in [false, true] {
            let options = DefinitionOptions {
                replay_kills_family: true,
                grace: grace.then(|| "1h".to_owned()),
                ..DefinitionOptions::default()
            };
            let folder = tempfile::tempdir().unwrap();
            let database = fresh(on_sqlite, &folder).await;
            let database = database.as_str();
            let town = Town::with(&options).await;
            town.lab_settings(|settings| (settings.reuse_kills_family, settings.grace) = (true, if grace { 3600 } else { 0 }));
            let here = format!("{point}, grace: {grace}");
            let (account, roots) = {
                let (db, replica) = open(database, &town).await;
                let account = replica.expired(&town, &format!("{point}-{grace}")).await;
                close(db, replica).await;
                (account, town.roots.clone())
            };
            let child = start(database, &town, &roots, &account, Some(point));
            assert_eq!(ended(child).await, Some(9), "{here}");
            assert_eq!(spends(&town, &account), spent_by_the_dead, "{here}");

            let (db, replica) = open(database, &town).await;
            let outcome = patiently(&replica, &account.id).await;
            if usable || grace {
                assert!(town.lab.is_live(&access(&outcome.unwrap())), "{here}");
                assert_eq!(replica.stored(&account.id).await.connection.version, 2, "{here}");
            } else {
                assert_eq!(outcome.unwrap_err().code(), Code::NotAuthenticated, "{here}");
                assert_eq!(replica.stored(&account.id).await.connection.status, reauth("answer_lost"), "{here}");
            }
            let spent = if point == crash::AFTER_COMMIT { 1 } else { spent_by_the_dead + 1 };
            assert_eq!(spends(&town, &account), spent, "{here}");
            let _ = replica.serve(&account.id).await;
            assert_eq!(spends(&town, &account), spent, "{here}");
            close(db, replica).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_killed_too_is_not_followed_by_another_sqlite() {
    a_recovery_that_is_killed_too(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_killed_too_is_not_followed_by_another_postgres() {
    a_recovery_that_is_killed_too(false).await;
}

async fn a_recovery_that_is_killed_too(on_sqlite: bool) {
    let folder = tempfile::tempdir().unwrap();
    let database = fresh(on_sqlite, &folder).await;
    let town = Town::new().await;
    let (db, replica) = open(&database, &town).await;
    let account = replica.expired(&town, "").await;
    close(db, replica).await;
    for point in [crash::AFTER_JOURNAL, crash::AFTER_SEND] {
        assert_eq!(ended(start(&database, &town, &town.roots, &account, Some(point))).await, Some(9), "{point}");
    }
    assert_eq!(spends(&town, &account), 1);
    let (_db, replica) = open(&database, &town).await;
    assert_eq!(patiently(&replica, &account.id).await.unwrap_err().code(), Code::NotAuthenticated);
    assert_eq!(replica.stored(&account.id).await.connection.status, reauth("answer_lost"));
    assert_eq!(spends(&town, &account), 1);
}

/// A holder that is stopped past its lease and wakes up with its answer in the socket: the newest token is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_past_its_lease_keeps_the_answer_it_wakes_up_with() {
    let database = testing::postgres_url().await;
    let town = Town::new().await;
    town.lab_settings(|settings| settings.reuse_kills_family = false);
    let (_db, replica) = open(&database, &town).await;
    let account = replica.expired(&town, "").await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
    let child = start(&database, &town, &town.roots, &account, None);
    let pid = Pid::from_child(&child);
    assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
    kill_process(pid, Signal::STOP).unwrap();
    // The other replica takes over after a whole lease, and meets a refresh token that was used before.
    let error = patiently(&replica, &account.id).await.unwrap_err();
    assert_eq!(error.code(), Code::NotAuthenticated);
    assert_eq!(replica.stored(&account.id).await.connection.status, reauth("answer_lost"));
    town.lab.release();
    tokio::time::sleep(Duration::from_millis(300)).await;
    kill_process(pid, Signal::CONT).unwrap();
    let stored = replica.until(&account.id, |stored| stored.connection.version == 2).await;
    assert_eq!(stored.connection.status, Status::Active);
    assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
    assert_eq!(spends(&town, &account), 2);
    assert_eq!(ended(child).await, None);
}

/// The same with the answer already read: `:pause` is there so that it can be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_process_says_where_it_is_and_goes_on() {
    if let Ok(connection) = std::env::var(CONNECTION) {
        return child(connection).await;
    }
    let database = testing::postgres_url().await;
    let town = Town::new().await;
    let (_db, replica) = open(&database, &town).await;
    let account = replica.expired(&town, "").await;
    let point = format!("{}:pause=300", crash::AFTER_ANSWER);
    let mut child = start(&database, &town, &town.roots, &account, Some(&point));
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    let said = tokio::task::spawn_blocking(move || lines.find(|line| line.starts_with("pausing at ")));
    assert_eq!(said.await.unwrap().unwrap(), "pausing at refresh.after_answer");
    assert_eq!(replica.stored(&account.id).await.connection.version, 1);
    replica.until(&account.id, |stored| stored.connection.version == 2).await;
    assert_eq!(ended(child).await, None);
}

fn start(database: &str, town: &Town, roots: &Secret, account: &Account, point: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", ENTRY, "--nocapture"])
        .env("TEST_DATABASE", database)
        .env("TEST_DEADLINE_MS", "1000")
        .env("TEST_ROOTS", roots.expose())
        .env("TEST_DEFINITION", &town.definition)
        .env("TEST_LAB", town.lab.addr().to_string())
        .env(CONNECTION, account.id.as_str())
        .env_remove(crash::VARIABLE)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if let Some(point) = point {
        command.env(crash::VARIABLE, point);
    }
    command.spawn().unwrap()
}

/// The signal that ended a process, if one did.
async fn ended(mut child: Child) -> Option<i32> {
    tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap().signal()
}

async fn fresh(on_sqlite: bool, folder: &tempfile::TempDir) -> String {
    if on_sqlite { format!("sqlite {}", folder.path().display()) } else { testing::postgres_url().await }
}

/// `sqlite FOLDER`, or a PostgreSQL URL.
enum Place<'a> {
    Sqlite(&'a str),
    Postgres(&'a str),
}

fn place(text: &str) -> Place<'_> {
    text.strip_prefix("sqlite ").map_or(Place::Postgres(text), Place::Sqlite)
}

impl Place<'_> {
    fn config(&self) -> DbConfig {
        match self {
            Place::Sqlite(folder) => DbConfig::Sqlite { dir: folder.into(), patience: Duration::from_secs(5) },
            Place::Postgres(url) => DbConfig::Postgres { url: Secret::new(*url), max_connections: 8 },
        }
    }
}

async fn open(database: &str, town: &Town) -> (Db, Replica) {
    let db = Db::open(&place(database).config()).await.unwrap();
    let replica = town.replica(&db).await;
    (db, replica)
}

/// Lets go of the database, so that another process can have it.
async fn close(db: Db, replica: Replica) {
    replica.refresher.drain().await;
    drop(replica);
    db.close().await;
}
