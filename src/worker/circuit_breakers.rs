//! This worker's breakers: what jobs and claims record_outcome is heard here, and each change is told once.
//!
//! The rules are `policy/breaker.rs`; here are the clock, the dice and the lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::{Shared, redis_backoff};
use crate::api::Api;
use crate::job::failure::FailureKind;
use crate::job::outcome::Outcome;
use crate::job::{Job, VersionRef};
use crate::pipeline::PipelineRun;
use crate::policy::breaker::{BreakerSet, CircuitState, ClaimLimit, Dependency, failed_dependency};
use crate::policy::judge::OpenState;

/// The breakers, behind a lock that is held for a comparison or two.
#[derive(Default)]
pub(super) struct CircuitBreakers(Mutex<BreakerSet>);

impl CircuitBreakers {
    fn lock(&self) -> MutexGuard<'_, BreakerSet> {
        // A panic while holding it leaves whole breakers: each change is one assignment.
        self.0.lock()
    }

    pub(super) fn open_state(&self) -> OpenState {
        self.lock().open_state()
    }

    pub(super) fn claim_limit(&self) -> ClaimLimit {
        self.lock().claim_limit(Instant::now())
    }

    /// The breakers that are not closed, by dependency, as other workers and people read it.
    pub(super) fn states(&self) -> BTreeMap<String, String> {
        let (breakers, now) = (self.lock(), Instant::now());
        let states =
            Dependency::ALL.iter().copied().map(|dependency| (dependency, breakers.state(dependency, now)));
        let open = states.into_iter().filter(|(_, state)| *state != CircuitState::Closed);
        open.map(|(dependency, state)| (dependency.as_str().to_owned(), state.as_str().to_owned())).collect()
    }
}

impl Shared {
    /// Hears that a dependency failed what was begun at `begun`; says so where that is news. Returns how the open_state stood
    /// until then: of several that fail at once, one finds it sound.
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
            Dependency::Api | Dependency::Spawn => self.worker.policy.probe_pauses(),
        };
        let (open_state, opened) = {
            let mut breakers = self.breakers.lock();
            let open_state = breakers.open_state();
            (open_state, breakers.record_failure(dependency, begun, now, asked, pauses, chance))
        };
        if opened {
            self.observer.breaker_opened(dependency, why);
        }
        open_state
    }

    /// Hears that a dependency did what was begun at `begun`; says so where that is news.
    pub(super) fn record_success(&self, dependency: Dependency, begun: Instant) {
        if self.breakers.lock().record_success(dependency, begun) {
            self.observer.breaker_closed(dependency);
        }
    }

    /// Hears what a job's way, begun at `begun`, says of the dependencies that it needed. Returns how the open_state stood until
    /// then, by which the job is judged.
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
        if !failed(Dependency::Api) && api_answered(self.worker.pipeline.api.as_deref(), job, run) {
            self.record_success(Dependency::Api, begun);
        }
        open_state
    }
}

/// True where this way shows that the db app does what is asked of it: where annotations are posted, only one that it
/// took or judged shows that, because an app in read-only mode looks versions up as ever.
fn api_answered(api: Option<&Api>, job: &Job, run: &PipelineRun) -> bool {
    let Some(api) = api else { return false };
    match &run.result {
        Ok(Outcome::Reported(report)) if api.posts() => report.missing.is_empty() || api.posts_partial(),
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
