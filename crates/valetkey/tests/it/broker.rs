//! The broker as a value: its start, its stop, and a database without its key.

use std::{path::Path, sync::Arc, time::Duration};

use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, Fault, Lab, Rule};
use serde_json::json;
use valetkey::{
    Broker, Code, Settings, app_config,
    clock::Timestamp,
    connection::{self, Filter},
    db::{DbConfig, testing},
    extend::Extensions,
    id::SiteId,
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, Owner},
    provider::Trust,
    refresh::Wish,
    seal::{RootKey, RootSource},
    secret::Secret,
    site,
};

use crate::{
    desk::{account, user},
    support::House,
};

fn sqlite(dir: &Path) -> DbConfig {
    DbConfig::Sqlite { dir: dir.join("data"), patience: Duration::from_secs(5) }
}

fn settings(db: DbConfig, root: RootSource) -> Settings {
    Settings::new(db, root, "https://keys.example.test".parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_a_root_key_and_the_default_site_and_the_second_neither() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootSource::File(dir.path().join("root.key"));
    let first = Broker::start(settings(sqlite(dir.path()), root.clone())).await.unwrap();
    assert!(first.created_site && first.created_root.is_some());
    first.broker.stop().await;
    drop(first);
    let second = Broker::start(settings(sqlite(dir.path()), root)).await.unwrap();
    assert!(!second.created_site && second.created_root.is_none());
    assert_eq!(site::list(&second.broker.base().db).await.unwrap().len(), 1);
    second.broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_start_at_once_make_one_default_site() {
    let url = testing::postgres_url().await;
    let db = || DbConfig::Postgres { url: Secret::new(url.clone()), max_connections: 4 };
    let root = RootSource::Text(RootKey::generate().unwrap().to_line());
    let starts = [0; 3].map(|_| tokio::spawn(Broker::start(settings(db(), root.clone()))));
    let mut made = 0;
    let mut brokers = Vec::new();
    for start in starts {
        let started = start.await.unwrap().unwrap();
        made += usize::from(started.created_site);
        brokers.push(started.broker);
    }
    assert_eq!((made, site::list(&brokers[0].base().db).await.unwrap().len()), (1, 1));
    for broker in brokers {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_definition_or_public_url_stops_the_start_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("providers");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("broken.toml"), "title = 3\n").unwrap();
    let root = RootSource::File(dir.path().join("root.key"));
    let mut wrong = settings(sqlite(dir.path()), root.clone());
    wrong.providers = Some(folder);
    let error = Broker::start(wrong).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidDefinition);
    assert!(error.message().contains("broken.toml"), "{error}");
    for url in ["ftp://keys.example", "https://keys.example/path", "https://user@keys.example", "https://keys.example/?q"] {
        let mut wrong = settings(sqlite(dir.path()), root.clone());
        wrong.public_url = url.parse().unwrap();
        assert_eq!(Broker::start(wrong).await.unwrap_err().code(), Code::InvalidConfig, "{url}");
    }
    assert!(!dir.path().join("data").exists() && !dir.path().join("root.key").exists());
}

/// Status and listing answer without opening a sealed value.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_status_and_listing_answer_and_nothing_is_sealed_or_opened() {
    let url = testing::postgres_url().await;
    let dir = tempfile::tempdir().unwrap();
    for db in [DbConfig::Postgres { url: Secret::new(url), max_connections: 4 }, sqlite(dir.path())] {
        let house = House::new(&valetkey::db::Db::open(&db).await.unwrap()).await;
        let id = house.connection("user:alice").await;
        house.base.db.close().await;
        drop(house);

        let broker = Broker::without_key(&db).await.unwrap();
        let (base, site) = (broker.base(), SiteId::default_site());
        let listed = connection::list(&base.db, &site, &Filter::default()).await.unwrap();
        assert_eq!((listed.len(), &listed[0].id), (1, &id));
        assert!(listed[0].is_authenticated(Timestamp::from_unix_seconds(1_800_000_000)));
        assert_eq!(listed[0].display_status(Timestamp::from_unix_seconds(1_800_000_000)), "active");

        let stored = connection::load(&base.db, &site, &id).await.unwrap().unwrap();
        let opened = connection::open_account(base, &stored.connection, stored.sealed.as_deref().unwrap()).await;
        assert_eq!(opened.unwrap_err().code(), Code::KeyUnavailable);
        let new = NewKey { label: "x".into(), scopes: [Scope::Admin].into(), asserts: Asserts::None, expires_at: None };
        let made = platform::create(base, &site, &Actor::Operator, new).await;
        assert_eq!(made.unwrap_err().code(), Code::KeyUnavailable);
        broker.stop().await;
    }
}

/// An operator raises the deadline for a provider that is slow: to give up before would lose the answer, and the token with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_waits_for_its_own_deadline_where_other_exchanges_wait_less() {
    let url = testing::postgres_url().await;
    let dir = tempfile::tempdir().unwrap();
    for db in [DbConfig::Postgres { url: Secret::new(url), max_connections: 8 }, sqlite(dir.path())] {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut settings = settings(db, RootSource::Text(RootKey::generate().unwrap().to_line()));
        settings.trust = Trust::Dev;
        settings.upstream.allow_private = vec![lab.addr().to_string().parse().unwrap()];
        settings.upstream.exchange_timeout = Duration::from_millis(300);
        settings.refresh.deadline = Duration::from_secs(30);
        settings.refresh.keeper_interval = Duration::from_secs(86_400);
        settings.extensions = Extensions::default().provider("lab".parse().unwrap(), lab.definition_toml());
        let broker = Broker::start(settings).await.unwrap().broker;
        let (base, site) = (broker.base(), SiteId::default_site());
        let definition = broker.outside().definition(&"lab".parse().unwrap()).unwrap();
        let app = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
        app_config::set(base, &site, &Actor::Operator, &definition, &Owner::Site, app.as_object().unwrap()).await.unwrap();

        let issued = lab.issue(CLIENT_ID, "alice", "profile posts:read posts:write").unwrap();
        let accounts = broker.provider("lab").unwrap();
        let expired = account(json!({
            "access_token": issued.access_token, "refresh_token": issued.refresh_token,
            "expires_at": base.clock.now().0 / 1_000_000 - 60,
        }));
        accounts.save_account_for_user(&user("alice"), expired).await.unwrap();
        let id = accounts.connection(Owner::User(user("alice"))).await.unwrap();
        let stored = connection::load(&base.db, &site, &id).await.unwrap().unwrap();
        lab.misbehave(Rule::once(At::Refresh, Fault::DelayBefore { ms: 1500 }));
        let served = broker.refresher().serve(Arc::new(stored), Wish::default()).await.unwrap();
        assert!(lab.is_live(served.account.text("access_token").unwrap().expose()));
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_writes_are_not_taken_for_those_of_a_stranger_and_a_strangers_are() {
    let (db, dir) = testing::sqlite().await;
    let house = House::new(&db).await;
    let before = db.data_version().await.unwrap().unwrap();
    for _ in 0..20 {
        house.agent("a", None).await;
        // The readers are connections of their own.
        site::list(&db).await.unwrap();
    }
    assert_eq!(db.data_version().await.unwrap(), Some(before));

    let file = dir.path().join("valetkey.db");
    let stranger = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    sqlx::query("UPDATE sites SET title = 'changed'").execute(&stranger).await.unwrap();
    assert_ne!(db.data_version().await.unwrap(), Some(before));
}
