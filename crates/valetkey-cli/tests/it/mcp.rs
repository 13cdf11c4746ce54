//! The MCP server and `valetkey mcp` with the official client from npm: over HTTP with a token that was given, over HTTP with one that
//! the client gets by itself, and over standard input and output.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use reqwest::{
    Method, StatusCode,
    header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE},
};
use serde_json::{Value, json};
use url::Url;
use valetkey::{
    clock::Clock,
    platform::{self, Purpose},
    secret::Secret,
};

use crate::{
    scene::{On, PATIENCE, Scene, on_each, text},
    support::command,
};

const BINARY: &str = env!("CARGO_BIN_EXE_valetkey");
/// The origin of the page by which people sign in.
const PLATFORM: &str = "https://platform.example";
const CALLBACK: &str = "http://127.0.0.1:9/callback";

/// The client, a program of node's.
struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Program {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/peers/mcp-client.mjs");
        let modules: PathBuf = std::env::var_os("VALETKEY_TEST_NODE_MODULES")
            .expect("VALETKEY_TEST_NODE_MODULES is not set: run ./scripts/test, or ./scripts/test --peers for a shell")
            .into();
        let mut command = Command::new("node");
        command.arg(script).args(arguments).env_clear().env("VALETKEY_TEST_NODE_MODULES", modules);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("node cannot be started");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, stdin, lines }
    }

    /// The next thing it says, in which there is no credential.
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("the client says nothing");
        for mark in [provider_lab::ACCESS_PREFIX, provider_lab::REFRESH_PREFIX, "vk_", "vkr_"] {
            assert!(!line.contains(mark), "a credential came to the client: {line}");
        }
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, line: &Value) -> Value {
        writeln!(self.stdin, "{line}").unwrap();
        self.next()
    }

    /// What a tool tells. The client has compared it with the tool's schema.
    fn tool(&mut self, name: &str, arguments: &Value) -> Value {
        let told = self.ask(&json!({ "tool": name, "arguments": arguments }));
        assert_eq!(told["isError"], false, "{told}");
        told["structuredContent"].clone()
    }

    /// The code by which a tool has no result.
    fn refused(&mut self, name: &str, arguments: &Value) -> String {
        let told = self.ask(&json!({ "tool": name, "arguments": arguments }));
        assert_eq!(told["isError"], true, "{told}");
        text(&told["structuredContent"], "code")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that an agent does by its tools, with a call that must wait for the operator's word.
fn uses_its_tools(scene: &Scene, program: &mut Program, connection: &str) {
    let names = program.ask(&json!({ "tools": true }));
    let names: Vec<_> = names.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["list", "connect", "request", "call", "status", "revoke"]);

    let listed = program.tool("list", &json!({}));
    assert_eq!(listed["connections"][0]["id"], connection, "{listed}");

    let made = program.tool("call", &json!({ "connection": connection, "method": "GET", "path": "/me" }));
    assert_eq!((&made["outcome"], &made["status"]), (&json!("answered"), &json!(200)), "{made}");
    assert!(made["body"].as_str().unwrap().contains("alice"), "{made}");
    let call = json!({ "connection": connection, "method": "GET", "path": "/echo-credential" });
    assert_eq!(program.refused("call", &call), "credential_path");

    let mut call = json!({ "connection": connection, "method": "POST", "path": "/echo", "body": "{\"say\":\"hello\"}" });
    let held = program.tool("call", &call);
    assert_eq!(held["outcome"], "approval_required", "{held}");
    let id = text(&held, "approval");
    assert_eq!(program.tool("status", &json!({ "id": id }))["status"], "pending");
    scene.home.cli(&["approval", "approve", &id]).ok();
    assert_eq!(program.tool("status", &json!({ "id": id, "wait": 30 }))["status"], "approved");
    call["approval"] = id.into();
    let made = program.tool("call", &call);
    assert_eq!((&made["outcome"], &made["status"]), (&json!("answered"), &json!(200)), "{made}");
    assert_eq!(program.refused("call", &call), "approval_used");

    let wish = json!({ "provider": "lab", "for_whom": "unattended", "reason": "to look around" });
    let asked = program.tool("connect", &wish);
    // A person is asked on their page, and whoever administers the site by a command.
    let place = asked["page"].as_str().or(asked["command"].as_str()).unwrap();
    assert!(place.contains(&text(&asked, "id")), "{asked}");
    let wish =
        json!({ "connection": connection, "operations": ["POST /api/posts"], "for_whom": "unattended", "reason": "to post" });
    let asked = program.tool("request", &wish);
    assert_eq!(program.tool("status", &json!({ "id": asked["id"] }))["status"], "pending");
}

/// An agent without a person, that may use an account of the site, and must ask before it posts; its token.
async fn equipped(scene: &Scene) -> (String, crate::scene::Token) {
    let connection = scene.connect("lab").await;
    let agent = scene.agent().await;
    let token = scene.token(&agent).await;
    for (effect, operations) in [("allow", Value::Null), ("ask", json!(["POST /api/echo"]))] {
        let mut grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": effect });
        if !operations.is_null() {
            grant["operations"] = operations;
        }
        scene.platform(Method::POST, "/v1/grants", Some(grant)).await;
    }
    (connection, token)
}

on_each! {
    async fn the_official_client_works_over_http_with_a_token_that_it_was_given(on: On) {
        let scene = Scene::usual(on).await;
        let (connection, token) = equipped(&scene).await;
        // The last replica, which is not where browsers are sent.
        let url = scene.replicas.last().unwrap().at("/mcp");
        let mut program = Program::start(&["http", &url], &[("MCP_TOKEN", &token.token)]);
        assert_eq!(program.next()["ready"]["name"], "valetkey");
        uses_its_tools(&scene, &mut program, &connection);
        assert_eq!(program.tool("revoke", &json!({ "token": token.id })), json!({ "revoked": token.id }));
        let dead = program.ask(&json!({ "tool": "list", "arguments": {} }));
        assert!(dead["error"].as_str().is_some_and(|text| text.contains("unauthenticated")), "{dead}");
    }

    async fn the_official_client_works_over_standard_input(on: On) {
        let scene = Scene::usual(on).await;
        let (connection, token) = equipped(&scene).await;
        let home = scene.home.folder().display().to_string();
        let broker = scene.replicas.last().unwrap().url();
        let variables = [("VALETKEY_TOKEN", token.token.as_str()), ("VALETKEY_PUBLIC_URL", broker.as_str()), ("HOME", home.as_str())];
        let mut program = Program::start(&["stdio", BINARY, "mcp"], &variables);
        assert_eq!(program.next()["ready"]["name"], "valetkey");
        uses_its_tools(&scene, &mut program, &connection);
        program.tool("revoke", &json!({ "token": token.id }));
        assert_eq!(program.refused("list", &json!({})), "unauthenticated");
    }

    /// It knows nothing but the address: the 401 leads it to the metadata, it registers itself, and a person lets it in.
    async fn the_official_client_gets_its_token_by_itself(on: On) {
        let scene = Scene::usual(on).await;
        let key = scene.platform_key("signin,agents", "any");
        scene.home.cli(&["site", "set", "--signin-url", &format!("{PLATFORM}/enter")]).ok();
        scene.platform(Method::PUT, "/v1/client-registration", Some(json!({ "open": true }))).await;
        let made = scene.platform(Method::POST, "/v1/agents", Some(json!({ "slug": "helper", "owner": "alice" }))).await;
        let agent = text(&made, "id");

        let broker = scene.public_url();
        let mut program = Program::start(&["oauth", &format!("{broker}/mcp"), CALLBACK], &[]);
        let open: Url = text(&program.next(), "open").parse().unwrap();
        let asked = |name: &str| open.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
        assert_eq!(asked("resource").as_deref(), Some(format!("{broker}/mcp").as_str()), "{open}");
        assert_eq!(asked("code_challenge_method").as_deref(), Some("S256"));

        // Alice's browser.
        let (id, secret) = (key.id.parse().unwrap(), Secret::new(key.assertion_secret.as_str()));
        let word = platform::sign_for(&id, &secret, &"alice".parse().unwrap(), Purpose::SignIn, Clock::System.now()).unwrap();
        let form = [("assertion", word.expose())];
        let answer = scene.http.post(format!("{broker}/signin")).header(ORIGIN, PLATFORM).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = scene.http.get(open.clone()).header(COOKIE, &cookie).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("Nobody here vouches for this program") && page.contains("The client of the tests"), "{page}");
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
        let form = [("csrf", csrf), ("decision", "allow"), ("agent", agent.as_str()), ("scope", "proxy"), ("life", "1d")];
        let answer = scene.http.post(open.clone()).header(COOKIE, &cookie).header(ORIGIN, broker).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{}", answer.text().await.unwrap());
        let back = answer.headers()[LOCATION].to_str().unwrap().to_owned();
        assert!(back.starts_with(CALLBACK), "{back}");

        assert_eq!(program.ask(&json!({ "back": back }))["ready"]["name"], "valetkey");
        let listed = program.tool("list", &json!({}));
        assert_eq!((&listed["agent"], &listed["user"]), (&json!(agent), &json!("alice")));
        // Giving up the token ends what Alice consented to, so the client is not let in again by its refresh token.
        program.tool("revoke", &json!({ "token": listed["token"] }));
        assert_eq!(scene.home.json(&["audit", "list"])["events"].as_array().unwrap().iter().filter(|event| event["action"] == "token.revoke").count(), 1);
        let after = program.ask(&json!({ "tool": "list", "arguments": {} }));
        assert!(after.get("open").is_some() || after.get("error").is_some(), "{after}");
    }
}

/// What an MCP client reads is MCP, whatever is logged; and nothing that is logged holds the token or a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_mcp_goes_to_standard_output() {
    let scene = Scene::usual(On::Sqlite).await;
    let (connection, token) = equipped(&scene).await;
    let mut variables = scene.home.variables().to_vec();
    variables.extend(
        [("VALETKEY_TOKEN", token.token.as_str()), ("VALETKEY_LOG", "trace")].map(|(name, value)| (name.into(), value.into())),
    );
    let mut child =
        command(&variables, &["mcp"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    let call = json!({ "connection": connection, "method": "POST", "path": "/nothing", "body": "a canary" });
    for line in [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "call", "arguments": call } }),
    ] {
        writeln!(stdin, "{line}").unwrap();
    }
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Read beside, so that it never waits for us.
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).map(|_| log)
    });
    for id in [1, 2] {
        let line = lines.next().unwrap().unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((&said["jsonrpc"], &said["id"]), (&json!("2.0"), &json!(id)), "{line}");
    }
    drop(stdin);
    assert!(lines.next().is_none());
    let log = reading.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success() && !log.is_empty(), "{log}");
    for secret in [token.token.as_str(), "a canary"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_a_token_or_a_broker_says_what_to_do() {
    let mut home = crate::support::Home::sqlite();
    assert!(home.cli(&["mcp"]).failed(2).contains("VALETKEY_TOKEN"));
    let file = home.folder().join("token");
    std::fs::write(&file, "vkp_is-a-platforms\n").unwrap();
    let said = home.cli(&["mcp", "--token-file", file.to_str().unwrap()]).failed(2);
    assert!(said.contains("no agent's token") && !said.contains("vkp_is"), "{said}");

    // A right token, and nobody there.
    let token = format!("datamachine_a_{}", "0".repeat(64));
    std::fs::write(&file, format!("{token}\n")).unwrap();
    home.set("VALETKEY_PUBLIC_URL", "http://127.0.0.1:9");
    let data = home.folder().display().to_string();
    let variables = [("VALETKEY_PUBLIC_URL", "http://127.0.0.1:9"), ("HOME", data.as_str())];
    let mut program = Program::start(&["stdio", BINARY, "mcp", "--token-file", file.to_str().unwrap()], &variables);
    assert_eq!(program.next()["ready"]["name"], "valetkey");
    assert_eq!(program.refused("list", &json!({})), "unavailable");
}
