//! `/livez`, `/readyz` and `/metrics`, and the client that `wm-analyzer health` uses.
//!
//! It returns what its probes report, unchanged; a probe must not block, and that of `/livez` never queries
//! Redis: a short Redis outage would restart the whole fleet. The pages are served by a thread of their own, so
//! that they are answered however busy the jobs' runtime is; what they say of it must come from a probe.
//!
//! Invariant: only GET and HEAD, only these three paths, one request per connection, within the listener's
//! limits.
//!
//! # Why
//! These pages contain no secrets, so they may be bound to any address (a kubelet connects from outside the
//! pod); a public address is logged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listener::{BoundedListener, ConnectionLimits};
use crate::telemetry::{metrics, sanitize};

/// Path of the liveness probe: is this process alive?
pub(crate) const LIVEZ: &str = "/livez";
/// Path of the readiness probe: would it claim a job now?
pub(crate) const READYZ: &str = "/readyz";
/// Path of the metrics, in OpenMetrics text or Prometheus' older format.
pub(crate) const METRICS: &str = "/metrics";

/// A kubelet, a Prometheus or two, and a person: more connections at once are a mistake or an attack. So many that a burst
/// of others does not displace a probe between its connection and its request. One address may have a quarter, so that it
/// alone cannot displace the others. A probe sends some hundred bytes as soon as it is connected and times out after 1 s,
/// Prometheus after 10 s.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: 256,
    per_peer: 64,
    request_bytes: 16 * 1024,
    request: Duration::from_secs(2),
    life: Duration::from_secs(10),
};
/// Limit on a probe's one-line result, in bytes.
const MAX_DETAIL_BYTES: usize = 512;
/// Limit on a response read by [`check`]; no worker sends a longer one.
const MAX_RESPONSE_BYTES: u64 = 16 * 1024;
/// Container runtimes allow a health check 5 s or more; a worker that needs 2 s for one line is unhealthy.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Configuration of the health pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on, e.g. `127.0.0.1:9464`; `off` or blank disables the pages.
    #[serde(serialize_with = "write_bind", deserialize_with = "read_bind")]
    pub bind: Option<SocketAddr>,
}

/// Result of a probe, with one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Healthy: status 200.
    Ok(String),
    /// Unhealthy: status 503.
    Failing(String),
}

/// Callbacks that are called for each request; they must return at once.
#[derive(Clone)]
pub struct Probes {
    /// Whether the process is alive.
    pub live: Arc<dyn Fn() -> Probe + Send + Sync>,
    /// Whether it would claim a job.
    pub ready: Arc<dyn Fn() -> Probe + Send + Sync>,
    /// Its metrics as OpenMetrics text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// An open port that does not serve yet.
#[derive(Debug)]
pub struct HealthServer {
    tcp: TcpListener,
    address: SocketAddr,
}

/// Opens the configured port; `None` if the health pages are off.
///
/// # Errors
/// Why the port cannot be opened, with its address.
pub async fn bind(config: &Config) -> std::io::Result<Option<HealthServer>> {
    let Some(wanted) = config.bind else { return Ok(None) };
    let because =
        |e: std::io::Error| std::io::Error::new(e.kind(), format!("cannot listen on {wanted}: {e}"));
    let tcp = TcpListener::bind(wanted).await.map_err(because)?;
    let address = tcp.local_addr().map_err(because)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "health and metrics are readable from other machines");
    }
    Ok(Some(HealthServer { tcp, address }))
}

impl HealthServer {
    /// The address it listens on; with the actual port if `:0` was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests in a thread of its own until `shutdown` is cancelled.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started.
    pub fn start(self, probes: Probes, shutdown: CancellationToken) -> std::io::Result<()> {
        self.start_with(LIMITS, probes, shutdown)
    }

    fn start_with(
        self,
        limits: ConnectionLimits,
        probes: Probes,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let tcp = self.tcp.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = async move {
            let listener = BoundedListener::new(TcpListener::from_std(tcp)?, limits);
            let serving = axum::serve(listener, router(probes));
            // Not axum's graceful shutdown: a response takes no time, and a slow peer must not delay the exit.
            tokio::select! {
                ended = serving.into_future() => ended,
                () = shutdown.cancelled() => Ok(()),
            }
        };
        let serve = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::error!(%error, "health and metrics are not served any more");
            }
        };
        std::thread::Builder::new().name("health".to_owned()).spawn(serve)?;
        Ok(())
    }
}

fn router(probes: Probes) -> Router {
    Router::new()
        .route(LIVEZ, get(|State(p): State<Probes>, headers: HeaderMap| async move { probe_response((p.live)(), &headers) }))
        .route(READYZ, get(|State(p): State<Probes>, headers: HeaderMap| async move { probe_response((p.ready)(), &headers) }))
        .route(METRICS, get(|State(p): State<Probes>, headers: HeaderMap| async move { metrics_response((p.metrics)(), &headers) }))
        .layer(map_response(add_security_headers))
        .with_state(probes)
}

/// Headers of every response: close the connection, do not cache, do not sniff types.
async fn add_security_headers(response: Response) -> impl IntoResponse {
    let nosniff = (HeaderName::from_static("x-content-type-options"), "nosniff");
    ([(CONNECTION, "close"), (CACHE_CONTROL, "no-store"), nosniff], response)
}

/// OpenMetrics, or Prometheus' older text format for a client that accepts that and not this.
fn metrics_response(openmetrics: String, headers: &HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/plain") && !accept.contains("openmetrics") {
        let plain = metrics::from_openmetrics(&openmetrics);
        ([(CONTENT_TYPE, metrics::PLAIN_CONTENT_TYPE)], plain).into_response()
    } else {
        ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], openmetrics).into_response()
    }
}

/// One line of text, or JSON if the client accepts it.
fn probe_response(probe: Probe, headers: &HeaderMap) -> Response {
    let (status, word, detail) = match probe {
        Probe::Ok(detail) => (StatusCode::OK, "ok", detail),
        Probe::Failing(detail) => (StatusCode::SERVICE_UNAVAILABLE, "failing", detail),
    };
    let detail = sanitize(&detail, MAX_DETAIL_BYTES);
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        let json = serde_json::json!({ "status": word, "detail": detail }).to_string();
        (status, [(CONTENT_TYPE, "application/json")], json).into_response()
    } else {
        (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{word}: {detail}\n")).into_response()
    }
}

/// Why [`check`] did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection or no response.
    #[error("no answer from http://{address}{path}: {source}")]
    NoAnswer {
        /// The address that was checked.
        address: SocketAddr,
        /// The path that was requested.
        path: String,
        /// The underlying I/O error.
        source: std::io::Error,
    },
    /// The worker reports that it is unhealthy.
    #[error("{0}")]
    Failing(String),
    /// The response is not a worker's.
    #[error("http://{address}{path} does not answer like a worker: {line}")]
    UnexpectedAnswer {
        /// The address that was checked.
        address: SocketAddr,
        /// The path that was requested.
        path: String,
        /// First line of the response.
        line: String,
    },
}

/// Requests `LIVEZ` or `READYZ` from a worker on this machine and returns its line; takes 2 s at most. An
/// address that means "every interface" is contacted on loopback.
///
/// # Errors
/// If the worker is unhealthy, does not respond, or is not a worker.
pub async fn check(address: SocketAddr, path: &str) -> Result<String, CheckError> {
    let address = loopback_if_unspecified(address);
    let silent = |source| CheckError::NoAnswer { address, path: path.to_owned(), source };
    let text = match timeout(CHECK_TIMEOUT, http_get(address, path)).await {
        Ok(answer) => answer.map_err(silent)?,
        Err(late) => return Err(silent(late.into())),
    };
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let line = sanitize(body.trim(), MAX_DETAIL_BYTES);
    match head.split(' ').nth(1) {
        Some("200") => Ok(line),
        Some("503") => Err(CheckError::Failing(line)),
        Some(_) | None => {
            let line = sanitize(head.lines().next().unwrap_or_default(), MAX_DETAIL_BYTES);
            Err(CheckError::UnexpectedAnswer { address, path: path.to_owned(), line })
        }
    }
}

/// One HTTP/1.0 request, whose response ends with the connection.
async fn http_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    tcp.take(MAX_RESPONSE_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn loopback_if_unspecified(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn write_bind<S: Serializer>(bind: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match bind {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str("off"),
    }
}

fn read_bind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.trim() {
        "" | "off" => Ok(None),
        address => address.parse().map(Some).map_err(|e| {
            serde::de::Error::custom(format!(
                "{address:?} is not an address to listen on ({e}): write 127.0.0.1:9464, or off"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    /// A running server that is ready while `.1` is true, and stops with the test.
    struct TestServer(SocketAddr, Arc<AtomicBool>, CancellationToken);

    impl Drop for TestServer {
        fn drop(&mut self) {
            self.2.cancel();
        }
    }

    async fn test_server(limits: ConnectionLimits) -> TestServer {
        let health = bind(&Config { bind: "127.0.0.1:0".parse().ok() }).await.unwrap().unwrap();
        let address = health.address();
        let well = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&well);
        let probes = Probes {
            live: Arc::new(|| Probe::Ok("3 slots".to_owned())),
            ready: Arc::new(move || match asked.load(Ordering::Relaxed) {
                true => Probe::Ok("claiming".to_owned()),
                false => Probe::Failing("Redis: \u{1b}[31mgone\n".to_owned()),
            }),
            metrics: Arc::new(|| "# EOF\n".to_owned()),
        };
        let shutdown = CancellationToken::new();
        health.start_with(limits, probes, shutdown.clone()).unwrap();
        TestServer(address, well, shutdown)
    }

    async fn raw(address: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.unwrap_or_default();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn each_page_answers_with_its_probes_word_and_status() {
        let server = test_server(LIMITS).await;
        let cases = [
            ("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "200", "text/plain; charset=utf-8", "ok: 3 slots\n"),
            ("HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", "200", "text/plain; charset=utf-8", ""),
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200", metrics::CONTENT_TYPE, "# EOF\n"),
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text,text/plain\r\n\r\n",
                "200",
                metrics::CONTENT_TYPE,
                "# EOF\n",
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n",
                "200",
                metrics::PLAIN_CONTENT_TYPE,
                "",
            ),
            (
                "GET /readyz HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n",
                "200",
                "application/json",
                r#"{"status":"ok","detail":"claiming"}"#,
            ),
        ];
        for (request, status, kind, want) in cases {
            let answer = raw(server.0, request).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect(request);
            let head = head.to_lowercase();
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {answer}");
            assert!(head.contains(&format!("content-type: {kind}")), "{request}: {answer}");
            assert!(head.contains("connection: close") && head.contains("nosniff"), "{request}: {answer}");
            assert_eq!(body, want, "{request}");
        }
    }

    #[tokio::test]
    async fn only_get_and_head_and_only_these_pages() {
        let server = test_server(LIMITS).await;
        for (method, path, status) in [
            ("POST", LIVEZ, "405"),
            ("PUT", METRICS, "405"),
            ("DELETE", READYZ, "405"),
            ("GET", "/", "404"),
            ("POST", "/x", "404"),
            ("GET", "/livez/../metrics", "404"),
        ] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            let answer = raw(server.0, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        }
    }

    #[tokio::test]
    async fn asking_tells_well_from_failing_from_silent_from_strange() {
        let server = test_server(LIMITS).await;
        let everywhere = SocketAddr::from(([0, 0, 0, 0], server.0.port()));
        assert_eq!(check(everywhere, READYZ).await.unwrap(), "ok: claiming");
        server.1.store(false, Ordering::Relaxed);
        let failing = check(server.0, READYZ).await.expect_err("Redis is gone");
        assert_eq!(failing.to_string(), "failing: Redis: \\u{1b}[31mgone\\n");
        assert_eq!(check(server.0, LIVEZ).await.unwrap(), "ok: 3 slots");
        assert!(matches!(check(server.0, "/x").await, Err(CheckError::UnexpectedAnswer { .. })));

        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mute, began) = (closed.local_addr().unwrap(), Instant::now());
        assert!(matches!(check(mute, LIVEZ).await, Err(CheckError::NoAnswer { .. })));
        assert!(began.elapsed() < CHECK_TIMEOUT * 2, "{:?}", began.elapsed());
        drop(closed);
        assert!(matches!(check(mute, LIVEZ).await, Err(CheckError::NoAnswer { .. })));
    }

    #[tokio::test]
    async fn a_peer_that_dawdles_or_floods_is_cut_off_and_others_get_their_turn() {
        let request = Duration::from_millis(300);
        let server = test_server(ConnectionLimits { request, ..LIMITS }).await;
        let began = Instant::now();
        let mut dawdlers = Vec::new();
        for _ in 0..LIMITS.per_peer / 2 {
            let mut tcp = TcpStream::connect(server.0).await.unwrap();
            tcp.write_all(b"GET /livez HT").await.unwrap();
            dawdlers.push(tcp);
        }
        assert_eq!(check(server.0, LIVEZ).await.unwrap(), "ok: 3 slots");
        for mut tcp in dawdlers {
            let mut rest = Vec::new();
            tcp.read_to_end(&mut rest).await.unwrap_or_default();
            assert!(!rest.starts_with(b"HTTP/1.1 200"));
        }
        let passed = began.elapsed();
        assert!(passed >= request && passed < LIMITS.life, "{passed:?}");

        let flood = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(LIMITS.request_bytes));
        assert!(!raw(server.0, &flood).await.starts_with("HTTP/1.1 200"));
    }

    /// One `GET /livez` by a thread that waits, not by the runtime; returns how long it took.
    fn blocking_livez(address: SocketAddr) -> Duration {
        let began = Instant::now();
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        tcp.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        began.elapsed()
    }

    /// The tests' 1,000 connections and the server's need more than the usual soft limit.
    fn raise_open_files() {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    }

    // This runtime does nothing while it is blocked by the probes: they are answered by another one.
    #[tokio::test]
    async fn beside_1000_idle_slow_and_half_open_connections_livez_answers_within_50_ms() {
        raise_open_files();
        let server = test_server(LIMITS).await;
        let address = server.0;
        let ended = Arc::new(AtomicBool::new(false));
        let (all_open, opened) = std::sync::mpsc::channel();
        let attack = std::thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut connections: Vec<Option<std::net::TcpStream>> = (0..1_000).map(|_| None).collect();
                for round in 0.. {
                    for (n, connection) in connections.iter_mut().enumerate() {
                        if ended.load(Ordering::Relaxed) {
                            return;
                        }
                        // A tenth of them comes anew in each round, so that the server is never rid of them.
                        if round == 0 || (n + round) % 10 == 0 {
                            *connection = std::net::TcpStream::connect(address).ok();
                        }
                        let Some(tcp) = connection else { continue };
                        // One third each is idle, sends a byte at a time, and closes its half after some bytes.
                        let _ = match n % 3 {
                            0 => Ok(()),
                            1 => tcp.write_all(b"G"),
                            _ => tcp.write_all(b"GE").and_then(|()| tcp.shutdown(std::net::Shutdown::Write)),
                        };
                    }
                    let _ = all_open.send(());
                    std::thread::park_timeout(Duration::from_millis(100));
                }
            }
        });
        opened.recv().unwrap();
        let mut took: Vec<Duration> = (0..200).map(|_| blocking_livez(address)).collect();
        ended.store(true, Ordering::Relaxed);
        attack.join().unwrap();
        took.sort();
        let p99 = took[took.len() * 99 / 100 - 1];
        assert!(p99 <= Duration::from_millis(50), "p99 {p99:?}, max {:?}", took[took.len() - 1]);
    }

    #[tokio::test]
    async fn off_is_off_and_a_taken_port_says_which() {
        let off: Config = serde_json::from_str(r#"{"bind":"off"}"#).unwrap();
        assert!(bind(&off).await.unwrap().is_none());
        assert_eq!(serde_json::to_string(&off).unwrap(), r#"{"bind":"off"}"#);
        let wrong = serde_json::from_str::<Config>(r#"{"bind":"localhost"}"#).expect_err("not an address");
        assert!(wrong.to_string().contains("127.0.0.1:9464"), "{wrong}");

        let first = bind(&Config { bind: "127.0.0.1:0".parse().ok() }).await.unwrap().unwrap();
        let taken = bind(&Config { bind: Some(first.address()) }).await.expect_err("taken");
        assert!(taken.to_string().contains(&first.address().to_string()), "{taken}");
    }
}
