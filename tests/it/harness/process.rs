//! The binary as processes: workers that end with their guard, and commands that run to their end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use wm_testbed::processes;

use super::{TIMEOUT, until};

fn binary(environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wm-analyzer"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).envs(environment).kill_on_drop(true);
    command
}

/// A running `wm-analyzer work`, or another command that goes on and logs; dropped, it is killed.
pub(crate) struct Worker {
    child: Child,
    pid: u32,
    log: tempfile::NamedTempFile,
}

impl Worker {
    pub(crate) fn start(environment: &BTreeMap<String, String>) -> Self {
        Self::start_command(&["work"], environment)
    }

    pub(crate) fn start_command(args: &[&str], environment: &BTreeMap<String, String>) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let stderr = File::create(log.path()).unwrap();
        let mut command = binary(environment);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        Self { child, pid, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
        kill_process(pid.expect("it runs"), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        timeout(TIMEOUT, self.child.wait()).await.expect("it ends").unwrap()
    }

    /// Asks it to leave and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_for_exit().await;
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log_text());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// All it wrote to standard error.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// Its log lines with this message.
    pub(crate) fn log_lines(&self, message: &str) -> Vec<Value> {
        let lines: Vec<Value> =
            self.log_text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().filter(|line| line["message"] == message).collect()
    }

    /// Waits until it said so, and gives the first such line.
    pub(crate) async fn until_logged(&self, message: &str) -> Value {
        until(&format!("worker says {message:?}"), async || !self.log_lines(message).is_empty()).await;
        self.log_lines(message).remove(0)
    }

    /// Where its health pages are.
    pub(crate) async fn address(&self) -> SocketAddr {
        let line = self.until_logged("health and metrics").await;
        line["address"].as_str().unwrap().parse().unwrap()
    }

    /// The status and the body of one of its pages.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut tcp = TcpStream::connect(self.address().await).await.unwrap();
        tcp.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits until one of its pages answers with this status.
    pub(crate) async fn until_status(&self, path: &str, status: u16) -> String {
        until(&format!("{path} answers {status}"), async || self.get(path).await.0 == status).await;
        self.get(path).await.1
    }

    /// One of its numbers, e.g. `redis_up` or `jobs_total{outcome="done"}`; 0 where there is none.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let (name, label) = sample.split_once('{').unwrap_or((sample, ""));
        let (name, label) = (format!("wm_analyzer_{name}{{"), label.trim_end_matches('}'));
        let text = self.get("/metrics").await.1;
        let line = text.lines().find(|line| line.starts_with(&name) && line.contains(label));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    /// Every process below it: fork-servers and the jobs in them.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        processes::descendants(self.pid).into_iter().collect()
    }
}

impl Drop for Worker {
    #[expect(clippy::print_stderr, reason = "a test that failed shows what its worker said last")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("worker {}:\n{}", self.pid, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    /// Its standard output, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Fails with all it said, unless it ended so.
    #[track_caller]
    pub(crate) fn exited_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails with all it said, unless it said all of these on standard error.
    #[track_caller]
    pub(crate) fn stderr_contains(self, needles: &[&str]) -> Self {
        for needle in needles {
            assert!(self.stderr.contains(needle), "{needle:?} is not in {self:#?}");
        }
        self
    }

    /// Fails with all it said, unless all of these stand in its standard output.
    #[track_caller]
    pub(crate) fn stdout_contains(self, needles: &[&str]) -> Self {
        for needle in needles {
            assert!(self.stdout.contains(needle), "{needle:?} is not in {self:#?}");
        }
        self
    }
}

/// Starts a command whose standard output is read while it runs; dropped, it is killed.
pub(crate) fn start(args: &[&str], environment: &BTreeMap<String, String>) -> Child {
    let mut command = binary(environment);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Runs a command to its end.
pub(crate) async fn run(
    args: &[&str],
    environment: &BTreeMap<String, String>,
    input: &[u8],
) -> CommandOutput {
    let mut command = binary(environment);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = tokio::spawn(async move {
        // Who does not want it hangs up: that is no surprise.
        let _ = stdin.write_all(&input).await;
    });
    let output = timeout(TIMEOUT * 2, child.wait_with_output()).await.expect("it ends").unwrap();
    feeding.abort();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandOutput { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
