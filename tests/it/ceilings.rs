//! Ceilings over all workers, as the site sees them; and a killer that comes again under another id.

use rustix::process::Signal;
use wm_analyzer::job::{Job, JobId};

use crate::harness::{GatedSite, World, job, until};

/// A host of its own: the gate and the site are neighbours, and would else share their permits.
const OTHER_HOST: &str = "127.0.0.2";

async fn done(world: &World) -> usize {
    world.events().await.iter().filter(|event| event.what == "done").count()
}

/// Jobs whose bodies are both behind the gate: each is two visitors while it is inside.
fn jobs_at_gate(gate: &GatedSite, count: usize) -> Vec<Job> {
    let page = |n, side| gate.url(&format!("/{n}/{side}"));
    (0..count).map(|n| job(&format!("gate-{n}"), page(n, "from"), page(n, "to"))).collect()
}

#[tokio::test]
async fn two_workers_never_exceed_a_hosts_ceiling_and_other_hosts_go_on() {
    let world = World::new().await.with("queue.host_in_flight_max", "2").with("sandbox.slots", "3");
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    world.send(&jobs_at_gate(&gate, 30)).await;
    let rest: Vec<Job> = (0..12).map(|n| world.pair(&format!("pair-{n}"), 4_000)).collect();
    world.send(&rest).await;
    let workers = [world.worker(), world.worker()];
    until("everything elsewhere is done", async || done(&world).await == rest.len()).await;
    assert_eq!(gate.requests(), 4, "two jobs are inside, all the others wait");
    let waiting = world.queue.status().await.unwrap().scheduled;
    assert_eq!(waiting, 28, "and not by going round");
    let status = world.run(&["status"]).await.exited_with(0);
    status.stdout_contains(&["host    127.0.0.2  2 of 2 in flight, 28 wait"]);
    let json = world.run(&["status", "-o", "json"]).await.exited_with(0).json();
    let line = serde_json::json!([{"host": OTHER_HOST, "in_flight": 2, "waiting": 28}]);
    assert_eq!(
        (&json["ceilings"]["longest_host_waiters"], json["ceilings"]["hosts_full"].as_u64()),
        (&line, Some(1))
    );
    until("it is a number too", async || workers[0].metric("queue_hosts_full").await == 1.0).await;
    // Which two came first is chance.
    let mut handed_out = 0;
    for job in &jobs_at_gate(&gate, 30) {
        handed_out += world.field(&job.id, "deliveries").await.unwrap().parse::<u32>().unwrap();
    }
    assert_eq!(handed_out, 2, "waiting counts as nothing");

    gate.open();
    until("all are done", async || done(&world).await == rest.len() + 30).await;
    assert!(gate.max_concurrent() <= 4, "{} visitors at once", gate.max_concurrent());
    assert_eq!(world.keys("host:*").await, [""; 0]);
    for waiters in ["host_waiters:*", "waiting_hosts"] {
        assert_eq!(world.keys(waiters).await, [""; 0]);
    }
    assert_eq!(world.sentry.alerts(), 0, "{:?}", world.sentry.events());
}

#[tokio::test]
async fn two_workers_never_exceed_the_queues_ceiling() {
    let world = World::new().await.with("queue.in_flight_max", "3").with("sandbox.slots", "3");
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    world.send(&jobs_at_gate(&gate, 12)).await;
    let workers = [world.worker(), world.worker()];
    gate.until_requested(6).await;
    for worker in &workers {
        until("both have looked for more", async || worker.metric("redis_up").await > 0.0).await;
    }
    assert_eq!(world.queue.status().await.unwrap().in_flight, 3);
    let full = ["ceiling 3 of 3 claimed jobs in flight, the ready ones wait for that"];
    world.run(&["status"]).await.exited_with(0).stdout_contains(&full);
    let filled = async || workers[0].metric("queue_in_flight_filled_ratio").await;
    until("it is a number too", async || filled().await == 1.0).await;
    gate.open();
    until("all are done", async || done(&world).await == 12).await;
    assert!(gate.max_concurrent() <= 6, "{} visitors at once", gate.max_concurrent());
}

#[tokio::test]
async fn a_killed_workers_permits_come_back_with_its_lease() {
    let world = World::new().await.with("queue.host_in_flight_max", "2").with("queue.lease", "1500ms");
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    world.send(&jobs_at_gate(&gate, 6)).await;
    let victim = world.worker();
    gate.until_requested(4).await;
    let _survivor = world.worker();
    until("all others wait", async || world.queue.status().await.unwrap().scheduled == 4).await;
    victim.signal(Signal::KILL);
    gate.until_requested(6).await;
    let reclaimed = world.events().await.iter().filter(|event| event.what == "reclaimed").count();
    assert_eq!(reclaimed, 2, "what the dead worker had is taken from it first");
    gate.open();
    until("all are done", async || done(&world).await == 6).await;
    assert_eq!(world.keys("host:*").await, [""; 0]);
}

#[tokio::test]
async fn a_killer_enqueued_again_under_a_new_id_starts_alone() {
    let world = World::new().await.with("queue.lease", "2s");
    let (mut victim, killer, _child) = world.worker_with_job_in_child().await;
    victim.signal(Signal::KILL);
    victim.wait_for_exit().await;
    let witness = world.worker();
    // The witness has the first one alone, in a child; the same bodies come again, beside a job that is fetched.
    let child = world.stop_next_child(&witness).await;
    assert_eq!(world.keys("suspect:*").await.len(), 1);
    let second = world.worker();
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    world.send(&[job("beside", gate.url("/x"), gate.url("/y"))]).await;
    gate.until_requested(2).await;
    let fetched = world.site.hits("/held/from");
    let again = world.heavy("held");
    let again = Job { id: JobId::parse("again").unwrap(), ..again };
    world.send(std::slice::from_ref(&again)).await;
    until("it waits to be alone", async || {
        world.field(&again.id, "state").await.as_deref() == Some("exclusive")
    })
    .await;
    assert_eq!(world.field(&again.id, "deliveries").await.as_deref(), Some("0"));
    assert_eq!(world.site.hits("/held/from"), fetched, "it was not let in beside others");
    gate.open();
    child.resume();
    world.until_event(&killer.id, "done").await;
    until("all are done", async || done(&world).await == 3).await;
    assert_eq!(world.keys("suspect:*").await, [""; 0], "it survived");
    second.stop().await;
}
