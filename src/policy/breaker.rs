//! Circuit breakers: after a dependency fails, no jobs are claimed for a while, then one at a time until one
//! succeeds.
//!
//! A failure opens the breaker of its dependency, for a time drawn below a ceiling that doubles with every
//! failed probe. After that time the breaker is half open: one job at a time is claimed, with nothing else in
//! flight. The first success closes it.
//!
//! Invariant: while a breaker is not closed, claimed jobs use its dependency at most once per pause, however
//! many jobs wait; and no postponement during that time counts against a job.
//!
//! # Why
//! - The first failure opens it. A pause of a second costs little; waiting for five failures would waste five
//!   jobs.
//! - That first failure counts against its job, and no other does: a job that alone makes the db app fail is
//!   eventually stranded, because any success between its tries closes the breaker.
//! - The probe is a job, not a ping: an app in read-only mode answers every ping. It is a different job each
//!   time, because the judge postpones a failed one for longer than a pause: a job that causes the failure
//!   must not remain the probe.
//! - Only operations begun after the pause count. Those in flight when the breaker opened were begun before
//!   it.

use std::time::{Duration, Instant};

use super::backoff::full_jitter;
use super::judge::OpenState;
use crate::job::failure::FailureKind;

/// A service or facility that all jobs need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Dependency {
    /// The Redis that holds the queue.
    Redis,
    /// The db app's HTTP API.
    Api,
    /// The system's ability to start sandboxed children.
    Spawn,
    /// The store of whole results.
    ResultsStore,
}

impl Dependency {
    /// All dependencies, in the order of declaration.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The lower-case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether a job finds out that it works again. Redis needs none as a probe: the claim itself is one.
    fn is_probed_by_jobs(self) -> bool {
        match self {
            Self::Redis => false,
            Self::Api | Self::Spawn | Self::ResultsStore => true,
        }
    }
}

/// The dependency that this kind of failure concerns, if any: a target's failure never affects a breaker.
pub fn failed_dependency(kind: FailureKind) -> Option<Dependency> {
    match kind {
        FailureKind::ApiRefused | FailureKind::ApiUnavailable => Some(Dependency::Api),
        FailureKind::CannotSpawn | FailureKind::ForkServerLost => Some(Dependency::Spawn),
        FailureKind::StoreUnavailable | FailureKind::StoreRefused => Some(Dependency::ResultsStore),
        FailureKind::Decode
        | FailureKind::UnsupportedVersion
        | FailureKind::BadReference
        | FailureKind::VersionMissing
        | FailureKind::VersionUnreadable
        | FailureKind::Rejected
        | FailureKind::ForbiddenAddress
        | FailureKind::TooManyRedirects
        | FailureKind::TooLarge
        | FailureKind::Gone
        | FailureKind::Refused
        | FailureKind::Timeout
        | FailureKind::Dns
        | FailureKind::Connect
        | FailureKind::Tls
        | FailureKind::Upstream
        | FailureKind::Truncated
        | FailureKind::Starved
        | FailureKind::DecompressionBomb
        | FailureKind::HashMismatch
        | FailureKind::WallExceeded
        | FailureKind::CpuExceeded
        | FailureKind::MemoryExceeded
        | FailureKind::StackOverflow
        | FailureKind::Panicked
        | FailureKind::BadReply
        | FailureKind::ReplyTooLarge
        | FailureKind::ForbiddenSyscall
        | FailureKind::Crashed
        | FailureKind::KilledFromOutside
        | FailureKind::CrashLoop
        | FailureKind::Exhausted
        | FailureKind::Stranded => None,
    }
}

/// State of a breaker at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CircuitState {
    /// No failure is known; jobs are claimed normally.
    Closed,
    /// It failed recently: nothing is claimed.
    Open,
    /// The pause is over: one job is tried.
    HalfOpen,
}

impl CircuitState {
    /// The label, e.g. `half_open`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How many jobs may be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimLimit {
    /// One per free slot.
    Unlimited,
    /// One, and only with nothing in flight: it is a probe.
    OneAtATime,
    /// None, for this long.
    PausedFor(Duration),
}

/// Ceilings of the time a breaker stays open.
#[derive(Debug, Clone, Copy)]
pub struct PauseBounds {
    /// Ceiling of the first pause; it doubles with each failed probe.
    pub base: Duration,
    /// Ceiling of every pause.
    pub max: Duration,
}

/// The breaker of one dependency; `None` is closed.
#[derive(Debug, Default)]
struct CircuitBreaker(Option<OpenPeriod>);

#[derive(Debug)]
struct OpenPeriod {
    /// Consecutive failures; the ceiling of the pause grows with them.
    failures: u32,
    /// When the next probe may run.
    until: Instant,
}

impl CircuitBreaker {
    fn state(&self, now: Instant) -> CircuitState {
        match &self.0 {
            None => CircuitState::Closed,
            Some(open) if now < open.until => CircuitState::Open,
            Some(_) => CircuitState::HalfOpen,
        }
    }

    fn accepts(&self, begun: Instant) -> bool {
        self.0.as_ref().is_none_or(|open| begun >= open.until)
    }
}

/// One breaker per dependency, indexed by it.
#[derive(Debug, Default)]
pub struct BreakerSet([CircuitBreaker; Dependency::ALL.len()]);

impl BreakerSet {
    /// Records that a dependency failed an operation begun at `begun`, and perhaps `asked` for a pause.
    /// `chance` (0 to 1) spreads the pauses. True if the breaker was closed before.
    pub fn record_failure(
        &mut self,
        dependency: Dependency,
        begun: Instant,
        now: Instant,
        asked: Duration,
        pauses: PauseBounds,
        chance: f64,
    ) -> bool {
        let breaker = &mut self.0[dependency as usize];
        if !breaker.accepts(begun) {
            return false;
        }
        let failures = breaker.0.as_ref().map_or(0, |open| open.failures).saturating_add(1);
        let pause = full_jitter(pauses.base, pauses.max, failures, chance);
        let until = now + pause.max(asked.min(pauses.max));
        breaker.0.replace(OpenPeriod { failures, until }).is_none()
    }

    /// Records that a dependency completed an operation begun at `begun`. True if that closes its breaker.
    pub fn record_success(&mut self, dependency: Dependency, begun: Instant) -> bool {
        let breaker = &mut self.0[dependency as usize];
        breaker.accepts(begun) && breaker.0.take().is_some()
    }

    /// State of a dependency's breaker at `now`.
    pub fn state(&self, dependency: Dependency, now: Instant) -> CircuitState {
        self.0[dependency as usize].state(now)
    }

    /// How many jobs may be claimed at `now`.
    pub fn claim_limit(&self, now: Instant) -> ClaimLimit {
        let pause = self.0.iter().filter_map(|breaker| breaker.0.as_ref()?.until.checked_duration_since(now));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()).max() {
            return ClaimLimit::PausedFor(pause);
        }
        let mut by_job = Dependency::ALL.iter().filter(|dependency| dependency.is_probed_by_jobs());
        match by_job.any(|dependency| self.state(*dependency, now) == CircuitState::HalfOpen) {
            true => ClaimLimit::OneAtATime,
            false => ClaimLimit::Unlimited,
        }
    }

    /// Whether all breakers are closed.
    pub fn open_state(&self) -> OpenState {
        match self.0.iter().all(|breaker| breaker.0.is_none()) {
            true => OpenState::AllClosed,
            false => OpenState::SomeOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::job::counts::DeliveryCounts;
    use crate::job::failure::{Blame, Failure};
    use crate::job::outcome::Outcome;
    use crate::job::verdict::{PostponeReason, Verdict};
    use crate::policy::Config;
    use crate::policy::judge::{DeadLetterContext, judge};

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> Config {
        Config {
            attempts: 5,
            backoff_base: 30 * SECOND,
            backoff_max: 3600 * SECOND,
            postponements: 50,
            postponed_max: 86_400 * SECOND,
            probe_base: SECOND,
            probe_max: 60 * SECOND,
        }
    }

    fn fails(breakers: &mut BreakerSet, dependency: Dependency, begun: Instant, now: Instant) -> bool {
        breakers.record_failure(dependency, begun, now, Duration::ZERO, config().probe_pauses(), 1.0)
    }

    #[test]
    fn only_what_is_ours_feeds_a_breaker() {
        for &kind in FailureKind::ALL {
            assert!(failed_dependency(kind).is_none() || kind.blame() == Blame::Infrastructure, "{kind}");
        }
    }

    #[test]
    fn a_failure_shuts_it_then_one_at_a_time_may_try_and_the_first_success_opens_the_gate() {
        let (mut breakers, start) = (BreakerSet::default(), Instant::now());
        assert_eq!(breakers.claim_limit(start), ClaimLimit::Unlimited);
        assert!(fails(&mut breakers, Dependency::Api, start, start));
        assert_eq!(breakers.claim_limit(start), ClaimLimit::PausedFor(SECOND));
        assert_eq!(
            (breakers.state(Dependency::Api, start), breakers.open_state()),
            (CircuitState::Open, OpenState::SomeOpen)
        );
        let later = start + SECOND;
        assert_eq!(breakers.claim_limit(later), ClaimLimit::OneAtATime);
        assert_eq!(
            (breakers.state(Dependency::Api, later), breakers.open_state()),
            (CircuitState::HalfOpen, OpenState::SomeOpen)
        );
        assert!(breakers.record_success(Dependency::Api, later));
        assert_eq!(
            (breakers.claim_limit(later), breakers.open_state()),
            (ClaimLimit::Unlimited, OpenState::AllClosed)
        );
        assert!(!breakers.record_success(Dependency::Api, later), "told once");
    }

    #[test]
    fn whatever_jobs_find_out_is_probed_by_one_job_at_a_time() {
        for &dependency in Dependency::ALL {
            let (mut breakers, start) = (BreakerSet::default(), Instant::now());
            fails(&mut breakers, dependency, start, start);
            assert_eq!(breakers.claim_limit(start), ClaimLimit::PausedFor(SECOND));
            let expected = match dependency {
                Dependency::Redis => ClaimLimit::Unlimited,
                Dependency::Api | Dependency::Spawn | Dependency::ResultsStore => ClaimLimit::OneAtATime,
            };
            assert_eq!(breakers.claim_limit(start + SECOND), expected, "{dependency:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let (mut breakers, mut now) = (BreakerSet::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            fails(&mut breakers, Dependency::Spawn, now, now);
            let ClaimLimit::PausedFor(pause) = breakers.claim_limit(now) else { panic!("it is open") };
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(breakers.record_success(Dependency::Spawn, now));
        assert!(fails(&mut breakers, Dependency::Spawn, now, now));
        assert_eq!(breakers.claim_limit(now), ClaimLimit::PausedFor(SECOND));
    }

    /// Simulates a queue and one worker: the first job in line is claimed, a postponed job returns to its old
    /// position.
    struct SimulatedQueue {
        ready: BTreeSet<usize>,
        due: BTreeSet<(Instant, usize)>,
        counts: Vec<DeliveryCounts>,
        done: usize,
        dead: Vec<(usize, FailureKind)>,
        breakers: BreakerSet,
        now: Instant,
        rng: fastrand::Rng,
        tries: u32,
    }

    impl SimulatedQueue {
        fn of(jobs: usize) -> Self {
            Self {
                ready: (0..jobs).collect(),
                due: BTreeSet::new(),
                counts: vec![DeliveryCounts::default(); jobs],
                done: 0,
                dead: Vec::new(),
                breakers: BreakerSet::default(),
                now: Instant::now(),
                rng: fastrand::Rng::with_seed(7),
                tries: 0,
            }
        }

        /// Waits out a pause, or claims as many jobs as allowed and lets that time pass.
        fn step(&mut self, took: Duration, fails: impl Fn(usize) -> bool) {
            let later = self.due.split_off(&(self.now, usize::MAX));
            self.ready.extend(std::mem::replace(&mut self.due, later).into_iter().map(|(_, job)| job));
            let slots = match self.breakers.claim_limit(self.now) {
                ClaimLimit::Unlimited => 4,
                ClaimLimit::OneAtATime => 1,
                ClaimLimit::PausedFor(pause) => {
                    self.now += pause;
                    return;
                }
            };
            let begun = self.now;
            self.now += took;
            for _ in 0..slots {
                let Some(job) = self.ready.pop_first() else { return };
                self.tries += 1;
                self.counts[job].deliveries += 1;
                if fails(job) {
                    self.fails(job, begun);
                } else {
                    self.breakers.record_success(Dependency::Api, begun);
                    self.done += 1;
                }
            }
        }

        fn fails(&mut self, job: usize, begun: Instant) {
            let (config, open_state) = (config(), self.breakers.open_state());
            let chance = self.rng.f64();
            self.breakers.record_failure(
                Dependency::Api,
                begun,
                self.now,
                Duration::ZERO,
                config.probe_pauses(),
                chance,
            );
            let outcome = Outcome::Failed(Failure::new(FailureKind::ApiUnavailable, "down"));
            let counts = &mut self.counts[job];
            match judge(outcome, counts, open_state, DeadLetterContext::default(), &config, self.rng.f64()) {
                Verdict::Postpone { after, because } => {
                    if matches!(because, PostponeReason::Infrastructure(_)) {
                        counts.postponements += 1;
                        counts.postponed_ms += u64::try_from(after.as_millis()).unwrap();
                    }
                    self.due.insert((self.now + after, job));
                }
                Verdict::DeadLetter(reason) => self.dead.push((job, reason.kind)),
                verdict => panic!("job {job}: {verdict:?}"),
            }
        }
    }

    #[test]
    fn a_db_app_that_is_down_for_two_days_kills_none_of_ten_thousand_jobs() {
        let mut queue = SimulatedQueue::of(10_000);
        let start = queue.now;
        while queue.now < start + 48 * 3600 * SECOND {
            queue.step(Duration::ZERO, |_| true);
        }
        assert_eq!((queue.ready.len() + queue.due.len(), queue.dead.len()), (10_000, 0));
        let counted: u32 = queue.counts.iter().map(|counts| counts.postponements).sum();
        assert_eq!(counted, 1, "that of the first");
        assert!((2_880..8_000).contains(&queue.tries), "{} probes: two a minute, drawn", queue.tries);
        let most = queue.counts.iter().map(|counts| counts.deliveries).max().unwrap();
        assert!(most > config().postponements, "{most}: the same jobs were tried again and again");
    }

    #[test]
    fn jobs_at_the_front_that_are_themselves_what_fails_hold_up_no_others_and_are_stranded() {
        const BAD: usize = 10;
        let mut queue = SimulatedQueue::of(400);
        let start = queue.now;
        let (mut next, mut longest) = (start, Duration::ZERO);
        while queue.dead.len() < BAD {
            let before_step = queue.now;
            assert!(before_step < start + 30 * 86_400 * SECOND, "{} of {BAD} are stranded", queue.dead.len());
            // One more job is enqueued each minute.
            while next <= before_step {
                queue.ready.insert(queue.counts.len());
                queue.counts.push(DeliveryCounts::default());
                next += 60 * SECOND;
            }
            let before = queue.done;
            queue.step(SECOND, |job| job < BAD);
            if queue.done > before {
                longest = Duration::ZERO;
            }
            longest += queue.now - before_step;
            assert!(
                longest < 3600 * SECOND,
                "nothing came through for {longest:?}, {:?} after",
                before_step - start
            );
        }
        assert!(
            queue.dead.iter().all(|(job, kind)| *job < BAD && *kind == FailureKind::Stranded),
            "{:?}",
            queue.dead
        );
        let waiting = queue.counts.len() - queue.done - BAD;
        assert!(waiting < 60, "{waiting} of {} wait still", queue.counts.len());
    }

    #[test]
    fn what_was_begun_before_the_fire_neither_feeds_it_nor_puts_it_out() {
        let (mut breakers, start) = (BreakerSet::default(), Instant::now());
        fails(&mut breakers, Dependency::Api, start, start);
        let later = start + 2 * SECOND;
        assert!(!fails(&mut breakers, Dependency::Api, start, later));
        assert_eq!(breakers.claim_limit(later), ClaimLimit::OneAtATime, "not shut anew");
        assert!(!breakers.record_success(Dependency::Api, start));
        assert_eq!(breakers.open_state(), OpenState::SomeOpen);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_up_to_the_bound() {
        let start = Instant::now();
        for (asked, kept) in [(0, 1), (30, 30), (86_400, 60)] {
            let mut breakers = BreakerSet::default();
            breakers.record_failure(
                Dependency::Api,
                start,
                start,
                asked * SECOND,
                config().probe_pauses(),
                1.0,
            );
            assert_eq!(breakers.claim_limit(start), ClaimLimit::PausedFor(kept * SECOND));
        }
    }

    #[test]
    fn each_thing_has_its_own_and_the_longest_pause_holds() {
        let (mut breakers, start) = (BreakerSet::default(), Instant::now());
        fails(&mut breakers, Dependency::Redis, start, start);
        breakers.record_failure(Dependency::Api, start, start, 9 * SECOND, config().probe_pauses(), 0.0);
        assert_eq!(breakers.claim_limit(start), ClaimLimit::PausedFor(9 * SECOND));
        assert!(breakers.record_success(Dependency::Api, start + 9 * SECOND));
        assert_eq!(
            breakers.claim_limit(start + 9 * SECOND),
            ClaimLimit::Unlimited,
            "a claim is Redis' own probe"
        );
        assert_eq!(breakers.open_state(), OpenState::SomeOpen, "and it has not been made yet");
    }
}
