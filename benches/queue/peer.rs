//! Ours and the peer in turn, on one Redis: no-op jobs, so many hands in one process, as fast as each can.
//!
//! Both get the same number of jobs in batches of 100, then one process works until none is left; the rate is that
//! between the first completion and the last. Ours goes the whole way that a job goes in production: pushed to the inbox,
//! admitted by a looker while the others work, claimed (one call for all hands that are free, once a quarter of them is,
//! as `policy/claim_ahead.rs` does), started, put into a child once a slot is free, and settled, after the slot was given
//! on, by a task of its own that only then gives its hand back. In turn, because a machine is never twice the same. Redis
//! time is that of its process, system calls included, between the first push and the end.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use url::Url;
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::report::{Annotation, Report};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, VersionRef};
use wm_analyzer::queue::{CLAIM_MOST, Claim, Config, Delivery, StartPermit, WorkerId};
use wm_testbed::redis::PrivateRedis;
use wm_testbed::roles::Roles;

use super::{config, job, per_second};

/// Jobs per push, as the peer enqueues them.
const BATCH: usize = 100;
/// Hosts that the jobs visit: so many that none is ever full.
const HOSTS: usize = 1_000;

/// What both sides do in one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Jobs to work off.
    pub(super) jobs: usize,
    /// Jobs in flight at once.
    pub(super) hands: usize,
    /// Of these, at most so many in a child; the peer knows no such thing.
    pub(super) slots: usize,
}

/// What one side did in one round: jobs per second, and microseconds of Redis for each.
struct Rates {
    enqueue: u64,
    process: u64,
    redis_us: u64,
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { enqueue, process, redis_us } = self;
        write!(f, "{{\"enqueue_per_s\":{enqueue},\"per_s\":{process},\"redis_us_per_job\":{redis_us}}}")
    }
}

/// Runs `rounds` of ours and, `beside` it, of the peer; prints each, then the medians, and that of the ratios.
pub(super) async fn measure(redis: &PrivateRedis, load: Load, rounds: usize, beside: bool) {
    let peer = beside.then(build);
    let mut all = (Vec::new(), Vec::new());
    let Load { jobs, hands, slots } = load;
    for round in 0..rounds {
        flush(redis).await;
        let ours = ours(redis, load).await;
        println!("{{\"round\":{round},\"jobs\":{jobs},\"hands\":{hands},\"slots\":{slots},\"ours\":{ours}}}");
        all.0.push(ours.process);
        if let Some(peer) = &peer {
            flush(redis).await;
            let theirs = theirs(peer, redis, jobs, hands).await;
            println!("{{\"round\":{round},\"peer\":{theirs}}}");
            all.1.push(theirs.process);
        }
    }
    // Round by round, because the two of a round share the machine's mood.
    let mut ratios: Vec<u64> =
        all.0.iter().zip(&all.1).map(|(ours, theirs)| ours * 100 / (*theirs).max(1)).collect();
    if beside {
        let (ours, theirs, ratio) = (median(&mut all.0), median(&mut all.1), median(&mut ratios));
        println!("{{\"ours_per_s\":{ours},\"peer_per_s\":{theirs},\"ratio\":{:.2}}}", ratio as f64 / 100.0);
    }
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

async fn theirs(peer: &Path, redis: &PrivateRedis, jobs: usize, hands: usize) -> Rates {
    let before = redis_us(redis).await;
    let args = [redis.url(), jobs.to_string(), hands.to_string()];
    let output = Command::new(peer).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [enqueue, process, completed] = numbers[..] else { panic!("{text:?}") };
    Rates {
        enqueue: per_second(jobs, Duration::from_secs_f64(enqueue)),
        process: per_second(completed as usize, Duration::from_secs_f64(process)),
        redis_us: (redis_us(redis).await - before) / jobs as u64,
    }
}

async fn ours(redis: &PrivateRedis, load: Load) -> Rates {
    let before = redis_us(redis).await;
    let config = Config { host_in_flight_max: 64, ..config(&redis.url()) };
    let queue = Roles::connect(&config).await.unwrap();
    let start = Instant::now();
    push(&queue, load).await;
    let enqueue = per_second(load.jobs, start.elapsed());

    let (tell, mut completed) = mpsc::unbounded_channel();
    let looking = tokio::spawn(look(queue.clone(), load.jobs));
    let working = tokio::spawn(work(queue.clone(), load, tell));
    // On the workers' threads, as with the peer: waking the main one for every job would be what is measured.
    let counting = tokio::spawn(async move {
        let mut times = Vec::with_capacity(load.jobs);
        while let Some(at) = completed.recv().await {
            times.push(at);
        }
        times
    });
    looking.await.unwrap();
    working.await.unwrap();
    let times = counting.await.unwrap();
    assert_eq!(times.len(), load.jobs, "each once");
    let span = times.iter().max().unwrap().duration_since(*times.iter().min().unwrap());
    Rates {
        enqueue,
        process: per_second(load.jobs - 1, span),
        redis_us: (redis_us(redis).await - before) / load.jobs as u64,
    }
}

/// Pushes the jobs to the inbox, as producers do that have no library.
async fn push(queue: &Roles, load: Load) {
    let mut pushing = tokio::task::JoinSet::new();
    for n in 0..load.hands {
        let (queue, share) =
            (queue.clone(), load.jobs / load.hands + usize::from(n < load.jobs % load.hands));
        pushing.spawn(async move {
            for from in (0..share).step_by(BATCH) {
                let batch: Vec<_> = (from..share.min(from + BATCH)).map(|_| job().encode()).collect();
                queue.producer.push(&batch).await.unwrap();
            }
        });
    }
    pushing.join_all().await;
}

/// The looker: admits what was pushed.
async fn look(queue: Roles, jobs: usize) {
    let mut admitted = 0;
    while admitted < jobs as u64 {
        admitted += queue.worker.ingest().await.unwrap().admitted;
    }
}

/// The worker's loop, with a report instead of a fetch and a child.
async fn work(queue: Roles, load: Load, tell: mpsc::UnboundedSender<Instant>) {
    let worker = WorkerId::fresh("bench");
    let (hands, slots) = (Arc::new(Semaphore::new(load.hands)), Arc::new(Semaphore::new(load.slots)));
    let done = Arc::new(AtomicUsize::new(0));
    while done.load(Ordering::Relaxed) < load.jobs {
        let few = (load.hands / 4).max(1);
        let mut several = Arc::clone(&hands).acquire_many_owned(few as u32).await.unwrap();
        let mut free: Vec<_> = (0..few).filter_map(|_| several.split(1)).collect();
        while free.len() < CLAIM_MOST
            && let Ok(hand) = Arc::clone(&hands).try_acquire_owned()
        {
            free.push(hand);
        }
        let claims = queue.worker.claim_many(&worker, free.len()).await.unwrap();
        if let [Claim::Empty] = claims[..] {
            drop(free);
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        for (claim, hand) in claims.into_iter().zip(free) {
            let Claim::Delivery(delivery) = claim else { panic!("{claim:?}") };
            let (queue, tell, slots, done) =
                (queue.clone(), tell.clone(), Arc::clone(&slots), Arc::clone(&done));
            tokio::spawn(async move {
                analyse(&queue, *delivery, &slots).await;
                done.fetch_add(1, Ordering::Relaxed);
                let _ = tell.send(Instant::now());
                drop(hand);
            });
        }
    }
}

/// What a job costs the queue once it is claimed.
async fn analyse(queue: &Roles, delivery: Delivery, slots: &Semaphore) {
    let lease = delivery.lease();
    let permit = queue.worker.start(&lease, &pair(&delivery.job)).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    let slot = slots.acquire().await.unwrap();
    assert!(queue.worker.enter_child(&lease).await.unwrap(), "lost");
    drop(slot);
    let verdict = Verdict::Done(Box::new(report(&delivery.job)));
    let _ = queue.worker.settle(delivery, verdict).await.unwrap();
}

/// Two versions at one of the hosts.
fn pair(job: &Job) -> PagePair {
    let to = job.to.uuid();
    let host = to.as_u128() as usize % HOSTS;
    let version = |side| Version::at(to, Url::parse(&format!("http://h{host}.test/{to}/{side}")).unwrap());
    PagePair { page: None, from: version("from"), to: version("to"), from_is_earliest: false }
}

fn report(job: &Job) -> Report {
    let from = job.from.given().map(VersionRef::uuid).unwrap_or_default();
    Report {
        annotation: Annotation { priority: 0.5, ..Annotation::default() },
        ..Report::of_pair(from, job.to.uuid())
    }
}

async fn flush(redis: &PrivateRedis) {
    redis::cmd("FLUSHALL").arg("SYNC").query_async::<()>(&mut eye(redis).await).await.unwrap();
}

/// Microseconds of CPU that Redis has used.
async fn redis_us(redis: &PrivateRedis) -> u64 {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut eye(redis).await).await.unwrap();
    let seconds = |name: &str| -> f64 {
        info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    ((seconds("used_cpu_user:") + seconds("used_cpu_sys:")) * 1e6) as u64
}

async fn eye(redis: &PrivateRedis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

fn median(rates: &mut [u64]) -> u64 {
    rates.sort_unstable();
    rates[rates.len() / 2]
}
