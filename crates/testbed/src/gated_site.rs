//! A site whose answers wait until the test opens it: slowness without a clock.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use url::Url;

use super::http::{HttpServer, Request, Respond, Response};
use super::wait::until;

/// A site that is closed at first; `/busy` does not wait and answers 429 with `Retry-After: 3600`.
#[derive(Debug)]
pub struct GatedSite {
    gate: Arc<Gate>,
    server: HttpServer,
}

/// Whether requests are answered, and how many wait at it.
#[derive(Debug, Default)]
struct Gate {
    open: watch::Sender<bool>,
    requests: AtomicU64,
    waiting: AtomicU64,
    max_waiting: AtomicU64,
}

impl GatedSite {
    /// Starts a closed site on 127.0.0.1.
    ///
    /// # Panics
    /// Where the machine gives no socket.
    pub async fn closed() -> Self {
        Self::closed_at("127.0.0.1").await
    }

    /// Starts a closed site at another address of this machine: another host.
    ///
    /// # Panics
    /// Where the machine gives no socket there.
    pub async fn closed_at(host: &str) -> Self {
        let gate = Arc::<Gate>::default();
        let server = HttpServer::bind((host, 0), Arc::clone(&gate)).await.expect("a socket on loopback");
        Self { gate, server }
    }

    /// The address of a page behind it.
    ///
    /// # Panics
    /// Where the path makes no address.
    pub fn url(&self, path: &str) -> Url {
        self.server.url(path)
    }

    /// Answers every request from now on, those that wait included.
    pub fn open(&self) {
        self.gate.open.send_replace(true);
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.gate.requests.load(Ordering::SeqCst)
    }

    /// The most requests that waited at one moment.
    pub fn max_concurrent(&self) -> u64 {
        self.gate.max_waiting.load(Ordering::SeqCst)
    }

    /// Waits until so many requests came.
    ///
    /// # Panics
    /// Where they do not come within a minute.
    pub async fn until_requested(&self, times: u64) {
        until(&format!("{times} at the gate"), async || self.requests() >= times).await;
    }
}

/// One waiting request, until it is answered or its client leaves.
struct WaitingRequest<'a>(&'a Gate);

impl<'a> WaitingRequest<'a> {
    fn count(gate: &'a Gate) -> Self {
        let now = gate.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        gate.max_waiting.fetch_max(now, Ordering::SeqCst);
        Self(gate)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Respond for Gate {
    fn respond(&self, request: &Request) -> impl Future<Output = Response> + Send {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let waiting = WaitingRequest::count(self);
        let target = request.target.clone();
        async move {
            let _waiting = waiting;
            if target == "/busy" {
                return Response::new(429, &[("retry-after", "3600")], []);
            }
            let _ = self.open.subscribe().wait_for(|open| *open).await;
            let page = format!("<!DOCTYPE html><title>GatedSite</title><p>Behind the gate: {target}</p>");
            Response::new(200, &[("content-type", "text/html; charset=utf-8")], page.into_bytes())
        }
    }
}
