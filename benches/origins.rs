//! Pairs per second when origins are slow: `cargo bench --bench origins [-- PAIRS]`, with default settings and two slots.
//!
//! Sixteen hosts that answer at once, after 300 ms and after 1 s, in turns, and one archive as the only host, where
//! `queue.host_in_flight_max` is the limit. The ratios are of the same work in the same run; goals: at least 0.8 of
//! the rate at 300 ms, 0.5 at 1 s.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to whoever runs it, and stops at a surprise"
)]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use wm_analyzer::config::assemble::WorkerParts;
use wm_analyzer::config::{ConfigSources, LoadedConfig};
use wm_analyzer::job::page::Version;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::worker::shutdown::Phase;
use wm_testbed::body::Body;
use wm_testbed::pages;
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::site::{Resource, Site};

/// Hosts in each measurement but the last.
const HOSTS: u8 = 16;
/// Different pages at each host; a page of twenty paragraphs has about this size.
const PAGES: usize = 16;
const PAGE_BYTES: usize = 12_000;
/// A run that takes longer than this has failed.
const TIMEOUT: Duration = Duration::from_secs(600);

fn main() {
    let pairs = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(4_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let at_once = rate(pairs, HOSTS, Duration::ZERO).await;
        println!("{HOSTS} hosts at 0 ms      {at_once:.1} pairs/s");
        for (hosts, latency_ms) in [(HOSTS, 300), (HOSTS, 1_000), (1, 300), (1, 1_000)] {
            let rate = rate(pairs, hosts, Duration::from_millis(latency_ms)).await;
            println!("{hosts} hosts at {latency_ms} ms   {rate:.1} pairs/s, {:.2} of that", rate / at_once);
        }
    });
}

/// Pairs per second from the inbox to `done`, in a queue of their own.
async fn rate(pairs: usize, hosts: u8, latency: Duration) -> f64 {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let mut sites = Vec::new();
    for number in 0..hosts {
        sites.push(Site::start_at(Ipv4Addr::new(127, 0, 2, 1 + number)).await.unwrap());
    }
    for site in &sites {
        for page in 0..PAGES {
            let (from, to) = pages::pair(page as u64, PAGE_BYTES);
            site.put(&format!("/{page}/from"), Resource::Slow(Body::html(from), latency));
            site.put(&format!("/{page}/to"), Resource::Slow(Body::html(to), latency));
        }
    }
    let jobs: Vec<_> = (0..pairs).map(|n| job(&sites[n % sites.len()], n).encode()).collect();

    let flags = [
        ("queue.url", redis.url()),
        ("fetch.allow_networks", "127.0.0.0/8".to_owned()),
        ("sandbox.slots", "2".to_owned()),
        ("web.bind", String::new()),
    ];
    let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let config = LoadedConfig::load(&ConfigSources { flags, ..ConfigSources::default() }).unwrap().config;
    let queue = Roles::connect_for(&config.queue, config.sink()).await.unwrap();
    let executable = env!("CARGO_BIN_EXE_wm-analyzer").into();
    let parts = WorkerParts { executable, ..WorkerParts::new(queue.worker.clone()) };
    let worker = config.worker(parts).await.unwrap();
    let phases = worker.phases.clone();

    let start = Instant::now();
    queue.producer.push(&jobs).await.unwrap();
    let running = tokio::spawn(worker.run());
    loop {
        let done = queue.status().await.unwrap().last_day.get("done").copied().unwrap_or(0);
        if done == pairs as u64 {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "only {done} of {pairs} are done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = start.elapsed();
    phases.advance(Phase::Draining);
    running.await.unwrap();
    pairs as f64 / took.as_secs_f64()
}

/// Each job has versions of its own, at different places of a page's address, so that no two are the same pair.
fn job(site: &Site, n: usize) -> Job {
    let side = |side: &str| {
        let url = site.url(&format!("/{}/{side}?{n}", n / 16 % PAGES));
        VersionRef::Inline(Box::new(Version::at(uuid::Uuid::new_v4(), url)))
    };
    Job::new(side("from"), side("to"))
}
