//! Pairs per second from the inbox to the report, and what the sandbox costs against the same analysis in process.
//!
//! `cargo bench --bench pairs [-- PAIRS]`. Both measurements use the demo's good pairs: 5 to 300 kB, a third of them
//! compressed. The ratio is of the same work in the same run, in turns; absolute rates say more about the machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench talks to whoever runs it, and stops at a surprise"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wm_analyzer::analysis::child;
use wm_analyzer::config::assemble::WorkerParts;
use wm_analyzer::config::{Config, ConfigSources, LoadedConfig};
use wm_analyzer::demo::cases;
use wm_analyzer::job::analysis_request::{AnalysisRequest, BodyInput};
use wm_analyzer::job::page::{Body, PagePair};
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::sandbox::{Limits, Request};
use wm_analyzer::worker::shutdown::Phase;
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::site::Site;

/// Turns of each side; the best one is compared, because a shared machine only ever adds time.
const ROUNDS: usize = 5;
/// A run that takes longer than this has failed.
const TIMEOUT: Duration = Duration::from_secs(300);

fn main() {
    let pairs = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
        let site = Site::start().await.unwrap();
        let config = config(&redis.url());
        let good = cases::good(&site, pairs);
        sandbox_against_process(&config, &good.jobs).await;
        end_to_end(&config, &good.jobs).await;
    });
}

fn executable() -> PathBuf {
    env!("CARGO_BIN_EXE_wm-analyzer").into()
}

fn config(redis: &str) -> Config {
    let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let flags = vec![
        flag("queue.url", redis),
        flag("fetch.allow_networks", "127.0.0.0/8"),
        flag("worker.ingest_every", "10ms"),
        flag("web.bind", ""),
    ];
    LoadedConfig::load(&ConfigSources { flags, ..ConfigSources::default() }).unwrap().config
}

/// One pair, fetched: what a child is handed.
struct FetchedPair {
    options: Vec<u8>,
    from: Vec<u8>,
    to: Vec<u8>,
}

async fn fetched(config: &Config, payloads: &[Vec<u8>]) -> Vec<FetchedPair> {
    let fetcher = config.pipeline().unwrap().fetcher;
    let mut all = Vec::new();
    for payload in payloads {
        let job = Job::decode(payload).unwrap();
        let (Some(VersionRef::Inline(from)), VersionRef::Inline(to)) = (job.from.given().cloned(), job.to)
        else {
            panic!("not whole")
        };
        let pair = PagePair { page: None, from: *from, to: *to, from_is_earliest: false };
        let bodies = fetcher.pair(&pair).await.unwrap().bodies;
        let side = |version: &wm_analyzer::job::page::Version, body: &Body| BodyInput {
            content_encoding: body.content_encoding.clone(),
            content_type: body.content_type.clone(),
            body_hash: version.body_hash.clone(),
            ..BodyInput::default()
        };
        let options = AnalysisRequest {
            from: side(&pair.from, &bodies.from),
            to: side(&pair.to, &bodies.to),
            max_decoded_bytes: config.sandbox.max_decoded.as_u64(),
            max_result_bytes: 0,
        };
        let options = serde_json::to_vec(&options).unwrap();
        all.push(FetchedPair { options, from: bodies.from.bytes, to: bodies.to.bytes });
    }
    all
}

async fn sandbox_against_process(config: &Config, payloads: &[Vec<u8>]) {
    let pairs = fetched(config, payloads).await;
    let limits = Limits::from_config(&config.sandbox);
    let pool = config.pool(1, executable()).await.unwrap();
    let mut slot = pool.acquire().await;
    let (mut boxed, mut bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for pair in &pairs {
            let (reply, _) = child::answer(&pair.options, pair.from.clone(), pair.to.clone(), |_| {});
            assert!(reply.starts_with(b"{\"analysed\""), "{}", String::from_utf8_lossy(&reply));
        }
        bare = bare.min(start.elapsed());
        let start = Instant::now();
        for pair in &pairs {
            let request = Request { options: pair.options.clone(), a: pair.from.clone(), b: pair.to.clone() };
            let reply = slot.run(request, limits).await.unwrap();
            assert!(reply.product.answer.starts_with(b"{\"analysed\""));
        }
        boxed = boxed.min(start.elapsed());
    }
    drop(slot);
    pool.shutdown().await;
    let each = |time: Duration| time.as_secs_f64() * 1e3 / pairs.len() as f64;
    println!(
        "sandboxed / in process   {:.2}   ({:.2} ms / {:.2} ms a pair, one at a time, best of {ROUNDS})",
        boxed.as_secs_f64() / bare.as_secs_f64(),
        each(boxed),
        each(bare)
    );
}

async fn end_to_end(config: &Config, payloads: &[Vec<u8>]) {
    let queue = Roles::connect_for(&config.queue, config.sink()).await.unwrap();
    let slots = config.slots().unwrap();
    let parts = WorkerParts { executable: executable(), ..WorkerParts::new(queue.worker.clone()) };
    let worker = config.worker(parts).await.unwrap();
    let phases = worker.phases.clone();
    let start = Instant::now();
    queue.producer.push(payloads).await.unwrap();
    let running = tokio::spawn(worker.run());
    loop {
        let done = queue.status().await.unwrap().last_day.get("done").copied().unwrap_or(0);
        if done == payloads.len() as u64 {
            break;
        }
        assert!(start.elapsed() < TIMEOUT, "only {done} of {} are done", payloads.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = start.elapsed();
    phases.advance(Phase::Draining);
    running.await.unwrap();
    println!(
        "inbox to report          {:.0} pairs/s   ({} pairs, {slots} slots, {:.2} s)",
        payloads.len() as f64 / took.as_secs_f64(),
        payloads.len(),
        took.as_secs_f64()
    );
}
