//! Hosts that fail rest, and their jobs wait at no cost; hosts that are new share what one worker has.

use std::time::Duration;

use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Delivery, HostName, HostResumed, RestingHost, Settled, StartPermit};
use wm_testbed::roles::Roles;

use crate::start::in_line;
use crate::world::*;

const ILL: &str = "ill.test";

/// A world whose breakers and shares are as in production.
async fn world() -> World {
    let mut world = World::new().await;
    world.config.host_failures_max = 5;
    world.config.new_host_in_flight_max = 16;
    world
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn fails(kind: FailureKind, host: &str) -> Verdict {
    Verdict::Retry { after: Duration::from_secs(60), failure: Failure::new(kind, "503").at_host(host) }
}

async fn start(queue: &Roles, delivery: &Delivery, host: &str) -> StartPermit {
    queue.worker.start(&delivery.lease(), &somewhere(host)).await.unwrap()
}

/// A job that visits `host`.
async fn visitor(queue: &Roles, host: &str) -> Delivery {
    enqueued(queue).await;
    let delivery = claimed(queue, "w").await;
    assert_eq!(start(queue, &delivery, host).await, StartPermit::Granted);
    delivery
}

/// One visit of a new job that fails at its host.
async fn failed_visit(queue: &Roles, host: &str) -> (JobId, Settled) {
    let delivery = visitor(queue, host).await;
    let id = delivery.job.id.clone();
    (id, queue.worker.settle(delivery, fails(FailureKind::Upstream, host)).await.unwrap())
}

/// One visit that succeeds: both bodies came.
async fn good_visit(queue: &Roles, host: &str) {
    let delivery = visitor(queue, host).await;
    succeeds(queue, delivery).await;
}

async fn succeeds(queue: &Roles, delivery: Delivery) {
    assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
    let verdict = done(&delivery.job);
    assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
}

/// Five visitors fail, and the host rests.
async fn falls_ill(queue: &Roles, host: &str) -> Vec<JobId> {
    let mut ids = Vec::new();
    for visit in 1..=5 {
        let (id, settled) = failed_visit(queue, host).await;
        assert_eq!(settled, if visit < 5 { Settled::Settled } else { Settled::Waits }, "visit {visit}");
        ids.push(id);
    }
    ids
}

/// How long the host still rests, as Redis has it.
async fn rest_left(world: &World, host: &str) -> Option<i64> {
    let ends: Option<f64> = world.ask("ZSCORE", &[&key("resting_hosts"), host]).await;
    let now = i64::try_from(world.now_ms().await).unwrap();
    ends.map(|ends| ends as i64 - now)
}

/// Lets the rest of a host end now, and the rechecks of who waits for it.
async fn rest_ends(world: &World, queue: &Roles, host: &str) {
    let _: u64 = world.ask("ZADD", &[&key("resting_hosts"), "XX", "1", host]).await;
    let waiting: Vec<String> = world.ask("ZRANGE", &[&key(&format!("host_waiters:{host}")), "0", "-1"]).await;
    for id in waiting {
        let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", &id]).await;
    }
    let _ = queue.worker.upkeep().await.unwrap();
}

/// A job that finds `host` resting, and waits.
async fn made_to_wait(queue: &Roles, host: &str) -> JobId {
    in_line(queue, host).await
}

#[tokio::test]
async fn a_host_that_fails_five_times_in_a_row_rests_and_its_jobs_wait_uncounted() {
    let world = world().await;
    let queue = world.queue().await;
    let failed = falls_ill(&queue, ILL).await;
    let left = rest_left(&world, ILL).await.expect("it rests");
    assert!((8_000..=10_000).contains(&left), "{left}");
    assert_eq!(world.field(&failed[3], "failures").await.as_deref(), Some("1"), "it counts until then");
    assert_eq!(world.field(&failed[4], "failures").await, None, "not what made it rest");

    let waiting = made_to_wait(&queue, ILL).await;
    assert_eq!(world.field(&waiting, "deliveries").await.as_deref(), Some("0"));
    let elsewhere = visitor(&queue, "well.test").await;
    let verdict = done(&elsewhere.job);
    let _ = queue.worker.settle(elsewhere, verdict).await.unwrap();
    let resting = queue.status().await.unwrap().resting;
    assert_eq!((resting.breakers, resting.by_hand, resting.count()), (1, 0, 1));
    let [RestingHost { host, waiting: 2, failures: 5, kind, .. }] = &resting.most_waited_for[..] else {
        panic!("{resting:?}")
    };
    assert_eq!((host.as_str(), kind.as_str()), (ILL, "upstream"));
    world.check_invariants().await;
}

#[tokio::test]
async fn a_success_in_between_and_failures_of_few_jobs_let_no_host_rest() {
    let world = world().await;
    let queue = world.queue().await;
    for _ in 0..4 {
        let _ = failed_visit(&queue, ILL).await;
    }
    good_visit(&queue, ILL).await;
    for _ in 0..4 {
        assert_eq!(failed_visit(&queue, ILL).await.1, Settled::Settled);
    }
    // Two jobs whose own addresses always fail.
    let jobs = [enqueued(&queue).await, enqueued(&queue).await];
    for visit in 0..10 {
        for job in &jobs {
            let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", job.id.as_str()]).await;
        }
        let _ = queue.worker.upkeep().await.unwrap();
        for _ in &jobs {
            let delivery = claimed(&queue, "w").await;
            assert_eq!(start(&queue, &delivery, "other.test").await, StartPermit::Granted, "visit {visit}");
            let verdict = fails(FailureKind::Timeout, "other.test");
            assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
        }
    }
    assert_eq!(rest_left(&world, ILL).await, None);
    assert_eq!(rest_left(&world, "other.test").await, None);
    world.check_invariants().await;
}

#[tokio::test]
async fn a_failure_at_a_host_that_the_job_was_redirected_to_is_the_jobs_alone() {
    let world = world().await;
    let queue = world.queue().await;
    for _ in 0..6 {
        let delivery = visitor(&queue, "front.test").await;
        let verdict = fails(FailureKind::Connect, "behind.test");
        assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
    }
    assert_eq!(queue.status().await.unwrap().resting.count(), 0);
}

#[tokio::test]
async fn after_its_rest_one_job_at_a_time_probes_the_host_each_failure_doubles_it_and_each_probe_is_another()
{
    let world = world().await;
    let queue = world.queue().await;
    let made_it_rest = falls_ill(&queue, ILL).await.pop().unwrap();
    let line = [made_to_wait(&queue, ILL).await, made_to_wait(&queue, ILL).await];
    let mut probes = Vec::new();
    for rest in [20_000, 40_000, 80_000] {
        rest_ends(&world, &queue, ILL).await;
        let probe = claimed(&queue, "w").await;
        assert_eq!(start(&queue, &probe, ILL).await, StartPermit::Granted);
        let other = enqueued(&queue).await;
        let beside = claimed(&queue, "w").await;
        assert_eq!(beside.job.id, other.id, "one probe, not all that wait");
        assert_eq!(start(&queue, &beside, ILL).await, StartPermit::HostFull { host: ILL.into() });
        let full = Verdict::Postpone {
            after: Duration::ZERO,
            because: PostponeReason::HostFull { host: ILL.into() },
        };
        let _ = queue.worker.settle(beside, full).await.unwrap();
        probes.push(probe.job.id.clone());
        let settled = queue.worker.settle(probe, fails(FailureKind::Timeout, ILL)).await.unwrap();
        assert_eq!(settled, Settled::Waits);
        let left = rest_left(&world, ILL).await.unwrap();
        assert!((rest - 2_000..=rest).contains(&left), "{left} of {rest}");
        world.check_invariants().await;
    }
    probes.dedup();
    assert_eq!(probes.len(), 3, "each is another job");
    assert!(probes.contains(&line[0]) && probes.contains(&line[1]), "{probes:?}");
    for id in probes.iter().chain([&made_it_rest]) {
        let counts = [world.field(id, "failures").await, world.field(id, "postponements").await];
        assert_eq!(
            (counts, world.field(id, "deliveries").await.as_deref()),
            ([None, None], Some("0")),
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_probe_that_succeeds_closes_the_breaker_and_those_that_wait_are_claimable_at_once() {
    let world = world().await;
    let queue = world.queue().await;
    falls_ill(&queue, ILL).await;
    for _ in 0..30 {
        made_to_wait(&queue, ILL).await;
    }
    rest_ends(&world, &queue, ILL).await;
    let probe = claimed(&queue, "w").await;
    assert_eq!(start(&queue, &probe, ILL).await, StartPermit::Granted);
    succeeds(&queue, probe).await;
    assert_eq!(rest_left(&world, ILL).await, None);
    let states = world.check_invariants().await;
    let ready = states.values().filter(|state| *state == "ready").count();
    assert_eq!(ready, 30, "{states:?}");
    let resting = queue.status().await.unwrap().resting;
    assert_eq!(resting.count(), 0);
}

#[tokio::test]
async fn a_probe_that_would_have_been_the_last_attempt_waits_instead_of_being_buried() {
    let world = world().await;
    let queue = world.queue().await;
    falls_ill(&queue, ILL).await;
    rest_ends(&world, &queue, ILL).await;
    let probe = claimed(&queue, "w").await;
    assert_eq!(start(&queue, &probe, ILL).await, StartPermit::Granted);
    let Verdict::DeadLetter(mut reason) = death(FailureKind::Exhausted, ILL) else { panic!() };
    reason.failure = Failure::new(FailureKind::Timeout, "again").at_host(ILL);
    let id = probe.job.id.clone();
    assert_eq!(queue.worker.settle(probe, Verdict::DeadLetter(reason)).await.unwrap(), Settled::Waits);
    assert_eq!(world.check_invariants().await[id.as_str()], "scheduled");
}

#[tokio::test]
async fn a_host_that_asks_for_a_pause_gets_it_and_no_more_than_an_hour() {
    let world = world().await;
    let queue = world.queue().await;
    for (host, asked, least, most) in
        [("asks.test", 120, 118_000, 120_000), ("hostile.test", 864_000, 3_598_000, 3_600_000)]
    {
        for _ in 0..5 {
            let delivery = visitor(&queue, host).await;
            let mut failure = Failure::new(FailureKind::Upstream, "429").at_host(host);
            failure.retry_after = Some(Duration::from_secs(asked));
            let verdict = Verdict::Retry { after: Duration::from_secs(60), failure };
            let _ = queue.worker.settle(delivery, verdict).await.unwrap();
        }
        let left = rest_left(&world, host).await.unwrap();
        assert!((least..=most).contains(&left), "{host}: {left}");
    }
}

#[tokio::test]
async fn a_job_that_waited_for_a_week_fails_like_any_other_and_so_ends() {
    let world = world().await;
    let queue = world.queue().await;
    falls_ill(&queue, ILL).await;
    let old = made_to_wait(&queue, ILL).await;
    let week_ago = (world.now_ms().await - 7 * 86_400_000).to_string();
    let _: u64 = world.ask("HSET", &[&key(&format!("job:{old}")), "enqueued_ms", &week_ago]).await;
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", old.as_str()]).await;
    let _ = queue.worker.upkeep().await.unwrap();
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.job.id, old);
    let told = start(&queue, &delivery, ILL).await;
    assert_eq!(told, StartPermit::HostFails { host: ILL.into(), kind: FailureKind::Upstream });
    let before = rest_left(&world, ILL).await.unwrap();
    let settled = queue.worker.settle(delivery, fails(FailureKind::Upstream, ILL)).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert_eq!(world.field(&old, "failures").await.as_deref(), Some("1"));
    assert!(
        rest_left(&world, ILL).await.unwrap() <= before,
        "nobody was asked, so it is no news of the host"
    );
    world.check_invariants().await;
}

#[tokio::test]
async fn a_settle_whose_answer_is_lost_counts_the_failure_of_its_host_once() {
    let world = world().await;
    let queue = world.queue().await;
    let (lossy, proxy) = world.queue_over_a_proxy().await;
    let _ = failed_visit(&queue, ILL).await; // Redis knows the script: what is lost is its answer
    let delivery = visitor(&lossy, ILL).await;
    proxy.lose_next_answer();
    let unsettled = lossy.worker.settle(delivery, fails(FailureKind::Upstream, ILL)).await.unwrap_err();
    let settled = queue.worker.settle(unsettled.delivery, unsettled.verdict).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    let breaker: String = world.ask("HGET", &[&key("host_breakers"), ILL]).await;
    assert!(breaker.contains(r#""failures":2"#), "{breaker}");
}

#[tokio::test]
async fn an_operator_makes_a_host_rest_and_ends_its_rest_also_while_redis_is_full() {
    let world = world().await;
    let queue = world.queue().await;
    assert!(queue.operator.rest_host(&host(ILL), Duration::from_secs(900), "ann", "asked").await.unwrap());
    let waiting = made_to_wait(&queue, ILL).await;
    let resting = queue.status().await.unwrap().resting;
    assert_eq!((resting.breakers, resting.by_hand), (0, 1));
    let by_hand = resting.most_waited_for[0].by_hand.clone().unwrap();
    assert_eq!((by_hand.by.as_str(), by_hand.reason.as_str()), ("ann", "asked"));
    assert!((890_000..=900_000).contains(&resting.most_waited_for[0].left_ms));
    let _: () = world.ask("CONFIG", &["SET", "maxmemory", "1"]).await;
    assert!(queue.operator.rest_host(&host("b.test"), Duration::from_secs(60), "ann", "").await.unwrap());
    let resumed = queue.operator.resume_host(&host(ILL), "bob").await.unwrap();
    assert_eq!(resumed, HostResumed::Resumed(Some(by_hand)));
    assert_eq!(queue.operator.resume_host(&host(ILL), "bob").await.unwrap(), HostResumed::NotResting);
    assert_eq!(world.state(&waiting).await.as_deref(), Some("ready"));
    let _: () = world.ask("CONFIG", &["SET", "maxmemory", "0"]).await;
    world.check_invariants().await;

    falls_ill(&queue, "c.test").await;
    assert_eq!(queue.operator.resume_host(&host("c.test"), "bob").await.unwrap(), HostResumed::Resumed(None));
    assert_eq!(rest_left(&world, "c.test").await, None);
    let audit: Vec<(String, Vec<String>)> = world.ask("XRANGE", &[&key("audit"), "-", "+"]).await;
    let what: Vec<_> = audit.iter().map(|(_, fields)| fields[1].as_str()).collect();
    assert!(what.contains(&"pause host ill.test") && what.contains(&"resume host c.test"), "{what:?}");
}

#[tokio::test]
async fn what_fails_everywhere_is_remembered_of_ten_thousand_hosts_at_most() {
    let world = world().await;
    let queue = world.queue().await;
    let fill = "for i = 1, 10000 do redis.call('ZADD', KEYS[1], ARGV[1], i .. '.test')
        redis.call('HSET', KEYS[2], i .. '.test', '{}') redis.call('ZADD', KEYS[3], ARGV[1], i .. '.test') end";
    let now = world.now_ms().await.to_string();
    let keys = ["failed_hosts", "host_breakers", "resting_hosts"].map(key);
    let _: () = world.ask("EVAL", &[fill, "3", &keys[0], &keys[1], &keys[2], &now]).await;
    let _ = failed_visit(&queue, ILL).await;
    for (command, key) in [("ZCARD", &keys[0]), ("HLEN", &keys[1])] {
        assert_eq!(world.ask::<u64>(command, key).await, 10_000, "{key}");
    }
    let long_ago: &[&str] = &[&keys[0], "1", ILL];
    let _: u64 = world.ask("ZADD", long_ago).await;
    let _ = queue.worker.upkeep().await.unwrap();
    assert_eq!(world.ask::<u64>("HEXISTS", &[&keys[1], ILL]).await, 0, "an hour later it is forgotten");
}

#[tokio::test]
async fn new_hosts_together_hold_no_more_of_a_worker_than_its_share_and_proven_ones_go_on() {
    let world = world().await;
    let queue = world.queue().await;
    good_visit(&queue, "good.test").await;
    queue.worker.set_new_hosts_max(4);
    let mut inside = Vec::new();
    for n in 0..4 {
        inside.push(visitor(&queue, &format!("{n}.wild.test")).await);
    }
    let share = "~new:w:4";
    let mut line = Vec::new();
    for n in 4..7 {
        line.push(waits_for_share(&queue, &format!("{n}.wild.test"), share).await);
    }
    for _ in 0..20 {
        let _proven = visitor(&queue, "good.test").await;
    }
    world.check_invariants().await;
    // Who leaves calls the first of those that wait.
    let first = inside.remove(0);
    let verdict = fails(FailureKind::Timeout, "0.wild.test");
    let _ = queue.worker.settle(first, verdict).await.unwrap();
    let states = world.check_invariants().await;
    let states: Vec<_> = line.iter().map(|id| states[id.as_str()].as_str()).collect();
    assert_eq!(states, ["ready", "scheduled", "scheduled"]);
}

/// A job at a new host that finds the share full, and waits for it.
async fn waits_for_share(queue: &Roles, at: &str, share: &str) -> JobId {
    let job = enqueued(queue).await;
    let delivery = claimed(queue, "w").await;
    assert_eq!(start(queue, &delivery, at).await, StartPermit::HostFull { host: share.into() });
    let because = PostponeReason::HostFull { host: share.into() };
    let _ =
        queue.worker.settle(delivery, Verdict::Postpone { after: Duration::ZERO, because }).await.unwrap();
    job.id
}

#[tokio::test]
async fn when_a_permit_of_the_share_comes_back_all_that_no_longer_need_one_go_on() {
    let world = world().await;
    let (queue, other) = (world.queue().await, world.queue().await);
    queue.worker.set_new_hosts_max(1);
    let holder = visitor(&queue, "holder.test").await;
    let mut line = Vec::new();
    for host in ["proven.test", "still-new.test", "proven.test", "still-new.test", "proven.test"] {
        line.push(waits_for_share(&queue, host, "~new:w:1").await);
    }
    good_visit(&other, "proven.test").await;
    let verdict = fails(FailureKind::Timeout, "holder.test");
    let _ = queue.worker.settle(holder, verdict).await.unwrap();
    let states = world.check_invariants().await;
    let states: Vec<_> = line.iter().map(|id| states[id.as_str()].as_str()).collect();
    assert_eq!(states, ["ready", "ready", "ready", "scheduled", "ready"]);
}

#[tokio::test]
async fn one_new_host_holds_a_part_of_the_share_and_after_its_first_success_all_that_a_host_may() {
    let world = world().await;
    let queue = world.queue().await;
    queue.worker.set_new_hosts_max(128);
    let mut inside = Vec::new();
    for _ in 0..16 {
        inside.push(visitor(&queue, "new.test").await);
    }
    let mut line = Vec::new();
    for _ in 0..60 {
        line.push(made_to_wait(&queue, "new.test").await);
    }
    let _another = visitor(&queue, "other.test").await;
    succeeds(&queue, inside.remove(0)).await;
    let states = world.check_invariants().await;
    let ready = line.iter().filter(|id| states[id.as_str()] == "ready").count();
    assert_eq!(ready, 49, "64 less the 15 that are inside");
}

#[tokio::test]
async fn who_waits_for_the_share_of_new_hosts_goes_to_its_hosts_own_line_once_that_is_proven() {
    let world = world().await;
    let queue = world.queue().await;
    queue.worker.set_new_hosts_max(2);
    let slow = visitor(&queue, "slow.test").await;
    let good = visitor(&queue, "good.test").await;
    let mut line: Vec<(Job, &str)> = Vec::new();
    for host in ["dead.test", "good.test", "good.test"] {
        let job = enqueued(&queue).await;
        let delivery = claimed(&queue, "w").await;
        assert_eq!(start(&queue, &delivery, host).await, StartPermit::HostFull { host: "~new:w:2".into() });
        let because = PostponeReason::HostFull { host: "~new:w:2".into() };
        let _ = queue
            .worker
            .settle(delivery, Verdict::Postpone { after: Duration::ZERO, because })
            .await
            .unwrap();
        line.push((job, host));
    }
    succeeds(&queue, good).await;
    let states = world.check_invariants().await;
    for (job, host) in &line {
        assert_eq!(states[job.id.as_str()], "ready", "{host}: one has the place in the share, two need none");
    }
    drop(slow);
}
