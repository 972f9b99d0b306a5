//! The abuse matrix: each act gives exactly its kind, and afterwards everything is as before.

use std::time::{Duration, Instant};

use wm_analyzer::job::failure::FailureKind::{self, *};
use wm_analyzer::sandbox::{Config, Isolation, Limits, ProcessModel, Slot};

use crate::harness::*;

/// Acts that end the same however little the kernel offers, with their kind.
const ALWAYS: &[(&str, FailureKind)] = &[
    ("alloc 10000000000", MemoryExceeded),
    ("reserve 10000000000", MemoryExceeded),
    ("small 160000000", MemoryExceeded),
    ("mixed 160000000", MemoryExceeded),
    ("chunks 160000000", MemoryExceeded),
    ("doubling 10000000000", MemoryExceeded),
    ("spin", WallExceeded),
    ("sleep", WallExceeded),
    ("ignore_signals_and_spin", WallExceeded),
    ("complete_then_spin", WallExceeded),
    ("overflow", StackOverflow),
    ("deep_drop 1000000", StackOverflow),
    ("panic 7", Panicked),
    ("panic_hostile", Panicked),
    ("index", Panicked),
    ("no such act", Panicked),
    ("abort", Crashed),
    ("abort_with_message", Crashed),
    ("panic_in_panic", Crashed),
    ("null", Crashed),
    ("garbage", BadReply),
    ("short_header", BadReply),
    ("short_body", BadReply),
    ("extra", BadReply),
    ("endless 100", BadReply),
    ("nothing", BadReply),
    ("close_and_hang", BadReply),
    ("exit 1", BadReply),
    ("complete_then 1", BadReply),
    ("large 1048577", ReplyTooLarge),
    ("large 18446744073709551615", ReplyTooLarge),
    ("endless 1048577", ReplyTooLarge),
    // Codes that mean something to us, forged: a label, and never our fault.
    ("exit 77", MemoryExceeded),
    ("exit 78", StackOverflow),
    ("exit 79", BadReply),
    ("exit 74", BadReply),
    ("complete_then 77", MemoryExceeded),
];

/// Acts that the seccomp filter ends.
const FORBIDDEN: &[&str] = &[
    "kill_self",
    "tgkill_self",
    "kill_parent",
    "fork_bomb 64",
    "thread",
    "socket",
    "read_file",
    "write_file",
    "exec",
    "raise_rlimit",
    "execute_memory",
    "ptrace",
];

/// Only what must run into the wall clock has a near one: on a busy machine the others take their time.
fn limits_for_kind(expected: FailureKind) -> Limits {
    if expected == WallExceeded { limits() } else { generous_limits() }
}

async fn assert_every_act_has_its_kind(slot: &mut Slot) {
    let forbidden = FORBIDDEN.iter().map(|&act| (act, ForbiddenSyscall));
    for (act, expected) in ALWAYS.iter().copied().chain(forbidden) {
        let (kind, measured) = failure_of(slot, act, limits_for_kind(expected)).await;
        assert_eq!(kind, expected, "{act}: {measured:?}");
        assert_eq!(measured.phase.as_deref(), Some("act"), "{act}");
        run_good_job(slot).await.unwrap_or_else(|failure| panic!("after {act}: {failure}"));
    }
}

#[tokio::test]
async fn every_abuse_ends_as_what_it_is_and_leaves_nothing_behind() {
    let _process = exclusive_process().await;
    let before = ProcessResources::current();
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    run_good_job(&mut slot).await.unwrap();
    let (serving, resident_before) = (ProcessResources::current(), resident_bytes());
    assert_every_act_has_its_kind(&mut slot).await;
    assert!(serving.has_no_leak_now(), "{serving:?} became {:?}", ProcessResources::current());
    assert!(
        resident_bytes() < resident_before + 16 * MIB,
        "{resident_before} bytes became {}",
        resident_bytes()
    );
    assert_eq!(pool.stats().respawned, 0, "no abuse reached the fork-server");
    drop(slot);
    pool.shutdown().await;
    assert!(ProcessResources::current().descendants.is_subset(&before.descendants));
}

#[tokio::test]
async fn one_exec_per_job_ends_every_abuse_alike() {
    let _process = shared_process().await;
    let pool = pool_with(&Config { process: ProcessModel::ExecPerJob, ..config() }, 1, &[]).await;
    let mut slot = pool.acquire().await;
    assert_every_act_has_its_kind(&mut slot).await;
    let (first, second) = (fork_server_pid(&mut slot).await, fork_server_pid(&mut slot).await);
    assert_ne!(first, second, "each job has a process of its own to come from");
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn with_limits_only_every_abuse_of_resources_still_ends_as_what_it_is() {
    let _process = shared_process().await;
    let pool = pool_with(&Config { isolation: Isolation::Reduced, ..config() }, 1, &[]).await;
    let isolation = pool.isolation();
    assert!(!isolation.iter().any(|name| name == "seccomp" || name.starts_with("landlock")), "{isolation:?}");
    let mut slot = pool.acquire().await;
    for &(act, expected) in ALWAYS {
        assert_eq!(failure_of(&mut slot, act, limits_for_kind(expected)).await.0, expected, "{act}");
        run_good_job(&mut slot).await.unwrap();
    }
    assert_eq!(number_from(&mut slot, "fork_bomb 64").await, 0, "no process beside its own");
    assert_eq!(number_from(&mut slot, "thread").await, 0, "no thread either");
    assert_eq!(number_from(&mut slot, "write_file").await, -1, "no byte on any disk");
    assert_eq!(pool.stats().respawned, 0);
    // What the missing isolation layers would have stopped, and what is left of it:
    assert_eq!(failure_of(&mut slot, "kill_parent", generous_limits()).await.0, ForkServerLost);
    run_good_job(&mut slot).await.unwrap();
    for _ in 0..50 {
        // Its socket closes a moment before its end is seen: that must not look like a job that hung up on us.
        assert_eq!(failure_of(&mut slot, "kill_self", generous_limits()).await.0, KilledFromOutside);
    }
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn memory_past_the_allocator_ends_at_the_address_space_limit() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let got = u64::try_from(number_from(&mut slot, "mmap 100000").await).unwrap() * MIB;
    assert!(got > 0 && got <= limits().address_space_limit_bytes(), "{got} bytes");
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_harmless_call_that_nobody_needs_fails_and_kills_nobody() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    assert_eq!(number_from(&mut slot, "uname").await, -1);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_hostile_panic_message_is_short_and_whole() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let failure = slot.run(act("panic_hostile"), generous_limits()).await.map(|_| ()).unwrap_err();
    assert!(failure.detail.len() < 2500 && failure.detail.contains("hooks.rs"), "{}", failure.detail);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn good_jobs_beside_poison_all_come_out_right() {
    let _process = shared_process().await;
    let pool = pool(2).await;
    let began = Instant::now();
    let mut jobs = tokio::task::JoinSet::new();
    for i in 0..200 {
        let pool = pool.clone();
        jobs.spawn(async move {
            let mut slot = pool.acquire().await;
            match i % 20 {
                3 => assert_eq!(
                    failure_of(&mut slot, "small 160000000", generous_limits()).await.0,
                    MemoryExceeded
                ),
                9 => assert_eq!(failure_of(&mut slot, "overflow", generous_limits()).await.0, StackOverflow),
                15 => {
                    assert_eq!(failure_of(&mut slot, "socket", generous_limits()).await.0, ForbiddenSyscall)
                }
                _ => drop(run_good_job(&mut slot).await.unwrap()),
            }
        });
    }
    while let Some(done) = jobs.join_next().await {
        done.unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.jobs, stats.respawned, stats.busy), (200, 0, 0));
    assert!(began.elapsed() < Duration::from_secs(60));
    pool.shutdown().await;
}

#[tokio::test]
async fn what_a_job_said_last_is_evidence_of_its_own_death_and_of_no_other() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let words = failure_of(&mut slot, "abort_with_message", generous_limits()).await.1.stderr.unwrap();
    assert_eq!(words, "free(): invalid \u{1b}[31mpointer\u{fffd}");
    let words = failure_of(&mut slot, "panic_in_panic", generous_limits()).await.1.stderr.unwrap();
    assert!(words.contains("the first at ") && words.contains("the second at "), "{words}");
    assert_eq!(run_good_job(&mut slot).await.unwrap().measured.stderr, None);
    // Of a job that was given up while it spoke nothing is left either.
    let job = slot.run(act("say_and_spin"), generous_limits());
    assert!(tokio::time::timeout(Duration::from_millis(100), job).await.is_err());
    assert_eq!(failure_of(&mut slot, "null", generous_limits()).await.1.stderr, None);
    drop(slot);
    pool.shutdown().await;
}

#[tokio::test]
async fn a_job_that_floods_its_standard_error_holds_nobody_up() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let reply = slot.run(act("flood_stderr 10000000"), generous_limits()).await.unwrap();
    let taken: usize = String::from_utf8(reply.product.answer).unwrap().parse().unwrap();
    assert!((1..=1 << 17).contains(&taken), "{taken} bytes");
    assert_eq!(reply.measured.stderr.unwrap().len(), 2048);
    assert_eq!(run_good_job(&mut slot).await.unwrap().measured.stderr, None);
    assert_eq!(pool.stats().respawned, 0);
    drop(slot);
    pool.shutdown().await;
}
