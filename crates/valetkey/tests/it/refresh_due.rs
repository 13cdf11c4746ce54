//! When an account comes due, and what the keeper makes of it then.

use std::{sync::Arc, time::Duration};

use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Fault, Lab, Rule};
use serde_json::{Value, json};
use valetkey::{
    app_config,
    clock::Timestamp,
    connection::{
        Renewal, Tokens,
        accounts::{self, Precondition, Slot},
    },
    db::Db,
    id::{AccountName, ConnectionId, ProviderName},
    on, on_each_db,
    principal::{Actor, Owner},
    provider::Trust,
    refresh::Settings,
    revoke::{self, UpstreamWish},
    secret::{Secret, SecretMap},
    site,
};

use crate::{
    connect::request::with_instance,
    town::{HOUR, MINUTE, Replica, SCOPES, Town, catalogue, client, keep, quick, reaching, reauth},
};

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

    async fn a_slow_provider_holds_up_no_other(db: Db) {
        let town = Town::new().await;
        let slow_lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        slow_lab.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms: 2_500 }));
        let settings = Settings { deadline: MINUTE, keeper_at_once: 1, ..quick() };
        let (healthy, slow) = town.replica(&db).await.with_second(&town, settings, "slow", &slow_lab).await;
        // Some of the slow ones come due before, some after.
        let mut slow_ones = Vec::new();
        for minutes in [4_u32, 3, 1, 0] {
            let issued = slow_lab.issue(CLIENT_ID, "alice", SCOPES).unwrap();
            let end = |_: &mut SecretMap, tokens: &mut Tokens, now: Timestamp| {
                tokens.issued_at = Some(now.plus(minutes * MINUTE).minus(HOUR));
                tokens.expires_at = Some(now.plus(minutes * MINUTE));
            };
            slow_ones.push(slow.store(&issued, &format!("n{minutes}"), end).await);
        }
        let first = healthy.living(&town, "first", 2 * MINUTE).await;
        let stop = keep(&healthy);
        healthy.until(&first.id, |stored| stored.connection.version == 2).await;
        // While the slow one is being swept, the others are looked at again.
        let second = healthy.living(&town, "second", 2 * MINUTE).await;
        healthy.until(&second.id, |stored| stored.connection.version == 2).await;
        let mut renewed = 0;
        for id in &slow_ones {
            renewed += usize::from(slow.stored(id).await.connection.version == 2);
        }
        stop.cancel();
        assert!(renewed < slow_ones.len(), "the slow provider was waited for");
    }

    async fn an_instance_that_is_away_does_not_keep_the_others_of_its_provider_waiting(db: Db) {
        let mut town = Town::new().await;
        town.definition = with_instance(town.definition.clone());
        let away = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let gone = away.origin();
        let settings = Settings { breaker_after: 1, first_backoff: HOUR, longest_backoff: HOUR, ..quick() };
        let replica = town.replica(&db).await.rebuilt(settings, |outside| outside.upstream = reaching(&[&town.lab, &away]));
        away.stop().await;
        let at = |instance: String, minutes: u32| {
            move |account: &mut SecretMap, tokens: &mut Tokens, now: Timestamp| {
                account.set_text("instance", &Secret::new(instance));
                tokens.issued_at = Some(now.plus(minutes * MINUTE).minus(HOUR));
                tokens.expires_at = Some(now.plus(minutes * MINUTE));
            }
        };
        // More than the keeper reads at a time, and all of them came due before.
        for n in 0..70 {
            replica.account(&town, &format!("n{n}"), at(gone.clone(), 1)).await;
        }
        let living = replica.account(&town, "living", at(town.lab.origin(), 3)).await;
        let stop = keep(&replica);
        replica.until(&living.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
    }

    /// One that answers slowly is not one that is away: nothing tells it apart but the time.
    async fn an_instance_that_is_slow_does_not_keep_the_others_of_its_provider_waiting(db: Db) {
        let mut town = Town::new().await;
        town.definition = with_instance(town.definition.clone());
        let slow = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        slow.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms: 20_000 }));
        let settings = Settings { deadline: MINUTE, keeper_patience: Duration::from_millis(50), ..quick() };
        let replica = town.replica(&db).await.rebuilt(settings, |outside| outside.upstream = reaching(&[&town.lab, &slow]));
        let at = |instance: String, minutes: u32| {
            move |account: &mut SecretMap, tokens: &mut Tokens, now: Timestamp| {
                account.set_text("instance", &Secret::new(instance));
                tokens.issued_at = Some(now.plus(minutes * MINUTE).minus(HOUR));
                tokens.expires_at = Some(now.plus(minutes * MINUTE));
            }
        };
        // More than the keeper reads at a time, and all of them came due before.
        for n in 0..70 {
            replica.account(&town, &format!("n{n}"), at(slow.origin(), 1)).await;
        }
        let living = replica.account(&town, "living", at(town.lab.origin(), 3)).await;
        let stop = keep(&replica);
        replica.until(&living.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
    }

    /// As many slow ones as would take all the room there is, if each had its share of it.
    async fn several_slow_providers_together_hold_up_no_other(db: Db) {
        let town = Town::new().await;
        let mut labs = Vec::new();
        for _ in 0..4 {
            let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
            lab.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms: 20_000 }));
            labs.push(lab);
        }
        let reached: Vec<&Lab> = labs.iter().chain([&town.lab]).collect();
        let settings = Settings { deadline: MINUTE, at_once: 8, ..quick() };
        let replica = town.replica(&db).await.rebuilt(settings, |outside| {
            let mut catalogue = catalogue(&town.definition);
            for (n, lab) in labs.iter().enumerate() {
                let text = lab.definition(&DefinitionOptions::default());
                catalogue = catalogue.with_text(&format!("slow{n}").parse().unwrap(), &text, Trust::Dev).unwrap();
            }
            outside.catalogue = Arc::new(catalogue);
            outside.upstream = reaching(&reached);
        });
        let ends = |_: &mut SecretMap, tokens: &mut Tokens, now: Timestamp| {
            tokens.issued_at = Some(now.plus(MINUTE).minus(HOUR));
            tokens.expires_at = Some(now.plus(MINUTE));
        };
        for (n, lab) in labs.iter().enumerate() {
            let provider: ProviderName = format!("slow{n}").parse().unwrap();
            let definition = replica.outside.catalogue.get(&provider).unwrap().clone();
            let (base, values) = (&replica.outside.base, client(CLIENT_SECRET));
            let config = app_config::set(base, &replica.site, &Actor::Operator, &definition, &Owner::Site, &values).await.unwrap();
            let there = Replica { provider, config: config.id, ..replica.clone() };
            for name in ["a", "b", "c"] {
                let issued = lab.issue(CLIENT_ID, "alice", SCOPES).unwrap();
                there.store(&issued, name, ends).await;
            }
        }
        let stop = keep(&replica);
        // All of them are under way, as far as there is room.
        for lab in &labs {
            for _ in 0..500 {
                if lab.refresh_requests() > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(lab.refresh_requests() > 0, "a slow provider has no room at all");
        }
        some_sweeps().await;
        let healthy = replica.living(&town, "healthy", 2 * MINUTE).await;
        replica.until(&healthy.id, |stored| stored.connection.version == 2).await;
        stop.cancel();
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
