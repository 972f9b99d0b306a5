//! What any worker does for all: let jobs in, bring due ones back, take over leases that ran out.
//!
//! Each step is one bounded script; an error costs one turn. Nothing here looks at a job.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Shared;
use super::redis_backoff::RedisBackoff;
use crate::queue::{Adopter, Ingested, ListState, Upkeep};
use crate::telemetry::sanitize;

/// How often workers of another system are looked for on lists that are adopted: they come with a deploy, not by the second.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(10);
/// What is told of another system's name for a worker.
const WORKER_BYTES: usize = 200;

/// Looks at adopted lists and the inbox for ever, and goes on at once while it finds a full batch.
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
                shared.observer.redis_down(&e.to_string());
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Moves what stands in adopted lists; true where something did.
async fn adopt(shared: &Shared, adopter: &mut Adopter) -> bool {
    let adopted = match adopter.look().await {
        Ok(adopted) => adopted,
        Err(e) => {
            shared.observer.redis_down(&e.to_string());
            return false;
        }
    };
    for (list, state) in &adopted.changed {
        match state {
            ListState::Adopted => info!(list, "adopted: what comes there is moved to the inbox"),
            ListState::Shared(worker) => {
                let worker = sanitize(worker, WORKER_BYTES);
                warn!(list, worker, "adopted beside a live worker: each job goes to whoever is first");
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

/// Promotes and reclaims for ever, and looks at the counts on the way.
pub(super) async fn promote_and_reclaim(shared: Arc<Shared>) {
    let mut backoff = RedisBackoff::default();
    loop {
        let mut upkeep = Upkeep::default();
        let ran = shared.worker.queue.run_upkeep(&mut upkeep).await;
        upkeep.buried.iter().for_each(|buried| shared.observer.buried(buried));
        shared.observer.evicted(upkeep.evicted);
        if upkeep.reclaimed > 0 {
            info!(reclaimed = upkeep.reclaimed, "took over leases that ran out");
        }
        if let Err(e) = ran {
            shared.observer.redis_down(&e.to_string());
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

/// Between half and one and a half of `time`, so that many workers do not march in step.
async fn pause(time: Duration) {
    sleep(time.mul_f64(0.5 + fastrand::f64())).await;
}
