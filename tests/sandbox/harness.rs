//! The harness: a configuration small enough for quick deaths, jobs by the name of their act.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::measured::ChildUsage;
use wm_analyzer::sandbox::{Config, Isolation, Limits, Pool, ProcessModel, Reply, Request, Slot, hooks};

pub(crate) use wm_testbed::processes::{ProcessResources, descendants, is_alive, resident_bytes};

pub(crate) const MIB: u64 = 1 << 20;

/// The binary under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_wm-analyzer");

/// Tests share one process; those that count its descriptors and children want it for themselves.
static PROCESS: RwLock<()> = RwLock::const_new(());

/// This test may run beside others.
pub(crate) async fn shared_process() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().await
}

/// This test has the process for itself.
pub(crate) async fn exclusive_process() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().await
}

/// Limits like the default's, but sooner reached.
pub(crate) fn config() -> Config {
    Config {
        slots: 1,
        wall: Duration::from_millis(600),
        heap: ByteSize::mib(64),
        stack: ByteSize::mib(8),
        max_decoded: ByteSize::mib(10),
        reply: ByteSize::mib(1),
        max_wall: Duration::from_secs(60),
        max_heap: ByteSize::gib(1),
        isolation: Isolation::BestEffort,
        process: ProcessModel::ForkServer,
    }
}

pub(crate) fn limits() -> Limits {
    Limits::from_config(&config())
}

/// Limits for jobs that must not be hurried on a busy machine.
pub(crate) fn generous_limits() -> Limits {
    Limits { wall: Duration::from_secs(30), ..limits() }
}

pub(crate) async fn pool(slots: usize) -> Pool {
    pool_with(&config(), slots, &[]).await
}

pub(crate) async fn pool_with(config: &Config, slots: usize, without: &[&str]) -> Pool {
    Pool::start_with_layers_disabled(config, slots, PROGRAM.into(), without).await.unwrap()
}

pub(crate) fn act(name: &str) -> Request {
    Request { options: hooks::options(name), ..Request::default() }
}

/// Runs an act and returns the number it answers with.
pub(crate) async fn number_from(slot: &mut Slot, name: &str) -> i64 {
    let reply = slot.run(act(name), generous_limits()).await.unwrap();
    String::from_utf8(reply.product.answer).unwrap().parse().unwrap()
}

/// Runs an act that must fail; its kind and what was measured.
pub(crate) async fn failure_of(slot: &mut Slot, name: &str, limits: Limits) -> (FailureKind, ChildUsage) {
    let failure: Failure =
        slot.run(act(name), limits).await.map(|reply| reply.product.answer.len()).unwrap_err();
    let measured = failure.measured.unwrap_or_else(|| panic!("{name}: {} has no evidence", failure.kind));
    (failure.kind, *measured)
}

/// A good job, whose answer is known.
pub(crate) async fn run_good_job(slot: &mut Slot) -> Result<Reply, Failure> {
    let request = Request { a: b"hello ".to_vec(), b: b"world".to_vec(), ..act("echo") };
    let reply = slot.run(request, generous_limits()).await?;
    assert_eq!(reply.product.attachment, b"hello world");
    Ok(reply)
}

/// Waits for a moment, not for a time.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The process id of a slot's fork-server, from a job of it.
pub(crate) async fn fork_server_pid(slot: &mut Slot) -> u32 {
    u32::try_from(number_from(slot, "parent_pid").await).unwrap()
}
