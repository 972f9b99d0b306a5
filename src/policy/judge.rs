//! The judge: decides from an outcome and the job's counts what to do with a delivery (docs/design.md,
//! "Failures").
//!
//! The remedy follows from the blame. A failure of the *target* is retried, with growing delays. A failure of
//! the *job* is dead-lettered at once, because it would fail again. An *infrastructure* failure is postponed,
//! because the job is not at fault. One exception: a child's death of unclear cause is run once more, and
//! only once.
//!
//! # Why
//! What is not listed as retryable is final: a list of exceptions to retrying becomes outdated with every new
//! kind of failure, a list of retries does not. So every match is exhaustive, without `_ =>`.

use std::time::Duration;

use super::Config;
use super::backoff::full_jitter;
use crate::job::counts::DeliveryCounts;
use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::outcome::Outcome;
use crate::job::report::BodyFacts;
use crate::job::verdict::{DeadLetterReason, PostponeReason, Verdict};

/// Tries of a version for which the db app fails and answers for others. Few: its exception is not by chance, and each
/// one is an event in the app's own error tracker.
const UNREADABLE_TRIES: u32 = 3;

/// What a dead letter records beside the failure itself.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterContext {
    /// Metadata of the bodies, as far as they were fetched.
    pub bodies: Vec<BodyFacts>,
    /// Id of the worker that ran the job.
    pub worker: String,
    /// Version of that worker's build.
    pub build: String,
}

/// Whether any circuit breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenState {
    /// Every breaker is closed.
    AllClosed,
    /// A breaker is open: postponements are attributed to it.
    SomeOpen,
}

/// The remedy for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureAction {
    /// The job would fail again.
    Bury,
    /// The target may recover.
    Retry,
    /// It may pass, and if it does not in a few tries it is final under its own name.
    RetryFew,
    /// The cause is unclear: run once more to find out.
    RetryOnce,
    /// An infrastructure failure: try later.
    Postpone,
    /// This machine is too small or too busy: try later, however often.
    PostponeUncounted,
}

/// Decides what to do. `chance` (0 to 1) spreads the delays; `counts` are those of the delivery that just
/// ended.
pub fn judge(
    outcome: Outcome,
    counts: &DeliveryCounts,
    open_state: OpenState,
    context: DeadLetterContext,
    config: &Config,
    chance: f64,
) -> Verdict {
    match outcome {
        Outcome::Reported(report) => Verdict::Done(report),
        Outcome::Skipped(skip) => Verdict::Skip(skip),
        Outcome::Failed(failure) => decide_failure(failure, counts, open_state, context, config, chance),
    }
}

fn decide_failure(
    failure: Failure,
    counts: &DeliveryCounts,
    open_state: OpenState,
    context: DeadLetterContext,
    config: &Config,
    chance: f64,
) -> Verdict {
    let asked = failure.retry_after.unwrap_or(Duration::ZERO).min(config.backoff_max);
    let delay = |spent| full_jitter(config.backoff_base, config.backoff_max, spent, chance).max(asked);
    let bury = |kind, failure| bury(kind, failure, counts, context);
    match action_for(failure.kind) {
        FailureAction::Bury => bury(failure.kind, failure),
        FailureAction::Retry if counts.failures + 1 < config.attempts => {
            Verdict::Retry { after: delay(counts.failures + 1), failure }
        }
        FailureAction::Retry => bury(FailureKind::Exhausted, failure),
        FailureAction::RetryFew if counts.failures + 1 < UNREADABLE_TRIES.min(config.attempts) => {
            Verdict::Retry { after: delay(counts.failures + 1), failure }
        }
        FailureAction::RetryFew => bury(failure.kind, failure),
        FailureAction::RetryOnce if counts.ambiguous_exits == 0 => {
            Verdict::Retry { after: delay(1), failure }
        }
        FailureAction::RetryOnce if failure.kind == FailureKind::ForkServerLost => {
            bury(FailureKind::Crashed, failure)
        }
        FailureAction::RetryOnce => bury(failure.kind, failure),
        FailureAction::Postpone => match open_state {
            // Longer than any pause, so that the next probe is a different job; and longer each time, so that
            // jobs that cause the failure do not remain the probes, however many they are and even if they
            // are first in line.
            OpenState::SomeOpen => {
                let more = full_jitter(config.probe_max, config.backoff_max, counts.deliveries, chance);
                Verdict::Postpone {
                    after: config.probe_max + more,
                    because: PostponeReason::BreakerOpen(failure),
                }
            }
            OpenState::AllClosed if may_postpone(counts, config) => {
                let after =
                    full_jitter(config.backoff_base, config.backoff_max, counts.postponements + 1, chance);
                Verdict::Postpone { after, because: PostponeReason::Infrastructure(failure) }
            }
            OpenState::AllClosed => bury(FailureKind::Stranded, failure),
        },
        // Longer each time, so that a job that always ends so takes less and less of what others could use.
        FailureAction::PostponeUncounted => {
            let after = full_jitter(config.backoff_base, config.backoff_max, counts.deliveries, chance);
            Verdict::Postpone { after, because: PostponeReason::Starved(failure) }
        }
    }
}

fn may_postpone(counts: &DeliveryCounts, config: &Config) -> bool {
    counts.postponements < config.postponements
        && Duration::from_millis(counts.postponed_ms) < config.postponed_max
}

fn action_for(kind: FailureKind) -> FailureAction {
    match kind {
        FailureKind::Decode
        | FailureKind::UnsupportedVersion
        | FailureKind::BadReference
        | FailureKind::VersionMissing
        | FailureKind::Rejected
        | FailureKind::ForbiddenAddress
        | FailureKind::TooManyRedirects
        | FailureKind::TooLarge
        | FailureKind::Gone
        | FailureKind::Refused
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
        | FailureKind::CrashLoop
        | FailureKind::Exhausted
        | FailureKind::Stranded => FailureAction::Bury,
        FailureKind::VersionUnreadable => FailureAction::RetryFew,
        FailureKind::Crashed | FailureKind::KilledFromOutside | FailureKind::ForkServerLost => {
            FailureAction::RetryOnce
        }
        FailureKind::Timeout
        | FailureKind::Dns
        | FailureKind::Connect
        | FailureKind::Tls
        | FailureKind::Upstream
        | FailureKind::Truncated => FailureAction::Retry,
        FailureKind::ApiRefused
        | FailureKind::ApiUnavailable
        | FailureKind::StoreUnavailable
        | FailureKind::StoreRefused
        | FailureKind::CannotSpawn => FailureAction::Postpone,
        FailureKind::Starved => FailureAction::PostponeUncounted,
    }
}

fn bury(kind: FailureKind, failure: Failure, counts: &DeliveryCounts, context: DeadLetterContext) -> Verdict {
    Verdict::DeadLetter(Box::new(DeadLetterReason {
        kind,
        stage: stage_of(kind, &failure),
        failure,
        counts: *counts,
        bodies: context.bodies,
        worker: context.worker,
        build: context.build,
    }))
}

/// The stage of the failure: for a kind that only counts failures (`exhausted`, `stranded`), the last
/// failure's.
fn stage_of(kind: FailureKind, failure: &Failure) -> Stage {
    match kind {
        FailureKind::Exhausted | FailureKind::Stranded => failure.kind.stage(),
        named => named.stage(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Blame;
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

    fn judged(failure: Failure, counts: DeliveryCounts) -> Verdict {
        judged_in(OpenState::AllClosed, failure, counts)
    }

    fn judged_in(open_state: OpenState, failure: Failure, counts: DeliveryCounts) -> Verdict {
        judge(Outcome::Failed(failure), &counts, open_state, DeadLetterContext::default(), &config(), 1.0)
    }

    fn label(kind: FailureKind, counts: DeliveryCounts) -> &'static str {
        judged(Failure::new(kind, ""), counts).as_str()
    }

    fn buried_as(verdict: Verdict) -> Option<FailureKind> {
        if let Verdict::DeadLetter(reason) = verdict { Some(reason.kind) } else { None }
    }

    #[test]
    fn at_the_first_failure_the_blame_decides_the_remedy() {
        for &kind in FailureKind::ALL {
            let expected = match (kind, kind.blame()) {
                (FailureKind::Crashed | FailureKind::KilledFromOutside | FailureKind::ForkServerLost, _) => {
                    "retried"
                }
                (FailureKind::VersionUnreadable, _) => "retried",
                (FailureKind::Exhausted | FailureKind::Stranded, _) => "dead",
                (_, Blame::Job) => "dead",
                (_, Blame::Target) => "retried",
                (_, Blame::Infrastructure) => "postponed",
            };
            assert_eq!(label(kind, DeliveryCounts::default()), expected, "{kind}");
        }
    }

    #[test]
    fn a_target_is_exhausted_when_its_attempts_are_spent() {
        let spent = |failures| DeliveryCounts { failures, ..DeliveryCounts::default() };
        assert_eq!(label(FailureKind::Upstream, spent(1)), "retried");
        let verdict = judged(Failure::new(FailureKind::Upstream, "503"), spent(2));
        let Verdict::DeadLetter(reason) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            (reason.kind, reason.failure.kind, reason.stage),
            (FailureKind::Exhausted, FailureKind::Upstream, Stage::Fetch)
        );
    }

    #[test]
    fn a_version_that_the_app_fails_for_is_tried_a_few_times_and_buried_under_its_own_name() {
        let spent = |failures| DeliveryCounts { failures, ..DeliveryCounts::default() };
        for open_state in [OpenState::AllClosed, OpenState::SomeOpen] {
            let judged = |failures| {
                judged_in(open_state, Failure::new(FailureKind::VersionUnreadable, ""), spent(failures))
            };
            assert_eq!(judged(1).as_str(), "retried");
            assert_eq!(buried_as(judged(2)), Some(FailureKind::VersionUnreadable));
        }
    }

    #[test]
    fn our_own_fault_never_spends_an_attempt_and_strands_in_the_end() {
        let put_off =
            |postponements| DeliveryCounts { postponements, failures: 9, ..DeliveryCounts::default() };
        assert_eq!(label(FailureKind::CannotSpawn, put_off(1)), "postponed");
        let last = judged(Failure::new(FailureKind::ApiUnavailable, ""), put_off(2));
        assert_eq!(buried_as(last), Some(FailureKind::Stranded));
    }

    #[test]
    fn time_put_off_for_our_sake_strands_a_job_as_its_count_does() {
        let put_off =
            |postponed_ms| DeliveryCounts { postponed_ms, postponements: 1, ..DeliveryCounts::default() };
        assert_eq!(label(FailureKind::ApiUnavailable, put_off(599_999)), "postponed");
        let last = judged(Failure::new(FailureKind::ApiUnavailable, ""), put_off(600_000));
        assert_eq!(buried_as(last), Some(FailureKind::Stranded));
    }

    #[test]
    fn while_our_house_burns_nothing_is_counted_and_nothing_strands() {
        let spent = DeliveryCounts { postponements: 2, postponed_ms: 600_000, ..DeliveryCounts::default() };
        for &kind in FailureKind::ALL.iter().filter(|kind| action_for(**kind) == FailureAction::Postpone) {
            let verdict = judged_in(OpenState::SomeOpen, Failure::new(kind, ""), spent);
            let uncounted =
                matches!(verdict, Verdict::Postpone { because: PostponeReason::BreakerOpen(_), .. });
            assert!(uncounted, "{kind}: {verdict:?}");
        }
        let gone =
            judged_in(OpenState::SomeOpen, Failure::new(FailureKind::Gone, ""), DeliveryCounts::default());
        assert_eq!(buried_as(gone), Some(FailureKind::Gone), "a job's own fault is its own, fire or not");
    }

    #[test]
    fn a_death_that_leaves_doubt_is_run_once_more_and_only_once() {
        let doubted = DeliveryCounts { ambiguous_exits: 1, ..DeliveryCounts::default() };
        for kind in [FailureKind::Crashed, FailureKind::KilledFromOutside] {
            assert_eq!(buried_as(judged(Failure::new(kind, ""), doubted)), Some(kind));
        }
        assert_eq!(
            buried_as(judged(Failure::new(FailureKind::ForkServerLost, ""), doubted)),
            Some(FailureKind::Crashed)
        );
    }

    #[test]
    fn a_starved_job_is_put_off_for_longer_each_time_and_never_stranded() {
        let after = |open_state, deliveries| {
            let counts = DeliveryCounts {
                deliveries,
                postponements: 1000,
                postponed_ms: u64::MAX,
                failures: 1000,
                ambiguous_exits: 1000,
                ..DeliveryCounts::default()
            };
            match judged_in(open_state, Failure::new(FailureKind::Starved, ""), counts) {
                Verdict::Postpone { after, because: PostponeReason::Starved(_) } => after.as_secs(),
                verdict => panic!("{verdict:?}"),
            }
        };
        for open_state in [OpenState::AllClosed, OpenState::SomeOpen] {
            let most = [1, 2, 3, 4, 5, 6, 7, 1000].map(|deliveries| after(open_state, deliveries));
            assert_eq!(most, [1, 2, 4, 8, 16, 32, 60, 60]);
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_delay() {
        let asking = |secs| Failure {
            retry_after: Some(Duration::from_secs(secs)),
            ..Failure::new(FailureKind::Upstream, "429")
        };
        let after = |verdict| if let Verdict::Retry { after, .. } = verdict { after.as_secs() } else { 0 };
        assert_eq!(after(judged(asking(30), DeliveryCounts::default())), 30);
        assert_eq!(after(judged(asking(86_400), DeliveryCounts::default())), 60);
    }

    #[test]
    fn a_pause_that_our_own_app_asks_for_is_the_breakers_to_keep_and_not_the_jobs() {
        let asking = Failure {
            retry_after: Some(Duration::from_secs(60)),
            ..Failure::new(FailureKind::ApiUnavailable, "429")
        };
        for open_state in [OpenState::AllClosed, OpenState::SomeOpen] {
            let verdict = judged_in(open_state, asking.clone(), DeliveryCounts::default());
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
            let counts = DeliveryCounts { deliveries, ..DeliveryCounts::default() };
            let failure = Outcome::Failed(Failure::new(FailureKind::ApiUnavailable, ""));
            match judge(failure, &counts, OpenState::SomeOpen, DeadLetterContext::default(), &config, chance)
            {
                Verdict::Postpone { after, because: PostponeReason::BreakerOpen(_) } => after,
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
            &DeliveryCounts::default(),
            OpenState::AllClosed,
            DeadLetterContext::default(),
            &config(),
            0.0,
        );
        assert_eq!(verdict, Verdict::Skip(skip));
    }
}
