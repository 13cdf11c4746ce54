//! The pages of a sign-in on another device, of the choice from a provider's lists, and of what was not granted.

use std::time::Duration;

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use valetkey::{connect::session::NewSession, connection, id::SiteId};

use crate::pages::{LOOPBACK, Pages, csrf, location, of, text};

/// R45: the page with the code says that it is for the person alone and must come from their own screen; another browser sees
/// nothing of it. It goes on by itself, without a script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_with_the_code_warns_of_codes_that_somebody_sent() {
    let pages = Pages::with(LOOPBACK, &DefinitionOptions { device: true, ..DefinitionOptions::default() }).await;
    let mut browser = pages.browser();
    let link = pages.link(NewSession { device: true, ..of("user:alice") }).await;
    let consent = browser.open(&link, "alice").await;
    assert!(text(&consent).contains("on a device of your own"));
    let approved = browser.approve(&link, &consent).await.expect(303);
    let place = location(&approved).strip_prefix(LOOPBACK).unwrap().to_owned();
    let page = browser.get(&place).await.expect(200);
    let words = text(&page);
    for said in ["for you alone", "user alice", "never type in a code that somebody sent you", "/device", "?user_code="] {
        assert!(words.contains(said), "{said}: {words}");
    }
    assert!(page.headers.contains_key("refresh") && !words.contains("<script"));
    assert!(!words.contains("lab_code_device_"), "the device code is on the page");
    pages.browser().get(&place).await.expect(404);

    let code = words.split("class=\"code\"><code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(pages.lab.answer_device(&code, Some("alice")));
    pages.broker.base().clock.advance(Duration::from_secs(6));
    // The broker asks by itself.
    let mut answer = browser.get(&place).await;
    for _ in 0..200 {
        if answer.status.as_u16() == 303 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = browser.get(&place).await;
    }
    assert_eq!(location(&answer.expect(303)), "/connect/done?outcome=connected&provider=lab");
    assert_eq!(pages.connections().await, 1);
}

/// Nothing is ticked for the person, and the browser goes on to where the link says once they chose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_chooses_from_the_providers_list() {
    let pages = Pages::with(LOOPBACK, &DefinitionOptions { pages: true, ..DefinitionOptions::default() }).await;
    let mut browser = pages.browser();
    let link = pages.link(of("user:alice")).await;
    let answer = browser.connect(&link, "alice", "alice").await;
    let place = location(&answer).to_owned();
    assert_eq!(place, format!("/connect/choose/default/{}", link.id));
    let page = browser.get(&place).await.expect(200);
    let words = text(&page);
    assert!(words.contains("Bakery") && words.contains("Garden") && !words.contains(" checked"), "{words}");
    assert!(!words.contains("lab_at_"), "a token is on the page");
    assert!(words.contains("reaches whatever the account reaches"), "it promises a limit that there is not: {words}");
    pages.browser().get(&place).await.expect(404);
    let csrf = csrf(&page);
    browser.post(&place, &[("csrf", "x"), ("chosen.page", "p2")]).await.expect(403);
    browser.post(&place, &[("csrf", &csrf), ("chosen.page", "p9")]).await.expect(400);
    let chosen = browser.post(&place, &[("csrf", &csrf), ("chosen.page", "p2"), ("decision", "choose")]).await.expect(303);
    assert_eq!(location(&chosen), "/connect/done?outcome=connected&provider=lab");
    let filter = connection::Filter::default();
    let all = connection::list(&pages.broker.base().db, &SiteId::default_site(), &filter).await.unwrap();
    assert_eq!(all[0].resources["page"].iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["p2"]);
    assert!(browser.jar.is_empty(), "cookies stayed: {:?}", browser.jar);
}

/// R33: the page names what was not granted, as far as the definition has the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_names_what_was_not_granted() {
    let pages = Pages::new(LOOPBACK).await;
    let mut browser = pages.browser();
    pages.lab.misbehave(Rule::once(At::Code, Fault::Scope { scope: "profile posts:read".into() }));
    let link = pages.link(of("user:alice")).await;
    let answer = browser.connect(&link, "alice", "alice").await;
    let done = browser.get(location(&answer)).await.expect(200);
    assert!(text(&done).contains("<code>posts:write</code>"), "{}", text(&done));
    let made_up = browser.get("/connect/done?outcome=connected&provider=lab&missing=call-0900-now").await.expect(200);
    assert!(!text(&made_up).contains("0900") && text(&made_up).contains("Not everything"));
}

/// The page promises a limit exactly where calls are bound by what is chosen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_whether_the_choice_limits_anything() {
    for (line, promise) in [("only = [\"/api/echo/{id}/**\"]", "anything else are refused"), ("", "limits nothing")] {
        let change = |text: String| {
            let text = text.replace("label = \"name\", token = \"access_token\" }", "label = \"name\" }");
            let text = text.replace("slot = \"page\"\n\n[slots.page]\nttl = \"none\"\n", &format!("{line}\n"));
            let text = text.replace("then = [\"resources.page\"]\n", "").replace("slots = [\"user\", \"page\"]\n", "");
            text.replace("{{slot.access_token}}", "{{token.access_token}}")
        };
        let pages = Pages::on_sqlite(LOOPBACK, &DefinitionOptions { pages: true, ..DefinitionOptions::default() }, change).await;
        let mut browser = pages.browser();
        let link = pages.link(of("user:alice")).await;
        let answer = browser.connect(&link, "alice", "alice").await;
        let place = location(&answer).to_owned();
        let words = text(&browser.get(&place).await.expect(200));
        assert!(words.contains(promise), "{line}: {words}");
    }
}
