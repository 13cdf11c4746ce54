//! Cross-site request forgery: a form of a signed-in person's page says something only where it came from that very page. What
//! the account's own forms do is in `sessions`; here are those that let somebody in, say yes, and connect.

use axum::body::Body;
use http::{Request, header};
use valetkey::{
    approval,
    grant::{self, Effect},
    id::{GrantId, SiteId},
    site::SiteChange,
    token::family::{self, Filter},
};

use crate::{
    oauth::{Front, authorize, refused, site},
    pages::{Browser, HTTPS, Pages, csrf, of, path, text},
    pages_approvals::{self, Asking},
    sessions::OURS,
    support::on_each_db,
};

/// What a browser says of a form on a page that is not ours, and what no browser says of one that is.
const ELSEWHERE: &[&[(&str, &str)]] = &[
    &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
    &[("sec-fetch-site", "same-site"), ("origin", "https://other.example.test")],
    &[("sec-fetch-site", "cross-site"), ("origin", HTTPS)],
    &[("sec-fetch-site", "cross-site")],
    &[("sec-fetch-site", "none")],
    &[("sec-fetch-site", "")],
    &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
    &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
    &[("origin", "https://evil.example")],
    &[("origin", "null")],
    &[("origin", "https://keys.example.test.evil.example")],
    &[("origin", "http://keys.example.test")],
    &[("origin", "https://keys.example.test:8443")],
    &[("origin", HTTPS), ("origin", HTTPS)],
];

/// A form with a page's token.
fn with<'f>(token: &'f str, form: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    [&[("csrf", token)][..], form].concat()
}

/// Sends a form in every way in which another page could have sent it. `others` are tokens of other people's and other browsers'
/// pages; the form itself holds none.
async fn forged(browser: &mut Browser<'_>, path: &str, token: &str, others: &[&str], form: &[(&str, &str)]) {
    for headers in ELSEWHERE {
        browser.post_with(path, &with(token, form), headers).await.expect(403);
    }
    browser.post_with(path, form, OURS).await.expect(403);
    let wrong = [token.to_uppercase(), token[1..].to_owned(), format!("{token}0"), String::new(), "0".repeat(token.len())];
    for wrong in wrong.iter().map(String::as_str).chain(others.iter().copied()) {
        browser.post_with(path, &with(wrong, form), OURS).await.expect(403);
    }
    browser.post_with(path, &[with(token, form), with(token, form)].concat(), OURS).await.expect(400);
    // What another page can send without asking is no form.
    let cookies: Vec<_> = browser.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for kind in ["text/plain", "multipart/form-data; boundary=x", "application/json"] {
        let request = Request::post(path).header(header::CONTENT_TYPE, kind).header(header::COOKIE, cookies.join("; "));
        let request = OURS.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = browser.pages.browser().send(request, Body::from(format!("csrf={token}"))).await;
        assert_eq!(answer.status.as_u16(), 400, "{kind}");
    }
    // Another site's form comes without the cookie, which is `SameSite=Lax`.
    browser.pages.browser().post_with(path, &with(token, form), OURS).await.expect(403);
    // A look says nothing, whatever stands in its address.
    let query: Vec<_> = with(token, form).iter().map(|(name, value)| format!("{name}={value}")).collect();
    let looked = browser.get(&format!("{path}?{}", query.join("&"))).await;
    assert!(!looked.status.is_redirection(), "{looked:?}");
}

impl Front {
    /// How many consents there are.
    async fn consents(&self) -> usize {
        let base = self.broker.base();
        family::list(&base.db, &site(), &Filter::default(), base.clock.now()).await.unwrap().len()
    }
}

on_each_db! {
    async fn nobody_is_let_in_by_a_form_of_another_page(front: Front) {
        let client = front.public().await;
        let path = authorize(&client, &[]);
        let (mut alice, mut elsewhere, mut bob) = (front.browser("alice").await, front.browser("alice").await, front.browser("bob").await);
        let token = csrf(&alice.get(&path).await.expect(200));
        let others = [csrf(&elsewhere.get("/").await.expect(200)), csrf(&bob.get("/").await.expect(200))];
        let others = [others[0].as_str(), others[1].as_str()];
        let form = [("decision", "allow"), ("agent", front.agent.as_str()), ("scope", "proxy"), ("life", "1d")];
        for headers in ELSEWHERE {
            alice.post_with(&path, &with(&token, &form), headers).await.expect(403);
        }
        for other in others {
            alice.post_with(&path, &with(other, &form), OURS).await.expect(403);
        }
        alice.post_with(&path, &form, OURS).await.expect(403);
        front.pages.browser().post_with(&path, &with(&token, &form), OURS).await.expect(403);
        assert_eq!(front.consents().await, 0);
        alice.post_with(&path, &with(&token, &form), OURS).await.expect(303);
        assert_eq!(front.consents().await, 1);

        let begun = front.post("/oauth/device_authorization", &[("client_id", client.id.as_str())]).await.expect(200).json();
        let form = [&[("user_code", begun["user_code"].as_str().unwrap())][..], &form].concat();
        forged(&mut alice, "/oauth/device", &token, &others, &form).await;
        assert_eq!(front.consents().await, 1);
        let poll = [
            ("client_id", client.id.as_str()),
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", begun["device_code"].as_str().unwrap()),
        ];
        refused(front.post("/oauth/token", &poll).await, 400, "authorization_pending");
        alice.post_with("/oauth/device", &with(&token, &form), OURS).await.expect(200);
        assert_eq!(front.consents().await, 2);
    }

    async fn nobody_is_put_out_by_a_form_of_another_page(front: Front) {
        let issued = front.tokens(&front.public().await).await;
        let access = issued["access_token"].as_str();
        let (mut alice, mut elsewhere, mut bob) = (front.browser("alice").await, front.browser("alice").await, front.browser("bob").await);
        let page = alice.get("/").await.expect(200);
        let words = text(&page);
        let path = words.split("action=\"").find(|part| part.starts_with("/account/programs/")).unwrap().split('"').next().unwrap().to_owned();
        let (one, two) = (csrf(&elsewhere.get("/").await.expect(200)), csrf(&bob.get("/").await.expect(200)));
        forged(&mut alice, &path, &csrf(&page), &[&one, &two], &[]).await;
        front.get("/v1/me", access).await.expect(200);
        alice.post_with(&path, &[("csrf", &csrf(&page))], OURS).await.expect(303);
        front.get("/v1/me", access).await.expect(401);
    }

    async fn no_call_and_no_wish_is_answered_by_a_form_of_another_page(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let (call, wish) = (asking.hold(&pages).await, asking.propose(&pages, r#"{"provider":"lab","reason":"to look"}"#).await);
        let (mut alice, mut elsewhere, mut bob) = (pages.browser(), pages.browser(), pages.browser());
        for (browser, user) in [(&mut alice, "alice"), (&mut elsewhere, "alice"), (&mut bob, "bob")] {
            browser.enter(user, "/").await.expect(303);
        }
        let base = pages.broker.base();
        let grants = async || grant::list(&base.db, &SiteId::default_site(), Some(&asking.agent), None).await.unwrap().len();
        let before = grants().await;
        let (one, two) = (csrf(&elsewhere.get("/").await.expect(200)), csrf(&bob.get("/").await.expect(200)));
        let connection = asking.connection.as_str();
        let yes = [("decision", "yes"), ("connection", connection), ("delivery", "proxy")];
        for (path, form) in [
            (format!("/approvals/{call}"), &yes[..1]),
            (format!("/approvals/{call}"), &[("decision", "no")][..]),
            (format!("/proposals/{wish}"), &yes[..]),
            (format!("/proposals/{wish}"), &[("decision", "no")][..]),
        ] {
            let token = csrf(&alice.get(&path).await.expect(200));
            forged(&mut alice, &path, &token, &[&one, &two], form).await;
        }
        assert_eq!(pages_approvals::status(&pages, &call).await, approval::Status::Pending);
        assert_eq!(grants().await, before);
        let token = csrf(&alice.get("/").await.expect(200));
        for (path, form) in [(format!("/approvals/{call}"), &yes[..1]), (format!("/proposals/{wish}"), &yes[..])] {
            alice.post_with(&path, &with(&token, form), OURS).await.expect(303);
        }
        assert_eq!(pages_approvals::status(&pages, &call).await, approval::Status::Approved);
        assert_eq!(grants().await, before + 1);
    }

    /// A grant that asks or denies holds others back: whoever finds a browser in which somebody signed in an hour ago takes none away.
    async fn what_holds_agents_back_is_taken_away_with_a_fresh_proof(pages: Pages) {
        let asking = Asking::new(&pages).await;
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let all = grant::list(&base.db, &site, Some(&asking.agent), None).await.unwrap();
        let id = |effect: Effect| all.iter().find(|grant| grant.effect == effect).unwrap().id.clone();
        let (asks, allows) = (id(Effect::Ask), id(Effect::Allow));
        let live = async |id: &GrantId| grant::get(&base.db, &site, id).await.unwrap().unwrap().revoked_at.is_none();
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        pages.advance(6);
        let token = csrf(&browser.get("/").await.expect(200));
        let path = format!("/account/grants/{asks}/revoke");
        let answer = browser.post_with(&path, &[("csrf", &token)], OURS).await.expect(403);
        assert!(text(&answer).contains("fresh=1") && live(&asks).await, "{}", text(&answer));
        // To take a permission away needs none.
        browser.post_with(&format!("/account/grants/{allows}/revoke"), &[("csrf", &token)], OURS).await.expect(303);
        assert!(!live(&allows).await);
        browser.enter("alice", "/").await.expect(303);
        let token = csrf(&browser.get("/").await.expect(200));
        browser.post_with(&path, &[("csrf", &token)], OURS).await.expect(303);
        assert!(!live(&asks).await);
    }

    /// A link's page is bound to the browser that opened it: its token is worth nothing in another, and no other's is in it.
    async fn no_account_is_connected_by_a_form_of_another_page(pages: Pages) {
        let (mut alice, mut mallory) = (pages.browser(), pages.browser());
        let (hers, other) = (pages.link(of("user:alice")).await, pages.link(of("user:mallory")).await);
        let page = alice.open(&hers, "alice").await;
        let others = mallory.open(&other, "mallory").await;
        let place = path(&hers);
        for token in [String::new(), "0".repeat(64), csrf(&others), csrf(&page).to_uppercase()] {
            for decision in ["approve", "cancel", "enter"] {
                let answer = alice.post(&place, &[("csrf", &token), ("decision", decision)]).await;
                assert!(answer.status.is_client_error(), "{decision}: {answer:?}");
            }
        }
        // Another browser, with the right token and without what the page was bound to, or with its own.
        for browser in [&mut mallory, &mut pages.browser()] {
            let answer = browser.post(&place, &[("csrf", &csrf(&page)), ("decision", "approve")]).await;
            assert!(answer.status.is_client_error(), "{answer:?}");
        }
        for form in [&[("decision", "approve")][..], &[("csrf", "x")], &[("csrf", "x"), ("csrf", "y"), ("decision", "approve")]] {
            alice.post(&place, form).await.expect(400);
        }
        assert_eq!(pages.connections().await, 0);
        // A platform's word from a page that is not the platform's is not taken either, where the site says which those are.
        let change = SiteChange { return_to: Some(vec!["https://platform.example/done".into()]), ..SiteChange::default() };
        pages.change_site(change).await;
        let assertion = pages.assertion(&other, "mallory");
        let answer = mallory.post_with(&path(&other), &[("assertion", &assertion)], &[("origin", "https://evil.example")]).await;
        answer.expect(403);
        alice.approve(&hers, &page).await.expect(303);
    }
}
