//! Many at once, and two replicas: of one approval one call comes, and of one call one question.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use provider_lab::{At, Fault, Rule};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use valetkey::{
    Code, Result, approval,
    approval::Status,
    audit::{Audit, Mode},
    base::{Base, Outside},
    db::testing,
    decision::Authority,
    deliver::{Deliverer, proxy::Target},
    grant::{self, Effect, ForWhom, NewGrant},
    id::{ApprovalId, GrantId},
    on_each_db,
    principal::Actor,
    refresh::{self, Refresher},
    token,
};

use crate::{
    approval::{Asking, asks, held, person, usual},
    deliver::Yard,
    support::both,
};

/// Eight at once make the usual call, taking turns at the replicas.
async fn race(asking: &Asking, replicas: &[&Deliverer], approval: Option<&ApprovalId>) -> Vec<Result<StatusCode>> {
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let deliverer = replicas[n % replicas.len()].clone();
            let (caller, connection) = (asking.caller.clone(), asking.yard.connection.clone());
            let approval = approval.cloned();
            tokio::spawn(async move {
                let made = usual();
                let (path, query) = made.path.split_once('?').unwrap();
                let (mut parts, ()) = http::Request::builder().method(made.method.clone()).body(()).unwrap().into_parts();
                parts.headers = made.header_map(approval.as_ref());
                let target = Target { host: None, path, query: Some(query) };
                let body = Full::new(Bytes::from_static(made.body.as_bytes()));
                deliverer.proxy(&caller, &connection, target, parts, body).await.map(|answer| answer.status())
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

#[track_caller]
fn exactly_one_was_sent(asking: &Asking, outcomes: Vec<Result<StatusCode>>) {
    let (sent, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((sent.len(), asking.sent()), (1, 1));
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().code(), Code::ApprovalUsed);
    }
}

/// Another process on the same PostgreSQL: its own connections, caches and audit writers.
async fn replica(asking: &Asking, url: &str) -> Deliverer {
    let first = asking.base();
    let (clock, ring, db) = (first.clock.clone(), first.ring.clone(), testing::open_postgres(url).await);
    let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
    let outside = Outside { base: Base { db: db.clone(), ring, clock, audit }, ..asking.yard.outside.clone() };
    let refresher = Refresher::new(outside.clone(), refresh::Settings::default());
    Deliverer::new(outside, Authority::new(db), refresher, token::LastUsed::default())
}

impl Asking {
    /// Has it ask under a grant for so many uses, in place of the one without a limit.
    pub(crate) async fn counted(&self, uses: i64) -> GrantId {
        grant::revoke(self.base(), self.site(), &Actor::Operator, &self.grant, "test").await.unwrap();
        let new = NewGrant { max_uses: Some(uses), ..asks(&self.yard.agent, &self.yard.connection, ForWhom::Owner) };
        self.yard.house.grant_with(new).await
    }
}

on_each_db! {
    /// Somebody else took the grant's last use between the decision and the call.
    async fn an_approval_is_not_spent_where_its_grant_is_used_up(db: Db) {
        let asking = Asking::new(&db).await;
        let site = asking.site();
        let grant = asking.counted(1).await;
        let id = asking.approved().await;
        let found = approval::get(&db, site, &id).await.unwrap().unwrap();
        let take = async || approval::take(asking.base(), site, &Actor::System, &found, true).await.unwrap();
        assert!(grant::take_use(&db, site, &grant).await.unwrap());
        assert!(!take().await);
        let found = approval::get(&db, site, &id).await.unwrap().unwrap();
        assert_eq!(found.status(asking.base().clock.now()), Status::Approved);
    }

    async fn an_approval_takes_its_grants_use_along(db: Db) {
        let asking = Asking::new(&db).await;
        let site = asking.site();
        let grant = asking.counted(2).await;
        let found = approval::get(&db, site, &asking.approved().await).await.unwrap().unwrap();
        let take = async || approval::take(asking.base(), site, &Actor::System, &found, true).await;
        assert!(take().await.unwrap());
        assert_eq!(take().await.unwrap_err().code(), Code::ApprovalUsed);
        assert_eq!(grant::get(&db, site, &grant).await.unwrap().unwrap().uses, 1);
    }

    /// T-269.
    async fn of_eight_that_make_the_approved_call_one_sends(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        let outcomes = race(&asking, &[&asking.yard.deliverer], Some(&id)).await;
        exactly_one_was_sent(&asking, outcomes);
    }

    async fn of_eight_that_are_held_at_once_there_is_one_question(db: Db) {
        let asking = Asking::new(&db).await;
        let outcomes = race(&asking, &[&asking.yard.deliverer], None).await;
        let ids: BTreeSet<_> = outcomes.into_iter().map(|outcome| held(&outcome.unwrap_err())).collect();
        assert_eq!((ids.len(), asking.all().await.len()), (1, 1));
    }

    /// T-269.
    async fn of_a_yes_and_a_no_at_once_one_counts(db: Db) {
        let asking = Arc::new(Asking::new(&db).await);
        let id = asking.hold().await;
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (asking, id) = (Arc::clone(&asking), id.clone());
                tokio::spawn(async move {
                    match n % 2 {
                        0 => asking.approve(&id).await,
                        _ => approval::refuse(asking.base(), asking.site(), &person("alice"), &id, "").await,
                    }
                })
            })
            .collect();
        let mut counted = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(answered) => counted.push(answered.status(asking.base().clock.now())),
                Err(error) => assert_eq!(error.code(), Code::Conflict),
            }
        }
        assert_eq!(counted, [asking.status(&id).await]);
    }

    /// Somebody makes a grant that asks while the call waits for a token. The agent makes it again, and the audit says why.
    async fn a_call_that_a_change_of_grants_overtook_is_in_the_audit(db: Db) {
        let yard = Yard::new(&db).await;
        let connection = yard.renewable(&yard.app().await, "one", true).await;
        let allows = NewGrant { delivery: both(), ..NewGrant::proxy(&yard.agent, &connection, ForWhom::Owner) };
        yard.house.grant_with(allows.clone()).await;
        let caller = yard.caller(Some("alice")).await;
        yard.lab.control().misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let waiting = tokio::spawn({
            let (deliverer, connection) = (yard.deliverer.clone(), connection.clone());
            async move { deliverer.reveal(&caller, &connection, None).await.map(|_| ()) }
        });
        while yard.lab.control().held() == 0 {
            assert!(!waiting.is_finished(), "{:?}", waiting.await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let asks = yard.house.grant_with(NewGrant { effect: Effect::Ask, ..allows }).await;
        yard.lab.control().release();
        assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Conflict);
        let rows = yard.audited().await;
        let refused: Vec<_> = rows.iter().filter(|row| row.action == "connection.use" && row.outcome == "denied").collect();
        assert_eq!(refused.len(), 1, "{rows:?}");
        let facts: Value = serde_json::from_str(&refused[0].facts).unwrap();
        assert_eq!(facts, json!({ "grant": asks, "code": "conflict", "reasons": ["changed"] }));
        assert_eq!(refused[0].connection.as_deref(), Some(connection.as_str()));
        assert!(!rows.iter().any(|row| row.action == "connection.reveal"));
    }

    async fn whoever_waits_for_the_answer_gets_it_when_it_comes(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.hold().await;
        let waiting = tokio::spawn({
            let (base, site, id) = (asking.base().clone(), asking.site().clone(), id.clone());
            async move { approval::wait(&base, &site, &id, Duration::from_secs(30), &CancellationToken::new()).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished());
        asking.approve(&id).await.unwrap();
        let found = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it waits on").unwrap().unwrap().unwrap();
        assert_eq!(found.status(asking.base().clock.now()), Status::Approved);
        let (nobodys, open) = (ApprovalId::new(), CancellationToken::new());
        let none = approval::wait(asking.base(), asking.site(), &nobodys, Duration::from_secs(30), &open);
        assert!(none.await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_that_make_the_approved_call_one_sends() {
    let url = testing::postgres_url().await;
    let asking = Asking::new(&testing::open_postgres(&url).await).await;
    let other = replica(&asking, &url).await;
    let id = asking.approved().await;
    let outcomes = race(&asking, &[&asking.yard.deliverer, &other], Some(&id)).await;
    exactly_one_was_sent(&asking, outcomes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_that_hold_a_call_at_once_there_is_one_question() {
    let url = testing::postgres_url().await;
    let asking = Asking::new(&testing::open_postgres(&url).await).await;
    let other = replica(&asking, &url).await;
    let outcomes = race(&asking, &[&asking.yard.deliverer, &other], None).await;
    let ids: BTreeSet<_> = outcomes.into_iter().map(|outcome| held(&outcome.unwrap_err())).collect();
    assert_eq!((ids.len(), asking.all().await.len()), (1, 1));
}

/// What one replica is told the other finds, without having been told itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_given_at_one_replica_reaches_who_waits_at_the_other() {
    let url = testing::postgres_url().await;
    let asking = Asking::new(&testing::open_postgres(&url).await).await;
    let id = asking.hold().await;
    let base = Base { db: testing::open_postgres(&url).await, ..asking.base().clone() };
    let waiting = tokio::spawn({
        let (site, id) = (asking.site().clone(), id.clone());
        async move { approval::wait(&base, &site, &id, Duration::from_secs(30), &CancellationToken::new()).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    asking.approve(&id).await.unwrap();
    let found = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it waits on").unwrap().unwrap().unwrap();
    assert_eq!(found.status(asking.base().clock.now()), Status::Approved);
}
