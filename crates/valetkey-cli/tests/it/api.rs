//! The whole description of the API, tried by a tool that none of us wrote: schemathesis makes up requests that fit it and requests
//! that do not, and no answer to any of them may be a 5xx. It asks as the operator, as a platform and as an agent, of a broker where
//! there is one of everything. What stands in no description of ours because standards describe it, the authorization server and the
//! MCP server, is described here for the tool, and tried in the same way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::{
    io::{self, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::{
    scene::{On, Plan, Scene, Usable, on_each, text},
    support::{Program, peer},
};

/// How many requests are made up for each operation, beside those that its parameters and members suggest by themselves.
const EXAMPLES: u32 = 5;
/// How long one run may take where many tests share two cores; alone it is about a minute.
const LONGEST: Duration = Duration::from_secs(900);

/// Who asks what the standards describe.
const CLIENT: &str = "oauth-client";
const MCP: &str = "mcp-client";

/// What a run is told. Every request that takes longer than any here may is a failure, so that a wait without an end is one. How long
/// the tool itself thinks about what to ask, on a machine with much else to do, is none.
fn settings() -> String {
    format!(
        r#"workers = 1
request-timeout = 60.0
continue-on-failure = true
suppress-health-check = ["too_slow"]

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
        while let Ok((outside, _)) = listener.accept().await {
            tokio::spawn(pass_on(outside, socket.clone()));
        }
    });
    format!("http://{address}")
}

/// Passes a request on, and the whole answer back whatever becomes of the request: a refusal can come, and the server close, before
/// the body was read. What is still sent then is read and dropped, for a port that is closed on unread bytes takes the answer along.
async fn pass_on(mut outside: TcpStream, socket: PathBuf) {
    let Ok(mut inside) = UnixStream::connect(&socket).await else { return };
    let (mut request, mut back) = outside.split();
    let (mut answer, mut onward) = inside.split();
    let passing = async {
        let _ = io::copy(&mut request, &mut onward).await;
        let _ = onward.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = io::copy(&mut answer, &mut back) => {}
        () = passing => {}
    }
    let _ = back.shutdown().await;
    let _ = tokio::time::timeout(Duration::from_secs(5), io::copy(&mut request, &mut io::sink())).await;
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

/// What the standards describe: what programs and browsers ask of the authorization server, and the MCP server. As much of it as is
/// needed to make requests up: a client that is there, and for everything else known words beside any.
fn of_the_standards(client: &Value, usable: &Usable) -> Value {
    let one = |value: &str| json!({ "type": "string", "enum": [value] });
    let any = json!({ "type": "string" });
    let known = |values: &[&str]| json!({ "anyOf": [{ "type": "string", "enum": values }, any] });
    let (id, secret, token) = (text(client, "id"), text(client, "client_secret"), usable.token.token.as_str());
    let (place, connection) = ("http://127.0.0.1/cb", format!("connection:{}", usable.connection));
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    let kinds = ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"];
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let answers: Value =
        ["200", "201", "202", "204", "303"].map(|status| (status, json!({ "description": "done" }))).into_iter().collect();
    // The parameters of all endpoints are those of each: what one does not know it leaves alone.
    let parameters = [
        ("grant_type", known(&["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code", exchange])),
        ("subject_token", known(&[token])),
        ("subject_token_type", known(&kinds)),
        ("actor_token", known(&[token])),
        ("actor_token_type", known(&kinds)),
        ("requested_token_type", known(&kinds)),
        ("audience", known(&["lab", connection.as_str()])),
        ("resource", known(&["https://keys.example.test/mcp"])),
        ("scope", known(&["proxy", "proxy reveal", "provider:lab"])),
        ("token", known(&[token])),
        ("redirect_uri", known(&[place])),
        ("response_type", known(&["code"])),
        ("code_challenge", known(&[challenge])),
        ("code_challenge_method", known(&["S256"])),
        ("code", any.clone()),
        ("code_verifier", any.clone()),
        ("device_code", any.clone()),
        ("refresh_token", any.clone()),
        ("session", known(&["night"])),
        ("task", known(&["post-1"])),
        ("approval", any.clone()),
        ("state", any.clone()),
    ];
    let form = || {
        let mut properties: Map<String, Value> =
            parameters.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect();
        properties.extend([("client_id".to_owned(), one(&id)), ("client_secret".to_owned(), one(&secret))]);
        let schema = json!({ "type": "object", "properties": properties, "required": ["client_id", "client_secret"],
                             "additionalProperties": false });
        let body = json!({ "required": true, "content": { "application/x-www-form-urlencoded": { "schema": schema } } });
        json!({ "post": { "requestBody": body, "responses": answers } })
    };
    let json_of = |schema: Value| {
        let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        json!({ "post": { "requestBody": body, "responses": answers } })
    };
    let page = |names: &[(&str, Value)]| {
        let parameters: Vec<_> =
            names.iter().map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema })).collect();
        json!({ "get": { "parameters": parameters, "responses": answers } })
    };
    let asked: Vec<_> = parameters.iter().cloned().chain([("client_id", one(&id))]).collect();
    let words = json!({ "type": "array", "items": { "type": "string" } });
    let client = json!({ "type": "object", "properties": {
        "client_name": { "type": "string" },
        "redirect_uris": { "type": "array", "items": known(&[place]) },
        "grant_types": words, "response_types": words, "scope": { "type": "string" },
        "token_endpoint_auth_method": known(&["none", "client_secret_basic", "client_secret_post"]),
    } });
    let arguments = json!({ "type": "object", "properties": {
        "connection": known(&[usable.connection.as_str(), "lab"]), "provider": known(&["lab"]), "reason": { "type": "string" },
        "method": known(&["GET", "POST"]), "path": known(&["/me", "/echo"]), "body": { "type": "string" }, "id": { "type": "string" },
        "limit": { "type": "integer" }, "after": { "type": "string" }, "token": { "type": "string" }, "wait": { "type": "integer", "maximum": 1 },
    } });
    let message = json!({ "type": "object", "required": ["jsonrpc", "id", "method"], "properties": {
        "jsonrpc": one("2.0"), "id": { "type": "integer" }, "method": known(&["initialize", "ping", "tools/list", "tools/call"]),
        "params": { "type": "object", "properties": {
            "name": known(&["list", "connect", "request", "call", "status"]), "arguments": arguments, "protocolVersion": { "type": "string" },
        } },
    } });
    json!({ "openapi": "3.0.3", "info": { "title": "what the standards describe", "version": "1" }, "paths": {
        "/oauth/authorize": page(&asked),
        "/oauth/device": page(&[("user_code", known(&["BCDF-GHJK"]))]),
        "/oauth/token": form(),
        "/oauth/device_authorization": form(),
        "/oauth/introspect": form(),
        "/oauth/revoke": form(),
        "/oauth/register": json_of(client),
        "/.well-known/oauth-authorization-server": page(&[]),
        "/.well-known/oauth-protected-resource": page(&[]),
        "/.well-known/oauth-protected-resource/mcp": page(&[]),
        "/mcp": json_of(message),
    } })
}

on_each! {
    async fn no_request_that_somebody_makes_up_breaks_the_server(on: On) {
        let mut plan = Plan::new(on);
        // The provider is as busy as everything else on this machine: that it answers late is no finding.
        plan.refresh = (20, 10);
        let scene = Scene::start(plan).await;
        let usable = scene.usable("lab").await;
        let known = one_of_everything(&scene, &usable).await.to_string();
        scene.home.cli(&["client", "registration", "on"]).ok();
        let all = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"];
        let client = json!({ "name": "Tried", "confidential": true, "redirect_uris": ["http://127.0.0.1/cb"], "grant_types": all });
        let standards = of_the_standards(&made(&scene, "/v1/clients", client).await, &scene.usable("lab").await);
        let described_here = scene.home.folder().join("standards.json");
        fs::write(&described_here, standards.to_string()).unwrap();
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/peers");
        let server = scene.replicas[0].url();
        let bearer = |secret: &str| format!("Authorization: Bearer {secret}");
        let (platform, agent) = (bearer(&scene.key.key), bearer(&usable.token.token));
        // The operator's socket is on SQLite alone; on PostgreSQL the platform's key, which has every scope, stands in.
        let (most_may, as_most) = match on {
            On::Sqlite => (operator(&scene).await, vec![]),
            On::Postgres => (server.clone(), vec!["--header", platform.as_str()]),
        };
        // An agent is refused on most paths, which the others try.
        let of_agents = "^/(v1/(me|proxy|proposals|approvals|tokens|connections/.id./token)|access/)";
        let streams = "Accept: application/json, text/event-stream";
        // Those that the standards describe have few members each, and are cheap: more is made up for each.
        let (mcp, most) = ("^/mcp$", "60");
        let fuzzing = ["--phases", "fuzzing"];
        let more = ["--phases", "fuzzing", "--max-examples", most];
        // What may do most in two, for two cores.
        let runs: [(&str, &str, Vec<&str>); 6] = [
            ("most", &most_may, [&["--exclude-path-regex", "^/v1/providers/"][..], &as_most].concat()),
            ("most-of-accounts", &most_may, [&["--include-path-regex", "^/v1/providers/"][..], &as_most].concat()),
            ("platform", &server, [&["--header", &platform][..], &fuzzing].concat()),
            ("agent", &server, vec!["--header", &agent, "--include-path-regex", of_agents]),
            (CLIENT, &server, [&["--exclude-path-regex", mcp][..], &more].concat()),
            (MCP, &server, [&["--include-path-regex", mcp, "--header", &agent, "--header", streams][..], &more].concat()),
        ];
        let mut running = Vec::new();
        for (who, url, arguments) in runs {
            let here = scene.home.folder().join(who);
            fs::create_dir(&here).unwrap();
            fs::write(here.join("schemathesis.toml"), settings()).unwrap();
            // It computes more than it waits; tests that have deadlines come first.
            let mut command = Command::new("nice");
            command.args(["-n", "10", peer("VALETKEY_TEST_PYTHON").as_str()]);
            let described = match who {
                CLIENT | MCP => described_here.to_str().unwrap().to_owned(),
                _ => format!("{url}/openapi.json"),
            };
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
}
