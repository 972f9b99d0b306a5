//! Operators' hands on workers: listed, made quiet and stopped through Redis, from wherever the operator is.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{GatedSite, Worker, World, job, until};

/// The entry of this worker, as a program reads it.
async fn listed(world: &World, worker: &Worker) -> Value {
    let shown = world.run(&["worker", "ls", "-o", "json"]).await.json();
    let workers = shown["workers"].as_array().cloned().unwrap_or_default();
    workers.into_iter().find(|one| one["pid"] == worker.pid()).unwrap_or_default()
}

async fn id_of(world: &World, worker: &Worker) -> String {
    until("it is listed", async || listed(world, worker).await["id"].is_string()).await;
    listed(world, worker).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_worker_is_made_quiet_from_afar_and_the_others_go_on() {
    let world = World::new().await;
    world.run(&["worker", "ls"]).await.exited_with(3).stderr_contains(&["0 of 0 workers"]);
    let (first, second) = (world.worker(), world.worker());
    let (quiet, other) = (id_of(&world, &first).await, id_of(&world, &second).await);
    let text = world.run(&["worker", "ls"]).await.exited_with(0);
    text.stdout_contains(&["PHASE", &quiet, &other, "running"]).stderr_contains(&["2 of 2 workers"]);

    world.run(&["worker", "quiet", &quiet]).await.exited_with(4).stderr_contains(&["nothing changed"]);
    let host = quiet.split(':').next().unwrap();
    world.run(&["worker", "quiet", host, "--yes"]).await.exited_with(2).stderr_contains(&["2 workers begin"]);
    world.run(&["worker", "quiet", "nobody", "--yes"]).await.exited_with(3);
    let prefix = &quiet[..quiet.len() - 2];
    let asked =
        world.run(&["worker", "quiet", prefix, "--yes", "--reason", "a bad disk"]).await.exited_with(0);
    asked.stderr_contains(&["quiet 1 worker of queue", "asked 1 of 1", "stays quiet"]);
    until("it is quiet", async || listed(&world, &first).await["phase"] == "quiet").await;
    assert_eq!(listed(&world, &second).await["phase"], "running");
    let job = world.pair("one", 4_000);
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let rows = world.run(&["audit", "ls", "-o", "json"]).await.json();
    let row = &rows["rows"][0];
    assert_eq!((&row["what"], &row["selection"]), (&"quiet worker".into(), &quiet.into()));
    assert_eq!(row["why"], "a bad disk");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn workers_are_stopped_from_afar_they_hand_back_what_they_fetch_and_their_successor_goes_on() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    let mut worker = world.worker();
    let held = job("held", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&held)).await;
    gate.until_requested(1).await;
    until("it is listed with its job", async || listed(&world, &worker).await["fetching"] == 1).await;
    let dry = world.run(&["worker", "stop", "--all", "--dry-run"]).await.exited_with(0);
    dry.stderr_contains(&["ALL of them", "running, 1 job", "nothing changed"]);
    world.run(&["worker", "stop", "--all", "--yes"]).await.exited_with(0);
    assert!(worker.wait_for_exit().await.success(), "{}", worker.log_text());
    let mut successor = world.worker();
    gate.open();
    world.until_event(&held.id, "done").await;
    assert_eq!(listed(&world, &successor).await["phase"], "running");
    assert!(successor.is_running());
    successor.stop().await;
}

#[tokio::test]
async fn a_silent_worker_is_shown_as_such_and_does_what_it_was_asked_once_it_comes_back() {
    let world = World::new().await;
    let mut worker = world.worker();
    let id = id_of(&world, &worker).await;
    worker.signal(Signal::STOP);
    until("it is silent", async || listed(&world, &worker).await["silent"] == true).await;
    world.run(&["worker", "ls"]).await.exited_with(0).stdout_contains(&["SILENT for"]);
    world.run(&["worker", "stop", &id, "--yes"]).await.exited_with(0).stderr_contains(&["silent: it hears"]);
    world.run(&["worker", "quiet", &id, "--yes"]).await.exited_with(0);
    world.run(&["worker", "ls"]).await.exited_with(0).stdout_contains(&["running, asked to stop"]);
    worker.signal(Signal::CONT);
    assert!(worker.wait_for_exit().await.success(), "{}", worker.log_text());
}
