//! One delivery's life in this process: its way through the pipeline, its verdict, and the settling of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Shared;
use super::account::Account;
use super::hand::{Grip, Halt};
use super::outage::Outage;
use crate::job::failure::{Failure, Kind, Stage};
use crate::job::outcome::Outcome;
use crate::job::page::PagePair;
use crate::job::skip::{Skip, SkipReason};
use crate::job::verdict::{Holdup, Verdict};
use crate::pipeline::{Pass, TurnedBack, Walk};
use crate::policy::judge::{Evidence, House, judge};
use crate::queue::{Delivery, Entry, LeaseRef, Settled, WorkerHandle};
use crate::sandbox::Slot;

/// How the work on a delivery ended.
enum Ending {
    Walked(Walk),
    Halted(Halt),
}

/// Works on one delivery until it is settled, handed back, or lost.
pub(super) async fn run(shared: &Shared, delivery: Delivery, mut slot: Slot) {
    let (grip, halted) = shared.hand.take(&delivery, slot.meter());
    let begun = std::time::Instant::now();
    let pass = Leased {
        queue: &shared.worker.queue,
        grip: &grip,
        lease: delivery.lease(),
        unresolved: delivery.job.from.given().is_none() && !delivery.job.again,
        unsure: AtomicBool::new(false),
    };
    let pipeline = &shared.worker.pipeline;
    let ending = tokio::select! {
        walk = pipeline.walk(&delivery.job, delivery.granted, &mut slot, &pass) => Ending::Walked(walk),
        Ok(halt) = halted => Ending::Halted(halt),
    };
    drop(slot);
    grip.reaches(Stage::Queue, None);
    match ending {
        Ending::Walked(walk) => {
            // A lease that could not be confirmed says nothing of the app that was therefore not asked.
            let house = match pass.unsure.into_inner() {
                true => shared.fire.house(),
                false => shared.testify(&delivery.job, &walk, begun),
            };
            conclude(shared, delivery, walk, house).await;
        }
        Ending::Halted(Halt::Cancelled) => {
            forgo(shared, delivery, Skip::new(SkipReason::Cancelled, "cancelled while it ran")).await;
        }
        Ending::Halted(Halt::Lost) => shared.observer.superseded(&delivery.job.id),
        Ending::Halted(Halt::Leave) => hand_back(shared, delivery).await,
    }
}

/// The pass of one delivery: as good as its lease. An unknown answer is no yes, and our own fault.
struct Leased<'a> {
    queue: &'a WorkerHandle,
    grip: &'a Grip<'a>,
    lease: LeaseRef,
    /// Did the job name a place in a page's history, so that only now it is known whether its pair was done before?
    unresolved: bool,
    /// Set when the queue could not say that the job is ours.
    unsure: AtomicBool,
}

impl Leased<'_> {
    fn unsure(&self, therefore: &str, why: String) -> Failure {
        self.unsure.store(true, Ordering::Relaxed);
        Failure::new(Kind::ApiUnavailable, format!("{therefore}: {why}"))
    }
}

impl Pass for Leased<'_> {
    async fn enter(&self, pair: &PagePair) -> Result<(), TurnedBack> {
        let no = |why| Err(self.unsure("nothing was fetched", why).into());
        if self.unresolved {
            match self.queue.is_done(pair).await {
                Ok(true) => return Err(already_done(pair).into()),
                Ok(false) => {}
                Err(e) => return no(format!("the queue could not be asked: {e}")),
            }
        }
        match self.queue.enter(&self.lease, pair).await {
            Ok(Entry::Entered) => Ok(()),
            Ok(Entry::Suspect) => Err(TurnedBack::HeldUp(Holdup::Suspect)),
            Ok(Entry::HostFull { host }) => Err(TurnedBack::HeldUp(Holdup::HostFull { host })),
            Ok(Entry::Lost) => no("the lease was lost".to_owned()),
            Err(e) => no(format!("the queue could not be asked: {e}")),
        }
    }

    fn reaches(&self, stage: Stage, limit: Option<Duration>) {
        self.grip.reaches(stage, limit);
    }

    async fn confirm(&self) -> Result<(), Failure> {
        match self.queue.confirm(&self.lease).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.unsure("nothing was posted", "the lease was lost".to_owned())),
            Err(e) => {
                Err(self.unsure("nothing was posted", format!("the lease could not be confirmed: {e}")))
            }
        }
    }
}

fn already_done(pair: &PagePair) -> Skip {
    let pair = format!("{}..{}", pair.from.uuid, pair.to.uuid);
    Skip::new(
        SkipReason::AlreadyDone,
        format!("{pair} was analysed before: its report is there, and `again` asks anew"),
    )
}

/// Settles what nobody needs any more.
pub(super) async fn forgo(shared: &Shared, delivery: Delivery, skip: Skip) {
    conclude(shared, delivery, Walk::of(Outcome::Skipped(skip)), House::Sound).await;
}

async fn conclude(shared: &Shared, delivery: Delivery, walk: Walk, house: House) {
    let worker = &shared.worker;
    let fetched_bytes = walk.bodies.iter().map(|body| body.wire_bytes).sum();
    let evidence =
        Evidence { bodies: walk.bodies, worker: worker.id.to_string(), build: worker.build.clone() };
    let chance = fastrand::f64();
    let verdict = match walk.ending {
        Ok(outcome) => judge(outcome, &delivery.counts, house, evidence, &worker.policy, chance),
        // When it goes on is not ours to say: it is called.
        Err(because) => Verdict::Postpone { after: Duration::ZERO, because },
    };
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
