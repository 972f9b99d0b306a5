//! A server that speaks S3, as a process: `moto_server` of PyPI's moto, where it is installed. It keeps everything in
//! memory, checks no signature, and forgets its buckets when it is ended.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::peers::is_available;
use super::wait::until;

/// The program.
const PROGRAM: &str = "moto_server";
/// What it prints before its address, once it listens there.
const LISTENS: &str = "Running on http://";
/// It answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of it in a test is smaller.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// A running server; dropping it ends the process.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    process: Child,
}

impl S3Server {
    /// Starts a server on a free port of 127.0.0.1; `None` where the program is not there, which is printed.
    ///
    /// # Panics
    /// Where it does not start; where it is not there under `WM_REQUIRE_PEERS=1`.
    pub async fn start() -> Option<Self> {
        // Python needs seconds to find that out.
        static AVAILABLE: LazyLock<bool> = LazyLock::new(|| is_available(PROGRAM, &["--help"]));
        match *AVAILABLE {
            true => Some(Self::start_at(0).await),
            false => None,
        }
    }

    /// Starts a server at a port; 0 is a free one, which is read from what it prints.
    async fn start_at(port: u16) -> Self {
        // A file: it goes on printing, and would block at a pipe without a reader.
        let log = NamedTempFile::new().unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(log.reopen().unwrap()).spawn().unwrap();
        let mut server = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), process };
        until("the server for S3 listens", async || {
            let printed = std::fs::read_to_string(log.path()).unwrap();
            assert!(server.process.try_wait().unwrap().is_none(), "{PROGRAM} ended: {printed}");
            let address = printed.lines().find_map(|line| line.split_once(LISTENS)?.1.trim().parse().ok());
            server.address = address.unwrap_or(server.address);
            address.is_some()
        })
        .await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as `results.endpoint` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// Where it does not make one.
    pub fn create_bucket(&self, name: &str) {
        let answer = self.request("PUT", &format!("/{name}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// What it answers to a request without a body: head and body as one text.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn request(&self, method: &str, path: &str) -> String {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        // moto knows by this header that a request is for S3, and looks no further into it.
        let credential = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {credential}, SignedHeaders=host, Signature=0\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n",
            self.address
        );
        connection.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        connection.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Ends the process; later connections are refused.
    ///
    /// # Panics
    /// Where it cannot be ended.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }

    /// Starts it again at the same address after [`stop`](Self::stop), without its buckets.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn restart(&mut self) {
        *self = Self::start_at(self.address.port()).await;
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
