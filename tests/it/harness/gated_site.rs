//! A server whose answers wait until the test lets them go: slowness without a clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use super::until;

/// A gate, shut at first; `/busy` does not wait and answers 429 with `Retry-After: 3600`.
pub(crate) struct GatedSite {
    address: SocketAddr,
    open: watch::Sender<bool>,
    requests: Arc<AtomicU64>,
    concurrency: Arc<Concurrency>,
    server: JoinHandle<()>,
}

impl GatedSite {
    pub(crate) async fn closed() -> Self {
        Self::closed_at("127.0.0.1").await
    }

    /// The same at another address of this machine: another host.
    pub(crate) async fn closed_at(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, requests, concurrency) = (watch::Sender::new(false), Arc::default(), Arc::default());
        let state = (open.clone(), Arc::clone(&requests), Arc::clone(&concurrency));
        let router = Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, open, requests, concurrency, server }
    }

    /// The address of a page behind it.
    pub(crate) fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    /// Lets everybody through, from now on.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// How many have come to it so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The most that were at it at one moment.
    pub(crate) fn max_concurrent(&self) -> u64 {
        self.concurrency.max.load(Ordering::SeqCst)
    }

    /// Waits until so many have come to it.
    pub(crate) async fn until_requested(&self, times: u64) {
        until(&format!("{times} at the gate"), async || self.requests() >= times).await;
    }
}

impl Drop for GatedSite {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How many are at the gate, and the most that were.
#[derive(Default)]
struct Concurrency {
    now: AtomicU64,
    max: AtomicU64,
}

/// One of them, for as long as it stays.
struct ConcurrencyGuard(Arc<Concurrency>);

impl ConcurrencyGuard {
    fn enter(concurrency: &Arc<Concurrency>) -> Self {
        let now = concurrency.now.fetch_add(1, Ordering::SeqCst) + 1;
        concurrency.max.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(concurrency))
    }
}

impl Drop for ConcurrencyGuard {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

type GateState = (watch::Sender<bool>, Arc<AtomicU64>, Arc<Concurrency>);

async fn answer(State((open, requests, concurrency)): State<GateState>, uri: Uri) -> Response {
    requests.fetch_add(1, Ordering::SeqCst);
    let _guard = ConcurrencyGuard::enter(&concurrency);
    if uri.path() == "/busy" {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3600")]).into_response();
    }
    let _ = open.subscribe().wait_for(|open| *open).await;
    Html(format!("<!DOCTYPE html><title>GatedSite</title><p>Behind the gate: {uri}</p>")).into_response()
}
