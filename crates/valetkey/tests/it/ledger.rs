//! The ledger as a whole: what an attacker on the database does to real rows, and that it is found; exports; heads.

use std::collections::BTreeSet;

use serde_json::json;
use valetkey::{
    audit::{Audit, Event, FaultKind, Heads, Mode, Reader, Report, Row},
    base::Base,
    db::{Db, testing},
    error::Code,
    on, on_each_db,
    principal::Actor,
    site,
};

use crate::support::House;

on_each_db! {
    async fn an_untouched_ledger_has_no_fault(db: Db) {
        let house = house(&db).await;
        second_chain(&house).await;
        let head = house.base.audit.heads(&db, &house.site).await.unwrap();
        let report = verified(&house, Some(&head)).await;
        assert_eq!((report.chains, report.rows, report.faulty), (2, rows(&db).await.len() as u64, 0), "{report:?}");
        assert!(report.rows > 10);
    }

    async fn every_column_of_a_row_is_under_its_link(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        let edits = ["id = 'evt_forged'", "at = at + 1", "actor = 'nobody'", "action = 'agent.delete'", "outcome = 'denied'",
            "agent = 'another'", "connection = 'con_forged'", "facts = '{\"forged\":true}'"];
        for (edit, seq) in edits.iter().zip(2_i64..) {
            attack(&db, &format!("UPDATE audit SET {edit} WHERE writer = '{writer}' AND seq = {seq}")).await;
            let report = verified(&house, None).await;
            let expected: Vec<_> = (2..=seq).map(|seq| (FaultKind::Changed, writer.clone(), seq, seq)).collect();
            assert_eq!(places(&report), expected, "{edit}");
        }
    }

    async fn a_row_that_was_left_out_is_named_by_its_place(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{writer}' AND seq IN (3, 4, 7)")).await;
        let report = verified(&house, None).await;
        let missing = |from, to| (FaultKind::Missing, writer.clone(), from, to);
        assert_eq!(places(&report), [missing(3, 4), missing(7, 7)]);
        assert!(report.faults.iter().all(|fault| fault.site == house.site && fault.event.is_none()));
    }

    async fn the_first_row_of_a_chain_is_not_left_out_either(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{writer}' AND seq = 1")).await;
        assert_eq!(places(&verified(&house, None).await), [(FaultKind::Missing, writer, 1, 1)]);
    }

    async fn rows_that_changed_places_are_named(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        for (from, to) in [(3, 100), (4, 3), (100, 4)] {
            attack(&db, &format!("UPDATE audit SET seq = {to} WHERE writer = '{writer}' AND seq = {from}")).await;
        }
        // Each stands where another was recorded, and the row behind them follows neither.
        let found: BTreeSet<_> = verified(&house, None).await.faults.iter().map(|fault| (fault.seq, fault.what as u8)).collect();
        assert_eq!(found, BTreeSet::from([3, 4, 5].map(|seq| (seq, FaultKind::Changed as u8))));
    }

    async fn closing_the_gap_behind_a_row_that_was_left_out_does_not_hide_it(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        let last = last_seq(&db, &writer).await;
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{writer}' AND seq = 3")).await;
        for seq in 4..=last {
            attack(&db, &format!("UPDATE audit SET seq = {} WHERE writer = '{writer}' AND seq = {seq}", seq - 1)).await;
        }
        let report = verified(&house, None).await;
        assert_eq!((report.faults[0].what, report.faults[0].seq), (FaultKind::Changed, 3), "{report:?}");
    }

    async fn a_row_that_was_put_in_is_named(db: Db) {
        let house = house(&db).await;
        let writer = writer(&db).await;
        let last = last_seq(&db, &writer).await;
        for seq in [-5, last + 1] {
            let copy = format!(
                "INSERT INTO audit (site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain)
                 SELECT site, writer, {seq}, 'evt_{seq}', at, actor, action, outcome, agent, connection, facts, chain
                 FROM audit WHERE writer = '{writer}' AND seq = {last}"
            );
            attack(&db, &copy).await;
        }
        let report = verified(&house, None).await;
        let changed = |seq| (FaultKind::Changed, writer.clone(), seq, seq);
        assert_eq!(places(&report), [changed(-5), changed(last + 1)]);
        assert_eq!(report.faults[1].event, Some(format!("evt_{}", last + 1)));
    }

    async fn a_row_that_was_moved_to_another_site_is_missing_here_and_strange_there(db: Db) {
        let house = house(&db).await;
        let other = site::create(&house.base, &Actor::Operator, &"other".parse().unwrap(), "Other").await.unwrap().id;
        let writer = writer(&db).await;
        attack(&db, &format!("UPDATE audit SET site = 'other' WHERE site = 'default' AND writer = '{writer}' AND seq = 2")).await;
        assert_eq!(places(&verified(&house, None).await), [(FaultKind::Missing, writer.clone(), 2, 2)]);
        let there = house.base.audit.verify(&db, &other, None, |_| ()).await.unwrap();
        assert_eq!(places(&there), [(FaultKind::Changed, writer, 2, 2)]);
        assert_eq!(there.faults[0].site, other);
    }

    async fn an_end_that_was_cut_off_is_found_against_a_head_and_not_without(db: Db) {
        let house = house(&db).await;
        let head = kept(&house.base.audit.heads(&db, &house.site).await.unwrap());
        let writer = writer(&db).await;
        let last = last_seq(&db, &writer).await;
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{writer}' AND seq > {}", last - 3)).await;
        assert_eq!(verified(&house, None).await.faulty, 0);
        let report = verified(&house, Some(&head)).await;
        assert_eq!(places(&report), [(FaultKind::CutOff, writer, last - 2, last)]);
        assert_eq!(report.head_taken_at, Some(head.taken_at));
    }

    async fn a_chain_that_is_gone_whole_is_found_against_a_head(db: Db) {
        let house = house(&db).await;
        second_chain(&house).await;
        let head = kept(&house.base.audit.heads(&db, &house.site).await.unwrap());
        let gone = head.chains.iter().find(|chain| chain.seq == 3).unwrap().clone();
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{}'", gone.writer)).await;
        assert_eq!(verified(&house, None).await.faulty, 0);
        assert_eq!(places(&verified(&house, Some(&head)).await), [(FaultKind::CutOff, gone.writer, 1, 3)]);
    }

    /// Whoever has the running broker too can have other rows recorded in the place of those that were cut off.
    async fn a_chain_that_grew_again_after_it_was_cut_is_found_against_a_head(db: Db) {
        let house = house(&db).await;
        second_chain(&house).await;
        let head = kept(&house.base.audit.heads(&db, &house.site).await.unwrap());
        let cut = head.chains.iter().find(|chain| chain.seq == 3).unwrap().clone();
        let honest: Vec<Row> = rows(&db).await.into_iter().filter(|row| row.writer == cut.writer).collect();
        attack(&db, &format!("DELETE FROM audit WHERE writer = '{}' AND seq = 3", cut.writer)).await;
        // With the key: the link fits its row and the row before.
        let key = house.base.ring.derived(&db, &house.site, valetkey::audit::AUDIT_LABEL).await.unwrap();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.expose());
        let forged = Row { actor: "nobody".to_owned(), ..honest[2].clone() };
        let link = forged.link(&key, &honest[1].chain);
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query(
            "INSERT INTO audit (site, writer, seq, id, at, actor, action, outcome, facts, chain)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        )
        .bind(&forged.site).bind(&forged.writer).bind(forged.seq).bind(&forged.id).bind(forged.at).bind(&forged.actor)
        .bind(&forged.action).bind(&forged.outcome).bind(&forged.facts).bind(&link)
        .execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        assert_eq!(verified(&house, None).await.faulty, 0);
        assert_eq!(places(&verified(&house, Some(&head)).await), [(FaultKind::Rewritten, cut.writer, 3, 3)]);
    }

    async fn a_head_that_was_changed_or_is_another_sites_is_refused(db: Db) {
        let house = house(&db).await;
        let head = house.base.audit.heads(&db, &house.site).await.unwrap();
        let mut shorter = head.clone();
        shorter.chains[0].seq -= 1;
        let mut fewer = head.clone();
        fewer.chains.clear();
        let mut later = head.clone();
        later.taken_at = later.taken_at.plus(std::time::Duration::from_secs(1));
        let mut unproven = head.clone();
        unproven.proof.clear();
        for odd in [shorter, fewer, later, unproven] {
            let refused = house.base.audit.verify(&db, &house.site, Some(&odd), |_| ()).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidRequest);
        }
        let other = site::create(&house.base, &Actor::Operator, &"other".parse().unwrap(), "Other").await.unwrap().id;
        let refused = house.base.audit.check_heads(&db, &other, &head).await.unwrap_err();
        assert!(refused.message().contains("`default`"), "{refused}");
    }

    async fn an_export_has_every_row_once_and_the_next_goes_on_where_it_ended(db: Db) {
        let house = house(&db).await;
        uses(&house, 1_200).await;
        let before = rows(&db).await;
        let mut reader = Reader::new(&db, &house.site, None);
        let first = read(&mut reader).await;
        assert_eq!(ids(&first), ids(&before));
        let head = kept(&reader.heads(&house.base.audit).await.unwrap());
        assert_eq!(head.chains, house.base.audit.heads(&db, &house.site).await.unwrap().chains);

        second_chain(&house).await;
        house.agent("later", None).await;
        let mut reader = Reader::new(&db, &house.site, Some(&head));
        let second = read(&mut reader).await;
        assert_eq!(second.len(), 4);
        let all: BTreeSet<_> = ids(&first).into_iter().chain(ids(&second)).collect();
        assert_eq!(all, ids(&rows(&db).await).into_iter().collect::<BTreeSet<_>>());
    }

    async fn whoever_follows_misses_nothing_that_many_write_at_once(db: Db) {
        let house = house(&db).await;
        let mut reader = Reader::new(&db, &house.site, Some(&house.base.audit.heads(&db, &house.site).await.unwrap()));
        let before = rows(&db).await.len();
        let writers: Vec<_> = (0..40)
            .map(|n| {
                let (base, site) = (house.base.clone(), house.site.clone());
                tokio::spawn(async move {
                    let mut tx = base.db.begin().await.unwrap();
                    base.audit.record(&mut tx, Event::new(&site, &Actor::System, "test.change").facts(json!({ "n": n }))).await.unwrap();
                    tx.commit().await.unwrap();
                })
            })
            .collect();
        let mut seen = Vec::new();
        while writers.iter().any(|writer| !writer.is_finished()) {
            seen.extend(read(&mut reader).await);
        }
        for writer in writers {
            writer.await.unwrap();
        }
        seen.extend(read(&mut reader).await);
        assert_eq!(seen.len(), 40);
        assert_eq!(ids(&seen).into_iter().collect::<BTreeSet<_>>().len(), 40);
        assert_eq!(rows(&db).await.len(), before + 40);
        for pair in seen.windows(2) {
            assert!(pair[0].writer != pair[1].writer || pair[0].seq < pair[1].seq, "a chain is out of its order");
        }
    }
}

/// A site with some ten rows in one chain.
async fn house(db: &Db) -> House {
    let house = House::new(db).await;
    for n in 0..10 {
        house.agent(&format!("a{n}"), None).await;
    }
    house
}

/// Another process writes three rows, in a chain of its own.
async fn second_chain(house: &House) {
    let audit = Audit::new(house.base.clock.clone(), house.base.ring.clone(), Mode::Batched);
    let base = Base { audit, ..house.base.clone() };
    for _ in 0..3 {
        let mut tx = base.db.begin().await.unwrap();
        base.audit.record(&mut tx, Event::new(&house.site, &Actor::System, "test.change")).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn uses(house: &House, count: usize) {
    let audit = Audit::new(house.base.clock.clone(), house.base.ring.clone(), Mode::Batched);
    for n in 0..count {
        audit.record_use(Event::new(&house.site, &Actor::System, "test.use").facts(json!({ "n": n }))).await.unwrap();
    }
    audit.close();
    audit.run(house.base.db.clone()).await;
}

async fn verified(house: &House, head: Option<&Heads>) -> Report {
    house.base.audit.verify(&house.base.db, &house.site, head, |_| ()).await.unwrap()
}

fn places(report: &Report) -> Vec<(FaultKind, String, i64, i64)> {
    assert_eq!(report.faulty, report.faults.len() as u64);
    report.faults.iter().map(|fault| (fault.what, fault.writer.clone(), fault.seq, fault.until)).collect()
}

/// A head as it comes back from a file.
fn kept(head: &Heads) -> Heads {
    serde_json::from_str(&serde_json::to_string(head).unwrap()).unwrap()
}

async fn read(reader: &mut Reader) -> Vec<Row> {
    reader.look().await.unwrap();
    let mut all = Vec::new();
    loop {
        let page = reader.next().await.unwrap();
        assert!(page.len() <= 500);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn ids(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.id.clone()).collect()
}

async fn rows(db: &Db) -> Vec<Row> {
    on!(db, |c| {
        sqlx::query_as(
        "SELECT site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain FROM audit ORDER BY writer, seq"
    )
    .fetch_all(c)
    .await
    .unwrap()
    })
}

/// The one chain there is.
async fn writer(db: &Db) -> String {
    let rows = rows(db).await;
    assert!(rows.iter().all(|row| row.writer == rows[0].writer));
    rows[0].writer.clone()
}

async fn last_seq(db: &Db, writer: &str) -> i64 {
    rows(db).await.iter().filter(|row| row.writer == writer).map(|row| row.seq).max().unwrap()
}

async fn attack(db: &Db, sql: &str) {
    testing::execute(db, sql).await;
}
