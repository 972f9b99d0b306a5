//! A Sentry ingest that only counts and keeps: for showing, and testing, how many alerts would have been sent.
//!
//! It speaks as much of the envelope protocol as an SDK needs to believe it. It never answers with a rate limit
//! unless it is told to. Invariant: everything it keeps is bounded; what it does not keep it still counts.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::http::{self, Connection};

/// Sentry itself refuses larger envelopes of this kind.
const MAX_ENVELOPE_BYTES: usize = 1024 * 1024;
/// Events kept whole, oldest first; a worker that sends more than this has failed whatever they say.
const MAX_STORED_EVENTS: usize = 1000;

/// What came in.
#[derive(Debug, Clone, Default)]
struct ReceivedEnvelopes {
    envelopes: u64,
    items: BTreeMap<String, u64>,
    unreadable: u64,
    events: Vec<Value>,
}

/// A running ingest; dropping it closes every connection.
#[derive(Debug)]
pub struct FakeSentry {
    received: Arc<Mutex<ReceivedEnvelopes>>,
    server: http::ListeningServer,
}

impl FakeSentry {
    /// Starts an ingest on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where the machine gives no socket.
    pub async fn start() -> io::Result<Self> {
        let received = Arc::new(Mutex::new(ReceivedEnvelopes::default()));
        let served = Arc::clone(&received);
        let server = http::listen(move |connection| serve(Arc::clone(&served), connection)).await?;
        Ok(Self { received, server })
    }

    /// The address to give to an SDK.
    pub fn dsn(&self) -> String {
        format!("http://demo@{}/1", self.server.address)
    }

    /// How many envelopes came.
    pub fn envelopes(&self) -> u64 {
        self.received().envelopes
    }

    /// How many events came: each one is an alert.
    pub fn alerts(&self) -> u64 {
        self.items("event")
    }

    /// How many items of a type came: `event`, `session`, `log`, `check_in`, ...
    pub fn items(&self, kind: &str) -> u64 {
        self.received().items.get(kind).copied().unwrap_or(0)
    }

    /// How many envelopes could not be read.
    pub fn unreadable(&self) -> u64 {
        self.received().unreadable
    }

    /// The first thousand events, as they came.
    pub fn events(&self) -> Vec<Value> {
        self.received().events.clone()
    }

    /// The fingerprints of those events; empty for one that has none of its own.
    pub fn fingerprints(&self) -> Vec<Vec<String>> {
        let fingerprint = |event: &Value| {
            let parts = event["fingerprint"].as_array().into_iter().flatten();
            parts.map(|part| part.as_str().unwrap_or_default().to_owned()).collect()
        };
        self.received().events.iter().map(fingerprint).collect()
    }

    fn received(&self) -> MutexGuard<'_, ReceivedEnvelopes> {
        lock(&self.received)
    }
}

/// Nothing panics while it holds the lock; if it did, the counts would still be counts.
fn lock(received: &Mutex<ReceivedEnvelopes>) -> MutexGuard<'_, ReceivedEnvelopes> {
    received.lock()
}

async fn serve(received: Arc<Mutex<ReceivedEnvelopes>>, mut connection: Connection) {
    while let Some(request) = http::next_request(&mut connection).await {
        let length = request.header("content-length").and_then(|value| value.parse().ok());
        let (Some(length), "POST") = (length, request.method.as_str()) else { return };
        if length > MAX_ENVELOPE_BYTES || !request.path().ends_with("/envelope/") {
            let _ = http::write_response(&mut connection, 400, &[], b"").await;
            return;
        }
        let mut body = vec![0; length];
        if connection.read_exact(&mut body).await.is_err() {
            return;
        }
        lock(&received).record(&body);
        let json = [("content-type", "application/json")];
        let written = http::write_response(&mut connection, 200, &json, b"{}").await;
        if written.is_err() || request.wants_close() {
            return;
        }
    }
}

impl ReceivedEnvelopes {
    fn record(&mut self, envelope: &[u8]) {
        self.envelopes += 1;
        let Some(items) = items(envelope) else {
            self.unreadable += 1;
            return;
        };
        for (kind, payload) in items {
            // An envelope may hold any type name; the map holds as many as Sentry could ever define.
            if self.items.len() < 100 || self.items.contains_key(&kind) {
                *self.items.entry(kind.clone()).or_insert(0) += 1;
            }
            if kind == "event" && self.events.len() < MAX_STORED_EVENTS {
                self.events.push(serde_json::from_slice(payload).unwrap_or_default());
            }
        }
    }
}

/// The items of an envelope: after its header line, each has a header line and a payload of its `length`, or up to
/// the end of the line where it states none. (Format: develop.sentry.dev, "Envelopes".)
fn items(envelope: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let (header, mut rest) = split_line(envelope);
    serde_json::from_slice::<Value>(header).ok()?;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (header, after) = split_line(rest);
        if header.is_empty() {
            rest = after;
            continue;
        }
        let header: Value = serde_json::from_slice(header).ok()?;
        let kind = header["type"].as_str()?.to_owned();
        let length = header["length"].as_u64().map(usize::try_from).transpose().ok()?;
        let (payload, after) = match length {
            Some(length) => after.split_at_checked(length)?,
            None => split_line(after),
        };
        items.push((kind, payload));
        rest = after.strip_prefix(b"\n").unwrap_or(after);
    }
    Some(items)
}

/// The first line without its end, and what follows it.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_taken_apart_by_its_lengths() {
        let kinds = |envelope: &str| {
            items(envelope.as_bytes())
                .map(|items| items.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>())
        };
        let event = r#"{"fingerprint":["a"]}"#;
        let whole = format!(
            "{{}}\n{{\"type\":\"event\",\"length\":{}}}\n{event}\n{{\"type\":\"log\"}}\nx\n",
            event.len()
        );
        assert_eq!(kinds(&whole), Some(vec!["event".to_owned(), "log".to_owned()]));
        assert_eq!(kinds("{}"), Some(vec![]));
        assert_eq!(kinds("{}\n{\"type\":\"event\",\"length\":99}\nshort"), None);
        assert_eq!(kinds("{}\n{}\nx"), None);
        assert_eq!(kinds("not json"), None);
    }
}
