//! What a flow carries for whoever began it, and what it keeps apart from the flow beside it.

use valetkey::{
    Code,
    connect::session::{self, NewSession},
    db::testing,
    id::sha256_hex,
    on, on_each_db, seal,
    secret::Secret,
};

use super::world::{OPERATOR, Stub, TOKENS, World, alices, carried, connected, of, param};

on_each_db! {
    /// A-102 to A-105.
    async fn a_payload_comes_back_as_it_was_given_and_is_never_made_up(db: Db) {
        let world = World::new(&db).await;
        for payload in [
            None,
            Some(""),
            Some(r#"{"flow":42,"back":"/a/b?c=%2F","word":"ü"}"#),
            Some(r#"{"list":[1,[2,{"deep":[]}]],"map":{"a":{"b":null}}}"#),
        ] {
            let ended = world.connect(NewSession { payload: payload.map(Secret::new), ..alices() }, "alice").await;
            connected(&ended);
            assert_eq!(carried(&ended), payload);
        }
    }

    /// It is whatever its maker likes, so it is sealed, and only in its own row.
    async fn a_payload_is_sealed_and_opens_nowhere_else(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(NewSession { payload: Some(Secret::new("canary")), ..alices() }).await;
        let visit = world.open(&link, &alices().owner).await;
        world.approve(&link, &visit).await;
        let other = world.link(alices()).await;
        let clear: Vec<(Option<String>, Option<String>)> =
            on!(&db, |c| sqlx::query_as("SELECT s.payload, f.payload FROM connect_sessions s LEFT JOIN flows f ON f.session = s.id")
                .fetch_all(c)
                .await
                .unwrap());
        assert_eq!(clear, [(None, None), (None, None)]);
        let sealed: Vec<(Vec<u8>,)> =
            on!(&db, |c| sqlx::query_as("SELECT sealed FROM connect_sessions WHERE sealed IS NOT NULL").fetch_all(c).await.unwrap());
        assert_eq!(sealed.len(), 1, "a session without a payload seals something");
        assert!(!sealed[0].0.windows(6).any(|window| window == b"canary"));

        let (base, site) = (&world.house.base, &world.house.site);
        let payload = async |link: &session::Created| {
            let status = session::status(base, site, &link.id).await?;
            Ok::<_, valetkey::Error>(status.unwrap().payload.map(|payload| payload.expose().to_owned()))
        };
        assert_eq!(payload(&link).await.unwrap().as_deref(), Some("canary"));
        // Newer keys read it all the same.
        let rotated = seal::rotate::rotate(&db, &base.ring, None, Some(&"lab".parse().unwrap()), |_| {}).await.unwrap();
        assert!(rotated.retired > 0, "{rotated:?}");
        assert_eq!(payload(&link).await.unwrap().as_deref(), Some("canary"));
        testing::execute(
            &db,
            &format!(
                "UPDATE connect_sessions SET sealed = (SELECT sealed FROM connect_sessions WHERE id = '{}') WHERE id = '{}'",
                link.id, other.id
            ),
        )
        .await;
        assert_eq!(payload(&other).await.unwrap_err().code(), Code::Unsealable);
    }

    /// A-106 to A-108.
    async fn a_payload_that_is_too_large_is_told_how_large_it_may_be(db: Db) {
        assert_eq!(session::MAX_PAYLOAD, 4096);
        let world = World::new(&db).await;
        let with = |bytes: usize| NewSession { payload: Some(Secret::new("x".repeat(bytes))), ..alices() };
        let error = session::create(&world.outside, &world.house.site, &OPERATOR, with(5000)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        assert!(error.to_string().contains("4096"), "{error}");
        world.link(with(4096)).await;
    }

    /// A-115, A-123, A-127.
    async fn two_flows_at_once_keep_their_payloads_and_verifiers_apart(db: Db) {
        let stub = Stub::start(TOKENS).await;
        let world = stub.world(&db, "client_auth = \"body\"\npkce = \"required\"\npkce_encoding = \"hex\"").await;
        let mut flows = Vec::new();
        for payload in ["one", "two"] {
            let owner = format!("user:{payload}");
            flows.push((world.start(NewSession { payload: Some(Secret::new(payload)), ..of(&owner) }).await, payload));
        }
        // The second comes back first.
        for (started, payload) in flows.iter().rev() {
            assert_eq!(param(started, "response_type").as_deref(), Some("code"));
            let query = format!("code=c&state={}", param(started, "state").unwrap());
            let ended = world.come_back(&query, Some(&started.binding.value)).await;
            connected(&ended);
            assert_eq!(carried(&ended), Some(*payload));
            let verifier = stub.seen().last().unwrap().field("code_verifier").unwrap();
            assert_eq!(param(started, "code_challenge"), Some(sha256_hex(verifier.as_bytes())));
        }
    }

    /// A-169: also where another agent asked for it.
    async fn an_account_goes_to_the_owner_whom_its_link_names_and_to_nobody_else(db: Db) {
        let world = World::new(&db).await;
        let owner = format!("agent:{}", world.house.agent("scribe", Some("carol")).await);
        let acting = world.house.agent("acting", Some("dave")).await;
        connected(&world.connect(NewSession { agent: Some(acting), ..of(&owner) }, "alice").await);
        let owners: Vec<String> = world.connections().await.iter().map(|connection| connection.owner.to_string()).collect();
        assert_eq!(owners, [owner]);
    }
}
