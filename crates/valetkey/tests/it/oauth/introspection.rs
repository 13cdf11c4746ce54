//! Introspection: active exactly as long as the token is taken, and nothing to whoever may not ask.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use valetkey::{
    agent::{self, Role},
    base::{Base, Outside},
    clock::{Clock, Timestamp},
    db::testing,
    decision::Over,
    id::UserId,
    oauth::{Asker, GrantType, NewClient, client},
    on_each_db, person,
    principal::Actor,
    site,
    token::{self, NewToken, family},
};

use super::world::{CALLBACK, Hall, ISSUER, alice, form};
use crate::{authority::narrow, support::ceiling};

on_each_db! {
    /// R85, R91, R95, R98, R99: who acts for whom, by which token of which client and consent. A subject says which kind it is,
    /// so a person and an agent of one name are two, and neither is a client.
    async fn an_active_token_is_told_with_both_principals(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let issued = hall.tokens(&client, &[("scope", "proxy provider:reddit")]).await;
        let told = hall.introspect(&hall.asker().await, issued.access_token.expose()).await;
        let listed = token::list(&db, hall.site(), &hall.agent).await.unwrap();
        assert_eq!(told, json!({
            "active": true,
            "token_type": "Bearer",
            "iss": ISSUER,
            "sub": "user:alice",
            "act": { "sub": format!("agent:{}", hall.agent) },
            "aud": [ISSUER],
            "client_id": client.id,
            "scope": "proxy provider:reddit",
            "jti": listed[0].id,
            "iat": 1_800_000_000,
            "exp": 1_800_000_900,
            "site": "default",
            "agent": hall.agent,
            "user": "alice",
            "auth_source": "agent_token",
            "grant_id": told["grant_id"],
            "revocation_epoch": 0,
        }));
        assert!(told["grant_id"].as_str().unwrap().starts_with("fam_"));
        // An agent that acts for nobody is its own subject.
        let new = NewToken { ceiling: Some(ceiling(r#"{"platform":{"capabilities":["datamachine_chat"]}}"#)), ..NewToken::default() };
        let (_, text) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, new).await.unwrap();
        let told = hall.introspect(&hall.asker().await, text.expose()).await;
        assert_eq!(told["sub"], format!("agent:{}", hall.agent));
        assert!(told.get("act").is_none() && told.get("user").is_none() && told.get("client_id").is_none());
        assert_eq!(told["aud"], json!([ISSUER, format!("{ISSUER}/mcp")]));
        // What the platform holds it to is for the platform.
        assert_eq!(told["platform"]["capabilities"], json!(["datamachine_chat"]));
    }

    /// R92, R93: whatever is not active is exactly the same answer: unknown, expired, revoked, malformed, of somebody or something
    /// that is stopped, a refresh token, or not the asker's.
    async fn whatever_is_not_active_is_the_same_answer(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, site, operator) = (&hall.house.base, hall.site(), Actor::Operator);
        let asker = hall.asker().await;
        let client = hall.public().await;
        let mint = async |person: Option<&str>, agent| {
            let new = NewToken { person: person.map(|p| p.parse().unwrap()), ..NewToken::default() };
            token::mint(base, site, &operator, agent, new).await.unwrap()
        };
        let live = hall.tokens(&client, &[]).await;
        let (revoked, revoked_text) = mint(None, &hall.agent).await;
        token::revoke(base, site, &operator, &revoked.id, "over").await.unwrap();
        let bobs = hall.house.agent("b", Some("bob")).await;
        let (_, of_disabled_owner) = mint(None, &bobs).await;
        person::set_disabled(base, site, &operator, &"bob".parse().unwrap(), true).await.unwrap();
        let gone = hall.house.agent("c", Some("alice")).await;
        let (_, of_gone_agent) = mint(Some("alice"), &gone).await;
        agent::delete(base, site, &operator, &gone).await.unwrap();
        let (unreadable, unreadable_text) = mint(None, &hall.agent).await;
        testing::execute(&db, &format!("UPDATE agent_tokens SET ceiling = '{{\"budget\":3}}' WHERE id = '{}'", unreadable.id)).await;
        let other = "other".parse().unwrap();
        site::create(base, &operator, &other, "Other").await.unwrap();
        let elsewhere = agent::create(base, &other, &operator, agent::NewAgent { id: None, slug: "x".into(), title: String::new(), owner: None }).await.unwrap();
        let (_, of_another_site) = token::mint(base, &other, &operator, &elsewhere.id, NewToken::default()).await.unwrap();

        let refresh = live.refresh_token.as_ref().unwrap();
        let mistyped = live.access_token.expose().replace("vk_", "vk-");
        let (unknown, huge) = (format!("datamachine_a_{}", "0".repeat(64)), "x".repeat(50_000));
        for (why, text) in [
            ("nonsense", "nonsense"),
            ("mistyped", mistyped.as_str()),
            ("unknown", unknown.as_str()),
            ("huge", huge.as_str()),
            ("revoked", revoked_text.expose()),
            ("its owner is disabled", of_disabled_owner.expose()),
            ("its agent is gone", of_gone_agent.expose()),
            ("its ceiling cannot be read", unreadable_text.expose()),
            ("another site's", of_another_site.expose()),
            ("a refresh token", refresh.expose()),
        ] {
            assert_eq!(hall.introspect(&asker, text).await, json!({ "active": false }), "{why}");
        }
        assert_eq!(hall.introspect(&asker, live.access_token.expose()).await["active"], json!(true));
        // A client asks about those that were issued to it alone.
        let new = NewClient { name: "R".into(), confidential: true, redirect_uris: vec![CALLBACK.into()],
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let (confidential, _) = hall.client(new).await;
        let own = hall.tokens(&confidential, &[]).await;
        let by_client = Asker::Client(Box::new(confidential));
        assert_eq!(hall.introspect(&by_client, own.access_token.expose()).await["active"], json!(true));
        assert_eq!(hall.introspect(&by_client, live.access_token.expose()).await, json!({ "active": false }));
        base.clock.advance(Duration::from_secs(900));
        assert_eq!(hall.introspect(&asker, live.access_token.expose()).await, json!({ "active": false }), "expired");
    }

    /// R93: nor is a token active whose person, or whoever minted it, may no longer have the agent act.
    async fn a_role_that_is_taken_away_makes_its_tokens_inactive(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, site, bob) = (&hall.house.base, hall.site(), "bob".parse::<UserId>().unwrap());
        hall.role("bob", Role::Operator).await;
        let for_bob = NewToken { person: Some(bob.clone()), ..NewToken::default() };
        let (_, acts_for_bob) = token::mint(base, site, &Actor::Operator, &hall.agent, for_bob).await.unwrap();
        let (_, minted_by_bob) = token::mint(base, site, &Actor::User(bob), &hall.agent, NewToken::default()).await.unwrap();
        let asker = hall.asker().await;
        for (role, active) in [(Role::Operator, true), (Role::Viewer, false), (Role::Admin, true)] {
            hall.role("bob", role).await;
            for token in [&acts_for_bob, &minted_by_bob] {
                assert_eq!(hall.introspect(&asker, token.expose()).await["active"], json!(active), "{role}");
            }
        }
    }

    /// R94: a hint never changes the answer, whether it is right, wrong or unknown.
    async fn a_hint_changes_nothing(db: Db) {
        let hall = Hall::new(&db).await;
        let asker = hall.asker().await;
        let issued = hall.tokens(&hall.public().await, &[]).await;
        let refresh = issued.refresh_token.unwrap();
        for (token, active) in [(issued.access_token.expose(), true), (refresh.expose(), false)] {
            for hint in ["access_token", "refresh_token", "nonsense"] {
                let params = form(&[("token", token), ("token_type_hint", hint)]);
                assert_eq!(hall.oauth.introspect(&asker, &params).await.unwrap().is_active(), active, "{hint}");
            }
        }
    }

    /// R95: a client is told of no scope that it could not have itself, and nothing of the platform's own.
    async fn an_answer_is_cut_to_who_asks(db: Db) {
        let hall = Hall::new(&db).await;
        let new = NewClient { name: "R".into(), confidential: true, redirect_uris: vec![CALLBACK.into()],
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let (client, _) = hall.client(new).await;
        let issued = hall.tokens(&client, &[("scope", "proxy reveal")]).await;
        testing::execute(&db, "UPDATE oauth_clients SET ceiling = '{\"delivery\":[\"proxy\"]}'").await;
        let narrower = client::get(&db, hall.site(), &client.id).await.unwrap().unwrap();
        let told = hall.introspect(&Asker::Client(Box::new(narrower)), issued.access_token.expose()).await;
        assert_eq!(told["scope"], "proxy");
        assert!(told.get("platform").is_none());
        assert_eq!(hall.introspect(&hall.asker().await, issued.access_token.expose()).await["scope"], "proxy reveal");
    }

    /// A scope is no promise of the past: what the agent, the site and the person leave of it is told, and that moves.
    async fn the_scope_is_what_holds_now(db: Db) {
        let hall = Hall::new(&db).await;
        let asker = hall.asker().await;
        hall.role("bob", Role::Operator).await;
        let new = NewToken {
            person: Some("bob".parse().unwrap()),
            ceiling: Some(ceiling(r#"{"providers":["reddit","youtube"]}"#)),
            ..NewToken::default()
        };
        let (_, text) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, new).await.unwrap();
        let scope = async || {
            let told = hall.introspect(&asker, text.expose()).await;
            assert_eq!(told["active"], true);
            told["scope"].as_str().unwrap().to_owned()
        };
        assert_eq!(scope().await, "proxy reveal provider:reddit provider:youtube");
        for (over, stands, expected) in [
            (Over::Agent, r#"{"delivery":["proxy"]}"#, "proxy provider:reddit provider:youtube"),
            (Over::Site, r#"{"providers":["reddit"]}"#, "proxy provider:reddit"),
            // No name of a provider would read as every provider.
            (Over::Site, r#"{"providers":["facebook"]}"#, ""),
            (Over::Site, r#"{"delivery":["reveal"]}"#, ""),
            (Over::Site, r#"{"operations":["GET /v1/**"]}"#, "proxy provider:reddit provider:youtube"),
        ] {
            narrow(&hall.house, over, &hall.agent, Some(ceiling(stands))).await;
            assert_eq!(scope().await, expected, "{stands}");
        }
        narrow(&hall.house, Over::Agent, &hall.agent, None).await;
        assert_eq!(scope().await, "proxy provider:reddit provider:youtube", "what is revealed obeys no operation");
        narrow(&hall.house, Over::Site, &hall.agent, None).await;
        assert_eq!(scope().await, "proxy reveal provider:reddit provider:youtube");
        agent::remove_role(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, &"bob".parse().unwrap()).await.unwrap();
        assert_eq!(hall.introspect(&asker, text.expose()).await, serde_json::json!({ "active": false }));
    }

    /// R96: the end of a token is told, and a number that grows with every revocation, so that nobody keeps an answer for too long.
    async fn an_answer_says_how_long_it_may_be_kept(db: Db) {
        let hall = Hall::new(&db).await;
        let asker = hall.asker().await;
        let (kept, other) = (hall.public().await, hall.public().await);
        let (kept, other) = (hall.tokens(&kept, &[]).await, hall.tokens(&other, &[]).await);
        let before = hall.introspect(&asker, kept.access_token.expose()).await;
        assert_eq!((before["exp"].clone(), before["revocation_epoch"].clone()), (json!(1_800_000_900), json!(0)));
        hall.house.base.clock.advance(Duration::from_secs(1));
        let id = hall.introspect(&asker, other.access_token.expose()).await["jti"].as_str().unwrap().parse().unwrap();
        token::revoke(&hall.house.base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        let after = hall.introspect(&asker, kept.access_token.expose()).await;
        assert_eq!(after["revocation_epoch"], json!(1));
        // What ended before ends no more.
        token::revoke(&hall.house.base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        assert_eq!(hall.introspect(&asker, kept.access_token.expose()).await["revocation_epoch"], json!(1));
    }

    /// Whatever ends tokens moves the number, also on a replica whose clock stands an hour back.
    async fn every_revocation_is_counted_whatever_the_clocks_say(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, site, asker) = (&hall.house.base, hall.site(), hall.asker().await);
        let behind = Base { clock: Clock::manual(Timestamp::from_unix_seconds(1_799_996_400)), ..base.clone() };
        let (_, kept) = token::mint(base, site, &Actor::Operator, &hall.agent, NewToken::default()).await.unwrap();
        let epoch = async || hall.introspect(&asker, kept.expose()).await["revocation_epoch"].as_i64().unwrap();
        let second = hall.house.agent("b", Some("alice")).await;
        hall.role("bob", Role::Operator).await;
        for (n, ends) in ["token", "token behind", "consent", "client", "agent", "person"].into_iter().enumerate() {
            let n = i64::try_from(n).unwrap();
            assert_eq!(epoch().await, n, "before {ends}");
            let by_hand = NewToken { person: (ends == "person").then(|| "bob".parse().unwrap()), ..NewToken::default() };
            let agent = if ends == "agent" { &second } else { &hall.agent };
            let (minted, _) = token::mint(base, site, &Actor::Operator, agent, by_hand).await.unwrap();
            assert_eq!(epoch().await, n, "one that is minted ends none");
            match ends {
                "token" => token::revoke(base, site, &Actor::Operator, &minted.id, "over").await.unwrap(),
                "token behind" => token::revoke(&behind, site, &Actor::Operator, &minted.id, "over").await.unwrap(),
                "agent" => {
                    token::revoke_all(&behind, site, &Actor::Operator, agent, "over").await.unwrap();
                }
                "person" => {
                    let behind = Outside { base: behind.clone(), ..hall.outside.clone() };
                    person::erase(&behind, site, &Actor::Operator, &"bob".parse().unwrap()).await.unwrap();
                }
                _ => {
                    let client = hall.public().await;
                    hall.tokens(&client, &[]).await;
                    if ends == "client" {
                        client::revoke(&behind, site, &Actor::Operator, &client.id).await.unwrap();
                    } else {
                        let of = family::Filter { client: Some(client.id.clone()), ..family::Filter::default() };
                        let given = family::list(&db, site, &of, base.clock.now()).await.unwrap();
                        family::end(&behind, site, &Actor::Operator, &given[0].id, "over").await.unwrap();
                    }
                }
            }
            assert_eq!(epoch().await, n + 1, "{ends}");
        }
    }

    /// R83: a token for one resource is not taken at another, and its audience says which it is for.
    async fn a_token_for_one_resource_is_not_taken_at_another(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let mcp = format!("{ISSUER}/mcp");
        let for_mcp = hall.tokens(&client, &[("resource", mcp.as_str())]).await.access_token;
        let for_api = hall.tokens(&client, &[("resource", ISSUER)]).await.access_token;
        assert!(!hall.is_taken(&for_mcp).await && hall.is_taken(&for_api).await);
        let (_, by_hand) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, NewToken::default()).await.unwrap();
        let taken_at_mcp = async |text: &str| {
            let hash = hall.oauth.presented_at(text, token::Audience::Mcp).await.unwrap();
            let facts = hall.house.authority.holder(&hash).await.unwrap();
            facts.is_some_and(|facts| valetkey::decision::principal(&facts, hall.house.base.clock.now()).is_ok())
        };
        assert!(taken_at_mcp(for_mcp.expose()).await && taken_at_mcp(by_hand.expose()).await);
        assert!(!taken_at_mcp(for_api.expose()).await);
        let asker = hall.asker().await;
        assert_eq!(hall.introspect(&asker, for_mcp.expose()).await["aud"], json!([mcp]));
        assert_eq!(hall.introspect(&asker, for_api.expose()).await["aud"], json!([ISSUER]));
        assert_eq!(hall.introspect(&asker, for_api.expose()).await["sub"], format!("user:{}", alice()));
    }

    /// T-264.
    /// R98: where the database does not answer nothing is active: it is an error.
    async fn a_database_that_fails_makes_nothing_active(db: Db) {
        let hall = Hall::new(&db).await;
        let asker = hall.asker().await;
        let issued = hall.tokens(&hall.public().await, &[]).await;
        let shown = form(&[("token", issued.access_token.expose())]);
        db.close().await;
        let failed = hall.oauth.introspect(&asker, &shown).await;
        assert!(failed.is_err_and(|fault| fault.word().is_none()));
    }
}
