//! Claims jobs as far ahead as the slots need, and starts them.
//!
//! Invariant: nothing is claimed that the breakers, the window or an exclusive run forbid.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{Instrument as _, Span, info_span};

use super::in_flight::StopReason;
use super::shutdown::Phase;
use super::{Shared, empty, join_finished, note_panic, task};
use crate::policy::breaker::{ClaimLimit, Dependency};
use crate::queue::{self, CLAIM_MOST, Claim, Delivery};

/// The longest a claim waits for a wake-up before it polls again. A wake-up that was lost is replaced by the looker
/// within a second; this covers the looker's own end.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// The same where what is waited for has no wake-up: another job's end, room in Redis, the end of `--until-empty`.
const SHORT_WAIT: Duration = Duration::from_millis(500);
/// How soon it is looked again whether jobs may be claimed, where none of those in flight has moved on.
const ROOM_RECHECK: Duration = Duration::from_millis(50);

/// The result of one round of claiming.
#[derive(PartialEq, Eq)]
enum ClaimProgress {
    Something,
    Everything,
}

impl Shared {
    pub(super) async fn claim_until_quiet(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let mut preflighted = false;
        while self.phases().now() == Phase::Running {
            join_finished(tasks);
            let Some(most) = self.room_for_claims(tasks).await else { continue };
            let begun = std::time::Instant::now();
            match self.claim(&mut preflighted, most).await {
                Ok(claims) => {
                    self.record_success(Dependency::Redis, begun);
                    self.observer.redis_up();
                    if self.take_all(claims, tasks).await == ClaimProgress::Everything {
                        break;
                    }
                }
                Err(e) => {
                    preflighted = false;
                    self.observer.redis_failed(&e);
                    self.record_failure(Dependency::Redis, begun, Duration::ZERO, &e.to_string());
                }
            }
        }
    }

    /// Claims jobs, after checking a Redis that is new or was away: one that evicts keys would lose the
    /// queue's data.
    async fn claim(&self, preflighted: &mut bool, most: usize) -> Result<Vec<Claim>, queue::Error> {
        if !*preflighted {
            self.worker.queue.preflight().await?.fit_for_work()?;
            self.observer.settings_differ(&self.worker.queue.seed_settings().await?);
            self.check_lost_queue().await?;
            *preflighted = true;
        }
        self.worker.queue.claim_many(&self.worker.id, most).await
    }

    /// Reports a queue whose keys are gone since this worker first saw them.
    pub(super) async fn check_lost_queue(&self) -> Result<(), queue::Error> {
        let known = self.looker.knows_queue();
        let lost = self.worker.queue.has_lost_queue().await?;
        self.looker.saw_queue();
        if known && lost {
            self.observer.forgotten();
            self.worker.queue.seed_settings().await?;
        }
        Ok(())
    }

    /// How many jobs to claim: as far ahead as slots need, or a single one with nothing in flight while a breaker
    /// is half open. `None` if it had to wait; the caller must call again.
    async fn room_for_claims(&self, tasks: &mut JoinSet<()>) -> Option<usize> {
        match self.breakers.claim_limit() {
            ClaimLimit::Unlimited => {
                let room = self.claim_ahead.lock().room(self.in_flight.counts(), std::time::Instant::now());
                if room > 0 {
                    return Some(room.min(CLAIM_MOST));
                }
                tokio::select! {
                    () = self.in_flight.changed() => {}
                    () = self.rest(ROOM_RECHECK) => {}
                }
            }
            ClaimLimit::OneAtATime if tasks.is_empty() => return Some(1),
            ClaimLimit::OneAtATime => self.rest_or_one_ends(tasks).await,
            ClaimLimit::PausedFor(pause) => self.rest(pause).await,
        }
        None
    }

    /// Both bodies of a job have arrived.
    pub(super) fn bodies_fetched(&self) {
        let waiting = self.in_flight.counts().waiting;
        self.claim_ahead.lock().fetched(waiting);
    }

    async fn take_all(self: &Arc<Self>, claims: Vec<Claim>, tasks: &mut JoinSet<()>) -> ClaimProgress {
        let mut exclusive = false;
        for claim in claims {
            exclusive |= matches!(&claim, Claim::Delivery(delivery) if delivery.is_exclusive());
            if self.take(claim, tasks).await == ClaimProgress::Everything {
                return ClaimProgress::Everything;
            }
        }
        // With nothing beside them, so that a crash has few possible causes, or one.
        if exclusive {
            tokio::select! {
                () = empty(tasks) => {}
                () = self.phases().reached(Phase::Quiet) => {}
            }
        }
        ClaimProgress::Something
    }

    async fn take(self: &Arc<Self>, claim: Claim, tasks: &mut JoinSet<()>) -> ClaimProgress {
        match claim {
            Claim::Delivery(delivery) => {
                self.observer.has_room();
                let (shared, span) = (Arc::clone(self), job_span(&delivery));
                let stopped = self.in_flight.register(&delivery);
                tasks.spawn(async move { task::run(&shared, *delivery, stopped).await }.instrument(span));
            }
            Claim::NotNeeded(delivery, skip) => {
                let (shared, span) = (Arc::clone(self), job_span(&delivery));
                tasks.spawn(
                    async move { task::skip_unneeded(&shared, *delivery, skip).await }.instrument(span),
                );
            }
            Claim::Buried(buried) => self.observer.buried(&buried),
            Claim::Exclusive => {
                // Hosts may be slow, so what is only being fetched makes room for the suspect at once.
                if !self.in_flight.has_exclusive() {
                    self.in_flight.stop_before_child(StopReason::ExclusiveNext);
                }
                self.rest_or_one_ends(tasks).await;
            }
            Claim::NoRoom(why) => {
                self.observer.no_room(why);
                self.rest(SHORT_WAIT).await;
            }
            Claim::Empty | Claim::Paused | Claim::Full => {
                if self.worker.until_empty && tasks.is_empty() && self.nothing_left().await {
                    return ClaimProgress::Everything;
                }
                let wait = if self.worker.until_empty { SHORT_WAIT } else { IDLE_WAIT };
                tokio::select! {
                    () = self.worker.queue.wait(wait) => {}
                    () = self.phases().reached(Phase::Quiet) => {}
                }
            }
        }
        ClaimProgress::Something
    }

    async fn nothing_left(&self) -> bool {
        // Read first: payloads moved after this are in the inbox by then.
        let adopted = self.adoptable.load(Ordering::Relaxed) == 0;
        adopted && self.worker.queue.glance().await.is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0)
    }

    /// Waits until a job in flight ends, up to a limit.
    async fn rest_or_one_ends(&self, tasks: &mut JoinSet<()>) {
        tokio::select! {
            Some(ended) = tasks.join_next() => note_panic(ended),
            () = self.rest(SHORT_WAIT) => {}
        }
    }

    /// Waits for `time`, or until a shutdown is requested.
    async fn rest(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.phases().reached(Phase::Quiet)).await;
    }
}

/// The span of one delivery: every log line of its task has the job, its pair once both versions are known, and the
/// sender's trace.
fn job_span(delivery: &Delivery) -> Span {
    let job = &delivery.job;
    let pair = job.from.given().map(|_| job.pair());
    info_span!("job", id = %job.id, pair, traceparent = job.traceparent.as_deref())
}
