//! Refresh on two replicas of one PostgreSQL.

use std::{sync::Arc, time::Duration};

use provider_lab::{At, Fault, Rule};
use valetkey::{
    Code,
    connection::Status,
    db::testing,
    id::ConnectionId,
    refresh::{Settings, Wish},
};

use crate::{
    refresh_slots,
    town::{HOUR, MINUTE, Replica, START, Town, access, crowd, keep, quick, reauth, spawn, spends},
};

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
async fn a_second_token_of_a_connection_is_renewed_once_on_two_replicas() {
    let url = testing::postgres_url().await;
    let town = refresh_slots::town().await;
    let one = town.replica(&testing::open_postgres(&url).await).await;
    let two = town.replica(&testing::open_postgres(&url).await).await;
    let (id, before) = refresh_slots::account(&one, &town, START.minus(MINUTE)).await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::DelayAfter { ms: 300 }));
    let callers: Vec<_> = (0..16)
        .map(|n| {
            let (replica, id) = ([&one, &two][n % 2].clone(), id.clone());
            tokio::spawn(async move { refresh_slots::use_second(&replica, &id).await })
        })
        .collect();
    for caller in callers {
        let token = caller.await.unwrap().unwrap();
        assert!(token != before.access_token && town.lab.is_live(&token));
    }
    assert_eq!(town.lab.refresh_requests(), 1);
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
    assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
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
    assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
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
    assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
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
    // Whoever waited would wait for this long.
    let patient = || Settings { deadline: Duration::from_secs(20), ..quick() };
    let (town, one, two) = two_replicas(patient(), patient()).await;
    let account = one.living(&town, "", 4 * MINUTE).await;
    town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldBefore));
    one.serve(&account.id).await.unwrap();
    assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
    let begun = std::time::Instant::now();
    for replica in [&one, &two] {
        assert_eq!(access(&replica.serve(&account.id).await.unwrap()), account.first.access_token);
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
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
