//! The demo's parts against the world: real servers, real processes, real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;
use wm_analyzer::demo::cases::{self, CaseOutcome};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::skip::SkipReason;
use wm_analyzer::job::{Job, VersionRef};
use wm_testbed::body::Body;
use wm_testbed::fake_sentry::{FakeSentry, ResponseMode};
use wm_testbed::processes::is_alive;
use wm_testbed::redis::{PrivateRedis, RedisOptions, ServerSearch};
use wm_testbed::site::Site;

/// Waits for a moment, for at most ten seconds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn connect(redis: &PrivateRedis) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

fn ask(connection: &mut redis::Connection, words: &[&str]) -> String {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(*word);
    });
    command.query(connection).unwrap()
}

#[test]
fn a_private_redis_is_what_it_says_and_dies_with_its_guard() {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let mut connection = connect(&redis);
    let info = ask(&mut connection, &["INFO"]);
    assert!(info.contains(&format!("process_id:{}\r", redis.pid().unwrap())), "{info}");
    assert!(info.contains(&format!("_version:{}\r", redis.version())), "{info}");
    assert!(info.contains("maxmemory_policy:noeviction"), "{info}");
    assert!(info.contains("tcp_port:0"), "{info}");
    let (pid, socket) = (redis.pid().unwrap(), redis.socket());
    let dir = socket.parent().unwrap().to_owned();
    assert!(is_alive(pid) && socket.exists());
    drop(redis);
    assert!(!is_alive(pid), "the server outlived its guard");
    assert!(!dir.exists(), "its directory outlived its guard");
}

#[test]
fn two_private_redises_share_nothing() {
    let (one, two) =
        (PrivateRedis::start(RedisOptions::default()), PrivateRedis::start(RedisOptions::default()));
    let (one, two) = (one.unwrap(), two.unwrap());
    ask(&mut connect(&one), &["SET", "k", "v"]);
    assert_eq!(ask(&mut connect(&two), &["DBSIZE"]), "0");
}

#[test]
fn a_killed_redis_comes_back_at_the_same_address_with_what_it_persisted() {
    for options in [RedisOptions::default().persistent(), RedisOptions::default().persistent().tcp()] {
        let mut redis = PrivateRedis::start(options).unwrap();
        let (url, first) = (redis.url(), redis.pid().unwrap());
        ask(&mut connect(&redis), &["SET", "kept", "yes"]);
        redis.kill();
        assert!(!is_alive(first));
        assert_eq!(redis.pid(), None);
        assert!(redis::Client::open(redis.url()).unwrap().get_connection().is_err());
        redis.restart().unwrap();
        assert_eq!(redis.url(), url);
        assert_ne!(redis.pid(), Some(first));
        assert_eq!(ask(&mut connect(&redis), &["GET", "kept"]), "yes");
        let second = redis.pid().unwrap();
        redis.restart().unwrap();
        assert!(!is_alive(second), "a restart left the server before it running");
        assert_eq!(ask(&mut connect(&redis), &["GET", "kept"]), "yes");
    }
}

#[test]
fn a_frozen_redis_answers_nothing_until_it_is_thawed() {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let mut connection = connect(&redis);
    connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    redis.freeze();
    assert!(redis::cmd("PING").query::<String>(&mut connection).is_err());
    redis.thaw();
    assert_eq!(ask(&mut connect(&redis), &["PING"]), "PONG");
}

#[test]
fn a_directive_that_redis_refuses_is_told_in_its_own_words_at_once() {
    drop(PrivateRedis::start(RedisOptions::default()).unwrap()); // The search for a server is not what is timed.
    let began = Instant::now();
    let error =
        PrivateRedis::start(RedisOptions::default().set("maxmemory", "nonsense")).unwrap_err().to_string();
    assert!(error.contains("maxmemory") && error.contains("did not come up"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "an early end was waited out");
}

/// Not a test of its own: the process that the next test kills. It starts a server, says its pid, and waits.
#[test]
#[ignore = "a child of another test"]
fn hold_a_private_redis_until_killed() {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    println!("\nheld {} {}", redis.pid().unwrap(), redis.socket().display());
    std::thread::park_timeout(Duration::from_secs(60));
}

#[test]
fn a_private_redis_dies_and_cleans_up_when_its_process_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["hold_a_private_redis_until_killed", "--ignored", "--exact", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.find_map(|line| line.unwrap().strip_prefix("held ").map(str::to_owned)).unwrap();
    let (pid, socket) = held.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(is_alive(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the server's end", || !is_alive(pid));
    let dir = Path::new(socket).parent().unwrap();
    wait_until("its directory's removal", || !dir.exists());
}

/// A `PATH` with everything of this machine but redis.
fn path_without_redis(dir: &Path) -> std::ffi::OsString {
    for tool in ["apt-get", "dpkg-deb"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|at| at.join(tool))
            .find(|at| at.exists());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, dir.join(tool)).unwrap();
        }
    }
    dir.as_os_str().to_owned()
}

#[test]
fn without_apt_the_failure_names_what_was_tried_and_the_way_out() {
    let empty = tempfile::tempdir().unwrap();
    let search = ServerSearch { path: empty.path().into(), caches: vec![empty.path().join("cache")] };
    let error = search.find(&mut |_| {}).unwrap_err().to_string();
    for needle in
        ["redis-server is not on PATH", "apt-get is not on PATH", "sudo apt-get install redis-server"]
    {
        assert!(error.contains(needle), "{error}");
    }
}

/// Needs Debian's package archive (a package registry), and passes over where there is no apt.
#[test]
fn where_there_is_no_redis_debians_own_is_unpacked_once_by_however_many_ask() {
    let tools = tempfile::tempdir().unwrap();
    let path = path_without_redis(tools.path());
    if !tools.path().join("apt-get").exists() {
        return;
    }
    let unusable = tools.path().join("apt-get").join("no-directory");
    let search = ServerSearch { path, caches: vec![unusable, tools.path().join("cache")] };
    let find = || {
        let mut said = Vec::new();
        let server = search.find(&mut |line| said.push(line.to_owned()));
        (server.unwrap(), said)
    };
    let ((one, first), (two, second)) = std::thread::scope(|scope| {
        let other = scope.spawn(find);
        (find(), other.join().unwrap())
    });
    let unpacked = first.iter().chain(&second).filter(|line| line.contains("unpacking Debian's own")).count();
    assert_eq!(unpacked, 1, "{first:?} {second:?}");
    assert_eq!(one.program(), two.program());
    assert!(one.program().starts_with(tools.path()), "{one:?}");
    let redis = PrivateRedis::start_server(one, RedisOptions::default()).unwrap();
    assert_eq!(ask(&mut connect(&redis), &["EVAL", "return cjson.encode({1})", "0"]), "[1]");
    assert_eq!(find().1, Vec::<String>::new(), "a second search had to unpack again");
    let left: Vec<_> =
        std::fs::read_dir(tools.path().join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "more than the lock and one server is left: {left:?}");
}

/// Sends one request by hand and reads until the server closes, or for this long.
async fn exchange(url: &Url, request: &str, patience: Duration) -> (String, bool) {
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed =
        tokio::time::timeout(patience, (&mut stream).take(1 << 20).read_to_end(&mut answer)).await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// Gets a page on a connection of its own.
async fn get(url: &Url) -> String {
    let target = &url[url::Position::BeforePath..];
    exchange(
        url,
        &format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        Duration::from_secs(10),
    )
    .await
    .0
}

#[tokio::test]
async fn a_site_serves_what_it_was_given_and_counts_who_asked() {
    let site = Site::start().await.unwrap();
    let url = site.put("/a", Body::html(&b"<p>one"[..]));
    let answer = get(&url).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n<p>one"), "{answer}");
    assert!(answer.contains("content-type: text/html; charset=utf-8\r\n"), "{answer}");
    site.put("/a", Body::raw(&b"two"[..]));
    let answer = get(&site.url("/a?query=is+not+counted+apart")).await;
    assert!(answer.ends_with("two") && !answer.contains("content-type"), "{answer}");
    assert!(get(&site.url("/b")).await.starts_with("HTTP/1.1 404 "));
    assert_eq!((site.hits("/a"), site.hits("/b"), site.hits("/c")), (2, 1, 0));
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let site = Site::start().await.unwrap();
    let url = site.put("/a", Body::raw(&b"<one>"[..]));
    let twice = "GET /a HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\nConnection: close\r\n\r\n";
    let (answer, closed) = exchange(&url, twice, Duration::from_secs(10)).await;
    assert_eq!(answer.matches("<one>").count(), 2, "{answer}");
    assert!(closed);
}

#[tokio::test]
async fn every_site_knows_the_words() {
    let site = Site::start().await.unwrap();
    let cases = [
        ("/status/404", "HTTP/1.1 404 "),
        ("/status/503-then-200/x", "HTTP/1.1 503 "),
        ("/status/503-then-200/x", "HTTP/1.1 503 "),
        ("/status/503-then-200/y", "HTTP/1.1 503 "),
        ("/status/503-then-200/x", "HTTP/1.1 200 "),
        ("/status/503-then-200/x", "HTTP/1.1 200 "),
        ("/status/nonsense", "HTTP/1.1 404 "),
        (
            "/redirect-to?u=http%3A%2F%2F169.254.169.254%2F",
            "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n",
        ),
        ("/redirect-to", "HTTP/1.1 404 "),
        ("/loop", "HTTP/1.1 302 Found\r\nlocation: /loop\r\n"),
    ];
    for (path, start) in cases {
        let answer = get(&site.url(path)).await;
        assert!(answer.starts_with(start), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_site_misbehaves_as_it_was_told_to() {
    let site = Site::start().await.unwrap();
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n\r\n");
        exchange(&site.url(path), &request, Duration::from_millis(300)).await
    };
    assert_eq!(ask("/hang").await, (String::new(), false), "/hang answered or closed");
    assert_eq!(ask("/hang-up").await, (String::new(), true), "/hang-up answered or stayed");

    let (short, closed) = ask("/short").await;
    let (head, body) = short.split_once("\r\n\r\n").unwrap();
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(announced.parse::<usize>().unwrap(), body.len() + 10_000);
    assert!(closed);

    let (drip, closed) = ask("/drip").await;
    let body = drip.split_once("\r\n\r\n").unwrap().1;
    assert!((1..10).contains(&body.len()) && !closed, "{drip}");

    let (endless, reached) = ask("/endless").await;
    assert!(
        endless.contains("transfer-encoding: chunked\r\n\r\n4000\r\n<p>and so on</p>"),
        "{}",
        &endless[..200]
    );
    assert!(reached && endless.len() == 1 << 20, "{} bytes only", endless.len());
}

#[tokio::test]
async fn a_dropped_site_closes_what_hangs_on_it() {
    let site = Site::start().await.unwrap();
    let url = site.url("/hang");
    let hanging = tokio::spawn({
        let url = url.clone();
        async move { exchange(&url, "GET /hang HTTP/1.1\r\n\r\n", Duration::from_secs(10)).await }
    });
    wait_for("the request", || site.hits("/hang") == 1).await;
    drop(site);
    let (_, closed) = hanging.await.unwrap();
    assert!(closed);
    assert!(tokio::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.is_err());
}

/// Connections that a server of the testbed serves at once.
const CONNECTIONS: u64 = 2_048;

#[tokio::test]
async fn no_more_connections_are_served_at_once_than_the_bound() {
    let site = Site::start().await.unwrap();
    let url = site.put("/a", Body::raw(&b"x"[..]));
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /hang HTTP/1.1\r\n\r\n").await.unwrap();
        held.push(stream);
    }
    wait_for("all hang", || site.hits("/hang") == CONNECTIONS).await;
    let one_more = exchange(&url, "GET /a HTTP/1.1\r\n\r\n", Duration::from_millis(100)).await;
    assert_eq!((one_more.0.as_str(), site.hits("/a")), ("", 0));
    held.pop();
    assert!(get(&url).await.ends_with('x'));
}

/// Waits for a moment without holding up the runtime.
async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let come = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), come).await.is_ok(), "never came: {what}");
}

#[tokio::test]
async fn an_ingest_counts_every_alert_and_keeps_its_fingerprint() {
    let sentry = FakeSentry::start(ResponseMode::Accept).await.unwrap();
    let dsn: Url = sentry.dsn().parse().unwrap();
    assert!(!dsn.username().is_empty() && dsn.path() == "/1", "{dsn}");
    let event = r#"{"event_id":"0","fingerprint":["dead-letter","decode","ingest"]}"#;
    let header = format!("{{\"event_id\":\"0\"}}\n{{\"type\":\"event\",\"length\":{}}}\n", event.len());
    let bodies = [format!("{header}{event}\n"), format!("{header}{event}"), "garbage".to_owned()];
    let auth = "x-sentry-auth: Sentry sentry_key=hunter2, sentry_version=7";
    for body in &bodies {
        let request = format!(
            "POST /api/1/envelope/ HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{auth}\r\n\r\n{body}",
            body.len()
        );
        let (answer, closed) = exchange(&dsn, &request, Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{}") && closed, "{answer}");
    }
    assert_eq!((sentry.requests(), sentry.alerts(), sentry.violations().len()), (3, 2, 1));
    let fingerprint = ["dead-letter", "decode", "ingest"].map(str::to_owned).to_vec();
    assert_eq!(sentry.fingerprints(), vec![fingerprint; 2]);
    let huge = "POST /api/1/envelope/ HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n";
    let (answer, closed) = exchange(&dsn, huge, Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && closed, "{answer}");
}

#[tokio::test]
async fn every_case_is_a_job_of_its_own_unless_being_unreadable_is_its_point() {
    let site = Site::start().await.unwrap();
    let (mut ids, mut uuids) = (HashSet::new(), HashSet::new());
    let mut all = cases::hostile(&site);
    assert!(all.len() >= 18, "{} classes", all.len());
    all.push(cases::good(&site, 30));
    for case in &all {
        for (n, payload) in case.jobs.iter().enumerate() {
            let job = match (Job::decode(payload), case.expected) {
                (Err(failure), CaseOutcome::Dead(kind)) if failure.kind == kind => continue,
                (Err(failure), expected) => panic!("{}: {failure}, not {expected}", case.name),
                (
                    Ok(_),
                    CaseOutcome::Dead(kind @ (FailureKind::Decode | FailureKind::UnsupportedVersion)),
                ) => {
                    panic!("no {kind}")
                }
                (Ok(job), _) => job,
            };
            assert_eq!(job.id, case.id(n));
            assert!(ids.insert(job.id.clone()), "{} twice", job.id);
            let (from, to) = (job.from.given().unwrap().uuid(), job.to.uuid());
            let same = case.expected == CaseOutcome::Skipped(SkipReason::SameVersion);
            assert_eq!(from == to, same, "{}", case.name);
            assert!(uuids.insert(from) && (same || uuids.insert(to)), "{}: a uuid occurs twice", case.name);
        }
        assert!(!case.jobs.is_empty(), "{}", case.name);
    }
    let names: HashSet<_> = all.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), all.len());
}

#[tokio::test]
async fn good_pairs_are_on_the_site_with_the_hash_that_their_job_names() {
    use sha2::{Digest, Sha256};
    let site = Site::start().await.unwrap();
    let good = cases::good(&site, 6);
    assert_eq!(good.jobs.len(), 6);
    for payload in &good.jobs {
        let job = Job::decode(payload).unwrap();
        for version in [job.from.given().unwrap().clone(), job.to] {
            let VersionRef::Inline(version) = version else { panic!("a good job needs no API") };
            let answer = fetch(&version.body_url).await;
            let found: String = Sha256::digest(&answer).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(version.body_hash, Some(found));
            assert_eq!(site.hits(version.body_url.path()), 1);
        }
    }
}

/// The body at an address, its encoding undone.
async fn fetch(url: &Url) -> Vec<u8> {
    let mut stream =
        tokio::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap();
    stream
        .write_all(format!("GET {} HTTP/1.1\r\nconnection: close\r\n\r\n", url.path()).as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let body = answer.split_off(end + 4);
    if !head.contains("content-encoding: gzip") {
        return body;
    }
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut plain).unwrap();
    plain
}
