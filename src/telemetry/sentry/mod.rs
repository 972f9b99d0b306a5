//! Alerts: Sentry events, scrubbed, and never blocking a job.
//!
//! Two kinds. What only this process can report, as Redis is away, is noted under a short lock and sent by a separate
//! thread, at most one event per kind of outage and window. What is reported of the whole queue is agreed on in Redis;
//! the worker that has claimed it gives the event to the same thread ([`Alerts::deliver`]) and hears whether Sentry
//! accepted it. Nothing here blocks, fails or slows a job: while Sentry hangs, refuses or rate-limits, counts are
//! pending here or in Redis, and both are bounded.
//!
//! Invariant: an event includes the number of occurrences it represents; what was not reported by the end is returned
//! by [`AlertsGuard::close`], so no count is lost silently.
//!
//! # Why
//! The SDK is used for the DSN, the event and the envelope, and for nothing that acts on its own.
//! - Its transport does not report what was delivered, drops what a rate limit or a full channel refuses, and
//!   joins its thread at the end, however long Sentry hangs. Counts must survive all three, so `sender` sends
//!   the envelopes.
//! - Its `init` reads the environment (even whether to verify certificates), binds a hub that collects
//!   breadcrumbs, and installs a panic hook that would report a job's panic in addition to its dead letter.
//!   `init` is not called here, hence no hub, no breadcrumbs, no structured logs, no sessions, no traces, and
//!   nothing to scrub but our own text.
//! - Its option builder panics on a malformed DSN. The DSN is parsed here, blank is off, and no error repeats
//!   it.

mod check_in;
mod dsn;
mod event;
mod outage_words;
mod outages;
mod sender;
mod state;
mod test_event;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::check_in::Monitor;
pub use self::dsn::{Dsn, DsnError};
pub use self::event::{Alert, Severity};
pub use self::outage_words::AlertSource;
pub use self::sender::Delivery;
use self::sender::{DeliveryRequest, Payload};
pub use self::state::AlertCounts;
use self::state::SharedAlerts;
pub use self::test_event::TestEvent;
use crate::job::duration;
use crate::job::text::innermost_cause;

/// Configuration of the alerts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Sentry DSN; blank disables alerts. Contains a key: never shown.
    #[serde(with = "crate::job::blank")]
    pub dsn: Option<Dsn>,
    /// The `environment` of the events.
    pub environment: String,
    /// At most one event per fingerprint is sent in this time.
    #[serde(with = "duration")]
    pub window: Duration,
    /// How long the shutdown may wait for unreported alerts.
    #[serde(with = "duration")]
    pub shutdown: Duration,
    /// Whether cron monitors are checked in.
    pub check_ins: bool,
}

/// Why alerts cannot be started; never repeats the DSN.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client cannot be built, usually because the machine has no root certificates.
    #[error("no HTTP client for alerts: {}", innermost_cause(.0))]
    Client(#[from] reqwest::Error),
    /// The thread or its runtime cannot be started.
    #[error("no thread for alerts: {0}")]
    Thread(#[from] std::io::Error),
}

/// Something that all jobs need and that is down or full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum OutageKind {
    /// Redis does not answer.
    Redis,
    /// The db app's API does not answer, or refuses our credentials.
    Api,
    /// Children cannot be started.
    Spawn,
    /// The results store does not take results: it does not answer, is full, or refuses us.
    ResultsStore,
    /// Another process kills our children, usually the kernel when memory runs out.
    Killed,
    /// Children get so little CPU time that they are given up: the machine is too small or too busy.
    Starved,
    /// The dead letters are close to a limit, at which the oldest are dropped.
    DeadLetters,
    /// The backlog is at its limit: no job is admitted.
    Backlog,
    /// Redis answers and something is wrong with it: memory, writes, persistence, a key of another type.
    RedisHealth,
    /// Results are near their cap, and Redis has the only copy of them: at the cap nothing is claimed.
    Results,
    /// Hosts fail time after time, and rest.
    Hosts,
    /// Suspects near their cap, at which the oldest are forgotten: workers vanish by the thousand.
    Suspects,
    /// A critical task of a worker ended: the worker shuts down.
    Task,
    /// Redis answers and has forgotten the queue: what waited there is gone.
    QueueLost,
}

impl OutageKind {
    const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The lower-case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kind with this label; another build may know more.
    pub fn of(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == label)
    }

    /// What is said while it lasts.
    pub fn failing_text(self) -> &'static str {
        match self {
            Self::Redis => "Redis is down",
            Self::Api => "the db app's API is down",
            Self::Spawn => "children cannot be started",
            Self::ResultsStore => "the results store takes no results",
            Self::Killed => "children are killed from outside (is the container too small?)",
            Self::Starved => "children get too little CPU time (is the machine too small or too busy?)",
            Self::DeadLetters => "the dead letters near their cap",
            Self::Backlog => "the backlog is at its ceiling and nothing more is admitted",
            Self::RedisHealth => "Redis answers but is not well (see doctor)",
            Self::Results => "the results near their cap, where nothing more is claimed",
            Self::Hosts => "a host fails time after time, and rests",
            Self::Suspects => "the suspects near their cap, where the oldest are forgotten",
            Self::Task => "a worker has lost one of its tasks and leaves",
            Self::QueueLost => "Redis has lost this queue",
        }
    }

    /// What is said once it is over, in front of "again".
    pub fn recovered_text(self) -> &'static str {
        match self {
            Self::Redis => "Redis answers",
            Self::Api => "the db app's API answers",
            Self::Spawn => "children can be started",
            Self::ResultsStore => "the results store takes results",
            Self::Killed => "children live to their end",
            Self::Starved => "children get CPU time again",
            Self::DeadLetters => "there is room for dead letters",
            Self::Backlog => "there is room in the backlog",
            Self::RedisHealth => "Redis is well",
            Self::Results => "there is room for results",
            Self::Hosts => "no host rests after failures",
            Self::Suspects => "there is room for suspects",
            Self::Task => "the worker has all its tasks",
            Self::QueueLost => "the queue is there",
        }
    }
}

/// Events that wait for the sender: a worker reports one at a time, so more are its check-ins.
const REQUESTS: usize = 8;

/// Handle to report alerts. Cheap to clone; all clones share one sender.
#[derive(Debug, Clone)]
pub struct Alerts(Option<Arc<Running>>);

#[derive(Debug)]
struct Running {
    shared: Arc<SharedAlerts>,
    requests: mpsc::Sender<DeliveryRequest>,
    window: Duration,
    deadline: Duration,
    check_ins: bool,
}

impl Alerts {
    /// Disabled alerts: everything noted is discarded.
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the sender, or nothing if the DSN is blank. `release` is `name@version+build`.
    ///
    /// # Errors
    /// A malformed DSN (a configuration error), or no client or thread to send with.
    pub fn start(config: &Config, release: &str, source: AlertSource) -> Result<(Self, AlertsGuard), Error> {
        let Some(dsn) = &config.dsn else { return Ok((Self::off(), AlertsGuard(None))) };
        let sender = sender::Sender::new(dsn.to_sdk(), release, &config.environment, source)?;
        let shared = Arc::new(SharedAlerts::new(config.window));
        let stop = CancellationToken::new();
        let (requests, requested) = mpsc::channel(REQUESTS);
        // The thread sends twice: when it is ready, and when it has ended.
        let (say, ended) = sync_channel(2);
        let (theirs, stopping) = (Arc::clone(&shared), stop.clone());
        std::thread::Builder::new().name("alerts".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let started = runtime.map(|runtime| {
                say.send(Ok(())).unwrap_or_default();
                runtime.block_on(sender::run(sender, &theirs, requested, stopping));
            });
            say.send(started).unwrap_or_default();
        })?;
        ended.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone)))?;
        let (window, deadline) = (config.window, config.shutdown);
        let guard = RunningSender { shared: Arc::clone(&shared), stop, ended, deadline };
        let running = Running { shared, requests, window, deadline, check_ins: config.check_ins };
        Ok((Self(Some(Arc::new(running))), AlertsGuard(Some(guard))))
    }

    /// Sends an event of the whole queue; waits for Sentry's answer, never longer than a request may take.
    pub async fn deliver(&self, alert: Alert) -> Delivery {
        self.request(Payload::Alert(Box::new(alert))).await
    }

    async fn request(&self, envelope: Payload) -> Delivery {
        const GONE: Delivery = Delivery::Failed { retry_after: Duration::ZERO };
        let Some(running) = &self.0 else { return GONE };
        let (ended, end) = oneshot::channel();
        match running.requests.send(DeliveryRequest { envelope, ended }).await {
            Ok(()) => end.await.unwrap_or(GONE),
            Err(_) => GONE,
        }
    }

    /// Whether cron monitors are checked in.
    pub fn checks_in(&self) -> bool {
        self.0.as_ref().is_some_and(|running| running.check_ins)
    }

    /// Checks in at a monitor of `queue`, without waiting; lost where the sender is behind or limited.
    pub fn check_in(&self, monitor: Monitor, queue: &str) {
        if let Some(running) = self.0.as_ref().filter(|running| running.check_ins) {
            let envelope = Payload::CheckIn { monitor, queue: queue.to_owned() };
            let (ended, _) = oneshot::channel();
            let _ = running.requests.try_send(DeliveryRequest { envelope, ended });
        }
    }

    /// Records how many dead letters of the queue no event has reported yet.
    pub fn set_queue_pending(&self, letters: u64) {
        if let Some(running) = &self.0 {
            running.shared.set_queue_pending(letters);
        }
    }

    /// Notes that an event was given up, and says so.
    pub fn give_up(&self, alert: &Alert, status: Option<u16>) {
        if let Some(running) = &self.0 {
            let Alert { id, fingerprint, count, .. } = alert;
            let fingerprint = fingerprint.join(" ");
            tracing::warn!(event = %id, fingerprint, stands_for = count, status, "an alert was given up: it is refused however it is sent");
            running.shared.record_given_up();
        }
    }

    /// Notes that Sentry rejects all that is sent, which is said once until it accepts something.
    pub fn reject(&self, status: u16) {
        if let Some(running) = &self.0 {
            running.shared.reject(status);
        }
    }

    /// The time in which a group is reported once.
    pub fn window(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |running| running.window)
    }

    /// Begins the time that the end of the process may wait for alerts; half of it is for what is reported of the whole
    /// queue, the rest is [`AlertsGuard::close`]'s.
    pub fn begin_shutdown(&self) -> Duration {
        let Some(Running { shared, deadline, .. }) = self.0.as_deref() else { return Duration::ZERO };
        shared.leaves_by(*deadline).saturating_duration_since(Instant::now()) / 2
    }

    /// Notes one failure of an outage; to be called for every failure.
    pub fn report_outage(&self, what: OutageKind, detail: &str) {
        if let Some(running) = &self.0 {
            running.shared.record_failure(what, detail);
        }
    }

    /// Notes the end of an outage; reported once, after the window of the outage's own event. Cheap if there
    /// is no outage.
    pub fn resolve_outage(&self, what: OutageKind) {
        if let Some(running) = &self.0 {
            running.shared.record_recovery(what);
        }
    }

    /// Forgets an outage that this process reported or would have reported: all workers together do it now.
    pub fn forget_outage(&self, what: OutageKind) {
        if let Some(running) = &self.0 {
            running.shared.forget(what);
        }
    }

    /// Whether alerts are sent anywhere.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Whether Sentry accepted an event of the ongoing outage.
    pub fn reported(&self, what: OutageKind) -> bool {
        self.0.as_ref().is_some_and(|running| running.shared.reported(what))
    }

    /// Totals so far; all zero if alerts are off.
    pub fn counts(&self) -> AlertCounts {
        self.0.as_ref().map_or_else(AlertCounts::default, |running| running.shared.counts())
    }
}

/// Stops the sender; dropping it is the same as [`AlertsGuard::close`].
#[derive(Debug)]
#[must_use = "dropping it ends the alerts"]
pub struct AlertsGuard(Option<RunningSender>);

#[derive(Debug)]
struct RunningSender {
    shared: Arc<SharedAlerts>,
    stop: CancellationToken,
    ended: Receiver<std::io::Result<()>>,
    deadline: Duration,
}

impl AlertsGuard {
    /// Sends what was not reported yet, one event per fingerprint, and waits no longer than the configured
    /// deadline, whatever Sentry does. Blocks the caller: call it when no job is left.
    ///
    /// Returns the final totals; `pending` is what was never reported.
    pub fn close(mut self) -> AlertCounts {
        self.shut_down()
    }

    fn shut_down(&mut self) -> AlertCounts {
        let Some(running) = self.0.take() else { return AlertCounts::default() };
        running.stop.cancel();
        // A late sender is abandoned, not joined: it ends with the process.
        let leaves_by = running.shared.leaves_by(running.deadline);
        let _ = running.ended.recv_timeout(leaves_by.saturating_duration_since(Instant::now()));
        running.shared.counts()
    }
}

impl Drop for AlertsGuard {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(dsn: &str) -> Option<Config> {
        let (window, shutdown) = (Duration::from_secs(60), Duration::from_millis(50));
        let dsn = Some(dsn.parse().ok()?);
        Some(Config { dsn, environment: "test".to_owned(), window, shutdown, check_ins: true })
    }

    #[test]
    fn a_blank_dsn_is_off_and_costs_nothing() {
        for dsn in ["", "  ", "\\n"] {
            let section = format!(
                "dsn = \"{dsn}\"\nenvironment = \"\"\nwindow = \"60s\"\nshutdown = \"1s\"\ncheck_ins = true"
            );
            let (alerts, guard) =
                Alerts::start(&toml::from_str(&section).unwrap(), "r", AlertSource::default()).unwrap();
            alerts.report_outage(OutageKind::Redis, "down");
            alerts.resolve_outage(OutageKind::Redis);
            assert_eq!((alerts.counts(), guard.close()), (AlertCounts::default(), AlertCounts::default()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_dsn_makes_it_panic(
            scheme in "(http|https|ftp)?", key in "[a-z%@:\\PC]{0,4}", host in r"(a\.test|\[::1\]|1\.1|ü|\PC{0,3})", rest in "[/0-9?#:\\PC]{0,6}",
        ) {
            let Some(config) = config(&format!("{scheme}://{key}@{host}{rest}")) else { return Ok(()) };
            let Ok((alerts, _guard)) = Alerts::start(&config, "r", AlertSource::default()) else { return Ok(()) };
            prop_assert_eq!(alerts.counts(), AlertCounts::default());
        }
    }
}
