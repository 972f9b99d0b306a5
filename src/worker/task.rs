//! One delivery's life in this process: its way through the pipeline, its verdict, and the settling of it.

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Shared;
use super::hand::Halt;
use super::observe::Account;
use super::outage::Outage;
use crate::job::failure::{Failure, Kind};
use crate::job::outcome::{Outcome, Skip, SkipReason};
use crate::job::verdict::Verdict;
use crate::pipeline::Walk;
use crate::policy::judge::{Evidence, House, judge};
use crate::queue::{Delivery, LeaseRef, Settled};
use crate::sandbox::Slot;

/// How the work on a delivery ended.
enum Ending {
    Walked(Walk),
    Halted(Halt),
}

/// Works on one delivery until it is settled, handed back, or lost.
pub(super) async fn run(shared: &Shared, delivery: Delivery, mut slot: Slot) {
    let (_grip, halted) = shared.hand.take(delivery.job.id.clone(), delivery.lease());
    let lease = delivery.lease();
    let confirm = async || still_ours(shared, &lease).await;
    let pipeline = &shared.worker.pipeline;
    let ending = tokio::select! {
        walk = pipeline.walk(&delivery.job, delivery.granted, &mut slot, confirm) => Ending::Walked(walk),
        Ok(halt) = halted => Ending::Halted(halt),
    };
    drop(slot);
    match ending {
        Ending::Walked(walk) => conclude(shared, delivery, walk).await,
        Ending::Halted(Halt::Cancelled) => {
            forgo(shared, delivery, Skip::new(SkipReason::Cancelled, "cancelled while it ran")).await;
        }
        Ending::Halted(Halt::Lost) => shared.observer.superseded(&delivery.job.id),
        Ending::Halted(Halt::Leave) => hand_back(shared, delivery).await,
    }
}

/// Asks before something is written outside of Redis; an unknown answer is no yes, and our own fault.
async fn still_ours(shared: &Shared, lease: &LeaseRef) -> Result<(), Failure> {
    let no = |why: String| Err(Failure::new(Kind::ApiUnavailable, format!("nothing was posted: {why}")));
    match shared.worker.queue.confirm(lease).await {
        Ok(true) => Ok(()),
        Ok(false) => no("the lease was lost".to_owned()),
        Err(e) => no(format!("the lease could not be confirmed: {e}")),
    }
}

/// Settles what nobody needs any more.
pub(super) async fn forgo(shared: &Shared, delivery: Delivery, skip: Skip) {
    conclude(shared, delivery, Walk::of(Outcome::Skipped(skip))).await;
}

async fn conclude(shared: &Shared, delivery: Delivery, walk: Walk) {
    let worker = &shared.worker;
    let fetched_bytes = walk.bodies.iter().map(|body| body.wire_bytes).sum();
    let evidence =
        Evidence { bodies: walk.bodies, worker: worker.id.to_string(), build: worker.build.clone() };
    let verdict =
        judge(walk.outcome, &delivery.counts, House::Sound, evidence, &worker.policy, fastrand::f64());
    // Told only once it is settled, but told of the verdict that settling consumes.
    let account = Account::of(&delivery, &verdict, walk.spent, fetched_bytes);
    match settle(shared, delivery, verdict).await {
        Some(Settled::Settled) => shared.observer.settled(&account),
        Some(Settled::Superseded) => shared.observer.superseded(account.job()),
        None => shared.observer.unsettled(account.job()),
    }
}

/// Settles, again and again for as long as the lease may live; `None` when Redis stayed away longer than that.
async fn settle(shared: &Shared, mut delivery: Delivery, mut verdict: Verdict) -> Option<Settled> {
    let lease = shared.worker.queue.lease();
    let end = Instant::now() + lease;
    let mut outage = Outage::default();
    loop {
        match shared.worker.queue.settle(delivery, verdict).await {
            Ok(settled) => return Some(settled),
            Err(_) if Instant::now() > end => return None,
            Err(unsettled) => {
                warn!(job = %unsettled.delivery.job.id, error = %unsettled.source, "not settled yet: trying again");
                shared.observer.redis_down(&unsettled.source.to_string());
                (delivery, verdict) = (unsettled.delivery, unsettled.verdict);
                // However short the lease is, some tries come while it lives.
                sleep(outage.wait().min(lease / 10)).await;
            }
        }
    }
}

async fn hand_back(shared: &Shared, delivery: Delivery) {
    let id = delivery.job.id.clone();
    match shared.worker.queue.release(delivery).await {
        Ok(_) => shared.observer.released(&id),
        Err(e) => warn!(job = %id, error = %e.source, "could not be handed back: its lease will run out"),
    }
}
