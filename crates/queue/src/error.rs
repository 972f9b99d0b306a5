//! What can go wrong between us and Redis, sorted by what a caller does about it.
//!
//! Not here: that a lease was lost, a queue is empty or a job is a duplicate. Those are answers, not errors.
//!
//! Invariant: [`Error::is_transient`] decides whether to wait and ask again, or to stop and say so.

use deadpool::managed::PoolError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached, or cannot answer just now; what was asked may or may not have happened.
    #[error("Redis is not available: {0}")]
    Unavailable(String),
    /// Redis is at `maxmemory`: nothing was written. Settling still works, and makes room.
    #[error("Redis is full: {0}")]
    Full(String),
    /// Redis refuses us: credentials, permissions, or a key of ours that holds something else.
    #[error("Redis refuses: {0}")]
    Refused(String),
    /// The keys were written by a newer build; this one could misread them.
    #[error("the queue has schema version {found} and this build knows {known}: update this build")]
    NewerSchema {
        /// As stored.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// A Redis that evicts keys loses jobs.
    #[error("Redis has maxmemory-policy {0}, which loses jobs: set it to noeviction")]
    Evicts(String),
    /// The address or the name of the queue is not one.
    #[error("{0}")]
    Config(String),
    /// A script answered in a way that this build does not understand.
    #[error("script {script} answered {reply:?}, which this build does not understand")]
    Reply {
        /// The script.
        script: &'static str,
        /// Its answer, in short.
        reply: String,
    },
}

impl Error {
    /// True when waiting helps: the same call may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Full(_) => true,
            Self::Refused(_)
            | Self::NewerSchema { .. }
            | Self::Evicts(_)
            | Self::Config(_)
            | Self::Reply { .. } => false,
        }
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        let text = match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => {
                let node = error.redirect_node().map_or("another node", |(node, _)| node);
                format!("the queue's slot is at {node} by now, which is where we go next")
            }
            _ => error.to_string(),
        };
        match error.kind() {
            ErrorKind::Io
            | ErrorKind::Parse
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::NoScript,
            ) => Self::Unavailable(text),
            _ => match error.code() {
                Some("OOM") => Self::Full(text),
                // UNBLOCKED: a role switch; NOREPLICAS, MISCONF: writes are stopped until the server is well again;
                // BUSY: somebody's script runs for too long.
                Some("UNBLOCKED" | "NOREPLICAS" | "MISCONF" | "BUSY") => Self::Unavailable(text),
                _ => Self::Refused(text),
            },
        }
    }
}

impl From<PoolError<RedisError>> for Error {
    fn from(error: PoolError<RedisError>) -> Self {
        match error {
            PoolError::Backend(source) => source.into(),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_transient_and_what_a_person_must_mend_is_not() {
        let server = |code: &str| Error::from(redis::make_extension_error(code.into(), None));
        for code in ["OOM", "MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY"] {
            assert!(server(code).is_transient(), "{code}");
        }
        for code in ["WRONGTYPE", "NOAUTH", "WHATEVER"] {
            assert!(!server(code).is_transient(), "{code}");
        }
        assert!(Error::from(RedisError::from(std::io::Error::other("cut"))).is_transient());
        assert!(!Error::Evicts("allkeys-lru".into()).is_transient());
    }
}
