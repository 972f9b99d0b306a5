//! What a running worker says of itself: alive, ready, and its numbers.

use wm_analyzer::telemetry::metrics::CATALOGUE;

use crate::harness::{World, until};

#[tokio::test]
async fn the_metrics_are_openmetrics_and_every_one_of_the_catalogue_is_there() {
    let world = World::new().await;
    let worker = world.worker();
    let job = world.pair("pair", 10_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    until("it is counted", async || worker.metric("jobs_total{outcome=\"done\"}").await == 1.0).await;
    let text = worker.get("/metrics").await.1;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for entry in CATALOGUE {
        let family = format!("# TYPE wm_analyzer_{} {}\n", entry.name, entry.kind.as_str());
        assert!(text.contains(&family), "{family:?} is not in:\n{text}");
        let sample = text.lines().find(|line| line.starts_with(&entry.sample()));
        let sample = sample.unwrap_or_else(|| panic!("no sample of {}", entry.name));
        assert!(sample.contains("queue=\"analysis\""), "{sample}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("wm_analyzer_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(worker.metric("redis_up").await, 1.0);
    assert_eq!(worker.metric("child_wall_seconds_count").await, 1.0);
    assert!(worker.metric("fetched_bytes_total").await >= 20_000.0);
    until("the slots are counted", async || worker.metric("worker_slots{state=\"free\"}").await == 2.0).await;
    assert!(worker.metric("isolation").await >= 1.0, "at least one isolation layer is in force");
}

#[tokio::test]
async fn livez_answers_while_redis_is_down_and_readyz_does_not() {
    let mut world = World::new().await;
    let worker = world.worker();
    worker.until_status("/readyz", 200).await;
    world.redis.kill();
    assert!(worker.until_status("/readyz", 503).await.contains("Redis does not answer"));
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.metric("redis_up").await, 0.0);
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_and_what_runs_goes_on() {
    let world =
        World::new().await.with("queue.response_timeout", "500ms").with("queue.connect_timeout", "500ms");
    let worker = world.worker();
    worker.until_status("/readyz", 200).await;
    world.redis.freeze();
    worker.until_status("/readyz", 503).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    world.redis.thaw();
    worker.until_status("/readyz", 200).await;
    let job = world.pair("pair", 5_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
}

#[tokio::test]
async fn health_asks_the_worker_and_ends_as_it_answers() {
    let mut world = World::new().await;
    world.run(&["health", "--live"]).await.exited_with(1).stderr_contains(&["no answer from"]);
    let worker = world.worker();
    let address = worker.address().await.to_string();
    worker.until_status("/readyz", 200).await;
    world = world.with("web.bind", address);
    world.run(&["health", "--live"]).await.exited_with(0).stdout_contains(&["ok: alive"]);
    world.run(&["health", "--ready"]).await.exited_with(0).stdout_contains(&["ok: claiming"]);
    worker.signal(rustix::process::Signal::TSTP);
    worker.until_status("/readyz", 503).await;
    world.run(&["health", "--ready"]).await.exited_with(1).stderr_contains(&["quiet"]);
    world.run(&["health", "--live"]).await.exited_with(0);
    world.run(&["health"]).await.exited_with(2);
}

#[tokio::test]
async fn a_worker_without_isolation_layers_says_which_are_missing() {
    let world = World::new().await;
    let worker = world.worker_with(&[("sandbox.isolation", "reduced")]);
    let line = worker
        .until_logged("isolation layers are missing: the kernel or sandbox.isolation does without them")
        .await;
    assert!(line["missing"].as_str().unwrap().contains("seccomp"), "{line}");
}
