//! A fake of the db app's API that speaks its real shapes, checks credentials, and counts what it got.
//!
//! It answers as today's app does: lists are not filtered by `different`, the place of the next chunk is cut to seconds
//! while the versions are ordered by their whole time, and a version without a page fails whatever names its page.

mod list;
mod login;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use self::list::{as_shown, time_of};
use super::http::{HttpServer, Request, Respond, Response};

/// Whose annotations they are.
const AUTHOR: &str = "analyst@db.test";

/// An answer of our choice: status, header lines, body.
pub type CannedResponse = (u16, Vec<(&'static str, String)>, String);

/// What the fake knows, and what it saw.
#[derive(Debug, Default)]
pub struct DbState {
    /// Versions as the API shows them, oldest first.
    pub versions: Vec<Value>,
    /// Leave `links.previous` out, as an app might that has no such link.
    pub without_links: bool,
    /// The `Authorization` that is asked for; also the email and the password that a token is given for.
    pub authorization: Option<String>,
    /// Which addresses give tokens.
    pub sign_in: SignIn,
    /// How long a token is valid; a week where it is zero, as in the app.
    pub token_lifetime: Duration,
    /// Tokens given: until when each is valid, and for which credentials it was given.
    pub tokens: BTreeMap<String, (Instant, String)>,
    /// Do not state in a token how long it is valid.
    pub opaque_tokens: bool,
    /// The user may look and not annotate.
    pub may_not_annotate: bool,
    /// `versions/<uuid>/raw` is for those who are logged in, as all else is.
    pub private_raw: bool,
    /// Refuse to write.
    pub read_only: bool,
    /// Refuse every annotation, with this status and body.
    pub refuse_posts: Option<(u16, String)>,
    /// Where `versions/<uuid>/raw` redirects to.
    pub raw: BTreeMap<String, String>,
    /// Fail wherever one of these versions is asked for.
    pub broken: Vec<Uuid>,
    /// Answer everything with this instead.
    pub response_override: Option<CannedResponse>,
    /// Wait this long before each answer.
    pub delay: Duration,
    /// Answer an annotation after this time in addition, once so many times; it is stored before that.
    pub slow_posts: (usize, Duration),
    /// Method, path and query of every request.
    pub requests: Vec<String>,
    /// `Authorization` of every request.
    pub authorizations: Vec<Option<String>>,
    /// Request line and headers of every request, as they came.
    pub heads: Vec<String>,
    /// Annotations by change and author.
    pub annotations: BTreeMap<(String, &'static str), Value>,
    /// Changes whose annotation was replaced by a different one.
    pub rewritten: Vec<String>,
    /// The most versions of one chunk; 0 for the app's own bound.
    pub max_chunk: usize,
    /// Changes that the app holds, by the uuid of their newer version.
    pub changes: Vec<String>,
    /// Answer the list with this instead, so many times, once so many chunks were given.
    pub list_fault: Option<(usize, usize, CannedResponse)>,
    /// Chunks given.
    pub chunks: usize,
    /// Requests under way, now and at most.
    pub concurrent_requests: (usize, usize),
}

/// Which addresses give tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignIn {
    /// Both, as in today's app.
    #[default]
    Both,
    /// `/users/sign_in.json` alone, as in older ones.
    RootOnly,
    /// None.
    Nowhere,
}

/// A running fake; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct FakeDb {
    state: Arc<Mutex<DbState>>,
    server: HttpServer,
}

impl FakeDb {
    /// Starts a fake with this state on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Where the machine gives no socket.
    pub async fn with(db: DbState) -> Self {
        let state = Arc::new(Mutex::new(db));
        let server = HttpServer::start(Arc::clone(&state)).await.expect("a socket on loopback");
        Self { state, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Looks at its state, or changes it.
    pub fn with_state<T>(&self, action: impl FnOnce(&mut DbState) -> T) -> T {
        action(&mut self.state.lock())
    }

    /// Number of logins so far.
    pub fn logins(&self) -> usize {
        self.with_state(|db| db.requests.iter().filter(|line| line.contains("sign_in")).count())
    }

    /// The annotations that were sent so far, also those that were refused: method, path and query of each.
    pub fn posts(&self) -> Vec<String> {
        self.with_state(|db| {
            db.requests
                .iter()
                .filter(|line| line.starts_with("POST") && line.ends_with("/annotations"))
                .cloned()
                .collect()
        })
    }

    /// Number of requests so far, with logins.
    pub fn calls(&self) -> usize {
        self.with_state(|db| db.requests.len())
    }
}

/// Versions made so far: each was captured a second after the one before it.
static CAPTURED: AtomicU64 = AtomicU64::new(0);

/// A version in the field names of today, captured after all those before it.
pub fn version(uuid: Uuid, page: Uuid) -> Value {
    let at = CAPTURED.fetch_add(1, Ordering::Relaxed);
    let time = format!(
        "2018-10-{:02}T{:02}:{:02}:{:02}.000Z",
        10 + at / 86_400,
        at / 3_600 % 24,
        at / 60 % 60,
        at % 60
    );
    json!({"uuid": uuid, "page_uuid": page, "capture_time": time, "url": "https://agency.test/",
        "body_url": format!("https://archive.test/{uuid}"), "body_hash": "86e6", "content_length": 9,
        "media_type": "text/html", "headers": null, "status": 200, "network_error": null, "title": "A page",
        "source_type": "internet_archive", "source_metadata": {}, "different": true, "quality": 1.0,
        "created_at": "2018-10-10T16:00:00.000Z", "updated_at": "2018-10-10T16:00:00.000Z"})
}

impl Respond for Mutex<DbState> {
    async fn respond(&self, request: &Request) -> Response {
        let delay = self.lock().record(request);
        tokio::time::sleep(delay).await;
        self.lock().answer(request)
    }
}

impl DbState {
    /// Records a request, and answers how long it waits.
    fn record(&mut self, request: &Request) -> Duration {
        self.requests.push(format!("{} {}", request.method, request.target));
        self.authorizations.push(request.header("authorization").map(str::to_owned));
        self.heads.push(request.head.clone());
        self.concurrent_requests.0 += 1;
        self.concurrent_requests.1 = self.concurrent_requests.1.max(self.concurrent_requests.0);
        self.delay
    }

    fn answer(&mut self, request: &Request) -> Response {
        self.concurrent_requests.0 -= 1;
        if let Some((status, headers, body)) = self.response_override.clone() {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            return Response::new(status, &headers, body.into_bytes());
        }
        let raw = self.raw_of(request.path());
        let mut pause = Duration::ZERO;
        let (status, answer) = match request.path() {
            "/api/v0/users/sign_in" if self.sign_in == SignIn::Both => self.sign_in(&request.body),
            "/users/sign_in.json" if self.sign_in != SignIn::Nowhere => self.sign_in(&request.body),
            path if path.ends_with("/sign_in") || path.ends_with("/sign_in.json") => {
                (404, json!({"status": 404, "error": "Not Found"}))
            }
            "/api/v0/users/session" | "/users/session" => match self.is_logged_in(request) {
                true => (200, json!({"user": self.user()})),
                false => (401, json!({"status": 401, "title": "Unauthorized"})),
            },
            _ if raw.is_some() && !(self.private_raw && self.is_refused(request)) => {
                return Response::new(301, &[("location", &raw.unwrap_or_default())], []);
            }
            _ if self.is_refused(request) => (401, errors(401, "Invalid credentials.")),
            path if request.method == "POST" => {
                let answer = self.annotate(path, &request.body);
                if answer.0 == 200 && self.slow_posts.0 > 0 {
                    self.slow_posts.0 -= 1;
                    pause = self.slow_posts.1;
                }
                answer
            }
            path => self.find(path, request.query()),
        };
        Response::new(status, &[], answer.to_string().into_bytes()).delayed(pause)
    }

    fn find(&mut self, path: &str, query: &str) -> (u16, Value) {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments[..] {
            ["api", "v0", "versions"] => self.list(query),
            ["api", "v0", "versions", uuid] => self.show(uuid),
            ["api", "v0", "pages", page, "versions"] => {
                assert_eq!(query, "different=false&sort=capture_time:asc&chunk_size=1");
                let of_page: Vec<&Value> =
                    self.versions.iter().filter(|v| v["page_uuid"] == page).take(1).collect();
                (200, json!({"links": {"next": null}, "meta": {}, "data": of_page}))
            }
            ["api", "v0", "pages", _, "changes", change, "annotations"] => {
                let of_change = self.annotations.iter().filter(|((stored, _), _)| stored == change);
                let author = json!({"id": 1, "email": AUTHOR});
                let data: Vec<Value> =
                    of_change.map(|(_, value)| json!({"annotation": value, "author": author})).collect();
                (200, json!({"links": {}, "meta": {}, "data": data}))
            }
            ["api", "v0", "pages", _, "changes", change] => {
                let (_, to) = change.split_once("..").unwrap();
                match self.position(to).and_then(|at| self.previous(at)) {
                    Some(at) => (
                        200,
                        json!({"links": {}, "data": {"uuid_from": self.versions[at]["uuid"], "uuid_to": to}}),
                    ),
                    None => (404, errors(404, &format!("There is no version prior to {to} to change from."))),
                }
            }
            _ => (404, json!({"status": 404, "error": "Not Found"})),
        }
    }

    fn show(&self, uuid: &str) -> (u16, Value) {
        if self.broken.iter().any(|broken| broken.to_string() == uuid) {
            return (503, errors(503, "Service Unavailable"));
        }
        let Some(at) = self.position(uuid) else {
            return (404, errors(404, &format!("Couldn't find Version with 'uuid'={uuid}")));
        };
        if self.versions[at]["page_uuid"].is_null() {
            return (500, errors(500, "Internal Server Error")); // there is no page to link to
        }
        let link = |at: usize| {
            json!(format!("http://db.test/api/v0/versions/{}", self.versions[at]["uuid"].as_str().unwrap()))
        };
        let mut answer = json!({"data": as_shown(self.versions[at].clone()), "links": {"page": "http://db.test/api/v0/pages/1", "next": null}});
        if !self.without_links {
            answer["links"]["previous"] = self.previous(at).map_or(Value::Null, link);
        }
        (200, answer)
    }

    /// Where a body is that the app shows as its own; open to everybody.
    fn raw_of(&self, path: &str) -> Option<String> {
        let uuid = path.strip_prefix("/api/v0/versions/")?.strip_suffix("/raw")?;
        self.raw.get(uuid).cloned()
    }

    fn annotate(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        if self.may_not_annotate {
            return (403, errors(403, "You are not authorized to perform this action."));
        }
        if self.read_only {
            return (423, errors(423, "This API is read-only; you cannot add or update data."));
        }
        if let Some((status, body)) = &self.refuse_posts {
            return (*status, serde_json::from_str(body).unwrap());
        }
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let ["api", "v0", "pages", _, "changes", change, "annotations"] = segments[..] else {
            return (404, json!({}));
        };
        let annotation: Value = serde_json::from_slice(body).unwrap();
        if annotation == json!({}) {
            return (422, errors(422, "Annotations cannot be empty"));
        }
        if let Some((from, to)) = change.split_once("..").and_then(|(from, to)| {
            let time = |uuid| Some(time_of(self.versions[self.position(uuid)?]["capture_time"].as_str()?));
            time(from).zip(time(to))
        }) && from >= to
        {
            let words = "From version must be an earlier version than the ending version";
            return (422, errors(422, words));
        }
        if annotation["priority"].as_f64().is_none_or(|priority| priority > 1.0) {
            return (422, errors(422, "Validation failed: Priority must be less than or equal to 1"));
        }
        let before = self.annotations.insert((change.to_owned(), AUTHOR), annotation.clone());
        if before.is_some_and(|before| before != annotation) {
            self.rewritten.push(change.to_owned());
        }
        (200, json!({"links": {}, "data": {"annotation": annotation, "author": {"id": 1, "email": AUTHOR}}}))
    }

    /// Where the version before this one of its page is.
    fn previous(&self, at: usize) -> Option<usize> {
        self.versions[..at].iter().rposition(|version| version["page_uuid"] == self.versions[at]["page_uuid"])
    }

    fn position(&self, uuid: &str) -> Option<usize> {
        self.versions.iter().position(|version| version["uuid"] == uuid)
    }
}

/// An error as the app says it.
pub fn errors(status: u16, title: &str) -> Value {
    json!({"errors": [{"status": status, "title": title}]})
}
