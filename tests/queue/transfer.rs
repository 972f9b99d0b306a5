//! Waiting work out of one queue and into another: nothing is lost, doubled or counted anew.

use std::time::Duration;

use time::OffsetDateTime;
use wm_analyzer::job::{Job, Priority};
use wm_analyzer::queue::{Error, ExportPage, ExportedJob, ImportOutcome, Imported, PauseName, WorkerRequest};
use wm_testbed::roles::Roles;

use crate::world::*;

/// All that is exported: payloads with their numbers, and jobs.
async fn exported(queue: &Roles) -> (Vec<(u64, Vec<u8>)>, Vec<ExportedJob>) {
    let (mut payloads, mut jobs, mut pages) = (Vec::new(), Vec::new(), queue.operator.export());
    while let Some(page) = pages.next().await.unwrap() {
        match page {
            ExportPage::Inbox(page) => payloads.extend((1..).zip(page)),
            ExportPage::Jobs(page) => jobs.extend(page),
        }
    }
    (payloads, jobs)
}

/// Two payloads in the inbox; jobs that are ready in another order than they came, one that failed, one that waits for
/// its time, one that a worker vanished with.
async fn mixed(world: &World, queue: &Roles) {
    let _failed = enqueued(queue).await;
    let held = claimed(queue, "w").await;
    let _ = queue.worker.settle(held, retry(Duration::from_secs(3600))).await.unwrap();
    let vanishes = enqueued(queue).await;
    let lost = dies_with(claimed_into_child(queue, "dead").await);
    queue.worker.upkeep().await.unwrap();
    world.expire(&lost.id).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    assert_eq!(vanishes.id, lost.id);
    let later = Some(OffsetDateTime::now_utc() + Duration::from_secs(7200));
    let more = [job(), Job { priority: Priority::High, ..job() }, Job { run_at: later, ..job() }];
    let _ = queue.producer.enqueue(&more).await.unwrap();
    world.push(job().encode()).await;
    world.push(b"no job".as_slice()).await;
}

#[tokio::test]
async fn what_waits_is_the_same_in_the_queue_that_it_was_moved_to_and_a_second_import_changes_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    mixed(&world, &queue).await;
    let (payloads, jobs) = exported(&queue).await;
    assert_eq!((payloads.len(), jobs.len()), (2, 5));
    assert!(jobs.iter().all(|job| job.check().is_ok()), "{jobs:?}");
    let states = world.check_invariants().await;
    let newest = queue.operator.newest_place().await.unwrap();
    assert_eq!(exported(&queue).await, (payloads.clone(), jobs.clone()), "exporting changes nothing");

    let _: String = world.ask("FLUSHDB", &[] as &[&str]).await;
    let import = async |payloads: &[(u64, Vec<u8>)], jobs: &[ExportedJob]| match queue
        .operator
        .import("one", newest, payloads, jobs)
        .await
        .unwrap()
    {
        Imported::Each(each) => each,
        refused => panic!("{refused:?}"),
    };
    // Interrupted in the middle, and run again.
    assert_eq!(import(&payloads[..1], &jobs[..2]).await, [ImportOutcome::Imported; 3]);
    let again = import(&payloads, &jobs).await;
    assert_eq!(again.iter().filter(|outcome| **outcome == ImportOutcome::Known).count(), 3);
    assert_eq!(import(&payloads, &jobs).await, [ImportOutcome::Known; 7]);
    assert_eq!(exported(&queue).await, (payloads.clone(), jobs.clone()));
    assert_eq!(world.check_invariants().await, states);
    assert_eq!(queue.operator.newest_place().await.unwrap(), newest, "newer jobs come behind");

    let vanished = claimed(&queue, "w").await;
    assert_eq!(vanished.counts.crashes, 1, "what killed a worker runs alone here, too");
    let verdict = done(&vanished.job);
    let _ = queue.worker.settle(vanished, verdict).await.unwrap();
    assert_eq!(import(&payloads, &jobs).await, [ImportOutcome::Known; 7], "what has ended here stays ended");
    world.check_invariants().await;
}

#[tokio::test]
async fn on_a_full_redis_workers_are_asked_and_pauses_made_and_an_import_takes_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let _ = enqueued(&queue).await;
    let (_, jobs) = exported(&queue).await;
    let _: String = world.ask("FLUSHDB", &[] as &[&str]).await;
    let _ = queue.worker.heartbeat(&info("w"), &[]).await.unwrap();
    let _: String = world.ask("CONFIG", &["SET", "maxmemory", "1mb"]).await;
    until("it is full", async || {
        let written = queue.producer.push(&[b"{}".to_vec()]).await;
        matches!(written, Err(Error::Full(_)))
    })
    .await;
    assert_eq!(queue.operator.import("one", 1, &[], &jobs).await.unwrap(), Imported::NoMemory);
    assert_eq!(world.ask::<u64>("EXISTS", &[&key("ready"), &key("seq"), &key("imported:one")]).await, 0);
    assert!(queue.operator.ask_worker(&worker("w"), WorkerRequest::Quiet, "me", "full").await.unwrap());
    let told = queue.worker.heartbeat(&info("w"), &[]).await.unwrap();
    assert_eq!(told.asked, Some(WorkerRequest::Quiet));
    let brief = Some(Duration::from_millis(1));
    assert!(queue.operator.pause(&PauseName::default(), brief, "me", "full").await.unwrap());
    until("its time is over", async || {
        queue.worker.upkeep().await.unwrap();
        queue.status().await.unwrap().pauses.is_empty()
    })
    .await;
    assert_eq!(queue.audit_rows(1).await.unwrap().0[0].what, "resume default");
}

#[tokio::test]
async fn another_job_of_the_same_pair_is_left_alone_and_a_full_queue_takes_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let theirs = enqueued(&queue).await;
    let (_, jobs) = exported(&queue).await;
    let _: String = world.ask("FLUSHDB", &[] as &[&str]).await;
    let _ = queue.producer.enqueue(&[twin(&theirs)]).await.unwrap();
    let imported = queue.operator.import("one", 1, &[], &jobs).await.unwrap();
    assert_eq!(imported, Imported::Each(vec![ImportOutcome::Duplicate]));
    let _: String = world.ask("FLUSHDB", &[] as &[&str]).await;
    let _ = enqueued(&queue).await;
    let _: u64 = world.ask("HSET", &[&key("meta"), "backlog_max", "1"]).await;
    assert_eq!(queue.operator.import("one", 1, &[], &jobs).await.unwrap(), Imported::Full);
    world.check_invariants().await;
}
