//! Who gets in, and who is told that it is in already.

use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::page::Side;
use wm_analyzer::job::report::Report;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::Verdict;
use wm_analyzer::job::{Job, JobId, OlderVersion};
use wm_analyzer::queue::{Admission, Settled};
use wm_testbed::roles::Roles;

use crate::world::*;

#[tokio::test]
async fn a_duplicate_answers_with_the_holder_in_every_live_state() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let duplicate = Admission::Duplicate { holder: job.id.clone() };
    let again = async || queue.producer.enqueue(&[twin(&job)]).await.unwrap().pop().unwrap();

    assert_eq!(again().await, duplicate, "ready");
    let delivery = claimed(&queue, "w").await;
    assert_eq!(again().await, duplicate, "in_flight");
    let _ = queue.worker.settle(delivery, retry(Duration::ZERO)).await.unwrap();
    assert_eq!(again().await, duplicate, "scheduled");
    queue.worker.upkeep().await.unwrap();
    dies_with(claimed_into_child(&queue, "w").await);
    world.expire(&job.id).await;
    queue.worker.upkeep().await.unwrap();
    assert_eq!(world.state(&job.id).await.as_deref(), Some("exclusive"));
    assert_eq!(again().await, duplicate, "exclusive");
    let _ =
        queue.worker.settle(claimed(&queue, "w").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    assert!(matches!(again().await, Admission::Admitted { .. }), "dead");
    assert_eq!(world.counter("duplicate").await, 4);
    world.check_invariants().await;
}

#[tokio::test]
async fn a_lock_whose_holder_is_gone_holds_nobody_up() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    // As after a restore from an old backup: the lock is there, its job is not.
    let _: u64 = world.ask("DEL", key(&format!("job:{}", job.id))).await;
    let _: u64 = world.ask("ZREM", &[&key("ready"), job.id.as_str()]).await;
    let other = twin(&job);
    let admitted = queue.producer.enqueue(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(admitted, [Admission::Admitted { id: other.id.clone() }]);
    until("the jobs are counted anew", async || {
        queue.worker.upkeep().await.unwrap();
        queue.orphans().await.unwrap() == 0
    })
    .await;
    let _: u64 = world.ask("ZREM", &[&key("waiting"), job.id.as_str()]).await;
    let _: u64 = world
        .ask("HSET", &[&key("meta"), "jobs_bytes", &world.field(&other.id, "bytes").await.unwrap()])
        .await;
    assert_eq!(world.check_invariants().await[other.id.as_str()], "ready");
}

#[tokio::test]
async fn a_lock_that_lapsed_and_is_somebody_elses_by_now_is_left_to_them() {
    let world = World::new().await;
    let queue = world.queue().await;
    for end in ["done", "dead", "crashed"] {
        let first = enqueued(&queue).await;
        let lock = key(&format!("unique:{}", world.field(&first.id, "unique").await.unwrap()));
        let _: u64 = world.ask("DEL", &lock).await;
        let delivery = claimed(&queue, "w").await;
        let second = twin(&first);
        let admitted = queue.producer.enqueue(std::slice::from_ref(&second)).await.unwrap();
        assert_eq!(admitted, [Admission::Admitted { id: second.id.clone() }]);
        if end == "crashed" {
            let _: u64 = world.ask("HSET", &[&key(&format!("job:{}", first.id)), "crashes", "1"]).await;
            dies_with(delivery);
            world.expire(&first.id).await;
            queue.worker.upkeep().await.unwrap();
        } else {
            let verdict = if end == "done" { done(&first) } else { death(FailureKind::Gone, "a.test") };
            let _ = queue.worker.settle(delivery, verdict).await.unwrap();
        }
        assert_ne!(world.state(&first.id).await.as_deref(), Some("in_flight"), "{end}");
        let holder: Option<String> = world.ask("GET", &lock).await;
        assert_eq!(holder.as_deref(), Some(second.id.as_str()), "{end}");
        let _ = queue.worker.settle(claimed(&queue, "w").await, done(&second)).await.unwrap();
    }
}

#[tokio::test]
async fn a_pair_that_is_done_answers_already_done_unless_asked_again_or_for_another_sink() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let _ = queue.worker.settle(claimed(&queue, "w").await, done(&job)).await.unwrap();
    assert_eq!(queue.producer.enqueue(&[twin(&job)]).await.unwrap(), [Admission::AlreadyDone]);
    let elsewhere = Roles::connect_for(&world.config, "api").await.unwrap();
    let other = elsewhere.producer.enqueue(&[twin(&job)]).await.unwrap();
    assert!(matches!(other[0], Admission::Admitted { .. }));
    let _ = elsewhere.worker.settle(claimed(&elsewhere, "w").await, done(&job)).await.unwrap();
    let again = Job { again: true, ..twin(&job) };
    assert!(matches!(queue.producer.enqueue(&[again]).await.unwrap()[0], Admission::Admitted { .. }));
}

/// Ends the only job as a skip.
async fn skipped(queue: &Roles, skip: Skip) {
    let settled = queue.worker.settle(claimed(queue, "w").await, Verdict::Skip(skip)).await.unwrap();
    assert_eq!(settled, Settled::Settled);
}

#[tokio::test]
async fn a_pair_skipped_for_good_answers_already_done_as_long_as_that_can_be_read() {
    let world = World::new().await;
    let queue = world.queue().await;
    for reason in SkipReason::ALL {
        let job = enqueued(&queue).await;
        skipped(&queue, Skip::new(*reason, "")).await;
        let sent = queue.producer.enqueue(&[twin(&job)]).await.unwrap();
        assert_eq!(sent == [Admission::AlreadyDone], reason.is_permanent(), "{reason}");
        if reason.is_permanent() {
            let again = Job { again: true, ..twin(&job) };
            assert!(matches!(queue.producer.enqueue(&[again]).await.unwrap()[0], Admission::Admitted { .. }));
        }
        // What may be otherwise next time does not take the place of what is for good.
        skipped(&queue, Skip::new(SkipReason::Expired, "")).await;
        let stored = queue.report(report(&job).from, report(&job).to).await.unwrap().unwrap();
        assert_eq!(stored.contains(r#""permanent":true"#), reason.is_permanent(), "{stored}");
        let _: u64 = world.ask("DEL", key(&format!("report:{}", job.pair()))).await;
        let sent = queue.producer.enqueue(&[twin(&job)]).await.unwrap();
        assert!(matches!(sent[0], Admission::Admitted { .. }), "{reason}: {sent:?}");
        skipped(&queue, Skip::new(SkipReason::Cancelled, "")).await;
        let sent = queue.producer.enqueue(&[twin(&job)]).await.unwrap();
        assert!(matches!(sent[0], Admission::Admitted { .. }), "{reason}: {sent:?}");
        skipped(&queue, Skip::new(SkipReason::Cancelled, "")).await;
    }
    let marks = SkipReason::ALL.iter().filter(|reason| reason.is_permanent()).count();
    assert_eq!(queue.status().await.unwrap().memory.done_count, marks as u64, "they are in its budget");
}

#[tokio::test]
async fn of_a_previous_version_only_what_is_wrong_with_the_newer_one_is_for_good() {
    let world = World::new().await;
    let queue = world.queue().await;
    for (side, is_permanent) in [(Some(Side::To), true), (Some(Side::From), false), (None, false)] {
        let job = Job { from: OlderVersion::Previous, ..job() };
        assert!(matches!(
            queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap()[0],
            Admission::Admitted { .. }
        ));
        skipped(&queue, Skip { side, ..Skip::new(SkipReason::Content, "a PDF") }).await;
        let sent = queue.producer.enqueue(&[twin(&job)]).await.unwrap();
        assert_eq!(sent == [Admission::AlreadyDone], is_permanent, "{side:?}");
        if !is_permanent {
            skipped(&queue, Skip::new(SkipReason::Cancelled, "")).await;
        }
    }
}

#[tokio::test]
async fn another_version_of_the_analysis_is_another_analysis() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let older = Report { analysis_version: 0, ..report(&job) };
    let _ = queue.worker.settle(claimed(&queue, "w").await, Verdict::Done(Box::new(older))).await.unwrap();
    assert!(matches!(queue.producer.enqueue(&[twin(&job)]).await.unwrap()[0], Admission::Admitted { .. }));
}

#[tokio::test]
async fn the_same_id_is_in_once_live_or_dead() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    assert_eq!(queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap(), [Admission::SameId]);
    let _ =
        queue.worker.settle(claimed(&queue, "w").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    assert_eq!(queue.producer.enqueue(&[job]).await.unwrap(), [Admission::SameId]);
    world.check_invariants().await;
}

#[tokio::test]
async fn above_the_backlog_ceiling_enqueue_refuses_and_the_inbox_waits() {
    let mut world = World::new().await;
    world.config.backlog_max = 3;
    let queue = world.queue().await;
    let jobs: Vec<Job> = (0..250).map(|_| job()).collect();
    let answers = queue.producer.enqueue(&jobs).await.unwrap();
    assert_eq!(answers.len(), 250);
    assert!(answers[..3].iter().all(|a| matches!(a, Admission::Admitted { .. })));
    assert!(answers[3..].iter().all(|a| *a == Admission::Full));

    world.push(job().encode()).await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert!(ingested.full && ingested.admitted == 0);
    assert_eq!(queue.status().await.unwrap().inbox, 1, "it waits");
    let delivery = claimed(&queue, "w").await;
    let done = done(&delivery.job);
    let _ = queue.worker.settle(delivery, done).await.unwrap();
    assert_eq!(queue.worker.ingest().await.unwrap().admitted, 1);
    assert_eq!(world.check_invariants().await.len(), 3);
}

#[tokio::test]
async fn ten_thousand_jobs_are_enqueued_in_order_and_none_is_too_many_for_a_script() {
    let world = World::new().await;
    let queue = world.queue().await;
    let jobs: Vec<Job> = (0..10_000).map(|_| job()).collect();
    let answers = queue.producer.enqueue(&jobs).await.unwrap();
    assert!(answers.iter().all(|a| matches!(a, Admission::Admitted { .. })));
    let _: () = world.ask("ZUNIONSTORE", &[&key("scheduled"), "1", &key("ready"), "WEIGHTS", "0"]).await;
    let _: u64 = world.ask("DEL", key("ready")).await;
    let mut promoted = 0;
    while promoted < 10_000 {
        promoted += queue.worker.upkeep().await.unwrap().promoted;
    }
    let ids: Vec<String> = world.ask("ZRANGE", &[&key("ready"), "0", "-1"]).await;
    let expected: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn previous_version_jobs_are_unique_by_their_newer_version() {
    let world = World::new().await;
    let queue = world.queue().await;
    let open = Job { from: OlderVersion::Previous, ..job() };
    let twin = Job { id: JobId::generate(), ..open.clone() };
    let answers = queue.producer.enqueue(&[open.clone(), twin]).await.unwrap();
    assert_eq!(answers[1], Admission::Duplicate { holder: open.id });
}
