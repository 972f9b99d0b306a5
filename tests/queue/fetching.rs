//! What is only being fetched when its worker vanishes or stops: it is innocent until few enough are left to tell.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Buried, CLAIM_MOST, Claim, Delivery, ReleaseKind, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::world::*;

/// Claims whatever there is, as a worker does that may fetch any number of jobs.
async fn claim_all(queue: &Roles) -> Vec<Delivery> {
    let mut held = Vec::new();
    loop {
        for claim in queue.worker.claim_many(&worker("w"), CLAIM_MOST).await.unwrap() {
            match claim {
                Claim::Delivery(delivery) => held.push(*delivery),
                Claim::Empty | Claim::Exclusive => return held,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The worker vanishes with all of these.
async fn vanishes(world: &World, queue: &Roles, held: Vec<Delivery>) -> Vec<Buried> {
    for delivery in held {
        world.expire(&dies_with(delivery).id).await;
    }
    let _: u64 = world.ask("DEL", key("exclusive_lock")).await; // its time is over too
    queue.worker.upkeep().await.unwrap().buried
}

async fn rest_is_over(world: &World) {
    let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
}

/// Jobs whose workers vanished so often while they were fetched, the last time all at once.
async fn suspected(world: &World, queue: &Roles, fetch_crashes: &[u32]) -> Vec<JobId> {
    let jobs: Vec<Job> = fetch_crashes.iter().map(|_| job()).collect();
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    let ids: Vec<JobId> = jobs.into_iter().map(|job| job.id).collect();
    for (id, times) in ids.iter().zip(fetch_crashes) {
        let before = (times - 1).to_string();
        let _: u64 = world.ask("HSET", &[&key(&format!("job:{id}")), "fetch_crashes", &before]).await;
    }
    let held = claim_all(queue).await;
    assert_eq!((held.len(), vanishes(world, queue, held).await.len()), (ids.len(), 0));
    ids
}

#[tokio::test]
async fn a_killer_that_is_fetched_among_two_hundred_is_buried_after_six_workers_and_none_of_the_others_is() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.worker.upkeep().await.unwrap();
    let jobs: Vec<Job> = (0..201).map(|_| job()).collect();
    for batch in jobs.chunks(CLAIM_MOST) {
        let _ = queue.producer.enqueue(batch).await.unwrap();
    }
    let killer = jobs[77].id.clone();
    let (mut deaths, mut buried) = (0, Vec::new());
    while buried.is_empty() {
        let held = claim_all(&queue).await;
        rest_is_over(&world).await;
        if held.iter().any(|delivery| delivery.job.id == killer) {
            deaths += 1;
            assert!(deaths <= 8, "it is still at large");
            buried.extend(vanishes(&world, &queue, held).await);
            continue;
        }
        for delivery in held {
            assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
            let verdict = done(&delivery.job);
            assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
        }
    }
    assert_eq!(deaths, 6);
    let [Buried { id, reason, .. }] = &buried[..] else { panic!("{buried:?}") };
    assert_eq!((id, reason.kind, reason.counts.fetch_crashes), (&killer, FailureKind::CrashLoop, 6));
    assert_eq!(reason.counts.crashes, 0);
    assert!(reason.failure.detail.contains("6 times while it fetched"), "{}", reason.failure.detail);
    assert_eq!(world.ask::<Vec<String>>("KEYS", key("suspect:*")).await, [""; 0], "no content is suspected");
    for delivery in claim_all(&queue).await {
        let verdict = done(&delivery.job);
        let _ = queue.worker.settle(delivery, verdict).await.unwrap();
    }
    assert_eq!(world.counter("done").await, 200);
    let left = world.check_invariants().await;
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [(killer.to_string(), "dead".to_owned())]);
    let _ = queue.operator.replay(std::slice::from_ref(&killer)).await.unwrap();
    let held = claim_all(&queue).await;
    assert!(held[0].is_exclusive(), "it runs alone when it is replayed");
    assert_eq!(vanishes(&world, &queue, held).await.len(), 1, "and is buried again at once");
}

#[tokio::test]
async fn what_vanished_while_it_was_fetched_goes_back_to_its_place_twice() {
    let world = World::new().await;
    let queue = world.queue().await;
    let first = enqueued(&queue).await;
    enqueued(&queue).await;
    for times in 1..=2 {
        let held = claimed(&queue, "w").await;
        assert_eq!(held.job.id, first.id, "at its old place");
        vanishes(&world, &queue, vec![held]).await;
        assert_eq!(world.check_invariants().await[first.id.as_str()], "ready");
        assert_eq!(world.field(&first.id, "fetch_crashes").await, Some(times.to_string()));
        assert_eq!(world.field(&first.id, "crashes").await, None);
    }
    vanishes(&world, &queue, vec![claimed(&queue, "w").await]).await;
    assert_eq!(world.check_invariants().await[first.id.as_str()], "exclusive");
}

#[tokio::test]
async fn a_job_that_enters_a_child_has_been_fetched_and_is_suspected_of_that_no_more() {
    let world = World::new().await;
    let queue = world.queue().await;
    let [id] = &suspected(&world, &queue, &[4]).await[..] else { panic!("one job") };
    let held = claimed(&queue, "w").await;
    assert!(held.is_exclusive());
    assert!(queue.worker.enter_child(&held.lease()).await.unwrap());
    let verdict = retry(Duration::ZERO);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1);
    assert_eq!(world.check_invariants().await[id.as_str()], "ready");
    assert_eq!(claimed(&queue, "w").await.counts.fetch_crashes, 0);
}

#[tokio::test]
async fn suspects_of_one_kind_run_together_and_the_last_to_end_gives_the_turn_back() {
    let world = World::new().await;
    let (queue, other) = (world.queue().await, world.queue().await);
    for (fetch_crashes, together) in [(3, 8), (4, 2), (5, 1)] {
        let ids = suspected(&world, &queue, &[fetch_crashes; 9]).await;
        let mut left = ids.len();
        while left > 0 {
            let group = claim_all(&queue).await;
            assert_eq!(group.len(), together.min(left));
            assert!(group.iter().all(Delivery::is_exclusive));
            left -= group.len();
            enqueued(&queue).await;
            assert!(
                matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive),
                "nothing beside them"
            );
            let beside = claimed(&other, "v").await;
            assert!(!beside.is_exclusive(), "others go on");
            let verdict = done(&beside.job);
            let _ = other.worker.settle(beside, verdict).await.unwrap();
            let leases: Vec<_> = group.iter().map(Delivery::lease).collect();
            let _: u64 = world.ask("PEXPIRE", &[&key("exclusive_lock"), "45000"]).await;
            for (nth, delivery) in group.into_iter().enumerate() {
                let _ = queue.worker.heartbeat(&info("w"), &leases[nth..]).await.unwrap();
                assert!(
                    world.ask::<i64>("PTTL", key("exclusive_lock")).await > 45_000,
                    "renewed with any of them"
                );
                let verdict = done(&delivery.job);
                let _ = queue.worker.settle(delivery, verdict).await.unwrap();
            }
            assert_eq!(world.ask::<u64>("EXISTS", key("exclusive_lock")).await, 0, "all have ended");
            rest_is_over(&world).await;
        }
    }
    world.check_invariants().await;
}

#[tokio::test]
async fn a_group_holds_suspects_of_one_kind_and_no_more_than_its_worker_takes() {
    let world = World::new().await;
    let queue = world.queue().await;
    let ids = suspected(&world, &queue, &[3, 4, 3, 5, 4, 3, 3]).await;
    for expected in [&[0, 2, 5][..], &[1, 4], &[3], &[6]] {
        let claims = queue.worker.claim_many(&worker("w"), 3).await.unwrap();
        let mut claimed = Vec::new();
        for claim in claims {
            let Claim::Delivery(delivery) = claim else { panic!("{claim:?}") };
            claimed.push(ids.iter().position(|id| *id == delivery.job.id).unwrap());
            let verdict = done(&delivery.job);
            let _ = queue.worker.settle(*delivery, verdict).await.unwrap();
        }
        assert_eq!(claimed, expected);
        rest_is_over(&world).await;
    }
    world.check_invariants().await;
}

#[tokio::test]
async fn a_content_that_killed_before_does_not_run_in_a_group() {
    let world = World::new().await;
    let queue = world.queue().await;
    let killer = somewhere("a.test");
    enqueued(&queue).await;
    let held = claimed(&queue, "w").await;
    assert_eq!(queue.worker.start(&held.lease(), &killer).await.unwrap(), StartPermit::Granted);
    assert!(queue.worker.enter_child(&held.lease()).await.unwrap());
    vanishes(&world, &queue, vec![held]).await;
    let verdict = death(FailureKind::Crashed, "a.test");
    let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
    rest_is_over(&world).await;

    suspected(&world, &queue, &[4, 4]).await;
    let group = claim_all(&queue).await;
    assert_eq!(group.len(), 2);
    let permit = queue.worker.start(&group[0].lease(), &killer).await.unwrap();
    assert_eq!(permit, StartPermit::Suspect);
}

#[tokio::test]
async fn deploys_one_after_another_make_no_suspects_of_what_is_being_fetched() {
    let mut world = World::new().await;
    world.config.releases_exclusive = 3;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    for _ in 0..10 {
        let held = claimed(&queue, "w").await;
        assert_eq!((held.is_exclusive(), held.counts.deliveries, held.counts.releases), (false, 1, 0));
        assert_eq!(queue.worker.release(held, ReleaseKind::WhileFetching).await.unwrap(), Settled::Settled);
    }
    assert_eq!(world.check_invariants().await[job.id.as_str()], "ready");
}

#[tokio::test]
async fn a_suspect_that_must_wait_for_its_host_leaves_its_group() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    suspected(&world, &queue, &[4, 4]).await;
    let mut group = claim_all(&queue).await;
    let full = PostponeReason::HostFull { host: "slow.test".to_owned() };
    let verdict = Verdict::Postpone { after: Duration::ZERO, because: full };
    let waits = group.remove(0);
    let _ = queue.worker.settle(waits, verdict).await.unwrap();
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive), "one still runs");
    let last = group.remove(0);
    let verdict = done(&last.job);
    let _ = queue.worker.settle(last, verdict).await.unwrap();
    rest_is_over(&world).await;
    assert!(claimed(&queue, "w").await.is_exclusive());
    world.check_invariants().await;
}
