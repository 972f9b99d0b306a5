//! The worker: waits for a free slot, claims a job, runs the pipeline, gets a verdict, settles; until it is
//! stopped.
//!
//! It makes no decision about a job (`policy/` does) and has no knowledge of pages (`pipeline/` has). It
//! tracks the jobs in flight, keeps their leases alive, and shuts down in order.
//!
//! Invariant: a delivery is claimed only for a free slot, and ends in exactly one way: settled, released, or
//! lost. If a task panics, its lease expires.

mod background;
mod circuit_breakers;
mod in_flight;
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{Instrument as _, Span, error, info, info_span, warn};

use self::background::{Background, TaskExit};
use self::circuit_breakers::CircuitBreakers;
use self::in_flight::{InFlight, StopReason};
use self::observe::Observer;
pub use self::redis_state::RedisState;
use self::shutdown::{Phase, Phases};
use self::upkeep::LookerRole;
use crate::pipeline::Pipeline;
use crate::policy;
use crate::policy::breaker::{ClaimLimit, Dependency};
use crate::queue::{self, CLAIM_MOST, Claim, Delivery, WorkerHandle, WorkerId};
use crate::sandbox::{Pool, Slot};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Alerts;

/// The longest a claim waits for a wake-up before it polls again. A wake-up that was lost is replaced by the looker
/// within a second; this covers the looker's own end.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// The same where what is waited for has no wake-up: another job's end, room in Redis, the end of `--until-empty`.
const SHORT_WAIT: Duration = Duration::from_millis(500);
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
}

impl Worker {
    /// Runs until it is stopped or a critical task ends, then shuts down in order.
    pub async fn run(self) -> WorkerExit {
        let observer = Observer::new(&self);
        let shared = Arc::new(Shared {
            worker: self,
            in_flight: InFlight::default(),
            observer,
            breakers: CircuitBreakers::default(),
            adoptable: AtomicU64::new(u64::MAX),
            looker: LookerRole::default(),
        });
        let mut background = Background::default();
        background.start("heartbeat", in_flight::heartbeat(Arc::clone(&shared)));
        background.start("ingest", upkeep::ingest(Arc::clone(&shared)));
        background.start("upkeep", upkeep::look_after_queue(Arc::clone(&shared)));

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

    async fn claim_until_quiet(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let mut preflighted = false;
        while self.phases().now() == Phase::Running {
            join_finished(tasks);
            let slot = tokio::select! {
                slot = self.worker.pool.acquire() => slot,
                () = self.phases().reached(Phase::Quiet) => break,
            };
            let Some(mut slots) = self.may_claim_for(slot, tasks).await else { continue };
            let begun = std::time::Instant::now();
            match self.claim(&mut preflighted, slots.len()).await {
                Ok(claims) => {
                    self.record_success(Dependency::Redis, begun);
                    self.observer.redis_up();
                    slots.truncate(claims.len());
                    if self.take_all(claims, slots, tasks).await == ClaimProgress::Everything {
                        break;
                    }
                }
                Err(e) => {
                    drop(slots);
                    preflighted = false;
                    self.observer.redis_failed(&e);
                    self.record_failure(Dependency::Redis, begun, Duration::ZERO, &e.to_string());
                }
            }
        }
    }

    /// Claims jobs, after checking a Redis that is new or was away: one that evicts keys would lose the
    /// queue's data.
    async fn claim(&self, preflighted: &mut bool, most: usize) -> Result<Vec<Claim>, queue::Error> {
        if !*preflighted {
            self.worker.queue.preflight().await?.fit_for_work()?;
            self.observer.settings_differ(&self.worker.queue.seed_settings().await?);
            self.check_lost_queue().await?;
            *preflighted = true;
        }
        self.worker.queue.claim_many(&self.worker.id, most).await
    }

    /// Reports a queue whose keys are gone since this worker first saw them.
    async fn check_lost_queue(&self) -> Result<(), queue::Error> {
        let known = self.looker.knows_queue();
        let lost = self.worker.queue.has_lost_queue().await?;
        self.looker.saw_queue();
        if known && lost {
            self.observer.forgotten();
            self.worker.queue.seed_settings().await?;
        }
        Ok(())
    }

    /// The slots to claim for: all that are free, or a single one with nothing in flight while a breaker is
    /// half open. `None` if it had to wait; the caller must call again.
    async fn may_claim_for(&self, slot: Slot, tasks: &mut JoinSet<()>) -> Option<Vec<Slot>> {
        match self.breakers.claim_limit() {
            ClaimLimit::Unlimited => {
                let free = std::iter::from_fn(|| self.worker.pool.try_acquire());
                return Some(std::iter::once(slot).chain(free).take(CLAIM_MOST).collect());
            }
            ClaimLimit::OneAtATime if tasks.is_empty() => return Some(vec![slot]),
            ClaimLimit::OneAtATime => {
                drop(slot);
                self.rest_or_one_ends(tasks).await;
            }
            ClaimLimit::PausedFor(pause) => {
                drop(slot);
                self.rest(pause).await;
            }
        }
        None
    }

    async fn take_all(
        self: &Arc<Self>,
        claims: Vec<Claim>,
        mut slots: Vec<Slot>,
        tasks: &mut JoinSet<()>,
    ) -> ClaimProgress {
        for claim in claims {
            // A reply that was lost and is returned again may hold more jobs than there are free slots now.
            let slot = match slots.pop() {
                Some(slot) => slot,
                None => self.worker.pool.acquire().await,
            };
            if self.take(claim, slot, tasks).await == ClaimProgress::Everything {
                return ClaimProgress::Everything;
            }
        }
        ClaimProgress::Something
    }

    async fn take(self: &Arc<Self>, claim: Claim, slot: Slot, tasks: &mut JoinSet<()>) -> ClaimProgress {
        match claim {
            Claim::Delivery(delivery) => {
                self.observer.has_room();
                let (shared, alone) = (Arc::clone(self), delivery.is_exclusive());
                let span = job_span(&delivery);
                tasks.spawn(async move { task::run(&shared, *delivery, slot).await }.instrument(span));
                // Alone, so that a crash has one possible cause: nothing else runs in this process beside a
                // suspect.
                if alone {
                    tokio::select! {
                        () = empty(tasks) => {}
                        () = self.phases().reached(Phase::Quiet) => {}
                    }
                }
            }
            Claim::NotNeeded(delivery, skip) => {
                let (shared, span) = (Arc::clone(self), job_span(&delivery));
                tasks.spawn(
                    async move { task::skip_unneeded(&shared, *delivery, skip).await }.instrument(span),
                );
            }
            Claim::Buried(buried) => self.observer.buried(&buried),
            Claim::Exclusive => {
                drop(slot);
                self.rest_or_one_ends(tasks).await;
            }
            Claim::NoRoom(why) => {
                drop(slot);
                self.observer.no_room(why);
                self.rest(SHORT_WAIT).await;
            }
            Claim::Empty | Claim::Paused | Claim::Full => {
                drop(slot);
                if self.worker.until_empty && tasks.is_empty() && self.nothing_left().await {
                    return ClaimProgress::Everything;
                }
                let wait = if self.worker.until_empty { SHORT_WAIT } else { IDLE_WAIT };
                tokio::select! {
                    () = self.worker.queue.wait(wait) => {}
                    () = self.phases().reached(Phase::Quiet) => {}
                }
            }
        }
        ClaimProgress::Something
    }

    async fn nothing_left(&self) -> bool {
        // Read first: payloads moved after this are in the inbox by then.
        let adopted = self.adoptable.load(Ordering::Relaxed) == 0;
        adopted && self.worker.queue.glance().await.is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0)
    }

    /// Waits until a job in flight ends, up to a limit.
    async fn rest_or_one_ends(&self, tasks: &mut JoinSet<()>) {
        tokio::select! {
            Some(ended) = tasks.join_next() => note_panic(ended),
            () = self.rest(SHORT_WAIT) => {}
        }
    }

    /// Waits for `time`, or until a shutdown is requested.
    async fn rest(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.phases().reached(Phase::Quiet)).await;
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
        tokio::select! {
            () = empty(tasks) => return WorkerExit::default(),
            () = sleep_until(deadline) => warn!(in_flight = self.in_flight.len(), "the drain deadline has passed"),
            () = self.phases().reached(Phase::Stopped) => warn!(in_flight = self.in_flight.len(), "stopping at once"),
        }
        let released = self.in_flight.stop_all(StopReason::Shutdown);
        if timeout_at(Instant::now() + LEAVE_GRACE, empty(tasks)).await.is_err() {
            error!(
                in_flight = self.in_flight.len(),
                "some jobs could not be released: their leases will expire"
            );
        }
        WorkerExit { released, exited_task: None }
    }
}

/// The result of one round of claiming.
#[derive(PartialEq, Eq)]
enum ClaimProgress {
    Something,
    Everything,
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

/// The span of one delivery: every log line of its task has the job, its pair and the sender's trace.
fn job_span(delivery: &Delivery) -> Span {
    let job = &delivery.job;
    info_span!("job", id = %job.id, pair = job.pair(), traceparent = job.traceparent.as_deref())
}
