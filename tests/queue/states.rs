//! The arrows of the state diagram, one test each.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;
use wm_analyzer::job::counts::DeliveryCounts;
use wm_analyzer::job::failure::{FailureKind, Stage};
use wm_analyzer::job::hunk::{Hunk, Step, StepKind};
use wm_analyzer::job::report::TextChanges;
use wm_analyzer::job::skip::{Skip, SkipReason};
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, JobId, Priority};
use wm_analyzer::queue::{
    Actor, Claim, Heap, PauseName, Presence, REPORT_MAX_BYTES, ReleaseKind, Replayed, Resumed, RunningJob,
    Settled, StartPermit,
};
use wm_testbed::roles::Roles;

use crate::world::*;

#[tokio::test]
async fn enqueue_then_claim_then_done_leaves_a_report_an_event_and_no_job() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    assert_eq!(world.state(&job.id).await.as_deref(), Some("ready"));

    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.job, job);
    assert_eq!(delivery.counts.deliveries, 1);
    assert!(!delivery.is_exclusive());
    assert_eq!(world.check_invariants().await[job.id.as_str()], "in_flight");

    assert_eq!(queue.worker.settle(delivery, done(&job)).await.unwrap(), Settled::Settled);
    assert!(world.check_invariants().await.is_empty());
    let stored = queue.report(report(&job).from, report(&job).to).await.unwrap().unwrap();
    let stored: wm_analyzer::job::report::Report = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored, report(&job));
    assert_eq!(world.events().await, [("done".to_owned(), job.id.to_string())]);
    assert_eq!(world.counter("done").await, 1);
    let keys: Vec<String> = world.ask("KEYS", "*").await;
    for key in keys.iter().filter(|key| key.contains(":report:") || key.contains(":done:")) {
        assert!(world.ask::<i64>("PTTL", key).await > 0, "{key} never goes");
    }
}

#[tokio::test]
async fn leased_to_gone_by_skip_records_the_reason() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let skip = Skip::new(SkipReason::Content, "from is application/pdf");
    let settled = queue.worker.settle(claimed(&queue, "w").await, Verdict::Skip(skip)).await.unwrap();
    assert_eq!(settled, Settled::Settled);
    assert!(world.check_invariants().await.is_empty());
    assert_eq!(world.counter("skipped:content").await, 1);
    assert_eq!(world.events().await, [("skipped".to_owned(), job.id.to_string())]);
    let stored = queue.report(report(&job).from, report(&job).to).await.unwrap().unwrap();
    assert!(stored.contains("from is application/pdf"), "{stored}");
}

#[tokio::test]
async fn a_late_skip_never_replaces_the_report_that_was_found_before() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let _ = queue.worker.settle(claimed(&queue, "w").await, done(&job)).await.unwrap();
    let again = Job { again: true, ..twin(&job) };
    let _ = queue.producer.enqueue(&[again]).await.unwrap();
    let skip = Skip::new(SkipReason::Expired, "too late");
    let _ = queue.worker.settle(claimed(&queue, "w").await, Verdict::Skip(skip)).await.unwrap();
    let stored = queue.report(report(&job).from, report(&job).to).await.unwrap().unwrap();
    assert!(stored.contains("annotation"), "{stored}");
}

#[tokio::test]
async fn leased_to_scheduled_by_retry_spends_an_attempt_and_promote_brings_it_back() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(world.check_invariants().await[job.id.as_str()], "scheduled");
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 0, "not yet due");
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));

    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", job.id.as_str()]).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1);
    let delivery = claimed(&queue, "w").await;
    assert_eq!((delivery.counts.failures, delivery.counts.deliveries), (1, 2));
    assert_eq!((delivery.counts.crashes, delivery.counts.postponements), (0, 0));
}

/// Makes the time of all come that are scheduled, and claims what is then ready: the ids in their order.
async fn claimed_once_due(world: &World, queue: &Roles) -> Vec<JobId> {
    for id in world.ask::<Vec<String>>("ZRANGE", &[&key("scheduled"), "0", "-1"]).await {
        let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", &id]).await;
    }
    queue.worker.upkeep().await.unwrap();
    let mut ids = Vec::new();
    while let Claim::Delivery(delivery) = queue.worker.claim(&worker("w")).await.unwrap() {
        ids.push(delivery.job.id.clone());
    }
    ids
}

#[tokio::test]
async fn what_failed_or_was_postponed_goes_behind_fresh_work_of_its_priority() {
    let world = World::new().await;
    let queue = world.queue().await;
    let mut late = Vec::new();
    for verdict in [
        retry(Duration::from_secs(3600)),
        Verdict::Postpone {
            after: Duration::from_secs(3600),
            because: PostponeReason::BreakerOpen(failure()),
        },
    ] {
        late.push(enqueued(&queue).await.id);
        let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
    }
    late.sort();
    let low = Job { priority: Priority::Low, ..job() };
    let _ = queue.producer.enqueue(std::slice::from_ref(&low)).await.unwrap();
    let fresh = [enqueued(&queue).await.id, enqueued(&queue).await.id];
    let expected = [&fresh[..], &late, &[low.id]].concat();
    assert_eq!(claimed_once_due(&world, &queue).await, expected, "fresh work, retries, what is low");
    world.check_invariants().await;
}

#[tokio::test]
async fn retries_do_not_starve_under_a_steady_stream_of_fresh_work() {
    let world = World::new().await;
    let queue = world.queue().await;
    let late = enqueued(&queue).await.id;
    let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::ZERO)).await.unwrap();
    // Ten jobs wait whenever its time comes, and for each that is claimed another one is enqueued.
    for _ in 0..10 {
        enqueued(&queue).await;
    }
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1);
    let mut overtook = 0;
    loop {
        enqueued(&queue).await;
        let delivery = claimed(&queue, "w").await;
        if delivery.job.id == late {
            break;
        }
        overtook += 1;
        assert!(overtook <= 10, "it starves");
        let verdict = done(&delivery.job);
        let _ = queue.worker.settle(delivery, verdict).await.unwrap();
    }
    assert_eq!(overtook, 10, "those that waited before it did");
}

#[tokio::test]
async fn what_has_never_run_or_waited_for_its_host_keeps_its_place() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    let run_at = Some(OffsetDateTime::now_utc() + Duration::from_secs(3600));
    let timed = Job { run_at, ..job() };
    let _ = queue.producer.enqueue(std::slice::from_ref(&timed)).await.unwrap();
    // It failed once, long ago, and now waits for its host.
    let waits = enqueued(&queue).await.id;
    let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::ZERO)).await.unwrap();
    queue.worker.upkeep().await.unwrap();
    let visitor = enqueued(&queue).await.id;
    let [waiter, visitor] = [claimed(&queue, "w").await, claimed(&queue, "w").await].map(|held| {
        assert!([&waits, &visitor].contains(&&held.job.id));
        held
    });
    let permit = queue.worker.start(&visitor.lease(), &somewhere("slow.test")).await.unwrap();
    assert_eq!(permit, StartPermit::Granted);
    let permit = queue.worker.start(&waiter.lease(), &somewhere("slow.test")).await.unwrap();
    assert!(matches!(permit, StartPermit::HostFull { .. }));
    let _ = queue.worker.settle(waiter, crate::start::full("slow.test")).await.unwrap();
    let fresh = enqueued(&queue).await.id;
    let verdict = done(&visitor.job);
    let _ = queue.worker.settle(visitor, verdict).await.unwrap();
    assert_eq!(claimed_once_due(&world, &queue).await, [timed.id, waits, fresh]);
    world.check_invariants().await;
}

#[tokio::test]
async fn leased_to_scheduled_by_postpone_spends_no_attempt_and_adds_up_the_time_it_costs() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    for after in [2, 1] {
        put_off(
            &world,
            &queue,
            &job.id,
            Duration::from_secs(after),
            PostponeReason::Infrastructure(failure()),
        )
        .await;
    }
    let counts = claimed(&queue, "w").await.counts;
    assert_eq!((counts.failures, counts.postponements, counts.deliveries), (0, 2, 3));
    assert_eq!(counts.postponed_ms, 3000, "the delays that were given, not the time until it ran");
}

#[tokio::test]
async fn what_an_open_breaker_puts_off_is_counted_against_no_job() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    put_off(&world, &queue, &job.id, Duration::from_secs(9), PostponeReason::BreakerOpen(failure())).await;
    let counts = claimed(&queue, "w").await.counts;
    assert_eq!((counts.postponements, counts.postponed_ms, counts.failures, counts.deliveries), (0, 0, 0, 2));
    assert!(world.field(&job.id, "last_failure").await.unwrap().contains("no answer in 30 s"));
}

#[tokio::test]
async fn finding_a_host_full_counts_as_nothing_at_all_and_is_done_as_often_as_need_be() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    for _ in 0..25 {
        // By the time it would wait, somebody has left: it may come again at once.
        let because = PostponeReason::HostFull { host: "busy.test".to_owned() };
        let verdict = Verdict::Postpone { after: Duration::ZERO, because };
        let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
        assert_eq!(world.check_invariants().await[job.id.as_str()], "ready");
    }
    let delivery = claimed(&queue, "w").await;
    assert!(!delivery.is_exclusive(), "it is no suspect");
    assert_eq!(delivery.counts, DeliveryCounts { deliveries: 1, ..DeliveryCounts::default() });
    assert_eq!(world.counter("host_full").await, 25);
}

/// Claims the job, puts it off, sees it wait, and makes its time come.
async fn put_off(world: &World, queue: &Roles, id: &JobId, after: Duration, because: PostponeReason) {
    let verdict = Verdict::Postpone { after, because };
    let _ = queue.worker.settle(claimed(queue, "w").await, verdict).await.unwrap();
    assert_eq!(world.check_invariants().await[id.as_str()], "scheduled");
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1);
}

#[tokio::test]
async fn leased_to_dead_keeps_the_evidence_and_gives_the_lock_back() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let verdict = death(FailureKind::MemoryExceeded, "a.test");
    let Verdict::DeadLetter(reason) = verdict.clone() else { unreachable!() };
    let _ = queue.worker.settle(claimed(&queue, "w").await, verdict).await.unwrap();
    assert_eq!(world.check_invariants().await[job.id.as_str()], "dead");
    let letter = queue.operator.stored_job(&job.id).await.unwrap().unwrap();
    assert_eq!(letter.reason, Some(*reason));
    assert_eq!(world.counter("dead:memory_exceeded").await, 1);
    let admitted = queue.producer.enqueue(&[twin(&job)]).await.unwrap();
    assert!(matches!(admitted[0], wm_analyzer::queue::Admission::Admitted { .. }));
}

#[tokio::test]
async fn dead_to_ready_by_replay_keeps_the_id_and_starts_a_new_budget() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let _ = queue.worker.settle(claimed(&queue, "w").await, retry(Duration::ZERO)).await.unwrap();
    queue.worker.upkeep().await.unwrap();
    let _ = queue
        .worker
        .settle(claimed(&queue, "w").await, death(FailureKind::Exhausted, "a.test"))
        .await
        .unwrap();
    assert_eq!(
        queue.operator.replay(std::slice::from_ref(&job.id)).await.unwrap(),
        [(job.id.clone(), Replayed::Replayed)]
    );
    assert_eq!(world.check_invariants().await[job.id.as_str()], "ready");
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.job, job);
    assert_eq!((delivery.counts.replays, delivery.counts.failures), (1, 0));
    assert_eq!(queue.operator.dead(&Default::default(), 10).await.unwrap(), []);
}

#[tokio::test]
async fn dead_to_gone_by_discard() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    assert_eq!(queue.operator.discard(std::slice::from_ref(&job.id)).await.unwrap(), 0, "only the dead");
    let _ =
        queue.worker.settle(claimed(&queue, "w").await, death(FailureKind::Gone, "a.test")).await.unwrap();
    assert_eq!(queue.operator.discard(std::slice::from_ref(&job.id)).await.unwrap(), 1);
    assert_eq!(queue.operator.discard(&[job.id]).await.unwrap(), 0);
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn leased_to_ready_by_release_takes_the_count_back_and_the_job_to_its_old_place() {
    let world = World::new().await;
    let queue = world.queue().await;
    let first = enqueued(&queue).await;
    enqueued(&queue).await;
    assert_eq!(
        queue.worker.release(claimed(&queue, "w").await, ReleaseKind::Counted).await.unwrap(),
        Settled::Settled
    );
    assert_eq!(world.check_invariants().await[first.id.as_str()], "ready");
    let delivery = claimed(&queue, "w").await;
    assert_eq!(delivery.job.id, first.id, "at its old place");
    assert_eq!((delivery.counts.deliveries, delivery.counts.releases), (1, 1));
}

#[tokio::test]
async fn a_job_that_is_handed_back_again_and_again_becomes_a_suspect() {
    let mut world = World::new().await;
    world.config.releases_exclusive = 3;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    for _ in 0..3 {
        let delivery = claimed(&queue, "w").await;
        assert!(!delivery.is_exclusive());
        let _ = queue.worker.release(delivery, ReleaseKind::Counted).await.unwrap();
    }
    assert_eq!(world.check_invariants().await[job.id.as_str()], "exclusive");
    assert!(claimed(&queue, "w").await.is_exclusive());
}

#[tokio::test]
async fn a_paused_queue_hands_out_nothing_and_says_who_and_why() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueued(&queue).await;
    let default = PauseName::default();
    assert!(queue.operator.pause(&default, None, "ada", "deploy of the db app").await.unwrap());
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Paused));
    let paused = queue.status().await.unwrap().paused.unwrap();
    assert_eq!((paused.by.as_str(), paused.reason.as_str()), ("ada", "deploy of the db app"));
    assert_eq!(queue.drained_by(&default).await.unwrap(), (true, 0));
    assert_eq!(queue.operator.resume(None, "ada").await.unwrap(), Resumed::Resumed(paused));
    assert_eq!(queue.operator.resume(None, "ada").await.unwrap(), Resumed::NotPaused);
    let delivery = claimed(&queue, "w").await;
    assert_eq!(queue.drained_by(&default).await.unwrap(), (false, 1));
    drop(delivery);
    assert_eq!(world.ask::<u64>("XLEN", key("audit")).await, 3);
}

#[tokio::test]
async fn one_pause_is_lifted_by_its_name_and_never_another_ones() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueued(&queue).await;
    let [deploy, incident] = ["deploy", "incident"].map(|name| PauseName::parse(name).unwrap());
    assert!(queue.operator.pause(&deploy, None, "ada", "a new build").await.unwrap());
    assert!(queue.operator.pause(&incident, None, "bob", "the archive is down").await.unwrap());
    let Resumed::Several(both) = queue.operator.resume(None, "ada").await.unwrap() else { panic!() };
    assert_eq!(both.iter().map(|pause| pause.by.as_str()).collect::<Vec<_>>(), ["ada", "bob"]);
    let unknown = PauseName::parse("other").unwrap();
    assert!(matches!(queue.operator.resume(Some(&unknown), "ada").await.unwrap(), Resumed::Unknown(_)));
    assert!(matches!(queue.operator.resume(Some(&deploy), "ada").await.unwrap(), Resumed::Resumed(_)));
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Paused), "by the other one");
    assert!(matches!(queue.operator.resume(None, "bob").await.unwrap(), Resumed::Resumed(_)));
    let _ = claimed(&queue, "w").await;
}

#[tokio::test]
async fn a_pause_whose_time_is_over_is_lifted_by_upkeep_and_no_other_one() {
    let world = World::new().await;
    let queue = world.queue().await;
    enqueued(&queue).await;
    let [brief, long, endless] = ["brief", "long", "endless"].map(|name| PauseName::parse(name).unwrap());
    let hour = Duration::from_secs(3600);
    assert!(queue.operator.pause(&endless, None, "ada", "until I am back").await.unwrap());
    assert!(queue.operator.pause(&long, Some(hour), "ada", "a move").await.unwrap());
    assert!(queue.operator.pause(&brief, Some(Duration::from_millis(1)), "bob", "a look").await.unwrap());
    let names = async || -> Vec<String> {
        queue.worker.upkeep().await.unwrap();
        queue.status().await.unwrap().pauses.into_iter().map(|pause| pause.name).collect()
    };
    until("the brief one is over", async || names().await == ["endless", "long"]).await;
    let row = &queue.audit_rows(1).await.unwrap().0[0];
    assert_eq!((&*row.what, &*row.by, &*row.why), ("resume brief", "bob", "its time was over"));
    let pauses = queue.status().await.unwrap().pauses;
    let until_ms: Vec<_> =
        pauses.iter().map(|pause| pause.until_ms.map(|end| end - pause.since_ms)).collect();
    assert_eq!(until_ms, [None, Some(3_600_000)]);
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Paused));
    world.check_invariants().await;
}

#[tokio::test]
async fn run_at_waits_for_its_time_and_promote_brings_it() {
    let world = World::new().await;
    let queue = world.queue().await;
    let later = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let job = Job { run_at: Some(later), ..job() };
    let _ = queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap();
    assert_eq!(world.check_invariants().await[job.id.as_str()], "scheduled");
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
    let due: f64 = world.ask("ZSCORE", &[&key("scheduled"), job.id.as_str()]).await;
    assert_eq!(due as i128, later.unix_timestamp_nanos() / 1_000_000);
    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", job.id.as_str()]).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1);
    assert_eq!(claimed(&queue, "w").await.job.id, job.id);
}

#[tokio::test]
async fn an_expired_job_is_handed_out_only_to_be_skipped() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = Job { expires_at: Some(OffsetDateTime::now_utc() - Duration::from_secs(5)), ..job() };
    let _ = queue.producer.enqueue(&[job]).await.unwrap();
    let Claim::NotNeeded(delivery, skip) = queue.worker.claim(&worker("w")).await.unwrap() else {
        panic!("foregone")
    };
    assert_eq!(skip.reason, SkipReason::Expired);
    let _ = queue.worker.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
    assert_eq!(world.counter("skipped:expired").await, 1);
    assert!(world.check_invariants().await.is_empty());
}

#[tokio::test]
async fn a_cancelled_job_is_skipped_at_its_claim_and_named_by_the_beat_while_it_runs() {
    let world = World::new().await;
    let queue = world.queue().await;
    let waiting = enqueued(&queue).await;
    assert!(queue.operator.cancel(&waiting.id, Actor::default()).await.unwrap());
    let Claim::NotNeeded(delivery, skip) = queue.worker.claim(&worker("w")).await.unwrap() else {
        panic!("foregone")
    };
    assert_eq!(skip.reason, SkipReason::Cancelled);
    let _ = queue.worker.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
    assert!(!queue.operator.cancel(&waiting.id, Actor::default()).await.unwrap(), "gone");

    let running = enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    assert!(queue.operator.cancel(&running.id, Actor::default()).await.unwrap());
    let heartbeat = queue.worker.heartbeat(&info("w"), &[delivery.lease()]).await.unwrap();
    assert_eq!((heartbeat.cancelled, heartbeat.lost), (vec![running.id.clone()], vec![]));

    let _ = queue.worker.settle(delivery, retry(Duration::from_secs(3600))).await.unwrap();
    assert!(queue.operator.cancel(&running.id, Actor::default()).await.unwrap());
    assert_eq!(queue.worker.upkeep().await.unwrap().promoted, 1, "no need to wait for its time");
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::NotNeeded(..)));
}

#[tokio::test]
async fn who_replays_what_was_cancelled_before_it_died_wants_it_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let delivery = claimed(&queue, "w").await;
    assert!(queue.operator.cancel(&job.id, Actor::default()).await.unwrap());
    let _ = queue.worker.settle(delivery, death(FailureKind::Gone, "a.test")).await.unwrap();
    let _ = queue.operator.replay(std::slice::from_ref(&job.id)).await.unwrap();
    assert_eq!(claimed(&queue, "w").await.job.id, job.id, "to work on, not to be skipped");
}

#[tokio::test]
async fn high_goes_before_what_waits_and_low_comes_up_after_a_bounded_number_of_others() {
    let world = World::new().await;
    let queue = world.queue().await;
    let with = |priority| Job { priority, ..job() };
    let (low, normal, high) = (with(Priority::Low), with(Priority::Normal), with(Priority::High));
    let jobs = [low.clone(), normal.clone(), high.clone()];
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    let order = [high.id, normal.id, low.id];
    for id in &order {
        assert_eq!(claimed(&queue, "w").await.job.id, *id);
    }
    // 100,000 places later a low job that waits is ahead of whatever normal job enters now.
    let low = with(Priority::Low);
    let _ = queue.producer.enqueue(std::slice::from_ref(&low)).await.unwrap();
    let _: u64 = world.ask("INCRBY", &[&key("seq"), "100000"]).await;
    let _ = queue.producer.enqueue(&[with(Priority::Normal)]).await.unwrap();
    assert_eq!(claimed(&queue, "w").await.job.id, low.id);
}

#[tokio::test]
async fn a_report_over_64_kib_is_shrunk_and_says_what_it_omits() {
    let world = World::new().await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let step = Step { kind: StepKind::Added, text: "x".repeat(REPORT_MAX_BYTES).into(), left_out: 0 };
    let hunks = vec![Hunk { at: [0, 0], steps: vec![step] }];
    let mut report = report(&job);
    report.changes.html_source_dmp =
        Some(TextChanges { change_count: 3, hunks, left_out: 2, approximate: false });
    let (from, to) = (report.from, report.to);
    let _ = queue.worker.settle(claimed(&queue, "w").await, Verdict::Done(Box::new(report))).await.unwrap();
    let stored = queue.report(from, to).await.unwrap().unwrap();
    assert!(stored.len() <= REPORT_MAX_BYTES);
    let stored: wm_analyzer::job::report::Report = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored.omitted, ["changes.html_source_dmp.hunks"]);
    let source = stored.changes.html_source_dmp.unwrap();
    assert_eq!((source.change_count, source.left_out), (3, 3));
}

#[tokio::test]
async fn status_tells_what_is_fetched_from_what_is_analysed_and_lists_the_latter_first() {
    let world = World::new().await;
    let queue = world.queue().await;
    let running = |n: usize, stage| RunningJob {
        id: JobId::parse(&format!("{stage}-{n}")).unwrap(),
        from: None,
        to: Uuid::nil(),
        in_flight_ms: 10_000,
        stage,
        stage_ms: 6_000,
        limit_ms: None,
        heap: None,
    };
    let stages = [(Stage::Resolve, 10), (Stage::Fetch, 200), (Stage::Queue, 3), (Stage::Analyse, 2)];
    let stages = stages.into_iter().chain([(Stage::Deliver, 1)]);
    let told = stages.flat_map(|(stage, count)| (0..count).map(move |n| (n, stage)));
    let told: Vec<RunningJob> = told.map(|(n, stage)| running(n, stage)).collect();
    queue.worker.heartbeat(&Presence { in_flight: told.clone(), ..info("w") }, &[]).await.unwrap();
    queue.worker.heartbeat(&Presence { in_flight: told[..11].to_vec(), ..info("v") }, &[]).await.unwrap();
    let status = queue.status().await.unwrap();
    assert_eq!((status.fetching, status.analysing), (213 + 11, 3));
    let w = status.workers.iter().find(|seen| seen.info.id == worker("w")).unwrap();
    let listed: Vec<Stage> = w.info.in_flight[..4].iter().map(|job| job.stage).collect();
    assert_eq!(listed, [Stage::Analyse, Stage::Analyse, Stage::Deliver, Stage::Resolve]);

    let long_ago = (world.now_ms().await - 60_000).to_string();
    let _: u64 = world.ask("HSET", &[&key("worker:w"), "heartbeat_ms", &long_ago]).await;
    let status = queue.status().await.unwrap();
    assert_eq!((status.fetching, status.analysing), (11, 0), "nobody knows what a silent worker does");
}

#[tokio::test]
async fn a_worker_tells_of_64_jobs_and_what_runs_goes_on_between_its_beats() {
    let world = World::new().await;
    let queue = world.queue().await;
    let running = |n: u64| RunningJob {
        id: JobId::parse(&format!("job-{n}")).unwrap(),
        from: None,
        to: Uuid::nil(),
        in_flight_ms: 10_000 - n,
        stage: Stage::Fetch,
        stage_ms: 6_000,
        limit_ms: Some(30_000),
        heap: (n < 3).then_some(Heap { bytes: 64 << 20, limit_bytes: 256 << 20 }),
    };
    let told: Vec<RunningJob> = (0..70).map(running).collect();
    queue.worker.heartbeat(&Presence { in_flight: told.clone(), ..info("w") }, &[]).await.unwrap();
    let mut seen = queue.status().await.unwrap().workers.remove(0);
    until("time has gone by", async || {
        seen = queue.status().await.unwrap().workers.remove(0);
        seen.heartbeat_age_ms > 0
    })
    .await;
    let age = seen.heartbeat_age_ms;
    let later = |job: &RunningJob| RunningJob {
        in_flight_ms: job.in_flight_ms + age,
        stage_ms: job.stage_ms + age,
        ..job.clone()
    };
    assert_eq!(seen.info.in_flight, told[..64].iter().map(later).collect::<Vec<_>>());
    assert_eq!((seen.fetching, seen.analysing), (70, 0), "all are counted");
    assert_eq!((told[0].percent(), told[0].heap.unwrap().percent()), (Some(20), 25));
    assert_eq!(RunningJob { limit_ms: None, ..told[0].clone() }.percent(), None);
}
