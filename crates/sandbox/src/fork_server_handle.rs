//! The worker's end of one fork-server: starting it, speaking with it, ending it.
//!
//! It knows nothing of slots, and nothing of what a job says.
//!
//! Invariant: a job that was begun and not yet reported is remembered in `unreported`; no other is begun before.
//!
//! # Why
//! A fork-server is spawned by `posix_spawn` (std's `Command` without `pre_exec`): forking a worker of 2 GiB takes 92 ms,
//! and fork without exec in a threaded process deadlocked in 267 of 300 tries. It gets a process group of its own, so
//! that the terminal's ^C is the worker's alone, and one kill reaches fork-server and job.

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

/// A fork-server says hello within 1 ms on an idle machine; this allows for one that is drowning.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is kept of what a job wrote to its standard error: a few lines of a library that gives up.
const STDERR_TAIL_BYTES: usize = 2048;
/// Reads that empty a pipe twice over; a pipe holds 64 KiB.
const MAX_STDERR_READS: usize = 32;
/// How long a fork-server may take to leave once its control socket is closed: it kills its job first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How fork-servers are started.
#[derive(Debug)]
pub(super) struct ForkServerCommand {
    /// The program: the worker's own.
    pub(super) executable: PathBuf,
    /// Isolation layers that must be in force.
    pub(super) isolation: Isolation,
    /// Isolation layers to leave out, in tests.
    pub(super) disabled_layers: Vec<String>,
}

/// One fork-server.
#[derive(Debug)]
pub(super) struct ForkServerHandle {
    child: Child,
    group: Pid,
    control: UnixDatagram,
    stderr: OwnedFd,
    /// Isolation in force.
    pub(super) layers: IsolationLayers,
    last_job: u64,
    unreported: Option<(u64, Limits)>,
}

impl ForkServerCommand {
    /// Starts a fork-server and waits for its hello.
    ///
    /// # Errors
    /// `cannot_spawn`, with what the system said, or the isolation layers that are missing and what to do about it.
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
        let missing = match self.disabled_layers.iter().any(|layer| layer == "check") {
            true => Vec::new(),
            false => handle.layers.missing_for(self.isolation),
        };
        if missing.is_empty() {
            return Ok(handle);
        }
        handle.shut_down().await;
        Err(cannot_spawn(format!(
            "isolation {} is not to be had here, for want of: {}. A weaker sandbox.isolation \
             (best_effort, reduced) does without, at your own risk",
            self.isolation.as_str(),
            missing.join(", ")
        )))
    }

    fn spawn_process(&self) -> io::Result<ForkServerHandle> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // Neither end waits: whoever writes when it is full is not heard, and nobody is held up by it.
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let child = Command::new(&self.executable)
            .arg(FORK_SERVER_ARG)
            .arg(self.isolation.as_str())
            .args(&self.disabled_layers)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(child_stderr))
            .env_clear()
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1") // tree job 17.6 to 10.7 ms
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let group = group.ok_or_else(|| io::Error::other("it has no process id"))?;
        // tokio has no type for SEQPACKET; this one also reads packet by packet, and a close reads as an empty one.
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
            Ok(Ok(ControlEvent::Hello { .. })) => Err("the sandbox's program is of another build".to_owned()),
            Ok(Ok(other)) => Err(format!("instead of hello the fork-server said {other:?}")),
            Ok(Err(error)) => Err(format!("the fork-server left without a hello: {error}")),
            Err(_) => Err(format!("the fork-server said nothing for {} s", HELLO_TIMEOUT.as_secs())),
        }
    }

    /// Begins a job, whose end of the data socket goes along; from now on it is unreported.
    ///
    /// # Errors
    /// The fork-server is gone: nothing has begun.
    pub(super) fn start_job(&mut self, limits: &Limits, data: BorrowedFd<'_>) -> io::Result<()> {
        let _ = self.take_stderr_tail(); // of a job that nobody waited for
        self.last_job += 1;
        let job = self.last_job;
        self.send(ControlCommand::Start { job, limits: *limits }, Some(data))?;
        self.unreported = Some((job, *limits));
        Ok(())
    }

    /// The fork-server itself, whose only child is the job.
    pub(super) fn pid(&self) -> Pid {
        self.group
    }

    /// Asks for the end of the job in flight; where even that is impossible, kills the fork-server with it.
    pub(super) fn cancel(&mut self) {
        if let Some((job, _)) = self.unreported
            && self.send(ControlCommand::Cancel { job }, None).is_err()
        {
            self.kill();
        }
    }

    /// Sends a cancel for a job that has long ended, as a race might.
    #[cfg(feature = "test-hooks")]
    pub(super) fn cancel_late(&mut self) -> bool {
        self.send(ControlCommand::Cancel { job: self.last_job }, None).is_ok()
    }

    /// Waits for the report of the job in flight. Giving up waiting loses nothing.
    ///
    /// # Errors
    /// The fork-server has gone, or says what makes no sense; it is of no more use then.
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

    /// Waits until a job that nobody waits for any more is really gone; false if the fork-server is of no more use.
    pub(super) async fn wait_until_idle(&mut self) -> bool {
        let Some((_, limits)) = self.unreported else { return true };
        matches!(timeout(limits.teardown_timeout(), self.wait_for_report()).await, Ok(Ok(_)))
    }

    /// The end of what was written to standard error since this was last asked, if anything was. Made by a process that
    /// may be hostile: to be shown with care.
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

    /// Kills fork-server and job.
    pub(super) fn kill(&mut self) {
        // Only while it is not collected: afterwards the id may be another's.
        if self.child.id().is_some() {
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Lets the fork-server leave, with its job, and waits until it has.
    pub(super) async fn shut_down(mut self) {
        let Self { control, child, .. } = &mut self;
        // As good as a close, which would need the control socket taken out of a value that has a `Drop`.
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

/// Collects a job that a killed fork-server left to us: in a container this process may be the first one, whose children all
/// orphans become. Elsewhere there is none, and nothing to wait for.
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
    /// A fork-server that was not let go in good order: its control socket closes with this, and it and its job leave. The
    /// kill is for one that hangs.
    fn drop(&mut self) {
        self.kill();
    }
}
