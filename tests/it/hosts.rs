//! Hosts that rest, as people and programs see it: after failures, and by hand.

use wm_analyzer::job::Job;

use crate::harness::{GatedSite, World, job, until};

/// A host of its own, beside the good site.
const OTHER_HOST: &str = "127.0.0.3";

fn jobs_at(gate: &GatedSite, count: usize) -> Vec<Job> {
    let page = |n, side| gate.url(&format!("/{n}/{side}"));
    (0..count).map(|n| job(&format!("ill-{n}"), page(n, "from"), page(n, "to"))).collect()
}

/// What was said of hosts that rest, in order.
fn alerts(world: &World) -> Vec<String> {
    let events = world.sentry.events();
    let of_hosts =
        events.iter().filter(|event| event["fingerprint"] == serde_json::json!(["outage", "hosts"]));
    of_hosts.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_host_that_never_answers_rests_costs_its_jobs_nothing_and_is_one_alert_that_ends_when_it_answers() {
    let world = World::new().await.with("fetch.total_timeout", "1s").with("sentry.window", "50ms");
    let world = world.with("queue.host_rest", "2s").with("queue.host_rest_max", "2s");
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    let workers = [world.worker(), world.worker()];
    let ill = jobs_at(&gate, 12);
    world.send(&ill).await;
    until("it rests", async || world.queue.status().await.unwrap().resting.breakers == 1).await;
    let good = world.pair("good", 4_000);
    world.send(std::slice::from_ref(&good)).await;
    world.until_event(&good.id, "done").await;
    until("it is a number too", async || workers[0].metric("queue_hosts_resting").await == 1.0).await;
    world.run(&["status"]).await.stdout_contains(&["host    127.0.0.3 ", "failures in a row (timeout)"]);
    let json = world.run(&["status", "-o", "json"]).await.json();
    assert_eq!(json["resting"]["most_waited_for"][0]["host"], OTHER_HOST);
    until("somebody is told", async || alerts(&world).len() == 1).await;
    assert!(alerts(&world)[0].contains(OTHER_HOST), "{:?}", alerts(&world));
    // Some probes later it still rests, and nothing more was counted or said.
    let asked = gate.requests();
    gate.until_requested(asked + 6).await;
    assert_eq!(world.dead().await.len(), 0);
    assert_eq!(alerts(&world).len(), 1, "{:?}", alerts(&world));

    gate.open();
    for job in &ill {
        world.until_event(&job.id, "done").await;
    }
    until("and that it is over", async || alerts(&world).len() == 2).await;
    assert!(alerts(&world)[1].starts_with("resolved: "), "{:?}", alerts(&world));
    assert_eq!(world.queue.status().await.unwrap().resting.count(), 0);
}

#[tokio::test]
async fn a_host_is_paused_and_resumed_by_hand_and_only_its_jobs_wait() {
    let world = World::new().await;
    let gate = GatedSite::closed_at(OTHER_HOST).await;
    gate.open();
    let paused = ["queue", "pause", OTHER_HOST, "--for", "10m", "--reason", "they asked us to"];
    world
        .run(&paused)
        .await
        .exited_with(0)
        .stderr_contains(&["127.0.0.3 rests for 10m", "queue resume 127.0.0.3"]);
    let _worker = world.worker();
    let held = jobs_at(&gate, 3);
    world.send(&held).await;
    let good = world.pair("good", 4_000);
    world.send(std::slice::from_ref(&good)).await;
    world.until_event(&good.id, "done").await;
    until("its jobs wait", async || {
        let resting = world.queue.status().await.unwrap().resting;
        resting.most_waited_for.first().is_some_and(|host| host.waiting == 3)
    })
    .await;
    let status = world.run(&["status"]).await.exited_with(0);
    status.stdout_contains(&[
        "running",
        "host    127.0.0.3  0 of 64 in flight, 3 wait, rests 10 min more",
        "they asked us to",
    ]);
    assert_eq!(gate.requests(), 0);
    let resumed = world.run(&["queue", "resume", OTHER_HOST]).await.exited_with(0);
    resumed.stderr_contains(&["127.0.0.3 is visited again", "they asked us to"]);
    for job in &held {
        world.until_event(&job.id, "done").await;
    }
    assert_eq!(alerts(&world), [""; 0], "what a person ordered is no alert");
    world.run(&["queue", "resume", "[::9]"]).await.exited_with(3).stderr_contains(&["does not rest"]);
    world
        .run(&["queue", "pause", "a.test:80", "--for", "1m"])
        .await
        .exited_with(2)
        .stderr_contains(&["without port"]);
    world
        .run(&["queue", "pause", "a.test", "--for", "31d"])
        .await
        .exited_with(2)
        .stderr_contains(&["30 days"]);
    world.run(&["queue", "pause", "--for", "1m"]).await.exited_with(2).stderr_contains(&["--reason"]);
}
