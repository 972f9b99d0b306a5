//! What is in hand: the leases of running jobs, renewed by one beat, where each job is, and the way to stop it.
//!
//! Invariant: a job that runs is in hand until its task ends, whatever way it ends.

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

/// Why a running job is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The lease is no longer ours: write nothing.
    LeaseLost,
    /// Somebody cancelled the job.
    Cancelled,
    /// We leave: hand it back.
    Shutdown,
}

struct RunningJob {
    lease: LeaseRef,
    stop: Option<oneshot::Sender<StopReason>>,
    from: Option<Uuid>,
    to: Uuid,
    since: Instant,
    progress: Progress,
    meter: Meter,
}

/// Where a job is, since when, and how long it may stay.
struct Progress {
    stage: Stage,
    since: Instant,
    limit: Option<Duration>,
}

impl Progress {
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

/// The jobs in hand, by id. A std mutex: job for map operations only, never across an await.
#[derive(Default)]
pub(super) struct InFlight(Mutex<HashMap<JobId, RunningJob>>);

/// Takes a job out of the hand when its task ends, however it ends; until then, says where it is.
pub(super) struct InFlightGuard<'a> {
    in_flight: &'a InFlight,
    id: JobId,
}

impl InFlightGuard<'_> {
    /// The job has come to another stage, where it may stay for so long.
    pub(super) fn stage_started(&self, stage: Stage, limit: Option<Duration>) {
        if let Some(job) = self.in_flight.jobs().get_mut(&self.id) {
            job.progress = Progress::new(stage, limit);
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
        // A panic while holding it leaves a whole map: each operation is one call.
        self.0.lock()
    }

    /// Takes a job in hand; the receiver hears if it must stop.
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
            progress: Progress::new(Stage::Resolve, None),
            meter,
        };
        self.jobs().insert(job.id.clone(), running);
        (InFlightGuard { in_flight: self, id: job.id.clone() }, stopped)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    fn leases(&self) -> Vec<LeaseRef> {
        self.jobs().values().map(|job| job.lease.clone()).collect()
    }

    /// What runs, the longest first.
    fn running(&self) -> Vec<queue::RunningJob> {
        let job: Vec<_> = self.jobs().iter().map(|(id, job)| (job.running(id), job.meter.clone())).collect();
        // The kernel is asked with the map let go.
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

    /// Stops every job in hand; says how many.
    pub(super) fn stop_all(&self, why: StopReason) -> usize {
        let mut jobs = self.jobs();
        let senders: Vec<_> = jobs.values_mut().filter_map(|job| job.stop.take()).collect();
        senders.into_iter().filter_map(|stop| stop.send(why).ok()).count()
    }
}

/// Renews all leases in one command, for as long as the worker lives, and stops what was lost or cancelled.
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
                warn!(error = %e, in_flight = shared.in_flight.len(), "no beat: the leases run on without it");
                shared.observer.redis_down(&e.to_string());
                pause = pause.min(backoff.next_delay());
            }
        }
        shared.observer.sync_outages().await;
        sleep(pause).await;
    }
}
