//! Token exchange: less for more, a person for an agent, and an upstream token where a grant says so.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use valetkey::{
    agent::{self, Role},
    approval::{self, Decider},
    decision::{Over, Parsed},
    grant::{Effect, ForWhom, NewGrant},
    id::{ApprovalId, SessionName, TokenId},
    oauth::{Client, Issued, Outcome, Word},
    on_each_db, person,
    platform::{self, Minted, Purpose, Scope},
    principal::{Actor, Ceiling},
    secret::Secret,
    token::{self, NewToken, TokenHash},
};

use super::world::{ACCESS_TOKEN, Hall, ISSUER, JWT, alice, word};
use crate::{
    authority::narrow,
    support::{both, ceiling},
};

impl Hall {
    /// A token that was minted by hand.
    async fn minted(&self, person: Option<&str>, most: Option<Ceiling>) -> Secret {
        let new = NewToken { person: person.map(|p| p.parse().unwrap()), ceiling: most, ..NewToken::default() };
        token::mint(&self.house.base, self.site(), &Actor::Operator, &self.agent, new).await.unwrap().1
    }

    /// Trades a token, with more parameters.
    async fn trade(&self, client: &Client, token: &Secret, more: &[(&str, &str)]) -> Outcome<Issued> {
        let mut all = vec![("subject_token", token.expose()), ("subject_token_type", ACCESS_TOKEN)];
        all.extend(more);
        self.exchange(client, &all).await
    }

    /// Has an agent act for a person whom a platform proves.
    async fn delegate(&self, client: &Client, token: &Secret, assertion: &str) -> Outcome<Issued> {
        let asked = [
            ("subject_token", assertion),
            ("subject_token_type", JWT),
            ("actor_token", token.expose()),
            ("actor_token_type", ACCESS_TOKEN),
        ];
        self.exchange(client, &asked).await
    }

    fn assertion(&self, key: &Minted, user: &str, purpose: Purpose<'_>) -> String {
        let now = self.house.base.clock.now();
        let signed = platform::sign_for(&key.key.id, &key.assertion_secret, &user.parse().unwrap(), purpose, now);
        signed.unwrap().expose().to_owned()
    }

    /// Bob's, with more claims.
    fn claiming(&self, key: &Minted, more: Value) -> String {
        let now = self.house.base.clock.now().unix_seconds();
        let jti = TokenId::new().to_string();
        let mut claims = json!({ "sub": "bob", "aud": "valetkey:exchange", "jti": jti, "iat": now, "exp": now + 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key.key.id.to_string());
        let by = EncodingKey::from_secret(key.assertion_secret.expose().as_bytes());
        jsonwebtoken::encode(&header, &claims, &by).unwrap()
    }

    /// The session and the task that a token is for.
    async fn names_of(&self, token: &Secret) -> (Option<String>, Option<String>) {
        let hash = TokenHash::of_presented(token.expose()).unwrap();
        let facts = self.house.authority.holder(&hash).await.unwrap().unwrap();
        (facts.session.as_ref().map(ToString::to_string), facts.task.as_ref().map(ToString::to_string))
    }

    /// The ceiling that stands on a token.
    async fn ceiling_of(&self, token: &Secret) -> Option<Ceiling> {
        let hash = TokenHash::of_presented(token.expose()).unwrap();
        let facts = self.house.authority.holder(&hash).await.unwrap().unwrap();
        facts.token.clone().unwrap().ceiling.map(|ceiling| match ceiling {
            Parsed::Read(ceiling) => ceiling,
            Parsed::Unreadable => panic!("unreadable"),
        })
    }
}

on_each_db! {
    /// R112, R113: a token for less, of the same agent and person, that lives no longer than what it was exchanged for.
    async fn a_token_is_exchanged_for_one_that_may_less(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let own = hall.minted(Some("alice"), Some(ceiling(r#"{"operations":["GET /v1/**"]}"#))).await;
        let issued = hall.trade(&client, &own, &[("scope", "proxy provider:reddit")]).await.unwrap();
        assert_eq!((issued.token_type, issued.issued_token_type, issued.expires_in), ("Bearer", Some(ACCESS_TOKEN), Some(900)));
        assert_eq!(issued.scope.as_deref(), Some("proxy provider:reddit"));
        assert!(issued.refresh_token.is_none());
        let expected = ceiling(r#"{"delivery":["proxy"],"providers":["reddit"],"operations":["GET /v1/**"]}"#);
        assert_eq!(hall.ceiling_of(&issued.access_token).await, Some(expected));
        let told = hall.introspect(&hall.asker().await, issued.access_token.expose()).await;
        assert_eq!((told["sub"].as_str(), told["client_id"].as_str()), (Some("user:alice"), Some(client.id.as_str())));
        // The next one lies under this one, in scope and in time.
        hall.house.base.clock.advance(Duration::from_secs(600));
        let next = hall.trade(&client, &issued.access_token, &[]).await.unwrap();
        assert_eq!((next.expires_in, next.scope.as_deref()), (Some(300), Some("proxy provider:reddit")));
        for wider in ["reveal", "proxy provider:youtube"] {
            assert_eq!(word(hall.trade(&client, &issued.access_token, &[("scope", wider)]).await), Word::InvalidScope, "{wider}");
        }
    }

    /// R113: a client's own ceiling narrows whatever it exchanges.
    async fn a_client_gets_no_more_than_it_may_have(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(Some("proxy provider:reddit")).await;
        let own = hall.minted(Some("alice"), None).await;
        let issued = hall.trade(&client, &own, &[]).await.unwrap();
        assert_eq!(issued.scope.as_deref(), Some("proxy provider:reddit"));
        assert_eq!(word(hall.trade(&client, &own, &[("scope", "reveal")]).await), Word::InvalidScope);
        let elsewhere = hall.minted(Some("alice"), Some(ceiling(r#"{"providers":["youtube"]}"#))).await;
        assert_eq!(word(hall.trade(&client, &elsewhere, &[]).await), Word::InvalidScope, "nothing is left");
    }

    /// R113: what stands over the token is told and kept to as well, and is not written into the result: it may be lifted.
    async fn what_an_agent_and_a_site_leave_is_what_an_exchange_gives(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let own = hall.minted(Some("alice"), None).await;
        narrow(&hall.house, Over::Agent, &hall.agent, Some(ceiling(r#"{"delivery":["proxy"]}"#))).await;
        narrow(&hall.house, Over::Site, &hall.agent, Some(ceiling(r#"{"providers":["reddit"]}"#))).await;
        let issued = hall.trade(&client, &own, &[]).await.unwrap();
        assert_eq!(issued.scope.as_deref(), Some("proxy provider:reddit"));
        let stored = hall.ceiling_of(&issued.access_token).await.unwrap_or_default();
        assert_eq!(stored, Ceiling::default(), "what stands above the token is asked at each use");
        for beyond in ["reveal", "proxy provider:youtube"] {
            assert_eq!(word(hall.trade(&client, &own, &[("scope", beyond)]).await), Word::InvalidScope, "{beyond}");
        }
        narrow(&hall.house, Over::Agent, &hall.agent, Some(ceiling(r#"{"providers":["youtube"]}"#))).await;
        assert_eq!(word(hall.trade(&client, &own, &[]).await), Word::InvalidScope, "nothing is left");
        narrow(&hall.house, Over::Agent, &hall.agent, None).await;
        narrow(&hall.house, Over::Site, &hall.agent, None).await;
        let told = hall.introspect(&hall.asker().await, issued.access_token.expose()).await;
        assert_eq!(told["scope"], "proxy reveal");
    }

    /// R107: what has to come together comes together.
    async fn tokens_and_their_types_come_together(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let own = hall.minted(Some("alice"), None).await;
        let own = own.expose();
        for wrong in [
            &[][..],
            &[("subject_token", own)],
            &[("subject_token_type", ACCESS_TOKEN)],
            &[("subject_token", own), ("subject_token_type", ACCESS_TOKEN), ("actor_token", own)],
            &[("subject_token", own), ("subject_token_type", ACCESS_TOKEN), ("actor_token_type", ACCESS_TOKEN)],
            &[("subject_token", own), ("subject_token_type", ACCESS_TOKEN), ("actor_token", own), ("actor_token_type", ACCESS_TOKEN)],
            &[("subject_token", own), ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2")],
            &[("subject_token", own), ("subject_token_type", JWT)],
            &[("subject_token", own), ("subject_token_type", ACCESS_TOKEN), ("requested_token_type", JWT)],
        ] {
            assert_eq!(word(hall.exchange(&client, wrong).await), Word::InvalidRequest, "{wrong:?}");
        }
    }

    /// R108, R109, R118: a subject or actor that is not good is an invalid request, whatever is wrong with it; a refresh token is
    /// never one.
    async fn a_subject_that_is_not_good_is_an_invalid_request(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, client) = (&hall.house.base, hall.exchanger(None).await);
        let app = hall.public().await;
        let expired = hall.tokens(&app, &[]).await.access_token;
        base.clock.advance(Duration::from_secs(900));
        let refresh = hall.tokens(&app, &[]).await.refresh_token.unwrap();
        let revoked = hall.minted(None, None).await;
        let id = token::list(&db, hall.site(), &hall.agent).await.unwrap()[0].id.clone();
        token::revoke(base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        let other = "other".parse().unwrap();
        valetkey::site::create(base, &Actor::Operator, &other, "Other").await.unwrap();
        let new = agent::NewAgent { id: None, slug: "x".into(), title: String::new(), owner: None };
        let there = agent::create(base, &other, &Actor::Operator, new).await.unwrap();
        let (_, elsewhere) = token::mint(base, &other, &Actor::Operator, &there.id, NewToken::default()).await.unwrap();
        let nonsense = Secret::new("x");
        for (why, bad) in [
            ("a refresh token", &refresh),
            ("expired", &expired),
            ("revoked", &revoked),
            ("another site's", &elsewhere),
            ("nonsense", &nonsense),
        ] {
            // Before anything else, whatever that is.
            for more in [&[][..], &[("scope", "everything")], &[("resource", "https://api.example")], &[("audience", "nobody")]] {
                assert_eq!(word(hall.trade(&client, bad, more).await), Word::InvalidRequest, "{why}, {more:?}");
            }
            let assertion = hall.assertion(&hall.platform().await, "alice", Purpose::Exchange);
            assert_eq!(word(hall.delegate(&client, bad, &assertion).await), Word::InvalidRequest, "{why} as an actor");
        }
        let kind = "urn:ietf:params:oauth:token-type:refresh_token";
        let asked = [("subject_token", refresh.expose()), ("subject_token_type", kind)];
        assert_eq!(word(hall.exchange(&client, &asked).await), Word::InvalidRequest);
    }

    /// R110, R111: a target is one of our resources, a connection or a provider; anything else is an invalid target, and so are two.
    async fn an_unknown_target_is_an_invalid_target(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let own = hall.minted(Some("alice"), None).await;
        let mcp = format!("{ISSUER}/mcp");
        for wrong in [
            &[("resource", "https://api.example")][..],
            &[("resource", "nonsense")],
            &[("resource", "https://keys.example.test/#fragment")],
            &[("resource", ISSUER), ("resource", mcp.as_str())],
            &[("resource", ISSUER), ("audience", mcp.as_str())],
            &[("audience", "no_such_provider")],
            &[("audience", "connection:nonsense")],
            &[("audience", "reddit"), ("audience", "youtube")],
            &[("audience", "reddit"), ("resource", ISSUER)],
        ] {
            assert_eq!(word(hall.trade(&client, &own, wrong).await), Word::InvalidTarget, "{wrong:?}");
        }
        // The same one twice is one.
        let same = [("resource", mcp.as_str()), ("audience", mcp.as_str())];
        let issued = hall.trade(&client, &own, &same).await.unwrap();
        assert_eq!(hall.introspect(&hall.asker().await, issued.access_token.expose()).await["aud"], serde_json::json!([mcp]));
    }

    /// R83, R113: a token for one resource brings none for the other: who consented to it was told where it is taken.
    async fn a_token_for_one_resource_is_exchanged_for_none_elsewhere(db: Db) {
        let hall = Hall::new(&db).await;
        let (app, client) = (hall.public().await, hall.exchanger(None).await);
        let mcp = format!("{ISSUER}/mcp");
        for (own, other) in [(mcp.as_str(), ISSUER), (ISSUER, mcp.as_str())] {
            let token = hall.tokens(&app, &[("resource", own)]).await.access_token;
            for name in ["resource", "audience"] {
                assert_eq!(word(hall.trade(&client, &token, &[(name, other)]).await), Word::InvalidTarget, "{own} by {name}");
            }
            for asked in [&[][..], &[("resource", own)]] {
                let child = hall.trade(&client, &token, asked).await.unwrap().access_token;
                assert_eq!(hall.introspect(&hall.asker().await, child.expose()).await["aud"], serde_json::json!([own]));
            }
        }
    }

    /// R113: a token that acts for one person is not made to act for another, whatever the other says.
    async fn a_persons_token_does_not_come_to_act_for_somebody_else(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, key) = (hall.exchanger(None).await, hall.platform().await);
        hall.role("bob", Role::Operator).await;
        let alices = hall.minted(Some("alice"), None).await;
        let consented = hall.tokens(&hall.public().await, &[]).await.access_token;
        for token in [&alices, &consented] {
            let by_bob = hall.assertion(&key, "bob", Purpose::Exchange);
            assert_eq!(word(hall.delegate(&client, token, &by_bob).await), Word::InvalidRequest);
            let by_alice = hall.assertion(&key, "alice", Purpose::Exchange);
            hall.delegate(&client, token, &by_alice).await.unwrap();
        }
    }

    /// R115: exchanges do not go on for ever, and who acts is the agent whose token it is, however it came about.
    async fn a_token_is_exchanged_sixteen_times_and_not_once_more(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let mut token = hall.minted(Some("alice"), None).await;
        for _ in 0..16 {
            token = hall.trade(&client, &token, &[]).await.unwrap().access_token;
        }
        let told = hall.introspect(&hall.asker().await, token.expose()).await;
        assert_eq!(told["act"], serde_json::json!({ "sub": format!("agent:{}", hall.agent) }), "one actor, and none inside it");
        assert_eq!(word(hall.trade(&client, &token, &[]).await), Word::InvalidRequest);
    }

    /// R116: whoever proves to be nobody exchanges nothing, and neither does a client that may not.
    async fn only_a_client_with_a_secret_exchanges(db: Db) {
        let hall = Hall::new(&db).await;
        let own = hall.minted(Some("alice"), None).await;
        assert_eq!(word(hall.trade(&hall.public().await, &own, &[]).await), Word::UnauthorizedClient);
        // One that has the grant and lost its secret.
        let client = hall.exchanger(None).await;
        valetkey::db::testing::execute(&db, "UPDATE oauth_clients SET secret_hash = NULL").await;
        let client = valetkey::oauth::client::get(&db, hall.site(), &client.id).await.unwrap().unwrap();
        assert_eq!(word(hall.trade(&client, &own, &[]).await), Word::InvalidClient);
    }

    /// T-217.
    /// A person whom their platform proves has an agent act for them: `sub` is the person, `act` the agent.
    async fn an_agent_acts_for_a_person_whom_a_platform_proves(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, key) = (hall.exchanger(None).await, hall.platform().await);
        hall.role("bob", Role::Operator).await;
        let unattended = hall.minted(None, Some(ceiling(r#"{"delivery":["proxy"]}"#))).await;
        let assertion = hall.assertion(&key, "bob", Purpose::Exchange);
        let issued = hall.delegate(&client, &unattended, &assertion).await.unwrap();
        assert_eq!(issued.scope.as_deref(), Some("proxy"), "what the agent's own token may");
        let told = hall.introspect(&hall.asker().await, issued.access_token.expose()).await;
        assert_eq!((told["sub"].as_str(), told["act"]["sub"].as_str()), (Some("user:bob"), Some(format!("agent:{}", hall.agent).as_str())));
        assert_eq!(word(hall.delegate(&client, &unattended, &assertion).await), Word::InvalidRequest, "an assertion works once");
        for (why, wrong) in [
            ("for signing in", hall.assertion(&key, "bob", Purpose::SignIn)),
            ("no role on the agent", hall.assertion(&key, "carol", Purpose::Exchange)),
            ("nonsense", "nonsense".to_owned()),
        ] {
            assert_eq!(word(hall.delegate(&client, &unattended, &wrong).await), Word::InvalidRequest, "{why}");
        }
        let new = platform::NewKey { label: String::new(), scopes: [Scope::Connect].into(), asserts: platform::Asserts::Any, expires_at: None };
        let weak = platform::create(&hall.house.base, hall.site(), &Actor::Operator, new).await.unwrap();
        let by_weak = hall.assertion(&weak, "bob", Purpose::Exchange);
        assert_eq!(word(hall.delegate(&client, &unattended, &by_weak).await), Word::InvalidRequest, "a key that may not mint");
        // The person's role counts at each request.
        agent::remove_role(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, &"bob".parse().unwrap()).await.unwrap();
        let connection = hall.account().await;
        let hash = TokenHash::of_presented(issued.access_token.expose()).unwrap();
        assert!(!hall.house.ask(&hash, &connection).await.unwrap().allowed());
    }

    /// A platform may say which agent is to act for the person, and which client may bring its word: whoever else gets hold of it has
    /// nothing, and does not use it up.
    async fn an_assertion_for_an_agent_or_a_client_is_nothing_to_another(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other, key) = (hall.exchanger(None).await, hall.exchanger(None).await, hall.platform().await);
        hall.role("bob", Role::Operator).await;
        let own = hall.minted(None, None).await;
        for wrong in [
            json!({ "agent": "another" }),
            json!({ "agent": "a" }),
            json!({ "agent": 7 }),
            json!({ "agent": [hall.agent] }),
            json!({ "client_id": other.id }),
            json!({ "client_id": "" }),
            json!({ "agent": hall.agent, "client_id": other.id }),
            json!({ "agent": "another", "client_id": client.id }),
        ] {
            let assertion = hall.claiming(&key, wrong.clone());
            assert_eq!(word(hall.delegate(&client, &own, &assertion).await), Word::InvalidRequest, "{wrong}");
        }
        for right in [json!({}), json!({ "agent": hall.agent }), json!({ "client_id": client.id }), json!({ "agent": hall.agent, "client_id": client.id })] {
            let assertion = hall.claiming(&key, right.clone());
            if right.get("client_id").is_some() {
                assert_eq!(word(hall.delegate(&other, &own, &assertion).await), Word::InvalidRequest);
            }
            assert!(hall.delegate(&client, &own, &assertion).await.is_ok(), "{right}");
        }
    }

    /// R117: an upstream token is handed out where a grant says `reveal`, and neither the token nor the client forbids it.
    async fn an_upstream_token_needs_a_grant_that_reveals(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let connection = hall.account().await;
        let named = format!("connection:{connection}");
        let own = hall.minted(Some("alice"), None).await;
        for audience in [named.as_str(), "reddit"] {
            let issued = hall.trade(&client, &own, &[("audience", audience)]).await.unwrap();
            assert_eq!(issued.access_token.expose(), "at-user:alice-");
            assert_eq!((issued.issued_token_type, issued.expires_in, issued.scope.as_deref()), (Some(ACCESS_TOKEN), Some(3600), Some("read write")));
        }
        // An agent that could only have calls made.
        let careful = hall.house.agent("b", Some("alice")).await;
        hall.house.grant(&careful, &connection, ForWhom::Owner).await;
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, by_proxy) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &careful, new).await.unwrap();
        let held = hall.minted(Some("alice"), Some(ceiling(r#"{"delivery":["proxy"]}"#))).await;
        let unattended = hall.minted(None, None).await;
        for (why, token) in [("the grant", &by_proxy), ("the token's ceiling", &held), ("no person", &unattended)] {
            for audience in [named.as_str(), "reddit"] {
                assert_eq!(word(hall.trade(&client, token, &[("audience", audience)]).await), Word::InvalidTarget, "{why}");
            }
        }
        let weak = hall.exchanger(Some("proxy")).await;
        assert_eq!(word(hall.trade(&weak, &own, &[("audience", "reddit")]).await), Word::InvalidTarget, "the client's ceiling");
        assert_eq!(word(hall.trade(&client, &own, &[("audience", "reddit"), ("scope", "proxy")]).await), Word::InvalidScope);
        let unknown = format!("connection:con_{}", "0".repeat(32));
        assert_eq!(word(hall.trade(&client, &own, &[("audience", unknown.as_str())]).await), Word::InvalidTarget);
    }

    /// R117: for a person whom a platform proves, in one request.
    async fn an_upstream_token_for_a_proven_person(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, key) = (hall.exchanger(None).await, hall.platform().await);
        hall.account().await;
        let unattended = hall.minted(None, None).await;
        let assertion = hall.assertion(&key, "alice", Purpose::Exchange);
        let asked = [("subject_token", assertion.as_str()), ("subject_token_type", JWT), ("actor_token", unattended.expose()),
            ("actor_token_type", ACCESS_TOKEN), ("audience", "reddit")];
        let issued = hall.exchange(&client, &asked).await.unwrap();
        assert_eq!(issued.access_token.expose(), "at-user:alice-");
    }

    async fn a_token_of_a_consent_is_exchanged_within_that_consent(db: Db) {
        let hall = Hall::new(&db).await;
        let (app, client) = (hall.public().await, hall.exchanger(None).await);
        let first = hall.tokens(&app, &[("scope", "proxy")]).await;
        let child = hall.trade(&client, &first.access_token, &[]).await.unwrap().access_token;
        let told = hall.introspect(&hall.asker().await, child.expose()).await;
        assert!(told["grant_id"].as_str().unwrap().starts_with("fam_"));
        let id = told["grant_id"].as_str().unwrap().parse().unwrap();
        token::family::end(&hall.house.base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        assert!(!hall.is_taken(&child).await);
        assert_eq!(word(hall.trade(&client, &child, &[]).await), Word::InvalidRequest);
    }

    /// A session is named when a token is exchanged, once: what is granted for it is open from then on, and no later exchange changes
    /// or loses the name.
    async fn a_session_and_a_task_are_named_by_an_exchange_and_never_changed(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let connection = hall.ungranted().await;
        let session: SessionName = "chat-7".parse().unwrap();
        hall.house.grant_with(NewGrant { session: Some(session), ..NewGrant::proxy(&hall.agent, &connection, ForWhom::Owner) }).await;
        let may = async |token: &Secret| {
            let hash = TokenHash::of_presented(token.expose()).unwrap();
            hall.house.ask(&hash, &connection).await.unwrap().allowed()
        };
        let own = hall.minted(Some("alice"), None).await;
        let plain = hall.trade(&client, &own, &[]).await.unwrap().access_token;
        assert_eq!(hall.names_of(&plain).await, (None, None));
        assert!(!may(&own).await && !may(&plain).await);
        let named = hall.trade(&client, &own, &[("session", "chat-7")]).await.unwrap().access_token;
        assert_eq!(hall.names_of(&named).await, (Some("chat-7".to_owned()), None));
        assert!(may(&named).await && !may(&own).await);
        // A task may still be named, where there is none.
        let both = hall.trade(&client, &named, &[("task", "post-1"), ("session", "chat-7")]).await.unwrap().access_token;
        let kept = hall.trade(&client, &both, &[]).await.unwrap().access_token;
        for token in [&both, &kept] {
            assert_eq!(hall.names_of(token).await, (Some("chat-7".to_owned()), Some("post-1".to_owned())));
            assert!(may(token).await);
        }
        let told = hall.introspect(&hall.asker().await, kept.expose()).await;
        assert_eq!((told["session"].as_str(), told["task"].as_str()), (Some("chat-7"), Some("post-1")));
        assert!(hall.introspect(&hall.asker().await, plain.expose()).await.get("session").is_none());
        for other in [("session", "chat-8"), ("task", "post-2"), ("session", "chat 7"), ("task", "0")] {
            assert_eq!(word(hall.trade(&client, &both, &[other]).await), Word::InvalidRequest, "{other:?}");
        }
        // One that was minted for a session is for that one, whoever exchanges it.
        let new = NewToken { session: Some("chat-8".parse().unwrap()), person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, minted) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, new).await.unwrap();
        assert_eq!(word(hall.trade(&client, &minted, &[("session", "chat-7")]).await), Word::InvalidRequest);
        let child = hall.trade(&client, &minted, &[]).await.unwrap().access_token;
        assert_eq!(hall.names_of(&child).await, (Some("chat-8".to_owned()), None));
        assert!(!may(&child).await);
    }

    /// For a session as for everything: an upstream token is fetched by what the exchange would have given.
    async fn an_upstream_token_is_fetched_for_the_session_that_the_exchange_names(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.exchanger(None).await;
        let connection = hall.ungranted().await;
        let session: SessionName = "chat-7".parse().unwrap();
        let grant = NewGrant { session: Some(session), delivery: both(), ..NewGrant::proxy(&hall.agent, &connection, ForWhom::Owner) };
        hall.house.grant_with(grant).await;
        let own = hall.minted(Some("alice"), None).await;
        assert_eq!(word(hall.trade(&client, &own, &[("audience", "reddit")]).await), Word::InvalidTarget);
        let other = [("audience", "reddit"), ("session", "chat-8")];
        assert_eq!(word(hall.trade(&client, &own, &other).await), Word::InvalidTarget);
        let right = [("audience", "reddit"), ("session", "chat-7")];
        assert_eq!(hall.trade(&client, &own, &right).await.unwrap().access_token.expose(), "at-user:alice-");
    }

    /// Whatever acts for an erased person, was minted by them, or was exchanged for one of those, however often and for whom, is over.
    async fn what_was_exchanged_ends_with_an_erased_person(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, client, key) = (&hall.house.base, hall.exchanger(None).await, hall.platform().await);
        hall.role("bob", Role::Operator).await;
        hall.role("carol", Role::Operator).await;
        let bob = Actor::User("bob".parse().unwrap());
        let mint = async |by: &Actor, person: Option<&str>| {
            let new = NewToken { person: person.map(|person| person.parse().unwrap()), ..NewToken::default() };
            token::mint(base, hall.site(), by, &hall.agent, new).await.unwrap().1
        };
        let (own, unattended) = (mint(&Actor::Operator, Some("bob")).await, mint(&Actor::Operator, None).await);
        let (by_bob, carols) = (mint(&bob, None).await, mint(&Actor::Operator, Some("carol")).await);
        let child = hall.trade(&client, &own, &[]).await.unwrap().access_token;
        let grandchild = hall.trade(&client, &child, &[]).await.unwrap().access_token;
        let of_minted = hall.trade(&client, &by_bob, &[]).await.unwrap().access_token;
        let acting = hall.delegate(&client, &unattended, &hall.assertion(&key, "bob", Purpose::Exchange)).await.unwrap().access_token;
        let again = hall.trade(&client, &acting, &[]).await.unwrap().access_token;
        let stays = hall.trade(&client, &carols, &[]).await.unwrap().access_token;
        let all = [&own, &by_bob, &child, &grandchild, &of_minted, &acting, &again];
        for token in all {
            assert!(hall.is_taken(token).await);
        }
        let erased = person::erase(&hall.outside, hall.site(), &Actor::Operator, &"bob".parse().unwrap()).await.unwrap();
        assert_eq!(erased.tokens, 7);
        for (place, token) in all.into_iter().enumerate() {
            assert!(!hall.is_taken(token).await, "{place}");
            assert_eq!(word(hall.trade(&client, token, &[]).await), Word::InvalidRequest, "{place}");
        }
        for token in [&unattended, &carols, &stays] {
            assert!(hall.is_taken(token).await);
        }
        // Nobody acts for him any more, whoever vouches for him.
        let late = hall.assertion(&key, "bob", Purpose::Exchange);
        assert_eq!(word(hall.delegate(&client, &unattended, &late).await), Word::InvalidRequest);
    }

    /// R117: where a grant asks, a person approves the handing out, and the same request fetches it, once.
    async fn an_upstream_token_that_a_grant_asks_about_waits_for_a_person(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, client) = (&hall.house.base, hall.exchanger(None).await);
        let connection = hall.ungranted().await;
        let asks = NewGrant { effect: Effect::Ask, delivery: both(), ..NewGrant::proxy(&hall.agent, &connection, ForWhom::Owner) };
        hall.house.grant_with(asks).await;
        let alice = Decider { actor: Actor::User(alice()), administers: false };
        let own = hall.minted(Some("alice"), None).await;
        let wait = async |more: &[(&str, &str)]| {
            let all = [&[("audience", "reddit")][..], more].concat();
            let fault = hall.trade(&client, &own, &all).await.unwrap_err();
            assert_eq!(fault.word(), Some(Word::AuthorizationPending), "{fault}");
            let told = fault.more().unwrap().clone();
            (told["approval"].as_str().unwrap().parse::<ApprovalId>().unwrap(), told)
        };
        let (id, told) = wait(&[]).await;
        assert_eq!((&told["code"], &told["status"]), (&"approval_required".into(), &"pending".into()));
        assert_eq!(told["poll"], format!("/v1/approvals/{id}"));
        // Asked again it is the same question, also with the id; and a yes alone hands out nothing.
        let named = [("approval", id.as_str())];
        assert_eq!(wait(&[]).await.0, id);
        assert_eq!(wait(&named).await.0, id);
        approval::approve(base, hall.site(), &alice, &id).await.unwrap();
        assert_eq!(wait(&[]).await.1["status"], "approved");
        let with = [("audience", "reddit"), ("approval", id.as_str())];
        // Of another agent's token it is nothing.
        let other = hall.house.agent("other", Some("alice")).await;
        let asks = NewGrant { effect: Effect::Ask, delivery: both(), ..NewGrant::proxy(&other, &connection, ForWhom::Owner) };
        hall.house.grant_with(asks).await;
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, others) = token::mint(base, hall.site(), &Actor::Operator, &other, new).await.unwrap();
        assert_eq!(word(hall.trade(&client, &others, &with).await), Word::InvalidTarget);
        assert_eq!(hall.trade(&client, &own, &with).await.unwrap().access_token.expose(), "at-user:alice-");
        assert_eq!(word(hall.trade(&client, &own, &with).await), Word::InvalidTarget, "it works once");
        assert_eq!(word(hall.trade(&client, &own, &[("audience", "reddit"), ("approval", "nonsense")]).await), Word::InvalidRequest);
        // A no is told as one.
        let (again, _) = wait(&[]).await;
        assert_ne!(again, id);
        approval::refuse(base, hall.site(), &alice, &again, "not now").await.unwrap();
        for more in [&[("audience", "reddit")][..], &[("audience", "reddit"), ("approval", again.as_str())]] {
            assert_eq!(word(hall.trade(&client, &own, more).await), Word::AccessDenied);
        }
    }
}
