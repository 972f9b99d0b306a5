//! Nine mistakes that a prototype of this sandbox made, each with the story that its test tells.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use wm_analyzer::job::failure::FailureKind::*;
use wm_analyzer::sandbox::Limits;

use crate::harness::*;

/// 1. `fork` failed with -1, and `kill(-1)` went to everybody of that user.
#[tokio::test]
async fn a_fork_that_fails_kills_nobody() {
    let _process = exclusive_process().await;
    let mut bystander = Command::new("sleep");
    if is_root() {
        bystander.uid(65_534).gid(65_534); // the fork-server's
    }
    let mut bystander = bystander.arg("60").stdin(Stdio::null()).spawn().unwrap();
    let pool = pool_with(&config(), 1, &["fork"]).await;
    let mut slot = pool.acquire().await;
    for _ in 0..3 {
        let failure = slot.run(act("echo"), limits()).await.map(|_| ()).unwrap_err();
        assert_eq!(failure.kind, CannotSpawn, "{}", failure.detail);
        assert!(failure.measured.is_none(), "there was no child");
    }
    assert_eq!(pool.stats().respawned, 0, "the fork-server lives");
    assert_eq!(bystander.try_wait().unwrap(), None, "and so does everybody else");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    drop(slot);
    pool.shutdown().await;
}

/// 2. A cancel that came after its job's end was taken for the next job, and ended the fork-server.
#[tokio::test]
async fn a_cancel_that_comes_too_late_harms_nobody() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let fork_server = fork_server_pid(&mut slot).await;
    for _ in 0..50 {
        assert!(slot.cancel_late());
        run_good_job(&mut slot).await.unwrap();
    }
    assert_eq!(fork_server_pid(&mut slot).await, fork_server);
    drop(slot);
    pool.shutdown().await;
}

/// 3. A job closed its socket and hung; the worker waited for its end for ever.
#[tokio::test]
async fn a_job_that_closes_its_socket_and_hangs_is_not_waited_for() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    let began = Instant::now();
    assert_eq!(failure_of(&mut slot, "close_and_hang", generous_limits()).await.0, BadReply);
    assert!(began.elapsed() < generous_limits().wall / 2, "it was killed at its deadline only");
    drop(slot);
    pool.shutdown().await;
}

/// 4. A limit of no processes, set in a fork-server that is not root, forbade its own fork.
#[tokio::test]
async fn a_fork_server_forks_on_although_its_jobs_cannot() {
    let _process = shared_process().await;
    let pool = pool_with(&config(), 1, &["job_filter", "check"]).await;
    assert!(pool.isolation().contains(&"unprivileged".to_owned()), "else the limit means nothing");
    let mut slot = pool.acquire().await;
    for _ in 0..5 {
        assert_eq!(number_from(&mut slot, "fork_bomb 16").await, 0);
    }
    assert_eq!(pool.stats().respawned, 0);
    drop(slot);
    pool.shutdown().await;
}

/// 5. Where the kernel knows no pidfd, every job took its full wall clock.
#[tokio::test]
async fn without_a_pidfd_a_jobs_end_is_still_seen_at_once() {
    let _process = shared_process().await;
    let pool = pool_with(&config(), 1, &["pidfd"]).await;
    assert!(!pool.isolation().contains(&"pidfd".to_owned()));
    let mut slot = pool.acquire().await;
    let began = Instant::now();
    for _ in 0..10 {
        run_good_job(&mut slot).await.unwrap();
    }
    assert!(began.elapsed() < generous_limits().wall / 2, "{:?}", began.elapsed());
    assert_eq!(failure_of(&mut slot, "spin", limits()).await.0, WallExceeded);
    assert_eq!(failure_of(&mut slot, "null", limits()).await.0, Crashed);
    assert_eq!(failure_of(&mut slot, "close_and_hang", generous_limits()).await.0, BadReply);
    drop(slot);
    pool.shutdown().await;
}

/// 6. One seccomp filter killed the process that installed the next one.
#[tokio::test]
async fn both_filters_stand_and_a_good_job_lives() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    assert!(pool.isolation().contains(&"seccomp".to_owned()), "{:?}", pool.isolation());
    let mut slot = pool.acquire().await;
    run_good_job(&mut slot).await.unwrap();
    drop(slot);
    pool.shutdown().await;
}

/// 7. Descriptors that somebody had left open in the shell reached fork-server and job.
#[tokio::test]
async fn a_job_inherits_no_descriptor_and_no_environment() {
    let _process = exclusive_process().await;
    let null = std::fs::File::open("/dev/null").unwrap();
    let leaks: Vec<_> =
        [10, 251, 700].into_iter().map(|at| rustix::io::fcntl_dupfd_cloexec(&null, at).unwrap()).collect();
    for leak in &leaks {
        rustix::io::fcntl_setfd(leak, FdFlags::empty()).unwrap(); // inherited over exec
    }
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    assert_eq!(number_from(&mut slot, "descriptors").await, 0);
    assert_eq!(number_from(&mut slot, "environment").await, 0);
    if is_root() {
        let open =
            std::fs::read_dir(format!("/proc/{}/fd", fork_server_pid(&mut slot).await)).unwrap().count();
        assert_eq!(open, 3, "the fork-server: control, null, its standard error");
    }
    drop(slot);
    pool.shutdown().await;
}

/// 8. Taking 800 MB apart took longer than the worker's patience, and the fork-server was taken for lost.
#[tokio::test]
async fn a_large_job_may_take_its_time_to_die() {
    let _process = shared_process().await;
    let pool = pool(1).await;
    let mut slot = pool.acquire().await;
    // A busy machine needs longer until so much memory is there.
    let mut resident = 0;
    for seconds in [2, 4, 8, 16, 32] {
        let large = Limits { heap_bytes: 400 * MIB, wall: Duration::from_secs(seconds), ..limits() };
        let (kind, measured) =
            failure_of(&mut slot, &format!("resident_then_spin {}", 350 * MIB), large).await;
        assert_eq!(kind, WallExceeded);
        resident = measured.max_rss_bytes;
        if resident > 250 * MIB {
            break;
        }
    }
    assert!(resident > 250 * MIB, "{resident} bytes");
    assert_eq!(pool.stats().respawned, 0);
    drop(slot);
    pool.shutdown().await;
}

/// 9. The fork-server's filter answered `EPERM` to Landlock's own calls, its library took that for "not supported", and
/// every job was without it although everything said "ok".
#[tokio::test]
async fn a_job_has_a_landlock_domain_of_its_own_and_cannot_signal_its_fork_server() {
    let _process = shared_process().await;
    let pool = pool_with(&config(), 1, &["job_filter", "check"]).await;
    if !kernel_has_landlock_scopes() {
        eprintln!("this kernel is too old for Landlock's scopes");
        return;
    }
    assert!(pool.isolation().contains(&"landlock_scope".to_owned()), "{:?}", pool.isolation());
    let mut slot = pool.acquire().await;
    assert_eq!(number_from(&mut slot, "kill_parent").await, -1, "refused");
    assert_eq!(number_from(&mut slot, "read_file").await, -1, "refused");
    run_good_job(&mut slot).await.unwrap();
    assert_eq!(pool.stats().respawned, 0, "the fork-server lives");
    drop(slot);
    pool.shutdown().await;
}

/// Since Linux 6.12; the self-test cannot be asked, because it is what is tested.
fn kernel_has_landlock_scopes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}
