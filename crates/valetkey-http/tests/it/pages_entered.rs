//! The page of a link whose account is made of entered values, as a browser meets it.

use http::header;
use provider_lab::{APP_PASSWORD, At, Fault, Rule};
use valetkey::{
    connect::{form::MOST_ATTEMPTS, session::NewSession},
    site::SiteChange,
};

use crate::pages::{HTTPS, LOOPBACK, Pages, cookies, csrf, location, path, text};

fn alices() -> NewSession {
    NewSession::new("blue".parse().unwrap(), "user:alice".parse().unwrap())
}

/// The form's answer.
fn entered<'a>(csrf: &'a str, password: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("csrf", csrf),
        ("decision", "enter"),
        ("field.username", "alice.lab.example"),
        ("field.app_password", password),
        ("field.service", ""),
    ]
}

async fn the_whole_way(pages: Pages) {
    let link = pages.link(alices()).await;
    let mut browser = pages.browser();
    let page = browser.open(&link, "alice").await;
    let shown = text(&page);
    assert!(shown.contains("Lab session") && shown.contains("user alice"));
    assert!(shown.contains(r#"name="field.username" type="text""#), "{shown}");
    assert!(shown.contains(r#"name="field.app_password" type="password" autocomplete="current-password" required"#), "{shown}");
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("form-action 'self';") && policy.contains("frame-ancestors 'none'"), "{policy}");

    let refused = browser.post(&path(&link), &entered(&csrf(&page), "canary-wrong")).await.expect(422);
    let again = text(&refused);
    assert!(again.contains("refused what was entered") && again.contains(r#"value="alice.lab.example""#), "{again}");
    assert!(!again.contains("canary-wrong"), "a secret is shown again");
    assert_eq!(pages.connections().await, 0);

    let done = browser.post(&path(&link), &entered(&csrf(&refused), APP_PASSWORD)).await.expect(303);
    assert_eq!(location(&done), "/connect/done?outcome=connected&provider=blue");
    assert!(cookies(&done).iter().any(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(pages.connections().await, 1);
    browser.post(&path(&link), &entered(&csrf(&refused), APP_PASSWORD)).await.expect(404);
    assert_eq!(pages.connections().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_entered_tried_and_linked() {
    the_whole_way(Pages::new(LOOPBACK).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_entered_tried_and_linked_on_postgres() {
    the_whole_way(Pages::on_postgres(HTTPS).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_in_the_address_count_for_nothing() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(alices()).await;
    let mut browser = pages.browser();
    let page = browser.open(&link, "alice").await;
    let query = "field.username=mallory.lab.example&field.app_password=canary-in-url&decision=enter";
    let shown = text(&browser.get(&format!("{}?{query}", path(&link))).await.expect(200));
    assert!(!shown.contains("mallory") && !shown.contains("canary-in-url"));
    let bare = [("csrf", csrf(&page))];
    let bare: Vec<(&str, &str)> = bare.iter().map(|(name, value)| (*name, value.as_str())).collect();
    browser.post(&format!("{}?{query}", path(&link)), &bare).await.expect(400);
    let token = csrf(&page);
    let without_values = [("csrf", token.as_str()), ("decision", "enter")];
    browser.post(&format!("{}?{query}", path(&link)), &without_values).await.expect(400);
    assert_eq!(pages.lab.requests("login"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_browser_and_a_foreign_form_link_nothing() {
    let pages = Pages::new(LOOPBACK).await;
    let link = pages.link(alices()).await;
    let mut browser = pages.browser();
    let page = browser.open(&link, "alice").await;
    let token = csrf(&page);
    pages.browser().post(&path(&link), &entered(&token, APP_PASSWORD)).await.expect(403);
    browser.post(&path(&link), &entered("made up", APP_PASSWORD)).await.expect(403);
    let no_token = &entered(&token, APP_PASSWORD)[1..];
    browser.post(&path(&link), no_token).await.expect(400);
    let mut twice = entered(&token, APP_PASSWORD).to_vec();
    twice.push(("field.username", "bob.lab.example"));
    browser.post(&path(&link), &twice).await.expect(400);
    let yes = [("csrf", token.as_str()), ("decision", "approve")];
    browser.post(&path(&link), &yes).await.expect(400);
    assert_eq!((pages.lab.requests("login"), pages.connections().await), (0, 0));
    // And nobody who was not proven to be Alice is asked anything.
    let fresh = pages.link(alices()).await;
    let page = text(&pages.browser().get(&path(&fresh)).await.expect(200));
    assert!(!page.contains("field.app_password"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_attempt_returns_with_its_code() {
    let pages = Pages::new(LOOPBACK).await;
    let back = "https://platform.example/done";
    pages.change_site(SiteChange { return_to: Some(vec![back.to_owned()]), ..SiteChange::default() }).await;
    let link = pages.link(NewSession { return_to: Some(back.to_owned()), ..alices() }).await;
    let mut browser = pages.browser();
    let token = csrf(&browser.open(&link, "alice").await);
    for _ in 1..MOST_ATTEMPTS {
        browser.post(&path(&link), &entered(&token, "wrong")).await.expect(422);
    }
    let over = browser.post(&path(&link), &entered(&token, "wrong")).await.expect(303);
    assert_eq!(location(&over), format!("{back}?auth_error=login_refused&provider=blue"));

    let link = pages.link(NewSession { return_to: Some(back.to_owned()), ..alices() }).await;
    let token = csrf(&browser.open(&link, "alice").await);
    pages.lab.misbehave(Rule::once(At::Login, Fault::status(503)));
    let away = browser.post(&path(&link), &entered(&token, APP_PASSWORD)).await.expect(502);
    assert!(text(&away).contains("could not be reached"));
    let over = browser.post(&path(&link), &entered(&token, APP_PASSWORD)).await.expect(303);
    assert!(location(&over).starts_with(&format!("{back}?auth_success=1&provider=blue&connection=con_")), "{}", location(&over));
}
