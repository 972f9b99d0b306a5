//! What any worker does for all: let jobs in, bring due ones back, take over leases that ran out.
//!
//! Each step is one bounded script; an error costs one turn. Nothing here looks at a job.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info};

use super::Shared;
use super::outage::Outage;
use crate::queue::Ingested;

/// Looks at the inbox for ever, and goes on at once while it finds a full batch.
pub(super) async fn ingest(shared: Arc<Shared>) {
    let mut outage = Outage::default();
    loop {
        match shared.worker.queue.ingest().await {
            Ok(ingested) => {
                outage.over();
                ingested.buried.iter().for_each(|buried| shared.observer.buried(buried));
                if ingested.admitted + ingested.duplicates + ingested.already_done > 0 {
                    let Ingested { admitted, duplicates, already_done, .. } = ingested;
                    debug!(admitted, duplicates, already_done, "ingested");
                }
                if !ingested.more || ingested.full {
                    pause(shared.worker.config.ingest_every).await;
                }
            }
            Err(e) => {
                shared.observer.redis_down(&e.to_string());
                sleep(outage.wait()).await;
            }
        }
    }
}

/// Promotes and reclaims for ever, and looks at the counts on the way.
pub(super) async fn promote_and_reclaim(shared: Arc<Shared>) {
    let mut outage = Outage::default();
    loop {
        match shared.worker.queue.upkeep().await {
            Ok(upkeep) => {
                outage.over();
                upkeep.buried.iter().for_each(|buried| shared.observer.buried(buried));
                if upkeep.reclaimed > 0 {
                    info!(reclaimed = upkeep.reclaimed, "took over leases that ran out");
                }
            }
            Err(e) => {
                shared.observer.redis_down(&e.to_string());
                sleep(outage.wait()).await;
                continue;
            }
        }
        if let Ok(true) = shared.worker.queue.forgot().await {
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
