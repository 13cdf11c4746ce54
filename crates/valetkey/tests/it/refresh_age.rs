//! The warning before a connection dies of age, and the lists that are read again after a refresh.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use provider_lab::DefinitionOptions;
use valetkey::{
    clock::Timestamp,
    connection::{self, Renewal},
    extend::{EventSink, Extensions},
    id::ConnectionId,
    on_each_db,
    principal::{Actor, Slot},
    resource,
};

use crate::town::{Account, HOUR, MINUTE, Replica, START, Town, quick};

const DAY: Duration = Duration::from_secs(86_400);

/// A refresh token of sixty days that no refresh prolongs.
const FIXED: &str = "rotation = \"never\"\nrefresh_ttl = \"60d\"\n";

async fn town_of_fixed_lives() -> Town {
    let mut town = Town::new().await;
    town.definition = town.definition.replace("rotation = \"always\"\n", "").replace("refresh_ttl = \"30d\"\n", FIXED);
    town
}

async fn fixed(replica: &Replica, town: &Town, name: &str) -> Account {
    replica
        .account(town, name, |_, tokens, now| {
            tokens.expires_at = Some(now.plus(HOUR));
            tokens.refresh_expires_at = Some(now.plus(60 * DAY));
        })
        .await
}

/// Writes down of which ends it was told.
#[derive(Default)]
struct Told(Mutex<Vec<(ConnectionId, Timestamp)>>);

impl EventSink for Told {
    fn connection_ageing(&self, _: &Slot, connection: &ConnectionId, ends_at: Timestamp) {
        self.0.lock().unwrap().push((connection.clone(), ends_at));
    }
}

on_each_db! {
    /// Of two replicas and after a restart: one event, one audit row, one note.
    async fn the_owner_is_warned_once_before_a_connection_dies_of_age(db: Db) {
        let town = town_of_fixed_lives().await;
        let told = Arc::new(Told::default());
        let one = town.replica(&db).await;
        let with_sink = |replica: &Replica| {
            replica.rebuilt(quick(), |outside| outside.extensions = Extensions::default().events(told.clone()))
        };
        let (one, two) = (with_sink(&one), with_sink(&town.replica(&db).await));
        let account = fixed(&one, &town, "").await;
        one.advance(52 * DAY);
        assert_eq!(one.refresher.warn_of_age().await.unwrap(), 0, "more than a week is left");
        assert_eq!(one.stored(&account.id).await.connection.ends_at(), None);
        one.advance(2 * DAY);
        let (a, b) = tokio::join!(one.refresher.warn_of_age(), two.refresher.warn_of_age());
        assert_eq!(a.unwrap() + b.unwrap(), 1);
        let later = with_sink(&town.replica(&db).await);
        later.advance(5 * DAY);
        assert_eq!(later.refresher.warn_of_age().await.unwrap(), 0);

        let end = START.plus(60 * DAY);
        assert_eq!(*told.0.lock().unwrap(), [(account.id.clone(), end)]);
        let events = one.events("connection.ageing").await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["ends_at"], end.to_string());
        // The lab's accounts are alice's: it leads to her own page, which needs no link that is made beforehand.
        let page = format!("/account/connections/{}/reconnect", account.id);
        assert_eq!(events[0]["reconnect"], one.outside.page_url(&page, &one.site));
        assert_eq!(events[0]["command"], serde_json::Value::Null);
        let connection = one.stored(&account.id).await.connection;
        assert_eq!((connection.ends_at(), connection.display_status(one.now())), (Some(end), "expiring"));
        let listed = connection::ageing(&db, one.now(), 10).await.unwrap();
        assert_eq!(listed.iter().map(|one| &one.id).collect::<Vec<_>>(), [&account.id]);
    }

    /// An access token that nothing renews is like a refresh token of fixed life; what a refresh prolongs is never warned of.
    async fn only_what_nothing_prolongs_is_warned_of(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let lives = async |name: &str, renewal: Renewal, days: u32| {
            replica
                .account(&town, name, |_, tokens, now| {
                    tokens.renewal = renewal;
                    tokens.issued_at = Some(now);
                    tokens.expires_at = Some(now.plus(days * DAY));
                    tokens.refresh_expires_at = (renewal == Renewal::RefreshToken).then(|| now.plus(30 * DAY));
                })
                .await
                .id
        };
        let alone = lives("alone", Renewal::None, 26).await;
        let rotates = lives("rotates", Renewal::RefreshToken, 26).await;
        let remints = lives("remints", Renewal::Remint, 26).await;
        replica.advance(19 * DAY);
        assert_eq!(replica.refresher.warn_of_age().await.unwrap(), 0, "more than a quarter is left");
        // A refresh token that rotates is renewed by the keeper about now, after two thirds of its life.
        replica.advance(DAY);
        assert_eq!(replica.refresher.warn_of_age().await.unwrap(), 1);
        assert!(replica.stored(&alone).await.connection.ends_at().is_some());
        for id in [&rotates, &remints] {
            assert_eq!(replica.stored(id).await.connection.ends_at(), None);
        }
    }

    /// Whoever connects again begins a new life, of whose end there is a new warning.
    async fn a_new_life_is_warned_of_anew(db: Db) {
        let town = town_of_fixed_lives().await;
        let replica = town.replica(&db).await;
        let account = fixed(&replica, &town, "").await;
        replica.advance(55 * DAY);
        assert_eq!(replica.refresher.warn_of_age().await.unwrap(), 1);
        let stored = replica.stored(&account.id).await;
        let base = &replica.outside.base;
        let opened = replica.opened(&account.id).await;
        let again = connection::NewConnection {
            site: replica.site.clone(),
            provider: "lab".parse().unwrap(),
            owner: stored.connection.owner.clone(),
            name: stored.connection.name.clone(),
            account: opened,
            tokens: connection::Tokens {
                renewal: Renewal::RefreshToken,
                issued_at: Some(replica.now()),
                expires_at: Some(replica.now().plus(HOUR)),
                usual_life: Some(3600),
                refresh_expires_at: Some(replica.now().plus(60 * DAY)),
                refresh_at: None,
                scopes: stored.connection.scopes.clone(),
            },
            app_config: Some(replica.config.clone()),
            client_id: stored.connection.client_id.clone(),
            subject: stored.connection.subject.clone(),
            subject_name: stored.connection.subject_name.clone(),
            identity: stored.connection.identity,
            wanted_scopes: stored.connection.wanted_scopes.clone(),
            hosts: Vec::new(),
            call_hosts: None,
        };
        let mut tx = base.db.begin().await.unwrap();
        assert!(connection::replace_account(base, &mut tx, &stored.connection, &again).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(replica.stored(&account.id).await.connection.ends_at(), None);
        assert_eq!(replica.refresher.warn_of_age().await.unwrap(), 0);
        replica.advance(55 * DAY);
        assert_eq!(replica.refresher.warn_of_age().await.unwrap(), 1);
        assert_eq!(replica.events("connection.ageing").await.len(), 2);
    }

    /// A refresh reads the lists again that the definition names: the tokens of chosen pages are those of now.
    async fn a_refresh_reads_the_chosen_pages_again(db: Db) {
        let town = Town::with(&DefinitionOptions { pages: true, ..DefinitionOptions::default() }).await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR).await;
        let chosen = [("page".to_owned(), vec!["p1".to_owned(), "p2".to_owned()])].into();
        let actor = Actor::Operator;
        replica.refresher.choose(&replica.site, &actor, &account.id, &chosen).await.unwrap();
        let tokens = async || {
            let opened = replica.opened(&account.id).await;
            let list = opened.expose()["resources"]["page"].as_array().unwrap().clone();
            list.iter().map(|one| one.get("access_token").map(ToString::to_string)).collect::<Vec<_>>()
        };
        let before = tokens().await;
        assert_eq!(before.len(), 2);
        town.lab.list_page("p2", false);
        replica.advance(HOUR + MINUTE);
        replica.serve(&account.id).await.unwrap();
        // It is done after the token was served, and nobody waits for it.
        for _ in 0..500 {
            if tokens().await != before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let after = tokens().await;
        assert!(after[0].is_some() && after[0] != before[0]);
        assert_eq!(after[1], None, "a page that is not listed any more keeps its token");
        let connection = replica.stored(&account.id).await.connection;
        assert_eq!((connection.resources["page"].len(), connection.version), (2, 2));
        let definition = replica.outside.definition(&"lab".parse().unwrap()).unwrap();
        assert!(resource::open_choices(&definition, &connection).is_empty());
    }
}
