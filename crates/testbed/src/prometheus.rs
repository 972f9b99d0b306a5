//! A Prometheus server as a process, where it is installed: it scrapes one target and is asked queries.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use url::form_urlencoded;

use super::peers::is_available;
use super::wait::until;

/// The program.
const PROGRAM: &str = "prometheus";
/// What it prints before its address, once it listens there.
const LISTENS: &str = "msg=\"Listening on\" address=";
/// What it prints once it answers: what it has stored, here nothing, is read before.
const READY: &str = "msg=\"Server is ready to receive web requests.\"";
/// It answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer about one worker is smaller.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// A running server; dropping it ends the process and deletes what it stored.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    process: Child,
    _files: TempDir,
}

impl Prometheus {
    /// Starts a server on a free port of 127.0.0.1 that scrapes `target` five times a second and evaluates `rules` as
    /// often; `None` where the program is not there, which is printed.
    ///
    /// # Panics
    /// Where it does not start; where it is not there under `WM_REQUIRE_PEERS=1`.
    pub async fn start(target: SocketAddr, rules: &Path) -> Option<Self> {
        if !is_available(PROGRAM, &["--version"]) {
            return None;
        }
        let files = TempDir::new().unwrap();
        let (config, log) = (files.path().join("prometheus.yml"), files.path().join("log"));
        let often = "scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms";
        let job = format!("{{job_name: worker, static_configs: [{{targets: ['{target}']}}]}}");
        let rules = rules.display();
        let text = format!("global: {{{often}}}\nrule_files: ['{rules}']\nscrape_configs: [{job}]\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", files.path().join("stored").display()));
        command.arg("--web.listen-address=127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut server = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), process, _files: files };
        until("Prometheus answers", async || {
            let printed = std::fs::read_to_string(&log).unwrap();
            assert!(server.process.try_wait().unwrap().is_none(), "{PROGRAM} ended: {printed}");
            let address = printed.lines().find_map(|line| line.split_once(LISTENS)?.1.trim().parse().ok());
            server.address = address.unwrap_or(server.address);
            address.is_some() && printed.contains(READY)
        })
        .await;
        Some(server)
    }

    /// What a query says now: its series, or what is wrong with it.
    ///
    /// # Errors
    /// The server's own words, or its warnings.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("query", expr).finish();
        let answer = self.get(&format!("/api/v1/query?{query}"));
        match (&answer["data"]["result"], &answer["warnings"]) {
            (Value::Array(series), Value::Null) => Ok(series.clone()),
            _ => Err(answer.to_string()),
        }
    }

    /// The rules that it has loaded, each as it was evaluated last.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules");
        let groups = answer["data"]["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    /// The names of all metrics that it has ever scraped or recorded.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn metric_names(&self) -> Vec<String> {
        let answer = self.get("/api/v1/label/__name__/values");
        let names = answer["data"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn get(&self, path: &str) -> Value {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
