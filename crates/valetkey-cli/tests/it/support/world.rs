//! A home with the provider lab outside, and shortcuts for the steps of the main job, done as an operator and a person
//! do them: by the command line and by the pages.

use provider_lab::{CLIENT_ID, CLIENT_SECRET, Lab};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use valetkey::{clock::Clock, secret::Secret};

use super::{Browser, Home, Page, Server};

/// A home, and the world outside.
pub(crate) struct World {
    /// Where the broker lives.
    pub(crate) home: Home,
    /// The provider.
    pub(crate) lab: Lab,
}

/// A platform key as it was shown once.
pub(crate) struct Key {
    /// Its id.
    pub(crate) id: String,
    /// The bearer.
    pub(crate) key: String,
    /// By which assertions are signed.
    pub(crate) assertion_secret: String,
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub(crate) struct Spoken {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its JSON; null where it is none.
    pub(crate) body: Value,
}

impl Spoken {
    /// It must be a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    /// It must be this refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.body["code"].as_str()), (status, Some(code)), "{self:?}");
    }
}

impl World {
    /// The lab runs, and every server and command of the home knows it by its definition.
    pub(crate) async fn around(mut home: Home) -> Self {
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let providers = home.folder().join("providers");
        std::fs::create_dir(&providers).unwrap();
        std::fs::write(providers.join("lab.toml"), lab.definition_toml()).unwrap();
        home.set("VALETKEY_PROVIDERS", providers.to_str().unwrap());
        home.set("VALETKEY_ALLOW_PRIVATE", &lab.addr().to_string());
        home.set("VALETKEY_LOOPBACK_HTTP", "1");
        Self { home, lab }
    }

    /// Tells the broker of the app at the lab.
    pub(crate) fn configure(&self) -> Value {
        let client_id = format!("client_id={CLIENT_ID}");
        let arguments = ["provider", "configure", "lab", "--set", &client_id, "--secret-file", "client_secret=-", "--json"];
        self.home.cli_with_input(&arguments, &format!("{CLIENT_SECRET}\n")).json()
    }

    /// A platform key.
    pub(crate) fn key(&self, scopes: &str, assert: &str) -> Key {
        let made = self.home.json(&["key", "create", "--label", "tests", "--scope", scopes, "--assert", assert]);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Key { id: text("id"), key: text("key"), assertion_secret: text("assertion_secret") }
    }

    /// An agent's id.
    pub(crate) fn agent(&self, slug: &str, owner: &str) -> String {
        text(&self.home.json(&["agent", "create", slug, "--owner", owner]), "id")
    }

    /// A fresh token for a person.
    pub(crate) fn token(&self, agent: &str, person: &str) -> String {
        text(&self.home.json(&["agent", "token", "create", agent, "--user", person]), "token")
    }

    /// Connects a person's account at the lab: a link by the platform, its word for the browser, and the pages.
    pub(crate) async fn connect(&self, server: &Server, key: &Key, user: &str, person: &str) -> String {
        let (mut browser, page) = self.link(server, key, user).await;
        let page = browser.press(&page, "Go on to Lab").await;
        let page = browser.press_with(&page, "Approve", &[("person", person)]).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        let owner = format!("user:{user}");
        let listed = self.home.json(&["connection", "list", "--provider", "lab", "--owner", &owner]);
        text(listed["connections"].as_array().unwrap().last().unwrap_or_else(|| panic!("{page:?}")), "id")
    }

    /// The page behind a fresh link for a person's account, in a browser that is proven to be theirs.
    pub(crate) async fn link(&self, server: &Server, key: &Key, user: &str) -> (Browser, Page) {
        let body = json!({ "provider": "lab", "owner": format!("user:{user}") });
        let session = call(server, Method::POST, "/v1/connect-sessions", &key.key, Some(&body)).await.ok();
        let assertion = valetkey::platform::sign(
            &key.id.parse().unwrap(),
            &Secret::new(key.assertion_secret.as_str()),
            &user.parse().unwrap(),
            &text(&session, "id").parse().unwrap(),
            Clock::System.now(),
        );
        let mut browser = Browser::new();
        let page = browser.post(&text(&session, "url"), &[("assertion", assertion.unwrap().expose())]).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        (browser, page)
    }
}

/// Calls the API with a bearer.
pub(crate) async fn call(server: &Server, method: Method, path: &str, bearer: &str, body: Option<&Value>) -> Spoken {
    let mut request = server.http().request(method, server.at(path)).bearer_auth(bearer);
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let bytes = response.bytes().await.unwrap();
    Spoken { status, body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

/// A member that is a text.
#[track_caller]
pub(crate) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {value}")).to_owned()
}
