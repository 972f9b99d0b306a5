//! Pooled connections to one Redis server or to the master that the sentinels name; reconnects when a reply
//! shows that this is the wrong server.
//!
//! It never repeats a command: the caller decides whether to retry. Invariant: after `READONLY` (the server
//! is now a replica) or `MOVED` (the queue's slot is now on another cluster node) no earlier connection is
//! used again.
//!
//! # Why
//! Not the cluster client of the redis crate, though a queue may be in a cluster: all keys of a queue are in
//! one slot, so there is one right node at a time, and following `MOVED` finds it; and a client that retries
//! scripts on its own could run one twice.

use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, Pool, QueueMode, RecycleError, RecycleResult};
use deadpool_redis::sentinel;
use parking_lot::{Mutex, MutexGuard};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind,
    Value,
};

use crate::Config;
use crate::error::Error;
use crate::redis::address::Address;
use crate::redis::plain;

/// A connection that replied within this time is reused without a PING: a busy worker would send one before
/// every call. If it broke meanwhile, that call fails; no server restarts in this time.
const FRESH: Duration = Duration::from_millis(10);

/// Blocking waits of one process: for a wake-up and, in the looker, for the inbox.
const WAITS: usize = 2;

/// A connection pool that follows failovers and slot moves.
pub(crate) struct RedisPool {
    config: Config,
    configured: Address,
    current: Mutex<Current>,
}

/// The server in use, and its connections.
struct Current {
    /// Incremented by each reconnect: a late error from an older generation is ignored.
    generation: u64,
    pool: Pool<Manager>,
    /// True after `MOVED`: this is not the configured server.
    redirected: bool,
    /// Connections for blocking waits that are not in use.
    waiting: Vec<MultiplexedConnection>,
}

/// Creates connections, with deadpool's manager for each kind of address.
enum Manager {
    Server(deadpool_redis::Manager),
    Sentinels(sentinel::Manager, ResponseTimeout),
}

/// Longest wait for a reply on a connection.
type ResponseTimeout = Duration;

/// A connection, and the time of its last reply; None while a command is under way.
struct TimedConnection {
    connection: MultiplexedConnection,
    answered: Option<Instant>,
}

/// A pooled connection, lent for some commands.
pub(crate) struct Connection<'p> {
    pool: &'p RedisPool,
    generation: u64,
    pooled: Object<Manager>,
}

impl RedisPool {
    /// Builds the pool; does not connect yet.
    ///
    /// # Errors
    /// [`Error::Config`] for an invalid address or certificate file.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        // The crypto provider is process-wide: an error means that it is already installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let configured = config.url.trusting(&config.tls_ca);
        let configured = configured.map_err(|what| {
            Error::Config(format!("queue.tls_ca = {:?}: {what}", config.tls_ca.display().to_string()))
        })?;
        let pool = pool(config, &configured)?;
        let current = Mutex::new(Current { generation: 0, pool, redirected: false, waiting: Vec::new() });
        Ok(Self { config: config.clone(), configured, current })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Code that holds this lock must not panic.
        self.current.lock()
    }

    /// A connection that has just replied: to a PING, or within [`FRESH`].
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
                Err(self.named(e.into()).await)
            }
        }
    }

    /// A connection for a blocking wait, taken out of the pool: the one used before, or another.
    pub(crate) async fn waiting(&self) -> Result<(u64, MultiplexedConnection), Error> {
        {
            let mut current = self.current();
            if let Some(kept) = current.waiting.pop() {
                return Ok((current.generation, kept));
            }
        }
        let connection = self.get().await?;
        Ok((connection.generation, Object::take(connection.pooled).connection))
    }

    /// Keeps a connection for the next wait, unless the pool has reconnected meanwhile.
    pub(crate) fn keep(&self, generation: u64, waited: MultiplexedConnection) {
        let mut current = self.current();
        if current.generation == generation && current.waiting.len() < WAITS {
            current.waiting.push(waited);
        }
    }

    /// Reconnects when an error shows that this is the wrong server.
    pub(crate) fn on_error(&self, generation: u64, error: &RedisError) {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => self.reconnect(generation, None),
            ErrorKind::Server(ServerErrorKind::Moved) => {
                self.reconnect(generation, error.redirect_node().map(|(node, _)| node));
            }
            _ => {}
        }
    }

    /// Drops all connections; new ones go to `node` or, without one, to the configured address.
    fn reconnect(&self, generation: u64, node: Option<&str>) {
        let moved = node.and_then(|node| self.configured.moved_to(node));
        let mut current = self.current();
        if current.generation == generation
            && let Ok(pool) = pool(&self.config, moved.as_ref().unwrap_or(&self.configured))
        {
            *current = Current {
                generation: generation + 1,
                pool,
                redirected: moved.is_some(),
                waiting: Vec::new(),
            };
        }
    }

    /// Adds the address to an [`Error::Unavailable`]: an operator may have several servers.
    async fn named(&self, error: Error) -> Error {
        match error {
            Error::Unavailable(what) => {
                let address = &self.config.url;
                if plain::answers_without_tls(address, self.config.connect_timeout).await {
                    return Error::Unavailable(format!(
                        "{address}: the server does not speak TLS; use redis://"
                    ));
                }
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
        // Reuses the connection with the most recent reply first.
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
        // Boxed: connecting is rare, and its 10 KiB would be part of every future that calls Redis.
        let connection = match self {
            Self::Server(server) => Box::pin(server.create()).await?,
            Self::Sentinels(sentinels, response_timeout) => {
                let mut connection = Box::pin(sentinels.create()).await?;
                // Replaces the client's default of half a second.
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
            // Not the manager's own check, which sends UNWATCH too: nothing here ever watches.
            Self::Server(_) => {
                let nonce = metrics.recycle_count.to_string();
                let mut ping = redis::cmd("PING");
                let pong: String = Box::pin(ping.arg(&nonce).query_async(&mut timed.connection)).await?;
                if pong == nonce { Ok(()) } else { Err(RecycleError::message("a reply to another command")) }
            }
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
