//! The page of consent: whom it sends on, and what it says of the accounts that a program asks to reach.

use http::Method;
use valetkey::{
    db::testing,
    platform::{self, Asserts, NewKey, Scope},
    principal::Actor,
    session, site,
};

use crate::{
    oauth::{CALLBACK, Front, authorize},
    pages::{csrf, location, text},
    sessions::OURS,
    support::{basic, on_each_db},
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

    /// A person knows their accounts by name. What is somebody else's is not told by being asked for.
    async fn the_page_names_the_accounts_that_are_asked_for(front: Front) {
        let account = async |user: &str, name: &str| {
            let path = format!("/v1/providers/http_basic/accounts/users/{user}?name={name}");
            let made = front.operator(Method::PUT, &path, basic("secret")).await;
            made["connection"].as_str().unwrap().to_owned()
        };
        let (hers, his) = (account("alice", "work").await, account("bob", "secrets-of-bob").await);
        let named = "UPDATE connections SET subject_name = 'the <account> of ' || owner";
        testing::execute(&front.broker.base().db, named).await;
        let client = front.public().await;
        let scope = format!("proxy provider:reddit connection:{hers} connection:{his}");
        let mut browser = front.browser("alice").await;
        let begun = [("client_id", client.id.as_str()), ("scope", scope.as_str())];
        let begun = front.post("/oauth/device_authorization", &begun).await.expect(200).json();
        let device = format!("/oauth/device?user_code={}", begun["user_code"].as_str().unwrap());
        for path in [authorize(&client, &[("scope", &scope)]), device] {
            let page = text(&browser.get(&path).await.expect(200));
            for said in [
                "your account HTTP Basic: the &#60;account&#62; of user:alice (work)</label>",
                "accounts at reddit</label>",
                &format!("the account {his}, which is not one of yours</label>"),
                &format!("value=\"connection:{hers}\""),
            ] {
                assert!(page.contains(said), "{said:?} is not on: {page}");
            }
            assert!(!page.contains("of user:bob") && !page.contains("secrets-of-bob"), "{page}");
        }
    }
}
