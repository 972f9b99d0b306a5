//! Metrics: one typed method per fact, rendered as OpenMetrics text.
//!
//! It only stores what callers report: gauges are as old as the last call that set them.
//!
//! Invariant: every label comes from a type or from this build, never from external text, so the number of
//! series is bounded; the rendered metrics are exactly those in [`CATALOGUE`].
//!
//! # Why
//! Every series of a counter starts at 0 with the process: `rate()` detects the first dead letter of a kind
//! only if there was a sample before it.

mod catalogue;
mod facts;
mod plain;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use time::OffsetDateTime;

pub use self::catalogue::{CATALOGUE, MetricDef, MetricType, PREFIX};
pub use self::facts::{DeliveryOutcome, QueueDepths};
pub(crate) use self::plain::from_openmetrics;
use super::sentry::AlertCounts;
use crate::job::failure::{FailureKind, Stage};
use crate::job::skip::SkipReason;

/// The content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type of [`from_openmetrics`].
pub(crate) const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One label and its value, both compiled in.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;
type Gauges = Family<Label, Gauge>;
type SecondsGauge = Gauge<f64, AtomicU64>;
type StageHistograms = Family<Label, Histogram, fn() -> Histogram>;

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: Counters,
    skips: Counters,
    dead_letters: Counters,
    dead_letters_evicted: Counters,
    stage_seconds: StageHistograms,
    wait_seconds: Histogram,
    child_wall_seconds: Histogram,
    child_peak_bytes: Histogram,
    fetched_bytes: Counter,
    not_posted: Counter,
    fork_servers_respawned: Counter,
    queue_jobs: [Gauge; 7],
    queue_oldest: SecondsGauge,
    queue_filled: [Gauge<f64, AtomicU64>; 5],
    queue_memory: Gauges,
    queue_results: Gauge,
    results_wait: Gauge,
    redis_full_in: SecondsGauge,
    results_evicted: Counters,
    done_forgotten: Counters,
    suspects_forgotten: Counters,
    queue_paused: Gauge,
    slots: Gauges,
    slots_limit: Gauge,
    jobs_in_flight: Gauges,
    redis_up: Gauge,
    redis_writable: Gauge,
    redis_problems: Gauge,
    breakers: Gauges,
    isolation: Family<[(&'static str, String); 1], Gauge>,
    last_success: SecondsGauge,
    alerts: [Counter; 4],
    alerts_pending: Gauge,
    alerts_rejected: Gauge,
}

impl Metrics {
    /// The metrics of a worker; every series has the label `queue`, and `version` and `commit` are this
    /// build's.
    pub fn new(queue: &str, version: &str, commit: &str) -> Arc<Self> {
        let label = ("queue".into(), queue.to_owned().into());
        let mut registry = Registry::with_prefix_and_labels(PREFIX, [label].into_iter());
        let build = vec![("version", version.to_owned()), ("commit", commit.to_owned())];
        registry.register("build", help("build"), Info::new(build));
        let evicted = counters("cap", &["age", "count", "bytes"]);
        let stage_seconds = StageHistograms::new_with_constructor(work_seconds);
        let wait_seconds =
            Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0]);
        let peak_bytes = Histogram::new(exponential_buckets(f64::from(1 << 20), 2.0, 10));
        let own = &mut registry;
        Arc::new(Self {
            jobs: registered(own, "jobs", counters("outcome", DeliveryOutcome::ALL)),
            skips: registered(own, "skips", counters("reason", SkipReason::ALL)),
            dead_letters: registered(own, "dead_letters", counters("kind", FailureKind::ALL)),
            dead_letters_evicted: registered(own, "dead_letters_evicted", evicted),
            results_evicted: registered(own, "results_evicted", counters("cap", &["age", "bytes"])),
            done_forgotten: registered(own, "done_forgotten", counters("cap", &["age", "count"])),
            suspects_forgotten: registered(own, "suspects_forgotten", counters("cap", &["age", "count"])),
            stage_seconds: registered(own, "stage_seconds", stage_seconds),
            wait_seconds: registered(own, "job_wait_seconds", wait_seconds),
            child_wall_seconds: registered(own, "child_wall_seconds", work_seconds()),
            child_peak_bytes: registered(own, "child_peak_bytes", peak_bytes),
            not_posted: registered(own, "not_posted", Counter::default()),
            fetched_bytes: registered(own, "fetched_bytes", Counter::default()),
            fork_servers_respawned: registered(own, "fork_servers_respawned", Counter::default()),
            queue_jobs: [
                "queue_ready",
                "queue_in_flight",
                "queue_scheduled",
                "queue_dead",
                "queue_inbox",
                "queue_hosts_full",
                "queue_hosts_resting",
            ]
            .map(|name| registered(own, name, Gauge::default())),
            queue_oldest: registered(own, "queue_oldest_ready_age_seconds", SecondsGauge::default()),
            queue_filled: [
                "queue_backlog_filled_ratio",
                "queue_dead_filled_ratio",
                "queue_in_flight_filled_ratio",
                "queue_results_filled_ratio",
                "redis_memory_filled_ratio",
            ]
            .map(|name| registered(own, name, Gauge::default())),
            queue_memory: registered(own, "queue_memory_bytes", Gauges::default()),
            queue_results: registered(own, "queue_results", Gauge::default()),
            results_wait: registered(own, "queue_results_wait", Gauge::default()),
            redis_full_in: registered(own, "redis_full_in_seconds", SecondsGauge::default()),
            queue_paused: registered(own, "queue_paused", Gauge::default()),
            slots: registered(own, "worker_slots", Gauges::default()),
            slots_limit: registered(own, "worker_slots_limit", Gauge::default()),
            jobs_in_flight: registered(own, "worker_jobs", Gauges::default()),
            redis_up: registered(own, "redis_up", Gauge::default()),
            redis_writable: registered(own, "redis_writable", Gauge::default()),
            redis_problems: registered(own, "redis_problems", Gauge::default()),
            breakers: registered(own, "breaker_open", Gauges::default()),
            isolation: registered(own, "isolation", Family::default()),
            last_success: registered(own, "last_success_timestamp_seconds", SecondsGauge::default()),
            alerts: ["alerts_sent", "alerts_suppressed", "alerts_failed", "alerts_given_up"]
                .map(|name| registered(own, name, Counter::default())),
            alerts_pending: registered(own, "alerts_pending", Gauge::default()),
            alerts_rejected: registered(own, "alerts_rejected", Gauge::default()),
            registry,
        })
    }

    /// Renders all metrics as OpenMetrics text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a string cannot fail.
        encode(&mut text, &self.registry).unwrap_or_default();
        text
    }

    /// Counts a delivery that left this worker.
    pub fn job(&self, outcome: DeliveryOutcome) {
        self.jobs.get_or_create(&[("outcome", outcome.as_str())]).inc();
        if outcome == DeliveryOutcome::Done {
            let now = OffsetDateTime::now_utc();
            self.last_success.set(now.unix_timestamp() as f64);
        }
    }

    /// Counts a pair that was analysed and whose annotation was not posted.
    pub(crate) fn not_posted(&self) {
        self.not_posted.inc();
    }

    /// Counts a skipped job.
    pub fn skip(&self, reason: SkipReason) {
        self.skips.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    /// Counts a dead-lettered job.
    pub fn dead(&self, kind: FailureKind) {
        self.dead_letters.get_or_create(&[("kind", kind.as_str())]).inc();
    }

    /// Counts dead letters that were dropped because of a limit: `age`, `count` or `bytes`.
    pub fn evicted(&self, cap: &'static str, letters: u64) {
        self.dead_letters_evicted.get_or_create(&[("cap", cap)]).inc_by(letters);
    }

    /// Observes how long one stage of one job took.
    pub(crate) fn stage_seconds(&self, stage: Stage, took: Duration) {
        self.stage_seconds.get_or_create(&[("stage", stage.as_str())]).observe(took.as_secs_f64());
    }

    /// Observes how long a job had been ready when it was claimed.
    pub(crate) fn wait_seconds(&self, waited: Duration) {
        self.wait_seconds.observe(waited.as_secs_f64());
    }

    /// Observes the peak heap of one child, in bytes.
    pub(crate) fn child_peak_bytes(&self, bytes: u64) {
        self.child_peak_bytes.observe(bytes as f64);
    }

    /// Observes how long one child ran.
    pub(crate) fn child_wall_seconds(&self, took: Duration) {
        self.child_wall_seconds.observe(took.as_secs_f64());
    }

    /// Counts bytes of bodies as received.
    pub(crate) fn fetched_bytes(&self, bytes: u64) {
        self.fetched_bytes.inc_by(bytes);
    }

    /// Counts a fork server that died and was replaced.
    pub(crate) fn fork_server_respawned(&self) {
        self.fork_servers_respawned.inc();
    }

    /// Sets the fill levels of the queue.
    pub fn queue(&self, depths: &QueueDepths) {
        let QueueDepths { ready, in_flight, scheduled, dead, inbox, hosts_full, hosts_resting, .. } = *depths;
        let counts = [ready, in_flight, scheduled, dead, inbox, hosts_full, hosts_resting];
        for (gauge, count) in self.queue_jobs.iter().zip(counts) {
            gauge.set(saturating_i64(count));
        }
        self.queue_oldest.set(depths.oldest_ready_age.as_secs_f64());
        let shares = [
            depths.backlog_filled,
            depths.dead_filled,
            depths.in_flight_filled,
            depths.results_filled,
            depths.redis_filled,
        ];
        for (gauge, share) in self.queue_filled.iter().zip(shares) {
            gauge.set(share);
        }
        self.queue_results.set(saturating_i64(depths.results));
        self.results_wait.set(depths.results_wait.into());
        self.redis_full_in.set(depths.full_in.map_or(f64::INFINITY, |left| left.as_secs_f64()));
    }

    /// Sets what the queue's keys take up for one purpose.
    pub fn memory(&self, purpose: &'static str, bytes: u64) {
        self.queue_memory.get_or_create(&[("purpose", purpose)]).set(saturating_i64(bytes));
    }

    /// Counts results that were deleted because of a limit: `age` or `bytes`.
    pub fn results_evicted(&self, cap: &'static str, results: u64) {
        self.results_evicted.get_or_create(&[("cap", cap)]).inc_by(results);
    }

    /// Counts pairs that were forgotten because of a limit: `age` or `count`.
    pub fn done_forgotten(&self, cap: &'static str, pairs: u64) {
        self.done_forgotten.get_or_create(&[("cap", cap)]).inc_by(pairs);
    }

    /// Counts suspects that were forgotten because of a limit: `age` or `count`.
    pub fn suspects_forgotten(&self, cap: &'static str, suspects: u64) {
        self.suspects_forgotten.get_or_create(&[("cap", cap)]).inc_by(suspects);
    }

    /// Sets whether Redis takes writes, and how many things are wrong with it.
    pub fn redis_health(&self, writable: bool, problems: u64) {
        self.redis_writable.set(writable.into());
        self.redis_problems.set(saturating_i64(problems));
    }

    /// Sets whether the queue is paused.
    pub fn paused(&self, paused: bool) {
        self.queue_paused.set(paused.into());
    }

    /// Sets how many jobs this worker can run at once, and how many it runs.
    pub fn slots(&self, total: u64, busy: u64) {
        self.slots.get_or_create(&[("state", "busy")]).set(saturating_i64(busy));
        self.slots.get_or_create(&[("state", "free")]).set(saturating_i64(total.saturating_sub(busy)));
    }

    /// Sets how many jobs this worker runs at once at most.
    pub fn slots_limit(&self, limit: u64) {
        self.slots_limit.set(saturating_i64(limit));
    }

    /// Sets how many jobs this worker has in flight that do this.
    pub fn jobs_in_flight(&self, state: &'static str, jobs: u64) {
        self.jobs_in_flight.get_or_create(&[("state", state)]).set(saturating_i64(jobs));
    }

    /// Sets whether Redis answered the last command.
    pub fn redis_up(&self, up: bool) {
        self.redis_up.set(up.into());
    }

    /// Sets whether the breaker of a dependency (`redis`, `api`, `spawn`) is open or half open.
    pub fn breaker(&self, dependency: &'static str, open: bool) {
        self.breakers.get_or_create(&[("dependency", dependency)]).set(open.into());
    }

    /// Sets whether an isolation layer (`seccomp`, `landlock`, …) is active.
    pub fn isolation(&self, name: &str, in_force: bool) {
        self.isolation.get_or_create(&[("name", name.to_owned())]).set(in_force.into());
    }

    /// Sets the alert counters to the totals of [`Alerts::counts`](super::sentry::Alerts::counts), not
    /// increments.
    pub fn alerts(&self, counts: AlertCounts) {
        let totals = [counts.sent, counts.suppressed, counts.failed, counts.given_up];
        for (counter, total) in self.alerts.iter().zip(totals) {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.alerts_pending.set(saturating_i64(counts.pending));
        self.alerts_rejected.set(counts.rejected.into());
    }
}

/// Buckets from a hundredth of a second to the longest plausible wall-clock limit.
fn work_seconds() -> Histogram {
    Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0])
}

/// A family of counters, all starting at 0.
fn counters<T: Copy + Into<&'static str>>(name: &'static str, values: &[T]) -> Counters {
    let family = Counters::default();
    for &value in values {
        drop(family.get_or_create(&[(name, value.into())]));
    }
    family
}

/// The metric, registered with its help from the catalogue.
fn registered<M: Metric + Clone>(registry: &mut Registry, name: &'static str, metric: M) -> M {
    registry.register(name, help(name), metric.clone());
    metric
}

fn help(name: &str) -> &'static str {
    CATALOGUE.iter().find(|entry| entry.name == name).map_or("", |entry| entry.help)
}

fn saturating_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Failure;
    use crate::job::skip::Skip;
    use crate::job::verdict::{PostponeReason, Verdict};

    fn metrics() -> Arc<Metrics> {
        Metrics::new("analysis", "1.2.3", "abc")
    }

    /// Records every fact once, so that every family has a sample.
    fn record_everything(metrics: &Metrics) {
        DeliveryOutcome::ALL.iter().copied().for_each(|ending| metrics.job(ending));
        SkipReason::ALL.iter().copied().for_each(|reason| metrics.skip(reason));
        FailureKind::ALL.iter().copied().for_each(|kind| metrics.dead(kind));
        metrics.stage_seconds(Stage::Fetch, Duration::from_millis(20));
        metrics.wait_seconds(Duration::from_secs(2));
        metrics.child_peak_bytes(3 << 20);
        metrics.child_wall_seconds(Duration::from_secs(200));
        metrics.fetched_bytes(12);
        metrics.fork_server_respawned();
        let oldest_ready_age = Duration::from_millis(1500);
        metrics.queue(&QueueDepths {
            ready: 1,
            in_flight: 2,
            scheduled: 3,
            dead: 4,
            inbox: 5,
            oldest_ready_age,
            hosts_full: 6,
            hosts_resting: 8,
            in_flight_filled: 0.5,
            backlog_filled: 0.25,
            dead_filled: 0.75,
            results: 7,
            results_wait: true,
            results_filled: 0.1,
            redis_filled: 0.6,
            full_in: Some(Duration::from_secs(60)),
        });
        metrics.memory("jobs", 8);
        metrics.results_evicted("bytes", 9);
        metrics.done_forgotten("count", 3);
        metrics.suspects_forgotten("count", 2);
        metrics.redis_health(true, 0);
        metrics.evicted("bytes", 6);
        metrics.paused(true);
        metrics.slots(4, 3);
        metrics.jobs_in_flight("fetching", 12);
        metrics.redis_up(true);
        metrics.breaker("api", true);
        metrics.isolation("seccomp", true);
        metrics.alerts(AlertCounts {
            sent: 2,
            suppressed: 9,
            failed: 1,
            given_up: 4,
            rejected: true,
            pending: 3,
        });
    }

    #[test]
    fn what_is_rendered_is_what_the_catalogue_lists() {
        let metrics = metrics();
        record_everything(&metrics);
        let text = metrics.render();
        let rendered: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let listed: Vec<_> =
            CATALOGUE.iter().map(|e| format!("{PREFIX}_{} {}", e.name, e.kind.as_str())).collect();
        assert_eq!(rendered, listed);
        for entry in CATALOGUE {
            let help = format!("# HELP {PREFIX}_{} {}.\n", entry.name, entry.help);
            assert!(!entry.help.is_empty() && text.contains(&help), "{help}");
            let sample = format!("\n{}{{", entry.sample());
            assert!(text.contains(&sample), "no sample of {sample:?}\n{text}");
        }
    }

    #[test]
    fn each_fact_moves_its_own_number() {
        let metrics = metrics();
        record_everything(&metrics);
        let text = metrics.render();
        let samples = [
            r#"build_info{queue="analysis",version="1.2.3",commit="abc"} 1"#,
            r#"jobs_total{queue="analysis",outcome="done"} 1"#,
            r#"skips_total{queue="analysis",reason="media_type"} 1"#,
            r#"dead_letters_total{queue="analysis",kind="wall_exceeded"} 1"#,
            r#"dead_letters_evicted_total{queue="analysis",cap="age"} 0"#,
            r#"dead_letters_evicted_total{queue="analysis",cap="bytes"} 6"#,
            r#"stage_seconds_bucket{queue="analysis",le="0.03",stage="fetch"} 1"#,
            r#"stage_seconds_bucket{queue="analysis",le="0.01",stage="fetch"} 0"#,
            r#"job_wait_seconds_sum{queue="analysis"} 2.0"#,
            r#"child_peak_bytes_bucket{queue="analysis",le="4194304.0"} 1"#,
            r#"child_wall_seconds_count{queue="analysis"} 1"#,
            r#"fetched_bytes_total{queue="analysis"} 12"#,
            r#"fork_servers_respawned_total{queue="analysis"} 1"#,
            r#"queue_ready{queue="analysis"} 1"#,
            r#"queue_in_flight{queue="analysis"} 2"#,
            r#"queue_scheduled{queue="analysis"} 3"#,
            r#"queue_dead{queue="analysis"} 4"#,
            r#"queue_inbox{queue="analysis"} 5"#,
            r#"queue_hosts_full{queue="analysis"} 6"#,
            r#"queue_hosts_resting{queue="analysis"} 8"#,
            r#"queue_in_flight_filled_ratio{queue="analysis"} 0.5"#,
            r#"queue_oldest_ready_age_seconds{queue="analysis"} 1.5"#,
            r#"queue_backlog_filled_ratio{queue="analysis"} 0.25"#,
            r#"queue_dead_filled_ratio{queue="analysis"} 0.75"#,
            r#"queue_paused{queue="analysis"} 1"#,
            r#"worker_slots{queue="analysis",state="busy"} 3"#,
            r#"worker_slots{queue="analysis",state="free"} 1"#,
            r#"worker_jobs{queue="analysis",state="fetching"} 12"#,
            r#"redis_up{queue="analysis"} 1"#,
            r#"breaker_open{queue="analysis",dependency="api"} 1"#,
            r#"isolation{queue="analysis",name="seccomp"} 1"#,
            r#"alerts_sent_total{queue="analysis"} 2"#,
            r#"alerts_suppressed_total{queue="analysis"} 9"#,
            r#"alerts_failed_total{queue="analysis"} 1"#,
            r#"alerts_given_up_total{queue="analysis"} 4"#,
            r#"alerts_pending{queue="analysis"} 3"#,
            r#"alerts_rejected{queue="analysis"} 1"#,
        ];
        for sample in samples {
            assert!(text.contains(&format!("\n{PREFIX}_{sample}\n")), "no {sample}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_series_of_a_counter_begins_at_zero() {
        let text = metrics().render();
        for &kind in FailureKind::ALL {
            let sample = format!("{PREFIX}_dead_letters_total{{queue=\"analysis\",kind=\"{kind}\"}} 0\n");
            assert!(text.contains(&sample), "{sample}");
        }
    }

    #[test]
    fn totals_told_twice_count_once() {
        let metrics = metrics();
        for sent in [3, 3, 5] {
            metrics.alerts(AlertCounts { sent, ..AlertCounts::default() });
        }
        assert!(metrics.render().contains("alerts_sent_total{queue=\"analysis\"} 5\n"));
    }

    #[test]
    fn a_verdict_and_its_ending_have_one_label() {
        let failure = || Failure::new(FailureKind::Timeout, "slow");
        let after = Duration::ZERO;
        let verdicts = [
            Verdict::Skip(Skip::new(SkipReason::Content, "a PDF")),
            Verdict::Retry { after, failure: failure() },
            Verdict::Postpone { after, because: PostponeReason::Infrastructure(failure()) },
            Verdict::Postpone { after, because: PostponeReason::BreakerOpen(failure()) },
            Verdict::Postpone { after, because: PostponeReason::Starved(failure()) },
            Verdict::Postpone { after, because: PostponeReason::Suspect },
            Verdict::Postpone { after, because: PostponeReason::HostFull { host: "a.test".to_owned() } },
        ];
        for verdict in &verdicts {
            assert_eq!(DeliveryOutcome::from(verdict).as_str(), verdict.as_str());
        }
    }
}
