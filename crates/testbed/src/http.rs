//! The HTTP/1.1 server under every server of the testbed: it reads requests, asks a [`Respond`] what to send,
//! sends it.
//!
//! It knows no site and no Sentry. Invariant: what it reads is bounded, and whatever it started ends when the
//! [`HttpServer`] is dropped.
//!
//! # Why
//! By hand, because the demo and the tests must show what no server library allows: bodies that end too
//! early, chunks without end, heads that are cut off, answers that never come.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

/// A request's line and headers; the worker's own clients send under 1 KiB.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// A request's body: Sentry refuses larger envelopes, and annotations are small.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// More than any worker here fetches at once, two bodies for each job; beyond it connections wait their turn.
const MAX_CONNECTIONS: usize = 2_048;
/// A kept-alive connection without a request is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// No response takes longer to send, however slow it is meant to be.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Heads that are kept for [`HttpServer::requests`], the first ones.
const MAX_KEPT_REQUESTS: usize = 1000;

type Connection = BufReader<TcpStream>;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// Request line and headers, as they came.
    pub head: String,
    /// The body; only one with a `Content-Length` is read.
    pub body: Vec<u8>,
}

impl Request {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query without its question mark; empty where the target has none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Reads the request line and the headers; `None` where there is no request, or none that can be
    /// understood.
    async fn read_head(connection: &mut Connection) -> Option<Self> {
        let mut limited = connection.take(MAX_HEAD_BYTES);
        let mut head = String::new();
        loop {
            let begun = head.len();
            limited.read_line(&mut head).await.ok()?;
            match head[begun..].strip_suffix('\n').map(|line| line.trim_end_matches('\r')) {
                None => return None,
                Some("") => break,
                Some(_) => {}
            }
        }
        let mut words = head.lines().next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Self { method, target, head, body: Vec::new() })
    }
}

/// What a [`Respond`] answers: the bytes to send, then what becomes of the connection.
#[derive(Debug, Clone)]
pub struct Response {
    pause: Duration,
    head: Vec<u8>,
    body: Arc<[u8]>,
    after: AfterResponse,
}

#[derive(Debug, Clone)]
enum AfterResponse {
    /// The next request is read.
    Keep,
    /// The connection is closed.
    Close,
    /// Nothing more is sent until the client closes.
    Hang,
    /// These bytes again and again, with a pause between them.
    Repeat(Vec<u8>, Duration),
}

impl Response {
    /// A well-formed response, after which the connection is kept.
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Arc<[u8]>>) -> Self {
        let body = body.into();
        let length = body.len().to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("content-length", length.as_str())]).collect();
        Self { body, ..Self::head(status, &headers) }
    }

    /// The head alone: the headers are sent as they are, whatever follows.
    pub fn head(status: u16, headers: &[(&str, &str)]) -> Self {
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        for (name, value) in headers {
            head.extend([*name, ": ", *value, "\r\n"]);
        }
        head.push_str("\r\n");
        Self::raw(head)
    }

    /// Exactly these bytes, well-formed or not.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pause: Duration::ZERO, head: bytes.into(), body: Arc::new([]), after: AfterResponse::Keep }
    }

    /// The same with this body after its head.
    #[must_use]
    pub fn with_body(self, body: impl Into<Arc<[u8]>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The same after this long.
    #[must_use]
    pub fn delayed(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// The same, then the connection is closed.
    #[must_use]
    pub fn then_close(self) -> Self {
        Self { after: AfterResponse::Close, ..self }
    }

    /// The same, then nothing more until the client closes.
    #[must_use]
    pub fn then_hang(self) -> Self {
        Self { after: AfterResponse::Hang, ..self }
    }

    /// The same, then these bytes again and again, with this pause between them, until the client closes.
    #[must_use]
    pub fn then_repeat(self, bytes: impl Into<Vec<u8>>, pause: Duration) -> Self {
        Self { after: AfterResponse::Repeat(bytes.into(), pause), ..self }
    }

    /// Sends it all; the connection can take another request where it was [`AfterResponse::Keep`].
    async fn send(&self, connection: &mut Connection) -> io::Result<()> {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        connection.write_all(&self.head).await?;
        connection.write_all(&self.body).await?;
        match &self.after {
            AfterResponse::Keep => Ok(()),
            AfterResponse::Close => connection.shutdown().await,
            AfterResponse::Hang => tokio::io::copy(connection, &mut tokio::io::sink()).await.map(drop),
            AfterResponse::Repeat(bytes, pause) => loop {
                connection.write_all(bytes).await?;
                if !pause.is_zero() {
                    tokio::time::sleep(*pause).await;
                }
            },
        }
    }
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

/// Decides what a request is answered with. It may wait; the future is dropped when the client closes
/// meanwhile.
pub trait Respond: Send + Sync + 'static {
    /// The response to a request.
    fn respond(&self, request: &Request) -> impl Future<Output = Response> + Send;
}

impl<F: Fn(&Request) -> Response + Send + Sync + 'static> Respond for F {
    async fn respond(&self, request: &Request) -> Response {
        self(request)
    }
}

#[derive(Debug, Default)]
struct RequestLog {
    connections: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

/// A running server; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    log: Arc<RequestLog>,
    task: JoinHandle<()>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpServer {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where the machine gives no socket.
    pub async fn start<R: Respond>(responder: Arc<R>) -> io::Result<Self> {
        Self::bind(("127.0.0.1", 0), responder).await
    }

    /// Starts a server at this address, each connection served by its own task.
    ///
    /// # Errors
    /// Where the machine gives no socket there.
    pub async fn bind<R: Respond>(address: impl ToSocketAddrs, responder: Arc<R>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (address, log) = (listener.local_addr()?, Arc::<RequestLog>::default());
        let task = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                accept(&listener, &responder, &log).await;
            }
        });
        Ok(Self { address, log, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a path (with its query), which begins with `/`.
    ///
    /// # Panics
    /// Where the path makes no address.
    pub fn url(&self, path: &str) -> Url {
        let url = format!("http://{}{path}", self.address);
        url.parse().expect("a path of the server makes an address")
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// The heads of the first thousand requests, as they came; each is logged before it is answered.
    pub fn requests(&self) -> Vec<String> {
        self.log.heads.lock().clone()
    }
}

async fn accept<R: Respond>(listener: &TcpListener, responder: &Arc<R>, log: &Arc<RequestLog>) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The permit comes first: a connection without one waits in the kernel's backlog. The semaphore is
        // never closed.
        let permit = Arc::clone(&permits).acquire_owned().await.ok();
        if let Ok((stream, _)) = listener.accept().await {
            log.connections.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            let (responder, log) = (Arc::clone(responder), Arc::clone(log));
            connections.spawn(async move {
                serve(BufReader::new(stream), &*responder, &log).await;
                drop(permit);
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut connection: Connection, responder: &impl Respond, log: &RequestLog) {
    while let Some(request) = read_request(&mut connection, log).await {
        let response = tokio::select! {
            biased;
            response = responder.respond(&request) => response,
            () = until_closed(&mut connection) => return,
        };
        let sent = tokio::time::timeout(SEND_TIMEOUT, response.send(&mut connection)).await;
        let kept = matches!(response.after, AfterResponse::Keep) && !request.wants_close();
        if !kept || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads and logs the next request of a connection; `None` when the client closed it. A body that is too large is
/// refused.
async fn read_request(connection: &mut Connection, log: &RequestLog) -> Option<Request> {
    let head = tokio::time::timeout(IDLE_TIMEOUT, Request::read_head(connection));
    let mut request = head.await.ok().flatten()?;
    {
        let mut heads = log.heads.lock();
        if heads.len() < MAX_KEPT_REQUESTS {
            heads.push(request.head.clone());
        }
    }
    let length = request.header("content-length").map_or(Some(0), |value| value.parse().ok())?;
    if length > MAX_BODY_BYTES {
        let _ = Response::new(400, &[], []).send(connection).await;
        return None;
    }
    request.body = vec![0; length];
    let body = tokio::time::timeout(IDLE_TIMEOUT, connection.read_exact(&mut request.body));
    body.await.is_ok_and(|read| read.is_ok()).then_some(request)
}

/// Returns once the client has closed; it waits for ever where the client has sent its next request already.
async fn until_closed(connection: &mut Connection) {
    if connection.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty()) {
        std::future::pending().await
    }
}
