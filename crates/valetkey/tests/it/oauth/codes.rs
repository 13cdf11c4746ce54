//! The authorization code: asked for, consented to, redeemed once.

use std::{collections::BTreeSet, time::Duration};

use valetkey::{
    Code,
    agent::{self, Role},
    decision,
    id::sha256_hex,
    oauth::{GrantType, NewClient, Scopes, Word, authorize::Choice, authorize::Life, authorize::Misasked, client, register},
    on, on_each_db, person,
    principal::{Actor, CallerChain},
    secret::Secret,
    token::{self, TokenHash, family},
};

use super::world::{CALLBACK, CHALLENGE, Hall, ISSUER, VERIFIER, alice, form, in_query, word};

on_each_db! {
    /// T-011.
    /// R73: what a code brings is an agent's token like any other, for the person who consented, short-lived and under the
    /// scopes that they chose.
    async fn a_code_brings_a_token_of_the_agent_for_the_person(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let address = hall.approve(&client, &[("scope", "proxy provider:reddit")]).await;
        assert!(address.as_str().starts_with(CALLBACK));
        assert_eq!(in_query(&address, "state").as_deref(), Some("the state"));
        let issued = hall.redeem(&client, &in_query(&address, "code").unwrap()).await.unwrap();
        assert_eq!((issued.token_type, issued.expires_in, issued.scope.as_deref()), ("Bearer", Some(900), Some("proxy provider:reddit")));
        assert!(hall.is_taken(&issued.access_token).await);
        let hash = TokenHash::of_presented(issued.access_token.expose()).unwrap();
        let facts = hall.house.authority.holder(&hash).await.unwrap().unwrap();
        let principal = decision::principal(&facts, hall.house.base.clock.now()).unwrap();
        assert_eq!((principal.client, principal.user), (Some(client.id.to_string()), Some(alice())));
        let listed = token::list(&db, hall.site(), &hall.agent).await.unwrap();
        assert_eq!((listed.len(), listed[0].person.as_ref(), listed[0].label.as_str()), (1, Some(&alice()), "App"));
        assert_eq!(listed[0].ceiling.as_ref().map(Scopes::of).unwrap().to_string(), "proxy provider:reddit");
        assert!(token::list_hashed(&db, hall.site(), &hall.agent).await.unwrap().is_empty(), "it does not move to another system");
    }

    /// R66: tokens and codes, those of devices too, have 256 random bits, and only their SHA-256 is stored.
    async fn only_hashes_are_stored(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let code = hall.code(&client, &[]).await;
        let issued = hall.redeem(&client, &code).await.unwrap();
        let refresh = issued.refresh_token.unwrap();
        // 43 characters of Base64 are 256 bits.
        assert_eq!(code.len(), 43);
        assert_eq!((issued.access_token.expose().len(), refresh.expose().len()), ("vk_".len() + 43 + 7, "vkr_".len() + 43 + 7));
        let codes: Vec<(String,)> = on!(&db, |c| sqlx::query_as("SELECT code_hash FROM oauth_codes").fetch_all(c).await.unwrap());
        let refreshes: Vec<(String,)> =
            on!(&db, |c| sqlx::query_as("SELECT token_hash FROM oauth_refresh_tokens").fetch_all(c).await.unwrap());
        let tokens: Vec<(String,)> = on!(&db, |c| sqlx::query_as("SELECT token_hash FROM agent_tokens").fetch_all(c).await.unwrap());
        let device = hall.oauth.begin_device(&client, &form(&[])).await.unwrap().device_code;
        assert_eq!(device.expose().len(), 43);
        let devices: Vec<(String,)> = on!(&db, |c| sqlx::query_as("SELECT device_hash FROM oauth_devices").fetch_all(c).await.unwrap());
        for (rows, plain) in [
            (codes, code.as_str()),
            (refreshes, refresh.expose()),
            (tokens, issued.access_token.expose()),
            (devices, device.expose()),
        ] {
            assert_eq!(rows, [(sha256_hex(plain.as_bytes()),)]);
        }
    }

    /// R73: a code works once; when it comes again, what came of it ends.
    async fn a_code_that_comes_twice_ends_what_came_of_it(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let code = hall.code(&client, &[]).await;
        let issued = hall.redeem(&client, &code).await.unwrap();
        assert!(hall.is_taken(&issued.access_token).await);
        assert_eq!(word(hall.redeem(&client, &code).await), Word::InvalidGrant);
        assert!(!hall.is_taken(&issued.access_token).await);
        assert_eq!(word(hall.refresh(&client, &issued.refresh_token.unwrap()).await), Word::InvalidGrant);
    }

    /// R73: of many redemptions at once at most one succeeds, and nothing of it lives when another came.
    async fn of_two_redemptions_at_once_nothing_is_left(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let code = hall.code(&client, &[]).await;
        let (a, b) = tokio::join!(hall.redeem(&client, &code), hall.redeem(&client, &code));
        let won: Vec<_> = [a, b].into_iter().filter_map(Result::ok).collect();
        assert!(won.len() <= 1);
        for issued in won {
            assert!(!hall.is_taken(&issued.access_token).await);
        }
    }

    /// R73: a code lives for sixty seconds.
    async fn a_code_lives_for_a_minute(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let (late, in_time) = (hall.code(&client, &[]).await, hall.code(&client, &[]).await);
        hall.house.base.clock.advance(Duration::from_secs(59));
        hall.redeem(&client, &in_time).await.unwrap();
        hall.house.base.clock.advance(Duration::from_secs(1));
        assert_eq!(word(hall.redeem(&client, &late).await), Word::InvalidGrant);
    }

    /// R72, R73: a code is bound to its client, redirect URI and challenge, and what is not its own does not use it up.
    async fn a_code_is_bound_to_client_redirect_uri_and_verifier(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other) = (hall.public().await, hall.public().await);
        let code = hall.code(&client, &[]).await;
        let another = VERIFIER.replace('d', "e");
        assert_eq!(word(hall.redeem(&other, &code).await), Word::InvalidGrant);
        for wrong in [
            ("redirect_uri", "https://app.example/other"),
            ("redirect_uri", ""),
            ("code_verifier", another.as_str()),
            ("code_verifier", CHALLENGE),
            ("code_verifier", "short"),
            ("code", "unknown"),
        ] {
            assert_eq!(word(hall.redeem_with(&client, &code, &[wrong]).await), Word::InvalidGrant, "{wrong:?}");
        }
        assert_eq!(word(hall.redeem_with(&client, &code, &[("code_verifier", "")]).await), Word::InvalidRequest);
        hall.redeem(&client, &code).await.unwrap();
    }

    /// R72: without a challenge by S256 there is no code, also for a client with a secret; so no verifier comes without one.
    async fn without_an_s256_challenge_there_is_no_code(db: Db) {
        let hall = Hall::new(&db).await;
        let public = hall.public().await;
        let new = NewClient { name: "C".into(), confidential: true, redirect_uris: vec![CALLBACK.into()],
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let (confidential, _) = hall.client(new).await;
        let strange = CHALLENGE.replace('E', "+");
        for client in [&public, &confidential] {
            for wrong in [
                &[("code_challenge", ""), ("code_challenge_method", "")][..],
                &[("code_challenge", "")],
                &[("code_challenge_method", "")],
                &[("code_challenge_method", "plain")],
                &[("code_challenge", VERIFIER), ("code_challenge_method", "plain")],
                &[("code_challenge", "short")],
                &[("code_challenge", strange.as_str())],
            ] {
                let back = hall.sent_back(client, wrong).await;
                assert_eq!(in_query(&back, "error").as_deref(), Some("invalid_request"), "{wrong:?}");
            }
        }
    }

    /// R71: while it is not certain whose request it is, nobody is sent anywhere.
    async fn an_unknown_client_or_redirect_uri_is_told_here(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let gone = hall.public().await;
        client::revoke(&hall.house.base, hall.site(), &Actor::Operator, &gone.id).await.unwrap();
        let gone = gone.id.to_string();
        for wrong in [
            ("client_id", ""),
            ("client_id", "nobody"),
            ("client_id", "vkc_00000000000000000000000000000000"),
            ("client_id", gone.as_str()),
            ("redirect_uri", "https://app.example/cb/"),
            ("redirect_uri", "https://evil.example/cb"),
            ("redirect_uri", "javascript:alert(1)"),
        ] {
            // Whatever else is wrong.
            let asked = hall.asked(&client, &[wrong, ("response_type", "token")]).await;
            assert!(matches!(asked, Err(Misasked::Here(_))), "{wrong:?}");
        }
    }

    /// T-201 to T-210: a redirect URI is compared as a whole text; there are no patterns, no other spellings and no usual port.
    async fn a_redirect_uri_is_never_a_pattern(db: Db) {
        let hall = Hall::new(&db).await;
        let make = async |uri: &str| {
            let new = NewClient {
                name: "App".to_owned(),
                redirect_uris: vec![uri.to_owned()],
                grant_types: BTreeSet::from([GrantType::AuthorizationCode]),
                ..NewClient::default()
            };
            hall.client(new).await.0
        };
        let (exact, starred) = (make("https://example.com/cb").await, make("https://example.com/*").await);
        assert!(hall.asked(&exact, &[("redirect_uri", "https://example.com/cb")]).await.is_ok());
        for other in [
            "https://example.com.evil/cb",
            "https://example.community/cb",
            "http://example.com/cb",
            "https://example.com:8443/cb",
            "https://example.com:443/cb",
            "https://EXAMPLE.com/cb",
            "https://example.com/",
            "https://example.com/cbx",
            "https://example.com/cb/",
            "https://example.com/cb/x",
            "https://example.com/cb/../evil",
            "https://example.com/cb?x=1",
        ] {
            for client in [&exact, &starred] {
                let asked = hall.asked(client, &[("redirect_uri", other)]).await;
                assert!(matches!(asked, Err(Misasked::Here(_))), "{other}");
            }
        }
        let asked = hall.asked(&starred, &[("redirect_uri", "https://example.com/cb")]).await;
        assert!(matches!(asked, Err(Misasked::Here(_))), "a star is a star");
    }

    /// R77: a refusal names the issuer, as an answer with a code does, and brings the state back.
    async fn every_answer_names_the_issuer(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let asked = hall.asked(&client, &[]).await.unwrap();
        let no = hall.oauth.refuse(hall.site(), &alice(), &asked).await.unwrap().parse().unwrap();
        assert_eq!(in_query(&no, "error").as_deref(), Some("access_denied"));
        for (more, error) in [
            (("response_type", "token"), "unsupported_response_type"),
            (("response_type", ""), "invalid_request"),
            (("response_mode", "fragment"), "invalid_request"),
            (("scope", "openid"), "invalid_scope"),
            (("resource", "https://api.example"), "invalid_target"),
        ] {
            let back = hall.sent_back(&client, &[more]).await;
            assert_eq!(in_query(&back, "error").as_deref(), Some(error), "{more:?}");
            assert_eq!(in_query(&back, "iss").as_deref(), Some(ISSUER));
            assert_eq!(in_query(&back, "state").as_deref(), Some("the state"));
        }
        for url in [no, hall.approve(&client, &[]).await] {
            assert_eq!(in_query(&url, "iss").as_deref(), Some(ISSUER));
            assert_eq!(in_query(&url, "state").as_deref(), Some("the state"));
        }
    }

    /// R76: to a client for which nobody vouches no browser is sent without the person's word.
    async fn a_client_that_registered_itself_is_told_nothing_without_the_persons_word(db: Db) {
        let hall = Hall::new(&db).await;
        register::set_open(&hall.house.base, hall.site(), &Actor::Operator, true).await.unwrap();
        let told = hall.oauth.register(None, serde_json::from_value(serde_json::json!({
            "client_name": "Self-made", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none",
        })).unwrap()).await.unwrap();
        let id = told["client_id"].as_str().unwrap().parse().unwrap();
        let client = client::get(&db, hall.site(), &id).await.unwrap().unwrap();
        assert!(!client.is_vouched_for());
        assert!(matches!(hall.asked(&client, &[("response_type", "token")]).await, Err(Misasked::Here(_))));
        hall.approve(&client, &[]).await;
    }

    async fn a_person_may_choose_less_and_never_more(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let asked = hall.asked(&client, &[("scope", "proxy reveal provider:reddit provider:youtube")]).await.unwrap();
        let approve = async |scopes: &str, life| {
            let choice = Choice { life, ..hall.choice(scopes) };
            hall.oauth.approve(hall.site(), &alice(), &asked, &choice).await
        };
        for (more, why) in [
            ("proxy provider:reddit provider:tiktok", "a provider that was not asked for"),
            ("provider:reddit", "no way at all"),
            ("proxy reveal", "no provider, which would be all"),
        ] {
            assert_eq!(approve(more, Life::Day).await.unwrap_err().code(), Code::InvalidRequest, "{why}");
        }
        let address = approve("proxy provider:reddit", Life::Hour).await.unwrap();
        let code = in_query(&address.expose().parse().unwrap(), "code").unwrap();
        let issued = hall.redeem(&client, &code).await.unwrap();
        assert_eq!(issued.scope.as_deref(), Some("proxy provider:reddit"));
        // The consent ends when the person said, whatever is refreshed.
        hall.house.base.clock.advance(Duration::from_secs(50 * 60));
        let next = hall.refresh(&client, &issued.refresh_token.unwrap()).await.unwrap();
        assert_eq!(next.expires_in, Some(600));
        hall.house.base.clock.advance(Duration::from_secs(10 * 60));
        assert_eq!(word(hall.refresh(&client, &next.refresh_token.unwrap()).await), Word::InvalidGrant);
    }

    /// Who may not have an agent act cannot let a program in for it, and who no longer may gets no further token.
    async fn only_who_operates_an_agent_lets_somebody_act_through_it(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let (base, bob) = (&hall.house.base, "bob".parse().unwrap());
        let asked = hall.asked(&client, &[]).await.unwrap();
        let refused = hall.oauth.approve(hall.site(), &bob, &asked, &hall.choice("proxy")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Forbidden);
        hall.role("bob", Role::Viewer).await;
        assert!(hall.oauth.consent(hall.site(), &bob, &asked).await.unwrap().agents.is_empty());
        hall.role("bob", Role::Operator).await;
        assert_eq!(hall.oauth.consent(hall.site(), &bob, &asked).await.unwrap().agents.len(), 1);
        let code = async || {
            let address = hall.oauth.approve(hall.site(), &bob, &asked, &hall.choice("proxy")).await.unwrap();
            in_query(&address.expose().parse().unwrap(), "code").unwrap()
        };
        let (first, second) = (code().await, code().await);
        let issued = hall.redeem(&client, &first).await.unwrap();
        agent::remove_role(base, hall.site(), &Actor::Operator, &hall.agent, &bob).await.unwrap();
        assert!(!hall.is_taken(&issued.access_token).await, "the minter's role is gone");
        assert_eq!(word(hall.refresh(&client, &issued.refresh_token.unwrap()).await), Word::InvalidGrant);
        assert_eq!(word(hall.redeem(&client, &second).await), Word::InvalidGrant);
    }

    async fn what_stops_a_person_or_an_agent_stops_their_consents(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let (base, site, operator) = (&hall.house.base, hall.site(), Actor::Operator);
        let refresh = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        agent::set_disabled(base, site, &operator, &hall.agent, true).await.unwrap();
        assert_eq!(word(hall.refresh(&client, &refresh).await), Word::InvalidGrant);
        agent::set_disabled(base, site, &operator, &hall.agent, false).await.unwrap();
        person::set_disabled(base, site, &operator, &alice(), true).await.unwrap();
        assert_eq!(word(hall.refresh(&client, &refresh).await), Word::InvalidGrant);
        person::set_disabled(base, site, &operator, &alice(), false).await.unwrap();
        hall.refresh(&client, &refresh).await.unwrap();
    }

    async fn a_client_for_one_agent_acts_as_no_other(db: Db) {
        let hall = Hall::new(&db).await;
        let other = hall.house.agent("b", Some("alice")).await;
        let new = NewClient { name: "B".into(), redirect_uris: vec![CALLBACK.into()], agent: Some(other.clone()),
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let (client, _) = hall.client(new).await;
        let asked = hall.asked(&client, &[]).await.unwrap();
        let offered = hall.oauth.consent(hall.site(), &alice(), &asked).await.unwrap().agents;
        assert_eq!(offered.iter().map(|agent| &agent.id).collect::<Vec<_>>(), [&other]);
        let refused = hall.oauth.approve(hall.site(), &alice(), &asked, &hall.choice("proxy")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Forbidden);
        // A request may name an agent, too, by its slug.
        let asked = hall.asked(&hall.public().await, &[("agent", "a")]).await.unwrap();
        let offered = hall.oauth.consent(hall.site(), &alice(), &asked).await.unwrap().agents;
        assert_eq!(offered.iter().map(|agent| &agent.id).collect::<Vec<_>>(), [&hall.agent]);
    }

    async fn a_client_of_another_site_is_not_let_in(db: Db) {
        let hall = Hall::new(&db).await;
        let asked = hall.asked(&hall.public().await, &[]).await.unwrap();
        let other = "other".parse().unwrap();
        assert_eq!(hall.oauth.consent(&other, &alice(), &asked).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(hall.oauth.approve(&other, &alice(), &asked, &hall.choice("proxy")).await.unwrap_err().code(), Code::NotFound);
    }

    async fn a_client_uses_only_the_grants_that_it_has(db: Db) {
        let hall = Hall::new(&db).await;
        let exchanger = hall.exchanger(None).await;
        let code = form(&[("grant_type", "authorization_code"), ("code", "x"), ("code_verifier", VERIFIER)]);
        assert_eq!(word(hall.oauth.token(&exchanger, &code, &CallerChain::default()).await), Word::UnauthorizedClient);
        for (grant, refusal) in [("password", Word::UnsupportedGrantType), ("client_credentials", Word::UnsupportedGrantType), ("", Word::InvalidRequest)] {
            assert_eq!(word(hall.oauth.token(&exchanger, &form(&[("grant_type", grant)]), &CallerChain::default()).await), refusal, "{grant}");
        }
    }

    /// A consent, its codes and its tokens leave nothing behind but the audit.
    async fn what_is_over_is_swept_out_after_a_day(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let asked = hall.asked(&client, &[]).await.unwrap();
        let choice = Choice { life: Life::Hour, ..hall.choice("proxy") };
        let address = hall.oauth.approve(hall.site(), &alice(), &asked, &choice).await.unwrap();
        let code = in_query(&address.expose().parse().unwrap(), "code").unwrap();
        hall.redeem(&client, &code).await.unwrap();
        let by_hand = hall.house.token(&hall.agent, None).await.0;
        hall.house.base.clock.advance(Duration::from_secs(86_400));
        valetkey::oauth::sweep(&hall.house.base).await.unwrap();
        assert!(family::list(&db, hall.site(), &family::Filter::default(), hall.house.base.clock.now()).await.unwrap().is_empty());
        hall.house.base.clock.advance(Duration::from_secs(3601));
        valetkey::oauth::sweep(&hall.house.base).await.unwrap();
        let (left,): (i64,) = on!(&db, |c| sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM oauth_codes) + (SELECT COUNT(*) FROM oauth_refresh_tokens) + (SELECT COUNT(*) FROM token_families)"
        ).fetch_one(c).await.unwrap());
        assert_eq!(left, 0);
        let tokens = token::list(&db, hall.site(), &hall.agent).await.unwrap();
        assert_eq!(tokens.iter().map(|token| &token.id).collect::<Vec<_>>(), [&by_hand]);
    }

    async fn erasing_a_person_removes_their_consents(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let issued = hall.tokens(&client, &[]).await;
        let refresh: Secret = issued.refresh_token.unwrap();
        let erased = person::erase(&hall.outside, hall.site(), &Actor::Operator, &alice()).await.unwrap();
        assert_eq!((erased.tokens, erased.agents), (1, 1));
        assert!(!hall.is_taken(&issued.access_token).await);
        assert_eq!(word(hall.refresh(&client, &refresh).await), Word::InvalidGrant);
        assert!(family::list(&db, hall.site(), &family::Filter::default(), hall.house.base.clock.now()).await.unwrap().is_empty());
    }
}
