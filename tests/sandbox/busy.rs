//! A busy machine: jobs are not charged for the time in which neighbours have the CPU, and a job that spins or sleeps
//! ends at its limit all the same.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind::*;
use wm_analyzer::sandbox::Limits;
use wm_testbed::busy_loops::BusyLoops;

use crate::harness::*;

fn limits_with_wall(wall_ms: u64) -> Limits {
    Limits { wall: Duration::from_millis(wall_ms), ..limits() }
}

#[tokio::test]
async fn a_job_is_not_charged_for_the_time_in_which_its_neighbours_run() {
    let _process = exclusive_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let _neighbours = BusyLoops::start(20);
    let limits = limits_with_wall(800);
    let measured = slot.run(act("burn 100"), limits).await.unwrap().measured;
    assert!(measured.wall_ms > 800, "the neighbours took nothing, so nothing was shown: {measured:?}");
    assert!(measured.waiting_ms > Some(400), "{measured:?}");
}

#[tokio::test]
async fn a_job_that_hardly_gets_a_cpu_is_starved_and_nobody_calls_it_poison() {
    let _process = exclusive_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let neighbours = BusyLoops::start(40);
    let limits = limits_with_wall(100);
    let (kind, measured) = failure_of(&mut slot, "spin", limits).await;
    assert_eq!(kind, Starved, "{measured:?}");
    assert!(measured.wall_ms >= 1000 && measured.cpu_ms < 100, "{measured:?}");
    drop(neighbours);
    run_good_job(&mut slot).await.unwrap();
}

#[tokio::test]
async fn beside_neighbours_too_a_job_that_spins_or_sleeps_ends_at_its_wall() {
    let _process = exclusive_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let _neighbours = BusyLoops::start(1);
    let limits = limits_with_wall(300);
    for act in ["spin", "sleep"] {
        let (kind, measured) = failure_of(&mut slot, act, limits).await;
        let used = measured.wall_ms.saturating_sub(measured.waiting_ms.unwrap_or(0));
        match kind {
            WallExceeded => assert!((280..=300 + 1000).contains(&used), "{act}: {measured:?}"),
            // Where this machine has other neighbours too.
            Starved => assert!(used < 300 && measured.wall_ms >= 3000, "{act}: {measured:?}"),
            other => panic!("{act}: {other} {measured:?}"),
        }
    }
}
