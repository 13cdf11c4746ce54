//! What a platform registers of its own for the way from a code to a stored account.

use std::sync::{Arc, Mutex};

use serde_json::{Map, json};
use valetkey::{
    Code, Error,
    account::Accounts,
    connect::Outcome,
    connection::Identity,
    db::Db,
    extend::{AccountDetails, AccountSink, Answer, Details, Extensions, TokenTransform},
    on_each_db,
    principal::Slot,
    secret::{Secret, SecretMap},
};

use super::world::{OPERATOR, World, alices, connected};
use crate::desk::Ears;

/// Does the same to every account, or refuses.
struct Always(bool);

fn no() -> Error {
    Error::new(Code::Unavailable, "not today")
}

impl TokenTransform for Always {
    fn transform<'a>(&'a self, slot: &'a Slot, mut account: SecretMap) -> Answer<'a, SecretMap> {
        Box::pin(async move {
            if !self.0 {
                return Err(no());
            }
            assert_eq!(slot.owner.to_string(), "user:alice");
            let token = account.text("access_token").unwrap();
            account.set_text("page_token", &Secret::new(format!("page-{}", token.expose())));
            account.expose_mut().insert("expires_in".to_owned(), json!(7200));
            Ok(account)
        })
    }
}

impl AccountDetails for Always {
    fn details<'a>(&'a self, _: &'a Slot, account: &'a SecretMap) -> Answer<'a, Option<Details>> {
        Box::pin(async move {
            if !self.0 {
                return Err(no());
            }
            assert!(account.text("access_token").is_some());
            let members = Map::from_iter([("team".to_owned(), json!("blue"))]);
            Ok(Some(Details { id: Some("page-7".to_owned()), name: Some("Page".to_owned()), members }))
        })
    }
}

/// Keeps what it is handed, or refuses.
struct Copies {
    takes: bool,
    got: Mutex<Vec<(String, String)>>,
}

impl AccountSink for Copies {
    fn store<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()> {
        Box::pin(async move {
            if !self.takes {
                return Err(no());
            }
            let token = account.text("access_token").unwrap().expose().to_owned();
            self.got.lock().unwrap().push((slot.owner.to_string(), token));
            Ok(())
        })
    }
}

async fn world(db: &Db, extensions: Extensions) -> World {
    let mut world = World::new(db).await;
    world.outside.extensions = extensions;
    world
}

/// Connects, which must fail so; nothing is stored, and what the provider issued is owed back to it.
async fn fails(db: &Db, extensions: Extensions, code: Code) {
    let world = world(db, extensions).await;
    match world.connect(alices(), "alice").await.outcome {
        Outcome::Failed { code: told, .. } => assert_eq!(told, code),
        Outcome::Connected { .. } => panic!("it was connected"),
    }
    assert!(world.connections().await.is_empty());
    assert_eq!(world.owed().await.len(), 1);
}

on_each_db! {
    async fn a_transform_changes_what_is_stored_and_how_long_it_lives(db: Db) {
        let world = world(&db, Extensions::default().transform(Arc::new(Always(true)))).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let (account, connection) = (world.account(&id).await, world.connection(&id).await);
        let token = account.text("access_token").unwrap();
        assert_eq!(account.text("page_token").unwrap().expose(), format!("page-{}", token.expose()));
        let life = connection.expires_at.unwrap().since(world.house.base.clock.now());
        assert_eq!(life.as_secs(), 7200);
        // Whose account it is was still asked at the provider, with the token as it is now.
        assert_eq!(connection.identity, Identity::Verified);
    }

    async fn a_transform_that_fails_ends_the_flow(db: Db) {
        fails(&db, Extensions::default().transform(Arc::new(Always(false))), Code::TokenTransformFailed).await;
    }

    async fn details_of_the_platforms_own_say_whose_account_it_is(db: Db) {
        let world = world(&db, Extensions::default().details(Arc::new(Always(true)))).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let connection = world.connection(&id).await;
        assert_eq!((connection.subject.as_deref(), connection.subject_name.as_deref()), (Some("page-7"), Some("Page")));
        assert_eq!(world.account(&id).await.expose()["team"], json!("blue"));
        assert_eq!(world.lab.requests("userinfo"), 0);
    }

    async fn details_that_fail_end_the_flow(db: Db) {
        fails(&db, Extensions::default().details(Arc::new(Always(false))), Code::AccountFetchFailed).await;
    }

    async fn a_sink_is_handed_what_is_stored(db: Db) {
        let sink = Arc::new(Copies { takes: true, got: Mutex::default() });
        let world = world(&db, Extensions::default().sink(sink.clone())).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let token = world.account(&id).await.text("access_token").unwrap().expose().to_owned();
        assert_eq!(*sink.got.lock().unwrap(), [("user:alice".to_owned(), token)]);
    }

    async fn a_connection_whose_place_another_took_is_told(db: Db) {
        let heard = Arc::new(Ears::default());
        let world = world(&db, Extensions::default().events(heard.clone())).await;
        connected(&world.connect(alices(), "alice").await);
        heard.take();
        let mut new = alices();
        new.new_subject = true;
        connected(&world.connect(new, "bob").await);
        assert_eq!(heard.take(), ["revoked: user:alice"]);
    }

    async fn a_sink_is_handed_what_the_named_calls_store(db: Db) {
        let sink = Arc::new(Copies { takes: true, got: Mutex::default() });
        let world = world(&db, Extensions::default().sink(sink.clone())).await;
        let accounts = Accounts::new(&world.outside, world.house.site.clone(), "lab".parse().unwrap(), OPERATOR);
        let token = |text: &str| SecretMap::new(json!({ "access_token": text }).as_object().unwrap().clone());
        let alice = "alice".parse().unwrap();
        accounts.save_account_for_user(&alice, token("saved")).await.unwrap();
        accounts.update_account_for_user(&alice, &token("updated")).await.unwrap();
        accounts.save_site_account(token("the site's")).await.unwrap();
        accounts.delete_account_for_user(&alice).await.unwrap();
        let got = [("user:alice", "saved"), ("user:alice", "updated"), ("site", "the site's")];
        assert_eq!(*sink.got.lock().unwrap(), got.map(|(owner, token)| (owner.to_owned(), token.to_owned())));
    }

    async fn what_a_sink_refuses_is_not_stored_by_the_named_calls(db: Db) {
        let stored = world(&db, Extensions::default()).await;
        let site = stored.house.site.clone();
        let token = |text: &str| SecretMap::new(json!({ "access_token": text }).as_object().unwrap().clone());
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let before = Accounts::new(&stored.outside, site.clone(), "lab".parse().unwrap(), OPERATOR);
        before.save_account_for_user(&alice, token("before")).await.unwrap();
        let mut outside = stored.outside.clone();
        outside.extensions = Extensions::default().sink(Arc::new(Copies { takes: false, got: Mutex::default() }));
        let accounts = Accounts::new(&outside, site, "lab".parse().unwrap(), OPERATOR);
        for refused in [
            accounts.save_account_for_user(&alice, token("after")).await,
            accounts.update_account_for_user(&alice, &token("after")).await,
            accounts.save_account_for_user(&bob, token("new")).await,
        ] {
            assert_eq!(refused.unwrap_err().code(), Code::StorageFailed);
        }
        assert_eq!(before.account_for_user(&alice).await.unwrap().unwrap().text("access_token").unwrap().expose(), "before");
        assert!(before.account_for_user(&bob).await.unwrap().is_none());
    }

    async fn a_sink_that_fails_is_a_storage_failure_and_nothing_is_stored(db: Db) {
        let sink = Copies { takes: false, got: Mutex::default() };
        fails(&db, Extensions::default().sink(Arc::new(sink)), Code::StorageFailed).await;
    }
}
