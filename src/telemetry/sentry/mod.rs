//! Alerts: one Sentry event per dead letter and per trouble, gated, scrubbed, and never in anybody's way.
//!
//! Callers only count under a short lock; a thread of its own sends. Nothing here blocks, fails or slows a job:
//! while Sentry hangs, refuses or limits, counts wait in the throttle, whose memory is bounded by its keys.
//!
//! Invariant: per fingerprint at most one event leaves in a window, and an event says how many occurrences it stands
//! for; what could not be told by the end is returned by [`AlertsGuard::close`], so no count is lost silently.
//!
//! # Why
//! The SDK is used for what it knows well, the DSN, the event and the envelope, and for nothing that acts on its own.
//! - Its transport does not tell what arrived, drops what a rate limit or a full channel refuses, and joins its thread
//!   at the end, however long Sentry hangs. DeliveryCounts must survive all three, so `deliver` sends the envelopes.
//! - Its `init` reads the environment (even whether to verify certificates), binds a hub that collects breadcrumbs,
//!   and installs a panic hook that would report a job's panic beside its dead letter. There is no `init` here, hence
//!   no hub, no breadcrumbs, no structured logs, no sessions, no traces, and nothing to scrub but our own text.
//! - Its option builder panics on a malformed DSN. The DSN is parsed here, blank is off, and no error repeats it.

mod event;
mod sender;
mod state;
mod throttle;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use ::sentry::types::Dsn;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::event::AlertSample;
pub use self::event::DeadLetterAlert;
pub use self::state::AlertCounts;
use self::state::{AlertKey, SharedAlerts};
use crate::job::duration;
use crate::job::text::innermost_cause;

/// What can be configured of the alerts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to send; blank is off. Holds a key: never shown.
    #[serde(serialize_with = "crate::job::redact::secret")]
    pub dsn: SecretString,
    /// The environment that events name.
    pub environment: String,
    /// Per fingerprint, at most one event leaves in this time.
    #[serde(with = "duration")]
    pub window: Duration,
    /// How long the end of the process may wait for what is not yet told.
    #[serde(with = "duration")]
    pub shutdown: Duration,
}

/// Why alerts cannot be started; never repeats the DSN.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The DSN is not one.
    #[error(
        "the Sentry DSN is not one ({0}): write https://<key>@<host>/<project>, or leave it blank for none"
    )]
    Dsn(#[from] ::sentry::types::ParseDsnError),
    /// No TLS, as a rule because the machine has no root certificates.
    #[error("no HTTP client for alerts: {}", innermost_cause(.0))]
    Client(#[from] reqwest::Error),
    /// No thread or no runtime to send from.
    #[error("no thread for alerts: {0}")]
    Thread(#[from] std::io::Error),
}

/// Something that all jobs need and that is down or full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum OutageKind {
    /// Redis does not answer.
    Redis,
    /// The db app's API does not answer, or refuses us.
    Api,
    /// Children cannot be started.
    Spawn,
    /// Somebody else kills our children: the kernel, for want of memory, as a rule.
    Killed,
    /// The dead letters near a cap, at which the oldest are forgotten.
    DeadLetters,
    /// The backlog is at its ceiling: nothing is let in.
    Backlog,
    /// A task that a worker cannot do without has ended: the worker leaves.
    Task,
}

impl OutageKind {
    const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The label, the same everywhere.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    fn failing_text(self) -> &'static str {
        match self {
            Self::Redis => "Redis is down",
            Self::Api => "the db app's API is down",
            Self::Spawn => "children cannot be started",
            Self::Killed => "children are killed from outside (is the container too small?)",
            Self::DeadLetters => "the dead letters near their cap",
            Self::Backlog => "the backlog is at its ceiling and nothing is let in",
            Self::Task => "a worker has lost one of its tasks and leaves",
        }
    }

    fn recovered_text(self) -> &'static str {
        match self {
            Self::Redis => "Redis answers",
            Self::Api => "the db app's API answers",
            Self::Spawn => "children can be started",
            Self::Killed => "children live to their end",
            Self::DeadLetters => "there is room for dead letters",
            Self::Backlog => "there is room in the backlog",
            Self::Task => "the worker has all its tasks",
        }
    }
}

/// Where alerts are noted. Cheap to clone; every clone shares one throttle.
#[derive(Debug, Clone)]
pub struct Alerts(Option<Arc<SharedAlerts>>);

impl Alerts {
    /// No alerts: everything noted is forgotten.
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the sender, or nothing where the DSN is blank. `release` is `name@version+build`.
    ///
    /// # Errors
    /// A malformed DSN (a configuration error), or no client or thread to send with.
    pub fn start(config: &Config, release: &str) -> Result<(Self, AlertsGuard), Error> {
        let dsn = config.dsn.expose_secret().trim();
        if dsn.is_empty() {
            return Ok((Self::off(), AlertsGuard(None)));
        }
        let dsn: Dsn = dsn.parse()?;
        let sender = sender::Sender::new(dsn, release, &config.environment)?;
        let shared = Arc::new(SharedAlerts::new(config.window));
        let stop = CancellationToken::new();
        // The thread speaks twice: when it can send, and when it has ended.
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

    /// Notes a buried job.
    pub fn dead_letter(&self, alert: &DeadLetterAlert) {
        if let Some(shared) = &self.0 {
            let key = AlertKey::DeadLetter(alert.kind, alert.stage);
            shared.note(key, AlertSample::from_dead_letter(alert), 1);
        }
    }

    /// Notes one failure of something that all jobs need; call it as often as it fails.
    pub fn report_outage(&self, what: OutageKind, detail: &str) {
        if let Some(shared) = &self.0 {
            shared.record_failure(what, detail);
        }
    }

    /// Notes that it works again; tells so once, after the window of the trouble's own event. Free while all is well.
    pub fn resolve_outage(&self, what: OutageKind) {
        if let Some(shared) = &self.0 {
            shared.record_recovery(what);
        }
    }

    /// Whether alerts go anywhere.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Whether Sentry took an event of the trouble that lasts now.
    pub fn reported(&self, what: OutageKind) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.reported(what))
    }

    /// What became of the alerts so far; all zero when alerts are off.
    pub fn counts(&self) -> AlertCounts {
        self.0.as_ref().map_or_else(AlertCounts::default, |shared| shared.counts())
    }
}

/// Ends the sender; dropping it is the same as [`AlertsGuard::close`].
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
    /// Tells what is not yet told, one event per fingerprint, and waits for that no longer than the configured
    /// deadline, whatever Sentry does. Blocks the caller: call it when no job is left.
    ///
    /// Returns the final counts; `pending` is what nobody was told.
    pub fn close(mut self) -> AlertCounts {
        self.shut_down()
    }

    fn shut_down(&mut self) -> AlertCounts {
        let Some(running) = self.0.take() else { return AlertCounts::default() };
        running.stop.cancel();
        // A sender that is late is left behind, not joined: it dies with the process.
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

    fn config(dsn: &str) -> Config {
        let (window, shutdown) = (Duration::from_secs(60), Duration::from_millis(50));
        Config { dsn: dsn.into(), environment: "test".to_owned(), window, shutdown }
    }

    #[test]
    fn a_blank_dsn_is_off_and_costs_nothing() {
        for dsn in ["", "  ", "\n"] {
            let (alerts, guard) = Alerts::start(&config(dsn), "r").unwrap();
            alerts.report_outage(OutageKind::Redis, "down");
            alerts.resolve_outage(OutageKind::Redis);
            assert_eq!((alerts.counts(), guard.close()), (AlertCounts::default(), AlertCounts::default()));
        }
    }

    #[test]
    fn a_malformed_dsn_is_an_error_that_does_not_repeat_it() {
        let dsns = [
            "hunter2",
            "https://hunter2@sentry.test",
            "https://sentry.test/1?hunter2",
            "ftp://hunter2@sentry.test/1",
            "https://hunter2@/1",
            "//hunter2@:99999/1",
            "https://hunter2@sentry.test:99999/1",
        ];
        for dsn in dsns {
            let error = Alerts::start(&config(dsn), "r").map(drop).expect_err(dsn);
            assert!(matches!(error, Error::Dsn(_)), "{dsn}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{dsn}: {error} {error:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_dsn_makes_it_panic(
            scheme in "(http|https|ftp)?", key in "[a-z%@:\\PC]{0,4}", host in r"(a\.test|\[::1\]|1\.1|ü|\PC{0,3})", rest in "[/0-9?#:\\PC]{0,6}",
        ) {
            let (alerts, _guard) = match Alerts::start(&config(&format!("{scheme}://{key}@{host}{rest}")), "r") {
                Ok(started) => started,
                Err(_) => return Ok(()),
            };
            prop_assert_eq!(alerts.counts(), AlertCounts::default());
        }
    }

    #[test]
    fn the_dsn_is_never_shown() {
        let config = config("https://hunter2@sentry.test/1");
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(shown.contains("REDACTED") && !shown.contains("hunter2"), "{shown}");
    }
}
