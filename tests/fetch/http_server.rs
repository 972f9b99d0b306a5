//! A hand-made HTTP server: it says exactly the bytes it is told to, however wrong they are, and remembers who asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// What the server does once it has read a request.
pub(crate) enum RawReply {
    /// Say this and close.
    Close(Vec<u8>),
    /// Say this and go on listening.
    Keep(Vec<u8>),
    /// Say this and then nothing more, for ever.
    Hang(Vec<u8>),
    /// Say this, then one byte after another, for ever.
    Drip(Vec<u8>),
    /// Wait this long, then say this and close.
    Late(Duration, Vec<u8>),
}

/// Decides on a reply by the request's path.
type ReplyFn = dyn Fn(&str) -> RawReply + Send + Sync;

/// A running server; dropping it stops it.
pub(crate) struct RawHttpServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl RawHttpServer {
    /// Serves on this address; `reply_to` is given each request's path.
    pub(crate) async fn bind(
        address: impl tokio::net::ToSocketAddrs,
        reply_to: impl Fn(&str) -> RawReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, written) = (Arc::clone(&connections), Arc::clone(&requests));
        let reply_to: Arc<ReplyFn> = Arc::new(reply_to);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve_connection(stream, Arc::clone(&reply_to), Arc::clone(&written)));
            }
        });
        Self { address, connections, requests, server }
    }

    /// Serves somewhere on loopback.
    pub(crate) async fn serve(reply_to: impl Fn(&str) -> RawReply + Send + Sync + 'static) -> Self {
        Self::bind("127.0.0.1:0", reply_to).await
    }

    /// Serves one answer to everybody.
    pub(crate) async fn with_reply(answer: &[u8]) -> Self {
        let answer = answer.to_vec();
        Self::serve(move |_| RawReply::Close(answer.clone())).await
    }

    /// This server's address with a path.
    pub(crate) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests read so far, head and all.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for RawHttpServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve_connection(mut stream: TcpStream, reply_to: Arc<ReplyFn>, log: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push(request);
        let done = match reply_to(&path) {
            RawReply::Close(bytes) => {
                stream.write_all(&bytes).await.is_err() || stream.shutdown().await.is_ok()
            }
            RawReply::Keep(bytes) => stream.write_all(&bytes).await.is_err(),
            RawReply::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                // Until the other side has had enough.
                let _ = stream.read(&mut [0; 1]).await;
                true
            }
            RawReply::Drip(bytes) => {
                let _ = stream.write_all(&bytes).await;
                while stream.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                true
            }
            RawReply::Late(wait, bytes) => {
                tokio::time::sleep(wait).await;
                let _ = stream.write_all(&bytes).await;
                true
            }
        };
        if done {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// A whole answer with its length.
pub(crate) fn http_response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A redirect to `location`.
pub(crate) fn redirect(location: &str) -> Vec<u8> {
    http_response("302 Found", &format!("Location: {location}\r\nConnection: close\r\n"), b"")
}
