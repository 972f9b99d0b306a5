//! A queue that release 0.1.0 filled is worked off by this build: its keys and fields are a contract.
//!
//! `cargo test --test queue -- --ignored writes_the_fixture` makes `tests/fixtures/rdb/<version>.rdb` anew; the file of
//! a release is never overwritten.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, JobId, Priority};
use wm_analyzer::queue::{
    Claim, OutageReport, PauseName, Replayed, Resumed, Selection, Settled, StartPermit,
};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;

use crate::start::{in_line, inside};
use crate::world::*;

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/rdb/{version}.rdb"))
}

/// A queue with something in each of its places: the inbox, three priorities, retries, two workers' jobs in flight, a
/// host at its ceiling with a job that waits for it, a suspect, dead letters of three kinds, a report, a pause.
async fn fill(world: &mut World) {
    world.config.host_in_flight_max = 1;
    let queue = world.queue().await;
    // What happened: a pair done, two dead letters of jobs, one of what is no job.
    let verdict_of = claimed_job(&queue).await;
    let verdict = done(&verdict_of.job);
    assert_eq!(queue.worker.settle(verdict_of, verdict).await.unwrap(), Settled::Settled);
    for (kind, host) in [(FailureKind::Gone, "a.test"), (FailureKind::WallExceeded, "b.test")] {
        let delivery = claimed_job(&queue).await;
        assert_eq!(queue.worker.settle(delivery, death(kind, host)).await.unwrap(), Settled::Settled);
    }
    world.push(b"no job".as_slice()).await;
    assert_eq!(queue.worker.ingest().await.unwrap().buried.len(), 1);
    // What waits: a job for a host at its ceiling, behind one in flight there; a retry.
    let _ = dies_with(inside(&queue, "w1", &somewhere("full.test")).await);
    let _ = in_line(&queue, "full.test").await;
    let delivery = claimed_job(&queue).await;
    assert_eq!(
        queue.worker.settle(delivery, retry(Duration::from_secs(3600))).await.unwrap(),
        Settled::Settled
    );
    // In flight when the last worker of that release ended, without a start permit; and a suspect.
    let _ = dies_with(claimed_job(&queue).await);
    let lost = claimed_job(&queue).await;
    assert!(queue.worker.enter_child(&lost.lease()).await.unwrap());
    let lost = dies_with(lost);
    queue.worker.upkeep().await.unwrap();
    world.expire(&lost.id).await;
    assert_eq!(queue.worker.upkeep().await.unwrap().reclaimed, 1);
    // What is ready, by priority, and what was pushed and not looked at yet.
    let jobs = [Priority::High, Priority::Normal, Priority::Low].map(|priority| Job { priority, ..job() });
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    world.push(job().encode()).await;
    let _ = queue.worker.heartbeat(&info("w1"), &[]).await.unwrap();
    let ongoing = OutageReport::Ongoing { detail: "503", reported: true };
    queue.worker.outage("api", &worker("w1"), ongoing).await.unwrap();
    queue.operator.pause(&PauseName::default(), None, "operator", "upgrade").await.unwrap();
}

async fn claimed_job(queue: &Roles) -> wm_analyzer::queue::Delivery {
    enqueued(queue).await;
    claimed(queue, "w").await
}

#[tokio::test]
#[ignore = "writes a file of this tree: run by hand, once for each release"]
async fn writes_the_fixture() {
    let target = fixture(env!("CARGO_PKG_VERSION"));
    assert!(!target.exists(), "{} is a release's: it stays as it is", target.display());
    let folder = tempfile::tempdir().unwrap();
    let options = RedisOptions::default().set("dir", &folder.path().to_string_lossy());
    let redis = PrivateRedis::start(options).unwrap();
    let url = redis.url();
    let mut world = World::at(redis, &url).await;
    fill(&mut world).await;
    world.check_invariants().await;
    let _: String = world.ask("SAVE", &[""; 0]).await;
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(folder.path().join("dump.rdb"), &target).unwrap();
}

#[tokio::test]
async fn a_queue_that_0_1_0_filled_is_worked_off() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("0.1.0"), folder.path().join("dump.rdb")).unwrap();
    let options = RedisOptions::default().set("dir", &folder.path().to_string_lossy());
    let redis = PrivateRedis::start(options).unwrap();
    let url = redis.url();
    let mut world = World::at(redis, &url).await;
    world.config.lease = Duration::from_millis(300);
    let queue = world.queue().await;

    let found = queue.status().await.unwrap();
    assert_eq!((found.inbox, found.ready, found.exclusive, found.dead), (1, 3, 1, 3), "{found:?}");
    assert_eq!((found.in_flight, found.scheduled), (2, 2), "{found:?}");
    assert_eq!(found.paused.map(|pause| pause.reason).as_deref(), Some("upgrade"));
    assert!(matches!(queue.worker.claim(&worker("new")).await.unwrap(), Claim::Paused));
    assert!(matches!(queue.operator.resume(None, "operator").await.unwrap(), Resumed::Resumed(_)));

    // Dead letters are read and put back; what is no job stays what it is.
    let letters = queue.operator.dead(&Selection::default(), 10).await.unwrap();
    let ids: Vec<JobId> = letters.iter().map(|letter| letter.id.clone()).collect();
    let replayed: HashMap<_, _> = queue.operator.replay(&ids).await.unwrap().into_iter().collect();
    let of = |kind: FailureKind| {
        let is_it = |reason: &wm_analyzer::job::verdict::DeadLetterReason| reason.kind == kind;
        let letter = letters.iter().find(|letter| letter.reason.as_ref().is_some_and(is_it)).unwrap();
        &replayed[&letter.id]
    };
    assert!(matches!(of(FailureKind::Gone), Replayed::Replayed), "{replayed:?}");
    assert!(matches!(of(FailureKind::WallExceeded), Replayed::Replayed), "{replayed:?}");
    assert!(!matches!(of(FailureKind::Decode), Replayed::Replayed), "{replayed:?}");

    // As after the hours that an upgrade may take: leases have run out, and the retry is due.
    for place in ["scheduled", "lease"] {
        let ids: Vec<String> = world.ask("ZRANGE", &[&key(place), "0", "-1"]).await;
        for id in ids {
            let _: u64 = world.ask("ZADD", &[&key(place), "XX", "1", &id]).await;
        }
    }
    let mut finished = Vec::new();
    until("everything is worked off", async || {
        let _ = queue.worker.ingest().await.unwrap();
        queue.worker.upkeep().await.unwrap();
        while let Claim::Delivery(delivery) = queue.worker.claim(&worker("new")).await.unwrap() {
            let permit = queue.worker.start(&delivery.lease(), &somewhere("full.test")).await.unwrap();
            assert!(matches!(permit, StartPermit::Granted), "{permit:?}");
            finished.push(delivery.job.id.clone());
            let verdict = done(&delivery.job);
            assert_eq!(queue.worker.settle(*delivery, verdict).await.unwrap(), Settled::Settled);
        }
        let now = queue.status().await.unwrap();
        now.inbox + now.backlog() + now.in_flight == 0
    })
    .await;
    finished.sort();
    finished.dedup();
    // 1 in the inbox, 3 ready, 1 suspect, 2 in flight, 2 scheduled, 2 replayed.
    assert_eq!(finished.len(), 11);
    assert_eq!(queue.status().await.unwrap().dead, 1, "what was no job");
    // That release counted nothing: the first looks count anew.
    until("the jobs are counted", async || {
        queue.worker.upkeep().await.unwrap();
        queue.orphans().await.unwrap() == 0
    })
    .await;
    queue.worker.upkeep().await.unwrap();
    world.check_invariants().await;
}
