//! At `maxmemory` work goes on, and frees memory.

use futures_util::future::join_all;
use wm_analyzer::queue::{Claim, Config, Delivery, ReportsWhenFull, Settled};
use wm_testbed::roles::Roles;

use super::{APP, admitted, done_with, world};
use crate::world::*;

/// Memory in use as Redis compares it with `maxmemory`.
async fn used(world: &World) -> u64 {
    let info: String = world.ask("INFO", "memory").await;
    let number = |name: &str| {
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap().parse::<u64>().unwrap()
    };
    number("used_memory") - number("mem_not_counted_for_evict")
}

#[tokio::test]
async fn at_maxmemory_each_settle_shrinks_redis() {
    // So many before it is full, by which each index has its final form; and so many then.
    const BEFORE: usize = 150;
    const JOBS: usize = BEFORE + 200;
    let world = world().await;
    let queue = Roles::connect_for(&world.config, APP).await.unwrap();
    let jobs = admitted(&queue, JOBS).await;
    // One by one: each delivery has a token of its own, which is what costs most.
    let mut deliveries = Vec::new();
    for _ in 0..JOBS {
        deliveries.push(claimed(&queue, "w").await);
    }
    let settle = async |delivery: Delivery| {
        let verdict = done_with(&delivery.job, 50_000);
        assert_eq!(queue.worker.settle(delivery, verdict).await.unwrap(), Settled::Settled);
    };
    for delivery in deliveries.drain(..BEFORE) {
        settle(delivery).await;
    }
    let full = used(&world).await - 1_000_000;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", &full.to_string()]).await;
    let mut samples = vec![used(&world).await];
    while !deliveries.is_empty() {
        for delivery in deliveries.drain(..20) {
            settle(delivery).await;
        }
        let used = used(&world).await;
        assert!(used > full, "it is full all the time");
        samples.push(used);
    }
    println!("used {samples:?}");
    // A server's own tables grow in leaps; what the settles do shows over all.
    assert!(samples.windows(2).all(|two| two[1] <= two[0] + 256 * 1024), "{samples:?}");
    assert!(samples.last() < samples.first(), "{samples:?}");
    for (n, job) in jobs.iter().enumerate() {
        let from = job.from.given().unwrap().uuid();
        let report = queue.report(from, job.to.uuid()).await.unwrap().unwrap();
        assert!(
            if n < BEFORE { report.len() > 50_000 } else { report.len() <= 600 },
            "{n}: {}",
            report.len()
        );
        assert_eq!(report.contains(r#""omitted":["changes","bodies""#), n >= BEFORE, "{report}");
    }
}

/// Admits, claims and settles until nothing more is claimed; how many, and the highest memory in use.
async fn drained(world: &World, queue: &Roles) -> (usize, u64) {
    let (mut settled, mut highest) = (0, 0);
    loop {
        queue.worker.ingest().await.unwrap();
        let mut settles = Vec::new();
        for claim in queue.worker.claim_many(&worker("w"), 32).await.unwrap() {
            match claim {
                Claim::Delivery(delivery) => {
                    let verdict = done_with(&delivery.job, 20_000);
                    settles.push(queue.worker.settle(*delivery, verdict));
                }
                Claim::NoRoom(_) | Claim::Empty => return (settled, highest),
                odd => panic!("{odd:?}"),
            }
        }
        settled += settles.len();
        assert!(join_all(settles).await.into_iter().all(|settled| settled.unwrap() == Settled::Settled));
        queue.worker.upkeep().await.unwrap();
        highest = highest.max(used(world).await);
    }
}

#[tokio::test]
async fn an_inbox_that_fills_redis_is_not_exchanged_for_results_that_take_more() {
    const JOBS: usize = 20_000;
    let mut world = world().await;
    world.config = Config { reports_when_full: ReportsWhenFull::Wait, events_max: 100, ..world.config };
    let queue = world.queue().await;
    queue.worker.seed_settings().await.unwrap();
    // Scripts and buffers are memory too, in some servers: they are there before it is full.
    const WARM_UP: usize = 64;
    let _ = admitted(&queue, WARM_UP).await;
    assert_eq!(drained(&world, &queue).await.0, WARM_UP);
    queue.operator.free_results(1000, None).await.unwrap();
    let payloads: Vec<_> = (0..JOBS).map(|_| job().encode()).collect();
    queue.producer.push(&payloads).await.unwrap();
    let max = used(&world).await * 100 / 95;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", &max.to_string()]).await;
    let (mut settled, mut highest, mut rounds) = (0, 0, 0);
    while settled < JOBS {
        let (more, most) = drained(&world, &queue).await;
        (settled, highest, rounds) = (settled + more, highest.max(most), rounds + 1);
        assert!(more > 0, "freed results make room for others: {settled} in round {rounds}");
        queue.operator.free_results(1000, None).await.unwrap();
    }
    println!("maxmemory {max}, highest {highest} ({:+}), {rounds} rounds", highest as i64 - max as i64);
    assert!(highest <= max + (2 << 20), "{highest} of {max}");
    assert_eq!(queue.status().await.unwrap().memory.done_count, (JOBS + WARM_UP) as u64);
    assert!(world.check_invariants().await.is_empty());
}
