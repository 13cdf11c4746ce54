//! Refresh (decisions 1): one request per token version, nothing lost, nothing withheld.

use std::{sync::Arc, time::Duration};

use provider_lab::{At, DefinitionOptions, Fault, Rotation, Rule, fingerprint};
use serde_json::json;
use valetkey::{
    Code, app_config,
    connection::{self, Status, Stored, UpstreamWish},
    db::{Db, testing},
    id::ConnectionId,
    on, on_each_db,
    principal::{Actor, Owner},
    refresh::{Settings, Wish},
    revoke,
};

use crate::town::{Account, HOUR, MINUTE, Replica, SCOPES, Town, access, client, quick};

on_each_db! {
    /// R36.
    async fn sixty_four_callers_of_an_expired_token_make_one_request_and_get_the_new_one(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        let tokens = crowd(&[&replica], &account.id, 64).await;
        assert_eq!(town.lab.refresh_requests(), 1);
        assert!(tokens.iter().all(|token| *token == tokens[0] && *token != account.first.access_token));
        assert!(town.lab.is_live(&tokens[0]));
        assert_eq!(replica.stored(&account.id).await.connection.version, 2);
        assert_eq!(replica.events("refresh.ok").await.len(), 1);
    }

    async fn a_slow_provider_is_waited_for_by_everybody(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayBefore { ms: 700 }));
        let tokens = crowd(&[&replica], &account.id, 16).await;
        assert_eq!(town.lab.refresh_requests(), 1);
        assert!(tokens.iter().all(|token| town.lab.is_live(token)));
    }

    async fn callers_who_leave_stop_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let callers: Vec<_> = (0..5).map(|_| spawn(&replica, &account.id)).collect();
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        town.lab.release();
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        replica.serve(&account.id).await.unwrap();
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    async fn a_token_that_serves_costs_neither_a_request_nor_a_write(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 30 * MINUTE).await;
        let before = replica.stored(&account.id).await;
        for _ in 0..10 {
            assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        }
        assert_eq!(town.lab.refresh_requests(), 0);
        assert_eq!(format!("{before:?}"), format!("{:?}", replica.stored(&account.id).await));
    }

    /// R32: a token whose end is unknown is neither over nor eternal.
    async fn a_token_whose_end_is_unknown_is_served_and_renewed_when_the_definition_says_so(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.account(&town, "", |_, tokens, now| tokens.issued_at = Some(now.minus(HOUR / 2))).await;
        replica.serve(&account.id).await.unwrap();
        assert_eq!(town.lab.refresh_requests(), 0);
        replica.advance(HOUR);
        assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
    }

    /// R65a.
    async fn a_provider_that_answers_500_does_not_withhold_a_valid_token(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(500)));
        for _ in 0..20 {
            assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        }
        let failed = replica.until(&account.id, |stored| stored.connection.failures == 1).await;
        assert!(failed.lease_holder.is_none() && failed.spending_version.is_none());
        for _ in 0..20 {
            assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        }
        assert_eq!(town.lab.refresh_requests(), 1);
        // Seconds before the end a caller waits for a new one, and still gets what is there where that fails.
        replica.advance(4 * MINUTE - Duration::from_secs(5));
        assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        assert_eq!(town.lab.refresh_requests(), 2);
        replica.advance(Duration::from_secs(5));
        let error = replica.serve(&account.id).await.unwrap_err();
        assert_eq!(error.code(), Code::RefreshFailed);
        assert!(error.retry_after().is_some_and(|wait| !wait.is_zero()));
        town.lab.behave();
        replica.advance(HOUR);
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
    }

    /// R39.
    async fn invalid_grant_ends_a_connection_once_and_without_a_storm(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.withdraw(provider_lab::CLIENT_ID, "alice");
        let callers: Vec<_> = (0..20).map(|_| spawn(&replica, &account.id)).collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::NotAuthenticated);
        }
        let error = replica.serve(&account.id).await.unwrap_err();
        assert_eq!(error.extra().unwrap()["reason"], "invalid_grant");
        assert_eq!(town.lab.refresh_requests(), 1);
        assert_eq!(replica.stored(&account.id).await.connection.status, reauth("invalid_grant"));
        let events = replica.events("refresh.needs_reauth").await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["reason"], "invalid_grant");
    }

    async fn a_live_access_token_is_served_to_its_end_after_invalid_grant(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::oauth("invalid_grant")));
        replica.serve(&account.id).await.unwrap();
        replica.until(&account.id, |stored| stored.connection.status == reauth("invalid_grant")).await;
        assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
        replica.advance(4 * MINUTE);
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    /// R40.
    async fn an_error_in_a_200_is_an_error(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (dead, late) = (replica.expired(&town, "dead").await, replica.expired(&town, "late").await);
        town.lab.misbehave(Rule::once(At::Refresh, Fault::error_with_200("invalid_grant")));
        assert_eq!(replica.serve(&dead.id).await.unwrap_err().code(), Code::NotAuthenticated);
        town.lab.misbehave(Rule::once(At::Refresh, Fault::error_with_200("temporarily_unavailable")));
        assert_eq!(replica.serve(&late.id).await.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(replica.stored(&late.id).await.connection.status, Status::Active);
    }

    /// R37.
    async fn invalid_grant_for_a_version_that_moved_meanwhile_ends_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldBefore));
        town.lab.misbehave(Rule::once(At::Refresh, Fault::oauth("invalid_grant")));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
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
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
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
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
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
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        for (at, fault) in [Fault::TruncatedBody, Fault::HtmlBody, Fault::set("token_type", "mac"), Fault::ControlCharacters]
            .into_iter()
            .enumerate()
        {
            let account = replica.expired(&town, &format!("n{at}")).await;
            town.lab.misbehave(Rule::once(At::Refresh, fault.clone()));
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed, "{fault:?}");
            let stored = replica.stored(&account.id).await;
            assert_eq!((stored.spending_version, stored.connection.version), (Some(1), 1), "{fault:?}");
        }
    }

    async fn a_connection_revoked_while_it_is_renewed_yields_nothing_and_its_new_tokens_are_revoked(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
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
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
        end(&replica, &account.id, UpstreamWish::Skip).await;
        town.lab.release();
        assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::NotFound);
        let owed = revoke::list(&db, &replica.site, &account.id).await.unwrap();
        assert_eq!(owed.iter().map(|owed| owed.status.as_str()).collect::<Vec<_>>(), ["skipped", "skipped"]);
    }

    async fn no_wish_makes_a_storm(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let wish = Wish { min_life: Some(30 * 24 * HOUR), rejected_version: None };
        // Younger than a minute: never.
        let young = replica.living(&town, "young", HOUR - MINUTE / 2).await;
        // More than half of the usual life left: never.
        let enough = replica.living(&town, "enough", HOUR / 2 + MINUTE).await;
        for _ in 0..30 {
            replica.wish(&young.id, wish).await.unwrap();
            replica.wish(&enough.id, wish).await.unwrap();
        }
        assert_eq!(town.lab.refresh_requests(), 0);
        // Less than half: once, and then it is young.
        let old = replica.living(&town, "old", HOUR / 2 - MINUTE).await;
        for _ in 0..30 {
            assert_ne!(access(&replica.wish(&old.id, wish).await.unwrap()), old.first.access_token);
        }
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    async fn a_wish_that_cannot_be_met_gets_what_there_is(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 10 * MINUTE).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(503)));
        let wish = Wish { min_life: Some(20 * MINUTE), rejected_version: None };
        for _ in 0..10 {
            assert_eq!(access(&replica.wish(&account.id, wish).await.unwrap()), account.first.access_token);
        }
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    async fn a_token_that_its_provider_refused_is_renewed_once_a_minute_and_by_one_caller(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        let rejected = |version| Wish { min_life: None, rejected_version: Some(version) };
        let stored = Arc::new(replica.stored(&account.id).await);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let (refresher, stored) = (replica.refresher.clone(), stored.clone());
                tokio::spawn(async move { refresher.serve(stored, rejected(1)).await })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().connection.version, 2);
        }
        assert_eq!(town.lab.refresh_requests(), 1);
        // Another 401 for the old version is answered with the new one.
        assert_eq!(replica.wish(&account.id, rejected(1)).await.unwrap().connection.version, 2);
        // Within the minute the new one is not renewed again.
        assert_eq!(replica.wish(&account.id, rejected(2)).await.unwrap().connection.version, 2);
        assert_eq!(town.lab.refresh_requests(), 1);
        replica.advance(MINUTE);
        assert_eq!(replica.wish(&account.id, rejected(2)).await.unwrap().connection.version, 3);
        assert_eq!(town.lab.refresh_requests(), 2);
    }

    async fn an_operator_renews_at_most_once_a_minute(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        for _ in 0..3 {
            let served = replica.refresher.refresh_now(&replica.site, &account.id, &Actor::Operator).await.unwrap();
            assert_eq!(served.connection.version, 2);
        }
        replica.advance(MINUTE);
        let served = replica.refresher.refresh_now(&replica.site, &account.id, &Actor::Operator).await.unwrap();
        assert_eq!((served.connection.version, town.lab.refresh_requests()), (3, 2));
        let error = replica.refresher.refresh_now(&replica.site, &ConnectionId::new(), &Actor::Operator).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }

    async fn the_keeper_renews_ahead_and_keeps_idle_refresh_tokens_alive(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let due = replica.living(&town, "due", 4 * MINUTE).await;
        let idle = replica
            .account(&town, "idle", |_, tokens, now| {
                tokens.issued_at = Some(now.minus(21 * 24 * HOUR));
                tokens.refresh_expires_at = Some(now.plus(9 * 24 * HOUR));
            })
            .await;
        let fine = replica.living(&town, "fine", 30 * MINUTE).await;
        let stop = keep(&replica);
        replica.until(&due.id, |stored| stored.connection.version == 2).await;
        replica.until(&idle.id, |stored| stored.connection.version == 2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
        assert_eq!(replica.stored(&fine.id).await.connection.version, 1);
        assert_eq!(town.lab.refresh_requests(), 2);
    }

    async fn the_keeper_leaves_alone_what_cannot_be_done_now_and_comes_back(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::too_many("120")));
        let stop = keep(&replica);
        let failed = replica.until(&account.id, |stored| stored.connection.failures == 1).await;
        let wait = failed.connection.retry_at.unwrap().since(replica.now());
        assert!(wait >= Duration::from_secs(120), "R39: Retry-After counts, not {wait:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(town.lab.refresh_requests(), 1);
        replica.advance(2 * MINUTE);
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
    }

    /// R33.
    async fn a_narrower_grant_is_stored_shown_and_said(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::Scope { scope: "profile".to_owned() }));
        let served = replica.serve(&account.id).await.unwrap();
        assert_eq!(served.connection.scopes, Some(vec!["profile".to_owned()]));
        assert_eq!(served.account.text("scope").unwrap().expose(), "profile");
        assert_eq!(replica.events("refresh.ok").await[0]["missing_scopes"], json!(["posts:read", "posts:write"]));
        // An answer that says nothing of scopes changes nothing.
        town.lab.misbehave(Rule::once(At::Refresh, Fault::omit("scope")));
        replica.advance(2 * HOUR);
        assert_eq!(replica.serve(&account.id).await.unwrap().connection.scopes, Some(vec!["profile".to_owned()]));
    }

    /// R38: the lab refuses a refresh that asks for more than was granted.
    async fn a_refresh_asks_for_what_was_granted_and_not_for_what_was_wanted(db: Db) {
        let mut town = Town::new().await;
        town.definition = town.definition.replace("[refresh]\n", "[refresh]\nform = { scope = \"{{scopes}}\" }\n");
        let replica = town.replica(&db).await;
        let granted = town.lab.issue(provider_lab::CLIENT_ID, "alice", "profile").unwrap();
        let store = |scopes: Option<Vec<String>>| {
            move |_: &mut _, tokens: &mut connection::Tokens, now: valetkey::clock::Timestamp| {
                tokens.expires_at = Some(now);
                tokens.scopes = scopes;
            }
        };
        let known = replica.store(&granted, "known", store(Some(vec!["profile".to_owned()]))).await;
        assert_eq!(replica.serve(&known).await.unwrap().connection.scopes, Some(vec!["profile".to_owned()]));
        // Where nobody knows what was granted, nothing is asked for by name.
        let granted = town.lab.issue(provider_lab::CLIENT_ID, "alice", "profile").unwrap();
        let unknown = replica.store(&granted, "unknown", store(None)).await;
        replica.serve(&unknown).await.unwrap();
        // The lab does see the parameter.
        let granted = town.lab.issue(provider_lab::CLIENT_ID, "alice", "profile").unwrap();
        let wrong = replica.store(&granted, "wrong", store(Some(vec!["posts:write".to_owned()]))).await;
        assert_eq!(replica.serve(&wrong).await.unwrap_err().code(), Code::RefreshFailed);
    }

    /// R34.
    async fn a_missing_refresh_token_keeps_the_old_one(db: Db) {
        let town = Town::new().await;
        town.lab_settings(|settings| settings.rotation = Rotation::Never);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        for fault in [None, Some(Fault::set("refresh_token", "")), Some(Fault::set("refresh_token", json!(null)))] {
            fault.into_iter().for_each(|fault| town.lab.misbehave(Rule::once(At::Refresh, fault)));
            let served = replica.serve(&account.id).await.unwrap();
            assert_eq!(served.account.text("refresh_token").unwrap().expose(), account.first.refresh_token.clone().unwrap());
            replica.advance(2 * HOUR);
        }
        assert_eq!(town.lab.refresh_requests(), 3);
    }

    /// R32.
    async fn no_lifetime_a_provider_can_send_makes_a_token_unusable_or_a_storm(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let odd = [
            (json!("3600"), Some(HOUR)),
            (json!(3600.9), Some(Duration::from_millis(3_600_900))),
            (json!(0), None),
            (json!(-5), None),
            (json!("soon"), None),
            (json!(null), None),
            (json!([1]), None),
        ];
        for (at, (value, life)) in odd.into_iter().enumerate() {
            let account = replica.expired(&town, &format!("n{at}")).await;
            town.lab.misbehave(Rule::once(At::Refresh, Fault::set("expires_in", value.clone())));
            let served = replica.serve(&account.id).await.unwrap();
            assert_eq!(served.connection.expires_at.map(|end| end.since(replica.now())), life, "{value}");
            assert_eq!(served.account.expose().get("expires_at").is_some(), life.is_some(), "{value}");
            let before = town.lab.refresh_requests();
            for _ in 0..5 {
                replica.serve(&account.id).await.unwrap();
            }
            assert_eq!(town.lab.refresh_requests(), before, "{value}");
        }
        let account = replica.expired(&town, "huge").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::set("expires_in", 1e300)));
        let served = replica.serve(&account.id).await.unwrap();
        assert!(served.connection.expires_at.unwrap().since(replica.now()) > 90 * 365 * 24 * HOUR);
    }

    /// R31.
    async fn a_token_type_is_compared_without_case_and_an_unknown_one_is_not_used(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (loud, other) = (replica.expired(&town, "loud").await, replica.expired(&town, "other").await);
        town.lab.misbehave(Rule::once(At::Refresh, Fault::set("token_type", "BEARER")));
        assert_eq!(replica.serve(&loud.id).await.unwrap().connection.version, 2);
        town.lab.misbehave(Rule::once(At::Refresh, Fault::set("token_type", "dpop")));
        assert_eq!(replica.serve(&other.id).await.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(replica.opened(&other.id).await.text("access_token").unwrap().expose(), other.first.access_token);
    }

    /// R39.
    async fn a_refused_app_keeps_every_connection_and_raises_one_alert(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let accounts = [replica.expired(&town, "a").await, replica.expired(&town, "b").await, replica.expired(&town, "c").await];
        set_secret(&replica, "wrong").await;
        for account in &accounts {
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
            let stored = replica.stored(&account.id).await;
            assert_eq!((stored.connection.status, stored.connection.version), (Status::Active, 1));
        }
        assert_eq!(town.lab.refresh_requests(), 1, "the others wait for somebody to look at the app");
        let alerts = replica.events("refresh.failed").await;
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0]["error"], "invalid_client");
        // Corrected, it works at once.
        replica.advance(Duration::from_secs(10));
        set_secret(&replica, provider_lab::CLIENT_SECRET).await;
        for account in &accounts {
            assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
        }
    }

    async fn a_provider_that_fails_for_everybody_is_left_alone_for_a_while(db: Db) {
        let town = Town::new().await;
        let settings = Settings { breaker_after: 3, first_backoff: Duration::from_secs(2), ..quick() };
        let replica = town.replica_with(&db, settings).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(503)));
        let mut accounts = Vec::new();
        for n in 0..8 {
            let account = replica.expired(&town, &format!("n{n}")).await;
            let error = replica.serve(&account.id).await.unwrap_err();
            assert_eq!(error.code(), Code::RefreshFailed);
            assert!(error.retry_after().is_some());
            accounts.push(account);
        }
        assert_eq!(town.lab.refresh_requests(), 3);
        let living = replica.living(&town, "living", 4 * MINUTE).await;
        replica.serve(&living.id).await.unwrap();
        town.lab.behave();
        tokio::time::sleep(Duration::from_millis(2100)).await;
        replica.advance(MINUTE);
        for account in &accounts {
            replica.serve(&account.id).await.unwrap();
        }
    }

    async fn an_answer_that_cannot_be_stored_is_kept_until_it_can_be(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
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

    async fn a_shutdown_waits_for_the_refreshes_that_run(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayAfter { ms: 400 }));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.refresh_requests() == 1).await);
        caller.abort();
        replica.refresher.drain().await;
        assert_eq!(replica.stored(&account.id).await.connection.version, 2);
    }

    async fn an_access_token_is_extended_while_it_lives_and_not_afterwards(db: Db) {
        let town = Town::with(&DefinitionOptions { exchange: true, ..DefinitionOptions::default() }).await;
        let replica = town.replica(&db).await;
        let long = extendable(&town).await;
        let store = |left: Duration| {
            move |_: &mut _, tokens: &mut connection::Tokens, now: valetkey::clock::Timestamp| {
                tokens.issued_at = Some(now.plus(left).minus(60 * 24 * HOUR));
                tokens.expires_at = Some(now.plus(left));
            }
        };
        let living = replica.store(&long, "living", store(24 * HOUR)).await;
        assert_eq!(access(&replica.serve(&living).await.unwrap()), long.access_token);
        let stored = replica.until(&living, |stored| stored.connection.version == 2).await;
        assert_eq!(stored.connection.expires_at.map(|end| end.since(replica.now())), Some(60 * 24 * HOUR));
        let dead = replica.store(&extendable(&town).await, "dead", store(Duration::ZERO)).await;
        let before = town.lab.requests("exchange");
        assert_eq!(replica.serve(&dead).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(town.lab.requests("exchange"), before);
    }

    async fn an_account_that_cannot_be_renewed_is_served_to_its_very_end(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica
            .account(&town, "", |_, tokens, now| {
                tokens.renewal = connection::Renewal::None;
                tokens.expires_at = Some(now.plus(MINUTE));
            })
            .await;
        replica.advance(MINUTE - Duration::from_secs(1));
        let wish = Wish { min_life: Some(HOUR), rejected_version: Some(1) };
        assert_eq!(access(&replica.wish(&account.id, wish).await.unwrap()), account.first.access_token);
        replica.advance(Duration::from_secs(1));
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        let asked = replica.refresher.refresh_now(&replica.site, &account.id, &Actor::Operator).await;
        assert_eq!(asked.unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(town.lab.refresh_requests(), 0);
    }

    async fn the_app_that_minted_the_tokens_renews_them_also_after_it_was_replaced(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.register(provider_lab::Client::new("other-app", "other-secret"));
        let definition = replica.outside.catalogue.get(&"lab".parse().unwrap()).unwrap().clone();
        let values = serde_json::Map::from_iter([
            ("client_id".to_owned(), json!("other-app")),
            ("client_secret".to_owned(), json!("other-secret")),
        ]);
        let base = &replica.outside.base;
        let new = app_config::set(base, &replica.site, &Actor::Operator, &definition, &Owner::Site, &values).await.unwrap();
        assert_ne!(new.id, replica.config);
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
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
        let stored = loop {
            let _ = replica.serve(&account.id).await;
            let stored = replica.stored(&account.id).await;
            if stored.connection.status != Status::Active {
                break stored;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
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

    async fn a_process_without_the_definition_serves_what_lives_and_renews_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (living, dead) = (replica.living(&town, "living", 4 * MINUTE).await, replica.expired(&town, "dead").await);
        let bare = replica.rebuilt(quick(), |outside| outside.catalogue = Arc::default());
        assert_eq!(access(&bare.serve(&living.id).await.unwrap()), living.first.access_token);
        assert_eq!(bare.serve(&dead.id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(town.lab.refresh_requests(), 0);
    }
}

/// R36: two replicas on one PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_callers_on_two_replicas_make_one_request() {
    let (town, one, two) = two_replicas(quick(), quick()).await;
    for round in 0..3 {
        let account = one.expired(&town, &format!("n{round}")).await;
        if round == 2 {
            town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayAfter { ms: 600 }));
        }
        let tokens = crowd(&[&one, &two], &account.id, 64).await;
        assert!(tokens.iter().all(|token| *token == tokens[0] && town.lab.is_live(token)));
        assert_eq!(spends(&town, &account), 1);
    }
    assert_eq!(town.lab.refresh_requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keepers_and_many_callers_spend_no_refresh_token_twice() {
    let (town, one, two) = two_replicas(quick(), quick()).await;
    let mut accounts = Vec::new();
    for n in 0..20 {
        accounts.push(one.living(&town, &format!("n{n}"), 4 * MINUTE).await);
    }
    let (stop_one, stop_two) = (keep(&one), keep(&two));
    for account in &accounts {
        one.serve(&account.id).await.unwrap();
        two.serve(&account.id).await.unwrap();
    }
    for account in &accounts {
        one.until(&account.id, |stored| stored.connection.version == 2).await;
    }
    stop_one.cancel();
    stop_two.cancel();
    assert_eq!((town.lab.refresh_requests(), town.lab.most_spends_of_one_refresh_token()), (20, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_refused_on_two_replicas_at_once_is_renewed_once() {
    let (town, one, two) = two_replicas(quick(), quick()).await;
    let account = one.living(&town, "", HOUR / 2).await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayAfter { ms: 300 }));
    let stored = Arc::new(one.stored(&account.id).await);
    let callers: Vec<_> = (0..20)
        .map(|n| {
            let refresher = [&one, &two][n % 2].refresher.clone();
            let stored = stored.clone();
            let wish = Wish { min_life: None, rejected_version: Some(1) };
            tokio::spawn(async move { refresher.serve(stored, wish).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().connection.version, 2);
    }
    assert_eq!(town.lab.refresh_requests(), 1);
}

/// A holder that stood still past its lease comes back with an answer, and nobody has a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_kept_although_the_lease_was_lost() {
    let (town, slow, quick) = a_slow_and_a_quick_replica().await;
    let account = slow.expired(&town, "").await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
    town.lab.misbehave(Rule::once(At::Refresh, Fault::status(503)).skip(1));
    let holder = spawn(&slow, &account.id);
    assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
    // The other one takes over in vain.
    let error = until_tried(&quick, &account.id, &town, 2).await;
    assert_eq!(error, Code::RefreshFailed);
    town.lab.release();
    let served = holder.await.unwrap().unwrap();
    assert!(town.lab.is_live(&access(&served)));
    assert_eq!(served.connection.version, 2);
    assert_eq!(slow.events("refresh.ok").await[0]["lease_lost"], true);
    assert_eq!(access(&quick.serve(&account.id).await.unwrap()), access(&served));
}

/// The recovery attempt killed the family, or so it seemed; then the first answer comes after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_after_the_connection_was_given_up_is_the_truth() {
    let (town, slow, quick) = a_slow_and_a_quick_replica().await;
    let account = slow.expired(&town, "").await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
    let holder = spawn(&slow, &account.id);
    assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
    assert_eq!(until_tried(&quick, &account.id, &town, 2).await, Code::NotAuthenticated);
    assert_eq!(slow.stored(&account.id).await.connection.status, reauth("answer_lost"));
    town.lab.release();
    let served = holder.await.unwrap().unwrap();
    assert!(town.lab.is_live(&access(&served)));
    assert_eq!(slow.stored(&account.id).await.connection.status, Status::Active);
    assert_eq!(spends(&town, &account), 2);
}

/// The other replica recovered within the provider's grace window; its tokens stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_does_not_erase_what_another_replica_stored_meanwhile() {
    let (town, slow, quick) = a_slow_and_a_quick_replica().await;
    town.lab_settings(|settings| settings.grace = 3600);
    let account = slow.expired(&town, "").await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
    let holder = spawn(&slow, &account.id);
    assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
    let theirs = loop {
        match quick.serve(&account.id).await {
            Ok(served) => break served,
            Err(error) => assert_eq!(error.code(), Code::RefreshPending),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    town.lab.release();
    assert_eq!(access(&holder.await.unwrap().unwrap()), access(&theirs));
    let stored = slow.stored(&account.id).await;
    assert_eq!((stored.connection.version, stored.lease_holder), (2, None));
}

/// A replica that sees another one work on a token that still serves does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_another_replica_while_the_token_serves() {
    let (town, one, two) = two_replicas(quick(), quick()).await;
    let account = one.living(&town, "", 4 * MINUTE).await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldBefore));
    one.serve(&account.id).await.unwrap();
    assert!(town.lab.wait_until(Duration::from_secs(3), |lab| lab.held() == 1).await);
    let begun = std::time::Instant::now();
    for replica in [&one, &two] {
        assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
    }
    assert!(begun.elapsed() < Duration::from_millis(500));
    town.lab.release();
    one.until(&account.id, |stored| stored.connection.version == 2).await;
    assert_eq!(town.lab.refresh_requests(), 1);
}

async fn two_replicas(one: Settings, two: Settings) -> (Town, Replica, Replica) {
    let url = testing::postgres_url().await;
    let town = Town::new().await;
    let first = town.replica_with(&testing::open_postgres(&url).await, one).await;
    let second = town.replica_with(&testing::open_postgres(&url).await, two).await;
    (town, first, second)
}

/// One that gives its provider ten seconds, and one that takes it for dead after half a second.
async fn a_slow_and_a_quick_replica() -> (Town, Replica, Replica) {
    let slow = Settings { deadline: Duration::from_secs(10), ..quick() };
    let hasty = Settings { deadline: Duration::from_millis(300), lease_extra: Duration::from_millis(200), ..quick() };
    two_replicas(slow, hasty).await
}

/// Asks until the provider saw so many requests, and says how the last call ended.
async fn until_tried(replica: &Replica, id: &ConnectionId, town: &Town, requests: u64) -> Code {
    for _ in 0..200 {
        let error = replica.serve(id).await.unwrap_err();
        if error.code() != Code::RefreshPending {
            assert_eq!(town.lab.refresh_requests(), requests);
            return error.code();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the provider was not asked {requests} times");
}

/// So many callers at once, spread over the replicas; the tokens they got.
async fn crowd(replicas: &[&Replica], id: &ConnectionId, callers: usize) -> Vec<String> {
    let callers: Vec<_> = (0..callers).map(|n| spawn(replicas[n % replicas.len()], id)).collect();
    let mut tokens = Vec::new();
    for caller in callers {
        tokens.push(access(&caller.await.unwrap().unwrap()));
    }
    tokens
}

fn spawn(replica: &Replica, id: &ConnectionId) -> tokio::task::JoinHandle<valetkey::Result<valetkey::refresh::Served>> {
    let (replica, id) = (replica.clone(), id.clone());
    tokio::spawn(async move { replica.serve(&id).await })
}

fn keep(replica: &Replica) -> tokio_util::sync::CancellationToken {
    let stop = tokio_util::sync::CancellationToken::new();
    let (refresher, token) = (replica.refresher.clone(), stop.clone());
    tokio::spawn(async move { refresher.keeper(token).await });
    stop
}

fn spends(town: &Town, account: &Account) -> u64 {
    town.lab.spends_of_refresh_token(&fingerprint(account.first.refresh_token.as_deref().unwrap()))
}

fn reauth(reason: &str) -> Status {
    Status::NeedsReauth { reason: reason.to_owned() }
}

async fn end(replica: &Replica, id: &ConnectionId, wish: UpstreamWish) {
    revoke::connection(&replica.outside, &replica.site, &Actor::Operator, id, "asked for", wish).await.unwrap();
}

async fn set_secret(replica: &Replica, secret: &str) {
    let definition = replica.outside.catalogue.get(&"lab".parse().unwrap()).unwrap().clone();
    let base = &replica.outside.base;
    app_config::set(base, &replica.site, &Actor::Operator, &definition, &Owner::Site, &client(secret)).await.unwrap();
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

/// A long-lived token of the lab, as its second-stage exchange makes it.
async fn extendable(town: &Town) -> provider_lab::Issued {
    let issued = town.issue();
    let url = format!(
        "{}/exchange?grant_type=lab_exchange_token&client_secret={}&access_token={}",
        town.lab.origin(),
        provider_lab::CLIENT_SECRET,
        issued.access_token
    );
    let request = http::Request::get(url).body(bytes::Bytes::new()).unwrap();
    let limits = valetkey::upstream::Limits::within(Duration::from_secs(5));
    let answer = town.upstream(true).exchange(request, limits).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(answer.body.expose()).unwrap();
    provider_lab::Issued {
        access_token: body["access_token"].as_str().unwrap().to_owned(),
        refresh_token: None,
        expires_in: 60 * 86_400,
        scope: SCOPES.to_owned(),
    }
}
