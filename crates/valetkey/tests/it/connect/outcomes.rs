//! How flows end, and what is left of what was there before.

use std::{
    fmt::Write as _,
    sync::{Mutex, OnceLock},
};

use provider_lab::{ACCESS_PREFIX, At, CLIENT_SECRET, CODE_PREFIX, DefinitionOptions, Fault, REFRESH_PREFIX, Rule};
use serde_json::json;
use valetkey::{
    Code, audit,
    connect::{Ended, Outcome},
    connection::{
        Identity, Status,
        accounts::{self, Precondition, Slot},
    },
    grant::{self, ForWhom},
    id::{AccountName, ConnectionId},
    on, on_each_db,
    principal::Delivery,
    secret::SecretMap,
};

use super::{
    request::with_instance,
    world::{OPERATOR, PUBLIC, World, alices, connected, failure, fields, of, param, provider},
};

on_each_db! {
    /// R22: who says no at the provider ends the flow in its own way, and what was connected stays usable.
    async fn a_refusal_leaves_the_connection_as_it_was(db: Db) {
        let world = World::new(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let before = world.connection(&id).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "access_denied".into() }));
        let ended = world.connect(alices(), "alice").await;
        assert!(matches!(ended.outcome, Outcome::Failed { code: Code::OauthDenied, word: Some("access_denied") }), "{ended:?}");
        let after = world.connection(&id).await;
        assert_eq!((after.version, &after.status, after.updated_at), (before.version, &Status::Active, before.updated_at));
        assert!(world.lab.is_live(world.account(&id).await.text("access_token").unwrap().expose()));
        assert_eq!(world.audited("connection.connect").await[0].0, "denied");
    }

    /// Other words of the provider end it the same way; a word that is not on our list is not repeated.
    async fn a_word_that_is_not_on_our_list_is_not_repeated(db: Db) {
        let world = World::new(&db).await;
        for (error, word) in [("temporarily_unavailable", Some("temporarily_unavailable")), ("<b>lab_at_x</b>", None)] {
            world.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: error.into() }));
            let ended = world.connect(alices(), "alice").await;
            assert!(matches!(ended.outcome, Outcome::Failed { code: Code::OauthDenied, word: found } if found == word), "{ended:?}");
        }
        let (_, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!(facts["word"], "other");
    }

    async fn the_same_person_connecting_again_keeps_the_id_and_its_grants(db: Db) {
        let world = World::new(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let agent = world.house.agent("a", None).await;
        world.house.grant(&agent, &id, ForWhom::Owner).await;
        let before = world.account(&id).await;
        assert_eq!(connected(&world.connect(alices(), "alice").await), id);
        let connection = world.connection(&id).await;
        assert_eq!(connection.version, 2);
        assert_ne!(before.text("access_token").unwrap().expose(), world.account(&id).await.text("access_token").unwrap().expose());
        assert_eq!(live_grants(&world, &id).await.len(), 1);
    }

    /// Decisions 4: another person at the provider does not slip into the place of the first.
    async fn another_subject_is_refused_unless_it_was_said(db: Db) {
        let world = World::new(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let agent = world.house.agent("a", None).await;
        world.house.grant(&agent, &id, ForWhom::Owner).await;
        let ended = world.connect(alices(), "bob").await;
        assert_eq!(failure(&ended), Code::SubjectMismatch);
        assert_eq!(world.connection(&id).await.subject.as_deref(), Some("1001"));
        assert_eq!(world.owed().await, [("the account was not connected after all".into(), "pending".into())]);

        let mut new = alices();
        new.new_subject = true;
        let fresh = connected(&world.connect(new, "bob").await);
        assert_ne!(fresh, id);
        assert!(matches!(world.connection(&id).await.status, Status::Revoked { .. }));
        assert_eq!(world.connection(&fresh).await.subject.as_deref(), Some("1002"));
        assert!(live_grants(&world, &fresh).await.is_empty(), "old grants came back to life");
        assert_eq!(world.owed().await[1], ("another account took its place".into(), "pending".into()));
        let (gone,): (i64,) = on!(&db, |c| sqlx::query_as("SELECT COUNT(*) FROM connections WHERE sealed IS NULL")
            .fetch_one(c)
            .await
            .unwrap());
        assert_eq!(gone, 1);
    }

    /// Decisions 4: of tokens that came from outside nobody knows whose they are. What the account says of itself must not say
    /// another; where it says nothing, connecting is the owner's word.
    async fn an_account_of_unknown_identity_stays_its_owners(db: Db) {
        let world = World::new(&db).await;
        let slot = |name: &str| Slot { name: name.parse().unwrap(), ..stored_slot(&world) };
        let put = async |name: &str, members: serde_json::Value| {
            let account = SecretMap::new(fields(members));
            accounts::put(&world.outside, &OPERATOR, &slot(name), account, &Precondition::default()).await.unwrap().connection
        };
        let named = |name: &str, new_subject: bool| {
            let mut new = alices();
            (new.name, new.new_subject) = (name.parse().unwrap(), new_subject);
            new
        };
        let says_bob = [json!({ "id": 1002 }), json!({ "user_id": "1002", "username": "alice" }), json!({ "username": "bob" })];
        for (place, mut members) in says_bob.into_iter().enumerate() {
            let name = format!("bobs{place}");
            members["access_token"] = json!("t");
            let stored = put(&name, members).await;
            assert_eq!((stored.subject.as_ref(), stored.identity), (None, Identity::Unverified));
            assert_eq!(failure(&world.connect(named(&name, false), "alice").await), Code::SubjectMismatch, "{name}");
            assert_eq!(world.connection(&stored.id).await.identity, Identity::Unverified, "{name}");
            let fresh = connected(&world.connect(named(&name, true), "alice").await);
            assert_ne!(fresh, stored.id, "{name}");
        }
        for (name, mut members) in [("same", json!({ "id": "1001", "username": "was" })), ("silent", json!({ "note": 1 }))] {
            members["access_token"] = json!("t");
            let stored = put(name, members).await;
            assert_eq!(connected(&world.connect(named(name, false), "alice").await), stored.id, "{name}");
            let (_, facts) = world.audited("connection.connect").await.remove(0);
            assert_eq!((&facts["again"], &facts["identity_established"]), (&json!(true), &json!(true)), "{name}");
            let now = world.connection(&stored.id).await;
            assert_eq!((now.subject.as_deref(), now.identity), (Some("1001"), Identity::Verified), "{name}");
        }
        connected(&world.connect(named("same", false), "alice").await);
        assert_eq!(world.audited("connection.connect").await[0].1["identity_established"], json!(false));
    }

    /// Decisions 4: the same subject id at another server is somebody else.
    async fn the_same_subject_at_another_server_is_somebody_else(db: Db) {
        let other = provider_lab::Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let lab = provider_lab::Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let allowed = vec![lab.addr().to_string(), other.addr().to_string()];
        let text = with_instance(lab.definition(&DefinitionOptions::default()));
        let world = World::around(&db, lab, &text, allowed, PUBLIC).await;
        let at = |origin: String, new_subject: bool| {
            let mut new = alices();
            new.fields = fields(json!({ "instance": origin }));
            new.new_subject = new_subject;
            new
        };
        let id = connected(&world.connect(at(world.lab.origin(), false), "alice").await);
        assert_eq!(world.connection(&id).await.hosts, [world.lab.addr().to_string()]);
        assert_eq!(connected(&world.connect(at(world.lab.origin(), false), "alice").await), id);
        assert_eq!(failure(&world.connect(at(other.origin(), false), "alice").await), Code::SubjectMismatch);
        assert_eq!(world.connection(&id).await.hosts, [world.lab.addr().to_string()]);
        let moved = connected(&world.connect(at(other.origin(), true), "alice").await);
        assert_ne!(moved, id);
        assert_eq!(world.connection(&moved).await.hosts, [other.addr().to_string()]);
        assert!(matches!(world.connection(&id).await.status, Status::Revoked { .. }));
        assert_eq!(world.account(&moved).await.text("instance").unwrap().expose(), other.origin());
    }

    async fn named_accounts_stand_beside_the_default_one(db: Db) {
        let world = World::new(&db).await;
        let first = connected(&world.connect(alices(), "alice").await);
        let mut new = alices();
        new.name = "work".parse().unwrap();
        let second = connected(&world.connect(new, "bob").await);
        assert_ne!(first, second);
        assert_eq!(world.connections().await.len(), 2);
    }

    /// An agent's own account comes with grants for it, by the proxy only; connecting again makes no more, and does not
    /// bring back what was revoked.
    async fn an_agents_own_account_comes_with_its_grants(db: Db) {
        let world = World::new(&db).await;
        let agent = world.house.agent("scribe", None).await;
        let new = || of(&format!("agent:{agent}"));
        let id = connected(&world.connect(new(), "carol").await);
        let grants = live_grants(&world, &id).await;
        let whoms: Vec<_> = grants.iter().map(|grant| grant.for_whom.clone()).collect();
        assert_eq!(whoms, [ForWhom::Unattended, ForWhom::Operators]);
        assert!(grants.iter().all(|grant| grant.delivery == [Delivery::Proxy].into() && grant.agent == agent));
        let base = &world.house.base;
        grant::revoke(base, &world.house.site, &OPERATOR, &grants[0].id, "enough").await.unwrap();
        assert_eq!(connected(&world.connect(new(), "carol").await), id);
        assert_eq!(live_grants(&world, &id).await.len(), 1);
    }

    /// What cannot be stored is told as such, and the flow leaves no half of anything.
    async fn a_database_that_fails_gives_storage_failed(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("ALTER TABLE connections RENAME TO elsewhere").execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("ALTER TABLE elsewhere RENAME TO connections").execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        assert_eq!(failure(&ended), Code::StorageFailed);
        assert!(world.connections().await.is_empty());
    }

    /// The app may be replaced while a browser is away: the flow ends with the client it began with.
    async fn a_flow_ends_with_the_app_it_began_with(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        world.configure("another-client", "another-secret").await;
        let id = connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(world.connection(&id).await.client_id.as_deref(), Some("lab-client"));
    }

    /// R41: nothing that opens anything comes into the log, the audit, an outcome or a URL, whether it goes well or fails.
    async fn no_secret_of_a_flow_comes_out_anywhere(db: Db) {
        let log = log();
        let world = World::new(&db).await;
        let mut secrets = vec![CLIENT_SECRET.to_owned(), ACCESS_PREFIX.to_owned(), REFRESH_PREFIX.to_owned(), CODE_PREFIX.to_owned()];
        let mut told = String::new();
        let faults = [
            None,
            Some((At::Code, Fault::oauth("invalid_grant"))),
            Some((At::Code, Fault::set("token_type", "lab_at_c4n4ry"))),
            Some((At::Code, Fault::Body { text: "{\"error\":\"lab_at_c4n4ry\"}".into() })),
            Some((At::Code, Fault::LoseResponse)),
            Some((At::Userinfo, Fault::omit("id"))),
            Some((At::Userinfo, Fault::Subject { person: "bob".into() })),
            Some((At::Authorize, Fault::set("iss", "https://lab_at_c4n4ry.example"))),
            Some((At::Authorize, Fault::Deny { error: "lab_at_c4n4ry".into() })),
        ];
        for fault in faults {
            world.lab.behave();
            if let Some((at, fault)) = fault {
                world.lab.misbehave(Rule::once(at, fault));
            }
            let started = world.start(alices()).await;
            secrets.push(param(&started, "state").unwrap());
            secrets.push(started.binding.value.expose().to_owned());
            write!(told, "{started:?}").unwrap();
            let query = world.sign_in(&started, "alice").await;
            let ended: Ended = world.come_back(&query, Some(&started.binding.value)).await;
            write!(told, "{ended:?}{:?}", ended.return_url()).unwrap();
        }
        for row in audit::list(&db, &world.house.site, None, 1000).await.unwrap() {
            write!(told, "{row:?}").unwrap();
        }
        let texts: Vec<(String, String, String)> = on!(&db, |c| sqlx::query_as(
            "SELECT scopes, fields, COALESCE(outcome, '') FROM connect_sessions"
        )
        .fetch_all(c)
        .await
        .unwrap());
        write!(told, "{texts:?}").unwrap();
        let log = log.lock().unwrap().clone();
        assert!(log.contains("a connect flow failed"), "the log was not read");
        for secret in &secrets {
            assert!(!told.contains(secret.as_str()), "{secret} was told: {}", around(&told, secret));
            assert!(!log.contains(secret.as_str()), "{secret} was logged: {}", around(&log, secret));
        }
    }
}

pub(super) fn around<'t>(text: &'t str, what: &str) -> &'t str {
    let at = text.find(what).unwrap();
    text.get(at.saturating_sub(200)..(at + 60).min(text.len())).unwrap_or_default()
}

fn stored_slot(world: &World) -> Slot {
    Slot { site: world.house.site.clone(), provider: provider(), owner: alices().owner, name: AccountName::default() }
}

async fn live_grants(world: &World, id: &ConnectionId) -> Vec<grant::Grant> {
    let grants = grant::list(&world.house.base.db, &world.house.site, None, Some(id)).await.unwrap();
    grants.into_iter().filter(|grant| grant.revoked_at.is_none()).collect()
}

/// Everything that is logged by this process from now on.
pub(super) fn log() -> &'static Mutex<String> {
    static LOG: OnceLock<&'static Mutex<String>> = OnceLock::new();
    LOG.get_or_init(|| {
        let text: &'static Mutex<String> = Box::leak(Box::default());
        tracing::subscriber::set_global_default(Collector(text)).unwrap();
        text
    })
}

/// Writes every event and span with all its fields.
struct Collector(&'static Mutex<String>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        // What sqlx and hyper log of their own is theirs; what they are given by us counts.
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut text = self.0.lock().unwrap();
        span.record(&mut Fields(&mut text));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = self.0.lock().unwrap();
        event.record(&mut Fields(&mut text));
        text.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
