//! The way to Redis: pooled connections to one server or to whichever the sentinels name, and a second look where an
//! answer says that we are at the wrong door.
//!
//! It repeats no command: whoever asked decides whether to ask again. Invariant: after `READONLY` (this one is a
//! replica by now) or `MOVED` (a cluster gave our slot to another node) no connection of before is used again.
//!
//! # Why
//! Not redis's cluster client, though a queue may live in a cluster: all keys of a queue are in one slot, so there is
//! one right node at a time, and following `MOVED` finds it; and a client that repeats a script by itself could repeat
//! one that was carried out.

use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, QueueMode, RecycleResult};
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

/// A connection that answered so recently is lent without asking it again whether it does: a busy worker would ask
/// before every call. One that was cut meanwhile costs the call, and no server is restarted in this time.
const FRESH: Duration = Duration::from_millis(10);

/// The way to one Redis.
pub(crate) struct Link {
    config: Config,
    home: Address,
    now: Mutex<Now>,
}

/// Where we connect at the moment.
struct Now {
    /// Counts the changes: a late complaint about an older door is none about this one.
    turn: u64,
    pool: Pool<Door>,
    /// This is not where the configuration points.
    astray: bool,
    /// The connection that waits; absent while somebody waits on it, or none was needed yet.
    waiting: Option<MultiplexedConnection>,
}

/// Who makes connections: deadpool's own for each kind of address.
enum Door {
    Server(deadpool_redis::Manager),
    Sentinels(sentinel::Manager, Patience),
}

/// How long a connection waits for an answer.
type Patience = Duration;

/// A connection, and when it last answered; unknown while it is asked.
struct Known {
    connection: MultiplexedConnection,
    answered: Option<Instant>,
}

/// A connection that is lent for some commands.
pub(crate) struct Connection<'l> {
    link: &'l Link,
    turn: u64,
    lent: Object<Door>,
}

impl Link {
    /// Looks at the configuration; connects nowhere yet.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        // One process, one provider of cryptography: whoever installed the same one first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Address::of(config)?;
        let pool = pool(config, &home)?;
        let now = Mutex::new(Now { turn: 0, pool, astray: false, waiting: None });
        Ok(Self { config: config.clone(), home, now })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing that may panic happens while it is held.
        self.now.lock()
    }

    /// A connection that answered just now, or almost.
    pub(crate) async fn get(&self) -> Result<Connection<'_>, Error> {
        let (turn, pool) = {
            let now = self.now();
            (now.turn, now.pool.clone())
        };
        match pool.get().await {
            Ok(lent) => Ok(Connection { link: self, turn, lent }),
            Err(e) => {
                let astray = self.now().astray;
                if astray {
                    self.turn(turn, None);
                }
                Err(self.named(e.into()))
            }
        }
    }

    /// A connection to wait on, taken out of the pool: the one that waited before, or another.
    pub(crate) async fn waiting(&self) -> Result<(u64, MultiplexedConnection), Error> {
        {
            let mut now = self.now();
            if let Some(kept) = now.waiting.take() {
                return Ok((now.turn, kept));
            }
        }
        let connection = self.get().await?;
        Ok((connection.turn, Object::take(connection.lent).connection))
    }

    /// Keeps a connection that waited, unless we went elsewhere meanwhile.
    pub(crate) fn keep(&self, turn: u64, waited: MultiplexedConnection) {
        let mut now = self.now();
        if now.turn == turn {
            now.waiting = Some(waited);
        }
    }

    /// Looks whether an answer says that we are at the wrong door, and if so goes to the right one next time.
    pub(crate) fn heed(&self, turn: u64, error: &RedisError) {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => self.turn(turn, None),
            ErrorKind::Server(ServerErrorKind::Moved) => {
                self.turn(turn, error.redirect_node().map(|(node, _)| node));
            }
            _ => {}
        }
    }

    /// Drops every connection and goes to `node`, or home.
    fn turn(&self, turn: u64, node: Option<&str>) {
        let there = node.and_then(|node| self.home.moved_to(node));
        let mut now = self.now();
        if now.turn == turn
            && let Ok(pool) = pool(&self.config, there.as_ref().unwrap_or(&self.home))
        {
            *now = Now { turn: turn + 1, pool, astray: there.is_some(), waiting: None };
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

fn pool(config: &Config, address: &Address) -> Result<Pool<Door>, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("queue connections: {e}"));
    let door = match address {
        Address::Server(info) => {
            let answers = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(config.connect_timeout))
                .set_response_timeout(Some(config.response_timeout));
            deadpool_redis::Manager::new_with_config(info.clone(), answers).map(Door::Server)
        }
        Address::Sentinels { sentinels, service, login } => {
            let node = sentinel::SentinelNodeConnectionInfo {
                tls_mode: None,
                redis_connection_info: Some(login.clone()),
            };
            let master = sentinel::SentinelServerType::Master;
            sentinel::Manager::new(sentinels.clone(), service.clone(), Some(node), master)
                .map(|manager| Door::Sentinels(manager, config.response_timeout))
        }
    };
    Pool::builder(door.map_err(|e| wrong(&e))?)
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

impl Manager for Door {
    type Type = Known;
    type Error = RedisError;

    async fn create(&self) -> Result<Known, RedisError> {
        // Boxed, because connecting is rare, and its 10 KiB would be part of whatever future asks Redis anything.
        let connection = match self {
            Self::Server(server) => Box::pin(server.create()).await?,
            Self::Sentinels(sentinels, patience) => {
                let mut connection = Box::pin(sentinels.create()).await?;
                // It comes with the client's own patience, half a second.
                connection.set_response_timeout(*patience);
                connection
            }
        };
        Ok(Known { connection, answered: Some(Instant::now()) })
    }

    async fn recycle(&self, known: &mut Known, metrics: &Metrics) -> RecycleResult<RedisError> {
        if known.answered.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        match self {
            Self::Server(server) => Box::pin(server.recycle(&mut known.connection, metrics)).await,
            Self::Sentinels(sentinels, _) => {
                Box::pin(sentinels.recycle(&mut known.connection, metrics)).await
            }
        }
    }
}

impl Known {
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
    fn heed<'v>(&self, values: impl IntoIterator<Item = &'v Value>) {
        for value in values {
            if let Value::ServerError(error) = value {
                self.link.heed(self.turn, &error.clone().into());
            }
        }
    }
}

impl ConnectionLike for Connection<'_> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.lent.ask(async |lent| lent.req_packed_command(cmd).await).await;
            match &answer {
                Ok(value) => self.heed([value]),
                Err(error) => self.link.heed(self.turn, error),
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
            let answers =
                self.lent.ask(async |lent| lent.req_packed_commands(pipeline, offset, count).await).await;
            match &answers {
                Ok(values) => self.heed(values),
                Err(error) => self.link.heed(self.turn, error),
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.lent.connection.get_db()
    }
}
