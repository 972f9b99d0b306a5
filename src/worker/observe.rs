//! Turns the end of a delivery into a log line, a metric and, if necessary, an alert.
//!
//! What happened to a job is logged, counted and alerted here and nowhere else; the worker's own state
//! (draining, a settle to repeat, upkeep) is logged where it changes.
//!
//! Invariant: every verdict has exactly one log line and one count, by an exhaustive match.

mod limits;
mod redis;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::Worker;
use super::log_gate::LogGate;
use super::outages::SharedOutages;
use super::redis_state::RedisState;
use super::shutdown::Phase;
use super::starvation::Starvation;
use super::summary::{Detail, SettledSummary, Subject};
use super::threshold::ThresholdAlarm;
use crate::job::JobId;
use crate::job::duration::millis;
use crate::job::failure::{Failure, FailureKind, Stage};
use crate::job::verdict::{DeadLetterReason, PostponeReason};
use crate::policy::breaker::Dependency;
use crate::policy::claim_ahead::JobCounts;
use crate::queue::{Buried, Evicted, NEARLY_FULL, Presence, Purpose, Server, Status, WorkerHandle};
use crate::sandbox::Pool;
use crate::telemetry::metrics::{DeliveryOutcome, Metrics, QueueDepths};
use crate::telemetry::sanitize;
use crate::telemetry::sentry::{Alerts, OutageKind};

/// The longest piece of hostile text in a log line or an alert, in bytes.
const DETAIL_BYTES: usize = 500;

/// Logs, counts and alerts for one worker.
pub(super) struct Observer {
    metrics: Arc<Metrics>,
    alerts: Alerts,
    outages: SharedOutages,
    /// Something was buried or shared that one worker is to report for all.
    to_report: Notify,
    pool: Pool,
    queue: WorkerHandle,
    info: Presence,
    redis: Arc<RedisState>,
    redis_reported: AtomicBool,
    respawns_reported: AtomicU64,
    settings_reported: AtomicBool,
    no_room_reported: AtomicBool,
    health: Mutex<String>,
    writes_refused: Mutex<Option<Instant>>,
    starvation: Starvation,
    buried_lines: LogGate,
    dead_letters: ThresholdAlarm,
    backlog: ThresholdAlarm,
    results: ThresholdAlarm,
    resting_hosts: ThresholdAlarm,
    suspects: ThresholdAlarm,
    done_reported: AtomicBool,
    evicting_reported: AtomicBool,
}

impl Observer {
    pub(super) fn new(worker: &Worker) -> Self {
        Dependency::ALL
            .iter()
            .copied()
            .for_each(|dependency| worker.metrics.breaker(dependency.as_str(), false));
        Self {
            metrics: Arc::clone(&worker.metrics),
            alerts: worker.alerts.clone(),
            outages: SharedOutages::new(worker.alerts.clone(), worker.queue.clone(), worker.id.clone()),
            to_report: Notify::new(),
            pool: worker.pool.clone(),
            queue: worker.queue.clone(),
            info: Presence {
                id: worker.id.clone(),
                host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                pid: std::process::id(),
                version: worker.build.clone(),
                phase: Phase::Running.as_str().to_owned(),
                slots: number(worker.pool.stats().slots),
                slots_limit: number(worker.pool.stats().limit),
                slots_limited_by: None,
                busy: 0,
                heartbeat_every_ms: millis(worker.config.heartbeat),
                breakers: BTreeMap::new(),
                breaker_reasons: Default::default(),
                db_app: String::new(),
                in_flight: Vec::new(),
            },
            redis: Arc::clone(&worker.redis),
            redis_reported: AtomicBool::new(false),
            respawns_reported: AtomicU64::new(0),
            settings_reported: AtomicBool::new(false),
            no_room_reported: AtomicBool::new(false),
            health: Mutex::default(),
            writes_refused: Mutex::default(),
            starvation: Starvation::default(),
            buried_lines: LogGate::default(),
            dead_letters: ThresholdAlarm::at(NEARLY_FULL),
            backlog: ThresholdAlarm::at(1.0),
            results: ThresholdAlarm::at(NEARLY_FULL),
            resting_hosts: ThresholdAlarm::at(1.0),
            suspects: ThresholdAlarm::at(NEARLY_FULL),
            done_reported: AtomicBool::new(false),
            evicting_reported: AtomicBool::new(false),
        }
    }

    /// The status of this worker and its slots, as stored in Redis.
    pub(super) fn worker_info(&self, jobs: JobCounts) -> Presence {
        let stats = self.pool.stats();
        for (state, count) in jobs.by_name() {
            self.metrics.jobs_in_flight(state, count as u64);
        }
        self.metrics.slots(stats.slots as u64, stats.busy as u64);
        self.metrics.slots_limit(stats.limit as u64);
        let before = self.respawns_reported.swap(stats.respawned, Ordering::Relaxed);
        (0..stats.respawned.saturating_sub(before)).for_each(|_| self.metrics.fork_server_respawned());
        self.metrics.alerts(self.alerts.counts());
        Presence { slots_limit: number(stats.limit), busy: number(stats.busy), ..self.info.clone() }
    }

    /// Reports a settled delivery.
    pub(super) fn settled(&self, summary: &SettledSummary) {
        let SettledSummary { subject, waited, timings, fetched_bytes, ending, detail } = summary;
        self.metrics.job(*ending);
        self.metrics.wait_seconds(*waited);
        let stages = [
            (Stage::Resolve, timings.resolve),
            (Stage::Fetch, timings.fetch),
            (Stage::Analyse, timings.analyse),
            (Stage::Store, timings.store),
        ];
        // A stage that was not reached has a duration of zero and must not be counted as a fast one.
        for (stage, took) in stages.into_iter().filter(|(_, took)| !took.is_zero()) {
            self.metrics.stage_seconds(stage, took);
        }
        self.metrics.fetched_bytes(*fetched_bytes);
        let (job, pair) = (&subject.job, subject.pair());
        match detail {
            Detail::Done { approximate, priority, posted, missing, peak_heap_bytes, child } => {
                self.metrics.child_peak_bytes(*peak_heap_bytes);
                self.metrics.child_wall_seconds(*child);
                self.outages.ends(OutageKind::Killed);
                if self.starvation.job_finished() {
                    self.outages.ends(OutageKind::Starved);
                    info!("children get CPU time again");
                }
                let child_ms = millis(*child);
                if *posted == Some(false) {
                    self.metrics.not_posted();
                }
                info!(%job, pair, priority, approximate, posted, missing, child_ms, "done");
            }
            Detail::Skipped(skip) => {
                self.metrics.skip(skip.reason);
                info!(%job, pair, reason = %skip.reason, detail = sanitize(&skip.detail, DETAIL_BYTES), "skipped");
            }
            Detail::Retried { after, failure } => {
                self.doubt(failure);
                let kind = failure.kind;
                info!(%job, pair, %kind, ?after, detail = sanitize(&failure.detail, DETAIL_BYTES), "failed, will retry");
            }
            Detail::Postponed {
                after,
                because: PostponeReason::Infrastructure(failure) | PostponeReason::BreakerOpen(failure),
            } => self.postponed(subject, failure, *after),
            Detail::Postponed { after, because: PostponeReason::Starved(failure) } => {
                self.starved(failure);
                self.postponed(subject, failure, *after);
            }
            Detail::Postponed { because: PostponeReason::Suspect, .. } => {
                info!(%job, pair, "suspect: the pair crashed a worker before; it will run alone");
            }
            Detail::Postponed { because: PostponeReason::HostFull { host }, .. } => {
                debug!(%job, pair, host = sanitize(host, DETAIL_BYTES), "host at its limit: the job waits for it");
            }
            Detail::Dead(reason) => self.dead(subject, reason),
        }
    }

    /// Reports a job that was dead-lettered without running: undecodable, or its worker kept disappearing.
    pub(super) fn buried(&self, buried: &Buried) {
        let mut ends = buried.pair.split("..").map(|uuid| Uuid::parse_str(uuid).ok());
        let (from, to) = (ends.next().flatten(), ends.next().flatten());
        self.metrics.job(DeliveryOutcome::Dead);
        let subject = Subject { job: buried.id.clone(), from, to };
        self.dead(&subject, &buried.reason);
    }

    fn dead(&self, subject: &Subject, reason: &DeadLetterReason) {
        self.metrics.dead(reason.kind);
        let job = &subject.job;
        let detail = sanitize(&reason.failure.detail, DETAIL_BYTES);
        self.to_report.notify_one();
        match self.buried_lines.pass(reason.kind.as_str()) {
            Some(suppressed) => {
                let pair = subject.pair();
                error!(%job, pair, kind = %reason.kind, stage = %reason.stage, detail, suppressed, "dead letter");
            }
            None => debug!(%job, pair = subject.pair(), kind = %reason.kind, "dead letter"),
        }
    }

    fn postponed(&self, subject: &Subject, failure: &Failure, after: Duration) {
        let (job, pair, kind) = (&subject.job, subject.pair(), failure.kind);
        let detail = sanitize(&failure.detail, DETAIL_BYTES);
        warn!(%job, pair, %kind, ?after, detail, "postponed");
    }

    /// A child got no CPU time: one alert until enough jobs in a row got theirs.
    fn starved(&self, failure: &Failure) {
        if self.starvation.began() {
            self.outages.begins(OutageKind::Starved, sanitize(&failure.detail, DETAIL_BYTES));
        }
    }

    /// A child died of an unclear cause and the job is run once more: an operator should check the limits.
    fn doubt(&self, failure: &Failure) {
        if failure.kind == FailureKind::KilledFromOutside {
            self.outages.begins(OutageKind::Killed, sanitize(&failure.detail, DETAIL_BYTES));
        }
    }

    /// Shares the outages this worker sees with the others, of which one reports them.
    pub(super) async fn sync_outages(&self) {
        if self.outages.sync_outages(self.redis.answers()).await {
            self.to_report.notify_one();
        }
    }

    /// Waits until something was buried or shared that one worker is to report for all.
    pub(super) async fn something_to_report(&self) {
        self.to_report.notified().await;
    }

    /// A dependency failed: no job is claimed until a probe succeeds. One worker sends one alert per outage,
    /// however long it lasts and however many workers see it.
    pub(super) fn breaker_opened(&self, dependency: Dependency, why: &str) {
        let why = sanitize(why, DETAIL_BYTES);
        self.metrics.breaker(dependency.as_str(), true);
        if let Some(what) = outage_of(dependency) {
            self.outages.begins(what, format!("{why}; nothing is claimed until a probe goes through"));
        }
        error!(
            dependency = dependency.as_str(),
            why, "breaker open: nothing is claimed until a probe goes through"
        );
    }

    /// The dependency works again.
    pub(super) fn breaker_closed(&self, dependency: Dependency) {
        self.metrics.breaker(dependency.as_str(), false);
        if let Some(what) = outage_of(dependency) {
            self.outages.ends(what);
        }
        info!(dependency = dependency.as_str(), "breaker closed: claiming normally");
    }

    /// The host of a job rests after failures: the job waits for it, and nothing was counted.
    pub(super) fn waits_for_host(&self, summary: &SettledSummary) {
        self.metrics.job(DeliveryOutcome::HostFull);
        let failure = match &summary.detail {
            Detail::Retried { failure, .. } => Some(failure),
            Detail::Dead(reason) => Some(&reason.failure),
            Detail::Done { .. } | Detail::Skipped(_) | Detail::Postponed { .. } => None,
        };
        let why = failure.map(|failure| sanitize(&failure.to_string(), DETAIL_BYTES)).unwrap_or_default();
        let (job, pair) = (summary.job(), summary.subject.pair());
        debug!(%job, pair, why, "its host rests after failures: the job waits for it, uncounted");
    }

    /// The lease was lost and nothing was written.
    pub(super) fn superseded(&self, subject: &Subject) {
        self.metrics.job(DeliveryOutcome::Superseded);
        let (job, pair) = (&subject.job, subject.pair());
        warn!(%job, pair, "the lease was lost: nothing was written, another worker has this job");
    }

    /// Redis was unreachable for a whole lease: the result is lost and the job will run again.
    pub(super) fn unsettled(&self, subject: &Subject) {
        self.metrics.job(DeliveryOutcome::Superseded);
        let (job, pair) = (&subject.job, subject.pair());
        error!(%job, pair, "could not be settled before its lease expired: it will run again");
    }

    /// A delivery that was released and does not count.
    pub(super) fn released(&self, job: &JobId) {
        self.metrics.job(DeliveryOutcome::Released);
        info!(%job, "released");
    }

    /// Redis is reachable but has lost the queue's data.
    pub(super) fn forgotten(&self) {
        const LOST: &str = "Redis has lost this queue: what waited there is gone (appendonly yes keeps it)";
        self.outages.happened(OutageKind::QueueLost, LOST.to_owned());
        error!("{LOST}");
    }

    /// Reports what was evicted at a cap, if anything was.
    pub(super) fn evicted(&self, evicted: Evicted) {
        let Evicted { by_age, by_count, by_bytes, results_by_age, results_by_bytes, .. } = evicted;
        let Evicted { done_by_age, done_by_count, suspects_by_age, suspects_by_count, .. } = evicted;
        for (cap, letters) in [("age", by_age), ("count", by_count), ("bytes", by_bytes)] {
            self.metrics.evicted(cap, letters);
        }
        self.metrics.results_evicted("age", results_by_age);
        self.metrics.results_evicted("bytes", results_by_bytes);
        self.metrics.done_forgotten("age", done_by_age);
        self.metrics.done_forgotten("count", done_by_count);
        self.metrics.suspects_forgotten("age", suspects_by_age);
        self.metrics.suspects_forgotten("count", suspects_by_count);
        if evicted.untimely() > 0 {
            warn!(by_count, by_bytes, "dead letters evicted: they are more or larger than the caps allow");
        }
        if by_age > 0 {
            info!(letters = by_age, "dead letters evicted: older than dead_max_age");
        }
        if results_by_age + results_by_bytes + done_by_age + done_by_count > 0 {
            debug!(results_by_age, results_by_bytes, done_by_age, done_by_count, "results evicted");
        }
    }

    /// A critical task ended; the worker shuts down.
    pub(super) fn task_exited(&self, task: &'static str, why: &str) {
        let why = sanitize(why, DETAIL_BYTES);
        self.alerts.report_outage(OutageKind::Task, &format!("{task}: {why}"));
        error!(task, why, "critical task exited; shutting down so the supervisor restarts us");
    }

    /// Exports the queue's counts as gauges, and reports what is almost full.
    pub(super) fn look(&self, status: &Status) {
        self.redis_up();
        self.look_at_redis(status);
        self.metrics.queue(&QueueDepths {
            ready: status.ready,
            in_flight: status.in_flight,
            scheduled: status.scheduled,
            dead: status.dead,
            inbox: status.inbox,
            oldest_ready_age: status.oldest_waiting().unwrap_or_default(),
            hosts_full: status.ceilings.hosts_full,
            hosts_resting: status.resting.count(),
            in_flight_filled: status.in_flight_filled(),
            backlog_filled: status.backlog_filled(),
            dead_filled: status.dead_filled(),
            results: status.memory.results_count,
            results_wait: !status.memory.reports_evict,
            results_filled: status.memory.reports_filled(),
            redis_filled: status.server.as_ref().map_or(0.0, Server::memory_filled),
            full_in: status.memory.full_in_ms.map(Duration::from_millis),
        });
        for purpose in Purpose::ALL {
            self.metrics.memory(purpose.as_str(), status.memory.of(*purpose));
        }
        self.metrics.paused(status.paused.is_some());
        self.look_at_limits(status);
    }
}

/// The outage to report for an open breaker. Redis is left out: `redis_failed` reports it with more detail.
fn outage_of(dependency: Dependency) -> Option<OutageKind> {
    match dependency {
        Dependency::Redis => None,
        Dependency::Api => Some(OutageKind::Api),
        Dependency::Spawn => Some(OutageKind::Spawn),
        Dependency::ResultsStore => Some(OutageKind::ResultsStore),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
