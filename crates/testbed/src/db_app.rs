//! A fake of the db app's API that speaks its real shapes, checks credentials, and counts what it got.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

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
    /// The `Authorization` that is asked for.
    pub authorization: Option<String>,
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
    /// Method, path and query of every request.
    pub requests: Vec<String>,
    /// `Authorization` of every request.
    pub authorizations: Vec<Option<String>>,
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

    /// Number of requests so far.
    pub fn calls(&self) -> usize {
        self.with_state(|db| db.requests.len())
    }
}

/// A version in the field names of today.
pub fn version(uuid: Uuid, page: Uuid) -> Value {
    json!({"uuid": uuid, "page_uuid": page, "capture_time": "2018-10-10T15:30:00.000Z", "url": "https://agency.test/",
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
        if let Some(place) = self.raw_of(request.path()) {
            return Response::new(301, &[("location", &place)], []);
        }
        let refused =
            self.authorization.is_some() && self.authorization.as_deref() != request.header("authorization");
        let (status, answer) = if refused {
            (401, errors(401, "Invalid credentials."))
        } else if request.method == "POST" {
            self.annotate(request.path(), &request.body)
        } else {
            self.find(request.path(), request.query())
        };
        Response::new(status, &[], answer.to_string().into_bytes())
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
            ["api", "v0", "pages", _, "changes", change] => {
                let (_, to) = change.split_once("..").unwrap();
                match self.position(to).and_then(|at| at.checked_sub(1)) {
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

    /// A chunk of the versions in their order of capture, the place of the next one in its link, and changes
    /// for those who are logged in.
    fn list(&mut self, query: &str) -> (u16, Value) {
        if let Some((after, times, (status, _, body))) = &mut self.list_fault
            && self.chunks >= *after
            && *times > 0
        {
            *times -= 1;
            return (*status, serde_json::from_str(body).unwrap());
        }
        let asked: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let changes = asked.get("include_change_from_previous").map(String::as_str) == Some("true");
        if changes && self.authorization.is_none() {
            return (403, errors(403, "You must be logged in to use include_change_from_previous."));
        }
        assert_eq!((asked["different"].as_str(), asked["sort"].as_str()), ("true", "capture_time:asc"));
        let (since, until) = asked["capture_time"].split_once("..").unwrap();
        let place = asked.get("chunk").map(|chunk| chunk.split_once(',').unwrap());
        let key = |v: &Value| {
            let time = v["capture_time"].as_str().unwrap()[..19].to_owned() + "Z";
            (time, v["uuid"].as_str().unwrap().to_owned())
        };
        let mut found: Vec<&Value> = self.versions.iter().filter(|v| v["different"] == true).collect();
        found.retain(|v| key(v).0.as_str() >= since && key(v).0.as_str() <= until);
        found.retain(|v| place.is_none_or(|(time, uuid)| key(v) > (time.to_owned(), uuid.to_owned())));
        found.sort_by_key(|v| key(v));
        let most = if self.max_chunk == 0 { 1000 } else { self.max_chunk };
        let size = asked["chunk_size"].parse::<usize>().unwrap().clamp(1, most);
        let chunk: Vec<Value> = found.into_iter().take(size).cloned().collect();
        let next = (chunk.len() == size).then(|| {
            let (time, uuid) = key(&chunk[size - 1]);
            let query = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(asked.iter().filter(|(name, _)| *name != "chunk"))
                .append_pair("chunk", &format!("{time},{uuid}"))
                .finish();
            format!("https://elsewhere.test/api/v0/versions?{query}")
        });
        let data: Vec<Value> = chunk
            .into_iter()
            .map(|mut version| {
                if changes {
                    let known = self.changes.iter().any(|uuid| version["uuid"] == uuid.as_str());
                    version["change_from_previous"] =
                        if known { json!({"priority": 0.5}) } else { Value::Null };
                }
                version
            })
            .collect();
        self.chunks += 1;
        (200, json!({"links": {"first": "https://elsewhere.test/", "next": next}, "meta": {}, "data": data}))
    }

    fn show(&self, uuid: &str) -> (u16, Value) {
        if self.broken.iter().any(|broken| broken.to_string() == uuid) {
            return (500, errors(500, "Internal Server Error"));
        }
        let Some(at) = self.position(uuid) else {
            return (404, errors(404, &format!("Couldn't find Version with 'uuid'={uuid}")));
        };
        let link = |at: usize| {
            json!(format!("http://db.test/api/v0/versions/{}", self.versions[at]["uuid"].as_str().unwrap()))
        };
        let mut answer = json!({"data": self.versions[at], "links": {"page": "http://db.test/api/v0/pages/1", "next": null}});
        if !self.without_links {
            answer["links"]["previous"] = at.checked_sub(1).map_or(Value::Null, link);
        }
        (200, answer)
    }

    /// Where a body is that the app shows as its own; open to everybody.
    fn raw_of(&self, path: &str) -> Option<String> {
        let uuid = path.strip_prefix("/api/v0/versions/")?.strip_suffix("/raw")?;
        self.raw.get(uuid).cloned()
    }

    fn annotate(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        if self.read_only {
            return (423, errors(423, "The API is in read-only mode."));
        }
        if let Some((status, body)) = &self.refuse_posts {
            return (*status, serde_json::from_str(body).unwrap());
        }
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let ["api", "v0", "pages", _, "changes", change, "annotations"] = segments[..] else {
            return (404, json!({}));
        };
        let annotation: Value = serde_json::from_slice(body).unwrap();
        if annotation["priority"].as_f64().is_none_or(|priority| priority > 1.0) {
            return (422, errors(422, "Validation failed: Priority must be less than or equal to 1"));
        }
        let before = self.annotations.insert((change.to_owned(), AUTHOR), annotation.clone());
        if before.is_some_and(|before| before != annotation) {
            self.rewritten.push(change.to_owned());
        }
        (200, json!({"links": {}, "data": {"annotation": annotation, "author": {"id": 1, "email": AUTHOR}}}))
    }

    fn position(&self, uuid: &str) -> Option<usize> {
        self.versions.iter().position(|version| version["uuid"] == uuid)
    }
}

/// An error as the app says it.
pub fn errors(status: u16, title: &str) -> Value {
    json!({"errors": [{"status": status, "title": title}]})
}
