//! The queue never fills its Redis: what it keeps is counted by purpose and bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::hunk::{Hunk, Step, StepKind};
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::report::{Changes, Report, TextChanges};
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Admission, Claim, Config, Delivery, NoRoom, ReportsWhenFull, Selection};
use wm_analyzer::queue::{Setting, Settled, StartPermit};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

use crate::world::*;

mod full;

/// A sink that has a copy of every annotation.
const APP: &str = "https://app.test/";

/// A server that need not write to disk: nothing here crashes.
async fn world() -> World {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let url = redis.url();
    World::at(redis, &url).await
}

/// So many jobs for new pairs, admitted.
async fn admitted(queue: &Roles, count: usize) -> Vec<Job> {
    let jobs: Vec<_> = (0..count).map(|_| job()).collect();
    let admissions = queue.producer.enqueue(&jobs).await.unwrap();
    assert!(admissions.iter().all(|one| matches!(one, Admission::Admitted { .. })));
    jobs
}

/// So many deliveries.
async fn taken(queue: &Roles, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        for claim in queue.worker.claim_many(&worker("w"), count - taken.len()).await.unwrap() {
            match claim {
                Claim::Delivery(delivery) => taken.push(*delivery),
                other => panic!("a delivery, not {other:?}"),
            }
        }
    }
    taken
}

/// Settles so many jobs from the head of the queue, and returns them in that order.
async fn ended(queue: &Roles, count: usize, verdict: impl Fn(&Job) -> Verdict) -> Vec<Job> {
    let deliveries = taken(queue, count).await;
    let jobs = deliveries.iter().map(|delivery| delivery.job.clone()).collect();
    let settles = deliveries.into_iter().map(|delivery| {
        let verdict = verdict(&delivery.job);
        queue.worker.settle(delivery, verdict)
    });
    for settled in join_all(settles).await {
        assert_eq!(settled.unwrap(), Settled::Settled);
    }
    jobs
}

/// An analysis whose report has about so many bytes.
fn done_with(job: &Job, bytes: usize) -> Verdict {
    let step = Step { kind: StepKind::Added, text: "x".repeat(bytes).into(), left_out: 0 };
    let hunks = vec![Hunk { at: [0, 0], steps: vec![step] }];
    let text = TextChanges { change_count: 1, hunks, left_out: 0, approximate: false };
    let changes = Changes { html_text_dmp: Some(text), ..Changes::default() };
    Verdict::Done(Box::new(Report { changes, ..report(job) }))
}

/// New jobs that ended so, one call after the other, so that Redis knows their order.
async fn results(queue: &Roles, count: usize, bytes: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        admitted(queue, 1).await;
        jobs.extend(ended(queue, 1, |job| done_with(job, bytes)).await);
    }
    jobs
}

async fn set(queue: &Roles, setting: Setting, value: impl ToString) {
    queue.operator.set("test", &[(setting, value.to_string())]).await.unwrap();
}

/// Which of these jobs still have a report, an end and an entry in the index; all three or none.
async fn kept(world: &World, jobs: &[Job]) -> Vec<bool> {
    let mut kept = Vec::new();
    for job in jobs {
        let keys = [key(&format!("report:{}", job.pair())), key(&format!("ended:{}", job.id))];
        let entry: Option<f64> = world.ask("ZSCORE", &[&key("results"), job.id.as_str()]).await;
        let found: u64 = world.ask("EXISTS", &keys).await;
        assert_eq!(found, if entry.is_some() { 2 } else { 0 }, "{}", job.id);
        kept.push(entry.is_some());
    }
    kept
}

/// What `MEMORY USAGE` says of all keys, by purpose.
async fn measured(world: &World) -> BTreeMap<String, u64> {
    const MEASURE: &str = "
        local fixed = { ready = 'jobs', scheduled = 'jobs', lease = 'jobs', exclusive = 'jobs',
          waiting = 'jobs', results = 'reports', dead = 'dead', suspects = 'suspects' }
        local many = { unique = 'jobs', report = 'reports', ended = 'reports', dead = 'dead', done = 'done',
          suspect = 'suspects' }
        local sums = {}
        for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
          local name = string.sub(key, #ARGV[1] + 1)
          local first = string.match(name, '^[^:]*')
          local purpose = fixed[name] or many[first] or (first == 'done_segments' and 'done') or 'other'
          if first == 'job' then
            purpose = redis.call('HGET', key, 'state') == 'dead' and 'dead' or 'jobs'
          end
          sums[purpose] = (sums[purpose] or 0) + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0)
        end
        local flat = {}
        for purpose, bytes in pairs(sums) do flat[#flat + 1] = purpose; flat[#flat + 1] = tostring(bytes) end
        return flat";
    world.ask("EVAL", &[MEASURE, "0", &key("")]).await
}

/// Makes suspects of the contents of so many jobs: their worker vanishes with them in a child.
async fn suspected(world: &World, queue: &Roles, count: usize) -> Vec<PagePair> {
    queue.worker.upkeep().await.unwrap();
    admitted(queue, count).await;
    let mut contents = Vec::new();
    for delivery in taken(queue, count).await {
        let content = somewhere(&format!("{}.test", Uuid::new_v4()));
        let lease = dies_with(delivery);
        assert_eq!(queue.worker.start(&lease, &content).await.unwrap(), StartPermit::Granted);
        assert!(queue.worker.enter_child(&lease).await.unwrap());
        world.expire(&lease.id).await;
        contents.push(content);
    }
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, count as u64);
    contents
}

#[tokio::test]
async fn bytes_counted_by_purpose_are_what_the_keys_take_up() {
    let world = world().await;
    let queue = world.queue().await;
    queue.worker.upkeep().await.unwrap();
    admitted(&queue, 2600).await;
    ended(&queue, 800, |job| done_with(job, 2_000)).await;
    ended(&queue, 300, |_| Verdict::Skip(Skip::new(SkipReason::Content, "a PDF"))).await;
    ended(&queue, 200, |_| retry(Duration::from_secs(3600))).await;
    ended(&queue, 300, |_| death(FailureKind::Gone, "a.test")).await;
    ended(&queue, 200, |_| death(FailureKind::Tls, "b.test")).await;
    for n in 0..200 {
        world.push(format!("nonsense {n}")).await;
    }
    while queue.worker.ingest().await.unwrap().more {}
    let letters = queue.operator.dead(&Selection::default(), 1000).await.unwrap();
    let ids: Vec<JobId> = letters.into_iter().rev().map(|letter| letter.id).collect();
    assert_eq!(ids.len(), 700);
    queue.operator.replay(&ids[..100]).await.unwrap();
    assert_eq!(queue.operator.discard(&ids[150..250]).await.unwrap(), 100);
    assert_eq!(queue.operator.free_results(250, None).await.unwrap().results, 250);
    let _in_flight = taken(&queue, 200).await;
    suspected(&world, &queue, 40).await;

    let counted = queue.status().await.unwrap().memory;
    let measured = measured(&world).await;
    for (purpose, counted) in [
        ("jobs", counted.jobs_bytes),
        ("reports", counted.reports_bytes),
        ("dead", counted.dead_bytes),
        ("done", counted.done_bytes),
        ("suspects", counted.suspects_bytes),
    ] {
        let measured = measured[purpose];
        println!("{purpose}: counted {counted}, measured {measured}");
        assert!(counted.abs_diff(measured) * 10 <= measured, "{purpose}: counted {counted}, is {measured}");
    }
    println!("other: {}", measured["other"]);
}

#[tokio::test]
async fn a_remembered_pair_costs_at_most_32_bytes() {
    const PAIRS: usize = 10_000;
    let world = world().await;
    let queue = Roles::connect_for(&world.config, APP).await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..PAIRS / 500 {
        admitted(&queue, 500).await;
        jobs.extend(ended(&queue, 500, done).await);
    }
    let memory = queue.status().await.unwrap().memory;
    assert_eq!(memory.done_count, PAIRS as u64);
    let per_pair = measured(&world).await["done"] as f64 / PAIRS as f64;
    println!("{per_pair:.1} bytes per pair");
    assert!(per_pair <= 32.0, "{per_pair} bytes");
    let again: Vec<_> = jobs.iter().step_by(100).map(twin).collect();
    let admissions = queue.producer.enqueue(&again).await.unwrap();
    assert!(admissions.iter().all(|one| *one == Admission::AlreadyDone), "all are remembered");
}

/// Whether a new job for the same pair is refused as done; one that is not is taken back.
async fn is_remembered(queue: &Roles, job: &Job) -> bool {
    let again = twin(job);
    match &queue.producer.enqueue(std::slice::from_ref(&again)).await.unwrap()[..] {
        [Admission::AlreadyDone] => true,
        [Admission::Admitted { .. }] => {
            ended(queue, 1, |_| death(FailureKind::Gone, "a.test")).await;
            assert_eq!(queue.operator.discard(&[again.id]).await.unwrap(), 1);
            false
        }
        odd => panic!("{odd:?}"),
    }
}

#[tokio::test]
async fn a_pair_whose_report_is_gone_is_remembered_only_where_its_annotation_was_posted() {
    for (sink, remembered) in [("redis", false), (APP, true)] {
        let world = world().await;
        let queue = Roles::connect_for(&world.config, sink).await.unwrap();
        let jobs = results(&queue, 3, 2_000).await;
        for job in &jobs {
            assert!(is_remembered(&queue, job).await, "its report is there");
        }
        assert_eq!(queue.operator.free_results(1, None).await.unwrap().results, 1);
        assert_eq!(kept(&world, &jobs).await, [false, true, true]);
        assert_eq!(is_remembered(&queue, &jobs[0]).await, remembered, "freed, {sink}");
        assert!(is_remembered(&queue, &jobs[1]).await);

        set(&queue, Setting::ReportsMaxBytes, 1).await;
        assert!(queue.worker.upkeep().await.unwrap().evicted.results_by_bytes >= 2);
        assert_eq!(kept(&world, &jobs).await, [false; 3]);
        for job in &jobs {
            assert_eq!(is_remembered(&queue, job).await, remembered, "evicted, {sink}");
            let from = job.from.given().unwrap().uuid();
            let version = |uuid| Version::at(uuid, "http://a.test/".parse().unwrap());
            let pair = PagePair {
                page: None,
                from: version(from),
                to: version(job.to.uuid()),
                from_is_earliest: false,
            };
            assert_eq!(queue.worker.is_done(&pair).await.unwrap(), remembered, "once resolved, {sink}");
        }
        world.check_invariants().await;
    }
}

#[tokio::test]
async fn beyond_their_cap_whole_segments_of_marks_are_forgotten_oldest_first() {
    let world = world().await;
    let queue = Roles::connect_for(&world.config, APP).await.unwrap();
    let mut segments = Vec::new();
    for _ in 0..3 {
        admitted(&queue, 200).await;
        segments.push(ended(&queue, 200, done).await);
        // As if it had its 25,000.
        let _: u64 = world.ask("HSET", &[&key("meta"), "segment_count", "25000"]).await;
    }
    assert_eq!(world.ask::<u64>("ZCARD", key("done_segments")).await, 3);
    set(&queue, Setting::DoneMaxCount, 600).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.done_by_count, 0, "exactly at the cap");
    set(&queue, Setting::DoneMaxCount, 599).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.done_by_count, 200, "a whole one");
    set(&queue, Setting::DoneMaxCount, 300).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.done_by_count, 200, "the next");
    assert_eq!(world.counter("done_forgotten").await, 400);
    assert_eq!(queue.status().await.unwrap().memory.done_count, 200);
    let keys: Vec<String> = world.ask("KEYS", key("done:*")).await;
    assert!(keys.iter().all(|name| name.starts_with(&key("done:3:"))), "{keys:?}");
    for (segment, remembered) in segments.iter().zip([false, false, true]) {
        assert_eq!(is_remembered(&queue, &segment[7]).await, remembered);
    }
    let (counted, measured) = (queue.status().await.unwrap().memory.done_bytes, measured(&world).await);
    assert!(counted.abs_diff(measured["done"]) * 10 <= measured["done"], "{counted}: {measured:?}");
}

#[tokio::test]
async fn beyond_their_cap_the_oldest_suspects_are_forgotten() {
    let world = world().await;
    let queue = world.queue().await;
    suspected(&world, &queue, 20).await;
    let oldest: Vec<String> = world.ask("KEYS", key("suspect:*")).await;
    let then = world.now_ms().await;
    until("the clock of Redis has gone on", async || world.now_ms().await > then).await;
    // Suspects wait to run alone: nothing else is claimed before they are out of the way.
    let ids: Vec<String> = world.ask("ZRANGE", &[&key("exclusive"), "0", "-1"]).await;
    for _ in &ids {
        let verdict = death(FailureKind::Gone, "a.test");
        let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
        let _: u64 = world.ask("HDEL", &[&key("meta"), "exclusive_rest_until_ms"]).await;
    }
    suspected(&world, &queue, 10).await;
    let all: Vec<String> = world.ask("KEYS", key("suspect:*")).await;
    assert_eq!((oldest.len(), all.len()), (20, 30));
    set(&queue, Setting::SuspectsMaxCount, 12).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.suspects_by_count, 18);
    assert_eq!(world.counter("suspects_forgotten").await, 18);
    let memory = queue.status().await.unwrap().memory;
    assert_eq!((memory.suspects_count, memory.suspects_max_count, memory.suspects_filled()), (12, 12, 1.0));
    let left: Vec<String> = world.ask("KEYS", key("suspect:*")).await;
    assert_eq!(left.len(), 12);
    assert_eq!(left.iter().filter(|name| !oldest.contains(name)).count(), 10, "all of the newest");
    let indexed: Vec<String> = world.ask("ZRANGE", &[&key("suspects"), "0", "-1"]).await;
    assert!(indexed.len() == 12 && indexed.iter().all(|name| left.contains(name)), "{indexed:?}");
    let (counted, measured) = (queue.status().await.unwrap().memory.suspects_bytes, measured(&world).await);
    assert!(counted.abs_diff(measured["suspects"]) * 10 <= counted, "{counted}: {measured:?}");
}

#[tokio::test]
async fn beyond_their_cap_the_oldest_results_are_evicted_with_their_entries() {
    let world = world().await;
    let queue = Roles::connect_for(&world.config, APP).await.unwrap();
    queue.worker.seed_settings().await.unwrap();
    let jobs = results(&queue, 50, 50_000).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.results_by_bytes, 0);
    let cap = queue.status().await.unwrap().memory.reports_bytes * 2 / 5;
    set(&queue, Setting::ReportsMaxBytes, cap).await;
    let evicted = queue.worker.upkeep().await.unwrap().evicted.results_by_bytes;
    assert!((30..=31).contains(&evicted), "{evicted}");
    let kept = kept(&world, &jobs).await;
    assert!(kept.iter().enumerate().all(|(n, kept)| *kept == (n as u64 >= evicted)), "{kept:?}");
    let memory = queue.status().await.unwrap().memory;
    assert!(memory.reports_bytes <= cap + 10_000 && memory.reports_evict, "{memory:?}");
    assert_eq!(world.counter("reports_evicted").await, evicted);
    admitted(&queue, 1).await;
    drop(claimed(&queue, "w").await);
}

#[tokio::test]
async fn where_redis_has_the_only_copy_results_stay_and_claims_wait_for_room() {
    let mut world = world().await;
    world.config = Config { reports_when_full: ReportsWhenFull::Wait, ..world.config };
    let queue = world.queue().await;
    queue.worker.seed_settings().await.unwrap();
    let jobs = results(&queue, 20, 80_000).await;
    let waiting = admitted(&queue, 9).await;
    let cap = queue.status().await.unwrap().memory.reports_bytes;
    set(&queue, Setting::ReportsMaxBytes, cap / 2).await;
    assert_eq!(done_until_no_room(&queue).await, (0, Some(NoRoom::Reports)));
    assert_eq!(queue.worker.upkeep().await.unwrap().evicted.results_by_bytes, 0);
    assert_eq!(kept(&world, &jobs).await, [true; 20], "nothing is evicted");
    assert!(queue.status().await.unwrap().waits_for_reports());

    assert_eq!(queue.operator.free_results(12, None).await.unwrap().results, 12);
    // There is room for 10 of 20, the last of which may be over it.
    let (settled, why) = done_until_no_room(&queue).await;
    assert!((2..=3).contains(&settled) && why == Some(NoRoom::Reports), "{settled} {why:?}");
    set(&queue, Setting::ReportsMaxBytes, cap * 2).await;
    assert_eq!(done_until_no_room(&queue).await, (9 - settled, None));
    for job in &waiting {
        assert_eq!(queue.ended(&job.id).await.unwrap().unwrap().state, "done", "none is lost");
    }
    assert_eq!(kept(&world, &jobs).await, [vec![false; 12], vec![true; 8]].concat());
    assert!(world.check_invariants().await.is_empty());
}

/// Settles one job after the other until none is left or none is claimed; how many, and why.
async fn done_until_no_room(queue: &Roles) -> (u64, Option<NoRoom>) {
    let mut settled = 0;
    loop {
        match queue.worker.claim(&worker("w")).await.unwrap() {
            Claim::Delivery(delivery) => {
                let verdict = done_with(&delivery.job, 80_000);
                assert_eq!(queue.worker.settle(*delivery, verdict).await.unwrap(), Settled::Settled);
                settled += 1;
            }
            Claim::NoRoom(why) => return (settled, Some(why)),
            Claim::Empty => return (settled, None),
            odd => panic!("{odd:?}"),
        }
    }
}

#[tokio::test]
async fn a_flood_of_junk_does_not_evict_letters_of_another_kind() {
    let mut world = world().await;
    world.config.dead_max_count = 500;
    let queue = world.queue().await;
    admitted(&queue, 50).await;
    let gone = ended(&queue, 50, |_| death(FailureKind::Gone, "a.test")).await;
    for n in 0..1000 {
        world.push(format!("nonsense {n}")).await;
        if n % 100 == 99 {
            while queue.worker.ingest().await.unwrap().more {}
            queue.worker.upkeep().await.unwrap();
        }
    }
    let status = queue.status().await.unwrap();
    assert_eq!((status.dead, status.dead_by_kind[&FailureKind::Gone]), (500, 50));
    for job in &gone {
        assert_eq!(world.state(&job.id).await.as_deref(), Some("dead"));
    }
    assert_eq!(world.counter("evicted").await, 550);
    world.check_invariants().await;
}
