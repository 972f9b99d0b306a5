//! Blocking waits: for a wake-up, and for a payload in the inbox. Hints only: neither takes a job, and neither fails.
//!
//! Invariant: a wait returns within its time and a response timeout, and never returns at once again and again.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Pipeline, RedisResult};
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::Error;
use crate::role::WorkerHandle;

/// Least time between two looks at the inbox where Redis does not let us wait for it.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

impl WorkerHandle {
    /// Waits until there may be something to claim, for `at_most` at the longest; the full time when Redis is
    /// unreachable.
    pub async fn wait(&self, at_most: Duration) {
        let end = Instant::now() + at_most;
        let mut command = redis::cmd("BLPOP");
        command.arg(self.inner.keys.wake()).arg(seconds(at_most));
        let waited = self.block(at_most, async |connection| command.query_async(connection).await);
        if waited.await.is_err() {
            sleep_until(end).await;
        }
    }

    /// Waits until the inbox has a payload, for `at_most` at the longest. Where Redis refuses to wait, as at
    /// `maxmemory`, returns after 200 ms.
    pub async fn wait_for_inbox(&self, at_most: Duration) {
        let begun = Instant::now();
        let waited = self.block_on_inbox(at_most).await;
        // The error of a command without a reply is not seen: a wait that was refused ends at once.
        let refused = waited.is_err() || (begun.elapsed() < POLL_INTERVAL && !self.has_inbox().await);
        if refused {
            sleep_until(begun + POLL_INTERVAL).await;
        }
    }

    async fn has_inbox(&self) -> bool {
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(self.inner.keys.inbox());
        matches!(self.ask(&pipe).await, Ok((true,)))
    }

    /// Moves the oldest payload to where it is, which is the one command that waits for a list without taking from it.
    /// Its reply is the payload, which may have 512 MB: it is left out, and the reply to the PING behind it tells that
    /// the wait has ended.
    async fn block_on_inbox(&self, at_most: Duration) -> Result<(), Error> {
        let may_skip = self.inner.may_skip_reply.get_or_try_init(async || {
            let mut connection = self.connection().await?;
            let allowed: RedisResult<()> =
                redis::cmd("CLIENT").arg(&["REPLY", "ON"]).query_async(&mut connection).await;
            match allowed.map_err(Error::from) {
                Ok(()) => Ok(true),
                Err(Error::Denied(_) | Error::Refused(_)) => Ok(false),
                Err(e) => Err(e),
            }
        });
        if !*may_skip.await? {
            return Err(Error::Refused("CLIENT REPLY".into()));
        }
        let inbox = self.inner.keys.inbox();
        let mut commands = Pipeline::new();
        commands.cmd("CLIENT").arg(&["REPLY", "SKIP"]);
        commands.cmd("BLMOVE").arg(&inbox).arg(&inbox).arg(&["LEFT", "LEFT"]).arg(seconds(at_most));
        commands.cmd("PING");
        self.block(at_most, async |connection| {
            connection.req_packed_commands(&commands, 0, 1).await.map(drop)
        })
        .await
    }

    /// Runs a command that waits, on a connection of its own, which is kept for the next wait.
    async fn block(
        &self,
        at_most: Duration,
        command: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<()>,
    ) -> Result<(), Error> {
        // Taken out of the pool while it waits: dropping this future drops the connection, and with it the
        // command.
        let redis = &self.inner.redis;
        let (generation, mut connection) = redis.waiting().await?;
        let patience = at_most + self.inner.config.response_timeout;
        connection.set_response_timeout(patience);
        timeout(patience, command(&mut connection))
            .await
            .map_err(|_| Error::Unavailable("no answer while waiting".into()))?
            .inspect_err(|e| redis.on_error(generation, e))?;
        redis.keep(generation, connection);
        Ok(())
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(0.001)
}
