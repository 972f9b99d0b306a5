//! Maps what was observed of a job to a failure kind (design 7). Pure: one exhaustive function.
//!
//! What happens next is decided by the judge.
//!
//! Invariant: a reply counts only if it is complete *and* the fork server reports that the job exited with 0.
//! Nothing else a job writes can select a failure kind that is blamed on us: a job that ended before it was
//! ready had not read any of its input, and a job that ended later is to blame itself.

use std::time::Duration;

use rustix::io::Errno;

use super::Product;
use super::heap::EXIT_MEMORY;
use super::isolation_layers::IsolationLayers;
use super::job_process::MAX_PANIC_BYTES;
use super::limits::Limits;
use super::protocol::{ExitCause, JobExit, ReplyCode};
use super::stack_overflow::EXIT_STACK;
use super::status_block;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;
use wm_job::measured::ChildUsage;

/// What was received on the data socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobOutput {
    /// Closed before the job was ready for its request.
    NotReady,
    /// Closed after the ready byte, without a reply.
    Empty,
    /// A complete reply, followed by the end of the stream.
    Reply {
        /// Whether the work returned or panicked.
        code: ReplyCode,
        /// Both parts of the reply, within their limits.
        product: Product,
    },
    /// The header announced a part above its limit.
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// Anything else, with a description.
    Malformed(&'static str),
}

/// What the fork server reported.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExitReport {
    /// The job ran and was reaped.
    Ended(JobExit),
    /// The job never ran: the kernel refused to fork.
    ForkFailed(Errno),
    /// The fork server died, hung or sent an invalid message.
    ForkServerLost {
        /// Description of the error.
        why: String,
        /// How long the job had been running.
        wall: Duration,
    },
}

/// A failure kind with its detail sentence.
type FailureLabel = (FailureKind, String);

/// Classifies the outcome; `Ok` with what it produced only for a job that succeeded.
pub(super) fn classify(
    output: JobOutput,
    exit_report: &ExitReport,
    limits: &Limits,
) -> Result<Product, FailureLabel> {
    match exit_report {
        ExitReport::ForkServerLost { why, .. } => {
            Err((FailureKind::ForkServerLost, format!("the fork server was lost: {why}")))
        }
        ExitReport::ForkFailed(errno) => {
            Err((FailureKind::CannotSpawn, format!("no child could be forked: {errno}")))
        }
        ExitReport::Ended(report) => match report.cause {
            ExitCause::Deadline => Err((FailureKind::WallExceeded, wall_exceeded_detail(report, limits))),
            ExitCause::Ceiling => Err(classify_ceiling(report, limits)),
            ExitCause::Cancelled => Err(classify_cancelled(&output)),
            ExitCause::Killed(signal) => Err(classify_signal(signal, &output, report, limits)),
            ExitCause::Exited(code) => classify_exit(code, output, limits),
        },
    }
}

fn wall_exceeded_detail(report: &JobExit, limits: &Limits) -> String {
    let (wall, cpu) = (millis(limits.wall), millis(report.cpu));
    format!("it ran longer than its wall clock of {wall} ms, with {cpu} ms of CPU time")
}

/// The job was killed at the hard ceiling. The kernel's count of its waiting, which is exact only now that it
/// has ended, tells one that got no CPU from one that slept unseen between the samples.
fn classify_ceiling(report: &JobExit, limits: &Limits) -> FailureLabel {
    let asleep = |waited| report.wall.saturating_sub(report.cpu).saturating_sub(waited);
    if report.waited.map(asleep).is_some_and(|asleep| asleep >= limits.wall) {
        return (FailureKind::WallExceeded, wall_exceeded_detail(report, limits));
    }
    let [wall, ceiling, cpu] = [limits.wall, report.wall, report.cpu].map(millis);
    let detail = format!(
        "in {ceiling} ms it got {cpu} ms of CPU time, of the {wall} ms it may use: this machine is too small or too busy"
    );
    (FailureKind::Starved, detail)
}

/// The worker cancelled the job because of its output.
fn classify_cancelled(output: &JobOutput) -> FailureLabel {
    match output {
        JobOutput::TooLarge { bytes, most } => reply_too_large(*bytes, *most),
        JobOutput::Malformed(what) => (FailureKind::BadReply, format!("invalid reply: {what}")),
        JobOutput::NotReady => (FailureKind::CannotSpawn, "it hung before it was ready".to_owned()),
        JobOutput::Empty | JobOutput::Reply { .. } => {
            (FailureKind::BadReply, "it closed its socket without a reply and went on running".to_owned())
        }
    }
}

fn reply_too_large(bytes: u64, most: u64) -> FailureLabel {
    (FailureKind::ReplyTooLarge, format!("a part of its reply has {bytes} bytes, above the limit of {most}"))
}

/// The job died of a signal that the fork server did not send.
fn classify_signal(signal: i32, output: &JobOutput, report: &JobExit, limits: &Limits) -> FailureLabel {
    let kernels_cpu_limit = limits.cpu().saturating_add(Duration::from_secs(1));
    match signal {
        libc::SIGKILL if report.cpu >= kernels_cpu_limit => {
            (FailureKind::CpuExceeded, cpu_exceeded_detail(report, limits))
        }
        libc::SIGKILL => (
            FailureKind::KilledFromOutside,
            format!(
                "it was killed from outside at {} MiB resident, usually by the kernel's OOM killer",
                report.max_rss_bytes >> 20
            ),
        ),
        _ if *output == JobOutput::NotReady => {
            (FailureKind::CannotSpawn, format!("it died of signal {signal} before it was ready"))
        }
        libc::SIGXCPU => (FailureKind::CpuExceeded, cpu_exceeded_detail(report, limits)),
        libc::SIGSYS => (FailureKind::ForbiddenSyscall, "it made a forbidden system call".to_owned()),
        libc::SIGABRT if report.max_rss_bytes >= limits.address_space_limit_bytes() / 10 * 9 => {
            (FailureKind::MemoryExceeded, "it aborted at its address-space limit".to_owned())
        }
        signal => (FailureKind::Crashed, format!("it died of signal {signal}")),
    }
}

fn cpu_exceeded_detail(report: &JobExit, limits: &Limits) -> String {
    format!("it used {} ms of CPU time, with a limit of {} ms", millis(report.cpu), millis(limits.cpu()))
}

/// The job exited by itself.
fn classify_exit(code: i32, output: JobOutput, limits: &Limits) -> Result<Product, FailureLabel> {
    match (code, output) {
        (_, JobOutput::NotReady) => {
            Err((FailureKind::CannotSpawn, format!("it exited with code {code} before it was ready")))
        }
        (0, JobOutput::Reply { code: ReplyCode::Done, product }) => Ok(product),
        (0, JobOutput::Reply { code: ReplyCode::Panicked, product }) => {
            // The job cuts its message and adds its place; one that was taken over may send anything.
            let message = &product.answer[..product.answer.len().min(2 * MAX_PANIC_BYTES)];
            Err((FailureKind::Panicked, format!("it panicked: {}", String::from_utf8_lossy(message))))
        }
        (EXIT_MEMORY, _) => Err((
            FailureKind::MemoryExceeded,
            format!("it exceeded its heap budget of {} bytes", limits.heap_bytes),
        )),
        (EXIT_STACK, _) => Err((
            FailureKind::StackOverflow,
            format!("it overflowed its stack of {} bytes", limits.stack_bytes),
        )),
        (_, JobOutput::TooLarge { bytes, most }) => Err(reply_too_large(bytes, most)),
        (_, JobOutput::Malformed(what)) => Err((FailureKind::BadReply, format!("invalid reply: {what}"))),
        (code, JobOutput::Empty | JobOutput::Reply { .. }) => {
            Err((FailureKind::BadReply, format!("it exited with code {code} without a valid reply")))
        }
    }
}

/// Measurements of the child, as far as they are known, for the evidence in a report.
pub(super) fn measured_of(exit_report: &ExitReport, limits: &Limits, layers: IsolationLayers) -> ChildUsage {
    let known =
        ChildUsage { limits: Some(limits.effective()), isolation: layers.names(), ..ChildUsage::default() };
    match exit_report {
        ExitReport::ForkFailed(_) => known,
        ExitReport::ForkServerLost { wall, .. } => ChildUsage { wall_ms: millis(*wall), ..known },
        ExitReport::Ended(report) => {
            let (exit, signal) = super::protocol::exit_and_signal(report.cause);
            ChildUsage {
                wall_ms: millis(report.wall),
                cpu_ms: millis(report.cpu),
                waiting_ms: report.waited.map(millis),
                peak_heap_bytes: report.peak_heap_bytes,
                max_rss_bytes: report.max_rss_bytes,
                exit,
                signal,
                phase: status_block::phase_name(report.phase),
                ..known
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits() -> Limits {
        Limits {
            wall: Duration::from_secs(10),
            heap_bytes: 256 * MIB,
            stack_bytes: 8 * MIB,
            reply_bytes: 16 * MIB,
        }
    }

    fn exit_report(cause: ExitCause, cpu_ms: u64, rss_mib: u64) -> ExitReport {
        ExitReport::Ended(JobExit {
            job: 1,
            cause,
            wall: Duration::from_secs(1),
            cpu: Duration::from_millis(cpu_ms),
            waited: None,
            max_rss_bytes: rss_mib * MIB,
            minor_faults: 0,
            peak_heap_bytes: 0,
            phase: [0; 4],
        })
    }

    fn reply(code: ReplyCode) -> JobOutput {
        JobOutput::Reply { code, product: b"body".to_vec().into() }
    }

    fn kind(output: JobOutput, exit_report: &ExitReport) -> Result<Product, FailureKind> {
        classify(output, exit_report, &limits()).map_err(|(kind, _)| kind)
    }

    #[test]
    fn every_sight_has_its_name() {
        use ExitCause::{Cancelled, Ceiling, Deadline, Exited, Killed};
        use FailureKind::*;
        let outputs = || {
            [
                JobOutput::Empty,
                reply(ReplyCode::Done),
                JobOutput::TooLarge { bytes: 99, most: 98 },
                JobOutput::Malformed("x"),
            ]
        };
        // Decided by the exit cause, whatever the output:
        for (cause, cpu, rss, expected) in [
            (Deadline, 10_000, 1, WallExceeded),
            (Deadline, 1, 1, WallExceeded),
            (Ceiling, 1, 1, Starved),
            (Killed(libc::SIGKILL), 12_000, 1, CpuExceeded),
            (Killed(libc::SIGKILL), 11_999, 1, KilledFromOutside),
            (Killed(libc::SIGXCPU), 11_000, 1, CpuExceeded),
            (Killed(libc::SIGSYS), 1, 1, ForbiddenSyscall),
            (Killed(libc::SIGABRT), 1, 1, Crashed),
            (Killed(libc::SIGABRT), 1, 380, MemoryExceeded),
            (Killed(libc::SIGSEGV), 1, 380, Crashed),
            (Killed(libc::SIGTERM), 1, 1, Crashed),
            (Exited(EXIT_MEMORY), 1, 1, MemoryExceeded),
            (Exited(EXIT_STACK), 1, 1, StackOverflow),
        ] {
            for output in outputs() {
                assert_eq!(
                    kind(output.clone(), &exit_report(cause, cpu, rss)),
                    Err(expected),
                    "{cause:?} {output:?}"
                );
            }
        }
        // Decided by the output:
        for (cause, output, expected) in [
            (Exited(0), reply(ReplyCode::Panicked), Panicked),
            (Exited(0), JobOutput::Empty, BadReply),
            (Exited(0), JobOutput::Malformed("x"), BadReply),
            (Exited(0), JobOutput::TooLarge { bytes: 99, most: 98 }, ReplyTooLarge),
            (Exited(1), reply(ReplyCode::Done), BadReply),
            (Exited(79), JobOutput::Empty, BadReply),
            (Exited(79), JobOutput::NotReady, CannotSpawn),
            (Exited(0), JobOutput::NotReady, CannotSpawn),
            (Exited(EXIT_MEMORY), JobOutput::NotReady, CannotSpawn),
            (Killed(libc::SIGSYS), JobOutput::NotReady, CannotSpawn),
            (Killed(libc::SIGKILL), JobOutput::NotReady, KilledFromOutside),
            (Cancelled, JobOutput::TooLarge { bytes: 99, most: 98 }, ReplyTooLarge),
            (Cancelled, JobOutput::Malformed("x"), BadReply),
            (Cancelled, JobOutput::Empty, BadReply),
            (Cancelled, JobOutput::NotReady, CannotSpawn),
        ] {
            assert_eq!(
                kind(output.clone(), &exit_report(cause, 1, 1)),
                Err(expected),
                "{cause:?} {output:?}"
            );
        }
        assert_eq!(kind(reply(ReplyCode::Done), &ExitReport::ForkFailed(Errno::AGAIN)), Err(CannotSpawn));
        let lost = ExitReport::ForkServerLost { why: String::new(), wall: Duration::ZERO };
        assert_eq!(kind(reply(ReplyCode::Done), &lost), Err(ForkServerLost));
    }

    #[test]
    fn a_reply_counts_only_complete_and_from_a_job_that_ended_well() {
        assert_eq!(
            kind(reply(ReplyCode::Done), &exit_report(ExitCause::Exited(0), 1, 1)),
            Ok(b"body".to_vec().into())
        );
        for cause in [
            ExitCause::Exited(1),
            ExitCause::Killed(9),
            ExitCause::Deadline,
            ExitCause::Ceiling,
            ExitCause::Cancelled,
        ] {
            assert!(kind(reply(ReplyCode::Done), &exit_report(cause, 1, 1)).is_err(), "{cause:?}");
        }
    }

    #[test]
    fn a_job_that_was_ready_can_never_make_its_end_our_fault() {
        let forged = |code| {
            [JobOutput::Empty, reply(ReplyCode::Done), JobOutput::Malformed("x")].map(|output| (code, output))
        };
        for (code, output) in (0..=255).flat_map(forged) {
            if let Err(kind) = kind(output, &exit_report(ExitCause::Exited(code), 1, 1)) {
                assert_eq!(kind.blame(), wm_job::failure::Blame::Job, "exit {code}");
            }
        }
    }

    #[test]
    fn at_the_ceiling_a_job_that_slept_unseen_is_not_taken_for_a_starved_one() {
        let ended = |waited_s: u64| {
            let ExitReport::Ended(report) = exit_report(ExitCause::Ceiling, 1_000, 1) else { unreachable!() };
            let (wall, waited) = (Duration::from_secs(100), Some(Duration::from_secs(waited_s)));
            kind(JobOutput::Empty, &ExitReport::Ended(JobExit { wall, waited, ..report }))
        };
        assert_eq!(ended(99), Err(FailureKind::Starved));
        assert_eq!(ended(90), Err(FailureKind::Starved));
        assert_eq!(ended(89), Err(FailureKind::WallExceeded));
        assert_eq!(ended(0), Err(FailureKind::WallExceeded));
    }
}
