//! Storage: what holds on both databases alike.

use valetkey::{
    Code,
    db::{Db, DbConfig, testing},
    on, on_each_db,
    secret::Secret,
};

on_each_db! {
    async fn an_uncommitted_transaction_never_happened(db: Db) {
        let mut tx = db.begin().await.unwrap();
        add_site(&mut tx, "a").await;
        drop(tx);
        assert_eq!(sites(&db).await, 0);
    }

    async fn a_commit_moves_the_epoch_and_bookkeeping_does_not(db: Db) {
        let before = db.epoch();
        let tx = db.begin_bookkeeping().await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(db.epoch(), before);
        let tx = db.begin().await.unwrap();
        tx.commit().await.unwrap();
        assert!(db.epoch() > before);
    }

    async fn two_hundred_writers_at_once_lose_nothing(db: Db) {
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let db = db.clone();
                tokio::spawn(async move {
                    let mut tx = db.begin().await.unwrap();
                    add_site(&mut tx, &format!("s{n}")).await;
                    tx.commit().await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(sites(&db).await, 200);
    }
}

async fn add_site(tx: &mut valetkey::db::Tx, id: &str) {
    on!(tx, |c| sqlx::query("INSERT INTO sites (id, title, return_to, created_at) VALUES ($1, $1, '[]', 0)")
        .bind(id)
        .execute(c)
        .await
        .map(|_| ())
        .unwrap());
}

async fn sites(db: &Db) -> i64 {
    let (n,): (i64,) = on!(db, |c| sqlx::query_as("SELECT COUNT(*) FROM sites").fetch_one(c).await.unwrap());
    n
}

#[tokio::test]
async fn two_processes_that_start_at_once_both_find_the_schema_ready() {
    let url = testing::postgres_url().await;
    let (a, b) = tokio::join!(testing::open_postgres(&url), testing::open_postgres(&url));
    assert_eq!((sites(&a).await, sites(&b).await), (0, 0));
}

/// What a newer release leaves behind: a step of the schema that this one does not know, and the oldest release that can run on it.
async fn after_a_newer_release(config: &DbConfig, admits: i64) -> valetkey::Result<Db> {
    let db = Db::open(config).await.unwrap();
    add_site_in(&db, "kept").await;
    let later = format!("INSERT INTO schema_migrations (number, name, admits) VALUES (99, '0099_later', {admits})");
    testing::execute(&db, &later).await;
    db.close().await;
    drop(db);
    Db::open(config).await
}

async fn add_site_in(db: &Db, id: &str) {
    let mut tx = db.begin().await.unwrap();
    add_site(&mut tx, id).await;
    tx.commit().await.unwrap();
}

/// An empty place on each database; the folder goes away with what is returned.
async fn places() -> (tempfile::TempDir, [DbConfig; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = DbConfig::Sqlite { dir: folder.path().to_owned(), patience: std::time::Duration::from_secs(5) };
    (folder, [sqlite, DbConfig::Postgres { url: Secret::new(testing::postgres_url().await), max_connections: 2 }])
}

#[tokio::test]
async fn a_schema_that_no_longer_admits_this_release_is_refused_with_what_to_do() {
    let (_folder, places) = places().await;
    for config in &places {
        let error = after_a_newer_release(config, 99).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("schema 99") && error.message().contains("install that release"), "{error}");
    }
}

#[tokio::test]
async fn a_newer_schema_that_admits_this_release_opens_with_what_is_in_it() {
    let (_folder, places) = places().await;
    for config in &places {
        let db = after_a_newer_release(config, 1).await.unwrap();
        assert_eq!(sites(&db).await, 1);
        add_site_in(&db, "another").await;
    }
}

#[tokio::test]
async fn a_postgres_that_may_lose_a_commit_is_refused() {
    let url = testing::postgres_url().await;
    let name = url::Url::parse(&url).unwrap().path()[1..].to_owned();
    let config = DbConfig::Postgres { url: Secret::new(url.as_str()), max_connections: 2 };
    let plain = testing::open_postgres(&url).await;
    let set = async |value: &str| {
        testing::execute(&plain, &format!("ALTER DATABASE {name} SET synchronous_commit = {value}")).await;
    };
    set("off").await;
    let error = Db::open(&config).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidConfig);
    assert!(error.message().contains("synchronous_commit=off"), "{error}");
    set("on").await;
    Db::open(&config).await.unwrap();
}

/// A function of our own that stands before the server's plays the failover.
#[tokio::test]
async fn a_standby_is_refused_at_the_start_and_later() {
    let url = testing::postgres_url().await;
    let plain = testing::open_postgres(&url).await;
    let says = async |standby: bool| {
        let body =
            format!("CREATE OR REPLACE FUNCTION fake.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT {standby}'");
        testing::execute(&plain, &body).await;
    };
    testing::execute(&plain, "CREATE SCHEMA fake").await;
    let mut url = url::Url::parse(&url).unwrap();
    url.query_pairs_mut().append_pair("options", "-c search_path=public,fake,pg_catalog");
    let url = url.to_string();
    says(false).await;
    let db = testing::open_postgres(&url).await;
    db.ping().await.unwrap();
    says(true).await;
    assert!(db.ping().await.unwrap_err().message().contains("standby"));
    let config = DbConfig::Postgres { url: Secret::new(url), max_connections: 2 };
    assert!(Db::open(&config).await.unwrap_err().message().contains("standby"));
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_told_who_holds_it() {
    let (_db, dir) = testing::sqlite().await;
    let config = DbConfig::Sqlite { dir: dir.path().to_owned(), patience: std::time::Duration::from_millis(100) };
    let error = Db::open(&config).await.unwrap_err();
    assert!(error.message().contains(&format!("process {}", std::process::id())), "{error}");
}

#[tokio::test]
async fn a_bad_database_url_is_refused_without_repeating_it() {
    let config = DbConfig::Postgres { url: Secret::new("postgres://u:canary-password@[bad"), max_connections: 1 };
    let error = Db::open(&config).await.unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}

/// In a folder that others may look into, too.
#[tokio::test]
async fn the_database_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = DbConfig::Sqlite { dir: dir.path().to_owned(), patience: std::time::Duration::ZERO };
    let db = Db::open(&config).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
    db.close().await;
}

#[tokio::test]
async fn sqlite_runs_with_the_settings_that_the_promises_need() {
    let (db, _dir) = testing::sqlite().await;
    for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1), ("PRAGMA mmap_size", 0)] {
        let (value,): (i64,) = match valetkey::db::Target::split(&db) {
            valetkey::db::Either::Sqlite(c) => sqlx::query_as(pragma).fetch_one(c).await.unwrap_or((0,)),
            valetkey::db::Either::Postgres(_) => unreachable!(),
        };
        assert_eq!(value, expected, "{pragma}");
    }
    let valetkey::db::Either::Sqlite(c) = valetkey::db::Target::split(&db) else { unreachable!() };
    let (journal,): (String,) = sqlx::query_as("PRAGMA journal_mode").fetch_one(c).await.unwrap();
    assert_eq!(journal, "wal");
    let loose: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM pragma_table_list
         WHERE schema = 'main' AND type = 'table' AND strict = 0 AND name NOT GLOB 'sqlite_*'",
    )
    .fetch_all(c)
    .await
    .unwrap();
    assert!(loose.is_empty(), "not STRICT: {loose:?}");
}

/// Both schemas have the same tables and columns with the same nullability, in the same kinds of type.
#[tokio::test]
async fn the_two_schemas_are_the_same() {
    let (lite, _dir) = testing::sqlite().await;
    let postgres = testing::postgres().await;
    let valetkey::db::Either::Sqlite(c) = valetkey::db::Target::split(&lite) else { unreachable!() };
    let lite: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT m.name, p.name, p.type, p.\"notnull\" FROM sqlite_schema m JOIN pragma_table_info(m.name) p
         WHERE m.type = 'table' AND m.name NOT GLOB 'sqlite_*' ORDER BY 1, 2",
    )
    .fetch_all(c)
    .await
    .unwrap();
    let postgres: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT table_name::text, column_name::text,
                CASE data_type WHEN 'bigint' THEN 'INTEGER' WHEN 'text' THEN 'TEXT' WHEN 'bytea' THEN 'BLOB' ELSE data_type END,
                CASE is_nullable WHEN 'NO' THEN 1 ELSE 0 END::bigint
         FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
    )
    .fetch_all(postgres.postgres().unwrap())
    .await
    .unwrap();
    assert!(lite.len() > 100);
    assert_eq!(lite, postgres);
}

#[test]
fn the_two_migration_folders_hold_the_same_file_names() {
    let names = |kind: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
}
