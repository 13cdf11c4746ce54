//! Refresh where an answer, a process or the database is lost, and where something else happens meanwhile.

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rotation, Rule};
use serde_json::json;
use valetkey::{
    Code,
    connection::{Status, Stored, UpstreamWish},
    db::Db,
    id::ConnectionId,
    on, on_each_db,
    principal::Actor,
    refresh::Wish,
    revoke,
};

use crate::town::{HOUR, MINUTE, Replica, Town, access, keep, quick, reauth, spawn, spends};

on_each_db! {
    /// R37.
    async fn invalid_grant_for_a_version_that_moved_meanwhile_ends_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldBefore));
        town.lab.misbehave(Rule::once(At::Refresh, Fault::oauth("invalid_grant")));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        let theirs = reconnect(&replica, &town, &account.id).await;
        town.lab.release();
        assert_eq!(access(&caller.await.unwrap().unwrap()), theirs);
        assert_eq!(replica.stored(&account.id).await.connection.status, Status::Active);
    }

    async fn an_answer_that_comes_after_a_reconnect_does_not_erase_the_newer_tokens(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        let theirs = reconnect(&replica, &town, &account.id).await;
        town.lab.release();
        assert_eq!(access(&caller.await.unwrap().unwrap()), theirs);
        let stored = replica.stored(&account.id).await;
        assert_eq!((stored.connection.version, stored.lease_holder), (2, None));
    }

    async fn what_was_patched_while_a_refresh_ran_is_kept_beside_the_new_tokens(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        patch(&replica, &account.id, "note", "patched").await;
        town.lab.release();
        let served = caller.await.unwrap().unwrap();
        assert_eq!(served.account.text("note").unwrap().expose(), "patched");
        assert!(town.lab.is_live(&access(&served)));
    }

    /// R35.
    async fn a_lost_answer_of_a_provider_that_kills_families_gets_one_recovery_attempt_and_no_more(db: Db) {
        let town = Town::with(&DefinitionOptions { replay_kills_family: true, ..DefinitionOptions::default() }).await;
        town.lab_settings(|settings| settings.reuse_kills_family = true);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
        let lost = replica.stored(&account.id).await;
        assert_eq!((lost.spending_version, lost.recovered_version, &lost.lease_holder), (Some(1), None, &None));
        let failed = replica.events("refresh.failed").await;
        assert_eq!((failed.len(), failed[0]["answer_lost"].as_bool()), (1, Some(true)));
        // Not at once: a provider that is out of order for a minute must not use up the one attempt.
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(town.lab.refresh_requests(), 1);
        replica.advance(MINUTE);
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(replica.stored(&account.id).await.connection.status, reauth("answer_lost"));
        replica.advance(HOUR);
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(spends(&town, &account), 2);
        assert_eq!(replica.events("refresh.needs_reauth").await.len(), 1);
    }

    async fn a_lost_answer_is_not_recovered_while_the_access_token_serves(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        replica.serve(&account.id).await.unwrap();
        replica.until(&account.id, |stored| stored.connection.failures == 1).await;
        replica.advance(3 * MINUTE);
        for wish in [Wish::default(), Wish { min_life: Some(HOUR), rejected_version: None }] {
            assert_eq!(access(&replica.wish(&account.id, wish).await.unwrap()), account.first.access_token);
        }
        let asked = replica.refresher.refresh_now(&replica.site, &account.id, &Actor::Operator).await;
        assert_eq!(asked.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(town.lab.refresh_requests(), 1);
        // Only now is there nothing to lose.
        replica.advance(MINUTE);
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(spends(&town, &account), 2);
    }

    async fn a_recovery_attempt_whose_answer_is_lost_too_is_the_last(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::LoseResponse));
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
        replica.advance(MINUTE);
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(replica.stored(&account.id).await.connection.status, reauth("answer_lost"));
        assert_eq!(spends(&town, &account), 2);
    }

    async fn a_recovery_attempt_that_is_told_to_come_back_later_is_not_used_up(db: Db) {
        let town = Town::new().await;
        town.lab_settings(|settings| settings.grace = 86_400);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        town.lab.misbehave(Rule::once(At::Refresh, Fault::status(503)).skip(1));
        for _ in 0..2 {
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
            replica.advance(MINUTE);
        }
        assert_eq!(replica.stored(&account.id).await.spending_version, Some(1));
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
        assert_eq!(spends(&town, &account), 2);
    }

    async fn a_lost_answer_is_recovered_at_once_where_the_definition_knows_a_grace_window(db: Db) {
        let town = Town::with(&DefinitionOptions { grace: Some("30s".to_owned()), ..DefinitionOptions::default() }).await;
        town.lab_settings(|settings| (settings.grace, settings.reuse_kills_family) = (30, true));
        let replica = town.replica(&db).await;
        let dead = replica.expired(&town, "dead").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        assert!(town.lab.is_live(&access(&replica.serve(&dead.id).await.unwrap())));
        assert_eq!(spends(&town, &dead), 2);
        // Later the window would be over, so it is done while the old token still serves.
        let living = replica.living(&town, "living", 4 * MINUTE).await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        replica.serve(&living.id).await.unwrap();
        let stored = replica.until(&living.id, |stored| stored.connection.version == 2).await;
        assert_eq!(stored.connection.status, Status::Active);
        assert_eq!(spends(&town, &living), 2);
    }

    async fn a_request_that_never_left_costs_nothing(db: Db) {
        let town = Town::with(&DefinitionOptions { replay_kills_family: true, ..DefinitionOptions::default() }).await;
        town.lab_settings(|settings| settings.reuse_kills_family = true);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        let cut_off = replica.rebuilt(quick(), |outside| outside.upstream = town.upstream(false));
        assert_eq!(cut_off.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
        let stored = replica.stored(&account.id).await;
        assert_eq!((stored.spending_version, stored.lease_holder, stored.connection.failures), (None, None, 1));
        replica.advance(MINUTE);
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
        assert_eq!(spends(&town, &account), 1);
    }

    /// A lost answer matters only where the lost token would have taken the old one's place.
    async fn a_provider_that_never_rotates_is_asked_again_whatever_was_lost(db: Db) {
        let mut town = Town::new().await;
        town.definition = town.definition.replace("rotation = \"always\"", "rotation = \"never\"");
        town.lab_settings(|settings| settings.rotation = Rotation::Never);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse).times(3));
        for _ in 0..3 {
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
            replica.advance(HOUR);
        }
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
    }

    async fn an_answer_of_success_that_cannot_be_read_counts_as_lost(db: Db) {
        count_as_lost(db, [Fault::TruncatedBody, Fault::HtmlBody, Fault::set("token_type", "mac"), Fault::ControlCharacters]).await;
    }

    async fn an_answer_that_is_too_large_or_says_a_thing_twice_counts_as_lost(db: Db) {
        let twice = Fault::Duplicate { field: "access_token".to_owned(), value: json!("another") };
        count_as_lost(db, [Fault::HugeBody { bytes: 10 << 20 }, twice]).await;
    }

    async fn an_answer_that_does_not_end_in_time_counts_as_lost(db: Db) {
        count_as_lost(db, [Fault::NeverAnswer, Fault::SlowBody { chunk: 1, ms: 500 }]).await;
    }

    /// What counts is that the body is JSON or a form, clearly.
    async fn an_answer_under_another_content_type_is_read(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        for (at, value) in ["text/plain", "text/html; charset=utf-8", ""].into_iter().enumerate() {
            let account = replica.expired(&town, &format!("n{at}")).await;
            town.lab.misbehave(Rule::once(At::Refresh, Fault::ContentType { value: value.to_owned() }));
            replica.serve(&account.id).await.unwrap_or_else(|error| panic!("{value:?}: {error}"));
            assert_eq!(replica.stored(&account.id).await.connection.version, 2, "{value:?}");
        }
    }

    /// R65: of its lease.
    async fn a_connection_revoked_while_it_is_renewed_yields_nothing_and_its_new_tokens_are_revoked(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        town.lab.release();
        assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::NotFound);
        let stored = replica.stored(&account.id).await;
        assert!(stored.sealed.is_none() && matches!(stored.connection.status, Status::Revoked { .. }));
        let owed = revoke::list(&db, &replica.site, &account.id).await.unwrap();
        assert_eq!(owed.iter().map(|owed| owed.status.as_str()).collect::<Vec<_>>(), ["pending", "pending"]);
        assert_eq!(town.lab.live_refresh_tokens("alice"), 1);
        revoke::work_off(&replica.outside, &revoke::Settings::default()).await.unwrap();
        assert_eq!((town.lab.live_refresh_tokens("alice"), town.lab.live_access_tokens("alice")), (0, 0));
    }

    async fn a_revocation_that_left_the_provider_alone_does_so_for_tokens_that_come_later(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        end(&replica, &account.id, UpstreamWish::Skip).await;
        town.lab.release();
        assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::NotFound);
        let owed = revoke::list(&db, &replica.site, &account.id).await.unwrap();
        assert_eq!(owed.iter().map(|owed| owed.status.as_str()).collect::<Vec<_>>(), ["skipped", "skipped"]);
    }

    /// R35.
    async fn an_answer_that_cannot_be_stored_is_kept_until_it_can_be(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        run(&db, "ALTER TABLE connections RENAME TO elsewhere").await;
        town.lab.release();
        assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::StorageFailed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        run(&db, "ALTER TABLE elsewhere RENAME TO connections").await;
        replica.refresher.drain().await;
        let stored = replica.stored(&account.id).await;
        assert_eq!((stored.connection.version, stored.lease_holder), (2, None));
        assert!(town.lab.is_live(replica.opened(&account.id).await.text("access_token").unwrap().expose()));
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    /// On SQLite the lock on the database proves a former holder dead; on PostgreSQL its lease must run out first.
    async fn a_request_that_a_dead_process_left_behind_is_recovered_once(db: Db) {
        let town = Town::new().await;
        town.lab_settings(|settings| settings.grace = 3600);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        die(&db, &account.id, None).await;
        if !db.is_sqlite() {
            let begun = std::time::Instant::now();
            let error = replica.serve(&account.id).await.unwrap_err();
            assert_eq!(error.code(), Code::RefreshPending);
            assert!(error.retry_after().is_some());
            assert!(begun.elapsed() > Duration::from_secs(1), "a living holder may take its whole deadline");
            assert_eq!(town.lab.refresh_requests(), 0);
            replica.until(&account.id, |stored| stored.connection.version == 2).await;
            assert!(begun.elapsed() > Duration::from_millis(1500), "nobody takes over before a whole lease was seen");
        }
        assert_eq!(replica.serve(&account.id).await.unwrap().connection.version, 2);
        assert_eq!(town.lab.refresh_requests(), 1);
        assert_eq!(replica.events("refresh.ok").await[0]["recovered"], true);
    }

    async fn a_recovery_that_died_too_is_not_followed_by_another(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        die(&db, &account.id, Some(1)).await;
        for _ in 0..100 {
            let _ = replica.serve(&account.id).await;
            if replica.stored(&account.id).await.connection.status != Status::Active {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let stored = replica.stored(&account.id).await;
        assert_eq!(stored.connection.status, reauth("answer_lost"));
        assert_eq!(town.lab.refresh_requests(), 0);
    }

    async fn what_a_dead_process_left_behind_waits_while_the_access_token_serves(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        die(&db, &account.id, None).await;
        let stop = keep(&replica);
        for _ in 0..10 {
            assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(town.lab.refresh_requests(), 0);
        replica.advance(4 * MINUTE);
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
        assert_eq!(town.lab.refresh_requests(), 1);
    }
}

async fn end(replica: &Replica, id: &ConnectionId, wish: UpstreamWish) {
    revoke::connection(&replica.outside, &replica.site, &Actor::Operator, id, "asked for", wish).await.unwrap();
}

/// Writes fresh tokens over an account, as a reconnect does; the access token that is there now.
async fn reconnect(replica: &Replica, town: &Town, id: &ConnectionId) -> String {
    let issued = town.issue();
    let fresh = issued.access_token.clone();
    write(replica, id, |account| {
        account.set_text("access_token", &issued.access_token.clone().into());
        account.set_text("refresh_token", &issued.refresh_token.clone().unwrap().into());
    })
    .await;
    let later = replica.now().plus(HOUR).0;
    let mut tx = replica.outside.base.db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query("UPDATE connections SET version = version + 1, access_expires_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(later)
        .execute(c)
        .await
        .map(|_| ())
        .unwrap());
    tx.commit().await.unwrap();
    fresh
}

/// Changes one member of an account that is no token; its version stays.
async fn patch(replica: &Replica, id: &ConnectionId, name: &str, value: &str) {
    write(replica, id, |account| account.set_text(name, &value.to_owned().into())).await;
}

async fn write(replica: &Replica, id: &ConnectionId, change: impl FnOnce(&mut valetkey::secret::SecretMap)) {
    let base = &replica.outside.base;
    let Stored { connection, .. } = replica.stored(id).await;
    let mut account = replica.opened(id).await;
    change(&mut account);
    let owner = connection.owner.to_string();
    let sealed = base.ring.seal(&base.db, &connection.place(&owner), &account.to_json()).await.unwrap();
    let mut tx = base.db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query("UPDATE connections SET sealed = $2, revision = revision + 1 WHERE id = $1")
        .bind(id.as_str())
        .bind(&sealed)
        .execute(c)
        .await
        .map(|_| ())
        .unwrap());
    tx.commit().await.unwrap();
}

/// What a process leaves that dies between its journal and its answer.
async fn die(db: &Db, id: &ConnectionId, recovered: Option<i64>) {
    let mut tx = db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query(
        "UPDATE connections SET lease_number = 7, lease_holder = 'r_dead', spending_version = version, spending_lease = 7,
            recovered_version = $2 WHERE id = $1"
    )
    .bind(id.as_str())
    .bind(recovered)
    .execute(c)
    .await
    .map(|_| ())
    .unwrap());
    tx.commit().await.unwrap();
}

async fn run(db: &Db, sql: &'static str) {
    let mut tx = db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query(sql).execute(c).await.map(|_| ()).unwrap());
    tx.commit().await.unwrap();
}

/// Each of these answers to a refresh leaves the token spent, and the account as it was. A handful at most: beyond, the provider is
/// taken to be in trouble, and not asked.
async fn count_as_lost<const MANY: usize>(db: Db, faults: [Fault; MANY]) {
    let town = Town::new().await;
    let replica = town.replica(&db).await;
    for (at, fault) in faults.into_iter().enumerate() {
        let account = replica.expired(&town, &format!("n{at}")).await;
        town.lab.misbehave(Rule::once(At::Refresh, fault.clone()));
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed, "{fault:?}");
        let stored = replica.stored(&account.id).await;
        assert_eq!((stored.spending_version, stored.connection.version), (Some(1), 1), "{fault:?}");
    }
}
