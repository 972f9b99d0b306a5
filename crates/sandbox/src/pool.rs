//! The slots: as many fork-servers as jobs may run at once, and permits to use them.
//!
//! It does not decide how many: admission does, from memory and CPUs.
//!
//! Invariants: a slot runs one job at a time, and begins none before the one before it is really gone, even when
//! nobody waited for that one; the address spaces of all jobs in flight fit the room that there is for them together.
//!
//! # Why
//! A dropped job is only told to die; that it *has* died is waited for by the next user of its slot. So dropping never
//! blocks and spawns no task, and still no memory is used twice.
//!
//! A job that was granted more memory than its slot has room for waits for as much: it gives its own room back first,
//! so that two of them cannot wait for each other, and it is served in turn, so that no stream of small ones starves it.
//! It waits with its slot taken, so no more are taken from the queue than there are slots.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::classify::{self, ExitReport};
use super::exchange;
use super::fork_server_handle::{ForkServerCommand, ForkServerHandle};
use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::meter::Meter;
use super::{Config, ProcessModel, Reply, Request, oom_kills, status_block};
use wm_job::duration::millis;
use wm_job::failure::{Failure, FailureKind};
use wm_job::measured::ChildUsage;

const MIB: u64 = 1 << 20;
/// How long a shutdown waits for slots that are still in use.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// All slots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<PoolShared>);

#[derive(Debug)]
struct PoolShared {
    command: ForkServerCommand,
    process: ProcessModel,
    slots: usize,
    permits: Arc<Semaphore>,
    /// What the address spaces of jobs in flight may add up to, in MiB, of which `memory_mib` are there and `memory_per_slot_mib` usual.
    memory: Arc<Semaphore>,
    memory_mib: u32,
    memory_per_slot_mib: u32,
    idle: Mutex<Vec<ForkServerHandle>>,
    layers: IsolationLayers,
    oom_kills: oom_kills::OomKillCounter,
    respawned: AtomicU64,
    jobs: AtomicU64,
    peak_heap_bytes: AtomicU64,
    longest_ms: AtomicU64,
}

/// The right to run one job at a time.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<PoolShared>,
    fork_server: Option<ForkServerHandle>,
    memory: Option<OwnedSemaphorePermit>,
    meter: Meter,
    // Dropped last: whoever gets it finds the fork-server in `idle`.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How the pool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Slots there are.
    pub slots: usize,
    /// Slots in use.
    pub busy: usize,
    /// Fork-servers that had to be replaced.
    pub respawned: u64,
    /// Jobs that were begun.
    pub jobs: u64,
    /// The largest heap that any job had, in bytes.
    pub peak_heap_bytes: u64,
    /// The longest that any job ran, in milliseconds.
    pub longest_ms: u64,
}

impl Pool {
    /// Starts `slots` fork-servers of `executable`, as a rule `/proc/self/exe`, with room for whatever their jobs ask for.
    ///
    /// # Errors
    /// `cannot_spawn`, in words that say what is missing.
    pub async fn start(config: &Config, slots: usize, executable: PathBuf) -> Result<Self, Failure> {
        Self::start_pool(config, slots, u64::MAX, executable, &[]).await
    }

    /// The same with so much memory for all jobs together; for one job of the usual size in each slot there is always
    /// room.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub async fn start_with_memory(
        config: &Config,
        slots: usize,
        memory_bytes: u64,
        executable: PathBuf,
    ) -> Result<Self, Failure> {
        Self::start_pool(config, slots, memory_bytes, executable, &[]).await
    }

    /// The same with isolation layers left out by name (`landlock`, `job_filter`, `pidfd`, `fork`), or on a kernel that has not got
    /// them (`kernel_landlock`, `kernel_seccomp`), to see what the others hold; with `check` without asking whether
    /// enough are left, and with `build` from a fork-server of another build.
    /// Only a program built with `test-hooks` leaves them out.
    ///
    /// # Errors
    /// As [`Pool::start`].
    #[doc(hidden)]
    pub async fn start_with_layers_disabled(
        config: &Config,
        slots: usize,
        executable: PathBuf,
        disabled_layers: &[&str],
    ) -> Result<Self, Failure> {
        Self::start_pool(config, slots, u64::MAX, executable, disabled_layers).await
    }

    async fn start_pool(
        config: &Config,
        slots: usize,
        memory_bytes: u64,
        executable: PathBuf,
        disabled_layers: &[&str],
    ) -> Result<Self, Failure> {
        let disabled_layers = disabled_layers.iter().map(|&layer| layer.to_owned()).collect();
        let command = ForkServerCommand { executable, isolation: config.isolation, disabled_layers };
        let mut idle = Vec::with_capacity(slots);
        let mut layers = IsolationLayers::default();
        for _ in 0..slots {
            let fork_server = command.spawn().await?;
            layers = fork_server.layers;
            idle.push(fork_server);
        }
        let memory_per_slot_mib = bytes_to_mib(Limits::from_config(config).address_space_limit_bytes());
        let least = memory_per_slot_mib.saturating_mul(u32::try_from(slots).unwrap_or(u32::MAX));
        let memory_mib = u32::try_from(memory_bytes / MIB).unwrap_or(u32::MAX).max(least);
        Ok(Self(Arc::new(PoolShared {
            command,
            process: config.process,
            slots,
            permits: Arc::new(Semaphore::new(slots)),
            memory: Arc::new(Semaphore::new(memory_mib as usize)),
            memory_mib,
            memory_per_slot_mib,
            idle: Mutex::new(idle),
            layers,
            oom_kills: oom_kills::OomKillCounter::new(),
            respawned: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            peak_heap_bytes: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
        })))
    }

    /// Waits for a free slot, with room for a job of the usual size.
    pub async fn acquire(&self) -> Slot {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.ok();
        let memory = Arc::clone(&self.0.memory).acquire_many_owned(self.0.memory_per_slot_mib).await.ok();
        Slot::new(&self.0, permit, memory)
    }

    /// A slot, if one is free now, and room for its job.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        let memory = Arc::clone(&self.0.memory).try_acquire_many_owned(self.0.memory_per_slot_mib).ok()?;
        Some(Slot::new(&self.0, Some(permit), Some(memory)))
    }

    /// Names of the isolation in force, as each fork-server proved it at its start.
    pub fn isolation(&self) -> Vec<String> {
        self.0.layers.names()
    }

    /// Every kind of isolation there is, and whether it is in force.
    pub fn isolation_layers(&self) -> impl Iterator<Item = (String, bool)> {
        self.0.layers.iter_all()
    }

    /// How the pool is doing.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            slots: self.0.slots,
            busy: self.0.slots.saturating_sub(self.0.permits.available_permits()),
            respawned: self.0.respawned.load(Relaxed),
            jobs: self.0.jobs.load(Relaxed),
            peak_heap_bytes: self.0.peak_heap_bytes.load(Relaxed),
            longest_ms: self.0.longest_ms.load(Relaxed),
        }
    }

    /// Ends all fork-servers and leaves no child. Waits a few seconds for slots in use; one that is kept longer is killed
    /// when it is let go. Afterwards every job is refused.
    pub async fn shutdown(&self) {
        let all = u32::try_from(self.0.slots).unwrap_or(u32::MAX);
        let _all = timeout(SHUTDOWN_TIMEOUT, self.0.permits.acquire_many(all)).await;
        self.0.permits.close();
        self.0.memory.close();
        let idle = std::mem::take(&mut *self.0.idle());
        for fork_server in idle {
            fork_server.shut_down().await;
        }
    }
}

impl PoolShared {
    fn idle(&self) -> MutexGuard<'_, Vec<ForkServerHandle>> {
        self.idle.lock()
    }
}

impl Slot {
    fn new(
        pool: &Arc<PoolShared>,
        permit: Option<OwnedSemaphorePermit>,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let fork_server = permit.as_ref().and_then(|_| pool.idle().pop());
        Self { pool: Arc::clone(pool), fork_server, memory, meter: Meter::default(), _permit: permit }
    }

    /// Tells what the slot's job holds while it runs.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Waits until there is room for a job with these limits.
    ///
    /// # Errors
    /// `stranded`, where there never will be.
    async fn reserve_memory(&mut self, limits: &Limits) -> Result<(), Failure> {
        let needed = bytes_to_mib(limits.address_space_limit_bytes());
        if self.memory.as_ref().is_some_and(|held| held.num_permits() >= needed as usize) {
            return Ok(());
        }
        if needed > self.pool.memory_mib {
            return Err(Failure::new(
                FailureKind::Stranded,
                format!(
                    "a heap of {} needs {needed} MiB of address space, and this worker has {} MiB for all of its \
                     children: grant it less, or raise the worker's memory limit",
                    ByteSize::b(limits.heap_bytes),
                    self.pool.memory_mib
                ),
            ));
        }
        self.memory = None; // given back before more is waited for
        self.memory = Arc::clone(&self.pool.memory).acquire_many_owned(needed).await.ok();
        Ok(())
    }

    /// Runs one job to its end, once there is room for it. Dropping the future kills the job.
    ///
    /// # Errors
    /// What became of it otherwise, always with what was measured where there was a child.
    pub async fn run(&mut self, request: Request, limits: Limits) -> Result<Reply, Failure> {
        self.reserve_memory(&limits).await?;
        let (ours, theirs) = exchange::socket_pair().map_err(|error| {
            Failure::new(FailureKind::CannotSpawn, format!("no socket for the job: {error}"))
        })?;
        self.start_job(&limits, theirs).await?;
        let Some(fork_server) = &mut self.fork_server else { return Err(pool_is_shut_down()) };
        self.pool.jobs.fetch_add(1, Relaxed);
        let metered = self.meter.start(fork_server.pid(), limits.heap_bytes);
        let (output, exit_report) = exchange::exchange(fork_server, ours, request, &limits).await;
        drop(metered);
        let measured = ChildUsage {
            stderr: fork_server.take_stderr_tail(),
            ..measured_of(&exit_report, &limits, fork_server.layers)
        };
        self.pool.peak_heap_bytes.fetch_max(measured.peak_heap_bytes, Relaxed);
        self.pool.longest_ms.fetch_max(measured.wall_ms, Relaxed);
        if matches!(exit_report, ExitReport::ForkServerLost { .. })
            || self.pool.process == ProcessModel::ExecPerJob
        {
            self.shut_down_fork_server().await;
        }
        match classify::classify(output, &exit_report, &limits) {
            Ok(body) => Ok(Reply { body, measured }),
            Err((kind, detail)) => {
                let mut failure = Failure::new(kind, detail);
                if kind == FailureKind::KilledFromOutside {
                    failure.detail += self.pool.oom_kills.describe_new_kills();
                }
                failure.measured =
                    (!matches!(exit_report, ExitReport::ForkFailed(_))).then(|| Box::new(measured));
                Err(failure)
            }
        }
    }

    /// Begins the job on a fork-server that is free, a new one if need be. One that died while idle has begun nothing, so
    /// that is tried once more.
    async fn start_job(
        &mut self,
        limits: &Limits,
        theirs: std::os::unix::net::UnixStream,
    ) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        if self._permit.is_none() || self.memory.is_none() {
            return Err(pool_is_shut_down());
        }
        if let Some(fork_server) = &mut self.fork_server {
            if fork_server.wait_until_idle().await && fork_server.start_job(limits, theirs.as_fd()).is_ok() {
                return Ok(());
            }
            self.shut_down_fork_server().await;
            self.pool.respawned.fetch_add(1, Relaxed);
        }
        let fork_server = self.fork_server.insert(self.pool.command.spawn().await?);
        fork_server.start_job(limits, theirs.as_fd()).map_err(|error| {
            Failure::new(FailureKind::ForkServerLost, format!("a new fork-server is gone already: {error}"))
        })
    }

    async fn shut_down_fork_server(&mut self) {
        if let Some(fork_server) = self.fork_server.take() {
            fork_server.shut_down().await;
        }
    }

    /// Cancels the last job although it has ended.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn cancel_late(&mut self) -> bool {
        self.fork_server.as_mut().is_some_and(ForkServerHandle::cancel_late)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(fork_server) = self.fork_server.take()
            && !self.pool.permits.is_closed()
        {
            self.pool.idle().push(fork_server);
        }
    }
}

/// Memory as it is handed out: in whole MiB, rounded up.
fn bytes_to_mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

fn pool_is_shut_down() -> Failure {
    Failure::new(FailureKind::CannotSpawn, "the sandbox is shut down")
}

/// What is known of the child, as evidence.
fn measured_of(exit_report: &ExitReport, limits: &Limits, layers: IsolationLayers) -> ChildUsage {
    let known = ChildUsage { limits: limits.effective(), isolation: layers.names(), ..ChildUsage::default() };
    match exit_report {
        ExitReport::ForkFailed(_) => known,
        ExitReport::ForkServerLost { wall, .. } => ChildUsage { wall_ms: millis(*wall), ..known },
        ExitReport::Ended(report) => {
            let (exit, signal) = super::protocol::exit_and_signal(report.cause);
            ChildUsage {
                wall_ms: millis(report.wall),
                cpu_ms: millis(report.cpu),
                peak_heap_bytes: report.peak_heap_bytes,
                max_rss_bytes: report.max_rss_bytes,
                exit,
                signal,
                phase: status_block::phase_name(report.phase),
                ..known
            }
        }
    }
}
