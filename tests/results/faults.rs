//! Servers that refuse, are full, are slow, or point elsewhere. What they were asked is what they saw.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::results::MAX_WRITES;
use wm_testbed::http::{HttpServer, Request, Response};
use wm_testbed::wait::until;

use crate::{SECRET, bucket_at, key, name};

/// The longest that a call may take, and a margin for a busy machine.
const LIMIT: Duration = Duration::from_secs(7);

async fn server(respond: impl Fn(&Request) -> Response + Send + Sync + 'static) -> HttpServer {
    HttpServer::start(Arc::new(respond)).await.unwrap()
}

fn endpoint(server: &HttpServer) -> String {
    format!("http://{}", server.address())
}

/// An answer as S3 explains it.
fn refusal(status: u16, code: &str) -> Response {
    let body =
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>no\u{1b}[2J</Message></Error>");
    Response::new(status, &[("content-type", "application/xml")], body.into_bytes())
}

#[tokio::test]
async fn a_server_that_refuses_us_is_asked_once_and_its_words_are_told() {
    for (status, code, way_out) in [
        (403, "AccessDenied", "s3:PutObject and s3:GetObject"),
        (401, "Unauthorized", "s3:PutObject and s3:GetObject"),
        (400, "AuthorizationHeaderMalformed", "check results.store, results.region"),
        (404, "NoSuchBucket", "create the bucket"),
    ] {
        let server = server(move |_| refusal(status, code)).await;
        let failure = bucket_at(&endpoint(&server)).put(&key(1), b"x".to_vec()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::StoreRefused, "{failure}");
        // Words behind what looks like the name of a secret are not told.
        let words = if code.starts_with("Authorization") { "***" } else { "no" };
        assert!(failure.detail.contains(&format!("answered {status} ({code}: {words}")), "{failure}");
        assert!(failure.detail.contains(way_out) && !failure.detail.contains(SECRET), "{failure}");
        assert_eq!(server.requests().len(), 1, "{status} is not tried again");
    }
}

#[tokio::test]
async fn a_server_that_is_full_or_overloaded_is_tried_once_more() {
    for (status, code) in [(503, "SlowDown"), (507, "XMinioStorageFull"), (500, "InternalError"), (429, "")] {
        let server = server(move |_| refusal(status, code)).await;
        let failure = bucket_at(&endpoint(&server)).put(&key(1), b"x".to_vec()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
        assert!(failure.detail.contains(&format!("answered {status} (")), "{failure}");
        assert_eq!(server.requests().len(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_request_is_signed_for_the_key_of_the_pair_and_holds_no_secret() {
    let server = server(|_| Response::new(200, &[("etag", "\"1\"")], [])).await;
    bucket_at(&endpoint(&server)).put(&key(1), b"x".to_vec()).await.unwrap();
    let [request] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert!(request.starts_with(&format!("PUT /results/wm/{} HTTP/1.1", name(1))), "{request}");
    assert!(request.contains("Credential=worker/") && request.contains("/us-east-1/s3/"), "{request}");
    assert!(!request.contains(SECRET), "{request}");
}

#[tokio::test]
async fn a_server_that_never_answers_costs_five_seconds() {
    let server = server(|_| Response::raw("").then_hang()).await;
    let store = bucket_at(&endpoint(&server));
    let begun = Instant::now();
    let (key, result) = (key(1), b"x".to_vec());
    let (written, read) = tokio::join!(store.put(&key, result), store.get(&key, 100));
    assert!((Duration::from_secs(4)..LIMIT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    for failure in [written.unwrap_err(), read.unwrap_err()] {
        assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
    }
}

#[tokio::test]
async fn a_slow_failure_and_its_retry_cost_five_seconds_together() {
    let slow = Duration::from_millis(4_500);
    let server = server(move |_| refusal(503, "SlowDown").delayed(slow)).await;
    let store = bucket_at(&endpoint(&server));
    let (key, result, begun) = (key(1), b"x".to_vec(), Instant::now());
    let (written, read) = tokio::join!(store.put(&key, result), store.get(&key, 100));
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    for failure in [written.unwrap_err(), read.unwrap_err()] {
        assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
        assert!(failure.detail.contains("did not answer within 5s"), "{failure}");
    }
}

#[tokio::test]
async fn a_result_that_trickles_in_costs_five_seconds() {
    let headers = [
        ("content-length", "1000000"),
        ("etag", "\"1\""),
        ("last-modified", "Fri, 27 Nov 2026 10:00:00 GMT"),
    ];
    let server =
        server(move |_| Response::head(200, &headers).then_repeat("x", Duration::from_millis(50))).await;
    let begun = Instant::now();
    let failure = bucket_at(&endpoint(&server)).get(&key(1), 1_000_000).await.unwrap_err();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
}

#[tokio::test]
async fn an_explanation_without_end_is_not_read_to_its_end() {
    let server = server(|_| Response::head(403, &[]).then_repeat(vec![b'x'; 1 << 16], Duration::ZERO)).await;
    let begun = Instant::now();
    let failure = bucket_at(&endpoint(&server)).put(&key(1), b"x".to_vec()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(failure.detail.contains("answered 403:"), "{failure}");
    assert!(failure.detail.len() < 500, "{} bytes", failure.detail.len());
}

#[tokio::test]
async fn nothing_but_the_configured_endpoint_is_reached() {
    let other = server(|_| Response::new(200, &[], [])).await;
    let elsewhere = other.url(&format!("/results/wm/{}", name(1))).to_string();
    for status in [301, 302, 307, 308] {
        let location = elsewhere.clone();
        let server = server(move |_| Response::new(status, &[("location", &location)], [])).await;
        let store = bucket_at(&endpoint(&server));
        let written = store.put(&key(1), b"x".to_vec()).await.unwrap_err();
        for failure in [written, store.get(&key(1), 100).await.unwrap_err()] {
            assert_eq!(failure.kind, FailureKind::StoreRefused, "{failure}");
            assert!(failure.detail.contains("results.endpoint"), "{failure}");
        }
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn before_a_slow_server_only_a_few_results_are_under_way_and_the_next_one_waits_for_its_turn() {
    let server = server(|_| Response::raw("").then_hang()).await;
    let store = bucket_at(&endpoint(&server));
    let writes: Vec<_> = (0..MAX_WRITES as u128)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put(&key(n), b"x".to_vec()).await })
        })
        .collect();
    until("all are under way", async || server.requests().len() == MAX_WRITES).await;
    let next = tokio::time::timeout(Duration::from_millis(200), store.turn()).await;
    assert!(next.is_err(), "a turn beyond the limit");
    writes.iter().for_each(tokio::task::JoinHandle::abort);
    drop(store.turn().await.unwrap());
}
