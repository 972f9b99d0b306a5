//! A Redis server as a program: where it is, which version, and how it is run.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::poll_until;

/// Programs that speak Redis, the one we test first named first.
pub(super) const PROGRAM_NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// The oldest major version that has what the queue's scripts use.
const MIN_MAJOR_VERSION: u32 = 7;
/// `--version` prints a line and ends.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that can be started.
#[derive(Debug, Clone)]
pub struct RedisServer {
    program: PathBuf,
    /// Directories for `LD_LIBRARY_PATH`, where it was unpacked rather than installed.
    libraries: Vec<PathBuf>,
    version: String,
}

impl RedisServer {
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
        let programs = PROGRAM_NAMES.map(|name| root.join("usr/bin").join(name));
        match programs.into_iter().find(|program| program.exists()) {
            Some(program) => Self::probe(program, libraries(root)),
            None => Err(format!("{} holds no server", root.display())),
        }
    }

    /// Asks a program for its version.
    pub(super) fn probe(program: PathBuf, libraries: Vec<PathBuf>) -> Result<Self, String> {
        let mut server = Self { program, libraries, version: String::new() };
        let mut words = server.command_line().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        let asked = format!("{} --version", server.program.display());
        let line = run(&asked, command.args(words).arg("--version"), VERSION_TIMEOUT)?;
        server.version = version_in(&line).ok_or_else(|| format!("{asked} says {:?}", line.trim()))?;
        let major: u32 = server.version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if major < MIN_MAJOR_VERSION {
            let (program, version) = (server.program.display(), &server.version);
            return Err(format!(
                "{program} is version {version}: {MIN_MAJOR_VERSION}.0 is the oldest that will do"
            ));
        }
        Ok(server)
    }

    /// The command line that runs it. `env` sets the library path for the server alone, so that no shell
    /// before it loads those libraries.
    pub(super) fn command_line(&self) -> Vec<OsString> {
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

/// Why nothing could be unpacked.
pub(super) enum UnpackError {
    /// This directory cannot be used; the next one may.
    Directory(String),
    /// No directory would help.
    Machine(String),
}

/// `7.0.15` out of `Redis server v=7.0.15 sha=00000000:0 ...`.
fn version_in(line: &str) -> Option<String> {
    let rest = line.split_once("v=")?.1;
    let version = rest.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

/// The directories of an unpacked root that hold libraries.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let tops = ["usr/lib", "lib"].map(|top| root.join(top));
    let below = tops.iter().flat_map(|top| entries(top)).filter(|path| path.is_dir());
    let mut all: Vec<PathBuf> = below.collect();
    all.extend(tops.into_iter().filter(|top| top.is_dir()));
    all
}

pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Runs a program to its end, for at most this long, and gives what it printed; on failure what matters of
/// that, after `shown`, which is what people would call this command.
///
/// Output goes through unnamed files: no thread, no pipe that could fill and block.
pub(super) fn run(shown: &str, command: &mut Command, limit: Duration) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("{shown}: {e}");
    let mut output = tempfile::tempfile().map_err(failed)?;
    let (stdout, stderr) = (output.try_clone().map_err(failed)?, output.try_clone().map_err(failed)?);
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().map_err(failed)?;
    let ended = poll_until(limit, Duration::from_millis(2), || child.try_wait().transpose());
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
    Err(format!("{shown}: {status}: {}", error_lines(&text)))
}

/// The last three lines, or of an apt the last three that complain.
fn error_lines(text: &str) -> String {
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
        let why =
            run("x", Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]), VERSION_TIMEOUT)
                .unwrap_err();
        assert_eq!(why, "x: exit status: 3: one | two");
        let apt = "Reading lists...\nW: Failed to fetch http://x\nBuilding...\nE: Unable to locate\n\nDone\n";
        assert_eq!(error_lines(apt), "W: Failed to fetch http://x | E: Unable to locate");
    }
}
