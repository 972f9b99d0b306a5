//! Hosts whose pages keep killing children: held, probed, lifted.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::queue::{Claim, Delivery, HostName, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::world::{World, claimed, death, done, enqueued, key, somewhere};

/// Starts a delivery at this host, and puts it into a child.
async fn in_child(queue: &Roles, held: &Delivery, host: &str) {
    let permit = queue.worker.start(&held.lease(), &somewhere(host)).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    assert!(queue.worker.enter_child(&held.lease()).await.unwrap());
}

/// A job at this host that kills its child.
async fn kill(queue: &Roles, host: &str) {
    enqueued(queue).await;
    let held = claimed(queue, "w").await;
    in_child(queue, &held, host).await;
    let _ = queue.worker.settle(held, death(FailureKind::WallExceeded, host)).await.unwrap();
}

/// A job at this host that is analysed.
async fn analyse(queue: &Roles, host: &str) {
    enqueued(queue).await;
    let held = claimed(queue, "w").await;
    in_child(queue, &held, host).await;
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
}

async fn held_hosts(queue: &Roles) -> Vec<String> {
    queue.held_hosts().await.unwrap().into_iter().map(|held| held.host).collect()
}

#[tokio::test]
async fn ten_kills_that_are_more_than_half_hold_a_host_and_no_other() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..9 {
        kill(&queue, "bad.test").await;
    }
    assert_eq!(held_hosts(&queue).await, [""; 0], "nine may be chance");
    kill(&queue, "bad.test").await;
    assert_eq!(held_hosts(&queue).await, ["bad.test"]);

    let job = enqueued(&queue).await;
    let held = claimed(&queue, "w").await;
    let permit = queue.worker.start(&held.lease(), &somewhere("bad.test")).await.unwrap();
    assert!(matches!(permit, StartPermit::HostFull { .. }), "{permit:?}");
    let full = wm_analyzer::job::verdict::PostponeReason::HostFull { host: "bad.test".into() };
    let verdict = wm_analyzer::job::verdict::Verdict::Postpone { after: Duration::ZERO, because: full };
    assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Settled);
    assert_eq!(world.field(&job.id, "waits_for_host").await.as_deref(), Some("bad.test"));
    analyse(&queue, "good.test").await;
    let seen = queue.held_hosts().await.unwrap().remove(0);
    assert_eq!((seen.waiting, seen.failures), (1, 10));
    assert!(seen.to_string().contains("held: its pages killed 10 children"), "{seen}");
    world.check_invariants().await;
}

#[tokio::test]
async fn a_host_most_of_whose_pages_are_good_is_not_held() {
    let world = World::new().await;
    let queue = world.queue().await;
    kill(&queue, "mixed.test").await;
    for _ in 0..9 {
        analyse(&queue, "mixed.test").await;
        kill(&queue, "mixed.test").await;
    }
    assert_eq!(held_hosts(&queue).await, ["mixed.test"], "10 of 19 are more than half");
    let world = World::new().await;
    let queue = world.queue().await;
    kill(&queue, "mixed.test").await;
    for _ in 0..11 {
        analyse(&queue, "mixed.test").await;
        analyse(&queue, "mixed.test").await;
        kill(&queue, "mixed.test").await;
    }
    assert_eq!(held_hosts(&queue).await, [""; 0]);
}

#[tokio::test]
async fn a_held_host_is_probed_by_one_job_at_growing_intervals_and_lifted_by_the_first_that_lives() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..10 {
        kill(&queue, "bad.test").await;
    }
    let rest_over = async || {
        let _: u64 = world.ask("ZADD", &[&key("resting_hosts"), "1", "bad.test"]).await;
    };
    let left = async || queue.held_hosts().await.unwrap().remove(0).left_ms;
    assert!((50_000..=60_000).contains(&left().await), "{}", left().await);
    rest_over().await;
    kill(&queue, "bad.test").await;
    assert!((110_000..=120_000).contains(&left().await), "{}", left().await);
    rest_over().await;
    analyse(&queue, "bad.test").await;
    assert_eq!(held_hosts(&queue).await, [""; 0]);
    world.check_invariants().await;
}

#[tokio::test]
async fn an_operator_lifts_it_and_kills_are_counted_also_while_redis_is_full() {
    let world = World::new().await;
    let queue = world.queue().await;
    for _ in 0..10 {
        kill(&queue, "bad.test").await;
    }
    let _ = queue.operator.resume_host(&HostName::parse("bad.test").unwrap(), "ana").await.unwrap();
    assert_eq!(held_hosts(&queue).await, [""; 0]);
    enqueued(&queue).await;
    let held = claimed(&queue, "w").await;
    in_child(&queue, &held, "bad.test").await;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    let settled = queue.worker.settle(held, death(FailureKind::WallExceeded, "bad.test")).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    assert_eq!(held_hosts(&queue).await, ["bad.test"], "an eleventh");
    assert!(matches!(queue.worker.claim_many(&crate::world::worker("w"), 1).await.unwrap()[0], Claim::Empty));
}

#[tokio::test]
async fn a_probe_of_a_held_host_that_fails_otherwise_leaves_it_held() {
    let mut world = World::new().await;
    world.config.host_failures_max = 5;
    let queue = world.queue().await;
    for _ in 0..10 {
        kill(&queue, "bad.test").await;
    }
    let _: u64 = world.ask("ZADD", &[&key("resting_hosts"), "1", "bad.test"]).await;
    enqueued(&queue).await;
    let held = claimed(&queue, "w").await;
    let permit = queue.worker.start(&held.lease(), &somewhere("bad.test")).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    let mut failure = crate::world::failure();
    failure.host = Some("bad.test".into());
    let after = Duration::from_secs(60);
    let verdict = wm_analyzer::job::verdict::Verdict::Retry { after, failure };
    assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Waits);
    assert_eq!(held_hosts(&queue).await, ["bad.test"]);
    world.check_invariants().await;
}
