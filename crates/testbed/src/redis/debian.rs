//! Debian's own redis package, unpacked for one user without being installed and without being root.
//!
//! `apt-get` resolves, downloads and verifies by the system's own keyring, exactly as an installation would;
//! `dpkg-deb -x` unpacks; nothing outside the given directory is written. With empty or outdated package
//! lists apt keeps lists of its own in there for the occasion.
//!
//! Invariant: a directory without a leading dot in the cache is a whole unpacked server: it is made elsewhere
//! and renamed, so two processes at once can only both succeed.
//!
//! # Why
//! apt's own simulation names what is missing on this very machine (the server, its tools, which hold the
//! program that the server's symlink points to, and two or three libraries), so no list of packages can grow
//! old here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::poll_until;
use super::search::ServerSearch;
use super::server::{RedisServer, UnpackError, entries, run};

/// A server's package with the one that holds its program; the one we test first named first.
const PRODUCTS: [[&str; 2]; 2] = [["redis-server", "redis-tools"], ["valkey-server", "valkey-tools"]];
/// Other packages are what an installed daemon needs (users, init scripts), not what a program needs to run.
const LIBRARY_PREFIXES: [&str; 2] = ["lib", "lua-"];
/// Resolving reads 60 MB of lists at most.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);
/// 10 MB of package lists, over a slow line.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(120);
/// 2 MB of packages, over a slow line.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// One package of 1 MB.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(20);
/// After this the other process's work is not waited for: doing it twice is harmless.
const LOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// No locks (nothing shared is written), no hooks of an installed system, short waits, nothing unsigned.
const APT_CONF: &str = r#"
Debug::NoLocking "true";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Acquire::AllowInsecureRepositories "false";
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
"#;

/// The server in this cache, unpacked first if necessary.
pub(super) fn server_in(
    cache: &Path,
    search: &ServerSearch,
    on_progress: &mut dyn FnMut(&str),
) -> Result<RedisServer, UnpackError> {
    if let Some(server) = existing(cache) {
        return Ok(server);
    }
    let tool = |name: &str| {
        search.program(name).ok_or_else(|| UnpackError::Machine(format!("{name} is not on PATH")))
    };
    let (apt_get, dpkg_deb) = (tool("apt-get")?, tool("dpkg-deb")?);
    let _turn = lock_cache(cache, on_progress);
    if let Some(server) = existing(cache) {
        return Ok(server);
    }
    remove_stale(cache);
    on_progress(&format!(
        "no redis-server here: unpacking Debian's own into {} (2 MB, no root)",
        cache.display()
    ));
    let failed =
        |e: std::io::Error| UnpackError::Directory(format!("cannot write in {}: {e}", cache.display()));
    let work = tempfile::Builder::new().prefix(".unpack-").tempdir_in(cache).map_err(failed)?;
    let apt = Apt::new(apt_get, work.path()).map_err(failed)?;
    let packages = apt.packages(on_progress).map_err(UnpackError::Machine)?;
    let root = work.path().join("root");
    for package in &packages {
        let mut unpack = Command::new(&dpkg_deb);
        let unpacked = run("dpkg-deb -x", unpack.arg("-x").arg(package).arg(&root), UNPACK_TIMEOUT);
        unpacked.map_err(UnpackError::Directory)?;
    }
    let home = cache.join(server_name(&packages).map_err(UnpackError::Machine)?);
    install(&root, &home, &work.path().join("broken")).map_err(UnpackError::Directory)
}

/// Moves a whole unpacked server to where it will be found, unless somebody was quicker.
fn install(root: &Path, home: &Path, aside: &Path) -> Result<RedisServer, String> {
    RedisServer::in_root(root)?;
    if std::fs::rename(root, home).is_err() && RedisServer::in_root(home).is_err() {
        // What lies there does not run.
        let _ = std::fs::rename(home, aside);
        std::fs::rename(root, home).map_err(|e| format!("cannot make {}: {e}", home.display()))?;
    }
    RedisServer::in_root(home)
}

/// The newest unpacked server that runs.
fn existing(cache: &Path) -> Option<RedisServer> {
    let mut roots = entries(cache);
    roots.retain(|root| root.is_dir() && !hidden(root));
    roots.sort();
    roots.iter().rev().find_map(|root| RedisServer::in_root(root).ok())
}

/// Removes what a killed process left half done long ago.
fn remove_stale(cache: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let old = |path: &Path| path.metadata().and_then(|found| found.modified()).is_ok_and(|at| at < hour_ago);
    for path in entries(cache).into_iter().filter(|path| hidden(path) && path.is_dir() && old(path)) {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// A lock that spares two processes the same work; without it (an odd file system, a frozen holder) both do
/// it.
fn lock_cache(cache: &Path, on_progress: &mut dyn FnMut(&str)) -> Option<File> {
    let file = File::create(cache.join(".lock")).ok()?;
    let free = || !matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock));
    if !free() {
        on_progress("another process is unpacking a redis-server: waiting for it");
        poll_until(LOCK_TIMEOUT, Duration::from_millis(20), || free().then_some(()));
    }
    Some(file)
}

/// `redis-server_5%3a7.0.15-1~deb12u10_amd64`: product, version and architecture, as apt named the file.
fn server_name(packages: &[PathBuf]) -> Result<String, String> {
    let stems = packages.iter().filter_map(|package| package.file_stem()?.to_str());
    let servers = PRODUCTS.map(|[server, _]| format!("{server}_"));
    let named = stems.into_iter().find(|stem| servers.iter().any(|server| stem.starts_with(server)));
    named.map(str::to_owned).ok_or_else(|| "apt-get downloaded no server".to_owned())
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// apt-get, made to write in one directory only.
struct Apt {
    program: PathBuf,
    work: PathBuf,
}

/// Whose package lists are read.
#[derive(Clone, Copy)]
enum PackageLists {
    System,
    Own,
}

impl Apt {
    fn new(program: PathBuf, work: &Path) -> std::io::Result<Self> {
        for dir in ["debs", "root", "state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(work.join(dir))?;
        }
        std::fs::write(work.join("apt.conf"), APT_CONF)?;
        Ok(Self { program, work: work.to_owned() })
    }

    /// Downloads the packages that this machine lacks, and gives their files.
    fn packages(&self, on_progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>, String> {
        let by_system = self.download(PackageLists::System);
        let Err(why) = by_system else { return by_system };
        on_progress(
            "the system's package lists do not serve: updating private ones (about 10 MB, verified by its keyring)",
        );
        // One source of several that fails need not matter: what is missing then is said by the next step.
        let updated = self.run(PackageLists::Own, &["update"], UPDATE_TIMEOUT);
        self.download(PackageLists::Own).map_err(|then| {
            let update = updated.err().map(|e| format!("\n  {e}")).unwrap_or_default();
            format!("{why}{update}\n  {then}")
        })
    }

    fn download(&self, lists: PackageLists) -> Result<Vec<PathBuf>, String> {
        let mut why = String::new();
        for product in PRODUCTS {
            let wanted = match self.wanted(lists, product) {
                Ok(wanted) => wanted,
                Err(e) => {
                    why = if why.is_empty() { e } else { why };
                    continue;
                }
            };
            let mut words = vec!["download"];
            words.extend(wanted.iter().map(String::as_str));
            self.run(lists, &words, DOWNLOAD_TIMEOUT)?;
            return Ok(entries(&self.work.join("debs")));
        }
        Err(why)
    }

    /// The product's packages and those libraries that apt would install with them on this machine.
    fn wanted(&self, lists: PackageLists, product: [&str; 2]) -> Result<Vec<String>, String> {
        let words = ["--simulate", "--no-install-recommends", "install", product[0], product[1]];
        let mut wanted = installations(&self.run(lists, &words, RESOLVE_TIMEOUT)?);
        wanted.retain(|name| LIBRARY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        wanted.extend(product.map(str::to_owned));
        Ok(wanted)
    }

    fn run(&self, lists: PackageLists, words: &[&str], limit: Duration) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command
            .current_dir(self.work.join("debs"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["-q", "-y"]).arg("-c").arg(self.work.join("apt.conf"));
        if let PackageLists::Own = lists {
            let places =
                [("Dir::State", "state"), ("Dir::State::lists", "state/lists"), ("Dir::Cache", "cache")];
            for (key, dir) in places {
                command.args(["-o", &format!("{key}={}", self.work.join(dir).display())]);
            }
            command.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        }
        let shown = format!("apt-get {}", words.join(" "));
        run(&shown, command.args(words), limit)
    }
}

/// The packages that a simulation would newly install: `Inst name (version ...)`, not `Inst name [old] (new
/// ...)`.
fn installations(simulation: &str) -> Vec<String> {
    let news = simulation.lines().filter_map(|line| {
        let mut words = line.strip_prefix("Inst ")?.split_whitespace();
        let name = words.next()?;
        words.next()?.starts_with('(').then(|| name.to_owned())
    });
    news.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_names_what_is_new_and_not_what_would_be_upgraded() {
        let simulation = "NOTE: This is only a simulation!\n\
            Inst libjemalloc2 (5.3.0-1 Debian:12.15/oldstable [amd64])\n\
            Inst libc6 [2.36-9] (2.36-10 Debian:12.15/oldstable [amd64])\n\
            Inst redis-server (5:7.0.15-1~deb12u10 Debian-Security:12 [amd64])\n\
            Conf libjemalloc2 (5.3.0-1 Debian:12.15/oldstable [amd64])\nInst\nInst x\n";
        assert_eq!(installations(simulation), ["libjemalloc2", "redis-server"]);
    }

    #[test]
    fn an_unpacked_server_is_named_after_product_version_and_architecture() {
        let files = ["libjemalloc2_5.3.0-1_amd64.deb", "redis-server_5%3a7.0.15-1~deb12u10_amd64.deb"];
        let name = server_name(&files.map(PathBuf::from));
        assert_eq!(name.as_deref(), Ok("redis-server_5%3a7.0.15-1~deb12u10_amd64"));
        assert!(server_name(&[PathBuf::from("redis-tools_1_amd64.deb")]).is_err());
    }
}
