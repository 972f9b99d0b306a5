//! Where a redis-server comes from: `PATH`, what an earlier run unpacked, or Debian's own package.
//!
//! It starts no server. Invariant: what it returns has answered `--version` with one that we can use, and a
//! program from a cache is run only from a directory that no other user can write to.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::debian;
use super::search::ServerSearch;
use super::server::{PROGRAM_NAMES, RedisServer, UnpackError};

/// There is no server and no way to get one; holds everything that was tried.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no redis-server here, and no way to get one:\n  {}\nInstall one (on Debian: sudo apt-get install redis-server), \
     or put redis-server or valkey-server on PATH",
    .0.join("\n  ")
)]
pub struct ServerNotFound(pub Vec<String>);

/// The server that `WM_TEST_REDIS` names, to the exclusion of any other.
pub(super) fn from_env_override() -> Option<Result<RedisServer, ServerNotFound>> {
    let program = PathBuf::from(std::env::var_os("WM_TEST_REDIS")?);
    Some(
        RedisServer::probe(program, Vec::new())
            .map_err(|why| ServerNotFound(vec![format!("WM_TEST_REDIS: {why}")])),
    )
}

impl ServerSearch {
    /// Finds a server, unpacking one where that is the only way; `on_progress` is called before anything that
    /// takes time.
    ///
    /// # Errors
    /// [`ServerNotFound`] with everything that was tried.
    pub fn find(&self, on_progress: &mut dyn FnMut(&str)) -> Result<RedisServer, ServerNotFound> {
        let mut tried = Vec::new();
        let found = self.installed(&mut tried).or_else(|| self.unpacked(&mut tried, on_progress));
        found.ok_or(ServerNotFound(tried))
    }

    fn installed(&self, tried: &mut Vec<String>) -> Option<RedisServer> {
        for name in PROGRAM_NAMES {
            match self.program(name).map(|program| RedisServer::probe(program, Vec::new())) {
                Some(Ok(server)) => return Some(server),
                Some(Err(why)) => tried.push(why),
                None => tried.push(format!("{name} is not on PATH")),
            }
        }
        None
    }

    fn unpacked(&self, tried: &mut Vec<String>, on_progress: &mut dyn FnMut(&str)) -> Option<RedisServer> {
        for cache in &self.caches {
            let ready = create_private_dir(cache).map_err(UnpackError::Directory);
            match ready.and_then(|()| debian::server_in(cache, self, on_progress)) {
                Ok(server) => return Some(server),
                Err(UnpackError::Directory(why)) => tried.push(why),
                Err(UnpackError::Machine(why)) => {
                    tried.push(why);
                    break;
                }
            }
        }
        None
    }
}

/// Makes a directory that only we can write to, or makes sure that it is one: programs will be run from it.
fn create_private_dir(dir: &Path) -> Result<(), String> {
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
        assert_eq!(create_private_dir(&cache), Ok(()));
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(create_private_dir(&cache).unwrap_err().contains("not ours alone"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(create_private_dir(&link).unwrap_err().contains("not ours alone"));
    }

    #[test]
    fn a_server_that_is_too_old_is_named_and_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("redis-server");
        std::fs::write(&program, "#!/bin/sh\necho Redis server v=5.0.7 sha=0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let search = ServerSearch { path: dir.path().into(), caches: Vec::new() };
        let error = search.find(&mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("is version 5.0.7"), "{error}");
        assert!(error.contains("valkey-server is not on PATH"), "{error}");
        assert!(error.contains("apt-get install redis-server"), "{error}");
    }
}
