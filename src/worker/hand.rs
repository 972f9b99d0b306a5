//! What is in hand: the leases of running jobs, renewed by one beat, and the way to stop each of them.
//!
//! Invariant: a job that runs is in hand until its task ends, whatever way it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::warn;

use super::Shared;
use super::outage::Outage;
use crate::job::JobId;
use crate::queue::LeaseRef;

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
}

/// The jobs in hand, by id. A std mutex: held for map operations only, never across an await.
#[derive(Default)]
pub(super) struct Hand(Mutex<HashMap<JobId, Held>>);

/// Takes a job out of the hand when its task ends, however it ends.
pub(super) struct Grip<'a> {
    hand: &'a Hand,
    id: JobId,
}

impl Drop for Grip<'_> {
    fn drop(&mut self) {
        self.hand.jobs().remove(&self.id);
    }
}

impl Hand {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Held>> {
        // A panic while holding it leaves a whole map: each operation is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in hand; the receiver hears if it must stop.
    pub(super) fn take(&self, id: JobId, lease: LeaseRef) -> (Grip<'_>, oneshot::Receiver<Halt>) {
        let (halt, stopped) = oneshot::channel();
        self.jobs().insert(id.clone(), Held { lease, halt: Some(halt) });
        (Grip { hand: self, id }, stopped)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.jobs().len()
    }

    fn leases(&self) -> Vec<LeaseRef> {
        self.jobs().values().map(|held| held.lease.clone()).collect()
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
        let info = shared.observer.worker_info(shared.phases().now(), shared.fire.states());
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
        sleep(pause).await;
    }
}
