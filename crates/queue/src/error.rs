//! Errors of the queue, grouped by how a caller handles them.
//!
//! A lost lease, an empty queue or a duplicate job are not errors: they are results of the call.
//!
//! Invariant: [`Error::is_transient`] decides whether a caller waits and retries, or stops and reports the
//! error.

use deadpool::managed::PoolError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What Redis 7.0, and what later ones and Valkey say of a command in a script that the script's caller has no right to.
const SCRIPT_DENIED: [&str; 2] = ["The user executing the script", "ACL failure in script"];

/// An error from Redis, or from the queue's configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis cannot be reached or cannot answer now; the command may or may not have been carried out.
    #[error("Redis is not available: {0}")]
    Unavailable(String),
    /// Redis answers and refuses writes for now: its replicas or its persistence fail, or a script runs for too
    /// long.
    #[error("Redis refuses for now: {0}")]
    Refusing(String),
    /// Redis is at `maxmemory` and refused this write. Claims, settles and operators' commands go on.
    #[error("Redis is full: {0}")]
    Full(String),
    /// The user of `queue.url` has no right to the command; nothing was written.
    #[error("the Redis user of queue.url may not do this (docs/deployers.md has the rights of each): {0}")]
    Denied(String),
    /// Redis refuses the command: credentials, or a key of the wrong type.
    #[error("Redis refuses: {0}")]
    Refused(String),
    /// The keys were written by a newer build, and this one could misread them.
    #[error("the queue has schema version {found} and this build supports {known}: update this build")]
    NewerSchema {
        /// Schema version stored in Redis.
        found: u64,
        /// Highest schema version that this build supports.
        known: u64,
    },
    /// Redis may evict keys, and so lose jobs; holds its `maxmemory-policy`.
    #[error("Redis has maxmemory-policy {0}, which loses jobs: set it to noeviction")]
    Evicts(String),
    /// An operation would make those forget their jobs that have not come to all of them; nothing was done.
    #[error(
        "no room for another operation: those that have not come to all of their jobs have {jobs} (at most {jobs_max}, in \
         {operations_max} operations). Nothing changed. Go on with the oldest: {command}; or select fewer jobs; what is \
         older than {hours} h gives way by itself"
    )]
    TooManyOperations {
        /// Jobs of those that are not through.
        jobs: u64,
        /// Most jobs of all operations together.
        jobs_max: usize,
        /// Most operations.
        operations_max: u64,
        /// What to type to go on with the oldest of them.
        command: String,
        /// Age in hours from which they give way.
        hours: u64,
    },
    /// The queue's address, name or certificates are invalid.
    #[error("{0}")]
    Config(String),
    /// A script's reply does not have the expected form.
    #[error("script {script} answered {reply:?}, which this build does not understand")]
    Reply {
        /// Its file name in `lua/`, without the extension.
        script: &'static str,
        /// The unexpected part of its reply, shortened.
        reply: String,
    },
}

impl Error {
    /// True when the same call may succeed later without intervention.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Refusing(_) | Self::Full(_) => true,
            Self::Denied(_)
            | Self::Refused(_)
            | Self::NewerSchema { .. }
            | Self::Evicts(_)
            | Self::TooManyOperations { .. }
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
                format!("the queue's slot has moved to {node}; the next command goes there")
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
                Some("NOREPLICAS" | "MISCONF" | "BUSY") => Self::Refusing(text),
                // A role switch.
                Some("UNBLOCKED") => Self::Unavailable(text),
                Some("NOPERM") => Self::Denied(text),
                // What a script may not call is an ERR.
                _ if SCRIPT_DENIED.iter().any(|said| text.contains(said)) => Self::Denied(text),
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
        for code in ["WRONGTYPE", "NOAUTH", "NOPERM", "WHATEVER"] {
            assert!(!server(code).is_transient(), "{code}");
        }
        assert!(Error::from(RedisError::from(std::io::Error::other("cut"))).is_transient());
        assert!(!Error::Evicts("allkeys-lru".into()).is_transient());
    }
}
