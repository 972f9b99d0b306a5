//! The way to Redis: pooled connections to one server or to whichever the sentinels name, and a second look where an
//! answer says that we are at the wrong manager.
//!
//! It repeats no command: whoever asked decides whether to ask again. Invariant: after `READONLY` (this one is a
//! replica by current) or `MOVED` (a cluster gave our slot to another node) no connection of before is used again.
//!
//! # Why
//! Not redis's cluster client, though a queue may live in a cluster: all keys of a queue are in one slot, so moved is
//! one right node at a time, and following `MOVED` finds it; and a client that repeats a script by itself could repeat
//! one that was carried out.

use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, Pool, QueueMode, RecycleResult};
use deadpool_redis::sentinel;
use parking_lot::{Mutex, MutexGuard};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind,
    Value,
};
use secrecy::ExposeSecret;

use crate::Config;
use crate::error::Error;
use crate::redis::address::{Address, redacted};

/// A connection that answered so recently is pooled without asking it again whether it does: a busy worker would ask
/// before every call. One that was cut meanwhile costs the call, and no server is restarted in this time.
const FRESH: Duration = Duration::from_millis(10);

/// The way to one Redis.
pub(crate) struct RedisPool {
    config: Config,
    configured: Address,
    current: Mutex<Current>,
}

/// Where we connect at the moment.
struct Current {
    /// DeliveryCounts the changes: a late complaint about an older manager is none about this one.
    generation: u64,
    pool: Pool<Manager>,
    /// This is not where the configuration points.
    redirected: bool,
    /// The connection that waits; absent while somebody waits on it, or none was needed yet.
    waiting: Option<MultiplexedConnection>,
}

/// Who makes connections: deadpool's own for each kind of address.
enum Manager {
    Server(deadpool_redis::Manager),
    Sentinels(sentinel::Manager, ResponseTimeout),
}

/// How long a connection waits for an answer.
type ResponseTimeout = Duration;

/// A connection, and when it last answered; unknown while it is asked.
struct TimedConnection {
    connection: MultiplexedConnection,
    answered: Option<Instant>,
}

/// A connection that is pooled for some commands.
pub(crate) struct Connection<'p> {
    pool: &'p RedisPool,
    generation: u64,
    pooled: Object<Manager>,
}

impl RedisPool {
    /// Looks at the configuration; connects nowhere yet.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        // One process, one provider of cryptography: whoever installed the same one first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let configured = Address::of(config)?;
        let pool = pool(config, &configured)?;
        let current = Mutex::new(Current { generation: 0, pool, redirected: false, waiting: None });
        Ok(Self { config: config.clone(), configured, current })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Nothing that may panic happens while it is held.
        self.current.lock()
    }

    /// A connection that answered just current, or almost.
    pub(crate) async fn get(&self) -> Result<Connection<'_>, Error> {
        let (generation, pool) = {
            let current = self.current();
            (current.generation, current.pool.clone())
        };
        match pool.get().await {
            Ok(pooled) => Ok(Connection { pool: self, generation, pooled }),
            Err(e) => {
                let redirected = self.current().redirected;
                if redirected {
                    self.reconnect(generation, None);
                }
                Err(self.named(e.into()))
            }
        }
    }

    /// A connection to wait on, taken out of the pool: the one that waited before, or another.
    pub(crate) async fn waiting(&self) -> Result<(u64, MultiplexedConnection), Error> {
        {
            let mut current = self.current();
            if let Some(kept) = current.waiting.take() {
                return Ok((current.generation, kept));
            }
        }
        let connection = self.get().await?;
        Ok((connection.generation, Object::take(connection.pooled).connection))
    }

    /// Keeps a connection that waited, unless we went elsewhere meanwhile.
    pub(crate) fn keep(&self, generation: u64, waited: MultiplexedConnection) {
        let mut current = self.current();
        if current.generation == generation {
            current.waiting = Some(waited);
        }
    }

    /// Looks whether an answer says that we are at the wrong manager, and if so goes to the right one next time.
    pub(crate) fn on_error(&self, generation: u64, error: &RedisError) {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => self.reconnect(generation, None),
            ErrorKind::Server(ServerErrorKind::Moved) => {
                self.reconnect(generation, error.redirect_node().map(|(node, _)| node));
            }
            _ => {}
        }
    }

    /// Drops every connection and goes to `node`, or configured.
    fn reconnect(&self, generation: u64, node: Option<&str>) {
        let moved = node.and_then(|node| self.configured.moved_to(node));
        let mut current = self.current();
        if current.generation == generation
            && let Ok(pool) = pool(&self.config, moved.as_ref().unwrap_or(&self.configured))
        {
            *current =
                Current { generation: generation + 1, pool, redirected: moved.is_some(), waiting: None };
        }
    }

    /// An outage with the address that it is about: whoever reads it may look after several of them.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Unavailable(what) => {
                let address = redacted(self.config.url.expose_secret());
                let hint =
                    if what.contains("certificate") { " (queue.tls_ca names whom to trust)" } else { "" };
                Error::Unavailable(format!("{address}: {what}{hint}"))
            }
            other => other,
        }
    }
}

fn pool(config: &Config, address: &Address) -> Result<Pool<Manager>, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("queue connections: {e}"));
    let manager = match address {
        Address::Server(info) => {
            let answers = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(config.connect_timeout))
                .set_response_timeout(Some(config.response_timeout));
            deadpool_redis::Manager::new_with_config(info.clone(), answers).map(Manager::Server)
        }
        Address::Sentinels { sentinels, service, login } => {
            let node = sentinel::SentinelNodeConnectionInfo {
                tls_mode: None,
                redis_connection_info: Some(login.clone()),
            };
            let master = sentinel::SentinelServerType::Master;
            sentinel::Manager::new(sentinels.clone(), service.clone(), Some(node), master)
                .map(|manager| Manager::Sentinels(manager, config.response_timeout))
        }
    };
    Pool::builder(manager.map_err(|e| wrong(&e))?)
        .max_size(config.connections)
        // The one that answered last is the one to lend next.
        .queue_mode(QueueMode::Lifo)
        .wait_timeout(Some(config.response_timeout))
        .create_timeout(Some(config.connect_timeout))
        .recycle_timeout(Some(config.response_timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|e| wrong(&e))
}

impl managed::Manager for Manager {
    type Type = TimedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<TimedConnection, RedisError> {
        // Boxed, because connecting is rare, and its 10 KiB would be part of whatever future asks Redis anything.
        let connection = match self {
            Self::Server(server) => Box::pin(server.create()).await?,
            Self::Sentinels(sentinels, response_timeout) => {
                let mut connection = Box::pin(sentinels.create()).await?;
                // It comes with the client's own response_timeout, half a second.
                connection.set_response_timeout(*response_timeout);
                connection
            }
        };
        Ok(TimedConnection { connection, answered: Some(Instant::now()) })
    }

    async fn recycle(&self, timed: &mut TimedConnection, metrics: &Metrics) -> RecycleResult<RedisError> {
        if timed.answered.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        match self {
            Self::Server(server) => Box::pin(server.recycle(&mut timed.connection, metrics)).await,
            Self::Sentinels(sentinels, _) => {
                Box::pin(sentinels.recycle(&mut timed.connection, metrics)).await
            }
        }
    }
}

impl TimedConnection {
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        self.answered = None;
        let answer = question(&mut self.connection).await?;
        self.answered = Some(Instant::now());
        Ok(answer)
    }
}

impl Connection<'_> {
    fn on_replies<'v>(&self, values: impl IntoIterator<Item = &'v Value>) {
        for value in values {
            if let Value::ServerError(error) = value {
                self.pool.on_error(self.generation, &error.clone().into());
            }
        }
    }
}

impl ConnectionLike for Connection<'_> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.pooled.ask(async |pooled| pooled.req_packed_command(cmd).await).await;
            match &answer {
                Ok(value) => self.on_replies([value]),
                Err(error) => self.pool.on_error(self.generation, error),
            }
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answers = self
                .pooled
                .ask(async |pooled| pooled.req_packed_commands(pipeline, offset, count).await)
                .await;
            match &answers {
                Ok(values) => self.on_replies(values),
                Err(error) => self.pool.on_error(self.generation, error),
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.pooled.connection.get_db()
    }
}
