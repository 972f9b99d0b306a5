//! The slot pool: one fork server per concurrent job, and the permits to use them.
//!
//! The number of slots is not decided here; admission computes it from memory and CPUs.
//!
//! Invariants: a slot runs one job at a time and starts the next only after the previous one has been
//! reaped, even if the previous one was dropped; the address-space limits of all jobs in flight together
//! never exceed the pool's memory.
//!
//! # Why
//! Dropping a job only requests its termination; the next user of the slot waits until it *has* terminated.
//! So dropping never blocks and spawns no task, and memory is still never counted twice.
//!
//! A job granted more memory than its slot's share waits for the difference. It first releases its own share,
//! so two such jobs cannot deadlock, and the semaphore is fair, so a stream of small jobs cannot starve it.
//! It keeps its slot while it waits, so no more jobs are taken from the queue than there are slots.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::classify::{self, ExitReport};
use super::exchange;
use super::fork_server_handle::{ForkServerCommand, ForkServerHandle};
use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::meter::Meter;
use super::slot_permits::SlotPermits;
use super::{Config, ProcessModel, Reply, Request, oom_kills};
use wm_job::failure::{Failure, FailureKind};
use wm_job::measured::ChildUsage;

const MIB: u64 = 1 << 20;
/// How long shutdown waits for slots that are still in use.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pool of sandbox slots. Cheap to clone; clones share the same slots.
#[derive(Debug, Clone)]
pub struct Pool(Arc<PoolShared>);

#[derive(Debug)]
struct PoolShared {
    command: ForkServerCommand,
    process: ProcessModel,
    permits: SlotPermits,
    /// Budget for the address-space limits of all jobs in flight, in MiB: `memory_mib` permits in total, of
    /// which a job with the configured limits takes `memory_per_slot_mib`.
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
    cpu_ms: AtomicU64,
    waiting_ms: AtomicU64,
    minor_faults: AtomicU64,
}

/// Permit to run one job at a time.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<PoolShared>,
    fork_server: Option<ForkServerHandle>,
    memory: Option<OwnedSemaphorePermit>,
    meter: Meter,
    permit: Option<OwnedSemaphorePermit>,
}

/// Counters of a [`Pool`] since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Configured number of slots.
    pub slots: usize,
    /// Slots that may be used at a time; more may be in use until their jobs end.
    pub limit: usize,
    /// Slots currently in use.
    pub busy: usize,
    /// Fork servers that were replaced because they had died.
    pub respawned: u64,
    /// Jobs started since the pool was created.
    pub jobs: u64,
    /// Largest heap use of any job so far, in bytes.
    pub peak_heap_bytes: u64,
    /// Longest run time of any job so far, in milliseconds.
    pub longest_ms: u64,
    /// CPU time of all jobs that ended, in milliseconds.
    pub cpu_ms: u64,
    /// Time in which they waited for a CPU or their request, in milliseconds; 0 if the kernel does not count it.
    pub waiting_ms: u64,
    /// Page faults of all jobs that ended, without those that had to wait for a disk.
    pub minor_faults: u64,
}

impl Pool {
    /// Starts `slots` fork servers from `executable`, usually `/proc/self/exe`, without a limit on the memory
    /// of all jobs together.
    ///
    /// # Errors
    /// `cannot_spawn`; the detail names what is missing.
    pub async fn start(config: &Config, slots: usize, executable: PathBuf) -> Result<Self, Failure> {
        Self::start_with_memory(config, slots, u64::MAX, executable).await
    }

    /// Like [`Pool::start`], with a memory budget for all jobs together. The budget is raised if necessary so
    /// that every slot can run a job with the configured limits.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub async fn start_with_memory(
        config: &Config,
        slots: usize,
        memory_bytes: u64,
        executable: PathBuf,
    ) -> Result<Self, Failure> {
        let command = ForkServerCommand {
            executable,
            isolation: config.isolation,
            #[cfg(feature = "test-hooks")]
            disabled_layers: Vec::new(),
        };
        Self::start_pool(config, slots, memory_bytes, command).await
    }

    /// Like [`Pool::start`], with isolation layers disabled by name (`landlock`, `job_filter`, `pidfd`,
    /// `warm_up`, `fork`), or simulating a kernel that lacks them (`kernel_landlock`, `kernel_seccomp`), to test the
    /// remaining layers. `check` skips the check for required layers, and `build` makes the fork server
    /// report another build. Only a program built with `test-hooks` honours these names.
    ///
    /// # Errors
    /// As [`Pool::start`].
    #[cfg(feature = "test-hooks")]
    pub async fn start_with_layers_disabled(
        config: &Config,
        slots: usize,
        executable: PathBuf,
        disabled_layers: &[&str],
    ) -> Result<Self, Failure> {
        let disabled_layers = disabled_layers.iter().map(|&layer| layer.to_owned()).collect();
        let command = ForkServerCommand { executable, isolation: config.isolation, disabled_layers };
        Self::start_pool(config, slots, u64::MAX, command).await
    }

    async fn start_pool(
        config: &Config,
        slots: usize,
        memory_bytes: u64,
        command: ForkServerCommand,
    ) -> Result<Self, Failure> {
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
            permits: SlotPermits::new(slots),
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
            cpu_ms: AtomicU64::new(0),
            waiting_ms: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
        })))
    }

    /// Waits for a free slot and for the memory of a job with the configured limits.
    pub async fn acquire(&self) -> Slot {
        let permit = self.0.permits.acquire().await;
        let mut slot = Slot::new(&self.0, permit);
        slot.memory = Arc::clone(&self.0.memory).acquire_many_owned(self.0.memory_per_slot_mib).await.ok();
        slot
    }

    /// Returns a slot if one is free now and the memory for its job is available, without waiting.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = self.0.permits.try_acquire()?;
        let mut slot = Slot::new(&self.0, Some(permit));
        slot.memory =
            Some(Arc::clone(&self.0.memory).try_acquire_many_owned(self.0.memory_per_slot_mib).ok()?);
        Some(slot)
    }

    /// Lets at most `most` slots be used at a time, at least one, from now on or from when enough jobs have ended.
    pub fn limit_to(&self, most: usize) {
        self.0.permits.limit_to(most);
    }

    /// Names of the isolation layers in force, as each fork server proved them at start.
    pub fn isolation(&self) -> Vec<String> {
        self.0.layers.names()
    }

    /// Every isolation layer by name, and whether it is in force.
    pub fn isolation_layers(&self) -> impl Iterator<Item = (String, bool)> {
        self.0.layers.iter_all()
    }

    /// Snapshot of the pool's counters.
    pub fn stats(&self) -> PoolStats {
        let (limit, busy) = self.0.permits.limit_and_busy();
        PoolStats {
            slots: self.0.permits.slots(),
            limit,
            busy,
            respawned: self.0.respawned.load(Relaxed),
            jobs: self.0.jobs.load(Relaxed),
            peak_heap_bytes: self.0.peak_heap_bytes.load(Relaxed),
            longest_ms: self.0.longest_ms.load(Relaxed),
            cpu_ms: self.0.cpu_ms.load(Relaxed),
            waiting_ms: self.0.waiting_ms.load(Relaxed),
            minor_faults: self.0.minor_faults.load(Relaxed),
        }
    }

    /// Shuts down all fork servers and leaves no child process. Waits up to 5 s for slots in use; a fork
    /// server whose slot is held longer is killed when the slot is dropped. Afterwards every job is refused.
    pub async fn shutdown(&self) {
        let _all = timeout(SHUTDOWN_TIMEOUT, self.0.permits.all_returned()).await;
        self.0.permits.close();
        self.0.memory.close();
        let idle = std::mem::take(&mut *self.0.idle.lock());
        for fork_server in idle {
            fork_server.shut_down().await;
        }
    }
}

impl Slot {
    /// A slot that has no memory yet.
    fn new(pool: &Arc<PoolShared>, permit: Option<OwnedSemaphorePermit>) -> Self {
        let fork_server = permit.as_ref().and_then(|_| pool.idle.lock().pop());
        Self { pool: Arc::clone(pool), fork_server, memory: None, meter: Meter::default(), permit }
    }

    /// Meter for the memory use of the slot's running job.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Waits until there is enough memory for a job with these limits.
    ///
    /// # Errors
    /// `stranded` if the job needs more than the pool's whole memory.
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
                     children: lower the grant, or raise the worker's memory limit",
                    ByteSize::b(limits.heap_bytes),
                    self.pool.memory_mib
                ),
            ));
        }
        self.memory = None; // release our share before waiting for more, to avoid a deadlock
        self.memory = Arc::clone(&self.pool.memory).acquire_many_owned(needed).await.ok();
        Ok(())
    }

    /// Runs one job to its end, after waiting for enough memory. Dropping the future kills the job.
    ///
    /// # Errors
    /// The classified failure, with the measurements if a child was forked.
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
            ..classify::measured_of(&exit_report, &limits, fork_server.layers)
        };
        self.pool.peak_heap_bytes.fetch_max(measured.peak_heap_bytes, Relaxed);
        self.pool.longest_ms.fetch_max(measured.wall_ms, Relaxed);
        self.pool.cpu_ms.fetch_add(measured.cpu_ms, Relaxed);
        self.pool.waiting_ms.fetch_add(measured.waiting_ms.unwrap_or(0), Relaxed);
        if let ExitReport::Ended(exit) = &exit_report {
            self.pool.minor_faults.fetch_add(exit.minor_faults, Relaxed);
        }
        if matches!(exit_report, ExitReport::ForkServerLost { .. })
            || self.pool.process == ProcessModel::ExecPerJob
        {
            self.shut_down_fork_server().await;
        }
        match classify::classify(output, &exit_report, &limits) {
            Ok(product) => Ok(Reply { product, measured }),
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

    /// Starts the job on the slot's fork server, or on a new one. If the fork server died
    /// while idle, the job has not started, so it is retried once on a new fork server.
    async fn start_job(
        &mut self,
        limits: &Limits,
        theirs: std::os::unix::net::UnixStream,
    ) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        if self.permit.is_none() || self.memory.is_none() {
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
            Failure::new(FailureKind::ForkServerLost, format!("a new fork server exited at once: {error}"))
        })
    }

    async fn shut_down_fork_server(&mut self) {
        if let Some(fork_server) = self.fork_server.take() {
            fork_server.shut_down().await;
        }
    }

    /// Sends a cancel for the last job although it has already ended.
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
            self.pool.idle.lock().push(fork_server);
        }
        // Last: the next holder of the permit expects the fork server in `idle`.
        if let Some(permit) = self.permit.take() {
            self.pool.permits.give_back(permit);
        }
    }
}

/// Converts bytes to memory permits: whole MiB, rounded up.
fn bytes_to_mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

fn pool_is_shut_down() -> Failure {
    Failure::new(FailureKind::CannotSpawn, "the sandbox is shut down")
}
