//! Refresh tokens: traded for their successors, once.

use std::time::Duration;

use valetkey::{
    decision::Over,
    oauth::{REFRESH_GRACE, REFRESH_IDLE, Word},
    on_each_db,
    secret::Secret,
    token,
};

use super::world::{Hall, word};
use crate::{authority::narrow, support::ceiling};

on_each_db! {
    /// R80: each refresh brings another refresh token, and the old one is good for nothing any more.
    async fn a_refresh_brings_a_successor_and_ends_the_old_one(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let first = hall.tokens(&client, &[]).await;
        let old = first.refresh_token.unwrap();
        let second = hall.refresh(&client, &old).await.unwrap();
        let new = second.refresh_token.unwrap();
        assert!(!new.matches(&old) && !second.access_token.matches(&first.access_token));
        assert!(hall.is_taken(&second.access_token).await);
        // A short-lived access token is not cut off by a refresh.
        assert!(hall.is_taken(&first.access_token).await);
        hall.refresh(&client, &new).await.unwrap();
    }

    /// R80: an old refresh token that comes again after the grace is in two hands: everything of the consent ends.
    async fn a_refresh_token_that_is_used_again_ends_the_family(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let old = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let next = hall.refresh(&client, &old).await.unwrap();
        hall.house.base.clock.advance(REFRESH_GRACE + Duration::from_secs(1));
        assert_eq!(word(hall.refresh(&client, &old).await), Word::InvalidGrant);
        assert!(!hall.is_taken(&next.access_token).await);
        assert_eq!(word(hall.refresh(&client, &next.refresh_token.unwrap()).await), Word::InvalidGrant);
    }

    /// R81: within ten seconds the same old token brings the same successor, whose answer may have been lost.
    async fn within_the_grace_the_same_token_brings_the_same_successor(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let old = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let first = hall.refresh(&client, &old).await.unwrap();
        hall.house.base.clock.advance(REFRESH_GRACE);
        let again = hall.refresh(&client, &old).await.unwrap();
        assert!(again.access_token.matches(&first.access_token));
        assert!(again.refresh_token.as_ref().unwrap().matches(first.refresh_token.as_ref().unwrap()));
        assert_eq!(again.expires_in, Some(890));
        // The first token of the consent and that of the refresh: asking again made none.
        assert_eq!(token::list(&db, hall.site(), &hall.agent).await.unwrap().len(), 2);
    }

    /// R80: once the successor was used its answer was not lost, and the old token comes from somewhere else.
    async fn an_old_token_whose_successor_was_used_has_no_grace(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let old = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let new = hall.refresh(&client, &old).await.unwrap().refresh_token.unwrap();
        let newest = hall.refresh(&client, &new).await.unwrap();
        assert_eq!(word(hall.refresh(&client, &old).await), Word::InvalidGrant);
        assert!(!hall.is_taken(&newest.access_token).await);
    }

    /// R81: sixteen at once get one answer.
    async fn many_refreshes_at_once_get_one_answer(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let old = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        let all = futures_util::future::join_all((0..16).map(|_| hall.refresh(&client, &old))).await;
        let all: Vec<_> = all.into_iter().map(|one| one.unwrap()).collect();
        for one in &all {
            assert!(one.access_token.matches(&all[0].access_token));
            assert!(one.refresh_token.as_ref().unwrap().matches(all[0].refresh_token.as_ref().unwrap()));
        }
        assert_eq!(token::list(&db, hall.site(), &hall.agent).await.unwrap().len(), 2);
    }

    /// R82: a refresh token is bound to the scopes and the resource that were consented to.
    async fn a_refresh_asks_for_no_more_than_was_consented_to(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let consented = &[("scope", "proxy reveal provider:reddit")];
        let token = hall.tokens(&client, consented).await.refresh_token.unwrap();
        for (more, refusal) in [
            (("scope", "proxy provider:youtube"), Word::InvalidScope),
            (("scope", "openid"), Word::InvalidScope),
            (("resource", "https://keys.example.test/mcp"), Word::InvalidTarget),
        ] {
            assert_eq!(word(hall.refresh_with(&client, &token, &[more]).await), refusal, "{more:?}");
        }
        // Less is fine, for this one access token; the next may have all of it again.
        let less = hall.refresh_with(&client, &token, &[("scope", "proxy")]).await.unwrap();
        assert_eq!(less.scope.as_deref(), Some("proxy provider:reddit"));
        let all = hall.refresh_with(&client, &less.refresh_token.unwrap(), &[("resource", "https://keys.example.test/")]).await.unwrap();
        assert_eq!(all.scope.as_deref(), Some("proxy reveal provider:reddit"));
    }

    /// What is told with a token is what may be done with it now, as introspection says it. Where that is nothing, nothing is spent.
    async fn every_answer_tells_the_scope_that_holds_now(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, asker) = (hall.public().await, hall.asker().await);
        let policy = async |over: Over, most: Option<&str>| narrow(&hall.house, over, &hall.agent, most.map(ceiling)).await;
        policy(Over::Site, Some(r#"{"providers":["reddit"]}"#)).await;
        let code = hall.code(&client, &[("scope", "proxy reveal provider:reddit provider:youtube")]).await;
        policy(Over::Agent, Some(r#"{"providers":["facebook"]}"#)).await;
        assert_eq!(word(hall.redeem(&client, &code).await), Word::InvalidScope);
        policy(Over::Agent, None).await;
        let first = hall.redeem(&client, &code).await.unwrap();
        assert_eq!(first.scope.as_deref(), Some("proxy reveal provider:reddit"));
        assert_eq!(hall.introspect(&asker, first.access_token.expose()).await["scope"], "proxy reveal provider:reddit");
        let old = first.refresh_token.unwrap();
        policy(Over::Agent, Some(r#"{"providers":["facebook"]}"#)).await;
        assert_eq!(word(hall.refresh(&client, &old).await), Word::InvalidScope);
        policy(Over::Agent, Some(r#"{"delivery":["proxy"]}"#)).await;
        let next = hall.refresh(&client, &old).await.unwrap();
        assert_eq!(next.scope.as_deref(), Some("proxy provider:reddit"));
        // What was consented to is not cut by it: the very same token may more once the policies are gone.
        policy(Over::Agent, None).await;
        policy(Over::Site, None).await;
        let again = hall.refresh(&client, &old).await.unwrap();
        assert!(again.access_token.matches(&next.access_token));
        assert_eq!(again.scope.as_deref(), Some("proxy reveal provider:reddit provider:youtube"));
        assert_eq!(hall.introspect(&asker, next.access_token.expose()).await["scope"], again.scope.unwrap());
    }

    /// R82: a refresh token that nobody uses ends.
    async fn an_idle_refresh_token_ends(db: Db) {
        let hall = Hall::new(&db).await;
        let client = hall.public().await;
        let token = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        hall.house.base.clock.advance(REFRESH_IDLE - Duration::from_secs(1));
        let token = hall.refresh(&client, &token).await.unwrap().refresh_token.unwrap();
        hall.house.base.clock.advance(REFRESH_IDLE);
        assert_eq!(word(hall.refresh(&client, &token).await), Word::InvalidGrant);
    }

    async fn another_clients_refresh_token_is_unknown_and_stays_as_it_is(db: Db) {
        let hall = Hall::new(&db).await;
        let (client, other) = (hall.public().await, hall.public().await);
        let token = hall.tokens(&client, &[]).await.refresh_token.unwrap();
        assert_eq!(word(hall.refresh(&other, &token).await), Word::InvalidGrant);
        assert_eq!(word(hall.refresh(&client, &Secret::new("vkr_nonsense")).await), Word::InvalidGrant);
        let access = hall.refresh(&client, &token).await.unwrap().access_token;
        assert_eq!(word(hall.refresh(&client, &access).await), Word::InvalidGrant, "an access token refreshes nothing");
    }
}
