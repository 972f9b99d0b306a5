//! Each limit, from both sides: what fits passes, what does not is stopped, and by how much it overshot.

use std::time::{Duration, Instant};

use wm_analyzer::job::LimitsRequest;
use wm_analyzer::job::failure::Failure;
use wm_analyzer::job::failure::FailureKind::*;
use wm_analyzer::sandbox::{Limits, Pool, Reply, Request, Slot};

use crate::harness::*;

#[tokio::test]
async fn a_heap_is_stopped_at_its_budget_and_its_process_hardly_beyond() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let limits = Limits { heap_bytes: 128 * MIB, ..generous_limits() };
    let budget = limits.heap_bytes as f64;
    // A vector that doubles needs the old and the new one at once, so it is stopped early.
    for (pattern, at_least) in
        [("tiny", 0.99), ("small", 0.99), ("mixed", 0.99), ("chunks", 0.99), ("doubling", 0.48)]
    {
        let (kind, measured) = failure_of(&mut slot, &format!("{pattern} 1000000000"), limits).await;
        assert_eq!(kind, MemoryExceeded);
        let (peak, resident) = (measured.peak_heap_bytes as f64, measured.max_rss_bytes);
        assert!(peak >= at_least * budget && peak <= budget, "{pattern}: {measured:?}");
        assert!(resident as f64 <= 1.05 * budget + 16.0 * MIB as f64, "{pattern}: {measured:?}");
    }
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn what_fits_into_the_budget_is_had_again_and_again() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let almost = limits().heap_bytes - MIB;
    assert_eq!(number_from(&mut slot, &format!("alloc {almost}")).await, 0);
    assert_eq!(number_from(&mut slot, "frees 2000").await, 0, "what is freed is not charged any more");
    let (kind, _) = failure_of(&mut slot, &format!("alloc {}", limits().heap_bytes), limits()).await;
    assert_eq!(kind, MemoryExceeded);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn both_bodies_count_as_heap() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let body = vec![b'x'; 4 << 20];
    let request = || Request { a: body.clone(), b: body.clone(), ..act("diff") };
    let reply = slot.run(request(), generous_limits()).await.unwrap();
    assert!(reply.measured.peak_heap_bytes >= 8 * MIB, "{:?}", reply.measured);
    let tight = generous_limits().lowered(LimitsRequest { wall_ms: None, heap_bytes: Some(7 * MIB) });
    let refused = slot.run(request(), tight).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind, MemoryExceeded);
    assert_eq!(refused.measured.unwrap().limits, Some(tight.effective()));
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn the_largest_allowed_bodies_pass_unchanged() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let a: Vec<u8> = (0..10_u32 << 20).map(|i| (i * 7 % 251) as u8).collect();
    let b: Vec<u8> = a.iter().rev().copied().collect();
    let roomy = Limits { heap_bytes: 256 * MIB, reply_bytes: 32 * MIB, ..generous_limits() };
    let reply = slot.run(Request { a: a.clone(), b: b.clone(), ..act("echo") }, roomy).await.unwrap();
    assert!(reply.product.attachment == [a, b].concat());
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_job_is_killed_at_its_wall_clock_and_not_much_later() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    for act in ["spin", "sleep", "ignore_signals_and_spin"] {
        let began = Instant::now();
        let (kind, measured) = failure_of(&mut slot, act, limits()).await;
        assert_eq!(kind, WallExceeded);
        let wall = limits().wall;
        assert!(began.elapsed() >= wall, "{act} was killed early");
        // What it had to wait for a CPU is not its own.
        let used = measured.wall_ms.saturating_sub(measured.waiting_ms.unwrap_or(0));
        let late = Duration::from_millis(used).saturating_sub(wall);
        assert!(late <= wall / 20 + Duration::from_millis(500), "{act} was killed {late:?} late");
    }
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_wall_kill_tells_a_sleeper_from_a_spinner() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let (_, sleeper) = failure_of(&mut slot, "sleep", limits()).await;
    assert!(sleeper.cpu_ms * 5 < sleeper.limits.unwrap().wall_ms, "{sleeper:?}");
    let (_, spinner) = failure_of(&mut slot, "spin", limits()).await;
    assert!(spinner.cpu_ms + 50 >= spinner.limits.unwrap().wall_ms, "{spinner:?}");
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn cpu_time_ends_a_job_that_nobody_times() {
    let _process = shared_process().await;
    let pool = pool_with(&config(), 1, &["job_filter", "check"]).await;
    let mut slot = pool.acquire().await;
    let (kind, measured) = failure_of(&mut slot, "lower_cpu_and_spin", generous_limits()).await;
    assert_eq!(kind, CpuExceeded, "{measured:?}");
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_reply_may_be_as_large_as_its_cap_and_no_larger() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let cap = limits().reply_bytes;
    let reply = slot.run(act(&format!("of_size {cap}")), generous_limits()).await.unwrap();
    assert_eq!(reply.product.attachment.len() as u64, cap);
    assert_eq!(
        failure_of(&mut slot, &format!("of_size {}", cap + 1), generous_limits()).await.0,
        ReplyTooLarge
    );
    let body = vec![b'x'; usize::try_from(cap).unwrap() + 1];
    let honest =
        slot.run(Request { a: body, ..act("echo") }, generous_limits()).await.map(|_| ()).unwrap_err();
    assert_eq!(honest.kind, ReplyTooLarge, "{}", honest.detail);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_smaller_stack_overflows_sooner() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let mut resident_at = async |stack_bytes| {
        let (kind, measured) =
            failure_of(&mut slot, "overflow", Limits { stack_bytes, ..generous_limits() }).await;
        assert_eq!(kind, StackOverflow);
        measured.max_rss_bytes
    };
    let (small, large) = (resident_at(MIB).await, resident_at(8 * MIB).await);
    assert!(small + 6 * MIB < large, "{small} and {large} bytes resident");
    drop(slot);
    pool.shutdown().await;
}

/// Two slots with room for just two jobs of the usual size.
async fn pool_with_room_for_two() -> Pool {
    Pool::start_with_memory(&config(), 2, 2 * limits().address_space_limit_bytes(), PROGRAM.into())
        .await
        .unwrap()
}

/// A job that holds its room until it is let go.
async fn slot_after_job(pool: &Pool) -> Slot {
    let mut slot = pool.acquire().await;
    run_good_job(&mut slot).await.unwrap();
    slot
}

/// Runs an act that needs more than one slot's room.
fn spawn_large_job(pool: &Pool, name: &'static str) -> tokio::task::JoinHandle<Result<Reply, Failure>> {
    let pool = pool.clone();
    let limits = Limits { heap_bytes: 100 * MIB, ..generous_limits() };
    tokio::spawn(async move { pool.acquire().await.run(act(name), limits).await })
}

#[tokio::test]
async fn a_job_that_was_granted_more_memory_waits_until_it_is_free_and_is_not_overtaken() {
    let _process = shared_process().await;
    let pool = pool_with_room_for_two().await;
    let first = slot_after_job(&pool).await;
    let waiting = spawn_large_job(&pool, "own_pid");
    wait_until("it has the other slot", || pool.stats().busy == 2).await;
    let second = tokio::spawn({
        let pool = pool.clone();
        async move { run_good_job(&mut pool.acquire().await).await.is_ok() }
    });
    // Jobs enough on a pool with room, for it to have run long since if it did not wait.
    let elsewhere = pool_with(&config(), 1, &[]).await;
    for _ in 0..50 {
        run_good_job(&mut elsewhere.acquire().await).await.unwrap();
    }
    assert!(!waiting.is_finished() && !second.is_finished());
    assert_eq!(pool.stats().jobs, 1, "only the first one ever began");
    drop(first);
    waiting.await.unwrap().unwrap();
    assert!(second.await.unwrap());
    assert_eq!(pool.stats().busy, 0);
    pool.shutdown().await;
    elsewhere.shutdown().await;
}

#[tokio::test]
async fn large_jobs_do_not_wait_for_each_other_and_run_one_at_a_time() {
    let _process = shared_process().await;
    let pool = pool_with_room_for_two().await;
    let began = Instant::now();
    let jobs: Vec<_> = (0..6).map(|_| spawn_large_job(&pool, "spin 50")).collect();
    for job in jobs {
        let ended = tokio::time::timeout(Duration::from_secs(60), job).await;
        ended.expect("two that wait for each other wait for ever").unwrap().unwrap();
    }
    assert!(
        began.elapsed() >= Duration::from_millis(6 * 50),
        "two had the room of one: {:?}",
        began.elapsed()
    );
    pool.shutdown().await;
}

#[tokio::test]
async fn a_job_for_which_there_is_never_room_is_told_so_and_begins_nothing() {
    let _process = shared_process().await;
    let pool = pool_with_room_for_two().await;
    let mut slot = pool.acquire().await;
    let limits = Limits { heap_bytes: 512 * MIB, ..generous_limits() };
    let failure = slot.run(act("echo"), limits).await.map(|_| ()).unwrap_err();
    assert_eq!(failure.kind, Stranded);
    assert!(failure.detail.contains("704 MiB") && failure.detail.contains("288 MiB"), "{}", failure.detail);
    assert_eq!(pool.stats().jobs, 0);
    run_good_job(&mut slot).await.unwrap();
    drop(slot);
    pool.shutdown().await;
}
