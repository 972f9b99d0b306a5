//! Three handles on one queue, one for each role that the ACL of Redis knows: producer, worker, operator.
//!
//! What every role may read is on [`Queue`], to which each handle dereferences; what changes the queue is on the handle
//! of the role that may do it.
//!
//! Invariant: no handle turns into another. Code that holds a [`WorkerHandle`] cannot discard a dead letter, and does
//! not compile if it tries.

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
            /// Opens the queue for reports that go to `sink`: a pair that is done for one sink is not for another. A
            /// Redis that does not answer now is no error: every call connects again.
            ///
            /// # Errors
            /// [`Error::Config`] for a bad address or name; [`Error::Refused`] and [`Error::NewerSchema`] from a Redis
            /// that does answer.
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
    /// Puts jobs in.
    ProducerHandle
}

handle! {
    /// Takes jobs in, claims and settles them, and keeps the queue's books. Clones share connections, and count as one
    /// worker where a job must run with nothing else in flight.
    WorkerHandle
}

handle! {
    /// Pauses, cancels, replays and discards.
    OperatorHandle
}
