//! What a fleet costs, and what happens when the worker that looks after the queue goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;
use wm_analyzer::queue::{Claim, Presence, WorkerHandle, WorkerId};

use crate::harness::{Worker, World, until};

/// The timings of production, which are what a fleet costs.
const USUAL_TIMINGS: [(&str, &str); 4] = [
    ("worker.heartbeat", "5s"),
    ("worker.ingest_every", "200ms"),
    ("worker.upkeep_every", "1s"),
    ("sandbox.slots", "1"),
];
/// How long commands are counted: two rounds of the rarest, the idle looker's look at everything.
const COUNTED_FOR: Duration = Duration::from_secs(50);
/// Queue loops without sandboxes, and the most that they may cost together.
const LOOPS: usize = 500;
const LOOPS_MAX_PER_SECOND: f64 = 2_500.0;
/// The most commands per second of an idle worker in a fleet, and of one that does all the looking.
const WORKER_MAX_PER_SECOND: f64 = 5.0;
const LOOKER_MAX_PER_SECOND: f64 = 10.0;

/// Calls of each command so far, those inside scripts too.
async fn calls(world: &World) -> BTreeMap<String, u64> {
    let info: String = world.redis_cmd("INFO", "commandstats").await;
    let each = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    each.collect()
}

/// Commands per second over a while, and the dearest of them.
async fn commands_per_second(world: &World) -> (f64, String) {
    let (before, start) = (calls(world).await, Instant::now());
    tokio::time::sleep(COUNTED_FOR).await;
    let after = calls(world).await;
    let took = start.elapsed().as_secs_f64();
    let each = after.iter().map(|(name, count)| (count - before.get(name).unwrap_or(&0), name));
    let mut each: Vec<_> = each.filter(|(count, _)| *count > 0).collect();
    each.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = each.iter().map(|(count, _)| count).sum();
    let dearest = each.iter().take(12).map(|(count, name)| format!("{name} {:.2}", *count as f64 / took));
    (total as f64 / took, dearest.collect::<Vec<_>>().join(", "))
}

async fn idle_fleet(world: &World, size: usize) -> Vec<Worker> {
    let fleet: Vec<_> = (0..size).map(|_| world.worker_with(&USUAL_TIMINGS)).collect();
    until("all work, and one looks", async || {
        let status = world.queue.status().await.unwrap();
        status.workers.len() == size && status.looker.is_some()
    })
    .await;
    fleet
}

/// The worker that looks after the queue now.
async fn looker(world: &World) -> Option<u32> {
    let status = world.queue.status().await.unwrap();
    let looks = |id: &WorkerId| Some(id.as_str()) == status.looker.as_deref();
    status.workers.iter().find(|worker| looks(&worker.info.id)).map(|worker| worker.info.pid)
}

#[tokio::test]
async fn an_idle_worker_costs_the_same_few_commands_alone_and_in_a_fleet() {
    let world = World::new().await;
    let mut fleet = idle_fleet(&world, 1).await;
    let (alone, dearest) = commands_per_second(&world).await;
    println!("1 idle worker: {alone:.2} commands/s: {dearest}");
    fleet.extend((1..8).map(|_| world.worker_with(&USUAL_TIMINGS)));
    until("all work", async || world.queue.status().await.unwrap().workers.len() == 8).await;
    let (all, dearest) = commands_per_second(&world).await;
    let each = all / 8.0;
    println!("8 idle workers: {each:.2} commands/s each, {all:.2} together: {dearest}");
    assert!(alone <= LOOKER_MAX_PER_SECOND, "{alone:.2} commands/s alone");
    assert!(each <= WORKER_MAX_PER_SECOND, "{each:.2} commands/s each: {dearest}");
}

/// What an idle worker asks of Redis, without a sandbox.
async fn idle_loop(queue: WorkerHandle, number: usize) {
    let info = Presence {
        id: WorkerId::parse(&format!("loop-{number}")).unwrap(),
        host: "h".into(),
        pid: 7,
        version: "0".into(),
        phase: "running".into(),
        slots: 1,
        slots_limit: 1,
        slots_limited_by: None,
        busy: 0,
        heartbeat_every_ms: 5_000,
        breakers: BTreeMap::new(),
        breaker_reasons: Default::default(),
        db_app: String::new(),
        in_flight: Vec::new(),
    };
    // Spread over the longest interval, as workers that started at different times are.
    tokio::time::sleep(Duration::from_millis(number as u64 * 5_000 / LOOPS as u64)).await;
    let beats = async {
        loop {
            queue.heartbeat(&info, &[]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let looks = async {
        loop {
            let (looker, seen) = queue.published().await.unwrap();
            assert!(looker.is_some() && seen.is_some(), "somebody looks, and says what it sees");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let claims = async {
        loop {
            let claims = queue.claim_many(&info.id, 1).await.unwrap();
            assert!(matches!(claims[..], [Claim::Empty]), "{claims:?}");
            queue.wait(Duration::from_secs(10)).await;
        }
    };
    tokio::join!(beats, looks, claims);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_workers_cost_five_hundred_times_what_one_costs() {
    let world = World::new().await;
    let _looker = idle_fleet(&world, 1).await;
    until("it has looked", async || world.queue.worker.published().await.unwrap().1.is_some()).await;
    let mut loops = JoinSet::new();
    for number in 1..LOOPS {
        loops.spawn(idle_loop(world.queue.worker.clone(), number));
    }
    until("all have a heartbeat", async || {
        world.redis_cmd::<usize>("ZCARD", crate::harness::key("workers")).await == LOOPS
    })
    .await;
    let (all, dearest) = commands_per_second(&world).await;
    println!("{LOOPS} idle workers: {all:.0} commands/s, {:.2} each: {dearest}", all / LOOPS as f64);
    assert!(loops.try_join_next().is_none(), "a loop has ended");
    assert!(all <= LOOPS_MAX_PER_SECOND, "{all:.0} commands/s: {dearest}");
}

/// Signals the looker of two idle workers; the time until a job that is pushed afterwards is done.
async fn time_to_be_done_after(signal: Signal) -> Duration {
    let world = World::new().await;
    let fleet = idle_fleet(&world, 2).await;
    let pid = looker(&world).await.expect("one looks");
    let other = fleet.iter().find(|worker| worker.pid() != pid).expect("another");
    let gone = fleet.iter().find(|worker| worker.pid() == pid).expect("the looker");
    let turn_ms = async || world.redis_cmd::<i64>("PTTL", crate::harness::key("looker")).await;
    until("its turn has just begun, and is a long one", async || turn_ms().await > 7_500).await;
    let start = Instant::now();
    gone.signal(signal);
    let job = world.pair("after", 4_000);
    if signal == Signal::TERM {
        until("it has left", async || world.queue.status().await.unwrap().workers.len() == 1).await;
    }
    world.send(std::slice::from_ref(&job)).await;
    world.until_event(&job.id, "done").await;
    let took = start.elapsed();
    assert_eq!(looker(&world).await, Some(other.pid()), "the other looks now");
    took
}

#[tokio::test]
async fn when_the_looker_is_killed_another_takes_over_within_15_s() {
    let took = time_to_be_done_after(Signal::KILL).await;
    println!("the looker was killed: done after {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn when_the_looker_is_stopped_another_takes_over_within_5_s() {
    let took = time_to_be_done_after(Signal::TERM).await;
    println!("the looker was stopped: done after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_job_pushed_to_an_idle_queue_is_done_well_within_a_second() {
    let world = World::new().await;
    let _fleet = idle_fleet(&world, 2).await;
    let mut times = Vec::new();
    for n in 0..10 {
        let job = world.pair(&format!("pair-{n}"), 4_000);
        let start = Instant::now();
        world.send(std::slice::from_ref(&job)).await;
        world.until_event(&job.id, "done").await;
        times.push(start.elapsed());
        until("the queue is idle", async || world.queue.status().await.unwrap().in_flight == 0).await;
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("push to done: median {median:?} of {times:?}");
    assert!(median < Duration::from_millis(700), "{times:?}");
}
