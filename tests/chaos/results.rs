//! The histories at the end: what became of each job, in the eyes of Redis and of the site.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Selection, StoredJob};

use crate::harness::World;

/// Ways in which a delivery comes back, each of which is a reason to run a job once more.
const RETURNS: [&str; 4] = ["retried", "postponed", "reclaimed", "released"];
/// Ways in which a job ends, one of which it ends in once.
const ENDS: [&str; 3] = ["done", "skipped", "buried"];
/// What may be left in Redis when nothing is live: what became of jobs, and what workers say of themselves and, for a
/// lease, of an outage.
const ALLOWED_KEYS: [&str; 28] = [
    "alerts",
    "audit",
    "child_kills",
    "claim",
    "dead",
    "dead_group",
    "dead_groups",
    "done",
    "done_segments",
    "ended",
    "events",
    "failed_hosts",
    "glance",
    "host_breakers",
    "job",
    "looker",
    "meta",
    "outage",
    "proven_hosts",
    "report",
    "results",
    "seq",
    "settled",
    "stats",
    "suspects",
    "wake",
    "worker",
    "workers",
];

/// What became of one job.
pub(crate) struct JobHistory {
    /// `done`, `skipped` or `buried`.
    pub(crate) end: String,
    /// How often the site was asked for its older version.
    pub(crate) runs: u64,
    /// How often a delivery of it came back.
    pub(crate) returns: u64,
    /// Why it was buried, where it was.
    pub(crate) kind: Option<FailureKind>,
}

impl JobHistory {
    /// Buried, for a reason that chaos is to blame for: whoever had it was killed, and more than once.
    pub(crate) fn ended_by_chaos(&self) -> bool {
        let killed = [
            FailureKind::CrashLoop,
            FailureKind::KilledFromOutside,
            FailureKind::Crashed,
            FailureKind::ForkServerLost,
            FailureKind::Stranded,
        ];
        self.returns > 0 && self.kind.is_some_and(|kind| killed.contains(&kind))
    }
}

/// Waits until nothing waits or runs any more.
pub(crate) async fn until_settled(world: &World, patience: Duration) {
    let end = Instant::now() + patience;
    loop {
        let status = world.queue.status().await;
        if status.as_ref().is_ok_and(|s| s.inbox + s.backlog() + s.in_flight == 0) {
            return;
        }
        assert!(Instant::now() < end, "not all is settled: {status:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Collects the histories: every job ended once, ran no more often than its returns allow, and left nothing behind.
pub(crate) async fn collect_histories(
    world: &World,
    jobs: impl Iterator<Item = &Job>,
) -> BTreeMap<JobId, JobHistory> {
    let mut events_by_job: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in world.queue.events("0", 1_000_000).await.unwrap() {
        events_by_job.entry(event.id).or_default().push(event.what);
    }
    let mut dead: BTreeMap<String, StoredJob> = BTreeMap::new();
    for letter in world.queue.operator.dead(&Selection::default(), 100_000).await.unwrap() {
        assert!(dead.insert(letter.id.to_string(), letter).is_none(), "buried twice");
    }
    let mut histories = BTreeMap::new();
    for job in jobs {
        let job_events = events_by_job.remove(job.id.as_str()).unwrap_or_default();
        let count = |of: &[&str]| job_events.iter().filter(|what| of.contains(&what.as_str())).count() as u64;
        let end = job_events.last().cloned().unwrap_or_default();
        assert!(count(&ENDS) == 1 && ENDS.contains(&end.as_str()), "{}: {job_events:?}", job.id);
        let (runs, returns) = (world.site.hits(&format!("/{}/from", job.id)), count(&RETURNS));
        assert!(runs <= 1 + returns, "{}: {runs} runs, but {job_events:?}", job.id);
        let letter = dead.remove(job.id.as_str());
        assert_eq!(letter.is_some(), end == "buried", "{}: {job_events:?}", job.id);
        assert!(
            count(&["reclaimed"]) < 6,
            "{}: the sixth crash buries at the latest, but {job_events:?}",
            job.id
        );
        let reason = letter.and_then(|letter| letter.reason);
        if let Some(reason) = &reason {
            // It is charged with what was seen, and with no more: what it was only fetched for is forgotten.
            let crashes = u64::from(reason.counts.crashes) + u64::from(reason.counts.fetch_crashes);
            let last = u64::from(reason.kind == FailureKind::CrashLoop);
            assert!(crashes <= count(&["reclaimed"]) + last, "{}: {crashes}, {job_events:?}", job.id);
            assert!(u64::from(reason.counts.releases) <= count(&["released"]), "{}: {job_events:?}", job.id);
        }
        let kind = reason.map(|reason| reason.kind);
        histories.insert(job.id.clone(), JobHistory { end, runs, returns, kind });
    }
    assert!(dead.is_empty(), "dead, and nobody sent them: {:?}", dead.keys());
    assert_nothing_left(world, &histories).await;
    histories
}

/// No lease, no turn, no lock, no permit; of jobs only those that are dead.
async fn assert_nothing_left(world: &World, histories: &BTreeMap<JobId, JobHistory>) {
    let prefix = crate::harness::key("");
    let (mut odd, mut suspects) = (BTreeSet::new(), 0);
    for key in world.keys("*").await {
        let (name, rest) = key[prefix.len()..].split_once(':').unwrap_or((&key[prefix.len()..], ""));
        let buried = || {
            let id = JobId::parse(rest).ok();
            id.and_then(|id| histories.get(&id)).is_some_and(|history| history.end == "buried")
        };
        if name == "suspect" {
            suspects += 1;
        } else if !ALLOWED_KEYS.contains(&name) || (name == "job" && !buried()) {
            odd.insert(key);
        }
    }
    assert!(odd.is_empty(), "left behind: {odd:?}");
    // What a worker died with, and what then died itself, stays under suspicion: whoever survives clears it.
    let suspicious =
        histories.values().filter(|history| history.end == "buried" && history.returns > 0).count();
    assert!(suspects <= suspicious, "{suspects} suspects, and {suspicious} that may be");
}
