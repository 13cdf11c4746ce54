//! Calls that wait for a person's word, with the real binary: answered at the command line, made once on whatever replica, and
//! not made again by a replica that comes back after it was killed.

use std::time::Duration;

use provider_lab::{At, Fault, Rule};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::scene::{Answer, On, PATIENCE, Scene, Usable, all, ask, on_each, text};

/// Another process's view of the broker, with an agent that must ask before it uses a site's account.
async fn asking(scene: &Scene) -> Usable {
    let connection = scene.connect("lab").await;
    let agent = scene.agent().await;
    let token = scene.token(&agent).await;
    let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": "ask" });
    let grant = text(&scene.platform(Method::POST, "/v1/grants", Some(grant)).await, "id");
    Usable { connection, agent, token, grant }
}

/// Makes a call at a server, with the approval that it names.
async fn call(http: &reqwest::Client, server: &str, usable: &Usable, approval: Option<&str>) -> reqwest::Result<Answer> {
    let mut request = http.post(format!("{server}/v1/proxy/{}/echo", usable.connection)).bearer_auth(&usable.token.token);
    if let Some(id) = approval {
        request = request.header("valet-approval", id);
    }
    Answer::read(request.json(&json!({ "say": "hello" })).send().await?).await
}

impl Scene {
    async fn call_with(&self, at: usize, usable: &Usable, approval: Option<&str>) -> Answer {
        call(&self.http, &self.replicas[at].url(), usable, approval).await.unwrap()
    }

    /// Makes the call, which is held.
    async fn held(&self, usable: &Usable) -> String {
        let answer = self.call_with(0, usable, None).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        text(&answer.body, "approval")
    }

    fn sent(&self) -> u64 {
        self.lab.requests("api")
    }
}

on_each! {
    async fn the_operator_answers_at_the_command_line_and_one_call_is_made(on: On) {
        let scene = Scene::usual(on).await;
        let usable = asking(&scene).await;
        let id = scene.held(&usable).await;
        let listed = scene.home.json(&["approval", "list"]);
        assert_eq!(listed["approvals"].as_array().unwrap().iter().map(|one| text(one, "id")).collect::<Vec<_>>(), std::slice::from_ref(&id));
        let table = scene.home.cli(&["approval", "show", &id]).ok();
        for said in ["POST", "/api/echo", "application/json", "pending"] {
            assert!(table.contains(said), "{said:?} is not in: {table}");
        }
        assert!(!table.contains("hello"), "{table}");

        let (http, last) = (scene.http.clone(), scene.replicas.len() - 1);
        let (poll, bearer) = (scene.replicas[last].at(&format!("/v1/approvals/{id}?wait=30")), usable.token.token.clone());
        let waiting = tokio::spawn(async move { ask(&http, &poll, &bearer, Method::GET, None).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let said = scene.home.cli(&["approval", "approve", &id]).ok();
        assert!(said.contains("is approved"), "{said}");
        let told = tokio::time::timeout(PATIENCE, waiting).await.expect("it waits on").unwrap();
        assert_eq!(told.body["status"], "approved", "{told:?}");

        let before = scene.sent();
        let calls = (0..8).map(|n| {
            let (http, usable, id) = (scene.http.clone(), usable.clone(), id.clone());
            let url = scene.replicas[n % scene.replicas.len()].url();
            async move { call(&http, &url, &usable, Some(&id)).await.unwrap() }
        });
        let (sent, refused): (Vec<_>, Vec<_>) = all(calls).await.into_iter().partition(|answer| answer.status == StatusCode::OK);
        assert_eq!((sent.len(), scene.sent() - before), (1, 1));
        for answer in refused {
            assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "approval_used"), "{answer:?}");
        }
    }

    async fn a_refusal_at_the_command_line_is_told_to_the_agent(on: On) {
        let scene = Scene::usual(on).await;
        let usable = asking(&scene).await;
        let id = scene.held(&usable).await;
        scene.home.cli(&["approval", "refuse", &id, "--reason", "not today"]).ok();
        let answer = scene.call_with(0, &usable, Some(&id)).await;
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, "approval_refused"), "{answer:?}");
        assert!(answer.text.contains("not today"), "{answer:?}");
        assert_eq!(scene.home.json(&["approval", "list"])["approvals"], json!([]));
        assert_eq!(scene.home.json(&["approval", "list", "--all"])["approvals"].as_array().unwrap().len(), 1);
    }

    /// The replica dies while the provider works on the call: nobody knows whether it was done, so it is not done again.
    async fn a_replica_killed_in_the_middle_of_an_approved_call_leaves_it_used(on: On) {
        let mut scene = Scene::usual(on).await;
        let usable = asking(&scene).await;
        let id = scene.held(&usable).await;
        scene.home.cli(&["approval", "approve", &id]).ok();
        let before = scene.sent();
        scene.lab.misbehave(Rule::once(At::Api, Fault::HoldAfter));
        let (http, url) = (scene.http.clone(), scene.replicas[0].url());
        let waiting = tokio::spawn({
            let (usable, id) = (usable.clone(), id.clone());
            async move { call(&http, &url, &usable, Some(&id)).await.is_ok() }
        });
        assert!(scene.lab.wait_until(PATIENCE, |lab| lab.held() == 1).await);
        scene.replicas.remove(0).kill();
        assert!(!waiting.await.unwrap(), "an answer came from a server that is dead");
        scene.lab.release();
        let again = scene.spawn(&scene.public_address(), &[]).await;
        scene.replicas.insert(0, again);
        for at in 0..scene.replicas.len() {
            let answer = scene.call_with(at, &usable, Some(&id)).await;
            assert_eq!((answer.status, answer.code()), (StatusCode::CONFLICT, "approval_used"), "{answer:?}");
        }
        assert_eq!(scene.sent() - before, 1);
    }

    async fn a_proposal_is_narrowed_and_accepted_at_the_command_line(on: On) {
        let scene = Scene::usual(on).await;
        let usable = asking(&scene).await;
        let wish = json!({
            "connection": usable.connection, "for_whom": "unattended", "operations": ["GET /api/me", "POST /api/posts"],
            "delivery": ["proxy", "reveal"], "reason": "to read the name",
        });
        let made = scene.call(0, &usable.token.token, Method::POST, "/v1/proposals", Some(wish)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let id = text(&made.body, "id");
        let shown = scene.home.cli(&["proposal", "show", &id]).ok();
        assert!(shown.contains("to read the name") && shown.contains("POST /api/posts"), "{shown}");
        let wider = scene.home.cli(&["proposal", "accept", &id, "--operation", "DELETE /api/me"]).failed(1);
        assert!(wider.contains("did not ask for"), "{wider}");
        let granted =
            scene.home.json(&["proposal", "accept", &id, "--operation", "GET /api/me", "--deliver", "proxy", "--expires", "7d"]);
        assert_eq!((&granted["operations"], &granted["delivery"]), (&json!(["GET /api/me"]), &json!(["proxy"])));
        let path = format!("/v1/proposals/{id}");
        let seen = scene.call(0, &usable.token.token, Method::GET, &path, None).await.body;
        assert_eq!((&seen["status"], &seen["grant"], &seen["decided_by"]), (&json!("accepted"), &granted["id"], &Value::Null));
        assert_eq!(scene.home.json(&["proposal", "list"])["proposals"], json!([]));
    }
}
