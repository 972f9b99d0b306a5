//! The catalogue of metrics: every name with its type and help text.
//!
//! The values are in the parent module; a test keeps both consistent.

/// Prefix of every metric name.
pub const PREFIX: &str = "wm_analyzer";

/// A metric's type, as in OpenMetrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum MetricType {
    /// Only grows; its sample ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
    /// Carries its information in labels; its sample ends in `_info` and is 1.
    Info,
}

impl MetricType {
    /// The type's name in a `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Name, type and help of one metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricDef {
    /// The name without [`PREFIX`] and without the suffix of its type; ends in its unit, seconds or bytes.
    pub name: &'static str,
    /// Determines the suffix of its samples.
    pub kind: MetricType,
    /// The help text: one sentence without a full stop.
    pub help: &'static str,
}

impl MetricDef {
    /// The name of its samples in a query (of a histogram, its count).
    pub fn sample(&self) -> String {
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Gauge => "",
            MetricType::Histogram => "_count",
            MetricType::Info => "_info",
        };
        format!("{PREFIX}_{}{suffix}", self.name)
    }
}

const fn entry(name: &'static str, kind: MetricType, help: &'static str) -> MetricDef {
    MetricDef { name, kind, help }
}

use MetricType::{Counter, Gauge, Histogram, Info};

/// All metrics of a worker, in the order of rendering; each also has the label `queue`.
pub const CATALOGUE: &[MetricDef] = &[
    entry("build", Info, "The version and commit of this worker"),
    entry("jobs", Counter, "Deliveries that left this worker, by outcome"),
    entry("skips", Counter, "Jobs that were rightly not analysed, by reason"),
    entry("dead_letters", Counter, "Jobs that were buried, by kind of failure"),
    entry("dead_letters_evicted", Counter, "Dead letters that this worker evicted, by which cap"),
    entry("results_evicted", Counter, "Results that this worker deleted, by which cap"),
    entry("done_forgotten", Counter, "Pairs remembered as done that this worker forgot, by which cap"),
    entry("suspects_forgotten", Counter, "Suspects that this worker forgot, by which cap"),
    entry("stage_seconds", Histogram, "How long one stage of a job took, by stage"),
    entry("job_wait_seconds", Histogram, "How long a job had been ready when it was claimed"),
    entry("child_wall_seconds", Histogram, "How long a sandboxed child ran"),
    entry("child_peak_bytes", Histogram, "The largest heap of a sandboxed child"),
    entry(
        "not_posted",
        Counter,
        "Pairs that were analysed and whose annotation was not posted, as a diff is missing",
    ),
    entry("fetched_bytes", Counter, "Bytes of bodies that came over the wire"),
    entry("fork_servers_respawned", Counter, "Fork-servers that died and were replaced"),
    entry("queue_ready", Gauge, "Jobs that could be claimed now, in the whole queue"),
    entry("queue_in_flight", Gauge, "Jobs in flight, in the whole queue"),
    entry("queue_scheduled", Gauge, "Jobs that wait for their time, in the whole queue"),
    entry("queue_dead", Gauge, "Dead letters, in the whole queue"),
    entry("queue_inbox", Gauge, "Payloads not yet admitted, in the whole queue"),
    entry("queue_hosts_full", Gauge, "Hosts at their ceiling that jobs wait for, in the whole queue"),
    entry(
        "queue_hosts_resting",
        Gauge,
        "Hosts that rest after failures or by an operator, in the whole queue",
    ),
    entry(
        "queue_oldest_ready_age_seconds",
        Gauge,
        "How long the oldest waiting job has waited, whatever its priority or host",
    ),
    entry("queue_backlog_filled_ratio", Gauge, "Waiting jobs, as a share of the backlog's ceiling"),
    entry("queue_dead_filled_ratio", Gauge, "Dead letters, as a share of the nearer of their caps"),
    entry("queue_in_flight_filled_ratio", Gauge, "Jobs in flight, as a share of their ceiling; 0: none"),
    entry("queue_results_filled_ratio", Gauge, "Results, as a share of the cap on their bytes"),
    entry("redis_memory_filled_ratio", Gauge, "Memory of Redis, as a share of maxmemory; 0: no limit"),
    entry("queue_memory_bytes", Gauge, "What the queue's keys take up in Redis, by purpose"),
    entry("queue_results", Gauge, "Results that are kept, in the whole queue"),
    entry(
        "queue_results_wait",
        Gauge,
        "1 where claims wait for room when results are at their cap; 0: evicted",
    ),
    entry("redis_full_in_seconds", Gauge, "Time until Redis is full at the pace of the last minute"),
    entry("queue_paused", Gauge, "1 while the queue hands out nothing"),
    entry("worker_slots", Gauge, "Jobs that this worker can run at once, by state"),
    entry("worker_slots_limit", Gauge, "Jobs that this worker runs at once at most: fewer on a busy machine"),
    entry("worker_jobs", Gauge, "Jobs in flight at this worker, by what they do"),
    entry("redis_up", Gauge, "1 if Redis answered when it was last asked"),
    entry("redis_writable", Gauge, "1 if Redis took a write when it was last tried"),
    entry("redis_problems", Gauge, "Things that are wrong with Redis, as doctor lists them"),
    entry("breaker_open", Gauge, "1 while a failure of ours keeps this worker from claiming, by dependency"),
    entry("isolation", Gauge, "1 for each kind of isolation that holds the children, by name"),
    entry("last_success_timestamp_seconds", Gauge, "When this worker last analysed a pair, 0 if never"),
    entry("alerts_sent", Counter, "Alert events that Sentry took"),
    entry("alerts_suppressed", Counter, "Occurrences for which another alert event stands"),
    entry("alerts_failed", Counter, "Alert events that could not be delivered and are sent later"),
    entry("alerts_given_up", Counter, "Alert events that were refused in every form, and not sent again"),
    entry("alerts_pending", Gauge, "Occurrences that no alert event has reported yet"),
    entry("alerts_rejected", Gauge, "1 while Sentry rejects all alert events: the DSN is wrong"),
];
