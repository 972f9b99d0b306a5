//! A private redis-server that lives exactly as long as its guard: for the demo, for tests, for benches.
//!
//! It listens on a unix socket in a directory of its own (on request also on a loopback port), keeps nothing that
//! was not asked for, and never touches a Redis that was there before. It does not speak the protocol beyond `PING`.
//!
//! Invariant: no server outlives its guard, and none outlives this process, however this process dies.
//!
//! # Why
//! Death by pipe: a guardian `sh` reads from a pipe whose other end only we hold. When we drop it, or when the
//! kernel closes it because we were killed with `SIGKILL`, the guardian kills the server and removes the directory.
//! Chosen against `PR_SET_PDEATHSIG`, which follows the *thread* that spawned, needs `unsafe`, and leaves the
//! directory behind. The server is `exec`ed by the shell that started the guardian, so it is our direct child; it
//! leads a process group in which the guardian stays, so its pid cannot be given away while the guardian may kill it,
//! and a Ctrl-C at the terminal reaches neither of them: the worker gets to drain first.

mod debian;
mod find;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use find::{NoServer, Search, Server};

/// A server answers within milliseconds; a machine this slow is not one to wait for.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at a server that is starting: a tenth of the time it usually takes.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// Others may take a port between our finding it free and the server's binding it; not five times in a row.
const PORT_TRIES: u32 = 5;
/// `sun_path` holds 108 bytes with its NUL; our part of the path is `/wm-redis-XXXXXX/r.sock`.
const LONGEST_BASE: usize = 107 - "/wm-redis-XXXXXX/r.sock".len();

/// Starts a guardian, then becomes the server. `$1` is the directory, the rest is the server's command line.
/// The guardian waits for a line or the end of the pipe; only a line `keep` spares the directory.
const LEASH: &str = r#"
dir=$1; shift
exec 3<&0
(read -r word <&3; kill -9 $$; [ "$word" = keep ] || rm -rf -- "$dir") &
exec "$@" 3<&- </dev/null
"#;

/// Why there is no private Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server was found and none could be unpacked.
    #[error(transparent)]
    NoServer(#[from] NoServer),
    /// A server was found but did not come up.
    #[error("{program} did not come up: {why}\n{log}")]
    NotUp {
        /// The server's program.
        program: PathBuf,
        /// What was seen.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// The machine refused something.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// How it was refused.
        source: std::io::Error,
    },
}

impl Error {
    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Where clients are told to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listen {
    Socket,
    Loopback(u16),
}

/// How the server is to be: by default in memory only, 256 MB, never evicting, on a unix socket.
#[derive(Debug, Clone)]
pub struct Options {
    tcp: bool,
    config: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let config = [
            ("save", ""),
            ("appendonly", "no"),
            // A hundred times what 10,000 jobs need, and small enough that a mistake is seen.
            ("maxmemory", "256mb"),
            ("maxmemory-policy", "noeviction"),
            ("unixsocketperm", "700"),
            ("loglevel", "warning"),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        Self { tcp: false, config }
    }
}

impl Options {
    /// Also listens on a free port of 127.0.0.1, which [`PrivateRedis::url`] then names.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Keeps an append-only file, so that [`PrivateRedis::restart`] finds again what was there.
    #[must_use]
    pub fn persistent(self) -> Self {
        self.set("appendonly", "yes")
    }

    /// Sets one directive of redis.conf, over what was set before.
    #[must_use]
    pub fn set(mut self, directive: &str, value: &str) -> Self {
        self.config.push((directive.to_owned(), value.to_owned()));
        self
    }
}

/// A running server; dropping it kills the server and removes all it wrote.
#[derive(Debug)]
pub struct PrivateRedis {
    server: Server,
    options: Options,
    listen: Listen,
    process: Option<Process>,
    dir: tempfile::TempDir,
}

/// The server and the pipe that holds it to us.
#[derive(Debug)]
struct Process {
    child: Child,
    leash: ChildStdin,
}

impl PrivateRedis {
    /// Finds a server, or unpacks one, and starts it; blocks until it answers (usually 30 ms, the first time on a
    /// machine without Redis a few seconds).
    ///
    /// # Errors
    /// [`Error`], whose text says what was tried and what to do.
    pub fn start(options: Options) -> Result<Self, Error> {
        Self::start_saying(options, &mut |_| {})
    }

    /// The same, telling in whole sentences what takes time.
    ///
    /// # Errors
    /// [`Error`], whose text says what was tried and what to do.
    pub fn start_saying(options: Options, say: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        // One search per process: a hundred tests that start at once must not unpack a hundred times.
        static FOUND: OnceLock<Result<Server, NoServer>> = OnceLock::new();
        let server = FOUND.get_or_init(|| Search::from_env().find(say)).clone()?;
        Self::start_server(server, options)
    }

    /// Starts this very server.
    ///
    /// # Errors
    /// [`Error::NotUp`] with its log, or [`Error::Io`].
    pub fn start_server(server: Server, options: Options) -> Result<Self, Error> {
        let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() <= LONGEST_BASE);
        let dir = tempfile::Builder::new()
            .prefix("wm-redis-")
            .tempdir_in(base.as_deref().unwrap_or(Path::new("/tmp")))
            .map_err(Error::io("make a directory for a private Redis"))?;
        let mut redis = Self { server, options, listen: Listen::Socket, process: None, dir };
        let mut tries = PORT_TRIES;
        loop {
            if redis.options.tcp {
                redis.listen = Listen::Loopback(free_port()?);
            }
            tries -= 1;
            match redis.launch() {
                Ok(()) => return Ok(redis),
                Err(Error::NotUp { log, .. }) if log.contains("Address already in use") && tries > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Where clients connect: `redis+unix:///...`, or `redis://127.0.0.1:port` where [`Options::tcp`] was asked for.
    pub fn url(&self) -> String {
        match self.listen {
            Listen::Socket => format!("redis+unix://{}", self.socket().display()),
            Listen::Loopback(port) => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The unix socket; there is always one.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    /// The server's process id; `None` after [`PrivateRedis::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// The server that runs: its program and version.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The server's version, e.g. `7.0.15`.
    pub fn version(&self) -> &str {
        self.server.version()
    }

    /// Kills the server as a power cut would; what it persisted stays until the guard is dropped.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // To the guardian; it may be gone, and then nothing is left to say.
        let _ = process.leash.write_all(b"keep\n");
        let _ = process.child.kill();
        let _ = process.child.wait();
    }

    /// Kills the server if it runs and starts it again, at the same address, with what it persisted.
    ///
    /// # Errors
    /// [`Error::NotUp`] with its log, or [`Error::Io`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// Stops the server from answering without closing a connection (`SIGSTOP`), until [`PrivateRedis::thaw`].
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(process) = &self.process {
            // Our own unreaped child: the pid is certainly its.
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&process.child), signal);
        }
    }

    fn launch(&mut self) -> Result<(), Error> {
        let log = std::fs::File::create(self.log()).map_err(Error::io("write a private Redis's log"))?;
        let mut command = Command::new("sh");
        command.args(["-c", LEASH, "sh"]).arg(self.dir.path());
        self.server.append_to(&mut command);
        command.arg("--dir").arg(self.dir.path()).arg("--unixsocket").arg(self.socket());
        let port = match self.listen {
            Listen::Socket => 0,
            Listen::Loopback(port) => port,
        };
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
        for (directive, value) in &self.options.config {
            command.arg(format!("--{directive}")).arg(value);
        }
        let errors = log.try_clone().map_err(Error::io("write a private Redis's log"))?;
        command.stdin(Stdio::piped()).stdout(log).stderr(errors).process_group(0);
        let mut child = command.spawn().map_err(Error::io("start sh"))?;
        let Some(leash) = child.stdin.take() else { unreachable!("stdin is piped above") };
        self.process = Some(Process { child, leash });
        self.wait_until_ready().inspect_err(|_| self.kill())
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_WITHIN;
        while !answers(&self.socket()) {
            let exited = self.process.as_mut().and_then(|process| process.child.try_wait().ok().flatten());
            let why = match exited {
                Some(status) => format!("it ended with {status}"),
                None if Instant::now() > deadline => format!("no answer to PING within {READY_WITHIN:?}"),
                None => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            return Err(Error::NotUp { program: self.server.program().to_owned(), why, log });
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// True when a server at this socket answers a `PING` (one that is still loading its data does not).
fn answers(socket: &Path) -> bool {
    let ping = || -> std::io::Result<[u8; 7]> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply)?;
        Ok(reply)
    };
    ping().is_ok_and(|reply| &reply == b"+PONG\r\n")
}

fn free_port() -> Result<u16, Error> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(Error::io("find a free port"))
}
