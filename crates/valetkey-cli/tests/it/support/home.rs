//! Where a broker lives, and the command line as its operator uses it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::Server;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_valetkey");
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A data folder with SQLite, or a PostgreSQL database with a root key file.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
    postgres: Option<String>,
}

impl Home {
    /// SQLite in a fresh folder; nothing is in it yet.
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        Self { variables: vec![("VALETKEY_DATA".to_owned(), data)], folder, postgres: None }
    }

    /// A fresh PostgreSQL database, and a root key made by `valetkey keys generate`.
    pub(crate) async fn postgres() -> Self {
        let url = valetkey::db::testing::postgres_url().await;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("root.key");
        let mut home = Self { folder, variables: Vec::new(), postgres: Some(url.clone()) };
        home.cli(&["keys", "generate", "--file", key.to_str().unwrap(), "--data", "/nonexistent"]).ok();
        home.set("VALETKEY_DATABASE", &url);
        home.set("VALETKEY_ROOT_KEY_FILE", key.to_str().unwrap());
        home
    }

    /// Sets a variable for every server and command from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a variable away.
    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.retain(|(known, _)| known != name);
    }

    /// The variables.
    pub(crate) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// A folder that goes away with the home, for whatever a test needs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder; SQLite only.
    pub(crate) fn data(&self) -> PathBuf {
        assert!(self.postgres.is_none(), "PostgreSQL has no data folder");
        self.folder.path().join("data")
    }

    /// The file of the root keys.
    pub(crate) fn root_key(&self) -> PathBuf {
        match self.postgres {
            Some(_) => self.folder.path().join("root.key"),
            None => self.data().join("root.key"),
        }
    }

    /// A server that must start.
    pub(crate) async fn serve(&self) -> Server {
        self.serve_with(&[]).await
    }

    /// A server with further arguments that must start.
    pub(crate) async fn serve_with(&self, arguments: &[&str]) -> Server {
        match Server::start(self, arguments).await {
            Ok(server) => server,
            Err(ran) => panic!("the server did not start: {ran:?}"),
        }
    }

    /// A server that must refuse to start.
    pub(crate) async fn serve_refused(&self, arguments: &[&str]) -> Ran {
        match Server::start(self, arguments).await {
            Ok(_) => panic!("the server started"),
            Err(ran) => ran,
        }
    }

    /// Runs a command of the operator's.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Ran {
        self.cli_with_input(arguments, "")
    }

    /// Runs a command that reads standard input.
    pub(crate) fn cli_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = command(&self.variables, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Beside the reading, so that a full pipe stops neither side. A command that reads nothing may be gone already.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let id = child.id();
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                signal(id, "KILL");
            }
        });
        let began = Instant::now();
        let output = child.wait_with_output().unwrap();
        drop(done);
        watch.join().unwrap();
        writer.join().unwrap();
        assert!(began.elapsed() < PATIENCE, "{arguments:?} did not end");
        Ran {
            what: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command with `--json` that must succeed, and returns its answer.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.cli(&[arguments, &["--json"]].concat()).json()
    }
}

/// The binary, with these variables and no others that could change what it does.
pub(crate) fn command(variables: &[(String, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    for kept in ["PATH", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Sends a signal to a process of ours: `TERM`, `KILL`, `STOP`, `CONT`, `HUP`.
pub(crate) fn signal(process: u32, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        other => panic!("{other} is no signal of the tests"),
    };
    // A process that ended meanwhile needs no signal.
    let _ = kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), signal);
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The command.
    pub(crate) what: String,
    /// Its exit code; absent when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said beside.
    pub(crate) stderr: String,
}

impl Ran {
    /// It must have succeeded; what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// It must have succeeded and printed JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let what = self.what.clone();
        let text = self.ok();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}: {text}")) }
    }

    /// It must have failed with this exit code; what it said.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}
