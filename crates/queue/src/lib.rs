//! The queue in Redis: inbox -> ready -> leased -> done, scheduled or dead; and nothing else talks to Redis.
//!
//! A [`Queue`] in_flight out at most one [`Delivery`] of a job at a time, under a lease and a fencing token; whoever has
//! lost the lease writes nothing any more. What happens to a delivery is a [`Verdict`](wm_job::verdict::Verdict);
//! the queue carries it out and does not judge. It does not alert, log or count for others either: it returns facts.
//!
//! Invariants: a live job is in exactly one of `ready`, `scheduled`, `lease`, `solo`; every way out of `lease` goes
//! through the accounting of its script; every deadline is by the clock of Redis.
//!
//! # Why
//! Leases with fenced Lua scripts, not Redis Streams: delayed retry, priority, uniqueness and taking a count back need
//! structures of their own anyway, and Streams lose the count of deliveries when an entry is added again. Not a list
//! moved by a blocking command either: a client that gives up waiting would own a job and not know it. So the only
//! blocking command waits for a hint, and a script takes the job.

mod config;
mod error;
mod fleet;
mod ids;
mod inspect;
mod intake;
mod lease;
mod redis;
mod role;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::config::{Config, DEFAULT_NAME};
pub use self::error::Error;
pub use self::fleet::outage::{AlertLeader, OutageReport};
pub use self::fleet::presence::{Heap, Heartbeat, Presence, RunningJob};
pub use self::ids::LeaseRef;
pub use self::ids::WorkerId;
pub use self::inspect::ceilings::{Ceilings, HostWaiters};
pub use self::inspect::control::Paused;
pub use self::inspect::dead::{Content, DeadFilter, DeadLetter, RawPayload, Replayed};
pub use self::inspect::events::Event;
pub use self::inspect::status::{DEAD_NEARLY_FULL, Status, WorkerStatus};
pub use self::intake::admission::Admission;
pub use self::intake::adopt::{Adopted, Adopter, ListState};
pub use self::intake::foreign_list::ForeignList;
pub use self::intake::inbox::Ingested;
pub use self::lease::delivery::{CLAIM_MOST, Claim, Delivery};
pub use self::lease::settle::{Unreleased, Unsettled};
pub use self::lease::settled::Settled;
pub use self::lease::start::StartPermit;
pub use self::lease::truncate::{REPORT_MAX_BYTES, truncate_report};
pub use self::lease::upkeep::{Buried, Evicted, Upkeep};
pub use self::redis::address::redacted;
pub use self::redis::server::Server;
pub use self::role::{OperatorHandle, ProducerHandle, WorkerHandle};

use self::lease::batch::SettleBatcher;
use self::redis::keys::Keys;
use self::redis::pool::{Connection, RedisPool};

/// The build, as evidence names it.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// One queue. Cheap to clone; all clones share connections and count as one pair of in_flight.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    keys: Keys,
    /// What "done" means for a pair besides its analysis: where the report went.
    sink: String,
    redis: RedisPool,
    schema: OnceCell<()>,
    /// Every delivery in hand holds a clone: a suspect is claimed only with empty in_flight.
    in_flight: Arc<()>,
    /// Tokens of claims whose answer never came; the next claim asks for the same job again.
    unanswered: Mutex<Vec<String>>,
    /// Jobs that end now, and go to Redis together.
    batcher: SettleBatcher,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("prefix", &self.inner.keys.prefix()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens a queue to read; see [`WorkerHandle::connect`] and its siblings to change it.
    ///
    /// # Errors
    /// Those of [`WorkerHandle::connect`].
    pub async fn connect(config: &Config, sink: &str) -> Result<Self, Error> {
        let keys = Keys::new(&config.name)?;
        let queue = Self {
            inner: Arc::new(Inner {
                config: config.clone(),
                keys,
                sink: sink.to_owned(),
                redis: RedisPool::new(config)?,
                schema: OnceCell::new(),
                in_flight: Arc::new(()),
                unanswered: Mutex::new(Vec::new()),
                batcher: SettleBatcher::default(),
            }),
        };
        match queue.connection().await {
            Err(error) if !error.is_transient() => Err(error),
            Ok(_) | Err(_) => Ok(queue),
        }
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// A command of ours as it is typed, with this queue's name where that is not what is meant anyway.
    pub fn command(&self, words: &str) -> String {
        match self.name() {
            DEFAULT_NAME => format!("wm-analyzer {words}"),
            name => format!("wm-analyzer {words} -Q {name}"),
        }
    }

    /// How long a delivery is ours without a heartbeat.
    pub fn lease(&self) -> Duration {
        self.inner.config.lease
    }

    /// A connection for commands, on a key space that this build may touch.
    async fn connection(&self) -> Result<Connection<'_>, Error> {
        let mut connection = self.inner.redis.get().await?;
        self.inner
            .schema
            .get_or_try_init(async || self.check_schema(&mut connection).await.map(drop))
            .await?;
        Ok(connection)
    }
}

impl WorkerHandle {
    /// Waits until there may be something to claim, or `at_most` is over. A hint only: it never fails and never
    /// returns at once because Redis is away.
    pub async fn wait(&self, at_most: Duration) {
        let end = Instant::now() + at_most;
        if self.woken(at_most).await.is_err() {
            sleep_until(end).await;
        }
    }

    async fn woken(&self, at_most: Duration) -> Result<(), Error> {
        // Taken out while it waits: if this future is dropped, the connection goes too, and with it the command.
        let redis = &self.inner.redis;
        let (generation, mut connection) = redis.waiting().await?;
        let patience = at_most + self.inner.config.response_timeout;
        connection.set_response_timeout(patience);
        let seconds = at_most.as_secs_f64().max(0.001);
        let mut command = ::redis::cmd("BLPOP");
        command.arg(self.inner.keys.wake()).arg(seconds);
        timeout(patience, command.query_async::<::redis::Value>(&mut connection))
            .await
            .map_err(|_| Error::Unavailable("no answer while waiting".into()))?
            .inspect_err(|e| redis.on_error(generation, e))?;
        redis.keep(generation, connection);
        Ok(())
    }
}
