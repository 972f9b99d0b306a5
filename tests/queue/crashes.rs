//! Workers that vanish: nothing is lost, nothing is settled twice, and only what is guilty is blamed.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::queue::{Claim, ReleaseKind, Settled, Upkeep};
use wm_testbed::roles::Roles;

use crate::world::*;

#[tokio::test]
async fn in_flight_to_exclusive_by_reclaim_then_alone_in_one_worker() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let beside = enqueued(&queue).await;
    dies_with(claimed_into_child(&queue, "dead").await);
    world.expire(&job.id).await;
    let upkeep = queue.worker.upkeep().await.unwrap();
    assert_eq!((upkeep.reclaimed, upkeep.buried.len(), upkeep.grace_period), (1, 0, false));
    assert_eq!(world.check_invariants().await[job.id.as_str()], "exclusive");

    let suspect = claimed(&queue, "w").await;
    assert_eq!((&suspect.job.id, suspect.counts.crashes, suspect.is_exclusive()), (&job.id, 1, true));
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive), "nothing beside it");
    let other = world.queue().await;
    assert_eq!(claimed(&other, "w2").await.job.id, beside.id, "others go on");
    assert_eq!(queue.worker.settle(suspect, done(&job)).await.unwrap(), Settled::Settled);
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    assert_eq!(world.ask::<u64>("EXISTS", key("exclusive_lock")).await, 0);
}

#[tokio::test]
async fn a_second_crash_alone_buries_as_crash_loop_with_its_evidence() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    for _ in 0..2 {
        dies_with(claimed_into_child(&queue, "killed").await);
        world.expire(&job.id).await;
        let _: u64 = world.ask("DEL", key("exclusive_lock")).await; // its time is over too
        let upkeep = queue.worker.upkeep().await.unwrap();
        assert_eq!(upkeep.reclaimed, 1);
        if let [buried] = &upkeep.buried[..] {
            assert_eq!((&buried.id, buried.reason.kind), (&job.id, FailureKind::CrashLoop));
            assert_eq!(buried.pair, job.pair());
            assert_eq!((buried.reason.counts.crashes, buried.reason.counts.deliveries), (2, 2));
            assert_eq!(buried.reason.worker, "killed");
        }
    }
    assert_eq!(world.check_invariants().await[job.id.as_str()], "dead");
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    let letter = queue.operator.stored_job(&job.id).await.unwrap().unwrap();
    assert_eq!(letter.reason.unwrap().kind, FailureKind::CrashLoop);

    let _ = queue.operator.replay(std::slice::from_ref(&job.id)).await.unwrap();
    assert_eq!(
        world.check_invariants().await[job.id.as_str()],
        "exclusive",
        "what crashed runs alone when replayed"
    );
}

#[tokio::test]
async fn a_burial_is_told_though_a_later_step_of_the_same_round_fails() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    dies_with(claimed_into_child(&queue, "killed").await);
    world.expire(&job.id).await;
    queue.worker.upkeep().await.unwrap();
    dies_with(claimed_into_child(&queue, "killed").await);
    world.expire(&job.id).await;
    let _: () = world.ask("SET", &[key("scheduled"), "no ZSET".to_owned()]).await;
    let mut done = Upkeep::default();
    queue.worker.run_upkeep(&mut done).await.unwrap_err();
    assert_eq!(done.buried.iter().map(|buried| &buried.id).collect::<Vec<_>>(), [&job.id]);
}

#[tokio::test]
async fn a_suspect_waits_until_its_worker_has_empty_hands() {
    let world = World::new().await;
    let queue = world.queue().await;
    let suspect = enqueued(&queue).await;
    dies_with(claimed_into_child(&queue, "dead").await);
    let in_hand = enqueued(&queue).await;
    let in_hand = {
        assert!(!in_hand.pair().is_empty());
        claimed(&queue, "w").await
    };
    enqueued(&queue).await;
    world.expire(&suspect.id).await;
    queue.worker.upkeep().await.unwrap();
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive));
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive), "and again");
    let done = done(&in_hand.job);
    let _ = queue.worker.settle(in_hand, done).await.unwrap();
    let alone = claimed(&queue, "w").await;
    assert!(alone.is_exclusive());
    assert_eq!(alone.job.id, suspect.id);
}

#[tokio::test]
async fn suspects_do_not_starve_the_others() {
    let world = World::new().await;
    let queue = world.queue().await;
    let mut suspects = Vec::new();
    for _ in 0..3 {
        suspects.push(enqueued(&queue).await.id);
        dies_with(claimed_into_child(&queue, "dead").await);
    }
    for id in &suspects {
        world.expire(id).await;
    }
    queue.worker.upkeep().await.unwrap();
    let good = enqueued(&queue).await;
    let suspect = claimed(&queue, "w").await;
    assert!(suspect.is_exclusive());
    // It took a minute.
    let then = (world.now_ms().await - 60_000).to_string();
    let _: u64 = world.ask("HSET", &[&key(&format!("job:{}", suspect.job.id)), "claimed_ms", &then]).await;
    let verdict = done(&suspect.job);
    let _ = queue.worker.settle(suspect, verdict).await.unwrap();
    let next = claimed(&queue, "w").await;
    assert_eq!(next.job.id, good.id, "for a minute the others have their turn");
    let rest: u64 = world.ask("HGET", &[&key("meta"), "exclusive_rest_until_ms"]).await;
    assert!(rest > world.now_ms().await + 50_000);
}

#[tokio::test]
async fn a_lost_lease_never_settles() {
    let world = World::new().await;
    let (stale, fresh) = (world.queue().await, world.queue().await);
    let job = enqueued(&stale).await;
    for verdict in [done(&job), retry(Duration::ZERO), death(FailureKind::Gone, "a.test")] {
        let slow = claimed(&stale, "slow").await;
        let lease = slow.lease();
        world.expire(&job.id).await;
        fresh.worker.upkeep().await.unwrap();
        let _: u64 = world.ask("HDEL", &[&key(&format!("job:{}", job.id)), "crashes"]).await;
        let _: u64 = world.ask("DEL", key("exclusive_lock")).await;
        assert!(!stale.worker.confirm(&lease).await.unwrap());
        assert_eq!(
            stale.worker.heartbeat(&info("slow"), &[lease]).await.unwrap().lost,
            std::slice::from_ref(&job.id)
        );

        let current = claimed(&fresh, "fresh").await;
        let before = world.events().await.len();
        assert_eq!(stale.worker.settle(slow, verdict).await.unwrap(), Settled::Superseded);
        assert_eq!(world.events().await.len(), before, "it wrote nothing");
        assert_eq!(world.check_invariants().await[job.id.as_str()], "in_flight");
        assert!(fresh.worker.confirm(&current.lease()).await.unwrap());
        let _ = fresh.worker.release(current, ReleaseKind::Counted).await.unwrap();
        let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
    }
    let slow = claimed(&stale, "slow").await;
    world.expire(&job.id).await;
    fresh.worker.upkeep().await.unwrap();
    assert_eq!(stale.worker.release(slow, ReleaseKind::Counted).await.unwrap(), Settled::Superseded);
}

#[tokio::test]
async fn a_lease_that_ran_out_but_was_not_taken_over_still_settles() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    world.expire(&job.id).await;
    assert_eq!(queue.worker.settle(delivery, done(&job)).await.unwrap(), Settled::Settled);
}

#[tokio::test]
async fn a_beat_renews_what_is_held_and_shows_the_worker() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs = [enqueued(&queue).await, enqueued(&queue).await];
    let held = [claimed(&queue, "w").await, claimed(&queue, "w").await];
    for job in &jobs {
        world.expire(&job.id).await;
    }
    let leases: Vec<_> = held.iter().map(|d| d.lease()).collect();
    assert_eq!(queue.worker.heartbeat(&info("w"), &leases).await.unwrap(), Default::default());
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 0);
    let status = queue.status().await.unwrap();
    assert_eq!((status.in_flight, status.workers.len()), (2, 1));
    assert_eq!(status.workers[0].info, info("w"));
}

#[tokio::test]
async fn after_an_outage_nobody_is_blamed_in_bulk() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.worker.upkeep().await.unwrap();
    let held = several_deliveries(&world, &queue).await;
    // Nobody has kept time for an hour: the workers live, what they talk to was away.
    let long_ago = (world.now_ms().await - 3_600_000).to_string();
    let _: u64 = world.ask("HSET", &[&key("meta"), "tick_ms", &long_ago]).await;
    assert_calm_until_the_beats_are_back(&world, &queue, held).await;
}

#[tokio::test]
async fn after_a_restart_of_the_server_nobody_is_blamed_in_bulk() {
    let mut world = World::new().await;
    let queue = world.queue().await;
    queue.worker.upkeep().await.unwrap();
    let held = several_deliveries(&world, &queue).await;
    world.redis.restart().unwrap();
    world.look_again().await;
    let queue = world.queue().await;
    assert_calm_until_the_beats_are_back(&world, &queue, held).await;
}

#[tokio::test]
async fn after_the_clock_went_back_nobody_is_blamed_and_no_lease_lasts_for_ever() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.worker.upkeep().await.unwrap();
    let held = several_deliveries(&world, &queue).await;
    let now = world.now_ms().await;
    let (ahead, far) = ((now + 3_600_000).to_string(), (now + 3_690_000).to_string());
    let _: u64 = world.ask("HSET", &[&key("meta"), "tick_ms", &ahead]).await;
    let left_behind = &held[0].job.id;
    let _: u64 = world.ask("ZADD", &[&key("lease"), "XX", &far, left_behind.as_str()]).await;
    assert!(queue.worker.upkeep().await.unwrap().grace_period);
    let ends: f64 = world.ask("ZSCORE", &[&key("lease"), left_behind.as_str()]).await;
    assert!((ends as u64) < now + 120_000, "one lease from now, not an hour");
    assert_calm_until_the_beats_are_back(&world, &queue, held).await;
}

#[tokio::test]
async fn after_the_clock_went_back_a_suspect_waits_neither_for_it_nor_for_a_turn_that_was_somebodys() {
    let world = World::new().await;
    let queue = world.queue().await;
    let suspect = enqueued(&queue).await;
    dies_with(claimed_into_child(&queue, "dead").await);
    world.expire(&suspect.id).await;
    queue.worker.upkeep().await.unwrap();
    let hour = world.now_ms().await + 3_600_000;
    let (ahead, far) = (hour.to_string(), (hour + 90_000).to_string());
    let _: u64 = world.ask("HSET", &[&key("meta"), "tick_ms", &ahead, "exclusive_rest_until_ms", &far]).await;
    let _: u64 = world.ask("ZADD", &[&key("exclusive"), "XX", &ahead, suspect.id.as_str()]).await;
    let _: () = world.ask("SET", &[&key("exclusive_lock"), "gone", "PXAT", &far]).await;
    assert!(queue.worker.upkeep().await.unwrap().grace_period);
    let left: u64 = world.ask("PTTL", key("exclusive_lock")).await;
    assert!(left <= 90_000, "one lease from now, not an hour: {left}");
    let _: u64 = world.ask("DEL", key("exclusive_lock")).await; // its time is over
    assert!(claimed(&queue, "w").await.is_exclusive());
}

async fn several_deliveries(world: &World, queue: &Roles) -> Vec<wm_analyzer::queue::Delivery> {
    let mut held = Vec::new();
    for _ in 0..5 {
        enqueued(queue).await;
        held.push(claimed(queue, "w").await);
    }
    for delivery in &held {
        world.expire(&delivery.job.id).await;
    }
    held
}

async fn assert_calm_until_the_beats_are_back(
    world: &World,
    queue: &Roles,
    held: Vec<wm_analyzer::queue::Delivery>,
) {
    for _ in 0..3 {
        let upkeep = queue.worker.upkeep().await.unwrap();
        assert_eq!((upkeep.grace_period, upkeep.reclaimed), (true, 0));
    }
    let leases: Vec<_> = held.iter().map(|d| d.lease()).collect();
    assert_eq!(queue.worker.heartbeat(&info("w"), &leases[1..]).await.unwrap().lost, []);
    world.expire(&held[0].job.id).await;
    // A lease later only the one that nobody answers for is taken over.
    let _: u64 = world.ask("HSET", &[&key("meta"), "grace_until_ms", "1"]).await;
    let upkeep = queue.worker.upkeep().await.unwrap();
    assert_eq!((upkeep.grace_period, upkeep.reclaimed), (false, 1));
    assert_eq!(queue.status().await.unwrap().in_flight, 4);
    world.check_invariants().await;
}

#[tokio::test]
async fn kill_9_between_claim_and_settle_loses_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs = [enqueued(&queue).await, enqueued(&queue).await, enqueued(&queue).await];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashes::a_worker_that_claims_and_never_settles", "--ignored", "--nocapture"])
        .env("QUEUE_TEST_URL", world.redis.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("claimed 2")), "it has two in hand");
    child.kill().unwrap();
    child.wait().unwrap();
    let states = world.check_invariants().await;
    assert_eq!(states.values().filter(|state| *state == "in_flight").count(), 2);

    for job in &jobs[..2] {
        world.expire(&job.id).await;
    }
    queue.worker.upkeep().await.unwrap();
    until("all three are done", async || {
        queue.worker.upkeep().await.unwrap();
        if let Claim::Delivery(delivery) = queue.worker.claim(&worker("w")).await.unwrap() {
            let verdict = done(&delivery.job);
            assert_eq!(queue.worker.settle(*delivery, verdict).await.unwrap(), Settled::Settled);
        }
        world.counter("done").await == 3
    })
    .await;
    assert!(world.check_invariants().await.is_empty());
    let events: Vec<_> = world.events().await.into_iter().filter(|(kind, _)| kind == "done").collect();
    assert_eq!(events.len(), 3, "each once");
}

/// The process that is killed above.
#[tokio::test]
#[ignore = "not a test: a worker for another test to kill"]
async fn a_worker_that_claims_and_never_settles() {
    let Ok(url) = std::env::var("QUEUE_TEST_URL") else { return };
    let queue = Roles::connect(&config(&url)).await.unwrap();
    let _held = [claimed(&queue, "victim").await, claimed(&queue, "victim").await];
    println!("claimed 2");
    std::future::pending::<()>().await;
}
