//! The settings of a queue are the queue's: stored once, shown, changed by an operator, obeyed by all.

use std::collections::BTreeMap;

use serde_json::Value;
use wm_analyzer::job::Job;
use wm_analyzer::queue::Setting;

use crate::harness::{Worker, World, job_by_uuid, key, until};

const OTHERWISE: [(&str, &str); 1] = [("queue.dead_max_count", "20")];

async fn bury(world: &World, count: usize) {
    let gone: Vec<Job> = (0..count).map(|n| job_by_uuid(&format!("gone-{n}"))).collect();
    world.send(&gone).await;
    world.until_dead_letters(count).await;
}

/// Waits until this worker is the looker and has looked several times.
async fn has_looked(world: &World, worker: &Worker) {
    until("it looks", async || {
        let status = world.queue.status().await.unwrap();
        let looks = |id: &str| status.looker.as_deref() == Some(id);
        status.workers.iter().any(|seen| seen.info.pid == worker.pid() && looks(seen.info.id.as_str()))
    })
    .await;
    let tick = async || -> u64 { world.redis_cmd("HGET", &[key("meta"), "tick_ms".to_owned()]).await };
    let mut last = tick().await;
    for _ in 0..3 {
        until("it looks again", async || tick().await > last).await;
        last = tick().await;
    }
}

/// Who did what, in order.
async fn audit(world: &World) -> Vec<BTreeMap<String, String>> {
    let entries: Vec<(String, BTreeMap<String, String>)> =
        world.redis_cmd("XRANGE", &[key("audit"), "-".to_owned(), "+".to_owned()]).await;
    entries.into_iter().map(|(_, fields)| fields).collect()
}

#[tokio::test]
async fn a_worker_that_is_configured_otherwise_says_so_once_and_obeys_the_queue() {
    let world = World::new().await;
    let first = world.worker();
    bury(&world, 50).await;
    let second = world.worker_with(&OTHERWISE);
    let said = "the queue's own settings hold, not this worker's configuration: \
                dead_max_count is 100000 (configured 20)";
    until("it says so", async || second.log_text().contains(said)).await;
    first.stop().await;
    // More than its own cap, while it alone looks after the queue.
    world.send(&[job_by_uuid("one-more")]).await;
    world.until_dead_letters(51).await;
    has_looked(&world, &second).await;
    assert_eq!(world.dead().await.len(), 51, "no letter goes by one worker's configuration");
    assert_eq!(second.log_text().matches("own settings hold").count(), 1);
    let shown = world.run_with(&OTHERWISE, &["queue", "settings"]).await.exited_with(0);
    let line = shown.stdout.lines().find(|line| line.contains("dead_max_count ")).unwrap();
    assert!(line.contains("100000") && line.contains("this configuration: 20"), "{line}");
    second.stop().await;
}

#[tokio::test]
async fn queue_set_changes_a_setting_for_all_and_is_remembered_with_who_did_it() {
    let world = World::new().await;
    let worker = world.worker();
    bury(&world, 50).await;
    let set = world.run(&["queue", "set", "dead_max_count=20"]).await.exited_with(0);
    set.stderr_contains(&[
        "dead_max_count is 20 now (was 100000)",
        "Undo: wm-analyzer queue set dead_max_count=\"100000\"",
    ]);
    until("the oldest are gone", async || world.dead().await.len() == 20).await;
    let entries = audit(&world).await;
    let entry = entries.last().unwrap();
    assert_eq!((entry["what"].as_str(), entry["why"].as_str()), ("set", "dead_max_count=20"));
    assert!(!entry["by"].is_empty(), "{entry:?}");
    world
        .run(&["queue", "set", "dead_max_count=20"])
        .await
        .exited_with(0)
        .stderr_contains(&["nothing changed"]);

    for (given, needles) in [
        ("nonsense=1", &["nonsense", "dead_max_count"][..]),
        ("crashes_max=0", &["crashes_max", "at least 1"]),
        ("dead_max_age=soon", &["dead_max_age", "90s"]),
        ("reports_max_bytes=much", &["reports_max_bytes", "256 MiB"]),
        ("reports_when_full=auto", &["reports_when_full", "evict or wait"]),
        ("dead_max_count", &["dead_max_count", "="]),
    ] {
        world.run(&["queue", "set", given]).await.exited_with(2).stderr_contains(needles);
    }
    let json = world.run(&["queue", "set", "dead_max_age=1day", "events_max=500", "-o", "json"]).await;
    let json = json.exited_with(0).json();
    assert_eq!(
        json["set"],
        serde_json::json!([
            { "setting": "dead_max_age", "before": "90d", "value": "1d" },
            { "setting": "events_max", "before": "10000", "value": "500" },
        ]),
        "{json}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn what_queue_set_says_to_type_undoes_it() {
    let world = World::new().await;
    let _worker = world.worker();
    until("the worker has stored them", async || !world.keys("meta").await.is_empty()).await;
    let before = world.run(&["queue", "settings"]).await.exited_with(0).stdout;
    let changes = ["dead_max_bytes=1 MiB", "report_ttl=12h", "backlog_max=7", "reports_when_full=evict"];
    let mut said = world.run(&[&["queue", "set"], &changes[..]].concat()).await.exited_with(0).stderr;
    said.retain(|c| c != '"');
    let undo: Vec<&str> =
        said.lines().filter_map(|line| Some(line.split_once("Undo: wm-analyzer queue set ")?.1)).collect();
    assert_eq!(undo.len(), 4, "{said}");
    assert_ne!(world.run(&["queue", "settings"]).await.stdout, before);
    world.run(&[&["queue", "set"], &undo[..]].concat()).await.exited_with(0);
    assert_eq!(world.run(&["queue", "settings"]).await.stdout, before);
}

#[tokio::test]
async fn a_deploy_stores_all_settings_as_it_is_configured() {
    let world = World::new().await;
    let fresh = world.run(&["queue", "settings"]).await.exited_with(0);
    assert!(fresh.stdout.lines().skip(1).all(|line| line.contains("not stored yet")), "{fresh:?}");
    let worker = world.worker();
    until("the worker has stored them", async || {
        let shown = world.run(&["queue", "settings", "-o", "json"]).await.exited_with(0).json();
        shown["settings"].as_array().unwrap().iter().all(|setting| setting["stored"] == true)
    })
    .await;
    let deploy = [("queue.dead_max_count", "20"), ("queue.backlog_max", "500")];
    let args = ["queue", "set", "--from-config"];
    let set = world.run_with(&deploy, &args).await.exited_with(0);
    set.stderr_contains(&["dead_max_count is 20 now (was 100000)", "backlog_max is 500 now (was 100000)"]);
    let json: Value =
        world.run_with(&deploy, &["queue", "settings", "-o", "json"]).await.exited_with(0).json();
    let settings = json["settings"].as_array().unwrap();
    assert_eq!(settings.len(), Setting::ALL.len());
    for setting in settings {
        assert_eq!((&setting["stored"], &setting["configured"]), (&true.into(), &Value::Null), "{setting}");
    }
    let named = |name: &str| settings.iter().find(|one| one["setting"] == name).unwrap()["value"].clone();
    assert_eq!((named("dead_max_count"), named("backlog_max")), ("20".into(), "500".into()));
    assert_eq!(world.run(&["status", "-o", "json"]).await.json()["backlog_max"], 500);
    world.run_with(&deploy, &args).await.exited_with(0).stderr_contains(&["nothing changed"]);
    world.run(&["queue", "set", "--from-config", "backlog_max=1"]).await.exited_with(2);
    world.run(&["queue", "set"]).await.exited_with(2);
    worker.stop().await;
}

#[tokio::test]
async fn commands_on_a_fresh_redis_store_no_setting() {
    let world = World::new().await.with("queue.dead_max_count", "20");
    world.run(&["status"]).await.exited_with(0);
    world.run(&["doctor"]).await.exited_with(0);
    world.run(&["dead", "ls"]).await;
    assert_eq!(world.redis_cmd::<Vec<String>>("KEYS", "*").await, [""; 0], "who only looks writes nothing");
    world.run_with_stdin(&["enqueue", "-"], world.pair("pair", 4_000).encode()).await.exited_with(0);
    world.run(&["status"]).await.exited_with(1);
    let fields: Vec<String> = world.redis_cmd("HKEYS", key("meta")).await;
    let seeded: Vec<_> =
        Setting::ALL.iter().filter(|one| fields.contains(&one.as_str().to_owned())).collect();
    assert!(seeded.is_empty() && !fields.contains(&"schema".to_owned()), "{fields:?}");
    // So the first worker's configuration is what is stored, not a command's.
    let _worker = world.worker_with(&[("queue.dead_max_count", "30")]);
    until("a worker has stored it", async || {
        world.redis_cmd::<Option<u64>>("HGET", &[key("meta"), "dead_max_count".to_owned()]).await == Some(30)
    })
    .await;
}
