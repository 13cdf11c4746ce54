//! Signing in and what is a person's own, as a browser meets it; and what another page would have it do.

use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use serde_json::Value;
use valetkey::{
    agent::{self, NewAgent},
    audit, connection,
    grant::{self, Effect, ForWhom, NewGrant},
    id::{ConnectionId, GrantId, SiteId},
    person,
    platform::{self, Asserts, NewKey, Purpose, Scope},
    principal::{Actor, Delivery},
    session,
    site::{self, SiteChange},
};

use crate::{
    pages::{Browser, HTTPS, LOOPBACK, Pages, cookies, csrf, location, of, path, text},
    support::{Answer, on_each_db},
};

/// The platform's origin, and its page that signs people in.
const PLATFORM: &str = "https://platform.example";
pub(crate) const PAGE: &str = "https://platform.example/enter";
/// What a browser says of a form on a page of ours.
pub(crate) const OURS: &[(&str, &str)] = &[("sec-fetch-site", "same-origin"), ("origin", HTTPS)];
const COOKIE: &str = "__Host-vk_session";

impl Pages {
    pub(crate) async fn sqlite() -> Self {
        Self::new(HTTPS).await.with_page().await
    }

    pub(crate) async fn postgres() -> Self {
        Self::on_postgres(HTTPS).await.with_page().await
    }

    async fn with_page(self) -> Self {
        self.change_site(SiteChange { signin_url: Some(PAGE.to_owned()), ..SiteChange::default() }).await;
        self
    }

    /// A person's account at the lab, and an agent's permission to use it.
    pub(crate) async fn connected(&self, user: &str) -> (ConnectionId, GrantId) {
        let link = self.link(of(&format!("user:{user}"))).await;
        self.browser().connect(&link, user, user).await;
        let (base, site) = (self.broker.base(), SiteId::default_site());
        let filter = connection::Filter { owner: Some(format!("user:{user}").parse().unwrap()), ..Default::default() };
        let connection = connection::list(&base.db, &site, &filter).await.unwrap().remove(0).id;
        let new =
            NewAgent { id: None, slug: format!("{user}s-helper"), title: String::new(), owner: Some(user.parse().unwrap()) };
        let agent = agent::create(base, &site, &Actor::Operator, new).await.unwrap().id;
        let new = NewGrant::proxy(&agent, &connection, ForWhom::Owner);
        (connection, grant::create(base, &site, &Actor::Operator, new).await.unwrap().id)
    }

    async fn granted(&self, id: &GrantId) -> bool {
        let grant = grant::get(&self.broker.base().db, &SiteId::default_site(), id).await.unwrap().unwrap();
        grant.revoked_at.is_none()
    }

    async fn alive(&self, id: &ConnectionId) -> bool {
        connection::require(&self.broker.base().db, &SiteId::default_site(), id).await.is_ok()
    }

    async fn audited(&self, action: &str) -> Vec<(String, String, Value)> {
        let rows = audit::list(&self.broker.base().db, &SiteId::default_site(), None, 1000).await.unwrap();
        let rows = rows.into_iter().filter(|row| row.action == action);
        rows.map(|row| (row.actor, row.outcome, serde_json::from_str(&row.facts).unwrap())).collect()
    }

    pub(crate) fn advance(&self, minutes: u64) {
        self.broker.base().clock.advance(Duration::from_secs(minutes * 60));
    }
}

impl Browser<'_> {
    /// Signs in from the platform's page. That is another site, so no cookie of ours comes along.
    pub(crate) async fn enter(&mut self, user: &str, return_to: &str) -> Answer {
        let assertion = self.pages.signin_assertion(user);
        self.enter_from(PLATFORM, &[("assertion", &assertion), ("return_to", return_to)]).await
    }

    async fn enter_from(&mut self, origin: &str, form: &[(&str, &str)]) -> Answer {
        let before = std::mem::take(&mut self.jar);
        let answer = self.post_with("/signin", form, &[("origin", origin), ("sec-fetch-site", "cross-site")]).await;
        for (name, value) in before {
            self.jar.entry(name).or_insert(value);
        }
        answer
    }

    /// Sends a form of a page of ours.
    pub(crate) async fn submit(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.post_with(path, form, OURS).await
    }

    /// The token of this browser's own page.
    async fn token(&mut self) -> String {
        csrf(&self.get("/").await.expect(200))
    }

    async fn is_in(&mut self) -> bool {
        text(&self.get("/").await.expect(200)).contains("You are signed in as")
    }
}

/// Whether a page leads to the platform's page with exactly this way back.
fn leads_to(page: &str, query: &str) -> bool {
    // As the template escapes it.
    page.contains(&format!("href=\"{PAGE}?{}\"", query.replace('&', "&#38;")))
}

on_each_db! {
    async fn a_person_signs_in_sees_what_is_theirs_and_signs_out(pages: Pages) {
        let (connection, _) = pages.connected("alice").await;
        pages.connected("bob").await;
        let mut browser = pages.browser();
        let page = text(&browser.get("/").await.expect(200));
        assert!(leads_to(&page, "return_to=%2F"), "{page}");

        let answer = browser.enter("alice", "/").await.expect(303);
        assert_eq!(location(&answer), "/");
        let answer = browser.get("/").await.expect(200);
        let page = text(&answer);
        for said in ["signed in as <strong>alice</strong>", "Lab", "alices-helper", "for you", connection.as_str(), "connected"] {
            assert!(page.contains(said), "{said:?} is not on: {page}");
        }
        assert!(!page.contains("bob"), "somebody else's is shown: {page}");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("form-action 'self';") && policy.contains("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("script"), "{policy}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(answer.headers[header::REFERRER_POLICY], "same-origin");
        assert!(!page.contains("<script") && !page.contains("src="), "{page}");

        let (kept, token) = (browser.jar.clone(), browser.token().await);
        let answer = browser.submit("/signout", &[("csrf", &token)]).await.expect(303);
        assert!(cookies(&answer)[0].starts_with(&format!("{COOKIE}=; Path=/; Max-Age=0;")), "{:?}", cookies(&answer));
        assert!(!browser.is_in().await);
        browser.jar = kept;
        assert!(!browser.is_in().await, "what the browser held is worth nothing");
    }

    async fn a_person_takes_a_permission_back_and_disconnects_an_account(pages: Pages) {
        let (connection, grant) = pages.connected("alice").await;
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let token = browser.token().await;
        let revoke = format!("/account/grants/{grant}/revoke");
        assert_eq!(location(&browser.submit(&revoke, &[("csrf", &token)]).await.expect(303)), "/");
        assert!(!pages.granted(&grant).await);
        assert!(text(&browser.get("/").await).contains("No agent may use it"));
        browser.submit(&revoke, &[("csrf", &token)]).await.expect(303);

        let disconnect = format!("/account/connections/{connection}/disconnect");
        let page = browser.get(&disconnect).await.expect(200);
        assert!(text(&page).contains("Disconnect this account of Lab?"));
        assert!(pages.alive(&connection).await, "looking ends nothing");
        browser.submit(&disconnect, &[("csrf", &csrf(&page))]).await.expect(303);
        assert!(!pages.alive(&connection).await);
        assert!(text(&browser.get("/").await).contains("You have connected no account yet"));
        for action in ["grant.revoke", "connection.revoke"] {
            assert_eq!(pages.audited(action).await[0].0, "user:alice", "{action}");
        }
    }

    /// The link in a warning of age leads here: it works for as long as the account is there, and asks who is looking.
    async fn a_person_connects_an_account_again_from_a_page_of_their_own(pages: Pages) {
        let (connection, grant) = pages.connected("alice").await;
        let path = format!("/account/connections/{connection}/reconnect");
        let mut browser = pages.browser();
        let page = text(&browser.get(&path).await.expect(403));
        assert!(leads_to(&page, &format!("return_to={}", path.replace('/', "%2F"))), "{page}");
        assert_eq!(location(&browser.enter("alice", &path).await.expect(303)), path);
        let page = browser.get(&path).await.expect(200);
        assert!(text(&page).contains("Connect this account of Lab again?"));
        let links = pages.audited("connect.link").await.len();
        browser.get(&path).await.expect(200);
        assert_eq!(pages.audited("connect.link").await.len(), links, "looking makes no link");

        let made = browser.submit(&path, &[("csrf", &csrf(&page))]).await.expect(303);
        let link = location(&made).to_owned();
        assert!(link.starts_with("/connect/"), "{link}");
        let page = browser.get(&link).await.expect(200);
        let approved = browser.submit(&link, &[("csrf", &csrf(&page)), ("decision", "approve")]).await.expect(303);
        let back = browser.sign_in(&approved, "alice").await;
        browser.get(&back).await.expect(303);
        let said: Vec<_> = pages.audited("connection.connect").await;
        assert_eq!(said.iter().filter(|(_, _, facts)| facts["again"] == true).count(), 1, "{said:?}");
        assert!(pages.connections().await == 1 && pages.alive(&connection).await && pages.granted(&grant).await);

        // Somebody else's is not there.
        let mut bob = pages.browser();
        bob.enter("bob", "/").await.expect(303);
        let token = bob.token().await;
        bob.get(&path).await.expect(404);
        bob.submit(&path, &[("csrf", &token)]).await.expect(404);
        bob.get("/account/connections/x/reconnect").await.expect(404);
    }

    /// A denial that is for a part must not read as if it were for everything.
    async fn a_persons_page_says_what_a_permission_is_about_and_no_more(pages: Pages) {
        let (connection, allows) = pages.connected("alice").await;
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let agent = grant::get(&base.db, &site, &allows).await.unwrap().unwrap().agent;
        let plain = || NewGrant::proxy(&agent, &connection, ForWhom::Anyone);
        let denial = || NewGrant { effect: Effect::Deny, ..plain() };
        let tonight = NewGrant {
            for_whom: ForWhom::Owner, session: Some("night".parse().unwrap()), task: Some("digest".parse().unwrap()),
            rate: Some("5/1h".parse().unwrap()), ..plain()
        };
        for new in [
            denial(),
            NewGrant { delivery: [Delivery::Reveal].into(), ..denial() },
            NewGrant { delivery: [Delivery::Proxy, Delivery::Reveal].into(), ..denial() },
            tonight,
        ] {
            grant::create(base, &site, &Actor::Operator, new).await.unwrap();
        }
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let page = text(&browser.get("/").await.expect(200));
        for said in [
            "for you, without seeing the account",
            "may not make calls with it for anyone",
            "may not be shown its token for anyone",
            "may not use it for anyone",
            "; only in its session night; only for its task digest; at most 5/1h",
        ] {
            assert!(page.contains(said), "{said:?} is not on: {page}");
        }
    }

    /// A permission that asks or denies holds the others back: to take it away is to give, and that needs a fresh proof.
    async fn what_holds_others_back_is_taken_away_by_a_fresh_proof_only(pages: Pages) {
        let (connection, allows) = pages.connected("alice").await;
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let agent = grant::get(&base.db, &site, &allows).await.unwrap().unwrap().agent;
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        for (effect, for_whom) in [(Effect::Deny, ForWhom::Anyone), (Effect::Ask, ForWhom::Owner)] {
            let new = NewGrant { effect, ..NewGrant::proxy(&agent, &connection, for_whom) };
            let held = grant::create(base, &site, &Actor::Operator, new).await.unwrap().id;
            let path = format!("/account/grants/{held}/revoke");
            pages.advance(6);
            let token = browser.token().await;
            let answer = browser.submit(&path, &[("csrf", &token)]).await.expect(403);
            assert!(leads_to(&text(&answer), "return_to=%2F&fresh=1") && pages.granted(&held).await, "{effect:?}");
            browser.enter("alice", "/").await.expect(303);
            let token = browser.token().await;
            browser.submit(&path, &[("csrf", &token)]).await.expect(303);
            assert!(!pages.granted(&held).await, "{effect:?}");
        }
        // To take away what allows is no danger.
        pages.advance(6);
        let token = browser.token().await;
        browser.submit(&format!("/account/grants/{allows}/revoke"), &[("csrf", &token)]).await.expect(303);
        assert!(!pages.granted(&allows).await);
    }

    /// What a session is known by cannot be read by a script, set by another host, or sent by another site's form.
    async fn the_sessions_cookie_is_the_browsers_alone(pages: Pages) {
        let mut browser = pages.browser();
        let answer = browser.enter("alice", "/").await.expect(303);
        let [cookie]: [String; 1] = cookies(&answer).try_into().unwrap();
        let (pair, attributes) = cookie.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; Max-Age=28800; HttpOnly; SameSite=Lax; Secure");
        let value = pair.strip_prefix(&format!("{COOKIE}=")).unwrap();
        assert_eq!(value.len(), 43);
        assert!(!text(&browser.get("/").await).contains(value), "a page shows it");
        // What is sent twice was set by somebody else too, and counts as none.
        for sent in [format!("{COOKIE}={value}; {COOKIE}=x"), format!("vk_session={value}"), format!("{COOKIE}={value}x")] {
            let request = Request::get("/").header(header::COOKIE, sent.clone());
            let page = pages.browser().send(request, Body::empty()).await.expect(200);
            assert!(!text(&page).contains("You are signed in as"), "{sent}");
        }
    }

    /// Session fixation: what a browser brings along never becomes a session.
    async fn a_session_is_never_one_that_was_there_before(pages: Pages) {
        let planted = "A".repeat(43);
        let mut victim = pages.browser();
        victim.jar.insert(COOKIE.to_owned(), planted.clone());
        assert!(!victim.is_in().await);
        // Also where the platform is of our site, so that the browser sends the cookie.
        let assertion = pages.signin_assertion("alice");
        let from = [("origin", PLATFORM), ("sec-fetch-site", "same-site")];
        victim.post_with("/signin", &[("assertion", &assertion)], &from).await.expect(303);
        let first = victim.jar[COOKIE].clone();
        assert_ne!(first, planted);
        let mut thief = pages.browser();
        thief.jar.insert(COOKIE.to_owned(), planted);
        assert!(!thief.is_in().await && victim.is_in().await);

        // A fresh proof is a fresh session, and the one before is over.
        let assertion = pages.signin_assertion("alice");
        victim.post_with("/signin", &[("assertion", &assertion)], &from).await.expect(303);
        assert_ne!(victim.jar[COOKIE], first);
        thief.jar.insert(COOKIE.to_owned(), first);
        assert!(!thief.is_in().await && victim.is_in().await);
    }

    async fn a_replayed_assertion_signs_nobody_in(pages: Pages) {
        let assertion = pages.signin_assertion("alice");
        pages.browser().enter_from(PLATFORM, &[("assertion", &assertion)]).await.expect(303);
        let mut thief = pages.browser();
        let answer = thief.enter_from(PLATFORM, &[("assertion", &assertion)]).await.expect(401);
        assert!(text(&answer).contains("unauthenticated") && !text(&answer).contains(&assertion));
        assert!(thief.jar.is_empty() && !thief.is_in().await);
    }

    /// Login CSRF: a page of somebody's own would have a browser signed in as somebody else.
    async fn only_the_platforms_page_signs_a_browser_in(pages: Pages) {
        let mut victim = pages.browser();
        for origin in
            ["https://evil.example", "null", "https://platform.example.evil.example", "http://platform.example", HTTPS]
        {
            let assertion = pages.signin_assertion("mallory");
            let answer = victim.enter_from(origin, &[("assertion", &assertion)]).await.expect(403);
            assert!(cookies(&answer).is_empty(), "{origin}");
        }
        let assertion = pages.signin_assertion("mallory");
        for headers in [
            &[][..],
            &[("origin", PLATFORM), ("origin", PLATFORM)],
            &[("origin", PLATFORM), ("origin", "https://evil.example")],
        ] {
            let answer = victim.post_with("/signin", &[("assertion", &assertion)], headers).await.expect(403);
            assert!(cookies(&answer).is_empty(), "{headers:?}");
        }
        assert!(!victim.is_in().await);
        // None of it used the assertion up.
        victim.enter_from(PLATFORM, &[("assertion", &assertion)]).await.expect(303);
    }

    /// An open redirect would lend our name to whoever writes a link.
    async fn the_way_back_leads_nowhere_else(pages: Pages) {
        let assertion = pages.signin_assertion("alice");
        let mut browser = pages.browser();
        for place in [
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/.//evil.example",
            "/x/..//evil.example",
            "/\t/evil.example",
            "javascript:alert(1)",
            "evil",
            "https:evil.example",
            "https://keys.example.test@evil.example/",
        ] {
            let answer = browser.enter_from(PLATFORM, &[("assertion", &assertion), ("return_to", place)]).await.expect(400);
            assert!(!answer.headers.contains_key(header::LOCATION) && cookies(&answer).is_empty(), "{place:?}");
        }
        let twice = [("assertion", assertion.as_str()), ("return_to", "/"), ("return_to", "//evil.example")];
        browser.enter_from(PLATFORM, &twice).await.expect(400);
        let answer = browser.enter_from(PLATFORM, &[("assertion", &assertion), ("return_to", "/connect/done?outcome=x")]).await;
        assert_eq!(location(&answer.expect(303)), "/connect/done?outcome=x");
        let answer = browser.enter("alice", "").await.expect(303);
        assert_eq!(location(&answer), "/", "without a place it is the person's own page");
        // The pages themselves do not lend it either.
        let page = text(&pages.browser().get("/signin?return_to=https%3A%2F%2Fevil.example").await.expect(403));
        assert!(leads_to(&page, "return_to=%2F") && !page.contains("evil"), "{page}");
    }

    /// CSRF: every form of a signed-in person's pages, in every way in which another page could send it.
    async fn every_form_refuses_what_did_not_come_from_our_page(pages: Pages) {
        let (connection, grant) = pages.connected("alice").await;
        let (mut alice, mut elsewhere, mut bob) = (pages.browser(), pages.browser(), pages.browser());
        for (browser, user) in [(&mut alice, "alice"), (&mut elsewhere, "alice"), (&mut bob, "bob")] {
            browser.enter(user, "/").await.expect(303);
        }
        let token = alice.token().await;
        let (of_another, of_bob) = (elsewhere.token().await, bob.token().await);
        assert!(token != of_another && token != of_bob);
        let forms = [
            format!("/account/grants/{grant}/revoke"),
            format!("/account/connections/{connection}/reconnect"),
            format!("/account/connections/{connection}/disconnect"),
            "/signout".to_owned(),
        ];
        for form in &forms {
            let uppercase = token.to_uppercase();
            for wrong in ["", "x", &token[1..], uppercase.as_str(), of_another.as_str(), of_bob.as_str()] {
                alice.submit(form, &[("csrf", wrong)]).await.expect(403);
            }
            alice.submit(form, &[]).await.expect(403);
            alice.submit(form, &[("csrf", &token), ("csrf", &token)]).await.expect(400);
            for headers in [
                &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
                &[("sec-fetch-site", "same-site"), ("origin", "https://other.example.test")],
                &[("sec-fetch-site", "cross-site"), ("origin", HTTPS)],
                &[("sec-fetch-site", "none")],
                &[("origin", "https://evil.example")],
                &[("origin", "null")],
                &[("origin", PLATFORM)],
                &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
            ] {
                alice.post_with(form, &[("csrf", &token)], headers).await.expect(403);
            }
            // Other kinds of body, which another page can send without asking.
            for kind in ["text/plain", "multipart/form-data; boundary=x", "application/json"] {
                let cookie = format!("{COOKIE}={}", alice.jar[COOKIE]);
                let request = Request::post(form.as_str()).header(header::CONTENT_TYPE, kind).header(header::COOKIE, cookie);
                let answer = pages.browser().send(request, Body::from(format!("csrf={token}"))).await;
                assert_eq!(answer.status.as_u16(), 400, "{kind}");
            }
            // A look changes nothing.
            assert_ne!(alice.get(&format!("{form}?csrf={token}")).await.status.as_u16(), 303);
            // Without the cookie, as another site's form comes, there is nobody.
            let answer = pages.browser().post_with(form, &[("csrf", &token)], OURS).await.expect(403);
            assert!(text(&answer).contains("Sign in at your platform"));
        }
        assert!(pages.granted(&grant).await && pages.alive(&connection).await && alice.is_in().await);
        let denied = pages.audited("session.form").await;
        assert!(denied.len() > 40 && denied.iter().all(|(actor, outcome, _)| actor == "user:alice" && outcome == "denied"));
        for form in &forms {
            alice.submit(form, &[("csrf", &token)]).await.expect(303);
        }
        assert!(!pages.granted(&grant).await && !pages.alive(&connection).await && !alice.is_in().await);
    }

    async fn nobody_ends_what_is_somebody_elses(pages: Pages) {
        let (connection, grant) = pages.connected("alice").await;
        let mut bob = pages.browser();
        bob.enter("bob", "/").await.expect(303);
        let token = bob.token().await;
        let disconnect = format!("/account/connections/{connection}/disconnect");
        bob.get(&disconnect).await.expect(404);
        for path in [disconnect.as_str(), &format!("/account/grants/{grant}/revoke")] {
            bob.submit(path, &[("csrf", &token)]).await.expect(404);
        }
        for path in ["/account/connections/x/disconnect", "/account/grants/x/revoke", "/account/grants/%00/revoke"] {
            bob.submit(path, &[("csrf", &token)]).await.expect(404);
        }
        assert!(pages.granted(&grant).await && pages.alive(&connection).await);
    }

    async fn what_is_dangerous_asks_for_a_fresh_proof(pages: Pages) {
        let (connection, _) = pages.connected("alice").await;
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let disconnect = format!("/account/connections/{connection}/disconnect");
        browser.get(&disconnect).await.expect(200);
        pages.advance(6);
        let back = disconnect.replace('/', "%2F");
        let page = text(&browser.get(&disconnect).await.expect(403));
        assert!(leads_to(&page, &format!("return_to={back}&fresh=1")), "{page}");
        let token = browser.token().await;
        let refused = browser.submit(&disconnect, &[("csrf", &token)]).await.expect(403);
        assert!(leads_to(&text(&refused), &format!("return_to={back}&fresh=1")));
        assert!(pages.alive(&connection).await && browser.is_in().await);

        assert_eq!(location(&browser.enter("alice", &disconnect).await.expect(303)), disconnect);
        let page = browser.get(&disconnect).await.expect(200);
        browser.submit(&disconnect, &[("csrf", &csrf(&page))]).await.expect(303);
        assert!(!pages.alive(&connection).await);
    }

    async fn a_session_ends_at_once_with_whatever_it_stood_on(pages: Pages) {
        let (base, site) = (pages.broker.base().clone(), SiteId::default_site());
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        session::close_all(&base, &site, &Actor::Operator, &"alice".parse().unwrap()).await.unwrap();
        assert!(!browser.is_in().await, "signed out by the operator");
        browser.enter("alice", "/").await.expect(303);
        person::set_disabled(&base, &site, &Actor::Operator, &"alice".parse().unwrap(), true).await.unwrap();
        assert!(!browser.is_in().await, "disabled");
        browser.enter("alice", "/").await.expect(403);
        person::set_disabled(&base, &site, &Actor::Operator, &"alice".parse().unwrap(), false).await.unwrap();
        browser.enter("alice", "/").await.expect(303);
        platform::revoke(&base, &site, &Actor::Operator, pages.platform_key()).await.unwrap();
        assert!(!browser.is_in().await, "the platform's key is revoked");
    }

    async fn signing_out_everywhere_ends_the_persons_other_browsers(pages: Pages) {
        let (mut one, mut two, mut bob) = (pages.browser(), pages.browser(), pages.browser());
        for (browser, user) in [(&mut one, "alice"), (&mut two, "alice"), (&mut bob, "bob")] {
            browser.enter(user, "/").await.expect(303);
        }
        let token = one.token().await;
        one.submit("/signout", &[("csrf", &token), ("everywhere", "1")]).await.expect(303);
        assert!(!one.is_in().await && !two.is_in().await && bob.is_in().await);
    }

    /// Decisions 6: a session of the owner's proves whose browser opens a link; anybody else's does not.
    async fn a_session_of_the_owners_opens_their_link(pages: Pages) {
        let (mut alice, mut bob) = (pages.browser(), pages.browser());
        alice.enter("alice", "/").await.expect(303);
        bob.enter("bob", "/").await.expect(303);
        let link = pages.link(of("user:alice")).await;
        let page = text(&bob.get(&path(&link)).await.expect(200));
        assert!(page.contains("Start at your platform") && !page.contains("<form"), "{page}");
        assert!(leads_to(&page, &format!("return_to={}", path(&link).replace('/', "%2F"))), "{page}");

        let page = alice.get(&path(&link)).await.expect(200);
        assert!(text(&page).contains("Your platform says that you are"), "{}", text(&page));
        let again = alice.get(&path(&link)).await.expect(200);
        assert_eq!(csrf(&again), csrf(&page), "looking again is the same visit");
        let approved = alice.approve(&link, &page).await.expect(303);
        let back = alice.sign_in(&approved, "alice").await;
        assert_eq!(location(&alice.get(&back).await.expect(303)), "/connect/done?outcome=connected&provider=lab");
        assert_eq!(pages.connections().await, 1);
        assert_eq!(pages.audited("connect.prove").await[0].0, "user:alice");
    }

    async fn a_session_at_another_site_proves_nothing_here(pages: Pages) {
        let (base, other): (_, SiteId) = (pages.broker.base(), "other".parse().unwrap());
        site::create(base, &Actor::Operator, &other, "Other").await.unwrap();
        let change = SiteChange { signin_url: Some("https://other.example/enter".to_owned()), ..SiteChange::default() };
        site::change(base, &Actor::Operator, &other, change).await.unwrap();
        let new = NewKey { label: String::new(), scopes: [Scope::Signin].into(), asserts: Asserts::Any, expires_at: None };
        let key = platform::create(base, &other, &Actor::Operator, new).await.unwrap();
        let sign = || {
            let (user, now) = ("alice".parse().unwrap(), base.clock.now());
            platform::sign_for(&key.key.id, &key.assertion_secret, &user, Purpose::SignIn, now).unwrap()
        };
        let (connection, grant) = pages.connected("alice").await;
        let mut browser = pages.browser();
        // Each site's people come from its own page.
        browser.enter_from(PLATFORM, &[("assertion", sign().expose())]).await.expect(403);
        browser.enter_from("https://other.example", &[("assertion", sign().expose())]).await.expect(303);
        let page = text(&browser.get("/").await.expect(200));
        assert!(page.contains("at Other") && !page.contains(connection.as_str()), "{page}");
        let token = browser.token().await;
        browser.submit(&format!("/account/grants/{grant}/revoke"), &[("csrf", &token)]).await.expect(404);
        let link = pages.link(of("user:alice")).await;
        assert!(text(&browser.get(&path(&link)).await.expect(200)).contains("Start at your platform"));
        // With two sites nobody is told of either, unless they name it.
        let stranger = text(&pages.browser().get("/").await.expect(200));
        assert!(!stranger.contains("example/enter"), "{stranger}");
        let named = text(&pages.browser().get("/signin?site=other").await.expect(403));
        assert!(named.contains("https://other.example/enter?return_to=%2F"), "{named}");
    }

    /// Cookies count on pages only: nothing that a page makes a browser send does anything under `/v1`.
    async fn the_api_takes_no_cookie(pages: Pages) {
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        for path in ["/v1/connections", "/v1/me", "/v1/people/alice/sessions"] {
            browser.get(path).await.expect(401);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_the_cookie_goes_without_what_plain_http_refuses() {
    let pages = Pages::new(LOOPBACK).await.with_page().await;
    let answer = pages.browser().enter("alice", "/").await.expect(303);
    let cookie = cookies(&answer).remove(0);
    assert!(cookie.starts_with("vk_session=") && cookie.ends_with("; HttpOnly; SameSite=Lax"), "{cookie}");
}
