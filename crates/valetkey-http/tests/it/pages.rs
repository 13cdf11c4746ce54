//! The pages of connecting, as a browser meets them.

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Fault, Lab, Rule};
use serde_json::json;
use tower::ServiceExt as _;
use url::form_urlencoded;
use valetkey::{
    Broker, Settings,
    agent::{self, NewAgent},
    app_config,
    clock::{Clock, Timestamp},
    connect::session::{self, Created, NewSession},
    connection,
    db::{DbConfig, testing},
    id::{PlatformKeyId, SiteId},
    platform::{self, Asserts, Minted, NewKey, Purpose, Scope},
    principal::{Actor, Owner},
    provider::Trust,
    seal::{RootKey, RootSource},
    secret::Secret,
    site::{self, SiteChange},
    upstream::Limits,
};
use valetkey_http::{AppState, HttpSettings};

use crate::support::Answer;

pub(crate) const LOOPBACK: &str = "http://127.0.0.1:7777";
pub(crate) const HTTPS: &str = "https://keys.example.test";

/// A broker behind its router, a lab beside it.
pub(crate) struct Pages {
    pub(crate) broker: Broker,
    pub(crate) router: Router,
    pub(crate) lab: Lab,
    platform: Minted,
    _dir: tempfile::TempDir,
}

impl Pages {
    pub(crate) async fn new(public: &str) -> Self {
        Self::with_definition(public, |definition| definition).await
    }

    /// The same with more of what the lab can do.
    pub(crate) async fn with(public: &str, options: &DefinitionOptions) -> Self {
        Self::on_sqlite(public, options, |definition| definition).await
    }

    /// With another definition of the lab than the one it prints.
    pub(crate) async fn with_definition(public: &str, change: impl Fn(String) -> String) -> Self {
        Self::on_sqlite(public, &DefinitionOptions::default(), change).await
    }

    pub(crate) async fn on_sqlite(public: &str, options: &DefinitionOptions, change: impl Fn(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = DbConfig::Sqlite { dir: dir.path().join("data"), patience: Duration::from_secs(5) };
        Self::start(db, dir, public, |lab| change(lab.definition(options))).await
    }

    pub(crate) async fn on_postgres(public: &str) -> Self {
        let db = DbConfig::Postgres { url: Secret::new(testing::postgres_url().await), max_connections: 8 };
        Self::start(db, tempfile::tempdir().unwrap(), public, |lab| lab.definition_toml()).await
    }

    async fn start(db: DbConfig, dir: tempfile::TempDir, public: &str, definition: impl Fn(&Lab) -> String) -> Self {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let folder = dir.path().join("providers");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lab.toml"), definition(&lab)).unwrap();
        std::fs::write(folder.join("blue.toml"), lab.session_definition()).unwrap();
        let signed = DefinitionOptions { oauth1: Some("HMAC-SHA1".to_owned()), ..DefinitionOptions::default() };
        std::fs::write(folder.join("signed.toml"), lab.definition(&signed)).unwrap();
        let root = RootSource::Text(RootKey::generate().unwrap().to_line());
        let mut settings = Settings::new(db, root, public.parse().unwrap());
        settings.clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        settings.trust = Trust::Dev;
        settings.providers = Some(folder);
        settings.upstream.allow_private = vec![lab.addr().to_string().parse().unwrap()];
        let broker = Broker::start(settings).await.unwrap().broker;
        let router = valetkey_http::router(AppState::new(broker.clone(), HttpSettings::default()).unwrap());
        let (base, site) = (broker.base(), SiteId::default_site());
        for name in ["lab", "signed"] {
            let definition = broker.outside().definition(&name.parse().unwrap()).unwrap();
            let values = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
            let values = values.as_object().unwrap();
            app_config::set(base, &site, &Actor::Operator, &definition, &Owner::Site, values).await.unwrap();
        }
        let scopes = [Scope::Connect, Scope::Signin].into();
        let new = NewKey { label: String::new(), scopes, asserts: Asserts::Any, expires_at: None };
        let platform = platform::create(base, &site, &Actor::Operator, new).await.unwrap();
        Self { broker, router, lab, platform, _dir: dir }
    }

    pub(crate) async fn link(&self, new: NewSession) -> Created {
        session::create(self.broker.outside(), &SiteId::default_site(), &Actor::Operator, new).await.unwrap()
    }

    pub(crate) fn assertion(&self, link: &Created, user: &str) -> String {
        let (key, now) = (&self.platform, self.broker.base().clock.now());
        let signed = platform::sign(&key.key.id, &key.assertion_secret, &user.parse().unwrap(), &link.id, now);
        signed.unwrap().expose().to_owned()
    }

    /// The platform's word by which a person signs in.
    pub(crate) fn signin_assertion(&self, user: &str) -> String {
        let (key, now) = (&self.platform, self.broker.base().clock.now());
        let signed = platform::sign_for(&key.key.id, &key.assertion_secret, &user.parse().unwrap(), Purpose::SignIn, now);
        signed.unwrap().expose().to_owned()
    }

    /// The id of the platform's key.
    pub(crate) fn platform_key(&self) -> &PlatformKeyId {
        &self.platform.key.id
    }

    pub(crate) async fn change_site(&self, change: SiteChange) {
        site::change(self.broker.base(), &Actor::Operator, &SiteId::default_site(), change).await.unwrap();
    }

    pub(crate) async fn connections(&self) -> usize {
        let filter = connection::Filter::default();
        connection::list(&self.broker.base().db, &SiteId::default_site(), &filter).await.unwrap().len()
    }

    fn token_requests(&self) -> u64 {
        self.lab.requests("token.authorization_code")
    }

    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser { pages: self, jar: BTreeMap::new() }
    }
}

/// A browser: it keeps cookies and shows pages, and follows a redirect only when told to.
pub(crate) struct Browser<'p> {
    pub(crate) pages: &'p Pages,
    pub(crate) jar: BTreeMap<String, String>,
}

impl Browser<'_> {
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), Body::empty()).await
    }

    pub(crate) async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.post_with(path, form, &[]).await
    }

    /// A form with what a browser says of where it comes from.
    pub(crate) async fn post_with(&mut self, path: &str, form: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, Body::from(body)).await
    }

    pub(crate) async fn send(&mut self, mut request: http::request::Builder, body: Body) -> Answer {
        if !self.jar.is_empty() {
            let cookies: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let response = self.pages.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        for cookie in parts.headers.get_all(header::SET_COOKIE) {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    /// Opens a person's link as the platform's page does it. The consent page.
    pub(crate) async fn open(&mut self, link: &Created, user: &str) -> Answer {
        let assertion = self.pages.assertion(link, user);
        let answer = self.post(&path(link), &[("assertion", &assertion)]).await.expect(303);
        assert_eq!(location(&answer), path(link));
        self.get(&path(link)).await.expect(200)
    }

    /// Says yes on the consent page.
    pub(crate) async fn approve(&mut self, link: &Created, page: &Answer) -> Answer {
        self.post(&path(link), &[("csrf", &csrf(page)), ("decision", "approve")]).await
    }

    /// From a session to the provider and back to our callback: its path and query.
    pub(crate) async fn sign_in(&mut self, approved: &Answer, person: &str) -> String {
        let url = format!("{}&auto_approve={person}", location(approved));
        let request = Request::get(url).body(Bytes::new()).unwrap();
        let outside = self.pages.broker.outside();
        let answer = outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
        let back = answer.headers[header::LOCATION].to_str().unwrap().to_owned();
        let ours = outside.public_url.as_str().trim_end_matches('/');
        back.strip_prefix(ours).unwrap_or_else(|| panic!("not our callback: {back}")).to_owned()
    }

    /// All of it, for a person at the lab; the answer of the callback.
    pub(crate) async fn connect(&mut self, link: &Created, user: &str, person: &str) -> Answer {
        let page = self.open(link, user).await;
        let approved = self.approve(link, &page).await.expect(303);
        let back = self.sign_in(&approved, person).await;
        self.get(&back).await.expect(303)
    }
}

pub(crate) fn path(link: &Created) -> String {
    format!("/connect/{}", link.link.expose())
}

pub(crate) fn location(answer: &Answer) -> &str {
    answer.headers[header::LOCATION].to_str().unwrap()
}

pub(crate) fn text(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.clone()).unwrap()
}

pub(crate) fn csrf(page: &Answer) -> String {
    let page = text(page);
    let rest = page.split("name=\"csrf\" value=\"").nth(1).unwrap_or_else(|| panic!("no form: {page}"));
    rest.split('"').next().unwrap().to_owned()
}

pub(crate) fn cookies(answer: &Answer) -> Vec<String> {
    answer.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

pub(crate) fn of(owner: &str) -> NewSession {
    NewSession::new("lab".parse().unwrap(), owner.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_links_an_account_on_sqlite() {
    a_person_links_an_account(Pages::new(LOOPBACK).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_links_an_account_on_postgres() {
    a_person_links_an_account(Pages::on_postgres(LOOPBACK).await).await;
}

/// The whole way: the platform's word, the page, the answer, the provider, the callback, the outcome.
async fn a_person_links_an_account(pages: Pages) {
    let mut browser = pages.browser();
    let link = pages.link(of("user:alice")).await;
    let answer = browser.connect(&link, "alice", "alice").await;
    assert_eq!(location(&answer), "/connect/done?outcome=connected&provider=lab");
    let done = browser.get("/connect/done?outcome=connected&provider=lab").await.expect(200);
    assert!(text(&done).contains("The account of Lab is linked"));
    assert_eq!(pages.connections().await, 1);
    assert!(browser.jar.is_empty(), "cookies stayed: {:?}", browser.jar);
    // The link is dead now.
    let page = browser.get(&path(&link)).await.expect(404);
    assert!(text(&page).contains("not_found"));
}

/// R20: the browser goes on to the exact place of the session, and nothing of the provider's answer stays in its URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_leaves_the_url() {
    let pages = Pages::new(LOOPBACK).await;
    let listed = "https://p.example/done?keep=%2Fthis";
    pages.change_site(SiteChange { return_to: Some(vec![listed.into()]), ..SiteChange::default() }).await;
    let mut new = of("user:alice");
    new.return_to = Some(listed.into());
    let link = pages.link(new.clone()).await;
    let answer = pages.browser().connect(&link, "alice", "alice").await;
    let location = location(&answer);
    assert!(location.starts_with(&format!("{listed}&auth_success=1&provider=lab&connection=con_")), "{location}");
    assert!(!location.contains("code=") && !location.contains("state=") && !location.contains("lab_"));

    pages.lab.misbehave(Rule::once(At::Code, Fault::oauth("invalid_grant")));
    let link = pages.link(new).await;
    let answer = pages.browser().connect(&link, "alice", "alice").await;
    assert_eq!(self::location(&answer), format!("{listed}&auth_error=token_exchange_failed&provider=lab"));
}

fn of_signed(owner: &str) -> NewSession {
    NewSession { provider: "signed".parse().unwrap(), ..of(owner) }
}

/// The same pages, cookies and callback for OAuth 1.0a, where the browser is known by the temporary token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_links_an_account_by_oauth1() {
    let pages = Pages::new(HTTPS).await;
    let (mut browser, mut other) = (pages.browser(), pages.browser());
    let link = pages.link(of_signed("user:alice")).await;
    let page = browser.open(&link, "alice").await;
    let approved = browser.approve(&link, &page).await.expect(303);
    let cookie = cookies(&approved).into_iter().find(|cookie| !cookie.contains("Max-Age=0")).unwrap();
    assert!(cookie.starts_with("__Host-") && cookie.contains("Secure") && cookie.contains("HttpOnly"), "{cookie}");
    let back = browser.sign_in(&approved, "alice").await;
    let expired = "/connect/done?outcome=token_secret_expired&provider=signed";
    assert_eq!(location(&other.get(&back).await.expect(303)), expired);
    assert_eq!(location(&browser.get(&back).await.expect(303)), "/connect/done?outcome=connected&provider=signed");
    assert_eq!(pages.connections().await, 1);
    assert!(browser.jar.is_empty(), "cookies stayed: {:?}", browser.jar);
    assert_eq!(location(&browser.get(&back).await.expect(303)), expired);
}

/// Each outcome of OAuth 1.0a has words of its own, and reaches `return_to` by its code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_of_oauth1_reaches_the_place_that_the_session_names() {
    let pages = Pages::new(LOOPBACK).await;
    let listed = "https://p.example/done";
    pages.change_site(SiteChange { return_to: Some(vec![listed.into()]), ..SiteChange::default() }).await;
    for (at, fault, code) in [
        (At::Authorize, Fault::Deny { error: "access_denied".into() }, "access_denied"),
        (At::Authorize, Fault::omit("oauth_verifier"), "missing_parameters"),
        (At::VerifiedToken, Fault::status(503), "access_token_failed"),
    ] {
        pages.lab.misbehave(Rule::once(at, fault));
        let link = pages.link(NewSession { return_to: Some(listed.into()), ..of_signed("user:alice") }).await;
        let answer = pages.browser().connect(&link, "alice", "alice").await;
        assert_eq!(location(&answer), format!("{listed}?auth_error={code}&provider=signed"));
    }
    let mut browser = pages.browser();
    for code in ["access_denied", "missing_parameters", "token_secret_expired", "access_token_failed"] {
        let done = browser.get(&format!("/connect/done?outcome={code}&provider=signed")).await.expect(200);
        assert!(!text(&done).contains("Something went wrong here"), "{code} has no words");
    }
    pages.lab.misbehave(Rule::once(At::TemporaryToken, Fault::omit("oauth_callback_confirmed")));
    let link = pages.link(of_signed("user:alice")).await;
    let page = browser.open(&link, "alice").await;
    let refused = browser.approve(&link, &page).await.expect(502);
    assert!(text(&refused).contains("request_token_failed") && text(&refused).contains("your link still works"));
    browser.approve(&link, &page).await.expect(303);
}

/// R20, R25: what every answer here carries, and that no page holds a script or anything from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_guarded() {
    let pages = Pages::new(LOOPBACK).await;
    let mut browser = pages.browser();
    let (mine, sites, bare) =
        (pages.link(of("user:alice")).await, pages.link(of("site")).await, pages.link(of("user:bob")).await);
    let consent = browser.open(&mine, "alice").await;
    let approved = browser.approve(&mine, &consent).await.expect(303);
    let back = browser.sign_in(&approved, "alice").await;
    let answers = [
        browser.get("/").await.expect(200),
        browser.get(&path(&sites)).await.expect(200),
        browser.get(&path(&bare)).await.expect(200),
        browser.get("/connect/unknown").await.expect(404),
        browser.get("/connect/done?outcome=invalid_state").await.expect(200),
        browser.get("/connect/done?outcome=x").await.expect(404),
        browser.post(&path(&bare), &[("assertion", "x")]).await.expect(401),
        browser.post(&path(&bare), &[]).await.expect(400),
        browser.post(&path(&bare), &[("assertion", &"x".repeat(80_000))]).await.expect(413),
        browser.get(&back).await.expect(303),
        browser.get("/callback/lab?state=x").await.expect(303),
        browser.get("/callback/No%20Such").await.expect(303),
        browser.get("/connect/%ff").await.expect(400),
        consent,
        approved,
    ];
    for answer in answers {
        let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action "] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"));
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        let page = text(&answer);
        assert!(!page.contains("<script") && !page.contains("onclick") && !page.contains("src="), "{page}");
        for link in page.split("href=\"").skip(1) {
            assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
        }
    }
}

/// R4: the flow's binding is set after the person's word and not before, and it cannot be read, set or sent by others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binding_comes_after_the_persons_word() {
    for (public, prefix, secure) in [(HTTPS, "__Host-", true), (LOOPBACK, "", false)] {
        let pages = Pages::new(public).await;
        let mut browser = pages.browser();
        let link = pages.link(of("user:alice")).await;
        let consent = browser.open(&link, "alice").await;
        assert!(browser.jar.keys().all(|name| !name.contains("flow")), "{:?}", browser.jar);
        assert_eq!(browser.jar.len(), 1);
        let visit = browser.jar.keys().next().unwrap().clone();
        assert!(visit.starts_with(&format!("{prefix}vk_visit_")), "{visit}");
        assert!(cookies(&consent).is_empty());
        let approved = browser.approve(&link, &consent).await.expect(303);
        let set = cookies(&approved);
        let flow = set.iter().find(|cookie| cookie.starts_with(&format!("{prefix}vk_flow_"))).unwrap();
        for attribute in ["; Path=/;", "; HttpOnly", "; SameSite=Lax", "; Max-Age=900;"] {
            assert!(flow.contains(attribute), "{flow}");
        }
        assert_eq!(flow.contains("; Secure"), secure);
        assert!(!flow.contains("Domain"));
        assert!(set.iter().any(|cookie| cookie.starts_with(&format!("{visit}=;"))), "the visit is over");
    }
}

/// R3: the callback in another browser is refused, no token request is sent, and the first browser goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callback_in_another_browser_is_refused() {
    let pages = Pages::new(LOOPBACK).await;
    let mut mine = pages.browser();
    let link = pages.link(of("user:alice")).await;
    let consent = mine.open(&link, "alice").await;
    let approved = mine.approve(&link, &consent).await.expect(303);
    let back = mine.sign_in(&approved, "alice").await;

    let mut other = pages.browser();
    let answer = other.get(&back).await.expect(303);
    assert_eq!(location(&answer), "/connect/done?outcome=invalid_state&provider=lab");
    // Nor with the right name and another value, nor with two of them.
    let (name, value) = mine.jar.iter().next().map(|(name, value)| (name.clone(), value.clone())).unwrap();
    for cookie in [format!("{name}=x"), format!("{name}={value}; {name}=x"), format!("{name}x={value}")] {
        let request = Request::get(&back).header(header::COOKIE, cookie);
        let answer = pages.browser().send(request, Body::empty()).await.expect(303);
        assert_eq!(location(&answer), "/connect/done?outcome=invalid_state&provider=lab");
    }
    assert_eq!(pages.token_requests(), 0);
    let answer = mine.get(&back).await.expect(303);
    assert_eq!(location(&answer), "/connect/done?outcome=connected&provider=lab");
}

/// R16: of another issuer's error nothing is shown, and nothing of it is in the URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_another_issuer_is_not_shown() {
    let pages = Pages::new(LOOPBACK).await;
    pages.lab.misbehave(Rule::once(At::Authorize, Fault::Deny { error: "access_denied".into() }));
    pages.lab.misbehave(Rule::once(At::Authorize, Fault::set("iss", "https://evil.example")));
    let link = pages.link(of("user:alice")).await;
    let mut browser = pages.browser();
    let answer = browser.connect(&link, "alice", "alice").await;
    assert_eq!(location(&answer), "/connect/done?outcome=issuer_mismatch&provider=lab");
    let page = browser.get(location(&answer)).await.expect(200);
    assert!(!text(&page).contains("denied") && !text(&page).contains("evil"));
}

/// R21: an answer that names a parameter twice is refused and uses nothing up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_a_parameter_twice_is_refused() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(of("user:alice")).await;
    let mut browser = pages.browser();
    let consent = browser.open(&link, "alice").await;
    let approved = browser.approve(&link, &consent).await.expect(303);
    let back = browser.sign_in(&approved, "alice").await;
    for more in ["code=x", "state=x", "iss=x", "%73tate=x"] {
        let answer = browser.get(&format!("{back}&{more}")).await.expect(303);
        assert_eq!(location(&answer), "/connect/done?outcome=invalid_request");
    }
    assert_eq!(pages.token_requests(), 0);
    let answer = browser.get(&format!("{back}&session_state=1&session_state=2&scope=a")).await.expect(303);
    assert_eq!(location(&answer), "/connect/done?outcome=connected&provider=lab");
}

/// R26: the page names the agent, the owner, the scopes, the host it leads to and the place it returns to; and its form is
/// bound to the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_what_will_happen() {
    let pages = Pages::new(LOOPBACK).await;
    let listed = "https://p.example/done".to_owned();
    pages.change_site(SiteChange { return_to: Some(vec![listed.clone()]), ..SiteChange::default() }).await;
    let new = NewAgent { id: None, slug: "scribe".into(), title: "<b>Scribe</b> & Co".into(), owner: None };
    let agent = agent::create(pages.broker.base(), &SiteId::default_site(), &Actor::Operator, new).await.unwrap();
    let link = pages
        .link(NewSession {
            agent: Some(agent.id),
            return_to: Some(listed),
            name: "<i>work</i>".parse().unwrap(),
            scopes: Some(vec!["profile".into(), "<posts>".into()]),
            ..of("user:alice")
        })
        .await;
    let mut browser = pages.browser();
    let consent = browser.open(&link, "alice").await;
    let page = text(&consent);
    let host = pages.lab.addr().to_string();
    for part in [
        "<strong>Lab</strong>",
        "<strong>user alice</strong>",
        "<code>profile</code>",
        host.as_str(),
        "<strong>p.example</strong>",
    ] {
        assert!(page.contains(part), "{part} is not on the page: {page}");
    }
    // Names are texts, whatever is in them.
    for raw in ["<b>", "<i>", "<posts>"] {
        assert!(!page.contains(raw), "{raw} is markup");
    }
    assert!(page.contains("Scribe&#60;/b&#62; &#38; Co") || page.contains("Scribe&lt;/b&gt; &amp; Co"), "{page}");
    let policy = consent.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains(&format!("form-action 'self' https: {};", pages.lab.origin())), "{policy}");

    for form in [
        vec![("decision", "approve")],
        vec![("csrf", "x"), ("decision", "approve")],
        vec![("csrf", "x"), ("csrf", "x"), ("decision", "approve")],
        vec![("csrf", "x"), ("decision", "perhaps")],
    ] {
        let answer = browser.post(&path(&link), &form).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403), "{form:?}");
    }
    // A form of another kind is not read at all: such requests can come from other sites without being asked for.
    let body = format!("csrf={}&decision=approve", csrf(&consent));
    let request = Request::post(path(&link)).header(header::CONTENT_TYPE, "text/plain");
    browser.send(request, Body::from(body)).await.expect(400);
    browser.approve(&link, &consent).await.expect(303);
}

/// R27: every agent's link asks for itself; what was approved for one does not answer for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_approved_for_one_agent_does_not_answer_for_another() {
    let pages = Pages::new(LOOPBACK).await;
    let site = SiteId::default_site();
    let mut browser = pages.browser();
    for (n, slug) in ["one", "two"].into_iter().enumerate() {
        let new = NewAgent { id: None, slug: slug.into(), title: String::new(), owner: None };
        let agent = agent::create(pages.broker.base(), &site, &Actor::Operator, new).await.unwrap();
        let link = pages.link(NewSession { agent: Some(agent.id), ..of("user:alice") }).await;
        let consent = browser.open(&link, "alice").await;
        assert!(text(&consent).contains(&format!("<strong>{slug}</strong>")));
        assert_eq!(pages.lab.requests("authorize"), n as u64, "the page led on by itself");
        let approved = browser.approve(&link, &consent).await.expect(303);
        let back = browser.sign_in(&approved, "alice").await;
        browser.get(&back).await.expect(303);
    }
}

/// Decisions 6: without proof a person's link leads nowhere; with the operator's switch it does, and says so aloud.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_without_proof_says_what_it_is() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(of("user:alice")).await;
    let mut browser = pages.browser();
    let page = browser.get(&path(&link)).await.expect(200);
    assert!(text(&page).contains("Start at your platform") && !text(&page).contains("<form"));
    assert!(cookies(&page).is_empty());
    let assertion = pages.assertion(&link, "mallory");
    let refused = browser.post(&path(&link), &[("assertion", &assertion)]).await.expect(403);
    assert!(text(&refused).contains("forbidden"));

    pages.change_site(SiteChange { unproven_links: Some(true), ..SiteChange::default() }).await;
    let page = browser.get(&path(&link)).await.expect(200);
    assert!(text(&page).contains("Nobody has checked who you are."));
    let approved = browser.approve(&link, &page).await.expect(303);
    let back = browser.sign_in(&approved, "alice").await;
    assert_eq!(location(&browser.get(&back).await.expect(303)), "/connect/done?outcome=connected&provider=lab");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_a_link_binds_nothing_and_the_form_of_one_browser_is_refused_from_another() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(of("site")).await;
    let (mut first, mut second) = (pages.browser(), pages.browser());
    let head = first.send(Request::builder().method(Method::HEAD).uri(path(&link)), Body::empty()).await;
    assert_eq!((head.status.as_u16(), cookies(&head).len()), (405, 0));
    // A chat's preview, which keeps no cookies, looks first.
    pages.browser().get(&path(&link)).await.expect(200);
    let page = first.get(&path(&link)).await.expect(200);
    assert!(text(&page).contains("the site"));
    second.get(&path(&link)).await.expect(200);
    // Reloading is fine, and gives the same form.
    let again = first.get(&path(&link)).await.expect(200);
    assert_eq!(csrf(&page), csrf(&again));
    let answer = second.approve(&link, &page).await;
    assert_eq!(answer.status.as_u16(), 403);

    let approved = first.approve(&link, &page).await.expect(303);
    second.get(&path(&link)).await.expect(404);
    let back = first.sign_in(&approved, "carol").await;
    let head = first.send(Request::builder().method(Method::HEAD).uri(&back), Body::empty()).await;
    assert_eq!((head.status.as_u16(), pages.token_requests()), (405, 0));
    assert_eq!(location(&first.get(&back).await), "/connect/done?outcome=connected&provider=lab");
}

/// A page of somebody else's cannot have a browser bring an assertion that its person did not ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_comes_from_the_platforms_own_pages() {
    let pages = Pages::new(LOOPBACK).await;
    pages.change_site(SiteChange { return_to: Some(vec!["https://p.example/done".into()]), ..SiteChange::default() }).await;
    let post = async |origins: &[&str]| {
        let link = pages.link(of("user:alice")).await;
        let mut request = Request::post(path(&link)).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for origin in origins {
            request = request.header(header::ORIGIN, *origin);
        }
        let body = format!("assertion={}", pages.assertion(&link, "alice"));
        pages.browser().send(request, Body::from(body)).await.status.as_u16()
    };
    for origins in [&["https://p.example"][..], &[], &["null"], &[LOOPBACK]] {
        assert_eq!(post(origins).await, 303, "{origins:?}");
    }
    for origins in [&["https://evil.example"][..], &["http://p.example"], &["https://p.example", "https://p.example"]] {
        assert_eq!(post(origins).await, 403, "{origins:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_is_told_that_nothing_happened() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(of("user:alice")).await;
    let mut browser = pages.browser();
    let consent = browser.open(&link, "alice").await;
    let answer = browser.post(&path(&link), &[("csrf", &csrf(&consent)), ("decision", "cancel")]).await.expect(303);
    assert_eq!(location(&answer), "/connect/done?outcome=oauth_denied&provider=lab");
    let page = browser.get(location(&answer)).await.expect(200);
    assert!(text(&page).contains("No account of Lab was linked"));
    assert_eq!((pages.lab.requests("authorize"), pages.connections().await), (0, 0));
}

/// What the outcome page shows comes from closed lists, whatever a made-up link says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_page_repeats_nothing() {
    let pages = Pages::new(LOOPBACK).await;
    let mut browser = pages.browser();
    let query = "/connect/done?outcome=oauth_denied&provider=%3Cscript%3Ealert(1)%3C/script%3E&word=%3Cb%3Eevil%3C/b%3E&x=evil";
    let page = text(&browser.get(query).await.expect(200));
    assert!(page.contains("No account of the provider was linked") && !page.contains("evil") && !page.contains("alert"));
    let page = text(&browser.get("/connect/done?outcome=oauth_denied&word=access_denied").await.expect(200));
    assert!(page.contains("<code>access_denied</code>"));
    let page = text(&browser.get("/connect/done?outcome=connected&provider=lab&missing=1").await.expect(200));
    assert!(page.contains("Not everything that was asked for was granted."));
    for code in valetkey::Code::ALL {
        browser.get(&format!("/connect/done?outcome={code}")).await.expect(200);
    }
}

/// The scopes that were not granted are told, without a word of the provider's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_scopes_are_told() {
    let pages = Pages::new(LOOPBACK).await;
    pages.lab.misbehave(Rule::once(At::Authorize, Fault::Scope { scope: "profile".into() }));
    let link = pages.link(of("user:alice")).await;
    let answer = pages.browser().connect(&link, "alice", "alice").await;
    assert_eq!(location(&answer), "/connect/done?outcome=connected&missing=posts%3Aread+posts%3Awrite&provider=lab");
}
