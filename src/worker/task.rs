//! The life of one delivery in this process: pipeline, verdict, settling.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::{Span, warn};

use super::Shared;
use super::in_flight::{InFlightGuard, StopReason};
use super::redis_backoff::RedisBackoff;
use super::summary::{SettledSummary, Subject};
use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::outcome::Outcome;
use crate::job::page::PagePair;
use crate::job::skip::{Skip, SkipReason};
use crate::job::verdict::{PostponeReason, Verdict};
use crate::pipeline::{Interrupted, LeaseGate, PipelineRun};
use crate::policy::judge::{DeadLetterContext, OpenState, judge};
use crate::queue::{self, Delivery, LeaseRef, ReleaseKind, Settled, StartPermit};
use crate::sandbox::Meter;

/// How the work on a delivery ended.
enum WorkEnd {
    Finished(Box<PipelineRun>),
    Stopped(StopReason),
}

/// Works on one registered delivery until it is settled, released, or lost.
pub(super) async fn run(shared: &Shared, delivery: Delivery, stopped: oneshot::Receiver<StopReason>) {
    let guard = shared.in_flight.guard(&delivery.job.id);
    let begun = std::time::Instant::now();
    let gate = DeliveryGate {
        shared,
        guard: &guard,
        lease: delivery.lease(),
        is_place: delivery.job.from.given().is_none(),
        unresolved: delivery.job.from.given().is_none() && !delivery.job.again,
        is_repeat: delivery.counts.deliveries > 1 || delivery.counts.releases > 0,
        unconfirmed: AtomicBool::new(false),
        entered: AtomicBool::new(false),
    };
    let (pipeline, pool) = (&shared.worker.pipeline, &shared.worker.pool);
    let ending = tokio::select! {
        run = pipeline.run(&delivery.job, delivery.granted, pool, &gate) => WorkEnd::Finished(Box::new(run)),
        Ok(stop) = stopped => WorkEnd::Stopped(stop),
    };
    guard.settling();
    match ending {
        WorkEnd::Finished(run) => {
            // An unconfirmed lease is no evidence about the db app, which was then not called.
            let open_state = match gate.unconfirmed.into_inner() {
                true => shared.breakers.open_state(),
                false => shared.record_outcome(&delivery.job, &run, begun),
            };
            conclude(shared, delivery, *run, open_state).await;
        }
        WorkEnd::Stopped(StopReason::Cancelled) => {
            skip_unneeded(shared, delivery, Skip::new(SkipReason::Cancelled, "cancelled while running"))
                .await;
        }
        WorkEnd::Stopped(StopReason::LeaseLost) => {
            shared.observer.superseded(&Subject::of(&delivery.job, None))
        }
        WorkEnd::Stopped(StopReason::Shutdown | StopReason::ExclusiveNext) => {
            release(shared, delivery, gate.entered.into_inner()).await;
        }
    }
}

/// The gate of one delivery: open while its lease is valid. An unknown answer closes it, as an infrastructure
/// failure.
struct DeliveryGate<'a> {
    shared: &'a Shared,
    guard: &'a InFlightGuard<'a>,
    lease: LeaseRef,
    /// The job names a place in a page's history, so only now is its pair known.
    is_place: bool,
    /// So only now can be found out whether it is done, which the job asks for.
    unresolved: bool,
    /// The job was delivered before.
    is_repeat: bool,
    /// Set if the queue could not confirm that the job is still ours.
    unconfirmed: AtomicBool,
    /// Set once the job is given to a child.
    entered: AtomicBool,
}

impl DeliveryGate<'_> {
    fn unconfirmed(&self, therefore: &str, why: String) -> Failure {
        self.unconfirmed.store(true, Ordering::Relaxed);
        Failure::new(FailureKind::ApiUnavailable, format!("{therefore}: {why}"))
    }

    /// Asks the queue again while it is away and the lease may be held: hundreds of jobs may be claimed, and a
    /// restart of Redis must not put them all off.
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<T, queue::Error>
    where
        F: Future<Output = Result<T, queue::Error>>,
    {
        let end = Instant::now() + self.shared.worker.queue.lease();
        let mut backoff = RedisBackoff::default();
        loop {
            match question().await {
                Err(e) if Instant::now() < end => {
                    warn!(error = %e, "the queue does not answer yet: asking again");
                    self.shared.observer.redis_failed(&e);
                    sleep(backoff.next_delay()).await;
                }
                answer => return answer,
            }
        }
    }
}

impl LeaseGate for DeliveryGate<'_> {
    async fn start(&self, pair: &PagePair) -> Result<(), Interrupted> {
        if self.is_place {
            Span::current().record("pair", format!("{}..{}", pair.from.uuid, pair.to.uuid));
        }
        let (queue, lost) = (&self.shared.worker.queue, "the lease was lost".to_owned());
        let no = |why| Err(self.unconfirmed("nothing was fetched", why).into());
        if self.unresolved {
            match self.ask(|| queue.is_done(pair)).await {
                Ok(true) => return Err(already_done(pair).into()),
                Ok(false) => {}
                Err(e) => return no(format!("the queue could not be queried: {e}")),
            }
        }
        match self.ask(|| queue.start(&self.lease, pair)).await {
            Ok(StartPermit::Granted) => Ok(()),
            Ok(StartPermit::Suspect) => Err(Interrupted::Postponed(PostponeReason::Suspect)),
            Ok(StartPermit::HostFull { host }) => {
                Err(Interrupted::Postponed(PostponeReason::HostFull { host }))
            }
            Ok(StartPermit::HostFails { host, kind }) => {
                Err(Failure::new(kind, "not asked: its host rests, and the job has waited for a week")
                    .at_host(host)
                    .into())
            }
            Ok(StartPermit::Lost) => no(lost),
            Err(e) => no(format!("the queue could not be queried: {e}")),
        }
    }

    fn stage_started(&self, stage: Stage, limit: Option<Duration>) {
        self.guard.stage_started(stage, limit);
        if stage == Stage::Queue {
            self.shared.bodies_fetched();
        }
    }

    async fn enter_child(&self, limit: Duration, meter: Meter) -> Result<(), Failure> {
        self.guard.entered_child(limit, meter);
        self.entered.store(true, Ordering::Relaxed);
        match self.ask(|| self.shared.worker.queue.enter_child(&self.lease)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.unconfirmed("nothing was analysed", "the lease was lost".to_owned())),
            Err(e) => {
                Err(self.unconfirmed("nothing was analysed", format!("the queue could not be queried: {e}")))
            }
        }
    }

    fn may_have_posted(&self) -> bool {
        self.is_repeat
    }

    async fn confirm(&self) -> Result<(), Failure> {
        match self.shared.worker.queue.confirm(&self.lease).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.unconfirmed("nothing was posted", "the lease was lost".to_owned())),
            Err(e) => {
                Err(self.unconfirmed("nothing was posted", format!("the lease could not be confirmed: {e}")))
            }
        }
    }
}

fn already_done(pair: &PagePair) -> Skip {
    let pair = format!("{}..{}", pair.from.uuid, pair.to.uuid);
    Skip::new(
        SkipReason::AlreadyDone,
        format!("{pair} was analysed before: its report is stored; set `again` to repeat it"),
    )
}

/// Settles a job that no longer needs to run.
pub(super) async fn skip_unneeded(shared: &Shared, delivery: Delivery, skip: Skip) {
    conclude(shared, delivery, PipelineRun::of(Outcome::Skipped(skip)), OpenState::AllClosed).await;
}

async fn conclude(shared: &Shared, mut delivery: Delivery, run: PipelineRun, open_state: OpenState) {
    let worker = &shared.worker;
    delivery.without_follow_up = run.from_is_earliest;
    let fetched_bytes = run.bodies.iter().map(|body| body.wire_bytes).sum();
    let context =
        DeadLetterContext { bodies: run.bodies, worker: worker.id.to_string(), build: worker.build.clone() };
    let chance = fastrand::f64();
    let verdict = match run.result {
        Ok(outcome) => judge(outcome, &delivery.counts, open_state, context, &worker.policy, chance),
        // No delay: the queue makes it ready when its host or exclusive execution is free.
        Err(because) => Verdict::Postpone { after: Duration::ZERO, because },
    };
    // Reported only after settling, but recorded before settling consumes the verdict.
    let summary = SettledSummary::of(&delivery, &verdict, run.versions, run.timings, fetched_bytes);
    match settle(shared, delivery, verdict).await {
        Some(Settled::Settled) => shared.observer.settled(&summary),
        Some(Settled::Waits) => shared.observer.waits_for_host(&summary),
        Some(Settled::Superseded) => shared.observer.superseded(&summary.subject),
        None => shared.observer.unsettled(&summary.subject),
    }
}

/// Settles, retrying until the lease must have expired; `None` if Redis was unreachable for longer than that.
async fn settle(shared: &Shared, mut delivery: Delivery, mut verdict: Verdict) -> Option<Settled> {
    let lease = shared.worker.queue.lease();
    let end = Instant::now() + lease;
    let mut backoff = RedisBackoff::default();
    loop {
        match shared.worker.queue.settle(delivery, verdict).await {
            Ok(settled) => return Some(settled),
            Err(_) if Instant::now() > end => return None,
            Err(unsettled) => {
                warn!(job = %unsettled.delivery.job.id, error = %unsettled.source, "not settled yet: trying again");
                shared.observer.redis_failed(&unsettled.source);
                (delivery, verdict) = (unsettled.delivery, unsettled.verdict);
                // Even a short lease leaves time for several tries.
                sleep(backoff.next_delay().min(lease / 10)).await;
            }
        }
    }
}

/// Releases an unfinished delivery; one that has not `entered` a child as if it had never been claimed.
async fn release(shared: &Shared, delivery: Delivery, entered: bool) {
    let id = delivery.job.id.clone();
    let kind = if entered { ReleaseKind::Counted } else { ReleaseKind::WhileFetching };
    match shared.worker.queue.release(delivery, kind).await {
        Ok(_) => shared.observer.released(&id),
        Err(e) => warn!(job = %id, error = %e.source, "could not be released: its lease will expire"),
    }
}
