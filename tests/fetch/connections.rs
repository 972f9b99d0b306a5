//! What is shared between fetches: connections and the answers of the resolver.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use futures_util::future::join_all;
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;
use wm_analyzer::fetch::{Config, Fetcher};
use wm_testbed::http::Response;

use crate::http_server::serve;
use crate::{FakeResolver, config};

/// Counts the lookups that reach the resolver behind it.
struct CountingResolver {
    inner: Arc<dyn Resolve>,
    lookups: AtomicUsize,
}

impl Resolve for CountingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.inner.resolve(name)
    }
}

fn counting(names: FakeResolver) -> Arc<CountingResolver> {
    Arc::new(CountingResolver { inner: names.shared(), lookups: AtomicUsize::new(0) })
}

#[tokio::test]
async fn hundreds_of_fetches_at_one_host_share_a_lookup_and_connections() {
    let site = serve(|_| Response::new(200, &[], *b"page").delayed(Duration::from_millis(5))).await;
    let names = counting(FakeResolver::default().with("archive.test", &[&[site.address().ip()]]));
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.clone()).unwrap();
    let url = Url::parse(&format!("http://archive.test:{}/", site.address().port())).unwrap();
    for _ in 0..20 {
        let fetched = join_all((0..16).map(|_| fetcher.body(&url))).await;
        assert!(fetched.iter().all(Result::is_ok), "{fetched:?}");
    }
    assert_eq!(names.lookups.load(Ordering::SeqCst), 1);
    assert!(site.connections() <= 32, "{} connections for 320 fetches of 16 at once", site.connections());
}

#[tokio::test]
async fn a_name_that_changes_its_address_to_a_forbidden_one_is_not_followed_there() {
    let site = serve(|_| Response::new(200, &[], *b"page")).await;
    let names = counting(
        FakeResolver::default()
            .with("archive.test", &[&[site.address().ip()], &[[169, 254, 169, 254].into()]]),
    );
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.clone()).unwrap();
    let url = Url::parse(&format!("http://archive.test:{}/", site.address().port())).unwrap();
    for _ in 0..3 {
        assert_eq!(fetcher.body(&url).await.unwrap().bytes, b"page");
    }
    assert_eq!(names.lookups.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_to_more_hosts_than_are_kept_are_closed_after_their_response() {
    const HOSTS: usize = 40;
    let site = serve(|_| Response::new(200, &[], *b"page")).await;
    let names = (0..HOSTS).fold(FakeResolver::default(), |names, n| {
        names.with(&format!("h{n}.test"), &[&[site.address().ip()]])
    });
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.shared()).unwrap();
    for _ in 0..2 {
        for n in 0..HOSTS {
            let url = Url::parse(&format!("http://h{n}.test:{}/", site.address().port())).unwrap();
            fetcher.body(&url).await.unwrap();
        }
    }
    // Sixteen hosts are kept, whose second fetch needs no connection.
    assert_eq!(site.connections(), 2 * HOSTS - 16);
}

/// What an open connection costs this process; the site's side of it is in this process too, so that the figures
/// are upper bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: prints the memory of a connection"]
async fn measure_the_memory_of_a_connection() {
    const CONNECTIONS: usize = 1_024;
    for body_bytes in [None, Some(20_000)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let held = Arc::new(AtomicUsize::new(0));
        let site = tokio::spawn(hold_connections(listener, body_bytes, Arc::clone(&held)));
        let config = Config { memory: ByteSize::mib(512), ..config(&["127.0.0.0/8"]) };
        let fetcher = Fetcher::new(&config).unwrap();
        let before = resident_bytes();
        let mut fetches = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (fetcher, url) = (fetcher.clone(), url.clone());
            fetches.spawn(async move { fetcher.body(&url).await });
        }
        while held.load(Ordering::SeqCst) < CONNECTIONS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let of_one = |bytes: u64| bytes / CONNECTIONS as u64 / 1024;
        let (grown, taken) = (resident_bytes() - before, fetcher.budget().held_bytes());
        println!("{body_bytes:?} bytes sent: {} KiB, {} KiB in the budget", of_one(grown), of_one(taken));
        site.abort();
    }
}

/// Reads a request of each connection and keeps it, without a response or with a part of one.
async fn hold_connections(listener: TcpListener, body_bytes: Option<usize>, held: Arc<AtomicUsize>) {
    let mut connections = Vec::new();
    loop {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 512];
        let _ = tcp.read(&mut request).await;
        if let Some(bytes) = body_bytes {
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n").await.unwrap();
            tcp.write_all(&vec![b'a'; bytes]).await.unwrap();
        }
        connections.push(tcp);
        held.fetch_add(1, Ordering::SeqCst);
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
