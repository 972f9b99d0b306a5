//! A private redis-server that lives exactly as long as its guard: for the demo, for tests, for benches.
//!
//! It listens on a unix socket in a directory of its own (on request also on a loopback port), keeps nothing
//! that was not asked for, and never touches a Redis that was there before. It does not speak the protocol
//! beyond `PING`.
//!
//! Invariant: no server outlives its guard, and none outlives this process, however this process dies.
//!
//! # Why
//! A real server and not an imitation: of those that run inside a Rust process none passes more than two
//! thirds of what the queue needs of scripts, clocks and sorted sets. How it is made to die with us:
//! [`kill_on_exit`](super::kill_on_exit).

mod debian;
mod find;
mod options;
mod search;
mod server;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use self::find::ServerNotFound;
use self::options::Listen;
pub use self::options::RedisOptions;
pub use self::search::ServerSearch;
pub use self::server::RedisServer;
use super::kill_on_exit::KillOnExit;

/// A server answers within milliseconds; a machine this slow is not one to wait for.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a server that is starting: a tenth of the time it usually takes.
const POLL_INTERVAL: Duration = Duration::from_millis(3);
/// Others may take a port between our finding it free and the server's binding it; not five times in a row.
const MAX_PORT_ATTEMPTS: u32 = 5;
/// `sun_path` holds 108 bytes with its NUL; our part of the path is `/wm-redis-000000/r.sock`.
const MAX_BASE_BYTES: usize = 107 - "/wm-redis-000000/r.sock".len();

/// Why there is no private Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server was found and none could be unpacked.
    #[error(transparent)]
    ServerNotFound(#[from] ServerNotFound),
    /// A server was found but did not come up.
    #[error("{program} did not come up: {why}\n{log}")]
    NotReady {
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

/// A running server; dropping it kills the server and removes all it wrote.
#[derive(Debug)]
pub struct PrivateRedis {
    server: RedisServer,
    options: RedisOptions,
    /// Of 127.0.0.1; 0 where it listens on its unix socket only.
    port: u16,
    process: Option<KillOnExit>,
    dir: tempfile::TempDir,
}

impl PrivateRedis {
    /// Finds a server, or unpacks one, and starts it; blocks until it answers (usually 30 ms, the first time
    /// on a machine without Redis a few seconds). In async code the first call belongs on a thread that may
    /// block.
    ///
    /// # Errors
    /// [`Error`], whose text says what was tried and what to do.
    pub fn start(options: RedisOptions) -> Result<Self, Error> {
        Self::start_with_progress(options, &mut |_| {})
    }

    /// The same, telling in whole sentences what takes time.
    ///
    /// # Errors
    /// [`Error`], whose text says what was tried and what to do.
    pub fn start_with_progress(
        options: RedisOptions,
        on_progress: &mut dyn FnMut(&str),
    ) -> Result<Self, Error> {
        // One search per process: a hundred tests that start at once must not unpack a hundred times.
        static FOUND: OnceLock<Result<RedisServer, ServerNotFound>> = OnceLock::new();
        let find = || find::from_env_override().unwrap_or_else(|| ServerSearch::from_env().find(on_progress));
        let server = FOUND.get_or_init(find).clone()?;
        Self::start_server(server, options)
    }

    /// Starts this very server.
    ///
    /// # Errors
    /// [`Error::NotReady`] with its log, or [`Error::Io`].
    pub fn start_server(server: RedisServer, options: RedisOptions) -> Result<Self, Error> {
        let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() <= MAX_BASE_BYTES);
        let dir = tempfile::Builder::new()
            .prefix("wm-redis-")
            .tempdir_in(base.as_deref().unwrap_or(Path::new("/tmp")))
            .map_err(Error::io("make a directory for a private Redis"))?;
        let mut redis = Self { server, options, port: 0, process: None, dir };
        let mut tries = MAX_PORT_ATTEMPTS;
        loop {
            if redis.options.listen != Listen::Socket {
                redis.port = free_port()?;
            }
            if redis.options.listen == Listen::Cluster {
                redis.options = redis.options.clone().set("cluster-port", &free_port()?.to_string());
            }
            tries -= 1;
            match redis.launch() {
                Ok(()) => return Ok(redis),
                Err(Error::NotReady { log, .. }) if log.contains("Address already in use") && tries > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Where clients connect: `redis+unix:///...`, or `redis://127.0.0.1:port` (with TLS `rediss://`) where a
    /// port was asked for.
    pub fn url(&self) -> String {
        match self.options.listen {
            Listen::Socket => format!("redis+unix://{}", self.socket().display()),
            Listen::Tls => format!("rediss://127.0.0.1:{}", self.port),
            Listen::Tcp | Listen::Cluster | Listen::Sentinel => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The port of 127.0.0.1, 0 where none was asked for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The unix socket; there is always one.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    /// The server's process id; `None` after [`PrivateRedis::kill`].
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(KillOnExit::id)
    }

    /// The server that runs: its program and version.
    pub fn server(&self) -> &RedisServer {
        &self.server
    }

    /// The server's version, e.g. `7.0.15`.
    pub fn version(&self) -> &str {
        self.server.version()
    }

    /// Kills the server as a power cut would; what it persisted stays until the guard is dropped.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Kills the server if it runs and starts it again, at the same address, with what it persisted.
    ///
    /// # Errors
    /// [`Error::NotReady`] with its log, or [`Error::Io`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill();
        self.launch()
    }

    /// Stops the server from answering without closing a connection (`SIGSTOP`), until
    /// [`PrivateRedis::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn launch(&mut self) -> Result<(), Error> {
        let log = File::create(self.log()).map_err(Error::io("write a private Redis's log"))?;
        let mut words = [self.options.command_line(), self.server.command_line()].concat();
        let tls = self.options.listen == Listen::Tls;
        let port = if tls { 0 } else { self.port };
        if self.options.listen == Listen::Sentinel {
            // It writes down what it learns, so it must be given a file.
            let config = self.dir.path().join("sentinel.conf");
            File::create(&config).map_err(Error::io("write a private sentinel's configuration"))?;
            words.extend([config.into(), "--sentinel".into()]);
        }
        words.extend(
            ["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"].map(OsString::from),
        );
        if tls {
            words.extend(["--tls-port", &self.port.to_string()].map(OsString::from));
        }
        words.extend(["--dir".into(), self.dir.path().into(), "--unixsocket".into(), self.socket().into()]);
        for (directive, value) in self.options.config() {
            words.extend([format!("--{directive}").into(), value.into()]);
        }
        let process = KillOnExit::start(&words, self.dir.path(), log).map_err(Error::io("start sh"))?;
        self.process = Some(process);
        self.wait_until_ready().inspect_err(|_| self.kill())
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        let (socket, mut process) = (self.socket(), self.process.as_mut());
        let mut exited = || process.as_mut().and_then(|process| process.exit_status());
        let seen = poll_until(READY_TIMEOUT, POLL_INTERVAL, || {
            if responds_to_ping(&socket) {
                Some(Ok(()))
            } else {
                exited().map(|status| Err(format!("it ended: {status}")))
            }
        });
        let why = match seen {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => why,
            None => format!("no answer to PING within {READY_TIMEOUT:?}"),
        };
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(5)..].join("\n");
        Err(Error::NotReady { program: self.server.program().to_owned(), why, log })
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

/// Looks again and again until there is something to see; `None` when there was nothing for that long.
fn poll_until<T>(patience: Duration, every: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() > deadline {
            return seen;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing here is async: the caller knows that starting blocks"
        )]
        std::thread::sleep(every);
    }
}

/// True when a server at this socket answers a `PING` (one that is still loading its data does not).
fn responds_to_ping(socket: &Path) -> bool {
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
