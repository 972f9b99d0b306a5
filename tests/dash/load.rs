//! Many who look at once, beside a worker that works.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::harness::{World, until};
use crate::world::Dashboard;

const OPEN_PAGES: usize = 100;
const REQUESTS_PER_SECOND: u64 = 200;
const LOAD_TIME: Duration = Duration::from_secs(10);
/// A quarter of the 512 MiB that the documentation allows it with everything at its limit.
const RESIDENT_MAX_BYTES: u64 = 128 * 1024 * 1024;

/// An overview that stays open.
async fn open_overview(dashboard: &Dashboard) -> TcpStream {
    let mut tcp = TcpStream::connect(dashboard.address()).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", dashboard.address());
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp
}

/// Commands that Redis has carried out, those of scripts included.
async fn commands(world: &World) -> u64 {
    let info: String = world.redis_cmd("INFO", &["stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
    line.trim().parse().unwrap()
}

async fn commands_per_second(world: &World) -> f64 {
    let (before, begun) = (commands(world).await, Instant::now());
    sleep(Duration::from_secs(12)).await;
    (commands(world).await - before) as f64 / begun.elapsed().as_secs_f64()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hundred_open_overviews_cost_redis_as_much_as_one() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world, &[]).await;
    let first = open_overview(&dashboard).await;
    let alone = commands_per_second(&world).await;
    let mut others = Vec::new();
    for _ in 1..OPEN_PAGES {
        others.push(open_overview(&dashboard).await);
    }
    let together = commands_per_second(&world).await;
    for tcp in [first].iter_mut().chain(&mut others) {
        let mut start = [0; 64 * 1024];
        let read = tcp.read(&mut start).await.unwrap();
        let said = String::from_utf8_lossy(&start[..read]);
        assert!(said.contains("text/event-stream"), "{said}");
    }
    assert!(alone > 1.0, "{alone} commands a second");
    assert!(together < alone * 1.3, "{alone} commands a second for one, {together} for {OPEN_PAGES}");
    let resident = resident_bytes(dashboard.process.pid());
    assert!(resident < RESIDENT_MAX_BYTES, "{resident} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_two_hundred_requests_a_second_a_worker_misses_no_heartbeat_and_each_is_answered() {
    // A silent worker has missed two.
    let world = World::new().await.with("worker.heartbeat", "1s");
    let worker = world.worker();
    let dashboard = Dashboard::start(&world, &[]).await;
    let jobs: Vec<_> = (0..60).map(|n| world.pair(&format!("job-{n}"), 20_000)).collect();
    world.send(&jobs).await;
    let mut open = Vec::new();
    for _ in 0..OPEN_PAGES {
        open.push(open_overview(&dashboard).await);
    }
    let mut every = interval(Duration::from_secs(1) / u32::try_from(REQUESTS_PER_SECOND).unwrap());
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let dashboard = std::sync::Arc::new(dashboard);
    let paths = [
        "/",
        "/groups",
        "/jobs?q=state%3Adead",
        "/hosts",
        "/workers",
        "/audit",
        "/find?q=job-1",
        "/settings",
    ];
    let mut asked = Vec::new();
    let begun = Instant::now();
    let mut silent = 0;
    while begun.elapsed() < LOAD_TIME {
        every.tick().await;
        let dashboard = std::sync::Arc::clone(&dashboard);
        let path = paths[asked.len() % paths.len()];
        asked.push(tokio::spawn(async move { dashboard.get(path, &[]).await.status }));
        if asked.len() % 50 == 0 {
            let status = world.queue.status().await.unwrap();
            silent += status.workers.iter().filter(|worker| worker.silent).count();
        }
    }
    let count = asked.len();
    let mut refused = 0;
    for answer in asked {
        let status = answer.await.unwrap();
        assert!([200, 303, 503].contains(&status), "{status}");
        refused += usize::from(status == 503);
    }
    assert_eq!(silent, 0, "its heartbeats were missed");
    assert!(count >= 1_000, "{count} requests");
    assert!(refused * 20 <= count, "{refused} of {count} were not answered in time");
    until("the worker has done its jobs meanwhile", async || {
        let status = world.queue.status().await.unwrap();
        status.backlog() + status.inbox + status.in_flight == 0
    })
    .await;
    let resident = resident_bytes(dashboard.process.pid());
    assert!(resident < RESIDENT_MAX_BYTES, "{resident} bytes");
    drop((open, worker));
}
