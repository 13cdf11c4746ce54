//! Clients: who they prove to be, how they are made, registered and revoked.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use valetkey::{
    Code,
    db::testing,
    oauth::{Asker, GrantType, NewClient, Presented, Word, client, register},
    on_each_db, platform,
    principal::Actor,
    secret::Secret,
};

use super::world::{ACCESS_TOKEN, CALLBACK, Hall, form, named, word};

/// What a client says in a form.
fn said(id: &str, secret: Option<&str>) -> Presented {
    let mut pairs = vec![("client_id", id)];
    pairs.extend(secret.map(|secret| ("client_secret", secret)));
    Presented::read(None, &form(&pairs)).unwrap()
}

on_each_db! {
    async fn a_client_proves_itself_by_its_secret_and_one_without_has_none(db: Db) {
        let hall = Hall::new(&db).await;
        let public = hall.public().await;
        let new = NewClient { name: "C".into(), confidential: true, grant_types: BTreeSet::from([GrantType::TokenExchange]), ..NewClient::default() };
        let (confidential, secret) = hall.client(new).await;
        let (id, secret) = (confidential.id.to_string(), secret.unwrap());
        assert!(secret.expose().starts_with("vkcs_") && secret.expose().len() == 48);
        assert_eq!(hall.oauth.client(&said(&id, Some(secret.expose()))).await.unwrap().id, confidential.id);
        assert_eq!(hall.oauth.client(&named(&public)).await.unwrap().id, public.id);
        for wrong in [
            said(&id, None),
            said(&id, Some("vkcs_wrong")),
            said(public.id.as_str(), Some("anything")),
            said("vkc_00000000000000000000000000000000", None),
            said("nonsense", Some(secret.expose())),
        ] {
            assert_eq!(word(hall.oauth.client(&wrong).await), Word::InvalidClient, "{wrong:?}");
        }
    }

    /// R89: who asks about tokens proves to be somebody: a platform key or a client with a secret.
    async fn nobody_asks_about_tokens_without_a_proof(db: Db) {
        let hall = Hall::new(&db).await;
        let public = hall.public().await;
        assert_eq!(word(hall.oauth.asker(&named(&public)).await), Word::InvalidClient);
        let key = hall.platform().await;
        let shown = |id: Option<&str>, text: &str| Presented::Key { id: id.map(str::to_owned), text: Secret::new(text) };
        for fine in [shown(None, key.text.expose()), shown(Some(key.key.id.as_str()), key.text.expose())] {
            assert!(matches!(hall.oauth.asker(&fine).await.unwrap(), Asker::Platform(found) if found.id == key.key.id));
        }
        for wrong in [shown(Some("pkey_00000000000000000000000000000000"), key.text.expose()), shown(None, "vkp_wrong")] {
            assert_eq!(word(hall.oauth.asker(&wrong).await), Word::InvalidClient);
        }
    }

    /// A resource server asks for each request of its own: on SQLite who it is was found once, and ends with the key.
    async fn a_platform_that_asks_again_and_again_is_looked_up_once(db: Db) {
        let hall = Hall::new(&db).await;
        let key = hall.platform().await;
        let shown = Presented::Key { id: None, text: Secret::new(key.text.expose()) };
        hall.oauth.asker(&shown).await.unwrap();
        let before = testing::asked(&db).statements;
        for _ in 0..50 {
            hall.oauth.asker(&shown).await.unwrap();
        }
        let asked = testing::asked(&db).statements - before;
        assert_eq!(asked, if db.is_sqlite() { 0 } else { 50 }, "on PostgreSQL another replica may have ended it");
        platform::revoke(&hall.house.base, hall.site(), &Actor::Operator, &key.key.id).await.unwrap();
        assert_eq!(word(hall.oauth.asker(&shown).await), Word::InvalidClient);
    }

    async fn a_revoked_client_ends_with_everything_that_was_issued_to_it(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other) = (hall.public().await, hall.public().await);
        let (mine, theirs) = (hall.tokens(&client, &[]).await, hall.tokens(&other, &[]).await);
        let pending = hall.code(&client, &[]).await;
        let ended = client::revoke(&hall.house.base, hall.site(), &Actor::Operator, &client.id).await.unwrap();
        assert_eq!(ended, 1);
        assert!(!hall.is_taken(&mine.access_token).await && hall.is_taken(&theirs.access_token).await);
        assert_eq!(word(hall.oauth.client(&named(&client)).await), Word::InvalidClient);
        // Also for whoever was let in just before.
        assert_eq!(word(hall.refresh(&client, &mine.refresh_token.unwrap()).await), Word::InvalidGrant);
        assert_eq!(word(hall.redeem(&client, &pending).await), Word::InvalidGrant);
        assert_eq!(client::revoke(&hall.house.base, hall.site(), &Actor::Operator, &client.id).await.unwrap(), 0);
    }

    async fn a_client_of_a_disabled_site_is_no_client(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        testing::execute(&db, "UPDATE sites SET disabled_at = 1").await;
        assert_eq!(word(hall.oauth.client(&named(&client)).await), Word::InvalidClient);
    }

    async fn a_client_that_contradicts_itself_is_not_made(db: Db) {
        let hall = Hall::new(&db).await;
        let fine = || NewClient { name: "N".into(), redirect_uris: vec![CALLBACK.into()], grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let grants = |all: &[GrantType]| all.iter().copied().collect::<BTreeSet<_>>();
        for (why, new) in [
            ("no name", NewClient { name: " ".into(), ..fine() }),
            ("two lines", NewClient { name: "a\nb".into(), ..fine() }),
            ("a name that turns around", NewClient { name: "a\u{202e}b".into(), ..fine() }),
            ("no way back", NewClient { redirect_uris: vec![], ..fine() }),
            ("a way back that leads nowhere", NewClient { grant_types: grants(&[GrantType::DeviceCode]), ..fine() }),
            ("plain http", NewClient { redirect_uris: vec!["http://app.example/cb".into()], ..fine() }),
            ("no grant", NewClient { grant_types: grants(&[]), redirect_uris: vec![], ..fine() }),
            ("nothing to refresh", NewClient { grant_types: grants(&[GrantType::RefreshToken]), redirect_uris: vec![], ..fine() }),
            ("an exchange without a secret", NewClient { grant_types: grants(&[GrantType::TokenExchange]), redirect_uris: vec![], ..fine() }),
        ] {
            let made = client::create(&hall.house.base, hall.site(), &Actor::Operator, new).await;
            assert_eq!(made.unwrap_err().code(), Code::InvalidRequest, "{why}");
        }
        let agent = Some("nobody".parse().unwrap());
        let made = client::create(&hall.house.base, hall.site(), &Actor::Operator, NewClient { agent, ..fine() }).await;
        assert_eq!(made.unwrap_err().code(), Code::NotFound);
    }

    async fn a_client_registers_itself_only_where_the_site_lets_it(db: Db) {
        let hall = Hall::new(&db).await;
        let base = &hall.house.base;
        let ask = |more: serde_json::Value| {
            let mut all = json!({ "client_name": "Self-made", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none" });
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(all).unwrap()
        };
        assert_eq!(word(hall.oauth.register(None, ask(json!({}))).await), Word::AccessDenied);
        assert!(hall.oauth.metadata().await.unwrap().get("registration_endpoint").is_none());
        register::set_open(base, hall.site(), &Actor::Operator, true).await.unwrap();
        assert_eq!(hall.oauth.metadata().await.unwrap()["registration_endpoint"], "https://keys.example.test/oauth/register");
        let told = hall.oauth.register(None, ask(json!({
            "grant_types": ["authorization_code", "refresh_token", GrantType::TokenExchange.as_str()], "logo_uri": "https://a.example/x",
        }))).await.unwrap();
        assert_eq!(told["grant_types"], json!(["authorization_code", "refresh_token"]), "no exchange for whom nobody knows");
        assert!(told.get("client_secret").is_none());
        let secret = hall.oauth.register(None, ask(json!({ "token_endpoint_auth_method": "client_secret_post" }))).await.unwrap();
        let proven = said(secret["client_id"].as_str().unwrap(), secret["client_secret"].as_str());
        assert!(hall.oauth.client(&proven).await.unwrap().registered_at.is_some());
        for (more, refusal) in [
            (json!({ "redirect_uris": ["http://app.example/cb"] }), Word::InvalidRedirectUri),
            (json!({ "redirect_uris": [] }), Word::InvalidClientMetadata),
            (json!({ "token_endpoint_auth_method": "private_key_jwt" }), Word::InvalidClientMetadata),
            (json!({ "response_types": ["token"] }), Word::InvalidClientMetadata),
            (json!({ "grant_types": ["implicit"] }), Word::InvalidClientMetadata),
            (json!({ "scope": "openid" }), Word::InvalidClientMetadata),
            (json!({ "client_name": "a\u{202e}b" }), Word::InvalidClientMetadata),
        ] {
            assert_eq!(word(hall.oauth.register(None, ask(more.clone())).await), refusal, "{more}");
        }
        // With two sites that let it, one has to be named.
        let other = "other".parse().unwrap();
        valetkey::site::create(base, &Actor::Operator, &other, "Other").await.unwrap();
        register::set_open(base, &other, &Actor::Operator, true).await.unwrap();
        assert_eq!(word(hall.oauth.register(None, ask(json!({}))).await), Word::AccessDenied);
        let there = hall.oauth.register(Some(&other), ask(json!({}))).await.unwrap();
        let id = there["client_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(client::get(&db, &other, &id).await.unwrap().unwrap().site, other);
        register::set_open(base, &other, &Actor::Operator, false).await.unwrap();
        assert_eq!(word(hall.oauth.register(Some(&other), ask(json!({}))).await), Word::AccessDenied);
    }

    async fn a_client_that_registered_itself_and_was_never_used_is_swept_out(db: Db) {
        let hall = Hall::new(&db).await;
        let base = &hall.house.base;
        register::set_open(base, hall.site(), &Actor::Operator, true).await.unwrap();
        let made = hall.public().await;
        let request = || serde_json::from_value(json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none" })).unwrap();
        let told = [hall.oauth.register(None, request()).await.unwrap(), hall.oauth.register(None, request()).await.unwrap()];
        let [used, unused] = told.map(|told| told["client_id"].as_str().unwrap().parse().unwrap());
        let client = client::get(&db, hall.site(), &used).await.unwrap().unwrap();
        hall.tokens(&client, &[]).await;
        base.clock.advance(Duration::from_secs(86_401));
        valetkey::oauth::sweep(base).await.unwrap();
        assert!(client::get(&db, hall.site(), &unused).await.unwrap().is_none());
        for kept in [&used, &made.id] {
            assert!(client::get(&db, hall.site(), kept).await.unwrap().is_some());
        }
    }

    /// Somebody else issues a token of the same client meanwhile, whose transaction has not ended.
    async fn tokens_of_one_client_do_not_wait_for_one_another(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let refresh = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let mut meanwhile = match db.postgres() {
            Some(pool) => Some(pool.begin().await.unwrap()),
            // There is one writer.
            None => None,
        };
        if let Some(tx) = &mut meanwhile {
            sqlx::query("SELECT id FROM oauth_clients WHERE revoked_at IS NULL FOR SHARE").execute(&mut **tx).await.unwrap();
        }
        let refreshed = tokio::time::timeout(Duration::from_secs(10), hall.refresh(&client, &refresh)).await;
        assert!(hall.is_taken(&refreshed.expect("it waited").unwrap().access_token).await);
    }

    async fn when_a_client_was_last_used_is_written_once_a_minute(db: Db) {
        let hall = Hall::new(&db).await;
        let base = &hall.house.base;
        let made = hall.public().await;
        let used = async || client::get(&db, hall.site(), &made.id).await.unwrap().unwrap();
        let mut refresh = hall.tokens(&made, &[]).await.refresh_token.unwrap();
        let first = used().await.used_at.unwrap();
        for (seconds, known) in [(30, &made), (30, &used().await)] {
            base.clock.advance(Duration::from_secs(seconds));
            refresh = hall.refresh(known, &refresh).await.unwrap().refresh_token.unwrap();
            assert_eq!(used().await.used_at, Some(first));
        }
        base.clock.advance(Duration::from_secs(1));
        hall.refresh(&used().await, &refresh).await.unwrap();
        assert_eq!(used().await.used_at, Some(first.plus(Duration::from_secs(61))));
    }

    /// Nobody's authority changes by a token that nobody had.
    async fn a_token_that_is_issued_leaves_what_is_known_of_others(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, exchanger) = (hall.public().await, hall.exchanger(None).await);
        let code = hall.code(&client, &[]).await;
        let before = db.epoch();
        let issued = hall.redeem(&client, &code).await.unwrap();
        let next = hall.refresh(&client, &issued.refresh_token.unwrap()).await.unwrap();
        let asked = [("subject_token", next.access_token.expose()), ("subject_token_type", ACCESS_TOKEN)];
        hall.exchange(&exchanger, &asked).await.unwrap();
        assert_eq!(db.epoch(), before);
        hall.refresh(&client, &next.refresh_token.unwrap()).await.unwrap();
        client::revoke(&hall.house.base, hall.site(), &Actor::Operator, &client.id).await.unwrap();
        assert!(db.epoch() > before);
    }

    /// Whoever issues and whoever revokes the client take turns.
    async fn nothing_is_issued_beside_the_end_of_a_client(db: Db) {
        let hall = Hall::new(&db).await;
        for _ in 0..8 {
            let client = hall.public().await;
            let refresh = hall.tokens(&client, &[]).await.refresh_token.unwrap();
            let known = client::get(&db, hall.site(), &client.id).await.unwrap().unwrap();
            let (revoked, refreshed) = tokio::join!(
                client::revoke(&hall.house.base, hall.site(), &Actor::Operator, &client.id),
                hall.refresh(&known, &refresh),
            );
            revoked.unwrap();
            if let Ok(issued) = refreshed {
                assert!(!hall.is_taken(&issued.access_token).await);
            }
        }
    }
}
