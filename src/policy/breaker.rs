//! Breakers: when something of ours fails we claim nothing more, and then one job at a time, until one goes through.
//!
//! A failure opens the breaker of its dependency, for a time drawn below a ceiling that doubles with every probe that fails.
//! When that time is over it is half open: one job at a time is claimed, with nothing beside it. The first that comes
//! through closes it.
//!
//! Invariant: while a breaker is not closed, its dependency is asked at most once in each pause by jobs that are claimed
//! then, however many wait; and nothing that is put off meanwhile is counted against a job.
//!
//! # Why
//! - The first failure opens it. A pause of a second costs little; counting to five would burn five jobs.
//! - That first failure is counted against its job, and no other: a job that alone makes the db app fail is stranded in
//!   the end like any other, because whatever comes through between its tries closes the breaker.
//! - A job is the probe, not a ping: an app in read-only mode answers every ping. It is another job each time, because
//!   the judge puts one that failed off for longer than a pause: what is itself the cause must not be asked for ever.
//! - Only what was begun after the pause is heard. What was in hand when the fire broke out asked before it.

use std::time::{Duration, Instant};

use super::backoff::full_jitter;
use super::judge::OpenState;
use crate::job::failure::Kind;

/// Something of ours that all jobs need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Dependency {
    /// The queue's own Redis.
    Redis,
    /// The db app's API.
    Api,
    /// The starting of children.
    Spawn,
}

impl Dependency {
    /// Every dependency.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The dependency of ours that failed, where it was one: what a site does never feeds a breaker.
pub fn failed_dependency(kind: Kind) -> Option<Dependency> {
    match kind {
        Kind::ApiRefused | Kind::ApiUnavailable => Some(Dependency::Api),
        Kind::CannotSpawn | Kind::ZygoteLost => Some(Dependency::Spawn),
        Kind::Decode
        | Kind::UnsupportedVersion
        | Kind::BadReference
        | Kind::VersionMissing
        | Kind::Rejected
        | Kind::ForbiddenAddress
        | Kind::TooManyRedirects
        | Kind::TooLarge
        | Kind::Gone
        | Kind::Refused
        | Kind::Timeout
        | Kind::Dns
        | Kind::Connect
        | Kind::Tls
        | Kind::Upstream
        | Kind::Truncated
        | Kind::DecompressionBomb
        | Kind::HashMismatch
        | Kind::WallExceeded
        | Kind::CpuExceeded
        | Kind::MemoryExceeded
        | Kind::StackOverflow
        | Kind::Panicked
        | Kind::BadReply
        | Kind::ReplyTooLarge
        | Kind::ForbiddenSyscall
        | Kind::Crashed
        | Kind::KilledFromOutside
        | Kind::CrashLoop
        | Kind::Exhausted
        | Kind::Stranded => None,
    }
}

/// How a breaker stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// All is well, as far as we know.
    Closed,
    /// It failed: nothing is tried.
    Open,
    /// It is time to try one.
    HalfOpen,
}

impl State {
    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How many jobs may be claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayClaim {
    /// As many as there are slots.
    Freely,
    /// One, and only with empty hands: it is a probe.
    OneByOne,
    /// None, for so long.
    NotFor(Duration),
}

/// How long a breaker stays open: at most `base` at first, at most `max` ever.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    /// The ceiling of the first; it doubles with each probe that fails.
    pub base: Duration,
    /// The highest ceiling.
    pub max: Duration,
}

/// The breaker of one dependency.
#[derive(Debug, Default)]
struct Breaker(Option<Fire>);

#[derive(Debug)]
struct Fire {
    /// Failures in a row; the ceiling of the pause grows with them.
    failures: u32,
    /// When it is time for a probe.
    until: Instant,
}

impl Breaker {
    fn state(&self, now: Instant) -> State {
        match &self.0 {
            None => State::Closed,
            Some(fire) if now < fire.until => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    fn hears(&self, begun: Instant) -> bool {
        self.0.as_ref().is_none_or(|fire| begun >= fire.until)
    }
}

/// One breaker per dependency.
#[derive(Debug, Default)]
pub struct Breakers([Breaker; Dependency::ALL.len()]);

impl Breakers {
    /// Hears that a dependency failed something that was begun at `begun`, and perhaps `asked` for a pause. `chance` (0 to 1)
    /// spreads the pauses. True when the breaker was closed until now.
    pub fn failed(
        &mut self,
        dependency: Dependency,
        begun: Instant,
        now: Instant,
        asked: Duration,
        pauses: Pauses,
        chance: f64,
    ) -> bool {
        let breaker = &mut self.0[dependency as usize];
        if !breaker.hears(begun) {
            return false;
        }
        let failures = breaker.0.as_ref().map_or(0, |fire| fire.failures).saturating_add(1);
        let pause = full_jitter(pauses.base, pauses.max, failures, chance);
        let until = now + pause.max(asked.min(pauses.max));
        breaker.0.replace(Fire { failures, until }).is_none()
    }

    /// Hears that a dependency did what was begun at `begun`. True when that closes its breaker.
    pub fn worked(&mut self, dependency: Dependency, begun: Instant) -> bool {
        let breaker = &mut self.0[dependency as usize];
        breaker.hears(begun) && breaker.0.take().is_some()
    }

    /// How a dependency's breaker stands.
    pub fn state(&self, dependency: Dependency, now: Instant) -> State {
        self.0[dependency as usize].state(now)
    }

    /// How many jobs may be claimed.
    pub fn may_claim(&self, now: Instant) -> MayClaim {
        let pause = self.0.iter().filter_map(|breaker| breaker.0.as_ref()?.until.checked_duration_since(now));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()).max() {
            return MayClaim::NotFor(pause);
        }
        // Redis needs no job for a probe: the claim itself is one.
        let by_job = [Dependency::Api, Dependency::Spawn];
        match by_job.iter().any(|dependency| self.state(*dependency, now) == State::HalfOpen) {
            true => MayClaim::OneByOne,
            false => MayClaim::Freely,
        }
    }

    /// How our open_state stands: sound only while every breaker is closed.
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
    use crate::job::counts::Counts;
    use crate::job::failure::{Blame, Failure};
    use crate::job::outcome::Outcome;
    use crate::job::verdict::{Holdup, Verdict};
    use crate::policy::Config;
    use crate::policy::judge::{Evidence, judge};

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

    fn fails(breakers: &mut Breakers, dependency: Dependency, begun: Instant, now: Instant) -> bool {
        breakers.failed(dependency, begun, now, Duration::ZERO, config().probes(), 1.0)
    }

    #[test]
    fn only_what_is_ours_feeds_a_breaker() {
        for &kind in Kind::ALL {
            assert!(failed_dependency(kind).is_none() || kind.blame() == Blame::Us, "{kind}");
        }
    }

    #[test]
    fn a_failure_shuts_it_then_one_at_a_time_may_try_and_the_first_success_opens_the_gate() {
        let (mut breakers, start) = (Breakers::default(), Instant::now());
        assert_eq!(breakers.may_claim(start), MayClaim::Freely);
        assert!(fails(&mut breakers, Dependency::Api, start, start));
        assert_eq!(breakers.may_claim(start), MayClaim::NotFor(SECOND));
        assert_eq!(
            (breakers.state(Dependency::Api, start), breakers.open_state()),
            (State::Open, OpenState::SomeOpen)
        );
        let later = start + SECOND;
        assert_eq!(breakers.may_claim(later), MayClaim::OneByOne);
        assert_eq!(
            (breakers.state(Dependency::Api, later), breakers.open_state()),
            (State::HalfOpen, OpenState::SomeOpen)
        );
        assert!(breakers.worked(Dependency::Api, later));
        assert_eq!(
            (breakers.may_claim(later), breakers.open_state()),
            (MayClaim::Freely, OpenState::AllClosed)
        );
        assert!(!breakers.worked(Dependency::Api, later), "told once");
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let (mut breakers, mut now) = (Breakers::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            fails(&mut breakers, Dependency::Spawn, now, now);
            let MayClaim::NotFor(pause) = breakers.may_claim(now) else { panic!("it is open") };
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(breakers.worked(Dependency::Spawn, now));
        assert!(fails(&mut breakers, Dependency::Spawn, now, now));
        assert_eq!(breakers.may_claim(now), MayClaim::NotFor(SECOND));
    }

    /// Jobs as the queue holds them, and one worker: the first in line is claimed, what is put off comes back to its old
    /// place.
    struct Line {
        ready: BTreeSet<usize>,
        due: BTreeSet<(Instant, usize)>,
        counts: Vec<Counts>,
        done: usize,
        dead: Vec<(usize, Kind)>,
        breakers: Breakers,
        now: Instant,
        dice: fastrand::Rng,
        tries: u32,
    }

    impl Line {
        fn of(jobs: usize) -> Self {
            Self {
                ready: (0..jobs).collect(),
                due: BTreeSet::new(),
                counts: vec![Counts::default(); jobs],
                done: 0,
                dead: Vec::new(),
                breakers: Breakers::default(),
                now: Instant::now(),
                dice: fastrand::Rng::with_seed(7),
                tries: 0,
            }
        }

        /// Waits out a pause, or claims with what hands it may, and for that time passes.
        fn turn(&mut self, took: Duration, fails: impl Fn(usize) -> bool) {
            let later = self.due.split_off(&(self.now, usize::MAX));
            self.ready.extend(std::mem::replace(&mut self.due, later).into_iter().map(|(_, job)| job));
            let hands = match self.breakers.may_claim(self.now) {
                MayClaim::Freely => 4,
                MayClaim::OneByOne => 1,
                MayClaim::NotFor(pause) => {
                    self.now += pause;
                    return;
                }
            };
            let begun = self.now;
            self.now += took;
            for _ in 0..hands {
                let Some(job) = self.ready.pop_first() else { return };
                self.tries += 1;
                self.counts[job].deliveries += 1;
                if fails(job) {
                    self.fails(job, begun);
                } else {
                    self.breakers.worked(Dependency::Api, begun);
                    self.done += 1;
                }
            }
        }

        fn fails(&mut self, job: usize, begun: Instant) {
            let (config, open_state) = (config(), self.breakers.open_state());
            let chance = self.dice.f64();
            self.breakers.failed(Dependency::Api, begun, self.now, Duration::ZERO, config.probes(), chance);
            let outcome = Outcome::Failed(Failure::new(Kind::ApiUnavailable, "down"));
            let counts = &mut self.counts[job];
            match judge(outcome, counts, open_state, Evidence::default(), &config, self.dice.f64()) {
                Verdict::Postpone { after, because } => {
                    if matches!(because, Holdup::Ours(_)) {
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
        let mut line = Line::of(10_000);
        let start = line.now;
        while line.now < start + 48 * 3600 * SECOND {
            line.turn(Duration::ZERO, |_| true);
        }
        assert_eq!((line.ready.len() + line.due.len(), line.dead.len()), (10_000, 0));
        let counted: u32 = line.counts.iter().map(|counts| counts.postponements).sum();
        assert_eq!(counted, 1, "that of the first");
        assert!((2_880..8_000).contains(&line.tries), "{} probes: two a minute, drawn", line.tries);
        let most = line.counts.iter().map(|counts| counts.deliveries).max().unwrap();
        assert!(most > config().postponements, "{most}: the same jobs were tried again and again");
    }

    #[test]
    fn jobs_at_the_front_that_are_themselves_what_fails_hold_up_no_others_and_are_stranded() {
        const BAD: usize = 10;
        let mut line = Line::of(400);
        let start = line.now;
        let (mut next, mut longest) = (start, Duration::ZERO);
        while line.dead.len() < BAD {
            let turn = line.now;
            assert!(turn < start + 30 * 86_400 * SECOND, "{} of {BAD} are stranded", line.dead.len());
            // One more comes each minute.
            while next <= turn {
                line.ready.insert(line.counts.len());
                line.counts.push(Counts::default());
                next += 60 * SECOND;
            }
            let before = line.done;
            line.turn(SECOND, |job| job < BAD);
            if line.done > before {
                longest = Duration::ZERO;
            }
            longest += line.now - turn;
            assert!(
                longest < 3600 * SECOND,
                "nothing came through for {longest:?}, {:?} after",
                turn - start
            );
        }
        assert!(line.dead.iter().all(|(job, kind)| *job < BAD && *kind == Kind::Stranded), "{:?}", line.dead);
        let waiting = line.counts.len() - line.done - BAD;
        assert!(waiting < 60, "{waiting} of {} wait still", line.counts.len());
    }

    #[test]
    fn what_was_begun_before_the_fire_neither_feeds_it_nor_puts_it_out() {
        let (mut breakers, start) = (Breakers::default(), Instant::now());
        fails(&mut breakers, Dependency::Api, start, start);
        let later = start + 2 * SECOND;
        assert!(!fails(&mut breakers, Dependency::Api, start, later));
        assert_eq!(breakers.may_claim(later), MayClaim::OneByOne, "not shut anew");
        assert!(!breakers.worked(Dependency::Api, start));
        assert_eq!(breakers.open_state(), OpenState::SomeOpen);
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_up_to_the_bound() {
        let start = Instant::now();
        for (asked, kept) in [(0, 1), (30, 30), (86_400, 60)] {
            let mut breakers = Breakers::default();
            breakers.failed(Dependency::Api, start, start, asked * SECOND, config().probes(), 1.0);
            assert_eq!(breakers.may_claim(start), MayClaim::NotFor(kept * SECOND));
        }
    }

    #[test]
    fn each_thing_has_its_own_and_the_longest_pause_holds() {
        let (mut breakers, start) = (Breakers::default(), Instant::now());
        fails(&mut breakers, Dependency::Redis, start, start);
        breakers.failed(Dependency::Api, start, start, 9 * SECOND, config().probes(), 0.0);
        assert_eq!(breakers.may_claim(start), MayClaim::NotFor(9 * SECOND));
        assert!(breakers.worked(Dependency::Api, start + 9 * SECOND));
        assert_eq!(breakers.may_claim(start + 9 * SECOND), MayClaim::Freely, "a claim is Redis' own probe");
        assert_eq!(breakers.open_state(), OpenState::SomeOpen, "and it has not been made yet");
    }
}
