//! Revocation: by a client, of what is its own; and what else ends with a token.

use std::time::Duration;

use valetkey::{
    agent,
    oauth::Word,
    on_each_db, person,
    principal::Actor,
    token::{self, family},
};

use super::world::{ACCESS_TOKEN, Hall, alice, form, word};

on_each_db! {
    /// R100, R104: a refresh token ends with every access token of the same consent, at once.
    async fn a_refresh_token_takes_the_access_tokens_along(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let first = hall.tokens(&client, &[]).await;
        let second = hall.refresh(&client, first.refresh_token.as_ref().unwrap()).await.unwrap();
        let other = hall.tokens(&client, &[]).await;
        hall.oauth.revoke(&client, &form(&[("token", second.refresh_token.as_ref().unwrap().expose())])).await.unwrap();
        assert!(!hall.is_taken(&first.access_token).await && !hall.is_taken(&second.access_token).await);
        assert_eq!(word(hall.refresh(&client, &second.refresh_token.unwrap()).await), Word::InvalidGrant);
        assert!(hall.is_taken(&other.access_token).await, "another consent");
    }

    /// R100, R106: an access token that is given back is refused from then on, here and where it is asked about, and brings no
    /// successor.
    async fn an_access_token_that_is_given_back_is_refused_at_once(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let connection = hall.account().await;
        let issued = hall.tokens(&client, &[]).await;
        let (asker, text) = (hall.asker().await, issued.access_token.expose());
        let hash = token::TokenHash::of_presented(text).unwrap();
        assert!(hall.house.ask(&hash, &connection).await.unwrap().allowed());
        assert_eq!(hall.introspect(&asker, text).await["active"], true);
        hall.oauth.revoke(&client, &form(&[("token", text)])).await.unwrap();
        assert_eq!(hall.house.ask(&hash, &connection).await.unwrap().code, Some(valetkey::Code::Unauthenticated));
        assert_eq!(hall.introspect(&asker, text).await, serde_json::json!({ "active": false }));
        assert_eq!(word(hall.refresh(&client, &issued.refresh_token.unwrap()).await), Word::InvalidGrant);
    }

    /// R101: another client's token is refused without a word about it, and stays as it was.
    async fn another_clients_token_stays_as_it_is(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other) = (hall.public().await, hall.public().await);
        let issued = hall.tokens(&client, &[]).await;
        let refresh = issued.refresh_token.unwrap();
        for token in [issued.access_token.expose(), refresh.expose()] {
            hall.oauth.revoke(&other, &form(&[("token", token)])).await.unwrap();
        }
        assert!(hall.is_taken(&issued.access_token).await);
        hall.refresh(&client, &refresh).await.unwrap();
        // Nor one that was minted by hand.
        let (_, by_hand) = token::mint(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, Default::default()).await.unwrap();
        hall.oauth.revoke(&other, &form(&[("token", by_hand.expose())])).await.unwrap();
        assert!(hall.is_taken(&by_hand).await);
    }

    /// R102, R105: a wrong or unknown hint changes nothing, and no kind of token that there is here is unsupported.
    async fn a_hint_does_not_keep_a_token_alive(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        for hint in ["access_token", "refresh_token", "nonsense"] {
            let issued = hall.tokens(&client, &[]).await;
            let refresh = issued.refresh_token.unwrap();
            hall.oauth.revoke(&client, &form(&[("token", refresh.expose()), ("token_type_hint", hint)])).await.unwrap();
            assert!(!hall.is_taken(&issued.access_token).await, "{hint}");
            let issued = hall.tokens(&client, &[]).await;
            let access = issued.access_token.expose();
            hall.oauth.revoke(&client, &form(&[("token", access), ("token_type_hint", hint)])).await.unwrap();
            assert!(!hall.is_taken(&issued.access_token).await, "{hint}");
        }
    }

    /// R103: what is unknown or over already is revoked, too.
    async fn what_is_unknown_or_over_is_revoked_already(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let issued = hall.tokens(&client, &[]).await;
        let token = form(&[("token", issued.access_token.expose())]);
        hall.oauth.revoke(&client, &token).await.unwrap();
        hall.oauth.revoke(&client, &token).await.unwrap();
        for unknown in ["nonsense", "vkr_nonsense", "vk_nonsense"] {
            hall.oauth.revoke(&client, &form(&[("token", unknown)])).await.unwrap();
        }
        assert_eq!(word(hall.oauth.revoke(&client, &form(&[])).await), Word::InvalidRequest);
    }

    /// R100, R103: also while its agent or its person is switched off; otherwise it would come to life with them.
    async fn a_token_that_is_given_back_does_not_come_to_life_again(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let (base, site, operator) = (&hall.house.base, hall.site(), Actor::Operator);
        for which in ["the agent", "the person"] {
            let switch = async |off: bool| match which {
                "the agent" => agent::set_disabled(base, site, &operator, &hall.agent, off).await.unwrap(),
                _ => person::set_disabled(base, site, &operator, &alice(), off).await.unwrap(),
            };
            let issued = hall.tokens(&client, &[]).await;
            switch(true).await;
            hall.oauth.revoke(&client, &form(&[("token", issued.access_token.expose())])).await.unwrap();
            switch(false).await;
            assert!(!hall.is_taken(&issued.access_token).await, "{which}");
            assert_eq!(word(hall.refresh(&client, &issued.refresh_token.unwrap()).await), Word::InvalidGrant, "{which}");
        }
    }

    /// Whoever revokes a token of a consent by its id means the program that holds it, which would fetch the next one.
    async fn a_token_that_is_revoked_by_its_id_takes_its_consent_along(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let issued = hall.tokens(&client, &[]).await;
        let refresh = issued.refresh_token.unwrap();
        let next = hall.refresh(&client, &refresh).await.unwrap();
        let id = token::list(&db, hall.site(), &hall.agent).await.unwrap()[0].id.clone();
        token::revoke(&hall.house.base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        assert!(!hall.is_taken(&issued.access_token).await && !hall.is_taken(&next.access_token).await);
        assert_eq!(word(hall.refresh(&client, &next.refresh_token.unwrap()).await), Word::InvalidGrant);
    }

    async fn revoking_every_token_of_an_agent_ends_what_was_consented_to(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let refresh = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let pending = hall.code(&client, &[]).await;
        token::revoke_all(&hall.house.base, hall.site(), &Actor::Operator, &hall.agent, "over").await.unwrap();
        assert_eq!(word(hall.refresh(&client, &refresh).await), Word::InvalidGrant);
        assert_eq!(word(hall.redeem(&client, &pending).await), Word::InvalidGrant);
    }

    async fn a_consent_is_listed_and_ends_when_it_is_told_to(db: Db) {
        let hall = Hall::new(&db).await;
        let (base, client) = (&hall.house.base, hall.public().await);
        let issued = hall.tokens(&client, &[]).await;
        let list = async |person: &str| {
            let filter = family::Filter { person: Some(person.parse().unwrap()), ..family::Filter::default() };
            family::list(&db, hall.site(), &filter, base.clock.now()).await.unwrap()
        };
        assert!(list("bob").await.is_empty());
        let consents = list("alice").await;
        assert_eq!((consents.len(), &consents[0].client, &consents[0].person), (1, &client.id, &alice()));
        let actor = Actor::User(alice());
        assert!(family::end(base, hall.site(), &actor, &consents[0].id, "enough").await.unwrap());
        assert!(!family::end(base, hall.site(), &actor, &consents[0].id, "enough").await.unwrap(), "once");
        assert!(!hall.is_taken(&issued.access_token).await);
        assert!(list("alice").await.is_empty());
    }

    /// What was exchanged for a token ends with it, however many exchanges lie between; and by itself ends alone.
    async fn what_was_exchanged_for_a_token_ends_with_it(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, exchanger) = (hall.public().await, hall.exchanger(None).await);
        let root = hall.tokens(&client, &[]).await;
        let child = async |of: &valetkey::secret::Secret| {
            hall.exchange(&exchanger, &[("subject_token", of.expose()), ("subject_token_type", ACCESS_TOKEN)]).await.unwrap().access_token
        };
        let (first, second) = (child(&root.access_token).await, child(&root.access_token).await);
        let grandchild = child(&first).await;
        let asker = hall.asker().await;
        let id = hall.introspect(&asker, first.expose()).await["jti"].as_str().unwrap().parse().unwrap();
        token::revoke(&hall.house.base, hall.site(), &Actor::Operator, &id, "over").await.unwrap();
        assert!(!hall.is_taken(&first).await && !hall.is_taken(&grandchild).await);
        assert!(hall.is_taken(&second).await && hall.is_taken(&root.access_token).await);
        hall.house.base.clock.advance(Duration::from_secs(1));
        hall.oauth.revoke(&client, &form(&[("token", root.refresh_token.unwrap().expose())])).await.unwrap();
        assert!(!hall.is_taken(&second).await && !hall.is_taken(&root.access_token).await);
    }

    /// Whoever issues and whoever revokes take turns: whatever came out of a race does not live.
    async fn nothing_is_issued_beside_a_revocation(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, exchanger) = (hall.public().await, hall.exchanger(None).await);
        for _ in 0..8 {
            let issued = hall.tokens(&client, &[]).await;
            let refresh = issued.refresh_token.unwrap();
            let asked = [("subject_token", issued.access_token.expose()), ("subject_token_type", ACCESS_TOKEN)];
            let given_back = form(&[("token", refresh.expose())]);
            let (revoked, refreshed, exchanged) = tokio::join!(
                hall.oauth.revoke(&client, &given_back),
                hall.refresh(&client, &refresh),
                hall.exchange(&exchanger, &asked),
            );
            revoked.unwrap();
            for token in [refreshed, exchanged].into_iter().filter_map(Result::ok) {
                assert!(!hall.is_taken(&token.access_token).await);
            }
        }
    }
}
