//! What an alert's reader gets: one clear alert instead of a flood, with all that is needed and no secret.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use wm_analyzer::job::Job;
use wm_testbed::fake_sentry::ResponseMode;
use wm_testbed::peers::{is_available, run};
use wm_testbed::redis::RedisOptions;
use wm_testbed::site::Resource;

use crate::harness::{GatedSite, Worker, World, job, job_by_uuid, key, until};

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
    world
        .run(&["status"])
        .await
        .exited_with(0)
        .stdout_contains(&["dead ls kind:gone host:127.0.0.1 -Q bulk"]);
    for (args, undo) in [
        (&["queue", "drain"][..], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "pause", "--reason", "why"], "Undo: wm-analyzer queue resume -Q bulk"),
        (&["queue", "resume"], "Undo: wm-analyzer queue pause --reason ... -Q bulk"),
        (&["dead", "replay", "gone", "--yes"], "wm-analyzer queue pause --reason ... -Q bulk"),
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
    discarded.stderr_contains(&["Undo: wm-analyzer enqueue FILE -Q bulk"]);
}

/// Ends workers at once and waits until they have left.
async fn leave(mut workers: Vec<Worker>) {
    workers.iter().for_each(|worker| worker.signal(Signal::TERM));
    for worker in &mut workers {
        assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    }
}

fn count(event: &Value) -> u64 {
    event["extra"]["count"].as_u64().unwrap()
}

#[tokio::test]
async fn thirty_dead_letters_of_a_kind_at_two_workers_are_one_alert_at_once_and_one_that_stands_for_the_rest()
{
    let world = World::new().await;
    let workers = vec![world.worker(), world.worker()];
    world.send(&[job_by_uuid("first")]).await;
    until("an alert", async || world.sentry.alerts() == 1).await;
    let jobs: Vec<Job> = (0..29).map(|n| job_by_uuid(&format!("burst-{n}"))).collect();
    world.send(&jobs).await;
    world.until_dead_letters(30).await;
    until("metrics know", async || workers[0].metric("alerts_pending").await == 29.0).await;
    assert_eq!(world.sentry.alerts(), 1, "the others wait for the end of the window");

    leave(workers).await;
    let events = world.sentry.events();
    assert_eq!(events.iter().map(count).collect::<Vec<_>>(), [1, 29]);
    let last = text(&events[1]);
    for needle in [
        "29 dead letters: bad_reference in resolve",
        "stands for 29 dead letters of the last",
        "list them: wm-analyzer dead ls kind:bad_reference since:30m",
        "replay them: wm-analyzer dead replay kind:bad_reference since:30m",
    ] {
        assert!(last.contains(needle), "{needle:?} is not in:\n{last}");
    }
}

#[tokio::test]
async fn when_the_worker_that_reports_is_killed_another_one_reports_the_same_event() {
    let world = World::new().await.with("sentry.check_ins", "false");
    world.sentry.set(ResponseMode::Hang);
    let mut workers = vec![world.worker(), world.worker()];
    for worker in &workers {
        worker.until_logged("working").await;
    }
    world.send(&[job_by_uuid("first")]).await;
    until("Sentry has been asked", async || world.sentry.requests() == 1).await;
    let by: String = world.redis_cmd("HGET", &[key("alerts:claimed"), "by".to_owned()]).await;
    let status = world.queue.status().await.unwrap();
    let reporter = status.workers.iter().find(|worker| worker.info.id.as_str() == by).unwrap().info.pid;
    let killed = workers.iter().position(|worker| worker.pid() == reporter).unwrap();
    let mut reporter = workers.remove(killed);
    reporter.signal(Signal::KILL);
    reporter.wait_for_exit().await;
    world.send(&[job_by_uuid("second")]).await;
    world.until_dead_letters(2).await;
    world.sentry.set(ResponseMode::Accept);
    until("the other one reports", async || world.sentry.alerts() == 1).await;
    leave(workers).await;
    let events = world.sentry.events();
    let told: u64 = events.iter().map(count).sum();
    // The entry of a killed worker lives on for a minute: the other one is not the last, and leaves the second to it.
    assert_eq!((events.len() as u64, told), (told, told), "{events:#?}");
    let sent = world.sentry.raw().matches(events[0]["event_id"].as_str().unwrap()).count();
    assert_eq!(sent, 2, "by the dead one and by the living, as one event");
}

#[tokio::test]
async fn a_worker_leaves_by_the_deadline_of_its_alerts_though_sentry_hangs_and_leaves_them_to_the_next() {
    const DEADLINE: Duration = Duration::from_secs(4);
    let world = World::new().await.with("sentry.shutdown", "4s").with("sentry.check_ins", "false");
    world.sentry.set(ResponseMode::Hang);
    let worker = world.worker();
    worker.until_logged("working").await;
    world.send(&[job_by_uuid("unknown")]).await;
    until("Sentry has been asked", async || world.sentry.requests() == 1).await;
    let start = Instant::now();
    leave(vec![worker]).await;
    assert!(start.elapsed() < 2 * DEADLINE, "it took {:?}", start.elapsed());
    assert_eq!(world.sentry.alerts(), 0);
    world.sentry.set(ResponseMode::Accept);
    let next = world.worker();
    until("the next one reports it", async || world.sentry.alerts() == 1).await;
    leave(vec![next]).await;
    assert_eq!(world.sentry.events().iter().map(count).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_flood_at_four_workers_is_a_few_alerts_whose_counts_add_up() {
    flood(600).await;
}

#[tokio::test]
#[ignore = "minutes of it: the same with ten thousand jobs"]
async fn a_flood_of_ten_thousand_jobs_at_four_workers_is_a_few_alerts_whose_counts_add_up() {
    flood(10_000).await;
}

/// Three tenths of the jobs die, of three kinds.
async fn flood(jobs: usize) {
    let world = World::with_default_settings().await;
    let workers: Vec<Worker> = (0..4).map(|_| world.worker()).collect();
    let gone = world.site.put("/gone", Resource::Status(404));
    let mut dead = BTreeMap::new();
    let mut payloads = Vec::new();
    for n in 0..jobs {
        let kind = match n % 10 {
            0 => Some("gone"),
            1 => Some("bad_reference"),
            2 => Some("decode"),
            _ => None,
        };
        *dead.entry(kind.unwrap_or("none")).or_insert(0) += 1;
        payloads.push(match kind {
            Some("gone") => job(&format!("gone-{n}"), gone.clone(), gone.clone()).encode(),
            Some("bad_reference") => job_by_uuid(&format!("unknown-{n}")).encode(),
            Some(_) => format!("no job {n}").into_bytes(),
            None => world.pair(&format!("pair-{n}"), 300).encode(),
        });
    }
    dead.remove("none");
    for batch in payloads.chunks(500) {
        world.push(&batch.iter().map(|payload| &payload[..]).collect::<Vec<_>>()).await;
    }
    let deadline = Instant::now() + Duration::from_secs(60 + jobs as u64 / 10);
    loop {
        let status = world.queue.status().await.unwrap();
        if status.inbox + status.backlog() + status.in_flight == 0 {
            assert_eq!(status.dead, dead.values().sum::<u64>());
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    leave(workers).await;

    let events = world.sentry.events();
    let texts: Vec<_> = events.iter().map(text).collect();
    assert!(events.len() <= 8, "{jobs} jobs, {} events:\n{}", events.len(), texts.join("\n\n"));
    assert_eq!(events.iter().map(count).sum::<u64>(), dead.values().sum::<u64>());
    let mut reported = BTreeMap::new();
    for event in &events {
        let kinds: Vec<(&str, u64)> = match event["fingerprint"][0].as_str().unwrap() {
            "dead-letter" => vec![(event["fingerprint"][1].as_str().unwrap(), count(event))],
            _ => {
                let lines = text(event).lines().filter_map(|line| line.split_once(" × "));
                lines.map(|(n, kind)| (kind.split(' ').next().unwrap(), n.parse().unwrap())).collect()
            }
        };
        kinds.into_iter().for_each(|(kind, count)| *reported.entry(kind).or_insert(0) += count);
    }
    assert_eq!(reported, dead, "by kind");
    let storm = |words: &str| texts.iter().filter(|text| text.starts_with(words)).count();
    // Where all of them died between two looks, each kind is an event.
    let storms = [storm("dead letter storm: "), storm("dead letter storm over")];
    assert!(storms == [1, 1] || storms == [0, 0], "{storms:?}: {texts:?}");
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

#[tokio::test]
async fn upkeep_and_progress_are_checked_in_at_once_and_of_a_queue_that_stands_still_only_upkeep() {
    const MONITORS: [&str; 2] = ["wm-upkeep-analysis", "wm-progress-analysis"];
    let world = World::with_default_settings().await;
    let workers = vec![world.worker(), world.worker()];
    until("both monitors were checked in", async || world.sentry.check_ins().len() >= 2).await;
    assert_eq!(world.sentry.check_ins(), MONITORS, "by one of two workers");
    leave(workers).await;

    // What is sent waits and is not settled: the worker that has it stands still.
    let world = World::with_default_settings().await.with("fetch.in_flight_max", "1");
    let gate = GatedSite::closed().await;
    world.send(&[job("held", gate.url("/a"), world.page()), world.pair("waits", 4_000)]).await;
    until("both are there", async || world.queue.status().await.unwrap().inbox == 2).await;
    let worker = world.worker();
    until("upkeep was checked in", async || !world.sentry.check_ins().is_empty()).await;
    gate.until_requested(1).await;
    leave(vec![worker]).await;
    assert_eq!(world.sentry.check_ins(), MONITORS[..1]);
}

/// What Sentry's own normaliser finds wrong with events: a list for each that is not as Sentry wants it.
const NORMALISER: &str = r#"
import json, sys
from sentry_relay.processing import StoreNormalizer
wrong = []
for event in json.load(sys.stdin):
    normal = StoreNormalizer().normalize_event(dict(event))
    kept = [normal.get("level"), normal.get("fingerprint"), normal.get("logentry", {}).get("formatted")]
    sent = [event.get("level", "error"), event["fingerprint"], event["message"]]
    if normal.get("errors") or kept != sent or normal.get("_meta"):
        wrong.append([normal.get("errors"), normal.get("_meta"), kept, sent])
print(json.dumps(wrong))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentrys_own_normaliser_takes_every_kind_of_event_as_it_is() {
    let world = World::new().await.with("sentry.window", "1s").with("queue.dead_max_count", "100");
    let mut world = world.with("queue.lease", "5s");
    let titles =
        |world: &World| world.sentry.events().iter().map(|event| text(event).to_owned()).collect::<Vec<_>>();
    let until_told = async |world: &World, title: &str| {
        until(title, async || titles(world).iter().any(|told| told.starts_with(title))).await;
    };
    let worker = world.worker();
    worker.until_logged("working").await;
    let mut gone = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    gone.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    world.send(&[gone]).await;
    until_told(&world, "dead letter: gone in fetch at 127.0.0.1").await;
    world.send(&(0..90).map(|n| job_by_uuid(&format!("unknown-{n}"))).collect::<Vec<_>>()).await;
    until_told(&world, "dead letter storm: ").await;
    until_told(&world, "outage: the dead letters near their cap").await;
    until_told(&world, "dead letter storm over").await;
    let group = key("alerts:group:outage:dead_letters");
    world.redis_cmd::<()>("HSET", &[&group, "remind_ms", "1"]).await;
    world.redis_cmd::<()>("ZADD", &[&key("alerts:due"), "1", "outage:dead_letters"]).await;
    until_told(&world, "outage goes on: the dead letters near their cap").await;
    world.run(&["dead", "discard", "--yes"]).await.exited_with(0);
    until_told(&world, "resolved: there is room for dead letters again").await;
    world.redis.kill();
    until_told(&world, "outage: Redis is down").await;
    tokio::task::block_in_place(|| world.redis.restart()).unwrap();
    until_told(&world, "queue lost: Redis has lost this queue").await;
    until_told(&world, "resolved: Redis answers again").await;
    worker.stop().await;

    assert_eq!(world.sentry.violations(), Vec::<String>::new());
    if !is_available("python3", &["-c", "import sentry_relay"]) {
        return;
    }
    let events = serde_json::to_string(&world.sentry.events()).unwrap();
    let wrong = run(Command::new("python3").args(["-c", NORMALISER]), &events);
    assert_eq!(wrong.trim(), "[]");
}

#[tokio::test]
async fn an_event_that_is_refused_is_sent_shorter_is_given_up_at_last_and_holds_back_no_other() {
    let world = World::new().await.with("sentry.window", "1s");
    let gone = |id: &str| world.bodies(id, Resource::Status(404), Resource::Status(404));
    // The context of the example is in the whole event alone.
    world.sentry.set(ResponseMode::Refuse("\"show\":", 413));
    let worker = world.worker();
    world.send(&[gone("large")]).await;
    until("it is told without its evidence", async || world.sentry.alerts() == 1).await;
    let event = world.sentry.events().remove(0);
    assert!(text(&event).contains("dead letter: gone in fetch at 127.0.0.1"), "{event}");
    assert!(text(&event).contains("replay them: wm-analyzer dead replay"), "{event}");
    assert_eq!((&event["tags"]["kind"], &event["contexts"]["job"]), (&"gone".into(), &Value::Null));

    world.sentry.set(ResponseMode::Refuse("gone in fetch", 400));
    world.send(&[gone("poison")]).await;
    until("it is refused", async || {
        let refusals = [key("alerts:claimed"), "refusals".to_owned()];
        world.redis_cmd::<Option<u32>>("HGET", &refusals).await.is_some()
    })
    .await;
    world.send(&[job_by_uuid("behind")]).await;
    until("the one behind it is told", async || {
        world.sentry.fingerprints().iter().any(|parts| parts.contains(&"bad_reference".to_owned()))
    })
    .await;
    assert_eq!(world.sentry.fingerprints()[1], ["alert-refused"]);
    let line = worker.until_logged("an alert was given up: it is refused however it is sent").await;
    assert_eq!(line["level"], "WARN", "{line}");
    until("it is counted", async || worker.metric("alerts_given_up_total").await == 1.0).await;
    until("nothing is pending", async || worker.metric("alerts_pending").await == 0.0).await;
}

#[tokio::test]
async fn a_sentry_that_rejects_all_loses_no_alert_and_is_told_by_one_log_line_and_by_status() {
    let world = World::new().await.with("sentry.window", "1s");
    world.sentry.set(ResponseMode::Status(403));
    let worker = world.worker();
    world.send(&[job_by_uuid("kept")]).await;
    let line = worker.until_logged("Sentry rejects all alerts: wm-analyzer sentry test tells why").await;
    assert_eq!(line["level"], "ERROR", "{line}");
    let told = ["Sentry rejects all alerts (HTTP 403", "wm-analyzer sentry test"];
    until("status says so", async || {
        let status = world.run(&["status"]).await;
        told.iter().all(|text| format!("{}{}", status.stdout, status.stderr).contains(text))
    })
    .await;
    until("metrics say so", async || worker.metric("alerts_rejected").await == 1.0).await;
    world.sentry.set(ResponseMode::Accept);
    until("it is told", async || world.sentry.alerts() == 1).await;
    assert_eq!(world.sentry.fingerprints()[0][0], "dead-letter");
    until("status is calm", async || world.queue.status().await.unwrap().alerts_rejected.is_none()).await;
    assert_eq!(worker.metric("alerts_given_up_total").await, 0.0);
}
