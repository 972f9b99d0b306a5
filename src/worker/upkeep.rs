//! Work that any worker does for the whole queue: admit jobs, promote due ones, reclaim expired leases.
//!
//! Each step is one bounded script; an error skips one round. Nothing here interprets a job.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Shared;
use super::redis_backoff::RedisBackoff;
use crate::queue::{Adopter, Ingested, ListState, Upkeep};
use crate::telemetry::sanitize;

/// How often adopted lists are checked for workers of another system: these change with a deploy, not by the
/// second.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(10);
/// Length limit in bytes for another system's worker name in a log line.
const WORKER_BYTES: usize = 200;

/// Polls adopted lists and the inbox for ever, without a pause while it finds full batches.
pub(super) async fn ingest(shared: Arc<Shared>) {
    let mut adopter = shared.worker.queue.adopter(LOOK_AROUND_EVERY);
    let mut backoff = RedisBackoff::default();
    loop {
        let moved = adopt(&shared, &mut adopter).await;
        match shared.worker.queue.ingest().await {
            Ok(ingested) => {
                backoff.reset();
                ingested.buried.iter().for_each(|buried| shared.observer.buried(buried));
                if ingested.admitted + ingested.duplicates + ingested.already_done > 0 {
                    let Ingested { admitted, duplicates, already_done, .. } = ingested;
                    debug!(admitted, duplicates, already_done, "ingested");
                }
                if !(ingested.more || moved) || ingested.full {
                    pause(shared.worker.config.ingest_every).await;
                }
            }
            Err(e) => {
                shared.observer.redis_down(&e);
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Moves payloads from adopted lists to the inbox; true if any were moved.
async fn adopt(shared: &Shared, adopter: &mut Adopter) -> bool {
    let adopted = match adopter.look().await {
        Ok(adopted) => adopted,
        Err(e) => {
            shared.observer.redis_down(&e);
            return false;
        }
    };
    for (list, state) in &adopted.changed {
        match state {
            ListState::Adopted => info!(list, "adopted: its jobs are moved to the inbox"),
            ListState::Shared(worker) => {
                let worker = sanitize(worker, WORKER_BYTES);
                warn!(
                    list,
                    worker, "adopted beside a live worker: each job goes to the worker that takes it first"
                );
            }
            ListState::Theirs(worker) => {
                let worker = sanitize(worker, WORKER_BYTES);
                warn!(
                    list,
                    worker,
                    "not adopted: this worker is alive on it; stop it, or set queue.adopt_beside_others"
                );
            }
            ListState::Refused(why) => warn!(list, why, "not adopted"),
        }
    }
    shared.adoptable.store(adopted.left, Ordering::Relaxed);
    adopted.moved > 0
}

/// Promotes and reclaims for ever, and exports the queue's counts.
pub(super) async fn promote_and_reclaim(shared: Arc<Shared>) {
    let mut backoff = RedisBackoff::default();
    loop {
        let mut upkeep = Upkeep::default();
        let ran = shared.worker.queue.run_upkeep(&mut upkeep).await;
        upkeep.buried.iter().for_each(|buried| shared.observer.buried(buried));
        shared.observer.evicted(upkeep.evicted);
        if upkeep.reclaimed > 0 {
            info!(reclaimed = upkeep.reclaimed, "reclaimed expired leases");
        }
        if let Err(e) = ran {
            shared.observer.redis_down(&e);
            sleep(backoff.next_delay()).await;
            continue;
        }
        backoff.reset();
        if let Ok(true) = shared.worker.queue.has_lost_queue().await {
            shared.observer.forgotten();
        }
        if let Ok(status) = shared.worker.queue.status().await {
            shared.observer.look(&status);
        }
        pause(shared.worker.config.upkeep_every).await;
    }
}

/// Between 0.5 and 1.5 times `time`, so that workers do not run in lockstep.
async fn pause(time: Duration) {
    sleep(time.mul_f64(0.5 + fastrand::f64())).await;
}
