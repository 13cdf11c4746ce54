//! Webhooks from the command line to a receiver: the programs of docs/webhooks.md, as they stand there, with the official
//! libraries of Standard Webhooks for Python and TypeScript.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::Value;

use crate::{
    on_each_home,
    scene::eventually,
    support::{peer, text},
};

on_each_home! {
    async fn a_message_is_verified_by_the_official_libraries(mut home: Home) {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        home.set("VALETKEY_ALLOW_PRIVATE", &ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(","));
        let _server = home.serve().await;
        let made: Vec<Value> = ports
            .iter()
            .map(|port| home.json(&["webhook", "create", &format!("http://127.0.0.1:{port}/"), "--event", "token.minted"]))
            .collect();
        let secret = |at: usize| text(&made[at], "secret");
        let programs = [
            Program::start(home.folder(), Language::Python, ports[0], &secret(0)),
            Program::start(home.folder(), Language::TypeScript, ports[1], &secret(1)),
            // One that has another endpoint's secret.
            Program::start(home.folder(), Language::Python, ports[2], &secret(0)),
        ];
        for (program, port) in programs.iter().zip(&ports) {
            program.wait_for(*port).await;
        }
        home.json(&["agent", "create", "a"]);
        home.json(&["agent", "token", "create", "a"]);
        for program in &programs[..2] {
            let line = program.next();
            assert!(line.starts_with("token.minted evt_"), "{line}");
        }
        let id = text(&made[2], "id");
        let refused = eventually(|| {
            let listed = home.json(&["webhook", "deliveries", &id]);
            let first = listed["deliveries"].as_array().and_then(|all| all.first());
            let refused = first.filter(|delivery| !delivery["last_error"].is_null()).cloned();
            async move { refused }
        })
        .await;
        assert_eq!((&refused["last_error"], &refused["status"]), (&"http_400".into(), &"pending".into()));
        assert!(home.cli(&["webhook", "list"]).ok().contains("failing since"));
        assert!(home.cli(&["doctor"]).stdout.contains(&format!("{id} of site default has taken nothing")));

        // With two signatures, too; and again with the same id, which the program has seen.
        let id = text(&made[0], "id");
        home.json(&["webhook", "rotate", &id]);
        home.json(&["agent", "token", "create", "a"]);
        assert!(programs[0].next().starts_with("token.minted evt_"));
        let first = home.json(&["webhook", "deliveries", &id])["deliveries"][1]["message"].as_str().unwrap().to_owned();
        assert_eq!(home.json(&["webhook", "replay", &id, "--message", &first])["queued"], 1);
        home.json(&["agent", "token", "create", "a"]);
        programs[0].next();
        assert!(programs[0].lines.try_recv().is_err(), "what came twice was taken twice");
    }
}

#[derive(Clone, Copy)]
enum Language {
    Python,
    TypeScript,
}

/// A receiver from the page.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(folder: &Path, language: Language, port: u16, secret: &str) -> Self {
        let (mark, file) = match language {
            Language::Python => ("```python\n", format!("receiver-{port}.py")),
            // Its types are all inferred, so that node runs it as it is.
            Language::TypeScript => ("```ts\n", format!("receiver-{port}.mjs")),
        };
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/webhooks.md")).unwrap();
        let program = page.split(mark).nth(1).unwrap().split("```").next().unwrap();
        let file = folder.join(file);
        fs::write(&file, program).unwrap();
        let mut command = match language {
            Language::Python => Command::new(peer("VALETKEY_TEST_PYTHON")),
            Language::TypeScript => {
                let packages = folder.join("node_modules");
                if !packages.exists() {
                    std::os::unix::fs::symlink(peer("VALETKEY_TEST_NODE_MODULES"), &packages).unwrap();
                }
                Command::new("node")
            }
        };
        command.arg(&file).env("WEBHOOK_SECRET", secret).env("PORT", port.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines }
    }

    async fn wait_for(&self, port: u16) {
        eventually(|| async move { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).expect("nothing was received")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
