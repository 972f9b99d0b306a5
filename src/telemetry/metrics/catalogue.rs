//! The catalogue of metrics: every name with its type and what it means.
//!
//! The numbers themselves live in the parent module; a test keeps both the same.

/// What every name begins with.
pub const PREFIX: &str = "wm_analyzer";

/// A metric's type, in OpenMetrics' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum MetricType {
    /// Only grows; its sample ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// DeliveryCounts observations in buckets.
    Histogram,
    /// Says something in its labels; its sample ends in `_info` and is 1.
    Info,
}

impl MetricType {
    /// The word in `# TYPE`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricDef {
    /// Its name without [`PREFIX`] and without the suffix of its type; units stand last, in seconds and bytes.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// What it means, in one sentence without a full stop.
    pub help: &'static str,
}

impl MetricDef {
    /// The name of its samples, as a query writes it (of a histogram, its count).
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

/// Every metric of a worker, in the order in which they are rendered; each also has the label `queue`.
pub const CATALOGUE: &[MetricDef] = &[
    entry("build", MetricType::Info, "The version and commit of this worker"),
    entry("jobs", MetricType::Counter, "Deliveries that left this worker, by outcome"),
    entry("skips", MetricType::Counter, "Jobs that were rightly not analysed, by reason"),
    entry("dead_letters", MetricType::Counter, "Jobs that were buried, by kind of failure"),
    entry("dead_letters_evicted", MetricType::Counter, "Dead letters that this worker forgot, by which cap"),
    entry("stage_seconds", MetricType::Histogram, "How long one stage of a job took, by stage"),
    entry("job_wait_seconds", MetricType::Histogram, "How long a job had been ready when it was claimed"),
    entry("child_wall_seconds", MetricType::Histogram, "How long a sandboxed child ran"),
    entry("child_peak_bytes", MetricType::Histogram, "The largest heap of a sandboxed child"),
    entry("fetched_bytes", MetricType::Counter, "Bytes of bodies that came over the wire"),
    entry("fork_servers_respawned", MetricType::Counter, "Fork-servers that died and were replaced"),
    entry("queue_ready", MetricType::Gauge, "Jobs that could be claimed now, in the whole queue"),
    entry("queue_in_flight", MetricType::Gauge, "Jobs in flight, in the whole queue"),
    entry("queue_scheduled", MetricType::Gauge, "Jobs that wait for their time, in the whole queue"),
    entry("queue_dead", MetricType::Gauge, "Dead letters, in the whole queue"),
    entry("queue_inbox", MetricType::Gauge, "Payloads that nobody has looked at yet, in the whole queue"),
    entry(
        "queue_hosts_full",
        MetricType::Gauge,
        "Hosts at their ceiling that jobs wait for, in the whole queue",
    ),
    entry("queue_oldest_ready_age_seconds", MetricType::Gauge, "How long the oldest ready job has waited"),
    entry(
        "queue_backlog_filled_ratio",
        MetricType::Gauge,
        "Waiting jobs, as a share of the backlog's ceiling",
    ),
    entry(
        "queue_dead_filled_ratio",
        MetricType::Gauge,
        "Dead letters, as a share of the nearer of their caps",
    ),
    entry(
        "queue_in_flight_filled_ratio",
        MetricType::Gauge,
        "Jobs in flight, as a share of their ceiling; 0: none",
    ),
    entry("queue_paused", MetricType::Gauge, "1 while the queue hands out nothing"),
    entry("worker_slots", MetricType::Gauge, "Jobs that this worker can run at once, by state"),
    entry("redis_up", MetricType::Gauge, "1 if Redis answered when it was last asked"),
    entry(
        "breaker_open",
        MetricType::Gauge,
        "1 while a failure of ours keeps this worker from claiming, by dependency",
    ),
    entry("isolation", MetricType::Gauge, "1 for each kind of isolation that holds the children, by name"),
    entry(
        "last_success_timestamp_seconds",
        MetricType::Gauge,
        "When this worker last analysed a pair, 0 if never",
    ),
    entry("alerts_sent", MetricType::Counter, "Alert events that Sentry took"),
    entry("alerts_suppressed", MetricType::Counter, "Occurrences for which another alert event stands"),
    entry(
        "alerts_failed",
        MetricType::Counter,
        "Alert events that could not be delivered and are sent later",
    ),
    entry("alerts_pending", MetricType::Gauge, "Occurrences that no alert event has reported yet"),
];
