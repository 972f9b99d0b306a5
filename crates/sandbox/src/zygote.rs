//! The fork-server: a process of its own, with one thread, that forks one job at a time, times it, and tells the truth
//! about its end.
//!
//! It never sees a byte of a job: those go from the worker straight to the job. It lives as long as its control
//! socket, and so does its job.
//!
//! Invariant: at any moment it has at most one child, and it says so only after that child is gone.
//!
//! # Why
//! Forked by a small process, a job starts in 190 us whatever the worker's size, knows nothing of the job before it,
//! and is accounted for honestly (a child spawned from a large worker reports the worker's resident set as its own).
//! No parent-death signal towards the worker: that follows the worker's *thread*, and kills zygotes when an idle
//! thread retires. The end of the control socket does it.

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
use rustix::process::{Pid, PidfdFlags, Signal};

use super::board::Board;
use super::features::Features;
use super::harden::{self, Plan};
use super::kernel::{self, Alone, Ended, Forked};
use super::limits::Limits;
use super::protocol::{self, Answer, Ending, Order, Report};
use super::seccomp::Filter;
use super::{Isolation, Work, board, job, stack};

/// Where a zygote looks for a job's end by itself, for want of a pidfd.
const TICK: Duration = Duration::from_millis(1);
/// How long a job that is asked to end may ignore it.
const GRACE: Duration = Duration::from_millis(100);

/// Runs this process as a zygote, until its control socket closes.
///
/// To be called first thing in `main`, before anything starts a thread, when the first argument is
/// [`super::FORK_SERVER_ARG`]. `work` is what its jobs do.
pub fn fork_server_main(work: Work) -> ExitCode {
    match serve(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The worker sees that no hello came, and asks for the last words.
            let _ = rustix::io::write(kernel::stderr(), error.to_string().as_bytes());
            ExitCode::from(71) // EX_OSERR
        }
    }
}

/// What a zygote has.
struct Zygote {
    alone: Alone,
    board: &'static Board,
    plan: Plan,
    features: Features,
    filter: Filter,
    work: Work,
}

fn serve(work: Work) -> io::Result<()> {
    if rustix::net::sockopt::socket_type(kernel::socket())? != SocketType::SEQPACKET {
        return Err(io::Error::other("only a worker starts a zygote"));
    }
    let mut zygote = Zygote::settle(work)?;
    let build = protocol::BUILD;
    #[cfg(feature = "test-hooks")]
    let build = build.wrapping_add(zygote.plan.foreign.into());
    send(Answer::Hello { build, features: zygote.features })?;
    while let Some((order, data)) = receive()? {
        match (order, data) {
            (Order::Start { job, limits }, Some(data)) => match zygote.start(job, limits, data)? {
                Live::On => {}
                Live::WorkerGone => break,
            },
            (Order::Start { .. }, None) => return Err(io::ErrorKind::InvalidData.into()),
            (Order::Cancel { .. }, _) => {} // came too late: that job is gone already
        }
    }
    Ok(())
}

/// Whether to go on.
enum Live {
    On,
    WorkerGone,
}

/// What ended the waiting for a job.
enum Wake {
    Ended,
    Deadline,
    Cancelled,
    WorkerGone,
}

impl Zygote {
    /// From the first instruction to ready: descriptors, walls, allocator, fault handler, self-test.
    fn settle(work: Work) -> io::Result<Self> {
        kernel::close_from(3)?;
        let alone = Alone::check()?;
        let mut args = std::env::args().skip(2);
        let mode = args.next().and_then(|mode| Isolation::parse(&mode)).ok_or(io::ErrorKind::InvalidInput)?;
        let plan = Plan::new(mode, &args.collect::<Vec<_>>());
        let board = board::put_up()?;
        kernel::tune_malloc();
        stack::watch()?;
        job::keep_panics();
        let seen = harden::zygote(plan)?;
        let proven = harden::self_test(&alone, board, plan)?;
        if !plan.fork {
            harden::forbid_forks()?;
        }
        Ok(Self { alone, board, plan, features: seen | proven, filter: Filter::of_job(), work })
    }

    /// Forks a job, sees it through, and reports its end.
    fn start(&mut self, job: u64, limits: Limits, data: OwnedFd) -> io::Result<Live> {
        self.board.wipe();
        let began = Instant::now();
        let zygote = rustix::process::getpid();
        let child = match kernel::fork(&self.alone) {
            Err(error) => {
                send(Answer::NoFork { job, errno: error.raw_os_error().unwrap_or(0) })?;
                return Ok(Live::On);
            }
            Ok(Forked::Child) => {
                let (plan, features) = (self.plan, self.features);
                let filter = &mut self.filter;
                job::run(job::Birth { data, limits, began, zygote, plan, features, filter }, self.work)
            }
            Ok(Forked::Parent(child)) => child,
        };
        drop(data);
        let child = Watched::new(child, self.plan.pidfd);
        let wake = child.watch(job, began + limits.wall)?;
        let sent = child.finish(&wake)?;
        let ended = kernel::reap(child.pid, true)?.ok_or(io::ErrorKind::NotFound)?;
        drop(child); // before the report: whoever hears it finds nothing of this job left here
        if matches!(wake, Wake::WorkerGone) {
            return Ok(Live::WorkerGone);
        }
        send(Answer::Report(self.report(job, ending(&wake, sent, ended.status), ended, began.elapsed())))?;
        Ok(Live::On)
    }

    fn report(&self, job: u64, ending: Ending, ended: Ended, wall: Duration) -> Report {
        Report {
            job,
            ending,
            wall,
            cpu: ended.cpu,
            max_rss_bytes: ended.max_rss_bytes,
            peak_heap_bytes: self.board.peak_heap(),
            phase: self.board.phase(),
        }
    }
}

/// The child, not yet collected, so its id is its own.
struct Watched {
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl Watched {
    fn new(pid: Pid, by_event: bool) -> Self {
        let open = || rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        Self { pid, pidfd: if by_event { open() } else { None } }
    }

    /// Waits until the job ends, its time is up, or the worker says something about it.
    fn watch(&self, job: u64, deadline: Instant) -> io::Result<Wake> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (ended, spoken) = match &self.pidfd {
                Some(pidfd) => wait(&[pidfd.as_fd(), kernel::socket()], left)?,
                None => {
                    let (spoken, _) = wait(&[kernel::socket()], left.min(TICK))?;
                    (self.has_ended()?, spoken)
                }
            };
            if ended {
                return Ok(Wake::Ended);
            }
            if spoken {
                match receive()? {
                    None => return Ok(Wake::WorkerGone),
                    Some((Order::Cancel { job: which }, _)) if which == job => return Ok(Wake::Cancelled),
                    Some((Order::Cancel { .. }, _)) => {} // about a job before this one
                    Some((Order::Start { .. }, _)) => return Ok(Wake::WorkerGone), // it lost count: no use going on
                }
            }
            if left.is_zero() {
                return Ok(Wake::Deadline);
            }
        }
    }

    /// Kills the job if it has not ended by itself; with which signal, if with any.
    ///
    /// A cancelled job is asked first: the worker cancels when a job's socket closes, which is also what the last
    /// moment of one looks like that somebody else has just killed. A second SIGKILL could not be told from the first.
    fn finish(&self, wake: &Wake) -> io::Result<Option<Signal>> {
        match wake {
            Wake::Ended => return Ok(None),
            Wake::Deadline | Wake::WorkerGone => {}
            Wake::Cancelled => {
                let _ = rustix::process::kill_process(self.pid, Signal::TERM);
                if self.ends_within(GRACE)? {
                    return Ok(Some(Signal::TERM));
                }
            }
        }
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        Ok(Some(Signal::KILL))
    }

    fn ends_within(&self, at_most: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + at_most;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match &self.pidfd {
                Some(pidfd) => drop(wait(&[pidfd.as_fd()], left)?),
                None => drop(wait(&[], left.min(TICK))?),
            }
            if self.has_ended()? || left.is_zero() {
                return self.has_ended();
            }
        }
    }

    /// Whether it has ended, leaving it to be collected.
    fn has_ended(&self) -> io::Result<bool> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid), look)?.is_some())
    }
}

/// That we killed it counts only if it died of that: it may have ended otherwise in the same moment.
fn ending(wake: &Wake, sent: Option<Signal>, status: i32) -> Ending {
    if !libc::WIFSIGNALED(status) {
        return Ending::Exited(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    let ours = sent.is_some_and(|sent| sent.as_raw() == signal);
    match wake {
        Wake::Deadline if ours => Ending::Deadline,
        Wake::Cancelled | Wake::WorkerGone if ours => Ending::Cancelled,
        Wake::Deadline | Wake::Cancelled | Wake::WorkerGone | Wake::Ended => Ending::Killed(signal),
    }
}

/// Waits for up to two descriptors to become readable (or closed), at most that long; says which did.
fn wait(fds: &[std::os::fd::BorrowedFd<'_>], at_most: Duration) -> io::Result<(bool, bool)> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let at_most = Timespec::try_from(at_most).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&at_most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let stirred = |i: usize| polled.get(i).is_some_and(|fd| !fd.revents().is_empty());
    Ok((stirred(0), stirred(1)))
}

/// The next order, with the socket that came along; `None` when the worker has closed its end.
fn receive() -> io::Result<Option<(Order, Option<OwnedFd>)>> {
    let mut packet = [0; protocol::PACKET];
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
    let order = Order::decode(&packet[..len]).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((order, data)))
}

fn send(answer: Answer) -> io::Result<()> {
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
        for (wake, sent, status, expected) in [
            (Wake::Ended, None, exit_0, Ending::Exited(0)),
            (Wake::Ended, None, kill, Ending::Killed(kill)),
            (Wake::Deadline, we_killed, kill, Ending::Deadline),
            (Wake::Deadline, we_killed, exit_0, Ending::Exited(0)),
            (Wake::Deadline, we_killed, sys, Ending::Killed(sys)),
            (Wake::Cancelled, we_termed, term, Ending::Cancelled),
            (Wake::Cancelled, we_termed, exit_77, Ending::Exited(77)),
            (Wake::Cancelled, we_killed, kill, Ending::Cancelled),
            // Somebody else's SIGKILL, whose closed socket made the worker cancel:
            (Wake::Cancelled, we_termed, kill, Ending::Killed(kill)),
        ] {
            assert_eq!(ending(&wake, sent, status), expected, "{sent:?} {status}");
        }
    }
}
