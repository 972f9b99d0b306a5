//! A child process with a control pipe: it cannot outlive us, however we die, and cleans up a directory when
//! it goes.
//!
//! It knows nothing of what it runs. Invariant: when the last end of the control pipe that we hold is closed, by us
//! or by the kernel, the process is killed.
//!
//! # Why
//! A guardian shell reads from a pipe whose other end only we hold: when the kernel closes it because we were
//! killed with `SIGKILL`, the guardian kills the process and removes its directory. Chosen against
//! `PR_SET_PDEATHSIG`, which follows the *thread* that spawned, needs `unsafe`, and leaves the directory
//! behind. The process is `exec`ed by the shell that started the guardian, so it is our direct child; it
//! leads a process group in which the guardian stays, so its pid cannot be given away while the guardian may
//! kill it, and a Ctrl-C at the terminal reaches neither of them: the worker gets to drain first.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

/// Starts the guardian, then becomes the process. `$1` is the directory, the rest is the command line.
/// The guardian waits for a line or for the end of the pipe; only the line `keep` spares the directory.
const KILL_ON_EXIT_SCRIPT: &str = r#"
dir=$1; shift
exec 3<&0
(read -r word <&3; kill -9 $$; [ "$word" = keep ] || rm -rf -- "$dir") &
exec "$@" 3<&- </dev/null
"#;

/// A running process and our end of its control pipe. Merely dropped, it is killed and its directory removed.
#[derive(Debug)]
pub struct KillOnExit {
    child: Child,
    control_pipe: ChildStdin,
}

impl KillOnExit {
    /// Starts a command line; what it prints goes to `log`, and `dir` is removed when we die.
    ///
    /// # Errors
    /// Where there is no `sh`, or the machine gives no process.
    pub fn start(words: &[OsString], dir: &Path, log: File) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", KILL_ON_EXIT_SCRIPT, "sh"]).arg(dir).args(words).process_group(0);
        command.stdin(Stdio::piped()).stderr(log.try_clone()?).stdout(log);
        let mut child = command.spawn()?;
        let control_pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, control_pipe })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(&self, signal: Signal) {
        // Our own child, which we have not reaped while we hold it: the id is certainly its.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
    }

    /// Kills it and waits for its end; its directory stays.
    pub fn kill(mut self) {
        // To the guardian; and in case that is gone, by our own hand too.
        let _ = self.control_pipe.write_all(b"keep\n");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
