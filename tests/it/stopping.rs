//! How a worker leaves: what is in flight is finished or handed back, un-counted, and nobody waits for ever.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wm_analyzer::job::Job;
use wm_analyzer::job::failure::Stage;
use wm_testbed::site::Resource;

use crate::harness::{GatedSite, Worker, World, is_alive, job, until};

/// A worker with one job in flight that waits at the gate.
async fn worker_with_job_in_flight(world: &World, gate: &GatedSite) -> (Worker, Job) {
    let held = job("held", gate.url("/a"), world.page());
    world.send(std::slice::from_ref(&held)).await;
    let worker = world.worker();
    gate.until_requested(1).await;
    (worker, held)
}

/// The stage that the queue shows of the only job in flight.
async fn shown_stage(world: &World) -> Option<Stage> {
    let workers = world.queue.status().await.unwrap().workers;
    workers.first()?.info.in_flight.first().map(|job| job.stage)
}

/// One of the processes below a worker is told so.
fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// The job is where it was before it was claimed, and was handed back, which is `counted` or not.
async fn was_released(world: &World, held: &Job, place: &str, counted: Option<&str>) {
    let field = async |name| world.field(&held.id, name).await;
    assert_eq!(field("state").await.as_deref(), Some(place));
    assert_eq!(field("deliveries").await.as_deref(), Some(if place == "exclusive" { "1" } else { "0" }));
    assert_eq!(field("releases").await.as_deref(), counted);
    assert_eq!(field("token").await, None);
    assert_eq!(world.job_events(&held.id).await.last().map(String::as_str), Some("released"));
    assert_eq!(world.queue.status().await.unwrap().in_flight, 0);
}

#[tokio::test]
async fn term_lets_what_is_in_a_child_finish_and_claims_nothing_more() {
    let world = World::new().await;
    let (mut worker, held, child) = world.worker_with_job_in_child().await;
    worker.signal(Signal::TERM);
    assert!(worker.until_status("/readyz", 503).await.contains("draining"));
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    until("the late one is let in", async || world.queue.status().await.unwrap().ready == 1).await;
    child.resume();
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert_eq!(world.job_events(&held.id).await, ["done"]);
    assert_eq!(world.field(&late.id, "state").await.as_deref(), Some("ready"));
    assert_eq!(worker.log_lines("stopped")[0]["released"], 0);
    let status = world.queue.status().await.unwrap();
    assert_eq!((status.in_flight, status.ready), (0, 1));
}

#[tokio::test]
async fn term_releases_what_is_only_fetched_at_once_and_uncounted_however_slow_its_host() {
    let world = World::with_default_settings().await;
    let jobs: Vec<Job> =
        (0..12).map(|n| world.bodies(&format!("slow-{n}"), Resource::Hang, Resource::Hang)).collect();
    world.send(&jobs).await;
    let mut worker = world.worker();
    until("all are fetched", async || {
        let mut asked = jobs.iter().map(|job| world.site.hits(&format!("/{}/to", job.id)));
        asked.all(|hits| hits == 1)
    })
    .await;
    let start = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?} of a drain of 30 s", start.elapsed());
    assert_eq!(worker.log_lines("stopped")[0]["released"], 12);
    for job in &jobs {
        was_released(&world, job, "ready", None).await;
    }
}

#[tokio::test]
async fn who_is_told_to_leave_while_it_starts_leaves_in_order() {
    let world = World::new().await;
    world.redis.freeze();
    let mut worker = world.worker();
    // SIGTERM is the 15th bit of the signals that the process catches.
    until("it hears", async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
        u64::from_str_radix(caught, 16).unwrap() & 1 << 14 != 0
    })
    .await;
    assert!(worker.log_lines("working").is_empty(), "it is still starting");
    worker.signal(Signal::TERM);
    world.redis.thaw();
    assert_eq!(worker.wait_for_exit().await.code(), Some(0), "{}", worker.log_text());
}

#[tokio::test]
async fn what_is_not_finished_by_the_drain_deadline_is_handed_back() {
    let world = World::new().await.with("sandbox.wall", "500ms").with("worker.drain", "600ms");
    let (mut worker, held, _child) = world.worker_with_job_in_child().await;
    // So that none of them ends the job at its wall clock.
    worker.descendants().iter().for_each(|pid| signal(*pid, Signal::STOP));
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    was_released(&world, &held, "ready", Some("1")).await;
    assert_eq!(worker.log_lines("stopped")[0]["released"], 1);

    let _next = world.worker_with(&[("sandbox.wall", "10s"), ("worker.drain", "30s")]);
    world.until_event(&held.id, "done").await;
}

#[tokio::test]
async fn a_second_term_leaves_now() {
    let world = World::new().await;
    let (mut worker, held, _child) = world.worker_with_job_in_child().await;
    worker.signal(Signal::TERM);
    worker.until_logged("draining").await;
    let start = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?} of a drain of 30 s", start.elapsed());
    was_released(&world, &held, "ready", Some("1")).await;
}

#[tokio::test]
async fn a_suspect_that_runs_alone_does_not_keep_its_worker_from_leaving() {
    let world = World::new().await.with("queue.lease", "1s");
    let (worker, held, _child) = world.worker_with_job_in_child().await;
    worker.signal(Signal::KILL);
    drop(worker);
    let mut worker = world.worker();
    let _child = world.stop_next_child(&worker).await;
    worker.signal(Signal::TERM);
    worker.until_logged("draining").await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    was_released(&world, &held, "exclusive", Some("1")).await;
    assert_eq!(world.field(&held.id, "crashes").await.as_deref(), Some("1"), "leaving is no crash");
}

#[tokio::test]
async fn tstp_is_quiet_it_claims_nothing_more_finishes_and_stays() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    let (mut worker, held) = worker_with_job_in_flight(&world, &gate).await;
    worker.signal(Signal::TSTP);
    assert!(worker.until_status("/readyz", 503).await.contains("quiet"));
    assert_eq!(worker.get("/livez").await.0, 200);
    let late = world.pair("late", 4_000);
    world.send(std::slice::from_ref(&late)).await;
    gate.open();
    world.until_event(&held.id, "done").await;
    until("the late one is let in", async || world.queue.status().await.unwrap().ready == 1).await;

    let mut other = world.worker();
    world.until_event(&late.id, "done").await;
    assert_eq!(worker.metric("jobs_total{outcome=\"done\"}").await, 1.0, "only what it held");
    assert_eq!(other.metric("jobs_total{outcome=\"done\"}").await, 1.0);
    assert!(worker.is_running() && other.is_running());
    worker.stop().await;
    other.signal(Signal::TERM);
    assert_eq!(other.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn until_empty_works_off_what_there_is_and_ends() {
    let world = World::new().await;
    let jobs: Vec<Job> = (0..5).map(|n| world.pair(&format!("p-{n}"), 4_000)).collect();
    world.send(&jobs).await;
    world.run(&["work", "--until-empty"]).await.exited_with(0);
    for job in &jobs {
        assert_eq!(world.job_events(&job.id).await, ["done"]);
    }
    assert!(world.queue.status().await.unwrap().workers.is_empty(), "a worker that left is not shown");
}

#[tokio::test]
async fn a_child_that_will_not_die_does_not_keep_its_worker_from_leaving_and_is_gone_with_it() {
    let world = World::new().await;
    let held = world.heavy("held");
    let mut worker = world.worker();
    worker.until_logged("working").await;
    let fork_servers = worker.descendants().len();
    world.send(std::slice::from_ref(&held)).await;
    until("a child is at work", async || worker.descendants().len() > fork_servers).await;
    let below = worker.descendants();
    below.iter().for_each(|pid| signal(*pid, Signal::STOP));
    worker.signal(Signal::TERM);
    worker.until_logged("draining").await;
    let start = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    was_released(&world, &held, "ready", Some("1")).await;
    until("nothing of it is left", async || !below.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn fork_servers_that_do_not_answer_do_not_hold_up_the_drain_deadline() {
    let world = World::new().await.with("sandbox.wall", "500ms").with("worker.drain", "600ms");
    let gate = GatedSite::closed().await;
    let (mut worker, held) = worker_with_job_in_flight(&world, &gate).await;
    let below = worker.descendants();
    assert_eq!(below.len(), 2, "as many as slots");
    below.iter().for_each(|pid| signal(*pid, Signal::STOP));
    gate.open();
    until("it waits for a child", async || shown_stage(&world).await == Some(Stage::Analyse)).await;
    let start = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait_for_exit().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    was_released(&world, &held, "ready", Some("1")).await;
    until("nothing of it is left", async || !below.iter().any(|pid| is_alive(*pid))).await;
}

#[tokio::test]
async fn a_worker_that_loses_its_beat_its_inbox_or_its_upkeep_says_so_hands_back_and_ends_with_an_error() {
    for task in ["heartbeat", "ingest", "upkeep"] {
        let world = World::new().await;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("now");
        let gate = GatedSite::closed().await;
        let held = job("held", gate.url("/a"), world.page());
        world.send(std::slice::from_ref(&held)).await;
        let mut worker = world.worker_with_failing_task(task, &file);
        gate.until_requested(1).await;
        std::fs::write(&file, "").unwrap();
        assert_eq!(worker.wait_for_exit().await.code(), Some(1), "so that it is started anew");
        was_released(&world, &held, "ready", None).await;
        let said = worker.log_lines("critical task exited; shutting down so the supervisor restarts us");
        assert_eq!((said.len(), said[0]["task"].as_str()), (1, Some(task)));
        assert!(said[0]["why"].as_str().unwrap().contains("on purpose"), "{said:?}");
        assert_eq!(world.sentry.fingerprints(), [["outage", "task"]]);
        assert!(world.queue.status().await.unwrap().workers.is_empty(), "it deregistered");
        gate.open();
        let _next = world.worker();
        world.until_event(&held.id, "done").await;
    }
}
