//! Jobs that stand in no index are filed again, each is then claimed once; entries without a job go.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{
    Actor, Admission, CLAIM_MOST, Claim, DiscardTo, Orphans, Selected, Selection, Settled, StartPermit,
};
use wm_testbed::roles::Roles;

use crate::start::{in_line, inside};
use crate::world::*;

const MANY: usize = 3_000;

async fn enqueue(queue: &Roles, jobs: &[Job]) {
    for admission in queue.producer.enqueue(jobs).await.unwrap() {
        assert!(matches!(admission, Admission::Admitted { .. }), "{admission:?}");
    }
}

/// Runs upkeep until counter and indexes agree; all that it found.
async fn mend(queue: &Roles) -> Orphans {
    let mut sum = Orphans::default();
    for _ in 0..100 {
        let upkeep = queue.worker.upkeep().await.unwrap();
        sum.refiled += upkeep.orphans.refiled;
        sum.removed += upkeep.orphans.removed;
        sum.duplicates += upkeep.orphans.duplicates;
        if !upkeep.orphans_suspected && queue.orphans().await.unwrap() == 0 {
            return sum;
        }
    }
    panic!("never mended: {sum:?}, {} left", queue.orphans().await.unwrap());
}

/// Claims until nothing is left; each job comes once.
async fn claim_all(queue: &Roles) -> BTreeSet<JobId> {
    let mut seen = BTreeSet::new();
    loop {
        let claims = queue.worker.claim_many(&worker("w"), CLAIM_MOST).await.unwrap();
        for claim in claims {
            match claim {
                Claim::Delivery(delivery) => {
                    assert!(seen.insert(delivery.job.id.clone()), "{} came twice", delivery.job.id);
                }
                Claim::Empty => return seen,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn ids(jobs: &[Job]) -> BTreeSet<JobId> {
    jobs.iter().map(|job| job.id.clone()).collect()
}

async fn scans(world: &World) -> bool {
    let info: String = world.ask("INFO", "commandstats").await;
    info.contains("cmdstat_scan:") || info.contains("cmdstat_zscan:")
}

#[tokio::test]
async fn three_thousand_jobs_whose_index_was_deleted_are_filed_again_and_each_is_claimed_once() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let jobs: Vec<Job> = (0..MANY).map(|_| job()).collect();
    enqueue(&queue, &jobs).await;
    assert_eq!(queue.orphans().await.unwrap(), 0);
    let _: u64 = world.ask("DEL", key("ready")).await;
    assert_eq!(queue.orphans().await.unwrap(), MANY as u64);
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    let found = mend(&queue).await;
    assert_eq!(found, Orphans { refiled: MANY as u64, removed: 0, duplicates: 0 });
    assert_eq!(world.check_invariants().await.len(), MANY);
    assert_eq!(claim_all(&queue).await, ids(&jobs));
    assert_eq!(world.counter("refiled").await, MANY as u64);
}

#[tokio::test]
async fn jobs_that_wait_for_their_time_are_filed_again_and_go_on_waiting_for_it() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let later = Some(OffsetDateTime::now_utc() + Duration::from_secs(3_600));
    let jobs: Vec<Job> = (0..1_500).map(|_| Job { run_at: later, ..job() }).collect();
    enqueue(&queue, &jobs).await;
    let scheduled = async || {
        world.ask::<Vec<(String, u64)>>("ZRANGE", &[&key("scheduled"), "0", "-1", "WITHSCORES"]).await
    };
    let before = scheduled().await;
    let _: u64 = world.ask("DEL", key("scheduled")).await;
    assert_eq!(queue.orphans().await.unwrap(), 1_500);
    assert_eq!(mend(&queue).await.refiled, 1_500);
    assert_eq!(world.check_invariants().await.len(), jobs.len());
    assert_eq!(scheduled().await, before, "each at its time");
    assert_eq!(claim_all(&queue).await, BTreeSet::new());
    for (id, _) in &before {
        let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", id]).await;
    }
    while queue.worker.upkeep().await.unwrap().promoted > 0 {}
    assert_eq!(claim_all(&queue).await, ids(&jobs));
}

#[tokio::test]
async fn a_retry_that_is_filed_again_waits_out_its_delay_and_a_cancelled_one_does_not() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(enqueued(&queue).await.id);
        let verdict = retry(Duration::from_secs(600));
        assert_eq!(queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap(), Settled::Settled);
    }
    queue.operator.cancel(&ids[1], Actor::default()).await.unwrap();
    let _: u64 = world.ask("DEL", key("scheduled")).await;
    assert_eq!(mend(&queue).await.refiled, 2);
    let states = world.check_invariants().await;
    assert_eq!((&states[ids[0].as_str()][..], &states[ids[1].as_str()][..]), ("scheduled", "ready"));
}

#[tokio::test]
async fn who_waits_for_a_host_is_filed_again_and_waits_no_more_in_its_line() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let _inside = inside(&queue, "w", &somewhere("a.test")).await;
    let id = in_line(&queue, "a.test").await;
    let _: u64 = world.ask("DEL", key("scheduled")).await;
    assert_eq!(mend(&queue).await.refiled, 1);
    assert_eq!(world.check_invariants().await[id.as_str()], "ready");
    assert_eq!(claimed(&queue, "w").await.job.id, id);
}

#[tokio::test]
async fn a_search_that_ended_early_does_not_make_the_next_one_begin_in_its_middle() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let jobs: Vec<Job> = (0..20).map(|_| job()).collect();
    enqueue(&queue, &jobs).await;
    let _: u64 = world.ask("ZADD", &[&key("ready"), "1", "ghost"]).await;
    assert_eq!(mend(&queue).await.removed, 1);
    let _: u64 = world.ask("DEL", key("ready")).await;
    assert_eq!(mend(&queue).await.refiled, 20);
    world.check_invariants().await;
    assert_eq!(claim_all(&queue).await, ids(&jobs));
}

#[tokio::test]
async fn what_parts_while_a_search_is_under_way_is_found_by_the_next() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let jobs: Vec<Job> = (0..20).map(|_| job()).collect();
    enqueue(&queue, &jobs).await;
    for n in 0..3 {
        let _: u64 = world.ask("ZADD", &[&key("exclusive"), "1", &format!("ghost-{n}")]).await;
    }
    for _ in 0..3 {
        assert!(queue.worker.upkeep().await.unwrap().orphans_suspected);
    }
    // All jobs were looked at by now, and stood where they should.
    let _: u64 = world.ask("DEL", key("ready")).await;
    let found = mend(&queue).await;
    assert_eq!((found.refiled, found.removed), (20, 3));
    assert_eq!(claim_all(&queue).await, ids(&jobs));
}

#[tokio::test]
async fn suspects_are_filed_as_suspects_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let mut jobs = Vec::new();
    for _ in 0..5 {
        let job = enqueued(&queue).await;
        dies_with(claimed_into_child(&queue, "victim").await);
        world.expire(&job.id).await;
        jobs.push(job);
    }
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 5);
    let _: u64 = world.ask("DEL", key("exclusive")).await;
    assert_eq!(queue.orphans().await.unwrap(), 5);
    assert_eq!(mend(&queue).await.refiled, 5);
    for job in &jobs {
        assert_eq!(world.state(&job.id).await.as_deref(), Some("exclusive"));
    }
    world.check_invariants().await;
    assert!(claimed(&queue, "w").await.is_exclusive());
}

#[tokio::test]
async fn a_job_in_flight_whose_lease_was_deleted_runs_again_and_its_old_delivery_writes_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let job = enqueued(&queue).await;
    let old = claimed(&queue, "old").await;
    let permit = queue.worker.start(&old.lease(), &somewhere("a.test")).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    let _: u64 = world.ask("DEL", key("lease")).await;
    assert_eq!(queue.orphans().await.unwrap(), 1);
    assert_eq!(mend(&queue).await.refiled, 1);
    world.check_invariants().await;
    let settled = queue.worker.settle(old, done(&job)).await.unwrap();
    assert_eq!(settled, Settled::Superseded);
    assert_eq!(world.events().await.iter().filter(|(what, _)| what == "done").count(), 0);
    assert_eq!(claim_all(&queue).await, ids(&[job]));
}

#[tokio::test]
async fn dead_letters_whose_index_was_deleted_are_listed_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let mut dead = BTreeSet::new();
    for _ in 0..30 {
        let job = enqueued(&queue).await;
        let delivery = claimed(&queue, "w").await;
        let _ = queue.worker.settle(delivery, death(FailureKind::Gone, "gone.test")).await.unwrap();
        dead.insert(job.id);
    }
    // Without the index, whose own size depends on how it was filled.
    let counted = async || world.ask::<u64>("HGET", &[key("meta"), "dead_bytes".to_owned()]).await;
    let bytes = counted().await;
    let _: u64 = world.ask("DEL", key("dead")).await;
    let mut refiled = 0;
    for _ in 0..20 {
        refiled += queue.worker.upkeep().await.unwrap().orphans.refiled;
    }
    assert_eq!(refiled, 30);
    let letters = queue.operator.dead(&Selection::default(), 100).await.unwrap();
    assert_eq!(letters.into_iter().map(|letter| letter.id).collect::<BTreeSet<_>>(), dead);
    assert_eq!(counted().await, bytes);
    world.check_invariants().await;
}

#[tokio::test]
async fn index_entries_without_a_job_go() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let job = enqueued(&queue).await;
    for (index, score) in
        [("ready", "1"), ("scheduled", "99999999999999"), ("exclusive", "1"), ("waiting", "1")]
    {
        let _: u64 = world.ask("ZADD", &[&key(index), score, &format!("ghost-in-{index}")]).await;
    }
    assert_eq!(queue.orphans().await.unwrap(), 3, "one of four is no job's place");
    let found = mend(&queue).await;
    assert_eq!(found, Orphans { refiled: 0, removed: 4, duplicates: 0 });
    assert_eq!(world.check_invariants().await.len(), 1);
    assert_eq!(claim_all(&queue).await, ids(&[job]));
}

#[tokio::test]
async fn a_lock_whose_job_stands_in_no_index_holds_nobody_up() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    let lost = enqueued(&queue).await;
    let _: u64 = world.ask("ZREM", &[key("ready"), lost.id.to_string()]).await;
    let other = twin(&lost);
    enqueue(&queue, std::slice::from_ref(&other)).await;
    assert_eq!(queue.orphans().await.unwrap(), 1);
    let found = mend(&queue).await;
    assert_eq!(found, Orphans { refiled: 0, removed: 0, duplicates: 1 });
    assert_eq!(world.state(&lost.id).await, None);
    assert_eq!(world.check_invariants().await.len(), 1);
    assert_eq!(claim_all(&queue).await, ids(&[other]));
}

#[tokio::test]
async fn with_nothing_wrong_no_key_is_ever_searched() {
    let world = World::new().await;
    let queue = world.queue().await;
    for round in 0..20 {
        let jobs: Vec<Job> = (0..10).map(|_| job()).collect();
        enqueue(&queue, &jobs).await;
        let delivery = claimed(&queue, "w").await;
        let job = delivery.job.clone();
        let verdict = match round % 3 {
            0 => done(&job),
            1 => retry(Duration::from_millis(1)),
            _ => death(FailureKind::Gone, "gone.test"),
        };
        let _ = queue.worker.settle(delivery, verdict).await.unwrap();
        assert!(!queue.worker.upkeep().await.unwrap().orphans_suspected, "round {round}");
        assert_eq!(queue.orphans().await.unwrap(), 0, "round {round}");
    }
    assert!(!scans(&world).await);
    let _: u64 = world.ask("DEL", key("ready")).await;
    mend(&queue).await;
    assert!(scans(&world).await, "it is seen where it happens");
}

#[tokio::test]
async fn letters_whose_trash_was_deleted_by_hand_are_found_counted_and_deleted_in_their_time() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = queue.worker.upkeep().await.unwrap();
    for _ in 0..3 {
        enqueued(&queue).await;
        let held = claimed(&queue, "w").await;
        assert_eq!(
            queue.worker.settle(held, death(FailureKind::Gone, "a.test")).await.unwrap(),
            Settled::Settled
        );
    }
    let letters = queue.operator.dead(&Selection::default(), 10).await.unwrap();
    let selected: Vec<_> = letters[..2].iter().map(Selected::of).collect();
    let discards = queue.operator.discard_selected(&selected, DiscardTo::Trash, Actor::default()).await;
    assert_eq!(discards.discarded, 2);
    let _: u64 = world.ask("DEL", key("trash")).await;
    assert_eq!(queue.orphans().await.unwrap(), 2);
    assert_eq!(mend(&queue).await.refiled, 2);
    let states = world.check_invariants().await;
    assert_eq!(states.values().filter(|state| *state == "trash").count(), 2);

    let now = world.now_ms().await.to_string();
    let _: u64 = world.ask("ZADD", &[&key("trash"), &now, "ghost"]).await;
    assert_eq!(mend(&queue).await.removed, 1);
    world.check_invariants().await;
    for letter in &selected {
        let _: u64 = world.ask("ZADD", &[&key("trash"), "XX", "1", letter.id.as_str()]).await;
    }
    let _ = queue.worker.upkeep().await.unwrap();
    assert_eq!(world.check_invariants().await.len(), 1, "their day is over");
}
