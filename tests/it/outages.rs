//! Redis in trouble, and a worker that lives through it: what runs goes on, what it found is settled afterwards, once.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use wm_analyzer::job::Job;
use wm_testbed::redis::RedisOptions;
use wm_testbed::tcp_proxy::{TcpProxy, Upstream};

use crate::harness::{GatedSite, Worker, World, job, until};

/// The worst that full jitter allows in this time to five loops and three settling hands, and a good deal more.
const MAX_CONNECTION_ATTEMPTS_PER_SECOND: u64 = 60;

/// What a worker logs while it asks for a job whose bodies have come, or settles one that has ended.
const ASKS_AGAIN: &str = "the queue does not answer yet: asking again";
const SETTLES_AGAIN: &str = "not settled yet: trying again";

/// A worker with one job in flight that waits at the gate.
async fn worker_with_job_in_flight(world: &World, gate: &GatedSite) -> (Worker, Job) {
    let held = job("held", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&held)).await;
    let worker = world.worker();
    gate.until_requested(1).await;
    (worker, held)
}

#[tokio::test]
async fn a_cut_network_is_waited_out_without_haste_and_what_ran_meanwhile_is_settled_once() {
    let world = World::new().await;
    let proxy = TcpProxy::to(Upstream::Unix(world.redis.socket())).await;
    let world = world.with("queue.url", proxy.url());
    let gate = GatedSite::closed().await;
    let (mut worker, held) = worker_with_job_in_flight(&world, &gate).await;

    proxy.block();
    let (start, before) = (Instant::now(), proxy.connection_attempts());
    worker.until_logged("Redis cannot be reached: jobs in flight continue, nothing is claimed").await;
    gate.open();
    worker.until_logged(ASKS_AGAIN).await;
    until("a while has passed", async || start.elapsed() > Duration::from_secs(3)).await;
    let attempts = proxy.connection_attempts() - before;
    assert!(attempts >= 5, "it tries: {attempts}");
    assert!(
        attempts <= MAX_CONNECTION_ATTEMPTS_PER_SECOND * start.elapsed().as_secs(),
        "but does not spin: {attempts}"
    );
    assert!(worker.is_running());
    assert_eq!(world.job_events(&held.id).await, [""; 0], "its outcome is held");

    proxy.restore();
    world.until_event(&held.id, "done").await;
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    world.until_event(&late.id, "done").await;
    assert_eq!(world.job_events(&held.id).await, ["done"], "once, by the delivery that had it");
    assert_eq!(
        worker.log_lines("Redis cannot be reached: jobs in flight continue, nothing is claimed").len(),
        1
    );
    assert_eq!(gate.requests(), 1, "its page was fetched once");
    worker.stop().await;
}

#[tokio::test]
async fn a_redis_that_restarts_with_its_file_is_gone_on_with() {
    let mut world =
        World::with_redis_options(RedisOptions::default().persistent().set("appendfsync", "always")).await;
    let (worker, held, child) = world.worker_with_job_in_child().await;
    let waits: Vec<Job> = (0..4).map(|n| world.pair(&format!("waits-{n}"), 4_000)).collect();
    world.send(&waits).await;
    world.redis.kill();
    child.resume();
    worker.until_logged(SETTLES_AGAIN).await;
    world.redis.restart().unwrap();
    world.reconnect();
    for job in waits.iter().chain([&held]) {
        world.until_event(&job.id, "done").await;
        assert_eq!(
            world.job_events(&job.id).await,
            ["done"],
            "{}: nobody is blamed, nothing runs twice",
            job.id
        );
    }
    assert_eq!(world.sentry.fingerprints().len(), 1, "one alert: {:?}", world.sentry.fingerprints());
    worker.stop().await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_has_lost_its_jobs_and_is_worked_for_all_the_same() {
    let mut world = World::new().await;
    let gate = GatedSite::closed().await;
    let (mut worker, held) = worker_with_job_in_flight(&world, &gate).await;
    world.redis.restart().unwrap();
    world.reconnect();
    worker
        .until_logged("Redis has lost this queue: what waited there is gone (appendonly yes keeps it)")
        .await;
    gate.open();
    worker.until_logged("the lease was lost: nothing was written, another worker has this job").await;
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    world.until_event(&late.id, "done").await;
    assert_eq!(world.job_events(&held.id).await, [""; 0], "what Redis forgot is not written into it");
    assert!(worker.is_running());
    worker.stop().await;
    let lost = ["outage", "queue_lost"];
    let events: Vec<_> = world
        .sentry
        .events()
        .into_iter()
        .filter(|event| event["fingerprint"] == serde_json::json!(lost))
        .collect();
    assert_eq!(events.len(), 1, "{:#?}", world.sentry.events());
    assert_eq!(events[0]["level"], serde_json::Value::Null, "an error");
    let text = events[0]["message"].as_str().unwrap();
    assert!(text.starts_with("queue lost: Redis has lost this queue"), "{text}");
}

#[tokio::test]
async fn a_full_redis_takes_nothing_in_and_what_is_in_hand_is_settled() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    let (worker, held) = worker_with_job_in_flight(&world, &gate).await;
    world.send(&[world.pair("waits", 4_000)]).await;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    gate.open();
    world.until_event(&held.id, "done").await;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    until("both are done", async || world.queue.status().await.unwrap().backlog() == 0).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_server_that_may_not_write_now_is_waited_for() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    let (worker, held) = worker_with_job_in_flight(&world, &gate).await;
    // A replica of nobody: first READONLY, then, as it may not even answer, MASTERDOWN.
    for serves_stale in ["yes", "no"] {
        world.redis_cmd::<()>("CONFIG", &["SET", "replica-serve-stale-data", serves_stale]).await;
        world.redis_cmd::<()>("REPLICAOF", &["127.0.0.1", "1"]).await;
        let said = worker.log_lines(ASKS_AGAIN).len();
        gate.open();
        until("it was told to wait", async || worker.log_lines(ASKS_AGAIN).len() > said).await;
    }
    let told = worker.log_text();
    assert!(told.contains("ReadOnly") && told.contains("MasterDown"), "{told}");
    world.redis_cmd::<()>("REPLICAOF", &["NO", "ONE"]).await;
    world.until_event(&held.id, "done").await;
    assert_eq!(world.job_events(&held.id).await, ["done"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_leaves_by_its_deadline_though_redis_is_away() {
    let mut world = World::new().await.with("sandbox.wall", "500ms").with("worker.drain", "600ms");
    let gate = GatedSite::closed().await;
    let (mut worker, _held) = worker_with_job_in_flight(&world, &gate).await;
    world.redis.kill();
    gate.open();
    worker.until_logged(ASKS_AGAIN).await;
    let start = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_redis_lost_while_draining_holds_nobody_up_and_its_job_is_run_again_without_blame() {
    let world =
        World::with_redis_options(RedisOptions::default().persistent().set("appendfsync", "always")).await;
    let mut world =
        world.with("sandbox.wall", "500ms").with("worker.drain", "600ms").with("queue.lease", "2s");
    let (mut worker, held, _child) = world.worker_with_job_in_child().await;
    worker.signal(Signal::TERM);
    worker.until_logged("draining").await;
    world.redis.kill();
    let start = Instant::now();
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());

    world.redis.restart().unwrap();
    world.reconnect();
    let _next = world.worker_with(&[("sandbox.wall", "10s"), ("worker.drain", "30s")]);
    world.until_event(&held.id, "done").await;
    assert_eq!(world.dead().await, []);
}
