//! Three handles on one queue, one for each role in the Redis ACL: producer, worker, operator.
//!
//! Reads that every role may make are on [`Queue`], to which each handle dereferences; a method that changes
//! the queue is on the handle of the role that may call it.
//!
//! Invariant: no handle converts into another. Code that holds a [`WorkerHandle`] and tries to discard a dead
//! letter does not compile.

use std::ops::Deref;

use crate::Queue;
use crate::config::Config;
use crate::error::Error;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(Queue);

        impl $name {
            /// Opens the queue for reports that go to `sink`: a pair that is done for one sink is not done
            /// for another. An unreachable Redis is not an error here: every call tries to connect again.
            ///
            /// # Errors
            /// [`Error::Config`] for a bad address or name; [`Error::Denied`], [`Error::Refused`] and [`Error::NewerSchema`]
            /// when Redis can be reached.
            pub async fn connect(config: &Config, sink: &str) -> Result<Self, Error> {
                Queue::connect(config, sink).await.map(Self)
            }
        }

        impl Deref for $name {
            type Target = Queue;

            fn deref(&self) -> &Queue {
                &self.0
            }
        }
    };
}

handle! {
    /// Enqueues jobs and pushes raw payloads.
    ProducerHandle
}

handle! {
    /// Admits, claims and settles jobs, and runs upkeep. Clones share connections, and count as one worker
    /// when a job must run exclusively.
    WorkerHandle
}

handle! {
    /// Pauses and resumes the queue, cancels jobs, replays and discards dead letters.
    OperatorHandle
}
