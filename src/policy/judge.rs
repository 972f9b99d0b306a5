//! One exhaustive judge: what happened, and how often before, decides what is done (design 7).
//!
//! The remedy follows from the blame. A *target* gets its attempts, with growing delays. A *job* is buried at once,
//! because it would happen again. *We* postpone, because it is not the job's fault. One exception cuts across: a child's
//! death that leaves doubt whose fault it was is run once more, and only once.
//!
//! # Why
//! What is not listed as retryable is final: a list of exceptions to retrying rots with every new kind of failure, a
//! list of retries does not. So there is no `_ =>` here.

use std::time::Duration;

use super::Config;
use super::backoff::full_jitter;
use crate::job::counts::Counts;
use crate::job::failure::{Failure, Kind, Stage};
use crate::job::outcome::Outcome;
use crate::job::report::BodyFacts;
use crate::job::verdict::{DeathReason, Holdup, Verdict};

/// A wall kill that used less than this share of its time on a CPU was waiting for one: the machine's fault, perhaps.
const IDLE_SHARE: f64 = 0.2;

/// What a dead letter says beside the failure itself.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was known of the bodies.
    pub bodies: Vec<BodyFacts>,
    /// The worker that had the job.
    pub worker: String,
    /// Its build.
    pub build: String,
}

/// How our own open_state stands, as the breakers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenState {
    /// Everything of ours works, as far as we know.
    AllClosed,
    /// A breaker is open: whatever is put off now is put off for that.
    SomeOpen,
}

/// The remedy that a failure calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// It would happen again.
    Bury,
    /// The target may recover.
    TryAgain,
    /// Whose fault it was is open: one more run tells.
    RunOnceMore,
    /// Our fault: later.
    PutOff,
}

/// Decides. `chance` (0 to 1) spreads the delays; `counts` are those of the delivery that just ended.
pub fn judge(
    outcome: Outcome,
    counts: &Counts,
    open_state: OpenState,
    evidence: Evidence,
    config: &Config,
    chance: f64,
) -> Verdict {
    match outcome {
        Outcome::Reported(report) => Verdict::Done(report),
        Outcome::Skipped(skip) => Verdict::Skip(skip),
        Outcome::Failed(failure) => sentence(failure, counts, open_state, evidence, config, chance),
    }
}

fn sentence(
    failure: Failure,
    counts: &Counts,
    open_state: OpenState,
    evidence: Evidence,
    config: &Config,
    chance: f64,
) -> Verdict {
    let asked = failure.retry_after.unwrap_or(Duration::ZERO).min(config.backoff_max);
    let delay = |spent| full_jitter(config.backoff_base, config.backoff_max, spent, chance).max(asked);
    let bury = |kind, failure| bury(kind, failure, counts, evidence);
    match remedy(&failure) {
        Remedy::Bury => bury(failure.kind, failure),
        Remedy::TryAgain if counts.failures + 1 < config.attempts => {
            Verdict::Retry { after: delay(counts.failures + 1), failure }
        }
        Remedy::TryAgain => bury(Kind::Exhausted, failure),
        Remedy::RunOnceMore if counts.doubts == 0 => Verdict::Retry { after: delay(1), failure },
        Remedy::RunOnceMore if failure.kind == Kind::ZygoteLost => bury(Kind::Crashed, failure),
        Remedy::RunOnceMore => bury(failure.kind, failure),
        Remedy::PutOff => match open_state {
            // Longer than any pause, so that the next probe is another job; and longer each time, so that jobs which are
            // themselves what fails, be they many and first in line, leave the probing to others.
            OpenState::SomeOpen => {
                let more = full_jitter(config.probe_max, config.backoff_max, counts.deliveries, chance);
                Verdict::Postpone { after: config.probe_max + more, because: Holdup::BreakerOpen(failure) }
            }
            OpenState::AllClosed if may_wait(counts, config) => {
                let after =
                    full_jitter(config.backoff_base, config.backoff_max, counts.postponements + 1, chance);
                Verdict::Postpone { after, because: Holdup::Ours(failure) }
            }
            OpenState::AllClosed => bury(Kind::Stranded, failure),
        },
    }
}

fn may_wait(counts: &Counts, config: &Config) -> bool {
    counts.postponements < config.postponements
        && Duration::from_millis(counts.postponed_ms) < config.postponed_max
}

fn remedy(failure: &Failure) -> Remedy {
    match failure.kind {
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
        | Kind::DecompressionBomb
        | Kind::HashMismatch
        | Kind::CpuExceeded
        | Kind::MemoryExceeded
        | Kind::StackOverflow
        | Kind::Panicked
        | Kind::BadReply
        | Kind::ReplyTooLarge
        | Kind::ForbiddenSyscall
        | Kind::CrashLoop
        | Kind::Exhausted
        | Kind::Stranded => Remedy::Bury,
        Kind::WallExceeded if was_idle(failure) => Remedy::RunOnceMore,
        Kind::WallExceeded => Remedy::Bury,
        Kind::Crashed | Kind::KilledFromOutside | Kind::ZygoteLost => Remedy::RunOnceMore,
        Kind::Timeout | Kind::Dns | Kind::Connect | Kind::Tls | Kind::Upstream | Kind::Truncated => {
            Remedy::TryAgain
        }
        Kind::ApiRefused | Kind::ApiUnavailable | Kind::CannotSpawn => Remedy::PutOff,
    }
}

fn was_idle(failure: &Failure) -> bool {
    failure.measured.as_ref().is_some_and(|m| (m.cpu_ms as f64) < IDLE_SHARE * m.wall_ms as f64)
}

fn bury(kind: Kind, failure: Failure, counts: &Counts, evidence: Evidence) -> Verdict {
    Verdict::DeadLetter(Box::new(DeathReason {
        kind,
        stage: stage_of(kind, &failure),
        failure,
        counts: *counts,
        bodies: evidence.bodies,
        worker: evidence.worker,
        build: evidence.build,
    }))
}

/// Where it happened: of a kind that only counts (`exhausted`, `stranded`), where the last failure did.
fn stage_of(kind: Kind, failure: &Failure) -> Stage {
    match kind {
        Kind::Exhausted | Kind::Stranded => failure.kind.stage(),
        named => named.stage(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Blame;
    use crate::job::measured::Measured;
    use crate::job::skip::{Skip, SkipReason};

    fn config() -> Config {
        Config {
            attempts: 3,
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            postponements: 2,
            postponed_max: Duration::from_secs(600),
            probe_base: Duration::from_secs(1),
            probe_max: Duration::from_secs(7),
        }
    }

    fn judged(failure: Failure, counts: Counts) -> Verdict {
        judged_in(OpenState::AllClosed, failure, counts)
    }

    fn judged_in(open_state: OpenState, failure: Failure, counts: Counts) -> Verdict {
        judge(Outcome::Failed(failure), &counts, open_state, Evidence::default(), &config(), 1.0)
    }

    fn label(kind: Kind, counts: Counts) -> &'static str {
        judged(Failure::new(kind, ""), counts).as_str()
    }

    fn buried_as(verdict: Verdict) -> Option<Kind> {
        if let Verdict::DeadLetter(reason) = verdict { Some(reason.kind) } else { None }
    }

    #[test]
    fn at_the_first_failure_the_blame_decides_the_remedy() {
        for &kind in Kind::ALL {
            let expected = match (kind, kind.blame()) {
                (Kind::Crashed | Kind::KilledFromOutside | Kind::ZygoteLost, _) => "retried",
                (Kind::Exhausted | Kind::Stranded, _) => "dead",
                (_, Blame::Job) => "dead",
                (_, Blame::Target) => "retried",
                (_, Blame::Us) => "postponed",
            };
            assert_eq!(label(kind, Counts::default()), expected, "{kind}");
        }
    }

    #[test]
    fn a_target_is_exhausted_when_its_attempts_are_spent() {
        let spent = |failures| Counts { failures, ..Counts::default() };
        assert_eq!(label(Kind::Upstream, spent(1)), "retried");
        let verdict = judged(Failure::new(Kind::Upstream, "503"), spent(2));
        let Verdict::DeadLetter(reason) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            (reason.kind, reason.failure.kind, reason.stage),
            (Kind::Exhausted, Kind::Upstream, Stage::Fetch)
        );
    }

    #[test]
    fn our_own_fault_never_spends_an_attempt_and_strands_in_the_end() {
        let put_off = |postponements| Counts { postponements, failures: 9, ..Counts::default() };
        assert_eq!(label(Kind::CannotSpawn, put_off(1)), "postponed");
        let last = judged(Failure::new(Kind::ApiUnavailable, ""), put_off(2));
        assert_eq!(buried_as(last), Some(Kind::Stranded));
    }

    #[test]
    fn time_put_off_for_our_sake_strands_a_job_as_its_count_does() {
        let put_off = |postponed_ms| Counts { postponed_ms, postponements: 1, ..Counts::default() };
        assert_eq!(label(Kind::ApiUnavailable, put_off(599_999)), "postponed");
        let last = judged(Failure::new(Kind::ApiUnavailable, ""), put_off(600_000));
        assert_eq!(buried_as(last), Some(Kind::Stranded));
    }

    #[test]
    fn while_our_house_burns_nothing_is_counted_and_nothing_strands() {
        let spent = Counts { postponements: 2, postponed_ms: 600_000, ..Counts::default() };
        for &kind in Kind::ALL.iter().filter(|kind| remedy(&Failure::new(**kind, "")) == Remedy::PutOff) {
            let verdict = judged_in(OpenState::SomeOpen, Failure::new(kind, ""), spent);
            let uncounted = matches!(verdict, Verdict::Postpone { because: Holdup::BreakerOpen(_), .. });
            assert!(uncounted, "{kind}: {verdict:?}");
        }
        let gone = judged_in(OpenState::SomeOpen, Failure::new(Kind::Gone, ""), Counts::default());
        assert_eq!(buried_as(gone), Some(Kind::Gone), "a job's own fault is its own, fire or not");
    }

    #[test]
    fn a_death_that_leaves_doubt_is_run_once_more_and_only_once() {
        let doubted = Counts { doubts: 1, ..Counts::default() };
        for kind in [Kind::Crashed, Kind::KilledFromOutside] {
            assert_eq!(buried_as(judged(Failure::new(kind, ""), doubted)), Some(kind));
        }
        assert_eq!(buried_as(judged(Failure::new(Kind::ZygoteLost, ""), doubted)), Some(Kind::Crashed));
    }

    #[test]
    fn a_wall_kill_is_final_unless_the_child_hardly_ran() {
        let wall = |cpu_ms| {
            let measured = Measured { wall_ms: 1000, cpu_ms, ..Measured::default() };
            Failure { measured: Some(Box::new(measured)), ..Failure::new(Kind::WallExceeded, "") }
        };
        assert_eq!(judged(wall(900), Counts::default()).as_str(), "dead");
        assert_eq!(judged(wall(100), Counts::default()).as_str(), "retried");
        assert_eq!(judged(wall(100), Counts { doubts: 1, ..Counts::default() }).as_str(), "dead");
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_delay() {
        let asking = |secs| Failure {
            retry_after: Some(Duration::from_secs(secs)),
            ..Failure::new(Kind::Upstream, "429")
        };
        let after = |verdict| if let Verdict::Retry { after, .. } = verdict { after.as_secs() } else { 0 };
        assert_eq!(after(judged(asking(30), Counts::default())), 30);
        assert_eq!(after(judged(asking(86_400), Counts::default())), 60);
    }

    #[test]
    fn a_pause_that_our_own_app_asks_for_is_the_breakers_to_keep_and_not_the_jobs() {
        let asking = Failure {
            retry_after: Some(Duration::from_secs(60)),
            ..Failure::new(Kind::ApiUnavailable, "429")
        };
        for open_state in [OpenState::AllClosed, OpenState::SomeOpen] {
            let verdict = judged_in(open_state, asking.clone(), Counts::default());
            let Verdict::Postpone { after, .. } = verdict else { panic!("{verdict:?}") };
            let most = if open_state == OpenState::AllClosed {
                config().backoff_base
            } else {
                2 * config().probe_max
            };
            assert_eq!(after, most);
        }
    }

    #[test]
    fn a_probe_that_failed_is_away_for_longer_than_any_pause_and_longer_each_time() {
        let config = config();
        let after = |deliveries, chance| {
            let counts = Counts { deliveries, ..Counts::default() };
            let failure = Outcome::Failed(Failure::new(Kind::ApiUnavailable, ""));
            match judge(failure, &counts, OpenState::SomeOpen, Evidence::default(), &config, chance) {
                Verdict::Postpone { after, because: Holdup::BreakerOpen(_) } => after,
                verdict => panic!("{verdict:?}"),
            }
        };
        assert!((1..1000).all(|n| after(n, 0.0) > config.probe_max));
        let most = [1, 2, 3, 4, 5, 1000].map(|n| (after(n, 1.0) - config.probe_max).as_secs());
        assert_eq!(most, [7, 14, 28, 56, 60, 60]);
    }

    #[test]
    fn a_report_is_done_and_a_skip_is_a_skip() {
        let skip = Skip::new(SkipReason::Extension, ".pdf");
        let verdict = judge(
            Outcome::Skipped(skip.clone()),
            &Counts::default(),
            OpenState::AllClosed,
            Evidence::default(),
            &config(),
            0.0,
        );
        assert_eq!(verdict, Verdict::Skip(skip));
    }
}
