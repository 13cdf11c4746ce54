//! State, PKCE, and the browser that began.

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use valetkey::{Code, connect, id::sha256_hex, on, on_each_db, secret::Secret};

use super::tokens::sibling;
use super::world::{Stub, TOKENS, World, alices, connected, failure, of, param};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

on_each_db! {
    /// T-247.
    /// R1: a state that was not issued by us is refused and stores nothing.
    ///
    async fn a_callback_with_a_state_of_somebody_elses_stores_nothing(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        let state = param(&started, "state").unwrap();
        let made_up = query.replace(&state, &"A".repeat(43));
        assert_ne!(made_up, query);
        for query in [made_up.as_str(), "code=x", "code=x&state=", ""] {
            let ended = world.come_back(query, Some(&started.binding.value)).await;
            assert_eq!(failure(&ended), Code::InvalidState, "{query}");
            assert!(ended.return_to.is_none());
        }
        assert!(world.connections().await.is_empty());
        assert_eq!(world.token_requests(), 0);
    }

    /// R2: a state works once.
    ///
    async fn the_second_callback_with_a_state_fails(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::InvalidState);
        assert_eq!(world.token_requests(), 1);
    }

    /// R2: of callbacks at the same moment exactly one wins, and the provider sees one token request.
    async fn of_two_callbacks_at_once_exactly_one_wins(db: Db) {
        let world = World::new(&db).await;
        for _ in 0..5 {
            let started = world.start(alices()).await;
            let query = world.sign_in(&started, "alice").await;
            world.lab.reset_records();
            let binding = Some(&started.binding.value);
            let (a, b, c) =
                tokio::join!(world.come_back(&query, binding), world.come_back(&query, binding), world.come_back(&query, binding));
            let won = [a, b, c].iter().filter(|ended| matches!(ended.outcome, connect::Outcome::Connected { .. })).count();
            assert_eq!((won, world.token_requests()), (1, 1));
        }
        assert_eq!(world.connections().await.len(), 1);
    }

    /// R3: the same URL finished from another cookie jar is refused, no token request is sent, and the browser that began
    /// can still go on.
    async fn another_browser_cannot_finish_a_flow_nor_use_it_up(db: Db) {
        let world = World::new(&db).await;
        let (mine, other) = (world.start(alices()).await, world.start(of("user:mallory")).await);
        let query = world.sign_in(&mine, "alice").await;
        for binding in [None, Some(Secret::new("A".repeat(43))), Some(other.binding.value.clone()), Some(Secret::new(""))] {
            assert_eq!(failure(&world.come_back(&query, binding.as_ref()).await), Code::InvalidState);
        }
        assert_eq!(world.token_requests(), 0);
        let denied = world.audited("connect.callback").await;
        assert_eq!(denied.len(), 4);
        assert!(denied.iter().all(|(outcome, facts)| outcome == "denied" && facts["provider"] == "lab"));
        connected(&world.come_back(&query, Some(&mine.binding.value)).await);
    }

    /// R5: state expires, after fifteen minutes as the mission says; the late callback stores nothing.
    ///
    async fn a_callback_after_fifteen_minutes_stores_nothing(db: Db) {
        let world = World::new(&db).await;
        let in_time = world.start(alices()).await;
        let query = world.sign_in(&in_time, "alice").await;
        world.house.base.clock.advance(Duration::from_secs(15 * 60 - 1));
        connected(&world.come_back(&query, Some(&in_time.binding.value)).await);

        let late = world.start(of("user:bob")).await;
        let query = world.sign_in(&late, "bob").await;
        world.lab.reset_records();
        world.house.base.clock.advance(Duration::from_secs(15 * 60));
        assert_eq!(failure(&world.come_back(&query, Some(&late.binding.value)).await), Code::InvalidState);
        assert_eq!(world.token_requests(), 0);
        assert_eq!(world.connections().await.len(), 1);
    }

    /// R6: the verifier is 43 to 128 unreserved characters; no two flows share one, and it is not told from the state.
    ///
    async fn every_flow_has_a_verifier_of_its_own(db: Db) {
        let stub = Stub::start(TOKENS).await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"required\"").await;
        let mut flows = Vec::new();
        for _ in 0..3 {
            let started = world.start(alices()).await;
            let state = param(&started, "state").unwrap();
            let query = format!("code=c&state={state}");
            connected(&world.come_back(&query, Some(&started.binding.value)).await);
            let verifier = stub.seen().last().unwrap().field("code_verifier").unwrap();
            let challenge = param(&started, "code_challenge").unwrap();
            flows.push((state, verifier, challenge));
        }
        for (state, verifier, challenge) in &flows {
            assert!((43..=128).contains(&verifier.len()));
            assert!(verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
            assert!(!verifier.contains(state.as_str()) && verifier != &sha256_hex(state.as_bytes()));
            assert_ne!(challenge, verifier, "the challenge is a plain verifier");
        }
        let distinct: std::collections::BTreeSet<_> = flows.iter().flat_map(|(s, v, c)| [s, v, c]).collect();
        assert_eq!(distinct.len(), 9);
    }

    /// R7: S256, in the way the provider reads it, or nothing at all; `plain` is never sent. R9: the state is there in each case.
    ///
    async fn a_challenge_is_s256_or_is_not_sent(db: Db) {
        let stub = Stub::start(TOKENS).await;
        for (pkce, length) in [
            ("pkce = \"required\"", Some(43)),
            ("pkce = \"optional\"", Some(43)),
            ("pkce = \"required\"\npkce_encoding = \"hex\"", Some(64)),
            ("pkce = \"off\"", None),
        ] {
            let (fresh, _folder) = sibling(&db).await;
            let world = stub.world(&fresh, &format!("client_auth = \"body\"\n{pkce}")).await;
            let started = world.start(alices()).await;
            assert_eq!(param(&started, "code_challenge").map(|challenge| challenge.len()), length, "{pkce}");
            assert_eq!(param(&started, "code_challenge_method"), length.map(|_| "S256".to_owned()));
            // R9: state is there whatever the provider says of PKCE.
            let state = param(&started, "state").unwrap();
            assert_eq!(state.len(), 43);
            let query = format!("code=c&state={state}");
            connected(&world.come_back(&query, Some(&started.binding.value)).await);
            assert_eq!(stub.seen().last().unwrap().field("code_verifier").is_some(), length.is_some());
        }
    }

    /// R7: an error about the challenge ends the flow; nothing is tried again with less.
    async fn an_error_about_s256_does_not_lead_to_plain(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "invalid_request".into() }));
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::OauthDenied);
        assert_eq!((world.lab.requests("authorize"), world.token_requests()), (1, 0));
    }

    /// R10: every provider has a redirect URI of its own, and a flow ends only at its own.
    ///
    async fn a_flow_does_not_end_at_another_providers_callback(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        assert_ne!(world.outside.callback_url(&"lab".parse().unwrap()), world.outside.callback_url(&"github".parse().unwrap()));
        let query = world.sign_in(&started, "alice").await;
        let ended = world.come_back_at("github", &query, Some(&started.binding.value)).await;
        assert_eq!(failure(&ended), Code::InvalidState);
        assert_eq!(failure(&world.come_back_at("nowhere", &query, Some(&started.binding.value)).await), Code::NotFound);
        assert_eq!(world.token_requests(), 0);
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
    }

    /// R11: the expected issuer stands in the same row as state and verifier before the browser is sent away; and neither
    /// state, verifier nor binding stands there in the clear.
    ///
    async fn the_flow_records_the_expected_issuer_and_only_hashes(db: Db) {
        let world = World::new(&db).await;
        let started = world.start(alices()).await;
        let (issuer, state_hash, browser_hash, sealed): (Option<String>, String, String, Vec<u8>) =
            on!(&db, |c| sqlx::query_as("SELECT issuer, state_hash, browser_hash, sealed FROM flows").fetch_one(c).await.unwrap());
        assert_eq!(issuer, Some(world.lab.origin()));
        let state = param(&started, "state").unwrap();
        assert_eq!(state_hash, sha256_hex(state.as_bytes()));
        assert_eq!(browser_hash, sha256_hex(started.binding.value.expose().as_bytes()));
        assert!(!sealed.windows(8).any(|window| window == b"verifier"));
    }

    /// The task goes on when the browser leaves: tokens that were issued are not lost.
    async fn a_browser_that_leaves_in_the_middle_loses_nothing(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Code, Fault::HoldAfter));
        let started = world.start(alices()).await;
        let query = world.sign_in(&started, "alice").await;
        {
            let coming = world.come_back(&query, Some(&started.binding.value));
            let held = world.lab.wait_until(FIVE_SECONDS, |lab| lab.held() == 1);
            tokio::select! {
                _ = coming => panic!("the lab did not hold it"),
                held = held => assert!(held),
            }
        }
        assert!(world.connections().await.is_empty());
        world.lab.release();
        world.tasks.close();
        tokio::time::timeout(FIVE_SECONDS, world.tasks.wait()).await.unwrap();
        assert_eq!(world.connections().await.len(), 1);
    }

    async fn expired_flows_and_old_sessions_are_swept(db: Db) {
        let world = World::new(&db).await;
        world.start(alices()).await;
        assert_eq!(connect::sweep(&world.house.base).await.unwrap(), (0, 0));
        world.house.base.clock.advance(Duration::from_secs(16 * 60));
        assert_eq!(connect::sweep(&world.house.base).await.unwrap(), (1, 0));
        world.house.base.clock.advance(Duration::from_secs(25 * 3600));
        assert_eq!(connect::sweep(&world.house.base).await.unwrap(), (0, 1));
    }
}

/// R7: a definition cannot even say `plain`.
#[tokio::test]
async fn a_definition_cannot_ask_for_plain() {
    use valetkey::provider::{Catalogue, Trust};
    let lab = provider_lab::Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let text = lab.definition(&DefinitionOptions::default());
    for (from, to) in
        [("pkce = \"required\"", "pkce = \"plain\""), ("pkce = \"required\"", "pkce = \"required\"\npkce_encoding = \"plain\"")]
    {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        assert!(Catalogue::default().with_text(&"lab".parse().unwrap(), &changed, Trust::Dev).is_err());
    }
}
