//! Ours and the peer in turn, on one Redis: no-op jobs, so many hands in one process, as fast as each can.
//!
//! Both enqueue the same number of jobs in batches of 100, then one process works until none is left; the rate is that
//! between the first completion and the last. Ours is claimed as `worker/` claims: one call for all permits that are
//! free, and each job a task of its own that settles it and only then gives its permit back. In turn, because a machine is never twice the same.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use wm_analyzer::job::report::{Annotation, Diffs, Report};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::queue::{CLAIM_MOST, Claim, WorkerId};
use wm_testbed::redis::PrivateRedis;
use wm_testbed::roles::Roles;

use super::{config, fill, per_second};

/// What one side did in one round, per second.
struct Rates {
    enqueue: u64,
    process: u64,
}

/// Runs `rounds` of both and prints each, then the medians, and that of the ratios.
pub(super) async fn compare(redis: &PrivateRedis, jobs: usize, hands: usize, rounds: usize) {
    let peer = build();
    let mut all = (Vec::new(), Vec::new());
    for round in 0..rounds {
        flush(redis).await;
        let ours = ours(redis, jobs, hands).await;
        flush(redis).await;
        let theirs = theirs(&peer, &redis.url(), jobs, hands);
        println!(
            "{{\"round\":{round},\"jobs\":{jobs},\"hands\":{hands},\"ours_per_s\":{},\"peer_per_s\":{},\
             \"ours_enqueue_per_s\":{},\"peer_enqueue_per_s\":{}}}",
            ours.process, theirs.process, ours.enqueue, theirs.enqueue
        );
        all.0.push(ours.process);
        all.1.push(theirs.process);
    }
    // Round by round, because the two of a round share the machine's mood.
    let mut ratios: Vec<u64> =
        all.0.iter().zip(&all.1).map(|(ours, theirs)| ours * 100 / (*theirs).max(1)).collect();
    let (ours, theirs, ratio) = (median(&mut all.0), median(&mut all.1), median(&mut ratios));
    println!("{{\"ours_per_s\":{ours},\"peer_per_s\":{theirs},\"ratio\":{:.2}}}", ratio as f64 / 100.0);
}

fn build() -> std::path::PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = here.join("target/peer");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(here.join("benches/peer/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .unwrap();
    assert!(built.success(), "the peer does not build");
    target.join("release/queue-peer")
}

fn theirs(peer: &Path, url: &str, jobs: usize, hands: usize) -> Rates {
    let output = Command::new(peer).args([url, &jobs.to_string(), &hands.to_string()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [enqueue, process, completed] = numbers[..] else { panic!("{text:?}") };
    Rates {
        enqueue: per_second(jobs, Duration::from_secs_f64(enqueue)),
        process: per_second(completed as usize, Duration::from_secs_f64(process)),
    }
}

async fn ours(redis: &PrivateRedis, jobs: usize, hands: usize) -> Rates {
    let queue = Roles::connect(&config(&redis.url())).await.unwrap();
    let start = Instant::now();
    fill(&queue, jobs).await;
    let enqueue = per_second(jobs, start.elapsed());

    let (tell, mut completed) = mpsc::unbounded_channel();
    let working = tokio::spawn(work(queue.clone(), hands, tell));
    // On the workers' threads, as with the peer: waking the main one for every job would be what is measured.
    let counting = tokio::spawn(async move {
        let mut times = Vec::with_capacity(jobs);
        while let Some(at) = completed.recv().await {
            times.push(at);
        }
        times
    });
    working.await.unwrap();
    let times = counting.await.unwrap();
    assert_eq!(times.len(), jobs, "each once");
    let span = times.iter().max().unwrap().duration_since(*times.iter().min().unwrap());
    Rates { enqueue, process: per_second(jobs - 1, span) }
}

/// The worker's loop, with a report instead of a child.
async fn work(queue: Roles, hands: usize, tell: mpsc::UnboundedSender<Instant>) {
    let worker = WorkerId::fresh("bench");
    let permits = Arc::new(Semaphore::new(hands));
    loop {
        let mut slots = vec![Arc::clone(&permits).acquire_owned().await.unwrap()];
        while slots.len() < CLAIM_MOST
            && let Ok(slot) = Arc::clone(&permits).try_acquire_owned()
        {
            slots.push(slot);
        }
        let claims = queue.worker.claim_many(&worker, slots.len()).await.unwrap();
        slots.truncate(claims.len());
        for (claim, slot) in claims.into_iter().zip(slots) {
            let Claim::Delivery(delivery) = claim else { return };
            let (queue, tell) = (queue.clone(), tell.clone());
            tokio::spawn(async move {
                let verdict = Verdict::Done(Box::new(report(&delivery.job)));
                let _ = queue.worker.settle(*delivery, verdict).await.unwrap();
                let _ = tell.send(Instant::now());
                drop(slot);
            });
        }
    }
}

fn report(job: &Job) -> Report {
    Report {
        schema_version: 1,
        analysis_version: 1,
        from: job.from.given().map(VersionRef::uuid).unwrap_or_default(),
        to: job.to.uuid(),
        page: None,
        annotation: Annotation { text: None, source: None, links: None, priority: 0.5 },
        diffs: Diffs::default(),
        approximate: false,
        missing: Vec::new(),
        passages: Vec::new(),
        omitted: Vec::new(),
        bodies: Vec::new(),
        timings: None,
        measured: None,
    }
}

async fn flush(redis: &PrivateRedis) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut eye = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").arg("SYNC").query_async::<()>(&mut eye).await.unwrap();
}

fn median(rates: &mut [u64]) -> u64 {
    rates.sort_unstable();
    rates[rates.len() / 2]
}
