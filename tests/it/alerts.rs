//! What an alert's reader gets: one clear alert instead of a flood, with all that is needed and no secret.

use rustix::process::Signal;
use serde_json::Value;
use wm_analyzer::job::Job;
use wm_testbed::redis::Options;
use wm_testbed::site::Resource;

use crate::harness::{World, by_uuid, job, until};

fn text(event: &Value) -> &str {
    event["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_dead_letter_is_one_alert_with_what_its_reader_needs() {
    let world = World::new().await;
    let job = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    let _worker = world.worker();
    world.send(std::slice::from_ref(&job)).await;
    until("an alert", async || world.ingest.alerts() == 1).await;
    assert_eq!(world.ingest.fingerprints(), [["dead-letter", "gone", "fetch"]]);
    let event = world.ingest.events().remove(0);
    let (from, to) = (job.from.given().unwrap().uuid(), job.to.uuid());
    for needle in [
        "gone in fetch at 127.0.0.1",
        &format!("from {from} to {to}"),
        "404",
        "show it: wm-analyzer dead show gone",
    ] {
        assert!(text(&event).contains(needle), "{needle:?} is not in:\n{}", text(&event));
    }
    world.run(&["dead", "show", "gone"]).await.ended(0);
}

#[tokio::test]
async fn a_command_that_is_told_names_the_queue_where_it_is_not_the_usual_one() {
    let world = World::new().await;
    let job = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    let world = world.with("queue.name", "bulk");
    world.feed(&["enqueue", "-"], job.encode()).await.ended(0);
    world.run(&["status"]).await.ended(1).told(&["start one with wm-analyzer work -Q bulk"]);
    let _worker = world.worker();
    until("an alert", async || world.ingest.alerts() == 1).await;
    let event = world.ingest.events().remove(0);
    assert!(text(&event).contains("show it: wm-analyzer dead show gone -Q bulk"), "{}", text(&event));
    world.run(&["status"]).await.ended(0).told(&["wm-analyzer dead ls --kind gone -Q bulk"]);
    for (args, undo) in [
        (&["queue", "drain"][..], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "pause", "--reason", "why"], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "resume"], "Undo: wm-analyzer queue pause --reason ... -Q bulk"),
        (&["dead", "replay", "gone", "--yes"], "to stop them: wm-analyzer queue pause --reason ... -Q bulk"),
    ] {
        world.run(args).await.ended(0).told(&[undo]);
    }
    until("it died again", async || world.run(&["dead", "show", "gone"]).await.code == Some(0)).await;
    // Typed as it is told, where nothing else names the queue.
    let world = world.with("queue.name", "analysis");
    world.run(&["dead", "show", "gone", "-Q", "bulk"]).await.ended(0);
    world.run(&["dead", "show", "gone"]).await.ended(3);
    let discarded = world.run(&["dead", "discard", "gone", "-Q", "bulk", "--yes"]).await.ended(0);
    discarded.told(&["undo with wm-analyzer enqueue FILE -Q bulk"]);
}

#[tokio::test]
async fn thirty_dead_letters_of_a_kind_are_one_alert_at_once_and_one_that_stands_for_the_rest() {
    let world = World::new().await;
    let jobs: Vec<Job> = (0..30).map(|n| by_uuid(&format!("burst-{n}"))).collect();
    let mut worker = world.worker();
    worker.until_said("working").await;
    world.send(&jobs).await;
    world.until_dead(30).await;
    until("an alert", async || world.ingest.alerts() == 1).await;
    until("metrics know", async || worker.number("alerts_suppressed_total").await == 29.0).await;
    assert_eq!(world.ingest.alerts(), 1, "the others wait for the end of the window");

    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    let events = world.ingest.events();
    let counts: Vec<u64> = events.iter().map(|event| event["extra"]["count"].as_u64().unwrap()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (2, 30), "{counts:?}");
    assert!(
        text(&events[1]).contains(&format!("stands for {} dead letters", counts[1])),
        "{}",
        text(&events[1])
    );
    assert_eq!(worker.said("stopped")[0]["alerts_untold"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_outage_of_redis_is_one_alert_however_often_it_is_noticed() {
    let mut world = World::new().await.with("log.filter", "debug");
    let mut worker = world.worker();
    worker.until_status("/readyz", 200).await;
    world.redis.kill();
    until("an alert", async || world.ingest.alerts() == 1).await;
    until("it was noticed often", async || worker.said("Redis still cannot be reached").len() >= 20).await;
    assert_eq!(world.ingest.alerts(), 1, "at most one a minute");
    assert_eq!(world.ingest.fingerprints(), [["trouble", "redis"]]);
    assert!(text(&world.ingest.events()[0]).starts_with("trouble: Redis is down"));
    assert_eq!(worker.said("Redis cannot be reached: what runs goes on, nothing new is claimed").len(), 1);
    assert!(worker.runs());

    tokio::task::block_in_place(|| world.redis.restart()).unwrap();
    worker.until_status("/readyz", 200).await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    let events = world.ingest.events();
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(text(&events[1]).starts_with("over: Redis answers again"), "{}", text(&events[1]));
}

#[tokio::test]
async fn no_secret_reaches_an_alert_a_log_line_or_a_terminal() {
    let mut world = World::on(Options::default().tcp()).await;
    let _: () = world.ask("CONFIG", &["SET", "requirepass", "hunter2"]).await;
    let url = world.redis.url().replace("redis://", "redis://:hunter2@");
    world = world.with("queue.url", &url).with("log.filter", "trace");
    let mut worker = world.worker();
    worker.until_status("/readyz", 200).await;
    let gone = job("gone", world.site.url("/status/404?token=hunter2"), world.page());
    world.send(&[gone]).await;
    until("an alert", async || world.ingest.alerts() == 1).await;
    world.redis.kill();
    until("another", async || world.ingest.alerts() == 2).await;
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
    assert_eq!(worker.ended().await.code(), Some(0));
    for (place, text) in
        [("alerts", format!("{:?}", world.ingest.events())), ("logs", worker.text()), ("terminal", said)]
    {
        assert!(text.len() > 100 && !text.contains("hunter2"), "{place}: {text}");
    }
}

/// What was told of one trouble so far, in order.
fn told(world: &World, what: &str) -> Vec<Value> {
    let events = world.ingest.events().into_iter();
    events.filter(|event| event["fingerprint"] == serde_json::json!(["trouble", what])).collect()
}

#[tokio::test]
async fn dead_letters_near_their_cap_are_one_alert_and_those_forgotten_are_counted_and_shown() {
    let world = World::new().await.with("queue.dead_max_count", "5");
    let mut worker = world.worker();
    let gone: Vec<Job> = (0..9).map(|n| by_uuid(&format!("gone-{n}"))).collect();
    world.send(&gone[..3]).await;
    world.until_dead(3).await;
    until("it is seen", async || worker.number("queue_dead_filled_ratio").await == 0.6).await;
    world.send(&gone[3..4]).await;
    until("an alert", async || told(&world, "dead_letters").len() == 1).await;
    let first = told(&world, "dead_letters").remove(0);
    assert!(text(&first).starts_with("trouble: the dead letters near their cap"), "{}", text(&first));
    assert!(text(&first).contains("4 letters of 5"), "{}", text(&first));
    assert_eq!(worker.number("dead_letters_evicted_total{cap=\"count\"}").await, 0.0);
    world.run(&["status"]).await.ended(0).told(&["at 80 % of their cap, 0 were forgotten today"]);

    world.send(&gone[4..]).await;
    until("four are forgotten", async || {
        worker.number("dead_letters_evicted_total{cap=\"count\"}").await == 4.0
    })
    .await;
    until("five are left", async || world.dead().await.len() == 5).await;
    until("it is seen", async || worker.number("queue_dead_filled_ratio").await == 1.0).await;
    let status = world.run(&["status"]).await.ended(0);
    let status = status.told(&["at 100 % of their cap, 4 were forgotten today"]).shows(&["evicted 4"]);
    assert!(!status.err.contains("ceiling"), "{status:?}");

    world.run(&["dead", "discard", "--yes"]).await.ended(0);
    until("there is room", async || worker.number("queue_dead_filled_ratio").await == 0.0).await;
    worker.until_said("there is room again").await;
    assert_eq!(told(&world, "dead_letters").len(), 1, "once, however long it stayed so");
    assert_eq!(worker.said("nearly no room left").len(), 1, "not with every look");
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    let all = told(&world, "dead_letters");
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(text(&all[1]).starts_with("over: there is room for dead letters again"), "{}", text(&all[1]));
    assert_eq!(told(&world, "backlog"), [Value::Null; 0]);
}

#[tokio::test]
async fn dead_letters_near_their_cap_of_bytes_are_an_alert_too() {
    let world = World::new().await;
    let _worker = world.worker();
    world.send(&[by_uuid("gone-0")]).await;
    world.until_dead(1).await;
    let bytes = world.queue.status().await.unwrap().dead_bytes;
    // The next is of the same size, or nearly.
    let tight = world.worker_with(&[("queue.dead_max_bytes", &format!("{}", bytes * 9 / 4))]);
    tight.until_said("working").await;
    world.send(&[by_uuid("gone-1")]).await;
    until("an alert", async || told(&world, "dead_letters").len() == 1).await;
    assert_eq!(world.dead().await.len(), 2, "before anything is forgotten");
}

#[tokio::test]
async fn a_backlog_at_its_ceiling_is_one_alert_nothing_is_let_in_and_it_ends_when_there_is_room() {
    let world = World::new().await.with("queue.backlog_max", "10");
    world.run(&["queue", "pause", "--reason", "to fill it"]).await.ended(0);
    let mut worker = world.worker();
    let jobs: Vec<Job> = (0..14).map(|n| world.pair(&format!("pair-{n}"), 4_000)).collect();
    world.send(&jobs[..9]).await;
    until("nine are in", async || worker.number("queue_backlog_filled_ratio").await == 0.9).await;
    world.send(&jobs[9..12]).await;
    until("an alert", async || told(&world, "backlog").len() == 1).await;
    let first = told(&world, "backlog").remove(0);
    assert!(text(&first).contains("nothing is let in"), "{}", text(&first));
    assert!(text(&first).contains("10 jobs wait of 10"), "{}", text(&first));
    assert_eq!(worker.number("queue_backlog_filled_ratio").await, 1.0);
    world.send(&jobs[12..]).await;
    until("it looks again, and four wait outside", async || worker.number("queue_inbox").await == 4.0).await;
    assert_eq!(worker.said("nearly no room left").len(), 1, "not with every look");

    world.run(&["queue", "resume"]).await.ended(0);
    for job in &jobs {
        world.until_it_is(&job.id, "done").await;
    }
    worker.until_said("there is room again").await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    let all = told(&world, "backlog");
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(text(&all[1]).starts_with("over: there is room in the backlog again"), "{}", text(&all[1]));
}
