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
use super::outage::Outage;
use crate::job::duration::millis;
use crate::job::failure::Stage;
use crate::job::{JobId, VersionRef};
use crate::queue::{Delivery, Heap, LeaseRef, Presence, Running};
use crate::sandbox::{HeapUse, Meter};

/// Why a running job is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// The lease is no longer ours: write nothing.
    Lost,
    /// Somebody cancelled the job.
    Cancelled,
    /// We leave: hand it back.
    Leave,
}

struct Held {
    lease: LeaseRef,
    halt: Option<oneshot::Sender<Halt>>,
    from: Option<Uuid>,
    to: Uuid,
    since: Instant,
    place: Place,
    meter: Meter,
}

/// Where a job is, since when, and how long it may stay.
struct Place {
    stage: Stage,
    since: Instant,
    limit: Option<Duration>,
}

impl Place {
    fn new(stage: Stage, limit: Option<Duration>) -> Self {
        Self { stage, since: Instant::now(), limit }
    }
}

impl Held {
    fn running(&self, id: &JobId) -> Running {
        Running {
            id: id.clone(),
            from: self.from,
            to: self.to,
            running_ms: millis(self.since.elapsed()),
            stage: self.place.stage,
            stage_ms: millis(self.place.since.elapsed()),
            limit_ms: self.place.limit.map(millis),
            heap: None,
        }
    }
}

/// The jobs in hand, by id. A std mutex: held for map operations only, never across an await.
#[derive(Default)]
pub(super) struct Hand(Mutex<HashMap<JobId, Held>>);

/// Takes a job out of the hand when its task ends, however it ends; until then, says where it is.
pub(super) struct Grip<'a> {
    hand: &'a Hand,
    id: JobId,
}

impl Grip<'_> {
    /// The job has come to another stage, where it may stay for so long.
    pub(super) fn reaches(&self, stage: Stage, limit: Option<Duration>) {
        if let Some(held) = self.hand.jobs().get_mut(&self.id) {
            held.place = Place::new(stage, limit);
        }
    }
}

impl Drop for Grip<'_> {
    fn drop(&mut self) {
        self.hand.jobs().remove(&self.id);
    }
}

impl Hand {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Held>> {
        // A panic while holding it leaves a whole map: each operation is one call.
        self.0.lock()
    }

    /// Takes a job in hand; the receiver hears if it must stop.
    pub(super) fn take(&self, delivery: &Delivery, meter: Meter) -> (Grip<'_>, oneshot::Receiver<Halt>) {
        let (job, (halt, stopped)) = (&delivery.job, oneshot::channel());
        let held = Held {
            lease: delivery.lease(),
            halt: Some(halt),
            from: job.from.given().map(VersionRef::uuid),
            to: job.to.uuid(),
            since: Instant::now(),
            place: Place::new(Stage::Resolve, None),
            meter,
        };
        self.jobs().insert(job.id.clone(), held);
        (Grip { hand: self, id: job.id.clone() }, stopped)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    fn leases(&self) -> Vec<LeaseRef> {
        self.jobs().values().map(|held| held.lease.clone()).collect()
    }

    /// What runs, the longest first.
    fn running(&self) -> Vec<Running> {
        let held: Vec<_> =
            self.jobs().iter().map(|(id, held)| (held.running(id), held.meter.clone())).collect();
        // The kernel is asked with the map let go.
        let heap =
            |meter: Meter| meter.read().map(|HeapUse { bytes, limit_bytes }| Heap { bytes, limit_bytes });
        let metered = held.into_iter().map(|(job, meter)| Running { heap: heap(meter), ..job });
        let mut running: Vec<_> = metered.collect();
        running.sort_unstable_by_key(|job| Reverse(job.running_ms));
        running
    }

    fn halt(&self, id: &JobId, why: Halt) {
        if let Some(halt) = self.jobs().get_mut(id).and_then(|held| held.halt.take()) {
            let _ = halt.send(why);
        }
    }

    /// Stops every job in hand; says how many.
    pub(super) fn halt_all(&self, why: Halt) -> usize {
        let mut jobs = self.jobs();
        let halts: Vec<_> = jobs.values_mut().filter_map(|held| held.halt.take()).collect();
        halts.into_iter().filter_map(|halt| halt.send(why).ok()).count()
    }
}

/// Renews all leases in one command, for as long as the worker lives, and stops what was lost or cancelled.
pub(super) async fn beat(shared: Arc<Shared>) {
    let mut outage = Outage::default();
    loop {
        let mut pause = shared.worker.config.beat;
        let info = Presence {
            phase: shared.phases().now().as_str().to_owned(),
            breakers: shared.fire.states(),
            running: shared.hand.running(),
            ..shared.observer.worker_info()
        };
        match shared.worker.queue.beat(&info, &shared.hand.leases()).await {
            Ok(beat) => {
                outage.over();
                shared.observer.redis_up();
                beat.lost.iter().for_each(|id| shared.hand.halt(id, Halt::Lost));
                beat.cancelled.iter().for_each(|id| shared.hand.halt(id, Halt::Cancelled));
            }
            Err(e) => {
                warn!(error = %e, in_hand = shared.hand.len(), "no beat: the leases run on without it");
                shared.observer.redis_down(&e.to_string());
                pause = pause.min(outage.wait());
            }
        }
        shared.observer.agree().await;
        sleep(pause).await;
    }
}
