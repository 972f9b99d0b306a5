//! The slots: as many zygotes as jobs may run at once, and permits to use them.
//!
//! It does not decide how many: admission does, from memory and CPUs.
//!
//! Invariants: a slot runs one job at a time, and begins none before the one before it is really gone, even when
//! nobody waited for that one; the fences of all jobs that run fit the room that there is for them together.
//!
//! # Why
//! A dropped job is only told to die; that it *has* died is waited for by the next user of its slot. So dropping never
//! blocks and spawns no task, and still no memory is used twice.
//!
//! A job that was granted more memory than its slot has room for waits for as much: it gives its own room back first,
//! so that two of them cannot wait for each other, and it is served in turn, so that no stream of small ones starves it.
//! It waits with its slot in hand, so no more are taken from the queue than there are slots.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::call;
use super::classify::{self, Seen};
use super::features::Features;
use super::handle::{Handle, Recipe};
use super::limits::Limits;
use super::meter::Meter;
use super::{Config, ProcessModel, Reply, Request, board, oom};
use wm_job::duration::millis;
use wm_job::failure::{Failure, Kind};
use wm_job::measured::Measured;

const MIB: u64 = 1 << 20;
/// How long a shutdown waits for slots that are still in use.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// All slots. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    recipe: Recipe,
    process: ProcessModel,
    slots: usize,
    permits: Arc<Semaphore>,
    /// What the fences of running jobs may add up to, in MiB, of which `room_mib` are there and `share_mib` usual.
    room: Arc<Semaphore>,
    room_mib: u32,
    share_mib: u32,
    idle: Mutex<Vec<Handle>>,
    features: Features,
    oom: oom::Watch,
    respawned: AtomicU64,
    jobs: AtomicU64,
    peak_heap_bytes: AtomicU64,
    longest_ms: AtomicU64,
}

/// The right to run one job at a time.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Shared>,
    zygote: Option<Handle>,
    room: Option<OwnedSemaphorePermit>,
    meter: Meter,
    // Dropped last: whoever gets it finds the zygote in `idle`.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How the pool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Slots there are.
    pub slots: usize,
    /// Slots in use.
    pub busy: usize,
    /// Zygotes that had to be replaced.
    pub respawned: u64,
    /// Jobs that were begun.
    pub jobs: u64,
    /// The largest heap that any job had, in bytes.
    pub peak_heap_bytes: u64,
    /// The longest that any job ran, in milliseconds.
    pub longest_ms: u64,
}

impl Pool {
    /// Starts `slots` zygotes of `executable`, as a rule `/proc/self/exe`, with room for whatever their jobs ask for.
    ///
    /// # Errors
    /// `cannot_spawn`, in words that say what is missing.
    pub async fn start(config: &Config, slots: usize, executable: PathBuf) -> Result<Self, Failure> {
        Self::open(config, slots, u64::MAX, executable, &[]).await
    }

    /// The same with so much memory for all jobs together; for one job of the usual size in each slot there is always
    /// room.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub async fn start_within(
        config: &Config,
        slots: usize,
        room_bytes: u64,
        executable: PathBuf,
    ) -> Result<Self, Failure> {
        Self::open(config, slots, room_bytes, executable, &[]).await
    }

    /// The same with walls left out by name (`landlock`, `job_filter`, `pidfd`, `fork`), or on a kernel that has not got
    /// them (`kernel_landlock`, `kernel_seccomp`), to see what the others hold; with `check` without asking whether
    /// enough are left, and with `build` from a zygote of another build.
    /// Only a program built with `test-hooks` leaves them out.
    ///
    /// # Errors
    /// As [`Pool::start`].
    #[doc(hidden)]
    pub async fn start_without(
        config: &Config,
        slots: usize,
        executable: PathBuf,
        without: &[&str],
    ) -> Result<Self, Failure> {
        Self::open(config, slots, u64::MAX, executable, without).await
    }

    async fn open(
        config: &Config,
        slots: usize,
        room_bytes: u64,
        executable: PathBuf,
        without: &[&str],
    ) -> Result<Self, Failure> {
        let without = without.iter().map(|&wall| wall.to_owned()).collect();
        let recipe = Recipe { executable, isolation: config.isolation, without };
        let mut idle = Vec::with_capacity(slots);
        let mut features = Features::default();
        for _ in 0..slots {
            let zygote = recipe.spawn().await?;
            features = zygote.features;
            idle.push(zygote);
        }
        let share_mib = mebibytes(Limits::from_config(config).fence_bytes());
        let least = share_mib.saturating_mul(u32::try_from(slots).unwrap_or(u32::MAX));
        let room_mib = u32::try_from(room_bytes / MIB).unwrap_or(u32::MAX).max(least);
        Ok(Self(Arc::new(Shared {
            recipe,
            process: config.process,
            slots,
            permits: Arc::new(Semaphore::new(slots)),
            room: Arc::new(Semaphore::new(room_mib as usize)),
            room_mib,
            share_mib,
            idle: Mutex::new(idle),
            features,
            oom: oom::Watch::new(),
            respawned: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            peak_heap_bytes: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
        })))
    }

    /// Waits for a free slot, with room for a job of the usual size.
    pub async fn acquire(&self) -> Slot {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.ok();
        let room = Arc::clone(&self.0.room).acquire_many_owned(self.0.share_mib).await.ok();
        Slot::new(&self.0, permit, room)
    }

    /// A slot, if one is free now, and room for its job.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        let room = Arc::clone(&self.0.room).try_acquire_many_owned(self.0.share_mib).ok()?;
        Some(Slot::new(&self.0, Some(permit), Some(room)))
    }

    /// Names of the isolation in force, as each zygote proved it at its start.
    pub fn isolation(&self) -> Vec<String> {
        self.0.features.names()
    }

    /// Every kind of isolation there is, and whether it is in force.
    pub fn isolation_layers(&self) -> impl Iterator<Item = (String, bool)> {
        self.0.features.each()
    }

    /// How the pool is doing.
    pub fn stats(&self) -> Stats {
        Stats {
            slots: self.0.slots,
            busy: self.0.slots.saturating_sub(self.0.permits.available_permits()),
            respawned: self.0.respawned.load(Relaxed),
            jobs: self.0.jobs.load(Relaxed),
            peak_heap_bytes: self.0.peak_heap_bytes.load(Relaxed),
            longest_ms: self.0.longest_ms.load(Relaxed),
        }
    }

    /// Ends all zygotes and leaves no child. Waits a few seconds for slots in use; one that is kept longer is killed
    /// when it is let go. Afterwards every job is refused.
    pub async fn shutdown(&self) {
        let all = u32::try_from(self.0.slots).unwrap_or(u32::MAX);
        let _all = timeout(SHUTDOWN, self.0.permits.acquire_many(all)).await;
        self.0.permits.close();
        self.0.room.close();
        let idle = std::mem::take(&mut *self.0.idle());
        for zygote in idle {
            zygote.end().await;
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.idle.lock()
    }
}

impl Slot {
    fn new(
        pool: &Arc<Shared>,
        permit: Option<OwnedSemaphorePermit>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let zygote = permit.as_ref().and_then(|_| pool.idle().pop());
        Self { pool: Arc::clone(pool), zygote, room, meter: Meter::default(), _permit: permit }
    }

    /// Tells what the slot's job holds while it runs.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Waits until there is room for a job with these limits.
    ///
    /// # Errors
    /// `stranded`, where there never will be.
    async fn make_room(&mut self, limits: &Limits) -> Result<(), Failure> {
        let needed = mebibytes(limits.fence_bytes());
        if self.room.as_ref().is_some_and(|held| held.num_permits() >= needed as usize) {
            return Ok(());
        }
        if needed > self.pool.room_mib {
            return Err(Failure::new(
                Kind::Stranded,
                format!(
                    "a heap of {} needs {needed} MiB with its fence, and this worker has {} MiB for all of its \
                     children: grant it less, or raise the worker's memory limit",
                    ByteSize::b(limits.heap_bytes),
                    self.pool.room_mib
                ),
            ));
        }
        self.room = None; // given back before more is waited for
        self.room = Arc::clone(&self.pool.room).acquire_many_owned(needed).await.ok();
        Ok(())
    }

    /// Runs one job to its end, once there is room for it. Dropping the future kills the job.
    ///
    /// # Errors
    /// What became of it otherwise, always with what was measured where there was a child.
    pub async fn run(&mut self, request: Request, limits: Limits) -> Result<Reply, Failure> {
        self.make_room(&limits).await?;
        let (ours, theirs) = call::sockets()
            .map_err(|error| Failure::new(Kind::CannotSpawn, format!("no socket for the job: {error}")))?;
        self.begin(&limits, theirs).await?;
        let Some(zygote) = &mut self.zygote else { return Err(closed()) };
        self.pool.jobs.fetch_add(1, Relaxed);
        let metered = self.meter.starts(zygote.pid(), limits.heap_bytes);
        let (said, seen) = call::converse(zygote, ours, request, &limits).await;
        drop(metered);
        let measured = Measured { stderr: zygote.last_words(), ..measure(&seen, &limits, zygote.features) };
        self.pool.peak_heap_bytes.fetch_max(measured.peak_heap_bytes, Relaxed);
        self.pool.longest_ms.fetch_max(measured.wall_ms, Relaxed);
        if matches!(seen, Seen::ZygoteLost { .. }) || self.pool.process == ProcessModel::ExecPerJob {
            self.retire().await;
        }
        match classify::classify(said, &seen, &limits) {
            Ok(body) => Ok(Reply { body, measured }),
            Err((kind, detail)) => {
                let mut failure = Failure::new(kind, detail);
                if kind == Kind::KilledFromOutside {
                    failure.detail += self.pool.oom.verdict();
                }
                failure.measured = (!matches!(seen, Seen::NotForked(_))).then(|| Box::new(measured));
                Err(failure)
            }
        }
    }

    /// Begins the job on a zygote that is free, a new one if need be. One that died while idle has begun nothing, so
    /// that is tried once more.
    async fn begin(
        &mut self,
        limits: &Limits,
        theirs: std::os::unix::net::UnixStream,
    ) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        if self._permit.is_none() || self.room.is_none() {
            return Err(closed());
        }
        if let Some(zygote) = &mut self.zygote {
            if zygote.settle().await && zygote.begin(limits, theirs.as_fd()).is_ok() {
                return Ok(());
            }
            self.retire().await;
            self.pool.respawned.fetch_add(1, Relaxed);
        }
        let zygote = self.zygote.insert(self.pool.recipe.spawn().await?);
        zygote.begin(limits, theirs.as_fd()).map_err(|error| {
            Failure::new(Kind::ZygoteLost, format!("a new fork-server is gone already: {error}"))
        })
    }

    async fn retire(&mut self) {
        if let Some(zygote) = self.zygote.take() {
            zygote.end().await;
        }
    }

    /// Cancels the last job although it has ended.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn cancel_late(&mut self) -> bool {
        self.zygote.as_mut().is_some_and(Handle::cancel_late)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(zygote) = self.zygote.take()
            && !self.pool.permits.is_closed()
        {
            self.pool.idle().push(zygote);
        }
    }
}

/// Memory as it is handed out: in whole MiB, rounded up.
fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

fn closed() -> Failure {
    Failure::new(Kind::CannotSpawn, "the sandbox is shut down")
}

/// What is known of the child, as evidence.
fn measure(seen: &Seen, limits: &Limits, features: Features) -> Measured {
    let known = Measured { limits: limits.in_force(), isolation: features.names(), ..Measured::default() };
    match seen {
        Seen::NotForked(_) => known,
        Seen::ZygoteLost { wall, .. } => Measured { wall_ms: millis(*wall), ..known },
        Seen::Ended(report) => {
            let (exit, signal) = super::protocol::exit_and_signal(report.ending);
            Measured {
                wall_ms: millis(report.wall),
                cpu_ms: millis(report.cpu),
                peak_heap_bytes: report.peak_heap_bytes,
                max_rss_bytes: report.max_rss_bytes,
                exit,
                signal,
                phase: board::phase_name(report.phase),
                ..known
            }
        }
    }
}
