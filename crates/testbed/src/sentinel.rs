//! A master, its replica and a sentinel over both: real servers, for tests of a failover.

use ::redis::FromRedisValue;
use ::redis::aio::MultiplexedConnection;

use super::redis::{PrivateRedis, RedisOptions};
use super::wait::until;

async fn connect(redis: &PrivateRedis) -> MultiplexedConnection {
    let url = format!("redis+unix://{}", redis.socket().display());
    ::redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Sends a command to a server, its words separated by spaces, and answers what it replied.
///
/// # Panics
/// Where the server is not there or refuses it.
pub async fn command<T: FromRedisValue>(redis: &PrivateRedis, line: &str) -> T {
    let mut words = line.split(' ');
    let mut cmd = ::redis::cmd(words.next().unwrap());
    let answer = cmd.arg(words.collect::<Vec<_>>()).query_async(&mut connect(redis).await).await;
    answer.unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// A master, a replica that is in step with it, and a sentinel that looks after both, each as a process that
/// its guard ends.
///
/// # Panics
/// Where one of them does not start, or they do not find each other.
pub async fn start_with_sentinel() -> (PrivateRedis, PrivateRedis, PrivateRedis) {
    let data =
        || PrivateRedis::start(RedisOptions::default().tcp().set("repl-diskless-sync-delay", "0")).unwrap();
    let (master, replica) = (data(), data());
    let sentinel = PrivateRedis::start(RedisOptions::sentinel()).unwrap();
    command::<()>(&replica, &format!("REPLICAOF 127.0.0.1 {}", master.port())).await;
    until("the replica follows", async || {
        command::<String>(&replica, "INFO replication").await.contains("master_link_status:up")
    })
    .await;
    command::<()>(&sentinel, &format!("SENTINEL MONITOR m 127.0.0.1 {} 1", master.port())).await;
    for setting in ["down-after-milliseconds 300", "failover-timeout 2000"] {
        command::<()>(&sentinel, &format!("SENTINEL SET m {setting}")).await;
    }
    until("the sentinel knows the replica", async || {
        command::<::redis::Value>(&sentinel, "SENTINEL REPLICAS m").await != ::redis::Value::Array(Vec::new())
    })
    .await;
    (master, replica, sentinel)
}
