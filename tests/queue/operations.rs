//! Every deed of a worker and of an operator once, for tests of where, and with which rights, they work.

use std::time::Duration;

use wm_analyzer::job::Job;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::queue::{
    Actor, Admission, AlertClaim, AlertOutcome, AuditEntry, DiscardTo, ExportPage, HostName, HostResumed,
    ImportOutcome, Imported, Looked, OperationId, OutageReport, PauseName, ReleaseKind, ReplayOptions,
    ReplayUndone, Replayed, Resumed, Selected, Selection, Setting, Settled, StartPermit, StoredJob, Upkeep,
    WorkerRequest,
};
use wm_testbed::roles::Roles;

use crate::world::*;

/// Leaves three dead letters: of a payload that was no job, and of two jobs.
pub async fn all_that_a_worker_does(world: &World, queue: &Roles) {
    queue.preflight().await.unwrap().fit_for_work().unwrap();
    queue.worker.seed_settings().await.unwrap();
    let _new = queue.worker.has_lost_queue().await.unwrap();
    assert!(!queue.worker.has_lost_queue().await.unwrap());
    let all: Vec<Job> = (0..8).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&all).await.unwrap();
    assert!(matches!(
        queue.producer.enqueue(&[twin(&all[0])]).await.unwrap()[..],
        [Admission::Duplicate { .. }]
    ));
    world.push(job().encode()).await;
    world.push(b"no job".as_slice()).await;
    let ingested = queue.worker.ingest().await.unwrap();
    assert_eq!((ingested.admitted, ingested.buried.len()), (1, 1));

    let held = claimed(queue, "w").await;
    assert_eq!(queue.worker.heartbeat(&info("w"), &[held.lease()]).await.unwrap().lost, []);
    assert!(queue.worker.confirm(&held.lease()).await.unwrap());
    let verdict = done(&held.job);
    assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Settled);
    assert_eq!(queue.producer.enqueue(&[twin(&all[0])]).await.unwrap(), [Admission::AlreadyDone]);
    for verdict in
        [retry(Duration::ZERO), death(FailureKind::Gone, "a.test"), death(FailureKind::Gone, "b.test")]
    {
        let held = claimed(queue, "w").await;
        assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Settled);
    }
    assert_eq!(
        queue.worker.release(claimed(queue, "w").await, ReleaseKind::Counted).await.unwrap(),
        Settled::Settled
    );
    let held = claimed(queue, "w").await;
    assert_eq!(queue.worker.start(&held.lease(), &somewhere("a.test")).await.unwrap(), StartPermit::Granted);
    assert!(queue.worker.enter_child(&held.lease()).await.unwrap());
    let full = PostponeReason::HostFull { host: "a.test".into() };
    let verdict = Verdict::Postpone { after: Duration::ZERO, because: full };
    assert_eq!(queue.worker.settle(held, verdict).await.unwrap(), Settled::Settled);
    let lost = dies_with(claimed_into_child(queue, "dead").await);
    queue.worker.upkeep().await.unwrap();
    world.expire(&lost.id).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    let ongoing = OutageReport::Ongoing { detail: "503", reported: false };
    for (what, report) in
        [("api", ongoing), ("api", OutageReport::Over), ("queue_lost", OutageReport::Once { detail: "lost" })]
    {
        queue.worker.outage(what, &worker("w"), report).await.unwrap();
    }
    let claim = AlertClaim { window: Duration::ZERO, lease: Duration::from_secs(10), leaving: false };
    let mut alerts = 0;
    until("two groups, an outage, its end and a loss are reported", async || {
        if let Some(alert) = queue.worker.claim_alert(&worker("w"), claim).await.unwrap().alert {
            queue.worker.settle_alert(alert.event, AlertOutcome::Accepted).await.unwrap();
            alerts += 1;
        }
        alerts == 5
    })
    .await;
    queue.worker.wait(Duration::from_millis(20)).await;
    queue.worker.wait_for_inbox(Duration::from_millis(20)).await;
    assert!(!queue.worker.is_done(&somewhere("a.test")).await.unwrap());
    let seen = queue.worker.glance().await.unwrap();
    queue.worker.publish_glance(&seen).await.unwrap();
    assert_eq!(queue.last_glance().await.unwrap().unwrap().dead, seen.dead);
    let _: i64 = world.ask("HINCRBY", &[&key("meta"), "jobs_count", "1"]).await;
    until("the jobs are counted anew", async || {
        queue.worker.upkeep().await.unwrap();
        queue.orphans().await.unwrap() == 0
    })
    .await;
    assert_eq!(queue.worker.look(&worker("w"), &mut Upkeep::default()).await.unwrap(), Looked::Here);
    let _has_jobs = queue.worker.hold_look(&worker("w")).await.unwrap();
    queue.worker.stop_looking(&worker("w")).await.unwrap();
    queue.worker.leave(&worker("w")).await.unwrap();
    world.check_invariants().await;
}

/// Looks, pauses and resumes, and leaves one dead letter of those three.
pub async fn all_that_an_operator_does(world: &World, queue: &Roles) {
    queue.preflight().await.unwrap();
    let dead = queue.operator.dead(&Selection::default(), 10).await.unwrap();
    let is_job = |letter: &&StoredJob| letter.reason.as_ref().unwrap().kind == FailureKind::Gone;
    let jobs: Vec<_> = dead.iter().filter(is_job).map(|letter| letter.id.clone()).collect();
    assert_eq!((dead.len(), jobs.len()), (3, 2));
    assert!(queue.operator.stored_job(&jobs[0]).await.unwrap().is_some());
    let (operation, entry) =
        (OperationId::fresh("replay"), AuditEntry { what: "replay".into(), ..AuditEntry::default() });
    let selected: Vec<Selected> = dead.iter().map(Selected::of).collect();
    queue.operator.begin_operation(&operation, &entry, "", &selected).await.unwrap();
    queue.operator.audit(&entry).await.unwrap();
    assert_eq!(queue.audit_rows(1).await.unwrap().0[0].what, "replay");
    let actor = Actor { by: "me", operation: Some(&operation) };
    let one = &selected[..1];
    assert_eq!(queue.operator.discard_selected(one, DiscardTo::Trash, actor).await.discarded, 1);
    assert!(queue.operator.restore(&one[0].id, actor).await.unwrap());
    for _ in 0..2 {
        let (selected, letter) = (
            Selected { id: jobs[0].clone(), died_ms: 0 },
            queue.operator.stored_job(&jobs[0]).await.unwrap(),
        );
        let options = ReplayOptions::default();
        let replayed =
            queue.operator.replay_selected(&selected, letter.as_ref(), options, actor).await.unwrap();
        assert_eq!(replayed, Replayed::Replayed);
        assert_eq!(
            queue.operator.undo_replay(&jobs[0], &operation, "me").await.unwrap(),
            ReplayUndone::Undone
        );
    }
    assert_eq!(queue.operation(&operation).await.unwrap().unwrap().jobs.len(), 3);
    assert_eq!(queue.outcomes(&operation, &jobs[..1]).await.unwrap()[0].as_ref().unwrap().as_str(), "undone");
    assert_eq!(queue.groups().await.unwrap().0.iter().map(|group| group.dead).sum::<u64>(), 3);
    let _ = queue.operator.replay(&jobs[..1]).await.unwrap();
    assert!(queue.operator.cancel(&jobs[0], Actor::default()).await.unwrap());
    assert_eq!(queue.operator.discard(&jobs[1..]).await.unwrap(), 1);
    queue.producer.push(&[b"{}".to_vec()]).await.unwrap();
    queue.operator.pause(&PauseName::default(), None, "me", "a look").await.unwrap();
    assert_eq!(queue.drained_by(&PauseName::default()).await.unwrap(), (true, 0));
    assert!(matches!(queue.operator.resume(None, "me").await.unwrap(), Resumed::Resumed(_)));
    let _ = queue.worker.heartbeat(&info("w"), &[]).await.unwrap();
    assert!(queue.operator.ask_worker(&worker("w"), WorkerRequest::Stop, "me", "a look").await.unwrap());
    assert_eq!(queue.operator.fleet().await.unwrap().0[0].asked, Some(WorkerRequest::Stop));
    let told = queue.worker.heartbeat(&info("w"), &[]).await.unwrap();
    assert_eq!(told.asked, Some(WorkerRequest::Stop));
    queue.worker.leave(&worker("w")).await.unwrap();
    assert!(!queue.operator.ask_worker(&worker("w"), WorkerRequest::Stop, "me", "").await.unwrap());
    let page = queue.operator.export().next().await.unwrap();
    assert!(matches!(page, Some(ExportPage::Inbox(payloads)) if payloads == [b"{}".to_vec()]));
    let place = queue.operator.newest_place().await.unwrap();
    let imported = queue.operator.import("one", place, &[(1, b"{}".to_vec())], &[]).await.unwrap();
    assert_eq!(imported, Imported::Each(vec![ImportOutcome::Imported]));
    let host = HostName::parse("slow.test").unwrap();
    assert!(queue.operator.rest_host(&host, Duration::from_secs(900), "me", "a look").await.unwrap());
    assert!(matches!(queue.operator.resume_host(&host, "me").await.unwrap(), HostResumed::Resumed(Some(_))));
    assert!(!queue.events("0", 10).await.unwrap().is_empty());
    let (results, count) = queue.results(10).await.unwrap();
    assert_eq!(results.len() as u64, count);
    assert_eq!(queue.operator.free_results(100, None).await.unwrap().results, count);
    let events_max = (Setting::EventsMax, "9000".to_owned());
    assert_eq!(queue.operator.set("me", &[events_max]).await.unwrap().len(), 1);
    assert!(queue.settings().await.unwrap().iter().any(|one| one.value == "9000" && one.stored));
    assert!(queue.exists().await.unwrap());
    assert!(queue.report(uuid::Uuid::new_v4(), uuid::Uuid::new_v4()).await.unwrap().is_none());
    assert_eq!(queue.status().await.unwrap().dead, 1);
    world.check_invariants().await;
}
