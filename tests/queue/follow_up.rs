//! A job that is to be followed by one against the page's earliest version: it is, once, whatever became of it.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, JobId, OlderVersion};
use wm_analyzer::queue::{Actor, Admission, Claim, ReleaseKind, Replayed};
use wm_testbed::roles::Roles;

use crate::world::*;

fn both() -> Job {
    Job { compare_earliest: true, ..job() }
}

async fn admitted(queue: &Roles, job: &Job) {
    let answer = queue.producer.enqueue(std::slice::from_ref(job)).await.unwrap();
    assert_eq!(answer, [Admission::Admitted { id: job.id.clone() }]);
}

/// Claims the follow-up of `job`, and nothing else.
async fn follows(queue: &Roles, job: &Job) {
    let delivery = claimed(queue, "w").await;
    assert_eq!(Some(&delivery.job), job.follow_up().as_ref());
    assert_eq!(delivery.job.from, OlderVersion::Earliest);
    let verdict = done(&delivery.job);
    let _ = queue.worker.settle(delivery, verdict).await.unwrap();
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty), "nothing follows it");
}

#[tokio::test]
async fn done_skip_and_death_are_each_followed_and_going_round_is_not() {
    let world = World::new().await;
    let queue = world.queue().await;
    let skip = || Verdict::Skip(Skip::new(SkipReason::Content, "a PDF"));
    let ends: [&dyn Fn(&Job) -> Verdict; 3] = [&done, &|_| skip(), &|_| death(FailureKind::Gone, "a.test")];
    for end in ends {
        let job = both();
        admitted(&queue, &job).await;
        let _ = queue.worker.release(claimed(&queue, "w").await, ReleaseKind::Counted).await.unwrap();
        let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::ZERO)).await.unwrap();
        assert_eq!(
            world.check_invariants().await.values().filter(|state| *state != "dead").count(),
            1,
            "not yet"
        );
        queue.worker.upkeep().await.unwrap();
        let delivery = claimed(&queue, "w").await;
        let verdict = end(&delivery.job);
        let _ = queue.worker.settle(delivery, verdict).await.unwrap();
        follows(&queue, &job).await;
    }
    assert_eq!(world.counter("admitted").await, 6);
}

#[tokio::test]
async fn a_crash_loop_is_followed_too() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = both();
    admitted(&queue, &job).await;
    queue.worker.upkeep().await.unwrap();
    for _ in 0..2 {
        dies_with(claimed_into_child(&queue, "w").await);
        world.expire(&job.id).await;
        queue.worker.upkeep().await.unwrap();
    }
    assert_eq!(world.check_invariants().await[job.id.as_str()], "dead");
    follows(&queue, &job).await;
}

#[tokio::test]
async fn it_takes_the_place_of_its_job_before_what_came_later() {
    let world = World::new().await;
    let queue = world.queue().await;
    let (first, second) = (both(), both());
    admitted(&queue, &first).await;
    admitted(&queue, &second).await;
    let _ = queue.worker.settle(claimed(&queue, "w").await, done(&first)).await.unwrap();
    assert_eq!(claimed(&queue, "w").await.job.id.as_str(), format!("{}.earliest", first.id));
    assert_eq!(claimed(&queue, "w").await.job.id, second.id);
}

#[tokio::test]
async fn a_cancelled_job_is_followed_by_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = both();
    admitted(&queue, &job).await;
    assert!(queue.operator.cancel(&job.id, Actor::default()).await.unwrap());
    let Claim::NotNeeded(delivery, skip) = queue.worker.claim(&worker("w")).await.unwrap() else {
        panic!("foregone")
    };
    let _ = queue.worker.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn two_jobs_for_one_version_are_followed_by_one_and_a_replay_by_none() {
    let world = World::new().await;
    let queue = world.queue().await;
    let first = both();
    let second = Job { to: first.to.clone(), ..both() };
    admitted(&queue, &first).await;
    admitted(&queue, &second).await;
    for held in [claimed(&queue, "w").await, claimed(&queue, "w").await] {
        let _ = queue.worker.settle(held, death(FailureKind::Gone, "a.test")).await.unwrap();
    }
    let follow_up: JobId = first.follow_up().unwrap().id;
    assert_eq!(world.check_invariants().await.into_keys().filter(|id| id.ends_with(".earliest")).count(), 1);
    assert!(
        world.events().await.contains(&("duplicate".to_owned(), second.follow_up().unwrap().id.to_string()))
    );
    follows(&queue, &first).await;
    assert_eq!(
        queue.operator.replay(std::slice::from_ref(&first.id)).await.unwrap()[0].1,
        Replayed::Replayed
    );
    let _ = queue.worker.settle(claimed(&queue, "w").await, done(&first)).await.unwrap();
    assert_eq!(world.state(&follow_up).await, None, "it had its turn");
}

#[tokio::test]
async fn a_full_redis_and_a_full_backlog_lose_no_follow_up() {
    let mut world = World::new().await;
    world.config.backlog_max = 2;
    let queue = world.queue().await;
    let (lives, dies) = (both(), both());
    admitted(&queue, &lives).await;
    admitted(&queue, &dies).await;
    let held = [claimed(&queue, "w").await, claimed(&queue, "w").await];
    admitted(&queue, &job()).await;
    admitted(&queue, &job()).await;
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "1"]).await;
    let [first, second] = held;
    let _ = queue.worker.settle(first, done(&lives)).await.unwrap();
    let _ = queue.worker.settle(second, death(FailureKind::Gone, "a.test")).await.unwrap();
    world.ask::<()>("CONFIG", &["SET", "maxmemory", "0"]).await;
    let states = world.check_invariants().await;
    for job in [&lives, &dies] {
        assert_eq!(states[job.follow_up().unwrap().id.as_str()], "ready");
    }
}
