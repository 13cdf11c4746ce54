//! Connecting in a real browser, at an authorization server that none of us wrote: headless Chromium, driven by WebDriver,
//! and npm's oidc-provider, where a client is registered for each test.

use axum::{Router, extract::RawQuery, response::Html, routing::get};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use thirtyfour::{By, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver, WebElement};
use tokio::net::TcpListener;
use url::form_urlencoded;
use valetkey::{
    clock::Clock,
    id::PlatformKeyId,
    platform::{self, Purpose},
    secret::Secret,
};

use crate::{
    dev::curl,
    scene::{On, Plan, PlatformKey, Scene, Usable, eventually, on_each, text},
    support::{Home, Server, peer},
};

/// How long an access token of this provider lives, in seconds.
const LIFE: u64 = 3;

/// One browser with a profile of its own.
struct Chromium(WebDriver);

impl Chromium {
    async fn start() -> Self {
        let mut wanted = DesiredCapabilities::chrome();
        wanted.set_binary(&peer("VALETKEY_TEST_CHROMIUM")).unwrap();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ] {
            wanted.add_arg(argument).unwrap();
        }
        Self(WebDriver::new(peer("VALETKEY_TEST_WEBDRIVER"), wanted).await.unwrap())
    }

    async fn open(&self, url: &str) {
        self.0.goto(url).await.unwrap();
    }

    async fn url(&self) -> String {
        self.0.current_url().await.unwrap().to_string()
    }

    /// The words on the page, as a person sees them. A page may make room for the next between being found and being read.
    async fn words(&self) -> String {
        eventually(|| async { self.0.find(By::Css("body")).await.ok()?.text().await.ok() }).await
    }

    /// The element of that description, once it is there.
    async fn one(&self, css: &str) -> WebElement {
        eventually(|| async { self.0.find(By::Css(css)).await.ok() }).await
    }

    async fn press(&self, css: &str) {
        self.one(css).await.click().await.unwrap();
    }

    async fn fill(&self, css: &str, words: &str) {
        self.one(css).await.send_keys(words).await.unwrap();
    }

    /// Waits until the address holds this.
    async fn arrive(&self, part: &str) -> String {
        eventually(|| async { Some(self.url().await).filter(|url| url.contains(part)) }).await
    }

    /// Signs in at the provider, and stops at its question.
    async fn sign_in(&self, login: &str) {
        self.fill("input[name=login]", login).await;
        self.fill("input[name=password]", "any").await;
        self.press("button[type=submit]").await;
        self.one("input[name=prompt][value=consent]").await;
    }

    async fn quit(self) {
        self.0.quit().await.unwrap();
    }
}

/// A broker that knows oidc-provider, with an app registered there for its callback.
async fn at_oidc_provider(on: On) -> Scene {
    with_its_app(on).await.0
}

/// The same, with what the app is at oidc-provider: its `client_id` and `client_secret`.
async fn with_its_app(on: On) -> (Scene, Value) {
    let issuer = peer("VALETKEY_TEST_OIDC");
    let host = issuer.trim_start_matches("http://");
    let definition = format!(
        r#"title = "OIDC Test"
kind = "oauth2"

[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}

[oauth2]
flows = ["code", "device"]
device_url = "{issuer}/device/auth"
authorize_url = "{issuer}/auth"
token_url = "{issuer}/token"
client_auth = "basic"
pkce = "required"
issuer = "{issuer}"
iss_supported = true
scope_separator = " "
scopes = {{ default = ["openid", "email"] }}

[refresh]
strategy = "refresh_token"
rotation = "always"
before = "5m"
access_ttl = "1h"
refresh_ttl = "1d"
replay_kills_family = true

[revoke]
kills = "family"
method = "POST"
url = "{issuer}/token/revocation"
auth = "client"
form = {{ token = "{{{{token.refresh_token}}}}", token_type_hint = "refresh_token" }}

[identity]
method = "GET"
url = "{issuer}/me"
auth = "bearer"
out = {{ id = "sub", email = "email" }}

[proxy]
base_url = "{issuer}"
hosts = ["{host}"]
path_allow = {{ "{host}" = ["/me"] }}
credential_paths = ["/token", "/token/**", "/auth", "/auth/**", "/reg", "/reg/**", "/device/**", "/request", "/session/**"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
"#
    );
    let mut plan = Plan::new(on);
    plan.definitions.push(("oidc".to_owned(), definition));
    plan.allowed.push(host.parse().unwrap());
    plan.refresh = (20, 10);
    let scene = Scene::start(plan).await;
    let client = json!({
        "redirect_uris": [format!("{}/callback/oidc", scene.public_url())],
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "access_token_life": LIFE,
    });
    let answer = scene.http.post(format!("{issuer}/reg")).json(&client).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let client: Value = answer.json().await.unwrap();
    let app = json!({ "client_id": text(&client, "client_id"), "client_secret": text(&client, "client_secret") });
    scene.put_app("oidc", app.clone()).await;
    (scene, app)
}

/// Whether oidc-provider still knows a token of that app (RFC 7662).
async fn is_known(scene: &Scene, app: &Value, token: &str) -> bool {
    let request = scene.http.post(format!("{}/token/introspection", peer("VALETKEY_TEST_OIDC")));
    let request = request.basic_auth(text(app, "client_id"), Some(text(app, "client_secret"))).form(&[("token", token)]);
    let told: Value = request.send().await.unwrap().json().await.unwrap();
    told["active"].as_bool().unwrap_or_else(|| panic!("{told}"))
}

/// A connect session: its id and its link.
async fn link(scene: &Scene, owner: &str) -> (String, String) {
    let session = json!({ "provider": "oidc", "owner": owner });
    let session = scene.platform(Method::POST, "/v1/connect-sessions", Some(session)).await;
    (text(&session, "id"), text(&session, "url"))
}

/// The one connection there is; none where there is none.
async fn only(scene: &Scene) -> Option<Value> {
    let answer = scene.platform(Method::GET, "/v1/connections?provider=oidc", None).await;
    let connections = answer["connections"].as_array().unwrap();
    assert!(connections.len() <= 1, "{answer}");
    connections.first().cloned()
}

/// The connection as the operator sees it, whose it is upstream, and that it renews itself and works through the proxy.
async fn is_alive(scene: &Scene, login: &str) {
    let id = text(&only(scene).await.expect("a connection"), "id");
    let agent = scene.agent().await;
    let token = scene.token(&agent).await;
    let grant = scene.grant(&agent, &id).await;
    let usable = Usable { connection: id, agent, token, grant };
    // Its tokens live for seconds, and are renewed when somebody asks: only then is it sure to be seen active.
    let shown = eventually(|| async {
        scene.reveal(0, &usable).await.access_token();
        Some(scene.home.json(&["connection", "show", &usable.connection])).filter(|shown| shown["status"] == "active")
    })
    .await;
    assert_eq!((&shown["subject"], &shown["identity"]), (&json!(login), &json!("verified")));
    let human = scene.home.cli(&["connection", "show", &usable.connection]).ok();
    assert!(human.contains(login) && human.contains("verified"), "{human}");

    let first = scene.reveal(0, &usable).await.access_token().to_owned();
    let second = eventually(|| async {
        let now = scene.reveal(0, &usable).await.access_token().to_owned();
        Some(now).filter(|now| *now != first)
    })
    .await;
    assert!(!second.is_empty());
    let me = scene.proxy(0, &usable, "me").await;
    assert_eq!((me.status, &me.body["sub"]), (StatusCode::OK, &json!(login)), "{me:?}");
    assert!(scene.connection(&usable.connection).await["version"].as_i64().unwrap() >= 2);
}

/// The page of a platform where somebody is signed in: its form posts the platform's word to the link.
async fn platform_page(link: &str, assertion: &str) -> String {
    let page = format!(
        r#"<!doctype html><title>A platform</title><form method="post" action="{link}">
<input type="hidden" name="assertion" value="{assertion}"><button>Go on</button></form>"#
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(|| async { Html(page) }));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}/")
}

on_each! {
    async fn the_site_s_account_is_connected_in_a_browser(on: On) {
        let (scene, app) = with_its_app(on).await;
        let browser = Chromium::start().await;
        let (_, link) = link(&scene, "site").await;
        browser.open(&link).await;
        let words = browser.words().await;
        for expected in ["OIDC Test", "will belong to the site itself", "openid", "email", &peer("VALETKEY_TEST_OIDC")[7..]] {
            assert!(words.contains(expected), "{expected:?} is not among: {words}");
        }
        assert!(only(&scene).await.is_none());
        browser.press("button[value=approve]").await;
        browser.sign_in("casey").await;
        browser.press("button[type=submit]").await;
        let url = browser.arrive("/connect/done").await;
        assert!(!url.contains("code=") && !url.contains("state="), "{url}");
        let words = browser.words().await;
        assert!(words.contains("The account of OIDC Test is linked"), "{words}");
        // The page needs no script and no other server, and shows itself well dressed.
        let style = browser.one("main").await.css_value("max-width").await.unwrap();
        assert_ne!(style, "none", "the style sheet was not applied");
        is_alive(&scene, "casey").await;

        // A link works once.
        browser.open(&link).await;
        assert!(browser.words().await.contains("This did not work"));
        browser.quit().await;

        // What ends here ends there (RFC 7009): with the refresh token goes all that came of the consent.
        let refresh_token = eventually(|| async {
            let kept = scene.platform(Method::GET, "/v1/providers/oidc/accounts/site?reveal=true", None).await;
            let token = text(&kept["account"], "refresh_token");
            // The keeper may have replaced it meanwhile.
            is_known(&scene, &app, &token).await.then_some(token)
        })
        .await;
        let id = text(&only(&scene).await.unwrap(), "id");
        let ended = scene.platform(Method::DELETE, &format!("/v1/connections/{id}?wait=10"), None).await;
        assert_eq!(ended["upstream"], "revoked", "{ended}");
        assert!(!is_known(&scene, &app, &refresh_token).await);
    }

    async fn a_person_s_account_is_connected_from_their_platform(on: On) {
        let scene = at_oidc_provider(on).await;
        let browser = Chromium::start().await;
        let (session, link) = link(&scene, "user:42").await;
        // Without the platform's word the link leads nowhere.
        browser.open(&link).await;
        let words = browser.words().await;
        assert!(words.contains("Start at your platform") && words.contains("42"), "{words}");
        assert!(browser.0.find(By::Css("button")).await.is_err());

        let platform = platform_page(&link, &scene.assertion("42", &session)).await;
        browser.open(&platform).await;
        browser.press("button").await;
        browser.one("button[value=approve]").await;
        let words = browser.words().await;
        for expected in ["OIDC Test", "Your platform says that you are", "42"] {
            assert!(words.contains(expected), "{expected:?} is not among: {words}");
        }
        browser.press("button[value=approve]").await;
        browser.sign_in("robin").await;
        browser.press("button[type=submit]").await;
        browser.arrive("/connect/done").await;
        assert!(browser.words().await.contains("is linked"));
        assert_eq!(only(&scene).await.unwrap()["owner"], "user:42");
        is_alive(&scene, "robin").await;
        browser.quit().await;
    }

    /// R44: the device grant at a server that none of us wrote. One browser shows the code, another one signs in with it.
    async fn a_person_signs_in_on_another_device(on: On) {
        let scene = at_oidc_provider(on).await;
        let (here, phone) = (Chromium::start().await, Chromium::start().await);
        let session = json!({ "provider": "oidc", "owner": "site", "device": true });
        let session = scene.platform(Method::POST, "/v1/connect-sessions", Some(session)).await;
        here.open(&text(&session, "url")).await;
        here.press("button[value=approve]").await;
        let code = here.one(".code code").await.text().await.unwrap();
        phone.open(&format!("{}/device", peer("VALETKEY_TEST_OIDC"))).await;
        phone.fill("input[name=user_code]", &code).await;
        phone.press("button[form='op.deviceInputForm']").await;
        phone.press("button[form='op.deviceConfirmForm'][autofocus]").await;
        phone.sign_in("casey").await;
        phone.press("button[type=submit]").await;
        let url = here.arrive("/connect/done").await;
        assert!(url.contains("outcome=connected"), "{url}");
        assert!(phone.words().await.contains("Sign-in Success"));
        is_alive(&scene, "casey").await;
        here.quit().await;
        phone.quit().await;
    }

    async fn another_browser_cannot_finish_a_flow(on: On) {
        let mut scene = at_oidc_provider(on).await;
        let (victim, thief) = (Chromium::start().await, Chromium::start().await);
        let (_, link) = link(&scene, "site").await;
        victim.open(&link).await;
        victim.press("button[value=approve]").await;
        victim.sign_in("casey").await;
        // The broker is away when the provider sends the browser back, so that code and state stay unused.
        let server = scene.replicas.remove(0);
        assert_eq!(server.end().await, Some(0));
        victim.press("button[type=submit]").await;
        let callback = victim.arrive("/callback/oidc?").await;
        assert!(callback.contains("code=") && callback.contains("state="), "{callback}");
        let server = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.insert(0, server);

        thief.open(&callback).await;
        let url = thief.arrive("/connect/done").await;
        assert!(url.contains("outcome=invalid_state"), "{url}");
        assert!(thief.words().await.contains("does not belong to anything this browser began"));
        assert!(only(&scene).await.is_none());

        // What the thief did took nothing from whom it belongs to.
        victim.open(&callback).await;
        assert!(victim.arrive("/connect/done").await.contains("outcome=connected"));
        is_alive(&scene, "casey").await;
        victim.quit().await;
        thief.quit().await;
    }
}

/// Waits until the page says this.
async fn says(browser: &Chromium, words: &str) {
    eventually(|| async { browser.words().await.contains(words).then_some(()) }).await;
}

/// `valetkey dev` as a new user has it: one URL, three pages of three servers, and a command that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_leads_a_person_in_a_browser_to_a_proxied_call() {
    let home = Home::sqlite();
    let data = home.data().display().to_string();
    let server = Server::run(&[], &["dev", "--json", "--listen", "127.0.0.1:0", "--data", &data]).await.unwrap();
    let url = server.said["url"].as_str().unwrap();
    let browser = Chromium::start().await;
    browser.open(url).await;
    // The platform's page, its word for who is signed in, the broker's question, and the provider's.
    browser.press("form[action='/connect'] button").await;
    browser.press("input[name=assertion] + button").await;
    browser.one("button[value=approve]").await;
    let words = browser.words().await;
    assert!(words.contains("alice") && words.contains("posts:write"), "{words}");
    browser.press("button[value=approve]").await;
    browser.arrive(server.said["lab"].as_str().unwrap()).await;
    browser.press("button[value=approve]").await;
    let command = browser.one("#me").await.text().await.unwrap();
    assert_eq!(browser.url().await, url);
    let (status, me) = curl(&command);
    assert_eq!((status, me["username"].as_str()), (200, Some("alice")), "{me}");

    // She signs in at the broker, where what a real browser says of its forms counts, and ends it all herself.
    browser.open(server.said["broker"].as_str().unwrap()).await;
    browser.press("a.main").await;
    browser.press("input[name=return_to] + button").await;
    browser.press(".grants button").await;
    says(&browser, "No agent may use it").await;
    assert_eq!(curl(&command).0, 404);
    browser.press("section.account a").await;
    browser.press("button.main").await;
    says(&browser, "You have connected no account yet").await;
    browser.press("form[action='/signout'] button").await;
    says(&browser, "Sign in to see your accounts").await;
    browser.quit().await;
    assert_eq!(server.end().await, Some(0));
}

/// The page of a platform that signs alice in: its form posts the platform's word to the broker, and says where to go on.
async fn signin_page(broker: &str, key: &PlatformKey) -> String {
    let id: PlatformKeyId = key.id.parse().unwrap();
    let (broker, secret) = (broker.to_owned(), Secret::new(key.assertion_secret.as_str()));
    let page = move |RawQuery(query): RawQuery| {
        let query = query.unwrap_or_default();
        let (_, back) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "return_to").unwrap();
        let signed = platform::sign_for(&id, &secret, &"alice".parse().unwrap(), Purpose::SignIn, Clock::System.now()).unwrap();
        let html = format!(
            r#"<!doctype html><title>A platform</title><form method="post" action="{broker}/signin">
<input type="hidden" name="assertion" value="{}"><input type="hidden" name="return_to" value="{}"><button>Go on</button></form>"#,
            signed.expose(),
            back.replace('&', "&amp;")
        );
        async move { Html(html) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, Router::new().route("/", get(page))).await.unwrap() });
    format!("http://{address}/")
}

/// A program on a person's machine gets a token for an agent: what a real browser makes of our pages, forms and policies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lets_a_program_act_through_an_agent() {
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let scene = Scene::usual(On::Sqlite).await;
    let broker = scene.public_url().to_owned();
    let platform = signin_page(&broker, &scene.platform_key("signin", "any")).await;
    scene.home.cli(&["site", "set", "--signin-url", &platform]).ok();
    scene.platform(Method::POST, "/v1/agents", Some(json!({ "slug": "helper", "owner": "alice" }))).await;
    let client = scene.home.json(&["client", "create", "My program", "--redirect-uri", "http://127.0.0.1/cb"]);
    let client = client["id"].as_str().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callback = format!("http://{}/cb", listener.local_addr().unwrap());
    let program = Router::new().route("/cb", get(|| async { Html("Back at the program") }));
    tokio::spawn(async { axum::serve(listener, program).await.unwrap() });

    let asked = [
        ("client_id", client),
        ("redirect_uri", callback.as_str()),
        ("response_type", "code"),
        ("state", "the state"),
        ("scope", "proxy reveal"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
    let browser = Chromium::start().await;
    browser.open(&format!("{broker}/oauth/authorize?{query}")).await;
    browser.press("a.main").await;
    // The platform's page.
    browser.press("input[name=return_to] + button").await;
    browser.one("button[value=allow]").await;
    let words = browser.words().await;
    for expected in ["My program", "alice", "helper", "127.0.0.1"] {
        assert!(words.contains(expected), "{expected:?} is not among: {words}");
    }
    browser.press("input[value=reveal]").await;
    browser.press("button[value=allow]").await;
    let url = browser.arrive("/cb?").await;
    says(&browser, "Back at the program").await;
    let code = form_urlencoded::parse(url.split_once('?').unwrap().1.as_bytes()).find(|(name, _)| name == "code").unwrap().1;

    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code.as_ref()),
        ("redirect_uri", callback.as_str()),
        ("code_verifier", VERIFIER),
    ];
    let issued = scene.http.post(format!("{broker}/oauth/token")).form(&form).send().await.unwrap();
    let issued: Value = issued.json().await.unwrap();
    assert_eq!(issued["scope"], "proxy", "{issued}");
    let me = scene.call(0, issued["access_token"].as_str().unwrap(), Method::GET, "/v1/me", None).await;
    assert_eq!(me.status, StatusCode::OK, "{me:?}");

    // On the home page she ends it.
    browser.open(&broker).await;
    browser.press("form[action^='/account/programs/'] button").await;
    eventually(|| async { (!browser.words().await.contains("My program")).then_some(()) }).await;
    let me = scene.call(0, issued["access_token"].as_str().unwrap(), Method::GET, "/v1/me", None).await;
    assert_eq!(me.status, StatusCode::UNAUTHORIZED, "{me:?}");
    browser.quit().await;
}
