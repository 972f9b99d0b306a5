//! Where a redis-server comes from: `PATH`, what an earlier run unpacked, or Debian's own package.
//!
//! It starts no server. Invariant: what it returns has answered `--version` with one that we can use, and a program
//! from a cache is run only where nobody but us could have put it there.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::debian;
use super::search::Search;
use super::server::{PROGRAMS, Refusal, Server};

/// There is no server and no way to get one; holds everything that was tried.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no redis-server here, and no way to get one:\n  {}\nInstall one (on Debian: sudo apt-get install redis-server), \
     or put redis-server or valkey-server on PATH",
    .0.join("\n  ")
)]
pub struct NoServer(pub Vec<String>);

/// The server that `WM_TEST_REDIS` names, for whoever wants this very one and no other.
pub(super) fn chosen() -> Option<Result<Server, NoServer>> {
    let program = PathBuf::from(std::env::var_os("WM_TEST_REDIS")?);
    Some(Server::probe(program, Vec::new()).map_err(|why| NoServer(vec![format!("WM_TEST_REDIS: {why}")])))
}

impl Search {
    /// Finds a server, unpacking one where that is the only way; `say` is told before anything that takes time.
    ///
    /// # Errors
    /// [`NoServer`] with everything that was tried.
    pub fn find(&self, say: &mut dyn FnMut(&str)) -> Result<Server, NoServer> {
        let mut tried = Vec::new();
        let found = self.installed(&mut tried).or_else(|| self.unpacked(&mut tried, say));
        found.ok_or(NoServer(tried))
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

#[cfg(test)]
mod tests {
    use super::*;

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
