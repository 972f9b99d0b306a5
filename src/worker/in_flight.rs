//! The jobs in flight: their leases, renewed by one heartbeat, where they are, and how to stop them.
//!
//! Invariant: a job is registered here until its task ends, however it ends. One that has not entered a child
//! can be released as if it had never been claimed.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tracing::{info, warn};
use uuid::Uuid;

use super::Shared;
use super::redis_backoff::RedisBackoff;
use super::shutdown::Phase;
use crate::api::{Api, ObservedApp};
use crate::job::duration::millis;
use crate::job::failure::Stage;
use crate::job::{JobId, VersionRef};
use crate::policy::claim_ahead::JobCounts;
use crate::queue::{self, Delivery, Heap, LeaseRef, Presence, WorkerRequest};
use crate::sandbox::{HeapUse, Meter};

/// Why a running job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The lease is lost: write nothing.
    LeaseLost,
    /// An operator cancelled the job.
    Cancelled,
    /// The worker is stopping: release the job.
    Shutdown,
    /// A suspect must run with nothing else in flight: release the job.
    ExclusiveNext,
}

/// Where a job is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Resolving,
    Fetching,
    /// Both bodies are here; waits for a slot.
    Waiting,
    InChild,
    Storing,
    Delivering,
    Settling,
}

impl Position {
    /// The position that a stage of the pipeline begins.
    fn of(stage: Stage) -> Self {
        match stage {
            Stage::Ingest | Stage::Resolve => Self::Resolving,
            Stage::Fetch => Self::Fetching,
            Stage::Queue => Self::Waiting,
            Stage::Analyse => Self::InChild,
            Stage::Store => Self::Storing,
            Stage::Deliver => Self::Delivering,
        }
    }

    /// The stage as the queue's status shows it.
    fn stage(self) -> Stage {
        match self {
            Self::Resolving => Stage::Resolve,
            Self::Fetching => Stage::Fetch,
            Self::Waiting | Self::Settling => Stage::Queue,
            Self::InChild => Stage::Analyse,
            Self::Storing => Stage::Store,
            Self::Delivering => Stage::Deliver,
        }
    }

    fn is_before_child(self) -> bool {
        match self {
            Self::Resolving | Self::Fetching | Self::Waiting => true,
            Self::InChild | Self::Storing | Self::Delivering | Self::Settling => false,
        }
    }
}

struct RunningJob {
    lease: LeaseRef,
    stop: Option<oneshot::Sender<StopReason>>,
    from: Option<Uuid>,
    to: Uuid,
    since: Instant,
    progress: JobProgress,
    /// Of its child, once it has one.
    meter: Option<Meter>,
    exclusive: bool,
}

/// Where a job is, since when, and its time limit there.
struct JobProgress {
    position: Position,
    since: Instant,
    limit: Option<Duration>,
}

impl JobProgress {
    fn new(position: Position, limit: Option<Duration>) -> Self {
        Self { position, since: Instant::now(), limit }
    }
}

impl RunningJob {
    fn running(&self, id: &JobId) -> queue::RunningJob {
        queue::RunningJob {
            id: id.clone(),
            from: self.from,
            to: self.to,
            in_flight_ms: millis(self.since.elapsed()),
            stage: self.progress.position.stage(),
            stage_ms: millis(self.progress.since.elapsed()),
            limit_ms: self.progress.limit.map(millis),
            heap: None,
        }
    }
}

/// The jobs in flight, by id. A lock that is held only for map operations, never across an await.
#[derive(Default)]
pub(super) struct InFlight {
    jobs: Mutex<HashMap<JobId, RunningJob>>,
    changed: Notify,
}

/// Deregisters a job when its task ends, however it ends; records where it is until then.
pub(super) struct InFlightGuard<'a> {
    in_flight: &'a InFlight,
    id: JobId,
}

impl InFlightGuard<'_> {
    /// Records that the job entered another stage, with its time limit there.
    pub(super) fn stage_started(&self, stage: Stage, limit: Option<Duration>) {
        self.moved(JobProgress::new(Position::of(stage), limit), None);
    }

    /// Records that the job is given to a child, which `meter` measures.
    pub(super) fn entered_child(&self, limit: Duration, meter: Meter) {
        self.moved(JobProgress::new(Position::InChild, Some(limit)), Some(meter));
    }

    /// Records that the job has left the pipeline.
    pub(super) fn settling(&self) {
        self.moved(JobProgress::new(Position::Settling, None), None);
    }

    fn moved(&self, progress: JobProgress, meter: Option<Meter>) {
        if let Some(job) = self.in_flight.jobs().get_mut(&self.id) {
            (job.progress, job.meter) = (progress, meter);
        }
        self.in_flight.changed.notify_one();
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.in_flight.jobs().remove(&self.id);
        self.in_flight.changed.notify_one();
    }
}

impl InFlight {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, RunningJob>> {
        // A panic while holding the lock leaves a consistent map: each operation is one call.
        self.jobs.lock()
    }

    /// Registers a job that was claimed, before its task runs: what is claimed next depends on it. The receiver
    /// resolves if the job must stop; its task must take the [`guard`](Self::guard).
    pub(super) fn register(&self, delivery: &Delivery) -> oneshot::Receiver<StopReason> {
        let (job, (stop, stopped)) = (&delivery.job, oneshot::channel());
        let running = RunningJob {
            lease: delivery.lease(),
            stop: Some(stop),
            from: job.from.given().map(VersionRef::uuid),
            to: job.to.uuid(),
            since: Instant::now(),
            progress: JobProgress::new(Position::Resolving, None),
            meter: None,
            exclusive: delivery.is_exclusive(),
        };
        self.jobs().insert(job.id.clone(), running);
        stopped
    }

    /// The guard of a registered job.
    pub(super) fn guard(&self, id: &JobId) -> InFlightGuard<'_> {
        InFlightGuard { in_flight: self, id: id.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    /// Waits until a job has moved on, or has moved since this was last awaited. For one waiter.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the jobs do.
    pub(super) fn counts(&self) -> JobCounts {
        let mut counts = JobCounts::default();
        for job in self.jobs().values() {
            *match job.progress.position {
                Position::Resolving => &mut counts.resolving,
                Position::Fetching => &mut counts.fetching,
                Position::Waiting => &mut counts.waiting,
                Position::InChild => &mut counts.in_child,
                Position::Storing | Position::Delivering | Position::Settling => &mut counts.ending,
            } += 1;
        }
        counts
    }

    fn leases(&self) -> Vec<LeaseRef> {
        self.jobs().values().map(|job| job.lease.clone()).collect()
    }

    /// The running jobs: those in a child first, then the longest-running.
    fn running(&self) -> Vec<queue::RunningJob> {
        let job: Vec<_> = self.jobs().iter().map(|(id, job)| (job.running(id), job.meter.clone())).collect();
        // Reads from the kernel after releasing the lock.
        let heap =
            |meter: Meter| meter.read().map(|HeapUse { bytes, limit_bytes }| Heap { bytes, limit_bytes });
        let metered =
            job.into_iter().map(|(job, meter)| queue::RunningJob { heap: meter.and_then(heap), ..job });
        let mut running: Vec<_> = metered.collect();
        running.sort_unstable_by_key(|job| (job.stage != Stage::Analyse, Reverse(job.in_flight_ms)));
        running
    }

    fn stop(&self, id: &JobId, why: StopReason) {
        if let Some(stop) = self.jobs().get_mut(id).and_then(|job| job.stop.take()) {
            let _ = stop.send(why);
        }
    }

    /// Stops every job in flight; returns how many.
    pub(super) fn stop_all(&self, why: StopReason) -> usize {
        self.stop_where(|_| true, why)
    }

    /// Stops every job that has not entered a child; returns how many.
    pub(super) fn stop_before_child(&self, why: StopReason) -> usize {
        self.stop_where(|job| job.progress.position.is_before_child(), why)
    }

    /// Whether a job runs here that must have nothing beside it.
    pub(super) fn has_exclusive(&self) -> bool {
        self.jobs().values().any(|job| job.exclusive)
    }

    fn stop_where(&self, stops: impl Fn(&RunningJob) -> bool, why: StopReason) -> usize {
        let mut jobs = self.jobs();
        let senders: Vec<_> =
            jobs.values_mut().filter(|job| stops(job)).filter_map(|job| job.stop.take()).collect();
        senders.into_iter().filter_map(|stop| stop.send(why).ok()).count()
    }
}

/// Does what an operator asks through Redis, as a signal would have it done; asked anew with each heartbeat.
fn obey(shared: &Shared, request: WorkerRequest) {
    let phase = match request {
        WorkerRequest::Quiet => Phase::Quiet,
        WorkerRequest::Stop => Phase::Draining,
    };
    if shared.phases().advance(phase) {
        info!(%request, "an operator asked for it");
    }
}

/// Renews all leases in one command, as long as the worker runs, and stops jobs that were lost or cancelled.
pub(super) async fn heartbeat(shared: Arc<Shared>) {
    let mut backoff = RedisBackoff::default();
    loop {
        let mut pause = shared.worker.config.heartbeat;
        let info = Presence {
            phase: shared.phases().now().as_str().to_owned(),
            slots_limited_by: shared.load_limit.lock().overload().map(|why| why.as_str().to_owned()),
            breakers: shared.breakers.states(),
            breaker_reasons: shared.breakers.reasons(),
            db_app: shared.worker.pipeline.api.as_deref().map(db_app_in_words).unwrap_or_default(),
            in_flight: shared.in_flight.running(),
            ..shared.observer.worker_info(shared.in_flight.counts())
        };
        match shared.worker.queue.heartbeat(&info, &shared.in_flight.leases()).await {
            Ok(heartbeat) => {
                backoff.reset();
                shared.observer.redis_up();
                if let Some(request) = heartbeat.asked {
                    obey(&shared, request);
                }
                heartbeat.lost.iter().for_each(|id| shared.in_flight.stop(id, StopReason::LeaseLost));
                heartbeat.cancelled.iter().for_each(|id| shared.in_flight.stop(id, StopReason::Cancelled));
            }
            Err(e) => {
                warn!(error = %e, in_flight = shared.in_flight.len(), "heartbeat failed: the leases were not renewed");
                shared.observer.redis_failed(&e);
                pause = pause.min(backoff.next_delay());
            }
        }
        shared.observer.sync_outages().await;
        sleep(pause).await;
    }
}
/// `db.example.org as analyst@example.org, may annotate`, as far as it is known.
fn db_app_in_words(app: &Api) -> String {
    let ObservedApp { account, may_annotate, read_only } = app.observed();
    let account = account.map(|account| format!(" as {account}")).unwrap_or_default();
    let rights = match (app.posts(), read_only, may_annotate) {
        (false, ..) => ", posts nothing",
        (true, true, _) => ", read-only",
        (true, false, Some(true)) => ", may annotate",
        (true, false, Some(false)) => ", may not annotate",
        (true, false, None) => "",
    };
    format!("{}{account}{rights}", app.host())
}
