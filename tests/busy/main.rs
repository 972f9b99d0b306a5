//! A busy machine, and a container with a tenth of a CPU: no honest pair is called poison or run twice for it, and
//! the worker takes fewer jobs at a time.
//!
//! A binary of its own: its neighbours would disturb whatever ran beside it. The short forms run with the others;
//! `cargo test --test busy -- --ignored` runs 100 pairs.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]
#![expect(clippy::print_stdout, reason = "what was measured, and what this machine does not allow")]

#[path = "../it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests of it/, which use more of it")]
mod harness;

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use wm_analyzer::job::Job;
use wm_analyzer::queue::WorkerStatus;
use wm_testbed::body::Body;
use wm_testbed::busy_loops::BusyLoops;
use wm_testbed::cgroup::LimitedCgroup;
use wm_testbed::pages;

use crate::harness::{Worker, World, until};

/// One machine, so one test at a time.
static MACHINE: Mutex<()> = Mutex::const_new(());
/// 40 on a machine with two CPUs.
const LOOPS_PER_CPU: usize = 20;
/// The longest that 100 pairs may take at a twentieth of a CPU.
const LONG: Duration = Duration::from_secs(3600);

/// Sizes of pages in bytes, for 5 to 800 ms of CPU in an optimised build.
const SIZES: [usize; 6] = [20_000, 100_000, 300_000, 1_000_000, 3_000_000, 8_000_000];

/// So many pairs. Of a few, most are small: a large one takes 16 s at a twentieth of a CPU.
fn pairs(world: &World, count: usize) -> Vec<Job> {
    let size = |n: usize| if count < 20 && n > 0 { SIZES[n % 4] } else { SIZES[5 - n % 6] };
    let one = |n| {
        let (from, to) = pages::pair(n as u64, size(n));
        world.bodies(&format!("pair-{n}"), Body::html(from), Body::html(to))
    };
    (0..count).map(one).collect()
}

/// Whether `status` says that the worker takes one job at a time, and the gauge too.
async fn takes_one_at_a_time(world: &World, worker: &Worker) -> bool {
    let status = world.queue.status().await.unwrap();
    let limited = |seen: &WorkerStatus| seen.info.slots_limit < seen.info.slots;
    status.workers.iter().any(limited)
        && worker.metric("worker_slots_limit").await == 1.0
        && world.run(&["status"]).await.stdout.contains("takes 1 of 2 at a time: busy machine (")
}

/// Sends so many honest pairs to a worker, and asserts that each is done in one run, and that it takes fewer at a time.
async fn assert_all_done_in_one_run(world: &World, worker: &Worker, count: usize) {
    let jobs = pairs(world, count);
    let began = Instant::now();
    world.send(&jobs).await;
    let ended = async || {
        let status = world.queue.status().await.unwrap();
        status.inbox + status.backlog() + status.in_flight == 0
    };
    let mut took_fewer = None;
    while !ended().await {
        assert!(began.elapsed() < LONG);
        if took_fewer.is_none() && takes_one_at_a_time(world, worker).await {
            took_fewer = Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let [wall, count_done] = ["child_wall_seconds_sum", "child_wall_seconds_count"];
    let wall = worker.metric(wall).await;
    println!(
        "{count} pairs in {:?}, of which in children {wall:.1} s; one at a time after {took_fewer:?}",
        began.elapsed()
    );
    assert_eq!(world.dead().await.len(), 0);
    assert_eq!(worker.metric(count_done).await, count as f64);
    for line in worker.log_lines("failed, will retry") {
        println!("{line}");
    }
    for job in &jobs {
        // The site is as starved as its visitor: a body may have to be fetched again.
        let mut events = world.job_events(&job.id).await;
        events.retain(|event| event != "retried");
        assert_eq!(events, ["done"], "{}", job.id);
    }
    assert!(took_fewer.is_some(), "it never took fewer at a time");
}

async fn beside_busy_loops(count: usize) {
    let _machine = MACHINE.lock().await;
    let world = World::new().await;
    let worker = world.worker();
    worker.until_logged("working").await;
    let neighbours = BusyLoops::start(LOOPS_PER_CPU);
    assert_all_done_in_one_run(&world, &worker, count).await;
    drop(neighbours);
    until("it uses all slots again", async || worker.metric("worker_slots_limit").await == 2.0).await;
    worker.until_logged("the machine has room again: using all slots").await;
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["0 of 2 slots busy  "]);
}

async fn under_a_quota(count: usize) {
    let _machine = MACHINE.lock().await;
    let world = World::new().await;
    let cgroup = match LimitedCgroup::make(None, 0.1) {
        Ok(cgroup) => cgroup,
        Err(why) => return println!("SKIPPED: no writable cgroup: {why}"),
    };
    let worker = cgroup.inside(|| world.worker()).unwrap();
    worker.until_logged("working").await;
    assert_all_done_in_one_run(&world, &worker, count).await;
    worker.stop().await;
}

#[tokio::test]
async fn beside_40_busy_loops_honest_pairs_are_done_each_in_one_run() {
    beside_busy_loops(12).await;
}

#[tokio::test]
async fn with_a_tenth_of_a_cpu_honest_pairs_are_done_each_in_one_run() {
    under_a_quota(12).await;
}

/// Sixty pairs of every shape that a diff treats differently: edited, unrelated, periodic, without any line.
fn shapes(world: &World) -> Vec<Job> {
    let one = |n: usize| {
        let (edited, other) = (pages::pair(n as u64, 2_000 + 1_500 * n), pages::pair(1_000, 40_000).0);
        let (from, to) = match n {
            0..50 => edited,
            50..54 => (edited.0, other),
            54..57 => ("ab ".repeat(20_000 + n).into(), "ba ".repeat(20_000).into()),
            _ => (
                "<b>0</b>".repeat(9_000 + n).into(),
                ("<b>0</b>".repeat(8_000) + &"<i>1</i>".repeat(n)).into(),
            ),
        };
        world.bodies(&format!("shape-{n}"), Body::html(from), Body::html(to))
    };
    (0..60).map(one).collect()
}

/// What is said of each pair, by a worker that has the queue of this world to itself.
async fn findings(world: &World, jobs: &[Job], worker: Worker) -> Vec<serde_json::Value> {
    worker.until_logged("working").await;
    world.send(jobs).await;
    let mut found = Vec::new();
    for job in jobs {
        let began = Instant::now();
        while world.job_events(&job.id).await.iter().all(|event| event != "done") {
            assert!(began.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let report = world.report(job).await.unwrap();
        found.push(serde_json::json!([report["annotation"], report["changes"], report["approximate"]]));
    }
    worker.stop().await;
    found
}

#[tokio::test]
async fn what_is_said_of_sixty_pairs_is_the_same_alone_beside_40_busy_loops_and_with_a_tenth_of_a_cpu() {
    let _machine = MACHINE.lock().await;
    let world = World::new().await;
    let alone = findings(&world, &shapes(&world), world.worker()).await;
    let world = World::new().await;
    let neighbours = BusyLoops::start(LOOPS_PER_CPU);
    assert_eq!(findings(&world, &shapes(&world), world.worker()).await, alone, "beside busy loops");
    drop(neighbours);
    let world = World::new().await;
    match LimitedCgroup::make(None, 0.1) {
        Ok(cgroup) => {
            let worker = cgroup.inside(|| world.worker()).unwrap();
            assert_eq!(findings(&world, &shapes(&world), worker).await, alone, "with a quota");
        }
        Err(why) => println!("SKIPPED: no writable cgroup: {why}"),
    }
}

#[tokio::test]
#[ignore = "minutes: the long form of the test above"]
async fn beside_40_busy_loops_100_honest_pairs_are_done_each_in_one_run() {
    beside_busy_loops(100).await;
}

#[tokio::test]
#[ignore = "minutes: the long form of the test above"]
async fn with_a_tenth_of_a_cpu_100_honest_pairs_are_done_each_in_one_run() {
    under_a_quota(100).await;
}
