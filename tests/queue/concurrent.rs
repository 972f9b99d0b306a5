//! Several at once: one call claims them, one call ends them, and each is still judged on its own.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use wm_analyzer::job::Job;
use wm_analyzer::queue::{CLAIM_MOST, Claim, Delivery, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::world::*;

async fn enqueue(queue: &Roles, count: usize) -> Vec<Job> {
    let jobs: Vec<Job> = (0..count).map(|_| job()).collect();
    for batch in jobs.chunks(CLAIM_MOST) {
        let _ = queue.producer.enqueue(batch).await.unwrap();
    }
    jobs
}

async fn claim(queue: &Roles, name: &str, most: usize) -> Vec<Delivery> {
    let claims = queue.worker.claim_many(&worker(name), most).await.unwrap();
    let deliveries = claims.into_iter().map(|claim| match claim {
        Claim::Delivery(delivery) => *delivery,
        other => panic!("{other:?}"),
    });
    deliveries.collect()
}

fn ids<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Vec<&'a str> {
    jobs.into_iter().map(|job| job.id.as_str()).collect()
}

/// How many scripts the server has run.
async fn scripts(world: &World) -> u64 {
    let stats: String = world.ask("INFO", "commandstats").await;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_claim_for_many_hands_out_the_first_in_their_order_and_never_more_than_asked_for() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs = enqueue(&queue, CLAIM_MOST + 7).await;
    let three = claim(&queue, "w", 3).await;
    assert_eq!(ids(three.iter().map(|d| &d.job)), ids(&jobs[..3]));
    assert!(three.iter().all(|d| d.counts.deliveries == 1 && !d.is_exclusive()));
    let most = claim(&queue, "w", usize::MAX).await;
    assert_eq!(ids(most.iter().map(|d| &d.job)), ids(&jobs[3..CLAIM_MOST + 3]));
    assert_eq!(claim(&queue, "w", 50).await.len(), 4, "what is left");
    assert!(matches!(queue.worker.claim_many(&worker("w"), 50).await.unwrap()[..], [Claim::Empty]));
    world.check_invariants().await;
}

#[tokio::test]
async fn an_id_without_a_job_is_cleared_away_and_costs_nobody_the_claim() {
    let world = World::new().await;
    let queue = world.queue().await;
    // As after a restore from an old backup: the order knows of jobs that are gone.
    for place in ["ready", "exclusive"] {
        let _: u64 = world.ask("ZADD", &[&key(place), "0", "gone", "0", "lost"]).await;
    }
    let jobs = enqueue(&queue, 2).await;
    assert_eq!(ids(claim(&queue, "w", 2).await.iter().map(|d| &d.job)), ids(&jobs));
    assert!(matches!(queue.worker.claim_many(&worker("w"), 2).await.unwrap()[..], [Claim::Empty]));
    assert_eq!(world.check_invariants().await.len(), 2, "nothing is left of them");
}

#[tokio::test]
async fn many_that_end_at_the_same_moment_share_a_call_and_each_has_its_own_answer() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueue(&queue, 60).await;
    let hands = claim(&queue, "w", 60).await;
    let lost = hands[41].job.id.clone();
    world.expire(&lost).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    let before = scripts(&world).await;
    let settled = join_all(hands.into_iter().map(|delivery| async {
        let (id, verdict) = (delivery.job.id.clone(), done(&delivery.job));
        (id, queue.worker.settle(delivery, verdict).await.unwrap())
    }));
    for (id, settled) in settled.await {
        assert_eq!(settled, if id == lost { Settled::Superseded } else { Settled::Settled }, "{id}");
    }
    let calls = scripts(&world).await - before;
    assert!(calls < 10, "{calls} calls for 60 jobs");
    assert_eq!(world.counter("done").await, 59);
    let left = world.check_invariants().await;
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [(lost.to_string(), "ready".to_owned())]);
}

#[tokio::test]
async fn the_job_that_is_given_the_slot_enters_in_the_call_that_settles_the_one_before() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueue(&queue, 21).await;
    let mut deliveries = claim(&queue, "w", 21).await;
    let first = deliveries.remove(0);
    let verdict = done(&first.job);
    let _ = queue.worker.settle(first, verdict).await.unwrap(); // loads the script, by a call that fails
    let slot = Arc::new(Semaphore::new(1));
    let before = scripts(&world).await;
    let jobs = deliveries.into_iter().map(|delivery| {
        let (queue, slot) = (queue.clone(), Arc::clone(&slot));
        tokio::spawn(async move {
            let slot = slot.acquire().await.unwrap();
            assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
            drop(slot); // as in the pipeline: the next job has it while this one is settled
            let verdict = done(&delivery.job);
            assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
        })
    });
    join_all(jobs).await.into_iter().for_each(|ended| ended.unwrap());
    assert_eq!(scripts(&world).await - before, 21, "the first enters alone, the last is settled alone");
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn many_that_start_at_the_same_moment_share_a_call_and_take_no_more_permits_than_a_host_has() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 2;
    let queue = world.queue().await;
    enqueue(&queue, 60).await;
    let hands = claim(&queue, "w", 60).await;
    let lost = hands[41].job.id.clone();
    world.expire(&lost).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    let before = scripts(&world).await;
    // Thirty hosts: each has room for two, and three jobs want to visit each; every fifth visits another one too.
    let permits = join_all(hands.iter().enumerate().map(|(n, delivery)| {
        let (first, second) = (n % 20, if n % 5 == 0 { 20 + n % 10 } else { n % 20 });
        let pair = at(&format!("http://h{first}.test/{n}"), &format!("http://h{second}.test/{n}"));
        let (queue, lease) = (&queue, delivery.lease());
        async move { (lease.id.clone(), queue.worker.start(&lease, &pair).await.unwrap()) }
    }))
    .await;
    let calls = scripts(&world).await - before;
    assert!(calls < 5, "{calls} calls for 60 jobs");
    let mut full = 0;
    for (id, permit) in permits {
        match permit {
            StartPermit::Lost => assert_eq!(id, lost),
            StartPermit::Granted => assert_ne!(id, lost),
            StartPermit::HostFull { host } => {
                full += 1;
                let hosts = world.field(&id, "hosts").await.unwrap();
                assert!(hosts.split(' ').any(|one| one == host), "{host}: {hosts}");
                assert_eq!(world.ask::<u64>("SCARD", key(&format!("host:{host}"))).await, 2, "{host}");
            }
            StartPermit::Suspect | StartPermit::HostFails { .. } => panic!("{id}"),
        }
    }
    assert!(full >= 19, "{full}");
    for host in world.ask::<Vec<String>>("KEYS", key("host:*")).await {
        assert!(world.ask::<u64>("SCARD", &host).await <= 2, "{host}");
    }
    world.check_invariants().await;
}

#[tokio::test]
async fn a_slot_that_ends_one_job_and_begins_the_next_makes_one_call() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueue(&queue, 40).await;
    let mut hands = claim(&queue, "w", 40).await;
    let lost = hands[3].job.id.clone();
    world.expire(&lost).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    let ending = hands.split_off(20);
    for delivery in &hands {
        world.expire(&delivery.job.id).await;
    }
    let before = scripts(&world).await;
    let slots = join_all(ending.into_iter().zip(&hands).map(|(ends, begins)| async {
        let (verdict, begins) = (done(&ends.job), begins.lease());
        tokio::join!(queue.worker.settle(ends, verdict), queue.worker.enter_child(&begins))
    }));
    for ((settled, entered), begins) in slots.await.into_iter().zip(&hands) {
        assert_eq!(settled.unwrap(), Settled::Settled);
        assert_eq!(entered.unwrap(), begins.job.id != lost, "{}", begins.job.id);
    }
    let calls = scripts(&world).await - before;
    assert!(calls < 5, "{calls} calls for 20 slots");
    assert_eq!(world.counter("done").await, 20);
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 0, "what entered has its lease renewed");
    assert_eq!(world.field(&lost, "entered").await, None, "its lease was lost");
    world.check_invariants().await;
}

#[tokio::test]
async fn one_that_cannot_be_ended_holds_up_no_other() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueue(&queue, 20).await;
    let hands = claim(&queue, "w", 20).await;
    let ill = hands[7].job.id.clone();
    let lock = key(&format!("unique:{}", world.field(&ill, "unique").await.unwrap()));
    let _: u64 = world.ask("DEL", &lock).await;
    let _: u64 = world.ask("RPUSH", &[&lock, "what is no string"]).await;
    let settled = join_all(hands.into_iter().map(|delivery| async {
        let (id, verdict) = (delivery.job.id.clone(), done(&delivery.job));
        (id, queue.worker.settle(delivery, verdict).await)
    }));
    for (id, settled) in settled.await {
        match settled {
            Ok(settled) => assert!(id != ill && settled == Settled::Settled),
            Err(unsettled) => assert_eq!((&unsettled.delivery.job.id, &id), (&ill, &ill)),
        }
    }
    assert_eq!(world.state(&ill).await.as_deref(), Some("in_flight"), "not half ended");
    assert_eq!(world.counter("done").await, 19);
}

#[tokio::test]
async fn a_lost_answer_for_many_is_given_again_whole_to_the_next_claim() {
    let world = World::new().await;
    let (queue, proxy) = world.queue_over_a_proxy().await;
    // A first call only learns that the script is not there yet.
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    let jobs = enqueue(&queue, 6).await;
    proxy.lose_next_answer();
    assert!(queue.worker.claim_many(&worker("w"), 5).await.unwrap_err().is_transient());
    let again = claim(&queue, "w", 2).await;
    let mut given: Vec<&str> = ids(again.iter().map(|delivery| &delivery.job));
    given.sort_unstable();
    let mut asked = ids(&jobs[..5]);
    asked.sort_unstable();
    assert_eq!(given, asked);
    assert!(again.iter().all(|delivery| delivery.counts.deliveries == 1), "counted once");
    assert_eq!(ids(claim(&queue, "w", 2).await.iter().map(|d| &d.job)), ids(&jobs[5..]));
    for delivery in again {
        let verdict = done(&delivery.job);
        assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
    }
}

#[tokio::test]
async fn a_lost_answer_is_found_by_its_token_however_many_others_have_claimed_since() {
    let world = World::new().await;
    let (queue, proxy) = world.queue_over_a_proxy().await;
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    let jobs = enqueue(&queue, 3).await;
    proxy.lose_next_answer();
    assert!(queue.worker.claim_many(&worker("w"), 3).await.unwrap_err().is_transient());
    let other = world.queue().await;
    enqueue(&other, 700).await;
    let mut beside = Vec::new();
    while beside.len() < 700 {
        beside.extend(claim(&other, "v", CLAIM_MOST).await);
    }
    // One of them was lost in between.
    world.expire(&jobs[1].id).await;
    assert_eq!(other.worker.upkeep().await.unwrap().reclaimed, 1);
    let again = claim(&queue, "w", 3).await;
    assert_eq!(ids(again.iter().map(|delivery| &delivery.job)), [jobs[0].id.as_str(), jobs[2].id.as_str()]);
    let life: i64 = world.ask("PTTL", key("claim:w")).await;
    assert!((80_000..=90_000).contains(&life), "{life}");
    assert_eq!(ids(claim(&queue, "w", 3).await.iter().map(|d| &d.job)), ids(&jobs[1..2]));
    queue.worker.leave(&worker("w")).await.unwrap();
    assert_eq!(world.ask::<u64>("EXISTS", key("claim:w")).await, 0);
}
