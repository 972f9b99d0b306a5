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
pub(crate) struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    asked: Arc<AtomicU64>,
    crowd: Arc<Crowd>,
    server: JoinHandle<()>,
}

impl Gate {
    pub(crate) async fn shut() -> Self {
        Self::shut_at("127.0.0.1").await
    }

    /// The same at another address of this machine: another host.
    pub(crate) async fn shut_at(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, asked, crowd) = (watch::Sender::new(false), Arc::default(), Arc::default());
        let state = (open.clone(), Arc::clone(&asked), Arc::clone(&crowd));
        let router = Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, open, asked, crowd, server }
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
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The most that were at it at one moment.
    pub(crate) fn most_at_once(&self) -> u64 {
        self.crowd.most.load(Ordering::SeqCst)
    }

    /// Waits until so many have come to it.
    pub(crate) async fn until_asked(&self, times: u64) {
        until(&format!("{times} at the gate"), async || self.asked() >= times).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How many are at the gate, and the most that were.
#[derive(Default)]
struct Crowd {
    now: AtomicU64,
    most: AtomicU64,
}

/// One of the crowd, for as long as it stays.
struct Visitor(Arc<Crowd>);

impl Visitor {
    fn comes(crowd: &Arc<Crowd>) -> Self {
        let now = crowd.now.fetch_add(1, Ordering::SeqCst) + 1;
        crowd.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(crowd))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

type Shown = (watch::Sender<bool>, Arc<AtomicU64>, Arc<Crowd>);

async fn answer(State((open, asked, crowd)): State<Shown>, uri: Uri) -> Response {
    asked.fetch_add(1, Ordering::SeqCst);
    let _visitor = Visitor::comes(&crowd);
    if uri.path() == "/busy" {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3600")]).into_response();
    }
    let _ = open.subscribe().wait_for(|open| *open).await;
    Html(format!("<!DOCTYPE html><title>Gate</title><p>Behind the gate: {uri}</p>")).into_response()
}
