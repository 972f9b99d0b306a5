//! The three handles on one queue together, for tests and benchmarks that play every role.

use std::ops::Deref;

use wm_queue::{Config, Error, OperatorHandle, ProducerHandle, Queue, WorkerHandle};

/// All roles on one queue; what every role may read is on [`Queue`].
#[derive(Debug, Clone)]
pub struct Roles {
    /// Puts jobs in.
    pub producer: ProducerHandle,
    /// Claims and settles.
    pub worker: WorkerHandle,
    /// Pauses, replays, discards.
    pub operator: OperatorHandle,
}

impl Roles {
    /// Opens all three for reports that stay in Redis.
    ///
    /// # Errors
    /// Those of [`WorkerHandle::connect`].
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        Self::connect_for(config, "redis").await
    }

    /// Opens all three for reports that go to `sink`.
    ///
    /// # Errors
    /// Those of [`WorkerHandle::connect`].
    pub async fn connect_for(config: &Config, sink: &str) -> Result<Self, Error> {
        Ok(Self {
            producer: ProducerHandle::connect(config, sink).await?,
            worker: WorkerHandle::connect(config, sink).await?,
            operator: OperatorHandle::connect(config, sink).await?,
        })
    }
}

impl Deref for Roles {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.worker
    }
}
