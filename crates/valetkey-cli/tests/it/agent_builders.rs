//! The programs of docs/for-agent-builders.md, as they stand there, against the real binary: what somebody does who has the usual
//! libraries and no SDK of ours.
//!
//! Those of OAuth are at the same time what a stock client library does by configuration alone: Authlib in Python and openid-client in
//! TypeScript find the endpoints in our metadata, and speak the code flow with PKCE, the device grant, refreshing, exchange,
//! introspection and revocation. No line of ours stands between them and the broker.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use valetkey::{
    clock::Clock,
    platform::{self, Purpose},
    secret::Secret,
};

use crate::{
    scene::{On, Scene, Usable, approve, eventually, on_each, text},
    support::{Browser, Page, Program, peer},
};

/// The programs that are run here, each in both languages.
const RUN: [&str; 10] = ["ask_for", "chain", "device", "exchange", "keep", "mcp_local", "mcp_post", "post", "reveal", "sign_in"];
/// What they are made of.
const PARTS: [&str; 3] = ["broker.py", "broker.ts", "oauth.ts"];
/// As the page says, checked strictly; `erasableSyntaxOnly` because a newer node only leaves the types away.
const TSC: [&str; 14] = [
    "--strict",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--types",
    "node",
    "--erasableSyntaxOnly",
    "--rewriteRelativeImportExtensions",
    "--skipLibCheck",
    "--noEmitOnError",
    "--pretty",
    "false",
    "--outDir",
];
/// The page that signs people in at their platform; nobody opens it.
const PLATFORM: &str = "https://platform.example";

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    TypeScript,
}

const BOTH: [Language; 2] = [Language::Python, Language::TypeScript];

/// The programs on the page: what their blocks say they are called, and their text.
fn on_the_page() -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/for-agent-builders.md")).unwrap();
    let mut programs = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (head, body) = block.split_once('\n').unwrap();
        if let Some((_, name)) = head.split_once(' ') {
            programs.push((name.to_owned(), format!("{body}\n")));
        }
    }
    programs
}

/// A folder with the programs of the page, and what the compiler made of those in TypeScript.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("for-agent-builders");
        // What an earlier run left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let programs = on_the_page();
        for (name, text) in &programs {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::write(folder.join("package.json"), r#"{ "type": "module" }"#).unwrap();
        symlink(peer("VALETKEY_TEST_NODE_MODULES"), folder.join("node_modules")).unwrap();
        let mut compile = Command::new("node");
        compile.current_dir(&folder).arg("node_modules/typescript/bin/tsc").args(TSC).arg("out");
        compile.args(programs.iter().map(|(name, _)| name).filter(|name| name.ends_with(".ts")));
        let compiled = compile.output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));
        folder
    })
}

/// Starts a program of the page, in a folder that those of one language share.
fn start(scene: &Scene, language: Language, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Program {
    assert!(RUN.contains(&name), "{name} is not among those that the page is compared with");
    let here = scene.home.folder().join(format!("{language:?}"));
    fs::create_dir_all(&here).unwrap();
    let mut command = match language {
        Language::Python => {
            let mut command = Command::new(peer("VALETKEY_TEST_PYTHON"));
            // It leaves no compiled files behind.
            command.arg("-B").arg(folder().join(format!("{name}.py")));
            command
        }
        Language::TypeScript => {
            let mut command = Command::new("node");
            command.arg(folder().join("out").join(format!("{name}.js")));
            command
        }
    };
    command.args(arguments).current_dir(here);
    Program::start(command, &[&[("BROKER", scene.public_url())], variables].concat())
}

/// Alice's browser, signed in at the broker by the word of her platform.
async fn alice(scene: &Scene) -> Browser {
    scene.home.cli(&["site", "set", "--signin-url", PLATFORM]).ok();
    let key = scene.platform_key("signin", "any");
    let (id, secret) = (key.id.parse().unwrap(), Secret::new(key.assertion_secret.as_str()));
    let signed = platform::sign_for(&id, &secret, &"alice".parse().unwrap(), Purpose::SignIn, Clock::System.now()).unwrap();
    let mut browser = Browser::new();
    let form = [("assertion", signed.expose()), ("return_to", "/")];
    let page = browser.post_from(PLATFORM, &format!("{}/signin", scene.public_url()), &form).await;
    assert_eq!(page.status, StatusCode::OK, "{page:?}");
    browser
}

/// Alice connects her account, in the browser in which she is signed in.
async fn account_of_alice(scene: &Scene, browser: &mut Browser) -> String {
    let session = json!({ "provider": "lab", "owner": "user:alice" });
    let session = scene.platform(Method::POST, "/v1/connect-sessions", Some(session)).await;
    let page = browser.open(&text(&session, "url")).await;
    let done = approve(browser, &page).await;
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    let path = format!("/v1/connect-sessions/{}", text(&session, "id"));
    text(&scene.platform(Method::GET, &path, None).await, "connection")
}

/// The commands of the block that begins with this one, as a shell takes them apart: without what is said behind them.
fn commands(first: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/for-agent-builders.md")).unwrap();
    let block =
        page.split("```sh\n").find(|block| block.starts_with(first)).unwrap_or_else(|| panic!("no block begins with {first}"));
    let (block, _) = block.split_once("\n```").unwrap();
    let words = |line: &str| -> Vec<String> {
        let line = line.split(" #").next().unwrap();
        let parts = line.split('"').enumerate();
        parts
            .flat_map(|(n, part)| match n % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
                _ => vec![part.to_owned()],
            })
            .collect()
    };
    block.lines().map(words).collect()
}

/// An agent of alice's, which may use an account for whoever operates it.
async fn agent_of_alice(scene: &Scene) -> String {
    let connection = scene.connect("lab").await;
    let agent = scene.platform(Method::POST, "/v1/agents", Some(json!({ "slug": "helper", "owner": "alice" }))).await;
    let agent = text(&agent, "id");
    let grant = json!({ "agent": agent, "connection": connection, "for_whom": "operators" });
    scene.platform(Method::POST, "/v1/grants", Some(grant)).await;
    agent
}

/// The call that waits for an answer, once one does.
async fn waiting(scene: &Scene) -> String {
    eventually(|| async {
        let listed = scene.platform(Method::GET, "/v1/approvals?waiting=true", None).await;
        listed["approvals"][0]["id"].as_str().map(str::to_owned)
    })
    .await
}

/// Alice says yes on the page of consent.
async fn consent(browser: &mut Browser, page: &Page, client: &str, agent: &str) -> Page {
    assert!(page.html.contains(client) && page.html.contains("alice"), "{page:?}");
    browser.press_with(page, "Allow", &[("agent", agent), ("life", "1h")]).await
}

#[test]
fn every_program_of_the_page_is_run_in_both_languages() {
    let on_the_page: BTreeSet<String> = on_the_page().into_iter().map(|(name, _)| name).collect();
    let run = RUN.into_iter().flat_map(|name| [format!("{name}.py"), format!("{name}.ts")]);
    assert_eq!(on_the_page, run.chain(PARTS.map(str::to_owned)).collect::<BTreeSet<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_posts_through_a_grant_once_a_person_said_yes() {
    let scene = Scene::usual(On::Sqlite).await;
    let connection = scene.connect("lab").await;
    let agent = scene.agent().await;
    let token = scene.token(&agent).await;
    let post =
        |language: Language, text: &str| start(&scene, language, "post", &["lab", text], &[("TOKEN", token.token.as_str())]);
    for language in BOTH {
        let refused = post(language, "too early").end().await.failed(1);
        assert!(refused.contains("not allowed, so ask for it: no_credentials"), "{refused}");
    }
    let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": "ask" });
    scene.platform(Method::POST, "/v1/grants", Some(grant)).await;
    for language in BOTH {
        let words = format!("from {language:?}");
        let program = post(language, &words);
        let asked = waiting(&scene).await;
        scene.home.cli(&["approval", "approve", &asked]).ok();
        let ran = program.end().await;
        // The account is the site's, so no page shows it.
        assert!(ran.stderr.contains(&format!("valetkey approval approve {asked}")), "{ran:?}");
        let said = ran.ok();
        assert!(said.contains(&format!("may use: {connection} lab")) && said.contains(&format!("posted: {words}")), "{said}");

        // A no stands for that very call, so each makes its own.
        let program = post(language, &format!("nobody wants this {language:?}"));
        let asked = waiting(&scene).await;
        scene.home.cli(&["approval", "refuse", &asked, "--reason", "not today"]).ok();
        let refused = program.end().await.failed(1);
        assert!(refused.contains("approval_refused: not today"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_posts_by_mcp_with_the_official_clients() {
    let scene = Scene::usual(On::Sqlite).await;
    let connection = scene.connect("lab").await;
    let agent = scene.agent().await;
    let token = scene.token(&agent).await;
    let post =
        |language: Language, text: &str| start(&scene, language, "mcp_post", &["lab", text], &[("TOKEN", token.token.as_str())]);
    for language in BOTH {
        let refused = post(language, "too early").end().await.failed(1);
        assert!(refused.contains("no_credentials: "), "{refused}");
    }
    let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "effect": "ask" });
    scene.platform(Method::POST, "/v1/grants", Some(grant)).await;
    for language in BOTH {
        let words = format!("by MCP from {language:?}");
        let program = post(language, &words);
        scene.home.cli(&["approval", "approve", &waiting(&scene).await]).ok();
        let said = program.end().await.ok();
        assert!(said.starts_with("tools: list connect request call status revoke\n"), "{said}");
        assert!(said.contains(&format!("posted: {words}")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_sees_what_it_may_use_by_the_command_that_speaks_mcp() {
    let scene = Scene::usual(On::Sqlite).await;
    let usable = scene.usable("lab").await;
    let home = scene.home.folder().to_str().unwrap();
    for language in BOTH {
        let variables = [("TOKEN", usable.token.token.as_str()), ("VALETKEY", env!("CARGO_BIN_EXE_valetkey")), ("HOME", home)];
        let said = start(&scene, language, "mcp_local", &[], &variables).end().await.ok();
        assert_eq!(said, format!("may use: {} lab\n", usable.connection));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_hears_which_accounts_there_are_and_that_its_token_is_over() {
    let scene = Scene::usual(On::Sqlite).await;
    let usable = scene.usable("lab").await;
    let other = scene.connect("lab").await;
    scene.grant(&usable.agent, &other).await;
    let post = |language: Language, account: &str| {
        start(&scene, language, "post", &[account, "hello"], &[("TOKEN", usable.token.token.as_str())])
    };
    for language in BOTH {
        let ran = post(language, "lab").end().await;
        for choice in [&usable.connection, &other] {
            assert!(ran.stdout.contains(&format!("name one of: {choice}")), "{ran:?}");
        }
        assert!(ran.failed(1).contains("several accounts"));
        assert!(post(language, &other).end().await.ok().contains("posted: hello"));
    }
    scene.platform(Method::DELETE, &format!("/v1/tokens/{}", usable.token.id), None).await;
    for language in BOTH {
        let refused = post(language, &other).end().await.failed(1);
        assert!(refused.contains("the token is over"), "{refused}");
    }
}

/// The same way it waits while an account is renewed: both answers carry `Retry-After`, and say that nothing was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_too_fast_waits_as_it_is_told_and_then_posts() {
    let scene = Scene::usual(On::Sqlite).await;
    for language in BOTH {
        let (connection, agent) = (scene.connect("lab").await, scene.agent().await);
        let token = scene.token(&agent).await;
        let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "rate": "1/4s" });
        let grant = text(&scene.platform(Method::POST, "/v1/grants", Some(grant)).await, "id");
        let usable = Usable { connection, agent, token, grant };
        assert_eq!(scene.proxy(0, &usable, "me").await.status, StatusCode::OK);
        let used = Instant::now();
        let variables = [("TOKEN", usable.token.token.as_str())];
        let program = start(&scene, language, "post", &[usable.connection.as_str(), "in time"], &variables);
        assert!(program.end().await.ok().contains("posted: in time"));
        assert!(used.elapsed() > Duration::from_secs(3), "nobody waited");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_is_shown_as_claimed_and_ends_where_it_is_too_deep() {
    let scene = Scene::usual(On::Sqlite).await;
    let token = scene.token(&scene.agent().await).await;
    for language in BOTH {
        let chain = |depth: &str| start(&scene, language, "chain", &[depth], &[("TOKEN", token.token.as_str())]);
        assert_eq!(chain("1").end().await.ok().to_lowercase().trim(), "planner 1 true");
        assert_eq!(chain("3").end().await.failed(1).trim(), "429 chain_too_deep");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_asks_for_access_and_uses_what_a_person_granted() {
    let scene = Scene::usual(On::Sqlite).await;
    let connection = scene.connect("lab").await;
    let mut asking = Vec::new();
    for language in BOTH {
        let token = scene.token(&scene.agent().await).await.token;
        let variables = [("TOKEN", token.as_str()), ("FOR_WHOM", "unattended")];
        let mut program = start(&scene, language, "ask_for", &["lab"], &variables);
        let line = program.line().await;
        let id = line.split(' ').nth(1).unwrap();
        assert!(line.starts_with("asked: pro_") && line.ends_with(&format!("valetkey proposal accept {id}")), "{line}");
        scene.home.cli(&["proposal", "accept", id, "--connection", &connection]).ok();
        asking.push((language, program, token));
    }
    for (language, program, token) in asking {
        assert!(program.end().await.ok().contains(&format!("granted: {connection}")));
        let said = start(&scene, language, "post", &["lab", "the weekly report"], &[("TOKEN", token.as_str())]).end().await.ok();
        assert!(said.contains("posted: the weekly report"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_asks_the_person_it_acts_for_and_uses_what_they_let_it() {
    let scene = Scene::usual(On::Sqlite).await;
    let mut browser = alice(&scene).await;
    let connection = account_of_alice(&scene, &mut browser).await;
    let mut asking = Vec::new();
    for language in BOTH {
        let agent = json!({ "slug": scene.fresh("agent"), "owner": "alice" });
        let agent = text(&scene.platform(Method::POST, "/v1/agents", Some(agent)).await, "id");
        let token = json!({ "label": "hers", "person": "alice" });
        let token = scene.platform(Method::POST, &format!("/v1/agents/{agent}/tokens"), Some(token)).await;
        let token = text(&token, "token");
        let mut program = start(&scene, language, "ask_for", &["lab"], &[("TOKEN", token.as_str())]);
        let line = program.line().await;
        let page = browser.open(line.rsplit(' ').next().unwrap()).await;
        let page = browser.press_with(&page, "Let it", &[("days", "30")]).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        asking.push((language, program, token));
    }
    for (language, program, token) in asking {
        assert!(program.end().await.ok().contains(&format!("granted: {connection}")));
        let said = start(&scene, language, "post", &["lab", "the weekly report"], &[("TOKEN", token.as_str())]).end().await.ok();
        assert!(said.contains("posted: the weekly report"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_handed_out_where_a_grant_says_so_and_is_not_printed() {
    let scene = Scene::usual(On::Sqlite).await;
    let usable = scene.usable("lab").await;
    let narrow = scene.agent().await;
    let narrow_token = scene.token(&narrow).await;
    let grant = json!({ "agent": narrow, "connection": usable.connection, "for_whom": "unattended" });
    scene.platform(Method::POST, "/v1/grants", Some(grant)).await;
    for language in BOTH {
        let reveal = |token: &str| start(&scene, language, "reveal", &[usable.connection.as_str()], &[("TOKEN", token)]);
        let said = reveal(&usable.token.token).end().await.ok();
        assert!(said.to_lowercase().starts_with("lab bearer until 2") && !said.contains(provider_lab::ACCESS_PREFIX), "{said}");
        let refused = reveal(&narrow_token.token).end().await.failed(1);
        assert!(refused.contains("not handed out: grant_denied"), "{refused}");
    }
}

on_each! {
    /// The page from its first command on: what somebody else does first, with alice for 42, and then the first program.
    async fn the_first_commands_of_the_page_lead_to_an_agent_that_posts(on: On) {
        let scene = Scene::usual(on).await;
        let mut browser = alice(&scene).await;
        let connection = account_of_alice(&scene, &mut browser).await;
        let mut token = String::new();
        for command in commands("valetkey agent create reporter") {
            let words: Vec<&str> = command
                .iter()
                .map(|word| match word.as_str() {
                    "42" => "alice",
                    "con_0197..." => connection.as_str(),
                    word => word,
                })
                .collect();
            assert_eq!(words[0], "valetkey");
            let said = scene.home.json(&words[1..]);
            if let Some(shown) = said["token"].as_str() {
                token = shown.to_owned();
            }
        }
        for language in BOTH {
            let words = format!("from {language:?}");
            let said = start(&scene, language, "post", &["lab", &words], &[("TOKEN", token.as_str())]).end().await.ok();
            assert!(said.contains(&format!("may use: {connection} lab")) && said.contains(&format!("posted: {words}")), "{said}");
        }
    }

    async fn a_stock_client_has_a_person_consent_in_a_browser_renews_its_tokens_and_gives_them_back(on: On) {
        let scene = Scene::usual(on).await;
        let agent = agent_of_alice(&scene).await;
        let mut browser = alice(&scene).await;
        let client = ["client", "create", "Reporter", "--redirect-uri", "http://127.0.0.1/callback"];
        let client = text(&scene.home.json(&client), "id");
        for language in BOTH {
            let mut program = start(&scene, language, "sign_in", &[], &[("CLIENT_ID", client.as_str())]);
            let line = program.line().await;
            let page = browser.open(line.strip_prefix("open: ").unwrap_or_else(|| panic!("{line}"))).await;
            let page = consent(&mut browser, &page, "Reporter", &agent).await;
            assert!(page.html.contains("You can close this page"), "{page:?}");
            let said = program.end().await.ok();
            assert!(said.contains("signed in: proxy reveal for "), "{said}");
            let ran = start(&scene, language, "keep", &[], &[("CLIENT_ID", client.as_str())]).end().await;
            let said = ran.ok();
            assert_eq!(said, "for: alice with 1 accounts\ngiven back: 401 unauthenticated\n");
        }
    }

    async fn a_stock_client_has_a_person_consent_on_another_device(on: On) {
        let scene = Scene::usual(on).await;
        let agent = agent_of_alice(&scene).await;
        let mut browser = alice(&scene).await;
        let client = text(&scene.home.json(&["client", "create", "Headless"]), "id");
        let mut waiting = Vec::new();
        // One of each is told yes, and one no; all of them wait at once.
        for (language, allowed) in BOTH.into_iter().flat_map(|language| [(language, true), (language, false)]) {
            let mut program = start(&scene, language, "device", &[], &[("CLIENT_ID", client.as_str())]);
            let line = program.line().await;
            let words: Vec<_> = line.split(' ').collect();
            let [_, url, .., code] = words[..] else { panic!("{line}") };
            let page = browser.open(url).await;
            let page = browser.press_with(&page, "Go on", &[("user_code", code)]).await;
            let page = match allowed {
                true => consent(&mut browser, &page, "Headless", &agent).await,
                false => browser.press(&page, "Do not allow").await,
            };
            assert_eq!(page.status, StatusCode::OK, "{page:?}");
            waiting.push((allowed, program));
        }
        for (allowed, program) in waiting {
            let ran = program.end().await;
            if allowed {
                assert!(ran.ok().contains("signed in: proxy for "));
            } else {
                assert!(ran.failed(1).contains("access_denied"));
            }
        }
    }

    async fn a_stock_client_exchanges_asks_about_and_gives_back_tokens(on: On) {
        let scene = Scene::usual(on).await;
        let usable = scene.usable("lab").await;
        let client = scene.home.json(&["client", "create", "Backend", "--confidential", "--grant", "exchange"]);
        let (id, secret) = (text(&client, "id"), text(&client, "client_secret"));
        let variables = [("CLIENT_ID", id.as_str()), ("CLIENT_SECRET", secret.as_str()), ("TOKEN", usable.token.token.as_str())];
        for language in BOTH {
            let said = start(&scene, language, "exchange", &["lab"], &variables).end().await.ok().to_lowercase();
            let expected = format!(
                "narrower: true proxy agent:{}\nupstream: bearer urn:ietf:params:oauth:token-type:access_token\ngiven back: false\n",
                usable.agent
            );
            assert_eq!(said, expected);
        }
    }
}
