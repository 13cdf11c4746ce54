//! A running `valetkey serve`.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::Value;

use super::{
    Home, Ran,
    home::{command, signal},
};

/// How long a start and an end may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server process. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    /// What it said of itself when it was ready: `url`, `listen`, `socket`, `first_start`.
    pub(crate) said: Value,
    log: Arc<Mutex<String>>,
    http: reqwest::Client,
}

impl Server {
    /// Starts a server on a free port of loopback and waits until it is ready; or returns what a refused start said.
    pub(crate) async fn start(home: &Home, arguments: &[&str]) -> Result<Self, Ran> {
        let listen: &[&str] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        Self::run(home.variables(), &[&["serve", "--json"], listen, arguments].concat()).await
    }

    /// Starts any command that serves and says JSON when it is ready: `serve`, `dev`.
    pub(crate) async fn run(variables: &[(String, String)], arguments: &[&str]) -> Result<Self, Ran> {
        let mut child =
            command(variables, arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reading = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let said = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            while stdout.read_line(&mut text).unwrap_or(0) > 0 {
                if let Ok(said) = serde_json::from_str::<Value>(&text) {
                    // Whatever else it prints is read, so that it never waits for us.
                    std::thread::spawn(move || drop(stdout.read_to_end(&mut Vec::new())));
                    return Ok(said);
                }
            }
            Err(text)
        });
        let said = match tokio::time::timeout(PATIENCE, said).await {
            Ok(said) => said.unwrap(),
            Err(_) => {
                signal(child.id(), "KILL");
                Err("the server said nothing".to_owned())
            }
        };
        let http = client();
        match said {
            Ok(said) => {
                let server = Self { child, said, log, http };
                server.wait_until_ready().await;
                Ok(server)
            }
            Err(stdout) => {
                let code = child.wait().unwrap().code();
                reading.join().unwrap();
                let stderr = log.lock().unwrap().clone();
                Err(Ran { what: arguments.join(" "), code, stdout, stderr })
            }
        }
    }

    /// Where it is reached, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        let said = |name: &str| self.said.get(name).and_then(Value::as_str);
        // Not by its public URL, where somebody else may stand in front.
        said("listen").map_or_else(|| said("broker").unwrap().to_owned(), |address| format!("http://{address}"))
    }

    /// An address at this server.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// A client that follows no redirect.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log holds a text; the reading of it runs beside.
    pub(crate) async fn logged(&self, text: &str) -> String {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "the log never holds `{text}`:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.log()
    }

    /// Sends it a signal: `STOP` freezes it, `CONT` lets it go on, `HUP` has it read its root keys again.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.signal("KILL");
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits until it ended by itself; its exit code.
    pub(crate) async fn end(mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended(PATIENCE).await
    }

    /// Waits until it ends, for whatever reason; its exit code, or nothing when a signal ended it.
    pub(crate) async fn ended(&mut self, patience: Duration) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < patience, "the server did not end; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn wait_until_ready(&self) {
        let began = Instant::now();
        loop {
            let answer = self.http.get(self.at("/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the server is not ready; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of server {} ---\n{}--- end ---", self.child.id(), self.log());
        }
        signal(self.child.id(), "CONT");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that follows no redirect and knows no proxy.
pub(crate) fn client() -> reqwest::Client {
    // reqwest asks for a TLS provider even where only plain http is spoken. Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::ClientBuilder::new().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(PATIENCE).build().unwrap()
}
