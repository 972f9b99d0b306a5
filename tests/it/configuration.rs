//! What is set wrongly is refused at the start, all at once, in words; and nothing secret is shown.

use std::collections::BTreeMap;

use crate::harness::{World, env_var_name, run};

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_their_source_and_exit_78() {
    let environment = settings(&[
        ("WM__SANDBOX__WAL", "7s"),
        ("WM__FETCH__TOTAL_TIMEOUT", "soon"),
        ("WM__POLICY__ATTEMPTS", "many"),
        ("ANALYSIS_REQUIRE_MEDIA_TYPE", "perhaps"),
    ]);
    let needles = ["did you mean sandbox.wall?", "fetch.total_timeout", "policy.attempts", "perhaps"];
    run(&["config", "check"], &environment, b"").await.exited_with(78).stderr_contains(&needles);
    let json = run(&["config", "check", "-o", "json"], &environment, b"").await.exited_with(78).json();
    assert_eq!(json["errors"].as_array().unwrap().len(), 4, "{json}");
    run(&["status"], &environment, b"").await.exited_with(78).stderr_contains(&needles);
    run(&["config", "check"], &BTreeMap::new(), b"").await.exited_with(0).stderr_contains(&["sound"]);
}

#[tokio::test]
async fn config_show_names_every_origin_and_hides_every_secret() {
    let environment = settings(&[
        ("REDIS_URL", "redis://user:hunter2@cache.test/0"),
        ("SENTRY_DSN", "https://hunter2@sentry.test/1"),
        ("WEB_MONITORING_DB_URL", "https://db.test"),
        ("WEB_MONITORING_DB_EMAIL", "a@db.test"),
        ("WEB_MONITORING_DB_PASSWORD", "hunter2"),
        ("WM__SANDBOX__WALL", "7s"),
    ]);
    let json = run(&["config", "show", "-o", "json"], &environment, b"").await.exited_with(0);
    assert!(!json.stdout.contains("hunter2"), "{}", json.stdout);
    let json = json.json();
    assert_eq!(json["sandbox.wall"]["origin"], "environment WM__SANDBOX__WALL");
    assert_eq!(json["sandbox.heap"]["origin"], "built-in default");
    assert!(json["queue.url"]["value"].as_str().unwrap().contains("***@cache.test"), "{json}");

    let text = run(&["config", "show", "--origin"], &environment, b"").await.exited_with(0);
    assert!(!text.stdout.contains("hunter2"), "{}", text.stdout);
    let shown = run(&["config", "show"], &environment, b"").await.exited_with(0).stdout;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shown.replace("\"[redacted]\"", "\"\"").replace("email = \"a@db.test\"", ""))
        .unwrap();
    let again = ["config", "check", "--config", file.path().to_str().unwrap()];
    run(&again, &BTreeMap::new(), b"").await.exited_with(0);
}

#[tokio::test]
async fn slots_that_do_not_fit_the_memory_are_refused_with_the_arithmetic() {
    let world = World::new().await;
    world.run(&["work", "--slots", "100000"]).await.exited_with(78).stderr_contains(&[
        "100000 x (",
        "address space",
        "buffers",
        "lower sandbox.slots or sandbox.heap",
    ]);
    let small = world.with("worker.memory_limit", "256 MiB");
    small.run(&["work"]).await.exited_with(78).stderr_contains(&["of 256.0 MiB"]);
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_exit_69_and_named_without_its_password() {
    let environment = settings(&[
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:1/0"),
        (&env_var_name("queue.connect_timeout"), "300ms"),
        (&env_var_name("queue.response_timeout"), "300ms"),
    ]);
    for args in [
        &["status"][..],
        &["queue", "pause", "--reason", "x"],
        &["queue", "resume"],
        &["dead", "ls"],
        &["dead", "discard", "--yes"],
        &["enqueue", "--to", "00000000-0000-4000-8000-000000000001"],
    ] {
        let ran =
            run(args, &environment, b"").await.exited_with(69).stderr_contains(&["Redis", "127.0.0.1:1"]);
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
}

#[tokio::test]
async fn work_waits_for_a_redis_that_is_not_there_yet() {
    let mut world = World::new().await;
    world.redis.kill();
    let mut worker = world.worker();
    worker.until_logged("working").await;
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(worker.get("/readyz").await.0, 503);
    tokio::task::spawn_blocking(move || {
        world.redis.restart().unwrap();
        world
    })
    .await
    .map(async |world| {
        worker.until_status("/readyz", 200).await;
        assert!(worker.is_running());
        drop(world);
    })
    .unwrap()
    .await;
}
