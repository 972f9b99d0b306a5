//! Reports to Sentry what one worker reports for all: dead letters by group, storms, outages.
//!
//! A worker claims one event at a time from Redis, sends it, and removes it there once Sentry has accepted it. What an
//! event says is in `alert_words.rs`.
//!
//! Invariant: a claimed event is settled by the task that sends it, also where the loop around it is stopped; so an
//! event is sent twice only where its worker died, or lost Redis, after Sentry had accepted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::Shared;
use super::alert_words;
use crate::queue::{AlertClaim, AlertOutcome};
use crate::telemetry::sentry::{Alerts, Delivery};

/// How long a claim lasts: a request to Sentry takes 5 s at most.
const CLAIM_LEASE: Duration = Duration::from_secs(10);
/// Most events that are reported without a pause; there are fewer groups.
const ROUND_MAX: usize = 100;
/// How much rarer a worker asks that is not the looker and has buried nothing: the looker asks for all.
const ASKS_RARELY: u32 = 6;
/// The longest time that an event waits after Sentry has refused it, and the part of a window that it waits.
const RETRY_MAX: Duration = Duration::from_secs(60);
const RETRY_IN_WINDOW: u32 = 4;
/// The shortest time between two questions, however much is buried.
const ASKS_AFTER: Duration = Duration::from_secs(1);

/// Reports what is due, as long as the worker runs.
pub(super) async fn report_for_all(shared: Arc<Shared>) {
    if !shared.worker.alerts.is_enabled() {
        return std::future::pending().await;
    }
    let every = shared.worker.config.heartbeat;
    loop {
        let asked = Instant::now();
        let wait = report_due(Arc::clone(&shared), false).await;
        sleep(wait).await;
        let pause = if shared.looker.is_looker() { every } else { every * ASKS_RARELY };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.observer.something_to_report() => sleep_until(asked + ASKS_AFTER.min(every)).await,
        }
    }
}

/// Reports what is due; returns how long Sentry asks to be left alone. `leaving`: this worker has left the queue, and
/// where it was the last one everything is due.
pub(super) async fn report_due(shared: Arc<Shared>, leaving: bool) -> Duration {
    // A task of its own: it is not cancelled between Sentry's answer and the call that removes the event.
    let reporting = tokio::spawn(async move { shared.report_round(leaving).await });
    reporting.await.unwrap_or_default()
}

impl Shared {
    async fn report_round(&self, leaving: bool) -> Duration {
        let _one_at_a_time = self.reporting.lock().await;
        for _ in 0..ROUND_MAX {
            match self.report_one(leaving).await {
                Reported::Nothing => break,
                Reported::Accepted => {}
                Reported::Failed(wait) => return wait,
            }
        }
        Duration::ZERO
    }

    async fn report_one(&self, leaving: bool) -> Reported {
        let (queue, alerts) = (&self.worker.queue, &self.worker.alerts);
        let claim = AlertClaim { window: alerts.window(), lease: CLAIM_LEASE, leaving };
        let claimed = match queue.claim_alert(&self.worker.id, claim).await {
            Ok(claimed) => claimed,
            Err(e) => {
                debug!(error = %e, "no alert was claimed: asking again");
                return Reported::Nothing;
            }
        };
        alerts.set_queue_pending(claimed.pending);
        let Some(alert) = claimed.alert else { return Reported::Nothing };
        let delivery = alerts.deliver(alert_words::of(&alert, queue)).await;
        let retry_after = retry_after(delivery, alerts);
        // Repeated by the worker that claims it next, where this fails: Sentry takes one event of an id.
        let outcome = match delivery {
            Delivery::Accepted => AlertOutcome::Accepted,
            Delivery::Failed { .. } => AlertOutcome::Failed(retry_after),
        };
        let settled = queue.settle_alert(alert.event, outcome).await;
        if let Err(e) = settled {
            warn!(error = %e, event = %alert.event, "Redis was not told that an alert was sent: it may be sent again");
        }
        match delivery {
            Delivery::Accepted => Reported::Accepted,
            Delivery::Failed { retry_after } => Reported::Failed(retry_after),
        }
    }
}

enum Reported {
    Nothing,
    Accepted,
    Failed(Duration),
}

fn retry_after(delivery: Delivery, alerts: &Alerts) -> Duration {
    match delivery {
        Delivery::Accepted => Duration::ZERO,
        Delivery::Failed { retry_after } => {
            (alerts.window() / RETRY_IN_WINDOW).max(retry_after).min(RETRY_MAX)
        }
    }
}
