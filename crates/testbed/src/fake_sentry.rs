//! A fake Sentry on loopback: it takes envelopes, reads them strictly, counts them, and can misbehave.
//!
//! It knows nothing of an SDK: lengths and fields are read from the bytes, as Sentry's own relay would read
//! them.
//!
//! Invariants: what is not a well-formed envelope stands in [`FakeSentry::violations`]; everything that is
//! kept is bounded, and what is not kept is still counted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::http::{HttpServer, Request, Respond, Response};

/// The key of the DSN: the head of every request must have it, and no payload may.
const KEY: &str = "hunter2";
/// The endpoint of the DSN's project.
const ENDPOINT: &str = "/api/1/envelope/";
/// Items and violations that are kept, the first ones; a worker that sends more than this has failed,
/// whatever they say.
const MAX_KEPT: usize = 1000;
/// How much of the requests is kept as it came.
const MAX_RAW_BYTES: usize = 8 * 1024 * 1024;

/// How a fake Sentry answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    /// 200; only then the items of an envelope are kept.
    Accept,
    /// The request is read and never answered.
    Hang,
    /// 429 with so many seconds of `Retry-After`.
    RateLimit(u64),
    /// Another status.
    Status(u16),
    /// Another status to an envelope with this text; others are accepted.
    Refuse(&'static str, u16),
}

/// One item of an envelope.
#[derive(Debug, Clone)]
pub struct EnvelopeItem {
    /// Its type, e.g. `event`.
    pub kind: String,
    /// Its payload.
    pub payload: Value,
}

#[derive(Debug)]
struct ReceivedEnvelopes {
    mode: ResponseMode,
    requests: usize,
    raw: String,
    alerts: u64,
    items: Vec<EnvelopeItem>,
    violations: Vec<String>,
}

/// A running fake Sentry; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct FakeSentry {
    state: Arc<Mutex<ReceivedEnvelopes>>,
    server: HttpServer,
}

impl FakeSentry {
    /// Starts a fake Sentry on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where the machine gives no socket.
    pub async fn start(mode: ResponseMode) -> io::Result<Self> {
        let (raw, items, violations) = Default::default();
        let received = ReceivedEnvelopes { mode, requests: 0, raw, alerts: 0, items, violations };
        let state = Arc::new(Mutex::new(received));
        let server = HttpServer::start(Arc::clone(&state)).await?;
        Ok(Self { state, server })
    }

    /// A DSN that leads here, with `hunter2` for its key.
    pub fn dsn(&self) -> String {
        format!("http://{KEY}@{}/1", self.server.address())
    }

    /// Answers in another way from now on.
    pub fn set(&self, mode: ResponseMode) {
        self.state.lock().mode = mode;
    }

    /// How many requests came, whatever was answered.
    pub fn requests(&self) -> usize {
        self.state.lock().requests
    }

    /// How many events were accepted: each one is an alert.
    pub fn alerts(&self) -> u64 {
        self.state.lock().alerts
    }

    /// The first thousand accepted items, in their order.
    pub fn items(&self) -> Vec<EnvelopeItem> {
        self.state.lock().items.clone()
    }

    /// The events among [`items`](Self::items).
    pub fn events(&self) -> Vec<Value> {
        self.items().into_iter().filter(|item| item.kind == "event").map(|item| item.payload).collect()
    }

    /// The monitors that were checked in, in their order.
    pub fn check_ins(&self) -> Vec<String> {
        let check_ins = self.items().into_iter().filter(|item| item.kind == "check_in");
        check_ins.map(|item| item.payload["monitor_slug"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The fingerprints of those events; empty for an event without its own.
    pub fn fingerprints(&self) -> Vec<Vec<String>> {
        let fingerprint = |event: &Value| {
            let parts = event["fingerprint"].as_array().into_iter().flatten();
            parts.map(|part| part.as_str().unwrap_or_default().to_owned()).collect()
        };
        self.events().iter().map(fingerprint).collect()
    }

    /// What was not well-formed, the first thousand faults.
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// The first 8 MiB of heads and bodies as they came.
    pub fn raw(&self) -> String {
        self.state.lock().raw.clone()
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// Where it does not hold within 10 s; the message names `what`, and all that came.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}: {self:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Respond for Mutex<ReceivedEnvelopes> {
    async fn respond(&self, request: &Request) -> Response {
        let mut received = self.lock();
        let addressed = received.record(request);
        let json = ("content-type", "application/json");
        match received.mode {
            _ if !addressed => Response::new(400, &[json], *b"{}").then_close(),
            ResponseMode::Accept => Response::new(200, &[json], *b"{}"),
            ResponseMode::Status(status) => Response::new(status, &[json], *b"{}"),
            ResponseMode::Refuse(text, status) if contains(&request.body, text) => {
                Response::new(status, &[json], *b"{}")
            }
            ResponseMode::Refuse(..) => Response::new(200, &[json], *b"{}"),
            ResponseMode::RateLimit(seconds) => {
                Response::new(429, &[json, ("retry-after", &seconds.to_string())], *b"{}")
            }
            ResponseMode::Hang => Response::raw([]).then_hang(),
        }
    }
}

impl ReceivedEnvelopes {
    /// Records a request, and answers whether it was sent to the envelope endpoint.
    fn record(&mut self, request: &Request) -> bool {
        self.requests += 1;
        let text = String::from_utf8_lossy(&request.body);
        if self.raw.len() + request.head.len() + text.len() <= MAX_RAW_BYTES {
            self.raw.extend([&request.head, &*text]);
        }
        let addressed = request.method == "POST" && request.target == ENDPOINT;
        if !addressed {
            self.violation(format!("not to the envelope endpoint: {}", request.head));
        }
        let key = format!("sentry sentry_key={KEY}, sentry_version=7");
        let auth = request.header("x-sentry-auth").unwrap_or_default().to_lowercase();
        if !auth.contains(&key) {
            self.violation(format!("no key in the head: {}", request.head));
        }
        match parse_envelope(&request.body) {
            Err(fault) => self.violation(fault),
            Ok(items) if self.accepts(&request.body) && addressed => {
                self.alerts += items.iter().filter(|item| item.kind == "event").count() as u64;
                let room = MAX_KEPT.saturating_sub(self.items.len());
                self.items.extend(items.into_iter().take(room));
            }
            Ok(_) => {}
        }
        addressed
    }

    fn accepts(&self, body: &[u8]) -> bool {
        match self.mode {
            ResponseMode::Accept => true,
            ResponseMode::Refuse(text, _) => !contains(body, text),
            ResponseMode::Hang | ResponseMode::RateLimit(_) | ResponseMode::Status(_) => false,
        }
    }

    fn violation(&mut self, fault: String) {
        if self.violations.len() < MAX_KEPT {
            self.violations.push(fault);
        }
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

/// Reads an envelope: a header line, then items of a header line with the payload's length, and the payload.
/// (Format: develop.sentry.dev, "Envelopes".)
fn parse_envelope(body: &[u8]) -> Result<Vec<EnvelopeItem>, String> {
    let (header, mut rest) = parse_line(body)?;
    let event_id = header["event_id"].as_str().map(|id| id.replace('-', ""));
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (header, after) = parse_line(rest)?;
        let kind = header["type"].as_str().ok_or("an item without a type")?.to_owned();
        let length = header["length"].as_u64().ok_or("an item without a length")? as usize;
        let payload = after.get(..length).ok_or(format!("an item of {length} bytes that has fewer"))?;
        rest = match after.get(length..) {
            None | Some([]) => &[],
            Some([b'\n', rest @ ..]) => rest,
            Some(_) => return Err(format!("an item that does not end after its {length} bytes")),
        };
        let payload: Value =
            serde_json::from_slice(payload).map_err(|e| format!("a payload that is no JSON: {e}"))?;
        if kind == "event"
            && (event_id.is_none() || payload["event_id"].as_str().map(|id| id.replace('-', "")) != event_id)
        {
            return Err("an event with another id than its envelope, or an envelope without one".to_owned());
        }
        items.push(EnvelopeItem { kind, payload });
    }
    if items.is_empty() { Err("an empty envelope".to_owned()) } else { Ok(items) }
}

/// The first line as JSON, and what follows it.
fn parse_line(bytes: &[u8]) -> Result<(Value, &[u8]), String> {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| format!("a header that is no JSON: {e}"))?;
    Ok((header, bytes.get(end + 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_taken_apart_by_its_lengths() {
        let kinds = |envelope: &str| {
            parse_envelope(envelope.as_bytes())
                .map(|items| items.into_iter().map(|item| item.kind).collect::<Vec<_>>())
                .ok()
        };
        let event = r#"{"event_id":"a-b","fingerprint":["a"]}"#;
        let header = r#"{"event_id":"ab"}"#;
        let item = format!("{{\"type\":\"event\",\"length\":{}}}\n{event}\n", event.len());
        let whole = format!("{header}\n{item}{{\"type\":\"log\",\"length\":2}}\n{{}}\n");
        assert_eq!(kinds(&whole), Some(vec!["event".to_owned(), "log".to_owned()]));
        assert_eq!(kinds(&format!("{header}\n{{\"type\":\"event\",\"length\":99}}\nshort")), None);
        assert_eq!(
            kinds(&format!("{header}\n{{\"type\":\"log\",\"length\":1}}\n{{}}\n")),
            None,
            "it is longer"
        );
        assert_eq!(kinds(&format!("{header}\n{{\"type\":\"log\"}}\n{{}}\n")), None, "no length");
        assert_eq!(kinds(&format!("{{\"event_id\":\"c\"}}\n{item}")), None, "another event's id");
        for bad in ["{}", header, &format!("{header}\n{{}}\nx"), "not json"] {
            assert_eq!(kinds(bad), None, "{bad}");
        }
    }
}
