//! What the provider answers, and what is made of it.

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use serde_json::{Value, json};
use valetkey::{
    Code,
    connect::Outcome,
    connection::{Identity, Renewal},
    db::Db,
    on_each_db,
};

use super::world::{Stub, World, alices, connected, failure, of, param};

on_each_db! {
    async fn a_finished_flow_leaves_a_sealed_connection_with_its_facts(db: Db) {
        let world = World::new(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let now = world.house.base.clock.now();
        let connection = world.connection(&id).await;
        assert_eq!((connection.owner.to_string().as_str(), connection.name.is_default()), ("user:alice", true));
        assert_eq!(connection.subject.as_deref(), Some("1001"));
        assert_eq!(connection.subject_name.as_deref(), Some("alice"));
        assert_eq!(connection.identity, Identity::Verified);
        assert_eq!(connection.client_id.as_deref(), Some("lab-client"));
        assert!(connection.app_config.is_some());
        assert_eq!(connection.scopes.as_deref().unwrap(), ["posts:read", "posts:write", "profile"]);
        assert_eq!(connection.hosts, [world.lab.addr().to_string()]);
        assert_eq!(connection.renewal, Renewal::RefreshToken);
        assert_eq!(connection.expires_at, Some(now.plus(Duration::from_secs(3600))));
        assert!(connection.is_authenticated(now));
        let account = world.account(&id).await;
        assert!(world.lab.is_live(account.text("access_token").unwrap().expose()));
        assert_eq!(account.expose()["expires_at"], json!(now.unix_seconds() + 3600));
        assert_eq!(account.expose()["scope"], "posts:read posts:write profile");
        assert_eq!(account.expose()["username"], "alice");
        let (outcome, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!((outcome.as_str(), facts["provider"].as_str(), facts["proven"].as_str()), ("ok", Some("lab"), Some("alice")));
    }

    /// R31: the type is compared without regard to case, and a token of a type that we do not know is not used.
    async fn the_token_type_counts_and_its_case_does_not(db: Db) {
        let stub = Stub::start("").await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"off\"").await;
        for (kind, fine) in [("bEaReR", true), ("Bearer", true), ("mac", false), ("N_A", false), ("DPoP", false)] {
            stub.answer(&json!({ "access_token": "a", "token_type": kind }).to_string());
            let ended = through(&world).await;
            if fine {
                connected(&ended);
            } else {
                assert_eq!(failure(&ended), Code::TokenExchangeFailed, "{kind}");
            }
        }
    }

    /// R32: a lifetime that is missing or senseless is unknown; no number makes anything panic.
    async fn an_odd_lifetime_is_unknown_or_bounded(db: Db) {
        let stub = Stub::start("").await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"off\"").await;
        let hundred_years = 100 * 365 * 24 * 3600;
        for (expires_in, seconds) in [
            (None, None),
            (Some(json!(3600)), Some(3600)),
            (Some(json!("3600")), Some(3600)),
            (Some(json!(0)), None),
            (Some(json!(-5)), None),
            (Some(json!("soon")), None),
            (Some(json!(null)), None),
            (Some(json!([1])), None),
            (Some(json!(1e300)), Some(hundred_years)),
            (Some(json!(u64::MAX)), Some(hundred_years)),
            (Some(json!("99999999999999999999999")), Some(hundred_years)),
        ] {
            let mut answer = json!({ "access_token": "a", "token_type": "bearer" });
            if let Some(value) = &expires_in {
                answer["expires_in"] = value.clone();
            }
            stub.answer(&answer.to_string());
            let id = connected(&through(&world).await);
            let connection = world.connection(&id).await;
            let life = connection.expires_at.map(|end| i64::try_from(end.since(world.house.base.clock.now()).as_secs()).unwrap());
            match (seconds, life) {
                (Some(hundred), found) if hundred == hundred_years => assert!(found.is_none_or(|life| life <= hundred), "{expires_in:?}"),
                (wanted, found) => assert_eq!(found, wanted, "{expires_in:?}"),
            }
            // Unknown is neither over nor for ever.
            assert!(connection.is_authenticated(world.house.base.clock.now()));
        }
    }

    /// R33: what was granted is stored, and what was not is told.
    async fn granted_scopes_are_stored_and_missing_ones_are_told(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::Scope { scope: "profile".into() }));
        let mut new = alices();
        new.scopes = Some(vec!["profile".into(), "posts:read".into()]);
        let ended = world.connect(new, "alice").await;
        let Outcome::Connected { connection, missing_scopes } = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(missing_scopes, &["posts:read"]);
        let connection = world.connection(connection).await;
        assert_eq!(connection.scopes.as_deref().unwrap(), ["profile"]);
        assert_eq!(connection.wanted_scopes, ["profile", "posts:read"]);
        let (_, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!(facts["missing_scopes"], json!(["posts:read"]));
    }

    /// R33: separators of the provider are brought into one form; an answer that names no scopes grants those asked for.
    async fn scopes_are_read_in_the_providers_own_way(db: Db) {
        let stub = Stub::start("").await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"off\"\nscope_separator_out = \",\"").await;
        for (scope, granted) in [
            (json!("write,read"), vec!["read", "write"]),
            (json!("read write extra"), vec!["extra", "read", "write"]),
            (Value::Null, vec!["read", "write"]),
        ] {
            stub.answer(&json!({ "access_token": "a", "token_type": "bearer", "scope": scope }).to_string());
            let id = connected(&through(&world).await);
            assert_eq!(world.connection(&id).await.scopes.unwrap(), granted);
        }
    }

    /// R40: a 200 with an error is an error, and a 200 that is no token answer is one too.
    async fn a_success_that_brings_no_token_is_a_failure(db: Db) {
        let world = World::new(&db).await;
        for fault in [
            Fault::error_with_200("bad_verification_code"),
            Fault::oauth("invalid_grant"),
            Fault::status(500),
            Fault::status(302),
            Fault::omit("access_token"),
            Fault::HtmlBody,
            Fault::Body { text: String::new() },
            Fault::Body { text: "[1]".into() },
            Fault::TruncatedBody,
            Fault::HugeBody { bytes: 8 << 20 },
            Fault::Drop,
            Fault::LoseResponse,
            Fault::set("access_token", json!({ "a": 1 })),
            Fault::set("token_type", "mac"),
            Fault::ControlCharacters,
        ] {
            world.lab.misbehave(Rule::once(At::Code, fault.clone()));
            let ended = world.connect(alices(), "alice").await;
            assert_eq!(failure(&ended), Code::TokenExchangeFailed, "{fault:?}");
            world.lab.behave();
        }
        assert!(world.connections().await.is_empty());
    }

    /// The second stage: a long-lived token takes the place of the first, with its own life and renewal.
    async fn a_second_stage_exchange_replaces_the_token(db: Db) {
        let options = DefinitionOptions { exchange: true, ..DefinitionOptions::default() };
        let world = World::with(&db, &options, |text| text).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let connection = world.connection(&id).await;
        assert_eq!(connection.renewal, Renewal::Extend);
        assert_eq!(connection.expires_at, Some(world.house.base.clock.now().plus(Duration::from_secs(60 * 86_400))));
        let account = world.account(&id).await;
        assert!(world.lab.is_live(account.text("access_token").unwrap().expose()));

        world.lab.misbehave(Rule::once(At::Exchange, Fault::oauth("invalid_grant")));
        let ended = world.connect(alices(), "alice").await;
        assert_eq!(failure(&ended), Code::TokenTransformFailed);
        assert_eq!(world.account(&id).await.text("access_token").unwrap().expose(), account.text("access_token").unwrap().expose());
    }

    /// An account of which nobody can say whose it is, is not stored; the tokens are owed a revocation.
    async fn an_account_without_an_identity_is_not_stored(db: Db) {
        let world = World::new(&db).await;
        for fault in [Fault::status(500), Fault::omit("id"), Fault::set("id", ""), Fault::HtmlBody, Fault::Drop] {
            world.lab.misbehave(Rule::once(At::Userinfo, fault.clone()));
            let ended = world.connect(alices(), "alice").await;
            assert_eq!(failure(&ended), Code::AccountFetchFailed, "{fault:?}");
        }
        assert!(world.connections().await.is_empty());
        let owed = world.owed().await;
        assert_eq!(owed.len(), 5);
        assert!(owed.iter().all(|(reason, status)| reason.contains("not connected after all") && status == "pending"), "{owed:?}");
    }

    /// Decisions 4: where nothing upstream says who it is, the owner's word counts.
    async fn without_an_identity_step_the_account_is_its_owners_word(db: Db) {
        let options = DefinitionOptions { without_identity: true, ..DefinitionOptions::default() };
        let world = World::with(&db, &options, |text| text).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let connection = world.connection(&id).await;
        assert_eq!((connection.identity, connection.subject), (Identity::Owner, None));
    }

    /// R61: nobody promised a refresh token.
    async fn a_connection_without_a_refresh_token_has_no_renewal(db: Db) {
        let world = World::new(&db).await;
        world.lab.settings(provider_lab::CLIENT_ID, |settings| settings.refresh_tokens = false);
        let id = connected(&world.connect(of("site"), "alice").await);
        assert_eq!(world.connection(&id).await.renewal, Renewal::None);
        assert!(world.account(&id).await.text("refresh_token").is_none());
    }

    /// A provider that takes its time is waited for.
    async fn a_slow_provider_is_waited_for(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Code, Fault::DelayAfter { ms: 1500 }));
        world.lab.misbehave(Rule::once(At::Code, Fault::SlowBody { chunk: 16, ms: 20 }));
        connected(&world.connect(alices(), "alice").await);
    }
}

/// A flow at a stub, from link to outcome.
async fn through(world: &World) -> valetkey::connect::Ended {
    let started = world.start(alices()).await;
    let query = format!("code=c&state={}", param(&started, "state").unwrap());
    world.come_back(&query, Some(&started.binding.value)).await
}

/// Another fresh database of the same kind, for a test that needs several worlds.
pub(crate) async fn sibling(db: &Db) -> (Db, Option<tempfile::TempDir>) {
    if db.is_sqlite() {
        let (db, folder) = valetkey::db::testing::sqlite().await;
        (db, Some(folder))
    } else {
        (valetkey::db::testing::postgres().await, None)
    }
}
