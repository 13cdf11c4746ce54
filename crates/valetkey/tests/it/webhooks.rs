//! Webhooks: what is told, how it is signed, and what becomes of it, at an endpoint of our own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use valetkey::{
    audit::{self, Event},
    base::{Base, Outside},
    clock::{Clock, Timestamp},
    connection::UpstreamWish,
    db::{Db, testing},
    error::Code,
    grant::ForWhom,
    id::WebhookId,
    on, on_each_db,
    principal::Actor,
    provider::Catalogue,
    revoke,
    seal::rotate,
    secret::Secret,
    token::{self, NewToken},
    upstream::{self, FixedNames, Resolver, Upstream},
    webhook::{self, Change, Delivery, Made, NewWebhook, Replay, Settings, Webhook},
};

use crate::{
    support::House,
    town::{HOUR, MINUTE},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A worker that takes a claim back after a second.
const SHORT: Settings = Settings {
    interval: Duration::from_millis(10),
    deadline: Duration::from_secs(1),
    claim_extra: Duration::ZERO,
    first_backoff: Duration::from_secs(10),
    longest_backoff: HOUR,
    attempts: 20,
    dead_after: DAY,
};

on_each_db! {
    async fn a_change_is_told_once_and_signed_as_the_standard_says(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        assert!(made.secret.expose().starts_with("whsec_"));
        let agent = yard.house.agent("a", None).await;
        let new = NewToken { label: "canary of a label".to_owned(), ..NewToken::default() };
        let (id, _) = yard.house.token_with(&agent, new).await;
        assert_eq!(yard.work().await, 1);
        assert_eq!(yard.work().await, 0);
        let heard = yard.receiver.heard();
        assert_eq!(heard.len(), 1);
        let told = &heard[0];
        assert_eq!((told.line.as_str(), told.header("content-type")), ("POST /hook HTTP/1.1", "application/json"));
        let body: Value = serde_json::from_str(&told.body).unwrap();
        assert_eq!((&body["type"], &body["data"]["token"], &body["data"]["agent"]), (&json!("token.minted"), &json!(id), &json!(agent)));
        let event = &audit::list(&db, &yard.house.site, None, 1).await.unwrap()[0];
        assert_eq!((body["data"]["event"].as_str().unwrap(), event.action.as_str()), (event.id.as_str(), "token.mint"));
        assert!(!told.body.contains("canary"), "{}", told.body);
        let now = yard.house.base.clock.now();
        assert_eq!(told.header("webhook-timestamp"), now.unix_seconds().to_string());
        let signature = webhook::sign(&[made.secret], told.header("webhook-id"), now, told.body.as_bytes()).unwrap();
        assert_eq!(told.header("webhook-signature"), signature);
        let delivery = &yard.deliveries(&made.webhook.id).await[0];
        assert_eq!((delivery.status.as_str(), delivery.attempts, delivery.last_status), ("delivered", 1, Some(204)));
        assert_eq!(delivery.message.as_str(), told.header("webhook-id"));
    }

    async fn what_did_not_happen_is_not_told(db: Db) {
        let yard = Yard::new(&db).await;
        yard.endpoint(None).await;
        let mut tx = db.begin().await.unwrap();
        let event = Event::new(&yard.house.site, &Actor::System, "grant.create");
        yard.house.base.audit.record(&mut tx, event).await.unwrap();
        drop(tx);
        assert_eq!((yard.work().await, yard.receiver.heard().len()), (0, 0));
    }

    async fn every_kind_of_change_reaches_an_endpoint_that_is_for_it_and_no_other(db: Db) {
        let yard = Yard::new(&db).await;
        yard.endpoint(None).await;
        yard.endpoint(Some(&["grant.revoked", "connection.revoked"])).await;
        let (house, site, operator) = (&yard.house, &yard.house.site, &Actor::Operator);
        let agent = house.agent("a", None).await;
        let connection = house.connection("user:alice").await;
        let grant = house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (token, _) = house.token(&agent, None).await;
        token::revoke(&house.base, site, operator, &token, "canary").await.unwrap();
        token::revoke_all(&house.base, site, operator, &agent, "canary").await.unwrap();
        valetkey::grant::revoke(&house.base, site, operator, &grant, "canary").await.unwrap();
        revoke::connection(&yard.outside, site, operator, &connection, "canary", UpstreamWish::Skip).await.unwrap();
        yard.work().await;
        let told = |path: &str| -> Vec<String> {
            let heard = yard.receiver.heard();
            let all = heard.iter().filter(|heard| heard.line.contains(path)).map(Heard::kind);
            all.collect()
        };
        let expected = ["grant.created", "token.minted", "token.revoked", "token.revoked", "grant.revoked", "connection.revoked"];
        assert_eq!(told("POST /hook "), expected);
        assert_eq!(told("POST /hook/1 "), expected[4..]);
        assert!(yard.receiver.heard().iter().all(|heard| !heard.body.contains("canary")));
    }

    async fn a_message_that_was_refused_comes_again_later_with_the_same_id_and_a_new_time(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        yard.receiver.answer(["500 Oops", "503 Busy\r\nretry-after: 7200", "302 Found\r\nlocation: /elsewhere"]);
        yard.event().await;
        assert_eq!((yard.work().await, yard.work().await), (1, 0));
        let after_one = yard.deliveries(&made.webhook.id).await.remove(0);
        assert_eq!((after_one.status.as_str(), after_one.last_error.as_deref()), ("pending", Some("http_500")));
        let pause = after_one.next_at.unwrap().since(yard.now());
        assert!(pause >= Duration::from_secs(5) && pause <= Duration::from_secs(10), "{pause:?}");
        assert!(yard.webhook(&made).await.failing_since.is_some());
        yard.advance(MINUTE);
        assert_eq!(yard.work().await, 1);
        let told_to_wait = yard.deliveries(&made.webhook.id).await.remove(0).next_at.unwrap().since(yard.now());
        assert!(told_to_wait >= 2 * HOUR, "{told_to_wait:?}");
        yard.advance(2 * HOUR);
        assert_eq!(yard.work().await, 1);
        yard.advance(HOUR);
        assert_eq!(yard.work().await, 1);
        let heard = yard.receiver.heard();
        assert!(heard.iter().all(|heard| heard.line == "POST /hook HTTP/1.1"), "a redirect was followed");
        assert_eq!(heard.len(), 4);
        assert_eq!(heard.iter().map(|heard| heard.header("webhook-id")).collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(heard.iter().map(|heard| heard.header("webhook-timestamp")).collect::<BTreeSet<_>>().len(), 4);
        assert_eq!(heard.iter().map(|heard| &heard.body).collect::<BTreeSet<_>>().len(), 1);
        let done = yard.deliveries(&made.webhook.id).await.remove(0);
        assert_eq!((done.status.as_str(), done.attempts, done.last_error), ("delivered", 4, None));
        assert_eq!(yard.webhook(&made).await.failing_since, None);
    }

    async fn an_endpoint_that_is_gone_is_disabled_at_once_and_the_others_hear_of_it(db: Db) {
        let yard = Yard::new(&db).await;
        let gone = yard.endpoint(Some(&["grant.created"])).await;
        yard.endpoint(Some(&["webhook.disabled"])).await;
        yard.receiver.answer(["410 Gone"]);
        yard.event().await;
        yard.event().await;
        yard.work().await;
        let webhook = yard.webhook(&gone).await;
        assert_eq!((webhook.disabled_at, webhook.disabled_why.as_deref()), (Some(yard.now()), Some("gone")));
        let states: BTreeSet<_> = yard.deliveries(&gone.webhook.id).await.into_iter().map(|delivery| delivery.status).collect();
        assert_eq!(states, BTreeSet::from(["failed".to_owned(), "stopped".to_owned()]));
        let heard = yard.receiver.heard();
        assert_eq!(heard.iter().map(Heard::kind).collect::<Vec<_>>(), ["grant.created", "webhook.disabled"]);
        let body: Value = serde_json::from_str(&heard[1].body).unwrap();
        assert_eq!((&body["data"]["webhook"], &body["data"]["reason"]), (&json!(gone.webhook.id), &json!("gone")));
        // And from then on it is told nothing.
        yard.event().await;
        assert_eq!(yard.work().await, 0);
    }

    async fn an_endpoint_that_took_nothing_for_three_days_is_disabled_and_replayed_when_it_is_back(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(Some(&["grant.created"])).await;
        yard.receiver.always("500 Oops");
        let begun = yard.now();
        yard.event().await;
        while yard.webhook(&made).await.disabled_at.is_none() {
            yard.advance(HOUR);
            yard.work().await;
            assert!(yard.now().since(begun) < 5 * DAY, "it is never disabled");
            if yard.now().since(begun) < 3 * DAY {
                assert_eq!(yard.webhook(&made).await.disabled_at, None);
            } else {
                // A message of its own, so that there is an attempt.
                yard.event().await;
            }
        }
        assert_eq!(yard.webhook(&made).await.disabled_why.as_deref(), Some("failing"));
        yard.event().await;
        let missed = yard.receiver.heard().iter().map(|heard| heard.header("webhook-id").to_owned()).collect::<BTreeSet<_>>();
        let span = Replay::Span { since: begun, until: yard.now(), delivered_too: false };
        let refused = yard.replay(&made, &span).await.unwrap_err();
        assert_eq!(refused.code(), Code::Conflict);

        yard.receiver.always("200 Fine");
        let change = Change { enabled: Some(true), ..Change::default() };
        let back = yard.change(&made, change).await.unwrap();
        assert_eq!((back.disabled_at, back.disabled_why, back.failing_since), (None, None, None));
        assert_eq!(yard.work().await, 0, "what it missed comes when somebody says so");
        let queued = yard.replay(&made, &span).await.unwrap();
        assert!(queued > missed.len() as u64, "{queued}: what happened while it was disabled is among them");
        yard.receiver.forget();
        assert_eq!(yard.work().await as u64, queued);
        let told: BTreeSet<_> = yard.receiver.heard().iter().map(|heard| heard.header("webhook-id").to_owned()).collect();
        assert!(told.is_superset(&missed) && told.len() as u64 == queued);
    }

    async fn what_was_delivered_is_sent_again_only_where_that_is_said(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(Some(&["grant.created"])).await;
        yard.endpoint(Some(&["grant.revoked"])).await;
        let begun = yard.now();
        for _ in 0..3 {
            yard.event().await;
        }
        yard.other_event().await;
        yard.work().await;
        let span = |delivered_too| Replay::Span { since: begun, until: yard.now(), delivered_too };
        assert_eq!(yard.replay(&made, &span(false)).await.unwrap(), 0);
        assert_eq!(yard.replay(&made, &span(true)).await.unwrap(), 3, "what it is not for is not among them");
        // What waits already is not queued twice.
        assert_eq!(yard.replay(&made, &span(true)).await.unwrap(), 0);
        yard.work().await;
        let one = yard.deliveries(&made.webhook.id).await[0].message.clone();
        assert_eq!(yard.replay(&made, &Replay::Message(one.clone())).await.unwrap(), 1);
        yard.work().await;
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for heard in yard.receiver.heard().iter().filter(|heard| heard.line.starts_with("POST /hook ")) {
            *times.entry(heard.header("webhook-id").to_owned()).or_default() += 1;
        }
        assert_eq!(times.remove(one.as_str()), Some(3));
        assert_eq!(times.into_values().collect::<Vec<_>>(), [2, 2]);
        let nothing = Replay::Message("msg_00000000000000000000000000000000".parse().unwrap());
        assert_eq!(yard.replay(&made, &nothing).await.unwrap_err().code(), Code::NotFound);
    }

    async fn two_replicas_never_send_one_message_at_the_same_time(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        for _ in 0..20 {
            yard.event().await;
        }
        yard.receiver.slow(Duration::from_millis(20));
        let stop = CancellationToken::new();
        let settings = Settings { interval: Duration::from_millis(10), ..Settings::default() };
        let workers: Vec<_> = (0..3).map(|_| tokio::spawn(webhook::worker_with(yard.outside.clone(), settings, stop.clone()))).collect();
        for _ in 0..1_000 {
            if yard.deliveries(&made.webhook.id).await.iter().all(|delivery| delivery.status == "delivered") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        for worker in workers {
            worker.await.unwrap();
        }
        let heard = yard.receiver.heard();
        let ids: BTreeSet<_> = heard.iter().map(|heard| heard.header("webhook-id")).collect();
        assert_eq!((heard.len(), ids.len()), (20, 20));
    }

    /// What a process had claimed that died before it wrote down the answer. No clock brings it back, but that it is seen so long.
    async fn a_claim_whose_process_died_comes_due_again_with_the_same_id(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        yard.event().await;
        testing::execute(&db, "UPDATE webhook_deliveries SET attempts = 1, claim = 1, next_at = NULL").await;
        yard.advance(DAY);
        assert_eq!(yard.work().await, 0);
        let delivery = yard.worked(&made, SHORT).await;
        assert_eq!((delivery.status.as_str(), delivery.attempts), ("delivered", 2));
        assert_eq!(yard.receiver.heard()[0].header("webhook-id"), delivery.message.as_str());
    }

    async fn a_replica_whose_clock_is_ahead_does_not_send_what_another_sends(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        yard.event().await;
        yard.receiver.slow(Duration::from_secs(2));
        let begun = {
            let outside = yard.outside.clone();
            tokio::spawn(async move { webhook::work_off(&outside, &Settings::default()).await.unwrap() })
        };
        yard.heard(1).await;
        let ahead = Base { clock: Clock::manual(yard.now().plus(HOUR)), ..yard.house.base.clone() };
        let ahead = Outside { base: ahead, ..yard.outside.clone() };
        assert_eq!(webhook::work_off(&ahead, &Settings::default()).await.unwrap(), 0);
        assert_eq!(begun.await.unwrap(), 1);
        let delivery = yard.deliveries(&made.webhook.id).await.remove(0);
        assert_eq!((delivery.status.as_str(), delivery.attempts, yard.receiver.heard().len()), ("delivered", 1, 1));
    }

    /// A holder that stands still for too long is not waited for, and what it brings in the end changes nothing any more.
    async fn whoever_stands_still_loses_its_claim(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        yard.event().await;
        yard.receiver.slow(Duration::from_secs(4));
        yard.receiver.answer(["500 Oops"]);
        let frozen = {
            let outside = yard.outside.clone();
            tokio::spawn(async move { webhook::work_off(&outside, &Settings::default()).await.unwrap() })
        };
        yard.heard(1).await;
        yard.receiver.slow(Duration::ZERO);
        let delivery = yard.worked(&made, SHORT).await;
        assert_eq!((delivery.status.as_str(), delivery.attempts, delivery.last_status), ("delivered", 2, Some(204)));
        assert!(!frozen.is_finished());
        frozen.await.unwrap();
        assert_eq!(yard.deliveries(&made.webhook.id).await, [delivery]);
        assert_eq!(yard.webhook(&made).await.failing_since, None);
        let heard = yard.receiver.heard();
        assert_eq!((heard.len(), heard[0].header("webhook-id")), (2, heard[1].header("webhook-id")));
    }

    async fn for_a_day_after_a_rotation_both_secrets_sign(db: Db) {
        let yard = Yard::new(&db).await;
        let first = yard.endpoint(None).await;
        let second = webhook::rotate(&yard.house.base, &yard.house.site, &Actor::Operator, &first.webhook.id).await.unwrap();
        assert!(!first.secret.matches(&second.secret));
        assert_eq!(second.webhook.old_secret_until, Some(yard.now().plus(DAY)));
        let signed = async |secrets: &[&Secret]| {
            yard.event().await;
            yard.work().await;
            let heard = yard.receiver.heard().pop().unwrap();
            let secrets: Vec<Secret> = secrets.iter().map(|secret| (*secret).clone()).collect();
            let expected = webhook::sign(&secrets, heard.header("webhook-id"), yard.now(), heard.body.as_bytes()).unwrap();
            assert_eq!(heard.header("webhook-signature"), expected);
        };
        signed(&[&second.secret, &first.secret]).await;
        // Also under another data key.
        rotate::rotate(&db, &yard.house.base.ring, None, None, |_| ()).await.unwrap();
        yard.advance(DAY - MINUTE);
        signed(&[&second.secret, &first.secret]).await;
        yard.advance(MINUTE);
        signed(&[&second.secret]).await;
        let third = webhook::rotate(&yard.house.base, &yard.house.site, &Actor::Operator, &first.webhook.id).await.unwrap();
        signed(&[&third.secret, &second.secret]).await;
    }

    async fn an_address_that_the_guard_refuses_is_spoken_to_neither_now_nor_later(db: Db) {
        let yard = Yard::new(&db).await;
        for url in ["http://127.0.0.1:1/", "https://10.0.0.1/", "https://169.254.169.254/", "https://localhost/", "http://example.com/"] {
            let refused = yard.create(url, None).await.unwrap_err();
            assert_eq!(refused.code(), Code::AddressRefused, "{url}");
        }
        for url in ["ftp://example.com/", "https://user:pw@example.com/", "https://example.com/#x"] {
            assert_eq!(yard.create(url, None).await.unwrap_err().code(), Code::InvalidRequest, "{url}");
        }
        // A public name that leads inward is known only when it is looked up.
        let made = yard.create("https://inside.example.com/hook", None).await.unwrap();
        yard.event().await;
        assert_eq!(yard.work().await, 1);
        let delivery = yard.deliveries(&made.webhook.id).await.remove(0);
        assert_eq!((delivery.status.as_str(), delivery.last_error.as_deref()), ("pending", Some("address_refused")));
        let moved = Change { url: Some("https://10.0.0.1/".parse().unwrap()), ..Change::default() };
        assert_eq!(yard.change(&made, moved).await.unwrap_err().code(), Code::AddressRefused);
    }

    async fn an_endpoint_is_not_made_of_nonsense_nor_without_end(db: Db) {
        let yard = Yard::new(&db).await;
        for events in [&["grant.crated"][..], &[]] {
            let events = Some(events);
            assert_eq!(yard.create("https://example.com/", events).await.unwrap_err().code(), Code::InvalidRequest, "{events:?}");
        }
        for _ in 0..20 {
            yard.create("https://example.com/", None).await.unwrap();
        }
        assert_eq!(yard.create("https://example.com/", None).await.unwrap_err().code(), Code::Conflict);
        assert_eq!(webhook::list(&db, &yard.house.site).await.unwrap().len(), 20);
    }

    async fn an_endpoint_that_was_removed_or_disabled_is_told_nothing_more(db: Db) {
        let yard = Yard::new(&db).await;
        let (gone, quiet) = (yard.endpoint(None).await, yard.endpoint(None).await);
        yard.event().await;
        webhook::delete(&yard.house.base, &yard.house.site, &Actor::Operator, &gone.webhook.id).await.unwrap();
        webhook::delete(&yard.house.base, &yard.house.site, &Actor::Operator, &gone.webhook.id).await.unwrap();
        let off = yard.change(&quiet, Change { enabled: Some(false), ..Change::default() }).await.unwrap();
        assert_eq!(off.disabled_why.as_deref(), Some("by_hand"));
        assert_eq!((yard.work().await, yard.receiver.heard().len()), (0, 0));
        assert_eq!(webhook::require(&db, &yard.house.site, &gone.webhook.id).await.unwrap_err().code(), Code::NotFound);
    }

    async fn what_is_older_than_thirty_days_is_swept(db: Db) {
        let yard = Yard::new(&db).await;
        let made = yard.endpoint(None).await;
        yard.event().await;
        yard.work().await;
        yard.advance(29 * DAY);
        yard.event().await;
        webhook::sweep(&yard.house.base).await.unwrap();
        assert_eq!(yard.deliveries(&made.webhook.id).await.len(), 2);
        yard.advance(2 * DAY);
        webhook::sweep(&yard.house.base).await.unwrap();
        let left = yard.deliveries(&made.webhook.id).await;
        assert_eq!((left.len(), left[0].status.as_str()), (1, "pending"));
        let (messages,): (i64,) = on!(&db, |c| sqlx::query_as("SELECT COUNT(*) FROM webhook_messages").fetch_one(c).await.unwrap());
        assert_eq!(messages, 1);
    }

    async fn an_endpoint_that_hangs_holds_up_no_other(db: Db) {
        let yard = Yard::new(&db).await;
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", hanging.local_addr().unwrap());
        let yard = yard.that_reaches(&[hanging.local_addr().unwrap()]);
        yard.create(&url, None).await.unwrap();
        let works = yard.endpoint(None).await;
        for _ in 0..5 {
            yard.event().await;
        }
        let stop = CancellationToken::new();
        let settings = Settings { interval: Duration::from_millis(10), deadline: Duration::from_secs(30), ..Settings::default() };
        let worker = tokio::spawn(webhook::worker_with(yard.outside.clone(), settings, stop.clone()));
        for _ in 0..500 {
            if yard.deliveries(&works.webhook.id).await.iter().all(|delivery| delivery.status == "delivered") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(yard.receiver.heard().len(), 5);
        // The call that hangs is let go, and settled as one that failed.
        stop.cancel();
        drop(hanging);
        tokio::time::timeout(Duration::from_secs(40), worker).await.unwrap().unwrap();
    }
}

/// A house, the way outside, and an endpoint there.
struct Yard {
    house: House,
    outside: Outside,
    receiver: Receiver,
}

impl Yard {
    async fn new(db: &Db) -> Self {
        let (house, receiver) = (House::new(db).await, Receiver::start().await);
        let outside = outside(&house, &[receiver.address]);
        Self { house, outside, receiver }
    }

    /// The same with further addresses that may be spoken to.
    fn that_reaches(self, further: &[SocketAddr]) -> Self {
        let all: Vec<_> = further.iter().copied().chain([self.receiver.address]).collect();
        Self { outside: outside(&self.house, &all), ..self }
    }

    fn now(&self) -> Timestamp {
        self.house.base.clock.now()
    }

    fn advance(&self, by: Duration) {
        self.house.base.clock.advance(by);
    }

    async fn create(&self, url: &str, events: Option<&[&str]>) -> valetkey::Result<Made> {
        let events = events.map(|events| events.iter().map(|event| (*event).to_owned()).collect());
        let new = NewWebhook { url: url.parse().unwrap(), title: "test".to_owned(), events };
        webhook::create(&self.outside, &self.house.site, &Actor::Operator, new).await
    }

    /// An endpoint at the receiver: `/hook` for the first, `/hook/1` for the second.
    async fn endpoint(&self, events: Option<&[&str]>) -> Made {
        let count = webhook::list(&self.house.base.db, &self.house.site).await.unwrap().len();
        let tail = if count == 0 { String::new() } else { format!("/{count}") };
        self.create(&format!("http://{}/hook{tail}", self.receiver.address), events).await.unwrap()
    }

    async fn webhook(&self, made: &Made) -> Webhook {
        webhook::require(&self.house.base.db, &self.house.site, &made.webhook.id).await.unwrap()
    }

    async fn change(&self, made: &Made, change: Change) -> valetkey::Result<Webhook> {
        webhook::change(&self.outside, &self.house.site, &Actor::Operator, &made.webhook.id, change).await
    }

    async fn replay(&self, made: &Made, what: &Replay) -> valetkey::Result<u64> {
        webhook::replay(&self.house.base, &self.house.site, &Actor::Operator, &made.webhook.id, what).await
    }

    async fn deliveries(&self, id: &WebhookId) -> Vec<Delivery> {
        webhook::deliveries(&self.house.base.db, &self.house.site, id, None, None, 1_000).await.unwrap()
    }

    /// Something happens that is told as `grant.created`.
    async fn event(&self) {
        self.record("grant.create").await;
    }

    /// Something happens that is told as something else.
    async fn other_event(&self) {
        self.record("grant.revoke").await;
    }

    async fn record(&self, action: &'static str) {
        let base = &self.house.base;
        let mut tx = base.db.begin().await.unwrap();
        base.audit.record(&mut tx, Event::new(&self.house.site, &Actor::System, action)).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Has a worker at work until nothing waits at an endpoint; what became of its newest message.
    async fn worked(&self, made: &Made, settings: Settings) -> Delivery {
        let stop = CancellationToken::new();
        let worker = tokio::spawn(webhook::worker_with(self.outside.clone(), settings, stop.clone()));
        for _ in 0..1_000 {
            if self.deliveries(&made.webhook.id).await.iter().all(|delivery| delivery.status != "pending") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        worker.await.unwrap();
        self.deliveries(&made.webhook.id).await.remove(0)
    }

    /// Waits until so many requests came.
    async fn heard(&self, count: usize) {
        for _ in 0..1_000 {
            if self.receiver.heard().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} requests did not come");
    }

    async fn work(&self) -> usize {
        webhook::work_off(&self.outside, &Settings::default()).await.unwrap()
    }
}

fn outside(house: &House, allowed: &[SocketAddr]) -> Outside {
    let names = FixedNames::default();
    names.add("inside.example.com", [vec![IpAddr::from([10, 0, 0, 1])]]);
    let settings = upstream::Settings {
        allow_private: allowed.iter().map(|address| address.to_string().parse().unwrap()).collect(),
        resolver: Resolver::Fixed(names),
        ..upstream::Settings::default()
    };
    Outside {
        base: house.base.clone(),
        catalogue: Arc::new(Catalogue::embedded().unwrap()),
        upstream: Upstream::new(settings).unwrap(),
        public_url: "https://keys.example.test".parse().unwrap(),
        extensions: Default::default(),
    }
}

/// A request that came.
#[derive(Clone, Debug)]
struct Heard {
    line: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Heard {
    #[track_caller]
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    fn kind(&self) -> String {
        serde_json::from_str::<Value>(&self.body).unwrap()["type"].as_str().unwrap().to_owned()
    }
}

/// A server that writes down what it hears, and answers as it was told.
struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    heard: Vec<Heard>,
    /// Status lines, perhaps with headers behind them; the first answers first.
    next: VecDeque<String>,
    /// What answers when there is none.
    usual: Option<String>,
    pause: Duration,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    fn heard(&self) -> Vec<Heard> {
        self.state.lock().unwrap().heard.clone()
    }

    fn forget(&self) {
        self.state.lock().unwrap().heard.clear();
    }

    fn answer<const N: usize>(&self, answers: [&str; N]) {
        self.state.lock().unwrap().next.extend(answers.map(str::to_owned));
    }

    fn always(&self, answer: &str) {
        self.state.lock().unwrap().usual = Some(answer.to_owned());
    }

    fn slow(&self, pause: Duration) {
        self.state.lock().unwrap().pause = pause;
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut piece = [0; 4096];
        let Ok(read) = stream.read(&mut piece).await else { return };
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            break (head, length);
        }
    };
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let body = String::from_utf8(bytes[bytes.len() - length..].to_vec()).unwrap();
    let (answer, pause) = {
        let mut state = state.lock().unwrap();
        state.heard.push(Heard { line, headers: headers.collect(), body });
        let usual = state.usual.clone().unwrap_or_else(|| "204 No Content".to_owned());
        (state.next.pop_front().unwrap_or(usual), state.pause)
    };
    tokio::time::sleep(pause).await;
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
}
