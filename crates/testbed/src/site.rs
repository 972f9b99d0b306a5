//! A small web site on loopback that serves what it is given, misbehaves on request, and counts who asked.
//!
//! It decides nothing about jobs. Invariant: a request is counted before it is answered, so that a test that has
//! seen an answer also sees its hit.
//!
//! Besides what is [`put`](Site::put), every site knows these words:
//!
//! | path | what happens |
//! |---|---|
//! | `/status/404` | that status, with a short body |
//! | `/status/503-then-200/anything` | that status twice, then a page; counted per path |
//! | `/redirect-to?u=...` | a redirect there |
//! | `/loop` | a redirect to itself |
//! | `/hang` | the request is read and never answered |
//! | `/hang-up` | the request is read and the connection closed |
//! | `/drip` | a megabyte is announced and comes at ten bytes a second |
//! | `/endless` | chunks, for as long as somebody takes them |
//! | `/short` | the body ends before its announced length |
//! | `/gzip-bomb` | a megabyte that decompresses to a gigabyte |

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::io::AsyncWriteExt;
use url::{Url, form_urlencoded};

use super::body::Body;
use super::http::{self, Connection, Request};
use super::poison;

/// No answer, however slow it is meant to be, takes longer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Paths that hits are counted for; a client that makes up more is not counted.
const MAX_COUNTED_PATHS: usize = 100_000;
/// One piece of an endless body.
const CHUNK_BYTES: usize = 16 * 1024;
/// How often a site that recovers fails first.
const FAILURES_BEFORE_RECOVERY: u64 = 2;

/// What a path answers.
#[derive(Debug, Clone)]
pub enum Resource {
    /// A body with status 200.
    Body(Body),
    /// Only a status.
    Status(u16),
    /// A status for the first few requests, then a body.
    FailsFirst {
        /// How many requests fail.
        times: u64,
        /// With which status.
        status: u16,
        /// What comes then.
        then: Body,
    },
    /// A redirect (302) to this address.
    RedirectTo(String),
    /// The request is read and never answered.
    Hang,
    /// The request is read and the connection closed.
    HangUp,
    /// A megabyte is announced, and comes a byte at a time.
    Drip,
    /// A chunked body without end.
    Endless,
    /// A body that ends this many bytes before its announced length.
    Short {
        /// What is sent.
        body: Body,
        /// What is announced beyond it.
        missing: u64,
    },
}

impl From<Body> for Resource {
    fn from(body: Body) -> Self {
        Self::Body(body)
    }
}

/// A running site; dropping it closes every connection.
#[derive(Debug)]
pub struct Site {
    state: Arc<SiteState>,
    server: http::ListeningServer,
}

#[derive(Debug, Default)]
struct SiteState {
    resources: Mutex<HashMap<String, Resource>>,
    hits: Mutex<HashMap<String, u64>>,
}

/// Nothing panics while it holds one of these locks; if it did, the maps would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Site {
    /// Starts a site on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where the machine gives no socket.
    pub async fn start() -> io::Result<Self> {
        let state = Arc::new(SiteState::default());
        let served = Arc::clone(&state);
        let server = http::listen(move |connection| serve(Arc::clone(&served), connection)).await?;
        Ok(Self { state, server })
    }

    /// The address of a path (with its query), which begins with `/`.
    ///
    /// # Panics
    /// Where the path makes no address.
    pub fn url(&self, path: &str) -> Url {
        let url = format!("http://{}{path}", self.server.address);
        url.parse().expect("a path of the site makes an address")
    }

    /// Puts something at a path, in place of what was there, and gives its address.
    pub fn put(&self, path: &str, resource: impl Into<Resource>) -> Url {
        lock(&self.state.resources).insert(path.to_owned(), resource.into());
        self.url(path)
    }

    /// How often a path was asked for, whatever its query.
    pub fn hits(&self, path: &str) -> u64 {
        lock(&self.state.hits).get(path).copied().unwrap_or(0)
    }
}

impl SiteState {
    /// DeliveryCounts a request and finds what answers it: what was put there, else one of the words, else nothing.
    fn hit(&self, request: &Request) -> (u64, Resource) {
        let path = request.path();
        let mut hits = lock(&self.hits);
        let room = hits.len() < MAX_COUNTED_PATHS || hits.contains_key(path);
        let hit = if room { hits.entry(path.to_owned()).or_insert(0) } else { &mut 0 };
        *hit += 1;
        let put = lock(&self.resources).get(path).cloned();
        (*hit, put.or_else(|| builtin_resource(request)).unwrap_or(Resource::Status(404)))
    }
}

/// What a path of the site's own vocabulary means.
fn builtin_resource(request: &Request) -> Option<Resource> {
    let page = || Body::html(&b"<!DOCTYPE html><title>here</title><p>A page.</p>"[..]);
    if let Some(status) = request.path().strip_prefix("/status/") {
        let recovers = status.split_once("-then-200/").map(|(status, _)| status);
        let code = recovers.unwrap_or(status).parse().ok()?;
        let recovery = Resource::FailsFirst { times: FAILURES_BEFORE_RECOVERY, status: code, then: page() };
        return Some(if recovers.is_some() { recovery } else { Resource::Status(code) });
    }
    match request.path() {
        "/redirect-to" => {
            let query = request.target.split_once('?')?.1.as_bytes();
            let target = form_urlencoded::parse(query).find(|(key, _)| key == "u")?.1.into_owned();
            Some(Resource::RedirectTo(target))
        }
        "/loop" => Some(Resource::RedirectTo("/loop".to_owned())),
        "/hang" => Some(Resource::Hang),
        "/hang-up" => Some(Resource::HangUp),
        "/drip" => Some(Resource::Drip),
        "/endless" => Some(Resource::Endless),
        "/short" => Some(Resource::Short { body: page(), missing: 10_000 }),
        "/gzip-bomb" => Some(poison::gzip_bomb(1 << 30).into()),
        _ => None,
    }
}

/// Whether the connection can take another request.
enum ConnectionReuse {
    Keep,
    Close,
}

async fn serve(state: Arc<SiteState>, mut connection: Connection) {
    while let Some(request) = http::next_request(&mut connection).await {
        let (hit, resource) = state.hit(&request);
        let answer = answer(&mut connection, hit, resource);
        match tokio::time::timeout(RESPONSE_TIMEOUT, answer).await {
            Ok(Ok(ConnectionReuse::Keep)) if !request.wants_close() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

async fn answer(connection: &mut Connection, hit: u64, resource: Resource) -> io::Result<ConnectionReuse> {
    match resource {
        Resource::Body(body) => respond_with_body(connection, &body).await,
        Resource::FailsFirst { times, status, .. } if hit <= times => {
            respond_with_status(connection, status).await
        }
        Resource::FailsFirst { then, .. } => respond_with_body(connection, &then).await,
        Resource::Status(status) => respond_with_status(connection, status).await,
        Resource::RedirectTo(target) => {
            http::write_response(connection, 302, &[("location", &target)], b"").await?;
            Ok(ConnectionReuse::Keep)
        }
        Resource::Hang => {
            // Until the client gives up: what it still sends is nobody's concern.
            tokio::io::copy(connection, &mut tokio::io::sink()).await?;
            Ok(ConnectionReuse::Close)
        }
        Resource::HangUp => Ok(ConnectionReuse::Close),
        Resource::Drip => drip(connection).await,
        Resource::Endless => endless(connection).await,
        Resource::Short { body, missing } => {
            let announced = (body.bytes().len() as u64 + missing).to_string();
            let mut headers = body.headers();
            headers.push(("content-length", &announced));
            http::write_head(connection, 200, &headers).await?;
            connection.write_all(body.bytes()).await?;
            Ok(ConnectionReuse::Close)
        }
    }
}

async fn respond_with_body(connection: &mut Connection, body: &Body) -> io::Result<ConnectionReuse> {
    http::write_response(connection, 200, &body.headers(), body.bytes()).await?;
    Ok(ConnectionReuse::Keep)
}

async fn respond_with_status(connection: &mut Connection, status: u16) -> io::Result<ConnectionReuse> {
    let body = format!("{status}, as asked for\n");
    http::write_response(connection, status, &[("content-type", "text/plain")], body.as_bytes()).await?;
    Ok(ConnectionReuse::Keep)
}

async fn drip(connection: &mut Connection) -> io::Result<ConnectionReuse> {
    let headers = [("content-type", "text/html"), ("content-length", "1048576")];
    http::write_head(connection, 200, &headers).await?;
    loop {
        connection.write_all(b".").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn endless(connection: &mut Connection) -> io::Result<ConnectionReuse> {
    let headers = [("content-type", "text/html"), ("transfer-encoding", "chunked")];
    http::write_head(connection, 200, &headers).await?;
    let text = b"<p>and so on</p>".repeat(CHUNK_BYTES / 16);
    let chunk = [format!("{CHUNK_BYTES:x}\r\n").as_bytes(), &text, b"\r\n"].concat();
    loop {
        connection.write_all(&chunk).await?;
    }
}
