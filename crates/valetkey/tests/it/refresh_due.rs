//! When an account comes due, and what the keeper makes of it then.

use std::time::Duration;

use provider_lab::{At, Fault, Rule};
use serde_json::{Value, json};
use valetkey::{
    clock::Timestamp,
    connection::{
        Renewal,
        accounts::{self, Precondition, Slot},
    },
    db::Db,
    id::{AccountName, ConnectionId},
    on, on_each_db,
    principal::Actor,
    revoke::{self, UpstreamWish},
    secret::SecretMap,
    site,
};

use crate::town::{HOUR, MINUTE, Replica, Town, keep, reauth};

on_each_db! {
    /// A-145, A-159.
    async fn a_renewed_account_holds_its_token_its_end_and_when_that_was(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        replica.serve(&account.id).await.unwrap();
        let (now, renewed) = (replica.now(), replica.stored(&account.id).await.connection);
        assert_eq!((renewed.expires_at, renewed.last_refreshed_at), (Some(now.plus(HOUR)), Some(now)));
        let token = replica.opened(&account.id).await.text("access_token").unwrap();
        assert!(token.expose() != account.first.access_token && town.lab.is_live(token.expose()));
        assert_eq!(due(&db, &account.id).await, Some(now.plus(55 * MINUTE)));
    }

    /// A-144, A-150, A-151, A-155, A-162: the lab's window is five minutes.
    async fn what_is_inside_its_window_is_renewed_and_what_is_not_is_left_alone(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let inside = replica.living(&town, "inside", 4 * MINUTE).await;
        let outside = replica.living(&town, "outside", 10 * MINUTE).await;
        let stop = keep(&replica);
        replica.until(&inside.id, |stored| stored.connection.version == 2).await;
        some_sweeps().await;
        stop.cancel();
        assert_eq!((town.lab.refresh_requests(), replica.stored(&outside.id).await.connection.version), (1, 1));
        assert_eq!(due(&db, &inside.id).await, Some(replica.now().plus(55 * MINUTE)));
        assert_eq!(due(&db, &outside.id).await, Some(replica.now().plus(5 * MINUTE)));
    }

    /// A-164.
    async fn a_token_that_ended_is_renewed_although_nobody_asks_for_it(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        let stop = keep(&replica);
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        some_sweeps().await;
        stop.cancel();
        assert_eq!(town.lab.refresh_requests(), 1);
    }

    /// A-157, A-160, A-163.
    async fn what_is_gone_or_cannot_be_renewed_is_never_due(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let gone = replica.living(&town, "gone", 4 * MINUTE).await;
        let (outside, wish) = (&replica.outside, UpstreamWish::Skip);
        revoke::connection(outside, &replica.site, &Actor::Operator, &gone.id, "enough", wish).await.unwrap();
        let fixed = replica
            .account(&town, "fixed", |_, tokens, now| {
                tokens.renewal = Renewal::None;
                tokens.expires_at = Some(now.plus(4 * MINUTE));
            })
            .await;
        assert_eq!((due(&db, &gone.id).await, due(&db, &fixed.id).await), (None, None));
        let stop = keep(&replica);
        some_sweeps().await;
        stop.cancel();
        assert_eq!(town.lab.refresh_requests(), 0);
    }

    async fn the_keeper_leaves_what_a_disabled_site_holds_until_it_is_enabled(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.living(&town, "", 4 * MINUTE).await;
        let base = &replica.outside.base;
        let switch = async |disabled| site::set_disabled(base, &Actor::Operator, &replica.site, disabled).await.unwrap();
        switch(true).await;
        let stop = keep(&replica);
        some_sweeps().await;
        assert_eq!(town.lab.refresh_requests(), 0);
        switch(false).await;
        replica.until(&account.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
    }

    /// A-165.
    async fn a_renewal_that_fails_for_good_is_told_with_its_provider_and_without_a_secret(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let account = replica.expired(&town, "").await;
        town.lab.misbehave(Rule::always(At::Refresh, Fault::oauth("invalid_grant")));
        let stop = keep(&replica);
        replica.until(&account.id, |stored| stored.connection.status == reauth("invalid_grant")).await;
        some_sweeps().await;
        stop.cancel();
        let told = replica.events("refresh.needs_reauth").await;
        assert_eq!((told.len(), &told[0]["provider"], town.lab.refresh_requests()), (1, &json!("lab"), 1));
        let told = told[0].to_string();
        assert!(!told.contains(&account.first.access_token) && !told.contains(&account.first.refresh_token.unwrap()));
    }

    /// A-158.
    async fn an_account_stored_over_another_is_due_at_its_own_time(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let now = replica.now();
        for (lives, is_due) in [(HOUR, now.plus(55 * MINUTE)), (30 * 24 * HOUR, now.plus(30 * 24 * HOUR).minus(5 * MINUTE))] {
            let tokens = json!({ "access_token": format!("a{lives:?}"), "refresh_token": "r", "expires_in": lives.as_secs() });
            let id = store(&replica, tokens).await;
            assert_eq!(due(&db, &id).await, Some(is_due));
        }
    }
}

async fn store(replica: &Replica, account: Value) -> ConnectionId {
    let slot = Slot {
        site: replica.site.clone(),
        provider: "lab".parse().unwrap(),
        owner: "user:bob".parse().unwrap(),
        name: AccountName::default(),
    };
    let account = SecretMap::new(account.as_object().unwrap().clone());
    let any = Precondition { replace: true, ..Precondition::default() };
    accounts::put(&replica.outside, &Actor::Operator, &slot, account, &any).await.unwrap().connection.id
}

/// When the keeper will look at a connection.
async fn due(db: &Db, id: &ConnectionId) -> Option<Timestamp> {
    let (at,): (Option<i64>,) = on!(db, |c| sqlx::query_as("SELECT refresh_at FROM connections WHERE id = $1")
        .bind(id.as_str())
        .fetch_one(c)
        .await
        .unwrap());
    at.map(Timestamp)
}

/// The keeper of a test looks ten times a second.
async fn some_sweeps() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}
