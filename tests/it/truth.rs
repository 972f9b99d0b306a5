//! What `status`, `doctor`, health pages and alerts say is so: what waits, who is silent, what is wrong.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use time::OffsetDateTime;
use wm_analyzer::job::{Job, JobId, Priority};

use crate::harness::{CommandOutput, GatedSite, Worker, World, job, key, until};

/// One heartbeat a second, and the least lease that goes with `status` between two of its steps.
const QUICK: [(&str, &str); 2] = [("worker.heartbeat", "1s"), ("queue.lease", "10s")];

async fn now_ms(world: &World) -> u64 {
    let (seconds, micros): (u64, u64) = world.redis_cmd("TIME", &[""; 0]).await;
    seconds * 1000 + micros / 1000
}

async fn status(world: &World) -> Value {
    world.run(&["status", "-o", "json"]).await.json()
}

/// OLDEST is the time since then, to the millisecond.
async fn oldest_is_since(world: &World, since_ms: u64) {
    let before = now_ms(world).await - since_ms;
    let json = status(world).await;
    let after = now_ms(world).await - since_ms;
    let oldest = json["oldest_ready_ms"].as_u64().unwrap_or_else(|| panic!("{json:#}"));
    assert!((before..=after).contains(&oldest), "{oldest} is not in {before}..={after}");
}

async fn admitted_ms(world: &World, id: &JobId) -> u64 {
    until("it is admitted", async || world.field(id, "enqueued_ms").await.is_some()).await;
    world.field(id, "enqueued_ms").await.unwrap().parse().unwrap()
}

/// The alerts about one thing so far.
fn alerts(world: &World, what: &str) -> usize {
    world.sentry.fingerprints().iter().filter(|print| print[..] == ["outage", what]).count()
}

#[tokio::test]
async fn oldest_is_a_low_job_behind_high_ones_that_keep_coming() {
    let world = World::new().await.with("fetch.in_flight_max", "1");
    let gate = GatedSite::closed().await;
    let _worker = world.worker();
    world.send(&[job("held", gate.url("/a"), world.page())]).await;
    gate.until_requested(1).await;
    let low = Job { priority: Priority::Low, ..world.pair("low", 4_000) };
    world.send(std::slice::from_ref(&low)).await;
    let since = admitted_ms(&world, &low.id).await;
    for n in 0..4 {
        let high = Job { priority: Priority::High, ..world.pair(&format!("high-{n}"), 4_000) };
        world.send(std::slice::from_ref(&high)).await;
        admitted_ms(&world, &high.id).await;
        oldest_is_since(&world, since).await;
    }
    gate.open();
    world.until_event(&low.id, "done").await;
    until("nothing waits", async || status(&world).await["oldest_ready_ms"].is_null()).await;
}

#[tokio::test]
async fn oldest_is_a_job_that_waits_for_its_host() {
    let world = World::new().await.with("queue.host_in_flight_max", "1");
    let gate = GatedSite::closed().await;
    let _worker = world.worker();
    world.send(&[job("held", gate.url("/a"), gate.url("/b"))]).await;
    gate.until_requested(1).await;
    let waits = job("waits", gate.url("/a"), gate.url("/b"));
    world.send(std::slice::from_ref(&waits)).await;
    until("it waits for its host", async || world.field(&waits.id, "waits_for_host").await.is_some()).await;
    oldest_is_since(&world, admitted_ms(&world, &waits.id).await).await;
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["1 of 1 in flight, 1 wait"]);
    gate.open();
    world.until_event(&waits.id, "done").await;
}

#[tokio::test]
async fn oldest_is_a_payload_that_the_backlog_keeps_out() {
    let world = World::new().await.with("queue.backlog_max", "1");
    let worker = world.worker();
    worker.until_logged("working").await;
    let later = Some(OffsetDateTime::now_utc() + Duration::from_secs(3_600));
    let later = Job { run_at: later, ..world.pair("later", 4_000) };
    world.send(std::slice::from_ref(&later)).await;
    until("it fills the backlog", async || world.field(&later.id, "state").await.is_some()).await;
    assert_eq!(status(&world).await["oldest_ready_ms"], Value::Null, "it is not due");
    world.send(&[world.pair("outside", 4_000)]).await;
    let since =
        async || world.redis_cmd::<Option<u64>>("HGET", &[key("meta"), "inbox_since_ms".to_owned()]).await;
    until("it is seen", async || since().await.is_some()).await;
    oldest_is_since(&world, since().await.unwrap()).await;
    assert_eq!(status(&world).await["inbox"], 1);
}

#[tokio::test]
async fn a_stopped_worker_is_silent_after_two_heartbeats_and_its_job_is_followed() {
    let mut world = World::new().await;
    for (name, value) in QUICK {
        world = world.with(name, value);
    }
    let gate = GatedSite::closed().await;
    let victim = world.worker();
    let held = job("held", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&held)).await;
    gate.until_requested(1).await;
    until("it is shown", async || status(&world).await["workers"][0]["in_flight"][0]["id"] == "held").await;
    let start = Instant::now();
    victim.signal(Signal::STOP);
    until("it is silent", async || status(&world).await["workers"][0]["silent"] == true).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} after its last heartbeat but one");
    let shown = world.run(&["status"]).await;
    shown.stdout_contains(&["SILENT", "  held  still leased to it"]);

    let other = world.worker();
    gate.until_requested(2).await;
    let worker = world.field(&held.id, "worker").await.unwrap();
    let place = format!("  held  in flight at {worker}");
    let shown = world.run(&["status"]).await.exited_with(0);
    shown.stdout_contains(&["SILENT", &place]);
    gate.open();
    world.until_event(&held.id, "done").await;
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["SILENT", "  held  ended"]);
    other.stop().await;
}

/// A queue whose only worker gets this signal, with a job that waits.
async fn is_stalled_after(signal: Signal) {
    let mut world = World::new().await;
    for (name, value) in QUICK {
        world = world.with(name, value);
    }
    let worker = world.worker();
    until("it lives", async || status(&world).await["workers"][0]["silent"] == false).await;
    world.run(&["status"]).await.exited_with(0);
    let start = Instant::now();
    worker.signal(signal);
    world.send(&[world.pair("waits", 4_000)]).await;
    until("it is stalled", async || status(&world).await["stalled"].is_string()).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} with a heartbeat of 1 s");
    let shown = world.run(&["status"]).await.exited_with(1);
    shown.stderr_contains(&["STALLED 1 jobs wait and all 1 workers are silent: see wm-analyzer doctor"]);
    world.run(&["doctor"]).await.exited_with(1).stdout_contains(&["all 1 workers are silent"]);
}

#[tokio::test]
async fn a_queue_whose_only_worker_is_silent_is_stalled_within_two_heartbeats() {
    is_stalled_after(Signal::STOP).await;
}

#[tokio::test]
async fn a_queue_whose_only_worker_was_killed_is_stalled_within_two_heartbeats() {
    is_stalled_after(Signal::KILL).await;
}

#[tokio::test]
async fn a_drain_ends_well_when_nothing_runs_and_fails_when_its_pause_is_lifted_meanwhile() {
    let world = World::new().await;
    world.run(&["queue", "drain"]).await.exited_with(0).stderr_contains(&["drained after", "nothing runs"]);
    world.run(&["queue", "resume"]).await.exited_with(0);
    let gate = GatedSite::closed().await;
    let _worker = world.worker();
    world.send(&[job("held", gate.url("/a"), world.page())]).await;
    gate.until_requested(1).await;
    let resume = async {
        until("it is paused", async || status(&world).await["paused"].is_object()).await;
        world.run(&["queue", "resume"]).await.exited_with(0)
    };
    let (drained, _) = tokio::join!(world.run(&["queue", "drain"]), resume);
    drained.exited_with(1).stderr_contains(&[
        "the pause default was lifted while this waited: 1 in flight, and jobs are claimed again",
    ]);
}

#[tokio::test]
async fn of_two_pauses_each_is_lifted_by_its_name() {
    let world = World::new().await;
    let pause = async |name, reason| {
        world.run(&["queue", "pause", "--name", name, "--reason", reason]).await.exited_with(0)
    };
    pause("archive", "archive is down").await;
    pause("deploy", "new build").await.stderr_contains(&["Undo: wm-analyzer queue resume deploy"]);
    let refused = world.run(&["queue", "resume"]).await.exited_with(1);
    refused.stderr_contains(&[
        "name the one to lift",
        "archive (by ",
        "archive is down",
        "deploy (by ",
        "new build",
    ]);
    assert_eq!(status(&world).await["pauses"].as_array().unwrap().len(), 2, "nothing changed");
    world
        .run(&["queue", "resume", "other"])
        .await
        .exited_with(3)
        .stderr_contains(&["no pause has this name"]);

    let lifted = world.run(&["queue", "resume", "archive"]).await.exited_with(0);
    lifted.stderr_contains(&["lifted the pause archive", "still paused: deploy (by "]);
    let shown = world.run(&["status"]).await.exited_with(0).stdout_contains(&["as deploy by", "new build"]);
    assert!(!shown.stdout.contains("archive"), "{shown:?}");
    world.run(&["queue", "resume"]).await.exited_with(0).stderr_contains(&["lifted the pause deploy"]);
    assert_eq!(status(&world).await["paused"], Value::Null);
}

#[tokio::test]
async fn a_queue_whose_name_was_mistyped_is_not_shown_as_an_empty_one() {
    let world = World::new().await;
    for args in [
        &["status", "-Q", "typo"][..],
        &["queue", "pause", "--reason", "why", "-Q", "typo"],
        &["dead", "ls", "-Q", "typo"],
    ] {
        world.run(args).await.exited_with(3).stderr_contains(&["there is no queue", "typo"]);
    }
    assert_eq!(world.redis_cmd::<Vec<String>>("KEYS", "*").await, [""; 0]);
}

#[tokio::test]
async fn status_counts_the_last_hour_and_the_last_day() {
    let world = World::new().await;
    let _worker = world.worker();
    let job = world.pair("pair", 4_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    // What was done two hours ago is of the day, not of the hour.
    let earlier = key(&format!("stats:{}", now_ms(&world).await / 300_000 - 24));
    world.redis_cmd::<u64>("HSET", &[&earlier, "done", "5"]).await;
    let json = status(&world).await;
    assert_eq!((&json["last_hour"]["done"], &json["last_day"]["done"]), (&1.into(), &6.into()));
    world.run(&["status"]).await.exited_with(0).stdout_contains(&["1h ", "24h "]);
}

/// All that is said of one trouble while it lasts, and that it is over once it is mended.
async fn is_told_and_ends(world: &World, worker: &Worker, says: &str, mend: impl AsyncFnOnce()) {
    until("an alert", async || alerts(world, "redis_health") == 1).await;
    until("a metric", async || worker.metric("redis_problems").await >= 1.0).await;
    let shown = |output: &CommandOutput| output.stdout.contains(says) || output.stderr.contains(says);
    let seen = world.run(&["status"]).await.exited_with(1);
    assert!(shown(&seen) && seen.stdout.contains("READY"), "{says:?} is not in {seen:#?}");
    let seen = world.run(&["doctor"]).await.exited_with(1);
    assert!(shown(&seen) && seen.stdout.contains("FAIL"), "{says:?} is not in {seen:#?}");
    let told = worker.log_lines("Redis is not well").len();
    assert_eq!(alerts(world, "redis_health"), 1, "{:?}", world.sentry.events());
    assert!(
        (1..=2).contains(&told),
        "once, and once more where a look knows it better: {}",
        worker.log_text()
    );
    assert_eq!(alerts(world, "redis"), 0, "{:?}", world.sentry.events());
    assert!(!worker.log_text().contains("cannot be reached"), "{}", worker.log_text());

    mend().await;
    worker.until_logged("Redis is well again").await;
    until("no problem", async || worker.metric("redis_problems").await == 0.0).await;
    worker.until_status("/readyz", 200).await;
    until("all is well", async || world.run(&["status"]).await.code == Some(0)).await;
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    world.until_event(&late.id, "done").await;
    assert_eq!(alerts(world, "redis_health"), 1, "until it leaves, when the end is told");
}

/// One key of the queue becomes a STRING, with a job in flight.
async fn survives_a_string_at(name: &str, kind: &str) {
    let world = World::new().await.with("queue.lease", "3s").with("worker.heartbeat", "200ms");
    let gate = GatedSite::closed().await;
    let worker = world.worker();
    let held = job("held", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&held)).await;
    gate.until_requested(1).await;
    until("it looks", async || status(&world).await["looker"].is_string()).await;
    world.redis_cmd::<()>("SET", &[key(name), "x".to_owned()]).await;
    let lease = async || world.redis_cmd::<Option<u64>>("ZSCORE", &[key("lease"), "held".to_owned()]).await;
    let first = lease().await.unwrap();
    until("two leases more", async || lease().await.unwrap() > first + 6_000).await;
    let state = world.run(&["status"]).await.stdout.lines().next().unwrap().to_owned();
    assert_eq!(state.contains("running"), name != "paused", "nothing is claimed then: {state}");
    let doctor = world.run(&["doctor"]).await.exited_with(1);
    doctor.stdout_contains(&[&format!("key {} is a string and should be a {kind}", key(name))]);
    is_told_and_ends(&world, &worker, &key(name), async || {
        world.redis_cmd::<u64>("DEL", key(name)).await;
    })
    .await;
    gate.open();
    world.until_event(&held.id, "done").await;
    assert_eq!(world.field(&held.id, "token").await, None);
    worker.stop().await;
    assert_eq!(alerts(&world, "redis_health"), 2, "and its end");
}

macro_rules! a_string_at {
    ($($test:ident: $name:literal, $kind:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            survives_a_string_at($name, $kind).await;
        }
    )*};
}

a_string_at! {
    a_string_at_inbox_is_named_and_survived: "inbox", "list";
    a_string_at_paused_is_named_and_survived: "paused", "hash";
    a_string_at_workers_is_named_and_survived: "workers", "zset";
    a_string_at_events_is_named_and_survived: "events", "stream";
    a_string_at_ready_is_named_and_survived: "ready", "zset";
}

/// A setting of the live server that makes it unwell.
async fn is_told_of(setting: &str, bad: &str, good: &str, says: &str, refuses: bool) {
    let world = World::new().await;
    let worker = world.worker();
    worker.until_status("/readyz", 200).await;
    until("all is well", async || worker.metric("redis_writable").await == 1.0).await;
    let set = async |value| world.redis_cmd::<()>("CONFIG", &["SET", setting, value]).await;
    set(bad).await;
    if refuses {
        let body = worker.until_status("/readyz", 503).await;
        assert!(body.contains("refuses writes"), "{body}");
        until("a metric", async || worker.metric("redis_writable").await == 0.0).await;
        assert_eq!(worker.metric("redis_up").await, 1.0, "it answers");
    }
    is_told_and_ends(&world, &worker, says, async || set(good).await).await;
    assert_eq!(worker.metric("redis_writable").await, 1.0);
    worker.stop().await;
    assert_eq!(alerts(&world, "redis_health"), 2, "and its end");
}

#[tokio::test]
async fn a_redis_that_begins_to_evict_is_told() {
    is_told_of("maxmemory-policy", "allkeys-lru", "noeviction", "allkeys-lru", false).await;
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_told_and_is_not_called_unreachable() {
    is_told_of("min-replicas-to-write", "1", "0", "NOREPLICAS", true).await;
}

#[tokio::test]
async fn a_redis_at_maxmemory_is_told() {
    is_told_of("maxmemory", "1", "0", "maxmemory", true).await;
}

#[tokio::test]
async fn while_writes_are_refused_nobody_takes_an_older_look_for_the_truth() {
    let world = World::new().await.with("worker.upkeep_every", "1s");
    let workers = [world.worker(), world.worker()];
    for worker in &workers {
        until("it knows a look", async || worker.metric("redis_writable").await == 1.0).await;
    }
    // A look that its successor cannot replace.
    world.redis_cmd::<()>("CONFIG", &["SET", "min-replicas-to-write", "1"]).await;
    for worker in &workers {
        worker.until_status("/readyz", 503).await;
    }
    let start = Instant::now();
    until("a looker's turn is over", async || {
        for worker in &workers {
            let (status, body) = worker.get("/readyz").await;
            assert_eq!(status, 503, "{body}");
        }
        start.elapsed() > Duration::from_secs(9)
    })
    .await;
    world.redis_cmd::<()>("CONFIG", &["SET", "min-replicas-to-write", "0"]).await;
    for worker in &workers {
        worker.until_status("/readyz", 200).await;
        assert_eq!(worker.log_lines("Redis is well again").len(), 1, "{}", worker.log_text());
        assert!(!worker.log_text().contains("cannot be reached"), "{}", worker.log_text());
    }
}
