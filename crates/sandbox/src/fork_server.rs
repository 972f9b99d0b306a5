//! The fork server: a separate single-threaded process that forks one job at a time, times
//! it, and reports its exit.
//!
//! It never reads a job's bytes; those are exchanged directly between worker and job. When its control socket
//! closes, it kills its job and exits.
//!
//! Invariant: it has at most one child at any time, and reports an exit only after the child has been reaped.
//!
//! # Why
//! Forked by a small process, a job starts in 190 us whatever the size of the worker, inherits nothing from
//! earlier jobs, and has correct accounting (a child spawned from a large worker reports the worker's
//! resident set as its own). There is no parent-death signal from the worker: it follows the worker's
//! *thread*, and would kill fork servers when an idle thread retires. The closing of the control socket
//! serves the same purpose.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, SocketType,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::harden::{self, HardeningPlan};
use super::isolation_layers::IsolationLayers;
use super::job_clock::{self, JobClock, TimeLeft};
use super::kernel::{self, Forked, SingleThreaded};
use super::limits::Limits;
use super::protocol::{self, ControlCommand, ControlEvent, ExitCause, JobExit};
use super::seccomp::SeccompFilter;
use super::status_block::StatusBlock;
use super::{WarmUp, Work, job_process, page_tables, stack_overflow, status_block};

/// How often a fork server without a pidfd polls for the exit of its job.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Time between SIGTERM and SIGKILL for a cancelled job.
const TERM_GRACE: Duration = Duration::from_millis(100);

/// Runs this process as a fork server until its control socket closes.
///
/// Call this first in `main`, before any thread is started, if the first argument is
/// [`super::FORK_SERVER_ARG`]. `work` is the function that jobs run, and `warm_up` the one that is called once before
/// the first of them.
pub fn fork_server_main(warm_up: WarmUp, work: Work) -> ExitCode {
    match serve(warm_up, work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The worker notices the missing hello and reads standard error.
            let _ = rustix::io::write(kernel::stderr(), error.to_string().as_bytes());
            ExitCode::from(71) // EX_OSERR
        }
    }
}

/// State of a fork server after its setup.
struct ForkServer {
    single_threaded: SingleThreaded,
    status_block: &'static StatusBlock,
    plan: HardeningPlan,
    layers: IsolationLayers,
    filter: SeccompFilter,
    work: Work,
}

fn serve(warm_up: WarmUp, work: Work) -> io::Result<()> {
    if rustix::net::sockopt::socket_type(kernel::socket())? != SocketType::SEQPACKET {
        return Err(io::Error::other("only a worker starts a fork-server"));
    }
    let mut fork_server = ForkServer::set_up(warm_up, work)?;
    let build = protocol::BUILD_ID;
    #[cfg(feature = "test-hooks")]
    let build = build.wrapping_add(fork_server.plan.other_build.into());
    send(ControlEvent::Hello { build, layers: fork_server.layers })?;
    while let Some((order, data)) = receive()? {
        match (order, data) {
            (ControlCommand::Start { job, limits }, Some(data)) => {
                match fork_server.run_job(job, limits, data)? {
                    ServeLoop::Continue => {}
                    ServeLoop::WorkerGone => break,
                }
            }
            (ControlCommand::Start { .. }, None) => return Err(io::ErrorKind::InvalidData.into()),
            (ControlCommand::Cancel { .. }, _) => {} // arrived late: that job has already been reaped
        }
    }
    Ok(())
}

/// Whether the serve loop continues after a job.
enum ServeLoop {
    Continue,
    WorkerGone,
}

/// Why waiting for a job ended.
enum WaitOutcome {
    Ended,
    Deadline,
    Ceiling,
    Cancelled,
    WorkerGone,
}

impl ForkServer {
    /// Sets the process up: descriptors, allocator, fault handler, warm-up, isolation layers, self-test.
    fn set_up(warm_up: WarmUp, work: Work) -> io::Result<Self> {
        kernel::close_from(3)?;
        let single_threaded = SingleThreaded::check()?;
        let mut args = std::env::args().skip(2);
        let mode = args.next().and_then(|mode| mode.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
        let plan = HardeningPlan::new(mode, &args.collect::<Vec<_>>());
        let status_block = status_block::map()?;
        kernel::tune_malloc();
        stack_overflow::install_signal_action()?;
        job_process::install_panic_hook();
        if plan.warm_up {
            warm_up();
            kernel::trim_heap();
            let _ = page_tables::inherit_file_mappings();
        }
        let observed = harden::harden_fork_server(plan)?;
        let proven = harden::self_test(&single_threaded, status_block, plan)?;
        if !plan.fork {
            harden::forbid_forks()?;
        }
        Ok(Self {
            single_threaded,
            status_block,
            plan,
            layers: observed | proven,
            filter: SeccompFilter::for_job(),
            work,
        })
    }

    /// Forks a job, waits for its exit, and reports it.
    fn run_job(&mut self, job: u64, limits: Limits, data: OwnedFd) -> io::Result<ServeLoop> {
        self.status_block.reset();
        let began = Instant::now();
        let fork_server = rustix::process::getpid();
        let child = match kernel::fork(&self.single_threaded) {
            Err(error) => {
                send(ControlEvent::ForkFailed { job, errno: error.raw_os_error().unwrap_or(0) })?;
                return Ok(ServeLoop::Continue);
            }
            Ok(Forked::Child) => {
                let (plan, layers) = (self.plan, self.layers);
                let filter = &mut self.filter;
                job_process::run(
                    job_process::JobSetup { data, limits, fork_server, plan, layers, filter },
                    self.work,
                )
            }
            Ok(Forked::Parent(child)) => child,
        };
        drop(data);
        let child = WatchedChild::new(child, self.plan.pidfd);
        let mut clock = JobClock::start(began, &limits);
        let outcome = child.wait_for_exit(job, &mut clock, self.status_block)?;
        let sent = child.kill_unless_ended(&outcome)?;
        let cpu = kernel::wait_until_dead(child.pid)?;
        // Before it is reaped, which removes its entry in /proc.
        let waited = job_clock::waited_for_cpu(child.pid, began.elapsed().saturating_sub(cpu))
            .map(|waited| waited + clock.without_input());
        let ended = kernel::reap(child.pid)?;
        drop(child); // before the report, so that nothing of this job remains when the worker receives it
        if matches!(outcome, WaitOutcome::WorkerGone) {
            return Ok(ServeLoop::WorkerGone);
        }
        send(ControlEvent::JobExited(JobExit {
            job,
            cause: exit_cause(&outcome, sent, ended.status),
            wall: began.elapsed(),
            cpu: ended.cpu,
            waited,
            max_rss_bytes: ended.max_rss_bytes,
            minor_faults: ended.minor_faults,
            peak_heap_bytes: self.status_block.peak_heap(),
            phase: self.status_block.phase(),
        }))?;
        Ok(ServeLoop::Continue)
    }
}

/// A child that has not been reaped yet, so its process id cannot be reused.
struct WatchedChild {
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl WatchedChild {
    fn new(pid: Pid, by_event: bool) -> Self {
        let open = || rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        Self { pid, pidfd: if by_event { open() } else { None } }
    }

    /// Waits until the job exits, its time is up, or a control message concerns it.
    fn wait_for_exit(
        &self,
        job: u64,
        clock: &mut JobClock,
        status_block: &StatusBlock,
    ) -> io::Result<WaitOutcome> {
        loop {
            let (left, time_is_up) = match clock.look(self.pid, status_block.has_input()) {
                TimeLeft::Some(left) => (left, None),
                TimeLeft::WallUsed => (Duration::ZERO, Some(WaitOutcome::Deadline)),
                TimeLeft::CeilingReached => (Duration::ZERO, Some(WaitOutcome::Ceiling)),
            };
            let (ended, readable) = match &self.pidfd {
                Some(pidfd) => poll_readable(&[pidfd.as_fd(), kernel::socket()], left)?,
                None => {
                    let (readable, _) = poll_readable(&[kernel::socket()], left.min(POLL_INTERVAL))?;
                    (self.has_ended()?, readable)
                }
            };
            if ended {
                return Ok(WaitOutcome::Ended);
            }
            if readable {
                match receive()? {
                    None => return Ok(WaitOutcome::WorkerGone),
                    Some((ControlCommand::Cancel { job: which }, _)) if which == job => {
                        return Ok(WaitOutcome::Cancelled);
                    }
                    Some((ControlCommand::Cancel { .. }, _)) => {} // concerns an earlier job
                    // protocol violation: give up
                    Some((ControlCommand::Start { .. }, _)) => return Ok(WaitOutcome::WorkerGone),
                }
            }
            if let Some(outcome) = time_is_up {
                return Ok(outcome);
            }
        }
    }

    /// Kills the job unless it has exited by itself; returns the last signal sent, if any.
    ///
    /// A cancelled job gets SIGTERM first. The worker cancels when a job's socket closes, and that
    /// is also what it sees just after a third party has killed the job; a SIGKILL from here could
    /// not be distinguished from theirs.
    fn kill_unless_ended(&self, outcome: &WaitOutcome) -> io::Result<Option<Signal>> {
        match outcome {
            WaitOutcome::Ended => return Ok(None),
            WaitOutcome::Deadline | WaitOutcome::Ceiling | WaitOutcome::WorkerGone => {}
            WaitOutcome::Cancelled => {
                let _ = rustix::process::kill_process(self.pid, Signal::TERM);
                if self.wait_at_most(TERM_GRACE)? {
                    return Ok(Some(Signal::TERM));
                }
            }
        }
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        Ok(Some(Signal::KILL))
    }

    fn wait_at_most(&self, at_most: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + at_most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match &self.pidfd {
                Some(pidfd) => drop(poll_readable(&[pidfd.as_fd()], left)?),
                None => drop(poll_readable(&[], left.min(POLL_INTERVAL))?),
            }
            if self.has_ended()? || left.is_zero() {
                return self.has_ended();
            }
        }
    }

    /// Whether the child has exited; does not reap it.
    fn has_ended(&self) -> io::Result<bool> {
        Ok(self.look_at_exit(WaitIdOptions::NOHANG)?.is_some())
    }

    fn look_at_exit(&self, options: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
        waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | options)
    }
}

/// Attributes the exit to the fork server only if the process died of the signal that was sent: it may have
/// ended for another reason at the same moment.
fn exit_cause(outcome: &WaitOutcome, sent: Option<Signal>, status: i32) -> ExitCause {
    if !libc::WIFSIGNALED(status) {
        return ExitCause::Exited(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    let ours = sent.is_some_and(|sent| sent.as_raw() == signal);
    match outcome {
        WaitOutcome::Deadline if ours => ExitCause::Deadline,
        WaitOutcome::Ceiling if ours => ExitCause::Ceiling,
        WaitOutcome::Cancelled | WaitOutcome::WorkerGone if ours => ExitCause::Cancelled,
        WaitOutcome::Deadline
        | WaitOutcome::Ceiling
        | WaitOutcome::Cancelled
        | WaitOutcome::WorkerGone
        | WaitOutcome::Ended => ExitCause::Killed(signal),
    }
}

/// Waits at most `at_most` for up to two descriptors to become readable or closed; returns which of them did.
fn poll_readable(fds: &[std::os::fd::BorrowedFd<'_>], at_most: Duration) -> io::Result<(bool, bool)> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let at_most = Timespec::try_from(at_most).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&at_most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_ready = |i: usize| polled.get(i).is_some_and(|fd| !fd.revents().is_empty());
    Ok((is_ready(0), is_ready(1)))
}

/// Receives the next control message and the socket attached to it; `None` if the worker has closed its end.
fn receive() -> io::Result<Option<(ControlCommand, Option<OwnedFd>)>> {
    let mut packet = [0; protocol::PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut packet)];
        recvmsg(kernel::socket(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let len = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    if len == 0 {
        return Ok(None);
    }
    let data = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let order = ControlCommand::decode(&packet[..len]).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((order, data)))
}

fn send(answer: ControlEvent) -> io::Result<()> {
    let packet = answer.encode();
    rustix::io::retry_on_intr(|| {
        sendmsg(
            kernel::socket(),
            &[IoSlice::new(&packet)],
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_death_of_our_own_signal_is_our_doing() {
        let (exit_0, exit_77) = (0, 77 << 8);
        let (term, kill, sys) = (libc::SIGTERM, libc::SIGKILL, libc::SIGSYS);
        let (we_termed, we_killed) = (Some(Signal::TERM), Some(Signal::KILL));
        for (outcome, sent, status, expected) in [
            (WaitOutcome::Ended, None, exit_0, ExitCause::Exited(0)),
            (WaitOutcome::Ended, None, kill, ExitCause::Killed(kill)),
            (WaitOutcome::Deadline, we_killed, kill, ExitCause::Deadline),
            (WaitOutcome::Ceiling, we_killed, kill, ExitCause::Ceiling),
            (WaitOutcome::Deadline, we_killed, exit_0, ExitCause::Exited(0)),
            (WaitOutcome::Deadline, we_killed, sys, ExitCause::Killed(sys)),
            (WaitOutcome::Cancelled, we_termed, term, ExitCause::Cancelled),
            (WaitOutcome::Cancelled, we_termed, exit_77, ExitCause::Exited(77)),
            (WaitOutcome::Cancelled, we_killed, kill, ExitCause::Cancelled),
            // A third party's SIGKILL closed the socket, which made the worker cancel.
            (WaitOutcome::Cancelled, we_termed, kill, ExitCause::Killed(kill)),
        ] {
            assert_eq!(exit_cause(&outcome, sent, status), expected, "{sent:?} {status}");
        }
    }
}
