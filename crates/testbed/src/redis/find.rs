//! Where a redis-server comes from: `PATH`, what an earlier run unpacked, or Debian's own package.
//!
//! It starts no server. Invariant: what it returns has answered `--version` with one that we can use, and a program
//! from a cache is run only where nobody but us could have put it there.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{debian, watch};

/// Programs that speak Redis, the one we test first named first.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// The oldest major version that has what the queue's scripts use.
const OLDEST_MAJOR: u32 = 7;
/// `--version` prints a line and ends.
const VERSION_WITHIN: Duration = Duration::from_secs(5);

/// There is no server and no way to get one; holds everything that was tried.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no redis-server here, and no way to get one:\n  {}\nInstall one (on Debian: sudo apt-get install redis-server), \
     or put redis-server or valkey-server on PATH",
    .0.join("\n  ")
)]
pub struct NoServer(pub Vec<String>);

/// A server that can be started.
#[derive(Debug, Clone)]
pub struct Server {
    program: PathBuf,
    /// Directories for `LD_LIBRARY_PATH`, where it was unpacked rather than installed.
    libraries: Vec<PathBuf>,
    version: String,
}

impl Server {
    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version, e.g. `7.0.15`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server in an unpacked root, if there is one that runs.
    pub(super) fn in_root(root: &Path) -> Result<Self, String> {
        let programs = PROGRAMS.map(|name| root.join("usr/bin").join(name));
        match programs.into_iter().find(|program| program.exists()) {
            Some(program) => Self::probe(program, debian::libraries(root)),
            None => Err(format!("{} holds no server", root.display())),
        }
    }

    /// Asks a program for its version.
    fn probe(program: PathBuf, libraries: Vec<PathBuf>) -> Result<Self, String> {
        let mut server = Self { program, libraries, version: String::new() };
        let mut words = server.words().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        let asked = format!("{} --version", server.program.display());
        let line = run(&asked, command.args(words).arg("--version"), VERSION_WITHIN)?;
        server.version = version_in(&line).ok_or_else(|| format!("{asked} says {:?}", line.trim()))?;
        let major: u32 = server.version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if major < OLDEST_MAJOR {
            let (program, version) = (server.program.display(), &server.version);
            return Err(format!(
                "{program} is version {version}: {OLDEST_MAJOR}.0 is the oldest that will do"
            ));
        }
        Ok(server)
    }

    /// The command line that runs it. `env` sets the library path for the server alone, so that no shell before it loads those libraries.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Ok(joined) = std::env::join_paths(&self.libraries)
            && !joined.is_empty()
        {
            let mut variable = OsString::from("LD_LIBRARY_PATH=");
            variable.push(joined);
            words.extend([OsString::from("env"), variable]);
        }
        words.push(self.program.clone().into_os_string());
        words
    }
}

/// The server that `WM_TEST_REDIS` names, for whoever wants this very one and no other.
pub(super) fn chosen() -> Option<Result<Server, NoServer>> {
    let program = PathBuf::from(std::env::var_os("WM_TEST_REDIS")?);
    Some(Server::probe(program, Vec::new()).map_err(|why| NoServer(vec![format!("WM_TEST_REDIS: {why}")])))
}

/// Why nothing could be unpacked.
pub(super) enum Refusal {
    /// This directory cannot be used; the next one may.
    Directory(String),
    /// No directory would help.
    Machine(String),
}

/// Where to look for a server.
#[derive(Debug, Clone)]
pub struct Search {
    /// Directories of programs, in the form of `PATH`.
    pub path: OsString,
    /// Directories that may keep an unpacked server, best first; each is made when needed, for us alone.
    pub caches: Vec<PathBuf>,
}

impl Search {
    /// As this process's environment has it: `PATH`, then the user's cache, then the temporary directory.
    pub fn from_env() -> Self {
        let home = std::env::home_dir().filter(|home| home.is_dir()).map(|home| home.join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        // One level, and ours: in a sticky directory nobody else can rename it.
        let temporary = format!("wm-analyzer-redis-{}", rustix::process::geteuid().as_raw());
        let user = cache.or(home).map(|cache| cache.join("wm-analyzer").join("redis"));
        Self {
            path: std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
            caches: user.into_iter().chain([std::env::temp_dir().join(temporary)]).collect(),
        }
    }

    /// Finds a server, unpacking one where that is the only way; `say` is told before anything that takes time.
    ///
    /// # Errors
    /// [`NoServer`] with everything that was tried.
    pub fn find(&self, say: &mut dyn FnMut(&str)) -> Result<Server, NoServer> {
        let mut tried = Vec::new();
        let found = self.installed(&mut tried).or_else(|| self.unpacked(&mut tried, say));
        found.ok_or(NoServer(tried))
    }

    /// The program of this name on the search path.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|dir| dir.join(name)).find(|program| program.is_file())
    }

    fn installed(&self, tried: &mut Vec<String>) -> Option<Server> {
        for name in PROGRAMS {
            match self.program(name).map(|program| Server::probe(program, Vec::new())) {
                Some(Ok(server)) => return Some(server),
                Some(Err(why)) => tried.push(why),
                None => tried.push(format!("{name} is not on PATH")),
            }
        }
        None
    }

    fn unpacked(&self, tried: &mut Vec<String>, say: &mut dyn FnMut(&str)) -> Option<Server> {
        for cache in &self.caches {
            let ready = make_ours(cache).map_err(Refusal::Directory);
            match ready.and_then(|()| debian::server_in(cache, self, say)) {
                Ok(server) => return Some(server),
                Err(Refusal::Directory(why)) => tried.push(why),
                Err(Refusal::Machine(why)) => {
                    tried.push(why);
                    break;
                }
            }
        }
        None
    }
}

/// Makes a directory that only we can write to, or makes sure that it is one: programs will be run from it.
fn make_ours(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| format!("cannot make {shown}: {e}"))?;
    let found = dir.symlink_metadata().map_err(|e| format!("cannot look at {shown}: {e}"))?;
    let ours =
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if ours { Ok(()) } else { Err(format!("{shown} is not ours alone, so nothing is run from there")) }
}

/// `7.0.15` out of `Redis server v=7.0.15 sha=00000000:0 ...`.
fn version_in(line: &str) -> Option<String> {
    let rest = line.split_once("v=")?.1;
    let version = rest.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

/// Runs a program to its end, for at most this long, and gives what it printed; on failure what matters of that,
/// after `shown`, which is what people would call this command.
///
/// Output goes through unnamed files: no thread, no pipe that could fill and block.
pub(super) fn run(shown: &str, command: &mut Command, limit: Duration) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("{shown}: {e}");
    let mut output = tempfile::tempfile().map_err(failed)?;
    let (stdout, stderr) = (output.try_clone().map_err(failed)?, output.try_clone().map_err(failed)?);
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().map_err(failed)?;
    let ended = watch(limit, Duration::from_millis(2), || child.try_wait().transpose());
    let Some(status) = ended else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{shown}: not done within {limit:?}"));
    };
    let status = status.map_err(failed)?;
    let text = read(&mut output).map_err(failed)?;
    if status.success() {
        return Ok(text);
    }
    Err(format!("{shown}: {status}: {}", complaint(&text)))
}

/// The last three lines, or of an apt the last three that complain.
fn complaint(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (loud, quiet): (Vec<_>, Vec<_>) =
        lines.partition(|line| line.starts_with("E:") || line.starts_with("W:"));
    let lines = if loud.is_empty() { quiet } else { loud };
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// The first 256 KiB: no program that we run has more to say that matters.
fn read(file: &mut File) -> std::io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(256 * 1024).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_version_is_read_from_what_each_server_prints() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=abc";
        let valkey = "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=abc";
        let cases =
            [(redis, Some("7.0.15")), (valkey, Some("8.1.1")), ("v=", None), ("sh: v=x", None), ("", None)];
        for (line, version) in cases {
            assert_eq!(version_in(line).as_deref(), version, "{line}");
        }
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_in_time() {
        let began = Instant::now();
        let why = run("sleep", Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("not done within 50ms"), "{why}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_a_program_said_last_is_in_the_failure() {
        let why = run("x", Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), VERSION_WITHIN)
            .unwrap_err();
        assert_eq!(why, "x: exit status: 3: one | two");
        let apt = "Reading lists...\nW: Failed to fetch http://x\nBuilding...\nE: Unable to locate\n\nDone\n";
        assert_eq!(complaint(apt), "W: Failed to fetch http://x | E: Unable to locate");
    }

    #[test]
    fn nothing_is_run_from_a_directory_that_others_can_write_to() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("a/b");
        assert_eq!(make_ours(&cache), Ok(()));
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(make_ours(&cache).unwrap_err().contains("not ours alone"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(make_ours(&link).unwrap_err().contains("not ours alone"));
    }

    #[test]
    fn a_server_that_is_too_old_is_named_and_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("redis-server");
        std::fs::write(&program, "#!/bin/sh\necho Redis server v=5.0.7 sha=0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let search = Search { path: dir.path().into(), caches: Vec::new() };
        let error = search.find(&mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("is version 5.0.7"), "{error}");
        assert!(error.contains("valkey-server is not on PATH"), "{error}");
        assert!(error.contains("apt-get install redis-server"), "{error}");
    }
}
