//! What waiting jobs cost: each step of the queue, one at a time, in front of a backlog that grows.
//!
//! One line of JSON per backlog, in microseconds at the median and the 99th percentile of single calls. A quarter of the
//! jobs wait for a time that does not come, so that `scheduled` is as full as `ready` is.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::queue::{Claim, Config, Delivery, WorkerId};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

use uuid::Uuid;

/// Calls per step and backlog.
const ROUNDS: usize = 500;
/// Jobs that one call enqueues while the backlog is filled.
const BATCH: usize = 1_000;

/// Measures every step at each of these backlogs, smallest first.
pub(crate) async fn measure(sizes: &[usize], config: impl Fn(&str) -> Config) {
    // Without persistence and without a ceiling: a million waiting jobs are some 1.2 GB.
    let redis = PrivateRedis::start(RedisOptions::default().set("maxmemory", "0")).unwrap();
    let queue = Roles::connect(&config(&redis.url())).await.unwrap();
    let mut eye = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let empty = used(&mut eye).await;
    for &size in sizes {
        fill(&queue, size).await;
        let bytes = (used(&mut eye).await - empty) / size as u64;
        let steps = [
            ("enqueue", timed(async || drop(queue.producer.enqueue(&[job(None)]).await.unwrap())).await),
            ("claim_done", step(&queue, |_| skip()).await),
            ("claim_retry", step(&queue, |_| retry()).await),
            ("upkeep", timed(async || drop(queue.worker.upkeep().await.unwrap())).await),
            ("status", timed(async || drop(queue.status().await.unwrap())).await),
        ];
        let steps: Vec<String> = steps
            .iter()
            .map(|(name, times)| {
                format!("\"{name}_us\":{{\"p50\":{},\"p99\":{}}}", at(times, 50), at(times, 99))
            })
            .collect();
        println!("{{\"backlog\":{size},\"bytes_per_job\":{bytes},{}}}", steps.join(","));
    }
}

/// A claim and what it is settled with, together.
async fn step(queue: &Roles, verdict: impl Fn(&Delivery) -> Verdict) -> Vec<u128> {
    let worker = WorkerId::fresh("bench");
    timed(async || {
        let Claim::Delivery(delivery) = queue.worker.claim(&worker).await.unwrap() else { panic!("empty") };
        let verdict = verdict(&delivery);
        let _ = queue.worker.settle(*delivery, verdict).await.unwrap();
    })
    .await
}

async fn timed(mut call: impl AsyncFnMut()) -> Vec<u128> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        call().await;
        times.push(start.elapsed().as_micros());
    }
    times.sort_unstable();
    times
}

fn at(sorted: &[u128], percent: usize) -> u128 {
    sorted[(sorted.len() - 1) * percent / 100]
}

async fn fill(queue: &Roles, size: usize) {
    let later = Some(OffsetDateTime::now_utc() + Duration::from_secs(86_400));
    let mut waiting = usize::try_from(queue.status().await.unwrap().backlog()).unwrap();
    while waiting < size {
        let many = BATCH.min(size - waiting);
        let jobs: Vec<Job> = (0..many).map(|n| job(later.filter(|_| n % 4 == 0))).collect();
        let _ = queue.producer.enqueue(&jobs).await.unwrap();
        waiting += many;
    }
}

fn job(run_at: Option<OffsetDateTime>) -> Job {
    let uuid = || VersionRef::Uuid(Uuid::new_v4());
    Job { run_at, ..Job::new(uuid(), uuid()) }
}

fn skip() -> Verdict {
    Verdict::Skip(Skip::new(SkipReason::Content, "nothing to do"))
}

/// Due at once, so that the next upkeep has something to promote.
fn retry() -> Verdict {
    Verdict::Retry { after: Duration::ZERO, failure: Failure::new(FailureKind::Timeout, "no answer") }
}

async fn used(eye: &mut MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("memory").query_async(eye).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap()
}
