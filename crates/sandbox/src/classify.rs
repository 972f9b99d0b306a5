//! What we saw of a job, and what it is called (design 7). Pure: one exhaustive function.
//!
//! It does not decide what happens next; that is the judge's.
//!
//! Invariant: a reply counts only if it is complete *and* the zygote says the job ended by itself with 0. Everything
//! else a job says of itself may choose among labels that are its own fault, and never one that is ours: what died
//! before it was ready had not read a byte of its input; what died after is answerable for it.

use std::time::Duration;

use rustix::io::Errno;

use super::heap::EXIT_MEMORY;
use super::limits::Limits;
use super::protocol::{Code, Ending, Report};
use super::stack::EXIT_STACK;
use wm_job::duration::millis;
use wm_job::failure::Kind;

/// What came through the data socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// It ended before the job was ready for its request.
    NotReady,
    /// Ready, and then nothing.
    Nothing,
    /// A complete reply and then the end.
    Reply {
        /// What kind.
        code: Code,
        /// Its body, within the cap.
        body: Vec<u8>,
    },
    /// A reply of that many bytes was announced, more than the cap.
    TooLarge(u64),
    /// Something else; what.
    Garbage(&'static str),
}

/// What the zygote saw.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    /// The job's end.
    Ended(Report),
    /// No job: the kernel refused to fork.
    NotForked(Errno),
    /// Nothing any more.
    ZygoteLost {
        /// What we know of it.
        why: String,
        /// How long the job had run by then.
        wall: Duration,
    },
}

/// A label with its sentence.
type Named = (Kind, String);

/// Names what happened; `Ok` with the reply's body only for a job that did its work.
pub(super) fn classify(said: Said, seen: &Seen, limits: &Limits) -> Result<Vec<u8>, Named> {
    match seen {
        Seen::ZygoteLost { why, .. } => Err((Kind::ZygoteLost, format!("the fork-server was lost: {why}"))),
        Seen::NotForked(errno) => Err((Kind::CannotSpawn, format!("no child could be forked: {errno}"))),
        Seen::Ended(report) => match report.ending {
            Ending::Deadline => Err((Kind::WallExceeded, past_the_wall(report, limits))),
            Ending::Cancelled => Err(cancelled(&said, limits)),
            Ending::Killed(signal) => Err(killed(signal, &said, report, limits)),
            Ending::Exited(code) => exited(code, said, limits),
        },
    }
}

fn past_the_wall(report: &Report, limits: &Limits) -> String {
    let (wall, cpu) = (millis(limits.wall), millis(report.cpu));
    let starved = if report.cpu < limits.wall.mul_f64(0.2) {
        ": under 0.2 of it, so it was starved or slept; another try may pass"
    } else {
        ""
    };
    format!("it ran longer than its wall clock of {wall} ms, with {cpu} ms of CPU time{starved}")
}

/// We cut it off, because of what it said.
fn cancelled(said: &Said, limits: &Limits) -> Named {
    match said {
        Said::TooLarge(len) => too_large(*len, limits),
        Said::Garbage(what) => (Kind::BadReply, format!("its reply is not one: {what}")),
        Said::NotReady => (Kind::CannotSpawn, "it hung before it was ready".to_owned()),
        Said::Nothing | Said::Reply { .. } => {
            (Kind::BadReply, "it closed its socket without a reply and went on running".to_owned())
        }
    }
}

fn too_large(len: u64, limits: &Limits) -> Named {
    (Kind::ReplyTooLarge, format!("its reply has {len} bytes, and at most {} are taken", limits.reply_bytes))
}

/// It died of a signal that is not ours.
fn killed(signal: i32, said: &Said, report: &Report, limits: &Limits) -> Named {
    let kernels_cpu_limit = limits.cpu().saturating_add(Duration::from_secs(1));
    match signal {
        libc::SIGKILL if report.cpu >= kernels_cpu_limit => (Kind::CpuExceeded, past_the_cpu(report, limits)),
        libc::SIGKILL => (
            Kind::KilledFromOutside,
            format!(
                "somebody else killed it at {} MiB resident: the kernel's OOM killer, as a rule",
                report.max_rss_bytes >> 20
            ),
        ),
        _ if *said == Said::NotReady => {
            (Kind::CannotSpawn, format!("it died of signal {signal} before it was ready"))
        }
        libc::SIGXCPU => (Kind::CpuExceeded, past_the_cpu(report, limits)),
        libc::SIGSYS => (Kind::ForbiddenSyscall, "it made a system call that no analysis needs".to_owned()),
        libc::SIGABRT if report.max_rss_bytes >= limits.fence_bytes() / 10 * 9 => {
            (Kind::MemoryExceeded, "it aborted at the fence behind its heap budget".to_owned())
        }
        signal => (Kind::Crashed, format!("it died of signal {signal}")),
    }
}

fn past_the_cpu(report: &Report, limits: &Limits) -> String {
    format!("it used {} ms of CPU time, and may use {}", millis(report.cpu), millis(limits.cpu()))
}

/// It ended by itself.
fn exited(code: i32, said: Said, limits: &Limits) -> Result<Vec<u8>, Named> {
    match (code, said) {
        (_, Said::NotReady) => {
            Err((Kind::CannotSpawn, format!("it gave up with code {code} before it was ready")))
        }
        (0, Said::Reply { code: Code::Done, body }) => Ok(body),
        (0, Said::Reply { code: Code::Panicked, body }) => {
            Err((Kind::Panicked, format!("it panicked: {}", String::from_utf8_lossy(&body))))
        }
        (EXIT_MEMORY, _) => Err((
            Kind::MemoryExceeded,
            format!("it wanted more than its heap budget of {} bytes", limits.heap_bytes),
        )),
        (EXIT_STACK, _) => {
            Err((Kind::StackOverflow, format!("it ran out of its stack of {} bytes", limits.stack_bytes)))
        }
        (_, Said::TooLarge(len)) => Err(too_large(len, limits)),
        (_, Said::Garbage(what)) => Err((Kind::BadReply, format!("its reply is not one: {what}"))),
        (code, Said::Nothing | Said::Reply { .. }) => {
            Err((Kind::BadReply, format!("it ended with code {code} and no reply that counts")))
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

    fn seen(ending: Ending, cpu_ms: u64, rss_mib: u64) -> Seen {
        Seen::Ended(Report {
            job: 1,
            ending,
            wall: Duration::from_secs(1),
            cpu: Duration::from_millis(cpu_ms),
            max_rss_bytes: rss_mib * MIB,
            peak_heap_bytes: 0,
            phase: [0; 4],
        })
    }

    fn reply(code: Code) -> Said {
        Said::Reply { code, body: b"body".to_vec() }
    }

    fn kind(said: Said, seen: &Seen) -> Result<Vec<u8>, Kind> {
        classify(said, seen, &limits()).map_err(|(kind, _)| kind)
    }

    #[test]
    fn every_sight_has_its_name() {
        use Ending::{Cancelled, Deadline, Exited, Killed};
        use Kind::*;
        let said = || [Said::Nothing, reply(Code::Done), Said::TooLarge(99), Said::Garbage("x")];
        // What decides by itself, whatever was said:
        for (ending, cpu, rss, expected) in [
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
            for said in said() {
                assert_eq!(kind(said.clone(), &seen(ending, cpu, rss)), Err(expected), "{ending:?} {said:?}");
            }
        }
        // What depends on the words:
        for (ending, said, expected) in [
            (Exited(0), reply(Code::Panicked), Panicked),
            (Exited(0), Said::Nothing, BadReply),
            (Exited(0), Said::Garbage("x"), BadReply),
            (Exited(0), Said::TooLarge(99), ReplyTooLarge),
            (Exited(1), reply(Code::Done), BadReply),
            (Exited(79), Said::Nothing, BadReply),
            (Exited(79), Said::NotReady, CannotSpawn),
            (Exited(0), Said::NotReady, CannotSpawn),
            (Exited(EXIT_MEMORY), Said::NotReady, CannotSpawn),
            (Killed(libc::SIGSYS), Said::NotReady, CannotSpawn),
            (Killed(libc::SIGKILL), Said::NotReady, KilledFromOutside),
            (Cancelled, Said::TooLarge(99), ReplyTooLarge),
            (Cancelled, Said::Garbage("x"), BadReply),
            (Cancelled, Said::Nothing, BadReply),
            (Cancelled, Said::NotReady, CannotSpawn),
        ] {
            assert_eq!(kind(said.clone(), &seen(ending, 1, 1)), Err(expected), "{ending:?} {said:?}");
        }
        assert_eq!(kind(reply(Code::Done), &Seen::NotForked(Errno::AGAIN)), Err(CannotSpawn));
        let lost = Seen::ZygoteLost { why: String::new(), wall: Duration::ZERO };
        assert_eq!(kind(reply(Code::Done), &lost), Err(ZygoteLost));
    }

    #[test]
    fn a_reply_counts_only_complete_and_from_a_job_that_ended_well() {
        assert_eq!(kind(reply(Code::Done), &seen(Ending::Exited(0), 1, 1)), Ok(b"body".to_vec()));
        for ending in [Ending::Exited(1), Ending::Killed(9), Ending::Deadline, Ending::Cancelled] {
            assert!(kind(reply(Code::Done), &seen(ending, 1, 1)).is_err(), "{ending:?}");
        }
    }

    #[test]
    fn a_job_that_was_ready_can_never_make_its_end_our_fault() {
        let forged = |code| [Said::Nothing, reply(Code::Done), Said::Garbage("x")].map(|said| (code, said));
        for (code, said) in (0..=255).flat_map(forged) {
            if let Err(kind) = kind(said, &seen(Ending::Exited(code), 1, 1)) {
                assert_eq!(kind.blame(), wm_job::failure::Blame::Job, "exit {code}");
            }
        }
    }

    #[test]
    fn a_wall_kill_without_cpu_time_says_that_it_may_pass() {
        let detail = |cpu| classify(Said::Nothing, &seen(Ending::Deadline, cpu, 1), &limits()).unwrap_err().1;
        assert!(detail(1_999).contains("another try may pass"));
        assert!(!detail(2_000).contains("another try"));
    }
}
