//! The worker: a permit, a claim, one job's way, a verdict, settled; until it is told to stop.
//!
//! It decides nothing about a job (that is `policy/`) and knows nothing of pages (that is `pipeline/`). It holds what is
//! in hand, keeps the leases alive, and lets go in order.
//!
//! Invariant: a delivery is claimed only with a permit in hand, and leaves by exactly one door: settled, released, or
//! lost. A task that panics leaves by the lease running out.

mod background;
mod circuit_breakers;
mod in_flight;
mod observe;
mod outages;
mod redis_backoff;
pub mod shutdown;
mod summary;
mod task;
mod threshold;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{error, info, warn};

use self::background::{Background, TaskExit};
use self::circuit_breakers::CircuitBreakers;
use self::in_flight::{InFlight, StopReason};
use self::observe::Observer;
use self::shutdown::{Phase, Phases};
use crate::pipeline::Pipeline;
use crate::policy;
use crate::policy::breaker::{ClaimLimit, Dependency};
use crate::queue::{self, CLAIM_MOST, Claim, WorkerHandle, WorkerId};
use crate::sandbox::{Pool, Slot};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Alerts;

/// The longest a claim waits for a nudge before it looks again: a lost nudge costs this much.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// Leaving the list of workers is a courtesy: it does not hold up the end.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the slot of a killed child may take to come back while leaving: teardown of the largest heap, and change.
const LEAVE_GRACE: Duration = Duration::from_secs(3);

/// The worker's own rhythm.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How often all leases in hand are renewed, in one command.
    #[serde(with = "crate::job::duration")]
    pub heartbeat: Duration,
    /// How often the inbox is looked at.
    #[serde(with = "crate::job::duration")]
    pub ingest_every: Duration,
    /// How often retries are promoted and lost leases reclaimed.
    #[serde(with = "crate::job::duration")]
    pub upkeep_every: Duration,
    /// How long what is in hand may go on after TERM.
    #[serde(with = "crate::job::duration")]
    pub drain: Duration,
    /// Memory that this process and its children may use together; 0 reads the container's limit.
    pub memory_limit: ByteSize,
}

/// Everything a worker walks between.
pub struct Worker {
    /// Its rhythm.
    pub config: Config,
    /// Attempts and delays.
    pub policy: policy::Config,
    /// Where jobs come from.
    pub queue: WorkerHandle,
    /// One job's way.
    pub pipeline: Pipeline,
    /// The children.
    pub pool: Pool,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The alerts.
    pub alerts: Alerts,
    /// This process's phase.
    pub phases: Phases,
    /// This process's name in the queue.
    pub id: WorkerId,
    /// This build, as reports and dead letters name it.
    pub build: String,
    /// Whether Redis answered when it was last asked; shared with whoever wants to know.
    pub redis_answers: Arc<AtomicBool>,
    /// Leave when nothing is left to do.
    pub until_empty: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerExit {
    /// Deliveries that were handed back because there was no time left for them.
    pub released: usize,
    /// The task without which it could not go on, where one ended: it is to be started anew.
    pub exited_task: Option<&'static str>,
}

/// What all tasks of one worker share.
struct Shared {
    worker: Worker,
    in_flight: InFlight,
    observer: Observer,
    /// Payloads in adopted lists that are still to be moved; unknown before the first look.
    adoptable: AtomicU64,
    breakers: CircuitBreakers,
}

impl Worker {
    /// Works until told to stop, or until it cannot go on, and lets go in order.
    pub async fn run(self) -> WorkerExit {
        let observer = Observer::new(&self);
        let shared = Arc::new(Shared {
            worker: self,
            in_flight: InFlight::default(),
            observer,
            breakers: CircuitBreakers::default(),
            adoptable: AtomicU64::new(u64::MAX),
        });
        let mut background = Background::default();
        background.start("heartbeat", in_flight::heartbeat(Arc::clone(&shared)));
        background.start("ingest", upkeep::ingest(Arc::clone(&shared)));
        background.start("upkeep", upkeep::promote_and_reclaim(Arc::clone(&shared)));

        let ended = shared.work(&mut background).await;

        background.shutdown().await;
        let deregistered = timeout(DEREGISTER_TIMEOUT, async {
            shared.observer.sync_outages().await;
            shared.worker.queue.leave(&shared.worker.id).await
        });
        let deregistered = deregistered.await;
        if !matches!(deregistered, Ok(Ok(()))) {
            warn!("could not say deregistered: this worker is shown until its entry's time is over");
        }
        shared.worker.pool.shutdown().await;
        ended
    }
}

impl Shared {
    fn phases(&self) -> &Phases {
        &self.worker.phases
    }

    /// Claims and lets go; where a task ends that must not, lets go at once.
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
        // No drain: perhaps nobody renews the leases any more, and what is handed back is charged with nothing.
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
                    self.observer.redis_down(&e.to_string());
                    self.record_failure(Dependency::Redis, begun, Duration::ZERO, &e.to_string());
                }
            }
        }
    }

    /// Claims, after a look at a Redis that is new to us or was away: one that evicts keys would lose what it is given.
    async fn claim(&self, preflighted: &mut bool, most: usize) -> Result<Vec<Claim>, queue::Error> {
        if !*preflighted {
            self.worker.queue.preflight().await?.fit_for_work()?;
            *preflighted = true;
        }
        self.worker.queue.claim_many(&self.worker.id, most).await
    }

    /// The slots that may be claimed for: all that are free, or one and with empty hands where something of ours must
    /// first prove itself; `None` once it was waited for that.
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
            // A lost answer that is given again may hold more than there are slots now.
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
                let (shared, alone) = (Arc::clone(self), delivery.is_exclusive());
                tasks.spawn(async move { task::run(&shared, *delivery, slot).await });
                // Alone, so that blame is certain: nothing else runs in this process while a suspect does.
                if alone {
                    tokio::select! {
                        () = empty(tasks) => {}
                        () = self.phases().reached(Phase::Quiet) => {}
                    }
                }
            }
            Claim::NotNeeded(delivery, skip) => {
                let shared = Arc::clone(self);
                tasks.spawn(async move { task::skip_unneeded(&shared, *delivery, skip).await });
            }
            Claim::Buried(buried) => self.observer.buried(&buried),
            Claim::Exclusive => {
                drop(slot);
                self.rest_or_one_ends(tasks).await;
            }
            Claim::Empty | Claim::Paused | Claim::Full => {
                drop(slot);
                if self.worker.until_empty && tasks.is_empty() && self.nothing_left().await {
                    return ClaimProgress::Everything;
                }
                tokio::select! {
                    () = self.worker.queue.wait(IDLE_WAIT) => {}
                    () = self.phases().reached(Phase::Quiet) => {}
                }
            }
        }
        ClaimProgress::Something
    }

    async fn nothing_left(&self) -> bool {
        // Asked first: what is moved meanwhile stands in the inbox then.
        let adopted = self.adoptable.load(Ordering::Relaxed) == 0;
        adopted && self.worker.queue.status().await.is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0)
    }

    /// Waits until a job in hand ends, but not for long.
    async fn rest_or_one_ends(&self, tasks: &mut JoinSet<()>) {
        tokio::select! {
            Some(ended) = tasks.join_next() => note_panic(ended),
            () = self.rest(IDLE_WAIT) => {}
        }
    }

    /// Waits, but not past the moment somebody asks us to stop.
    async fn rest(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.phases().reached(Phase::Quiet)).await;
    }

    /// Lets what is in hand finish until the deadline, then hands the rest back.
    async fn shut_down(&self, tasks: &mut JoinSet<()>) -> WorkerExit {
        if self.phases().now() == Phase::Quiet {
            info!(in_flight = self.in_flight.len(), "quiet: claiming nothing more");
            self.phases().reached(Phase::Draining).await;
        }
        // From the signal on, not from when it was heeded.
        let deadline = self.phases().since() + self.worker.config.drain;
        info!(in_flight = self.in_flight.len(), drain = ?self.worker.config.drain, "draining");
        tokio::select! {
            () = empty(tasks) => return WorkerExit::default(),
            () = sleep_until(deadline) => warn!(in_flight = self.in_flight.len(), "the drain deadline has passed"),
            () = self.phases().reached(Phase::Stopped) => warn!(in_flight = self.in_flight.len(), "told to leave now"),
        }
        let released = self.in_flight.stop_all(StopReason::Shutdown);
        if timeout_at(Instant::now() + LEAVE_GRACE, empty(tasks)).await.is_err() {
            error!(
                in_flight = self.in_flight.len(),
                "some jobs could not be handed back: their leases will run out"
            );
        }
        WorkerExit { released, exited_task: None }
    }
}

/// Whether there is more to claim.
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
        error!(error = %e, "a task died: its job's lease will run out");
    }
}
