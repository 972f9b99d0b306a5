//! The incident of 2018, replayed: three tenths of all jobs are poison, of three kinds and from two hosts, and one
//! worker has 1 GiB and a CPU and a half for all of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, LimitsRequest};
use wm_testbed::body::Body;
use wm_testbed::cgroup::{LimitedCgroup, pss_bytes};
use wm_testbed::pages::{self, Rng};
use wm_testbed::poison;
use wm_testbed::site::Resource;

use crate::harness::{World, job};
use crate::{results, small_pair};

const MEMORY_BYTES: u64 = 1 << 30;
const CPUS: f64 = 1.5;
/// Good pairs that differ; more of them would only be more of the same.
const DISTINCT_PAIRS: u64 = 50;
/// The process beside it does a little work this often.
const BYSTANDER_EVERY: Duration = Duration::from_millis(5);
/// Set where this program is run as the process beside it.
const BYSTANDER: &str = "WM_BYSTANDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_tenths_poison_costs_the_good_jobs_nothing_and_a_few_alerts() {
    replay(400).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute or two of it: the same with ten thousand jobs"]
async fn ten_thousand_jobs_of_which_three_thousand_are_poison() {
    replay(10_000).await;
}

async fn replay(count: usize) {
    let world = World::new().await.with("worker.memory_limit", "1 GiB").with("queue.events_max", "1000000");
    let jobs = jobs(&world, count);
    for batch in jobs.chunks(1_000) {
        world.send(&batch.iter().map(|(job, _)| job.clone()).collect::<Vec<_>>()).await;
    }
    let cgroup = LimitedCgroup::make(Some(MEMORY_BYTES), CPUS);
    let bystander = Bystander::start();
    let begun = Instant::now();
    let worker = match &cgroup {
        Ok(cgroup) => cgroup.inside(|| world.worker()).unwrap(),
        Err(_) => world.worker(),
    };
    let peak = {
        let weighing = async {
            let mut peak = 0;
            loop {
                let pids = [vec![worker.pid()], worker.descendants()].concat();
                peak = peak.max(pss_bytes(&pids));
                assert!(peak < MEMORY_BYTES, "{} MiB", peak >> 20);
                sleep(Duration::from_millis(200)).await;
                if world.queue.status().await.is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0) {
                    return peak;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120 + count as u64 / 10), weighing)
            .await
            .expect("all settled")
    };
    let took = begun.elapsed();
    let beside = bystander.end();
    worker.stop().await;

    let histories = results::collect_histories(&world, jobs.iter().map(|(job, _)| job)).await;
    let (mut ends, mut again): (BTreeMap<String, u32>, u32) = (BTreeMap::new(), 0);
    for (job, expected) in &jobs {
        let history = &histories[&job.id];
        assert_eq!(history.kind, *expected, "{}", job.id);
        assert!(history.runs <= 2, "{}: {} runs", job.id, history.runs);
        again += u32::from(history.runs == 2);
        *ends.entry(expected.map_or("done".to_owned(), |kind| kind.to_string())).or_default() += 1;
    }
    let alerts = world.sentry.alerts();
    let (place, inside) = match &cgroup {
        Ok(cgroup) => ("in a cgroup".to_owned(), cgroup.peak_bytes()),
        Err(why) => (format!("without a cgroup ({why})"), None),
    };
    println!(
        "{count} jobs in {:.1} s {place}: {ends:?}, {again} run twice, {alerts} alerts; at most {} MiB ({:?} MiB by the \
         cgroup); bystander {beside}",
        took.as_secs_f64(),
        peak >> 20,
        inside.map(|bytes| bytes >> 20)
    );
    // At most one for each kind of poison before there are enough for a storm, one for that, and one when it is over.
    assert!((2..=8).contains(&alerts), "{alerts} alerts: {:?}", world.sentry.fingerprints());
}

/// So many jobs in any order, each with the kind of death that is to be its own.
fn jobs(world: &World, count: usize) -> Vec<(Job, Option<FailureKind>)> {
    let good: Vec<(Body, Body)> =
        (0..DISTINCT_PAIRS).map(small_pair).map(|(from, to)| (Body::html(from), Body::html(to))).collect();
    let large = pages::pair(1, 1_500_000);
    let large = (Body::html(large.0), Body::html(large.1));
    let bomb = poison::gzip_bomb(64 << 20);
    let mut rng = Rng::new(2018);
    let mut left = [count * 7 / 10, count / 10, count / 10, count / 10];
    (0..count)
        .map(|n| {
            let mut kind = rng.below(10).saturating_sub(6);
            while left[kind] == 0 {
                kind = (kind + 1) % left.len();
            }
            left[kind] -= 1;
            let host = ["127.0.0.1", "localhost"][n % 2];
            let lower = |wall_ms, heap_bytes| LimitsRequest { wall_ms, heap_bytes };
            let make = |from: &Body, to: &Body, limits| {
                let at = |side: &str, body: &Body| {
                    let mut url = world.site.put(&format!("/job-{n}/{side}"), Resource::from(body.clone()));
                    url.set_host(Some(host)).unwrap();
                    url
                };
                Job { limits, ..job(&format!("job-{n}"), at("from", from), at("to", to)) }
            };
            match kind {
                0 => {
                    let (from, to) = &good[n % good.len()];
                    (make(from, to, lower(None, None)), None)
                }
                1 => (make(&bomb, &good[0].1, lower(None, None)), Some(FailureKind::DecompressionBomb)),
                2 => {
                    (make(&large.0, &large.1, lower(None, Some(2 << 20))), Some(FailureKind::MemoryExceeded))
                }
                _ => (make(&large.0, &large.1, lower(Some(5), None)), Some(FailureKind::WallExceeded)),
            }
        })
        .collect()
}

/// A process beside the worker that wants a little CPU, regularly, and says how long it had to wait for it.
struct Bystander(std::process::Child);

impl Bystander {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "incident::the_process_beside_it", "--ignored", "--nocapture"]);
        command.env(BYSTANDER, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Ends it; what it says.
    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.0.wait().unwrap();
        let line = said.lines().find_map(|line| line.split_once("waited "));
        line.map(|(_, waited)| waited.to_owned()).expect("it says how long it waited")
    }
}

#[test]
#[ignore = "no test: what the others run beside the worker, until its input ends"]
#[expect(clippy::disallowed_methods, reason = "a process of its own, with no runtime to stall")]
fn the_process_beside_it() {
    if std::env::var_os(BYSTANDER).is_none() {
        return;
    }
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let block = vec![7; 64 << 10];
    let mut waits = Vec::new();
    while !ended.is_finished() {
        let due = std::time::Instant::now() + BYSTANDER_EVERY;
        std::thread::sleep(BYSTANDER_EVERY);
        std::hint::black_box(Sha256::digest(&block));
        waits.push(due.elapsed());
    }
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100];
    println!("\nwaited p50 {:?}, p99 {:?}, at most {:?}", at(50), at(99), at(100));
}
