//! Results in a bucket of a real server.

use wm_analyzer::job::failure::FailureKind;
use wm_testbed::s3::S3Server;
use wm_testbed::tcp_proxy::{TcpProxy, Upstream};

use crate::{SECRET, bucket_at, key, name};

async fn server() -> Option<S3Server> {
    let server = S3Server::start().await?;
    server.create_bucket("results");
    Some(server)
}

#[tokio::test]
async fn a_result_is_written_to_the_bucket_read_back_and_replaced_by_the_next_one() {
    let Some(server) = server().await else { return };
    let store = bucket_at(&server.endpoint());
    assert_eq!(store.get(&key(1), 100).await.unwrap(), None);
    store.put(&key(1), b"first".to_vec()).await.unwrap();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
    let stored = store.put(&key(1), large.clone()).await.unwrap();
    assert_eq!(stored.url, format!("s3://results/wm/{}", name(1)));
    let read = store.get(&key(1), 1 << 20).await.unwrap().unwrap();
    assert!(read == large && stored.is_of(&read));
    let failure = store.get(&key(1), (1 << 20) - 1).await.unwrap_err();
    assert!(failure.detail.contains("more than 1048575 bytes"), "{failure}");

    let answer = server.request("HEAD", &format!("/results/wm/{}", name(1))).to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("content-length: 1048576"), "{answer}");
    assert!(answer.contains("content-type: application/gzip"), "{answer}");
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named_with_the_way_out() {
    let Some(server) = S3Server::start().await else { return };
    let store = bucket_at(&server.endpoint());
    let written = store.put(&key(1), b"x".to_vec()).await.unwrap_err();
    let read = store.get(&key(1), 100).await.unwrap_err();
    for failure in [written, read, store.probe().await.unwrap_err()] {
        assert_eq!(failure.kind, FailureKind::StoreRefused, "{failure}");
        for needle in ["s3://results/wm", "404 (NoSuchBucket", "create the bucket, or correct results.store"]
        {
            assert!(failure.detail.contains(needle), "{needle} is not in {failure}");
        }
        assert!(!failure.detail.contains(SECRET), "{failure}");
        assert_eq!(failure.host.as_deref(), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_server_that_is_ended_is_unavailable_and_works_again_once_it_is_back() {
    let Some(mut server) = server().await else { return };
    let store = bucket_at(&server.endpoint());
    store.put(&key(1), b"x".to_vec()).await.unwrap();
    server.stop();
    for _ in 0..2 {
        let failure = store.put(&key(1), b"x".to_vec()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
        assert!(failure.detail.contains("cannot be reached (Connection refused"), "{failure}");
    }
    server.restart().await;
    server.create_bucket("results");
    store.put(&key(1), b"y".to_vec()).await.unwrap();
    assert_eq!(store.get(&key(1), 1).await.unwrap().unwrap(), b"y");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again_once_and_then_the_store_is_unavailable() {
    let Some(server) = server().await else { return };
    let proxy = TcpProxy::to(Upstream::Tcp(server.address())).await;
    let store = bucket_at(&format!("http://{}", proxy.address()));
    store.put(&key(1), b"x".to_vec()).await.unwrap();
    proxy.cut_connections();
    store.put(&key(1), b"x".to_vec()).await.unwrap();

    proxy.block();
    let before = proxy.connection_attempts();
    let failure = store.put(&key(1), b"x".to_vec()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::StoreUnavailable, "{failure}");
    assert_eq!(proxy.connection_attempts() - before, 2, "one retry");
    proxy.restore();
    store.put(&key(1), b"x".to_vec()).await.unwrap();
}
