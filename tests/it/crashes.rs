//! A worker that vanishes: nothing is lost, nothing is told twice, and nothing of it stays behind.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use wm_analyzer::job::{Job, JobId};
use wm_testbed::site::Resource;

use crate::harness::{GatedSite, Worker, World, is_alive, job, until};

/// How many jobs in flight a worker has, as Redis sees it.
async fn in_flight(world: &World, pid: u32) -> usize {
    let leased: Vec<String> = world.redis_cmd("ZRANGE", &["wm:{analysis}:lease", "0", "-1"]).await;
    let mut count = 0;
    for id in leased {
        let holder: Option<String> =
            world.redis_cmd("HGET", &[&format!("wm:{{analysis}}:job:{id}"), "worker"]).await;
        count += usize::from(holder.is_some_and(|holder| names(&holder, pid)));
    }
    count
}

fn names(worker: &str, pid: u32) -> bool {
    worker.split(['-', ':', '.', '/']).any(|part| part == pid.to_string())
}

async fn done(world: &World) -> usize {
    world.events().await.iter().filter(|event| event.what == "done").count()
}

#[tokio::test]
async fn a_worker_killed_in_mid_run_loses_no_job_and_doubles_no_report() {
    let world = World::new().await.with("queue.lease", "1500ms").with("sandbox.slots", "3");
    let gate = GatedSite::closed().await;
    let mut jobs: Vec<Job> =
        (0..2).map(|n| job(&format!("held-{n}"), gate.url("/a"), world.page())).collect();
    world.send(&jobs).await;
    let victim = world.worker();
    gate.until_requested(2).await;

    let _survivor = world.worker();
    let rest: Vec<Job> =
        (0..48).map(|n| world.pair(&format!("pair-{n}"), 4_000 + 2_000 * (n % 24))).collect();
    world.send(&rest).await;
    jobs.extend(rest);
    until("a third is done", async || done(&world).await >= 16).await;
    victim.signal(Signal::STOP);
    assert!(in_flight(&world, victim.pid()).await >= 2, "the victim has its hands full");
    victim.signal(Signal::KILL);
    gate.open();

    until("all are done", async || done(&world).await >= jobs.len()).await;
    for job in &jobs {
        let job_events = world.job_events(&job.id).await;
        let ends = job_events.iter().filter(|what| *what == "done").count();
        assert_eq!(
            (ends, job_events.last().map(String::as_str)),
            (1, Some("done")),
            "{}: {job_events:?}",
            job.id
        );
        let report = world.report(job).await.expect("a report");
        assert_eq!(report["to"], job.to.uuid().to_string());
    }
    for held in &jobs[..2] {
        assert!(
            world.job_events(&held.id).await.contains(&"reclaimed".to_owned()),
            "{} was in its hands",
            held.id
        );
    }
    until("every place is empty", async || {
        let status = world.queue.status().await.unwrap();
        status.inbox + status.backlog() + status.in_flight + status.dead == 0
    })
    .await;
    assert_eq!(world.keys("job:*").await, [""; 0]);
    assert_eq!(world.keys("unique:*").await, [""; 0]);
    assert_eq!(world.sentry.alerts(), 0, "{:?}", world.sentry.events());
}

#[tokio::test]
async fn a_job_whose_workers_vanish_twice_with_it_in_a_child_is_buried_as_a_crash_loop_with_one_alert() {
    let world = World::new().await.with("queue.lease", "1s");
    let witness = quiet_witness(&world).await;
    let deadly = world.heavy("deadly");
    for deaths in 1..=2 {
        let victim = world.worker();
        victim.until_logged("working").await;
        let _child = match deaths {
            1 => world.stop_in_child(&victim, &deadly).await,
            _ => world.stop_next_child(&victim).await,
        };
        victim.signal(Signal::KILL);
        drop(victim);
        let ending = if deaths == 1 { "reclaimed" } else { "buried" };
        world.until_event(&deadly.id, ending).await;
    }
    let dead = world.until_dead_letters(1).await;
    let reason = dead[0].reason.as_ref().unwrap();
    assert_eq!((reason.kind.as_str(), reason.counts.crashes, reason.counts.deliveries), ("crash_loop", 2, 2));
    until("an alert", async || world.sentry.alerts() == 1).await;
    assert_eq!(world.sentry.fingerprints(), [["dead-letter", "crash_loop", "queue"]]);
    witness.stop().await;
}

#[tokio::test]
async fn a_job_that_kills_each_worker_that_fetches_it_is_buried_after_six_and_none_of_200_beside_it() {
    let world = World::new().await.with("queue.lease", "1s");
    let witness = quiet_witness(&world).await;
    // At an address of its own, so that the innocent are fetched meanwhile.
    let gate = GatedSite::closed_at("127.0.0.2").await;
    let killer = job("killer", gate.url("/a"), world.page());
    let beside: Vec<Job> = (0..200).map(|n| world.pair(&format!("beside-{n}"), 4_000)).collect();
    world.send(std::slice::from_ref(&killer)).await;
    world.send(&beside).await;
    let mut deaths = 0_u32;
    while world.dead().await.is_empty() {
        assert!(deaths < 8, "the killer goes on: {:?}", world.job_events(&killer.id).await);
        let before = gate.requests();
        let victim = world.worker();
        gate.until_requested(before + 1).await;
        // It may have been released just then, to make room for a suspect: a worker dies only with it in flight.
        until("the killer is in flight at a stopped worker", async || {
            victim.signal(Signal::STOP);
            let in_flight = has(&world, &killer, victim.pid()).await;
            if !in_flight {
                victim.signal(Signal::CONT);
            }
            in_flight
        })
        .await;
        victim.signal(Signal::KILL);
        deaths += 1;
        drop(victim);
        until("its leases are over", async || world.queue.status().await.unwrap().in_flight == 0).await;
    }
    let _last = world.worker();
    until("all others are done", async || done(&world).await == 201).await;
    let dead = world.until_dead_letters(1).await;
    let reason = dead[0].reason.as_ref().unwrap();
    assert_eq!((dead[0].id.as_str(), reason.kind.as_str()), ("killer", "crash_loop"));
    assert_eq!((deaths, reason.counts.fetch_crashes), (6, 6));
    witness.stop().await;
}

#[tokio::test]
async fn what_is_only_fetched_makes_room_for_a_suspect_at_once_and_is_not_charged_for_it() {
    let world = World::new().await.with("queue.lease", "1s");
    let (victim, suspect, _child) = world.worker_with_job_in_child().await;
    let survivor = world.worker();
    survivor.until_logged("working").await;
    victim.signal(Signal::TSTP);
    victim.until_logged("quiet: claiming nothing more").await;
    // At a host that never answers.
    let slow: Vec<Job> =
        (0..8).map(|n| world.bodies(&format!("slow-{n}"), Resource::Hang, Resource::Hang)).collect();
    world.send(&slow).await;
    until("the survivor fetches", async || in_flight(&world, survivor.pid()).await >= 4).await;
    victim.signal(Signal::KILL);
    drop(victim);
    let start = Instant::now();
    world.until_event(&suspect.id, "done").await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}: a header may take 20 s", start.elapsed());
    let released = world.events().await.into_iter().filter(|event| event.what == "released");
    let released: Vec<_> = released.map(|event| JobId::parse(&event.id).unwrap()).collect();
    assert!(released.len() >= 4, "{released:?}");
    for id in &released {
        assert_eq!(world.field(id, "releases").await, None, "{id}");
    }
}

/// Whether a job is in flight at this worker.
async fn has(world: &World, job: &Job, pid: u32) -> bool {
    let holder = world.field(&job.id, "worker").await.filter(|holder| names(holder, pid));
    holder.is_some() && world.field(&job.id, "token").await.is_some()
}

/// A worker that has done one job and claims nothing more: it still keeps time for all.
async fn quiet_witness(world: &World) -> Worker {
    let witness = world.worker();
    world.send(&[world.pair("before", 4_000)]).await;
    until("the witness works", async || done(world).await == 1).await;
    witness.signal(Signal::TSTP);
    witness.until_logged("quiet: claiming nothing more").await;
    witness
}

#[tokio::test]
async fn a_killed_worker_leaves_no_process_behind() {
    let world = World::new().await;
    let gate = GatedSite::closed().await;
    world.send(&[job("held", gate.url("/a"), world.page())]).await;
    let worker = world.worker();
    gate.until_requested(1).await;
    let family = worker.descendants();
    assert!(family.len() >= 2, "a fork-server for each slot: {family:?}");
    assert!(family.iter().all(|pid| is_alive(*pid)), "{family:?}");

    worker.signal(Signal::KILL);
    until("its fork-servers are gone", async || !family.iter().any(|pid| is_alive(*pid))).await;
}
