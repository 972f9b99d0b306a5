//! `check`: what a monitoring system reads, and by which exit code.

use std::process::Command;

use wm_testbed::peers;
use wm_testbed::site::Resource;

use crate::harness::{World, job_by_uuid, until};

#[tokio::test]
async fn a_queue_that_works_is_ok_and_a_limit_that_is_passed_is_a_warning() {
    let world = World::new().await;
    let worker = world.worker();
    until("its worker is seen", async || world.run(&["check"]).await.code == Some(0)).await;
    let ok = world.run(&["check"]).await.exited_with(0).stdout;
    let want = "OK analysis: 0 ready, oldest 0 s, 0 dead, workers alive 1 \
                | analysis_ready=0 analysis_age=0s;900 analysis_dead=0;50 analysis_workers=1;;1:\n";
    assert_eq!(ok, want);

    let gone = world.bodies("gone", Resource::Status(404), Resource::Status(404));
    world.send(std::slice::from_ref(&gone)).await;
    world.until_dead_letters(1).await;
    world.run(&["check", "--max-dead", "1"]).await.exited_with(0);
    let dead = world.run(&["check", "--max-dead", "0"]).await.exited_with(1);
    dead.stdout_contains(&["WARNING analysis: 1 dead > 0 | ", " analysis_dead=1;0 "]);
    let few = world.run(&["check", "--min-workers", "2"]).await.exited_with(2);
    few.stdout_contains(&["CRITICAL analysis: workers alive 1 < 2 | ", " analysis_workers=1;;2:"]);
    worker.stop().await;
}

#[tokio::test]
async fn jobs_that_nobody_works_on_are_critical_and_a_pause_is_not() {
    let world = World::new().await;
    world.send(&[job_by_uuid("waits")]).await;
    let critical = world.run(&["check", "-o", "json"]).await.exited_with(2).json();
    assert_eq!(
        (critical["state"].as_str(), critical["queue"].as_str()),
        (Some("critical"), Some("analysis"))
    );
    assert_eq!(critical["findings"][0]["check"], "stalled", "{critical}");
    assert_eq!(critical["numbers"]["workers"], 0, "{critical}");

    let old = ["check", "--max-age", "0s", "--min-workers", "0"];
    world.run(&["queue", "pause", "--reason", "S3 | is down"]).await.exited_with(0);
    let paused = world.run(&old).await.exited_with(1);
    paused.stdout_contains(&["WARNING analysis: paused ", ": S3 / is down | "]);
    world.run(&["check", "--min-workers", "0"]).await.exited_with(0);
}

#[tokio::test]
async fn a_redis_that_is_away_or_hangs_and_a_queue_that_nobody_knows_are_unknown() {
    let mut world = World::new().await;
    let typo = world.run(&["check", "-Q", "typo"]).await.exited_with(3);
    typo.stdout_contains(&["UNKNOWN typo: there is no such queue"]);
    let quick = [("queue.connect_timeout", "300ms"), ("queue.response_timeout", "300ms")];
    world.redis.freeze();
    world.run_with(&quick, &["check"]).await.exited_with(3).stdout_contains(&["UNKNOWN analysis: "]);
    // However long the others may wait for Redis, an answer comes before the caller gives up.
    let patient = [("queue.connect_timeout", "1m"), ("queue.response_timeout", "1m")];
    let late = world.run_with(&patient, &["check", "--format", "json"]).await.exited_with(3).json();
    assert!(late["findings"][0]["message"].as_str().unwrap().contains("no answer within 8s"), "{late}");
    world.redis.thaw();
    world.redis.kill();
    let json = world.run_with(&quick, &["check", "-o", "json"]).await.exited_with(3).json();
    assert_eq!((&json["state"], &json["numbers"]), (&"unknown".into(), &serde_json::Value::Null));
    let text = world.run_with(&quick, &["check", "--format", "prometheus"]).await.exited_with(3).stdout;
    assert!(text.ends_with("wm_check_state{queue=\"analysis\"} 3\n"), "{text}");
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_critical_by_name() {
    let world = World::new().await;
    let _: () = world.redis_cmd("CONFIG", &["SET", "maxmemory", "1mb"]).await;
    let full = world.run(&["check", "--min-workers", "0"]).await.exited_with(2);
    full.stdout_contains(&["CRITICAL analysis: Redis is at maxmemory and refuses writes"]);
}

#[tokio::test]
async fn its_metrics_are_well_formed_and_complete() {
    let world = World::new().await;
    let text = world.run(&["check", "--format", "prometheus"]).await.exited_with(2).stdout;
    for sample in
        ["state{queue=\"analysis\"} 2", "live_workers{queue=\"analysis\"} 0", "ready_jobs{", "dead_letters{"]
    {
        assert!(text.contains(&format!("\nwm_check_{sample}")), "{sample} is not in {text}");
    }
    if peers::is_available("promtool", &["--version"]) {
        peers::run(Command::new("promtool").args(["check", "metrics"]), &text);
    }
}
