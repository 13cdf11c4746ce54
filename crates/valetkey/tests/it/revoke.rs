//! Revocation: over here at once, over there as soon as the provider answers (decisions 2 and 4, RFC 7009).

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rule, fingerprint};
use tokio_util::task::TaskTracker;
use valetkey::{
    Code, connection,
    db::{Db, testing},
    id::ConnectionId,
    on, on_each_db,
    principal::Actor,
    refresh::Wish,
    revoke::{self, Owed, Revocation, Settings, UpstreamWish},
    seal::Place,
    secret::{Secret, SecretMap},
};

use crate::town::{Account, HOUR, MINUTE, Replica, Town, catalogue, quick};

on_each_db! {
    /// R64, R65: the account is gone when the call returns, whatever the provider does.
    ///
    async fn a_revoked_connection_yields_nothing_and_keeps_no_secret(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        town.lab.misbehave(Rule::always(At::Revoke, Fault::status(503)));
        let held = replica.stored(&account.id).await;
        assert_eq!(end(&replica, &account.id, UpstreamWish::IfPossible).await, Owed::Pending);
        let stored = replica.stored(&account.id).await;
        assert!(stored.sealed.is_none());
        assert_eq!(stored.connection.display_status(replica.now()), "revoked");
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotFound);
        // Also where somebody still has the row as it was and the provider refuses its token.
        let wish = Wish { min_life: None, rejected_version: Some(held.connection.version) };
        assert_eq!(replica.refresher.serve(held.into(), wish).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(replica.events("connection.revoke").await.len(), 1);
        assert_eq!(town.lab.requests("revoke"), 0, "the provider is not waited for");
        work(&replica).await;
        assert_eq!(replica.serve(&account.id).await.unwrap_err().code(), Code::NotFound);
    }

    /// R62.
    async fn the_provider_is_told_with_client_authentication_and_then_nothing_is_kept(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        assert!(kept(&db, &account.id).await);
        assert_eq!(work(&replica).await, 1);
        let revoked = town.lab.revoked_tokens();
        assert_eq!(revoked[0].sha256, fingerprint(account.first.refresh_token.as_deref().unwrap()));
        assert!(!town.lab.is_live(&account.first.access_token));
        let owed = only(&replica, &account.id).await;
        assert_eq!((owed.status.as_str(), owed.attempts, owed.next_at), ("revoked", 1, None));
        assert!(!kept(&db, &account.id).await);
        assert_eq!(replica.events("revocation.over").await[0]["status"], "revoked");
        assert_eq!(work(&replica).await, 0);
    }

    /// Only what the provider must be told is kept: nothing else of the account outlives it.
    async fn the_outbox_keeps_what_the_revocation_names_and_nothing_else(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.account(&town, "", |account, _, _| account.set_text("password", &Secret::new("hunter2"))).await;
        town.lab.misbehave(Rule::always(At::Revoke, Fault::status(503)));
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        work(&replica).await;
        let row: (String, Vec<u8>) = on!(&db, |c| sqlx::query_as("SELECT id, sealed FROM revocations").fetch_one(c).await.unwrap());
        let connection = replica.stored(&account.id).await.connection;
        let (owner, id) = (connection.owner.to_string(), row.0.parse().unwrap());
        let place = Place::revocation(&connection.site, &connection.provider, &owner, &connection.name, &id);
        let opened = replica.outside.base.ring.open(&db, &place, &row.1).await.unwrap();
        let kept = SecretMap::from_json(&opened).unwrap();
        assert_eq!(kept.expose().keys().collect::<Vec<_>>(), ["refresh_token"]);
    }

    /// R62: where a definition names both, the refresh token goes first.
    async fn the_refresh_token_goes_before_the_access_token(db: Db) {
        let mut town = Town::new().await;
        let step = |name: &str| {
            format!(
                "[[revoke.steps]]\nmethod = \"POST\"\nurl = \"{}/revoke\"\nauth = \"client\"\n\
                 form = {{ token = \"{{{{token.{name}}}}}\", token_type_hint = \"{name}\" }}\n",
                town.lab.origin()
            )
        };
        let both = format!("[revoke]\nkills = \"token\"\n{}{}", step("refresh_token"), step("access_token"));
        town.definition = with_revoke(&town.definition, &both);
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        work(&replica).await;
        let asked: Vec<_> =
            town.lab.log().into_iter().filter(|entry| entry.endpoint == "revoke").map(|entry| entry.credential_sha256.unwrap()).collect();
        let tokens = [account.first.refresh_token.as_deref().unwrap(), &account.first.access_token];
        assert_eq!(asked, tokens.map(fingerprint));
        // A token that the account does not have is left out.
        let short = replica.account(&town, "short", |account, _, _| {
            account.expose_mut().remove("refresh_token");
        });
        let short = short.await;
        end(&replica, &short.id, UpstreamWish::IfPossible).await;
        work(&replica).await;
        assert_eq!(town.lab.requests("revoke"), 3);
    }

    /// R63.
    async fn an_endpoint_that_is_down_is_asked_again_as_late_as_it_says(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        let busy = Fault::Status { status: 503, retry_after: Some("600".to_owned()), work: false };
        town.lab.misbehave(Rule::once(At::Revoke, busy));
        town.lab.misbehave(Rule::once(At::Revoke, Fault::LoseResponse).skip(1));
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        work(&replica).await;
        let owed = only(&replica, &account.id).await;
        assert_eq!((owed.status.as_str(), owed.attempts), ("pending", 1));
        assert!(owed.next_at.unwrap().since(replica.now()) >= Duration::from_secs(600));
        assert!(owed.last_error.is_some() && town.lab.is_live(&account.first.access_token));
        assert_eq!(work(&replica).await, 0);
        replica.advance(Duration::from_secs(600));
        work(&replica).await;
        assert_eq!(only(&replica, &account.id).await.status, "pending", "the answer was lost: nobody knows");
        replica.advance(HOUR);
        work(&replica).await;
        assert_eq!(only(&replica, &account.id).await.status, "revoked");
        assert!(!kept(&db, &account.id).await);
    }

    async fn a_revocation_is_given_up_at_last_and_keeps_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        town.lab.misbehave(Rule::always(At::Revoke, Fault::status(500)));
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        let begun = replica.now();
        while only(&replica, &account.id).await.status == "pending" {
            replica.advance(HOUR);
            work(&replica).await;
        }
        let owed = only(&replica, &account.id).await;
        assert_eq!((owed.status.as_str(), owed.attempts, owed.last_error.as_deref()), ("failed", 20, Some("http_500")));
        assert!(!kept(&db, &account.id).await);
        let took = replica.now().since(begun);
        assert!(took > 24 * HOUR && took < 14 * 24 * HOUR, "{took:?}");
        assert_eq!(replica.events("revocation.over").await.len(), 1);
    }

    async fn what_the_provider_does_not_support_is_said_at_once(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (odd, bad) = (replica.living(&town, "odd", HOUR).await, replica.living(&town, "bad", HOUR).await);
        for (account, error, status) in [(&odd, "unsupported_token_type", "unsupported"), (&bad, "invalid_request", "failed")] {
            town.lab.misbehave(Rule::once(At::Revoke, Fault::oauth(error)));
            end(&replica, &account.id, UpstreamWish::IfPossible).await;
            work(&replica).await;
            let owed = only(&replica, &account.id).await;
            assert_eq!((owed.status.as_str(), owed.last_error.as_deref()), (status, Some(error)));
            assert!(!kept(&db, &account.id).await);
        }
    }

    async fn a_provider_without_revocation_is_said_to_have_none(db: Db) {
        let mut town = Town::new().await;
        town.definition = with_revoke(&town.definition, "");
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        assert_eq!(end(&replica, &account.id, UpstreamWish::IfPossible).await, Owed::Unsupported);
        assert_eq!(only(&replica, &account.id).await.status, "unsupported");
        assert!(!kept(&db, &account.id).await);
        assert_eq!(work(&replica).await, 0);
    }

    /// Facebook, Trello, Shopify: the API itself is told, the way a proxied call would be.
    async fn a_revocation_may_be_a_call_of_the_api(db: Db) {
        let mut town = Town::new().await;
        for (auth, body) in [("proxy", ""), ("proxy", "json = { all = true }\n"), ("bearer", "")] {
            let revoke = format!(
                "[revoke]\nkills = \"token\"\nmethod = \"DELETE\"\nurl = \"{}/api/echo/gone\"\nauth = \"{auth}\"\n{body}",
                town.lab.origin()
            );
            let closed = "\"/lab/**\"]";
            let definition = town.lab.definition_toml();
            assert_eq!(definition.matches(closed).count(), 1);
            let definition = definition.replace(closed, "\"/lab/**\", \"DELETE /api/echo/gone\"]");
            town.definition = with_revoke(&definition, &revoke);
            let catalogue = std::sync::Arc::new(catalogue(&town.definition));
            let replica = town.replica(&db).await.rebuilt(quick(), |outside| outside.catalogue = catalogue);
            let account = replica.living(&town, &format!("{auth}-{}", body.len()), HOUR / 2).await;
            assert_eq!(end(&replica, &account.id, UpstreamWish::IfPossible).await, Owed::Pending);
            work(&replica).await;
            assert_eq!(only(&replica, &account.id).await.status, "revoked");
            let token = Some(fingerprint(&account.first.access_token));
            let is_ours = |entry: &provider_lab::LogEntry| entry.path == "/api/echo/gone" && entry.credential_sha256 == token;
            let told: Vec<_> = town.lab.log().into_iter().filter(is_ours).collect();
            assert_eq!((told.len(), told[0].method.as_str(), told[0].status), (1, "DELETE", Some(200)));
            assert!(!kept(&db, &account.id).await);
        }
    }

    /// What is deleted by its own URL and is not there any more was deleted by an attempt whose answer was lost.
    async fn what_is_gone_already_counts_as_revoked(db: Db) {
        let mut town = Town::new().await;
        let revoke = format!(
            "[revoke]\nkills = \"token\"\nmethod = \"DELETE\"\nurl = \"{}/api/status/404\"\nauth = \"proxy\"\n",
            town.lab.origin()
        );
        let definition = town.definition.replace("\"/lab/**\"]", "\"/lab/**\", \"/api/status/*\"]");
        town.definition = with_revoke(&definition, &revoke);
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        work(&replica).await;
        assert_eq!(only(&replica, &account.id).await.status, "revoked");
    }

    async fn other_connections_of_the_same_account_are_not_killed_unless_that_is_forced(db: Db) {
        let town = Town::with(&DefinitionOptions { revoke_ends_all: true, ..DefinitionOptions::default() }).await;
        town.lab_settings(|settings| settings.revoke_ends_all = true);
        let replica = town.replica(&db).await;
        let (one, two) = (replica.living(&town, "one", HOUR / 2).await, replica.living(&town, "two", HOUR / 2).await);
        let Owed::Skipped(why) = end(&replica, &one.id, UpstreamWish::IfPossible).await else { panic!("not skipped") };
        assert!(why.contains("1 other connection "), "{why}");
        work(&replica).await;
        assert_eq!(only(&replica, &one.id).await.status, "skipped");
        assert!(town.lab.is_live(&two.first.access_token) && town.lab.is_live(&one.first.access_token));
        let three = replica.living(&town, "three", HOUR / 2).await;
        assert_eq!(end(&replica, &three.id, UpstreamWish::Force).await, Owed::Pending);
        work(&replica).await;
        assert_eq!(town.lab.live_access_tokens("alice"), 0);
        // The last one of an account takes nobody along.
        assert_eq!(end(&replica, &two.id, UpstreamWish::IfPossible).await, Owed::Pending);
    }

    async fn a_provider_that_kills_one_family_only_is_told_although_there_are_others(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let (one, two) = (replica.living(&town, "one", HOUR / 2).await, replica.living(&town, "two", HOUR / 2).await);
        assert_eq!(end(&replica, &one.id, UpstreamWish::IfPossible).await, Owed::Pending);
        work(&replica).await;
        assert!(!town.lab.is_live(&one.first.access_token) && town.lab.is_live(&two.first.access_token));
    }

    async fn the_provider_is_left_alone_where_that_is_wished(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        assert!(matches!(end(&replica, &account.id, UpstreamWish::Skip).await, Owed::Skipped(_)));
        assert!(!kept(&db, &account.id).await);
        work(&replica).await;
        assert_eq!(town.lab.requests("revoke"), 0);
    }

    async fn ending_a_connection_again_changes_nothing(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        let before = replica.stored(&account.id).await;
        assert!(matches!(end(&replica, &account.id, UpstreamWish::Force).await, Owed::Skipped(_)));
        assert_eq!(format!("{before:?}"), format!("{:?}", replica.stored(&account.id).await));
        assert_eq!(revoke::list(&db, &replica.site, &account.id).await.unwrap().len(), 1);
        let unknown = ConnectionId::new();
        let error = revoke::connection(&replica.outside, &replica.site, &Actor::Operator, &unknown, "", UpstreamWish::Skip).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
    }

    /// R64.
    async fn an_account_that_cannot_be_opened_can_be_ended(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("UPDATE connections SET sealed = $2 WHERE id = $1")
            .bind(account.id.as_str())
            .bind(vec![1_u8; 64])
            .execute(c)
            .await
            .map(|_| ())
            .unwrap());
        tx.commit().await.unwrap();
        assert!(matches!(end(&replica, &account.id, UpstreamWish::IfPossible).await, Owed::Skipped(_)));
        assert!(replica.stored(&account.id).await.sealed.is_none());
    }

    async fn a_claim_whose_process_died_comes_due_again(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        town.lab.misbehave(Rule::once(At::Revoke, Fault::HoldAfter));
        let dying = tokio::spawn({
            let replica = replica.clone();
            async move { work(&replica).await }
        });
        assert!(town.lab.wait_until(Duration::from_secs(20), |lab| lab.held() == 1).await);
        assert_eq!(work(&replica).await, 0, "it is claimed");
        dying.abort();
        replica.advance(HOUR);
        assert_eq!(work(&replica).await, 1);
        let owed = only(&replica, &account.id).await;
        assert_eq!((owed.status.as_str(), owed.attempts), ("revoked", 2));
    }

    async fn a_connection_that_changes_meanwhile_owes_its_newest_tokens(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        for n in 0..5 {
            let account = replica.expired(&town, &format!("n{n}")).await;
            let (served, _) = tokio::join!(replica.serve(&account.id), async {
                tokio::time::sleep(Duration::from_millis(3 * n)).await;
                end(&replica, &account.id, UpstreamWish::IfPossible).await
            });
            // Before or after: nothing of it stays alive at the provider.
            drop(served);
            replica.refresher.serve(replica.stored(&account.id).await.into(), Wish::default()).await.unwrap_err();
        }
        replica.refresher.drain().await;
        replica.advance(MINUTE);
        work(&replica).await;
        assert_eq!((town.lab.live_access_tokens("alice"), town.lab.live_refresh_tokens("alice")), (0, 0));
    }

    async fn who_wants_to_know_is_told_what_the_provider_said(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let second = Duration::from_secs(1);
        let account = replica.living(&town, "", HOUR / 2).await;
        assert_eq!(ask(&replica, &account.id, second).await, None, "nothing is owed for what is there");
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        let told = ask(&replica, &account.id, Duration::ZERO).await.unwrap();
        assert_eq!((told.status.as_str(), told.attempts, town.lab.requests("revoke")), ("pending", 0, 0), "nobody waited");
        // Two at once ask the provider once, and both are told.
        let (one, two) = tokio::join!(ask(&replica, &account.id, 10 * second), ask(&replica, &account.id, 10 * second));
        assert_eq!(one.unwrap().status, "revoked");
        assert_eq!((two.unwrap().status.as_str(), town.lab.requests("revoke")), ("revoked", 1));

        town.lab.misbehave(Rule::once(At::Revoke, Fault::status(503)));
        let account = replica.living(&town, "b", HOUR / 2).await;
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        let told = ask(&replica, &account.id, 10 * second).await.unwrap();
        assert_eq!((told.status.as_str(), told.attempts), ("pending", 1));
        assert!(told.last_error.is_some() && told.next_at.is_some_and(|at| at > replica.now()), "{told:?}");
        // Asking again does not hurry the provider.
        assert_eq!(ask(&replica, &account.id, 10 * second).await.unwrap(), told);
        replica.advance(HOUR);
        assert_eq!(work(&replica).await, 1);
        assert_eq!(ask(&replica, &account.id, second).await.unwrap().status, "revoked");
    }

    /// A provider that does not answer holds the caller no longer than they said, and the call to it goes on.
    async fn a_caller_who_stops_waiting_cuts_no_call_off(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        town.lab.misbehave(Rule::once(At::Revoke, Fault::HoldBefore));
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        let tasks = TaskTracker::new();
        let wait = Duration::from_millis(300);
        let told = revoke::ask_now(&replica.outside, &tasks, &replica.site, &account.id, wait).await.unwrap().unwrap();
        assert_eq!((told.status.as_str(), told.last_error), ("pending", None));
        town.lab.behave();
        tasks.close();
        tasks.wait().await;
        assert_eq!(only(&replica, &account.id).await.status, "revoked");
        assert_eq!(town.lab.requests("revoke"), 1);
    }

    async fn the_worker_does_it_by_itself(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", HOUR / 2).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let settings = Settings { interval: Duration::from_millis(30), ..Settings::default() };
        let worker = tokio::spawn(revoke::worker_with(replica.outside.clone(), settings, stop.clone()));
        end(&replica, &account.id, UpstreamWish::IfPossible).await;
        assert!(town.lab.wait_until(Duration::from_secs(5), |lab| lab.requests("revoke") == 1).await);
        stop.cancel();
        worker.await.unwrap();
        assert_eq!(only(&replica, &account.id).await.status, "revoked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_do_not_ask_twice() {
    let url = testing::postgres_url().await;
    let town = Town::new().await;
    let one = town.replica(&testing::open_postgres(&url).await).await;
    let two = town.replica(&testing::open_postgres(&url).await).await;
    let mut accounts: Vec<Account> = Vec::new();
    for n in 0..20 {
        accounts.push(one.living(&town, &format!("n{n}"), HOUR / 2).await);
    }
    for account in &accounts {
        end(&one, &account.id, UpstreamWish::IfPossible).await;
    }
    let (a, b) = tokio::join!(work(&one), work(&two));
    assert_eq!((a + b, town.lab.requests("revoke")), (20, 20));
}

async fn end(replica: &Replica, id: &ConnectionId, wish: UpstreamWish) -> Owed {
    revoke::connection(&replica.outside, &replica.site, &Actor::Operator, id, "asked for", wish).await.unwrap().upstream
}

async fn ask(replica: &Replica, id: &ConnectionId, wait: Duration) -> Option<Revocation> {
    revoke::ask_now(&replica.outside, &TaskTracker::new(), &replica.site, id, wait).await.unwrap()
}

async fn work(replica: &Replica) -> usize {
    revoke::work_off(&replica.outside, &Settings::default()).await.unwrap()
}

async fn only(replica: &Replica, id: &ConnectionId) -> Revocation {
    let mut owed = revoke::list(&replica.outside.base.db, &replica.site, id).await.unwrap();
    assert_eq!(owed.len(), 1);
    owed.remove(0)
}

/// Whether anything sealed is left of a connection.
async fn kept(db: &Db, id: &ConnectionId) -> bool {
    let (count,): (i64,) = on!(db, |c| sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM revocations WHERE connection = $1 AND sealed IS NOT NULL)
              + (SELECT COUNT(*) FROM connections WHERE id = $1 AND sealed IS NOT NULL)"
    )
    .bind(id.as_str())
    .fetch_one(c)
    .await
    .unwrap());
    assert!(connection::get(db, &"default".parse().unwrap(), id).await.unwrap().is_some());
    count > 0
}

/// A definition with another `[revoke]` section.
fn with_revoke(definition: &str, revoke: &str) -> String {
    let start = definition.find("[revoke]").unwrap();
    let end = start + definition[start..].find("[identity]").unwrap();
    format!("{}{revoke}\n{}", &definition[..start], &definition[end..])
}
