//! Refresh (decisions 1): one request per token version, nothing lost, nothing withheld.

use std::{sync::Arc, time::Duration};

use provider_lab::{At, DefinitionOptions, Fault, Rotation, Rule};
use serde_json::json;
use valetkey::{
    Code, app_config, audit,
    connection::{self, Status},
    extend::Extensions,
    id::ConnectionId,
    on_each_db,
    principal::{Actor, Owner},
    refresh::{Settings, Wish},
};

use crate::{
    desk::Ears,
    town::{HOUR, MINUTE, Replica, SCOPES, Town, access, client, crowd, keep, quick, reauth, spawn},
};

on_each_db! {
    /// R36.
    ///
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
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        town.lab.release();
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        replica.serve(&account.id).await.unwrap();
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    ///
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
    ///
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
    ///
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
        // Of failures in a row the first is recorded.
        let failed = replica.events("refresh.failed").await;
        assert_eq!((failed.len(), &failed[0]["error"], &failed[0]["answer_lost"]), (1, &json!("http_500"), &json!(false)));
    }

    /// R39.
    ///
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

    async fn whoever_listens_is_told_of_a_failed_refresh_and_once_of_a_broken_connection(db: Db) {
        let town = Town::new().await;
        let heard = Arc::new(Ears::default());
        let replica = town.replica(&db).await;
        let replica = replica.rebuilt(quick(), |outside| outside.extensions = Extensions::default().events(heard.clone()));
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(500)));
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(heard.take(), ["refresh failed: user:alice, http_500"]);
        town.lab.behave();
        town.lab.misbehave(Rule::always(At::Refresh, Fault::oauth("invalid_grant")));
        replica.advance(HOUR);
        for _ in 0..2 {
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
        }
        assert_eq!(heard.take(), ["broken: user:alice, invalid_grant"]);
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

    ///
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

    ///
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

    /// R34: what was kept of a former answer is sealed anew with the rest, and is what the next refresh spends.
    async fn the_old_refresh_token_serves_on_across_a_rotation_of_the_data_keys(db: Db) {
        let town = Town::new().await;
        town.lab_settings(|settings| settings.rotation = Rotation::Never);
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        let first = account.first.refresh_token.clone().unwrap();
        for round in 1..=3 {
            let served = replica.serve(&account.id).await.unwrap();
            assert_eq!(served.account.text("refresh_token").unwrap().expose(), first);
            assert_eq!(town.lab.refresh_requests(), round);
            let ring = &replica.outside.base.ring;
            let rotated = valetkey::seal::rotate::rotate(&db, ring, Some(&replica.site), None, |_| {}).await.unwrap();
            assert!(rotated.resealed > 0, "nothing was sealed anew");
            replica.advance(2 * HOUR);
        }
        assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
        assert_eq!(town.lab.refresh_requests(), 4);
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
        let mut alerts = replica.events("refresh.failed").await;
        alerts.retain(|facts| facts["app_config"].is_string());
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0]["error"], "invalid_client");
        // Corrected, it works at once.
        replica.advance(Duration::from_secs(10));
        set_secret(&replica, provider_lab::CLIENT_SECRET).await;
        for account in &accounts {
            assert!(town.lab.is_live(&access(&replica.serve(&account.id).await.unwrap())));
        }
    }

    /// Beside the alert, which is about the app.
    async fn of_refusals_of_an_app_in_a_row_the_first_is_recorded_for_the_connection(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        set_secret(&replica, "wrong").await;
        for failures in 1..=2 {
            // A process that knows of no alert yet.
            let fresh = replica.rebuilt(quick(), |_| {});
            assert_eq!(fresh.serve(&account.id).await.unwrap_err().code(), Code::RefreshFailed);
            assert_eq!(replica.stored(&account.id).await.connection.failures, failures);
            replica.advance(HOUR);
        }
        assert_eq!(town.lab.refresh_requests(), 2);
        let failed = failures_of(&replica, &account.id).await;
        assert_eq!((failed.len(), &failed[0]["error"], &failed[0]["answer_lost"]), (1, &json!("invalid_client"), &json!(false)));
    }

    async fn of_renewals_that_could_not_be_asked_for_the_first_in_a_row_is_recorded(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica
            .account(&town, "", |account, tokens, now| {
                account.expose_mut().remove("refresh_token");
                tokens.expires_at = Some(now.minus(MINUTE));
            })
            .await;
        for failures in 1..=2 {
            assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotAuthenticated);
            assert_eq!(replica.stored(&account.id).await.connection.failures, failures);
            replica.advance(MINUTE);
        }
        assert_eq!(town.lab.refresh_requests(), 0);
        let failed = failures_of(&replica, &account.id).await;
        assert_eq!((failed.len(), &failed[0]["error"]), (1, &json!("not_authenticated")));
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

    async fn whoever_waits_for_room_at_a_provider_that_fails_meanwhile_is_not_sent_there(db: Db) {
        let town = Town::new().await;
        let replica = town.replica_with(&db, Settings { breaker_after: 3, at_once: 1, ..quick() }).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(503)));
        let mut callers = Vec::new();
        for n in 0..8 {
            callers.push(spawn(&replica, &replica.expired(&town, &format!("n{n}")).await.id));
        }
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::RefreshFailed);
        }
        // The next may be under way before an answer is counted.
        let sent = town.lab.refresh_requests();
        assert!((3..=4).contains(&sent), "{sent} of 8 were sent");
    }

    async fn a_shutdown_waits_for_the_refreshes_that_run(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayAfter { ms: 400 }));
        let caller = spawn(&replica, &account.id);
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.refresh_requests() == 1).await);
        caller.abort();
        replica.refresher.drain().await;
        assert_eq!(replica.stored(&account.id).await.connection.version, 2);
    }

    async fn an_access_token_that_is_too_young_is_served_and_not_extended(db: Db) {
        let mut town = Town::with(&DefinitionOptions { exchange: true, ..DefinitionOptions::default() }).await;
        town.definition = town.definition.replace("accept_expired = false", "accept_expired = false\nmin_age = \"24h\"");
        let replica = town.replica(&db).await;
        let long = extendable(&town).await;
        // A life of thirty hours: two thirds of it are over before it is old enough.
        let id = replica
            .store(&long, "", |_, tokens, now| {
                tokens.issued_at = Some(now.minus(21 * HOUR));
                tokens.expires_at = Some(now.plus(9 * HOUR));
            })
            .await;
        let before = town.lab.requests("exchange");
        assert_eq!(access(&replica.serve(&id).await.unwrap()), long.access_token);
        let wish = Wish { rejected_version: Some(1), min_life: None };
        assert_eq!(access(&replica.wish(&id, wish).await.unwrap()), long.access_token, "not even where it is refused");
        let asked = replica.refresher.refresh_now(&replica.site, &id, &Actor::Operator).await.unwrap_err();
        assert_eq!(asked.code(), Code::InvalidRequest);
        assert_eq!(town.lab.requests("exchange"), before);

        replica.advance(3 * HOUR);
        replica.serve(&id).await.unwrap();
        replica.until(&id, |stored| stored.connection.version == 2).await;
        assert_eq!(town.lab.requests("exchange"), before + 1);
    }

    ///
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
        let told = async |id| replica.stored(id).await.connection.is_authenticated(replica.now());
        assert!(told(&living).await && !told(&dead).await);
    }

    ///
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

/// What is recorded of failed renewals of a connection.
async fn failures_of(replica: &Replica, id: &ConnectionId) -> Vec<serde_json::Value> {
    let rows = audit::list(&replica.outside.base.db, &replica.site, None, 1000).await.unwrap();
    rows.iter()
        .filter(|row| row.action == "refresh.failed" && row.connection.as_deref() == Some(id.as_str()))
        .map(|row| serde_json::from_str(&row.facts).unwrap())
        .collect()
}

async fn set_secret(replica: &Replica, secret: &str) {
    let definition = replica.outside.catalogue.get(&"lab".parse().unwrap()).unwrap().clone();
    let base = &replica.outside.base;
    app_config::set(base, &replica.site, &Actor::Operator, &definition, &Owner::Site, &client(secret)).await.unwrap();
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
