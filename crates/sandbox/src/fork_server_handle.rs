//! The worker's handle to one fork server: starts it, exchanges control messages with it and shuts it down.
//!
//! It does not manage slots and does not read replies.
//!
//! Invariant: a job that was started and not yet reported is recorded in `unreported`; no other
//! job starts before its report.
//!
//! # Why
//! Fork servers are created with `posix_spawn` (std's `Command` without `pre_exec`): forking a worker of
//! 2 GiB takes 92 ms, and fork without exec in a threaded process deadlocked in 267 of 300 attempts.
//! Each has its own process group, so that ^C in a terminal signals only the worker, and one kill
//! reaches both fork server and job.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::protocol::{self, ControlCommand, ControlEvent, JobExit};
use super::{FORK_SERVER_ARG, Isolation};
use wm_job::failure::{Failure, FailureKind};

/// How long to wait for the hello of a new fork server, which takes 1 ms on an idle machine;
/// generous for an overloaded one.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a job's standard error is kept: a few lines, such as the last message
/// of an aborting C library.
const STDERR_TAIL_BYTES: usize = 2048;
/// Upper bound on reads of 4 KiB per call: twice the capacity of a pipe, which is 64 KiB.
const MAX_STDERR_READS: usize = 32;
/// How long a fork server may take to exit after its control socket has closed; it kills its job first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Command line for starting fork servers.
#[derive(Debug)]
pub(super) struct ForkServerCommand {
    /// Path of the program, which is the worker's own binary.
    pub(super) executable: PathBuf,
    /// Isolation mode that the fork server must satisfy.
    pub(super) isolation: Isolation,
    /// Names of the isolation layers to disable in tests.
    #[cfg(feature = "test-hooks")]
    pub(super) disabled_layers: Vec<String>,
}

/// A running fork server. Dropping the handle kills its process group.
#[derive(Debug)]
pub(super) struct ForkServerHandle {
    child: Child,
    group: Pid,
    control: UnixDatagram,
    stderr: OwnedFd,
    /// Isolation layers in force, from the hello.
    pub(super) layers: IsolationLayers,
    last_job: u64,
    unreported: Option<(u64, Limits)>,
}

impl ForkServerCommand {
    /// Starts a fork server and waits for its hello.
    ///
    /// # Errors
    /// `cannot_spawn`, with the system's error, or with the missing isolation layers and
    /// how to proceed without them.
    pub(super) async fn spawn(&self) -> Result<ForkServerHandle, Failure> {
        let mut handle = self
            .spawn_process()
            .map_err(|error| cannot_spawn(format!("{} did not start: {error}", self.executable.display())))?;
        match handle.wait_for_hello().await {
            Ok(layers) => handle.layers = layers,
            Err(why) => {
                let tail = handle
                    .take_stderr_tail()
                    .map_or(String::new(), |tail| format!("; on standard error: {tail}"));
                handle.shut_down().await;
                return Err(cannot_spawn(why + &tail));
            }
        }
        let missing = handle.layers.missing_for(self.isolation);
        #[cfg(feature = "test-hooks")]
        let missing =
            if self.disabled_layers.iter().any(|layer| layer == "check") { vec![] } else { missing };
        if missing.is_empty() {
            return Ok(handle);
        }
        handle.shut_down().await;
        Err(cannot_spawn(format!(
            "isolation {} is not available here, for want of: {}. A weaker sandbox.isolation \
             (best_effort, reduced) starts without them, at your own risk",
            self.isolation.as_str(),
            missing.join(", ")
        )))
    }

    fn spawn_process(&self) -> io::Result<ForkServerHandle> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // Neither end blocks: output to a full pipe is discarded.
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut command = Command::new(&self.executable);
        command.arg(FORK_SERVER_ARG).arg(self.isolation.as_str());
        #[cfg(feature = "test-hooks")]
        command.args(&self.disabled_layers);
        let child = command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(child_stderr))
            .env_clear()
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1") // `tree` job: 10.7 ms instead of 17.6 ms
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = group.ok_or_else(|| io::Error::other("it has no process id"))?;
        // tokio has no SEQPACKET type; UnixDatagram also preserves packet boundaries, and reads a
        // close as an empty packet.
        let control = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(ours))?;
        Ok(ForkServerHandle {
            child,
            group,
            control,
            stderr,
            layers: IsolationLayers::default(),
            last_job: 0,
            unreported: None,
        })
    }
}

fn cannot_spawn(detail: String) -> Failure {
    Failure::new(FailureKind::CannotSpawn, detail)
}

impl ForkServerHandle {
    async fn wait_for_hello(&mut self) -> Result<IsolationLayers, String> {
        match timeout(HELLO_TIMEOUT, self.receive()).await {
            Ok(Ok(ControlEvent::Hello { build: protocol::BUILD_ID, layers })) => Ok(layers),
            Ok(Ok(ControlEvent::Hello { .. })) => {
                Err("the fork server's program is of another build".to_owned())
            }
            Ok(Ok(other)) => Err(format!("expected hello from the fork server, got {other:?}")),
            Ok(Err(error)) => Err(format!("the fork server exited without a hello: {error}")),
            Err(_) => Err(format!("no hello from the fork server within {} s", HELLO_TIMEOUT.as_secs())),
        }
    }

    /// Starts a job and passes it its end of the data socket; the job is unreported from here on.
    ///
    /// # Errors
    /// The fork server has exited; the job has not started.
    pub(super) fn start_job(&mut self, limits: &Limits, data: BorrowedFd<'_>) -> io::Result<()> {
        let _ = self.take_stderr_tail(); // discard the output of a dropped job
        self.last_job += 1;
        let job = self.last_job;
        self.send(ControlCommand::Start { job, limits: *limits }, Some(data))?;
        self.unreported = Some((job, *limits));
        Ok(())
    }

    /// Process id of the fork server, whose only child is the job.
    pub(super) fn pid(&self) -> Pid {
        self.group
    }

    /// Cancels the job in flight. If the message cannot be sent, kills the fork server together with the job.
    pub(super) fn cancel(&mut self) {
        if let Some((job, _)) = self.unreported
            && self.send(ControlCommand::Cancel { job }, None).is_err()
        {
            self.kill();
        }
    }

    /// Sends a cancel for a job that has already ended, to simulate a race.
    #[cfg(feature = "test-hooks")]
    pub(super) fn cancel_late(&mut self) -> bool {
        self.send(ControlCommand::Cancel { job: self.last_job }, None).is_ok()
    }

    /// Waits for the report of the job in flight. Cancel-safe: dropping the future loses no message.
    ///
    /// # Errors
    /// The fork server has exited or sent an invalid message; it is unusable from then on.
    pub(super) async fn wait_for_report(&mut self) -> io::Result<Result<JobExit, rustix::io::Errno>> {
        let due = self.unreported.map(|(job, _)| job);
        let answer = self.receive().await?;
        let answer = match answer {
            ControlEvent::JobExited(report) if Some(report.job) == due => Ok(report),
            ControlEvent::ForkFailed { job, errno } if Some(job) == due => {
                Err(rustix::io::Errno::from_raw_os_error(errno))
            }
            other => return Err(io::Error::other(format!("unexpected event: {other:?}"))),
        };
        self.unreported = None;
        Ok(answer)
    }

    /// Waits until a dropped job has been reaped; false if the fork server is unusable.
    pub(super) async fn wait_until_idle(&mut self) -> bool {
        let Some((_, limits)) = self.unreported else { return true };
        matches!(timeout(limits.teardown_timeout(), self.wait_for_report()).await, Ok(Ok(_)))
    }

    /// The last [`STDERR_TAIL_BYTES`] written to standard error since the previous call; `None` if there is
    /// no output. The text comes from a process that may be hostile and must be escaped before it is shown.
    pub(super) fn take_stderr_tail(&self) -> Option<String> {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        for _ in 0..MAX_STDERR_READS {
            match rustix::io::read(&self.stderr, &mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(n) => bytes.extend(&chunk[..n]),
            }
        }
        let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(STDERR_TAIL_BYTES)..]);
        Some(tail.trim().to_owned()).filter(|tail| !tail.is_empty())
    }

    /// Kills the fork server and its job.
    pub(super) fn kill(&mut self) {
        // Only until the process has been reaped: afterwards its id may be reused.
        if self.child.id().is_some() {
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Closes the control socket, so that the fork server kills its job and exits, and waits for that.
    pub(super) async fn shut_down(mut self) {
        let Self { control, child, .. } = &mut self;
        // Equivalent to closing the socket, which cannot be moved out of a type that implements `Drop`.
        let _ = control.shutdown(std::net::Shutdown::Both);
        if timeout(SHUTDOWN_TIMEOUT, child.wait()).await.is_err() {
            self.kill();
            let _ = self.child.wait().await;
        }
        let _ = timeout(SHUTDOWN_TIMEOUT, reap_orphans(self.group)).await;
    }

    async fn receive(&self) -> io::Result<ControlEvent> {
        let mut packet = [0; protocol::PACKET_BYTES];
        match self.control.recv(&mut packet).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => ControlEvent::decode(&packet[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }

    fn send(&self, order: ControlCommand, data: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let packet = order.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = data.map(|fd| [fd]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.control, &[IoSlice::new(&packet)], &mut ancillary, flags)?;
        Ok(())
    }
}

/// Reaps a job that was orphaned when its fork server was killed. If the worker is PID 1 of a container,
/// orphans become its children; otherwise there is nothing to reap and this returns at once.
async fn reap_orphans(group: Pid) {
    use rustix::process::{WaitOptions, waitpgid};
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(_) => return,
        }
    }
}

impl Drop for ForkServerHandle {
    /// Without an orderly shutdown: the control socket closes here, which makes the fork server and its job
    /// exit. The kill covers a fork server that hangs.
    fn drop(&mut self) {
        self.kill();
    }
}
