//! The ledger by the API: exported, followed, verified.

use std::time::Duration;

use serde_json::{Value, json};
use valetkey::{
    db::testing,
    platform::{Asserts, Scope},
};

use crate::support::{Answer, App, As, on_each_db, text};

on_each_db! {
    async fn an_export_ends_with_a_head_and_the_next_goes_on_after_it(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        app.agent("a", "alice").await;
        let first = lines(&app.post(&admin, "/v1/audit/export", json!({})).await.expect(200));
        let (head, events) = first.split_last().unwrap();
        assert!(events.len() >= 3 && events.iter().all(|line| line["event"]["chain"].as_str().unwrap().len() == 64));
        assert_eq!(head["head"]["site"], "default");
        app.agent("b", "alice").await;
        let after = json!({ "after": head["head"] });
        let second = lines(&app.post(&admin, "/v1/audit/export", after).await.expect(200));
        let actions: Vec<_> = second.iter().filter_map(|line| line["event"]["action"].as_str()).collect();
        assert_eq!(actions, ["agent.create"]);
        let taken = app.get(&admin, "/v1/audit/head").await.expect(200).json();
        assert_eq!(taken["chains"], second.last().unwrap()["head"]["chains"]);
    }

    async fn whoever_follows_is_shown_what_comes_meanwhile(app: App) {
        let head = app.get(&As::Operator, "/v1/audit/head").await.expect(200).json();
        let operator = As::Operator;
        let follow = app.post(&operator, "/v1/audit/export", json!({ "after": head, "follow": 3 }));
        let (answer, _) = tokio::join!(follow, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            app.agent("late", "alice").await
        });
        let lines = lines(&answer.expect(200));
        assert!(lines.iter().any(|line| line["event"]["action"] == "agent.create"), "{lines:?}");
        assert!(lines.last().unwrap()["head"].is_object());
    }

    async fn following_ends_with_the_key_by_which_it_was_asked_for(app: App) {
        let made = app.post(&As::Operator, "/v1/keys", json!({ "label": "k", "scopes": ["admin"] })).await.expect(201).json();
        let key = As::Bearer(text(&made, "/key"));
        let follow = app.post(&key, "/v1/audit/export", json!({ "follow": 3600 }));
        let (answer, _) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), follow), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            app.delete(&As::Operator, &format!("/v1/keys/{}", text(&made, "/id"))).await.expect(204)
        });
        let lines = lines(&answer.expect("it goes on"));
        assert_eq!(lines.last().unwrap()["problem"]["code"], "unauthenticated");
    }

    async fn a_verification_names_site_writer_and_place(app: App) {
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let agent = app.agent("a", "alice").await;
        let clean = result(&app.post(&admin, "/v1/audit/verify", json!({})).await.expect(200));
        assert_eq!((&clean["faulty"], &clean["head_taken_at"]), (&json!(0), &Value::Null));
        let head = app.get(&admin, "/v1/audit/head").await.expect(200).json();
        let events = app.get(&admin, "/v1/audit").await.expect(200).json();
        let newest = events["events"].as_array().unwrap().iter().find(|event| event["agent"] == json!(agent)).unwrap();
        let (writer, seq) = (text(newest, "/writer"), newest["seq"].as_i64().unwrap());
        testing::execute(&app.broker.base().db, &format!("UPDATE audit SET actor = 'nobody' WHERE writer = '{writer}' AND seq = {seq}"))
            .await;
        let found = result(&app.post(&admin, "/v1/audit/verify", json!({ "head": head })).await.expect(200));
        let fault = &found["faults"][0];
        assert_eq!((&fault["site"], &fault["writer"], &fault["seq"]), (&json!("default"), &json!(writer), &json!(seq)));
        assert_eq!((&fault["what"], &fault["event"]), (&json!("changed"), &newest["id"]));
    }

    async fn a_head_that_is_not_ours_is_refused_before_anything_is_read(app: App) {
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let mut head = app.get(&As::Operator, "/v1/audit/head").await.expect(200).json();
        for (path, member) in [("/v1/audit/verify?site=other", "head"), ("/v1/audit/export?site=other", "after")] {
            app.post(&As::Operator, path, json!({ member: head })).await.refused(400, "invalid_request");
        }
        head["chains"] = json!([]);
        app.post(&As::Operator, "/v1/audit/verify", json!({ "head": head })).await.refused(400, "invalid_request");
    }

    async fn a_key_reads_the_ledger_of_its_own_site(app: App) {
        app.post(&As::Operator, "/v1/sites", json!({ "id": "other" })).await.expect(201);
        let made = app.post(&As::Operator, "/v1/keys?site=other", json!({ "label": "o", "scopes": ["admin"] })).await.expect(201).json();
        let others = As::Bearer(text(&made, "/key"));
        app.agent("a", "alice").await;
        let exported = lines(&app.post(&others, "/v1/audit/export", json!({})).await.expect(200));
        assert!(exported.iter().all(|line| line["event"]["action"] != "agent.create"), "{exported:?}");
        assert_eq!(exported.last().unwrap()["head"]["site"], "other");
    }
}

/// The documents of a streamed answer; empty lines keep a connection alive.
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(answer.bytes.clone()).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn result(answer: &Answer) -> Value {
    lines(answer).pop().unwrap()["result"].take()
}
