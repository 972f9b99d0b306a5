//! Going in: what killed before runs alone under any id, and no host, nor all of them together, sees more than it may.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::page::PagePair;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Actor, Claim, Delivery, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::world::*;

fn alone() -> Verdict {
    Verdict::Postpone { after: Duration::ZERO, because: PostponeReason::Suspect }
}

pub fn full(host: &str) -> Verdict {
    Verdict::Postpone { after: Duration::ZERO, because: PostponeReason::HostFull { host: host.to_owned() } }
}

/// Starts a delivery and puts it into a child.
async fn enters(queue: &Roles, delivery: &Delivery, pair: &PagePair) {
    assert_eq!(queue.worker.start(&delivery.lease(), pair).await.unwrap(), StartPermit::Granted);
    assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
}

/// A job that is in someone's hands and has gone in.
pub async fn inside(queue: &Roles, name: &str, pair: &PagePair) -> Delivery {
    enqueued(queue).await;
    let delivery = claimed(queue, name).await;
    enters(queue, &delivery, pair).await;
    delivery
}

/// A job that found `host` full and waits for it.
pub async fn in_line(queue: &Roles, host: &str) -> JobId {
    let id = enqueued(queue).await.id;
    let delivery = claimed(queue, "w").await;
    assert_eq!(delivery.job.id, id);
    let entry = queue.worker.start(&delivery.lease(), &somewhere(host)).await.unwrap();
    assert_eq!(entry, StartPermit::HostFull { host: host.to_owned() });
    assert_eq!(queue.worker.settle(delivery, full(host)).await.unwrap(), Settled::Settled);
    id
}

async fn vanishes(world: &World, queue: &Roles, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        world.expire(&dies_with(delivery).id).await;
    }
    let _: u64 = world.ask("DEL", key("exclusive_lock")).await; // its time is over too
    queue.worker.upkeep().await.unwrap();
    let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
}

async fn suspects(world: &World) -> Vec<String> {
    world.ask("KEYS", key("suspect:*")).await
}

#[tokio::test]
async fn a_killer_that_comes_again_under_a_new_id_runs_alone_and_nothing_is_counted_for_it() {
    let world = World::new().await;
    let (queue, other) = (world.queue().await, world.queue().await);
    let killer = somewhere("a.test");
    let held = inside(&queue, "dead", &killer).await;
    let first = held.job.id.clone();
    vanishes(&world, &queue, vec![held]).await;
    let [suspect] = &suspects(&world).await[..] else { panic!("one suspect") };
    let lives: i64 = world.ask("PTTL", suspect).await;
    assert!((29 * 86_400_000..=30 * 86_400_000).contains(&lives), "{lives}");
    let verdict = death(FailureKind::Crashed, "a.test");
    let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
    assert_eq!(world.state(&first).await.as_deref(), Some("dead"));
    let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;

    let beside = inside(&queue, "w", &somewhere("a.test")).await;
    let again = enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.job.id, again.id);
    assert_eq!(queue.worker.start(&delivery.lease(), &killer).await.unwrap(), StartPermit::Suspect);
    assert_eq!(queue.worker.settle(delivery, alone()).await.unwrap(), Settled::Settled);
    assert_eq!(world.check_invariants().await[again.id.as_str()], "exclusive");
    assert!(
        matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Exclusive),
        "not beside the other"
    );
    assert!(
        matches!(other.worker.claim(&worker("v")).await.unwrap(), Claim::Empty),
        "nor while w has its turn"
    );
    let verdict = done(&beside.job);
    let _ = queue.worker.settle(beside, verdict).await.unwrap();

    let delivery = claimed(&queue, "w").await;
    assert!(delivery.is_exclusive());
    let counts = delivery.counts;
    assert_eq!((counts.deliveries, counts.crashes, counts.releases, counts.postponements), (1, 0, 0, 0));
    enters(&queue, &delivery, &killer).await;
    let _ = queue.worker.settle(delivery, done(&again)).await.unwrap();
    assert_eq!(suspects(&world).await, [""; 0], "it survived");
    world.check_invariants().await;
}

#[tokio::test]
async fn nothing_that_was_merely_beside_a_killer_is_blamed_by_id_or_by_content() {
    let world = World::new().await;
    let queue = world.queue().await;
    let (killer, good, unread) = (somewhere("a.test"), somewhere("a.test"), enqueued(&queue).await);
    let fetched = claimed(&queue, "dead").await;
    assert_eq!(
        queue.worker.start(&fetched.lease(), &somewhere("a.test")).await.unwrap(),
        StartPermit::Granted
    );
    let held = vec![fetched, inside(&queue, "dead", &killer).await, inside(&queue, "dead", &good).await];
    let ids: [JobId; 3] = std::array::from_fn(|at| held[at].job.id.clone());
    vanishes(&world, &queue, held).await;
    assert_eq!(suspects(&world).await.len(), 2, "what had not gone in killed nobody");
    let states = world.check_invariants().await;
    assert_eq!(ids.each_ref().map(|id| &*states[id.as_str()]), ["ready", "exclusive", "exclusive"]);

    for _ in 0..3 {
        let delivery = claimed(&queue, "w").await;
        assert_eq!(delivery.is_exclusive(), delivery.job.id != unread.id);
        if delivery.job.id == ids[1] {
            enters(&queue, &delivery, &killer).await;
            vanishes(&world, &queue, vec![delivery]).await;
        } else {
            enters(&queue, &delivery, &good).await;
            let verdict = done(&delivery.job);
            let _ = queue.worker.settle(delivery, verdict).await.unwrap();
            let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
        }
    }
    assert_eq!(
        world.check_invariants().await.into_iter().collect::<Vec<_>>(),
        [(ids[1].to_string(), "dead".to_owned())]
    );
    assert_eq!(suspects(&world).await.len(), 1, "the killer's content stays known");
    let letter = queue.operator.stored_job(&ids[1]).await.unwrap().unwrap().reason.unwrap();
    assert_eq!((letter.kind, letter.counts.crashes), (FailureKind::CrashLoop, 2));
    let fresh = inside(&queue, "w", &good).await;
    assert!(!fresh.is_exclusive());
}

#[tokio::test]
async fn what_ends_a_suspicion_is_to_have_survived_or_a_newer_build() {
    let world = World::new().await;
    let queue = world.queue().await;
    let pair = somewhere("a.test");
    let held = inside(&queue, "dead", &pair).await;
    vanishes(&world, &queue, vec![held]).await;
    let [suspect] = &suspects(&world).await[..] else { panic!("one suspect") };
    let known = async || world.ask::<u64>("EXISTS", suspect).await == 1;
    let skip = |reason| Verdict::Skip(Skip::new(reason, ""));

    // A job is cancelled while it runs, tried again, and refused before it went in: none of them says anything.
    let running = claimed(&queue, "w").await;
    enters(&queue, &running, &pair).await;
    let _ = queue.worker.settle(running, skip(SkipReason::Cancelled)).await.unwrap();
    assert!(known().await, "cancelled");
    for verdict in [retry(Duration::from_secs(3600)), skip(SkipReason::MediaType)] {
        enqueued(&queue).await;
        let label = verdict.as_str();
        let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
        let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
        assert!(known().await, "{label}");
    }

    world.ask::<()>("SET", &[suspect.as_str(), "999.0.0"]).await;
    enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    assert_eq!(
        queue.worker.start(&delivery.lease(), &pair).await.unwrap(),
        StartPermit::Suspect,
        "we are the older build"
    );
    world.ask::<()>("SET", &[suspect.as_str(), "0.0.99"]).await;
    assert_eq!(
        queue.worker.start(&delivery.lease(), &pair).await.unwrap(),
        StartPermit::Granted,
        "and now the newer one"
    );
    assert!(!known().await);

    world.ask::<()>("SET", &[suspect.as_str(), "0.0.99"]).await;
    assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
    let _ = queue.worker.settle(delivery, skip(SkipReason::Content)).await.unwrap();
    assert!(!known().await, "what turned out to be a PDF was survived");
}

#[tokio::test]
async fn a_stale_worker_neither_goes_in_nor_clears_a_suspicion() {
    let world = World::new().await;
    let (stale, fresh) = (world.queue().await, world.queue().await);
    let pair = somewhere("a.test");
    let slow = inside(&stale, "slow", &pair).await;
    world.expire(&slow.job.id).await;
    fresh.worker.upkeep().await.unwrap();
    assert_eq!(stale.worker.start(&slow.lease(), &pair).await.unwrap(), StartPermit::Lost);
    let verdict = done(&slow.job);
    assert_eq!(stale.worker.settle(slow, verdict).await.unwrap(), Settled::Superseded);
    assert_eq!(suspects(&world).await.len(), 1);
    world.check_invariants().await;
}

#[tokio::test]
async fn no_more_jobs_are_in_hand_than_may_be_over_all_workers_together() {
    let mut world = World::new().await;
    world.config.in_flight_max = 3;
    let (one, two) = (world.queue().await, world.queue().await);
    for _ in 0..6 {
        enqueued(&one).await;
    }
    let mut held =
        vec![claimed_into_child(&one, "one").await, claimed(&two, "two").await, claimed(&one, "one").await];
    for (queue, name) in [(&one, "one"), (&two, "two")] {
        assert!(matches!(queue.worker.claim(&worker(name)).await.unwrap(), Claim::Full));
    }
    let delivery = held.pop().unwrap();
    let verdict = done(&delivery.job);
    let _ = one.worker.settle(delivery, verdict).await.unwrap();
    held.push(claimed(&two, "two").await);
    assert!(matches!(one.worker.claim(&worker("one")).await.unwrap(), Claim::Full));
    // A worker vanishes: what it held is free with its lease.
    world.expire(&held[0].job.id).await;
    one.worker.upkeep().await.unwrap();
    drop(held.remove(0));
    assert!(
        matches!(two.worker.claim(&worker("two")).await.unwrap(), Claim::Exclusive),
        "its job waits for empty hands"
    );
    assert_eq!(two.status().await.unwrap().in_flight, 2);
}

#[tokio::test]
async fn a_host_sees_no_more_than_it_may_and_waiting_for_it_counts_against_nothing() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 2;
    let (queue, other) = (world.queue().await, world.queue().await);
    let mut held = vec![
        inside(&queue, "w", &somewhere("slow.test")).await,
        inside(&other, "v", &somewhere("slow.test")).await,
    ];
    let waiting = in_line(&queue, "slow.test").await;
    assert_eq!(world.check_invariants().await[waiting.as_str()], "scheduled");
    held.push(inside(&queue, "w", &somewhere("fast.test")).await);

    // Even when its time has come it is not brought back to be refused again.
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", waiting.as_str()]).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 0);
    let due: u64 = world.ask("ZSCORE", &[&key("scheduled"), waiting.as_str()]).await;
    assert!(due > world.now_ms().await + 20_000, "not looked at again at once");

    let first = held.remove(0);
    let verdict = done(&first.job);
    let _ = queue.worker.settle(first, verdict).await.unwrap();
    assert_eq!(world.check_invariants().await[waiting.as_str()], "ready", "called as soon as there is room");
    let delivery = claimed(&other, "v").await;
    let counts = delivery.counts;
    assert_eq!(delivery.job.id, waiting);
    assert_eq!((counts.deliveries, counts.releases, counts.postponements, counts.postponed_ms), (1, 0, 0, 0));
    assert_eq!(
        other.worker.start(&delivery.lease(), &somewhere("slow.test")).await.unwrap(),
        StartPermit::Granted
    );
    assert_eq!(
        other.worker.start(&delivery.lease(), &somewhere("slow.test")).await.unwrap(),
        StartPermit::Granted,
        "twice is once"
    );
    world.check_invariants().await;
}

#[tokio::test]
async fn a_dead_workers_permits_come_back_with_its_lease_and_who_waits_is_called() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let held = inside(&queue, "dead", &somewhere("slow.test")).await;
    let waiting = in_line(&queue, "slow.test").await;
    vanishes(&world, &queue, vec![held]).await;
    assert_eq!(world.check_invariants().await[waiting.as_str()], "ready");
    assert_eq!(world.ask::<u64>("EXISTS", key("host:slow.test")).await, 0);
}

#[tokio::test]
async fn permits_are_taken_at_both_hosts_or_at_none() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let held = inside(&queue, "w", &somewhere("b.test")).await;
    enqueued(&queue).await;
    let both = claimed(&queue, "w").await;
    let pair = at("http://a.test/", "http://b.test/");
    let entry = queue.worker.start(&both.lease(), &pair).await.unwrap();
    assert_eq!(entry, StartPermit::HostFull { host: "b.test".into() });
    let free = inside(&queue, "w", &somewhere("a.test")).await;
    let _ = queue.worker.settle(both, full("b.test")).await.unwrap();
    // Called by b, it finds a full, and stands in that line now.
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let both = claimed(&queue, "w").await;
    let entry = queue.worker.start(&both.lease(), &pair).await.unwrap();
    assert_eq!(entry, StartPermit::HostFull { host: "a.test".into() });
    let _ = queue.worker.settle(both, full("a.test")).await.unwrap();
    let verdict = done(&free.job);
    let _ = queue.worker.settle(free, verdict).await.unwrap();
    let both = claimed(&queue, "w").await;
    assert_eq!(queue.worker.start(&both.lease(), &pair).await.unwrap(), StartPermit::Granted);
    let permits: u64 = world.ask("SCARD", key("host:a.test")).await;
    assert_eq!(permits + world.ask::<u64>("SCARD", key("host:b.test")).await, 2);
    world.check_invariants().await;
}

#[tokio::test]
async fn who_is_called_and_does_not_go_in_calls_the_next() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let held = inside(&queue, "w", &somewhere("slow.test")).await;
    let line = [in_line(&queue, "slow.test").await, in_line(&queue, "slow.test").await];
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let stock = world.check_invariants().await;
    assert_eq!((&*stock[line[0].as_str()], &*stock[line[1].as_str()]), ("ready", "scheduled"), "one for one");
    let called = claimed(&queue, "w").await;
    let _ = queue.worker.settle(called, retry(Duration::from_secs(60))).await.unwrap();
    assert_eq!(world.check_invariants().await[line[1].as_str()], "ready");
}

#[tokio::test]
async fn a_permit_that_comes_free_while_a_job_is_on_its_way_to_the_line_is_not_missed() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let held = inside(&queue, "w", &somewhere("slow.test")).await;
    enqueued(&queue).await;
    let late = claimed(&queue, "w").await;
    let entry = queue.worker.start(&late.lease(), &somewhere("slow.test")).await.unwrap();
    assert!(matches!(entry, StartPermit::HostFull { .. }));
    let verdict = done(&held.job);
    let _ = queue.worker.settle(held, verdict).await.unwrap();
    let id = late.job.id.clone();
    let _ = queue.worker.settle(late, full("slow.test")).await.unwrap();
    assert_eq!(world.check_invariants().await[id.as_str()], "ready");
}

#[tokio::test]
async fn nobody_waits_for_a_host_who_is_cancelled_or_too_late() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let _held = inside(&queue, "w", &somewhere("slow.test")).await;
    let [cancelled, expired] = [in_line(&queue, "slow.test").await, in_line(&queue, "slow.test").await];
    assert!(queue.operator.cancel(&cancelled, Actor::default()).await.unwrap());
    let _: u64 = world.ask("HSET", &[&key(&format!("job:{expired}")), "expires_ms", "1"]).await;
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", expired.as_str()]).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 2);
    world.check_invariants().await;
    for _ in 0..2 {
        let Claim::NotNeeded(delivery, skip) = queue.worker.claim(&worker("w")).await.unwrap() else {
            panic!()
        };
        let _ = queue.worker.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
    }
    world.check_invariants().await;
}

#[tokio::test]
async fn a_suspect_that_finds_its_host_full_waits_in_line_and_is_then_alone_again() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let (queue, other) = (world.queue().await, world.queue().await);
    let held = inside(&queue, "dead", &somewhere("slow.test")).await;
    let id = held.job.id.clone();
    enqueued(&other).await;
    let beside = claimed(&other, "v").await;
    vanishes(&world, &queue, vec![held]).await;
    assert_eq!(
        other.worker.start(&beside.lease(), &somewhere("slow.test")).await.unwrap(),
        StartPermit::Granted
    );
    let suspect = claimed(&queue, "w").await;
    assert!(suspect.is_exclusive());
    assert!(matches!(
        queue.worker.start(&suspect.lease(), &somewhere("slow.test")).await.unwrap(),
        StartPermit::HostFull { .. }
    ));
    let _ = queue.worker.settle(suspect, full("slow.test")).await.unwrap();
    assert_eq!(world.check_invariants().await[id.as_str()], "scheduled");
    let verdict = done(&beside.job);
    let _ = other.worker.settle(beside, verdict).await.unwrap();
    assert_eq!(world.check_invariants().await[id.as_str()], "exclusive");
}

#[tokio::test]
async fn ten_thousand_in_a_hosts_line_hold_up_nobody_else() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let _held = inside(&queue, "w", &somewhere("slow.test")).await;
    let jobs: Vec<Job> = (0..10_000).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    // As if each had been claimed and found the host full, and all of them were due again by now.
    let stand_in_line = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
        redis.call('ZADD', KEYS[2], 1, id) redis.call('ZADD', KEYS[3], 1, id)
        redis.call('HSET', KEYS[4] .. id, 'state', 'scheduled', 'waits_for_host', 'slow.test') end
        return redis.call('DEL', KEYS[1])";
    let keys = ["ready", "scheduled", "host_waiters:slow.test", "job:"].map(key);
    let [ready, scheduled, line, jobs] = &keys;
    let _: u64 = world.ask("EVAL", &[stand_in_line, "4", ready, scheduled, line, jobs]).await;
    let _: u64 = world.ask("ZADD", &[&key("waiting_hosts"), "10000", "slow.test"]).await;
    // A retry that is due behind all of them is promoted within a few rounds; none of them is.
    let retried = inside(&queue, "w", &somewhere("fast.test")).await;
    let id = retried.job.id.clone();
    let _ = queue.worker.settle(retried, retry(Duration::ZERO)).await.unwrap();
    let mut promoted = Vec::new();
    for _ in 0..6 {
        promoted.push(queue.worker.upkeep().await.unwrap().promoted);
    }
    assert_eq!(promoted.iter().sum::<u64>(), 1, "{promoted:?}");
    assert_eq!(world.state(&id).await.as_deref(), Some("ready"));
    let horizon = (world.now_ms().await + 90_000).to_string();
    let soon: u64 = world.ask("ZCOUNT", &[&key("scheduled"), "-inf", &horizon]).await;
    assert_eq!(soon, 0, "ten thousand are looked at over a hundred seconds, not all at once");
    world.check_invariants().await;
}
