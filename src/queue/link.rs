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

use std::sync::{Mutex, MutexGuard, PoisonError};

use deadpool_redis::{Manager, Runtime, sentinel};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value,
};
use secrecy::ExposeSecret;

use super::Config;
use super::address::{Address, redacted};
use super::error::Error;

/// The way to one Redis.
pub(super) struct Link {
    config: Config,
    home: Address,
    now: Mutex<Now>,
}

/// Where we connect at the moment.
struct Now {
    /// Counts the changes: a late complaint about an older door is none about this one.
    turn: u64,
    pool: Pool,
    /// This is not where the configuration points.
    astray: bool,
    /// The connection that waits; absent while somebody waits on it, or none was needed yet.
    waiting: Option<MultiplexedConnection>,
}

#[derive(Clone)]
enum Pool {
    Server(deadpool_redis::Pool),
    Sentinel(sentinel::Pool),
}

enum Lent {
    Server(deadpool_redis::Connection),
    Sentinel(sentinel::Connection),
}

/// A connection that is lent for some commands.
pub(super) struct Connection<'l> {
    link: &'l Link,
    turn: u64,
    lent: Lent,
}

impl Link {
    /// Looks at the configuration; connects nowhere yet.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        // One process, one provider of cryptography: whoever installed the same one first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Address::of(config)?;
        let pool = pool(config, &home)?;
        let now = Mutex::new(Now { turn: 0, pool, astray: false, waiting: None });
        Ok(Self { config: config.clone(), home, now })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing that may panic happens while it is held.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that answered just now.
    pub(super) async fn get(&self) -> Result<Connection<'_>, Error> {
        let (turn, pool) = {
            let now = self.now();
            (now.turn, now.pool.clone())
        };
        let lent = match &pool {
            Pool::Server(pool) => pool.get().await.map(Lent::Server),
            Pool::Sentinel(pool) => pool.get().await.map(Lent::Sentinel),
        };
        match lent {
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
    pub(super) async fn waiting(&self) -> Result<(u64, MultiplexedConnection), Error> {
        {
            let mut now = self.now();
            if let Some(kept) = now.waiting.take() {
                return Ok((now.turn, kept));
            }
        }
        let connection = self.get().await?;
        let taken = match connection.lent {
            Lent::Server(lent) => deadpool_redis::Connection::take(lent),
            Lent::Sentinel(lent) => sentinel::Connection::take(lent),
        };
        Ok((connection.turn, taken))
    }

    /// Keeps a connection that waited, unless we went elsewhere meanwhile.
    pub(super) fn keep(&self, turn: u64, waited: MultiplexedConnection) {
        let mut now = self.now();
        if now.turn == turn {
            now.waiting = Some(waited);
        }
    }

    /// Looks whether an answer says that we are at the wrong door, and if so goes to the right one next time.
    pub(super) fn heed(&self, turn: u64, error: &RedisError) {
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

fn pool(config: &Config, address: &Address) -> Result<Pool, Error> {
    let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("queue connections: {e}"));
    // Both pools have the same limits, and no type in common.
    macro_rules! limited {
        ($builder:expr) => {
            $builder
                .max_size(config.connections)
                .wait_timeout(Some(config.response_timeout))
                .create_timeout(Some(config.connect_timeout))
                .recycle_timeout(Some(config.response_timeout))
                .runtime(Runtime::Tokio1)
                .build()
                .map_err(|e| wrong(&e))
        };
    }
    let patience = config.response_timeout;
    match address {
        Address::Server(info) => {
            let answers = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(config.connect_timeout))
                .set_response_timeout(Some(patience));
            let manager = Manager::new_with_config(info.clone(), answers).map_err(|e| wrong(&e))?;
            limited!(deadpool_redis::Pool::builder(manager)).map(Pool::Server)
        }
        Address::Sentinels { sentinels, service, login } => {
            let node = sentinel::SentinelNodeConnectionInfo {
                tls_mode: None,
                redis_connection_info: Some(login.clone()),
            };
            let master = sentinel::SentinelServerType::Master;
            let manager = sentinel::Manager::new(sentinels.clone(), service.clone(), Some(node), master)
                .map_err(|e| wrong(&e))?;
            // Its connections come with the client's own patience, half a second.
            let patient = sentinel::Hook::sync_fn(move |connection, _| {
                connection.set_response_timeout(patience);
                Ok(())
            });
            limited!(sentinel::Pool::builder(manager).post_create(patient)).map(Pool::Sentinel)
        }
    }
}

impl Connection<'_> {
    fn lent(&mut self) -> &mut MultiplexedConnection {
        match &mut self.lent {
            Lent::Server(lent) => lent,
            Lent::Sentinel(lent) => lent,
        }
    }

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
            let answer = self.lent().req_packed_command(cmd).await;
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
            let answers = self.lent().req_packed_commands(pipeline, offset, count).await;
            match &answers {
                Ok(values) => self.heed(values),
                Err(error) => self.link.heed(self.turn, error),
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        match &self.lent {
            Lent::Server(lent) => lent.get_db(),
            Lent::Sentinel(lent) => lent.get_db(),
        }
    }
}
