//! `valetkey dev`: from nothing to a proxied call, as somebody does who follows the pages.

use std::process::Command;

use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{Browser, Home, Page, Server};

struct Dev {
    server: Server,
    browser: Browser,
    home: Home,
}

impl Dev {
    async fn start() -> Self {
        Self::start_in(Home::sqlite()).await
    }

    async fn start_in(home: Home) -> Self {
        let data = home.data().display().to_string();
        let server = Server::run(&[], &["dev", "--json", "--listen", "127.0.0.1:0", "--data", &data]).await.unwrap();
        Self { server, browser: Browser::new(), home }
    }

    fn said(&self, name: &str) -> &str {
        self.server.said[name].as_str().unwrap()
    }

    /// From the demo platform's page to the provider's.
    async fn reach_the_lab(&mut self) -> Page {
        let url = self.said("url").to_owned();
        let page = self.browser.open(&url).await;
        assert_eq!(page.status, StatusCode::OK);
        let page = self.browser.press(&page, "Connect your Lab account").await;
        let page = self.browser.press(&page, "Continue").await;
        assert!(page.html.contains("alice") && page.html.contains("posts:write"), "the broker says what is asked: {page:?}");
        self.browser.press(&page, "Go on to Lab").await
    }

    async fn connected(&mut self) -> Page {
        let page = self.reach_the_lab().await;
        assert!(page.url.as_str().starts_with(self.said("lab")), "{page:?}");
        self.browser.press(&page, "Approve").await
    }
}

/// A command that a page shows, as a shell runs it.
fn run(command: &str) -> (i32, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + String::from_utf8(output.stderr).unwrap().as_str();
    (output.status.code().unwrap(), text)
}

/// What a `curl` that a page shows brings: the status and the JSON.
pub(crate) fn curl(command: &str) -> (u16, Value) {
    assert!(command.starts_with("curl "), "{command}");
    let (code, text) = run(&format!("{command} -w '\\n%{{http_code}}'"));
    assert_eq!(code, 0, "{text}");
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_leads_from_one_url_to_a_call_by_a_fresh_agent_and_back() {
    let mut dev = Dev::start().await;
    let page = dev.connected().await;
    assert_eq!(page.url.as_str(), dev.said("url"), "back at the platform, without anything in the address");
    assert!(page.html.contains("@alice") || page.html.contains("alice"), "{page:?}");

    let (status, me) = curl(&page.element("me"));
    assert_eq!((status, me["username"].as_str()), (200, Some("alice")), "{me}");
    let (status, post) = curl(&page.element("post"));
    assert_eq!(status, 201, "{post}");
    let front = Browser::new().open(dev.said("lab")).await;
    assert!(front.html.contains("Hello from my agent"), "{front:?}");

    let (code, explained) = run(&page.element("explain"));
    assert!(code == 0 && explained.starts_with("allow"), "{explained}");
    let (code, audit) = run(&page.element("audit"));
    assert!(code == 0 && audit.contains("grant.create"), "{audit}");

    let again = dev.browser.open(page.url.as_str()).await;
    assert_eq!(again.element("me"), page.element("me"), "looking again makes nothing anew");

    let (code, said) = run(&page.element("revoke"));
    assert_eq!(code, 0, "{said}");
    let (status, refused) = curl(&page.element("me"));
    assert_eq!((status, refused["code"].as_str()), (404, Some("not_found")), "{refused}");
    let (code, explained) = run(&page.element("explain"));
    assert!(code == 1 && explained.starts_with("deny"), "{explained}");
    assert!(!dev.server.log().contains("panicked"), "{}", dev.server.log());
    assert_eq!(dev.server.end().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alice_signs_in_at_the_broker_and_takes_the_permission_back_herself() {
    let mut dev = Dev::start().await;
    let page = dev.connected().await;
    let me = page.element("me");
    assert_eq!(curl(&me).0, 200);
    let broker = page.link("Sign in at Valet Key");
    let page = dev.browser.open(&broker).await;
    let page = dev.browser.open(&page.link("Sign in to see your accounts")).await;
    assert!(page.url.as_str().starts_with(dev.said("url")), "the platform signs people in: {page:?}");
    let page = dev.browser.press(&page, "Sign in").await;
    assert_eq!(page.url.as_str(), broker);
    assert!(page.html.contains("signed in as <strong>alice</strong>") && page.html.contains("Demo agent"), "{page:?}");
    assert_eq!(dev.home.json(&["person", "sessions", "alice"])["sessions"].as_array().unwrap().len(), 1);
    let page = dev.browser.press(&page, "Take back").await;
    assert!(page.html.contains("No agent may use it"), "{page:?}");
    assert_eq!(curl(&me).0, 404);

    let said = dev.home.cli(&["person", "sign-out", "alice"]).ok();
    assert!(said.contains("sessions ended: 1"), "{said}");
    let page = dev.browser.open(&broker).await;
    assert!(page.html.contains("Sign in to see your accounts"), "{page:?}");
    assert!(dev.home.cli(&["person", "sessions", "alice"]).ok().contains("signed in nowhere"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saying_no_leads_back_to_the_platform_with_the_reason() {
    let mut dev = Dev::start().await;
    let page = dev.reach_the_lab().await;
    let page = dev.browser.press(&page, "Deny").await;
    assert!(page.url.as_str().starts_with(dev.said("url")));
    assert!(page.html.contains("oauth_denied"), "{page:?}");
    let page = dev.browser.press(&page, "Connect your Lab account").await;
    let page = dev.browser.press(&page, "Continue").await;
    let page = dev.browser.press(&page, "Cancel").await;
    assert!(page.html.contains("oauth_denied"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_without_the_platforms_word_lets_nobody_go_on() {
    let mut dev = Dev::start().await;
    let url = dev.said("url").to_owned();
    let page = dev.browser.open(&url).await;
    let page = dev.browser.press(&page, "Connect your Lab account").await;
    let link = page.html.split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let stranger = Browser::new().open(&link).await;
    assert!(stranger.forms().is_empty(), "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_begins_anew_in_a_folder_it_was_given_before() {
    let mut dev = Dev::start().await;
    dev.connected().await;
    assert_eq!(dev.server.end().await, Some(0));
    let mut dev = Dev::start_in(dev.home).await;
    let page = dev.connected().await;
    let (status, me) = curl(&page.element("me"));
    assert_eq!((status, me["username"].as_str()), (200, Some("alice")), "{me}");
}

/// It would rename the site, revoke accounts and make a platform key there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_leaves_a_database_alone_that_it_did_not_make() {
    let home = Home::sqlite();
    home.serve().await.end().await;
    let site = home.json(&["site", "show"]);
    let data = home.data().display().to_string();
    for (variables, arguments) in [
        (Vec::new(), vec!["dev", "--json", "--listen", "127.0.0.1:0", "--data", &data]),
        (home.variables().to_vec(), vec!["dev", "--json", "--listen", "127.0.0.1:0"]),
    ] {
        let said = match Server::run(&variables, &arguments).await {
            Ok(_) => panic!("dev started in a folder of somebody else's"),
            Err(ran) => ran.failed(2),
        };
        assert!(said.contains("was not made by `valetkey dev`"), "{said}");
    }
    assert_eq!(home.json(&["site", "show"]), site);
    assert!(home.json(&["key", "list"])["keys"].as_array().unwrap().is_empty());
    assert!(!home.data().join("providers").exists());
}

#[tokio::test]
async fn dev_brings_its_own_and_listens_to_this_machine_only() {
    let home = Home::sqlite();
    let data = home.data().display().to_string();
    let refused = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match Server::run(&[], &arguments).await {
            Ok(_) => panic!("dev started with {arguments:?}"),
            Err(ran) => ran.failed(2),
        }
    };
    let with = |more: &[&str]| [&["dev", "--json"], more].concat().iter().map(|word| (*word).to_owned()).collect();
    let said = refused(with(&["--data", &data, "--allow-private", "10.0.0.1:80"])).await;
    assert!(said.contains("--allow-private"), "{said}");
    let said = refused(with(&["--data", &data, "--listen", "0.0.0.0:0"])).await;
    assert!(said.contains("loopback"), "{said}");
    let said = refused(with(&["--database", "postgres://localhost/x"])).await;
    assert!(said.contains("embedded"), "{said}");
}
