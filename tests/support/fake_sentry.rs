//! A fake Sentry on loopback: takes envelopes over hand-made HTTP, reads them strictly, and can misbehave.
//!
//! It knows nothing of the SDK: framing, lengths and fields are read from the bytes, as Sentry's own relay would.
//!
//! Invariant: whatever is not a well-formed envelope stands in [`FakeSentry::violations`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseMode {
    /// 200.
    Accept,
    /// Accepts the request and never answers.
    Hang,
    /// 429 with so many seconds of `Retry-After`.
    RateLimit(u64),
    /// Another status.
    Status(u16),
}

/// One item of an envelope that was taken.
#[derive(Debug, Clone)]
pub(crate) struct EnvelopeItem {
    /// Its type, e.g. `event`.
    pub(crate) kind: String,
    /// Its payload.
    pub(crate) payload: Value,
}

#[derive(Debug)]
struct ReceivedRequests {
    mode: ResponseMode,
    open: bool,
    /// Requests, whatever was answered.
    requests: usize,
    /// Heads and bodies of all requests, as they came.
    raw: String,
    items: Vec<EnvelopeItem>,
    violations: Vec<String>,
}

/// The running fake; its port closes with it.
#[derive(Debug)]
pub(crate) struct FakeSentry {
    address: SocketAddr,
    received: Arc<Mutex<ReceivedRequests>>,
}

impl FakeSentry {
    /// Starts one on a free port.
    pub(crate) fn start(mode: ResponseMode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (raw, items, violations) = (String::new(), Vec::new(), Vec::new());
        let received =
            Arc::new(Mutex::new(ReceivedRequests { mode, open: true, requests: 0, raw, items, violations }));
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                if !shared.lock().expect("nobody panics with it").open {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(tcp, &shared));
            }
        });
        Self { address, received }
    }

    fn received(&self) -> MutexGuard<'_, ReceivedRequests> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A DSN that leads here, with `hunter2` for its key.
    pub(crate) fn dsn(&self) -> String {
        format!("http://hunter2@{}/42", self.address)
    }

    /// Answers otherwise from now on.
    pub(crate) fn set(&self, mode: ResponseMode) {
        self.received().mode = mode;
    }

    /// The events that were taken, in their order.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.items().into_iter().filter(|item| item.kind == "event").map(|item| item.payload).collect()
    }

    /// All items that were taken.
    pub(crate) fn items(&self) -> Vec<EnvelopeItem> {
        self.received().items.clone()
    }

    /// What was not well-formed.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.received().violations.clone()
    }

    /// How many requests came, whatever was answered.
    pub(crate) fn requests(&self) -> usize {
        self.received().requests
    }

    /// Everything that came over the wire.
    pub(crate) fn raw(&self) -> String {
        self.received().raw.clone()
    }

    /// Waits until `condition` holds, for 10 s at most.
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}: {self:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for FakeSentry {
    fn drop(&mut self) {
        self.received().open = false;
        drop(TcpStream::connect(self.address));
    }
}

fn serve(tcp: TcpStream, shared: &Mutex<ReceivedRequests>) {
    let mut reader = BufReader::new(tcp);
    while let Some((head, body)) = request(&mut reader) {
        let mode = {
            let mut received = shared.lock().expect("nobody panics with it");
            received.requests += 1;
            received.raw.push_str(&head);
            received.raw.push_str(&String::from_utf8_lossy(&body));
            record(&mut received, &head, &body);
            received.mode
        };
        let (status, extra) = match mode {
            ResponseMode::Accept => (200, String::new()),
            ResponseMode::Status(status) => (status, String::new()),
            ResponseMode::RateLimit(seconds) => (429, format!("Retry-After: {seconds}\r\n")),
            ResponseMode::Hang => {
                // Until the peer gives up.
                reader.read_to_end(&mut Vec::new()).unwrap_or_default();
                return;
            }
        };
        let answer = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: 2\r\n\r\n{{}}");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads one request; `None` when the connection ends.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length?];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn record(received: &mut ReceivedRequests, head: &str, body: &[u8]) {
    if !head.starts_with("POST /api/42/envelope/ HTTP/1.1\r\n") {
        received.violations.push(format!("not to the envelope endpoint: {head}"));
    }
    if !head.to_lowercase().contains("x-sentry-auth: sentry sentry_key=hunter2, sentry_version=7") {
        received.violations.push(format!("no key in the head: {head}"));
    }
    match parse_envelope(body) {
        Err(fault) => received.violations.push(fault),
        Ok(items) if received.mode == ResponseMode::Accept => received.items.extend(items),
        Ok(_) => {}
    }
}

/// Reads an envelope: a header line, then items of a header line with the payload's length, and the payload.
pub(crate) fn parse_envelope(body: &[u8]) -> Result<Vec<EnvelopeItem>, String> {
    let (header, mut rest) = line(body)?;
    let event_id =
        header["event_id"].as_str().ok_or("no event_id in the envelope's header")?.replace('-', "");
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (header, after) = line(rest)?;
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
            && payload["event_id"].as_str().map(|id| id.replace('-', "")) != Some(event_id.clone())
        {
            return Err("an event with another id than its envelope".to_owned());
        }
        items.push(EnvelopeItem { kind, payload });
    }
    if items.is_empty() { Err("an empty envelope".to_owned()) } else { Ok(items) }
}

fn line(bytes: &[u8]) -> Result<(Value, &[u8]), String> {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| format!("a header that is no JSON: {e}"))?;
    Ok((header, bytes.get(end + 1..).unwrap_or_default()))
}
