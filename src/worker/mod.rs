//! The worker: claims jobs as far ahead of its slots as keeps these busy, runs the pipeline, gets a verdict,
//! settles; until it is stopped.
//!
//! It makes no decision about a job (`policy/` does) and has no knowledge of pages (`pipeline/` has). It
//! tracks the jobs in flight, keeps their leases alive, and shuts down in order.
//!
//! Invariant: a delivery ends in exactly one way: settled, released, or lost. If a task panics, its lease
//! expires.

mod alert_words;
mod alerting;
mod background;
mod check_ins;
mod circuit_breakers;
mod claiming;
mod in_flight;
mod load;
mod log_gate;
mod observe;
mod outages;
mod redis_backoff;
mod redis_state;
pub mod shutdown;
mod starvation;
mod summary;
mod task;
mod threshold;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{error, info, warn};

use self::background::{Background, TaskExit};
use self::check_ins::CheckIns;
use self::circuit_breakers::CircuitBreakers;
use self::in_flight::{InFlight, StopReason};
use self::observe::Observer;
pub use self::redis_state::RedisState;
use self::shutdown::{Phase, Phases};
use self::upkeep::LookerRole;
use crate::pipeline::Pipeline;
use crate::policy;
use crate::policy::claim_ahead::{self, ClaimAhead};
use crate::policy::load::LoadLimit;
use crate::queue::{WorkerHandle, WorkerId};
use crate::sandbox::Pool;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Alerts;

/// The least number of jobs at new hosts that a worker may have: as many as one of these hosts may have.
const NEW_HOSTS_MIN: usize = 16;
/// Most jobs whose versions are looked up at once. The db app is asked `api.max_concurrent` (4) things at a time;
/// these are enough to keep that busy, and those behind them are better left to other workers.
const RESOLVING_MAX: usize = 32;
/// Deregistering is optional: it must not delay the shutdown.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the slot of a killed child may take to be returned at shutdown: teardown of the largest heap,
/// plus a margin.
const LEAVE_GRACE: Duration = Duration::from_secs(3);

/// Intervals and limits of the worker itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Interval of the heartbeat that renews all leases in one command.
    #[serde(with = "crate::job::duration")]
    pub heartbeat: Duration,
    /// Interval of polling the inbox and adopted lists.
    #[serde(with = "crate::job::duration")]
    pub ingest_every: Duration,
    /// Interval of promoting due jobs and reclaiming expired leases.
    #[serde(with = "crate::job::duration")]
    pub upkeep_every: Duration,
    /// How long the jobs in flight may take to finish after TERM (the drain deadline).
    #[serde(with = "crate::job::duration")]
    pub drain: Duration,
    /// Memory limit of this process and its children together; 0 reads the container's limit.
    pub memory_limit: ByteSize,
}

/// Everything a worker needs, assembled by the caller.
pub struct Worker {
    /// Intervals and limits of the worker itself.
    pub config: Config,
    /// Attempts, delays and breaker pauses.
    pub policy: policy::Config,
    /// The queue to claim from and settle to.
    pub queue: WorkerHandle,
    /// Runs one job from references to annotation.
    pub pipeline: Pipeline,
    /// The pool of sandboxed children, one slot per job.
    pub pool: Pool,
    /// Counters and gauges of this process.
    pub metrics: Arc<Metrics>,
    /// Sink for dead letters and outages.
    pub alerts: Alerts,
    /// Shutdown phase of this process.
    pub phases: Phases,
    /// This process's id in the queue.
    pub id: WorkerId,
    /// Version of this build, for reports and dead letters.
    pub build: String,
    /// What this worker knows of Redis; shared with the health probes.
    pub redis: Arc<RedisState>,
    /// Most jobs claimed at once, whatever they do (`fetch.in_flight_max`).
    pub in_flight_max: usize,
    /// Exit once the queue is empty.
    pub until_empty: bool,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerExit {
    /// Deliveries released at the drain deadline.
    pub released: usize,
    /// The critical task that ended, if one did: the supervisor must restart the worker.
    pub exited_task: Option<&'static str>,
}

/// State shared by all tasks of one worker.
struct Shared {
    worker: Worker,
    in_flight: InFlight,
    observer: Observer,
    /// Payloads left in adopted lists; unknown before the first look.
    adoptable: AtomicU64,
    breakers: CircuitBreakers,
    looker: LookerRole,
    claim_ahead: Mutex<ClaimAhead>,
    load_limit: Mutex<LoadLimit>,
    /// Held while this worker reports for all.
    reporting: tokio::sync::Mutex<()>,
    check_ins: CheckIns,
}

impl Worker {
    /// Runs until it is stopped or a critical task ends, then shuts down in order.
    pub async fn run(self) -> WorkerExit {
        let observer = Observer::new(&self);
        let limits = claim_ahead::Limits {
            slots: self.pool.stats().slots,
            in_flight: self.in_flight_max,
            resolving: RESOLVING_MAX,
        };
        // The other half is kept for hosts that answer: a wildcard name makes new ones for nothing. With few permits
        // there is nothing to share.
        let new_hosts_max = (self.in_flight_max / 2).max(NEW_HOSTS_MIN);
        self.queue.set_new_hosts_max(u32::try_from(new_hosts_max).unwrap_or(u32::MAX));
        let shared = Arc::new(Shared {
            worker: self,
            in_flight: InFlight::default(),
            observer,
            breakers: CircuitBreakers::default(),
            adoptable: AtomicU64::new(u64::MAX),
            looker: LookerRole::default(),
            claim_ahead: Mutex::new(ClaimAhead::new(limits)),
            load_limit: Mutex::new(LoadLimit::new(limits.slots)),
            reporting: tokio::sync::Mutex::default(),
            check_ins: CheckIns::default(),
        });
        let mut background = Background::default();
        background.start("heartbeat", in_flight::heartbeat(Arc::clone(&shared)));
        background.start("ingest", upkeep::ingest(Arc::clone(&shared)));
        background.start("upkeep", upkeep::look_after_queue(Arc::clone(&shared)));
        background.start("alerting", alerting::report_for_all(Arc::clone(&shared)));
        background.start("load", load::keep_to_the_machine(Arc::clone(&shared)));

        let ended = shared.work(&mut background).await;

        background.shutdown().await;
        let deregistered = timeout(DEREGISTER_TIMEOUT, async {
            shared.observer.sync_outages().await;
            shared.worker.queue.stop_looking(&shared.worker.id).await?;
            shared.worker.queue.leave(&shared.worker.id).await
        });
        let deregistered = deregistered.await;
        if !matches!(deregistered, Ok(Ok(()))) {
            warn!("could not deregister: this worker is listed until its entry expires");
        }
        shared.worker.pool.shutdown().await;
        let alerts = shared.worker.alerts.clone();
        if alerts.is_enabled() {
            let reporting = alerting::report_due(Arc::clone(&shared), true);
            if timeout(alerts.begin_shutdown(), reporting).await.is_err() {
                warn!("Sentry or Redis does not answer: what was to be reported is left to the next worker");
            }
        }
        ended
    }
}

impl Shared {
    fn phases(&self) -> &Phases {
        &self.worker.phases
    }

    /// Claims and runs jobs until the worker stops; shuts down at once if a critical task ends.
    async fn work(self: &Arc<Self>, background: &mut Background) -> WorkerExit {
        let mut tasks = JoinSet::new();
        let work = async {
            self.claim_until_quiet(&mut tasks).await;
            self.shut_down(&mut tasks).await
        };
        tokio::pin!(work);
        let TaskExit { task, why } = tokio::select! {
            ended = &mut work => return ended,
            exited_task = background.exited_task() => exited_task,
        };
        self.observer.task_exited(task, &why);
        // No draining: the leases may no longer be renewed, and a released job is charged nothing.
        self.phases().advance(Phase::Stopped);
        WorkerExit { exited_task: Some(task), ..work.await }
    }

    /// Lets the jobs in flight finish until the deadline, then releases the rest.
    async fn shut_down(&self, tasks: &mut JoinSet<()>) -> WorkerExit {
        if self.phases().now() == Phase::Quiet {
            info!(in_flight = self.in_flight.len(), "quiet: claiming nothing more");
            self.phases().reached(Phase::Draining).await;
        }
        // Counted from the signal, not from when it was handled.
        let deadline = self.phases().since() + self.worker.config.drain;
        info!(in_flight = self.in_flight.len(), drain = ?self.worker.config.drain, "draining");
        // What is only being fetched costs nothing to run elsewhere, and its hosts may be slow.
        let unstarted = self.in_flight.stop_before_child(StopReason::Shutdown);
        tokio::select! {
            () = empty(tasks) => return WorkerExit { released: unstarted, exited_task: None },
            () = sleep_until(deadline) => warn!(in_flight = self.in_flight.len(), "the drain deadline has passed"),
            () = self.phases().reached(Phase::Stopped) => warn!(in_flight = self.in_flight.len(), "stopping at once"),
        }
        let released = unstarted + self.in_flight.stop_all(StopReason::Shutdown);
        if timeout_at(Instant::now() + LEAVE_GRACE, empty(tasks)).await.is_err() {
            error!(
                in_flight = self.in_flight.len(),
                "some jobs could not be released: their leases will expire"
            );
        }
        WorkerExit { released, exited_task: None }
    }
}

async fn empty(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        note_panic(ended);
    }
}

fn join_finished(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        note_panic(ended);
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        error!(error = %e, "a task panicked: its job's lease will expire");
    }
}
