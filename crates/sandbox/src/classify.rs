//! What we saw of a job, and what it is called (design 7). Pure: one exhaustive function.
//!
//! It does not decide what happens next; that is the judge's.
//!
//! Invariant: a reply counts only if it is complete *and* the fork-server says the job ended by itself with 0. Everything
//! else a job says of itself may choose among labels that are its own fault, and never one that is ours: what died
//! before it was ready had not read a byte of its input; what died after is answerable for it.

use std::time::Duration;

use rustix::io::Errno;

use super::heap::EXIT_MEMORY;
use super::limits::Limits;
use super::protocol::{ExitCause, JobExit, ReplyCode};
use super::stack_overflow::EXIT_STACK;
use wm_job::duration::millis;
use wm_job::failure::FailureKind;

/// What came through the data socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobOutput {
    /// It ended before the job was ready for its request.
    NotReady,
    /// Ready, and then nothing.
    Empty,
    /// A complete reply and then the end.
    Reply {
        /// What kind.
        code: ReplyCode,
        /// Its body, within the cap.
        body: Vec<u8>,
    },
    /// A reply of that many bytes was announced, more than the cap.
    TooLarge(u64),
    /// Something else; what.
    Malformed(&'static str),
}

/// What the fork-server reported.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExitReport {
    /// The job's end.
    Ended(JobExit),
    /// No job: the kernel refused to fork.
    ForkFailed(Errno),
    /// Nothing any more.
    ForkServerLost {
        /// What we know of it.
        why: String,
        /// How long the job had run by then.
        wall: Duration,
    },
}

/// A label with its sentence.
type FailureLabel = (FailureKind, String);

/// Names what happened; `Ok` with the reply's body only for a job that did its work.
pub(super) fn classify(
    output: JobOutput,
    exit_report: &ExitReport,
    limits: &Limits,
) -> Result<Vec<u8>, FailureLabel> {
    match exit_report {
        ExitReport::ForkServerLost { why, .. } => {
            Err((FailureKind::ForkServerLost, format!("the fork-server was lost: {why}")))
        }
        ExitReport::ForkFailed(errno) => {
            Err((FailureKind::CannotSpawn, format!("no child could be forked: {errno}")))
        }
        ExitReport::Ended(report) => match report.cause {
            ExitCause::Deadline => Err((FailureKind::WallExceeded, wall_exceeded_detail(report, limits))),
            ExitCause::Cancelled => Err(classify_cancelled(&output, limits)),
            ExitCause::Killed(signal) => Err(classify_signal(signal, &output, report, limits)),
            ExitCause::Exited(code) => classify_exit(code, output, limits),
        },
    }
}

fn wall_exceeded_detail(report: &JobExit, limits: &Limits) -> String {
    let (wall, cpu) = (millis(limits.wall), millis(report.cpu));
    let starved = if report.cpu < limits.wall.mul_f64(0.2) {
        ": under 0.2 of it, so it was starved or slept; another try may pass"
    } else {
        ""
    };
    format!("it ran longer than its wall clock of {wall} ms, with {cpu} ms of CPU time{starved}")
}

/// We cut it off, because of its output.
fn classify_cancelled(output: &JobOutput, limits: &Limits) -> FailureLabel {
    match output {
        JobOutput::TooLarge(len) => reply_too_large(*len, limits),
        JobOutput::Malformed(what) => (FailureKind::BadReply, format!("its reply is not one: {what}")),
        JobOutput::NotReady => (FailureKind::CannotSpawn, "it hung before it was ready".to_owned()),
        JobOutput::Empty | JobOutput::Reply { .. } => {
            (FailureKind::BadReply, "it closed its socket without a reply and went on running".to_owned())
        }
    }
}

fn reply_too_large(len: u64, limits: &Limits) -> FailureLabel {
    (
        FailureKind::ReplyTooLarge,
        format!("its reply has {len} bytes, and at most {} are taken", limits.reply_bytes),
    )
}

/// It died of a signal that is not ours.
fn classify_signal(signal: i32, output: &JobOutput, report: &JobExit, limits: &Limits) -> FailureLabel {
    let kernels_cpu_limit = limits.cpu().saturating_add(Duration::from_secs(1));
    match signal {
        libc::SIGKILL if report.cpu >= kernels_cpu_limit => {
            (FailureKind::CpuExceeded, cpu_exceeded_detail(report, limits))
        }
        libc::SIGKILL => (
            FailureKind::KilledFromOutside,
            format!(
                "somebody else killed it at {} MiB resident: the kernel's OOM killer, as a rule",
                report.max_rss_bytes >> 20
            ),
        ),
        _ if *output == JobOutput::NotReady => {
            (FailureKind::CannotSpawn, format!("it died of signal {signal} before it was ready"))
        }
        libc::SIGXCPU => (FailureKind::CpuExceeded, cpu_exceeded_detail(report, limits)),
        libc::SIGSYS => {
            (FailureKind::ForbiddenSyscall, "it made a system call that no analysis needs".to_owned())
        }
        libc::SIGABRT if report.max_rss_bytes >= limits.address_space_limit_bytes() / 10 * 9 => (
            FailureKind::MemoryExceeded,
            "it aborted at the address space limit behind its heap budget".to_owned(),
        ),
        signal => (FailureKind::Crashed, format!("it died of signal {signal}")),
    }
}

fn cpu_exceeded_detail(report: &JobExit, limits: &Limits) -> String {
    format!("it used {} ms of CPU time, and may use {}", millis(report.cpu), millis(limits.cpu()))
}

/// It ended by itself.
fn classify_exit(code: i32, output: JobOutput, limits: &Limits) -> Result<Vec<u8>, FailureLabel> {
    match (code, output) {
        (_, JobOutput::NotReady) => {
            Err((FailureKind::CannotSpawn, format!("it gave up with code {code} before it was ready")))
        }
        (0, JobOutput::Reply { code: ReplyCode::Done, body }) => Ok(body),
        (0, JobOutput::Reply { code: ReplyCode::Panicked, body }) => {
            Err((FailureKind::Panicked, format!("it panicked: {}", String::from_utf8_lossy(&body))))
        }
        (EXIT_MEMORY, _) => Err((
            FailureKind::MemoryExceeded,
            format!("it wanted more than its heap budget of {} bytes", limits.heap_bytes),
        )),
        (EXIT_STACK, _) => Err((
            FailureKind::StackOverflow,
            format!("it ran out of its stack of {} bytes", limits.stack_bytes),
        )),
        (_, JobOutput::TooLarge(len)) => Err(reply_too_large(len, limits)),
        (_, JobOutput::Malformed(what)) => {
            Err((FailureKind::BadReply, format!("its reply is not one: {what}")))
        }
        (code, JobOutput::Empty | JobOutput::Reply { .. }) => {
            Err((FailureKind::BadReply, format!("it ended with code {code} and no reply that counts")))
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
            max_rss_bytes: rss_mib * MIB,
            peak_heap_bytes: 0,
            phase: [0; 4],
        })
    }

    fn reply(code: ReplyCode) -> JobOutput {
        JobOutput::Reply { code, body: b"body".to_vec() }
    }

    fn kind(output: JobOutput, exit_report: &ExitReport) -> Result<Vec<u8>, FailureKind> {
        classify(output, exit_report, &limits()).map_err(|(kind, _)| kind)
    }

    #[test]
    fn every_sight_has_its_name() {
        use ExitCause::{Cancelled, Deadline, Exited, Killed};
        use FailureKind::*;
        let outputs =
            || [JobOutput::Empty, reply(ReplyCode::Done), JobOutput::TooLarge(99), JobOutput::Malformed("x")];
        // What decides by itself, whatever the output:
        for (cause, cpu, rss, expected) in [
            (Deadline, 10_000, 1, WallExceeded),
            (Deadline, 1, 1, WallExceeded),
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
        // What depends on the output:
        for (cause, output, expected) in [
            (Exited(0), reply(ReplyCode::Panicked), Panicked),
            (Exited(0), JobOutput::Empty, BadReply),
            (Exited(0), JobOutput::Malformed("x"), BadReply),
            (Exited(0), JobOutput::TooLarge(99), ReplyTooLarge),
            (Exited(1), reply(ReplyCode::Done), BadReply),
            (Exited(79), JobOutput::Empty, BadReply),
            (Exited(79), JobOutput::NotReady, CannotSpawn),
            (Exited(0), JobOutput::NotReady, CannotSpawn),
            (Exited(EXIT_MEMORY), JobOutput::NotReady, CannotSpawn),
            (Killed(libc::SIGSYS), JobOutput::NotReady, CannotSpawn),
            (Killed(libc::SIGKILL), JobOutput::NotReady, KilledFromOutside),
            (Cancelled, JobOutput::TooLarge(99), ReplyTooLarge),
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
            Ok(b"body".to_vec())
        );
        for cause in [ExitCause::Exited(1), ExitCause::Killed(9), ExitCause::Deadline, ExitCause::Cancelled] {
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
    fn a_wall_kill_without_cpu_time_says_that_it_may_pass() {
        let detail = |cpu| {
            classify(JobOutput::Empty, &exit_report(ExitCause::Deadline, cpu, 1), &limits()).unwrap_err().1
        };
        assert!(detail(1_999).contains("another try may pass"));
        assert!(!detail(2_000).contains("another try"));
    }
}
