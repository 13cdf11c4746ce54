//! People: who is signed in, and the signing out.

use serde_json::json;
use valetkey::{
    id::{PlatformKeyId, SiteId},
    platform::{Asserts, Scope},
    session,
};

use crate::support::{App, As, on_each_db, text};

/// Signs a person in, in some browser.
async fn sign_in(app: &App, user: &str) -> session::Session {
    let keys = app.get(&As::Operator, "/v1/keys").await.expect(200).json();
    let key: PlatformKeyId = text(&keys, "/keys/0/id").parse().unwrap();
    session::open(app.broker.base(), &SiteId::default_site(), &user.parse().unwrap(), &key).await.unwrap().1
}

on_each_db! {
    /// What a platform does when a person signs out there.
    async fn a_platform_signs_out_whom_it_signs_in(app: App) {
        let only_alice = Asserts::People(["alice".parse().unwrap()].into());
        let key = app.key(&[Scope::Signin], only_alice).await;
        let (alices, _, _) = (sign_in(&app, "alice").await, sign_in(&app, "alice").await, sign_in(&app, "bob").await);
        let listed = app.get(&key, "/v1/people/alice/sessions").await.expect(200).json();
        let listed = listed["sessions"].as_array().unwrap().clone();
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().any(|session| session["id"] == alices.id.as_str() && session["key"].is_string()), "{listed:?}");
        for path in ["/v1/people/bob/sessions", "/v1/people/carol/sessions"] {
            app.get(&key, path).await.refused(403, "forbidden");
            app.delete(&key, path).await.refused(403, "forbidden");
        }
        assert_eq!(app.delete(&key, "/v1/people/alice/sessions").await.expect(200).json()["ended"], 2);
        assert_eq!(app.delete(&key, "/v1/people/alice/sessions").await.expect(200).json()["ended"], 0);
        let bobs = app.get(&As::Operator, "/v1/people/bob/sessions").await.expect(200).json();
        assert_eq!(bobs["sessions"].as_array().unwrap().len(), 1, "somebody else's stay");
    }

    /// A browser that was the reason is not let in again with its person.
    async fn a_person_who_may_act_again_signs_in_anew(app: App) {
        app.key(&[Scope::Signin], Asserts::Any).await;
        sign_in(&app, "alice").await;
        sign_in(&app, "bob").await;
        for disabled in [true, false] {
            app.patch(&As::Operator, "/v1/people/alice", json!({ "disabled": disabled })).await.expect(200);
        }
        for (user, sessions) in [("alice", 0), ("bob", 1)] {
            let listed = app.get(&As::Operator, &format!("/v1/people/{user}/sessions")).await.expect(200).json();
            assert_eq!(listed["sessions"].as_array().unwrap().len(), sessions, "{user}");
        }
        sign_in(&app, "alice").await;
    }

    async fn who_may_not_sign_people_in_does_not_see_where_they_are(app: App) {
        let key = app.key(&[Scope::Connect, Scope::Agents, Scope::AccountsRead], Asserts::Any).await;
        app.get(&key, "/v1/people/alice/sessions").await.refused(403, "missing_scope");
        app.delete(&key, "/v1/people/alice/sessions").await.refused(403, "missing_scope");
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        app.get(&admin, "/v1/people/alice/sessions").await.expect(200);
    }
}
