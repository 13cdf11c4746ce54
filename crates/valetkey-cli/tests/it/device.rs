//! Connecting by a code, at a terminal without a browser (RFC 8628): the command, the servers, and what a killed one leaves.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use provider_lab::DefinitionOptions;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    scene::{On, Plan, Scene, eventually, on_each, text},
    support::{Browser, command},
};

/// A scene whose provider knows devices and lets them ask every second.
async fn scene_of(on: On) -> Scene {
    let mut plan = Plan::new(on);
    for provider in &mut plan.providers {
        provider.definition = DefinitionOptions { device: true, ..DefinitionOptions::default() };
        provider.settings.device_interval = 1;
    }
    Scene::start(plan).await
}

/// A `valetkey connect --device` that waits, and the code that it showed.
fn waiting(scene: &Scene) -> (Child, Value) {
    let arguments = ["connect", "lab", "--site-account", "--device", "--json"];
    let mut child = command(scene.home.variables(), &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut shown = String::new();
    while let Some(Ok(line)) = lines.next() {
        shown.push_str(&line);
        if line == "}" {
            break;
        }
    }
    // What comes later is told by the exit code and the broker.
    std::thread::spawn(move || lines.for_each(drop));
    (child, serde_json::from_str(&shown).unwrap_or_else(|_| panic!("no code was shown: {shown}")))
}

/// What the command ended with.
async fn ended(mut child: Child) -> i32 {
    eventually(|| {
        let status = child.try_wait().unwrap();
        async move { status.map(|status| status.code().unwrap()) }
    })
    .await
}

async fn connections(scene: &Scene) -> usize {
    let answer = scene.platform(Method::GET, "/v1/connections?provider=lab", None).await;
    answer["connections"].as_array().unwrap().len()
}

on_each! {
    async fn a_person_without_a_browser_connects_by_a_code(on: On) {
        let scene = scene_of(on).await;
        let (child, shown) = waiting(&scene);
        assert!(text(&shown, "verification_uri").ends_with("/device"));
        assert!(scene.lab.answer_device(&text(&shown, "user_code"), Some("alice")));
        assert_eq!(ended(child).await, 0);
        assert_eq!(connections(&scene).await, 1);
    }

    async fn a_refusal_on_the_device_ends_the_command(on: On) {
        let scene = scene_of(on).await;
        let (child, shown) = waiting(&scene);
        assert!(scene.lab.answer_device(&text(&shown, "user_code"), None));
        assert_ne!(ended(child).await, 0);
        assert_eq!(connections(&scene).await, 0);
    }

    /// A link's sign-in goes on where every server was killed: what it needs is in the database.
    async fn a_sign_in_on_another_device_outlives_its_servers(on: On) {
        let mut scene = scene_of(on).await;
        let session = json!({ "provider": "lab", "owner": "site", "device": true });
        let session = scene.platform(Method::POST, "/v1/connect-sessions", Some(session)).await;
        let mut browser = Browser::new();
        let page = browser.open(&text(&session, "url")).await;
        let page = browser.press(&page, "Go on to Lab").await;
        let code = page.html.split("class=\"code\"><code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
        for server in std::mem::take(&mut scene.replicas) {
            server.kill();
        }
        assert!(scene.lab.answer_device(&code, Some("alice")));
        let server = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.push(server);
        let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
        let state = eventually(|| async {
            let state = text(&scene.platform(Method::GET, &path, None).await, "state");
            Some(state).filter(|state| state != "started")
        })
        .await;
        assert_eq!((state.as_str(), connections(&scene).await), ("connected", 1));
        let page = browser.open(page.url.as_str()).await;
        assert!(page.html.contains("The account of Lab is linked"), "{page:?}");
    }
}
