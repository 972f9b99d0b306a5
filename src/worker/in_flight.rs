//! The jobs in flight: their leases, renewed by one heartbeat, their progress, and how to stop them.
//!
//! Invariant: a running job is registered here until its task ends, however it ends.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use super::Shared;
use super::redis_backoff::RedisBackoff;
use crate::job::duration::millis;
use crate::job::failure::Stage;
use crate::job::{JobId, VersionRef};
use crate::queue::{self, Delivery, Heap, LeaseRef, Presence};
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
}

struct RunningJob {
    lease: LeaseRef,
    stop: Option<oneshot::Sender<StopReason>>,
    from: Option<Uuid>,
    to: Uuid,
    since: Instant,
    progress: StageProgress,
    meter: Meter,
}

/// The stage a job is in, since when, and its time limit there.
struct StageProgress {
    stage: Stage,
    since: Instant,
    limit: Option<Duration>,
}

impl StageProgress {
    fn new(stage: Stage, limit: Option<Duration>) -> Self {
        Self { stage, since: Instant::now(), limit }
    }
}

impl RunningJob {
    fn running(&self, id: &JobId) -> queue::RunningJob {
        queue::RunningJob {
            id: id.clone(),
            from: self.from,
            to: self.to,
            in_flight_ms: millis(self.since.elapsed()),
            stage: self.progress.stage,
            stage_ms: millis(self.progress.since.elapsed()),
            limit_ms: self.progress.limit.map(millis),
            heap: None,
        }
    }
}

/// The jobs in flight, by id. A std mutex: held only for map operations, never across an await.
#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<JobId, RunningJob>>);

/// Deregisters a job when its task ends, however it ends; records its progress until then.
pub(super) struct InFlightGuard<'a> {
    in_flight: &'a InFlight,
    id: JobId,
}

impl InFlightGuard<'_> {
    /// Records that the job entered another stage, with its time limit there.
    pub(super) fn stage_started(&self, stage: Stage, limit: Option<Duration>) {
        if let Some(job) = self.in_flight.jobs().get_mut(&self.id) {
            job.progress = StageProgress::new(stage, limit);
        }
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.in_flight.jobs().remove(&self.id);
    }
}

impl InFlight {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, RunningJob>> {
        // A panic while holding the lock leaves a consistent map: each operation is one call.
        self.0.lock()
    }

    /// Registers a job; the receiver resolves if the job must stop.
    pub(super) fn take(
        &self,
        delivery: &Delivery,
        meter: Meter,
    ) -> (InFlightGuard<'_>, oneshot::Receiver<StopReason>) {
        let (job, (stop, stopped)) = (&delivery.job, oneshot::channel());
        let running = RunningJob {
            lease: delivery.lease(),
            stop: Some(stop),
            from: job.from.given().map(VersionRef::uuid),
            to: job.to.uuid(),
            since: Instant::now(),
            progress: StageProgress::new(Stage::Resolve, None),
            meter,
        };
        self.jobs().insert(job.id.clone(), running);
        (InFlightGuard { in_flight: self, id: job.id.clone() }, stopped)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    fn leases(&self) -> Vec<LeaseRef> {
        self.jobs().values().map(|job| job.lease.clone()).collect()
    }

    /// The running jobs, longest-running first.
    fn running(&self) -> Vec<queue::RunningJob> {
        let job: Vec<_> = self.jobs().iter().map(|(id, job)| (job.running(id), job.meter.clone())).collect();
        // Reads from the kernel after releasing the lock.
        let heap =
            |meter: Meter| meter.read().map(|HeapUse { bytes, limit_bytes }| Heap { bytes, limit_bytes });
        let metered = job.into_iter().map(|(job, meter)| queue::RunningJob { heap: heap(meter), ..job });
        let mut running: Vec<_> = metered.collect();
        running.sort_unstable_by_key(|job| Reverse(job.in_flight_ms));
        running
    }

    fn stop(&self, id: &JobId, why: StopReason) {
        if let Some(stop) = self.jobs().get_mut(id).and_then(|job| job.stop.take()) {
            let _ = stop.send(why);
        }
    }

    /// Stops every job in flight; returns how many.
    pub(super) fn stop_all(&self, why: StopReason) -> usize {
        let mut jobs = self.jobs();
        let senders: Vec<_> = jobs.values_mut().filter_map(|job| job.stop.take()).collect();
        senders.into_iter().filter_map(|stop| stop.send(why).ok()).count()
    }
}

/// Renews all leases in one command, as long as the worker runs, and stops jobs that were lost or cancelled.
pub(super) async fn heartbeat(shared: Arc<Shared>) {
    let mut backoff = RedisBackoff::default();
    loop {
        let mut pause = shared.worker.config.heartbeat;
        let info = Presence {
            phase: shared.phases().now().as_str().to_owned(),
            breakers: shared.breakers.states(),
            in_flight: shared.in_flight.running(),
            ..shared.observer.worker_info()
        };
        match shared.worker.queue.heartbeat(&info, &shared.in_flight.leases()).await {
            Ok(heartbeat) => {
                backoff.reset();
                shared.observer.redis_up();
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
