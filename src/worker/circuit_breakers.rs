//! This worker's circuit breakers: records the outcomes of jobs and claims, and reports each state change
//! once.
//!
//! The rules are in `policy/breaker.rs`; this adds the clock, the random source and the lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::{Shared, redis_backoff};
use crate::api::Api;
use crate::job::failure::FailureKind;
use crate::job::outcome::Outcome;
use crate::job::text::clip;
use crate::job::{Job, VersionRef};
use crate::pipeline::PipelineRun;
use crate::policy::breaker::{BreakerSet, CircuitState, ClaimLimit, Dependency, failed_dependency};
use crate::policy::judge::OpenState;

/// Longest reason that a heartbeat carries, in characters.
const REASON_MAX_CHARS: usize = 200;

/// The breakers, behind locks that are held only briefly, and why each opened last.
#[derive(Default)]
pub(super) struct CircuitBreakers(Mutex<BreakerSet>, Mutex<BTreeMap<&'static str, String>>);

impl CircuitBreakers {
    fn lock(&self) -> MutexGuard<'_, BreakerSet> {
        // A panic while holding the lock leaves consistent breakers: each change is one assignment.
        self.0.lock()
    }

    pub(super) fn open_state(&self) -> OpenState {
        self.lock().open_state()
    }

    pub(super) fn claim_limit(&self) -> ClaimLimit {
        self.lock().claim_limit(Instant::now())
    }

    /// Why those of [`Self::states`] opened.
    pub(super) fn reasons(&self) -> BTreeMap<String, String> {
        let (open, reasons) = (self.states(), self.1.lock());
        let why = |name: &String| reasons.get(name.as_str()).cloned();
        open.into_keys().filter_map(|name| why(&name).map(|why| (name, why))).collect()
    }

    /// The breakers that are not closed, by dependency, for the queue's status.
    pub(super) fn states(&self) -> BTreeMap<String, String> {
        let (breakers, now) = (self.lock(), Instant::now());
        let states =
            Dependency::ALL.iter().copied().map(|dependency| (dependency, breakers.state(dependency, now)));
        let open = states.into_iter().filter(|(_, state)| *state != CircuitState::Closed);
        open.map(|(dependency, state)| (dependency.as_str().to_owned(), state.as_str().to_owned())).collect()
    }
}

impl Shared {
    /// Records that a dependency failed an operation begun at `begun`, and reports it if that opens the
    /// breaker. Returns the state before: of several simultaneous failures, only the first sees all breakers
    /// closed.
    pub(super) fn record_failure(
        &self,
        dependency: Dependency,
        begun: Instant,
        asked: Duration,
        why: &str,
    ) -> OpenState {
        let (now, chance) = (Instant::now(), fastrand::f64());
        let pauses = match dependency {
            Dependency::Redis => redis_backoff::PAUSES,
            Dependency::Api | Dependency::Spawn | Dependency::ResultsStore => {
                self.worker.policy.probe_pauses()
            }
        };
        let (open_state, opened) = {
            let mut breakers = self.breakers.lock();
            let open_state = breakers.open_state();
            (open_state, breakers.record_failure(dependency, begun, now, asked, pauses, chance))
        };
        if opened {
            self.breakers.1.lock().insert(dependency.as_str(), clip(why, REASON_MAX_CHARS));
            self.observer.breaker_opened(dependency, why);
        }
        open_state
    }

    /// Records that a dependency completed an operation begun at `begun`, and reports it if that closes the
    /// breaker.
    pub(super) fn record_success(&self, dependency: Dependency, begun: Instant) {
        if self.breakers.lock().record_success(dependency, begun) {
            self.observer.breaker_closed(dependency);
        }
    }

    /// Records what a pipeline run begun at `begun` shows about the dependencies it used. Returns the state
    /// before, by which the job is judged.
    pub(super) fn record_outcome(&self, job: &Job, run: &PipelineRun, begun: Instant) -> OpenState {
        let mut open_state = self.breakers.open_state();
        let failure = if let Ok(Outcome::Failed(failure)) = &run.result { Some(failure) } else { None };
        let failed_dependency = failure.and_then(|failure| Some((failed_dependency(failure.kind)?, failure)));
        if let Some((dependency, failure)) = failed_dependency {
            open_state = self.record_failure(
                dependency,
                begun,
                failure.retry_after.unwrap_or_default(),
                &failure.to_string(),
            );
        }
        let failed = |dependency| {
            failed_dependency.is_some_and(|(failed_dependency, _)| failed_dependency == dependency)
        };
        if !failed(Dependency::Spawn) && !run.timings.analyse.is_zero() {
            self.record_success(Dependency::Spawn, begun);
        }
        if !failed(Dependency::ResultsStore) && !run.timings.store.is_zero() {
            self.record_success(Dependency::ResultsStore, begun);
        }
        if !failed(Dependency::Api) && api_answered(self.worker.pipeline.api.as_deref(), job, run) {
            self.record_success(Dependency::Api, begun);
        }
        open_state
    }
}

/// True if this run shows that the db app works. If annotations are posted, only an accepted or rejected
/// annotation shows that: an app in read-only mode still serves lookups.
fn api_answered(api: Option<&Api>, job: &Job, run: &PipelineRun) -> bool {
    let Some(api) = api else { return false };
    match &run.result {
        Ok(Outcome::Reported(report)) if api.posts() => report.posted == Some(true),
        Ok(Outcome::Failed(failure)) if api.posts() => failure.kind == FailureKind::Rejected,
        Ok(Outcome::Skipped(_)) | Err(_) if api.posts() => false,
        Ok(Outcome::Failed(failure)) if failure.kind == FailureKind::BadReference => false,
        Ok(Outcome::Reported(_) | Outcome::Skipped(_) | Outcome::Failed(_)) | Err(_) => {
            let whole =
                matches!((job.from.given(), &job.to), (Some(VersionRef::Inline(_)), VersionRef::Inline(_)));
            !whole && !run.timings.resolve.is_zero()
        }
    }
}
