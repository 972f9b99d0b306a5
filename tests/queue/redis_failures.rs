//! Redis in trouble, and what is left of the promises then.

use std::time::{Duration, Instant};

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::queue::{Admission, Claim, Error, RedisAddress, ReleaseKind, Settled, StartPermit};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

use crate::world::*;

#[tokio::test]
async fn a_script_flush_in_mid_run_is_not_noticed() {
    let world = World::new().await;
    let queue = world.queue().await;
    let flush = async || world.ask::<()>("SCRIPT", "FLUSH").await;
    for verdict in [None, Some(retry(Duration::ZERO)), Some(death(FailureKind::Gone, "a.test"))] {
        flush().await;
        let job = enqueued(&queue).await;
        flush().await;
        let delivery = claimed(&queue, "w").await;
        flush().await;
        queue.worker.heartbeat(&info("w"), &[delivery.lease()]).await.unwrap();
        flush().await;
        let verdict = verdict.unwrap_or_else(|| done(&job));
        assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
        flush().await;
        queue.worker.upkeep().await.unwrap();
    }
    world.check_invariants().await;
}

#[tokio::test]
async fn a_full_redis_admits_nothing_loses_nothing_and_still_settles() {
    let world = World::new().await;
    let queue = world.queue().await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(enqueued(&queue).await);
    }
    dies_with(claimed_into_child(&queue, "dead").await);
    world.push(job().encode()).await;
    world.expire(&jobs[0].id).await;
    // What fills it are this queue's own jobs: finishing them makes room.
    let many: Vec<_> = (0..4000).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&many).await.unwrap();
    let full = async |on| {
        let info: String = world.ask("INFO", "memory").await;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        let bytes = if on { used.parse::<u64>().unwrap() - 2_000_000 } else { 0 };
        world.ask::<()>("CONFIG", &["SET", "maxmemory", &bytes.to_string()]).await;
    };
    full(true).await;
    until("it is full", async || {
        let info: String = world.ask("INFO", "memory").await;
        let number = |name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.parse().unwrap()
        };
        number("used_memory:") - number("mem_not_counted_for_evict:") > number("maxmemory:")
    })
    .await;
    let refused = queue.producer.enqueue(&[job()]).await.unwrap_err();
    assert!(matches!(refused, Error::Full(_)) && refused.is_transient(), "{refused}");
    let taken = queue.worker.ingest().await.unwrap();
    assert!(taken.full && taken.admitted == 0 && taken.left == 1, "{taken:?}");

    let held = claimed(&queue, "w").await;
    assert_eq!(queue.worker.heartbeat(&info("w"), &[held.lease()]).await.unwrap().lost, []);
    assert!(queue.worker.confirm(&held.lease()).await.unwrap());
    let permit = queue.worker.start(&held.lease(), &somewhere("a.test")).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    assert!(queue.worker.enter_child(&held.lease()).await.unwrap());
    let verdict = done(&held.job);
    assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Settled);
    let held = claimed(&queue, "w").await;
    assert_eq!(queue.worker.settle(held, retry(Duration::ZERO)).await.unwrap(), Settled::Settled);
    let held = claimed(&queue, "w").await;
    assert_eq!(queue.worker.settle(held, death(FailureKind::Gone, "a")).await.unwrap(), Settled::Settled);
    assert_eq!(
        queue.worker.release(claimed(&queue, "w").await, ReleaseKind::Counted).await.unwrap(),
        Settled::Settled
    );
    let upkeep = queue.worker.upkeep().await.unwrap();
    assert_eq!((upkeep.reclaimed, upkeep.promoted), (1, 1));
    let suspect = claimed(&queue, "w").await;
    assert!(suspect.is_exclusive());
    let verdict = done(&suspect.job);
    let _ = queue.worker.settle(suspect, verdict).await.unwrap();

    full(false).await;
    assert_eq!(queue.status().await.unwrap().inbox, 1, "nothing was lost");
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 1);
    world.check_invariants().await;
}

/// Carries out every verdict once: a first call only learns that the script is not there yet.
async fn load_the_scripts(queue: &Roles) {
    for verdict in [
        None,
        Some(Verdict::Skip(a_skip())),
        Some(retry(Duration::ZERO)),
        Some(death(FailureKind::Gone, "a")),
    ] {
        let job = enqueued(queue).await;
        let verdict = verdict.unwrap_or_else(|| done(&job));
        let _ = queue.worker.settle(claimed(queue, "w").await, verdict).await.unwrap();
    }
    queue.worker.upkeep().await.unwrap();
    let last = claimed(queue, "w").await;
    let verdict = death(FailureKind::Gone, "a");
    let _ = queue.worker.settle(last, verdict).await.unwrap();
}

fn a_skip() -> Skip {
    Skip::new(SkipReason::Content, "a PDF")
}

#[tokio::test]
async fn a_settle_whose_answer_was_lost_is_not_carried_out_twice() {
    let world = World::new().await;
    let (queue, proxy) = world.queue_over_a_proxy().await;
    load_the_scripts(&queue).await;
    // To the second try it looks as it was: settled.
    for (verdict, again) in [
        (None, Settled::Settled),
        (Some(Verdict::Skip(a_skip())), Settled::Settled),
        (Some(retry(Duration::from_secs(60))), Settled::Settled),
        (Some(death(FailureKind::Gone, "a.test")), Settled::Settled),
    ] {
        let job = enqueued(&queue).await;
        let delivery = claimed(&queue, "w").await;
        let before = world.events().await.len();
        proxy.lose_next_answer();
        let verdict = verdict.unwrap_or_else(|| done(&job));
        let label = verdict.as_str();
        let counted = world.counter(label).await;
        let unsettled = queue.worker.settle(delivery, verdict).await.expect_err("no answer");
        assert!(unsettled.source.is_transient(), "{}", unsettled.source);
        let twice = queue.worker.settle(unsettled.delivery, unsettled.verdict).await.unwrap();
        assert_eq!(twice, again, "{label}");
        assert_eq!(world.events().await.len(), before + 1, "{label}: once");
        assert_eq!(world.counter(label).await, counted + 1, "{label}: once");
        world.check_invariants().await;
    }
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_hands_out_the_same_job_to_the_next_claim() {
    let world = World::new().await;
    let (queue, proxy) = world.queue_over_a_proxy().await;
    load_the_scripts(&queue).await;
    let jobs = [enqueued(&queue).await, enqueued(&queue).await];
    proxy.lose_next_answer();
    let lost = queue.worker.claim(&worker("w")).await.expect_err("no answer");
    assert!(lost.is_transient(), "{lost}");
    assert_eq!(world.state(&jobs[0].id).await.as_deref(), Some("in_flight"));
    let delivery = claimed(&queue, "w").await;
    assert_eq!((&delivery.job.id, delivery.counts.deliveries), (&jobs[0].id, 1), "the same delivery");
    assert_eq!(claimed(&queue, "w").await.job.id, jobs[1].id);
    assert_eq!(queue.worker.settle(delivery, done(&jobs[0])).await.unwrap(), Settled::Settled);
}

#[tokio::test]
async fn a_claim_that_was_given_up_hands_out_the_same_job_to_the_next_claim() {
    let world = World::new().await;
    let queue = world.queue().await;
    load_the_scripts(&queue).await;
    let job = enqueued(&queue).await;
    world.ask::<()>("CLIENT", &["PAUSE", "300", "WRITE"]).await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), queue.worker.claim(&worker("w"))).await;
    assert!(given_up.is_err());
    until("the server has handed it out", async || {
        world.state(&job.id).await.as_deref() == Some("in_flight")
    })
    .await;
    assert_eq!(claimed(&queue, "w").await.counts.deliveries, 1);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again_and_what_was_in_hand_is_settled() {
    let mut world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    world.redis.kill();
    let unsettled = queue.worker.settle(delivery, done(&job)).await.expect_err("nobody there");
    assert!(unsettled.source.is_transient(), "{}", unsettled.source);
    assert!(queue.worker.claim(&worker("w")).await.unwrap_err().is_transient());
    world.redis.restart().unwrap();
    world.look_again().await;
    let settled = queue.worker.settle(unsettled.delivery, unsettled.verdict).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn a_server_that_still_loads_what_it_kept_is_waited_for() {
    // It looks up from its file every thousand commands, and takes half a millisecond for each.
    let durable = RedisOptions::default().persistent().set("appendfsync", "always");
    let slow = durable.set("key-load-delay", "500");
    let redis = PrivateRedis::start(slow).unwrap();
    let url = redis.url();
    let world = World::at(redis, &url).await;
    let queue = world.queue().await;
    let jobs: Vec<_> = (0..600).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    let held = claimed(&queue, "w").await;
    let World { mut redis, .. } = world;
    redis.kill();
    let restarted = tokio::task::spawn_blocking(move || redis.restart().map(|()| redis));
    while queue.status().await.is_ok() {}
    let (mut held, mut verdict) = (held, done(&jobs[0]));
    let mut said = Vec::new();
    loop {
        match queue.worker.settle(held, verdict).await {
            Ok(settled) => break assert_eq!(settled, Settled::Settled),
            Err(unsettled) => {
                assert!(unsettled.source.is_transient() && said.len() < 3000, "{}", unsettled.source);
                said.push(unsettled.source.to_string());
                (held, verdict) = (unsettled.delivery, unsettled.verdict);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    assert!(said.iter().any(|said| said.contains("loading")), "{said:?}");
    let _redis = restarted.await.unwrap().unwrap();
    assert_eq!(queue.status().await.unwrap().ready, 599);
}

#[tokio::test]
async fn waiting_ends_at_once_when_a_job_comes_and_never_spins_when_redis_is_away() {
    let mut world = World::new().await;
    let queue = world.queue().await;
    let start = Instant::now();
    queue.worker.wait(Duration::from_millis(300)).await;
    assert!(start.elapsed() >= Duration::from_millis(290), "nothing came");

    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.worker.wait(Duration::from_secs(20)).await }
    });
    until("somebody waits", async || {
        let clients: String = world.ask("INFO", "clients").await;
        clients.contains("blocked_clients:1")
    })
    .await;
    let start = Instant::now();
    enqueued(&queue).await;
    waiting.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    let waking: u64 = world.ask("LLEN", key("wake")).await;
    assert!(waking <= 1);

    world.redis.kill();
    let start = Instant::now();
    queue.worker.wait(Duration::from_millis(300)).await;
    assert!(start.elapsed() >= Duration::from_millis(290));
}

#[tokio::test]
async fn one_wake_token_wakes_as_many_workers_as_there_are_jobs() {
    let world = World::new().await;
    let mut workers = Vec::new();
    for n in 0..3 {
        let queue = world.queue().await;
        workers.push(tokio::spawn(async move {
            loop {
                if let Claim::Delivery(_held) = queue.worker.claim(&worker(&format!("w{n}"))).await.unwrap() {
                    return std::future::pending::<()>().await;
                }
                queue.worker.wait(Duration::from_secs(3600)).await;
            }
        }));
    }
    until("all wait", async || world.ask::<String>("INFO", "clients").await.contains("blocked_clients:3"))
        .await;
    let queue = world.queue().await;
    let _ = queue.producer.enqueue(&[job(), job(), job()]).await.unwrap();
    until("each has one", async || queue.status().await.unwrap().in_flight == 3).await;
    for worker in workers {
        worker.abort();
    }
}

#[tokio::test]
async fn a_key_space_of_a_newer_build_is_not_touched() {
    let world = World::new().await;
    let _: u64 = world.ask("HSET", &[&key("meta"), "schema", "99"]).await;
    let refused = Roles::connect(&world.config).await.unwrap_err();
    assert!(matches!(refused, Error::NewerSchema { found: 99, known: 3 }) && !refused.is_transient());
}

#[tokio::test]
async fn preflight_tells_what_the_server_is_and_refuses_one_that_evicts() {
    let world = World::new().await;
    let queue = world.queue().await;
    let server = queue.preflight().await.unwrap();
    assert!(server.aof && !server.run_id.is_empty() && server.role == "master");
    assert!(server.clock_ahead_ms.abs() < 2_000, "{}", server.clock_ahead_ms);
    server.fit_for_work().unwrap();
    world.ask::<()>("CONFIG", &["SET", "maxmemory-policy", "allkeys-lru"]).await;
    let refused = queue.preflight().await.unwrap().fit_for_work().unwrap_err();
    assert!(refused.to_string().contains("allkeys-lru"), "{refused}");
}

#[test]
fn an_address_that_is_none_is_refused_without_showing_its_password() {
    for url in ["http://user:geheim@h/", "redis://:geheim@h:port", "geheim"] {
        let refused = url.parse::<RedisAddress>().unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("geheim"), "{refused}");
    }
}

#[tokio::test]
async fn hints_that_cannot_be_written_fail_no_truth() {
    let world = World::new().await;
    let queue = world.queue().await;
    world.ask::<()>("SET", &[&key("events"), "somebody else's"]).await;
    let job = enqueued(&queue).await;
    let settled = queue.worker.settle(claimed(&queue, "w").await, done(&job)).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert_eq!(queue.producer.enqueue(&[twin(&job)]).await.unwrap(), [Admission::AlreadyDone]);
}
