//! The page of consent: whom it sends on, and what it says of the accounts that a program asks to reach.

use valetkey::{
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    session, site,
};

use crate::{
    oauth::{CALLBACK, Front, authorize},
    pages::{csrf, location},
    sessions::OURS,
    support::on_each_db,
};

on_each_db! {
    /// The same person at another site is another person, and a browser that is signed in there is nothing to this site's programs:
    /// not to be sent to them either, with a refusal.
    async fn a_refusal_sends_nobody_to_a_program_of_another_site(front: Front) {
        let client = front.public().await;
        let wrong = authorize(&client, &[("response_type", "token")]);
        let mut at_home = front.browser("alice").await;
        assert!(location(&at_home.get(&wrong).await.expect(303)).starts_with(CALLBACK));
        let token = csrf(&at_home.get("/").await.expect(200));
        let form = [("csrf", token.as_str()), ("decision", "deny")];
        assert!(location(&at_home.post_with(&wrong, &form, OURS).await.expect(303)).starts_with(CALLBACK));

        let (base, other) = (front.broker.base(), "other".parse().unwrap());
        site::create(base, &Actor::Operator, &other, "Other").await.unwrap();
        let new = NewKey { label: String::new(), scopes: [Scope::Signin].into(), asserts: Asserts::Any, expires_at: None };
        let key = platform::create(base, &other, &Actor::Operator, new).await.unwrap().key.id;
        let (secret, _) = session::open(base, &other, &"alice".parse().unwrap(), &key).await.unwrap();
        let mut elsewhere = front.pages.browser();
        elsewhere.jar.insert("__Host-vk_session".to_owned(), secret.expose().to_owned());
        let token = csrf(&elsewhere.get("/").await.expect(200));
        let form = [("csrf", token.as_str()), ("decision", "deny")];
        for path in [wrong, authorize(&client, &[])] {
            for answer in [elsewhere.get(&path).await, elsewhere.post_with(&path, &form, OURS).await] {
                assert!(!answer.expect(404).headers.contains_key("location"), "{path}");
            }
        }
    }
}
