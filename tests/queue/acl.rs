//! The rights that docs/deployers.md gives to a producer, a worker and an operator: enough for each, and no more. Those of
//! the dashboard: tests/it/dash.rs.

use redis::IntoConnectionInfo;
use redis::aio::MultiplexedConnection;
use wm_analyzer::queue::{Config, Error, PauseName};
use wm_testbed::roles::Roles;

use crate::operations::{all_that_a_worker_does, all_that_an_operator_does};
use crate::world::*;

const RIGHTS: &str = include_str!("../../docs/deployers.md");
const PASSWORD: &str = "change-me";

/// A server that knows the documented users.
async fn guarded() -> World {
    let world = World::new().await;
    let lines: Vec<_> = RIGHTS.lines().filter_map(|line| line.strip_prefix("user ")).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in lines {
        let mut words = vec!["SETUSER"];
        words.extend(line.split(' '));
        world.ask::<()>("ACL", &words).await;
    }
    world
}

fn url_of(world: &World, user: &str) -> String {
    format!("{}?user={user}&pass={PASSWORD}", world.redis.url())
}

async fn queue_of(world: &World, user: &str) -> Roles {
    Roles::connect(&Config { url: url_of(world, user).parse().unwrap(), ..world.config.clone() })
        .await
        .unwrap()
}

/// A connection as this user, which sends nothing of its own accord.
async fn connection_of(world: &World, user: &str) -> MultiplexedConnection {
    let info = url_of(world, user).into_connection_info().unwrap();
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    let client = redis::Client::open(info.set_redis_settings(login)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Whether a command is denied, and not merely wrong.
async fn is_denied(connection: &mut MultiplexedConnection, command: &str) -> bool {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    let answer: redis::RedisResult<redis::Value> =
        cmd.arg(words.collect::<Vec<_>>()).query_async(connection).await;
    answer.is_err_and(|e| e.code() == Some("NOPERM"))
}

/// What the server denied to our own code, of which nobody else may have heard: a hint that cannot be written is none.
async fn denials(world: &World) -> redis::Value {
    world.ask("ACL", "LOG").await
}

#[tokio::test]
async fn what_the_documented_rights_let_a_worker_and_an_operator_do_is_all_that_they_do() {
    let world = guarded().await;
    all_that_a_worker_does(&world, &queue_of(&world, "worker").await).await;
    all_that_an_operator_does(&world, &queue_of(&world, "operator").await).await;
    assert_eq!(denials(&world).await, redis::Value::Array(Vec::new()));
    let operator = &mut connection_of(&world, "operator").await;
    for command in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG GET maxmemory",
        "ACL LIST",
        "SCRIPT FLUSH",
        "SCRIPT KILL",
        "EVAL return{} 0",
        "SHUTDOWN",
        "GET other",
        "SET other x",
        "LPUSH wm:{other}:inbox x",
        "REPLICAOF NO ONE",
        "PUBLISH a b",
        "CLIENT LIST",
        "MONITOR",
    ] {
        assert!(is_denied(operator, command).await, "{command}");
    }
}

#[tokio::test]
async fn what_the_documented_rights_let_a_producer_do_is_to_push_and_to_read_what_came_of_it() {
    let world = guarded().await;
    let producer = &mut connection_of(&world, "producer").await;
    let inbox = key("inbox");
    let pushed = job();
    let _: u64 = redis::cmd("RPUSH").arg(&inbox).arg(pushed.encode()).query_async(producer).await.unwrap();
    let queue = queue_of(&world, "worker").await;
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 1);
    let held = claimed(&queue, "w").await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let (from, to) = (pushed.from.given().unwrap().uuid(), pushed.to.uuid());
    let report: String =
        redis::cmd("GET").arg(key(&format!("report:{from}..{to}"))).query_async(producer).await.unwrap();
    assert!(report.contains(&to.to_string()));
    assert!(!is_denied(producer, &format!("XREAD STREAMS {} 0", key("events"))).await);
    assert_eq!(denials(&world).await, redis::Value::Array(Vec::new()));

    for command in [
        format!("LPOP {inbox}"),
        format!("LRANGE {inbox} 0 -1"),
        format!("DEL {inbox}"),
        format!("LPUSH {inbox} x"),
        format!("RPUSH {} x", key("wake")),
        format!("ZADD {} 1 x", key("ready")),
        format!("GET {}", key("done:x")),
        format!("SET {} x", key("report:x")),
        format!("XADD {} * a b", key("events")),
        format!("HGETALL {}", key("job:x")),
        "GET other".into(),
        "EVAL return{} 0".into(),
        "EVALSHA x 0".into(),
        "KEYS *".into(),
        "SCAN 0".into(),
        "INFO".into(),
        "CONFIG GET maxmemory".into(),
        "FLUSHALL".into(),
        "SUBSCRIBE a".into(),
        "MULTI".into(),
    ] {
        assert!(is_denied(producer, &command).await, "{command}");
    }
}

#[tokio::test]
async fn the_documented_rights_of_dash_view_are_reads_and_those_of_dash_operate_an_operators() {
    let world = guarded().await;
    let view = &mut connection_of(&world, "dash-view").await;
    for command in [
        format!("RPUSH {} x", key("inbox")),
        format!("SET {} x", key("report:x")),
        format!("DEL {}", key("dead")),
        format!("ZADD {} 1 x", key("ready")),
        format!("HSET {} a b", key("meta")),
        format!("EXPIRE {} 1", key("meta")),
        format!("XADD {} * a b", key("events")),
        "EVAL return{} 0".into(),
        "GET other".into(),
        "KEYS *".into(),
        "CONFIG GET maxmemory".into(),
        "ACL LIST".into(),
        "FLUSHALL".into(),
        "PUBLISH a b".into(),
        "MONITOR".into(),
    ] {
        assert!(is_denied(view, &command).await, "{command}");
    }
    let queue = queue_of(&world, "dash-view").await;
    let refused = queue.operator.pause(&PauseName::default(), None, "me", "a look").await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    assert!(refused.to_string().contains("docs/deployers.md"), "{refused}");
    let [operator, dash] = ["operator", "dash-operate"].map(|user| {
        let line = RIGHTS.lines().find_map(|line| line.strip_prefix(&format!("user {user} "))).unwrap();
        line.to_owned()
    });
    assert_eq!(operator, dash);
}
