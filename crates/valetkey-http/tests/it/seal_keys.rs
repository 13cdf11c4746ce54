//! Sealing keys while everything runs.

use serde_json::{Value, json};

use crate::support::{Answer, App, As, on_each_db};

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    String::from_utf8_lossy(&answer.bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

on_each_db! {
    async fn rotation_streams_its_progress_and_everything_opens_afterwards(app: App) {
        let connection = app.account("users/alice", "").await;
        let rotated = app.post(&As::Operator, "/v1/seal-keys/rotate", json!({ "provider": "http_basic" })).await.expect(200);
        let rotated = lines(&rotated);
        assert!(rotated.iter().any(|line| line["progress"]["total"].is_number()), "{rotated:?}");
        let result = &rotated.last().unwrap()["result"];
        assert_eq!((&result["new_keys"], &result["resealed"]), (&json!(1), &json!(1)), "{rotated:?}");

        let report = app.post(&As::Operator, "/v1/seal-keys/verify", json!({})).await.expect(200);
        let report = lines(&report).last().unwrap()["result"].clone();
        assert_eq!((&report["stale"], &report["unreadable"]["count"]), (&json!(0), &json!(0)));

        let shown = app.get(&As::Operator, &format!("/v1/connections/{connection}")).await.expect(200).json();
        assert_eq!(shown["version"], 1, "sealing anew leaves the version alone");
        let keys = app.get(&As::Operator, "/v1/seal-keys").await.expect(200).json();
        let of_provider = keys["keys"].as_array().unwrap().iter().filter(|key| key["provider"] == "http_basic").count();
        assert_eq!((of_provider, keys["roots"].as_array().unwrap().len()), (2, 1));
        assert_eq!(keys["current"], keys["roots"][0]);
        let audit = app.get(&As::Operator, "/v1/audit?limit=3").await.expect(200).json();
        assert_eq!(audit["events"][0]["action"], "seal_keys.rotate");
    }

    async fn a_site_that_is_not_there_is_not_rotated(app: App) {
        app.post(&As::Operator, "/v1/seal-keys/rotate", json!({ "site": "tpyo" })).await.refused(404, "not_found");
    }

    async fn a_root_key_from_the_environment_is_not_ours_to_write(app: App) {
        app.post(&As::Operator, "/v1/seal-keys/new-root", json!({})).await.refused(400, "invalid_request");
        app.post(&As::Operator, "/v1/seal-keys/reload", json!({})).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_is_changed_while_everything_runs() {
    let app = App::sqlite_with_key_file().await;
    app.account("users/alice", "").await;
    let old = app.get(&As::Operator, "/v1/seal-keys").await.expect(200).json()["current"].clone();
    let new = app.post(&As::Operator, "/v1/seal-keys/new-root", json!({})).await.expect(200).json()["root"].clone();
    let loaded = app.post(&As::Operator, "/v1/seal-keys/reload", json!({})).await.expect(200).json();
    assert_eq!(loaded["roots"], json!([new, old]));
    let moved = lines(&app.post(&As::Operator, "/v1/seal-keys/rewrap", json!({})).await.expect(200));
    assert!(moved[0]["progress"]["total"].as_u64().unwrap() >= 2, "{moved:?}");
    assert_eq!(moved.last().unwrap()["result"]["moved"], moved[0]["progress"]["total"]);
    let dropped = app.post(&As::Operator, "/v1/seal-keys/drop-old-roots", json!({})).await.expect(200).json();
    assert_eq!(dropped["removed"], json!([old]));
    app.post(&As::Operator, "/v1/seal-keys/reload", json!({})).await.expect(200);
    let keys = app.get(&As::Operator, "/v1/seal-keys").await.expect(200).json();
    assert_eq!(keys["roots"], json!([new]));
    app.get(&As::Operator, "/v1/providers/http_basic/accounts/users/alice?reveal=true").await.expect(200);
    app.broker.stop().await;
}
