//! Replay: whatever works once works once, on every replica, and what comes again betrays that it is in two hands.

use std::{collections::BTreeSet, time::Duration};

use http::StatusCode;
use serde_json::{Value, json};
use valetkey::{
    oauth::GrantType,
    platform::{self, Asserts, Minted, NewKey, Purpose, Scope},
    principal::Actor,
    token::{self, NewToken},
};

use super::{ACCESS_TOKEN, JWT};
use crate::{
    approvals::Asking,
    oauth::{Front, redeeming, refused, site},
    pages::{Pages, csrf, location, of, path, text},
    sessions::OURS,
    support::{Answer, App, As, on_each_db},
};

impl Front {
    /// Trades a refresh token.
    async fn renew(&self, client: &str, token: &str) -> Answer {
        let form = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
        self.post("/oauth/token", &form).await
    }
}

fn member<'j>(json: &'j Value, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}"))
}

on_each_db! {
    /// RFC 6749 section 4.1.2: a code that comes twice is in two hands, and so is what came of it.
    async fn a_code_that_comes_twice_ends_what_came_of_it(front: Front) {
        let (client, other) = (front.public().await, front.public().await);
        let code = front.code(&client, &[]).await;
        let issued = front.post("/oauth/token", &redeeming(&client, &code)).await.expect(200).json();
        // Another client's word for it ends nothing.
        refused(front.post("/oauth/token", &redeeming(&other, &code)).await, 400, "invalid_grant");
        front.get("/v1/me", issued["access_token"].as_str()).await.expect(200);
        refused(front.post("/oauth/token", &redeeming(&client, &code)).await, 400, "invalid_grant");
        front.get("/v1/me", issued["access_token"].as_str()).await.refused(401, "unauthenticated");
        refused(front.renew(client.id.as_str(), member(&issued, "refresh_token")).await, 400, "invalid_grant");
    }

    /// A code that was seen on its way is worth nothing without the verifier, to whoever tries it however often; and its client's
    /// own attempt still works.
    async fn a_code_that_is_stolen_opens_nothing_without_its_verifier(front: Front) {
        let (client, other) = (front.public().await, front.public().await);
        let code = front.code(&client, &[]).await;
        for verifier in ["A".repeat(43), String::new(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".to_owned()] {
            let mut form = redeeming(&client, &code);
            form.retain(|(name, _)| *name != "code_verifier");
            form.push(("code_verifier", verifier.as_str()));
            assert_eq!(front.post("/oauth/token", &form).await.status, StatusCode::BAD_REQUEST, "{verifier}");
        }
        refused(front.post("/oauth/token", &redeeming(&other, &code)).await, 400, "invalid_grant");
        let mut elsewhere = redeeming(&client, &code);
        elsewhere.retain(|(name, _)| *name != "redirect_uri");
        refused(front.post("/oauth/token", &elsewhere).await, 400, "invalid_grant");
        front.post("/oauth/token", &redeeming(&client, &code)).await.expect(200);
    }

    /// RFC 9700 section 4.14.2. Within ten seconds the same answer may be had again: it may have been lost.
    async fn a_refresh_token_that_comes_again_ends_the_consent(front: Front) {
        let client = front.public().await;
        let id = client.id.as_str();
        let issued = front.tokens(&client).await;
        let first = member(&issued, "refresh_token");
        let next = front.renew(id, first).await.expect(200).json();
        let again = front.renew(id, first).await.expect(200).json();
        for name in ["access_token", "refresh_token"] {
            assert_eq!(again[name], next[name], "the same answer, and no second branch");
        }
        front.broker.base().clock.advance(Duration::from_secs(11));
        refused(front.renew(id, first).await, 400, "invalid_grant");
        for access in [member(&issued, "access_token"), member(&next, "access_token")] {
            front.get("/v1/me", Some(access)).await.refused(401, "unauthenticated");
        }
        refused(front.renew(id, member(&next, "refresh_token")).await, 400, "invalid_grant");
    }

    /// Also within the grace: once the successor was used, nobody lost the answer.
    async fn a_refresh_token_whose_successor_was_used_is_in_two_hands(front: Front) {
        let client = front.public().await;
        let id = client.id.as_str();
        let issued = front.tokens(&client).await;
        let next = front.renew(id, member(&issued, "refresh_token")).await.expect(200).json();
        let last = front.renew(id, member(&next, "refresh_token")).await.expect(200).json();
        refused(front.renew(id, member(&issued, "refresh_token")).await, 400, "invalid_grant");
        front.get("/v1/me", last["access_token"].as_str()).await.refused(401, "unauthenticated");
    }

    async fn a_device_code_gets_its_tokens_once(front: Front) {
        let (client, other) = (front.public().await, front.public().await);
        let begun = front.post("/oauth/device_authorization", &[("client_id", client.id.as_str())]).await.expect(200).json();
        let mut browser = front.browser("alice").await;
        let token = csrf(&browser.get("/oauth/device").await.expect(200));
        let user_code = member(&begun, "user_code");
        let mut form = vec![("csrf", token.as_str()), ("user_code", user_code), ("decision", "allow")];
        form.extend([("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1h")]);
        browser.post_with("/oauth/device", &form, OURS).await.expect(200);
        let poll = |client: &str| {
            let grant = GrantType::DeviceCode.as_str().to_owned();
            [("grant_type", grant), ("client_id", client.to_owned()), ("device_code", member(&begun, "device_code").to_owned())]
        };
        let ask = async |client: &str| {
            let form = poll(client);
            let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
            front.post("/oauth/token", &form).await
        };
        // Whoever saw the device code and is another client gets nothing, and takes nothing away.
        refused(ask(other.id.as_str()).await, 400, "invalid_grant");
        ask(client.id.as_str()).await.expect(200);
        refused(ask(client.id.as_str()).await, 400, "invalid_grant");
        // What the person said is said; the code means nothing any more.
        browser.post_with("/oauth/device", &form, OURS).await.expect(404);
    }

    /// RFC 7519 section 4.1.7. What was signed for one purpose is nothing for another one.
    async fn an_assertion_works_once_and_for_its_own_purpose(front: Front) {
        let base = front.broker.base();
        let scopes: BTreeSet<Scope> = [Scope::Agents, Scope::Signin].into();
        let new = NewKey { label: "k".to_owned(), scopes, asserts: Asserts::Any, expires_at: None };
        let Minted { key, assertion_secret, .. } = platform::create(base, &site(), &Actor::Operator, new).await.unwrap();
        let signed = |purpose| {
            let signed = platform::sign_for(&key.id, &assertion_secret, &"alice".parse().unwrap(), purpose, base.clock.now());
            signed.unwrap().expose().to_owned()
        };
        let (_, own) = token::mint(base, &site(), &Actor::Operator, &front.agent, NewToken::default()).await.unwrap();
        let (exchanger, secret) = front.confidential().await;
        let exchange = async |assertion: &str| {
            let form = [
                ("grant_type", GrantType::TokenExchange.as_str()),
                ("client_id", exchanger.id.as_str()),
                ("client_secret", secret.as_str()),
                ("subject_token", assertion),
                ("subject_token_type", JWT),
                ("actor_token", own.expose()),
                ("actor_token_type", ACCESS_TOKEN),
            ];
            front.post("/oauth/token", &form).await
        };
        let from_platform: &[(&str, &str)] = &[("origin", "https://platform.example"), ("sec-fetch-site", "cross-site")];
        let assertion = signed(Purpose::Exchange);
        // At the page for signing in it is nothing, and is not used up by that.
        let answer = front.post_with("/signin", &[("assertion", &assertion)], from_platform).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let issued = exchange(&assertion).await.expect(200).json();
        front.get("/v1/me", issued["access_token"].as_str()).await.expect(200);
        refused(exchange(&assertion).await, 400, "invalid_request");
        refused(exchange(&signed(Purpose::SignIn)).await, 400, "invalid_request");
        let late = signed(Purpose::Exchange);
        base.clock.advance(Duration::from_secs(61));
        refused(exchange(&late).await, 400, "invalid_request");
    }

    /// One yes is one call, whichever replicas are asked, and at the same moment.
    async fn an_approval_carries_one_call_over_all_replicas(app: App) {
        let twin = app.twin().await;
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        let approve = format!("/v1/approvals/{id}/approve");
        let (here, there) =
            tokio::join!(app.post(&As::Operator, &approve, json!({})), twin.post(&As::Operator, &approve, json!({})));
        let mut answers = [here.status.as_u16(), there.status.as_u16()];
        answers.sort_unstable();
        assert_eq!(answers, [200, 409], "one of the two said it");
        let (here, there) =
            tokio::join!(asking.call(&app, &asking.token, Some(&id)), asking.call(&twin, &asking.token, Some(&id)));
        // Nothing outside is spoken to here: what left did not arrive.
        let left = [&here, &there].into_iter().filter(|answer| answer.status.is_server_error()).count();
        let used = [&here, &there].into_iter().filter(|answer| answer.code() == "approval_used").count();
        assert_eq!((left, used), (1, 1), "{here:?} {there:?}");
        for replica in [&app, &twin] {
            asking.call(replica, &asking.token, Some(&id)).await.refused(409, "approval_used");
            replica.post(&As::Operator, &approve, json!({})).await.refused(409, "conflict");
        }
        if !app.broker.base().db.is_sqlite() {
            twin.broker.stop().await;
        }
    }

    /// A yes to one call is none to another one, however little it differs.
    async fn an_approval_carries_no_other_call(app: App) {
        let asking = Asking::new(&app).await;
        let id = asking.hold(&app).await;
        app.post(&As::Operator, &format!("/v1/approvals/{id}/approve"), json!({})).await.expect(200);
        let named = [("valet-approval", id.as_str())];
        let base = format!("/v1/proxy/{}", asking.connection);
        let say = json!({ "say": "canary" });
        for (method, path, body) in [
            (http::Method::PUT, "/submit?to=canary", &say),
            (http::Method::POST, "/submit/?to=canary", &say),
            (http::Method::POST, "/submit?to=canary&to=other", &say),
            (http::Method::POST, "/submit?to=Canary", &say),
            (http::Method::POST, "/submit", &say),
            (http::Method::POST, "/submit?to=canary", &json!({ "say": "something else" })),
        ] {
            let answer = app.call(&asking.token, method, &format!("{base}{path}"), Some(body.clone()), &named).await;
            answer.refused(409, "approval_mismatch");
        }
        let headers = [named[0], ("x-order", "another")];
        let answer = app.call(&asking.token, http::Method::POST, &format!("{base}/submit?to=canary"), Some(say.clone()), &headers).await;
        answer.refused(409, "approval_mismatch");
        let waits = app.get(&As::Operator, &format!("/v1/approvals/{id}")).await.expect(200).json();
        assert_eq!(waits["status"], "approved", "none of it used the yes up");
    }

    /// The link, the state and the provider's answer.
    async fn a_link_and_a_callback_work_once(pages: Pages) {
        let mut browser = pages.browser();
        let link = pages.link(of("user:alice")).await;
        let page = browser.open(&link, "alice").await;
        let kept = browser.jar.clone();
        let approved = browser.approve(&link, &page).await.expect(303);
        let flow = browser.jar.clone();
        let back = browser.sign_in(&approved, "alice").await;
        assert!(location(&browser.get(&back).await.expect(303)).contains("outcome=connected"));
        // With everything that the browser held at the time.
        browser.jar = flow;
        let again = browser.get(&back).await.expect(303);
        assert!(!location(&again).contains("outcome=connected"), "{}", location(&again));
        browser.jar = kept;
        assert!(!browser.approve(&link, &page).await.status.is_redirection());
        browser.get(&path(&link)).await.expect(404);
        let assertion = pages.assertion(&link, "alice");
        let answer = browser.post(&path(&link), &[("assertion", &assertion)]).await;
        assert!(answer.status.is_client_error() && !text(&answer).contains(&assertion), "{answer:?}");
        assert_eq!(pages.connections().await, 1);
    }
}
