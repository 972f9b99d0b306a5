//! What the queue costs: enqueue per second, claim and settle per second at several backlogs, memory per waiting job.
//!
//! Not what a diff costs: the jobs here do nothing. `cargo bench --bench queue -- [BACKLOG ...]`, by default 1000 and
//! 100000; each backlog is one line of JSON, measured on a private redis-server that writes no disk.
//!
//! `cargo bench --bench queue -- --peer [JOBS [HANDS [ROUNDS [SLOTS]]]]` (by default 40000, 100, 5 and as many slots as
//! hands) runs `bullmq-official` beside ours, in turn on the same server; it is built on first use, in `benches/peer` with
//! a lock of its own. `--whole` instead of `--peer` runs ours alone.
//!
//! `cargo bench --bench queue -- --results [DIRECTORY]` measures what finished pairs leave in Redis, of generated pages or
//! of real ones (a directory for each pair, with `a.html` and `b.html`).
//!
//! `cargo bench --bench queue -- --backlog [BACKLOG ...]` (by default 1000, 100000 and 1000000) times every step on its own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails has nothing to say")]

mod backlog;
mod peer;
mod results;

use std::time::{Duration, Instant};

use uuid::Uuid;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::queue::{CLAIM_MOST, Claim, Config, Purpose, ReportsWhenFull, WorkerId};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

/// Jobs that are claimed and settled per measurement.
const ROUND: usize = 10_000;
/// Claims under way at once, as of a worker with so many slots.
const HANDS: usize = 16;

fn config(url: &str) -> Config {
    Config {
        url: url.parse().unwrap(),
        tls_ca: std::path::PathBuf::new(),
        name: "bench".parse().unwrap(),
        adopt: Vec::new(),
        adopt_beside_others: false,
        connections: HANDS,
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(10),
        lease: Duration::from_secs(90),
        worker_ttl: Duration::from_secs(60),
        report_ttl: Duration::from_secs(3600),
        reports_max_bytes: bytesize::ByteSize::gib(64),
        reports_when_full: ReportsWhenFull::Evict,
        done_ttl: Duration::from_secs(3600),
        done_max_count: 10_000_000,
        suspects_max_count: 10_000,
        backlog_max: u64::MAX >> 16,
        in_flight_max: 0,
        host_in_flight_max: 0,
        new_host_in_flight_max: 0,
        host_failures_max: 0,
        host_rest: Duration::from_secs(10),
        host_rest_max: Duration::from_secs(300),
        crashes_max: 2,
        releases_exclusive: 20,
        dead_max_count: 100_000,
        dead_max_age: Duration::from_secs(90 * 86_400),
        dead_max_bytes: bytesize::ByteSize::mib(256),
        events_max: 10_000,
        command_flags: String::new(),
    }
}

#[tokio::main]
async fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let peer = std::env::args().any(|arg| arg == "--peer");
    if peer || std::env::args().any(|arg| arg == "--whole") {
        let redis = PrivateRedis::start(RedisOptions::default().tcp().set("maxmemory", "0")).unwrap();
        let number = |at: usize, default| sizes.get(at).copied().unwrap_or(default);
        let hands = number(1, CLAIM_MOST);
        let load = peer::Load { jobs: number(0, 40_000), hands, slots: number(3, hands) };
        return peer::measure(&redis, load, number(2, 5), peer).await;
    }
    if std::env::args().any(|arg| arg == "--results") {
        let directory = std::env::args().skip_while(|arg| arg != "--results").nth(1);
        let directory = directory.filter(|arg| !arg.starts_with('-')).map(std::path::PathBuf::from);
        return results::measure(directory, config).await;
    }
    if std::env::args().any(|arg| arg == "--backlog") {
        let sizes = if sizes.is_empty() { vec![1_000, 100_000, 1_000_000] } else { sizes };
        return backlog::measure(&sizes, config).await;
    }
    let sizes = if sizes.is_empty() { vec![1_000, 100_000] } else { sizes };
    // Without persistence and without a ceiling: a million waiting jobs are some 1.2 GB.
    let redis = PrivateRedis::start(RedisOptions::default().set("maxmemory", "0")).unwrap();
    let queue = Roles::connect(&config(&redis.url())).await.unwrap();
    let mut eye = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let (mut waiting, mut before, mut finished) = (0, memory(&mut eye).await, 0);
    for backlog in sizes {
        let added = backlog.saturating_sub(waiting);
        let start = Instant::now();
        fill(&queue, added).await;
        let enqueue = per_second(added, start.elapsed());
        let bytes = (memory(&mut eye).await - before) / added.max(1) as u64;
        let (done, mut claims) = work(&queue).await;
        claims.sort();
        println!(
            "{{\"backlog\":{backlog},\"enqueue_per_s\":{enqueue},\"bytes_per_job\":{bytes},\"jobs_per_s\":{done},\
             \"claim_us_p50\":{},\"claim_us_p99\":{}}}",
            claims[claims.len() / 2].as_micros(),
            claims[claims.len() * 99 / 100].as_micros()
        );
        finished += claims.len() as u64;
        let kept = queue.status().await.unwrap().memory;
        let each = |purpose: Purpose| kept.of(purpose) / finished;
        println!(
            "{{\"finished\":{finished},\"bytes_per_finished_job\":{{\"reports\":{},\"done\":{},\"history\":{}}}}}",
            each(Purpose::Reports),
            each(Purpose::Done),
            each(Purpose::History)
        );
        (waiting, before) = (backlog.max(waiting) - claims.len(), memory(&mut eye).await);
    }
}

async fn fill(queue: &Roles, jobs: usize) {
    let mut fillers = tokio::task::JoinSet::new();
    for n in 0..HANDS {
        let (queue, share) = (queue.clone(), jobs / HANDS + usize::from(n < jobs % HANDS));
        fillers.spawn(async move {
            for from in (0..share).step_by(100) {
                let batch: Vec<Job> = (from..share.min(from + 100)).map(|_| job()).collect();
                let _ = queue.producer.enqueue(&batch).await.unwrap();
            }
        });
    }
    fillers.join_all().await;
}

/// Claims and settles a round; answers jobs per second and how long each claim took.
async fn work(queue: &Roles) -> (u64, Vec<Duration>) {
    let start = Instant::now();
    let mut hands = tokio::task::JoinSet::new();
    for _ in 0..HANDS {
        let queue = queue.clone();
        hands.spawn(async move {
            let worker = WorkerId::fresh("bench");
            let mut claims = Vec::with_capacity(ROUND / HANDS);
            for _ in 0..ROUND / HANDS {
                let start = Instant::now();
                let Claim::Delivery(delivery) = queue.worker.claim(&worker).await.unwrap() else { break };
                claims.push(start.elapsed());
                let skip = Skip::new(SkipReason::Content, "nothing to do");
                let _ = queue.worker.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
            }
            claims
        });
    }
    let claims: Vec<Duration> = hands.join_all().await.into_iter().flatten().collect();
    (per_second(claims.len(), start.elapsed()), claims)
}

fn job() -> Job {
    Job::new(VersionRef::Uuid(Uuid::new_v4()), VersionRef::Uuid(Uuid::new_v4()))
}

fn per_second(n: usize, time: Duration) -> u64 {
    (n as f64 / time.as_secs_f64()) as u64
}

async fn memory(eye: &mut redis::aio::MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("memory").query_async(eye).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap()
}
