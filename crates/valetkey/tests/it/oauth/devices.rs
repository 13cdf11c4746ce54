//! Consent on another device.

use std::{collections::BTreeSet, time::Duration};

use valetkey::{
    Code,
    decision::Over,
    oauth::{Client, GrantType, Issued, NewClient, Outcome, Word, authorize::Life, device::Begun},
    on_each_db,
    principal::CallerChain,
};

use super::world::{CALLBACK, Hall, alice, form, word};
use crate::{authority::narrow, support::ceiling};

impl Hall {
    async fn begin(&self, client: &Client, more: &[(&str, &str)]) -> Begun {
        self.oauth.begin_device(client, &form(more)).await.unwrap()
    }

    async fn poll(&self, client: &Client, begun: &Begun) -> Outcome<Issued> {
        let asked = [("grant_type", GrantType::DeviceCode.as_str()), ("device_code", begun.device_code.expose())];
        self.oauth.token(client, &form(&asked), &CallerChain::default()).await
    }

    async fn allow(&self, begun: &Begun) {
        self.oauth.approve_device(self.site(), &alice(), &begun.user_code, &self.choice("proxy")).await.unwrap();
    }
}

on_each_db! {
    async fn a_device_gets_its_tokens_once_the_person_said_yes(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let begun = hall.begin(&client, &[("scope", "proxy reveal")]).await;
        assert_eq!((begun.verification_uri.as_str(), begun.interval), ("https://keys.example.test/oauth/device", 5));
        assert_eq!(word(hall.poll(&client, &begun).await), Word::AuthorizationPending);
        let shown = hall.oauth.device_consent(hall.site(), &alice(), &begun.user_code.to_lowercase()).await.unwrap().unwrap();
        assert_eq!((shown.client.name.as_str(), shown.scopes.to_string().as_str()), ("App", "proxy reveal"));
        hall.allow(&begun).await;
        hall.house.base.clock.advance(Duration::from_secs(5));
        // What is told is what holds now; where that is nothing, the code is not spent.
        narrow(&hall.house, Over::Site, &hall.agent, Some(ceiling(r#"{"delivery":["reveal"]}"#))).await;
        assert_eq!(word(hall.poll(&client, &begun).await), Word::InvalidScope);
        narrow(&hall.house, Over::Site, &hall.agent, Some(ceiling(r#"{"providers":["reddit"]}"#))).await;
        let issued = hall.poll(&client, &begun).await.unwrap();
        assert_eq!(issued.scope.as_deref(), Some("proxy provider:reddit"));
        assert!(hall.is_taken(&issued.access_token).await);
        hall.refresh(&client, &issued.refresh_token.unwrap()).await.unwrap();
        assert_eq!(word(hall.poll(&client, &begun).await), Word::InvalidGrant, "once");
    }

    async fn who_asks_too_often_is_told_to_slow_down(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let begun = hall.begin(&client, &[]).await;
        let clock = &hall.house.base.clock;
        assert_eq!(word(hall.poll(&client, &begun).await), Word::AuthorizationPending);
        clock.advance(Duration::from_secs(4));
        assert_eq!(word(hall.poll(&client, &begun).await), Word::SlowDown);
        // Ten seconds from now on (RFC 8628 section 3.5).
        clock.advance(Duration::from_secs(9));
        assert_eq!(word(hall.poll(&client, &begun).await), Word::SlowDown);
        clock.advance(Duration::from_secs(15));
        assert_eq!(word(hall.poll(&client, &begun).await), Word::AuthorizationPending);
    }

    async fn a_no_and_an_end_are_told(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let refused = hall.begin(&client, &[]).await;
        hall.oauth.refuse_device(hall.site(), &alice(), &refused.user_code).await.unwrap();
        assert_eq!(word(hall.poll(&client, &refused).await), Word::AccessDenied);
        let late = hall.begin(&client, &[]).await;
        hall.house.base.clock.advance(Duration::from_secs(600));
        assert_eq!(word(hall.poll(&client, &late).await), Word::ExpiredToken);
        let too_late = hall.oauth.approve_device(hall.site(), &alice(), &late.user_code, &hall.choice("proxy")).await;
        assert_eq!(too_late.unwrap_err().code(), Code::NotFound);
    }

    async fn a_person_answers_a_code_once(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let begun = hall.begin(&client, &[]).await;
        hall.allow(&begun).await;
        for again in [
            hall.oauth.approve_device(hall.site(), &alice(), &begun.user_code, &hall.choice("proxy")).await,
            hall.oauth.refuse_device(hall.site(), &alice(), &begun.user_code).await,
        ] {
            assert_eq!(again.unwrap_err().code(), Code::NotFound);
        }
        assert!(hall.oauth.device_consent(hall.site(), &alice(), &begun.user_code).await.unwrap().is_none());
    }

    async fn a_device_code_is_its_clients_alone(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other) = (hall.public().await, hall.public().await);
        let begun = hall.begin(&client, &[]).await;
        hall.allow(&begun).await;
        assert_eq!(word(hall.poll(&other, &begun).await), Word::InvalidGrant);
        hall.poll(&client, &begun).await.unwrap();
    }

    async fn a_consent_that_ended_before_the_device_asked_brings_nothing(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let begun = hall.begin(&client, &[]).await;
        hall.allow(&begun).await;
        let operator = valetkey::principal::Actor::Operator;
        valetkey::token::revoke_all(&hall.house.base, hall.site(), &operator, &hall.agent, "over").await.unwrap();
        assert_eq!(word(hall.poll(&client, &begun).await), Word::InvalidGrant);
    }

    async fn what_is_chosen_on_the_device_page_is_held_to_what_was_asked(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let begun = hall.begin(&client, &[("scope", "proxy")]).await;
        let choice = valetkey::oauth::authorize::Choice { life: Life::Day, ..hall.choice("proxy reveal") };
        let more = hall.oauth.approve_device(hall.site(), &alice(), &begun.user_code, &choice).await;
        assert_eq!(more.unwrap_err().code(), Code::InvalidRequest);
        let new = NewClient { name: "N".into(), redirect_uris: vec![CALLBACK.into()],
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]), ..NewClient::default() };
        let (without, _) = hall.client(new).await;
        assert_eq!(word(hall.oauth.begin_device(&without, &form(&[])).await), Word::UnauthorizedClient);
    }
}
