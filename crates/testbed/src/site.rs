//! A small web site on loopback that serves what it is given, misbehaves on request, and counts who asked.
//!
//! It decides nothing about jobs. Invariant: a request is counted before it is answered, so that a test that
//! has seen an answer also sees its hit.
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
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use url::{Url, form_urlencoded};

use super::body::Body;
use super::http::{HttpServer, Request, Respond, Response};
use super::poison;

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
    /// A body with status 200, after this long.
    Slow(Body, Duration),
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
    server: HttpServer,
}

#[derive(Debug, Default)]
struct SiteState {
    resources: Mutex<HashMap<String, Resource>>,
    hits: Mutex<HashMap<String, u64>>,
}

impl Site {
    /// Starts a site on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where the machine gives no socket.
    pub async fn start() -> io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts a site on a free port of this address, which is a host of its own.
    ///
    /// # Errors
    /// Where the machine gives no socket there.
    pub async fn start_at(address: Ipv4Addr) -> io::Result<Self> {
        let state = Arc::new(SiteState::default());
        let server = HttpServer::bind((address, 0), Arc::clone(&state)).await?;
        Ok(Self { state, server })
    }

    /// The address of a path (with its query), which begins with `/`.
    ///
    /// # Panics
    /// Where the path makes no address.
    pub fn url(&self, path: &str) -> Url {
        self.server.url(path)
    }

    /// Puts something at a path, in place of what was there, and gives its address.
    pub fn put(&self, path: &str, resource: impl Into<Resource>) -> Url {
        self.state.resources.lock().insert(path.to_owned(), resource.into());
        self.url(path)
    }

    /// How often a path was asked for, whatever its query.
    pub fn hits(&self, path: &str) -> u64 {
        self.state.hits.lock().get(path).copied().unwrap_or(0)
    }
}

impl SiteState {
    /// Counts a request and finds what answers it: what was put there, else one of the words, else nothing.
    fn hit(&self, request: &Request) -> (u64, Resource) {
        let path = request.path();
        let mut hits = self.hits.lock();
        let room = hits.len() < MAX_COUNTED_PATHS || hits.contains_key(path);
        let hit = if room { hits.entry(path.to_owned()).or_insert(0) } else { &mut 0 };
        *hit += 1;
        let put = self.resources.lock().get(path).cloned();
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
            let target = form_urlencoded::parse(request.query().as_bytes())
                .find(|(key, _)| key == "u")?
                .1
                .into_owned();
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

impl Respond for SiteState {
    async fn respond(&self, request: &Request) -> Response {
        let (hit, resource) = self.hit(request);
        match resource {
            Resource::Body(body) => ok(&body),
            Resource::Slow(body, pause) => ok(&body).delayed(pause),
            Resource::FailsFirst { times, status, .. } if hit <= times => status_only(status),
            Resource::FailsFirst { then, .. } => ok(&then),
            Resource::Status(status) => status_only(status),
            Resource::RedirectTo(target) => Response::new(302, &[("location", &target)], []),
            Resource::Hang => Response::raw([]).then_hang(),
            Resource::HangUp => Response::raw([]).then_close(),
            Resource::Drip => {
                let headers = [("content-type", "text/html"), ("content-length", "1048576")];
                Response::head(200, &headers).then_repeat(*b".", Duration::from_millis(100))
            }
            Resource::Endless => endless(),
            Resource::Short { body, missing } => {
                let announced = (body.bytes().len() as u64 + missing).to_string();
                let mut headers = body.headers();
                headers.push(("content-length", &announced));
                Response::head(200, &headers).with_body(body.shared()).then_close()
            }
        }
    }
}

fn ok(body: &Body) -> Response {
    Response::new(200, &body.headers(), body.shared())
}

fn status_only(status: u16) -> Response {
    let body = format!("{status}, as asked for\n");
    Response::new(status, &[("content-type", "text/plain")], body.into_bytes())
}

fn endless() -> Response {
    let headers = [("content-type", "text/html"), ("transfer-encoding", "chunked")];
    let text = b"<p>and so on</p>".repeat(CHUNK_BYTES / 16);
    let chunk = [format!("{CHUNK_BYTES:x}\r\n").as_bytes(), &text, b"\r\n"].concat();
    Response::head(200, &headers).then_repeat(chunk, Duration::ZERO)
}
