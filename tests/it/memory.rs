//! The worker never fills Redis: results make room for work, or work waits for room, and no job is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::task::JoinHandle;
use wm_analyzer::job::Job;
use wm_testbed::redis::RedisOptions;

use crate::harness::{World, job, job_by_uuid, key, until};

const PAGE_BYTES: usize = 41_000;
const MIB: u64 = 1 << 20;
/// What may be in Redis beyond `maxmemory`: a batch of settles, its query buffer, 2 KiB for each job in flight.
const OVER_BYTES: u64 = 4 * MIB;
/// Between two samples of the memory in use.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// So many jobs for pairs of their own; their bodies are a few pages of about so many bytes, at addresses that
/// end in `query`.
fn jobs(world: &World, count: usize, bytes: usize, query: &str) -> Vec<Job> {
    let pages: Vec<Job> = (0..20).map(|n| world.pair(&format!("page-{n}"), bytes)).collect();
    let address = |job: &Job, side| world.site.url(&format!("/{}/{side}{query}", job.id));
    let page = |n: usize| &pages[n % pages.len()];
    (0..count).map(|n| job(&format!("job-{n}"), address(page(n), "from"), address(page(n), "to"))).collect()
}

async fn connection(world: &World) -> MultiplexedConnection {
    let client = redis::Client::open(world.redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// A number of `INFO memory`.
async fn info(connection: &mut MultiplexedConnection, name: &str) -> u64 {
    let text: String = redis::cmd("INFO").arg("memory").query_async(connection).await.unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap().parse().unwrap()
}

/// Samples `used_memory` until it is asked for the highest.
struct Gauge(JoinHandle<()>, Arc<AtomicU64>);

impl Gauge {
    async fn start(world: &World) -> Self {
        let mut connection = connection(world).await;
        let highest = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&highest);
        let sampling = tokio::spawn(async move {
            loop {
                let used = info(&mut connection, "used_memory").await;
                seen.fetch_max(used, Ordering::Relaxed);
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
        });
        Self(sampling, highest)
    }

    fn highest(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn counter(world: &World, name: &str) -> u64 {
    world.queue.status().await.unwrap().last_day.get(name).copied().unwrap_or(0)
}

/// Waits until so many jobs are done, as long as it takes while some are done every minute.
async fn until_done(world: &World, count: u64) {
    let mut done = 0;
    while done < count {
        until("more are done", async || counter(world, "done").await > done).await;
        done = counter(world, "done").await;
    }
    assert_eq!(done, count);
}

/// Every job is done, and nothing else became of any.
async fn assert_none_is_lost(world: &World, count: u64) {
    until("nothing is left", async || {
        let status = world.queue.status().await.unwrap();
        status.inbox + status.backlog() + status.in_flight == 0
    })
    .await;
    let status = world.queue.status().await.unwrap();
    assert_eq!((status.dead, status.last_day["done"], status.memory.done_count), (0, count, count));
    assert_eq!(world.keys("job:*").await, [""; 0]);
    assert_eq!(world.keys("unique:*").await, [""; 0]);
}

/// Runs so many jobs to their end in a Redis of so many MiB, and gives the time.
#[expect(clippy::print_stdout, reason = "numbers for people")]
async fn run_all(maxmemory_mib: u64, count: usize) -> Duration {
    let options = RedisOptions::default().set("maxmemory", &format!("{maxmemory_mib}mb"));
    let world = World::with_redis_options(options).await.with("queue.reports_when_full", "evict");
    world.send(&jobs(&world, count, PAGE_BYTES, "")).await;
    let gauge = Gauge::start(&world).await;
    let begin = Instant::now();
    let worker = world.worker();
    until_done(&world, count as u64).await;
    let took = begin.elapsed();
    assert_none_is_lost(&world, count as u64).await;
    let (highest, evicted) = (gauge.highest(), counter(&world, "reports_evicted").await);
    let summarised = counter(&world, "summarised").await;
    println!(
        "{maxmemory_mib} MiB: {count} jobs in {took:.1?}, highest used_memory {highest} ({:+.2} MiB), \
         {evicted} results evicted, {summarised} summarised",
        (highest as f64 - (maxmemory_mib * MIB) as f64) / MIB as f64
    );
    if maxmemory_mib > 0 {
        assert!(highest <= maxmemory_mib * MIB + OVER_BYTES, "{highest}");
        assert!(evicted + summarised > 0, "there was not room for all");
    }
    worker.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_results_than_redis_has_room_for_make_room_for_each_other() {
    let took = run_all(12, 2_000).await;
    println!("{:.2} times as long", took.as_secs_f64() / run_all(0, 2_000).await.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: minutes"]
async fn thousands_of_results_make_room_for_each_other_and_take_at_most_three_times_as_long() {
    for (maxmemory_mib, count) in [(16, 5_000), (64, 25_000)] {
        let took = run_all(maxmemory_mib, count).await.as_secs_f64();
        let ratio = took / run_all(0, count).await.as_secs_f64();
        println!("{ratio:.2} times as long");
        assert!(ratio <= 3.0, "{ratio}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_fills_redis_still_drains() {
    const JOBS: usize = 2_000;
    let world = World::new().await.with("queue.reports_when_full", "evict");
    world.run(&["queue", "pause", "--reason", "to fill it"]).await.exited_with(0);
    let worker = world.worker();
    worker.until_logged("working").await;
    until("it is known", async || world.keys("worker:*").await.len() == 1).await;
    worker.stop().await;
    // Payloads of 7 kB: they are most of what is in Redis, not what server and queue weigh without any job.
    let jobs = jobs(&world, JOBS, 4_000, &format!("?{}", "x".repeat(3_300)));
    world.send(&jobs).await;
    let mut connection = connection(&world).await;
    let max = info(&mut connection, "used_memory").await * 100 / 95;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", &max.to_string()]).await;
    let gauge = Gauge::start(&world).await;
    let begin = Instant::now();
    let worker = world.worker();
    until("it looks", async || world.queue.status().await.unwrap().looker.is_some()).await;
    world.run(&["queue", "resume"]).await.exited_with(0);
    until_done(&world, JOBS as u64).await;
    assert_none_is_lost(&world, JOBS as u64).await;
    println!(
        "maxmemory {max}, highest used_memory {} ({:+} B), {:?}, {} evicted, {} summarised",
        gauge.highest(),
        gauge.highest() as i64 - max as i64,
        begin.elapsed(),
        counter(&world, "reports_evicted").await,
        counter(&world, "summarised").await,
    );
    assert!(gauge.highest() <= max + OVER_BYTES, "{}", gauge.highest());
    worker.stop().await;
}

/// What was told of results without room, in order.
fn alerts(world: &World) -> Vec<Value> {
    let events = world.sentry.events().into_iter();
    events.filter(|event| event["fingerprint"] == serde_json::json!(["outage", "results"])).collect()
}

#[tokio::test]
async fn where_redis_has_the_only_copy_work_stops_until_results_are_freed_or_get_more_room() {
    const JOBS: usize = 400;
    const RESUMES_WITHIN: Duration = Duration::from_secs(5);
    let world = World::new().await.with("queue.reports_max_bytes", "64 KiB");
    world.send(&jobs(&world, JOBS, PAGE_BYTES, "")).await;
    let worker = world.worker();
    let stopped = async || {
        let status = world.queue.status().await.unwrap();
        status.waits_for_reports() && status.in_flight == 0 && status.ready > 0
    };
    until("it stops", stopped).await;
    until("an alert", async || alerts(&world).len() == 1).await;
    let said = alerts(&world).remove(0);
    let text = said["message"].as_str().unwrap();
    assert!(text.starts_with("outage: the results near their cap, where nothing more is claimed"), "{text}");
    let status = world.run(&["status"]).await;
    let full = ["results are at ", " % of their cap, nothing is claimed", "results free"];
    let status = status.stderr_contains(&full);
    assert!([Some(0), Some(1)].contains(&status.code), "{status:?}");
    let logged = worker.log_text().matches("Redis has the only copy: nothing is claimed").count();
    assert_eq!(logged, 1, "{}", worker.log_text());
    let done = counter(&world, "done").await;
    assert_eq!(world.keys("ended:*").await.len() as u64, done, "nothing was evicted");

    let freed = world.run(&["results", "free", "--yes"]).await.exited_with(0);
    freed.stderr_contains(&["freed "]);
    let begin = Instant::now();
    until("it resumes", async || counter(&world, "done").await > done).await;
    println!("resumed {:?} after results were freed", begin.elapsed());
    assert!(begin.elapsed() < RESUMES_WITHIN);
    until("it stops again", stopped).await;
    let done = counter(&world, "done").await;
    assert!(done < JOBS as u64);

    world.run(&["queue", "set", "reports_max_bytes=64 MiB"]).await.exited_with(0);
    let begin = Instant::now();
    until("it resumes", async || counter(&world, "done").await > done).await;
    println!("resumed {:?} after there was more room", begin.elapsed());
    assert!(begin.elapsed() < RESUMES_WITHIN);
    until_done(&world, JOBS as u64).await;
    assert_none_is_lost(&world, JOBS as u64).await;
    worker.stop().await;
    let outages =
        alerts(&world).into_iter().filter(|event| event["message"].as_str().unwrap().starts_with("outage: "));
    assert_eq!(outages.count(), 1, "one, however long it stayed so");
}

#[tokio::test]
async fn every_operators_command_works_while_redis_is_full() {
    let world = World::new().await;
    let done = world.pair("done", 4_000);
    let worker = world.worker();
    world.send(&[done.clone(), job_by_uuid("dead-1"), job_by_uuid("dead-2"), job_by_uuid("dead-3")]).await;
    world.until_dead_letters(3).await;
    world.until_event(&done.id, "done").await;
    worker.stop().await;
    let more: Vec<Job> = (0..400).map(|n| job_by_uuid(&format!("waits-{n}"))).collect();
    let _ = world.queue.producer.enqueue(&more).await.unwrap();

    let mut connection = connection(&world).await;
    let max = info(&mut connection, "used_memory").await - 200_000;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", &max.to_string()]).await;
    world.run_with_stdin(&["enqueue", "-"], job_by_uuid("new").encode()).await.exited_with(75);
    let says = async |args: &'static [&'static str], code: i32, needles: &[&str]| {
        let ran = world.run(args).await;
        let said = format!("{}{}", ran.stdout, ran.stderr);
        for needle in needles {
            assert!(said.contains(needle), "{args:?}: {needle:?} is not in {ran:#?}");
        }
        ran.exited_with(code)
    };
    says(&["queue", "pause", "--reason", "full"], 0, &["paused analysis", "full"]).await;
    says(&["queue", "resume"], 0, &["resumed analysis"]).await;
    says(&["queue", "drain", "--reason", "full", "--timeout", "5s"], 0, &["drain"]).await;
    says(&["queue", "resume"], 0, &["resumed analysis"]).await;
    says(&["queue", "cancel", "waits-7"], 0, &["cancelled 1 of 1"]).await;
    assert!(world.field(&more[7].id, "cancel").await.is_some());
    says(&["queue", "set", "dead_max_count=777"], 0, &["dead_max_count"]).await;
    says(&["queue", "settings"], 0, &["dead_max_count", "777"]).await;
    let stored: Option<String> = world.redis_cmd("HGET", &[&key("meta"), "dead_max_count"]).await;
    assert_eq!(stored.as_deref(), Some("777"));
    says(&["queue", "set", "--from-config"], 0, &["dead_max_count"]).await;
    says(&["dead", "ls"], 0, &["dead-1", "dead-2", "dead-3"]).await;
    says(&["dead", "show", "dead-1"], 0, &["dead-1"]).await;
    says(&["dead", "replay", "dead-1", "--yes"], 0, &["replayed 1 of 1"]).await;
    assert_eq!(world.field(&job_by_uuid("dead-1").id, "state").await.as_deref(), Some("ready"));
    says(&["dead", "discard", "dead-2", "--yes"], 0, &["dead-2"]).await;
    assert_eq!(world.dead().await.len(), 1);
    says(&["results", "ls"], 0, &["done", "4 of 4 results"]).await;
    says(&["results", "show", "done"], 0, &["priority"]).await;
    let status = world.run(&["status"]).await;
    for needle in ["analysis", "READY", "at maxmemory"] {
        assert!(format!("{}{}", status.stdout, status.stderr).contains(needle), "{needle}: {status:#?}");
    }
    let json = world.run(&["status", "-o", "json"]).await.json();
    assert_eq!((&json["ready"], &json["dead"]), (&401.into(), &1.into()));
    assert!(json["memory"]["jobs_bytes"].as_u64().unwrap() > 100_000, "{json}");
    let doctor = world.run(&["doctor"]).await;
    for needle in ["maxmemory", "noeviction", "isolation", "at maxmemory and refuses writes"] {
        assert!(doctor.stdout.contains(needle), "{needle}: {doctor:#?}");
    }
    world.run_with_stdin(&["enqueue", "-"], job_by_uuid("new").encode()).await.exited_with(75);
    says(&["results", "free", "--yes"], 0, &["freed 4 results"]).await;
    let left: u64 = world.redis_cmd("ZCARD", &[key("results")]).await;
    assert_eq!(left, 0);
}
