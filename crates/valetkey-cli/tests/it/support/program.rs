//! Programs of somebody's, run beside a test as their users run them: with the variables that they are given and no others.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Ran;

/// How long a program may take for its next word, or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program. Dropping it kills it.
pub(crate) struct Program {
    what: String,
    child: Child,
    lines: Receiver<String>,
    /// What was read of its lines.
    said: String,
    stderr: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts it. Of our variables it has the path alone.
    pub(crate) fn start(mut command: Command, variables: &[(&str, &str)]) -> Self {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<_>>());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (stdout, mut stderr) = (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { what, child, lines, said: String::new(), stderr: Some(stderr) }
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        let began = Instant::now();
        loop {
            match self.lines.try_recv() {
                Ok(line) => {
                    self.heard(&line);
                    return line;
                }
                Err(TryRecvError::Empty) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(_) => panic!("nothing more was said: {:?}", self.end_now()),
            }
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn end(self) -> Ran {
        self.end_within(PATIENCE).await
    }

    /// The same for one that takes its time.
    pub(crate) async fn end_within(mut self, patience: Duration) -> Ran {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < patience, "it does not end: {:?}", self.end_now());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.end_now()
    }

    /// Ends it, if it has not ended, and says what came of it.
    fn end_now(&mut self) -> Ran {
        let _ = self.child.kill();
        let code = self.child.wait().unwrap().code();
        let stderr = self.stderr.take().map(|reading| reading.join().unwrap()).unwrap_or_default();
        // Until the thread that reads is done.
        while let Ok(line) = self.lines.recv() {
            self.heard(&line);
        }
        Ran { what: self.what.clone(), code, stdout: self.said.clone(), stderr }
    }

    fn heard(&mut self, line: &str) {
        self.said.push_str(line);
        self.said.push('\n');
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A variable of the servers and programs that ./scripts/test installs.
pub(crate) fn peer(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run ./scripts/test, or ./scripts/test --peers for a shell"))
}
