//! The life of slots, fork-servers and jobs: dropped, killed, stopped, shut down.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wm_analyzer::job::failure::FailureKind::*;
use wm_analyzer::sandbox::{Config, Isolation, Limits, Pool};

use crate::harness::*;

#[tokio::test]
async fn a_dropped_job_is_killed_and_its_slot_serves_on() {
    let _process = exclusive_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    for patience in [0, 1, 2, 5, 20] {
        let dropped =
            tokio::time::timeout(Duration::from_millis(patience), slot.run(act("spin"), generous_limits()))
                .await;
        assert!(dropped.is_err(), "it spins");
        wait_until("the job is gone though nobody asks", || descendants(fork_server).is_empty()).await;
        run_good_job(&mut slot).await.unwrap();
    }
    assert_eq!(fork_server_pid(&mut slot).await, fork_server, "never was more than the job killed");
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_dropped_job_that_ignores_signals_is_killed_too() {
    let _process = shared_process().await;
    for without in [&[][..], &["pidfd"]] {
        let pool = pool_with(&config(), 1, without).await;
        let mut slot = pool.acquire().await;
        let job = slot.run(act("ignore_signals_and_spin"), generous_limits());
        assert!(tokio::time::timeout(Duration::from_millis(50), job).await.is_err());
        run_good_job(&mut slot).await.unwrap();
        assert_eq!(pool.stats().respawned, 0);
        drop(slot);
        pool.shutdown().await;
    }
}

#[tokio::test]
async fn a_slot_dropped_with_its_job_is_handed_on_clean() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    for _ in 0..20 {
        let mut slot = pool.acquire().await;
        let _ =
            tokio::time::timeout(Duration::from_millis(3), slot.run(act("spin"), generous_limits())).await;
        drop(slot);
        let mut next = pool.acquire().await;
        run_good_job(&mut next).await.unwrap();
    }
    assert_eq!(pool.stats().respawned, 0);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_slot_is_waited_for_and_counted() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let slot = pool.acquire().await;
    assert!(pool.try_acquire().is_none());
    assert_eq!((pool.stats().slots, pool.stats().busy), (1, 1));
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { run_good_job(&mut pool.acquire().await).await.is_ok() }
    });
    drop(slot);
    assert!(waiting.await.unwrap());
    assert_eq!((pool.stats().busy, pool.stats().jobs), (0, 1));
    pool.shutdown().await;
}

#[tokio::test]
async fn below_a_limit_slots_are_given_out_again_only_once_enough_jobs_have_ended() {
    let _process = shared_process().await;
    let pool = pool(3).await;
    let mut slots = vec![pool.acquire().await, pool.acquire().await, pool.acquire().await];
    pool.limit_to(1);
    assert_eq!((pool.stats().limit, pool.stats().busy), (1, 3), "no job is ended");
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await }
    });
    tokio::task::yield_now().await;
    for left in [2, 1] {
        slots.pop();
        tokio::task::yield_now().await;
        assert_eq!((waiting.is_finished(), pool.stats().busy), (false, left));
    }
    slots.pop();
    let mut next = waiting.await.unwrap();
    assert!(pool.try_acquire().is_none(), "one at a time");
    run_good_job(&mut next).await.unwrap();
    pool.limit_to(2);
    let second = pool.try_acquire().expect("two at a time");
    assert!(pool.try_acquire().is_none());
    pool.limit_to(9);
    let third = pool.try_acquire().expect("all of them");
    assert_eq!((pool.stats().limit, pool.stats().busy, pool.stats().respawned), (3, 3, 0));
    drop([next, second, third]);
    assert_eq!(pool.stats().busy, 0);
    pool.limit_to(0);
    assert_eq!((pool.stats().limit, pool.stats().busy), (1, 0), "at least one");
    run_good_job(&mut pool.try_acquire().unwrap()).await.unwrap();
    let began = Instant::now();
    pool.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it waited for slots that nobody has");
}

#[tokio::test]
async fn a_slot_that_is_given_up_while_it_waits_for_memory_keeps_to_the_limit() {
    let _process = shared_process().await;
    let room_for_one = limits().address_space_limit_bytes();
    let pool = Pool::start_with_memory(&config(), 2, 2 * room_for_one, PROGRAM.into()).await.unwrap();
    let mut large = pool.acquire().await;
    let grown = Limits { heap_bytes: 100 * MIB, ..generous_limits() };
    large.run(act("echo"), grown).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(50), pool.acquire()).await;
    assert!(waits.is_err(), "the large job has its memory");
    pool.limit_to(1);
    let waits = tokio::time::timeout(Duration::from_millis(50), pool.acquire()).await;
    assert!(waits.is_err() && pool.stats().busy == 1);
    drop(large);
    let _one = pool.try_acquire().unwrap();
    assert!(pool.try_acquire().is_none());
}

#[tokio::test]
async fn a_fork_server_that_died_idle_costs_no_job() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    signal(fork_server, Signal::KILL);
    wait_until("it is dead", || !is_alive(fork_server)).await;
    run_good_job(&mut slot).await.unwrap();
    assert_eq!(pool.stats().respawned, 1);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_fork_server_that_dies_at_work_takes_its_job_along_and_is_replaced() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    let (lost, job) = tokio::join!(slot.run(act("spin"), generous_limits()), async {
        let mut job = None;
        wait_until("the job runs", || {
            job = descendants(fork_server).first().copied();
            job.is_some()
        })
        .await;
        signal(fork_server, Signal::KILL);
        job.unwrap()
    });
    let lost = lost.map(|_| ()).unwrap_err();
    assert_eq!(lost.kind, ForkServerLost, "{}", lost.detail);
    assert!(lost.measured.is_some());
    wait_until("the job is gone too", || !is_alive(job)).await;
    run_good_job(&mut slot).await.unwrap();
    drop(slot);
    pool.shutdown().await;
}

/// In a container without an init the worker is process 1, to whom orphans fall.
#[tokio::test]
async fn a_worker_that_inherits_orphans_keeps_no_zombie() {
    let _process = exclusive_process().await;
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).unwrap();
    let before = ProcessResources::current().descendants;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    let (lost, ()) = tokio::join!(slot.run(act("spin"), generous_limits()), async {
        wait_until("the job runs", || !descendants(fork_server).is_empty()).await;
        signal(fork_server, Signal::KILL);
    });
    assert_eq!(lost.map(|_| ()).unwrap_err().kind, ForkServerLost);
    assert!(
        ProcessResources::current().descendants.is_subset(&before),
        "fork-server and job are gone, and collected"
    );
    drop(slot);
    pool.shutdown().await;
    rustix::process::set_child_subreaper(None).unwrap();
}

#[tokio::test]
async fn a_fork_server_that_hangs_is_given_up_with_its_job() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    signal(fork_server, Signal::STOP);
    let limits = Limits { wall: Duration::from_millis(50), ..limits() };
    let (kind, measured) = failure_of(&mut slot, "spin", limits).await;
    assert_eq!(kind, ForkServerLost);
    assert!(Duration::from_millis(measured.wall_ms) >= limits.hard_ceiling(), "{measured:?}");
    wait_until("it is gone", || !is_alive(fork_server)).await;
    run_good_job(&mut slot).await.unwrap();
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_leaves_no_child_and_refuses_what_comes_after() {
    let _process = exclusive_process().await;
    let before = ProcessResources::current().descendants;
    let pool = pool(3).await;
    assert_eq!(ProcessResources::current().descendants.difference(&before).count(), 3);
    let mut slot = pool.acquire().await;
    let _ = tokio::time::timeout(Duration::from_millis(5), slot.run(act("spin"), generous_limits())).await;
    drop(slot);
    pool.shutdown().await;
    assert!(ProcessResources::current().descendants.is_subset(&before));
    let mut late = pool.acquire().await;
    assert_eq!(run_good_job(&mut late).await.map(|_| ()).unwrap_err().kind, CannotSpawn);
    assert!(ProcessResources::current().descendants.is_subset(&before));
}

#[tokio::test]
async fn a_pool_that_is_only_dropped_leaves_no_child_either() {
    let _process = exclusive_process().await;
    let before = ProcessResources::current().descendants;
    let pool = pool(2).await;
    drop(pool);
    wait_until("the fork-servers are gone and collected", || {
        ProcessResources::current().descendants.is_subset(&before)
    })
    .await;
}

#[tokio::test]
async fn what_is_not_our_program_does_not_start() {
    let _process = shared_process().await;
    for (program, says) in [("/nonexistent", "did not start"), ("/bin/true", "without a hello")] {
        let failure = Pool::start(&config(), 1, program.into()).await.map(|_| ()).unwrap_err();
        assert_eq!(failure.kind, CannotSpawn);
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_fork_server_of_another_build_is_refused() {
    let _process = shared_process().await;
    let refused = Pool::start_with_layers_disabled(&config(), 1, PROGRAM.into(), &["build"])
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.kind, CannotSpawn);
    assert!(refused.detail.contains("of another build"), "{}", refused.detail);
}

/// Run by hand, a fork-server has no worker to serve, and says so where a worker would read it.
#[tokio::test]
async fn a_fork_server_that_cannot_start_says_why() {
    let _process = shared_process().await;
    let fork_server = Command::new(PROGRAM)
        .arg("--internal-fork-server")
        .arg("strict")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(fork_server.status.code(), Some(71));
    assert!(!fork_server.stderr.is_empty() && fork_server.stdout.is_empty(), "{fork_server:?}");
}

#[tokio::test]
async fn a_mode_whose_isolation_layers_are_missing_does_not_start_and_names_them() {
    let _process = shared_process().await;
    let start = async |isolation, without: &[&str]| {
        let config = Config { isolation, ..config() };
        Pool::start_with_layers_disabled(&config, 1, PROGRAM.into(), without)
            .await
            .map(|_| ())
            .map_err(|f| f.detail)
    };
    let no_filter = start(Isolation::BestEffort, &["job_filter"]).await.unwrap_err();
    assert!(no_filter.contains("for want of: seccomp."), "{no_filter}");
    let no_landlock = start(Isolation::Strict, &["landlock"]).await.unwrap_err();
    assert!(no_landlock.contains("for want of: landlock."), "{no_landlock}");
    start(Isolation::BestEffort, &["landlock"]).await.unwrap();
    start(Isolation::Reduced, &["landlock", "job_filter"]).await.unwrap();
}

#[tokio::test]
async fn a_kernel_that_offers_less_is_found_out_by_trying() {
    let _process = shared_process().await;
    let start = async |isolation, kernel: &str| {
        let config = Config { isolation, ..config() };
        Pool::start_with_layers_disabled(&config, 1, PROGRAM.into(), &[kernel]).await.map_err(|f| f.detail)
    };
    let has = |pool: &Pool, layer: &str| pool.isolation().iter().any(|name| name.starts_with(layer));
    // Before Linux 5.13 there is no Landlock: strict refuses, best effort does with seccomp, and says so.
    let refused = start(Isolation::Strict, "kernel_landlock").await.map(|_| ()).unwrap_err();
    assert!(refused.contains("for want of: landlock."), "{refused}");
    let pool = start(Isolation::BestEffort, "kernel_landlock").await.unwrap();
    assert!(has(&pool, "seccomp") && !has(&pool, "landlock"), "{:?}", pool.isolation());
    let mut slot = pool.acquire().await;
    assert_eq!(run_good_job(&mut slot).await.unwrap().measured.isolation, pool.isolation());
    assert_eq!(failure_of(&mut slot, "read_file", generous_limits()).await.0, ForbiddenSyscall);
    drop(slot);
    pool.shutdown().await;
    // Without seccomp only what was asked to make do does.
    for isolation in [Isolation::Strict, Isolation::BestEffort] {
        let refused = start(isolation, "kernel_seccomp").await.map(|_| ()).unwrap_err();
        assert!(refused.contains("for want of: seccomp."), "{refused}");
    }
    let pool = start(Isolation::Reduced, "kernel_seccomp").await.unwrap();
    assert!(!has(&pool, "seccomp") && !has(&pool, "landlock"), "{:?}", pool.isolation());
    run_good_job(&mut pool.acquire().await).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test]
async fn what_every_kernel_has_is_in_force_and_said_of_every_job() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let isolation = pool.isolation();
    for layer in ["seccomp", "rlimits", "heap_budget", "no_new_privs", "unprivileged", "pdeathsig"] {
        assert!(isolation.iter().any(|name| name == layer), "{layer} is not in {isolation:?}");
    }
    let mut slot = pool.acquire().await;
    assert_eq!(run_good_job(&mut slot).await.unwrap().measured.isolation, isolation);
    assert_eq!(failure_of(&mut slot, "null", generous_limits()).await.1.isolation, isolation);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn many_jobs_through_one_fork_server_leave_it_as_it_was() {
    let _process = exclusive_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    let before = ProcessResources::current();
    for _ in 0..2_000 {
        run_good_job(&mut slot).await.unwrap();
    }
    assert!(before.has_no_leak_now(), "{before:?} became {:?}", ProcessResources::current());
    assert_eq!(fork_server_pid(&mut slot).await, fork_server);
    drop(slot);
    pool.shutdown().await;
}

/// `kill -9` of the worker in the middle of a job.
#[tokio::test]
async fn a_worker_that_is_killed_leaves_neither_fork_server_nor_job() {
    let _process = exclusive_process().await; // its child would count as a leak of another test
    let me = std::env::current_exe().unwrap();
    let mut worker = Command::new(me)
        .args(["--exact", "lifecycle::a_worker_to_be_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(worker.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("fork-server ").map(|(_, pid)| pid.to_owned()));
    let fork_server: u32 = said.unwrap().trim().parse().unwrap();
    let mut job = None;
    wait_until("the job runs", || {
        job = descendants(fork_server).first().copied();
        job.is_some()
    })
    .await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    wait_until("both are gone", || !is_alive(fork_server) && !is_alive(job.unwrap())).await;
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn a_worker_to_be_killed() {
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    println!("fork-server {}", fork_server_pid(&mut slot).await);
    let _ = slot.run(act("spin"), generous_limits()).await;
}

#[tokio::test]
async fn what_a_running_job_holds_of_its_heap_can_be_read_from_outside() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let meter = slot.meter();
    assert_eq!(meter.read(), None, "nothing runs");
    let held = 40 * MIB;
    let run = slot.run(act(&format!("resident_then_spin {held}")), generous_limits());
    let read = async {
        wait_until("it holds 40 MiB", || meter.read().is_some_and(|heap| heap.bytes >= held)).await;
        meter.read().unwrap()
    };
    let heap = tokio::select! { ended = run => panic!("{ended:?}"), heap = read => heap };
    assert_eq!(heap.limit_bytes, 64 * MIB);
    assert!((held..held + 8 * MIB).contains(&heap.bytes), "{} MiB", heap.bytes / MIB);
    assert_eq!(meter.read(), None, "it runs no more");
    drop(slot);
    pool.shutdown().await;
}
