//! OAuth 1.0a (RFC 5849): three legs to a sealed connection, and everybody who tries to get in between.

use std::{fmt::Write as _, time::Duration};

use provider_lab::{
    ACCESS_PREFIX, At, CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Fault, Rule, TEMPORARY_PREFIX, VERIFIER_PREFIX,
};
use serde_json::json;
use valetkey::{
    Code, audit, connect,
    connect::session::{self, NewSession},
    connection::{Identity, Status},
    db::Db,
    id::sha256_hex,
    on, on_each_db,
    secret::Secret,
};

use super::{
    outcomes::{around, log},
    world::{OPERATOR, World, alices, carried, connected, failure, of, param},
};

/// A world whose lab speaks OAuth 1.0a.
pub(crate) async fn world(db: &Db) -> World {
    world_with(db, "HMAC-SHA1", |text| text).await
}

pub(crate) async fn world_with(db: &Db, signature: &str, change: impl FnOnce(String) -> String) -> World {
    let options = DefinitionOptions { oauth1: Some(signature.to_owned()), ..DefinitionOptions::default() };
    World::with(db, &options, change).await
}

/// How many requests asked the lab for a token.
fn exchanges(world: &World) -> u64 {
    world.lab.requests("oauth1.access_token")
}

/// Without what can happen once only: a flow that a fault of the provider's ends.
async fn code_with(world: &World, at: At, fault: Fault) -> Code {
    world.lab.misbehave(Rule::once(at, fault));
    let code = failure(&world.connect(alices(), "alice").await);
    world.lab.behave();
    code
}

/// Why an approval begins nothing.
async fn not_begun(world: &World, link: &session::Created, visit: &Secret) -> Code {
    let page = session::visit(&world.outside, &link.link, Some(visit)).await.unwrap();
    session::approve(&world.outside, &link.link, Some(visit), &page.csrf.unwrap()).await.unwrap_err().code()
}

on_each_db! {
    /// R48: all three legs are signed, by the method that the definition names, and the account is sealed with both halves of
    /// its token.
    async fn three_signed_legs_lead_to_a_sealed_connection(db: Db) {
        for signature in ["HMAC-SHA1", "HMAC-SHA256"] {
            let (fresh, _folder) = crate::connect::tokens::sibling(&db).await;
            let world = world_with(&fresh, signature, |text| text).await;
            let id = connected(&world.connect(alices(), "alice").await);
            let connection = world.connection(&id).await;
            assert_eq!((connection.subject.as_deref(), connection.identity), (Some("1001"), Identity::Verified));
            assert_eq!((connection.subject_name.as_deref(), connection.client_id.as_deref()), (Some("alice"), Some(CLIENT_ID)));
            assert_eq!((connection.scopes, connection.expires_at), (None, None));
            assert_eq!(connection.hosts, [world.lab.addr().to_string()]);
            let account = world.account(&id).await;
            assert!(world.lab.is_live_oauth1(account.text("access_token").unwrap().expose()));
            assert!(account.text("access_token_secret").is_some());
            let members: std::collections::BTreeSet<_> = account.expose().keys().map(String::as_str).collect();
            assert_eq!(members.into_iter().collect::<Vec<_>>(), ["access_token", "access_token_secret", "display_name", "id", "screen_name", "user_id", "username"]);
            let rows = world.audited("connection.connect").await;
            assert_eq!((rows[0].0.as_str(), &rows[0].1["subject"]), ("ok", &json!("1001")));
            assert_eq!((world.lab.requests("oauth1.request_token"), exchanges(&world)), (1, 1));
        }
    }

    /// R48: without `oauth_callback_confirmed=true` anybody could finish anybody's flow. The link works on.
    async fn a_provider_that_does_not_confirm_the_callback_is_refused(db: Db) {
        let world = world(&db).await;
        let link = world.link(alices()).await;
        let visit = world.open(&link, &"user:alice".parse().unwrap()).await;
        for fault in [
            Fault::omit("oauth_callback_confirmed"),
            Fault::set("oauth_callback_confirmed", "false"),
            Fault::set("oauth_callback_confirmed", "1"),
        ] {
            world.lab.misbehave(Rule::once(At::TemporaryToken, fault));
            assert_eq!(not_begun(&world, &link, &visit).await, Code::RequestTokenFailed);
        }
        let rows = world.audited("connect.approve").await;
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|(outcome, facts)| outcome == "failed" && facts["word"] == "callback_not_confirmed"), "{rows:?}");
        let (flows,): (i64,) = on!(&db, |c| sqlx::query_as("SELECT COUNT(*) FROM flows").fetch_one(c).await.unwrap());
        assert_eq!(flows, 0);
        let status = session::status(&world.house.base, &world.house.site, &link.id).await.unwrap().unwrap();
        assert_eq!(status.state, "waiting");
        let started = world.approve(&link, &visit).await;
        let query = world.sign_in(&started, "alice").await;
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
    }

    /// `request_token_failed`: whatever else keeps a temporary token from coming.
    async fn a_temporary_token_that_does_not_come_is_told_and_the_link_works_on(db: Db) {
        let world = world(&db).await;
        let link = world.link(alices()).await;
        let visit = world.open(&link, &"user:alice".parse().unwrap()).await;
        for fault in [
            Fault::status(503),
            Fault::oauth("invalid_request"),
            Fault::HtmlBody,
            Fault::Drop,
            Fault::omit("oauth_token"),
            Fault::omit("oauth_token_secret"),
            Fault::Duplicate { field: "oauth_token".into(), value: json!("another") },
            Fault::set("oauth_token", "two\nlines"),
        ] {
            world.lab.misbehave(Rule::once(At::TemporaryToken, fault.clone()));
            assert_eq!(not_begun(&world, &link, &visit).await, Code::RequestTokenFailed, "{fault:?}");
        }
        // A wrong secret signs wrongly.
        world.configure(CLIENT_ID, "wrong").await;
        assert_eq!(not_begun(&world, &link, &visit).await, Code::RequestTokenFailed);
        world.configure(CLIENT_ID, CLIENT_SECRET).await;
        world.approve(&link, &visit).await;
        assert!(world.connections().await.is_empty());
    }

    /// A provider that gives out one temporary token twice cannot have two flows hang on it.
    async fn a_temporary_token_that_comes_twice_begins_one_flow(db: Db) {
        let world = world(&db).await;
        world.lab.misbehave(Rule::always(At::TemporaryToken, Fault::set("oauth_token", "lab_tt_the_same")));
        world.start(alices()).await;
        let link = world.link(of("user:bob")).await;
        let visit = world.open(&link, &"user:bob".parse().unwrap()).await;
        assert_eq!(not_begun(&world, &link, &visit).await, Code::RequestTokenFailed);
    }

    /// R11: what a flow is found by is a hash, and the temporary secret is sealed; it lives fifteen minutes.
    async fn a_flow_keeps_the_temporary_secret_sealed(db: Db) {
        let world = world(&db).await;
        let started = world.start(alices()).await;
        let token = param(&started, "oauth_token").unwrap();
        assert!(token.starts_with(TEMPORARY_PREFIX) && param(&started, "state").is_none());
        let (state_hash, browser_hash, sealed, created, expires): (String, String, Vec<u8>, i64, i64) = on!(&db, |c| sqlx::query_as(
            "SELECT state_hash, browser_hash, sealed, created_at, expires_at FROM flows"
        )
        .fetch_one(c)
        .await
        .unwrap());
        assert_eq!(state_hash, sha256_hex(format!("oauth1\nlab\n{token}").as_bytes()));
        assert_eq!(browser_hash, sha256_hex(started.binding.value.expose().as_bytes()));
        assert!(!sealed.windows(TEMPORARY_PREFIX.len()).any(|window| window == TEMPORARY_PREFIX.as_bytes()));
        assert_eq!((expires - created, started.max_age), (15 * 60 * 1_000_000, 15 * 60));
    }

    /// R1, R48: a token that we did not ask for finishes nothing.
    async fn a_callback_with_a_token_of_somebody_elses_stores_nothing(db: Db) {
        let world = world(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        let token = param(&started, "oauth_token").unwrap();
        let made_up = query.replace(&token, "lab_tt_made_up");
        let binding = Some(&started.binding.value);
        assert_eq!(failure(&world.come_back(&made_up, binding).await), Code::TokenSecretExpired);
        for query in ["", "oauth_verifier=x", "oauth_token=&oauth_verifier=x", "state=x&code=y"] {
            assert_eq!(failure(&world.come_back(query, binding).await), Code::MissingParameters, "{query}");
        }
        assert_eq!((exchanges(&world), world.connections().await.len()), (0, 0));
        connected(&world.come_back(&query, binding).await);
    }

    /// R2: a temporary secret serves once.
    async fn the_second_callback_with_a_token_fails(db: Db) {
        let world = world(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::TokenSecretExpired);
        assert_eq!(exchanges(&world), 1);
    }

    /// R2: of callbacks at the same moment exactly one wins, and the provider sees one token request.
    async fn of_two_callbacks_with_a_token_exactly_one_wins(db: Db) {
        let world = world(&db).await;
        for _ in 0..5 {
            let started = world.start(alices()).await;
            let query = world.sign_in(&started, "alice").await;
            world.lab.reset_records();
            let binding = Some(&started.binding.value);
            let (a, b, c) =
                tokio::join!(world.come_back(&query, binding), world.come_back(&query, binding), world.come_back(&query, binding));
            let won = [a, b, c].iter().filter(|ended| matches!(ended.outcome, connect::Outcome::Connected { .. })).count();
            assert_eq!((won, exchanges(&world)), (1, 1));
        }
    }

    /// R3: another browser finishes nothing and uses nothing up, also with a flow of its own.
    async fn another_browser_cannot_finish_a_flow_of_a_temporary_token(db: Db) {
        let world = world(&db).await;
        let (mine, other) = (world.start(alices()).await, world.start(of("user:mallory")).await);
        let query = world.sign_in(&mine, "alice").await;
        for binding in [None, Some(Secret::new("A".repeat(43))), Some(other.binding.value.clone()), Some(Secret::new(""))] {
            assert_eq!(failure(&world.come_back(&query, binding.as_ref()).await), Code::TokenSecretExpired);
        }
        // Nor does mallory's answer go through in alice's browser.
        let theirs = world.sign_in(&other, "bob").await;
        assert_eq!(failure(&world.come_back(&theirs, Some(&mine.binding.value)).await), Code::TokenSecretExpired);
        assert_eq!(exchanges(&world), 0);
        let denied = world.audited("connect.callback").await;
        assert_eq!(denied.len(), 5);
        assert!(denied.iter().all(|(outcome, _)| outcome == "denied"));
        connected(&world.come_back(&query, Some(&mine.binding.value)).await);
    }

    /// `access_token_failed`: the verifier of another flow is of no use, in either flow.
    async fn the_verifier_of_another_flow_is_refused(db: Db) {
        let world = world(&db).await;
        let (mine, other) = (world.start(alices()).await, world.start(of("user:mallory")).await);
        let (query, theirs) = (world.sign_in(&mine, "alice").await, world.sign_in(&other, "bob").await);
        let verifier = |query: &str| query.split("oauth_verifier=").nth(1).unwrap().to_owned();
        let swapped = query.replace(&verifier(&query), &verifier(&theirs));
        assert_ne!(swapped, query);
        assert_eq!(failure(&world.come_back(&swapped, Some(&mine.binding.value)).await), Code::AccessTokenFailed);
        assert!(world.connections().await.is_empty());
        // The flow is used up all the same.
        assert_eq!(failure(&world.come_back(&query, Some(&mine.binding.value)).await), Code::TokenSecretExpired);
    }

    /// R10: a flow ends only at the callback of its own provider.
    async fn a_token_does_not_end_a_flow_at_another_providers_callback(db: Db) {
        let world = world(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        let binding = Some(&started.binding.value);
        assert_eq!(failure(&world.come_back_at("twitter", &query, binding).await), Code::TokenSecretExpired);
        assert_eq!(failure(&world.come_back_at("github", &query, binding).await), Code::InvalidState);
        connected(&world.come_back(&query, binding).await);
    }

    /// `token_secret_expired`: R5, fifteen minutes, or less where the definition says so.
    async fn a_late_callback_with_a_token_stores_nothing(db: Db) {
        for (change, life) in [("", 15 * 60), ("temp_ttl = \"5m\"\n", 5 * 60), ("temp_ttl = \"2h\"\n", 15 * 60)] {
            let (fresh, _folder) = crate::connect::tokens::sibling(&db).await;
            let denied = "denied_param = \"denied\"\n";
            let world = world_with(&fresh, "HMAC-SHA1", |text| text.replace(denied, &format!("{denied}{change}"))).await;
            let (in_time, late) = (world.start(alices()).await, world.start(of("user:bob")).await);
            let (query, too_late) = (world.sign_in(&in_time, "alice").await, world.sign_in(&late, "bob").await);
            world.house.base.clock.advance(Duration::from_secs(life - 1));
            connected(&world.come_back(&query, Some(&in_time.binding.value)).await);
            world.house.base.clock.advance(Duration::from_secs(1));
            let before = exchanges(&world);
            assert_eq!(failure(&world.come_back(&too_late, Some(&late.binding.value)).await), Code::TokenSecretExpired);
            assert_eq!((exchanges(&world), world.connections().await.len()), (before, 1), "{change}");
        }
    }

    /// `access_denied`: R22, the flow ends in its own way, and what was connected stays usable.
    async fn who_refuses_at_an_oauth1_provider_leaves_the_connection_as_it_was(db: Db) {
        let world = world(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let before = world.connection(&id).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "access_denied".into() }));
        let mut new = alices();
        new.payload = Some(Secret::new("carried"));
        let started = world.start(new).await;
        let query = world.sign_in(&started, "alice").await;
        assert!(query.starts_with("denied=lab_tt_"), "{query}");
        // In another browser the word changes nothing.
        assert_eq!(failure(&world.come_back(&query, None).await), Code::AccessDenied);
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        assert_eq!((failure(&ended), carried(&ended)), (Code::AccessDenied, Some("carried")));
        let after = world.connection(&id).await;
        assert_eq!((after.version, &after.status, after.updated_at), (before.version, &Status::Active, before.updated_at));
        assert_eq!(world.audited("connection.connect").await[0].0, "denied");
        // Authlib's providers say it in the words of OAuth 2.0, without the token.
        assert_eq!(failure(&world.come_back("error=access_denied", None).await), Code::AccessDenied);
    }

    /// R48, `missing_parameters`: the flow is found, and there is nothing to exchange.
    async fn an_answer_without_a_verifier_ends_the_flow(db: Db) {
        let world = world(&db).await;
        for lost in [Fault::omit("oauth_verifier"), Fault::set("oauth_verifier", "")] {
            assert_eq!(code_with(&world, At::Authorize, lost).await, Code::MissingParameters);
        }
        let (_, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!((&facts["code"], &facts["word"]), (&json!("missing_parameters"), &json!("no_verifier")));
        assert_eq!(exchanges(&world), 0);
    }

    /// `access_token_failed`, and nothing is left of it. A token request is sent once.
    async fn a_verifier_that_buys_no_token_is_told(db: Db) {
        let world = world(&db).await;
        for fault in [
            Fault::status(503),
            Fault::oauth("invalid_request"),
            Fault::HtmlBody,
            Fault::Drop,
            Fault::omit("oauth_token"),
            Fault::omit("oauth_token_secret"),
            Fault::set("oauth_token", "two\nlines"),
        ] {
            let before = exchanges(&world);
            assert_eq!(code_with(&world, At::VerifiedToken, fault.clone()).await, Code::AccessTokenFailed, "{fault:?}");
            assert_eq!(exchanges(&world), before + 1, "{fault:?}");
        }
        assert_eq!(code_with(&world, At::Userinfo, Fault::status(500)).await, Code::AccountFetchFailed);
        assert!(world.connections().await.is_empty());
        assert_eq!(world.owed().await, [("the account was not connected after all".into(), "pending".into())]);
    }

    /// `storage_failed`: the token is there and cannot be stored.
    async fn an_oauth1_account_that_cannot_be_stored_is_told(db: Db) {
        let world = world(&db).await;
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

    /// Decisions 4 hold for this kind too.
    async fn the_same_person_keeps_the_id_and_another_is_refused(db: Db) {
        let world = world(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let before = world.account(&id).await.text("access_token").unwrap();
        assert_eq!(connected(&world.connect(alices(), "alice").await), id);
        assert!(!before.matches(&world.account(&id).await.text("access_token").unwrap()));
        assert_eq!(failure(&world.connect(alices(), "bob").await), Code::SubjectMismatch);
        assert_eq!(world.connection(&id).await.subject.as_deref(), Some("1001"));
    }

    /// an agent's own account may be of this kind.
    async fn an_agent_may_have_an_oauth1_account_of_its_own(db: Db) {
        let world = world(&db).await;
        let agent = world.house.agent("scribe", None).await;
        let id = connected(&world.connect(of(&format!("agent:{agent}")), "carol").await);
        let connection = world.connection(&id).await;
        assert_eq!((connection.owner.to_string(), connection.subject.as_deref()), (format!("agent:{agent}"), Some("1003")));
    }

    async fn a_session_at_an_oauth1_provider_asks_for_no_scopes(db: Db) {
        let world = world(&db).await;
        let new = |scopes: &[&str]| NewSession { scopes: Some(scopes.iter().map(|s| (*s).to_owned()).collect()), ..alices() };
        assert_eq!(world.refused(new(&["read"])).await, Code::InvalidRequest);
        let link = world.link(new(&[])).await;
        assert!(session::view(&world.outside, &link.link).await.unwrap().scopes.is_empty());
    }

    /// X by OAuth 1.0a, as it is built in: a link can be made, and the page names where it leads.
    async fn the_built_in_definition_of_x_can_be_connected(db: Db) {
        let world = world(&db).await;
        world.configure_provider("twitter", &json!({ "api_key": "key", "api_secret": "secret" })).await;
        let new = NewSession::new("twitter".parse().unwrap(), "user:alice".parse().unwrap());
        let link = session::create(&world.outside, &world.house.site, &OPERATOR, new).await.unwrap();
        let view = session::view(&world.outside, &link.link).await.unwrap();
        assert_eq!((view.authorize_origin.as_str(), view.host.as_str()), ("https://api.x.com", "api.x.com"));
    }

    /// R41: nothing that opens anything comes into the log, the audit, an outcome or a URL.
    async fn no_secret_of_an_oauth1_flow_comes_out_anywhere(db: Db) {
        let log = log();
        let world = world(&db).await;
        let mut secrets = vec![CLIENT_SECRET.to_owned(), ACCESS_PREFIX.to_owned(), VERIFIER_PREFIX.to_owned()];
        let mut told = String::new();
        for fault in [
            None,
            Some((At::VerifiedToken, Fault::oauth("invalid_request"))),
            Some((At::VerifiedToken, Fault::Body { text: "oauth_token=lab_at_c4n4ry&oauth_problem=lab_at_c4n4ry".into() })),
            Some((At::VerifiedToken, Fault::LoseResponse)),
            Some((At::Userinfo, Fault::omit("id"))),
            Some((At::Authorize, Fault::Deny { error: "access_denied".into() })),
        ] {
            world.lab.behave();
            if let Some((at, fault)) = fault {
                world.lab.misbehave(Rule::once(at, fault));
            }
            let started = world.start(alices()).await;
            secrets.push(started.binding.value.expose().to_owned());
            write!(told, "{started:?}").unwrap();
            let query = world.sign_in(&started, "alice").await;
            let ended = world.come_back(&query, Some(&started.binding.value)).await;
            write!(told, "{ended:?}{:?}", ended.return_url()).unwrap();
        }
        for row in audit::list(&db, &world.house.site, None, 1000).await.unwrap() {
            write!(told, "{row:?}").unwrap();
        }
        let log = log.lock().unwrap().clone();
        for secret in &secrets {
            assert!(!told.contains(secret.as_str()), "{secret} was told: {}", around(&told, secret));
            assert!(!log.contains(secret.as_str()), "{secret} was logged: {}", around(&log, secret));
        }
    }
}

/// R21: what decides something may stand in the answer once.
#[test]
fn an_answer_with_two_tokens_or_verifiers_is_not_read() {
    for query in ["oauth_token=a&oauth_token=b&oauth_verifier=v", "oauth_token=a&oauth_verifier=v&oauth%5Fverifier=w"] {
        assert_eq!(connect::Answer::parse(query).unwrap_err().code(), Code::InvalidRequest, "{query}");
    }
}
