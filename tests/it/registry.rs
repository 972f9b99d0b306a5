//! What workers tell of themselves: what runs, since when, how near its limit; and who is gone. And ending what runs.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use wm_analyzer::job::Job;

use crate::harness::{GatedSite, World, is_alive, job, key, until};

/// A wall clock that no test waits for.
const WALL: Duration = Duration::from_secs(20);

/// What the only worker runs, as a program reads it.
async fn in_flight_jobs(world: &World) -> Vec<Value> {
    let status = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    status["workers"][0]["in_flight"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn jobs_that_hang_at_their_site_are_shown_with_their_times_and_limit_the_longest_first() {
    let world = World::new().await.with("sandbox.slots", "10").with("fetch.total_timeout", "40s");
    let gate = GatedSite::closed().await;
    let worker = world.worker();
    let hung = job("hung", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&hung)).await;
    gate.until_requested(1).await;
    let others: Vec<Job> = (0..9).map(|n| job(&format!("other-{n}"), gate.url("/a"), world.page())).collect();
    world.send(&others).await;
    until("all are shown at the gate", async || {
        let shown = in_flight_jobs(&world).await;
        shown.len() == 10 && shown.iter().all(|job| job["stage"] == "fetch")
    })
    .await;

    let shown = in_flight_jobs(&world).await;
    let number = |job: &Value, name: &str| job[name].as_u64().unwrap_or_else(|| panic!("{name}: {job}"));
    let first = &shown[0];
    assert_eq!((first["id"].as_str(), number(first, "limit_ms")), (Some("hung"), 40_000));
    assert_eq!(first["from"], hung.from.given().unwrap().uuid().to_string());
    assert_eq!(first["to"], hung.to.uuid().to_string());
    assert!(0 < number(first, "stage_ms") && number(first, "stage_ms") <= number(first, "in_flight_ms"));
    assert!(shown.is_sorted_by_key(|job| u64::MAX - number(job, "in_flight_ms")), "{shown:#?}");
    until("its time goes on", async || {
        let now = in_flight_jobs(&world).await;
        number(&now[0], "stage_ms") >= 1_000 + number(first, "stage_ms")
    })
    .await;
    let text = world.run(&["status"]).await.exited_with(0).stdout_contains(&[
        "  hung  fetch for ",
        "s of 40s (",
        "and 8 more: wm-analyzer job ls state:in_flight",
    ]);
    assert_eq!(text.stdout.matches(" of 40s (").count(), 2, "{text:?}");

    gate.open();
    for job in others.iter().chain([&hung]) {
        world.until_event(&job.id, "done").await;
    }
    until("nothing runs", async || in_flight_jobs(&world).await.is_empty()).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_killed_is_shown_no_more_once_its_time_is_over() {
    let world = World::new().await.with("queue.worker_ttl", "2s");
    let (victim, survivor) = (world.worker(), world.worker());
    let seen = async || -> Vec<u32> {
        world.queue.status().await.unwrap().workers.iter().map(|worker| worker.info.pid).collect()
    };
    until("both are shown", async || seen().await.len() == 2).await;
    victim.signal(Signal::KILL);
    until("one is gone", async || seen().await == [survivor.pid()]).await;
    let entries =
        async || (world.redis_cmd::<u64>("ZCARD", key("workers")).await, world.keys("worker:*").await.len());
    until("and leaves nothing", async || entries().await == (1, 1)).await;
}

#[tokio::test]
async fn cancelling_a_job_that_runs_kills_its_child_and_its_worker_goes_on() {
    let world = World::new().await.with("sandbox.wall", format!("{}s", WALL.as_secs()));
    let worker = world.worker();
    worker.until_logged("working").await;
    let before = worker.descendants();
    let heavy = world.heavy("heavy");
    // Stopped, it ends by nothing but a kill.
    let child = world.stop_in_child(&worker, &heavy).await.pid;
    // A child's heap is sampled after its stage has begun: an earlier look shows the stage without it.
    until("it is shown in its child with its heap", async || {
        let shown = in_flight_jobs(&world).await;
        shown.iter().any(|job| job["id"] == "heavy" && job["stage"] == "analyse" && job["heap"].is_object())
    })
    .await;
    assert_eq!(in_flight_jobs(&world).await[0]["limit_ms"], WALL.as_millis() as u64);
    let heap = in_flight_jobs(&world).await[0]["heap"].clone();
    assert_eq!(heap["limit_bytes"], 256 << 20);
    assert!((1..256 << 20).contains(&heap["bytes"].as_u64().unwrap()), "{heap}");
    world.run(&["status"]).await.exited_with(0).stdout_contains(&[
        "  heavy  analyse for ",
        ", heap ",
        " of 256.0 MiB (",
    ]);
    assert!(is_alive(child));

    let start = Instant::now();
    let cancelled = world.run(&["queue", "cancel", heavy.id.as_str(), "nobody"]).await.exited_with(5);
    cancelled.stderr_contains(&["cancelled 1 of 2", "nobody is not in analysis", "Undo: enqueue it again"]);
    world.until_event(&heavy.id, "skipped").await;
    until("its child is gone", async || !is_alive(child)).await;
    assert!(start.elapsed() < WALL / 2, "{:?}: not by its wall clock", start.elapsed());
    let events = world.events().await;
    let told: Vec<_> = events.iter().map(|event| (event.what.as_str(), event.why.as_str())).collect();
    assert_eq!(told, [("skipped", "cancelled")]);
    world.run(&["queue", "cancel", heavy.id.as_str(), "-o", "json"]).await.exited_with(3);

    let next = world.pair("next", 4_000);
    world.send(std::slice::from_ref(&next)).await;
    world.until_event(&next.id, "done").await;
    assert_eq!((worker.descendants(), world.dead().await.len()), (before, 0));
    worker.stop().await;
}
