//! What an alert's reader gets: one clear alert instead of a flood, with all that is needed and no secret.

use rustix::process::Signal;
use serde_json::Value;
use wm_analyzer::job::Job;
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;

use crate::harness::{World, job, job_by_uuid, until};

fn text(event: &Value) -> &str {
    event["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_dead_letter_is_one_alert_with_what_its_reader_needs() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let world = World::new().await;
    let mut job = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    job.traceparent = Some(format!("00-{TRACE}-b7ad6b7169203331-01"));
    let worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    until("an alert", async || world.sentry.alerts() == 1).await;
    assert_eq!(world.sentry.fingerprints(), [["dead-letter", "gone", "fetch"]]);
    let event = world.sentry.events().remove(0);
    assert_eq!(event["contexts"]["trace"]["trace_id"], TRACE, "{event}");
    let line = worker.until_logged("dead letter").await;
    assert!(line["spans"].to_string().contains(TRACE), "{line}");
    let (from, to) = (job.from.given().unwrap().uuid(), job.to.uuid());
    for needle in [
        "gone in fetch at 127.0.0.1",
        &format!("from {from} to {to}"),
        "404",
        "show it: wm-analyzer dead show gone",
    ] {
        assert!(text(&event).contains(needle), "{needle:?} is not in:\n{}", text(&event));
    }
    world.run(&["dead", "show", "gone"]).await.exited_with(0);
}

#[tokio::test]
async fn a_command_that_is_told_names_the_queue_where_it_is_not_the_usual_one() {
    let world = World::new().await;
    let job = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    let world = world.with("queue.name", "bulk");
    world.run_with_stdin(&["enqueue", "-"], job.encode()).await.exited_with(0);
    world.run(&["status"]).await.exited_with(1).stderr_contains(&["start one with wm-analyzer work -Q bulk"]);
    let _worker = world.worker();
    until("an alert", async || world.sentry.alerts() == 1).await;
    let event = world.sentry.events().remove(0);
    assert!(text(&event).contains("show it: wm-analyzer dead show gone -Q bulk"), "{}", text(&event));
    world.run(&["status"]).await.exited_with(0).stderr_contains(&["wm-analyzer dead ls kind:gone -Q bulk"]);
    for (args, undo) in [
        (&["queue", "drain"][..], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "pause", "--reason", "why"], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "resume"], "Undo: wm-analyzer queue pause --reason ... -Q bulk"),
        (&["dead", "replay", "gone", "--yes"], "to stop them: wm-analyzer queue pause --reason ... -Q bulk"),
    ] {
        world.run(args).await.exited_with(0).stderr_contains(&[undo]);
    }
    until("it died again", async || world.run(&["dead", "show", "gone"]).await.code == Some(0)).await;
    // Typed as it is told, where nothing else names the queue.
    let world = world.with("queue.name", "analysis");
    world.run(&["dead", "show", "gone", "-Q", "bulk"]).await.exited_with(0);
    world.run(&["dead", "show", "gone"]).await.exited_with(3);
    let discarded =
        world.run(&["dead", "discard", "gone", "-Q", "bulk", "--now", "--yes"]).await.exited_with(0);
    discarded.stderr_contains(&["undo with wm-analyzer enqueue FILE -Q bulk"]);
}

#[tokio::test]
async fn thirty_dead_letters_of_a_kind_are_one_alert_at_once_and_one_that_stands_for_the_rest() {
    let world = World::new().await;
    let jobs: Vec<Job> = (0..30).map(|n| job_by_uuid(&format!("burst-{n}"))).collect();
    let mut worker = world.worker();
    worker.until_logged("working").await;
    world.send(&jobs).await;
    world.until_dead_letters(30).await;
    until("an alert", async || world.sentry.alerts() == 1).await;
    until("metrics know", async || worker.metric("alerts_suppressed_total").await == 29.0).await;
    assert_eq!(world.sentry.alerts(), 1, "the others wait for the end of the window");

    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    let events = world.sentry.events();
    let counts: Vec<u64> = events.iter().map(|event| event["extra"]["count"].as_u64().unwrap()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (2, 30), "{counts:?}");
    assert!(
        text(&events[1]).contains(&format!("stands for {} dead letters", counts[1])),
        "{}",
        text(&events[1])
    );
    assert_eq!(worker.log_lines("stopped")[0]["alerts_pending"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_of_redis_is_one_alert_however_often_it_is_noticed() {
    let mut world = World::new().await.with("log.filter", "debug");
    let mut worker = world.worker();
    worker.until_status("/readyz", 200).await;
    world.redis.kill();
    until("an alert", async || world.sentry.alerts() == 1).await;
    until("it was noticed often", async || worker.log_lines("Redis still cannot be reached").len() >= 20)
        .await;
    assert_eq!(world.sentry.alerts(), 1, "at most one a minute");
    assert_eq!(world.sentry.fingerprints(), [["outage", "redis"]]);
    assert!(text(&world.sentry.events()[0]).starts_with("outage: Redis is down"));
    assert_eq!(
        worker.log_lines("Redis cannot be reached: jobs in flight continue, nothing is claimed").len(),
        1
    );
    assert!(worker.is_running());

    tokio::task::block_in_place(|| world.redis.restart()).unwrap();
    worker.until_status("/readyz", 200).await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    let events = world.sentry.events();
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(text(&events[1]).starts_with("resolved: Redis answers again"), "{}", text(&events[1]));
}

#[tokio::test]
async fn no_secret_reaches_an_alert_a_log_line_or_a_terminal() {
    let mut world = World::with_redis_options(RedisOptions::default().tcp()).await;
    let _: () = world.redis_cmd("CONFIG", &["SET", "requirepass", "hunter2"]).await;
    let url = world.redis.url().replace("redis://", "redis://:hunter2@");
    world = world.with("queue.url", &url).with("log.filter", "trace");
    let mut worker = world.worker();
    worker.until_status("/readyz", 200).await;
    let gone = job("gone", world.site.url("/status/404?token=hunter2"), world.page());
    world.send(&[gone]).await;
    until("an alert", async || world.sentry.alerts() == 1).await;
    world.redis.kill();
    until("another", async || world.sentry.alerts() == 2).await;
    let mut said = String::new();
    for args in [
        &["status"][..],
        &["doctor"],
        &["config", "show"],
        &["config", "show", "-o", "json"],
        &["enqueue", "-"],
    ] {
        let ran = world.run(args).await;
        said.push_str(&format!("{ran:?}"));
    }
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    for (place, text) in
        [("alerts", format!("{:?}", world.sentry.events())), ("logs", worker.log_text()), ("terminal", said)]
    {
        assert!(text.len() > 100 && !text.contains("hunter2"), "{place}: {text}");
    }
}

/// What was told of one trouble so far, in order.
fn outage_alerts(world: &World, what: &str) -> Vec<Value> {
    let events = world.sentry.events().into_iter();
    events.filter(|event| event["fingerprint"] == serde_json::json!(["outage", what])).collect()
}

#[tokio::test]
async fn dead_letters_near_their_cap_are_one_alert_and_those_forgotten_are_counted_and_shown() {
    let world = World::new().await.with("queue.dead_max_count", "5");
    let mut worker = world.worker();
    let gone: Vec<Job> = (0..9).map(|n| job_by_uuid(&format!("gone-{n}"))).collect();
    world.send(&gone[..3]).await;
    world.until_dead_letters(3).await;
    until("it is seen", async || worker.metric("queue_dead_filled_ratio").await == 0.6).await;
    world.send(&gone[3..4]).await;
    until("an alert", async || outage_alerts(&world, "dead_letters").len() == 1).await;
    let first = outage_alerts(&world, "dead_letters").remove(0);
    assert!(text(&first).starts_with("outage: the dead letters near their cap"), "{}", text(&first));
    assert!(text(&first).contains("4 letters of 5"), "{}", text(&first));
    assert_eq!(worker.metric("dead_letters_evicted_total{cap=\"count\"}").await, 0.0);
    world
        .run(&["status"])
        .await
        .exited_with(0)
        .stderr_contains(&["at 80 % of their cap, 0 were evicted in the last 24 h"]);

    world.send(&gone[4..]).await;
    until("four are forgotten", async || {
        worker.metric("dead_letters_evicted_total{cap=\"count\"}").await == 4.0
    })
    .await;
    until("five are left", async || world.dead().await.len() == 5).await;
    until("it is seen", async || worker.metric("queue_dead_filled_ratio").await == 1.0).await;
    let status = world.run(&["status"]).await.exited_with(0);
    let status = status
        .stderr_contains(&["at 100 % of their cap, 4 were evicted in the last 24 h"])
        .stdout_contains(&["evicted 4"]);
    assert!(!status.stderr.contains("ceiling"), "{status:?}");

    assert_eq!(outage_alerts(&world, "dead_letters").len(), 1, "once, however long it stayed so");
    assert_eq!(worker.log_lines("nearly no room left").len(), 1, "not with every look");

    world.run(&["dead", "discard", "--yes"]).await.exited_with(0);
    until("there is room", async || worker.metric("queue_dead_filled_ratio").await == 0.0).await;
    worker.until_logged("there is room again").await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    let all = outage_alerts(&world, "dead_letters");
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(text(&all[1]).starts_with("resolved: there is room for dead letters again"), "{}", text(&all[1]));
    assert_eq!(outage_alerts(&world, "backlog"), [Value::Null; 0]);
}

#[tokio::test]
async fn dead_letters_near_their_cap_of_bytes_are_an_alert_too() {
    let world = World::new().await;
    let _worker = world.worker();
    world.send(&[job_by_uuid("gone-0")]).await;
    world.until_dead_letters(1).await;
    let bytes = world.queue.status().await.unwrap().dead_bytes;
    // The next is of the same size, or nearly.
    let tight = format!("dead_max_bytes={}B", bytes * 9 / 4);
    world.run(&["queue", "set", &tight]).await.exited_with(0).stderr_contains(&["was 256.0 MiB"]);
    world.send(&[job_by_uuid("gone-1")]).await;
    until("an alert", async || outage_alerts(&world, "dead_letters").len() == 1).await;
    assert_eq!(world.dead().await.len(), 2, "before anything is forgotten");
}

#[tokio::test]
async fn a_backlog_at_its_ceiling_is_one_alert_nothing_is_let_in_and_it_ends_when_there_is_room() {
    let world = World::new().await.with("queue.backlog_max", "10");
    world.run(&["queue", "pause", "--reason", "to fill it"]).await.exited_with(0);
    let mut worker = world.worker();
    let jobs: Vec<Job> = (0..14).map(|n| world.pair(&format!("pair-{n}"), 4_000)).collect();
    world.send(&jobs[..9]).await;
    until("nine are in", async || worker.metric("queue_backlog_filled_ratio").await == 0.9).await;
    world.send(&jobs[9..12]).await;
    until("an alert", async || outage_alerts(&world, "backlog").len() == 1).await;
    let first = outage_alerts(&world, "backlog").remove(0);
    assert!(text(&first).contains("nothing more is admitted"), "{}", text(&first));
    assert!(text(&first).contains("10 jobs wait of 10"), "{}", text(&first));
    assert_eq!(worker.metric("queue_backlog_filled_ratio").await, 1.0);
    world.send(&jobs[12..]).await;
    until("it looks again, and four wait outside", async || worker.metric("queue_inbox").await == 4.0).await;
    assert_eq!(worker.log_lines("nearly no room left").len(), 1, "not with every look");

    world.run(&["queue", "resume"]).await.exited_with(0);
    for job in &jobs {
        world.until_event(&job.id, "done").await;
    }
    worker.until_logged("there is room again").await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    let all = outage_alerts(&world, "backlog");
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(text(&all[1]).starts_with("resolved: there is room in the backlog again"), "{}", text(&all[1]));
}
