//! Alerts: one Sentry event per dead letter and per outage, throttled, scrubbed, and never blocking a job.
//!
//! Callers only count under a short lock; a separate thread sends. Nothing here blocks, fails or slows a job:
//! while Sentry hangs, refuses or rate-limits, counts are pending in the throttle, whose memory is bounded by
//! its keys.
//!
//! Invariant: per fingerprint at most one event is sent per window, and an event includes the number of
//! occurrences it represents; what was not reported by the end is returned by [`AlertsGuard::close`], so no
//! count is lost silently.
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

mod dsn;
mod event;
mod sender;
mod state;
mod test_event;
mod throttle;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::dsn::{Dsn, DsnError};
use self::event::AlertSample;
pub use self::event::DeadLetterAlert;
pub use self::state::AlertCounts;
use self::state::{AlertKey, SharedAlerts};
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
}

impl OutageKind {
    const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The lower-case label, used everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn failing_text(self) -> &'static str {
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
        }
    }

    fn recovered_text(self) -> &'static str {
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
        }
    }
}

/// Handle to note alerts. Cheap to clone; all clones share one throttle.
#[derive(Debug, Clone)]
pub struct Alerts(Option<Arc<SharedAlerts>>);

impl Alerts {
    /// Disabled alerts: everything noted is discarded.
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the sender, or nothing if the DSN is blank. `release` is `name@version+build`.
    ///
    /// # Errors
    /// A malformed DSN (a configuration error), or no client or thread to send with.
    pub fn start(config: &Config, release: &str) -> Result<(Self, AlertsGuard), Error> {
        let Some(dsn) = &config.dsn else { return Ok((Self::off(), AlertsGuard(None))) };
        let sender = sender::Sender::new(dsn.to_sdk(), release, &config.environment)?;
        let shared = Arc::new(SharedAlerts::new(config.window));
        let stop = CancellationToken::new();
        // The thread sends twice: when it is ready, and when it has ended.
        let (say, ended) = sync_channel(2);
        let (theirs, stopping) = (Arc::clone(&shared), stop.clone());
        std::thread::Builder::new().name("alerts".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let started = runtime.map(|runtime| {
                say.send(Ok(())).unwrap_or_default();
                runtime.block_on(sender::run(sender, &theirs, stopping));
            });
            say.send(started).unwrap_or_default();
        })?;
        ended.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone)))?;
        let running = RunningSender { shared: Arc::clone(&shared), stop, ended, deadline: config.shutdown };
        Ok((Self(Some(shared)), AlertsGuard(Some(running))))
    }

    /// Notes a dead-lettered job.
    pub fn dead_letter(&self, alert: &DeadLetterAlert) {
        if let Some(shared) = &self.0 {
            let key = AlertKey::DeadLetter(alert.kind, alert.stage);
            shared.note(key, AlertSample::from_dead_letter(alert), 1);
        }
    }

    /// Notes one failure of an outage; to be called for every failure.
    pub fn report_outage(&self, what: OutageKind, detail: &str) {
        if let Some(shared) = &self.0 {
            shared.record_failure(what, detail);
        }
    }

    /// Notes the end of an outage; reported once, after the window of the outage's own event. Cheap if there
    /// is no outage.
    pub fn resolve_outage(&self, what: OutageKind) {
        if let Some(shared) = &self.0 {
            shared.record_recovery(what);
        }
    }

    /// Whether alerts are sent anywhere.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Whether Sentry accepted an event of the ongoing outage.
    pub fn reported(&self, what: OutageKind) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.reported(what))
    }

    /// Totals so far; all zero if alerts are off.
    pub fn counts(&self) -> AlertCounts {
        self.0.as_ref().map_or_else(AlertCounts::default, |shared| shared.counts())
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
        let _ = running.ended.recv_timeout(running.deadline);
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
        Some(Config { dsn, environment: "test".to_owned(), window, shutdown })
    }

    #[test]
    fn a_blank_dsn_is_off_and_costs_nothing() {
        for dsn in ["", "  ", "\\n"] {
            let section = format!("dsn = \"{dsn}\"\nenvironment = \"\"\nwindow = \"60s\"\nshutdown = \"1s\"");
            let (alerts, guard) = Alerts::start(&toml::from_str(&section).unwrap(), "r").unwrap();
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
            let Ok((alerts, _guard)) = Alerts::start(&config, "r") else { return Ok(()) };
            prop_assert_eq!(alerts.counts(), AlertCounts::default());
        }
    }
}
