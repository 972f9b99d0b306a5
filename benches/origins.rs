//! Pairs per second when origins are slow: `cargo bench --bench origins [-- PAIRS]`, with default settings and two slots.
//!
//! Sixteen hosts that answer at once, after 300 ms and after 1 s, in turns, and one archive as the only host, where
//! `queue.host_in_flight_max` is the limit. The ratios are of the same work in the same run; goals: at least 0.8 of
//! the rate at 300 ms, 0.5 at 1 s. Then the time from a producer's RPUSH until an idle worker has claimed the job, by the
//! clock of Redis; goal: a median of 5 ms at most.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to whoever runs it, and stops at a surprise"
)]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use wm_analyzer::config::assemble::WorkerParts;
use wm_analyzer::config::{Config, ConfigSources, LoadedConfig};
use wm_analyzer::job::page::Version;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::worker::WorkerExit;
use wm_analyzer::worker::shutdown::{Phase, Phases};
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
/// Jobs pushed one by one to an idle worker.
const CLAIMS: usize = 50;
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
        let times = claim_times(CLAIMS).await;
        println!(
            "RPUSH to claim         {} ms (median), {} ms (p90)",
            times[CLAIMS / 2],
            times[CLAIMS * 9 / 10]
        );
    });
}

/// A queue of its own, with sites to fetch from.
struct Setup {
    redis: PrivateRedis,
    sites: Vec<Site>,
    queue: Roles,
    config: Config,
}

impl Setup {
    async fn new(hosts: u8, latency: Duration) -> Self {
        // Redis has the only copy of the results, so there must be room for all of them.
        let redis = PrivateRedis::start(RedisOptions::default().set("maxmemory", "1gb")).unwrap();
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
        let flags = [
            ("queue.url", redis.url()),
            ("fetch.allow_networks", "127.0.0.0/8".to_owned()),
            ("sandbox.slots", "2".to_owned()),
            ("web.bind", String::new()),
        ];
        let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let config = LoadedConfig::load(&ConfigSources { flags, ..ConfigSources::default() }).unwrap().config;
        let queue = Roles::connect_for(&config.queue, config.sink()).await.unwrap();
        Self { redis, sites, queue, config }
    }

    async fn worker(&self) -> (Phases, JoinHandle<WorkerExit>) {
        let executable = env!("CARGO_BIN_EXE_wm-analyzer").into();
        let parts = WorkerParts { executable, ..WorkerParts::new(self.queue.worker.clone()) };
        let worker = self.config.worker(parts).await.unwrap();
        (worker.phases.clone(), tokio::spawn(worker.run()))
    }

    async fn until_done(&self, jobs: usize) {
        let start = Instant::now();
        loop {
            let done = self.queue.status().await.unwrap().last_day.get("done").copied().unwrap_or(0);
            if done == jobs as u64 {
                return;
            }
            assert!(start.elapsed() < TIMEOUT, "only {done} of {jobs} are done");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Pairs per second from the inbox to `done`.
async fn rate(pairs: usize, hosts: u8, latency: Duration) -> f64 {
    let setup = Setup::new(hosts, latency).await;
    let jobs: Vec<_> = (0..pairs).map(|n| job(&setup.sites[n % setup.sites.len()], n).encode()).collect();
    let (phases, worker) = setup.worker().await;
    let start = Instant::now();
    setup.queue.producer.push(&jobs).await.unwrap();
    setup.until_done(pairs).await;
    let took = start.elapsed();
    phases.advance(Phase::Draining);
    worker.await.unwrap();
    pairs as f64 / took.as_secs_f64()
}

/// Milliseconds from an RPUSH to the claim, one job after another, sorted.
async fn claim_times(jobs: usize) -> Vec<u64> {
    let setup = Setup::new(1, Duration::from_millis(100)).await;
    let client = redis::Client::open(setup.redis.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let (phases, worker) = setup.worker().await;
    let mut times = Vec::new();
    for n in 0..jobs {
        let job = job(&setup.sites[0], n);
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
        setup.queue.producer.push(&[job.encode()]).await.unwrap();
        let claimed = loop {
            let key = format!("wm:{{analysis}}:job:{}", job.id);
            let claimed: Option<u64> =
                redis::cmd("HGET").arg(key).arg("claimed_ms").query_async(&mut redis).await.unwrap();
            if let Some(claimed) = claimed {
                break claimed;
            }
        };
        times.push(claimed.saturating_sub(seconds * 1_000 + micros / 1_000));
        setup.until_done(n + 1).await;
    }
    phases.advance(Phase::Draining);
    worker.await.unwrap();
    times.sort_unstable();
    times
}

/// Each job has versions of its own, at different places of a page's address, so that no two are the same pair.
fn job(site: &Site, n: usize) -> Job {
    let side = |side: &str| {
        let url = site.url(&format!("/{}/{side}?{n}", n / 16 % PAGES));
        VersionRef::Inline(Box::new(Version::at(uuid::Uuid::new_v4(), url)))
    };
    Job::new(side("from"), side("to"))
}
