//! This worker's breakers: what jobs and claims testify is heard here, and each change is told once.
//!
//! The rules are `policy/breaker.rs`; here are the clock, the dice and the lock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::{Shared, outage};
use crate::api::Api;
use crate::job::failure::Kind;
use crate::job::outcome::Outcome;
use crate::job::{Job, VersionRef};
use crate::pipeline::Walk;
use crate::policy::breaker::{Breakers, MayClaim, State, Thing, culprit};
use crate::policy::judge::House;

/// The breakers, behind a lock that is held for a comparison or two.
#[derive(Default)]
pub(super) struct Fire(Mutex<Breakers>);

impl Fire {
    fn breakers(&self) -> MutexGuard<'_, Breakers> {
        // A panic while holding it leaves whole breakers: each change is one assignment.
        self.0.lock()
    }

    pub(super) fn house(&self) -> House {
        self.breakers().house()
    }

    pub(super) fn may_claim(&self) -> MayClaim {
        self.breakers().may_claim(Instant::now())
    }

    /// The breakers that are not closed, by thing, as other workers and people read it.
    pub(super) fn states(&self) -> BTreeMap<String, String> {
        let (breakers, now) = (self.breakers(), Instant::now());
        let states = Thing::ALL.iter().copied().map(|thing| (thing, breakers.state(thing, now)));
        let burning = states.into_iter().filter(|(_, state)| *state != State::Closed);
        burning.map(|(thing, state)| (thing.as_str().to_owned(), state.as_str().to_owned())).collect()
    }
}

impl Shared {
    /// Hears that a thing failed what was begun at `begun`; says so where that is news. Returns how the house stood
    /// until then: of several that fail at once, one finds it sound.
    pub(super) fn failed(&self, thing: Thing, begun: Instant, asked: Duration, why: &str) -> House {
        let (now, chance) = (Instant::now(), fastrand::f64());
        let pauses = match thing {
            Thing::Redis => outage::PAUSES,
            Thing::Api | Thing::Spawn => self.worker.policy.probes(),
        };
        let (house, opened) = {
            let mut breakers = self.fire.breakers();
            let house = breakers.house();
            (house, breakers.failed(thing, begun, now, asked, pauses, chance))
        };
        if opened {
            self.observer.breaker_opened(thing, why);
        }
        house
    }

    /// Hears that a thing did what was begun at `begun`; says so where that is news.
    pub(super) fn worked(&self, thing: Thing, begun: Instant) {
        if self.fire.breakers().worked(thing, begun) {
            self.observer.breaker_closed(thing);
        }
    }

    /// Hears what a job's way, begun at `begun`, says of the things that it needed. Returns how the house stood until
    /// then, by which the job is judged.
    pub(super) fn testify(&self, job: &Job, walk: &Walk, begun: Instant) -> House {
        let mut house = self.fire.house();
        let failure = if let Ok(Outcome::Failed(failure)) = &walk.ending { Some(failure) } else { None };
        let culprit = failure.and_then(|failure| Some((culprit(failure.kind)?, failure)));
        if let Some((thing, failure)) = culprit {
            house = self.failed(thing, begun, failure.retry_after.unwrap_or_default(), &failure.to_string());
        }
        let failed = |thing| culprit.is_some_and(|(culprit, _)| culprit == thing);
        if !failed(Thing::Spawn) && !walk.spent.analyse.is_zero() {
            self.worked(Thing::Spawn, begun);
        }
        if !failed(Thing::Api) && api_answered(self.worker.pipeline.api.as_deref(), job, walk) {
            self.worked(Thing::Api, begun);
        }
        house
    }
}

/// True where this way shows that the db app does what is asked of it: where annotations are posted, only one that it
/// took or judged shows that, because an app in read-only mode looks versions up as ever.
fn api_answered(api: Option<&Api>, job: &Job, walk: &Walk) -> bool {
    let Some(api) = api else { return false };
    match &walk.ending {
        Ok(Outcome::Reported(report)) if api.posts() => report.missing.is_empty() || api.posts_partial(),
        Ok(Outcome::Failed(failure)) if api.posts() => failure.kind == Kind::Rejected,
        Ok(Outcome::Skipped(_)) | Err(_) if api.posts() => false,
        Ok(Outcome::Failed(failure)) if failure.kind == Kind::BadReference => false,
        Ok(Outcome::Reported(_) | Outcome::Skipped(_) | Outcome::Failed(_)) | Err(_) => {
            let whole =
                matches!((job.from.given(), &job.to), (Some(VersionRef::Whole(_)), VersionRef::Whole(_)));
            !whole && !walk.spent.resolve.is_zero()
        }
    }
}
