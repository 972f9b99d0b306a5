//! Where programs are looked for, and where they may be unpacked.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where to look for a server.
#[derive(Debug, Clone)]
pub struct ServerSearch {
    /// Directories of programs, in the form of `PATH`.
    pub path: OsString,
    /// Directories that may keep an unpacked server, best first; each is made when needed, for us alone.
    pub caches: Vec<PathBuf>,
}

impl ServerSearch {
    /// As this process's environment has it: `PATH`, then the user's cache, then the temporary directory.
    pub fn from_env() -> Self {
        let home = std::env::home_dir().filter(|home| home.is_dir()).map(|home| home.join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        // One level, and ours: in a sticky directory no other user can rename it.
        let temporary = format!("wm-analyzer-redis-{}", rustix::process::geteuid().as_raw());
        let user = cache.or(home).map(|cache| cache.join("wm-analyzer").join("redis"));
        Self {
            path: std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
            caches: user.into_iter().chain([std::env::temp_dir().join(temporary)]).collect(),
        }
    }

    /// The program of this name on the search path.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|dir| dir.join(name)).find(|program| program.is_file())
    }
}
