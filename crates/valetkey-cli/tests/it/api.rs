//! The whole description of the API, tried by a tool that none of us wrote: schemathesis makes up requests that fit it and requests
//! that do not, and no answer to any of them may be a 5xx. It asks as the operator, as a platform and as an agent, of a broker where
//! there is one of everything.

use std::{fs, path::Path, process::Command, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixStream};

use crate::{
    scene::{On, Plan, Scene, Usable, text},
    support::{Program, peer},
};

/// How many requests are made up for each operation, beside those that its parameters and members suggest by themselves.
const EXAMPLES: u32 = 5;
/// How long one run may take where many tests share two cores; alone it is about a minute.
const LONGEST: Duration = Duration::from_secs(900);

/// What a run is told. Every request that takes longer than any here may is a failure, so that a wait without an end is one.
fn settings() -> String {
    format!(
        r#"workers = 1
request-timeout = 20.0
continue-on-failure = true

[checks]
enabled = false

[checks.not_a_server_error]
enabled = true

[checks.the_answer_is_what_the_description_says]
enabled = true

[phases.stateful]
enabled = false

[generation]
max-examples = {EXAMPLES}
deterministic = true
database = "none"
"#
    )
}

/// A port of this machine behind which is the operator's socket: the tool speaks TCP alone. It is gone with the test.
async fn operator(scene: &Scene) -> String {
    let socket = scene.home.data().join("valetkey.sock");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut inside) = UnixStream::connect(&socket).await {
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                }
            });
        }
    });
    format!("http://{address}")
}

async fn made(scene: &Scene, path: &str, body: Value) -> Value {
    scene.platform(Method::POST, path, Some(body)).await
}

/// One of everything, and more of what is deleted on the way: what the parameters of paths and queries and the members of bodies can
/// be, by their names.
async fn one_of_everything(scene: &Scene, usable: &Usable) -> Value {
    let Usable { agent, connection, grant, .. } = usable;
    let client = json!({ "name": "Kept", "redirect_uris": ["http://127.0.0.1/cb"] });
    let client = made(scene, "/v1/clients", client).await;
    let hook = json!({ "url": "https://hooks.example.test/", "events": ["token.minted"] });
    let hook = made(scene, "/v1/webhooks", hook).await;
    let link = made(scene, "/v1/connect-sessions", json!({ "provider": "lab", "owner": "site" })).await;
    scene.home.json(&["site", "create", "other"]);

    let asking = scene.agent().await;
    let asked = json!({ "agent": asking, "connection": connection, "for_whom": "unattended", "effect": "ask" });
    made(scene, "/v1/grants", asked).await;
    let asking = scene.token(&asking).await;
    let held = scene.call(0, &asking.token, Method::POST, &format!("/v1/proxy/{connection}/echo"), Some(json!({}))).await;
    assert_eq!(held.status, StatusCode::ACCEPTED, "{held:?}");
    let wish = json!({ "provider": "lab", "for_whom": "unattended", "reason": "to be asked about" });
    let proposal = scene.call(0, &asking.token, Method::POST, "/v1/proposals", Some(wish)).await;
    assert_eq!(proposal.status, StatusCode::CREATED, "{proposal:?}");

    let (mut agents, mut connections, mut grants, mut tokens, mut clients) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..3 {
        let spare = scene.usable("lab").await;
        let client = made(scene, "/v1/clients", json!({ "name": "Spare", "redirect_uris": ["http://127.0.0.1/cb"] })).await;
        clients.push(text(&client, "id"));
        agents.push(spare.agent);
        connections.push(spare.connection);
        grants.push(spare.grant);
        tokens.push(spare.token.id);
    }
    json!({
        "agent": [agent],
        "connection": [connection, "lab"],
        "provider": ["lab", "reddit"],
        "user": ["42"],
        "person": ["42"],
        "path": ["me", "posts", "echo"],
        "owner": ["site", "user:42"],
        "for_whom": ["unattended", "operators", ["42"]],
        "delivery": [["proxy"], ["proxy", "reveal"]],
        "operations": [["GET /api/**"]],
        "site": ["default"],
        "connections.id": [connection],
        "grants.id": [grant],
        "approvals.id": [text(&held.body, "approval")],
        "proposals.id": [text(&proposal.body, "id")],
        "clients.id": [text(&client, "id")],
        "webhooks.id": [text(&hook, "id")],
        "connect-sessions.id": [text(&link, "id")],
        "people.id": ["42"],
        "sites.id": ["other"],
        "spare agent": agents,
        "spare connections.id": connections,
        "spare grants.id": grants,
        "spare tokens.id": tokens,
        "spare clients.id": clients,
        "spare people.id": ["43"],
        "spare user": ["43"],
        "spare provider": ["reddit"],
        "spare keys.id": [scene.platform_key("connect", "any").id],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_that_somebody_makes_up_breaks_the_server() {
    let mut plan = Plan::new(On::Sqlite);
    // The provider is as busy as everything else on this machine: that it answers late is no finding.
    plan.refresh = (20, 10);
    let scene = Scene::start(plan).await;
    let usable = scene.usable("lab").await;
    let known = one_of_everything(&scene, &usable).await.to_string();
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/peers");
    let (operator, server) = (operator(&scene).await, scene.replicas[0].url());
    let platform = format!("Authorization: Bearer {}", scene.key.key);
    let agent = format!("Authorization: Bearer {}", usable.token.token);
    // An agent is refused on most paths, which the others try.
    let of_agents = "^/(v1/(me|proxy|proposals|approvals|tokens|connections/.id./token)|access/)";
    // The operator's in two, for two cores.
    let runs: [(&str, &str, &[&str]); 4] = [
        ("operator", operator.as_str(), &["--exclude-path-regex", "^/v1/providers/"]),
        ("operator-of-accounts", operator.as_str(), &["--include-path-regex", "^/v1/providers/"]),
        ("platform", server.as_str(), &["--header", platform.as_str(), "--phases", "fuzzing"]),
        ("agent", server.as_str(), &["--header", agent.as_str(), "--include-path-regex", of_agents]),
    ];
    let mut running = Vec::new();
    for (who, url, arguments) in runs {
        let here = scene.home.folder().join(who);
        fs::create_dir(&here).unwrap();
        fs::write(here.join("schemathesis.toml"), settings()).unwrap();
        // It computes more than it waits; tests that have deadlines come first.
        let mut command = Command::new("nice");
        command.args(["-n", "10", peer("VALETKEY_TEST_PYTHON").as_str()]);
        let described = format!("{url}/openapi.json");
        command.args(["-B", "-m", "schemathesis.cli", "--no-color", "run", described.as_str(), "--url", url]);
        // The server ends a connection on which nothing comes for a while, and making up a request can take longer than that.
        command.args(["--header", "Connection: close"]);
        command.args(arguments).current_dir(&here);
        let variables = [
            ("SCHEMATHESIS_HOOKS", "schemathesis_hooks"),
            ("PYTHONPATH", hooks.to_str().unwrap()),
            ("KNOWN", known.as_str()),
            ("HOME", here.to_str().unwrap()),
        ];
        running.push((who, Program::start(command, &variables)));
    }
    for (who, program) in running {
        let ran = program.end_within(LONGEST).await;
        assert_eq!(ran.code, Some(0), "as {who}:\n{}\n{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(" passed"), "nothing was tried: {}", ran.stdout);
    }
    let server = &scene.replicas[0];
    assert_eq!(server.http().get(server.at("/readyz")).send().await.unwrap().status(), StatusCode::OK);
    assert!(!server.log().contains("panic"), "{}", server.log());
}
