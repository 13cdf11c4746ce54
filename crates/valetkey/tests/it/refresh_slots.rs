//! Further tokens of a connection that bring a refresh token of their own.

use std::time::Duration;

use provider_lab::{At, Fault, Issued, Rule};
use serde_json::{Value, json};
use valetkey::{
    Code, Result,
    clock::Timestamp,
    connection::Status,
    id::ConnectionId,
    on, on_each_db,
    principal::Actor,
    refresh::Settings,
    revoke::{self, UpstreamWish},
    secret::SecretMap,
};

use crate::town::{HOUR, MINUTE, Replica, START, Town, access, quick};

/// A provider whose connections hold a second token beside their own.
pub(crate) async fn town() -> Town {
    let mut town = Town::new().await;
    let text = town.definition.replace("inject = [", "slots = [\"own\", \"second\"]\ninject = [");
    let text = text.replace("{{token.access_token}}", "{{slot.access_token}}");
    town.definition = format!("{text}\n[slots.second]\nout = {{ access_token = \"second.access_token\" }}\n");
    town
}

/// A connection whose own token lives for an hour, and the second one that it holds.
pub(crate) async fn account(replica: &Replica, town: &Town, ends: Timestamp) -> (ConnectionId, Issued) {
    let second = town.issue();
    let slots = json!({ "second": {
        "access_token": second.access_token, "refresh_token": second.refresh_token, "expires_at": ends.unix_seconds(), "id": "U1",
    } });
    let account = replica.account(town, "", |account, tokens, now| {
        tokens.issued_at = Some(now);
        tokens.expires_at = Some(now.plus(HOUR));
        account.expose_mut().insert("slots".to_owned(), slots);
    });
    (account.await.id, second)
}

/// The second token, as a use of it gets it.
pub(crate) async fn use_second(replica: &Replica, id: &ConnectionId) -> Result<String> {
    let served = replica.serve(id).await?;
    let served = replica.refresher.serve_slot(served, "second").await?;
    Ok(second(&served.account)["access_token"].as_str().unwrap().to_owned())
}

fn second(account: &SecretMap) -> Value {
    account.expose()["slots"]["second"].clone()
}

fn impatient() -> Settings {
    Settings { first_backoff: Duration::from_millis(10), longest_backoff: Duration::from_millis(20), ..quick() }
}

/// Longer than an impatient replica waits between two attempts.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

on_each_db! {
    async fn a_second_token_that_ended_is_renewed_once_for_all_who_use_it(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, before) = account(&replica, &town, START.minus(MINUTE)).await;
        let own = access(&replica.serve(&id).await.unwrap());
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (replica, id) = (replica.clone(), id.clone());
                tokio::spawn(async move { use_second(&replica, &id).await })
            })
            .collect();
        for caller in callers {
            let token = caller.await.unwrap().unwrap();
            assert!(token != before.access_token && town.lab.is_live(&token));
        }
        assert_eq!(town.lab.refresh_requests(), 1);
        let there = second(&replica.opened(&id).await);
        assert_ne!(there["refresh_token"].as_str(), before.refresh_token.as_deref(), "it rotates");
        assert_eq!(there["expires_at"], json!(START.plus(HOUR).unix_seconds()));
        assert!(there["_renewing"].is_null() && there["id"] == "U1");
        // The connection's own token is what it was, and a copy that was read before is older.
        assert_eq!(access(&replica.serve(&id).await.unwrap()), own);
        assert_eq!(replica.stored(&id).await.connection.version, 2);
        use_second(&replica, &id).await.unwrap();
        assert_eq!(town.lab.refresh_requests(), 1);
        assert_eq!(replica.events("refresh.ok").await[0]["slot"], "second");
    }

    async fn a_second_token_that_serves_is_left_alone(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, before) = account(&replica, &town, START.plus(MINUTE)).await;
        assert_eq!(use_second(&replica, &id).await.unwrap(), before.access_token);
        assert_eq!(town.lab.refresh_requests(), 0);
    }

    /// R65a.
    async fn a_second_token_that_still_lives_is_served_although_it_cannot_be_renewed(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, before) = account(&replica, &town, START.plus(Duration::from_secs(5))).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::status(503)));
        assert_eq!(use_second(&replica, &id).await.unwrap(), before.access_token);
        replica.advance(MINUTE);
        assert_eq!(use_second(&replica, &id).await.unwrap_err().code(), Code::RefreshFailed);
    }

    async fn a_second_token_that_is_refused_for_good_ends_without_the_connection(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, _) = account(&replica, &town, START.minus(MINUTE)).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::oauth("invalid_grant")));
        for _ in 0..2 {
            use_second(&replica, &id).await.unwrap();
        }
        assert_eq!(town.lab.refresh_requests(), 1);
        assert!(second(&replica.opened(&id).await)["refresh_token"].is_null());
        assert_eq!(replica.stored(&id).await.connection.status, Status::Active);
        assert!(replica.serve(&id).await.is_ok());
        let told = replica.events("refresh.slot_over").await;
        assert_eq!((told.len(), &told[0]["slot"], &told[0]["reason"]), (1, &json!("second"), &json!("invalid_grant")));
    }

    /// The journal: one more attempt after an answer that was lost, and no third.
    async fn after_a_lost_answer_a_second_token_is_asked_for_once_more(db: Db) {
        let town = town().await;
        let replica = town.replica_with(&db, impatient()).await;
        let (id, _) = account(&replica, &town, START.minus(MINUTE)).await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::LoseResponse));
        for asked in [1, 2, 2] {
            let _ = use_second(&replica, &id).await;
            assert_eq!(town.lab.refresh_requests(), asked);
            a_moment().await;
        }
        assert_eq!(replica.events("refresh.slot_over").await[0]["reason"], "answer_lost");
        assert!(replica.serve(&id).await.is_ok());
    }

    async fn a_second_token_is_revoked_with_its_connection(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, before) = account(&replica, &town, START.plus(HOUR)).await;
        let own = access(&replica.serve(&id).await.unwrap());
        let wish = UpstreamWish::IfPossible;
        revoke::connection(&replica.outside, &replica.site, &Actor::Operator, &id, "enough", wish).await.unwrap();
        revoke::work_off(&replica.outside, &revoke::Settings::default()).await.unwrap();
        assert!(!town.lab.is_live(&own) && !town.lab.is_live(&before.access_token));
        assert_eq!(town.lab.revoked_tokens().len(), 2);
        assert_eq!(replica.events("revocation.over").await[0]["status"], "revoked");
    }

    async fn what_is_renewed_while_the_connection_is_revoked_is_revoked_too(db: Db) {
        let town = town().await;
        let replica = town.replica(&db).await;
        let (id, _) = account(&replica, &town, START.minus(MINUTE)).await;
        town.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
        let caller = tokio::spawn({
            let (replica, id) = (replica.clone(), id.clone());
            async move { use_second(&replica, &id).await }
        });
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        let wish = UpstreamWish::IfPossible;
        revoke::connection(&replica.outside, &replica.site, &Actor::Operator, &id, "enough", wish).await.unwrap();
        town.lab.release();
        assert_eq!(caller.await.unwrap().unwrap_err().code(), Code::NotFound);
        let (owed,): (i64,) =
            on!(&db, |c| sqlx::query_as("SELECT COUNT(*) FROM revocations WHERE sealed IS NOT NULL").fetch_one(c).await.unwrap());
        assert_eq!(owed, 2);
    }
}
