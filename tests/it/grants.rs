//! An operator's word: a dead letter put back under larger limits than the configured ones, as far as there is room.

use wm_analyzer::job::Job;
use wm_testbed::body::Body;
use wm_testbed::pages;

use crate::harness::{World, until};

/// Two slots, children of 16 MiB, and memory for just two of them: 80 MiB + 94 MiB + 2 x (84 MiB address space + 24.75 MiB buffers).
async fn world_with_little_memory() -> World {
    let world = World::new().await.with("fetch.total_timeout", "5m");
    world.with("sandbox.heap", "16 MiB").with("worker.memory_limit", "392 MiB")
}

/// Honest work that needs more than 16 MiB and hardly a CPU: much text, of which one word changed.
fn heap_heavy_job(world: &World, name: &str) -> Job {
    let page = |last| Body::html(format!("<!DOCTYPE html><p>{}{last}", "word ".repeat(800_000)).into_bytes());
    world.bodies(name, page("old"), page("new"))
}

#[tokio::test]
async fn what_died_of_memory_is_done_when_more_is_granted_and_waits_until_that_much_is_free() {
    // It claims only what it has slots for: the rest is for another worker.
    let world = world_with_little_memory().await.with("fetch.in_flight_max", "2");
    let worker = world.worker();
    let hungry = heap_heavy_job(&world, "hungry");
    world.send(std::slice::from_ref(&hungry)).await;
    let reason = world.until_dead_letters(1).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind.as_str(), "memory_exceeded");

    // A job that has its room and is not done with it.
    let page = |seed| Body::html(pages::pair(seed, 400_000).0);
    let slow = world.bodies("slow", page(1), page(2));
    let child = world.stop_in_child(&worker, &slow).await;
    let fetched = world.site.hits("/hungry/to");
    let replay = ["dead", "replay", "hungry", "--heap", "64MiB", "--wall", "30s", "--yes"];
    world
        .run(&replay)
        .await
        .exited_with(0)
        .stderr_contains(&["under wall 30s, heap 64.0 MiB", "replayed 1 of 1"]);
    until("its bodies are here", async || world.site.hits("/hungry/to") > fetched).await;

    // Another worker does the same work several times over in the meantime.
    let roomy = world.worker_with(&[("sandbox.heap", "64 MiB"), ("sandbox.slots", "1")]);
    let twins: Vec<Job> = (0..3).map(|n| self::heap_heavy_job(&world, &format!("twin-{n}"))).collect();
    world.send(&twins).await;
    for twin in &twins {
        world.until_event(&twin.id, "done").await;
    }
    roomy.stop().await;
    assert_eq!(world.job_events(&hungry.id).await, ["buried", "replayed"], "it waits");
    assert_eq!(worker.descendants().len(), 3, "two fork-servers, and only the child that is stopped");

    child.resume();
    world.until_event(&hungry.id, "done").await;
    assert_eq!(world.job_events(&slow.id).await, ["done"]);
    let heap = world.report(&hungry).await.unwrap()["measured"]["peak_heap_bytes"].as_u64().unwrap();
    assert!((16 << 20..64 << 20).contains(&heap), "{heap}");
}

#[tokio::test]
async fn what_is_above_the_ceiling_is_refused_at_the_command() {
    let world = World::new().await;
    let replay = ["dead", "replay", "anything", "--yes"];
    world
        .run(&[&replay[..], &["--heap", "2GiB"]].concat())
        .await
        .exited_with(2)
        .stderr_contains(&["2.0 GiB is above sandbox.max_heap"]);
    world
        .run(&[&replay[..], &["--wall", "61s"]].concat())
        .await
        .exited_with(2)
        .stderr_contains(&["61s is above sandbox.max_wall, 60s"]);
    world.run(&[&replay[..], &["--wall", "0s"]].concat()).await.exited_with(2).stderr_contains(&["no time"]);
    world
        .run(&["diff", "a", "b", "--limits", "heap=2GiB"])
        .await
        .exited_with(2)
        .stderr_contains(&["sandbox.max_heap"]);
}

#[tokio::test]
async fn a_grant_that_a_worker_cannot_honour_is_buried_with_the_sum_and_never_goes_round() {
    let world = world_with_little_memory().await.with("sandbox.max_wall", "20s");
    let _worker = world.worker();
    let hungry = heap_heavy_job(&world, "hungry");
    world.send(std::slice::from_ref(&hungry)).await;
    world.until_dead_letters(1).await;
    for (grant, why) in [
        (["--heap", "512MiB"], "512.0 MiB needs 704 MiB of address space, and this worker has 168 MiB"),
        (["--wall", "50s"], "50s is above sandbox.max_wall, 20s"),
    ] {
        let replay = [&["dead", "replay", "hungry", "--yes"][..], &grant].concat();
        world.run_with(&[("sandbox.max_wall", "60s")], &replay).await.exited_with(0);
        until("it is dead again", async || world.dead().await.len() == 1).await;
        world.run(&["dead", "show", "hungry"]).await.exited_with(0).stdout_contains(&["stranded", why]);
    }
    let job_events = world.job_events(&hungry.id).await;
    assert_eq!(job_events, ["buried", "replayed", "buried", "replayed", "buried"]);
}
