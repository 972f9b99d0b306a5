//! A Redis with a sentinel fails over under a worker that has its hands full.

use wm_analyzer::job::Job;
use wm_testbed::redis::PrivateRedis;
use wm_testbed::sentinel::start_with_sentinel;

use crate::harness::{GatedSite, World, job, until};

/// Waits until the replica has all that the master has: what is promised over a failover is what was replicated.
async fn until_replicated(master: &PrivateRedis) {
    let mut eye =
        redis::Client::open(master.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    // WAIT is about what the same connection saw written.
    let mut pipe = redis::pipe();
    pipe.cmd("PING").ignore().cmd("WAIT").arg(1).arg(400);
    until("the replica has it all", async || pipe.query_async::<(u64,)>(&mut eye).await.unwrap() == (1,))
        .await;
}

#[tokio::test]
async fn when_the_master_dies_the_worker_goes_on_with_the_new_one_and_every_job_is_reported_once() {
    let (mut master, replica, sentinel) = start_with_sentinel().await;
    let url = format!("redis+sentinel://127.0.0.1:{}/m", sentinel.port());
    let mut world = World::with_redis(replica, url).await;
    let gate = GatedSite::closed().await;
    // What it holds is at the gate, and all else waits.
    let worker = world.worker_with(&[("fetch.in_flight_max", "2")]);
    let before = world.pair("before", 4_000);
    world.send(std::slice::from_ref(&before)).await;
    world.until_event(&before.id, "done").await;
    let in_flight: Vec<Job> =
        (0..2).map(|n| job(&format!("held-{n}"), gate.url("/a"), world.page())).collect();
    world.send(&in_flight).await;
    gate.until_requested(2).await;
    let waits: Vec<Job> = (0..6).map(|n| world.pair(&format!("waits-{n}"), 4_000)).collect();
    world.send(&waits).await;
    until("all wait", async || world.queue.status().await.unwrap().ready == 6).await;
    until_replicated(&master).await;

    master.kill();
    worker.until_logged("Redis cannot be reached: jobs in flight continue, nothing is claimed").await;
    gate.open();
    worker.until_logged("the queue does not answer yet: asking again").await;
    until("all is done", async || {
        world.queue.status().await.is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0)
    })
    .await;
    // A replica that becomes the master drops whoever was connected; each handle has connections of its own.
    world.reconnect();
    until("every handle has found the new master", async || {
        world.queue.producer.status().await.is_ok() && world.queue.operator.status().await.is_ok()
    })
    .await;
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    world.until_event(&late.id, "done").await;

    for job in in_flight.iter().chain(&waits).chain([&before, &late]) {
        let mut job_events = world.job_events(&job.id).await;
        // One that was claimed before the new master had dropped all connections is put off before it is fetched.
        job_events.retain(|what| what != "postponed");
        assert_eq!(job_events, ["done"], "{}: nobody is blamed, nothing runs twice", job.id);
        assert!(world.report(job).await.is_some(), "{}", job.id);
    }
    assert_eq!(gate.requests(), 2, "each page was fetched once");
    for job in waits.iter().chain([&before, &late]) {
        assert_eq!(world.site.hits(&format!("/{}/from", job.id)), 1, "{}", job.id);
    }
    assert_eq!(world.dead().await, []);
    assert_eq!(world.keys("unique:*").await, [""; 0]);
    assert_eq!(world.sentry.fingerprints().len(), 1, "one alert: {:?}", world.sentry.fingerprints());
    worker.stop().await;
}
