//! The audit: recorded with what it describes, chained, and never silently short.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::hmac;
use serde_json::json;
use valetkey::{
    audit::{self, AUDIT_LABEL, Audit, Event, Mode, Row},
    db::testing,
    error::Code,
    on, on_each_db,
    principal::Actor,
};

use crate::support::House;

on_each_db! {
    async fn a_change_that_did_not_happen_is_not_recorded(db: Db) {
        let house = House::new(&db).await;
        let before = rows(&house).await.len();
        let mut tx = db.begin().await.unwrap();
        house.base.audit.record(&mut tx, Event::new(&house.site, &Actor::System, "test.lost")).await.unwrap();
        drop(tx);
        let mut tx = db.begin().await.unwrap();
        house.base.audit.record(&mut tx, Event::new(&house.site, &Actor::System, "test.kept")).await.unwrap();
        tx.commit().await.unwrap();
        let after = rows(&house).await;
        assert_eq!(after.len(), before + 1);
        verify(&house, &after).await;
    }

    async fn changes_at_once_are_all_recorded_in_unbroken_chains(db: Db) {
        let house = House::new(&db).await;
        let before = rows(&house).await.len();
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let (base, site) = (house.base.clone(), house.site.clone());
                tokio::spawn(async move {
                    let mut tx = base.db.begin().await.unwrap();
                    for part in 0..2 {
                        let event = Event::new(&site, &Actor::System, "test.change").facts(json!({ "n": n, "part": part }));
                        base.audit.record(&mut tx, event).await.unwrap();
                    }
                    // Every tenth is taken back, which must leave no gap.
                    if n % 10 != 0 {
                        tx.commit().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let after = rows(&house).await;
        assert_eq!(after.len(), before + 180);
        verify(&house, &after).await;
    }

    /// Rows are inserted several at once, by statements of a few sizes.
    async fn however_many_changes_a_commit_makes_each_is_recorded_once_and_in_order(db: Db) {
        let house = House::new(&db).await;
        let mut numbers = 0..;
        for many in [0, 1, 2, 3, 63, 64, 65, 127, 130] {
            let next = numbers.by_ref().take(many);
            let events: Vec<_> =
                next.map(|n| Event::new(&house.site, &Actor::System, "test.change").facts(json!({ "n": n }))).collect();
            let mut tx = db.begin().await.unwrap();
            house.base.audit.record_many(&mut tx, &events).await.unwrap();
            tx.commit().await.unwrap();
        }
        let after = rows(&house).await;
        verify(&house, &after).await;
        let recorded: Vec<_> = after.iter().filter(|row| row.action == "test.change").map(|row| row.facts.clone()).collect();
        let expected: Vec<_> = (0..numbers.start).map(|n| json!({ "n": n }).to_string()).collect();
        assert_eq!(recorded, expected);
    }

    async fn an_edited_row_breaks_its_chain(db: Db) {
        let house = House::new(&db).await;
        let mut rows = rows(&house).await;
        verify(&house, &rows).await;
        rows[0].facts = json!({ "forged": true }).to_string();
        assert!(!links(&house, &rows).await);
    }

    async fn batched_uses_are_written_when_the_queue_is_closed(db: Db) {
        let house = House::new(&db).await;
        let audit = Audit::new(house.base.clock.clone(), house.base.ring.clone(), Mode::Batched);
        let runner = tokio::spawn({
            let (audit, db) = (audit.clone(), db.clone());
            async move { audit.run(db).await }
        });
        let before = rows(&house).await.len();
        for _ in 0..1_000 {
            audit.record_use(Event::new(&house.site, &Actor::System, "test.use")).await.unwrap();
        }
        audit.close();
        runner.await.unwrap();
        let after = rows(&house).await;
        assert_eq!(after.len(), before + 1_000);
        verify(&house, &after).await;
        let refused = audit.record_use(Event::new(&house.site, &Actor::System, "test.use")).await.unwrap_err();
        assert_eq!(refused.code(), Code::AuditUnavailable);
    }

    async fn a_strict_use_is_committed_before_the_answer_may_leave(db: Db) {
        let house = House::new(&db).await;
        let audit = Audit::new(house.base.clock.clone(), house.base.ring.clone(), Mode::Strict);
        tokio::spawn({
            let (audit, db) = (audit.clone(), db.clone());
            async move { audit.run(db).await }
        });
        for n in 1..=5 {
            let before = rows(&house).await.len();
            audit.record_use(Event::new(&house.site, &Actor::System, "test.use").facts(json!({ "n": n }))).await.unwrap();
            assert_eq!(rows(&house).await.len(), before + 1);
        }
    }

    /// Without its key, a site's rows cannot be chained; making it needs the connection that the batch would hold.
    async fn uses_at_a_site_without_a_key_do_not_hold_up_the_queue(db: Db) {
        let house = House::new(&db).await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("INSERT INTO sites (id, title, return_to, created_at) VALUES ('half', 'Half', '[]', 0)")
            .execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        let before = rows(&house).await.len();
        for site in ["half", "default"] {
            house.base.audit.record_use(Event::new(&site.parse().unwrap(), &Actor::System, "test.use")).await.unwrap();
        }
        house.base.audit.close();
        tokio::time::timeout(Duration::from_secs(10), house.base.audit.run(db.clone())).await.expect("it is held up");
        assert_eq!(rows(&house).await.len(), before + 2);
    }

    /// One site whose key was spoiled must not stop what is recorded of the others.
    async fn uses_at_a_site_whose_key_cannot_be_had_are_refused_and_the_others_written(db: Db) {
        let house = House::new(&db).await;
        testing::execute(&db, "INSERT INTO sites (id, title, return_to, created_at) VALUES ('half', 'Half', '[]', 0)").await;
        let spoiled = "INSERT INTO data_keys (site, provider, version, id, root_id, wrapped, created_at)
                       SELECT 'half', provider, version, 'not its own', root_id, wrapped, created_at FROM data_keys
                       WHERE site = 'default' AND provider = '_audit'";
        testing::execute(&db, spoiled).await;
        let audit = house.base.audit.clone();
        tokio::spawn({
            let (audit, db) = (audit.clone(), db.clone());
            async move { audit.run(db).await }
        });
        let used = async |site: &str| audit.record_use(Event::new(&site.parse().unwrap(), &Actor::System, "test.use")).await;
        // What is held back is tried again after two seconds, by a database that other tests may keep busy.
        let written = async |site: &str| {
            let looking = async {
                while !rows(&house).await.iter().any(|row| row.site == site && row.action == "test.use") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), looking).await.is_ok()
        };
        used("half").await.unwrap();
        used("default").await.unwrap();
        assert!(written("default").await, "the other site's use waits");
        assert_eq!(used("half").await.unwrap_err().code(), Code::AuditUnavailable);
        used("default").await.unwrap();
        testing::execute(&db, "DELETE FROM data_keys WHERE site = 'half'").await;
        assert!(written("half").await, "what was allowed before is dropped");
        used("half").await.unwrap();
    }

    async fn a_listing_is_bounded_whatever_is_asked_for(db: Db) {
        let house = House::new(&db).await;
        house.agent("a", None).await;
        for (asked, given) in [(-1, 1), (0, 1), (2, 2)] {
            assert_eq!(audit::list(&db, &house.site, None, asked).await.unwrap().len(), given, "{asked}");
        }
    }

    async fn a_queue_that_stays_full_refuses_and_drops_nothing(db: Db) {
        let house = House::new(&db).await;
        // Nobody empties this queue.
        let audit = Audit::new(house.base.clock.clone(), house.base.ring.clone(), Mode::Batched);
        let event = || Event::new(&house.site, &Actor::System, "test.use");
        let mut taken = 0;
        let refused = loop {
            match tokio::time::timeout(Duration::from_secs(5), audit.record_use(event())).await.expect("it hangs") {
                Ok(()) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.code(), Code::AuditUnavailable);
        let before = rows(&house).await.len();
        audit.close();
        audit.run(db.clone()).await;
        assert_eq!(rows(&house).await.len(), before + taken);
    }
}

async fn rows(house: &House) -> Vec<Row> {
    // Asked first: rows may be written between the two, and are never taken away.
    let listed = audit::list(&house.base.db, &house.site, None, 10).await.unwrap().len();
    let rows: Vec<Row> = on!(&house.base.db, |c| {
        sqlx::query_as(
        "SELECT site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain FROM audit ORDER BY writer, seq"
    )
    .fetch_all(c)
    .await
    .unwrap()
    });
    assert!(listed <= rows.len());
    rows
}

async fn verify(house: &House, rows: &[Row]) {
    assert!(links(house, rows).await);
}

async fn links(house: &House, rows: &[Row]) -> bool {
    let key = house.base.ring.derived(&house.base.db, &house.site, AUDIT_LABEL).await.unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let mut heads: HashMap<&str, (i64, &[u8])> = HashMap::new();
    rows.iter().all(|row| {
        let (seq, before) = heads.get(row.writer.as_str()).copied().unwrap_or((0, &[]));
        heads.insert(&row.writer, (row.seq, &row.chain));
        row.seq == seq + 1 && row.link(&key, before) == row.chain
    })
}
