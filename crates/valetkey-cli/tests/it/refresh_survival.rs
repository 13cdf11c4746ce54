//! Refreshing under load, on two replicas, with processes that die or freeze in the middle (promise 2, decisions 1).
//!
//! The provider is the lab, the brokers are child processes. Where an account must be expired, its token was given a life
//! of one second; afterwards the lab gives an hour again.

use std::{collections::HashMap, time::Duration};

use provider_lab::{At, DefinitionOptions, Fault, Rule, Settings};
use reqwest::{Method, StatusCode};
use serde_json::json;
use valetkey::refresh::crash;

use crate::{
    scene::{Answer, LabProvider, On, PATIENCE, Plan, Scene, Usable, all, client_id, eventually, on_each, reveal},
    support::Server,
};

const HOUR: u64 = 3600;

impl Scene {
    /// Connected accounts whose access tokens are over, each with an agent that may use it; the next tokens live an hour.
    async fn expired(&self, providers: &[&str]) -> Vec<Usable> {
        let mut accounts = Vec::new();
        for provider in providers {
            self.life(provider, 1);
            accounts.push(self.usable(provider).await);
            self.life(provider, HOUR);
        }
        // The life of one second is the broker's to count; there is nothing to wait for but the time.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.lab.reset_records();
        accounts
    }

    fn life(&self, provider: &str, seconds: u64) {
        assert!(self.lab.settings(&client_id(provider), |settings| settings.access_ttl = seconds));
    }

    /// 64 callers at once, over all replicas.
    async fn ask_64(&self, usable: &Usable) -> Vec<Answer> {
        let (http, usable) = (self.http.clone(), usable.clone());
        let urls: Vec<_> = (0..64).map(|n| self.replicas[n % self.replicas.len()].url()).collect();
        let asked = urls.into_iter().map(move |url| {
            let (http, usable) = (http.clone(), usable.clone());
            async move { reveal(&http, &url, &usable).await.unwrap() }
        });
        all(asked).await
    }
}

/// All of them got the same token, and the provider takes it.
fn same_live_token(scene: &Scene, answers: &[Answer]) {
    let token = answers[0].access_token();
    assert!(answers.iter().all(|answer| answer.access_token() == token));
    assert!(scene.lab.is_live(token));
}

on_each! {
    async fn sixty_four_callers_of_an_expired_token_make_one_request(on: On) {
        let scene = Scene::start(Plan { refresh: (20, 10), ..Plan::new(on) }).await;
        let usable = scene.expired(&["lab"]).await.remove(0);
        // Long enough for every caller to come while the provider is being asked.
        scene.lab.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms: 400 }));
        let answers = scene.ask_64(&usable).await;
        same_live_token(&scene, &answers);
        assert_eq!(scene.lab.refresh_requests(), 1);
        assert_eq!(scene.events(&usable.connection, "refresh.ok").await.len(), 1);
    }

    async fn callers_who_leave_stop_nothing(on: On) {
        let scene = Scene::start(Plan { refresh: (30, 15), ..Plan::new(on) }).await;
        let [half, every] = <[Usable; 2]>::try_from(scene.expired(&["lab", "lab"]).await).unwrap_or_else(|_| unreachable!());
        for (usable, leave) in [(half, 32), (every, 64)] {
            scene.lab.reset_records();
            scene.lab.misbehave(Rule::once(At::Refresh, Fault::HoldAfter));
            let mut callers: Vec<_> = (0..64)
                .map(|n| {
                    let (http, usable) = (scene.http.clone(), usable.clone());
                    let url = scene.replicas[n % scene.replicas.len()].url();
                    tokio::spawn(async move { reveal(&http, &url, &usable).await })
                })
                .collect();
            assert!(scene.lab.wait_until(PATIENCE, |lab| lab.held() == 1).await);
            // Every other one of each replica: also those whose call began the refresh.
            for caller in callers.drain(..leave) {
                caller.abort();
                assert!(caller.await.unwrap_err().is_cancelled());
            }
            scene.lab.release();
            let mut answers = Vec::new();
            for caller in callers {
                answers.push(caller.await.unwrap().unwrap());
            }
            // Who comes afterwards finds what the others left.
            answers.push(scene.reveal(0, &usable).await);
            same_live_token(&scene, &answers);
            assert_eq!(scene.lab.refresh_requests(), 1, "{leave} left");
        }
    }

    async fn a_provider_that_fails_does_not_take_a_valid_token_away(on: On) {
        let mut plan = Plan::new(on);
        // Due a quarter of an hour before the end.
        plan.providers[0].edits = vec![("before = \"5m\"".to_owned(), "before = \"15m\"".to_owned())];
        let mut scene = Scene::start(plan).await;
        let usable = scene.usable("lab").await;
        let token = scene.reveal(0, &usable).await.access_token().to_owned();
        scene.age(&usable.connection, Duration::from_secs(50 * 60)).await;
        scene.lab.misbehave(Rule::always(At::Refresh, Fault::status(500)));
        scene.lab.reset_records();
        for at in 0..scene.replicas.len() {
            // Due, so that it is tried in the background; and by the wish for a longer life, for which the caller waits.
            assert_eq!(scene.reveal(at, &usable).await.access_token(), token);
            let path = format!("/v1/connections/{}/token", usable.connection);
            let wish = scene.call(at, &usable.token.token, Method::POST, &path, Some(json!({ "min_life": 1500 }))).await;
            assert_eq!(wish.access_token(), token);
        }
        assert!(scene.lab.wait_until(PATIENCE, |lab| lab.refresh_requests() > 0).await, "nothing was tried");
        let answers = scene.ask_64(&usable).await;
        assert!(answers.iter().all(|answer| answer.access_token() == token));
        assert!(scene.lab.refresh_requests() <= 4, "{} requests to a provider that fails", scene.lab.refresh_requests());
        assert_eq!(scene.connection(&usable.connection).await["status"], "active");
    }

    async fn a_refusal_for_good_ends_it_once_and_without_a_storm(on: On) {
        let scene = Scene::usual(on).await;
        let usable = scene.expired(&["lab"]).await.remove(0);
        scene.lab.withdraw(&client_id("lab"), "alice");
        let refused = |answers: &[Answer]| {
            for answer in answers {
                assert_eq!((answer.status.as_u16() / 100, answer.code()), (4, "not_authenticated"), "{answer:?}");
            }
        };
        refused(&scene.ask_64(&usable).await);
        // A few seconds of callers who do not give up.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            refused(&scene.ask_64(&usable).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(scene.lab.refresh_requests(), 1);
        let connection = scene.connection(&usable.connection).await;
        assert_eq!((&connection["status"], &connection["reason"]), (&json!("needs_reauth"), &json!("invalid_grant")));
        assert_eq!(scene.events(&usable.connection, "refresh.needs_reauth").await.len(), 1);
    }

    /// Every point of the engine, with a provider that forgives a lost answer, one that does not, and one that kills the
    /// whole family when a spent refresh token comes back.
    async fn a_holder_killed_anywhere_costs_at_most_one_more_request(on: On) {
        let mut scene = Scene::start(Plan { providers: tempers().to_vec(), ..Plan::new(on) }).await;
        let mut wanted: Vec<_> = crash::POINTS.iter().flat_map(|point| tempers().map(|temper| (*point, temper.name))).collect();
        // The same provider is not left alone after several failures in a row, if they lie apart.
        wanted.sort_by_key(|(_, temper)| *temper);
        let providers: Vec<_> = wanted.iter().map(|(_, temper)| *temper).collect();
        let accounts = scene.expired(&providers).await;
        let mut dead = Vec::new();
        for ((point, temper), usable) in wanted.into_iter().zip(accounts) {
            match on {
                On::Sqlite => {
                    scene.without_server(async |scene| die(scene, point, &usable).await).await;
                    recovers(&scene, point, temper, &usable).await;
                }
                // The leases of the dead run out together.
                On::Postgres => {
                    die(&scene, point, &usable).await;
                    dead.push((point, temper, usable));
                }
            }
        }
        for (point, temper, usable) in &dead {
            recovers(&scene, point, temper, usable).await;
        }
        assert!(scene.lab.most_spends_of_one_refresh_token() <= 2);
        // How often each refresh token was seen: twice where an answer was lost, and once everywhere else.
        let mut seen: HashMap<String, usize> = HashMap::new();
        for entry in scene.lab.log().into_iter().filter(|entry| entry.endpoint == "token.refresh_token") {
            *seen.entry(entry.credential_sha256.unwrap()).or_default() += 1;
        }
        let twice = tempers().len() * crash::POINTS.iter().filter(|point| answer_is_lost(point)).count();
        assert_eq!(seen.values().filter(|times| **times == 2).count(), twice);
        assert_eq!(seen.len(), tempers().len() * crash::POINTS.len());
    }
}

/// Three ways to treat a refresh token that comes back.
fn tempers() -> [LabProvider; 3] {
    let strict = LabProvider { name: "strict", ..LabProvider::usual() };
    let graceful = LabProvider {
        name: "graceful",
        definition: DefinitionOptions { grace: Some("60s".to_owned()), ..DefinitionOptions::default() },
        settings: Settings { grace: 60, ..Settings::default() },
        ..LabProvider::usual()
    };
    let deadly = LabProvider {
        name: "deadly",
        definition: DefinitionOptions { replay_kills_family: true, ..DefinitionOptions::default() },
        settings: Settings { reuse_kills_family: true, ..Settings::default() },
        ..LabProvider::usual()
    };
    [strict, graceful, deadly]
}

/// Whether the provider did its work, and nobody is left who knows its answer.
fn answer_is_lost(point: &str) -> bool {
    [crash::AFTER_SEND, crash::AFTER_ANSWER].contains(&point)
}

/// A server on this database dies there, of the first call it gets.
async fn die(scene: &Scene, point: &str, usable: &Usable) {
    let mut victim = scene.spawn("127.0.0.1:0", &[(crash::VARIABLE, point)]).await;
    let answer = reveal(&scene.http, &victim.url(), usable).await;
    assert!(answer.is_err(), "{point}: it lived to answer {answer:?}");
    assert_eq!(victim.ended(PATIENCE).await, None, "a signal ended it");
    // Its last words may still be in the pipe.
    eventually(|| async { victim.log().contains(&format!("dying at {point}")).then_some(()) }).await;
}

/// What becomes of an account whose holder died there: usable, or lost and said so.
async fn recovers(scene: &Scene, point: &str, temper: &str, usable: &Usable) {
    let answer = settled(scene, 0, usable).await;
    if answer_is_lost(point) && temper != "graceful" {
        assert_eq!(answer.code(), "not_authenticated", "{point} {temper}: {answer:?}");
        let connection = scene.connection(&usable.connection).await;
        assert_eq!(connection["status"], "needs_reauth", "{point} {temper}");
        assert_eq!(connection["reason"], "answer_lost", "{point} {temper}");
        assert_eq!(scene.events(&usable.connection, "refresh.needs_reauth").await.len(), 1, "{point} {temper}");
    } else {
        assert!(scene.lab.is_live(answer.access_token()), "{point} {temper}");
        assert_eq!(scene.connection(&usable.connection).await["status"], "active", "{point} {temper}");
    }
}

/// Asks one replica until it no longer says that a refresh is pending.
async fn settled(scene: &Scene, at: usize, usable: &Usable) -> Answer {
    eventually(|| async {
        let answer = scene.reveal(at, usable).await;
        if answer.code() != "refresh_pending" {
            return Some(answer);
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(retry_after(&answer) >= 1);
        None
    })
    .await
}

/// A replica that is frozen at that point, and a caller who waits for it.
async fn frozen_at(scene: &Scene, point: &str, usable: &Usable) -> (Server, tokio::task::JoinHandle<reqwest::Result<Answer>>) {
    // The pause is over before it is thawed.
    let holder = scene.spawn("127.0.0.1:0", &[(crash::VARIABLE, &format!("{point}:pause=500"))]).await;
    let (http, url, usable) = (scene.http.clone(), holder.url(), usable.clone());
    let caller = tokio::spawn(async move { reveal(&http, &url, &usable).await });
    eventually(|| async { holder.log().contains(&format!("pausing at {point}")).then_some(()) }).await;
    holder.signal("STOP");
    (holder, caller)
}

fn retry_after(answer: &Answer) -> u64 {
    answer.headers.get("retry-after").expect("a time to try again").to_str().unwrap().parse().unwrap()
}

/// A provider may take as long as it likes below the deadline; both databases at once, because there is nothing to do but
/// to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_takes_13_seconds_is_asked_once() {
    async fn on(on: On) {
        let scene = Scene::start(Plan { refresh: (30, 15), ..Plan::new(on) }).await;
        let usable = scene.expired(&["lab"]).await.remove(0);
        scene.lab.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms: 13_000 }));
        let answers = scene.ask_64(&usable).await;
        same_live_token(&scene, &answers);
        assert_eq!(scene.lab.refresh_requests(), 1);
    }
    tokio::join!(on(On::Sqlite), on(On::Postgres));
}

/// On SQLite the lock on the database says that the holder is dead, so there is nobody to wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_lease_of_the_dead_runs_out_callers_are_told_when_to_come_back() {
    let scene = Scene::usual(On::Postgres).await;
    let usable = scene.expired(&["lab"]).await.remove(0);
    die(&scene, crash::AFTER_JOURNAL, &usable).await;
    let answers = scene.ask_64(&usable).await;
    for answer in &answers {
        assert_eq!((answer.status, answer.code()), (StatusCode::SERVICE_UNAVAILABLE, "refresh_pending"), "{answer:?}");
        assert!((1..=3).contains(&retry_after(answer)), "{answer:?}");
    }
    assert_eq!(scene.lab.refresh_requests(), 0, "somebody took over before the lease ran out");
    settled(&scene, 0, &usable).await;
    let answers = scene.ask_64(&usable).await;
    same_live_token(&scene, &answers);
    assert_eq!(scene.lab.refresh_requests(), 1);
}

/// The holder has the provider's answer, and freezes before it is stored. Another replica takes over, and loses. Then the
/// holder comes back: the answer it has is the newest there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_of_a_frozen_holder_is_kept_where_it_is_the_newest() {
    let scene = Scene::start(Plan { providers: tempers().to_vec(), ..Plan::new(On::Postgres) }).await;
    let usable = scene.expired(&["strict"]).await.remove(0);
    let (holder, caller) = frozen_at(&scene, crash::AFTER_ANSWER, &usable).await;
    assert_eq!(settled(&scene, 0, &usable).await.code(), "not_authenticated");
    assert_eq!(scene.connection(&usable.connection).await["reason"], "answer_lost");

    holder.signal("CONT");
    let token = caller.await.unwrap().unwrap().access_token().to_owned();
    for at in 0..2 {
        assert_eq!(scene.reveal(at, &usable).await.access_token(), token);
    }
    assert!(scene.lab.is_live(&token));
    assert_eq!(scene.connection(&usable.connection).await["status"], "active");
    assert_eq!(scene.lab.most_spends_of_one_refresh_token(), 2);
}

/// The same, but the provider forgave the second request: what the other replica stored is newer, and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_of_a_frozen_holder_does_not_replace_a_newer_one() {
    let scene = Scene::start(Plan { providers: tempers().to_vec(), ..Plan::new(On::Postgres) }).await;
    let usable = scene.expired(&["graceful"]).await.remove(0);
    let (holder, caller) = frozen_at(&scene, crash::AFTER_ANSWER, &usable).await;
    let token = settled(&scene, 0, &usable).await.access_token().to_owned();
    let version = scene.connection(&usable.connection).await["version"].clone();

    holder.signal("CONT");
    assert_eq!(caller.await.unwrap().unwrap().access_token(), token);
    assert_eq!(scene.reveal(1, &usable).await.access_token(), token);
    assert_eq!(scene.connection(&usable.connection).await["version"], version);
    assert!(scene.lab.is_live(&token));
    assert_eq!(scene.lab.most_spends_of_one_refresh_token(), 2);
}

/// A holder that freezes before it sends must not send any more when it comes back too late: this provider would end the
/// whole family.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_froze_before_it_sent_sends_nothing_when_it_comes_back_too_late() {
    let scene = Scene::start(Plan { providers: tempers().to_vec(), ..Plan::new(On::Postgres) }).await;
    let usable = scene.expired(&["deadly"]).await.remove(0);
    let (holder, caller) = frozen_at(&scene, crash::AFTER_JOURNAL, &usable).await;
    let token = settled(&scene, 0, &usable).await.access_token().to_owned();

    holder.signal("CONT");
    assert_eq!(caller.await.unwrap().unwrap().access_token(), token);
    assert!(scene.lab.is_live(&token));
    assert_eq!(scene.lab.most_spends_of_one_refresh_token(), 1);
    assert_eq!(scene.connection(&usable.connection).await["status"], "active");
}

/// On SQLite nobody else is there who could take over: the server comes back, stores what it has and answers with it, and asks no
/// second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_of_the_only_server_is_kept_though_it_froze_past_its_lease() {
    let mut scene = Scene::start(Plan { providers: tempers().to_vec(), ..Plan::new(On::Sqlite) }).await;
    let usable = scene.expired(&["deadly"]).await.remove(0);
    scene
        .without_server(async |scene| {
            let (holder, caller) = frozen_at(scene, crash::AFTER_ANSWER, &usable).await;
            // Deadline and lease end after two seconds together.
            tokio::time::sleep(Duration::from_secs(4)).await;
            holder.signal("CONT");
            let token = caller.await.unwrap().unwrap().access_token().to_owned();
            let again = reveal(&scene.http, &holder.url(), &usable).await.unwrap();
            assert_eq!(again.access_token(), token);
            assert_eq!(holder.end().await, Some(0));
        })
        .await;
    let token = scene.reveal(0, &usable).await.access_token().to_owned();
    assert!(scene.lab.is_live(&token));
    assert_eq!(scene.lab.refresh_requests(), 1);
    assert_eq!(scene.connection(&usable.connection).await["status"], "active");
}
