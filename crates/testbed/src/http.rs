//! Just enough HTTP/1.1 to serve loopback by hand: reading a request, writing an answer, bounded connections.
//!
//! It knows no site and no ingest. Invariant: what it reads is bounded, and whatever it started ends when the
//! [`ListeningServer`] is dropped.
//!
//! # Why
//! By hand, because what the demo must show is what no honest server library lets one do: bodies that end too
//! early, chunks without end, answers that never come.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// A request's line and headers; a client of ours sends under 1 KiB.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// More than any worker here has slots; beyond it connections wait their turn.
const MAX_CONNECTIONS: usize = 256;
/// A kept-alive connection on which nobody asks anything is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection; answers go to its inner stream.
pub(super) type Connection = BufReader<TcpStream>;

/// A request without its body.
#[derive(Debug)]
pub(super) struct Request {
    /// `GET`, `POST`, ...
    pub(super) method: String,
    /// Path and query, as they came.
    pub(super) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The target without its query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether the client wants the connection closed after this answer.
    pub(super) fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The value of a header, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the next request of a connection; `None` when there is none, or none that can be understood.
pub(super) async fn next_request(connection: &mut Connection) -> Option<Request> {
    let head = async {
        let mut limited = connection.take(MAX_HEAD_BYTES);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            limited.read_line(&mut line).await.ok()?;
            match line.strip_suffix('\n').map(|line| line.trim_end_matches('\r')) {
                None => return None,
                Some("") => return Some(lines),
                Some(line) => lines.push(line.to_owned()),
            }
        }
    };
    let lines = tokio::time::timeout(IDLE_TIMEOUT, head).await.ok().flatten()?;
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.iter().skip(1).filter_map(header).collect();
    Some(Request { method, target, headers })
}

/// Writes the head of an answer. The caller sees to a body of the announced form.
pub(super) async fn write_head(
    connection: &mut Connection,
    status: u16,
    headers: &[(&str, &str)],
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.extend([*name, ": ", *value, "\r\n"]);
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes()).await
}

/// Writes an answer with its body.
pub(super) async fn write_response(
    connection: &mut Connection,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len().to_string();
    let headers: Vec<_> = headers.iter().copied().chain([("content-length", length.as_str())]).collect();
    write_head(connection, status, &headers).await?;
    connection.write_all(body).await
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        404 => "Not Found",
        503 => "Service Unavailable",
        _ => "As Asked For",
    }
}

/// A listening socket on loopback; dropping it closes the socket and every connection.
#[derive(Debug)]
pub(super) struct ListeningServer {
    /// Where it listens.
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for ListeningServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on a free port of 127.0.0.1 and serves each connection by its own task.
pub(super) async fn listen<S, F>(serve: S) -> std::io::Result<ListeningServer>
where
    S: Fn(Connection) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        // The permit comes first: who gets none waits in the kernel's backlog. The set dies with this task.
        while let Ok(permit) = permits.clone().acquire_owned().await {
            if let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let served = serve(BufReader::new(stream));
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(ListeningServer { address, task })
}
