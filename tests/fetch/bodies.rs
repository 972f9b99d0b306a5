//! Bodies as they come, and every way in which they do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use reqwest::dns::{Name, Resolve, Resolving};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use url::Url;
use uuid::Uuid;
use wm_analyzer::fetch::{Config, FetchConfigError, Fetcher};
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::page::{PagePair, Side, Version};
use wm_testbed::http::Response;

use crate::http_server::{close, hang, http_response, redirect, serve, serve_bytes};
use crate::{FakeResolver, TEST_TIMEOUT, config, fetcher};

const CAP: usize = 64 * 1024;

/// What becomes of a body whose server says exactly this and closes.
async fn fetch_response(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let site = serve_bytes(bytes).await;
    fetcher().body(&site.url("/")).await.map(|body| body.bytes)
}

/// This, then one byte after another.
fn drip(bytes: &[u8]) -> Response {
    Response::raw(bytes).then_repeat(*b".", Duration::from_millis(5))
}

fn chunked(chunks: &[&[u8]], end: &str) -> Vec<u8> {
    let mut said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in chunks {
        said.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        said.extend_from_slice(chunk);
        said.extend_from_slice(b"\r\n");
    }
    said.extend_from_slice(end.as_bytes());
    said
}

#[tokio::test]
async fn a_body_arrives_as_it_was_sent_with_its_labels() {
    // The first bytes of a gzip stream, cut off: whoever tried to decompress it here would fail.
    let bytes = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xfe\x00";
    let headers = "Content-Type: Text/HTML; charset=X\r\nContent-Encoding: gzip\r\nContent-Encoding: br\r\n";
    let site = serve_bytes(&http_response("200 OK", headers, bytes)).await;
    let body = fetcher().body(&site.url("/a?b=c")).await.unwrap();
    assert_eq!(body.bytes, bytes);
    assert_eq!(body.content_type.as_deref(), Some("Text/HTML; charset=X"));
    assert_eq!(body.content_encoding.as_deref(), Some("gzip, br"));
}

#[tokio::test]
async fn a_request_says_who_we_are_and_nothing_about_anybody() {
    let site = serve(|path| {
        let next = format!("Location: {path}x\r\nSet-Cookie: id=1; Path=/\r\nConnection: close\r\n");
        close(http_response(if path.len() < 3 { "302 Found" } else { "200 OK" }, &next, b""))
    });
    let site = site.await;
    fetcher().body(&site.url("/#secret-fragment")).await.unwrap();
    let requests = site.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        let request = request.to_lowercase();
        assert!(request.contains("user-agent: wm-analyzer-test/1\r\n"), "{request}");
        assert!(request.contains("accept-encoding: identity\r\n"), "{request}");
        for header in ["cookie", "referer", "authorization", "secret"] {
            assert!(!request.contains(header), "{header} in {request}");
        }
    }
}

#[tokio::test]
async fn the_largest_allowed_body_passes_and_one_byte_more_does_not() {
    let (full, over) = (vec![b'a'; CAP], vec![b'a'; CAP + 1]);
    assert_eq!(fetch_response(&http_response("200 OK", "", &full)).await.unwrap().len(), CAP);
    assert_eq!(fetch_response(&chunked(&[&full], "0\r\n\r\n")).await.unwrap().len(), CAP);
    let unannounced = [b"HTTP/1.0 200 OK\r\n\r\n", &full[..]].concat();
    assert_eq!(fetch_response(&unannounced).await.unwrap().len(), CAP);

    for said_over in [http_response("200 OK", "", &over), chunked(&[&full, b"b"], "0\r\n\r\n")] {
        assert_eq!(fetch_response(&said_over).await.unwrap_err().kind, FailureKind::TooLarge);
    }
    let unannounced = [b"HTTP/1.0 200 OK\r\n\r\n", &over[..]].concat();
    assert_eq!(fetch_response(&unannounced).await.unwrap_err().kind, FailureKind::TooLarge);
}

#[tokio::test]
async fn a_body_announced_beyond_the_cap_is_refused_unread() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
    let site = serve(|_| hang(head.to_vec())).await;
    let failure = fetcher().body(&site.url("/")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooLarge, "{failure}");
    assert!(failure.detail.contains("99999999999"), "{failure}");
}

#[tokio::test]
async fn a_chunked_body_without_end_is_refused_at_the_cap_and_not_at_the_deadline() {
    let flood = chunked(&[&vec![b'a'; CAP + 1]], "");
    let site = serve(move |_| hang(flood.clone())).await;
    assert_eq!(fetcher().body(&site.url("/")).await.unwrap_err().kind, FailureKind::TooLarge);
}

#[tokio::test]
async fn what_ends_before_its_end_is_truncated() {
    for (name, bytes) in [
        ("shorter than its length", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
        ("nothing of its length", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()),
        ("no last chunk", chunked(&[b"half"], "")),
        ("a chunk cut off", chunked(&[b"half"], "a\r\nhal")),
        ("a chunk of no size", chunked(&[b"half"], "zz\r\n")),
        (
            "a partial answer",
            http_response("206 Partial Content", "Content-Range: bytes 0-3/10\r\n", b"half"),
        ),
    ] {
        let failure = fetch_response(&bytes).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Truncated, "{name}: {failure}");
    }
}

#[tokio::test]
async fn every_status_has_its_kind() {
    for (status, expected) in [
        ("200 OK", None),
        ("203 Non-Authoritative Information", None),
        ("300 Multiple Choices", Some(FailureKind::Refused)),
        ("302 Found", Some(FailureKind::Refused)),
        ("304 Not Modified", Some(FailureKind::Refused)),
        ("400 Bad Request", Some(FailureKind::Refused)),
        ("401 Unauthorized", Some(FailureKind::Refused)),
        ("403 Forbidden", Some(FailureKind::Refused)),
        ("404 Not Found", Some(FailureKind::Gone)),
        ("410 Gone", Some(FailureKind::Gone)),
        ("418 I'm a teapot", Some(FailureKind::Refused)),
        ("429 Too Many Requests", Some(FailureKind::Upstream)),
        ("451 Unavailable For Legal Reasons", Some(FailureKind::Refused)),
        ("500 Internal Server Error", Some(FailureKind::Upstream)),
        ("503 Service Unavailable", Some(FailureKind::Upstream)),
        ("599 ", Some(FailureKind::Upstream)),
        ("600 ", Some(FailureKind::Refused)),
        ("999 LinkedIn", Some(FailureKind::Refused)),
    ] {
        let failure = fetch_response(&http_response(status, "", b"x")).await.err();
        assert_eq!(failure.map(|failure| failure.kind), expected, "{status}");
    }
}

#[tokio::test]
async fn a_memento_is_content_whatever_its_status() {
    let memento = "Memento-Datetime: Wed, 10 Oct 2018 15:30:00 GMT\r\n";
    for status in ["200 OK", "206 Partial Content", "302 Found", "404 Not Found", "410 Gone", "503 Busy"] {
        assert_eq!(
            fetch_response(&http_response(status, memento, b"captured")).await.unwrap(),
            b"captured",
            "{status}"
        );
    }
}

#[tokio::test]
async fn an_archive_that_asks_for_time_is_heard() {
    for (status, seconds) in [("429 Slow Down", Some(7)), ("503 Busy", Some(7)), ("404 Not Found", None)] {
        let failure = fetch_response(&http_response(status, "Retry-After: 7\r\n", b"")).await.unwrap_err();
        assert_eq!(failure.retry_after, seconds.map(Duration::from_secs), "{status}");
    }
    let failure =
        fetch_response(&http_response("503 Busy", "Retry-After: 999999\r\n", b"")).await.unwrap_err();
    assert_eq!(failure.retry_after, Some(Duration::from_secs(3_600)));
}

#[tokio::test]
async fn whoever_does_not_finish_in_time_is_given_up_in_time() {
    for (name, reply) in [
        ("silent", (|_: &str| hang([])) as fn(&str) -> Response),
        ("half a head", |_| hang(*b"HTTP/1.1 200")),
        ("silent after the head", |_| hang(*b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")),
        ("drips", |_| drip(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")),
        ("drips its head", |_| drip(b"HTTP/1.1 200 OK\r\nX: ")),
    ] {
        let site = serve(reply).await;
        let hurried = Config { total_timeout: Duration::from_millis(300), ..config(&["127.0.0.0/8"]) };
        let begun = Instant::now();
        let failure = Fetcher::new(&hurried).unwrap().body(&site.url("/")).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout, "{name}: {failure}");
        assert!(begun.elapsed() < TEST_TIMEOUT / 2, "{name}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_deadline_is_over_all_hops_together() {
    let site = serve(|_| close(redirect("/again")).delayed(Duration::from_millis(150))).await;
    let hurried =
        Config { total_timeout: Duration::from_millis(400), redirects: 1_000, ..config(&["127.0.0.0/8"]) };
    let failure = Fetcher::new(&hurried).unwrap().body(&site.url("/")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
    assert!((2..=3).contains(&site.requests().len()), "{}", site.requests().len());
}

#[tokio::test]
async fn a_closed_port_is_connect_and_a_babbler_is_upstream() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = fetcher().body(&Url::parse(&format!("http://{closed}/")).unwrap()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connect, "{failure}");
    assert_eq!(failure.host.as_deref(), Some("127.0.0.1"));
    for babble in
        [&b""[..], b"220 smtp.test ESMTP\r\n", b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", b"HTTP/1.1 200"]
    {
        let failure = fetch_response(babble).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Upstream, "{babble:?}: {failure}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_dns() {
    let names = FakeResolver::default().with("empty.test", &[&[]]);
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.shared()).unwrap();
    for host in ["missing.test", "empty.test"] {
        let failure = fetcher.body(&Url::parse(&format!("http://{host}/")).unwrap()).await.unwrap_err();
        assert_eq!((failure.kind, failure.host.as_deref()), (FailureKind::Dns, Some(host)), "{failure}");
    }
}

/// A name server that never answers.
struct SilentResolver;

impl Resolve for SilentResolver {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_connect() {
    let hurried = Config { connect_timeout: Duration::from_millis(100), ..config(&["127.0.0.0/8"]) };
    let fetcher = Fetcher::with_resolver(&hurried, Arc::new(SilentResolver)).unwrap();
    let failure = fetcher.body(&Url::parse("http://archive.test/").unwrap()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connect, "{failure}");
}

fn pair(from: Url, to: Url) -> PagePair {
    let version = |n, url| Version::at(Uuid::from_u128(n), url);
    PagePair { page: None, from: version(1, from), to: version(2, to), from_is_earliest: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_are_fetched_at_once() {
    // Neither request is answered before the other has arrived.
    let both = Arc::new(Barrier::new(2));
    let site = serve(move |path| {
        let both = Arc::clone(&both);
        let wait = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(tokio::time::timeout(TEST_TIMEOUT / 2, both.wait()))
        });
        close(http_response(if wait.is_ok() { "200 OK" } else { "500 Alone" }, "", path.as_bytes()))
    });
    let site = site.await;
    let bodies = fetcher().pair(&pair(site.url("/from"), site.url("/to"))).await.unwrap().bodies;
    assert_eq!((bodies.from.bytes, bodies.to.bytes), (b"/from".to_vec(), b"/to".to_vec()));
}

#[tokio::test]
async fn a_failure_names_its_side_and_the_other_side_is_given_up() {
    let site = serve(|path| match path {
        "/gone" => close(http_response("410 Gone", "", b"")),
        _ => hang([]),
    });
    let site = site.await;
    for (pair, side) in [
        (pair(site.url("/gone"), site.url("/hangs")), Side::From),
        (pair(site.url("/hangs"), site.url("/gone")), Side::To),
    ] {
        let begun = Instant::now();
        let failure = fetcher().pair(&pair).await.unwrap_err();
        assert_eq!((failure.kind, failure.side), (FailureKind::Gone, Some(side)), "{failure}");
        assert!(begun.elapsed() < TEST_TIMEOUT / 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_is_given_up_after_a_window_and_says_so() {
    let site = serve(|path| match path {
        "/trickles" => Response::raw(*b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            .then_repeat(*b"....", Duration::from_millis(50)),
        _ => close(http_response("200 OK", "", b"whole")),
    });
    let site = site.await;
    let patient = Config { total_timeout: TEST_TIMEOUT * 6, ..config(&["127.0.0.0/8"]) };
    let fetcher = Fetcher::new(&patient).unwrap();
    let begun = Instant::now();
    let failure = fetcher.pair(&pair(site.url("/good"), site.url("/trickles"))).await.unwrap_err();
    assert_eq!((failure.kind, failure.side), (FailureKind::Timeout, Some(Side::To)), "{failure}");
    assert_eq!(failure.host.as_deref(), Some("127.0.0.1"));
    assert!(failure.detail.contains("trickles: ") && failure.detail.contains("within 5s"), "{failure}");
    assert!(begun.elapsed() < TEST_TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(fetcher.budget().held_bytes(), 0);
}

#[tokio::test]
async fn a_header_that_does_not_come_is_given_up_before_the_total() {
    let site = serve(|_| drip(b"HTTP/1.1 200 OK\r\nX: ")).await;
    let hurried = Config { header_timeout: Duration::from_millis(200), ..config(&["127.0.0.0/8"]) };
    let failure = Fetcher::new(&hurried).unwrap().body(&site.url("/")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
    assert!(failure.detail.contains("no header within 200ms"), "{failure}");
}

/// A fetcher with room for two pairs of 2 x 64 KiB.
fn tight_fetcher() -> Fetcher {
    let config = Config { memory: ByteSize::kib(2 * 896), ..config(&["127.0.0.0/8"]) };
    assert_eq!(config.problems(), []);
    Fetcher::new(&config).unwrap()
}

#[tokio::test]
async fn pairs_of_the_largest_bodies_pass_a_budget_for_two_one_after_another() {
    let full = vec![b'a'; CAP];
    let site = serve(move |_| close(http_response("200 OK", "", &full))).await;
    let fetcher = tight_fetcher();
    let fetches = (0..40).map(async |_| {
        let fetched = fetcher.pair(&pair(site.url("/from"), site.url("/to"))).await.unwrap();
        assert!(fetcher.budget().held_bytes() <= fetcher.budget().total_bytes());
        assert_eq!(fetched.held.bytes(), 2 * CAP as u64, "what was kept for reading is given back");
        fetched.bodies.from.bytes.len()
    });
    let lengths = futures_util::future::join_all(fetches);
    let lengths = tokio::time::timeout(TEST_TIMEOUT, lengths).await.expect("they wait for each other");
    assert!(lengths.iter().all(|length| *length == CAP));
    assert_eq!(fetcher.budget().held_bytes(), 0);
}

#[tokio::test]
async fn while_we_do_not_read_no_limit_of_the_peer_runs() {
    let full = vec![b'a'; CAP];
    let site = serve(move |_| close(http_response("200 OK", "", &full))).await;
    let hurried = Config {
        memory: ByteSize::kib(2 * 896),
        total_timeout: Duration::from_secs(1),
        ..config(&["127.0.0.0/8"])
    };
    let fetcher = Fetcher::new(&hurried).unwrap();
    let pair = pair(site.url("/from"), site.url("/to"));
    let mut waiting_for_a_slot = Vec::new();
    loop {
        // The permits are held, as by pairs that wait for a slot, until the next pair finds nothing to take.
        let fetched = fetcher.pair(&pair);
        let mut fetched = std::pin::pin!(fetched);
        let full = async {
            while fetcher.budget().waiting_pairs() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            fetched = &mut fetched => waiting_for_a_slot.push(fetched.unwrap()),
            () = full => {
                let waits = tokio::time::timeout(hurried.total_timeout * 2, &mut fetched).await;
                assert!(waits.is_err(), "it neither ends nor is counted against its host: {waits:?}");
                waiting_for_a_slot.clear();
                assert_eq!(fetched.await.unwrap().bodies.to.bytes.len(), CAP);
                break;
            }
        }
    }
}

#[test]
fn a_budget_for_less_than_two_of_the_largest_pairs_is_refused_with_the_least_that_is_allowed() {
    let config = Config { memory: ByteSize::mib(44), max_body: ByteSize::mib(10), ..config(&[]) };
    let problems = config.problems();
    assert!(problems.len() == 1 && problems[0].0 == "memory", "{problems:?}");
    assert!(problems[0].1.contains("write 45.0 MiB or more"), "{problems:?}");
}

#[test]
fn the_defaults_are_read_and_let_through_nothing_private() {
    let defaults = r#"
        connect_timeout = "10s"
        total_timeout = "30s"
        header_timeout = "20s"
        min_rate = "1 KiB"
        max_body = "10 MiB"
        memory = "64 MiB"
        in_flight_max = 512
        redirects = 5
        max_retry_after = "1h"
        allow_networks = []
        user_agent = "wm-analyzer"
    "#;
    let defaults: Config = toml::from_str(defaults).unwrap();
    assert_eq!((defaults.max_body.as_u64(), defaults.redirects), (10 << 20, 5));
    assert!(defaults.connect_timeout < defaults.total_timeout && defaults.allow_networks.is_empty());
    assert!(Fetcher::new(&defaults).is_ok());
    let again: Config = toml::from_str(&toml::to_string(&defaults).unwrap()).unwrap();
    assert_eq!(again, defaults);
}

#[test]
fn a_user_agent_that_is_no_header_is_refused_by_name() {
    let bad = Config { user_agent: "two\nlines".to_owned(), ..config(&[]) };
    let refused = Fetcher::new(&bad).err();
    assert!(
        matches!(&refused, Some(FetchConfigError::UserAgent(value)) if value == "two\nlines"),
        "{refused:?}"
    );
}
